"""Linear probing: a decoder that only normalises; the linear classifier and the auxiliary head of other decoders."""

from jaxtyping import Float
from torch import Tensor, nn

from spcnet.config import HeadConfig
from spcnet.models.backbones import Backbone
from spcnet.models.heads.base import Decoder
from spcnet.models.heads.deeplab import PoolableBatchNorm2d, initialise


class LinearDecoder(Decoder):
    """Batch norm and dropout on the deepest map: with a linear classifier the segmentation head of DINOv2 and DINOv3.

    Siméoni et al., DINOv3, 2025: the quality of frozen features, measured with the smallest possible decoder.

    Args:
        backbone: whose map it reads.
        num_classes: K.
        config: `dropout` is read.
    """

    settings = ("dropout",)

    def __init__(self, backbone: Backbone, num_classes: int, config: HeadConfig) -> None:
        super().__init__(backbone, num_classes, config)
        self.places = backbone.pyramid[-1:]
        self.out_channels = backbone.channels[self.places[0]]
        self.norm = PoolableBatchNorm2d(self.out_channels)
        self.dropout = nn.Dropout2d(config.dropout)

    def forward(self, deep: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """The map, normalised over batch and cells."""
        dropped: Tensor = self.dropout(self.norm(deep))
        return dropped


def linear_classifier(in_channels: int, num_classes: int) -> nn.Module:
    """A 1×1 convolution from the decoder's features to class scores."""
    return initialise(nn.Sequential(nn.Conv2d(in_channels, num_classes, 1)))


def auxiliary_head(in_channels: int, num_classes: int) -> nn.Module:
    """Second classifier, on the last map but one; helps training and is not used after it."""
    return initialise(
        nn.Sequential(
            nn.Conv2d(in_channels, 512, 3, padding=1),
            nn.BatchNorm2d(512),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(512, num_classes, 1),
        )
    )
