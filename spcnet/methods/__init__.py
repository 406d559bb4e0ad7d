"""Every method by name, and the networks that they build, restore and describe.

The interface is `spcnet.methods.base.Method`. To add a method, write a module here and add a line to `METHODS`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from spcnet import checkpoint
from spcnet.config import ModelConfig, from_dict
from spcnet.errors import CheckpointError, UsageError, lookup
from spcnet.methods import mixstyle, robustnet, spcnet
from spcnet.methods.baseline import Baseline
from spcnet.models.adapters import merge
from spcnet.models.network import Segmentor

METHODS: dict[str, Baseline] = {
    method.name: method
    for method in (
        robustnet.DEEPLAB,
        spcnet.SPCNET,
        spcnet.PROJECTION,
        spcnet.CLUSTERING,
        spcnet.NORMALIZATION,
        robustnet.IBN,
        robustnet.IS,
        robustnet.IW,
        robustnet.IRW,
        robustnet.ISW,
        robustnet.SW,
        spcnet.SUBSTITUTION,
        mixstyle.MIXSTYLE,
    )
}
"""Method by name."""


def method_named(name: str) -> Baseline:
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
    output_stride: int | None = 16,
    weights: str | None = None,
    auxiliary: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Segmentor:
    """Build a network by names.

    ```python
    model = spcnet.build_model("spcnet", backbone="resnet50", num_classes=19, num_domains=2, output_stride=16)
    logits = model(image).logits  # image: B×3×H×W, normalised, at least 33×33 pixels; logits: B×K×H×W
    ```

    Args:
        method: a name in `METHODS`.
        backbone: a name in `spcnet.models.backbones.BACKBONES`, or `timm/` and a model's name in timm.
        num_classes: K.
        num_domains: M, number of source domains.
        output_stride: 8, 16 or 32; None for the backbone's own.
        weights: `imagenet`, a local file with torchvision's key names, or None for random values.
        auxiliary: build the auxiliary head (the reference's parameter counts include it).
        options: further settings as a recipe has them under `model`, such as `{"style": {"distance": "kl"}}`.

    Raises:
        UsageError: an unknown name, or a number out of range.
        CheckpointError: the weights cannot be read or do not fit.
    """
    named = {"backbone": backbone, "output_stride": output_stride, "weights": weights}
    auxiliary_weight = {"auxiliary_weight": 0.4} if auxiliary else {}
    config = from_dict(ModelConfig, {**named, **auxiliary_weight, **(options or {})})
    return method_named(method).build(config, num_classes=num_classes, num_domains=num_domains)


def rebuild(stored: checkpoint.Checkpoint, source: str) -> Segmentor:
    """The network that a checkpoint holds, in evaluation mode.

    Args:
        stored: content of the file.
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
    method_named(card.method).restore(network, stored, source)
    return network.eval()


def plain_network(network: Segmentor, card: checkpoint.ModelCard) -> tuple[Segmentor, checkpoint.ModelCard]:
    """Merge low-rank updates into the weights; the plain network and its card.

    Raises:
        UsageError: the network has no updates.
    """
    if card.model.get("adapter", {}).get("kind") not in ("lora", "rein"):
        raise UsageError("the network has no updates to merge: leave out --merge, which is for model.adapter.kind lora")
    merged = merge(network)
    merged.base = None
    return merged, dataclasses.replace(card, model={**card.model, "adapter": {}}, base=None)


def card_for(
    *,
    method: str,
    model: ModelConfig,
    space: str,
    classes: tuple[str, ...],
    domains: list[str],
    size: tuple[int, int] | None,
    base: dict[str, str] | None = None,
) -> checkpoint.ModelCard:
    """The model card of a checkpoint."""
    return checkpoint.ModelCard(
        method=method,
        model=dataclasses.asdict(model),
        space=space,
        classes=classes,
        domains=tuple(domains),
        size=size,
        base=base,
    )
