"""SegFormer's all-MLP decoder (Xie et al., NeurIPS 2021, §3.2): every map projected, joined and fused cell by cell."""

import functools
import operator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.config import HeadConfig
from spcnet.models.backbones import Backbone
from spcnet.models.heads.base import Decoder, resize
from spcnet.models.heads.deeplab import PoolableBatchNorm2d

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
        channels = [backbone.channels[place] for place in self.places]
        project = [nn.Linear(one, self.out_channels) for one in channels]
        self.project = nn.ModuleList(project)
        self.fuse = nn.Linear(len(channels) * self.out_channels, self.out_channels, bias=False)
        """Reads the projected maps, the deepest's channels first."""
        self.norm = PoolableBatchNorm2d(self.out_channels)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.kaiming_normal_(self.fuse.weight, nonlinearity="relu")
        for layer in project:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)

    def forward(self, *maps: Float[Tensor, "B _C _h _w"]) -> Float[Tensor, "B C h w"]:
        """Features of each cell of the finest map."""
        size = (maps[0].shape[2], maps[0].shape[3])
        parts: list[Tensor] = []
        for feature, (weight, bias) in zip(maps, self.matrices(), strict=True):
            fused = F.conv2d(feature, weight[..., None, None], bias)
            parts.append(resize(fused, size, align_corners=self.align_corners) if parts else fused)
        joined: Tensor = self.dropout(self.norm(functools.reduce(operator.add, parts)).relu_())
        return joined

    def matrices(self) -> list[tuple[Float[Tensor, "C _C"], Float[Tensor, " C"]]]:
        """Weight and bias for each map: its linear layer folded with its slice of the fusion convolution."""
        kernels = reversed(self.fuse.weight.chunk(len(self.project), dim=1))
        layers = [layer for layer in self.project if isinstance(layer, nn.Linear)]
        return [(kernel @ one.weight, kernel @ one.bias) for kernel, one in zip(kernels, layers, strict=True)]

    def folded(self) -> Decoder:
        """One convolution for each map, the norm within them."""
        return FoldedSegformer(self)


class FoldedSegformer(Decoder):
    """SegFormer's decoder as one convolution for each map, its norm within them; only for evaluation.

    Args:
        decoder: in evaluation mode.
    """

    def __init__(self, decoder: SegformerDecoder) -> None:
        nn.Module.__init__(self)
        self.places, self.out_channels, norm = decoder.places, decoder.out_channels, decoder.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.convs = nn.ModuleList()
        with torch.no_grad():
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - norm.running_mean * scale
            for number, (weight, bias) in enumerate(decoder.matrices()):
                conv = nn.Conv2d(weight.shape[1], self.out_channels, 1)
                conv.weight = nn.Parameter(scale[:, None, None, None] * weight[..., None, None])
                conv.bias = nn.Parameter(scale * bias + (0 if number else shift))
                self.convs.append(conv.requires_grad_(False))

    def forward(self, *maps: Float[Tensor, "B _C _h _w"]) -> Float[Tensor, "B C h w"]:
        """Features of each cell of the finest map."""
        size = (maps[0].shape[2], maps[0].shape[3])
        joined: Tensor = self.convs[0](maps[0])
        for feature, conv in zip(maps[1:], self.convs[1:], strict=True):
            joined = joined + resize(conv(feature), size, align_corners=self.align_corners)
        return joined.relu_()
