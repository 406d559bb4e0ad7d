"""What lies below a folder, what it is, and that nothing of it is passed over without a word."""

import os
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from spcnet import dry_run, training
from spcnet.commands.evaluate import evaluate
from spcnet.commands.export import export
from spcnet.commands.inspect import inspect
from spcnet.commands.robustness import robustness as robustness_command
from spcnet.config import DataConfig, OwnSet, RunConfig, read_sets
from spcnet.data.catalog import DATASETS
from spcnet.data.datasets import WeatherSet
from spcnet.data.doctor import check
from spcnet.data.fixture import write_fixture
from spcnet.data.folders import SetFolder
from spcnet.data.listing import LeftOut, files_below, kind_by_content, package_for, plug_in_loaded, spellings
from spcnet.errors import DataError
from spcnet.labels import label_space
from spcnet.reports.dry_run import Rehearsal
from spcnet.studies import exports, inspection, robustness
from spcnet.studies.subject import Subject
from tests.support.sets import opened, refusal, write

SMALL = (32, 64)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
OWN = OwnSet("photos/{split}/**/*.jpg", "masks/{split}/**/*.png", {0: "road", 7: "car"})


def own(root: Path, **options: object) -> DataConfig:
    return DataConfig(roots={"town": str(root)}, sets={"town": OWN}, **options)


def photo(path: Path, seed: int = 0, kind: str = "JPEG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format=kind)


def label(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 2, (12, 20), dtype=np.uint8) * 7
    Image.fromarray(pixels.astype(np.uint8)).save(path, format="PNG")


def pair(root: Path, name: str, end: str, label_end: str = ".png", split: str = "train") -> None:
    seed = len([*root.rglob("*")])
    photo(root / f"photos/{split}/{name}{end}", seed)
    label(root / f"masks/{split}/{name}{label_end}", seed)


# Spellings


@pytest.mark.parametrize("end", [".JPG", ".jpeg", ".Jpg", ".JPEG", ".jfif", ".jpe"])
@pytest.mark.parametrize("label_end", [".png", ".PNG", ".Png"])
def test_a_set_whose_files_all_end_in_another_spelling_is_the_same_set(
    tmp_path: Path, end: str, label_end: str
) -> None:
    for name in ("a", "north/b"):
        pair(tmp_path, name, end, label_end)
    data = own(tmp_path)
    assert [one.name for one in SetFolder("town", tmp_path, data).find_split("train")[0]] == ["a", "north_b"]
    assert opened("town@train", data).read(1).name == "north_b"
    report = check("town", tmp_path, data=data)
    assert [(split.pairs, split.no_label, split.no_photo) for split in report.splits] == [(2, 0, 0)]
    assert (report.exit_code, dict(report.passed_over)) == (0, {})


def test_stems_keep_their_case(tmp_path: Path) -> None:
    for name in ("a", "A"):
        pair(tmp_path, name, ".JPG")
    label(tmp_path / "masks/train/B.png")
    listed = SetFolder("town", tmp_path, own(tmp_path)).survey("train")
    assert [(one.name, one.label.name) for one in listed.pairs] == [("A", "A.png"), ("a", "a.png")]
    assert [path.name for path in listed.orphans] == ["B.png"]


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"streets"}))
def test_every_set_is_opened_whatever_the_case_of_its_endings(name: str, tmp_path: Path) -> None:
    info = DATASETS[name]
    for path in write_fixture(name, tmp_path, images_per_split=1, size=SMALL):
        if path.suffix in (".png", ".jpg"):
            path.rename(path.with_suffix({".png": ".PNG", ".jpg": ".JPEG"}[path.suffix]))
    by_folder = any("{subset}" in pattern for layout in info.layouts for pattern in layout.images)
    subset = next(iter(info.subsets)) if by_folder else None
    listed = SetFolder(name, tmp_path).survey(info.train_split, subset)
    assert listed.pairs
    assert (listed.bare, listed.orphans, listed.passed_over, listed.twins) == ([], [], (), ())


def test_of_two_spellings_of_one_photo_the_pattern_s_is_used_and_the_other_told_of(tmp_path: Path) -> None:
    pair(tmp_path, "a", ".jpg")
    photo(tmp_path / "photos/train/a.JPG", 7)
    label(tmp_path / "masks/train/a.PNG", 7)
    data = own(tmp_path)
    assert [one.image.name for one in SetFolder("town", tmp_path, data).find_split("train")[0]] == ["a.jpg"]
    report = check("town", tmp_path, data=data)
    assert [(one.kind, one.image, one.detail) for one in report.problems] == [
        ("two spellings", "masks/train/a.PNG", "masks/train/a.png is used instead"),
        ("two spellings", "photos/train/a.JPG", "photos/train/a.jpg is used instead"),
    ]
    assert report.excluded() == []
    assert "left out 2 files" in opened("town@train", data).remarks[0]
    assert "1 .JPG beside a .jpg of the same name" in opened("town@train", data).remarks[0]


def test_a_photo_as_png_and_as_jpeg_is_told_of(tmp_path: Path) -> None:
    written = write_fixture("kitti", tmp_path, size=SMALL)
    photo(written[0].with_suffix(".jpeg"))
    assert [two.other.suffix for two in SetFolder("kitti", tmp_path).survey("train").twins] == [".jpeg"]
    assert ("two spellings", f"training/image_2/{written[0].stem}.jpeg") in [
        (one.kind, one.image) for one in check("kitti", tmp_path).problems
    ]


# What is left out of a set


def test_pictures_among_the_photos_that_are_none_of_them_are_counted_by_kind(tmp_path: Path) -> None:
    pair(tmp_path, "a", ".jpg")
    folder = tmp_path / "photos/train"
    for number in range(3):
        (folder / f"{number}.HEIC").write_bytes(HEIC)
    photo(folder / "deep/b.png", kind="PNG")
    photo(folder / "c.gif", kind="GIF")
    photo(folder / "IMG_9", kind="PNG")
    photo(folder / ".d.jpg")
    for name in ("notes.txt", "list.json", "Thumbs.db", "README", "film.mp4", "._a.jpg", "SYNOFILE_THUMB_M.jpg"):
        (folder / name).write_bytes(b"x")
    for inside in ("@eaDir/a.jpg", "__MACOSX", ".thumbnails", "#recycle"):
        photo(folder / inside / "SYNOPHOTO_THUMB_M.jpg")
        photo(folder / inside / "x.jpg")
    expected = {
        ".heic": 3,
        ".gif": 1,
        ".png": 1,
        "hidden .jpg": 1,
        "without ending (PNG by content)": 1,
    }
    report = check("town", tmp_path, data=own(tmp_path))
    assert dict(report.passed_over) == expected
    assert (report.images, report.exit_code) == (1, 0)
    domain = opened("town@train", own(tmp_path))
    assert len(domain) == 1
    (remark,) = domain.remarks
    assert "left out 7 files: 3 .heic (pillow-heif reads them: convert them to JPEG or PNG)" in remark
    assert remark.endswith("Its photos are photos/train/**/*.jpg in any case")
    assert WeatherSet(domain, "fog", seed=0).remarks == (remark,)


def test_a_split_that_has_nothing_but_other_pictures_is_told_of(tmp_path: Path) -> None:
    pair(tmp_path, "a", ".jpg")
    photo(tmp_path / "photos/val/b.png", kind="PNG")
    label(tmp_path / "masks/val/b.png")
    data = own(tmp_path)
    assert "has no images" in refusal(DataError, "town@val", data)
    assert "(left out 1 file: 1 .png)" in refusal(DataError, "town@val", data)
    report = check("town", tmp_path, data=data)
    assert dict(report.passed_over) == {".png": 1}
    assert len(SetFolder("town", tmp_path, data).pictures_of_missing_split("val")) == 1


def test_other_kinds_of_labels_beside_photos_are_not_told_of(tmp_path: Path) -> None:
    both = OwnSet("*.jpg", "*_mask.png", {0: "road", 7: "car"}, ["all"])
    photo(tmp_path / "a.jpg")
    label(tmp_path / "a_mask.png")
    label(tmp_path / "a_instances.png")
    photo(tmp_path / "b.webp", kind="WEBP")
    listed = SetFolder("town", tmp_path, DataConfig(sets={"town": both})).survey("all")
    assert [one.path.name for one in listed.passed_over] == ["b.webp"]


def test_names_that_do_not_fit_and_photos_of_no_split_are_told_of(tmp_path: Path) -> None:
    written = write_fixture("cityscapes", tmp_path / "city", layout="ids", size=SMALL)
    photo(written[0].with_name("strange.png"), kind="PNG")
    (one,) = SetFolder("cityscapes", tmp_path / "city").survey("train").passed_over
    assert one.what == ".png whose names do not fit *_leftImg8bit"
    write_fixture("gtav", tmp_path / "game", layout="as downloaded", size=SMALL)
    photo(tmp_path / "game/images/copy (1).png", kind="PNG")
    (one,) = SetFolder("gtav", tmp_path / "game").survey("train").passed_over
    assert one.what == ".png that belong to no split"


def test_whole_sets_leave_nothing_out(tmp_path: Path) -> None:
    for number, layout in enumerate(DATASETS["gtav"].layouts):
        write_fixture("gtav", tmp_path / str(number), layout=layout.name, size=SMALL)
        for split in DATASETS["gtav"].splits:
            assert SetFolder("gtav", tmp_path / str(number)).survey(split).passed_over == ()


def test_training_tells_of_what_is_left_out_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        pair(tmp_path, "a", ".jpg", split=split)
        photo(tmp_path / f"photos/{split}/b.gif", kind="GIF")
    (tmp_path / "list").write_text("twon\tphotos/train/a.jpg\twhy\n")

    class Enough(Exception):
        pass

    def stop(*arguments: object, **options: object) -> None:
        raise Enough

    monkeypatch.setattr(training, "check_labelled", stop)
    data = own(tmp_path, sources=["town"], targets=["town@val"], size=(64, 64), exclude=[str(tmp_path / "list")])
    with pytest.raises(Enough):
        training.train(RunConfig(method="deeplabv3plus", data=data), console=Console(width=100))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" in ")[0] for line in lines] == [
        "town@train",
        f"{tmp_path / 'list'} lists images of 'twon', which is not a data set with files: line 1. Did you mean 'town'?",
        "town@val",
    ]


def test_whatever_opens_sets_tells_what_is_left_out_of_them() -> None:
    opening = re.compile(r"\bopen_domains?\(|\.(tests|training_sets)\(|Experiment\.open\(")
    # Where they are defined, and where a run's sources are read once more, for int8.
    silent = {"spcnet/data/datasets.py", "spcnet/runs.py", "spcnet/studies/engines.py"}
    tellers = []
    for path in sorted(Path("spcnet").rglob("*.py")):
        text = path.read_text("utf-8")
        if opening.search(text) and path.as_posix() not in silent:
            assert "print_remarks(" in text or "opened.remarks" in text, path
            tellers.append(path.parent.name if path.stem == "__init__" else path.stem)
    assert {"training", "evaluation", "exports", "robustness", "inspection", "ood", "dry_run"} <= set(tellers)


@pytest.mark.parametrize(
    "way", ["evaluate", "protocol", "predictions", "robustness", "inspect", "calibration", "dry run"]
)
def test_every_command_tells_of_what_is_left_out(
    way: str, tmp_path: Path, tiny_runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = tmp_path / "set", tmp_path / "run"
    pair(root, "a", ".jpg", split="val")
    photo(root / "photos/val/b.gif", kind="GIF")
    (tmp_path / "sets.yaml").write_text(
        "town: {images: 'photos/{split}/*.jpg', labels: 'masks/{split}/*.png', splits: [val], table: {0: road, 7: car}}\n"
    )
    shutil.copytree(tiny_runs / "deeplabv3plus", run)
    given: dict[str, Any] = {"roots": {"town": str(root)}, "sets": tmp_path / "sets.yaml"}
    console = Console(width=100)

    def call() -> None:
        if way in ("evaluate", "protocol"):
            size = {"size": (48, 96)} if way == "protocol" else {}
            evaluate(run, targets=["town"], console=console, **size, **given)
        elif way == "predictions":
            label(tmp_path / "maps/a_classes.png")
            evaluate(tmp_path / "maps", targets=["town"], console=console, **given)
        elif way == "robustness":
            robustness_command([run], target="town", output=tmp_path / "out", console=console, **given)
        elif way == "inspect":
            inspect([run], targets=["town"], console=console, **given)
        elif way == "calibration":
            output = tmp_path / "a.onnx"
            export(run, output=output, int8=True, calibration="town", console=console, **given)
        else:
            data = DataConfig(sources=["town@val"], targets=[], roots=given["roots"], sets=read_sets(given["sets"]))
            report = Rehearsal()
            dry_run._open(data, label_space("cityscapes19"), report)
            console.print(*report.notes, soft_wrap=True)
            raise _Enough

    for module, name in (
        (Subject, "evaluate"),
        (robustness, "labelled"),
        (inspection, "Chosen"),
        (exports.exporting, "export"),
    ):
        monkeypatch.setattr(module, name, _stop)  # what comes after the sets are opened is none of this test's
    with pytest.raises(_Enough):
        call()
    assert capsys.readouterr().out.startswith(f"town@val in {root}: left out 1 file: 1 .gif. Its photos are")


class _Enough(Exception):
    """What was to be seen has been seen."""


def _stop(*arguments: object, **options: object) -> None:
    raise _Enough


# Files below a folder


def test_links_to_folders_are_followed_once_and_never_upwards(tmp_path: Path) -> None:
    for name in ("root/a/1.png", "elsewhere/2.png", "elsewhere/deep/3.png"):
        write(tmp_path / name)
    for link, target in (
        ("root/z", "elsewhere"),
        ("root/b", "elsewhere"),
        ("elsewhere/up", "root"),
        ("root/a/here", "root/a"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    found = sorted(files_below(tmp_path / "root"))
    assert found == ["a/1.png", "b/2.png", "b/deep/3.png"]


def test_a_link_to_a_folder_beside_it_is_no_second_one(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/deep/2.png", ".store/3.png", "elsewhere/in/4.png"):
        write(tmp_path / "root" / name if not name.startswith("elsewhere") else tmp_path / name)
    for link, target in (
        ("root/0", "root/a"),
        ("root/z", "root/a/deep"),
        ("root/hidden", "root/.store"),
        ("root/far", "elsewhere"),
        ("root/part", "elsewhere/in"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    twins: list[str] = []
    found = sorted(files_below(tmp_path / "root", twins=twins))
    assert found == ["a/1.png", "a/deep/2.png", "far/in/4.png", "hidden/3.png"]
    assert sorted(twins) == ["0", "part", "z"]


def test_photos_behind_a_link_beside_them_count_once_and_may_share_label_images(tmp_path: Path) -> None:
    pair(tmp_path, "a/1", ".jpg")
    for kind in ("photos", "masks"):
        (tmp_path / kind / "train/b").symlink_to("a")
    data = own(tmp_path)
    assert [one.name for one in SetFolder("town", tmp_path, data).find_split("train")[0]] == ["a_1"]
    (tmp_path / "photos/train/b").unlink()
    photo(tmp_path / "photos/train/b/1.jpg", 5)
    pairs = SetFolder("town", tmp_path, data).find_split("train")[0]
    assert [(one.name, one.label.relative_to(tmp_path).as_posix()) for one in pairs] == [
        ("a_1", "masks/train/a/1.png"),
        ("b_1", "masks/train/b/1.png"),
    ]


def test_a_folder_that_is_not_there_is_empty_or_an_error(tmp_path: Path) -> None:
    assert list(files_below(tmp_path / "gone")) == []
    with pytest.raises(DataError, match="cannot list the folder"):
        list(files_below(tmp_path / "gone", missing_ok=False))


# What a file is


@pytest.mark.parametrize(
    ("kind", "pillow"),
    [("jpeg", "JPEG"), ("png", "PNG"), ("gif", "GIF"), ("webp", "WEBP"), ("bmp", "BMP"), ("tiff", "TIFF"), ("pnm", "PPM"),
     ("jp2", "JPEG2000"), ("avif", "AVIF")],
)  # fmt: skip
def test_pictures_are_known_by_their_first_bytes(tmp_path: Path, kind: str, pillow: str) -> None:
    photo(tmp_path / "x", kind=pillow)
    assert kind_by_content(tmp_path / "x") == kind


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (HEIC, "heif"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif" + bytes(20), "avif"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41", "video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "video"),
        (b"\xff\x0a" + bytes(30), "jxl"),
        (b"BMore text than a picture has\n", ""),
        (b"P4 is a bus\n", ""),
        (b"# a readme\n", ""),
        (b"", ""),
    ],
)
def test_what_is_no_photo_is_told_apart(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "x").write_bytes(content)
    assert kind_by_content(tmp_path / "x") == kind


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    assert kind_by_content(tmp_path / "x") == ""
    assert kind_by_content(tmp_path) == ""


def test_endings_that_mean_the_same() -> None:
    assert spellings(".JPEG") == (".jpeg", ".jpg", ".jfif", ".jpe")
    assert spellings(".PNG") == (".png",)


def test_what_was_left_out_is_one_line() -> None:
    left_out = LeftOut([".heic"] * 7 + [".gif"] * 3 + ["hidden .jpg"] * 2 + [".dng"])
    assert left_out.text() == (
        "13 files: 7 .heic (install pillow-heif to read them), 3 .gif, 2 hidden .jpg, "
        "1 .dng (raw file of a camera: convert it to JPEG or PNG)"
    )
    assert LeftOut([".heic"]).text() == "1 file: 1 .heic (install pillow-heif to read it)"
    assert not LeftOut()


def test_a_plug_in_that_is_installed_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in_loaded.cache_clear()
    assert package_for("heif") == "pillow-heif"
    assert package_for("png") is None
    plug_in_loaded.cache_clear()
    registered = []
    module = ModuleType("pillow_heif")
    module.register_heif_opener = lambda: registered.append(True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    assert package_for("heif") is None
    assert registered == [True]
    plug_in_loaded.cache_clear()


def test_the_command_that_makes_label_images_can_be_called_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "my sets" / "idd"
    for path in write_fixture("idd", root, images_per_split=1, size=SMALL):
        if "gtFine" in path.parts:
            path.unlink()
            path.with_name(path.name.replace("labelcsTrainIds.png", "polygons.json")).write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(f"--datadir '{root}' --id-type csTrainId")):
        SetFolder("idd", Path("my sets/idd")).find_split("train")
