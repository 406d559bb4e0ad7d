"""Plain vision transformers of timm: ViT and DINOv2, Eva's with rotary positions (EVA02, DINOv3), and SAM's.

All their maps have one position per patch. The maps for the heads are resized to the strides 4, 8, 16 and 32 as in Rein, by
bilinear resize of the outputs of four blocks (Wei et al., CVPR 2024), or by transposed convolutions (ViTDet, Li et al.,
ECCV 2022).
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import SymInt, Tensor, nn

from spcnet.config import FeaturesConfig
from spcnet.errors import UsageError
from spcnet.models.backbones.base import Backbone, Tap, tapped
from spcnet.models.recompute import recomputed

STRIDES = (4, 8, 16, 32)
"""Of the four maps that heads read."""
_TOKENS = frozenset({"pos_embed", "cls_token", "reg_token", "dist_token"})
Grid = tuple[int | SymInt, int | SymInt]


class ViTState(NamedTuple):
    """Inputs of the blocks other than the tokens."""

    grid: Grid
    """Rows and columns of patches."""
    rope: Tensor | None
    """Rotary positions of the patches, one row each; of models that learn them one table a block."""


def is_plain(model: Any) -> bool:
    """Whether a model of timm is a vision transformer that `TimmViT` can run block by block."""
    return type(model) in (VisionTransformer, Eva, VisionTransformerSAM) and type(model.patch_embed) is PatchEmbed


class TimmViT(Backbone):
    """A vision transformer whose places are `embed`, `block0` and so on.

    A tap is given the map of the patch tokens at their own size; class and register tokens never pass it. `features`
    returns the map of a block that heads read at its stride in the pyramid.

    Args:
        model: without a classifier, from `timm.create_model`.
        config: blocks that heads read, their norm, the pyramid; the size of the patches is the model's.
        output_stride: upper bound of the pyramid's strides; None for none.
        mean: of the images that it was pretrained with.
        std: of the same.

    Raises:
        UsageError: a block does not exist, or the model has not what the settings ask for.
    """

    model: Any
    fixed_size = True
    baked_positions: Tensor | None
    baked_rope: Tensor | None

    def __init__(
        self,
        model: Any,
        config: FeaturesConfig,
        output_stride: int | None,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        patch = int(model.patch_embed.patch_size[0])
        taps = _taps(config, len(model.blocks))
        names = ("embed", *(f"block{number}" for number in range(taps[-1] + 1)))
        pyramid = tuple(f"block{number}" for number in taps)
        strides = dict.fromkeys(names, patch)
        if config.pyramid != "none":
            strides |= {
                place: min(stride, output_stride or stride) for place, stride in zip(pyramid, STRIDES, strict=True)
            }
        elif output_stride not in (None, patch):
            raise UsageError(
                f"model.output_stride is {output_stride}, but without a pyramid all maps have the stride of the patches, "
                f"{patch}: set model.output_stride to null, or model.features.pyramid to resize"
            )
        super().__init__(dict.fromkeys(names, model.embed_dim), strides, pixel_multiple=patch, mean=mean, std=std)
        self.embed_dim: int = model.embed_dim
        self.prefix: int = getattr(model, "num_prefix_tokens", 0)
        """Number of class and register tokens, which stand before those of the patches."""
        self.takes_masks = not isinstance(model, VisionTransformerSAM)
        """Whether `run_block` takes further tokens and a mask of the attention; SAM's windows do not."""
        self.patch_size, self.resample, self.pyramid_kind = patch, config.resample, config.pyramid
        self.normed, self._pyramid, self.taps = config.norm, pyramid, config.taps
        self.model = _stripped(model, taps[-1] + 1, config)
        # Nothing reads it otherwise, and processes wait for the gradients of all that is trained.
        self.norm.requires_grad_(config.norm)
        self.published = {f"model.{name}": name for name in self.model.state_dict()}
        self.scales = nn.ModuleDict()
        if config.pyramid == "deconv":
            self.scales.update({place: _scale(self.embed_dim, patch, strides[place]) for place in pyramid})
        self.baked: Grid | None = None

    @property
    def pyramid(self) -> tuple[str, ...]:
        """The blocks whose maps heads read."""
        return self._pyramid

    @property
    def style_places(self) -> tuple[str, ...]:
        """The patch embedding, and a quarter of the blocks."""
        return "embed", f"block{max(0, len(self.blocks) // 4 - 1)}"

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks up to the last that is read."""
        blocks: nn.ModuleList = self.model.blocks
        return blocks

    @property
    def norm(self) -> nn.Module:
        """The norm behind the last block; frozen, unless `features` applies it. Who else reads it sets it to learn."""
        norm: nn.Module = self.model.fc_norm if self._pooled_norm else self.model.norm
        return norm

    def depths(self) -> dict[str, int]:
        """0 for the embedding, the number of the block from 1, and behind them the norm; without a learned pyramid."""
        depths = {}
        for name, _ in self.model.named_parameters():
            part, _, rest = name.partition(".")
            last = len(self.blocks) + 1 if part in ("norm", "fc_norm") else 0
            depths[f"model.{name}"] = int(rest.partition(".")[0]) + 1 if part == "blocks" else last
        return depths

    def embeddings(self) -> set[str]:
        """Class token, registers, positions, and what timm names beside them."""
        left = _TOKENS | set(self.model.no_weight_decay())
        return {f"model.{name}" for name, _ in self.model.named_parameters() if name in left}

    def parts(self) -> list[nn.Module]:
        """The transformer's blocks."""
        return list(self.blocks)

    # Parts, for heads and adapters that run the blocks themselves ---------------------------------------------------------

    def embed(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B N C"], ViTState]:
        """Class and register tokens, then those of the patches row by row, with their positions; and what blocks need.

        Args:
            image: from `prepare`; sides are multiples of the patch size.
        """
        model = self.model
        patches = model.patch_embed.proj(image)
        state = self._state((patches.shape[2], patches.shape[3]))
        tokens = model.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        positions = self._positions(state.grid)
        extra = [
            token.expand(image.shape[0], -1, -1)
            for name in ("cls_token", "reg_token")
            if (token := getattr(model, name, None)) is not None
        ]
        # Whether the class token has a position of its own: DINOv2's has, DINOv2's with registers has not.
        alone = getattr(model, "no_embed_class", False) or not extra
        if alone and positions is not None:
            tokens = tokens + positions
        tokens = torch.cat([*extra, tokens], 1) if extra else tokens
        if not alone and positions is not None:
            tokens = tokens + positions
        embedded: Tensor = model.norm_pre(model.pos_drop(tokens))
        return embedded, state

    def run_block(
        self, number: int, tokens: Float[Tensor, "B N C"], state: ViTState, attn_mask: Tensor | None = None
    ) -> Float[Tensor, "B N C"]:
        """The tokens after a block.

        Args:
            number: of the block, from 0.
            tokens: those of the patches last, after the class and register tokens; further ones, such as queries, before
                all of these. Rotary positions turn the patches alone.
            state: from `embed`.
            attn_mask: True, or a number that is added, where a token (row) may read another (column): N N, or B 1 N N.

        Raises:
            UsageError: there is a mask, or there are further tokens, and the blocks of the model look at windows.
        """
        block = self.blocks[number]
        rows, columns = state.grid
        further = tokens.shape[1] - self.prefix - rows * columns
        if not self.takes_masks:
            if attn_mask is not None or further:
                raise UsageError(
                    "the blocks of SAM's vision transformer look at windows and take no queries: choose another backbone, "
                    "or another decoder than eomt"
                )
            windowed: Tensor = block(tokens.view(tokens.shape[0], rows, columns, -1))
            return windowed.flatten(1, 2)
        given: dict[str, Tensor | None] = {} if attn_mask is None else {"attn_mask": attn_mask}
        if isinstance(self.model, Eva):
            rope = state.rope
            if rope is not None and getattr(self.model, "rope_mixed", False):
                rope = rope[number]
            if rope is not None and further:
                rope = _with_still(rope, further)
            given["rope"] = rope
        after: Tensor = block(tokens, **given)
        return after

    @staticmethod
    def grid(state: ViTState) -> Grid:
        """Rows and columns of patches."""
        return state.grid

    def patch_map(self, tokens: Float[Tensor, "B N C"], state: ViTState) -> Float[Tensor, "B C h w"]:
        """The tokens of the patches, which are the last, as a map."""
        rows, columns = state.grid
        patches = tokens[:, tokens.shape[1] - rows * columns :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], rows, columns)

    def tokens_before(
        self, number: int, image: Float[Tensor, "B 3 H W"], tap: Tap | None = None, *, recompute: bool = False
    ) -> tuple[Float[Tensor, "B N C"], ViTState]:
        """The tokens that go into a block, for heads that run it and those behind it themselves.

        Args:
            number: of the block, from 0; their number for the tokens after the last.
            image: from `prepare`.
            tap: as for `features`; of the places before the block.
            recompute: as for `features`.
        """
        tokens, state = self.embed(image)
        tokens, _ = self._tapped("embed", tokens, state, tap)
        for index in range(number):
            tokens = self._block(index, tokens, state, recompute)
            tokens, _ = self._tapped(f"block{index}", tokens, state, tap)
        return tokens, state

    # The maps -------------------------------------------------------------------------------------------------------------

    def features(
        self,
        image: Float[Tensor, "B 3 H W"],
        places: Collection[str],
        tap: Tap | None = None,
        *,
        recompute: bool = False,
    ) -> dict[str, Tensor]:
        """Maps at some places; those of the pyramid at its strides, and normalised if `model.features.norm` is set.

        Args:
            image: from `prepare`.
            places: places whose maps are returned.
            tap: is called with the map of the patches after the embedding and each block, and may replace it.
            recompute: activation checkpointing of each block.
        """
        tokens, state = self.embed(image)
        maps: dict[str, Tensor] = {}
        for index, place in enumerate(self.places):
            if index:
                tokens = self._block(index - 1, tokens, state, recompute)
            tokens, shown = self._tapped(place, tokens, state, tap)
            if place in places:
                read = place in self._pyramid
                feature = self.patch_map(self.norm(shown) if read and self.normed else shown, state)
                maps[place] = self._scaled(place, feature, image) if read else feature
        return maps

    def _block(self, number: int, tokens: Tensor, state: ViTState, recompute: bool) -> Tensor:
        if not recompute:
            return self.run_block(number, tokens, state)
        after: Tensor = recomputed(_Step(self, number, state), tokens)
        return after

    def _tapped(self, place: str, tokens: Tensor, state: ViTState, tap: Tap | None) -> tuple[Tensor, Tensor]:
        """The tokens for the next block, and those for the heads."""
        if tap is None:
            return tokens, tokens
        before = self.patch_map(tokens, state)
        after = tapped(tap, place, before)
        tokens_of = {id(before): tokens}
        for one in after:
            if id(one) not in tokens_of:
                patches = one.flatten(2).transpose(1, 2)
                tokens_of[id(one)] = torch.cat([tokens[:, : self.prefix], patches], 1) if self.prefix else patches
        return tokens_of[id(after.feature)], tokens_of[id(after.read)]

    def _scaled(self, place: str, feature: Tensor, image: Tensor) -> Tensor:
        """A map resized to its stride in the pyramid."""
        if place in self.scales:
            feature = self.scales[place](feature)
        stride = self.strides[place]
        size = tuple(-(-side // stride) for side in image.shape[2:])
        if self.pyramid_kind == "none" or tuple(feature.shape[2:]) == size:
            return feature
        return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)

    # Positions ------------------------------------------------------------------------------------------------------------

    def bake(self, height: int, width: int) -> None:
        """Precompute the positions for one image size, so that an exported graph resamples nothing.

        Args:
            height: of the image, in pixels, without the padding of `prepare`.
            width: of the image.
        """
        self.baked = None
        grid = (-(-height // self.patch_size), -(-width // self.patch_size))
        with torch.no_grad():
            positions, rope = self._positions(grid), self._state(grid).rope
        self.register_buffer("baked_positions", positions, persistent=False)
        self.register_buffer("baked_rope", rope, persistent=False)
        self.baked = grid

    def _state(self, grid: Grid) -> ViTState:
        rope = getattr(self.model, "rope", None)
        if rope is None or self.baked is not None:
            return ViTState(grid, self.baked_rope if self.baked is not None else None)
        return ViTState(grid, rope.get_embed(shape=grid))

    def _positions(self, grid: Grid) -> Tensor | None:
        """Learned positions of the tokens for a grid of patches; None where there are none."""
        learned: Tensor | None = self.model.pos_embed
        if self.baked is not None:
            return self.baked_positions
        if learned is None:
            return None
        if learned.ndim == 4:  # SAM's
            learned = learned.flatten(1, 2)
        old = self.model.patch_embed.grid_size
        first = learned.shape[1] - old[0] * old[1]
        return resampled(learned, grid, tuple(old), first=first, exact=self.resample == "exact")

    @property
    def _pooled_norm(self) -> bool:
        """Whether the norm behind the blocks is the one that classification has after its pooling."""
        return not list(self.model.norm.parameters()) and bool(list(self.model.fc_norm.parameters()))


def resampled(learned: Tensor, grid: Grid, old: Grid, *, first: int, exact: bool) -> Tensor:
    """Position embeddings for another grid: bicubic as in DINOv2's code, or antialiased as in timm.

    Args:
        learned: 1 × tokens × channels.
        grid: rows and columns after resampling.
        old: rows and columns of `learned`.
        first: tokens before the patches (class, registers), whose positions are kept.
        exact: antialiased, as timm does.
    """
    if tuple(grid) == tuple(old):
        return learned
    if exact:
        antialiased: Tensor = resample_abs_pos_embed(learned, list(grid), list(old), num_prefix_tokens=first)
        return antialiased
    spatial = learned[:, first:].transpose(1, 2).reshape(1, -1, *old)
    spatial = F.interpolate(spatial.float(), size=grid, mode="bicubic", align_corners=False)  # type: ignore[arg-type]
    return torch.cat([learned[:, :first], spatial.to(learned.dtype).flatten(2).transpose(1, 2)], 1)


class _Step(nn.Module):
    """A block with its other inputs bound, for `recomputed`."""

    def __init__(self, backbone: TimmViT, number: int, state: ViTState) -> None:
        super().__init__()
        self.block, self.run = backbone.blocks[number], (backbone.run_block, number, state)

    def forward(self, tokens: Tensor) -> Tensor:
        run, number, state = self.run
        return run(number, tokens, state)


def _taps(config: FeaturesConfig, depth: int) -> list[int]:
    """Indices of the blocks whose maps the heads read, ascending."""
    if config.taps is None:
        return [depth * (quarter + 1) // 4 - 1 for quarter in range(4)] if depth >= 4 else list(range(depth))
    taps = config.taps
    if taps != sorted(set(taps)) or not taps or taps[-1] >= depth:
        raise UsageError(
            f"model.features.taps is {taps}: give distinct block indices of 0..{depth - 1} in ascending order"
        )
    if config.pyramid != "none" and len(taps) != len(STRIDES):
        raise UsageError(
            f"model.features.taps names {len(taps)} blocks: the pyramid has four maps, so name four, or set "
            "model.features.pyramid to none"
        )
    if len(taps) < 2:
        raise UsageError(f"model.features.taps is {taps}: name two blocks at least")
    return taps


def _stripped(model: Any, depth: int, config: FeaturesConfig) -> nn.Module:
    """A model without its head, and without the blocks after the last tap."""
    if isinstance(model, VisionTransformerSAM):
        if config.norm:
            raise UsageError(
                "model.features.norm is true, but SAM's vision transformer has no norm behind its blocks: leave it out"
            )
        for name in ("neck", "norm", "fc_norm"):
            setattr(model, name, nn.Identity())
    model.head = nn.Identity()
    model.attn_pool = None
    if list(model.norm.parameters()):
        model.fc_norm = nn.Identity()
    elif config.norm and not list(model.fc_norm.parameters()):
        raise UsageError("model.features.norm is true, but the backbone has no norm behind its blocks: leave it out")
    model.blocks = nn.ModuleList(model.blocks[:depth])
    stripped: nn.Module = model
    return stripped


def _scale(channels: int, patch: int, stride: int) -> nn.Sequential:
    """Transposed convolutions from the patch size to a stride, or max pooling, as in ViTDet."""
    if stride >= patch:
        return nn.Sequential(nn.MaxPool2d(stride // patch, ceil_mode=True))
    layers: list[nn.Module] = []
    for step in range((patch // stride).bit_length() - 1):
        layers += [nn.GroupNorm(1, channels), nn.GELU()] if step else []
        layers.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
    return nn.Sequential(*layers)


def _with_still(rope: Tensor, further: int | SymInt) -> Tensor:
    """Rotary positions with further rows before them that rotate nothing: sine 0, cosine 1."""
    still = rope.new_zeros(*rope.shape[:-2], further, rope.shape[-1])
    still[..., rope.shape[-1] // 2 :] = 1
    return torch.cat([still, rope], -2)
