"""MixStyle (Zhou et al., ICLR 2021, Eq. 4-6) on any method: an image's style is mixed with that of another image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from spcnet.config import RunConfig, method_option
from spcnet.methods.step import Step
from spcnet.models.mixing import StyleMixer
from spcnet.models.network import Segmentor
from spcnet.plugins.base import Plugin, places_of
from spcnet.types import Batch


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    probability: float = method_option(0.5, least=0, most=1, noun="a probability")
    """That a layer mixes the images of a batch at all."""
    alpha: float = method_option(0.1, above=0, noun="the parameter of the Beta distribution")
    """Small values mix little: most images keep their own style or take the other's."""
    mix: Literal["random", "cross-domain"] = method_option("random")
    """Whose style an image gets a part of: any image's of the batch (random), or an image's of another domain (cross-domain)."""
    layers: list[str] | None = method_option(None)
    """Places in the backbone after which styles are mixed. Default: the first two that decoders read, of a CNN those after the stem."""


class MixStyle(Plugin):
    """Mixes the styles of the images of a micro-batch."""

    name = "mixstyle"
    summary = "MixStyle: the styles of a batch's images are mixed after the first stages"
    paper = "Zhou et al., Domain Generalization with MixStyle, ICLR 2021"
    settings_type = Settings
    settings: Settings

    def taps(self, network: Segmentor, config: RunConfig) -> Mapping[str, nn.Module]:
        """A mixer at each of the layers."""
        places = places_of(network, self.settings.layers, self.option("layers"), config.model.backbone)
        self.mixers = {place: StyleMixer() for place in places}
        return self.mixers

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> torch.Tensor:
        """Draw for each mixer whether it mixes, with which partners, and how much."""
        for place, mixer in self.mixers.items():
            mixer.partner = mixer.strength = None
            key = f"mixstyle.{place}"
            if step.generator(key).random() >= self.settings.probability:
                continue
            generators, domain = step.generators(key), batch.domain.tolist()
            strength = [rng.beta(self.settings.alpha, self.settings.alpha) for rng in generators]
            chance = torch.tensor([[rng.random() for _ in domain] for rng in generators])
            mixer.partner = chance.argmax(1).to(batch.image.device)
            mixer.strength = torch.tensor(strength, dtype=torch.float32).to(batch.image.device)
        return batch.image
