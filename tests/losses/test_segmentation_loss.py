"""Cross-entropy over the labelled pixels."""

import torch
import torch.nn.functional as F

from spcnet.losses.segmentation import cross_entropy
from spcnet.types import IGNORE_INDEX


def case() -> tuple[torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (2, 5, 6), generator=dice)
    label[0, :2] = IGNORE_INDEX
    return torch.randn(2, 4, 5, 6, generator=dice, dtype=torch.double).requires_grad_(), label


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    logits, label = case()
    rows = logits.permute(0, 2, 3, 1)[label != IGNORE_INDEX]
    expected = torch.stack([-row.log_softmax(0)[k] for row, k in zip(rows, label[label != IGNORE_INDEX], strict=True)])
    torch.testing.assert_close(cross_entropy(logits, label), expected.mean(), rtol=0, atol=1e-12)
    torch.testing.assert_close(cross_entropy(logits, label), F.cross_entropy(logits, label, ignore_index=IGNORE_INDEX))


def test_ignored_pixels_get_no_gradient() -> None:
    logits, label = case()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, label), logits)
    assert bool((gradient[0, :, :2] == 0).all())
    assert bool((gradient[1] != 0).all())


def test_a_batch_without_labels_gives_zero_and_stays_in_the_graph() -> None:
    logits, label = case()
    loss = cross_entropy(logits, torch.full_like(label, IGNORE_INDEX))
    assert float(loss.detach()) == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient, torch.zeros_like(logits))


def test_half_precision_scores_are_compared_in_single() -> None:
    logits, label = case()
    loss = cross_entropy(logits.detach().bfloat16(), label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.detach().bfloat16().float(), label, ignore_index=255))


def test_gradients_are_those_of_the_values() -> None:
    logits, label = case()
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, label), logits)
