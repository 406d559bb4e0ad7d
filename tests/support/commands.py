"""The parsers of all commands, for tests over every one of them."""

from spcnet.cli import COMMANDS, function_of
from spcnet.options import OptionParser, command_parser
from spcnet.pairs import PAIRS


def every_parser() -> dict[str, OptionParser]:
    """The parser of each command, by its name."""
    found = {}
    for command in COMMANDS:
        if command in PAIRS:
            found[command] = OptionParser(prog=command)
            PAIRS[command][0](found[command])
        else:
            found[command] = command_parser(command, function_of(command))
    return found


def every_option() -> dict[str, set[str]]:
    """The options of each command, as they are written."""
    return {command: set(parser._option_string_actions) for command, parser in every_parser().items()}
