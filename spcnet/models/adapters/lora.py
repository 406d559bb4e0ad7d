"""LoRA: a pretrained layer W, which is not trained, and beside it an update s·B A of low rank, which is.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. The start from the smallest singular triplets is
that of SoMA (Yun et al., "SoMA: Singular Value Decomposed Minor Components Adaptation for Domain Generalizable
Representation Learning", CVPR 2025), the one from a pivoted QR decomposition that of RecycleLoRA's main adapter (CVPR 2026).
"""

import math
from functools import cache
from typing import Any, Literal, NamedTuple

import scipy.linalg
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.errors import UsageError

Start = Literal["default", "soma", "qr"]
Layer = nn.Linear | nn.Conv2d


class Factors(NamedTuple):
    """Two matrices whose product is an update of a layer's weights; of a fused layer one pair below the other."""

    b: Float[Tensor, "out rank"]
    a: Float[Tensor, "rank_of_all_parts fan_in"]


class LoRA(nn.Module):
    """Mixin that `adapt_layer` adds to a linear layer or a convolution.

    The property `weight` is W + s·B A; a plain linear layer or convolution computes W x + s·B (A x) instead, which needs no
    gradient of the full matrix.
    """

    base: Tensor
    """W, without s·B A at the start."""
    lora_a: Tensor
    lora_b: Tensor
    start_a: Tensor | None
    """A at initialisation, if B A was not zero then: W minus their product is `base`."""
    start_b: Tensor | None
    scaling: float
    parts: int
    """Number of fused layers (queries, keys, values), each with a separate B and A."""
    dropout: float
    beside: bool
    """Whether the update is computed in parallel to the layer, and not from the sum of the weights."""

    @property
    def weight(self) -> Tensor:
        """W + s·B A."""
        if self.dropout and self.training:
            raise UsageError(
                f"model.adapter.dropout is {self.dropout}, but a block of this backbone reads the weights of its layers "
                "directly: set it to 0, or leave those layers out of model.adapter.targets"
            )
        return self.base + self.update(self.lora_b, self.lora_a)

    def update(self, b: Float[Tensor, "out rank"], a: Float[Tensor, "rank_of_all_parts fan_in"]) -> Tensor:
        """s·B A in the shape of W."""
        product = b.view(self.parts, -1, b.shape[1]) @ a.view(self.parts, -1, a.shape[1])
        update: Tensor = self.scaling * product.view(self.base.shape)
        return update

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The layer with its update."""
        layer: Any = self
        if not self.beside:
            output: Tensor = super().forward(input)  # that of the layer's own class
            return output
        dropped = F.dropout(input, self.dropout, self.training) if self.dropout else input
        if isinstance(self, nn.Conv2d):
            kernels = self.lora_a.view(-1, *self.base.shape[1:])
            low = self.scaling * self._conv_forward(dropped, kernels, None)
            plain = self._conv_forward(input, self.base, self.bias)
            convolved: Tensor = plain + F.conv2d(low, self.lora_b[:, :, None, None])
            return convolved
        low = self.scaling * F.linear(dropped, self.lora_a)
        if self.parts == 1:
            high = F.linear(low, self.lora_b)
        else:
            each = self.lora_b.view(self.parts, -1, self.lora_b.shape[1])
            high = torch.einsum("...pr,por->...po", low.view(*low.shape[:-1], self.parts, -1), each).flatten(-2)
        return F.linear(input, self.base, layer.bias) + high


@cache
def _adapted(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of layers of a kind that have an update; `merge_layer` finds the kind again as `plain`."""
    return type(f"LoRA{kind.__name__}", (LoRA, kind), {"plain": kind, "__module__": __name__})


def adapt_layer(
    name: str,
    layer: Layer,
    *,
    rank: int,
    scaling: float = 1.0,
    start: Start = "default",
    dropout: float = 0.0,
    pretrained: bool = True,
) -> None:
    """Give a layer an update, in place: its class changes, `weight` becomes `base`, and new parameters are added.

    Args:
        name: of the layer, for messages; one that ends in qkv has three fused layers for SoMA.
        layer: linear, or a convolution of any kind and number of groups.
        rank: r.
        scaling: s.
        start: B zero and A random, the last r singular triplets, or the last r columns of a pivoted QR decomposition. Of
            the latter two s·B A is taken from W, so that each begins with the layer's own function.
        dropout: probability with which an input of the update is dropped.
        pretrained: whether W is loaded; otherwise nothing is decomposed, because a checkpoint will fill the factors.

    Raises:
        UsageError: the rank exceeds that of the layer, or the layer does not support dropout.
    """
    weight = layer.weight
    fused = name.rpartition(".")[2] == "qkv" and isinstance(layer, nn.Linear) and len(weight) % 3 == 0
    parts = 3 if start == "soma" and fused else 1
    fan_in = weight[0].numel()
    most = min(len(weight) // parts, fan_in)
    if rank > most:
        raise UsageError(
            f"model.adapter.rank is {rank}, but {name} has a rank of {most} at most: choose a smaller one, or leave that layer "
            "out of model.adapter.targets"
        )
    beside = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)
    if dropout and not beside:
        groups = f" of {layer.groups} groups" if isinstance(layer, nn.Conv2d) and layer.groups > 1 else ""
        raise UsageError(
            f"model.adapter.dropout is {dropout}, but {name} is a {type(layer).__name__}{groups}, whose update is added to its "
            "weights: set it to 0, or leave that layer out of model.adapter.targets"
        )
    del layer.weight
    kind: type[nn.Module] = type(layer)
    layer.__class__ = _adapted(kind)  # type: ignore[assignment, arg-type]
    assert isinstance(layer, LoRA)
    layer.base = nn.Parameter(weight.detach(), requires_grad=False)
    layer.scaling, layer.parts, layer.dropout, layer.beside = scaling, parts, dropout, beside
    factors = Factors(weight.new_zeros(len(weight), rank), weight.new_zeros(parts * rank, fan_in))
    if pretrained:
        factors = _started(weight.detach().reshape(parts, -1, fan_in), rank, start)
    layer.lora_b, layer.lora_a = nn.Parameter(factors.b), nn.Parameter(factors.a)
    kept = None if start == "default" else factors
    layer.register_buffer("start_b", None if kept is None else kept.b.detach().clone())
    layer.register_buffer("start_a", None if kept is None else kept.a.detach().clone())
    if kept is not None and pretrained:
        with torch.no_grad():
            layer.base.sub_(layer.update(kept.b, kept.a))


def _started(matrices: Tensor, rank: int, start: Start) -> Factors:
    """Initial factors of a layer of P fused matrices, P out/P in."""
    if start == "default":
        parts, rows, fan_in = matrices.shape
        b, a = matrices.new_zeros(parts * rows, rank), matrices.new_zeros(parts * rank, fan_in)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        return Factors(b, a)
    decompose = smallest_triplets if start == "soma" else last_pivots
    each = [decompose(matrix, rank) for matrix in matrices]
    return Factors(torch.cat([one.b for one in each]), torch.cat([one.a for one in each]))


def merge_layer(layer: nn.Module) -> None:
    """Undo `adapt_layer` in place: the plain layer's weights are W + s·B A, added in double precision."""
    assert isinstance(layer, LoRA)
    with torch.no_grad():
        update = layer.update(layer.lora_b.double(), layer.lora_a.double())
        weight = (layer.base.double() + update).to(layer.base.dtype)
    for name in ("base", "lora_a", "lora_b", "start_a", "start_b"):
        delattr(layer, name)
    plain: type[nn.Module] = type(layer).plain  # type: ignore[attr-defined]
    layer.__class__ = plain  # type: ignore[assignment]
    layer.register_parameter("weight", nn.Parameter(weight))


@torch.no_grad()
def smallest_triplets(weight: Float[Tensor, "out fan_in"], rank: int) -> Factors:
    """SoMA's start: of W = U S Vᵀ the last r triplets, B = U_r √S_r and A = √S_r V_rᵀ."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    root = s[-rank:].sqrt()
    return Factors((u[:, -rank:] * root).contiguous(), (root[:, None] * v[-rank:]).contiguous())


@torch.no_grad()
def last_pivots(weight: Float[Tensor, "out fan_in"], rank: int) -> Factors:
    """The start of RecycleLoRA's main adapter: of W P = Q R the last r columns of Q, and the rows that select their pivots.

    Its sub adapter, from the first columns and with half the learning rate, is not made.
    """
    q, _, pivots = scipy.linalg.qr(weight.cpu().numpy(), mode="economic", pivoting=True)
    chosen = torch.from_numpy(pivots[q.shape[1] - rank : q.shape[1]]).long()
    a = torch.zeros(rank, weight.shape[1], dtype=weight.dtype)
    a[torch.arange(rank), chosen] = 1
    b = torch.from_numpy(q[:, -rank:]).to(weight)
    return Factors(b.contiguous(), a.to(weight.device))
