"""The map of the project: every method by name, how it is built, what it learns from, and what it updates.

A method is a small object that the trainer calls three times a step: the network's forward, `losses`, `update`. A new
method is its parts in `models/` and `losses/` and one entry here; the trainer does not change.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spcnet import checkpoint
from spcnet.config import ClusteringConfig, LossConfig, ModelConfig, StyleConfig, from_dict
from spcnet.distributed import Reduce
from spcnet.errors import CheckpointError, DataError, UsageError, lookup
from spcnet.losses.clustering import class_sums, compactness_loss, discrimination_loss, image_sums, labels_at
from spcnet.losses.segmentation import CITYSCAPES_WEIGHTS, cross_entropy, frequency_weights
from spcnet.losses.whitening import covariance, whitening_loss
from spcnet.models.backbones import BACKBONES, backbone_info, build_backbone
from spcnet.models.clustering import PrototypeHead
from spcnet.models.deeplab import DeepLabDecoder, auxiliary_head, linear_classifier
from spcnet.models.pseudo import StyleClusters
from spcnet.models.segmentor import Segmentor
from spcnet.models.style import Mode, StyleProjection, domain_members
from spcnet.models.whitening import InstanceWhitening, Kind, fill_slots, outputs_of, slots_of
from spcnet.types import IGNORE_INDEX, Batch, SegOutput, StepResult
from spcnet.weights.imagenet import load_imagenet

__all__ = ["BACKBONES", "METHODS", "Method", "Segmentor", "build_model", "restore"]


@dataclass(frozen=True)
class Method:
    """One way to train a segmentation network for domains it has not seen."""

    name: str
    summary: str
    paper: str
    style: Mode | None = None
    """What its style layers do; None has no style layers."""
    clustering: bool = False
    """Whether it classifies by prototypes instead of a linear layer."""
    norm: Kind | None = None
    """What it puts into the backbone's norm slots; None leaves them empty."""

    def check(self, model: ModelConfig) -> None:
        """Refuse settings that this method would silently ignore.

        Raises:
            UsageError: naming the option.
        """
        backbone_info(model.backbone)
        if self.style is None and model.style.mode is not None:
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
        """The network of this method.

        Args:
            model: backbone, output stride, weights, style and clustering settings.
            num_classes: K, at least 2.
            num_domains: M, number of source domains; so many style bases and prototypes of each class.
            cluster_domains: find each image's domain by its style (`spcnet.models.pseudo`) instead of taking the batch's.
            pretrained: load `model.weights`; a checkpoint that is about to fill the network passes False.

        Raises:
            UsageError: a name or number makes no sense.
            CheckpointError: the backbone's weights cannot be read or do not fit.
        """
        self.check(model)
        if num_classes < 2 or num_domains < 1:
            raise UsageError(
                f"num_classes is {num_classes} and num_domains {num_domains}: a network needs at least two classes "
                "and one source domain"
            )
        if cluster_domains and self.style is None:
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
        info = backbone_info(model.backbone)
        classifier, finish = build_backbone(model.backbone, output_stride=model.output_stride)
        if pretrained and model.weights is not None:
            load_imagenet(classifier, info, model.weights)
        backbone = finish()
        own = dict.fromkeys(info.norm_slots, self.norm) if self.norm is not None else {}
        slots = slots_of(own if model.norms is None else model.norms, info)
        fill_slots(backbone, slots, relax=model.whitening.relax or 64)
        channels = backbone.channels
        return Segmentor(
            backbone,
            DeepLabDecoder(channels[4], channels[1], output_stride=model.output_stride),
            self._classifier(model.clustering, num_classes, num_domains),
            styles=[self._style_layer(model.style, num_domains, c) for c in channels[:2]] if self.style else (),
            auxiliary=auxiliary_head(channels[3], num_classes) if model.auxiliary_weight > 0 else None,
            clusters=StyleClusters(num_domains, channels[0], distance=model.style.distance)
            if cluster_domains
            else None,
        )

    def _classifier(self, config: ClusteringConfig, num_classes: int, num_domains: int) -> torch.nn.Module:
        if not self.clustering:
            return linear_classifier(num_classes)
        return PrototypeHead(
            num_classes,
            num_domains,
            embedding_dim=config.embedding_dim,
            momentum=config.momentum,
            ramp=config.ramp_up,
        )

    def _style_layer(self, config: StyleConfig, num_domains: int, channels: int) -> StyleProjection:
        assert self.style is not None
        return StyleProjection(
            num_domains,
            channels,
            mode=config.mode or self.style,
            distance=config.distance,
            channel_wise=config.channel_wise,
            momentum=config.momentum,
            sharpness=config.sharpness,
        )

    def losses(
        self,
        network: Segmentor,
        output: SegOutput,
        batch: Batch,
        model: ModelConfig,
        *,
        progress: float = 0.0,
        reduce: Reduce = lambda t: t,
    ) -> StepResult:
        """What this batch costs: L = L_CE + β·L_var + γ·L_dis (paper Eq. 12), each term where the method has it.

        Any batch works: domains in any order and number, absent ones, all pixels ignored, a single image.

        Args:
            network: what `build` made.
            output: its answer to the batch.
            batch: the batch.
            model: the settings it was built with.
            progress: share of the run that is done, 0..1; relaxed borders may end before the run.
            reduce: sums over processes (`spcnet.distributed.all_reduce_sum`); the losses are then those of the joined batch.

        Raises:
            DataError: a label lies outside 0..K-1 and is not 255; names the images.
            UsageError: a domain index lies outside 0..M-1.
        """
        check_labels(batch, output.logits.shape[1])
        if network.clusters is not None:
            batch = batch._replace(domain=network.clusters(output.styles[0]))
        if network.num_domains is not None:
            domain_members(batch.domain, network.num_domains)
        head, classes, clustering = network.prototype_head, None, {}
        # Before the cross-entropy, whose gradient is then taken first: a step needs most memory there, and the gradient
        # of the embeddings, as large as they are, does not exist yet.
        if head is not None and output.embedding is not None:
            label = labels_at(batch.label, (output.embedding.shape[2], output.embedding.shape[3])).flatten(1)
            pixels = output.embedding.flatten(2).transpose(1, 2)
            prototypes = head.unit_prototypes
            sums = image_sums(pixels, label, batch.domain, prototypes)
            classes = class_sums(sums, batch.domain, num_domains=prototypes.shape[1], reduce=reduce)
            clustering["var"] = compactness_loss(classes)
            clustering["dis"] = discrimination_loss(classes, prototypes, temperature=model.clustering.temperature)
        entropy = segmentation_loss(output.logits, batch.label, model.loss, progress=progress, reduce=reduce)
        parts = {"ce": entropy, **clustering}
        loss = parts["ce"]
        if output.auxiliary is not None:
            small = labels_at(batch.label, (output.auxiliary.shape[2], output.auxiliary.shape[3]))
            weight = fixed_weights(model.loss, output.auxiliary)
            parts["aux"] = cross_entropy(output.auxiliary, small, weight=weight, reduce=reduce)
            loss = loss + model.auxiliary_weight * parts["aux"]
        if clustering:
            loss = loss + model.clustering.var_weight * parts["var"] + model.clustering.dis_weight * parts["dis"]
        if output.whitened:
            parts["whitening"] = torch.stack(
                [
                    whitening_loss(feature, layer.mask, margin=layer.margin, reduce=reduce)
                    for layer, feature in zip(network.whitening_layers, output.whitened, strict=True)
                ]
            ).mean()
            loss = loss + model.whitening.weight * parts["whitening"]
        told = {name: part.detach() for name, part in parts.items()}
        return StepResult(loss, told, classes, output.styles, batch.domain)

    def statistics_at(self, network: Segmentor, model: ModelConfig, iterations: int) -> int | None:
        """The iteration before which selective whitening takes its statistics; None where nothing is selected.

        Args:
            network: what `build` made.
            model: the settings it was built with.
            iterations: length of the run.
        """
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
        """Select the covariances that photometric changes disturb (Choi et al., §3.3-3.4): trial by trial, masks AND-ed.

        Args:
            network: what `build` made; in evaluation mode.
            forward: the network as it is called in this run, with its precision.
            trials: of each trial the batches, in which altered images and their originals take turns.
            model: the settings it was built with.
            reduce: sums over processes, so that all select the same.
        """
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

    def update(
        self,
        network: Segmentor,
        result: StepResult,
        *,
        progress: float,
        reduce: Reduce = lambda t: t,
    ) -> None:
        """Pull style bases and prototypes towards a batch, after the optimiser's step.

        Args:
            network: what `build` made.
            result: what `losses` returned for the batch.
            progress: share of the run that is done, 0..1.
            reduce: sums over processes.
        """
        if result.domain is not None:
            for layer, stats in zip(network.style_layers, result.styles, strict=True):
                layer.update(stats, result.domain, reduce=reduce)
            if network.clusters is not None:
                network.clusters.update(result.styles[0], result.domain, reduce=reduce)
        if network.prototype_head is not None and result.classes is not None:
            network.prototype_head.update(result.classes, progress=progress)


def segmentation_loss(
    logits: Tensor, label: Tensor, config: LossConfig, *, progress: float = 0.0, reduce: Reduce = lambda t: t
) -> Tensor:
    """The cross-entropy in the form that the settings ask for."""
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
    """The weights of the classes where they are fixed, on the device of the scores."""
    if config.weighting != "class":
        return None
    return torch.tensor(config.class_weights or CITYSCAPES_WEIGHTS, device=logits.device)


def _selective(network: Segmentor) -> list[InstanceWhitening]:
    return [layer for layer in network.whitening_layers if layer.selective]


def check_labels(batch: Batch, num_classes: int) -> None:
    """Refuse labels that no class has.

    Raises:
        DataError: a label lies outside 0..K-1 and is not 255; names the images.
    """
    strange = ((batch.label < 0) | (batch.label >= num_classes)) & (batch.label != IGNORE_INDEX)
    if bool(strange.any()):
        names = [name for name, wrong in zip(batch.name, strange.flatten(1).any(1).tolist(), strict=True) if wrong]
        values = sorted(set(batch.label[strange].tolist()))
        raise DataError(
            f"{', '.join(names[:3])} {'has' if len(names) == 1 else 'have'} the labels {values[:5]}: with "
            f"{num_classes} classes a label is 0..{num_classes - 1}, or {IGNORE_INDEX} for a pixel to ignore"
        )


_SPCNET = "Huang et al., Style Projected Clustering for Domain Generalized Semantic Segmentation, CVPR 2023"

_ROBUSTNET = (
    "Choi et al., RobustNet: Improving Domain Generalization in Urban-Scene Segmentation via Instance Selective "
    "Whitening, CVPR 2021"
)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "deeplabv3plus",
            "DeepLabV3+ without anything for other domains: the baseline",
            "Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018",
        ),
        Method(
            "spcnet", "SPC-Net: style projection and semantic clustering", _SPCNET, style="projection", clustering=True
        ),
        Method("style_projection", "SPC-Net's style projection alone (Table 5)", _SPCNET, style="projection"),
        Method("semantic_clustering", "SPC-Net's semantic clustering alone (Table 5)", _SPCNET, clustering=True),
        Method(
            "style_normalization",
            "Each image's style taken away at the two style layers, nothing put in its place",
            _SPCNET,
            style="normalization",
        ),
        Method(
            "ibn",
            "IBN-Net: instance norm with gain and offset in the stem and after the first two stages",
            "Pan et al., Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net, ECCV 2018",
            norm="ibn",
        ),
        Method(
            "is",
            "Instance standardisation: the same without gain and offset, what whitening starts from",
            _ROBUSTNET,
            norm="is",
        ),
        Method(
            "iw",
            "Instance whitening: the same, and a loss that removes every covariance between channels",
            _ROBUSTNET,
            norm="iw",
        ),
        Method(
            "irw",
            "Instance relaxed whitening: the loss leaves a margin",
            _ROBUSTNET,
            norm="irw",
        ),
        Method(
            "isw",
            "Instance selective whitening (RobustNet): the loss removes the covariances that photometric changes disturb",
            _ROBUSTNET,
            norm="isw",
        ),
        Method(
            "sw",
            "Switchable whitening: a learned mixture of batch and instance whitening, in groups of 16 channels",
            "Pan et al., Switchable Whitening for Deep Representation Learning, ICCV 2019",
            norm="sw",
        ),
        Method(
            "style_substitution",
            "Each image's style replaced by the nearest known one at the two style layers",
            _SPCNET,
            style="substitution",
        ),
    )
}
"""Method by name."""


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        UsageError: no method has it.
    """
    return lookup(name, METHODS, "method")


def build_model(
    method: str,
    *,
    backbone: str = "resnet50",
    num_classes: int = 19,
    num_domains: int = 2,
    output_stride: int = 16,
    weights: str | None = None,
    style: StyleConfig | None = None,
    clustering: ClusteringConfig | None = None,
    auxiliary: bool = False,
) -> Segmentor:
    """Build a network by names.

    ```python
    model = spcnet.build_model("spcnet", backbone="resnet50", num_classes=19, num_domains=2, output_stride=16)
    logits = model(image).logits  # image: B×3×H×W, normalised, at least 33×33 pixels; logits: B×K×H×W
    ```

    Args:
        method: a name in `METHODS`.
        backbone: a name in `BACKBONES`.
        num_classes: K.
        num_domains: M, number of source domains.
        output_stride: 8, 16 or 32.
        weights: `imagenet`, a local file with torchvision's key names, or None for random values.
        style: settings of style projection.
        clustering: settings of semantic clustering.
        auxiliary: build the auxiliary head (the reference's parameter counts include it).

    Raises:
        UsageError: a name or number makes no sense.
        CheckpointError: the weights cannot be read or do not fit.
    """
    config = ModelConfig(
        backbone=backbone,
        output_stride=output_stride,
        weights=weights,
        style=style or StyleConfig(),
        clustering=clustering or ClusteringConfig(),
        auxiliary_weight=0.4 if auxiliary else 0.0,
    )
    return method_named(method).build(config, num_classes=num_classes, num_domains=num_domains)


def restore(path: Path | str) -> tuple[Segmentor, checkpoint.ModelCard]:
    """Build the network that a run or a checkpoint file holds, and say what it is; see `spcnet.runs.OpenRun`."""
    file = checkpoint.find(Path(path))
    stored = checkpoint.read(file)
    return rebuild(stored, str(file)), stored.card


def rebuild(stored: checkpoint.Checkpoint, source: str) -> Segmentor:
    """The network that a checkpoint holds, in evaluation mode.

    Args:
        stored: what is in the file.
        source: name of the file, for messages.

    Raises:
        CheckpointError: the tensors do not fit the network that the card names.
    """
    card = stored.card
    try:
        network = method_named(card.method).build(
            from_dict(ModelConfig, card.model),
            num_classes=len(card.classes),
            num_domains=len(card.domains),
            cluster_domains=any(name.startswith("clusters.") for name in stored.tensors),
            pretrained=False,
        )
    except UsageError as error:
        raise CheckpointError(f"the checkpoint {source} cannot be built: {error}") from error
    fill(network, stored.tensors, source)
    return network.eval()


def fill(network: Segmentor, tensors: dict[str, Tensor], source: str) -> None:
    """Load every tensor of a checkpoint into a network; nothing may be missing, left over, or of another shape.

    Raises:
        CheckpointError: says how many classes or domains the file was trained with where that is the difference.
    """
    wanted = network.state_dict()
    shapes = _sizes(tensors), _sizes(wanted)
    for what, theirs, ours in zip(("classes", "source domains"), *shapes, strict=True):
        if theirs is not None and ours is not None and theirs != ours:
            raise CheckpointError(
                f"{source} was trained with {theirs} {what}, the network has {ours}: build it with {theirs}, or train anew"
            )
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    misshapen = sorted(k for k in wanted.keys() & tensors.keys() if wanted[k].shape != tensors[k].shape)
    for problem, keys in (("lacks", missing), ("has besides", unexpected), ("has in another shape", misshapen)):
        if keys:
            raise CheckpointError(
                f"{source} {problem} {len(keys)} tensors ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}): "
                "it was trained with another method or backbone"
            )
    network.load_state_dict(tensors)


def _sizes(tensors: dict[str, Tensor]) -> tuple[int | None, int | None]:
    """Numbers of classes and domains that tensors were made for, None where they do not tell."""
    by_key: dict[str, Callable[[Tensor], tuple[int | None, int | None]]] = {
        "classifier.prototypes": lambda t: (t.shape[0], t.shape[1]),
        "classifier.0.weight": lambda t: (t.shape[0], None),
        "styles.0.base_mean": lambda t: (None, t.shape[0]),
    }
    found: list[Any] = [None, None]
    for key, sizes in by_key.items():
        if key in tensors:
            found = [new if new is not None else old for old, new in zip(found, sizes(tensors[key]), strict=True)]
    return found[0], found[1]


def card_for(
    *,
    method: str,
    model: ModelConfig,
    space: str,
    classes: tuple[str, ...],
    domains: list[str],
    size: tuple[int, int] | None,
) -> checkpoint.ModelCard:
    """What a checkpoint says of its network."""
    return checkpoint.ModelCard(
        method=method,
        model=dataclasses.asdict(model),
        space=space,
        classes=classes,
        domains=tuple(domains),
        size=size,
    )
