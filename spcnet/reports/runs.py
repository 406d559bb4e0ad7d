"""Reading run folders: what was set, where it ran, how it trained, what it scored.

A run folder holds `config.yaml`, `environment.json`, `train.jsonl` (one line every `training.log_every` iterations),
`results.jsonl` (one line per evaluation), `panels/` (images with their predictions), and perhaps `protocols.jsonl`
(evaluations in the manner of a paper). Everything is checked here, so that tables and figures work on values they can
trust.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from spcnet.config import EvaluationConfig, settled
from spcnet.errors import DataError, UsageError, one_line
from spcnet.files import read_yaml
from spcnet.glossary import FIGURES, Layers

RESULTS_FILE = "results.jsonl"
PROTOCOLS_FILE = "protocols.jsonl"
OWN_PROTOCOL = "spcnet"
"""Name of this package's own protocol, as in `spcnet.evaluation.protocols`."""

Role = Literal["source", "unseen"]
"""Whether a domain was trained on."""


@dataclass(frozen=True)
class LogLine:
    """One line of the training log."""

    iteration: int
    loss: float
    """What the optimiser descended; NaN where the log says null."""
    parts: Mapping[str, float]
    """Each term before its weight, by name."""
    learning_rate: float
    seconds: float
    """Since the start of the process; starts again when a run is resumed."""
    images_per_second: float


@dataclass(frozen=True)
class DomainResult:
    """What one network scored on one domain."""

    name: str
    role: Role
    images: int
    miou: float | None
    """Mean of the known `iou`, 0..1; None where there is none."""
    iou: Mapping[str, float | None]
    """IoU of each class, 0..1; None for a class in neither the truth nor the prediction."""
    pixel_accuracy: float | None
    absent: tuple[str, ...]
    """Classes without a single truth pixel; their IoU, 0 or None, says nothing about how well they are found."""
    confusion: npt.NDArray[np.int64]
    """K×K pixels: rows are the truth, columns the prediction."""
    seconds: float
    """Time it took to score; NaN if not recorded."""
    figures: Mapping[str, Layers]
    """What the network gave for the images beside the classes, mean over them, by name; see `spcnet.glossary.FIGURES`."""
    interval: tuple[float, float] | None = None
    """Where the mIoU lies with 95 %, by bootstrap over the images, 0..1; None if not recorded, as for what follows."""
    precision: Mapping[str, float | None] = field(default_factory=dict)
    """Of each class the fraction of the pixels taken for it that have it, 0..1; empty if not recorded."""
    recall: Mapping[str, float | None] = field(default_factory=dict)
    """Of each class the fraction of its pixels that were found, 0..1."""
    mean_accuracy: float | None = None
    """Mean of the recall, 0..1."""
    weighted_iou: float | None = None
    """IoU weighted with how many pixels each class has, 0..1."""
    own_set: Mapping[str, Any] = field(default_factory=dict)
    """Of a user's own set how it is described (the fields of `spcnet.config.OwnSet`), and its folder as `root`; else empty."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run on all its domains."""

    iteration: int
    time: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    domains: Mapping[str, DomainResult]
    mean_source_miou: float | None
    """Mean over the domains trained on, each weighing alike; None if one of them has no score."""
    mean_unseen_miou: float | None
    """The same over the domains never trained on."""
    views: str | None = None
    """How images were viewed, in words; None for one look at the whole image."""
    protocol: str | None = None
    """Whose manner of scoring it is; None for this package's own."""
    size: tuple[int, int] | None = None
    """Height and width that images were brought to, where that is recorded."""
    partial: bool = False
    """Whether only some of the run's own domains were scored, because others were named."""
    ema: float = 0.0
    """Share that the exponential moving average of the weights kept in a step; 0 for weights as they were trained."""

    @property
    def manner(self) -> str:
        """Protocol, views and size in words."""
        size = f"at {self.size[0]}×{self.size[1]}" if self.size else None
        return "; ".join(part for part in (self.protocol, self.views, size) if part) or "whole images, one scale"

    def names(self, role: Role) -> tuple[str, ...]:
        """Names of the domains of that role, in the order they were scored."""
        return tuple(name for name, domain in self.domains.items() if domain.role == role)


@dataclass(frozen=True)
class Panel:
    """One image of a domain with its truth and the prediction of this run: PNG files, labels as class ids."""

    name: str
    """Name of the image in its data set."""
    image: Path
    truth: Path
    prediction: Path


@dataclass(frozen=True)
class Run:
    """One run folder, read and checked."""

    folder: Path
    config: Mapping[str, Any]
    """The settings as plain values, nested as in `spcnet.config.RunConfig`."""
    environment: Mapping[str, Any]
    """Versions, device and commit it ran with; empty if not recorded."""
    log: tuple[LogLine, ...]
    """By rising iteration, each iteration once."""
    evaluations: tuple[Evaluation, ...]
    """By rising iteration, each iteration once; at least one."""
    panels: Mapping[str, tuple[Panel, ...]]
    """Kept images by domain."""
    others: tuple[Evaluation, ...] = ()
    """Evaluations in another manner than the run's own, the last of each manner, and of named domains alone at iterations
    of which nothing else is known; never the one that counts."""

    def setting(self, path: str) -> Any:
        """The setting at a dotted path such as `data.size`; None if the run does not have it."""
        value: Any = self.config
        for key in path.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return None
            value = value[key]
        return value

    @property
    def final(self) -> Evaluation:
        """The evaluation that counts: the one after the most iterations."""
        return self.evaluations[-1]

    def means(self, role: Role) -> tuple[float | None, ...]:
        """The mean mIoU over the domains of a role at each evaluation, over those domains that all evaluations have.

        Means over different domains do not compare: a finished network may have been scored on further ones.
        """
        names = [set(evaluation.names(role)) for evaluation in self.evaluations]
        common = set[str]().union(*names).intersection(*names)
        means = []
        for evaluation in self.evaluations:
            mean = evaluation.mean_source_miou if role == "source" else evaluation.mean_unseen_miou
            if common and common != set(evaluation.names(role)):
                scores = [evaluation.domains[name].miou for name in evaluation.names(role) if name in common]
                known = [score for score in scores if score is not None]
                mean = sum(known) / len(known) if len(known) == len(scores) else None
            means.append(mean)
        return tuple(means)

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.setting("method"))

    @property
    def seed(self) -> int:
        """Seed of the run; 0 if not recorded."""
        seed = self.setting("training.seed")
        return seed if isinstance(seed, int) else 0


def load_run(folder: Path) -> Run:
    """Read a run folder.

    A half-written last line of `train.jsonl` or `results.jsonl`, as a killed run leaves it, is skipped; where an
    iteration stands twice, as after a resume, the later line wins. A line of named domains alone (`partial`) counts only
    where there is no other.

    Raises:
        DataError: there is no such folder, it is not a run folder, a file in it is broken, or it holds no results yet.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: name the output folder of a run, for example runs/spcnet")
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder} is not a run folder: it has no config.yaml. Name the --output of a training")
    config = _read_config(folder / "config.yaml")
    environment = _read_json(folder / "environment.json", dict)
    lines = [_evaluation(*line) for line in _json_lines(folder / RESULTS_FILE)]
    manner = _own_manner(config, lines)
    same = [e for e in lines if (e.views, e.protocol) == manner]
    counting = [e for e in same if not e.partial] or same
    evaluations = {e.iteration: e for e in counting}
    if not evaluations:
        raise DataError(f"{folder} holds no results yet: wait until it is trained, or run `spcnet evaluate` on it")
    log = {entry.iteration: entry for entry in (_log_line(*line) for line in _json_lines(folder / "train.jsonl"))}
    lines = [e for e in lines if (e.views, e.protocol) != manner or (e.partial and e.iteration not in evaluations)]
    lines += [_evaluation(*line) for line in _json_lines(folder / PROTOCOLS_FILE)]
    final = max(evaluations)
    others = {(e.manner, e.iteration if e.partial and e.iteration != final else None): e for e in lines}
    return Run(
        folder=folder,
        config=config,
        environment=environment,
        log=tuple(log[i] for i in sorted(log)),
        evaluations=tuple(evaluations[i] for i in sorted(evaluations)),
        panels=_read_panels(folder / "panels", evaluations[final].domains),
        others=tuple(others.values()),
    )


def _own_manner(config: Mapping[str, Any], lines: list[Evaluation]) -> tuple[str | None, str | None]:
    """TestTimeAugmentation and protocol of the evaluations that count: as the run was set to be scored; else as it first was."""
    known = {entry.name for entry in fields(EvaluationConfig)}
    settings = config.get("evaluation")
    manner: tuple[str | None, str | None] = (None, None)
    if isinstance(settings, Mapping):
        with contextlib.suppress(UsageError, TypeError, ValueError):  # settings of another version say nothing here
            manner = EvaluationConfig(**{str(k): v for k, v in settings.items() if k in known}).views, None
    ways = [(line.views, line.protocol) for line in lines]
    return manner if manner in ways or not ways else ways[0]


def _read_config(path: Path) -> Mapping[str, Any]:
    config = read_yaml(path, "configuration")
    if not isinstance(config.get("method"), str):
        raise DataError(f"{path} is not the configuration of a run: it names no method. Restore the file")
    return settled(config)


def _read_json(path: Path, kind: type) -> Any:
    """A JSON file that holds an object or a list; empty if the file is not there."""
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"cannot read {path}: {one_line(error)}. Delete the file or restore it") from error
    if not isinstance(value, kind):
        raise DataError(f"{path} holds no JSON {'object' if kind is dict else 'list'}: delete the file or restore it")
    return value


def _json_lines(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each line's object with the words that say where it stands."""
    if not path.is_file():
        return
    try:
        # A killed run can cut a line inside a character; only the last line may be broken, so nothing is hidden.
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read {path}: {one_line(error)}") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for number, line in lines:
        where = f"{path} line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            if (number, line) == lines[-1]:
                return
            raise DataError(f"{where} is not JSON ({one_line(error)}): delete the line or restore the file") from error
        if not isinstance(record, dict):
            raise DataError(f"{where} holds no JSON object: delete the line or restore the file")
        yield record, where


def _log_line(record: Mapping[str, Any], where: str) -> LogLine:
    parts = _need(record, "parts", dict, where) if "parts" in record else {}
    numbers = ("loss", "learning_rate", "seconds", "images_per_second")
    return LogLine(
        iteration=_need(record, "iteration", int, where),
        parts={str(name): _number(value, f"parts.{name}", where) for name, value in parts.items()},
        **{key: _number(record.get(key), key, where) for key in numbers},
    )


def _evaluation(record: Mapping[str, Any], where: str) -> Evaluation:
    classes = tuple(map(str, _need(record, "classes", list, where)))
    colors = _need(record, "colors", list, where)
    if len(colors) != len(classes) or not all(isinstance(c, list) and len(c) == 3 for c in colors):
        raise DataError(f"{where}: colors must hold one [red, green, blue] for each of the {len(classes)} classes")
    domains = {
        str(name): _domain(str(name), value, classes, f"{where}, domain {name}")
        for name, value in _need(record, "domains", dict, where).items()
    }
    return Evaluation(
        iteration=_need(record, "iteration", int, where),
        time=str(record.get("time") or ""),
        classes=classes,
        colors=tuple((int(r), int(g), int(b)) for r, g, b in colors),
        domains=domains,
        **{key: _fraction(record.get(key), key, where) for key in ("mean_source_miou", "mean_unseen_miou")},
        views=str(record.get("views") or "") or None,
        protocol=None if record.get("protocol") == OWN_PROTOCOL else str(record.get("protocol") or "") or None,
        size=_two(record, "size", int, "[height, width]", where),
        partial=record.get("partial") is True,
        ema=_number(record.get("ema", 0.0), "ema", where),
    )


def _domain(name: str, record: Any, classes: tuple[str, ...], where: str) -> DomainResult:
    if not isinstance(record, dict):
        raise DataError(f"{where} holds no JSON object: restore the file")
    role = record.get("role")
    if role not in ("source", "unseen"):
        raise DataError(f"{where}: role is {role!r}; it must be source or unseen")
    iou = _need(record, "iou", dict, where)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    if record.get("confusion") is not None:
        try:
            confusion = np.asarray(record["confusion"], dtype=np.int64)
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"{where}: confusion is not a table of whole numbers") from error
        if confusion.shape != (len(classes), len(classes)):
            k = len(classes)
            raise DataError(f"{where}: confusion has the shape {confusion.shape}; with {k} classes it must be {k}×{k}")
    return DomainResult(
        name=name,
        role=cast(Role, role),
        images=record["images"] if isinstance(record.get("images"), int) else 0,
        iou={c: _fraction(iou.get(c), f"iou of {c}", where) for c in classes},
        **{key: _fraction(record.get(key), key, where) for key in ("miou", "pixel_accuracy", "mean_accuracy")},
        absent=tuple(map(str, record.get("absent") or ())),
        confusion=confusion,
        seconds=_number(record.get("seconds"), "seconds", where),
        figures=_figures(record, where),
        interval=_ends(record, where),
        precision=_by_class(record, "precision", classes, where),
        recall=_by_class(record, "recall", classes, where),
        weighted_iou=_fraction(record.get("frequency_weighted_iou"), "frequency_weighted_iou", where),
        own_set=_need(record, "set", dict, where) if record.get("set") is not None else {},
    )


def _by_class(record: Mapping[str, Any], key: str, classes: tuple[str, ...], where: str) -> Mapping[str, float | None]:
    if record.get(key) is None:
        return {}
    values = _need(record, key, dict, where)
    return {name: _fraction(values.get(name), f"{key} of {name}", where) for name in classes}


def _figures(record: Mapping[str, Any], where: str) -> Mapping[str, Layers]:
    others = _need(record, "figures", dict, where) if record.get("figures") is not None else {}
    figures: dict[str, Layers] = {}
    for name, layers in {**{name: record.get(name) for name in FIGURES}, **others}.items():
        try:
            values = tuple(tuple(float(value) for value in layer) for layer in layers or [])
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: {name} must hold a list of numbers for each layer") from error
        if values:
            figures[name] = values
    return figures


def _two(record: Mapping[str, Any], key: str, kinds: Any, words: str, where: str) -> tuple[Any, Any] | None:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(one, kinds) for one in value):
        raise DataError(f"{where}: {key} is {_shorten(value)}; it must be {words}. Restore the file")
    return value[0], value[1]


def _ends(record: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    ends = _two(record, "miou_interval", object, "[lower, upper]", where)
    low, high = (_fraction(end, "miou_interval", where) for end in ends or (None, None))
    return None if low is None or high is None else (low, high)


def _read_panels(folder: Path, domains: Iterable[str]) -> Mapping[str, tuple[Panel, ...]]:
    """The kept images of each domain that has some; an image of which a file is missing is left out."""
    kept: dict[str, tuple[Panel, ...]] = {}
    for domain in domains:
        place = folder / panel_folder(domain)
        if not (place / "panels.json").is_file():
            continue
        panels = (
            Panel(str(name), *(place / f"{index}_{kind}.png" for kind in ("image", "truth", "prediction")))
            for index, name in enumerate(_read_json(place / "panels.json", list))
        )
        kept[domain] = tuple(p for p in panels if all(file.is_file() for file in (p.image, p.truth, p.prediction)))
    return kept


def panel_folder(domain: str) -> str:
    """Name of the folder of a domain's panels: `spcnet.evaluation.evaluator.safe_name`, said again without torch."""
    return re.sub(r"[^\w.@+-]", "_", domain.replace("/", "-"))


def _need(record: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = record.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {dict: "an object", list: "a list", int: "a whole number"}[kind]
        raise DataError(f"{where}: {key} is {_shorten(value)}; it must be {words}. Restore the file")
    return value


def _number(value: Any, key: str, where: str) -> float:
    """A number; NaN for what is not there, because a diverged run writes null or NaN."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{where}: {key} is {_shorten(value)}; it must be a number. Restore the file")
    return float(value)


def _fraction(value: Any, key: str, where: str) -> float | None:
    number = _number(value, key, where)
    if math.isnan(number):
        return None
    if not 0 <= number <= 1:
        raise DataError(f"{where}: {key} is {value}; it must lie in 0..1")
    return number


def _shorten(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
