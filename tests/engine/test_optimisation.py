"""Runs with all that the optimiser has: they go on bit for bit, average their weights, clip their gradient, and say so."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import MixedPrecision
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from spcnet import checkpoint
from spcnet.config import AdapterConfig, RunConfig
from spcnet.engine import records, replay
from spcnet.engine.optim import pack
from spcnet.engine.trainer import Trainer
from spcnet.errors import CheckpointError
from spcnet.evaluation import evaluator
from spcnet.labels import LabelSpace
from spcnet.methods import rebuild
from spcnet.runs import OpenRun
from tests.support.training import batches, losses, settings, trainer

ALL: dict[str, Any] = {
    "optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "weight_decay_end": 1e-5, "backbone_factor": 0.5,
    "layer_decay": 0.8, "schedule": "cosine", "warmup": 2, "backbone_warmup": (1, 2), "clip_gradient": 0.5, "ema": 0.7,
    "ema_start": 2, "checkpoint_every": 1,
}  # fmt: skip


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "died"), [("32-true", 2), ("32-true", 4), ("64-true", 4)])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(precision: str, died: int, tmp_path: Path) -> None:
    """Before the average has begun, and after."""
    whole, parted = (settings(tmp_path / n, iterations=6, precision=precision, **ALL) for n in ("whole", "parted"))
    first = trainer(whole)
    first.fit(batches(0, 6))
    trainer(parted).fit(batches(0, died))
    second = trainer(parted)
    second.resume()
    assert second.iteration == died
    second.fit(batches(died, 6))
    assert losses(parted.output) == losses(whole.output)
    one, two = (checkpoint.read_all(c.output / checkpoint.LATEST_FILE).tensors for c in (whole, parted))
    assert {"exp_avg", "exp_avg_sq", "step"} <= {name.rpartition(".")[2] for name in one}
    assert any(name.startswith(checkpoint.AVERAGE) for name in one)
    assert_equal(one, two)
    assert_equal(checkpoint.read(first.finish()).tensors, checkpoint.read(second.finish()).tensors)


def test_the_average_is_pytorchs_and_has_the_buffers_of_what_is_trained(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, iterations=6, optimizer="adamw", learning_rate=1e-3, ema=0.7, ema_start=2))
    assert run.average is not None
    reference: AveragedModel | None = None
    for iteration, batch in enumerate(batches(0, 6), start=1):
        run.step([batch])
        assert (run.evaluated is run.network) == (run.ema == 0) == (iteration <= 2)
        if iteration == 3:
            reference = AveragedModel(run.network, avg_fn=get_ema_avg_fn(0.7))  # type: ignore[no-untyped-call]
        if reference is not None:
            reference.update_parameters(run.network)
    assert reference is not None
    weights = dict(run.network.named_parameters())
    for (name, found), expected in zip(run.evaluated.named_parameters(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        assert not torch.equal(found, weights[name]), name
    assert_equal(dict(run.evaluated.named_buffers()), dict(run.network.named_buffers()))


def test_what_is_evaluated_saved_and_opened_is_the_average(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, ema=0.5, ema_start=1, learning_rate=0.05)
    run = trainer(config)
    run.fit(batches(0, 4))
    average = run.evaluated.state_dict()
    finished, latest = checkpoint.read(run.finish()), checkpoint.read(tmp_path / checkpoint.LATEST_FILE)
    assert (finished.ema, latest.ema, finished.iteration) == (0.5, 0.5, 4)
    assert_equal(finished.tensors, average)
    assert_equal(latest.tensors, average)
    whole = checkpoint.read_all(tmp_path / checkpoint.LATEST_FILE).tensors
    assert_equal(checkpoint.trained(whole), run.network.state_dict())
    opened = OpenRun(tmp_path / checkpoint.LATEST_FILE)
    assert opened.ema == 0.5
    assert_equal(opened.network.state_dict(), average)
    assert_equal(rebuild(finished, "it").state_dict(), average)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "frozen"])
def test_with_an_adapter_only_what_is_trained_has_memory_and_average(kind: str, tmp_path: Path) -> None:
    """A frozen backbone has no rate of its own; that of LoRA's updates has the backbone's factor."""
    adapter = AdapterConfig("lora", rank=4, targets=["layer2.*"]) if kind == "lora" else AdapterConfig("frozen")
    chosen = {name: ALL[name] for name in ALL if kind == "lora" or not name.startswith(("backbone", "layer_decay"))}

    def config(name: str) -> RunConfig:
        made = settings(tmp_path / name, method="deeplabv3plus", iterations=5, **chosen)
        return replace(made, model=replace(made.model, adapter=adapter))

    whole = trainer(config("whole"))
    whole.fit(batches(0, 5))
    trainer(config("parted")).fit(batches(0, 4))
    second = trainer(config("parted"))
    second.resume()
    second.fit(batches(4, 5))
    one, two = (checkpoint.read_all(tmp_path / n / checkpoint.LATEST_FILE).tensors for n in ("whole", "parted"))
    assert_equal(one, two)
    trained = {name for name, p in whole.network.named_parameters() if p.requires_grad}
    assert set(checkpoint.averaged(one)) == trained
    assert len({name.split(".")[1] for name in one if name.startswith(checkpoint.OPTIMIZER)}) == len(trained)
    assert any("lora" in name for name in trained) == (kind == "lora")
    updates = {p for name, p in whole.network.named_parameters() if "lora" in name}
    rates = {group["lr"] for group in whole.optimizer.param_groups if updates.intersection(group["params"])}
    assert all(rate < max(group["lr"] for group in whole.optimizer.param_groups) for rate in rates)


def test_before_the_average_begins_the_checkpoint_is_of_what_is_trained(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, iterations=4, ema=0.5, ema_start=3))
    run.fit(batches(0, 2))
    run.save()
    stored = checkpoint.read_all(tmp_path / checkpoint.LATEST_FILE)
    assert stored.ema == 0
    assert not checkpoint.averaged(stored.tensors)


def test_a_record_names_the_average_and_only_that(tmp_path: Path) -> None:
    space = LabelSpace("two", ("a", "b"), ((0, 0, 0), (1, 1, 1)), {})
    for ema in (0.0, 0.999):
        told = evaluator.record({}, {}, space=space, origin=evaluator.Origin("r", "m", 0, 5, None, ema))
        assert told.get("ema") == (ema or None)


def test_an_average_that_is_missing_is_told(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, ema=0.5, checkpoint_every=1)
    trainer(config).fit(batches(0, 2))
    path = tmp_path / checkpoint.LATEST_FILE
    stored = checkpoint.read_all(path)
    left = {name: value for name, value in stored.tensors.items() if not name.startswith("ema.classifier")}
    checkpoint.write(path, left, stored.card, stored.state)
    with pytest.raises(CheckpointError, match=r"of iteration 2 lacks \d+ averaged weights \(ema.classifier"):
        trainer(config).resume()


@pytest.mark.parametrize(("option", "value"), [("optimizer", "adamw"), ("ema", 0.5), ("backbone_warmup", (1, 1))])
def test_a_checkpoint_of_an_earlier_version_had_the_defaults(option: str, value: object, tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, checkpoint_every=1)
    trainer(config).fit(batches(0, 2))
    path = tmp_path / checkpoint.LATEST_FILE
    stored = checkpoint.read_all(path)
    early = ("iterations", "learning_rate", "poly_power", "seed")
    schedule = {name: stored.state["schedule"][name] for name in early}
    checkpoint.write(path, stored.tensors, stored.card, {**stored.state, "schedule": schedule})
    same = trainer(config)
    same.resume()
    assert same.iteration == 2
    with pytest.raises(CheckpointError, match=rf"was trained with another training.{option} \("):
        trainer(replace(config, training=replace(config.training, **{option: value}))).resume()  # type: ignore[arg-type]


def test_weight_decay_betas_and_clipping_may_change_on_resume(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, **ALL)
    trainer(config).fit(batches(0, 1))
    changed = replace(config.training, weight_decay=0.1, betas=(0.8, 0.99), clip_gradient=0.0, decay_all=True)
    going_on = trainer(replace(config, training=changed))
    going_on.resume()
    going_on.fit(batches(1, 3))
    assert {group["betas"] for group in going_on.optimizer.param_groups} == {(0.8, 0.99)}


def gradients_of(run: Trainer, parts: int) -> list[dict[str, Tensor]]:
    """The gradient of each of three steps, as the optimiser gets it."""
    found: list[dict[str, Tensor]] = []
    names = {parameter: name for name, parameter in run.network.named_parameters()}

    def note(optimizer: torch.optim.Optimizer, *rest: object) -> None:
        every = (p for group in optimizer.param_groups for p in group["params"])
        found.append({names[p]: p.grad.clone() for p in every if p.grad is not None})

    run.optimizer.register_step_pre_hook(note)
    for batch in batches(0, 3):
        run.step([type(batch)(*(part[n::parts] for part in batch)) for n in range(parts)])
    return found


def length(gradients: Mapping[str, Tensor]) -> float:
    return float(torch.cat([value.flatten().double() for value in gradients.values()]).norm())


@pytest.mark.parametrize("parts", [1, 2])
def test_a_gradient_is_shortened_to_the_norm_and_no_further(parts: int, tmp_path: Path) -> None:
    """The first step has the same weights with and without; parts of a batch are clipped together."""
    double: dict[str, Any] = {"method": "deeplabv3plus", "iterations": 3, "precision": "64-true", "accumulate": parts}
    plain, clipped, loose = (
        gradients_of(trainer(settings(tmp_path / str(clip), clip_gradient=clip, **double)), parts)
        for clip in (0.0, 0.1, 1e6)
    )
    whole = length(plain[0])
    assert whole > 0.2
    assert [length(one) for one in clipped] == pytest.approx([0.1] * 3, rel=1e-4)
    for name, value in plain[0].items():
        torch.testing.assert_close(clipped[0][name], value * 0.1 / whole, rtol=1e-5, atol=1e-12)
    for one, other in zip(plain, loose, strict=True):
        assert_equal(one, other)


@pytest.mark.slow
def test_in_mixed_precision_the_gradient_is_clipped_without_the_losss_scale(tmp_path: Path) -> None:
    """With the scaler of 16-mixed, which a GPU has; a step that overflows is left out, and the scale falls."""
    run = trainer(settings(tmp_path, method="deeplabv3plus", iterations=4, clip_gradient=0.1, learning_rate=0.001))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    run.fabric.strategy.precision = MixedPrecision("16-mixed", "cpu", scaler)
    found = gradients_of(run, 1)
    assert [length(one) for one in found] == pytest.approx([0.1] * len(found), rel=1e-3)
    assert len(found) == 3
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    scaler.update(2.0**127)
    run.step([next(batches(3, 4))])
    assert_equal(before, dict(run.network.named_parameters()))
    assert scaler.get_scale() == 2.0**126


def test_the_log_has_the_rates_of_head_and_backbone(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, iterations=6, **ALL))
    run.fit(batches(0, 3))
    lines = records.read_lines(tmp_path / records.TRAIN_FILE)
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-9, 5e-4, 1e-3], rel=1e-3)
    assert [line["backbone_learning_rate"] for line in lines] == pytest.approx([0, 5e-10, 2.5e-4], rel=1e-3)
    assert lines[0]["weight_decay"] == 0.05 > lines[1]["weight_decay"] > lines[2]["weight_decay"] > 0


def test_a_kept_step_of_adamw_has_its_memory(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, **ALL)
    run = trainer(config)
    run.fit(batches(0, 3))
    (batch,) = batches(3, 4)
    step = replay.Kept(run.network.state_dict(), pack(run.optimizer), run.card, config, [batch], 3, 0, {}, 1.0, {})
    replay.keep(tmp_path / "nan", step)
    kept = replay.read(tmp_path / "nan")
    assert kept.config == config
    assert_equal(kept.optimizer, step.optimizer)
    assert_equal(kept.tensors, run.network.state_dict())
