"""The losses of heads that classify masks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spcnet.config import HeadConfig
from spcnet.distributed import MicroBatchSums
from spcnet.losses import masks as mask_losses_module
from spcnet.losses.masks import (
    BCE_WEIGHT,
    CLASS_WEIGHT,
    DICE_WEIGHT,
    NO_OBJECT,
    MaskLosses,
    classes_at,
    draw_points,
    mask_losses,
    match,
    point_bce,
    point_dice,
    present_classes,
    sample_shared,
    uncertain_points,
)
from spcnet.types import IGNORE_INDEX, MaskPrediction

K, POINTS = 5, 64


def prediction(images: int = 3, queries: int = 9, *, seed: int = 0, size: tuple[int, int] = (12, 16)) -> MaskPrediction:
    random = torch.Generator().manual_seed(seed)
    classes = torch.randn(images, queries, K + 1, generator=random, dtype=torch.float64)
    masks = 3 * torch.randn(images, queries, *size, generator=random, dtype=torch.float64)
    return MaskPrediction(classes.requires_grad_(), masks.requires_grad_())


def labels(images: int = 3, *, seed: int = 0) -> Tensor:
    """Blocks of 8×8 pixels of four of the five classes."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, K - 1, (images, 6, 8), generator=random).repeat_interleave(8, 1).repeat_interleave(8, 2)


def total(losses: MaskLosses) -> Tensor:
    return CLASS_WEIGHT * losses.classes + BCE_WEIGHT * losses.bce + DICE_WEIGHT * losses.dice


def perfect(label: Tensor, queries: int = 9, *, sure: float = 200.0) -> MaskPrediction:
    """Query k + 1 finds class k where the image has it; the others say that they found nothing. Masks as large as labels."""
    classes = torch.zeros(len(label), queries, K + 1, dtype=torch.float64)
    masks = torch.full((len(label), queries, *label.shape[1:]), -sure, dtype=torch.float64)
    classes[:, :, K] = sure
    for number, own in enumerate(label):
        for k in own.unique().tolist():
            if k != IGNORE_INDEX:
                classes[number, k + 1] = sure * (torch.arange(K + 1) == k)
                masks[number, k + 1][own == k] = sure
    return MaskPrediction(classes.requires_grad_(), masks.requires_grad_())


def theirs(monkeypatch: pytest.MonkeyPatch, points: Tensor) -> Callable[..., dict[str, Tensor]]:
    """The losses of transformers, which get the points of ours wherever they draw random ones."""
    module = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    config = module.Mask2FormerConfig(
        num_labels=K, train_num_points=POINTS, class_weight=2.0, mask_weight=5.0, dice_weight=5.0, no_object_weight=0.1
    )
    drawn = draw_points(POINTS, 0.25, points)
    by_count = {len(part): part for part in (drawn.matching, drawn.candidates, drawn.others)}
    assert len(by_count) == 3
    monkeypatch.setattr(torch, "rand", lambda *size, device=None: by_count[size[1]].repeat(size[0], 1, 1))
    loss = module.Mask2FormerLoss(config, {}).double()
    loss.empty_weight[-1] = NO_OBJECT  # made in single precision

    def compute(one: MaskPrediction, label: Tensor) -> dict[str, Tensor]:
        found = [own.unique() for own in label]
        masks = [(own == k[:, None, None]).double() for own, k in zip(label, found, strict=True)]
        result: dict[str, Tensor] = loss(one.masks, one.classes, masks, found)
        return result

    return compute


@pytest.mark.parametrize("queries", [9, 2])
def test_losses_and_gradients_are_those_of_transformers(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, label = prediction(queries=queries), labels()
    found = mask_losses([ours], label, num_points=POINTS, progress=0.25)
    gradient = torch.autograd.grad(total(found), ours)
    expected = theirs(monkeypatch, ours.masks)(ours, label)
    wanted = (expected["loss_cross_entropy"], expected["loss_mask"], expected["loss_dice"])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    again = torch.autograd.grad(total(MaskLosses(*wanted)), ours)
    for one, other in zip(gradient, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
        assert bool(one.any())


def test_queries_are_matched_as_in_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    label = labels()
    drawn = draw_points(POINTS, 0.0, prediction().masks)
    monkeypatch.setattr(torch, "rand", lambda *size, device=None: drawn.matching.repeat(size[0], 1, 1))
    matcher = module.Mask2FormerHungarianMatcher(2.0, 5.0, 5.0, POINTS)
    found = [own.unique() for own in label]
    for seed in range(5):
        one = prediction(seed=seed)
        (ours,) = match([one], label, present_classes(label, K), drawn.matching)
        masks = [(own == k[:, None, None]).double() for own, k in zip(label, found, strict=True)]
        pairs = matcher(one.masks, one.classes, masks, found)
        assert ours.query.tolist() == torch.cat([query for query, _ in pairs]).tolist()
        assert ours.label.tolist() == torch.cat([k[at] for k, (_, at) in zip(found, pairs, strict=True)]).tolist()


@pytest.mark.parametrize("fixed", [False, True])
def test_masks_that_are_right_cost_nothing(fixed: bool) -> None:
    label = labels()
    right = perfect(label)
    if fixed:
        right = MaskPrediction(right.classes[:, 1 : K + 1], right.masks[:, 1 : K + 1])
    # Between the pixels of two classes a point has a part of both, and masks of the network are crossed there: no such points.
    grid = torch.cartesian_prod(torch.arange(64), torch.arange(48)).double()
    points = mask_losses_module.Points(*(((grid + 0.5) / torch.tensor([64, 48])),) * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_losses_module, "draw_points", lambda *_: points)
        losses = mask_losses([right], label, num_points=len(grid), fixed_queries=fixed)
        wrong = mask_losses([right], label.roll(20, 2), num_points=len(grid), fixed_queries=fixed)
    assert total(losses).item() < 1e-12
    assert wrong.dice.item() > 0.1


def test_the_order_of_the_queries_does_not_matter() -> None:
    one, label = prediction(), labels()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    other = MaskPrediction(one.classes[:, order], one.masks[:, order])
    for value, again in zip(*(mask_losses([p], label, num_points=POINTS) for p in (one, other)), strict=True):
        torch.testing.assert_close(value, again)


def test_with_fixed_queries_the_order_does_matter_and_nothing_is_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    one, label = prediction(queries=K), labels()
    monkeypatch.setattr(mask_losses_module, "match", None)
    other = MaskPrediction(one.classes.flip(1), one.masks.flip(1))
    first, second = (total(mask_losses([p], label, num_points=POINTS, fixed_queries=True)) for p in (one, other))
    assert not torch.allclose(first, second)


def test_the_classes_of_fixed_queries_are_a_cross_entropy_of_their_own_class_or_no_object() -> None:
    one = prediction(images=1, queries=K)
    label = torch.zeros(1, 48, 64, dtype=torch.long)  # class 0 alone
    found = mask_losses([one], label, num_points=POINTS, fixed_queries=True).classes
    logarithms = one.classes[0].log_softmax(1)
    right = logarithms[0, 0] + NO_OBJECT * logarithms[1:, K].sum()
    torch.testing.assert_close(found, -right / (1 + NO_OBJECT * (K - 1)))


@pytest.mark.parametrize("fixed", [False, True])
def test_where_every_pixel_is_ignored_losses_and_gradients_are_zero(fixed: bool) -> None:
    one = prediction(queries=K)
    found = mask_losses([one], torch.full_like(labels(), IGNORE_INDEX), num_points=POINTS, fixed_queries=fixed)
    assert [value.item() for value in found] == [0, 0, 0]
    for gradient in torch.autograd.grad(total(found), one):
        assert not bool(gradient.any())


def test_an_image_that_is_ignored_whole_changes_nothing() -> None:
    one, label = prediction(), labels()
    alone = mask_losses([MaskPrediction(one.classes[:2], one.masks[:2])], label[:2], num_points=POINTS)
    label[2] = IGNORE_INDEX
    for value, other in zip(mask_losses([one], label, num_points=POINTS), alone, strict=True):
        torch.testing.assert_close(value, other)


def test_what_a_mask_says_of_ignored_pixels_has_no_gradient() -> None:
    one, label = prediction(size=(48, 64)), labels()
    label[:, :, 40:] = IGNORE_INDEX
    gradient = torch.autograd.grad(total(mask_losses([one], label, num_points=2000)), one.masks)[0]
    assert bool(gradient[..., :40].any())
    assert not bool(gradient[..., 41:].any())  # a point before the centre of column 40 lies on both


def test_points_on_ignored_pixels_are_taken_last() -> None:
    label = labels(1)
    label[:, :, 8:] = IGNORE_INDEX
    points = draw_points(100, 0.0, torch.zeros((), dtype=torch.float64))
    masks = torch.ones(2, 48, 64, dtype=torch.float64)
    masks[:, :, 8:] = 0  # as uncertain as can be
    chosen = uncertain_points(masks, label, torch.zeros(2, dtype=torch.long), points)
    free = int((points.candidates[:, 0] * 64 < 8.5).sum())
    assert 0 < free < 75
    assert chosen.shape == (2, 100, 2)
    assert int((chosen[0, :75, 0] * 64 < 8.5).sum()) == free


def test_most_points_are_those_at_which_a_mask_is_least_certain() -> None:
    points = draw_points(100, 0.0, torch.zeros((), dtype=torch.float64))
    ramp = torch.linspace(-8, 8, 64, dtype=torch.float64).expand(1, 48, 64)
    chosen = uncertain_points(ramp, labels(1), torch.zeros(1, dtype=torch.long), points)[0, :75]
    near = sample_shared(ramp[None], chosen).abs().max()
    others = sample_shared(ramp[None], points.candidates)[0, 0].abs().sort().values
    assert float(near) == pytest.approx(float(others[74]))


def test_classes_between_pixels_are_those_of_grid_sample() -> None:
    label = labels()
    points = torch.rand(3, 500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.arange(K)
    share, weight = classes_at(label, torch.arange(3), points, wanted)
    masks = (label[:, None] == wanted[:, None, None]).double()
    expected = torch.nn.functional.grid_sample(masks, 2 * points[:, None] - 1, align_corners=False)[:, :, 0]
    torch.testing.assert_close(share, expected)
    assert bool((weight == 1).all())


def test_predictions_are_summed() -> None:
    layers, label = [prediction(seed=seed) for seed in range(3)], labels()
    joined = mask_losses(layers, label, num_points=POINTS)
    single = [mask_losses([layer], label, num_points=POINTS) for layer in layers]
    for value, *parts in zip(joined, *single, strict=True):
        torch.testing.assert_close(value, torch.stack(parts).sum())


def test_losses_in_parts_are_those_of_the_whole_batch() -> None:
    one, label = prediction(), labels()
    label[0, :24] = IGNORE_INDEX
    whole = mask_losses([one], label, num_points=POINTS, progress=0.5)
    expected = torch.autograd.grad(total(whole), one)
    sums, gradients = MicroBatchSums(), []
    for turn in range(2):
        for part in (slice(0, 1), slice(1, 3)):
            own = MaskPrediction(*(value[part].detach().requires_grad_() for value in one))
            sums.begin()
            found = mask_losses([own], label[part], num_points=POINTS, progress=0.5, reduce=sums)
            if turn:
                gradients.append(torch.autograd.grad(total(found), own))
                torch.testing.assert_close(torch.stack(found), torch.stack(whole))
        if not turn:
            sums.close()
    for both, wanted in zip(zip(*gradients, strict=True), expected, strict=True):
        torch.testing.assert_close(torch.cat(both), wanted)


def test_points_differ_from_iteration_to_iteration_and_are_drawn_again_alike() -> None:
    before = torch.random.get_rng_state()
    like = torch.zeros((), dtype=torch.float64)
    first, second, again = (draw_points(POINTS, at, like) for at in (1 / 40_000, 2 / 40_000, 1 / 40_000))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first.matching, second.matching)
    assert torch.equal(torch.random.get_rng_state(), before)  # dropout and taps draw what they drew


def test_half_precision_is_lifted() -> None:
    one, label = prediction(), labels()
    half = MaskPrediction(*(value.detach().bfloat16() for value in one))
    found = mask_losses([half], label, num_points=POINTS)
    exact = mask_losses([MaskPrediction(*(value.float() for value in half))], label, num_points=POINTS)
    assert all(torch.equal(value, other) for value, other in zip(found, exact, strict=True))


def test_a_prediction_that_is_not_finite_is_matched_and_told_by_the_loss() -> None:
    one = prediction()
    broken = MaskPrediction(one.classes, one.masks * torch.nan)
    assert bool(mask_losses([broken], labels(), num_points=POINTS).bce.isnan())


@pytest.mark.parametrize("loss", [point_bce, point_dice])
def test_gradients_are_those_of_differences(loss: Callable[..., Tensor]) -> None:
    random = torch.Generator().manual_seed(0)
    logits, weight = (torch.rand(2, 7, generator=random, dtype=torch.float64) for _ in range(2))
    share = weight * torch.rand(2, 7, generator=random, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, share, weight), (4 * logits - 2).requires_grad_())


def test_weights_and_points_are_the_published_ones() -> None:
    module = pytest.importorskip("transformers", exc_type=ImportError)
    config = module.Mask2FormerConfig()
    assert config.no_object_weight == mask_losses_module.NO_OBJECT
    assert (
        config.class_weight, config.mask_weight, config.dice_weight,
    ) == (
        mask_losses_module.CLASS_WEIGHT, mask_losses_module.BCE_WEIGHT, mask_losses_module.DICE_WEIGHT,
    )  # fmt: skip
    assert (config.oversample_ratio, config.importance_sample_ratio) == (
        mask_losses_module.OVERSAMPLE,
        mask_losses_module.IMPORTANCE,
    )
    assert HeadConfig().points == config.train_num_points
