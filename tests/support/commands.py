"""The parsers of all commands, for tests over every one of them."""

from functools import cache

from spcnet.cli import COMMANDS, function_of
from spcnet.options import OptionParser, command_parser


@cache
def every_parser() -> dict[str, OptionParser]:
    """The parser of each command, by its name."""
    return {command: command_parser(command, function_of(command)) for command in COMMANDS}


@cache
def every_option() -> dict[str, set[str]]:
    """The options of each command, as they are written."""
    return {command: set(parser._option_string_actions) for command, parser in every_parser().items()}
