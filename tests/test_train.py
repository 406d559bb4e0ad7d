"""What a training refuses before its first step, and what it lets be."""

import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from spcnet import checkpoint, training
from spcnet.commands.evaluate import evaluate
from spcnet.commands.robustness import robustness
from spcnet.config import DataConfig, EvaluationConfig, ModelConfig, OwnSet, RunConfig, TrainingConfig
from spcnet.data.labelled import check_labelled
from spcnet.data.loading import file_names
from spcnet.dry_run import rehearse
from spcnet.engine import membership, records
from spcnet.engine.devices import make_fabric
from spcnet.engine.trainer import Trainer
from spcnet.errors import CheckpointError, DataError, UsageError
from spcnet.labels import label_space
from spcnet.locks import locked
from spcnet.reports.runs import load_run
from spcnet.runs import open_domains
from spcnet.training import Experiment

SPACE = label_space("idd7")
TABLE = {0: "void", 1: "road", 2: "car"}


def write_set(root: Path, name: str, labels: list[int], *, first: int = 0) -> None:
    """Photos of noise, each with a label image of a single id."""
    for number, value in enumerate(labels, first):
        for kind, pixels in (
            ("photos", np.full((40, 40, 3), 9, np.uint8)),
            ("masks", np.full((40, 40), value, np.uint8)),
        ):
            path = root / name / kind / f"{name}{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def run_of(output: Path, root: Path, *sources: str, table: dict[int, str] | None = None, **data: object) -> RunConfig:
    own = OwnSet(images="photos/*.png", labels="masks/*.png", table=table or TABLE, splits=["all"])
    options = {"size": (40, 40), "images_per_domain": 1, "workers": 0, "targets": [], "root": str(root), **data}
    return RunConfig(
        method="deeplabv3plus",
        model=ModelConfig(backbone="shufflenet_v2", weights=None, output_stride=32),
        data=DataConfig(sources=list(sources), sets=dict.fromkeys("ab", own), space="idd7", **options),  # type: ignore[arg-type]
        training=TrainingConfig(iterations=2, log_every=1, accelerator="cpu"),
        evaluation=EvaluationConfig(batch_size=1, panels=0),
        output=output,
    )


def made(config: RunConfig) -> Trainer:
    """The trainer of a run, with the images that it has now."""
    experiment = Experiment.open(config)
    return experiment.make_trainer(experiment.build_network(), make_fabric(config.training))


def begun(config: RunConfig) -> RunConfig:
    """A run that stopped after its first checkpoint."""
    trainer = made(config)
    config.output.mkdir(parents=True)
    trainer.save()
    records.open_run(config)
    membership.write(config.output, trainer.images)
    return config


# A source without labels


@pytest.mark.parametrize("sources", [("b",), ("a", "b"), ("a", "b+fog")])
def test_a_source_without_a_labelled_pixel_is_refused_by_name(sources: tuple[str, ...], tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1, 2])
    write_set(tmp_path, "b", [0] * 7)
    with pytest.raises(
        DataError, match=rf"source {sources[-1].replace('+', '.')} has no labelled pixel.* of its 7 images "
    ):
        training.train(run_of(tmp_path / "run", tmp_path, *sources))
    assert not (tmp_path / "run").exists()


def test_what_is_left_out_or_unreadable_does_not_count_as_labelled(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [0, 1, 0])
    listed = tmp_path / "exclude.txt"
    listed.write_text("a\tphotos/a01.png\tblurred\n")
    with pytest.raises(DataError, match="no labelled pixel"):
        training.train(run_of(tmp_path / "run", tmp_path, "a", exclude=[str(listed)]))
    (tmp_path / "a" / "photos" / "a01.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=" of its 3 images "):
        training.train(run_of(tmp_path / "run", tmp_path, "a", on_bad_image="skip"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_single_labelled_image_is_enough(workers: int, tmp_path: Path) -> None:
    write_set(tmp_path, "a", [0] * 12)
    config = run_of(tmp_path / "run", tmp_path, "a")
    said: list[str] = []

    def check() -> None:
        opened = open_domains(["a"], config.data, SPACE, training=True)["a"]
        check_labelled("a", opened, workers=workers, say=said.append)

    for number in (0, 11):
        write_set(tmp_path, "a", [1], first=number)
        check()
        write_set(tmp_path, "a", [0], first=number)
    with pytest.raises(DataError, match=" of its 12 images "):
        check()
    assert "all 12" in said[-1]


def test_of_a_labelled_set_one_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, "a", [1] * 20)
    opened = open_domains(["a"], run_of(tmp_path, tmp_path, "a").data, SPACE, training=True)["a"]
    reads: list[int] = []
    read = opened.read
    monkeypatch.setattr(opened, "read", lambda index: reads.append(index) or read(index))
    check_labelled("a", opened)
    assert len(reads) == 1


def test_a_set_whose_table_names_only_void_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [0, 1])
    config = run_of(tmp_path / "run", tmp_path, "a", table={0: "void", 1: "void"})
    with pytest.raises(UsageError, match=r"data set a .*idd7's classes, all are void"):
        training.train(config)


def test_a_target_without_labels_is_scored_as_none_and_said_to_be(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1])
    write_set(tmp_path, "b", [0, 0])
    config = run_of(tmp_path / "run", tmp_path, "a", targets=["b"])
    trainer = made(config)
    console = Console(record=True, width=200, file=(tmp_path / "said.txt").open("w"))
    record = Experiment.open(config).evaluate(trainer, console, lambda record: None)
    assert record["domains"]["b"]["miou"] is None
    assert record["domains"]["a"]["miou"] is not None
    text = console.export_text()
    assert "b: none of the 2 images has a labelled pixel" in text
    assert "a: none" not in text


def test_a_dry_run_says_which_domains_have_no_labels(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1, 2])
    write_set(tmp_path, "b", [0, 0])
    report = rehearse(run_of(tmp_path / "run", tmp_path, "a", targets=["b"]))
    assert report.ready
    assert report.notes == ["no image of b has a labelled pixel: it will have no mIoU"]
    report = rehearse(run_of(tmp_path / "run", tmp_path, "b", targets=["a"]))
    assert not report.ready
    assert "the source b has no labelled pixel" in report.problems[0]


def test_robustness_refuses_a_set_without_labels(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1])
    write_set(tmp_path, "b", [0, 0])
    config = begun(run_of(tmp_path / "run", tmp_path, "a", targets=["b"]))
    with pytest.raises(DataError, match="no image of b has a labelled pixel"):
        robustness([config.output], target="b", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Other images than before


def test_images_that_were_added_or_removed_are_named(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1, 2, 1])
    write_set(tmp_path, "b", [1, 2])
    config = begun(run_of(tmp_path / "run", tmp_path, "a", "b"))
    before = (config.output / checkpoint.LATEST_FILE).read_bytes()
    write_set(tmp_path, "b", [1] * 5, first=2)
    with pytest.raises(CheckpointError, match=r"source b .* 2 then, 7 now, 5 added \(b02, b03, b04, \.\.\.\).*exclude"):
        training.train(config, resume=True)
    shutil.rmtree(tmp_path / "b")
    write_set(tmp_path, "b", [1, 1], first=1)
    with pytest.raises(CheckpointError, match=r"2 then, 2 now, 1 removed \(b00\), 1 added \(b02\).*put back"):
        training.train(config, resume=True)
    assert (config.output / checkpoint.LATEST_FILE).read_bytes() == before
    assert records.read_lines(config.output / records.TRAIN_FILE) == []


def test_excluding_what_was_added_makes_the_set_what_it_was(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1, 2])
    config = begun(run_of(tmp_path / "run", tmp_path, "a"))
    write_set(tmp_path, "a", [1], first=2)
    listed = tmp_path / "exclude.txt"
    listed.write_text("a\tphotos/a02.png\tadded later\n")
    made(dataclasses.replace(config, data=dataclasses.replace(config.data, exclude=[str(listed)]))).resume()
    listed.write_text("a\tphotos/a02.png\tadded later\na\tphotos/a00.png\tblurred\n")
    with pytest.raises(CheckpointError, match=r"1 removed \(a00\).*put back what was removed or excluded"):
        made(dataclasses.replace(config, data=dataclasses.replace(config.data, exclude=[str(listed)]))).resume()


def test_the_same_images_elsewhere_are_the_same_images(tmp_path: Path) -> None:
    write_set(tmp_path / "here", "a", [1, 2])
    config = begun(run_of(tmp_path / "run", tmp_path / "here", "a"))
    (tmp_path / "here").rename(tmp_path / "there")
    moved = dataclasses.replace(config.data, root=None, roots={"a": str(tmp_path / "there" / "a")})
    made(dataclasses.replace(config, data=moved)).resume()


def test_an_image_in_the_place_of_another_is_noticed_without_the_list_of_names(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1, 2])
    config = begun(run_of(tmp_path / "run", tmp_path, "a"))
    (tmp_path / "a" / "photos" / "a01.png").rename(tmp_path / "a" / "photos" / "a07.png")
    (tmp_path / "a" / "masks" / "a01.png").rename(tmp_path / "a" / "masks" / "a07.png")
    for damage in (b"", gzip.compress(b"{}"), gzip.compress(json.dumps({"a": ["x", "y"]}).encode())):
        (config.output / membership.IMAGES_FILE).write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"source a .* 2 then, 2 now: .*put back .* and name what was added"):
            made(config).resume()
    (config.output / membership.IMAGES_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"2 then, 2 now: "):
        made(config).resume()


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1, 2])
    config = run_of(tmp_path / "run", tmp_path, "a")
    trainer = made(config)
    trainer.images = {}
    config.output.mkdir()
    trainer.save()
    assert "images" not in checkpoint.read_state(config.output / checkpoint.LATEST_FILE)
    write_set(tmp_path, "a", [1], first=2)
    assert made(config).resume() is None


def test_the_order_of_images_counts(tmp_path: Path) -> None:
    one, other = (membership.images_of(2, names) for names in (["x", "y"], ["y", "x"]))
    membership.write(tmp_path, {"a": one})
    with pytest.raises(CheckpointError, match="in another order"):
        membership.check(tmp_path, {"a": one.noted()}, {"a": other})
    membership.check(tmp_path, {"a": one.noted()}, {"a": one})


def test_generated_scenes_are_counted(tmp_path: Path) -> None:
    config = DataConfig(train_scenes=5)
    opened = open_domains(config.sources, config, label_space("cityscapes19"), training=True)["streets/toy"]
    assert file_names(opened) is None
    before, now = (membership.images_of(number, None) for number in (5, 6))
    with pytest.raises(CheckpointError, match="5 then, 6 now"):
        membership.check(tmp_path, {"streets/toy": before.noted()}, {"streets/toy": now})


# One folder, one training


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_second_training_is_refused_while_the_first_lives(how: dict[str, bool], tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1, 2])
    config = begun(run_of(tmp_path / "run", tmp_path, "a"))
    before = {path.name: path.read_bytes() for path in config.output.iterdir()}
    with locked(config.output, what="training"), pytest.raises(UsageError, match=r"in use: another training.*--output"):
        training.train(config, **how)
    assert {path.name: path.read_bytes() for path in config.output.iterdir()} == before


def test_a_training_holds_its_folder_to_its_end_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, "a", [1, 2])
    config = run_of(tmp_path / "run", tmp_path, "a")
    refused: list[str] = []

    def fit(trainer: Trainer, *_: object, on_evaluate: Callable[[int], object], **__: object) -> None:
        with pytest.raises(UsageError, match="in use") as error:
            training.train(config)
        refused.append(str(error.value))
        # What only reads, or adds to the results, is not kept out.
        trainer.iteration = 2
        on_evaluate(2)
        trainer.finish()
        assert evaluate(config.output)["iteration"] == 2
        assert load_run(config.output).final.iteration == 2

    monkeypatch.setattr(Trainer, "fit", fit)
    training.train(config)
    assert len(refused) == 1
    with locked(config.output, what="training"):
        pass
    assert not (config.output / ".lock").exists()


def test_nothing_is_made_for_a_run_that_cannot_be_resumed(tmp_path: Path) -> None:
    write_set(tmp_path, "a", [1])
    with pytest.raises(DataError, match="--resume"):
        training.train(run_of(tmp_path / "run", tmp_path, "a"), resume=True)
    assert not (tmp_path / "run").exists()


def test_a_big_set_is_noted_and_compared_quickly(tmp_path: Path) -> None:
    import time

    names = [f"{number:05d}_some_longer_name_leftImg8bit" for number in range(25_000)]
    began = time.process_time()
    images = {"a": membership.images_of(len(names), names)}
    membership.write(tmp_path, images)
    membership.check(tmp_path, {"a": images["a"].noted()}, images)
    assert time.process_time() - began < 1
    assert (tmp_path / membership.IMAGES_FILE).stat().st_size < 300_000
