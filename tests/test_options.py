"""Options as they are written: lists without brackets, and files of options in every encoding that an editor makes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spcnet.cli import main, parse
from spcnet.commands.data import data_of
from spcnet.config import (
    DataConfig,
    EvaluationConfig,
    LossConfig,
    RunConfig,
    TrainingConfig,
    coerced,
    from_dict,
    plain_lists,
)
from spcnet.cost import costs
from spcnet.errors import DataError, UsageError
from spcnet.files import read_text
from spcnet.inference.images import find_images
from spcnet.options import OptionParser, add_run_options
from spcnet.runs import OpenRun
from spcnet.studies.conditions import conditions
from spcnet.studies.sweep import plan


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
        (["robustness", "m", "--target=s", "--styles", "fog"], "styles", ["fog"]),
        (["robustness", "m", "--target=s", "--severities", "1,3"], "severities", [1, 3]),
        (["inspect", "m", "--targets", "a,b"], "targets", ["a", "b"]),
        (["convert", "a", "b", "--wt_layer", "0,0,2,2,2,0,0"], "wt_layer", [0, 0, 2, 2, 2, 0, 0]),
        (["convert", "a", "b", "--allow_missing", "aux"], "allow_missing", ["aux"]),
        (["data", "styles", "--styles", "fog"], "styles", ["fog"]),
        (["data", "cache", "gtav", "a", "b", "--splits", "train"], "splits", ["train"]),
    ],
)
def test_so_it_is_in_every_command(arguments: list[str], option: str, value: Any) -> None:
    assert parse(arguments).arguments[option] == value


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
    "itself": (b"data: &a {sources: [gtav], sets: *a}\n", "contains itself, by an alias"),
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
        assert OpenRun(tmp_path).config


@pytest.mark.parametrize("call", [["train", "--print_config", "--config"], ["train", "--config"], ["sweep"]])
def test_a_group_of_options_that_is_a_number_is_one_line(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: 3\n")
    assert main([*call, str(recipe)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "training: 3, which is a group of options" in said
    assert "training: {iterations: ...}" in said


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


def test_a_function_that_wants_several_takes_one() -> None:
    """A text is a sequence of its letters, too."""

    @plain_lists
    def function(
        names: Sequence[str],
        /,
        numbers: Sequence[int] | None = None,
        *,
        paths: Sequence[Path] = (),
        inputs: Sequence[Path | str] = (),
        other: str = "",
    ) -> list[Any]:
        return [names, numbers, paths, inputs, other]

    nothing: Any = [None, (), (), ""]
    assert function("fog") == [["fog"], *nothing]
    assert function("fog, rain", 3) == [["fog", "rain"], [3], *nothing[1:]]
    one: Any = "a,b"
    assert function(["fog"], paths=one, inputs=one, other="a,b") == [["fog"], None, [Path(one)], [one], one]
    assert function(("a", "b"), paths=[Path("c")]) == [("a", "b"), None, [Path("c")], (), ""]


def test_no_public_function_takes_a_name_for_its_letters(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fgo"):
        conditions("fgo", None, [1])
    with pytest.raises(UsageError, match="spcnett"):
        list(costs("spcnett", None, size=(64, 64), repeats=0))
    with pytest.raises(UsageError, match=r"nothing\.png is not there"):
        find_images(str(tmp_path / "nothing.png"))
    rows = plan("demo/spcnet", output=tmp_path, methods="spcnet", vary={"model.style.momentum": "0.5,0.8"})
    assert [row.settings for row in rows] == [{"model.style.momentum": value} for value in ("0.5", "0.8")]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataConfig, {"size": 128}, r"data\.size is 128: it must be \[a whole number, a whole number\] or null"),
        (DataConfig, {"size": [128.5, 256]}, r"data\.size is \[128\.5, 256\]"),
        (DataConfig, {"sources": {"gtav"}}, "data.sources is .*: it must be a list of texts"),
        (DataConfig, {"roots": "data"}, "it must be a mapping"),
        (EvaluationConfig, {"flip": "false"}, "it must be true or false"),
        (TrainingConfig, {"iterations": 10.5}, "it must be a whole number"),
        (TrainingConfig, {"iterations": True}, "it must be a whole number"),
        (LossConfig, {"weighting": "class", "class_weights": "x"}, "it must be a list of numbers or null"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(kind: Any, values: dict[str, Any], message: str) -> None:
    config = kind()
    for name, value in values.items():
        object.__setattr__(config, name, value)  # as it comes where types are not checked at each call
    with pytest.raises(UsageError, match=message):
        config.__post_init__()


def test_a_path_can_stand_where_a_text_is_wanted(tmp_path: Path) -> None:
    assert coerced(str | None, tmp_path) == str(tmp_path)
    assert coerced(list[str], tmp_path / "a,b.txt") == [str(tmp_path / "a,b.txt")]


def test_keys_that_are_no_text_are_unknown_options() -> None:
    with pytest.raises(UsageError, match="unknown options 1, None"):
        from_dict(RunConfig, {1: 2, None: 3})


def test_a_group_of_options_is_a_mapping_or_empty() -> None:
    assert from_dict(RunConfig, {"data": None}) == RunConfig()
    with pytest.raises(UsageError, match="training is 3: it must map options to values"):
        from_dict(RunConfig, {"training": 3})
