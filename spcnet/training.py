"""Training, scoring and reports of runs: here data, methods, engine, evaluation and reports meet."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import nn

from spcnet import checkpoint, distributed
from spcnet.config import DataConfig, DomainSpec, EvaluationConfig, RunConfig, as_dict, plain_lists
from spcnet.cost import PAPER_SIZE, cost
from spcnet.data.catalog import with_sets
from spcnet.data.datasets import SegmentationSet, open_domain, print_remarks
from spcnet.data.folders import root_of
from spcnet.data.loading import (
    TrainingLoader,
    check_labelled,
    evaluation_batches,
    file_names,
    photometric_trials,
    training_batches,
)
from spcnet.engine import membership, records
from spcnet.engine.devices import make_fabric, scorer
from spcnet.engine.observer import Observer
from spcnet.engine.progress import bar
from spcnet.engine.state import dead_workers_told
from spcnet.engine.trackers import TRACKERS_FILE, check_installed
from spcnet.engine.trainer import Trainer
from spcnet.errors import DataError, SpcnetError, UsageError
from spcnet.evaluation import evaluator
from spcnet.evaluation.tta import TestTimeAugmentation, augmented, check_overlap
from spcnet.labels import LabelSpace, label_space
from spcnet.locks import locked
from spcnet.methods import Method, Segmentor, card_for, method_named, restore
from spcnet.reports.costs import NetworkCost
from spcnet.reports.page import write_report
from spcnet.reports.runs import Run, load_run
from spcnet.reports.tables import ranked, render_terminal, summary_table
from spcnet.runs import OpenRun, check_unseen, domain_names, source_tests

Record = dict[str, Any]


@plain_lists
def data_for(
    config: RunConfig,
    *,
    targets: Sequence[str] | None = None,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
) -> DataConfig:
    """A run's data with what was asked for after its training.

    Args:
        config: of the run.
        targets: unseen domains instead of the run's own.
        roots: folders of data sets, beside the run's own.
        sets: file that describes sets of one's own, beside the run's own; see `spcnet.config.read_sets`.

    Raises:
        UsageError, DataError: a target is a source, or the file of sets is wrong.
    """
    data = with_sets(config.data, sets)
    return dataclasses.replace(
        data,
        targets=list(targets) if targets is not None else data.targets,
        roots={**data.roots, **(roots or {})},
    )


def domains_to_score(config: RunConfig, targets: Sequence[str] | None) -> list[str]:
    """The domains that an evaluation is of: a run's sources and its own targets, or the named ones alone.

    A source is named as it is scored, without a split: that is its test split. An empty list stands for the sources.

    Raises:
        UsageError: a source is named by the split that was trained on.
    """
    sources = source_tests(config.data)
    if targets is None:
        return list(dict.fromkeys([*sources, *config.data.targets]))
    for text in targets:
        if text in config.data.sources and text not in sources:
            raise UsageError(
                f"the target {text} is what the run was trained on: name {DomainSpec.parse(text).dataset} without a split "
                "to score the test images of that source"
            )
    return list(dict.fromkeys(targets or sources))


def scored_data(
    config: RunConfig,
    *,
    targets: Sequence[str] | None = None,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
) -> tuple[list[str], DataConfig]:
    """The domains that an evaluation of a run is of, and its data; see `domains_to_score` and `data_for`.

    Raises:
        UsageError, DataError: see the message.
    """
    names, sources = domains_to_score(config, targets), source_tests(config.data)
    unseen = [name for name in names if name not in sources]
    data = data_for(config, targets=None if targets is None else unseen, roots=roots, sets=sets)
    check_unseen(data)
    return names, data


def own_sets(names: Iterable[str], data: DataConfig) -> dict[str, Record]:
    """Of each domain that is of a set of one's own, how that set is described and where it lies."""
    described = {}
    for name in names:
        spec = DomainSpec.parse(name)
        if spec.dataset in data.sets:
            root = root_of(spec.dataset, data).resolve()
            described[name] = {**as_dict(data.sets[spec.dataset]), "root": str(root)}
    return described


def open_sources(data: DataConfig, space: LabelSpace) -> dict[str, SegmentationSet]:
    """Every domain that a run is trained on, by its written name.

    Raises:
        UsageError, DataError: a domain cannot be opened.
    """
    return {name: open_domain(DomainSpec.parse(name), data=data, space=space, training=True) for name in data.sources}


@plain_lists
def open_tests(data: DataConfig, space: LabelSpace, names: Sequence[str] | None = None) -> dict[str, SegmentationSet]:
    """Domains to score a run on, by their written names.

    Args:
        data: of the run.
        space: the classes.
        names: the domains; all that the data name by default, sources first.

    Raises:
        UsageError, DataError: a domain cannot be opened.
    """
    names = [*source_tests(data), *data.targets] if names is None else names
    return {
        name: open_domain(DomainSpec.parse(name), data=data, space=space, training=False)
        for name in dict.fromkeys(names)
    }


def train(
    config: RunConfig, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> Record:
    """Train a network and score it; everything is written to `config.output`.

    Args:
        config: the run.
        resume: go on where the folder's last checkpoint stands.
        overwrite: begin anew in a folder that holds a run.
        console: where progress is shown; nowhere by default.

    Returns:
        The record of the last evaluation, as in results.jsonl.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
        Interrupted: stopped by the user; the state is saved.
    """
    console = console or Console(quiet=True)
    method = method_named(config.method)
    method.check(config.model)
    check_installed(config.logging)
    check_unseen(config.data)
    space = label_space(config.data.space)
    sources = open_sources(config.data, space)
    tests = open_tests(config.data, space)
    fabric = make_fabric(config.training)
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    print_remarks([*sources.values(), *tests.values()], console)
    if not resume:  # a run of an earlier version goes on
        check_overlap(config.evaluation.window, config.evaluation.overlap, config.data.size)
    with distributed.raise_on_all_ranks():
        if fabric.is_global_zero:
            for name, images in sources.items():
                check_labelled(name, images, workers=config.data.workers, say=partial(say, style="yellow"))
    with _claimed(config.output, fabric, resume=resume, overwrite=overwrite, say=say):
        return _train(config, method, space, sources, tests, fabric, resume=resume, console=console)


def _train(
    config: RunConfig,
    method: Method,
    space: LabelSpace,
    sources: Mapping[str, SegmentationSet],
    tests: Mapping[str, SegmentationSet],
    fabric: Fabric,
    *,
    resume: bool,
    console: Console,
) -> Record:
    """Train in a folder that is this run's alone; see `train`."""
    if resume and not checkpoint.exists(config.output):
        resume = False
        begun = f"{config.output} ended before its first checkpoint: it begins anew"
        console.print(begun, style="yellow", highlight=False, markup=False)
    network = build_network(config, method, space)
    trainer = make_trainer(config, method, network, space, sources, fabric)
    with distributed.raise_on_all_ranks():
        told = trainer.resume() if resume else None
        if fabric.is_global_zero:
            records.open_run(config)
            membership.write(config.output, trainer.images)
    if told is not None:
        console.print(told, style="yellow", highlight=False, markup=False)

    def score(iteration: int) -> Record:
        results = score_domains(network, tests, config, space, fabric=fabric, console=console)
        # One process writes; what goes wrong there ends all.
        with distributed.raise_on_all_ranks():
            record = save_evaluation(results, config, space, iteration, write=fabric.is_global_zero)
            observer.results(record)
        return record

    with bar(console, 0, 0, "find the classes") if config.data.class_uniform else nullcontext() as look:
        on_progress = None if look is None else lambda done, total: look(done, {}, total)
        # The first process finds the classes, the others read what it found.
        for first in (True, False):
            with distributed.raise_on_all_ranks():
                if fabric.is_global_zero is first:
                    batches = make_batches(config, sources, trainer, on_progress=on_progress)
    trials = partial(make_trials, config, sources, fabric)
    with distributed.raise_on_all_ranks():
        observer = Observer(
            config,
            network,
            start=trainer.iteration,
            enabled=fabric.is_global_zero,
            domains=trainer.card.domains,
            colors=space.colors,
            say=partial(console.print, highlight=False, markup=False, soft_wrap=True),
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

                trainer.fit(batches, on_progress=progress, on_evaluate=score, trials=trials, observer=observer)
        trainer.finish()
        return score(trainer.iteration)


def build_network(config: RunConfig, method: Method, space: LabelSpace, *, pretrained: bool = True) -> Segmentor:
    """The network that a run begins with, the same for the same seed.

    Raises:
        UsageError, CheckpointError: see `Method.build`.
    """
    torch.manual_seed(config.training.seed)
    return method.build(
        config.model,
        num_classes=len(space),
        num_domains=len(domain_names(config.data)),
        cluster_domains=config.data.pseudo_domains > 0 and config.data.pseudo_by == "cluster",
        pretrained=pretrained,
    )


def make_trainer(
    config: RunConfig,
    method: Method,
    network: Segmentor,
    space: LabelSpace,
    sources: Mapping[str, SegmentationSet],
    fabric: Fabric,
) -> Trainer:
    """What trains a network, for `train` and its dry run.

    Args:
        config: the run.
        method: its method.
        network: what `build_network` made.
        space: the classes.
        sources: the source domains by name.
        fabric: where to compute.
    """
    card = card_for(
        method=config.method,
        model=config.model,
        space=space.name,
        classes=space.classes,
        domains=domain_names(config.data),
        size=config.data.size,
    )
    images = {name: membership.images_of(len(one), file_names(one)) for name, one in sources.items()}
    return Trainer(config, method, network, card, fabric, images=images)


def make_batches(
    config: RunConfig,
    sources: Mapping[str, SegmentationSet],
    trainer: Trainer,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    store: bool = True,
) -> TrainingLoader:
    """The micro-batches of this process from the trainer's iteration on; see `training_batches`."""
    return training_batches(
        list(sources.values()),
        config.data,
        seed=config.training.seed,
        iterations=config.training.iterations,
        parts=config.training.accumulate,
        start=trainer.iteration,
        rank=trainer.fabric.global_rank,
        world_size=trainer.fabric.world_size,
        on_progress=on_progress,
        store=store,
    )


def make_trials(config: RunConfig, sources: Mapping[str, SegmentationSet], fabric: Fabric) -> Iterator[TrainingLoader]:
    """What the method's statistics are taken from, as often as `model.whitening` says; see `photometric_trials`."""
    return photometric_trials(
        list(sources.values()),
        config.data,
        seed=config.training.seed,
        trials=config.model.whitening.trials,
        pairs=config.model.whitening.pairs,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )


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
    """Refuse to write over a run, and to resume none; one that ended before its first checkpoint begins anew."""
    resumable, tested = checkpoint.exists(output), (output / records.RESULTS_FILE).exists()
    exists = resumable or tested
    begun = (output / records.CONFIG_FILE).exists() and not tested and not (output / checkpoint.MODEL_FILE).exists()
    if resume and not resumable and not begun:
        raise DataError(f"{output} has no {checkpoint.LATEST_FILE} to resume from: leave out --resume to begin anew")
    if exists and not resume and not overwrite:
        raise UsageError(
            f"{output} already holds a run: add --resume to go on, --overwrite to begin anew, or choose another --output"
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


class Skipped:
    """Images that a run goes on without: each is told of once, on the console and in the run's folder."""

    def __init__(self, path: Path, console: Console) -> None:
        self.path, self.console = path, console
        self.known = {(line["where"], line["image"]) for line in records.read_lines(path)}

    def add(self, where: str, images: Mapping[str, str]) -> None:
        """Note images by name with what is wrong with them.

        Raises:
            DataError: the list cannot be written.
        """
        for image, message in images.items():
            if (where, image) not in self.known and distributed.rank() == 0:
                self.known.add((where, image))
                records.append_line(self.path, {"where": where, "image": image, "message": message})
                self.console.print(f"skipped: {message}", style="yellow", highlight=False, markup=False)


def score_domains(
    network: nn.Module,
    tests: Mapping[str, SegmentationSet],
    config: RunConfig,
    space: LabelSpace,
    *,
    fabric: Fabric,
    console: Console,
    views: TestTimeAugmentation | None = None,
    align_corners: bool = True,
) -> dict[str, evaluator.DomainResult]:
    """Score a network on each domain; several processes share its images.

    Args:
        network: on the device of `fabric`.
        tests: the domains by name.
        config: of the run.
        space: the classes.
        fabric: the processes and their device.
        console: where progress is shown.
        views: how images are looked at; as `config.evaluation` says by default.
        align_corners: how scores are brought to the label's size; see `spcnet.evaluation.metrics.classify`.

    Raises:
        DataError: an image cannot be read, and `data.on_bad_image` is to stop.
    """
    results = {}
    asked = config.evaluation
    if views is None:
        views = TestTimeAugmentation(
            asked.window, asked.overlap, weights=asked.window_weights, scales=tuple(asked.scales), flip=asked.flip
        )
    forward = augmented(scorer(network, fabric), views, at_once=asked.batch_size)
    skipped = Skipped(config.output / records.SKIPPED_FILE, console)
    with bar(console, len(tests), 0, "test") as show:
        for index, (name, images) in enumerate(tests.items()):
            bad: dict[str, str] = {}
            batches = evaluation_batches(
                images,
                config.data,
                domain=index,
                batch_size=config.evaluation.batch_size,
                limit=config.evaluation.limit,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
                on_skip=bad.__setitem__,
            )
            with distributed.raise_on_all_ranks():
                own = evaluator.evaluate(
                    network,
                    batches,
                    num_classes=len(space),
                    device=fabric.device,
                    forward=forward,
                    panels=config.evaluation.panels,
                    share=distributed.world_size() > 1,
                    align_corners=align_corners,
                )
            found = evaluator.merge_shards(distributed.gather(own), panels=config.evaluation.panels)
            everywhere = {image: message for one in distributed.gather(bad) for image, message in one.items()}
            results[name] = dataclasses.replace(found, skipped=len(everywhere))
            skipped.add(name, everywhere)
            say_unlabelled(name, found, space, console)
            show(index + 1, {})
    return results


def say_unlabelled(name: str, result: evaluator.DomainResult, space: LabelSpace, console: Console) -> None:
    """Say of a domain without a single labelled pixel that it has no score, which is neither 0 nor forgotten."""
    if not result.is_labelled:
        console.print(
            f"{name}: none of the {result.images:,} images has a labelled pixel in the space {space.name}, so it has no mIoU",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def save_evaluation(
    results: Mapping[str, evaluator.DomainResult],
    config: RunConfig,
    space: LabelSpace,
    iteration: int,
    *,
    write: bool = True,
    own: Sequence[str] | None = None,
) -> Record:
    """An evaluation as a record; in the run's folder it is a line of results.jsonl, and the panels.

    Args:
        results: of each domain that was scored.
        config: of the run.
        space: the classes.
        iteration: after how many the network was scored.
        write: add it to the run; only one of several processes does.
        own: domains that the run is known by, its sources and targets; those of `config` by default. A record that lacks
            one of them, also after figures of the same network were joined to it, is marked as `partial`.

    Returns:
        The record, with the figures that the run had of other domains already.

    Raises:
        DataError: the run's folder cannot be written.
    """
    sources = set(source_tests(config.data))
    record = evaluator.record(
        results,
        {name: "source" if name in sources else "unseen" for name in results},
        space=space,
        method=config.method,
        seed=config.training.seed,
        iteration=iteration,
        run=config.output.name,
        views=config.evaluation.views,
        sets=own_sets(results, config.data),
    )
    before = earlier(config.output / records.RESULTS_FILE, record, same=("iteration", "classes", "views"))
    if before is not None:
        # Testing a finished run on further domains adds to what is known of it, also where it was looked at in other
        # manners in between.
        record = evaluator.joined(before, record)
    own = [*source_tests(config.data), *config.data.targets] if own is None else own
    if not set(own) <= set(record["domains"]) and (before is None or before.get("partial")):
        record["partial"] = True
    else:
        record.pop("partial", None)
    if not write:
        return record
    for name, result in results.items():
        evaluator.save_panels(result, config.output / "panels", name, space=space)
    # A run that was killed after its last line is tested again when it goes on; the line stays the only one.
    if before is None or _scores(before) != _scores(record):
        records.append_line(config.output / records.RESULTS_FILE, record)
    return record


def earlier(path: Path, record: Mapping[str, Any], *, same: Sequence[str]) -> Record | None:
    """The last line of a file of records that agrees with a record in some entries; None where none does."""
    lines = reversed(records.read_lines(path))
    return next((line for line in lines if all(line.get(name) == record.get(name) for name in same)), None)


def _scores(record: Record) -> Record:
    """What a record says, without when and how fast it was found."""
    domains = {name: {**domain, "seconds": None} for name, domain in record["domains"].items()}
    return {**json.loads(json.dumps(record)), "domains": json.loads(json.dumps(domains)), "time": None}


@plain_lists
def evaluate(
    run: Path,
    *,
    targets: Sequence[str] | None = None,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    evaluation: EvaluationConfig | None = None,
    devices: int | str = 1,
    console: Console | None = None,
) -> Record:
    """Score the network of a run, and add the result to the run.

    Args:
        run: folder of a run.
        targets: score these domains alone, sources among them by their names; the run's sources and its own targets by
            default.
        roots: folders of data sets, beside the run's own.
        sets: file that describes sets of one's own, beside the run's own; see `spcnet.config.read_sets`.
        evaluation: batch size, panels, limit; the run's own by default.
        devices: how many share the images, or `auto` for all.
        console: where progress is shown; nowhere by default.

    Returns:
        The record that the run has now: what was scored, beside the figures that the run had of other domains.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    config = OpenRun(run).config
    own = domains_to_score(config, None)
    names, data = scored_data(config, targets=targets, roots=roots, sets=sets)
    config = dataclasses.replace(config, data=data, evaluation=evaluation or config.evaluation, output=run)
    network, card = restore(run)
    space = label_space(card.space)
    tests = open_tests(config.data, space, names)
    fabric = make_fabric(dataclasses.replace(config.training, devices=devices, nodes=1))
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    print_remarks(tests.values(), console or Console(quiet=True))
    state = checkpoint.read(checkpoint.find(run))[2]
    with dead_workers_told():
        results = score_domains(network, tests, config, space, fabric=fabric, console=console or Console(quiet=True))
    with distributed.raise_on_all_ranks():
        return save_evaluation(
            results, config, space, int(state.get("iteration", 0)), write=fabric.is_global_zero, own=own
        )


def show_table(folders: Sequence[Path], console: Console, *, baseline: str = "deeplabv3plus") -> None:
    """Print the mIoU of runs, domain by domain."""
    table = summary_table([load_run(folder) for folder in folders], baseline=baseline)
    console.print(render_terminal(table, width=console.width))


@plain_lists
def report(
    runs: Sequence[Path],
    *,
    output: Path,
    baseline: str = "deeplabv3plus",
    title: str | None = None,
    published: str = "auto",
    console: Console | None = None,
) -> Path:
    """Write one HTML page about runs, and print their table.

    Args:
        runs: their folders.
        output: the page.
        baseline: method that the others are compared with.
        title: heading of the page.
        published: published results on it: auto, all or none; see `spcnet.reports.page.write_report`.
        console: where the table is shown; nowhere by default.

    Raises:
        UsageError, DataError: a folder is no run, or the page cannot be written.
    """
    console = console or Console(quiet=True)
    method_named(baseline)
    # An earlier page, and the tables of a sweep, among what a glob found are no runs.
    runs = [run for run in runs if run.suffix not in (".html", ".md", ".tex", ".json") or not run.is_file()] or list(
        runs
    )
    board = ranked([load_run(run) for run in runs], baseline=baseline)
    page = write_report(
        board, output, title=title, baseline=baseline, published=published, counted=network_costs(board)
    )
    show_table([run.folder for run in board], console, baseline=baseline)
    console.print(f"The page is {page}", highlight=False)
    return page


def network_costs(runs: Sequence[Run]) -> dict[Path, NetworkCost]:
    """What the networks of runs cost for an image of their size, by folder; without those that cannot be built here."""
    known: dict[str, NetworkCost] = {}
    found = {}
    for run in runs:
        try:
            config = OpenRun(run.folder).config
            size = config.data.size or config.data.crop or PAPER_SIZE
            num_classes, num_domains = len(run.final.classes), len(domain_names(config.data))
            key = repr((config.method, config.model, size, num_classes, num_domains))
            if key not in known:
                counted = cost(
                    config.method,
                    config.model.backbone,
                    size=size,
                    num_classes=num_classes,
                    num_domains=num_domains,
                    model=config.model,
                )
                known[key] = NetworkCost(counted.parameters, counted.macs, counted.activations, size)
        except SpcnetError:  # the page is for what the runs scored; a cost that cannot be counted is left out
            continue
        found[run.folder] = known[key]
    return found
