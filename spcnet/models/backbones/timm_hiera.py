"""timm's Hiera (Ryali et al., ICML 2023) for any image size: its tokens are ordered by pooling windows."""

import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.hiera import Hiera, Reroll, Unroll
from torch import Tensor, nn

from spcnet.models.backbones.timm_pyramid import Seen, TimmPyramid
from spcnet.models.recompute import recomputed


class TimmHiera(TimmPyramid):
    """Hiera, block by block; timm's model fixes the token order for one image size, this class derives it for each image."""

    @property
    def hiera(self) -> Hiera:
        """Timm's model."""
        model: Hiera = self.model.model
        return model

    def parts(self) -> list[nn.Module]:
        """The transformer's blocks."""
        return list(self.hiera.blocks)

    def _ends(self, *, own: bool = False) -> list[nn.Module]:
        return [self.hiera.blocks[end] for end in self.hiera.stage_ends]

    def _run(self, image: Tensor, seen: Seen, recompute: bool) -> None:
        model = self.hiera
        size = (image.shape[2], image.shape[3])
        schedule = [model.q_stride] * (len(model.stage_ends) - 1)
        reroll = Reroll(size, model.patch_stride, schedule, model.stage_ends, model.q_pool)
        tokens: Tensor = model.patch_embed(image)
        tokens = Unroll(size, model.patch_stride, schedule)(tokens + self._positions(size))
        places = dict(zip(model.stage_ends, self.places, strict=True))
        for number, block in enumerate(model.blocks):
            tokens = recomputed(block, tokens) if recompute else block(tokens)
            if number in places:
                numbers = torch.arange(tokens.shape[1], device=tokens.device).view(1, -1, 1)
                rolled: Tensor = reroll(numbers, number)
                order = rolled.flatten()
                before = tokens[:, order].transpose(1, 2).reshape(tokens.shape[0], -1, *rolled.shape[1:3])
                after = seen(places[number], before)
                if after is not before:
                    tokens = after.flatten(2).transpose(1, 2)[:, order.argsort()]

    def _positions(self, size: tuple[int, int]) -> Tensor:
        """Position embeddings of the patches for an image size, resampled as in timm."""
        model = self.hiera
        rows, columns = (side // stride for side, stride in zip(size, model.patch_stride, strict=True))
        learned = model.pos_embed
        assert learned is not None
        if model.pos_embed_win is None:
            resampled: Tensor = resample_abs_pos_embed(
                learned, [rows, columns], list(model.tokens_spatial_shape), num_prefix_tokens=0
            )
            return resampled
        window = model.pos_embed_win.tile(rows // model.mask_unit_size[0], columns // model.mask_unit_size[1])
        resized = F.interpolate(learned, size=(rows, columns), mode="bicubic", antialias=True)
        return (resized + window).flatten(2).transpose(1, 2)
