"""A short training on stripes whose colour tells the class."""

from collections.abc import Iterator
from pathlib import Path

import torch

from spcnet.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from spcnet.engine import records
from spcnet.engine.devices import make_fabric
from spcnet.engine.trainer import Trainer
from spcnet.methods import METHODS, card_for
from spcnet.types import Batch

CLASSES = 4


def settings(output: Path, *, method: str = "spcnet", iterations: int = 8, **training: object) -> RunConfig:
    options = {"iterations": iterations, "log_every": 1, "checkpoint_every": 100, "accelerator": "cpu", **training}
    return RunConfig(
        method=method,
        model=ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None),
        data=DataConfig(images_per_domain=2),
        training=TrainingConfig(**options),  # type: ignore[arg-type]
        output=output,
    )


def batches(start: int, end: int) -> Iterator[Batch]:
    """Two domains of stripes whose colour tells the class; the second domain is darker."""
    colours = torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, -1, 1], [1, 1, -1]])
    for iteration in range(start, end):
        random = torch.Generator().manual_seed(iteration)
        label = torch.randint(0, CLASSES, (4, 4, 1), generator=random).repeat_interleave(12, 1).expand(4, 48, 64)
        domain = torch.tensor([0, 0, 1, 1])
        image = colours[label].permute(0, 3, 1, 2) + 0.1 * torch.randn(4, 3, 48, 64, generator=random)
        yield Batch(image - 0.7 * domain.view(-1, 1, 1, 1), label.contiguous(), domain, ("a", "b", "c", "d"))


def trainer(config: RunConfig) -> Trainer:
    method = METHODS[config.method]
    torch.manual_seed(config.training.seed)
    network = method.build(config.model, num_classes=CLASSES, num_domains=2)
    card = card_for(
        method=config.method,
        model=config.model,
        space="test",
        classes=("w", "x", "y", "z"),
        domains=["one", "two"],
        size=(48, 64),
    )
    config.output.mkdir(parents=True, exist_ok=True)
    return Trainer(config, method, network, card, make_fabric(config.training))


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in records.read_lines(run / records.TRAIN_FILE)]


def pairs() -> Iterator[Iterator[Batch]]:
    """Two trials of two batches: each image with another colour and as it is."""
    for trial in range(2):
        yield (photometric(batch) for batch in batches(100 + 2 * trial, 102 + 2 * trial))


def photometric(batch: Batch) -> Batch:
    altered = batch.image * torch.tensor([1.5, 0.5, 1.0]).view(3, 1, 1) + 0.3
    image = torch.stack([altered, batch.image], dim=1).flatten(0, 1)
    return Batch(image, batch.label.repeat_interleave(2, 0), batch.domain.repeat_interleave(2), batch.name * 2)
