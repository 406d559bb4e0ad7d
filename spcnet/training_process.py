"""Trainings as processes of their own: begun, asked to end, and what they said last."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from spcnet.errors import DataError
from spcnet.signals import handle_signals

PROGRAM = (sys.executable, "-m", "spcnet")
"""What each training is a process of."""
LOG_FILE = "log.txt"
"""In a run's folder: what its process said."""
STOPPED = 130
"""Exit code of a command that the user stopped, after it has saved."""


class TrainingProcess:
    """A training at work.

    Args:
        arguments: of the program `spcnet`.
        log: file that what it says is appended to.
        environment: what differs from this process's own.
        handles: open files that it holds as long as it lives.

    Raises:
        DataError: the log cannot be written, or the process not be started.
    """

    def __init__(
        self, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str], handles: Sequence[int] = ()
    ) -> None:
        self.log = log
        self.asked = False
        """Whether it was asked to end."""
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                self._said_from = file.tell()
                self._process = subprocess.Popen(
                    [*PROGRAM, *arguments],
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    pass_fds=handles,
                    start_new_session=True,  # a Ctrl-C on the terminal is handed on once, by `stopped_together`
                )
        except OSError as error:
            raise DataError(f"cannot start a training in {log.parent}: {error.strerror or error}") from error

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def code(self) -> int | None:
        """How it ended, as `subprocess` says it; None while it is at work."""
        return self._process.poll()

    def stop(self, *, again: bool = False) -> None:
        """Ask it to save and end; once, for a second time would end it while it saves.

        Args:
            again: the user asked for a second time, and means it.
        """
        if self._process.poll() is None and (again or not self.asked):
            self.asked = True
            self._process.terminate()

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

    def was_stopped(self) -> bool:
        """Whether it ended because it was asked to."""
        return self.code() in (STOPPED, -signal.SIGTERM)

    def last_words(self) -> str:
        """What went wrong, in the process's own words."""
        code = self.code()
        if code is not None and code < 0:
            return f"ended by signal {-code}"
        with self.log.open("rb") as file:
            file.seek(self._said_from)
            text = file.read().decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip()]
        told = [line.removeprefix("spcnet: ") for line in lines if line.startswith("spcnet: ")]
        return (told or lines or ["it said nothing"])[-1]


@contextmanager
def stopped_together(running: list[TrainingProcess]) -> Iterator[list[int]]:
    """Hand a Ctrl-C, and a request to end, on to every training; gives a list that is no longer empty after one.

    However the block is left, no training goes on behind the user's back.

    Args:
        running: the trainings that were started; grows while the block goes on.
    """
    received: list[int] = []

    def hand_on(number: int) -> None:
        received.append(number)
        for process in running:
            process.stop(again=True)

    with handle_signals(("SIGINT", "SIGTERM", "SIGHUP"), hand_on):
        try:
            yield received
        finally:
            for process in running:
                process.stop()
            for process in running:
                process.wait()
