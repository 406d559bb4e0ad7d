"""Looking inside trained networks: what they make of styles and pixels of their own domains and of unseen ones.

Shown are some images of each domain; what was seen becomes a record in the run's folder, and the pictures are drawn
from the record.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from spcnet import checkpoint
from spcnet.config import plain_lists
from spcnet.data.datasets import Sample, SegmentationSet, print_remarks
from spcnet.data.loading import evaluation_batches
from spcnet.engine import records
from spcnet.engine.progress import Show, bar
from spcnet.errors import DataError, UsageError
from spcnet.files import write_atomic, write_text
from spcnet.inference.embeddings import (
    PLACES,
    Inside,
    Pixels,
    laid_out,
    likeness,
    look_inside,
    matched,
    style_bases,
    style_gap,
    told_apart,
)
from spcnet.inference.predictor import find_device
from spcnet.labels import label_space
from spcnet.methods import restore
from spcnet.models.network import Segmentor
from spcnet.reports import inspection as report
from spcnet.reports.inspection import Domain, Inspection, Layer, Pair, PixelMap, Point, Prototypes, Seen
from spcnet.reports.inspection_figures import write_figures
from spcnet.reports.inspection_page import write_page
from spcnet.runs import DataOptions, OpenRun, check_unseen, open_domains, source_tests

PAGE_FILE = "index.html"
NEAREST_FILE = "nearest.csv"
PICTURE_WIDTH = 480
"""Of the kept pictures, in pixels."""
ALIKE = 5
"""How many pairs of classes are told."""


@plain_lists
def inspect(
    run: Path,
    *,
    images: int = 50,
    pixels: int = 60,
    targets: Sequence[str] | None = None,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    console: Console | None = None,
) -> Inspection:
    """Look inside the network of a run and write what was seen.

    Into `RUN/inspection` go `inspection.json` (the record), `index.html` (a page that needs nothing else), the figures as
    PNG and SVG, `nearest.csv` (each image with its nearest known style) and `pictures/`. Time and memory grow with the
    images; t-SNE's time with the points on a map.

    Args:
        run: folder of a run.
        images: most images of each domain, spread evenly over it.
        pixels: most pixels of each class and domain whose embeddings are shown.
        targets: unseen domains instead of the run's own; the sources are shown with any, for they are what others are
            compared with.
        roots: folders of data sets, beside the run's own.
        sets: file that describes sets of one's own, beside the run's own; see `spcnet.config.read_sets`.
        batch_size: images that the network sees together; the run's own by default.
        seed: of t-SNE and of which pixels are shown.
        accelerator: where to compute: auto, cpu, cuda or mps.
        console: where progress is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    for name, value in (("images", images), ("pixels", pixels), ("batch_size", batch_size or 1)):
        if value < 1:
            raise UsageError(f"{name} is {value}: it must be 1 or more")
    config = OpenRun(run).config
    data = dataclasses.replace(
        OpenRun(run, DataOptions(targets, roots or {}, sets)).data,
        workers=0,  # for a few images not worth their start, and what has been read is remembered here
    )
    check_unseen(data)
    network, card = restore(run)
    space = label_space(card.space)
    whole = open_domains([*source_tests(data), *data.targets], data, space, training=False)
    print_remarks(whole.values(), console)
    tests = {name: Chosen(plain, images) for name, plain in whole.items()}
    network.to(find_device(accelerator))
    sources = source_tests(data)
    domains = tuple(Domain(name, "source" if name in sources else "unseen") for name in tests)
    insides = []
    with bar(console, sum(map(len, tests.values())), 0, f"look inside {run.name}") as show:
        done = 0
        for index, (name, chosen) in enumerate(tests.items()):
            batches = evaluation_batches(
                chosen,
                data,
                domain=index,
                batch_size=batch_size or config.evaluation.batch_size,
                on_skip=partial(_tell_skipped, console),
            )
            inside = look_inside(
                network,
                batches,
                num_classes=len(space),
                pixels=pixels,
                seed=seed,
                on_images=partial(_tell_seen, show, done),
            )
            if not inside.names:
                raise DataError(f"{name} has no image that can be read: choose another set or split")
            insides.append(inside)
            done += len(chosen)
    domain_of = torch.arange(len(insides)).repeat_interleave(torch.tensor([len(inside.names) for inside in insides]))
    seen = tuple(Seen(int(d), name) for d, name in zip(domain_of, _names(insides), strict=True))
    is_source = [domain.role == "source" for domain in domains]
    known = tuple(card.domains) if network.num_domains is not None else tuple(name for name in tests if name in sources)
    layers = tuple(
        _layer(network, insides, place, domain_of, is_source, len(known), seed=seed) for place in range(len(PLACES))
    )
    folder = run / report.FOLDER
    found = Inspection(
        run=run.resolve().name,
        method=card.method,
        backbone=str(card.model["backbone"]),
        iteration=int(checkpoint.read(checkpoint.find(run))[2].get("iteration", 0)),
        classes=space.classes,
        colors=tuple((int(r), int(g), int(b)) for r, g, b in space.colors),
        known=known,
        domains=domains,
        images=seen,
        layers=layers,
        pixels=_pixel_map(network, insides, is_source, seed=seed),
        prototypes=_prototypes(network, space.classes),
        pairs=_pairs(insides, domain_of, is_source),
        seed=seed,
        environment={key: value for key, value in records.surroundings().items() if key != "command"},
        folder=folder,
    )
    _keep_pictures(found, list(tests.values()))
    write_figures(found, folder)
    write_text(folder / NEAREST_FILE, report.nearest_csv(found))
    write_page([found], folder / PAGE_FILE)
    report.write_inspection(found, folder)
    return found


def _tell_skipped(console: Console, _: str, message: str) -> None:
    console.print(f"skipped: {message}", style="yellow", highlight=False, markup=False)


def _tell_seen(show: Show, before: int, seen: int) -> None:
    show(before + seen, {})


class Chosen(SegmentationSet):
    """So many images of a set, spread evenly over it, that remembers which is which."""

    def __init__(self, whole: SegmentationSet, wanted: int) -> None:
        self.whole = whole
        step = max(1.0, (len(whole) - 1) / max(wanted - 1, 1))
        self.places = [round(number * step) for number in range(min(wanted, len(whole)))]
        self.known: dict[str, int] = {}
        """Where in the set an image is that was read."""

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int, /) -> Sample:
        """Read one of the chosen; see `SegmentationSet.read`."""
        sample = self.whole.read(self.places[index])
        self.known[sample.name] = self.places[index]
        return sample


def _names(insides: Sequence[Inside]) -> Iterator[str]:
    for inside in insides:
        yield from inside.names


def _layer(
    network: Segmentor,
    insides: Sequence[Inside],
    place: int,
    domain_of: Tensor,
    is_source: Sequence[bool],
    num_known: int,
    *,
    seed: int,
) -> Layer:
    """What was seen at one place, laid out on one map."""
    views = [inside.styles[place] for inside in insides]
    before = torch.cat([view.before for view in views])
    mode: str | None = None
    after: Tensor | None = None
    weights: Tensor | None = None
    if network.style_layers:
        layer = network.style_layers[place]
        mode, bases = layer.mode, style_bases(layer)
        after = torch.cat([view.after for view in views if view.after is not None])
        distance = torch.cat([view.distance for view in views if view.distance is not None])
        if views[0].weights is not None:
            weights = torch.cat([view.weights for view in views if view.weights is not None])
    else:
        means = [view.before.mean(dim=0) for view, source in zip(views, is_source, strict=True) if source]
        bases = torch.stack(means)
        distance = torch.cdist(before, bases).square() / (before.shape[1] / 2)
    groups = [before, bases] if after is None else [before, bases, after]
    flat = [_points(group) for group in laid_out(groups, seed=seed)]
    return Layer(
        place=PLACES[place],
        mode=mode,
        before=flat[0],
        bases=flat[1],
        after=flat[2] if after is not None else (),
        distance=_rows(distance),
        weights=() if weights is None else _rows(weights),
        gap_before=style_gap(before, domain_of),
        gap_after=math.nan if after is None else style_gap(after, domain_of),
        told_before=told_apart(before, domain_of),
        told_after=math.nan if after is None else told_apart(after, domain_of),
    )


def _pixel_map(network: Segmentor, insides: Sequence[Inside], is_source: Sequence[bool], *, seed: int) -> PixelMap:
    head = network.prototype_head
    groups = [inside.pixels.embedding for inside in insides]
    if head is not None:
        groups.append(head.unit_prototypes.flatten(0, 1).float().cpu())
    flat = [_points(group) for group in laid_out(groups, seed=seed)] if any(map(len, groups)) else [()] * len(groups)
    shares = []
    for index, inside in enumerate(insides):
        others = [one.pixels for i, one in enumerate(insides) if is_source[i] and i != index]
        known = (
            Pixels(torch.cat([p.embedding for p in others]), torch.cat([p.label for p in others])) if others else None
        )
        shares.append(math.nan if known is None else matched(inside.pixels, known))
    return PixelMap(
        kind="feature" if head is None else "embedding",
        points=tuple(point for group in flat[: len(insides)] for point in group),
        label=tuple(int(k) for inside in insides for k in inside.pixels.label),
        domain=tuple(d for d, inside in enumerate(insides) for _ in inside.pixels.label),
        prototypes=() if head is None else flat[-1],
        matched=tuple(shares),
    )


def _prototypes(network: Segmentor, classes: Sequence[str]) -> Prototypes | None:
    if network.prototype_head is None:
        return None
    cosine, found = likeness(network.prototype_head.unit_prototypes.float().cpu())
    pairs = [(float(found.classes[i, j]), classes[i], classes[j]) for i in range(len(classes)) for j in range(i)]
    pairs.sort(reverse=True)
    return Prototypes(
        cosine=_rows(cosine, digits=3),
        within=found.within,
        between=found.between,
        alike=tuple((one, other, round(value, 3)) for value, other, one in pairs[:ALIKE]),
    )


def _pairs(insides: Sequence[Inside], domain_of: Tensor, is_source: Sequence[bool]) -> tuple[Pair, ...]:
    """Of each unseen domain the image with the median distance to a source's image by style, and the farthest."""
    style = torch.cat([inside.styles[0].before for inside in insides]).double()
    sources = torch.tensor([is_source[d] for d in domain_of.tolist()]).nonzero()[:, 0]
    near, nearest = (torch.cdist(style, style[sources]).square() / (style.shape[1] / 2)).min(dim=1)
    pairs: list[Pair] = []
    for domain, source in enumerate(is_source):
        own = (domain_of == domain).nonzero()[:, 0]
        if source or not len(own) or not len(sources):
            continue
        order = own[near[own].argsort(stable=True)]
        for image in dict.fromkeys([int(order[(len(order) - 1) // 2]), int(order[-1])]):
            names = (f"{len(pairs)}_unseen.jpg", f"{len(pairs)}_nearest.jpg")
            pairs.append(Pair(image, int(sources[nearest[image]]), float(near[image]), names))
    return tuple(pairs)


def _keep_pictures(found: Inspection, sets: Sequence[Chosen]) -> None:
    """Write the pictures of the pairs, as small as they are shown; those of an earlier call go."""
    folder = found.folder / report.PICTURES
    wanted = {name for pair in found.pairs for name in pair.pictures}
    for old in folder.glob("*_*.jpg"):
        if old.name not in wanted:
            old.unlink(missing_ok=True)
    for pair in found.pairs:
        for place, name in zip((pair.image, pair.nearest), pair.pictures, strict=True):
            seen = found.images[place]
            chosen = sets[seen.domain]
            picture = Image.fromarray(chosen.whole.read(chosen.known[seen.name]).image)
            picture.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH), Image.Resampling.LANCZOS)
            options: dict[str, Any] = {"format": "JPEG", "quality": 88, "optimize": True}
            write_atomic(folder / name, lambda file: picture.save(file, **options))  # noqa: B023


def _points(places: Any) -> tuple[Point, ...]:
    return tuple((round(float(x), 3), round(float(y), 3)) for x, y in places)


def _rows(table: Tensor, *, digits: int = 5) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(value, digits) for value in row) for row in table.tolist())
