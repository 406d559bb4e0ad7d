"""A command is its signature: what holds of every one of them, and what a signature may say."""

import inspect
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from rich.console import Console

from spcnet.cli import COMMANDS, OLD_COMMANDS, OLD_OPTIONS, function_of, main, parse, summary
from spcnet.config import REPEATED, RunConfig
from spcnet.errors import UsageError
from spcnet.options import argument_help, call_arguments, command_parser, parameters, spelled_out
from tests.support.commands import every_option

SAME = ("evaluate", "predict", "robustness", "inspect", "export", "app")
"""Commands that name the same thing by the same option."""
OTHERWISE = {"format", "ids", "output", "pixels"}
"""Options whose kind or meaning is the command's own: a file or a folder, of classes or of an image."""


def example(
    model: Path,
    inputs: Sequence[str],
    *,
    needed: str,
    size: tuple[int, int] | None = None,
    names: Sequence[str] = ("a", "b"),
    roots: Mapping[str, str] | None = None,
    vary: Annotated[Sequence[str], REPEATED] = (),
    kind: Literal["one", "other"] = "one",
    flip: bool = False,
    normalise: bool = True,
    share: bool | None = None,
    console: Console | None = None,
) -> int:
    """Do something with 100 % of it.

    And more of that,
    in two lines.

    Args:
        model: folder of a run,
            or a file.
        inputs: images.
        needed: must be given.
        size: height and width; 5 % of them.
        names: some.
        roots: folders: by name.
        vary: several.
        kind: which.
        flip: mirrored.
        normalise: scaled.
        share: shared.
        console: not an option.

    Returns:
        A number.
    """
    return 0


def called(*words: str, renamed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The arguments of `example` from a command line."""
    return call_arguments(
        command_parser("example", example),
        example,
        spelled_out(words, example, renamed or {}, lambda text: None),
    )


def test_a_signature_is_a_command_line() -> None:
    assert called("m", "a.png", "b.png", "--needed=x") == {
        "model": Path("m"),
        "inputs": ["a.png", "b.png"],
        "needed": "x",
        "size": None,
        "roots": None,
        "share": None,
        "names": ["a", "b"],
        "vary": [],
        "kind": "one",
        "flip": False,
        "normalise": True,
    }
    given = [
        "--size",
        "3,4",
        "--names",
        "c,d",
        "--roots.x=1",
        "--roots.y",
        "2",
        "--vary",
        "p=1",
        "--vary",
        "p=2",
        "--kind",
        "other",
    ]
    arguments = called("m", "a", "--needed", "x", *given)
    assert (arguments["size"], arguments["names"], arguments["roots"]) == ((3, 4), ["c", "d"], {"x": "1", "y": "2"})
    assert (arguments["vary"], arguments["kind"]) == (["p=1", "p=2"], "other")


def test_a_flag_may_have_a_value() -> None:
    words = ("m", "a", "--needed=x")
    for flip in (["--flip"], ["--flip=true"], ["--flip", "true"]):
        assert called(*flip, *words)["flip"] is True
    for flip in (["--no_flip"], ["--no-flip"], ["--flip=false"], ["--flip", "false"]):
        assert called(*flip, *words)["flip"] is False
    assert called(*words, "--no-normalise")["normalise"] is False
    assert [called(*words, *share)["share"] for share in ([], ["--share"], ["--no_share"])] == [None, True, False]


@pytest.mark.parametrize(
    "words",
    ["m a", "m --needed=x", "m a --needed=x --kind=third", "m a --needed=x --size=3", "m a --needed=x --console=1"],
)
def test_what_a_signature_does_not_allow_ends_with_2(words: str) -> None:
    with pytest.raises(UsageError) as refused:
        called(*words.split())
    assert "\n" not in str(refused.value)


def test_a_docstring_is_the_help() -> None:
    text = " ".join(command_parser("example", example).format_help().split())
    assert "Do something with 100 % of it. And more of that, in two lines." in text
    assert "Folder of a run, or a file." in text
    assert "Height and width; 5 % of them." in text
    assert "Folders: by name." in text
    assert "not an option" not in text
    assert "A number" not in text


def test_old_names_of_options_work_with_a_notice() -> None:
    notices: list[str] = []
    words = ["--pixels", "3", "--old-name=x", "a"]
    assert spelled_out(words, example, {"--old_name": "--needed"}, notices.append) == [
        "--pixels",
        "3",
        "--needed=x",
        "a",
    ]
    assert len(notices) == 1
    assert "--old_name" in notices[0]
    assert "--needed" in notices[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_parameter_is_an_option_with_help(command: str) -> None:
    function = function_of(command)
    texts, options = argument_help(function), every_option()[command]
    for parameter in parameters(function):
        assert texts.get(parameter.name), f"{command}: {parameter.name} has no help"
        if not parameter.positional and parameter.type is not RunConfig:
            assert f"--{parameter.name}" in options
    assert inspect.signature(function).parameters["console"].default is None
    assert set(texts) == set(inspect.signature(function).parameters)


def test_commands_name_the_same_thing_by_the_same_option() -> None:
    seen: dict[str, tuple[str, Any, str]] = {}
    for command in SAME:
        texts = argument_help(function_of(command))
        for name, kind, *_ in parameters(function_of(command)):
            kinds = set(get_args(kind)) - {type(None)} if get_origin(kind) is Union else {kind}
            here = (command, kinds, texts[name].split()[0].strip(",.;:"))
            other = seen.setdefault(name, here)
            assert name in OTHERWISE or here[1:] == other[1:], f"--{name} of {command} and of {other[0]}"
    assert {
        "model",
        "targets",
        "roots",
        "sets",
        "size",
        "batch_size",
        "limit",
        "output",
        "accelerator",
    } <= set(seen)


def test_help_of_any_command_imports_no_torch() -> None:
    program = (
        "import contextlib, io, sys\n"
        "from spcnet.cli import COMMANDS, main\n"
        "for words in ([], *map(str.split, COMMANDS)):\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main([*words, '--help'])\n"
        "    print(words, [name for name in ('torch', 'lightning', 'numpy', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(COMMANDS) + 1
    assert all(line.endswith(" []") for line in lines), done.stdout


@pytest.mark.parametrize("old", OLD_COMMANDS)
def test_old_commands_work_with_a_notice(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*old.split(), "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr()
    assert f"usage: spcnet {OLD_COMMANDS[old]} " in shown.out
    assert shown.err.count("\n") == 1
    assert old in shown.err
    assert OLD_COMMANDS[old] in shown.err


def test_old_options_stand_for_options_that_exist() -> None:
    options = every_option()
    for command, renamed in OLD_OPTIONS.items():
        assert command in COMMANDS
        assert set(renamed.values()) <= options[command]
        assert not set(renamed) & options[command]
    assert parse(["benchmark", "cost", "--device=cuda", "--paper"]).arguments["accelerator"] == "cuda"


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["data"], ["data", "nonsense"], ["--nonsense", "evaluate"], ["--", "demo"]]
)
def test_what_is_no_command_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_menus_list_every_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for words in ([], ["data"], ["ood"], ["debug"]):
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        for command in COMMANDS:
            if command.split()[:-1] == words:
                assert summary(command).split(";")[0] in shown


def test_a_number_that_a_command_returns_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from spcnet.commands import report as module

    def returning(result: Any) -> Any:
        def report(runs: Sequence[Path], *, console: Console | None = None) -> Any:
            return result

        return report

    for result, code in ((3, 3), (0, 0), (None, 0), ({"a": 1}, 0)):
        monkeypatch.setattr(module, "report", returning(result))
        assert main(["report", "x"]) == code
