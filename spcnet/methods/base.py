"""What a method is: how its network is built, what it learns from, what it updates, and what it shows of a run.

The trainer calls it three times a step: the network's forward, `losses`, `update`. It knows no more of a method than what
stands here, and this module knows no network. A new method is one module beside this one, with a class that has `build`
and `terms`, and one line in `spcnet.methods.METHODS`.
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
    """The settings of a method that has none of its own."""


class Figures(NamedTuple):
    """What a method shows of a run beside its losses, by the names that TensorBoard has."""

    scalars: dict[str, float]
    histograms: dict[str, Tensor]
    images: dict[str, Float[Tensor, "h w"]]
    """Grey, 0..1."""


@dataclass(frozen=True)
class Method(ABC):
    """One way to train a segmentation network for domains it has not seen."""

    name: str
    summary: str
    paper: str
    settings: ClassVar[type] = NoSettings
    """A frozen dataclass of the settings that only this method has, `model.settings` in a recipe."""

    def own_settings(self, model: ModelConfig) -> Any:
        """The values of `settings`.

        Raises:
            UsageError: `model.settings` has another setting, or a value that is not allowed.
        """
        return own_settings(f"the method {self.name}", "model.settings", self.settings, model.settings)

    def check(self, model: ModelConfig) -> None:
        """Refuse settings that this method would silently ignore.

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
            cluster_domains: find each image's domain by its style (`spcnet.models.pseudo`) instead of taking the batch's.
            pretrained: load `model.weights`; a checkpoint that is about to fill the network passes False.

        Raises:
            UsageError: a name or number makes no sense.
            CheckpointError: the backbone's weights cannot be read or do not fit.
        """

    def restore(self, network: Any, stored: Checkpoint, source: str) -> None:
        """Fill the network that `build` made with what a checkpoint holds.

        Args:
            network: with the settings that the checkpoint's card names; its tensors are replaced.
            stored: what is in the file.
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
        """Tell the network what the images of a batch do not show, before it is trained on them; nothing by default.

        Args:
            network: what `build` made.
            batch: the batch.
            model: the settings that the network was built with.
            progress: fraction of the run that is done, 0..1.
        """
        return

    def observe(self, network: Any, output: SegOutput, batch: Batch, *, reduce: Reduce) -> Any:
        """What `terms` and `update` need of a batch beside the output, a named tuple of the method's own; None for nothing.

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
        """What this batch costs: the weighted sum of the method's terms.

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
        """What was observed of a batch, from what was observed of its micro-batches; the last by default."""
        return extras[-1]

    def update(self, network: Any, result: StepResult, *, progress: float, reduce: Reduce = lambda t: t) -> None:
        """Change what no optimiser owns, after the optimiser's step; nothing by default.

        Args:
            network: what `build` made.
            result: what `losses` returned for the batch.
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
        """The optimiser's groups: all parameters that are trained in one by default.

        A group with `rate_factor` has that many times the run's learning rate; other keys are the optimiser's own, such as a
        `weight_decay` that stays as it is. The trainer divides each further by what the settings say of the backbone, of its
        depths and of norms, and leaves out what requires no gradient.
        """
        return [{"params": [value for value in network.parameters() if value.requires_grad]}]

    def figures(self, network: Any, recent: Sequence[Any], domains: Sequence[str]) -> Figures:
        """What TensorBoard shows beside the losses; nothing by default.

        Args:
            network: what `build` made.
            recent: what was observed of the latest batches, oldest first.
            domains: names of the domains; may be fewer than the network has.
        """
        return Figures({}, {}, {})

    def statistics_at(self, network: Any, model: ModelConfig, iterations: int) -> int | None:
        """The iteration before which the method takes statistics of altered images; None for a method that takes none.

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
        """Take the statistics that `statistics_at` announces.

        Args:
            network: what `build` made; in evaluation mode.
            forward: the network as it is called in this run, with its precision.
            trials: of each trial the batches, in which altered images and their originals take turns.
            model: the settings it was built with.
            reduce: sums over processes, so that all find the same.
        """
        return


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
