"""Label spaces as data: the classes a network tells apart, their colours, and which name of a data set means which.

A data set knows only its own table, native id → native name (`CAMVID`, `IDD_LITE`, `CITYSCAPES_TRAIN_IDS`, ...). A
space knows which native names make up each of its classes. `remap` joins the two, so that a new set or a new merge is
a table, never code. Native ids that a set's table does not know are an error of the file, found by `apply`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from spcnet.errors import DataError, UsageError, named

IGNORE = 255
"""Label of a pixel that neither trains nor scores (the same value as `spcnet.types.IGNORE_INDEX`)."""
UNKNOWN = 254
"""Entry of a remap for a native id that the set's table does not know."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a network, in the order of its outputs."""

    name: str
    classes: tuple[str, ...]
    """Name of each class; K of them."""
    colors: tuple[tuple[int, int, int], ...]
    """RGB colour of each class, 0..255."""
    members: Mapping[str, tuple[str, ...]]
    """For each class the native names (of any data set) that belong to it."""
    ignored: frozenset[str] = frozenset()
    """Native names of things that are none of the classes."""

    def __len__(self) -> int:
        return len(self.classes)


_CITYSCAPES = (
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)),
    ("pole", (153, 153, 153)),
    ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)),
    ("vegetation", (107, 142, 35)),
    ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)),
    ("person", (220, 20, 60)),
    ("rider", (255, 0, 0)),
    ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)),
    ("bus", (0, 60, 100)),
    ("train", (0, 80, 100)),
    ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)
_SAME_THING = {
    "traffic sign": ("sign",),
    "sidewalk": ("pavement",),
    "vegetation": ("tree",),
    # As in IDD's own table of Cityscapes ids.
    "terrain": ("non-drivable fallback",),
    "person": ("pedestrian",),
    "rider": ("bicyclist",),
}
_IDD7 = (
    ("drivable", (128, 64, 128), ("road", "drivable fallback")),
    ("non-drivable", (244, 35, 232), ("sidewalk", "pavement", "terrain", "non-drivable fallback")),
    ("living", (220, 20, 60), ("person", "rider", "pedestrian", "bicyclist", "animal")),
    (
        "vehicle",
        (0, 0, 142),
        ("car", "truck", "bus", "train", "motorcycle", "bicycle", "autorickshaw", "vehicle fallback"),
    ),
    (
        "roadside",
        (220, 190, 40),
        (
            "wall",
            "fence",
            "pole",
            "traffic light",
            "traffic sign",
            "sign",
            "curb",
            "guard rail",
            "billboard",
            "obs-str-bar-fallback",
        ),
    ),
    ("far", (107, 142, 35), ("building", "vegetation", "tree", "bridge")),
    ("sky", (70, 130, 180), ()),
)

SPACES: dict[str, LabelSpace] = {
    "cityscapes19": LabelSpace(
        "cityscapes19",
        tuple(name for name, _ in _CITYSCAPES),
        tuple(color for _, color in _CITYSCAPES),
        {name: (name, *_SAME_THING.get(name, ())) for name, _ in _CITYSCAPES},
        frozenset(
            (
                "drivable fallback",
                "animal",
                "autorickshaw",
                "vehicle fallback",
                "curb",
                "guard rail",
                "billboard",
                "obs-str-bar-fallback",
                "bridge",
            )
        ),
    ),
    "idd7": LabelSpace(
        "idd7",
        tuple(name for name, _, _ in _IDD7),
        tuple(color for _, color, _ in _IDD7),
        {name: (name, *members) for name, _, members in _IDD7},
    ),
}
"""Label space by name."""

VOID = "void"
"""Native name of what is not labelled; in no space."""

CITYSCAPES_TRAIN_IDS: dict[int, str] = {i: name for i, (name, _) in enumerate(_CITYSCAPES)} | {IGNORE: VOID}
"""The 19 train ids, as in `*_labelTrainIds.png` and in the generated streets."""

CITYSCAPES_IDS: dict[int, str] = {i: VOID for i in (*range(7), 9, 10, 14, 15, 16, 18, 29, 30, IGNORE)} | dict(
    zip(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
        (name for name, _ in _CITYSCAPES),
        strict=True,
    )
)
"""The native ids of Cityscapes, as in `*_labelIds.png`; the licence plate's -1 is 255 in an 8-bit file."""

GTAV: dict[int, str] = CITYSCAPES_IDS | {34: VOID}
"""GTAV's palette indices: Cityscapes' native ids, with the licence plate at 34."""

CITYSCAPES_COLORS: dict[tuple[int, int, int], int] = {
    color: native_id for name, color in _CITYSCAPES for native_id, known in CITYSCAPES_IDS.items() if known == name
}
"""RGB colour → native id of the 19 classes, for label images of colours; any other colour is void."""

SYNTHIA: dict[int, str] = {
    **dict.fromkeys((0, 13, 14, 22), VOID),
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "person",
    11: "bicycle",
    12: "motorcycle",
    15: "traffic light",
    16: "terrain",
    17: "rider",
    18: "truck",
    19: "bus",
    20: "train",
    21: "wall",
}
"""SYNTHIA-RAND-CITYSCAPES' ids."""

CAMVID: dict[int, str] = dict(
    enumerate(
        ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist", VOID)
    )
)
"""CamVid's 11 classes in the SegNet layout; 11 is unlabelled."""

IDD_TRAIN_IDS: dict[int, str] = CITYSCAPES_TRAIN_IDS | {19: "animal", 20: "autorickshaw", 21: "billboard", 22: "bridge"}
"""IDD's `csTrainIds`: Cityscapes' 19, without trains, and four more; what falls back to non-drivable ground is terrain."""

IDD_LEVEL3: dict[int, str] = dict(
    enumerate(
        (
            "road",
            "drivable fallback",
            "sidewalk",
            "non-drivable fallback",
            "person",
            "rider",
            "motorcycle",
            "bicycle",
            "autorickshaw",
            "car",
            "truck",
            "bus",
            "vehicle fallback",
            "curb",
            "wall",
            "fence",
            "guard rail",
            "billboard",
            "traffic sign",
            "traffic light",
            "pole",
            "obs-str-bar-fallback",
            "building",
            "bridge",
            "vegetation",
            "sky",
        )
    )
) | {IGNORE: VOID}
"""IDD's 26 level-3 groups: parking is in drivable, rail tracks in non-drivable fallback, animals are in person, trains,
caravans and trailers in vehicle fallback, tunnels in bridge, the fallback background in sky."""

IDD_LITE: dict[int, str] = {i: name for i, (name, _, _) in enumerate(_IDD7)} | {IGNORE: VOID}
"""IDD-Lite's seven level-1 groups."""

URBANSYN: dict[int, str] = CITYSCAPES_TRAIN_IDS | {19: VOID}
"""UrbanSyn's ids: Cityscapes' train ids, 19 unlabelled."""

WILDDASH2: dict[int, str] = CITYSCAPES_IDS | {
    34: "truck",
    35: "car",
    36: "billboard",
    37: "obs-str-bar-fallback",
    38: "road",
}
"""WildDash 2's ids: Cityscapes', and pickup, van, billboard, street light and road marking, named as its own tool for
conversion to Cityscapes and IDD (wd2_unified_label_policy.json) does."""

MAPILLARY_V12: tuple[str, ...] = (
    "animal--bird",
    "animal--ground-animal",
    "construction--barrier--curb",
    "construction--barrier--fence",
    "construction--barrier--guard-rail",
    "construction--barrier--other-barrier",
    "construction--barrier--wall",
    "construction--flat--bike-lane",
    "construction--flat--crosswalk-plain",
    "construction--flat--curb-cut",
    "construction--flat--parking",
    "construction--flat--pedestrian-area",
    "construction--flat--rail-track",
    "construction--flat--road",
    "construction--flat--service-lane",
    "construction--flat--sidewalk",
    "construction--structure--bridge",
    "construction--structure--building",
    "construction--structure--tunnel",
    "human--person",
    "human--rider--bicyclist",
    "human--rider--motorcyclist",
    "human--rider--other-rider",
    "marking--crosswalk-zebra",
    "marking--general",
    "nature--mountain",
    "nature--sand",
    "nature--sky",
    "nature--snow",
    "nature--terrain",
    "nature--vegetation",
    "nature--water",
    "object--banner",
    "object--bench",
    "object--bike-rack",
    "object--billboard",
    "object--catch-basin",
    "object--cctv-camera",
    "object--fire-hydrant",
    "object--junction-box",
    "object--mailbox",
    "object--manhole",
    "object--phone-booth",
    "object--pothole",
    "object--street-light",
    "object--support--pole",
    "object--support--traffic-sign-frame",
    "object--support--utility-pole",
    "object--traffic-light",
    "object--traffic-sign--back",
    "object--traffic-sign--front",
    "object--trash-can",
    "object--vehicle--bicycle",
    "object--vehicle--boat",
    "object--vehicle--bus",
    "object--vehicle--car",
    "object--vehicle--caravan",
    "object--vehicle--motorcycle",
    "object--vehicle--on-rails",
    "object--vehicle--other-vehicle",
    "object--vehicle--trailer",
    "object--vehicle--truck",
    "object--vehicle--wheeled-slow",
    "void--car-mount",
    "void--ego-vehicle",
    "void--unlabeled",
)
"""Mapillary Vistas' own names of its ids, version 1.2."""

# What a name means, for both versions. What Cityscapes' classes leave out keeps its group where that is certain.
_MAPILLARY: dict[str, tuple[str, ...]] = {
    "road": (
        "construction--flat--road",
        "marking--general",
        "marking--continuous--dashed",
        "marking--continuous--solid",
        "marking--continuous--zigzag",
        "marking--discrete--ambiguous",
        "marking--discrete--arrow--left",
        "marking--discrete--arrow--other",
        "marking--discrete--arrow--right",
        "marking--discrete--arrow--split-left-or-straight",
        "marking--discrete--arrow--split-right-or-straight",
        "marking--discrete--arrow--straight",
        "marking--discrete--give-way-row",
        "marking--discrete--give-way-single",
        "marking--discrete--hatched--chevron",
        "marking--discrete--hatched--diagonal",
        "marking--discrete--other-marking",
        "marking--discrete--stop-line",
        "marking--discrete--symbol--bicycle",
        "marking--discrete--symbol--other",
        "marking--discrete--text",
        "marking-only--continuous--dashed",
        "marking-only--discrete--other-marking",
        "marking-only--discrete--text",
        "object--manhole",
    ),
    "sidewalk": ("construction--barrier--curb", "construction--flat--sidewalk"),
    "building": ("construction--structure--building",),
    "wall": ("construction--barrier--wall",),
    "fence": ("construction--barrier--fence",),
    "pole": ("object--support--pole", "object--support--utility-pole"),
    "traffic light": (
        "object--traffic-light",
        "object--traffic-light--cyclists",
        "object--traffic-light--general-horizontal",
        "object--traffic-light--general-single",
        "object--traffic-light--general-upright",
        "object--traffic-light--other",
        "object--traffic-light--pedestrians",
    ),
    "traffic sign": (
        "object--traffic-sign--front",
        "object--traffic-sign--direction-front",
        "object--traffic-sign--information-parking",
        "object--traffic-sign--temporary-front",
    ),
    "vegetation": ("nature--vegetation",),
    "terrain": ("nature--terrain",),
    "sky": ("nature--sky",),
    "person": ("human--person", "human--person--individual", "human--person--person-group"),
    "rider": ("human--rider--bicyclist", "human--rider--motorcyclist", "human--rider--other-rider"),
    "car": ("object--vehicle--car",),
    "truck": ("object--vehicle--truck",),
    "bus": ("object--vehicle--bus",),
    "train": ("object--vehicle--on-rails",),
    "motorcycle": ("object--vehicle--motorcycle",),
    "bicycle": ("object--vehicle--bicycle",),
    "animal": ("animal--bird", "animal--ground-animal"),
    "drivable fallback": (
        "construction--flat--bike-lane",
        "construction--flat--crosswalk-plain",
        "construction--flat--parking",
        "construction--flat--parking-aisle",
        "construction--flat--service-lane",
        "marking--crosswalk-zebra",
        "marking--discrete--crosswalk-zebra",
        "marking-only--discrete--crosswalk-zebra",
        "object--catch-basin",
        "object--pothole",
    ),
    "vehicle fallback": (
        "object--vehicle--caravan",
        "object--vehicle--other-vehicle",
        "object--vehicle--trailer",
        "object--vehicle--vehicle-group",
        "object--vehicle--wheeled-slow",
    ),
    "guard rail": ("construction--barrier--guard-rail",),
    "billboard": (
        "object--billboard",
        "object--sign--advertisement",
        "object--sign--ambiguous",
        "object--sign--back",
        "object--sign--information",
        "object--sign--other",
        "object--sign--store",
    ),
    "bridge": ("construction--structure--bridge", "construction--structure--tunnel"),
    "obs-str-bar-fallback": (
        "construction--barrier--ambiguous",
        "construction--barrier--concrete-block",
        "construction--barrier--other-barrier",
        "construction--barrier--road-median",
        "construction--barrier--road-side",
        "construction--barrier--separator",
        "construction--barrier--temporary",
        "object--banner",
        "object--bench",
        "object--bike-rack",
        "object--cctv-camera",
        "object--fire-hydrant",
        "object--junction-box",
        "object--mailbox",
        "object--parking-meter",
        "object--phone-booth",
        "object--street-light",
        "object--support--pole-group",
        "object--support--traffic-sign-frame",
        "object--traffic-cone",
        "object--traffic-sign--ambiguous",
        "object--traffic-sign--back",
        "object--traffic-sign--direction-back",
        "object--traffic-sign--temporary-back",
        "object--trash-can",
        "object--water-valve",
    ),
    VOID: (
        "construction--flat--curb-cut",
        "construction--flat--driveway",
        "construction--flat--pedestrian-area",
        "construction--flat--rail-track",
        "construction--flat--road-shoulder",
        "construction--flat--traffic-island",
        "construction--structure--garage",
        "nature--mountain",
        "nature--sand",
        "nature--snow",
        "nature--water",
        "object--vehicle--boat",
        "void--car-mount",
        "void--dynamic",
        "void--ego-vehicle",
        "void--ground",
        "void--static",
        "void--unlabeled",
    ),
}
_MAPILLARY_REIN: dict[str, tuple[str, ...]] = {
    "road": (
        "construction--flat--bike-lane",
        "construction--flat--crosswalk-plain",
        "construction--flat--parking",
        "construction--flat--parking-aisle",
        "construction--flat--service-lane",
        "marking--crosswalk-zebra",
        "marking--discrete--crosswalk-zebra",
        "marking-only--discrete--crosswalk-zebra",
    ),
    "sidewalk": ("construction--flat--curb-cut", "construction--flat--pedestrian-area"),
    "pole": ("object--street-light", "object--support--pole-group"),
    "traffic sign": (
        "object--support--traffic-sign-frame",
        "object--traffic-sign--ambiguous",
        "object--traffic-sign--back",
        "object--traffic-sign--direction-back",
        "object--traffic-sign--temporary-back",
    ),
    "drivable fallback": ("object--manhole",),
}

MAPILLARY_V20: tuple[str, ...] = tuple(
    sorted(
        {name for names in _MAPILLARY.values() for name in names}
        - {
            "human--person",
            "marking--crosswalk-zebra",
            "marking--general",
            "object--billboard",
            "object--traffic-light",
        }
    )
)
"""Mapillary Vistas' own names of what version 2.0 tells apart. Which number has which name stands in the set's folder."""


def mapillary(names: Sequence[str], *, rein: bool = False) -> dict[int, str]:
    """The label table of Mapillary Vistas.

    Args:
        names: what its configuration calls the ids 0, 1, ...; `MAPILLARY_V12` for version 1.2.
        rein: the classes that Rein and openseg take its names for (more of them road, sidewalk, pole and sign; manholes
            not) instead of those that RobustNet and SPC-Net do.

    Raises:
        KeyError: neither version has such a name.
    """
    meaning = {name: meant for meant, members in _MAPILLARY.items() for name in members}
    if rein:
        meaning |= {name: meant for meant, members in _MAPILLARY_REIN.items() for name in members}
    return {native_id: meaning[name] for native_id, name in enumerate(names)}


def label_space(name: str) -> LabelSpace:
    """The space of that name.

    Raises:
        UsageError: no space has that name.
    """
    return named(name, SPACES, "label space")


def known_names(space: LabelSpace) -> list[str]:
    """The native names that a space understands, those of nothing that it tells apart last."""
    return [*(name for members in space.members.values() for name in members), *sorted(space.ignored), VOID]


def remap(native: Mapping[int, str], space: LabelSpace, what: str) -> npt.NDArray[np.uint8]:
    """Table of 256 entries from the ids of a data set to the classes of a space.

    Args:
        native: id → name, as the data set has it.
        space: the classes wanted.
        what: name of the data set, for the message.

    Returns:
        Class of each native id, `IGNORE` for void, `UNKNOWN` for ids the set does not have.

    Raises:
        UsageError: a native name belongs to no class of the space (the set's labels are coarser than the space), or every
            native name is void there.
    """
    class_of = {member: k for k, name in enumerate(space.classes) for member in space.members[name]}
    class_of |= dict.fromkeys((VOID, *space.ignored), IGNORE)
    homeless = sorted({name for name in native.values() if name not in class_of})
    if homeless:
        fitting = [s.name for s in SPACES.values() if set(known_names(s)).issuperset(native.values())]
        raise UsageError(
            f"the data set {what} has classes that the label space {space.name} cannot tell apart "
            f"({', '.join(homeless)}): " + (f"set data.space to {' or '.join(fitting)}" if fitting else "no space can")
        )
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    for native_id, name in native.items():
        table[native_id] = class_of[name]
    if not (table < len(space.classes)).any():
        raise UsageError(
            f"no label of the data set {what} is one of the label space {space.name}'s classes, all are void: give its "
            "numbers the names of classes, or set data.space to a space that has them"
        )
    return table


def apply(table: npt.NDArray[np.uint8], label: npt.NDArray[np.uint8], where: str) -> npt.NDArray[np.uint8]:
    """Bring a label image (H×W) into a space.

    Raises:
        DataError: the image holds an id that the data set does not have.
    """
    # Bytes are looked up and searched six times as fast as by indexing.
    found = bytearray(label).translate(table.tobytes())
    mapped = np.frombuffer(found, np.uint8).reshape(label.shape)
    if UNKNOWN in found:
        strange = sorted(int(i) for i in np.unique(label[mapped == UNKNOWN]))
        known = sorted(int(i) for i in np.flatnonzero(table != UNKNOWN))
        raise DataError(
            f"{where} holds the label ids {strange}: this data set has {known}. "
            "Check that the file is a label image of this set and not a colour or instance image"
        )
    return mapped


def from_colors(pixels: npt.NDArray[np.uint8], table: Mapping[tuple[int, int, int], int]) -> npt.NDArray[np.uint8]:
    """The native ids of a label image of colours.

    Args:
        pixels: RGB, H×W×3.
        table: colour → native id, 0..254.

    Returns:
        Native id of each pixel, H×W; `IGNORE` for a colour that the table does not have.
    """
    lookup = _color_lookup(tuple(table.items()))
    packed = np.zeros((*pixels.shape[:2], 4), np.uint8)
    packed[:, :, :3] = pixels
    return np.take(lookup, packed.view("<u4")[:, :, 0]) - np.uint8(1)


@lru_cache(maxsize=8)
def _color_lookup(table: tuple[tuple[tuple[int, int, int], int], ...]) -> npt.NDArray[np.uint8]:
    """1 + the native id of each of the 2^24 colours, 0 for one without: zeros take no memory until they are written."""
    lookup = np.zeros(2**24, np.uint8)
    for (red, green, blue), native_id in table:
        lookup[red | green << 8 | blue << 16] = native_id + 1
    return lookup
