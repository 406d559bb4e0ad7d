"""The trainer of a network without data and folder, for programs that time its steps."""

from pathlib import Path

import torch

from spcnet.config import ModelConfig, RunConfig, TrainingConfig
from spcnet.engine.devices import make_fabric
from spcnet.engine.trainer import Trainer
from spcnet.methods import METHODS, card_for


def make_trainer(
    method: str,
    backbone: str,
    *,
    classes: int,
    domains: int,
    device: str = "cpu",
    precision: str = "32-true",
    devices: int = 1,
) -> Trainer:
    """What trains a network with random weights, the same at each call; nothing is written."""
    model = ModelConfig(backbone, weights=None)
    training = TrainingConfig(
        accelerator=device,
        devices=devices,
        precision=precision,  # type: ignore[arg-type]
        deterministic=False,
    )
    config = RunConfig(method, model, training=training, output=Path("nowhere"))
    torch.manual_seed(0)
    network = METHODS[method].build(model, num_classes=classes, num_domains=domains)
    card = card_for(
        method=method,
        model=model,
        space="none",
        classes=tuple(str(number) for number in range(classes)),
        domains=[str(number) for number in range(domains)],
        size=None,
    )
    trainer = Trainer(config, METHODS[method], network, card, make_fabric(training))
    trainer.keeps_failed_steps = False
    return trainer
