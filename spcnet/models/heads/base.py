"""The interface of decoders."""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import SymInt, Tensor, nn

from spcnet.config import HeadConfig
from spcnet.models.backbones import Backbone


class Decoder(nn.Module):
    """Fuses feature maps of a backbone into one; called with the maps at `places`, in this order.

    A decoder with `masks` classifies queries and not cells: it returns a tuple of `spcnet.types.MaskPrediction`, the final
    one last, in evaluation that alone, and the network has no classifier behind it.

    Args:
        backbone: provides the maps.
        num_classes: K.
        config: the settings; a decoder reads those listed in `settings`.
    """

    masks: ClassVar[bool] = False
    """Whether it returns predictions of queries instead of a map."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Fields of `HeadConfig` that it reads; others are refused."""
    pyramid: ClassVar[bool] = True
    """Whether it needs maps at several strides, if `model.features.pyramid` does not decide it."""
    align_corners: ClassVar[bool] = False
    """How its logits are resized to the image, see `resize`."""
    places: tuple[str, ...]
    """Places whose maps it reads."""
    out_channels: int
    """Channels of its output."""

    def __init__(self, backbone: Backbone, num_classes: int, config: HeadConfig) -> None:
        super().__init__()

    first_block: int | None = None
    """Index of the first block of a vision transformer that the decoder runs itself; None if it is called with maps.

    It is then called with the tokens, what `TimmViT.run_block` needs beside them, and the backbone, and reads no maps; None
    It is then called with the tokens, the `ViTState` for `TimmViT.run_block`, and the backbone.
    """

    def prepare(self, progress: float) -> None:
        """Prepare for a training batch; nothing by default.

        Args:
            progress: fraction of the run that is done, 0..1.
        """

    def embeddings(self) -> set[str]:
        """Names of its learned tokens and positions, which have no weight decay."""
        return set()

    def folded(self) -> "Decoder":
        """An equivalent module with fewer operations in evaluation; itself by default."""
        return self

    def start_classifier(self, classifier: nn.Module) -> None:
        """Initialise a linear classifier behind this decoder: weights N(0, 0.01), bias zero, as in mmsegmentation and DINOv3."""
        for layer in classifier.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def resize(
    feature: Float[Tensor, "B C h w"], size: tuple[int | SymInt, int | SymInt], *, align_corners: bool
) -> Float[Tensor, "B C h2 w2"]:
    """Bilinear, without antialiasing.

    Args:
        feature: feature map or logits.
        size: height and width of the result.
        align_corners: whether the centres of the outermost cells lie on one another (torchvision's and RobustNet's
            DeepLab), or the outer borders of the maps do.
    """
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=align_corners)  # type: ignore[arg-type]
