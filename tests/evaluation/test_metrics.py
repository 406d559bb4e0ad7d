import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from spcnet.errors import DataError, UsageError
from spcnet.evaluation.metrics import (
    absent,
    bootstrap_mean_iou,
    class_accuracy,
    classify,
    confusion,
    frequency_weighted_iou,
    iou,
    mean_iou,
    outcome,
    pixel_accuracy,
    precision,
)


@st.composite
def segmentations(draw):
    """Number of classes, a prediction and a label of one size; the label has ignored pixels."""
    num_classes = draw(st.integers(1, 7))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=9))
    classes = st.integers(0, num_classes - 1)
    prediction = draw(hnp.arrays(np.int64, shape, elements=classes))
    label = draw(hnp.arrays(np.int64, shape, elements=classes | st.just(255)))
    return num_classes, torch.from_numpy(prediction), torch.from_numpy(label)


def slow_confusion(prediction, label, num_classes):
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for seen, true in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
        if true != 255:
            counts[true, seen] += 1
    return counts


def slow_iou(prediction, label, num_classes):
    scores = []
    for k in range(num_classes):
        both = either = 0
        for seen, true in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
            if true != 255:
                both += seen == k and true == k
                either += seen == k or true == k
        scores.append(both / either if either else float("nan"))
    return scores


@given(segmentations())
@settings(deadline=None, max_examples=60)
def test_the_counts_are_those_of_the_slow_loop(case):
    num_classes, prediction, label = case
    counts = confusion(prediction, label, num_classes=num_classes)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, slow_confusion(prediction, label, num_classes))


@given(segmentations())
@settings(deadline=None, max_examples=60)
def test_the_scores_are_those_of_the_slow_loop(case):
    num_classes, prediction, label = case
    counts = confusion(prediction, label, num_classes=num_classes)
    expected = slow_iou(prediction, label, num_classes)
    np.testing.assert_allclose(iou(counts).numpy(), expected, rtol=1e-15)
    known = [score for score in expected if not np.isnan(score)]
    np.testing.assert_allclose(mean_iou(counts), np.mean(known) if known else np.nan, rtol=1e-14)
    kept = label != 255
    right = (prediction == label)[kept].double()
    np.testing.assert_allclose(pixel_accuracy(counts), right.mean().item(), rtol=1e-14)
    recall = [(prediction == k)[label == k].double().mean().item() for k in range(num_classes)]
    np.testing.assert_allclose(class_accuracy(counts).numpy(), recall, rtol=1e-14)
    assert absent(counts) == [k for k in range(num_classes) if not (label == k).any()]


@given(segmentations(), st.integers(0, 8))
@settings(deadline=None, max_examples=40)
def test_counting_in_parts_changes_nothing(case, cut):
    num_classes, prediction, label = case
    parts = [confusion(p, t, num_classes=num_classes) for p, t in
             [(prediction[:cut], label[:cut]), (prediction[cut:], label[cut:])]]  # fmt: skip
    assert torch.equal(parts[0] + parts[1], confusion(prediction, label, num_classes=num_classes))


def test_rows_are_the_truth_and_columns_the_prediction():
    counts = confusion(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 255]), num_classes=2)
    assert counts.tolist() == [[0, 2], [0, 0]]


def test_a_class_that_is_nowhere_has_no_iou_and_does_not_enter_the_mean():
    counts = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    scores = iou(counts)
    assert scores[2].isnan()
    assert mean_iou(counts) == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_a_class_that_is_only_predicted_has_iou_zero_and_is_named():
    counts = torch.tensor([[3, 1], [0, 0]])
    assert iou(counts).tolist() == [0.75, 0.0]
    assert absent(counts) == [1]


def test_an_unlabelled_domain_has_no_score():
    counts = torch.zeros(3, 3, dtype=torch.int64)
    assert np.isnan(mean_iou(counts))
    assert np.isnan(pixel_accuracy(counts))


def test_counts_beyond_the_precision_of_floats_are_exact():
    big = torch.full((2, 2), 2**24, dtype=torch.int64)
    assert (big + confusion(torch.tensor([0]), torch.tensor([0]), num_classes=2)).sum() == 4 * 2**24 + 1


@pytest.mark.parametrize("value", [3, 30, 254, 256, -1, 1000])
def test_a_label_that_is_no_class_is_refused_by_its_value(value):
    with pytest.raises(DataError, match=rf"holds the class {value}: there are only 0\.\.2 and 255"):
        confusion(torch.tensor([0, 1]), torch.tensor([0, value]), num_classes=3)


@pytest.mark.parametrize("value", [3, -1])
def test_a_prediction_that_is_no_class_is_refused(value):
    with pytest.raises(UsageError, match=r"there are only 0\.\.2"):
        confusion(torch.tensor([0, value]), torch.tensor([0, 0]), num_classes=3)


def test_an_empty_image_counts_nothing():
    nothing = torch.zeros(0, 4, dtype=torch.int64)
    assert confusion(nothing, nothing, num_classes=3).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize("size", [(7, 9), (21, 40), (3, 5), (1, 1)])
def test_classes_are_those_of_the_upsampled_scores(size):
    logits = torch.randn(6, 7, 9, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=True)[0].argmax(dim=0)
    assert torch.equal(classify(logits, size=size), whole)


@pytest.mark.parametrize("size", [(2, 2), (4, 6)])
def test_between_equal_scores_the_lower_class_wins(size):
    logits = torch.zeros(3, 2, 2)
    logits[0] = -1
    assert (classify(logits, size=size) == 1).all()


def test_scores_of_half_precision_are_upsampled_in_full():
    logits = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(classify(logits, size=(64, 64)), classify(logits.float(), size=(64, 64)))


# precision, weighted mean, interval -----------------------------------------------------------------------------------


def test_precision_is_of_the_predicted_pixels_and_the_weighted_mean_of_the_true_ones():
    counts = torch.tensor([[6, 2, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(precision(counts), [1.0, 1 / 3, np.nan])
    np.testing.assert_allclose(class_accuracy(counts), [6 / 8, 1.0, np.nan])
    assert frequency_weighted_iou(counts) == pytest.approx(8 / 9 * 6 / 8 + 1 / 9 * 1 / 3)
    assert np.isnan(frequency_weighted_iou(torch.zeros(2, 2, dtype=torch.int64)))


def test_what_becomes_of_an_image_suffices_for_its_iou():
    counts = torch.tensor([[6, 2, 0], [3, 1, 5], [0, 0, 0]])
    hit, truth, taken = outcome(counts).double()
    np.testing.assert_allclose(hit / (truth + taken - hit), iou(counts))


def images_of(scores, *, seed=0):
    """Images of two classes, each with 1000 pixels a class, of which the given share is right."""
    right = (torch.tensor(scores) * 1000).long()
    return torch.stack([outcome(torch.tensor([[n, 1000 - n], [1000 - n, n]])) for n in right.tolist()])


def test_equal_images_leave_no_doubt_and_unequal_ones_as_much_as_statistics_says():
    assert bootstrap_mean_iou(images_of([0.8] * 20)) == pytest.approx((0.8 / 1.2, 0.8 / 1.2))
    dice = np.random.default_rng(0)
    shares = dice.uniform(0.4, 1.0, 100)
    low, high = bootstrap_mean_iou(images_of(shares), resamples=10_000)
    mean, error = shares.mean(), shares.std() / np.sqrt(len(shares))
    expected = [(mean + z * error) / (2 - mean - z * error) for z in (-1.96, 1.96)]
    assert (low, high) == pytest.approx(expected, abs=0.003)
    narrow = bootstrap_mean_iou(images_of(shares), level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_interval_is_the_same_each_time_and_nan_without_labels():
    outcomes = images_of(np.linspace(0.3, 0.9, 10))
    assert bootstrap_mean_iou(outcomes) == bootstrap_mean_iou(outcomes) != bootstrap_mean_iou(outcomes, seed=1)
    assert np.isnan(bootstrap_mean_iou(torch.zeros(3, 3, 4, dtype=torch.int64))).all()


def test_a_class_that_some_resamples_lack_does_not_enter_their_mean():
    """A class on one image of twenty: without it the others decide alone."""
    outcomes = torch.zeros(20, 3, 2, dtype=torch.int64)
    outcomes[:, :, 0] = 100
    outcomes[0, 1, 1] = 50  # there, and never found
    assert bootstrap_mean_iou(outcomes) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize("align_corners", [True, False])
def test_scores_are_brought_to_a_size_with_the_corners_or_the_edges_aligned(align_corners: bool) -> None:
    scores = torch.randn(5, 6, 9, generator=torch.Generator().manual_seed(3))
    wanted = F.interpolate(scores[None], size=(31, 40), mode="bilinear", align_corners=align_corners)[0].argmax(0)
    assert torch.equal(classify(scores, size=(31, 40), align_corners=align_corners), wanted)
    assert not torch.equal(classify(scores, size=(31, 40), align_corners=not align_corners), wanted)
