"""Mapillary Vistas: its layouts, and the configuration in its folder that says what its ids and colours mean."""

import json
from functools import partial
from pathlib import Path

from spcnet import label_tables, labels
from spcnet.config import Color, read_color
from spcnet.data.label_formats import LabelFormat
from spcnet.data.layouts import Layout, Table, photos
from spcnet.errors import DataError, one_line


def _configuration(path: Path) -> tuple[tuple[str, ...], list[Color | None]]:
    """The names of the ids 0, 1, ... in a configuration, and their colours, None for each without a valid one.

    Raises:
        DataError: the file is missing, not JSON, or not such a configuration.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        what = "it says what the numbers in the label images mean and comes with the download"
        raise DataError(f"{path} does not exist: {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {one_line(error)}. Restore it from the download") from None
    entries = content.get("labels") if isinstance(content, dict) else None
    if (
        not isinstance(entries, list)
        or not 1 <= len(entries) < labels.UNKNOWN
        or not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries)
    ):
        rule = f"its entry labels must be a list of 1 to {labels.UNKNOWN - 1} objects with a name"
        raise DataError(f"{path} is not a configuration of Mapillary Vistas: {rule}. Restore it from the download")
    return tuple(entry["name"] for entry in entries), [read_color(entry.get("color")) for entry in entries]


def _v12_configuration(root: Path) -> Path | None:
    return next((root / name for name in ("config_v1.2.json", "config.json") if (root / name).is_file()), None)


def _v12_table(root: Path, *, rein: bool) -> Table:
    """The table of version 1.2, confirmed by the configuration where there is one."""
    known = label_tables.MAPILLARY_V12
    path = _v12_configuration(root)
    if path and (names := _configuration(path)[0]) != known:
        wrong = next((i for i, name in enumerate(names) if i >= len(known) or name != known[i]), None)
        content = f"{len(names)} labels" if wrong is None else f"the label {names[wrong][:60]!r} at {wrong}"
        rule = "the label images of version 2.0 lie in folders named v2.0/labels"
        raise DataError(f"{path} is not that of version 1.2 of Mapillary Vistas: it has {content}; {rule}")
    return label_tables.mapillary(known, rein=rein)


def _v20_table(root: Path, *, rein: bool) -> Table:
    """The table of version 2.0, whose order only its configuration has."""
    path = root / "config_v2.0.json"
    names, _ = _configuration(path)
    try:
        return label_tables.mapillary(names, rein=rein)
    except KeyError as error:
        rule = "which version 2.0 of Mapillary Vistas does not have: restore it from the download"
        raise DataError(f"{path} has the label {error.args[0][:60]!r}, {rule}") from None


def _format(root: Path, table: Table, *, v12: bool) -> LabelFormat:
    """Numbers and colours as the configuration has them; of version 1.2 the published ones where it does not."""
    path = _v12_configuration(root) if v12 else root / "config_v2.0.json"
    colors = [color for color in _configuration(path)[1] if color is not None] if path else []
    if len(colors) != len(table):
        colors = [*label_tables.MAPILLARY_V12_COLORS] if v12 else []
    return LabelFormat.of(table, zip(colors, table, strict=False))


def layouts(*, rein: bool) -> tuple[Layout, ...]:
    """Where Mapillary Vistas lies: with its native ids, or with train ids that others made of them by the same map."""
    folders = {"train": "training", "val": "validation"}
    pictures = photos("{folder}/images/*", ".jpg")
    ids = label_tables.CITYSCAPES_TRAIN_IDS
    native = (
        Layout(
            f"as downloaded, {name}",
            pictures,
            f"{{folder}}/{place}labels/*.png",
            partial(table, rein=rein),
            folders,
            form="palette",
            format=partial(_format, v12=table is _v12_table),
        )
        for name, place, table in (
            ("v1.2", "", _v12_table),
            ("v1.2 in v2.0", "v1.2/", _v12_table),
            ("v2.0", "v2.0/", _v20_table),
        )
    )
    converted = (
        (
            Layout("Rein", pictures, "cityscapes_trainIdLabel/{split}/label/*.png", ids, folders),
            *(
                Layout(
                    f"Rein, half the size{name}",
                    photos(f"{place}{{split}}_img/*", ".jpg"),
                    f"{place}{{split}}_label/*.png",
                    ids,
                    only=("val",),
                )
                for name, place in (("", "half/"), (", its own folder", ""))
            ),
        )
        if rein
        else (Layout("detectron2, train ids", pictures, "labels_detectron2/{folder}/*.png", ids, folders),)
    )
    return (*native, *converted)
