"""The generator of street scenes: what holds for every scene, and how the styles differ."""

import subprocess
import sys

import numpy as np
import pytest

from spcnet.errors import UsageError
from spcnet.label_tables import CITYSCAPES_TRAIN_IDS
from spcnet.labels import IGNORE
from spcnet.synthesis.streets import STYLES, Scene, generate

ROAD, BUILDING, VEGETATION, SKY, CAR = 0, 2, 8, 10, 13
SMALL = (64, 128)


GALLERY = """
import sys
import numpy as np
from spcnet.synthesis.streets import STYLES, generate
drawn = {}
for style in STYLES:
    scenes = [generate(i, style=style, size=(64, 128)) for i in range(8)]
    for field in ("image", "label", "depth"):
        drawn[f"{style}_{field}"] = np.stack([getattr(scene, field) for scene in scenes])
drawn["many_labels"] = np.stack([generate(i, style="overcast", size=(64, 128)).label for i in range(150)])
np.savez(sys.argv[1], **drawn)
"""
"""Draws what most tests look at, in a process of its own: with the checks of every call's types it would take minutes."""


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    file = tmp_path_factory.mktemp("streets") / "gallery.npz"
    subprocess.run([sys.executable, "-c", GALLERY, str(file)], check=True)
    with np.load(file) as drawn:
        return dict(drawn)


@pytest.fixture(scope="module")
def scenes(gallery: dict[str, np.ndarray]) -> dict[str, list[Scene]]:
    return {
        style: [
            Scene(*fields)
            for fields in zip(*(gallery[f"{style}_{f}"] for f in ("image", "label", "depth")), strict=True)
        ]
        for style in STYLES
    }


@pytest.fixture(scope="module")
def labels(gallery: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(gallery["many_labels"])


def brightness(scenes: list[Scene]) -> float:
    return float(np.mean([scene.image.mean() for scene in scenes]))


def test_a_scene_does_not_depend_on_what_was_drawn_before(scenes: dict[str, list[Scene]]) -> None:
    for index, style in ((5, "snow"), (2, "game"), (0, "night")):
        again, before = generate(index, style=style, size=SMALL), scenes[style][index]
        assert np.array_equal(again.image, before.image)
        assert np.array_equal(again.label, before.label)
        assert np.array_equal(again.depth, before.depth)


def test_another_process_draws_the_same_scene() -> None:
    program = (
        "import zlib; from spcnet.synthesis.streets import generate;"
        "s = generate(7, style='rain', seed=2, size=(48, 96)); print(zlib.crc32(s.image.tobytes() + s.label.tobytes()))"
    )
    sums = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(sums) == 1


def test_index_and_seed_each_make_another_scene() -> None:
    base, index, seed = (generate(i, style="game", seed=s, size=(32, 64)).label for i, s in ((1, 0), (2, 0), (1, 1)))
    assert (base != index).mean() > 0.1
    assert (base != seed).mean() > 0.1


def test_a_style_never_moves_a_label(scenes: dict[str, list[Scene]]) -> None:
    for style, drawn in scenes.items():
        for scene, reference in zip(drawn, scenes["game"], strict=True):
            assert np.array_equal(scene.label, reference.label), style
            assert np.array_equal(scene.depth, reference.depth), style


def test_labels_are_train_ids_or_void(labels: list[np.ndarray]) -> None:
    assert set(np.unique(np.stack(labels)).tolist()) <= set(CITYSCAPES_TRAIN_IDS)


def test_every_class_occurs_in_at_least_a_twentieth_of_the_scenes(labels: list[np.ndarray]) -> None:
    share = {k: np.mean([(label == k).sum() >= 4 for label in labels]) for k in range(19)}
    assert min(share.values()) >= 0.05, share


def test_class_frequencies_resemble_real_streets(labels: list[np.ndarray]) -> None:
    share = np.bincount(np.stack(labels).ravel(), minlength=256) / np.stack(labels).size
    assert 0.2 < share[ROAD] < 0.5
    assert 0.08 < share[BUILDING] < 0.35
    assert 0.05 < share[VEGETATION] < 0.3
    assert 0.03 < share[SKY] < 0.25
    assert 0.02 < share[CAR] < 0.2
    assert share[IGNORE] < 0.05


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (96, 256), (256, 128), (64, 512)])
def test_any_size_is_drawn_as_asked(size: tuple[int, int]) -> None:
    scene = generate(0, style="night", size=size)
    assert scene.image.shape == (*size, 3)
    assert scene.label.shape == scene.depth.shape == size
    assert (scene.image.dtype, scene.label.dtype, scene.depth.dtype) == (np.uint8, np.uint8, np.float32)


def test_larger_scenes_show_the_same_street() -> None:
    for index in range(2):
        small, large = (generate(index, style="game", size=(s, 2 * s)).label for s in (64, 128))
        assert (small == large[1::2, 1::2]).mean() > 0.85


def test_depth_grows_upwards_on_the_road_and_is_largest_in_the_sky() -> None:
    scene = generate(2, style="game", size=SMALL)
    assert np.isfinite(scene.depth).all()
    assert (scene.depth[scene.label == SKY] == 1000).all()
    assert (scene.depth[scene.label != SKY] < 1000).all()
    for column in range(0, 128, 8):
        on_road = scene.depth[:, column][scene.label[:, column] == ROAD]
        assert (np.diff(on_road) <= 0).all()


def test_styles_differ_visibly(scenes: dict[str, list[Scene]]) -> None:
    look = {style: np.stack([s.image for s in drawn]).astype(float) for style, drawn in scenes.items()}
    for a in STYLES:
        for b in STYLES:
            if a < b:
                assert np.abs(look[a] - look[b]).mean() > 8, (a, b)


def test_night_is_darker_than_dusk_and_dusk_than_day(scenes: dict[str, list[Scene]]) -> None:
    assert brightness(scenes["night"]) < 0.75 * brightness(scenes["dusk"])
    assert brightness(scenes["dusk"]) < 0.95 * brightness(scenes["game"])


def test_lamps_shine_at_night(scenes: dict[str, list[Scene]]) -> None:
    assert max(scene.image.max() for scene in scenes["night"]) > 240


def test_toy_is_more_saturated_than_overcast(scenes: dict[str, list[Scene]]) -> None:
    def saturation(style: str) -> float:
        return float(np.mean([np.ptp(s.image.astype(int), axis=2).mean() for s in scenes[style]]))

    assert saturation("toy") > 2 * saturation("overcast")


def test_dusk_is_warmer_than_overcast(scenes: dict[str, list[Scene]]) -> None:
    def warmth(style: str) -> float:
        return float(np.mean([s.image[..., 0].mean() - s.image[..., 2].mean() for s in scenes[style]]))

    assert warmth("dusk") > warmth("overcast") + 10


def test_fog_takes_contrast_from_what_is_far(scenes: dict[str, list[Scene]]) -> None:
    def contrast(style: str, near: float, far: float) -> float:
        masks = [(scene, (scene.depth >= near) & (scene.depth < far)) for scene in scenes[style]]
        return float(np.mean([scene.image[there].std() for scene, there in masks if there.sum() > 80]))

    close = contrast("fog", 2, 12) / contrast("overcast", 2, 12)
    distant = contrast("fog", 60, 200) / contrast("overcast", 60, 200)
    assert distant < 0.6 * close


def test_snow_whitens_the_road(scenes: dict[str, list[Scene]]) -> None:
    def road(style: str) -> float:
        return float(np.mean([s.image[s.label == ROAD].mean() for s in scenes[style]]))

    assert road("snow") > 1.25 * road("overcast")
    assert road("rain") < road("overcast")


def test_an_unknown_style_is_named_with_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"unknown streets style 'nigth'.*Did you mean 'night'"):
        generate(0, style="nigth")


@pytest.mark.parametrize("size", [(0, 64), (64, 8), (5000, 64), (-1, -1)])
def test_an_impossible_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"must each lie in 16\.\.4096"):
        generate(0, style="game", size=size)


@pytest.mark.parametrize(("index", "seed"), [(-1, 0), (0, -1)])
def test_negative_numbers_are_refused(index: int, seed: int) -> None:
    with pytest.raises(UsageError, match="0 or more"):
        generate(index, style="game", seed=seed)
