"""Pixel decoders, which compute the maps that a mask head's queries read: multi-scale deformable attention, or projections.

Zhu et al., Deformable DETR (ICLR 2021), §4; Cheng et al., Masked-attention Mask Transformer (CVPR 2022), §3.2.1.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import SymInt, Tensor, nn

from spcnet.numerics import at_least_single

LEVELS = 3
"""Of how many maps, the deepest, the queries and the deformable attention read at most."""
GROUPS = 32
"""Groups of the group norms."""
HEADS, POINTS = 8, 4
"""Of the deformable attention: heads, and points that each samples of a level."""
LAYERS, HIDDEN = 6, 1024
"""Of the deformable attention: layers, and hidden units of each feed-forward part."""
Size = tuple[int | SymInt, int | SymInt]


class PixelMaps(NamedTuple):
    """Output of a pixel decoder."""

    fine: Float[Tensor, "B C h w"]
    """The map at the size of the finest, whose products with the queries are the masks."""
    levels: tuple[Float[Tensor, "B C _h _w"], ...]
    """The maps that the queries read, the deepest first."""


class PixelDecoder(nn.Module):
    """Brings the maps of a pyramid to one width and joins them, from the deepest to the finest.

    The three deepest are the levels, which deformable attention joins with one another; finer ones are added to them as in a
    feature pyramid network. A pyramid of three maps or fewer has no finer ones: its finest level is the finest map.
    Without the attention each map is projected by a 1×1 convolution, and the deeper one added to it.

    Args:
        channels: of the maps, the finest first.
        width: channels of its output, a multiple of 32.
        attention: join the levels by deformable attention.
        layers: how many of those.
        hidden: hidden units of their feed-forward parts.
    """

    def __init__(
        self, channels: Sequence[int], width: int, *, attention: bool = True, layers: int = LAYERS, hidden: int = HIDDEN
    ) -> None:
        super().__init__()
        deep, fine = channels[-LEVELS:][::-1], channels[:-LEVELS][::-1]
        self.projections = nn.ModuleList([_normed(nn.Conv2d(given, width, 1)) for given in deep])
        self.laterals = nn.ModuleList([_normed(nn.Conv2d(given, width, 1, bias=False)) for given in fine])
        self.encoder = DeformableEncoder(width, len(deep), layers=layers, hidden=hidden) if attention else None
        smooth = [nn.Sequential(*_normed(nn.Conv2d(width, width, 3, padding=1, bias=False)), nn.ReLU()) for _ in fine]
        self.smooth = nn.ModuleList(smooth if attention else [nn.Identity() for _ in fine])
        self.to_masks = nn.Conv2d(width, width, 1)
        for module in (self.projections, self.laterals, self.smooth, self.to_masks):
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.xavier_uniform_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(self, *maps: Float[Tensor, "B _C _h _w"]) -> PixelMaps:
        """The map for the masks and those for the queries.

        Args:
            maps: of the pyramid, the finest first.
        """
        deep, fine = maps[-LEVELS:][::-1], maps[:-LEVELS][::-1]
        levels = [project(feature) for project, feature in zip(self.projections, deep, strict=True)]
        if self.encoder is not None:
            levels = self.encoder(levels)
        else:
            for number in range(1, len(levels)):
                levels[number] = levels[number] + _grown(levels[number - 1], levels[number])
        joined = levels[-1]
        for lateral, smooth, feature in zip(self.laterals, self.smooth, fine, strict=True):
            projected = lateral(feature)
            joined = smooth(projected + _grown(joined, projected))
        return PixelMaps(self.to_masks(joined), tuple(levels))


class DeformableEncoder(nn.Module):
    """Layers of deformable attention on the cells of all levels.

    Args:
        width: channels of each level.
        levels: how many there are.
        layers: how many layers.
        hidden: hidden units of their feed-forward parts.
    """

    def __init__(self, width: int, levels: int, *, layers: int, hidden: int) -> None:
        super().__init__()
        self.level_embedding = nn.Parameter(torch.randn(levels, width))
        self.layers = nn.ModuleList([DeformableLayer(width, levels, hidden) for _ in range(layers)])

    def forward(self, levels: Sequence[Float[Tensor, "B C _h _w"]]) -> list[Float[Tensor, "B C _h _w"]]:
        """The levels, joined; each as large as before."""
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        tokens = torch.cat([level.flatten(2).mT for level in levels], dim=1)
        places = [
            sine_positions(level).flatten(2).mT + embedding
            for level, embedding in zip(levels, self.level_embedding.unbind(), strict=True)
        ]
        positions, centres = torch.cat(places, dim=1), torch.cat([cell_centres(level) for level in levels])
        for layer in self.layers:
            tokens = layer(tokens, positions, centres, sizes)
        split = torch.split(tokens, [height * width for height, width in sizes], dim=1)
        return [part.mT.reshape(level.shape) for part, level in zip(split, levels, strict=True)]


class DeformableLayer(nn.Module):
    """Deformable attention and a feed-forward part, each with a layer norm behind its sum.

    Args:
        width: channels.
        levels: how many levels there are.
        hidden: hidden units of the feed-forward part.
    """

    def __init__(self, width: int, levels: int, hidden: int) -> None:
        super().__init__()
        self.attention, self.attention_norm = DeformableAttention(width, levels), nn.LayerNorm(width)
        self.feed_forward, self.norm = feed_forward(width, hidden), nn.LayerNorm(width)

    def forward(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "1 N C"],
        centres: Float[Tensor, "N 2"],
        sizes: Sequence[Size],
    ) -> Float[Tensor, "B N C"]:
        """The cells after this layer; see `DeformableAttention`."""
        tokens = self.attention_norm(tokens + self.attention(tokens + positions, tokens, centres, sizes))
        result: Tensor = self.norm(tokens + self.feed_forward(tokens))
        return result


class DeformableAttention(nn.Module):
    """Each cell reads a few points of each level, at distances and with weights that it chooses (Deformable DETR, Eq. 3).

    Args:
        width: channels, a multiple of the 8 heads.
        levels: how many levels there are.
    """

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.offsets = nn.Linear(width, HEADS * levels * POINTS * 2)
        self.weights = nn.Linear(width, HEADS * levels * POINTS)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        # Each head looks into a direction of its own, its points one to four cells away.
        angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
        direction = torch.stack([angle.cos(), angle.sin()], dim=1)
        direction /= direction.abs().amax(1, keepdim=True)
        steps = direction.view(HEADS, 1, 1, 2) * torch.arange(1, POINTS + 1).view(POINTS, 1)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.offsets.bias = nn.Parameter(steps.expand(HEADS, levels, POINTS, 2).flatten())
        for layer in (self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        queries: Float[Tensor, "B N C"],
        tokens: Float[Tensor, "B T C"],
        centres: Float[Tensor, "N 2"],
        sizes: Sequence[Size],
    ) -> Float[Tensor, "B N C"]:
        """The attended values.

        Args:
            queries: predict sampling points and weights.
            tokens: the cells of all levels, those of the first level first.
            centres: where in the image each query lies, x and y in 0..1.
            sizes: height and width of each level.
        """
        batch, number, width = queries.shape
        per_head = (HEADS, self.levels, POINTS)
        offsets = at_least_single(self.offsets(queries)).view(batch, number, *per_head, 2)
        weights = at_least_single(self.weights(queries)).view(batch, number, HEADS, -1).softmax(3)
        weights = weights.view(batch, number, *per_head).transpose(1, 2).flatten(0, 1)  # B·heads N levels points
        values = at_least_single(self.value(tokens))
        read: Tensor | float = 0.0
        start: int | SymInt = 0
        for level, (height, wide) in enumerate(sizes):
            value = values[:, start : start + height * wide].mT.reshape(batch * HEADS, width // HEADS, height, wide)
            start += height * wide
            x, y = offsets[:, :, :, level].unbind(-1)
            x, y = x / wide, y / height  # type: ignore[assignment]
            away = torch.stack([x, y], dim=-1) + centres[:, None, None].to(offsets.dtype)
            grid = 2 * away.transpose(1, 2).flatten(0, 1) - 1  # B·heads N points 2
            sampled = F.grid_sample(value, grid, align_corners=False)
            read = read + (sampled * weights[:, None, :, level]).sum(-1)
        assert isinstance(read, Tensor)
        result: Tensor = self.out(read.reshape(batch, width, number).mT)
        return result


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    """Two linear layers with a ReLU between them."""
    layers = nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)
    for layer in (layers[0], layers[2]):
        nn.init.xavier_uniform_(layer.weight)
    return nn.Sequential(*layers)


def sine_positions(feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "1 C h w"]:
    """Sines and cosines of each cell's place, those of y in the first half of the channels and of x in the second.

    DETR (Carion et al., ECCV 2020) with places from 0 to 2π over the image.

    Args:
        feature: gives the size, the number of channels, which is a multiple of four, the type and the device.
    """
    half = feature.shape[1] // 2
    exact = at_least_single(feature)
    even = torch.arange(0, half, 2, dtype=exact.dtype, device=feature.device)
    rates = 10_000 ** (-even / half)
    waves = []
    for axis in (2, 3):
        cells = feature.shape[axis]
        place = torch.arange(1, cells + 1, dtype=exact.dtype, device=feature.device) * (2 * math.pi / (cells + 1e-6))
        angle = rates[:, None] * place
        waves.append(torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1))
    rows, columns = waves
    size = (half, feature.shape[2], feature.shape[3])
    both = [rows[:, :, None].expand(size), columns[:, None].expand(size)]
    return torch.cat(both)[None].to(feature.dtype)


def cell_centres(feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "N 2"]:
    """Where in the image the centre of each cell lies, x and y in 0..1, row by row; in at least single precision."""
    exact = at_least_single(feature)
    height, width = feature.shape[2], feature.shape[3]
    y = (torch.arange(height, dtype=exact.dtype, device=feature.device) + 0.5) / height
    x = (torch.arange(width, dtype=exact.dtype, device=feature.device) + 0.5) / width
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1)


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, conv.out_channels))


def _grown(deep: Tensor, fine: Tensor) -> Tensor:
    return F.interpolate(deep, size=fine.shape[2:], mode="bilinear", align_corners=False)
