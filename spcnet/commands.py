"""What the commands do: here, and only here, data, methods, engine, evaluation and reports meet."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from spcnet import checkpoint
from spcnet.config import DataConfig, DomainSpec, EvaluationConfig, RunConfig, from_dict
from spcnet.convert import load_any, load_backbone, load_foreign, write_backbone, write_robustnet
from spcnet.cost import PAPER_SIZE, costs, paper_table
from spcnet.data.datasets import SegmentationSet, open_domain
from spcnet.data.labels import LabelSpace, label_space
from spcnet.data.loading import evaluation_batches, photometric_trials, training_batches
from spcnet.data.weather import WEATHER
from spcnet.engine import records
from spcnet.engine.progress import bar
from spcnet.engine.trainer import Trainer, make_fabric
from spcnet.errors import DataError, UsageError, named, one_of
from spcnet.evaluation import evaluator
from spcnet.inference.predictor import Predictor
from spcnet.methods import BACKBONES, METHODS, card_for, method_named, restore
from spcnet.models.backbones import backbone_info
from spcnet.reports.html import write_report
from spcnet.reports.runs import load_run
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
    check_unseen(config.data)
    space = label_space(config.data.space)
    sources = [
        open_domain(DomainSpec.parse(text), data=config.data, space=space, training=True)
        for text in config.data.sources
    ]
    tests = open_tests(config.data, space)
    _claim(config.output, resume=resume, overwrite=overwrite)

    fabric = make_fabric(config.training)
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
    if resume:
        trainer.resume()
    if fabric.is_global_zero:
        records.open_run(config)

    def score(iteration: int) -> Record:
        results = score_domains(
            fabric.setup_module(network), tests, config, space, device=fabric.device, console=console
        )
        return note(results, config, space, iteration)

    with bar(console, 0, 0, "find the classes") if config.data.class_uniform else nullcontext() as look:
        batches = training_batches(
            sources,
            config.data,
            seed=config.training.seed,
            iterations=config.training.iterations,
            start=trainer.iteration,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            on_progress=None if look is None else lambda done, total: look(done, {}, total),
        )
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
    if trainer.iteration < config.training.iterations:
        skipped = Skipped(config.output / records.SKIPPED_FILE, console)
        with bar(console, config.training.iterations, trainer.iteration, f"train {config.method}") as show:

            def progress(iteration: int, losses: dict[str, float]) -> None:
                show(iteration, losses)
                skipped.add("training", batches.skipped)

            trainer.fit(batches, on_progress=progress, on_evaluate=score, trials=trials)
    trainer.finish()
    return score(trainer.iteration)


def _claim(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to write over a run, and to resume none."""
    exists = (output / checkpoint.LATEST_FILE).exists() or (output / records.RESULTS_FILE).exists()
    if resume and not (output / checkpoint.LATEST_FILE).exists():
        raise DataError(f"{output} has no {checkpoint.LATEST_FILE} to resume from: leave out --resume to begin anew")
    if exists and not resume and not overwrite:
        raise UsageError(
            f"{output} already holds a run: add --resume to go on, --overwrite to begin anew, or choose another --output"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not resume:
            for name in (
                checkpoint.LATEST_FILE,
                checkpoint.MODEL_FILE,
                records.TRAIN_FILE,
                records.RESULTS_FILE,
                records.SKIPPED_FILE,
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
            if (where, image) not in self.known:
                self.known.add((where, image))
                records.append_line(self.path, {"where": where, "image": image, "message": message})
                self.console.print(f"skipped: {message}", style="yellow", highlight=False, markup=False)


def score_domains(
    network: nn.Module,
    tests: Mapping[str, SegmentationSet],
    config: RunConfig,
    space: LabelSpace,
    *,
    device: torch.device,
    console: Console,
) -> dict[str, evaluator.DomainResult]:
    """Score a network on each domain.

    Raises:
        DataError: an image cannot be read, and `data.on_bad_image` is to stop.
    """
    results = {}
    skipped = Skipped(config.output / records.SKIPPED_FILE, console)
    with bar(console, len(tests), 0, "test") as show:
        for index, (name, images) in enumerate(tests.items()):
            bad: dict[str, str] = {}
            found = evaluator.evaluate(
                network,
                evaluation_batches(
                    images,
                    config.data,
                    domain=index,
                    batch_size=config.evaluation.batch_size,
                    limit=config.evaluation.limit,
                    on_skip=bad.__setitem__,
                ),
                num_classes=len(space),
                device=device,
                panels=config.evaluation.panels,
            )
            results[name] = dataclasses.replace(found, skipped=len(bad))
            skipped.add(name, bad)
            show(index + 1, {})
    return results


def note(results: Mapping[str, evaluator.DomainResult], config: RunConfig, space: LabelSpace, iteration: int) -> Record:
    """Write an evaluation into the run's folder: a line of results.jsonl, and the panels."""
    sources = set(source_tests(config.data))
    record = evaluator.record(
        results,
        {name: "source" if name in sources else "unseen" for name in results},
        space=space,
        method=config.method,
        seed=config.training.seed,
        iteration=iteration,
        run=config.output.name,
    )
    lines = records.read_lines(config.output / records.RESULTS_FILE)
    if lines and lines[-1]["iteration"] == iteration and lines[-1]["classes"] == record["classes"]:
        # Testing a finished run on further domains adds to what is known of it.
        record = evaluator.joined(lines[-1], record)
    records.append_line(config.output / records.RESULTS_FILE, record)
    for name, result in results.items():
        evaluator.save_panels(result, config.output / "panels", name, space=space)
    return record


def read_config(run: Path) -> RunConfig:
    """The settings of a run, from its folder.

    Raises:
        DataError: the folder is no run.
        UsageError: its settings are of another version.
    """
    path = run / records.CONFIG_FILE
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{run} is no folder of a run: it has no readable {records.CONFIG_FILE}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is no configuration: it must map options to values")
    return from_dict(RunConfig, values)


def evaluate(
    run: Path,
    *,
    targets: Sequence[str] | None = None,
    roots: Mapping[str, str] | None = None,
    evaluation: EvaluationConfig | None = None,
    console: Console | None = None,
) -> Record:
    """Score the network of a run on its sources and on unseen domains, and add the result to the run.

    Args:
        run: folder of a run.
        targets: unseen domains instead of the run's own.
        roots: folders of data sets, beside the run's own.
        evaluation: batch size, panels, limit; the run's own by default.
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
    fabric = make_fabric(config.training)
    state = checkpoint.read(checkpoint.find(run))[2]
    results = score_domains(
        fabric.setup_module(network),
        tests,
        config,
        space,
        device=fabric.device,
        console=console or Console(quiet=True),
    )
    return note(results, config, space, int(state.get("iteration", 0)))


def predict(
    model: Path,
    inputs: Sequence[str | Path],
    *,
    output: Path,
    size: tuple[int, int] | None = None,
    full_size: bool = False,
    overlay: float = 0.5,
    device: str = "auto",
    console: Console | None = None,
) -> int:
    """Label images and write class maps, overlays, and how much each source style explains each image.

    Args:
        model: folder of a run, or a checkpoint file.
        inputs: images, folders, globs.
        output: folder for the results.
        size: height and width that images are brought to; the size of the training images by default.
        full_size: leave images at their own size.
        overlay: opacity of the colours, 0..1.
        device: where to compute.
        console: where progress is shown; nowhere by default.

    Returns:
        How many images could not be predicted; each is told of on the console.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    network, card = load_any(model)
    predictor = Predictor(
        network,
        space=label_space(card.space),
        size=None if full_size else size or card.size,
        device=device,
        source_names=card.domains,
    )
    with bar(console, 0, 0, "predict") as show:
        predictions = predictor.predict_paths(
            inputs, output, overlay=overlay, progress=lambda done, total, outcome: show(done, {}, total)
        )
    for failure in predictions.failures:
        console.print(f"skipped: {failure.reason}", style="red", highlight=False, markup=False)
    console.print(f"{len(predictions.written)} images labelled in {output}", highlight=False)
    return len(predictions.failures)


def convert(
    source: Path,
    output: Path,
    *,
    to: str = "spcnet",
    method: str | None = None,
    output_stride: int | None = None,
    wt_layer: Sequence[int] | None = None,
    space: str | None = None,
    domains: Sequence[str] | None = None,
    allow_missing: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Write a network from another code's file in this package's format, or the other way round.

    Args:
        source: file of RobustNet or SPC-Net (PyTorch, MindSpore), of this package, or folder of a run; or an ImageNet
            backbone (torchvision, timm, MIT CSAIL), which becomes a file for `model.weights`.
        output: file to write.
        to: `spcnet`, or `robustnet` for a state dict with RobustNet's names.
        method: see `spcnet.convert.load_foreign`, as for the following.
        output_stride: of the network.
        wt_layer: RobustNet's seven codes.
        space: label space.
        domains: names of the source domains.
        allow_missing: beginnings of names that may be missing.
        console: where the report is shown; nowhere by default.

    Raises:
        UsageError, CheckpointError, DataError: see the message.
    """
    console = console or Console(quiet=True)
    if to not in ("spcnet", "robustnet"):
        raise one_of(to, ("spcnet", "robustnet"), "format")
    if source.is_dir() or checkpoint.is_own(source):
        network, card = load_any(source)
        told = [f"spcnet checkpoint: {len(network.state_dict())} tensors loaded"]
    elif (backbone := load_backbone(source)) is not None:
        if to != "spcnet":
            raise UsageError(f"{source} is an ImageNet {backbone.name} alone: --to {to} is for whole networks")
        for line in backbone.report.lines():
            console.print(line, highlight=False, markup=False)
        write_backbone(backbone, output)
        console.print(
            f"{backbone.name}, written to {output}: give it as --model.weights", highlight=False, markup=False
        )
        return
    else:
        network, card, report = load_foreign(
            source,
            method=method,
            output_stride=output_stride,
            wt_layer=wt_layer,
            space=space,
            domains=domains,
            allow_missing=allow_missing,
        )
        told = report.lines()
    for line in told:
        console.print(line, highlight=False, markup=False)
    if to == "spcnet":
        checkpoint.write(output, network.state_dict(), card)
    else:
        write_robustnet(network, card, output)
    console.print(
        f"{card.method} on {card.model['backbone']}, output stride {card.model['output_stride']}, {len(card.classes)} classes "
        f"({card.space}), {len(card.domains)} source domains: written to {output}",
        highlight=False,
        markup=False,
    )


def benchmark_cost(
    *,
    methods: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    size: tuple[int, int] = (512, 1024),
    repeats: int = 3,
    device: str = "cpu",
    paper: bool = False,
    console: Console,
) -> None:
    """Print what methods cost on backbones, or the paper's Table 8 counted again.

    Args:
        methods: names in `METHODS`; all by default.
        backbones: names in `BACKBONES`; all by default.
        size: height and width of the image.
        repeats: forward passes to time; 0 for none.
        device: where to time.
        paper: Table 8 instead.
        console: where to print.

    Raises:
        UsageError: a name is unknown.
    """
    if paper:
        table = _cost_table(["method"], ["M params", "Table 8", "G operations", "Table 8"])
        for name, *figures in paper_table():
            table.add_row(name, *(f"{value:.2f}" for value in (figures[0], figures[2], figures[1], figures[3])))
        console.print(table)
        console.print(
            f"ResNet-50, one image of {PAPER_SIZE[0]}×{PAPER_SIZE[1]}: the paper's GFLOPs are multiply-accumulates at that size, "
            "counted over modules (convolutions, norms, ReLU, pooling). Parameters with the auxiliary head.",
            highlight=False,
        )
        return
    for name in methods or ():
        method_named(name)
    for name in backbones or ():
        backbone_info(name)
    table = _cost_table(["backbone", "method"], ["M params", "G MACs", "MiB", *(["ms"] if repeats else [])])
    with bar(console, len(methods or METHODS) * len(backbones or BACKBONES), 0, "cost") as show:
        for done, found in enumerate(costs(methods, backbones, size=size, repeats=repeats, device=device), start=1):
            timed = [f"{1000 * found.seconds:.0f}"] if found.seconds is not None else []
            table.add_row(
                found.backbone,
                found.method,
                f"{found.parameters / 1e6:.2f}",
                f"{found.macs / 1e9:.2f}",
                f"{found.activations / 2**20:.0f}",
                *timed,
            )
            show(done, {})
    console.print(table)
    console.print(
        f"One image of {size[0]}×{size[1]}. MACs: matrix products, half of what torch's FLOP counter finds. MiB: what a training "
        "step keeps for its backward pass, in single precision."
        + (f" ms: median of {repeats} forward passes, {device}, {torch.get_num_threads()} threads." if repeats else ""),
        highlight=False,
    )


def _cost_table(names: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(box=SIMPLE)
    for title in names:
        table.add_column(title, no_wrap=True)
    for title in figures:
        table.add_column(title, justify="right", no_wrap=True)
    return table


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
    console: Console | None = None,
) -> Path:
    """Write one HTML page about runs, and print their table.

    Raises:
        UsageError, DataError: a folder is no run, or the page cannot be written.
    """
    console = console or Console(quiet=True)
    method_named(baseline)
    # An earlier page among what a glob found is no run.
    runs = [run for run in runs if run.suffix != ".html" or not run.is_file()] or list(runs)
    board = ranked([load_run(run) for run in runs], baseline=baseline)
    page = write_report(board, output, title=title, baseline=baseline)
    show_table([run.folder for run in board], console, baseline=baseline)
    console.print(f"The page is {page}", highlight=False)
    return page
