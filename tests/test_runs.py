"""A run is opened once: its settings, its data and its network, and each tensor is read one time."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Self

import jaxtyping
import pytest
import safetensors
import torch
from PIL import Image

import spcnet
from spcnet import checkpoint
from spcnet.cli import main
from spcnet.config import DataConfig, EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from spcnet.data.fixture import write_fixture
from spcnet.engine import records
from spcnet.errors import CheckpointError, DataError, UsageError
from spcnet.labels import label_space
from spcnet.methods import card_for, method_named
from spcnet.runs import DataOptions, OpenRun

SIZE = (64, 128)


def write_run(folder: Path, **data: Any) -> Path:
    """The folder of a run without its training: settings, a network, and where it stands."""
    space = label_space("cityscapes19")
    config = RunConfig(
        method="spcnet",
        model=ModelConfig(backbone="shufflenet_v2", weights=None),
        data=DataConfig(
            **{
                "sources": ["streets/game@train"],
                "targets": ["streets/night"],
                "size": SIZE,
                "workers": 0,
                "test_scenes": 1,
                **data,
            }
        ),
        training=TrainingConfig(iterations=7, accelerator="cpu"),
        evaluation=EvaluationConfig(batch_size=3),
        output=folder,
    )
    records.open_run(config)
    torch.manual_seed(0)
    network = method_named(config.method).build(config.model, num_classes=19, num_domains=1, pretrained=False)
    card = card_for(
        method=config.method,
        model=config.model,
        space=space.name,
        classes=space.classes,
        domains=config.data.sources,
        size=config.data.size,
    )
    checkpoint.write(folder / checkpoint.MODEL_FILE, network.state_dict(), card, {"iteration": 7})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run")


def test_a_run_has_its_settings_its_data_and_its_network(run: Path) -> None:
    opened = OpenRun(run)
    assert (opened.is_run, opened.iteration, opened.card.method, opened.space.name) == (
        True,
        7,
        "spcnet",
        "cityscapes19",
    )
    assert opened.config.evaluation.batch_size == opened.evaluation.batch_size == 3
    assert opened.names == ("streets/game", "streets/night")
    assert opened.sources == ("streets/game",)
    assert list(opened.tests()) == ["streets/game", "streets/night"]
    assert list(opened.training_sets()) == ["streets/game@train"]
    assert opened.network is opened.network
    assert not opened.network.training


def test_options_say_what_is_evaluated_and_where_it_lies(run: Path, tmp_path: Path) -> None:
    write_fixture("cityscapes", tmp_path / "city", images_per_split=1, size=(48, 64))
    options = DataOptions(targets=["cityscapes", "streets/game"], roots={"cityscapes": str(tmp_path / "city")})
    opened = OpenRun(run, options)
    assert opened.names == ("cityscapes", "streets/game")
    assert opened.data.targets == ["cityscapes"], "a source is no target"
    assert {name: len(images) for name, images in opened.tests().items()} == {"cityscapes": 1, "streets/game": 1}
    assert opened.own_names == ("streets/game", "streets/night"), "the run is known by its own"
    assert OpenRun(run, DataOptions(targets=[])).names == ("streets/game",)
    assert OpenRun(run, DataOptions(targets="streets/fog, streets/rain")).names == ("streets/fog", "streets/rain")
    assert OpenRun(run, DataOptions(size=(96, 96))).data.size == (96, 96)
    with pytest.raises(UsageError, match="streets/game@train"):
        _ = OpenRun(run, DataOptions(targets=["streets/game@train"])).names


def test_a_lone_file_of_weights_has_a_card_and_no_settings(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / checkpoint.MODEL_FILE, tmp_path / "weights")
    opened = OpenRun(tmp_path / "weights", DataOptions(targets=["streets/game", "streets/night"]))
    assert (opened.is_run, opened.iteration, opened.data.size) == (False, 7, SIZE)
    assert opened.names == ("streets/game", "streets/night"), "any domain may be evaluated"
    assert opened.evaluation == EvaluationConfig()
    assert opened.training == TrainingConfig()
    assert opened.own_names == ()
    with pytest.raises(DataError, match=r"config\.yaml"):
        _ = opened.config
    expected = OpenRun(run).network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in opened.network.state_dict().items())


def test_broken_settings_do_not_keep_a_network_from_being_used(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / records.CONFIG_FILE).write_text("method: [")
    assert spcnet.load_model(tmp_path / "run").state_dict().keys() == OpenRun(run).network.state_dict().keys()
    with pytest.raises(DataError):
        _ = OpenRun(tmp_path / "run").config
    with pytest.raises(CheckpointError):
        _ = OpenRun(tmp_path / "nowhere").network


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "RUN", "--limit=1"],
        ["evaluate", "RUN", "--size=[48,64]", "--targets=[streets/night]"],
        ["evaluate", "RUN/model.safetensors", "--targets=[streets/night]"],
        ["predict", "RUN", "IMAGE", "--output=OUT", "--accelerator=cpu"],
        ["export", "RUN", "--output=OUT/model.pt2", "--format=torch-export", "--repeats=0"],
        ["push", "RUN/model.safetensors", "someone/network", "--folder=OUT"],
        [
            "robustness",
            "RUN",
            "--target=streets/night",
            "--output=OUT",
            "--corruptions=[gaussian_noise]",
            "--severities=[1]",
            "--styles=[]",
            "--workers=0",
        ],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_command_reads_each_tensor_once(
    command: list[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "run")
    Image.new("RGB", (64, 48)).save(tmp_path / "image.png")
    reads: Counter[tuple[str, str]] = Counter()

    class Counting:
        """An opened file that counts what is read from it."""

        def __init__(self, path: Path, **options: Any) -> None:
            self.path, self.file = str(path), safetensors.safe_open(path, **options)

        def __enter__(self) -> Self:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_tensor(self, name: str) -> Any:
            reads[self.path, name] += 1
            return self.file.get_tensor(name)

    paths = {"RUN": tmp_path / "run", "IMAGE": tmp_path / "image.png", "OUT": tmp_path / "out"}
    for word, path in paths.items():
        command = [part.replace(word, str(path)) for part in command]
    names = OpenRun(run).network.state_dict()
    monkeypatch.setattr(checkpoint, "safe_open", Counting)
    jaxtyping.config.update("jaxtyping_disable", command[0] == "export")  # a graph's free sizes are no numbers
    try:
        assert main(command) == 0
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert set(reads) == {(str(tmp_path / "run" / checkpoint.MODEL_FILE), name) for name in names}
    assert set(reads.values()) == {1}
