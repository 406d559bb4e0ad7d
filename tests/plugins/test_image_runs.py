"""Runs with plug-ins for images, further losses and rare classes go on exactly where they ended."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spcnet.config import DataConfig, LossConfig, ModelConfig, RunConfig, TrainingConfig
from spcnet.engine.devices import make_fabric
from spcnet.engine.trainer import Trainer
from spcnet.training import Experiment


def settings(output: Path) -> RunConfig:
    loss = LossConfig({"ce": 1.0, "ohem": 0.5, "dice": 1.0, "lovasz": 1.0})
    return RunConfig(
        "deeplabv3plus",
        ModelConfig("shufflenet_v2", output_stride=32, weights=None, loss=loss),
        ["pasta", {"name": "fourier", "mix": "cross-domain"}, "randconv", "advstyle"],
        DataConfig(
            size=(48, 64),
            rare_class=0.5,
            rare_pixels=50,
            images_per_domain=2,
            train_scenes=6,
            test_scenes=2,
            workers=0,
            targets=["streets/night"],
        ),
        TrainingConfig(iterations=4, accelerator="cpu"),
        output=output,
    )


def trained(experiment: Experiment, iterations: int, *, resume: bool = False) -> Trainer:
    trainer = experiment.make_trainer(experiment.build_network(), make_fabric(experiment.config.training))
    if resume:
        trainer.resume()
    for batch in experiment.make_batches(trainer.iteration):
        trainer.step([batch])
        if trainer.iteration == iterations:
            break
    return trainer


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_went_on(tmp_path: Path) -> None:
    experiment = Experiment.open(settings(tmp_path))
    whole = trained(experiment, 4).network.state_dict()
    trained(experiment, 2).save()
    resumed = trained(experiment, 4, resume=True).network.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    plain = Experiment.open(replace(settings(tmp_path / "plain"), plugins=[]))
    other = trained(plain, 4).network.state_dict()
    assert not all(torch.equal(value, other[name]) for name, value in whole.items())
