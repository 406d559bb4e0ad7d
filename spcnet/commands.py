"""What the commands do: here, and only here, data, methods, engine, evaluation and reports meet."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric import Fabric
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from spcnet import checkpoint, processes
from spcnet import export as exporting
from spcnet.config import DataConfig, DomainSpec, EvaluationConfig, RunConfig, from_dict
from spcnet.convert import load_any, load_backbone, load_foreign, write_backbone, write_robustnet
from spcnet.cost import PAPER_SIZE, cost, costs, paper_table
from spcnet.data.datasets import SegmentationSet, open_domain
from spcnet.data.labels import LabelSpace, label_space
from spcnet.data.loading import evaluation_batches, photometric_trials, training_batches
from spcnet.data.weather import WEATHER
from spcnet.engine import records
from spcnet.engine.devices import make_fabric, scorer
from spcnet.engine.observer import Observer
from spcnet.engine.progress import bar, bars
from spcnet.engine.state import dead_workers_told
from spcnet.engine.trackers import TRACKERS_FILE, check_installed
from spcnet.engine.trainer import Trainer
from spcnet.errors import DataError, SpcnetError, UsageError, named, one_of
from spcnet.evaluation import evaluator
from spcnet.evaluation.metrics import mean_iou
from spcnet.evaluation.views import Views, looking
from spcnet.files import write_whole
from spcnet.hub import push_to_hub, save_pretrained
from spcnet.inference.predictor import Predictor, Results, Speed, Written, find_images
from spcnet.inference.unfamiliarity import Unfamiliarity, familiar_file
from spcnet.inference.video import is_video
from spcnet.methods import BACKBONES, METHODS, card_for, method_named, restore
from spcnet.models.backbones import backbone_info
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
    if lines and all(lines[-1].get(name) == record[name] for name in same):
        # Testing a finished run on further domains adds to what is known of it.
        record = evaluator.joined(lines[-1], record)
    if not write:
        return record
    for name, result in results.items():
        evaluator.save_panels(result, config.output / "panels", name, space=space)
    # A run that was killed after its last line is tested again when it goes on; the line stays the only one.
    if not lines or _scores(lines[-1]) != _scores(record):
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


def predict(
    model: Path,
    inputs: Sequence[str | Path],
    *,
    output: Path,
    size: tuple[int, int] | None = None,
    full_size: bool = False,
    views: Views | None = None,
    batch_size: int = 1,
    speed: Speed = "auto",
    results: Results | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> int:
    """Label images and videos and write class maps, overlays, and how much each source style explains each image.

    Args:
        model: folder of a run, or a checkpoint file.
        inputs: images, videos, folders, globs, webcams.
        output: folder for the results.
        size: height and width that images are brought to; the size of the training images by default.
        full_size: leave images at their own size.
        views: how images are looked at; whole and once by default.
        batch_size: images that the network sees together.
        speed: whether the network is rewritten to be faster.
        results: what is written.
        device: where to compute.
        console: where progress is shown; nowhere by default.

    Returns:
        How many images and videos could not be predicted to their end; each is told of on the console.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
        KeyboardInterrupt: the user stopped it; what is done until then is written.
    """
    console = console or Console(quiet=True)
    network, card = load_any(model)
    views = views or Views()
    wanted = None if full_size else size or card.size
    # Told only of what it was learnt from: whole images at the size of the training.
    familiar = views.plain and wanted is not None and wanted == card.size and familiar_file(model).is_file()
    unfamiliarity = Unfamiliarity.read(model, network) if familiar else None
    predictor = Predictor(
        network,
        space=label_space(card.space),
        size=wanted,
        device=device,
        source_names=card.domains,
        views=views,
        batch_size=batch_size,
        speed=speed,
        unfamiliarity=unfamiliarity,
    )
    found = find_images(inputs, output=output, videos=True)
    titles = ["predict", *(["frames"] if any(is_video(one.path) for one in found) else [])]
    with bars(console, titles, [0] * len(titles)) as shows:
        predictions = predictor.predict_paths(
            inputs,
            output,
            results=results,
            progress=lambda done, total, outcome: shows[0](done, {}, total),
            on_frame=lambda done, total: shows[-1](done, {}, max(done, total)),
        )
    broken = [video for video in predictions.videos if video.broken]
    for reason in [*(failure.reason for failure in predictions.failures), *(str(video.broken) for video in broken)]:
        console.print(f"skipped: {reason}", style="red", highlight=False, markup=False, soft_wrap=True)
    frames = sum(video.frames for video in predictions.videos)
    told = [
        *([f"{len(predictions.written)} images"] if predictions.written or not frames else []),
        *([f"{frames} frames of {len(predictions.videos)} video(s)"] if frames else []),
    ]
    console.print(f"{' and '.join(told)} labelled in {output}", highlight=False, soft_wrap=True)
    strange = [one for one in predictions.written if one.unfamiliarity and one.unfamiliarity.percentile == 1]
    if strange:
        console.print(
            f"{len(strange)} of {len(predictions.written)} images are stranger than every image that the network was made "
            f"familiar with; the strangest is {max(strange, key=_strangeness).path}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return len(predictions.failures) + len(broken)


def _strangeness(image: Written) -> float:
    return image.unfamiliarity.score if image.unfamiliarity else 0.0


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


def export(
    model: Path,
    *,
    output: Path,
    format: exporting.Format = "onnx",
    output_kind: exporting.Kind = "logits",
    normalise: bool = False,
    pixels: exporting.Pixels = "uint8",
    opset: int = exporting.OPSET,
    licence: str | None = None,
    int8: bool = False,
    calibration: str | None = None,
    calibration_images: int = 64,
    score: str | None = None,
    limit: int = 0,
    roots: Mapping[str, str] | None = None,
    repeats: int = 3,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write a network as a file that runs without this package, with a report of how it compares with the network.

    With `int8` a second file, `NAME.int8.onnx`, computes its convolutions in 8-bit integers; the report says what that
    costs on a domain.

    Args:
        model: folder of a run, a checkpoint file, or one of RobustNet or SPC-Net.
        output: file to write, `*.onnx` or `*.pt2`; the report is written beside it.
        format: `onnx`, or `torch-export`.
        output_kind: `logits` for the scores of each pixel, `labels` for its class.
        normalise: let the file normalise images 0..255 itself.
        pixels: type of those images.
        opset: version of the ONNX operators.
        licence: what the file says of its terms.
        int8: write the second file.
        calibration: domain, or folder of images, that shows how large activations are; of a domain its training split.
        calibration_images: how many of them, spread evenly.
        score: domain that both files are scored on; the test split of the calibration's by default, none for a folder.
        limit: score so many images at most; 0 for all.
        roots: folders of data sets, beside the run's own.
        repeats: passes to time; 0 for none.
        console: where the report is shown; nowhere by default.

    Returns:
        What the report says.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    if int8 and format != "onnx":
        raise UsageError(f"--int8 is for the format onnx, and the format is {format}: drop one of them")
    if int8 and calibration is None:
        raise UsageError(
            "--int8 needs --calibration: a domain, for example camvid, or a folder of images like those to come"
        )
    if calibration_images < 1 or limit < 0 or repeats < 0:
        raise UsageError(
            f"calibration_images is {calibration_images}, limit {limit}, repeats {repeats}: there must be at least one image, "
            "and the others must be 0 or more"
        )
    network, card = load_any(model)
    own = read_config(model).data if (model / records.CONFIG_FILE).is_file() else DataConfig()
    data = dataclasses.replace(own, size=card.size, space=card.space, workers=0, roots={**own.roots, **(roots or {})})
    space = label_space(card.space)
    shown: SegmentationSet | Path | None = None
    if calibration is not None and Path(calibration).is_dir():
        shown = Path(calibration)
    elif calibration is not None:
        spec = DomainSpec.parse(calibration)
        shown = open_domain(spec, data=data, space=space, training=True)
        score = score or str(dataclasses.replace(spec, split=None))
    tested = open_domain(DomainSpec.parse(score), data=data, space=space, training=False) if score else None
    written = exporting.export(
        network,
        card,
        output,
        format=format,
        kind=output_kind,
        pixels=pixels if normalise else None,
        opset=opset,
        licence=licence,
    )
    deployed = exporting.Deployed(network, card, kind=output_kind, pixels=pixels if normalise else None)
    size = card.size or (512, 1024)
    files = {output: written.checks}
    if int8:
        assert shown is not None
        images = exporting.calibration_pictures(shown, data.size, limit=calibration_images)
        content = exporting.quantise(output.read_bytes(), map(deployed.given, images))
        small = output.with_name(f"{output.stem}.int8{output.suffix}")
        write_whole(small, lambda file: file.write(content))
        files[small] = ()
    found: dict[str, Any] = {}
    sizes = _cost_table(["file"], ["images", "size", "scores differ", "equal labels"])
    table = _cost_table(["file"], ["MiB", *(["ms"] if repeats else []), *(["mIoU"] if tested else [])])
    with bar(console, len(files), 0, "compare") as show:
        for done, (path, checks) in enumerate(files.items(), start=1):
            content = path.read_bytes()
            program = exporting.onnx_program(content) if format == "onnx" else exporting.torch_program(content)
            checks = checks or exporting.compare(deployed, program, exporting.checked_sizes(card.size))
            time = exporting.timed(deployed, program, size, repeats=repeats) if repeats else None
            result = (
                exporting.score(program, deployed, tested, data, num_classes=len(space), limit=limit)
                if tested
                else None
            )
            found[path.name] = {
                "bytes": len(content),
                "checks": [check._asdict() for check in checks],
                "timing": None if time is None else time._asdict(),
                "domain": score,
                "images": None if result is None else result.images,
                "miou": None if result is None else mean_iou(result.counts),
            }
            table.add_row(
                path.name,
                f"{len(content) / 2**20:.1f}",
                *([f"{1000 * time.file:.0f}"] if time else []),
                *([f"{100 * found[path.name]['miou']:.2f}"] if result else []),
            )
            for check in checks:
                of = (
                    str(check.images),
                    f"{check.height}×{check.width}",
                    f"{check.difference:.1e}",
                    f"{check.equal:.2%}",
                )
                sizes.add_row(path.name, *of)
            show(done, {})
    report = exporting.write_report(written, files=found)
    console.print(sizes)
    console.print(table)
    console.print(
        "Compared with the network on generated streets."
        + (
            f" ms: one image of {size[0]}×{size[1]}, median of {repeats}, cpu, {torch.get_num_threads()} threads; the network "
            f"in torch {1000 * found[output.name]['timing']['network']:.0f}."
            if repeats
            else ""
        )
        + (f" mIoU on {score}, {found[output.name]['images']} images." if tested else ""),
        highlight=False,
    )
    console.print(f"Written: {', '.join(map(str, files))}; the report is {report}", highlight=False, markup=False)
    return found


def push(
    model: Path, repo_id: str, *, private: bool = True, folder: Path | None = None, console: Console | None = None
) -> None:
    """Put a network with its model card on the Hugging Face Hub, or into a folder to look at.

    Args:
        model: folder of a run, or a file that `load_model` reads.
        repo_id: `OWNER/NAME`.
        private: of a new repository, whether only its owner sees it.
        folder: write there instead, and upload nothing.
        console: where the address is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    if folder is not None:
        written = save_pretrained(model, folder, repo_id=repo_id)
        console.print(f"Written to {written}; nothing was uploaded", highlight=False, markup=False)
        return
    address = push_to_hub(model, repo_id, private=private)
    console.print(f"The network is at {address}", highlight=False, markup=False)


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
