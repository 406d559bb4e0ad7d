import colorsys
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from spcnet.data import transforms
from spcnet.errors import UsageError
from spcnet.synthesis.corruptions import CORRUPTIONS, FAMILIES, SEVERITIES, blur, corrupt, digital, noise, weather
from spcnet.synthesis.corruptions.frost import frost_picture
from spcnet.synthesis.corruptions.pixels import (
    Tap,
    fused_sum,
    gaussian,
    gaussian_plane,
    quick_sum,
    weighted_photo,
    weighted_sum,
)

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "cityscapes256" / "leftImg8bit" / "val"
NAMES = sorted(CORRUPTIONS)
WITHOUT_CHANCE = {
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate"
}  # fmt: skip


@pytest.fixture(scope="module")
def street() -> NDArray[np.uint8]:
    """Sky over textured ground, a dark house and a red car."""
    rng = np.random.default_rng(0)
    image = np.empty((96, 160, 3), np.uint8)
    image[:43] = (150, 190, 235)
    image[43:] = rng.integers(60, 150, (53, 160, 1), dtype=np.uint8)
    image[:60, :40] = rng.integers(10, 70, (60, 40, 3), dtype=np.uint8)
    image[55:75, 90:120] = (170, 40, 40)
    return image


def grey(value: int, size: tuple[int, int] = (200, 200)) -> NDArray[np.uint8]:
    return np.full((*size, 3), value, np.uint8)


def far(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_there_are_the_fifteen_of_the_benchmark_and_four_extra() -> None:
    counts = {family: sum(one.family == family for one in CORRUPTIONS.values()) for family in FAMILIES}
    assert counts == {"noise": 3, "blur": 4, "weather": 4, "digital": 4, "extra": 4}


@pytest.mark.parametrize("name", NAMES)
def test_severity_0_changes_nothing_and_gives_a_copy(name: str, street: NDArray[np.uint8]) -> None:
    same = corrupt(street, name, severity=0, seed=1)
    assert np.array_equal(same, street)
    assert not np.shares_memory(same, street)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(name: str, street: NDArray[np.uint8]) -> None:
    first, again, other = (corrupt(street, name, severity=3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name in WITHOUT_CHANCE)


@pytest.mark.parametrize("name", NAMES)
def test_every_severity_is_another_picture_and_the_last_is_farther_than_the_first(
    name: str, street: NDArray[np.uint8]
) -> None:
    pictures = [corrupt(street, name, severity=severity, seed=1) for severity in SEVERITIES]
    assert len({picture.tobytes() for picture in (street, *pictures)}) == 6
    assert far(pictures[-1], street) > 1.05 * far(pictures[0], street)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 40), st.integers(1, 40), st.sampled_from(SEVERITIES))
def test_pictures_of_any_size_keep_their_size(name: str, height: int, width: int, severity: int) -> None:
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    before = image.copy()
    made = corrupt(image, name, severity=severity, seed=0)
    assert made.shape == image.shape
    assert made.dtype == np.uint8
    assert np.array_equal(image, before)
    assert not np.shares_memory(made, image)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error")
def test_an_image_may_be_read_only_and_lie_anyhow_in_memory(name: str, street: NDArray[np.uint8]) -> None:
    fixed = street.copy()
    fixed.flags.writeable = False
    expected = corrupt(street, name, severity=2, seed=1)
    for other in (fixed, np.asfortranarray(street), np.ascontiguousarray(street[:, ::-1])[:, ::-1]):
        assert np.array_equal(corrupt(other, name, severity=2, seed=1), expected)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur", "pixelate"]
)
def test_a_blur_leaves_one_colour_as_it_is(name: str) -> None:
    plain = np.full((50, 70, 3), (10, 128, 250), np.uint8)
    assert far(corrupt(plain, name, severity=5, seed=1), plain) < 0.6


# --- Noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.08), (3, 0.18)])
def test_gaussian_noise_has_the_published_deviation(severity: int, deviation: float) -> None:
    seen = corrupt(grey(127), "gaussian_noise", severity=severity, seed=0).astype(float) - 127
    assert seen.std() == pytest.approx(255 * deviation, rel=0.03)
    assert abs(seen.mean()) < 0.6
    # Independent from pixel to pixel and from channel to channel.
    assert abs(np.corrcoef(seen[..., 0].ravel(), seen[..., 1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(seen[:, 1:, 0].ravel(), seen[:, :-1, 0].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize(("value", "severity", "photons"), [(40, 1, 60), (100, 2, 25), (128, 5, 3)])
def test_shot_noise_is_that_of_so_many_photons(value: int, severity: int, photons: int) -> None:
    seen = corrupt(grey(value), "shot_noise", severity=severity, seed=0)
    drawn = np.random.default_rng(1).poisson(value / 255 * photons, (200, 200, 3))
    slow = np.clip(np.rint(drawn * 255 / photons), 0, 255)
    assert set(np.unique(seen)) <= {round(min(255, k * 255 / photons)) for k in range(200)}
    assert seen.mean() == pytest.approx(slow.mean(), rel=0.02)
    assert seen.std() == pytest.approx(slow.std(), rel=0.02)


def test_black_has_no_shot_noise_and_no_speckle() -> None:
    for name in ("shot_noise", "speckle_noise"):
        assert not corrupt(grey(0), name, severity=5, seed=0).any()


def test_impulse_noise_turns_its_share_into_salt_and_pepper_alike() -> None:
    seen = corrupt(grey(77), "impulse_noise", severity=5, seed=0)
    assert (seen == 0).mean() == pytest.approx(0.27 / 2, rel=0.05)
    assert (seen == 255).mean() == pytest.approx(0.27 / 2, rel=0.05)
    assert set(np.unique(seen)) == {0, 77, 255}


def test_speckle_grows_with_the_light() -> None:
    dark, light = (corrupt(grey(value), "speckle_noise", severity=1, seed=0).std() for value in (40, 120))
    assert dark == pytest.approx(40 * 0.15, rel=0.05)
    assert light == pytest.approx(120 * 0.15, rel=0.05)


# --- Blur ------------------------------------------------------------------------------------------------------------


def test_defocus_is_the_mean_over_a_disk(street: NDArray[np.uint8]) -> None:
    seen = blur.defocus_blur(street, (4, 0.1), np.random.default_rng(0))
    padded = np.pad(street, ((4, 4), (4, 4), (0, 0)), mode="reflect").astype(float)
    disk = [(y, x) for y in range(-4, 5) for x in range(-4, 5) if x * x + y * y <= 16]
    slow = sum(padded[4 + y : 100 + y, 4 + x : 164 + x] for y, x in disk) / len(disk)
    assert np.abs(seen - slow).max() <= 0.51


def test_motion_blur_draws_a_trail_that_fades(street: NDArray[np.uint8]) -> None:
    taps = blur.trail(10, 3, 20.0)
    assert sum(tap.weight for tap in taps) == pytest.approx(1)
    assert [tap.weight for tap in taps] == sorted((tap.weight for tap in taps), reverse=True)
    assert taps[0][:2] == (0, 0)
    assert math.degrees(math.atan2(taps[-1].down, taps[-1].right)) == pytest.approx(20, abs=4)
    spot = np.zeros((41, 41, 3), np.uint8)
    spot[20, 20] = 255
    seen = corrupt(spot, "motion_blur", severity=5, seed=0)[..., 0]
    rows, columns = np.nonzero(seen)
    assert np.ptp(columns) > 9  # within 45° of level
    assert np.ptp(columns) >= np.ptp(rows)


def test_a_weighted_sum_is_that_of_shifted_pictures(street: NDArray[np.uint8]) -> None:
    taps = [Tap(-2, 1, 0.5), Tap(0, 0, 0.3), Tap(3, -4, 0.2)]
    padded = np.pad(street, ((5, 5), (5, 5), (0, 0)), mode="edge").astype(float)
    slow = sum(tap.weight * padded[5 + tap.down : 101 + tap.down, 5 + tap.right : 165 + tap.right] for tap in taps)
    assert np.abs(weighted_photo(street, taps) - slow).max() < 0.5001
    plane = street[..., 1].astype(np.float32)
    assert np.allclose(weighted_sum(plane, taps), slow[..., 1], atol=1e-3)


def test_a_sum_is_rounded_once_for_each_product_where_it_is_near_a_half() -> None:
    # 3 · 0.1f lies above 0.3; in single precision the product alone is rounded, and with it what is left of 0.3.
    part, rest = np.array([3], np.float32), np.array([-0.3], np.float32)
    exact = float(rest[0]) + 3 * float(np.float32(0.1))
    assert fused_sum([rest, part], [1, 0.1])[0] == np.float32(exact)
    assert quick_sum([rest, part], [1, 0.1])[0] != np.float32(exact)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 7), st.integers(1, 50), st.integers(1, 50))
def test_a_gaussian_blur_is_that_of_the_training_augmentation(sigma: float, height: int, width: int) -> None:
    photo = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    expected = transforms.gaussian_blur(torch.from_numpy(photo).permute(2, 0, 1).contiguous(), sigma=sigma)
    away = np.abs(gaussian(photo, sigma).astype(int) - expected.permute(1, 2, 0).numpy())
    assert away.max() <= 1  # where torch has no FMA, a value that is nearly a half may be rounded to the other byte
    assert away.sum() <= 2 + 1e-4 * away.size


def test_pixels_from_elsewhere_are_what_grid_sample_gives() -> None:
    rng = np.random.default_rng(3)
    photo = rng.integers(0, 256, (41, 57, 3), np.uint8)
    down, across = (rng.uniform(-60, 120, (41, 57)).astype(np.float32) for _ in range(2))
    places = np.stack([across * (2 / 56) - 1, down * (2 / 40) - 1], axis=-1)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.grid_sample(
        image, torch.from_numpy(places)[None], padding_mode="reflection", align_corners=True
    )
    away = np.abs(digital.moved(photo, down, across) - expected[0].round().permute(1, 2, 0).numpy())
    assert away.max() <= 1
    assert away.sum() <= 2


def test_the_tables_of_noise_are_the_quantiles_of_their_distributions() -> None:
    shares = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    quantiles = torch.special.ndtri(shares)
    normal = np.rint(128 + 255 * 0.18 * (quantiles / quantiles.std(correction=0)).numpy()).clip(0, 255)
    assert np.array_equal(noise._gaussian(0.18)[128], normal)
    counts = torch.arange(200, dtype=torch.float64)
    for byte in (1, 100, 255):
        likely = torch.distributions.Poisson(torch.tensor(byte / 255 * 25).double()).log_prob(counts).exp().cumsum(0)
        photons = np.rint(torch.searchsorted(likely, shares).numpy() * 255 / 25).clip(0, 255)
        assert np.array_equal(noise._shot(25)[byte], photons)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.integers(0, 99))
def test_frosted_glass_shuffles_pixels_and_loses_none(height: int, width: int, reach: int, seed: int) -> None:
    before = np.arange(height * width, dtype=np.uint32).reshape(height, width)
    after = before.copy()
    blur._swap(after, reach, np.random.default_rng(seed))
    assert np.array_equal(np.sort(after, axis=None), before.ravel())
    if min(height, width) > 4 * reach:
        assert not np.array_equal(after, before)


def test_frosted_glass_moves_pixels_only_nearby() -> None:
    rows = np.repeat(np.arange(200, dtype=np.uint32)[:, None], 200, axis=1)
    after = rows.copy()
    blur._swap(after, 2, np.random.default_rng(0))
    moved = np.abs(after.astype(int) - rows)
    assert 0.5 < moved.mean() < 4
    assert np.quantile(moved, 0.99) <= 8


def test_zoom_blur_keeps_the_middle_and_smears_the_rim() -> None:
    rings = np.zeros((101, 101, 3), np.uint8)
    rows, columns = np.mgrid[-50:51, -50:51]
    rings[np.hypot(rows, columns) % 10 < 5] = 255
    seen = corrupt(rings, "zoom_blur", severity=5, seed=0).astype(float)
    assert seen[48:53, 48:53].mean() > 200
    assert seen[50, 60:95].std() < 0.6 * rings[50, 60:95].astype(float).std()


# --- Weather ---------------------------------------------------------------------------------------------------------


def test_snow_whitens_and_fog_flattens(street: NDArray[np.uint8]) -> None:
    assert corrupt(street, "snow", severity=3, seed=0).mean() > street.mean() + 30
    house = street[:40, :40]
    foggy = corrupt(street, "fog", severity=1, seed=0)
    assert foggy[:40, :40].mean() > house.mean()
    assert foggy[:40, :40].std() < house.std()
    assert foggy.max() <= street.max() + 1


def test_frost_is_a_part_of_a_drawn_picture_over_a_part_of_the_photograph() -> None:
    seen = corrupt(grey(100, (64, 64)), "frost", severity=5, seed=3).astype(float)
    ice = (seen - 60) / 0.75
    assert ice.min() >= -1
    assert ice.std() > 10
    large = corrupt(grey(100, (1200, 1300)), "frost", severity=5, seed=3)
    assert large.std() > 10


def test_the_pictures_of_frost_are_bluish_differ_and_stay_as_they_are() -> None:
    pictures = [frost_picture(number) for number in range(2)]
    assert far(*pictures) > 10
    for picture in pictures:
        red, _, blue = picture.reshape(-1, 3).mean(axis=0)
        assert 60 < picture.mean() < 140
        assert blue > red
        with pytest.raises(ValueError, match="read-only"):
            picture[0] = 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_plasma_lies_in_0_to_1_and_its_edges_fit_together(seed: int) -> None:
    land = weather.plasma(128, 3.0, np.random.default_rng(seed))
    assert (land.min(), land.max()) == (0, 1)
    inner = np.abs(np.diff(land, axis=0)).mean()
    assert np.abs(land[0] - land[-1]).mean() < 2 * inner
    rougher = weather.plasma(128, 1.4, np.random.default_rng(seed))
    assert np.abs(np.diff(rougher, axis=0)).mean() > 2 * inner


def test_water_adds_light_and_mud_takes_it(street: NDArray[np.uint8]) -> None:
    wet, muddy = (corrupt(street, "spatter", severity=severity, seed=0).astype(int) for severity in (3, 5))
    assert (wet >= street).all()
    assert 0.05 < (wet > street + 3).any(axis=2).mean() < 0.6
    brown = np.abs(muddy - np.array([63, 42, 20])).sum(axis=2) < 60
    assert 0.05 < brown[:43, 40:].mean() < 0.6


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(0, 999))
def test_distances_are_those_to_the_nearest_mark(height: int, width: int, reach: int, seed: int) -> None:
    marks = np.random.default_rng(seed).random((height, width)) < 0.1
    places = np.argwhere(marks)
    slow = np.full((height, width), float(reach))
    for row, column in np.ndindex(height, width):
        for place in places:
            slow[row, column] = min(slow[row, column], math.dist((row, column), place))
    assert np.allclose(weather.distance(marks, reach=reach), slow, atol=1e-5)


# --- Digital ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.sampled_from(["brightness", "saturate"]), st.sampled_from(SEVERITIES))
def test_brightness_and_saturation_are_those_of_the_colour_wheel(
    color: tuple[int, int, int], name: str, severity: int
) -> None:
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    if name == "brightness":
        value = min(1.0, value + CORRUPTIONS[name].levels[severity - 1][0])
    else:
        gain, lift = CORRUPTIONS[name].levels[severity - 1]
        saturation = min(1.0, saturation * gain + lift)
    expected = [255 * channel for channel in colorsys.hsv_to_rgb(hue, saturation, value)]
    seen = corrupt(np.array([[color]], np.uint8), name, severity=severity, seed=0)[0, 0]
    assert np.abs(seen - expected).max() <= 0.51


def test_contrast_keeps_the_mean_colour(street: NDArray[np.uint8]) -> None:
    seen = corrupt(street, "contrast", severity=4, seed=0).astype(float)
    assert np.allclose(seen.mean(axis=(0, 1)), street.mean(axis=(0, 1)), atol=0.5)
    assert seen.std() < 0.4 * street.std()


def test_pixelate_leaves_few_different_pixels(street: NDArray[np.uint8]) -> None:
    seen = corrupt(street, "pixelate", severity=5, seed=0)
    assert len({row.tobytes() for row in seen}) <= 24  # a quarter of 96 rows
    assert far(seen, street) > 2


def test_jpeg_is_that_of_its_quality(street: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(street).save(tmp_path / "a.jpg", quality=7)
    assert np.array_equal(corrupt(street, "jpeg_compression", severity=5, seed=0), Image.open(tmp_path / "a.jpg"))


@pytest.mark.parametrize("sigma", [2.0, 9.0, 18.0])
def test_hills_in_cells_are_as_high_as_in_pixels(sigma: float) -> None:
    rng = np.random.default_rng(0)
    hills = np.stack([digital._hills((400, 500), (sigma, sigma), rng) for _ in range(6)])
    # Uniform in -1..1 has the deviation 1/√3, and a Gaussian blur leaves 1/(2σ√π) of it.
    assert hills.std() == pytest.approx(1 / math.sqrt(3) / (2 * sigma * math.sqrt(math.pi)), rel=0.12)
    # As smooth, too: neighbours σ apart share exp(-1/4) of the variance.
    step = int(sigma)
    together = float((hills[:, step:] * hills[:, :-step]).mean() / hills.var())
    assert together == pytest.approx(math.exp(-0.25), abs=0.1)


def test_an_elastic_transform_moves_pixels_by_no_more_than_labels_allow() -> None:
    ramp = np.broadcast_to(np.arange(224, dtype=np.uint8)[:, None], (224, 224, 3))[:, :, :]
    moved = corrupt(np.ascontiguousarray(ramp), "elastic_transform", severity=5, seed=0).astype(float) - ramp
    assert 1 < moved[10:-10].std() < 4


def test_a_gaussian_of_a_plane_keeps_its_sum_and_widens_a_spot() -> None:
    spot = np.zeros((41, 61), np.float32)
    spot[20, 30] = 1
    seen = gaussian_plane(spot, (2.0, 4.0))
    assert seen.sum() == pytest.approx(1, abs=1e-4)
    rows, columns = np.mgrid[-20:21, -30:31]
    assert math.sqrt((seen * rows**2).sum()) == pytest.approx(2, rel=0.05)
    assert math.sqrt((seen * columns**2).sum()) == pytest.approx(4, rel=0.05)


# --- What is refused -------------------------------------------------------------------------------------------------


def test_an_unknown_corruption_is_told_with_its_neighbour() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'fog'\?"):
        corrupt(grey(0), "fogg", severity=1, seed=0)


@pytest.mark.parametrize("severity", [-1, 6])
def test_a_severity_out_of_range_is_refused(severity: int) -> None:
    with pytest.raises(UsageError, match="it must be 1"):
        corrupt(grey(0), "fog", severity=severity, seed=0)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_what_is_no_rgb_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="takes RGB bytes"):
        corrupt(np.zeros(shape, np.uint8), "fog", severity=1, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_real_street_stays_recognisable_at_the_first_severity(name: str) -> None:
    photo = next(iter(sorted(REAL.glob("*.jpg"))), None)
    if photo is None:
        pytest.skip("needs the Cityscapes photographs in ../shared")
    street = np.asarray(Image.open(photo).convert("RGB"))
    seen = corrupt(street, name, severity=1, seed=0)
    assert np.corrcoef(street.ravel(), seen.ravel())[0, 1] > 0.5
