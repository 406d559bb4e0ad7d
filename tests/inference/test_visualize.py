import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spcnet.errors import UsageError
from spcnet.formatting import whole_percent
from spcnet.inference.visualize import (
    MIN_SHEET_WIDTH,
    STYLE_COLORS,
    colorize,
    legend,
    overlay,
    sheet,
    style_bar,
)
from spcnet.labels import SPACES, label_space

CITY = label_space("cityscapes19")


def photo(height=30, width=40):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def colors_in(image):
    return {tuple(color) for color in np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist()}


@pytest.mark.parametrize("name", sorted(SPACES))
def test_every_class_has_its_colour_and_void_is_black(name):
    space = SPACES[name]
    class_map = np.array([[*range(len(space)), 255]], dtype=np.uint8)
    assert colorize(class_map, space)[0].tolist() == [*map(list, space.colors), [0, 0, 0]]


def test_the_overlay_is_the_mean_of_photo_and_colour_at_half_opacity():
    image, class_map = photo(), np.full((30, 40), 13, dtype=np.uint8)
    mean = (image.astype(float) + np.array(CITY.colors[13])) / 2
    assert np.abs(overlay(image, class_map, CITY, opacity=0.5) - mean).max() <= 0.5


def test_no_opacity_shows_the_photo_and_full_opacity_the_colours():
    image = photo()
    class_map = np.random.default_rng(1).integers(0, 19, (30, 40), dtype=np.uint8)
    assert np.array_equal(overlay(image, class_map, CITY, opacity=0), image)
    assert np.array_equal(overlay(image, class_map, CITY, opacity=1), colorize(class_map, CITY))


def test_pixels_of_no_class_stay_as_they_are():
    image, class_map = photo(), np.full((30, 40), 255, dtype=np.uint8)
    class_map[:10] = 0
    shown = overlay(image, class_map, CITY, opacity=0.7)
    assert np.array_equal(shown[10:], image[10:])
    assert not np.array_equal(shown[:10], image[:10])


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_an_opacity_that_makes_no_sense_is_refused(opacity):
    with pytest.raises(UsageError, match="opacity"):
        overlay(photo(), np.zeros((30, 40), dtype=np.uint8), CITY, opacity=opacity)


def test_photo_and_class_map_of_two_sizes_are_refused():
    with pytest.raises(UsageError, match="30×40 pixels and the class map 40×30"):
        overlay(photo(), np.zeros((40, 30), dtype=np.uint8), CITY, opacity=0.5)


def test_the_legend_shows_the_colours_of_its_classes_and_no_others():
    shown = colors_in(legend(CITY, [8, 10, 13]))
    assert {CITY.colors[k] for k in (8, 10, 13)} <= shown
    bright = {color for k, color in enumerate(CITY.colors) if k not in (8, 10, 13) and len(set(color)) > 1}
    assert not bright & shown  # the text is grey, as some classes are


@pytest.mark.parametrize("width", [120, 480, 2000])
def test_a_legend_of_all_classes_shows_all_at_any_width(width):
    image = legend(CITY, range(19), fractions=[1 / 19] * 19, width=width)
    assert image.width == width
    assert set(CITY.colors) <= colors_in(image)


def test_a_legend_of_nothing_is_a_white_strip():
    assert colors_in(legend(CITY, [])) == {(255, 255, 255)}


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8))
def test_the_pieces_of_a_style_bar_are_as_long_as_the_shares(raw):
    weights = [w / sum(raw) for w in raw]
    bar = np.asarray(style_bar(weights, [f"s{m}" for m in range(len(raw))], width=513, text_size=13))
    row = bar[13 // 2 + 6]  # inside the bar, above the names
    for m, weight in enumerate(weights):
        length = (row == STYLE_COLORS[m]).all(axis=-1).sum()
        assert abs(length - weight * (513 - 2 * 13)) <= 1


def test_every_source_is_named_below_the_bar_even_without_a_share():
    bar = np.asarray(style_bar([1, 0, 0, 0], ["a long name"] * 4, width=200, text_size=13))
    below = bar[13 // 2 + 13 + 2 :]
    assert set(STYLE_COLORS[:4]) <= colors_in(below)


def test_a_style_bar_needs_a_name_for_each_weight():
    with pytest.raises(UsageError, match="2 style weights and 1 names"):
        style_bar([0.5, 0.5], ["game"])


@pytest.mark.parametrize(("height", "width"), [(60, 50), (300, 640), (2000, 40), (40, 1500)])
def test_a_sheet_shows_the_whole_overlay_at_a_size_that_can_be_read(height, width):
    image, class_map = photo(height, width), np.zeros((height, width), dtype=np.uint8)
    class_map[: height // 2] = 10
    made = sheet(image, class_map, CITY, figures={"style_weights": ((0.5, 0.5),)}, source_names=("game", "toy"))
    assert made.width >= MIN_SHEET_WIDTH
    assert made.height > height
    assert made.height <= max(height, 1600) + 600
    assert {CITY.colors[0], CITY.colors[10], STYLE_COLORS[0], STYLE_COLORS[1]} <= colors_in(made)
    if width >= MIN_SHEET_WIDTH:
        shown = np.asarray(made)[:height, :width]
        assert np.array_equal(shown, overlay(image, class_map, CITY, opacity=0.5))


@pytest.mark.parametrize(
    ("share", "words"), [(0, "0 %"), (0.001, "<1 %"), (0.0051, "1 %"), (0.0151, "2 %"), (0.624, "62 %"), (1, "100 %")]
)
def test_shares_are_whole_per_cent(share, words):
    assert whole_percent(share) == words
