"""How label images say the class of a pixel: numbers, colours, palettes as they were released and as programs change them."""

import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from spcnet import label_tables, labels, training
from spcnet.commands.evaluate import evaluate
from spcnet.config import Color, DataConfig, DomainSpec, OwnSet, read_sets
from spcnet.data import label_formats
from spcnet.data.cache import CacheFormat, write_cache
from spcnet.data.catalog import DATASETS
from spcnet.data.datasets import SegmentationSet, open_domain
from spcnet.data.doctor import check
from spcnet.data.label_formats import LabelFormat, UnknownLabelError
from spcnet.data.label_images import read_label
from spcnet.data.own_sets import own_format
from spcnet.data.preview import contact_sheet
from spcnet.errors import DataError, UsageError
from spcnet.label_tables import CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS, GTAV, cityscapes_colors
from spcnet.labels import IGNORE, SPACES, VOID, label_space
from spcnet.runs import OpenRun
from spcnet.studies.predictions import read_prediction
from tests.support.pictures import png
from tests.support.sets import run_of

SPACE = SPACES["cityscapes19"]
CLASS_IDS = [native_id for native_id, name in GTAV.items() if name != VOID]
OFFICIAL: dict[int, Color] = {
    **{i: SPACE.colors[SPACE.classes.index(name)] for i, name in GTAV.items() if name != VOID},
    **dict.fromkeys(range(4), (0, 0, 0)), 4: (20, 20, 20), 5: (111, 74, 0), 6: (81, 0, 81), 9: (250, 170, 160), 10: (230, 150, 140),
    14: (180, 165, 180), 15: (150, 100, 100), 16: (150, 120, 90), 18: (153, 153, 153), 29: (0, 0, 90),
    30: (0, 0, 110), 34: (0, 0, 142),
}  # fmt: skip
"""The palette of GTAV's label images as released; Cityscapes' own table, with static things in dark grey and the licence plate at 34."""
FORM = LabelFormat.of(GTAV, cityscapes_colors(GTAV))
TABLE = labels.remap(GTAV, SPACE, "gtav")


def ids_of(*numbers: int) -> NDArray[np.uint8]:
    """Each number in a stripe of 8 pixels, 4 rows."""
    return np.repeat(np.repeat(np.array([numbers], np.uint8), 4, axis=0), 8, axis=1)


def with_palette(ids: NDArray[np.uint8], colors: dict[int, Color], length: int = 256) -> Image.Image:
    image = Image.fromarray(ids).convert("P")
    image.putpalette([channel for i in range(length) for channel in colors.get(i, (0, 0, 0))])
    return image


def as_colors(ids: NDArray[np.uint8], colors: dict[int, Color] = OFFICIAL) -> NDArray[np.uint8]:
    table = np.array([colors.get(i, (0, 0, 0)) for i in range(256)], np.uint8)
    pixels: NDArray[np.uint8] = table[ids]
    return pixels


def read(
    folder: Path, image: Image.Image, form: LabelFormat = FORM, kind: str = "PNG", **options: Any
) -> NDArray[np.uint8]:
    path = folder / f"label.{kind.lower()}"
    image.save(path, kind, **options)
    return read_label(path, form)


def classes(ids: NDArray[np.uint8], table: NDArray[np.uint8] = TABLE) -> list[int]:
    """Class of each stripe."""
    return labels.apply(table, ids, "here")[0, ::8].tolist()


ALL = ids_of(*sorted(GTAV.keys() - {255}))
EXPECTED = classes(ALL)
"""The classes of GTAV's ids 0 to 34."""
PLATE_IS_CAR = [*EXPECTED[:18], 5, *EXPECTED[19:34], 13]
"""The same where only colours are left: polegroups look like poles, licence plates like cars."""


def sorted_by_brightness(image: Image.Image) -> Image.Image:
    used = sorted({*np.asarray(image).ravel().tolist()}, key=lambda i: (sum(OFFICIAL[i]), i))
    return image.remap_palette(used)


RENUMBERED = {
    "quantize": lambda ids: Image.fromarray(as_colors(ids)).quantize(64, dither=Image.Dither.NONE),
    "octree, with entries left over": lambda ids: Image.fromarray(as_colors(ids)).quantize(
        256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    ),
    "adaptive": lambda ids: Image.fromarray(as_colors(ids)).convert("P", palette=Image.Palette.ADAPTIVE),
    "sorted, black several times": lambda ids: sorted_by_brightness(with_palette(ids, OFFICIAL)),
    "reversed, with all 256 entries": lambda ids: with_palette(255 - ids, {255 - i: c for i, c in OFFICIAL.items()}),
    "filled up with greys": lambda ids: with_palette(
        ids + 100, {i: (i, i, i) for i in range(256)} | {100 + i: c for i, c in OFFICIAL.items()}
    ),
    "with an entry that is no class and no pixel": lambda ids: with_palette(
        ids + 1, {i + 1: c for i, c in OFFICIAL.items()} | {0: (1, 2, 3)}
    ),
}


def test_a_palette_as_released_is_read_by_its_indices(tmp_path: Path) -> None:
    for length in (35, 256):
        assert classes(read(tmp_path, with_palette(ALL, OFFICIAL, length))) == EXPECTED
    # Even where only some of the entries are filled, or an entry has a colour of nobody.
    part = {i: OFFICIAL[i] for i in (7, 8, 11)} | {26: (1, 2, 3)}
    assert np.array_equal(read(tmp_path, with_palette(ALL, part)), ALL)
    assert np.array_equal(read(tmp_path, with_palette(ALL, {})), ALL)


@pytest.mark.parametrize("how", RENUMBERED)
@pytest.mark.parametrize("optimize", [False, True])
def test_a_palette_in_another_order_is_read_by_its_colours(tmp_path: Path, how: str, optimize: bool) -> None:
    image = RENUMBERED[how](ALL)
    assert not np.array_equal(np.asarray(image), ALL)
    assert classes(read(tmp_path, image, optimize=optimize)) == PLATE_IS_CAR
    for kind in ("TIFF", "BMP"):
        assert classes(read(tmp_path, image, kind=kind)) == PLATE_IS_CAR


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_order_of_any_part_of_the_palette_means_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("palette")
    some = data.draw(st.lists(st.sampled_from([0, *CLASS_IDS]), min_size=1, max_size=20, unique=True))
    ids = ids_of(*some)
    image = with_palette(ids, OFFICIAL).remap_palette(data.draw(st.permutations(some)))
    assert np.array_equal(np.asarray(image.convert("RGB")), as_colors(ids))
    options = {"transparency": bytes(range(len(some)))} if data.draw(st.booleans()) else {}
    assert classes(read(folder, image, **options)) == classes(ids)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_few_bits_are_read_by_their_colours(tmp_path: Path, bits: int) -> None:
    ids = ids_of(*([23, 7, 11, 26, 0, 21, 24, 13][: min(2**bits, 8)]))
    image = Image.fromarray(as_colors(ids)).quantize(2**bits, dither=Image.Dither.NONE)
    image.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[24:26] == bytes([bits, 3])
    assert classes(read_label(tmp_path / "a.png", FORM)) == classes(ids)


def voc(i: int) -> Color:
    """PASCAL VOC's colour of an index: its bits, three at a time, from the top of each channel down."""
    channels = [sum((i >> (3 * j + c) & 1) << (7 - j) for j in range(3)) for c in range(3)]
    return channels[0], channels[1], channels[2]


WEB = {
    i: (c[0], c[1], c[2])
    for i, c in enumerate(np.array(Image.new("RGB", (1, 1)).convert("P").getpalette()).reshape(-1, 3).tolist())
}
FOR_THE_EYE: dict[str, dict[int, Color]] = {
    "PASCAL VOC": {i: voc(i) for i in range(256)},
    "PASCAL VOC, cut": {i: voc(i) for i in range(34)},
    "web": WEB,
    "grey": {i: (i, i, i) for i in range(256)},
    "grey, falling": {i: (255 - i, 255 - i, 255 - i) for i in range(256)},
    "black": {},
    "random": {i: (c[0], c[1], c[2]) for i, c in enumerate(np.random.default_rng(0).integers(1, 256, (256, 3)).tolist())},
    "random, and road at the place of another": {
        i: (c[0], c[1], c[2]) for i, c in enumerate(np.random.default_rng(0).integers(1, 256, (256, 3)).tolist())
    } | {11: (128, 64, 128)},
}  # fmt: skip


@pytest.mark.parametrize("name", FOR_THE_EYE)
def test_a_palette_for_the_eye_is_read_by_its_indices(tmp_path: Path, name: str) -> None:
    assert voc(21) == (128, 64, 128)  # road's colour, at vegetation's id
    palette = FOR_THE_EYE[name]
    length = 34 if "cut" in name else 256
    for ids in (ids_of(*range(34)), ids_of(0, 21), ids_of(21), ids_of(21, 7), ids_of(11, 0), ids_of(20)):
        assert np.array_equal(read(tmp_path, with_palette(ids, palette, length)), ids)
    bdd = LabelFormat.of(CITYSCAPES_TRAIN_IDS, cityscapes_colors(CITYSCAPES_TRAIN_IDS))
    for ids in (ids_of(*range(19), 255), ids_of(0), ids_of(255), ids_of(0, 255)):
        if "cut" not in name:
            assert np.array_equal(read(tmp_path, with_palette(ids, palette), bdd), ids)


def test_train_ids_in_colours_survive_an_optimiser_too(tmp_path: Path) -> None:
    form = LabelFormat.of(CITYSCAPES_TRAIN_IDS, cityscapes_colors(CITYSCAPES_TRAIN_IDS))
    ids = ids_of(*range(19), 255)
    palette = dict(enumerate(SPACE.colors))
    image = with_palette(ids, palette)
    assert np.array_equal(read(tmp_path, image, form), ids)
    assert np.array_equal(read(tmp_path, image.remap_palette([255, *range(19)]), form), ids)
    only_void = ids_of(255)
    assert np.array_equal(read(tmp_path, with_palette(only_void, palette), form), only_void)
    assert np.array_equal(read(tmp_path, with_palette(only_void, palette).remap_palette([255]), form), only_void)


def test_a_grey_label_that_was_given_a_palette_is_read_by_its_greys(tmp_path: Path) -> None:
    form = LabelFormat.of(CITYSCAPES_TRAIN_IDS, cityscapes_colors(CITYSCAPES_TRAIN_IDS))
    ids = ids_of(0, 2, 8, 10, 13, 255)
    grey = with_palette(ids, {i: (i, i, i) for i in range(256)})
    for order in ([0, 2, 8, 10, 13, 255], [255, 13, 10, 8, 2, 0]):
        assert np.array_equal(read(tmp_path, grey.remap_palette(order), form), ids)
        assert np.array_equal(read(tmp_path, grey.remap_palette(order), form, bits=4), ids)
    # Black and white alone may be there for the eye; where both readings are possible, nothing is guessed.
    road_and_void = with_palette(ids_of(0, 255), {i: (i, i, i) for i in range(256)}).remap_palette([0, 255])
    with pytest.raises(DataError, match=r"grey levels 0, 255"):
        read(tmp_path, road_and_void, form)
    mask = LabelFormat.of({0: VOID, 1: "road", 255: VOID})
    assert np.array_equal(read(tmp_path, road_and_void, mask), ids_of(0, 1))


def test_grey_of_few_bits_is_values_or_levels_and_never_a_guess(tmp_path: Path) -> None:
    two = np.packbits(np.unpackbits(ids_of(0, 1)[:, :, None], axis=2)[:, :, 7:].reshape(4, -1), axis=1)
    path = tmp_path / "a.png"
    path.write_bytes(png(two, bits=1, color_type=0))
    assert np.array_equal(read_label(path, LabelFormat.of({0: VOID, 1: "road"})), ids_of(0, 1))
    assert np.array_equal(read_label(path, LabelFormat.of({0: VOID, 255: "road"})), ids_of(0, 255))
    assert np.array_equal(read_label(path, LabelFormat.of({0: VOID, 1: "road", 255: VOID})), ids_of(0, 1))
    with pytest.raises(DataError, match="few bits"):
        read_label(path, LabelFormat.of(CITYSCAPES_TRAIN_IDS))
    colors = LabelFormat(((0, VOID), (1, "road")), (((0, 0, 0), 0), ((255, 255, 255), 1)), numbers=())
    assert np.array_equal(read_label(path, colors), ids_of(0, 1))


def test_colours_of_which_all_are_grey_may_be_stored_as_grey(tmp_path: Path) -> None:
    assert classes(read(tmp_path, Image.fromarray(ids_of(0, 70, 153)))) == [IGNORE, 2, 5]
    # But ids are ids, and an unknown one is for `apply` to find.
    assert np.array_equal(read(tmp_path, Image.fromarray(ids_of(7, 70))), ids_of(7, 70))
    assert np.array_equal(read(tmp_path, Image.fromarray(ids_of(7, 11))), ids_of(7, 11))


def refused(folder: Path, image: Image.Image, form: LabelFormat = FORM) -> str:
    with pytest.raises(UnknownLabelError) as caught:
        read(folder, image, form)
    assert caught.value.kind == "unknown colours"
    text = str(caught.value)
    assert str(folder) in text
    assert "\n" not in text
    return text


def test_a_used_entry_that_is_no_class_is_an_error_of_the_file(tmp_path: Path) -> None:
    order = [8, 7, 11, 26, 21]
    image = with_palette(ids_of(*order), OFFICIAL | {21: (9, 9, 200)}).remap_palette(order)
    assert "32 of 160 pixels: (9, 9, 200) (32 pixels)" in refused(tmp_path, image)


def test_wrong_shades_and_stray_colours_do_not_make_a_palette_one_for_the_eye(tmp_path: Path) -> None:
    # Two classes, one of them in a wrong shade: as many known colours as unknown ones.
    shade = with_palette(ids_of(7, 26), OFFICIAL | {26: (0, 0, 143)}).remap_palette([26, 7])
    assert "(0, 0, 143) (32 pixels). Nearest to (0, 0, 143) is (0, 0, 142), car" in refused(tmp_path, shade)
    far = with_palette(ids_of(7, 26), OFFICIAL | {26: (1, 30, 142)}).remap_palette([26, 7])
    assert np.array_equal(read(tmp_path, far), ids_of(1, 0))
    # Both in a wrong shade; at the indices of their classes they may have any.
    both = OFFICIAL | {7: (128, 66, 128), 26: (0, 0, 150)}
    assert "64 of 64 pixels" in refused(tmp_path, with_palette(ids_of(7, 26), both).remap_palette([26, 7]))
    assert np.array_equal(read(tmp_path, with_palette(ids_of(7, 26), both)), ids_of(7, 26))
    # A single colour is near that of a class by chance.
    alone = with_palette(ids_of(1), {1: (130, 60, 130), 0: (1, 99, 200)}, 2)
    assert np.array_equal(read(tmp_path, alone), ids_of(1))
    # Classes whose colours are grey, and a single stray colour among them.
    stray = with_palette(ids_of(11, 17, 2), OFFICIAL | {2: (1, 2, 3)}).remap_palette([11, 17, 2])
    assert "32 of 96 pixels: (1, 2, 3) (32 pixels)" in refused(tmp_path, stray)


def test_greys_that_are_numbers_and_colours_of_other_classes_are_refused(tmp_path: Path) -> None:
    # Static things are (20, 20, 20) in GTAV, and 20 is a traffic sign.
    for ids in (ids_of(4), ids_of(0, 4)):
        image = Image.fromarray(as_colors(ids)).quantize(4, dither=Image.Dither.NONE)
        with pytest.raises(DataError, match=r"grey levels .*20, which the set has both"):
            read(tmp_path, image)
    assert classes(read(tmp_path, Image.fromarray(as_colors(ids_of(0, 4, 11))).quantize(4))) == classes(
        ids_of(0, 4, 11)
    )


def test_a_colour_at_its_own_index_and_at_that_of_another_class_contradicts_itself(tmp_path: Path) -> None:
    image = with_palette(ids_of(7, 11, 21, 23), OFFICIAL | {11: OFFICIAL[7]})
    with pytest.raises(DataError, match="contradicts itself: the indices 7 and 11 are road and building"):
        read(tmp_path, image)
    assert np.array_equal(
        read(tmp_path, with_palette(ids_of(7, 21, 23), OFFICIAL | {11: OFFICIAL[7]})), ids_of(7, 21, 23)
    )


def test_a_palette_of_swapped_channels_is_told_from_one_for_the_eye(tmp_path: Path) -> None:
    bgr = {i: (c[2], c[1], c[0]) for i, c in OFFICIAL.items()}
    ids = ids_of(7, 26, 23, 21)
    assert np.array_equal(read(tmp_path, with_palette(ids, bgr)), ids)
    assert "BGR" in refused(tmp_path, with_palette(ids, bgr).remap_palette([26, 23, 7, 21]))


def test_unknown_colours_are_counted_and_their_cause_is_named(tmp_path: Path) -> None:
    colors = as_colors(ids_of(7, 26, 23, 0))
    assert classes(read(tmp_path, Image.fromarray(colors))) == [0, 13, 10, IGNORE]
    assert "BGR" in refused(tmp_path, Image.fromarray(colors[:, :, ::-1].copy()))
    shade = colors.copy()
    shade[:, 8:16] = (0, 0, 143)
    text = refused(tmp_path, Image.fromarray(shade))
    assert "32 of 128 pixels: (0, 0, 143) (32 pixels). Nearest to (0, 0, 143) is (0, 0, 142), car" in text
    small = Image.fromarray(colors).resize((101, 4), Image.Resampling.BILINEAR)
    assert "interpolation" in refused(tmp_path, small)
    assert "three channels are equal" in refused(tmp_path, Image.fromarray(ids_of(7, 26, 23)).convert("RGB"))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    assert "81 of 81 pixels" in refused(tmp_path, photo)
    assert "BGR" not in refused(tmp_path, photo)


def test_void_colours_of_cityscapes_are_known(tmp_path: Path) -> None:
    void = np.array([[*label_tables.CITYSCAPES_VOID_COLORS, (20, 20, 20)]], np.uint8)
    assert len(label_tables.CITYSCAPES_VOID_COLORS) == 12
    ids = read(tmp_path, Image.fromarray(void).convert("RGBA"))
    assert {GTAV[int(i)] for i in ids[0]} == {VOID, "pole", "car"}


def test_the_error_goes_from_one_process_to_another() -> None:
    error = UnknownLabelError("unknown ids", "a.png", "3", "Mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.kind, copy.detail) == (str(error), "unknown ids", "3")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_numbers_of_16_and_32_bits_are_read(tmp_path: Path, kind: str) -> None:
    ids = ids_of(7, 26, 0, 33)
    assert np.array_equal(read(tmp_path, Image.fromarray(ids.astype(np.uint16)), kind=kind), ids)
    if kind == "TIFF":
        assert np.array_equal(read(tmp_path, Image.fromarray(ids.astype(np.int32)), kind=kind), ids)
        with pytest.raises(UnknownLabelError, match=r"32 of 64 pixels: -1 \(32 pixels\)"):
            read(tmp_path, Image.fromarray(ids_of(7, 26).astype(np.int32) - 8), kind=kind)
    with pytest.raises(UnknownLabelError, match=r"26001 \(32 pixels\)") as caught:
        read(tmp_path, Image.fromarray(np.where(ids == 26, np.uint16(26001), ids)), kind=kind)
    assert caught.value.kind == "unknown ids"
    with pytest.raises(UnknownLabelError, match="divide them by 257"):
        read(tmp_path, Image.fromarray(ids.astype(np.uint16) * 257), kind=kind)


def test_numbers_with_opacity_are_read(tmp_path: Path) -> None:
    ids = ids_of(7, 26)
    assert np.array_equal(read(tmp_path, Image.fromarray(ids).convert("LA")), ids)


def test_camvid_and_mapillary_have_colours_of_their_own(tmp_path: Path) -> None:
    camvid = DATASETS["camvid"]
    form = camvid.label_format(camvid.layouts[0], camvid.native, tmp_path)
    ids = ids_of(*range(12))
    colors = dict(enumerate(label_tables.CAMVID_COLORS))
    assert np.array_equal(read(tmp_path, Image.fromarray(as_colors(ids, colors)), form), ids)
    assert np.array_equal(read(tmp_path, with_palette(ids, colors, 12).remap_palette([*range(11, -1, -1)]), form), ids)
    assert np.array_equal(read(tmp_path, with_palette(ids, FOR_THE_EYE["PASCAL VOC"]), form), ids)
    # With red and blue swapped, some of PASCAL VOC's colours are CamVid's.
    for ids in (ids_of(0, 4), ids_of(4), ids_of(0, 4, 6, 7, 11)):
        assert np.array_equal(read(tmp_path, with_palette(ids, FOR_THE_EYE["PASCAL VOC"]), form), ids)
    for ids in (ids_of(1, 3), ids_of(3), ids_of(0, 1, 3, 7)):
        assert np.array_equal(read(tmp_path, with_palette(ids, FOR_THE_EYE["PASCAL VOC"]), form), ids)

    mapillary = DATASETS["mapillary"]
    table = label_tables.mapillary(label_tables.MAPILLARY_V12)
    form = mapillary.label_format(mapillary.layouts[0], table, tmp_path)
    assert len({*label_tables.MAPILLARY_V12_COLORS}) == len(label_tables.MAPILLARY_V12) == len(form.colors) == 66
    ids = ids_of(*range(66))
    colors = dict(enumerate(label_tables.MAPILLARY_V12_COLORS))
    assert np.array_equal(read(tmp_path, with_palette(ids, colors), form), ids)
    image = with_palette(ids, colors).remap_palette([*range(33, 66), *range(33)])
    assert np.array_equal(read(tmp_path, image, form), ids)


def test_a_mapillary_configuration_says_which_colours_there_are(tmp_path: Path) -> None:
    names = ["construction--flat--road", "marking--discrete--stop-line", "nature--sky", "object--vehicle--car"]
    entries = [{"name": n, "color": [i, 0, 9]} for i, n in zip((1, 1, 2, 2), names, strict=True)]
    (tmp_path / "config_v2.0.json").write_text(json.dumps({"labels": entries}))
    info = DATASETS["mapillary"]
    layout = next(layout for layout in info.layouts if "v2.0/labels" in layout.labels)
    assert callable(layout.table)
    form = info.label_format(layout, layout.table(tmp_path), tmp_path)
    colors: dict[int, Color] = {0: (1, 0, 9), 1: (1, 0, 9), 2: (2, 0, 9), 3: (2, 0, 9)}
    ids = ids_of(0, 1, 2, 3)
    assert np.array_equal(read(tmp_path, with_palette(ids, colors, 4), form), ids)
    # Two ids of the same class may have one colour; of two classes only the index tells which it is.
    assert np.array_equal(
        read(tmp_path, with_palette(ids_of(3, 2), {3: (1, 0, 9), 2: (1, 0, 9)}, 4), form), ids_of(0, 0)
    )
    with pytest.raises(DataError, match=r"\(2, 0, 9\) stands for several classes \(car, sky\)"):
        read(tmp_path, with_palette(ids_of(0, 3), {0: (2, 0, 9), 3: (1, 0, 9)}, 4), form)


# Sets of one's own

TOWN = {"images": "photos/*.png", "splits": ["all"]}
COLORS = {(128, 64, 128): "road", (10, 20, 30): "car", (11, 20, 30): "car", (0, 0, 0): VOID}
NAMES = label_space("cityscapes19").classes
EXPECT = {"road": NAMES.index("road"), "car": NAMES.index("car"), VOID: IGNORE}
STRIPES = ["road", "car", VOID, "car"]


def stripes(values: list[Any], dtype: type = np.uint8) -> NDArray[Any]:
    row = np.array([values], dtype)
    return np.repeat(np.repeat(row, 6, axis=0), 5, axis=1)


def town(folder: Path, labels_of: dict[str, Image.Image]) -> Path:
    for number, (place, label) in enumerate(labels_of.items()):
        photo = folder / "photos" / f"{Path(place).stem}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (label.height, label.width, 3), dtype=np.uint8)).save(photo)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        label.save(folder / place)
    return folder


def opened(root: Path, own: OwnSet, **options: Any) -> SegmentationSet:
    data = DataConfig(roots={"town": str(root)}, sets={"town": own}, **options)
    return open_domain(DomainSpec.parse("town"), data=data, space=label_space("cityscapes19"), training=True)


def seen(domain: SegmentationSet, index: int = 0) -> list[int]:
    return domain.read(index).label[0, ::5].tolist()


RGB = Image.fromarray(stripes([(128, 64, 128), (10, 20, 30), (0, 0, 0), (11, 20, 30)]))
PALETTE = Image.fromarray(np.asarray(RGB)).quantize(4, dither=Image.Dither.NONE)
DEEP = Image.fromarray(stripes([300, 65535, 0, 7], np.uint16))
FLAT = Image.fromarray(stripes([7, 26, 0, 26]))
OWN = {
    "colours": (OwnSet(**TOWN, labels="masks/*.png", colors=COLORS), {"masks/1.png": RGB, "masks/2.png": PALETTE}),
    "large numbers": (
        OwnSet(**TOWN, labels="masks/*.png", table={300: "road", 65535: "car", 0: VOID, 7: "car"}),
        {"masks/1.png": DEEP, "masks/2.png": DEEP},
    ),
    "numbers and colours": (
        OwnSet(**TOWN, labels="masks/*.png", table={7: "road", 26: "car", 0: VOID}, colors=COLORS),
        {"masks/1.png": RGB, "masks/2.png": FLAT, "masks/3.png": PALETTE},
    ),
    "numbers, and colours of classes without one": (
        OwnSet(**TOWN, labels="masks/*.png", table={7: "road", 300: "car", 0: VOID}, colors=COLORS | {(9, 9, 9): "sky"}),
        {"masks/1.png": RGB, "masks/2.png": Image.fromarray(stripes([7, 300, 0, 300], np.uint16))},
    ),
    "several patterns": (
        OwnSet(**TOWN, labels=["fine/*.png", "coarse/*_x.png"], table={7: "road", 26: "car", 0: VOID}, colors=COLORS),
        {"fine/1.png": RGB, "coarse/2_x.png": FLAT},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
def test_sets_of_ones_own_are_read_checked_and_copied(tmp_path: Path, kind: str) -> None:
    own, files = OWN[kind]
    files = {k: v for k, v in files.items() if "_x" not in k}
    root = town(tmp_path / "town", files)
    if kind == "several patterns":
        # Photo 1 has both, of which the first counts; photo 2 has the other alone.
        (root / "coarse").mkdir()
        Image.fromarray(stripes([0, 0, 0, 0])).save(root / "coarse/1_x.png")
        FLAT.save(root / "coarse/2_x.png")
        (root / "photos/2.png").write_bytes(b"")
        Image.fromarray(np.random.default_rng(9).integers(0, 256, (6, 20, 3), dtype=np.uint8)).save(
            root / "photos/2.png"
        )
    domain = opened(root, own)
    expected = [EXPECT[name] for name in STRIPES]
    assert len(domain) >= 2
    for index in range(len(domain)):
        assert seen(domain, index) == expected
    data = DataConfig(sets={"town": own})
    report = check("town", root, data=data, space="cityscapes19")
    assert report.problems == ()
    assert {c.name: c.pixels for c in report.native if c.pixels} == {
        "road": 30 * len(domain), "car": 60 * len(domain), VOID: 30 * len(domain)
    }  # fmt: skip
    for form in ("jpeg", "raw"):
        copy = tmp_path / form
        assert write_cache("town", root, copy, CacheFormat(form=form), data=data).exit_code == 0  # type: ignore[arg-type]
        copied = opened(copy, own)
        assert len(copied) == len(domain)
        for index in range(len(domain)):
            assert seen(copied, index) == expected
        again = write_cache("town", root, copy, CacheFormat(form=form), data=data)  # type: ignore[arg-type]
        assert (again.images, again.written) == (len(domain), 0)


def test_a_copy_is_refused_where_its_classes_are_others_now(tmp_path: Path) -> None:
    own, files = OWN["colours"]
    root = town(tmp_path / "town", files)
    write_cache("town", root, tmp_path / "copy", data=DataConfig(sets={"town": own}))
    other = OwnSet(**TOWN, labels="masks/*.png", colors={(0, 0, 0): VOID, **COLORS})
    with pytest.raises(DataError, match="made with other classes"):
        opened(tmp_path / "copy", other)
    with pytest.raises(DataError, match="classes"):
        write_cache("town", root, tmp_path / "copy", data=DataConfig(sets={"town": other}))
    marker = tmp_path / "copy" / "spcnet-cache.json"
    marker.write_text(json.dumps({k: v for k, v in json.loads(marker.read_text()).items() if k != "labels"}))
    with pytest.raises(DataError, match="does not say what the ids"):
        opened(tmp_path / "copy", own)


def test_numbers_and_colours_that_a_set_of_ones_own_does_not_have_are_named(tmp_path: Path) -> None:
    numbers = OwnSet(**TOWN, labels="masks/*.png", table={300: "road", 7: "car"})
    colors = OwnSet(**TOWN, labels="masks/*.png", colors=COLORS)
    grey = Image.fromarray(stripes([0, 0, 200, 0]))
    for own, label, kind, words in (
        (
            numbers,
            Image.fromarray(stripes([300, 301, 301, 7], np.uint16)),
            "unknown ids",
            "60 of 120 pixels: 301 (60 pixels)",
        ),
        (numbers, Image.fromarray(stripes([7, 1, 7, 7])), "unknown ids", "30 of 120 pixels: 1 (30 pixels)"),
        (colors, grey, "unknown colours", "30 of 120 pixels: (200, 200, 200) (30 pixels)"),
    ):
        root = town(tmp_path / "town", {"masks/1.png": label})
        with pytest.raises(UnknownLabelError) as caught:
            opened(root, own).read(0)
        assert words in str(caught.value)
        report = check("town", root, data=DataConfig(sets={"town": own}))
        assert [problem.kind for problem in report.problems] == [kind]
        assert words in report.problems[0].detail
        assert report.exit_code == 1
        assert [row[1] for row in report.excluded()] == ["photos/1.png"]
    # A number without a class has none by its colour's id either.
    both, _ = OWN["numbers, and colours of classes without one"]
    root = town(tmp_path / "both", {"masks/1.png": Image.fromarray(stripes([1, 2, 3, 4]))})
    with pytest.raises(UnknownLabelError, match="120 of 120 pixels"):
        opened(root, both).read(0)


def test_a_label_that_is_missing_is_named_by_the_first_pattern(tmp_path: Path) -> None:
    own, _ = OWN["several patterns"]
    root = town(tmp_path / "town", {"fine/1.png": RGB})
    (root / "fine/1.png").rename(root / "fine/2.png")
    with pytest.raises(DataError, match=r"fine/\*\.png or coarse/\*_x\.png|fine/1\.png"):
        opened(root, own)


def test_a_class_that_the_space_does_not_know_is_refused_in_colours_too(tmp_path: Path) -> None:
    own = OwnSet(**TOWN, labels="masks/*.png", colors={(1, 2, 3): "raod"})
    root = town(tmp_path / "town", {"masks/1.png": RGB})
    with pytest.raises(UsageError, match="Did you mean 'road'"):
        opened(root, own)


def test_numbers_that_are_ids_stay_ids() -> None:
    plain = own_format("town", OwnSet(**TOWN, labels="m/*.png", table={0: VOID, 7: "road"}, colors={"1, 2, 3": "road"}))
    assert plain.numbers is None
    assert plain.colors == (((1, 2, 3), 7),)


# Predictions


@pytest.mark.parametrize("ids", ["auto", "train"])
def test_predicted_class_maps_survive_an_optimiser(tmp_path: Path, ids: Any) -> None:
    truth = ids_of(*range(19))
    image = with_palette(truth, dict(enumerate(SPACE.colors)))
    for one in (
        image,
        image.remap_palette([*range(18, -1, -1)]),
        Image.fromarray(truth),
        with_palette(truth, FOR_THE_EYE["web"]),
    ):
        one.save(tmp_path / "a.png")
        assert np.array_equal(read_prediction(tmp_path / "a.png", space=SPACE, ids=ids), truth)


def test_predictions_in_label_ids_survive_an_optimiser(tmp_path: Path) -> None:
    image = with_palette(ids_of(*CLASS_IDS), OFFICIAL).remap_palette(CLASS_IDS[::-1])
    image.save(tmp_path / "a_labelIds.png")
    assert np.array_equal(read_prediction(tmp_path / "a_labelIds.png", space=SPACE), ids_of(*range(19)))


def test_predictions_in_colours_are_read_by_colours_alone(tmp_path: Path) -> None:
    truth = ids_of(0, 13, 2)
    pixels = as_colors(truth, dict(enumerate(SPACE.colors)))
    path = tmp_path / "a.png"
    for image in (
        Image.fromarray(pixels),
        Image.fromarray(pixels).quantize(3),
        Image.fromarray(pixels).convert("RGBA"),
    ):
        image.save(path)
        assert np.array_equal(read_prediction(path, space=SPACE, ids="color"), truth)
    for image, words in (
        (Image.fromarray(pixels[:, :, ::-1].copy()), "BGR"),
        (Image.fromarray(truth), "unknown colours"),
        (Image.fromarray(as_colors(truth, {})), r"\(0, 0, 0\) \(96 pixels\)"),
    ):
        image.save(path)
        with pytest.raises(DataError, match=words):
            read_prediction(path, space=SPACE, ids="color")


def test_the_slow_way_to_read_colours_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    colors = np.array(list(FORM.colors), dtype=object)
    pixels = np.array(list(colors[rng.integers(0, len(colors), 50), 0]), np.uint8).reshape(5, 10, 3)
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG")
    named = {**dict(reversed(FORM.colors)), (153, 153, 153): 17, (0, 0, 142): 26}
    slow = [[GTAV[named[tuple(map(int, color))]] for color in row] for row in pixels]
    assert [[GTAV[int(i)] for i in row] for row in label_formats.color_ids(pixels, FORM, "here")] == slow


def test_label_ids_of_cityscapes_as_16_bit_files_are_read(tmp_path: Path) -> None:
    form = LabelFormat.of(CITYSCAPES_IDS)
    ids = ids_of(*range(34))
    assert np.array_equal(read(tmp_path, Image.fromarray(ids.astype(np.uint16)), form), ids)


def test_a_car_at_a_void_index_is_a_car(tmp_path: Path) -> None:
    """Its colour is the licence plate's too, which is void: that of the index decides only where it is the plate's own."""
    for some in ((0, 26), (0, 17), (26,), (17, 26)):
        ids = ids_of(*some)
        assert classes(read(tmp_path, with_palette(ids, OFFICIAL).remap_palette([*some]))) == classes(ids)
    assert classes(read(tmp_path, with_palette(ids_of(34, 18, 26), OFFICIAL))) == [IGNORE, IGNORE, 13]


def test_the_sets_on_the_page_about_data_are_read_as_they_stand(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/data.md").read_text()
    _, recipe, alone = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for name, content in (("recipe.yaml", recipe), ("sets.yaml", alone)):
        (tmp_path / name).write_text(content)
    town = read_sets(tmp_path / "recipe.yaml")["mytown"]
    assert own_format("mytown", town).numbers is None
    assert town.color_table == {(128, 64, 128): "road", (0, 0, 142): "car", (0, 0, 0): VOID}
    sets = read_sets(tmp_path / "sets.yaml")
    assert sets["mytown"].table == {0: VOID, 300: "road", 301: "car"}
    assert own_format("othertown", sets["othertown"]).numbers == ()


@pytest.mark.slow
def test_a_set_of_colours_is_trained_on_shown_and_scored_with_its_bad_files_skipped(tmp_path: Path) -> None:
    wrong = Image.fromarray(np.asarray(RGB)[:, :, ::-1].copy())
    big = {name: image.resize((80, 48), Image.Resampling.NEAREST) for name, image in (("good", RGB), ("bgr", wrong))}
    root = town(tmp_path / "town", {"masks/1.png": big["good"], "masks/2.png": big["bgr"], "masks/3.png": big["good"]})
    own = OwnSet(**TOWN, labels="masks/*.png", colors=COLORS)
    domain = opened(root, own)
    assert np.asarray(
        contact_sheet(opened(town(tmp_path / "one", {"masks/1.png": big["good"]}), own), space=SPACE)
    ).any()
    with pytest.raises(UnknownLabelError):
        domain.read(1)
    config = run_of(
        tmp_path / "run",
        data={
            "sources": ["town"],
            "roots": {"town": str(root)},
            "sets": {"town": own},
            "on_bad_image": "skip",
            "class_uniform": 0.5,
        },
    )
    record = training.train(config)
    scored = record["domains"]["town"]
    assert np.sum(scored["confusion"]) == 48 * 60  # the first image without its void quarter
    assert OpenRun(tmp_path / "run").config.data.sets == {"town": own}
    again = evaluate(tmp_path / "run")["domains"]["town"]
    assert (again["images"], again["skipped"]) == (1, 0)


def test_colours_stored_with_a_palette_of_all_sorts_are_read_where_the_indices_are_no_numbers(tmp_path: Path) -> None:
    form = LabelFormat.of({0: VOID, 1: "road", 2: "car"}, [((0, 0, 0), 0), ((255, 0, 0), 1), ((0, 255, 0), 2)])
    pixels = as_colors(ids_of(1, 2), {1: (255, 0, 0), 2: (0, 255, 0)})
    image = Image.fromarray(pixels).convert("P", dither=Image.Dither.NONE)
    assert min(np.asarray(image).ravel()) > 2
    assert np.array_equal(read(tmp_path, image, form), ids_of(1, 2))
