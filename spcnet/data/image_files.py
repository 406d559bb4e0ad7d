"""Opening image files from anywhere: limits, damage, and the structure of PNG and JPEG.

Nothing in a file is trusted: its size is checked before a pixel is decoded, and whatever a decoder raises becomes a
`DataError`.
"""

import io
import re
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, features

from spcnet.data.listing import kind_by_content
from spcnet.errors import DataError, one_line

MAX_PIXELS = 2**27
"""Pixels that an image may have; while one is decoded it takes some eight bytes for each."""
MAX_BYTES = 2**30
"""Bytes that an image file may have."""
MAX_SCANS = 100
"""Times that a JPEG file may go over its pixels; programs write a dozen, and each takes as long as the whole image."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF")
"""Kinds of image files that are read."""
_OTHER_KINDS = {"gif": "", "jp2": "", "avif": "", "heif": "pillow-heif", "jxl": "pillow-jxl-plugin"}
"""Kinds of pictures of which sets have none, as `kind_by_content` has them, with the package that Pillow needs for them."""
T = TypeVar("T")
Opened = io.BytesIO | io.BufferedReader
"""The bytes of a file, in memory or on the disk."""
ARRAY = ".npy"
"""Ending of unpacked pixels, as `spcnet.data.cache` may write them: an array of bytes in NumPy's own form."""
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GREY_STEP = {2: 85, 4: 17}
"""By how much grey of so few bits is multiplied to fill a byte; in a label image that has to be taken back."""


def read_bytes(path: Path) -> bytes:
    """All bytes of a file."""
    return _read(path, Path.read_bytes)


def _read(path: Path, read: Callable[[Path], T]) -> T:
    """What a function reads from a file, if it is one and not too large."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is a {'folder' if path.is_dir() else 'device'} and not a file: give an image file")
        if status.st_size > MAX_BYTES:
            rule = f"an image file may have {MAX_BYTES:,}"
            raise DataError(f"{path} has {status.st_size:,} bytes: {rule}. Make it smaller or leave it out")
        return read(path)
    except FileNotFoundError:
        what = "it was there when the data set was opened, or the path is wrong"
        raise DataError(f"{path} does not exist: {what}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"cannot read {path}: {reason or error}. Check the path and its permissions") from None


def read_array(path: Path, *, channels: int | None = 0) -> NDArray[np.uint8]:
    """Unpacked pixels, read from the disk only where they are used; writing to them changes memory alone.

    Args:
        path: the file.
        channels: 3 for a photo, 0 for a label image, None for either.

    Raises:
        DataError: the file is missing, damaged, too large, or of another form.
    """
    with decoding(path), warnings.catch_warnings(action="error"):
        array = _read(path, lambda path: np.load(path, mmap_mode="c", allow_pickle=False))
    shapes = {3: ((3,),), 0: ((),), None: ((3,), ())}[channels]
    if array.dtype != np.uint8 or array.shape[2:] not in shapes or array.ndim < 2 or not array.flags.c_contiguous:
        rule = "a copy has bytes, H×W×3 for a photo and H×W for a label image; make a new copy"
        raise DataError(f"{path} has pixels of the form {array.dtype} {array.shape}: {rule}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _too_large(path, f"{array.shape[1]}×{array.shape[0]} pixels")
    pixels: NDArray[np.uint8] = array.view(np.ndarray)
    return pixels


def decode(path: Path, content: bytes, *, rawmodes: Mapping[str, str] | None = None) -> Image.Image:
    """Decode an image, as it is.

    Args:
        path: where it lies, for the messages.
        content: of the file.
        rawmodes: other ways to take the bytes of a pixel than those that Pillow chooses.

    Raises:
        DataError: it is not an image, or too large.
        Exception: whatever Pillow raises on a damaged file; its documentation names only some.
    """
    image = open_image(path, content)
    if rawmodes is not None:
        image.tile = [tile._replace(args=rawmodes.get(str(tile.args), tile.args)) for tile in image.tile]
    # What is odd in a file is either an error or of no matter.
    with warnings.catch_warnings(action="ignore"):
        image.load()
    return image


_OPENING_TIFF = threading.Lock()


def open_picture(file: Opened, *, formats: tuple[str, ...] | None = None) -> ImageFile.ImageFile:
    """Open a picture as Pillow does, of which only the beginning is read.

    Of a TIFF whose pixels are not compressed, Pillow by itself takes YCbCr for RGB, and the planes of 16 bits for those
    of 8. With libtiff it reads both; compressed ones it always reads so.

    Args:
        file: at its beginning.
        formats: the kinds that may be read; all that Pillow knows if not given.

    Raises:
        Exception: whatever Pillow raises on what is not an image.
    """
    head = file.read(4)
    file.seek(0)
    if not head.startswith(TIFF) or not features.check("libtiff"):
        return Image.open(file, formats=formats)
    with _OPENING_TIFF:  # the switch is the module's
        before, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, True
        try:
            return Image.open(file, formats=formats)
        finally:
            TiffImagePlugin.READ_LIBTIFF = before


def open_image(path: Path, content: bytes | Opened) -> ImageFile.ImageFile:
    """An image of which only the beginning is read."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with warnings.catch_warnings(action="ignore"):
            image = open_picture(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(path, one_line(error)) from None
    except UnidentifiedImageError:
        file.seek(0)
        content_kind, known = kind_by_content(path), ", ".join(FORMATS)
        reason = f"it is not one of {known}, or damaged at its beginning. Replace it"
        if file.read(4).startswith(TIFF):
            reason = "it is a TIFF of a kind that Pillow does not know, or damaged. Convert it to PNG"
        elif content_kind in _OTHER_KINDS:
            package = _OTHER_KINDS[content_kind]
            reader = f" ({package} reads it)" if package else ""
            reason = f"by its content it is {content_kind.upper()}, which is not one of {known}. Convert it to PNG or JPEG{reader}"
        raise DataError(f"cannot read {path}: {reason}") from None
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"it says that it has {image.width}×{image.height} pixels")
    if isinstance(content, bytes) and too_many_scans(content):
        what = f"goes over its pixels more than {MAX_SCANS} times, which no usual JPEG does"
        raise DataError(f"{path} {what}. Save it again")
    return image


PNG_NOTES = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
"""Parts of a PNG in which an orientation may stand."""


def png_parts(file: Opened) -> Iterator[bytes]:
    """The names of a PNG's parts, in order."""
    place = len(PNG)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind
        place += 12 + length


class JpegWalk(NamedTuple):
    """What the segments of a JPEG say."""

    scans: int
    """Times that it goes over its pixels."""
    end: int
    """Place of its end marker; -1 where that is missing."""


_BEHIND_PIXELS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""The marker that ends the pixels of a scan: neither a stuffed byte, nor padding, nor a restart."""


_FILLING = re.compile(rb"\xff+")
"""What a marker begins with."""


_BETWEEN_SCANS = frozenset((0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE))
"""Markers of the segments that may follow a scan: tables, the next scan, notes."""


def walk_jpeg(content: bytes) -> JpegWalk:
    """Follow the segments of a JPEG from its start to its own end, whatever lies behind that or within a segment."""
    place, scans, whole = 2, 0, True
    while True:
        marker = content.find(b"\xff", place)
        if marker < 0:
            return JpegWalk(scans, -1)
        # Decoders pass over stray bytes between segments; behind the first scan they are another file's.
        whole = whole and (marker == place or not scans)
        place = _FILLING.match(content, marker).end()  # type: ignore[union-attr]  # at least one byte
        kind = content[place] if place < len(content) else 0
        if kind == 0xD9:
            return JpegWalk(scans, place - 1 if whole else -1)
        if scans and kind not in _BETWEEN_SCANS:
            return JpegWalk(scans, -1)
        place += 1
        if kind in (0x00, 0x01, 0xD8) or 0xD0 <= kind <= 0xD7:  # has no length
            continue
        if place + 2 > len(content):
            return JpegWalk(scans, -1)
        place += max(2, int.from_bytes(content[place : place + 2], "big"))
        if kind == 0xDA:
            scans += 1
            behind = _BEHIND_PIXELS.search(content, place)
            if behind is None:
                return JpegWalk(scans, -1)
            place = behind.start()


def too_many_scans(content: bytes) -> bool:
    """Whether a file is a JPEG that goes over its pixels more than `MAX_SCANS` times, each as long as the whole image."""
    # Most files are done with at once: only one with many such bytes, which may be those of a film behind it, is followed.
    return content.startswith(JPEG) and content.count(b"\xff\xda") > MAX_SCANS and walk_jpeg(content).scans > MAX_SCANS


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """What a decoder raises on a damaged file becomes a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a broken file may raise anything in the decoders
        reason = one_line(error) or type(error).__name__
        raise DataError(f"cannot read {path}: {reason}. The file is damaged or no image; replace it") from error


@contextmanager
def image_header(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image file of which only the beginning is read.

    Raises:
        DataError: the file is missing, no image, damaged, or too large.
    """
    with _read(path, lambda path: path.open("rb")) as file, decoding(path):
        yield open_image(path, file)


def _too_large(path: Path, size: str) -> DataError:
    rule = f"an image may have {MAX_PIXELS:,} pixels. Make it smaller, or replace it if it is damaged"
    return DataError(f"{path} is too large: {size}, and {rule}")
