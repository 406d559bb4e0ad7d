"""Data sets that the user describes in `data.sets`, as entries of the catalogue."""

import re

from spcnet.config import OwnSet
from spcnet.data.label_formats import LabelFormat
from spcnet.data.layouts import DatasetInfo, Layout
from spcnet.errors import UsageError


def own_dataset(name: str, entry: OwnSet) -> DatasetInfo:
    """A user's own set as one of the catalogue's."""
    photos = _stars(name, entry.images)
    for pattern in entry.label_patterns:
        if _stars(name, pattern) != photos:
            what = f"data.sets.{name}: images is {entry.images!r} and labels is {pattern!r}"
            raise UsageError(f"{what}: the stars of both must be the same ones in the same order")
    first, *more = entry.label_patterns
    form = own_format(name, entry)
    return DatasetInfo(
        title=name,
        summary="a data set of your own",
        reference="your own",
        native=dict(form.names),
        splits=tuple(entry.splits),
        test_split=entry.splits[-1],
        layouts=(Layout("yours", (entry.images,), first, dict(form.names), format=form, more_labels=tuple(more)),),
    )


def _stars(name: str, pattern: str) -> list[str]:
    """The stars of a pattern of a user's own set: `*` and `**/`."""
    stars = ["**/" if star == "**/" else star.rstrip("/") for star in re.findall(r"\*+/?", pattern)]
    if any(star not in ("*", "**/") for star in stars):
        raise UsageError(f"data.sets.{name}: the pattern {pattern!r} has other stars than * and **/")
    return stars


def own_format(name: str, entry: OwnSet) -> LabelFormat:
    """What the numbers and colours in the label images of a user's own set stand for.

    Native ids are the numbers where none is above 255; what they do not name, and larger ones, gets ids of its entry.

    Raises:
        UsageError: it has more classes than there are ids.
    """
    colors = entry.color_table
    names = {number: known for number, known in entry.table.items() if number <= 255}
    more = [known for number, known in entry.table.items() if number > 255]
    more += [known for known in colors.values() if known not in entry.table.values()]
    free = (native_id for native_id in range(256) if native_id not in names)
    for known in dict.fromkeys(more):
        native_id = next(free, None)
        if native_id is None:
            raise UsageError(f"data.sets.{name} has more than 256 classes: give some of them the same name")
        names[native_id] = known
    id_of = {known: native_id for native_id, known in reversed(names.items())}
    numbers = tuple((number, number if number <= 255 else id_of[known]) for number, known in entry.table.items())
    return LabelFormat(
        tuple(names.items()),
        tuple((color, id_of[known]) for color, known in colors.items()),
        None if len(names) == len(entry.table) and all(number <= 255 for number in entry.table) else numbers,
    )
