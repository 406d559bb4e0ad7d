"""Patterns of file names with stars, and the files below a folder that match them."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from spcnet.data.listing import files_below, spellings

_STAR = re.compile(r"\*\*/|\*")


def placed(pattern: str, words: Mapping[str, str], *, outer: str = "") -> str:
    """A layout's pattern with its words in braces replaced, below a folder of the download."""
    for word, value in words.items():
        pattern = pattern.replace(f"{{{word}}}", value)
    return "/".join(part for part in (*outer.split("/"), *pattern.split("/")) if part)


def filled(pattern: str, stars: Sequence[str]) -> str:
    """A pattern with its stars replaced."""
    return "".join(part + star for part, star in zip(_STAR.split(pattern), (*stars, ""), strict=True))


@lru_cache(maxsize=512)
def compiled(pattern: str) -> tuple[str, re.Pattern[str], bool]:
    """The folder to list, an expression for the paths of the files, and whether to list subfolders, too."""
    fixed, *_ = pattern.split("*", 1)
    folder = fixed.rpartition("/")[0]
    groups = {"**/": "((?:[^/]+/)*)", "*": "([^/]+)", "": ""}
    ending = _ending(pattern)
    stem = pattern.removesuffix(ending)
    stars = [*_STAR.findall(stem), ""]
    parts = [re.escape(part) + groups[star] for part, star in zip(_STAR.split(stem), stars, strict=True)]
    if ending:
        parts.append(f"(?i:{'|'.join(map(re.escape, spellings(ending)))})")
    return folder, re.compile("".join(parts)), "/" in pattern[len(folder) + bool(folder) :]


@lru_cache(maxsize=512)
def siblings(pattern: str) -> re.Pattern[str]:
    """An expression for every file in the folders of the files that match a pattern."""
    return compiled(f"{pattern.rpartition('/')[0]}/*".removeprefix("/"))[1]


def _ending(pattern: str) -> str:
    """The ending of the files that match a pattern, as it is spelled there; empty where the pattern leaves it open."""
    return ending if (ending := os.path.splitext(pattern)[1]) and "*" not in ending else ""


class FileIndex:
    """The files below a root, each folder listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[tuple[str, bool], list[str]] = {}
        self.by_ending: dict[tuple[str, bool], dict[str, list[str]]] = {}
        """The same files by ending, as it is spelled."""
        self.twins: dict[tuple[str, bool], list[str]] = {}
        """Folders in the same folders that were not entered; see `files_below`."""
        self.hidden: list[str] = []
        """Hidden pictures in the folders that were listed."""

    def files_of(self, pattern: str) -> list[str]:
        """Sorted paths below the root of the files in the folders in which those that match a pattern may lie."""
        folder, _, deep = compiled(pattern)
        if (folder, deep) not in self.files:
            twins = self.twins[folder, deep] = []
            self.files[folder, deep] = sorted(
                files_below(self.root, folder, deep=deep, hidden=self.hidden, twins=twins)
            )
        return self.files[folder, deep]

    def matches(self, pattern: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """What the stars stand for, and the path below the root, of each file that matches a pattern.

        The ending may be spelled in any way; files whose ending is spelled as in the pattern come first.
        """
        ending = _ending(pattern)
        if not ending:
            fullmatch = compiled(pattern)[1].fullmatch
            for path in self.files_of(pattern):
                if match := fullmatch(path):
                    yield match.groups(), path
            return
        folder, _, deep = compiled(pattern)
        if (folder, deep) not in self.by_ending:
            groups = self.by_ending[folder, deep] = {}
            for path in self.files_of(pattern):
                groups.setdefault(path[path.rfind(".") :], []).append(path)
        by_ending, same = self.by_ending[folder, deep], spellings(ending)
        # The ending is known: the stars match all before it, and no path is tried twice.
        fullmatch = compiled(pattern.removesuffix(ending))[1].fullmatch
        for spelled in sorted((one for one in by_ending if one.lower() in same), key=lambda one: (one != ending, one)):
            length = len(spelled)
            for path in by_ending[spelled]:
                if match := fullmatch(path, 0, len(path) - length):
                    yield match.groups(), path

    def matches_in_twins(self, pattern: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """As `matches`, for the files behind links to folders that were listed by another path."""
        folder, expression, deep = compiled(pattern)
        self.files_of(pattern)
        for twin in self.twins[folder, deep]:
            for path in sorted(files_below(self.root, twin)):
                if match := expression.fullmatch(path):
                    yield match.groups(), path
