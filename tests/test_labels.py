import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spcnet import label_tables, labels
from spcnet.data import label_formats
from spcnet.errors import DataError, UsageError
from spcnet.label_tables import CAMVID, CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS, IDD_LITE
from spcnet.labels import IGNORE, SPACES, UNKNOWN, VOID

TABLES = {
    "train ids": CITYSCAPES_TRAIN_IDS,
    "ids": CITYSCAPES_IDS,
    "camvid": CAMVID,
    "idd_lite": IDD_LITE,
}


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_space_has_one_colour_per_class_and_no_name_in_two_classes(name: str) -> None:
    space = SPACES[name]
    assert space.name == name
    assert len(space) == len(space.classes) == len(set(space.colors)) == len(space.members)
    members = [member for group in space.members.values() for member in group]
    assert len(members) == len(set(members))
    assert VOID not in members


def test_the_ignored_label_is_the_one_of_the_losses() -> None:
    from spcnet.types import IGNORE_INDEX

    assert IGNORE == IGNORE_INDEX


def test_train_ids_are_the_classes_of_the_19_class_space() -> None:
    table = labels.remap(CITYSCAPES_TRAIN_IDS, SPACES["cityscapes19"], "cityscapes")
    assert table[:19].tolist() == list(range(19))
    assert table[255] == IGNORE
    assert (table[19:255] == UNKNOWN).all()


def test_ids_and_train_ids_of_cityscapes_mean_the_same() -> None:
    # From cityscapesscripts/helpers/labels.py: id → train id.
    official = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    official |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    table = labels.remap(CITYSCAPES_IDS, SPACES["cityscapes19"], "cityscapes")
    for native in range(34):
        assert table[native] == official.get(native, IGNORE), native


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_set_fits_the_seven_groups_and_fills_classes_from_0_up(name: str) -> None:
    table = labels.remap(TABLES[name], SPACES["idd7"], name)
    assert {int(table[i]) for i in TABLES[name]} == {*range(7), IGNORE}


def test_camvid_falls_into_the_groups_that_its_names_say() -> None:
    groups = SPACES["idd7"].classes
    table = labels.remap(CAMVID, SPACES["idd7"], "camvid")
    expected = {
        "sky": "sky", "building": "far", "pole": "roadside", "road": "drivable", "pavement": "non-drivable",
        "tree": "far", "sign": "roadside", "fence": "roadside", "car": "vehicle", "pedestrian": "living",
        "bicyclist": "living",
    }  # fmt: skip
    assert {CAMVID[i]: groups[table[i]] for i in range(11)} == expected


def test_a_set_too_coarse_for_a_space_is_refused_with_a_space_that_fits() -> None:
    with pytest.raises(UsageError, match=r"idd_lite.*cityscapes19.*drivable.*set data\.space to idd7"):
        labels.remap(IDD_LITE, SPACES["cityscapes19"], "idd_lite")


def test_a_set_that_fits_no_space_is_told_so() -> None:
    with pytest.raises(UsageError, match=r"unicorn.*no space can"):
        labels.remap({0: "unicorn"}, SPACES["idd7"], "fables")


def test_an_unknown_space_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="'idd7'"):
        labels.label_space("idd8")


def test_labels_are_mapped_pixel_by_pixel() -> None:
    table = labels.remap(CAMVID, SPACES["cityscapes19"], "camvid")
    native = np.array([[3, 8], [11, 0]], np.uint8)
    names = SPACES["cityscapes19"].classes
    mapped = labels.apply(table, native, "here")
    assert mapped.dtype == np.uint8
    assert mapped.tolist() == [[names.index("road"), names.index("car")], [IGNORE, names.index("sky")]]


@pytest.mark.parametrize("strange", [12, 254, 255])
def test_an_id_that_the_set_does_not_have_is_refused(strange: int) -> None:
    table = labels.remap(CAMVID, SPACES["idd7"], "camvid")
    with pytest.raises(DataError, match=rf"here\.png.*\[{strange}\]"):
        labels.apply(table, np.array([[0, strange]], np.uint8), "here.png")


def test_mapillary_s_and_wilddash_s_names_are_known_to_both_spaces() -> None:
    for space in SPACES.values():
        for rein in (False, True):
            labels.remap(label_tables.mapillary(label_tables.MAPILLARY_V20, rein=rein), space, "mapillary")
        labels.remap(label_tables.WILDDASH2, space, "wilddash2")
        labels.remap(label_tables.URBANSYN, space, "urbansyn")


def test_wilddash_s_own_classes_are_what_its_tool_makes_of_them() -> None:
    table = labels.remap(label_tables.WILDDASH2, SPACES["cityscapes19"], "wilddash2")
    same = labels.remap(CITYSCAPES_IDS, SPACES["cityscapes19"], "cityscapes")
    assert table[:34].tolist() == same[:34].tolist()
    assert table[34:40].tolist() == [14, 13, IGNORE, IGNORE, 0, UNKNOWN]


def slow_from_colors(pixels: NDArray[np.uint8], table: dict[tuple[int, int, int], int]) -> NDArray[np.uint8]:
    return np.array([[table.get(tuple(map(int, color)), IGNORE) for color in row] for row in pixels], np.uint8)


COLOR = st.tuples(*[st.integers(0, 255)] * 3)


@settings(max_examples=60, deadline=None)
@given(
    table=st.dictionaries(COLOR, st.integers(0, 254), max_size=8),
    others=st.lists(COLOR, min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def test_colours_are_looked_up_one_by_one(
    table: dict[tuple[int, int, int], int], others: list[tuple[int, int, int]], seed: int
) -> None:
    colors = np.array([*table, *others], np.uint8)
    pixels = colors[np.random.default_rng(seed).integers(0, len(colors), (3, 5))]
    for view in (pixels, pixels[:, ::-1], pixels[::2]):
        assert np.array_equal(label_formats.from_colors(view, table), slow_from_colors(view, table))


def test_the_colours_of_cityscapes_are_those_of_its_19_classes_and_of_what_is_void() -> None:
    colors = np.array([[*SPACES["cityscapes19"].colors, *label_tables.CITYSCAPES_VOID_COLORS]], np.uint8)
    for native in (label_tables.GTAV, CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS, label_tables.URBANSYN):
        table = labels.remap(native, SPACES["cityscapes19"], "a set")
        form = label_formats.LabelFormat.of(native, label_tables.cityscapes_colors(native))
        found = labels.apply(table, label_formats.color_ids(colors, form, "here"), "here")[0].tolist()
        # A polegroup looks like a pole, a licence plate like its car.
        assert found == [*range(19), *[IGNORE] * 8, 5, IGNORE, IGNORE, 13]
        with pytest.raises(label_formats.UnknownLabelError):
            label_formats.color_ids(np.array([[(0, 0, 143)]], np.uint8), form, "here")
