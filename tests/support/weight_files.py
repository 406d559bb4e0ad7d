"""Weight files of every kind, made byte by byte."""

import io
import tarfile
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from spcnet.checkpoint import ModelCard
from spcnet.models.network import Segmentor
from spcnet.runs import OpenRun
from spcnet.weights.mindspore import TYPES

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3)}


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return file.getvalue()


def tarred(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def torch_file(**options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(TENSORS, file, **options)
    return file.getvalue()


def onnx_file() -> bytes:
    """ONNX's model: version, producer, graph, operators."""
    return varint(1 << 3) + varint(8) + field(2, b"pytorch") + field(7, bytes(300)) + field(8, b"\x10\x12")


def torch_export_file() -> bytes:
    return zipped("m/data/weights/model_weights_config.json", "m/models/model.json", "m/archive_format")


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(tag: str, shape: tuple[int, ...], kind: str, content: bytes) -> bytes:
    dims = b"".join(varint(1 << 3) + varint(size) for size in shape)
    tensor = dims + field(2, kind.encode()) + field(3, content)
    return field(1, field(1, tag.encode()) + field(2, tensor))


def checkpoint(**tensors: Tensor) -> bytes:
    names = {dtype: name for name, dtype in TYPES.items()}
    return b"".join(
        entry(tag, tuple(t.shape), names[t.dtype], t.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for tag, t in tensors.items()
    )


SMALL = checkpoint(
    **{"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, -2]), "c": torch.tensor([0.5]).half()}
)


def restore(path: Path | str) -> tuple[Segmentor, ModelCard]:
    """The network of a run or a file of weights, and what its card says."""
    run = OpenRun(Path(path))
    return run.network, run.card
