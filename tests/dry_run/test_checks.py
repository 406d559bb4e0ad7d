"""The memory that a step is said to need, before one is made."""

from pathlib import Path
from typing import Any

import pytest

from spcnet.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from spcnet.dry_run.checks import check_machine
from spcnet.engine.devices import make_fabric
from spcnet.methods import METHODS
from spcnet.reports.dry_run import Rehearsal


def counted(tmp_path: Path, *, frozen: bool = False, **training: Any) -> tuple[int, int]:
    """Bytes of a step and of a checkpoint."""
    model = ModelConfig("shufflenet_v2", output_stride=32, weights=None)
    config = RunConfig(
        method="deeplabv3plus",
        model=model,
        data=DataConfig(size=(48, 64)),
        training=TrainingConfig(accelerator="cpu", **training),
        output=tmp_path,
    )
    network = METHODS["deeplabv3plus"].build(model, num_classes=19, num_domains=2)
    if frozen:
        network.backbone.requires_grad_(False)
    report = Rehearsal()
    check_machine(config, network, make_fabric(config.training), report)
    return report.needed, report.checkpoint


@pytest.fixture(scope="module")
def sizes() -> tuple[int, int]:
    """Bytes of the parameters, and of those beside the backbone's."""
    network = METHODS["deeplabv3plus"].build(
        ModelConfig("shufflenet_v2", output_stride=32, weights=None), num_classes=19, num_domains=2
    )
    backbone = sum(p.numel() for p in network.backbone.parameters())
    whole = sum(p.numel() for p in network.parameters())
    return 4 * whole, 4 * (whole - backbone)


def test_each_copy_of_the_weights_is_counted_once(tmp_path: Path, sizes: tuple[int, int]) -> None:
    whole, _ = sizes
    step, stored = counted(tmp_path)
    assert stored == 2 * whole  # with the momentum
    assert step > 3 * whole
    cases: list[tuple[dict[str, Any], int]] = [
        ({"momentum": 0.0}, -1), ({"optimizer": "adamw"}, 1), ({"ema": 0.9}, 1), ({"optimizer": "adamw", "ema": 0.9}, 2),
    ]  # fmt: skip
    for settings, more in cases:
        assert counted(tmp_path, **settings) == (step + more * whole, stored + more * whole), settings


def test_what_is_frozen_has_neither_gradient_nor_memory(tmp_path: Path, sizes: tuple[int, int]) -> None:
    whole, trained = sizes
    sgd, adamw = (counted(tmp_path, frozen=True, optimizer=name, ema=0.9) for name in ("sgd", "adamw"))
    assert sgd[1] == whole + 2 * trained
    assert adamw[1] == whole + 3 * trained
    assert adamw[0] - sgd[0] == trained
