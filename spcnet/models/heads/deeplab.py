"""DeepLabV3+ (Chen et al., ECCV 2018) as RobustNet has it: ASPP and decoder."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.config import HeadConfig
from spcnet.models.backbones import Backbone
from spcnet.models.heads.base import Decoder, resize

FEATURES = 256
"""Channels of the decoder's output."""


class PoolableBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains on one image pooled to one cell, where a batch has no variance.

    There, and only there, it normalises with the running statistics instead of refusing.
    """

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Normalise over batch and cells."""
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class AtrousConv2d(nn.Conv2d):
    """A 3×3 convolution that keeps the size and leaves out the taps that fall into the padding everywhere.

    On a map of h×w cells with dilation d ≥ h the upper and lower row of the kernel meet nothing but zeros, and with
    d ≥ w the outer columns. Values and gradients are those of the whole kernel; on small images, where a dilation
    of 18 spans the map, the time is that of a 1×1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h w"]:
        """Convolve with the part of the kernel that can reach a cell."""
        rate = int(self.dilation[0])
        # An exported network keeps the whole kernel, for it does not know how large its images will be.
        if torch.compiler.is_exporting() or (rate < input.shape[2] and rate < input.shape[3]):
            return super().forward(input)
        tall, wide = rate < input.shape[2], rate < input.shape[3]
        weight = self.weight[:, :, slice(None) if tall else slice(1, 2), slice(None) if wide else slice(1, 2)]
        return F.conv2d(input, weight, self.bias, padding=(rate * tall, rate * wide), dilation=rate)


def conv_bn(in_channels: int, out_channels: int, kernel: int = 1, *, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size, batch norm, ReLU."""
    atrous = dilation > 1
    return nn.Sequential(
        AtrousConv2d(in_channels, out_channels, dilation)
        if atrous
        else nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        PoolableBatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: what surrounds a cell, at four ranges and over the whole image.

    The rates 6, 12, 18 hold for output stride 16 and scale with the feature map's size.
    """

    def __init__(self, in_channels: int, *, output_stride: int) -> None:
        super().__init__()
        rates = [rate * 16 // output_stride for rate in (6, 12, 18)]
        self.branches = nn.ModuleList(
            [conv_bn(in_channels, FEATURES), *(conv_bn(in_channels, FEATURES, 3, dilation=r) for r in rates)]
        )
        self.pool = conv_bn(in_channels, FEATURES)

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C5 h w"]:
        """Five views of each cell, the whole image's first."""
        size = (feature.shape[2], feature.shape[3])
        pooled = self.pool(feature.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *size)
        return torch.cat([pooled, *(branch(feature) for branch in self.branches)], dim=1)


class DeepLabDecoder(Decoder):
    """ASPP on the deepest features, joined with the finest of the pyramid.

    Args:
        backbone: whose maps it reads.
        num_classes: K.
        config: none of the settings is read.
    """

    align_corners = True
    """Every released weight file of this family was trained so."""

    def __init__(self, backbone: Backbone, num_classes: int, config: HeadConfig) -> None:
        super().__init__(backbone, num_classes, config)
        channels, strides, pyramid = backbone.channels, backbone.strides, backbone.pyramid
        fine, deep = pyramid[0], pyramid[-1]
        self.places, self.out_channels = (deep, fine), FEATURES
        self.aspp = ASPP(channels[deep], output_stride=strides[deep])
        self.reduce_deep = conv_bn(5 * FEATURES, FEATURES)
        self.reduce_fine = conv_bn(channels[fine], 48)
        self.fuse = nn.Sequential(*conv_bn(FEATURES + 48, FEATURES, 3), *conv_bn(FEATURES, FEATURES, 3))
        initialise(self)

    def forward(
        self, deep: Float[Tensor, "B C h16 w16"], fine: Float[Tensor, "B Cf h w"]
    ) -> Float[Tensor, "B 256 h w"]:
        """Features of each cell at the size of the fine map, before a classifier."""
        deep = self.reduce_deep(self.aspp(deep))
        upsampled = resize(deep, (fine.shape[2], fine.shape[3]), align_corners=self.align_corners)
        fused: Tensor = self.fuse(torch.cat([self.reduce_fine(fine), upsampled], dim=1))
        return fused

    def start_classifier(self, classifier: nn.Module) -> None:
        """Leave it as RobustNet starts it, as `initialise` does."""


def initialise(module: nn.Module) -> nn.Module:
    """Kaiming-normal weights for convolutions, biases zero (RobustNet's start for everything but the backbone)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
