"""The label tables of the data sets: native id → native name, and the RGB colours of the ids."""

from collections.abc import Mapping, Sequence

from spcnet.config import Color
from spcnet.labels import IGNORE, SPACES, VOID


def _numbered(names: str) -> dict[int, str]:
    """The ids 0, 1, ... of these names."""
    return dict(enumerate(names.split(", ")))


CITYSCAPES_TRAIN_IDS: dict[int, str] = dict(enumerate(SPACES["cityscapes19"].classes)) | {IGNORE: VOID}
"""The 19 train ids, as in `*_labelTrainIds.png` and in the generated streets."""

CITYSCAPES_IDS: dict[int, str] = {i: VOID for i in (*range(7), 9, 10, 14, 15, 16, 18, 29, 30, IGNORE)} | dict(
    zip(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
        SPACES["cityscapes19"].classes,
        strict=True,
    )
)
"""The native ids of Cityscapes, as in `*_labelIds.png`; the licence plate's -1 is 255 in an 8-bit file."""

GTAV: dict[int, str] = CITYSCAPES_IDS | {34: VOID}
"""GTAV's palette indices: Cityscapes' native ids, with the licence plate at 34."""

GTAV_STATIC: Color = (20, 20, 20)
"""GTAV's colour of static things (id 4), which are black in Cityscapes; its other colours are Cityscapes'."""

CITYSCAPES_COLORS: dict[Color, int] = {
    color: native_id
    for name, color in zip(SPACES["cityscapes19"].classes, SPACES["cityscapes19"].colors, strict=True)
    for native_id, known in CITYSCAPES_IDS.items()
    if known == name
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

SYNTHIA: dict[int, str] = _numbered(
    "void, sky, building, road, sidewalk, fence, vegetation, pole, car, traffic sign, person, bicycle, motorcycle, "
    "void, void, traffic light, terrain, rider, truck, bus, train, wall, void"
)
"""SYNTHIA-RAND-CITYSCAPES' ids."""

CAMVID: dict[int, str] = _numbered(
    "sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist, void"
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

IDD_LEVEL3: dict[int, str] = _numbered(
    "road, drivable fallback, sidewalk, non-drivable fallback, person, rider, motorcycle, bicycle, autorickshaw, "
    "car, truck, bus, vehicle fallback, curb, wall, fence, guard rail, billboard, traffic sign, traffic light, pole, "
    "obs-str-bar-fallback, building, bridge, vegetation, sky"
) | {IGNORE: VOID}
"""IDD's 26 level-3 groups: parking is in drivable, rail tracks in non-drivable fallback, animals are in person, trains,
caravans and trailers in vehicle fallback, tunnels in bridge, the fallback background in sky."""

IDD_LITE: dict[int, str] = dict(enumerate(SPACES["idd7"].classes)) | {IGNORE: VOID}
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

_MAPILLARY_V12: tuple[tuple[str, Color], ...] = (
    ("animal--bird", (165, 42, 42)),
    ("animal--ground-animal", (0, 192, 0)),
    ("construction--barrier--curb", (196, 196, 196)),
    ("construction--barrier--fence", (190, 153, 153)),
    ("construction--barrier--guard-rail", (180, 165, 180)),
    ("construction--barrier--other-barrier", (90, 120, 150)),
    ("construction--barrier--wall", (102, 102, 156)),
    ("construction--flat--bike-lane", (128, 64, 255)),
    ("construction--flat--crosswalk-plain", (140, 140, 200)),
    ("construction--flat--curb-cut", (170, 170, 170)),
    ("construction--flat--parking", (250, 170, 160)),
    ("construction--flat--pedestrian-area", (96, 96, 96)),
    ("construction--flat--rail-track", (230, 150, 140)),
    ("construction--flat--road", (128, 64, 128)),
    ("construction--flat--service-lane", (110, 110, 110)),
    ("construction--flat--sidewalk", (244, 35, 232)),
    ("construction--structure--bridge", (150, 100, 100)),
    ("construction--structure--building", (70, 70, 70)),
    ("construction--structure--tunnel", (150, 120, 90)),
    ("human--person", (220, 20, 60)),
    ("human--rider--bicyclist", (255, 0, 0)),
    ("human--rider--motorcyclist", (255, 0, 100)),
    ("human--rider--other-rider", (255, 0, 200)),
    ("marking--crosswalk-zebra", (200, 128, 128)),
    ("marking--general", (255, 255, 255)),
    ("nature--mountain", (64, 170, 64)),
    ("nature--sand", (230, 160, 50)),
    ("nature--sky", (70, 130, 180)),
    ("nature--snow", (190, 255, 255)),
    ("nature--terrain", (152, 251, 152)),
    ("nature--vegetation", (107, 142, 35)),
    ("nature--water", (0, 170, 30)),
    ("object--banner", (255, 255, 128)),
    ("object--bench", (250, 0, 30)),
    ("object--bike-rack", (100, 140, 180)),
    ("object--billboard", (220, 220, 220)),
    ("object--catch-basin", (220, 128, 128)),
    ("object--cctv-camera", (222, 40, 40)),
    ("object--fire-hydrant", (100, 170, 30)),
    ("object--junction-box", (40, 40, 40)),
    ("object--mailbox", (33, 33, 33)),
    ("object--manhole", (100, 128, 160)),
    ("object--phone-booth", (142, 0, 0)),
    ("object--pothole", (70, 100, 150)),
    ("object--street-light", (210, 170, 100)),
    ("object--support--pole", (153, 153, 153)),
    ("object--support--traffic-sign-frame", (128, 128, 128)),
    ("object--support--utility-pole", (0, 0, 80)),
    ("object--traffic-light", (250, 170, 30)),
    ("object--traffic-sign--back", (192, 192, 192)),
    ("object--traffic-sign--front", (220, 220, 0)),
    ("object--trash-can", (140, 140, 20)),
    ("object--vehicle--bicycle", (119, 11, 32)),
    ("object--vehicle--boat", (150, 0, 255)),
    ("object--vehicle--bus", (0, 60, 100)),
    ("object--vehicle--car", (0, 0, 142)),
    ("object--vehicle--caravan", (0, 0, 90)),
    ("object--vehicle--motorcycle", (0, 0, 230)),
    ("object--vehicle--on-rails", (0, 80, 100)),
    ("object--vehicle--other-vehicle", (128, 64, 64)),
    ("object--vehicle--trailer", (0, 0, 110)),
    ("object--vehicle--truck", (0, 0, 70)),
    ("object--vehicle--wheeled-slow", (0, 0, 192)),
    ("void--car-mount", (32, 32, 32)),
    ("void--ego-vehicle", (120, 10, 10)),
    ("void--unlabeled", (0, 0, 0)),
)
MAPILLARY_V12: tuple[str, ...] = tuple(name for name, _ in _MAPILLARY_V12)
"""Mapillary Vistas' own names of its ids, version 1.2."""

MAPILLARY_V12_COLORS: tuple[Color, ...] = tuple(color for _, color in _MAPILLARY_V12)
"""RGB colour of each of Mapillary Vistas' ids, version 1.2."""

# What a name means, for both versions. What Cityscapes' classes leave out keeps its group where that is certain.
_MAPILLARY: dict[str, str] = {
    "road": (
        "construction--flat--road marking--general marking--continuous--dashed marking--continuous--solid "
        "marking--continuous--zigzag marking--discrete--ambiguous marking--discrete--arrow--left "
        "marking--discrete--arrow--other marking--discrete--arrow--right "
        "marking--discrete--arrow--split-left-or-straight marking--discrete--arrow--split-right-or-straight "
        "marking--discrete--arrow--straight marking--discrete--give-way-row marking--discrete--give-way-single "
        "marking--discrete--hatched--chevron marking--discrete--hatched--diagonal marking--discrete--other-marking "
        "marking--discrete--stop-line marking--discrete--symbol--bicycle marking--discrete--symbol--other "
        "marking--discrete--text marking-only--continuous--dashed marking-only--discrete--other-marking "
        "marking-only--discrete--text object--manhole"
    ),
    "sidewalk": "construction--barrier--curb construction--flat--sidewalk",
    "building": "construction--structure--building",
    "wall": "construction--barrier--wall",
    "fence": "construction--barrier--fence",
    "pole": "object--support--pole object--support--utility-pole",
    "traffic light": (
        "object--traffic-light object--traffic-light--cyclists object--traffic-light--general-horizontal "
        "object--traffic-light--general-single object--traffic-light--general-upright object--traffic-light--other "
        "object--traffic-light--pedestrians"
    ),
    "traffic sign": (
        "object--traffic-sign--front object--traffic-sign--direction-front object--traffic-sign--information-parking "
        "object--traffic-sign--temporary-front"
    ),
    "vegetation": "nature--vegetation",
    "terrain": "nature--terrain",
    "sky": "nature--sky",
    "person": "human--person human--person--individual human--person--person-group",
    "rider": "human--rider--bicyclist human--rider--motorcyclist human--rider--other-rider",
    "car": "object--vehicle--car",
    "truck": "object--vehicle--truck",
    "bus": "object--vehicle--bus",
    "train": "object--vehicle--on-rails",
    "motorcycle": "object--vehicle--motorcycle",
    "bicycle": "object--vehicle--bicycle",
    "animal": "animal--bird animal--ground-animal",
    "drivable fallback": (
        "construction--flat--bike-lane construction--flat--crosswalk-plain construction--flat--parking "
        "construction--flat--parking-aisle construction--flat--service-lane marking--crosswalk-zebra "
        "marking--discrete--crosswalk-zebra marking-only--discrete--crosswalk-zebra object--catch-basin "
        "object--pothole"
    ),
    "vehicle fallback": (
        "object--vehicle--caravan object--vehicle--other-vehicle object--vehicle--trailer "
        "object--vehicle--vehicle-group object--vehicle--wheeled-slow"
    ),
    "guard rail": "construction--barrier--guard-rail",
    "billboard": (
        "object--billboard object--sign--advertisement object--sign--ambiguous object--sign--back "
        "object--sign--information object--sign--other object--sign--store"
    ),
    "bridge": "construction--structure--bridge construction--structure--tunnel",
    "obs-str-bar-fallback": (
        "construction--barrier--ambiguous construction--barrier--concrete-block construction--barrier--other-barrier "
        "construction--barrier--road-median construction--barrier--road-side construction--barrier--separator "
        "construction--barrier--temporary object--banner object--bench object--bike-rack object--cctv-camera "
        "object--fire-hydrant object--junction-box object--mailbox object--parking-meter object--phone-booth "
        "object--street-light object--support--pole-group object--support--traffic-sign-frame object--traffic-cone "
        "object--traffic-sign--ambiguous object--traffic-sign--back object--traffic-sign--direction-back "
        "object--traffic-sign--temporary-back object--trash-can object--water-valve"
    ),
    VOID: (
        "construction--flat--curb-cut construction--flat--driveway construction--flat--pedestrian-area "
        "construction--flat--rail-track construction--flat--road-shoulder construction--flat--traffic-island "
        "construction--structure--garage nature--mountain nature--sand nature--snow nature--water "
        "object--vehicle--boat void--car-mount void--dynamic void--ego-vehicle void--ground void--static "
        "void--unlabeled"
    ),
}

_MAPILLARY_REIN: dict[str, str] = {
    "road": (
        "construction--flat--bike-lane construction--flat--crosswalk-plain construction--flat--parking "
        "construction--flat--parking-aisle construction--flat--service-lane marking--crosswalk-zebra "
        "marking--discrete--crosswalk-zebra marking-only--discrete--crosswalk-zebra"
    ),
    "sidewalk": "construction--flat--curb-cut construction--flat--pedestrian-area",
    "pole": "object--street-light object--support--pole-group",
    "traffic sign": (
        "object--support--traffic-sign-frame object--traffic-sign--ambiguous object--traffic-sign--back "
        "object--traffic-sign--direction-back object--traffic-sign--temporary-back"
    ),
    "drivable fallback": "object--manhole",
}

MAPILLARY_V20: tuple[str, ...] = tuple(
    sorted(
        {name for names in _MAPILLARY.values() for name in names.split()}
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


def cityscapes_colors(table: Mapping[int, str]) -> tuple[tuple[Color, int], ...]:
    """The colours of Cityscapes' label images, for a table that names its 19 classes, and the table's ids."""
    names = {color: CITYSCAPES_IDS[official] for color, official in CITYSCAPES_COLORS.items()}
    known = [
        (color, native_id)
        for color, name in names.items()
        for native_id, known_name in table.items()
        if known_name == name
    ]
    void = [native_id for native_id, name in table.items() if name == VOID]
    if table == GTAV:
        known.append((GTAV_STATIC, 4))
    for color, official in CITYSCAPES_VOID_COLORS.items():
        # Among train ids there is one for all of them; the licence plate's is 34 or 255.
        ids = [official] if official in void else [i for i in void if i > 33] or void
        known += [(color, native_id) for native_id in ids]
    return tuple(known)


def mapillary(names: Sequence[str], *, rein: bool = False) -> dict[int, str]:
    """The label table of Mapillary Vistas.

    Args:
        names: what its configuration calls the ids 0, 1, ...; `MAPILLARY_V12` for version 1.2.
        rein: the classes that Rein and openseg take its names for (more of them road, sidewalk, pole and sign; manholes
            not) instead of those that RobustNet and SPC-Net do.

    Raises:
        KeyError: neither version has such a name.
    """
    meaning = {name: group for group, names in _MAPILLARY.items() for name in names.split()}
    if rein:
        meaning |= {name: group for group, names in _MAPILLARY_REIN.items() for name in names.split()}
    return {native_id: meaning[name] for native_id, name in enumerate(names)}
