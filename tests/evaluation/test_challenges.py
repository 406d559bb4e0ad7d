"""The index of BRAVO and ACDC's uncertainty-aware IoU, against their formulas pixel by pixel."""

import numpy as np
import pytest
import torch

from spcnet.errors import UsageError
from spcnet.evaluation.challenges import UncertaintyAwareIoU, bravo_index


def test_the_bravo_index_is_the_harmonic_mean_of_two_harmonic_means() -> None:
    semantic = {"miou": 0.5, "ece": 0.1, "auroc": 0.9, "fpr95": 0.4, "aupr_success": 0.99, "aupr_error": 0.4}
    ood = {"auroc": 0.9, "auprc": 0.7, "fpr95": 0.2}
    values = [0.5, 0.9, 0.9, 0.6, 0.99, 0.4]
    first, second = 6 / sum(1 / v for v in values), 3 / (1 / 0.9 + 1 / 0.7 + 1 / 0.8)
    index = bravo_index(semantic, ood)
    assert index["semantic"] == pytest.approx(first)
    assert index["ood"] == pytest.approx(second)
    assert index["bravo"] == pytest.approx(2 / (1 / first + 1 / second))
    with pytest.raises(UsageError, match="no auprc"):
        bravo_index(semantic, {"auroc": 0.9, "auprc": None, "fpr95": 0.2})


def test_the_uncertainty_aware_iou_is_the_one_of_every_pixel() -> None:
    torch.manual_seed(0)
    classes, pixels = 3, 600
    confidence = torch.rand(pixels) * (2 / 3) + 1 / 3
    prediction, label = torch.randint(0, classes, (2, pixels))
    invalid = torch.rand(pixels) < 0.3
    counts = UncertaintyAwareIoU(classes, steps=7)
    for part in torch.arange(pixels).split(111):
        counts.add(confidence[part], prediction[part], label[part], invalid[part])
    expected = np.empty((7, classes))
    for row, threshold in enumerate(np.linspace(1 / 3, 1, 7)):
        valid = confidence.double() >= threshold
        for k in range(classes):
            own, taken = label == k, prediction == k
            right = (valid & own & taken).sum() + (~valid & own & invalid).sum()
            wrong = (valid & own & ~taken).sum() + (valid & ~own & taken).sum() + (~valid & own & ~invalid).sum()
            expected[row, k] = right / (right + wrong)
    np.testing.assert_allclose(counts.uiou(), expected)
    assert counts.auiou() == pytest.approx(expected.mean())
    assert np.isnan(UncertaintyAwareIoU(2).auiou())


def test_calling_exactly_the_invalid_pixels_invalid_is_better_than_the_iou() -> None:
    label = torch.tensor([0, 0, 1, 1])
    prediction = torch.tensor([0, 1, 1, 1])
    invalid = torch.tensor([False, True, False, False])
    counts = UncertaintyAwareIoU(2, steps=3)
    counts.add(torch.tensor([0.99, 0.6, 0.99, 0.99]), prediction, label, invalid)
    plain, knowing, _ = counts.uiou()
    assert (plain == [0.5, 2 / 3]).all()
    assert (knowing == 1).all()
