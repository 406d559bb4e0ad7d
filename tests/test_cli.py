"""The commands, as a user types them: what they write, what they say, and how they end."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import spcnet
from spcnet import checkpoint, cli
from spcnet.cli import COMMANDS, main, parse, summary
from spcnet.config import RunConfig, recipes_folder
from spcnet.engine import records
from spcnet.runs import OpenRun
from tests.support.commands import every_option, every_parser
from tests.support.tiny import SMALL, train
from tests.support.weight_files import restore

RECIPES = sorted(str(path.relative_to(recipes_folder()).with_suffix("")) for path in recipes_folder().rglob("*.yaml"))


@pytest.fixture(scope="module")
def run(tiny_runs: Path) -> Path:
    """A finished run of SPC-Net on tiny generated streets."""
    return tiny_runs / "spcnet"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_training_writes_a_whole_run(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        records.CONFIG_FILE,
        records.ENVIRONMENT_FILE,
        records.TRAIN_FILE,
        records.RESULTS_FILE,
        checkpoint.LATEST_FILE,
        checkpoint.MODEL_FILE,
        "panels",
        "tensorboard",
    }
    (record,) = records.read_lines(run / records.RESULTS_FILE)
    roles = {name: domain["role"] for name, domain in record["domains"].items()}
    assert roles == {"streets/game": "source", "streets/toy": "source", "streets/night": "unseen"}
    assert all(domain["images"] == 2 for domain in record["domains"].values())
    assert len(record["domains"]["streets/night"]["style_weights"]) == 2
    assert OpenRun(run).config.training.iterations == 2
    assert any((run / "tensorboard").iterdir())


def test_an_earlier_page_beside_the_runs_is_passed_over(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert main(["report", str(run), f"--output={page}"]) == 0
    assert main(["report", str(run), str(page), f"--output={page}"]) == 0
    assert main(["report", str(page), f"--output={tmp_path / 'other.html'}"]) == 1


def test_selective_whitening_trains_through_all_its_phases(tmp_path: Path) -> None:
    options = ["--method=isw", "--model.whitening.start=0.5", "--model.whitening.trials=1", "--model.whitening.pairs=2"]
    assert train(tmp_path / "run", *options, iterations=4) == 0
    found = [record["parts"]["whitening"] for record in records.read_lines(tmp_path / "run" / records.TRAIN_FILE)]
    assert found[:2] == [0, 0]
    assert min(found[2:]) > 0
    masks = [value for key, value in restore(tmp_path / "run")[0].state_dict().items() if key.endswith("mask")]
    assert len(masks) == 3
    assert all(bool(mask.any()) for mask in masks)


def test_precisions_have_short_names() -> None:
    for given in (["--precision", "32"], ["--precision=32"]):
        assert parse(["train", *given]).arguments["config"].training.precision == "32-true"
    assert parse(["train", "--precision", "bf16"]).arguments["config"].training.precision == "bf16-mixed"


def test_help_names_no_class_of_python() -> None:
    texts = [parser.format_help() for parser in every_parser().values()]
    assert len(texts) > 20
    assert sum("type: path" in " ".join(text.split()) for text in texts) > 10
    assert not any("<class" in text for text in texts)


def test_a_run_can_be_loaded_in_python(run: Path) -> None:
    for path in (run, run / checkpoint.MODEL_FILE, str(run / checkpoint.LATEST_FILE)):
        assert not spcnet.load_model(path).training
    card = restore(run)[1]
    assert card.domains == ("streets/game", "streets/toy")
    assert card.size == (48, 64)


def test_training_over_a_run_is_refused_unless_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / records.RESULTS_FILE).read_text()
    assert train(run) == 2
    assert "already holds a run: add --resume to go on, --overwrite to start again" in said(capsys)
    assert (run / records.RESULTS_FILE).read_text() == before


def test_a_finished_run_resumed_is_tested_again_and_stays_the_same(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert main(["train", "--config", str(again / records.CONFIG_FILE), "--resume", f"--output={again}"]) == 0
    assert (again / records.TRAIN_FILE).read_text() == (run / records.TRAIN_FILE).read_text()
    confusion = [
        records.read_lines(r / records.RESULTS_FILE)[-1]["domains"]["streets/night"]["confusion"] for r in (run, again)
    ]
    assert confusion[0] == confusion[1]


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_resume_gives_the_losses_of_an_uninterrupted_run(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert train(whole, iterations=4) == 0
    command = [
        sys.executable,
        "-m",
        "spcnet",
        "train",
        *SMALL,
        "--data.workers=1",
        "--iterations=4",
        f"--output={parted}",
    ]
    stop_after_two = (
        "import os, signal, sys\n"
        "from spcnet.engine import trainer\n"
        "step = trainer.Trainer.step\n"
        "def stopping(self, *a):\n"
        "    if self.iteration == 1: os.killpg(0, signal.SIGINT)\n"
        "    return step(self, *a)\n"
        "trainer.Trainer.step = stopping\n"
        "from spcnet.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", stop_after_two, *command[3:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C reaches the loading processes, too
    )
    assert ended.returncode == 130, ended.stderr
    assert "stopped after iteration 2, which is saved" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert main(["train", "--config", str(parted / records.CONFIG_FILE), "--resume"]) == 0
    logs = [[(r["iteration"], r["loss"]) for r in records.read_lines(p / records.TRAIN_FILE)] for p in (whole, parted)]
    assert logs[0] == logs[1]


def test_evaluating_on_another_domain_adds_to_the_run(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert main(["evaluate", str(again), "--targets=[streets/fog]"]) == 0
    record = records.read_lines(again / records.RESULTS_FILE)[-1]
    assert set(record["domains"]) == {"streets/game", "streets/toy", "streets/night", "streets/fog"}
    unseen = [record["domains"][name]["miou"] for name in ("streets/night", "streets/fog")]
    assert record["mean_unseen_miou"] == pytest.approx(sum(unseen) / 2)
    assert record["domains"]["streets/fog"]["images"] == 2


def test_what_takes_folders_of_sets_takes_sets_of_ones_own() -> None:
    """A set of one's own needs its description wherever its folder can be named."""
    options = every_option()
    with_roots = {name for name, known in options.items() if "--roots" in known}
    assert {"evaluate", "export", "robustness", "inspect", "ood fit", "ood evaluate"} <= with_roots
    assert all("--sets" in options[name] for name in (*with_roots, "data check", "data preview", "data cache"))


def test_other_looks_at_the_images_are_a_result_of_their_own(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    given = [
        "--targets=[]",
        "--window=[33,40]",
        "--overlap=0.5",
        "--window_weights=hann",
        "--scales=[1,0.8]",
        "--flip=true",
    ]
    assert main(["evaluate", str(again), *given]) == 0
    first, second = records.read_lines(again / records.RESULTS_FILE)
    assert first["views"] is None
    assert second["views"] == "windows of 33×40, hann, overlap 0.5; scales 1, 0.8; mirrored"
    assert set(second["domains"]) == {"streets/game", "streets/toy"}
    for domain in second["domains"].values():
        assert domain["images"] == first["domains"]["streets/game"]["images"]
        low, high = domain["miou_interval"]
        assert 0 <= low <= domain["miou"] <= high <= 1
    assert main(["evaluate", str(again), "--window=[8,8]"]) == 2
    assert main(["evaluate", str(again), "--scales=[]"]) == 2


def test_predicting_a_folder_writes_maps_overlays_and_styles(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photos / "a.png")
    (photos / "b.jpg").write_bytes(b"no photo")
    for name in ("c.HEIC", "d.heic", "notes.txt"):
        (photos / name).write_bytes(b"x")
    assert main(["predict", str(run), str(photos), f"--output={tmp_path / 'out'}"]) == 1  # b.jpg is told of
    assert "left out 2 files: 2 .heic (install pillow-heif to read them)" in capsys.readouterr().out
    classes = np.asarray(Image.open(tmp_path / "out" / "a_classes.png"))
    assert classes.shape == (50, 70)
    assert classes.max() < 19
    assert (tmp_path / "out" / "a_overlay.png").is_file()
    (image,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert "streets/game" in json.dumps(image)


def test_the_report_is_one_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(run), f"--output={page}"]) == 0
    assert "streets/night" in page.read_text()
    shown = capsys.readouterr().out
    assert "night" in shown
    assert "spcnet" in shown


def test_the_module_runs_as_the_command_and_help_explains_every_option() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "spcnet", "train", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in ("--model.style.momentum", "--data.targets", "--training.precision", "--print_config", "--resume"):
        assert option in shown
    text = " ".join(shown.split())
    for explained in ("Weight β of the compactness loss", "Optimiser steps", "Domains to train on"):
        assert explained in text


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    assert summary(command).split()[0] in capsys.readouterr().out


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_read_and_printed_whole(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", recipe, "--training.seed=7", "--print_config"])
    assert end.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["training"]["seed"] == 7
    assert set(RunConfig.__dataclass_fields__) <= set(printed)


def test_short_options_stand_for_long_ones() -> None:
    training = parse(["train", "--devices=2", "--precision", "bf16-mixed", "--seed", "3"]).arguments["config"].training
    assert (training.devices, training.precision, training.seed) == (2, "bf16-mixed", 3)
    assert parse(["demo", "--iterations=2"]).arguments["iterations"] == 2


def test_hyphens_and_underscores_are_the_same_in_an_option() -> None:
    given = ["convert", "a-b.pth", "c.safetensors", "--allow-missing", "[bot-x.]", "--output-stride=16"]
    arguments = parse(given).arguments
    assert (arguments["source"], arguments["allow_missing"]) == (Path("a-b.pth"), ["bot-x."])
    assert arguments["output_stride"] == 16
    assert parse(["train", "--data.roots.camvid=my-data"]).arguments["config"].data.roots == {"camvid": "my-data"}


BAD_OPTIONS = {
    "unknown method": (["--method=spcnt"], "unknown method 'spcnt': known are .*Did you mean 'spcnet'?"),
    "unknown backbone": (["--model.backbone=resnet5"], "unknown backbone 'resnet5'.*Did you mean 'resnet50'"),
    "unknown option": (["--model.backbones=x"], "backbones"),
    "odd output stride": (["--model.output_stride=12"], "model.output_stride is 12: it must be one of 8, 16, 32"),
    "wrong type": (["--training.iterations=many"], "iterations"),
    "negative rate": (["--training.learning_rate=-1"], "learning_rate is -1.0: it must be above 0"),
    "unknown set": (["--data.sources=[kitty]"], "unknown data set 'kitty'"),
    "unknown style": (["--data.targets=[streets/hail]"], "unknown .*'hail'"),
    "unreadable domain": (["--data.sources=[streets//game]"], "cannot read the domain 'streets//game'"),
    "source as target": (["--data.targets=[streets/game]"], "data.sources and data.targets"),
    "unknown space": (["--data.space=ade20k"], "unknown label space 'ade20k'"),
    "style for the baseline": (
        ["--method=deeplabv3plus", "--model.style.mode=substitution"],
        "deeplabv3plus has no style layers",
    ),
    "no such recipe": (["--config=nowhere"], "there is no recipe nowhere"),
    "image too small": (["--data.size=[16,16]"], "at least 33"),
    "precision": (["--training.precision=8-bit"], "precision"),
    "unknown choice": (
        ["--training.optimizer=adam"],
        r"^spcnet: training.optimizer is adam: it must be one of sgd, adamw. Did you mean adamw\?$",
    ),
    "too few numbers": (
        ["--training.betas=[0.9]"],
        r"^spcnet: training.betas is \[0.9\]: it must be \[a number, a number\]$",
    ),
    "too few or none": (
        ["--training.backbone_warmup=[1]"],
        r"^spcnet: training.backbone_warmup is \[1\]: it must be \[a whole number, a whole number\] or null$",
    ),
    "no mapping": (
        ["--model.norms={layer1:ibn}"],
        r"^spcnet: model.norms is \{layer1:ibn\}: it must be a mapping of names",
    ),
    "misspelt option": (
        ["--model.decodr=x"],
        r"^spcnet: unknown option --model.decodr=x: did you mean --model.decoder\?$",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD_OPTIONS))
def test_a_wrong_option_ends_with_2_and_one_clear_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = BAD_OPTIONS[case]
    try:
        code = train(tmp_path / "run", *options)
    except SystemExit as end:
        code = int(end.code or 0)
    shown = said(capsys)
    assert code == 2, shown
    assert re.search(message, shown), shown
    assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()


def camvid(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in (split, f"{split}annot"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in ("a", "b"):
            Image.fromarray(random.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / split / f"{name}.png")
            label = random.integers(0, 12, (40, 60), dtype=np.uint8)
            Image.fromarray(label).save(folder / f"{split}annot" / f"{name}.png")
    return folder


def _break(what: str, folder: Path) -> None:
    image, label = folder / "train" / "a.png", folder / "trainannot" / "a.png"
    if what == "no folder":
        shutil.rmtree(folder)
    elif what == "empty folder":
        shutil.rmtree(folder / "train")
        (folder / "train").mkdir()
    elif what == "no label":
        label.unlink()
    elif what == "truncated image":
        image.write_bytes(image.read_bytes()[:200])
    elif what == "no image at all":
        image.write_text("hello")
    elif what == "other size":
        Image.fromarray(np.zeros((40, 61), dtype=np.uint8)).save(label)
    elif what == "strange label":
        Image.fromarray(np.full((40, 60), 77, dtype=np.uint8)).save(label)
    elif what == "coloured label":
        Image.fromarray(np.full((40, 60, 3), (1, 2, 3), dtype=np.uint8)).save(label)


BAD_FILES = {
    "no folder": "camvid does not exist",
    "empty folder": "train",
    "no label": "a.png",
    "truncated image": "a.png",
    "no image at all": "a.png",
    "other size": "a.png",
    "strange label": r"77",
    "coloured label": "a.png",
}


@pytest.mark.parametrize("what", sorted(BAD_FILES))
def test_a_wrong_file_ends_with_1_and_one_clear_line(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = camvid(tmp_path / "camvid")
    _break(what, folder)
    code = train(tmp_path / "run", "--data.sources=[camvid,streets/toy]", f"--data.roots.camvid={folder}", iterations=3)
    shown = said(capsys)
    assert code == 1, shown
    assert re.search(BAD_FILES[what], shown), shown
    assert len(shown) < 600
    assert "Traceback" not in shown


def test_an_unwritable_output_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert train(tmp_path / "file" / "run") == 1
    assert "cannot write" in said(capsys)


def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    written: list[str] = []

    def full(source: str, target: str) -> None:
        if Path(target).name == checkpoint.LATEST_FILE:
            written.append(str(target))
            if len(written) == 2:
                raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert train(tmp_path / "run", "--training.checkpoint_every=1") == 1
    assert "No space left on device" in said(capsys)
    assert checkpoint.read(tmp_path / "run" / checkpoint.LATEST_FILE)[2]["iteration"] == 1
    assert not list((tmp_path / "run").glob(".*"))


def test_what_is_no_run_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["evaluate", str(tmp_path)], ["predict", str(tmp_path), "x.png"], ["report", str(tmp_path)]):
        assert main(command) == 1
        assert str(tmp_path) in said(capsys)
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    assert main(["predict", str(tmp_path), "x.png"]) == 1
    assert "model.safetensors" in said(capsys)


def test_a_checkpoint_of_other_domains_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    code = main(
        [
            "train",
            "--config",
            str(again / records.CONFIG_FILE),
            f"--output={again}",
            "--resume",
            "--data.sources=[streets/toy]",
        ]
    )
    assert code == 1
    assert "streets/game, streets/toy" in said(capsys)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(spcnet.errors.UsageError):
        train(tmp_path / "run", "--method=spcnt", "--debug")


def test_a_warning_of_the_package_is_a_line_like_an_error_and_others_keep_their_place() -> None:
    own = cli.format_warning(UserWarning("mind the rate"), UserWarning, cli.__file__, 3, None)
    other = cli.format_warning(UserWarning("mind the gap"), UserWarning, "/elsewhere/x.py", 7, None)
    assert own == "spcnet: mind the rate\n"
    assert other == "/elsewhere/x.py:7: UserWarning: mind the gap\n"
