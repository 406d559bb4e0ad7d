"""What of a backbone is trained: all, nothing, low-rank updates of its layers, or tokens beside its features.

The pretrained part of a backbone that is not trained whole gets no gradient and stays in evaluation mode, its batch norms,
dropout and stochastic depth too.
"""

import copy
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import Tensor, nn

from spcnet.config import AdapterConfig
from spcnet.errors import UsageError
from spcnet.models.adapters.lora import Layer, LoRA, adapt_layer, merge_layer
from spcnet.models.adapters.rein import Rein
from spcnet.models.backbones.base import Backbone

__all__ = ["LoRA", "Rein", "adapt", "base_tensors", "based", "has_updates", "merge", "merged"]

N = TypeVar("N", bound=nn.Module)


def adapt(backbone: Backbone, config: AdapterConfig, *, pretrained: bool = True) -> Rein | None:
    """Say what of a backbone is trained, in place.

    Args:
        backbone: with its pretrained weights.
        config: what is trained of it.
        pretrained: whether the weights are there; a checkpoint that is about to fill the network passes False, and then no
            layer is decomposed.

    Returns:
        The tokens, which refine the backbone's maps at some places; None for the other kinds.

    Raises:
        UsageError: a pattern matches no layer, a block is out of range, or a rank exceeds that of a layer.
    """
    if config.kind == "full":
        return None
    depths = backbone.depths()
    last = len(backbone.places) - 2
    if config.first_block > last:
        raise UsageError(
            f"model.adapter.first_block is {config.first_block}: the blocks or stages of this backbone are 0..{last}"
        )
    fresh = {name for name, _ in backbone.named_parameters()} - depths.keys()
    for name, parameter in backbone.named_parameters():
        if name not in fresh:
            parameter.requires_grad_(False)
    if config.kind == "lora":
        _add_updates(backbone, config, depths, pretrained=pretrained)
    backbone.kept_in_evaluation = tuple(_pretrained_modules(backbone, fresh))
    backbone.train(backbone.training)
    if config.kind != "rein":
        return None
    places = backbone.places[1 + config.first_block :]
    return Rein({place: backbone.channels[place] for place in places}, tokens=config.tokens, rank=config.rank)


def _pretrained_modules(backbone: Backbone, fresh: set[str]) -> Iterator[nn.Module]:
    """The modules that stay in evaluation mode: all but updated layers, and parts whose parameters are all new."""
    new: list[str] = []
    for name, module in backbone.named_modules():
        parameters = {key for key, _ in module.named_parameters(prefix=name)}
        if name.startswith(tuple(f"{prefix}." for prefix in new)):
            continue
        if parameters and parameters <= fresh:
            new.append(name)
        elif not isinstance(module, LoRA):
            yield module


def _add_updates(backbone: Backbone, config: AdapterConfig, depths: dict[str, int], *, pretrained: bool) -> None:
    layers: dict[str, Layer] = {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and f"{name}.weight" in depths
    }
    chosen: dict[str, Layer] = {}
    for pattern in config.targets:
        named = [name for name in layers if fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")]
        if not named:
            raise UsageError(
                f"model.adapter.targets has {pattern!r}, and no linear layer or convolution of this backbone is called so: "
                f"nearest {_nearest(pattern, layers)}"
            )
        deep = [name for name in named if not config.first_block or depths[f"{name}.weight"] > config.first_block]
        if not deep:
            raise UsageError(
                f"model.adapter.targets has {pattern!r}, and all {len(named)} such layers lie before block {config.first_block}, "
                "model.adapter.first_block: lower it, or drop the pattern"
            )
        chosen.update({name: layers[name] for name in deep})
    for name, layer in chosen.items():
        adapt_layer(
            name,
            layer,
            rank=config.rank,
            scaling=1.0 if config.alpha is None else config.alpha / config.rank,
            start=config.start,
            dropout=config.dropout,
            pretrained=pretrained,
        )
        if config.biases and layer.bias is not None:
            layer.bias.requires_grad_(True)


def _nearest(pattern: str, names: Iterable[str]) -> str:
    """The names most like a pattern, numbers as *."""
    known = list(dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names))
    ends = {name: ".".join(name.split(".")[-1 - pattern.count(".") :]) for name in known}
    near = difflib.get_close_matches(pattern, dict.fromkeys(ends.values()), n=4, cutoff=0.0)
    ordered = sorted(known, key=lambda name: near.index(ends[name]) if ends[name] in near else len(near))
    return f"{', '.join(ordered[:6])}{', …' if len(ordered) > 6 else ''}"


def has_updates(network: nn.Module) -> bool:
    """Whether a network has layers that `merge` makes plain."""
    return any(isinstance(module, LoRA) for module in network.modules())


def merge(network: N) -> N:
    """A copy of a network whose low-rank updates are added to the weights, so that it is a plain network.

    Its state dict has the keys of one that was never adapted, all of it can be trained, and it computes the same, up to
    rounding, in the time of a plain network.

    Args:
        network: stays as it is; one without updates is returned itself.

    Raises:
        UsageError: it has tokens beside its features, which depend on the image and are in no weight.
    """
    if any(isinstance(module, Rein) for module in network.modules()):
        raise UsageError(
            "Rein's tokens depend on the image and cannot be merged into weights: keep them in a file of this package, or train "
            "with model.adapter.kind lora"
        )
    if not has_updates(network):
        return network
    merged = copy.deepcopy(network)
    for module in list(merged.modules()):
        if isinstance(module, LoRA):
            merge_layer(module)
        if isinstance(module, Backbone):
            module.kept_in_evaluation = ()
            module.requires_grad_(True)
    return merged.train(network.training)


def merged(network: N) -> N:
    """The network with its updates merged by `merge`; the same network if it has none."""
    return merge(network) if has_updates(network) else network


def based(backbone: Backbone, plain: Backbone, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an adapted backbone that a checkpoint left out, from those of a pretrained one.

    Args:
        backbone: result of `adapt`; its values do not matter.
        plain: the same backbone without an adapter, with the weights from which the training started.
        tensors: the checkpoint's tensors of the complete network.

    Returns:
        By name in the network, `backbone.NAME`; of a layer whose update did not start at zero W without that update.
    """
    pretrained = plain.state_dict()
    restored = {}
    for name in base_tensors(backbone):
        layer, _, leaf = name.rpartition(".")
        module = backbone.get_submodule(layer)
        if not isinstance(module, LoRA) or leaf != "base":
            restored[f"backbone.{name}"] = pretrained[name]
            continue
        weight = pretrained[f"{layer}.weight"]
        starts = [tensors.get(f"backbone.{layer}.start_{factor}") for factor in "ba"]
        if starts[0] is not None and starts[1] is not None:
            # In the precision of the first computation, so that every bit is the same.
            weight = weight - module.update(starts[0].to(weight), starts[1].to(weight))
        restored[f"backbone.{name}"] = weight
    return restored


def base_tensors(backbone: Backbone) -> set[str]:
    """Names of the tensors of an adapted backbone that training never changes and that pretrained weights give."""
    kept = {id(module) for module in backbone.kept_in_evaluation}
    names = set()
    for prefix, module in backbone.named_modules():
        start = f"{prefix}." if prefix else ""
        frozen = [name for name, value in module.named_parameters(recurse=False) if not value.requires_grad]
        buffers = [name for name, _ in module.named_buffers(recurse=False)] if id(module) in kept else []
        names |= {f"{start}{name}" for name in (*frozen, *buffers)}
    return names & backbone.state_dict().keys()
