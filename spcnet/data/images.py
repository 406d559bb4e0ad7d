"""Reading photographs and label images, and saying in one line what is wrong with a file.

Files come from anywhere, so nothing in them is trusted: a size is checked before a pixel is decoded, and whatever a
decoder raises becomes a `DataError`. Pixels are given as they are stored. What a camera notes about how it was held
(EXIF) is not followed, for label images carry no such note and would no longer fit; colour profiles and transparency
are dropped; of several pictures in a file there is the first.
"""

import io
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from spcnet.data import labels
from spcnet.data.labels import LabelFormat
from spcnet.errors import DataError

MAX_PIXELS = 2**27
"""Pixels that an image may have; while one is decoded it takes some eight bytes for each."""
MAX_BYTES = 2**30
"""Bytes that an image file may have."""
MAX_SCANS = 100
"""Times that a JPEG file may go over its pixels; programs write a dozen, and each takes as long as the whole image."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF")
"""Kinds of image files that are read."""

T = TypeVar("T")

ARRAY = ".npy"
"""Ending of unpacked pixels, as `spcnet.data.cache` may write them: an array of bytes in NumPy's own form."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_STEP = {2: 85, 4: 17}
"""By how much grey of so few bits is multiplied to fill a byte; in a label image that has to be taken back."""


def read_image(path: Path, *, at_least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A photo as RGB, H×W×3, as it is stored: not turned by what EXIF says.

    Grey becomes three equal channels, of 16 bits a channel the upper eight are kept, inks (CMYK) are converted.

    Args:
        path: the file.
        at_least: height and width that suffice. A JPEG may then come at a half, a quarter or an eighth of its size, as
            long as it is no smaller than this: read several times as fast, with pixels that are averages of its own.

    Raises:
        DataError: the file is missing, no image, damaged, too large, or of numbers that are no colours.
    """
    if path.suffix == ARRAY:
        return _array(path, channels=3)
    content = _content(path)
    try:
        image = _decode(path, content, at_least=at_least)
        if image.mode.startswith("I;16"):
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        if image.mode in ("I", "F"):
            raise DataError(
                f"{path} is an image of mode {image.mode}: a photo has 8 or 16 bits a channel. Convert it to PNG or JPEG"
            )
        if image.mode == "RGB":
            return np.array(image)
        # Of a transparent colour Pillow warns that it is lost.
        image.info.pop("transparency", None)
        return np.array(image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:  # a broken file may raise anything in the decoders
        raise _unreadable(path, error) from error


def read_label(path: Path, form: LabelFormat = LabelFormat()) -> NDArray[np.uint8]:  # noqa: B008  # frozen
    """A label image as its native ids, H×W.

    A grey image of 8, 16 or 32 bits holds numbers, an RGB image colours (opaque or not), an image with a palette either
    (`labels.palette_ids`).

    Args:
        path: the file.
        form: what its numbers and colours mean.

    Raises:
        UnknownLabelError: it has colours or numbers that the set does not have.
        DataError: the file is missing, no image, damaged, too large, or not of a form that holds ids.
    """
    if path.suffix == ARRAY:
        return _array(path)
    content = _content(path)
    try:
        return _ids(path, content, form)
    except DataError:
        raise
    except Exception as error:  # a broken file may raise anything in the decoders
        raise _unreadable(path, error) from error


def _array(path: Path, *, channels: int | None = 0) -> NDArray[np.uint8]:
    """Unpacked pixels, read from the disk only where they are looked at; what is written into them stays in memory.

    Args:
        path: the file.
        channels: 3 for a photo, 0 for a label image, None for either.

    Raises:
        DataError: the file is missing, damaged, too large, or of another form.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            array = _taken(path, lambda path: np.load(path, mmap_mode="c", allow_pickle=False))
    except DataError:
        raise
    except Exception as error:  # a broken file may raise anything in the reader
        raise _unreadable(path, error) from error
    shapes = {3: ((3,),), 0: ((),), None: ((3,), ())}[channels]
    if array.dtype != np.uint8 or array.shape[2:] not in shapes or array.ndim < 2 or not array.flags.c_contiguous:
        raise DataError(
            f"{path} has pixels of the form {array.dtype} {array.shape}: a copy has bytes, H×W×3 for a photo and H×W for a "
            "label image; make the copy anew"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _too_large(path, f"{array.shape[1]}×{array.shape[0]} pixels")
    pixels: NDArray[np.uint8] = array.view(np.ndarray)
    return pixels


def size_of(path: Path) -> tuple[int, int]:
    """Height and width in pixels that an image file says it has; nothing is decoded.

    Raises:
        DataError: the file is missing, no image, or too large.
    """
    if path.suffix == ARRAY:
        array = _array(path, channels=None)
        return array.shape[0], array.shape[1]
    content = _content(path)
    try:
        image = _opened(path, content)
    except DataError:
        raise
    except Exception as error:  # a broken file may raise anything in the decoders
        raise _unreadable(path, error) from error
    return image.height, image.width


def fault(path: Path) -> str:
    """What is wrong with a PNG or JPEG file although it can be decoded, in a few words; empty where nothing is.

    Decoders pass over a PNG's checksums, and over an end that is missing behind the last pixel. Reading leaves this
    out: the files of a set are checked once, not in every epoch.

    Raises:
        DataError: the file cannot be read.
    """
    content = _content(path)
    if content.startswith(_PNG):
        return _png_fault(content)
    # Programs write notes of their own behind the end marker, so that it need not be the last.
    if content.startswith(_JPEG) and b"\xff\xd9" not in content[-(2**16) :]:
        return "its end is missing"
    return ""


def _png_fault(content: bytes) -> str:
    place, kind, view = len(_PNG), b"", memoryview(content)
    while kind != b"IEND":
        if place + 12 > len(content):
            return "its end is missing"
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            return "its end is missing"
        if zlib.crc32(view[place + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            return f"the checksum of its part {kind.decode('ascii', 'replace')!r} is wrong"
        place = end + 4
    return ""


def _content(path: Path) -> bytes:
    """All bytes of a file."""
    return _taken(path, Path.read_bytes)


def _taken(path: Path, read: Callable[[Path], T]) -> T:
    """What is read from a file, if it is one and not too large."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is no file but a {'folder' if path.is_dir() else 'device'}: give an image file")
        if status.st_size > MAX_BYTES:
            raise DataError(
                f"{path} has {status.st_size:,} bytes: an image file may have {MAX_BYTES:,}. Make it smaller or leave it out"
            )
        return read(path)
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: it was there when the data set was opened, or the path is wrong"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"cannot read {path}: {reason or error}. Check the path and its permissions") from None


def _decode(
    path: Path, content: bytes, *, at_least: tuple[int, int] | None = None, rawmodes: Mapping[str, str] | None = None
) -> Image.Image:
    """Decode an image.

    Args:
        path: where it lies, for the messages.
        content: of the file.
        at_least: as for `read_image`.
        rawmodes: other ways to take the bytes of a pixel than those that Pillow chooses.

    Raises:
        DataError: it is no image or too large.
        Exception: whatever Pillow raises on a damaged file; its documentation names only some.
    """
    image = _opened(path, content)
    if content.startswith(_JPEG) and content.count(b"\xff\xda") > MAX_SCANS:
        raise DataError(f"{path} goes over its pixels more than {MAX_SCANS} times: no usual JPEG. Save it anew")
    if at_least is not None:
        image.draft(None, (at_least[1], at_least[0]))
    if rawmodes is not None:
        image.tile = [tile._replace(args=rawmodes.get(str(tile.args), tile.args)) for tile in image.tile]
    # What is odd in a file is either an error or of no matter.
    with warnings.catch_warnings(action="ignore"):
        image.load()
    return image


def _opened(path: Path, content: bytes) -> ImageFile.ImageFile:
    """An image of which only the beginning is read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(path, " ".join(str(error).split())) from None
    except UnidentifiedImageError:
        raise DataError(
            f"cannot read {path}: it is none of {', '.join(FORMATS)}, or damaged at its beginning. Copy it anew"
        ) from None
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"it says that it has {image.width}×{image.height} pixels")
    return image


def _ids(path: Path, content: bytes, form: LabelFormat) -> NDArray[np.uint8]:
    kind = _png_kind(content)
    if form.wide and kind.bits == 16:
        return labels.from_numbers(_wide_numbers(path, content, kind.channels), form, str(path))
    image = _decode(path, content)
    if content.startswith(_JPEG):
        raise DataError(f"{path} is a JPEG: it changes the ids of a label image's pixels a little. Take the PNG")
    if image.mode == "LA" and kind.bits == 8:
        image = image.getchannel("L")  # how opaque a label is means nothing
    if image.mode == "P":
        return _palette_ids(path, image, form)
    if image.mode in ("L", "1"):
        return _grey_ids(path, image, 255 if image.mode == "1" else _STEP.get(kind.bits, 1), form)
    if (image.mode.startswith("I;16") or image.mode == "I") and kind.channels < 2 and form.numbers != ():
        return labels.from_numbers(np.asarray(image), form, str(path))
    if form.colors and image.mode in ("RGB", "RGBA"):
        return labels.color_ids(np.asarray(image)[:, :, :3], form, str(path))
    raise DataError(
        f"{path} is an image of mode {image.mode}: a label image has one channel with the number of each pixel's class "
        f"(mode L, I;16 or P){' or their colours (RGB)' if form.colors else ', not colours'}"
    )


def _palette_ids(path: Path, image: Image.Image, form: LabelFormat) -> NDArray[np.uint8]:
    levels = iter(image.getpalette("RGB") or ())
    palette = tuple(zip(levels, levels, levels, strict=False))
    if len(palette) > 1 and palette == _GREYS[: len(palette)]:
        return _grey_ids(path, image, 1, form)
    indices = np.array(image, dtype=np.uint8)
    # Counting pixels takes a tenth of decoding them, and few palettes need it.
    if not form.names or not labels.palette_may_decide(palette, form):
        return labels.from_numbers(indices, form, str(path))
    table = labels.palette_ids(palette, _counted(image), form, str(path))
    return labels.from_numbers(indices, form, str(path)) if table is None else _translated(indices, table)


_GREYS = tuple((g, g, g) for g in range(256))
"""A palette in which each index is its grey level, or the beginning of one."""


def _grey_ids(path: Path, image: Image.Image, step: int, form: LabelFormat) -> NDArray[np.uint8]:
    values = np.array(image, dtype=np.uint8)
    if image.mode == "L" and step > 1:
        values //= np.uint8(step)
    if form.names and (
        form.numbers == () or step > 1 or any((values == grey).any() for grey in labels.telling_greys(form))
    ):
        counts = np.bincount(values.reshape(-1), minlength=256)
        table = labels.grey_ids({int(i): int(counts[i]) for i in np.flatnonzero(counts)}, step, form, str(path))
        if table is not None:
            return _translated(values, table)
    return labels.from_numbers(values, form, str(path))


def _counted(image: Image.Image) -> dict[int, int]:
    """Pixels of each value that an image with one channel of 8 bits has."""
    return {value: number for value, number in enumerate(image.histogram()) if number}


def _translated(pixels: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The entry of a table for each pixel."""
    return np.frombuffer(bytearray(pixels).translate(table.tobytes()), np.uint8).reshape(pixels.shape)


class _PngKind(NamedTuple):
    bits: int
    """Of a channel; 0 where the file is no PNG."""
    channels: int


def _png_kind(content: bytes) -> _PngKind:
    if not content.startswith(_PNG) or len(content) < 26:
        return _PngKind(0, 0)
    return _PngKind(content[24], {0: 1, 2: 3, 4: 2, 6: 4}.get(content[25], 1))


def _wide_numbers(path: Path, content: bytes, channels: int) -> NDArray[np.uint16]:
    """First channel of a PNG with 16 bits a channel, of which Pillow by itself gives the upper eight."""
    if channels == 1:
        return np.asarray(_decode(path, content))
    if channels == 2:  # four bytes, of which the first two are the class
        both = np.asarray(_decode(path, content, rawmodes={"LA;16B": "RGBA"}))
        upper, lower = both[:, :, 0], both[:, :, 1]
    else:
        upper = np.asarray(_decode(path, content))[:, :, 0]
        # With the two bytes of a number taken the other way round, it gives the lower eight.
        rawmodes = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
        lower = np.asarray(_decode(path, content, rawmodes=rawmodes))[:, :, 0]
    numbers: NDArray[np.uint16] = upper.astype(np.uint16) * 256 + lower
    return numbers


def _too_large(path: Path, found: str) -> DataError:
    return DataError(
        f"{path} is too large: {found}, and an image may have {MAX_PIXELS:,} pixels. Make it smaller, or copy it anew if it is damaged"
    )


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"cannot read {path}: {reason}. The file is damaged or no image; copy it anew")
