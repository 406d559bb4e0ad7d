"""Where the files of a data set lie: its root, and which label belongs to which photograph."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from spcnet.config import DataConfig
from spcnet.data.catalog import DatasetInfo, Layout, Table, dataset
from spcnet.data.images import ARRAY
from spcnet.errors import DataError
from spcnet.files import write_text

ROOT_VARIABLE = "SPCNET_DATA"
"""Environment variable with the folder that holds one folder per data set, named as the set is."""

MARKER = "spcnet-cache.json"
"""File in the folder of a copy (`spcnet.data.cache`) that says what it is a copy of."""


class Pair(NamedTuple):
    """Where one image and its label lie."""

    name: str
    image: Path
    label: Path


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


def find_pairs(
    name: str,
    root: Path,
    *,
    split: str,
    subset: str | None = None,
    data: DataConfig | None = None,
    excluded: frozenset[str] = frozenset(),
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
    info = dataset(name, data)
    by_folder = any("{subset}" in pattern for layout in info.layouts for pattern in layout.images)
    subsets = list(info.subsets) if subset is None and by_folder else [subset]
    found = [survey(name, root, split=split, subset=part, data=data, excluded=excluded) for part in subsets]
    if any(listing.table != found[0].table for listing in found):
        raise DataError(f"the subsets of {name} in {root} have labels of different kinds: use one kind for all")
    bare = [pair for listing in found for pair in listing.bare]
    pairs = [pair for listing in found for pair in listing.pairs]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(bare) + len(pairs)} images of the data set {name} have no label: the first is "
            f"{bare[0].image}, whose label should be {bare[0].label}"
        )
    if not pairs:
        raise DataError(
            f"data.exclude leaves out every image of the data set {name} in {root}: take lines out of its files"
        )
    return pairs, found[0].table


def survey(
    name: str,
    root: Path,
    *,
    split: str,
    subset: str | None = None,
    data: DataConfig | None = None,
    excluded: frozenset[str] = frozenset(),
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
        place = {"split": split, "folder": layout.folders.get(split, split), "subset": subset or ""}
        for outer in (*((folder,) for folder in ("", *info.outer)), info.parts):
            found = _look(info, layout, outer, place, split, subset, seen)
            if found and (best is None or len(found.labels) > len(best.labels)):
                best = found
        if best and best.labels.keys() == best.images.keys():
            break
    if best is None or (not best.labels and len(tried) > 1):
        raise DataError(_missing(name, info, tried, root, split, subset, best))
    return _listing(info, best, root, seen, excluded)


def _of_arrays(layout: Layout) -> Layout:
    """The layout as a copy of unpacked pixels has it."""
    images, labels = (
        tuple(dict.fromkeys(str(PurePosixPath(pattern).with_suffix(ARRAY)) for pattern in patterns))
        for patterns in (layout.images, (layout.labels,))
    )
    return replace(layout, images=images, labels=labels[0])


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
    outer: str
    """Folder of the download in which the label images lie; of several the last."""


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

    def wanted(stars: tuple[str, ...]) -> bool:
        return (members is None or stars[-1] in members) and stars[-1].startswith(beginnings)

    images: dict[tuple[str, ...], str] = {}
    labels: dict[tuple[str, ...], str] = {}
    where = ""
    for folder in outer:
        photos: dict[tuple[str, ...], str] = {}
        for pattern in layout.images:
            for stars, path in seen.matches(placed(pattern, place, outer=folder)):
                if wanted(stars):
                    photos.setdefault((folder, *stars), path)
        if not photos:
            continue
        images |= photos
        # Photos and label images are two downloads: the folder around the one need not be that around the other.
        for around in dict.fromkeys((folder, "", *info.outer)):
            beside = {path for pattern in info.beside for _, path in seen.matches(placed(pattern, place, outer=around))}
            truths = {
                (folder, *stars): path
                for stars, path in seen.matches(placed(layout.labels, place, outer=around))
                if wanted(stars) and path not in beside
            }
            if truths:
                labels, where = labels | truths, around
                break
    if not images:
        return None
    return _Found(
        layout,
        place,
        images,
        {stars: path for stars, path in labels.items() if stars in images},
        {stars: path for stars, path in labels.items() if stars not in images},
        where,
    )


def _listing(info: DatasetInfo, found: _Found, root: Path, seen: "_Seen", excluded: frozenset[str]) -> Listing:
    table = found.layout.table(root / found.outer) if callable(found.layout.table) else found.layout.table
    stems = {stars: "/".join(star.strip("/") for star in stars[1:] if star) for stars in found.images}
    names = _distinct({stars: stem.replace("/", "_") for stars, stem in stems.items()}, found.images)
    kept = {stars: path for stars, path in found.images.items() if path not in excluded}
    pairs: list[Pair] = []
    bare: list[Pair] = []
    for stars in sorted(kept, key=lambda stars: (stems[stars], stars)):
        if stars in found.labels:
            pairs.append(Pair(names[stars], root / kept[stars], root / found.labels[stars]))
        else:
            label = filled(placed(found.layout.labels, found.place, outer=found.outer), stars[1:])
            bare.append(Pair(names[stars], root / kept[stars], root / label))
    other = {
        path
        for layout in info.layouts
        if layout.labels != found.layout.labels and found.orphans
        for stars, path in seen.matches(placed(layout.labels, found.place, outer=found.outer))
        if any((part, *stars) in found.images for part in {key[0] for key in found.images})
    }
    return Listing(
        found.layout, table, pairs, bare, [root / path for path in sorted({*found.orphans.values()} - other)]
    )


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
    root: Path,
    split: str,
    subset: str | None,
    best: _Found | None,
) -> str:
    """The message for a set that lies in none of the layouts tried."""
    ways = []
    for layout in tried:
        place = {"split": split, "folder": layout.folders.get(split, split), "subset": subset or ""}
        first, *rest = (placed(pattern, place) for pattern in layout.images)
        photos = " or ".join([first, *(Path(pattern).suffix for pattern in rest)])
        ways.append(f"{photos} with {placed(layout.labels, place)} ({layout.name})")
    around = [*info.outer, *info.parts]
    found = (
        f"has {len(best.images)} images ({root / next(iter(best.images.values()))}, ...) and no label of any"
        if best
        else "has no images"
    )
    named = info.prefixes.get(subset or "")
    return (
        f"the data set {name}{f'/{subset}' if subset else ''}@{split} {found} in {root}: expected "
        + ", or ".join(ways)
        + (f", each there or below {' or '.join(around)}" if around else "")
        + (f", the names beginning with {' or '.join(named)}" if named else "")
    )


class _Seen:
    """What lies below a root, each folder listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[tuple[str, bool], list[str]] = {}

    def matches(self, pattern: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """What the stars stand for, and the path below the root, of each file that a pattern fits."""
        folder, expression, deep = _compiled(pattern)
        if (folder, deep) not in self.files:
            self.files[folder, deep] = sorted(_below(self.root, folder, deep=deep))
        fits = expression.fullmatch
        for path in self.files[folder, deep]:
            if found := fits(path):
                yield found.groups(), path


def _below(root: Path, folder: str, *, deep: bool) -> Iterator[str]:
    """Paths below the root of the files in a folder, and in the folders in it; nothing hidden."""
    waiting, followed = [folder], set[str]()
    while waiting:
        inside = waiting.pop()
        begin = f"{inside}/" if inside else ""
        try:
            with os.scandir(root / inside) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if not entry.is_dir():
                        yield begin + entry.name
                    elif deep and not (entry.is_symlink() and _leads_back(entry, followed)):
                        waiting.append(begin + entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise DataError(f"cannot list the folder {root / inside}: {error.strerror or error}") from None


def _leads_back(link: os.DirEntry[str], followed: set[str]) -> bool:
    """Whether a link to a folder leads to where it lies itself, or to where another one has led."""
    target, here = os.path.realpath(link.path), os.path.realpath(os.path.dirname(link.path))
    if target in followed or f"{here}/".startswith(f"{target}/"):
        return True
    followed.add(target)
    return False


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
    stars = [*_STAR.findall(pattern), ""]
    parts = (re.escape(part) + groups[star] for part, star in zip(_STAR.split(pattern), stars, strict=True))
    return folder, re.compile("".join(parts)), "/" in pattern[len(folder) + bool(folder) :]


def filled(pattern: str, stars: Sequence[str]) -> str:
    """A pattern with what its stars stand for."""
    return "".join(part + star for part, star in zip(_STAR.split(pattern), (*stars, ""), strict=True))


def read_excluded(files: Sequence[str]) -> dict[str, frozenset[str]]:
    """The images to leave out, by data set, as POSIX paths below the set's root.

    A line is the set's name, the path and the reason, divided by tabs; empty lines and those that begin with # say
    nothing.

    Args:
        files: what `data.exclude` names.

    Raises:
        DataError: a file is missing or no such list.
    """
    found: dict[str, set[str]] = {}
    for file in map(Path, files):
        try:
            text = file.expanduser().read_text("utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise DataError(f"cannot read {file}, which data.exclude names: {reason}") from None
        for number, line in enumerate(text.split("\n"), 1):
            line = line.removesuffix("\r")
            if not line.strip() or line.startswith("#"):
                continue
            name, *rest = line.split("\t")
            if len(rest) != 2 or not name or not _is_below(rest[0]):
                raise DataError(
                    f"{file}, line {number}: cannot read {line[:80]!r}: write the data set's name, the image's path below "
                    "the set's root and the reason, divided by tabs, as `spcnet data check` does"
                )
            found.setdefault(name, set()).add(rest[0])
    return {name: frozenset(paths) for name, paths in found.items()}


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
        if not _is_below(image) or image.splitlines() != [image]:
            raise DataError(
                f"cannot list the image {image!r} of {name}: its path must lie below the set's root, without tabs or line "
                "breaks; rename the file"
            )
        lines.append(f"{name}\t{image}\t{' '.join(reason.split())}")
    write_text(path, "\n".join(lines) + "\n")


def _is_below(path: str) -> bool:
    parts = path.split("/")
    return "" not in parts and ".." not in parts and "\t" not in path and path.isprintable()
