"""The command line: `spcnet COMMAND`, also `python -m spcnet COMMAND`. A command is the signature of a function."""

import argparse
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from spcnet import __version__
from spcnet.errors import SpcnetError, UsageError

COMMANDS = {
    "demo": "demo:demo",
    "train": "train:train",
    "sweep": "sweep:sweep",
    "data list": "data:list_sets",
    "data check": "data:check",
    "data preview": "data:preview",
    "data styles": "data:styles",
    "data cache": "data:cache",
    "data fixture": "data:fixture",
    "evaluate": "evaluate:evaluate",
    "calibrate": "calibrate:calibrate",
    "predict": "predict:predict",
    "app": "app:app",
    "convert": "convert:convert",
    "export": "export:export",
    "push": "push:push",
    "cost": "cost:cost",
    "robustness": "robustness:robustness",
    "inspect": "inspect:inspect",
    "ood fit": "ood:fit",
    "ood evaluate": "ood:evaluate",
    "ood pixels": "ood:pixels",
    "report": "report:report",
    "debug replay": "debug:replay",
}
"""Command → its function, MODULE:FUNCTION below `spcnet.commands`. The first word of two is a group, a module's name."""
OLD_COMMANDS = {
    "benchmark cost": "cost",
    "benchmark": "cost",
    "familiarise": "ood fit",
    "unfamiliarity": "ood evaluate",
}
"""Names of version 0.1."""
OLD_OPTIONS = {
    "cost": {"--device": "--accelerator"},
    "inspect": {"--images": "--limit"},
    "ood evaluate": {"--images": "--limit"},
    "ood fit": {"--images": "--limit"},
    "predict": {"--speed": "--engine"},
    "robustness": {"--set": "--target"},
}
"""Command → names of its options in version 0.1 → their names now."""
INTERRUPTED = 130
"""Exit code where the user stopped a command."""


class Call(NamedTuple):
    """What a command line asks for."""

    function: Callable[..., Any]
    arguments: dict[str, Any]


def function_of(command: str) -> Callable[..., Any]:
    """The function of a command; imports its module."""
    module, _, name = COMMANDS[command].partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"spcnet.commands.{module}"), name)
    return function


def summary(name: str) -> str:
    """What a command or a group of commands does: the first line of its function's or its module's docstring."""
    thing: Any = function_of(name) if name in COMMANDS else importlib.import_module(f"spcnet.commands.{name}")
    return str(thing.__doc__).partition("\n")[0]


def menu(group: str = "") -> argparse.ArgumentParser:
    """The parser that lists the commands, or those of a group."""
    parser = argparse.ArgumentParser(
        prog=f"spcnet {group}".strip(),
        description=summary(group)
        if group
        else "Domain-generalised semantic segmentation: train on streets with labels, work on streets without.",
        epilog=f"spcnet {group} COMMAND --help lists the options of a command.".replace("  ", " "),
        formatter_class=partial(argparse.HelpFormatter, max_help_position=16),
    )
    if not group:
        parser.add_argument("--version", action="version", version=f"spcnet {__version__}")
    choices = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    words = [command.split() for command in COMMANDS]
    names = [two[1] for two in words if two[0] == group] if group else dict.fromkeys(first for first, *_ in words)
    for name in names:
        choices.add_parser(name, help=summary(f"{group} {name}".strip()).replace("%", "%%"), add_help=False)
    return parser


def parse(words: Sequence[str], notify: Callable[[str], None] = lambda text: None) -> Call:
    """The function of a command line and the arguments to call it with.

    Args:
        words: the command line behind `spcnet`.
        notify: called with a line for each old name in it.

    Raises:
        SystemExit: help was requested (0), or a word is no command or option (2).
        SpcnetError: an option is out of range, or a file of options cannot be read.
    """
    for length in (2, 1):
        command = " ".join(words[:length])
        if command in OLD_COMMANDS:
            notify(f"the command {command} is now {OLD_COMMANDS[command]}")
            command = OLD_COMMANDS[command]
        if command in COMMANDS:
            from spcnet.options import call_arguments, command_parser, spelled_out

            function = function_of(command)
            rest = spelled_out(words[length:], function, OLD_OPTIONS.get(command, {}), notify)
            return Call(function, call_arguments(command_parser(command, function), function, rest))
    is_group = any(command.startswith(f"{words[0]} ") for command in COMMANDS) if words else False
    (menu(words[0]).parse_args(words[1:]) if is_group else menu().parse_args(words))
    raise UsageError("the command comes first: spcnet COMMAND [OPTIONS]")


def format_warning(message: Warning | str, category: type[Warning], file: str, number: int, line: str | None) -> str:
    """A warning as the command line shows it: this package's in a line that starts as its errors do."""
    if Path(file).is_relative_to(Path(__file__).parent):
        return f"spcnet: {message}\n"
    return f"{file}:{number}: {category.__name__}: {message}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0 done, 1 something is wrong with a file, 2 something is wrong with an option, 130 stopped by the user.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    errors = Console(stderr=True, soft_wrap=True)
    warnings.formatwarning = format_warning  # type: ignore[assignment]
    try:
        function, values = parse(
            [word for word in words if word != "--debug"],
            lambda text: errors.print(f"spcnet: {text}", style="yellow", highlight=False, markup=False),
        )
        code = function(**values, console=Console())
        return code if isinstance(code, int) else 0
    except SpcnetError as error:
        if debug:
            raise
        if error.told_elsewhere:
            return 0
        errors.print(f"spcnet: {error}", style="red", highlight=False, markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        errors.print("spcnet: stopped", highlight=False)
        return INTERRUPTED
