"""Figures of public challenges about confidence: the index of BRAVO and ACDC's uncertainty-aware IoU."""

from collections.abc import Mapping
from statistics import harmonic_mean

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from spcnet.errors import UsageError

SEMANTIC = ("miou", "ece", "auroc", "fpr95", "aupr_success", "aupr_error")
"""Figures of the confidence, as `ConfidenceCounts.figures` has them; of `ece` and `fpr95` less is better."""
OOD = ("auroc", "auprc", "fpr95")
"""Figures of the detection of unknown objects, as `ScoreCounts.figures` has them."""


def bravo_index(semantic: Mapping[str, float | None], ood: Mapping[str, float | None]) -> dict[str, float]:
    """The index of the BRAVO challenge (Vu et al., 2024, arXiv 2409.15107), 0..1.

    Args:
        semantic: the figures in `SEMANTIC`, each 0..1.
        ood: the figures in `OOD`.

    Returns:
        `semantic` and `ood`, the harmonic means of the figures, those of which less is better taken from 1; and
        `bravo`, the harmonic mean of the two.

    Raises:
        UsageError: a figure is missing.
    """
    means = {}
    for kind, figures, names in (("semantic", semantic, SEMANTIC), ("ood", ood, OOD)):
        values = []
        for name in names:
            value = figures.get(name)
            if value is None:
                raise UsageError(f"the {kind} figures have no {name}: the BRAVO index takes all of {', '.join(names)}")
            values.append(1 - value if name in ("ece", "fpr95") else value)
        means[kind] = harmonic_mean(values)
    return {**means, "bravo": harmonic_mean(list(means.values()))}


class UncertaintyAwareIoU:
    """IoU of a network that may call pixels invalid, over all thresholds of its confidence (Sakaridis et al., ICCV 2021).

    A pixel below the threshold is called invalid. It is right to where the truth is invalid, too: people could not
    tell its class from the image alone. Right and wrong calls count for the class of the pixel's label.

    Args:
        num_classes: K.
        steps: thresholds, evenly spread from 1/K, below which no confidence lies, to 1.
    """

    def __init__(self, num_classes: int, *, steps: int = 100) -> None:
        self.num_classes, self.steps = num_classes, steps
        self.counts = np.zeros((steps + 1, 2, num_classes, num_classes), np.int64)
        """Pixels by the number of thresholds that their confidence reaches, whether they are invalid, truth and prediction."""

    def add(
        self,
        confidence: Float[Tensor, " N"],
        prediction: Int[Tensor, " N"],
        label: Int[Tensor, " N"],
        invalid: Bool[Tensor, " N"],
    ) -> None:
        """Count labelled pixels."""
        reached = torch.bucketize(confidence.double(), torch.from_numpy(self.thresholds), right=True)
        cells = (reached * 2 + invalid.long()) * self.num_classes**2 + label.long() * self.num_classes + prediction
        self.counts += torch.bincount(cells, minlength=self.counts.size).view(self.counts.shape).numpy()

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """Each of them, from 1/K to 1."""
        return np.linspace(1 / self.num_classes, 1, self.steps)

    def uiou(self) -> NDArray[np.float64]:
        """(TP + TI) / (TP + TI + FP + FN + FI) of each threshold (row) and class; NaN for a class that is nowhere."""
        # A pixel that reaches r thresholds is valid at the first r of them.
        valid = self.counts[::-1].cumsum(axis=0)[::-1][1:]
        called = (self.counts.sum(axis=0) - valid).sum(axis=3)
        confusion = valid.sum(axis=1)
        hit = confusion.diagonal(axis1=1, axis2=2) + called[:, 1]
        false = confusion.sum(axis=1) + confusion.sum(axis=2) - 2 * confusion.diagonal(axis1=1, axis2=2) + called[:, 0]
        with np.errstate(invalid="ignore"):
            result: NDArray[np.float64] = hit / (hit + false)
        return result

    def auiou(self) -> float:
        """Mean over the classes of the mean over the thresholds, 0..1; NaN without a pixel."""
        per_class = self.uiou()
        known = np.isfinite(per_class).all(axis=0)
        return float(per_class[:, known].mean()) if known.any() else float("nan")
