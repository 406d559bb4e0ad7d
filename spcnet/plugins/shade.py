"""SHADE's style hallucination (Zhao et al., ECCV 2022, §3.3): an image gets a mixture of styles that lie far apart.

F' = σ'·(F-μ)/σ + μ' with μ' = Σ w·μ_k, σ' = Σ w·σ_k (Eq. 7-8), w ~ Dirichlet(1/K, ..., 1/K). The K styles are chosen by
farthest point sampling from the styles of the latest images, so that rare ones count as much as frequent ones. The network is
trained on the image as it is and with that style; SHADE's style consistency is the plug-in `two_view`, its retrospection
`feature_distance`. SHADE samples from all training images every third epoch, beginning with a random one; here a memory of
the latest images stands for them, and the first is the one that is farthest from the mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.config import RunConfig, method_option
from spcnet.errors import CheckpointError, UsageError
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.models.style import style_stats
from spcnet.plugins.base import REMEDY, Plugin
from spcnet.plugins.features import NewStyle, Restyler, append, in_order, places_of
from spcnet.types import Batch, StyleStats


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    probability: float = method_option(1.0, least=0, most=1, noun="a probability")
    """That an image's second view gets another style."""
    styles: int = method_option(64, least=2)
    """Number K of the styles that are mixed."""
    memory: int = method_option(1024, least=2)
    """Images whose styles are remembered, the latest ones, of which K are chosen."""
    every: int = method_option(500, least=1)
    """Iterations after which other styles are chosen."""
    layer: str | None = method_option(None)
    """Place in the backbone after which styles are hallucinated. Default: the first, of a CNN the stem."""


class _Hallucinated(NewStyle):
    def __init__(self, weights: Tensor, changed: Tensor, styles: Tensor) -> None:
        self.weights, self.changed, self.styles = weights, changed, styles

    def __call__(self, own: StyleStats) -> StyleStats:
        """The mixture, where an image gets one."""
        mean, std = (self.weights.to(self.styles) @ self.styles).chunk(2, dim=1)
        return StyleStats(
            torch.where(self.changed, mean.to(own.mean), own.mean), torch.where(self.changed, std.to(own.std), own.std)
        )


class _Hallucinator(Restyler):
    """A restyler that also keeps the styles that it is given, by micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.seen = 0, dict[int, Tensor]()

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        self.seen[self.part] = torch.cat(style_stats(feature), dim=1)
        restyled: Tensor = super().forward(feature)
        return restyled


def farthest_points(points: Float[Tensor, "N D"], count: int) -> list[int]:
    """Farthest point sampling: each next point is the one that is farthest from those before (Gonzalez, 1985).

    Args:
        points: N points.
        count: how many to choose, at most N; the first is the farthest from the mean.
    """
    chosen = [int((points - points.mean(0)).square().sum(1).argmax())]
    distance = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return chosen


class Shade(Plugin):
    """Gives the second view of each image a hallucinated style."""

    name = "shade"
    summary = "SHADE's style hallucination: each image is also trained on with a mixture of far-apart styles"
    paper = "Zhao et al., Style-Hallucinated Dual Consistency Learning for Domain Generalized Semantic Segmentation, ECCV 2022"
    settings_type = Settings
    settings: Settings
    doubles = True

    def check(self, config: RunConfig) -> None:
        """Refuse a memory that is too small."""
        if self.settings.memory < self.settings.styles:
            raise UsageError(
                f"{self.option('memory')} is {self.settings.memory}, and {self.option('styles')} {self.settings.styles} of them "
                "are chosen: remember at least as many"
            )

    def taps(self, network: Segmentor, config: RunConfig) -> Mapping[str, nn.Module]:
        """A layer at its place."""
        named = network.backbone.style_places[0] if self.settings.layer is None else self.settings.layer
        (place,) = places_of(network, [named], self.option("layer"), config.model.backbone)
        self.layer = _Hallucinator()
        self.memory = torch.zeros(self.settings.memory, 2 * network.backbone.channels[place])
        self.count = 0
        """Styles that were ever remembered."""
        self.styles: Tensor | None = None
        """Those that are mixed, K×2C; None until K are known."""
        self.positions: dict[int, tuple[int, ...]] = {}
        return {place: self.layer}

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> Tensor:
        """Draw the mixture of each image."""
        self.layer.part, self.positions[step.part] = step.part, step.positions
        self.layer.new_style = None
        if self.styles is not None and self.settings.probability > 0:
            generators = step.generators("shade")
            changed = torch.tensor([[rng.random() < self.settings.probability] for rng in generators])
            count = self.settings.styles
            weights = np.stack([rng.dirichlet(np.full(count, 1 / count)) for rng in generators])
            device = batch.image.device
            self.styles = self.styles.to(device)
            self.layer.new_style = _Hallucinated(torch.from_numpy(weights).to(device), changed.to(device), self.styles)
        return batch.image

    def update(self, step: Step) -> None:
        """Remember the styles of the batch, and choose anew when it is time."""
        parts = sorted(self.layer.seen)
        rows = torch.cat([self.layer.seen[part] for part in parts])
        self.memory = self.memory.to(rows.device)
        (rows,) = in_order([place for part in parts for place in self.positions[part]], rows)
        self.layer.seen, self.positions = {}, {}
        append(self.memory, self.count, rows)
        self.count += len(rows)
        known = self.memory[: self.count]
        due = self.styles is None or (step.iteration + 1) % self.settings.every == 0
        if due and len(known) >= self.settings.styles:
            self.styles = known[farthest_points(known, self.settings.styles)].clone()

    def state(self) -> dict[str, Tensor]:
        """Memory and styles."""
        chosen = {} if self.styles is None else {"styles": self.styles}
        return {"memory": self.memory, "count": torch.tensor(self.count), **chosen}

    def load_state(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Memory and styles, of the same sizes."""
        if "memory" not in tensors or tensors["memory"].shape != self.memory.shape:
            raise CheckpointError(f"{source} has no memory of shade's, or one of another size: {REMEDY}")
        self.memory.copy_(tensors["memory"])
        self.count = int(tensors["count"])
        self.styles = tensors["styles"].to(self.memory) if "styles" in tensors else None
