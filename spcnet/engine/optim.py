"""The optimiser, its parameter groups, and its state as tensors of a checkpoint, without pickling."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spcnet.checkpoint import OPTIMIZER
from spcnet.config import TrainingConfig
from spcnet.engine.schedule import learning_rate, weight_decay
from spcnet.engine.sharding import divided
from spcnet.errors import CheckpointError, UsageError
from spcnet.types import Network

NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)
"""Normalisation layers, whose parameters have no weight decay."""
MEMORY = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq")}
"""Names of each optimiser's state tensors, which have the shape of their parameter; AdamW also counts its steps."""


def make_optimizer(
    groups: Sequence[Mapping[str, Any]], network: Network, config: TrainingConfig
) -> torch.optim.Optimizer:
    """Build the optimiser of the settings, with the parameters that require a gradient.

    Args:
        groups: result of `spcnet.methods.base.Method.parameter_groups`.
        network: provides the depths of the backbone's parameters, and the names of embeddings.
        config: learning rate, weight decay, and factors on them; values of a group take precedence.

    Raises:
        UsageError: nothing is trained, or `backbone_factor`, `layer_decay` or `backbone_warmup` is set and no parameter of
            the backbone is trained.
    """
    split = [part for group in groups for part in _split(group, network, config)]
    if not split:
        raise UsageError("no parameter of the network is trained: choose another model.adapter.kind or method")
    depths = network.depths()
    if not any(p.requires_grad and name in depths for name, p in network.named_parameters()):
        for name in ("backbone_factor", "layer_decay", "backbone_warmup"):
            if getattr(config, name) != getattr(TrainingConfig, name):
                raise UsageError(
                    f"training.{name} is {getattr(config, name)}, but no parameter of the backbone is trained: leave it out"
                )
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        if rate == TrainingConfig.learning_rate:
            warnings.warn(
                f"training.optimizer is adamw and training.learning_rate {rate}, the default, which is for sgd: adamw takes "
                "about 1e-4",
                stacklevel=2,
            )
        return torch.optim.AdamW(split, lr=rate, betas=config.betas, weight_decay=decay)
    return torch.optim.SGD(split, lr=rate, momentum=config.momentum, weight_decay=decay)


def _split(group: Mapping[str, Any], network: Network, config: TrainingConfig) -> list[dict[str, Any]]:
    """Split a group by learning rate and weight decay, in the order of the first parameters.

    `places` holds the index of each parameter in the network, which names its state in a checkpoint for any grouping.
    """
    known = {parameter: (place, name) for place, (name, parameter) in enumerate(network.named_parameters())}
    depths, undecayed = network.depths(), set[str]() if config.decays_all else set(_undecayed(network))
    deepest = max(depths.values(), default=0)
    parts: dict[tuple[float, bool, bool], dict[str, Any]] = {}
    for parameter in group["params"]:
        if not parameter.requires_grad:
            continue
        place, name = known[parameter]
        factor, backbone = 1.0, name in depths and config.backbone_warmup is not None
        if name in depths:
            factor = config.backbone_factor * config.layer_decay ** (deepest - depths[name])
        plain = name in undecayed
        part = parts.setdefault(
            (factor, backbone, plain),
            {
                **group,
                "params": [],
                "places": [],
                "rate_factor": group.get("rate_factor", 1.0) * factor,
                "backbone": backbone,
                "annealed": not plain and "weight_decay" not in group,
                **({"weight_decay": 0.0} if plain else {}),
            },
        )
        part["params"].append(parameter)
        part["places"].append(place)
    return list(parts.values())


def _undecayed(network: Network) -> Iterator[str]:
    """Names of the parameters without weight decay: one-dimensional ones, biases, norms, and the network's embeddings."""
    yield from network.embeddings()
    for prefix, module in network.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.ndim <= 1 or name.endswith("bias") or isinstance(module, NORMS):
                yield name


def memory_size(config: TrainingConfig) -> int:
    """Number of state values of the optimiser per trained value."""
    return 0 if config.optimizer == "sgd" and not config.momentum else len(MEMORY[config.optimizer])


def set_schedule(optimizer: torch.optim.Optimizer, iteration: int, config: TrainingConfig) -> None:
    """Set the learning rate and the weight decay of every parameter group.

    Args:
        optimizer: result of `make_optimizer`.
        iteration: finished iterations before the step.
        config: the schedule.
    """
    rates = [learning_rate(iteration, config, backbone=backbone) for backbone in (False, True)]
    decay = weight_decay(iteration, config)
    for group in optimizer.param_groups:
        group["lr"] = rates[group["backbone"]] * group["rate_factor"]
        if group["annealed"]:
            group["weight_decay"] = decay


def pack(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, `optimizer.PLACE.NAME`, with the index of the parameter in the network."""
    return {
        f"{OPTIMIZER}{place}.{name}": value
        for place, parameter in _placed(optimizer)
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the optimiser's state from the tensors of `pack`.

    Raises:
        CheckpointError: the tensors are not those of this optimiser.
    """
    memory: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith(OPTIMIZER):
            place, name = key.removeprefix(OPTIMIZER).split(".", 1)
            memory.setdefault(int(place), {})[name] = value
    known = dict(_placed(optimizer))
    # `load_state_dict` counts parameters in the order of the groups.
    numbers = {place: number for number, place in enumerate(known)}
    adam = isinstance(optimizer, torch.optim.AdamW)
    if not memory.keys() <= known.keys() or any(
        ("exp_avg" in entries) != adam or any(v.ndim and v.shape != known[place].shape for v in entries.values())
        for place, entries in memory.items()
    ):
        raise CheckpointError(
            "the checkpoint's optimiser is another one or belongs to another network: it cannot be resumed with this one"
        )
    state = {numbers[place]: entries for place, entries in memory.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def rebind(optimizer: torch.optim.Optimizer, network: Network) -> None:
    """Give an optimiser the network's parameters of now in place of those that it was made with, and their memory.

    Args:
        optimizer: what `make_optimizer` made.
        network: the same, its parameters divided among the processes since; the memory is divided as they are.
    """
    parameters = list(network.parameters())
    for group in optimizer.param_groups:
        for number, place in enumerate(group["places"]):
            new, memory = parameters[place], optimizer.state.pop(group["params"][number], {})
            if memory:
                optimizer.state[new] = {name: divided(value, new) for name, value in memory.items()}
            group["params"][number] = new


def _placed(optimizer: torch.optim.Optimizer) -> list[tuple[int, nn.Parameter]]:
    """The parameters with their indices in the network, in the order of the groups."""
    return [pair for group in optimizer.param_groups for pair in zip(group["places"], group["params"], strict=True)]
