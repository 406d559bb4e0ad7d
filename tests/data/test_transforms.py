import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from spcnet.config import AugmentationConfig, DataConfig
from spcnet.data import transforms
from spcnet.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColourJitter,
    RandomScaledCrop,
    TrainingTransform,
    change_colours,
    denormalise,
    evaluation_transform,
    gaussian_blur,
    normalise,
    random_blur,
)
from spcnet.errors import UsageError
from spcnet.types import IGNORE_INDEX

SIZE = (48, 96)
STILL = AugmentationConfig(scale=(1, 1), flip=0, jitter=0, blur=None)
DATA = DataConfig(size=SIZE, augmentation=STILL)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def photo(height: int = 60, width: int = 90) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def classes(height: int = 60, width: int = 90) -> Tensor:
    return torch.randint(0, 19, (height, width), dtype=torch.uint8)


def cropped(transform: RandomScaledCrop, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    cut = transform.draw(*label.shape)
    piece, truth = transform.cut(image, cut, blend=True), transform.cut(label[None], cut, blend=False)
    return transform.pad(piece, cut, value=0), transform.pad(truth, cut, value=IGNORE_INDEX)[0]


def blocks(height: int, width: int, cells: int = 3) -> tuple[Tensor, Tensor]:
    """A picture whose red channel says the class: large blocks of 10 times the class."""
    rows, columns = torch.arange(height) * cells // height, torch.arange(width) * cells // width
    label = ((rows[:, None] * cells + columns) % 19).to(torch.uint8)
    return (label * 10 + 30).expand(3, -1, -1).contiguous(), label


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
    trained, *_ = TrainingTransform(DATA)(image, label)
    assert torch.equal(trained, evaluation_transform(DATA)(image))


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 150), width=st.integers(1, 150), scale=st.floats(0.05, 4), seed=st.integers(0, 2**32))
def test_every_image_comes_out_in_the_wanted_size(height: int, width: int, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    transform = TrainingTransform(replace(DATA, augmentation=AugmentationConfig(scale=(scale, scale * 1.5))))
    image, label, _ = transform(photo(height, width), classes(height, width))
    assert image.shape == (3, *SIZE)
    assert label.shape == SIZE
    assert image.dtype == label.dtype == torch.uint8
    assert set(label.unique().tolist()) <= {*range(19), IGNORE_INDEX}


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.4, 2.0])
def test_image_and_label_move_together(scale: float) -> None:
    image, label = blocks(96, 192)
    transform = TrainingTransform(
        replace(DATA, augmentation=AugmentationConfig(scale=(scale, scale), flip=0.5, jitter=0, blur=None))
    )
    for _ in range(20):
        moved, truth, _ = transform(image, label)
        seen = truth != IGNORE_INDEX
        assert seen.any()
        # Apart from the blended borders between two blocks.
        assert ((moved[0].int() - 30 - truth.int() * 10).abs() < 5)[seen].float().mean() > 0.7


def test_a_label_takes_the_pixel_in_the_middle_of_each_cell() -> None:
    label = classes(SIZE[0] * 3, SIZE[1] * 3)
    _, small, _ = TrainingTransform(DATA)(photo(SIZE[0] * 3, SIZE[1] * 3), label)
    assert torch.equal(small, label[1::3, 1::3])


def test_an_image_scaled_up_is_the_middle_of_the_resized_image() -> None:
    image, label = blocks(96, 192)
    whole = evaluation_transform(replace(DATA, size=(96, 192)))(image)
    piece = RandomScaledCrop(SIZE, scale=(2, 2))
    found = False
    cut, _ = cropped(piece, image, label)
    for top in range(96 - SIZE[0] + 1):
        for left in range(192 - SIZE[1] + 1):
            found = found or torch.equal(whole[:, top : top + SIZE[0], left : left + SIZE[1]], cut)
    assert found


def test_an_image_scaled_down_lies_on_black_that_no_label_covers() -> None:
    transform = RandomScaledCrop(SIZE, scale=(0.5, 0.5))
    places = set()
    for _ in range(30):
        image, label = cropped(transform, torch.full((3, 60, 90), 200, dtype=torch.uint8), classes())
        inside = label != IGNORE_INDEX
        assert inside.sum() == SIZE[0] // 2 * (SIZE[1] // 2)
        assert (image[:, inside] == 200).all()
        assert (image[:, ~inside] == 0).all()
        places.add(tuple(inside.nonzero()[0].tolist()))
    assert len(places) > 20


@pytest.mark.parametrize("size", [(96, 192), None])
def test_a_crop_is_cut_out_of_the_image_at_its_size(size: tuple[int, int] | None) -> None:
    """At twice the size each pixel of the image fills four of the result, at its own size one."""
    label = torch.arange(48 * 96).view(48, 96)
    image = (label % 251).to(torch.uint8).repeat(3, 1, 1)
    piece = RandomScaledCrop(size, scale=(1, 1), crop=(40, 50))
    drawn = piece.draw(48, 96)
    cut, truth = piece.cut(image, drawn, blend=True), piece.cut(label[None].int(), drawn, blend=False)[0]
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
        float((cropped(transform, photo(20, 20), classes(20, 20))[1] != IGNORE_INDEX).float().mean()) ** 0.5
        for _ in range(200)
    ]
    assert min(shares) < 0.53
    assert max(shares) > 0.97
    assert sum(shares) / len(shares) == pytest.approx(0.75, abs=0.04)


def test_every_part_of_the_image_can_be_cut_out() -> None:
    label = torch.arange(100, dtype=torch.uint8).view(10, 10).repeat_interleave(8, 0).repeat_interleave(8, 1)
    transform = RandomScaledCrop((40, 40), scale=(2, 2))
    seen: set[int] = set()
    for _ in range(60):
        seen |= set(cropped(transform, photo(80, 80), label)[1].unique().tolist())
    assert seen == set(range(100))


def test_the_flip_is_left_to_right_and_as_frequent_as_asked() -> None:
    image, label = photo(*SIZE), classes(*SIZE)
    transform = TrainingTransform(replace(DATA, augmentation=replace(STILL, flip=0.25)))
    flipped = 0
    for _ in range(200):
        moved, truth, _ = transform(image, label)
        flipped += torch.equal(truth, label.flip(1)) and torch.equal(moved, image.flip(2))
        assert torch.equal(truth, label) or torch.equal(truth, label.flip(1))
    assert 30 <= flipped <= 70


def test_jitter_changes_colours_as_often_as_asked_and_never_the_label() -> None:
    image, label = photo(*SIZE), classes(*SIZE)
    transform = TrainingTransform(replace(DATA, augmentation=replace(STILL, jitter=0.75)))
    changed = 0
    for _ in range(60):
        moved, truth, _ = transform(image, label)
        assert torch.equal(truth, label)
        changed += not torch.equal(moved, image)
    assert 33 <= changed <= 56


def test_blur_smooths_the_image_by_a_gaussian() -> None:
    point = torch.zeros(3, 41, 41, dtype=torch.uint8)
    point[:, 20, 20] = 255
    for sigma in (0.15, 0.7, 1.3, 3.0):
        image = random_blur(point, (sigma, sigma))
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
    found = gaussian_blur(image, sigma=1.3)
    assert (found.int() - expected.int())[:, 4:-4, 4:-4].abs().max() <= 1


def test_blur_draws_its_width_from_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[float] = []
    monkeypatch.setattr(transforms, "gaussian_blur", lambda image, sigma: [image, widths.append(sigma)][0])
    for _ in range(100):
        random_blur(torch.zeros(3, 2, 2, dtype=torch.uint8), (0.5, 2.0))
    assert 0.5 <= min(widths) < 0.6
    assert 1.9 < max(widths) <= 2.0


def test_the_same_random_state_gives_the_same_augmentation() -> None:
    transform = TrainingTransform(replace(DATA, augmentation=AugmentationConfig()))
    image, label = photo(), classes()
    results = []
    for _ in range(2):
        torch.default_generator.manual_seed(7)
        results.append(transform(image, label))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    other = transform(image, label)
    assert not torch.equal(results[0][0], other[0])


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 2**32), grey=st.booleans())
def test_jitter_is_torchvisions_bit_for_bit(height: int, width: int, seed: int, grey: bool) -> None:
    torch.manual_seed(seed)
    image = photo(height, width)
    if grey:
        image[:, ::2] = image[:1, ::2]
    torch.manual_seed(seed)
    expected = v2.ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.3)(image)
    torch.manual_seed(seed)
    assert torch.equal(ColourJitter(0.8, hue=0.3)(image), expected)


@pytest.mark.parametrize("turn", [-0.5, -0.25, -0.1, 0.0, 0.03, 1 / 3, 0.5])
def test_the_hue_of_every_colour_turns_as_torchvisions_does(turn: float) -> None:
    levels = torch.tensor([0, 1, 2, 63, 64, 127, 128, 200, 253, 254, 255, *range(5, 250, 11)], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels).T.reshape(3, len(levels), -1)
    assert torch.equal(change_colours(colours, [(3, turn)]), v2.functional.adjust_hue(colours, turn))


def test_pictures_of_many_bands_are_blurred_and_normalised_as_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(90, 70)
    whole = gaussian_blur(image, sigma=1.1), normalise(image), ColourJitter(0.4, hue=0.1).draw()
    changed = change_colours(image, whole[2])
    monkeypatch.setattr(
        transforms, "_bands", lambda image: [slice(i, i + 7) for i in range(0, 84, 7)] + [slice(84, 90)]
    )
    assert torch.equal(gaussian_blur(image, sigma=1.1), whole[0])
    assert torch.equal(normalise(image), whole[1])
    assert torch.equal(change_colours(image, whole[2]), changed)


def test_a_blur_that_is_left_out_would_change_nothing() -> None:
    """The worst case: each white pixel alone on black, and each black one on white."""
    image = photo(30, 30) // 128 * 255
    assert gaussian_blur(image, sigma=0.2) is image
    for sigma in (0.15, 0.2, 0.25, 0.27, 0.28, 0.29, 0.3):
        weight = math.exp(-1 / (2 * sigma**2))
        kernel = torch.tensor([weight, 1, weight], dtype=torch.float64) / (1 + 2 * weight)
        padded = torch.nn.functional.pad(image[:, None].double(), (1, 1, 1, 1), mode="replicate")
        expected = torch.nn.functional.conv2d(padded, torch.outer(kernel, kernel)[None, None])[:, 0].round()
        assert torch.equal(gaussian_blur(image, sigma=sigma).double(), expected)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    row=st.floats(0, 1),
    column=st.floats(0, 1),
    scale=st.floats(0.3, 4),
    size=st.sampled_from([None, SIZE, (120, 60)]),
    seed=st.integers(0, 2**32),
)
def test_a_crop_contains_the_pixel_it_is_to_contain(
    height: int, width: int, row: float, column: float, scale: float, size: tuple[int, int] | None, seed: int
) -> None:
    torch.manual_seed(seed)
    cut = RandomScaledCrop(size, scale=(scale, scale), crop=(40, 50)).draw(height, width, centre=(row, column))
    top, left, tall, wide = cut.box
    assert top <= min(int(row * height), height - 1) < top + tall
    assert left <= min(int(column * width), width - 1) < left + wide
    assert 0 <= top <= height - tall
    assert 0 <= left <= width - wide


def test_a_crop_around_a_pixel_lies_at_every_place_that_contains_it() -> None:
    transform = RandomScaledCrop(None, scale=(1, 1), crop=(5, 5))
    tops = {transform.draw(40, 40, centre=(0.5, 0.5)).box[0] for _ in range(100)}
    assert tops == {16, 17, 18, 19, 20}
    assert {transform.draw(40, 40, centre=(0.0, 1.0)).box[:2] for _ in range(20)} == {(0, 35)}


STYLED = replace(STILL, styles=["night", "fog", "tilt"], style_probability=1.0)


def test_without_styles_nothing_is_drawn_for_them() -> None:
    image, label = photo(), classes()
    found = []
    for styles in ([], ["night"]):
        torch.manual_seed(3)
        options = AugmentationConfig(styles=styles, style_probability=0.0)
        found.append(TrainingTransform(replace(DATA, augmentation=options))(image, label))
    assert found[0].style is found[1].style is None
    # What is drawn after the styles differs, so the images do; without them the next draw is the flip's.
    torch.manual_seed(3)
    RandomScaledCrop(SIZE, scale=(0.5, 2.0)).draw(60, 90)
    flipped = bool(torch.rand(1) < 0.5)
    torch.manual_seed(3)
    unflipped = TrainingTransform(replace(DATA, augmentation=AugmentationConfig(flip=0.0)))(image, label)
    assert torch.equal(found[0].label, unflipped.label.flip(1) if flipped else unflipped.label)


def test_each_style_comes_as_often_and_the_strength_fills_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(image, label, style, *, seed, strength, depth, window):
        seen.append((style, strength, seed))
        return image, label

    monkeypatch.setattr(transforms, "apply_weather_pair", note)
    options = replace(STYLED, style_probability=0.5, style_strength=(0.4, 0.6))
    transform = TrainingTransform(replace(DATA, augmentation=options))
    styles = [transform(photo(), classes()).style for _ in range(300)]
    assert 115 <= styles.count(None) <= 185
    assert all(30 <= styles.count(style) <= 72 for style in range(3))
    assert [options.styles[style] for style in styles if style is not None] == [style for style, _, _ in seen]
    assert 0.4 <= min(s for _, s, _ in seen) < 0.42 < 0.58 < max(s for _, s, _ in seen) <= 0.6
    assert len({seed for *_, seed in seen}) == len(seen)


def test_a_style_sees_the_piece_before_the_padding_and_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def note(image, label, style, *, seed, strength, depth, window):
        top, left, tall, wide = window
        assert image.shape[:2] == label.shape == depth.shape
        # The picture's colours and the depth say where each pixel was.
        assert abs(image[0, 0, 0] - top * 200) < 8
        assert abs(image[-1, -1, 1] - (left + wide) * 200) < 8
        assert abs(depth[-1, 0] - (top + tall)) < 0.05
        return np.full_like(image, 99), label

    monkeypatch.setattr(transforms, "apply_weather_pair", note)
    rows, columns = torch.arange(60)[:, None] / 60, torch.arange(90)[None] / 90
    image = torch.stack([(rows * 200).expand(60, 90), (columns * 200).expand(60, 90), rows.expand(60, 90)])
    transform = TrainingTransform(replace(DATA, augmentation=replace(STYLED, scale=(0.5, 2.0))))
    for _ in range(30):
        styled, label, _ = transform(image.to(torch.uint8), classes(), depth=rows.expand(60, 90).contiguous())
        inside = label != IGNORE_INDEX
        assert (styled[:, inside] == 99).all()
        assert (styled[:, ~inside] == 0).all()


def test_a_style_that_moves_pixels_moves_the_label_along() -> None:
    transform = TrainingTransform(replace(DATA, augmentation=replace(STYLED, styles=["tilt"], style_strength=(1, 1))))
    image, label = blocks(*SIZE)
    styled, truth, style = transform(image, label)
    assert style == 0
    assert not torch.equal(truth, label)
    seen = truth != IGNORE_INDEX
    assert ((styled[0].int() - 30 - truth.int() * 10).abs() < 5)[seen].float().mean() > 0.7


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown weather style 'nigth'"):
        TrainingTransform(replace(DATA, augmentation=replace(STYLED, styles=["nigth"])))
