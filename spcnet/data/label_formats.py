"""How the label images of a set encode the native id of each pixel: as a number, as a colour, or as a palette index.

`LabelFormat` describes the encoding of a set; `palette_ids` states the rule for palettes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from spcnet.config import Color
from spcnet.errors import DataError
from spcnet.labels import IGNORE, UNKNOWN, VOID, apply

SHADE = 8
"""How far each channel of a colour may be from a class's for it to be taken for a wrong shade of that colour."""


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
    """How the label images of a set encode the native id of each pixel."""

    names: tuple[tuple[int, str], ...] = ()
    """Native id and native name of all that the set tells apart; empty where the ids are unknown."""
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
        """The format of a set whose numbers are its native ids, with a table of names and the colours of some ids."""
        return cls(tuple(table.items()), tuple(colors), wide=wide)


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

    def mostly_known(self, palette: Sequence[Color], used: Iterable[Color]) -> bool:
        """Whether of the colours in a palette no more are unknown than known; of greys only the used ones count."""
        colors = [*{color for color in palette if not _is_grey(color)} | {*used}]
        return 2 * sum(color is not None for color in self.near(colors)) >= len(colors)

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


def check_ids(label: npt.NDArray[np.uint8], form: "LabelFormat", where: str) -> None:
    """Refuse a label image (H×W) with native ids that its set does not have.

    Raises:
        DataError: it has one.
    """
    if form.names:
        table = np.full(256, UNKNOWN, dtype=np.uint8)
        table[[native_id for native_id, _ in form.names]] = IGNORE
        apply(table, label, where)


def from_numbers(pixels: npt.NDArray[np.integer], form: LabelFormat, where: str) -> npt.NDArray[np.uint8]:
    """The native ids of a label image of numbers, H×W, of any kind of integers.

    Raises:
        UnknownLabelError: a number is above 255, or not one that the format lists.
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
        ids: npt.NDArray[np.int16] = lookup[inside]
        unknown = (ids < 0) | (inside != pixels)
        if not unknown.any():
            return ids.astype(np.uint8)
    numbers, counts = (column.tolist() for column in np.unique(pixels[unknown], return_counts=True))
    listed = [int(number) for number, _ in form.numbers or form.names]
    scaled = pixels.dtype != np.uint8 and not (pixels % 257).any() and {*np.unique(pixels // 257).tolist()} <= {*listed}
    remedy = f"This data set has {', '.join(map(str, sorted(listed))) or 'ids 0 to 255'}"
    if scaled:
        remedy = "All are multiples of 257: the ids were stretched from 8 to 16 bits; divide them by 257"
    detail = _listed([*zip(map(str, numbers), counts, strict=True)], pixels.size)
    raise UnknownLabelError("unknown ids", where, detail, remedy)


@lru_cache(maxsize=8)
def _number_lookup(numbers: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int16]:
    """The native id of each number 0..65535, -1 for one without."""
    lookup = np.full(65536, -1, np.int16)
    for number, native_id in numbers:
        lookup[number] = native_id
    return lookup


def _listed(values: Sequence[tuple[str, int]], total: int) -> str:
    """How many of all pixels have these values, and the most frequent values."""
    order = sorted(values, key=lambda entry: -entry[1])
    most = ", ".join(f"{value} ({number:,} pixels)" for value, number in order[:3])
    more = f" and {len(order) - 3:,} more" if len(order) > 3 else ""
    return f"{sum(number for _, number in order):,} of {total:,} pixels: {most}{more}"


@dataclass(frozen=True)
class _Used:
    """The values in a label image of one channel, and the colours that they are shown in."""

    color_of: Mapping[int, Color]
    """Colour of each value; none for an index beyond the palette."""
    pixels: Mapping[int, int]
    """Value → pixels that have it."""
    known: _Meanings
    where: str

    @cached_property
    def unknown(self) -> set[int]:
        """Values whose colour the set does not have."""
        return {value for value in self.pixels if self.color_of.get(value) not in self.known.members}

    @cached_property
    def class_of(self) -> dict[int, str]:
        """Class of each value that is a number of the set."""
        return {i: self.known.names[self.known.numbers[i]] for i in self.pixels if i in self.known.numbers}

    def by_color(self) -> npt.NDArray[np.uint8]:
        """Native id of each of 256 values, by their colours; refuses a colour that is unknown, or of several classes."""
        known, where = self.known, self.where
        if self.unknown:
            colors = Counter({self.color_of.get(i, (0, 0, 0)): pixels for i, pixels in self.pixels.items()})
            raise _unknown_colors(colors, known, where, palette=True)
        several = sorted({color for color in self.color_of.values() if color not in known.ids})
        if several:
            what = f"the colour {several[0]} stands for several classes ({', '.join(known.class_names(several[0]))})"
            problem = f"{where} has a palette whose indices are not the numbers of the set, and {what}"
            raise DataError(f"{problem}: save the numbers as a grey image")
        return _table({i: known.ids[color] for i, color in self.color_of.items()})

    def by_grey(self, entries: int) -> npt.NDArray[np.uint8] | None:
        """Native id of each of 256 values, by their grey levels as numbers of the set; None where they do not decide.

        `entries` are the palette's, 0 for a grey image of few bits. Refuses values and levels that mean different classes.
        """
        numbers, names = self.known.numbers, self.known.names
        greys = {i: color[0] for i, color in self.color_of.items()}
        levels = {*greys.values()}
        if all(i == g for i, g in greys.items()) or len(levels) < len(greys) or not levels <= numbers.keys():
            return None
        if len(self.class_of) < len(greys) or (levels - {0, 255} and entries):
            return _table({i: numbers[g] for i, g in greys.items()})
        # Black and white alone may be chosen for the eye, and few bits are values as a rule.
        by_level = {i: names[numbers[g]] for i, g in greys.items()}
        if levels - {0, 255} or entries > 2 or {*by_level.values()} == {VOID} or by_level == self.class_of:
            return None
        shown, values = (", ".join(map(str, sorted(numbers))) for numbers in (levels, greys))
        what = f"{'a palette of' if entries else 'few bits and'} the grey levels {shown} for the values {values}"
        remedy = "save it as a grey image of 8 bits, with the numbers meant"
        raise DataError(f"{self.where} has {what}, and the set has both as numbers: {remedy}")

    def check_greys(self, table: npt.NDArray[np.uint8]) -> None:
        """Refuse greys that are numbers of the set by a table and colours of other classes, too."""
        known = self.known
        if not self.unknown and any(
            known.names[int(table[i])] not in known.class_names(self.color_of[i]) for i in self.pixels
        ):
            levels = ", ".join(sorted({str(color[0]) for color in self.color_of.values()}))
            what = "which the set has both as numbers and as colours of other classes: save the numbers as a grey image"
            raise DataError(f"{self.where} has a palette of the grey levels {levels}, {what}")

    def colors_decide(self, palette: Sequence[Color]) -> bool:
        """Whether the colours of a palette say the class and not the indices (`palette_ids`); refuses a contradiction."""
        known, color_of = self.known, self.color_of
        single_black = sum(color == (0, 0, 0) for color in palette) == 1
        nearest = zip(color_of, known.near([*color_of.values()]), strict=True)
        near = {i: color for i, color in nearest if color is not None}
        evidence = {i for i in near if color_of[i] != (0, 0, 0) or single_black}
        against = {i for i in evidence if not known.agree(i, near[i])}
        if against and not self.unknown and len(self.class_of) < len(self.pixels):
            return True
        if against and self._is_of_the_set(palette, near, evidence):
            for i in against:
                same = [j for j in evidence - against if color_of[j] == color_of[i]]
                if same and len(known.members[color_of[i]]) == 1:
                    names, j = self.class_of, same[0]
                    what = f"the indices {j} and {i} are {names[j]} and {names.get(i, 'no class')}"
                    problem = f"{what}, and both have the colour {color_of[i]} of {names[j]}"
                    remedy = "Correct the palette, or save the numbers as a grey image"
                    raise DataError(f"{self.where} has a palette that contradicts itself: {problem}. {remedy}")
            return True
        swapped = {i: _swapped(color) for i, color in color_of.items()}
        return (
            bool(self.unknown)
            and all(color in known.members for color in swapped.values())
            and not all(known.agree(i, swapped[i]) for i in self.unknown)
            and known.mostly_known([*map(_swapped, palette)], swapped.values())
        )

    def _is_of_the_set(self, palette: Sequence[Color], near: Mapping[int, Color], evidence: set[int]) -> bool:
        """Whether a palette has the colours of the set, exactly or nearly, and not some of them by chance."""
        like = {near[i] for i in evidence}
        if len(like) <= len({self.color_of.get(i) for i in self.pixels if i not in near}):
            return False
        # A single colour may be near a known one by chance.
        if len(like) == 1 and not any(self.color_of[i] == near[i] for i in evidence):
            return False
        return self.known.mostly_known(palette, self.color_of.values())


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
    values = _Used({i: palette[i] for i in used if i < len(palette)}, used, _meanings(form), where)
    if form.numbers == ():
        return values.by_color()
    if len(values.color_of) == len(used) and all(map(_is_grey, palette)):
        table = values.by_grey(len(palette))
        if table is not None:
            values.check_greys(table)
            return table
    return values.by_color() if values.colors_decide(palette) else None


@lru_cache(maxsize=256)
def palette_may_decide(palette: tuple[Color, ...], form: LabelFormat) -> bool:
    """Whether `palette_ids` may give anything but the indices, whichever of them pixels use."""
    known = _meanings(form)
    if form.numbers == () or (palette and all(map(_is_grey, palette))):
        return True
    for colors in (palette, [*map(_swapped, palette)]):
        for i, one in enumerate(known.near(colors)):
            if one not in (None, (0, 0, 0)) and not known.agree(i, one):
                return True
    return (0, 0, 0) in known.members and palette.count((0, 0, 0)) == 1


def grey_ids(used: Mapping[int, int], step: int, form: LabelFormat, where: str) -> npt.NDArray[np.uint8] | None:
    """Which native id each value of a grey image of at most 8 bits stands for.

    Its values are numbers. Where the set does not have some of them, but has all of its grey levels, it is an image in colours of
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
        DataError: value and grey level of an image of few bits are both numbers, and mean different classes.
    """
    known = _meanings(form)
    values = _Used({value: (value * step, value * step, value * step) for value in used}, used, known, where)
    if form.numbers == ():
        return values.by_color()
    if step > 1 and all(value * step in known.numbers for value in used):
        return values.by_grey(0)
    return values.by_color() if len(values.class_of) < len(used) and not values.unknown else None


@lru_cache(maxsize=64)
def telling_greys(form: LabelFormat) -> tuple[int, ...]:
    """Grey levels that are colours of a set and none of its numbers: without these, a grey image of 8 bits is numbers."""
    known = _meanings(form)
    return tuple(color[0] for color in known.members if _is_grey(color) and color[0] not in known.numbers)


def _distance(one: Color, other: Color) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _is_grey(color: Color) -> bool:
    return len({*color}) == 1


def _swapped(color: Color) -> Color:
    """A colour with red and blue swapped."""
    return color[2], color[1], color[0]


def _table(ids: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[[*ids]] = [*ids.values()]
    return table


def color_ids(pixels: npt.NDArray[np.uint8], form: LabelFormat, where: str) -> npt.NDArray[np.uint8]:
    """The native ids, H×W, of a label image of colours (RGB, H×W×3).

    Raises:
        UnknownLabelError: a pixel has a colour that no class has.
    """
    known = _meanings(form)
    ids = from_colors(pixels, known.ids, unknown=known.free)
    if (ids == known.free).any():
        packed = pixels.astype(np.uint32) @ np.array([2**16, 2**8, 1], np.uint32)
        colors, counts = (column.tolist() for column in np.unique(packed, return_counts=True))
        rgb = [(color >> 16, color >> 8 & 255, color & 255) for color in colors]
        raise _unknown_colors(Counter(dict(zip(rgb, counts, strict=True))), known, where)
    return ids


def _unknown_colors(
    colors: Counter[Color], known: _Meanings, where: str, *, palette: bool = False
) -> UnknownLabelError:
    """The error for an image with these colours, and the pixels of each."""
    unknown = {color: pixels for color, pixels in colors.items() if color not in known.ids}
    detail = _listed([(str(color), pixels) for color, pixels in unknown.items()], sum(colors.values()))
    commonest = max(unknown, key=lambda color: unknown[color])
    near = min(known.ids, key=lambda color: _distance(color, commonest))
    if all(_swapped(color) in known.ids for color in colors):
        remedy = "All are known with red and blue swapped: the channels are in the order BGR; write them as RGB"
    elif not palette and all(_is_grey(color) and color[0] in known.numbers for color in colors):
        remedy = "The three channels are equal and hold the set's numbers: keep one of them, as a grey image"
    elif not palette and len(unknown) >= 8 and len(colors) > len(unknown) > len(colors) - len(unknown):
        remedy = (
            "So many shades come from resizing with interpolation or from JPEG: resize labels with nearest neighbour, "
            "and save them as PNG from the start"
        )
    elif _distance(near, commonest) <= SHADE:
        name = known.names.get(known.ids[near], str(known.ids[near]))
        remedy = f"Nearest to {commonest} is {near}, {name}: colours must be exact"
    else:
        remedy = "Every pixel must have the colour of a class, or of void: check that it is a label image of this set"
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
