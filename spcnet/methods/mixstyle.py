"""MixStyle (Zhou et al., ICLR 2021): in training, an image's style at the first stages is mixed with that of another image."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spcnet.config import ModelConfig, method_option
from spcnet.errors import UsageError
from spcnet.methods.robustnet import RobustNet
from spcnet.models.backbones import Backbone
from spcnet.models.network import Segmentor
from spcnet.models.style import restyle, style_stats
from spcnet.types import Batch

Partner = Literal["random", "cross-domain"]


@dataclass(frozen=True)
class Settings:
    """`model.settings` of MixStyle."""

    probability: float = method_option(0.5, least=0, most=1, noun="a probability")
    """That a layer mixes the images of a batch at all."""
    alpha: float = method_option(0.1, above=0, noun="the parameter of the Beta distribution")
    """Small values mix little: most images keep their own style or take the other's."""
    mix: Partner = method_option("random")
    """Whose style an image gets a part of: any image's of the batch (random), or an image's of another domain (cross-domain)."""
    layers: list[str] | None = method_option(None)
    """Places in the backbone after which styles are mixed. Default: the first two that decoders read, of a CNN those after the stem."""


class StyleMixer(nn.Module):
    """Mixes the styles of a batch's images at one layer, with the draws of `prepare`; the identity in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.partner: Tensor | None = None
        """Index of each image's partner in the next batch; None for no mixing."""
        self.strength: Tensor | None = None
        """λ, the weight of each image's own style, 0..1."""

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Mix the styles, or return the input."""
        if not self.training or self.partner is None or self.strength is None:
            return feature
        return mix_styles(feature, self.partner, self.strength)


def mix_styles(
    feature: Float[Tensor, "B C h w"], partner: Int[Tensor, " B"], strength: Float[Tensor, " B"]
) -> Float[Tensor, "B C h w"]:
    """λ·σ + (1-λ)·σ' times the standardised feature, plus λ·μ + (1-λ)·μ'; the statistics get no gradient (Eq. 4-6).

    Args:
        feature: feature map.
        partner: index of the image that provides σ', μ'.
        strength: λ, the weight of each image's own style, 0..1.
    """
    stats = style_stats(feature)
    keep = strength[:, None].to(stats.mean.dtype)
    mean, std = (keep * values + (1 - keep) * values[partner] for values in stats)
    return restyle(feature, stats, mean, std)


def other_domain(domain: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """For each image a random one of another domain; itself where there is none."""
    chance = torch.rand(len(domain), len(domain))
    other = domain[:, None] != domain
    partner = chance.masked_fill(~other, -1).argmax(dim=1)
    return torch.where(other.any(dim=1), partner, torch.arange(len(domain)))


@dataclass(frozen=True)
class MixStyle(RobustNet):
    """DeepLabV3+ with mixed styles after some layers; adds no parameters."""

    settings: ClassVar[type] = Settings

    def make_taps(self, model: ModelConfig, num_domains: int, backbone: Backbone) -> dict[str, nn.Module]:
        """A mixer at each of the layers."""
        settings: Settings = self.own_settings(model)
        channels = backbone.channels
        layers = backbone.pyramid[:2] if settings.layers is None else settings.layers
        unknown = [name for name in layers if name not in channels]
        if unknown:
            raise UsageError(
                f"model.settings.layers names {unknown[0]}: the backbone {model.backbone} has {', '.join(channels)}"
            )
        return {place: StyleMixer() for place in channels if place in layers}

    def prepare(self, network: Segmentor, batch: Batch, model: ModelConfig, *, progress: float = 0.0) -> None:
        """Also draw for each mixer whether it mixes, with which partners, and how much.

        What is drawn comes from the processor's generator, which training seeds for each iteration, micro-batch and
        process: so it is a function of these, on every device, and the same when a run is resumed or a micro-batch is
        computed twice. Partners are images of the same micro-batch of the same process: with more processes or
        micro-batches each image has fewer to be mixed with.
        """
        super().prepare(network, batch, model, progress=progress)
        settings: Settings = self.own_settings(model)
        device, images = batch.image.device, len(batch.image)
        alpha = torch.tensor(settings.alpha, dtype=torch.float64)
        for mixer in network.modules():
            if not isinstance(mixer, StyleMixer):
                continue
            mixer.partner = mixer.strength = None
            if float(torch.rand(())) < settings.probability:
                partner = torch.randperm(images) if settings.mix == "random" else other_domain(batch.domain.cpu())
                strength = torch.distributions.Beta(alpha, alpha).sample((images,)).float()
                mixer.partner, mixer.strength = partner.to(device), strength.to(device)


MIXSTYLE = MixStyle(
    "mixstyle",
    "MixStyle: in training, the styles of a batch's images are mixed after the first stages",
    "Zhou et al., Domain Generalization with MixStyle, ICLR 2021",
)
