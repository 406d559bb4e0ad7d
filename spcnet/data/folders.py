"""Where the files of a data set lie: its root, and which label belongs to which photograph."""

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from spcnet.config import DataConfig
from spcnet.data.catalog import DATASETS, DatasetInfo, Layout, Table, dataset
from spcnet.data.images import ARRAY
from spcnet.data.label_formats import LabelFormat
from spcnet.data.listing import PICTURES, LeftOut, ending_of, files_below, kind_by_content, spellings
from spcnet.errors import DataError
from spcnet.files import decoded_text, write_text

ROOT_VARIABLE = "SPCNET_DATA"
"""Environment variable with the folder that holds one folder per data set, named as the set is."""

MARKER = "spcnet-cache.json"
"""File in the folder of a copy (`spcnet.data.cache`) that says what it is a copy of."""


class Pair(NamedTuple):
    """Where one image and its label lie."""

    name: str
    image: Path
    label: Path


class PassedOver(NamedTuple):
    """A picture in a folder of photos that is none of the split's photos."""

    path: Path
    what: str
    """What it is: its ending, and where that is no reason, what else."""


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
    """How its label images say the class."""
    passed_over: tuple[PassedOver, ...] = ()
    """Pictures in the folders of the photos that are not among them, sorted."""
    twins: tuple[Twins, ...] = ()
    """Files that are not used because another spelling of them is."""
    remedy: str = ""
    """How the missing labels can be made of what lies there, where that is known."""


class Found(NamedTuple):
    """The images of a domain, and what is to be said of its folders."""

    pairs: list[Pair]
    """Images with their labels, sorted by name."""
    table: Table
    """What the numbers in the label images mean."""
    form: LabelFormat
    """How the label images say the class."""
    remarks: tuple[str, ...]
    """What was left out and would perhaps be missed, a line each."""


def root_of(name: str, data: DataConfig) -> Path:
    """Folder of a data set: what `data.roots` says, else the one of its name in `data.root`, else that in `SPCNET_DATA`.

    Raises:
        UsageError: no set has that name.
        DataError: none of them is given, or no such folder exists.
    """
    names = [known for known in (name, dataset(name, data).home) if known]
    for known in names:
        if known in data.roots:
            root = Path(data.roots[known]).expanduser()
            if not root.is_dir():
                raise DataError(
                    f"the folder {root} of the data set {name} does not exist: it comes from data.roots.{known}"
                )
            return root
    given = (("data.root", data.root), (f"the environment variable {ROOT_VARIABLE}", os.environ.get(ROOT_VARIABLE)))
    looked = [(Path(folder).expanduser() / known, by) for by, folder in given if folder for known in names]
    for root, _ in looked:
        if root.is_dir():
            return root
    ways = (
        f"set data.roots.{name} (of a trained network --roots.{name}) to its folder, or data.root or the environment variable {ROOT_VARIABLE} to a folder that "
        f"holds it under the name {name}"
    )
    if not looked:
        raise DataError(f"where is the data set {name}? Nothing says so: {ways}")
    places = "; ".join(f"{root} (from {by})" for root, by in looked)
    raise DataError(f"the data set {name} does not lie where it was looked for, {places}: {ways}")


def old_copy(root: Path, name: str) -> str:
    """What to say of a copy of a set (`spcnet.data.cache`) whose photos an earlier version read otherwise; else empty."""
    try:
        with (root / MARKER).open("rb") as file:
            old = file.read(13) == b'{"version":1,'
    except OSError:  # no copy
        return ""
    return (
        f"{root} is a copy by an earlier version, which stored photos without turning them as EXIF says and without laying "
        f"them on white. Call `spcnet data cache {name} ROOT {root}` once more, with the options it was made with: it copies "
        "again what is shown otherwise, and nothing else"
        if old
        else ""
    )


def find_pairs(
    name: str,
    root: Path,
    *,
    split: str,
    subset: str | None = None,
    data: DataConfig | None = None,
    excluded: Container[str] = frozenset(),
) -> tuple[list[Pair], Table]:
    """The images of a data set on disk, each with its label, sorted by name, and the label table that they use.

    Args:
        name: a set that has a layout.
        root: its folder.
        split: one of its splits.
        subset: one of its subsets; all of the split if not given.
        data: the user's own sets.
        excluded: images to leave out, as POSIX paths below the root.

    Raises:
        DataError: there is no layout of the set, an image has no label, or all images are left out.
    """
    return find_split(name, root, split=split, subset=subset, data=data, excluded=excluded)[:2]


def find_split(
    name: str,
    root: Path,
    *,
    split: str,
    subset: str | None = None,
    data: DataConfig | None = None,
    excluded: Container[str] = frozenset(),
) -> Found:
    """As `find_pairs`, with how the label images say the class and what there is to say of the folders.

    Raises:
        DataError: as `find_pairs`.
    """
    info = dataset(name, data)
    by_folder = any("{subset}" in pattern for layout in info.layouts for pattern in layout.images)
    subsets = list(info.subsets) if subset is None and by_folder else [subset]
    found = [survey(name, root, split=split, subset=part, data=data, excluded=excluded) for part in subsets]
    if any((listing.table, listing.form) != (found[0].table, found[0].form) for listing in found):
        raise DataError(f"the subsets of {name} in {root} have labels of different kinds: use one kind for all")
    bare = [pair for listing in found for pair in listing.bare]
    pairs = [pair for listing in found for pair in listing.pairs]
    if bare:
        remedy = next((listing.remedy for listing in found if listing.remedy), "")
        raise DataError(
            f"{len(bare)} of {len(bare) + len(pairs)} images of the data set {name} have no label: the first is "
            f"{bare[0].image}, whose label should be {bare[0].label}{f'. {remedy}' if remedy else ''}"
        )
    if not pairs:
        raise DataError(
            f"data.exclude leaves out every image of the data set {name} in {root}: take lines out of its files"
        )
    return Found(pairs, found[0].table, found[0].form, left_out_of(name, root, found, split=split, subset=subset))


def left_out_of(
    name: str, root: Path, found: Sequence[Listing], *, split: str, subset: str | None = None
) -> tuple[str, ...]:
    """What was left out of a split and would perhaps be missed, in a line; none where nothing was.

    Args:
        name: of the set.
        root: its folder.
        found: what lies in the folders of the split, or of each subset of it.
        split: its name.
        subset: name of the subset, where one alone was looked at.
    """
    left_out = LeftOut(
        [one.what for listing in found for one in listing.passed_over]
        + [_twin(twins) for listing in found for twins in listing.twins]
    )
    if not left_out:
        return ()
    patterns = dict.fromkeys(
        placed(pattern, _place(listing.layout, split, subset or "*"))
        for listing in found
        for pattern in listing.layout.images
    )
    return (
        f"{name}@{split} in {root}: left out {left_out.text(convert=True)}. Its photos are {' and '.join(patterns)} in any "
        "case",
    )


def _twin(twins: Twins) -> str:
    return f"{twins.other.suffix} beside a {twins.used.suffix} of the same name"


def survey(
    name: str,
    root: Path,
    *,
    split: str,
    subset: str | None = None,
    data: DataConfig | None = None,
    excluded: Container[str] = frozenset(),
) -> Listing:
    """What lies in the folders of a data set, complete or not, in the layout that fits best.

    That is the first one in which every image has a label, else the one with the most pairs.

    Args:
        name: a set that has a layout.
        root: its folder.
        split: one of its splits.
        subset: one of its subsets; needed where folders tell them apart.
        data: the user's own sets.
        excluded: images to leave out, as POSIX paths below the root.

    Raises:
        DataError: there are no images in any of the set's layouts, or its table cannot be read.
    """
    info = dataset(name, data)
    assert info.layouts, f"{name} is generated"
    seen = _Seen(root)
    tried = [layout for layout in info.layouts if not layout.only or split in layout.only]
    if (root / MARKER).is_file():
        tried = [*map(_of_arrays, tried), *tried]
    best: _Found | None = None
    for layout in tried:
        place = _place(layout, split, subset)
        for outer in _around(info):
            found = _look(info, layout, outer, place, split, subset, seen)
            if found and (best is None or len(found.labels) > len(best.labels)):
                best = found
        if best and best.labels.keys() == best.images.keys():
            break
    if best is None or (not best.labels and len(tried) > 1):
        raise DataError(_missing(name, info, tried, split, subset, best, seen))
    return _listing(info, best, root, seen, excluded)


def pictures_without_photos(
    name: str, root: Path, *, split: str, subset: str | None = None, data: DataConfig | None = None
) -> tuple[PassedOver, ...]:
    """Pictures in the folders where the photos of a split should lie, where none of them is one; see `survey`.

    Args:
        name: a set that has a layout.
        root: its folder.
        split: one of its splits.
        subset: one of its subsets; needed where folders tell them apart.
        data: the user's own sets.

    Raises:
        DataError: a folder cannot be listed.
    """
    info, seen = dataset(name, data), _Seen(root)
    tried = [layout for layout in info.layouts if not layout.only or split in layout.only]
    return _pictures(info, tried, split, subset, seen)


def _pictures(
    info: DatasetInfo, layouts: Sequence[Layout], split: str, subset: str | None, seen: "_Seen"
) -> tuple[PassedOver, ...]:
    """Pictures in the folders where the photos of any of the layouts lie that are none of them, in any split."""
    found: dict[Path, PassedOver] = {}
    for layout in layouts:
        place = _place(layout, split, subset)
        for outer in _around(info):
            patterns = [placed(pattern, place, outer=folder) for folder in outer for pattern in layout.images]
            fits = frozenset(path for pattern in patterns for _, path in seen.matches(pattern))
            for one in _passed_over(info, layout, outer, place, fits, seen):
                found.setdefault(one.path, one)
    return tuple(found[path] for path in sorted(found))


def _around(info: DatasetInfo) -> list[tuple[str, ...]]:
    """Folders of the download that are tried, those that are read together as one."""
    return [*((folder,) for folder in ("", *info.outer)), *([info.parts] if info.parts else [])]


def _place(layout: Layout, split: str, subset: str | None) -> dict[str, str]:
    """What the words in braces stand for."""
    return {"split": split, "folder": layout.folders.get(split, split), "subset": subset or ""}


def _of_arrays(layout: Layout) -> Layout:
    """The layout as a copy of unpacked pixels has it."""
    images, labels = (
        tuple(dict.fromkeys(str(PurePosixPath(pattern).with_suffix(ARRAY)) for pattern in patterns))
        for patterns in (layout.images, layout.label_patterns)
    )
    return replace(layout, images=images, labels=labels[0], more_labels=labels[1:])


class _Found(NamedTuple):
    """The files of a layout by what the stars of its patterns stand for, as paths below the root."""

    layout: Layout
    place: Mapping[str, str]
    images: dict[tuple[str, ...], str]
    """By the folder of the download that they lie in, and the stars."""
    labels: dict[tuple[str, ...], str]
    """Those that belong to an image."""
    orphans: dict[tuple[str, ...], str]
    """Those that do not."""
    where: dict[str, str]
    """Folder of the download with photos → that in which their label images lie, or should lie."""
    fits: frozenset[str]
    """All that the patterns of the photos fit, those of other splits and subsets included."""
    strays: list[str]
    """Those of them that are in no split."""
    twins: list[tuple[str, str]]
    """File that is used, and one of the same name with another ending, which is not."""

    @property
    def outer(self) -> str:
        """Folder of the download in which the label images lie; of several the last."""
        return [*self.where.values()][-1]


def _look(
    info: DatasetInfo,
    layout: Layout,
    outer: Sequence[str],
    place: Mapping[str, str],
    split: str,
    subset: str | None,
    seen: "_Seen",
) -> _Found | None:
    """The files of a layout in some folders of the download together; nothing where there are no photos."""
    members = layout.members()[split] if layout.members else None
    beginnings = info.prefixes.get(subset or "", ("",))
    all_wanted = members is None and beginnings == ("",)

    def wanted(stars: tuple[str, ...]) -> bool:
        return (members is None or stars[-1] in members) and stars[-1].startswith(beginnings)

    images: dict[tuple[str, ...], str] = {}
    labels: dict[tuple[str, ...], str] = {}
    where: dict[str, str] = {}
    fits: list[str] = []
    unwanted: list[tuple[str, str]] = []
    twins: list[tuple[str, str]] = []
    for folder in outer:
        photos: dict[tuple[str, ...], str] = {}
        for pattern in layout.images:
            for stars, path in seen.matches(placed(pattern, place, outer=folder)):
                fits.append(path)
                if all_wanted or wanted(stars):
                    used = photos.setdefault((folder, *stars), path)
                    if used is not path and used != path:
                        twins.append((used, path))
                elif members is not None:
                    unwanted.append((stars[-1], path))
        if not photos:
            continue
        images |= photos
        # Where there is none, the label is looked for beside the photo.
        where[folder] = folder
        # Photos and label images are two downloads: the folder around the one need not be that around the other.
        for around in dict.fromkeys((folder, "", *info.outer)):
            beside = {path for pattern in info.beside for _, path in seen.matches(placed(pattern, place, outer=around))}
            truths: dict[tuple[str, ...], str] = {}
            for pattern in layout.label_patterns:
                # Twins are two spellings of one pattern; of several patterns the first one's file counts.
                own: dict[tuple[str, ...], str] = {}
                for stars, path in seen.matches(placed(pattern, place, outer=around)):
                    if (all_wanted or wanted(stars)) and path not in beside:
                        used = own.setdefault((folder, *stars), path)
                        if used is not path:
                            twins.append((used, path))
                # Photos of one place may share label images, to which a link leads.
                if own and not photos.keys() <= own.keys() | truths.keys():
                    for stars, path in seen.matches_in_twins(placed(pattern, place, outer=around)):
                        if (folder, *stars) in photos:
                            own.setdefault((folder, *stars), path)
                truths = own | truths
            if truths:
                labels, where[folder] = labels | truths, around
                break
    if not images:
        return None
    known = frozenset[str]().union(*layout.members().values()) if layout.members and unwanted else frozenset[str]()
    return _Found(
        layout,
        place,
        images,
        {stars: path for stars, path in labels.items() if stars in images},
        {stars: path for stars, path in labels.items() if stars not in images},
        where,
        frozenset(fits),
        [path for last, path in unwanted if last not in known],
        twins,
    )


def _listing(info: DatasetInfo, found: _Found, root: Path, seen: "_Seen", excluded: Container[str]) -> Listing:
    table = found.layout.table(root / found.outer) if callable(found.layout.table) else found.layout.table
    stems = {stars: "/".join(star.strip("/") for star in stars[1:] if star) for stars in found.images}
    names = _distinct({stars: stem.replace("/", "_") for stars, stem in stems.items()}, found.images)
    kept = {stars: path for stars, path in found.images.items() if path not in excluded}
    pairs: list[Pair] = []
    bare: list[Pair] = []
    unlabelled: list[tuple[str, ...]] = []
    for stars in sorted(kept, key=lambda stars: (stems[stars], stars)):
        if stars in found.labels:
            pairs.append(Pair(names[stars], root / kept[stars], root / found.labels[stars]))
        else:
            label = filled(placed(found.layout.labels, found.place, outer=found.where[stars[0]]), stars[1:])
            bare.append(Pair(names[stars], root / kept[stars], root / label))
            unlabelled.append(stars)
    other = {
        path
        for layout in info.layouts
        if layout.labels != found.layout.labels and found.orphans
        for pattern in layout.label_patterns
        for around in dict.fromkeys(found.where.values())
        for stars, path in seen.matches(placed(pattern, found.place, outer=around))
        if any((part, *stars) in found.images for part in found.where)
    }
    passed_over = [
        *_passed_over(info, found.layout, tuple(found.where), found.place, found.fits, seen),
        *(PassedOver(root / path, f"{ending_of(path)} that belong to no split") for path in found.strays),
    ]
    form = info.label_format(found.layout, table, root / found.outer)
    if (root / MARKER).is_file():
        form = _copied(root, form)
    return Listing(
        found.layout,
        table,
        pairs,
        bare,
        [root / path for path in sorted({*found.orphans.values()} - other)],
        form,
        tuple(sorted(passed_over)),
        tuple(Twins(root / used, root / path) for used, path in sorted(found.twins)),
        _remedy(info, found, root, seen, unlabelled) if unlabelled else "",
    )


def _copied(root: Path, form: LabelFormat) -> LabelFormat:
    """How a copy says the class: by native ids, as grey values.

    Raises:
        DataError: the native ids were others when the copy was made, or that cannot be read.
    """
    if form.numbers is not None:
        try:
            names = json.loads((root / MARKER).read_bytes())["labels"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{root / MARKER} does not say what the ids in the copy's label images mean ({' '.join(str(error).split())}): "
                "make the copy anew, in another folder"
            ) from None
        if names != {str(native_id): name for native_id, name in form.names}:
            raise DataError(
                f"the copy in {root} was made with other classes in data.sets than now: make it anew, in another folder"
            )
    return LabelFormat(form.names)


def _passed_over(
    info: DatasetInfo,
    layout: Layout,
    outer: Sequence[str],
    place: Mapping[str, str],
    fits: frozenset[str],
    seen: "_Seen",
) -> list[PassedOver]:
    """Pictures in the folders where photos of the layout lie that none of its patterns fits.

    Args:
        info: the set.
        layout: where its photos lie.
        outer: folders of the download around them.
        place: what the words in the patterns stand for.
        fits: what its patterns fit, as paths below the root.
        seen: the folders.
    """
    found: dict[str, PassedOver] = {}
    for folder in outer:
        patterns = [placed(pattern, place, outer=folder) for pattern in layout.images]
        others = sorted({path for pattern in patterns for path in seen.files_of(pattern) if path not in fits})
        beside = [_beside_of(pattern).fullmatch for pattern in patterns]
        for path in seen.hidden:
            if any(fits_in(path) for fits_in in beside):
                found[path] = PassedOver(seen.root / path, f"hidden {ending_of(path)}")
        if not others:
            continue
        endings = {spelled for pattern in patterns for spelled in spellings(ending_of(pattern))}
        truths = [
            placed(pattern, _place(one, place["split"], place["subset"]), outer=around)
            for around in dict.fromkeys((folder, "", *info.outer))
            for one in info.layouts
            for pattern in (*one.label_patterns, *info.beside)
        ]
        # Where photos and labels lie together, pictures that end as labels do may be of any other kind of label.
        mixed = [(_beside_of(pattern).fullmatch, spellings(ending_of(pattern))) for pattern in truths]
        for path in others:
            ending = ending_of(path)
            if (ending and ending not in PICTURES) or not any(fits_in(path) for fits_in in beside):
                continue
            if any(ending in labels_end and fits_in(path) for fits_in, labels_end in mixed):
                continue
            if not ending:
                kind = kind_by_content(seen.root / path)
                if not kind or kind == "video":
                    continue
                what = f"without ending ({kind.upper()} by content)"
            elif ending in endings:
                named = " or ".join(dict.fromkeys(_STEM.sub("", pattern.rpartition("/")[2]) for pattern in patterns))
                what = f"{ending} whose names do not fit {named}"
            else:
                what = ending
            found[path] = PassedOver(seen.root / path, what)
    return [*found.values()]


_STEM = re.compile(r"\.\w+$")


@lru_cache(maxsize=512)
def _beside_of(pattern: str) -> re.Pattern[str]:
    """An expression for whatever lies in the folders of the files that a pattern fits."""
    return _compiled(f"{pattern.rpartition('/')[0]}/*".removeprefix("/"))[1]


def _remedy(info: DatasetInfo, found: _Found, root: Path, seen: "_Seen", unlabelled: Sequence[tuple[str, ...]]) -> str:
    """What to do about photos without labels, where something lies there of which labels can be made; else nothing."""
    for folder, around in found.where.items():
        own = {stars[1:] for stars in unlabelled if stars[0] == folder}
        places = dict.fromkeys((folder, around, "", *info.outer))
        if own and (made := _sources(info, found.layout, places, found.place, seen, own)):
            return made
        for layout in info.layouts:
            if own and layout.labels != found.layout.labels:
                for place in places:
                    for stars, path in seen.matches(placed(layout.labels, found.place, outer=place)):
                        if stars in own:
                            return f"There is {root / path}: use one kind of label images for all"
    return ""


def _sources(
    info: DatasetInfo,
    layout: Layout,
    around: Iterable[str],
    place: Mapping[str, str],
    seen: "_Seen",
    photos: Container[tuple[str, ...]] | None,
) -> str:
    """What label images can be made of, and how, where that lies there; else nothing.

    Args:
        info: the set.
        layout: where its labels should lie.
        around: folders of the download.
        place: what the words in the patterns stand for.
        seen: the folders.
        photos: what the stars of the photos without labels stand for; any if not given.
    """
    for folder in around:
        for source in info.sources:
            pattern = placed(source.pattern, place, outer=folder)
            files = [path for stars, path in seen.matches(pattern) if photos is None or not stars or stars in photos]
            if files:
                # It may be called in another folder, and a shell reads it.
                root = shlex.quote(os.path.abspath(seen.root / folder))
                tool = source.tool.format(root=root, **place)
                return (
                    f"{source.what} are there ({len(files):,}, the first {seen.root / files[0]}), of which label images have "
                    f"to be made: {tool}"
                )
        if (ending := ending_of(layout.labels)) and ending != ARRAY:
            pattern = placed(f"{layout.labels[: -len(ending)]}.json", place, outer=folder)
            files = [path for stars, path in seen.matches(pattern) if photos is None or stars in photos]
            if files:
                return (
                    f"{len(files):,} files of JSON are there (the first {seen.root / files[0]}), perhaps polygons: label "
                    "images have to be made of them, with the program that wrote them"
                )
    return ""


def _distinct(names: dict[tuple[str, ...], str], paths: Mapping[tuple[str, ...], str]) -> dict[tuple[str, ...], str]:
    """The names, but the whole path for those that several images would have."""
    if len({*names.values()}) == len(names):
        return names
    often = Counter(names.values())
    return {
        stars: name if often[name] == 1 else paths[stars].rpartition(".")[0].replace("/", "__")
        for stars, name in names.items()
    }


def _missing(
    name: str,
    info: DatasetInfo,
    tried: Sequence[Layout],
    split: str,
    subset: str | None,
    best: _Found | None,
    seen: "_Seen",
) -> str:
    """The message for a set that lies in none of the layouts tried."""
    ways = []
    for layout in tried:
        place = _place(layout, split, subset)
        first, *rest = (placed(pattern, place) for pattern in layout.images)
        photos = " or ".join([first, *(Path(pattern).suffix for pattern in rest)])
        truths = " or ".join(placed(pattern, place) for pattern in layout.label_patterns)
        ways.append(f"{photos} with {truths} ({layout.name})")
    around = [*info.outer, *info.parts]
    found = (
        f"has {len(best.images)} images ({seen.root / next(iter(best.images.values()))}, ...) and no label of any"
        if best
        else "has no images"
    )
    named = info.prefixes.get(subset or "")
    expected = (
        f"expected {', or '.join(ways)}"
        + (f", each there or below {' or '.join(around)}" if around else "")
        + (f", the names beginning with {' or '.join(named)}" if named else "")
    )
    head = f"the data set {name}{f'/{subset}' if subset else ''}@{split} {found} in {seen.root}"
    if best is None:
        others = LeftOut(one.what for one in _pictures(info, tried, split, subset, seen))
        return f"{head}{f' (left out {others.text(convert=True)})' if others else ''}: {expected}"
    for layout in tried:
        places = dict.fromkeys((*best.where, "", *info.outer))
        if made := _sources(info, layout, places, _place(layout, split, subset), seen, None):
            return f"{head}. {made}. Then, or instead, {expected}"
    return f"{head}: {expected}"


class _Seen:
    """What lies below a root, each folder listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[tuple[str, bool], list[str]] = {}
        self.by_ending: dict[tuple[str, bool], dict[str, list[str]]] = {}
        """The same files by how their names end, as they are spelled."""
        self.twins: dict[tuple[str, bool], list[str]] = {}
        """Of the same folders those in them that were not entered; see `files_below`."""
        self.hidden: list[str] = []
        """Pictures that are hidden, in the folders that were listed."""

    def files_of(self, pattern: str) -> list[str]:
        """The files, as sorted paths below the root, in the folders in which those that a pattern fits may lie."""
        folder, _, deep = _compiled(pattern)
        if (folder, deep) not in self.files:
            twins = self.twins[folder, deep] = []
            self.files[folder, deep] = sorted(
                files_below(self.root, folder, deep=deep, hidden=self.hidden, twins=twins)
            )
        return self.files[folder, deep]

    def matches_in_twins(self, pattern: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """As `matches`, for the files behind links whose places were listed already by another way."""
        folder, expression, deep = _compiled(pattern)
        self.files_of(pattern)
        for twin in self.twins[folder, deep]:
            for path in sorted(files_below(self.root, twin)):
                if found := expression.fullmatch(path):
                    yield found.groups(), path

    def matches(self, pattern: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """What the stars stand for, and the path below the root, of each file that a pattern fits.

        The ending may be spelled in any way; those that are spelled as in the pattern come first.
        """
        ending = _spelled(pattern)
        if not ending:
            fits = _compiled(pattern)[1].fullmatch
            for path in self.files_of(pattern):
                if found := fits(path):
                    yield found.groups(), path
            return
        folder, _, deep = _compiled(pattern)
        if (folder, deep) not in self.by_ending:
            sorted_by = self.by_ending[folder, deep] = {}
            for path in self.files_of(pattern):
                sorted_by.setdefault(path[path.rfind(".") :], []).append(path)
        wanted = spellings(ending)
        by_ending = self.by_ending[folder, deep]
        same = [spelled for spelled in by_ending if spelled.lower() in wanted]
        # Where the ending is known, the stars take all that comes before it, and nothing has to be tried twice.
        fits = _compiled(pattern.removesuffix(ending))[1].fullmatch
        for spelled in sorted(same, key=lambda spelled: (spelled != ending, spelled)):
            length = len(spelled)
            for path in by_ending[spelled]:
                if found := fits(path, 0, len(path) - length):
                    yield found.groups(), path


def placed(pattern: str, place: Mapping[str, str], *, outer: str = "") -> str:
    """A layout's pattern with what its words in braces stand for, below a folder of the download."""
    for word, meant in place.items():
        pattern = pattern.replace(f"{{{word}}}", meant)
    return "/".join(part for part in (*outer.split("/"), *pattern.split("/")) if part)


_STAR = re.compile(r"\*\*/|\*")


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> tuple[str, re.Pattern[str], bool]:
    """The folder to list, an expression for the paths of the files, and whether to list the folders in it, too."""
    fixed, *_ = pattern.split("*", 1)
    folder = fixed.rpartition("/")[0]
    groups = {"**/": "((?:[^/]+/)*)", "*": "([^/]+)", "": ""}
    ending = _spelled(pattern)
    stem = pattern.removesuffix(ending)
    stars = [*_STAR.findall(stem), ""]
    parts = [re.escape(part) + groups[star] for part, star in zip(_STAR.split(stem), stars, strict=True)]
    if ending:
        parts.append(f"(?i:{'|'.join(map(re.escape, spellings(ending)))})")
    return folder, re.compile("".join(parts)), "/" in pattern[len(folder) + bool(folder) :]


def _spelled(pattern: str) -> str:
    """The ending of the files that a pattern fits, as it has it; empty where the pattern leaves it open."""
    return ending if (ending := os.path.splitext(pattern)[1]) and "*" not in ending else ""


def filled(pattern: str, stars: Sequence[str]) -> str:
    """A pattern with what its stars stand for."""
    return "".join(part + star for part, star in zip(_STAR.split(pattern), (*stars, ""), strict=True))


class ExcludedLine(NamedTuple):
    """A line of a list of images to leave out."""

    file: Path
    number: int
    """Counted from 1."""
    name: str
    """Of the data set."""
    path: str
    """Of the image, as it is written."""

    def images(self, root: Path) -> frozenset[str]:
        """What it may mean: paths below the set's root without endings, of which one image has one at most."""
        path = self.path
        if os.path.isabs(path):
            for absolute, folder in ((path, os.path.abspath(root)), (os.path.realpath(path), os.path.realpath(root))):
                if absolute.startswith(f"{folder.rstrip('/')}/"):
                    path = os.path.relpath(absolute, folder)
                    break
        # Programs of Windows write backslashes; elsewhere one may be part of a name.
        return frozenset(_unended(_plain(form)) for form in (path, path.replace("\\", "/")))


class Excluded:
    """The images of a data set to leave out. A line counts whatever spelling or kind of ending its image has.

    Args:
        lines: those of the data set.
        root: its folder.
    """

    def __init__(self, lines: Sequence[ExcludedLine], root: Path) -> None:
        self.lines, self.root = tuple(lines), root
        self.by_image: dict[str, list[ExcludedLine]] = {}
        for line in lines:
            for image in line.images(root):
                self.by_image.setdefault(image, []).append(line)
        self.met: set[ExcludedLine] = set()
        """Lines whose image was asked for."""

    def __contains__(self, path: object) -> bool:
        if not self.by_image:
            return False
        lines = self.by_image.get(_unended(str(path)))
        self.met.update(lines or ())
        return lines is not None


def _plain(path: str) -> str:
    """A path without what leads nowhere."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _unended(path: str) -> str:
    """A path without the ending of a picture, or of the pixels of one."""
    ending = ending_of(path)
    return path[: -len(ending)] if ending in PICTURES or ending == ARRAY else path


def excluded_lines(files: Sequence[str]) -> list[ExcludedLine]:
    """The lines of lists of images to leave out, in UTF-8 or, as Windows may save them, UTF-16.

    A line is the set's name, the path and, where there is one, the reason, divided by tabs; empty lines and those that
    begin with # say nothing.

    Args:
        files: what `data.exclude` names.

    Raises:
        DataError: a file is missing or no such list.
    """
    found: list[ExcludedLine] = []
    for file in map(Path, files):
        try:
            text = decoded_text(file.expanduser().read_bytes())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text in UTF-8 or UTF-16: save it as UTF-8"
            raise DataError(f"cannot read {file}, which data.exclude names: {reason}") from None
        for number, line in enumerate(_LINE_END.split(text), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, path, *reason = (*(part.strip(" ") for part in line.split("\t")), "")
            if len(reason) > 2 or not name or not path or "\t" not in line or not _is_writable(path):
                raise DataError(
                    f"{file}, line {number}: cannot read {line[:80]!r}: write the data set's name, the image's path below "
                    "the set's root and the reason, divided by tabs, as `spcnet data check` does"
                )
            found.append(ExcludedLine(file, number, name, path))
    return found


_LINE_END = re.compile(r"\r\n|\r|\n")


def read_excluded(files: Sequence[str]) -> dict[str, frozenset[str]]:
    """The images to leave out, by data set, as they are written in lists; see `excluded_lines`.

    Args:
        files: what `data.exclude` names.

    Raises:
        DataError: a file is missing or no such list.
    """
    found: dict[str, set[str]] = {}
    for line in excluded_lines(files):
        found.setdefault(line.name, set()).add(line.path)
    return {name: frozenset(paths) for name, paths in found.items()}


def excluded_images(name: str, root: Path, data: DataConfig | None) -> Excluded:
    """The images of a data set that `data.exclude` leaves out.

    Args:
        name: of the set.
        root: its folder.
        data: names the lists.

    Raises:
        DataError: a list is missing or none.
    """
    lines = excluded_lines(data.exclude if data else [])
    return Excluded([line for line in lines if line.name == name], root)


def lines_without_image(name: str, excluded: Excluded, data: DataConfig | None) -> list[str]:
    """What is wrong with lists of images to leave out, a line for each list and data set.

    That is: lines that name an image which the set does not have in any split, and lines of sets that nobody knows. A
    known set that is not used is nothing wrong.

    Args:
        name: of the set that was opened.
        excluded: the lines about it, after every image that was found was looked up in it.
        data: the user's own sets, and the lists.

    Raises:
        DataError: a folder cannot be listed.
    """
    remarks: list[str] = []
    wrong = _not_there(name, excluded, [line for line in excluded.lines if line not in excluded.met], data)
    for file in dict.fromkeys(line.file for line in wrong):
        lines = [line for line in wrong if line.file == file]
        told = [f"line {line.number} ({line.path})" for line in lines]
        remarks.append(
            f"{file} lists {len(lines):,} image{'' if len(lines) == 1 else 's'} that the data set {name} in {excluded.root} "
            f"does not have, and nothing is left out for {'it' if len(lines) == 1 else 'them'}: {_few(told)}"
        )
    known = [other for other, info in DATASETS.items() if info.layouts] + [*(data.sets if data else ())]
    strange = [line for line in excluded_lines(data.exclude if data else []) if line.name not in known]
    for file, unknown in dict.fromkeys((line.file, line.name) for line in strange):
        told = [f"line {line.number}" for line in strange if (line.file, line.name) == (file, unknown)]
        near = get_close_matches(unknown, known, n=1)
        remarks.append(
            f"{file} lists images of {unknown!r}, which is no data set with files: {_few(told)}"
            + (f". Did you mean {near[0]!r}?" if near else "")
        )
    return remarks


def _few(told: Sequence[str], most: int = 3) -> str:
    return ", ".join(told[:most]) + (f" and {len(told) - most:,} more" if len(told) > most else "")


def _not_there(
    name: str, excluded: Excluded, lines: Sequence[ExcludedLine], data: DataConfig | None
) -> list[ExcludedLine]:
    """Those of the lines that name no image of any split."""
    if not lines:
        return []
    info, seen = dataset(name, data), _Seen(excluded.root)
    layouts = [*info.layouts, *(map(_of_arrays, info.layouts) if (excluded.root / MARKER).is_file() else ())]
    patterns = dict.fromkeys(
        placed(pattern, _place(layout, split, subset), outer=folder)
        for layout in layouts
        for split in info.splits
        for subset in (*info.subsets, None)
        for outer in _around(info)
        for folder in outer
        for pattern in layout.images
    )
    # Most lines are about another split, and their file is there as it is written.
    fits = [_compiled(pattern)[1].fullmatch for pattern in patterns]
    rest = [
        line
        for line in lines
        if not ((excluded.root / line.path).is_file() and any(fit(_plain(line.path)) for fit in fits))
    ]
    if not rest:
        return []
    images = {_unended(path) for pattern in patterns for _, path in seen.matches(pattern)}
    return [line for line in rest if not line.images(excluded.root) & images]


def write_excluded(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write a list of images to leave out, whole or not at all; `read_excluded` reads it.

    Args:
        path: where to.
        rows: for each image its set, its POSIX path below the set's root, and why.

    Raises:
        DataError: no permission or no space, or an image's path cannot stand in such a list.
    """
    lines = ["# Images to leave out: data set, path below its root, reason. Name this file in data.exclude."]
    for name, image, reason in rows:
        if not _is_writable(image) or os.path.isabs(image) or image != image.strip(" "):
            raise DataError(
                f"cannot list the image {image!r} of {name}: its path must lie below the set's root, without tabs or line "
                "breaks; rename the file"
            )
        lines.append(f"{name}\t{image}\t{' '.join(_CONTROL.sub(' ', reason).split())}")
    write_text(path, "\n".join(lines) + "\n")


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _is_writable(path: str) -> bool:
    """Whether a path can stand in a list."""
    return bool(path) and ".." not in re.split(r"[/\\]", path) and not _CONTROL.search(path)
