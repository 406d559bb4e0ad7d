"""Engines in commands: what is noted of them, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from spcnet.commands.evaluate import evaluate
from spcnet.commands.export import export
from spcnet.commands.predict import predict
from spcnet.errors import UsageError
from spcnet.runs import OpenRun
from spcnet.studies.engines import engine_options, parse_engine


@pytest.fixture
def run(tiny_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_runs / "spcnet", tmp_path / "run"))


def test_another_engines_figures_do_not_take_the_runs_place(run: Path) -> None:
    before = (run / "results.jsonl").read_text()
    record = evaluate(run, engine="fused", limit=1)
    assert record["engine"] == "fused f32"
    assert (run / "results.jsonl").read_text() == before
    again = evaluate(run, engine="torch", precision="bf16", limit=1)
    lines = [json.loads(line)["engine"] for line in (run / "protocols.jsonl").read_text().splitlines()]
    assert lines == ["fused f32", again["engine"]] == ["fused f32", "torch bf16"]


def test_export_compares_engines_at_two_sizes(run: Path, tmp_path: Path) -> None:
    export(run, output=tmp_path / "a.pt2", format="torch-export", engines=["fused", "torch:bf16"], repeats=0)
    rows = json.loads((tmp_path / "a.pt2.json").read_text())["engines"]
    assert [(row["engine"], row["precision"]) for row in rows] == [("fused", "f32"), ("torch", "bf16")] * 2
    assert rows[2]["height"] == 2 * rows[0]["height"]
    assert all(row["difference"] < 1e-3 * row["largest"] for row in rows if row["engine"] == "fused")
    assert all(row["equal"] > 0.9 for row in rows)


def test_int8_is_calibrated_on_the_sources_or_on_what_is_named(run: Path, tmp_path: Path) -> None:
    opened = OpenRun(run)
    options = engine_options(opened, "openvino", "int8")
    assert options.calibration is not None
    images = list(options.calibration.images())
    assert 1 < len(images) <= 64
    assert {tuple(image.shape[2:]) for image in images} == {opened.card.size}
    other = engine_options(opened, "openvino", "int8", "streets/toy")
    assert other.calibration is not None
    assert other.calibration.name != options.calibration.name
    with pytest.raises(UsageError, match="does not say where its sources lie"):
        engine_options(OpenRun(run / "model.safetensors"), "openvino", "int8")


def test_options_that_would_be_ignored_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--calibration is for --precision int8"):
        predict(run, [tmp_path], calibration="streets/toy")
    with pytest.raises(UsageError, match="one process, and devices is 2"):
        evaluate(run, engine="fused", devices=2)
    with pytest.raises(UsageError, match="Did you mean 'openvino'"):
        parse_engine("openvno")
    with pytest.raises(UsageError, match="unknown precision of fused"):
        parse_engine("fused:bf16")


def test_images_that_change_under_their_names_are_another_calibration(run: Path, tmp_path: Path) -> None:
    names = []
    for colour in (90, 90, 91):
        Image.new("RGB", (96, 64), (colour, 120, 60)).save(tmp_path / "street.png")
        options = engine_options(OpenRun(run), "openvino", "int8", str(tmp_path), size=(64, 96))
        assert options.calibration is not None
        names.append(options.calibration.name)
    assert names[0] == names[1] != names[2]
