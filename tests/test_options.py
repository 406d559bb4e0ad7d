"""Options as they are written: lists without brackets, and files of options in every encoding that an editor makes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spcnet.cli import main, make_parser
from spcnet.commands import read_config
from spcnet.config import RunConfig
from spcnet.dataset_commands import data_of
from spcnet.errors import DataError
from spcnet.files import read_text
from spcnet.options import OptionParser, add_run_options
from spcnet.sweep import plan


def of_a_run(*arguments: str) -> Any:
    parser = OptionParser(exit_on_error=False)
    add_run_options(parser)
    return parser.parse_args(list(arguments))


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("data.sources", "gtav", ["gtav"]),
        ("data.sources", "gtav,synthia", ["gtav", "synthia"]),
        ("data.sources", "[gtav, synthia]", ["gtav", "synthia"]),
        ("data.targets", "streets/night@val+rain", ["streets/night@val+rain"]),
        ("data.targets", "[]", []),
        ("data.exclude", "my images: [1].txt", ["my images: [1].txt"]),
        ("data.exclude", "'a,b.txt'", ["a,b.txt"]),
        ("data.augmentation.styles", "rain", ["rain"]),
        ("data.augmentation.scale", "0.5,2", (0.5, 2.0)),
        ("data.size", "96,192", (96, 192)),
        ("data.crop", "null", None),
        ("evaluation.scales", "1.0", [1.0]),
        ("evaluation.scales", "0.5,1", [0.5, 1.0]),
        ("model.loss.strict", "3", [3]),
        ("model.norms", "0,0,2,2,2,0,0", [0, 0, 2, 2, 2, 0, 0]),
        ("model.norms", "{stem: ibn}", {"stem": "ibn"}),
        ("model.loss.class_weights", "null", None),
    ],
)
def test_a_list_needs_no_brackets(option: str, text: str, value: Any, tmp_path: Path) -> None:
    assert of_a_run(f"--{option}", text)[option] == value
    *groups, name = option.split(".")
    if not text.startswith(("[", "{")):
        text = f'"{text}"'
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("".join(f"{'  ' * depth}{group}:\n" for depth, group in enumerate(groups)))
    with recipe.open("a") as file:
        file.write(f"{'  ' * len(groups)}{name}: {text}\n")
    assert of_a_run(f"--config={recipe}")[option] == value


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        (["evaluate", "m", "--targets", "cityscapes"], "targets", ["cityscapes"]),
        (["evaluate", "m", "--scales", "1"], "scales", [1.0]),
        (["evaluate", "m", "--targets", "null"], "targets", None),
        (["predict", "m", "a.png", "--scales=1.5"], "scales", [1.5]),
        (["robustness", "m", "--set=s", "--styles", "fog"], "styles", ["fog"]),
        (["robustness", "m", "--set=s", "--severities", "1,3"], "severities", [1, 3]),
        (["inspect", "m", "--targets", "a,b"], "targets", ["a", "b"]),
        (["convert", "a", "b", "--wt_layer", "0,0,2,2,2,0,0"], "wt_layer", [0, 0, 2, 2, 2, 0, 0]),
        (["convert", "a", "b", "--allow_missing", "aux"], "allow_missing", ["aux"]),
        (["data", "styles", "--styles", "fog"], "styles", ["fog"]),
        (["data", "cache", "gtav", "a", "b", "--splits", "train"], "splits", ["train"]),
    ],
)
def test_so_it_is_in_every_command(arguments: list[str], option: str, value: Any) -> None:
    options = make_parser().parse_args(arguments)[arguments[0]]
    assert (options[options.action] if "action" in options else options)[option] == value


def test_a_list_goes_on_with_names_and_lists() -> None:
    options = of_a_run("--data.sources=gtav", "--data.sources+=idd", "--data.sources+", "camvid,bdd100k")
    assert options.data.sources == ["gtav", "idd", "camvid", "bdd100k"]


TEXT = "expected: größer\ndata:\n  sources: [gtav]\n  targets: camvid\n"
SPOILT = {
    "Latin-1": (TEXT.encode("latin-1"), "not UTF-8: line 1 has the byte 0xf6; save it as UTF-8"),
    "UTF-16": (TEXT.encode("utf-16"), "is UTF-16, it must be UTF-8: save it as UTF-8"),
    "UTF-16 without mark": (TEXT.replace("ö", "o").replace("ß", "s").encode("utf-16-le"), "NUL byte"),
    "NUL": (TEXT.encode() + b"\0", "line 5 has a NUL byte"),
    "binary": (bytes(range(256)), "not UTF-8|NUL byte"),
    "no YAML": (b"data: [\n", "Mend that line"),
    "empty": (b"", "is empty and names no method"),
    "a list": (b"- gtav\n", "it must map options to values"),
}


@pytest.mark.parametrize(("content", "message"), SPOILT.values(), ids=SPOILT)
def test_a_recipe_that_is_no_utf8_is_one_clear_line_everywhere(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(content)
    calls: Sequence[list[str]] = [
        ["train", f"--config={recipe}"],
        ["train", "--config", str(recipe), "--dry-run"],
        ["train", "--config", str(recipe), "--print_config"],
        ["train", "--data", str(recipe)],
        ["sweep", str(recipe), "--dry-run"],
        ["data", "check", "own", str(tmp_path), "--recipe", str(recipe)],
    ]
    for call in calls:
        assert main(call) == 1, call
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert str(recipe) in said
        with pytest.raises(DataError, match=message):
            raise DataError(said)
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_recipe_from_a_windows_editor_is_read(mark: bytes, end: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(mark + TEXT.replace("\n", end).encode())
    assert of_a_run(f"--config={recipe}").expected == "größer"
    assert data_of(str(recipe)).targets == ["camvid"]
    assert plan(str(recipe), output=tmp_path)[0].config.expected == "größer"
    assert read_text(recipe) == TEXT


def test_the_defaults_of_the_parser_are_those_of_the_settings() -> None:
    options = of_a_run()
    assert options.data.sources == RunConfig().data.sources
