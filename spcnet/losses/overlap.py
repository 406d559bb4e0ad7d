"""Losses that compare each class's region as a whole with its label: Dice, and the Lovasz extension of the IoU."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spcnet.distributed import Reduce
from spcnet.losses.segmentation import mean_of
from spcnet.numerics import at_least_single
from spcnet.types import IGNORE_INDEX


def dice_loss(
    logits: Float[Tensor, "B K H W"], label: Int[Tensor, "B H W"], *, reduce: Reduce = lambda t: t
) -> Float[Tensor, ""]:
    """1 - 2·Σ p·t / (Σ p + Σ t), the sums over the labelled pixels of the batch, mean over the classes that it has.

    Sudre et al., Generalised Dice Overlap, 2017 (section 2), for each class alone. A class without a label costs nothing. Zero, with a
    zero gradient, where every pixel is ignored. In at least single precision.

    Args:
        logits: class scores.
        label: class of each pixel, or 255.
        reduce: sums over processes, so that the regions are those of the joined batch.
    """
    probability = at_least_single(logits).softmax(1)
    labelled = (label != IGNORE_INDEX)[:, None]
    member = label[:, None] == torch.arange(logits.shape[1], device=label.device)[:, None, None]
    own = (probability * member).sum((0, 2, 3))
    total, pixels = (probability * labelled).sum((0, 2, 3)), member.sum((0, 2, 3)).to(own)
    own, total, pixels = reduce(torch.stack([own, total, pixels])).unbind()
    cost = 1 - 2 * own / (total + pixels).clamp(min=torch.finfo(own.dtype).tiny)
    present = pixels > 0
    return (cost * present).sum() / present.sum().clamp(min=1)


def lovasz_softmax(
    logits: Float[Tensor, "B K H W"], label: Int[Tensor, "B H W"], *, reduce: Reduce = lambda t: t
) -> Float[Tensor, ""]:
    """The Lovasz extension of 1 - IoU of each class that an image has: mean over these, then over the images.

    Berman et al., The Lovasz-Softmax Loss, CVPR 2018 (Eq. 8, 11, 12), the form for each image: the errors of a whole batch would
    have to be sorted together, which several processes cannot. Images without a labelled pixel do not count; where
    none has one the loss is zero with a zero gradient. In at least single precision.

    Args:
        logits: class scores.
        label: class of each pixel, or 255.
        reduce: sums over processes, so that the mean is that of all images.
    """
    scores = at_least_single(logits)
    costs = [_lovasz_of_image(*image) for image in zip(scores, label, strict=True)]
    images = (label != IGNORE_INDEX).flatten(1).any(1).sum()
    return mean_of(torch.stack(costs).sum(), images, reduce)


def _lovasz_of_image(scores: Float[Tensor, "K H W"], label: Int[Tensor, "H W"]) -> Float[Tensor, ""]:
    labelled = label != IGNORE_INDEX
    classes = torch.unique(label[labelled])
    if not len(classes):
        return 0 * scores.sum()
    probability = scores.softmax(0)[classes][:, labelled]
    member = label[labelled] == classes[:, None]
    error, order = torch.where(member, 1 - probability, probability).sort(1, descending=True)
    return (error * jaccard_steps(member.gather(1, order), error.dtype)).sum(1).mean()


def jaccard_steps(member: Bool[Tensor, "K P"], dtype: torch.dtype) -> Float[Tensor, "K P"]:
    """By how much 1 - IoU of a class grows with each further pixel that is wrong: the gradient of its Lovasz extension (Eq. 9).

    A pixel of the class leaves the intersection, any other joins the union. As a difference of two IoUs a step would lose its
    digits in large images, so each is written as one quotient.

    Args:
        member: whether each pixel is of the class, in the order in which they become wrong.
        dtype: of the result.
    """
    pixels = member.sum(1, keepdim=True)
    intersection = (pixels - member.cumsum(1)).to(dtype)
    union = (pixels + (~member).cumsum(1)).to(dtype)
    return torch.where(member, 1 / union, intersection / (union * (union - 1).clamp(min=1)))
