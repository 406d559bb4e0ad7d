"""The pretrained weights that a checkpoint leaves out: located by name and verified by a hash."""

import os
from pathlib import Path

from spcnet import checkpoint
from spcnet.errors import CheckpointError
from spcnet.file_kinds import split_part
from spcnet.models.backbones import Backbone, BackboneInfo
from spcnet.weights.imagenet import load_imagenet

BASE = "SPCNET_BASE"
"""Environment variable with their location: a weight file, or a folder of weight files."""
PUBLISHED = "imagenet"
"""Name of the published weights, which `load_imagenet` downloads."""
STATISTICS = ("running_mean", "running_var")


def base_hash(backbone: Backbone) -> str:
    """Hash of a backbone's parameters and batch statistics, which identifies pretrained weights.

    Args:
        backbone: with these weights, without an adapter. With learned positions or tokens the first layers are left out,
            because resampled kernels and positions are rounded differently on another machine.
    """
    depths, resampled = backbone.depths(), bool(backbone.embeddings())
    counted = {name for name, depth in depths.items() if depth or not resampled}
    tensors = {
        name: value
        for name, value in backbone.state_dict().items()
        if name in counted or (name not in depths and name.endswith(STATISTICS))
    }
    return checkpoint.fingerprint(tensors)


def base_of(backbone: Backbone, weights: str) -> dict[str, str]:
    """Entry of a checkpoint for the weights that it leaves out: their name, perhaps the part of the file, their hash."""
    file, part = split_part(weights)
    named = {"weights": weights} if part is None else {"weights": str(file), "part": part}
    return {**named, "sha256": base_hash(backbone)}


def load_base(backbone: Backbone, info: BackboneInfo, base: dict[str, str], source: str) -> None:
    """Load the pretrained weights that a checkpoint names.

    The first existing one of these is used: the file of the variable SPCNET_BASE, the file of that name in its folder, the path
    of the training, the file beside the checkpoint.

    Raises:
        CheckpointError: they are not found, cannot be read, or have another hash.
    """
    name = base["weights"]
    whole = f"{source} holds only what was trained"
    remedy = f"set the environment variable {BASE} to the file that the training began with, or to its folder"
    weights, places = _find(base, Path(source).parent)
    if weights is None:
        raise CheckpointError(
            f"{whole}, and the weights {name} that it began with are not at {', '.join(places)}: {remedy}"
        )
    try:
        load_imagenet(backbone, info, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{whole}, and the weights {name} that it began with cannot be used: {error}; or {remedy}"
        ) from error
    sha256 = base_hash(backbone)
    if sha256 != base["sha256"]:
        raise CheckpointError(
            f"{whole}, on the weights {name} of the hash {base['sha256'][:12]}, and {weights} has the hash {sha256[:12]}: {remedy}"
        )


def _find(base: dict[str, str], beside: Path) -> tuple[str | None, list[str]]:
    """The weights for `load_imagenet`, or None; and the paths that were tried."""
    name, given = base["weights"], os.environ.get(BASE, "")
    places: list[Path] = []
    if given and not (Path(given).is_dir() and name == PUBLISHED):
        places.append(Path(given) / Path(name).name if Path(given).is_dir() else Path(given))
    if name != PUBLISHED:
        places += [Path(name), beside / Path(name).name]
    for place in places:
        if split_part(place).file.is_file():
            named = split_part(place).part is not None or "part" not in base
            return str(place) if named else f"{place}#{base['part']}", []
    return (name if name == PUBLISHED and not places else None), list(dict.fromkeys(map(str, places)))
