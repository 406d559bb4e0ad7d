"""Tables over seeds: which evaluation counts, means with their standard errors, and how they are written."""

import io
import json
import math
import re
import statistics
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from spcnet.errors import DataError, UsageError
from spcnet.reports.aggregate import (
    RULES,
    aggregate,
    render_terminal,
    select,
    standard_error,
    to_latex,
    to_markdown,
    to_values,
)
from spcnet.reports.runs import Run, load_run
from spcnet.reports.tables import Cell
from tests.support.report_factory import result_record, small_domains, write_lines, write_run


def run_of(folder: Path, *scores: Mapping[str, float | None], method: str = "spcnet", seed: int = 0) -> Run:
    """A run with an evaluation for each of the scores, every hundred iterations."""
    last = 100 * len(scores)
    write_run(folder, method=method, seed=seed, iterations=last, domains=small_domains(**scores[-1]))
    records = [result_record(method, seed, 100 * (i + 1), small_domains(**one)) for i, one in enumerate(scores)]
    write_lines(folder / "results.jsonl", records)
    return load_run(folder)


@pytest.fixture
def three_times(tmp_path: Path) -> Run:
    """The best on the source after 200, on the unseen domain after 100, the last after 300."""
    scores = ({"source": 0.3, "night": 0.9}, {"source": 0.8, "night": 0.2}, {"source": 0.5, "night": 0.4})
    return run_of(tmp_path / "spcnet-0", *scores)


@pytest.fixture
def two_methods(tmp_path: Path) -> list[Run]:
    """Three seeds of one method, one of another."""
    ours = [
        run_of(tmp_path / f"spcnet-{seed}", {"source": 0.6, "night": night, "fog_1": 0.25}, seed=seed)
        for seed, night in enumerate((0.40, 0.43, 0.46))
    ]
    plain = run_of(tmp_path / "deeplabv3plus-0", {"source": 0.7, "night": 0.40, "fog_1": 0.25}, method="deeplabv3plus")
    return [*ours, plain]


# Selection


def test_a_domain_that_only_the_last_network_was_scored_on_has_no_say_in_the_choice(tmp_path: Path) -> None:
    scores = ({"source": 0.5, "night": 0.3}, {"source": 0.6, "night": 0.4, "mine": 0.1, "source_2": 0.1})
    run = run_of(tmp_path / "spcnet-0", *scores)
    assert run.means("unseen") == (0.3, 0.4)
    assert run.means("source") == (0.5, 0.6)
    assert [select(run, rule).final.iteration for rule in ("oracle", "best_on_source")] == [200, 200]
    assert run.final.mean_unseen_miou == pytest.approx(0.25)


def test_a_look_at_named_domains_alone_is_no_choice(tmp_path: Path) -> None:
    run = run_of(tmp_path / "spcnet-0", {"source": 0.5, "night": 0.3}, {"source": 0.6, "night": 0.4})
    partial = result_record("spcnet", 0, 300, small_domains(source=0.9, night=0.9)) | {"partial": True}
    with (run.folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(partial) + "\n")
    again = load_run(run.folder)
    assert {select(again, rule).final.iteration for rule in RULES} == {200}
    assert [(other.iteration, other.partial) for other in again.others] == [(300, True)]
    write_lines(run.folder / "results.jsonl", [partial])
    assert load_run(run.folder).final.iteration == 300, "where nothing else is known it is shown"


@pytest.mark.parametrize(("rule", "iteration"), [("last", 300), ("best_on_source", 200), ("oracle", 100)])
def test_a_rule_takes_what_its_name_says(three_times: Run, rule: str, iteration: int) -> None:
    assert select(three_times, rule).final.iteration == iteration


@pytest.mark.parametrize("rule", ["last", "best_on_source"])
def test_only_the_oracle_is_moved_by_the_unseen_domains(tmp_path: Path, rule: str) -> None:
    def chosen(folder: str, *unseen: float) -> int:
        sources = (0.3, 0.8, 0.5)
        scores = [{"source": s, "night": u} for s, u in zip(sources, unseen, strict=True)]
        return select(run_of(tmp_path / folder, *scores), rule).final.iteration

    assert chosen("rising", 0.1, 0.2, 0.9) == chosen("falling", 0.9, 0.2, 0.1) == chosen("middle", 0.1, 0.9, 0.1)


def test_of_equals_the_later_is_taken(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *[{"source": 0.5, "night": 0.5}] * 3)
    assert {rule: select(run, rule).final.iteration for rule in RULES} == dict.fromkeys(RULES, 300)


def test_an_evaluation_without_the_score_is_passed_over_and_a_run_without_it_is_told_of(tmp_path: Path) -> None:
    some = run_of(tmp_path / "some", {"source": 0.2, "night": 0.5}, {"source": None, "night": 0.5})
    assert select(some, "best_on_source").final.iteration == 100
    none = run_of(tmp_path / "none", {"source": None, "night": 0.5})
    with pytest.raises(DataError, match=r"no evaluation with a mean over its sources.*best_on_source"):
        select(none, "best_on_source")
    assert select(none, "last").final.iteration == 100


def test_an_unknown_rule_is_refused(three_times: Run) -> None:
    with pytest.raises(
        UsageError, match="unknown rule of selection 'best_on_target': known are best_on_source, last, or"
    ):
        aggregate([three_times], rule="best_on_target")


def test_the_oracle_is_marked_in_every_table_and_no_other_rule_is(three_times: Run) -> None:
    for rule in RULES:
        found = aggregate([three_times], rule=rule)
        shown = Console(width=400, record=True, file=io.StringIO())
        shown.print(render_terminal(found, width=400))
        for text in (to_markdown(found), to_latex(found), shown.export_text(), json.dumps(to_values(found))):
            assert ("ORACLE, IT LOOKS AT THE TEST DATA" in " ".join(text.split())) == (rule == "oracle")
        assert to_values(found)["looks_at_targets"] == (rule == "oracle")


def test_a_choice_among_one_is_told_of(tmp_path: Path, three_times: Run) -> None:
    single = run_of(tmp_path / "spcnet-1", {"source": 0.5, "night": 0.4}, seed=1)
    (note,) = [n for n in aggregate([three_times, single], rule="best_on_source").notes if "evaluate_every" in n]
    assert "spcnet-1" in note
    assert "spcnet-0" not in note
    assert not [n for n in aggregate([single], rule="last").notes if "evaluate_every" in n]


def test_an_earlier_choice_is_not_called_an_unfinished_run(three_times: Run) -> None:
    assert aggregate([three_times], rule="oracle").notes == ()


# Means and errors


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_the_standard_error_is_the_deviation_over_the_root_of_the_number(values: list[float]) -> None:
    cell = Cell(statistics.fmean(values), statistics.stdev(values), len(values))
    mean = statistics.fmean(values)
    slow = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) * (len(values) - 1)))
    found = standard_error(cell)
    assert found is not None
    assert found == pytest.approx(slow, abs=1e-12)


def test_seeds_of_a_method_make_one_row_with_their_number(two_methods: list[Run]) -> None:
    ours, plain = to_values(aggregate(two_methods))["rows"]
    assert (ours["label"], ours["seeds"]) == ("spcnet", [0, 1, 2])
    night = ours["columns"]["night"]
    assert night["miou"] == pytest.approx(0.43)
    assert night["standard_error"] == pytest.approx(0.03 / math.sqrt(3))
    assert (night["n"], night["kind"], night["best"]) == (3, "unseen", True)
    assert plain["columns"]["night"]["standard_error"] is None
    assert plain["columns"]["source"]["best"] is True
    assert not any(row["columns"]["fog_1"]["best"] for row in (ours, plain))


def test_a_row_can_be_called_by_what_is_varied(two_methods: list[Run]) -> None:
    found = aggregate(two_methods, labels={two_methods[0].folder: "spcnet (momentum=0.9)"})
    assert [row.label for row in found.table.rows] == ["spcnet (momentum=0.9)", "deeplabv3plus"]


def test_the_tables_show_means_errors_and_numbers(two_methods: list[Run]) -> None:
    found = aggregate(two_methods, notes=["spcnet-3 is missing: failed"])
    lines = to_markdown(found).splitlines()
    assert lines[0] == "| mIoU in % | n | night | fog_1 | mean of unseen | source (source) |"
    assert lines[2] == "| spcnet | 3 | **43.0** ± 1.7 | 25.0 ± 0.0 | **34.0** ± 0.9 | 60.0 ± 0.0 |"
    assert lines[3] == "| deeplabv3plus | 1 | 40.0 | 25.0 | 32.5 | **70.0** |"
    assert "a single seed has no error" in lines[5]
    assert lines[-1] == "> spcnet-3 is missing: failed"


def test_a_mean_over_fewer_seeds_than_its_row_says_so(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / f"spcnet-{seed}", {"source": 0.5, "night": night}, seed=seed)
        for seed, night in enumerate((0.4, None, 0.6))
    ]
    assert "50.0 ± 10.0 (n=2)" in to_markdown(aggregate(runs))
    assert r"50.0 \pm 10.0 \;(n{=}2)" in to_latex(aggregate(runs))


def test_latex_has_as_many_cells_in_each_row_and_no_bare_sign(two_methods: list[Run]) -> None:
    text = to_latex(aggregate(two_methods, labels={two_methods[0].folder: "spcnet (a_b=50%, {c}&~d)"}))
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {6}
    assert r"spcnet (a\_b=50\%, \{c\}\&\textasciitilde{}d)" in text
    assert r"$\mathbf{43.0} \pm 1.7$" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert text.count("{") == text.count("}")
    outside = re.sub(r"%.*", "", text.replace(r"\%", ""))
    assert "±" not in outside
    assert "_1" not in outside.replace(r"\_1", "")


def test_notes_stand_in_latex_as_comments(two_methods: list[Run]) -> None:
    text = to_latex(aggregate(two_methods, notes=["spcnet-3 is missing: failed"]))
    assert "% Note: spcnet-3 is missing: failed" in text.splitlines()


@pytest.mark.parametrize("width", [200, 60, 45])
def test_the_table_fits_the_terminal(two_methods: list[Run], width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_terminal(aggregate(two_methods), width=width))
    text = console.export_text()
    assert "…" not in text
    assert "34.0 ± 0.9" in text
    assert max(map(len, text.splitlines())) <= width


def test_the_values_are_plain_json_without_nan(two_methods: list[Run]) -> None:
    values = to_values(aggregate(two_methods))
    assert json.loads(json.dumps(values, allow_nan=False)) == values
