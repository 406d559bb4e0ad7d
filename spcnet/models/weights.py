"""Bringing trained values into networks: ImageNet files, and the names that other code bases use.

A file that a user downloaded is never unpickled: safetensors, or `torch.load` with `weights_only=True`.
"""

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spcnet.errors import CheckpointError
from spcnet.models.backbones import BackboneInfo

CLASSIFIER_KEYS = ("fc.", "classifier.")
"""Beginnings of the keys of an ImageNet classifier's last layer, which segmentation does not use."""

REFERENCE_NAMES = (
    ("backbone.stem.", "layer0."),
    ("backbone.layer1.", "layer1."),
    ("backbone.layer2.", "layer2."),
    ("backbone.layer3.", "layer3."),
    ("backbone.layer4.", "layer4."),
    ("decoder.aspp.branches.", "aspp.features."),
    ("decoder.aspp.pool.", "aspp.img_conv."),
    ("decoder.reduce_deep.", "bot_aspp."),
    ("decoder.reduce_fine.", "bot_fine."),
    ("decoder.fuse.", "final1."),
    ("classifier.projection.", "projection."),
    ("classifier.embedding_norm.", "feat_norm."),
    ("classifier.score_norm.", "mask_norm."),
    ("classifier.prototypes", "prototypes"),
    ("classifier.", "final2."),
    ("auxiliary.", "dsn."),
    ("styles.0.base_mean", "styleAdaIN1.style_mu"),
    ("styles.0.base_std", "styleAdaIN1.style_sig"),
    ("styles.1.base_mean", "styleAdaIN2.style_mu"),
    ("styles.1.base_std", "styleAdaIN2.style_sig"),
)
"""Beginning of a key here and in the reference's PyTorch code; the first that fits counts."""
SHUFFLENET_NAMES = (("backbone.stem.", "layer0.layer."), ("backbone.layer4.0.", "layer4.layer."))
"""What differs with ShuffleNetV2."""
SHUFFLENET_STEM_NORM = "layer0.layer.0.1."
"""Where an instance norm stands in the stem of ShuffleNetV2; the reference keeps the batch norm's unused weights there."""


def reference_name(key: str, *, backbone: str, stem_norm: bool = False) -> str:
    """Name that RobustNet's and the author's PyTorch code give to a tensor of `Segmentor`.

    Args:
        key: name here.
        backbone: name of its backbone; the reference wraps the stem and the last stage of ShuffleNetV2 once more.
        stem_norm: whether a norm slot of its stem is filled.

    Raises:
        KeyError: no tensor of a `Segmentor` begins like this.
    """
    for ours, theirs in (*SHUFFLENET_NAMES, *REFERENCE_NAMES) if backbone == "shufflenet_v2" else REFERENCE_NAMES:
        if key.startswith(ours):
            name = theirs + key.removeprefix(ours)
            if backbone == "shufflenet_v2" and stem_norm and name.startswith(SHUFFLENET_STEM_NORM):
                return name.replace(SHUFFLENET_STEM_NORM, "layer0.instance_norm_layer.")
            # A block with a filled norm slot is wrapped here.
            return name.replace(".block.", ".").replace(".norm.", ".instance_norm_layer.")
    raise KeyError(key)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a flat file of named tensors, safetensors or a PyTorch state dict, without executing anything in it.

    Raises:
        CheckpointError: the file is missing, truncated, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}: check the path given as model.weights")
    _refuse_compressed(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_PLAIN_NUMBERS):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error).strip().splitlines() or ["it is empty"])[0]
        raise CheckpointError(
            f"cannot read the weight file {path} ({reason}): it must be a safetensors file or a PyTorch state dict; "
            "fetch it again if the download broke off"
        ) from error
    except Exception as error:  # the unpickler raises its own kind for code it refuses to run
        raise CheckpointError(
            f"the weight file {path} is damaged or holds more than tensors, and was not opened: save the state dict alone, "
            "or fetch it again"
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"the weight file {path} is no state dict: it must map names to tensors")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


# RobustNet's snapshots hold their mean IoU as a NumPy number, which is nothing that could run.
_SCALAR = np.float64(0).__reduce__()[0]
_PLAIN_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
]


def _refuse_compressed(path: Path) -> None:
    """PyTorch stores its archives uncompressed; one that is not may unfold to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return  # no archive, or one that PyTorch will not read either
    if compressed:
        raise CheckpointError(
            f"{path} is a compressed archive, which PyTorch does not write: it was not opened; fetch it again from its source"
        )


def load_imagenet(classifier: nn.Module, info: BackboneInfo, weights: str) -> None:
    """Give a classifier its ImageNet weights.

    Args:
        classifier: torchvision's network, from `build_backbone`.
        info: which backbone it is.
        weights: `imagenet` for torchvision's own download, or the path of a file with torchvision's key names.

    Raises:
        CheckpointError: a tensor is missing or has another shape, or the file cannot be read or fetched.
    """
    if weights == "imagenet":
        tensors = _download(info.torchvision_weights)
        fresh = info.fresh
        if fresh:
            warnings.warn(
                f"torchvision's ImageNet weights for {info.torchvision_weights} have another stem: "
                f"{', '.join(fresh)} start from random values. Give a file with this stem as model.weights to avoid it",
                stacklevel=2,
            )
        source = f"torchvision's {info.torchvision_weights} weights"
    else:
        tensors, fresh, source = load_tensors(Path(weights)), (), weights
    wanted = {key: value for key, value in classifier.state_dict().items() if not key.startswith(CLASSIFIER_KEYS)}
    given = {k: v for k, v in tensors.items() if not k.startswith((*CLASSIFIER_KEYS, *fresh))}
    missing = [k for k in wanted if k not in given and not k.startswith(fresh or "\0") and "num_batches" not in k]
    unexpected = [k for k in given if k not in wanted]
    misshapen = [k for k in wanted if k in given and given[k].shape != wanted[k].shape]
    for problem, keys in (("lacks", missing), ("has besides", unexpected), ("has in another shape", misshapen)):
        if keys:
            raise CheckpointError(
                f"{source} {problem} {len(keys)} tensors, {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}: "
                f"it must be an ImageNet {info.torchvision_weights} with torchvision's key names"
            )
    classifier.load_state_dict(given, strict=False)


def _download(name: str) -> dict[str, Tensor]:
    try:
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        tensors: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise CheckpointError(
            f"could not fetch torchvision's ImageNet weights for {name} ({error}): go online, give a local file as "
            "model.weights, or set it to null to start from random values"
        ) from error
    return tensors
