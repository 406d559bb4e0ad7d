"""DSU (Li et al., ICLR 2022): an image's style is drawn around its own, as uncertain as the batch is diverse.

F' = γ·(F-μ)/σ + β with β = μ + ε·Σ_μ, γ = σ + ε'·Σ_σ (Eq. 7-10), ε, ε' ~ N(0, 1) for each image and channel; Σ_μ and Σ_σ
are the deviations of μ and σ over the batch (Eq. 4-5). As in MixStyle, the statistics get no gradient here. The paper draws
at every stage, which `layers` can name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from spcnet.config import RunConfig, method_option
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.models.style import VARIANCE_EPS
from spcnet.plugins.base import Plugin
from spcnet.plugins.features import NewStyle, Restyler, check_batch, everywhere, normal, places_of
from spcnet.types import Batch, StyleStats


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    probability: float = method_option(0.5, least=0, most=1, noun="a probability")
    """That a layer draws new styles for the images of a batch at all."""
    strength: float = method_option(1.0, least=0)
    """Factor on the deviations over the batch; the paper's is 1."""
    layers: list[str] | None = method_option(None)
    """Places in the backbone after which styles are drawn. Default: the first two that decoders read, of a CNN those after the stem."""


class _Drawn(NewStyle):
    def __init__(self, step: Step, key: str, strength: float) -> None:
        self.step, self.key, self.strength = step, key, strength

    def __call__(self, own: StyleStats) -> StyleStats:
        """Around its own."""
        if self.strength == 0 or len(self.step.everywhere) < 2:
            return own
        spread = [(value.var(0) + VARIANCE_EPS).sqrt() for value in everywhere(own)]
        noise = normal(self.step, self.key, own.mean.shape[1], own.mean) * self.strength
        return StyleStats(own.mean + noise[0] * spread[0], own.std + noise[1] * spread[1])


class DSU(Plugin):
    """Draws styles from normal distributions around those of the images."""

    name = "dsu"
    summary = "DSU: each image's style is drawn around its own, as far as the styles of the batch lie apart"
    paper = "Li et al., Uncertainty Modeling for Out-of-Distribution Generalization, ICLR 2022"
    settings_type = Settings
    settings: Settings

    def check(self, config: RunConfig) -> None:
        """Refuse a batch whose styles lie nowhere apart."""
        check_batch(config, self.name)

    def taps(self, network: Segmentor, config: RunConfig) -> Mapping[str, nn.Module]:
        """A layer at each of the places."""
        places = places_of(network, self.settings.layers, self.option("layers"), config.model.backbone)
        self.layers = {place: Restyler() for place in places}
        return self.layers

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> Tensor:
        """Draw for each layer whether it draws."""
        for place, layer in self.layers.items():
            key = f"dsu.{place}"
            draws = step.generator(key).random() < self.settings.probability and self.settings.strength > 0
            layer.new_style = _Drawn(step, key, self.settings.strength) if draws else None
        return batch.image
