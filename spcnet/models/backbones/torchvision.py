"""torchvision's networks cut into a stem and four stages, with dilation in place of late strides.

A backbone is cut where RobustNet cuts it, so that the style layers sit after `stem` and `layer1`, the decoder's fine
features come from `layer1` and the auxiliary head reads `layer3`. Dilation follows RobustNet too: in the ResNets every
3×3 convolution of a stage that would have been strided, in MobileNetV2 and ShuffleNetV2 only the strided ones.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import ShuffleNetV2, resnet
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from spcnet.config import FeaturesConfig
from spcnet.errors import UsageError
from spcnet.models.backbones.base import Backbone, BackboneInfo, refuse_ignored

PLACES = ("stem", "layer1", "layer2", "layer3", "layer4")
_STEM_SLOTS = ("stem1", "stem2", "stem3")


class TorchvisionBackbone(Backbone):
    """A stem and four stages.

    Args:
        parts: stem and stages.
        channels: after each of them.
        strides: after each of them, without dilation.
    """

    def __init__(self, parts: list[nn.Module], channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__(dict(zip(PLACES, channels, strict=True)), dict(zip(PLACES, strides, strict=True)))
        self.stem, self.layer1, self.layer2, self.layer3, self.layer4 = parts

    def put_norm(self, slot: str, make: Callable[[int], nn.Module]) -> None:
        """At the end of a stage after the last block's sum; in a stem in place of a batch norm."""
        if not slot.startswith("stem"):
            stage: nn.Sequential = getattr(self, slot)
            stage[-1] = NormedBlock(stage[-1], make(self.channels[slot]))
            return
        stem = self.stem
        assert isinstance(stem, nn.Sequential)
        if isinstance(stem[1], InvertedResidual):
            if slot != "stem3":
                raise UsageError(f"this backbone has no slot {slot}: its stem has stem3 alone")
            stem[1] = NormedBlock(stem[1], make(self.channels["stem"]))
            return
        layers = stem[0] if isinstance(stem[0], nn.Sequential) else stem
        norms = [i for i, layer in enumerate(layers) if isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d))]
        places = dict(zip(reversed(_STEM_SLOTS), reversed(norms), strict=False))
        if slot not in places:
            raise UsageError(f"this backbone has no slot {slot}: its stem has {', '.join(sorted(places))} alone")
        replaced = layers[places[slot]]
        assert isinstance(replaced, (nn.BatchNorm2d, nn.InstanceNorm2d))
        layers[places[slot]] = make(replaced.num_features)
        if isinstance(after := layers[places[slot] + 1 : places[slot] + 2][0], nn.ReLU):
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


class Cut(NamedTuple):
    """A network of torchvision, and how it is taken apart."""

    weights: str
    """torchvision's name of the network and of its ImageNet weights."""
    parts: Callable[[nn.Module], list[nn.Module]]
    """Stem and stages of the classifier."""
    channels: tuple[int, ...]
    """Of the map after the stem and each stage."""
    strides: tuple[int, ...]
    """Image size divided by the size of those maps, without dilation."""
    dilate_all: bool
    """Whether every 3×3 convolution of a dilated stage is widened, or only those that were strided."""
    make: Callable[[], nn.Module] | None = None
    """Makes the classifier, whose names pretrained files have; torchvision's by default."""


def build(cut: Cut, output_stride: int | None, features: FeaturesConfig) -> TorchvisionBackbone:
    """A backbone whose stages beyond the output stride are dilated instead; None dilates none."""
    refuse_ignored(features, cut.weights)
    output_stride = output_stride or cut.strides[-1]
    classifier = (cut.make or getattr(torchvision.models, cut.weights))()
    names = {id(value): name for name, value in classifier.state_dict(keep_vars=True).items()}
    parts = cut.parts(classifier)
    for part, stride in list(zip(parts, cut.strides, strict=True))[1:]:
        if stride > output_stride:
            dilate(part, stride // output_stride, every=cut.dilate_all)
    backbone = TorchvisionBackbone(parts, cut.channels, tuple(min(stride, output_stride) for stride in cut.strides))
    backbone.published = {key: names[id(value)] for key, value in backbone.state_dict(keep_vars=True).items()}
    return backbone


def download(name: str) -> dict[str, Tensor]:
    """Torchvision's ImageNet weights of a network.

    Raises:
        OSError: they cannot be fetched.
    """
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    tensors: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    return tensors


def dilate(stage: nn.Module, rate: int, *, every: bool) -> None:
    """Take the stride out of a stage and widen its 3×3 convolutions instead, so that they see as much as before."""
    for module in stage.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        strided = module.stride == (2, 2)
        module.stride = (1, 1)
        if module.kernel_size == (3, 3) and (every or strided):
            module.dilation = module.padding = (rate, rate)


def _resnet_parts(net: nn.Module) -> list[nn.Module]:
    assert isinstance(net, resnet.ResNet)
    first = list(net.conv1) if isinstance(net.conv1, nn.Sequential) else [net.conv1]
    return [nn.Sequential(*first, net.bn1, net.relu, net.maxpool), net.layer1, net.layer2, net.layer3, net.layer4]


def resnet101_deep_stem() -> nn.Module:
    """ResNet-101 whose stem is three 3×3 convolutions of 64, 64 and 128 channels (PSPNet's and RobustNet's)."""
    net = torchvision.models.resnet101()
    net.conv1 = nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 128, 3, padding=1, bias=False),
    )
    net.bn1 = nn.BatchNorm2d(128)
    first = net.layer1[0]
    first.conv1 = nn.Conv2d(128, 64, 1, bias=False)
    first.downsample[0] = nn.Conv2d(128, 256, 1, bias=False)
    for module in (*net.conv1, first.conv1, first.downsample[0]):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    built: nn.Module = net
    return built


def _mobilenet_v2_parts(net: nn.Module) -> list[nn.Module]:
    layers = net.features
    assert isinstance(layers, nn.Sequential)
    return [nn.Sequential(*layers[i:j]) for i, j in ((0, 2), (2, 7), (7, 11), (11, 18), (18, 19))]


def _shufflenet_v2_parts(net: nn.Module) -> list[nn.Module]:
    assert isinstance(net, ShuffleNetV2)
    stem = nn.Sequential(net.conv1, net.maxpool)
    return [stem, net.stage2, net.stage3, net.stage4, nn.Sequential(net.conv5)]


def _info(
    summary: str, cut: Cut, *, fresh: tuple[str, ...] = (), norm_slots: tuple[str, ...] = ("stem3", "layer1", "layer2")
) -> BackboneInfo:
    return BackboneInfo(summary, partial(build, cut), cut.weights, partial(download, cut.weights), fresh, norm_slots)


_DEEP = (256, 512, 1024, 2048)
_RESNET_STRIDES = (4, 4, 8, 16, 32)

TORCHVISION: dict[str, BackboneInfo] = {
    "resnet18": _info(
        "ResNet-18: small, for trials",
        Cut("resnet18", _resnet_parts, (64, 64, 128, 256, 512), _RESNET_STRIDES, True),
    ),
    "resnet50": _info(
        "ResNet-50: the backbone of the field's tables",
        Cut("resnet50", _resnet_parts, (64, *_DEEP), _RESNET_STRIDES, True),
    ),
    "resnet101": _info(
        "ResNet-101 with a stem of three 3×3 convolutions",
        Cut("resnet101", _resnet_parts, (128, *_DEEP), _RESNET_STRIDES, True, resnet101_deep_stem),
        fresh=("conv1.", "bn1.", "layer1.0.conv1.", "layer1.0.downsample.0."),
        norm_slots=("stem1", "stem2", "layer1", "layer2"),
    ),
    "mobilenet_v2": _info(
        "MobileNetV2 1.0: for small devices",
        Cut("mobilenet_v2", _mobilenet_v2_parts, (16, 32, 64, 320, 1280), (2, 8, 16, 32, 32), False),
    ),
    "shufflenet_v2": _info(
        "ShuffleNetV2 x1.0: for small devices",
        Cut("shufflenet_v2_x1_0", _shufflenet_v2_parts, (24, 116, 232, 464, 1024), (4, 8, 16, 32, 32), False),
    ),
}
"""Backbone by name."""
