"""Checkpoints: tensors as safetensors, everything else as JSON in the same file's header, written whole or not at all.

Nothing in here can run code: safetensors holds numbers, the header holds text.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spcnet.errors import CheckpointError, DataError
from spcnet.files import write_whole
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD

FORMAT = 1
"""Raised when a file written today could not be read by an older version."""
MODEL_FILE = "model.safetensors"
"""The finished network of a run."""
LATEST_FILE = "checkpoint.safetensors"
"""The network and the optimiser of a run at its last checkpoint."""
OPTIMIZER = "optimizer."
"""Beginning of the names of the optimiser's tensors."""


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint says of the network in it: enough to build it and to use it."""

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
    """Height and width in pixels that images were brought to; None where each kept its own."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """What is subtracted from each channel of an image in 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """What each channel is then divided by."""


def find(path: Path) -> Path:
    """The checkpoint file of a run, or the file itself.

    Raises:
        CheckpointError: nothing is there.
    """
    if path.is_file():
        return path
    for name in (MODEL_FILE, LATEST_FILE):
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise CheckpointError(
            f"the folder {path} has no checkpoint ({MODEL_FILE} or {LATEST_FILE}): give a run's folder, or train first"
        )
    raise CheckpointError(f"there is no run or checkpoint {path}: check the path")


def is_own(path: Path) -> bool:
    """Whether a file is a checkpoint of this package, or a safetensors file too damaged to tell."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "spcnet" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return True


def write(path: Path, tensors: dict[str, Tensor], card: ModelCard, state: dict[str, Any] | None = None) -> None:
    """Write a checkpoint beside the old one and put it in its place at once; a killed process leaves the old one.

    Args:
        path: where to; its folder exists.
        tensors: by name; copied to the CPU.
        card: what the network is.
        state: what else a training run needs to go on; plain JSON values.

    Raises:
        DataError: no permission or no space.
    """
    header = {"spcnet": json.dumps({"format": FORMAT, "card": dataclasses.asdict(card), "state": state or {}})}
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        write_whole(path, lambda file: file.write(save(owned, metadata=header)))
    except DataError as error:
        raise DataError(f"{error}, or choose another --output; the last whole checkpoint is kept") from error


def read(path: Path) -> tuple[dict[str, Tensor], ModelCard, dict[str, Any]]:
    """Tensors of the network, its card, and the training state of a checkpoint; without the optimiser's tensors.

    Raises:
        CheckpointError: the file is truncated or not one of this package's.
    """
    tensors, card, state = read_all(path)
    return {k: v for k, v in tensors.items() if not k.startswith(OPTIMIZER)}, card, state


def read_all(path: Path) -> tuple[dict[str, Tensor], ModelCard, dict[str, Any]]:
    """Like `read`, with the optimiser's tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("spcnet")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path} ({error}): it is truncated or no safetensors file; copy it again"
        ) from error
    if header is None:
        raise CheckpointError(f"{path} is a safetensors file of something else: it has no spcnet header")
    try:
        content = json.loads(header)
        if content["format"] > FORMAT:
            raise CheckpointError(
                f"{path} was written by a newer spcnet (format {content['format']}, this one reads {FORMAT}): upgrade"
            )
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content["card"].items()}
        return tensors, ModelCard(**fields), content["state"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the header of the checkpoint {path} is damaged ({error}): copy it again") from error
