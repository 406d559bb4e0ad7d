"""MixStyle (Zhou et al., ICLR 2021): in training, an image's style at the first stages is mixed with that of another image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from spcnet.config import ModelConfig, method_option
from spcnet.errors import UsageError
from spcnet.methods.robustnet import RobustNet
from spcnet.models.backbones import Backbone
from spcnet.models.mixing import Partner, StyleMixer, other_domain
from spcnet.models.network import Segmentor
from spcnet.types import Batch


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
