import multiprocessing
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spcnet import label_tables, labels
from spcnet.config import DataConfig, DomainSpec
from spcnet.data import datasets, splits
from spcnet.data.catalog import DATASETS
from spcnet.data.datasets import SceneMemory, SegmentationSet, open_domain
from spcnet.data.folders import SetFolder
from spcnet.data.label_formats import UnknownLabelError
from spcnet.errors import DataError, UsageError
from spcnet.label_tables import CITYSCAPES_IDS
from spcnet.labels import IGNORE, label_space
from spcnet.synthesis import streets, weather

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
STYLE = next(iter(DATASETS["streets"].subsets))


def write_image(path: Path, size: tuple[int, int] = (12, 20), *, value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_label(path: Path, pixels: NDArray[np.uint8] | None = None, *, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 20), value, np.uint8) if pixels is None else pixels).save(path)


def make_camvid(root: Path) -> Path:
    for split, names in (("train", ("0016E5_1", "0001TP_2", "0006R0_3")), ("test", ("Seq05VD_4",))):
        for number, name in enumerate(names):
            write_image(root / split / f"{name}.png", value=number)
            write_label(root / f"{split}annot" / f"{name}.png", value=number)
    return root


def make_idd_lite(root: Path) -> Path:
    for split in ("train", "val"):
        for drive, frame in (("0", "001"), ("0", "002"), ("12", "001")):
            write_image(root / "leftImg8bit" / split / drive / f"{frame}_image.jpg")
            write_label(root / "gtFine" / split / drive / f"{frame}_label.png", value=6)
            write_label(root / "gtFine" / split / drive / f"{frame}_inst_label.png", value=99)
    return root


def make_cityscapes(root: Path, images: str, truths: str, ending: str, *, city: str = "", value: int = 0) -> Path:
    for split in ("train", "val"):
        for name in (f"{city or 'flat'}_000001", f"{city or 'flat'}_000000"):
            write_image(root / images / split / city / f"{name}_leftImg8bit.png")
            write_label(root / truths / split / city / f"{name}_gtFine_{ending}.png", value=value)
    return root


def opened(
    domain: str, *, training: bool = False, space: str = "idd7", seed: int = 0, **roots: Path
) -> SegmentationSet:
    data = DataConfig(
        roots={name: str(root) for name, root in roots.items()}, train_scenes=3, test_scenes=4, size=(40, 80)
    )
    return open_domain(DomainSpec.parse(domain), data=data, space=label_space(space), training=training, seed=seed)


def names(domain: SegmentationSet) -> list[str]:
    return [domain.read(i).name for i in range(len(domain))]


def test_camvid_trains_on_its_train_split_and_is_tested_on_its_test_split(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    assert names(opened("camvid", training=True, camvid=root)) == ["0001TP_2", "0006R0_3", "0016E5_1"]
    assert names(opened("camvid", camvid=root)) == ["Seq05VD_4"]
    assert names(opened("camvid@train", camvid=root)) == ["0001TP_2", "0006R0_3", "0016E5_1"]


def test_camvid_subsets_share_no_image_and_miss_none(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    assert names(opened("camvid/dusk@train", camvid=root)) == ["0001TP_2"]
    assert names(opened("camvid/day@train", camvid=root)) == ["0006R0_3", "0016E5_1"]


def test_idd_lite_tells_drives_apart_and_leaves_instance_labels_alone(tmp_path: Path) -> None:
    domain = opened("idd_lite", idd_lite=make_idd_lite(tmp_path))
    assert names(domain) == ["0_001", "0_002", "12_001"]
    assert np.unique(domain.read(0).label).tolist() == [label_space("idd7").classes.index("sky")]


@pytest.mark.parametrize(
    ("images", "truths"),
    [
        ("leftImg8bit", "gtFine"),
        ("leftImg8bit_trainvaltest/leftImg8bit", "gtFine_trainvaltest/gtFine"),
    ],
)
@pytest.mark.parametrize("city", ["", "aachen"])
@pytest.mark.parametrize(("ending", "car"), [("labelTrainIds", 13), ("labelIds", 26)])
def test_cityscapes_is_found_in_each_of_its_layouts(
    tmp_path: Path, images: str, truths: str, city: str, ending: str, car: int
) -> None:
    root = make_cityscapes(tmp_path, images, truths, ending, city=city, value=car)
    domain = opened("cityscapes", space="cityscapes19", cityscapes=root)
    assert len(domain) == 2
    sample = domain.read(0)
    assert sample.name.endswith("_000000")
    assert np.unique(sample.label).tolist() == [label_space("cityscapes19").classes.index("car")]


def write_palette_label(path: Path, ids: tuple[int, ...]) -> None:
    label = Image.fromarray(np.repeat(np.uint8([ids]), 12, axis=0).repeat(20 // len(ids), axis=1))
    label.putpalette([i for k in range(256) for i in (k, 255 - k, 9)])
    path.parent.mkdir(parents=True, exist_ok=True)
    label.save(path)


def test_gtav_s_colours_are_its_classes(tmp_path: Path) -> None:
    """A palette image holds indices, which are Cityscapes' native ids."""
    for split in ("train", "valid"):
        write_image(tmp_path / "images" / split / "folder" / "00001.png")
        write_palette_label(tmp_path / "labels" / split / "folder" / "00001.png", (7, 26, 34, 0))
    sample = opened("gtav", space="cityscapes19", gtav=tmp_path).read(0)
    assert sample.label[0, ::5].tolist() == [0, 13, IGNORE, IGNORE]
    assert names(opened("gtav@full", gtav=tmp_path)) == ["train_folder_00001", "valid_folder_00001"]


@pytest.mark.parametrize(("ending", "car"), [("", 26), ("_labelTrainIds", 13)])
def test_gtav_as_downloaded_is_split_by_name(tmp_path: Path, ending: str, car: int) -> None:
    """Frames 1, 22 and 11 are of the three splits, 12160 is one of those left out."""
    for frame in ("00001", "00022", "00011", "12160"):
        write_image(tmp_path / "images" / f"{frame}.png")
        write_label(tmp_path / "labels" / f"{frame}{ending}.png", value=car)
    by_split = {"train": ["00001"], "val": ["00022"], "test": ["00011"], "full": ["00001", "00011", "00022", "12160"]}
    for split, expected in by_split.items():
        domain = opened(f"gtav@{split}", space="cityscapes19", gtav=tmp_path)
        assert names(domain) == expected
        assert np.unique(domain.read(0).label).tolist() == [13]


@pytest.mark.parametrize("name", ["gtav", "synthia"])
def test_splits_by_name_are_those_of_the_framework(name: str) -> None:
    found = getattr(splits, name)()
    counts = {"gtav": (12_388, 6_382, 6_181, 24_966), "synthia": (6_580, 2_820, 9_400)}[name]
    assert tuple(map(len, found.values())) == counts
    parts = [members for split, members in found.items() if split != "full"]
    assert sum(map(len, parts)) == len(frozenset().union(*parts))
    assert all(members <= found["full"] for members in parts)
    lists = REAL.parent / "reference" / "splits"
    if not lists.is_dir():
        pytest.skip("the framework's lists are not there")
    for split, members in found.items():
        if split != "full":
            text = (lists / f"{name}_split_{split}.txt").read_text()
            assert members == {line.removesuffix(".png") for line in text.split()}


def write_wide_png(path: Path, channels: NDArray[np.uint16]) -> None:
    """A PNG with 16 bits a channel, H×W×3, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = channels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def make_synthia(root: Path, ids: tuple[int, ...] = (1, 8, 22, 16)) -> Path:
    for number in ("0000000", "0000001"):
        write_image(root / "RGB" / f"{number}.png")
        pixels = np.zeros((12, 20, 3), np.uint16)
        pixels[:, :, 0] = np.repeat(ids, 20 // len(ids))
        pixels[:, :, 1] = 999  # the instance
        write_wide_png(root / "GT" / "LABELS" / f"{number}.png", pixels)
    return root


def test_synthia_has_its_class_in_the_first_of_its_16_bit_channels(tmp_path: Path) -> None:
    domain = opened("synthia", space="cityscapes19", synthia=make_synthia(tmp_path))
    sample = domain.read(0)
    assert sample.name == "0000000"
    assert sample.label[0, ::5].tolist() == [10, 13, IGNORE, 9]
    assert names(opened("synthia@train", synthia=tmp_path)) == ["0000001"]
    Image.fromarray(np.full((12, 20), 3, np.uint16)).save(tmp_path / "GT" / "LABELS" / "0000000.png")
    assert np.unique(domain.read(0).label).tolist() == [0]  # a single channel of 16 bits
    write_label(tmp_path / "GT" / "LABELS" / "0000000.png", value=3)  # 8 bits are understood, too
    assert np.unique(domain.read(0).label).tolist() == [0]


def test_a_wide_label_that_is_broken_or_out_of_range_is_named(tmp_path: Path) -> None:
    domain = opened("synthia", synthia=make_synthia(tmp_path, ids=(1, 300)))
    with pytest.raises(DataError, match=r"0000000\.png has unknown ids: .* pixels: 300 \("):
        domain.read(0)
    path = tmp_path / "GT" / "LABELS" / "0000000.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot read .*0000000\.png"):
        domain.read(0)
    path.write_bytes(whole[:16] + struct.pack(">II", 2**16, 2**16) + whole[24:])
    with pytest.raises(DataError, match=r"cannot read .*0000000\.png"):
        domain.read(0)


@pytest.mark.parametrize(
    ("images", "truths", "ending"),
    [("images/10k", "labels/sem_seg/masks", ".png"), ("images", "labels", "_train_id.png")],
)
def test_bdd100k_is_found_as_downloaded_now_and_then(tmp_path: Path, images: str, truths: str, ending: str) -> None:
    write_image(tmp_path / images / "val" / "7d06fefd-f7be05a6.jpg")
    write_label(tmp_path / truths / "val" / f"7d06fefd-f7be05a6{ending}", value=13)
    sample = opened("bdd100k", space="cityscapes19", bdd100k=tmp_path).read(0)
    assert np.unique(sample.label).tolist() == [13]


@pytest.mark.parametrize(
    ("ending", "values", "expected"),
    [
        ("_gtFine_labelcsTrainIds", (0, 9, 20, 22, 255), [0, 9, IGNORE, IGNORE, IGNORE]),
        ("_gtFine_labellevel3Ids", (0, 3, 8, 22, 25), [0, 9, IGNORE, 2, 10]),
    ],
)
def test_idd_is_read_with_either_kind_of_label(
    tmp_path: Path, ending: str, values: tuple[int, ...], expected: list[int]
) -> None:
    write_image(tmp_path / "leftImg8bit" / "val" / "201" / "frame0299_leftImg8bit.png")
    pixels = np.repeat(np.uint8([values]), 12, axis=0).repeat(4, axis=1)
    write_label(tmp_path / "gtFine" / "val" / "201" / f"frame0299{ending}.png", pixels)
    assert opened("idd", space="cityscapes19", idd=tmp_path).read(0).label[0, ::4].tolist() == expected
    grouped = opened("idd", space="idd7", idd=tmp_path).read(0).label[0, ::4]
    assert grouped[2] == label_space("idd7").classes.index("vehicle")


def test_acdc_has_a_subset_for_each_condition(tmp_path: Path) -> None:
    for number, condition in enumerate(("fog", "night", "rain", "snow")):
        frame = f"GOPR{number}/GOPR{number}_frame_000001"
        write_image(tmp_path / "rgb_anon" / condition / "val" / f"{frame}_rgb_anon.png")
        write_label(tmp_path / "gt" / condition / "val" / f"{frame}_gt_labelTrainIds.png", value=number)
    assert names(opened("acdc/rain", acdc=tmp_path)) == ["GOPR2_GOPR2_frame_000001"]
    every = opened("acdc", space="cityscapes19", acdc=tmp_path)
    assert [int(every.read(i).label[0, 0]) for i in range(len(every))] == [0, 1, 2, 3]
    snow = tmp_path / "gt" / "snow" / "val" / "GOPR3" / "GOPR3_frame_000001_gt_labelTrainIds.png"
    snow.rename(snow.with_name("GOPR3_frame_000001_gt_labelIds.png"))
    with pytest.raises(DataError, match="labels of different kinds"):
        opened("acdc", acdc=tmp_path)
    with pytest.raises(DataError, match=r"acdc/fog@train has no images in .*: expected rgb_anon/fog/train/"):
        opened("acdc@train", acdc=tmp_path)


@pytest.mark.parametrize(
    ("name", "image", "label", "car"),
    [
        ("dark_zurich", "rgb_anon/val/night/G/G_1_rgb_anon.png", "gt/val/night/G/G_1_gt_labelTrainIds.png", 13),
        (
            "nighttime_driving",
            "leftImg8bit/test/night/0_leftImg8bit.png",
            "gtCoarse_daytime_trainvaltest/test/night/0_gtCoarse_labelTrainIds.png",
            13,
        ),
        ("kitti", "training/image_2/000000_10.png", "training/semantic/000000_10.png", 26),
    ],
)
def test_sets_for_testing_are_found(tmp_path: Path, name: str, image: str, label: str, car: int) -> None:
    write_image(tmp_path / image)
    write_label(tmp_path / label, value=car)
    sample = opened(name, space="cityscapes19", **{name: tmp_path}).read(0)
    assert np.unique(sample.label).tolist() == [13]


def test_scenes_need_a_size_to_be_drawn_at() -> None:
    data = DataConfig(size=None, crop=(40, 40))
    with pytest.raises(UsageError, match=r"data.size is null: the scenes of streets/\w+ are drawn at that size"):
        open_domain(DomainSpec.parse(f"streets/{STYLE}"), data=data, space=label_space("idd7"), training=True)


def test_cityscapes_prefers_train_ids_to_ids(tmp_path: Path) -> None:
    root = make_cityscapes(tmp_path, "leftImg8bit", "gtFine", "labelIds", value=26)
    make_cityscapes(root, "leftImg8bit", "gtFine", "labelTrainIds", value=13)
    pairs, table, *_ = SetFolder("cityscapes", root).find_split("val")
    assert {pair.label.name for pair in pairs} == {
        "flat_000000_gtFine_labelTrainIds.png",
        "flat_000001_gtFine_labelTrainIds.png",
    }
    assert table == label_tables.CITYSCAPES_TRAIN_IDS


def test_the_image_is_read_as_it_was_written(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    sample = opened("camvid", camvid=root).read(0)
    assert np.array_equal(sample.image, np.asarray(Image.open(root / "test" / "Seq05VD_4.png")))
    assert sample.image.dtype == sample.label.dtype == np.uint8


def test_a_grey_photo_becomes_rgb_and_a_palette_label_keeps_its_ids(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    Image.new("L", (20, 12), 90).save(root / "test" / "Seq05VD_4.png")
    label = Image.new("P", (20, 12), 3)
    label.putpalette([0, 0, 0, 255, 255, 255] * 128)
    label.save(root / "testannot" / "Seq05VD_4.png")
    sample = opened("camvid", camvid=root).read(0)
    assert sample.image.shape == (12, 20, 3)
    assert np.unique(sample.label).tolist() == [label_space("idd7").classes.index("drivable")]


def test_the_data_variable_holds_one_folder_per_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_camvid(tmp_path / "camvid")
    monkeypatch.setenv("SPCNET_DATA", str(tmp_path))
    assert len(opened("camvid")) == 1


def test_a_root_in_the_recipe_comes_before_the_data_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPCNET_DATA", str(tmp_path / "elsewhere"))
    assert len(opened("camvid", camvid=make_camvid(tmp_path / "here"))) == 1


def message(domain: str, kind: type[Exception], *, read: bool = False, **roots: Path) -> str:
    with pytest.raises(kind) as caught:  # noqa: PT012  # either of the two calls may be the one that refuses
        found = opened(domain, **roots)
        if read:
            found.read(0)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("domain", "hint"),
    [
        ("camvit", "'camvid'"),
        ("streets/nigth", "'night'"),
        ("camvid/dust", "'dusk'"),
        ("idd_lite/day", "no subsets"),
        ("camvid@trian", "'train'"),
        ("camvid+fogg", "'fog'"),
        ("streets", STYLE),
    ],
)
def test_an_unknown_name_in_a_domain_is_answered_with_the_known_ones(domain: str, hint: str) -> None:
    assert hint in message(domain, UsageError)


def test_an_unknown_set_among_the_roots_is_refused(tmp_path: Path) -> None:
    assert "'camvid'" in message("camvid", UsageError, camvit=tmp_path)


def test_labels_too_coarse_for_the_space_are_refused_when_opening(tmp_path: Path) -> None:
    root = make_idd_lite(tmp_path)
    with pytest.raises(UsageError, match="idd7"):
        opened("idd_lite", space="cityscapes19", idd_lite=root)


def test_a_missing_root_says_how_to_give_it() -> None:
    text = message("camvid", DataError)
    assert "data.roots.camvid" in text
    assert "SPCNET_DATA" in text


def test_a_root_that_does_not_exist_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "data.roots.camvid" in message("camvid", DataError, camvid=tmp_path / "nowhere")
    monkeypatch.setenv("SPCNET_DATA", str(tmp_path))
    assert "SPCNET_DATA" in message("camvid", DataError)


def test_a_missing_folder_is_named_with_what_should_be_in_it(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit" / "val").mkdir(parents=True)
    text = message("cityscapes", DataError, cityscapes=tmp_path)
    assert f"has no images in {tmp_path}" in text
    assert "leftImg8bit/val/**/*_leftImg8bit.png or .jpg with gtFine/val/**/*_gtFine_labelTrainIds.png" in text
    assert "gtFine_labelIds.png (ids)" in text
    write_image(tmp_path / "leftImg8bit" / "val" / "ulm_000001_leftImg8bit.png")
    text = message("cityscapes", DataError, cityscapes=tmp_path)
    assert f"has 1 images ({tmp_path}/leftImg8bit/val/ulm_000001_leftImg8bit.png, ...) and no label" in text


def test_an_empty_folder_says_which_files_were_expected(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit" / "val").mkdir(parents=True)
    (tmp_path / "gtFine" / "val").mkdir(parents=True)
    assert "*_image.jpg" in message("idd_lite", DataError, idd_lite=tmp_path)


def test_an_image_without_a_label_is_found_when_opening(tmp_path: Path) -> None:
    root = make_idd_lite(tmp_path)
    (root / "gtFine" / "val" / "0" / "002_label.png").unlink()
    text = message("idd_lite", DataError, idd_lite=root)
    assert "1 of 3" in text
    assert str(root / "leftImg8bit" / "val" / "0" / "002_image.jpg") in text


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_file_cut_off_anywhere_is_named(tmp_path: Path, ending: str) -> None:
    root = make_camvid(tmp_path)
    (root / "test" / "Seq05VD_4.png").unlink()
    path = root / "test" / f"Seq05VD_4{ending}"
    write_image(path)
    whole = path.read_bytes()
    for share in (0, 0.01, 0.1, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        assert str(path) in message("camvid", DataError, read=True, camvid=root)


def test_a_file_with_a_flipped_bit_never_raises_anything_but_a_data_error(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    path = root / "test" / "Seq05VD_4.png"
    whole = path.read_bytes()
    domain = opened("camvid", camvid=root)
    refusals = []
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            domain.read(0)
        except DataError as error:
            refusals.append(str(error))
    assert refusals
    assert all(str(path) in refusal for refusal in refusals)


def test_a_file_that_vanished_after_opening_is_named(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    domain = opened("camvid", camvid=root)
    (root / "testannot" / "Seq05VD_4.png").unlink()
    with pytest.raises(DataError, match=r"Seq05VD_4\.png does not exist"):
        domain.read(0)


def test_image_and_label_of_different_sizes_are_refused(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    write_image(root / "test" / "Seq05VD_4.png", (12, 21))
    text = message("camvid", DataError, read=True, camvid=root)
    assert "20×12" in text
    assert "21×12" in text


def test_a_label_that_fits_neither_the_stored_nor_the_upright_photo_is_refused_with_the_orientation(
    tmp_path: Path,
) -> None:
    root = make_camvid(tmp_path)
    photo = root / "test" / "Seq05VD_4.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (11, 20)).save(photo, exif=exif)
    text = message("camvid", DataError, read=True, camvid=root)
    assert f"{photo} does not fit" in text
    assert "20×11 (EXIF orientation 6 of the stored 11×20)" in text


def test_a_colour_image_in_place_of_a_label_is_refused(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    write_image(root / "testannot" / "Seq05VD_4.png")
    assert "unknown colours" in message("camvid", UnknownLabelError, read=True, camvid=root)
    synthia = make_synthia(tmp_path / "synthia")
    write_image(synthia / "GT" / "LABELS" / "0000000.png")
    assert "mode RGB" in message("synthia", DataError, read=True, synthia=synthia)


def test_a_label_id_outside_the_table_is_refused_with_the_file_and_the_id(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    write_label(root / "testannot" / "Seq05VD_4.png", value=200)
    text = message("camvid", DataError, read=True, camvid=root)
    assert "Seq05VD_4.png" in text
    assert "200" in text


def test_the_licence_plate_of_cityscapes_is_void() -> None:
    # -1 in the set's own list; 255 in an 8-bit file.
    assert CITYSCAPES_IDS[255] == labels.VOID


def test_streets_come_in_the_size_and_number_that_the_data_asks_for() -> None:
    domain = opened(f"streets/{STYLE}", training=True)
    sample = domain.read(0)
    assert len(domain) == 3
    assert sample.image.shape == (40, 80, 3)
    assert set(np.unique(sample.label).tolist()) <= {*range(7), IGNORE}
    assert len(opened(f"streets/{STYLE}")) == 4


def test_no_street_scene_is_both_trained_and_tested_on() -> None:
    seen = {
        split: {domain.read(i).image.tobytes() for i in range(len(domain))}
        for split, domain in ((s, opened(f"streets/{STYLE}@{s}")) for s in ("train", "test"))
    }
    assert len(seen["train"]) == 3
    assert not seen["train"] & seen["test"]


def test_scenes_to_train_and_to_test_on_have_different_numbers_whatever_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate, numbers = streets.generate, []
    monkeypatch.setattr(streets, "generate", lambda number, **how: numbers.append(number) or generate(number, **how))
    for split, length in (("train", 3), ("test", 4)):
        opened(f"streets/{STYLE}@{split}").read(length - 1)
    assert numbers == [2, datasets.FIRST_TEST_SCENE + 3]


def test_more_streets_than_there_are_numbers_before_the_test_scenes_are_refused() -> None:
    data = DataConfig(train_scenes=datasets.FIRST_TEST_SCENE + 1)
    with pytest.raises(UsageError, match="train_scenes"):
        open_domain(DomainSpec("streets", STYLE), data=data, space=label_space("idd7"), training=True)


def test_street_scenes_to_test_on_are_the_same_in_every_style_but_those_to_train_on_differ() -> None:
    first, second = list(DATASETS["streets"].subsets)[:2]
    for split, same in (("test", True), ("train", False)):
        one, other = (opened(f"streets/{style}@{split}").read(0).label for style in (first, second))
        assert np.array_equal(one, other) == same


def test_a_scene_is_generated_once_and_is_the_same_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    domain, fresh = (opened(f"streets/{STYLE}") for _ in range(2))
    first = domain.read(2)
    first.image[:4] = 0  # what was handed out is the reader's own
    monkeypatch.setattr(streets, "generate", None)
    again = domain.read(2)
    monkeypatch.undo()
    expected = fresh.read(2)
    assert np.array_equal(again.image, expected.image)
    assert np.array_equal(again.label, expected.label)
    assert again.name == expected.name


def test_what_a_forked_process_remembers_the_others_remember_too() -> None:
    memory = SceneMemory(3, size=(4, 5))
    image, label = np.full((4, 5, 3), 9, np.uint8), np.full((4, 5), 2, np.uint8)
    process = multiprocessing.get_context("fork").Process(target=memory.put, args=(1, image, label))
    process.start()
    process.join()
    known = memory.get(1)
    assert known is not None
    assert np.array_equal(known[0], image)
    assert np.array_equal(known[1], label)
    assert memory.get(0) is None


def test_a_half_written_scene_is_not_remembered() -> None:
    memory = SceneMemory(1, size=(4, 5))
    memory.put(0, np.full((4, 5, 3), 9, np.uint8), np.full((4, 5), 2, np.uint8))
    memory.pixels[0, 3] = 0
    assert memory.get(0) is None


def test_memory_stays_within_its_limit() -> None:
    memory = SceneMemory(10, size=(4, 5), limit=3 * 80)
    for index in range(10):
        memory.put(index, np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8))
    assert [index for index in range(10) if memory.get(index)] == [0, 1, 2]
    assert memory.pixels.nbytes == 240


def test_a_copy_of_a_set_in_another_process_shows_the_same(tmp_path: Path) -> None:
    for domain in (opened(f"streets/{STYLE}"), opened("camvid+snow", camvid=make_camvid(tmp_path))):
        copied = pickle.loads(pickle.dumps(domain))
        assert np.array_equal(copied.read(0).image, domain.read(0).image)


def test_a_weather_style_changes_the_image_but_not_the_label(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    plain, foggy = opened("camvid", camvid=root).read(0), opened("camvid+fog", camvid=root).read(0)
    assert not np.array_equal(plain.image, foggy.image)
    assert np.array_equal(plain.label, foggy.label)
    assert plain.name == foggy.name


def test_an_image_has_the_same_weather_in_a_subset_and_in_every_reading(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    whole, part = opened("camvid@train+rain", camvid=root), opened("camvid/day@train+rain", camvid=root)
    assert whole.read(1).name == part.read(0).name
    assert np.array_equal(whole.read(1).image, part.read(0).image)
    assert np.array_equal(whole.read(1).image, whole.read(1).image)
    other = opened("camvid@train+rain", camvid=root, seed=5)
    assert not np.array_equal(whole.read(1).image, other.read(1).image)


def test_weather_on_generated_streets_knows_the_true_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(
        weather,
        "apply_weather_pair",
        lambda image, label, style, **known: given.append(known["depth"]) or (image, label),
    )
    opened(f"streets/{STYLE}+fog").read(0)
    assert given[0] is not None
    assert given[0].shape == (40, 80)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not beside the project (../shared/data)")
@pytest.mark.parametrize(
    ("name", "folder", "num_train", "num_test"),
    [("camvid", "camvid", 367, 233), ("idd_lite", "idd_lite", 1403, 204), ("cityscapes", "cityscapes256", 595, 500)],
)
def test_the_real_sets_are_complete_and_their_labels_fit(name: str, folder: str, num_train: int, num_test: int) -> None:
    training, testing = (opened(name, training=t, **{name: REAL / folder}) for t in (True, False))
    assert (len(training), len(testing)) == (num_train, num_test)
    present = {int(k) for i in range(0, num_test, 20) for k in np.unique(testing.read(i).label)}
    assert present == {*range(7), IGNORE}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not beside the project (../shared/data)")
def test_the_road_lies_below_the_sky_in_every_real_set() -> None:
    for name, folder in (("camvid", "camvid"), ("idd_lite", "idd_lite"), ("cityscapes", "cityscapes256")):
        domain = opened(name, **{name: REAL / folder})
        for i in range(0, len(domain), 40):
            label = domain.read(i).label
            rows = {k: np.nonzero(label == k)[0].mean() for k in (0, 6) if (label == k).any()}
            assert rows.get(0, label.shape[0]) > rows.get(6, 0)
