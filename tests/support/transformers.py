"""A small vision transformer, a backbone whose blocks are timm's."""

from collections.abc import Collection

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from spcnet.models.backbones.base import Backbone, Tap

WIDTH, DEPTH = 12, 4


class TinyTransformer(Backbone):
    """Patches of 8 pixels and four blocks; every map has the size of the patches."""

    def __init__(self, depth: int = DEPTH) -> None:
        places = ("embed", *(f"block{number}" for number in range(depth)))
        super().__init__(dict.fromkeys(places, WIDTH), dict.fromkeys(places, 8), pixel_multiple=8)
        self.embed = nn.Conv2d(3, WIDTH, 8, stride=8)
        self.blocks = nn.ModuleList(
            [Block(WIDTH, num_heads=2, qkv_bias=True, proj_drop=0.1, drop_path=0.1) for _ in range(depth)]
        )
        # A part of the backbone that no pretrained weights have, as a learned pyramid is.
        self.scales = nn.Sequential(nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2), nn.BatchNorm2d(WIDTH))

    def depths(self) -> dict[str, int]:
        numbers = {name: name.split(".") for name, _ in self.named_parameters() if not name.startswith("scales")}
        return {name: int(parts[1]) + 1 if parts[0] == "blocks" else 0 for name, parts in numbers.items()}

    def features(
        self, image: Tensor, places: Collection[str], tap: Tap | None = None, *, recompute: bool = False
    ) -> dict[str, Tensor]:
        feature, maps = self.embed(image), {}
        for number, place in enumerate(self.places):
            if number:
                tokens = self.blocks[number - 1](feature.flatten(2).transpose(1, 2))
                feature = tokens.transpose(1, 2).unflatten(2, feature.shape[2:])
            feature = feature if tap is None else tap(place, feature)
            if place in places:
                maps[place] = self.scales(feature) if place == self.places[1] else feature
        return maps


def tiny_transformer(seed: int = 0, depth: int = DEPTH) -> TinyTransformer:
    """In double precision, with weights that a seed gives."""
    torch.manual_seed(seed)
    return TinyTransformer(depth).double()
