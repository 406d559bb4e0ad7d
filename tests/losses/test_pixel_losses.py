"""Focal loss, hard pixels, Dice and the Lovasz extension against plain references, one pixel at a time."""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations

import pytest
import torch
from torchmetrics.functional.segmentation import dice_score

from spcnet.distributed import MicroBatchSums
from spcnet.losses.overlap import dice_loss, jaccard_steps, lovasz_softmax
from spcnet.losses.segmentation import cross_entropy, focal_loss, hard_pixel_loss
from spcnet.types import IGNORE_INDEX
from tests.support.devices import mixed, near, rounded

Loss = Callable[..., torch.Tensor]
LOSSES: dict[str, Loss] = {
    "focal": focal_loss,
    "steep": partial(focal_loss, gamma=0.5),
    "ohem": partial(hard_pixel_loss, threshold=0.3, least=0.4),
    "dice": dice_loss,
    "lovasz": lovasz_softmax,
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


def case(device: str, *, images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """The last image lacks a class, no image has the class 4, and two rows are ignored."""
    dice = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (images, 5, 6), generator=dice)
    label[0, :2] = IGNORE_INDEX
    label[-1][label[-1] == 3] = 0
    logits = torch.randn(images, 5, 5, 6, generator=dice, dtype=torch.double)
    return logits.to(device).requires_grad_(), label.to(device)


def pixels_of(scores: torch.Tensor, label: torch.Tensor) -> list[tuple[torch.Tensor, int]]:
    """Probabilities and class of each labelled pixel of an image."""
    rows = scores.detach().softmax(0).permute(1, 2, 0)[label != IGNORE_INDEX].cpu()
    return list(zip(rows, label[label != IGNORE_INDEX].tolist(), strict=True))


def images_of(logits: torch.Tensor, label: torch.Tensor) -> list[list[tuple[torch.Tensor, int]]]:
    return [pixels_of(*image) for image in zip(logits, label, strict=True)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_weighs_each_pixel_by_how_wrong_it_is(gamma: float, device: str) -> None:
    logits, label = case(device)
    chances = [float(row[k]) for image in images_of(logits, label) for row, k in image]
    expected = mean([-((1 - p) ** gamma) * math.log(p) for p in chances])
    assert float(focal_loss(logits, label, gamma=gamma).detach()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("threshold", "least"), [(0.3, 0.0), (0.05, 0.4), (0.3, 0.4), (0.05, 1.0)])
def test_hard_pixels_are_those_below_the_threshold_and_a_smallest_share(
    threshold: float, least: float, device: str
) -> None:
    logits, label = case(device)
    costs = []
    for image in images_of(logits, label):
        chances = sorted(float(row[k]) for row, k in image)
        number = max(math.ceil(least * len(chances)), sum(p < threshold for p in chances))
        costs += [-math.log(p) for p in chances[:number]]
    found = hard_pixel_loss(logits, label, threshold=threshold, least=least)
    assert float(found.detach()) == pytest.approx(mean(costs), abs=1e-12)


def test_where_all_pixels_are_hard_the_loss_is_the_cross_entropy(device: str) -> None:
    logits, label = case(device)
    expected = cross_entropy(logits, label)
    torch.testing.assert_close(hard_pixel_loss(logits, label, threshold=1.0, least=0.0), expected)
    torch.testing.assert_close(hard_pixel_loss(logits, label, threshold=1e-9, least=1.0), expected)


def test_easy_pixels_get_no_gradient(device: str) -> None:
    logits, label = case(device)
    (gradient,) = torch.autograd.grad(hard_pixel_loss(logits, label, threshold=0.3, least=0.0), logits)
    chance = logits.detach().softmax(1).gather(1, label.clamp(max=4)[:, None])[:, 0]
    hard = (chance < 0.3) & (label != IGNORE_INDEX)
    assert torch.equal(gradient.abs().sum(1) > 0, hard)


def test_dice_compares_the_regions_of_the_whole_batch(device: str) -> None:
    logits, label = case(device)
    pixels = [pixel for image in images_of(logits, label) for pixel in image]
    costs = []
    for k in {k for _, k in pixels}:
        both = sum(float(row[k]) for row, own in pixels if own == k)
        total = sum(float(row[k]) for row, _ in pixels) + sum(own == k for _, own in pixels)
        costs.append(1 - 2 * both / total)
    assert float(dice_loss(logits, label).detach()) == pytest.approx(mean(costs), abs=1e-12)


def test_dice_of_certain_scores_is_that_of_torchmetrics() -> None:
    logits, label = case("cpu")
    label = torch.where(label == IGNORE_INDEX, 0, label)
    truth, guess = (
        torch.nn.functional.one_hot(index, 5).movedim(-1, 1) for index in (label, logits.detach().argmax(1))
    )
    regions = [one.movedim(1, 0).flatten(1)[None] for one in (guess, truth)]  # the batch as one image
    scores = dice_score(*regions, num_classes=5, average="none")[0]
    expected = 1 - scores[truth.sum((0, 2, 3)) > 0].double().mean()
    torch.testing.assert_close(dice_loss(1e4 * guess.double(), label), expected, rtol=0, atol=1e-6)


def one_minus_iou(wrong: set[int], member: list[bool]) -> float:
    """Of a class, when the pixels of a set are wrong: those of the class are missed, the others are taken for it."""
    own = {i for i, m in enumerate(member) if m}
    return 1 - len(own - wrong) / len(own | wrong) if own | wrong else 0.0


def lovasz_by_definition(error: list[float], member: list[bool]) -> float:
    """Berman et al., Eq. 8 and 9: the pixels sorted by their errors, each times how much its joining adds."""
    order = sorted(range(len(error)), key=lambda i: -error[i])
    total, wrong = 0.0, set[int]()
    for i in order:
        total += error[i] * (one_minus_iou(wrong | {i}, member) - one_minus_iou(wrong, member))
        wrong |= {i}
    return total


def test_lovasz_is_its_definition_for_each_image_and_class(device: str) -> None:
    logits, label = case(device)
    images = []
    for image in images_of(logits, label):
        costs = []
        for k in {k for _, k in image}:
            member = [own == k for _, own in image]
            error = [1 - float(row[k]) if m else float(row[k]) for (row, _), m in zip(image, member, strict=True)]
            costs.append(lovasz_by_definition(error, member))
        images.append(mean(costs))
    assert float(lovasz_softmax(logits, label).detach()) == pytest.approx(mean(images), abs=1e-12)


def test_lovasz_agrees_with_the_iou_on_every_set_of_wrong_pixels() -> None:
    """What makes it an extension: at the corners of the cube of errors it is 1 - IoU."""
    member = [True, True, False, False, False]
    for size in range(6):
        for wrong in map(set, combinations(range(5), size)):
            order = sorted(range(5), key=lambda i: i not in wrong)
            steps = jaccard_steps(torch.tensor([[member[i] for i in order]]), torch.double)[0]
            assert float(steps[:size].sum()) == pytest.approx(one_minus_iou(wrong, member), abs=1e-12)


def test_steps_of_a_large_image_keep_their_digits() -> None:
    member = torch.rand(1, 2**20, generator=torch.Generator().manual_seed(0)) < 0.01
    exact = jaccard_steps(member, torch.double)
    torch.testing.assert_close(jaccard_steps(member, torch.float32).double(), exact, rtol=1e-6, atol=0)


# what all keep --------------------------------------------------------------------------------------------------------


@each_loss
def test_gradients_are_those_of_the_values(loss: Loss, device: str) -> None:
    logits, label = case(device)
    assert torch.autograd.gradcheck(lambda x: loss(x, label), logits, nondet_tol=1e-12)


@each_loss
def test_ignored_pixels_neither_count_nor_learn(loss: Loss, device: str) -> None:
    logits, label = case(device)
    (gradient,) = torch.autograd.grad(loss(logits, label), logits)
    assert bool((gradient[0, :, :2] == 0).all())
    other = logits.detach().clone()
    other[0, :, :2] = 7 * torch.randn_like(other[0, :, :2])
    torch.testing.assert_close(loss(other, label), loss(logits.detach(), label), rtol=0, atol=1e-12)


@each_loss
def test_a_batch_without_labels_costs_nothing_and_stays_in_the_graph(loss: Loss, device: str) -> None:
    logits, label = case(device)
    nothing = loss(logits, torch.full_like(label, IGNORE_INDEX))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert float(nothing.detach()) == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


@each_loss
def test_an_image_without_labels_changes_nothing(loss: Loss, device: str) -> None:
    logits, label = case(device)
    blank = label.clone()
    blank[1] = IGNORE_INDEX
    torch.testing.assert_close(loss(logits, blank), loss(logits[[0, 2]], label[[0, 2]]), rtol=0, atol=1e-12)


@each_loss
def test_certain_and_right_costs_nothing_and_certain_and_wrong_stays_finite(loss: Loss, device: str) -> None:
    _, label = case(device)
    right = torch.nn.functional.one_hot(label.clamp(max=4), 5).movedim(-1, 1).float()
    for sign in (1, -1):
        logits = (1e3 * sign * right).requires_grad_()
        cost = loss(logits, label)
        (gradient,) = torch.autograd.grad(cost, logits)
        assert bool(gradient.isfinite().all())
        assert bool(cost.isfinite())
        assert (float(cost.detach()) == 0) == (sign == 1)


@each_loss
def test_parts_of_a_batch_have_the_gradient_of_the_whole(loss: Loss, device: str) -> None:
    logits, label = case(device, images=4)
    label[1] = IGNORE_INDEX
    (whole,) = torch.autograd.grad(loss(logits, label), logits)
    sums, parts, values = MicroBatchSums(), [slice(0, 1), slice(1, 2), slice(2, 4)], []
    gradient = torch.zeros_like(whole)
    for known in (False, True):
        for part in parts:
            sums.begin()
            piece = logits.detach()[part].requires_grad_()
            value = loss(piece, label[part], reduce=sums)
            if known:
                values.append(float(value.detach()))
                gradient[part] = torch.autograd.grad(value, piece)[0]
        if not known:
            sums.close()
    torch.testing.assert_close(gradient, whole, rtol=0, atol=1e-14)
    assert values == pytest.approx([float(loss(logits, label).detach())] * 3, abs=1e-14)


@each_loss
def test_in_each_precision_the_loss_and_its_gradient_are_those_of_double(
    loss: Loss, device: str, dtype: torch.dtype
) -> None:
    exact, label = case(device)
    logits, same = rounded(exact, dtype)
    with mixed(device, dtype):
        ours = loss(logits, label)
    theirs = loss(same, label)
    assert ours.dtype == torch.float32
    near(ours, theirs, torch.float32)
    near(*(torch.autograd.grad(cost, x)[0] for cost, x in ((ours, logits), (theirs, same))), dtype)
