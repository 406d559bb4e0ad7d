"""The site builds without a warning, and every command on its pages runs."""

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import config
from PIL import Image

from spcnet import cli
from spcnet.commands.convert import convert
from spcnet.commands.predict import predict
from spcnet.data.fixture import write_fixture
from spcnet.options import SHORT
from spcnet.synthesis import streets
from tests.support.commands import every_option

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "recipes" / "README.md"])
SETS = ("bdd100k", "camvid", "cityscapes", "gtav", "idd_lite", "mapillary", "synthia")
ELSEWHERE = {
    "make": "the targets are what the gate calls, and those of a fresh machine",
    "pip": "installing is what the gate begins with",
    "torchrun": "tests/engine/test_several_processes.py",
    "SPCNET_DATA=/data": "tests/engine/test_several_processes.py runs the batch script with a stand-in for srun",
    "python": "examples/onnx_only.py in tests/test_export.py; benchmarks have their own --quick",
    ".venv/bin/python": "as python",
    "export": "a variable of the shell",
}
"""What commands begin with that other tests run, and where."""
SMALL = {
    "train": [
        "--training.iterations=1", "--training.accelerator=cpu", "--training.devices=1", "--data.size=[80,160]",
        "--data.crop=[80,160]", "--data.images_per_domain=1", "--data.workers=0", "--data.train_scenes=4",
        "--data.test_scenes=2", "--model.backbone=mobilenet_v2", "--model.weights=null", "--data.class_uniform=0",
        "--training.precision=32-true", "--evaluation.limit=1", "--overwrite",
    ],
    "evaluate": ["--limit=2", "--devices=1"],
    "robustness": ["--limit=1", "--corruptions=[fog]", "--severities=[1]", "--accelerator=cpu"],
    "inspect": ["--limit=3", "--accelerator=cpu"],
    "ood fit": ["--limit=10"],
    "ood evaluate": ["--limit=2", "--varied=1", "--corruptions=[fog]", "--styles=[]", "--severities=[5]"],
    "export": ["--repeats=0"],
}  # fmt: skip
"""Options that make a command small, behind its own."""
FIRST = ("README", "first-run", "data")
"""Pages that newcomers read first; the commands of the others take longer."""
STAYS_OPEN = ("app",)
"""Commands that go on until they are stopped; that they can be started is tested elsewhere."""


def commands_of(page: Path) -> list[str]:
    """The lines of the page's blocks of commands, continued lines joined."""
    text = page.read_text()
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language in ("", "bash", "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.strip() for line in lines if re.match(r"(\$ )?[\w./]+=?\S* ", line.strip() + " ")]
    return [line.removeprefix("$ ") for line in found if _is_command(line)]


def _is_command(line: str) -> bool:
    first = line.removeprefix("$ ").split()[0]
    return first in (*ELSEWHERE, "spcnet", ".venv/bin/spcnet")


@pytest.fixture(scope="module", autouse=True)
def _tracing_without_checked_shapes() -> Iterator[None]:
    """While a network is exported its sizes are symbols, which are no `int` for the checks that tests run under."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_runs: Path) -> Path:
    """A folder in which all that the pages speak of exists, in small."""
    folder = tmp_path_factory.mktemp("world")
    for name in SETS:
        write_fixture(name, folder / "data" / name, images_per_split=2)
    for path in list((folder / "data" / "cityscapes").rglob("*.png")):
        path.rename(path.with_name(f"{path.parent.name}_000000_{path.name}"))  # as Cityscapes names them
    for kind in ("photos", "masks"):
        (folder / "data" / "mine" / kind).mkdir(parents=True)
    for number in range(2):
        scene = streets.generate(number, style="toy", size=(80, 160))
        Image.fromarray(scene.image).save(folder / "data" / "mine" / "photos" / f"{number}.jpg")
        Image.fromarray(scene.label % 5).save(folder / "data" / "mine" / "masks" / f"{number}_mask.png")
    described = (ROOT / "docs" / "protocols.md").read_text().split("```yaml\n")[1].split("```")[0]
    (folder / "mine.yaml").write_text(described)
    (folder / "photos").mkdir()
    for number in range(2):
        Image.fromarray(streets.generate(number, style="game", size=(80, 160)).image).save(
            folder / "photos" / f"street_{number}.png"
        )
    shutil.copytree(folder / "photos", folder / "my_photos")
    shutil.copy(folder / "photos" / "street_0.png", folder / "photo.png")
    (folder / "data" / "cityscapes256").symlink_to("cityscapes")
    for name, method in (("mine", "spcnet"), ("other", "deeplabv3plus")):
        shutil.copytree(tiny_runs / method, folder / "runs" / name)
        # Half of the size, which a page evaluates at, must be one that networks take.
        config = folder / "runs" / name / "config.yaml"
        config.write_text(config.read_text().replace("- 48\n  - 64\n", "- 80\n  - 160\n"))
    runs = folder / "runs"
    for name in (
        "gs_r50",
        "first",
        "real-small/spcnet",
        "real-small/spcnet-0",
        "real-small/weather_spcnet",
        "demo/spcnet",
    ):
        shutil.copytree(runs / "mine", runs / name)
    for name in ("real-small/baseline", "real-small/baseline-0", "demo/baseline"):
        shutil.copytree(runs / "other", runs / name)
    convert(runs / "mine", folder / "weights.pth", to="robustnet")
    weights = torch.load(folder / "weights.pth", weights_only=True)["state_dict"]
    average = {key: value + 1 if value.is_floating_point() else value for key, value in weights.items()}
    torch.save({"model": weights, "model_ema": average}, folder / "last.pth")
    predict(runs / "mine", [str(folder / "data" / "cityscapes" / "leftImg8bit" / "val")], output=folder / "predictions")
    _video(folder / "drive.mp4")
    return folder


def _video(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 160, 80, "yuv420p"
        for _ in range(4):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.zeros((80, 160, 3), np.uint8), format="rgb24")):
                file.mux(packet)
        file.mux(stream.encode())


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page.stem in FIRST else pytest.mark.slow) for page in PAGES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_every_command_of_a_page_runs(page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    shutil.copytree(world, own, symlinks=True, copy_function=os.link)
    monkeypatch.chdir(own)
    monkeypatch.setenv("SPCNET_DATA", str(world / "data"))
    for line in commands_of(page):
        if line.split()[0] in ELSEWHERE:
            continue
        words = [
            re.sub(r"(?<![\w.])/data/", f"{world}/data/", word) for word in shlex.split(re.sub(r"\s#.*", "", line))[1:]
        ]
        for place, word in enumerate(words):
            if word == "DIR":
                words[place] = str(world / "data" / words[place - 1].rpartition(".")[2].removeprefix("--root"))
        words = [found for word in words for found in (sorted(glob.glob(word)) if "*" in word else [word])]
        if words and words[0] in STAYS_OPEN:
            cli.parse(words)
            continue
        small = next((SMALL[key] for key in (" ".join(words[:2]), words[0]) if key in SMALL), [])
        if {"--resume", "--help", "--dry-run", "--dry_run"} & set(words):
            small = []
        if any(word.startswith("timm/") for word in words):  # what is said of vision transformers holds for no other
            small = [option for option in small if not option.startswith("--model.backbone")]
        try:
            code = cli.main([*words, *small])
        except SystemExit as end:  # --help
            code = int(end.code or 0)
        assert code == 0, f"{page.name}: {line}"


def test_commands_and_options_within_sentences_exist() -> None:
    known = {"--help": set[str](), "--version": set[str](), **every_option()}
    known |= {command.split()[0]: set[str]() for command in known if " " in command}
    old_options = {option for renamed in cli.OLD_OPTIONS.values() for option in renamed}
    every = set().union(
        *known.values(), SHORT, {"--quick", "--plot", "--steps", "--kills", "--images", "--flat", "--shm_size"}
    )
    seen, wrong = 0, []
    for page in PAGES:
        migration = page.name == "migration.md"
        names = {**known, **{name: set[str]() for name in cli.OLD_COMMANDS}} if migration else known
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for span in re.findall(r"`((?:spcnet |--)[^`]*)`", text):
            words = span.split()
            command = ""
            if words[0] == "spcnet":
                two = " ".join(words[1:3])
                command = two if two in names else words[1]
            options = [
                word.partition("=")[0].replace("-", "_").replace("__", "--", 1) for word in words if word[:2] == "--"
            ]
            own = (
                every | (old_options if migration else set())
                if not command
                else names.get(command, set()) | (set(SHORT) if command == "train" else set())
            )
            missing = [
                o
                for o in options
                if o not in own and not o.startswith(("--roots.", "--data.roots.", "--data.sets.", "--model.settings."))
            ]
            if (command and command not in names) or missing:
                wrong.append(f"{page.name}: {span} ({', '.join(missing) or command})")
            seen += 1
    assert not wrong, "\n".join(wrong)
    assert seen > 100


def test_every_page_is_listed_and_has_what_it_promises() -> None:
    listed = re.findall(r"^([\w-]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "index")
    assert sum(len(commands_of(page)) for page in PAGES) > 40


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    pages = {path.stem: path.read_text() for path in tmp_path.glob("*.html")}
    for name, text in pages.items():
        loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?:[^\"]+)", text)
        assert not loaded, f"{name} loads {loaded}"
    assert "<math" in pages["methods"]
    assert 'href="api.html#spcnet.models.style.style_stats"' in pages["methods"], "names lead to the reference"
    assert "build_model" in pages["api"]
