"""`spcnet evaluate`: a run, a file of weights, an exported network or a folder of predictions, by named protocols.

A run that is evaluated by the protocol `spcnet` gets the result into its results.jsonl, as training itself does; by
another one, at another size or on fewer images into protocols.jsonl, for these are not comparable. All else is evaluated
the same way, and the result goes into a file of its own.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from spcnet import checkpoint, distributed
from spcnet.config import DataConfig, DomainSpec, EvaluationConfig, TrainingConfig
from spcnet.data.datasets import SegmentationSet, open_domain, print_remarks
from spcnet.engine import records
from spcnet.engine.devices import make_fabric
from spcnet.engine.state import dead_workers_told
from spcnet.errors import DataError, UsageError
from spcnet.evaluation import evaluator
from spcnet.evaluation.protocols import ALL, Protocol, protocol_set, protocols_named
from spcnet.evaluation.tta import check_overlap
from spcnet.export.onnx_files import FileNetwork, onnx_metadata, onnx_program
from spcnet.file_kinds import FileKind, kind_of, split_part
from spcnet.formatting import percent, print_plain
from spcnet.inference.engines import EngineName, EngineNetwork, Precision
from spcnet.labels import LabelSpace, label_space
from spcnet.models.adapters import merged
from spcnet.models.network import Segmentor
from spcnet.numerics import find_device
from spcnet.reports.scores import class_table, domain_scores, protocol_scores
from spcnet.runs import OpenRun, plain_data
from spcnet.studies.engines import engine_options
from spcnet.studies.predictions import Ids, Predictions
from spcnet.studies.subject import DEFAULT_PROTOCOL, Record, Subject, earlier, save_evaluation

PROTOCOLS_FILE = "protocols.jsonl"
"""In the folder of a run: its results by other protocols than `spcnet`, at other sizes, on fewer images, a line each."""
RESULTS_SUFFIX = ".results.jsonl"
"""Ends the name of the file with the results of a file of weights or an exported network."""


@dataclass(frozen=True)
class EvaluateOptions:
    """How a model is evaluated, where that is not said by its training."""

    protocol: str = DEFAULT_PROTOCOL.name
    """A name in `PROTOCOLS`, or `all` for every one."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `EvaluationConfig` that differ from the run's own."""
    devices: int | str = 1
    """How many share the images of a domain, or `auto` for all."""
    accelerator: str | None = None
    """Where to compute: auto, cpu, cuda or mps; where the run was trained by default."""
    space: str | None = None
    """Label space of a folder of predictions; by default the one that `spcnet predict` noted there, else cityscapes19."""
    ids: Ids = "auto"
    """What the pixels of predictions are."""
    output: Path | None = None
    """File that the result becomes a line of; beside the model by default."""
    classes: bool = False
    """Show each domain class by class, too."""
    engine: EngineName = "torch"
    """What runs the network of a run."""
    precision: Precision = "f32"
    """What the engine computes in."""
    calibration: str | None = None
    """Of int8, see `spcnet.studies.engines`."""

    @property
    def plain(self) -> bool:
        """Whether torch runs the network as it is, in the run's own precision."""
        return (self.engine, self.precision, self.calibration) == ("torch", "f32", None)

    def check(self, defaults: EvaluationConfig, size: tuple[int, int] | None) -> None:
        """Refuse options that do not go together.

        Args:
            defaults: how the run evaluates its network.
            size: height and width from the command line.

        Raises:
            UsageError: names them.
        """
        fixes = any(protocol.views is not None for protocol in protocols_named(self.protocol))
        fixed = sorted({"window", "overlap", "window_weights", "scales", "flip"}.intersection(self.changes))
        if fixes and (fixed or size is not None):
            raise UsageError(
                f"the protocol {self.protocol} fixes the size and the test-time augmentation: leave out "
                f"{', '.join([*fixed, *(['size'] if size else [])])}, or choose the protocol spcnet"
            )
        evaluation = replace(defaults, **self.changes)
        idle = sorted({"overlap", "window_weights"}.intersection(self.changes))
        if idle and evaluation.window is None:
            raise UsageError(f"{' and '.join(idle)} need windows: give --window [H,W], too")
        if {"window", "overlap"}.intersection(self.changes):
            check_overlap(evaluation.window, evaluation.overlap, size)


def evaluate(run: OpenRun, options: EvaluateOptions, console: Console) -> Record:
    """Evaluate a network, or what it predicted, on domains, and keep the result.

    Args:
        run: folder of a run; file of weights of this package, RobustNet or SPC-Net; ONNX file that `spcnet export` wrote;
            or folder of predictions, an image of class ids for each image of the domain.
        options: how.
        console: where progress and metrics are shown.

    Returns:
        The record, see `spcnet.evaluation.evaluator.record`: of a run with the figures that it had of other domains. By
        all protocols a record for each, by its name, under `protocols`.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    options.check(run.evaluation, run.options.size)
    subject = _subject(run, options)
    if not options.plain:
        subject = _by_engine(run, subject, options)
    protocols = protocols_named(options.protocol)
    ways = [(one, opened(_names(run, one), subject.data, subject.space, one)) for one in protocols]
    training = TrainingConfig(accelerator="cpu")  # of ONNX Runtime, and of predictions, which need none
    if isinstance(subject.model, EngineNetwork):
        training = replace(training, accelerator=subject.model.running.device.type)
    if isinstance(subject.model, Segmentor):
        accelerator = options.accelerator or run.training.accelerator
        training = replace(run.training, devices=options.devices, nodes=1, strategy="auto", accelerator=accelerator)
    fabric = make_fabric(training, trains=False)
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    records = {}
    for protocol, tests in ways:
        print_remarks(tests.values(), console)
        folder = run.path if run.is_run else run.path.parent
        with dead_workers_told():
            results = subject.evaluate(tests, fabric, protocol=protocol, folder=folder, console=console)
        with distributed.raise_on_all_ranks():
            record, output = _kept(run, subject, results, options, protocol, write=fabric.is_global_zero)
            records[protocol.name] = record
            if fabric.is_global_zero:
                _finish(run, record, output, options, protocol, console)
    if options.protocol != ALL:
        return record
    columns = {name: {protocol.domain(name) for protocol in protocols} for name in dict.fromkeys(run.names)}
    console.print(protocol_scores(records, columns))
    print_plain(console, "mIoU in %; how a protocol differs stands above its scores")
    return {"protocols": records}


def _names(run: OpenRun, protocol: Protocol) -> list[str]:
    """The domains that are scored, as a protocol names them."""
    return list(dict.fromkeys(map(protocol.domain, run.names)))


def _finish(
    run: OpenRun, record: Record, output: Path | None, options: EvaluateOptions, protocol: Protocol, console: Console
) -> None:
    """Write the line of a record, where it is not written yet, and show its scores."""
    problem = None
    try:
        if output is not None:
            records.append_line(output, record)
    except DataError as error:  # hours may have gone into these figures
        output, problem = None, error
    names = _names(run, protocol)
    alone = run.is_run and run.options.targets is not None
    _show(record, protocol, options.classes, output, console, scored=names if alone else list(record["domains"]))
    if alone:
        others = [name for name in map(protocol.domain, run.own_names) if name not in names]
        _say_alone(record, names, others, console)
    if problem is not None:
        raise problem


def _kept(
    run: OpenRun,
    subject: Subject,
    results: Mapping[str, evaluator.DomainResult],
    options: EvaluateOptions,
    protocol: Protocol,
    *,
    write: bool,
) -> tuple[Record, Path | None]:
    """The record of an evaluation, and the file that it is yet to become a line of; None where it is in the run."""
    if not run.is_run or options.output is not None:
        beside = run.path.with_name(run.path.name + RESULTS_SUFFIX)
        inside = run.path / records.RESULTS_FILE
        default = inside if isinstance(subject.model, Predictions) else beside
        return subject.published(results, protocol), options.output or default
    # Metrics of a few images must not take the place of what the run is known by.
    limit, own_limit = subject.evaluation.limit, run.evaluation.limit
    fewer = bool(limit) and (not own_limit or limit < own_limit)
    if protocol is DEFAULT_PROTOCOL and run.options.size is None and not fewer and options.plain:
        return save_evaluation(subject, results, run.path, names=run.own_names, write=write), None
    record, output = subject.published(results, protocol), run.path / PROTOCOLS_FILE
    before = earlier(output, record, same=("iteration", "classes", "views", "protocol", "size", "engine"))
    return record if before is None else evaluator.joined(before, record), output


def _subject(run: OpenRun, options: EvaluateOptions) -> Subject:
    """What the path holds: a run, predictions, an exported network or a file of weights."""
    path = run.path
    network_files = (checkpoint.MODEL_FILE, checkpoint.LATEST_FILE, checkpoint.PREVIOUS_FILE)
    if path.is_dir() and not run.is_run and not any((path / name).is_file() for name in network_files):
        return _predictions(run, options)
    if options.ids != "auto":
        raise UsageError(f"--ids {options.ids} is for a folder of predictions, and {path} is not one: leave it out")
    if options.space is not None:
        raise UsageError(f"--space {options.space} is for a folder of predictions; {path} has its own: leave it out")
    file = split_part(path).file
    kind = kind_of(file) if file.is_file() else None
    if kind is FileKind.TORCH_EXPORT:
        what = f"{path} would be trusted with running code"
        raise UsageError(f"{what}: evaluate the network it was made from, or an ONNX file")
    if kind is FileKind.ONNX:
        return _exported(run, options)
    subject = Subject(
        merged(run.network),
        path.name,
        run.space,
        run.data,
        run.card.method,
        replace(run.evaluation, **options.changes),
        run.training.seed,
        run.sources,
        run.iteration,
        run.ema,
    )
    _check_named(run)
    return subject


def _by_engine(run: OpenRun, subject: Subject, options: EvaluateOptions) -> Subject:
    """The same network run by another engine."""
    if not isinstance(subject.model, Segmentor):
        raise UsageError(
            f"--engine and --precision are for a run or a file of weights of this package, and {run.path} is none: leave "
            "them out"
        )
    if options.devices != 1:
        raise UsageError(
            f"the engine {options.engine} evaluates in one process, and devices is {options.devices}: leave it out"
        )
    device = find_device(options.accelerator or "auto")
    chosen = engine_options(run, options.engine, options.precision, options.calibration, size=subject.data.size)
    return replace(subject, model=EngineNetwork(subject.model.to(device).eval(), chosen, device))


def _check_named(run: OpenRun) -> None:
    if not run.names:
        what = f"{run.path} does not say what to test on"
        raise UsageError(f"{what}: name domains with --targets, for example [cityscapes]")


def _exported(run: OpenRun, options: EvaluateOptions) -> Subject:
    """A network that `spcnet export` wrote, which ONNX Runtime runs."""
    path = run.path
    if options.devices != 1 or options.accelerator not in (None, "auto", "cpu"):
        raise UsageError(f"{path} is run by ONNX Runtime on the processor: leave out devices and accelerator")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}): check the path") from error
    _check_named(run)
    about = onnx_metadata(content, str(path))
    space = label_space(about["space"])
    if any(DomainSpec.parse(name).dataset == "streets" for name in run.options.targets or ()):
        warnings.warn(
            f"{path} does not say on how many generated scenes its run was tested (data.test_scenes): "
            f"{DataConfig.test_scenes}, the default, are scored, or --limit",
            stacklevel=2,
        )
    network = FileNetwork(
        onnx_program(content, str(path)),
        kind=about["output"]["name"],
        pixels=about["input"]["type"] if about["normalise"] else None,
        num_classes=len(space),
        mean=about["mean"],
        std=about["std"],
    )
    return Subject(
        network,
        path.name,
        space,
        run.options.merge(plain_data(space.name, about.get("size"))),
        str(about.get("method", "onnx")),
        EvaluationConfig(**options.changes),
        sources=tuple(map(str, about.get("domains", []))),
    )


def _predictions(run: OpenRun, options: EvaluateOptions) -> Subject:
    """The class maps in a folder."""
    path = run.path
    predictions = Predictions.open(path, ids=options.ids, space=options.space)
    if run.options.size is not None or options.devices != 1 or options.accelerator not in (None, "auto", "cpu"):
        what = "size" if run.options.size is not None else "devices and accelerator"
        raise UsageError(f"{path} holds predictions, which are scored as they are, by one process: leave out {what}")
    if options.protocol != DEFAULT_PROTOCOL.name:
        raise UsageError(
            f"{f'the protocol {options.protocol} begins' if options.protocol != ALL else 'other protocols begin'} before the "
            f"network, and {path} holds what came out of one: evaluate the network, or choose the protocol spcnet"
        )
    if early := set(options.changes) - {"limit", "panels", "batch_size"}:
        raise UsageError(f"{path} holds predictions: {', '.join(sorted(early))} would come before them; leave them out")
    if not run.names:
        raise UsageError(f"{path} does not say what its images are of: name the domain with --targets")
    return Subject(
        predictions,
        path.resolve().name,
        predictions.space,
        run.options.merge(plain_data(predictions.space.name, DataConfig().size)),
        "predictions",
        EvaluationConfig(**options.changes),
    )


def opened(names: Iterable[str], data: DataConfig, space: LabelSpace, protocol: Protocol) -> dict[str, SegmentationSet]:
    """Domains as a protocol has their images and labels, by name.

    Raises:
        UsageError, DataError: a domain cannot be opened.
    """
    tests = {}
    for name in names:
        spec = DomainSpec.parse(name)
        plain = open_domain(spec, data=data, space=space, training=False)
        tests[name] = protocol_set(plain, protocol, dataset=spec.dataset)
    return tests


def _show(
    record: Record, protocol: Protocol, classes: bool, output: Path | None, console: Console, *, scored: Sequence[str]
) -> None:
    """Print the metrics of the named domains; figures of others were known before."""
    record = {**record, "domains": {name: record["domains"][name] for name in scored}}
    if protocol is not DEFAULT_PROTOCOL:
        print_plain(console, f"Protocol {protocol.name}: {protocol.summary}. Unlike spcnet:")
        for line in protocol.differs:
            print_plain(console, f"  - {line}")
    console.print(domain_scores(record))
    for name in record["domains"] if classes else ():
        console.print(class_table(record, name, swapped=protocol.swapped))
    for name, domain in record["domains"].items():
        counted = [label for label in domain["absent"] if domain["iou"][label] is not None]
        labelled = [value for label, value in domain["iou"].items() if label not in domain["absent"]]
        if counted and labelled:
            what = f"{name} has no pixel labelled {', '.join(counted)}: predicted all the same"
            they_count = "it counts" if len(counted) == 1 else "they count"
            mean = f"the mean IoU of the {len(labelled)} labelled classes is {percent(sum(labelled) / len(labelled))}"
            print_plain(console, f"{what}, {they_count} with 0; {mean}")
    views = f"; views: {record['views']}" if record.get("views") else ""
    ema = f"; weights: their exponential moving average ({record['ema']:g})" if record.get("ema") else ""
    added = "" if output is None else f". Added to {output}"
    print_plain(console, f"mIoU and all else in %; 95 %: bootstrap over the images{views}{ema}{added}")


def _say_alone(record: Record, scored: Sequence[str], others: Sequence[str], console: Console) -> None:
    """Say that only the named domains were scored, and what became of the figures of the run's other ones."""
    stored = [name for name in others if name in record["domains"]]
    missing = [name for name in others if name not in record["domains"]]
    parts = [f"Scored: {', '.join(scored)} alone"]
    if stored:
        parts.append(f"the figures of {', '.join(stored)} stay as they were")
    if missing:
        remedy = "name them in --targets, too, or leave out --targets to evaluate all of the run's domains"
        parts.append(f"{', '.join(missing)} not evaluated: {remedy}")
    if others:
        print_plain(console, "; ".join(parts))
