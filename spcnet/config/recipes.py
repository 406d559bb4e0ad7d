"""Recipes and stored settings: from files and plain values to a configuration, and back."""

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from spcnet.config.domains import OwnSet
from spcnet.config.fields import options
from spcnet.config.options import coerced, require
from spcnet.errors import UsageError
from spcnet.files import read_yaml

T = TypeVar("T")


def recipes_folder() -> Path:
    """Where the recipes that come with this package lie: inside an installed one, beside the source of a checkout."""
    package = Path(__file__).parents[1]
    beside = package.parent / "recipes"
    return beside if (package.parent / "pyproject.toml").is_file() and beside.is_dir() else package / "recipes"


def recipe_path(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with this package, such as `real-small/spcnet`.

    Raises:
        UsageError: there is neither.
    """
    given = Path(name)
    if given.is_file():
        return given
    folder = recipes_folder()
    recipes = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}
    recipe = recipes.get(name.removeprefix("recipes/").removesuffix(".yaml"))
    if recipe is None:
        raise UsageError(f"there is no recipe {name}: give a YAML file, or one of {', '.join(recipes)}")
    return recipe


def from_dict(kind: type[T], values: Mapping[Any, Any]) -> T:
    """The opposite of `as_dict` for one of the classes above.

    Raises:
        UsageError: a key is unknown or a value is of the wrong kind.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints), key=str)
    require(
        not unknown,
        f"unknown {'option' if len(unknown) == 1 else 'options'} {', '.join(map(str, unknown))} in {kind.__name__}: it has "
        f"{', '.join(hints)}",
    )
    fields = [f for f in dataclasses.fields(kind) if f.init] if dataclasses.is_dataclass(kind) else []
    needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in values]
    require(not missing, f"{kind.__name__} lacks {' and '.join(missing)}: name {'it' if len(missing) == 1 else 'them'}")
    filled: dict[str, Any] = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
            filled[key] = from_dict(hint, value)
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type) and not isinstance(value, hint):
            require(value is None, f"{key} is {value!r}: it must map options to values")  # None: all are the defaults
            filled[key] = hint()
        elif get_origin(hint) is dict and isinstance(value, Mapping) and dataclasses.is_dataclass(get_args(hint)[1]):
            filled[key] = {name: from_dict(get_args(hint)[1], one) for name, one in value.items()}
        elif get_origin(hint) is dict and isinstance(value, Mapping) and get_args(hint)[0] is int:
            filled[key] = {int(number) if str(number).isdigit() else number: one for number, one in value.items()}
        else:
            filled[key] = coerced(hint, value)
    try:
        return kind(**filled)
    except TypeError as error:
        raise UsageError(f"{kind.__name__} cannot be read: {' '.join(str(error).split())}") from error


def settled(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Stored settings of any version, with the values of the known options as their types have them.

    What is not known, or cannot be brought to its type, stays as it is.
    """
    known = options()
    result: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in known:
            result[key] = as_dict(_settled(known[path].hint, value))
        elif isinstance(value, Mapping):
            result[key] = settled(value, f"{path}.")
        else:
            result[key] = value
    return result


def _settled(hint: Any, value: Any) -> Any:
    """As `coerced`; what a mapping holds by name, such as `data.sets`, has the fields of its class, which a later version may add to."""
    if get_origin(hint) is dict and dataclasses.is_dataclass(get_args(hint)[1]) and isinstance(value, Mapping):
        kind: Any = get_args(hint)[1]
        settings = dict(value)
        for name, one in value.items():
            with suppress(UsageError):
                settings[name] = from_dict(kind, one) if isinstance(one, Mapping) else one
        return settings
    return coerced(hint, value)


def as_dict(config: Any) -> Any:
    """A configuration as plain values that JSON and YAML can hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: as_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [as_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: as_dict(value) for key, value in config.items()}
    return str(config) if isinstance(config, Path) else config


def read_sets(path: Path) -> dict[str, OwnSet]:
    """The data sets of one's own that a file describes, by name.

    Args:
        path: a YAML file in UTF-8 that maps names to sets, `mytown: {images: ..., labels: ..., table: ...}`; or a recipe
            or a run's `config.yaml` that has them under `data.sets`; or has nothing but them, under `sets`.

    Raises:
        DataError: the file cannot be read, or is no YAML in UTF-8.
        UsageError: it describes no set, or one wrongly.
    """
    rule = "it must map the name of each set to its images, labels, and table or colors; or be a recipe with data.sets"
    values: Any = read_yaml(path.expanduser(), "file of data sets")
    require(bool(values), f"{path} describes no data set: {rule}")
    data = values.get("data")
    if isinstance(data, dict) and "images" not in data:
        values = data.get("sets")
        require(isinstance(values, dict) and bool(values), f"{path} is a recipe without data.sets: {rule}")
    elif [*values] == ["sets"] and isinstance(values["sets"], dict) and not {"images", "labels"} & {*values["sets"]}:
        values = values["sets"]
        require(bool(values), f"{path} describes no data set: {rule}")
    sets: dict[str, OwnSet] = {}
    for name, described in values.items():
        require(isinstance(described, dict), f"{path}: {name} is {described!r} and no data set: {rule}")
        try:
            sets[str(name)] = from_dict(OwnSet, described)
        except UsageError as error:
            raise UsageError(f"{path}: {name}: {error}") from None
    return sets
