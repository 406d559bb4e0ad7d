"""Training, scoring and reports of runs: here data, methods, engine, evaluation and reports meet."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import nn

from spcnet import checkpoint, processes
from spcnet.config import DataConfig, DomainSpec, EvaluationConfig, RunConfig, from_dict
from spcnet.cost import PAPER_SIZE, cost
from spcnet.data.datasets import SegmentationSet, open_domain
from spcnet.data.labels import LabelSpace, label_space
from spcnet.data.loading import evaluation_batches, photometric_trials, training_batches
from spcnet.data.weather import WEATHER
from spcnet.engine import records
from spcnet.engine.devices import make_fabric, scorer
from spcnet.engine.observer import Observer
from spcnet.engine.progress import bar
from spcnet.engine.state import dead_workers_told
from spcnet.engine.trackers import TRACKERS_FILE, check_installed
from spcnet.engine.trainer import Trainer
from spcnet.errors import DataError, SpcnetError, UsageError, named
from spcnet.evaluation import evaluator
from spcnet.evaluation.views import Views, looking
from spcnet.files import read_yaml
from spcnet.methods import card_for, method_named, restore
from spcnet.reports.costs import NetworkCost
from spcnet.reports.page import write_report
from spcnet.reports.runs import Run, load_run
from spcnet.reports.tables import ranked, render_terminal, summary_table

Record = dict[str, Any]


def source_tests(data: DataConfig) -> list[str]:
    """The sources as domains to test on: their test splits, whatever split was trained on."""
    return [str(dataclasses.replace(DomainSpec.parse(text), split=None)) for text in data.sources]


def domain_names(data: DataConfig) -> list[str]:
    """The domains that a network learns to tell apart: the sources, or the parts that the only source is divided into."""
    if not data.pseudo_domains:
        return data.sources
    return [f"{data.sources[0]}#{number + 1}" for number in range(data.pseudo_domains)]


def check_unseen(data: DataConfig) -> None:
    """Refuse a run that is tested on a weather style whose like it trains on, for its targets count as unseen.

    Raises:
        UsageError: names the target and the style.
    """
    put_on = [style for style in (DomainSpec.parse(text).style for text in data.sources) if style]
    trained = {named(style, WEATHER, "weather style").family: style for style in (*data.augmentation.styles, *put_on)}
    for text in data.targets:
        spec = DomainSpec.parse(text)
        shown = spec.style or (spec.subset if spec.dataset == "streets" else None)
        family = WEATHER[shown].family if shown in WEATHER else None
        if family in trained:
            raise UsageError(
                f"the target {text} counts as unseen, but the training has images in the style {trained[family]}, which is "
                f"of the same family ({family}): leave one of them out"
            )


def open_tests(data: DataConfig, space: LabelSpace) -> dict[str, SegmentationSet]:
    """Every domain that a run is scored on, sources first, by its written name.

    Raises:
        UsageError, DataError: a domain cannot be opened.
    """
    names = [*source_tests(data), *data.targets]
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
    sources = [
        open_domain(DomainSpec.parse(text), data=config.data, space=space, training=True)
        for text in config.data.sources
    ]
    tests = open_tests(config.data, space)
    fabric = make_fabric(config.training)
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    with processes.together():
        if fabric.is_global_zero:
            _claim(config.output, resume=resume, overwrite=overwrite)
    if resume and not checkpoint.exists(config.output):
        resume = False
        begun = f"{config.output} ended before its first checkpoint: it begins anew"
        console.print(begun, style="yellow", highlight=False, markup=False)
    torch.manual_seed(config.training.seed)
    domains = domain_names(config.data)
    network = method.build(
        config.model,
        num_classes=len(space),
        num_domains=len(domains),
        cluster_domains=config.data.pseudo_domains > 0 and config.data.pseudo_by == "cluster",
    )
    card = card_for(
        method=config.method,
        model=config.model,
        space=space.name,
        classes=space.classes,
        domains=domains,
        size=config.data.size,
    )
    trainer = Trainer(config, method, network, card, fabric)
    with processes.together():
        told = trainer.resume() if resume else None
        if fabric.is_global_zero:
            records.open_run(config)
    if told is not None:
        console.print(told, style="yellow", highlight=False, markup=False)

    def score(iteration: int) -> Record:
        results = score_domains(network, tests, config, space, fabric=fabric, console=console)
        # One process writes; what goes wrong there ends all.
        with processes.together():
            record = note(results, config, space, iteration, write=fabric.is_global_zero)
            observer.results(record)
        return record

    with bar(console, 0, 0, "find the classes") if config.data.class_uniform else nullcontext() as look:
        make = partial(
            training_batches,
            sources,
            config.data,
            seed=config.training.seed,
            iterations=config.training.iterations,
            parts=config.training.accumulate,
            start=trainer.iteration,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            on_progress=None if look is None else lambda done, total: look(done, {}, total),
        )
        # The first process finds the classes, the others read what it found.
        for first in (True, False):
            with processes.together():
                if fabric.is_global_zero is first:
                    batches = make()
    whitening = config.model.whitening
    trials = partial(
        photometric_trials,
        sources,
        config.data,
        seed=config.training.seed,
        trials=whitening.trials,
        pairs=whitening.pairs,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    with processes.together():
        observer = Observer(
            config,
            network,
            start=trainer.iteration,
            enabled=fabric.is_global_zero,
            domains=domains,
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
                        for bad in processes.gather(batches.skipped):
                            skipped.add("training", bad)

                trainer.fit(batches, on_progress=progress, on_evaluate=score, trials=trials, observer=observer)
        trainer.finish()
        return score(trainer.iteration)


def _claim(output: Path, *, resume: bool, overwrite: bool) -> None:
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
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not (resume and resumable):
            for name in (
                checkpoint.LATEST_FILE,
                checkpoint.PREVIOUS_FILE,
                checkpoint.DAMAGED_FILE,
                checkpoint.MODEL_FILE,
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
            if (where, image) not in self.known and processes.rank() == 0:
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
    views: Views | None = None,
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
        views = Views(
            asked.window, asked.overlap, weights=asked.window_weights, scales=tuple(asked.scales), flip=asked.flip
        )
    forward = looking(scorer(network, fabric), views, at_once=asked.batch_size)
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
                rank=processes.rank(),
                world_size=processes.count(),
                on_skip=bad.__setitem__,
            )
            with processes.together():
                own = evaluator.evaluate(
                    network,
                    batches,
                    num_classes=len(space),
                    device=fabric.device,
                    forward=forward,
                    panels=config.evaluation.panels,
                    share=processes.count() > 1,
                    align_corners=align_corners,
                )
            found = evaluator.whole(processes.gather(own), panels=config.evaluation.panels)
            everywhere = {image: message for one in processes.gather(bad) for image, message in one.items()}
            results[name] = dataclasses.replace(found, skipped=len(everywhere))
            skipped.add(name, everywhere)
            show(index + 1, {})
    return results


def note(
    results: Mapping[str, evaluator.DomainResult],
    config: RunConfig,
    space: LabelSpace,
    iteration: int,
    *,
    write: bool = True,
) -> Record:
    """An evaluation as a record; in the run's folder it is a line of results.jsonl, and the panels."""
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
    )
    lines = records.read_lines(config.output / records.RESULTS_FILE)
    same = ("iteration", "classes", "views")
    before = next((line for line in reversed(lines) if all(line.get(name) == record[name] for name in same)), None)
    if before is not None:
        # Testing a finished run on further domains adds to what is known of it, also where it was looked at in other
        # manners in between.
        record = evaluator.joined(before, record)
    if not write:
        return record
    for name, result in results.items():
        evaluator.save_panels(result, config.output / "panels", name, space=space)
    # A run that was killed after its last line is tested again when it goes on; the line stays the only one.
    if before is None or _scores(before) != _scores(record):
        records.append_line(config.output / records.RESULTS_FILE, record)
    return record


def _scores(record: Record) -> Record:
    """What a record says, without when and how fast it was found."""
    domains = {name: {**domain, "seconds": None} for name, domain in record["domains"].items()}
    return {**json.loads(json.dumps(record)), "domains": json.loads(json.dumps(domains)), "time": None}


def read_config(run: Path) -> RunConfig:
    """The settings of a run, from its folder.

    Raises:
        DataError: the folder is no run.
        UsageError: its settings are of another version.
    """
    path = run / records.CONFIG_FILE
    if not path.is_file():
        raise DataError(f"{run} is no folder of a run: it has no readable {records.CONFIG_FILE}")
    return from_dict(RunConfig, read_yaml(path, "configuration"))


def evaluate(
    run: Path,
    *,
    targets: Sequence[str] | None = None,
    roots: Mapping[str, str] | None = None,
    evaluation: EvaluationConfig | None = None,
    devices: int | str = 1,
    console: Console | None = None,
) -> Record:
    """Score the network of a run on its sources and on unseen domains, and add the result to the run.

    Args:
        run: folder of a run.
        targets: unseen domains instead of the run's own.
        roots: folders of data sets, beside the run's own.
        evaluation: batch size, panels, limit; the run's own by default.
        devices: how many share the images, or `auto` for all.
        console: where progress is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    config = read_config(run)
    data = dataclasses.replace(
        config.data,
        targets=list(targets) if targets is not None else config.data.targets,
        roots={**config.data.roots, **(roots or {})},
    )
    check_unseen(data)
    config = dataclasses.replace(config, data=data, evaluation=evaluation or config.evaluation, output=run)
    network, card = restore(run)
    space = label_space(card.space)
    tests = open_tests(config.data, space)
    fabric = make_fabric(dataclasses.replace(config.training, devices=devices, nodes=1))
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    state = checkpoint.read(checkpoint.find(run))[2]
    with dead_workers_told():
        results = score_domains(network, tests, config, space, fabric=fabric, console=console or Console(quiet=True))
    with processes.together():
        return note(results, config, space, int(state.get("iteration", 0)), write=fabric.is_global_zero)


def show_table(folders: Sequence[Path], console: Console, *, baseline: str = "deeplabv3plus") -> None:
    """Print the mIoU of runs, domain by domain."""
    table = summary_table([load_run(folder) for folder in folders], baseline=baseline)
    console.print(render_terminal(table, width=console.width))


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
            config = read_config(run.folder)
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
