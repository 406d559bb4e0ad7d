"""Writing files whole or not at all: under another name first, then renamed. A killed process leaves the old file.

And reading what people write: text in UTF-8, and YAML.
"""

import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import yaml

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


def read_text(path: Path, what: str = "file") -> str:
    """The text of a file in UTF-8, with or without a byte order mark; its line ends become newlines.

    Args:
        path: the file.
        what: what it is, for the messages.

    Raises:
        DataError: it cannot be read, or is no text in UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the {what} {path}: {error.strerror or error}. Check its path and permissions"
        ) from error
    remedy = "save it as UTF-8"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"the {what} {path} is UTF-16, it must be UTF-8: {remedy}, for example with iconv -f UTF-16 -t UTF-8"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"the {what} {path} is not UTF-8: line {line} has the byte 0x{error.object[error.start]:02x}; {remedy}, "
            "or check that it is a text file"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"the {what} {path} is no text in UTF-8: line {line} has a NUL byte, as in UTF-16 and damaged files; {remedy}, or "
            "restore it"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_yaml(path: Path, what: str = "file") -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        path: the file.
        what: what it is, for the messages.

    Raises:
        DataError: it cannot be read, is no text in UTF-8 or no YAML, or maps no names to values.
    """
    return _mapping(read_text(path, what), path, what)


def read_yaml_text(path: Path, what: str = "file") -> str:
    """The text of a YAML file that holds a mapping, for another program to parse.

    Raises:
        DataError: see `read_yaml`.
    """
    text = read_text(path, what)
    _mapping(text, path, what)
    return text


def _mapping(text: str, path: Path, what: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise DataError(f"cannot read the {what} {path}: {said}. Mend that line, it is no YAML") from error
    if not isinstance(values, dict):
        came = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise DataError(f"the {what} {path} {came} and names no method or other option: it must map options to values")
    return values


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
