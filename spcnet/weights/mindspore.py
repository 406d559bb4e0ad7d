"""Reading MindSpore's checkpoint files without MindSpore.

Such a file is a row of protobuf messages `Checkpoint {repeated Value value = 1}`, `Value {string tag = 1; TensorProto
tensor = 2}`, `TensorProto {repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3}`, and perhaps a
checksum after them. A large tensor is split into several entries of one tag. Nothing in a file is executed, and every
length in it is checked against the size of the file.
"""

import binascii
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from spcnet.errors import CheckpointError
from spcnet.file_kinds import varint

TYPES = {
    "Float16": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float32": torch.float32,
    "Float64": torch.float64,
    "Int8": torch.int8,
    "Int16": torch.int16,
    "Int32": torch.int32,
    "Int64": torch.int64,
    "UInt8": torch.uint8,
    "Bool": torch.bool,
}
CHECKSUM = b"crc_num"
"""Marks the trailer: these seven bytes and the checksum as ten, big-endian."""
_TRAILER = len(CHECKSUM) + 10
_LARGEST = 2**40
"""Upper bound of a tensor's dimension."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Broken(Exception):
    """A defect of a file; the message is short."""


def read_mindspore(path: Path) -> dict[str, Tensor]:
    """The tensors of a MindSpore checkpoint, by their tags.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or of another kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror}): check the path and its permission") from error
    try:
        return _tensors(memoryview(data))
    except _Broken as wrong:
        raise CheckpointError(
            f"{path} is no complete MindSpore checkpoint ({wrong}): fetch it again, and compare its size"
        ) from None


def pytorch_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename MindSpore's parameters to PyTorch's names; other names are kept.

    A norm has gamma and beta there; a gamma alone is the layer scale of PyTorch's transformers and ConvNeXts, and ConvNeXt V2
    has both in its response normalisation (GRN).
    """
    norms = {
        tag.removesuffix(".gamma")
        for tag in tensors
        if tag.endswith(".gamma") and not tag.endswith("grn.gamma") and f"{tag.removesuffix('.gamma')}.beta" in tensors
    }
    renamed = {_pytorch_name(tag, norms): value for tag, value in tensors.items()}
    return renamed if len(renamed) == len(tensors) else dict(tensors)


def _pytorch_name(tag: str, norms: Collection[str]) -> str:
    name = re.sub(r"(^|\.)style_adain(\d)\.", r"\1styleAdaIN\2.", tag)
    for theirs, ours in ((".moving_mean", ".running_mean"), (".moving_variance", ".running_var")):
        if name.endswith(theirs):
            return name.removesuffix(theirs) + ours
    layer, _, leaf = name.rpartition(".")
    if tag.rpartition(".")[0] in norms and leaf in ("gamma", "beta"):
        return f"{layer}.{'weight' if leaf == 'gamma' else 'bias'}"
    return name


def _tensors(data: memoryview) -> dict[str, Tensor]:
    if len(data) > _TRAILER and bytes(data[-_TRAILER:][: len(CHECKSUM)]) == CHECKSUM:
        data, trailer = data[:-_TRAILER], data[-_TRAILER:]
        if binascii.crc32(data) != int.from_bytes(trailer[len(CHECKSUM) :], "big"):
            raise _Broken("its checksum does not fit its content")
    if not data:
        raise _Broken("it is empty")
    parts: dict[str, tuple[list[int], str, bytearray]] = {}
    last = None
    for number, kind, value in _fields(data):
        if number != 1 or kind != _BYTES:
            raise _Broken("it holds something else")
        assert isinstance(value, memoryview)
        tag, dims, type_name, content = _entry(value)
        if tag in parts and tag != last:
            raise _Broken(f"it holds {tag!r} twice")
        tensor = parts.setdefault(tag, (dims, type_name, bytearray()))
        if tensor[:2] != (dims, type_name):
            raise _Broken(f"the parts of {tag!r} differ in shape or type")
        tensor[2].extend(content)
        last = tag
    return {tag: _tensor(tag, *tensor) for tag, tensor in parts.items()}


def _tensor(tag: str, dims: list[int], type_name: str, content: bytearray) -> Tensor:
    if type_name not in TYPES:
        raise _Broken(f"{tag!r} is of the type {type_name!r}, known are {', '.join(TYPES)}")
    dtype = TYPES[type_name]
    if any(size > _LARGEST for size in dims) or math.prod(dims) * dtype.itemsize != len(content):
        raise _Broken(f"{tag!r} has {len(content)} bytes, not those of {type_name} of the shape {tuple(dims)}")
    # A copy, because the buffer is not aligned.
    return torch.frombuffer(content, dtype=dtype).clone().view(dims) if content else torch.empty(dims, dtype=dtype)


def _entry(data: memoryview) -> tuple[str, list[int], str, memoryview]:
    """Tag, shape, name of the type and content of one entry."""
    tag, tensor = None, None
    for number, kind, value in _fields(data):
        if kind == _BYTES and isinstance(value, memoryview):
            if number == 1:
                tag = _text(value)
            elif number == 2:
                tensor = value
    if tag is None or tensor is None:
        raise _Broken("an entry has no name or no tensor")
    dims: list[int] = []
    type_name, content = "", memoryview(b"")
    for number, kind, value in _fields(tensor):
        if number == 1 and isinstance(value, int):
            dims.append(value)
        elif number == 1 and isinstance(value, memoryview):  # packed
            place = 0
            while place < len(value):
                size, place = _varint(value, place)
                dims.append(size)
        elif number == 2 and isinstance(value, memoryview):
            type_name = _text(value)
        elif number == 3 and kind == _BYTES and isinstance(value, memoryview):
            content = value
    return tag, dims, type_name, content


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, kind and value of each field of a message."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, kind, value
            continue
        if kind == _BYTES:
            length, place = _varint(data, place)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _Broken("it holds something else")
        if length > len(data) - place:
            raise _Broken("it ends too early")
        yield number, kind, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    try:
        return varint(data, place)
    except ValueError as error:
        raise _Broken(str(error)) from None


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise _Broken("a name in it is no text") from None
