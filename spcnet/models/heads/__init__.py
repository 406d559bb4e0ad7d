"""What stands behind a backbone, by name: decoders, and classifiers of the decoder's features.

A further one is a module of its own and a line in the table. A decoder is made for a backbone, and chooses the maps that it
reads among `Backbone.pyramid`.
A classifier returns the class scores, or a named tuple that has them as `scores` with whatever its method's losses need.
"""

from collections.abc import Callable

from torch import nn

from spcnet.config import ClusteringConfig, HeadConfig
from spcnet.models.backbones import Backbone
from spcnet.models.heads.base import Decoder
from spcnet.models.heads.deeplab import DeepLabDecoder
from spcnet.models.heads.linear import linear_classifier
from spcnet.models.heads.mask2former import Mask2FormerDecoder
from spcnet.models.heads.prototypes import PrototypeHead


def _deeplab(backbone: Backbone, num_classes: int, config: HeadConfig) -> Decoder:
    return DeepLabDecoder(backbone.channels, backbone.strides, backbone.pyramid)


DECODERS: dict[str, Callable[[Backbone, int, HeadConfig], Decoder]] = {
    "deeplabv3plus": _deeplab,
    "mask2former": Mask2FormerDecoder,
}
"""Decoder by name: called with the backbone, the number of classes and the settings."""


def _linear(in_channels: int, num_classes: int, num_domains: int, config: ClusteringConfig) -> nn.Module:
    return linear_classifier(in_channels, num_classes)


def _prototypes(in_channels: int, num_classes: int, num_domains: int, config: ClusteringConfig) -> nn.Module:
    return PrototypeHead(
        num_classes,
        num_domains,
        in_channels=in_channels,
        embedding_dim=config.embedding_dim,
        momentum=config.momentum,
        ramp=config.ramp_up,
    )


CLASSIFIERS: dict[str, Callable[[int, int, int, ClusteringConfig], nn.Module]] = {
    "linear": _linear,
    "prototypes": _prototypes,
}
"""Classifier by name: called with the decoder's channels, the numbers of classes and domains, and the settings."""
