"""Pictures of the inside of a network, drawn from its record alone.

A figure has two forms: in a page its ink is the page's, so that it is readable in light and dark; in a file of its own it
is black on white.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from spcnet.files import write_atomic
from spcnet.reports import figures
from spcnet.reports.inspection import Inspection, Layer, Point, Prototypes

By = Literal["class", "domain"]
BY: tuple[By, By] = ("class", "domain")
"""What pixels are coloured by."""


class Ink(NamedTuple):
    """The colours of letters, lesser letters, lines and the ground."""

    ink: str
    muted: str
    line: str
    card: str


PAPER = Ink("#000000", "#444444", "#b8bec5", "#ffffff")
PAGE = Ink(*figures.PAGE_INK)
"""Stand for the page's own, as in all figures of a page."""
_MARKERS = "^sDvPXph"
"""Of unseen domains; sources are circles."""
DOMAIN_COLORS = (*figures.STYLE_COLORS, "#8e6bd8", "#a47148", "#a4d13a", "#e4576e", "#2bb7b3")
"""Of domains, one after the other. There are more of them than of sources, and pixels have no marker besides."""


def settings(ink: Ink) -> Any:
    """What matplotlib draws with, for `matplotlib.rc_context`."""
    return {
        **figures.PAGE_SETTINGS,
        "text.color": ink.ink,
        "axes.titlecolor": ink.ink,
        "axes.labelcolor": ink.muted,
        "axes.edgecolor": ink.line,
        "grid.color": ink.line,
        "xtick.color": ink.line,
        "xtick.labelcolor": ink.muted,
        "ytick.color": ink.line,
        "ytick.labelcolor": ink.ink,
        "figure.facecolor": "none" if ink == PAGE else ink.card,
    }


def domain_mark(inspection: Inspection, domain: int) -> tuple[str, str]:
    """Colour and marker of a domain."""
    color = DOMAIN_COLORS[domain % len(DOMAIN_COLORS)]
    unseen = [d for d, one in enumerate(inspection.domains) if one.role == "unseen"]
    return color, _MARKERS[unseen.index(domain) % len(_MARKERS)] if domain in unseen else "o"


def known_color(inspection: Inspection, style: int) -> str | None:
    """Colour of a known style: that of the domain it is the style of, where that one was shown."""
    names = [domain.name for domain in inspection.domains]
    name = inspection.known[style]
    written = next((one for one in (name, name.partition("@")[0]) if one in names), None)
    return None if written is None else domain_mark(inspection, names.index(written))[0]


def class_color(inspection: Inspection, label: int) -> str:
    """Colour of a class, as matplotlib writes it."""
    return "#" + "".join(f"{channel:02x}" for channel in inspection.colors[label])


def _map(axes: Axes, title: str) -> None:
    """A frame without scales: the places on such a map have no unit."""
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(-1.09, 1.09)
    axes.set_ylim(-1.09, 1.09)
    axes.set_aspect("equal", adjustable="box")
    for spine in axes.spines.values():
        spine.set_visible(True)


def _dots(axes: Axes, points: NDArray[np.float64], color: str, *, size: float, alpha: float = 1.0) -> None:
    """Round dots as one path of lines without length, which takes a tenth of the room of so many markers."""
    if len(points):
        x, y = (np.stack([c, c + 1e-4, np.full(len(c), np.nan)], axis=1).ravel() for c in points.T)
        axes.plot(x, y, color=color, linewidth=size, solid_capstyle="round", alpha=alpha)


def _marks(axes: Axes, inspection: Inspection, places: NDArray[np.float64], ink: Ink) -> None:
    """A mark for each image; turn by turn, so that no domain hides the others."""
    for turn in range(5):
        for domain in range(len(inspection.domains)):
            color, marker = domain_mark(inspection, domain)
            x, y = places[inspection.of(domain)][turn::5].T
            axes.plot(x, y, marker, color=color, markersize=4.4, markeredgecolor=ink.ink, markeredgewidth=0.35)


def _stars(axes: Axes, inspection: Inspection, points: Sequence[Point], ink: Ink) -> None:
    """The known styles; numbered where no domain's colour says which is which."""
    for style, (x, y) in enumerate(points):
        color = known_color(inspection, style)
        axes.plot([x], [y], "*", markersize=15, color=color or ink.card, markeredgecolor=ink.ink, markeredgewidth=0.9)
        if color is None:
            axes.text(x, y, str(style + 1), ha="center", va="center_baseline", fontsize=6)


def draw_styles(axes: Axes, inspection: Inspection, layer: Layer, *, after: bool, ink: Ink) -> None:
    """The styles of all images, before or after the style layer, on the map that both share; the others are faint."""
    shown, others = (layer.after, layer.before) if after else (layer.before, layer.after)
    _map(axes, f"{layer.place}, {'after' if after else 'before'} projection" if layer.after else layer.place)
    _dots(axes, rows_array(others), ink.line, size=3.0)
    _marks(axes, inspection, rows_array(shown), ink)
    _stars(axes, inspection, layer.bases, ink)


def draw_weights(axes: Axes, inspection: Inspection, layer: Layer, *, ink: Ink) -> None:
    """λ of each image: on a line for two known styles, in a triangle for three, as shares of a column for more."""
    {2: _draw_line, 3: _draw_triangle}.get(len(inspection.known), _draw_shares)(axes, inspection, layer, ink)
    axes.set_title(f"λ at {layer.place}")


def _all_weights(inspection: Inspection) -> NDArray[np.float64]:
    """λ in % at all places: what is drawn on one scale, so that a place that tells no styles apart looks like that."""
    return 100 * np.concatenate([rows_array(layer.weights) for layer in inspection.layers if layer.weights])


def _draw_line(axes: Axes, inspection: Inspection, layer: Layer, ink: Ink) -> None:
    reach = min(50.0, max(0.5, 1.12 * float(np.abs(_all_weights(inspection)[:, 1] - 50).max())))
    weights = 100 * rows_array(layer.weights)[:, 1]
    axes.axvline(50, color=ink.line, linewidth=1)
    for row in range(len(inspection.domains)):
        of_domain = weights[inspection.of(row)]
        offsets = 0.5 * ((0.618034 * np.arange(len(of_domain))) % 1 - 0.5)
        _dots(axes, np.stack([of_domain, row + offsets], axis=1), domain_mark(inspection, row)[0], size=3.4, alpha=0.8)
        if len(of_domain):
            mean = float(of_domain.mean())
            axes.plot([mean, mean], [row - 0.36, row + 0.36], color=ink.ink, linewidth=1.8)
            axes.text(50 + reach * 1.02, row, f"{mean:.1f}", va="center", color=ink.muted, fontsize=8)
    axes.set_xlim(50 - reach, 50 + reach)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"λ of {inspection.known[1]} in %; the rest is {inspection.known[0]}'s")
    axes.set_yticks(range(len(inspection.domains)), [domain.name for domain in inspection.domains])
    axes.set_ylim(len(inspection.domains) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _draw_triangle(axes: Axes, inspection: Inspection, layer: Layer, ink: Ink) -> None:
    corners = np.array([[-0.866, -0.5], [0.866, -0.5], [0.0, 1.0]])
    # The smallest triangle about the middle that holds all images of all places.
    reach = min(1.0, max(0.005, 1.08 * float((1 - 3 * _all_weights(inspection) / 100).max())))
    places = ((rows_array(layer.weights) - 1 / 3) / reach + 1 / 3) @ corners
    axes.plot(*corners[[0, 1, 2, 0]].T, color=ink.line, linewidth=1)
    axes.plot([0], [0], marker="+", color=ink.muted, markersize=10)
    _marks(axes, inspection, places, ink)
    top = 100 * (1 / 3 + 2 / 3 * reach)
    for name, (x, y) in zip(inspection.known, corners, strict=True):
        above = y > 0
        place: Any = {"ha": "center", "va": "bottom" if above else "top"}
        axes.text(x, y + (0.05 if above else -0.05), f"{name}\nλ = {top:.1f} %", fontsize=8, **place)
    axes.set_xlim(-1.25, 1.25)
    axes.set_ylim(-0.85, 1.3)
    axes.set_aspect("equal")
    axes.axis("off")


def _draw_shares(axes: Axes, inspection: Inspection, layer: Layer, ink: Ink) -> None:
    """One column for each image, in each domain sorted by the style whose shares differ most."""
    weights, begin, middles = 100 * rows_array(layer.weights), 0, []
    for domain in range(len(inspection.domains)):
        of_domain = weights[inspection.of(domain)]
        if len(of_domain):
            of_domain = of_domain[of_domain[:, of_domain.std(axis=0).argmax()].argsort(kind="stable")]
        edges = np.arange(begin, begin + len(of_domain) + 1)
        middles.append(begin + len(of_domain) / 2)
        low = np.zeros(len(of_domain))
        for style in range(len(inspection.known)):
            color = figures.STYLE_COLORS[style % len(figures.STYLE_COLORS)]
            axes.stairs(low + of_domain[:, style], edges, baseline=low, fill=True, color=color)
            if domain == 0 and len(of_domain) and of_domain[0, style] >= 5:
                axes.text(
                    begin, of_domain[0, style] / 2 + low[0], f" {style + 1}", va="center", fontsize=7, color="black"
                )
            low = low + of_domain[:, style]
        begin += len(of_domain) + max(1, len(inspection.images) // 80)
    axes.set_xticks(
        middles, [domain.name for domain in inspection.domains], rotation=30, ha="right", rotation_mode="anchor"
    )
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelcolor=ink.ink)
    axes.set_xlim(0, begin)
    axes.set_ylim(0, 100)
    axes.set_ylabel("λ in %, numbered as the known styles")
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_pixels(axes: Axes, inspection: Inspection, *, by: By, ink: Ink) -> None:
    """Embeddings of pixels and the prototypes, coloured by class or by domain."""
    pixels = inspection.pixels
    places, labels, domains = rows_array(pixels.points), np.array(pixels.label), np.array(pixels.domain)
    _map(axes, f"pixels by {by}")
    groups = labels if by == "class" else domains
    # Turn by turn, so that no group hides the others.
    for turn in range(4):
        for group in np.unique(groups):
            color = class_color(inspection, int(group)) if by == "class" else domain_mark(inspection, int(group))[0]
            _dots(axes, places[groups == group][turn::4], color, size=2.6, alpha=0.85)
    num = len(inspection.known)
    for number, (x, y) in enumerate(pixels.prototypes):
        color = (
            class_color(inspection, number // num)
            if by == "class"
            else known_color(inspection, number % num) or ink.card
        )
        size = 6.5 if num < 4 else 4.5
        axes.plot([x], [y], "D", markersize=size, color=color, markeredgecolor=ink.ink, markeredgewidth=1.0, zorder=4)
    if by == "class":
        ground = {"boxstyle": "round,pad=0.12", "facecolor": ink.card, "edgecolor": "none", "alpha": 0.72}
        for k in np.unique(labels):
            of_class = places[labels == k]
            x, y = of_class[
                (
                    np.linalg.norm(of_class - np.median(of_class, axis=0), axis=1)
                    + _hidden(of_class, pixels.prototypes)
                ).argmin()
            ]
            axes.text(x, y, inspection.classes[k], ha="center", va="center", fontsize=7.5, bbox=ground, zorder=5)


def _hidden(places: NDArray[np.float64], prototypes: Sequence[Point]) -> NDArray[np.float64]:
    """1 for each place at which a word would lie on a prototype, 0 for the others."""
    away = np.abs(places[:, None] - rows_array(prototypes))
    return np.where(((away[..., 0] < 0.2) & (away[..., 1] < 0.08)).any(axis=1), 1.0, 0.0)


def draw_prototypes(axes: Axes, inspection: Inspection, prototypes: Prototypes, *, ink: Ink) -> None:
    """Cosines of all prototypes, class by class and in a class one known style after the other."""
    cosine, num = np.array(prototypes.cosine), len(inspection.known)
    low = float(min(0.0, cosine.min()))
    shown = axes.imshow(cosine, cmap="viridis", vmin=low, vmax=1.0, interpolation="none")
    if len(cosine) <= 16:
        for (row, column), value in np.ndenumerate(cosine):
            color = "black" if value > low + 0.62 * (1 - low) else "white"
            text = f"{value:.2f}".replace("-0.00", "0.00").replace("0.", ".").replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", fontsize=5.6, color=color)
    for edge in np.arange(1, len(inspection.classes)) * num - 0.5:
        axes.axhline(edge, color="white", linewidth=0.9)
        axes.axvline(edge, color="white", linewidth=0.9)
    middles = np.arange(len(inspection.classes)) * num + (num - 1) / 2
    axes.set_yticks(middles, inspection.classes)
    axes.set_xticks(middles, inspection.classes, rotation=90)
    axes.tick_params(length=0, labelsize=8, labelcolor=ink.ink)
    for spine in axes.spines.values():
        spine.set_visible(False)
    scale = axes.figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
    scale.outline.set_visible(False)
    scale.ax.tick_params(length=0, labelcolor=ink.muted)
    axes.set_title("cosine of prototypes")


def figures_of(inspection: Inspection, *, ink: Ink = PAPER) -> dict[str, Figure]:
    """The figures for files of their own by name: styles, weights, pixels and prototypes, as far as there are any."""
    with matplotlib.rc_context(settings(ink)):
        every = range(len(inspection.domains))
        columns = 2 if any(layer.after for layer in inspection.layers) else 1
        styles = _sheet(3.9 * columns, 4.0 * len(inspection.layers) + 0.6)
        for row, layer in enumerate(inspection.layers):
            for column in range(2 if layer.after else 1):
                axes = styles.add_subplot(len(inspection.layers), columns, row * columns + column + 1)
                draw_styles(axes, inspection, layer, after=column == 1, ink=ink)
        more = [_legend_mark("*", markersize=10, color="none", label="known style")]
        if columns == 2:
            faint: Any = {"markeredgecolor": ink.line, "markeredgewidth": matplotlib.rcParams["lines.markeredgewidth"]}
            label = "the same images in the other panel"
            more.append(_legend_mark("o", markersize=3, color=ink.line, label=label, **faint))
        _domain_legend(styles, inspection, every, *more)
        drawn = {"styles": styles}
        weighed = [layer for layer in inspection.layers if layer.weights]
        if weighed and len(inspection.known) > 1:
            triangle = len(inspection.known) == 3
            weights = _sheet(4.6 * len(weighed), weights_height(inspection) + 0.6 * triangle)
            for place, layer in enumerate(weighed):
                draw_weights(weights.add_subplot(1, len(weighed), place + 1), inspection, layer, ink=ink)
            if triangle:
                _domain_legend(weights, inspection, every)
            drawn["weights"] = weights
        if inspection.pixels.points:
            pixels = _sheet(8.6, 4.9)
            for place, by in enumerate(BY):
                draw_pixels(pixels.add_subplot(1, 2, place + 1), inspection, by=by, ink=ink)
            _domain_legend(pixels, inspection, sorted(set(inspection.pixels.domain)), marker="o")
            drawn["pixels"] = pixels
        if inspection.prototypes is not None:
            drawn["prototypes"] = prototypes_figure(inspection, inspection.prototypes, ink)
    return drawn


def _sheet(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09))


def weights_height(inspection: Inspection) -> float:
    """Of `draw_weights`, in inches."""
    return 0.26 * len(inspection.domains) + 0.9 if len(inspection.known) == 2 else 3.6


def prototypes_figure(inspection: Inspection, prototypes: Prototypes, ink: Ink) -> Figure:
    """`draw_prototypes` on a figure of its own, as large as there are prototypes."""
    side = min(5.6, 2.2 + 0.2 * len(prototypes.cosine))
    figure = _sheet(side, side * 0.95)
    draw_prototypes(figure.add_subplot(), inspection, prototypes, ink=ink)
    return figure


def _domain_legend(
    figure: Figure, inspection: Inspection, domains: Iterable[int], *more: Line2D, marker: str = ""
) -> None:
    """Which mark is which domain, all with one marker if given, and `more` marks."""
    marks = []
    for domain in domains:
        color, own = domain_mark(inspection, domain)
        name = f"{inspection.domains[domain].name} ({inspection.domains[domain].role})"
        marks.append(_legend_mark(marker or own, color=color, label=name))
    figure.legend(handles=[*marks, *more], loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def _legend_mark(marker: str, **options: Any) -> Line2D:
    edge: Any = {"markeredgecolor": matplotlib.rcParams["text.color"], "markeredgewidth": 0.4}
    return Line2D([], [], linestyle="none", marker=marker, **{**edge, **options})


def write_figures(inspection: Inspection, folder: Path) -> list[Path]:
    """Write `figures_of` as PNG and as SVG, black on white, and say which files there are now.

    Raises:
        DataError: one cannot be written.
    """
    written = []
    with matplotlib.rc_context(settings(PAPER)):
        for name, figure in figures_of(inspection).items():
            for kind in ("png", "svg"):
                metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
                path = folder / f"{name}.{kind}"
                write_atomic(path, partial(figure.savefig, format=kind, dpi=160, metadata=metadata))
                written.append(path)
    return written


def rows_array(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Rows of numbers as an array; of points where there are none."""
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 2)
