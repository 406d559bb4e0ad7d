"""Scores of a segmentation, all from one table of integer counts: sum first, divide last.

A domain's table is the sum of its images' tables, so neither the batch size, nor the order of the images, nor the
number of processes changes a metric. IoU is the one of the PASCAL VOC challenge (Everingham et al., IJCV 2015), which
Cityscapes uses too: all pixels of a domain together, not image by image.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spcnet.errors import DataError, UsageError
from spcnet.types import IGNORE_INDEX


def classify(
    logits: Float[Tensor, "K h w"], *, size: tuple[int, int], align_corners: bool = True
) -> Int[Tensor, "H W"]:
    """Class of each pixel of an image of the given height and width, from logits of any size.

    The logits are brought to that size bilinearly, then the highest wins; between equal logits the class with the lower
    number.

    Args:
        logits: logits of an image.
        size: height and width wanted.
        align_corners: whether the corners of both lie on each other, as everywhere in the network, or their edges.
    """
    logits = logits.float()
    if logits.shape[-2:] == size:
        return logits.max(dim=0).indices  # several times faster than argmax on a CPU
    # Class by class with a running maximum: the logits at full size would be K images large.
    best: Tensor | None = None
    winner = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for k, plane in enumerate(logits):
        plane = F.interpolate(plane[None, None], size=size, mode="bilinear", align_corners=align_corners)[0, 0]
        if best is None:
            best = plane
        else:
            winner.masked_fill_(plane > best, k)
            best = torch.maximum(best, plane)
    return winner


def confusion(
    prediction: Int[Tensor, "*pixels"], label: Int[Tensor, "*pixels"], *, num_classes: int
) -> Int[Tensor, "K K"]:
    """How often each class (row: truth) was taken for each class (column: prediction), in pixels.

    Pixels whose label is `IGNORE_INDEX` count nowhere, whatever was predicted there.

    Raises:
        DataError: a label is neither a class nor `IGNORE_INDEX`.
        UsageError: a prediction is not a class.
    """
    if prediction.numel() == 0:
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=label.device)
    low, high = (int(bound) for bound in prediction.aminmax())
    if low < 0 or high >= num_classes:
        raise UsageError(f"the prediction holds the classes {low}..{high}: there are only 0..{num_classes - 1}")
    low, high = (int(bound) for bound in label.aminmax())
    if low < 0 or high > IGNORE_INDEX:
        raise _strange_label(low if low < 0 else high, num_classes)
    # One row for every value a label may have, 255 included: no mask and no copy, five times as fast as with one.
    cells = label.long().flatten() * num_classes + prediction.flatten()
    rows = torch.bincount(cells, minlength=(IGNORE_INDEX + 1) * num_classes).view(IGNORE_INDEX + 1, num_classes)
    strange = rows[num_classes:IGNORE_INDEX].sum(dim=1).nonzero()
    if len(strange):
        raise _strange_label(num_classes + int(strange[0]), num_classes)
    return rows[:num_classes].clone()


def _strange_label(value: int, num_classes: int) -> DataError:
    return DataError(
        f"a label image holds the class {value}: there are only 0..{num_classes - 1} and {IGNORE_INDEX} for 'ignore'. "
        "Check the label space and the remap of this data set"
    )


def iou(counts: Int[Tensor, "K K"]) -> Float[Tensor, " K"]:
    """Intersection over union of each class, 0..1; NaN for a class in neither the truth nor the prediction.

    A class that no truth pixel has but that was predicted somewhere has IoU 0, as the formula says: those pixels are
    false. `absent` tells which classes these may be.
    """
    hit = counts.diagonal().double()
    return hit / (counts.sum(dim=0) + counts.sum(dim=1) - hit)


def mean_iou(counts: Int[Tensor, "K K"]) -> float:
    """Mean of `iou` over the classes that have one, 0..1; NaN if none has."""
    return float(iou(counts).nanmean())


def none_if_nan(value: float) -> float | None:
    """The value; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def pixel_accuracy(counts: Int[Tensor, "K K"]) -> float:
    """Fraction of the labelled pixels whose class is right, 0..1; NaN without a labelled pixel."""
    return float(counts.diagonal().sum().double() / counts.sum())


def class_accuracy(counts: Int[Tensor, "K K"]) -> Float[Tensor, " K"]:
    """Fraction of each class's pixels that were found (recall), 0..1; NaN for a class without a truth pixel."""
    return counts.diagonal().double() / counts.sum(dim=1)


def precision(counts: Int[Tensor, "K K"]) -> Float[Tensor, " K"]:
    """Fraction of the pixels that were taken for each class and have it, 0..1; NaN for a class that was never predicted."""
    return counts.diagonal().double() / counts.sum(dim=0)


def frequency_weighted_iou(counts: Int[Tensor, "K K"]) -> float:
    """Mean of `iou` weighted with how many pixels each class has (`fwavacc`), 0..1; NaN without a labelled pixel."""
    fraction = counts.sum(dim=1).double() / counts.sum()
    return float((fraction * iou(counts).nan_to_num()).sum())


def outcome(counts: Int[Tensor, "K K"]) -> Int[Tensor, "3 K"]:
    """Of each class the pixels that were found, those that it has, and those that were taken for it."""
    return torch.stack([counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)])


def bootstrap_mean_iou(
    outcomes: Int[Tensor, "N 3 K"], *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Interval in which the mIoU of a domain lies, as far as its images are a sample of what might have been photographed.

    The percentile bootstrap (Efron, 1979) over images: each resample draws as many images with replacement,
    whose counts are summed. It says nothing of how much another training run would differ.

    Args:
        outcomes: of each image, from `outcome`.
        level: fraction of the resamples that lie within.
        resamples: how many times to draw.
        seed: of the drawing; the same images in the same order give the same interval.

    Returns:
        Lower and upper end, 0..1; NaN where no resample has a score.
    """
    num_images, _, num_classes = outcomes.shape
    dice = torch.Generator().manual_seed(seed)
    table = outcomes.double().view(num_images, -1)
    scores = []
    for first in range(0, resamples, 100):  # the drawn numbers of all would take 8·N·1000 bytes
        size = min(100, resamples - first)
        drawn = torch.randint(num_images, (size, num_images), generator=dice)
        times = torch.zeros(size, num_images, dtype=torch.double).scatter_add_(
            1, drawn, torch.ones(size, num_images, dtype=torch.double)
        )
        hit, truth, taken = (times @ table).view(size, 3, num_classes).unbind(1)
        scores.append((hit / (truth + taken - hit)).nanmean(1))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.double)
    low, high = torch.nanquantile(torch.cat(scores), ends).tolist()
    return low, high


def absent(counts: Int[Tensor, "K K"]) -> list[int]:
    """Classes without a single truth pixel. Their IoU, 0 or NaN, says nothing about how well they are found."""
    return [int(k) for k in (counts.sum(dim=1) == 0).nonzero()]


def certainty(logits: Float[Tensor, "K h w"], chosen: Int[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Probability of the chosen class of each pixel, from logits of any size: the softmax, 0..1.

    The logits are brought to the size of `chosen` as `classify` does.
    """
    height, width = chosen.shape
    total: Tensor | None = None
    winner = torch.empty(height, width, device=logits.device)
    # Class by class, as `classify` does: the logits at full size would be K images large.
    for k, plane in enumerate(logits.float()):
        if plane.shape != (height, width):
            plane = F.interpolate(plane[None, None], size=(height, width), mode="bilinear", align_corners=True)[0, 0]
        total = plane.clone() if total is None else torch.logaddexp(total, plane)
        winner = torch.where(chosen == k, plane, winner)
    assert total is not None
    return (winner - total).exp()
