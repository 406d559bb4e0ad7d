"""The whitening losses: covariances between channels of a standardised feature map are penalised (Choi et al., CVPR 2021)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spcnet.distributed import Reduce
from spcnet.numerics import at_least_single, without_autocast

EPS = 1e-5
"""Added to the diagonal of a covariance, as the reference does."""


def covariance(feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C C"]:
    """z·z'/(h·w-1) of each image's standardised feature map z, plus 1e-5 on the diagonal (Eq. 4).

    In at least single precision.
    """
    with without_autocast(feature):
        cells = at_least_single(feature.flatten(2))
        products = cells @ cells.transpose(1, 2) / max(cells.shape[2] - 1, 1)
        return products + EPS * torch.eye(cells.shape[1], dtype=cells.dtype, device=cells.device)


def whitening_loss(
    feature: Float[Tensor, "B C h w"],
    mask: Bool[Tensor, "C C"],
    *,
    margin: float = 0.0,
    reduce: Reduce = lambda t: t,
) -> Float[Tensor, ""]:
    """Sum of |covariance| over the masked entries beyond a margin, per masked entry; mean over the images.

    All entries above the diagonal and no margin: instance whitening (Eq. 6). With a margin: relaxed (Eq. 8). Selected
    entries: selective (Eq. 11). Zero, with a zero gradient, where no entry is masked.

    Args:
        feature: standardised feature maps, outputs of an instance norm without gain and offset.
        mask: the penalised entries.
        margin: part of the sum that costs nothing.
        reduce: sums over processes.
    """
    size = (covariance(feature).abs() * mask).sum((1, 2))
    beyond = (size - margin).clamp(min=0) / mask.sum().clamp(min=1)
    total, images = reduce(torch.stack([beyond.sum(), beyond.new_tensor(len(beyond))]))
    loss: Tensor = total / images
    return loss
