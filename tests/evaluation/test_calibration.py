"""Calibration, detection of errors and thresholds from counts, compared with sorting every pixel in double precision."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch.nn import functional as F

from spcnet.errors import DataError
from spcnet.evaluation.calibration import (
    ConfidenceCounts,
    Scaling,
    ScoreCounts,
    fit_scaling,
    half_codes,
    half_values,
    labelled_pixels,
)

CLASSES = 5


@pytest.fixture(scope="module")
def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    """Class scores that are too sure by a factor of 2.5, and labels drawn from the true probabilities."""
    torch.manual_seed(0)
    logits = torch.randn(4000, CLASSES) * 2
    label = torch.multinomial(logits.softmax(1), 1)[:, 0]
    return logits * 2.5, label


def counted(logits: torch.Tensor, label: torch.Tensor, **options: object) -> ConfidenceCounts:
    counts = ConfidenceCounts(CLASSES, **options)  # type: ignore[arg-type]
    for some, truth in zip(logits.split(700), label.split(700), strict=True):
        counts.add(some, truth)
    return counts


def test_half_precision_codes_have_the_order_of_the_scores() -> None:
    scores = torch.cat([torch.randn(2000) * 10.0 ** torch.randint(-4, 5, (2000,)), torch.tensor([0.0, -0.0])])
    codes = half_codes(scores)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 65536
    order = scores.half().double().argsort()
    assert (codes[order].diff() >= 0).all()
    stands_for = torch.from_numpy(half_values())[codes.long()]
    torch.testing.assert_close(stands_for, scores.clamp(-65504, 65504).half().double(), rtol=0, atol=0)


def test_the_calibration_error_is_the_one_of_every_pixel(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = pixels
    probability, predicted = logits.double().softmax(1).max(1)
    right, expected = (predicted == label).double(), 0.0
    for low in range(15):
        inside = (probability > low / 15) & (probability <= (low + 1) / 15)
        if inside.any():
            expected += float((right[inside].mean() - probability[inside].mean()).abs() * inside.double().mean())
    figures = counted(logits, label).figures()
    assert figures["ece"] == pytest.approx(expected, abs=1e-6)
    assert figures["accuracy"] == pytest.approx(float(right.mean()))
    assert figures["nll"] == pytest.approx(float(F.cross_entropy(logits.double(), label)), rel=1e-6)
    assert sum(pixels for pixels, *_ in figures["reliability"]) == figures["pixels"] == len(label)


def test_detection_of_errors_is_the_one_of_every_pixel(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = pixels
    probability, predicted = logits.double().softmax(1).max(1)
    wrong = (predicted != label).numpy()
    doubt = (1 - probability).numpy()
    figures = counted(logits, label).figures()
    assert figures["auroc"] == pytest.approx(roc_auc_score(wrong, doubt), abs=1e-4)
    assert figures["aupr_error"] == pytest.approx(average_precision_score(wrong, doubt), abs=1e-3)
    assert figures["aupr_success"] == pytest.approx(average_precision_score(~wrong, -doubt), abs=1e-4)
    false, true, _ = roc_curve(~wrong, -doubt)
    assert figures["fpr95"] == pytest.approx(false[np.argmax(true >= 0.95)], abs=2e-3)
    risks = wrong[np.argsort(doubt)].cumsum() / np.arange(1, len(wrong) + 1)
    assert figures["aurc"] == pytest.approx(risks.mean(), abs=1e-3)


def test_a_constant_score_detects_nothing_and_risks_the_mean() -> None:
    counts = ScoreCounts()
    positive = torch.arange(1000) % 4 == 0
    counts.add(torch.full((1000,), 0.3), positive)
    assert counts.figures()["auroc"] == pytest.approx(0.5)
    assert counts.figures()["auprc"] == pytest.approx(0.25)
    assert counts.aurc() == pytest.approx(0.25)


def test_figures_without_errors_or_without_pixels_are_undefined() -> None:
    assert ConfidenceCounts(CLASSES).figures() == {"pixels": 0}
    figures = counted(torch.eye(CLASSES) * 9, torch.arange(CLASSES)).figures()
    assert figures["auroc"] is None
    assert figures["aurc"] == 0
    assert figures["miou"] == 1


def test_a_score_that_is_not_finite_counts_as_the_highest() -> None:
    counts = ScoreCounts()
    counts.add(torch.tensor([float("nan"), 1e30, 2.0]), torch.tensor([True, True, False]))
    assert counts.figures()["auroc"] == 1


def test_the_temperature_is_the_one_that_a_search_finds(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = pixels
    found = minimize_scalar(
        lambda log: float(F.cross_entropy(logits.double() * np.exp(log), label)), bounds=(-4, 4), method="bounded"
    )
    scaling = fit_scaling(logits, label)
    assert scaling.scale[0] == pytest.approx(np.exp(found.x), rel=1e-3)
    assert 1 / scaling.scale[0] == pytest.approx(2.5, rel=0.1)
    before, after = (counted(logits, label, scaling=one).figures() for one in (Scaling(), scaling))
    assert after["ece"] < 0.3 * before["ece"]
    assert after["miou"] == before["miou"]


def test_vector_scaling_is_never_less_likely_and_mends_a_class_that_comes_too_often(
    pixels: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, label = pixels[0] + torch.tensor([3.0, 0, 0, 0, 0]), pixels[1]
    one, each = fit_scaling(logits, label), fit_scaling(logits, label, vector=True)
    likelihood = [counted(logits, label, scaling=scaling).figures()["nll"] for scaling in (one, each)]
    assert likelihood[1] < likelihood[0] - 0.05
    assert each.shift[0] < min(each.shift[1:]) - 0.5


def test_vector_scaling_keeps_the_temperature_for_a_class_without_a_pixel_that_is_never_likely() -> None:
    torch.manual_seed(1)
    logits = torch.cat([torch.randn(900, 2) * 3, torch.full((900, 1), -60.0)], dim=1)
    label = torch.multinomial((logits / 2).softmax(1), 1)[:, 0]
    one, each = fit_scaling(logits, label), fit_scaling(logits, label, vector=True)
    assert each.scale[2] == pytest.approx(one.scale[0], rel=1e-3)


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(DataError, match="no labelled pixel"):
        fit_scaling(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_thresholds_reach_the_precision_and_keep_as_much_as_can_be(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = pixels
    probability, predicted = logits.double().softmax(1).max(1)
    thresholds = counted(logits, label).class_thresholds(0.9)
    for k, threshold in enumerate(thresholds):
        own = predicted == k
        order = probability[own].argsort(descending=True)
        precision = (label[own] == k)[order].double().cumsum(0) / torch.arange(1, int(own.sum()) + 1)
        most = int((precision >= 0.9).nonzero().max()) + 1
        kept = own & (probability >= threshold)
        assert float((label[kept] == k).double().mean()) >= 0.9 - 2e-3
        assert int(kept.sum()) == pytest.approx(most, abs=0.02 * int(own.sum()))
    figures = counted(logits, label, thresholds=thresholds).figures()["thresholds"]
    sure = probability >= torch.tensor(thresholds)[predicted]
    assert figures["coverage"] == pytest.approx(float(sure.double().mean()), abs=1e-3)
    assert figures["precision"] >= 0.9 - 2e-3
    assert figures["miou"] > figures["miou_all"]


def test_a_class_that_is_never_right_keeps_nothing_and_one_that_is_always_right_all() -> None:
    logits = torch.eye(CLASSES)[[0] * 50 + [1] * 50] * torch.rand(100, 1) * 4
    thresholds = counted(logits, torch.zeros(100, dtype=torch.long)).class_thresholds(0.95)
    assert thresholds[0] == 0
    assert thresholds[1] == 2
    assert thresholds[2] == 0


def test_the_coverage_curve_is_the_one_of_every_pixel(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = pixels
    probability, predicted = logits.double().softmax(1).max(1)
    for point in counted(logits, label).figures()["coverage"]:
        sure = probability >= point["threshold"]
        assert point["coverage"] == pytest.approx(float(sure.double().mean()), abs=1e-3)
        if sure.any():
            right = (predicted == label)[sure].double().mean()
            assert point["precision"] == pytest.approx(float(right), abs=2e-3)


def test_labelled_pixels_leave_out_void_and_have_the_classes_of_evaluation() -> None:
    from spcnet.evaluation.metrics import classify

    torch.manual_seed(0)
    logits, label = torch.randn(4, 9, 12), torch.randint(0, 4, (33, 41))
    label[:5] = 255
    scores, truth = labelled_pixels(logits, label)
    keep = label != 255
    assert (truth == label[keep]).all()
    assert (scores.argmax(1) == classify(logits, size=(33, 41))[keep]).all()
    few = labelled_pixels(logits, label, sample=50, seed=3)
    assert len(few[1]) == 50
    assert (few[0] == labelled_pixels(logits, label, sample=50, seed=3)[0]).all()
