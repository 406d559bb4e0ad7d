"""The trainer of a network without data and folder, for programs that time its steps."""

from collections.abc import Sequence
from pathlib import Path

import torch

from spcnet.config import ModelConfig, RunConfig, TrainingConfig
from spcnet.engine.devices import make_fabric
from spcnet.engine.trainer import Trainer
from spcnet.methods import METHODS, card_for
from spcnet.plugins import make_plugins, with_plugins


def make_trainer(
    method: str,
    backbone: str,
    *,
    classes: int,
    domains: int,
    device: str = "cpu",
    precision: str = "32-true",
    devices: int = 1,
    plugins: Sequence[str] = (),
) -> Trainer:
    """What trains a network with random weights, the same at each call; nothing is written."""
    model = ModelConfig(backbone, weights=None)
    training = TrainingConfig(
        accelerator=device,
        devices=devices,
        precision=precision,  # type: ignore[arg-type]
        deterministic=False,
    )
    config = RunConfig(method, model, list(plugins), training=training, output=Path("nowhere"))
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
    with_them = with_plugins(METHODS[method], make_plugins(config), network, config)
    trainer = Trainer(config, with_them, network, card, make_fabric(training))
    trainer.keeps_failed_steps = False
    return trainer
