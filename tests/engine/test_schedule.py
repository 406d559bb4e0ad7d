"""Learning rate and weight decay against PyTorch's schedulers, and which settings make no sense together."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from spcnet.config import TrainingConfig
from spcnet.engine.schedule import learning_rate, told, weight_decay
from spcnet.errors import UsageError

STEPS, WARMUP = 60, 12


def stepped(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], *, rate: float) -> list[float]:
    """The learning rates that a scheduler of PyTorch gives the steps."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler, found = make(optimizer), []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_the_learning_rate_is_that_of_pytorchs_schedulers(schedule: str, warmup: int) -> None:
    config = TrainingConfig(
        iterations=STEPS, learning_rate=0.3, schedule=schedule, warmup=warmup,
        **({"warmup_factor": 0.01} if warmup else {}), **({"poly_power": 0.7} if schedule == "poly" else {}),
    )  # type: ignore[arg-type] # fmt: skip

    def make(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        left = STEPS - warmup
        main: lr_scheduler.LRScheduler = (
            lr_scheduler.PolynomialLR(optimizer, left, power=0.7)
            if schedule == "poly"
            else lr_scheduler.CosineAnnealingLR(optimizer, left)
        )
        if not warmup:
            return main
        growing = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
        return lr_scheduler.SequentialLR(optimizer, [growing, main], milestones=[warmup])

    found = [learning_rate(step, config) for step in range(STEPS)]
    assert found == pytest.approx(stepped(make, rate=0.3), rel=1e-9)
    assert found[warmup] == 0.3
    assert [learning_rate(step, config, backbone=True) for step in range(STEPS)] == found


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_a_share_of_the_learning_rate_is_left(schedule: str) -> None:
    """Mmengine's `eta_min` for poly, PyTorch's for cosine."""
    config = TrainingConfig(iterations=STEPS, learning_rate=0.3, schedule=schedule, min_rate=0.1)  # type: ignore[arg-type]
    found = [learning_rate(step, config) for step in range(STEPS)]
    if schedule == "poly":
        assert found == pytest.approx([0.03 + (0.3 - 0.03) * (1 - step / STEPS) ** 0.9 for step in range(STEPS)])
    else:
        expected = stepped(lambda made: lr_scheduler.CosineAnnealingLR(made, STEPS, eta_min=0.03), rate=0.3)
        assert found == pytest.approx(expected, rel=1e-9)
    assert 0.03 < found[-1] < 0.05


def test_the_backbone_stands_still_and_then_warms_up_by_itself() -> None:
    """Two-stage warm-up of EoMT: 500 and 1,000 iterations there, the rest of each a poly of its own length."""
    config = TrainingConfig(
        iterations=STEPS, learning_rate=0.2, warmup=5, backbone_warmup=(5, 10), warmup_factor=0.0, poly_power=0.9
    )
    for step in range(STEPS):
        head = 0.2 * step / 5 if step < 5 else 0.2 * (1 - (step - 5) / (STEPS - 5)) ** 0.9
        backbone = 0.0 if step < 5 else 0.2 * (step - 5) / 10
        if step >= 15:
            backbone = 0.2 * (1 - (step - 15) / (STEPS - 15)) ** 0.9
        assert learning_rate(step, config) == pytest.approx(head)
        assert learning_rate(step, config, backbone=True) == pytest.approx(backbone)


def test_a_backbone_may_only_stand_still_at_first() -> None:
    config = TrainingConfig(iterations=STEPS, backbone_warmup=(20, 0))
    assert [learning_rate(step, config, backbone=True) for step in (0, 19)] == [0, 0]
    assert learning_rate(20, config, backbone=True) == config.learning_rate == learning_rate(0, config)


def test_the_weight_decay_goes_along_half_a_cosine() -> None:
    config = TrainingConfig(iterations=STEPS, weight_decay=0.05, weight_decay_end=1e-5)
    expected = stepped(lambda made: lr_scheduler.CosineAnnealingLR(made, STEPS, eta_min=1e-5), rate=0.05)
    assert [weight_decay(step, config) for step in range(STEPS)] == pytest.approx(expected, rel=1e-9)
    assert weight_decay(STEPS // 2, TrainingConfig(iterations=STEPS)) == 5e-4


def test_the_log_is_told_what_is_not_the_same_everywhere() -> None:
    assert told(3, TrainingConfig(iterations=STEPS)) == {"learning_rate": 0.01 * (1 - 3 / STEPS) ** 0.9}
    config = TrainingConfig(iterations=STEPS, backbone_factor=0.1, weight_decay=0.1, weight_decay_end=0)
    assert told(0, config) == {"learning_rate": 0.01, "backbone_learning_rate": 0.001, "weight_decay": 0.1}
    frozen = told(0, TrainingConfig(iterations=STEPS, backbone_warmup=(1, 0)))
    assert frozen == {"learning_rate": 0.01, "backbone_learning_rate": 0.0}
    assert all(math.isfinite(value) for step in range(STEPS) for value in told(step, config).values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"optimizer": "adamw", "momentum": 0.5},
            r"momentum is 0.5: it goes with training.optimizer sgd; leave it out",
        ),
        ({"betas": (0.9, 0.99)}, r"betas is \(0.9, 0.99\): it goes with training.optimizer adamw"),
        ({"schedule": "cosine", "poly_power": 1.0}, r"poly_power is 1.0: it goes with training.schedule poly"),
        ({"schedule": "cosine", "restart": 0.5}, r"restart is 0.5: it goes with training.schedule poly"),
        ({"warmup_factor": 0.1}, r"warmup_factor is 0.1: it goes with a training.warmup"),
        ({"backbone_warmup": (5, 0), "warmup_factor": 0.1}, r"warmup_factor is 0.1: it goes with a training.warmup"),
        ({"ema_start": 7}, r"ema_start is 7: it goes with a training.ema"),
        ({"iterations": 10, "warmup": 10}, r"warmup lasts for 10 iterations, and the run has 10: it must end before"),
        ({"iterations": 10, "backbone_warmup": (4, 6)}, r"backbone_warmup lasts for 10 iterations"),
        ({"iterations": 10, "warmup": 5, "restart": 0.5}, r"warmup lasts for 5 iterations, and the schedule restarts"),
        ({"iterations": 10, "ema": 0.9, "ema_start": 10}, r"ema_start lasts for 10 iterations"),
        ({"ema": 1.0}, r"ema is 1.0: a share must be 0 or more and below 1"),
        ({"layer_decay": 1.5}, r"layer_decay is 1.5: it must be above 0 and at most 1"),
        ({"backbone_warmup": (-1, 5)}, r"backbone_warmup is \(-1, 5\): both numbers must be 0 or more"),
    ],
)
def test_settings_without_an_effect_or_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=rf"training\.{said}"):
        TrainingConfig(**settings)  # type: ignore[arg-type]
