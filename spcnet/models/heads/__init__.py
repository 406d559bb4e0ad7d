"""What stands behind a backbone, by name: decoders, and classifiers of the decoder's features.

A further one is a module of its own and a line in the table. A decoder is made from the channels and strides of the
backbone's maps, and chooses those that it reads.
A classifier returns the class scores, or a named tuple that has them as `scores` with whatever its method's losses need.
"""

from collections.abc import Callable, Mapping

from torch import nn

from spcnet.config import ClusteringConfig
from spcnet.models.heads.base import Decoder
from spcnet.models.heads.deeplab import DeepLabDecoder
from spcnet.models.heads.linear import linear_classifier
from spcnet.models.heads.prototypes import PrototypeHead

DECODERS: dict[str, Callable[[Mapping[str, int], Mapping[str, int]], Decoder]] = {"deeplabv3plus": DeepLabDecoder}
"""Decoder by name: called with the channels and the strides of the backbone's maps."""


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
