"""Records as plain values that JSON can hold, and back: dataclasses, lists, and NaN as null."""

import dataclasses
import math
import types
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def to_plain(value: Any) -> Any:
    """What JSON can hold of a value; what is not a finite number is None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain({one.name: getattr(value, one.name) for one in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(hint: Any, value: Any) -> Any:
    """A value of the hinted type, a dataclass for example, from what `to_plain` made of one; a number that is None is NaN.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: something is missing, or of another type.
    """
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        required = {name for name, one in signature(kind).parameters.items() if one.default is one.empty}
        names = [name for name in hints if name in value or name in required]
        return kind(**{name: from_plain(hints[name], value[name]) for name in names})
    if kind in (Union, types.UnionType):
        return None if value is None else from_plain(parts[0], value)
    if kind is Literal and value not in parts:
        raise ValueError(f"{value!r} is none of {', '.join(map(str, parts))}")
    if kind is tuple:
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(from_plain(part, item) for part, item in zip(kinds, value, strict=True))
    if kind is Mapping:
        return {from_plain(parts[0], key): from_plain(parts[1], item) for key, item in value.items()}
    if kind is float and value is None:
        return math.nan
    return kind(value) if kind in (int, float, str, Path) else value
