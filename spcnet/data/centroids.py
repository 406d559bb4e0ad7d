"""Where in the images of a set each class lies, so that training can draw a class first and then a crop that shows it.

Rare classes are in few images and on few of their pixels. Class-uniform sampling (Zhu et al., CVPR 2019; RobustNet)
draws each class equally often: an image is divided into tiles, and for each class in a tile the centre of its pixels is
noted. RobustNet takes only tiles that lie wholly in the image, so that an image lower or narrower than a tile (SYNTHIA,
BDD at 1024 pixels) has none and is left out; here the last tiles are cut off at the border.
"""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from spcnet import labels
from spcnet.data.datasets import SegmentationSet
from spcnet.data.items import item_loader
from spcnet.errors import DataError
from spcnet.files import write_atomic

FORMAT = 3
"""Version of the stored file; files of another version are written again."""
CHUNK = 16
"""Labels that a worker process reads before it hands over."""


class Centres(NamedTuple):
    """Where each class of each tile has the centre of its pixels; N of them in all, image after image."""

    image: NDArray[np.int32]
    """Number of the image in its set, N."""
    label: NDArray[np.uint8]
    """The class, N."""
    row: NDArray[np.float32]
    """Place of the centre as a fraction of the image's height, 0..1, N."""
    column: NDArray[np.float32]
    """Place of the centre as a fraction of the image's width, 0..1, N."""
    pixels: NDArray[np.int32]
    """Number of the pixels of the class in the tile, N."""


def tile_centres(
    label: NDArray[np.uint8], *, tile: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """The centre of each class in each tile of one image.

    Args:
        label: class of each pixel, H×W; `labels.IGNORE` is none.
        tile: side of a tile in pixels.

    Returns:
        Class, row and column of each centre, in pixels, cut off to whole ones, and number of pixels; tile after tile, row by row.
    """
    width = label.shape[1]
    # Of whole runs of equal pixels in a row, for there are far fewer of them than pixels.
    begins = np.empty(label.shape, np.bool_)
    np.not_equal(label[:, 1:], label[:, :-1], out=begins[:, 1:])
    begins[:, ::tile] = True
    first = np.flatnonzero(begins)
    length = np.diff(first, append=label.size)
    row, column = np.divmod(first, width or 1)
    tiles_across = math.ceil(width / tile)
    key = ((row // tile) * tiles_across + column // tile) * 256 + label.reshape(-1)[first]
    pixels = np.bincount(key, length)
    rows = np.bincount(key, length * row)
    columns = np.bincount(key, length * (column + (length - 1) / 2))
    keys = np.flatnonzero(pixels)
    keys = keys[keys % 256 != labels.IGNORE]
    return (
        (keys % 256).astype(np.uint8),
        (rows[keys] // pixels[keys]).astype(np.int64),
        (columns[keys] // pixels[keys]).astype(np.int64),
        pixels[keys].astype(np.int32),
    )


def class_centres(
    images: SegmentationSet,
    *,
    tile: int,
    workers: int = 0,
    skip_bad: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    store: bool = True,
) -> Centres:
    """Where the classes lie in each image of a set.

    Of a set on disk every label file is read once, and the orientation of its photo. The result is stored in the folder
    `.spcnet` beside the data, or where that cannot be written to, in the user's cache folder, and read from there as long
    as no file has changed. Generated scenes are all drawn once, which leaves them in memory; no file is stored of them.

    Args:
        images: the set. Of one with weather put on, the set below is taken.
        tile: side of a tile in pixels.
        workers: processes that read labels beside this one.
        skip_bad: leave out labels that cannot be read; training then reports them.
        on_progress: called with the number of images that are done, and of all.
        store: write the result to a file; an existing file is read in any case.

    Raises:
        DataError: a label cannot be read.
    """
    files = _cache_files(images, tile)
    known = _read_cache(files, len(images))
    if known is not None:
        return known
    centres = _search(_Labels(images, tile), workers, skip_bad, on_progress or (lambda done, total: None))
    for path in files if store else ():
        try:
            write_atomic(path, lambda file: np.savez_compressed(file, **centres._asdict()))
        except DataError:
            continue  # not writable: the next place, or none, and the labels are read again the next time
        break
    return centres


def stored_centres(images: SegmentationSet, *, tile: int) -> Centres | None:
    """What an earlier call of `class_centres` has stored of a set; None where there is nothing, or a label has changed."""
    return _read_cache(_cache_files(images, tile), len(images))


class _Labels(Dataset[list[tuple[NDArray[np.generic], ...] | DataError]]):
    """Class, row and column of the centres of each image, in chunks of images."""

    def __init__(self, plain: SegmentationSet, tile: int) -> None:
        self.plain, self.tile = plain, tile

    def __len__(self) -> int:
        return math.ceil(len(self.plain) / CHUNK)

    def __getitem__(self, chunk: int) -> list[tuple[NDArray[np.generic], ...] | DataError]:
        last = min((chunk + 1) * CHUNK, len(self.plain))
        return [self._centres(index) for index in range(chunk * CHUNK, last)]

    def _centres(self, index: int) -> tuple[NDArray[np.generic], ...] | DataError:
        try:
            label = self.plain.label_of(index)
        except DataError as error:
            return error
        kind, row, column, pixels = tile_centres(label, tile=self.tile)
        # The middle of the pixel, which is in the same pixel after rounding.
        height, width = label.shape
        return kind, ((row + 0.5) / height).astype(np.float32), ((column + 0.5) / width).astype(np.float32), pixels


def _search(numbered: _Labels, workers: int, skip_bad: bool, on_progress: Callable[[int, int], None]) -> Centres:
    counts: list[int] = []
    columns: list[tuple[NDArray[np.generic], ...]] = []
    loader = item_loader(numbered, workers=min(workers, len(numbered)))
    for item in (item for chunk in loader for item in chunk):
        if isinstance(item, DataError):
            if not skip_bad:
                raise item
            counts.append(0)
        else:
            counts.append(len(item[0]))
            columns.append(item)
        on_progress(len(counts), len(numbered.plain))
    kind, row, column, pixels = (
        np.concatenate([np.empty(0, dtype), *(part[place] for part in columns)], dtype=dtype)
        for place, dtype in enumerate((np.uint8, np.float32, np.float32, np.int32))
    )
    return Centres(np.repeat(np.arange(len(counts), dtype=np.int32), counts), kind, row, column, pixels)


def _cache_files(images: SegmentationSet, tile: int) -> list[Path]:
    """Where the centres of a set may be stored, the best place first; none for a set without files.

    The name is another one when anything that the centres depend on is another.
    """
    plain = images.stored()
    if plain is None:
        return []
    root = Path(os.path.commonpath([path.absolute().parent for pair in plain.pairs for path in pair[1:]]))
    about_all = (FORMAT, tile, False, plain.form, plain.table.tobytes())
    content = hashlib.sha256(repr(about_all).encode())
    for pair in plain.pairs:
        for path in (pair.label, pair.image):
            size, changed = -1, -1
            with suppress(OSError):  # reading it will say what is wrong
                size, changed = (about := path.stat()).st_size, about.st_mtime_ns
            content.update(repr((os.path.relpath(path.absolute(), root), size, changed)).encode())
    name = f"centroids-{content.hexdigest()[:32]}.npz"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spcnet"
    # Images and labels on two disks have no folder in common.
    return [home / name] if root == Path(root.anchor) else [root / ".spcnet" / name, home / name]


def _read_cache(files: Sequence[Path], num_images: int) -> Centres | None:
    """The content of the first file that is there and whole."""
    for path in files:
        try:
            with np.load(path, allow_pickle=False) as file:
                centres = Centres(*(file[name] for name in Centres._fields))
        except Exception:  # noqa: BLE001  # whatever a damaged file makes of NumPy and zipfile: it is written again
            continue
        image = centres.image
        types = [(column.dtype, column.shape) for column in centres]
        if (
            types
            == [(np.dtype(dtype), image.shape) for dtype in (np.int32, np.uint8, np.float32, np.float32, np.int32)]
            and image.ndim == 1
            and (not len(image) or 0 <= image.min() <= image.max() < num_images)
        ):
            return centres
    return None
