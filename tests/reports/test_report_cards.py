from pathlib import Path

import pytest

from spcnet.errors import DataError
from spcnet.reports.cards import _model_of, read_cards, robustness
from spcnet.reports.runs import Run, load_run
from spcnet.reports.series import series_of
from tests.support.cards import FAMILIES, write_card
from tests.support.report_factory import small_domains, write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return load_run(write_run(tmp_path / "spcnet-0", domains=small_domains(source_a=0.6, fog=0.5), backbone="resnet50"))


@pytest.mark.parametrize("place", [".", "robustness", "../card"])
def test_a_card_is_found_in_the_run_and_beside_it(run: Run, place: str) -> None:
    path = write_card(run.folder / place, ["spcnet-0", "other"], methods=["spcnet", "isw"])
    (found,) = read_cards([run]).items()
    assert found[0] == path.resolve()
    assert found[1].models[0].scores["fog"][3].miou == 0.45


def test_a_card_about_other_networks_is_none(run: Run) -> None:
    write_card(run.folder.parent / "a", ["spcnet-1"], methods=["spcnet"])
    write_card(run.folder.parent / "b", ["spcnet-0"], methods=["isw"])  # a folder that was used again
    write_card(run.folder.parent / "c", ["spcnet-0"], methods=["spcnet"], backbone="resnet18")
    assert read_cards([run]) == {}
    assert robustness(series_of([run], "deeplabv3plus")[0], {}) == ""


def test_runs_of_one_name_get_their_own_scores(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / seed / "spcnet", domains=small_domains(fog=0.5), backbone="resnet50"))
        for seed in ("seed0", "seed1")
    ]
    write_card(tmp_path / "seed0", ["spcnet"], methods=["spcnet"])
    (path, card), *others = read_cards(runs).items()
    assert not others
    assert _model_of(path, card, runs[0]) is card.models[0]
    assert _model_of(path, card, runs[1]) is None


def test_a_card_of_runs_of_one_name_tells_them_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / "all" / seed / "spcnet", domains=small_domains(fog=0.5), backbone="resnet50"))
        for seed in ("seed0", "seed1")
    ]
    for run in runs:
        path = write_card(run.folder, ["runs/seed0/spcnet", "runs/seed1/spcnet"], methods=["spcnet"] * 2)
        card = read_cards([run])[path.resolve()]
        assert _model_of(path.resolve(), card, run) is card.models[runs.index(run)]
    unclear = write_card(runs[0].folder, ["a/spcnet", "b/spcnet"], methods=["spcnet"] * 2)
    assert unclear.resolve() not in read_cards(runs[:1])


def test_of_two_cards_of_a_set_the_fuller_one_counts(run: Run) -> None:
    few = {name: family for name, family in FAMILIES.items() if name != "+night"}
    write_card(run.folder.parent / "a", ["spcnet-0"], methods=["spcnet"], families=few)
    fuller = write_card(run.folder.parent / "b", ["spcnet-0"], methods=["spcnet"])
    other = write_card(run.folder.parent / "c", ["spcnet-0"], methods=["spcnet"], domain="camvid", families=few)
    assert set(read_cards([run])) == {fuller.resolve(), other.resolve()}


def test_the_section_says_what_is_left(run: Run) -> None:
    write_card(run.folder, ["runs/spcnet-0", "other"], methods=["spcnet", "isw"])
    text = robustness(series_of([run], "deeplabv3plus")[0], read_cards([run]))
    assert "<td>60.0</td><td>37.5</td><td>62.5</td><td>30.0</td><td>45.0</td><td>45.0</td>" in text
    assert '--much:40%" title="mIoU 30.0 %">50</span>' in text
    assert '--much:20%" title="mIoU 45.0 %">75</span>' in text
    assert "1 other network" in text


@pytest.mark.parametrize("content", ["", "[]", '{"domain": "x"}', '{"domain": "x", "images": null}'])
def test_a_broken_card_is_told_in_one_line(run: Run, content: str) -> None:
    (run.folder / "robustness.json").write_text(content)
    with pytest.raises(DataError, match=r"robustness\.json is no robustness card: delete it") as caught:
        read_cards([run])
    assert "\n" not in str(caught.value)
