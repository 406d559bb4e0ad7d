"""The folder of a data set, and what it means that the folder is a copy made by `spcnet.data.cache`."""

import json
import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from spcnet.config import DataConfig
from spcnet.data.catalog import dataset
from spcnet.data.image_files import ARRAY
from spcnet.data.label_formats import LabelFormat
from spcnet.data.layouts import Layout
from spcnet.errors import DataError, one_line

ROOT_VARIABLE = "SPCNET_DATA"
"""Environment variable with the folder that holds one folder per data set, named as the set is."""

MARKER = "spcnet-cache.json"
"""File in the folder of a copy (`spcnet.data.cache`) that says what it is a copy of."""


def root_of(name: str, data: DataConfig) -> Path:
    """Folder of a data set: what `data.roots` says, else the one of its name in `data.root`, else that in `SPCNET_DATA`.

    Raises:
        UsageError: no set has that name.
        DataError: none of them is set, or the folder does not exist.
    """
    names = [known for known in (name, dataset(name, data).home) if known]
    for known in names:
        if known in data.roots:
            root = Path(data.roots[known]).expanduser()
            if not root.is_dir():
                raise DataError(f"the folder {root} of the data set {name} does not exist (data.roots.{known})")
            return root
    sources = (("data.root", data.root), (f"the environment variable {ROOT_VARIABLE}", os.environ.get(ROOT_VARIABLE)))
    tried = [(Path(folder).expanduser() / known, source) for source, folder in sources if folder for known in names]
    for root, _ in tried:
        if root.is_dir():
            return root
    remedy = (
        f"set data.roots.{name} (of a trained network --roots.{name}) to its folder, or data.root or the environment variable "
        f"{ROOT_VARIABLE} to a folder that holds it under the name {name}"
    )
    if not tried:
        raise DataError(f"the folder of the data set {name} is not set: {remedy}")
    places = "; ".join(f"{root} (from {source})" for root, source in tried)
    raise DataError(f"the data set {name} is not in {places}: {remedy}")


def old_copy(root: Path, name: str) -> str:
    """A remark about a copy whose photos an earlier version stored by other rules; else empty."""
    try:
        with (root / MARKER).open("rb") as file:
            old = file.read(13) == b'{"version":1,'
    except OSError:  # no copy
        return ""
    remark = (
        f"{root} is a copy by an earlier version, which stored photos without turning them as EXIF says and without laying "
        f"them on white. Call `spcnet data cache {name} ROOT {root}` again, with the same options: it copies only the photos "
        "that are shown differently"
    )
    return remark if old else ""


def is_copy(root: Path) -> bool:
    """Whether a folder is a copy."""
    return (root / MARKER).is_file()


def array_layout(layout: Layout) -> Layout:
    """The layout as a copy of unpacked pixels has it."""
    images, labels = (
        tuple(dict.fromkeys(str(PurePosixPath(pattern).with_suffix(ARRAY)) for pattern in patterns))
        for patterns in (layout.images, layout.label_patterns)
    )
    return replace(layout, images=images, labels=labels[0], more_labels=labels[1:])


def copied_format(root: Path, form: LabelFormat) -> LabelFormat:
    """How a copy encodes labels: native ids as grey values.

    Raises:
        DataError: the native ids were others when the copy was made, or that cannot be read.
    """
    if form.numbers is not None:
        try:
            names = json.loads((root / MARKER).read_bytes())["labels"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            problem = f"{root / MARKER} does not say what the ids in the copy's label images mean ({one_line(error)})"
            raise DataError(f"{problem}: make a new copy in another folder") from None
        if names != {str(native_id): name for native_id, name in form.names}:
            problem = f"the copy in {root} was made with other classes in data.sets than now"
            raise DataError(f"{problem}: make a new one in another folder")
    return LabelFormat(form.names)
