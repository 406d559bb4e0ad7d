"""The files of one split of a data set in one of its layouts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from spcnet.data.layouts import DatasetInfo, Layout
from spcnet.data.patterns import FileIndex, placed

Stars = tuple[str, ...]
"""The folder of the download in which a photo lies, and what the stars of its pattern stand for."""


def words_of(layout: Layout, split: str, subset: str | None) -> dict[str, str]:
    """What the words in braces in the patterns of a layout stand for."""
    return {"split": split, "folder": layout.folders.get(split, split), "subset": subset or ""}


@dataclass(frozen=True)
class Search:
    """A layout of a data set in which the files of a split are searched."""

    info: DatasetInfo
    layout: Layout
    split: str
    subset: str | None
    index: FileIndex

    @cached_property
    def words(self) -> dict[str, str]:
        """What the words in braces stand for."""
        return words_of(self.layout, self.split, self.subset)

    def placed(self, pattern: str, outer: str = "") -> str:
        """A pattern with its words replaced, below a folder of the download."""
        return placed(pattern, self.words, outer=outer)

    def matches(self, pattern: str, outer: str = "") -> Iterator[tuple[Stars, str]]:
        """The files that match a pattern below a folder of the download; see `FileIndex.matches`."""
        return self.index.matches(self.placed(pattern, outer))

    @cached_property
    def _members(self) -> frozenset[str] | None:
        return self.layout.members()[self.split] if self.layout.members else None

    @cached_property
    def _selects(self) -> Callable[[Stars], bool] | None:
        """Whether a file belongs to the split and subset, by what its stars stand for; None where all do."""
        members, prefixes = self._members, self.info.prefixes.get(self.subset or "", ("",))
        if members is None and prefixes == ("",):
            return None
        return lambda stars: (members is None or stars[-1] in members) and stars[-1].startswith(prefixes)

    def match(self, outer: Sequence[str]) -> "Match | None":
        """The files below some folders of the download together; None where there are no photos."""
        match = Match(self)
        for folder in outer:
            photos = self._photos(folder, match)
            if not photos:
                continue
            match.images |= photos
            # Where there is no label image, it is expected beside the photo.
            match.folders[folder] = folder
            # Photos and label images are two downloads: the folder around the one need not be that around the other.
            for around in dict.fromkeys((folder, "", *self.info.outer)):
                if labels := self._labels(folder, around, photos, match):
                    match.folders[folder] = around
                    for stars, path in labels.items():
                        (match.labels if stars in photos else match.orphans)[stars] = path
                    break
        return match if match.images else None

    def _photos(self, folder: str, match: "Match") -> dict[Stars, str]:
        selects, photos = self._selects, dict[Stars, str]()
        for pattern in self.layout.images:
            for stars, path in self.matches(pattern, folder):
                match.fits.add(path)
                if selects is None or selects(stars):
                    used = photos.setdefault((folder, *stars), path)
                    if used != path:
                        match.twins.append((used, path))
                elif self._members is not None:
                    match.unselected.append((stars[-1], path))
        return photos

    def _labels(self, folder: str, around: str, photos: dict[Stars, str], match: "Match") -> dict[Stars, str]:
        """The label images below a folder of the download, by the stars of the photos in another."""
        selects, labels = self._selects, dict[Stars, str]()
        no_labels = {path for pattern in self.info.beside for _, path in self.matches(pattern, around)}
        for pattern in self.layout.label_patterns:
            # Twins are two spellings of one pattern; of several patterns the first one's file counts.
            of_pattern: dict[Stars, str] = {}
            for stars, path in self.matches(pattern, around):
                if (selects is None or selects(stars)) and path not in no_labels:
                    used = of_pattern.setdefault((folder, *stars), path)
                    if used != path:
                        match.twins.append((used, path))
            # Photos of one place may share label images, to which a link leads.
            if of_pattern and not photos.keys() <= of_pattern.keys() | labels.keys():
                for stars, path in self.index.matches_in_twins(self.placed(pattern, around)):
                    if (folder, *stars) in photos:
                        of_pattern.setdefault((folder, *stars), path)
            labels = of_pattern | labels
        return labels


@dataclass
class Match:
    """The files that match a layout, as paths below the root."""

    search: Search
    images: dict[Stars, str] = field(default_factory=dict)
    labels: dict[Stars, str] = field(default_factory=dict)
    """Label images that belong to an image."""
    orphans: dict[Stars, str] = field(default_factory=dict)
    """Label images that do not."""
    folders: dict[str, str] = field(default_factory=dict)
    """Folder of the download with photos → folder in which their label images lie, or should lie."""
    fits: set[str] = field(default_factory=set)
    """All files that match the patterns of the photos, those of other splits and subsets included."""
    unselected: list[tuple[str, str]] = field(default_factory=list)
    """Last star and path of those that are not in the split."""
    twins: list[tuple[str, str]] = field(default_factory=list)
    """File that is used, and one of the same name with another ending, which is not."""

    @property
    def outer(self) -> str:
        """Folder of the download in which the label images lie; of several the last."""
        return [*self.folders.values()][-1]

    @property
    def strays(self) -> list[str]:
        """Files that match the patterns of the photos and are in no split."""
        members = self.search.layout.members
        if not members or not self.unselected:
            return []
        known = frozenset[str]().union(*members().values())
        return [path for name, path in self.unselected if name not in known]
