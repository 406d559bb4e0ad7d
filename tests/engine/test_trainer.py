"""The loop: it learns, it repeats, it goes on where it stopped, and it loses nothing."""

import json
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric

from spcnet import checkpoint
from spcnet.config import LossConfig, RunConfig, TrainingConfig, WhiteningConfig
from spcnet.engine import records
from spcnet.engine.optim import make_optimizer, pack, unpack
from spcnet.engine.schedule import learning_rate
from spcnet.errors import CheckpointError, DataError, Interrupted
from spcnet.methods import METHODS
from spcnet.types import Batch, Network
from tests.support.training import batches, losses, pairs, settings, trainer

CURVE = Path(__file__).with_name("golden_curve.json")


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=30)
    config = replace(config, model=replace(config.model, backbone="resnet18"))
    trainer(config).fit(batches(0, 30))
    found = records.read_lines(tmp_path / records.TRAIN_FILE)
    assert len(found) == 30
    for part in ("ce", "var", "dis"):
        values = [record["parts"][part] for record in found]
        assert sum(values[-3:]) < 0.8 * sum(values[:3]), part


def test_the_same_seed_repeats_bit_for_bit_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer(settings(tmp_path / name, iterations=3, seed=seed)).fit(batches(0, 3))
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_loss_curve_is_the_stored_one(method: str, tmp_path: Path) -> None:
    """A change that should not change numbers does not. To store new curves: SPCNET_STORE_CURVES=1 pytest this file.

    Bit-identical as far as machines are: another processor rounds otherwise, and each step makes some hundred times of it.
    """
    config = settings(tmp_path, method=method, iterations=4, precision="64-true")
    trainer(config).fit(batches(0, 4), trials=pairs)
    found = losses(tmp_path)
    if os.environ.get("SPCNET_STORE_CURVES"):
        stored = json.loads(CURVE.read_text()) if CURVE.exists() else {}
        CURVE.write_text(json.dumps({**stored, method: found}, indent=1, sort_keys=True) + "\n")
    for value, stored, off in zip(found, json.loads(CURVE.read_text())[method], (1e-12, 1e-9, 1e-6, 1e-4), strict=True):
        assert value == pytest.approx(stored, rel=off)


@pytest.mark.parametrize(
    ("method", "precision"), [("deeplabv3plus", "32-true"), ("spcnet", "32-true"), ("deeplabv3plus", "64-true")]
)
def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(method: str, precision: str, tmp_path: Path) -> None:
    def with_auxiliary(output: Path) -> RunConfig:
        # The auxiliary head has dropout: its masks must be the same after a resume, too.
        config = settings(output, method=method, iterations=6, checkpoint_every=3, precision=precision)
        return replace(config, model=replace(config.model, auxiliary_weight=0.4))

    whole, parted = with_auxiliary(tmp_path / "whole"), with_auxiliary(tmp_path / "parted")
    trainer(whole).fit(batches(0, 6))
    trainer(parted).fit(batches(0, 4))  # dies after 4; the last checkpoint is of 3
    assert len(losses(parted.output)) == 4
    second = trainer(parted)
    second.resume()
    assert second.iteration == 3
    second.fit(batches(3, 6))
    assert losses(parted.output) == losses(whole.output)
    one, two = (checkpoint.read_all(c.output / checkpoint.LATEST_FILE)[0] for c in (whole, parted))
    assert one.keys() == two.keys()
    assert any(name.startswith(checkpoint.OPTIMIZER) for name in one)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
def test_what_a_checkpoint_gives_back_is_on_the_device_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`meta` stands for a GPU; Fabric moves the network there, but not what the optimiser remembers."""
    config = settings(tmp_path, iterations=2, checkpoint_every=1)
    trainer(config).fit(batches(0, 1))
    monkeypatch.setattr(Fabric, "device", torch.device("meta"))
    going_on = trainer(config)
    going_on.resume()
    held = [value for memory in going_on.optimizer.state.values() for value in memory.values()]
    assert held
    assert {value.device.type for value in [*held, *going_on.network.state_dict().values()]} == {"meta"}


def test_a_batch_norm_counts_each_part_once(tmp_path: Path) -> None:
    """Although each is looked at twice."""
    run = trainer(settings(tmp_path, method="deeplabv3plus", iterations=1, accumulate=2))
    run.fit(batches(0, 2))
    counted = {int(v) for name, v in run.network.named_buffers() if name.endswith("num_batches_tracked")}
    assert counted == {2}


def test_an_optimiser_of_another_network_is_refused() -> None:
    def optimizer(size: int) -> torch.optim.Optimizer:
        network = Network()
        network.weight = torch.nn.Parameter(torch.ones(size))
        return make_optimizer([{"params": [network.weight]}], network, TrainingConfig())

    one, other = optimizer(2), optimizer(3)
    one.param_groups[0]["params"][0].sum().backward()
    one.step()
    with pytest.raises(CheckpointError, match="belongs to another network"):
        unpack(other, pack(one))


def test_no_two_parts_or_processes_have_the_same_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(settings(tmp_path))
    monkeypatch.setattr(Fabric, "world_size", 2)
    seeds = set()
    for rank in range(2):
        monkeypatch.setattr(Fabric, "global_rank", rank)
        for run.iteration in range(3):
            seeds |= {run._seed_of(part) for part in range(2)}
    assert len(seeds) == 2 * 3 * 2


def test_a_resumed_run_keeps_the_images_of_a_batch_however_they_are_divided(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, checkpoint_every=2)
    trainer(config).fit(batches(0, 2))
    with pytest.raises(CheckpointError, match=r"had 2 images of a stream in a batch, this has 4 .* keep the product"):
        trainer(replace(config, data=replace(config.data, images_per_domain=4))).resume()
    halves = replace(config, data=replace(config.data, images_per_domain=1))
    same = trainer(replace(halves, training=replace(config.training, accumulate=2)))
    same.resume()
    assert same.iteration == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [("sampling", "proportional"), ("class_uniform", 0.5), ("rare_class", 0.5), ("train_scenes", 7)],
)
def test_a_resumed_run_draws_its_images_in_the_same_order(option: str, value: object, tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4)
    trainer(config).save()
    with pytest.raises(
        CheckpointError, match=rf"images with data\.{option} .*, this has {value}: images would be seen"
    ):
        trainer(replace(config, data=replace(config.data, **{option: value}))).resume()  # type: ignore[arg-type]


def test_a_run_may_go_on_in_a_precision_that_scales_its_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 16-mixed does on a GPU; the checkpoint of another precision has nothing for the scaler."""
    config = settings(tmp_path, iterations=4)
    trainer(config).save()
    going_on = trainer(config)
    scaler = torch.amp.GradScaler("cpu")
    for name in ("state_dict", "load_state_dict"):
        monkeypatch.setattr(going_on.fabric.strategy.precision, name, getattr(scaler, name))
    going_on.resume()
    scaler.load_state_dict({**scaler.state_dict(), "scale": 8.0})
    going_on.save()
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0})
    going_on.resume()
    assert scaler.state_dict()["scale"] == 8


def selective(output: Path) -> RunConfig:
    config = settings(output, method="isw", iterations=6, checkpoint_every=1)
    return replace(config, model=replace(config.model, whitening=WhiteningConfig(start=0.5, clusters=2)))


def whitening_losses(run: Path) -> list[float]:
    return [record["parts"]["whitening"] for record in records.read_lines(run / records.TRAIN_FILE)]


def test_selective_whitening_warms_up_selects_and_then_whitens(tmp_path: Path) -> None:
    run = trainer(selective(tmp_path))
    run.fit(batches(0, 6), trials=pairs)
    found = whitening_losses(tmp_path)
    assert found[:3] == [0, 0, 0]
    assert all(value > 0 for value in found[3:])
    for layer in run.network.whitening_layers:
        channels = len(layer.mask)
        assert int(layer.trials) == 2
        assert 0 < int(layer.mask.sum()) < channels * (channels - 1) // 2
        assert not bool(layer.mask.tril().any())


@pytest.mark.parametrize("died", [2, 3, 4])
def test_selective_whitening_resumes_in_every_phase(died: int, tmp_path: Path) -> None:
    whole, parted = selective(tmp_path / "whole"), selective(tmp_path / "parted")
    trainer(whole).fit(batches(0, 6), trials=pairs)
    trainer(parted).fit(batches(0, died), trials=pairs)
    second = trainer(parted)
    second.resume()
    second.fit(batches(died, 6), trials=pairs)
    assert losses(parted.output) == losses(whole.output)


def test_a_signal_during_the_statistics_begins_them_again(tmp_path: Path) -> None:
    whole, parted = selective(tmp_path / "whole"), selective(tmp_path / "parted")
    trainer(whole).fit(batches(0, 6), trials=pairs)

    def interrupted() -> Iterator[Iterator[Batch]]:
        trials = pairs()
        yield next(trials)  # a whole trial, which already selects
        os.kill(os.getpid(), signal.SIGINT)
        yield from trials

    with pytest.raises(Interrupted, match="after iteration 3"):
        trainer(parted).fit(batches(0, 6), trials=interrupted)
    second = trainer(parted)
    second.resume()
    second.fit(batches(3, 6), trials=pairs)
    assert losses(parted.output) == losses(whole.output)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(sent: signal.Signals, tmp_path: Path) -> None:
    run = trainer(settings(tmp_path))
    before = signal.getsignal(sent)

    def interrupt(iteration: int, _: dict[str, float]) -> None:
        if iteration == 2:
            os.kill(os.getpid(), sent)

    with pytest.raises(Interrupted, match=r"after iteration 2.*train --config .*config.yaml --resume") as stop:
        run.fit(batches(0, 8), on_progress=interrupt)
    assert stop.value.exit_code == 130
    assert checkpoint.read(tmp_path / checkpoint.LATEST_FILE)[2]["iteration"] == 2
    assert signal.getsignal(sent) is before


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, checkpoint_every=2))

    def broken() -> Iterator[Batch]:
        for batch in batches(0, 8):
            yield batch if run.iteration < 3 else batch._replace(image=batch.image * math.nan)

    with pytest.raises(DataError, match=r"the loss is nan after iteration 4.*learning_rate"):
        run.fit(broken())
    tensors, _, state = checkpoint.read(tmp_path / checkpoint.LATEST_FILE)
    assert state["iteration"] == 2
    assert all(torch.isfinite(t).all() for t in tensors.values())


def test_a_run_resumes_only_as_itself(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, checkpoint_every=2)
    trainer(config).fit(batches(0, 2))
    with pytest.raises(CheckpointError, match=r"is of spcnet.*this run is deeplabv3plus"):
        trainer(replace(config, method="deeplabv3plus")).resume()
    with pytest.raises(CheckpointError, match=r"another training.learning_rate \(0.01\)"):
        trainer(replace(config, training=replace(config.training, learning_rate=0.1))).resume()
    with pytest.raises(CheckpointError, match=r"another training.seed \(0\)"):
        trainer(replace(config, training=replace(config.training, seed=1))).resume()
    other = trainer(replace(config, output=tmp_path / "other"))
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint"):
        other.resume()


def test_half_a_log_line_of_a_killed_run_is_dropped_on_resume(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, checkpoint_every=2)
    trainer(config).fit(batches(0, 2))
    with (tmp_path / records.TRAIN_FILE).open("a") as log:
        log.write('{"iteration": 3, "lo')
    second = trainer(config)
    second.resume()
    second.fit(batches(2, 4))
    assert [r["iteration"] for r in records.read_lines(tmp_path / records.TRAIN_FILE)] == [1, 2, 3, 4]


def test_evaluations_come_at_their_iterations_and_not_after_the_last(tmp_path: Path) -> None:
    asked: list[int] = []
    trainer(settings(tmp_path, iterations=6, evaluate_every=2)).fit(batches(0, 6), on_evaluate=asked.append)
    assert asked == [2, 4]


def test_the_trained_network_is_written_without_the_optimiser(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, iterations=1))
    run.fit(batches(0, 1))
    tensors, card, state = checkpoint.read_all(run.finish())
    assert set(tensors) == set(run.network.state_dict())
    assert (card.method, card.domains, state["iteration"]) == ("spcnet", ("one", "two"), 1)


def test_the_rate_falls_as_a_power_of_what_is_left() -> None:
    config = TrainingConfig(iterations=100, learning_rate=0.5, poly_power=0.9)
    assert learning_rate(0, config) == 0.5
    assert learning_rate(50, config) == pytest.approx(0.5 * 0.5**0.9)
    assert learning_rate(99, config) == pytest.approx(0.5 * 0.01**0.9)


def test_the_schedule_starts_anew_where_it_is_told_to() -> None:
    config = TrainingConfig(iterations=100, learning_rate=0.5, restart=0.6, restart_factor=0.8, restart_power=1.5)
    assert learning_rate(59, config) == pytest.approx(0.5 * 0.41**0.9)
    assert learning_rate(60, config) == pytest.approx(0.5 * 0.8)
    assert learning_rate(80, config) == pytest.approx(0.5 * 0.8 * 0.5**1.5)
    assert 0 < learning_rate(99, config) < 0.01


def test_borders_are_relaxed_as_long_as_the_run_says(tmp_path: Path) -> None:
    def first_and_last(name: str, loss: LossConfig) -> tuple[float, float]:
        config = settings(tmp_path / name, method="deeplabv3plus", iterations=2, learning_rate=1e-12)
        config = replace(config, model=replace(config.model, loss=loss))
        trainer(config).fit(batches(0, 2))
        first, last = losses(config.output)
        return first, last

    plain = first_and_last("plain", LossConfig())
    relaxed = first_and_last("relaxed", LossConfig(border=1))
    half = first_and_last("half", LossConfig(border=1, border_until=0.5))
    assert half == pytest.approx((relaxed[0], plain[1]), rel=1e-6)
    assert abs(relaxed[1] - plain[1]) > 1e-3


@pytest.mark.parametrize("option", ["restart", "restart_factor", "restart_power", "poly_power"])
def test_a_resumed_run_keeps_its_schedule(tmp_path: Path, option: str) -> None:
    run = trainer(settings(tmp_path, iterations=2))
    run.save()
    with pytest.raises(CheckpointError, match=rf"trained with another training\.{option}"):
        trainer(settings(tmp_path, iterations=2, **{option: 0.5})).resume()


def test_the_surroundings_name_versions_and_commit() -> None:
    found = records.surroundings()
    assert {"spcnet", "torch", "python", "git_commit", "started", "processor"} <= found.keys()
    assert found["torch"] == torch.__version__
