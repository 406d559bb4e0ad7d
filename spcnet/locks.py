"""A folder that one process at a time writes to: the lock lives and dies with the process that holds it.

The system keeps the lock, so that a killed process leaves none behind. It is a record lock (POSIX `fcntl`), which other
computers see over NFS, too, and which the processes that read images do not inherit. The file also says who holds it.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from errno import EACCES, EAGAIN, EDEADLK
from pathlib import Path
from typing import IO

from spcnet.errors import DataError, UsageError

LOCK_FILE = ".lock"
"""In the folder; removed when the lock is given back."""
_WINDOWS_BYTE = 2**30
"""What is locked on Windows: a byte behind what is written, for there nobody else can read what is locked."""
_held: dict[str, int] = {}
"""Folder → process that holds it. A record lock does not keep out its own process, and forks have a copy of this table."""


@contextmanager
def locked(folder: Path, *, what: str) -> Iterator[str | None]:
    """Keep every other process that asks in the same way out of a folder, until the block is left or this process ends.

    Args:
        folder: made if need be.
        what: who asks, for the message, such as "training".

    Yields:
        None; or, where the file system knows no locks, so that nobody is kept out, what the user should know.

    Raises:
        UsageError: another one holds it; names the process and its computer.
        DataError: the folder cannot be written to.
    """
    path, key = folder / LOCK_FILE, os.path.realpath(folder)
    if _held.get(key) == os.getpid():
        raise _in_use(folder, what, f"this process, {os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, is_locked = _open_locked(path)
    except BlockingIOError:
        raise _in_use(folder, what, _holder(path)) from None
    except OSError as error:
        remedy = "check its permission or choose another --output"
        raise DataError(f"cannot write to the folder {folder} ({error.strerror}): {remedy}") from error
    with file:
        _held[key] = os.getpid()
        try:
            _write_holder(file)
            nobody = f"the file system of {folder} knows no locks: see to it yourself that no other {what} writes there"
            yield None if is_locked else nobody
        finally:
            _held.pop(key, None)
            with suppress(OSError):
                path.unlink()  # while it is still locked: who waits for it then finds that it is gone


def _in_use(folder: Path, what: str, holder: str) -> UsageError:
    return UsageError(
        f"{folder} is in use: another {what} writes there ({holder}). Wait for its end, stop it, or choose another --output"
    )


def _open_locked(path: Path) -> tuple[IO[bytes], bool]:
    """The open file, and whether it is locked, which some file systems cannot do; `BlockingIOError` if another holds it."""
    while True:
        file = path.open("a+b")
        try:
            is_locked = _lock(file)
            # Who held it may have removed it since it was opened; the next one then locks another file of that name.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file, is_locked
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: IO[bytes]) -> bool:
    """Lock an open file for this process; False where the file system knows no locks."""
    try:
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            import msvcrt

            file.seek(_WINDOWS_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except ImportError:  # neither system's locks
        return False
    except OSError as error:
        if error.errno in (EACCES, EAGAIN, EDEADLK):
            raise BlockingIOError(*error.args) from error
        return False
    return True


def _write_holder(file: IO[bytes]) -> None:
    """Note in the file who holds it; a full disk does not end the run here."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    with suppress(OSError):
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}).encode())
        file.flush()


def _holder(path: Path) -> str:
    try:
        said = json.loads(path.read_bytes())
        return f"process {int(said['process'])} on {said['host']}, since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun
        return "a process that does not say which"
