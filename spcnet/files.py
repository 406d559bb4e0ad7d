"""Writing files whole or not at all: under another name first, then renamed. A killed process leaves the old file."""

import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from spcnet.errors import DataError

_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.part")


def write_whole(path: Path, write: Callable[[IO[bytes]], object], *, keep: Path | None = None) -> None:
    """Write a file, and the folders above it, and see it to the disk before it takes the old one's place.

    Args:
        path: where to.
        write: gets the open file and writes the content.
        keep: name that the old file then has, in the same folder, where it is to be kept. What had that name before
            stays until the new file stands, so that a process killed at any moment leaves a whole file.

    Raises:
        DataError: no permission, no space, or something else is in the way.
    """
    temporary, held = _beside(path), _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            try:
                os.link(path, held)
            except OSError:  # a file system without hard links
                os.replace(path, keep)
        os.replace(temporary, path)
        if keep is not None:
            if held.exists():
                os.replace(held, keep)
            _sync_folder(path.parent)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}. Check the folder's permissions and the space left"
        ) from error
    finally:
        for left in (temporary, held):
            with suppress(OSError):
                left.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8.

    Raises:
        DataError: no permission or no space.
    """
    write_whole(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def remove_unfinished(folder: Path) -> int:
    """Remove what killed processes began to write in a folder and the folders below; nobody else may be writing there.

    Returns:
        How many files there were.
    """
    removed = 0
    for path in list(folder.rglob(".*.part")):
        if _UNFINISHED.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()
                removed += 1
    return removed


def _beside(path: Path) -> Path:
    return path.parent / f".{uuid.uuid4().hex}.part"


def _sync_folder(folder: Path) -> None:
    """See the names of the files to the disk; a renamed file keeps its old name over a power cut otherwise."""
    with suppress(OSError):  # not every system lets a folder be opened
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
