"""What `spcnet familiarise` and `spcnet unfamiliarity` do: learn what is usual, and say what the score is worth.

Two questions are asked of the score, and of plain scores beside it. Does it tell images of unseen domains and in unseen
conditions from images of the sources that were not trained on? And does it say how much worse the network fares: image
by image, condition by condition, and in the mIoU of what is left when the strangest images are refused?
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from spcnet.config import DataConfig, DomainSpec, plain_lists
from spcnet.data.datasets import SegmentationSet, open_domain, print_remarks
from spcnet.data.transforms import evaluation_transform, normalise
from spcnet.engine import records
from spcnet.engine.progress import bar
from spcnet.errors import UsageError
from spcnet.evaluation.evaluator import evaluating
from spcnet.evaluation.metrics import classify, confusion, outcome
from spcnet.files import write_text
from spcnet.inference.ood import OOD_FILE, OODDetector, Reading, Signals, ood_file, signals
from spcnet.inference.predictor import find_device
from spcnet.labels import label_space
from spcnet.methods import restore
from spcnet.models.network import Segmentor
from spcnet.reports.robustness import CLEAN, STYLE
from spcnet.runs import DataOptions, OpenRun, open_domains, source_tests
from spcnet.studies.robustness import Condition, conditions, image_score, spread
from spcnet.types import SegOutput

RESULT_FILE = "unfamiliarity.json"
IMAGES_FILE = "unfamiliarity.jsonl"
"""Every image with its scores, a line each."""
OWN = "unfamiliarity"
"""Name of the score that all others are compared with."""
REFUSED = (0.1, 0.3, 0.5)
"""Shares of the images that are refused."""
DRAWS = 100
"""How often as many images are refused by chance."""


class Look(NamedTuple):
    """One image in one condition, and what the network made of it."""

    domain: str
    condition: Condition
    name: str
    miou: float
    """Mean IoU over the classes of its label; NaN where it has none."""
    outcome: Int[Tensor, "3 K"]
    """See `spcnet.evaluation.metrics.outcome`."""
    reading: Reading
    scores: dict[str, float]
    """Every score by its name; more is stranger."""


@plain_lists
def familiarise(
    run: Path,
    *,
    images: int = 100,
    domains: Sequence[str] | None = None,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    batch_size: int = 8,
    accelerator: str = "auto",
    console: Console | None = None,
) -> OODDetector:
    """Show a network images of its sources, and write down beside its checkpoint what is usual.

    Args:
        run: folder of a run.
        images: so many images of each domain, spread evenly over it; 0 takes all.
        domains: what to show, `SET[/SUBSET][@SPLIT]`; the sources as they were trained on by default.
        roots: folders of data sets, beside the run's own.
        sets: file that describes sets of one's own, beside the run's own; see `spcnet.config.read_sets`.
        batch_size: images that the network sees together.
        accelerator: where to compute: auto, cpu, cuda or mps.
        console: where progress is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    if images < 0 or batch_size < 1:
        raise UsageError(f"images is {images} and batch_size {batch_size}: they must be 0 or more, and 1 or more")
    data, network = _opened(run, roots, sets, accelerator)
    names = list(dict.fromkeys(domains or data.sources))
    if not names:
        raise UsageError("there is no domain to show: name one of the sources")
    space = label_space(data.space)
    shown_sets = [open_domain(DomainSpec.parse(name), data=data, space=space, training=True) for name in names]
    print_remarks(shown_sets, console)
    places = [spread(len(plain), images) for plain in shown_sets]
    clean = Condition(CLEAN, 0)
    with bar(console, sum(map(len, places)), 0, "familiarise") as show, evaluating(network), torch.inference_mode():

        def outputs() -> Iterator[tuple[SegOutput, Tensor]]:
            done = 0
            for number, (plain, own) in enumerate(zip(shown_sets, places, strict=True)):
                for output, shown in _looked(network, plain, own, clean, data, batch_size=batch_size):
                    yield output, torch.full((len(shown),), number)
                    done += len(shown)
                    show(done, {})

        found = OODDetector.fit(network, outputs(), domains=names)
    found.write(run)
    return found


@plain_lists
def unfamiliarity(
    run: Path,
    *,
    images: int = 50,
    targets: Sequence[str] | None = None,
    corruptions: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    severities: Sequence[int] = (2, 5),
    varied: int = 12,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    batch_size: int = 8,
    seed: int = 0,
    accelerator: str = "auto",
    console: Console | None = None,
) -> dict[str, Any]:
    """Say what the unfamiliarity of a run's network is worth; written to the run's folder as JSON.

    Where the run has no `familiar.json` it is made first; see `familiarise`.

    Args:
        run: folder of a run.
        images: so many images of each domain as they are, spread evenly over it; 0 takes all.
        targets: unseen domains instead of the run's own. Those that are a source in a weather style are left to `styles`.
        corruptions: see `spcnet.studies.robustness.conditions`.
        styles: see `spcnet.studies.robustness.conditions`; each at its full strength.
        severities: of the corruptions.
        varied: so many images of each domain are shown in every condition; 0 for none.
        roots: folders of data sets, beside the run's own.
        sets: file that describes sets of one's own, beside the run's own; see `spcnet.config.read_sets`.
        batch_size: images that the network sees together.
        seed: of noise, flakes and drops.
        accelerator: where to compute: auto, cpu, cuda or mps.
        console: where progress is shown; nowhere by default.

    Returns:
        What the file holds.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    for name, value, least in (("images", images, 0), ("varied", varied, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise UsageError(f"{name} is {value}: it must be {least} or more")
    wanted = conditions(corruptions, [], severities) if corruptions is None or corruptions else [Condition(CLEAN, 0)]
    if styles is None or styles:
        wanted += conditions([], styles, (5,))[1:]
    if not ood_file(run).is_file():
        familiarise(run, roots=roots, sets=sets, batch_size=batch_size, accelerator=accelerator, console=console)
    data, network = _opened(run, roots, sets, accelerator, targets)
    usual = OODDetector.read(run, network)
    space = label_space(data.space)
    tests = {
        name: plain
        for name, plain in open_domains([*source_tests(data), *data.targets], data, space, training=False).items()
        if DomainSpec.parse(name).style is None
    }
    print_remarks(tests.values(), console)
    sources = set(source_tests(data))
    plan = [
        (name, condition, spread(len(plain), images if condition.name == CLEAN else varied))
        for name, plain in tests.items()
        for condition in (wanted if varied else wanted[:1])
    ]
    looks: list[Look] = []
    total = sum(len(places) for *_, places in plan)
    with bar(console, total, 0, OWN) as show, evaluating(network), torch.inference_mode():
        for name, condition, places in plan:
            for output, shown in _looked(
                network, tests[name], places, condition, data, batch_size=batch_size, seed=seed
            ):
                seen = signals(network, output)
                readings = usual.read_signals(seen)
                for i, (label, image) in enumerate(shown):
                    classes = classify(output.logits[i], size=(label.shape[0], label.shape[1])).cpu()
                    own = confusion(classes, label.long(), num_classes=len(space))
                    scores = _scores(readings[i], seen, i)
                    looks.append(Look(name, condition, image, image_score(own), outcome(own), readings[i], scores))
                show(len(looks), {})
    found = {
        "run": run.name,
        "method": OpenRun(run).config.method,
        "known": {"domains": list(usual.domains), "images": len(usual.known)},
        "sources": sorted(sources & set(tests)),
        "unseen": sorted(set(tests) - sources),
        "images": {name: sum(look.domain == name and look.condition.name == CLEAN for look in looks) for name in tests},
        "varied": varied,
        "conditions": [f"{condition.name} {condition.severity}" for condition in wanted],
        "separation": separation(looks, sources),
        "prediction": prediction(looks),
        "groups": groups(looks),
        "environment": {name: value for name, value in records.surroundings().items() if name != "command"},
    }
    write_text(run / IMAGES_FILE, "".join(json.dumps(_line(look)) + "\n" for look in looks))
    write_text(run / RESULT_FILE, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    return found


def _opened(
    run: Path,
    roots: Mapping[str, str] | None,
    sets: Path | None,
    accelerator: str,
    targets: Sequence[str] | None = None,
) -> tuple[DataConfig, Segmentor]:
    """Where a run's data lie and how large its images are, and its network on the device."""
    network, card = restore(run)
    data = replace(OpenRun(run, DataOptions(targets, roots or {}, sets)).data, space=card.space)
    return data, network.to(find_device(accelerator))


def _looked(
    network: Segmentor,
    plain: SegmentationSet,
    places: Sequence[int],
    condition: Condition,
    data: DataConfig,
    *,
    batch_size: int,
    seed: int = 0,
) -> Iterator[tuple[SegOutput, list[tuple[Tensor, str]]]]:
    """Show a network some images of a set in a condition: what it returns, with the labels and names."""
    transform = evaluation_transform(data)
    device = next(network.parameters()).device
    at_once = batch_size if data.size else 1  # images that keep their own size may differ in it
    for first in range(0, len(places), at_once):
        pictures, shown = [], []
        for place in places[first : first + at_once]:
            sample = plain.read(place)
            image, label = condition.apply(sample, seed)
            pictures.append(transform(torch.from_numpy(np.array(image)).permute(2, 0, 1)))
            shown.append((torch.from_numpy(np.array(label)), sample.name))
        yield network(normalise(torch.stack(pictures).to(device))), shown


def _scores(reading: Reading, seen: Signals, i: int) -> dict[str, float]:
    """The score, its parts where it has several, and the plain scores that it is compared with."""
    scores = {OWN: reading.score}
    if len(reading.parts) > 1:
        scores |= {f"its {part}": value for part, value in reading.parts.items()}
    if seen.styles:
        scores["base distance"] = float(seen.distance[i].mean())
    return {
        **scores,
        "confidence": -float(seen.confidence[i]),
        "entropy": float(seen.entropy[i]),
        "max logit": -float(seen.max_logit[i]),
    }


def apart(known: NDArray[np.float64], strange: NDArray[np.float64]) -> tuple[float, float]:
    """How well a score tells two sets of images apart.

    Returns:
        AUROC, the probability that a strange image has the higher score (a tie counts half), and FPR95: the share of
        the strange images that pass as known where 95 % of the known ones do.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    truth = np.concatenate([np.zeros(len(known)), np.ones(len(strange))])
    score = np.concatenate([known, strange])
    # As it is usual, what is to pass is the positive class here.
    false, true, _ = roc_curve(1 - truth, -score)
    return float(roc_auc_score(truth, score)), float(false[np.argmax(true >= 0.95)])


def separation(looks: Sequence[Look], sources: set[str]) -> dict[str, dict[str, dict[str, float]]]:
    """AUROC and FPR95 of each score: images of the sources as they are against each kind of strange images.

    Returns:
        What the known images are told from (each unseen domain; the sources corrupted, by severity, and in weather) →
        score → `auroc`, `fpr95` and the number of strange images.
    """
    known = [look for look in looks if look.domain in sources and look.condition.name == CLEAN]
    strange: dict[str, list[Look]] = {}
    for look in looks:
        name, severity = look.condition
        if name == CLEAN:
            kind = None if look.domain in sources else look.domain
        elif look.domain not in sources:
            kind = None
        else:
            kind = "weather" if name.startswith(STYLE) else f"corrupted at {severity}"
        if kind is not None:
            strange.setdefault(kind, []).append(look)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, own in strange.items() if known else ():
        for score in known[0].scores:
            auroc, fpr95 = apart(_values(known, score), _values(own, score))
            found.setdefault(kind, {})[score] = {"auroc": auroc, "fpr95": fpr95, "images": len(own)}
    return found


def prediction(looks: Sequence[Look]) -> dict[str, dict[str, float | None]]:
    """How well each score says how the network fares.

    Returns:
        Score → figures. `images`, `clean` and `conditions` are Spearman's ρ between the score and minus the
        mIoU, so that 1 is perfect and 0 is chance: over all images in all conditions, over the images as they are
        (in each domain by itself, then the mean), and over the means of each domain in each condition (in each domain
        by itself, then the mean). `keep 90 %` and so on are the mIoU of the images that are left when the strangest
        are refused; the row `chance` has those of as many refused at random, and None elsewhere.
    """
    scored = [look for look in looks if not math.isnan(look.miou)]
    names = list(dict.fromkeys(look.domain for look in scored))
    by_group = _by_group(scored)
    found: dict[str, dict[str, float | None]] = {}
    for score in scored[0].scores if scored else ():
        plain = [[look for look in scored if look.domain == name and look.condition.name == CLEAN] for name in names]
        grouped = [
            [
                (float(_values(own, score).mean()), mean_iou_of(own))
                for (domain, _), own in by_group.items()
                if domain == name
            ]
            for name in names
        ]
        found[score] = {
            "images": rank_correlation(_values(scored, score), [look.miou for look in scored]),
            "clean": _mean([rank_correlation(_values(own, score), [look.miou for look in own]) for own in plain]),
            "conditions": _mean([rank_correlation(*zip(*pairs, strict=True)) for pairs in grouped]),
            **{
                _keep(share): mean_iou_of([scored[i] for i in np.argsort(_values(scored, score), kind="stable")[:kept]])
                for share, kept in _kept(len(scored))
            },
        }
    rng = np.random.default_rng(0)
    found["chance"] = {"images": None, "clean": None, "conditions": None}
    for share, kept in _kept(len(scored)):
        drawn = [mean_iou_of([scored[i] for i in rng.permutation(len(scored))[:kept]]) for _ in range(DRAWS)]
        found["chance"][_keep(share)] = _mean(drawn)
    return found


def _kept(number: int) -> list[tuple[float, int]]:
    return [(share, number - round(number * share)) for share in REFUSED]


def _keep(share: float) -> str:
    return f"keep {100 * (1 - share):.0f} %"


def rank_correlation(score: Sequence[float] | NDArray[np.float64], miou: Sequence[float]) -> float | None:
    """Spearman's ρ between a score and minus the mIoU; None where either is the same for all, or of fewer than three."""
    from scipy.stats import spearmanr

    if len(miou) < 3 or len(set(miou)) < 2 or len(set(score)) < 2:
        return None
    return float(spearmanr(score, -np.array(miou)).statistic)


def groups(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """Each domain in each condition: its mIoU, the mean of the score, and the share that is stranger than 95 % of the known."""
    return [
        {
            "domain": domain,
            "condition": condition.name,
            "severity": condition.severity,
            "images": len(own),
            "miou": _or_none(mean_iou_of(own)),
            "score": float(_values(own, OWN).mean()),
            "strange": float(np.mean([look.reading.percentile >= 0.95 for look in own])),
        }
        for (domain, condition), own in _by_group(looks).items()
    ]


def _by_group(looks: Sequence[Look]) -> dict[tuple[str, Condition], list[Look]]:
    found: dict[tuple[str, Condition], list[Look]] = {}
    for look in looks:
        found.setdefault((look.domain, look.condition), []).append(look)
    return found


def mean_iou_of(looks: Sequence[Look]) -> float:
    """The mIoU of images together, over the classes that have a pixel in truth or prediction; NaN without any."""
    hit, truth, taken = torch.stack([look.outcome for look in looks]).sum(dim=0).double().unbind(0)
    return float((hit / (truth + taken - hit)).nanmean())


def _values(looks: Sequence[Look], score: str) -> NDArray[np.float64]:
    return np.array([look.scores[score] for look in looks])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _line(look: Look) -> dict[str, Any]:
    return {
        "domain": look.domain,
        "condition": look.condition.name,
        "severity": look.condition.severity,
        "image": look.name,
        "miou": _or_none(look.miou),
        "percentile": look.reading.percentile,
        "times": look.reading.times,
        "scores": look.scores,
    }


def tables(found: Mapping[str, Any]) -> list[Table]:
    """What `unfamiliarity` found, for a terminal."""
    shown = Table(title="Told from images of the sources: AUROC (FPR95) in %", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("score", no_wrap=True)
    for kind in found["separation"]:
        shown.add_column(kind, justify="right")
    for score in next(iter(found["separation"].values()), {}):
        cells = [own[score] for own in found["separation"].values()]
        shown.add_row(score, *(f"{100 * cell['auroc']:.1f} ({100 * cell['fpr95']:.0f})" for cell in cells))
    says = Table(
        title="Says how the network fares: rank correlation; mIoU in % of so many that are kept",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    says.add_column("score", no_wrap=True)
    titles = list(found["prediction"]["chance"])
    for title in titles:
        says.add_column(title.removeprefix("keep "), justify="right", no_wrap=True)
    for score, row in found["prediction"].items():
        cells = [row[title] for title in titles]
        says.add_row(
            score,
            *(
                "" if cell is None else f"{100 * cell:.1f}" if title.startswith("keep") else f"{cell:.2f}"
                for title, cell in zip(titles, cells, strict=True)
            ),
        )
    return [shown, says] if found["separation"] else [says]


__all__ = ["OOD_FILE", "RESULT_FILE", "familiarise", "tables", "unfamiliarity"]
