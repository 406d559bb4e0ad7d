"""DeepLabV3+ without domain generalisation: the baseline, and the base class of the other methods."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spcnet.checkpoint import Checkpoint
from spcnet.config import LossConfig, ModelConfig, as_dict, from_dict
from spcnet.distributed import Reduce
from spcnet.errors import UsageError
from spcnet.losses.clustering import labels_at
from spcnet.losses.masks import BCE_WEIGHT, CLASS_WEIGHT, DICE_WEIGHT, mask_losses
from spcnet.losses.overlap import dice_loss, lovasz_softmax
from spcnet.losses.segmentation import (
    CITYSCAPES_WEIGHTS,
    cross_entropy,
    focal_loss,
    frequency_weights,
    hard_pixel_loss,
)
from spcnet.methods.base import Method, Terms, fill
from spcnet.models.adapters import adapt, based
from spcnet.models.backbones import Backbone, backbone_info, build_backbone
from spcnet.models.heads import CLASSIFIERS, decoder_named
from spcnet.models.heads.base import Decoder
from spcnet.models.heads.linear import auxiliary_head
from spcnet.models.network import Segmentor, auxiliary_place
from spcnet.models.pseudo import StyleClusters
from spcnet.types import IGNORE_INDEX, Batch, SegOutput
from spcnet.weights.base import base_of, load_base
from spcnet.weights.imagenet import load_imagenet


class Baseline(Method):
    """DeepLabV3+ on any backbone, trained by cross-entropy; subclasses override the methods that build its parts."""

    @property
    def classifier(self) -> str:
        """Name of the classifier in `CLASSIFIERS`."""
        return "linear"

    @property
    def styled(self) -> bool:
        """Whether it has style layers."""
        return False

    def check(self, model: ModelConfig) -> None:
        """Also refuse an unknown backbone or decoder, settings that the decoder or the method ignores, and clusters of queries."""
        super().check(model)
        backbone_info(model.backbone)
        if decoder_named(model.decoder, model.head).masks:
            self._check_masks(model)
        if model.adapter.kind != "full" and model.features.drop_path > 0:
            raise UsageError(
                f"model.features.drop_path is {model.features.drop_path}, but with model.adapter.kind {model.adapter.kind} the "
                "backbone stays in evaluation mode, without stochastic depth: leave it out, or choose the kind full"
            )
        if not model.adapter.save_base and model.weights is None:
            raise UsageError(
                "model.adapter.save_base is false and model.weights null: random weights cannot be found again, so save them "
                "with the rest"
            )
        if not self.styled and model.style.mode is not None:
            raise UsageError(
                f"model.style.mode is {model.style.mode!r}, but the method {self.name} has no style layers: "
                "choose another method (spcnet, style_projection) or drop the option"
            )

    def build(
        self,
        model: ModelConfig,
        *,
        num_classes: int,
        num_domains: int,
        cluster_domains: bool = False,
        pretrained: bool = True,
    ) -> Segmentor:
        """Build backbone with weights, norms, decoder, classifier, style layers and auxiliary head, in this order."""
        self.check(model)
        self._check_numbers(model, num_classes, num_domains, cluster_domains)
        decode, backbone, base = decoder_named(model.decoder, model.head), random_backbone(model), None
        if pretrained and model.weights is not None:
            fit = load_imagenet(backbone, backbone_info(model.backbone), model.weights)
            base = None if model.adapter.save_base else base_of(backbone, model.weights, fit)
        self.make_norms(backbone, model)
        rein = adapt(backbone, model.adapter, pretrained=pretrained)
        channels = backbone.channels
        decoder = decode(backbone, num_classes, model.head)
        if rein is not None and decoder.first_block is not None:
            raise UsageError(
                f"model.adapter.kind is rein, but the decoder {model.decoder} runs the last blocks itself, without tokens "
                "behind them: choose lora or frozen, or another decoder"
            )
        network = Segmentor(
            backbone,
            decoder,
            None if decoder.masks else self.make_classifier(decoder, num_classes, num_domains, model),
            taps=self.make_taps(model, num_domains, backbone),
            auxiliary=auxiliary_head(channels[auxiliary_place(backbone)], num_classes)
            if model.auxiliary_weight > 0
            else None,
            clusters=StyleClusters(num_domains, channels[backbone.style_places[0]], distance=model.style.distance)
            if cluster_domains
            else None,
            rein=rein,
        )
        network.base = base
        return network

    def restore(self, network: Segmentor, stored: Checkpoint, source: str) -> None:
        """Also load the pretrained weights that the file leaves out."""
        base, tensors = stored.card.base, stored.tensors
        if base is not None and not network.base_tensors() <= tensors.keys():
            model = from_dict(ModelConfig, stored.card.model)
            plain = random_backbone(model)
            load_base(plain, backbone_info(model.backbone), base, source)
            tensors = tensors | based(network.backbone, plain, tensors)
        fill(network, tensors, source)
        network.base = base

    def _check_masks(self, model: ModelConfig) -> None:
        """Refuse what classifies pixels beside a decoder that classifies queries."""
        if self.classifier != "linear":
            raise UsageError(
                f"the method {self.name} classifies pixels by {self.classifier}, and the decoder {model.decoder} classifies "
                "queries and no pixels: choose another decoder (segformer, conv4), or a method that does not cluster"
            )
        if model.auxiliary_weight > 0:
            raise UsageError(
                f"model.auxiliary_weight is {model.auxiliary_weight}, and the decoder {model.decoder} has losses of its own at "
                "every layer and no cross-entropy of pixels: set it to 0, or choose another decoder"
            )
        for name, default in as_dict(LossConfig()).items():
            if getattr(model.loss, name) != default:
                raise UsageError(
                    f"model.loss.{name} is {getattr(model.loss, name)!r}: it changes the cross-entropy of pixels, and the decoder "
                    f"{model.decoder} is trained by the losses of its masks. Leave it out, or choose another decoder"
                )

    def _check_numbers(self, model: ModelConfig, num_classes: int, num_domains: int, cluster_domains: bool) -> None:
        if num_classes < 2 or num_domains < 1:
            raise UsageError(
                f"num_classes is {num_classes} and num_domains {num_domains}: a network needs at least two classes "
                "and one source domain"
            )
        if cluster_domains and not self.styled:
            raise UsageError(
                f"the method {self.name} has no style layers whose statistics could be clustered: set data.pseudo_by to "
                "style or random, or choose another method (spcnet, style_projection)"
            )
        weights = model.loss.class_weights or CITYSCAPES_WEIGHTS
        if model.loss.weighting == "class" and len(weights) != num_classes:
            raise UsageError(
                f"loss.class_weights {'has' if model.loss.class_weights else 'is not given, and RobustNet has'} {len(weights)} "
                f"weights, the label space has {num_classes} classes: give one weight for each class"
            )
        strange = [number for number in model.loss.strict if not 0 <= number < num_classes]
        if strange:
            raise UsageError(f"loss.strict names the classes {strange}: they are 0..{num_classes - 1}")

    def make_classifier(self, decoder: Decoder, num_classes: int, num_domains: int, model: ModelConfig) -> nn.Module:
        """What makes class scores of the decoder's features."""
        made = CLASSIFIERS[self.classifier](decoder.out_channels, num_classes, num_domains, model.clustering)
        if self.classifier == "linear":
            decoder.start_classifier(made)
        return made

    def make_norms(self, backbone: Backbone, model: ModelConfig) -> None:
        """Change the backbone's norms, once it has its pretrained weights."""

    def make_taps(self, model: ModelConfig, num_domains: int, backbone: Backbone) -> dict[str, nn.Module]:
        """Layers that replace the backbone's feature maps, by the place of the map."""
        return {}

    def prepare(self, network: Segmentor, batch: Batch, model: ModelConfig, *, progress: float = 0.0) -> None:
        """Tell the decoder how far the run is."""
        network.decoder.prepare(progress)

    def terms(
        self,
        network: Any,
        output: SegOutput,
        batch: Batch,
        model: ModelConfig,
        *,
        observed: Any,
        progress: float,
        reduce: Reduce,
    ) -> Terms:
        """The losses of pixels, and the cross-entropy of the auxiliary head; those of masks behind a decoder that has such."""
        if output.masks:
            return mask_terms(network, output, batch, model, progress=progress, reduce=reduce)
        terms = pixel_terms(output.logits, batch.label, model.loss, progress=progress, reduce=reduce)
        if output.auxiliary is not None:
            small = labels_at(batch.label, (output.auxiliary.shape[2], output.auxiliary.shape[3]))
            weight = fixed_weights(model.loss, output.auxiliary)
            terms["aux"] = (
                cross_entropy(output.auxiliary, small, weight=weight, reduce=reduce),
                model.auxiliary_weight,
            )
        return terms


def random_backbone(model: ModelConfig) -> Backbone:
    """The backbone that the settings name, with the pyramid that the decoder reads."""
    features, flat = model.features, backbone_info(model.backbone).flat
    if flat and features.pyramid is None and not decoder_named(model.decoder, model.head).pyramid:
        features = replace(features, pyramid="none")
    return build_backbone(model.backbone, output_stride=model.output_stride, features=features)


def pretrained_backbone(model: ModelConfig) -> Backbone:
    """The backbone that the settings name, as `model.weights` has it: with its own norms, and nothing adapted.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
    """
    assert model.weights is not None
    backbone = random_backbone(model)
    load_imagenet(backbone, backbone_info(model.backbone), model.weights)
    return backbone


def mask_terms(
    network: Segmentor, output: SegOutput, batch: Batch, model: ModelConfig, *, progress: float, reduce: Reduce
) -> Terms:
    """The losses of a mask head's classes and masks, each the sum over its predictions.

    Args:
        network: computed the output.
        output: its answer to the batch.
        batch: the batch.
        model: the settings it was built with.
        progress: fraction of the run that is done, 0..1.
        reduce: sums over processes and micro-batches.
    """
    # The masks cover the padded image.
    multiple, (height, width) = network.backbone.pixel_multiple, batch.label.shape[1:]
    label = F.pad(batch.label, (0, -width % multiple, 0, -height % multiple), value=IGNORE_INDEX)
    losses = mask_losses(
        output.masks,
        label,
        num_points=model.head.points,
        fixed_queries=model.head.fixed_queries,
        progress=progress,
        reduce=reduce,
    )
    return {
        "mask_class": (losses.classes, CLASS_WEIGHT),
        "mask_bce": (losses.bce, BCE_WEIGHT),
        "mask_dice": (losses.dice, DICE_WEIGHT),
    }


def pixel_terms(
    logits: Tensor, label: Tensor, config: LossConfig, *, progress: float = 0.0, reduce: Reduce = lambda t: t
) -> Terms:
    """The losses of pixels that the settings ask for, each with its weight."""
    losses: dict[str, Callable[[], Tensor]] = {
        "ce": lambda: segmentation_loss(logits, label, config, progress=progress, reduce=reduce),
        "focal": lambda: focal_loss(logits, label, gamma=config.focal_gamma, reduce=reduce),
        "ohem": lambda: hard_pixel_loss(
            logits, label, threshold=config.ohem_threshold, least=config.ohem_least, reduce=reduce
        ),
        "dice": lambda: dice_loss(logits, label, reduce=reduce),
        "lovasz": lambda: lovasz_softmax(logits, label, reduce=reduce),
    }
    return {name: (losses[name](), weight) for name, weight in config.terms.items()}


def segmentation_loss(
    logits: Tensor, label: Tensor, config: LossConfig, *, progress: float = 0.0, reduce: Reduce = lambda t: t
) -> Tensor:
    """Cross-entropy with the weighting and border of the settings."""
    weight = fixed_weights(config, logits)
    if config.weighting in ("image", "batch"):
        whole = config.weighting == "batch"
        weight = frequency_weights(label, logits.shape[1], bound=config.bound, batch=whole, reduce=reduce)
    return cross_entropy(
        logits,
        label,
        weight=weight,
        per_image=config.weighting == "image",
        border=config.border if progress < config.border_until else 0,
        strict=config.strict,
        reduce=reduce,
    )


def fixed_weights(config: LossConfig, logits: Tensor) -> Tensor | None:
    """Fixed class weights, on the device of the logits; None for other weightings."""
    if config.weighting != "class":
        return None
    return torch.tensor(config.class_weights or CITYSCAPES_WEIGHTS, device=logits.device)
