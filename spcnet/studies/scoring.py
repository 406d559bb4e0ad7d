"""`spcnet evaluate`: a run, a file of weights, an exported network or a folder of predictions, by a named protocol.

A run that is scored by the protocol `spcnet` gets the result into its results.jsonl, as training itself does; by another
one, at another size or on fewer images into protocols.jsonl, for these are not comparable. All else is scored the same
way, and the result goes into a file of its own.
"""

import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import nn

from spcnet import checkpoint, distributed, labels, training
from spcnet.config import DataConfig, DomainSpec, EvaluationConfig, RunConfig, TrainingConfig, plain_lists
from spcnet.convert import load_any
from spcnet.data.catalog import with_sets
from spcnet.data.datasets import FolderSet, SegmentationSet, WeatherSet, open_domain, print_remarks
from spcnet.data.images import read_label
from spcnet.engine import records
from spcnet.engine.devices import make_fabric
from spcnet.engine.progress import bar
from spcnet.engine.state import dead_workers_told
from spcnet.errors import DataError, UsageError
from spcnet.evaluation import evaluator
from spcnet.evaluation.metrics import confusion, outcome
from spcnet.evaluation.protocols import PROTOCOLS, Protocol, as_published, protocol_named, protocol_set
from spcnet.evaluation.tta import check_overlap
from spcnet.export import FileNetwork, onnx_metadata, onnx_program
from spcnet.file_kinds import FileKind, kind_of, split_part
from spcnet.inference.results import CLASSES_SUFFIX
from spcnet.labels import LabelFormat, LabelSpace, label_space
from spcnet.methods import restore
from spcnet.reports.scores import class_table, domain_scores, percent
from spcnet.runs import OpenRun, source_tests

Record = dict[str, Any]
Ids = Literal["auto", "train", "label", "color"]
"""What the pixels of predictions are: train ids 0..K-1, Cityscapes' label ids, or colours; `auto` looks at the names."""

PROTOCOLS_FILE = "protocols.jsonl"
"""In the folder of a run: its results by other protocols than `spcnet`, at other sizes, on fewer images, a line each."""
INDEX_FILE = "predictions.json"
"""In a folder that `spcnet predict` wrote: what its class maps hold."""
RESULTS_SUFFIX = ".results.jsonl"
"""Ends the name of the file with the results of a file of weights or an exported network."""


@plain_lists
def evaluate(
    model: Path,
    *,
    targets: Sequence[str] | None = None,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    evaluation: Mapping[str, Any] | None = None,
    protocol: str = "spcnet",
    size: tuple[int, int] | None = None,
    space: str | None = None,
    ids: Ids = "auto",
    devices: int | str = 1,
    output: Path | None = None,
    classes: bool = False,
    console: Console | None = None,
) -> Record:
    """Score a network, or what it predicted, on domains, and keep the result.

    Args:
        model: folder of a run; file of weights of this package, RobustNet or SPC-Net; ONNX file that `spcnet export`
            wrote; or folder of predictions, an image of class ids for each image of the domain.
        targets: score these domains alone, an empty list for a run's sources; of a run its sources and its own targets
            by default.
        roots: folders of data sets, beside a run's own.
        sets: file that describes sets of one's own, beside a run's own; see `spcnet.config.read_sets`.
        evaluation: options of `EvaluationConfig` that differ from the run's own.
        protocol: a name in `PROTOCOLS`.
        size: height and width that images are brought to; those of the training by default.
        space: label space of a folder of predictions; by default the one that `spcnet predict` noted there, else
            cityscapes19.
        ids: what the pixels of predictions are.
        devices: how many share the images of a run, or `auto` for all.
        output: file that the result becomes a line of; beside the model by default.
        classes: show each domain class by class, too.
        console: where progress and scores are shown; nowhere by default.

    Returns:
        The record, see `spcnet.evaluation.evaluator.record`: of a run with the figures that it had of other domains.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    way = protocol_named(protocol)
    given = dict(evaluation or {})
    fixed = sorted({"window", "overlap", "window_weights", "scales", "flip"}.intersection(given))
    if way.views is not None and (fixed or size is not None):
        raise UsageError(
            f"the protocol {protocol} says how images are looked at: leave out {', '.join([*fixed, *(['size'] if size else [])])}, "
            "or choose the protocol spcnet"
        )
    run = (model / records.CONFIG_FILE).is_file()
    own = OpenRun(model).config.evaluation if run else EvaluationConfig()
    looks = dataclasses.replace(own, **given)
    idle = sorted({"overlap", "window_weights"}.intersection(given))
    if idle and looks.window is None:
        raise UsageError(f"there are no windows for {' and '.join(idle)} to lie by: give --window [H,W], too")
    network_files = (checkpoint.MODEL_FILE, checkpoint.LATEST_FILE, checkpoint.PREVIOUS_FILE)
    if {"window", "overlap"}.intersection(given):
        check_overlap(looks.window, looks.overlap, size)
    folder = model.is_dir() and not run and not any((model / name).is_file() for name in network_files)
    if folder and not _pictures(model):
        raise DataError(
            f"the folder {model} holds neither a run, nor a network, nor predictions, which are PNG files: check the path"
        )
    if ids != "auto" and not folder:
        raise UsageError(f"--ids {ids} is for a folder of predictions, and {model} is none: leave it out")
    if space is not None and not folder:
        raise UsageError(f"--space {space} is for a folder of predictions; {model} has its own: leave it out")
    asked = _Asked(targets, roots or {}, sets, given, way, size, devices, console)
    if folder:
        if size is not None or devices != 1:
            what = "size" if size is not None else "devices"
            raise UsageError(
                f"{model} holds predictions, which are scored as they are, by one process: leave out {what}"
            )
        record = _folder(model, asked, label_space(_space_of(model, space)), ids)
        output = output or model / records.RESULTS_FILE
    elif run:
        # A quick look at a few images must not take the place of what the run is known by.
        fewer = bool(looks.limit) and (not own.limit or looks.limit < own.limit)
        if way is PROTOCOLS["spcnet"] and size is None and output is None and not fewer:
            record = training.evaluate(
                model, targets=targets, roots=roots, sets=sets, evaluation=looks, devices=devices, console=console
            )
        else:
            record = _run(model, asked)
            if output is None:
                output = model / PROTOCOLS_FILE
                same = ("iteration", "classes", "views", "protocol", "size")
                before = training.earlier(output, record, same=same)
                record = record if before is None else evaluator.joined(before, record)
    else:
        record = _file(model, asked)
        output = output or model.with_name(model.name + RESULTS_SUFFIX)
    if distributed.rank() > 0:
        return record
    problem = None
    if output is not None:
        try:
            records.append_line(output, record)
        except DataError as error:  # hours may have gone into these figures
            output, problem = None, error
    if run and targets is not None:
        config = OpenRun(model).config
        scored = [way.domain(name) for name in training.domains_to_score(config, targets)]
        _show(record, way, classes, output, console, scored=scored)
        own_domains = [way.domain(name) for name in training.domains_to_score(config, None)]
        _say_alone(record, scored, [name for name in own_domains if name not in scored], console)
    else:
        _show(record, way, classes, output, console)
    if problem is not None:
        raise problem
    return record


class _Asked(NamedTuple):
    """What the user asked for."""

    targets: Sequence[str] | None
    roots: Mapping[str, str]
    sets: Path | None
    given: Mapping[str, Any]
    """Options of `EvaluationConfig`."""
    protocol: Protocol
    size: tuple[int, int] | None
    devices: int | str
    console: Console


class _Scored(NamedTuple):
    """What is scored, and how it is called."""

    network: nn.Module
    space: LabelSpace
    method: str
    sources: frozenset[str]
    seed: int
    iteration: int


def _run(run: Path, asked: _Asked) -> Record:
    config = OpenRun(run).config
    names, data = training.scored_data(config, targets=asked.targets, roots=asked.roots, sets=asked.sets)
    data = dataclasses.replace(data, size=asked.size or data.size)
    config = dataclasses.replace(
        config, data=data, evaluation=dataclasses.replace(config.evaluation, **asked.given), output=run
    )
    network, card = restore(run)
    state = checkpoint.read(checkpoint.find(run))[2]
    own = frozenset(source_tests(data))
    scored = _Scored(
        network, label_space(card.space), config.method, own, config.training.seed, int(state.get("iteration", 0))
    )
    return _score(scored, names, config, asked)


def _file(path: Path, asked: _Asked) -> Record:
    network: nn.Module
    file = split_part(path).file
    kind = kind_of(file) if file.is_file() else None
    if kind is FileKind.TORCH_EXPORT:
        raise UsageError(
            f"{path} would be trusted with running code: score the network it was made from, or an ONNX file"
        )
    if kind is FileKind.ONNX:
        if asked.devices != 1:
            raise UsageError(f"{path} is run by ONNX Runtime on the processor: leave out devices")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror or error}): check the path") from error
        told = onnx_metadata(content, str(path))
        space, method, domains = label_space(told["space"]), str(told.get("method", "onnx")), told.get("domains", [])
        trained = told.get("size")
        network = FileNetwork(
            onnx_program(content, str(path)),
            kind=told["output"]["name"],
            pixels=told["input"]["type"] if told["normalise"] else None,
            num_classes=len(space),
            mean=told["mean"],
            std=told["std"],
        )
    else:
        network, card = load_any(path)
        space, method, domains, trained = label_space(card.space), card.method, card.domains, card.size
    if not asked.targets:
        raise UsageError(f"{path} does not say what to test on: name domains with --targets, for example [cityscapes]")
    wanted = asked.size or (None if trained is None else (int(trained[0]), int(trained[1])))
    config = RunConfig(
        method="deeplabv3plus",
        data=_own_size(_data(asked, space), wanted),
        evaluation=EvaluationConfig(**asked.given),
        output=path.parent,
    )
    scored = _Scored(network, space, method, frozenset(map(str, domains)), 0, 0)
    return {**_score(scored, list(asked.targets), config, asked), "run": path.name}


def _data(asked: _Asked, space: LabelSpace) -> DataConfig:
    """Where the data sets lie, for what is no run."""
    return with_sets(
        DataConfig(targets=list(asked.targets or ()), roots=dict(asked.roots), space=space.name), asked.sets
    )


def _score(scored: _Scored, names: Sequence[str], config: RunConfig, asked: _Asked) -> Record:
    protocol, console = asked.protocol, asked.console
    tests = opened(names, config.data, scored.space, protocol, console=console if distributed.rank() == 0 else None)
    # Images of a protocol come at the size that it wants.
    data = config.data if protocol.prepare is None else _own_size(config.data, None)
    fabric = make_fabric(
        dataclasses.replace(config.training, devices=asked.devices, nodes=1)
        if not isinstance(scored.network, FileNetwork)
        else TrainingConfig(accelerator="cpu")
    )
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    with dead_workers_told():
        results = training.score_domains(
            scored.network,
            tests,
            dataclasses.replace(config, data=data),
            scored.space,
            fabric=fabric,
            console=console,
            views=protocol.views,
            align_corners=protocol.align_corners,
        )
    sources = {_read_as(name, protocol) for name in scored.sources}
    found = evaluator.record(
        results,
        {name: "source" if name in sources else "unseen" for name in results},
        space=scored.space,
        method=scored.method,
        seed=scored.seed,
        iteration=scored.iteration,
        run=config.output.name,
        views=_looked(config.evaluation, protocol),
        sets=training.own_sets(results, data),
    )
    return as_published({**found, "size": list(data.size) if data.size else None}, protocol)


def _looked(asked: EvaluationConfig, protocol: Protocol) -> str | None:
    """How images were looked at and at how many, in words; None where it is one look at each whole image."""
    views = asked.views if protocol.views is None else None
    number = "image" if asked.limit == 1 else f"{asked.limit} images"
    first = f"only the first {number} of each domain" if asked.limit else None
    return "; ".join(part for part in (views, first) if part) or None


def _read_as(source: str, protocol: Protocol) -> str:
    """A source as the protocol names it; weights of other code may call theirs anything."""
    try:
        return protocol.domain(source)
    except UsageError:
        return source


def opened(
    names: Sequence[str],
    data: DataConfig,
    space: LabelSpace,
    protocol: Protocol,
    *,
    console: Console | None = None,
) -> dict[str, SegmentationSet]:
    """Domains by the names that a protocol gives them, as it has their images and labels.

    Args:
        names: the domains.
        data: says where the sets lie.
        space: the classes.
        protocol: how they are scored.
        console: where it is told what was left out of them.

    Raises:
        UsageError, DataError: a domain cannot be opened.
    """
    found = {}
    for name in dict.fromkeys(map(protocol.domain, names)):
        spec = DomainSpec.parse(name)
        plain = open_domain(spec, data=data, space=space, training=False)
        found[name] = protocol_set(plain, protocol, dataset=spec.dataset)
    print_remarks(found.values(), console or Console(quiet=True))
    return found


def _own_size(data: DataConfig, size: tuple[int, int] | None) -> DataConfig:
    """Settings with another size, which may be None; the crop, without which training needs one, plays no part."""
    return dataclasses.replace(data, size=size, crop=data.crop or data.size or (64, 64))


def _folder(folder: Path, asked: _Asked, space: LabelSpace, ids: Ids) -> Record:
    targets, given, protocol = asked.targets, asked.given, asked.protocol
    if protocol is not PROTOCOLS["spcnet"]:
        raise UsageError(
            f"the protocol {protocol.name} begins before the network, and {folder} holds what came out of one: score the "
            "network, or choose the protocol spcnet"
        )
    if set(given) - {"limit", "panels", "batch_size"}:
        raise UsageError(
            f"{folder} holds predictions: {', '.join(sorted(given))} would come before them; leave them out"
        )
    if not targets:
        raise UsageError(f"{folder} does not say what its images are of: name the domain with --targets")
    data = _data(asked, space)
    results = {}
    tests = opened(targets, data, space, protocol, console=asked.console)
    with bar(asked.console, len(targets), 0, "test") as show:
        for done, (name, images) in enumerate(tests.items(), start=1):
            results[name] = score_predictions(
                folder, images, space=space, ids=ids, limit=int(given.get("limit", 0)), what=name
            )
            training.say_unlabelled(name, results[name], space, asked.console)
            show(done, {})
    found = evaluator.record(
        results,
        dict.fromkeys(results, "unseen"),
        space=space,
        method="predictions",
        seed=0,
        iteration=0,
        run=folder.resolve().name,
        sets=training.own_sets(results, data),
    )
    return as_published(found, protocol)


def score_predictions(
    folder: Path,
    images: SegmentationSet,
    *,
    space: LabelSpace,
    ids: Ids = "auto",
    limit: int = 0,
    what: str = "the domain",
) -> evaluator.DomainResult:
    """Score class maps that lie on disk, one PNG for each image of a domain, as large as its label.

    A prediction belongs to the image whose file name it begins with, up to endings such as `_classes`, `_pred` or
    `_labelIds`; the folders they lie in need not be the same.

    Args:
        folder: is searched with all folders in it.
        images: the domain.
        space: its classes.
        ids: what the pixels are; see `Ids`.
        limit: score the first so many images; 0 for all.
        what: name of the domain, for messages.

    Raises:
        DataError: an image has no prediction, or several; one is not as large as the label, or has a pixel without a
            class.
    """
    start = time.perf_counter()
    ids = _told_ids(folder) if ids == "auto" else ids
    found: dict[str, list[Path]] = {}
    for path in _pictures(folder):
        found.setdefault(_core(path.name), []).append(path)
    names = _file_names(images)
    number = min(len(images), limit) if limit else len(images)
    missing = [name for name in names[:number] if _core(name) not in found]
    if missing:
        raise DataError(
            f"{len(missing)} of {number} images of {what} have no prediction in {folder}: the first is {missing[0]}, whose "
            f"prediction would be {_core(missing[0])}{CLASSES_SUFFIX}; every image counts"
        )
    counts = torch.zeros(len(space), len(space), dtype=torch.int64)
    outcomes = []
    for index, name in enumerate(names[:number]):
        paths = found[_core(name)]
        if len(paths) > 1:
            raise DataError(
                f"the image {name} of {what} has {len(paths)} predictions, {paths[0]} and {paths[1]}: leave one"
            )
        prediction = read_prediction(paths[0], space=space, ids=ids)
        sample = images.read(index)
        if prediction.shape != sample.label.shape:
            raise DataError(
                f"{paths[0]} is {prediction.shape[1]}×{prediction.shape[0]} but the label of {name} is "
                f"{sample.label.shape[1]}×{sample.label.shape[0]}: predictions must have the size of the labels"
            )
        own = confusion(
            torch.from_numpy(prediction).long(), torch.from_numpy(sample.label).long(), num_classes=len(space)
        )
        counts += own
        outcomes.append(outcome(own))
    if not number:
        raise DataError(f"{what} has no image to score")
    return evaluator.DomainResult(counts, number, time.perf_counter() - start, outcomes=torch.stack(outcomes))


def read_prediction(path: Path, *, space: LabelSpace, ids: Ids = "auto") -> npt.NDArray[np.uint8]:
    """The class of each pixel of a predicted class map, H×W, 0..K-1.

    Raises:
        DataError: it cannot be read, or a pixel has no class.
        UsageError: label ids of a space that Cityscapes does not know.
    """
    kind = ids
    if kind == "auto":
        kind = "label" if re.search(r"label_?ids$", path.stem, re.IGNORECASE) else "train"
    if kind == "label" and space.name != "cityscapes19":
        raise UsageError(
            f"label ids are Cityscapes' own, and the label space is {space.name}: give --ids train or color"
        )
    classes = tuple(enumerate(space.classes))
    colors = tuple((color, k) for k, color in enumerate(space.colors))
    form = {
        "train": LabelFormat(classes, colors),
        "label": LabelFormat.of(labels.CITYSCAPES_IDS, labels.cityscapes_colors(labels.CITYSCAPES_IDS)),
        "color": LabelFormat(classes, colors, numbers=()),
    }[kind]
    read_as = {"train": "train ids", "label": "label ids", "color": "colours"}[kind]
    read_as += " or colours" if ids == "auto" and kind == "train" else ""
    rule = f"read as {read_as}: each pixel must have one of the {len(space)} classes of {space.name}; --ids says what the pixels are"
    try:
        pixels = read_label(path, form)
    except labels.UnknownLabelError as error:
        raise DataError(f"{error}; {rule}") from None
    if kind == "label":
        table = labels.remap(labels.CITYSCAPES_IDS, space, "predictions")
        pixels = np.asarray(table[pixels])
    if (worst := int(pixels.max(initial=0))) >= len(space):
        came = "no class" if kind == "label" or worst == labels.IGNORE else f"the class {worst}"
        raise DataError(f"{path} has a pixel with {came}, {rule}")
    return pixels


def _told_ids(folder: Path) -> Ids:
    """What `spcnet predict` wrote there, if it was that; else it is for each file's name to say."""
    told = _index(folder).get("ids")
    return told if told in ("train", "label", "color") else "auto"


def _space_of(folder: Path, asked: str | None) -> str:
    """Name of the label space of predictions: what `spcnet predict` noted, or what was asked for.

    Raises:
        UsageError: the two differ.
    """
    noted = _index(folder).get("space")
    if not isinstance(noted, str):
        return asked or "cityscapes19"
    if asked not in (None, noted):
        raise UsageError(
            f"{folder / INDEX_FILE} says that the predictions have the label space {noted}, and --space is {asked}: leave "
            "out --space"
        )
    return noted


def _index(folder: Path) -> Mapping[str, Any]:
    """What `spcnet predict` noted of the class maps in a folder; empty where it did not write them."""
    try:
        found = json.loads((folder / INDEX_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


_ENDINGS = re.compile(
    r"(_classes|_prediction|_pred|_trainids|_labeltrainids|_labelids|_labels|_label|_color|_gtfine|_gtcoarse|_leftimg8bit|_rgb_anon"
    r"|_rgb|_train_id|_ids)$",
    re.IGNORECASE,
)


def _core(name: str) -> str:
    """A file's name without what says of which kind it is."""
    stem = re.sub(r"\.(png|jpe?g|npy|webp|bmp|tiff?)$", "", name, flags=re.IGNORECASE)
    while (shorter := _ENDINGS.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem


def _pictures(folder: Path) -> list[Path]:
    """The class maps in a folder: PNG files, without overlays and maps of confidence."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() == ".png" and path.is_file() and not path.stem.endswith(("_overlay", "_confidence"))
    )


def _file_names(images: SegmentationSet) -> list[str]:
    """What the files of a set's images are called; of generated ones their names."""
    inner = images.plain if isinstance(images, WeatherSet) else images
    if isinstance(inner, FolderSet):
        stems = [pair.image.name for pair in inner.pairs]
        return stems if len(set(map(_core, stems))) == len(stems) else [pair.name for pair in inner.pairs]
    return [inner.read(index).name for index in range(len(inner))]


def _show(
    record: Record,
    protocol: Protocol,
    classes: bool,
    output: Path | None,
    console: Console,
    *,
    scored: Sequence[str] | None = None,
) -> None:
    """Print what was scored; of domains whose figures were known before only those that are in `scored`."""
    if scored is not None:
        record = {**record, "domains": {name: record["domains"][name] for name in scored}}
    if protocol is not PROTOCOLS["spcnet"]:
        console.print(f"Protocol {protocol.name}: {protocol.summary}. Unlike spcnet:", highlight=False)
        for line in protocol.differs:
            console.print(f"  - {line}", highlight=False, markup=False)
    console.print(domain_scores(record))
    for name in record["domains"] if classes else ():
        console.print(class_table(record, name, swapped=protocol.swapped))
    for name, domain in record["domains"].items():
        counted = [label for label in domain["absent"] if domain["iou"][label] is not None]
        labelled = [value for label, value in domain["iou"].items() if label not in domain["absent"]]
        if counted and labelled:
            console.print(
                f"{name} has no pixel labelled {', '.join(counted)}: predicted all the same, {'it counts' if len(counted) == 1 else 'they count'} with 0; the mean "
                f"IoU of the {len(labelled)} labelled classes is {percent(sum(labelled) / len(labelled))}",
                highlight=False,
                markup=False,
            )
    console.print(
        "mIoU and all else in %; 95 %: bootstrap over the images"
        + (f"; looked at: {record['views']}" if record.get("views") else "")
        + ("" if output is None else f". Added to {output}"),
        highlight=False,
        markup=False,
    )


def _say_alone(record: Record, scored: Sequence[str], others: Sequence[str], console: Console) -> None:
    """Say that only the named domains were scored, and what became of the figures of the run's other ones."""
    kept = [name for name in others if name in record["domains"]]
    missing = [name for name in others if name not in record["domains"]]
    said = [f"Scored: {', '.join(scored)} alone"]
    if kept:
        said.append(f"the figures of {', '.join(kept)} stay as they were")
    if missing:
        said.append(
            f"{', '.join(missing)} not scored: name them in --targets, too, or leave out --targets to score all of the "
            "run's domains"
        )
    if others:
        console.print("; ".join(said), highlight=False, markup=False)
