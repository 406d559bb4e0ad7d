import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from spcnet.config import DataConfig, OwnSet
from spcnet.data.catalog import DATASETS
from spcnet.data.check_report import CheckReport, Problem
from spcnet.data.doctor import EXPECTED, check
from spcnet.data.exclude import write_excluded
from spcnet.data.folders import SetFolder
from spcnet.data.parallel import in_processes
from spcnet.errors import DataError, UsageError
from tests.support.pictures import STORED, film, jpegs, turned
from tests.support.sets import read_excluded

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
SIZE = (12, 20)
NAMES = {"train": ("0001TP_1", "0006R0_2", "0016E5_3"), "test": ("Seq05VD_4", "Seq05VD_5")}


def photo(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def truth(seed: int) -> NDArray[np.uint8]:
    """Ids of all classes, or of half of them."""
    return np.random.default_rng(seed).integers(0, 12 if seed % 2 else 6, SIZE, dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of five images, all well."""
    for seed, (split, name) in enumerate((split, name) for split, names in NAMES.items() for name in names):
        save(tmp_path / "camvid" / split / f"{name}.png", photo(seed))
        save(tmp_path / "camvid" / f"{split}annot" / f"{name}.png", truth(seed))
    return tmp_path / "camvid"


@pytest.fixture(autouse=True)
def nothing_is_known_of_how_many_images_there_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPECTED, "camvid", {})


def found(report: CheckReport) -> list[tuple[str, str]]:
    return [(problem.kind, problem.image) for problem in report.problems]


def test_a_set_in_order_has_no_problem_and_all_its_pixels_are_counted(root: Path) -> None:
    report = check("camvid", root, space="cityscapes19")
    assert report.problems == ()
    assert report.exit_code == 0
    assert report.excluded() == []
    assert [(split.split, split.pairs) for split in report.splits] == [("train", 3), ("test", 2)]
    assert report.images == 5
    assert report.sizes == {SIZE: 5}
    every = np.stack([truth(seed) for seed in range(5)])
    for native_id, name in DATASETS["camvid"].native.items():
        (count,) = [count for count in report.native if count.name == name]
        assert count.pixels == (every == native_id).sum()
        assert count.images == (every == native_id).any(axis=(1, 2)).sum()
    (person,) = [count for count in report.classes if count.name == "person"]
    assert person.pixels == (every == 9).sum()
    assert sum(count.pixels for count in report.classes) == every.size


def test_photos_that_are_turned_or_not_opaque_are_listed_and_fit_to_train_on(root: Path, tmp_path: Path) -> None:
    first, second, third = (root / "train" / f"{name}.png" for name in NAMES["train"])
    first.write_bytes(turned(6, pixels=photo(0)))  # its label lies on the upright photo
    second.write_bytes(turned(8, pixels=photo(1)))
    save(root / "trainannot" / second.name, STORED[8](truth(1)))  # on the stored one
    clear = np.full(SIZE, 255, np.uint8)
    clear[0, :12] = 7
    save(third, np.dstack([photo(2), clear]))
    (root / "testannot" / "Seq05VD_4.png").write_bytes(turned(3, pixels=truth(3)))
    report = check("camvid", root)
    assert (report.problems, report.exit_code, report.excluded()) == ((), 0, [])
    assert report.sizes == {SIZE: 5}
    assert [(one.kind, one.image, one.detail) for one in report.remarks] == [
        (
            "turned by EXIF", "train/0001TP_1.png",
            "it is 20×12 (EXIF orientation 6 of the stored 12×20); its label is taken to lie on the upright photo",
        ),
        (
            "turned by EXIF", "train/0006R0_2.png",
            "it is 20×12 (EXIF orientation 8 of the stored 12×20); its label is turned along with it",
        ),
        ("not opaque", "train/0016E5_3.png", "5.00% of its pixels are not opaque"),
        (
            "label turned by EXIF", "test/Seq05VD_4.png",
            "the label Seq05VD_4.png is 20×12 (EXIF orientation 3 of the stored 20×12)",
        ),
    ]  # fmt: skip
    assert [one["kind"] for one in json.loads(report.as_json())["remarks"]] == [one.kind for one in report.remarks]
    file = io.StringIO()
    report.render(Console(file=file, width=80))
    text = file.getvalue()
    assert "Nothing is wrong." in text
    assert "2 × turned by EXIF" in text
    assert "1 × not opaque" in text


def test_a_label_that_fits_neither_the_stored_nor_the_upright_photo_is_told_of_with_exif(root: Path) -> None:
    (root / "test" / "Seq05VD_5.png").write_bytes(turned(5, pixels=photo(0)[:, :19]))
    report = check("camvid", root, split="test")
    assert found(report) == [("sizes differ", "test/Seq05VD_5.png")]
    assert "EXIF orientation 5 of the stored 12×19" in report.problems[0].detail


def test_a_motion_photo_is_well_and_one_that_is_cut_off_is_not(root: Path) -> None:
    whole = jpegs()["plain"]
    for split, photo_part in (("train", whole), ("test", whole[:-900] + b"\xff\xd9")):
        for name in NAMES[split]:
            (root / split / f"{name}.png").write_bytes(photo_part + film(0, 200_000))
            save(root / f"{split}annot" / f"{name}.png", np.zeros((120, 160), np.uint8) + np.uint8(3))
    assert {kind for kind, _ in found(check("camvid", root, split="train"))} == {"duplicate"}
    assert {kind for kind, _ in found(check("camvid", root, split="test"))} == {"duplicate", "damaged"}


def test_only_the_split_that_is_named_is_read(root: Path) -> None:
    assert check("camvid", root, split="test").images == 2
    with pytest.raises(DataError, match="val"):
        check("camvid", root, split="val")


def test_what_is_counted_does_not_depend_on_the_number_of_processes(root: Path) -> None:
    for number in range(30):
        save(root / "train" / f"0001TP_9{number:02d}.png", photo(100 + number))
        save(root / "trainannot" / f"0001TP_9{number:02d}.png", truth(100 + number))
    told: list[tuple[int, int]] = []
    alone = check("camvid", root)
    together = check("camvid", root, workers=2, on_progress=lambda done, total: told.append((done, total)))
    assert alone.native == together.native
    assert told[0] == (0, 35)
    assert told[-1] == (35, 35)
    assert told == sorted(told)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _break_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12])


PHOTO, LABEL = "train/0006R0_2.png", "trainannot/0006R0_2.png"
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str, bool]] = {
    "a photo without a label": (lambda root: (root / LABEL).unlink(), "no label", PHOTO, LABEL, True),
    "a label without a photo": (lambda root: (root / PHOTO).unlink(), "no photo", LABEL, "missing", False),
    "a photo cut short": (lambda root: _truncate(root / PHOTO), "unreadable", PHOTO, "cannot read", True),
    "a label cut short": (lambda root: _truncate(root / LABEL), "unreadable", PHOTO, LABEL, True),
    "a photo that is text": (lambda root: (root / PHOTO).write_text("404"), "unreadable", PHOTO, "not one of PNG", True),
    "a photo without its end": (lambda root: _break_the_end(root / PHOTO), "damaged", PHOTO, "end is missing", True),
    "a label without its end": (lambda root: _break_the_end(root / LABEL), "damaged", PHOTO, "the label 0006", True),
    "a label of colours": (lambda root: save(root / LABEL, photo(1)), "unknown colours", PHOTO, "240 of 240 pixels", True),
    "another size": (lambda root: save(root / PHOTO, photo(1)[:6]), "sizes differ", PHOTO, "20×6, its label 20×12", True),
    "one colour": (
        lambda root: save(root / PHOTO, np.full((*SIZE, 3), 7, np.uint8)), "single colour", PHOTO, "(7, 7, 7)", True
    ),
    "one colour as jpeg leaves it": (
        lambda root: save(root / PHOTO, 40 + photo(1) % 3), "single colour", PHOTO, "all over", True
    ),
    "an unknown id": (
        lambda root: save(root / LABEL, np.where(truth(1) == 3, 77, truth(1)).astype(np.uint8)),
        "unknown ids", PHOTO, f"77 ({(truth(1) == 3).sum()} pixels)", True,
    ),
    "nothing labelled": (
        lambda root: save(root / LABEL, np.full(SIZE, 11, np.uint8)), "only void", PHOTO, "the ids 11 alone", True
    ),
    "the same file twice": (
        lambda root: shutil.copy(root / "train/0001TP_1.png", root / PHOTO),
        "duplicate", PHOTO, "the same as train/0001TP_1.png", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_found_as_one_problem(root: Path, fault: str) -> None:
    plant, kind, image, detail, excluded = FAULTS[fault]
    plant(root)
    report = check("camvid", root)
    assert found(report) == [(kind, image)]
    assert detail in report.problems[0].detail
    assert "\n" not in report.problems[0].detail
    assert report.exit_code == 1
    assert [row[:2] for row in report.excluded()] == ([("camvid", image)] if excluded else [])


def test_a_photo_of_one_colour_but_for_a_corner_is_no_problem(root: Path) -> None:
    pixels = np.full((*SIZE, 3), 7, np.uint8)
    pixels[-1, -1] = 10
    save(root / PHOTO, pixels)
    assert check("camvid", root).problems == ()


def test_without_the_images_of_the_list_the_set_opens_and_is_in_order(root: Path, tmp_path: Path) -> None:
    (root / "trainannot" / "0001TP_1.png").unlink()
    _truncate(root / PHOTO)
    report = check("camvid", root)
    assert report.exit_code == 1
    write_excluded(tmp_path / "bad.txt", report.excluded())
    left_out = read_excluded([str(tmp_path / "bad.txt")])["camvid"]
    assert left_out == {"train/0001TP_1.png", PHOTO}
    pairs, *_ = SetFolder("camvid", root).find_split("train", excluded=left_out)
    assert [pair.name for pair in pairs] == ["0016E5_3"]
    again = check("camvid", root, data=DataConfig(exclude=[str(tmp_path / "bad.txt")]))
    assert again.exit_code == 0
    assert again.left_out == 2
    assert again.images == 3


def test_a_split_that_is_not_whole_is_a_problem_and_an_unknown_number_is_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPECTED, "camvid", {"train": (4, 9), "test": (2,)})
    assert check("camvid", root).problems == (
        Problem("incomplete", "train", "3 images, of 4 or 9 that were published"),
    )


def test_a_split_is_whole_at_any_of_its_extents_and_with_labels_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPECTED, "camvid", {"train": (9, 3)})
    (root / LABEL).unlink()
    assert found(check("camvid", root)) == [("no label", PHOTO)]


def test_every_number_that_is_expected_is_of_a_split_that_the_set_has() -> None:
    for name, splits in EXPECTED.items():
        assert set(splits) <= set(DATASETS[name].splits)


def test_an_image_that_is_in_two_splits_is_read_and_told_of_once(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path / "images" / f"{number:05d}.png", photo(number))
        save(tmp_path / "labels" / f"{number:05d}.png", truth(number) % 12)
    _truncate(tmp_path / "images" / "00001.png")
    (tmp_path / "labels" / "00002.png").unlink()
    report = check("gtav", tmp_path)
    assert report.images == 1
    assert {split.split for split in report.splits} >= {"full"}
    assert [(kind, image) for kind, image in found(report) if kind != "incomplete"] == [
        ("no label", "images/00002.png"),
        ("unreadable", "images/00001.png"),
    ]


def test_a_set_of_the_users_own_is_checked_like_any(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.png", photo(1))
    save(tmp_path / "masks" / "a.png", np.where(truth(1) > 5, 1, 4).astype(np.uint8))
    own = OwnSet(images="photos/*.png", labels="masks/*.png", table={1: "road", 2: "sky"}, splits=["all"])
    report = check("mine", tmp_path, data=DataConfig(sets={"mine": own}), space="cityscapes19")
    assert found(report) == [("unknown ids", "photos/a.png")]


def test_what_cannot_be_checked_is_said_at_once(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="generated"):
        check("streets", root)
    with pytest.raises(UsageError, match="split"):
        check("camvid", root, split="tset")
    with pytest.raises(UsageError, match="label space"):
        check("camvid", root, space="idd8")
    with pytest.raises(UsageError, match="workers"):
        check("camvid", root, workers=-1)
    with pytest.raises(DataError, match="camvid"):
        check("camvid", tmp_path)


def test_the_report_can_be_read_at_80_columns_and_by_a_program(root: Path) -> None:
    for name in ("0001TP_1", "0006R0_2", "0016E5_3"):
        (root / "trainannot" / f"{name}.png").write_text("[red]")
    (root / "testannot" / "Seq05VD_4.png").write_text("[red]")
    report = check("camvid", root, space="cityscapes19")
    out = io.StringIO()
    report.render(Console(file=out, width=80))
    text = out.getvalue()
    assert "4 × unreadable" in text
    assert "and 1 more" in text
    assert "traffic light" in text
    assert all(len(line) <= 80 for line in text.splitlines() if "cannot read" not in line)
    content = json.loads(report.as_json())
    assert content["images"] == 5
    assert content["sizes"] == [{"height": 12, "width": 20, "images": 5}]
    assert len(content["problems"]) == 4
    assert {entry["name"] for entry in content["native"]} == set(DATASETS["camvid"].native.values())


def test_a_set_in_order_is_said_to_be(root: Path) -> None:
    out = io.StringIO()
    check("camvid", root).render(Console(file=out, width=80))
    assert "Nothing is wrong" in out.getvalue()


def _die(item: int) -> int:
    if item == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def _fail(item: int) -> int:
    if item == 20:
        raise DataError("no more space")
    return item


def _square(item: int) -> int:
    return item * item


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no such signal")
def test_a_process_that_dies_is_one_line() -> None:
    with pytest.raises(DataError, match="ended from outside"):
        list(in_processes(_die, range(40), workers=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order_and_errors_as_they_are(workers: int) -> None:
    assert list(in_processes(_square, range(50), workers=workers)) == [n * n for n in range(50)]
    with pytest.raises(DataError, match="no more space"):
        list(in_processes(_fail, range(50), workers=workers))


def test_stopping_in_the_middle_ends_the_processes() -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_processes(_square, range(10_000), workers=2, on_progress=stop))


@pytest.mark.skipif(not (REAL / "camvid").is_dir(), reason="the real images are not here")
def test_of_the_real_camvid_every_image_is_there_and_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPECTED, "camvid", {"val": (101,)})
    report = check("camvid", REAL / "camvid", split="val", space="idd7")
    assert report.problems == ()
    assert report.images == 101
