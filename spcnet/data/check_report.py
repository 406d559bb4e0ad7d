"""What `spcnet.data.doctor.check` reports of a data set: for a person as tables, for a program as JSON."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import rich.table
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape

from spcnet.data.listing import LeftOut
from spcnet.formatting import print_plain
from spcnet.labels import VOID

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


_FIT: frozenset[Kind] = frozenset(("incomplete", "no photo", "two spellings", "duplicate"))
"""What leaves an image fit to train and to test on."""

_EXAMPLES, _SIZES = 3, 5


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    kind: Kind
    image: str
    """Path of the photo below the root; of a label without a photo the label's; of an incomplete split its name."""
    detail: str
    """In one line."""


@dataclass(frozen=True)
class Remark:
    """Something about an image that is not a fault: it changes neither the exit code nor the list of images to leave out."""

    kind: RemarkKind
    image: str
    """Path of the photo below the root; of an old copy the file that says so."""
    detail: str
    """In one line."""


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
    """The classes of the space in its order, and void."""
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
            if problem.kind not in _FIT:
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
        notes = list(self.notes)
        if self.passed_over:
            text = LeftOut(self.passed_over).text(convert=True)
            notes.insert(0, f"Left out {text}. They lie among the photos, whose names are others.")
        for note in notes:
            print_plain(console, note, style="yellow")
        if not self.problems:
            console.print("[green]Nothing is wrong.[/]")
        for kind in get_args(Kind):
            _list(console, [problem for problem in self.problems if problem.kind == kind], _MEANING[kind], "bold red")
        for kind in get_args(RemarkKind):
            _list(console, [remark for remark in self.remarks if remark.kind == kind], _REMARK[kind], "bold yellow")

    def _split_table(self) -> rich.table.Table:
        table = _table("split", "images", "expected", "no label", "no photo")
        for split in self.splits:
            expected = " or ".join(f"{number:,}" for number in split.expected) or "?"
            table.add_row(split.split, f"{split.pairs:,}", expected, f"{split.no_label:,}", f"{split.no_photo:,}")
        sizes = [f"{width}×{height} ({number:,})" for (height, width), number in [*self.sizes.items()][:_SIZES]]
        more = f" and {len(self.sizes) - _SIZES:,} more" if len(self.sizes) > _SIZES else ""
        table.caption = f"sizes: {', '.join(sizes) or 'none'}{more}"
        table.caption_justify = "left"
        return table

    def _class_table(self) -> rich.table.Table:
        title = "class of the set" if self.space is None else f"class of {self.space}"
        table = _table(title, "pixels", "share", "images")
        counts = self.native if self.space is None else self.classes
        total = sum(count.pixels for count in counts)
        for count in counts:
            fraction = f"{count.pixels / total:.2%}" if total else "-"
            style = "dim" if count.name == VOID or not count.pixels else None
            table.add_row(escape(count.name), f"{count.pixels:,}", fraction, f"{count.images:,}", style=style)
        return table


def _table(name: str, *figures: str) -> rich.table.Table:
    table = rich.table.Table(rich.table.Column(name, ratio=1), box=SIMPLE, pad_edge=False)
    for title in figures:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _list(console: Console, entries: Sequence[Problem | Remark], meaning: str, style: str) -> None:
    """Write how many there are of one kind, and the first of them."""
    if not entries:
        return
    console.print(f"[{style}]{len(entries):,} × {entries[0].kind}[/] [dim]{meaning}[/]", highlight=False)
    for one in entries[:_EXAMPLES]:
        console.print(f"  {escape(one.image)}: {escape(one.detail)}", highlight=False, soft_wrap=True)
    if len(entries) > _EXAMPLES:
        console.print(f"  [dim]and {len(entries) - _EXAMPLES:,} more[/]", highlight=False)
