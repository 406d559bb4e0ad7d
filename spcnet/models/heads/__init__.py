"""Decoders, and classifiers of the decoder's features, by name.

To add one, write a module and add a line to the table. A decoder is built for a backbone, and chooses the maps that it
reads among `Backbone.pyramid`.
A classifier returns the logits, or a named tuple with the logits as `scores` and further outputs for its method's losses.
"""

import dataclasses
from collections.abc import Callable

from torch import nn

from spcnet.config import ClusteringConfig, HeadConfig
from spcnet.errors import UsageError, lookup
from spcnet.models.heads.base import Decoder
from spcnet.models.heads.conv4 import FourTapDecoder
from spcnet.models.heads.deeplab import DeepLabDecoder
from spcnet.models.heads.eomt import EomtDecoder
from spcnet.models.heads.linear import LinearDecoder, linear_classifier
from spcnet.models.heads.mask2former import Mask2FormerDecoder
from spcnet.models.heads.prototypes import PrototypeHead
from spcnet.models.heads.segformer import SegformerDecoder

DECODERS: dict[str, type[Decoder]] = {
    "deeplabv3plus": DeepLabDecoder,
    "linear": LinearDecoder,
    "conv4": FourTapDecoder,
    "segformer": SegformerDecoder,
    "mask2former": Mask2FormerDecoder,
    "eomt": EomtDecoder,
}
"""Decoder by name; called with the backbone, the number of classes and the settings."""


def decoder_named(name: str, config: HeadConfig) -> type[Decoder]:
    """The decoder of that name, after a check that it reads every setting that is not the default.

    Raises:
        UsageError: no decoder has the name, or it ignores a setting.
    """
    decoder = lookup(name, DECODERS, "decoder")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in decoder.settings and value != field.default:
            readers = [other for other, one in DECODERS.items() if field.name in one.settings]
            raise UsageError(
                f"model.head.{field.name} is {value!r}, which the decoder {name} does not read: leave it out, or choose "
                f"a decoder that does ({', '.join(readers) or 'none so far'})"
            )
    return decoder


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
"""Classifier by name; called with the decoder's channels, the numbers of classes and domains, and the settings."""
