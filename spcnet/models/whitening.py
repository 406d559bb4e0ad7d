"""Instance norms and whitening inside a backbone: the family that RobustNet (Choi et al., CVPR 2021) compares.

Where a backbone takes them is in `spcnet.models.norm_slots`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import kmeans1d
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from spcnet import distributed
from spcnet.distributed import Reduce
from spcnet.numerics import at_least_single, without_autocast

Kind = Literal["iw", "irw", "isw", "is", "ibn", "sw"]
KINDS: tuple[Kind, ...] = ("iw", "irw", "isw", "is", "ibn", "sw")


def instance_norm(kind: Kind, channels: int, *, relax: int = 64) -> nn.Module:
    """Build the norm of a slot.

    Instance norm with (`ibn`) or without (`is`) gain and offset, the latter with what the whitening losses need (`iw`,
    `irw`, `isw`), or switchable whitening (`sw`).
    """
    if kind == "sw":
        return SwitchableWhitening(channels)
    if kind in ("iw", "irw", "isw"):
        return InstanceWhitening(channels, selective=kind == "isw", relax=relax if kind == "irw" else 0)
    return nn.InstanceNorm2d(channels, affine=kind == "ibn")


class InstanceWhitening(nn.InstanceNorm2d):
    """Instance norm without gain and offset, and which covariances of its output the whitening loss is to remove.

    For IW and IRW those are all above the diagonal. For ISW none at first; after some training `observe` looks at
    pairs of an image and its photometric alteration, and `select` takes the covariances that differ most within the
    pairs. Mask and statistics are buffers: they are in every checkpoint and equal on all processes.

    Args:
        channels: C.
        selective: ISW.
        relax: IRW's margin is the number of covariances divided by this; 0 for none.
    """

    mask: Tensor
    variance: Tensor
    pairs: Tensor
    trials: Tensor

    def __init__(self, channels: int, *, selective: bool = False, relax: int = 0) -> None:
        super().__init__(channels, affine=False)
        self.selective = selective
        self.listener: list[Tensor] | None = None
        """Collects the layer's outputs; see `outputs_of`. No forward hook, because hooks break compiled graphs."""
        self.margin = channels * (channels - 1) // 2 // relax if relax else 0
        above = torch.ones(channels, channels, dtype=torch.bool).triu(1)
        self.register_buffer("mask", torch.zeros_like(above) if selective else above)
        if selective:
            self.register_buffer("variance", torch.zeros(channels, channels))
            self.register_buffer("pairs", torch.zeros(()))
            self.register_buffer("trials", torch.zeros((), dtype=torch.long))

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Standardise each channel of each image."""
        whitened = super().forward(input)
        if self.listener is not None:
            self.listener.append(whitened)
        return whitened

    @torch.no_grad()
    def observe(self, covariances: Float[Tensor, "P2 C C"]) -> None:
        """Add pairs to the statistics of this trial.

        Args:
            covariances: of the output, an altered image and its original in turns.
        """
        altered, original = covariances[0::2], covariances[1::2]
        # The variance of two numbers with divisor n-1.
        variance = ((altered - original).square() / 2).sum(0).triu(1)
        self.variance += variance.to(self.variance.dtype)
        self.pairs += len(altered)

    @torch.no_grad()
    def restart(self) -> None:
        """Reset the mask and all statistics."""
        for value in (self.mask, self.variance, self.pairs, self.trials):
            value.zero_()

    @torch.no_grad()
    def select(
        self, *, clusters: int = 3, relax: int = 0, legacy: bool = False, reduce: Reduce = lambda value: value
    ) -> None:
        """End a trial: intersect the mask with the covariances that this trial finds `sensitive`."""
        totals = reduce(torch.cat([self.variance.flatten(), self.pairs[None]]))
        mean = (totals[:-1] / totals[-1].clamp(min=1)).view_as(self.variance)
        selected = sensitive(mean, clusters=clusters, relax=relax, legacy=legacy)
        self.mask.copy_(selected & self.mask if int(self.trials) else selected)
        self.trials += 1
        self.variance.zero_()
        self.pairs.zero_()


def sensitive(
    variance: Float[Tensor, "C C"], *, clusters: int = 3, relax: int = 0, legacy: bool = False
) -> Bool[Tensor, "C C"]:
    """Mask of the covariances that a photometric alteration changes: all but the lowest cluster of a 1-D k-means.

    Args:
        variance: of each covariance above the diagonal within the pairs, mean over the pairs; zero elsewhere.
        clusters: k.
        relax: above 0, select the largest variances instead, one of every `relax`.
        legacy: also cluster the zeros below the diagonal, as the released code does.
    """
    channels = len(variance)
    above = torch.ones_like(variance, dtype=torch.bool).triu(1)
    if not relax:
        values = variance if legacy else variance[above]
        labels = torch.tensor(kmeans1d.cluster(values.flatten().tolist(), clusters).clusters, device=variance.device)
        # The optimal clustering of fewer distinct values than clusters has no cluster 0; the reference then takes all.
        away = labels != (0 if legacy else labels.min())
        if legacy:
            return away.view_as(above)
        mask = torch.zeros_like(above)
        mask[above] = away
        return mask
    largest = variance.flatten().topk(channels * (channels - 1) // 2 // relax).indices
    return torch.zeros_like(above).flatten().index_fill(0, largest, True).view_as(above)


@contextmanager
def outputs_of(layers: Sequence[InstanceWhitening]) -> Iterator[list[Tensor]]:
    """A list that collects the layers' outputs, in call order."""
    seen: list[Tensor] = []
    for layer in layers:
        layer.listener = seen
    try:
        yield seen
    finally:
        for layer in layers:
            layer.listener = None


class SwitchableWhitening(nn.Module):
    """A learned mixture of batch and instance whitening (Pan et al., ICCV 2019), in groups of channels.

    Mean and covariance are weighted sums, softmax of two weights each, of those of the batch and those of the image;
    the inverse root is found by Newton's iteration. In evaluation the batch's are running means. A group has 16
    channels, or the largest number below it that divides them.
    """

    running_mean: Tensor
    running_cov: Tensor

    def __init__(
        self, channels: int, *, group: int = 16, iterations: int = 5, momentum: float = 0.99, eps: float = 1e-5
    ) -> None:
        super().__init__()
        # ShuffleNetV2 has 24, 116 and 232 channels: there the groups are 12, 4 and 8.
        group = max(size for size in range(1, group + 1) if channels % size == 0)
        self.group, self.iterations, self.momentum, self.eps = group, iterations, momentum, eps
        groups = channels // group
        self.sw_mean_weight = nn.Parameter(torch.ones(2))
        self.sw_var_weight = nn.Parameter(torch.ones(2))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(groups, group, 1))
        self.register_buffer("running_cov", torch.eye(group).repeat(groups, 1, 1))

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Whiten each group of channels in at least single precision; half precision cannot invert a covariance."""
        with without_autocast(feature):
            whitened: Tensor = self._whiten(at_least_single(feature))
        return whitened.to(feature.dtype)

    def _whiten(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        batch, channels, height, width = feature.shape
        cells = feature.reshape(batch, channels // self.group, self.group, height * width)
        own_mean = cells.mean(3, keepdim=True)
        own_cov = (cells - own_mean) @ (cells - own_mean).transpose(2, 3) / cells.shape[3]
        if self.training:
            # From each image's moments those of the batch: E[xx'] = cov + mean·mean'.
            moments = own_cov + own_mean @ own_mean.transpose(2, 3)
            mean = distributed.all_reduce_mean(own_mean.mean(0))
            cov = distributed.all_reduce_mean(moments.mean(0)) - mean @ mean.transpose(1, 2)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), 1 - self.momentum)
                self.running_cov.lerp_(cov.to(self.running_cov.dtype), 1 - self.momentum)
        else:
            mean, cov = self.running_mean, self.running_cov
        of_mean, of_cov = self.sw_mean_weight.softmax(0), self.sw_var_weight.softmax(0)
        mixed_mean = of_mean[0] * mean + of_mean[1] * own_mean
        eye = torch.eye(self.group, dtype=feature.dtype, device=feature.device)
        mixed_cov = of_cov[0] * cov + of_cov[1] * own_cov + self.eps * eye
        whitened = inverse_root(mixed_cov, iterations=self.iterations) @ (cells - mixed_mean)
        return whitened.view_as(feature) * self.weight[:, None, None] + self.bias[:, None, None]


def inverse_root(covariance: Float[Tensor, "*B C C"], *, iterations: int) -> Float[Tensor, "*B C C"]:
    """Σ^(-1/2) by Newton's iteration on Σ scaled to trace 1 (Huang et al., Iterative Normalization, CVPR 2019)."""
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    scaled = covariance / trace
    root = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device).expand_as(covariance)
    for _ in range(iterations):
        root = 1.5 * root - 0.5 * (root @ root @ root @ scaled)
    return root * trace.rsqrt()
