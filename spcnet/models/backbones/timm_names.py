"""timm's models as backbones, by their names there: `timm/NAME`, with the tag of the weights or without.

What a name means is asked of timm; nothing of it is listed here.
"""

import difflib
import sys
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor, nn

from spcnet.config import FeaturesConfig
from spcnet.errors import UsageError
from spcnet.models.backbones.base import Backbone, BackboneInfo
from spcnet.models.backbones.timm_vit import TimmViT, is_plain

PREFIX = "timm/"
"""What their names begin with here."""
_KERNEL = "patch_embed.proj.weight"


def timm_info(name: str) -> BackboneInfo:
    """What is known of a model of timm.

    Args:
        name: `timm/` and its name there.

    Raises:
        UsageError: timm has no such model, or none with that tag.
    """
    own = name.removeprefix(PREFIX)
    _check_name(own)
    config = timm.get_pretrained_cfg(own)
    described = _described(own)
    has_weights = config is not None and bool(config.has_weights)
    return BackboneInfo(
        summary=f"{own}, of timm",
        build=partial(_build, own),
        weights=own,
        download=partial(_download, own) if has_weights else None,
        convert=partial(_converted, own),
        known=frozenset(described.state_dict()),
    )


@lru_cache(maxsize=16)
def _described(name: str) -> Any:
    """The whole classifier without its numbers, for its names and shapes. Do not change it."""
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    tags = {one.partition(".")[2] for one in timm.list_models(f"{architecture}.*", pretrained=True)}
    if timm.is_model(architecture) and (not tag or tag in tags):
        return
    if timm.is_model(architecture):
        near = [f"{architecture}.{one}" for one in difflib.get_close_matches(tag, sorted(tags), n=3, cutoff=0.0)]
        what = f"timm has the model {architecture!r}, but no weights of it that are called {tag!r}"
    else:
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.4)
        what = f"unknown backbone '{PREFIX}{name}': timm has no model {architecture!r}"
    hint = f" Did you mean {' or '.join(repr(PREFIX + one) for one in near)}?" if near else ""
    raise UsageError(f"{what}.{hint}")


def _build(name: str, output_stride: int | None, features: FeaturesConfig) -> Backbone:
    described = _described(name)
    config = described.pretrained_cfg
    normalised: dict[str, Any] = {key: tuple(map(float, config[key])) for key in ("mean", "std")}
    if not is_plain(described):
        raise UsageError(f"{PREFIX}{name} is no plain vision transformer: choose one that is")
    given: dict[str, Any] = {"drop_path_rate": features.drop_path} if features.drop_path else {}
    rows, columns = described.patch_embed.grid_size
    native = described.patch_embed.patch_size[0]
    patch = features.patch_size or (16 if native == 14 else native)
    if patch != native:
        given |= {"patch_size": patch, "img_size": (rows * patch, columns * patch)}
    if hasattr(described, "dynamic_img_size"):
        given["dynamic_img_size"] = True
    model = timm.create_model(name, pretrained=False, num_classes=0, **given)
    backbone = TimmViT(model, features, output_stride, **normalised)
    backbone.fitted = partial(_fitted_kernel, exact=features.resample == "exact", patch=patch)
    return backbone


def _fitted_kernel(tensors: Mapping[str, Tensor], *, exact: bool, patch: int) -> dict[str, Tensor]:
    """Published tensors with the kernel of the patch embedding for patches of another size.

    Plain: bicubic without antialiasing and without correction of the norm, as DINOv2's, Rein's and SoMA's code has it.
    Exact: the pseudo-inverse of the resize (FlexiViT, Beyer et al., CVPR 2023), timm's own.
    """
    kernel = tensors.get(_KERNEL)
    if kernel is None or kernel.ndim != 4 or kernel.shape[-2:] == (patch, patch):
        return dict(tensors)
    size = [patch, patch]
    if exact:
        resized = resample_patch_embed(kernel, size)
    else:
        resized = F.interpolate(kernel.float(), size=size, mode="bicubic", align_corners=False).to(kernel.dtype)
    return {**tensors, _KERNEL: resized}


def _download(name: str) -> dict[str, Tensor]:
    """The published weights by timm's own loading, of the whole classifier.

    Raises:
        OSError: they cannot be fetched.
    """
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # of the hub, the network or the file: their errors have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(reason) from error
    return model.state_dict()


def _converted(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file under timm's names; what timm itself converts when it loads, such as Meta's files of DINOv2."""
    described = _described(name)
    convert = getattr(sys.modules[type(described).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(tensors)
    try:
        converted: dict[str, Tensor] = convert(dict(tensors), described)
    except (KeyError, IndexError, AttributeError, RuntimeError, ValueError, TypeError, AssertionError):
        return dict(tensors)  # of another network: what is wrong with it is told by its names and shapes
    return converted
