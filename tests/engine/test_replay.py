"""A loss that is not finite: noticed in its own step, kept, and found again."""

import io
import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from spcnet import checkpoint
from spcnet.cli import main
from spcnet.config import Precision, RunConfig, TrainingConfig
from spcnet.engine import records
from spcnet.engine import replay as steps
from spcnet.engine.optim import pack
from spcnet.errors import CheckpointError, DataError
from spcnet.studies.replay import Replayed, replay
from spcnet.types import Batch
from tests.support.training import batches, settings, trainer


def failed(config: RunConfig, given: Iterator[Batch], *, weight: str | None = None) -> str:
    """Train until the loss is not finite; returns the message."""
    run = trainer(config)
    if weight is not None:
        with torch.no_grad():
            run.network.get_parameter(weight).view(-1)[0] = math.nan
    with pytest.raises(DataError) as caught:
        run.fit(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def looked_at(folder: Path) -> tuple[Replayed, str]:
    """What a replay finds, and what it shows."""
    console = Console(record=True, width=300, file=io.StringIO())
    return replay(folder, console=console), console.export_text()


def test_a_rate_that_is_far_too_large_is_caught_in_its_step_and_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path, learning_rate=1e30, log_every=100)
    said = failed(config, batches(0, 8))
    assert f"start again with a lower training.learning_rate; `spcnet debug replay {tmp_path}/nan`" in said
    kept = steps.read(tmp_path / "nan")
    assert not math.isfinite(kept.loss)
    assert kept.iteration < 3, "noticed in its own step, not at the next line of the log"
    assert steps.not_finite(kept.tensors) == [] == steps.not_finite(kept.optimizer)
    assert kept.parts[0].name == ("a", "b", "c", "d")
    again = replay(tmp_path / "nan")
    assert again.same
    assert again.culprit is not None
    assert again.culprit.finite_input
    assert again.culprit.largest_input > 1e10
    assert again.weights == again.images == []
    capsys.readouterr()
    assert main(["debug", "replay", str(tmp_path / "nan")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for told in ("loss", "ce", "var", "dis", "then now", "images: finite", "labels: 0 to 3"):
        assert told in out
    assert f"The first module whose output is not finite is {again.culprit.name} (" in out


def test_a_step_in_double_precision_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """From weights that single precision does not know."""
    config = settings(tmp_path, precision="64-true")
    run = trainer(config)
    for weight in run.network.parameters():
        weight.data.mul_(1 + 1e-12)

    def broken() -> Iterator[Batch]:
        (first,) = batches(0, 1)
        yield first._replace(image=first.image.index_fill(3, torch.tensor([0]), math.inf))

    with pytest.raises(DataError):
        run.fit(broken())
    weights = dict(run.network.named_parameters())
    seen: list[torch.nn.Module] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "culprits", lambda network: seen.append(network) or nullcontext([]))
        replay(tmp_path / "nan")
    assert all(torch.equal(value, weights[name]) for name, value in seen[0].named_parameters())


def test_a_weight_that_is_not_finite_is_found_in_its_module(tmp_path: Path) -> None:
    weight = inner_weight(tmp_path)
    failed(settings(tmp_path), batches(0, 8), weight=weight)
    again, said = looked_at(tmp_path / "nan")
    assert again.same
    assert again.weights == [weight]
    assert again.culprit is not None
    assert again.culprit.name == weight.removesuffix(".weight")
    assert again.culprit.finite_input
    assert "weights: 1 of " in said
    assert "weights were not finite before this step" in said


def inner_weight(tmp_path: Path) -> str:
    """Name of a weight in the midst of the network."""
    network = trainer(settings(tmp_path)).network
    names = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    return f"{next(name for name in names if name.startswith('decoder'))}.weight"


@pytest.mark.parametrize(("precision", "other"), [("32-true", False), ("bf16-mixed", True), ("16-mixed", True)])
def test_the_remedy_is_one_that_a_resumed_run_takes(precision: Precision, other: bool) -> None:
    """Its precision may change, its learning rate may not."""
    told = steps.remedy(TrainingConfig(precision=precision))
    assert "start again with a lower training.learning_rate" in told
    assert told.startswith("go on with --training.precision 32-true") == other


@pytest.mark.parametrize("iterations", [1, 4])
def test_weights_that_are_not_finite_are_in_no_checkpoint(iterations: int, tmp_path: Path) -> None:
    """After the last step, too, when no further loss would tell of them."""
    config = settings(tmp_path, iterations=iterations, learning_rate=3e38, momentum=0.0, checkpoint_every=1)
    said = failed(config, batches(0, iterations))
    assert "of the network's tensors are not finite after iteration 1 (" in said
    assert "start again with a lower training.learning_rate. Nothing was saved yet" in said
    assert not checkpoint.exists(tmp_path)


def test_an_image_that_is_not_finite_is_named(tmp_path: Path) -> None:
    def broken() -> Iterator[Batch]:
        for number, batch in enumerate(batches(0, 8)):
            image = batch.image.clone()
            if number == 2:
                image[1, 0, 5, 5] = math.inf
            yield batch._replace(image=image)

    failed(settings(tmp_path, checkpoint_every=1), broken())
    again, said = looked_at(tmp_path / "nan")
    assert again.images == ["b"]
    assert "images: 1 not finite (b)" in said
    facts = json.loads((tmp_path / "nan" / steps.FACTS_FILE).read_text())
    assert (facts["iteration"], facts["images"], facts["loss"]) == (2, [["a", "b", "c", "d"]], "nan")
    # What stands on the disk is from before, and the log has no line of the failed step.
    assert checkpoint.read(tmp_path / checkpoint.LATEST_FILE)[2]["iteration"] == 2
    assert [line["iteration"] for line in records.read_lines(tmp_path / records.TRAIN_FILE)] == [1, 2]


def test_the_step_is_kept_with_its_optimiser_its_random_numbers_and_its_settings(tmp_path: Path) -> None:
    config = settings(tmp_path, checkpoint_every=1, seed=3)
    config = replace(config, model=replace(config.model, auxiliary_weight=0.4))  # which has dropout

    def broken() -> Iterator[Batch]:
        for number, batch in enumerate(batches(0, 8)):
            yield batch if number < 2 else batch._replace(image=batch.image * math.nan)

    run = trainer(config)
    with pytest.raises(DataError):
        run.fit(broken())
    kept = steps.read(tmp_path / "nan")
    assert kept.config == config
    assert (kept.card, kept.seed) == (run.card, 3 * 1_000_003 + 2)
    before, _, _ = checkpoint.read_all(tmp_path / checkpoint.LATEST_FILE)
    now = {**kept.tensors, **kept.optimizer}
    assert before.keys() == now.keys()
    for name, value in before.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(value, now[name]), name


def test_a_batch_in_parts_is_kept_and_replayed_in_its_parts(tmp_path: Path) -> None:
    config = settings(tmp_path, accumulate=2)

    def broken() -> Iterator[Batch]:
        first, second = batches(0, 2)
        yield first
        yield second._replace(image=second.image * math.nan, name=("e", "f", "g", "h"))

    failed(config, broken())
    again = replay(tmp_path / "nan")
    assert again.same
    assert again.images == ["e", "f", "g", "h"]


def test_dropout_is_repeated(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config = replace(config, model=replace(config.model, auxiliary_weight=0.4))
    run = trainer(config)
    run.iteration = 5
    (batch,) = batches(5, 6)
    result, finite = run.gradient([batch])
    assert finite()
    losses = {name: float(value) for name, value in result.parts.items()}
    state = run.network.state_dict()
    kept = steps.Kept(state, pack(run.optimizer), run.card, config, [batch], 5, 0, {}, float(result.loss), losses)
    steps.keep(tmp_path / "kept", kept)
    torch.manual_seed(99)
    again, said = looked_at(tmp_path / "kept")
    assert again.same
    assert again.losses["aux"] == float(result.parts["aux"])
    assert again.culprit is None
    assert "The loss is finite this time" in said


def test_a_step_that_cannot_be_kept_still_ends_the_run_with_its_loss(tmp_path: Path) -> None:
    (tmp_path / "nan").write_text("in the way")
    said = failed(settings(tmp_path), (batch._replace(image=batch.image * math.nan) for batch in batches(0, 8)))
    assert said.startswith("the loss is nan after iteration 1")
    assert "the step could not be kept to look at" in said


def test_what_is_no_kept_step_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["debug", "replay", str(tmp_path)]) == 1
    assert "has no step.safetensors: give the folder" in " ".join(capsys.readouterr().err.split())
    config = settings(tmp_path, iterations=2)
    trainer(config).save()
    (tmp_path / checkpoint.LATEST_FILE).rename(tmp_path / steps.TENSORS_FILE)
    with pytest.raises(CheckpointError, match="is no kept step, it lacks 'images'"):
        steps.read(tmp_path)
