import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from spcnet.config import DataConfig, DomainSpec
from spcnet.data.centroids import Centres, class_centres, tile_centres
from spcnet.data.datasets import FolderSet, WeatherSet, open_domain
from spcnet.data.folders import Pair
from spcnet.errors import DataError
from spcnet.labels import IGNORE, label_space
from tests.support.pictures import STORED, turned

Place = tuple[int, int, int, int]


def slowly(label: NDArray[np.uint8], tile: int, *, whole_tiles: bool) -> list[Place]:
    """Class, row, column and number of pixels, tile after tile and class after class (RobustNet's `class_centroids_image`)."""
    height, width = label.shape
    found = []
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            if whole_tiles and (top + tile > height or left + tile > width):
                continue
            part = label[top : top + tile, left : left + tile]
            for kind in range(IGNORE):
                rows, columns = np.nonzero(part == kind)
                if len(rows):
                    found.append((kind, top + int(rows.mean()), left + int(columns.mean()), len(rows)))
    return found


def quickly(label: NDArray[np.uint8], tile: int, *, whole_tiles: bool) -> list[Place]:
    if whole_tiles:
        label = np.ascontiguousarray(label[: label.shape[0] // tile * tile, : label.shape[1] // tile * tile])
    return [(int(k), int(r), int(c), int(n)) for k, r, c, n in zip(*tile_centres(label, tile=tile), strict=True)]


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    tile=st.integers(1, 50),
    whole_tiles=st.booleans(),
    cell=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_centres_are_those_of_the_plain_loop(
    height: int, width: int, tile: int, whole_tiles: bool, cell: int, seed: int
) -> None:
    kinds = np.array([0, 1, 5, 18, 200, IGNORE], np.uint8)
    coarse = np.random.default_rng(seed).choice(kinds, (-(-height // cell), -(-width // cell)))
    label = coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    assert quickly(label, tile, whole_tiles=whole_tiles) == slowly(label, tile, whole_tiles=whole_tiles)


@pytest.mark.parametrize(
    ("size", "whole", "covering"),
    [((1052, 1914), 1, 4), ((1024, 2048), 2, 2), ((760, 1280), 0, 2), ((720, 1280), 0, 2), ((500, 700), 0, 1)],
    ids=["gtav", "cityscapes", "synthia", "bdd", "small"],
)
def test_whole_tiles_leave_out_what_covering_tiles_have(size: tuple[int, int], whole: int, covering: int) -> None:
    label = np.zeros(size, np.uint8)
    assert len(quickly(label, 1024, whole_tiles=True)) == whole
    assert len(quickly(label, 1024, whole_tiles=False)) == covering


@dataclass
class Made:
    """A set on disk with its labels in memory."""

    set: FolderSet
    labels: list[NDArray[np.uint8]]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    pairs, truths = [], []
    for index in range(40):
        place = Pair(
            f"p{index}", tmp_path / "data" / "images" / f"{index}.png", tmp_path / "data" / "labels" / f"{index}.png"
        )
        truths.append(rng.integers(0, 4, (3, 5), dtype=np.uint8).repeat(7 + index % 3, 0).repeat(6, 1))
        for path, pixels in ((place.image, truths[-1][..., None].repeat(3, 2)), (place.label, truths[-1])):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        pairs.append(place)
    table = np.full(256, 254, np.uint8)
    table[:4] = (7, 2, IGNORE, 0)
    return Made(FolderSet(pairs, table=table), [table[truth] for truth in truths])


def same(one: Centres, other: Centres) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def test_classes_are_found_where_the_label_lies_on_the_upright_photo(made: Made) -> None:
    plain = class_centres(made.set, tile=16)
    for number, pair in enumerate(made.set.pairs[:10]):
        pixels, label = (np.asarray(Image.open(path)) for path in (pair.image, pair.label))
        orientation = (6, 3, 5, 8, 7)[number % 5]
        pair.image.write_bytes(turned(orientation, pixels=pixels))
        if orientation != 3 and number < 5:  # the label lies on the stored picture
            Image.fromarray(np.ascontiguousarray(STORED[orientation](label))).save(pair.label)
    # What was found is found again, not read: the photos are others.
    found = class_centres(made.set, tile=16)
    assert same(found, plain)
    for index in range(10):
        assert np.array_equal(made.set.read(index).label, made.labels[index])


def test_a_photo_that_was_turned_since_is_looked_at_again(made: Made) -> None:
    first = class_centres(made.set, tile=16)
    pair = made.set.pairs[0]
    Image.fromarray(np.ascontiguousarray(np.asarray(Image.open(pair.label)).T)).save(pair.label)
    pair.image.write_bytes(turned(5, pixels=np.asarray(Image.open(pair.image))))
    assert same(class_centres(made.set, tile=16), first)
    Image.open(pair.image).save(pair.image, exif=b"")  # the same pixels, without the note
    assert not same(class_centres(made.set, tile=16), first)


def stored(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data" / ".spcnet").glob("*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_centres_of_a_set_are_those_of_its_images_one_after_the_other(made: Made, workers: int) -> None:
    steps: list[tuple[int, int]] = []
    found = class_centres(made.set, tile=16, workers=workers, on_progress=lambda *step: steps.append(step))
    expected = [
        (index, *place) for index, label in enumerate(made.labels) for place in slowly(label, 16, whole_tiles=False)
    ]
    sizes = [label.shape for label in made.labels]
    places = [
        (int(i), int(k), int(r * sizes[i][0]), int(c * sizes[i][1]), int(n))
        for i, k, r, c, n in zip(*found, strict=True)
    ]
    assert places == expected
    assert steps == [(done, 40) for done in range(1, 41)]


def test_what_was_found_is_stored_beside_the_data_and_read_from_there(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = class_centres(made.set, tile=16)
    (file,) = stored(tmp_path)
    assert not (tmp_path / "home").exists()
    monkeypatch.setattr(FolderSet, "label_of", None)  # is not needed again
    assert same(class_centres(made.set, tile=16), first)
    assert same(class_centres(WeatherSet(made.set, "fog", seed=0), tile=16), first)
    assert file.name.startswith("centroids-")


def test_anything_that_changes_the_centres_has_them_made_anew(made: Made, tmp_path: Path) -> None:
    first = class_centres(made.set, tile=16)
    class_centres(made.set, tile=20)
    other = made.set.table.copy()
    other[0] = 8
    assert set(class_centres(FolderSet(made.set.pairs, table=other), tile=16).label) == {0, 2, 8}
    fewer = class_centres(FolderSet(made.set.pairs[1:], table=made.set.table), tile=16)
    assert fewer.image.max() == 38
    assert len(stored(tmp_path)) == 4
    Image.fromarray(np.zeros((21, 30), np.uint8)).save(made.set.pairs[3].label)
    again = class_centres(made.set, tile=16)
    assert set(again.label[again.image == 3]) == {7} != set(first.label[first.image == 3])
    before = len(stored(tmp_path))
    os.utime(made.set.pairs[4].label, ns=(1, 1))  # another file of the same size, for all we know
    class_centres(made.set, tile=16)
    assert len(stored(tmp_path)) == before + 1


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "pickle", "foreign", "range"])
def test_a_damaged_file_is_made_anew(made: Made, tmp_path: Path, damage: str) -> None:
    first = class_centres(made.set, tile=16)
    (file,) = stored(tmp_path)
    whole = file.read_bytes()
    if damage == "pickle":
        np.savez(file, **{name: np.array([{}], dtype=object) for name in Centres._fields})
    elif damage == "foreign":
        np.savez(file, **{name: np.zeros(3) for name in Centres._fields})
    elif damage == "range":
        np.savez(file, **first._replace(image=first.image + 40)._asdict())
    else:
        file.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    assert same(class_centres(made.set, tile=16), first)
    assert same(Centres(**np.load(file)), first)


def test_where_the_data_cannot_be_written_to_the_users_cache_has_it(made: Made, tmp_path: Path) -> None:
    (tmp_path / "data" / ".spcnet").write_text("a file, where the folder would be")
    first = class_centres(made.set, tile=16)
    (file,) = (tmp_path / "home" / "spcnet").glob("centroids-*.npz")
    assert same(Centres(**np.load(file)), first)
    (tmp_path / "other").mkdir()
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("and here")
    assert same(class_centres(made.set, tile=16), first)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_label_stops_the_search_or_is_left_out(made: Made, workers: int) -> None:
    made.set.pairs[5].label.write_bytes(b"no image")
    made.set.pairs[7].label.unlink()
    with pytest.raises(DataError, match=r"5\.png"):
        class_centres(made.set, tile=16, workers=workers)
    found = class_centres(made.set, tile=16, workers=workers, skip_bad=True)
    assert set(found.image) == set(range(40)) - {5, 7}


def test_generated_scenes_have_centres_that_are_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = DataConfig(size=(64, 128), train_scenes=4)
    spec = DomainSpec.parse("streets/game")
    scenes = open_domain(spec, data=data, space=label_space("cityscapes19"), training=True)
    found = class_centres(scenes, tile=1024)
    for index in range(4):
        assert set(found.label[found.image == index]) == set(np.unique(scenes.read(index).label)) - {IGNORE}
    assert not list(tmp_path.iterdir())
