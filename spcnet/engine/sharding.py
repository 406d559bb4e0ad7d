"""Weights that several processes divide among themselves: FSDP2, PyTorch's fully sharded data parallelism.

Each process keeps its part of every parameter, and so of its gradient and of the optimiser's memory; a block's weights are
gathered when it is computed and given back after it (Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data
Parallel", VLDB 2023). A step computes what it does without. Buffers (statistics, styles, prototypes) are whole everywhere.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from spcnet import distributed
from spcnet.types import Network


def shard(network: Network) -> Network:
    """Divide a network's parameters among all processes, in place: its class has a new base, its parameters are DTensors.

    Args:
        network: the same in every process.
    """
    # Scores are a view where images were padded; no loss changes them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    network.to(memory_format=torch.contiguous_format)  # what can be divided
    for part in network.parts():
        if any(True for _ in part.parameters()):
            fully_shard(part)
    fully_shard(network)
    return network


def divided(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor that is the same in every process, divided as a parameter is; single numbers stay whole."""
    if not isinstance(parameter, DTensor) or not value.ndim:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, Tensor], *, everywhere: bool = False) -> dict[str, Tensor]:
    """Whole tensors from divided ones; every process comes here, and tensors that are not divided stay as they are.

    Args:
        tensors: by name, the same names in every process.
        everywhere: in all processes, on their devices; otherwise the first has them, on its processor, the others none.
    """
    whole: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if not isinstance(value, DTensor):
            whole[name] = value
            continue
        full = value.full_tensor()
        if everywhere:
            whole[name] = full
        elif distributed.rank() == 0:
            whole[name] = full.cpu()
    return whole


class Replica:
    """Makes whole copies of a network whose parameters are divided, to evaluate it and to look at it.

    Args:
        network: before it is divided.
    """

    def __init__(self, network: Network) -> None:
        # The parameters have no numbers, so no memory; buffers are few.
        memo: dict[int, Any] = {
            id(value): nn.Parameter(value.detach().to("meta"), value.requires_grad) for value in network.parameters()
        }
        self.blank = copy.deepcopy(network, memo)

    def of(self, network: Network) -> Network:
        """A copy of a network as it is now; every process comes here.

        Args:
            network: the one that this was made from.
        """
        whole = copy.deepcopy(self.blank)
        own = network.state_dict()
        state = gathered(own, everywhere=True)
        whole.load_state_dict({k: v.clone() if v is own[k] else v for k, v in state.items()}, assign=True)
        return whole
