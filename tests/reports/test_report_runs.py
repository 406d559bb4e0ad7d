import json
import math
from pathlib import Path

import numpy as np
import pytest

from spcnet.errors import DataError
from spcnet.evaluation.evaluator import safe_name
from spcnet.reports.runs import load_run, panel_folder
from tests.support.report_factory import TARGETS, result_record, small_domains, write_lines, write_run


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", method="spcnet", seed=3, evaluations=[300, 600], panels=True)
    run = load_run(folder)
    assert (run.method, run.seed, run.setting("data.size"), run.setting("no.such")) == ("spcnet", 3, [128, 256], None)
    assert [e.iteration for e in run.evaluations] == [300, 600]
    assert run.final.names("unseen") == tuple(TARGETS)
    night = run.final.domains["streets/night"]
    assert night.iou["train"] is None
    assert night.absent == ("train",)
    assert night.confusion.shape == (7, 7)
    assert len(night.figures["style_weights"]) == 3
    assert len(run.log) == 30
    assert run.log[0].parts.keys() == {"ce", "var", "dis"}
    assert run.environment["device"] == "cpu"
    panels = run.panels["streets/night"]
    assert [panel.name for panel in panels] == ["scene-0", "scene-17"]
    assert panels[1].prediction == folder / "panels/streets-night/1_prediction.png"


def test_a_half_written_last_line_is_skipped(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    append(folder / "train.jsonl", '{"iteration": 620, "loss": 0.')
    append(folder / "results.jsonl", '{"iteration": 620, "ti')
    run = load_run(folder)
    assert run.log[-1].iteration == 600
    assert run.final.iteration == 600


def test_a_line_cut_inside_a_character_is_skipped(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    with (folder / "train.jsonl").open("ab") as file:
        file.write('{"iteration": 620, "note": "é'.encode()[:-1])
    assert load_run(folder).log[-1].iteration == 600


def test_of_a_repeated_iteration_the_last_line_wins(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", iterations=100)
    append(folder / "train.jsonl", json.dumps({"iteration": 60, "loss": 7.5, "parts": {"ce": 7.5}}) + "\n")
    run = load_run(folder)
    assert [line.iteration for line in run.log] == [20, 40, 60, 80, 100]
    assert run.log[2].loss == 7.5
    assert math.isnan(run.log[2].learning_rate)


def test_a_diverged_run_can_be_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", iterations=20, domains=small_domains(source_a=0.5, b=None))
    append(folder / "train.jsonl", '{"iteration": 40, "loss": NaN, "parts": {"ce": null}}\n')
    run = load_run(folder)
    assert math.isnan(run.log[-1].loss)
    assert math.isnan(run.log[-1].parts["ce"])
    assert run.final.domains["b"].miou is None
    assert run.final.mean_unseen_miou is None


def test_a_run_without_a_log_panels_and_environment_can_be_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "train.jsonl").unlink()
    (folder / "environment.json").unlink()
    run = load_run(folder)
    assert (run.log, dict(run.panels), dict(run.environment)) == ((), {}, {})


def test_a_panel_without_its_prediction_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", panels=True)
    (folder / "panels/camvid/0_prediction.png").unlink()
    assert [panel.name for panel in load_run(folder).panels["camvid"]] == ["scene-17"]


@pytest.mark.parametrize("domain", ["streets/night", "idd_lite@val", "cityscapes+fog", "a/../b", "ä b", "x:y"])
def test_panels_are_sought_where_the_evaluator_writes_them(domain: str) -> None:
    assert panel_folder(domain) == safe_name(domain)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.yaml", None, "is not a run folder: it has no config.yaml"),
        ("config.yaml", "method: [", "cannot read .*config.yaml: while parsing"),
        ("config.yaml", "- 1", "names no method"),
        ("config.yaml", "method: !!python/object:os.system {}", "cannot read .*config.yaml"),
        ("environment.json", "{", "cannot read .*environment.json"),
        ("environment.json", "[]", "holds no JSON object"),
        ("results.jsonl", None, "holds no results yet"),
        ("results.jsonl", "", "holds no results yet"),
        ("results.jsonl", '{"iteration": 1, "dom', "holds no results yet"),
        ("results.jsonl", '{"iter\n{"iteration": 2}\n', "results.jsonl line 1 is not JSON"),
        ("results.jsonl", "[1]\n", "line 1 holds no JSON object"),
        ("results.jsonl", '{"iteration": 1}\n', "line 1: classes is missing; it must be a list"),
        ("train.jsonl", '{"iteration": "x"}\n', "line 1: iteration is 'x'; it must be a whole number"),
        ("train.jsonl", '{"iteration": 1, "loss": "big"}\n', "loss is 'big'; it must be a number"),
        ("panels/camvid/panels.json", "{}", "holds no JSON list"),
    ],
)
def test_a_broken_run_folder_is_refused_in_one_line(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    folder = write_run(tmp_path / "a")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("miou", 61.2, "miou is 61.2; it must lie in 0..1"),
        ("role", "target", "role is 'target'; it must be source or unseen"),
        ("confusion", [[1, 2], [3, 4]], r"shape \(2, 2\); with 7 classes it must be 7×7"),
        ("confusion", [[1], [3, 4]], "not a table of whole numbers"),
        ("style_weights", [1, 2], "style_weights must hold a list of numbers"),
        ("iou", None, "iou is missing; it must be an object"),
    ],
)
def test_a_result_that_cannot_be_true_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    domains = small_domains(source_a=0.5, b=0.4)
    domains["b"][key] = value
    folder = write_run(tmp_path / "a", domains=small_domains(source_a=0.5, b=0.4))
    record = json.loads((folder / "results.jsonl").read_text())
    (folder / "results.jsonl").write_text(json.dumps(record | {"domains": domains}) + "\n")
    with pytest.raises(DataError, match=f"line 1, domain b: .*{message}"):
        load_run(folder)


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load_run(tmp_path / "nowhere")


def test_another_way_of_looking_does_not_take_the_place_of_the_result(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", domains=small_domains(source_a=0.6, fog=0.5))
    with (folder / "results.jsonl").open("a") as file:
        for views, miou in (("scales 0.5, 1", 0.7), ("mirrored", 0.8), ("mirrored", 0.9)):
            line = result_record("spcnet", 0, 600, small_domains(source_a=0.6, fog=miou), views=views)
            file.write(json.dumps(line) + "\n")
    run = load_run(folder)
    assert run.final.mean_unseen_miou == 0.5
    assert [(other.manner, other.mean_unseen_miou) for other in run.others] == [
        ("scales 0.5, 1", 0.7),
        ("mirrored", 0.9),
    ]


def test_a_run_that_is_scored_in_windows_keeps_to_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", domains=small_domains(source_a=0.6, fog=0.5), views="mirrored")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("flip: false", "flip: true"))
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(result_record("spcnet", 0, 600, small_domains(source_a=0.6, fog=0.4))) + "\n")
    run = load_run(folder)
    assert run.final.mean_unseen_miou == 0.5
    assert [other.manner for other in run.others] == ["whole images, one scale"]


def test_protocols_of_papers_are_read_beside_the_result(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", domains=small_domains(source_a=0.6, fog=0.5))
    scored = small_domains(fog=0.3)
    lines = [{"protocol": "rein"}, {"protocol": "rein"}, {"protocol": "spcnet", "size": [512, 1024]}]
    write_lines(folder / "protocols.jsonl", [result_record("spcnet", 0, 600, scored, **line) for line in lines])
    run = load_run(folder)
    assert run.final.mean_unseen_miou == 0.5
    assert [other.manner for other in run.others] == ["rein", "at 512×1024"]


def test_what_older_runs_did_not_record_is_nothing_and_what_newer_ones_did_is_there(tmp_path: Path) -> None:
    old = load_run(write_run(tmp_path / "a", domains=small_domains(source_a=0.6, fog=0.5))).final.domains["fog"]
    assert (old.interval, old.precision, old.recall, old.mean_accuracy, old.weighted_iou) == (None, {}, {}, None, None)
    new = load_run(write_run(tmp_path / "b")).final.domains["camvid"]
    assert new.miou is not None
    assert new.interval == pytest.approx((new.miou - 0.013, new.miou + 0.017))
    assert new.precision["train"] is None
    assert 0 < (new.recall["road"] or 0) <= 1
    assert new.mean_accuracy == pytest.approx(np.mean([value for value in new.recall.values() if value is not None]))
    assert 0 < (new.weighted_iou or 0) < (new.pixel_accuracy or 0)


@pytest.mark.parametrize("value", [[0.1], "0.1", [0.1, 7], {"low": 0.1}])
def test_a_strange_interval_is_refused(tmp_path: Path, value: object) -> None:
    domains = small_domains(fog=0.5)
    domains["fog"]["miou_interval"] = value
    with pytest.raises(DataError, match="miou_interval"):
        load_run(write_run(tmp_path / "a", domains=domains))
