"""`spcnet data`, as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spcnet.cli import COMMANDS, main
from spcnet.data.catalog import DATASETS
from spcnet.synthesis.weather import WEATHER


@pytest.fixture
def gtav(tmp_path: Path) -> Path:
    assert main(["data", "fixture", "gtav", str(tmp_path / "gtav"), "--images", "3"]) == 0
    return tmp_path / "gtav"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("action", [command.split()[1] for command in COMMANDS if command.startswith("data ")])
def test_every_action_has_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", action, "--help"])
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_every_set_is_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["data", "list"]) == 0
    words = capsys.readouterr().out.split()
    assert set(DATASETS) <= set(words)


def test_a_sound_set_ends_with_0_and_a_damaged_one_with_1_and_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "data:\n  sets:\n    town:\n      images: 'a/*.png'\n      labels: 'b/*.png'\n      splits: [all]\n"
        "      table: {0: road, 1: sky}\n"
    )
    dice = np.random.default_rng(0)
    for name in ("one", "two"):
        for folder in ("a", "b"):
            (tmp_path / "town" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(dice.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"town/a/{name}.png")
        Image.fromarray(dice.integers(0, 2, (20, 30), dtype=np.uint8)).save(tmp_path / f"town/b/{name}.png")
    options = ["--recipe", str(recipe), "--output", str(tmp_path), "--workers", "0"]
    assert main(["data", "check", "town", str(tmp_path / "town"), *options]) == 0
    assert "Nothing is wrong" in capsys.readouterr().out
    Image.new("L", (30, 20), 9).save(tmp_path / "town/b/two.png")
    assert main(["data", "check", "town", str(tmp_path / "town"), *options]) == 1
    report = json.loads((tmp_path / "town_check.json").read_text())
    assert {problem["image"] for problem in report["problems"]} == {"a/two.png"}
    lines = [line for line in (tmp_path / "town_exclude.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines[0].split("\t")[:2] == ["town", "a/two.png"]
    recipe.write_text(recipe.read_text() + f"  exclude: ['{tmp_path / 'town_exclude.txt'}']\n")
    assert main(["data", "check", "town", str(tmp_path / "town"), *options]) == 0
    # The set by itself in a file.
    recipe.write_text(json.dumps(yaml.safe_load(recipe.read_text())["data"]["sets"]))
    options[0] = "--sets"
    assert main(["data", "check", "town", str(tmp_path / "town"), *options]) == 1
    (tmp_path / "town/b/two.png").write_bytes((tmp_path / "town/b/one.png").read_bytes())
    assert main(["data", "check", "town", str(tmp_path / "town"), *options]) == 0
    sheet = str(tmp_path / "sheet.png")
    assert main(["data", "preview", "town", str(tmp_path / "town"), "--sets", str(recipe), "--output", sheet]) == 0
    copy = [str(tmp_path / "town"), str(tmp_path / "copy"), "--sets", str(recipe), "--workers", "0"]
    assert main(["data", "cache", "town", *copy]) == 0


def test_a_copy_is_a_set_of_the_same_kind(gtav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "[32,64]", "--workers", "0"]
    assert main(["data", "cache", "gtav", str(gtav), str(tmp_path / "copy"), *options]) == 0
    sheet = tmp_path / "sheet.png"
    assert main(["data", "preview", "gtav@full", str(tmp_path / "copy"), "--output", str(sheet)]) == 0
    assert "9 images of gtav@full" in capsys.readouterr().out
    with Image.open(sheet) as picture:
        assert min(picture.size) > 100


def test_a_sheet_shows_the_styles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, sheets = tmp_path / "photo.jpg", [tmp_path / "a.png", tmp_path / "b.png"]
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)).save(photo)
    assert main(["data", "styles", str(photo), "--output", str(sheets[0]), "--width", "60"]) == 0
    said = capsys.readouterr().out.split()
    assert {*WEATHER, "pasta", "fourier", "randconv"} <= set(said)
    assert {"advstyle,", "advstyle.", "mixstyle,"} & set(said)  # left out, as they need a network
    assert main(["data", "styles", "--styles", "[fog,rain]", "--output", str(sheets[1]), "--width", "60"]) == 0
    heights = [Image.open(sheet).size[1] for sheet in sheets]
    assert heights[0] > 5 * heights[1]
    assert not {"pasta", "Left"} & set(capsys.readouterr().out.split())
    assert main(["data", "styles", "--plugins", "[pasta,fourier]", "--output", str(sheets[0]), "--width", "60"]) == 0
    assert Image.open(sheets[0]).size[1] == heights[1]
    assert "fog" not in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "gtaw", "x"], 2, "gtav"),
        (["check", "gtav", "nowhere"], 1, "nowhere"),
        (["check", "streets", "."], 2, "generated"),
        (["cache", "gtav", ".", "copy", "--quality", "0"], 2, "1..100"),
        (["fixture", "gtav", "{tmp}", "--layout", "mine"], 2, "mine"),
        (["preview", "gtav+fogg"], 2, "fog"),
        (["preview", "streets/game", "--output", "x.doc"], 1, ".png"),
        (["styles", "nothing.png"], 1, "nothing.png"),
        (["styles", "--styles", "[fogg]"], 2, "fog"),
        (["styles", "--plugins", "[pastta]"], 2, "pasta"),
        (["styles", "--plugins", "[advstyle]"], 2, "needs a network"),
        (["check", "gtav", ".", "--recipe", "none.yaml"], 2, "none.yaml"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [argument.format(tmp=tmp_path / "new") for argument in arguments]
    assert main(["data", *given]) == code
    message = said(capsys)
    assert words in message
    assert "Traceback" not in message
