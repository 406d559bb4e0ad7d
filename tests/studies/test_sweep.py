"""Many runs: which ones a sweep has, that it goes on where it stopped, what it does with those that fail, its tables.

The trainings are a small program that writes what `spcnet train` writes, so that they take no time; one is real.
"""

import errno
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from spcnet import checkpoint
from spcnet.cli import main
from spcnet.engine import records
from spcnet.errors import SpcnetError, UsageError
from spcnet.reports.runs import load_run
from spcnet.studies import sweep, sweep_processes
from spcnet.training_process import TrainingProcess

RECIPE: dict[str, Any] = {
    "method": "spcnet",
    "model": {"backbone": "shufflenet_v2", "output_stride": 32, "weights": None},
    "data": {
        "size": [48, 64],
        "images_per_domain": 1,
        "train_scenes": 2,
        "test_scenes": 2,
        "workers": 0,
        "targets": ["streets/night"],
    },
    "training": {"iterations": 10, "log_every": 1, "checkpoint_every": 2, "accelerator": "cpu"},
    "evaluation": {"panels": 0},
}

PRETENDING = """
import json, os, pathlib, signal, sys, time, yaml
options = sys.argv[1:]
config = yaml.safe_load(pathlib.Path(options[1].removeprefix("--config=")).read_text())
folder, total = pathlib.Path(config["output"]), config["training"]["iterations"]
orders = json.loads((folder.parent / "orders.json").read_text()).get(folder.name, {})
log, latest = folder / "train.jsonl", folder / "checkpoint.safetensors"
done = json.loads(latest.read_text()) if "--resume" in options else 0
known = log.read_text().splitlines()[:done] if done else []
log.write_text("".join(line + "\\n" for line in known))
told = dict(options=options, began=time.time(), at=done, threads=os.environ.get("OMP_NUM_THREADS"))
told["gpu"] = os.environ.get("CUDA_VISIBLE_DEVICES")
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
while done < total:
    time.sleep(orders.get("step", 0.005))
    done += 1
    with log.open("a") as file:
        file.write(json.dumps(dict(iteration=done, loss=1 / done)) + "\\n")
    while done == 3 and not stopped and orders.get("hold"):
        time.sleep(0.01)
    while done == 1 and "beside" in orders and not (folder.parent / orders["beside"] / "train.jsonl").exists():
        time.sleep(0.01)
    if done == orders.get("fail_at"):
        sys.exit("Traceback (most recent call last)\\nspcnet: the loss is nan after iteration %d" % done)
    if done % 2 == 0 or stopped:
        latest.write_text(str(done))
    if done == orders.get("die_at"):
        os.kill(os.getpid(), signal.SIGKILL)
    if stopped:
        print("spcnet: stopped after iteration", done, file=sys.stderr)
        sys.exit(130)
score = (0.3 if config["method"] == "spcnet" else 0.2) + 0.05 * config["training"]["seed"]
def domain(role, miou):
    return dict(role=role, images=2, miou=miou, iou=dict(road=miou), confusion=None, absent=[])
domains = {"streets/game": domain("source", 0.5), "streets/night": domain("unseen", score)}
record = dict(iteration=total, time="", classes=["road"], colors=[[1, 2, 3]], domains=domains)
with (folder / "results.jsonl").open("a") as file:
    file.write(json.dumps(record | dict(mean_source_miou=0.5, mean_unseen_miou=score)) + "\\n")
told["ended"] = time.time()
with (folder / "told.jsonl").open("a") as file:
    file.write(json.dumps(told) + "\\n")
"""


@pytest.fixture(autouse=True)
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that take no time, looked at often."""
    program = tmp_path / "pretend.py"
    program.write_text(PRETENDING)
    monkeypatch.setattr("spcnet.training_process.PROGRAM", (sys.executable, "-S", str(program)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # -S: no start-up of a package
    monkeypatch.setattr("spcnet.studies.sweep_processes.LOOK_EVERY", 0.02)
    (tmp_path / "out").mkdir()
    order(tmp_path)


def order(folder: Path, **runs: Mapping[str, Any]) -> None:
    """What the trainings do, by the run's name with _ for -.

    They `hold` after their third iteration until they are asked to end, go on `beside` another run once it has begun,
    take `step` seconds for an iteration, `fail_at` or `die_at` one.
    """
    orders = {name.replace("_", "-"): what for name, what in runs.items()}
    (folder / "out" / "orders.json").write_text(json.dumps(orders))


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return str(path)


def make(recipe: str, *, jobs: int = 1, rule: str = "last", **options: Any) -> tuple[dict[str, Any], str]:
    """A sweep to its end: what it found, and what it said."""
    output = Path(recipe).parent / "out"
    said = io.StringIO()
    planned = sweep.plan(recipe, output=output, **options)
    found = sweep.sweep(planned, output=output, jobs=jobs, rule=rule, console=Console(file=said, width=200))
    return found, said.getvalue()


def told(folder: Path) -> list[dict[str, Any]]:
    """What the trainings of a run noted at their ends."""
    return records.read_lines(folder / "told.jsonl")


def states(found: Mapping[str, Any]) -> dict[str, str]:
    return {run["run"]: run["state"] for run in found["runs"]}


# Which runs


def test_every_method_is_run_with_every_value_and_seed(recipe: str, tmp_path: Path) -> None:
    planned = sweep.plan(
        recipe,
        output=tmp_path,
        methods=["spcnet", "deeplabv3plus"],
        seeds=[3, 4],
        vary={"training.learning_rate": ["0.01", "5e-3"], "data.size": ["[48, 64]", "[64, 96]"]},
        settings={"training.iterations": "7"},
    )
    assert len(planned) == 2 * 2 * 2 * 2
    assert len({run.folder for run in planned}) == 16
    last = planned[-1]
    assert last.name == "deeplabv3plus-learning_rate=5e-3-size=64,96-4"
    assert last.label == "deeplabv3plus (learning_rate=5e-3, size=[64, 96])"
    training = last.config.training
    assert (last.config.method, training.seed, training.learning_rate, training.iterations) == (
        "deeplabv3plus",
        4,
        0.005,
        7,
    )
    assert last.config.data.size == (64, 96)
    assert last.config.data.targets == ["streets/night"]  # the recipe's


def test_by_default_a_sweep_is_the_recipe_itself(recipe: str, tmp_path: Path) -> None:
    (run,) = sweep.plan(recipe, output=tmp_path)
    assert (run.name, run.label, run.settings) == ("spcnet-0", "spcnet", {})


def test_options_of_one_name_are_told_apart_in_the_folders(recipe: str, tmp_path: Path) -> None:
    vary = {"training.momentum": ["0.9", "0.8"], "model.style.momentum": ["0.7"]}
    assert sweep.plan(recipe, output=tmp_path, vary=vary)[0].name == (
        "spcnet-training.momentum=0.9-model.style.momentum=0.7-0"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["spcnt"]}, "unknown method 'spcnt'.*Did you mean 'spcnet'"),
        ({"seeds": [1, 1]}, "--seeds names 1 twice"),
        ({"vary": {"training.learning_rat": ["1"]}}, "Did you mean 'training.learning_rate'"),
        ({"vary": {"training.learning_rate": ["fast"]}}, "training.learning_rate is fast: it must be a number"),
        ({"vary": {"training.learning_rate": ["-1"]}}, "training.learning_rate is -1.0: it must be above 0"),
        ({"vary": {"training.learning_rate": []}}, "has no values"),
        ({"vary": {"training.seed": ["1", "2"]}}, "use --seeds"),
        ({"settings": {"output": "here"}}, "use --output"),
        ({"vary": {"model.style": ["{}"]}}, "is a group of options: name one of them, for example model.style.mode"),
        ({"vary": {"data.workers": ["0", "1"]}}, "would be the same experiment"),
        ({"vary": {"training.momentum": ["0.9", "0.90"]}}, "would be the same experiment"),
        ({"vary": {"training.momentum": ["0.8"]}, "settings": {"training.momentum": "0.7"}}, "set and varied"),
        ({"settings": {"data.targets": "[streets/game]"}}, "streets/game"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_run(
    recipe: str, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as wrong:
        sweep.plan(recipe, output=tmp_path / "out", **options)
    assert "\n" not in str(wrong.value)


def test_two_runs_never_have_one_folder(recipe: str, tmp_path: Path) -> None:
    vary = {"model.adapter.targets": ['["*.conv"]', '["**.conv"]']}  # a folder's name has _ for any number of stars
    with pytest.raises(UsageError, match=r"--vary model\.adapter\.targets: 2 runs would have the folder .*_\.conv-0"):
        sweep.plan(recipe, output=tmp_path, vary=vary, settings={"model.adapter.kind": "lora"})


@settings(deadline=None, max_examples=15)
@given(st.lists(st.from_regex(r"[a-z]+_[a-z0-9./@+]{0,8}", fullmatch=True), min_size=1, max_size=5))
def test_both_forms_of_a_list_are_the_same_list(values: list[str]) -> None:
    assert sweep.listed(f"[{', '.join(values)}]") == sweep.listed(",".join(values)) == values


@pytest.mark.parametrize(("text", "values"), [("[0,1]", [0, 1]), ("0, 1,", [0, 1]), ("7", [7]), ("", [])])
def test_seeds_are_whole_numbers(text: str, values: list[int]) -> None:
    assert sweep.seeds(text) == values
    with pytest.raises(UsageError, match="--seeds has x"):
        sweep.seeds(f"{text},x" if text != "[0,1]" else "[0,x]")


@pytest.mark.parametrize("text", ["training.momentum", "=1", "training.momentum="])
def test_an_option_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write OPTION=VALUE"):
        sweep.assigned([text], "--set")
    with pytest.raises(UsageError, match="names a twice"):
        sweep.assigned(["a=1", "a=2"], "--vary")


def test_no_jobs_and_unknown_rules_are_refused_before_anything_is_run(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--jobs is 0"):
        make(recipe, jobs=0)
    with pytest.raises(UsageError, match="unknown rule of selection 'best'"):
        make(recipe, rule="best")
    assert main(["sweep", recipe, f"--output={tmp_path / 'out'}", "--jobs=0", "--dry-run"]) == 2
    assert not (tmp_path / "out" / "spcnet-0").exists()


# Making them


def test_all_are_made_and_their_tables_written(recipe: str, tmp_path: Path) -> None:
    found, said = make(recipe, methods=["spcnet", "deeplabv3plus"], seeds=[0, 1], jobs=2)
    assert set(states(found).values()) == {"done"}
    out = tmp_path / "out"
    assert json.loads((out / "sweep.json").read_text()) == found
    assert "| spcnet | 2 | **32.5** ± 2.5 |" in (out / "table.md").read_text()
    assert r"deeplabv3plus & $2$ & $22.5 \pm 2.5$" in (out / "table.tex").read_text()
    assert "32.5 ± 2.5" in said
    assert said.index("spcnet-0: begin 0/10") < said.index("spcnet-0: done after")
    assert load_run(out / "spcnet-1").final.mean_unseen_miou == pytest.approx(0.35)


def test_what_is_done_is_not_done_again_and_more_seeds_only_add(recipe: str, tmp_path: Path) -> None:
    make(recipe, seeds=[0])
    found, said = make(recipe, seeds=[0, 1])
    assert states(found) == {"spcnet-0": "done", "spcnet-1": "done"}
    assert "spcnet-0: done before" in said
    assert [len(told(tmp_path / "out" / f"spcnet-{seed}")) for seed in (0, 1)] == [1, 1]
    (row,) = found["table"]["rows"]
    assert row["columns"]["streets/night"]["n"] == 2


def test_a_mark_without_the_results_is_not_believed(recipe: str, tmp_path: Path) -> None:
    make(recipe)
    (tmp_path / "out" / "spcnet-0" / records.RESULTS_FILE).unlink()
    make(recipe)
    assert len(told(tmp_path / "out" / "spcnet-0")) == 2


def test_one_that_fails_is_told_of_and_the_others_go_on(recipe: str, tmp_path: Path) -> None:
    order(tmp_path, spcnet_0={"fail_at": 3})
    found, said = make(recipe, seeds=[0, 1])
    assert states(found) == {"spcnet-0": "failed", "spcnet-1": "done"}
    assert "spcnet-0: failed after" in said
    assert "the loss is nan after iteration 3 (more in" in said
    assert (
        "> spcnet-0 is missing: failed (the loss is nan after iteration 3)" in (tmp_path / "out/table.md").read_text()
    )
    command = ["sweep", recipe, "--seeds=[0,1]", f"--output={tmp_path / 'out'}"]
    assert main(command) == 1
    order(tmp_path)
    assert main(command) == 0
    assert told(tmp_path / "out" / "spcnet-0")[-1]["at"] == 2


def test_one_that_was_killed_goes_on_from_its_checkpoint(recipe: str, tmp_path: Path) -> None:
    order(tmp_path, spcnet_0={"die_at": 5})
    found, said = make(recipe)
    assert "ended by signal 9" in said
    assert (states(found), found["table"]) == ({"spcnet-0": "failed"}, None)
    order(tmp_path)
    make(recipe)
    folder = tmp_path / "out" / "spcnet-0"
    (note,) = told(folder)
    assert ("--resume" in note["options"], note["at"]) == (True, 4)
    assert [line["iteration"] for line in records.read_lines(folder / "train.jsonl")] == list(range(1, 11))


def test_no_more_run_at_a_time_than_asked_for(recipe: str, tmp_path: Path) -> None:
    order(tmp_path, spcnet_0={"beside": "spcnet-1"}, spcnet_1={"beside": "spcnet-0"})
    make(recipe, seeds=range(4), jobs=2)
    notes = [told(tmp_path / "out" / f"spcnet-{seed}")[0] for seed in range(4)]
    beside = [sum(a["began"] < b["ended"] and b["began"] < a["ended"] for b in notes) for a in notes]
    moments = [sum(b["began"] <= a["began"] < b["ended"] for b in notes) for a in notes]
    assert max(moments) == 2
    assert max(beside) >= 2


@pytest.mark.parametrize(
    "changed", [{"settings": {"training.learning_rate": "0.5"}}, {"settings": {"data.targets": "[]"}}]
)
def test_a_folder_with_other_settings_is_not_mixed_in(recipe: str, changed: dict[str, Any]) -> None:
    make(recipe)
    with pytest.raises(
        UsageError,
        match=r"spcnet-0 holds a run with other settings \((training.learning_rate 0.01, now 0.5|data.targets)",
    ):
        make(recipe, **changed)


def test_where_and_how_it_is_computed_may_change(recipe: str, tmp_path: Path) -> None:
    make(recipe)
    make(
        recipe,
        settings={
            "data.workers": "3",
            "training.log_every": "5",
            "logging.every": "7",
            "data.roots.camvid": "/elsewhere",
            "data.root": "/elsewhere",
            "training.deterministic": "false",
            "evaluation.panels": "2",
        },
    )
    assert len(told(tmp_path / "out" / "spcnet-0")) == 1


def test_more_processes_are_larger_batches_and_not_mixed_in(recipe: str) -> None:
    make(recipe)
    with pytest.raises(UsageError, match=r"training.devices 1, now 2"):
        make(recipe, settings={"training.devices": "2"})


@pytest.mark.parametrize("vary", ["data.root=[a,b]", "logging.every=[1,2]", "training.profile=[1,2]"])
def test_what_decides_no_result_is_not_varied(recipe: str, vary: str, tmp_path: Path) -> None:
    path, _, values = vary.partition("=")
    with pytest.raises(UsageError, match="would be the same experiment"):
        sweep.plan(recipe, output=tmp_path, vary={path: sweep.listed(values)})


def test_ctrl_c_stops_all_and_the_same_command_goes_on(recipe: str, tmp_path: Path) -> None:
    order(tmp_path, spcnet_0={"hold": True}, spcnet_1={"hold": True})
    folders = [tmp_path / "out" / f"spcnet-{seed}" for seed in (0, 1, 2)]

    def press() -> None:
        for _ in range(1500):
            if all(len(records.read_lines(folder / "train.jsonl")) == 3 for folder in folders[:2]):
                break
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(
        SpcnetError, match=r"stopped: 0 of 3 runs done, 2 stopped, 1 waiting; .*same command"
    ) as stopped:
        make(recipe, seeds=[0, 1, 2], jobs=2)
    presser.join()
    assert stopped.value.exit_code == 130
    reached = [len(records.read_lines(folder / "train.jsonl")) for folder in folders]
    assert [int((folder / checkpoint.LATEST_FILE).read_text()) for folder in folders[:2]] == reached[:2]
    assert reached == [3, 3, 0]
    assert not folders[2].exists()
    order(tmp_path)
    found, _ = make(recipe, seeds=[0, 1, 2], jobs=2)
    assert set(states(found).values()) == {"done"}
    assert [told(folder)[0]["at"] for folder in folders] == reached


def test_a_second_sweep_is_kept_out_as_long_as_a_training_of_the_first_lives(recipe: str, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    order(tmp_path, spcnet_0={"hold": True})
    (planned,) = sweep.plan(recipe, output=tmp_path / "out")
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan = sweep_processes.Training(planned, [lock.fileno()])
        process = orphan.start({})
    try:
        with pytest.raises(UsageError, match="is in use"):
            make(recipe)
    finally:
        process.stop()
        process.wait()
    order(tmp_path)
    make(recipe)


def test_a_training_that_is_asked_to_end_while_it_begins_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no checkpoint to save then; and a Ctrl-C on the terminal reaches it through the sweep alone."""
    monkeypatch.setattr("spcnet.training_process.PROGRAM", ("sleep",))
    process = TrainingProcess(["60"], log=tmp_path / "log.txt", environment={})
    assert os.getsid(process.pid) != os.getsid(0)
    process.stop()
    process.wait()
    assert (process.code(), process.was_stopped()) == (-signal.SIGTERM, True)


def test_a_file_system_without_locks_keeps_nobody_out(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", unknown)
    assert set(states(make(recipe)[0]).values()) == {"done"}


def test_the_cores_are_divided(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(13)), raising=False)
    make(recipe, seeds=range(3), jobs=3)
    assert {told(tmp_path / "out" / f"spcnet-{seed}")[0]["threads"] for seed in range(3)} == {"4"}
    make(recipe, seeds=range(4), jobs=3)  # a single one is left
    assert told(tmp_path / "out" / "spcnet-3")[0]["threads"] == "13"


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")


def test_each_training_has_a_gpu_of_its_own(recipe: str, tmp_path: Path, three_gpus: None) -> None:
    order(tmp_path, spcnet_0={"beside": "spcnet-1"}, spcnet_1={"beside": "spcnet-0"})
    on_gpu = {"training.accelerator": "cuda"}
    make(recipe, seeds=range(2), jobs=2, settings=on_gpu)
    assert {told(tmp_path / "out" / f"spcnet-{seed}")[0]["gpu"] for seed in range(2)} == {"4", "5"}
    with pytest.raises(UsageError, match=r"--jobs is 4 and training\.devices is 1, with 3 GPUs"):
        make(recipe, seeds=range(2, 6), jobs=4, settings=on_gpu)
    with pytest.raises(UsageError, match=r"--jobs is 2 and training\.devices is 2, with 3 GPUs"):
        make(recipe, seeds=range(2, 6), jobs=2, settings={**on_gpu, "training.devices": "2"})


# What is shown


def test_a_dry_run_lists_what_is_left_and_starts_nothing(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order(tmp_path, spcnet_1={"die_at": 5})
    make(recipe, seeds=[0, 1])
    before = sorted(path for path in tmp_path.rglob("*"))
    assert main(["sweep", recipe, "--seeds", "0,1,2", f"--output={tmp_path / 'out'}", "--dry-run"]) == 0
    assert sorted(path for path in tmp_path.rglob("*")) == before
    shown = capsys.readouterr().out
    for name, state in (("spcnet-0", "done"), ("spcnet-1", "goes on"), ("spcnet-2", "new")):
        assert any(name in line and state in line for line in shown.splitlines())
    assert "1 done, 1 goes on, 1 new" in shown


def test_a_terminal_shows_a_line_for_each_run_and_at_most_what_fits(recipe: str, tmp_path: Path) -> None:
    order(tmp_path, spcnet_0={"fail_at": 3}, spcnet_1={"step": 0.1})
    said = io.StringIO()
    out = tmp_path / "out"
    console = Console(file=said, width=100, height=11, force_terminal=True)
    sweep.sweep(sweep.plan(recipe, output=out, seeds=range(9)), output=out, jobs=2, console=console)
    shown = said.getvalue()
    assert "spcnet-0: failed after" in shown
    assert "train" in shown
    assert "8 of 9 runs done, 1 failed; 6 not shown" in shown


def test_the_oracle_must_be_asked_for_and_is_told_of(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", recipe, f"--output={tmp_path / 'out'}"]
    for options, marked in (([], False), (["--select=oracle"], True)):
        assert main([*command, *options]) == 0
        texts = [
            capsys.readouterr().out,
            *((tmp_path / "out" / name).read_text() for name in ("table.md", "table.tex")),
        ]
        assert ["TEST DATA" in " ".join(text.split()) for text in texts] == [marked] * 3
        assert json.loads((tmp_path / "out" / "sweep.json").read_text())["table"]["looks_at_targets"] is marked


def test_a_page_can_be_made_of_all_that_lies_in_the_folder(recipe: str, tmp_path: Path) -> None:
    make(recipe, seeds=[0, 1])
    (tmp_path / "out" / "orders.json").unlink()
    assert (
        main(["report", *map(str, sorted((tmp_path / "out").glob("[!.]*"))), f"--output={tmp_path / 'page.html'}"]) == 0
    )


# A real one


def test_a_real_training_is_made_and_shown(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spcnet.training_process.PROGRAM", (sys.executable, "-m", "spcnet"))
    options = ["--methods=deeplabv3plus", "--set", "training.iterations=2", "--set", "training.evaluate_every=1"]
    assert main(["sweep", recipe, *options, "--select=best_on_source", f"--output={tmp_path / 'out'}"]) == 0
    (run,) = json.loads((tmp_path / "out" / "sweep.json").read_text())["runs"]
    assert run["state"] == "done"
    evaluations = load_run(tmp_path / "out" / "deeplabv3plus-0").evaluations
    best = max(evaluations, key=lambda evaluation: (evaluation.mean_source_miou or 0, evaluation.iteration))
    assert len(evaluations) == 2
    assert (run["iteration"], run["mean_unseen_miou"]) == (best.iteration, best.mean_unseen_miou)
