"""Label spaces as data: the classes a network tells apart, their colours, and which name of a data set means which.

A data set knows only its own table, native id → native name (`CAMVID`, `IDD_LITE`, `CITYSCAPES_TRAIN_IDS`, ...). A
space knows which native names make up each of its classes. `remap` joins the two, so that a new set or a new merge is
a table, never code. Native ids that a set's table does not know are an error of the file, found by `apply`.

How the label images of a set say which native id a pixel has is a `LabelFormat`: by its number, by its colour, or by the
index into a palette, for which `palette_ids` states the rule.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from spcnet.config import Color
from spcnet.errors import DataError, UsageError, lookup

IGNORE = 255
"""Label of a pixel that neither trains nor scores (the same value as `spcnet.types.IGNORE_INDEX`)."""
UNKNOWN = 254
"""Entry of a remap for a native id that the set's table does not know."""
SHADE = 8
"""How far each channel of a colour may be from a class's for it to be taken for a wrong shade of that colour."""


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

GTAV_STATIC: Color = (20, 20, 20)
"""GTAV's colour of static things (id 4), which are black in Cityscapes; its other colours are Cityscapes'."""

CITYSCAPES_COLORS: dict[Color, int] = {
    color: native_id for name, color in _CITYSCAPES for native_id, known in CITYSCAPES_IDS.items() if known == name
}
"""RGB colour → native id of Cityscapes' 19 classes."""

CITYSCAPES_VOID_COLORS: dict[Color, int] = {
    (0, 0, 0): 0,
    (111, 74, 0): 5,
    (81, 0, 81): 6,
    (250, 170, 160): 9,
    (230, 150, 140): 10,
    (180, 165, 180): 14,
    (150, 100, 100): 15,
    (150, 120, 90): 16,
    (153, 153, 153): 18,
    (0, 0, 90): 29,
    (0, 0, 110): 30,
    (0, 0, 142): -1,
}
"""RGB colour → native id of what Cityscapes labels and none of its 19 classes is: unlabeled (and four more), dynamic,
ground, parking, rail track, guard rail, bridge, tunnel, polegroup, caravan, trailer, and licence plate. A polegroup has
the colour of a pole, and a licence plate that of a car."""

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

CAMVID_COLORS: tuple[Color, ...] = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
    (0, 0, 0),
)
"""RGB colour of each of CamVid's ids in the SegNet layout."""

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

MAPILLARY_V12_COLORS: tuple[Color, ...] = (
    (165, 42, 42),
    (0, 192, 0),
    (196, 196, 196),
    (190, 153, 153),
    (180, 165, 180),
    (90, 120, 150),
    (102, 102, 156),
    (128, 64, 255),
    (140, 140, 200),
    (170, 170, 170),
    (250, 170, 160),
    (96, 96, 96),
    (230, 150, 140),
    (128, 64, 128),
    (110, 110, 110),
    (244, 35, 232),
    (150, 100, 100),
    (70, 70, 70),
    (150, 120, 90),
    (220, 20, 60),
    (255, 0, 0),
    (255, 0, 100),
    (255, 0, 200),
    (200, 128, 128),
    (255, 255, 255),
    (64, 170, 64),
    (230, 160, 50),
    (70, 130, 180),
    (190, 255, 255),
    (152, 251, 152),
    (107, 142, 35),
    (0, 170, 30),
    (255, 255, 128),
    (250, 0, 30),
    (100, 140, 180),
    (220, 220, 220),
    (220, 128, 128),
    (222, 40, 40),
    (100, 170, 30),
    (40, 40, 40),
    (33, 33, 33),
    (100, 128, 160),
    (142, 0, 0),
    (70, 100, 150),
    (210, 170, 100),
    (153, 153, 153),
    (128, 128, 128),
    (0, 0, 80),
    (250, 170, 30),
    (192, 192, 192),
    (220, 220, 0),
    (140, 140, 20),
    (119, 11, 32),
    (150, 0, 255),
    (0, 60, 100),
    (0, 0, 142),
    (0, 0, 90),
    (0, 0, 230),
    (0, 80, 100),
    (128, 64, 64),
    (0, 0, 110),
    (0, 0, 70),
    (0, 0, 192),
    (32, 32, 32),
    (120, 10, 10),
    (0, 0, 0),
)
"""RGB colour of each of Mapillary Vistas' ids, version 1.2."""

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
    return lookup(name, SPACES, "label space")


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


def check_ids(label: npt.NDArray[np.uint8], form: "LabelFormat", where: str) -> None:
    """Refuse a label image (H×W) with native ids that its set does not have.

    Raises:
        DataError: it has one.
    """
    if form.names:
        table = np.full(256, UNKNOWN, dtype=np.uint8)
        table[[native_id for native_id, _ in form.names]] = IGNORE
        apply(table, label, where)


class UnknownLabelError(DataError):
    """A label image holds colours or numbers that its set does not have."""

    def __init__(self, kind: Literal["unknown colours", "unknown ids"], where: str, detail: str, remedy: str) -> None:
        super().__init__(f"{where} has {kind}: {detail}. {remedy}")
        self.kind, self.where, self.detail, self.remedy = kind, where, detail, remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        """How it goes from one process to another."""
        return type(self), (self.kind, self.where, self.detail, self.remedy)


@dataclass(frozen=True)
class LabelFormat:
    """How the label images of a set say which native id each pixel has."""

    names: tuple[tuple[int, str], ...] = ()
    """Native id and native name of all that the set tells apart; none for ids that nothing is known of."""
    colors: tuple[tuple[Color, int], ...] = ()
    """RGB colours and the native ids that have them; none for a set without. A colour may stand here for several ids."""
    numbers: tuple[tuple[int, int], ...] | None = None
    """Numbers in the files, 0..65535, and their native ids. None: the numbers are the native ids; empty: there are colours
    only."""
    wide: bool = False
    """Of several channels with 16 bits, the first is the number."""

    @classmethod
    def of(
        cls, table: Mapping[int, str], colors: Iterable[tuple[Color, int]] = (), *, wide: bool = False
    ) -> "LabelFormat":
        """The format of a set whose numbers are its native ids.

        Args:
            table: native id → native name.
            colors: colours of native ids.
            wide: as the field.
        """
        return cls(tuple(table.items()), tuple(colors), wide=wide)


def cityscapes_colors(table: Mapping[int, str]) -> tuple[tuple[Color, int], ...]:
    """The colours of Cityscapes' label images, for a table that names its 19 classes, and the table's ids."""
    names = {color: CITYSCAPES_IDS[official] for color, official in CITYSCAPES_COLORS.items()}
    known = [(color, native_id) for color, name in names.items() for native_id, own in table.items() if own == name]
    void = [native_id for native_id, name in table.items() if name == VOID]
    if table == GTAV:
        known.append((GTAV_STATIC, 4))
    for color, official in CITYSCAPES_VOID_COLORS.items():
        # Among train ids there is one for all of them; the licence plate's is 34 or 255.
        ids = [official] if official in void else [i for i in void if i > 33] or void
        known += [(color, native_id) for native_id in ids]
    return tuple(known)


@dataclass(frozen=True)
class _Meanings:
    """What a format's colours and numbers stand for, looked up by them."""

    names: dict[int, str]
    ids: dict[Color, int]
    """Colour → the native id that it stands for; not those of several classes."""
    members: dict[Color, frozenset[int]]
    """Colour → all native ids that have it."""
    numbers: dict[int, int]
    """Number → native id."""
    free: int
    """A native id that no colour has."""

    def classes(self, color: Color) -> list[int]:
        """The native ids that a colour stands for; void only where it has no class."""
        members = sorted(self.members[color])
        return [i for i in members if self.names.get(i) != VOID] or members

    def class_names(self, color: Color) -> list[str]:
        """The names of those."""
        return sorted({self.names.get(i, str(i)) for i in self.classes(color)})

    def near(self, colors: Sequence[Color]) -> list[Color | None]:
        """Of each colour the nearest known one, itself if it is known; None where none is within `SHADE`."""
        if not colors or not self.members:
            return [None] * len(colors)
        all_known = [*self.members]
        apart = np.abs(np.array(colors, np.int16)[:, None] - np.array(all_known, np.int16)).max(axis=2)
        return [
            all_known[place] if distance <= SHADE else None
            for place, distance in zip(apart.argmin(axis=1).tolist(), apart.min(axis=1).tolist(), strict=True)
        ]

    def agree(self, number: int, color: Color) -> bool:
        """Whether a number means what a colour stands for."""
        native_id = self.numbers.get(number)
        if native_id is None:
            return False
        return native_id in self.members[color] or self.names.get(native_id) in self.class_names(color)


@lru_cache(maxsize=64)
def _meanings(form: LabelFormat) -> _Meanings:
    names = dict(form.names)
    members: dict[Color, set[int]] = {}
    for color, native_id in form.colors:
        members.setdefault(color, set()).add(native_id)
    numbers = {i: i for i in names} if form.numbers is None else dict(form.numbers)
    known = _Meanings(names, {}, {color: frozenset(ids) for color, ids in members.items()}, numbers, IGNORE)
    # Void shares some colours with classes: a licence plate has that of its car.
    ids = {color: known.classes(color)[0] for color in members if len(known.class_names(color)) == 1}
    free = next((i for i in range(255, -1, -1) if i not in {*ids.values()}), IGNORE)
    return replace(known, ids=ids, free=free)


def from_numbers(pixels: npt.NDArray[np.integer], form: LabelFormat, where: str) -> npt.NDArray[np.uint8]:
    """The native ids of a label image of numbers.

    Args:
        pixels: H×W, of any kind of integers.
        form: what the numbers mean.
        where: the file, for the message.

    Raises:
        UnknownLabelError: a number is above 255, or is none of those that the format lists.
    """
    if form.numbers is None:
        if pixels.dtype == np.uint8:
            return pixels  # type: ignore[return-value]
        unknown = (pixels < 0) | (pixels > 255)
        if not unknown.any():
            return pixels.astype(np.uint8)
    else:
        lookup = _number_lookup(form.numbers)
        inside = np.clip(pixels, 0, 65535) if pixels.dtype.itemsize > 2 else pixels
        found: npt.NDArray[np.int16] = lookup[inside]
        unknown = (found < 0) | (inside != pixels)
        if not unknown.any():
            return found.astype(np.uint8)
    numbers, counts = np.unique(pixels[unknown], return_counts=True)
    listed = [int(number) for number, _ in form.numbers or form.names]
    scaled = pixels.dtype != np.uint8 and not (pixels % 257).any() and {*np.unique(pixels // 257).tolist()} <= {*listed}
    raise UnknownLabelError(
        "unknown ids",
        where,
        _listed([(str(number), int(count)) for number, count in zip(numbers, counts, strict=True)], pixels.size),
        "All are multiples of 257: the ids were stretched from 8 to 16 bits; divide them by 257"
        if scaled
        else f"This data set has {', '.join(map(str, sorted(listed))) or 'ids 0 to 255'}",
    )


@lru_cache(maxsize=8)
def _number_lookup(numbers: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int16]:
    """The native id of each number 0..65535, -1 for one without."""
    lookup = np.full(65536, -1, np.int16)
    for number, native_id in numbers:
        lookup[number] = native_id
    return lookup


def _listed(found: Sequence[tuple[str, int]], total: int) -> str:
    """How many pixels of how many are meant, and the most frequent values."""
    order = sorted(found, key=lambda entry: -entry[1])
    most = ", ".join(f"{value} ({number:,} pixels)" for value, number in order[:3])
    more = f" and {len(order) - 3:,} more" if len(order) > 3 else ""
    return f"{sum(number for _, number in order):,} of {total:,} pixels: {most}{more}"


def palette_ids(
    palette: Sequence[Color], used: Mapping[int, int], form: LabelFormat, where: str
) -> npt.NDArray[np.uint8] | None:
    """Which native id each index into a palette stands for.

    Programs that make PNG files smaller sort the entries of a palette and number the pixels by the new order: the colours
    stay what they were, the indices do not. Other palettes are there for the eye alone, and the index is the number. Only
    entries that pixels use count, and black only where it is a single entry, for unused entries are black. The rule:

    1. Where no used entry has the colour of another class than that of its index, the index is the number. So it is as
       a set was released, with a palette that is partly filled, and with any palette without the set's colours.
    2. Where one has, the colours decide if the palette is the set's: all used colours are known, or more of them than
       not, and of all colours in the palette no more are unknown than known (unused greys aside: programs fill up with
       them). A wrong shade of a known colour (`SHADE`) counts as that colour here. A used colour that no class has is
       then an error of the file, and so is a colour that stands both at the index of its class and at that of another.
       In any other palette colours are known by chance, and the index is the number.
    3. In a palette of greys alone, (g, g, g) stands for the number g if the set has all those that are used: it is a
       grey image that was given a palette. Black and white alone do not say that, and are refused where it matters; so
       are greys that are all colours of the set, too, of other classes.
    4. Indices that are no numbers of the set are read by their colours if all that are used are known. A set without
       numbers is always read by its colours.

    Args:
        palette: RGB colour of each index, as many as there are.
        used: index → pixels that have it.
        form: colours and numbers of the set.
        where: the file, for the message.

    Returns:
        Native id of each of 256 indices; None where the index is the number.

    Raises:
        UnknownLabelError: the colours decide, and some are unknown.
        DataError: the palette contradicts itself.
    """
    known = _meanings(form)
    color_of = {i: palette[i] for i in used if i < len(palette)}
    unknown = {i for i in used if color_of.get(i) not in known.members}
    if form.numbers == ():
        return _by_color(color_of, used, unknown, known, where)
    meant = {i: known.names[known.numbers[i]] for i in used if i in known.numbers}
    all_numbers = len(meant) == len(used)
    if len(color_of) == len(used) and all(len({*color}) == 1 for color in palette):
        found = _by_grey({i: color[0] for i, color in color_of.items()}, meant, len(palette), known, where)
        if found is not None:
            if not unknown and any(known.names[int(found[i])] not in known.class_names(color_of[i]) for i in used):
                raise DataError(
                    f"{where} has a palette of the grey levels {', '.join(sorted({str(color[0]) for color in color_of.values()}))}, "
                    "which the set has both as numbers and as colours of other classes: save the numbers as a grey image"
                )
            return found

    single_black = sum(color == (0, 0, 0) for color in palette) == 1
    near = {i: color for i, color in zip(color_of, known.near([*color_of.values()]), strict=True) if color is not None}
    evidence = {i for i in near if color_of[i] != (0, 0, 0) or single_black}
    against = {i for i in evidence if not known.agree(i, near[i])}
    if against and not unknown and not all_numbers:
        return _by_color(color_of, used, unknown, known, where)
    if against and _is_of_the_set(palette, color_of, near, evidence, {*used} - near.keys(), known):
        for i in against:
            same = [j for j in evidence - against if color_of[j] == color_of[i]]
            if same and len(known.members[color_of[i]]) == 1:
                raise DataError(
                    f"{where} has a palette that contradicts itself: the indices {same[0]} and {i} are {meant[same[0]]} and "
                    f"{meant.get(i, 'no class')}, and both have the colour {color_of[i]} of {meant[same[0]]}. Mend the "
                    "palette, or save the numbers as a grey image"
                )
        return _by_color(color_of, used, unknown, known, where)
    swapped = {i: (color[2], color[1], color[0]) for i, color in color_of.items()}
    if (
        unknown
        and all(color in known.members for color in swapped.values())
        and not all(known.agree(i, swapped[i]) for i in unknown)
        and _mostly_known([(color[2], color[1], color[0]) for color in palette], swapped.values(), known)
    ):
        return _by_color(color_of, used, unknown, known, where)
    return None


def _is_of_the_set(
    palette: Sequence[Color],
    color_of: Mapping[int, Color],
    near: Mapping[int, Color],
    evidence: set[int],
    strange: set[int],
    known: _Meanings,
) -> bool:
    """Whether a palette has the colours of the set, exactly or nearly, and not some of them by chance."""
    like = {near[i] for i in evidence}
    if len(like) <= len({color_of.get(i) for i in strange}):
        return False
    # A single colour may be near a known one by chance.
    if len(like) == 1 and not any(color_of[i] == near[i] for i in evidence):
        return False
    return _mostly_known(palette, color_of.values(), known)


def _mostly_known(palette: Sequence[Color], used: Iterable[Color], known: _Meanings) -> bool:
    """Whether of the colours in a palette no more are unknown than known; of greys those alone that pixels use."""
    telling = [*{color for color in palette if len({*color}) > 1} | {*used}]
    return 2 * sum(color is not None for color in known.near(telling)) >= len(telling)


@lru_cache(maxsize=256)
def palette_may_decide(palette: tuple[Color, ...], form: LabelFormat) -> bool:
    """Whether `palette_ids` may give anything but the indices, whichever of them pixels use."""
    known = _meanings(form)
    if form.numbers == () or (palette and all(len({*color}) == 1 for color in palette)):
        return True
    for colors in (palette, [(color[2], color[1], color[0]) for color in palette]):
        for i, one in enumerate(known.near(colors)):
            if one not in (None, (0, 0, 0)) and not known.agree(i, one):
                return True
    return (0, 0, 0) in known.members and palette.count((0, 0, 0)) == 1


def grey_ids(used: Mapping[int, int], step: int, form: LabelFormat, where: str) -> npt.NDArray[np.uint8] | None:
    """Which native id each value of a grey image of at most 8 bits stands for.

    Its values are numbers. Where some are none of the set's, but all of its grey levels are, it is an image in colours of
    which all are grey, or was stored with fewer bits, as programs that make PNG files smaller do.

    Args:
        used: value → pixels that have it.
        step: grey level, 0..255, of the value 1; above 1 in images of 1, 2 or 4 bits.
        form: colours and numbers of the set.
        where: the file, for the message.

    Returns:
        Native id of each of 256 values; None where the value is the number.

    Raises:
        UnknownLabelError: the set has only colours, and the image others.
        DataError: value and grey level of an image of few bits are both numbers, and mean something else.
    """
    known = _meanings(form)
    levels: dict[int, Color] = {value: (value * step, value * step, value * step) for value in used}
    unknown = {value for value, level in levels.items() if level not in known.members}
    if form.numbers == ():
        return _by_color(levels, used, unknown, known, where)
    meant = {value: known.names[known.numbers[value]] for value in used if value in known.numbers}
    if step > 1 and all(level[0] in known.numbers for level in levels.values()):
        return _by_grey({value: level[0] for value, level in levels.items()}, meant, 0, known, where)
    if len(meant) < len(used) and not unknown:
        return _by_color(levels, used, unknown, known, where)
    return None


@lru_cache(maxsize=64)
def telling_greys(form: LabelFormat) -> tuple[int, ...]:
    """Grey levels that are colours of a set and none of its numbers: without these, a grey image of 8 bits is numbers."""
    known = _meanings(form)
    return tuple(color[0] for color in known.members if len({*color}) == 1 and color[0] not in known.numbers)


def _by_grey(
    greys: Mapping[int, int], meant: Mapping[int, str], entries: int, known: _Meanings, where: str
) -> npt.NDArray[np.uint8] | None:
    """Native ids by grey levels that are numbers of the set; None where they do not say.

    Args:
        greys: level of each value that is used.
        meant: class of the values that are numbers.
        entries: of the palette; 0 for a grey image of few bits.
        known: what numbers mean.
        where: the file, for the message.
    """
    levels = {*greys.values()}
    if all(i == g for i, g in greys.items()) or len(levels) < len(greys) or not levels <= known.numbers.keys():
        return None
    table = _table({i: known.numbers[g] for i, g in greys.items()})
    if len(meant) < len(greys) or (levels - {0, 255} and entries):
        return table
    # Black and white alone may be chosen for the eye, and few bits are values as a rule.
    by_level = {known.names[known.numbers[g]] for g in levels}
    if (
        levels - {0, 255}
        or entries > 2
        or by_level == {VOID}
        or all(meant[i] == known.names[known.numbers[g]] for i, g in greys.items())
    ):
        return None
    raise DataError(
        f"{where} has {'a palette of' if entries else 'few bits and'} the grey levels {', '.join(map(str, sorted(levels)))} for "
        f"the values {', '.join(map(str, sorted(greys)))}, and the set has both as numbers: save it as a grey image of 8 "
        "bits, with the numbers meant"
    )


def _by_color(
    color_of: Mapping[int, Color], used: Mapping[int, int], unknown: set[int], known: _Meanings, where: str
) -> npt.NDArray[np.uint8]:
    """Native ids by the colours of a palette."""
    if unknown:
        raise _unknown_colors(Counter({color_of.get(i, (0, 0, 0)): used[i] for i in used}), known, where, palette=True)
    several = sorted({color for color in color_of.values() if color not in known.ids})
    if several:
        names = ", ".join(known.class_names(several[0]))
        raise DataError(
            f"{where} has a palette whose indices are not the numbers of the set, and the colour {several[0]} stands for "
            f"several classes ({names}): save the numbers as a grey image"
        )
    return _table({i: known.ids[color] for i, color in color_of.items()})


def _table(ids: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for index, native_id in ids.items():
        table[index] = native_id
    return table


def color_ids(pixels: npt.NDArray[np.uint8], form: LabelFormat, where: str) -> npt.NDArray[np.uint8]:
    """The native ids of a label image of colours, H×W.

    Args:
        pixels: RGB, H×W×3.
        form: what the colours mean.
        where: the file, for the message.

    Raises:
        UnknownLabelError: a pixel has a colour that no class has.
    """
    known = _meanings(form)
    ids = from_colors(pixels, known.ids, unknown=known.free)
    wrong = ids == known.free
    if wrong.any():
        packed = pixels.astype(np.uint32) @ np.array([2**16, 2**8, 1], np.uint32)
        values, counts = np.unique(packed, return_counts=True)
        colors = {
            (int(value) >> 16, int(value) >> 8 & 255, int(value) & 255): int(count)
            for value, count in zip(values, counts, strict=True)
        }
        raise _unknown_colors(Counter(colors), known, where)
    return ids


def _unknown_colors(
    colors: Counter[Color], known: _Meanings, where: str, *, palette: bool = False
) -> UnknownLabelError:
    """The error for an image of which these are all colours, and the pixels of each."""
    unknown = {color: number for color, number in colors.items() if color not in known.ids}
    total = sum(colors.values())
    detail = _listed([(str(color), number) for color, number in unknown.items()], total)
    commonest = max(unknown, key=lambda color: unknown[color])
    near = min(known.ids, key=lambda color: max(abs(a - b) for a, b in zip(color, commonest, strict=True)))
    distance = max(abs(a - b) for a, b in zip(near, commonest, strict=True))
    if all((blue, green, red) in known.ids for red, green, blue in colors):
        remedy = "All are known with red and blue swapped: the channels are in the order BGR; write them as RGB"
    elif not palette and all(len({*color}) == 1 and color[0] in known.numbers for color in colors):
        remedy = "The three channels are equal and hold the set's numbers: keep one of them, as a grey image"
    elif not palette and len(unknown) >= 8 and len(colors) > len(unknown) > len(colors) - len(unknown):
        remedy = (
            "So many shades come from resizing with interpolation or from JPEG: resize labels with nearest neighbour, "
            "and save them as PNG from the start"
        )
    elif distance <= SHADE:
        name = known.names.get(known.ids[near], str(known.ids[near]))
        remedy = f"Nearest to {commonest} is {near}, {name}: colours must be exact"
    else:
        remedy = "Every pixel must have the colour of a class, or of what is void: check that it is a label image of this set"
    return UnknownLabelError("unknown colours", where, detail, remedy)


def from_colors(
    pixels: npt.NDArray[np.uint8], table: Mapping[Color, int], *, unknown: int = IGNORE
) -> npt.NDArray[np.uint8]:
    """The native ids of a label image of colours.

    Args:
        pixels: RGB, H×W×3.
        table: colour → native id, 0..255.
        unknown: what stands for a colour that the table does not have, 0..255; none of its ids.

    Returns:
        Native id of each pixel, H×W, or `unknown`.
    """
    lookup = _color_lookup(tuple(table.items()), unknown)
    packed = np.zeros((*pixels.shape[:2], 4), np.uint8)
    packed[:, :, :3] = pixels
    ids: npt.NDArray[np.uint8] = np.take(lookup, packed.view("<u4")[:, :, 0])
    ids ^= np.uint8(unknown)
    return ids


@lru_cache(maxsize=8)
def _color_lookup(table: tuple[tuple[Color, int], ...], unknown: int) -> npt.NDArray[np.uint8]:
    """The native id of each of the 2^24 colours, such that 0 is `unknown`: zeros take no memory until they are written."""
    lookup = np.zeros(2**24, np.uint8)
    for (red, green, blue), native_id in table:
        lookup[red | green << 8 | blue << 16] = native_id ^ unknown
    return lookup
