"""What an OOD score is worth: does it separate unseen images from known ones, and does it predict the mIoU?"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from spcnet.evaluation.metrics import none_if_nan
from spcnet.inference.ood import OODScore
from spcnet.reports.robustness import CLEAN, STYLE
from spcnet.studies.conditions import Condition

OOD = "ood score"
"""Name of the score that all others are compared with."""
REJECTED = (0.1, 0.3, 0.5)
"""Fractions of the images, those with the highest scores, that are rejected."""
RANDOM_TRIALS = 100
"""Repetitions of rejecting as many images at random."""


class ScoredImage(NamedTuple):
    """One image in one condition with the network's result."""

    domain: str
    condition: Condition
    name: str
    miou: float
    """Mean IoU over the classes of its label; NaN where it has none."""
    outcome: Int[Tensor, "3 K"]
    """See `spcnet.evaluation.metrics.outcome`."""
    ood: OODScore
    scores: dict[str, float]
    """Every score by its name; higher is farther from known images."""

    def as_json(self) -> dict[str, Any]:
        """The image as plain values."""
        return {
            "domain": self.domain,
            "condition": self.condition.name,
            "severity": self.condition.severity,
            "image": self.name,
            "miou": none_if_nan(self.miou),
            "percentile": self.ood.percentile,
            "times": self.ood.times,
            "scores": self.scores,
        }


def auroc_fpr95(known: NDArray[np.float64], unseen: NDArray[np.float64]) -> tuple[float, float]:
    """How well a score separates two sets of images.

    Returns:
        AUROC, the probability that an unseen image has the higher score (a tie counts half), and FPR95: the fraction
        of unseen images that are taken for known at the threshold where 95 % of the known ones are.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    truth = np.concatenate([np.zeros(len(known)), np.ones(len(unseen))])
    score = np.concatenate([known, unseen])
    # By convention known images are the positive class of FPR95.
    false, true, _ = roc_curve(1 - truth, -score)
    return float(roc_auc_score(truth, score)), float(false[np.argmax(true >= 0.95)])


def separation(images: Sequence[ScoredImage], sources: set[str]) -> dict[str, dict[str, dict[str, float]]]:
    """AUROC and FPR95 of each score: clean images of the sources against each kind of other images.

    Returns:
        Kind (each unseen domain; the sources corrupted, by severity, and in weather) → score → `auroc`, `fpr95` and
        the number of `images` of that kind.
    """
    known = [image for image in images if image.domain in sources and image.condition.name == CLEAN]
    kinds: dict[str, list[ScoredImage]] = {}
    for image in images:
        name, severity = image.condition
        if image.domain not in sources and name == CLEAN:
            kinds.setdefault(image.domain, []).append(image)
        elif image.domain in sources and name != CLEAN:
            kinds.setdefault("weather" if name.startswith(STYLE) else f"corrupted at {severity}", []).append(image)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for kind, group in kinds.items() if known else ():
        for score in known[0].scores:
            auroc, fpr95 = auroc_fpr95(_values(known, score), _values(group, score))
            result.setdefault(kind, {})[score] = {"auroc": auroc, "fpr95": fpr95, "images": len(group)}
    return result


def prediction(images: Sequence[ScoredImage]) -> dict[str, dict[str, float | None]]:
    """How well each score predicts the network's mIoU.

    Returns:
        Score → figures. `images`, `clean` and `conditions` are Spearman's ρ between the score and minus the mIoU, 1 is
        perfect and 0 is chance: over all images in all conditions; over clean images (within each domain, then the
        mean); and over the means of each domain in each condition (within each domain, then the mean). `keep 90 %` and
        so on are the mIoU of the images that remain when those with the highest scores are rejected; the row `chance`
        has those of rejecting at random, and None elsewhere.
    """
    images = [image for image in images if not math.isnan(image.miou)]
    domains = list(dict.fromkeys(image.domain for image in images))
    by_group = _by_group(images)
    columns = [(f"keep {100 * (1 - part):.0f} %", len(images) - round(len(images) * part)) for part in REJECTED]
    result: dict[str, dict[str, float | None]] = {}
    for score in images[0].scores if images else ():

        def correlation(group: Sequence[ScoredImage], score: str = score) -> float | None:
            return rank_correlation(_values(group, score), [image.miou for image in group])

        means = [
            [(float(_values(g, score).mean()), mean_iou_of(g)) for (domain, _), g in by_group.items() if domain == name]
            for name in domains
        ]
        order = np.argsort(_values(images, score), kind="stable")
        result[score] = {
            "images": correlation(images),
            "clean": _mean([correlation(group) for (_, one), group in by_group.items() if one.name == CLEAN]),
            "conditions": _mean([rank_correlation(*zip(*pairs, strict=True)) for pairs in means]),
            **{title: mean_iou_of([images[i] for i in order[:number]]) for title, number in columns},
        }
    rng = np.random.default_rng(0)
    result["chance"] = {"images": None, "clean": None, "conditions": None}
    for title, number in columns:
        trials = [mean_iou_of([images[i] for i in rng.permutation(len(images))[:number]]) for _ in range(RANDOM_TRIALS)]
        result["chance"][title] = _mean(trials)
    return result


def rank_correlation(score: Sequence[float] | NDArray[np.float64], miou: Sequence[float]) -> float | None:
    """Spearman's ρ between a score and minus the mIoU; None for fewer than three images or where either is constant."""
    from scipy.stats import spearmanr

    if len(miou) < 3 or len(set(miou)) < 2 or len(set(score)) < 2:
        return None
    return float(spearmanr(score, -np.array(miou)).statistic)


def groups(images: Sequence[ScoredImage]) -> list[dict[str, Any]]:
    """Each domain in each condition: its mIoU, mean OOD score, and fraction of images beyond 95 % of the known ones."""
    return [
        {
            "domain": domain,
            "condition": condition.name,
            "severity": condition.severity,
            "images": len(group),
            "miou": none_if_nan(mean_iou_of(group)),
            "score": float(_values(group, OOD).mean()),
            "ood_fraction": float(np.mean([image.ood.percentile >= 0.95 for image in group])),
        }
        for (domain, condition), group in _by_group(images).items()
    ]


def mean_iou_of(images: Sequence[ScoredImage]) -> float:
    """The mIoU of images together, over the classes that have a pixel in truth or prediction; NaN without any."""
    hit, truth, predicted = torch.stack([image.outcome for image in images]).sum(dim=0).double().unbind(0)
    return float((hit / (truth + predicted - hit)).nanmean())


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result of `spcnet.studies.ood.evaluate_ood`, for a terminal."""
    separated = _table("Images of the sources against others: AUROC (FPR95) in %", result["separation"])
    for score in next(iter(result["separation"].values()), {}):
        cells = [scores[score] for scores in result["separation"].values()]
        separated.add_row(score, *(f"{100 * cell['auroc']:.1f} ({100 * cell['fpr95']:.0f})" for cell in cells))
    titles = list(result["prediction"]["chance"])
    columns = [title.removeprefix("keep ") for title in titles]
    predicted = _table("Rank correlation with minus the mIoU; mIoU in % of the images that are kept", columns)
    for score, row in result["prediction"].items():
        predicted.add_row(score, *(_cell(title, row[title]) for title in titles))
    return [separated, predicted] if result["separation"] else [predicted]


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table("score", title=title, box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _cell(title: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if title.startswith("keep") else f"{value:.2f}"


def _by_group(images: Sequence[ScoredImage]) -> dict[tuple[str, Condition], list[ScoredImage]]:
    grouped: dict[tuple[str, Condition], list[ScoredImage]] = {}
    for image in images:
        grouped.setdefault((image.domain, image.condition), []).append(image)
    return grouped


def _values(images: Sequence[ScoredImage], score: str) -> NDArray[np.float64]:
    return np.array([image.scores[score] for image in images])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None
