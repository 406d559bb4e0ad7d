"""Options of commands and recipes: from the signature and docstring of a function to a parser, and back to a call.

The parser is jsonargparse's with two rules for all options: a list may be written without brackets (`--data.sources
gtav`, `targets: gtav,synthia`), and a file of options that is no UTF-8 or no YAML is one clear line with its name.
"""

import collections.abc
import dataclasses
import difflib
import functools
import inspect
import re
from argparse import Action
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin

import jsonargparse
import yaml

from spcnet.config import REPEATED, RunConfig, coerced, recipe_path
from spcnet.config.options import parts_of, type_name
from spcnet.errors import DataError, UsageError
from spcnet.files import ListKeys, read_yaml_text

Command = Callable[..., Any]
"""A function whose signature is a command line."""
SHORT = {
    **{
        f"--{name}": f"--training.{name}"
        for name in ("accelerator", "devices", "precision", "seed", "iterations", "profile", "compile")
    },
    **{f"--{name}": f"--data.{name}" for name in ("root", "on_bad_image")},
}
"""Options of a run that have a short form."""
PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
"""Short names of precisions, as Lightning has them."""
BARE = {"--profile": "10", "--compile": "true"}
"""Options of a run that may stand without a value, and what they then mean."""

_FILE: Any = jsonargparse.Path  # type: ignore[attr-defined]
"""What jsonargparse reads files with."""


_GROUPS = {
    one.name: dataclasses.fields(one.type)[0].name
    for one in dataclasses.fields(RunConfig)
    if isinstance(one.type, type) and dataclasses.is_dataclass(one.type)
}
"""The groups of options of a run, each with its first option."""


class _Help(jsonargparse.DefaultHelpFormatter):
    """Help that names a path a path, and no class of Python."""

    def _get_type_str(self, action: Action) -> str | None:
        name: str | None = super()._get_type_str(action)
        return name and name.replace("<class 'Path'>", "path").replace("Path", "path")


class OptionParser(jsonargparse.ArgumentParser):
    """A parser whose options may be lists without brackets, and which reads files of options as UTF-8."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=_Help, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line.

        Raises:
            UsageError: always; jsonargparse's ArgumentError where the parser has `exit_on_error=False`.
        """
        said = self._said(" ".join(message.split()))
        if not self.exit_on_error:
            super().error(said, ex)
        raise UsageError(said) from ex

    def _said(self, message: str) -> str:
        """A message of jsonargparse in this package's words: a value that an option cannot have, or an unknown option."""
        if match := re.match(r"[Uu]nrecognized arguments: (.*)", message):
            known = [name for action in self._actions for name in action.option_strings]
            word = match[1].split()[0].partition("=")[0]
            near = difflib.get_close_matches(word, known, n=1)
            return f"unknown option {match[1]}" + (
                f": did you mean {near[0]}?" if near else f": {self.prog} --help lists all"
            )
        match = re.match(r'Parser key "(.*?)":', message)
        action = next((one for one in self._actions if match is not None and one.dest == match[1]), None)
        hint = getattr(action, "_typehint", None) or getattr(action, "type", None)
        value = re.search(r"(?:Got|Given) value: (.*)$", message)
        if match is None or value is None or hint is None:
            return message
        parts = parts_of(hint)
        choices = [str(word) for part in parts if get_origin(part) is Literal for word in get_args(part)]
        near = difflib.get_close_matches(value[1], choices, n=1)
        rule = f"one of {', '.join(choices)}" if choices else " or ".join(map(type_name, parts))
        return f"{match[1]} is {value[1]}: it must be {rule}" + (f". Did you mean {near[0]}?" if near else "")

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse arguments; see jsonargparse.

        Raises:
            DataError: a file of options cannot be read, or is no UTF-8 or no YAML.
            UsageError: a word fits no option, or a value is of another type.
        """
        _accept_plain_lists(self)
        jsonargparse.set_loader("yaml", ListKeys(jsonargparse.get_loader("yaml")), exceptions=(yaml.YAMLError,))
        with _files_in_utf8():
            return super().parse_args(*args, **kwargs)


class Parameter(NamedTuple):
    """A parameter of a command: a positional argument or an option."""

    name: str
    type: Any
    """Its annotation, with list and dict for Sequence and Mapping."""
    default: Any
    """`inspect.Parameter.empty` where it must be given."""
    positional: bool
    repeated: bool

    @property
    def is_flag(self) -> bool:
        """Whether it is `--name` or `--no_name`."""
        return not self.positional and bool in (self.type, *get_args(self.type))


def parameters(function: Command) -> list[Parameter]:
    """The parameters of a command that stand on the command line: all but `console`.

    Those before `*` are positional, a list there takes one or more words; the others are options.
    """
    return [
        Parameter(
            one.name,
            _option_type(one.annotation),
            one.default,
            positional=one.kind is one.POSITIONAL_OR_KEYWORD,
            repeated=REPEATED in getattr(one.annotation, "__metadata__", ()),
        )
        for one in inspect.signature(function).parameters.values()
        if one.name != "console"
    ]


def _option_type(hint: Any) -> Any:
    """An annotation as jsonargparse takes it: lists and dicts where a function takes any sequence or mapping."""
    kind, kinds = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _option_type(kinds[0])
    if kind in (Union, UnionType):
        return Union[tuple(map(_option_type, kinds))]  # noqa: UP007
    concrete = {collections.abc.Sequence: list, collections.abc.Mapping: dict}.get(kind)
    return GenericAlias(concrete, kinds) if concrete else hint


def description(function: Command) -> str:
    """What a command does: its docstring up to the sections."""
    return re.split(r"^\w+:\n", inspect.getdoc(function) or "", maxsplit=1, flags=re.MULTILINE)[0].strip()


def argument_help(function: Command) -> dict[str, str]:
    """The texts in a docstring's section `Args`, by the name of the parameter."""
    section = re.search(r"^Args:\n((?: .*\n|\n)*)", (inspect.getdoc(function) or "") + "\n", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def command_parser(command: str, function: Command) -> OptionParser:
    """The parser of a command, such as `data check`; a parameter of the type `RunConfig` stands for all options of a run."""
    takes_run = any(parameter.type is RunConfig for parameter in parameters(function))
    short = f" Short forms: {', '.join(f'{name} for {full}' for name, full in SHORT.items())}." if takes_run else ""
    parser = OptionParser(prog=f"spcnet {command}", description=description(function) + short)
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    texts = argument_help(function)
    for parameter in parameters(function):
        if parameter.type is RunConfig:
            add_run_options(parser)
        else:
            _add(parser, parameter, texts.get(parameter.name, ""))
    return parser


def _add(parser: OptionParser, parameter: Parameter, text: str) -> None:
    name, kind, default, positional, repeated = parameter
    options: dict[str, Any] = {"help": text[:1].upper() + text[1:]}
    is_list = get_origin(kind) is list
    if default is not inspect.Parameter.empty:
        options["default"] = list(default) if is_list else default
    if parameter.is_flag:
        parser.add_argument(f"--{name}", action=jsonargparse.ActionYesNo, **options)
    elif not positional:
        how = {"type": get_args(kind)[0], "action": "append"} if repeated else {"type": kind}
        parser.add_argument(f"--{name}", required="default" not in options, **how, **options)
    elif is_list:
        parser.add_argument(name, type=get_args(kind)[0], nargs="+", **options)
    elif "default" in options:
        parser.add_argument(name, type=kind, nargs="?", **options)
    else:
        parser.add_argument(name, type=kind, **options)


def call_arguments(parser: OptionParser, function: Command, words: Sequence[str]) -> dict[str, Any]:
    """The arguments with which a command line calls a function.

    Raises:
        DataError: a file of options cannot be read.
        UsageError: an option of a run is out of range, a word fits no option, or a value is of another type.
        SystemExit: help was requested.
    """
    options = parser.instantiate(parser.parse_args(list(words)))
    return {
        name: RunConfig(**{key: options[key] for key in RunConfig.__dataclass_fields__})
        if kind is RunConfig
        else options[name]
        for name, kind, *_ in parameters(function)
    }


def spelled_out(
    words: Sequence[str], function: Command, renamed: Mapping[str, str], notify: Callable[[str], None]
) -> list[str]:
    """A command line with today's long options, files in the place of recipes' names, and flags without values.

    Hyphens in an option's name stand for underscores: `--allow-missing` is `--allow_missing`.

    Args:
        words: the command line behind the command's name.
        function: the command's.
        renamed: new names of old options.
        notify: called with a line for each old name.

    Raises:
        UsageError: there is no such recipe.
    """
    every = parameters(function)
    flags = {f"--{parameter.name}" for parameter in every if parameter.is_flag}
    is_run = any(parameter.type is RunConfig for parameter in every)
    rest, result = list(words), []
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            result.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name[:2] + name[2:].replace("-", "_")
        if name in renamed:
            notify(f"{name} is now {renamed[name]}")
            name = renamed[name]
        is_value = bool(rest) and not rest[0].startswith("-")
        joined = name in (*SHORT, "--config") if is_run else name in flags and rest[:1] in (["true"], ["false"])
        if joined and is_value and not equals:
            equals, value = "=", rest.pop(0)
        if name in flags and value in ("true", "false"):
            name, equals, value = (name if value == "true" else f"--no_{name[2:]}"), "", ""
        if is_run and name == "--config" and equals:
            value = str(recipe_path(value))
        if is_run and name in SHORT:
            if not equals and not is_value and name in BARE:
                equals, value = "=", BARE[name]
            value = PRECISIONS.get(value, value) if name == "--precision" else value
            name = SHORT[name]
        result.append(name + equals + value)
    return result


def add_run_options(parser: jsonargparse.ArgumentParser) -> None:
    """Add `--config` and every option of a run, as `spcnet train` and a sweep read them."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser.add_argument(
        "--config", action="config", help="Recipe: a YAML file, or the name of one that comes with spcnet."
    )
    parser.add_class_arguments(RunConfig, fail_untyped=True)


def _accept_plain_lists(parser: jsonargparse.ArgumentParser) -> None:
    """Let every option with a list or tuple in its type take one without brackets."""
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        sequence = any(get_origin(part) in (list, tuple) for part in (hint, *get_args(hint)))
        if sequence and action.nargs is None and not hasattr(action, "_takes_plain_lists"):
            _wrap(action, hint)


def _wrap(action: Action, hint: Any) -> None:
    check: Any = action._check_type  # type: ignore[attr-defined]

    @functools.wraps(check)
    def checked(value: Any, *args: Any, **kwargs: Any) -> Any:
        return check(_plain(hint, value), *args, **kwargs)

    action._check_type = checked  # type: ignore[attr-defined]
    action._takes_plain_lists = True  # type: ignore[attr-defined]


def _plain(hint: Any, value: Any) -> Any:
    """A list or tuple from a text that is none; what YAML itself reads as one, or as nothing, stays as it is."""
    if isinstance(value, str):
        text = value.strip()
        if (
            not text
            or text[0] in "[{&*!|>"
            or text in ("null", "Null", "NULL", "~")
            or "\n" in text
            or text.startswith("- ")
        ):
            return value
        if text[0] in "\"'":  # one name, whatever is in it
            try:
                quoted = yaml.safe_load(text)
            except yaml.YAMLError:
                return value
            return [quoted] if isinstance(quoted, str) else value
        return coerced(hint, value)
    return coerced(hint, value) if isinstance(value, (int, float)) else value


@contextmanager
def _files_in_utf8() -> Iterator[None]:
    """Have jsonargparse read files with `files.read_yaml_text`; it reads them in the system's encoding itself.

    Recipes, files of a group of options (`--data FILE`) and those that a recipe names all come through this method.
    """
    given = _FILE.read_text

    def read(path: Any) -> str:
        absolute = Path(path.absolute)
        if not absolute.is_file():
            return str(given(path))
        text = read_yaml_text(absolute, "recipe")
        for name, value in yaml.safe_load(text).items():
            if name in _GROUPS and isinstance(value, (int, float, list)):
                raise DataError(
                    f"the recipe {absolute} has {name}: {value}, which is a group of options: give them below it, for "
                    f"example {name}: {{{_GROUPS[name]}: ...}}"
                )
        return text

    _FILE.read_text = read
    try:
        yield
    finally:
        _FILE.read_text = given
