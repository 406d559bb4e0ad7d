"""SegFormer's all-MLP decoder (Xie et al., NeurIPS 2021, §3.2): every map projected, joined and fused cell by cell."""

import functools
import operator

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.config import HeadConfig
from spcnet.models.backbones import Backbone
from spcnet.models.heads.base import Decoder, resize
from spcnet.models.heads.deeplab import PoolableBatchNorm2d, initialise

CHANNELS = 256
"""Of its features by default, as in SegFormer-B0 and B1."""


class SegformerDecoder(Decoder):
    """A linear layer for each map of the pyramid; these at the finest's size, joined, a 1×1 convolution, norm, ReLU, dropout.

    Between a map's linear layer and its share of the 1×1 convolution there is bilinear resizing alone, and that is linear
    too, with weights that sum to one. So both are applied as one matrix, before the resizing, and the results are added:
    the values of the paper's order up to rounding, for a fraction of its operations and without the joined map.

    Args:
        backbone: whose pyramid it reads.
        num_classes: K.
        config: `channels` and `dropout` are read.
    """

    settings = ("channels", "dropout")

    def __init__(self, backbone: Backbone, num_classes: int, config: HeadConfig) -> None:
        super().__init__(backbone, num_classes, config)
        self.places, self.out_channels = backbone.pyramid, config.channels or CHANNELS
        self.project = nn.ModuleList(
            [nn.Conv2d(backbone.channels[place], self.out_channels, 1) for place in self.places]
        )
        self.fuse = nn.Conv2d(len(self.places) * self.out_channels, self.out_channels, 1, bias=False)
        """Reads the projected maps, the deepest's channels first."""
        self.norm = PoolableBatchNorm2d(self.out_channels)
        self.dropout = nn.Dropout(config.dropout)
        initialise(self)

    def forward(self, *maps: Float[Tensor, "B _C _h _w"]) -> Float[Tensor, "B C h w"]:
        """Features of each cell of the finest map."""
        size = (maps[0].shape[2], maps[0].shape[3])
        shares = reversed(self.fuse.weight.chunk(len(maps), dim=1))
        parts: list[Tensor] = []
        for feature, projection, share in zip(maps, self.project, shares, strict=True):
            assert isinstance(projection, nn.Conv2d)
            assert projection.bias is not None
            matrix = share.flatten(1)
            weight = (matrix @ projection.weight.flatten(1))[..., None, None]
            fused = F.conv2d(feature, weight, matrix @ projection.bias)
            parts.append(resize(fused, size, align_corners=self.align_corners) if parts else fused)
        joined: Tensor = self.dropout(self.norm(functools.reduce(operator.add, parts)).relu_())
        return joined
