"""Lists of images to leave out (`data.exclude`): reading them, applying them to a data set, and writing them."""

import os
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from spcnet.config import DataConfig
from spcnet.data.catalog import DATASETS, dataset
from spcnet.data.image_files import ARRAY
from spcnet.data.listing import PICTURES, ending_of
from spcnet.data.patterns import FileIndex, compiled, placed
from spcnet.data.roots import array_layout, is_copy
from spcnet.data.search import words_of
from spcnet.errors import DataError
from spcnet.files import decoded_text, write_text

_LINE_END = re.compile(r"\r\n|\r|\n")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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
        """Images that it may mean: paths below the set's root without endings."""
        path = self.path
        if os.path.isabs(path):
            for absolute, folder in ((path, os.path.abspath(root)), (os.path.realpath(path), os.path.realpath(root))):
                if absolute.startswith(f"{folder.rstrip('/')}/"):
                    path = os.path.relpath(absolute, folder)
                    break
        # Programs of Windows write backslashes; elsewhere one may be part of a name.
        return frozenset(_without_ending(_normal(form)) for form in (path, path.replace("\\", "/")))


class Excluded:
    """The images of a data set that `data.exclude` leaves out.

    A line counts whatever spelling or kind of ending its image has.
    """

    def __init__(self, name: str, root: Path, data: DataConfig | None) -> None:
        """Read the lists that `data` names, for the set of that name in that folder; raises `DataError` for a broken one."""
        self.name, self.root, self.data = name, root, data
        self.all_lines = excluded_lines(data.exclude if data else [])
        self.lines = [line for line in self.all_lines if line.name == name]
        self.by_image: dict[str, list[ExcludedLine]] = {}
        for line in self.lines:
            for image in line.images(root):
                self.by_image.setdefault(image, []).append(line)
        self.used: set[ExcludedLine] = set()
        """Lines whose image was looked up."""

    def __contains__(self, path: object) -> bool:
        if not self.by_image:
            return False
        lines = self.by_image.get(_without_ending(str(path)))
        self.used.update(lines or ())
        return lines is not None

    def remarks(self) -> list[str]:
        """Remarks about the lists, a line for each list and data set, after every image of the set was looked up.

        They name lines with an image that the set does not have in any split, and lines of unknown sets. A known set that
        is not used is not a fault.

        Raises:
            DataError: a folder cannot be listed.
        """
        remarks: list[str] = []
        missing: dict[Path, list[str]] = {}
        for line in self._without_image():
            missing.setdefault(line.file, []).append(f"line {line.number} ({line.path})")
        for file, lines in missing.items():
            images, them = ("image", "it") if len(lines) == 1 else ("images", "them")
            missed = f"{len(lines):,} {images} that the data set {self.name} in {self.root} does not have"
            remarks.append(f"{file} lists {missed}, and nothing is left out for {them}: {_few(lines)}")
        known = [name for name, info in DATASETS.items() if info.layouts] + [*(self.data.sets if self.data else ())]
        unknown: dict[tuple[Path, str], list[str]] = {}
        for line in self.all_lines:
            if line.name not in known:
                unknown.setdefault((line.file, line.name), []).append(f"line {line.number}")
        for (file, wrong), lines in unknown.items():
            near = get_close_matches(wrong, known, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            remarks.append(f"{file} lists images of {wrong!r}, which is not a data set with files: {_few(lines)}{hint}")
        return remarks

    def _without_image(self) -> list[ExcludedLine]:
        """Lines that name no image of any split."""
        lines = [line for line in self.lines if line not in self.used]
        if not lines:
            return []
        info, index = dataset(self.name, self.data), FileIndex(self.root)
        layouts = [*info.layouts, *(map(array_layout, info.layouts) if is_copy(self.root) else ())]
        patterns = dict.fromkeys(
            placed(pattern, words_of(layout, split, subset), outer=folder)
            for layout in layouts
            for split in info.splits
            for subset in (*info.subsets, None)
            for outer in info.outer_folders
            for folder in outer
            for pattern in layout.images
        )
        # Most lines are about another split, and their file is there as it is written.
        expressions = [compiled(pattern)[1] for pattern in patterns]

        def is_there(path: str) -> bool:
            return (self.root / path).is_file() and any(one.fullmatch(_normal(path)) for one in expressions)

        rest = [line for line in lines if not is_there(line.path)]
        if not rest:
            return []
        images = {_without_ending(path) for pattern in patterns for _, path in index.matches(pattern)}
        return [line for line in rest if not line.images(self.root) & images]


def _normal(path: str) -> str:
    """A path without empty parts and dots."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _without_ending(path: str) -> str:
    """A path without the ending of a picture or an array."""
    ending = ending_of(path)
    return path[: -len(ending)] if ending in PICTURES or ending == ARRAY else path


def excluded_lines(files: Sequence[str]) -> list[ExcludedLine]:
    """The lines of lists of images to leave out, in UTF-8 or, as Windows may save them, UTF-16.

    A line is the set's name, the path and, where there is one, the reason, separated by tabs; empty lines and those that
    begin with # are skipped.

    Args:
        files: what `data.exclude` names.

    Raises:
        DataError: a file is missing or no such list.
    """
    lines: list[ExcludedLine] = []
    for file in map(Path, files):
        try:
            text = decoded_text(file.expanduser().read_bytes())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text in UTF-8 or UTF-16: save it as UTF-8"
            raise DataError(f"cannot read {file}, which data.exclude names: {reason}") from None
        for number, line in enumerate(_LINE_END.split(text), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, path, *reason = (*(part.strip(" ") for part in line.split("\t")), "")
            if len(reason) > 2 or not name or not path or "\t" not in line or not _is_writable(path):
                remedy = (
                    "write the data set's name, the image's path below the set's root and the reason, separated by tabs"
                )
                raise DataError(
                    f"{file}, line {number}: cannot read {line[:80]!r}: {remedy}, as `spcnet data check` does"
                )
            lines.append(ExcludedLine(file, number, name, path))
    return lines


def _few(lines: Sequence[str], most: int = 3) -> str:
    return ", ".join(lines[:most]) + (f" and {len(lines) - most:,} more" if len(lines) > most else "")


def write_excluded(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write a list of images to leave out atomically; `excluded_lines` reads it.

    Args:
        path: of the file.
        rows: for each image its set, its POSIX path below the set's root, and why.

    Raises:
        DataError: no permission or no space, or an image's path cannot stand in such a list.
    """
    lines = ["# Images to leave out: data set, path below its root, reason. Name this file in data.exclude."]
    for name, image, reason in rows:
        if not _is_writable(image) or os.path.isabs(image) or image != image.strip(" "):
            rule = "its path must lie below the set's root, without tabs or line breaks"
            raise DataError(f"cannot list the image {image!r} of {name}: {rule}; rename the file")
        lines.append(f"{name}\t{image}\t{' '.join(_CONTROL.sub(' ', reason).split())}")
    write_text(path, "\n".join(lines) + "\n")


def _is_writable(path: str) -> bool:
    """Whether a path can stand in a list."""
    return bool(path) and ".." not in re.split(r"[/\\]", path) and not _CONTROL.search(path)
