"""MixStyle (Zhou et al., ICLR 2021, Eq. 4-6) on any method: an image's style is mixed with that of another image.

F' = γ·(F-μ)/σ + β with γ = λ·σ + (1-λ)·σ', β = λ·μ + (1-λ)·μ', λ ~ Beta(α, α).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from spcnet import distributed
from spcnet.config import RunConfig, method_option
from spcnet.methods.step import Step
from spcnet.models.mixing import Partner, mixed
from spcnet.models.network import Segmentor
from spcnet.plugins.base import Plugin
from spcnet.plugins.features import NewStyle, Restyler, check_batch, check_partners, everywhere, places_of
from spcnet.types import Batch, StyleStats


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    probability: float = method_option(0.5, least=0, most=1, noun="a probability")
    """That a layer mixes the images of a batch at all."""
    alpha: float = method_option(0.1, above=0, noun="the parameter of the Beta distribution")
    """Small values mix little: most images keep their own style or take the other's."""
    mix: Partner = method_option("random")
    """Whose style an image gets a part of: any image's of the batch (random), or an image's of another domain (cross-domain)."""
    layers: list[str] | None = method_option(None)
    """Places in the backbone after which styles are mixed. Default: the first two that decoders read, of a CNN those after the stem."""


class _Mixed(NewStyle):
    def __init__(self, partner: Tensor, strength: Tensor) -> None:
        self.partner, self.strength = partner, strength

    def __call__(self, own: StyleStats) -> StyleStats:
        """A part of its own, a part of its partner's."""
        return mixed(own, everywhere(own), self.partner, self.strength)


class MixStyle(Plugin):
    """Mixes the styles of the images of a micro-batch, those of all processes."""

    name = "mixstyle"
    summary = "MixStyle: the styles of a batch's images are mixed after the first stages"
    paper = "Zhou et al., Domain Generalization with MixStyle, ICLR 2021"
    settings_type = Settings
    settings: Settings

    def check(self, config: RunConfig) -> None:
        """Refuse a run in which an image has no partner."""
        check_batch(config, self.name)
        if self.settings.mix == "cross-domain":
            check_partners(config, self.option("mix"))

    def taps(self, network: Segmentor, config: RunConfig) -> Mapping[str, nn.Module]:
        """A mixer at each of the layers."""
        places = places_of(network, self.settings.layers, self.option("layers"), config.model.backbone)
        self.mixers = {place: Restyler() for place in places}
        return self.mixers

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> Tensor:
        """Draw for each mixer whether it mixes, with which partners, and how much."""
        device, alpha = batch.image.device, self.settings.alpha
        for place, mixer in self.mixers.items():
            mixer.new_style = None
            key = f"mixstyle.{place}"
            if step.generator(key).random() < self.settings.probability:
                strength = torch.tensor([rng.beta(alpha, alpha) for rng in step.generators(key)])
                mixer.new_style = _Mixed(self._partners(batch, step, key).to(device), strength.to(device))
        return batch.image

    def _partners(self, batch: Batch, step: Step, key: str) -> Tensor:
        """Of each image the number, in `Step.everywhere`, of the one that it is mixed with."""
        order = np.argsort(step.everywhere)  # whoever has an image, it has the same partner
        if self.settings.mix == "random":
            partner = np.empty_like(order)
            partner[order] = order[step.generator(f"{key}.partner").permutation(len(order))]
            place = {position: number for number, position in enumerate(step.everywhere)}
            return torch.from_numpy(partner[[place[position] for position in step.positions]])
        domains = distributed.gather_rows(batch.domain).cpu().numpy()[order]
        partners = []
        for rng, domain, position in zip(
            step.generators(f"{key}.partner"), batch.domain.tolist(), step.positions, strict=True
        ):
            others = order[domains != domain]
            partners.append(rng.choice(others) if len(others) else step.everywhere.index(position))
        return torch.from_numpy(np.array(partners, np.int64))
