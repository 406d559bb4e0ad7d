"""What every decoder is to the network."""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import SymInt, Tensor, nn

from spcnet.config import HeadConfig
from spcnet.models.backbones import Backbone


class Decoder(nn.Module):
    """Joins feature maps of a backbone to one; is called with the maps at `places`, in this order.

    A decoder with `masks` classifies queries and not cells: it returns a tuple of `spcnet.types.MaskPrediction`, the final
    one last, in evaluation that alone, and the network has no classifier behind it.

    Args:
        backbone: whose maps it reads.
        num_classes: K.
        config: the settings, of which it reads those in `settings`.
    """

    masks: ClassVar[bool] = False
    """Whether it returns the predictions of queries instead of a map."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Names of the settings in `HeadConfig` that it reads; others are refused."""
    pyramid: ClassVar[bool] = True
    """Whether maps of one size are to be brought to several strides for it, where `model.features.pyramid` leaves it open."""
    align_corners: ClassVar[bool] = False
    """How its scores are brought to the size of the image, see `resize`."""
    places: tuple[str, ...]
    """Places of the backbone whose maps it reads."""
    out_channels: int
    """Channels of the map that it returns."""

    def __init__(self, backbone: Backbone, num_classes: int, config: HeadConfig) -> None:
        super().__init__()

    first_block: int | None = None
    """The block of a vision transformer before which it takes the tokens over and runs the blocks itself.

    It is then called with the tokens, what `TimmViT.run_block` needs beside them, and the backbone, and reads no maps; None
    for a decoder that is called with maps.
    """

    def prepare(self, progress: float) -> None:
        """Get ready for a batch to be trained on; nothing by default.

        Args:
            progress: fraction of the run that is done, 0..1.
        """

    def embeddings(self) -> set[str]:
        """Names of its parameters that are learned tokens or positions, which weight decay leaves alone."""
        return set()

    def folded(self) -> "Decoder":
        """The same function in evaluation with fewer operations, where it has such a form; itself by default."""
        return self

    def start_classifier(self, classifier: nn.Module) -> None:
        """Give a linear classifier behind this decoder its start: N(0, 0.01) and zero, as in mmsegmentation and DINOv3."""
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
        feature: feature map or scores.
        size: height and width wanted.
        align_corners: whether the centres of the outermost cells lie on one another (torchvision's and RobustNet's
            DeepLab), or the outer borders of the maps do.
    """
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=align_corners)  # type: ignore[arg-type]
