"""What a network's confidence is worth: calibration, detection of errors, thresholds; counted, never pixel by pixel.

A pixel's confidence is the softmax probability of its class. All figures come from counts that are added image by
image: of the 15 bins of the calibration error, and of the confidence rounded to half precision (`ScoreCounts`), whose
ties are all that is lost against sorting every pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spcnet.errors import DataError
from spcnet.evaluation.metrics import mean_iou
from spcnet.types import IGNORE_INDEX

BINS = 15
"""Of the expected calibration error and the reliability diagram (Guo et al., ICML 2017)."""
STEPS = 20
"""Thresholds of the curve of coverage against IoU."""
SAMPLED = 2000
"""Pixels of each image that temperature and vector scaling are fitted on."""
AT_ONCE = 2**17
"""Pixels whose class scores are held at once."""
_CODES = 2**16


def half_codes(scores: Float[Tensor, "*pixels"]) -> Int[Tensor, "*pixels"]:
    """Number of the half-precision value of each score, 0..65535, in the scores' order.

    Relative differences of a thousandth are told apart, whatever the range of the scores.
    """
    # Plus zero: there is no negative zero.
    bits = (scores.clamp(-65504, 65504).half() + 0).view(torch.int16).int()
    return torch.where(bits < 0, -1 - (bits & 0x7FFF), bits) + _CODES // 2


def half_values() -> NDArray[np.float64]:
    """The score that each number of `half_codes` stands for."""
    bits = np.concatenate([np.arange(0xFFFF, 0x7FFF, -1), np.arange(0x8000)]).astype(np.uint16)
    return bits.view(np.float16).astype(np.float64)


class ScoreCounts:
    """How many positive and negative pixels have which score: all that curves of detection need.

    Args:
        counts: 2×65536, negatives first; nothing yet by default.
    """

    def __init__(self, counts: NDArray[np.int64] | None = None) -> None:
        self.counts = np.zeros((2, _CODES), np.int64) if counts is None else counts

    def add(self, scores: Float[Tensor, "*pixels"], positive: Tensor) -> None:
        """Count pixels; a score that is not finite counts as the highest."""
        codes = half_codes(scores.float().nan_to_num(nan=torch.inf)).flatten() + positive.flatten().int() * _CODES
        self.counts += torch.bincount(codes, minlength=2 * _CODES).view(2, _CODES).cpu().numpy()

    def figures(self) -> dict[str, float | None]:
        """Detection of the positives by a higher score, all 0..1; None where there are no positives or no negatives.

        Returns:
            `auroc`; `auprc`, the average precision; and `fpr95`, the share of the negatives above the threshold
            above which 95 % of the positives are.
        """
        from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

        if not self.counts.any(axis=1).all():
            return {"auroc": None, "auprc": None, "fpr95": None}
        label, code = np.nonzero(self.counts)
        weights = self.counts[label, code]
        false, true, _ = roc_curve(label, code, sample_weight=weights, drop_intermediate=False)
        return {
            "auroc": float(roc_auc_score(label, code, sample_weight=weights)),
            "auprc": float(average_precision_score(label, code, sample_weight=weights)),
            "fpr95": float(false[np.argmax(true >= 0.95)]),
        }

    def aurc(self) -> float | None:
        """Area under the risk-coverage curve (Geifman and El-Yaniv, NeurIPS 2017), with errors as the positives.

        Pixels are accepted from the lowest score up; the risk is the share of errors among those accepted, and its mean
        over all coverages is the area. Pixels of one score are accepted in no order, as a mixture.
        """
        total, wrong = self.counts.sum(axis=0), self.counts[1]
        kept = total > 0
        total, wrong = total[kept].astype(np.float64), wrong[kept].astype(np.float64)
        if not len(total):
            return None
        end, errors = total.cumsum(), wrong.cumsum()
        start, before = end - total, errors - wrong
        # Within a tie after t more pixels there are `before + t · rate` errors among `start + t`.
        rate = wrong / total
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = np.where(start > 0, np.log(end / np.maximum(start, 1)), 0.0)
        area = rate * total + (before - rate * start) * growth
        return float(area.sum() / end[-1])


@dataclass(frozen=True)
class Scaling:
    """Logits made calibrated: multiplied by `scale` and moved by `shift` (Guo et al., ICML 2017).

    Temperature scaling has one scale, 1/T, for all classes and no shift; vector scaling has its own for each.
    """

    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    def apply(self, logits: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
        """Logits whose softmax is the calibrated probability."""
        return logits * logits.new_tensor(self.scale) + logits.new_tensor(self.shift)


PLAIN = Scaling()
"""The network's own confidence."""


def fit_scaling(logits: Float[Tensor, "N K"], label: Int[Tensor, " N"], *, vector: bool = False) -> Scaling:
    """Temperature or vector scaling: the least negative log-likelihood of labelled pixels, in double precision.

    Args:
        logits: of the pixels.
        label: their classes.
        vector: a scale and a shift for each class instead of one temperature. A class without a pixel keeps
            the temperature of all.

    Raises:
        DataError: there is no pixel.
    """
    from scipy.optimize import minimize

    if not len(label):
        raise DataError("there is no labelled pixel to fit the confidence on: check the labels of the sources")
    # Copies, for what was made in inference mode stays barred from gradients.
    logits, label, classes = logits.double().clone(), label.long().clone(), logits.shape[1]

    def fitted(start: NDArray[np.float64], pull: float) -> NDArray[np.float64]:
        first = torch.from_numpy(start)

        def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            point = torch.from_numpy(values.copy()).requires_grad_()
            scaled = logits * point[:classes].exp() + (point[classes:] if len(point) > 1 else 0)
            value = F.cross_entropy(scaled, label) + pull * (point - first).square().sum()
            (slope,) = torch.autograd.grad(value, point)
            return value.item(), slope.numpy()

        values: NDArray[np.float64] = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
        return values

    temperature = fitted(np.zeros(1), 0.0)
    if not vector:
        return Scaling((float(np.exp(temperature[0])),))
    # Without a slight pull a class that no pixel has, or a shift of all classes alike, would have no best value.
    values = fitted(np.concatenate([np.full(classes, temperature[0]), np.zeros(classes)]), 1e-6)
    return Scaling(tuple(np.exp(values[:classes]).tolist()), tuple(values[classes:].tolist()))


class ConfidenceCounts:
    """Counts of pixels by confidence, from which every figure of `figures` comes.

    Args:
        num_classes: K.
        scaling: how logits become confidence.
        thresholds: of each class the confidence below which its pixels become void; none do by default.
    """

    def __init__(
        self, num_classes: int, scaling: Scaling = PLAIN, *, thresholds: Sequence[float] | None = None
    ) -> None:
        self.scaling, self.thresholds = scaling, thresholds
        self.bins = np.zeros((3, BINS))
        """For each bin the pixels, those that are right, and the sum of the confidence."""
        self.by_class = np.zeros((num_classes, 2, _CODES), np.int64)
        """Pixels of each predicted class by 1 - confidence, right ones first."""
        self.confusion = np.zeros((STEPS, num_classes, num_classes), np.int64)
        """Pixels by twentieth of the confidence, truth and prediction."""
        self.kept = np.zeros((num_classes, num_classes), np.int64)
        """Pixels that keep their class, by truth and prediction."""
        self.nll = 0.0
        """Sum of the negative log-likelihood in nats."""

    def add(self, logits: Float[Tensor, "N K"], label: Int[Tensor, " N"]) -> None:
        """Count labelled pixels, none of which is void."""
        for some, truth in zip(torch.split(logits, AT_ONCE), torch.split(label.long(), AT_ONCE), strict=True):
            self._add(some, truth)

    def _add(self, logits: Float[Tensor, "N K"], label: Int[Tensor, " N"]) -> None:
        logs = self.scaling.apply(logits.float()).log_softmax(dim=1)
        best, predicted = logs.max(dim=1)
        doubt = -torch.expm1(best)  # 1 - p, and not what single precision leaves of it near p = 1
        right, confidence = predicted == label, best.exp()
        place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # bins are open below and closed above
        for row, weights in zip(self.bins, (None, right.double(), confidence.double()), strict=True):
            row += torch.bincount(place, weights=weights, minlength=BINS).double().cpu().numpy()
        self.nll -= float(logs.gather(1, label[:, None]).double().sum())
        num_classes = len(self.kept)
        cells = (predicted * 2 + (~right).long()) * _CODES + half_codes(doubt)
        self.by_class += _counted(cells, self.by_class.shape)
        pairs = label * num_classes + predicted
        step = (confidence * STEPS).long().clamp(0, STEPS - 1)
        self.confusion += _counted(step * num_classes**2 + pairs, self.confusion.shape)
        if self.thresholds is not None:
            sure = confidence >= confidence.new_tensor(list(self.thresholds))[predicted]
            self.kept += _counted(pairs[sure], self.kept.shape)

    @property
    def pixels(self) -> int:
        """How many were counted."""
        return int(self.bins[0].sum())

    @property
    def errors(self) -> ScoreCounts:
        """Errors (positive) and right pixels by 1 - confidence."""
        return ScoreCounts(self.by_class.sum(axis=0))

    def figures(self) -> dict[str, Any]:
        """Every figure as plain values, 0..1; None where it is not defined.

        Returns:
            `pixels`, `miou`, `accuracy`, mean `confidence`, `ece` (15 bins), `nll` (nats), `auroc` and `aupr_error` of
            errors by low confidence, `aupr_success` of right pixels by high confidence, `fpr95`, the share of the errors
            that are accepted where 95 % of the right pixels are (as in the BRAVO challenge), `aurc`, the
            `reliability` diagram (of each bin pixels, mean confidence, accuracy), the `coverage` curve (of each threshold for
            all classes alike what `kept_figures` says), and of the thresholds of each class the same as `thresholds`.
        """
        pixels, right, confidence = self.bins
        total = self.pixels
        if not total:
            return {"pixels": 0}
        errors = self.errors.figures()
        success = ScoreCounts(self.errors.counts[::-1, ::-1]).figures()
        confusion = self.confusion.sum(axis=0)
        return {
            "pixels": total,
            "miou": _defined(mean_iou(torch.from_numpy(confusion))),
            "accuracy": float(right.sum() / total),
            "confidence": float(confidence.sum() / total),
            "ece": float(np.abs(right - confidence).sum() / total),
            "nll": self.nll / total,
            "auroc": errors["auroc"],
            "fpr95": success["fpr95"],
            "aupr_error": errors["auprc"],
            "aupr_success": success["auprc"],
            "aurc": self.errors.aurc(),
            "reliability": [
                [int(n), float(c / n), float(r / n)] if n else [0, None, None]
                for n, r, c in zip(pixels, right, confidence, strict=True)
            ],
            "coverage": [
                {"threshold": step / STEPS, **kept_figures(self.confusion[step:].sum(axis=0), confusion)}
                for step in range(STEPS)
            ],
            "thresholds": None if self.thresholds is None else kept_figures(self.kept, confusion),
        }

    def class_thresholds(self, precision: float) -> list[float]:
        """Of each class the least confidence such that its pixels from there on have this precision.

        Returns:
            K confidences: 0 where all pixels of the class are kept or there is none; 2, above every confidence, where no
            confidence suffices.
        """
        values = half_values()
        chosen = []
        for right, wrong in self.by_class:
            accepted, hits = (right + wrong).cumsum(), right.cumsum()
            good = np.flatnonzero((hits >= precision * accepted) & (accepted > 0))
            if not accepted[-1] or (len(good) and good[-1] == _CODES - 1):
                chosen.append(0.0)
            elif not len(good):
                chosen.append(2.0)
            else:  # between the last score that is kept and the next, for a score stands for all that round to it
                chosen.append(float(1 - values[good[-1] : good[-1] + 2].mean()))
        return chosen


def _counted(cells: Int[Tensor, " N"], shape: tuple[int, ...]) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = torch.bincount(cells, minlength=int(np.prod(shape))).view(shape).cpu().numpy()
    return counts


def kept_figures(kept: NDArray[np.int64], confusion: NDArray[np.int64]) -> dict[str, float | None]:
    """What is left where unsure pixels are void.

    Args:
        kept: K×K, pixels that keep their class by truth and prediction.
        confusion: the same of all pixels.

    Returns:
        `coverage`, the share of the labelled pixels that keep a class; `precision`, the share of these that are right;
        `miou` over these alone, and `miou_all`, where void pixels count as missed.
    """
    pixels, hits = int(kept.sum()), kept.diagonal()
    with np.errstate(invalid="ignore"):
        missed = hits / (confusion.sum(axis=1) + kept.sum(axis=0) - hits)
    return {
        "coverage": pixels / int(confusion.sum()),
        "precision": float(hits.sum() / pixels) if pixels else None,
        "miou": _defined(mean_iou(torch.from_numpy(kept))),
        "miou_all": _defined(float(np.nanmean(missed))) if np.isfinite(missed).any() else None,
    }


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value


def labelled_pixels(
    logits: Float[Tensor, "K h w"], label: Int[Tensor, "H W"], *, sample: int = 0, seed: int = 0
) -> tuple[Float[Tensor, "N K"], Int[Tensor, " N"]]:
    """Class scores and labels of an image's labelled pixels, at the label's own size.

    Args:
        logits: of the image, brought to the label's size bilinearly as `spcnet.evaluation.metrics.classify` does.
        label: class of each pixel, or 255.
        sample: most pixels, drawn at random; 0 for all.
        seed: of the drawing.
    """
    places = (label.flatten() != IGNORE_INDEX).nonzero()[:, 0].to(logits.device)
    if sample and len(places) > sample:
        dice = torch.Generator().manual_seed(seed)
        places = places[torch.randperm(len(places), generator=dice)[:sample].to(places.device)]
    logits = logits.float()
    if logits.shape[1:] != label.shape:
        logits = F.interpolate(logits[None], size=label.shape, mode="bilinear", align_corners=True)[0]
    return logits.flatten(1)[:, places].T, label.flatten().to(logits.device)[places]
