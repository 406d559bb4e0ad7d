"""The interface of methods: building the network, loss terms, updates, and figures for the log.

A training step calls the network's forward, `losses` and `update`. The trainer uses this interface only, and this module
imports no network. To add a method, write a module beside this one with a class that has `build` and `terms`, and add a
line to `spcnet.methods.METHODS`.
"""

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from spcnet.checkpoint import Checkpoint
from spcnet.config import ModelConfig, own_settings
from spcnet.distributed import Reduce
from spcnet.errors import CheckpointError, DataError
from spcnet.methods.step import Step
from spcnet.types import IGNORE_INDEX, Batch, Network, SegOutput, StepResult, detached

Terms = dict[str, tuple[Float[Tensor, ""], float]]
"""The terms of a loss by name, each with its weight, in the order in which they are summed up and logged."""


@dataclass(frozen=True)
class NoSettings:
    """For a method without settings."""


class Figures(NamedTuple):
    """Figures of a method for the log other than its losses, by TensorBoard tag."""

    scalars: dict[str, float]
    histograms: dict[str, Tensor]
    images: dict[str, Float[Tensor, "h w"]]
    """Grey, 0..1."""


@dataclass(frozen=True)
class Method(ABC):
    """A method for domain-generalised semantic segmentation."""

    name: str
    summary: str
    paper: str
    settings: ClassVar[type] = NoSettings
    """A frozen dataclass of the method's settings, `model.settings` in a recipe."""

    def own_settings(self, model: ModelConfig) -> Any:
        """The validated `model.settings`.

        Raises:
            UsageError: `model.settings` has an unknown setting, or a value out of range.
        """
        return own_settings(f"the method {self.name}", "model.settings", self.settings, model.settings)

    def check(self, model: ModelConfig) -> None:
        """Refuse settings that this method ignores.

        Raises:
            UsageError: naming the option.
        """
        self.own_settings(model)

    @abstractmethod
    def build(
        self,
        model: ModelConfig,
        *,
        num_classes: int,
        num_domains: int,
        cluster_domains: bool = False,
        pretrained: bool = True,
    ) -> Network:
        """The network of this method.

        Args:
            model: backbone, output stride, weights, and the settings of the method.
            num_classes: K, at least 2.
            num_domains: M, number of source domains.
            cluster_domains: assign pseudo-domains by style (`spcnet.models.pseudo`) instead of the batch's domains.
            pretrained: load `model.weights`; False if a checkpoint will fill the network.

        Raises:
            UsageError: an unknown name, or a number out of range.
            CheckpointError: the backbone's weights cannot be read or do not fit.
        """

    def restore(self, network: Any, stored: Checkpoint, source: str) -> None:
        """Load the tensors of a checkpoint into a network.

        Args:
            network: result of `build` with the settings of the checkpoint's card.
            stored: content of the file.
            source: name of the file, for messages.

        Raises:
            CheckpointError: the tensors do not fit, or the pretrained weights that the file leaves out are not found.
        """
        fill(network, stored.tensors, source)

    def alter(self, network: Any, batch: Batch, step: Step) -> Batch:
        """The batch that the network is trained on, made from what was read; the same by default.

        Args:
            network: what `build` made.
            batch: what was read, on the device.
            step: which step it is, and its random numbers.
        """
        return batch

    def prepare(self, network: Any, batch: Batch, model: ModelConfig, *, progress: float = 0.0) -> None:
        """Set the network's state for a training batch, such as random draws or domains, before its forward; nothing by default.

        Args:
            network: what `build` made.
            batch: the batch.
            model: the settings that the network was built with.
            progress: fraction of the run that is done, 0..1.
        """
        return

    def observe(self, network: Any, output: SegOutput, batch: Batch, *, reduce: Reduce) -> Any:
        """Statistics of a batch for `terms` and `update`, a named tuple of the method; None for none.

        Any batch works: domains in any order and number, absent ones, all pixels ignored, a single image.

        Args:
            network: what `build` made.
            output: its answer to the batch.
            batch: the batch.
            reduce: sums over processes and micro-batches.

        Raises:
            UsageError: a domain index lies outside 0..M-1.
        """
        return None

    @abstractmethod
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
        """The terms of this batch's loss.

        Args:
            network: what `build` made.
            output: its answer to the batch.
            batch: the batch.
            model: the settings that the network was built with.
            observed: what `observe` returned.
            progress: fraction of the run that is done, 0..1.
            reduce: sums over processes and micro-batches.
        """

    def losses(
        self,
        network: Any,
        output: SegOutput,
        batch: Batch,
        model: ModelConfig,
        *,
        progress: float = 0.0,
        reduce: Reduce = lambda t: t,
    ) -> StepResult:
        """The loss of a batch: the weighted sum of the method's terms.

        Args:
            network: what `build` made.
            output: its answer to the batch.
            batch: the batch.
            model: the settings it was built with.
            progress: fraction of the run that is done, 0..1.
            reduce: sums over processes (`spcnet.distributed.all_reduce_sum`); the losses are then those of the joined batch.

        Raises:
            DataError: a label lies outside 0..K-1 and is not 255; names the images.
            UsageError: a domain index lies outside 0..M-1.
        """
        check_labels(batch, output.logits.shape[1])
        observed = self.observe(network, output, batch, reduce=reduce)
        terms = self.terms(network, output, batch, model, observed=observed, progress=progress, reduce=reduce)
        loss = functools.reduce(operator.add, (weight * value for value, weight in terms.values()))
        return StepResult(loss, {name: value.detach() for name, (value, _) in terms.items()}, detached(observed))

    def joined(self, extras: Sequence[Any]) -> Any:
        """Merge the results of `observe` over the micro-batches of a batch; the last one by default."""
        return extras[-1]

    def update(self, network: Any, result: StepResult, *, progress: float, reduce: Reduce = lambda t: t) -> None:
        """Update buffers, such as prototypes, after the optimiser's step; nothing by default.

        Args:
            network: what `build` made.
            result: result of `losses`.
            progress: fraction of the run that is done, 0..1.
            reduce: sums over processes.
        """
        return

    def state(self) -> dict[str, Tensor]:
        """What a run that goes on needs beside the network, by name; nothing by default."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Put back what `state` gave.

        Args:
            tensors: by name.
            source: name of the file, for messages.

        Raises:
            CheckpointError: it is not the state of this method.
        """
        if tensors:
            raise CheckpointError(
                f"{source} has a state of the plug-in {min(tensors).partition('.')[0]}, which this run lacks: resume with the "
                "run's own plugins, or choose another --output"
            )

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser; by default one group with all trainable parameters.

        `rate_factor` multiplies the run's learning rate; other keys, such as a constant `weight_decay`, go to the optimiser. The
        trainer splits each group by the settings for backbone, layer decay and norms, and drops parameters without gradient.
        """
        return [{"params": [value for value in network.parameters() if value.requires_grad]}]

    def figures(self, network: Any, recent: Sequence[Any], domains: Sequence[str]) -> Figures:
        """Figures for TensorBoard other than the losses; none by default.

        Args:
            network: what `build` made.
            recent: results of `observe` for the latest batches, oldest first.
            domains: names of the domains; may be fewer than the network has.
        """
        return Figures({}, {}, {})

    def statistics_at(self, network: Any, model: ModelConfig, iterations: int) -> int | None:
        """The iteration before which the method takes statistics of altered images; None for no statistics.

        Args:
            network: what `build` made.
            model: the settings it was built with.
            iterations: length of the run.
        """
        return None

    def take_statistics(
        self,
        network: Any,
        forward: Callable[[Tensor], object],
        trials: Iterable[Iterable[Batch]],
        model: ModelConfig,
        *,
        reduce: Reduce = lambda t: t,
    ) -> None:
        """Take the statistics, before the iteration `statistics_at`.

        Args:
            network: what `build` made; in evaluation mode.
            forward: the network as it is called in this run, with its precision.
            trials: batches of each trial, in which altered images and their originals alternate.
            model: the settings it was built with.
            reduce: sums over processes, so that all get the same result.
        """
        return


def check_labels(batch: Batch, num_classes: int) -> None:
    """Refuse invalid labels.

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


_SIZES = {
    "classifier.prototypes": {"classes": 0, "source domains": 1},
    "classifier.0.weight": {"classes": 0},
    "styles.0.base_mean": {"source domains": 0},
}
"""Tensors that tell how many classes or domains a network was made for, each with the axes that do."""


def fill(network: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load every tensor of a checkpoint into a network; nothing may be missing, unexpected, or of another shape.

    Raises:
        CheckpointError: says how many classes or domains the file was trained with where that is the difference.
    """
    wanted = network.state_dict()
    for key, axes in _SIZES.items():
        for what, axis in axes.items() if key in tensors and key in wanted else ():
            theirs, ours = tensors[key].shape[axis], wanted[key].shape[axis]
            if theirs != ours:
                raise CheckpointError(
                    f"{source} was trained with {theirs} {what}, the network has {ours}: build it with {theirs}, or train again"
                )
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    misshapen = sorted(k for k in wanted.keys() & tensors.keys() if wanted[k].shape != tensors[k].shape)
    for problem, keys in (
        ("lacks {} tensors", missing),
        ("has {} unexpected tensors", unexpected),
        ("has {} tensors in another shape", misshapen),
    ):
        if keys:
            raise CheckpointError(
                f"{source} {problem.format(len(keys))} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}): "
                "it was trained with another method or backbone"
            )
    network.load_state_dict(tensors)
