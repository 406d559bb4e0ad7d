"""Where the files of a data set lie: its root, and which label belongs to which photograph."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from spcnet.config import DataConfig
from spcnet.data.catalog import dataset
from spcnet.errors import DataError

ROOT_VARIABLE = "SPCNET_DATA"
"""Environment variable with the folder that holds one folder per data set, named as the set is."""


class Pair(NamedTuple):
    """Where one image and its label lie."""

    name: str
    image: Path
    label: Path


def root_of(name: str, data: DataConfig) -> Path:
    """Folder of a data set: what `data.roots` says, else the folder of its name in `SPCNET_DATA`.

    Raises:
        DataError: neither is given, or the folder does not exist.
    """
    if name in data.roots:
        root, given_by = Path(data.roots[name]).expanduser(), f"data.roots.{name}"
    elif os.environ.get(ROOT_VARIABLE):
        root, given_by = (
            Path(os.environ[ROOT_VARIABLE]).expanduser() / name,
            f"the environment variable {ROOT_VARIABLE}",
        )
    else:
        raise DataError(
            f"where is the data set {name}? Set data.roots.{name} to its folder, or the environment variable "
            f"{ROOT_VARIABLE} to a folder that holds it under the name {name}"
        )
    if not root.is_dir():
        raise DataError(f"the folder {root} of the data set {name} does not exist: it comes from {given_by}")
    return root


def find_pairs(name: str, root: Path, *, split: str, subset: str | None = None) -> tuple[list[Pair], Mapping[int, str]]:
    """The images of a data set on disk, each with its label, sorted by name, and the label table that they use.

    Args:
        name: a set of `DATASETS` that has a layout.
        root: its folder.
        split: one of its splits.
        subset: one of its subsets; all of the split if not given.

    Raises:
        DataError: a folder is missing or holds no images, or an image has no label.
    """
    info = dataset(name)
    layout = info.layout
    assert layout is not None, f"{name} is generated"
    if subset is None and any("{subset}" in folder for folder in layout.images):
        parts = [find_pairs(name, root, split=split, subset=part) for part in info.subsets]
        if any(table is not parts[0][1] for _, table in parts):
            raise DataError(f"the subsets of {name} in {root} have labels of different kinds: use one kind for all")
        return [pair for pairs, _ in parts for pair in pairs], parts[0][1]
    place = {"split": layout.folder_names.get(split, split), "subset": subset or ""}
    photos = _folder(name, root, layout.images, place, f"photos (*{', *'.join(layout.image_endings)})")
    truths = _folder(name, root, layout.labels, place, f"label images (*{' or *'.join(layout.label_tables)})")
    listed = (
        layout.members()[split] if layout.members and photos in {root / images for images in layout.images} else None
    )
    beginnings = layout.prefixes.get(subset or "", ("",))
    found = sorted(
        (path.relative_to(photos).as_posix().removesuffix(ending), path)
        for ending in layout.image_endings
        for path in photos.rglob(f"*{ending}")
        if path.name.startswith(beginnings) and not path.name.startswith(".")
        if listed is None or path.name.removesuffix(ending) in listed
    )
    if not found:
        raise DataError(
            f"no images of the data set {name}{f'/{subset}' if subset else ''} in {photos}: expected files named "
            f"{' or '.join(beginning + '*' + ending for beginning in beginnings for ending in layout.image_endings)}"
        )
    # One kind of label for all: the kinds number the classes differently.
    for ending in layout.label_tables:
        if (truths / f"{found[0][0]}{ending}").is_file():
            break
    else:
        ending = next(iter(layout.label_tables))
    pairs = [Pair(stem.replace("/", "_"), path, truths / f"{stem}{ending}") for stem, path in found]
    bare = [pair for pair in pairs if not pair.label.is_file()]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(pairs)} images of the data set {name} have no label: the first is {bare[0].image}, "
            f"whose label should be {bare[0].label}"
        )
    return pairs, layout.label_tables[ending]


def _folder(name: str, root: Path, candidates: tuple[str, ...], place: Mapping[str, str], content: str) -> Path:
    folders = [root / candidate.format(**place) for candidate in candidates]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DataError(
        f"the data set {name} is incomplete: there is no folder {' or '.join(map(str, folders))} with its {content}"
    )
