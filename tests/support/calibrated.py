"""Runs whose networks have random weights, for tests of confidence."""

from pathlib import Path

import torch
import yaml

from spcnet import checkpoint
from spcnet.config import DataConfig, ModelConfig, RunConfig, as_dict
from spcnet.engine import records
from spcnet.labels import label_space
from spcnet.methods import METHODS, card_for

SIZE = (48, 64)


def write_network(folder: Path, *, method: str = "spcnet") -> Path:
    """The folder of a run whose network has random weights."""
    torch.manual_seed(0)
    model = ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None)
    sources = ["streets/game", "streets/toy"]
    data = DataConfig(sources=sources, targets=["streets/night"], size=SIZE, train_scenes=4, test_scenes=4)
    folder.mkdir(parents=True)
    config = RunConfig(method=method, model=model, data=data, output=folder)
    (folder / records.CONFIG_FILE).write_text(yaml.safe_dump(as_dict(config)))
    classes = label_space(data.space).classes
    network = METHODS[method].build(model, num_classes=len(classes), num_domains=2, pretrained=False)
    card = card_for(method=method, model=model, space=data.space, classes=classes, domains=sources, size=SIZE)
    checkpoint.write(folder / checkpoint.MODEL_FILE, network.state_dict(), card)
    return folder
