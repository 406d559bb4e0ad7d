"""Small pieces of HTML that pages are put together from, and the style and the script of a page.

Whatever comes from a run (names, settings, versions) passes through `escaped` on its way in. The style (`page.css`) needs
no script; the script (`page.js`) only adds to what is there without it.
"""

import base64
import hashlib
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from spcnet.formatting import percent
from spcnet.reports import figures
from spcnet.reports.tables import format_points

STYLE = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
SCRIPT = files(__package__).joinpath("page.js").read_text(encoding="utf-8")


def policy() -> str:
    """What a page may do, as browsers enforce it: this script and no other, nothing from anywhere."""
    script_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'"


class _Templates(jinja2.FileSystemLoader):
    """Template files; line breaks beside tags count for nothing, others are spaces."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        source, name, current = super().get_source(environment, f"{template}.html")
        beside_tags = re.sub(r"(?<=[>}])\s*\n\s*|\s*\n\s*(?=[<{])", "", source.strip())
        return re.sub(r"\s*\n\s*", " ", beside_tags), name, current


_ENVIRONMENT = jinja2.Environment(
    loader=_Templates(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
)


def render(template: str, *, filters: Mapping[str, Callable[..., Any]] = MappingProxyType({}), **values: Any) -> str:
    """A template of `reports/templates` with these values; text is escaped, `| safe` takes HTML."""
    environment = _ENVIRONMENT
    if filters:
        environment = _ENVIRONMENT.overlay()
        environment.filters = {**_ENVIRONMENT.filters, **filters}
    return environment.get_template(template).render(values)


def document(
    heading: str,
    sections: Iterable[tuple[str, str, str]],
    *,
    lead: str = "",
    cards: str = "",
    version: object = None,
    style: str = "",
    script: bool = False,
) -> str:
    """A whole page, one file that loads nothing.

    Args:
        heading: of the page, as text.
        sections: anchor, name as text, and body of each; those without a body are left out.
        lead: the outcome in a sentence or two, below the heading.
        cards: what stands before the sections.
        version: of the package that scored what is shown.
        style: besides `STYLE`.
        script: run `SCRIPT`, and no other.
    """
    return "<!DOCTYPE html>\n" + render(
        "document",
        heading=heading,
        sections=[entry for entry in sections if entry[2]],
        lead=lead,
        cards=cards,
        version=version,
        style=STYLE + style,
        policy=policy(),
        script=SCRIPT if script else "",
    )


def card(color: str, label: str, figure: str, *small: str) -> str:
    """A large figure of one network, as HTML, with its name and lines below it."""
    lines = "".join(f"<small>{line}</small>" for line in small)
    head = f'<div style="--series: {figures.css_color(color)}"><b>{escaped(label)}</b><span class="big">{figure}</span>'
    return f"{head}{lines}</div>"


def legend(entries: Iterable[str], label: str) -> str:
    """What colours and marks mean, each entry as HTML."""
    return f'<ul class="legend" aria-label="{label}">{"".join(f"<li>{entry}</li>" for entry in entries)}</ul>'


def escaped(value: object) -> str:
    """Anything as text that is safe in HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def breakable(name: str) -> str:
    """A domain's or column's name with places where a narrow column may break it."""
    text = escaped(name)
    for mark in ("/", "_", "@"):
        text = text.replace(mark, f"{mark}<wbr>")
    return text.replace("+", "<wbr>+").replace("mean of ", "mean of<br>").replace("gap to ", "gap to<br>")


def difference(value: float | None, *, css: str = "") -> str:
    """A difference of fractions in points, coloured by its sign."""
    text = format_points(value)
    color = "better" if text.startswith("+") else "worse" if text.startswith("−") else "even"
    return f'<span class="{css + " " if css else ""}{color}">{text}</span>'


def interval(ends: tuple[float, float] | None) -> str:
    """An interval of fractions in per cent, such as `52.1–54.9`; empty for none."""
    return f"{percent(ends[0])}–{percent(ends[1])}" if ends is not None else ""


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


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, label: str, text: int = 1) -> str:
    """A table that scrolls by itself. Heads, cells and caption are HTML; the first `text` columns hold words, the others figures."""
    return scrolling(render("table", heads=heads, rows=rows, caption=caption, text=text), label)


def figure(svg: str, *, css: str = "") -> str:
    """A drawing as a figure."""
    return f'<figure class="{css}">{svg}</figure>' if css else f"<figure>{svg}</figure>"


def definitions(entries: Iterable[tuple[str, str]]) -> str:
    """Terms with their values, as text; those without a value are left out."""
    shown = "".join(
        f"<div><dt>{escaped(words)}</dt><dd>{escaped(value)}</dd></div>" for words, value in entries if value
    )
    return f"<dl>{shown}</dl>"


def ranged(values: Iterable[float], say: Callable[[float], str]) -> str:
    """The smallest and the largest of the values above 0, or the one they share; empty where there is none."""
    known = sorted(value for value in values if np.isfinite(value) and value > 0)
    if not known:
        return ""
    low, high = say(known[0]), say(known[-1])
    return low if low == high else f"{low} to {high}"


def photo(picture: tuple[str, tuple[int, int]], alt: str, attributes: str = "") -> str:
    """What `figures.picture_uri` made of a photograph; `alt` is the picture in words, as HTML."""
    uri, (width, height) = picture
    return f'<img src="{uri}" alt="{alt}" width="{width}" height="{height}" loading="lazy"{attributes}>'


def label_picture(
    labels: npt.NDArray[np.uint8],
    colors: Sequence[tuple[int, int, int]],
    alt: str,
    *,
    like: tuple[int, int],
    width: int = 384,
    attributes: str = "",
) -> str:
    """Labels (H×W class ids) in the shape of the image beside them, whose width and height `like` need not be their own."""
    rows, columns = labels.shape
    return (
        f'<img class="map" src="{figures.labels_uri(labels, colors, width=width)}" alt="{alt}" width="{columns}" height="{rows}" '
        f'style="aspect-ratio: {like[0]} / {like[1]}" loading="lazy"{attributes}>'
    )
