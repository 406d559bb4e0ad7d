"""The robustness card: networks evaluated on a set as it is, in every corruption and in every weather style.

Each image is decoded once, goes through one condition after the other, and each corrupted image is shown to all
networks. The scores of a block of images in one condition are written at once, under a key that names all they depend
on; an interrupted card goes on where it was, and one that grows evaluates only what is new.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spcnet import checkpoint
from spcnet.config import DataConfig, DomainSpec, TrainingConfig
from spcnet.data.datasets import Sample, SegmentationSet, open_domain, print_remarks
from spcnet.data.items import unchanged
from spcnet.data.labelled import labelled
from spcnet.data.transforms import evaluation_transform, normalise
from spcnet.engine import records
from spcnet.engine.devices import make_fabric
from spcnet.engine.progress import bar
from spcnet.errors import DataError, UsageError
from spcnet.evaluation.evaluator import evaluating, label_image, safe_name, save_image
from spcnet.evaluation.metrics import classify, confusion, iou, mean_iou, pixel_accuracy
from spcnet.files import write_text
from spcnet.inference.engines import EngineName, EngineNetwork, Precision
from spcnet.labels import LabelSpace
from spcnet.reports.robustness import CLEAN, Card, ModelScores, Score, WorstCase, as_json, to_markdown
from spcnet.reports.robustness_page import write_heat_map, write_page
from spcnet.runs import OpenRun, resized
from spcnet.signals import leave_signals_to_parent
from spcnet.studies.conditions import Condition, check_at_least, image_score, spread
from spcnet.studies.engines import engine_options
from spcnet.types import SegOutput

FORMAT = 1
"""Raised when a corruption changes, so that stored scores of its earlier form are not reused."""
SCORES_FILE = "scores.jsonl"
CARD_FILE = "robustness.json"
PAGE_FILE = "robustness.html"
TABLE_FILE = "robustness.md"
HEAT_FILE = "heat.png"
WORST_FOLDER = "worst"
BLOCK_BYTES = 2**30
"""Decoded images and labels that are held in memory at a time."""


@dataclass(frozen=True)
class Contender:
    """A network that is evaluated, ready to be called."""

    label: str
    """Its name on the card, unique."""
    run: OpenRun
    network: nn.Module
    device: torch.device
    fingerprint: str
    """Of its weights and of how it computes."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that images are brought to; None for each image's own."""
        return self.run.card.size


class Block(NamedTuple):
    """Images that are held in memory together."""

    samples: list[Sample]
    fingerprint: str
    """Of their names, pixels and labels."""


@dataclass(frozen=True)
class CardOptions:
    """What networks are evaluated on, and how.

    Raises:
        UsageError: a number is too low.
    """

    conditions: Sequence[Condition]
    """`clean` first."""
    limit: int = 0
    """Images, spread evenly over the set; 0 for all."""
    worst: int = 6
    """Worst cases that are shown as pictures."""
    batch_size: int = 8
    workers: int = 1
    """Processes that corrupt images beside the one that computes; 0 for none."""
    seed: int = 0
    """Random seed for noise, snow and rain."""
    engine: EngineName = "torch"
    """What runs the networks."""
    precision: Precision = "f32"
    """What the engine computes in."""
    calibration: str | None = None
    """Of int8, see `spcnet.studies.engines`."""

    def __post_init__(self) -> None:
        at_least_0 = {name: (getattr(self, name), 0) for name in ("limit", "worst", "workers")}
        check_at_least(**at_least_0, batch_size=(self.batch_size, 1))


def robustness_card(
    runs: Sequence[OpenRun],
    target: str,
    options: CardOptions,
    output: Path,
    *,
    accelerator: str = "auto",
    console: Console,
) -> Card:
    """Evaluate networks on a set in every condition and write the card.

    Into `output` go `robustness.json` (every figure), `robustness.html` (a page in one file), `robustness.md` (the
    tables), `heat.png`, `worst/` (pictures) and `scores.jsonl`, from which a later call goes on.

    Args:
        runs: the networks, of one label space; the data are those of the first that has settings.
        target: the set, `SET[/SUBSET][@SPLIT]`.
        options: what is evaluated.
        output: folder of the card.
        accelerator: where to compute: auto, cpu, cuda or mps.
        console: where progress is shown.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    contenders = _contenders(runs, accelerator, options)
    space = _common_space(contenders)
    run = next((run for run in runs if run.is_run), runs[0])
    data = resized(run.data, contenders[0].size or DataConfig().size)
    images = open_domain(DomainSpec.parse(target), data=data, space=space, training=False)
    print_remarks([images], console)
    places = _places(target, images, options, space)
    scoring = Scoring(contenders, space, output / SCORES_FILE, options)
    with bar(console, len(options.conditions) * len(places), 0, "robustness") as show, ExitStack() as stack:
        for contender in contenders:
            stack.enter_context(evaluating(contender.network))
        done = 0
        for block in blocks(images, places, limit=BLOCK_BYTES):
            for condition in options.conditions:
                latest = scoring.add(block, condition)
                done += len(block.samples)
                show(done, {f"{condition.name} {condition.severity}, {contenders[0].label}": latest})
        labels = [contender.label for contender in contenders]
        worst = worst_cases(scoring.image_scores, labels, options.conditions, options.worst)
        cases = tuple(scoring.save_pictures(images, places, case, output / WORST_FOLDER) for case in worst)
    card = Card(
        domain=target,
        images=len(places),
        space=space.name,
        classes=space.classes,
        colors=tuple(tuple(int(v) for v in color) for color in space.colors),  # type: ignore[misc]
        families={condition.name: condition.family for condition in options.conditions},
        severities=tuple(sorted({c.severity for c in options.conditions if c.name != CLEAN})),
        models=tuple(scoring.scores(contender) for contender in contenders),
        worst=cases,
        seed=options.seed,
        environment=records.environment(),
    )
    write_text(output / CARD_FILE, json.dumps(as_json(card), ensure_ascii=False, indent=1) + "\n")
    write_text(output / TABLE_FILE, to_markdown(card))
    write_heat_map(card, output / HEAT_FILE)
    write_page(card, output / PAGE_FILE, pictures=output / WORST_FOLDER)
    return card


def blocks(images: SegmentationSet, places: Sequence[int], *, limit: int) -> Iterator[Block]:
    """The images of a set, as many at a time as fit into a number of bytes, at least one.

    Raises:
        DataError: an image or label cannot be read.
    """
    samples: list[Sample] = []
    size, digest = 0, hashlib.sha256()
    for place in places:
        sample = images.read(place)
        sample = sample._replace(image=np.array(sample.image), label=np.array(sample.label))
        size_of_sample = sample.image.nbytes + sample.label.nbytes
        if samples and size + size_of_sample > limit:
            yield Block(samples, digest.hexdigest())
            samples, size, digest = [], 0, hashlib.sha256()
        samples.append(sample)
        size += size_of_sample
        for part in (sample.name.encode(), sample.image.tobytes(), sample.label.tobytes()):
            digest.update(part)
    if samples:
        yield Block(samples, digest.hexdigest())


def _places(target: str, images: SegmentationSet, options: CardOptions, space: LabelSpace) -> list[int]:
    """Which images of the set are evaluated."""
    if not labelled(target, images, workers=options.workers):
        raise DataError(f"no image of {target} has a labelled pixel in the space {space.name}")
    places = spread(len(images), options.limit)
    if not places:
        raise UsageError(f"{target} has no image: choose another set or split")
    return places


def _contenders(runs: Sequence[OpenRun], accelerator: str, options: CardOptions) -> list[Contender]:
    if not runs:
        raise UsageError("there is no model to evaluate: name at least one run folder or checkpoint file")
    names = [run.path.resolve().name if run.path.is_dir() else run.path.stem for run in runs]
    labels = [name if names.count(name) == 1 else str(run.path) for run, name in zip(runs, names, strict=True)]
    if len(set(labels)) < len(labels):
        raise UsageError("a model is named twice: name each once")
    contenders = []
    for run, label in zip(runs, labels, strict=True):
        fabric = make_fabric(
            replace(TrainingConfig(), precision=run.training.precision, accelerator=accelerator), trains=False
        )
        weights = checkpoint.fingerprint(run.network.state_dict())
        key: tuple[object, ...] = (
            weights,
            run.training.precision,
            fabric.device.type,
            run.card.size,
            run.card.mean,
            run.card.std,
        )
        chosen = engine_options(run, options.engine, options.precision, options.calibration)
        if (chosen.name, chosen.precision) == ("torch", "f32"):  # which is the run's own precision
            network: nn.Module = fabric.setup_module(run.network.to(memory_format=torch.channels_last))
        else:
            network = EngineNetwork(run.network.to(fabric.device), chosen, fabric.device).eval()
            key = (*key, options.engine, chosen.precision, chosen.calibration and chosen.calibration.name)
        fingerprint = hashlib.sha256(repr(key).encode()).hexdigest()
        contenders.append(Contender(label, run, network, fabric.device, fingerprint))
    return contenders


def _common_space(contenders: Sequence[Contender]) -> LabelSpace:
    first = contenders[0]
    card = first.run.card
    for other in contenders[1:]:
        if (other.run.card.space, other.run.card.classes) != (card.space, card.classes):
            what = f"{first.label} has the label space {card.space} and {other.label} {other.run.card.space}"
            raise UsageError(f"{what}: networks on one card must have the same, make a card of each")
    return first.run.space


class _Corrupted(Dataset[Any]):
    """The images of a block in one condition: at each size that a network wants, by name, and the label."""

    def __init__(self, block: Block, condition: Condition, sizes: Iterable[tuple[int, int] | None], seed: int) -> None:
        self.block, self.condition, self.seed = block, condition, seed
        self.transforms = {size: evaluation_transform(resized(DataConfig(), size)) for size in sizes}

    def __len__(self) -> int:
        return len(self.block.samples)

    def __getitem__(self, index: int) -> tuple[dict[tuple[int, int] | None, Tensor], Tensor]:
        image, label = self.condition.apply(self.block.samples[index], self.seed)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        return (
            {size: transform(pixels).contiguous() for size, transform in self.transforms.items()},
            torch.from_numpy(label),
        )


class Scoring:
    """Scores of networks, in memory and in a file.

    Args:
        contenders: the networks, in evaluation mode.
        space: their classes.
        path: the file; what it holds is not evaluated again.
        options: conditions, batch size, workers and seed.
    """

    def __init__(self, contenders: Sequence[Contender], space: LabelSpace, path: Path, options: CardOptions) -> None:
        self.contenders, self.space, self.path, self.options = contenders, space, path, options
        self.known: dict[str, Any] = {line["key"]: line for line in records.read_lines(path)}
        self.counts: dict[tuple[str, Condition], Int[Tensor, "K K"]] = {}
        """Pixels by truth and prediction, of each network in each condition."""
        self.image_scores: dict[tuple[str, Condition], dict[str, float]] = {}
        """Mean IoU of each image by its name, over the classes that its label has; NaN where it has none."""

    def add(self, block: Block, condition: Condition) -> float:
        """Evaluate the networks on a block of images in one condition, unless their scores are known.

        Returns:
            The first network's mIoU on the block.

        Raises:
            DataError: a label is not of the space, or the file cannot be written.
        """
        keys = {contender.label: self._key(contender, block, condition) for contender in self.contenders}
        missing = [contender for contender in self.contenders if keys[contender.label] not in self.known]
        if missing:
            if not self.path.exists():
                write_text(self.path, "")
            for contender, counts, scores in self._evaluate(block, condition, missing):
                line: dict[str, Any] = {
                    "key": keys[contender.label],
                    "model": contender.label,
                    "condition": condition.name,
                    "severity": condition.severity,
                    "counts": counts.tolist(),
                    "scores": [None if np.isnan(score) else round(score, 5) for score in scores],
                }
                records.append_line(self.path, line)
                self.known[line["key"]] = line
        for contender in self.contenders:
            line, place = self.known[keys[contender.label]], (contender.label, condition)
            counts = torch.tensor(line["counts"], dtype=torch.int64)
            self.counts[place] = self.counts[place] + counts if place in self.counts else counts
            self.image_scores.setdefault(place, {}).update(
                (sample.name, float("nan") if score is None else score)
                for sample, score in zip(block.samples, line["scores"], strict=True)
            )
        return mean_iou(torch.tensor(self.known[keys[self.contenders[0].label]]["counts"]))

    def _key(self, contender: Contender, block: Block, condition: Condition) -> str:
        about = (FORMAT, contender.fingerprint, block.fingerprint, self.space.name, *condition, self.options.seed)
        return hashlib.sha256(repr(about).encode()).hexdigest()[:32]

    def _evaluate(
        self, block: Block, condition: Condition, contenders: Sequence[Contender]
    ) -> Iterator[tuple[Contender, Int[Tensor, "K K"], list[float]]]:
        """Confusion matrix of each network on a block in one condition, and the score of each image."""
        num = len(self.space)
        counts = {c.label: torch.zeros(num, num, dtype=torch.int64) for c in contenders}
        scores: dict[str, list[float]] = {c.label: [] for c in contenders}
        sizes = {contender.size for contender in contenders}
        loader = DataLoader(
            _Corrupted(block, condition, sizes, self.options.seed),
            batch_size=self.options.batch_size,
            num_workers=self.options.workers,
            worker_init_fn=leave_signals_to_parent,
            collate_fn=unchanged,
            generator=torch.Generator(),
        )
        with torch.inference_mode():
            for items in loader:
                for contender in contenders:
                    for prediction, (_, label) in zip(predictions(contender, items), items, strict=True):
                        matrix = confusion(prediction.cpu(), label.long(), num_classes=num)
                        counts[contender.label] += matrix
                        scores[contender.label].append(image_score(matrix))
        for contender in contenders:
            yield contender, counts[contender.label].clone(), scores[contender.label]

    def scores(self, contender: Contender) -> ModelScores:
        """All scores of a network."""
        scores: dict[str, dict[int, Score]] = {}
        for condition in self.options.conditions:
            counts = self.counts[contender.label, condition]
            scores.setdefault(condition.name, {})[condition.severity] = Score(
                miou=mean_iou(counts), iou=tuple(iou(counts).tolist()), pixel_accuracy=pixel_accuracy(counts)
            )
        run = contender.run
        return ModelScores(
            label=contender.label,
            method=run.card.method,
            backbone=str(run.card.model["backbone"]),
            sources=run.card.domains,
            styles=tuple(run.config.data.augmentation.styles) if run.is_run else (),
            size=contender.size,
            precision=run.training.precision,
            scores=scores,
        )

    def save_pictures(self, images: SegmentationSet, places: Sequence[int], case: WorstCase, folder: Path) -> WorstCase:
        """Write the pictures of a case: the image as the networks got it, its truth, and each prediction.

        Raises:
            DataError: the image cannot be read again, or a picture cannot be written.
        """
        condition = Condition(case.condition, case.severity)
        names = list(next(iter(self.image_scores.values())))
        sample = images.read(places[names.index(case.image)])
        image, label = condition.apply(sample, self.options.seed)
        pictures = {"image": Image.fromarray(image), "truth": label_image(label, self.space)}
        sizes = {contender.size for contender in self.contenders}
        items = [_Corrupted(Block([sample], ""), condition, sizes, self.options.seed)[0]]
        for number, contender in enumerate(self.contenders):
            with torch.inference_mode():
                (prediction,) = predictions(contender, items)
            classes = prediction.cpu().numpy().astype(np.uint8)
            pictures[f"model{number}"] = label_image(classes, self.space)
        stem = f"{safe_name(case.condition)}_{case.severity}"
        for name, picture in pictures.items():
            save_image(picture, folder / f"{stem}_{name}.png")
        return replace(case, pictures=tuple(f"{stem}_{name}.png" for name in pictures))


def predictions(contender: Contender, items: Sequence[tuple[Any, Tensor]]) -> Iterator[Int[Tensor, "H W"]]:
    """Class map of each item of `_Corrupted` at its label's size; images of one size go through together."""
    images = [image[contender.size] for image, _ in items]
    alike = len({image.shape for image in images}) == 1
    for batch in [list(range(len(images)))] if alike else [[i] for i in range(len(images))]:
        pixels = normalise(torch.stack([images[i] for i in batch]).to(contender.device))
        output: SegOutput = contender.network(pixels.contiguous(memory_format=torch.channels_last))
        for i, logits in zip(batch, output.logits, strict=True):
            height, width = items[i][1].shape
            yield classify(logits, size=(height, width))


def worst_cases(
    scores: Mapping[tuple[str, Condition], Mapping[str, float]],
    labels: Sequence[str],
    conditions: Sequence[Condition],
    number: int,
) -> list[WorstCase]:
    """Where the networks lose most against the clean image: at most one case of each family, no image twice.

    Args:
        scores: mean IoU of each image, by network and condition.
        labels: the networks; what counts is the mean over them.
        conditions: `clean` first.
        number: most cases.

    Returns:
        The cases, the greatest loss first, without pictures.
    """
    names = list(scores[labels[0], conditions[0]])

    def table(condition: Condition) -> NDArray[np.float64]:
        return np.array([[scores[label, condition][name] for name in names] for label in labels])

    clean = table(conditions[0])
    losses: list[tuple[float, Condition, int]] = []
    for condition in conditions[1:]:
        loss = np.nan_to_num((clean - table(condition)).mean(axis=0), nan=-1.0)
        losses += [(float(loss[i]), condition, int(i)) for i in np.argsort(-loss, kind="stable")[: 4 * number]]
    losses.sort(key=lambda entry: -entry[0])
    cases: list[WorstCase] = []
    families: set[str] = set()
    images: set[int] = set()
    for mean_loss, condition, i in losses:
        if len(cases) < number and mean_loss > 0 and condition.family not in families and i not in images:
            families.add(condition.family)
            images.add(i)
            before, after = (
                tuple(scores[label, one][names[i]] for label in labels) for one in (conditions[0], condition)
            )
            cases.append(WorstCase(names[i], condition.name, condition.severity, before, after))
    return cases
