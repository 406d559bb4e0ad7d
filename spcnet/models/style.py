"""Style projection: an image's style becomes a weighted sum of the stored styles of the known domains.

Huang et al., "Style Projected Clustering for Domain Generalized Semantic Segmentation", CVPR 2023, §3.2, Eq. 1-7.
The mathematics are functions; `StyleProjection` holds the bases. `forward` reads them, `update` writes them.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spcnet.distributed import Reduce
from spcnet.errors import UsageError
from spcnet.numerics import at_least_single, without_autocast
from spcnet.types import KnownStyles, StyleStats

Distance = Literal["was", "abs", "kl"]
Mode = Literal["projection", "normalization", "substitution"]

VARIANCE_EPS = 1e-6
"""Added to the variance before the root, as the reference does; keeps a flat feature map finite."""


def style_stats(feature: Float[Tensor, "B C h w"], *, correction: int = 1) -> StyleStats:
    """Mean and standard deviation of each image and channel over the cells (Eq. 1-2).

    Computed in at least single precision and without gradient: the method treats an image's own style as a constant.

    Args:
        feature: feature map.
        correction: the variance has the divisor h·w - correction; the public training code has 1, the official
            inference code 0. A map of a single cell has variance 0.
    """
    values = at_least_single(feature.detach())
    cells = values.shape[2] * values.shape[3]
    mean = values.mean(dim=(2, 3))
    # In two passes, which is as exact as `torch.var_mean` and three times as fast on a processor.
    squares = (values - mean[..., None, None]).square_().sum(dim=(2, 3))
    variance = squares / (cells - correction if cells > 1 else 1)
    return StyleStats(mean, (variance + VARIANCE_EPS).sqrt())


def style_distance(
    stats: StyleStats, base_mean: Float[Tensor, "M C"], base_std: Float[Tensor, "M C"], *, distance: Distance = "was"
) -> Float[Tensor, "B M C"]:
    """Distance of each image's style to each base, channel by channel (Eq. 3 for `was`).

    - `was`: squared 2-Wasserstein distance of two normal distributions, (μ-pμ)² + (σ-pσ)²
    - `abs`: |μ/σ - pμ/pσ|
    - `kl`: KL(N(μ,σ) ‖ N(pμ,pσ))
    """
    mean, std = stats.mean[:, None], stats.std[:, None]
    if distance == "was":
        return (mean - base_mean).square() + (std - base_std).square()
    if distance == "abs":
        return (mean / std - base_mean / base_std).abs()
    if distance == "kl":
        return (base_std / std).log() + (std.square() + (mean - base_mean).square()) / (2 * base_std.square()) - 0.5
    raise UsageError(f"unknown style distance {distance!r}: known are was, abs, kl")


def style_weights(distance: Float[Tensor, "B M ..."], *, sharpness: float = 1.0) -> Float[Tensor, "B M ..."]:
    """How much each base explains each image, λ; sums to one over the bases (Eq. 4 at `sharpness` 1).

    1/(1+d) lies in 0..1, so that two bases never get more than 0.73 to 0.27; `sharpness` widens that.
    """
    return torch.softmax(sharpness / (1.0 + distance), dim=1)


def restyle(
    feature: Float[Tensor, "B C h w"], stats: StyleStats, mean: Float[Tensor, "B C"], std: Float[Tensor, "B C"]
) -> Float[Tensor, "B C h w"]:
    """Give each image another style: σ'·(F-μ)/σ + μ' (Eq. 7), as one multiply and one add per cell."""
    scale = std / stats.std
    return scale_and_shift(feature, scale, mean - stats.mean * scale)


def scale_and_shift(
    feature: Float[Tensor, "B C h w"], scale: Float[Tensor, "B C"], shift: Float[Tensor, "B C"]
) -> Float[Tensor, "B C h w"]:
    """A factor and an addend for each image and channel, rounded to the map's precision once, at the end.

    A scale or shift that is rounded to bfloat16 moves the mean of a channel by up to 2⁻⁸ of it, which is 0.17 deviations where the
    mean is 30.
    """
    kept = torch.promote_types(feature.dtype, scale.dtype) if feature.dtype.itemsize < 4 else feature.dtype
    changed = torch.addcmul(shift[..., None, None].to(kept), feature, scale[..., None, None].to(kept))
    return changed.to(feature.dtype)


class Restyled(NamedTuple):
    """Output of a style layer."""

    feature: Float[Tensor, "B C h w"]
    stats: StyleStats
    """Style of each image before the layer."""
    weights: Float[Tensor, "B M ..."] | None
    """λ, or None in the mode `normalization`, which has no bases to weigh."""


class StyleProjection(nn.Module):
    """Style bases of M known domains at one layer with C channels, and the layer that applies them.

    Modes (paper Table 6): `projection` takes the weighted sum of the bases, `substitution` the nearest base,
    `normalization` mean 0 and deviation 1. In all three the image's own statistics are constants for the gradient.
    """

    base_mean: Tensor
    base_std: Tensor
    decoder_reads_before = True
    """The decoder's fine features are those before the projection, as in the released weights."""

    def __init__(
        self,
        num_domains: int,
        channels: int,
        *,
        mode: Mode = "projection",
        distance: Distance = "was",
        channel_wise: bool = False,
        momentum: float = 0.9,
        sharpness: float = 1.0,
        correction: int = 1,
    ) -> None:
        super().__init__()
        self.mode, self.distance, self.channel_wise = mode, distance, channel_wise
        self.momentum, self.sharpness, self.correction = momentum, sharpness, correction
        self.register_buffer("base_mean", nn.init.trunc_normal_(torch.empty(num_domains, channels), std=0.02))
        self.register_buffer("base_std", torch.ones(num_domains, channels))

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Restyled:
        """Restyle each image; the bases stay as they are."""
        stats = style_stats(feature, correction=self.correction)
        weights = self.weigh(stats)
        if weights is None:
            zero = torch.zeros_like(stats.mean)
            return Restyled(restyle(feature, stats, zero, zero + 1), stats, None)
        per_channel = weights if self.channel_wise else weights[..., None]
        mean, std = (per_channel * self.base_mean).sum(1), (per_channel * self.base_std).sum(1)
        return Restyled(restyle(feature, stats, mean, std), stats, weights)

    def weigh(self, stats: StyleStats) -> Float[Tensor, "B M ..."] | None:
        """How much each base explains each image's style, λ; None in the mode `normalization`."""
        if self.mode == "normalization":
            return None
        distance = style_distance(stats, self.base_mean, self.base_std, distance=self.distance)
        if not self.channel_wise:
            distance = distance.mean(dim=2)
        if self.mode == "substitution":
            return torch.zeros_like(distance).scatter(1, distance.argmin(dim=1, keepdim=True), 1.0)
        return style_weights(distance, sharpness=self.sharpness)

    def known_styles(self) -> KnownStyles:
        """Its bases, with distances and λ as means over the channels."""
        bases = StyleStats(self.base_mean, self.base_std)

        def distance(stats: StyleStats) -> Tensor:
            return style_distance(stats, *bases, distance=self.distance).mean(dim=2)

        def weights(stats: StyleStats) -> Tensor | None:
            weights = self.weigh(stats)
            return weights.mean(dim=2) if weights is not None and weights.ndim > 2 else weights

        return KnownStyles(self.mode, bases, distance, weights, self.correction)

    @torch.no_grad()
    def update(self, stats: StyleStats, domain: Int[Tensor, " B"], *, reduce: Reduce = lambda t: t) -> None:
        """Pull each base towards the mean statistics of this batch's images of its domain; absent domains stay.

        Args:
            stats: what `forward` returned for this batch.
            domain: source domain of each image, in any order.
            reduce: sums over processes, so that many processes equal one on the joined batch.

        Raises:
            UsageError: a domain index lies outside 0..M-1.
        """
        member = domain_members(domain, len(self.base_mean)).to(stats.mean.dtype)
        with without_autocast(member):
            totals = reduce(torch.cat([member.sum(0)[:, None], member.T @ stats.mean, member.T @ stats.std], dim=1))
        count, mean, std = totals.tensor_split([1, 1 + stats.mean.shape[1]], dim=1)
        present = count > 0
        for base, total in ((self.base_mean, mean), (self.base_std, std)):
            moved = self.momentum * base + (1 - self.momentum) * (total / count.clamp(min=1)).to(base.dtype)
            base.copy_(torch.where(present, moved, base))


def domain_members(domain: Int[Tensor, " B"], num_domains: int) -> Int[Tensor, "B M"]:
    """One-hot matrix of which image belongs to which domain.

    Raises:
        UsageError: a domain index lies outside 0..M-1.
    """
    member = domain[:, None] == torch.arange(num_domains, device=domain.device)
    if not bool(member.any(dim=1).all()):
        raise UsageError(
            f"the batch has the domain indices {sorted(set(domain.tolist()))}: the network knows the domains "
            f"0..{num_domains - 1}. Give each image the index of its source, or build a network with more domains"
        )
    return member.long()
