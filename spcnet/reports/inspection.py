"""The inside of a network: what was seen of it, as plain values in a file, and pictures of them.

Everything is drawn from the record alone. A figure has two forms: in a page its ink is the page's, so that it is
readable in light and dark; in a file of its own it is black on white.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
import rich.table
import rich.text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD

from spcnet.errors import DataError
from spcnet.files import write_text, write_whole
from spcnet.reports import figures, html

FOLDER = "inspection"
"""Folder in a run's folder."""
RECORD_FILE = "inspection.json"
PICTURES = "pictures"
"""Folder, in that one, of the pictures of `Inspection.pairs`."""
FORMAT = 1
"""Raised when what is in the record changes its meaning."""

Point = tuple[float, float]
By = Literal["class", "domain"]
_BY: tuple[By, By] = ("class", "domain")
"""What pixels are coloured by."""


@dataclass(frozen=True)
class Domain:
    """A domain whose images were shown."""

    name: str
    role: Literal["source", "unseen"]


@dataclass(frozen=True)
class Seen:
    """An image that was shown."""

    domain: int
    """Place of its domain in `Inspection.domains`."""
    name: str


@dataclass(frozen=True)
class Layer:
    """Styles at one place of the network. N images, M known styles."""

    place: str
    mode: str | None
    """What the style layer there does; None where the network has none, and the known styles are the sources' means."""
    before: tuple[Point, ...]
    """Place of each image's style on the map as it comes in."""
    after: tuple[Point, ...]
    """The same as it leaves the style layer; empty where there is none."""
    bases: tuple[Point, ...]
    """Place of each known style on the same map."""
    distance: tuple[tuple[float, ...], ...]
    """N×M: from each image's style to each known one."""
    weights: tuple[tuple[float, ...], ...]
    """N×M, λ; empty where no known styles are weighed."""
    gap_before: float
    """Squared Wasserstein distance per channel between the mean styles of two domains, mean over their pairs."""
    gap_after: float
    """NaN without a style layer."""
    told_before: float
    """Share of the images whose nearest other image by style is of their own domain."""
    told_after: float


@dataclass(frozen=True)
class PixelMap:
    """Embeddings of some pixels. P pixels, K×M prototypes."""

    kind: Literal["embedding", "feature"]
    """What was laid out: the embeddings that the prototypes are compared with, or the decoder's features."""
    points: tuple[Point, ...]
    label: tuple[int, ...]
    domain: tuple[int, ...]
    prototypes: tuple[Point, ...]
    """Class by class, in a class one known style after the other; empty where the network has none."""
    matched: tuple[float, ...]
    """Of each domain the share of pixels whose most similar pixel of another, source domain is of their class; mean over the classes."""


@dataclass(frozen=True)
class Prototypes:
    """How alike the prototypes are; in the order of `PixelMap.prototypes`."""

    cosine: tuple[tuple[float, ...], ...]
    """KM×KM."""
    within: float
    """Mean over pairs of one class and two domains; NaN with a single domain."""
    between: float
    """Mean over pairs of two classes."""
    alike: tuple[tuple[str, str, float], ...]
    """The classes that are most alike: both names, and the mean cosine over their prototypes."""


@dataclass(frozen=True)
class Pair:
    """An unseen picture, and the picture of a source whose style at the first place is nearest."""

    image: int
    """Place of the unseen one in `Inspection.images`."""
    nearest: int
    distance: float
    """Squared Wasserstein distance per channel."""
    pictures: tuple[str, str]
    """Names of the two files."""


@dataclass(frozen=True)
class Inspection:
    """What was seen inside a network."""

    run: str
    method: str
    backbone: str
    iteration: int
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    known: tuple[str, ...]
    """Names of the M known styles."""
    domains: tuple[Domain, ...]
    images: tuple[Seen, ...]
    layers: tuple[Layer, ...]
    pixels: PixelMap
    prototypes: Prototypes | None
    pairs: tuple[Pair, ...]
    seed: int
    environment: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    """Where it was read from; the pictures lie below."""

    def __post_init__(self) -> None:
        num, known, classes = len(self.images), len(self.known), len(self.classes)
        pixels = len(self.pixels.points)
        counts: list[tuple[str, int, tuple[int, ...]]] = [
            ("colors", len(self.colors), (classes,)),
            ("pixels.label", len(self.pixels.label), (pixels,)),
            ("pixels.domain", len(self.pixels.domain), (pixels,)),
            ("pixels.prototypes", len(self.pixels.prototypes), (0, classes * known)),
            ("pixels.matched", len(self.pixels.matched), (len(self.domains),)),
        ]
        for layer in self.layers:
            where = f"layers, {layer.place}: "
            counts += [
                (f"{where}before", len(layer.before), (num,)),
                (f"{where}after", len(layer.after), (0, num)),
                (f"{where}bases", len(layer.bases), (known,)),
                (f"{where}distance", len(layer.distance), (num,)),
                (f"{where}weights", len(layer.weights), (0, num)),
            ]
            counts += [(f"{where}distance", len(row), (known,)) for row in layer.distance]
            counts += [(f"{where}weights", len(row), (known,)) for row in layer.weights]
        if self.prototypes is not None:
            counts += [
                ("prototypes", len(row), (classes * known,))
                for row in (self.prototypes.cosine, *self.prototypes.cosine)
            ]
        for what, found, right in counts:
            if found not in right:
                raise DataError(f"{what} has {found} entries; it must have {right[-1]}")
        places = [
            ("images", [seen.domain for seen in self.images], len(self.domains)),
            ("pixels.domain", self.pixels.domain, len(self.domains)),
            ("pixels.label", self.pixels.label, classes),
            ("pairs", [place for pair in self.pairs for place in (pair.image, pair.nearest)], num),
        ]
        for what, numbers, end in places:
            if any(not 0 <= number < end for number in numbers):
                raise DataError(f"{what} has a number outside 0..{end - 1}")

    def of(self, domain: int) -> list[int]:
        """Places of a domain's images in `images`."""
        return [i for i, seen in enumerate(self.images) if seen.domain == domain]

    @property
    def missing(self) -> tuple[str, ...]:
        """What this network does not have, in a sentence each."""
        told = []
        if all(layer.mode is None for layer in self.layers):
            told.append(
                f"{self.method} has no style layers: there is no style after projection and no λ, and the known styles are "
                "the mean styles of the sources' images."
            )
        elif not any(layer.weights for layer in self.layers):
            told.append(f"The style layers of {self.method} weigh no known styles: there is no λ.")
        if self.prototypes is None:
            told.append(
                f"{self.method} has no prototypes: the pixels are shown by the decoder's features, before the classifier."
            )
        return tuple(told)


# --- The record ------------------------------------------------------------------------------------------------------


def write_inspection(found: Inspection, folder: Path) -> None:
    """Write the record into a folder.

    Raises:
        DataError: it cannot be written.
    """
    values = {"format": FORMAT, **_plain(dataclasses.asdict(found))}
    del values["folder"]
    write_text(folder / RECORD_FILE, json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_inspection(folder: Path) -> Inspection | None:
    """The record of a run, from the run's folder or from the folder of the record; None where there is none.

    Raises:
        DataError: it cannot be read, or is not what it should be.
    """
    place = next((one for one in (folder / FOLDER, folder) if (one / RECORD_FILE).is_file()), None)
    if place is None:
        return None
    path = place / RECORD_FILE
    remedy = "Make it anew with spcnet inspect, or delete it"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"cannot read {path}: {_one_line(error)}. {remedy}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise DataError(f"{path} is no record of the format {FORMAT} (found: {found}). {remedy}")
    try:
        return _read(values, place)
    except DataError as error:
        raise DataError(f"{path}: {error}. {remedy}") from error
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not whole ({type(error).__name__}: {_one_line(error)}). {remedy}") from error


def _read(values: Mapping[str, Any], folder: Path) -> Inspection:
    pixels, prototypes = values["pixels"], values["prototypes"]
    return Inspection(
        run=str(values["run"]),
        method=str(values["method"]),
        backbone=str(values["backbone"]),
        iteration=int(values["iteration"]),
        classes=tuple(map(str, values["classes"])),
        colors=tuple((int(r), int(g), int(b)) for r, g, b in values["colors"]),
        known=tuple(map(str, values["known"])),
        domains=tuple(Domain(str(one["name"]), _role(one["role"])) for one in values["domains"]),
        images=tuple(Seen(int(one["domain"]), str(one["name"])) for one in values["images"]),
        layers=tuple(
            Layer(
                place=str(one["place"]),
                mode=None if one["mode"] is None else str(one["mode"]),
                before=_read_points(one["before"]),
                after=_read_points(one["after"]),
                bases=_read_points(one["bases"]),
                distance=_read_table(one["distance"]),
                weights=_read_table(one["weights"]),
                gap_before=_number(one["gap_before"]),
                gap_after=_number(one["gap_after"]),
                told_before=_number(one["told_before"]),
                told_after=_number(one["told_after"]),
            )
            for one in values["layers"]
        ),
        pixels=PixelMap(
            kind="embedding" if pixels["kind"] == "embedding" else "feature",
            points=_read_points(pixels["points"]),
            label=tuple(map(int, pixels["label"])),
            domain=tuple(map(int, pixels["domain"])),
            prototypes=_read_points(pixels["prototypes"]),
            matched=tuple(map(_number, pixels["matched"])),
        ),
        prototypes=None
        if prototypes is None
        else Prototypes(
            cosine=_read_table(prototypes["cosine"]),
            within=_number(prototypes["within"]),
            between=_number(prototypes["between"]),
            alike=tuple((str(one), str(other), _number(cosine)) for one, other, cosine in prototypes["alike"]),
        ),
        pairs=tuple(
            Pair(
                int(one["image"]),
                int(one["nearest"]),
                _number(one["distance"]),
                # Names, not paths: a record must not have files from elsewhere shown.
                (Path(one["pictures"][0]).name, Path(one["pictures"][1]).name),
            )
            for one in values["pairs"]
        ),
        seed=int(values["seed"]),
        environment=dict(values["environment"]),
        folder=folder,
    )


def _role(value: Any) -> Literal["source", "unseen"]:
    if value not in ("source", "unseen"):
        raise DataError(f"a domain's role is {value!r}; it must be source or unseen")
    return "source" if value == "source" else "unseen"


def _read_points(rows: Any) -> tuple[Point, ...]:
    return tuple((float(x), float(y)) for x, y in rows)


def _read_table(rows: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(_number(value) for value in row) for row in rows)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render_terminal(inspections: Sequence[Inspection]) -> rich.table.Table:
    """The figures that maps only suggest, a line for each network."""
    shown = rich.table.Table(title="Inside", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("network", overflow="fold")
    for title in ("domain told by style", "gap of styles", "unseen pixels matched", "cosine of prototypes"):
        shown.add_column(title, justify="right")
    for found in inspections:
        first, likeness = found.layers[0], found.prototypes
        told, gap = [_share(first.told_before)], [_figure(first.gap_before)]
        if first.after:
            told.append(_share(first.told_after))
            gap.append(_figure(first.gap_after))
        shown.add_row(
            rich.text.Text(found.run),
            " → ".join(told),
            " → ".join(gap),
            _share(_mean(_unseen_matched(found))),
            "–" if likeness is None else f"{likeness.within:.2f} in, {likeness.between:.2f} between classes",
        )
    return shown


def nearest_csv(found: Inspection) -> str:
    """A line for each image: its domain, and at each place its nearest known style, the distances and λ."""
    heads = ["domain", "role", "image"]
    for layer in found.layers:
        heads.append(f"{layer.place} nearest")
        heads += [f"{layer.place} distance to {name}" for name in found.known]
        heads += [f"{layer.place} weight of {name}" for name in found.known if layer.weights]
    lines = [heads]
    for i, seen in enumerate(found.images):
        domain = found.domains[seen.domain]
        cells = [domain.name, domain.role, seen.name]
        for layer in found.layers:
            cells.append(found.known[nearest(layer, i)])
            cells += [f"{value:g}" for value in layer.distance[i]]
            cells += [f"{value:g}" for value in layer.weights[i]] if layer.weights else []
        lines.append(cells)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def nearest(layer: Layer, image: int) -> int:
    """The known style that an image is nearest to at a place."""
    return min(range(len(layer.distance[image])), key=lambda m: layer.distance[image][m])


# --- Figures ---------------------------------------------------------------------------------------------------------


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


def _settings(ink: Ink) -> Any:
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


def domain_mark(found: Inspection, domain: int) -> tuple[str, str]:
    """Colour and marker of a domain."""
    color = figures.STYLE_COLORS[domain % len(figures.STYLE_COLORS)]
    unseen = [d for d, one in enumerate(found.domains) if one.role == "unseen"]
    return color, _MARKERS[unseen.index(domain) % len(_MARKERS)] if domain in unseen else "o"


def known_color(found: Inspection, style: int) -> str | None:
    """Colour of a known style: that of the domain it is the style of, where that one was shown."""
    names = [domain.name for domain in found.domains]
    name = found.known[style]
    written = next((one for one in (name, name.partition("@")[0]) if one in names), None)
    return None if written is None else domain_mark(found, names.index(written))[0]


def class_color(found: Inspection, label: int) -> str:
    """Colour of a class, as matplotlib writes it."""
    return "#" + "".join(f"{channel:02x}" for channel in found.colors[label])


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


def _marks(axes: Axes, found: Inspection, places: NDArray[np.float64], ink: Ink) -> None:
    """A mark for each image; turn by turn, so that no domain hides the others."""
    for turn in range(5):
        for domain in range(len(found.domains)):
            color, marker = domain_mark(found, domain)
            x, y = places[found.of(domain)][turn::5].T
            axes.plot(x, y, marker, color=color, markersize=4.4, markeredgecolor=ink.ink, markeredgewidth=0.35)


def _stars(axes: Axes, found: Inspection, points: Sequence[Point], ink: Ink) -> None:
    """The known styles; numbered where no domain's colour says which is which."""
    for style, (x, y) in enumerate(points):
        color = known_color(found, style)
        axes.plot([x], [y], "*", markersize=15, color=color or ink.card, markeredgecolor=ink.ink, markeredgewidth=0.9)
        if color is None:
            axes.text(x, y, str(style + 1), ha="center", va="center_baseline", fontsize=6)


def draw_styles(axes: Axes, found: Inspection, layer: Layer, *, after: bool, ink: Ink) -> None:
    """The styles of all images, before or after the style layer, on the map that both share; the others are faint."""
    shown, others = (layer.after, layer.before) if after else (layer.before, layer.after)
    _map(axes, f"{layer.place}, {'after' if after else 'before'} projection" if layer.after else layer.place)
    _dots(axes, _array(others), ink.line, size=3.0)
    _marks(axes, found, _array(shown), ink)
    _stars(axes, found, layer.bases, ink)


def draw_weights(axes: Axes, found: Inspection, layer: Layer, *, ink: Ink) -> None:
    """λ of each image: on a line for two known styles, in a triangle for three, as shares of a column for more."""
    {2: _draw_line, 3: _draw_triangle}.get(len(found.known), _draw_shares)(axes, found, layer, ink)
    axes.set_title(f"λ at {layer.place}")


def _all_weights(found: Inspection) -> NDArray[np.float64]:
    """λ in % at all places: what is drawn on one scale, so that a place that tells no styles apart looks like that."""
    return 100 * np.concatenate([_array(layer.weights) for layer in found.layers if layer.weights])


def _draw_line(axes: Axes, found: Inspection, layer: Layer, ink: Ink) -> None:
    reach = min(50.0, max(0.5, 1.12 * float(np.abs(_all_weights(found)[:, 1] - 50).max())))
    weights = 100 * _array(layer.weights)[:, 1]
    axes.axvline(50, color=ink.line, linewidth=1)
    for row in range(len(found.domains)):
        own = weights[found.of(row)]
        offsets = 0.5 * ((0.618034 * np.arange(len(own))) % 1 - 0.5)
        _dots(axes, np.stack([own, row + offsets], axis=1), domain_mark(found, row)[0], size=3.4, alpha=0.8)
        if len(own):
            mean = float(own.mean())
            axes.plot([mean, mean], [row - 0.36, row + 0.36], color=ink.ink, linewidth=1.8)
            axes.text(50 + reach * 1.02, row, f"{mean:.1f}", va="center", color=ink.muted, fontsize=8)
    axes.set_xlim(50 - reach, 50 + reach)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"λ of {found.known[1]} in %; the rest is {found.known[0]}'s")
    axes.set_yticks(range(len(found.domains)), [domain.name for domain in found.domains])
    axes.set_ylim(len(found.domains) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _draw_triangle(axes: Axes, found: Inspection, layer: Layer, ink: Ink) -> None:
    corners = np.array([[-0.866, -0.5], [0.866, -0.5], [0.0, 1.0]])
    # The smallest triangle about the middle that holds all images of all places.
    reach = min(1.0, max(0.005, 1.08 * float((1 - 3 * _all_weights(found) / 100).max())))
    places = ((_array(layer.weights) - 1 / 3) / reach + 1 / 3) @ corners
    axes.plot(*corners[[0, 1, 2, 0]].T, color=ink.line, linewidth=1)
    axes.plot([0], [0], marker="+", color=ink.muted, markersize=10)
    _marks(axes, found, places, ink)
    top = 100 * (1 / 3 + 2 / 3 * reach)
    for name, (x, y) in zip(found.known, corners, strict=True):
        above = y > 0
        place: Any = {"ha": "center", "va": "bottom" if above else "top"}
        axes.text(x, y + (0.05 if above else -0.05), f"{name}\nλ = {top:.1f} %", fontsize=8, **place)
    axes.set_xlim(-1.25, 1.25)
    axes.set_ylim(-0.85, 1.3)
    axes.set_aspect("equal")
    axes.axis("off")


def _draw_shares(axes: Axes, found: Inspection, layer: Layer, ink: Ink) -> None:
    """One column for each image, in each domain sorted by the style whose shares differ most."""
    weights, begin, middles = 100 * _array(layer.weights), 0, []
    for domain in range(len(found.domains)):
        own = weights[found.of(domain)]
        if len(own):
            own = own[own[:, own.std(axis=0).argmax()].argsort(kind="stable")]
        edges = np.arange(begin, begin + len(own) + 1)
        middles.append(begin + len(own) / 2)
        low = np.zeros(len(own))
        for style in range(len(found.known)):
            color = figures.STYLE_COLORS[style % len(figures.STYLE_COLORS)]
            axes.stairs(low + own[:, style], edges, baseline=low, fill=True, color=color)
            if domain == 0 and len(own) and own[0, style] >= 5:
                axes.text(begin, own[0, style] / 2 + low[0], f" {style + 1}", va="center", fontsize=7, color="black")
            low = low + own[:, style]
        begin += len(own) + max(1, len(found.images) // 80)
    axes.set_xticks(middles, [domain.name for domain in found.domains], rotation=30, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelcolor=ink.ink)
    axes.set_xlim(0, begin)
    axes.set_ylim(0, 100)
    axes.set_ylabel("λ in %, numbered as the known styles")
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_pixels(axes: Axes, found: Inspection, *, by: By, ink: Ink) -> None:
    """Embeddings of pixels and the prototypes, coloured by class or by domain."""
    pixels = found.pixels
    places, labels, domains = _array(pixels.points), np.array(pixels.label), np.array(pixels.domain)
    _map(axes, f"pixels by {by}")
    groups = labels if by == "class" else domains
    # Turn by turn, so that no group hides the others.
    for turn in range(4):
        for group in np.unique(groups):
            color = class_color(found, int(group)) if by == "class" else domain_mark(found, int(group))[0]
            _dots(axes, places[groups == group][turn::4], color, size=2.6, alpha=0.85)
    num = len(found.known)
    for number, (x, y) in enumerate(pixels.prototypes):
        color = class_color(found, number // num) if by == "class" else known_color(found, number % num) or ink.card
        size = 6.5 if num < 4 else 4.5
        axes.plot([x], [y], "D", markersize=size, color=color, markeredgecolor=ink.ink, markeredgewidth=1.0, zorder=4)
    if by == "class":
        ground = {"boxstyle": "round,pad=0.12", "facecolor": ink.card, "edgecolor": "none", "alpha": 0.72}
        for k in np.unique(labels):
            own = places[labels == k]
            x, y = own[np.linalg.norm(own - np.median(own, axis=0), axis=1).argmin()]
            axes.text(x, y, found.classes[k], ha="center", va="center", fontsize=7.5, bbox=ground)


def draw_prototypes(axes: Axes, found: Inspection, prototypes: Prototypes, *, ink: Ink) -> None:
    """Cosines of all prototypes, class by class and in a class one known style after the other."""
    cosine, num = np.array(prototypes.cosine), len(found.known)
    low = float(min(0.0, cosine.min()))
    shown = axes.imshow(cosine, cmap="viridis", vmin=low, vmax=1.0, interpolation="none")
    if len(cosine) <= 16:
        for (row, column), value in np.ndenumerate(cosine):
            color = "black" if value > low + 0.62 * (1 - low) else "white"
            text = f"{value:.2f}".replace("0.", ".").replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", fontsize=5.6, color=color)
    for edge in np.arange(1, len(found.classes)) * num - 0.5:
        axes.axhline(edge, color="white", linewidth=0.9)
        axes.axvline(edge, color="white", linewidth=0.9)
    middles = np.arange(len(found.classes)) * num + (num - 1) / 2
    axes.set_yticks(middles, found.classes)
    axes.set_xticks(middles, found.classes, rotation=90)
    axes.tick_params(length=0, labelsize=8, labelcolor=ink.ink)
    for spine in axes.spines.values():
        spine.set_visible(False)
    scale = axes.figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
    scale.outline.set_visible(False)
    scale.ax.tick_params(length=0, labelcolor=ink.muted)
    axes.set_title("cosine of prototypes")


def figures_of(found: Inspection, *, ink: Ink = PAPER) -> dict[str, Figure]:
    """The figures for files of their own by name: styles, weights, pixels and prototypes, as far as there are any."""
    with matplotlib.rc_context(_settings(ink)):
        every = range(len(found.domains))
        columns = 2 if any(layer.after for layer in found.layers) else 1
        styles = _sheet(3.9 * columns, 4.0 * len(found.layers) + 0.6)
        for row, layer in enumerate(found.layers):
            for column in range(2 if layer.after else 1):
                axes = styles.add_subplot(len(found.layers), columns, row * columns + column + 1)
                draw_styles(axes, found, layer, after=column == 1, ink=ink)
        _domain_legend(styles, found, every, ink, stars=True)
        drawn = {"styles": styles}
        weighed = [layer for layer in found.layers if layer.weights]
        if weighed and len(found.known) > 1:
            triangle = len(found.known) == 3
            weights = _sheet(4.6 * len(weighed), _weights_height(found) + 0.6 * triangle)
            for place, layer in enumerate(weighed):
                draw_weights(weights.add_subplot(1, len(weighed), place + 1), found, layer, ink=ink)
            if triangle:
                _domain_legend(weights, found, every, ink)
            drawn["weights"] = weights
        if found.pixels.points:
            pixels = _sheet(8.6, 4.9)
            for place, by in enumerate(_BY):
                draw_pixels(pixels.add_subplot(1, 2, place + 1), found, by=by, ink=ink)
            _domain_legend(pixels, found, sorted(set(found.pixels.domain)), ink, round_marks=True)
            drawn["pixels"] = pixels
        if found.prototypes is not None:
            drawn["prototypes"] = _prototypes_figure(found, found.prototypes, ink)
    return drawn


def _sheet(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09))


def _weights_height(found: Inspection) -> float:
    """Of `draw_weights`, in inches."""
    return 0.26 * len(found.domains) + 0.9 if len(found.known) == 2 else 3.6


def _prototypes_figure(found: Inspection, prototypes: Prototypes, ink: Ink) -> Figure:
    side = min(5.6, 2.2 + 0.2 * len(prototypes.cosine))
    figure = _sheet(side, side * 0.95)
    draw_prototypes(figure.add_subplot(), found, prototypes, ink=ink)
    return figure


def _domain_legend(
    figure: Figure,
    found: Inspection,
    domains: Iterable[int],
    ink: Ink,
    *,
    stars: bool = False,
    round_marks: bool = False,
) -> None:
    edge: Any = {"linestyle": "none", "markeredgecolor": ink.ink, "markeredgewidth": 0.4}
    marks = []
    for domain in domains:
        color, marker = domain_mark(found, domain)
        name = f"{found.domains[domain].name} ({found.domains[domain].role})"
        marks.append(Line2D([], [], marker="o" if round_marks else marker, color=color, label=name, **edge))
    if stars:
        marks.append(Line2D([], [], marker="*", markersize=10, color="none", label="known style", **edge))
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def write_figures(found: Inspection, folder: Path) -> list[Path]:
    """Write `figures_of` as PNG and as SVG, black on white, and say which files there are now.

    Raises:
        DataError: one cannot be written.
    """
    written = []
    with matplotlib.rc_context(_settings(PAPER)):
        for name, figure in figures_of(found).items():
            for kind in ("png", "svg"):
                metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
                path = folder / f"{name}.{kind}"
                write_whole(path, partial(figure.savefig, format=kind, dpi=160, metadata=metadata))
                written.append(path)
    return written


def _array(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 2)


# --- The page --------------------------------------------------------------------------------------------------------


def write_page(inspections: Sequence[Inspection], output: Path, *, title: str | None = None) -> Path:
    """Write one page about the inside of one or several networks: no network, no scripts, light and dark, phone and paper.

    Args:
        inspections: at least one.
        output: the file.
        title: heading; says what is shown by default.

    Raises:
        DataError: a picture cannot be read, or the page not be written.
    """
    write_text(output, render_page(inspections, title=title))
    return output


def render_page(inspections: Sequence[Inspection], *, title: str | None = None) -> str:
    """The page of `write_page` as text.

    Raises:
        DataError: a picture cannot be read.
    """
    names = [found.run for found in inspections]
    heading = title or f"Inside {', '.join(names[:-1]) + ' and ' if names[1:] else ''}{names[-1]}"
    sections = [
        (f"run-{i}", found.run if names[1:] else "What was seen", inspection_section(found))
        for i, found in enumerate(inspections)
    ]
    sections.append(("reading", "How to read this", _reading()))
    links = "".join(f'<a href="#{anchor}">{html.escaped(name)}</a>' for anchor, name, _ in sections)
    bodies = "".join(
        f'<section id="{a}" aria-labelledby="{a}-h"><h2 id="{a}-h">{html.escaped(n)}</h2>{b}</section>'
        for a, n, b in sections
    )
    version = inspections[0].environment.get("spcnet") or ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escaped(heading)}</title>\n<style>{html.STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{html.escaped(heading)}</h1><nav aria-label="Sections">{links}</nav></header>\n'
        f"<main>{bodies}</main>\n"
        f"<footer>Written by spcnet {html.escaped(version)}. This page is one file: it loads nothing and runs no scripts.</footer>\n"
        "</body>\n</html>\n"
    )


def inspection_section(found: Inspection) -> str:
    """What was seen inside a network, as a piece of HTML for a page with the style of `spcnet.reports.html`.

    Raises:
        DataError: a picture cannot be read.
    """
    counts = [len(found.of(domain)) for domain in range(len(found.domains))]
    shown = "; ".join(
        f"{html.escaped(domain.name)} ({domain.role}, {html.counted(count, 'image')})"
        for domain, count in zip(found.domains, counts, strict=True)
    )
    lead = (
        f"{html.escaped(found.method)} on {html.escaped(found.backbone)} after {found.iteration} iterations, shown images of "
        f"{shown}."
    )
    missing = "".join(f'<p class="note">{html.escaped(line)}</p>' for line in found.missing)
    parts = [
        ("Styles", _styles_part(found)),
        ("Style weights λ", _weights_part(found)),
        ("Nearest known style", _nearest_part(found)),
        ("Pixels", _pixels_part(found)),
        ("Prototypes", _prototypes_part(found)),
    ]
    return f'<p class="note">{lead}</p>{missing}' + "".join(f"<h3>{name}</h3>{body}" for name, body in parts if body)


def _on_page(draw: Callable[[Axes], None], *, size: tuple[float, float], label: str) -> str:
    """A figure of one plot for a page; `label` says it in words, for those who cannot see it."""
    with matplotlib.rc_context(_settings(PAGE)):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        return figures.page_svg(figure, label=label)


def _styles_part(found: Inspection) -> str:
    plots, told = [], []
    projected = any(layer.after for layer in found.layers)
    for layer in found.layers:
        for after in (False, True) if layer.after else (False,):
            share = layer.told_after if after else layer.told_before
            words = (
                f"Map of styles at {layer.place}{', after projection' if after else ''}: the nearest other image is of the "
                f"same domain for {_share(share)}"
            )
            draw = partial(draw_styles, found=found, layer=layer, after=after, ink=PAGE)
            plots.append(html.figure(_on_page(draw, size=(3.4, 3.6), label=words)))
        cells = [html.escaped(layer.place), _share(layer.told_before), _figure(layer.gap_before)]
        told.append([*cells, _share(layer.told_after), _figure(layer.gap_after)] if projected else cells)
    sizes = [len(found.of(domain)) / len(found.images) for domain in range(len(found.domains))]
    chance = sum(size * size for size in sizes)
    note = (
        "t-SNE of each image's style: mean and deviation of every channel there"
        + (", before and after the style layer" if projected else "")
        + ", with the known styles, all of a place on one map"
        + (" (in grey what the other map shows)" if projected else "")
        + ". Who is whose neighbour counts; distances between far clusters, and how large a cluster is, mean little."
    )
    measured = (
        "Told: share of the images whose nearest other image by style is of their own domain "
        f"(by chance {_share(chance)}). Gap: distance between the mean styles of two domains, squared and per channel, mean over "
        "the pairs."
    )
    heads = ["place", "told before", "gap before", "told after", "gap after"] if projected else ["place", "told", "gap"]
    table = html.table(heads, told, caption="Styles in figures.", label="Styles in figures")
    return (
        f'<p class="note">{note}</p>{_legend(found)}<div class="plots" style="{_NARROW}">{"".join(plots)}</div>'
        f'<p class="note">{measured}</p>{table}'
    )


def _weights_part(found: Inspection) -> str:
    weighed = [layer for layer in found.layers if layer.weights]
    if not weighed:
        return ""
    if len(found.known) == 1:
        return '<p class="note">With a single known style λ is 1 for every image.</p>'
    plots = []
    for layer in weighed:
        words = f"λ of the images at {layer.place}; the means stand in the table"
        plots.append(
            html.figure(
                _on_page(
                    partial(draw_weights, found=found, layer=layer, ink=PAGE),
                    size=(4.3, _weights_height(found)),
                    label=words,
                )
            )
        )
    rows = []
    for domain, one in enumerate(found.domains):
        own = found.of(domain)
        cells = [f"{100 * value:.1f}" for layer in weighed for value in _array(layer.weights)[own].mean(axis=0)]
        rows.append([_mark(found, domain) + html.breakable(one.name), *cells])
    heads = ["domain"] + [
        f"{html.escaped(layer.place)}<br>{html.breakable(name)}" for layer in weighed for name in found.known
    ]
    how = {2: "each dot is an image, the line the mean", 3: "each mark is an image, the cross is equal shares"}
    note = (
        f"How much each known style explains each image; {how.get(len(found.known), 'each column is an image')}. "
        "All places are drawn on the same scale."
    )
    return f'<p class="note">{note}</p><div class="plots large">{"".join(plots)}</div>' + html.table(
        heads, rows, caption="Mean λ over the images of a domain, in %.", label="Mean style weights by domain"
    )


def _nearest_part(found: Inspection) -> str:
    rows = []
    for domain, one in enumerate(found.domains):
        own = found.of(domain)
        if not own:
            continue
        cells = []
        for layer in found.layers:
            near = [nearest(layer, image) for image in own]
            cells += [f"{100 * near.count(style) / len(own):.0f} %" for style in range(len(found.known))]
            cells.append(_figure(_mean([layer.distance[image][style] for image, style in zip(own, near, strict=True)])))
        rows.append([_mark(found, domain) + html.breakable(one.name), one.role, *cells])
    heads = ["domain", "role"]
    for layer in found.layers:
        heads += [f"{html.escaped(layer.place)}<br>{html.breakable(name)}" for name in found.known]
        heads.append(f"{html.escaped(layer.place)}<br>distance")
    note = (
        "Share of a domain's images that are nearest to each known style, and the mean distance to the nearest. "
        "Every image stands in nearest.csv."
    )
    label = "Nearest known style by domain"
    table = f'<p class="note">{note}</p>' + html.table(heads, rows, caption=f"{label}.", label=label, text=2)
    return table + _pairs(found)


def _pairs(found: Inspection) -> str:
    parts = []
    for pair in found.pairs:
        files = [found.folder / PICTURES / name for name in pair.pictures]
        if not all(file.is_file() for file in files):
            continue
        cells = []
        for file, image in zip(files, (pair.image, pair.nearest), strict=True):
            seen = found.images[image]
            uri, size = figures.picture_uri(file, width=300)
            where = html.escaped(found.domains[seen.domain].name)
            known = found.known[nearest(found.layers[0], image)]
            words = (
                f"nearest style {html.escaped(known)}" if image == pair.image else f"distance {_figure(pair.distance)}"
            )
            cells.append(
                f'<div><img src="{uri}" alt="{html.escaped(seen.name)} of {where}" width="{size[0]}" height="{size[1]}" '
                f'loading="lazy"><small>{where}: {html.escaped(seen.name)}; {words}</small></div>'
            )
        parts.append(f'<div class="panels" style="--columns: 2; min-width: 0">{"".join(cells)}</div>')
    if not parts:
        return ""
    note = (
        f"Unseen pictures (left), and the source picture whose style at {html.escaped(found.layers[0].place)} is nearest (right): of each unseen "
        "domain the image at the median of that distance, and the farthest."
    )
    return f'<p class="note">{note}</p><div class="plots">{"".join(parts)}</div>'


def _pixels_part(found: Inspection) -> str:
    if not found.pixels.points:
        return ""
    plots = []
    for by in _BY:
        draw = partial(draw_pixels, found=found, by=by, ink=PAGE)
        svg = _on_page(draw, size=(4.5, 4.7), label=f"Map of pixels, coloured by {by}")
        if by == "class":
            plots.append(f"<div>{html.figure(_readable(svg, found))}{_class_legend(found)}</div>")
        else:
            legend = _legend(found, sorted(set(found.pixels.domain)), plain=True)
            plots.append(f"<div>{html.figure(svg)}{legend}</div>")
    what = (
        "the embeddings of pixels"
        if found.pixels.kind == "embedding"
        else "the decoder's features of pixels, at unit length"
    )
    marks = "; diamonds are the prototypes, one of each class and known style" if found.pixels.prototypes else ""
    most = max(found.pixels.label.count(k) for k in set(found.pixels.label))
    note = (
        f"t-SNE of {what} ({len(found.pixels.points)} of them, at most {most} of a class){marks}. A class that the network "
        "knows in every domain is one cluster on the left, with all domains mixed on the right."
    )
    rows = [
        [_mark(found, domain, plain=True) + html.breakable(one.name), one.role, _share(share)]
        for domain, (one, share) in enumerate(zip(found.domains, found.pixels.matched, strict=True))
        if math.isfinite(share)
    ]
    if rows:
        measured = (
            "Matched: share of a domain's pixels whose most similar pixel of another domain, a source, is of their class; mean "
            "over the classes."
        )
        table = html.table(
            ["domain", "role", "matched"], rows, caption="Matched pixels.", label="Matched pixels", text=2
        )
        table = f'<p class="note">{measured}</p>{table}'
    else:
        table = ""
    return f'<p class="note">{note}</p><div class="plots large">{"".join(plots)}</div>{table}'


def _prototypes_part(found: Inspection) -> str:
    if found.prototypes is None:
        return ""
    with matplotlib.rc_context(_settings(PAGE)):
        svg = figures.page_svg(
            _prototypes_figure(found, found.prototypes, PAGE),
            label="Cosines of all prototypes; the means stand beside it",
        )
    told = f"Between classes the mean cosine is {found.prototypes.between:.2f}"
    if math.isfinite(found.prototypes.within):
        told = (
            f"The prototypes of one class in two domains have a mean cosine of {found.prototypes.within:.2f}, those of two "
            f"classes {found.prototypes.between:.2f}"
        )
    rows = [
        [f"{html.escaped(one)} and {html.escaped(other)}", f"{cosine:.2f}"]
        for one, other, cosine in found.prototypes.alike
    ]
    table = html.table(
        ["classes", "cosine"], rows, caption="The classes that are most alike.", label="Most alike classes"
    )
    order = ", ".join(map(html.escaped, found.known))
    note = f"{told}. In each class the order is {order}. A prototype whose class no training image of its domain showed stays near 0 to all others."
    return f'<p class="note">{note}</p><div class="plots large">{html.figure(svg)}<div>{table}</div></div>'


def _reading() -> str:
    paragraphs = [
        "<b>t-SNE</b> keeps neighbours together and gives every cluster about the same room, so a map shows who is near whom and not "
        "how far or how wide. Styles that projection has drawn together a hundredfold still fill their part of the map: how far apart "
        "they are stands in the table.",
        "<b>Style</b>: mean and standard deviation of each channel of a feature map over the image. Distances between styles are squared "
        "2-Wasserstein distances, mean over the channels, as SPC-Net's Eq. 3 has them. After projection a style is the sum of the known "
        "styles, weighed by λ; so with two known styles all lie on a line, however the map bends it.",
        "<b>λ</b> is the softmax of 1/(1+distance): with two known styles it stays within 0.27 and 0.73, and is near 0.5 where both are "
        "about equally far.",
        "<b>Few images</b> say little: another seed, or other images, move the shares by points.",
    ]
    return "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)


# --- Small pieces ----------------------------------------------------------------------------------------------------

_SHAPES = {
    "o": "M4 0a4 4 0 1 0 .01 0z",
    "^": "M4 0L8 8H0z",
    "s": "M.5 .5H7.5V7.5H.5z",
    "D": "M4 0L8 4L4 8L0 4z",
    "v": "M0 0H8L4 8z",
    "P": "M2.6 0H5.4V2.6H8V5.4H5.4V8H2.6V5.4H0V2.6H2.6z",
    "X": "M2 0L4 2L6 0L8 2L6 4L8 6L6 8L4 6L2 8L0 6L2 4L0 2z",
    "p": "M4 0L8 3L6.5 8H1.5L0 3z",
    "h": "M4 0L7.5 2V6L4 8L.5 6V2z",
    "*": "M4 0L5 2.9H8L5.6 4.8L6.5 8L4 6.1L1.5 8L2.4 4.8L0 2.9H3z",
}
"""The markers as drawings in a square of 8."""


def _shape(marker: str, color: str) -> str:
    """A marker for a legend; sized here, for the page's legends are made for lines."""
    return (
        '<svg viewBox="-.6 -.6 9.2 9.2" aria-hidden="true" style="width: 11px; height: 11px; margin-right: 6px; vertical-align: -1px">'
        f'<path d="{_SHAPES[marker]}" style="fill: {figures.css_color(color)}; stroke: var(--ink); stroke-width: .6"/></svg>'
    )


def _mark(found: Inspection, domain: int, *, plain: bool = False) -> str:
    color, marker = domain_mark(found, domain)
    return _shape("o" if plain else marker, color)


def _legend(found: Inspection, domains: Iterable[int] | None = None, *, plain: bool = False) -> str:
    shown = range(len(found.domains)) if domains is None else domains
    entries = "".join(
        f"<li>{_mark(found, d, plain=plain)}{html.escaped(found.domains[d].name)} ({found.domains[d].role})</li>"
        for d in shown
    )
    stars = "" if plain else f"<li>{_shape('*', 'transparent')}known style</li>"
    return f'<ul class="legend" aria-label="Domains">{entries}{stars}</ul>'


def _class_legend(found: Inspection) -> str:
    entries = "".join(
        f"<li>{_shape('o', _mixed(class_color(found, k)))}{html.escaped(found.classes[k])}</li>"
        for k in sorted(set(found.pixels.label))
    )
    return f'<ul class="legend" aria-label="Classes">{entries}</ul>'


def _mixed(color: str) -> str:
    """A class's colour with some of the page's ink: dark blue cars would be lost on a dark page."""
    return f"color-mix(in srgb, {color} 72%, var(--ink))"


def _readable(svg: str, found: Inspection) -> str:
    for k in set(found.pixels.label):
        svg = svg.replace(class_color(found, k), _mixed(class_color(found, k)))
    return svg


def _unseen_matched(found: Inspection) -> list[float]:
    pairs = zip(found.domains, found.pixels.matched, strict=True)
    return [share for domain, share in pairs if domain.role == "unseen" and math.isfinite(share)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if math.isfinite(value) else "–"


_NARROW = "grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr))"
"""Four maps beside each other on a wide screen."""


def _figure(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "–"
