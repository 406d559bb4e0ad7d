"""Looking inside trained networks: what they make of styles and pixels of their own domains and of unseen ones.

Some images of each domain are shown to the network; what was seen becomes a record in the run's folder, and the
pictures are drawn from the record.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from spcnet.data.datasets import Sample, SegmentationSet, print_remarks
from spcnet.data.loading import evaluation_batches
from spcnet.engine import records
from spcnet.engine.progress import Show, bar
from spcnet.errors import DataError
from spcnet.files import write_atomic, write_text
from spcnet.formatting import print_plain
from spcnet.inference.embeddings import (
    Inside,
    Pixels,
    laid_out,
    likeness,
    look_inside,
    matched,
    style_gap,
    style_vectors,
    told_apart,
)
from spcnet.reports import inspection as report
from spcnet.reports.inspection import Domain, Inspection, Layer, Pair, PixelMap, Point, Prototypes, Seen
from spcnet.reports.inspection_figures import write_figures
from spcnet.reports.inspection_page import write_page
from spcnet.runs import OpenRun
from spcnet.studies.conditions import check_at_least

PAGE_FILE = "index.html"
NEAREST_FILE = "nearest.csv"
PICTURE_WIDTH = 480
"""Of the kept pictures, in pixels."""
ALIKE = 5
"""How many pairs of similar classes are listed."""


def inspect(
    run: OpenRun,
    *,
    limit: int = 50,
    pixels: int = 60,
    batch_size: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> Inspection:
    """Look inside the network of a run and write what was seen.

    Into `RUN/inspection` go `inspection.json` (the record), `index.html` (a page in one file), the figures as PNG and
    SVG, `nearest.csv` (each image with its nearest known style) and `pictures/`. Time and memory grow with the images;
    t-SNE's time with the points on a map.

    Args:
        run: the folder of a run, opened. Its sources are shown with any targets, for others are compared with them.
        limit: images of each domain; 0 for all.
        pixels: most pixels of each class and domain whose embeddings are shown.
        batch_size: images that the network sees together; the run's own by default.
        seed: of t-SNE and of which pixels are shown.
        console: where progress is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    check_at_least(limit=(limit, 0), pixels=(pixels, 1), batch_size=(batch_size or 1, 1))
    batch_size = batch_size or run.config.evaluation.batch_size
    whole = run.tests([*run.sources, *run.data.targets])
    print_remarks(whole.values(), console)
    tests = {name: Chosen(images, limit) for name, images in whole.items()}
    # Workers are not worth their start for a few images, and `Chosen` remembers what it read.
    data = replace(run.data, workers=0)
    insides = []
    with bar(console, sum(map(len, tests.values())), 0, f"look inside {run.path.name}") as show:
        done = 0
        for index, (name, chosen) in enumerate(tests.items()):
            batches = evaluation_batches(
                chosen, data, domain=index, batch_size=batch_size, on_skip=partial(_print_skipped, console)
            )
            inside = look_inside(
                run.network,
                batches,
                num_classes=len(run.space),
                pixels=pixels,
                seed=seed,
                on_images=partial(_show_done, show, done),
            )
            if not inside.names:
                raise DataError(f"{name} has no image that can be read: choose another set or split")
            insides.append(inside)
            done += len(chosen)
    inspection = _Views(run, list(tests), insides, seed).inspection()
    _write(inspection, list(tests.values()))
    return inspection


def _print_skipped(console: Console, _: str, message: str) -> None:
    print_plain(console, f"skipped: {message}", style="yellow")


def _show_done(show: Show, before: int, done: int) -> None:
    show(before + done, {})


class Chosen(SegmentationSet):
    """Images of a set, spread evenly from its first to its last, that remembers which is which."""

    def __init__(self, whole: SegmentationSet, limit: int) -> None:
        self.whole = whole
        count = min(limit or len(whole), len(whole))
        step = max(1.0, (len(whole) - 1) / max(count - 1, 1))
        self.places = [round(number * step) for number in range(count)]
        self.known: dict[str, int] = {}
        """Index in the set of each image that was read, by name."""

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int, /) -> Sample:
        """Read one of the chosen; see `SegmentationSet.read`."""
        sample = self.whole.read(self.places[index])
        self.known[sample.name] = self.places[index]
        return sample


def _write(inspection: Inspection, sets: Sequence[Chosen]) -> None:
    """Write the record and all that is drawn from it."""
    folder = inspection.folder
    _keep_pictures(inspection, sets)
    write_figures(inspection, folder)
    write_text(folder / NEAREST_FILE, report.nearest_csv(inspection))
    write_page([inspection], folder / PAGE_FILE)
    report.write_inspection(inspection, folder)


@dataclass(frozen=True)
class _Views:
    """What was seen of all domains, and what the record says of it."""

    run: OpenRun
    names: Sequence[str]
    """Of the domains."""
    insides: Sequence[Inside]
    """Of each domain."""
    seed: int

    @cached_property
    def is_source(self) -> list[bool]:
        return [name in self.run.sources for name in self.names]

    @cached_property
    def domain_of(self) -> Tensor:
        """Domain of each image, N."""
        counts = torch.tensor([len(inside.names) for inside in self.insides])
        return torch.arange(len(counts)).repeat_interleave(counts)

    @cached_property
    def head(self) -> Tensor | None:
        """The network's prototypes, K×M×D."""
        prototypes = self.run.network.prototypes()
        return None if prototypes is None else prototypes.float().cpu()

    def inspection(self) -> Inspection:
        """The whole record."""
        run, space = self.run, self.run.space
        images = [name for inside in self.insides for name in inside.names]
        sources = tuple(name for name in self.names if name in run.sources)
        return Inspection(
            run=run.path.resolve().name,
            method=run.card.method,
            backbone=str(run.card.model["backbone"]),
            iteration=run.iteration,
            classes=space.classes,
            colors=tuple((int(r), int(g), int(b)) for r, g, b in space.colors),
            known=tuple(run.card.domains) if run.network.known_styles() or self.head is not None else sources,
            domains=tuple(Domain(name, "source" if name in run.sources else "unseen") for name in self.names),
            images=tuple(Seen(int(d), name) for d, name in zip(self.domain_of, images, strict=True)),
            layers=tuple(map(self.layer, self.insides[0].styles)),
            pixels=self.pixel_map(),
            prototypes=self.prototypes(),
            pairs=self.pairs(),
            seed=self.seed,
            environment=records.environment(),
            folder=run.path / report.FOLDER,
        )

    def layer(self, place: str) -> Layer:
        """The styles at one place, on one map."""
        views = [inside.styles[place] for inside in self.insides]
        before = torch.cat([view.before for view in views])
        mode: str | None = None
        after: Tensor | None = None
        weights: Tensor | None = None
        known = self.run.network.known_styles().get(place)
        if known is not None:
            mode, bases = known.mode, style_vectors(known.bases)
            after = torch.cat([view.after for view in views if view.after is not None])
            distance = torch.cat([view.distance for view in views if view.distance is not None])
            if views[0].weights is not None:
                weights = torch.cat([view.weights for view in views if view.weights is not None])
        else:
            means = [view.before.mean(dim=0) for view, source in zip(views, self.is_source, strict=True) if source]
            bases = torch.stack(means)
            distance = torch.cdist(before, bases).square() / (before.shape[1] / 2)
        groups = [before, bases] if after is None else [before, bases, after]
        flat = [_points(group) for group in laid_out(groups, seed=self.seed)]
        return Layer(
            place=place,
            mode=mode,
            before=flat[0],
            bases=flat[1],
            after=flat[2] if after is not None else (),
            distance=_rows(distance),
            weights=() if weights is None else _rows(weights),
            gap_before=style_gap(before, self.domain_of),
            gap_after=math.nan if after is None else style_gap(after, self.domain_of),
            told_before=told_apart(before, self.domain_of),
            told_after=math.nan if after is None else told_apart(after, self.domain_of),
        )

    def pixel_map(self) -> PixelMap:
        """The pixels of all domains on one map, and how many of them match pixels of other, source domains."""
        groups = [inside.pixels.embedding for inside in self.insides]
        if self.head is not None:
            groups.append(self.head.flatten(0, 1))
        flat: list[tuple[Point, ...]] = [()] * len(groups)
        if any(map(len, groups)):
            flat = [_points(group) for group in laid_out(groups, seed=self.seed)]
        fractions = []
        for index, inside in enumerate(self.insides):
            others = [other.pixels for i, other in enumerate(self.insides) if self.is_source[i] and i != index]
            known = Pixels(*map(torch.cat, zip(*others, strict=True))) if others else None
            fractions.append(math.nan if known is None else matched(inside.pixels, known))
        return PixelMap(
            kind="feature" if self.head is None else "embedding",
            points=tuple(point for group in flat[: len(self.insides)] for point in group),
            label=tuple(int(k) for inside in self.insides for k in inside.pixels.label),
            domain=tuple(d for d, inside in enumerate(self.insides) for _ in inside.pixels.label),
            prototypes=() if self.head is None else flat[-1],
            matched=tuple(fractions),
        )

    def prototypes(self) -> Prototypes | None:
        """How similar the prototypes are; None for a network without."""
        if self.head is None:
            return None
        classes = self.run.space.classes
        cosine, means = likeness(self.head)
        pairs = [(float(means.classes[i, j]), classes[i], classes[j]) for i in range(len(classes)) for j in range(i)]
        pairs.sort(reverse=True)
        return Prototypes(
            cosine=_rows(cosine, digits=3),
            within=means.within,
            between=means.between,
            alike=tuple((one, other, round(value, 3)) for value, other, one in pairs[:ALIKE]),
        )

    def pairs(self) -> tuple[Pair, ...]:
        """Of each unseen domain the image with the median distance to a source's image by style, and the farthest."""
        style = torch.cat([next(iter(inside.styles.values())).before for inside in self.insides]).double()
        sources = torch.tensor([self.is_source[d] for d in self.domain_of.tolist()]).nonzero()[:, 0]
        near, nearest = (torch.cdist(style, style[sources]).square() / (style.shape[1] / 2)).min(dim=1)
        pairs: list[Pair] = []
        for domain, source in enumerate(self.is_source):
            images = (self.domain_of == domain).nonzero()[:, 0]
            if source or not len(images) or not len(sources):
                continue
            order = images[near[images].argsort(stable=True)]
            for image in dict.fromkeys([int(order[(len(order) - 1) // 2]), int(order[-1])]):
                names = (f"{len(pairs)}_unseen.jpg", f"{len(pairs)}_nearest.jpg")
                pairs.append(Pair(image, int(sources[nearest[image]]), float(near[image]), names))
        return tuple(pairs)


def _keep_pictures(inspection: Inspection, sets: Sequence[Chosen]) -> None:
    """Write the pictures of the pairs, as small as they are shown; those of an earlier call go."""
    folder = inspection.folder / report.PICTURES
    names = {name for pair in inspection.pairs for name in pair.pictures}
    for old in folder.glob("*_*.jpg"):
        if old.name not in names:
            old.unlink(missing_ok=True)
    for pair in inspection.pairs:
        for place, name in zip((pair.image, pair.nearest), pair.pictures, strict=True):
            shown = inspection.images[place]
            chosen = sets[shown.domain]
            picture = Image.fromarray(chosen.whole.read(chosen.known[shown.name]).image)
            picture.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH), Image.Resampling.LANCZOS)
            options: dict[str, Any] = {"format": "JPEG", "quality": 88, "optimize": True}
            write_atomic(folder / name, lambda file: picture.save(file, **options))  # noqa: B023


def _points(places: Any) -> tuple[Point, ...]:
    return tuple((round(float(x), 3), round(float(y), 3)) for x, y in places)


def _rows(table: Tensor, *, digits: int = 5) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(value, digits) for value in row) for row in table.tolist())
