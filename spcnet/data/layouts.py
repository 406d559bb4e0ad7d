"""What a data set is, and the patterns that say where its files lie."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spcnet import label_tables
from spcnet.data.label_formats import LabelFormat
from spcnet.label_tables import cityscapes_colors

Table = Mapping[int, str]
"""Native id → native name."""


@dataclass(frozen=True)
class Layout:
    """One way in which people hold a data set on disk.

    In the patterns, which are below the root, `*` stands for any part of a name, `**/` for any folders or none,
    `{split}` for the split's name, `{folder}` for the name in `folders`, and `{subset}` for the subset's. A label
    belongs to the photo for which the stars stand for the same.
    """

    name: str
    """Who holds it so."""
    images: tuple[str, ...]
    """Patterns of the photos; those of the first come before those of the next with the same name."""
    labels: str
    """Pattern of the label images."""
    table: Table | Callable[[Path], Table]
    """What the numbers in the label images mean; or what reads that from the set's root."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """What `{folder}` stands for where that is not the split's name; nothing for all folders together."""
    only: tuple[str, ...] = ()
    """The splits that it has; none given for all."""
    members: Callable[[], Mapping[str, frozenset[str]]] | None = None
    """Names, as the last star stands for them, of each split's photos, where no folder tells the splits apart."""
    form: Literal["grey", "palette", "colors", "wide"] = "grey"
    """How label images hold the class: as grey value, index, RGB colour, or first of three 16-bit channels."""
    format: LabelFormat | Callable[[Path, Table], LabelFormat] | None = None
    """What the numbers and colours in the label images stand for, or what reads that from the set's root; nothing for
    numbers that the table has, in the colours of Cityscapes where they are its classes."""
    more_labels: tuple[str, ...] = ()
    """Further patterns of label images; for a photo without one, the first of these by which it has one counts."""

    @property
    def label_patterns(self) -> tuple[str, ...]:
        """All patterns of label images, the preferred one first."""
        return self.labels, *self.more_labels


@dataclass(frozen=True)
class LabelSource:
    """Files of a download that label images are made of."""

    what: str
    """What they are, as the beginning of a sentence."""
    pattern: str
    """Where they lie, as in a `Layout`; with the stars of the photos, or none."""
    tool: str
    """The program that makes label images of them: `{root}` stands for the folder of the download, `{split}` for the split."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is."""

    title: str
    """Its name, spelled out."""
    summary: str
    """What it shows, in one line."""
    reference: str
    """Who made it and where to get it."""
    native: Table
    """Its label table, native id → native name."""
    splits: tuple[str, ...]
    """The parts it comes in."""
    test_split: str = ""
    """The part that is tested on, unless a recipe says otherwise; the second, or the only one, if not given."""
    subsets: Mapping[str, str] = field(default_factory=dict)
    """Domains within the set: name → what is special about it."""
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each subset, what the names of its photos begin with; where the folders tell them apart, nothing."""
    layouts: tuple[Layout, ...] = ()
    """Where its files may lie, the preferred way first; none for a set that is generated."""
    outer: tuple[str, ...] = ()
    """Folders of the download that may still lie around its own folders."""
    parts: tuple[str, ...] = ()
    """Folders of the download that each hold a part of the set, all of which are read."""
    beside: tuple[str, ...] = ()
    """Patterns of files that lie among the label images and are not label images."""
    sources: tuple[LabelSource, ...] = ()
    """What label images may have to be made of first."""
    home: str | None = None
    """Set whose root it shares, unless it has its own."""

    def __post_init__(self) -> None:
        if not self.test_split:
            object.__setattr__(self, "test_split", self.splits[:2][-1])

    @property
    def train_split(self) -> str:
        """The part that is trained on, unless a recipe says otherwise: the first."""
        return self.splits[0]

    @property
    def outer_folders(self) -> list[tuple[str, ...]]:
        """Folders of the download to try, each alone; those that are read together as one tuple."""
        return [*((folder,) for folder in ("", *self.outer)), *([self.parts] if self.parts else [])]

    @property
    def folder_subsets(self) -> list[str | None]:
        """The subsets that lie in folders of their own; None alone where folders do not tell them apart."""
        by_folder = any("{subset}" in pattern for layout in self.layouts for pattern in layout.images)
        return [*self.subsets] if by_folder else [None]

    def layouts_of(self, split: str) -> list[Layout]:
        """The layouts that have a split."""
        return [layout for layout in self.layouts if not layout.only or split in layout.only]

    def label_format(self, layout: Layout, table: Table, root: Path) -> LabelFormat:
        """What the label images of one of its layouts look like.

        Args:
            layout: the one in which it lies.
            table: what the numbers mean.
            root: the folder that holds it.

        Raises:
            DataError: a file that says so cannot be read.
        """
        if callable(layout.format):
            return layout.format(root, table)
        if layout.format is not None:
            return layout.format
        colors = cityscapes_colors(table) if table in _IN_CITYSCAPES_COLORS else ()
        return LabelFormat.of(table, colors, wide=any(layout.form == "wide" for layout in self.layouts))


_IN_CITYSCAPES_COLORS = (
    label_tables.CITYSCAPES_TRAIN_IDS,
    label_tables.CITYSCAPES_IDS,
    label_tables.GTAV,
    label_tables.URBANSYN,
)
"""The tables of sets whose label images have Cityscapes' colours, where they have colours."""


def photos(stem: str, *endings: str) -> tuple[str, ...]:
    """Patterns of photos: as they come, and as JPEG."""
    return tuple(stem + ending for ending in dict.fromkeys((*(endings or (".png",)), ".jpg")))
