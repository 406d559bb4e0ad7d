"""A network scored on one domain at a time, and the record of what came out.

Scored is at the labels' own size, whole images at one scale: a network that works on small images is not judged on
small labels. A domain's result is integer counts; every metric is derived from them in `record`.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from spcnet.data.transforms import denormalise
from spcnet.errors import DataError, UsageError
from spcnet.evaluation.metrics import (
    absent,
    bootstrap_mean_iou,
    class_accuracy,
    classify,
    confusion,
    frequency_weighted_iou,
    iou,
    mean_iou,
    none_if_nan,
    outcome,
    pixel_accuracy,
    precision,
)
from spcnet.files import write_atomic
from spcnet.glossary import FIGURES, Layers
from spcnet.labels import IGNORE, LabelSpace
from spcnet.types import Batch, SegOutput

Role = Literal["source", "unseen"]
"""Whether a domain was trained on."""


class Panel(NamedTuple):
    """One image with what it shows and what the network sees in it."""

    name: str
    image: npt.NDArray[np.uint8]
    """h×w×3, RGB, as the network got it."""
    truth: npt.NDArray[np.uint8]
    """H×W, class of each pixel at the label's own size, or 255."""
    prediction: npt.NDArray[np.uint8]
    """H×W, class of each pixel at the label's own size."""


@dataclass(frozen=True)
class DomainResult:
    """What a network made of one domain."""

    counts: Int[Tensor, "K K"]
    """Pixels by truth (row) and prediction (column), on the CPU."""
    images: int
    """How many images were scored."""
    seconds: float
    """How long that took, reading the images included."""
    figures: Mapping[str, Layers] = field(default_factory=dict)
    """What the network tells of images beside the classes (`SegOutput.figures`), mean over the images."""
    panels: tuple[Panel, ...] = ()
    """Some images to show, spread evenly over the domain."""
    skipped: int = 0
    """How many images could not be read and were left out."""
    outcomes: Int[Tensor, "N 3 K"] | None = None
    """Of each image by itself what `spcnet.evaluation.metrics.outcome` says, on the CPU."""

    @property
    def is_labelled(self) -> bool:
        """Whether any pixel of its images has a class; without one there is no mIoU."""
        return bool(self.counts.any())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each part is in the mode it was in, frozen parts included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    num_classes: int,
    device: torch.device | str = "cpu",
    forward: Callable[[Tensor], SegOutput] | None = None,
    panels: int = 0,
    may_be_empty: bool = False,
    align_corners: bool = True,
) -> DomainResult:
    """Evaluate a network on the images of one domain, or on a shard of them; see `merge_shards`.

    Args:
        model: the network, on `device`; left in the mode it came in.
        batches: every image of the domain once. Image and label may differ in size; the label's counts.
        num_classes: K.
        device: where the network is.
        forward: how to call the network, for mixed precision or a wrapper; the model itself by default.
        panels: how many images to keep for looking at.
        may_be_empty: the batches are a process's shard of the domain, which may have no image.
        align_corners: how logits are brought to the label's size; see `classify`.

    Raises:
        DataError: there is no image, or a label is neither a class nor 255.
    """
    start = time.perf_counter()
    device = torch.device(device)
    run = model if forward is None else forward
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    images = 0
    sums: dict[str, list[Tensor]] = {}
    panel_images = _Spread(panels)
    outcomes: list[Tensor] = []
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            output: SegOutput = run(batch.image.to(device, non_blocking=True))
            label = batch.label.to(device, non_blocking=True)
            size = (label.shape[1], label.shape[2])
            for i, logits in enumerate(output.logits):  # one by one: full-size logits of a batch may not fit
                prediction = classify(logits, size=size, align_corners=align_corners)
                of_image = confusion(prediction, label[i], num_classes=num_classes)
                counts += of_image
                outcomes.append(outcome(of_image))
                if panel_images.wants(images + i):
                    panel_images.add(_panel(batch, i, prediction))
            images += len(batch.image)
            for name, layers in output.figures.items():
                new = [_per_image(layer).sum(dim=0) for layer in layers]
                sums[name] = [a + b for a, b in zip(sums[name], new, strict=True)] if name in sums else new
    if images == 0 and not may_be_empty:
        raise _empty()
    return DomainResult(
        counts=counts.cpu().clone(),  # a plain tensor: one made in inference mode stays barred from much
        images=images,
        seconds=time.perf_counter() - start,
        figures={name: tuple(tuple((layer / images).tolist()) for layer in layers) for name, layers in sums.items()},
        panels=panel_images.chosen(),
        outcomes=torch.stack(outcomes).cpu().clone() if outcomes else None,
    )


def _empty() -> DataError:
    return DataError("there is no image to evaluate: the domain is empty")


def merge_shards(shards: Sequence[DomainResult], *, panels: int) -> DomainResult:
    """The result of a domain from those of its shards, which several processes evaluated.

    Raises:
        DataError: none of them has an image.
    """
    if len(shards) == 1:
        return shards[0]
    images = sum(shard.images for shard in shards)
    if images == 0:
        raise _empty()
    taken = _Spread(panels)
    for panel in chain.from_iterable(zip_longest(*(shard.panels for shard in shards))):
        if panel is not None:
            taken.items.append(panel)
    outcomes = [
        one
        for turn in zip_longest(*(shard.outcomes for shard in shards if shard.outcomes is not None))
        for one in turn
        if one is not None
    ]
    return DomainResult(
        counts=torch.stack([shard.counts for shard in shards]).sum(0),
        images=images,
        seconds=max(shard.seconds for shard in shards),
        figures=_mean_figures(shards, images),
        panels=taken.chosen(),
        outcomes=torch.stack(outcomes),
    )


def _mean_figures(shards: Sequence[DomainResult], images: int) -> dict[str, Layers]:
    """The shards' figures, each weighted by its images; a shard without an image has none."""
    means: dict[str, Layers] = {}
    for name in dict.fromkeys(name for shard in shards for name in shard.figures):
        having = [shard for shard in shards if name in shard.figures]
        means[name] = tuple(
            tuple(
                sum(value * shard.images for value, shard in zip(values, having, strict=True)) / images
                for values in zip(*layer, strict=True)
            )
            for layer in zip(*(shard.figures[name] for shard in having), strict=True)
        )
    return means


def _per_image(figure: Float[Tensor, "B M ..."]) -> Float[Tensor, "B M"]:
    """One number for each image and source; those of the channels are averaged."""
    figure = figure.flatten(start_dim=2).mean(dim=2) if figure.ndim > 2 else figure
    return figure.float() if figure.device.type == "mps" else figure.double()  # mps has no doubles


def _panel(batch: Batch, index: int, prediction: Int[Tensor, "H W"]) -> Panel:
    return Panel(
        batch.name[index],
        np.ascontiguousarray(denormalise(batch.image[index]).cpu().movedim(0, -1).numpy()),
        batch.label[index].cpu().numpy().astype(np.uint8),
        prediction.cpu().numpy().astype(np.uint8),
    )


class _Spread:
    """Items spread evenly over a stream whose length nobody knows: of twice as many, every other one is let go."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.stride = 1
        self.items: list[Panel] = []

    def wants(self, position: int) -> bool:
        return self.wanted > 0 and position % self.stride == 0

    def add(self, item: Panel) -> None:
        self.items.append(item)
        if len(self.items) > 2 * self.wanted:
            del self.items[1::2]
            self.stride *= 2

    def chosen(self) -> tuple[Panel, ...]:
        last = len(self.items) - 1
        if last < self.wanted:
            return tuple(self.items)
        return tuple(self.items[round(i * last / max(self.wanted - 1, 1))] for i in range(self.wanted))


class Origin(NamedTuple):
    """What was evaluated, as a record says it first."""

    run: str
    method: str
    seed: int
    iteration: int
    """Finished iterations of the run."""
    views: str | None = None
    """How images were viewed, in words; None for the whole image at once."""
    ema: float = 0.0
    """Share that the exponential moving average of the weights kept in a step; 0 for weights as they were trained."""


def record(
    results: Mapping[str, DomainResult],
    roles: Mapping[str, Role],
    *,
    space: LabelSpace,
    origin: Origin,
    sets: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """One evaluation over all domains as plain values that JSON can hold.

    Scores are fractions, 0..1, not per cent; what is not defined (the IoU of a class that is nowhere) is None. The means
    over the source and over the unseen domains weigh each domain alike; they are None where there is no such domain or
    one of them has no mIoU.

    Args:
        results: of each domain.
        roles: of each domain.
        space: the classes.
        origin: what was evaluated.
        sets: of each domain of a user's own set, how that is described and where it lies.

    Raises:
        UsageError: a domain has no role, or its counts are not for this space.
    """
    domains = {name: _domain_record(name, result, roles, space) for name, result in results.items()}
    for name, described in (sets or {}).items():
        domains[name]["set"] = json.loads(json.dumps(described))  # numbers as keys become text, as in a file
    return {
        **{name: value for name, value in origin._asdict().items() if name != "ema" or value},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "space": space.name,
        "classes": list(space.classes),
        "colors": [list(color) for color in space.colors],
        "domains": domains,
        **_means(domains),
    }


def joined(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Two records of the same network as one: of a domain in both the later counts, and the means are over all."""
    domains: dict[str, Any] = {**before["domains"], **after["domains"]}
    return {**after, "domains": domains, **_means(domains)}


def _means(domains: Mapping[str, Any]) -> dict[str, float | None]:
    return {
        f"mean_{role}_miou": _mean(domain["miou"] for domain in domains.values() if domain["role"] == role)
        for role in ("source", "unseen")
    }


def _domain_record(name: str, result: DomainResult, roles: Mapping[str, Role], space: LabelSpace) -> dict[str, Any]:
    if name not in roles:
        raise UsageError(f"the domain {name!r} has no role: say whether it is a source or unseen")
    if len(result.counts) != len(space):
        raise UsageError(
            f"the domain {name!r} was scored with {len(result.counts)} classes, but the label space {space.name} has "
            f"{len(space)}: evaluate it in the space it is recorded in"
        )
    others = {name: [list(layer) for layer in layers] for name, layers in result.figures.items() if name not in FIGURES}
    return {
        "role": roles[name],
        "images": result.images,
        "skipped": result.skipped,
        "miou": none_if_nan(mean_iou(result.counts)),
        "iou": _by_class(iou(result.counts), space),
        "miou_interval": _interval(result),
        "precision": _by_class(precision(result.counts), space),
        "recall": _by_class(class_accuracy(result.counts), space),
        "pixel_accuracy": none_if_nan(pixel_accuracy(result.counts)),
        "mean_accuracy": none_if_nan(float(class_accuracy(result.counts).nanmean())),
        "frequency_weighted_iou": none_if_nan(frequency_weighted_iou(result.counts)),
        "absent": [space.classes[k] for k in absent(result.counts)],
        "confusion": result.counts.tolist(),
        "seconds": round(result.seconds, 3),
        **dict.fromkeys(FIGURES),
        **{name: [list(layer) for layer in result.figures[name]] for name in FIGURES if name in result.figures},
        **({"figures": others} if others else {}),
    }


def _by_class(values: Float[Tensor, " K"], space: LabelSpace) -> dict[str, float | None]:
    return dict(zip(space.classes, map(none_if_nan, values.tolist()), strict=True))


def _interval(result: DomainResult) -> list[float] | None:
    """Where the mIoU lies with 95 % by bootstrap over the images; None of a single image, and without an mIoU."""
    if result.outcomes is None or len(result.outcomes) < 2:
        return None
    low, high = bootstrap_mean_iou(result.outcomes)
    return None if math.isnan(low) else [low, high]


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = list(values)
    known = [value for value in numbers if value is not None]
    return sum(known) / len(known) if known and len(known) == len(numbers) else None


def safe_name(domain: str) -> str:
    """A domain's written form as the name of a file or folder; different domains have different names."""
    return re.sub(r"[^\w.@+-]", "_", domain.replace("/", "-"))


def save_panels(result: DomainResult, folder: Path, domain: str, *, space: LabelSpace) -> Path:
    """Write a domain's panels as pictures into a folder of their own, and say which.

    `FOLDER/DOMAIN/` (see `safe_name`) gets `INDEX_image.png` (RGB), `INDEX_truth.png` and `INDEX_prediction.png`
    (palette images: pixel values are class ids, shown in the space's colours) for each panel, and `panels.json`: the
    images' names in the order of the indices, written last.

    Raises:
        DataError: the folder cannot be written.
    """
    target = folder / safe_name(domain)
    for index, panel in enumerate(result.panels):
        save_image(Image.fromarray(panel.image), target / f"{index}_image.png")
        save_image(label_image(panel.truth, space), target / f"{index}_truth.png")
        save_image(label_image(panel.prediction, space), target / f"{index}_prediction.png")
    names = json.dumps([panel.name for panel in result.panels], ensure_ascii=False, indent=1)
    write_atomic(target / "panels.json", lambda file: file.write(names.encode()))
    return target


def label_image(class_map: npt.NDArray[np.uint8], space: LabelSpace) -> Image.Image:
    """A class map (H×W) as a palette image: the pixels are class ids, the palette has their colours, 255 is black."""
    image = Image.fromarray(class_map)
    colors = [*space.colors, *[(0, 0, 0)] * (IGNORE + 1 - len(space))]
    image.putpalette([channel for color in colors for channel in color])
    return image


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    level = 6 if image.mode == "P" else 3  # photos: an eighth larger than at 6, and written in a third of the time
    write_atomic(path, lambda file: image.save(file, format="PNG", compress_level=level))
