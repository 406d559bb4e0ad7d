"""The pretrained weights that a checkpoint leaves out: found again by their name, and told from all others by a hash."""

import os
from pathlib import Path

from spcnet import checkpoint
from spcnet.errors import CheckpointError
from spcnet.file_kinds import split_part
from spcnet.models.backbones import Backbone, BackboneInfo
from spcnet.weights.imagenet import load_imagenet

BASE = "SPCNET_BASE"
"""The environment variable that says where they lie: a file of weights, or a folder of such files."""
PUBLISHED = "imagenet"
"""The name of weights that lie in no file here: those that `load_imagenet` fetches."""
STATISTICS = ("running_mean", "running_var")


def base_hash(backbone: Backbone) -> str:
    """What tells pretrained weights from all others: a hash of a backbone's parameters and batch statistics.

    Args:
        backbone: with these weights, not yet adapted. Of one with learned positions or tokens the first layers do not
            count, for kernel and positions may have been resampled, which rounds otherwise on another machine.
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
    """What a checkpoint says of the weights that it leaves out: their name, perhaps that of a part of the file, their hash.

    Args:
        backbone: with these weights, not yet adapted.
        weights: as the user named them.
    """
    file, part = split_part(weights)
    named = {"weights": weights} if part is None else {"weights": str(file), "part": part}
    return {**named, "sha256": base_hash(backbone)}


def load_base(backbone: Backbone, info: BackboneInfo, base: dict[str, str], source: str) -> None:
    """Give a backbone the weights that a checkpoint names.

    Looked for are the file that the variable SPCNET_BASE names, the file of the name in the folder that it names, the name as
    it was given in training, and the file beside the checkpoint; the first that is there counts.

    Args:
        backbone: from `build_backbone`.
        info: which backbone it is.
        base: the card's.
        source: the checkpoint.

    Raises:
        CheckpointError: they are not found, cannot be read, or have another hash; says where they were looked for.
    """
    name = base["weights"]
    whole = f"{source} holds only what was trained"
    remedy = f"set the environment variable {BASE} to the file that the training began with, or to its folder"
    weights, looked = _find(base, Path(source).parent)
    if weights is None:
        raise CheckpointError(
            f"{whole}, and the weights {name} that it began with are not at {', '.join(looked)}: {remedy}"
        )
    try:
        load_imagenet(backbone, info, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{whole}, and the weights {name} that it began with cannot be used: {error}; or {remedy}"
        ) from error
    found = base_hash(backbone)
    if found != base["sha256"]:
        raise CheckpointError(
            f"{whole}, on the weights {name} of the hash {base['sha256'][:12]}, and {weights} has the hash {found[:12]}: {remedy}"
        )


def _find(base: dict[str, str], beside: Path) -> tuple[str | None, list[str]]:
    """The weights as `load_imagenet` takes them, or None; and where they were looked for."""
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
