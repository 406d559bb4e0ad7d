"""The whole path of every set: made in one of its layouts, trained on for two steps, tested on, its labels scored."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from spcnet import dry_run, training
from spcnet.cli import main
from spcnet.commands.evaluate import evaluate
from spcnet.config import (
    AugmentationConfig,
    EvaluationConfig,
    LoggingConfig,
    RunConfig,
    WhiteningConfig,
)
from spcnet.data.catalog import DATASETS
from spcnet.data.fixture import write_fixture
from spcnet.dry_run import checks
from spcnet.engine.trainer import Trainer
from spcnet.errors import DataError, UsageError
from spcnet.reports.dry_run import Domain, Pace, Rehearsal, Statistics, num_checkpoints, num_evaluations, show
from spcnet.runs import OpenRun, check_unseen
from spcnet.types import Batch, StepResult
from tests.support.sets import MODEL, run_of

SETS = [name for name, info in DATASETS.items() if info.layouts]


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_trained_on_and_tested_on(name: str, tmp_path: Path) -> None:
    write_fixture(name, tmp_path / "data" / name)
    space = "idd7" if name in ("camvid", "idd_lite") else "cityscapes19"
    data = {"sources": [name], "root": str(tmp_path / "data"), "space": space, "class_uniform": 0.5}
    record = training.train(run_of(tmp_path / "run", data=data))
    assert record["iteration"] == 2
    scored = record["domains"][name]
    assert scored["images"] == 1
    assert np.sum(scored["confusion"]) > 1000
    # Labels that were decoded wrongly would be nearly all void, or nearly all one class.
    assert sum(row > 0 for row in np.sum(scored["confusion"], axis=1)) >= 4


@pytest.mark.parametrize("by", ["style", "cluster", "random"])
def test_a_single_source_fills_every_base(by: str, tmp_path: Path) -> None:
    write_fixture("cityscapes", tmp_path / "data" / "cityscapes", images_per_split=6)
    data = {
        "sources": ["cityscapes"],
        "root": str(tmp_path / "data"),
        "pseudo_domains": 3,
        "pseudo_by": by,
        "images_per_domain": 4,
        "augmentation": AugmentationConfig(styles=["noise", "fog"], style_probability=0.6),
    }
    config = run_of(tmp_path / "run", data=data, iterations=8)
    training.train(config)
    run = OpenRun(tmp_path / "run")
    network, card = run.network, run.card
    assert card.domains == ("cityscapes#1", "cityscapes#2", "cityscapes#3")
    for layer in network.style_layers:
        assert layer.base_mean.isfinite().all()
        # What was never filled still has the deviation 1 that it began with.
        assert (layer.base_std != 1).any(dim=1).all()


def test_a_run_that_is_resumed_clusters_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fixture("cityscapes", tmp_path / "data" / "cityscapes", images_per_split=6)
    data = {"sources": ["cityscapes"], "root": str(tmp_path / "data"), "pseudo_domains": 3, "pseudo_by": "cluster"}
    whole, parts = (run_of(tmp_path / name, data=data, iterations=6) for name in ("whole", "parts"))
    training.train(whole)

    def bar(*_: Any) -> Any:
        """Kills the run in its fifth step."""

        def show(done: int, losses: dict[str, float], total: int = 0) -> None:
            if done > 4:
                raise KeyboardInterrupt

        return nullcontext(show)

    with monkeypatch.context() as patch:
        patch.setattr(training, "bar", bar)
        often = dataclasses.replace(parts, training=dataclasses.replace(parts.training, checkpoint_every=3))
        with pytest.raises(KeyboardInterrupt):
            training.train(often)
    training.train(parts, resume=True)
    expected, found = (OpenRun(config.output).network.state_dict() for config in (whole, parts))
    assert expected["clusters.share"].sum() > 0
    for name, value in expected.items():
        assert value.equal(found[name]), name


def test_a_bad_image_stops_the_run_or_is_skipped_and_told_of(tmp_path: Path) -> None:
    root = tmp_path / "data" / "cityscapes"
    write_fixture("cityscapes", root, images_per_split=3)
    for split in ("train", "val"):
        photo = min((root / "leftImg8bit").rglob(f"{split}/**/*.png"))
        photo.write_bytes(photo.read_bytes()[:200])
    data = {"sources": ["cityscapes"], "root": str(tmp_path / "data")}
    with pytest.raises(DataError, match="cannot read"):
        training.train(run_of(tmp_path / "stop", data=data, iterations=3))
    console = Console(record=True, width=300, file=(tmp_path / "out.txt").open("w"))
    config = run_of(tmp_path / "skip", data={**data, "on_bad_image": "skip"}, iterations=3)
    record = training.train(dataclasses.replace(config, evaluation=EvaluationConfig(panels=0)), console=console)
    assert record["domains"]["cityscapes"]["skipped"] == 1
    assert record["domains"]["cityscapes"]["images"] == 2
    listed = [json.loads(line) for line in (tmp_path / "skip" / "skipped.jsonl").read_text().splitlines()]
    assert [line["where"] for line in listed] == ["training", "cityscapes"]
    assert all("cannot read" in line["message"] for line in listed)
    assert console.export_text().count("skipped: cannot read") == 2


def test_images_on_an_exclude_list_are_not_trained_on(tmp_path: Path) -> None:
    root = tmp_path / "data" / "cityscapes"
    write_fixture("cityscapes", root, images_per_split=3)
    photo = min((root / "leftImg8bit").rglob("train/**/*.png"))
    photo.write_bytes(b"broken")
    listed = tmp_path / "exclude.txt"
    listed.write_text(f"cityscapes\t{photo.relative_to(root).as_posix()}\tunreadable\n")
    data = {"sources": ["cityscapes"], "root": str(tmp_path / "data"), "exclude": [str(listed)]}
    training.train(run_of(tmp_path / "run", data=data, iterations=3))


def test_a_target_in_a_style_of_the_training_is_refused(tmp_path: Path) -> None:
    for target, style in (("cityscapes+rain", "drizzle"), ("streets/night", "darkness"), ("camvid+fog", "fog")):
        data = {"sources": ["streets/game"], "targets": [target], "augmentation": AugmentationConfig(styles=[style])}
        with pytest.raises(UsageError, match=f"{style}.*family"):
            check_unseen(run_of(tmp_path, data=data).data)
    data = {"sources": ["camvid+night"], "targets": ["cityscapes+darkness"]}
    with pytest.raises(UsageError, match=r"night.*family"):
        check_unseen(run_of(tmp_path, data=data).data)
    data = {"targets": ["cityscapes+rain", "streets/night"], "augmentation": AugmentationConfig(styles=["fog", "dusk"])}
    check_unseen(run_of(tmp_path, data=data).data)


def test_a_finished_run_is_not_tested_on_a_style_of_its_training_as_unseen(tmp_path: Path) -> None:
    write_fixture("cityscapes", tmp_path / "data" / "cityscapes")
    data = {
        "sources": ["cityscapes"],
        "root": str(tmp_path / "data"),
        "augmentation": AugmentationConfig(styles=["drizzle"]),
    }
    training.train(run_of(tmp_path / "run", data=data, method="deeplabv3plus"))
    with pytest.raises(UsageError, match=r"drizzle.*family"):
        evaluate(tmp_path / "run", targets=["cityscapes+rain"])
    assert "cityscapes+fog" in evaluate(tmp_path / "run", targets=["cityscapes+fog"])["domains"]


def test_a_dry_run_measures_and_writes_nothing(tmp_path: Path) -> None:
    write_fixture("gtav", tmp_path / "data" / "gtav")
    data = {"sources": ["gtav"], "targets": ["gtav@test"], "root": str(tmp_path / "data"), "class_uniform": 0.5}
    config = run_of(tmp_path / "run", data=data)
    before = sorted(tmp_path.rglob("*"))
    found = dry_run.rehearse(config)
    assert found.ready
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path / "run").exists()
    assert [domain.images for domain in found.domains] == [2, 2, 2]
    assert found.fresh is not None
    assert found.fresh.step
    assert found.peak
    assert found.needed > 4 * found.parameters
    console = Console(record=True, width=100, file=(tmp_path / "out.txt").open("w"))
    show(found, config, console)
    text = console.export_text()
    assert "for 2 iterations" in text
    assert "Ready" in text


def test_a_dry_run_tells_all_that_is_missing_at_once(tmp_path: Path) -> None:
    write_fixture("gtav", tmp_path / "data" / "gtav")
    photo = next((tmp_path / "data" / "gtav" / "images").rglob("*.png"))
    Image.new("RGB", (5, 5)).save(photo)
    data = {"sources": ["gtav", "synthia"], "targets": ["bdd100k"], "root": str(tmp_path / "data")}
    config = run_of(tmp_path / "run", data=data)
    config = dataclasses.replace(config, model=dataclasses.replace(MODEL, weights=str(tmp_path / "none.safetensors")))
    found = dry_run.rehearse(config)
    assert not found.ready
    assert {domain.name for domain in found.domains if domain.problem} >= {"synthia", "bdd100k"}
    assert found.made_up
    assert found.fresh is not None
    assert found.fresh.step
    assert "none.safetensors" in found.problems[0]


def dry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **training: Any) -> tuple[Rehearsal, list[Any]]:
    """A dry run on generated streets, and the trainer and the number of micro-batches of each of its steps."""
    steps: list[Any] = []
    step = Trainer.step

    def noted(trainer: Trainer, micro_batches: Sequence[Batch]) -> StepResult:
        steps.append((trainer, len(micro_batches)))
        return step(trainer, micro_batches)

    monkeypatch.setattr(Trainer, "step", noted)
    method = training.pop("method", "deeplabv3plus")
    data = {"sources": ["streets/game"], "images_per_domain": 1, "train_scenes": 4, "test_scenes": 2}
    config = run_of(tmp_path / "run", data=data, method=method, iterations=2)
    model = dataclasses.replace(MODEL, whitening=WhiteningConfig(start=0.5, trials=2, pairs=3, clusters=2))
    config = dataclasses.replace(config, model=model, training=dataclasses.replace(config.training, **training))
    return dry_run.rehearse(config), steps


def test_a_dry_run_makes_the_steps_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {"accumulate": 3, "freeze_batchnorm": True, "precision": "bf16-mixed", "activation_checkpointing": True}
    report, steps = dry(tmp_path, monkeypatch, **changed)
    assert report.ready, report.problems
    assert [number for _, number in steps] == [3, 3, 3, 3]  # while scenes are drawn, and once they are known
    (trainer,) = {trainer for trainer, _ in steps}
    assert {name: getattr(trainer.config.training, name) for name in changed} == changed
    assert trainer.fabric.strategy.precision.precision == "bf16-mixed"
    tracked = [int(v) for name, v in trainer.network.named_buffers() if name.endswith("num_batches_tracked")]
    assert max(tracked) == 0  # frozen, and counting the memory of a step leaves the network as it was
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_takes_the_statistics_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, steps = dry(tmp_path, monkeypatch, method="isw")
    assert report.statistics is not None
    assert report.statistics.at == 1
    assert report.statistics.seconds > 0
    (trainer,) = {trainer for trainer, _ in steps}
    assert all(bool(layer.mask.any()) for layer in trainer.network.whitening_layers)
    assert len(steps) == 2 + 2 + 1  # the last after them


def test_a_dry_run_whose_loss_is_not_finite_says_so_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = Trainer.gradient
    monkeypatch.setattr(Trainer, "gradient", lambda *args: (gradient(*args)[0], lambda: False))
    report, _ = dry(tmp_path, monkeypatch)
    assert not report.ready
    assert "learning_rate" in report.problems[0]
    assert "replay" not in report.problems[0]
    assert "go on with" not in report.problems[0]
    assert list(tmp_path.iterdir()) == []


def test_the_promised_time_counts_what_a_run_does(tmp_path: Path) -> None:
    config = run_of(tmp_path, data={}, iterations=100)
    training = dataclasses.replace(config.training, log_every=30, checkpoint_every=40, evaluate_every=60)
    config = dataclasses.replace(config, training=training, logging=LoggingConfig(every=50))
    report = Rehearsal(
        fresh=Pace(2.0, 1.0),
        known=Pace(2.0, 0.5),
        fresh_iterations=20,
        statistics=Statistics(at=10, seconds=40.0, pace=Pace(3.0, 0.5), unseen=0.25),
        checkpoint_seconds=7.0,
        log_seconds=0.1,
        sample_seconds=0.3,
        once_seconds=5.0,
        record_seconds=1.0,
        domains=[Domain("x", "test", 10, test_seconds=2.0, again_seconds=0.5)],
    )
    steps = 10 * 3.0 + 10 * (3.5 + 0.25 * 0.5) + 80 * 3.5
    # Checkpoints after 40, 60, 80 and 100 iterations, log lines after 30, 60, 90 and 100, samples after 50, 100 and the last.
    assert report.training_seconds(config) == pytest.approx(steps + 40 + 4 * 7 + 4 * 0.1 + 3 * 0.3)
    assert report.testing_seconds(config) == pytest.approx(1 * (2.0 + 0.5) + 2 * 1.0)
    assert report.total_seconds(config) == pytest.approx(
        5 + report.training_seconds(config) + report.testing_seconds(config)
    )


@pytest.mark.parametrize("iterations", [1, 5, 6, 12, 13])
@pytest.mark.parametrize(("checkpoint_every", "evaluate_every"), [(1, 0), (4, 0), (4, 6), (3, 2), (20, 5)])
def test_checkpoints_and_evaluations_are_counted_as_the_loop_makes_them(
    iterations: int, checkpoint_every: int, evaluate_every: int, tmp_path: Path
) -> None:
    config = run_of(tmp_path, data={}, iterations=iterations)
    training = dataclasses.replace(config.training, checkpoint_every=checkpoint_every, evaluate_every=evaluate_every)
    config = dataclasses.replace(config, training=training)
    evaluated = {i for i in range(1, iterations) if evaluate_every and i % evaluate_every == 0}
    saved = evaluated | {iterations} | {i for i in range(1, iterations) if i % checkpoint_every == 0}
    assert num_checkpoints(config) == len(saved)
    assert num_evaluations(config) == len(evaluated) + 1


@pytest.mark.slow
def test_a_dry_run_of_several_processes_tells_the_memory_of_each(tmp_path: Path) -> None:
    options = ["--method=spcnet", "--model.backbone=shufflenet_v2", "--model.weights=null", "--model.output_stride=32"]
    options += ["--data.targets=[]", "--data.size=[48,96]", "--data.images_per_domain=1", "--data.train_scenes=4"]
    options += ["--data.test_scenes=2", "--data.workers=0", "--iterations=2", "--devices=2", "--accelerator=cpu"]
    command = [sys.executable, "-m", "spcnet", "train", *options, f"--output={tmp_path / 'run'}", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Ready: nothing was written.") == 1
    assert len(re.findall(r"cpu of process [01]: .* free, .* taken at most", done.stdout)) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_cannot_fit_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "free_memory", lambda device: 2**20)
    found = dry_run.rehearse(run_of(tmp_path / "run", data={"sources": ["streets/game"]}))
    assert found.fresh is None
    assert "images_per_domain" in found.problems[0]


def test_a_dry_run_says_that_the_folder_holds_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training would not begin there either."""
    (tmp_path / "results.jsonl").write_text("{}\n")

    def said(**options: bool) -> list[str]:
        report = Rehearsal()
        checks.check_folder(tmp_path, report, **{"resume": False, "overwrite": False, **options})
        return report.problems

    assert "already holds a run" in said()[0]
    assert "to resume from" in said(resume=True)[0]
    assert not said(overwrite=True)
    asked: list[dict[str, object]] = []

    def rehearse(config: RunConfig, **options: object) -> Rehearsal:
        asked.append(options)
        return Rehearsal(problems=["none"])

    monkeypatch.setattr(dry_run, "rehearse", rehearse)
    assert main(["train", f"--output={tmp_path}", "--dry-run", "--overwrite"]) == 1
    assert (asked[0]["resume"], asked[0]["overwrite"]) == (False, True)
