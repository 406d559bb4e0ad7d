from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from spcnet.config import AugmentationConfig, DataConfig
from spcnet.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RandomBlur,
    RandomScaledCrop,
    denormalise,
    evaluation_transform,
    gaussian_blur,
    normalise,
    training_transform,
)
from spcnet.types import IGNORE_INDEX

SIZE = (48, 96)
STILL = AugmentationConfig(scale=(1, 1), flip=0, jitter=0, blur=None)
DATA = DataConfig(size=SIZE, augmentation=STILL)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def photo(height: int = 60, width: int = 90) -> tv_tensors.Image:
    return tv_tensors.Image(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))


def classes(height: int = 60, width: int = 90) -> tv_tensors.Mask:
    return tv_tensors.Mask(torch.randint(0, 19, (height, width), dtype=torch.uint8))


def blocks(height: int, width: int, cells: int = 3) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A picture whose red channel says the class: large blocks of 10 times the class."""
    rows, columns = torch.arange(height) * cells // height, torch.arange(width) * cells // width
    label = ((rows[:, None] * cells + columns) % 19).to(torch.uint8)
    return tv_tensors.Image((label * 10 + 30).expand(3, -1, -1).contiguous()), tv_tensors.Mask(label)


def test_normalise_is_what_torchvision_calls_it() -> None:
    image = photo()
    expected = (image.double() / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(
        3, 1, 1
    )
    assert torch.allclose(normalise(image).double(), expected, atol=1e-6)
    assert type(normalise(image)) is torch.Tensor


def test_denormalise_undoes_normalise_for_every_value_and_for_batches() -> None:
    image = torch.arange(256, dtype=torch.uint8).expand(2, 3, 1, 256).contiguous()
    assert torch.equal(denormalise(normalise(image)), image)
    assert denormalise(torch.full((3, 1, 1), 99.0)).min() == 255


def test_without_augmentation_the_training_image_is_the_evaluation_image() -> None:
    image, label = photo(), classes()
    trained, _ = training_transform(DATA)(image, label)
    assert torch.equal(trained, evaluation_transform(DATA)(image))


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 150), width=st.integers(1, 150), scale=st.floats(0.05, 4), seed=st.integers(0, 2**32))
def test_every_image_comes_out_in_the_wanted_size(height: int, width: int, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    transform = training_transform(replace(DATA, augmentation=AugmentationConfig(scale=(scale, scale * 1.5))))
    image, label = transform(photo(height, width), classes(height, width))
    assert image.shape == (3, *SIZE)
    assert label.shape == SIZE
    assert image.dtype == label.dtype == torch.uint8
    assert set(label.unique().tolist()) <= {*range(19), IGNORE_INDEX}


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.4, 2.0])
def test_image_and_label_move_together(scale: float) -> None:
    image, label = blocks(96, 192)
    transform = training_transform(
        replace(DATA, augmentation=AugmentationConfig(scale=(scale, scale), flip=0.5, jitter=0, blur=None))
    )
    for _ in range(20):
        moved, truth = transform(image, label)
        seen = truth != IGNORE_INDEX
        assert seen.any()
        # Apart from the blended borders between two blocks.
        assert ((moved[0].int() - 30 - truth.int() * 10).abs() < 5)[seen].float().mean() > 0.7


def test_a_label_takes_the_pixel_in_the_middle_of_each_cell() -> None:
    label = classes(SIZE[0] * 3, SIZE[1] * 3)
    _, small = training_transform(DATA)(photo(SIZE[0] * 3, SIZE[1] * 3), label)
    assert torch.equal(small, label[1::3, 1::3])
    assert isinstance(small, tv_tensors.Mask)


def test_an_image_scaled_up_is_the_middle_of_the_resized_image() -> None:
    image, label = blocks(96, 192)
    whole = evaluation_transform(replace(DATA, size=(96, 192)))(image)
    piece = RandomScaledCrop(SIZE, scale=(2, 2))
    found = False
    cut, _ = piece(image, label)
    for top in range(96 - SIZE[0] + 1):
        for left in range(192 - SIZE[1] + 1):
            found = found or torch.equal(whole[:, top : top + SIZE[0], left : left + SIZE[1]], cut)
    assert found


def test_an_image_scaled_down_lies_on_black_that_no_label_covers() -> None:
    transform = RandomScaledCrop(SIZE, scale=(0.5, 0.5))
    places = set()
    for _ in range(30):
        image, label = transform(tv_tensors.Image(torch.full((3, 60, 90), 200, dtype=torch.uint8)), classes())
        inside = label != IGNORE_INDEX
        assert inside.sum() == SIZE[0] // 2 * (SIZE[1] // 2)
        assert (image[:, inside] == 200).all()
        assert (image[:, ~inside] == 0).all()
        places.add(tuple(inside.nonzero()[0].tolist()))
    assert len(places) > 20


@pytest.mark.parametrize("size", [(96, 192), None])
def test_a_crop_is_cut_out_of_the_image_at_its_size(size: tuple[int, int] | None) -> None:
    """At twice the size each pixel of the image fills four of the result, at its own size one."""
    label = tv_tensors.Mask(torch.arange(48 * 96).view(48, 96))
    image = tv_tensors.Image((label % 251).to(torch.uint8).repeat(3, 1, 1))
    cut, truth = RandomScaledCrop(size, scale=(1, 1), crop=(40, 50))(image, label)
    assert cut.shape == (3, 40, 50)
    step = 2 if size else 1
    assert len(truth.unique()) == pytest.approx(40 * 50 / step**2, rel=0.1)
    assert int(truth[2 * step, 0] - truth[0, 0]) == 2 * 96
    with pytest.raises(ValueError, match="without a size there must be a crop"):
        RandomScaledCrop(None, scale=(1, 1))


def test_images_that_keep_their_size_are_scored_at_it() -> None:
    image = photo(37, 91)
    assert torch.equal(evaluation_transform(DataConfig(size=None, crop=(40, 40)))(image), image)


def test_the_scale_spreads_over_its_range() -> None:
    transform = RandomScaledCrop((100, 100), scale=(0.5, 1.0))
    shares = [
        float((transform(photo(20, 20), classes(20, 20))[1] != IGNORE_INDEX).float().mean()) ** 0.5 for _ in range(200)
    ]
    assert min(shares) < 0.53
    assert max(shares) > 0.97
    assert sum(shares) / len(shares) == pytest.approx(0.75, abs=0.04)


def test_every_part_of_the_image_can_be_cut_out() -> None:
    label = tv_tensors.Mask(
        torch.arange(100, dtype=torch.uint8).view(10, 10).repeat_interleave(8, 0).repeat_interleave(8, 1)
    )
    transform = RandomScaledCrop((40, 40), scale=(2, 2))
    seen: set[int] = set()
    for _ in range(60):
        seen |= set(transform(photo(80, 80), label)[1].unique().tolist())
    assert seen == set(range(100))


def test_the_flip_is_left_to_right_and_as_frequent_as_asked() -> None:
    image, label = photo(*SIZE), classes(*SIZE)
    transform = training_transform(replace(DATA, augmentation=replace(STILL, flip=0.25)))
    flipped = 0
    for _ in range(200):
        moved, truth = transform(image, label)
        flipped += torch.equal(truth, label.flip(1)) and torch.equal(moved, image.flip(2))
        assert torch.equal(truth, label) or torch.equal(truth, label.flip(1))
    assert 30 <= flipped <= 70


def test_jitter_changes_colours_as_often_as_asked_and_never_the_label() -> None:
    image, label = photo(*SIZE), classes(*SIZE)
    transform = training_transform(replace(DATA, augmentation=replace(STILL, jitter=0.75)))
    changed = 0
    for _ in range(60):
        moved, truth = transform(image, label)
        assert torch.equal(truth, label)
        changed += not torch.equal(moved, image)
    assert 33 <= changed <= 56


def test_blur_smooths_the_image_by_a_gaussian_and_leaves_the_label() -> None:
    point = torch.zeros(3, 41, 41, dtype=torch.uint8)
    point[:, 20, 20] = 255
    label = classes(41, 41)
    for sigma in (0.15, 0.7, 1.3, 3.0):
        image, truth = RandomBlur((sigma, sigma))(tv_tensors.Image(point), label)
        assert torch.equal(truth, label)
        d = torch.arange(-20, 21).double()
        kernel = torch.exp(-(d**2) / (2 * sigma**2))
        expected = 255 * torch.outer(kernel, kernel) / kernel.sum() ** 2
        assert (image[0].double() - expected).abs().max() < 2


def test_blur_keeps_an_even_picture_and_works_on_one_smaller_than_its_reach() -> None:
    for value in (0, 137, 255):
        even = torch.full((3, 5, 9), value, dtype=torch.uint8)
        assert torch.equal(gaussian_blur(even, sigma=4.0), even)


def test_blur_is_the_one_of_torchvision_inside_the_image() -> None:
    image = photo(40, 50)
    expected = v2.functional.gaussian_blur(image, [9, 9], [1.3, 1.3])
    found = gaussian_blur(image.as_subclass(torch.Tensor), sigma=1.3)
    assert (found.int() - expected.int())[:, 4:-4, 4:-4].abs().max() <= 1


def test_blur_draws_its_width_from_the_range() -> None:
    widths = [RandomBlur((0.5, 2.0)).make_params([])["sigma"] for _ in range(100)]
    assert 0.5 <= min(widths) < 0.6
    assert 1.9 < max(widths) <= 2.0


def test_the_same_random_state_gives_the_same_augmentation() -> None:
    transform = training_transform(replace(DATA, augmentation=AugmentationConfig()))
    image, label = photo(), classes()
    results = []
    for _ in range(2):
        torch.default_generator.manual_seed(7)
        results.append(transform(image, label))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    other = transform(image, label)
    assert not torch.equal(results[0][0], other[0])
