"""What is said of files of a data set that are missing, unused, or of no use."""

import os
import re
import shlex
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from spcnet.data.image_files import ARRAY
from spcnet.data.layouts import Layout
from spcnet.data.listing import PICTURES, LeftOut, ending_of, kind_by_content, spellings
from spcnet.data.patterns import placed, siblings
from spcnet.data.search import Match, Search, Stars, words_of

_STEM = re.compile(r"\.\w+$")


class PassedOver(NamedTuple):
    """A picture in a folder of photos that is not one of the split's photos."""

    path: Path
    what: str
    """Its ending, and where that is no reason, the reason."""


def passed_over(search: Search, outer: Iterable[str], fits: Container[str]) -> list[PassedOver]:
    """Pictures in the folders of a layout's photos that match none of its patterns.

    Args:
        search: the layout and the files.
        outer: folders of the download around the photos.
        fits: paths below the root of what the patterns match.
    """
    index, info, pictures = search.index, search.info, dict[str, str]()
    for folder in outer:
        patterns = [search.placed(pattern, folder) for pattern in search.layout.images]
        in_folder = [siblings(pattern).fullmatch for pattern in patterns]
        for path in index.hidden:
            if any(fullmatch(path) for fullmatch in in_folder):
                pictures[path] = f"hidden {ending_of(path)}"
        others = sorted({path for pattern in patterns for path in index.files_of(pattern) if path not in fits})
        if not others:
            continue
        endings = {spelled for pattern in patterns for spelled in spellings(ending_of(pattern))}
        labels = [
            placed(pattern, words_of(layout, search.split, search.subset), outer=around)
            for around in dict.fromkeys((folder, "", *info.outer))
            for layout in info.layouts
            for pattern in (*layout.label_patterns, *info.beside)
        ]
        # Where photos and labels lie together, pictures that end as labels do may be of any other kind of label.
        mixed = [(siblings(pattern).fullmatch, spellings(ending_of(pattern))) for pattern in labels]
        for path in others:
            ending = ending_of(path)
            if (ending and ending not in PICTURES) or not any(fullmatch(path) for fullmatch in in_folder):
                continue
            if any(ending in label_endings and fullmatch(path) for fullmatch, label_endings in mixed):
                continue
            if not ending:
                kind = kind_by_content(index.root / path)
                if not kind or kind == "video":
                    continue
                pictures[path] = f"without ending ({kind.upper()} by content)"
            elif ending in endings:
                names = " or ".join(dict.fromkeys(_STEM.sub("", pattern.rpartition("/")[2]) for pattern in patterns))
                pictures[path] = f"{ending} whose names do not fit {names}"
            else:
                pictures[path] = ending
    return [PassedOver(index.root / path, what) for path, what in pictures.items()]


def pictures_without_photos(searches: Iterable[Search]) -> tuple[PassedOver, ...]:
    """Pictures in the folders where the photos of some layouts should lie that are not among them, in any split; sorted.

    Raises:
        DataError: a folder cannot be listed.
    """
    pictures: dict[Path, PassedOver] = {}
    for search in searches:
        for outer in search.info.outer_folders:
            patterns = ((pattern, folder) for folder in outer for pattern in search.layout.images)
            fits = {path for pattern, folder in patterns for _, path in search.matches(pattern, folder)}
            for one in passed_over(search, outer, fits):
                pictures.setdefault(one.path, one)
    return tuple(pictures[path] for path in sorted(pictures))


def label_remedy(match: Match, unlabelled: Sequence[Stars]) -> str:
    """How to label photos that have no label, where something to make labels of lies there; else empty."""
    search = match.search
    for folder, around in match.folders.items():
        photos = {stars[1:] for stars in unlabelled if stars[0] == folder}
        if not photos:
            continue
        places = dict.fromkeys((folder, around, "", *search.info.outer))
        if remedy := _label_sources(search, places, photos):
            return remedy
        for layout in search.info.layouts:
            if layout.labels != search.layout.labels:
                for place in places:
                    for stars, path in search.matches(layout.labels, place):
                        if stars in photos:
                            return f"There is {search.index.root / path}: use one kind of label images for all"
    return ""


def _label_sources(search: Search, around: Iterable[str], photos: Container[Stars] | None) -> str:
    """What label images of photos (any if not given) can be made of in folders of the download, and how; else empty."""
    root = search.index.root
    for folder in around:
        for source in search.info.sources:
            matches = search.matches(source.pattern, folder)
            if files := [path for stars, path in matches if photos is None or not stars or stars in photos]:
                # It may be called in another folder, and a shell reads it.
                tool = source.tool.format(root=shlex.quote(os.path.abspath(root / folder)), **search.words)
                return f"{source.what} are there ({len(files):,}, the first {root / files[0]}); make label images of them: {tool}"
        labels = search.layout.labels
        if (ending := ending_of(labels)) and ending != ARRAY:
            polygons = search.matches(f"{labels[: -len(ending)]}.json", folder)
            if files := [path for stars, path in polygons if photos is None or stars in photos]:
                what = f"{len(files):,} JSON files are there (the first {root / files[0]}), perhaps polygons"
                return f"{what}: make label images of them with the program that wrote them"
    return ""


def no_layout(name: str, searches: Sequence[Search], best: Match | None) -> str:
    """The message for a set that lies in none of its layouts.

    Args:
        name: of the set.
        searches: the layouts tried.
        best: the files of the layout that fits best, which have no labels; None where there are no photos.
    """
    search = searches[0]
    info, index, prefixes = search.info, search.index, search.info.prefixes.get(search.subset or "")
    around = [*info.outer, *info.parts]
    expected = (
        f"expected {', or '.join(map(_described, searches))}"
        + (f", each there or below {' or '.join(around)}" if around else "")
        + (f", the names beginning with {' or '.join(prefixes)}" if prefixes else "")
    )
    what = f"the data set {name}{f'/{search.subset}' if search.subset else ''}@{search.split}"
    if best is None:
        others = LeftOut(one.what for one in pictures_without_photos(searches))
        left_out = f" (left out {others.text(convert=True)})" if others else ""
        return f"{what} has no images in {index.root}{left_out}: {expected}"
    first = index.root / next(iter(best.images.values()))
    head = f"{what} has {len(best.images)} images ({first}, ...) and no label of any in {index.root}"
    for one in searches:
        if remedy := _label_sources(one, dict.fromkeys((*best.folders, "", *info.outer)), None):
            return f"{head}. {remedy}. Then, or instead, {expected}"
    return f"{head}: {expected}"


def _described(search: Search) -> str:
    """Where a layout has its photos and labels."""
    layout: Layout = search.layout
    first, *rest = map(search.placed, layout.images)
    photos = " or ".join([first, *(Path(pattern).suffix for pattern in rest)])
    return f"{photos} with {' or '.join(map(search.placed, layout.label_patterns))} ({layout.name})"
