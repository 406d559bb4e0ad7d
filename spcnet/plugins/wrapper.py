"""A method with plug-ins: a method to the trainer, which knows of none."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.checkpoint import Checkpoint
from spcnet.config import ModelConfig, RunConfig
from spcnet.distributed import Reduce
from spcnet.errors import CheckpointError
from spcnet.methods.base import Figures, Method, Terms
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.plugins.base import REMEDY, Plugin
from spcnet.plugins.features import Recorder
from spcnet.types import Batch, SegOutput, StepResult


class _SecondHalf(nn.Module):
    """A layer for the second half of a doubled batch."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        plain, altered = feature.chunk(2)
        return torch.cat([plain, self.layer(altered)])


@dataclass
class _Current:
    step: Step | None = None


@dataclass(frozen=True)
class WithPlugins(Method):
    """A method whose batches, features and losses plug-ins change in training.

    What it does not change is the method's: network, checkpoints and figures are those of the method alone.
    """

    method: Method
    plugins: tuple[Plugin, ...]
    _current: _Current = field(default_factory=_Current)

    @property
    def doubles(self) -> bool:
        """Whether batches hold each image as it is and altered."""
        return any(plugin.doubles for plugin in self.plugins)

    def install(self, network: Segmentor, config: RunConfig) -> None:
        """Put the plug-ins' taps into a network that is about to be trained.

        Raises:
            UsageError: a plug-in names a place that the backbone has not, or that is not reached.
        """
        layers: dict[str, list[nn.Module]] = {}
        for plugin in self.plugins:
            for place, layer in plugin.taps(network, config).items():
                halves = self.doubles and not isinstance(layer, Recorder)
                layers.setdefault(place, []).append(_SecondHalf(layer) if halves else layer)
        network.tap_in_training(layers)

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> Batch:
        """The batch with its images altered, or behind the batch as it is where a plug-in doubles."""
        self._current.step = step
        altered = self.method.alter(network, batch, step)
        for plugin in self.plugins:
            altered = altered._replace(image=plugin.alter(network, altered, step))
        if not self.doubles:
            return altered
        image, label, domain = (torch.cat(pair) for pair in zip(batch[:3], altered[:3], strict=True))
        return Batch(image, label, domain, batch.name * 2)

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
        """Those of the method, then those of the plug-ins."""
        terms = self.method.terms(network, output, batch, model, observed=observed, progress=progress, reduce=reduce)
        step = self._current.step
        assert step is not None
        for plugin in self.plugins:
            terms |= plugin.terms(network, output, batch, step, reduce=reduce)
        return terms

    def update(self, network: Segmentor, result: StepResult, *, progress: float, reduce: Reduce = lambda t: t) -> None:
        """That of the method, then those of the plug-ins."""
        self.method.update(network, result, progress=progress, reduce=reduce)
        step = self._current.step
        assert step is not None
        for plugin in self.plugins:
            plugin.update(step)

    def state(self) -> dict[str, Tensor]:
        """Those of the plug-ins, `PLUGIN.NAME`."""
        return {f"{plugin.name}.{k}": value for plugin in self.plugins for k, value in plugin.state().items()}

    def load_state(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Give each plug-in its own."""
        known = {plugin.name for plugin in self.plugins}
        if strange := sorted({name.partition(".")[0] for name in tensors} - known):
            raise CheckpointError(f"{source} has a state of the plug-in {strange[0]}, which this run lacks: {REMEDY}")
        for plugin in self.plugins:
            start = f"{plugin.name}."
            plugin.load_state({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}, source)

    # What is the method's alone -------------------------------------------------------------------------------------------

    def own_settings(self, model: ModelConfig) -> Any:
        """Those of the method."""
        return self.method.own_settings(model)

    def check(self, model: ModelConfig) -> None:
        """That of the method."""
        self.method.check(model)

    def build(self, model: ModelConfig, **numbers: Any) -> Any:
        """The method's network."""
        return self.method.build(model, **numbers)

    def restore(self, network: Segmentor, stored: Checkpoint, source: str) -> None:
        """As the method does."""
        self.method.restore(network, stored, source)

    def prepare(self, network: Segmentor, batch: Batch, model: ModelConfig, *, progress: float = 0.0) -> None:
        """As the method does."""
        self.method.prepare(network, batch, model, progress=progress)

    def observe(self, network: Segmentor, output: SegOutput, batch: Batch, *, reduce: Reduce) -> Any:
        """As the method does, of both halves of a doubled batch."""
        return self.method.observe(network, output, batch, reduce=reduce)

    def joined(self, extras: Sequence[Any]) -> Any:
        """As the method does."""
        return self.method.joined(extras)

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Those of the method."""
        return self.method.parameter_groups(network)

    def figures(self, network: Segmentor, recent: Sequence[Any], domains: Sequence[str]) -> Figures:
        """Those of the method."""
        return self.method.figures(network, recent, domains)

    def statistics_at(self, network: Segmentor, model: ModelConfig, iterations: int) -> int | None:
        """As the method says."""
        return self.method.statistics_at(network, model, iterations)

    def take_statistics(
        self,
        network: Segmentor,
        forward: Callable[[Tensor], object],
        trials: Iterable[Iterable[Batch]],
        model: ModelConfig,
        *,
        reduce: Reduce = lambda t: t,
    ) -> None:
        """As the method does."""
        self.method.take_statistics(network, forward, trials, model, reduce=reduce)
