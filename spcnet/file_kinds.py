"""What a file of weights is, by its first bytes and its members; its name plays no part.

Nothing is executed and nothing of a file's size is read: a few hundred bytes from the beginning, the directory of an
archive, the tags of a protobuf message.
"""

import codecs
import re
import string
import struct
import tarfile
import zipfile
from enum import StrEnum
from pathlib import Path
from typing import IO, NamedTuple

from spcnet.errors import CheckpointError, SpcnetError, UsageError


class FileKind(StrEnum):
    """What a file is; the value is its name in messages."""

    SAFETENSORS = "a safetensors file"
    TORCH = "a PyTorch file"
    TORCH_OLD = "a PyTorch file in the format before version 1.6"
    MINDSPORE = "a MindSpore checkpoint"
    ONNX = "an exported network (ONNX)"
    TORCH_EXPORT = "an exported network (torch.export)"
    TORCH_TAR = "a PyTorch file in the tar format of version 0.1"
    TORCHSCRIPT = "a TorchScript program"
    PICKLE = "a plain pickle"
    EMPTY = "empty"
    LFS_POINTER = "a Git LFS pointer"
    HTML = "a web page (HTML or XML)"
    TEXT = "a text file"
    BROKEN_ARCHIVE = "a PyTorch file or another archive that was cut off"
    ARCHIVE = "an archive of files"
    COMPRESSED = "a compressed file"
    HDF5 = "an HDF5 file, as Keras writes them"
    NUMPY = "a NumPy array"
    IMAGE = "an image"
    UNKNOWN = "no weight file that is known"


WEIGHTS = frozenset({FileKind.SAFETENSORS, FileKind.TORCH, FileKind.TORCH_OLD, FileKind.MINDSPORE})
"""Kinds whose tensors can be read."""
EXPORTED = frozenset({FileKind.ONNX, FileKind.TORCH_EXPORT})
"""Kinds that `spcnet export` writes."""

_START = 512
"""Bytes from the beginning of a file that are compared."""
_LARGEST_HEADER = 100_000_000
"""Bytes of a header that the library safetensors reads at most."""
_TORCH_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The number that begins PyTorch's older files, as a pickle writes it."""
_MAGIC: tuple[tuple[bytes, FileKind], ...] = (
    (b"\x1f\x8b", FileKind.COMPRESSED),
    (b"BZh", FileKind.COMPRESSED),
    (b"\xfd7zXZ\x00", FileKind.COMPRESSED),
    (b"\x28\xb5\x2f\xfd", FileKind.COMPRESSED),
    (b"7z\xbc\xaf\x27\x1c", FileKind.ARCHIVE),
    (b"Rar!\x1a\x07", FileKind.ARCHIVE),
    (b"\x89HDF\r\n\x1a\n", FileKind.HDF5),
    (b"\x93NUMPY", FileKind.NUMPY),
    (b"\x89PNG\r\n\x1a\n", FileKind.IMAGE),
    (b"\xff\xd8\xff", FileKind.IMAGE),
)
_VARINT, _BYTES = 0, 2
_ONNX_FIELDS = {
    **dict.fromkeys((1, 5), _VARINT),
    **dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), _BYTES),
}
"""Wire type of each field of ONNX's ModelProto."""
_ONNX_GRAPH = 7


def kind_of(path: Path) -> FileKind:
    """What a file is, whatever it is called.

    Raises:
        CheckpointError: it cannot be read, or is a folder.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START)
            file.seek(0, 2)
            return _kind(file, start, file.tell(), path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror or error}): check the path") from error


def _kind(file: IO[bytes], start: bytes, size: int, path: Path) -> FileKind:
    if not start:
        return FileKind.EMPTY
    if start[8:9] == b"{" and 2 <= struct.unpack("<Q", start[:8])[0] <= _LARGEST_HEADER:
        return FileKind.SAFETENSORS
    if start[:2] == b"PK":
        return _archive(path)
    if start[:1] == b"\x80" and _TORCH_MAGIC in start[:64]:
        return FileKind.TORCH_OLD
    if start[257:262] == b"ustar":
        return _tar(path)
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    if _is_text(start):
        if start.startswith(b"version https://git-lfs"):
            return FileKind.LFS_POINTER
        return (
            FileKind.HTML if start.lstrip(b"\xef\xbb\xbf" + string.whitespace.encode())[:1] == b"<" else FileKind.TEXT
        )
    if start[:1] == b"\x80" and b"\x00" < start[1:2] <= b"\x05":
        return FileKind.PICKLE
    if start[:1] == b"\x08" and _is_onnx(file, size):
        return FileKind.ONNX
    return FileKind.MINDSPORE if _is_mindspore(start) else FileKind.UNKNOWN


def _archive(path: Path) -> FileKind:
    """Which of PyTorch's archives a zip file is; their members lie in one folder, whose name is free."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except Exception:  # noqa: BLE001 - a damaged directory raises errors of many kinds
        return FileKind.BROKEN_ARCHIVE
    inner = {name.partition("/")[2] for name in members}
    if "data.pkl" in inner:
        return FileKind.TORCHSCRIPT if "constants.pkl" in inner else FileKind.TORCH
    # Before PyTorch 2.5 there was no folder around the program.
    exported = "serialized_exported_program.json" in members or any(name.startswith("models/") for name in inner)
    return FileKind.TORCH_EXPORT if exported else FileKind.ARCHIVE


def _tar(path: Path) -> FileKind:
    try:
        with tarfile.open(path, "r:") as archive:
            names = {Path(entry.name).name for _, entry in zip(range(16), archive, strict=False)}
    except (tarfile.TarError, OSError, ValueError):
        return FileKind.ARCHIVE
    return FileKind.TORCH_TAR if {"storages", "tensors", "pickle"} <= names else FileKind.ARCHIVE


def _is_text(start: bytes) -> bool:
    wide = start.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        # The last letter may be cut.
        decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8")()
        text = decoder.decode(start, final=len(start) < _START)
    except UnicodeDecodeError:
        return False
    # Any two bytes are a letter of UTF-16, but few texts have more of other alphabets than of Latin.
    if wide and sum(letter < "\u0250" for letter in text) * 2 < len(text):
        return False
    return all(letter >= " " or letter in "\t\n\r\f\x1b" for letter in text)


def _is_mindspore(start: bytes) -> bool:
    """A message in a message, whose first field is text."""
    if start[:1] != b"\n":
        return False
    try:
        length, place = varint(start, 1)
    except ValueError:
        return False
    return length > 0 and start[place : place + 1] == b"\n"


def _is_onnx(file: IO[bytes], size: int) -> bool:
    """Whether all fields of a message are those of ONNX's model, and there is a graph; it may be cut off in it."""
    place, graph = 0, False
    while place < size:
        file.seek(place)
        head = file.read(20)
        try:
            key, used = varint(head, 0)
            if _ONNX_FIELDS.get(key >> 3) != key & 7:
                return False
            value, used = varint(head, used)
        except ValueError:
            return False
        graph = graph or key >> 3 == _ONNX_GRAPH
        place += used + (value if key & 7 == _BYTES else 0)
    return graph


def varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the place after it.

    Raises:
        ValueError: it has no end.
    """
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("it ends too early")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number in it has no end")


def refuse_other(path: Path) -> FileKind:
    """The kind of a file of weights; what is none is refused in a line that says what it is.

    Raises:
        CheckpointError: it is no file of weights, or cannot be read.
        UsageError: it is an exported network.
    """
    kind = kind_of(path)
    if kind not in WEIGHTS:
        raise other_kind(path, kind)
    return kind


def other_kind(path: Path, kind: FileKind, *, role: str = "weight file") -> SpcnetError:
    """The error for a file that holds no weights: what it is, and what to do; `role` is what was wanted."""
    if kind in EXPORTED:
        return UsageError(f"{path} is {kind}: give the run or the weights that it was made from")
    again = "fetch it again, and compare its size"
    what, remedy = str(kind), again
    if kind is FileKind.LFS_POINTER:
        what = f"{kind}, which stands in place of the file{_pointed_size(path)}"
        remedy = "run `git lfs pull` in its repository, or download the file itself"
    elif kind in (FileKind.HTML, FileKind.TEXT):
        what = f"{kind} that begins with {_first_words(path)!r}"
        remedy = "what was fetched is no file of weights; check the address, and that a login is not needed"
    elif kind in (FileKind.ARCHIVE, FileKind.COMPRESSED):
        remedy = "unpack it, and give the file of weights in it"
    elif kind is FileKind.TORCH_TAR:
        remedy = "if you trust its source, read it with torch.load and save the state dict again with torch.save"
    elif kind is FileKind.TORCHSCRIPT:
        remedy = "it holds code; if you trust its source, save torch.jit.load(FILE).state_dict() with torch.save"
    elif kind is FileKind.PICKLE:
        remedy = "it could run code and was not opened; if you trust its source, save its tensors with torch.save"
    elif kind in (FileKind.HDF5, FileKind.NUMPY, FileKind.IMAGE, FileKind.UNKNOWN):
        remedy = "give safetensors, a PyTorch state dict or a MindSpore checkpoint"
        if kind is FileKind.UNKNOWN:
            remedy += ", or fetch it again if the download broke off"
    return CheckpointError(f"cannot read the {role} {path}: it is {what}: {remedy}")


def _first_words(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(_START)
    text = start.decode("utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="ignore")
    words = " ".join(text.split())
    return words if len(words) <= 60 else words[:60] + "…"


def _pointed_size(path: Path) -> str:
    """How large the file is that a pointer names, in words."""
    for line in path.read_bytes()[:_START].decode(errors="ignore").splitlines():
        name, _, number = line.partition(" ")
        if name == "size" and number.isdecimal():
            return f" of {int(number):,} bytes"
    return ""


class Named(NamedTuple):
    """A file of weights, and which of the networks in it is meant."""

    file: Path
    part: str | None
    """None where none was named."""


def split_part(path: Path | str) -> Named:
    """A path and the name behind its `#`, which says which part of a file is meant: `last.pth#teacher`.

    A file or folder whose own name has a `#` comes first, and names within a file may have some, too.
    """
    whole, text = Path(path), str(path)
    if not whole.exists():
        for mark in reversed(list(re.finditer("#", text))):
            file, part = Path(text[: mark.start()]), text[mark.end() :]
            if part and file.is_file():
                return Named(file, part)
    return Named(whole, None)
