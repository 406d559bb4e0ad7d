"""Pseudo-domains of a single source: which style base an image fills depends on its style, not by its data set.

SPC-Net keeps ten bases for a single source and does not say what fills them. `StyleClusters` divides the images by
online k-means over their shallow style statistics. A centre that gets hardly any images starts again at an image that
is far from all centres, as dead codes of a codebook do (Dhariwal et al., Jukebox, 2020); at the beginning all do so, one
a step. So no base stays empty, whatever the start and however alike the images are.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spcnet.distributed import Reduce, has_largest
from spcnet.models.style import Distance, domain_members, style_distance
from spcnet.numerics import without_autocast
from spcnet.types import StyleStats

MOMENTUM = 0.95
"""Momentum of the centres."""
SHARE_MOMENTUM = 0.99
"""Momentum of the fraction of images that a centre gets."""
DEAD = 0.25
"""A centre is reset when it gets less than this fraction of 1/M of the images."""


class StyleClusters(nn.Module):
    """Assigns each image to the nearest of M centres; the buffers are the centres and their fractions of the images."""

    mean: Tensor
    std: Tensor
    share: Tensor

    def __init__(self, num_domains: int, channels: int, *, distance: Distance = "was") -> None:
        super().__init__()
        self.distance = distance
        self.register_buffer("mean", torch.zeros(num_domains, channels))
        self.register_buffer("std", torch.ones(num_domains, channels))
        self.register_buffer("share", torch.zeros(num_domains))

    def forward(self, stats: StyleStats) -> Int[Tensor, " B"]:
        """The domain of each image; changes no state.

        Args:
            stats: the images' styles before the first style layer.
        """
        distance = style_distance(stats, self.mean, self.std, distance=self.distance).mean(dim=2)
        near, domain = distance.masked_fill(self.share == 0, torch.inf).min(dim=1)
        waiting = self.waiting
        if waiting is not None and bool((self.share > 0).any()):
            # The image farthest from its centre, weighted by how many images that centre has.
            served = near * self.share[domain]
            if has_largest(float(served.max())):
                domain[served.argmax()] = waiting
        return domain

    @property
    def waiting(self) -> int | None:
        """The centre that is reset at the next update, if any."""
        least = int(self.share.argmin())
        return least if float(self.share[least]) < DEAD / len(self.share) else None

    @torch.no_grad()
    def update(self, stats: StyleStats, domain: Int[Tensor, " B"], *, reduce: Reduce = lambda t: t) -> None:
        """Pull each centre towards the images that were assigned to it.

        Args:
            stats: input of `forward`.
            domain: output of `forward`.
            reduce: sums over processes.
        """
        member = domain_members(domain, len(self.share)).to(stats.mean.dtype)
        with without_autocast(member):
            totals = reduce(torch.cat([member.sum(0)[:, None], member.T @ stats.mean, member.T @ stats.std], dim=1))
        count, mean, std = totals.to(self.mean.dtype).tensor_split([1, 1 + stats.mean.shape[1]], dim=1)
        new = torch.zeros_like(count, dtype=torch.bool)
        if self.waiting is not None:
            new[self.waiting] = True
        for centre, total in ((self.mean, mean), (self.std, std)):
            centre.copy_(self._moved(centre, total / count.clamp(min=1), count > 0, new))
        taken = new.squeeze(1) & (count.squeeze(1) > 0)
        self.share.mul_(SHARE_MOMENTUM).add_(count.squeeze(1) / count.sum(), alpha=1 - SHARE_MOMENTUM)
        self.share[taken] = 1 / len(self.share)

    def _moved(
        self, centre: Float[Tensor, "M C"], to: Float[Tensor, "M C"], present: Tensor, new: Tensor
    ) -> Float[Tensor, "M C"]:
        return torch.where(present, torch.where(new, to, MOMENTUM * centre + (1 - MOMENTUM) * to), centre)
