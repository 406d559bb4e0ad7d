"""Figures as SVG text to put into a page, and pictures as small data URIs.

The figures have no background, and their ink is a CSS variable of the page (`--ink`, `--muted`, `--line`,
`--baseline`, `--blue`), so that one figure is readable on a light page, on a dark one and on paper. No global state of matplotlib
is touched beyond the call.
"""

import base64
import colorsys
import hashlib
import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import matplotlib.colors
import matplotlib.ticker
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from spcnet.errors import DataError

BASELINE_COLOR = "#5f6368"
METHOD_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which the colour-blind can tell apart; the baseline is grey."""
STYLE_COLORS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00")
"""The same colours in another order, so that a source style is not taken for a method."""
METHOD_DASHES = ("-", "--", "-.", ":")

# Colours that stand for a variable of the page until the SVG is written; used for nothing else.
_INK, _MUTED, _LINE, _CARD = "#010203", "#040506", "#070809", "#0a0b0c"
PAGE_INK = (_INK, _MUTED, _LINE, _CARD)
"""Letters, lesser letters, lines and ground, for figures that others draw for `page_svg`."""
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _CARD: "var(--card)",
    BASELINE_COLOR: "var(--baseline)",
    "#0072b2": "var(--blue)",
}
PAGE_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "spcnet",
    "font.size": 9.0,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _LINE,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _LINE,
    "ytick.labelcolor": _MUTED,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
"""Of matplotlib, also for figures that others draw for `page_svg`."""


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    x: Sequence[float]
    y: Sequence[float]
    """NaN leaves a gap."""
    color: str
    dash: str = "-"


@dataclass(frozen=True)
class Bars:
    """One series of bars: a value for each category."""

    values: Sequence[float | None]
    """None leaves the place empty."""
    color: str
    errors: Sequence[float | None] | None = None
    """Length of the whisker to either side."""


def group_colors(num_groups: int, baseline: int | None) -> tuple[str, ...]:
    """A colour for each of several methods, the one at place `baseline` in grey."""
    colors = []
    for place in range(num_groups):
        if place == baseline:
            colors.append(BASELINE_COLOR)
            continue
        turn, color = divmod(len([c for c in colors if c != BASELINE_COLOR]), len(METHOD_COLORS))
        hue, lightness, saturation = colorsys.rgb_to_hls(*matplotlib.colors.to_rgb(METHOD_COLORS[color]))
        # Beyond six methods the colours come again, darker: the dashes and the legend tell the rest.
        colors.append(matplotlib.colors.to_hex(colorsys.hls_to_rgb(hue, lightness * 0.65**turn, saturation)))
    return tuple(colors)


def smooth(values: Sequence[float] | npt.NDArray[np.float64], *, window: int) -> npt.NDArray[np.float64]:
    """Centred running mean over about `window` values; shorter at the ends. NaN counts nowhere and stays NaN."""
    series = np.asarray(values, dtype=np.float64)
    known = np.isfinite(series)
    half = max(window // 2, 0)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, series, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    places = np.arange(len(series))
    reach = np.minimum(half, np.minimum(places, len(series) - 1 - places))  # as far to the left as to the right
    low, high = places - reach, places + reach + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (total[high] - total[low]) / (count[high] - count[low])
    return np.where(known, mean, np.nan)


def curves_svg(title: str, curves: Sequence[Curve], *, label: str, percent: bool = False, smoothed: bool = True) -> str:
    """Lines over iterations; `label` says them in words. With `smoothed`, noisy values are drawn faint and their running mean over them."""
    with _plot((4.3, 2.5), grid="y") as (figure, axes):
        drawn: list[npt.NDArray[np.float64]] = []
        for curve in curves:
            y = np.asarray(curve.y, dtype=np.float64) * (100 if percent else 1)
            y[~np.isfinite(y)] = np.nan
            if smoothed and len(y) >= 10:
                thin = slice(None, None, max(1, len(y) // 600))  # more points than pixels only weigh
                axes.plot(curve.x[thin], y[thin], color=curve.color, linewidth=0.7, alpha=0.25)
                y = smooth(y, window=max(3, len(y) // 20))
            marker = "o" if not smoothed or len(y) == 1 else ""
            thin = slice(None, None, max(1, len(y) // 400))
            look: Any = {"color": curve.color, "linestyle": curve.dash, "linewidth": 1.5}
            axes.plot(curve.x[thin], y[thin], marker=marker, markersize=3.5, **look)
            drawn.append(y[np.isfinite(y)])
        together = np.concatenate(drawn) if drawn else np.empty(0)
        if smoothed and len(together) > 0:
            # A spike at the start must not press the rest flat.
            low, high = float(together.min()), float(np.percentile(together, 99.5))
            margin = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
            axes.set_ylim(low - margin, high + margin)
        axes.set_title(title)
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(_thousands))
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        return page_svg(figure, label=label)


def bars_svg(categories: Sequence[str], series: Sequence[Bars], *, label: str) -> str:
    """Horizontal bars, one group for each category from top to bottom, in per cent."""
    thick = 0.8 / max(len(series), 1)
    # No wider than a phone, on which its letters are as large as they are here.
    with _plot((4.6, len(categories) * (0.13 * len(series) + 0.14) + 0.5), grid="x") as (figure, axes):
        places = np.arange(len(categories))
        for number, bars in enumerate(series):
            values = np.array([math.nan if v is None else 100 * v for v in bars.values])
            errors = np.array([0.0 if e is None else 100 * e for e in bars.errors or [None] * len(values)])
            offsets = places - 0.4 + thick * (number + 0.5)
            axes.barh(offsets, np.nan_to_num(values), height=thick * 0.86, color=bars.color)
            for y, value, error in zip(offsets, values, errors, strict=True):
                if math.isnan(value):
                    axes.text(0.6, y, "no pixels", va="center", fontsize=6.5, color=_MUTED)
                    continue
                if error > 0:
                    axes.plot([max(value - error, 0), min(value + error, 100)], [y, y], color=_INK, linewidth=0.9)
                if len(series) <= 4:
                    axes.text(min(value + error, 100) + 0.7, y, f"{value:.1f}", va="center", fontsize=6.5, color=_MUTED)
        axes.set_yticks(places, categories)
        axes.set_ylim(len(categories) - 0.45, -0.55)
        longest = max((100 * v for bars in series for v in bars.values if v is not None), default=100.0)
        end = min(100, 20 * math.ceil((longest + 4) / 20))
        axes.set_xlim(0, end + 5)  # room for the figure behind a full bar
        axes.set_xticks(range(0, end + 1, 20))
        axes.set_xlabel("IoU in %")
        _name_rows(axes)
        return page_svg(figure, label=label)


def shares_svg(title: str, categories: Sequence[str], fractions: Sequence[Sequence[float]], *, label: str) -> str:
    """Stacked horizontal bars: for each category how a whole is shared out, in `STYLE_COLORS`."""
    with _plot((4.3, 0.24 * len(categories) + 0.75)) as (figure, axes):
        table = np.array(fractions, dtype=np.float64).reshape(len(categories), -1)
        left = np.zeros(len(categories))
        for source in range(table.shape[1]):
            width = 100 * table[:, source]
            color = STYLE_COLORS[source % len(STYLE_COLORS)]
            axes.barh(range(len(categories)), width, left=left, height=0.76, color=color)
            for place, (start, fraction) in enumerate(zip(left, width, strict=True)):
                if fraction >= 12:
                    middle: Any = {"va": "center", "ha": "center", "fontsize": 7.5, "color": "black"}
                    axes.text(start + fraction / 2, place, f"{fraction:.0f}", **middle)
            left += width
        axes.set_title(title)
        axes.set_yticks(range(len(categories)), categories)
        axes.set_ylim(len(categories) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("fraction in %")
        _name_rows(axes)
        return page_svg(figure, label=label)


@contextmanager
def _plot(size: tuple[float, float], *, grid: Literal["x", "y"] | None = None) -> Iterator[tuple[Figure, Axes]]:
    """A figure of so many inches with one plot, and matplotlib's settings for a page while it is drawn."""
    with matplotlib.rc_context(PAGE_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        if grid:
            axes.grid(visible=True, axis=grid)
        axes.tick_params(length=0)
        yield figure, axes


def _name_rows(axes: Axes) -> None:
    axes.tick_params(axis="y", labelcolor=_INK)
    axes.spines["left"].set_visible(False)


def confusion_svg(title: str, classes: Sequence[str], confusion: npt.NDArray[np.int64], *, label: str) -> str:
    """K×K fractions of each true class (row) that were taken for each class (column); a class without pixels is blank.

    Written by hand: matplotlib takes a second for the many labels, and a report may hold dozens of these.
    """
    fraction = np.nan_to_num(row_shares(confusion))
    num, cell = len(classes), 22
    margin = 14 + round(6.2 * max(map(len, classes)))  # room for the longest name
    left, top = margin + 16, 24
    size = num * cell
    width, height = left + size + 4, top + size + margin + 18
    parts = [
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}" '
        'xmlns="http://www.w3.org/2000/svg" style="font: 11px var(--font); fill: var(--muted)">',
        f'<text x="{left}" y="14" style="font-weight: bold; fill: var(--ink)">{html.escape(title)}</text>',
        f'<rect x="{left}" y="{top}" width="{size}" height="{size}" style="fill: none; stroke: var(--line)"/>',
    ]
    for row, column in zip(*np.nonzero(fraction >= 0.005), strict=True):
        value = float(fraction[row, column])
        # The root lets a confusion of a few per cent be seen beside a diagonal of ninety.
        parts.append(
            f'<rect x="{left + column * cell}" y="{top + row * cell}" width="{cell}" height="{cell}" '
            f'style="fill: var(--blue)" fill-opacity="{value**0.6:.2f}"><title>{html.escape(classes[row])} taken for '
            f"{html.escape(classes[column])}: {100 * value:.1f} %</title></rect>"
        )
        if num <= 10:
            parts.append(
                f'<text x="{left + (column + 0.5) * cell}" y="{top + row * cell + 15}" text-anchor="middle" '
                f'style="fill: var(--ink); font-size: 9px; pointer-events: none">{100 * value:.0f}</text>'
            )
    for place, name in enumerate(map(html.escape, classes)):
        middle = (place + 0.5) * cell
        parts.append(f'<text x="{left - 6}" y="{top + middle + 4}" text-anchor="end">{name}</text>')
        x, y = left + middle + 4, top + size + 6
        parts.append(f'<text x="{x}" y="{y}" text-anchor="end" transform="rotate(-90 {x} {y})">{name}</text>')
    parts.append(f'<text x="{left + size / 2}" y="{height - 4}" text-anchor="middle">predicted</text>')
    middle = top + size / 2
    parts.append(
        f'<text x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">true</text></svg>'
    )
    return "".join(parts)


def row_shares(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Each row (true class) divided by its sum; NaN in a row without pixels."""
    total = confusion.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        fractions: npt.NDArray[np.float64] = np.where(total > 0, confusion / total, np.nan)
    return fractions


def picture_uri(path: Path, *, width: int = 384) -> tuple[str, tuple[int, int]]:
    """A photograph as a small JPEG, and its size (width, height).

    Raises:
        DataError: the file is no picture that can be read.
    """
    with _open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    return _uri(small, "JPEG", quality=85, optimize=True), small.size


def labels_uri(labels: npt.NDArray[np.uint8], colors: Sequence[tuple[int, int, int]], *, width: int = 384) -> str:
    """A class map (H×W; 255 is black) in the colours of its classes, as a small PNG."""
    image = Image.fromarray(labels, mode="P")
    all_colors = [*colors, *[(0, 0, 0)] * (256 - len(colors))]
    image.putpalette([channel for color in all_colors for channel in color])
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.NEAREST)
    return _uri(image, "PNG", optimize=True)


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """The class ids (H×W) of a palette or grey PNG.

    Raises:
        DataError: the file cannot be read or is a colour picture.
    """
    with _open(path) as image:
        if image.mode not in ("P", "L"):
            raise DataError(
                f"{path} is a picture of mode {image.mode}: a panel's labels are a palette PNG of class ids"
            )
        return np.asarray(image, dtype=np.uint8)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the picture {path}: delete the panels of this run or restore them") from error
    return image


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def page_svg(figure: Figure, *, label: str) -> str:
    """The figure as an SVG element for a page: its own ids, ink from the page's variables, no fixed size."""
    out = io.StringIO()
    no_metadata: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=no_metadata)
    text = out.getvalue()
    box = re.search(r'viewBox="[^"]+"', text)
    assert box is not None, "matplotlib writes a viewBox"
    body = text[text.index("</defs>") + len("</defs>") : text.rindex("</svg>")]
    # Two decimals do for a place in a drawing; what is written in it stays.
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", body)
    body = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", body)
    # Figures share a page: an id that nothing refers to goes, the others become the figure's own.
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', body))
    known = {one or other for one, other in used}
    digest = hashlib.sha256((label + body).encode()).hexdigest()[:8]
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{digest}-{m[1]}"' if m[1] in known else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{digest}-", body)
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" {box[0]} xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" stroke-linejoin="round">{body}</svg>'
    )


def css_color(color: str) -> str:
    """A colour as the page writes it: the baseline's is one of the page's variables."""
    return _VARIABLES.get(color, color)
