"""The losses of semantic clustering: pixels near their prototype, class means away from the other classes.

Huang et al., CVPR 2023, Eq. 9-12. Everything is a matrix product over all pixels, classes and domains at once; no
copy of the embeddings is made, so memory is that of two gradients of the embeddings' size, whatever K and M.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spcnet.types import ClassSums


def one_hot_pixels(label: Int[Tensor, "B P"], num_classes: int, dtype: torch.dtype) -> Float[Tensor, "B P K"]:
    """Which class each pixel has; a row of zeros where the pixel is ignored."""
    return (label[..., None] == torch.arange(num_classes, device=label.device)).to(dtype)


def class_sums(
    embedding: Float[Tensor, "B P D"],
    member: Float[Tensor, "B P K"],
    domain: Int[Tensor, " B"],
    *,
    num_domains: int,
) -> ClassSums:
    """Sum of embeddings and number of pixels for each class and domain; differentiable in the embeddings.

    Args:
        embedding: pixels of each image.
        member: class of each pixel, from `one_hot_pixels`.
        domain: source domain of each image, in any order, 0..M-1.
        num_domains: M.
    """
    of_domain = (domain[:, None] == torch.arange(num_domains, device=domain.device)).to(embedding.dtype)
    per_image = member.transpose(1, 2) @ embedding
    total = torch.einsum("bkd,bm->kmd", per_image, of_domain)
    pixels = torch.einsum("bk,bm->km", member.sum(1), of_domain)
    return ClassSums(total, pixels)


def compactness_loss(
    embedding: Float[Tensor, "B P D"],
    member: Float[Tensor, "B P K"],
    domain: Int[Tensor, " B"],
    prototypes: Float[Tensor, "K M D"],
    pixels: Float[Tensor, "K M"],
) -> Float[Tensor, ""]:
    """L_var: mean of (1 - e·p)² over the pixels of each class and domain, summed, divided by K·M (Eq. 9).

    The prototypes are those before this step's update, of unit length, and get no gradient. Zero, with a zero gradient, where every
    pixel is ignored.
    """
    own = prototypes.detach().transpose(0, 1)[domain]
    cosine = torch.bmm(embedding, own.transpose(1, 2).to(embedding.dtype))
    # One number for each image and class: pixels of other classes are masked out before anything is summed.
    distance = ((1 - cosine).square() * member).sum(1)
    weight = 1 / pixels.clamp(min=1).T[domain]
    return (distance * weight.to(distance.dtype)).sum() / pixels.numel()


def discrimination_loss(
    classes: ClassSums, prototypes: Float[Tensor, "K M D"], *, temperature: float = 0.1
) -> Float[Tensor, ""]:
    """L_dis: each class mean should resemble its class's prototypes more than those of all others (Eq. 10-11).

    For the mean direction ē of each class and domain present: cross-entropy of [mean over m of ē·p_km, all
    similarities to the (K-1)·M prototypes of other classes] / τ with the first as the target; summed, divided by K·M.
    The prototypes are of unit length and get no gradient.
    Zero, with a zero gradient, where every pixel is ignored.
    """
    num_classes, num_domains, _ = prototypes.shape
    mean = F.normalize(classes.total / classes.pixels.clamp(min=1)[..., None], dim=-1)
    known = prototypes.detach().to(mean.dtype)
    similarity = torch.einsum("kmd,jnd->kmjn", mean, known) / temperature
    own = torch.eye(num_classes, dtype=torch.bool, device=mean.device)[:, None, :, None]
    positive = (similarity * own).sum((2, 3)) / num_domains
    negatives = similarity.masked_fill(own, -torch.inf).flatten(2)
    everything = torch.cat([positive[..., None], negatives], dim=-1).logsumexp(-1)
    return ((everything - positive) * (classes.pixels > 0)).sum() / classes.pixels.numel()


def labels_at(label: Int[Tensor, "B H W"], size: tuple[int, int]) -> Int[Tensor, "B h w"]:
    """Labels brought to the size of a feature map by nearest neighbour, as the reference does."""
    return F.interpolate(label[:, None].float(), size=size, mode="nearest")[:, 0].to(label.dtype)
