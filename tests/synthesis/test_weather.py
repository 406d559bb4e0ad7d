from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from spcnet.data.style_sheet import style_sheet
from spcnet.errors import UsageError
from spcnet.synthesis.weather import SKY_DISTANCE, WEATHER, View, apply_weather, apply_weather_pair
from spcnet.synthesis.weather.view import resize, smooth_noise

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "camvid" / "val"
STYLES = sorted(WEATHER)


@pytest.fixture
def street() -> NDArray[np.uint8]:
    """Blue sky over grey, textured ground, with a green tree before a dark house at the left and a red car on the road."""
    rng = np.random.default_rng(0)
    image = np.empty((96, 160, 3), np.uint8)
    image[:43] = (150, 190, 235)
    image[43:] = rng.integers(90, 150, (53, 160, 1), dtype=np.uint8)
    image[:60, :40] = rng.integers(10, 70, (60, 40, 3), dtype=np.uint8)
    image[10:40, 10:40] = (60, 120, 40)
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
    # A clear shift in the end, but for what changes only a part of the picture.
    assert shifts[-1] > {"manhole": 0.3, "autumn": 0.3, "shadow": 3, "speed": 5}.get(style, 8)
    assert shifts[-1] > (25 if style in ("night", "dusk", "fog", "rain", "snow", "torrential") else 0)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 300), (301, 9), (90, 60), (521, 530)])
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


def test_fog_without_depth_hides_the_sky(street: NDArray[np.uint8]) -> None:
    foggy = apply_weather(street, "fog", seed=0)[:30, 60:].reshape(-1, 3)
    assert np.abs(foggy - np.array([204.0, 209.1, 214.2])).max() < 2


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


def test_what_stands_high_is_mirrored_far_below_the_horizon() -> None:
    depth = np.full((200, 200), 10, np.float32)
    low, high = np.full((200, 200, 3), 60, np.uint8), np.full((200, 200, 3), 60, np.uint8)
    low[70:85], high[20:35] = 250, 250  # from 5 to 20 rows above the horizon, and from 55 to 70
    near, far = (
        apply_weather(image, "rain", seed=0, depth=depth).astype(int).mean(axis=(1, 2)) for image in (low, high)
    )
    assert (near - far)[98:108].mean() > 3
    assert (far - near)[145:160].mean() > 5


def test_snow_whitens_the_ground_but_not_the_car(street: NDArray[np.uint8]) -> None:
    white = apply_weather(street, "snow", seed=0).astype(float)
    road, car = white[80:, 60:85], white[58:72, 93:117]
    assert road.mean() > street[80:, 60:85].mean() + 60
    assert car[..., 0].mean() > car[..., 1:].mean() + 20
    assert colourfulness(white.astype(np.uint8)) < 0.6 * colourfulness(street)


def test_the_sky_is_guessed_where_it_is_and_taken_to_be_far(street: NDArray[np.uint8]) -> None:
    view = View(street)
    assert view.sky[:30, 60:].min() > 0.9
    assert view.sky[50:].max() < 0.1
    assert view.sky[:30, :30].max() < 0.1
    assert view.depth[:30, 60:].min() > SKY_DISTANCE / 2
    near, far = view.depth[90, 80], view.depth[50, 80]
    assert 0 < near < 8 < far < 100


def test_a_bright_patch_below_something_else_is_not_the_sky(street: NDArray[np.uint8]) -> None:
    street[28:36, 8:32] = street[0, 100]
    view = View(street)
    assert view.sky[30:34, 12:28].max() < 0.1


def test_an_infinite_distance_is_the_sky() -> None:
    depth = np.full((20, 20), 10, np.float32)
    depth[:10] = np.inf
    for style in STYLES:
        styled = apply_weather(np.full((20, 20, 3), 100, np.uint8), style, seed=0, depth=depth)
        assert styled.any()
    assert View(np.zeros((20, 20, 3), np.uint8), depth=depth).depth.max() == SKY_DISTANCE


@given(
    top=st.floats(0, 0.7),
    left=st.floats(0, 0.7),
    size=st.tuples(st.integers(20, 400), st.integers(20, 400)),
    cut=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
)
@settings(deadline=None, max_examples=25)
def test_a_cut_has_the_geometry_it_had_in_the_whole_photograph(
    top: float, left: float, size: tuple[int, int], cut: tuple[float, float]
) -> None:
    height, width = size
    first, start = int(top * height), int(left * width)
    rows, columns = max(1, int(cut[0] * (height - first))), max(1, int(cut[1] * (width - start)))
    photo = np.full((height, width, 3), 60, np.uint8)  # dark, so that nothing is sky
    here = (slice(first, first + rows), slice(start, start + columns))
    whole = View(photo)
    part = View(photo[here], window=(first / height, start / width, rows / height, columns / width))
    np.testing.assert_allclose(part.y, whole.y[here[0]], atol=1e-5)
    np.testing.assert_allclose(part.x, whole.x[:, here[1]], atol=1e-5)
    np.testing.assert_allclose(part.ground, whole.ground[here], atol=1e-4)
    np.testing.assert_allclose(part.depth, whole.depth[here], rtol=1e-3)
    assert part.unit == pytest.approx(whole.unit)
    assert part.aspect == pytest.approx(whole.aspect)
    one, other = whole.pixel(0.3, -0.2), part.pixel(0.3, -0.2)
    assert (one[0] - start, one[1] - first) == pytest.approx(other, abs=1e-3)


def test_a_style_of_a_cut_goes_by_the_place_of_the_cut_in_the_photograph() -> None:
    image = np.full((200, 200, 3), 90, np.uint8)
    near = apply_weather(image, "fog", seed=0, window=(0.8, 0.4, 0.2, 0.2)).mean()
    far = apply_weather(image, "fog", seed=0, window=(0.45, 0.4, 0.2, 0.2)).mean()
    assert far > near + 10
    sky = apply_weather(image, "gravel", seed=0, window=(0, 0, 0.4, 1))
    assert np.array_equal(sky, image)
    for style in STYLES:  # a cut without horizon, ground or vanishing point
        for window in ((0.0, 0.0, 0.2, 0.2), (0.8, 0.9, 0.2, 0.1)):
            assert apply_weather(image, style, seed=0, window=window).shape == image.shape


@pytest.mark.parametrize(
    "window",
    [(-0.1, 0, 1, 1), (0, 0, 1.1, 1), (0.5, 0, 0.6, 1), (0, 0, 0, 1), (0, 0.2, 1, 0.9), (float("nan"), 0, 1, 1)],
)
def test_a_window_outside_of_the_photograph_is_refused(
    street: NDArray[np.uint8], window: tuple[float, float, float, float]
) -> None:
    with pytest.raises(UsageError, match="not inside the photograph"):
        apply_weather(street, "fog", seed=0, window=window)


def test_only_styles_that_move_pixels_give_another_label(street: NDArray[np.uint8]) -> None:
    label = np.zeros(street.shape[:2], np.uint8)
    for style in STYLES:
        image, moved = apply_weather_pair(street, label, style, seed=0)
        assert np.array_equal(image, apply_weather(street, style, seed=0))
        assert (moved is label) == (not WEATHER[style].moves)
    assert [style for style in STYLES if WEATHER[style].moves] == ["tilt"]
    assert apply_weather_pair(street, label, "tilt", seed=0, strength=0)[1] is label


@pytest.mark.parametrize("window", [None, (0.1, 0.5, 0.3, 0.4)])
def test_a_label_moves_as_its_image_does(window: tuple[float, float, float, float] | None) -> None:
    # Areas far larger than a pixel, so that the image between its edges is what the label is.
    label = np.kron(np.random.default_rng(0).integers(0, 200, (6, 9), dtype=np.uint8), np.ones((20, 20), np.uint8))
    image, moved = apply_weather_pair(np.repeat(label[..., None], 3, axis=2), label, "tilt", seed=3, window=window)
    inside = moved != 255
    assert 0.005 < 1 - inside.mean() < 0.5
    differs = (image[..., 0] != moved) & inside
    assert differs.mean() < 0.2  # the edges, blended in the image
    flat = np.ones_like(inside)
    for shift in (-2, -1, 1, 2):
        for axis in (0, 1):
            flat &= np.roll(moved, shift, axis) == moved
    assert flat.mean() > 0.5
    assert not differs[flat].any()
    assert (moved != label).mean() > 0.1


def test_a_camera_rolls_about_the_middle_of_the_whole_photograph() -> None:
    label = np.arange(101 * 201, dtype=np.int64).reshape(101, 201).astype(np.uint8)
    image = np.zeros((101, 201, 3), np.uint8)
    _, moved = apply_weather_pair(image, label, "tilt", seed=0)
    assert np.array_equal(moved[49:52, 99:102], label[49:52, 99:102])
    here = (slice(40, 101), slice(80, 201))
    window = (40 / 101, 80 / 201, 61 / 101, 121 / 201)
    _, part = apply_weather_pair(image[here], label[here], "tilt", seed=0, window=window)
    seen = part != 255  # what came from outside of the cut is not known in it
    assert (part == moved[here])[seen].mean() > 0.99  # ties between two pixels may fall either way
    assert seen.mean() > 0.7


def test_a_label_of_another_size_is_refused(street: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="equal in size"):
        apply_weather_pair(street, np.zeros((5, 5), np.uint8), "fog", seed=0)


def test_every_style_says_what_it_looks_like_and_what_it_is_like() -> None:
    assert len(WEATHER) == 19
    for weather in WEATHER.values():
        assert weather.description
        assert weather.family.isidentifier()
    assert WEATHER["drizzle"].family == WEATHER["rain"].family == WEATHER["torrential"].family
    assert WEATHER["night"].family == WEATHER["darkness"].family != WEATHER["dusk"].family
    assert len({weather.family for weather in WEATHER.values()}) == 15


def test_brightness_only_brightens_and_darkness_darkens(street: NDArray[np.uint8]) -> None:
    assert (apply_weather(street, "brightness", seed=0) >= street).all()
    dark = apply_weather(street, "darkness", seed=0).astype(float)
    assert dark.mean() < 0.5 * street.mean()
    assert (dark <= street + 8.0).mean() > 0.99


def test_a_shadow_only_darkens_and_only_what_lies_below_the_horizon(street: NDArray[np.uint8]) -> None:
    for seed in range(20):
        shaded = apply_weather(street, "shadow", seed=seed)
        assert (shaded <= street).all()
        assert np.array_equal(shaded[:41], street[:41])
        share = (shaded[45:] < 0.7 * street[45:]).all(axis=2).mean()
        assert 0.02 < share < 0.9


def test_torrential_rain_changes_more_than_rain_and_rain_more_than_drizzle(street: NDArray[np.uint8]) -> None:
    shifts = [
        np.mean([np.abs(apply_weather(street, style, seed=seed).astype(float) - street).mean() for seed in range(4)])
        for style in ("drizzle", "rain", "torrential")
    ]
    assert shifts[0] * 1.2 < shifts[1]
    assert shifts[1] * 1.1 < shifts[2]


@pytest.mark.parametrize("style", ["gravel", "manhole"])
def test_what_lies_on_the_road_changes_nothing_but_the_ground(street: NDArray[np.uint8], style: str) -> None:
    for seed in range(4):
        styled = apply_weather(street, style, seed=seed)
        assert np.array_equal(styled[:45], street[:45])
        changed = (styled[50:] != street[50:]).any(axis=2)
        assert changed.mean() > 0.01
        if style == "gravel":  # nor does it lie on a car
            assert np.abs(styled[58:72, 93:117].astype(int) - street[58:72, 93:117]).max() <= 1


def test_a_manhole_is_a_flat_ellipse_that_is_dark_on_a_light_road() -> None:
    road = np.full((256, 512, 3), 150, np.uint8)
    found = 0
    for seed in range(6):
        lid = apply_weather(road, "manhole", seed=seed)[..., 0] < 40
        rows, columns = np.nonzero(lid)
        assert rows.size
        assert rows.min() > 0.5 * 256
        found += int(np.ptp(columns) > 2 * np.ptp(rows))
    assert found >= 4  # two of them, one above the other, are taller together


def test_the_sun_blinds_at_one_place_and_veils_the_rest() -> None:
    image = np.full((128, 256, 3), 60, np.uint8)
    for seed in range(4):
        flared = apply_weather(image, "sun_flare", seed=seed)
        assert (flared >= 60).all()
        blind = (flared.min(axis=2) > 245).nonzero()
        assert 0 < blind[0].size < 0.1 * 128 * 256
        assert blind[0].max() < 0.5 * 128
        assert flared[-10:].mean() > 75


def test_at_speed_the_vanishing_point_stays_sharp_and_the_sides_blur() -> None:
    image = np.repeat(np.random.default_rng(0).integers(0, 256, (96, 160, 1), dtype=np.uint8), 3, axis=2)
    fast = apply_weather(image, "speed", seed=0)
    assert np.array_equal(fast[41:46, 77:83], image[41:46, 77:83])
    assert contrast(fast[:, :20]) < 0.4 * contrast(image[:, :20])
    # A blur away from the vanishing point is one along the rows, left and right of it.
    side = fast[30:56, :30].astype(float)[..., 0]
    assert np.abs(np.diff(side, axis=1)).mean() < 0.6 * np.abs(np.diff(side, axis=0)).mean()


def test_autumn_warms_green_leaves_and_leaves_grey_sky_beige_and_red_alone() -> None:
    image = np.full((100, 100, 3), 128, np.uint8)
    for column, colour in enumerate([(60, 110, 50), (128, 128, 128), (150, 190, 235), (200, 170, 120), (170, 40, 40)]):
        image[10:30, column * 20 : column * 20 + 20] = colour
    for seed in range(4):
        turned = apply_weather(image, "autumn", seed=seed)
        assert np.array_equal(turned[:, 20:], image[:, 20:])
        red, green, blue = turned[10:30, :20].reshape(-1, 3).mean(axis=0)
        assert red > green > blue


def test_autumn_does_not_turn_a_road_that_the_camera_sees_a_little_green() -> None:
    image = np.full((100, 100, 3), (100, 108, 98), np.uint8)
    image[10:40, :50] = (60, 110, 50)
    turned = apply_weather(image, "autumn", seed=0)
    assert np.array_equal(turned[45:], image[45:])
    assert turned[10:40, :50, 0].mean() > 90


def test_dirt_on_the_lens_hides_places_and_leaves_others() -> None:
    image = np.full((128, 256, 3), 200, np.uint8)
    shift = 200 - apply_weather(image, "lens_dirt", seed=0).astype(int).mean(axis=2)
    assert (shift > 60).mean() > 0.005
    assert (shift < 5).mean() > 0.2


def test_compression_shows_in_blocks_of_eight_pixels() -> None:
    noisy = np.random.default_rng(0).integers(90, 150, (64, 64, 3), dtype=np.uint8)
    step = np.abs(np.diff(apply_weather(noisy, "jpeg", seed=0).astype(float).mean(axis=2), axis=1)).mean(axis=0)
    assert step[7::8].mean() > 3 * step[3::8].mean()


def test_sensor_noise_grows_with_the_light_and_has_no_bias() -> None:
    deviations = []
    for value in (0, 60, 120, 180):
        noise = (
            apply_weather(np.full((300, 300, 3), value, np.uint8), "noise", seed=0, strength=0.5).astype(float) - value
        )
        deviations.append(noise.std())
        assert value == 0 or abs(noise.mean()) < 1
    assert deviations == sorted(deviations)
    assert deviations[-1] > 2 * deviations[0]


def test_at_night_a_red_light_shines(street: NDArray[np.uint8]) -> None:
    plain = np.full((128, 256, 3), 60, np.uint8)
    lit = plain.copy()
    lit[60:63, 100:103] = (230, 40, 30)
    red = [float(apply_weather(image, "night", seed=0)[54:69, 94:109, 0].mean()) for image in (plain, lit)]
    assert red[1] > red[0] + 10


def test_a_sheet_has_a_row_for_each_style_and_a_column_for_each_strength(street: NDArray[np.uint8]) -> None:
    sheet = style_sheet(street, styles=["fog", "tilt"], strengths=(0.5, 1.0), width=100)
    wider = style_sheet(street, styles=["fog", "tilt"], strengths=(0.5, 0.7, 1.0), width=100)
    taller = style_sheet(street, styles=["fog", "tilt", "tilt"], strengths=(0.5, 1.0), width=100)
    assert wider.width - sheet.width == 104
    assert taller.height - sheet.height == 60 + 4
    pixels = np.asarray(sheet)
    last = apply_weather(street, "tilt", seed=0, strength=1.0)
    corner = np.asarray(Image.fromarray(last).resize((100, 60), Image.Resampling.LANCZOS))
    assert np.array_equal(pixels[-64:-4, -104:-4], corner)


def test_a_sheet_of_nothing_or_of_unknown_styles_is_refused(street: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="at least one"):
        style_sheet(street, styles=[])
    with pytest.raises(UsageError, match="at least one"):
        style_sheet(street, strengths=())
    with pytest.raises(UsageError, match="'fog'"):
        style_sheet(street, styles=["fogg"])
    with pytest.raises(UsageError, match="must lie in"):
        style_sheet(street, styles=["fog"], width=3)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not beside the project (../shared/data)")
def test_on_real_photographs_each_style_differs_from_each_other_style() -> None:
    paths = sorted(REAL.glob("*.jpg"))[::30]
    for path in paths:
        photo = np.asarray(Image.open(path).convert("RGB").resize((256, 128)))
        styled = {style: apply_weather(photo, style, seed=0).astype(float) for style in STYLES} | {"": photo}
        for one, first in styled.items():
            for other, second in styled.items():
                far = {"night", "dusk", "fog", "rain", "snow", ""} >= {one, other}
                assert one == other or np.abs(first - second).mean() > (15 if far else 0.1)


@pytest.mark.parametrize("size", [(300, 301), (7, 2), (65, 130)])
def test_enlarging_is_what_pillow_does(size: tuple[int, int]) -> None:
    cells = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    wanted = np.asarray(Image.fromarray(cells).resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resize(cells, size), wanted, atol=1e-5)
    np.testing.assert_allclose(resize(cells, size, first=3), wanted[3:], atol=1e-5)
    np.testing.assert_allclose(resize(np.stack([cells, 2 * cells]), size)[1], 2 * wanted, atol=1e-5)
    view = View(np.zeros((*size, 3), np.uint8))
    for field, whole in ((cells, wanted), (np.stack([cells] * 3), np.stack([wanted] * 3))):
        seen = np.zeros_like(whole)
        for rows, part in view.bands(field):
            seen[..., rows, :] += part
        np.testing.assert_allclose(seen, whole, atol=1e-5)


def test_noise_for_some_rows_is_that_of_the_whole() -> None:
    view = View(np.zeros((90, 60, 3), np.uint8))
    whole, part, none = (smooth_noise(view, 7, np.random.default_rng(1), first=first) for first in (0, 41, 90))
    np.testing.assert_array_equal(whole[41:], part)
    assert none.shape == (0, 60)
