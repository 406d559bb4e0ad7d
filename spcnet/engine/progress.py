"""A progress bar with losses and time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@runtime_checkable
class Show(Protocol):
    """Tells how far a job is."""

    def __call__(self, done: int, losses: dict[str, float], total: int = ..., /) -> None:
        """`done` of `total` steps are finished; `losses` is empty where there is nothing new to say."""


LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal to draw on."""


@contextmanager
def bar(console: Console, total: int, start: int, title: str) -> Iterator[Show]:
    """A function to call with the number of finished steps and the latest losses; an empty dict keeps the last ones.

    Where the number of steps is known only later, it is the function's third argument.
    """
    with bars(console, [title], [total], start) as (show,):
        yield show


@contextmanager
def bars(console: Console, titles: Sequence[str], totals: Sequence[int], start: int = 0) -> Iterator[list[Show]]:
    """The same for several jobs that go on at the same time."""
    jobs = list(zip(titles, totals, strict=True))
    if not console.is_terminal:
        yield [_lines(console, total, start, title) for title, total in jobs]
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield [_task(progress, total, start, title) for title, total in jobs]


def _task(progress: Progress, total: int, start: int, title: str) -> Show:
    task = progress.add_task(title, total=total, completed=start, losses="")

    def show(done: int, losses: dict[str, float], total: int = total) -> None:
        if losses:
            progress.update(task, completed=done, total=total, losses=_text(losses))
        else:
            progress.update(task, completed=done, total=total)

    return show


def _lines(console: Console, total: int, start: int, title: str) -> Show:
    began = last = time.monotonic()

    def show(done: int, losses: dict[str, float], total: int = total) -> None:
        nonlocal last
        now = time.monotonic()
        if (losses and now - last >= LINE_EVERY) or done == total:
            last = now
            left = (now - began) / max(done - start, 1) * (total - done)
            console.print(f"{title} {done}/{total}, {now - began:.0f} s, {left:.0f} s left  {_text(losses)}")

    return show


def _text(losses: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in losses.items())
