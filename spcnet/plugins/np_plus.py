"""NP+ and MRFP (Udupa et al., CVPR 2024): the mean and the contrast of each channel are perturbed, and random features added.

F' = α·(F-μ) + β·μ for each image and channel, α ~ N(1, s), β = 1 + N(0, s)·r·Σ_μ/max Σ_μ, where Σ_μ is the deviation of μ
over the batch and the maximum is over the channels: channels whose mean tells one image from another are perturbed most.
NP (Fan et al., CVPR 2023) has β ~ N(1, s). MRFP adds, every other time, what two 3×3 convolutions at twice the resolution with
weights that are drawn anew in every step and never trained make of F. Here μ gets no gradient, and their bottleneck has a
quarter of the channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.config import RunConfig, method_option
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.models.style import scale_and_shift, style_stats
from spcnet.plugins.base import Plugin
from spcnet.plugins.features import everywhere, normal, places_of
from spcnet.types import Batch


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    probability: float = method_option(0.5, least=0, most=1, noun="a probability")
    """That a layer perturbs the images of a batch at all."""
    deviation: float = method_option(0.75, least=0)
    """Deviation s of the factors."""
    spread: float = method_option(1.5, least=0)
    """Factor r on the deviation of each channel's mean over the batch."""
    random_features: float = method_option(0.5, least=0, most=1, noun="a probability")
    """That random features are added to the first place's map (MRFP); 0 for NP+ alone."""
    layers: list[str] | None = method_option(None)
    """Places in the backbone after which features are perturbed. Default: the two of style layers, of a CNN the stem and the first stage."""


class Perturbation(nn.Module):
    """Perturbs the map of a place, as the latest `alter` drew."""

    def __init__(self, key: str, settings: Settings) -> None:
        super().__init__()
        self.key, self.settings = key, settings
        self.step: Step | None = None
        """Of which it draws; None where it does nothing."""
        self.adds = False
        """Whether it adds random features."""

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Perturb, or leave all as it is."""
        if self.step is None:
            return feature
        extra = random_features(feature, self.step.generator(f"{self.key}.weights")) if self.adds else None
        if self.settings.deviation > 0:
            feature = self._perturbed(feature, self.step)
        return feature if extra is None else feature + extra

    def _perturbed(self, feature: Tensor, step: Step) -> Tensor:
        stats = style_stats(feature)
        alpha, beta = normal(step, self.key, feature.shape[1], stats.mean) * self.settings.deviation
        spread = torch.zeros_like(beta[0])
        if len(step.everywhere) > 1:
            spread = everywhere(stats).mean.std(0)
            spread = spread / spread.max().clamp_min(torch.finfo(spread.dtype).tiny)
        scale, beta = 1 + alpha, 1 + beta * self.settings.spread * spread
        return scale_and_shift(feature, scale, (beta - scale) * stats.mean)


def random_features(feature: Float[Tensor, "B C h w"], rng: np.random.Generator) -> Float[Tensor, "B C h w"]:
    """What two random convolutions at twice the resolution make of a map, at its own resolution.

    Args:
        feature: the map.
        rng: what their weights are drawn from, normal as He et al. (ICCV 2015) scale them.
    """
    channels = feature.shape[1]
    inner = max(1, channels // 4)
    value = F.interpolate(feature, scale_factor=2.0, mode="bilinear")
    for given, made in ((channels, inner), (inner, channels)):
        weight = rng.standard_normal((made, given, 3, 3), dtype=np.float32) * np.float32((2 / (9 * given)) ** 0.5)
        value = F.relu(F.conv2d(value, torch.from_numpy(weight).to(value.device, value.dtype), padding=1))
    return F.avg_pool2d(value, 2).to(feature.dtype)


class NPPlus(Plugin):
    """Perturbs means and contrasts of the first maps."""

    name = "np_plus"
    summary = "NP+ and MRFP: mean and contrast of each channel are perturbed, and random features added"
    paper = "Udupa et al., MRFP: Learning Generalizable Semantic Segmentation from Sim-2-Real with Multi-Resolution Feature Perturbation, CVPR 2024"
    settings_type = Settings
    settings: Settings

    def taps(self, network: Segmentor, config: RunConfig) -> Mapping[str, nn.Module]:
        """A layer at each of the places."""
        layers = list(network.backbone.style_places) if self.settings.layers is None else self.settings.layers
        places = places_of(network, layers, self.option("layers"), config.model.backbone)
        self.layers = {place: Perturbation(f"np_plus.{place}", self.settings) for place in places}
        return self.layers

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> Tensor:
        """Draw for each layer whether it perturbs and whether it adds."""
        for number, layer in enumerate(self.layers.values()):
            perturbs, adds = step.generator(layer.key).random(2)
            layer.step = step if perturbs < self.settings.probability else None
            layer.adds = number == 0 and bool(adds < self.settings.random_features)
        return batch.image
