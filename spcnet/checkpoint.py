"""Checkpoints: tensors as safetensors, everything else as JSON in the same file's header, written atomically.

A file cannot run code: safetensors holds numbers, the header text. The header has a checksum of the complete file, which
other programs ignore when they read it as plain safetensors.
"""

import dataclasses
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spcnet.errors import CheckpointError, DataError
from spcnet.file_kinds import FileKind, kind_of, other_kind
from spcnet.files import write_atomic
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD

FORMAT = 1
"""Incremented when older versions cannot read new files."""
MODEL_FILE = "model.safetensors"
"""The finished network of a run."""
LATEST_FILE = "checkpoint.safetensors"
"""The network and the optimiser of a run at its last checkpoint."""
PREVIOUS_FILE = "checkpoint.previous.safetensors"
"""The checkpoint before the last, used if the last is damaged."""
DAMAGED_FILE = "checkpoint.damaged.safetensors"
"""A damaged last checkpoint, renamed by the run that resumed from the one before."""
OPTIMIZER = "optimizer."
"""Prefix of the optimiser's tensors."""
AVERAGE = "ema."
"""Prefix of averaged weights, in a checkpoint with trained weights as well."""
PLUGINS = "plugins."
"""Prefix of the tensors that plug-ins keep, in a checkpoint from which a run resumes."""


@dataclass(frozen=True)
class Calibration:
    """How sure a network may be taken to be, as `spcnet calibrate` found it on images of the sources."""

    temperature: float
    """What logits are divided by before the softmax."""
    images: str
    """What it was fitted on, in words."""
    thresholds: tuple[float, ...] | None = None
    """Of each class the calibrated confidence below which its pixels become void; None where all keep their class."""
    precision: float | None = None
    """Of the pixels that the thresholds keep, on those images."""

    def check(self, num_classes: int) -> "Calibration":
        """Itself.

        Raises:
            ValueError: a value makes no sense.
        """
        if not self.temperature > 0 or (self.thresholds is not None and len(self.thresholds) != num_classes):
            raise ValueError(f"the calibration is not one of {num_classes} classes")
        return self


@dataclass(frozen=True)
class ModelCard:
    """Metadata of a checkpoint's network, sufficient to build and to use it."""

    method: str
    model: dict[str, Any]
    """Fields of `spcnet.config.ModelConfig`."""
    space: str
    """Name of the label space."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the outputs."""
    domains: tuple[str, ...]
    """Source domains, in the order of the style bases."""
    size: tuple[int, int] | None
    """Height and width of the resized training images in pixels; None if images kept their sizes."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted from the channels of an image in 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Divisor of the channels after that."""
    base: dict[str, str] | None = None
    """For a file without its pretrained tensors: the name of the pretrained `weights`, the `part` of their file, if any, and their `sha256`."""
    calibration: Calibration | None = None
    """What `spcnet calibrate` fitted, if anything. Stands beside the other fields in a file, so that versions without it read the file."""

    def fields(self) -> dict[str, Any]:
        """As plain values, without `calibration`; without `base` if it is None, as in files of earlier versions."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name != "calibration" and (name != "base" or value is not None)
        }


def find(path: Path) -> Path:
    """The checkpoint file of a run, or the file itself.

    Raises:
        CheckpointError: nothing is there.
    """
    if path.is_file():
        return path
    for name in (MODEL_FILE, LATEST_FILE, PREVIOUS_FILE):
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise CheckpointError(
            f"the folder {path} has no checkpoint ({MODEL_FILE} or {LATEST_FILE}): give a run's folder, or train first"
        )
    raise CheckpointError(f"there is no run or checkpoint {path}: check the path")


def is_own(path: Path) -> bool:
    """Whether a file is by its content a checkpoint of this package, or a safetensors file with an unreadable header."""
    if kind_of(path) is not FileKind.SAFETENSORS:
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return not {"spcnet", _CHECKSUM}.isdisjoint(file.metadata() or {})
    except (SafetensorError, OSError):
        return True


class Damaged(CheckpointError):
    """A checkpoint is missing, truncated or corrupt; another one may be usable."""


class Checkpoint(NamedTuple):
    """Content of a checkpoint file."""

    tensors: dict[str, Tensor]
    card: ModelCard
    state: dict[str, Any]
    """Further state for resuming a run; in the file of a finished network only the iteration."""

    @property
    def iteration(self) -> int:
        """Number of finished iterations; 0 if unknown."""
        return int(self.state.get("iteration", 0))

    @property
    def ema(self) -> float:
        """Decay of the exponential moving average, if the tensors are averaged weights; otherwise 0."""
        return float(self.state.get("ema", 0.0))


class Found(NamedTuple):
    """The last undamaged checkpoint of a run."""

    path: Path
    tensors: dict[str, Tensor]
    card: ModelCard
    state: dict[str, Any]
    damage: str | None
    """Defect of the last checkpoint, if this is the one before; otherwise None."""


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    card: ModelCard,
    state: dict[str, Any] | None = None,
    *,
    keep: Path | None = None,
) -> None:
    """Write a checkpoint atomically; a killed process leaves the old one.

    Args:
        path: destination, in an existing folder.
        tensors: by name; written one by one, without a copy of all of them.
        card: metadata of the network.
        state: further state for resuming a run; plain JSON values.
        keep: new path of the old checkpoint; None replaces it.

    Raises:
        DataError: no permission or no space.
    """
    # The existence of a checksum is recorded twice, because one damaged letter could hide one of the two.
    content = {"format": FORMAT, "checked": True, "card": card.fields(), "state": state or {}}
    if card.calibration is not None:
        content["calibration"] = dataclasses.asdict(card.calibration)
    header = {_CHECKSUM: f"{_CRC}{0:08x}", "spcnet": json.dumps(content)}
    try:
        write_atomic(path, lambda file: _write_safetensors(file, tensors, header), keep=keep)
    except DataError as error:
        raise DataError(f"{error}, or choose another --output; the last whole checkpoint is kept") from error


def read(path: Path) -> Checkpoint:
    """Tensors of the network, its card, and the training state of a checkpoint; without the optimiser's tensors.

    Averaged weights replace the trained ones if the file has them, because a run evaluates the average.

    Raises:
        CheckpointError: the file is truncated or not one of this package's.
    """
    everything = read_all(path)
    return everything._replace(tensors=trained(everything.tensors) | averaged(everything.tensors))


def read_all(path: Path) -> Checkpoint:
    """Like `read`, but with all tensors of the file: trained weights, averages, the optimiser's state."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            _check(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return Checkpoint(tensors, *_content(path, header))


def trained(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained weights among the tensors of a checkpoint."""
    return {name: value for name, value in tensors.items() if not name.startswith((OPTIMIZER, AVERAGE, PLUGINS))}


def averaged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights among the tensors of a checkpoint, by their names in the network."""
    return {name.removeprefix(AVERAGE): value for name, value in tensors.items() if name.startswith(AVERAGE)}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """The training state of a checkpoint, without reading its tensors or checking its checksum.

    Raises:
        CheckpointError: see `read`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return _content(path, header)[1]


def _unreadable(path: Path, error: Exception) -> Damaged:
    """The error for an incomplete or other file: an LFS pointer, a web page, a truncated file."""
    kind = kind_of(path) if path.is_file() else FileKind.SAFETENSORS
    if kind not in (FileKind.SAFETENSORS, FileKind.EMPTY, FileKind.UNKNOWN):
        return Damaged(str(other_kind(path, kind, role="checkpoint")))
    return Damaged(
        f"cannot read the checkpoint {path} ({error}): it is truncated or no safetensors file; copy it again"
    )


def exists(run: Path) -> bool:
    """Whether a run's folder has a checkpoint to resume from."""
    return any((run / name).exists() for name in (LATEST_FILE, PREVIOUS_FILE))


def read_latest(run: Path) -> Found:
    """The last checkpoint of a run's folder, or the one before if the last is missing or damaged.

    Raises:
        CheckpointError: neither can be read.
    """
    latest, previous = run / LATEST_FILE, run / PREVIOUS_FILE
    try:
        return Found(latest, *read_all(latest), damage=None)
    except Damaged as error:
        if not previous.exists():
            raise
        damage = str(error)
    try:
        return Found(previous, *read_all(previous), damage=damage)
    except Damaged as error:
        raise CheckpointError(
            f"both checkpoints of {run} are damaged: {damage}. {error}. Bring one back from a copy, or train again with "
            "--overwrite"
        ) from error


_CHECKSUM, _CRC = "checksum", "crc32:"
_PLACE = re.compile(rb'"checksum":"crc32:([0-9a-f]{8})"')
"""Position of the checksum; matches nothing within the header's texts, whose quotation marks are escaped."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the types in safetensors."""
_AT_ONCE = 2**24


def _write_safetensors(file: IO[bytes], tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write the format of safetensors (the length of the header, the header, the numbers), then the checksum.

    The library's `save` makes two copies of everything in memory and takes ten times as long.
    """
    # The largest types first, so that each tensor is aligned to its type, as the format requires.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    layout: dict[str, Any] = {"__metadata__": header}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        layout[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(layout, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    text = struct.pack("<Q", len(text)) + text
    file.write(text)
    checksum = zlib.crc32(text)
    for name in order:
        # In row-major order, whatever the strides.
        numbers = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        file.write(numbers.data)
        checksum = zlib.crc32(numbers.data, checksum)
    place = _PLACE.search(text)
    assert place is not None
    file.seek(place.start(1))
    file.write(f"{checksum:08x}".encode())


def _check(path: Path, header: Mapping[str, str]) -> None:
    """Verify the checksum of a file, if it has one; files of spcnet 0.1 have none.

    Raises:
        Damaged: the checksum differs.
    """
    if _CHECKSUM not in header and '"checked": true' not in header.get("spcnet", ""):
        return
    with path.open("rb") as file:
        text = file.read(8)
        text += file.read(*struct.unpack("<Q", text))
        place = _PLACE.search(text)
        if place is not None:
            checksum = zlib.crc32(text[: place.start(1)] + b"0" * 8 + text[place.end(1) :])
            while piece := file.read(_AT_ONCE):
                checksum = zlib.crc32(piece, checksum)
            if checksum == int(place[1], 16):
                return
    raise Damaged(f"the checkpoint {path} is damaged: it does not match its checksum; copy it again")


def _content(path: Path, header: Mapping[str, str]) -> tuple[ModelCard, dict[str, Any]]:
    """The card and the training state of a checkpoint's header."""
    if "spcnet" not in header:
        raise CheckpointError(f"{path} is a safetensors file of something else: it has no spcnet header")
    try:
        content = json.loads(header["spcnet"])
        if content["format"] > FORMAT:
            raise CheckpointError(
                f"{path} was written by a newer spcnet (format {content['format']}, this one reads {FORMAT}): upgrade"
            )
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content["card"].items()}
        calibration = fields.pop("calibration", None)
        if "calibration" in content:
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in content["calibration"].items()
            }
            calibration = Calibration(**values).check(len(fields["classes"]))
        return ModelCard(**fields, calibration=calibration), content["state"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"the header of the checkpoint {path} is damaged ({error}): copy it again") from error
