"""Instance norms and whitening inside a backbone: the family that RobustNet (Choi et al., CVPR 2021) compares.

A backbone has slots: after the convolutions of the stem, where the layer takes the place of the batch norm, and at the
end of each stage, where it follows the last block's sum of branch and shortcut, before the ReLU. As in RobustNet, the
stems of MobileNetV2 and ShuffleNetV2 differ: the first gets the layer after its first block, in addition; in the
second it takes the place of the batch norm, whose weights stay unused in the files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import kmeans1d
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from spcnet import distributed
from spcnet.distributed import Reduce
from spcnet.errors import UsageError, unknown_name_error
from spcnet.models.backbones import Backbone, BackboneInfo
from spcnet.numerics import at_least_single, without_autocast

Slot = Literal["stem1", "stem2", "stem3", "layer1", "layer2", "layer3", "layer4"]
SLOTS: tuple[Slot, ...] = ("stem1", "stem2", "stem3", "layer1", "layer2", "layer3", "layer4")
"""RobustNet's seven slots in the order of its `wt_layer`; a stem of one convolution has `stem3` alone."""
Kind = Literal["iw", "irw", "isw", "is", "ibn", "sw"]
KINDS: tuple[Kind, ...] = ("iw", "irw", "isw", "is", "ibn", "sw")
CODES: tuple[Kind | None, ...] = (None, "iw", "isw", "is", "ibn", "sw")
"""What RobustNet's codes 0..5 mean; IRW is there code 1 with `relax_denom`, here a kind of its own."""


def slots_of(norms: Mapping[str, str] | Sequence[int], info: BackboneInfo) -> dict[Slot, Kind]:
    """What each slot holds, from the way a user writes it.

    Args:
        norms: slot → kind, `stem` being all of the stem's slots that the framework uses in this backbone; or
            RobustNet's seven codes.
        info: the backbone.

    Raises:
        UsageError: a slot or kind is unknown.
    """
    if not isinstance(norms, Mapping):
        return slots_of_codes(norms)
    found: dict[Slot, Kind] = {}
    for name, kind in norms.items():
        if kind not in KINDS:
            raise unknown_name_error(kind, KINDS, "kind of norm")
        if name != "stem" and name not in SLOTS:
            raise unknown_name_error(name, ("stem", *SLOTS), "slot")
        for slot in SLOTS:
            if slot == name or (name == "stem" and slot in info.norm_slots and slot.startswith("stem")):
                found[slot] = kind
    return found


def slots_of_codes(codes: Sequence[int]) -> dict[Slot, Kind]:
    """RobustNet's `wt_layer`, seven codes, as slots with what they hold.

    >>> slots_of_codes([0, 0, 4, 4, 4, 0, 0])
    {'stem3': 'ibn', 'layer1': 'ibn', 'layer2': 'ibn'}

    Raises:
        UsageError: there are not seven, or one is unknown.
    """
    if len(codes) != len(SLOTS) or not all(0 <= code < len(CODES) for code in codes):
        raise UsageError(
            f"wt_layer is {list(codes)}: write seven codes 0..{len(CODES) - 1}, for {', '.join(SLOTS)}; "
            "0 nothing, 1 IW, 2 ISW, 3 IS, 4 IBN, 5 switchable whitening"
        )
    kinds = {slot: CODES[code] for slot, code in zip(SLOTS, codes, strict=True)}
    return {slot: kind for slot, kind in kinds.items() if kind is not None}


def instance_norm(kind: Kind, channels: int, *, relax: int = 64) -> nn.Module:
    """The layer that a slot holds.

    Instance norm with (`ibn`) or without (`is`) gain and offset, the latter with what the whitening losses need (`iw`,
    `irw`, `isw`), or switchable whitening (`sw`).
    """
    if kind == "sw":
        return SwitchableWhitening(channels)
    if kind in ("iw", "irw", "isw"):
        return InstanceWhitening(channels, selective=kind == "isw", relax=relax if kind == "irw" else 0)
    return nn.InstanceNorm2d(channels, affine=kind == "ibn")


def fill_slots(backbone: Backbone, slots: Mapping[Slot, Kind], *, relax: int = 64) -> None:
    """Put instance norms or whitening into a backbone's slots.

    Args:
        backbone: as `build_backbone` cuts it, with its pretrained weights in place.
        slots: what each slot holds; those not named stay empty.
        relax: for `irw`, see `InstanceWhitening`.

    Raises:
        UsageError: the backbone has no such slot.
    """
    for slot, kind in slots.items():
        make = partial(instance_norm, kind, relax=relax)
        if slot.startswith("stem"):
            _fill_stem(backbone, slot, make)
        else:
            stage: nn.Sequential = getattr(backbone, slot)
            stage[-1] = NormedBlock(stage[-1], make(backbone.channels[SLOTS.index(slot) - 2]))


def _fill_stem(backbone: Backbone, slot: Slot, make: Callable[[int], nn.Module]) -> None:
    stem = backbone.stem
    assert isinstance(stem, nn.Sequential)
    if isinstance(stem[1], InvertedResidual):
        if slot != "stem3":
            raise UsageError(f"this backbone has no slot {slot}: its stem has stem3 alone")
        stem[1] = NormedBlock(stem[1], make(backbone.channels[0]))
        return
    layers = stem[0] if isinstance(stem[0], nn.Sequential) else stem
    places = [i for i, layer in enumerate(layers) if isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d))]
    place = SLOTS.index(slot) - 3 + len(places) if slot in SLOTS[3 - len(places) : 3] else None
    if place is None:
        raise UsageError(
            f"this backbone has no slot {slot}: its stem has {', '.join(SLOTS[3 - len(places) : 3])} alone"
        )
    replaced = layers[places[place]]
    assert isinstance(replaced, (nn.BatchNorm2d, nn.InstanceNorm2d))
    layers[places[place]] = make(replaced.num_features)
    if isinstance(after := layers[places[place] + 1 : places[place] + 2][0], nn.ReLU):
        after.inplace = False  # the whitening loss reads what the norm returns


class NormedBlock(nn.Module):
    """A block whose output is normalised: in a residual block of a ResNet the sum, before the ReLU."""

    def __init__(self, block: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.block, self.norm = block, norm

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C2 h2 w2"]:
        """The block, then the norm."""
        block = self.block
        if not isinstance(block, (BasicBlock, Bottleneck)):
            normed: Tensor = self.norm(block(feature))
            return normed
        out = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(feature)))))
        if isinstance(block, Bottleneck):
            out = block.bn3(block.conv3(block.relu(out)))
        shortcut = feature if block.downsample is None else block.downsample(feature)
        # Not in place: the whitening loss reads what the norm returns.
        return torch.relu(self.norm(out + shortcut))


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
        """Gets what the layer returns; see `outputs_of`. No forward hook, for a compiler stops at those."""
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
        """Select nothing and forget every statistic."""
        for value in (self.mask, self.variance, self.pairs, self.trials):
            value.zero_()

    @torch.no_grad()
    def select(
        self, *, clusters: int = 3, relax: int = 0, legacy: bool = False, reduce: Reduce = lambda value: value
    ) -> None:
        """End a trial: keep in the mask what this trial, too, finds sensitive; see `sensitive`."""
        totals = reduce(torch.cat([self.variance.flatten(), self.pairs[None]]))
        mean = (totals[:-1] / totals[-1].clamp(min=1)).view_as(self.variance)
        found = sensitive(mean, clusters=clusters, relax=relax, legacy=legacy)
        self.mask.copy_(found & self.mask if int(self.trials) else found)
        self.trials += 1
        self.variance.zero_()
        self.pairs.zero_()


def sensitive(
    variance: Float[Tensor, "C C"], *, clusters: int = 3, relax: int = 0, legacy: bool = False
) -> Bool[Tensor, "C C"]:
    """Which covariances a photometric alteration changes: all but the lowest cluster of a 1-D k-means.

    Args:
        variance: of each covariance above the diagonal within the pairs, mean over the pairs; zero elsewhere.
        clusters: k.
        relax: above 0 the largest variances are taken instead, this share of all: their number divided by `relax`.
        legacy: as the released code does, cluster the zeros below the diagonal, too.
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
        found = torch.zeros_like(above)
        found[above] = away
        return found
    largest = variance.flatten().topk(channels * (channels - 1) // 2 // relax).indices
    return torch.zeros_like(above).flatten().index_fill(0, largest, True).view_as(above)


@contextmanager
def outputs_of(layers: Sequence[InstanceWhitening]) -> Iterator[list[Tensor]]:
    """A list that fills with what the layers return, in the order in which they are called."""
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
        """Whiten each group of channels; in at least single precision, for half does not invert a covariance."""
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
