from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spcnet.data.weather import SKY_DISTANCE, WEATHER, View, apply_weather
from spcnet.errors import UsageError

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "camvid" / "val"
STYLES = sorted(WEATHER)


@pytest.fixture
def street() -> NDArray[np.uint8]:
    """Blue sky over grey, textured ground, with a dark tree at the left and a red car on the road."""
    rng = np.random.default_rng(0)
    image = np.empty((96, 160, 3), np.uint8)
    image[:43] = (150, 190, 235)
    image[43:] = rng.integers(90, 150, (53, 160, 1), dtype=np.uint8)
    image[:60, :40] = rng.integers(10, 70, (60, 40, 3), dtype=np.uint8)
    image[55:75, 90:120] = (170, 40, 40)
    return image


def contrast(image: NDArray[np.uint8]) -> float:
    return float(image.mean(axis=2).std())


def colourfulness(image: NDArray[np.uint8]) -> float:
    return float((image.max(axis=2).astype(int) - image.min(axis=2)).mean())


@pytest.mark.parametrize("style", STYLES)
def test_no_strength_changes_nothing(style: str, street: NDArray[np.uint8]) -> None:
    same = apply_weather(street, style, seed=1, strength=0)
    assert np.array_equal(same, street)
    same[:] = 0
    assert street.any()  # and what comes back is not the picture that was given


@pytest.mark.parametrize("style", STYLES)
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(style: str, street: NDArray[np.uint8]) -> None:
    first, again, other = (apply_weather(street, style, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("style", STYLES)
def test_more_strength_is_further_from_the_photograph(style: str, street: NDArray[np.uint8]) -> None:
    shifts = [
        np.abs(apply_weather(street, style, seed=1, strength=s).astype(float) - street).mean()
        for s in (0.02, 0.25, 0.5, 1.0)
    ]
    assert shifts == sorted(shifts)
    assert shifts[0] < 8  # no jump at zero, but for the sky in fog
    assert shifts[-1] > 25  # a strong shift in the end


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(1, 1), (2, 300), (33, 57), (227, 320), (360, 480)])
def test_a_picture_of_any_size_keeps_it(style: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    for depth in (None, np.full(size, 20, np.float32)):
        styled = apply_weather(image, style, seed=0, depth=depth)
        assert styled.shape == image.shape
        assert styled.dtype == np.uint8
        assert styled.flags.c_contiguous


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_pictures_give_finite_values(style: str, value: int) -> None:
    # A NaN would become an arbitrary byte with a warning, which this turns into an error.
    with np.errstate(all="raise", under="ignore"):
        apply_weather(np.full((20, 30, 3), value, np.uint8), style, seed=0)


def test_the_photograph_is_left_as_it_was(street: NDArray[np.uint8]) -> None:
    before = street.copy()
    for style in STYLES:
        apply_weather(street, style, seed=0)
    assert np.array_equal(street, before)


def test_an_unknown_style_is_answered_with_the_nearest(street: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="'fog'"):
        apply_weather(street, "fogg", seed=0)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_its_range_is_refused(street: NDArray[np.uint8], strength: float) -> None:
    with pytest.raises(UsageError, match="0 "):
        apply_weather(street, "fog", seed=0, strength=strength)


def test_fog_thickens_with_depth() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 200
    image = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    left = [
        contrast(apply_weather(image, "fog", seed=0, depth=np.full((64, 64), metres, np.float32)))
        for metres in (0, 40, 120, 400)
    ]
    assert left[0] == pytest.approx(contrast(image), abs=1)
    assert left == sorted(left, reverse=True)
    # Koschmieder: exp(-3·40/150) = 0.45 of the contrast at 40 m, up to the density's variation in space.
    assert left[1] / left[0] == pytest.approx(0.45, abs=0.1)
    assert left[-1] < 1


def test_fog_without_depth_hides_the_far_road_more_than_the_near(street: NDArray[np.uint8]) -> None:
    foggy = apply_weather(street, "fog", seed=0)
    kept = [contrast(foggy[rows, 60:85]) / contrast(street[rows, 60:85]) for rows in (slice(44, 54), slice(80, 96))]
    assert kept[0] < 0.85 * kept[1]


def test_night_is_dark_but_its_lamps_are_bright(street: NDArray[np.uint8]) -> None:
    dark = apply_weather(street, "night", seed=0)
    assert dark.mean() < 0.45 * street.mean()
    assert dark[:43].max() > 180


def test_headlights_light_the_road_in_front_more_than_the_sides_and_the_distance(street: NDArray[np.uint8]) -> None:
    grey = np.full_like(street, 128)
    dark = apply_weather(grey, "night", seed=0).mean(axis=2)
    front, side, sky = dark[80:, 70:90].mean(), dark[80:, :10].mean(), dark[20:35, 70:90].mean()
    assert front > 1.15 * side
    assert front > 1.5 * sky


def test_the_sky_at_dusk_turns_from_orange_to_violet(street: NDArray[np.uint8]) -> None:
    sky = apply_weather(street, "dusk", seed=0)[:, 100:].astype(float)
    low, high = sky[36:40].mean(axis=(0, 1)), sky[:4].mean(axis=(0, 1))
    assert low[0] > low[1] > low[2]
    assert high[2] > high[0] > high[1]
    assert low.mean() > high.mean()


def test_rain_takes_colour_and_contrast_and_adds_streaks_that_stand_upright(street: NDArray[np.uint8]) -> None:
    wet = apply_weather(street, "rain", seed=0)
    assert colourfulness(wet) < 0.5 * colourfulness(street)
    assert contrast(wet) < 0.7 * contrast(street)
    plain = apply_weather(np.full((128, 256, 3), 128, np.uint8), "rain", seed=0)[:50].astype(float).mean(axis=2)
    across, down = np.abs(np.diff(plain, axis=1)).mean(), np.abs(np.diff(plain, axis=0)).mean()
    assert across > 2 * down


def test_a_wet_road_mirrors_what_stands_on_it() -> None:
    image = np.full((100, 100, 3), 120, np.uint8)
    image[:45] = 60
    image[:45, 60:80] = 250
    wet = apply_weather(image, "rain", seed=0, depth=np.full((100, 100), 10, np.float32)).astype(float)
    assert wet[60:85, 62:78].mean() > wet[60:85, 20:50].mean() + 15


def test_snow_whitens_the_ground_but_not_the_car(street: NDArray[np.uint8]) -> None:
    white = apply_weather(street, "snow", seed=0).astype(float)
    road, car = white[80:, 60:85], white[58:72, 93:117]
    assert road.mean() > street[80:, 60:85].mean() + 60
    assert car[..., 0].mean() > car[..., 1:].mean() + 20
    assert colourfulness(white.astype(np.uint8)) < 0.6 * colourfulness(street)


def test_the_sky_is_guessed_where_it_is_and_taken_to_be_far(street: NDArray[np.uint8]) -> None:
    view = View(np.ascontiguousarray(street.transpose(2, 0, 1), dtype=np.float32) / 255, depth=None)
    assert view.sky[:30, 60:].min() > 0.9
    assert view.sky[50:].max() < 0.1
    assert view.sky[:30, :30].max() < 0.1
    assert view.depth[:30, 60:].min() > SKY_DISTANCE / 2
    near, far = view.depth[90, 80], view.depth[50, 80]
    assert 0 < near < 8 < far < 100


def test_a_bright_patch_below_something_else_is_not_the_sky(street: NDArray[np.uint8]) -> None:
    street[28:36, 8:32] = street[0, 100]
    view = View(np.ascontiguousarray(street.transpose(2, 0, 1), dtype=np.float32) / 255, depth=None)
    assert view.sky[30:34, 12:28].max() < 0.1


def test_an_infinite_distance_is_the_sky() -> None:
    depth = np.full((20, 20), 10, np.float32)
    depth[:10] = np.inf
    for style in STYLES:
        styled = apply_weather(np.full((20, 20, 3), 100, np.uint8), style, seed=0, depth=depth)
        assert styled.any()
    assert View(np.zeros((3, 20, 20), np.float32), depth=depth).depth.max() == SKY_DISTANCE


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not beside the project (../shared/data)")
def test_on_real_photographs_each_style_differs_from_each_other_style() -> None:
    paths = sorted(REAL.glob("*.jpg"))[::30]
    for path in paths:
        photo = np.asarray(Image.open(path).convert("RGB").resize((256, 128)))
        styled = {style: apply_weather(photo, style, seed=0).astype(float) for style in STYLES} | {"": photo}
        for one, first in styled.items():
            for other, second in styled.items():
                assert one == other or np.abs(first - second).mean() > 15
