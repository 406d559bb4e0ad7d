"""`spcnet train --dry-run`: is the data there, does a step fit into memory, how long will it take?

Asked before hours are spent. Every domain is opened and its first image read; the memory of a training step is counted
from shapes alone, and where that fits some steps are made by the trainer itself, on every device of the run, and timed:
with gradient accumulation, in the run's precision, compiled where the run is, on images that are loaded as the run loads
them. So are the method's statistics, a checkpoint, a line of the log, and some images of each domain that is scored.
What has to be written for that goes into a temporary folder and with it; the run's folder is not touched.
"""

import copy
import dataclasses
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode

from spcnet import distributed, training
from spcnet.config import DataConfig, DomainSpec, LoggingConfig, RunConfig
from spcnet.cost import kept_for_backward
from spcnet.data.centroids import class_centres, innermost, stored_centres
from spcnet.data.datasets import FolderSet, SegmentationSet, StreetsSet, open_domain
from spcnet.data.loading import check_labelled, labelled, photometric_trials
from spcnet.engine.devices import make_fabric
from spcnet.engine.observer import Observer
from spcnet.engine.trackers import check_installed
from spcnet.engine.trainer import Trainer
from spcnet.errors import CheckpointError, DataError, SpcnetError
from spcnet.evaluation.evaluator import DomainResult
from spcnet.evaluation.tta import check_overlap
from spcnet.labels import LabelSpace, label_space
from spcnet.methods import method_named
from spcnet.models.network import Segmentor
from spcnet.numerics import peak_memory
from spcnet.runs import check_unseen, domain_names, source_tests
from spcnet.studies.subject import Subject, save_evaluation
from spcnet.types import IGNORE_INDEX, Batch, StepResult

LEAST, ENOUGH = 5, 3.0
"""Steps that are timed at least, and seconds that they should take together; a mean over fewer says little."""
MOST = 20.0
"""Seconds after which no further step is made, were there only one."""
LABELS = 64
"""Images of each source whose classes are looked for, where that was never done; see `data.class_uniform`."""
TRIAL_BATCHES = 4
"""Batches from which the time of the method's statistics is told."""


@dataclass(frozen=True)
class Domain:
    """One domain of a run, as it was found."""

    name: str
    role: str
    """source or test."""
    images: int = 0
    size: tuple[int, int] | None = None
    """Height and width of its first image."""
    read_seconds: float = 0.0
    """To read that one."""
    test_seconds: float | None = None
    """To score one image, where that was timed, on all devices together."""
    again_seconds: float | None = None
    """The same at a later evaluation, when generated scenes are known; None where it is as the first."""
    problem: str = ""


class Device(NamedTuple):
    """The memory of one device of a run."""

    name: str
    available: int | None
    """Bytes that were free; None where it does not tell. On a processor all processes have them together."""
    peak: int
    """Bytes that this process took at most: on a GPU by its tensors, elsewhere in all."""


class Pace(NamedTuple):
    """How fast iterations follow each other."""

    step: float
    """Seconds of a step, its batch at hand."""
    wait: float = 0.0
    """Seconds of waiting for its batch."""

    @property
    def seconds(self) -> float:
        """Of one iteration."""
        return self.step + self.wait


@dataclass
class Statistics:
    """What it takes to select what a whitening loss removes, once in a run."""

    at: int
    """Iteration before which that is done."""
    seconds: float
    pace: Pace
    """Of the iterations after it."""
    unseen: float
    """Share of the generated scenes that were neither trained on before nor in the statistics."""


@dataclass
class Rehearsal:
    """What was found out."""

    domains: list[Domain] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is not as one would wish, and does not stop the run."""
    parameters: int = 0
    needed: int = 0
    """Bytes that a step needs, counted: weights, gradients, momentum, and what is kept for the backward pass."""
    devices: list[Device] = field(default_factory=list)
    """Of each process."""
    once_seconds: float = 0.0
    """What is done once: opening the domains, building the network, what the first step takes beyond another one, writing the
    finished network."""
    labels_seconds: float = 0.0
    """To find the classes in the source labels, with `data.class_uniform`, where that was not stored before."""
    fresh: Pace | None = None
    """The pace while generated scenes are drawn for the first time; of sets of files the only one."""
    known: Pace | None = None
    """The pace once all generated scenes are known; None where there are none."""
    fresh_iterations: float = math.inf
    """How many iterations the first of these paces lasts."""
    statistics: Statistics | None = None
    checkpoint_seconds: float = 0.0
    log_seconds: float = 0.0
    """Of a line of the log."""
    sample_seconds: float = 0.0
    """Of what is shown every `logging.every` iterations."""
    record_seconds: float = 0.0
    """To note an evaluation, with its panels."""
    made_up: bool = False
    """Whether the steps were made with random images, because a source is missing."""

    @property
    def ready(self) -> bool:
        """Whether nothing is in the way."""
        return not self.problems and not any(domain.problem for domain in self.domains)

    @property
    def available(self) -> int | None:
        """Bytes that the device with the least has free; None where none tells."""
        return min((device.available for device in self.devices if device.available is not None), default=None)

    @property
    def peak(self) -> int | None:
        """Most bytes that the steps took on a device; None where none were made."""
        return max((device.peak for device in self.devices), default=None) if self.fresh is not None else None

    @property
    def step_seconds(self) -> float | None:
        """Of one training step, its batch at hand."""
        return None if self.fresh is None else (self.known or self.fresh).step

    @property
    def batch_seconds(self) -> float | None:
        """To wait for one batch."""
        return None if self.fresh is None else (self.known or self.fresh).wait

    def training_seconds(self, config: RunConfig) -> float:
        """From the first iteration to the last, with statistics, logs and checkpoints, without evaluations."""
        if self.fresh is None:
            return 0.0
        training, known = config.training, self.known or self.fresh
        iterations = training.iterations
        fresh = min(self.fresh_iterations, iterations)
        first = self.fresh.seconds - known.seconds
        seconds = iterations * known.seconds + first * fresh
        if self.statistics is not None:
            at = self.statistics.at
            seconds += self.statistics.seconds + (iterations - at) * (self.statistics.pace.seconds - known.seconds)
            seconds -= first * max(0, fresh - at) * (1 - self.statistics.unseen)
        lines = iterations // training.log_every + (iterations % training.log_every > 0)
        samples = iterations // config.logging.every + 1 if config.logging.every else 0
        return (
            seconds
            + _saves(config) * self.checkpoint_seconds
            + lines * self.log_seconds
            + samples * self.sample_seconds
        )

    def testing_seconds(self, config: RunConfig) -> float:
        """Of all evaluations together."""
        times = _evaluations(config)
        return times * self.record_seconds + sum(
            _scored(domain.images, config)
            * (domain.test_seconds + (times - 1) * (domain.again_seconds or domain.test_seconds))
            for domain in self.domains
            if domain.test_seconds is not None
        )

    def total_seconds(self, config: RunConfig) -> float:
        """Of the whole run."""
        return self.once_seconds + self.labels_seconds + self.training_seconds(config) + self.testing_seconds(config)


def _saves(config: RunConfig) -> int:
    """How many checkpoints a run writes."""
    training = config.training
    last = training.iterations - 1
    saves = 1 + last // training.checkpoint_every
    if training.evaluate_every:
        saves += last // training.evaluate_every
        saves -= last // math.lcm(training.evaluate_every, training.checkpoint_every)
    return saves


def _evaluations(config: RunConfig) -> int:
    """How many times a run is scored."""
    every = config.training.evaluate_every
    return 1 + ((config.training.iterations - 1) // every if every else 0)


def _scored(images: int, config: RunConfig) -> int:
    """How many images of a domain each evaluation scores."""
    return min(images, config.evaluation.limit or images)


def rehearse(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Rehearsal:
    """Find out whether a run can be made, and what it will take; in each of its processes.

    Args:
        config: the run.
        resume: whether it is to go on in its folder.
        overwrite: whether it is to begin anew there, whatever the folder holds.
        say: is told what is being done, in the first process.

    Returns:
        The same problems in every process; the times of its own.

    Raises:
        UsageError: a setting makes no sense.
        DataError: one of several processes failed.
    """
    method = method_named(config.method)
    method.check(config.model)
    check_installed(config.logging)
    check_unseen(config.data)
    check_overlap(config.evaluation.window, config.evaluation.overlap, config.data.size)
    space = label_space(config.data.space)
    report = Rehearsal()
    fabric = make_fabric(config.training)
    if not fabric.is_global_zero:
        say = _silent
    say("opening the domains")
    began = time.perf_counter()
    sources, tests = _open(config.data, space, report)
    _look_for_labels(sources, tests, config.data, report, say)
    experiment = training.Experiment(config, method, space, sources, tests)
    network = _build(experiment, report)
    report.once_seconds = time.perf_counter() - began - sum(domain.read_seconds for domain in report.domains)
    report.parameters = sum(p.numel() for p in network.parameters())
    network.recompute = config.training.activation_checkpointing
    report.needed = _counted(network, config, len(space))
    report.devices = distributed.gather(
        Device(_name(fabric), _free(fabric.device), int(2**20 * peak_memory(fabric.device)))
    )
    _check_folder(config.output, report, resume=resume, overwrite=overwrite)
    _check_disk(config.output, report)
    _check_memory(config, fabric, report)
    report.made_up = distributed.any_of(len(sources) < len(config.data.sources))[0]
    too_large = distributed.any_of(report.available is not None and report.needed > report.available)[0]
    if too_large:
        return _joined(report)
    with tempfile.TemporaryDirectory(prefix="spcnet-dry-run-") as folder:
        # All that is written goes there, and no server hears of it.
        aside = dataclasses.replace(
            config,
            output=Path(folder) / "run",
            logging=LoggingConfig(every=config.logging.every),
            training=dataclasses.replace(config.training, profile=0),
        )
        aside.output.mkdir()
        try:
            _measure(dataclasses.replace(experiment, config=aside), network, fabric, report, say)
        except torch.OutOfMemoryError as error:
            message = f"a step does not fit into the memory of {fabric.device}: {str(error).splitlines()[0]}"
            if fabric.world_size > 1:  # the others wait for this one until it ends
                raise DataError(message) from error
            report.problems.append(message)
        except DataError as error:
            if fabric.world_size > 1:
                raise
            report.problems.append(str(error))
    return _joined(report)


def _silent(text: str) -> None:
    pass


def _joined(report: Rehearsal) -> Rehearsal:
    """With the problems of all processes."""
    report.problems = list(dict.fromkeys(problem for one in distributed.gather(report.problems) for problem in one))
    return report


def _open(
    data: DataConfig, space: LabelSpace, report: Rehearsal
) -> tuple[dict[str, SegmentationSet], dict[str, SegmentationSet]]:
    """Open every domain and read its first image; sources and tests that are well, what is wrong goes into the report."""
    sources: dict[str, SegmentationSet] = {}
    tests: dict[str, SegmentationSet] = {}
    wanted = [(text, "source") for text in data.sources]
    wanted += [(text, "test") for text in dict.fromkeys((*source_tests(data), *data.targets))]
    for text, role in wanted:
        try:
            opened = open_domain(DomainSpec.parse(text), data=data, space=space, training=role == "source")
            started = time.perf_counter()
            sample = opened.read(0)
            seconds = time.perf_counter() - started
        except SpcnetError as error:
            report.domains.append(Domain(text, role, problem=str(error)))
            continue
        size = (sample.label.shape[0], sample.label.shape[1])
        report.domains.append(Domain(text, role, len(opened), size, seconds))
        (sources if role == "source" else tests)[text] = opened
        report.notes += [remark for remark in opened.remarks if remark not in report.notes]
    return sources, tests


def _look_for_labels(
    sources: Mapping[str, SegmentationSet],
    tests: Mapping[str, SegmentationSet],
    data: DataConfig,
    report: Rehearsal,
    say: Callable[[str], object],
) -> None:
    """Whether every domain has a labelled pixel; the first process looks."""
    if distributed.rank() > 0:
        return
    for name, images in sources.items():
        try:
            check_labelled(name, images, workers=data.workers, say=say)
        except DataError as error:
            report.problems.append(str(error))
    for name, images in tests.items():
        if not labelled(name, images, workers=data.workers, say=say):
            report.notes.append(f"no image of {name} has a labelled pixel: it will have no mIoU")


def _build(experiment: training.Experiment, report: Rehearsal) -> Segmentor:
    try:
        return experiment.build_network()
    except CheckpointError as error:
        report.problems.append(str(error))
        return experiment.build_network(pretrained=False)


def _in_batch(data: DataConfig) -> int:
    """Images of a micro-batch of one process."""
    return data.images_per_domain * (1 if data.sampling == "alternating" else len(data.sources))


def _counted(network: Segmentor, config: RunConfig, num_classes: int) -> int:
    """Bytes of a training step of one process in single precision, from shapes alone."""
    size = config.data.crop or config.data.size
    assert size is not None
    with FakeTensorMode(allow_non_fake_inputs=True):
        kept = kept_for_backward(network, torch.empty(1, 3, *size))
    network.zero_grad(set_to_none=True)
    pixels = size[0] * size[1]
    scores = 4 * num_classes * pixels
    own = sum(p.numel() * p.element_size() for p in network.parameters())
    # The scores' logarithms are kept for the backward pass of the loss, and their gradient is as large again. All
    # micro-batches are on the device, three floats and a whole number a pixel, but the network has one at a time.
    images = _in_batch(config.data)
    return 3 * own + images * (kept + 2 * scores) + (config.training.accumulate - 1) * images * 20 * pixels


def _check_memory(config: RunConfig, fabric: Fabric, report: Rehearsal) -> None:
    """Note where a step does not fit; processes on one machine's processor have its memory together."""
    beside = fabric.world_size // config.training.nodes if fabric.device.type == "cpu" else 1
    report.needed *= max(1, beside)
    if report.available is not None and report.needed > report.available:
        scarce = min(
            (device for device in report.devices if device.available is not None),
            key=lambda device: device.available or 0,
        )
        report.problems.append(
            f"a step needs about {_bytes(report.needed)} and {scarce.name} has {_bytes(report.available)} free: lower "
            "data.images_per_domain (training.accumulate makes up for it) or data.crop, raise model.output_stride, or use "
            "training.activation_checkpointing or training.precision bf16-mixed"
        )


def _measure(
    experiment: training.Experiment,
    network: Segmentor,
    fabric: Fabric,
    report: Rehearsal,
    say: Callable[[str], object],
) -> None:
    """Make some steps, and one each of all else that a run does, and note how long they take.

    Raises:
        OutOfMemoryError: a step does not fit into the memory of this process's device.
        DataError: an image cannot be read, or the loss is not finite.
    """
    config, space, sources, tests = experiment.config, experiment.space, experiment.sources, experiment.tests
    began = time.perf_counter()
    trainer = experiment.make_trainer(network, fabric)
    trainer.keeps_failed_steps = False
    report.once_seconds += time.perf_counter() - began
    if not report.made_up:
        sources = _with_known_classes(sources, config.data, report)
        experiment = dataclasses.replace(experiment, sources=sources)

    def batches() -> Iterable[Batch]:
        if report.made_up:
            return repeat(_made_up(config, len(space)))
        return experiment.make_batches(trainer.iteration, store=False)

    parts = config.training.accumulate
    say(
        f"making some steps of {f'{parts} micro-batches of ' if parts > 1 else ''}{_in_batch(config.data)} images on "
        + (f"each of {fabric.world_size} devices" if fabric.world_size > 1 else str(fabric.device))
    )
    made = _paced(trainer, batches())
    report.fresh = made.pace
    report.once_seconds += max(0.0, made.first - made.pace.seconds)
    scenes = [len(one) for one in sources.values() if _is_remembered(one)]
    report.fresh_iterations = math.inf
    if scenes and not report.made_up:
        trainer.iteration = 0
        report.known = _paced(trainer, batches()).pace
        report.fresh_iterations = 0.0 if config.data.class_uniform else _first_epoch(scenes, config, fabric)
    at = trainer.statistics_at
    if at is not None and at < config.training.iterations and not report.made_up:
        say("taking some of the method's statistics")
        seconds, unseen = _time_statistics(trainer, sources, scenes, report, at)
        trainer.iteration = 0  # the same images, so that they are known
        waiting = batches()
        trainer.iteration = at
        report.statistics = Statistics(at, seconds, _paced(trainer, waiting).pace, unseen)
    _time_records(trainer, space, made, report)
    peak = int(2**20 * peak_memory(fabric.device))
    if tests:
        say("scoring some images of each domain")
        _time_tests(trainer, tests, space, report)
        peak = max(peak, int(2**20 * peak_memory(fabric.device)))
    report.devices = distributed.gather(report.devices[fabric.global_rank]._replace(peak=peak))


class _Made(NamedTuple):
    """Steps that were made."""

    pace: Pace
    first: float
    """Seconds of the first iteration, which also starts what loads the images."""
    micro_batches: list[Batch]
    """Of the last."""
    result: StepResult


def _paced(trainer: Trainer, batches: Iterable[Batch]) -> _Made:
    """Make steps until their time is known, the first not counted unless it is the only one."""
    training, data = trainer.config.training, trainer.config.data
    # So many iterations find their images loaded while the ones before were computed.
    ahead = math.ceil(2 * data.workers / training.accumulate)
    waits: list[float] = []
    steps: list[float] = []
    stream = trainer.micro_batches(batches)
    last = time.perf_counter()
    for micro_batches in stream:
        got = time.perf_counter()
        result = trainer.step(micro_batches)
        _wait_for(trainer.fabric.device)
        done = time.perf_counter()
        waits.append(got - last)
        steps.append(done - got)
        last = done
        spent = sum(waits[1:]) + sum(steps[1:])
        enough = len(steps) > ahead + LEAST and spent >= ENOUGH
        too_long = spent > MOST or (steps[0] > MOST and not training.compile)
        if distributed.any_of(enough or too_long or trainer.iteration >= training.iterations)[0]:
            break
    stream.close()
    steady = waits[ahead + 1 :] or waits[1:] or waits
    pace = Pace(_mean(steps[1:] or steps), _mean(steady))
    return _Made(pace, waits[0] + steps[0], micro_batches, result)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_remembered(images: SegmentationSet) -> bool:
    """Whether its images are made when they are first read, and then kept."""
    stored = innermost(images)
    return isinstance(stored, StreetsSet) and stored.memory is not None


def _first_epoch(scenes: Sequence[int], config: RunConfig, fabric: Fabric) -> float:
    """Iterations until all generated scenes were drawn."""
    data = config.data
    each = data.images_per_domain * config.training.accumulate * fabric.world_size
    if data.sampling == "proportional":
        return sum(scenes) / (len(data.sources) * each)
    return max(scenes) * (len(data.sources) if data.sampling == "alternating" else 1) / each


def _with_known_classes(
    sources: Mapping[str, SegmentationSet], data: DataConfig, report: Rehearsal
) -> Mapping[str, SegmentationSet]:
    """The sources, but where a run would first read every label for `data.class_uniform`, only some images of each."""
    if not data.class_uniform:
        return sources
    fewer: dict[str, SegmentationSet] = {}
    for name, images in sources.items():
        if stored_centres(images, tile=data.tile) is not None:
            fewer[name] = images
            continue
        fewer[name] = _first_of(images, LABELS)
        began = time.perf_counter()
        class_centres(
            fewer[name],
            tile=data.tile,
            workers=data.workers,
            skip_bad=data.on_bad_image == "skip",
            store=False,
        )
        report.labels_seconds += (time.perf_counter() - began) * len(images) / len(fewer[name])
    return fewer


def _first_of(images: SegmentationSet, number: int) -> SegmentationSet:
    """The first images of a set."""
    fewer = copy.copy(images)
    inner = innermost(images)
    if images is not inner:
        fewer.plain = _first_of(images.plain, number)  # type: ignore[attr-defined]
    elif isinstance(fewer, FolderSet):
        fewer.pairs = fewer.pairs[:number]
    elif isinstance(fewer, StreetsSet):
        fewer.num_scenes = min(number, fewer.num_scenes)
    return fewer


def _time_statistics(
    trainer: Trainer, sources: Mapping[str, SegmentationSet], scenes: Sequence[int], report: Rehearsal, at: int
) -> tuple[float, float]:
    """Seconds of the statistics of the whole run, from some of them; and the share of scenes that are never drawn in it."""
    config, fabric = trainer.config, trainer.fabric
    whole = config.model.whitening
    batch = (config.data.images_per_domain if config.data.size else 1) * fabric.world_size
    short, long = min(batch, whole.pairs), min(TRIAL_BATCHES * batch, whole.pairs)
    marks: list[float] = []

    def trials() -> Iterator[Iterable[Batch]]:
        # The first loads kernels and draws scenes, the second finds them drawn.
        for pairs in (long, long, short):
            marks.append(time.perf_counter())
            yield from photometric_trials(
                list(sources.values()),
                config.data,
                seed=config.training.seed,
                trials=1,
                pairs=pairs,
                rank=fabric.global_rank,
                world_size=fabric.world_size,
            )

    trainer.take_statistics(trials())
    marks.append(time.perf_counter())
    first, second, third = (after - before for before, after in pairwise(marks))
    each = max(0.0, second - third) / (long - short) if long > short else second / long
    fixed = max(0.0, second - long * each)
    own = [1 - min(1.0, whole.pairs / len(sources) / number) for number in scenes]
    unseen = [fraction**whole.trials for fraction in own]
    undrawn = max(0.0, 1 - at / report.fresh_iterations) if report.fresh_iterations else 0.0
    drawn = sum(number * undrawn * (1 - fraction) for number, fraction in zip(scenes, unseen, strict=True))
    drawing = max(0.0, first - second) / long if scenes else 0.0
    seconds = whole.trials * (fixed + whole.pairs * each) + drawn * drawing
    return seconds, (_mean(unseen) if unseen else 1.0)


def _time_records(trainer: Trainer, space: LabelSpace, made: _Made, report: Rehearsal) -> None:
    """How long it takes to write a checkpoint, the finished network, a line of the log and a sample."""
    config = trainer.config
    free = shutil.disk_usage(config.output).free
    if not distributed.any_of(free < 16 * 4 * report.parameters)[0]:
        trainer.save()
        began = time.perf_counter()
        trainer.save()  # as all but the first it keeps the one before
        saved = time.perf_counter()
        trainer.finish()
        report.checkpoint_seconds = saved - began
        report.once_seconds += time.perf_counter() - saved
    if not trainer.fabric.is_global_zero:
        return
    with closing(
        Observer(config, trainer.method, trainer.network, domains=trainer.card.domains, colors=space.colors)
    ) as observer:
        rate = trainer.optimizer.param_groups[0]["lr"]
        observer.write(1, made.result, rate)
        began = time.perf_counter()
        observer.write(2, made.result, rate)
        written = time.perf_counter()
        observer.look(config.training.iterations, made.micro_batches, made.result, trainer.classes)
        report.log_seconds, report.sample_seconds = written - began, time.perf_counter() - written


def _made_up(config: RunConfig, num_classes: int) -> Batch:
    size = config.data.crop or config.data.size
    assert size is not None
    images = _in_batch(config.data)
    random = torch.Generator().manual_seed(0)
    label = torch.randint(0, num_classes, (images, *size), generator=random)
    label[:, 0] = IGNORE_INDEX
    domain = torch.arange(images) % len(domain_names(config.data))
    image = torch.randn(images, 3, *size, generator=random)
    return Batch(image, label, domain, tuple(f"made up {i}" for i in range(images)))


FEW_TESTS, MORE_TESTS = 2, 16
"""Images of each domain, for each process, that are scored to tell the time; the more where the few are quick."""
QUICK = 1.0
"""Seconds for the few."""


def _time_tests(trainer: Trainer, tests: Mapping[str, SegmentationSet], space: LabelSpace, report: Rehearsal) -> None:
    """Score some images of each domain, as the run will, and note an evaluation."""
    config, fabric = trainer.config, trainer.fabric
    results: dict[str, DomainResult] = {}

    def timed(name: str, images: int) -> float:
        limited = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, limit=images))
        began = time.perf_counter()
        results.update(
            Subject.of_config(limited, trainer.network, space).evaluate(
                {name: tests[name]}, fabric, folder=config.output, console=Console(quiet=True)
            )
        )
        return time.perf_counter() - began

    for index, domain in enumerate(report.domains):
        if domain.role == "source" or domain.name not in tests:
            continue
        scored = _scored(domain.images, config)
        few, more = (
            min(scored, number * fabric.world_size)
            for number in (FEW_TESTS, max(MORE_TESTS, 2 * config.evaluation.batch_size))
        )
        try:
            seconds = timed(domain.name, few)
            each, fixed, again = seconds / few, 0.0, None
            if more > few and not distributed.any_of(seconds > QUICK)[0]:
                longer = timed(domain.name, more)
                each = max(0.0, longer - seconds) / (more - few)
                fixed = max(0.0, longer - more * each)
                if _is_remembered(tests[domain.name]) and _evaluations(config) > 1:
                    again = timed(domain.name, more) / more
        except SpcnetError as error:
            report.domains[index] = dataclasses.replace(domain, problem=str(error))
            continue
        report.domains[index] = dataclasses.replace(domain, test_seconds=each + fixed / scored, again_seconds=again)
    if results:
        began = time.perf_counter()
        with distributed.raise_on_all_ranks():
            save_evaluation(
                dataclasses.replace(Subject.of_config(config, trainer.network, space), iteration=1),
                results,
                config.output,
                names=[*source_tests(config.data), *config.data.targets],
                write=fabric.is_global_zero,
            )
        report.record_seconds = time.perf_counter() - began


def _check_folder(output: Path, report: Rehearsal, *, resume: bool, overwrite: bool) -> None:
    """Whether the training itself would begin there."""
    if distributed.rank() > 0:
        return
    try:
        training.check_claim(output, resume=resume, overwrite=overwrite)
    except SpcnetError as error:
        report.problems.append(str(error))
    else:
        if resume:
            report.notes.append("the times are those of the whole run, not of what is left of it")


def _check_disk(output: Path, report: Rehearsal) -> None:
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free, wanted = shutil.disk_usage(there).free, 2 * 2 * 4 * report.parameters
    if not os.access(there, os.W_OK):
        report.problems.append(f"cannot write to {there}: choose another --output")
    if free < wanted:
        report.problems.append(
            f"{there} has {_bytes(free)} free, and the run's checkpoints take {_bytes(wanted)}: make room or choose "
            "another --output"
        )


def _name(fabric: Fabric) -> str:
    """The device of this process."""
    device = fabric.device
    name = f"{torch.cuda.get_device_name(device)} ({device})" if device.type == "cuda" else str(device)
    return f"{name} of process {fabric.global_rank}" if fabric.world_size > 1 else name


def _free(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    amounts = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        amounts += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # the limit of a container
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        amounts.append(int(Path("/sys/fs/cgroup/memory.max").read_text()) - used)
    return min(amounts, default=None)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def show(report: Rehearsal, config: RunConfig, console: Console) -> None:
    """Print what was found out."""
    table = Table(box=SIMPLE)
    for title in ("domain", "role"):
        table.add_column(title)
    for title in ("images", "first image", "read ms", "test"):
        table.add_column(title, justify="right")
    for domain in report.domains:
        if domain.problem:
            table.add_row(domain.name, domain.role, "missing", "", "", "", style="red")
            continue
        height, width = domain.size or (0, 0)
        whole = "" if domain.test_seconds is None else _time(domain.test_seconds * _scored(domain.images, config))
        table.add_row(
            domain.name,
            domain.role,
            f"{domain.images:,}",
            f"{width}×{height}",
            f"{1000 * domain.read_seconds:.0f}",
            whole,
        )
    console.print(table)
    for line in _lines(report, config):
        console.print(line, highlight=False, markup=False)
    for note in report.notes:
        console.print(f"note        {note}", style="yellow", highlight=False, markup=False)
    for problem in dict.fromkeys((*(d.problem for d in report.domains if d.problem), *report.problems)):
        console.print(f"problem     {problem}", style="red", highlight=False, markup=False)
    console.print("Ready: nothing was written." if report.ready else "Not ready: see the problems.", highlight=False)


def _lines(report: Rehearsal, config: RunConfig) -> Iterator[str]:
    """What was found out of the run as a whole."""
    training = config.training
    yield f"network     {report.parameters / 1e6:.1f} million parameters"
    yield f"memory      a step needs about {_bytes(report.needed)} in single precision"
    for device in report.devices:
        free = "" if device.available is None else f"{_bytes(device.available)} free"
        peak = f"{_bytes(device.peak)} taken at most" if report.fresh is not None else ""
        yield f"            {device.name}: {', '.join(part for part in (free, peak) if part) or 'does not tell'}"
    if report.fresh is not None:
        pace = report.known or report.fresh
        parts = f" ({training.accumulate} micro-batches)" if training.accumulate > 1 else ""
        how = "with random images" if report.made_up else f"and {_time(pace.wait)} of waiting for data"
        yield f"a step      {_time(pace.step)}{parts} {how}"
        if report.known is not None and report.fresh_iterations:
            first = min(math.ceil(report.fresh_iterations), training.iterations)
            yield f"            {_time(report.fresh.seconds)} in the first {first:,} iterations, which draw the scenes"
        if report.labels_seconds:
            yield f"classes     {_time(report.labels_seconds)} to find them in the labels, once"
        if report.statistics is not None:
            taken = report.statistics
            yield (
                f"statistics  {_time(taken.seconds)} before iteration {taken.at + 1:,}, then {_time(taken.pace.seconds)} "
                "an iteration"
            )
        saves = _saves(config)
        yield f"training    {_time(report.training_seconds(config))} for {training.iterations:,} iterations"
        yield f"            with {saves:,} checkpoint{'s' if saves > 1 else ''} of {_time(report.checkpoint_seconds)}"
        times = _evaluations(config)
        if any(domain.test_seconds is not None for domain in report.domains):
            yield f"testing     {_time(report.testing_seconds(config))}{f' for {times} evaluations' if times > 1 else ''}"
        yield f"altogether  {_time(report.total_seconds(config))}"
    if config.expected:
        yield f"expected    {config.expected}"


def _bytes(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"
