"""Training a network: here data, methods, engine and evaluation meet."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.console import Console

from spcnet import checkpoint, distributed
from spcnet.config import RunConfig
from spcnet.data.datasets import SegmentationSet, print_remarks
from spcnet.data.labelled import check_labelled
from spcnet.data.loading import TrainingLoader, file_names, photometric_trials, training_batches
from spcnet.data.sampling import Shard
from spcnet.engine import membership, records
from spcnet.engine.devices import make_fabric
from spcnet.engine.observer import Observer
from spcnet.engine.progress import bar
from spcnet.engine.state import dead_workers_told
from spcnet.engine.trackers import TRACKERS_FILE, check_installed
from spcnet.engine.trainer import Trainer
from spcnet.errors import DataError, UsageError
from spcnet.evaluation.tta import check_overlap
from spcnet.labels import LabelSpace, label_space
from spcnet.locks import locked
from spcnet.methods import card_for, method_named
from spcnet.methods.baseline import Baseline
from spcnet.models.network import Segmentor
from spcnet.plugins import make_plugins, with_plugins
from spcnet.runs import check_unseen, open_domains
from spcnet.studies.subject import Record, Skipped, Subject, save_evaluation


@dataclass(frozen=True)
class Experiment:
    """A run before its training: its settings, its method, and its data, opened."""

    config: RunConfig
    method: Baseline
    space: LabelSpace
    sources: Mapping[str, SegmentationSet]
    """The domains that are trained on, by name, in the order of the domain indices."""
    tests: Mapping[str, SegmentationSet]
    """The domains that the network is evaluated on, sources first, by name."""

    @classmethod
    def open(cls, config: RunConfig) -> "Experiment":
        """Check the settings of a run, and open its data.

        Raises:
            UsageError, DataError: see the message.
        """
        method = method_named(config.method)
        method.check(config.model)
        make_plugins(config)
        check_installed(config.logging)
        check_unseen(config.data)
        space = label_space(config.data.space)
        sources = open_domains(config.data.sources, config.data, space, training=True)
        tests = open_domains(config.data.tests, config.data, space, training=False)
        return cls(config, method, space, sources, tests)

    def build_network(self, *, pretrained: bool = True) -> Segmentor:
        """The network that the run begins with, the same for the same seed.

        Raises:
            UsageError, CheckpointError: see `Method.build`.
        """
        data = self.config.data
        torch.manual_seed(self.config.training.seed)
        return self.method.build(
            self.config.model,
            num_classes=len(self.space),
            num_domains=len(data.domain_names),
            cluster_domains=data.pseudo_domains > 0 and data.pseudo_by == "cluster",
            pretrained=pretrained,
        )

    def make_trainer(self, network: Segmentor, fabric: Fabric) -> Trainer:
        """What trains a network that `build_network` made."""
        card = card_for(
            method=self.config.method,
            model=self.config.model,
            space=self.space.name,
            classes=self.space.classes,
            domains=self.config.data.domain_names,
            size=self.config.data.size,
            base=network.base,
        )
        images = {name: membership.images_of(len(one), file_names(one)) for name, one in self.sources.items()}
        method = with_plugins(self.method, make_plugins(self.config), network, self.config)
        return Trainer(self.config, method, network, card, fabric, images=images)

    def make_batches(
        self, start: int = 0, *, on_progress: Callable[[int, int], None] | None = None, store: bool = True
    ) -> TrainingLoader:
        """The micro-batches of this process from an iteration on; see `training_batches`."""
        training = self.config.training
        return training_batches(
            list(self.sources.values()),
            self.config.data,
            seed=training.seed,
            iterations=range(start, training.iterations),
            parts=training.accumulate,
            shard=Shard(distributed.rank(), distributed.world_size()),
            on_progress=on_progress,
            store=store,
        )

    def make_trials(self) -> Iterator[TrainingLoader]:
        """What the method's statistics are taken from, as often as `model.whitening` says; see `photometric_trials`."""
        whitening = self.config.model.whitening
        return photometric_trials(
            list(self.sources.values()),
            self.config.data,
            seed=self.config.training.seed,
            trials=whitening.trials,
            pairs=whitening.pairs,
            shard=Shard(distributed.rank(), distributed.world_size()),
        )

    def evaluate(self, trainer: Trainer, console: Console, record: Callable[[Record], object]) -> Record:
        """Evaluate the network that is being trained, or the average of its weights, and add the result to the run.

        Raises:
            DataError: an image cannot be read, or the run's folder cannot be written.
        """
        fabric, output = trainer.fabric, self.config.output
        subject = Subject.of_config(self.config, trainer.evaluated, self.space)
        results = subject.evaluate(self.tests, fabric, folder=output, console=console)
        # One process writes; what goes wrong there ends all.
        with distributed.raise_on_all_ranks():
            subject = replace(subject, iteration=trainer.iteration, ema=trainer.ema)
            evaluation = save_evaluation(subject, results, output, names=list(self.tests), write=fabric.is_global_zero)
            record(evaluation)
        return evaluation


def train(
    config: RunConfig, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> Record:
    """Train a network and evaluate it; everything is written to `config.output`.

    Args:
        config: the run.
        resume: go on where the folder's last checkpoint stands.
        overwrite: start again in a folder that holds a run.
        console: where progress is shown; nowhere by default.

    Returns:
        The record of the last evaluation, as in results.jsonl.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
        Interrupted: stopped by the user; the state is saved.
    """
    console = console or Console(quiet=True)
    experiment = Experiment.open(config)
    fabric = make_fabric(config.training)
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    print_remarks([*experiment.sources.values(), *experiment.tests.values()], console)
    if not resume:  # a run of an earlier version goes on
        check_overlap(config.evaluation.window, config.evaluation.overlap, config.data.size)
    with distributed.raise_on_all_ranks():
        if fabric.is_global_zero:
            for name, images in experiment.sources.items():
                check_labelled(name, images, workers=config.data.workers, say=partial(say, style="yellow"))
    with _claimed(config.output, fabric, resume=resume, overwrite=overwrite, say=say):
        if resume and not checkpoint.exists(config.output):
            resume = False
            say(f"{config.output} ended before its first checkpoint: it starts again", style="yellow")
        return _train(experiment, fabric, resume=resume, console=console)


def _train(experiment: Experiment, fabric: Fabric, *, resume: bool, console: Console) -> Record:
    """Train in a folder that is this run's alone; see `train`."""
    config = experiment.config
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    # A checkpoint has what it needs, and says where the rest is.
    network = experiment.build_network(pretrained=not resume)
    trainer = experiment.make_trainer(network, fabric)
    with distributed.raise_on_all_ranks():
        note = trainer.resume() if resume else None
        if fabric.is_global_zero:
            records.open_run(config)
            membership.write(config.output, trainer.images)
    if note is not None:
        say(note, style="yellow")
    batches = _find_batches(experiment, trainer, console)
    with distributed.raise_on_all_ranks():
        observer = Observer(
            config,
            experiment.method,
            network,
            start=trainer.iteration,
            enabled=fabric.is_global_zero,
            domains=trainer.card.domains,
            colors=experiment.space.colors,
            say=say,
        )
    with closing(observer), dead_workers_told(config.output):
        if trainer.iteration < config.training.iterations:
            skipped = Skipped(config.output / records.SKIPPED_FILE, console)
            skipping = config.data.on_bad_image == "skip"
            with bar(console, config.training.iterations, trainer.iteration, f"train {config.method}") as show:

                def progress(iteration: int, figures: dict[str, float]) -> None:
                    show(iteration, figures)
                    if skipping:
                        for bad in distributed.gather(batches.skipped):
                            skipped.add("training", bad)

                trainer.fit(
                    batches,
                    on_progress=progress,
                    on_evaluate=lambda _: experiment.evaluate(trainer, console, observer.results),
                    trials=experiment.make_trials,
                    observer=observer,
                )
        trainer.finish()
        return experiment.evaluate(trainer, console, observer.results)


def _find_batches(experiment: Experiment, trainer: Trainer, console: Console) -> TrainingLoader:
    """The batches that are left; the first process finds the classes, the others read what it found."""
    with bar(console, 0, 0, "find the classes") if experiment.config.data.draws_classes else nullcontext() as look:
        on_progress = None if look is None else lambda done, total: look(done, {}, total)
        for first in (True, False):
            with distributed.raise_on_all_ranks():
                if trainer.fabric.is_global_zero is first:
                    batches = experiment.make_batches(trainer.iteration, on_progress=on_progress)
    return batches


@contextmanager
def _claimed(
    output: Path, fabric: Fabric, *, resume: bool, overwrite: bool, say: Callable[..., object]
) -> Iterator[None]:
    """The folder is this run's alone as long as its first process lives, and no run is written over unasked.

    Raises:
        UsageError, DataError: another training writes there, there is a run already, or nothing to resume.
    """
    with ExitStack() as held:
        with distributed.raise_on_all_ranks():
            if fabric.is_global_zero:
                if not output.exists():
                    check_claim(output, resume=resume, overwrite=overwrite)
                unlocked = held.enter_context(locked(output, what="training"))
                if unlocked is not None:
                    say(unlocked, style="yellow")
                check_claim(output, resume=resume, overwrite=overwrite)
                if not (resume and checkpoint.exists(output)):
                    _clear(output)
        yield


def check_claim(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to write over a run, and to resume none; one that ended before its first checkpoint starts again."""
    resumable, tested = checkpoint.exists(output), (output / records.RESULTS_FILE).exists()
    exists = resumable or tested
    begun = (output / records.CONFIG_FILE).exists() and not tested and not (output / checkpoint.MODEL_FILE).exists()
    if resume and not resumable and not begun:
        raise DataError(f"{output} has no {checkpoint.LATEST_FILE} to resume from: leave out --resume to start again")
    if exists and not resume and not overwrite:
        raise UsageError(
            f"{output} already holds a run: add --resume to go on, --overwrite to start again, or choose another --output"
        )


def _clear(output: Path) -> None:
    """Remove what an earlier run left in a folder.

    Raises:
        DataError: it cannot be written to.
    """
    try:
        for name in (
            checkpoint.LATEST_FILE,
            checkpoint.PREVIOUS_FILE,
            checkpoint.DAMAGED_FILE,
            checkpoint.MODEL_FILE,
            membership.IMAGES_FILE,
            records.TRAIN_FILE,
            records.RESULTS_FILE,
            records.SKIPPED_FILE,
            TRACKERS_FILE,
        ):
            (output / name).unlink(missing_ok=True)
        for event in (output / "tensorboard").glob("events.*"):
            event.unlink()
    except OSError as error:
        raise DataError(
            f"cannot write to the folder {output} ({error.strerror}): check its permission or choose another --output"
        ) from error
