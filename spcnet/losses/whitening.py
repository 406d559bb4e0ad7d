"""The whitening losses: channels of a standardised feature map should not go together (Choi et al., CVPR 2021)."""

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
        found = cells @ cells.transpose(1, 2) / max(cells.shape[2] - 1, 1)
        return found + EPS * torch.eye(cells.shape[1], dtype=cells.dtype, device=cells.device)


def whitening_loss(
    feature: Float[Tensor, "B C h w"],
    mask: Bool[Tensor, "C C"],
    *,
    margin: float = 0.0,
    reduce: Reduce = lambda t: t,
) -> Float[Tensor, ""]:
    """Mean over the images of what |covariance| sums up to over the masked entries, beyond a margin, for each entry.

    All entries above the diagonal and no margin: instance whitening (Eq. 6). With a margin: relaxed (Eq. 8). Selected
    entries: selective (Eq. 11). Zero, with a zero gradient, where no entry is masked.

    Args:
        feature: standardised feature maps, what an instance norm without gain and offset returns.
        mask: the entries that should vanish.
        margin: how large the sum may be at no cost.
        reduce: sums over processes.
    """
    size = (covariance(feature).abs() * mask).sum((1, 2))
    beyond = (size - margin).clamp(min=0) / mask.sum().clamp(min=1)
    total, images = reduce(torch.stack([beyond.sum(), beyond.new_tensor(len(beyond))]))
    found: Tensor = total / images
    return found
