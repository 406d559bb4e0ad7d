"""Mask2Former (Cheng et al., CVPR 2022): queries with masked attention, each of which predicts a class and a mask."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from spcnet.config import HeadConfig
from spcnet.errors import UsageError
from spcnet.models.backbones import Backbone
from spcnet.models.heads.base import Decoder
from spcnet.models.heads.pixel_decoder import GROUPS, HEADS, PixelDecoder, feed_forward, sine_positions
from spcnet.types import MaskPrediction

WIDTH, HIDDEN = 256, 2048
"""Channels of the queries by default, and hidden units of each layer's feed-forward part."""


class Mask2FormerDecoder(Decoder):
    """A pixel decoder, and layers in which queries read one of its levels in turn, each where its last mask is.

    Every query predicts its class and mask before the first layer and after each; in training all predictions have a loss.
    It reads every map of the pyramid: the three deepest are the levels, finer ones join the map of the masks.

    Args:
        backbone: whose pyramid it reads.
        num_classes: K.
        config: the settings, of which it reads those in `settings`.

    Raises:
        UsageError: a width that is no multiple of 32, or a number of queries beside fixed ones.
    """

    masks = True
    settings = ("channels", "queries", "fixed_queries", "layers", "pixel_decoder", "points")

    def __init__(self, backbone: Backbone, num_classes: int, config: HeadConfig) -> None:
        super().__init__(backbone, num_classes, config)
        self.places, self.out_channels = backbone.pyramid, config.channels or WIDTH
        width, queries = self.out_channels, number_of_queries(num_classes, config)
        if width % GROUPS:
            raise UsageError(
                f"model.head.channels is {width}: mask2former has group norms of {GROUPS} groups and {HEADS} heads, so it "
                f"needs a multiple of {GROUPS}, {WIDTH} by default"
            )
        channels = [backbone.channels[place] for place in self.places]
        self.pixels = PixelDecoder(channels, width, attention=config.pixel_decoder)
        levels = len(self.pixels.projections)
        self.content = nn.Parameter(torch.randn(queries, width))
        self.positions = nn.Parameter(torch.randn(queries, width))
        self.level_embedding = nn.Parameter(torch.randn(levels, width))
        self.layers = nn.ModuleList([QueryLayer(width, HIDDEN) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(width)
        self.to_class = nn.Linear(width, num_classes + 1)
        self.to_mask = mask_embedding(width, nn.ReLU)

    def embeddings(self) -> set[str]:
        """Initialise the queries, their positions, and the level embedding."""
        return {name for name, _ in self.named_parameters() if name.endswith("level_embedding")} | {
            "content",
            "positions",
        }

    def forward(self, *maps: Float[Tensor, "B _C _h _w"]) -> tuple[MaskPrediction, ...]:
        """The predictions before the first layer and after each; in evaluation only those after the last.

        Args:
            maps: of the pyramid, the finest first.
        """
        pixels = self.pixels(*maps)
        fine, levels = pixels.fine, pixels.levels
        keys = [sine_positions(level).flatten(2).mT for level in levels]
        values = [level.flatten(2).mT + own for level, own in zip(levels, self.level_embedding.unbind(), strict=True)]
        # A mask at the size of a level is a product with the map at that size: resizing is linear.
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        small = [F.interpolate(fine.detach(), size, mode="bilinear").flatten(2) for size in sizes]
        queries = self.content.expand(fine.shape[0], -1, -1)
        predictions = []
        for number, layer in enumerate(self.layers):
            normed = self.norm(queries)
            embedding, at = self.to_mask(normed), number % len(levels)
            if self.training:
                predictions.append(MaskPrediction(self.to_class(normed), products(embedding, fine)))
            blocked = elsewhere(embedding.detach(), small[at])
            queries = layer(queries, self.positions, values[at], keys[at], blocked)
        normed = self.norm(queries)
        return (*predictions, MaskPrediction(self.to_class(normed), products(self.to_mask(normed), fine)))


class QueryLayer(nn.Module):
    """Queries read a level, then one another, then think for themselves; each with a layer norm behind the sum.

    Args:
        width: channels.
        hidden: hidden units of the feed-forward part.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.exchange = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.feed_forward = feed_forward(width, hidden)
        self.read_norm, self.exchange_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        positions: Float[Tensor, "Q C"],
        values: Float[Tensor, "B N C"],
        keys: Float[Tensor, "1 N C"],
        blocked: Bool[Tensor, "B Q N"],
    ) -> Float[Tensor, "B Q C"]:
        """The queries after this layer.

        Args:
            queries: their state.
            positions: position embedding, added to queries and keys.
            values: the cells of a level.
            keys: position embedding of the cells, added to the keys.
            blocked: cells that a query does not read.
        """
        mask = blocked.repeat_interleave(HEADS, 0)
        read, _ = self.read(queries + positions, values + keys, values, attn_mask=mask, need_weights=False)
        queries = self.read_norm(queries + read)
        placed = queries + positions
        normed, _ = self.exchange(placed, placed, queries, need_weights=False)
        queries = self.exchange_norm(queries + normed)
        result: Tensor = self.norm(queries + self.feed_forward(queries))
        return result


def elsewhere(embeddings: Float[Tensor, "B Q C"], cells: Float[Tensor, "B C N"]) -> Bool[Tensor, "B Q N"]:
    """Cells outside the mask of each query; none for a query whose mask is empty, which then reads everything."""
    blocked = embeddings @ cells < 0
    return blocked & ~blocked.all(dim=2, keepdim=True)


def products(embeddings: Float[Tensor, "B Q C"], fine: Float[Tensor, "B C h w"]) -> Float[Tensor, "B Q h w"]:
    """The mask logits of queries: their product with each cell."""
    return torch.einsum("bqc,bchw->bqhw", embeddings, fine)


def mask_embedding(width: int, activation: type[nn.Module]) -> nn.Sequential:
    """MLP of three layers from a query's state to its mask embedding."""
    linear = [nn.Linear(width, width) for _ in range(3)]
    return nn.Sequential(linear[0], activation(), linear[1], activation(), linear[2])


def number_of_queries(num_classes: int, config: HeadConfig) -> int:
    """As the settings say, or one for each class.

    Raises:
        UsageError: both are set.
    """
    default = HeadConfig().queries
    if config.fixed_queries and config.queries != default:
        raise UsageError(
            f"model.head.queries is {config.queries}, but with model.head.fixed_queries there is one query for each class: "
            "leave out one of the two"
        )
    return num_classes if config.fixed_queries else config.queries
