"""`spcnet train --dry-run`: is the data there, does a step fit into memory, how long will it take?

Asked before hours are spent. Every domain is opened and its first image read; the memory of a training step is counted
from shapes alone, and where that fits some steps are made by the trainer itself, on every device of the run, and timed:
with gradient accumulation, in the run's precision, compiled where the run is, on images that are loaded as the run loads
them. So are the method's statistics, a checkpoint, a line of the log, and some images of each domain that is scored.
What has to be written for that goes into a temporary folder and with it; the run's folder is not touched.
"""

import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise, repeat
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from rich.console import Console

from spcnet import distributed, training
from spcnet.config import DataConfig, DomainSpec, LoggingConfig, RunConfig
from spcnet.data.centroids import class_centres, stored_centres
from spcnet.data.datasets import SegmentationSet, open_domain
from spcnet.data.labelled import check_labelled, labelled
from spcnet.data.loading import photometric_trials
from spcnet.data.sampling import Shard
from spcnet.dry_run.checks import check_folder, check_machine
from spcnet.dry_run.memory import micro_batch_size
from spcnet.engine.devices import make_fabric
from spcnet.engine.observer import Observer
from spcnet.engine.schedule import told
from spcnet.engine.trackers import check_installed
from spcnet.engine.trainer import Trainer
from spcnet.errors import CheckpointError, DataError, SpcnetError
from spcnet.evaluation.evaluator import DomainResult
from spcnet.evaluation.tta import check_overlap
from spcnet.labels import LabelSpace, label_space
from spcnet.methods import method_named
from spcnet.models.network import Segmentor
from spcnet.numerics import peak_memory
from spcnet.plugins import make_plugins
from spcnet.reports.dry_run import (
    Domain,
    Pace,
    Rehearsal,
    Statistics,
    num_evaluations,
    num_scored,
)
from spcnet.runs import check_unseen
from spcnet.studies.subject import Subject, save_evaluation
from spcnet.types import IGNORE_INDEX, Batch, StepResult

LEAST, ENOUGH = 5, 3.0
"""Steps that are timed at least, and seconds that they should take together; a mean over fewer says little."""
MOST = 20.0
"""Seconds after which no further step is made, were there only one."""
LABELS = 64
"""Images of each source whose classes are looked for, where that was never done; see `data.class_uniform`."""
TRIAL_BATCHES = 4
"""Batches from which the time of the method's statistics is estimated."""


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
        overwrite: whether it is to start again there, whatever the folder holds.
        say: called with what is being done, in the first process.

    Returns:
        The same problems in every process; the times of its own.

    Raises:
        UsageError: a setting makes no sense.
        DataError: one of several processes failed.
    """
    method = method_named(config.method)
    method.check(config.model)
    make_plugins(config)
    check_installed(config.logging)
    check_unseen(config.data)
    check_overlap(config.evaluation.window, config.evaluation.overlap, config.data.size)
    space = label_space(config.data.space)
    report = Rehearsal()
    fabric = make_fabric(config.training)
    if not fabric.is_global_zero:
        say = lambda text: None  # noqa: E731
    say("opening the domains")
    began = time.perf_counter()
    sources, tests = _open(config.data, space, report)
    _look_for_labels(sources, tests, config.data, report, say)
    experiment = training.Experiment(config, method, space, sources, tests)
    network = _build(experiment, report)
    report.once_seconds = time.perf_counter() - began - sum(domain.read_seconds for domain in report.domains)
    network.recompute = config.training.activation_checkpointing
    check_machine(config, network, fabric, report)
    check_folder(config.output, report, resume=resume, overwrite=overwrite)
    report.made_up = distributed.any_of(len(sources) < len(config.data.sources))[0]
    if distributed.any_of(report.available is not None and report.needed > report.available)[0]:
        return _joined(report)
    with tempfile.TemporaryDirectory(prefix="spcnet-dry-run-") as folder:
        aside = _aside(config, Path(folder) / "run")
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


def _aside(config: RunConfig, output: Path) -> RunConfig:
    """The run with another folder, which is made, and no server that hears of it."""
    output.mkdir()
    training = dataclasses.replace(config.training, profile=0)
    return dataclasses.replace(
        config, output=output, logging=LoggingConfig(every=config.logging.every), training=training
    )


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
    domains = [(text, "source") for text in data.sources]
    domains += [(text, "test") for text in data.tests]
    for text, role in domains:
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
        f"making some steps of {f'{parts} micro-batches of ' if parts > 1 else ''}{micro_batch_size(config.data)} images on "
        + (f"each of {fabric.world_size} devices" if fabric.world_size > 1 else str(fabric.device))
    )
    made = _paced(trainer, batches())
    report.fresh = made.pace
    report.once_seconds += max(0.0, made.first - made.pace.seconds)
    scenes = [len(one) for one in sources.values() if one.remembers]
    report.fresh_iterations = math.inf
    if scenes and not report.made_up:
        trainer.iteration = 0
        report.known = _paced(trainer, batches()).pace
        report.fresh_iterations = 0.0 if config.data.draws_classes else _first_epoch(scenes, config, fabric)
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
    """The sources, but where a run would first read every label for `data.class_uniform` or `rare_class`, only some images of each."""
    if not data.draws_classes:
        return sources
    fewer: dict[str, SegmentationSet] = {}
    for name, images in sources.items():
        if stored_centres(images, tile=data.tile) is not None:
            fewer[name] = images
            continue
        fewer[name] = images.first(LABELS)
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


def _time_statistics(
    trainer: Trainer, sources: Mapping[str, SegmentationSet], scenes: Sequence[int], report: Rehearsal, at: int
) -> tuple[float, float]:
    """Seconds of the statistics of the whole run, from some of them; and the fraction of scenes that are never drawn in it."""
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
                shard=Shard(fabric.global_rank, fabric.world_size),
            )

    trainer.take_statistics(trials())
    marks.append(time.perf_counter())
    first, second, third = (after - before for before, after in pairwise(marks))
    each = max(0.0, second - third) / (long - short) if long > short else second / long
    fixed = max(0.0, second - long * each)
    fractions = [1 - min(1.0, whole.pairs / len(sources) / number) for number in scenes]
    unseen = [fraction**whole.trials for fraction in fractions]
    undrawn = max(0.0, 1 - at / report.fresh_iterations) if report.fresh_iterations else 0.0
    drawn = sum(number * undrawn * (1 - fraction) for number, fraction in zip(scenes, unseen, strict=True))
    drawing = max(0.0, first - second) / long if scenes else 0.0
    seconds = whole.trials * (fixed + whole.pairs * each) + drawn * drawing
    return seconds, (_mean(unseen) if unseen else 1.0)


def _time_records(trainer: Trainer, space: LabelSpace, made: _Made, report: Rehearsal) -> None:
    """How long it takes to write a checkpoint, the finished network, a line of the log and a sample."""
    config = trainer.config
    free = shutil.disk_usage(config.output).free
    if not distributed.any_of(free < 8 * report.checkpoint)[0]:
        trainer.save()
        began = time.perf_counter()
        trainer.save()  # as all but the first it keeps the one before
        saved = time.perf_counter()
        trainer.finish()
        report.checkpoint_seconds = saved - began
        report.once_seconds += time.perf_counter() - saved
    predict = trainer.predictor()
    if not trainer.fabric.is_global_zero:
        return
    with closing(
        Observer(config, trainer.method, trainer.network, domains=trainer.card.domains, colors=space.colors)
    ) as observer:
        schedule = told(0, config.training)
        observer.write(1, made.result, schedule)
        began = time.perf_counter()
        observer.write(2, made.result, schedule)
        written = time.perf_counter()
        observer.look(config.training.iterations, made.micro_batches, made.result, predict)
        report.log_seconds, report.sample_seconds = written - began, time.perf_counter() - written


def _made_up(config: RunConfig, num_classes: int) -> Batch:
    size = config.data.crop or config.data.size
    assert size is not None
    images = micro_batch_size(config.data)
    random = torch.Generator().manual_seed(0)
    label = torch.randint(0, num_classes, (images, *size), generator=random)
    label[:, 0] = IGNORE_INDEX
    domain = torch.arange(images) % len(config.data.domain_names)
    image = torch.randn(images, 3, *size, generator=random)
    return Batch(image, label, domain, tuple(f"made up {i}" for i in range(images)))


FEW_TESTS, MORE_TESTS = 2, 16
"""Images of each domain, for each process, that are scored to tell the time; the more where the few are quick."""
QUICK = 1.0
"""Seconds for the few."""


def _time_tests(trainer: Trainer, tests: Mapping[str, SegmentationSet], space: LabelSpace, report: Rehearsal) -> None:
    """Score some images of each domain, as the run will, and note an evaluation."""
    config, fabric, network = trainer.config, trainer.fabric, trainer.evaluated
    results: dict[str, DomainResult] = {}

    def timed(name: str, images: int) -> float:
        limited = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, limit=images))
        began = time.perf_counter()
        results.update(
            Subject.of_config(limited, network, space).evaluate(
                {name: tests[name]}, fabric, folder=config.output, console=Console(quiet=True)
            )
        )
        return time.perf_counter() - began

    for index, domain in enumerate(report.domains):
        if domain.role == "source" or domain.name not in tests:
            continue
        scored = num_scored(domain.images, config)
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
                if tests[domain.name].remembers and num_evaluations(config) > 1:
                    again = timed(domain.name, more) / more
        except SpcnetError as error:
            report.domains[index] = dataclasses.replace(domain, problem=str(error))
            continue
        report.domains[index] = dataclasses.replace(domain, test_seconds=each + fixed / scored, again_seconds=again)
    if results:
        began = time.perf_counter()
        with distributed.raise_on_all_ranks():
            save_evaluation(
                dataclasses.replace(Subject.of_config(config, network, space), iteration=1),
                results,
                config.output,
                names=config.data.tests,
                write=fabric.is_global_zero,
            )
        report.record_seconds = time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
