"""Compiled networks on the disk, each under a key that names all it depends on."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from spcnet import checkpoint
from spcnet.errors import WriteError
from spcnet.files import write_atomic

FORMAT = 1
"""Raised when the graphs or the file change."""
MOST_BYTES = 4 * 2**30
"""Of all files together; the least recently used go first."""

V = TypeVar("V")


def cache_folder() -> Path:
    """Where compiled networks lie by default: `spcnet/engines` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spcnet" / "engines"


class Store:
    """The compiled forms of one network.

    Args:
        folder: of the files; None stores nothing.
        network: its tensors and settings are part of each key, and so is the code that they belong to.
    """

    def __init__(self, folder: Path | None, network: nn.Module) -> None:
        self.folder = folder
        self.content = "" if folder is None else _content_hash(network)

    def get(self, about: Mapping[str, Any], make: Callable[[], bytes], load: Callable[[bytes], V]) -> V:
        """What a stored form becomes when it is loaded; one that is not there, or damaged, is made and stored.

        Args:
            about: engine, its version, device, precision, and what else the form depends on.
            make: gives the content.
            load: makes it ready; raises where it cannot.
        """
        if self.folder is None:
            return load(make())
        key = hashlib.sha256(repr((self.content, sorted(about.items()))).encode()).hexdigest()
        file = self.folder / f"{key}.bin"
        content = _read(file, key)
        if content is not None:
            with suppress(Exception):  # whatever the engine makes of it: it is made anew
                return load(content)
        content = make()
        loaded = load(content)
        header = json.dumps({"key": key, "sha256": hashlib.sha256(content).hexdigest()}).encode() + b"\n"
        with suppress(WriteError):  # a full disk only costs the time of compiling again
            write_atomic(file, lambda opened: (opened.write(header), opened.write(content)))
            _trim(self.folder)
        return loaded


def _content_hash(network: nn.Module) -> str:
    """Hash of a network's tensors, the settings of its modules, and the code of networks and engines."""
    tensors = {**network.state_dict(), **dict(network.named_buffers())}
    settings = [(name, type(module).__qualname__, *_settings(module)) for name, module in network.named_modules()]
    return repr((FORMAT, torch.__version__, _code(), checkpoint.fingerprint(tensors), settings))


def _settings(module: nn.Module) -> Iterator[tuple[str, str]]:
    """What a module computes by beside its tensors: its plain attributes and its functions."""
    for name, value in sorted(vars(module).items()):
        if isinstance(value, (bool, int, float, str, tuple, list)):
            yield name, repr(value)
        elif callable(value):
            yield name, getattr(value, "__qualname__", type(value).__qualname__)


@cache
def _code() -> str:
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for folder in (package / "models", package / "inference"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(file: Path, key: str) -> bytes | None:
    """The content of a whole file; None where there is none."""
    with suppress(OSError, ValueError):
        header, _, content = file.read_bytes().partition(b"\n")
        if json.loads(header) == {"key": key, "sha256": hashlib.sha256(content).hexdigest()}:
            with suppress(OSError):
                os.utime(file)
            return content
    return None


def _trim(folder: Path) -> None:
    """Delete the least recently used files beyond `MOST_BYTES`."""
    with suppress(OSError):  # another process deletes, too
        total = 0
        for file in sorted(folder.glob("*.bin"), key=lambda file: file.stat().st_mtime, reverse=True):
            total += file.stat().st_size
            if total > MOST_BYTES:
                file.unlink()
