"""Which label belongs to which photograph in the folder of a data set."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from spcnet.config import DataConfig
from spcnet.data.catalog import dataset
from spcnet.data.label_formats import LabelFormat
from spcnet.data.layouts import DatasetInfo, Layout, Table
from spcnet.data.listing import LeftOut, ending_of
from spcnet.data.missing import PassedOver, label_remedy, no_layout, passed_over, pictures_without_photos
from spcnet.data.patterns import FileIndex, filled, placed
from spcnet.data.roots import array_layout, copied_format, is_copy
from spcnet.data.search import Match, Search, Stars, words_of
from spcnet.errors import DataError, UsageError, unknown_name_error


class Pair(NamedTuple):
    """Where one image and its label lie."""

    name: str
    image: Path
    label: Path


class Twins(NamedTuple):
    """Two files for one photo or label image: names that differ in the ending alone."""

    used: Path
    other: Path


class Listing(NamedTuple):
    """What lies in the folders of one split, or one subset of it, in the layout that fits."""

    layout: Layout
    table: Table
    """What the numbers in its label images mean."""
    pairs: list[Pair]
    """Images with their labels, sorted by name."""
    bare: list[Pair]
    """Images whose label is missing, with the path that it should have."""
    orphans: list[Path]
    """Label images without an image."""
    form: LabelFormat
    """How its label images encode the class."""
    passed_over: tuple[PassedOver, ...] = ()
    """Pictures in the folders of the photos that are not among them, sorted."""
    twins: tuple[Twins, ...] = ()
    """Files that are not used because another spelling of them is."""
    remedy: str = ""
    """How the missing labels can be made of what lies there, where that is known."""


class SplitFiles(NamedTuple):
    """The images of a domain, and remarks about its folders."""

    pairs: list[Pair]
    """Images with their labels, sorted by name."""
    table: Table
    """What the numbers in the label images mean."""
    form: LabelFormat
    """How the label images encode the class."""
    remarks: tuple[str, ...]
    """Files that were left out, a line each."""


@dataclass(frozen=True)
class SetFolder:
    """A data set in a folder."""

    name: str
    """A set that lies on disk, or one of `data.sets`."""
    root: Path
    data: DataConfig | None = None
    """The user's own sets, and the files that name images to leave out."""

    @cached_property
    def info(self) -> DatasetInfo:
        """What the set is."""
        return dataset(self.name, self.data)

    def below(self, path: Path) -> str:
        """The path of a file below the folder, with slashes."""
        return path.relative_to(self.root).as_posix()

    def find_split(
        self, split: str, subset: str | None = None, *, excluded: Container[str] = frozenset()
    ) -> SplitFiles:
        """The images of a split, each with its label.

        Args:
            split: one of the set's.
            subset: one of the set's; all of the split if not given.
            excluded: images to leave out, as POSIX paths below the root.

        Raises:
            DataError: there is no layout of the set, an image has no label, or all images are left out.
        """
        name, root = self.name, self.root
        subsets = self.info.folder_subsets if subset is None else [subset]
        listings = [self.survey(split, part, excluded=excluded) for part in subsets]
        table, form = listings[0].table, listings[0].form
        if any((listing.table, listing.form) != (table, form) for listing in listings):
            raise DataError(f"the subsets of {name} in {root} have labels of different kinds: use one kind for all")
        bare = [pair for listing in listings for pair in listing.bare]
        pairs = [pair for listing in listings for pair in listing.pairs]
        if bare:
            remedy = next((f". {listing.remedy}" for listing in listings if listing.remedy), "")
            what = f"{len(bare)} of {len(bare) + len(pairs)} images of the data set {name} have no label"
            raise DataError(f"{what}: the first is {bare[0].image}, whose label should be {bare[0].label}{remedy}")
        if not pairs:
            what = f"data.exclude leaves out every image of the data set {name} in {root}"
            raise DataError(f"{what}: remove lines from its files")
        return SplitFiles(pairs, table, form, self.left_out(listings, split, subset))

    def left_out(self, listings: Sequence[Listing], split: str, subset: str | None = None) -> tuple[str, ...]:
        """A remark about the pictures that were left out of the listings of a split; none where there are none."""
        left_out = LeftOut(one.what for listing in listings for one in listing.passed_over)
        for listing in listings:
            for twins in listing.twins:
                left_out.add(f"{twins.other.suffix} beside a {twins.used.suffix} of the same name")
        if not left_out:
            return ()
        patterns = dict.fromkeys(
            placed(pattern, words_of(listing.layout, split, subset or "*"))
            for listing in listings
            for pattern in listing.layout.images
        )
        text, photos = left_out.text(convert=True), " and ".join(patterns)
        return (f"{self.name}@{split} in {self.root}: left out {text}. Its photos are {photos} in any case",)

    def _searches(self, split: str, subset: str | None) -> list[Search]:
        """The layouts to try, the preferred one first."""
        assert self.info.layouts, f"{self.name} is generated"
        index, layouts = FileIndex(self.root), self.info.layouts_of(split)
        if is_copy(self.root):
            layouts = [*map(array_layout, layouts), *layouts]
        return [Search(self.info, layout, split, subset, index) for layout in layouts]

    def survey(self, split: str, subset: str | None = None, *, excluded: Container[str] = frozenset()) -> Listing:
        """What lies in the folders of a split, complete or not, in the layout that fits best.

        That is the first one in which every image has a label, else the one with the most pairs.

        Args:
            split: one of the set's.
            subset: one of the set's; needed where folders tell them apart.
            excluded: images to leave out, as POSIX paths below the root.

        Raises:
            DataError: there are no images in any of the set's layouts, or its table cannot be read.
        """
        searches = self._searches(split, subset)
        best: Match | None = None
        for search in searches:
            for outer in search.info.outer_folders:
                match = search.match(outer)
                if match and (best is None or len(match.labels) > len(best.labels)):
                    best = match
            if best and best.labels.keys() == best.images.keys():
                break
        if best is None or (not best.labels and len(searches) > 1):
            raise DataError(no_layout(self.name, searches, best))
        return _listing(best, excluded)

    def list_splits(self, splits: Sequence[str] | None) -> dict[str, list[Listing]]:
        """What lies in the folders of some splits, complete or not; of all that are there if none are given.

        Raises:
            UsageError: the set is generated, or a split is unknown.
            DataError: a wanted split has no images, or there is none at all.
        """
        if not self.info.layouts:
            raise UsageError(f"the data set {self.name} is generated and has no files: name one that lies on disk")
        for split in splits or ():
            if split not in self.info.splits:
                raise unknown_name_error(split, list(self.info.splits), f"split of {self.name}")
        listings: dict[str, list[Listing]] = {}
        missing: DataError | None = None
        for split in splits or self.info.splits:
            for subset in self.info.folder_subsets:
                try:
                    listing = self.survey(split, subset)
                except DataError as error:
                    missing = missing or error
                    if splits is not None:
                        raise
                else:
                    listings.setdefault(split, []).append(listing)
        if not listings and missing:
            raise missing
        return listings

    def pictures_of_missing_split(self, split: str) -> list[PassedOver]:
        """Pictures in the folders where the photos of a split should lie, where none of them is one; see `survey`.

        Raises:
            DataError: a folder cannot be listed.
        """
        searches = (self._searches(split, subset) for subset in self.info.folder_subsets)
        return [one for tried in searches for one in pictures_without_photos(tried)]


def _listing(match: Match, excluded: Container[str]) -> Listing:
    search, root = match.search, match.search.index.root
    info, layout = search.info, search.layout
    table = layout.table(root / match.outer) if callable(layout.table) else layout.table
    stems = {stars: "/".join(star.strip("/") for star in stars[1:] if star) for stars in match.images}
    names = _distinct({stars: stem.replace("/", "_") for stars, stem in stems.items()}, match.images)
    kept = {stars: path for stars, path in match.images.items() if path not in excluded}
    pairs: list[Pair] = []
    bare: dict[Stars, Pair] = {}
    for stars in sorted(kept, key=lambda stars: (stems[stars], stars)):
        if stars in match.labels:
            pairs.append(Pair(names[stars], root / kept[stars], root / match.labels[stars]))
        else:
            label = filled(search.placed(layout.labels, match.folders[stars[0]]), stars[1:])
            bare[stars] = Pair(names[stars], root / kept[stars], root / label)
    form = info.label_format(layout, table, root / match.outer)
    unused = passed_over(search, match.folders, match.fits)
    unused += [PassedOver(root / path, f"{ending_of(path)} that belong to no split") for path in match.strays]
    return Listing(
        layout,
        table,
        pairs,
        [*bare.values()],
        [root / path for path in sorted({*match.orphans.values()} - _labels_of_others(match))],
        copied_format(root, form) if is_copy(root) else form,
        tuple(sorted(unused)),
        tuple(Twins(root / used, root / path) for used, path in sorted(match.twins)),
        label_remedy(match, [*bare]) if bare else "",
    )


def _labels_of_others(match: Match) -> set[str]:
    """Label images of the same photos in the form of other layouts, where labels without a photo were found."""
    search = match.search
    return {
        path
        for layout in search.info.layouts
        if layout.labels != search.layout.labels and match.orphans
        for pattern in layout.label_patterns
        for around in dict.fromkeys(match.folders.values())
        for stars, path in search.matches(pattern, around)
        if any((folder, *stars) in match.images for folder in match.folders)
    }


def _distinct(names: dict[Stars, str], paths: Mapping[Stars, str]) -> dict[Stars, str]:
    """The names, but the whole path for those that several images would have."""
    counts = Counter(names.values())
    if len(counts) == len(names):
        return names
    return {
        stars: name if counts[name] == 1 else paths[stars].rpartition(".")[0].replace("/", "__")
        for stars, name in names.items()
    }
