"""Semantic clustering: a pixel belongs to the class of its nearest prototype, of which each class has one per domain.

Huang et al., CVPR 2023, §3.3, Eq. 8-13. `PrototypeHead` is the classifier; its prototypes are a moving average of
class means, so they are a buffer that `forward` reads and `update` writes. The losses stand in
`spcnet.losses.clustering`.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spcnet.numerics import pixels_at_a_time, without_autocast
from spcnet.types import ClassSums


def ramp_up(progress: float) -> float:
    """Momentum of the prototypes as a run proceeds: exp(-0.1·(1-progress)²), 0.905 at the start, 1 at the end."""
    return math.exp(-0.1 * (1.0 - min(max(progress, 0.0), 1.0)) ** 2)


def embed(feature: Float[Tensor, "B D h w"], norm: nn.LayerNorm) -> Float[Tensor, "B h w D"]:
    """Pixel embeddings: unit length → layer norm → unit length, with the channels last; differentiable once."""
    pixels = feature.permute(0, 2, 3, 1)
    # A compiler fuses the steps by itself, and cannot look into ours.
    if torch.is_grad_enabled() and pixels.requires_grad and not torch.compiler.is_compiling():
        embedding: Tensor = _Embed.apply(pixels.flatten(0, 2), norm.weight, norm.bias, norm.eps)
        return embedding.view(pixels.shape)
    return unit(norm(unit(pixels)))


class _Embed(torch.autograd.Function):
    """The three steps of `embed` while a pixel is in the processor's cache, and their gradient in the same way.

    Autograd alone would read and write the embeddings a dozen times and keep three tensors of their size; this keeps
    its input and four numbers of each pixel. Half the time on a processor (docs/LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        embedding, dim = torch.empty_like(pixels), pixels.shape[1]
        # The layer norm's answer to a pixel x of unit length is weight·(scale·x + shift) + bias.
        scale, shift, first, last = pixels.new_empty(4, len(pixels), 1)
        step = pixels_at_a_time(pixels.device)
        for begin in range(0, len(pixels), step):
            part = slice(begin, begin + step)
            variance, mean = torch.var_mean(pixels[part], dim=1, correction=0, keepdim=True)
            first[part] = ((variance + mean.square()) * dim).clamp_min(1e-24).rsqrt()
            scale[part] = first[part] * (variance * first[part].square() + eps).rsqrt()
            shift[part] = -mean * scale[part]
            normed = torch.mul(pixels[part], scale[part], out=embedding[part])
            normed.add_(shift[part]).mul_(weight).add_(bias)
            last[part] = torch.linalg.vector_norm(normed, dim=1, keepdim=True).clamp_min(1e-12).reciprocal()
            normed.mul_(last[part])
        ctx.save_for_backward(pixels, weight, bias, scale, shift, first, last)
        return embedding

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        pixels, weight, bias, scale, shift, first, last = ctx.saved_tensors
        g_pixels, g_weight, g_bias = torch.empty_like(pixels), torch.zeros_like(weight), torch.zeros_like(weight)
        step = pixels_at_a_time(pixels.device)
        for begin in range(0, len(pixels), step):
            part = slice(begin, begin + step)
            x, g = pixels[part], gradient[part]
            standard = torch.mul(x, scale[part]).add_(shift[part])
            e = torch.mul(standard, weight).add_(bias).mul_(last[part])
            # Through the second unit length: what points along e changes nothing.
            g = torch.addcmul(g, e, (g * e).sum(1, keepdim=True), value=-1).mul_(last[part])
            g_bias += g.sum(0)
            g_weight += (g * standard).sum(0)
            # Through the layer norm: neither a shift nor a scaling of x changes anything.
            g.mul_(weight)
            along = (g * standard).mean(1, keepdim=True)
            g.sub_(g.mean(1, keepdim=True)).addcmul_(standard, along, value=-1)
            # Through the first unit length.
            along = (x * g).sum(1, keepdim=True).mul_(first[part].square())
            torch.addcmul(g, x, along, value=-1, out=g_pixels[part])
            g_pixels[part].mul_(scale[part])
        return g_pixels, g_weight, g_bias, None


def unit(vector: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """Scale to unit length over the last axis.

    The values of `torch.nn.functional.normalize` up to rounding, with a factor instead of a divisor.
    """
    return vector * vector.square().sum(-1, keepdim=True).clamp_min(1e-24).rsqrt()


def prototype_logits(
    embedding: Float[Tensor, "B h w D"], prototypes: Float[Tensor, "K M D"], norm: nn.LayerNorm
) -> Float[Tensor, "B K h w"]:
    """Cosine to the nearest of a class's M unit-length prototypes, then a layer norm over the K classes (Eq. 8)."""
    num_classes, num_domains, _ = prototypes.shape
    cosine = embedding @ prototypes.flatten(0, 1).to(embedding.dtype).T
    nearest = cosine.view(*cosine.shape[:-1], num_classes, num_domains).amax(dim=-1)
    scores: Tensor = norm(nearest)
    return scores.permute(0, 3, 1, 2)


class ClusterOutput(NamedTuple):
    """Output of the prototype head."""

    scores: Float[Tensor, "B K h w"]
    embedding: Float[Tensor, "B D h w"]
    """Unit length."""


class PrototypeHead(nn.Module):
    """Classifies pixels by the nearest of K×M prototypes of size D.

    The convolutions run in the precision of the run, the rest in at least single precision: classes differ by cosines near
    one, which half precision rounds to a few steps.
    """

    prototypes: Tensor

    def __init__(
        self,
        num_classes: int,
        num_domains: int,
        *,
        in_channels: int = 256,
        embedding_dim: int = 256,
        momentum: float = 0.999,
        ramp: bool = False,
    ) -> None:
        super().__init__()
        self.momentum, self.ramp = momentum, ramp
        self.projection = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 1), nn.ReLU(inplace=True), nn.Conv2d(in_channels, embedding_dim, 1)
        )
        self.embedding_norm = nn.LayerNorm(embedding_dim)
        self.score_norm = nn.LayerNorm(num_classes)
        random = nn.init.trunc_normal_(torch.empty(num_classes, num_domains, embedding_dim), std=0.02)
        self.register_buffer("prototypes", F.normalize(random, dim=-1))

    @property
    def unit_prototypes(self) -> Float[Tensor, "K M D"]:
        """The prototypes at unit length, as scores and losses use them."""
        return F.normalize(self.prototypes, dim=-1)

    def forward(self, feature: Float[Tensor, "B C h w"]) -> ClusterOutput:
        """Logits of each position of the decoder's feature map; does not change the prototypes."""
        projected = self.projection(feature)
        with without_autocast(projected):
            embedding = embed(projected.to(self.embedding_norm.weight.dtype), self.embedding_norm)
            scores = prototype_logits(embedding, self.unit_prototypes, self.score_norm)
        return ClusterOutput(scores, embedding.permute(0, 3, 1, 2))

    @torch.no_grad()
    def update(self, classes: ClassSums, *, progress: float = 0.0) -> None:
        """Pull each prototype towards the mean direction of its class and domain in this batch (Eq. 13).

        p ← unit(γ·p + (1-γ)·ē); classes and domains without a pixel stay, though scaled to unit length.

        Args:
            classes: sums over this batch's pixels, of all processes, from `spcnet.losses.clustering.class_sums`.
            progress: fraction of the run that is done, 0..1; used with `ramp`.
        """
        mean = F.normalize(classes.total.to(self.prototypes.dtype), dim=-1)
        gamma = ramp_up(progress) if self.ramp else self.momentum
        moved = gamma * self.prototypes + (1 - gamma) * mean
        present = classes.pixels[..., None] > 0
        self.prototypes.copy_(F.normalize(torch.where(present, moved, self.prototypes), dim=-1))
