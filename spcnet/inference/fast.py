"""A network rewritten for a processor: the same function of the image, with fewer operations.

Nothing is approximated and nothing is trained anew; the scores differ by rounding alone. What is done, on a copy:

- Batch norms are folded into the convolutions before them. Instance norms and whitening depend on the image and stay.
- Channels last throughout, where a 1×1 convolution is one matrix product.
- The decoder's first 3×3 convolution reads features that were just upsampled sixteenfold in area. Both are linear, so the
  weights are applied before the upsampling, and upsampling and shifting become two small matrices (`UpsampledConv`).
- 3×3 convolutions with many channels use Winograd's minimal filtering (`WinogradConv`), a quarter of the products.
- Dilated convolutions leave out the rows of cells at which a row of the kernel meets padding alone (`AtrousRows`).
- The prototype head works on bands of the map that stay in the cache from its first product to its last.

`benchmarks/inference.py` measures what each gives.
"""

import copy
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck

from spcnet.models.clustering import ClusterOutput, PrototypeHead
from spcnet.models.deeplab import AtrousConv2d, DeepLabDecoder, resize
from spcnet.models.segmentor import Segmentor

Step = Literal["fold", "products", "upsampled", "winograd", "rows", "bands"]
STEPS: tuple[Step, ...] = ("fold", "products", "upsampled", "winograd", "rows", "bands")
"""What `fused` does, in this order."""

MIN_WINOGRAD_CHANNELS = 128
"""Fewest input and output channels at which the transformations of Winograd's filtering cost less than they save."""
CELLS_AT_ONCE = 2048
"""Cells that the prototype head works on together; 2 MiB of 256 channels."""
TILES_AT_ONCE = 128
"""Tiles of 4×4 cells that Winograd's filtering works on together, so that they stay in a processor's cache."""


def fused(network: Segmentor, *, steps: tuple[Step, ...] = STEPS) -> Segmentor:
    """A copy of a network that computes the same scores faster on a processor; only for evaluation.

    Scores differ from the network's own by less than 1e-3 of their largest, about 1e-5 as a rule.

    Args:
        network: stays as it is.
        steps: which of the rewritings to make, for measuring them.
    """
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    fast.auxiliary = fast.clusters = None
    fast.recompute = False
    if "fold" in steps:
        fold_norms(fast)
    if "upsampled" in steps and isinstance(fast.decoder.fuse[1], nn.Identity):
        fast.decoder = _UpsampledDecoder(fast.decoder)
    if "bands" in steps and isinstance(fast.classifier, PrototypeHead):
        fast.classifier = _BandedHead(fast.classifier)
    fast = fast.to(memory_format=torch.channels_last)
    for module in list(fast.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                setattr(module, name, _rewritten(child, steps))
    return fast


def fold_norms(network: nn.Module) -> None:
    """Fold each batch norm that directly follows a convolution into it, in place; others and other norms stay.

    Args:
        network: in evaluation mode, made of sequences and torchvision's residual blocks.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            names = list(module._modules)
            _fold(module, list(pairwise(names)))
        elif isinstance(module, (BasicBlock, Bottleneck)):
            _fold(module, [(f"conv{n}", f"bn{n}") for n in (1, 2, 3) if hasattr(module, f"conv{n}")])


def _fold(module: nn.Module, pairs: list[tuple[str, str]]) -> None:
    for first, second in pairs:
        conv, norm = getattr(module, first), getattr(module, second)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            folded = fuse_conv_bn_eval(conv, norm)
            after: nn.Module = nn.Identity()
            if isinstance(folded, AtrousConv2d) and folded.bias is not None:  # it would not add it
                after, folded.bias = Shift(folded.bias), None
            setattr(module, first, folded)
            setattr(module, second, after)


class Shift(nn.Module):
    """Adds a number to each channel, in place.

    Args:
        offset: for each channel.
    """

    offset: Tensor

    def __init__(self, offset: Float[Tensor, " C"]) -> None:
        super().__init__()
        self.register_buffer("offset", offset.detach()[:, None, None])

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Add it."""
        return input.add_(self.offset)


def _rewritten(conv: nn.Conv2d, steps: tuple[Step, ...]) -> nn.Module:
    if conv.groups != 1 or conv.padding_mode != "zeros":
        return conv
    if conv.kernel_size == (1, 1):
        return PointwiseConv(conv) if "products" in steps and conv.padding == (0, 0) else conv
    square = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.padding == conv.dilation
    if not square or conv.dilation[0] != conv.dilation[1]:
        return conv
    if isinstance(conv, AtrousConv2d):
        return AtrousRows(conv) if "rows" in steps else conv
    wide = min(conv.in_channels, conv.out_channels) >= MIN_WINOGRAD_CHANNELS
    return WinogradConv(conv) if "winograd" in steps and wide else conv


class PointwiseConv(nn.Module):
    """A 1×1 convolution as a matrix product over the cells.

    Args:
        conv: without padding and groups.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride = (int(conv.stride[0]), int(conv.stride[1]))
        self.register_buffer("weight", conv.weight.detach().flatten(1).contiguous())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h2 w2"]:
        """Weigh the channels of each cell."""
        if self.stride != (1, 1):
            input = input[:, :, :: self.stride[0], :: self.stride[1]]
        return F.linear(input.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class AtrousRows(nn.Module):
    """A dilated 3×3 convolution as three matrix products, each over the rows of cells that a row of the kernel reaches.

    With a dilation of 18 on a map 32 cells high a third of what a convolution multiplies is padding above and below.

    Args:
        conv: 3×3, that keeps the size.
    """

    weight: Tensor

    def __init__(self, conv: AtrousConv2d) -> None:
        super().__init__()
        self.rate = int(conv.dilation[0])
        # For each row of the kernel a matrix from the channels to the columns of the kernel and the channels wanted.
        self.register_buffer("weight", conv.weight.detach().permute(2, 1, 3, 0).flatten(2).contiguous())

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h w"]:
        """Convolve."""
        cells = input.permute(0, 2, 3, 1)
        images, height, width, _ = cells.shape
        total = cells.new_zeros(images, height, width, self.weight.shape[2] // 3)
        for row in range(3):
            top, bottom, down = _reach(row, self.rate, height)
            if top >= bottom:
                continue
            products = (cells[:, top + down : bottom + down] @ self.weight[row]).unflatten(3, (3, -1))
            for column in range(3):
                left, right, across = _reach(column, self.rate, width)
                if left < right:
                    total[:, top:bottom, left:right] += products[:, :, left + across : right + across, column]
        return total.permute(0, 3, 1, 2)


def _reach(tap: int, rate: int, cells: int) -> tuple[int, int, int]:
    """First and last+1 cell at which a tap of three meets the map, and how far from the cell it reads."""
    away = (tap - 1) * rate
    return max(0, -away), min(cells, cells - away), away


def _matrix(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


_GIVEN = _matrix(
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)
)  # fmt: skip
_KERNEL = _matrix(
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)
)  # fmt: skip
_FOUND = _matrix((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class WinogradConv(nn.Module):
    """A 3×3 convolution by Winograd's minimal filtering F(4×4, 3×3): 36 products where 144 would be needed.

    Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, §4.3. A dilated convolution is one of
    distance 1 on each of the maps that every so many cells make.

    Args:
        conv: 3×3, without groups, that keeps the size.
    """

    kernel: Tensor
    given: Tensor
    found: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.rate = int(conv.dilation[0])
        kernel = torch.einsum("ai,bj,ocij->abco", _KERNEL, _KERNEL, conv.weight.detach().double().cpu())
        for name, matrix in (
            ("kernel", kernel.flatten(0, 1)),
            ("given", torch.kron(_GIVEN, _GIVEN)),
            ("found", torch.kron(_FOUND, _FOUND)),
        ):
            self.register_buffer(name, matrix.to(conv.weight).contiguous())

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h w"]:
        """Convolve."""
        images, channels, height, width = input.shape
        rate, wanted = self.rate, self.kernel.shape[2]
        rows, columns = -(-height // (4 * rate)), -(-width // (4 * rate))
        if 16 * rate * rate * rows * columns > 2 * height * width:  # a small map is mostly the tiles' padding
            convolved: Tensor = self.conv(input)
            return convolved
        below, beside = (4 * rows + 1) * rate - height, (4 * columns + 1) * rate - width
        cells = F.pad(input, (rate, beside, rate, below)).permute(0, 2, 3, 1).contiguous()
        image, row, column, _ = cells.stride()
        # Row and column within a tile, image, tile's row, start of the row, tile's column, start of the column, channel.
        tiles = cells.as_strided(
            (6, 6, images, rows, rate, columns, rate, channels),
            (rate * row, rate * column, image, 4 * rate * row, row, 4 * rate * column, column, 1),
        )
        result = cells.new_empty(images, rows, 4, rate, columns, 4, rate, wanted)
        step = max(1, TILES_AT_ONCE // (columns * rate * rate))
        for number in range(images):
            for first in range(0, rows, step):
                some = tiles[:, :, number, first : first + step]
                products = torch.bmm((self.given @ some.reshape(36, -1)).view(36, -1, channels), self.kernel)
                sums = (self.found @ products.view(36, -1)).view(4, 4, -1, rate, columns, rate, wanted)
                result[number, first : first + step] = sums.permute(2, 0, 3, 4, 1, 5, 6)
        if self.conv.bias is not None:
            result += self.conv.bias
        whole = result.view(images, 4 * rows * rate, 4 * columns * rate, wanted)
        return whole[:, :height, :width].permute(0, 3, 1, 2)


class UpsampledConv(nn.Module):
    """A 3×3 convolution of fine features joined with coarse ones that are upsampled to their size.

    Of the coarse features, upsampling U and the shift S of each tap act on the cells and its weights W on the channels:
    Σ S·(U x)·W = Σ (S·U)·(x·W). So the weights meet the few coarse cells, and S·U is a small matrix for the rows and one
    for the columns.

    Args:
        conv: what reads both, the fine features' channels first; with bias.
        fine_channels: how many those are.
    """

    coarse: Tensor

    def __init__(self, conv: nn.Conv2d, *, fine_channels: int) -> None:
        super().__init__()
        weight = conv.weight.detach()
        self.fine = nn.Conv2d(fine_channels, conv.out_channels, 3, padding=1).requires_grad_(False)
        assert conv.bias is not None
        assert self.fine.bias is not None
        self.fine.weight.copy_(weight[:, :fine_channels])
        self.fine.bias.copy_(conv.bias)
        # For each row of the kernel a matrix from the channels to the columns of the kernel and the channels wanted.
        self.register_buffer("coarse", weight[:, fine_channels:].permute(2, 1, 3, 0).flatten(2).contiguous())

    def forward(self, coarse: Float[Tensor, "B C h w"], fine: Float[Tensor, "B Cf H W"]) -> Float[Tensor, "B C2 H W"]:
        """What the convolution makes of both."""
        images, channels, height, width = coarse.shape
        tall, wide, wanted = fine.shape[2], fine.shape[3], self.fine.out_channels
        cells = coarse.permute(0, 2, 3, 1).reshape(images, 1, height * width, channels)
        weighed = (cells @ self.coarse).view(images, 3 * height, 3 * width, wanted)
        across = _upsampling(width, wide, coarse.device).transpose(1, 2).reshape(wide, -1)
        down = _upsampling(height, tall, coarse.device).flatten(1)
        spread = down @ (across @ weighed).view(images, 3 * height, -1)
        joined: Tensor = self.fine(fine)
        return joined + spread.view(images, tall, wide, wanted).permute(0, 3, 1, 2)


def _upsampling(cells: int, size: int, device: torch.device) -> Float[Tensor, "size 3 cells"]:
    """How much each cell of a row counts in what each tap of three meets after upsampling; padding is zero."""
    spread = resize(torch.eye(cells, device=device)[None, None], (size, cells))[0, 0]
    padded = F.pad(spread, (0, 0, 1, 1))
    return torch.stack([padded[tap : tap + size] for tap in range(3)], dim=1)


class _UpsampledDecoder(DeepLabDecoder):
    """The decoder with its first 3×3 convolution before the upsampling.

    Args:
        decoder: whose norms are folded; its parts are taken over.
    """

    def __init__(self, decoder: DeepLabDecoder) -> None:
        nn.Module.__init__(self)
        self.aspp, self.reduce_deep, self.reduce_fine = decoder.aspp, decoder.reduce_deep, decoder.reduce_fine
        first, _, *rest = decoder.fuse
        assert isinstance(first, nn.Conv2d)
        reduced = decoder.reduce_fine[0]
        assert isinstance(reduced, nn.Conv2d)
        self.first = UpsampledConv(first, fine_channels=reduced.out_channels)
        self.rest = nn.Sequential(*rest)

    def forward(
        self, deep: Float[Tensor, "B C h16 w16"], fine: Float[Tensor, "B Cf h w"]
    ) -> Float[Tensor, "B 256 h w"]:
        """Features of each cell at the size of the fine map, before a classifier."""
        fused: Tensor = self.rest(self.first(self.reduce_deep(self.aspp(deep)), self.reduce_fine(fine)))
        return fused


class _BandedHead(PrototypeHead):
    """The prototype head, a few rows of cells after the others: each cell is classified by itself.

    Args:
        head: whose parts are taken over.
    """

    def __init__(self, head: PrototypeHead) -> None:
        nn.Module.__init__(self)
        self.momentum, self.ramp = head.momentum, head.ramp
        self.projection, self.embedding_norm, self.score_norm = head.projection, head.embedding_norm, head.score_norm
        self.register_buffer("prototypes", head.prototypes)

    def forward(self, feature: Float[Tensor, "B C h w"]) -> ClusterOutput:
        """Score each cell of the decoder's feature map."""
        rows = max(1, CELLS_AT_ONCE // (feature.shape[0] * feature.shape[3]))
        found = [super(_BandedHead, self).forward(band) for band in feature.split(rows, dim=2)]
        scores, embedding = (torch.cat(parts, dim=2) for parts in zip(*found, strict=True))
        return ClusterOutput(scores, embedding)
