"""The losses of semantic clustering: pixels near their prototype, class means away from the other classes.

Huang et al., CVPR 2023, Eq. 9-12. The pixels are read once, by matrix products over all pixels and classes of an
image, and reduced to a few numbers for each image and class; the losses are sums over those. Besides the gradient of
the embeddings nothing of their size is allocated, whatever K and M.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from spcnet.distributed import Reduce
from spcnet.numerics import at_least_single, pixels_at_a_time, without_autocast
from spcnet.types import ClassSums


class ImageSums(NamedTuple):
    """Sums over the pixels of each image and class."""

    total: Float[Tensor, "B K D"]
    """Sum of the embeddings of its pixels."""
    distance: Float[Tensor, "B K"]
    """Sum of (1 - e·p)² over them, p being the prototype of the class and the image's domain."""
    pixels: Float[Tensor, "B K"]
    """Number of its pixels."""


def image_sums(
    embedding: Float[Tensor, "B P D"],
    label: Int[Tensor, "B P"],
    domain: Int[Tensor, " B"],
    prototypes: Float[Tensor, "K M D"],
) -> ImageSums:
    """Reduce the pixels of each image to sums for each class; differentiable once in the embeddings.

    Args:
        embedding: pixels of each image.
        label: class of each pixel; those outside 0..K-1 are ignored.
        domain: source domain of each image, in any order, 0..M-1.
        prototypes: of unit length, those before this step's update; they get no gradient.
    """
    embedding = at_least_single(embedding)
    domain_prototypes = prototypes.detach().transpose(0, 1)[domain].to(embedding.dtype)
    with without_autocast(embedding):
        total, distance, pixels = _ImageSums.apply(embedding, label, domain_prototypes)
    return ImageSums(total, distance, pixels)


class _ImageSums(torch.autograd.Function):
    """One gradient for both sums, written in one place; autograd alone would hold two of the embeddings' size."""

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, label: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        num_classes = prototypes.shape[1]
        member = one_hot_pixels(label, num_classes, embedding.dtype)
        known = label.clamp(0, num_classes - 1)[..., None]
        away = 1 - torch.bmm(embedding, prototypes.transpose(1, 2)).gather(2, known)
        total = member.transpose(1, 2) @ embedding
        distance = (away.square() * member).sum(1)
        pixels = member.sum(1)
        ctx.mark_non_differentiable(pixels)
        ctx.save_for_backward(label, prototypes, away)
        return total, distance, pixels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_total: Tensor, g_distance: Tensor, g_pixels: Tensor) -> tuple[Tensor, None, None]:
        label, prototypes, away = ctx.saved_tensors
        (num_images, num_classes, dim), num_pixels = prototypes.shape, label.shape[1]
        # A pixel's gradient depends on its image and class and on one number of its own. Row K is for the ignored.
        known = torch.where((label >= 0) & (label < num_classes), label, num_classes)
        row = (known + (num_classes + 1) * torch.arange(num_images, device=label.device)[:, None]).flatten()
        constant, direction, scale = (
            F.pad(value, (0, 0, 0, 1)).flatten(0, 1) for value in (g_total, prototypes, g_distance[..., None])
        )
        slope = -scale[row] * (2 * away.reshape(-1, 1))
        gradient = prototypes.new_empty(num_images * num_pixels, dim)
        step = pixels_at_a_time(label.device)
        cache = torch.empty_like(gradient[:step])
        for begin in range(0, len(row), step):
            part = slice(begin, begin + step)
            torch.index_select(constant, 0, row[part], out=gradient[part])
            away_from = torch.index_select(direction, 0, row[part], out=cache[: len(row[part])])
            gradient[part] += away_from.mul_(slope[part])
        return gradient.view(num_images, num_pixels, dim), None, None


def one_hot_pixels(label: Int[Tensor, "B P"], num_classes: int, dtype: torch.dtype) -> Float[Tensor, "B P K"]:
    """Which class each pixel has; a row of zeros where the pixel is ignored."""
    return (label[..., None] == torch.arange(num_classes, device=label.device)).to(dtype)


def class_sums(
    sums: ImageSums, domain: Int[Tensor, " B"], *, num_domains: int, reduce: Reduce = lambda t: t
) -> ClassSums:
    """The same sums for each class and domain.

    Args:
        sums: of each image, from `image_sums`.
        domain: source domain of each image, in any order, 0..M-1.
        num_domains: M.
        reduce: sums over processes, so that the losses of many processes equal those of one on the joined batch.
    """
    of_domain = (domain[:, None] == torch.arange(num_domains, device=domain.device)).to(sums.total.dtype)
    images = torch.cat([sums.total, sums.pixels[..., None], sums.distance[..., None]], dim=-1)
    with without_autocast(images):
        totals = reduce(torch.einsum("bkd,bm->kmd", images, of_domain))
    return ClassSums(total=totals[..., :-2], pixels=totals[..., -2], distance=totals[..., -1])


def compactness_loss(classes: ClassSums) -> Float[Tensor, ""]:
    """L_var: mean of (1 - e·p)² over the pixels of each class and domain, summed, divided by K·M (Eq. 9).

    Zero, with a zero gradient, where every pixel is ignored.
    """
    return (classes.distance / classes.pixels.clamp(min=1)).sum() / classes.pixels.numel()


def discrimination_loss(
    classes: ClassSums, prototypes: Float[Tensor, "K M D"], *, temperature: float = 0.1
) -> Float[Tensor, ""]:
    """L_dis: contrastive loss of each class mean with its prototypes as positives, those of other classes as negatives (Eq. 10-11).

    For the mean direction ē of each class and domain present: cross-entropy of [mean over m of ē·p_km, all
    similarities to the (K-1)·M prototypes of other classes] / τ with the first as the target; summed, divided by K·M.
    The prototypes are of unit length and get no gradient.
    Zero, with a zero gradient, where every pixel is ignored.
    """
    num_classes, num_domains, _ = prototypes.shape
    mean = F.normalize(classes.total / classes.pixels.clamp(min=1)[..., None], dim=-1)
    known = prototypes.detach().to(mean.dtype)
    with without_autocast(mean):
        similarity = torch.einsum("kmd,jnd->kmjn", mean, known) / temperature
    same_class = torch.eye(num_classes, dtype=torch.bool, device=mean.device)[:, None, :, None]
    positive = (similarity * same_class).sum((2, 3)) / num_domains
    negatives = similarity.masked_fill(same_class, -torch.inf).flatten(2)
    everything = torch.cat([positive[..., None], negatives], dim=-1).logsumexp(-1)
    return ((everything - positive) * (classes.pixels > 0)).sum() / classes.pixels.numel()


def labels_at(label: Int[Tensor, "B H W"], size: tuple[int, int]) -> Int[Tensor, "B h w"]:
    """Labels brought to the size of a feature map by nearest neighbour, as the reference does."""
    return F.interpolate(label[:, None].float(), size=size, mode="nearest")[:, 0].to(label.dtype)
