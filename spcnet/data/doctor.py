"""A look at every file of a data set: what is missing, what is broken, and what the labels hold.

`check` reads each photo and each label once, in several processes. What it finds is a `CheckReport`: for a person as
tables, for a program as JSON, and as a list of images that training and evaluation may leave out (`data.exclude`).
"""

import dataclasses
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import rich.table
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape

from spcnet import labels
from spcnet.config import DataConfig, plain_lists
from spcnet.data.catalog import Table, dataset
from spcnet.data.folders import (
    MARKER,
    Listing,
    Pair,
    PassedOver,
    excluded_images,
    lines_without_image,
    old_copy,
    pictures_without_photos,
    survey,
)
from spcnet.data.images import Geometry, fault, geometry_of, read_label, read_photo, size_misfit
from spcnet.data.label_formats import LabelFormat, UnknownLabelError
from spcnet.data.listing import LeftOut
from spcnet.data.parallel import in_processes
from spcnet.errors import DataError, UsageError, unknown_name_error
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

Kind = Literal[
    "incomplete",
    "no label",
    "no photo",
    "two spellings",
    "unreadable",
    "damaged",
    "sizes differ",
    "single colour",
    "unknown ids",
    "unknown colours",
    "only void",
    "duplicate",
]
"""What can be wrong."""

_MEANING: Mapping[Kind, str] = {
    "incomplete": "a split has fewer or more images than its authors published",
    "no label": "photos whose label image is missing",
    "no photo": "label images whose photo is missing",
    "two spellings": "files that are not used because there is one of the same name with another ending",
    "unreadable": "files that are no image, cut off, or too large",
    "damaged": "files that decode, but are not what was written",
    "sizes differ": "photo and label have different sizes",
    "single colour": "photos that are one colour all over",
    "unknown ids": "labels with ids that the set does not have",
    "unknown colours": "labels with colours that no class of the set has",
    "only void": "labels in which nothing is labelled",
    "duplicate": "photos that are byte for byte the same as an earlier one",
}
RemarkKind = Literal["turned by EXIF", "not opaque", "label turned by EXIF", "old copy"]
"""What is worth knowing of an image that is fit to train and to test on."""

_REMARK: Mapping[RemarkKind, str] = {
    "turned by EXIF": "photos that are stored turned or mirrored, and read upright; on which picture each label lies stands beside it",
    "not opaque": "photos that can be seen through in parts, which are read as lying on white",
    "label turned by EXIF": "label images with an EXIF orientation of their own, by which they are turned",
    "old copy": "copies whose photos were read by other rules",
}

_EXCLUDED: frozenset[Kind] = frozenset(
    {
        "no label",
        "unreadable",
        "damaged",
        "sizes differ",
        "single colour",
        "unknown ids",
        "unknown colours",
        "only void",
    }
)
"""What makes an image unfit to train and to test on."""

_SAME_COLOUR = 2
"""By how much the pixels of a photo of a single colour may differ: a JPEG does not keep them exactly."""
_EXAMPLES = 3
_SIZES = 5


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    kind: Kind
    image: str
    """Path of the photo below the root; of a label without a photo the label's; of an incomplete split its name."""
    detail: str
    """What was found, in one line."""


@dataclass(frozen=True)
class Remark:
    """Something about an image that is no fault: it changes neither the exit code nor the list of images to leave out."""

    kind: RemarkKind
    image: str
    """Path of the photo below the root; of an old copy the file that says so."""
    detail: str
    """What was found, in one line."""


@dataclass(frozen=True)
class SplitCount:
    """How many files a split has."""

    split: str
    pairs: int
    """Photos with a label."""
    expected: tuple[int, ...]
    """How many there should be; several numbers where the set comes in several extents, none where it is not known."""
    no_label: int
    no_photo: int


@dataclass(frozen=True)
class ClassCount:
    """How much of a set one class is."""

    name: str
    pixels: int
    images: int
    """Label images in which it occurs."""


@dataclass(frozen=True)
class CheckReport:
    """What lies in the folder of a data set, and what is wrong with it."""

    name: str
    root: str
    splits: tuple[SplitCount, ...]
    images: int
    """Photos with a label that were read, each once, however many splits it is in."""
    native: tuple[ClassCount, ...]
    """The set's own classes, most pixels first; all that its table knows."""
    space: str | None
    """Label space of `classes`."""
    classes: tuple[ClassCount, ...]
    """The classes of the space in its order, and what is none of them (void)."""
    sizes: Mapping[tuple[int, int], int]
    """Height and width in pixels → photos of that size, most first."""
    problems: tuple[Problem, ...]
    seconds: float
    """How long reading took."""
    left_out: int = 0
    """Images that `data.exclude` names, which were not read."""
    remarks: tuple[Remark, ...] = ()
    """What is worth knowing and no fault: photos that are turned by EXIF, photos that are not opaque."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """What the pictures are that lie in the folders of the photos and are none of them → how many, most first."""
    notes: tuple[str, ...] = ()
    """What else there is to say, a line each: lines of `data.exclude` that name no image, what missing labels can be made of."""

    @property
    def exit_code(self) -> int:
        """0 where nothing is wrong, else 1."""
        return 1 if self.problems else 0

    def excluded(self) -> list[tuple[str, str, str]]:
        """The images to leave out: data set, path of the photo below the root, reason. For `folders.write_excluded`."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for problem in self.problems:
            if problem.kind in _EXCLUDED:
                reasons[problem.image].append(f"{problem.kind}: {problem.detail}")
        return [(self.name, image, "; ".join(reasons[image])) for image in sorted(reasons)]

    def as_json(self) -> str:
        """All of it as one JSON object, indented."""
        content = dataclasses.asdict(self) | {
            "sizes": [{"height": height, "width": width, "images": n} for (height, width), n in self.sizes.items()]
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def render(self, console: Console) -> None:
        """Write it as tables."""
        rate = self.images / self.seconds if self.seconds else 0.0
        console.print(
            f"[bold]{escape(self.name)}[/] in {escape(self.root)}: {self.images:,} images read in {self.seconds:.1f} s "
            f"({rate:,.0f} a second)" + (f", {self.left_out:,} left out by data.exclude" if self.left_out else ""),
            highlight=False,
        )
        console.print(self._split_table(), self._class_table(), sep="\n")
        if self.passed_over:
            text = LeftOut(kind for kind, number in self.passed_over.items() for _ in range(number)).text(convert=True)
            console.print(
                f"Left out {text}. They lie among the photos, whose names are others.",
                style="yellow",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        for note in self.notes:
            console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
        if not self.problems:
            console.print("[green]Nothing is wrong.[/]")
        for kind in get_args(Kind):
            _list(console, [problem for problem in self.problems if problem.kind == kind], _MEANING[kind], "bold red")
        for kind in get_args(RemarkKind):
            _list(console, [remark for remark in self.remarks if remark.kind == kind], _REMARK[kind], "bold yellow")

    def _split_table(self) -> rich.table.Table:
        table = rich.table.Table(box=SIMPLE, pad_edge=False)
        table.add_column("split")
        for title in ("images", "expected", "no label", "no photo"):
            table.add_column(title, justify="right")
        for split in self.splits:
            expected = " or ".join(f"{number:,}" for number in split.expected) or "?"
            table.add_row(split.split, f"{split.pairs:,}", expected, f"{split.no_label:,}", f"{split.no_photo:,}")
        sizes = [f"{width}×{height} ({number:,})" for (height, width), number in [*self.sizes.items()][:_SIZES]]
        more = f" and {len(self.sizes) - _SIZES:,} more" if len(self.sizes) > _SIZES else ""
        table.caption = f"sizes: {', '.join(sizes) or 'none'}{more}"
        table.caption_justify = "left"
        return table

    def _class_table(self) -> rich.table.Table:
        table = rich.table.Table(box=SIMPLE, pad_edge=False)
        table.add_column("class of the set" if self.space is None else f"class of {self.space}", ratio=1)
        for title in ("pixels", "share", "images"):
            table.add_column(title, justify="right", no_wrap=True)
        counts = self.native if self.space is None else self.classes
        total = sum(count.pixels for count in counts)
        for count in counts:
            share = f"{count.pixels / total:.2%}" if total else "-"
            style = "dim" if count.name == VOID or not count.pixels else None
            table.add_row(escape(count.name), f"{count.pixels:,}", share, f"{count.images:,}", style=style)
        return table


def _list(console: Console, found: Sequence[Problem | Remark], meaning: str, style: str) -> None:
    """Write how many there are of one kind, and the first of them."""
    if not found:
        return
    console.print(f"[{style}]{len(found):,} × {found[0].kind}[/] [dim]{meaning}[/]", highlight=False)
    for one in found[:_EXAMPLES]:
        console.print(f"  {escape(one.image)}: {escape(one.detail)}", highlight=False, soft_wrap=True)
    if len(found) > _EXAMPLES:
        console.print(f"  [dim]and {len(found) - _EXAMPLES:,} more[/]", highlight=False)


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
        on_progress: told how many images of how many are read.
        data: the user's own sets, and the files that name images to leave out.

    Raises:
        UsageError: the set is generated, or the split or space is unknown or the set too coarse for the space.
        DataError: there are no images of the set in that folder, or a list of images to leave out cannot be read.
    """
    wanted = None if space is None else labels.label_space(space)
    started = time.perf_counter()
    found = list_splits(name, root, splits=None if split is None else [split], data=data)
    tally = _Tally(name, root, [one.table for listings in found.values() for one in listings], wanted)
    left_out = excluded_images(name, root, data)
    problems: list[Problem] = []
    passed_over: dict[Path, PassedOver] = {}
    notes: list[str] = []
    counts: list[SplitCount] = []
    pairs: dict[Path, _Work] = {}
    skipped: set[Path] = set()
    for part, listings in found.items():
        number = sum(len(listing.pairs) for listing in listings)
        expected = EXPECTED.get(name, {}).get(part, ())
        bare = [pair for listing in listings for pair in listing.bare if below(root, pair.image) not in left_out]
        orphans = [path for listing in listings for path in listing.orphans]
        counts.append(SplitCount(part, number, expected, len(bare), len(orphans)))
        whole = number + sum(len(listing.bare) for listing in listings)
        if expected and whole not in expected:
            published = " or ".join(f"{n:,}" for n in expected)
            problems.append(Problem("incomplete", part, f"{whole:,} images, of {published} that were published"))
        problems += [
            Problem("no label", below(root, pair.image), f"{below(root, pair.label)} is missing") for pair in bare
        ]
        problems += [Problem("no photo", below(root, path), "its photo is missing") for path in orphans]
        for listing in listings:
            passed_over |= {one.path: one for one in listing.passed_over}
            notes += [listing.remedy] if listing.remedy and bare else []
            problems += [
                Problem("two spellings", below(root, two.other), f"{below(root, two.used)} is used instead")
                for two in listing.twins
            ]
            skipped |= {pair.image for pair in listing.bare if below(root, pair.image) in left_out}
            for pair in listing.pairs:
                if below(root, pair.image) in left_out:
                    skipped.add(pair.image)
                else:
                    pairs.setdefault(pair.image, _Work(pair, listing.table, listing.form))
    info = dataset(name, data)
    by_folder = any("{subset}" in pattern for layout in info.layouts for pattern in layout.images)
    for part in [part for part in info.splits if split is None and part not in found]:
        for subset in info.subsets if by_folder else [None]:
            lost = pictures_without_photos(name, root, split=part, subset=subset, data=data)
            passed_over |= {one.path: one for one in lost}
    for listings in found.values():  # a file may be another split's photo
        for listing in listings:
            for pair in (*listing.pairs, *listing.bare):
                passed_over.pop(pair.image, None)
    items = list(pairs.values())
    with closing(in_processes(_examine, items, workers=workers, on_progress=on_progress)) as all_seen:
        for item, seen in zip(items, all_seen, strict=True):
            tally.add(item, seen)
    return CheckReport(
        name=name,
        root=str(root),
        splits=tuple(counts),
        images=len(items),
        native=tuple(sorted(tally.native.counts(), key=lambda count: -count.pixels)),
        space=space,
        classes=tally.space.counts(),
        sizes=dict(tally.sizes.most_common()),
        # What is in several splits is told once.
        problems=tuple(dict.fromkeys((*problems, *tally.problems))),
        seconds=time.perf_counter() - started,
        left_out=len(skipped),
        remarks=(*([Remark("old copy", MARKER, message)] if (message := old_copy(root, name)) else []), *tally.remarks),
        passed_over=dict(Counter(one.what for one in passed_over.values()).most_common()),
        notes=tuple(dict.fromkeys((*notes, *lines_without_image(name, left_out, data)))),
    )


@plain_lists
def list_splits(
    name: str, root: Path, *, splits: Sequence[str] | None, data: DataConfig | None
) -> dict[str, list[Listing]]:
    """What lies in the folders of a data set, by split, complete or not.

    Args:
        name: a set that lies on disk, or one of `data.sets`.
        root: its folder.
        splits: the ones wanted; all that are there if not given.
        data: the user's own sets.

    Raises:
        UsageError: the set is generated, or a split is unknown.
        DataError: a split that is wanted has no images, or there is none at all.
    """
    info = dataset(name, data)
    if not info.layouts:
        raise UsageError(
            f"the data set {name} is generated, so that there are no files of it: name one that lies on disk"
        )
    for split in splits or ():
        if split not in info.splits:
            raise unknown_name_error(split, list(info.splits), f"split of {name}")
    by_folder = any("{subset}" in pattern for layout in info.layouts for pattern in layout.images)
    found: dict[str, list[Listing]] = {}
    missing: DataError | None = None
    for split in splits or info.splits:
        listings = []
        for subset in info.subsets if by_folder else [None]:
            try:
                listings.append(survey(name, root, split=split, subset=subset, data=data))
            except DataError as error:
                missing = missing or error
                if splits is not None:
                    raise
        if listings:
            found[split] = listings
    if not found and missing:
        raise missing
    return found


class _Work(NamedTuple):
    """One image to look at."""

    pair: Pair
    table: Table
    """What the ids in its label mean."""
    form: LabelFormat
    """How its label says the ids."""


class _Seen(NamedTuple):
    """What one image and its label are."""

    size: tuple[int, int] | None
    """Height and width of the photo, where it can be read."""
    digest: bytes
    """Of the photo's file."""
    pixels: Mapping[int, int]
    """Native id → pixels that have it."""
    problems: tuple[tuple[Kind, str], ...]
    remarks: tuple[tuple[RemarkKind, str], ...] = ()


def _examine(work: _Work) -> _Seen:
    pair, problems = work.pair, list[tuple[Kind, str]]()
    size, digest, pixels = None, b"", dict[int, int]()
    geometry: Geometry | None = None
    remarks: list[tuple[RemarkKind, str]] = []
    try:
        photo = read_photo(pair.image)
        image, geometry = photo.pixels, photo.geometry
        size = geometry.size
        if photo.see_through:
            remarks.append(("not opaque", f"{max(photo.see_through, 0.0001):.2%} of its pixels are not opaque"))
        digest = hashlib.blake2b(pair.image.read_bytes(), digest_size=16).digest()
        if _is_of_one_colour(image):
            problems.append(("single colour", f"it is {tuple(image[0, 0].tolist())} all over"))
        if wrong := fault(pair.image):
            problems.append(("damaged", wrong))
    except (DataError, OSError) as error:
        problems.append(("unreadable", str(error)))
    try:
        label = read_label(pair.label, work.form, photo=geometry)
        own = geometry_of(pair.label)
        if geometry is not None and geometry.orientation != 1:
            along = own.orientation == 1 and own.size != geometry.size and label.shape == geometry.size
            place = "is turned along with it" if along else "is taken to lie on the upright photo"
            remarks.append(("turned by EXIF", f"it is {geometry}; its label {place}"))
        if own.orientation != 1:
            remarks.append(("label turned by EXIF", f"the label {pair.label.name} is {own}"))
        if wrong := fault(pair.label):
            problems.append(("damaged", f"the label {pair.label.name}: {wrong}"))
    except UnknownLabelError as error:
        problems.append((error.kind, f"{pair.label.name} has {error.detail}. {error.remedy}"))
        return _Seen(size, digest, pixels, tuple(problems), tuple(remarks))
    except DataError as error:
        problems.append(("unreadable", str(error)))
        return _Seen(size, digest, pixels, tuple(problems), tuple(remarks))
    if geometry is not None and (misfit := size_misfit(geometry, label.shape)):
        problems.append(("sizes differ", misfit))
    counts = np.bincount(label.reshape(-1), minlength=256)
    pixels = {int(i): int(counts[i]) for i in np.flatnonzero(counts)}
    unknown = {i: n for i, n in pixels.items() if i not in work.table}
    if unknown:
        told = ", ".join(f"{i} ({n:,} pixels)" for i, n in unknown.items())
        problems.append(("unknown ids", f"{pair.label.name} has {told}"))
    elif all(work.table[i] == VOID for i in pixels):
        problems.append(("only void", f"{pair.label.name} has the ids {', '.join(map(str, pixels))} alone"))
    return _Seen(size, digest, pixels, tuple(problems), tuple(remarks))


def _is_of_one_colour(image: NDArray[np.uint8]) -> bool:
    # Almost always a few pixels show that it is not.
    few = image[:: max(1, len(image) // 8), :: max(1, image.shape[1] // 8)]
    return all(bool((np.ptp(pixels, axis=(0, 1)) <= _SAME_COLOUR).all()) for pixels in (few, image))


class _Tally:
    """What was seen, summed up."""

    def __init__(self, name: str, root: Path, tables: Sequence[Table], space: LabelSpace | None) -> None:
        """Begin with nothing.

        Args:
            name: of the data set.
            root: its folder.
            tables: what ids mean, in each part of the set.
            space: the classes to count, besides the set's own.

        Raises:
            UsageError: the set is too coarse for the space.
        """
        self.root = root
        self.sizes: Counter[tuple[int, int]] = Counter()
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
                classes = labels.remap(table, space, name)
                self.class_of |= {
                    known: VOID if classes[i] == IGNORE else space.classes[classes[i]] for i, known in table.items()
                }

    def add(self, work: _Work, seen: _Seen) -> None:
        """Count what one image and its label are."""
        image = below(self.root, work.pair.image)
        if seen.size:
            self.sizes[seen.size] += 1
        self.problems += [Problem(kind, image, detail) for kind, detail in seen.problems]
        self.remarks += [Remark(kind, image, detail) for kind, detail in seen.remarks]
        if seen.digest and (first := self.first.setdefault(seen.digest, image)) != image:
            self.problems.append(Problem("duplicate", image, f"it is the same as {first}"))
        known = {work.table[i]: 0 for i in seen.pixels if i in work.table}
        for i, number in seen.pixels.items():
            if i in work.table:
                known[work.table[i]] += number
        self.native.add(known.items())
        if self.class_of:
            self.space.add((self.class_of[name], number) for name, number in known.items())


class _Counts:
    """Pixels, and images, of each class."""

    def __init__(self, names: Iterable[str]) -> None:
        self.pixels = dict.fromkeys(names, 0)
        self.images = dict.fromkeys(self.pixels, 0)

    def add(self, found: Iterable[tuple[str, int]]) -> None:
        """Count one image: pixels of classes, of which one may come several times."""
        present = set()
        for name, number in found:
            self.pixels[name] += number
            present.add(name)
        for name in present:
            self.images[name] += 1

    def counts(self) -> tuple[ClassCount, ...]:
        """What was counted, in the order of the names."""
        return tuple(ClassCount(name, self.pixels[name], self.images[name]) for name in self.pixels)


def below(root: Path, path: Path) -> str:
    """The path of a file below a folder, with slashes."""
    return path.relative_to(root).as_posix()
