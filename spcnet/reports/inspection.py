"""The inside of a network: what was seen of it, as plain values in a file, and as a table."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from spcnet.errors import DataError, one_line
from spcnet.files import write_text
from spcnet.formatting import percent
from spcnet.reports.plain import from_plain, to_plain

FOLDER = "inspection"
"""Folder in a run's folder."""
RECORD_FILE = "inspection.json"
PICTURES = "pictures"
"""Folder, in that one, of the pictures of `Inspection.pairs`."""
FORMAT = 1
"""Raised when what is in the record changes its meaning."""

Point = tuple[float, float]


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
    """Of each domain the fraction of pixels whose most similar pixel of another, source domain is of their class; mean over the classes."""


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

    def __post_init__(self) -> None:
        # Names, not paths: a record must not have files from elsewhere shown.
        object.__setattr__(self, "pictures", tuple(Path(name).name for name in self.pictures))


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
        rows = (self.prototypes.cosine, *self.prototypes.cosine) if self.prototypes else ()
        counts += [("prototypes", len(row), (classes * known,)) for row in rows]
        for what, count, right in counts:
            if count not in right:
                raise DataError(f"{what} has {count} entries; it must have {right[-1]}")
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
        remarks = []
        if all(layer.mode is None for layer in self.layers):
            known = "the known styles are the mean styles of the sources' images"
            remarks.append(
                f"{self.method} has no style layers: there is no style after projection and no λ, and {known}."
            )
        elif not any(layer.weights for layer in self.layers):
            remarks.append(f"The style layers of {self.method} weigh no known styles: there is no λ.")
        if self.prototypes is None:
            what = "the pixels are shown by the decoder's features, before the classifier"
            remarks.append(f"{self.method} has no prototypes: {what}.")
        return tuple(remarks)


def write_inspection(inspection: Inspection, folder: Path) -> None:
    """Write the record into a folder.

    Raises:
        DataError: it cannot be written.
    """
    values = {"format": FORMAT, **to_plain(inspection)}
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
    remedy = "Make it again with spcnet inspect, or delete it"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"cannot read {path}: {one_line(error)}. {remedy}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        version = values.get("format") if isinstance(values, dict) else None
        raise DataError(f"{path} is no record of the format {FORMAT} (found: {version}). {remedy}")
    try:
        return cast(Inspection, from_plain(Inspection, values | {"folder": place}))
    except DataError as error:
        raise DataError(f"{path}: {error}. {remedy}") from error
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not whole ({type(error).__name__}: {one_line(error)}). {remedy}") from error


def render_terminal(inspections: Sequence[Inspection]) -> Table:
    """The figures that maps only suggest, a line for each network."""
    titles = ("domain told by style", "gap of styles", "unseen pixels matched", "cosine of prototypes")
    columns = (Column("network", overflow="fold"), *(Column(title, justify="right") for title in titles))
    shown = Table(*columns, title="Inside", box=SIMPLE_HEAD, pad_edge=False)
    for inspection in inspections:
        first, likeness = inspection.layers[0], inspection.prototypes
        values, gap = [percent(first.told_before, 0, " %")], [figure_text(first.gap_before)]
        if first.after:
            values.append(percent(first.told_after, 0, " %"))
            gap.append(figure_text(first.gap_after))
        cosine = "–" if likeness is None else f"{likeness.within:.2f} in, {likeness.between:.2f} between classes"
        matched = percent(mean_of(unseen_matched(inspection)), 0, " %")
        shown.add_row(Text(inspection.run), " → ".join(values), " → ".join(gap), matched, cosine)
    return shown


def nearest_csv(inspection: Inspection) -> str:
    """A line for each image: its domain, and at each place its nearest known style, the distances and λ."""
    heads = ["domain", "role", "image"]
    for layer in inspection.layers:
        heads.append(f"{layer.place} nearest")
        heads += [f"{layer.place} distance to {name}" for name in inspection.known]
        heads += [f"{layer.place} weight of {name}" for name in inspection.known if layer.weights]
    lines = [heads]
    for i, seen in enumerate(inspection.images):
        domain = inspection.domains[seen.domain]
        cells = [domain.name, domain.role, seen.name]
        for layer in inspection.layers:
            cells.append(inspection.known[nearest(layer, i)])
            cells += [f"{value:g}" for value in layer.distance[i]]
            cells += [f"{value:g}" for value in layer.weights[i]] if layer.weights else []
        lines.append(cells)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def nearest(layer: Layer, image: int) -> int:
    """The known style that an image is nearest to at a place."""
    return min(range(len(layer.distance[image])), key=lambda m: layer.distance[image][m])


def unseen_matched(inspection: Inspection) -> list[float]:
    """Share of matched pixels of each unseen domain that has one."""
    pairs = zip(inspection.domains, inspection.pixels.matched, strict=True)
    return [fraction for domain, fraction in pairs if domain.role == "unseen" and math.isfinite(fraction)]


def mean_of(values: Sequence[float]) -> float:
    """Not a number where there are none."""
    return math.fsum(values) / len(values) if values else math.nan


def figure_text(value: float) -> str:
    """Two digits; a dash where there is no number."""
    return f"{value:.2g}" if math.isfinite(value) else "–"
