"""The pretrained weights that a checkpoint leaves out: located by name and verified by a hash."""

import os
from pathlib import Path

from spcnet import checkpoint
from spcnet.errors import CheckpointError
from spcnet.file_kinds import split_part
from spcnet.models.backbones import Backbone, BackboneInfo
from spcnet.weights.imagenet import PUBLISHED, BackboneFit, load_imagenet

BASE = "SPCNET_BASE"
"""Environment variable with their location: a weight file, or a folder of weight files."""
STATISTICS = ("running_mean", "running_var")


def base_hash(backbone: Backbone) -> str:
    """Hash of a backbone's parameters and batch statistics, which identifies pretrained weights.

    Args:
        backbone: with these weights, without an adapter. With learned positions or tokens the first layers are left out,
            because resampled kernels and positions are rounded differently on another machine; `first_hash` has them.
    """
    depths, resampled = backbone.depths(), bool(backbone.embeddings())
    counted = {name for name, depth in depths.items() if depth or not resampled}
    tensors = {
        name: value
        for name, value in backbone.state_dict().items()
        if name in counted or (name not in depths and name.endswith(STATISTICS))
    }
    return checkpoint.fingerprint(tensors)


def first_hash(backbone: Backbone, fit: BackboneFit) -> dict[str, str]:
    """Hash of the tensors that `base_hash` leaves out, as the file has them, before they are resampled.

    Args:
        backbone: with these weights, without an adapter.
        fit: what `load_imagenet` found in the file.

    Returns:
        Part of a checkpoint's entry; empty where `base_hash` leaves nothing out.
    """
    if not backbone.embeddings():
        return {}
    first = {backbone.published[name] for name, depth in backbone.depths().items() if not depth} & fit.whole_size.keys()
    return {"first_sha256": checkpoint.fingerprint({name: fit.whole_size[name].float() for name in first})}


def base_of(backbone: Backbone, weights: str, fit: BackboneFit) -> dict[str, str]:
    """Entry of a checkpoint for the weights that it leaves out: their name, perhaps the part of the file, their hashes.

    Args:
        backbone: with these weights, without an adapter.
        weights: the user's `model.weights`.
        fit: what `load_imagenet` found there.
    """
    file, part = split_part(weights)
    named = {"weights": weights} if part is None else {"weights": str(file), "part": part}
    return {**named, "sha256": base_hash(backbone), **first_hash(backbone, fit)}


def load_base(backbone: Backbone, info: BackboneInfo, base: dict[str, str], source: str) -> None:
    """Load the pretrained weights that a checkpoint names.

    The first existing one of these is used: the file of the variable SPCNET_BASE, the file of that name in its folder, the path
    of the training, the file beside the checkpoint.

    Raises:
        CheckpointError: they are not found, cannot be read, or have another hash; or SPCNET_BASE names nothing that exists.
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
        fit = load_imagenet(backbone, info, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{whole}, and the weights {name} that it began with cannot be used: {error}; or {remedy}"
        ) from error
    hashes = {"sha256": base_hash(backbone), **first_hash(backbone, fit)}
    for key, part in (("sha256", ""), ("first_sha256", " in its first layers")):
        if key in base and base[key] != hashes[key]:  # earlier files have no hash of the first layers
            raise CheckpointError(
                f"{whole}, on the weights {name} of the hash {base[key][:12]}{part}, and {weights} has the hash "
                f"{hashes[key][:12]}: {remedy}"
            )


def _find(base: dict[str, str], beside: Path) -> tuple[str | None, list[str]]:
    """The weights for `load_imagenet`, or None; and the paths that were tried."""
    name, given = base["weights"], os.environ.get(BASE, "")
    places: list[Path] = []
    if given and not split_part(given).file.exists():
        raise CheckpointError(
            f"the environment variable {BASE} is {given}, where nothing is: set it to the file of the pretrained weights or to "
            "its folder, or unset it"
        )
    if given and not (Path(given).is_dir() and name in PUBLISHED):
        places.append(Path(given) / Path(name).name if Path(given).is_dir() else Path(given))
    if name not in PUBLISHED:
        places += [Path(name), beside / Path(name).name]
    for place in places:
        if split_part(place).file.is_file():
            named = split_part(place).part is not None or "part" not in base
            return str(place) if named else f"{place}#{base['part']}", []
    return (name if name in PUBLISHED and not places else None), list(dict.fromkeys(map(str, places)))
