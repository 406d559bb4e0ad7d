"""The exponential moving average of a network's weights (Polyak averaging), and its tensors in a checkpoint."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from spcnet.checkpoint import AVERAGE
from spcnet.config import TrainingConfig
from spcnet.errors import CheckpointError
from spcnet.types import Network


class WeightAverage:
    """The average of a network's weights over the steps of a run.

    It starts as the weights after iteration `ema_start` + 1; each later step sets it to ema · average + (1 - ema) · weights.
    Buffers are not averaged: a whitening mask or a count has no mean, and batch statistics, style bases and prototypes are
    moving averages already.

    Args:
        network: the trained network, before its first step.
        config: decay and start of the average.
    """

    def __init__(self, network: Network, config: TrainingConfig) -> None:
        self.config = config
        self.model = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema))  # type: ignore[no-untyped-call]

    @property
    def network(self) -> Network:
        """The network with the averaged weights."""
        average = self.model.module
        assert isinstance(average, Network)
        return average

    def begun(self, iteration: int) -> bool:
        """Whether the average has started after a number of finished iterations."""
        return iteration > self.config.ema_start

    def update(self, network: Network, iteration: int) -> None:
        """Add the weights after a number of finished iterations."""
        if self.begun(iteration):
            self.model.update_parameters(network)

    def pack(self) -> dict[str, Tensor]:
        """The averages by name, `ema.NAME`, without frozen parameters."""
        return {f"{AVERAGE}{k}": p.detach() for k, p in self.network.named_parameters() if p.requires_grad}

    def unpack(self, tensors: Mapping[str, Tensor], network: Network, iteration: int) -> None:
        """Restore the averages from the tensors of `pack`.

        Args:
            tensors: the checkpoint's tensors.
            network: with the trained weights and buffers of that iteration.
            iteration: number of finished iterations.

        Raises:
            CheckpointError: an average is missing.
        """
        if not self.begun(iteration):
            return
        averages = self.pack()
        if missing := averages.keys() - tensors.keys():
            raise CheckpointError(
                f"the checkpoint of iteration {iteration} lacks {len(missing)} averaged weights ({min(missing)}): "
                "train again, or leave out training.ema"
            )
        self.network.load_state_dict(network.state_dict())
        with torch.no_grad():
            for name, value in averages.items():
                value.copy_(tensors[name])
        self.model.n_averaged.fill_(iteration - self.config.ema_start)
