import io
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rich.console
import yaml

from spcnet.config import ModelConfig, OwnSet, StyleConfig, as_dict, from_dict
from spcnet.errors import UsageError
from spcnet.reports.runs import Run, load_run
from spcnet.reports.tables import (
    Cell,
    Column,
    Table,
    format_points,
    format_value,
    ranked,
    render_terminal,
    summary_table,
)
from tests.support.report_factory import CLASSES, TARGETS, small_domains, write_run


def run_of(folder: Path, *, method: str = "spcnet", seed: int = 0, **mious: float | None) -> Run:
    return load_run(write_run(folder, method=method, seed=seed, domains=small_domains(**mious)))


@pytest.fixture
def two_methods(tmp_path: Path) -> list[Run]:
    return [
        run_of(tmp_path / "s0", method="spcnet", seed=0, source_a=0.70, source_b=0.60, fog=0.50, night=0.40),
        run_of(tmp_path / "s1", method="spcnet", seed=1, source_a=0.72, source_b=0.62, fog=0.54, night=0.38),
        run_of(tmp_path / "d0", method="deeplabv3plus", seed=0, source_a=0.75, source_b=0.65, fog=0.46, night=0.30),
        run_of(tmp_path / "d1", method="deeplabv3plus", seed=1, source_a=0.75, source_b=0.61, fog=0.48, night=0.46),
    ]


def cells(table: Table, label: str) -> dict[str, Cell]:
    row = next(row for row in table.rows if row.label == label)
    return {column.name: cell for column, cell in zip(table.columns, row.cells, strict=True)}


def text_of(table: Table, *, width: int = 300) -> str:
    console = rich.console.Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render_terminal(table, width=width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_figures_are_those_computed_by_hand(two_methods: list[Run]) -> None:
    table = summary_table(two_methods)
    spcnet = cells(table, "spcnet")
    assert spcnet["source_a"].value == pytest.approx(0.71)
    assert spcnet["source_a"].std == pytest.approx(statistics.stdev([0.70, 0.72]))
    assert spcnet["mean of source"].value == pytest.approx((0.65 + 0.67) / 2)
    assert spcnet["mean of unseen"].value == pytest.approx((0.45 + 0.46) / 2)
    assert spcnet["mean of unseen"].std == pytest.approx(statistics.stdev([0.45, 0.46]))
    assert cells(table, "deeplabv3plus")["mean of unseen"].value == pytest.approx((0.38 + 0.47) / 2)


def test_the_gap_is_method_minus_baseline(two_methods: list[Run]) -> None:
    table = summary_table(two_methods)
    assert table.baseline == "deeplabv3plus"
    assert cells(table, "spcnet")["gap"].value == pytest.approx(0.455 - 0.425)
    assert cells(table, "spcnet")["source_a"].gap == pytest.approx(0.71 - 0.75)
    assert cells(table, "deeplabv3plus")["gap"].value is None
    turned = summary_table(two_methods, baseline="spcnet")
    assert cells(turned, "deeplabv3plus")["gap"].value == pytest.approx(0.425 - 0.455)


def test_the_best_of_each_column_is_marked(two_methods: list[Run]) -> None:
    table = summary_table(two_methods)
    best = {name for name, cell in cells(table, "spcnet").items() if cell.best}
    assert best == {"fog", "night", "mean of unseen"}
    assert {name for name, cell in cells(table, "deeplabv3plus").items() if cell.best} == {
        "source_a",
        "source_b",
        "mean of source",
    }


def test_seeds_are_paired_when_counting_wins(two_methods: list[Run]) -> None:
    rows = {row.label: row for row in summary_table(two_methods).rows}
    assert rows["spcnet"].seeds == (0, 1)
    assert rows["spcnet"].wins == (1, 2)  # 45.0 against 38.0, but 46.0 against 47.0
    assert rows["deeplabv3plus"].wins is None


def test_a_leaderboard_has_the_baseline_first_and_then_the_best(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / "a", method="spcnet", night=0.3),
        run_of(tmp_path / "b", method="isw", seed=1, night=0.4),
        run_of(tmp_path / "c", method="ibn", night=None),
        run_of(tmp_path / "d", method="deeplabv3plus", night=0.35),
        run_of(tmp_path / "e", method="isw", seed=0, night=0.5),
    ]
    order = [(run.method, run.seed) for run in ranked(runs)]
    assert order == [("deeplabv3plus", 0), ("isw", 0), ("isw", 1), ("spcnet", 0), ("ibn", 0)]
    assert [run.method for run in ranked(runs, baseline="spcnet")][:1] == ["spcnet"]
    assert [run.method for run in ranked(runs[:2], baseline="ibn")] == ["isw", "spcnet"]


def test_one_run_alone_has_no_gap_no_best_and_no_deviation(tmp_path: Path) -> None:
    table = summary_table([run_of(tmp_path / "a", method="deeplabv3plus", source_a=0.6, fog=0.5)])
    assert [column.kind for column in table.columns] == ["source", "unseen", "unseen mean"]
    assert all(cell.std is None and not cell.best and cell.gap is None for cell in table.rows[0].cells)
    assert "± " not in text_of(table)
    assert table.warnings == ()


def test_methods_without_a_baseline_are_compared_without_a_gap(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / m, method=m, source_a=0.6, fog=0.5) for m in ("spcnet", "robustnet")]
    table = summary_table(runs)
    assert table.baseline is None
    assert "gap" not in [column.kind for column in table.columns]


def test_a_domain_without_a_score_is_a_dash_and_not_zero(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / "a", method="spcnet", source_a=0.6, fog=None, night=0.4),
        run_of(tmp_path / "b", method="deeplabv3plus", source_a=0.6, fog=0.5, night=0.3),
    ]
    table = summary_table(runs)
    spcnet = cells(table, "spcnet")
    assert spcnet["fog"].value is None
    assert spcnet["fog"].gap is None
    assert spcnet["gap"].value is None
    assert re.search(r"60\.0 +– +40\.0 +– +–", text_of(table))


def test_of_three_seeds_one_without_a_score_is_left_out_of_the_mean(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / str(s), seed=s, source_a=0.6, fog=v) for s, v in enumerate((0.5, None, 0.4))]
    fog = cells(summary_table(runs), "spcnet")["fog"]
    assert (fog.value, fog.count) == (pytest.approx(0.45), 2)


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", source_a=0.6, fog=0.5)
    assert summary_table([run, load_run(tmp_path / "a" / ".." / "a")]).rows[0].seeds == (0,)


def test_variants_of_a_method_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    runs = []
    for sharpness in (1.0, 4.0):
        model = ModelConfig(style=StyleConfig(sharpness=sharpness))
        folder = write_run(tmp_path / str(sharpness), model=model, domains=small_domains(source_a=0.6, fog=0.5))
        runs.append(load_run(folder))
    labels = [row.label for row in summary_table(runs).rows]
    assert labels == ["spcnet (style.sharpness=1.0)", "spcnet (style.sharpness=4.0)"]


def test_seeds_of_an_earlier_version_stay_with_those_of_this_one(tmp_path: Path) -> None:
    """The earlier one did not know of a setting, which the later one has at its default."""
    runs = [run_of(tmp_path / str(seed), seed=seed, source_a=0.6, fog=0.5) for seed in (0, 1)]
    known = {path: value for path, value in runs[0].config["model"].items() if path != "loss"}
    earlier = replace(runs[0], config={**runs[0].config, "model": known})
    assert "loss" in runs[1].config["model"]
    assert [row.seeds for row in summary_table([earlier, runs[1]]).rows] == [(0, 1)]


def test_seeds_on_an_own_set_stay_together_whichever_version_wrote_them(tmp_path: Path) -> None:
    """The earlier one knew no colours, and a set is written in more than one way."""
    own = {"images": "photos/*.jpg", "labels": "masks/*.png", "table": {0: "road", 7: "void"}, "splits": ["all"]}
    runs = [
        altered(tmp_path / "earlier", "data.sets", {"mine": own}),
        altered(tmp_path / "now", "data.sets", as_dict({"mine": from_dict(OwnSet, own)}), seed=1),
        altered(tmp_path / "other", "data.sets", {"mine": {**own, "table": {0: "sidewalk", 7: "void"}}}),
    ]
    rows = summary_table(runs).rows
    assert [row.seeds for row in rows] == [(0, 1), (0,)]
    assert "sets.mine.table.0=sidewalk" in rows[1].label
    damaged = altered(tmp_path / "damaged", "data.sets", {"mine": {"labels": 3}, "other": 4})
    assert len(summary_table([runs[0], damaged]).rows) == 2


def test_runs_that_cannot_be_compared_are_warned_about(tmp_path: Path) -> None:
    def warnings(**changes: Any) -> str:
        common: dict[str, Any] = {"domains": small_domains(source_a=0.6, fog=0.5)}
        name = "-".join(changes) + str(len(list(tmp_path.iterdir())))
        one = load_run(write_run(tmp_path / f"{name}-one", method="deeplabv3plus", **common))
        other = load_run(write_run(tmp_path / f"{name}-other", **(common | changes)))
        return "\n".join(summary_table([one, other]).warnings)

    assert warnings() == ""
    assert "the backbone differs: resnet18 (backbone2-one); resnet50" in warnings(backbone="resnet50")
    assert "image size differs: 128, 256 (size4-one); 64, 128" in warnings(size=(64, 128))
    assert "number of iterations differs" in warnings(iterations=300)
    assert "classes differ" in warnings(classes=["lane", *CLASSES[1:]])
    assert "not scored on the same domains" in warnings(domains=small_domains(source_a=0.6, night=0.5))
    assert "was scored after 300 of 600 iterations" in warnings(evaluations=[300])
    fewer = small_domains(source_a=0.6, fog=0.5)
    fewer["fog"]["images"] = 3
    assert "number of scored images differs on fog" in warnings(domains=fewer)
    own = small_domains(source_a=0.6, fog=0.5)
    own["fog"]["set"] = {"images": "a/*.jpg", "root": "/data"}
    assert "fog means own data sets that are described differently" in warnings(domains=own)
    here = load_run(write_run(tmp_path / "here", method="deeplabv3plus", domains=own))
    moved = small_domains(source_a=0.6, fog=0.5)
    moved["fog"]["set"] = {"images": "a/*.jpg", "root": "/elsewhere"}
    assert summary_table([here, load_run(write_run(tmp_path / "there", domains=moved))]).warnings == ()


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    assert format_points(0.0004) == "0.0"
    assert format_points(-0.031) == "−3.1"
    assert format_points(None) == "–"


def test_a_deviation_stands_behind_its_mean() -> None:
    cell = Cell(value=0.61237, std=0.0123, count=3)
    assert format_value(cell, Column("a", "unseen")) == "61.2 ± 1.2"


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("num_methods", [1, 2, 3, 5])
def test_the_table_fits_the_terminal_and_loses_no_figure(tmp_path: Path, width: int, num_methods: int) -> None:
    methods = ["deeplabv3plus", "spcnet", "robustnet", "ibn", "iw"][:num_methods]
    folders = [write_run(tmp_path / f"{m}{s}", method=m, seed=s) for m in methods for s in range(3)]
    table = summary_table([load_run(folder) for folder in folders])
    text = text_of(table, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in table.rows:
        assert row.label in text
        means = [cell for column, cell in zip(table.columns, row.cells, strict=True) if column.kind == "unseen mean"]
        assert f"{100 * (means[0].value or 0):.1f}" in text
    if num_methods <= 4:
        assert "streets/overcast" in text.replace("/\n", "/")


def test_no_runs_are_refused() -> None:
    with pytest.raises(UsageError, match="no run to report"):
        summary_table([])


def altered(folder: Path, path: str, value: Any, *, seed: int = 0, **mious: float | None) -> Run:
    """A run with one setting as given."""
    run_of(folder, seed=seed, **mious or {"source_a": 0.7, "fog": 0.5})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    *groups, name = path.split(".")
    place = config
    for group in groups:
        place = place.setdefault(group, {})
    place[name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return load_run(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.root", "/elsewhere"),
        ("data.roots.gtav", "/elsewhere/gtav"),
        ("data.workers", 7),
        ("logging.every", 0),
        ("logging.wandb", "project"),
        ("training.profile", 10),
        ("training.compile", True),
        ("training.activation_checkpointing", True),
        ("training.deterministic", False),
        ("training.accelerator", "cuda"),
        ("training.devices", 2),
        ("training.evaluate_every", 100),
        ("evaluation.batch_size", 1),
        ("evaluation.scales", 1),
        ("data.targets", ",".join(TARGETS)),
    ],
)
def test_runs_that_differ_only_in_where_and_how_they_ran_are_seeds_of_one_method(
    path: str, value: Any, tmp_path: Path
) -> None:
    runs = [altered(tmp_path / "a", "training.seed", 0), altered(tmp_path / "b", path, value, seed=1)]
    (row,) = summary_table(runs).rows
    assert (row.label, row.seeds) == ("spcnet", (0, 1))


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("training.precision", "bf16-mixed", "precision=bf16-mixed"),
        ("training.accumulate", 2, "accumulate=2"),
        ("data.exclude", ["list.txt"], "exclude=list.txt"),
        ("data.augmentation.styles", ["fog"], "styles=fog"),
        ("data.sampling", "proportional", "sampling=proportional"),
        ("model.style.momentum", 0.5, "momentum=0.5"),
        ("model.of_a_later_version", 3, "of_a_later_version=3"),
    ],
)
def test_runs_that_differ_in_a_result_are_two_methods_with_names_that_say_so(
    path: str, value: Any, name: str, tmp_path: Path
) -> None:
    runs = [altered(tmp_path / "a", "training.seed", 0), altered(tmp_path / "b", path, value, seed=1)]
    labels = [row.label for row in summary_table(runs).rows]
    assert len(set(labels)) == 2
    assert name in labels[1]
    assert "=)" not in labels[0]


def test_groups_that_differ_in_much_have_names_of_their_own(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / place / "run", source_a=0.7, fog=0.5) for place in "ab"]
    model = {"style": {"momentum": 0.5, "sharpness": 2.0}, "clustering": {"momentum": 0.5}}
    runs[1] = replace(runs[1], config={**runs[1].config, "model": model})
    labels = [row.label for row in summary_table(runs).rows]
    assert labels == ["spcnet (a/run)", "spcnet (b/run)"]


def test_larger_batches_by_more_processes_are_said(tmp_path: Path) -> None:
    runs = [altered(tmp_path / "a", "training.seed", 0), altered(tmp_path / "b", "training.devices", 2, seed=1)]
    warned = "not comparable: the images per domain in a batch differs: 4 (a); 8 (b)"
    assert warned in summary_table(runs).warnings
    known = replace(runs[1], environment={"processes": 1})  # what it was set to is not what there was
    assert warned not in summary_table([runs[0], known]).warnings


def test_one_seed_twice_is_said(tmp_path: Path) -> None:
    runs = [altered(tmp_path / name, "training.seed", 0) for name in "ab"]
    assert any("one experiment with one seed, 0" in line for line in summary_table(runs).warnings)
    assert not any("one seed" in line for line in summary_table(runs[:1]).warnings)
