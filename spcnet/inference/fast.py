"""A network rewritten for a processor: the same function of the image, with fewer operations.

Nothing is approximated and nothing is trained again; the logits differ by rounding alone. What is done, on a copy:

- Low-rank updates are merged into the layers that they adapt.
- Batch norms are folded into the convolutions before them. Instance norms and whitening depend on the image and stay.
- SegFormer's decoder becomes one convolution for each map, its norm within them.
- The decoder's first 3×3 convolution reads features that were just upsampled sixteenfold in area. Both are linear, so the
  weights are applied before the upsampling, and upsampling and shifting become two small matrices (`UpsampledConv`).
- Channels last throughout.

The engine `fused` runs this copy in torch; the others (`spcnet.inference.engines`) compile it, which also gives them faster
convolutions than torch's own.

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
from spcnet.models.heads.base import resize
from spcnet.models.heads.deeplab import AtrousConv2d, DeepLabDecoder, PoolableBatchNorm2d
from spcnet.models.network import Segmentor

Step = Literal["fold", "upsampled"]
STEPS: tuple[Step, ...] = ("fold", "upsampled")
"""What `fused` does, in this order."""

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
    return fast.to(memory_format=torch.channels_last)


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
