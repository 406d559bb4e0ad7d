"""RobustNet (Choi et al., CVPR 2021): instance norms and whitening in the backbone, their losses, and ISW's selection.

Every method that derives from `RobustNet` reads `model.norms`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spcnet.config import ModelConfig
from spcnet.distributed import Reduce
from spcnet.errors import UsageError
from spcnet.losses.whitening import covariance, whitening_loss
from spcnet.methods.base import Terms
from spcnet.methods.baseline import Baseline
from spcnet.models.backbones import BACKBONES, Backbone, backbone_info
from spcnet.models.network import Segmentor
from spcnet.models.norm_slots import Slot, fill_slots, slots_of
from spcnet.models.whitening import InstanceWhitening, Kind, outputs_of
from spcnet.types import Batch, SegOutput, internals_of


@dataclass(frozen=True)
class RobustNet(Baseline):
    """A network with one kind of norm in its backbone's slots."""

    norm: Kind | None = None
    """Kind of norm for the slots; None leaves them empty."""

    def check(self, model: ModelConfig) -> None:
        """Also refuse a backbone without slots for the method's norms, and norms in a backbone that is not fully trained."""
        super().check(model)
        if self.norm is not None and model.norms is None and not backbone_info(model.backbone).norm_slots:
            slotted = [name for name, info in BACKBONES.items() if info.norm_slots]
            raise UsageError(
                f"the method {self.name} puts norms into slots of the backbone, and {model.backbone} has none: choose a "
                f"backbone that has ({', '.join(slotted)}), or another method"
            )
        if model.adapter.kind != "full" and self._slots(model):
            raise UsageError(
                f"model.adapter.kind is {model.adapter.kind}, but the method {self.name} with model.norms {model.norms} "
                "replaces norms of the backbone, which has to be trained whole then: choose the kind full, or leave the "
                "norms as they are"
            )

    def _slots(self, model: ModelConfig) -> dict[Slot, Kind]:
        """Kind of norm by slot: the method's, or that of `model.norms`."""
        info = backbone_info(model.backbone)
        default = dict.fromkeys(info.norm_slots, self.norm) if self.norm is not None else {}
        return slots_of(default if model.norms is None else model.norms, info)

    def make_norms(self, backbone: Backbone, model: ModelConfig) -> None:
        """Fill the backbone's slots with the method's norm, or those of `model.norms`."""
        fill_slots(backbone, self._slots(model), relax=model.whitening.relax or 64)

    def terms(
        self,
        network: Segmentor,
        output: SegOutput,
        batch: Batch,
        model: ModelConfig,
        *,
        observed: Any,
        progress: float,
        reduce: Reduce,
    ) -> Terms:
        """The terms of the baseline, and the mean of the whitening layers' losses."""
        terms = super().terms(network, output, batch, model, observed=observed, progress=progress, reduce=reduce)
        if whitened := internals_of(output).whitened:
            losses = [
                whitening_loss(feature, layer.mask, margin=layer.margin, reduce=reduce)
                for layer, feature in zip(network.whitening_layers, whitened, strict=True)
            ]
            terms["whitening"] = torch.stack(losses).mean(), model.whitening.weight
        return terms

    def statistics_at(self, network: Segmentor, model: ModelConfig, iterations: int) -> int | None:
        """The iteration before which selective whitening selects; None where nothing is selected."""
        return round(model.whitening.start * iterations) if _selective(network) else None

    @torch.no_grad()
    def take_statistics(
        self,
        network: Segmentor,
        forward: Callable[[Tensor], object],
        trials: Iterable[Iterable[Batch]],
        model: ModelConfig,
        *,
        reduce: Reduce = lambda t: t,
    ) -> None:
        """Select the covariances that photometric changes disturb (Choi et al., §3.3-3.4): trial by trial, masks AND-ed."""
        layers = _selective(network)
        for layer in layers:
            layer.restart()
        for batches in trials:
            for batch in batches:
                with outputs_of(layers) as features:
                    forward(batch.image)
                for layer, feature in zip(layers, features, strict=True):
                    layer.observe(covariance(feature))
            for layer in layers:
                layer.select(
                    clusters=model.whitening.clusters,
                    relax=model.whitening.relax,
                    legacy=model.whitening.legacy,
                    reduce=reduce,
                )


def _selective(network: Segmentor) -> list[InstanceWhitening]:
    return [layer for layer in network.whitening_layers if layer.selective]


_PAPER = (
    "Choi et al., RobustNet: Improving Domain Generalization in Urban-Scene Segmentation via Instance Selective "
    "Whitening, CVPR 2021"
)

DEEPLAB = RobustNet(
    "deeplabv3plus",
    "DeepLabV3+ without anything for other domains: the baseline",
    "Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018",
)
IBN = RobustNet(
    "ibn",
    "IBN-Net: instance norm with gain and offset in the stem and after the first two stages",
    "Pan et al., Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net, ECCV 2018",
    norm="ibn",
)
IS = RobustNet(
    "is", "Instance standardisation: the same without gain and offset, what whitening starts from", _PAPER, norm="is"
)
IW = RobustNet(
    "iw", "Instance whitening: the same, and a loss that removes every covariance between channels", _PAPER, norm="iw"
)
IRW = RobustNet("irw", "Instance relaxed whitening: the loss leaves a margin", _PAPER, norm="irw")
ISW = RobustNet(
    "isw",
    "Instance selective whitening (RobustNet): the loss removes the covariances that photometric changes disturb",
    _PAPER,
    norm="isw",
)
SW = RobustNet(
    "sw",
    "Switchable whitening: a learned mixture of batch and instance whitening, in groups of 16 channels",
    "Pan et al., Switchable Whitening for Deep Representation Learning, ICCV 2019",
    norm="sw",
)
