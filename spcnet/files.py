"""Writing files whole or not at all: under another name first, then renamed. A killed process leaves the old file."""

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from spcnet.errors import DataError


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file, and the folders above it, and see it to the disk before it takes the old one's place.

    Args:
        path: where to.
        write: gets the open file and writes the content.

    Raises:
        DataError: no permission, no space, or something else is in the way.
    """
    temporary = path.parent / f".{uuid.uuid4().hex}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}. Check the folder's permissions and the space left"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8.

    Raises:
        DataError: no permission or no space.
    """
    write_whole(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
