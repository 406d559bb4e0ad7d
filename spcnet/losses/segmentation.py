"""Losses that compare class scores with labels: cross-entropy, its weighted forms, relaxed borders, focal loss, hard pixels."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spcnet.distributed import Reduce
from spcnet.numerics import at_least_single
from spcnet.types import IGNORE_INDEX

CITYSCAPES_WEIGHTS = (
    *(0.8373, 0.9180, 0.8660, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
    *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
)
"""Weights of the 19 Cityscapes classes, RobustNet's `--cls_wt_loss`."""


def cross_entropy(
    logits: Float[Tensor, "B K H W"],
    label: Int[Tensor, "B H W"],
    *,
    weight: Float[Tensor, "*B K"] | None = None,
    per_image: bool = False,
    border: int = 0,
    strict: Sequence[int] = (),
    reduce: Reduce = lambda t: t,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the pixels that are not ignored; zero, with a zero gradient, where all are.

    Sums first and divides last, so that a batch without any labelled pixel gives 0 and not NaN. In at least single
    precision.

    With a border, a pixel that has other classes within this number of pixels may have any of them: its loss is the negative
    logarithm of their summed probability, its weight the mean of theirs (label relaxation: Zhu et al., Improving
    Semantic Segmentation via Video Propagation and Label Relaxation, CVPR 2019, Eq. 5). An ignored pixel is no
    neighbour. Only those pixels cost more than the plain loss.

    Args:
        logits: class scores.
        label: class of each pixel, or 255.
        weight: of each class, for all images or for each; the mean is then a weighted one.
        per_image: the mean of each image's own mean, over the images that have a labelled pixel.
        border: distance in pixels, along rows and columns; 0 for none.
        strict: classes that keep their own label at a border.
        reduce: sums over processes, so that the mean is that of all.
    """
    scores = at_least_single(logits)
    if weight is None and not per_image and not border:
        total = F.cross_entropy(scores, label, ignore_index=IGNORE_INDEX, reduction="sum")
        return mean_of(total, (label != IGNORE_INDEX).sum(), reduce)
    num_images, num_classes = scores.shape[:2]
    weight = scores.new_ones(num_classes) if weight is None else weight.to(scores)
    weight = weight.expand(num_images, num_classes)
    cost = F.cross_entropy(scores, label, ignore_index=IGNORE_INDEX, reduction="none")
    share = weight.gather(1, label.clamp(max=num_classes - 1).flatten(1)).view_as(cost) * (label != IGNORE_INDEX)
    if border:
        at, member = border_classes(label, num_classes, border=border, strict=strict)
        near = scores.movedim(1, -1)[at]
        any_of_them = near.logsumexp(1) - near.masked_fill(~member, -torch.inf).logsumexp(1)
        image = at.nonzero()[:, 0]
        cost = cost.masked_scatter(at, any_of_them)
        share = share.masked_scatter(at, (weight[image] * member).sum(1) / member.sum(1))
    total, mass = (cost * share).sum((1, 2)), share.sum((1, 2))
    least = torch.finfo(mass.dtype).tiny
    if per_image:
        return mean_of((total / mass.clamp(min=least)).sum(), (mass > 0).sum(), reduce)
    return mean_of(total.sum(), mass.sum(), reduce)


def mean_of(total: Tensor, mass: Tensor, reduce: Reduce) -> Tensor:
    """What all processes have in sum, divided by what they weigh; zero, with a zero gradient, where that is nothing."""
    totals, masses = reduce(torch.stack([total, mass.to(total.dtype)])).unbind()
    return totals / masses.clamp(min=torch.finfo(masses.dtype).tiny)


def focal_loss(
    logits: Float[Tensor, "B K H W"], label: Int[Tensor, "B H W"], *, gamma: float = 2.0, reduce: Reduce = lambda t: t
) -> Float[Tensor, ""]:
    """Mean of -(1-p)^γ·log p over the labelled pixels, p being the probability of a pixel's class.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (Eq. 4), with a softmax over the classes. Zero, with a zero
    gradient, where all pixels are ignored. In at least single precision.

    Args:
        logits: class scores.
        label: class of each pixel, or 255.
        gamma: γ; the larger, the less count pixels that are nearly right. 0 is the cross-entropy.
        reduce: sums over processes, so that the mean is that of all.
    """
    cost = _cost_of_pixels(logits, label)
    away = -torch.expm1(-cost)
    # A power below 1 has an infinite slope at 0.
    total = (away.clamp(min=torch.finfo(away.dtype).tiny) ** gamma * cost).sum()
    return mean_of(total, (label != IGNORE_INDEX).sum(), reduce)


def hard_pixel_loss(
    logits: Float[Tensor, "B K H W"],
    label: Int[Tensor, "B H W"],
    *,
    threshold: float = 0.7,
    least: float = 0.2,
    reduce: Reduce = lambda t: t,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the hard pixels: those whose class has a probability below a threshold.

    Where an image has fewer than a share of its labelled pixels, its hardest ones are taken up to that share; equally hard ones together.
    Online hard example mining (Shrivastava et al., CVPR 2016) as segmentation has it, with a threshold and a smallest number.
    That number is of each image, for a batch's hardest pixels could not be found by several processes. Zero, with
    a zero gradient, where all pixels are ignored. In at least single precision.

    Args:
        logits: class scores.
        label: class of each pixel, or 255.
        threshold: below which probability a pixel is hard, 0..1.
        least: smallest share of an image's labelled pixels that are taken, 0..1.
        reduce: sums over processes, so that the mean is that of all.
    """
    labelled = (label != IGNORE_INDEX).flatten(1)
    cost = _cost_of_pixels(logits, label).flatten(1)
    known = cost.detach().masked_fill(~labelled, -1)
    number = (least * labelled.sum(1)).ceil().long()
    ordered = known.sort(1, descending=True).values
    hardest = ordered.gather(1, (number - 1).clamp(min=0)[:, None])
    hard = labelled & ((known > -math.log(threshold)) | ((known >= hardest) & (number > 0)[:, None]))
    return mean_of((cost * hard).sum(), hard.sum(), reduce)


def _cost_of_pixels(logits: Float[Tensor, "B K H W"], label: Int[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Cross-entropy of each pixel; zero where it is ignored."""
    return F.cross_entropy(at_least_single(logits), label, ignore_index=IGNORE_INDEX, reduction="none")


def frequency_weights(
    label: Int[Tensor, "B H W"],
    num_classes: int,
    *,
    bound: float = 1.0,
    batch: bool = False,
    reduce: Reduce = lambda t: t,
) -> Float[Tensor, "B K"]:
    """1 + bound·(1 - f) for each class that an image has, f being its share of the labelled pixels; 1 for the others.

    RobustNet's `--img_wt_loss`.

    Args:
        label: class of each pixel, or 255.
        num_classes: K.
        bound: by how much the rarest class may weigh more.
        batch: take the share over the whole batch (RobustNet's `--batch_weighting`).
        reduce: sums over processes, for the whole batch is that of all.
    """
    place = label.clamp(max=num_classes).flatten(1)
    place = place + (num_classes + 1) * torch.arange(len(label), device=label.device)[:, None]
    counts = torch.bincount(place.flatten(), minlength=len(label) * (num_classes + 1))
    counts = counts.view(len(label), num_classes + 1)[:, :num_classes]
    if batch:
        counts = reduce(counts.sum(0, keepdim=True)).expand(len(label), num_classes)
    frequency = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return 1 + bound * (1 - frequency) * (counts > 0)


def border_classes(
    label: Int[Tensor, "B H W"], num_classes: int, *, border: int, strict: Sequence[int] = ()
) -> tuple[Bool[Tensor, "B H W"], Bool[Tensor, "N K"]]:
    """Which labelled pixels have another class near them, and the classes near each of those, its own included.

    Args:
        label: class of each pixel, or 255.
        num_classes: K.
        border: how near, in pixels along rows and columns.
        strict: classes whose pixels are left out.
    """
    side = 2 * border + 1
    around = F.pad(label, [border] * 4, value=IGNORE_INDEX).unfold(1, side, 1).unfold(2, side, 1)
    other = ((around != label[..., None, None]) & (around != IGNORE_INDEX)).flatten(3).any(3)
    at = other & (label != IGNORE_INDEX)
    if strict:
        at &= ~torch.isin(label, torch.tensor(list(strict), device=label.device))
    near = around[at].flatten(1).clamp(max=num_classes)
    member = torch.zeros(len(near), num_classes + 1, dtype=torch.bool, device=label.device)
    return at, member.scatter_(1, near, True)[:, :num_classes]
