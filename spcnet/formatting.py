"""Numbers as text, the same in tables, pages, pictures and messages."""

import math
from collections.abc import Iterable, Sequence

from rich.console import Console


def percent(fraction: float | None, digits: int = 1, unit: str = "") -> str:
    """A fraction 0..1 in per cent; an en dash for None and for what is not a number.

    >>> percent(0.5), percent(0.614, 0, " %"), percent(None)
    ('50.0', '61 %', '–')
    """
    return "–" if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.{digits}f}{unit}"


def whole_percent(fraction: float) -> str:
    """A fraction 0..1 in whole per cent, such as `61 %`, and `<1 %` for what is little but there."""
    return "<1 %" if 0 < fraction < 0.005 else percent(fraction, 0, " %")


def fine_percent(fraction: float) -> str:
    """A fraction 0..1 in per cent with one digit, two below one per cent, and `<0.01 %` for the least."""
    return "<0.01 %" if 0 < fraction < 0.0001 else percent(fraction, 2 if fraction < 0.01 else 1, " %")


def print_plain(console: Console, text: str, *, style: str | None = None) -> None:
    """Print a text as it is: without markup, without highlighted numbers, and without line breaks of the console's own."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table: a column of words, then of figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
