"""Files of pretrained backbones, as other programs leave them."""

import torchvision
from torch import Tensor

from spcnet.models.backbones import Backbone, backbone_info
from spcnet.models.backbones.torchvision import resnet101_deep_stem


def classifier_state(name: str) -> dict[str, Tensor]:
    """The tensors of a classifier with random weights by torchvision's names, its last layer among them."""
    made = {"resnet101": resnet101_deep_stem}.get(name) or getattr(torchvision.models, backbone_info(name).weights)
    state: dict[str, Tensor] = made().state_dict()
    return state


def published(backbone: Backbone) -> dict[str, Tensor]:
    """A backbone's tensors by the names of pretrained files."""
    state = backbone.state_dict()
    return {name: state[key] for key, name in backbone.published.items()}
