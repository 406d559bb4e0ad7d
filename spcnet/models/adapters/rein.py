"""Rein: learned tokens that refine the features between the blocks of a frozen backbone.

Wei et al., "Stronger, Fewer, & Superior: Harnessing Vision Foundation Models for Domain Generalized Semantic Segmentation",
CVPR 2024. Left out is the link from the tokens to the queries of a mask head.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

PATCH = 16
"""The patch size p of the published runs, in the bound of the tokens' start."""
SCALE = 0.001
"""Initial scale of the refinement."""


class Rein(nn.Module):
    """Refines the feature maps at some places; those with equally many channels share two linear layers and a scale.

    Args:
        channels: of the map at each place, in their order.
        tokens: m, for each place.
        rank: r of the product A B that they are.
    """

    def __init__(self, channels: Mapping[str, int], *, tokens: int, rank: int) -> None:
        super().__init__()
        self.places = tuple(channels)
        widths = list(dict.fromkeys(channels.values()))
        self.shared = {place: widths.index(width) for place, width in channels.items()}
        """Index of the linear layers and the scale of each place."""
        self.a = nn.ParameterList([nn.Parameter(torch.empty(tokens, rank)) for _ in channels])
        self.b = nn.ParameterList([nn.Parameter(torch.empty(rank, width)) for width in channels.values()])
        for a, b in zip(self.a, self.b, strict=True):
            bound = math.sqrt(6 / (3 * PATCH**2 + math.sqrt(rank * b.shape[1])))
            nn.init.uniform_(a, -bound, bound)
            nn.init.uniform_(b, -bound, bound)
        # PyTorch's own start of a linear layer is the published one: Kaiming-uniform with a = √5.
        self.token_layers = nn.ModuleList([nn.Linear(width, width) for width in widths])
        self.feature_layers = nn.ModuleList([nn.Linear(width, width) for width in widths])
        self.scales = nn.ParameterList([nn.Parameter(torch.tensor(SCALE)) for _ in widths])

    def forward(self, place: str, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """F + s·Linear₂(D + F), where D = softmax(F Tᵀ/√C) Linear₁(T) without the first token; maps elsewhere as they are."""
        if place not in self.places:
            return feature
        number, group = self.places.index(place), self.shared[place]
        tokens = self.a[number] @ self.b[number]
        cells = feature.flatten(2).transpose(1, 2)
        attention = (cells @ tokens.T / math.sqrt(cells.shape[2])).softmax(-1)
        # The first token absorbs attention and adds nothing.
        attended = attention[:, :, 1:] @ self.token_layers[group](tokens[1:])
        refined: Tensor = cells + self.scales[group] * self.feature_layers[group](attended + cells)
        return refined.transpose(1, 2).reshape(feature.shape)

    def embeddings(self) -> set[str]:
        """Names of the tokens' factors and of the scales, which have no weight decay."""
        return {name for name, _ in self.named_parameters() if name.startswith(("a.", "b.", "scales."))}
