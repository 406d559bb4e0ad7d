"""A head of few convolutions on four maps, for vision transformers with adapters; VFMSeg (AAAI 2025) trains with one."""

import functools
import math
import operator

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.config import HeadConfig
from spcnet.models.backbones import Backbone
from spcnet.models.heads.base import Decoder, resize

CHANNELS = 256
"""Of its features by default."""
COARSE, FINE = 16, 4
"""The strides nearest to which maps are joined and scores are made."""


class FourTapDecoder(Decoder):
    """The pyramid at one size, joined, 1×1 convolution, group norm, ReLU; 2×2 transposed convolutions up to stride 4; dropout.

    The size is that of the map whose stride is nearest to 16, and the transposed convolutions are two: all maps of a vision
    transformer have it, unless `model.features.pyramid` is set. Finer maps are averaged over the cells of a coarse one; of coarser
    ones the result is resized. The 1×1 convolution is a sum over the maps, so that each is convolved at its own size.

    Args:
        backbone: whose pyramid it reads.
        num_classes: K.
        config: `channels` and `dropout` are read.
    """

    settings = ("channels", "dropout")
    pyramid = False

    def __init__(self, backbone: Backbone, num_classes: int, config: HeadConfig) -> None:
        super().__init__(backbone, num_classes, config)
        self.places, self.out_channels = backbone.pyramid, config.channels or CHANNELS
        strides = [backbone.strides[place] for place in self.places]
        self.joined = min(range(len(strides)), key=lambda number: abs(math.log2(strides[number] / COARSE)))
        """Number of the map at whose size all are joined."""
        self.shrinks = [max(1, strides[self.joined] // stride) for stride in strides]
        """How many cells of each map, in height and width, are averaged."""
        channels = [backbone.channels[place] for place in self.places]
        join = [nn.Conv2d(one, self.out_channels, 1, bias=False) for one in channels]
        self.join = nn.ModuleList(join)
        """The 1×1 convolution of the joined maps, in parts."""
        self.norm = nn.GroupNorm(math.gcd(32, self.out_channels), self.out_channels)
        steps = max(1, round(math.log2(strides[self.joined] / FINE)))
        upsample = [nn.ConvTranspose2d(self.out_channels, self.out_channels, 2, stride=2) for _ in range(steps)]
        self.upsample = nn.Sequential(*upsample)
        self.dropout = nn.Dropout2d(config.dropout)
        deviation = (2 / sum(channels)) ** 0.5  # Kaiming's of the whole convolution
        for part in join:
            nn.init.normal_(part.weight, std=deviation)
        for layer in upsample:  # each cell that it makes has one cell behind it
            nn.init.normal_(layer.weight, std=self.out_channels**-0.5)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, *maps: Float[Tensor, "B _C _h _w"]) -> Float[Tensor, "B C h w"]:
        """Features of each cell at stride 4."""
        size = (maps[self.joined].shape[2], maps[self.joined].shape[3])
        parts: list[Tensor] = []
        for number, (feature, join, shrink) in enumerate(zip(maps, self.join, self.shrinks, strict=True)):
            if shrink > 1:
                feature = averaged(feature, shrink)
            part = join(feature)
            parts.append(part if number == self.joined else resize(part, size, align_corners=self.align_corners))
        coarse = self.norm(functools.reduce(operator.add, parts)).relu_()
        upsampled: Tensor = self.dropout(self.upsample(coarse))
        return upsampled


def averaged(feature: Float[Tensor, "B C h w"], cells: int) -> Float[Tensor, "B C h2 w2"]:
    """Average pooling over squares of that many cells; windows at the lower and right border average the cells inside.

    `avg_pool2d` with `ceil_mode` does the same, but not in an exported network that takes any size.
    """
    pad = (0, -feature.shape[3] % cells, 0, -feature.shape[2] % cells)
    inside = feature.new_ones(1, 1, feature.shape[2], feature.shape[3])
    return F.avg_pool2d(F.pad(feature, pad), cells) / F.avg_pool2d(F.pad(inside, pad), cells)
