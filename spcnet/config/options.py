"""What an option of a run is: what it decides, which values it may have, and how a value is read.

All that is written of an option stands once, in its field: its type, its default, its `Rule`, and its meaning as the
docstring below it. Checks, what a resumed run must keep, what runs must agree in to be compared, the command line and
the page of all options are made from that.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from spcnet.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Decides = Literal["result", "schedule", "order", "place"]
"""What an option decides, and with it who may change it:

- `result`: the figures, or what is scored; runs that differ in it are two experiments;
- `schedule`: like `result`, and also what step and what image comes when, so a resumed run must keep it;
- `order`: the random numbers alone; runs that differ in it are seeds of one experiment, and a resumed run must keep it;
- `place`: where and how a run is computed, saved and shown; runs that differ in it are one experiment, and a run that is
  resumed and a sweep that is continued may change it.

The precision is a `result`: bfloat16 rounds to eight bits, which moves figures by more than the order of a sum does. Compiling,
the device and `deterministic` move only the last bits, as another order of the same sums, so they are a `place`.
"""
REPEATED = "repeated"
"""Marks an option of a command that can be given several times: `Annotated[Sequence[str], REPEATED]`."""
METADATA = "spcnet"
"""Key of an option's `Rule` in the metadata of its field."""


def require(ok: bool, message: str) -> None:
    """Raise a `UsageError` unless a condition holds."""
    if not ok:
        raise UsageError(message)


class Rule(NamedTuple):
    """What one option decides and which values it may have: the only place where either is written."""

    decides: Decides
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    rising: bool = False
    """Whether it is two numbers of which the first is not larger."""
    choices: tuple[Any, ...] = ()
    """Allowed values, where the type does not name them."""
    noun: str = "it"
    """What the value is, for the message."""
    zero: str = ""
    """What 0 means, for the message."""
    unit: str = ""
    compared: str = ""
    """The words for it where runs must agree in it for a difference to be one of their methods; empty where they need not."""

    @property
    def words(self) -> str:
        """Which numbers are allowed."""
        unit = f" {self.unit}" if self.unit else ""
        if self.least is not None and self.most is not None:
            text = f"lie in {self.least:g}..{self.most:g}"
        elif self.least is not None and self.below is not None:
            text = f"be {self.least:g} or more and below {self.below:g}"
        elif self.above is not None and self.most is not None:
            text = f"be above {self.above:g} and at most {self.most:g}"
        elif self.above is not None:
            text = f"be above {self.above:g}{unit}"
        elif self.least == 0:
            text = f"be 0{f' ({self.zero})' if self.zero else ''} or more{unit}"
        else:
            text = f"be at least {self.least:g}{unit}"
        return text + (", the smaller first" if self.rising else "")

    def check(self, path: str, value: Any) -> None:
        """Refuse a value that is not allowed; of several numbers each must be. None is no number and passes.

        Raises:
            UsageError: says what came and what is allowed.
        """
        if self.choices:
            known = ", ".join(map(str, self.choices))
            require(
                value is None or value in self.choices,
                f"{path} is {value if isinstance(value, int) else repr(value)}: it must be one of {known}",
            )
        if value is None or (self.least is None and self.above is None):
            return
        numbers = value if isinstance(value, (list, tuple)) else [value]
        inside = len(numbers) > 0 and all(
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
            for number in numbers
        )
        finite = inside and all(math.isfinite(number) for number in numbers)
        ordered = not self.rising or list(numbers) == sorted(numbers)
        require(
            finite and ordered,
            f"{path} is {value}: {self.noun} must {self.words}{' and finite' if inside and not finite else ''}"
            + ("" if len(numbers) else "; give at least one"),
        )


class Option(NamedTuple):
    """One option of a run."""

    path: str
    """Where it stands, such as `data.size`."""
    hint: Any
    """Its type."""
    rule: Rule


def option(decides: Decides, default: Any = MISSING, *, factory: Callable[[], Any] | None = None, **rule: Any) -> Any:
    """A field of a configuration: what it decides, its default, and the rest of its `Rule`."""
    metadata = {METADATA: Rule(decides, **rule)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Base of the groups of options: values are brought to their types, and checked."""

    group = ""
    """Where they stand in a run, such as `model.style`; empty for those of the run itself."""

    def __init_subclass__(cls, group: str = "") -> None:
        """Name the group of a class."""
        cls.group = group

    def __post_init__(self) -> None:
        """Bring the values to their types, one name to a list of one, and check their ranges."""
        kind: Any = type(self)
        for name, option in options_of(kind).items():
            value = getattr(self, name)
            settled = checked(option, value)
            if settled is not value and (settled != value or type(settled) is not type(value)):
                object.__setattr__(self, name, settled)


def checked(option: Option, value: Any) -> Any:
    """A value as the option's type has it, once its type and range are checked."""
    path, hint, rule = option
    settled = coerced(hint, value)
    require(
        rule.choices != () or _fits(hint, settled),
        f"{path} is {value!r}: it must be {' or '.join(map(type_name, parts_of(hint)))}",
    )
    rule.check(path, settled)
    return settled


def method_option(default: Any = MISSING, **rule: Any) -> Any:
    """A field of a method's own settings: its default or its `factory`, and the rest of its `Rule`; it decides the result."""
    return option("result", default, **rule)


def own_settings(owner: str, path: str, kind: type[T], values: Mapping[str, Any]) -> T:
    """The settings that only one method or plug-in has.

    Args:
        owner: what a message calls it, such as `the method spcnet`.
        path: where they stand in a run, such as `model.settings`.
        kind: a frozen dataclass whose fields are made by `method_option`.
        values: by the names of the fields; those not named have their defaults.

    Raises:
        UsageError: it has no such setting, or a value has another type or lies out of range.
    """
    options = {option.path.rpartition(".")[2]: option for _, option in walk(kind, f"{path}.")}
    for name in values:
        near = difflib.get_close_matches(str(name), options, n=1)
        require(
            name in options,
            f"{path}.{name}: {owner} has "
            + (f"the settings {', '.join(options)}" if options else "no settings of its own")
            + (f". Did you mean {near[0]}?" if near else ""),
        )
    return kind(**{name: checked(options[name], value) for name, value in values.items()})


@cache
def options_of(kind: type[Any]) -> dict[str, Option]:
    """The options that are fields of a class itself, by their names."""
    group: str = getattr(kind, "group", "")
    prefix = f"{group}." if group else ""
    return {option.path.removeprefix(prefix): option for owner, option in walk(kind, prefix) if owner is kind}


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type that an option can have."""
    for part in parts_of(hint):
        kind, kinds = get_origin(part) or part, get_args(part)
        if kind in (int, float):
            number = (numbers.Integral,) if kind is int else (numbers.Real,)
            fits = isinstance(value, number) and not isinstance(value, bool)
        elif kind is list:
            fits = isinstance(value, list) and all(_fits(kinds[0], item) for item in value)
        elif kind is tuple:
            fits = isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, kinds, value))
        else:
            fits = isinstance(value, kind)
        if fits:
            return True
    return False


def type_name(hint: Any) -> str:
    """A type in the words of a recipe."""
    kind, kinds = get_origin(hint) or hint, get_args(hint)
    if kind is tuple:
        return f"[{', '.join(map(type_name, kinds))}]"
    if kind is list:
        words = [type_name(part).split(" ", 1)[1].partition(" of ") for part in parts_of(kinds[0])]
        return f"a list of {' or '.join(f'{noun}s{of}{rest}' for noun, of, rest in words)}"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(kind, "a path" if kind is Path else "a mapping of names to values")


def walk(kind: type, prefix: str) -> Iterator[tuple[type, Option]]:
    """Each option of a class and of the classes that its fields hold, with the class that it is a field of."""
    hints = get_type_hints(kind)
    for one in dataclasses.fields(kind):
        hint = hints[one.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from walk(hint, f"{prefix}{one.name}.")
        else:
            rule: Rule = one.metadata[METADATA]
            literals = [value for part in parts_of(hint) if get_origin(part) is Literal for value in get_args(part)]
            yield kind, Option(f"{prefix}{one.name}", hint, rule._replace(choices=rule.choices or tuple(literals)))


def parts_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself where it is none."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def coerced(hint: Any, value: Any) -> Any:
    """A value as its type has it, where what was meant is plain; any other value as it came.

    One name is a list of one, names with commas between them are a list (`gtav,synthia`), a list becomes a tuple where one is
    wanted, and numbers are read that YAML leaves as text (`5e-4`).

    >>> coerced(list[str], "gtav"), coerced(list[float] | None, "0.5,1"), coerced(tuple[int, int], [512, 1024])
    (['gtav'], [0.5, 1.0], (512, 1024))
    """
    parts = parts_of(hint)
    if value is None or (bool in parts and isinstance(value, bool)):
        return value
    sequence = next((part for part in parts if get_origin(part) in (list, tuple)), None)
    if sequence is not None:
        return _sequence(sequence, value, alone=len([part for part in parts if part is not type(None)]) == 1)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and float in parts and str not in parts:
        with suppress(ValueError):
            return float(value)
    if isinstance(value, Path) and Path not in parts and str in parts:
        return str(value)
    return Path(value) if Path in parts and isinstance(value, str) else value


def _sequence(hint: Any, value: Any, *, alone: bool) -> Any:
    kind, kinds = get_origin(hint), get_args(hint)
    if isinstance(value, str):
        pieces: Sequence[Any] = [piece.strip() for piece in value.split(",") if piece.strip()]
        if kind is tuple and len(pieces) < 2:
            return value
    elif (isinstance(value, (int, float)) and not isinstance(value, bool) and kind is list and str not in kinds) or (
        isinstance(value, Path) and kind is list
    ):
        pieces = [value]
    elif isinstance(value, (list, tuple)):
        pieces = value
    else:
        return value
    read = [_item(kinds[min(place, len(kinds) - 1)], piece) for place, piece in enumerate(pieces)]
    # Beside other types, as in `model.norms`, a text is a list only where every piece is of the list's type.
    if isinstance(value, str) and not (read and (alone or not any(isinstance(item, str) for item in read))):
        return value
    return tuple(read) if kind is tuple else read


def _item(hint: Any, value: Any) -> Any:
    if hint is int and isinstance(value, str):
        with suppress(ValueError):
            return int(value)
        return value
    return coerced(hint, value)


def plain_lists(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that wants a list of names, numbers or paths take one alone, or names with commas, as the command line does.

    A text is a sequence of its letters, too, so that nothing else would notice.
    """
    signature = inspect.signature(function)

    @cache
    def hints() -> dict[str, Any]:
        annotations = get_type_hints(function)
        # `self` has no annotation.
        lists = (
            (n, part)
            for n in signature.parameters
            if n in annotations
            for part in parts_of(annotations[n])
            if _is_list(part)
        )
        return {name: types.GenericAlias(list, get_args(part)) for name, part in lists}

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, hint in hints().items():
            if isinstance(bound.arguments.get(name), (str, int, float, Path)):
                bound.arguments[name] = _one_or_several(hint, bound.arguments[name])
        return function(*bound.args, **bound.kwargs)

    return wrapped


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in (list, Sequence) and set(parts_of(get_args(hint)[0])) <= {str, int, float, Path}


def _one_or_several(hint: Any, value: Any) -> Any:
    """A list from what is none; a path is one, whatever is in its name."""
    items = parts_of(get_args(hint)[0])
    if Path not in items:
        return coerced(hint, value)
    return [value if str in items else Path(value)]
