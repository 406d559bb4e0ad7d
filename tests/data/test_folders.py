"""Which label belongs to which photo."""

import os
from pathlib import Path

import pytest

from spcnet import label_tables
from spcnet.config import DataConfig
from spcnet.data.fixture import write_fixture
from spcnet.data.folders import SetFolder
from spcnet.errors import DataError
from tests.support.sets import refusal, write

SMALL = (32, 64)


def test_half_converted_labels_are_passed_over_for_the_whole_ones(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"images/0000{i}.jpg")
    write_fixture("gtav", tmp_path / "a", layout="as downloaded", size=SMALL)
    pairs, table, *_ = SetFolder("gtav", tmp_path / "a").find_split("train")
    first = pairs[0].label
    write(first.with_name(f"{first.stem}_labelTrainIds.png"), 13)
    assert SetFolder("gtav", tmp_path / "a").find_split("train")[:2] == (pairs, table)
    for pair in pairs:
        write(pair.label.with_name(f"{pair.label.stem}_labelTrainIds.png"), 13)
    assert SetFolder("gtav", tmp_path / "a").find_split("train")[1] == label_tables.CITYSCAPES_TRAIN_IDS
    listing = SetFolder("gtav", tmp_path / "a").survey("train")
    assert listing.orphans == []


def test_what_is_missing_on_either_side_is_listed(tmp_path: Path) -> None:
    write_fixture("cityscapes", tmp_path, layout="ids", images_per_split=4, size=SMALL)
    pairs, *_ = SetFolder("cityscapes", tmp_path).find_split("train")
    pairs[0].label.unlink()
    pairs[2].image.unlink()
    listing = SetFolder("cityscapes", tmp_path).survey("train")
    assert listing.bare == [pairs[0]]
    assert listing.orphans == [pairs[2].label]
    assert listing.pairs == [pairs[1], pairs[3]]
    with pytest.raises(DataError, match=r"1 of 3 images .* have no label"):
        SetFolder("cityscapes", tmp_path).find_split("train")


def test_instance_labels_beside_the_classes_are_not_labels_without_photos(tmp_path: Path) -> None:
    write_fixture("idd_lite", tmp_path, size=SMALL)
    pairs, *_ = SetFolder("idd_lite", tmp_path).find_split("val")
    write(pairs[0].label.with_name("x_inst_label.png"))
    assert SetFolder("idd_lite", tmp_path).survey("val").orphans == []


def test_a_photo_in_two_formats_counts_once(tmp_path: Path) -> None:
    written = write_fixture("kitti", tmp_path, size=SMALL)
    write(written[0].with_suffix(".jpg"))
    pairs, *_ = SetFolder("kitti", tmp_path).find_split("train")
    assert [pair.image for pair in pairs] == written[::2]


def test_hidden_files_and_folders_are_not_looked_at(tmp_path: Path) -> None:
    written = write_fixture("cityscapes", tmp_path, size=SMALL)
    write(written[0].with_name("._" + written[0].name))
    write(written[0].parent.parent / ".trash" / written[0].name)
    assert len(SetFolder("cityscapes", tmp_path).find_split("train")[0]) == 2


def test_names_are_told_apart_whatever_the_folders(tmp_path: Path) -> None:
    for stem in ("a_b/c", "a/b_c", "d/e"):
        write(tmp_path / f"leftImg8bit/train/{stem}_leftImg8bit.jpg")
        write(tmp_path / f"gtFine/train/{stem}_gtFine_labelIds.png")
    names = [pair.name for pair in SetFolder("cityscapes", tmp_path).find_split("train")[0]]
    assert len(set(names)) == 3
    assert "d_e" in names


def test_linked_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    write_fixture("cityscapes", tmp_path / "set", size=SMALL)
    for inside in ("leftImg8bit", "gtFine"):
        elsewhere = tmp_path / f"elsewhere_{inside}"
        (tmp_path / "set" / inside / "train" / "town").rename(elsewhere)
        (tmp_path / "set" / inside / "train" / "town").symlink_to(elsewhere)
        (elsewhere / "loop").symlink_to(tmp_path / "set" / inside / "train")
        (tmp_path / "set" / inside / "train" / "up").symlink_to("..")
    assert len(SetFolder("cityscapes", tmp_path / "set").find_split("train")[0]) == 2


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fixture("kitti", tmp_path, size=SMALL)

    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    text = refusal(DataError, "kitti", DataConfig(roots={"kitti": str(tmp_path)}))
    assert "cannot list the folder" in text
    assert "Permission denied" in text


def test_a_subset_without_images_says_how_their_names_begin(tmp_path: Path) -> None:
    for path in write_fixture("camvid", tmp_path, size=SMALL):
        if path.name.startswith("0001TP"):
            path.unlink()
    text = refusal(DataError, "camvid/dusk", DataConfig(roots={"camvid": str(tmp_path)}))
    assert "camvid/dusk@train has no images" in text
    assert "the names beginning with 0001TP" in text
