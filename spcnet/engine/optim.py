"""The optimiser and its schedule, and how both go into a checkpoint without pickling."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spcnet.checkpoint import OPTIMIZER
from spcnet.config import TrainingConfig
from spcnet.errors import CheckpointError


def make_optimizer(groups: Sequence[dict[str, Any]], config: TrainingConfig) -> torch.optim.SGD:
    """Stochastic gradient descent with momentum and weight decay (RobustNet's).

    Args:
        groups: of parameters, as `spcnet.methods.base.Method.parameter_groups` gives them.
        config: learning rate, momentum and weight decay of the groups that do not have their own.
    """
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)


def poly_rate(iteration: int, config: TrainingConfig) -> float:
    """Learning rate of a step: base · (1 - iteration/iterations)^power, with the first step at the full rate.

    After a restart (RobustNet's `scl-poly`): base · factor · (1 - share of what was left then)^restart_power.
    """
    restart = round(config.restart * config.iterations)
    if iteration < restart:
        return float(config.learning_rate * (1 - iteration / config.iterations) ** config.poly_power)
    done = (iteration - restart) / (config.iterations - restart)
    return float(config.learning_rate * config.restart_factor * (1 - done) ** config.restart_power)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate, times its `rate_factor` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)


def pack(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory as named tensors, `optimizer.INDEX.NAME`."""
    return {
        f"{OPTIMIZER}{index}.{name}": value
        for index, memory in optimizer.state_dict()["state"].items()
        for name, value in memory.items()
        if isinstance(value, Tensor)
    }


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `pack` took.

    Raises:
        CheckpointError: the tensors are not those of this optimiser.
    """
    memory: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith(OPTIMIZER):
            index, name = key.removeprefix(OPTIMIZER).split(".", 1)
            memory.setdefault(int(index), {})[name] = value
    known = [p for group in optimizer.param_groups for p in group["params"]]
    if any(i >= len(known) or any(v.ndim and v.shape != known[i].shape for v in m.values()) for i, m in memory.items()):
        raise CheckpointError(
            "the checkpoint's optimiser belongs to another network: it cannot be resumed with this one"
        )
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})
