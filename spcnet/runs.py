"""From a path to a trained network, its settings and its data.

`OpenRun` is opened once and handed on; what is in it is read at first use, and never twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from spcnet import checkpoint
from spcnet.config import DataConfig, DomainSpec, EvaluationConfig, RunConfig, TrainingConfig, coerced, from_dict
from spcnet.convert import is_foreign, load_foreign
from spcnet.data.catalog import with_sets
from spcnet.data.datasets import SegmentationSet, open_domain
from spcnet.engine.records import CONFIG_FILE
from spcnet.errors import DataError, UsageError, lookup
from spcnet.files import read_yaml
from spcnet.labels import LabelSpace, label_space
from spcnet.methods import rebuild
from spcnet.models.network import Segmentor
from spcnet.numerics import find_device
from spcnet.synthesis.weather import WEATHER


@dataclass(frozen=True)
class DataOptions:
    """What an option after the training says of a run's data; by default the run's own settings hold."""

    targets: Sequence[str] | None = None
    """Domains to evaluate, alone; an empty list for the sources."""
    roots: Mapping[str, str] = field(default_factory=dict)
    """Folders of data sets, beside the run's own."""
    sets: Path | None = None
    """File that describes sets of one's own, beside the run's own; see `spcnet.config.read_sets`."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that images are brought to."""

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", coerced(list[str], self.targets))
        object.__setattr__(self, "roots", dict(self.roots or {}))

    def merge(self, data: DataConfig) -> DataConfig:
        """Settings with these roots, sets and this size; the targets are for `OpenRun.names`.

        Raises:
            UsageError, DataError: the file of sets is wrong, or describes a set otherwise than the settings do.
        """
        data = with_sets(replace(data, roots={**data.roots, **self.roots}), self.sets)
        return data if self.size is None else replace(data, size=self.size)


@dataclass(frozen=True)
class OpenRun:
    """A trained network with its settings and its data.

    Args:
        path: folder of a run, or one that `spcnet.export.hub.save_pretrained` wrote; file of weights of this package,
            RobustNet or SPC-Net (PyTorch, MindSpore), `FILE#NAME` for one of several networks in it. What a file is, its
            content says; its name plays no part.
        options: options of the data beside the run's own settings.
        device: where the network is put: auto, cpu, cuda or mps.

    Each attribute raises what reading it may: `CheckpointError` the network's, `DataError` and `UsageError` the
    settings' and the data's.
    """

    path: Path
    options: DataOptions = DataOptions()
    device: str = "cpu"

    @property
    def is_run(self) -> bool:
        """Whether it is the folder of a run, which has settings; other files have weights and a card alone."""
        return (self.path / CONFIG_FILE).is_file()

    @cached_property
    def config(self) -> RunConfig:
        """The settings of the run.

        Raises:
            DataError: the path is no folder of a run.
            UsageError: the settings are of another version.
        """
        if not self.is_run:
            raise DataError(f"{self.path} is no folder of a run: it has no readable {CONFIG_FILE}")
        return from_dict(RunConfig, read_yaml(self.path / CONFIG_FILE, "configuration"))

    @property
    def training(self) -> TrainingConfig:
        """How the run was trained; the defaults for weights without a run."""
        return self.config.training if self.is_run else TrainingConfig()

    @property
    def evaluation(self) -> EvaluationConfig:
        """How the run evaluates its network; the defaults for weights without a run."""
        return self.config.evaluation if self.is_run else EvaluationConfig()

    @cached_property
    def _restored(self) -> tuple[Segmentor, checkpoint.ModelCard, int, float]:
        """Network, card, iteration, and the share of the average that its weights are."""
        if is_foreign(self.path):
            network, card, _ = load_foreign(self.path)
            iteration, ema = 0, 0.0
        else:
            file = checkpoint.find(self.path)
            stored = checkpoint.read(file)
            network, card = rebuild(stored, str(file)), stored.card
            iteration, ema = stored.iteration, stored.ema
        return network.to(find_device(self.device)), card, iteration, ema

    @property
    def network(self) -> Segmentor:
        """The network in evaluation mode, on the device; the same object each time.

        Raises:
            CheckpointError: nothing is there, it is broken, or its tensors do not fit the network it names.
            UsageError: its classes fit no label space, or it is an exported network.
        """
        return self._restored[0]

    @property
    def card(self) -> checkpoint.ModelCard:
        """What the checkpoint says of the network; raises what `network` does."""
        return self._restored[1]

    @property
    def iteration(self) -> int:
        """After how many iterations the network was written; 0 where the file does not say."""
        return self._restored[2]

    @property
    def ema(self) -> float:
        """Share that the exponential moving average of the weights kept in a step; 0 where they are as they were trained."""
        return self._restored[3]

    @cached_property
    def space(self) -> LabelSpace:
        """The classes of the network's outputs."""
        return label_space(self.card.space)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The domains that the network was trained on, as they are tested: without a split, which is the test split."""
        return tuple(self.config.data.source_tests if self.is_run else map(str, self.card.domains))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The domains to evaluate: those that the options name, or the run's sources and its own targets.

        Raises:
            UsageError: a source is named by the split that was trained on.
        """
        targets = self.options.targets
        if not self.is_run:
            return tuple(dict.fromkeys(targets or ()))
        if targets is None:
            return self.own_names
        for name in targets:
            if name in self.config.data.sources and name not in self.sources:
                raise UsageError(
                    f"the target {name} is what the run was trained on: name {DomainSpec.parse(name).dataset} without a "
                    "split to score the test images of that source"
                )
        return tuple(dict.fromkeys(targets or self.sources))

    @cached_property
    def own_names(self) -> tuple[str, ...]:
        """The domains that a run is known by, whatever the options name: its sources and its own targets."""
        return tuple(self.config.data.tests) if self.is_run else ()

    @cached_property
    def data(self) -> DataConfig:
        """The run's data with what the options say; its targets are the domains to evaluate that are no source.

        Raises:
            UsageError, DataError: a target is like a source, or the file of sets is wrong.
        """
        if not self.is_run:
            return self.options.merge(plain_data(self.card.space, self.card.size))
        data = replace(self.config.data, targets=[name for name in self.names if name not in self.sources])
        check_unseen(data)
        return self.options.merge(data)

    def tests(self, names: Sequence[str] | None = None) -> dict[str, SegmentationSet]:
        """Domains to evaluate by name, opened; those in `self.names` by default.

        Raises:
            UsageError, DataError: a domain cannot be opened.
        """
        return open_domains(self.names if names is None else names, self.data, self.space, training=False)

    def training_sets(self, names: Sequence[str] | None = None) -> dict[str, SegmentationSet]:
        """Domains as they are trained on, by name, opened; the run's sources by default.

        Raises:
            UsageError, DataError: a domain cannot be opened.
        """
        return open_domains(self.data.sources if names is None else names, self.data, self.space, training=True)


def load_model(run_or_checkpoint: Path | str) -> Segmentor:
    """A trained network in evaluation mode, on the CPU, from the folder of a run or a file of weights; see `OpenRun`.

    Raises:
        CheckpointError: nothing is there, it is broken, or its tensors do not fit.
        UsageError: its classes fit no label space, or it is an exported network.
    """
    return OpenRun(Path(run_or_checkpoint)).network


def open_domains(
    names: Iterable[str], data: DataConfig, space: LabelSpace, *, training: bool
) -> dict[str, SegmentationSet]:
    """Domains by their written names; see `open_domain`.

    Raises:
        UsageError, DataError: a domain cannot be opened.
    """
    return {
        name: open_domain(DomainSpec.parse(name), data=data, space=space, training=training)
        for name in dict.fromkeys(names)
    }


def plain_data(space: str, size: Sequence[int] | None) -> DataConfig:
    """Settings for what comes without a run: a label space, and the height and width of its images."""
    return resized(DataConfig(targets=[], space=space), None if size is None else (int(size[0]), int(size[1])))


def resized(data: DataConfig, size: tuple[int, int] | None) -> DataConfig:
    """Settings with another size, which may be None; the crop, without which training needs one, plays no part."""
    return replace(data, size=size, crop=data.crop or data.size or (64, 64))


def check_unseen(data: DataConfig) -> None:
    """Refuse a run that is tested on a weather style whose like it trains on, for its targets count as unseen.

    Raises:
        UsageError: names the target and the style.
    """
    put_on = [style for style in (DomainSpec.parse(text).style for text in data.sources) if style]
    trained = {lookup(style, WEATHER, "weather style").family: style for style in (*data.augmentation.styles, *put_on)}
    for text in data.targets:
        spec = DomainSpec.parse(text)
        shown = spec.style or (spec.subset if spec.dataset == "streets" else None)
        family = WEATHER[shown].family if shown in WEATHER else None
        if family in trained:
            raise UsageError(
                f"the target {text} counts as unseen, but the training has images in the style {trained[family]}, which is "
                f"of the same family ({family}): leave one of them out"
            )
