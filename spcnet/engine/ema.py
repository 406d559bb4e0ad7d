"""The exponential moving average of a network's weights (Polyak averaging), and how it goes into a checkpoint."""

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

    It begins as the weights after iteration `ema_start` + 1; each later step makes it ema · average + (1 - ema) · weights.
    Buffers are the trained network's: a whitening mask or a count has no mean, and batch statistics, style bases and
    prototypes are moving averages already.

    Args:
        network: what is trained, before its first step.
        config: the average's share and start.
    """

    def __init__(self, network: Network, config: TrainingConfig) -> None:
        self.config = config
        self.model = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema))  # type: ignore[no-untyped-call]

    @property
    def network(self) -> Network:
        """The network with the averaged weights."""
        found = self.model.module
        assert isinstance(found, Network)
        return found

    def begun(self, iteration: int) -> bool:
        """Whether there is an average after so many iterations."""
        return iteration > self.config.ema_start

    def update(self, network: Network, iteration: int) -> None:
        """Take in the weights after so many finished iterations."""
        if self.begun(iteration):
            self.model.update_parameters(network)

    def pack(self) -> dict[str, Tensor]:
        """The averages by name, `ema.NAME`; frozen parameters are those of the trained network."""
        return {f"{AVERAGE}{k}": p.detach() for k, p in self.network.named_parameters() if p.requires_grad}

    def unpack(self, tensors: Mapping[str, Tensor], network: Network, iteration: int) -> None:
        """Put back what `pack` took after so many iterations.

        Args:
            tensors: of the checkpoint.
            network: with the trained weights and buffers of that iteration.
            iteration: how many were finished.

        Raises:
            CheckpointError: an average is missing.
        """
        if not self.begun(iteration):
            return
        own = self.pack()
        if missing := own.keys() - tensors.keys():
            raise CheckpointError(
                f"the checkpoint of iteration {iteration} lacks {len(missing)} averaged weights ({min(missing)}): "
                "train again, or leave out training.ema"
            )
        self.network.load_state_dict(network.state_dict())
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])
        self.model.n_averaged.fill_(iteration - self.config.ema_start)
