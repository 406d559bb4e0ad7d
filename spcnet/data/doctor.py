"""Checking every file of a data set: what is missing, what is broken, and what the labels hold.

`check` reads each photo and each label once, in several processes, and returns a `CheckReport`: for a person as
tables, for a program as JSON, and as a list of images that training and evaluation may leave out (`data.exclude`).
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spcnet import labels
from spcnet.config import DataConfig
from spcnet.data.check_report import CheckReport, ClassCount, Kind, Problem, Remark, RemarkKind, SplitCount
from spcnet.data.exclude import Excluded
from spcnet.data.folders import Listing, Pair, SetFolder
from spcnet.data.image_faults import fault
from spcnet.data.images import Geometry, geometry_of, read_photo, size_misfit
from spcnet.data.label_formats import LabelFormat, UnknownLabelError
from spcnet.data.label_images import read_label
from spcnet.data.layouts import Table
from spcnet.data.missing import PassedOver
from spcnet.data.parallel import in_processes
from spcnet.data.roots import MARKER, old_copy
from spcnet.errors import DataError
from spcnet.labels import IGNORE, VOID, LabelSpace

EXPECTED: dict[str, dict[str, tuple[int, ...]]] = {
    "camvid": {"train": (367,), "val": (101,), "test": (233,)},
    "idd_lite": {"train": (1403,), "val": (204,)},
    "gtav": {"train": (12388,), "val": (6382,), "test": (6181,), "full": (24966,)},
    "synthia": {"train": (6580,), "val": (2820,), "full": (9400,)},
    "bdd100k": {"train": (7000,), "val": (1000,)},
    "idd": {"val": (981, 2036)},
    "acdc": {"train": (1600,), "val": (406,)},
    "dark_zurich": {"val": (50,)},
    "nighttime_driving": {"test": (50,)},
    "kitti": {"train": (200,)},
    "cityscapes": {"train": (2975,), "val": (500,)},
    "mapillary": {"train": (18000,), "val": (2000,)},
    "mapillary_rein": {"train": (18000,), "val": (2000,)},
    "urbansyn": {"full": (7539,)},
    "wilddash2": {"full": (4256,)},
}
"""Images of each split, as the sets' authors published them; of IDD part I alone, or both parts. Of a set or split that is
not here the number is not known, and none is expected."""


_SAME_COLOUR = 2
"""By how much the pixels of a photo of a single colour may differ: a JPEG does not keep them exactly."""


def check(
    name: str,
    root: Path,
    *,
    split: str | None = None,
    space: str | None = None,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    data: DataConfig | None = None,
) -> CheckReport:
    """Read every photo and every label image of a data set.

    Args:
        name: a set that lies on disk, or one of `data.sets`.
        root: its folder.
        split: one of its splits; all that are there if not given.
        space: count the pixels of this label space's classes, too.
        workers: processes that read; with 0 the calling one does.
        on_progress: called with the number of images that are read, and of all.
        data: the user's own sets, and the files that name images to leave out.

    Raises:
        UsageError: the set is generated, or the split or space is unknown or the set too coarse for the space.
        DataError: there are no images of the set in that folder, or a list of images to leave out cannot be read.
    """
    label_space = None if space is None else labels.label_space(space)
    started = time.perf_counter()
    folder, excluded = SetFolder(name, root, data), Excluded(name, root, data)
    splits = folder.list_splits(None if split is None else [split])
    tally = _Tally(folder, [one.table for listings in splits.values() for one in listings], label_space)
    files = _Files(folder, excluded)
    for part, listings in splits.items():
        files.add(part, listings)
    for part in folder.info.splits if split is None else ():
        if part not in splits:
            files.unused |= {one.path: one for one in folder.pictures_of_missing_split(part)}
    for path in files.photos:  # a file may be another split's photo
        files.unused.pop(path, None)
    items = list(files.pairs.values())
    with closing(in_processes(_examine, items, workers=workers, on_progress=on_progress)) as results:
        for item, result in zip(items, results, strict=True):
            tally.add(item, result)
    return CheckReport(
        name=name,
        root=str(root),
        splits=tuple(files.counts),
        images=len(items),
        native=tuple(sorted(tally.native.counts(), key=lambda count: -count.pixels)),
        space=space,
        classes=tally.space.counts(),
        sizes=dict(tally.sizes.most_common()),
        # What is in several splits is reported once.
        problems=tuple(dict.fromkeys((*files.problems, *tally.problems))),
        seconds=time.perf_counter() - started,
        left_out=len(files.left_out),
        remarks=(*([Remark("old copy", MARKER, message)] if (message := old_copy(root, name)) else []), *tally.remarks),
        passed_over=dict(Counter(one.what for one in files.unused.values()).most_common()),
        notes=tuple(dict.fromkeys((*files.notes, *excluded.remarks()))),
    )


class _Files:
    """The files of all splits, and what is wrong with their names."""

    def __init__(self, folder: SetFolder, excluded: Excluded) -> None:
        self.folder, self.excluded = folder, excluded
        self.pairs: dict[Path, _Work] = {}
        """The pairs to read, by photo."""
        self.photos: set[Path] = set()
        """All photos, with a label or without."""
        self.left_out: set[Path] = set()
        """Photos that `data.exclude` names."""
        self.unused: dict[Path, PassedOver] = {}
        self.problems: list[Problem] = []
        self.counts: list[SplitCount] = []
        self.notes: list[str] = []

    def add(self, split: str, listings: Sequence[Listing]) -> None:
        """Count what lies in the folders of a split."""
        below = self.folder.below
        whole, bare = 0, list[Pair]()
        for listing in listings:
            for pair in (*listing.pairs, *listing.bare):
                whole += 1
                self.photos.add(pair.image)
                if below(pair.image) in self.excluded:
                    self.left_out.add(pair.image)
            bare += [pair for pair in listing.bare if pair.image not in self.left_out]
            for pair in listing.pairs:
                if pair.image not in self.left_out:
                    self.pairs.setdefault(pair.image, _Work(pair, listing.table, listing.form))
            self.unused |= {one.path: one for one in listing.passed_over}
        orphans = [path for listing in listings for path in listing.orphans]
        expected = EXPECTED.get(self.folder.name, {}).get(split, ())
        pairs = sum(len(listing.pairs) for listing in listings)
        self.counts.append(SplitCount(split, pairs, expected, len(bare), len(orphans)))
        if expected and whole not in expected:
            published = " or ".join(f"{n:,}" for n in expected)
            self.problems.append(Problem("incomplete", split, f"{whole:,} images, of {published} that were published"))
        self.problems += [Problem("no label", below(pair.image), f"{below(pair.label)} is missing") for pair in bare]
        self.problems += [Problem("no photo", below(path), "its photo is missing") for path in orphans]
        self.problems += [
            Problem("two spellings", below(twins.other), f"{below(twins.used)} is used instead")
            for listing in listings
            for twins in listing.twins
        ]
        self.notes += [listing.remedy for listing in listings if listing.remedy and bare]


class _Work(NamedTuple):
    """One image to read."""

    pair: Pair
    table: Table
    """What the ids in its label mean."""
    form: LabelFormat
    """How its label says the ids."""


@dataclass
class _Result:
    """What was seen of one image and its label."""

    size: tuple[int, int] | None = None
    """Height and width of the photo, where it can be read."""
    digest: bytes = b""
    """Of the photo's file."""
    pixels: Mapping[int, int] = field(default_factory=dict)
    """Native id → pixels that have it."""
    problems: list[tuple[Kind, str]] = field(default_factory=list)
    remarks: list[tuple[RemarkKind, str]] = field(default_factory=list)


def _examine(work: _Work) -> _Result:
    result, pair = _Result(), work.pair
    geometry = None
    try:
        photo = read_photo(pair.image)
        geometry, result.size = photo.geometry, photo.geometry.size
        if photo.see_through:
            result.remarks.append(("not opaque", f"{max(photo.see_through, 0.0001):.2%} of its pixels are not opaque"))
        result.digest = hashlib.blake2b(pair.image.read_bytes(), digest_size=16).digest()
        if _is_of_one_colour(photo.pixels):
            result.problems.append(("single colour", f"it is {tuple(photo.pixels[0, 0].tolist())} all over"))
        if damage := fault(pair.image):
            result.problems.append(("damaged", damage))
    except (DataError, OSError) as error:
        result.problems.append(("unreadable", str(error)))
    try:
        _examine_label(work, geometry, result)
    except UnknownLabelError as error:
        result.problems.append((error.kind, f"{pair.label.name} has {error.detail}. {error.remedy}"))
    except DataError as error:
        result.problems.append(("unreadable", str(error)))
    return result


def _examine_label(work: _Work, photo: Geometry | None, result: _Result) -> None:
    """Read a label image and note what is wrong with it."""
    path = work.pair.label
    label, geometry = read_label(path, work.form, photo=photo), geometry_of(path)
    if photo is not None and photo.orientation != 1:
        along = geometry.orientation == 1 and geometry.size != photo.size and label.shape == photo.size
        place = "is turned along with it" if along else "is taken to lie on the upright photo"
        result.remarks.append(("turned by EXIF", f"it is {photo}; its label {place}"))
    if geometry.orientation != 1:
        result.remarks.append(("label turned by EXIF", f"the label {path.name} is {geometry}"))
    if damage := fault(path):
        result.problems.append(("damaged", f"the label {path.name}: {damage}"))
    if photo is not None and (misfit := size_misfit(photo, label.shape)):
        result.problems.append(("sizes differ", misfit))
    counts = np.bincount(label.reshape(-1), minlength=256)
    result.pixels = {int(i): int(counts[i]) for i in np.flatnonzero(counts)}
    unknown = [f"{i} ({n:,} pixels)" for i, n in result.pixels.items() if i not in work.table]
    if unknown:
        result.problems.append(("unknown ids", f"{path.name} has {', '.join(unknown)}"))
    elif all(work.table[i] == VOID for i in result.pixels):
        ids = ", ".join(map(str, result.pixels))
        result.problems.append(("only void", f"{path.name} has the ids {ids} alone"))


def _is_of_one_colour(image: NDArray[np.uint8]) -> bool:
    # Almost always a few pixels show that it is not.
    few = image[:: max(1, len(image) // 8), :: max(1, image.shape[1] // 8)]
    return all(bool((np.ptp(pixels, axis=(0, 1)) <= _SAME_COLOUR).all()) for pixels in (few, image))


class _Tally:
    """The results of all images, summed up."""

    def __init__(self, folder: SetFolder, tables: Sequence[Table], space: LabelSpace | None) -> None:
        self.folder, self.sizes = folder, Counter[tuple[int, int]]()
        self.problems: list[Problem] = []
        self.remarks: list[Remark] = []
        self.first: dict[bytes, str] = {}
        """Digest of a photo's file → the first photo that has it."""
        self.native = _Counts(dict.fromkeys(known for table in tables for known in table.values()))
        self.space = _Counts(() if space is None else (*space.classes, VOID))
        self.class_of: dict[str, str] = {}
        """Native name → class of the space."""
        if space is not None:
            for table in tables:
                classes = labels.remap(table, space, folder.name)
                self.class_of |= {
                    known: VOID if classes[i] == IGNORE else space.classes[classes[i]] for i, known in table.items()
                }

    def add(self, work: _Work, result: _Result) -> None:
        """Count what one image and its label are."""
        image = self.folder.below(work.pair.image)
        if result.size:
            self.sizes[result.size] += 1
        self.problems += [Problem(kind, image, detail) for kind, detail in result.problems]
        self.remarks += [Remark(kind, image, detail) for kind, detail in result.remarks]
        if result.digest and (first := self.first.setdefault(result.digest, image)) != image:
            self.problems.append(Problem("duplicate", image, f"it is the same as {first}"))
        known = [(work.table[i], number) for i, number in result.pixels.items() if i in work.table]
        self.native.add(known)
        if self.class_of:
            self.space.add((self.class_of[name], number) for name, number in known)


class _Counts:
    """Pixels, and images, of each class."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names, self.pixels, self.images = [*names], Counter[str](), Counter[str]()

    def add(self, counts: Iterable[tuple[str, int]]) -> None:
        """Count one image: pixels of classes, of which one may come several times."""
        counts = list(counts)
        for name, number in counts:
            self.pixels[name] += number
        self.images.update({name for name, _ in counts})

    def counts(self) -> tuple[ClassCount, ...]:
        """What was counted, in the order of the names."""
        return tuple(ClassCount(name, self.pixels[name], self.images[name]) for name in self.names)
