"""Small pieces of HTML that pages are put together from, and the style and the script of a page.

Whatever comes from a run (names, settings, versions) passes through `escaped` on its way in. The style (`page.css`) needs
no script; the script (`page.js`) only adds to what is there without it.
"""

import base64
import hashlib
import html
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from spcnet.formatting import percent
from spcnet.reports import figures
from spcnet.reports.tables import format_points

STYLE = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
SCRIPT = files(__package__).joinpath("page.js").read_text(encoding="utf-8")


def policy() -> str:
    """What a page may do, as browsers enforce it: this script and no other, nothing from anywhere."""
    own = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{own}'"


def escaped(value: object) -> str:
    """Anything as text that is safe in HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def breakable(name: str) -> str:
    """A domain's or column's name with places where a narrow column may break it."""
    text = escaped(name)
    for mark in ("/", "_", "@"):
        text = text.replace(mark, f"{mark}<wbr>")
    return text.replace("+", "<wbr>+").replace("mean of ", "mean of<br>").replace("gap to ", "gap to<br>")


def difference(value: float | None, digits: int, *, css: str = "") -> str:
    """A difference of fractions in points, coloured by its sign."""
    text = format_points(value, digits=digits)
    color = "better" if text.startswith("+") else "worse" if text.startswith("−") else "even"
    return f'<span class="{css + " " if css else ""}{color}">{text}</span>'


def interval(ends: tuple[float, float] | None, digits: int = 1) -> str:
    """An interval of fractions in per cent, such as `52.1–54.9`; empty for none."""
    return f"{percent(ends[0], digits)}–{percent(ends[1], digits)}" if ends is not None else ""


def sortable(value: float | str | None) -> str:
    """What a column is sorted by, as an attribute; nothing is below everything."""
    text = "" if value is None else value if isinstance(value, str) else f"{value:.6f}"
    return f' data-value="{escaped(text)}"'


def plain(value: object, join: str = ", ") -> str:
    """A setting as text; empty for None."""
    if value is None:
        return ""
    return join.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def counted(num: int, noun: str) -> str:
    """A number of things: 1 image, 2 images."""
    return f"{num} {noun}{'' if num == 1 else 's'}"


def css_rgb(color: tuple[int, int, int]) -> str:
    """A colour, each channel 0..255, as CSS writes it."""
    return f"rgb({color[0]},{color[1]},{color[2]})"


def swatch(color: str) -> str:
    """A small square of a colour, for legends."""
    return f'<span class="swatch" style="background:{figures.css_color(color)}"></span>'


def scrolling(content: str, label: str) -> str:
    """What may be wider than a phone scrolls by itself, with the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(label)}">{content}</div>'


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, label: str, css: str = "", text: int = 1
) -> str:
    """A table that scrolls by itself.

    Args:
        heads: over each column, as HTML.
        rows: cells as HTML, the first of each being its heading.
        caption: what the table shows, as HTML.
        label: the same in few words.
        css: class of the table.
        text: so many columns from the left hold words, not figures.
    """
    top = "".join(f'<th scope="col"{_aligned(place < text)}>{head}</th>' for place, head in enumerate(heads))
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{_aligned(place < text)}>{cell}</td>" for place, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    return scrolling(
        f'<table class="{css or "plain"}"><caption><span>{caption}</span></caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>",
        label,
    )


def _aligned(words: bool) -> str:
    return ' class="text"' if words else ""


def figure(svg: str, *, css: str = "") -> str:
    """A drawing as a figure."""
    return f'<figure class="{css}">{svg}</figure>' if css else f"<figure>{svg}</figure>"


def definitions(entries: Iterable[tuple[str, str]]) -> str:
    """Terms with their values, as text; those without a value are left out."""
    shown = "".join(
        f"<div><dt>{escaped(words)}</dt><dd>{escaped(value)}</dd></div>" for words, value in entries if value
    )
    return f"<dl>{shown}</dl>"


def ranged(values: Sequence[float], say: Callable[[float], str]) -> str:
    """The smallest and the largest of the values above 0, or the one they share; empty where there is none."""
    known = sorted(value for value in values if np.isfinite(value) and value > 0)
    if not known:
        return ""
    low, high = say(known[0]), say(known[-1])
    return low if low == high else f"{low} to {high}"


def label_picture(
    labels: npt.NDArray[np.uint8],
    colors: Sequence[tuple[int, int, int]],
    alt: str,
    *,
    like: tuple[int, int],
    width: int = 384,
    attributes: str = "",
) -> str:
    """Labels in the shape of the image beside them, whose width and height need not be the labels' own.

    Args:
        labels: H×W class ids.
        colors: of each class.
        alt: the picture in words, as HTML.
        like: width and height of that image.
        width: the most pixels across.
        attributes: further ones, as HTML.
    """
    rows, columns = labels.shape
    return (
        f'<img class="map" src="{figures.labels_uri(labels, colors, width=width)}" alt="{alt}" width="{columns}" height="{rows}" '
        f'style="aspect-ratio: {like[0]} / {like[1]}" loading="lazy"{attributes}>'
    )
