"""The robustness card: networks scored on a set as it is, in every corruption and in every weather style.

Each image is decoded once, goes through one condition after the other, and each corrupted image is shown to all
networks. What a network made of a block of images in one condition is written down at once, under a key that names all
it depends on; a card that was broken off goes on where it was, and one that grows scores only what is new.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from spcnet.config import DataConfig, DomainSpec, RunConfig, TrainingConfig, plain_lists
from spcnet.convert import load_any
from spcnet.data.catalog import with_sets
from spcnet.data.centroids import unchanged
from spcnet.data.datasets import Sample, SegmentationSet, open_domain, print_remarks
from spcnet.data.loading import labelled
from spcnet.data.transforms import evaluation_transform, normalise
from spcnet.engine import records
from spcnet.engine.devices import make_fabric
from spcnet.engine.progress import bar
from spcnet.errors import DataError, UsageError, lookup
from spcnet.evaluation.evaluator import evaluating, label_image, safe_name, save_image
from spcnet.evaluation.metrics import classify, confusion, iou, mean_iou, pixel_accuracy
from spcnet.files import write_text
from spcnet.labels import LabelSpace, label_space
from spcnet.reports import robustness as card_report
from spcnet.reports.robustness import CLEAN, STYLE, Card, ModelScores, Score, WorstCase
from spcnet.runs import OpenRun
from spcnet.signals import leave_signals_to_parent
from spcnet.synthesis.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from spcnet.synthesis.weather import WEATHER, apply_weather_pair
from spcnet.types import SegOutput

FORMAT = 1
"""Raised when a corruption changes, so that scores of the earlier form are not taken for those of the new one."""
SCORES_FILE = "scores.jsonl"
CARD_FILE = "robustness.json"
PAGE_FILE = "robustness.html"
TABLE_FILE = "robustness.md"
HEAT_FILE = "heat.png"
WORST_FOLDER = "worst"
BLOCK_BYTES = 2**30
"""Decoded images and labels that are held in memory at a time."""


class Condition(NamedTuple):
    """What an image goes through before a network sees it."""

    name: str
    """`clean`, a corruption, or `+` and a weather style."""
    severity: int
    """1 to 5; 0 for `clean`. A style's strength is a fifth of it."""

    @property
    def family(self) -> str:
        """The corruption's family, or `+` and the style's."""
        if self.name == CLEAN:
            return CLEAN
        if self.name.startswith(STYLE):
            return STYLE + WEATHER[self.name.removeprefix(STYLE)].family
        return CORRUPTIONS[self.name].family

    def apply(self, sample: Sample, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and label of a sample in this condition; the label moves where a style moves pixels."""
        if self.name == CLEAN:
            return sample.image, sample.label
        # From the name and not the number: in a longer list an image looks the same. The same for each severity, so
        # that one thing grows.
        own = zlib.crc32(f"{self.name}/{sample.name}".encode(), seed)
        if self.name.startswith(STYLE):
            style = self.name.removeprefix(STYLE)
            strength = self.severity / max(SEVERITIES)
            return apply_weather_pair(
                sample.image, sample.label, style, seed=own, strength=strength, depth=sample.depth
            )
        return corrupt(sample.image, self.name, severity=self.severity, seed=own), sample.label


@dataclass(frozen=True)
class Contender:
    """A network that is scored, ready to be called."""

    label: str
    """How it is called on the card; no two share it."""
    network: nn.Module
    card: checkpoint.ModelCard
    device: torch.device
    fingerprint: str
    """Of its weights and of how it computes."""
    config: RunConfig | None
    """Of its run; None for a file alone."""


class Block(NamedTuple):
    """Images that are held in memory together."""

    samples: list[Sample]
    fingerprint: str
    """Of their names, pixels and labels."""


@plain_lists
def conditions(
    corruptions: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
) -> list[Condition]:
    """Every condition of a card, `clean` first.

    Args:
        corruptions: names in `CORRUPTIONS`; all where not given.
        styles: names in `WEATHER`; all where not given.
        severities: each of 1..5.

    Raises:
        UsageError: a name is unknown, a severity out of range, or there is nothing beside `clean`.
    """
    names = list(CORRUPTIONS if corruptions is None else corruptions)
    for name in names:
        lookup(name, CORRUPTIONS, "corruption")
    for style in styles or ():
        lookup(style, WEATHER, "weather style")
    names += [STYLE + style for style in (list(WEATHER) if styles is None else styles)]
    for severity in severities:
        if severity not in SEVERITIES:
            raise UsageError(f"the severities name {severity}: each must be 1 (a little) to 5 (badly)")
    if not names or not severities:
        raise UsageError(
            f"a card of {len(names)} corruptions and styles at {len(severities)} severities: name at least one of each"
        )
    pairs = [Condition(name, severity) for name in dict.fromkeys(names) for severity in sorted(set(severities))]
    return [Condition(CLEAN, 0), *pairs]


@plain_lists
def robustness(
    models: Sequence[Path],
    *,
    domain: str,
    output: Path,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    corruptions: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    limit: int = 0,
    worst: int = 6,
    batch_size: int = 8,
    workers: int = 1,
    seed: int = 0,
    accelerator: str = "auto",
    console: Console | None = None,
) -> Card:
    """Score networks on a set in every condition and write the card.

    Into `output` go `robustness.json` (every figure), `robustness.html` (one page that needs nothing else),
    `robustness.md` (the tables), `heat.png`, `worst/` (pictures) and `scores.jsonl`, from which a later call goes on.

    Args:
        models: folders of runs, or checkpoint files; of one label space.
        domain: the set, `SET[/SUBSET][@SPLIT]`.
        output: folder of the card.
        roots: folders of data sets, beside the first run's own.
        sets: file that describes sets of one's own, beside the first run's own; see `spcnet.config.read_sets`.
        corruptions: see `conditions`.
        styles: see `conditions`.
        severities: see `conditions`.
        limit: score so many images, spread evenly over the set; 0 takes all.
        worst: how many of the worst cases are shown as pictures.
        batch_size: images that a network sees together.
        workers: processes that corrupt images beside the one that computes; 0 for none.
        seed: of noise, flakes and drops.
        accelerator: where to compute: auto, cpu, cuda or mps.
        console: where progress is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    for name, value, least in (
        ("limit", limit, 0),
        ("worst", worst, 0),
        ("workers", workers, 0),
        ("batch_size", batch_size, 1),
    ):
        if value < least:
            raise UsageError(f"{name} is {value}: it must be {least} or more")
    wanted = conditions(corruptions, styles, severities)
    contenders = _contenders(models, accelerator)
    space, data = _setting(contenders, roots or {}, sets)
    images = open_domain(DomainSpec.parse(domain), data=data, space=space, training=False)
    print_remarks([images], console)
    if not labelled(domain, images, workers=workers):
        raise DataError(
            f"no image of {domain} has a labelled pixel in the space {space.name}: there is nothing to score"
        )
    places = spread(len(images), limit)
    if not places:
        raise UsageError(f"{domain} has no image to score: choose another set or split")
    scoring = Scoring(contenders, space, output / SCORES_FILE, batch_size=batch_size, workers=workers, seed=seed)
    with bar(console, len(wanted) * len(places), 0, "robustness") as show, ExitStack() as stack:
        for contender in contenders:
            stack.enter_context(evaluating(contender.network))
        done = 0
        for block in blocks(images, places, limit=BLOCK_BYTES):
            for condition in wanted:
                latest = scoring.add(block, condition)
                done += len(block.samples)
                show(done, {f"{condition.name} {condition.severity}, {contenders[0].label}": latest})
        picked = worst_cases(scoring.image_scores, [c.label for c in contenders], wanted, worst)
        cases = [scoring.show_case(images, places, case, output / WORST_FOLDER) for case in picked]
    card = Card(
        domain=domain,
        images=len(places),
        space=space.name,
        classes=space.classes,
        colors=tuple(tuple(int(v) for v in color) for color in space.colors),  # type: ignore[misc]
        families={condition.name: condition.family for condition in wanted},
        severities=tuple(sorted({c.severity for c in wanted if c.name != CLEAN})),
        models=tuple(scoring.scores(contender, wanted) for contender in contenders),
        worst=tuple(cases),
        seed=seed,
        environment={name: value for name, value in records.surroundings().items() if name != "command"},
    )
    write_text(output / CARD_FILE, json.dumps(card_report.as_json(card), ensure_ascii=False, indent=1) + "\n")
    write_text(output / TABLE_FILE, card_report.to_markdown(card))
    card_report.write_heat_map(card, output / HEAT_FILE)
    card_report.write_page(card, output / PAGE_FILE, pictures=output / WORST_FOLDER)
    return card


def spread(length: int, limit: int) -> list[int]:
    """So many numbers of 0..length-1, as evenly spread as can be; all where the limit is 0 or no less."""
    if not limit or limit >= length:
        return list(range(length))
    return [(2 * place + 1) * length // (2 * limit) for place in range(limit)]


def blocks(images: SegmentationSet, places: Sequence[int], *, limit: int) -> Iterator[Block]:
    """The images of a set, as many at a time as fit into so many bytes, at least one.

    Raises:
        DataError: an image or label cannot be read.
    """
    samples: list[Sample] = []
    size, digest = 0, hashlib.sha256()
    for place in places:
        sample = images.read(place)
        sample = sample._replace(image=np.array(sample.image), label=np.array(sample.label))
        own = sample.image.nbytes + sample.label.nbytes
        if samples and size + own > limit:
            yield Block(samples, digest.hexdigest())
            samples, size, digest = [], 0, hashlib.sha256()
        samples.append(sample)
        size += own
        for part in (sample.name.encode(), sample.image.tobytes(), sample.label.tobytes()):
            digest.update(part)
    if samples:
        yield Block(samples, digest.hexdigest())


def _contenders(models: Sequence[Path], accelerator: str) -> list[Contender]:
    if not models:
        raise UsageError("there is no model to score: name at least one run folder or checkpoint file")
    labels = [path.resolve().name if path.is_dir() else path.stem for path in models]
    found = []
    for path, label in zip(models, labels, strict=True):
        network, card = load_any(path)
        config = OpenRun(path).config if (path / records.CONFIG_FILE).is_file() else None
        training = TrainingConfig(
            precision=config.training.precision if config else TrainingConfig().precision, accelerator=accelerator
        )
        fabric = make_fabric(training)
        weights = checkpoint.fingerprint(network.state_dict())
        about = (weights, training.precision, fabric.device.type, card.size, card.mean, card.std)
        found.append(
            Contender(
                label=label if labels.count(label) == 1 else str(path),
                network=fabric.setup_module(network.to(memory_format=torch.channels_last)),
                card=card,
                device=fabric.device,
                fingerprint=hashlib.sha256(repr(about).encode()).hexdigest(),
                config=config,
            )
        )
    if len({contender.label for contender in found}) < len(found):
        raise UsageError("a model is named twice: name each once")
    return found


def _setting(
    contenders: Sequence[Contender], roots: Mapping[str, str], sets: Path | None
) -> tuple[LabelSpace, DataConfig]:
    """The label space of all of them, and where data sets lie."""
    first = contenders[0]
    for other in contenders[1:]:
        if other.card.space != first.card.space or other.card.classes != first.card.classes:
            raise UsageError(
                f"{first.label} has the label space {first.card.space} and {other.label} {other.card.space}: networks on "
                "one card must have the same, make a card of each"
            )
    own = next((contender.config.data for contender in contenders if contender.config), DataConfig())
    data = replace(
        DataConfig(),
        space=first.card.space,
        roots={**own.roots, **roots},
        root=own.root,
        sets=own.sets,
        exclude=own.exclude,
        size=first.card.size or DataConfig().size,
        test_scenes=own.test_scenes,
    )
    return label_space(first.card.space), with_sets(data, sets)


class _Seen(Dataset[Any]):
    """The images of a block in one condition: at each size that a network wants, by name, and the label."""

    def __init__(self, block: Block, condition: Condition, sizes: Iterable[tuple[int, int] | None], seed: int) -> None:
        self.block, self.condition, self.seed = block, condition, seed
        # Without a size an image stays as it is; a configuration then wants a crop, which scoring has none of.
        self.transforms: dict[tuple[int, int] | None, Callable[[Tensor], Tensor]] = {
            size: evaluation_transform(replace(DataConfig(), size=size, crop=(33, 33))) for size in sizes
        }

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
    """Scores of networks, as they come in and as they are kept in a file.

    Args:
        contenders: the networks, in evaluation mode.
        space: their classes.
        path: the file; what it holds already is not scored again.
        batch_size: images that a network sees together.
        workers: processes that corrupt images.
        seed: of the conditions.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        space: LabelSpace,
        path: Path,
        *,
        batch_size: int,
        workers: int,
        seed: int,
    ) -> None:
        self.contenders, self.space, self.path = contenders, space, path
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.known: dict[str, Any] = {line["key"]: line for line in records.read_lines(path)}
        self.counts: dict[tuple[str, Condition], Int[Tensor, "K K"]] = {}
        """Pixels by truth and prediction, of each network in each condition."""
        self.image_scores: dict[tuple[str, Condition], dict[str, float]] = {}
        """Mean IoU of each image by its name, over the classes that its label has; NaN where it has none."""

    def add(self, block: Block, condition: Condition) -> float:
        """Score a block of images in one condition, by those networks that have not been.

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
            for contender, counts, scores in self._look(block, condition, missing):
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
        about = (FORMAT, contender.fingerprint, block.fingerprint, self.space.name, *condition, self.seed)
        return hashlib.sha256(repr(about).encode()).hexdigest()[:32]

    def _look(
        self, block: Block, condition: Condition, contenders: Sequence[Contender]
    ) -> Iterator[tuple[Contender, Int[Tensor, "K K"], list[float]]]:
        """Show a block in one condition to networks; what each makes of it, and of each image."""
        num = len(self.space)
        counts = {c.label: torch.zeros(num, num, dtype=torch.int64) for c in contenders}
        scores: dict[str, list[float]] = {c.label: [] for c in contenders}
        sizes = {contender.card.size for contender in contenders}
        loader = DataLoader(
            _Seen(block, condition, sizes, self.seed),
            batch_size=self.batch_size,
            num_workers=self.workers,
            worker_init_fn=leave_signals_to_parent,
            collate_fn=unchanged,
            generator=torch.Generator(),
        )
        with torch.inference_mode():
            for items in loader:
                for contender in contenders:
                    shown = [image[contender.card.size] for image, _ in items]
                    for prediction, (_, label) in zip(predictions(contender, shown, items), items, strict=True):
                        own = confusion(prediction.cpu(), label.long(), num_classes=num)
                        counts[contender.label] += own
                        scores[contender.label].append(image_score(own))
        for contender in contenders:
            yield contender, counts[contender.label].clone(), scores[contender.label]

    def scores(self, contender: Contender, wanted: Sequence[Condition]) -> ModelScores:
        """All scores of a network."""
        found: dict[str, dict[int, Score]] = {}
        for condition in wanted:
            counts = self.counts[contender.label, condition]
            found.setdefault(condition.name, {})[condition.severity] = Score(
                miou=mean_iou(counts), iou=tuple(iou(counts).tolist()), pixel_accuracy=pixel_accuracy(counts)
            )
        config = contender.config
        return ModelScores(
            label=contender.label,
            method=contender.card.method,
            backbone=str(contender.card.model["backbone"]),
            sources=contender.card.domains,
            styles=tuple(config.data.augmentation.styles) if config else (),
            size=contender.card.size,
            precision=config.training.precision if config else TrainingConfig().precision,
            scores=found,
        )

    def show_case(self, images: SegmentationSet, places: Sequence[int], case: WorstCase, folder: Path) -> WorstCase:
        """Write the pictures of a case: the image as the networks got it, its truth, and what each sees.

        Raises:
            DataError: the image cannot be read again, or a picture not be written.
        """
        condition = Condition(case.condition, case.severity)
        names = list(next(iter(self.image_scores.values())))
        sample = images.read(places[names.index(case.image)])
        image, label = condition.apply(sample, self.seed)
        stem = f"{safe_name(case.condition)}_{case.severity}"
        save_image(Image.fromarray(image), folder / f"{stem}_image.png")
        save_image(label_image(label, self.space), folder / f"{stem}_truth.png")
        block = Block([sample], "")
        for number, contender in enumerate(self.contenders):
            items = [_Seen(block, condition, {contender.card.size}, self.seed)[0]]
            with torch.inference_mode():
                shown = [items[0][0][contender.card.size]]
                (prediction,) = predictions(contender, shown, items)
            save_image(
                label_image(prediction.cpu().numpy().astype(np.uint8), self.space), folder / f"{stem}_model{number}.png"
            )
        return replace(
            case,
            pictures=(
                f"{stem}_image.png",
                f"{stem}_truth.png",
                *(f"{stem}_model{number}.png" for number in range(len(self.contenders))),
            ),
        )


def predictions(
    contender: Contender, images: Sequence[Tensor], items: Sequence[tuple[Any, Tensor]]
) -> Iterator[Int[Tensor, "H W"]]:
    """Class of each pixel of some images, each at its label's size; images of one size are looked at together."""
    alike = len({image.shape for image in images}) == 1
    for batch in [list(range(len(images)))] if alike else [[i] for i in range(len(images))]:
        pixels = normalise(torch.stack([images[i] for i in batch]).to(contender.device))
        output: SegOutput = contender.network(pixels.contiguous(memory_format=torch.channels_last))
        for i, logits in zip(batch, output.logits, strict=True):
            height, width = items[i][1].shape
            yield classify(logits, size=(height, width))


def image_score(counts: Int[Tensor, "K K"]) -> float:
    """Mean IoU of one image over the classes that its label has; NaN where it has none.

    Classes that were only predicted are left out: a single wrong pixel would cost an image as much as a lost class.
    """
    there = counts.sum(dim=1) > 0
    return float(iou(counts)[there].mean()) if bool(there.any()) else float("nan")


def worst_cases(
    scores: Mapping[tuple[str, Condition], Mapping[str, float]],
    labels: Sequence[str],
    wanted: Sequence[Condition],
    number: int,
) -> list[WorstCase]:
    """Where the networks lose most against the clean image: at most one case of each family, no image twice.

    Args:
        scores: mean IoU of each image, by network and condition.
        labels: the networks; what counts is the mean over them.
        wanted: the conditions, `clean` among them.
        number: how many at the most.

    Returns:
        The cases, the greatest loss first, without pictures.
    """
    names = list(scores[labels[0], wanted[0]])
    clean = np.array([[scores[label, wanted[0]][name] for name in names] for label in labels])
    found: list[tuple[float, Condition, int]] = []
    for condition in wanted:
        if condition.name != CLEAN:
            own = np.array([[scores[label, condition][name] for name in names] for label in labels])
            loss = np.nan_to_num((clean - own).mean(axis=0), nan=-1.0)
            found += [(float(loss[i]), condition, int(i)) for i in np.argsort(-loss, kind="stable")[: 4 * number]]
    found.sort(key=lambda entry: -entry[0])
    cases: list[WorstCase] = []
    families: set[str] = set()
    images: set[int] = set()
    for loss, condition, i in found:
        if len(cases) < number and loss > 0 and condition.family not in families and i not in images:
            families.add(condition.family)
            images.add(i)
            cases.append(
                WorstCase(
                    image=names[i],
                    condition=condition.name,
                    severity=condition.severity,
                    clean=tuple(scores[label, wanted[0]][names[i]] for label in labels),
                    corrupted=tuple(scores[label, condition][names[i]] for label in labels),
                )
            )
    return cases
