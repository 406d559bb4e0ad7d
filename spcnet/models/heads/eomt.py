"""EoMT (Kerssies et al., CVPR 2025): a vision transformer whose last blocks have queries among their tokens.

There is no decoder beside the backbone: queries pass through its last blocks together with the patches, and their outputs
are classified. In training the attention of a query is masked to its own mask, with a probability that falls to zero, so
that a plain vision transformer remains.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from spcnet.config import HeadConfig
from spcnet.errors import UsageError
from spcnet.models.backbones import Backbone
from spcnet.models.heads.base import Decoder
from spcnet.models.heads.mask2former import mask_embedding, number_of_queries, products
from spcnet.types import MaskPrediction

POWER = 0.9
"""Of the polynomial by which a block's masks fade."""


class EomtDecoder(Decoder):
    """Queries in the last blocks of a vision transformer, and the layers that predict their classes and masks.

    The run is divided into two more parts than there are such blocks. In the first part every query reads the patches of its
    mask alone. In each of the others one block, the first one first, gives that up: the share of its queries that do so falls
    from 1 to 0, a polynomial of power 0.9. In the last part, and in evaluation, every query reads everything.

    Args:
        backbone: of which it runs the last blocks, and the norm behind them.
        num_classes: K.
        config: the settings, of which it reads those in `settings`.

    Raises:
        UsageError: the backbone takes no further tokens, has fewer blocks, or makes maps that nothing would read.
    """

    masks = True
    settings = ("queries", "fixed_queries", "blocks", "points")

    def __init__(self, backbone: Backbone, num_classes: int, config: HeadConfig) -> None:
        super().__init__(backbone, num_classes, config)
        vit = _checked(backbone, config)
        width = self.out_channels = int(vit.embed_dim)
        self.places: tuple[str, ...] = ()
        self.blocks, self.first_block = config.blocks, len(vit.blocks) - config.blocks
        self.queries = nn.Parameter(torch.randn(number_of_queries(num_classes, config), width))
        self.to_class, self.to_mask = nn.Linear(width, num_classes + 1), mask_embedding(width, nn.GELU)
        steps = max(1, int(math.log2(vit.patch_size)) - 2)
        self.upscale = nn.Sequential(*(upscaling(width) for _ in range(steps)))
        # It learns where the blocks do, and stays where they are frozen.
        vit.norm.requires_grad_(all(parameter.requires_grad for parameter in vit.blocks[-1].parameters()))
        self.masked: list[Tensor | None]
        """Of each block which queries read their own mask alone in the next batch; None for none of them."""
        self.prepare(0.0)

    def prepare(self, progress: float) -> None:
        """Draw which queries read the patches of their masks alone: a function of the progress, the same for all images."""
        random = torch.Generator().manual_seed(round(progress * 2**52))
        drawn = torch.rand(self.blocks, len(self.queries), generator=random)
        shares = self.shares(progress)
        self.masked = [row < share if share > 0 else None for row, share in zip(drawn, shares, strict=True)]

    def shares(self, progress: float) -> list[float]:
        """Of the queries of each block, how many read the patches of their mask alone, 0..1."""
        done = [progress * (self.blocks + 2) - 1 - number for number in range(self.blocks)]
        return [(1 - min(max(part, 0.0), 1.0)) ** POWER for part in done]

    def embeddings(self) -> set[str]:
        """The queries."""
        return {"queries"}

    def forward(self, tokens: Float[Tensor, "B N C"], state: Any, backbone: Any) -> tuple[MaskPrediction, ...]:
        """The predictions before each block and after the last; in evaluation only these.

        Args:
            tokens: those that go into the first of the blocks, from `TimmViT.tokens_before`.
            state: other inputs of the blocks.
            backbone: whose blocks they are.
        """
        predictions = []
        tokens = torch.cat([self.queries.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        first = len(backbone.blocks) - self.blocks
        for number, masked in enumerate(self.masked, start=first):
            mask = None
            if self.training:
                predictions.append(self.predict(tokens, state, backbone))
                if masked is not None:
                    mask = self.readable(predictions[-1].masks.detach(), masked, tokens.shape[1], backbone.grid(state))
            tokens = backbone.run_block(number, tokens, state, mask)
        return (*predictions, self.predict(tokens, state, backbone))

    def predict(self, tokens: Float[Tensor, "B N C"], state: Any, backbone: Any) -> MaskPrediction:
        """Class and mask of each query."""
        normed = backbone.norm(tokens)
        queries = normed[:, : len(self.queries)]
        fine = self.upscale(backbone.patch_map(normed, state))
        return MaskPrediction(self.to_class(queries), products(self.to_mask(queries), fine))

    def readable(
        self, masks: Float[Tensor, "B Q h w"], masked: Bool[Tensor, " Q"], tokens: int, grid: Any
    ) -> Bool[Tensor, "B 1 N N"]:
        """The attention mask: patches read every token, queries read queries, prefix, and the patches of their mask.

        Args:
            masks: logits.
            masked: the queries whose attention is masked.
            tokens: N.
            grid: rows and columns of patches.
        """
        inside = F.interpolate(masks, size=grid, mode="bilinear").flatten(2) > 0
        allowed = torch.ones(len(masks), 1, tokens, tokens, dtype=torch.bool, device=masks.device)
        allowed[:, 0, : len(self.queries), tokens - inside.shape[2] :] = inside | ~masked.to(masks.device)[:, None]
        return allowed


def upscaling(width: int) -> nn.Sequential:
    """Twice as many cells in height and width: a transposed convolution, GELU, a depthwise convolution, layer norm."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 2, stride=2),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        LayerNorm2d(width),
    )


def _checked(backbone: Any, config: HeadConfig) -> Any:
    if not getattr(backbone, "takes_masks", False):
        raise UsageError(
            "the decoder eomt puts its queries among the tokens of a plain vision transformer, and this backbone has no such "
            "tokens: choose one of timm's ViT, DINOv2, DINOv3 or EVA02, or the decoder mask2former, which reads maps"
        )
    depth = len(backbone.blocks)
    if config.blocks > depth:
        raise UsageError(f"model.head.blocks is {config.blocks}, and the backbone has {depth} blocks: lower it")
    for name, value, default in (
        ("pyramid", backbone.pyramid_kind, (None, "none")),
        ("norm", backbone.normed, (False,)),
        ("taps", backbone.taps, (None,)),
    ):
        if value not in default:
            raise UsageError(
                f"model.features.{name} is {value}, and the decoder eomt reads the tokens behind the last block, no maps: leave "
                "it out, or choose another decoder"
            )
    checked: Backbone = backbone
    return checked
