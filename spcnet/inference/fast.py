"""A network rewritten for a processor: the same function of the image, with fewer operations.

Nothing is approximated and nothing is trained again; the logits differ by rounding alone. What is done, on a copy:

- Low-rank updates are merged into the layers that they adapt.
- Batch norms are folded into the convolutions before them. Instance norms and whitening depend on the image and stay.
- SegFormer's decoder becomes one convolution for each map, its norm within them.
- The decoder's first 3×3 convolution reads features that were just upsampled sixteenfold in area. Both are linear, so the
  weights are applied before the upsampling, and upsampling and shifting become two small matrices (`UpsampledConv`).
- 3×3 convolutions with many channels use Winograd's minimal filtering (`WinogradConv`), a quarter of the products.
- All others hold their weights in the order that oneDNN wants, and add the bias, the shortcut and the ReLU while a result
  is still in the cache (`PackedConv`).
- Channels last throughout.

`benchmarks/inference.py` measures what each gives.
"""

import copy
from itertools import pairwise
from typing import Literal, TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck

from spcnet.models.adapters import merged
from spcnet.models.backbones.torchvision import NormedBlock
from spcnet.models.heads.base import resize
from spcnet.models.heads.deeplab import AtrousConv2d, DeepLabDecoder, PoolableBatchNorm2d
from spcnet.models.network import Segmentor
from spcnet.numerics import device_of

Step = Literal["fold", "upsampled", "winograd", "packed"]
STEPS: tuple[Step, ...] = ("fold", "upsampled", "winograd", "packed")
"""What `fused` does, in this order."""

MIN_WINOGRAD_CHANNELS = 256
"""Fewest input and output channels at which the transformations of Winograd's filtering cost less than they save."""


_NORMS = (nn.BatchNorm2d, PoolableBatchNorm2d)
"""Batch norms that do nothing else: timm has some with an activation within them."""


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a convolution that does nothing else: timm has some that pad or scale their weights themselves."""
    return type(module) in (nn.Conv2d, AtrousConv2d)


def fused(network: Segmentor, *, steps: tuple[Step, ...] = STEPS) -> Segmentor:
    """A copy of a network that computes the same logits faster on a processor; only for evaluation.

    Logits differ from the network's own by less than 1e-3 of their largest, about 1e-5 as a rule.

    Args:
        network: stays as it is.
        steps: which of the rewritings to make, for measuring them; `upsampled` needs `fold`.
    """
    fast = copy.deepcopy(merged(network)).eval().requires_grad_(False)
    fast.drop_training_parts()
    fast.recompute = False
    if "fold" in steps:
        fold_norms(fast)
        fast.decoder = fast.decoder.folded()
    decoder = fast.decoder
    if "upsampled" in steps and isinstance(decoder, DeepLabDecoder) and isinstance(decoder.fuse[1], nn.Identity):
        fast.decoder = _UpsampledDecoder(decoder)
    fast = fast.to(memory_format=torch.channels_last)
    if "winograd" in steps:
        _replace_wide(fast)
    onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    if "packed" in steps and device_of(network).type == "cpu" and onednn:
        _replace_blocks(fast)
        _replace_convs(fast)
    return fast


def fold_norms(network: nn.Module) -> None:
    """Fold each batch norm that directly follows a convolution into it, in place; others and other norms stay.

    Args:
        network: in evaluation mode, made of sequences and torchvision's residual blocks.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module, list(pairwise(module._modules)))
        elif isinstance(module, (BasicBlock, Bottleneck)):
            _fold(module, [(f"conv{n}", f"bn{n}") for n in (1, 2, 3) if hasattr(module, f"conv{n}")])


def _fold(module: nn.Module, pairs: list[tuple[str, str]]) -> None:
    for first, second in pairs:
        conv, norm = getattr(module, first), getattr(module, second)
        if _is_plain(conv) and type(norm) in _NORMS and norm.running_mean is not None:
            setattr(module, first, fuse_conv_bn_eval(_whole(conv), norm))
            setattr(module, second, nn.Identity())


def _whole(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution that may have a bias: one that leaves out taps adds none."""
    if not isinstance(conv, AtrousConv2d):
        return conv
    rate = int(conv.dilation[0])
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=rate, dilation=rate, bias=False)
    plain.weight = conv.weight
    return plain.eval()


def _replace_wide(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if _is_plain(child) and _is_wide(child):
                setattr(module, name, WinogradConv(child))


def _is_wide(conv: nn.Conv2d) -> bool:
    rate = conv.dilation
    # In the pyramid the dilation is so large that a tile would hold more padding than cells.
    return (
        (conv.kernel_size, conv.stride, conv.groups, conv.padding_mode) == ((3, 3), (1, 1), 1, "zeros")
        and conv.padding == rate
        and rate[0] == rate[1] <= 4
        and min(conv.in_channels, conv.out_channels) >= MIN_WINOGRAD_CHANNELS
    )


def _replace_blocks(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            # A norm at a block's end lies between the sum and the ReLU: there the parts are called one by one.
            if isinstance(child, (BasicBlock, Bottleneck)) and not isinstance(module, NormedBlock):
                norms = [getattr(child, f"bn{n}", None) for n in (1, 2, 3)]
                if all(norm is None or isinstance(norm, nn.Identity) for norm in norms):
                    setattr(module, name, _PackedBlock(child))


def _replace_convs(network: nn.Module) -> None:
    for module in list(network.modules()):
        if isinstance(module, (PackedConv, WinogradConv)):
            continue
        children = list(module.named_children())
        for number, (name, child) in enumerate(children):
            if not _is_plain(child) or child.padding_mode != "zeros" or isinstance(child.padding, str):
                continue
            after = [(n, c) for n, c in children[number + 1 :] if not isinstance(c, nn.Identity)][:1]
            activation = None
            if isinstance(module, nn.Sequential) and after and isinstance(after[0][1], (nn.ReLU, nn.ReLU6)):
                activation = after[0][1]
                setattr(module, after[0][0], nn.Identity())
            setattr(module, name, PackedConv(child, activation=activation))


class PackedConv(nn.Module):
    """A convolution as oneDNN runs it fastest: weights in its own order, activation and shortcut within it.

    Args:
        conv: on a processor, padded with zeros.
        activation: a ReLU that follows it, or where there is no shortcut a ReLU6.
    """

    def __init__(self, conv: nn.Conv2d, *, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.packed: Tensor | None = None
        self.places = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.kind: str = "none"
        self.bounds: list[float] = []
        if isinstance(activation, nn.ReLU6):
            self.kind, self.bounds = "hardtanh", [0.0, 6.0]
        elif activation is not None:
            self.kind = "relu"

    def forward(
        self, input: Float[Tensor, "B C h w"], shortcut: Float[Tensor, "B C2 h2 w2"] | None = None
    ) -> Float[Tensor, "B C2 h2 w2"]:
        """Convolve, add the shortcut if there is one, activate."""
        input = input.contiguous(memory_format=torch.channels_last)
        padding, stride, dilation, groups = self.places
        if self.packed is None:
            # The order is best for images of the first one's size, and right for all.
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.conv.weight, padding, stride, dilation, groups, list(input.shape)
            )
        convolution = (self.packed, self.conv.bias, padding, stride, dilation, groups)
        if shortcut is None:
            output: Tensor = torch.ops.mkldnn._convolution_pointwise(input, *convolution, self.kind, self.bounds, "")
            return output
        assert self.kind in ("none", "relu")
        shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        after = None if self.kind == "none" else self.kind
        added: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            input, shortcut, *convolution, "add", 1.0, after, [], ""
        )
        return added


class _PackedBlock(nn.Module):
    """A residual block of a ResNet whose norms are folded.

    Args:
        block: its parts are taken over.
    """

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        *firsts, last = [getattr(block, f"conv{n}") for n in (1, 2, 3) if hasattr(block, f"conv{n}")]
        self.firsts = nn.Sequential(*(part for conv in firsts for part in (conv, nn.ReLU(inplace=True))))
        self.last = PackedConv(last, activation=nn.ReLU()) if isinstance(last, nn.Conv2d) else last
        self.downsample = block.downsample

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h2 w2"]:
        """The block."""
        shortcut = feature if self.downsample is None else self.downsample(feature)
        feature = self.firsts(feature)
        if isinstance(self.last, PackedConv):
            packed: Tensor = self.last(feature, shortcut)
            return packed
        return torch.relu_(self.last(feature).add_(shortcut))


def _matrix(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


_INPUT = _matrix(
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)
)  # fmt: skip
_KERNEL = _matrix(
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)
)  # fmt: skip
_OUTPUT = _matrix((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def tiles_at_once() -> int:
    """Tiles of 4×4 cells that are worked on together: few stay in the cache, but threads then wait for each other often."""
    threads = torch.get_num_threads()
    return 64 if threads == 1 else 512 * threads


class WinogradConv(nn.Module):
    """A 3×3 convolution by Winograd's minimal filtering F(4×4, 3×3): 36 products where 144 would be needed.

    Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, §4.3. A dilated convolution is one of
    distance 1 on each of the maps that every n-th cell makes, n being the dilation.

    Args:
        conv: 3×3, without groups, that keeps the size.
    """

    kernel: Tensor
    input_transform: Tensor
    output_transform: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.rate = int(conv.dilation[0])
        kernel = torch.einsum("ai,bj,ocij->abco", _KERNEL, _KERNEL, conv.weight.detach().double().cpu())
        for name, matrix in (
            ("kernel", kernel.flatten(0, 1)),
            ("input_transform", torch.kron(_INPUT, _INPUT)),
            ("output_transform", torch.kron(_OUTPUT, _OUTPUT)),
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
        step = max(1, tiles_at_once() // (columns * rate * rate))
        for number in range(images):
            for first in range(0, rows, step):
                some = tiles[:, :, number, first : first + step]
                products = torch.bmm((self.input_transform @ some.reshape(36, -1)).view(36, -1, channels), self.kernel)
                sums = (self.output_transform @ products.view(36, -1)).view(4, 4, -1, rate, columns, rate, wanted)
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
        tall, wide, wanted = fine.shape[2], fine.shape[3], self.coarse.shape[2] // 3
        cells = coarse.permute(0, 2, 3, 1).reshape(images, 1, height * width, channels)
        weighed = (cells @ self.coarse).view(images, 3 * height, 3 * width, wanted)
        across = _upsampling(width, wide, coarse.device).transpose(1, 2).reshape(wide, -1)
        down = _upsampling(height, tall, coarse.device).flatten(1)
        spread = down @ (across @ weighed).view(images, 3 * height, -1)
        joined: Tensor = self.fine(fine)
        return joined + spread.view(images, tall, wide, wanted).permute(0, 3, 1, 2)


def _upsampling(cells: int, size: int, device: torch.device) -> Float[Tensor, "size 3 cells"]:
    """How much each cell of a row counts in what each tap of three meets after upsampling; padding is zero."""
    spread = resize(torch.eye(cells, device=device)[None, None], (size, cells), align_corners=True)[0, 0]
    padded = F.pad(spread, (0, 0, 1, 1))
    return torch.stack([padded[tap : tap + size] for tap in range(3)], dim=1)


class _UpsampledDecoder(DeepLabDecoder):
    """The decoder with its first 3×3 convolution before the upsampling.

    Args:
        decoder: whose norms are folded; its parts are taken over.
    """

    def __init__(self, decoder: DeepLabDecoder) -> None:
        nn.Module.__init__(self)
        self.places, self.out_channels = decoder.places, decoder.out_channels
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
