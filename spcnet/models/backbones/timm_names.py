"""timm's models as backbones, by their names there: `timm/NAME`, with the tag of the weights or without.

timm itself resolves the names; no list of them is kept here.
"""

import difflib
import math
import sys
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.patch_embed import resample_patch_embed
from timm.models.hiera import Hiera
from torch import Tensor, nn

from spcnet.config import FeaturesConfig
from spcnet.errors import UsageError
from spcnet.models.backbones.base import Backbone, BackboneInfo, refuse_ignored
from spcnet.models.backbones.timm_hiera import TimmHiera
from spcnet.models.backbones.timm_pyramid import TimmPyramid
from spcnet.models.backbones.timm_vit import TimmViT, is_plain, resampled

PREFIX = "timm/"
"""Prefix of their names here."""
_KERNEL = "patch_embed.proj.weight"
_PERMISSIVE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")
_REFUSALS = (TypeError, AttributeError, AssertionError, RuntimeError, ValueError, LookupError)
"""What timm's models raise for options that they do not know and for images that they do not take."""
_SIZE_OPTIONS: tuple[dict[str, Any], ...] = ({}, {"strict_img_size": False}, {"dynamic_img_size": True})
"""timm's options that let a model take images of any size."""
_WINDOWS = (7, 8, 10, 12, 14, 16)
"""Cells of a window of attention at the deepest map, where windows must fit the image."""


def timm_info(name: str) -> BackboneInfo:
    """Metadata of a timm model.

    Args:
        name: `timm/` and its name there.

    Raises:
        UsageError: timm has no such model, or none with that tag.
    """
    model_name = name.removeprefix(PREFIX)
    _check_name(model_name)
    config = timm.get_pretrained_cfg(model_name)
    described = _described(model_name)
    has_weights = config is not None and bool(config.has_weights)
    licence = str(config.license or "unknown") if config is not None and has_weights else ""
    return BackboneInfo(
        summary=f"{model_name}, of timm",
        build=partial(_build, model_name),
        weights=model_name,
        download=partial(_download, model_name) if has_weights else None,
        convert=partial(_converted, model_name),
        known=frozenset(described.state_dict()),
        flat=is_plain(described),
        licence="" if licence in _PERMISSIVE else licence,
    )


def with_prefix(name: str) -> str | None:
    """The name here of the timm model that is called like that; None if none is."""
    architecture, dot, tag = name.partition(".")
    near = difflib.get_close_matches(architecture, timm.list_models(), n=1, cutoff=0.8)
    return f"{PREFIX}{near[0]}{dot}{tag}" if near else None


@lru_cache(maxsize=16)
def _described(name: str) -> Any:
    """The complete classifier on the meta device, for its names and shapes. Do not change it."""
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def _check_name(name: str) -> None:
    if not name:
        raise UsageError(f"'{PREFIX}' names no backbone: a model's name stands behind it, such as {PREFIX}resnet50")
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
    drop: dict[str, Any] = {"drop_path_rate": features.drop_path} if features.drop_path else {}
    if is_plain(described):
        return _vision_transformer(name, output_stride, features, drop, normalised)
    refuse_ignored(features, f"{PREFIX}{name}", heeded=("drop_path",))
    given, multiple = _way_to_build(name, output_stride)
    try:
        net = timm.create_model(name, pretrained=False, features_only=True, **given, **drop)
    except TypeError as error:
        if not drop:
            raise
        raise UsageError(
            f"model.features.drop_path is {features.drop_path}, but {PREFIX}{name} has no stochastic depth: set it to 0"
        ) from error
    return _pyramid(name, net, multiple, normalised)


def _vision_transformer(
    name: str, output_stride: int | None, features: FeaturesConfig, given: dict[str, Any], normalised: dict[str, Any]
) -> TimmViT:
    described = _described(name)
    rows, columns = described.patch_embed.grid_size
    native = described.patch_embed.patch_size[0]
    patch = features.patch_size or (16 if native == 14 else native)
    if features.grid is not None:
        if getattr(described, "pos_embed", None) is None:
            raise UsageError(
                f"model.features.grid is {features.grid}, but {PREFIX}{name} learns no positions: leave it out"
            )
        rows = columns = features.grid
    if features.resample == "exact" and patch == native and getattr(described, "pos_embed", None) is None:
        raise UsageError(
            f"model.features.resample is exact, but {PREFIX}{name} learns no positions and its patches stay {native}, so that "
            "nothing is resampled: leave it out"
        )
    if patch != native or features.grid is not None:
        # Else the positions stay as many as they are published.
        given = {**given, "patch_size": patch, "img_size": (rows * patch, columns * patch)}
    if hasattr(described, "dynamic_img_size"):
        given = {**given, "dynamic_img_size": True}
    model = timm.create_model(name, pretrained=False, num_classes=0, **given)
    backbone = TimmViT(model, features, output_stride, **normalised)
    backbone.fitted = partial(_fitted, exact=features.resample == "exact", patch=patch, grid=features.grid)
    return backbone


def _pyramid(name: str, net: nn.Module, multiple: int, normalised: dict[str, Any]) -> TimmPyramid:
    described = _described(name)
    known = {key: value.shape for key, value in described.state_dict().items()}
    undecayed = described.no_weight_decay() if hasattr(described, "no_weight_decay") else ()
    kind = TimmHiera if isinstance(getattr(net, "model", None), Hiera) else TimmPyramid
    return kind(net, known=known, undecayed=undecayed, pixel_multiple=multiple, **normalised)


@lru_cache(maxsize=64)
def _way_to_build(name: str, output_stride: int | None) -> tuple[dict[str, Any], int]:
    """Options of `timm.create_model` with which a model takes images of any size, and the multiple that their sides are.

    They are tried out on shapes without numbers.

    Raises:
        UsageError: it has no maps, cannot have that stride, or takes images of one size alone.
    """
    given, multiple, deepest = _own_way(name)
    if output_stride is None or deepest <= output_stride:
        return given, multiple
    dilated = {**given, "output_stride": output_stride}
    backbone = _tried(name, dilated)
    deepest_then = None if isinstance(backbone, Exception) else backbone.strides[backbone.places[-1]]
    if isinstance(backbone, Exception) or deepest_then != output_stride or not _is_true(backbone, multiple):
        raise UsageError(
            f"model.output_stride is {output_stride}, but the deepest map of {PREFIX}{name} has the stride {deepest}, and "
            "timm cannot dilate it to that: set --model.output_stride null for its own"
        )
    return dilated, multiple


@lru_cache(maxsize=64)
def _own_way(name: str) -> tuple[dict[str, Any], int, int]:
    """Options, the multiple of the sides, and the stride of the deepest map by default."""
    reason = ""
    for given in _SIZE_OPTIONS:
        backbone = _tried(name, given)
        if isinstance(backbone, Exception):
            reason = reason if given else " ".join(str(backbone).split())
            continue
        deepest = backbone.strides[backbone.places[-1]]
        for multiple in (deepest, *(window * deepest for window in _WINDOWS)):
            if _is_true(backbone, multiple):
                return dict(given), 1 if _is_true(backbone, 1) else multiple, deepest
    size = "×".join(map(str, _described(name).pretrained_cfg["input_size"][1:]))
    why = (
        f"timm does not cut it into maps ({reason})"
        if reason
        else f"it takes only images of {size}, or its maps have other sizes than timm reports"
    )
    raise UsageError(f"{PREFIX}{name} is no backbone for images of any size: {why}. Choose another one")


def _tried(name: str, given: Mapping[str, Any]) -> TimmPyramid | Exception:
    """A model on the meta device, or the error that timm raises."""
    try:
        with torch.device("meta"):
            net: Any = timm.create_model(name, pretrained=False, features_only=True, **given)
        if len(net.feature_info.channels()) < 2:
            return ValueError("it has one map")
        return _pyramid(name, net, 1, {"mean": (0.5,) * 3, "std": (0.5,) * 3}).eval()
    except _REFUSALS as error:
        return error


def _is_true(backbone: TimmPyramid, multiple: int) -> bool:
    """Whether the maps of images whose sides are multiples have the reported sizes and channels."""
    for sides in ((33, 65), (3 * multiple + 46, 2 * multiple)):
        height, width = (-(-side // multiple) * multiple for side in sides)
        try:
            with torch.no_grad():
                maps = backbone.features(torch.empty(1, 3, height, width, device="meta"), backbone.places)
        except _REFUSALS:
            return False
        for place, stride in backbone.strides.items():
            expected = (1, backbone.channels[place], -(-height // stride), -(-width // stride))
            if place not in maps or tuple(maps[place].shape) != expected:
                return False
    return True


def _fitted(tensors: Mapping[str, Tensor], *, exact: bool, patch: int, grid: int | None) -> dict[str, Tensor]:
    """Published tensors with the kernel of the patch embedding for patches of another size, and positions for a grid."""
    fitted, learned = _fitted_kernel(tensors, exact=exact, patch=patch), tensors.get("pos_embed")
    if grid is None or learned is None or learned.ndim != 3:
        return fitted
    side = math.isqrt(learned.shape[1])  # one more token or a few are no further row
    first = learned.shape[1] - side**2
    return {**fitted, "pos_embed": resampled(learned, (grid, grid), (side, side), first=first, exact=exact)}


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
    """The published weights of the complete classifier, loaded by timm.

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
        return dict(tensors)  # of another network: the check of names and shapes reports it
    return converted
