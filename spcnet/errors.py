"""What a user did or has, said in one line. The command line prints these without a traceback and exits."""

import difflib
from collections.abc import Mapping, Sequence
from typing import TypeVar

V = TypeVar("V")


class SpcnetError(Exception):
    """Base of every error that a user can mend; the message says what came, the rule, and the remedy."""

    exit_code = 1
    told_elsewhere = False
    """Whether another process of the run tells it: all stop for it, and one speaks."""


class DataError(SpcnetError):
    """A file or folder is missing, unreadable, or not what it should be (exit code 1)."""


class WriteError(DataError):
    """A file cannot be written (exit code 1)."""

    concerns_all = False
    """Whether no other file can be written either: the disk is full, or broken."""


class CheckpointError(SpcnetError):
    """A checkpoint or weight file is broken, foreign, or does not fit the network (exit code 1)."""


class UsageError(SpcnetError, ValueError):
    """An option or argument is unknown or out of range (exit code 2); also a `ValueError` for library users."""

    exit_code = 2


class Interrupted(SpcnetError):
    """The user stopped a training run; its state is saved (exit code 130)."""

    exit_code = 130

    def __init__(self, iteration: int, output: object) -> None:
        super().__init__(
            f"stopped after iteration {iteration}, which is saved. Go on with: "
            f"spcnet train --config {output}/config.yaml --resume"
        )
        self.iteration, self.output = iteration, output

    def __reduce__(self) -> tuple[type, tuple[int, object]]:
        """How it goes from one process to another."""
        return type(self), (self.iteration, self.output)


def lookup(name: str, table: Mapping[str, V], what: str) -> V:
    """The entry of that name.

    Raises:
        UsageError: there is none; says what is known and what is nearest.
    """
    if name not in table:
        raise unknown_name_error(name, list(table), what)
    return table[name]


def unknown_name_error(value: str, known: Sequence[str], what: str) -> UsageError:
    """The error for an unknown name: what came, what is known, and the nearest known name.

    >>> str(unknown_name_error("spcnt", ["spcnet"], "method"))
    "unknown method 'spcnt': known are spcnet. Did you mean 'spcnet'?"
    """
    near = difflib.get_close_matches(value, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {what} {value!r}: known are {', '.join(sorted(known))}.{hint}")


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())
