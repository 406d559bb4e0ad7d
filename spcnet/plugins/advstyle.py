"""AdvStyle (Zhong et al., NeurIPS 2022, Eq. 3-5): images in the colours that the network finds harder, beside the images themselves."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from spcnet.config import method_option
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.models.style import style_stats
from spcnet.plugins.base import Plugin
from spcnet.types import IGNORE_INDEX, Batch


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    rate: float = method_option(1.0, least=0)
    """Length of the ascent: how far mean and deviation of the channels move along the gradient of the image's own loss."""


class AdvStyle(Plugin):
    """Moves mean and deviation of each channel of an image one step up its loss; the network learns from both images."""

    name = "advstyle"
    summary = "AdvStyle: each image also in the channel means and deviations that make its loss larger"
    paper = "Zhong et al., Adversarial Style Augmentation for Domain Generalized Urban-Scene Segmentation, NeurIPS 2022"
    settings_type = Settings
    settings: Settings
    doubles = True

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> Float[Tensor, "B 3 H W"]:
        """The images in their adversarial style."""
        assert step.forward is not None
        plain = style_stats(batch.image)
        mean, std = (value.detach()[..., None, None] for value in plain)
        still = (batch.image - mean) / std
        with torch.enable_grad():
            style = [mean.clone().requires_grad_(), std.clone().requires_grad_()]
            logits = step.forward(still * style[1] + style[0]).logits
            # A sum, and each image's gradient divided by its pixels afterwards: the mean's would vanish in half precision.
            cost = F.cross_entropy(logits.float(), batch.label, ignore_index=IGNORE_INDEX, reduction="sum")
            slopes = torch.autograd.grad(cost, style)
        pixels = (batch.label != IGNORE_INDEX).sum((1, 2)).clamp(min=1)[:, None, None, None]
        mean, std = (
            value + self.settings.rate * slope / pixels for value, slope in zip((mean, std), slopes, strict=True)
        )
        return still * std + mean
