"""Cross-entropy over the labelled pixels, with weights and with relaxed borders."""

import math

import pytest
import torch
import torch.nn.functional as F

from spcnet.losses.segmentation import cross_entropy, frequency_weights
from spcnet.types import IGNORE_INDEX
from tests.support.devices import mixed, near, rounded


def case(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (2, 5, 6), generator=dice)
    label[0, :2] = IGNORE_INDEX
    logits = torch.randn(2, 4, 5, 6, generator=dice, dtype=torch.double)
    return logits.to(device).requires_grad_(), label.to(device)


def test_cross_entropy_is_the_mean_over_labelled_pixels(device: str) -> None:
    logits, label = case(device)
    rows = logits.permute(0, 2, 3, 1)[label != IGNORE_INDEX]
    expected = torch.stack([-row.log_softmax(0)[k] for row, k in zip(rows, label[label != IGNORE_INDEX], strict=True)])
    torch.testing.assert_close(cross_entropy(logits, label), expected.mean(), rtol=0, atol=1e-12)
    torch.testing.assert_close(cross_entropy(logits, label), F.cross_entropy(logits, label, ignore_index=IGNORE_INDEX))


def test_ignored_pixels_get_no_gradient(device: str) -> None:
    logits, label = case(device)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, label), logits)
    assert bool((gradient[0, :, :2] == 0).all())
    assert bool((gradient[1] != 0).all())


def test_a_batch_without_labels_gives_zero_and_stays_in_the_graph(device: str) -> None:
    logits, label = case(device)
    loss = cross_entropy(logits, torch.full_like(label, IGNORE_INDEX))
    assert float(loss.detach()) == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient, torch.zeros_like(logits))


@pytest.mark.parametrize("border", [0, 1])
def test_in_each_precision_the_loss_and_its_gradient_are_those_of_double(
    border: int, device: str, dtype: torch.dtype
) -> None:
    exact, label = case(device)
    logits, same = rounded(exact, dtype)
    with mixed(device, dtype):
        ours = cross_entropy(logits, label, border=border)
    theirs = cross_entropy(same, label, border=border)
    assert ours.dtype == torch.float32
    near(ours, theirs, torch.float32)
    near(*(torch.autograd.grad(loss, x)[0] for loss, x in ((ours, logits), (theirs, same))), dtype)


def test_half_precision_scores_are_compared_in_single(device: str) -> None:
    logits, label = case(device)
    loss = cross_entropy(logits.detach().bfloat16(), label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.detach().bfloat16().float(), label, ignore_index=255))


def test_gradients_are_those_of_the_values(device: str) -> None:
    logits, label = case(device)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, label), logits, nondet_tol=1e-12)


# weights and borders ---------------------------------------------------------------------------------------------------


def slow(
    logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor, border: int = 0, strict: tuple[int, ...] = ()
) -> list[list[tuple[float, float]]]:
    """Loss and weight of every labelled pixel of every image, one pixel at a time."""
    images = []
    for scores, truth, own in zip(logits.detach(), label, weight, strict=True):
        pixels, (height, width) = [], truth.shape
        for y in range(height):
            for x in range(width):
                centre = int(truth[y, x])
                if centre == IGNORE_INDEX:
                    continue
                window = truth[max(y - border, 0) : y + border + 1, max(x - border, 0) : x + border + 1]
                classes = {centre} if centre in strict else set(window.flatten().tolist()) - {IGNORE_INDEX}
                chance = sum(float(scores[:, y, x].softmax(0)[k]) for k in classes)
                pixels.append((-math.log(chance), sum(float(own[k]) for k in classes) / len(classes)))
        images.append(pixels)
    return images


def weighted_mean(pixels: list[tuple[float, float]]) -> float:
    return sum(cost * weight for cost, weight in pixels) / sum(weight for _, weight in pixels)


@pytest.mark.parametrize(("border", "strict"), [(0, ()), (1, ()), (2, ()), (1, (0, 3))])
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_and_borders_are_what_a_loop_over_the_pixels_gives(
    border: int, strict: tuple[int, ...], weighted: bool, device: str
) -> None:
    logits, label = case(device)
    weight = 0.5 + torch.rand(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.double).to(device)
    images = slow(logits, label, weight if weighted else torch.ones_like(weight), border, strict)
    given = weight if weighted else None
    found = cross_entropy(logits, label, weight=given, border=border, strict=strict)
    assert float(found.detach()) == pytest.approx(weighted_mean([p for pixels in images for p in pixels]), abs=1e-12)
    apart = cross_entropy(logits, label, weight=given, border=border, strict=strict, per_image=True)
    assert float(apart.detach()) == pytest.approx(sum(map(weighted_mean, images)) / 2, abs=1e-12)


def test_fixed_weights_are_those_of_pytorch(device: str) -> None:
    logits, label = case(device)
    weight = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.double, device=device)
    expected = F.cross_entropy(logits, label, weight, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(cross_entropy(logits, label, weight=weight), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("border", "per_image"), [(1, False), (1, True), (0, True)])
def test_gradients_with_weights_and_borders_are_those_of_the_values(border: int, per_image: bool, device: str) -> None:
    logits, label = case(device)
    weight = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.double, device=device)
    assert torch.autograd.gradcheck(
        lambda x: cross_entropy(x, label, weight=weight, border=border, per_image=per_image), logits, nondet_tol=1e-12
    )


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("border", [0, 1])
def test_images_without_labels_cost_nothing_whatever_the_form(border: int, per_image: bool, device: str) -> None:
    logits, label = case(device)
    some = label.clone()
    some[1] = IGNORE_INDEX
    alone = cross_entropy(
        logits[:1], label[:1], weight=torch.ones(4, device=device), border=border, per_image=per_image
    )
    beside = cross_entropy(logits, some, weight=torch.ones(4, device=device), border=border, per_image=per_image)
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-12)
    nothing = cross_entropy(logits, torch.full_like(label, IGNORE_INDEX), border=border, per_image=per_image)
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert float(nothing.detach()) == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


def test_where_all_pixels_have_one_class_a_border_changes_nothing(device: str) -> None:
    logits, label = case(device)
    same = torch.full_like(label, 2)
    torch.testing.assert_close(cross_entropy(logits, same, border=3), cross_entropy(logits, same), rtol=0, atol=1e-12)


def test_a_rare_class_weighs_more(device: str) -> None:
    label = torch.tensor([[[0, 0, 0, 1], [0, 0, 0, IGNORE_INDEX]], [[2, 2, 2, 2], [2, 2, 2, 2]]], device=device)
    weight = frequency_weights(label, 4, bound=2.0)
    expected = [[1 + 2 / 7, 1 + 2 * 6 / 7, 1, 1], [1, 1, 1, 1]]
    torch.testing.assert_close(weight, torch.tensor(expected, device=device))
    whole = frequency_weights(label, 4, bound=2.0, batch=True)
    both = [1 + 2 * 9 / 15, 1 + 2 * 14 / 15, 1 + 2 * 7 / 15, 1]
    torch.testing.assert_close(whole, torch.tensor([both, both], device=device))
    assert torch.equal(frequency_weights(torch.full((1, 2, 2), IGNORE_INDEX, device=device), 4).cpu(), torch.ones(1, 4))
