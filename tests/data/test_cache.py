import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from spcnet.config import DataConfig, DomainSpec, OwnSet
from spcnet.data.cache import CacheFormat, Form, nearest, write_cache
from spcnet.data.catalog import DATASETS
from spcnet.data.datasets import SegmentationSet, open_domain
from spcnet.data.doctor import check
from spcnet.data.exclude import write_excluded
from spcnet.data.fixture import write_fixture
from spcnet.data.roots import MARKER
from spcnet.errors import DataError, UsageError
from spcnet.labels import label_space
from tests.support.pictures import STORED, turned

SIZE = (48, 64)
NAMES = ("0001TP_1", "0006R0_2", "0016E5_3")


def smooth(seed: int) -> NDArray[np.uint8]:
    """Colours that change slowly, as a photo's do."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC))


def truth(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 12, SIZE, dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.generic], **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of three images to train on and one to test on."""
    for seed, name in enumerate(NAMES):
        save(tmp_path / "set" / "train" / f"{name}.png", smooth(seed))
        save(tmp_path / "set" / "trainannot" / f"{name}.png", truth(seed))
    save(tmp_path / "set" / "test" / "Seq05VD_4.png", smooth(4))
    save(tmp_path / "set" / "testannot" / "Seq05VD_4.png", truth(4))
    return tmp_path / "set"


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def opened(name: str, root: Path, *, split: str, space: str = "cityscapes19", **more: object) -> SegmentationSet:
    data = DataConfig(roots={name: str(root)}, **more)  # type: ignore[arg-type]
    return open_domain(DomainSpec.parse(f"{name}@{split}"), data=data, space=label_space(space), training=False)


def test_the_copy_opens_like_the_set_with_the_same_labels_and_nearly_the_same_photos(
    root: Path, tmp_path: Path
) -> None:
    before = contents(root)
    report = write_cache("camvid", root, tmp_path / "copy")
    assert contents(root) == before
    assert (report.images, report.written, report.exit_code, dict(report.failed)) == (4, 4, 0, {})
    for split in ("train", "test"):
        plain, copy = opened("camvid", root, split=split), opened("camvid", tmp_path / "copy", split=split)
        assert len(plain) == len(copy)
        for index in range(len(plain)):
            ours, theirs = plain.read(index), copy.read(index)
            assert ours.name == theirs.name
            assert np.array_equal(ours.label, theirs.label)
            assert np.abs(ours.image.astype(int) - theirs.image).mean() < 1.5
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file() and path.name != MARKER]
    assert report.bytes_after == sum(path.stat().st_size for path in files)
    assert report.bytes_before == sum(path.stat().st_size for path in root.rglob("*.png"))


def test_a_copy_of_another_size_is_resized_as_evaluation_resizes(root: Path, tmp_path: Path) -> None:
    write_cache("camvid", root, tmp_path / "copy", CacheFormat(size=(20, 30), quality=100))
    copy = opened("camvid", tmp_path / "copy", split="train")
    for index, (seed, _) in enumerate(enumerate(NAMES)):
        sample = copy.read(index)
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(smooth(seed).copy()).permute(2, 0, 1)[None].float(),
            (20, 30), mode="bilinear", antialias=True,
        )[0].permute(1, 2, 0)  # fmt: skip
        assert sample.image.shape == (20, 30, 3)
        assert np.abs(sample.image - expected.numpy()).mean() < 2
        kept = np.asarray(Image.open(tmp_path / "copy" / "trainannot" / f"{NAMES[index]}.png"))
        wanted = torch.nn.functional.interpolate(
            torch.from_numpy(truth(seed))[None, None].float(), (20, 30), mode="nearest-exact"
        )
        assert np.array_equal(kept, wanted[0, 0].numpy())


@settings(deadline=None, max_examples=40)
@given(sizes=st.tuples(*[st.integers(1, 60)] * 4))
def test_of_a_label_the_pixel_at_the_middle_is_taken(sizes: tuple[int, int, int, int]) -> None:
    label = np.random.default_rng(0).integers(0, 256, sizes[:2], dtype=np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(label)[None, None].double(), sizes[2:], mode="nearest-exact"
    )[0, 0]
    ours = nearest(label, sizes[2:])
    # Where the middle falls on the border of two pixels, rounding decides: either is right.
    exact = [
        all((2 * place + 1) * old % (2 * new) for place in range(new)) or old == new
        for old, new in zip(sizes[:2], sizes[2:], strict=True)
    ]
    assert ours.shape == sizes[2:]
    if all(exact):
        assert np.array_equal(ours, expected.numpy())


def test_a_jpeg_that_keeps_its_size_is_copied_byte_for_byte(root: Path, tmp_path: Path) -> None:
    (root / "train" / "0001TP_1.png").unlink()
    save(root / "train" / "0001TP_1.jpg", smooth(0), quality=80)
    write_cache("camvid", root, tmp_path / "copy")
    there = (tmp_path / "copy" / "train" / "0001TP_1.jpg").read_bytes()
    assert there == (root / "train" / "0001TP_1.jpg").read_bytes()


@pytest.mark.parametrize("form", ["jpeg", "raw"])
@pytest.mark.parametrize("size", [None, (20, 30)])
def test_the_copy_is_upright_and_on_white_and_its_labels_fit(
    root: Path, tmp_path: Path, form: Form, size: tuple[int, int] | None
) -> None:
    photos = [*sorted((root / "train").glob("*.png")), *sorted((root / "test").glob("*.png"))]
    labels = [path.parent.with_name(f"{path.parent.name}annot") / path.name for path in photos]
    plain = tmp_path / "plain"
    shutil.copytree(root, plain)
    for number, (photo, label) in enumerate(zip(photos, labels, strict=True)):
        pixels, ids = np.asarray(Image.open(photo)), np.asarray(Image.open(label))
        if number == 0:  # lies on the stored picture; the others on the upright one
            photo.write_bytes(turned(6, pixels=pixels))
            save(label, np.ascontiguousarray(STORED[6](ids)))
        elif number < 3:
            photo.write_bytes(turned((0, 3, 8)[number], pixels=pixels))
        else:
            save(photo, np.dstack([pixels, np.full(ids.shape, 128, np.uint8)]))
            veil = np.asarray(Image.open(photo))
            white = Image.alpha_composite(Image.new("RGBA", veil.shape[1::-1], (255,) * 4), Image.fromarray(veil))
            save(plain / photo.relative_to(root), np.asarray(white.convert("RGB")))
    for source in (root, plain):
        report = write_cache("camvid", source, tmp_path / f"copy of {source.name}", CacheFormat(size=size, form=form))
        assert (report.images, dict(report.failed)) == (4, {})
    one, other = (contents(tmp_path / f"copy of {name}") for name in (root.name, plain.name))
    assert [(path, digest) for path, digest in one.items() if MARKER not in path] == [
        (path, digest) for path, digest in other.items() if MARKER not in path
    ]


def test_a_jpeg_that_is_stored_turned_is_upright_in_the_copy(root: Path, tmp_path: Path) -> None:
    (root / "train" / "0001TP_1.png").unlink()
    (root / "train" / "0001TP_1.jpg").write_bytes(turned(6, "JPEG", smooth(0), quality=95))
    write_cache("camvid", root, tmp_path / "copy")
    with Image.open(tmp_path / "copy" / "train" / "0001TP_1.jpg") as image:
        assert image.getexif().get(274, 1) == 1
        assert np.abs(np.asarray(image).astype(int) - smooth(0)).mean() < 3


def old_copy_of(root: Path, folder: Path) -> Path:
    """A copy as the version before wrote it: its marker says 1, its photos lie as they are stored."""
    write_cache("camvid", root, folder)
    marker = folder / MARKER
    text = marker.read_text()
    assert text.startswith('{"version":2,')
    marker.write_text(text.replace('"version":2', '"version":1', 1))
    return folder


def test_of_an_old_copy_only_what_is_shown_otherwise_is_copied_again(root: Path, tmp_path: Path) -> None:
    turned_photo, veiled_photo = (root / "train" / f"{name}.png" for name in NAMES[:2])
    turned_photo.write_bytes(turned(3, pixels=smooth(0)))
    save(veiled_photo, np.dstack([smooth(1), np.full(smooth(1).shape[:2], 99, np.uint8)]))
    wanted = contents(write_cache("camvid", root, tmp_path / "new") and tmp_path / "new")
    copy = old_copy_of(root, tmp_path / "copy")
    for photo in (turned_photo, veiled_photo):
        path = (copy / "train" / photo.name).with_suffix(".jpg")
        path.write_bytes(bytes(path.stat().st_size))  # other pixels, of as many bytes
    assert "spcnet data cache camvid ROOT" in " ".join(opened("camvid", copy, split="train").remarks)
    assert [one.kind for one in check("camvid", copy, split="test").remarks] == ["old copy"]
    assert write_cache("camvid", root, copy, splits=["test"]).written == 0
    assert "earlier version" in " ".join(opened("camvid", copy, split="train").remarks), "train is not copied again yet"
    assert write_cache("camvid", root, copy).written == 2
    assert {path: digest for path, digest in contents(copy).items() if MARKER not in path} == {
        path: digest for path, digest in wanted.items() if MARKER not in path
    }
    assert not opened("camvid", copy, split="train").remarks
    assert write_cache("camvid", root, copy).written == 0


def test_a_raw_copy_holds_the_very_pixels_and_is_read_where_it_is_looked_at(root: Path, tmp_path: Path) -> None:
    report = write_cache("camvid", root, tmp_path / "copy", CacheFormat(form="raw"))
    assert report.images == 4
    assert {path.suffix for path in (tmp_path / "copy").rglob("*") if path.is_file()} == {".npy", ".json"}
    before = contents(tmp_path / "copy")
    for split in ("train", "test"):
        plain, copy = opened("camvid", root, split=split), opened("camvid", tmp_path / "copy", split=split)
        for index in range(len(plain)):
            ours, theirs = plain.read(index), copy.read(index)
            assert ours.name == theirs.name
            assert np.array_equal(ours.image, theirs.image)
            assert np.array_equal(ours.label, theirs.label)
            theirs.image[:] = 0  # what is done to an image stays in memory
            torch.from_numpy(theirs.image)
    assert contents(tmp_path / "copy") == before
    assert write_cache("camvid", root, tmp_path / "copy", CacheFormat(form="raw")).written == 0
    with pytest.raises(DataError, match="form raw and not jpeg"):
        write_cache("camvid", root, tmp_path / "copy")


@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.layouts])
def test_every_set_opens_from_a_raw_copy(name: str, tmp_path: Path) -> None:
    write_fixture(name, tmp_path / "set", images_per_split=1, size=(32, 48))
    write_cache(name, tmp_path / "set", tmp_path / "copy", CacheFormat(form="raw"))
    space = "idd7" if name in ("camvid", "idd_lite") else "cityscapes19"
    for split in DATASETS[name].splits:
        plain, copy = (opened(name, tmp_path / folder, split=split, space=space) for folder in ("set", "copy"))
        assert len(plain) == len(copy) > 0
        assert np.array_equal(plain.read(0).label, copy.read(0).label)
        assert np.array_equal(plain.read(0).image, copy.read(0).image)


def test_the_second_time_nothing_is_written(root: Path, tmp_path: Path) -> None:
    write_cache("camvid", root, tmp_path / "copy")
    before = contents(tmp_path / "copy")
    told: list[tuple[int, int]] = []
    report = write_cache("camvid", root, tmp_path / "copy", on_progress=lambda done, total: told.append((done, total)))
    assert (report.images, report.written) == (4, 0)
    assert contents(tmp_path / "copy") == before
    assert told[-1] == (4, 4)


def test_what_was_stopped_and_gone_on_with_is_what_was_never_stopped(root: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    write_cache("camvid", root, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write_cache("camvid", root, tmp_path / "parts", on_progress=stop)
    assert len(contents(tmp_path / "parts")) < len(contents(tmp_path / "whole"))
    report = write_cache("camvid", root, tmp_path / "parts", workers=2)
    assert 0 < report.written < 4
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert not list((tmp_path / "parts").rglob("*.part"))


def test_a_copy_that_was_killed_before_the_first_image_can_be_gone_on_with(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        written = [path.name for path in (tmp_path / "copy").iterdir()]
        shutil.copytree(tmp_path / "copy", tmp_path / "left")
        assert written == [MARKER]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache("camvid", root, tmp_path / "copy", on_progress=killed)
    assert write_cache("camvid", root, tmp_path / "left").written == 4


@pytest.mark.parametrize("change", ["photo", "label", "copy lost", "copy cut"])
def test_what_changed_or_was_lost_is_written_anew(root: Path, tmp_path: Path, change: str) -> None:
    copy = tmp_path / "copy"
    write_cache("camvid", root, copy)
    if change == "photo":
        save(root / "train" / f"{NAMES[0]}.png", smooth(9))
    elif change == "label":
        save(root / "trainannot" / f"{NAMES[0]}.png", truth(9))
    elif change == "copy lost":
        (copy / "train" / f"{NAMES[0]}.jpg").unlink()
    else:
        (copy / "trainannot" / f"{NAMES[0]}.png").write_bytes(b"half")
    assert write_cache("camvid", root, copy).written == 1
    write_cache("camvid", root, tmp_path / "new")
    assert contents(copy) == contents(tmp_path / "new")


def test_a_bad_file_is_listed_and_left_out_and_the_rest_opens(root: Path, tmp_path: Path) -> None:
    write_cache("camvid", root, tmp_path / "copy")
    for bad in (root / "train" / f"{NAMES[0]}.png", root / "trainannot" / f"{NAMES[1]}.png"):
        bad.write_bytes(bad.read_bytes()[:-60])
    report = write_cache("camvid", root, tmp_path / "copy")
    assert report.exit_code == 1
    assert list(report.failed) == [f"train/{NAMES[0]}.png", f"train/{NAMES[1]}.png"]
    assert all("cannot read" in reason and "\n" not in reason for reason in report.failed.values())
    assert len(opened("camvid", tmp_path / "copy", split="train")) == 1
    assert report.images == 2


@pytest.mark.parametrize("size", [None, (4, 4)])
def test_a_label_with_an_id_that_the_set_does_not_have_is_left_out_of_the_copy(
    root: Path, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    label = truth(0).copy()
    label[0, 0] = 77  # so that a smaller copy would not have it
    save(root / "trainannot" / "0001TP_1.png", label)
    report = write_cache("camvid", root, tmp_path / "copy", CacheFormat(size=size))
    assert [*report.failed] == ["train/0001TP_1.png"]
    assert "label ids [77]" in report.failed["train/0001TP_1.png"]


def test_a_photo_and_a_label_of_different_sizes_do_not_become_a_pair(root: Path, tmp_path: Path) -> None:
    save(root / "train" / f"{NAMES[0]}.png", smooth(0)[:40])
    report = write_cache("camvid", root, tmp_path / "copy", CacheFormat(size=(20, 30)))
    assert "is 64×40, its label 64×48" in report.failed[f"train/{NAMES[0]}.png"]


def test_images_that_a_list_leaves_out_are_not_in_the_copy(root: Path, tmp_path: Path) -> None:
    (root / "trainannot" / f"{NAMES[0]}.png").unlink()
    assert list(write_cache("camvid", root, tmp_path / "copy").failed) == [f"train/{NAMES[0]}.png"]
    rows = [("camvid", f"train/{name}.png", "bad") for name in NAMES[:2]]
    write_excluded(tmp_path / "bad.txt", rows)
    report = write_cache("camvid", root, tmp_path / "copy", data=DataConfig(exclude=[str(tmp_path / "bad.txt")]))
    assert report.exit_code == 0
    assert [path.name for path in (tmp_path / "copy" / "train").iterdir()] == [f"{NAMES[2]}.jpg"]
    assert [path.name for path in (tmp_path / "copy" / "trainannot").iterdir()] == [f"{NAMES[2]}.png"]
    marker = json.loads((tmp_path / "copy" / MARKER).read_text())
    assert sorted(marker["files"]) == ["test/Seq05VD_4.png", f"train/{NAMES[2]}.png"]


def test_only_the_splits_that_are_named_are_copied(root: Path, tmp_path: Path) -> None:
    assert write_cache("camvid", root, tmp_path / "copy", splits=["test"]).images == 1
    assert not (tmp_path / "copy" / "train").exists()
    assert write_cache("camvid", root, tmp_path / "copy", splits=["train"]).images == 3
    assert len(opened("camvid", tmp_path / "copy", split="test")) == 1


def test_the_marker_says_what_the_copy_is_of(root: Path, tmp_path: Path) -> None:
    write_cache("camvid", root, tmp_path / "copy", CacheFormat(size=(20, 30), quality=90))
    marker = json.loads((tmp_path / "copy" / MARKER).read_text())
    assert {key: marker[key] for key in ("version", "set", "source", "size", "form", "quality")} == {
        "version": 2, "set": "camvid", "source": str(root.resolve()), "size": [20, 30], "form": "jpeg", "quality": 90
    }  # fmt: skip


def _png16(path: Path, label: NDArray[np.uint8]) -> None:
    """A label as SYNTHIA has it: the class in the first of three channels of 16 bits."""
    from tests.support.pictures import png

    deep = np.random.default_rng(0).integers(0, 2**16, (*label.shape, 3), dtype=np.uint16)
    deep[:, :, 0] = label
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(deep, bits=16, color_type=2))


def test_wide_labels_and_labels_of_colours_become_plain_ids(tmp_path: Path) -> None:
    synthia, gtav = tmp_path / "synthia", tmp_path / "gtav"
    save(synthia / "RGB" / "0000000.png", smooth(0))
    _png16(synthia / "GT" / "LABELS" / "0000000.png", truth(0))
    colors = np.array(label_space("cityscapes19").colors, np.uint8)
    save(gtav / "images" / "train" / "00001.png", smooth(0))
    save(gtav / "labels" / "train" / "00001.png", colors[truth(0)])
    for name, folder, split in (("synthia", synthia, "full"), ("gtav", gtav, "train")):
        copy = tmp_path / f"{name} copy"
        report = write_cache(name, folder, copy, splits=[split])
        assert report.exit_code == 0
        with Image.open(next(copy.rglob("0000[0-9]*.png"))) as image:
            assert image.mode == "L"
        ours, theirs = opened(name, folder, split=split).read(0), opened(name, copy, split=split).read(0)
        assert np.array_equal(ours.label, theirs.label)


def test_the_table_of_a_set_goes_with_its_copy(tmp_path: Path) -> None:
    from spcnet import label_tables

    root = tmp_path / "set"
    save(root / "training" / "images" / "a.jpg", smooth(0))
    save(root / "training" / "labels" / "a.png", truth(0))
    names = [{"name": name} for name in label_tables.MAPILLARY_V12]
    (root / "config.json").write_text(json.dumps({"labels": names}))
    write_cache("mapillary", root, tmp_path / "copy")
    assert (tmp_path / "copy" / "config.json").read_bytes() == (root / "config.json").read_bytes()


def test_photos_of_a_set_of_ones_own_keep_the_ending_that_its_pattern_asks_for(tmp_path: Path) -> None:
    root = tmp_path / "set"
    save(root / "photos" / "a.png", smooth(0))
    save(root / "masks" / "a.png", truth(0) % 2)
    own = OwnSet(images="photos/*.png", labels="masks/*.png", table={0: "road", 1: "sky"}, splits=["all"])
    write_cache("mine", root, tmp_path / "copy", data=DataConfig(sets={"mine": own}))
    copy = opened("mine", tmp_path / "copy", split="all", sets={"mine": own})
    assert np.array_equal(copy.read(0).image, smooth(0))


def _other_files(root: Path, copy: Path) -> None:
    copy.mkdir()
    (copy / "thesis.tex").write_text("mine")


def _strange_marker(text: str) -> Callable[[Path, Path], None]:
    def plant(root: Path, copy: Path) -> None:
        copy.mkdir()
        (copy / MARKER).write_text(text)

    return plant


_OUTSIDE = '{"version":1,"set":"camvid","size":null,"form":"jpeg","quality":95,"files":{"a":[[1,1,1,1],["../set/train/0001TP_1.png","b"],[1,1]]}}'


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (_other_files, f"holds files and no {MARKER}"),
        (_strange_marker("{"), "cannot read"),
        (_strange_marker("[]"), "cannot read"),
        (_strange_marker("[" * 100_000), "cannot read"),
        (_strange_marker(_OUTSIDE), "do not lie below it"),
        (lambda root, copy: write_cache("camvid", root, copy, CacheFormat(quality=80)), "quality 80 and not 95"),
        (lambda root, copy: write_cache("camvid", root, copy, CacheFormat(size=(4, 4))), r"size \[4, 4\] and not None"),
    ],
)
def test_a_folder_with_something_else_in_it_is_left_alone(
    root: Path, tmp_path: Path, plant: Callable[[Path, Path], object], told: str
) -> None:
    copy = tmp_path / "copy"
    plant(root, copy)
    before = contents(copy), contents(root)
    with pytest.raises(DataError, match=told):
        write_cache("camvid", root, copy)
    assert (contents(copy), contents(root)) == before


@pytest.mark.parametrize("folder", ["set", "set/train", "set/train/deep", ".", "link", "link/deep"])
def test_no_copy_is_written_into_the_set_or_around_it(root: Path, folder: str) -> None:
    os.symlink(root, root.parent / "link")
    before = contents(root)
    with pytest.raises(UsageError, match="name a folder beside it"):
        write_cache("camvid", root, root.parent / folder)
    assert contents(root) == before


def test_what_no_copy_can_be_is_said(root: Path, tmp_path: Path) -> None:
    for form, names in ((CacheFormat(quality=0), "quality"), (CacheFormat((0, 5)), "0×5")):
        with pytest.raises(UsageError, match=names):
            write_cache("camvid", root, tmp_path / "copy", form)
    with pytest.raises(UsageError, match="split"):
        write_cache("camvid", root, tmp_path / "copy", splits=["tset"])
    with pytest.raises(DataError, match="camvid@val"):
        write_cache("camvid", root, tmp_path / "copy", splits=["train", "val"])
    with pytest.raises(UsageError, match="generated"):
        write_cache("streets", root, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(DataError, match="cannot write"):
        write_cache("camvid", root, tmp_path / "closed" / "copy")


def test_where_writing_fails_all_ends_and_no_image_is_blamed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, write: object) -> None:
        raise DataError(f"cannot write {path}: no space")

    write_cache("camvid", root, tmp_path / "copy", splits=["test"])
    monkeypatch.setattr("spcnet.data.cache.write_bytes", full)
    with pytest.raises(DataError, match="no space"):
        write_cache("camvid", root, tmp_path / "copy")


def test_a_file_that_cannot_be_written_is_one_failure_and_the_rest_is_copied(root: Path, tmp_path: Path) -> None:
    write_cache("camvid", root, tmp_path / "copy", splits=["test"])
    (tmp_path / "copy" / "train" / f"{NAMES[0]}.jpg").mkdir(parents=True)
    report = write_cache("camvid", root, tmp_path / "copy")
    assert list(report.failed) == [f"train/{NAMES[0]}.png"]
    assert "A folder has that name" in report.failed[f"train/{NAMES[0]}.png"]
    assert report.images == 3


REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "camvid"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_real_photos_are_hardly_changed_by_the_copy(tmp_path: Path) -> None:
    names = sorted(path.stem for path in (REAL / "test").glob("*.jpg"))[:6]
    for name in names:
        for folder, ending in (("test", ".jpg"), ("testannot", ".png")):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(REAL / folder / f"{name}{ending}", tmp_path / "set" / folder)
    write_cache("camvid", tmp_path / "set", tmp_path / "copy", CacheFormat(size=(180, 240)))
    copy, plain = opened("camvid", tmp_path / "copy", split="test"), opened("camvid", tmp_path / "set", split="test")
    for index in range(len(names)):
        photo = Image.fromarray(plain.read(index).image).resize((240, 180), Image.Resampling.BILINEAR)
        assert np.abs(copy.read(index).image.astype(int) - np.asarray(photo)).mean() < 2.5


def test_a_copy_tells_of_what_is_left_out_of_it(root: Path, tmp_path: Path) -> None:
    (root / "test" / "strange.gif").write_bytes(b"GIF89a")
    listed = tmp_path / "list"
    listed.write_text("camvid\ttrain/none.png\n")
    report = write_cache("camvid", root, tmp_path / "copy", data=DataConfig(exclude=[str(listed)]))
    assert [remark.split(". ")[0] for remark in report.remarks] == [
        f"camvid@test in {root}: left out 1 file: 1 .gif",
        f"{listed} lists 1 image that the data set camvid in {root} does not have, and nothing is left out for it: line 1 "
        "(train/none.png)",
    ]
