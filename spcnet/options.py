"""The parser of the command line and of recipes: jsonargparse's, with two rules of this package for all options.

A list may be written without brackets (`--data.sources gtav`, `targets: gtav,synthia`), and a file of options that is no
UTF-8 or no YAML is one clear line with its name.
"""

import dataclasses
import functools
from argparse import Action
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin

import jsonargparse
import yaml

from spcnet.config import RunConfig, coerced
from spcnet.errors import DataError
from spcnet.files import ListKeys, read_yaml_text

_FILE: Any = jsonargparse.Path  # type: ignore[attr-defined]
"""What jsonargparse reads files with."""


_GROUPS = {
    one.name: dataclasses.fields(one.type)[0].name
    for one in dataclasses.fields(RunConfig)
    if isinstance(one.type, type) and dataclasses.is_dataclass(one.type)
}
"""The groups of options of a run, each with its first option."""


class OptionParser(jsonargparse.ArgumentParser):
    """A parser whose options may be lists without brackets, and which reads files of options as UTF-8."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse arguments; see jsonargparse.

        Raises:
            DataError: a file of options cannot be read, or is no UTF-8 or no YAML.
        """
        _accept_plain_lists(self)
        jsonargparse.set_loader("yaml", ListKeys(jsonargparse.get_loader("yaml")), exceptions=(yaml.YAMLError,))
        with _files_in_utf8():
            return super().parse_args(*args, **kwargs)


def add_run_options(parser: jsonargparse.ArgumentParser) -> None:
    """Add `--config` and every option of a run, as `spcnet train` and a sweep read them."""
    parser.add_argument(
        "--config", action="config", help="Recipe: a YAML file, or the name of one that comes with spcnet."
    )
    parser.add_class_arguments(RunConfig, fail_untyped=True)


def _accept_plain_lists(parser: jsonargparse.ArgumentParser) -> None:
    """Let every option with a list or tuple in its type, of the parser and of its commands, take one without brackets."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                _accept_plain_lists(command)
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
