"""Bringing trained values into networks: ImageNet files, and the names that other code bases use.

A file that a user downloaded is never unpickled: safetensors, or `torch.load` with `weights_only=True`.
"""

import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
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
    _refuse_unfolding(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_PLAIN_NUMBERS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file's odd protocol; what is wrong with it is told below
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
    for key, value in loaded.items():
        plain = value.layout == torch.strided and not (value.is_quantized or value.is_meta or value.is_complex())
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"the weight file {path} has under {key!r} no plain array of numbers, or one that is larger than what the "
                "file has for it: it is damaged or made to fill the memory, and was not used"
            )
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


# RobustNet's snapshots hold their mean IoU as a NumPy number, which is nothing that could run.
_SCALAR = np.float64(0).__reduce__()[0]
_PLAIN_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)),
]


def _refuse_unfolding(path: Path) -> None:
    """PyTorch's archives are as large as what is in them; one that is compressed, or whose entries overlap, may unfold to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            overlapping = sum(entry.file_size for entry in entries) > path.stat().st_size
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return  # no archive, or one that PyTorch will not read either
    if compressed or overlapping:
        raise CheckpointError(
            f"{path} is {'a compressed archive' if compressed else 'an archive of more than its own size'}, which PyTorch "
            "does not write: it was not opened; fetch it again from its source"
        )


_TIMM_MOBILENET = (
    (r"conv_stem\.", "features.0.0."),
    (r"bn1\.", "features.0.1."),
    (r"conv_head\.", "features.18.0."),
    (r"bn2\.", "features.18.1."),
)
_TIMM_STAGES = (1, 2, 3, 4, 3, 3, 1)
"""Blocks in each stage of MobileNetV2, as timm numbers them."""
_CSAIL_STEM = (
    (r"conv1\.", "conv1.0."),
    (r"bn1\.", "conv1.1."),
    (r"conv2\.", "conv1.3."),
    (r"bn2\.", "conv1.4."),
    (r"conv3\.", "conv1.6."),
    (r"bn3\.", "bn1."),
)


def torchvision_names(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Whose names an ImageNet file has, and its tensors by torchvision's.

    Known are torchvision's, which timm shares for its ResNets; timm's MobileNetV2; and those of MIT CSAIL's ResNets with
    a stem of three convolutions, the file that RobustNet starts ResNet-101 from. Others stay as they are.

    Raises:
        CheckpointError: two tensors would get the same name.
    """
    maker, renamed = "torchvision", dict(tensors)
    if "conv_stem.weight" in tensors and "blocks.0.0.conv_dw.weight" in tensors:
        maker, renamed = "timm", {_renamed(_timm_block(k), _TIMM_MOBILENET): v for k, v in tensors.items()}
    elif "conv3.weight" in tensors and "layer1.0.conv1.weight" in tensors:
        maker, renamed = "MIT CSAIL", {_renamed(k, _CSAIL_STEM): v for k, v in tensors.items()}
    if len(renamed) != len(tensors):
        raise CheckpointError(f"the file has {maker}'s names and torchvision's for the same tensors: fetch it again")
    return maker, renamed


def _renamed(name: str, table: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in table:
        if re.match(theirs, name):
            return re.sub(rf"^{theirs}", ours, name)
    return name


def _timm_block(name: str) -> str:
    found = re.match(r"blocks\.(\d)\.(\d+)\.(\w+)\.(\w+)$", name)
    if not found or int(found[1]) >= len(_TIMM_STAGES):
        return name
    stage, block, layer, leaf = int(found[1]), int(found[2]), found[3], found[4]
    first = stage == 0
    places = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
    if not first:
        places = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}
    number = 1 + sum(_TIMM_STAGES[:stage]) + block
    return f"features.{number}.conv.{places.get(layer, layer)}.{leaf}"


def backbone_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Which backbone an ImageNet file is of, told from torchvision's names; None where it is of none."""
    if "features.18.0.weight" in tensors and "features.1.conv.0.0.weight" in tensors:
        return "mobilenet_v2"
    if "stage2.0.branch1.0.weight" in tensors and "conv5.0.weight" in tensors:
        return "shufflenet_v2"
    if "layer4.0.conv1.weight" not in tensors or not {"conv1.weight", "conv1.0.weight"} & tensors.keys():
        return None
    depth = sum(bool(re.fullmatch(r"layer[1-4]\.\d+\.conv1\.weight", name)) for name in tensors)
    bottleneck = "layer1.0.conv3.weight" in tensors
    return {(8, False): "resnet18", (16, True): "resnet50", (33, True): "resnet101"}.get((depth, bottleneck))


def load_imagenet(classifier: nn.Module, info: BackboneInfo, weights: str) -> None:
    """Give a classifier its ImageNet weights.

    Args:
        classifier: torchvision's network, from `build_backbone`.
        info: which backbone it is.
        weights: `imagenet` for torchvision's own download, or the path of a file with names that `torchvision_names`
            knows.

    Raises:
        CheckpointError: a tensor is missing or has another shape, or the file cannot be read or fetched.
    """
    if weights == "imagenet":
        tensors, source = _download(info.torchvision_weights), f"torchvision's {info.torchvision_weights} weights"
    else:
        tensors, source = torchvision_names(load_tensors(Path(weights)))[1], weights
    fresh = info.fresh if "conv1.weight" in tensors else ()
    if fresh:
        warnings.warn(
            f"{source} {'have' if weights == 'imagenet' else 'has'} another stem than {info.torchvision_weights} here: "
            f"{', '.join(fresh)} start from random values. Give a file with a stem of three convolutions as model.weights "
            "to avoid it",
            stacklevel=2,
        )
    wanted = {key: value for key, value in classifier.state_dict().items() if not key.startswith(CLASSIFIER_KEYS)}
    given = {k: v for k, v in tensors.items() if not k.startswith((*CLASSIFIER_KEYS, *fresh))}
    missing = [k for k in wanted if k not in given and not k.startswith(fresh or "\0") and "num_batches" not in k]
    unexpected = [k for k in given if k not in wanted]
    misshapen = [k for k in wanted if k in given and given[k].shape != wanted[k].shape]
    for problem, keys in (("lacks", missing), ("has besides", unexpected), ("has in another shape", misshapen)):
        if keys:
            raise CheckpointError(
                f"{source} {problem} {len(keys)} tensors, {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}: "
                f"it must be an ImageNet {info.torchvision_weights} with torchvision's key names, or those of timm or MIT CSAIL"
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
