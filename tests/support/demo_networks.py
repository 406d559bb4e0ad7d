"""Small networks with random weights, and networks in folders as training leaves them, for tests of what shows them."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from spcnet import checkpoint
from spcnet.config import ModelConfig
from spcnet.data.transforms import normalise
from spcnet.inference.ood import OODDetector
from spcnet.labels import label_space
from spcnet.methods import METHODS, card_for
from spcnet.models.network import Segmentor
from spcnet.synthesis.streets import generate

SIZE = (64, 128)
SOURCES = ["game", "toy"]


def write_network(
    folder: Path, method: str = "spcnet", *, seed: int = 0, space: str = "cityscapes19", ood: bool = False
) -> Path:
    """The folder of a run with a network whose weights are random.

    Args:
        folder: of the run.
        method: name in `METHODS`.
        seed: of the weights.
        space: label space.
        ood: whether it has a fitted OOD detector.
    """
    torch.manual_seed(seed)
    model = ModelConfig(backbone="mobilenet_v2", weights=None)
    classes = label_space(space).classes
    network = METHODS[method].build(model, num_classes=len(classes), num_domains=2, pretrained=False).eval()
    for layer in network.style_layers:
        layer.base_mean.normal_(0, 0.3)
        layer.base_std.uniform_(0.5, 1.5)
    card = card_for(method=method, model=model, space=space, classes=classes, domains=SOURCES, size=SIZE)
    folder.mkdir(parents=True)
    checkpoint.write(folder / checkpoint.MODEL_FILE, network.state_dict(), card)
    if ood:
        _fit_ood(network, folder)
    return folder


@torch.no_grad()
def _fit_ood(network: Segmentor, folder: Path) -> None:
    # Two streets, each from ten places: to draw twenty takes long where every call is checked.
    streets = [generate(i, style=style, seed=7, size=SIZE).image for i, style in enumerate(SOURCES)]
    scenes = [np.roll(streets[i // 10], 12 * (i % 10), axis=1) for i in range(20)]
    images = normalise(torch.stack([torch.from_numpy(image.copy()).permute(2, 0, 1) for image in scenes]))
    output = network(images)
    OODDetector.fit(network, [(output, torch.arange(20) // 10)], domains=SOURCES).write(folder)


def shortened(network: Segmentor) -> Segmentor:
    """The network without the blocks that repeat the one before them, which only cost time to trace."""
    feature = torch.zeros(1, 3, 64, 64)
    for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
        stage = getattr(network.backbone, name)
        kept = []
        for block in stage:
            with torch.no_grad():
                after = block(feature)
            if after.shape != feature.shape or block is stage[-1] or name == "stem":
                kept.append(block)
            feature = after
        setattr(network.backbone, name, nn.Sequential(*kept))
    return network
