"""Feature distance (Hoyer et al., DAFormer, CVPR 2022, Eq. 8-10): things look to the network as they did when it was pretrained.

L = mean over the cells of things of ‖F - F_pretrained‖₂, of the deepest map; a cell is of things where at least three quarters of
its pixels are. SHADE's retrospection (Zhao et al., ECCV 2022, §3.2) is the same with weight 1. The frozen copy sees each image as
it is, in a doubled batch for both halves. Reported to harm large pretrained transformers (Englert et al., VFM-UDA, 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from spcnet.config import RunConfig, method_option
from spcnet.distributed import Reduce
from spcnet.errors import UsageError
from spcnet.labels import label_space
from spcnet.methods.base import Terms
from spcnet.methods.baseline import pretrained_backbone
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.numerics import at_least_single
from spcnet.plugins.base import Plugin
from spcnet.plugins.features import Recorder
from spcnet.types import Batch, SegOutput

THINGS = (
    "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""DAFormer's classes of things."""
SHARE = 0.75
"""Of a cell's pixels that must be of things."""


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    weight: float = method_option(0.005, above=0, noun="a loss weight")
    """Weight of the distance; SHADE's is 1."""
    classes: list[str] | None = method_option(None)
    """Names of the classes whose cells count. Default: those of DAFormer's things that the label space has."""


class FeatureDistance(Plugin):
    """Keeps the features of things near those of the pretrained backbone."""

    name = "feature_distance"
    summary = "Feature distance: the deepest features of things stay near those of the pretrained backbone"
    paper = "Hoyer et al., DAFormer: Improving Network Architectures and Training Strategies for Domain-Adaptive Semantic Segmentation, CVPR 2022"
    settings_type = Settings
    settings: Settings

    @property
    def alters(self) -> bool:
        """It reads features alone."""
        return False

    def check(self, config: RunConfig) -> None:
        """Refuse a backbone that was not pretrained or is not trained, and classes that the label space has not."""
        model, known = config.model, label_space(config.data.space).classes
        if model.weights is None:
            raise UsageError(
                "plugins names feature_distance, and model.weights is null: random features are worth no nearness; give "
                "pretrained weights, or leave it out"
            )
        if model.adapter.kind == "frozen":
            raise UsageError(
                "plugins names feature_distance, and model.adapter.kind is frozen: features that are not trained stay as they "
                "are; leave it out, or train the backbone"
            )
        names = self.settings.classes
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise UsageError(f"{self.option('classes')} names {unknown[0]}: {config.data.space} has {', '.join(known)}")
        wanted = THINGS if names is None else names
        self.numbers = [number for number, name in enumerate(known) if name in wanted]
        if not self.numbers:
            raise UsageError(
                f"{self.option('classes')} is {names}, and {config.data.space} has none of {', '.join(THINGS)}: name classes of "
                f"it, {', '.join(known)}"
            )

    def taps(self, network: Segmentor, config: RunConfig) -> Mapping[str, nn.Module]:
        """What keeps the deepest map."""
        self.frozen = pretrained_backbone(config.model).eval().requires_grad_(False)
        self.place, self.recorder = network.backbone.pyramid[-1], Recorder()
        return {self.place: self.recorder}

    def terms(self, network: Segmentor, output: SegOutput, batch: Batch, step: Step, *, reduce: Reduce) -> Terms:
        """The mean distance over the cells of things."""
        feature = at_least_single(self.recorder.take())
        plain = batch.image[: step.images]
        self.frozen.to(plain.device)
        with torch.no_grad(), step.autocast():
            target = self.frozen.features(self.frozen.prepare(plain), (self.place,))[self.place]
        target = at_least_single(target).repeat(len(feature) // len(target), 1, 1, 1)
        things = torch.isin(batch.label, torch.tensor(self.numbers, device=batch.label.device)).to(feature.dtype)
        cells = F.interpolate(things[:, None], feature.shape[2:], mode="area")[:, 0] >= SHARE
        distance = torch.linalg.vector_norm(feature - target, dim=1)
        total, count = reduce(torch.stack([(distance * cells).sum(), cells.sum().to(distance.dtype)]))
        return {"feature_distance": (total / count.clamp_min(1), self.settings.weight)}
