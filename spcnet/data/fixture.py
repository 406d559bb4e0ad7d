"""Tiny data sets in the layout of real ones: to try a recipe, a program or a test where the real set is not at hand.

The photos are generated streets, the label images have the ids, the names and the form that the real set's have. Nothing
learned from them means anything for the real set.
"""

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet import label_tables, labels
from spcnet.data.catalog import dataset
from spcnet.data.layouts import DatasetInfo, Layout
from spcnet.data.patterns import filled, placed
from spcnet.errors import DataError, UsageError, unknown_name_error
from spcnet.files import write_bytes
from spcnet.synthesis import streets

MOST_IMAGES = 2000
"""Images that a split can have; every split of a real set whose frames are listed has more."""


def write_fixture(
    name: str,
    folder: Path,
    *,
    layout: str | int | None = None,
    images_per_split: int = 2,
    size: tuple[int, int] = (64, 128),
    seed: int = 0,
) -> list[Path]:
    """Write a small valid data set: for each split, and each subset, some photos with their label images.

    Args:
        name: a set of `DATASETS` that has a layout.
        folder: where to; made if it does not exist.
        layout: one of the set's layouts, by name or number; the first that every split has if not given.
        images_per_split: photos of each split, or of each subset of it.
        size: height and width of the photos in pixels.
        seed: other seeds give other streets.

    Returns:
        The files written.

    Raises:
        UsageError: the set or the layout is unknown, the set is generated, or a number is out of range.
        DataError: the folder is not empty, or cannot be written to.
    """
    info = dataset(name)
    chosen = _layout(name, info, layout)
    if not 1 <= images_per_split <= MOST_IMAGES:
        raise UsageError(f"images_per_split is {images_per_split}: it must lie in 1..{MOST_IMAGES}")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"the folder {folder} is not empty: a made data set is written into a new or empty one")
    except NotADirectoryError:
        raise DataError(f"{folder} is a file: a made data set is written into a folder") from None
    table = chosen.table
    written: list[Path] = []
    if callable(table):
        if "v2.0" in chosen.labels:
            written.append(_write_configuration(folder))
        table = table(folder)
    native, palette = _native_ids(name, table)
    styles = list(streets.STYLES)
    for number, (image, label) in enumerate(_paths(info, chosen, images_per_split)):
        scene = streets.generate(number, style=styles[number % len(styles)], seed=seed, size=size)
        written.append(_write(folder / image, _encoded(Image.fromarray(scene.image), Path(image).suffix)))
        written.append(_write(folder / label, _label(native[scene.label], chosen, palette)))
    return written


def _write(path: Path, content: bytes) -> Path:
    write_bytes(path, content)
    return path


def _layout(name: str, info: DatasetInfo, wanted: str | int | None) -> Layout:
    if not info.layouts:
        raise UsageError(f"the data set {name} is generated: it has no files")
    if wanted is None:
        return next(layout for layout in info.layouts if not layout.only)
    if isinstance(wanted, int) or wanted.isdecimal():
        number, last = int(wanted), len(info.layouts) - 1
        if not 0 <= number <= last:
            raise UsageError(f"{name} has no layout {number}: its layouts have the numbers 0 to {last}")
        return info.layouts[number]
    for layout in info.layouts:
        if layout.name == wanted:
            return layout
    raise unknown_name_error(wanted, [layout.name for layout in info.layouts], f"layout of {name}")


def _paths(info: DatasetInfo, layout: Layout, count: int) -> Iterator[tuple[str, str]]:
    """Where photos and their label images go, below the folder."""
    members = next((layout.members() for layout in info.layouts if layout.members), None)
    number = 0
    for split in layout.only or info.splits:
        if members and split == "full":
            continue  # all the others together
        for subset in info.subsets or ("",):
            place = {"split": split, "folder": layout.folders.get(split, split), "subset": subset}
            images, truths = placed(layout.images[0], place), placed(layout.labels, place)
            for i in range(count):
                number += 1
                if members:
                    folders, stem = "", sorted(members[split])[i]
                elif subset in info.prefixes:
                    folders, stem = "", f"{info.prefixes[subset][0]}_{number:06d}"
                else:
                    folders, stem = "town/", f"{number:06d}"
                stars = (folders, stem) if "**/" in images else (stem,)
                yield filled(images, stars), filled(truths, stars)


def _native_ids(name: str, table: Mapping[int, str]) -> tuple[NDArray[np.uint8], list[int]]:
    """Native id of each train id, 256 entries, and a palette for the native ids."""
    for space in labels.SPACES.values():
        if set(labels.known_names(space)).issuperset(table.values()):
            break
    classes = labels.remap(table, space, name)
    known = {int(classes[native_id]): native_id for native_id in sorted(table, reverse=True)}
    wanted = labels.remap(label_tables.CITYSCAPES_TRAIN_IDS, space, name)
    native = np.array([known.get(int(k), known[labels.IGNORE]) for k in wanted], np.uint8)
    palette = [c for k in classes for c in (space.colors[k] if k < len(space) else (0, 0, 0))]
    return native, palette


def _encoded(image: Image.Image, ending: str = ".png") -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG" if ending == ".png" else "JPEG", quality=95)
    return file.getvalue()


def _label(native: NDArray[np.uint8], layout: Layout, palette: list[int]) -> bytes:
    """A label image in the layout's form."""
    if layout.form == "wide":
        instances = np.cumsum(np.ones_like(native, np.uint16), axis=1, dtype=np.uint16)
        return _wide_png(np.dstack([native, instances, np.zeros_like(instances)]).astype(np.uint16))
    image = Image.fromarray(native)
    if layout.form != "grey":
        image.putpalette(palette)
    return _encoded(image.convert("RGB") if layout.form == "colors" else image)


def _wide_png(pixels: NDArray[np.uint16]) -> bytes:
    """A PNG with three channels of 16 bits, H×W×3, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _write_configuration(folder: Path) -> Path:
    """The file that says what Mapillary's numbers of version 2.0 mean."""
    entries = [{"name": name, "readable": name.rpartition("--")[2]} for name in label_tables.MAPILLARY_V20]
    return _write(folder / "config_v2.0.json", json.dumps({"version": "2.0", "labels": entries}).encode())
