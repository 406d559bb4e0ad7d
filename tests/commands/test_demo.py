"""The demo's two trainings beside each other: what they leave, how they fail and how they are stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from spcnet import checkpoint
from spcnet.commands.demo import demo
from spcnet.engine import records
from spcnet.errors import SpcnetError
from spcnet.training_process import LOG_FILE, RecipeTraining, TrainingProcess, run_together

SETTINGS: dict[str, Any] = {
    "model": {"backbone": "shufflenet_v2", "output_stride": 32, "weights": None},
    "data": {
        "size": [48, 64],
        "images_per_domain": 1,
        "train_scenes": 2,
        "test_scenes": 2,
        "workers": 0,
        "targets": ["streets/night"],
    },
    "training": {"iterations": 2, "log_every": 1, "accelerator": "cpu"},
    "evaluation": {"panels": 1},
}


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two small recipes in the place of the demo's."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for method in ("deeplabv3plus", "spcnet"):
        (folder / f"{method}.yaml").write_text(yaml.safe_dump({"method": method, **SETTINGS}))
    paths = tuple(str(folder / f"{method}.yaml") for method in ("deeplabv3plus", "spcnet"))
    monkeypatch.setattr("spcnet.commands.demo.RECIPES", paths)
    return folder


def change(recipe: Path, **options: Any) -> None:
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **options}))


@pytest.mark.slow
def test_it_trains_both_and_writes_the_report(recipes: Path, tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as said:
        found = demo(output=tmp_path / "out", seed=3, console=Console(file=said, width=200))
    assert list(found) == ["deeplabv3plus", "spcnet"]
    assert all((record["iteration"], record["seed"]) == (2, 3) for record in found.values())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "six others" in page
    shown = (tmp_path / "said").read_text()
    assert "train deeplabv3plus 2/2" in shown
    assert "train spcnet 2/2" in shown


@pytest.mark.slow
def test_one_that_fails_stops_the_other_and_says_why(recipes: Path, tmp_path: Path) -> None:
    change(recipes / "deeplabv3plus.yaml", training={**SETTINGS["training"], "iterations": 100_000})
    change(recipes / "spcnet.yaml", model={**SETTINGS["model"], "weights": "nowhere.safetensors"})
    with pytest.raises(SpcnetError, match=r"^training spcnet: .*nowhere\.safetensors") as wrong:
        demo(output=tmp_path / "out")
    assert wrong.value.exit_code == 1
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_ctrl_c_saves_both_and_says_how_to_go_on(recipes: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from spcnet import cli; from spcnet.commands import demo; demo.RECIPES = tuple(sys.argv[1:3]); "
        "sys.exit(cli.main(['demo', '--output', sys.argv[3], '--iterations=100000']))"
    )
    paths = [str(path) for path in sorted(recipes.iterdir())]
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *paths, str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    folders = [output / "deeplabv3plus", output / "spcnet"]
    until = time.monotonic() + 120
    while not all((folder / records.TRAIN_FILE).exists() for folder in folders):
        assert time.monotonic() < until, "the trainings did not begin"
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.count("--resume") == 2
    for folder in folders:
        done = records.read_lines(folder / records.TRAIN_FILE)[-1]["iteration"]
        assert checkpoint.read(folder / checkpoint.LATEST_FILE)[2]["iteration"] == done


def test_a_training_that_saves_is_not_asked_to_end_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = (
        "import signal, time; got = []; signal.signal(signal.SIGTERM, lambda *_: got.append(1)); print(flush=True)"
    )
    counting += "; t = time.monotonic()\nwhile time.monotonic() - t < 1.5: time.sleep(0.05)\nraise SystemExit(len(got))"
    monkeypatch.setattr("spcnet.training_process.PROGRAM", (sys.executable, "-c", counting))
    process = TrainingProcess([], log=tmp_path / LOG_FILE, environment={})
    while not (tmp_path / LOG_FILE).stat().st_size:  # it listens then
        time.sleep(0.01)
    process.stop()
    time.sleep(0.3)
    process.stop()
    process.wait()
    assert process.code() == 1


def test_a_process_that_the_system_killed_is_told_of(recipes: Path, tmp_path: Path) -> None:
    training = RecipeTraining(str(recipes / "spcnet.yaml"), tmp_path / "out", iterations=100_000, seed=0, jobs=2)
    start = training.start

    def killed() -> TrainingProcess:
        process = start()
        os.kill(process.pid, signal.SIGKILL)
        return process

    training.start = killed  # type: ignore[method-assign]
    with pytest.raises(SpcnetError, match="training spcnet: ended by signal 9"):
        run_together([training], Console(quiet=True))


def test_each_training_has_its_share_of_the_processor(recipes: Path, tmp_path: Path) -> None:
    shares = [
        RecipeTraining(str(recipes / "spcnet.yaml"), tmp_path, iterations=None, seed=0, jobs=n).threads
        for n in (1, 2, 999)
    ]
    assert shares[0] >= shares[1] >= shares[2] == 1
    assert shares[0] in (os.cpu_count(), len(os.sched_getaffinity(0)))
