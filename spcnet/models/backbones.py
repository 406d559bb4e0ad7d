"""Feature extractors: torchvision's networks cut into a stem and four stages, with dilation in place of late strides.

A backbone is cut where RobustNet cuts it, so that the style layers sit after `stem` and `layer1`, the decoder's fine
features come from `layer1` and the auxiliary head reads `layer3`. Dilation follows RobustNet too: in the ResNets every
3×3 convolution of a stage that would have been strided, in MobileNetV2 and ShuffleNetV2 only the strided ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import ShuffleNetV2, resnet

from spcnet.errors import lookup


class Backbone(nn.Module):
    """A stem and four stages; each stage's channels are in `channels`."""

    def __init__(
        self, stem: nn.Module, stages: tuple[nn.Module, nn.Module, nn.Module, nn.Module], channels: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.stem = stem
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = channels
        """Channels after the stem and after each of the four stages."""

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """The deepest feature map; networks with style layers call the stages one by one instead."""
        deepest: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(image)))))
        return deepest


class BackboneInfo(NamedTuple):
    """What a backbone is, and how it is made."""

    summary: str
    build: Callable[[], nn.Module]
    """Makes torchvision's classifier, whose key names pretrained files have."""
    cut: Callable[[nn.Module], Backbone]
    """Takes the classifier apart."""
    strides: tuple[int, int, int, int, int]
    """Image size divided by the size of the map after the stem and each stage, without dilation."""
    dilate_all: bool
    """Whether every 3×3 convolution of a dilated stage is widened, or only those that were strided."""
    torchvision_weights: str
    """torchvision's name of the ImageNet weights."""
    fresh: tuple[str, ...] = ()
    """Beginnings of the keys that torchvision's ImageNet weights do not have in the right shape."""
    norm_slots: tuple[str, ...] = ("stem3", "layer1", "layer2")
    """Where RobustNet puts instance norms and whitening, see `spcnet.models.whitening`."""


def build_backbone(name: str, *, output_stride: int) -> tuple[nn.Module, Callable[[], Backbone]]:
    """A classifier to load pretrained weights into, and the function that then cuts it into a dilated backbone.

    Raises:
        UsageError: no backbone has that name.
    """
    info = backbone_info(name)
    classifier = info.build()

    def finish() -> Backbone:
        backbone = info.cut(classifier)
        stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
        for stage, stride in zip(stages, info.strides[1:], strict=True):
            if stride > output_stride:
                dilate(stage, stride // output_stride, every=info.dilate_all)
        return backbone

    return classifier, finish


def dilate(stage: nn.Module, rate: int, *, every: bool) -> None:
    """Take the stride out of a stage and widen its 3×3 convolutions instead, so that they see as much as before."""
    for module in stage.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        strided = module.stride == (2, 2)
        module.stride = (1, 1)
        if module.kernel_size == (3, 3) and (every or strided):
            module.dilation = module.padding = (rate, rate)


def _cut_resnet(net: nn.Module) -> Backbone:
    assert isinstance(net, resnet.ResNet)
    stem = nn.Sequential(*_flat(net.conv1), net.bn1, net.relu, net.maxpool)
    stages = (net.layer1, net.layer2, net.layer3, net.layer4)
    expansion = int(net.fc.in_features) // 512
    return Backbone(stem, stages, (net.bn1.num_features, *(expansion * c for c in (64, 128, 256, 512))))


def _flat(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.Sequential) else [module]


def _resnet101_deep_stem() -> nn.Module:
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


def _cut_mobilenet_v2(net: nn.Module) -> Backbone:
    f = net.features
    assert isinstance(f, nn.Sequential)
    stem, *stages = (nn.Sequential(*f[begin:end]) for begin, end in ((0, 2), (2, 7), (7, 11), (11, 18), (18, 19)))
    return Backbone(stem, (stages[0], stages[1], stages[2], stages[3]), (16, 32, 64, 320, 1280))


def _cut_shufflenet_v2(net: nn.Module) -> Backbone:
    assert isinstance(net, ShuffleNetV2)
    stages = (net.stage2, net.stage3, net.stage4, nn.Sequential(net.conv5))
    return Backbone(nn.Sequential(net.conv1, net.maxpool), stages, (24, 116, 232, 464, 1024))


BACKBONES: dict[str, BackboneInfo] = {
    "resnet18": BackboneInfo(
        "ResNet-18: small, for trials", torchvision.models.resnet18, _cut_resnet, (4, 4, 8, 16, 32), True, "resnet18"
    ),
    "resnet50": BackboneInfo(
        "ResNet-50: the backbone of the field's tables",
        torchvision.models.resnet50,
        _cut_resnet,
        (4, 4, 8, 16, 32),
        True,
        "resnet50",
    ),
    "resnet101": BackboneInfo(
        "ResNet-101 with a stem of three 3×3 convolutions",
        _resnet101_deep_stem,
        _cut_resnet,
        (4, 4, 8, 16, 32),
        True,
        "resnet101",
        fresh=("conv1.", "bn1.", "layer1.0.conv1.", "layer1.0.downsample.0."),
        norm_slots=("stem1", "stem2", "layer1", "layer2"),
    ),
    "mobilenet_v2": BackboneInfo(
        "MobileNetV2 1.0: for small devices",
        torchvision.models.mobilenet_v2,
        _cut_mobilenet_v2,
        (2, 8, 16, 32, 32),
        False,
        "mobilenet_v2",
    ),
    "shufflenet_v2": BackboneInfo(
        "ShuffleNetV2 x1.0: for small devices",
        torchvision.models.shufflenet_v2_x1_0,
        _cut_shufflenet_v2,
        (4, 8, 16, 32, 32),
        False,
        "shufflenet_v2_x1_0",
    ),
}
"""Backbone by name."""


def backbone_info(name: str) -> BackboneInfo:
    """What is known of the backbone of that name.

    Raises:
        UsageError: no backbone has that name.
    """
    return lookup(name, BACKBONES, "backbone")
