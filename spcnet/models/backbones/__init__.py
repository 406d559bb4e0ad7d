"""Backbones by name. To add one, write a module with a `Backbone` and add its `BackboneInfo` to the table."""

import difflib

from spcnet.config import FeaturesConfig
from spcnet.errors import UsageError, lookup
from spcnet.models.backbones.base import Backbone, BackboneInfo, Tap, Tapped
from spcnet.models.backbones.torchvision import TORCHVISION

__all__ = ["BACKBONES", "Backbone", "BackboneInfo", "Tap", "Tapped", "backbone_info", "build_backbone"]

BACKBONES: dict[str, BackboneInfo] = {**TORCHVISION}
"""Backbone by name."""


def backbone_info(name: str) -> BackboneInfo:
    """Metadata of a backbone.

    Raises:
        UsageError: no backbone has that name.
    """
    if name.startswith("timm/"):
        from spcnet.models.backbones.timm_names import timm_info  # imports timm, which takes a second

        return timm_info(name)
    if name not in BACKBONES:
        from spcnet.models.backbones.timm_names import with_prefix

        near = with_prefix(name)
        if near and (near == f"timm/{name}" or not difflib.get_close_matches(name, BACKBONES, n=1)):
            known = ", ".join(sorted(BACKBONES))
            raise UsageError(f"unknown backbone {name!r}: known are {known} and timm's. Did you mean {near!r}?")
    return lookup(name, BACKBONES, "backbone")


def build_backbone(name: str, *, output_stride: int | None, features: FeaturesConfig | None = None) -> Backbone:
    """The backbone of that name with random weights.

    Args:
        name: in `BACKBONES`, or `timm/` and a model's name in timm.
        output_stride: image size divided by the size of the deepest feature map: 8, 16 or 32; None for the backbone's own.
        features: settings of its feature maps.

    Raises:
        UsageError: no backbone has that name.
    """
    return backbone_info(name).build(output_stride, features or FeaturesConfig())
