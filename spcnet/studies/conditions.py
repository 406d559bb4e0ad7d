"""What images go through before a network is evaluated on them: corruptions and weather styles by severity."""

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from spcnet.config import plain_lists
from spcnet.data.datasets import Sample, SegmentationSet
from spcnet.data.transforms import evaluation_transform, normalise
from spcnet.errors import UsageError, lookup
from spcnet.evaluation.metrics import iou
from spcnet.numerics import device_of
from spcnet.reports.robustness import CLEAN, STYLE
from spcnet.runs import OpenRun
from spcnet.synthesis.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from spcnet.synthesis.weather import WEATHER, apply_weather_pair
from spcnet.types import SegOutput


class Condition(NamedTuple):
    """What an image goes through before a network sees it."""

    name: str
    """`clean`, a corruption, or `+` and a weather style."""
    severity: int
    """1 to 5; 0 for `clean`. A style's strength is a fifth of it."""

    @property
    def family(self) -> str:
        """The corruption's family, or `+` and the style's."""
        if self.name == CLEAN:
            return CLEAN
        if self.name.startswith(STYLE):
            return STYLE + WEATHER[self.name.removeprefix(STYLE)].family
        return CORRUPTIONS[self.name].family

    def apply(self, sample: Sample, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and label of a sample in this condition; the label moves where a style moves pixels."""
        if self.name == CLEAN:
            return sample.image, sample.label
        # From the image's name, not its index: the list may change. The same at each severity, so that only the
        # strength varies.
        own_seed = zlib.crc32(f"{self.name}/{sample.name}".encode(), seed)
        if self.name.startswith(STYLE):
            style = self.name.removeprefix(STYLE)
            strength = self.severity / max(SEVERITIES)
            return apply_weather_pair(
                sample.image, sample.label, style, seed=own_seed, strength=strength, depth=sample.depth
            )
        return corrupt(sample.image, self.name, severity=self.severity, seed=own_seed), sample.label


def network_outputs(
    run: OpenRun,
    images: SegmentationSet,
    places: Sequence[int],
    condition: Condition,
    *,
    batch_size: int,
    seed: int = 0,
) -> Iterator[tuple[SegOutput, list[tuple[Tensor, str]]]]:
    """What the network of a run returns for some images of a set in a condition, with the label (H×W) and name of each.

    Args:
        run: the network and its data.
        images: the set.
        places: indices in it.
        condition: what the images go through before.
        batch_size: images that the network sees together.
        seed: random seed of the condition.

    Raises:
        DataError: an image cannot be read.
    """
    transform = evaluation_transform(run.data)
    device = device_of(run.network)
    batch_size = batch_size if run.data.size else 1  # images may differ in their own size
    for first in range(0, len(places), batch_size):
        pixels, items = [], []
        for place in places[first : first + batch_size]:
            sample = images.read(place)
            image, label = condition.apply(sample, seed)
            pixels.append(transform(torch.from_numpy(np.array(image)).permute(2, 0, 1)))
            items.append((torch.from_numpy(np.array(label)), sample.name))
        yield run.network(normalise(torch.stack(pixels).to(device))), items


@plain_lists
def conditions(
    corruptions: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
) -> list[Condition]:
    """All pairs of corruptions or weather styles and severities, after `clean`.

    Args:
        corruptions: names in `CORRUPTIONS`; all by default.
        styles: names in `WEATHER`; all by default.
        severities: each of 1..5.

    Raises:
        UsageError: a name is unknown, a severity out of range, or there is nothing beside `clean`.
    """
    names = list(CORRUPTIONS if corruptions is None else corruptions)
    for name in names:
        lookup(name, CORRUPTIONS, "corruption")
    for style in styles or ():
        lookup(style, WEATHER, "weather style")
    names += [STYLE + style for style in (list(WEATHER) if styles is None else styles)]
    for severity in severities:
        if severity not in SEVERITIES:
            raise UsageError(f"severities has {severity}: each must be in 1 (weakest) .. 5 (strongest)")
    if not names or not severities:
        raise UsageError(
            f"{len(names)} corruptions and styles at {len(severities)} severities: name at least one of each"
        )
    pairs = [Condition(name, severity) for name in dict.fromkeys(names) for severity in sorted(set(severities))]
    return [Condition(CLEAN, 0), *pairs]


def with_full_styles(
    corruptions: Sequence[str] | None, styles: Sequence[str] | None, severities: Sequence[int]
) -> list[Condition]:
    """Like `conditions`, but weather styles at full strength alone; an empty list of either leaves those out."""
    corrupted = conditions(corruptions, [], severities)[1:] if corruptions is None or corruptions else []
    full = conditions([], styles, SEVERITIES[-1:])[1:] if styles is None or styles else []
    return [Condition(CLEAN, 0), *corrupted, *full]


def spread(length: int, limit: int) -> list[int]:
    """`limit` indices in 0..length-1, evenly spaced; all of them if the limit is 0 or not below the length."""
    if not limit or limit >= length:
        return list(range(length))
    return [(2 * place + 1) * length // (2 * limit) for place in range(limit)]


def image_score(counts: Int[Tensor, "K K"]) -> float:
    """Mean IoU of one image over the classes that its label has; NaN where it has none.

    Classes that were only predicted are left out: a single wrong pixel would cost an image as much as a lost class.
    """
    there = counts.sum(dim=1) > 0
    return float(iou(counts)[there].mean()) if bool(there.any()) else float("nan")


def check_at_least(**options: tuple[int, int]) -> None:
    """Refuse options below their least values, given as `name=(value, least)`.

    Raises:
        UsageError: names the option.
    """
    for name, (value, least) in options.items():
        if value < least:
            raise UsageError(f"{name} is {value}: it must be {least} or more")
