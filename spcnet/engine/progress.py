"""A progress bar with losses, speed and time left on a terminal, plain lines elsewhere; both fit into 80 columns."""

import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


@runtime_checkable
class Show(Protocol):
    """Reports the progress of a job."""

    def __call__(self, done: int, figures: dict[str, float], total: int = ..., /) -> None:
        """`done` of `total` steps are finished; `figures` is empty if they did not change."""


LINE_EVERY = 30.0
"""Seconds between two lines without a terminal."""
SPEED_OVER = 600.0
"""Window in seconds over which the speed for the remaining time is measured; steps may take minutes."""

FIGURES: dict[str, str] = {
    "rate": "rate {:.4g}",
    "images_per_second": "{:.1f} images/s",
    "data_wait": "{:.0f} % waiting for data",
    "memory": "{:.0f} MiB",
}
"""Format of each figure that is no loss."""


@contextmanager
def bar(console: Console, total: int, start: int, title: str) -> Iterator[Show]:
    """A callback for the number of finished steps and the latest figures; an empty dict keeps the last ones.

    The third argument of the callback sets the number of steps, if it is known only later.
    """
    with bars(console, [title], [total], start) as (show,):
        yield show


@contextmanager
def bars(console: Console, titles: Sequence[str], totals: Sequence[int], start: int = 0) -> Iterator[list[Show]]:
    """The same for several simultaneous jobs."""
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
    )
    with _Bars(*columns, console=console, expand=True, speed_estimate_period=SPEED_OVER) as progress:
        yield [_task(progress, total, start, title) for title, total in jobs]


class _Bars(Progress):
    """One bar for each job, and below them the figures of each."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if shown := _told(task.fields["figures"]):
                lines = _filled([f"{task.description}:", *shown] if len(self.tasks) > 1 else shown, self.console.width)
                yield Text("\n".join(lines))


def _task(progress: Progress, total: int, start: int, title: str) -> Show:
    task = progress.add_task(title, total=total, completed=start, figures={})

    def show(done: int, figures: dict[str, float], total: int = total) -> None:
        if figures:
            progress.update(task, completed=done, total=total, figures=figures)
        else:
            progress.update(task, completed=done, total=total)

    return show


def _lines(console: Console, total: int, start: int, title: str) -> Show:
    began = last = time.monotonic()

    def show(done: int, figures: dict[str, float], total: int = total) -> None:
        nonlocal last
        now = time.monotonic()
        if (figures and now - last >= LINE_EVERY) or done == total:
            last = now
            left = (now - began) / max(done - start, 1) * (total - done)
            head = f"{title} {done}/{total}, {now - began:.0f} s, {left:.0f} s left"
            console.print("\n".join(_filled([head, *_told(figures)], console.width)), markup=False)

    return show


def _told(figures: dict[str, float]) -> list[str]:
    """Each figure as text."""
    shown = {name: 100 * value if name == "data_wait" else value for name, value in figures.items()}
    return [FIGURES[name].format(value) if name in FIGURES else f"{name} {value:.3f}" for name, value in shown.items()]


def _filled(pieces: Sequence[str], width: int) -> list[str]:
    """Wrap pieces of text without breaking any of them; lines after the first are indented."""
    text = "  ".join(piece.replace(" ", "\N{NO-BREAK SPACE}") for piece in pieces)
    lines = textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
