"""Label spaces as data: the classes a network tells apart, their colours, and which name of a data set means which.

A data set knows only its own table, native id → native name (`CAMVID`, `IDD_LITE`, `CITYSCAPES_TRAIN_IDS`, ...). A
space knows which native names make up each of its classes. `remap` joins the two, so that a new set or a new merge is
a table, never code. Native ids that a set's table does not know are an error of the file, found by `apply`.

The tables of the data sets stand in `spcnet.label_tables`; how label images encode native ids in `spcnet.data.label_formats`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spcnet.errors import DataError, UsageError, lookup

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
    ("drivable", (128, 64, 128), "road, drivable fallback"),
    ("non-drivable", (244, 35, 232), "sidewalk, pavement, terrain, non-drivable fallback"),
    ("living", (220, 20, 60), "person, rider, pedestrian, bicyclist, animal"),
    ("vehicle", (0, 0, 142), "car, truck, bus, train, motorcycle, bicycle, autorickshaw, vehicle fallback"),
    (
        "roadside",
        (220, 190, 40),
        "wall, fence, pole, traffic light, traffic sign, sign, curb, guard rail, billboard, obs-str-bar-fallback",
    ),
    ("far", (107, 142, 35), "building, vegetation, tree, bridge"),
    ("sky", (70, 130, 180), "sky"),
)
_NONE_OF_19 = "drivable fallback, animal, autorickshaw, vehicle fallback, curb, guard rail, billboard, obs-str-bar-fallback, bridge"

SPACES: dict[str, LabelSpace] = {
    "cityscapes19": LabelSpace(
        "cityscapes19",
        tuple(name for name, _ in _CITYSCAPES),
        tuple(color for _, color in _CITYSCAPES),
        {name: (name, *_SAME_THING.get(name, ())) for name, _ in _CITYSCAPES},
        frozenset(_NONE_OF_19.split(", ")),
    ),
    "idd7": LabelSpace(
        "idd7",
        tuple(name for name, _, _ in _IDD7),
        tuple(color for _, color, _ in _IDD7),
        {name: tuple(dict.fromkeys((name, *members.split(", ")))) for name, _, members in _IDD7},
    ),
}
"""Label space by name."""

VOID = "void"
"""Native name of what is not labelled; in no space."""


def label_space(name: str) -> LabelSpace:
    """The space of that name.

    Raises:
        UsageError: no space has that name.
    """
    return lookup(name, SPACES, "label space")


def known_names(space: LabelSpace) -> list[str]:
    """The native names that a space knows, the ignored ones last."""
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
    classes = bytearray(label).translate(table.tobytes())
    mapped = np.frombuffer(classes, np.uint8).reshape(label.shape)
    if UNKNOWN in classes:
        strange = sorted(int(i) for i in np.unique(label[mapped == UNKNOWN]))
        known = sorted(int(i) for i in np.flatnonzero(table != UNKNOWN))
        raise DataError(
            f"{where} holds the label ids {strange}: this data set has {known}. "
            "Check that the file is a label image of this set and not a colour or instance image"
        )
    return mapped
