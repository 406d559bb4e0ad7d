"""Mixed styles (MixStyle; Zhou et al., ICLR 2021): an image's style becomes a mixture of its own and another image's."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spcnet.models.style import restyle, style_stats
from spcnet.types import StyleStats

Partner = Literal["random", "cross-domain"]


class StyleMixer(nn.Module):
    """Mixes the styles of a batch's images at one layer, as `prepare` drew; in evaluation the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.partner: Tensor | None = None
        """Of each image of the next batch the one whose style it gets a part of; None where nothing is mixed."""
        self.strength: Tensor | None = None
        """How much of its own style each image keeps, 0..1."""

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Mix, or leave all images as they are."""
        if not self.training or self.partner is None or self.strength is None:
            return feature
        return mix_styles(feature, self.partner, self.strength)


def mix_styles(
    feature: Float[Tensor, "B C h w"], partner: Int[Tensor, " B"], strength: Float[Tensor, " B"]
) -> Float[Tensor, "B C h w"]:
    """λ·σ + (1-λ)·σ' times the standardised feature, plus λ·μ + (1-λ)·μ'; the statistics get no gradient (Eq. 4-6).

    Args:
        feature: feature map.
        partner: of each image the one whose style σ', μ' it gets a part of.
        strength: λ, how much of its own each image keeps, 0..1.
    """
    own = style_stats(feature)
    return restyle(feature, own, *mixed(own, own, partner, strength))


def mixed(own: StyleStats, others: StyleStats, partner: Int[Tensor, " B"], strength: Float[Tensor, " B"]) -> StyleStats:
    """λ·σ + (1-λ)·σ' and λ·μ + (1-λ)·μ' (Eq. 5-6).

    Args:
        own: the style of each image.
        others: the styles that `partner` numbers.
        partner: of each image the one whose style σ', μ' it gets a part of.
        strength: λ, how much of its own each image keeps, 0..1.
    """
    keep = strength[:, None].to(own.mean.dtype)
    return StyleStats(*(keep * a + (1 - keep) * b[partner] for a, b in zip(own, others, strict=True)))


def other_domain(domain: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """For each image a random one of another domain; itself where there is none."""
    chance = torch.rand(len(domain), len(domain))
    other = domain[:, None] != domain
    partner = chance.masked_fill(~other, -1).argmax(dim=1)
    return torch.where(other.any(dim=1), partner, torch.arange(len(domain)))
