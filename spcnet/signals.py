"""Ctrl-C and requests to end: what a run, its data workers and a program around several runs do about them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SAME_REQUEST = 2.0
"""Seconds within which several requests to end are one: a launcher and the system often send one each."""


@contextmanager
def handle_signals(names: tuple[str, ...], handler: Callable[[int], None]) -> Iterator[None]:
    """Call a function for each of these signals while the block runs, then restore what was there.

    Outside the main thread, which alone receives signals, it does nothing; nor for a signal that the system lacks.
    """
    before: dict[int, Any] = {}
    try:
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            before[number] = signal.signal(number, lambda received, frame: handler(received))
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def stop_on_signal(at_once: Callable[[], Exception | None]) -> Iterator[list[int]]:
    """A list that is no longer empty once the user pressed Ctrl-C or the system sent a request to end.

    A training step under way is finished first, so that what is saved is a whole state; a second Ctrl-C ends at once,
    and so does a second request to end, unless it comes within `SAME_REQUEST` of the first.

    Args:
        at_once: what a request raises where it comes; None where it is only noted.

    Raises:
        KeyboardInterrupt: at the second request.
    """
    received: list[int] = []
    first = 0.0

    def note(number: int) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(number)
            if (error := at_once()) is not None:
                raise error
        elif number == signal.SIGINT or time.monotonic() - first > SAME_REQUEST:
            raise KeyboardInterrupt

    with handle_signals(("SIGINT", "SIGTERM"), note):
        yield received


def terminate_as_interrupt() -> Any:
    """A context in which a request to end (SIGTERM) raises KeyboardInterrupt, so that nothing is left behind."""

    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    return handle_signals(("SIGTERM",), interrupt)


def leave_interrupt_to_parent() -> None:
    """Ctrl-C reaches every process of a terminal; this one lets its parent end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, a scheduler's SIGTERM every one of a job; the parent ends its workers.

    Of SIGTERM only the first seconds' are ignored: the parent may send one to a worker that hangs.
    """
    first: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        first.append(time.monotonic())
        if first[-1] - first[0] > SAME_REQUEST:
            os._exit(0)

    leave_interrupt_to_parent()
    signal.signal(signal.SIGTERM, note)
