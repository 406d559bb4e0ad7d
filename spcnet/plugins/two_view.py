"""Two-view consistency: an image and its altered self get the same classes.

The network is trained on both, and the Jensen-Shannon divergence of their class probabilities is a term of the loss
(Zhao et al., SHADE, ECCV 2022, Eq. 3, weight 10; Hendrycks et al., AugMix, ICLR 2020). What alters the second view are the
other plug-ins of the run, or a change of brightness, contrast and saturation of its own.
"""

from dataclasses import dataclass

import torch
import torchvision.transforms.v2.functional as tvf
from torch import Tensor

from spcnet.config import method_option
from spcnet.distributed import Reduce
from spcnet.losses.consistency import jensen_shannon
from spcnet.methods.base import Terms
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.plugins.base import Plugin
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD, Batch, SegOutput


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    weight: float = method_option(10.0, least=0, noun="a loss weight", zero="off")
    """Weight of the divergence; 0 only trains on both views."""
    photometric: float = method_option(0.0, least=0, most=1)
    """The second view's brightness, contrast and saturation get factors within 1 ± this; 0 leaves them to the other plug-ins."""


class TwoView(Plugin):
    """Doubles the batch and asks for the same classes in both halves."""

    name = "two_view"
    summary = "Two-view consistency: an image and its altered self are trained on and get the same classes"
    paper = "Zhao et al., Style-Hallucinated Dual Consistency Learning for Domain Generalized Semantic Segmentation, ECCV 2022"
    settings_type = Settings
    settings: Settings
    doubles = True

    @property
    def alters(self) -> bool:
        """Whether it makes a second view itself."""
        return self.settings.photometric > 0

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> Tensor:
        """Change brightness, contrast and saturation."""
        if not self.alters:
            return batch.image
        change = self.settings.photometric
        mean, std = (batch.image.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        altered = []
        for image, rng in zip(batch.image, step.generators("two_view"), strict=True):
            brightness, contrast, saturation = rng.uniform(1 - change, 1 + change, 3)
            plain = (image * std + mean).clamp(0, 1)
            plain = tvf.adjust_contrast(tvf.adjust_brightness(plain, brightness), contrast)
            altered.append((tvf.adjust_saturation(plain, saturation) - mean) / std)
        return torch.stack(altered)

    def terms(self, network: Segmentor, output: SegOutput, batch: Batch, step: Step, *, reduce: Reduce) -> Terms:
        """The divergence of the two halves."""
        if self.settings.weight == 0:
            return {}
        return {"consistency": (jensen_shannon(*output.logits.chunk(2), reduce=reduce), self.settings.weight)}
