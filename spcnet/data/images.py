"""Reading photographs and label images, and saying in one line what is wrong with a file.

Files come from anywhere, so nothing in them is trusted: a size is checked before a pixel is decoded, and whatever a
decoder raises becomes a `DataError`.

One file is one picture, whoever reads it: training, evaluation, the copies of `spcnet data cache`, prediction and the web
demo all call `photo_of`, which decides

- how it lies: upright, as its EXIF orientation says (EXIF or XMP, in any format that carries them);
- opacity: what can be seen through (an alpha channel, a transparent colour) is laid on white;
- depth: of 16 bits the upper eight are kept, in grey and colour alike; see `photo_of` for other numbers;
- inks (CMYK), YCbCr and Lab are converted to RGB, colour profiles dropped; of several pictures there is the first.

A label image belongs to its photo as that is shown, upright. Where a photo is stored turned by 90°, some tools label the
picture as it is stored: the label's shape says so, and `read_label` then turns the label along with its photo.
"""

import io
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from spcnet.data import label_formats
from spcnet.data.label_formats import LabelFormat
from spcnet.data.listing import kind_by_content
from spcnet.errors import DataError

MAX_PIXELS = 2**27
"""Pixels that an image may have; while one is decoded it takes some eight bytes for each."""
MAX_BYTES = 2**30
"""Bytes that an image file may have."""
MAX_SCANS = 100
"""Times that a JPEG file may go over its pixels; programs write a dozen, and each takes as long as the whole image."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF")
_OTHER_KINDS = {"gif": "", "jp2": "", "avif": "", "heif": "pillow-heif", "jxl": "pillow-jxl-plugin"}
"""Kinds of pictures of which sets have none, as `kind_by_content` has them, with the package that Pillow needs for them."""
"""Kinds of image files that are read."""

T = TypeVar("T")
Opened = io.BytesIO | io.BufferedReader
"""The bytes of a file, in memory or on the disk."""

ARRAY = ".npy"
"""Ending of unpacked pixels, as `spcnet.data.cache` may write them: an array of bytes in NumPy's own form."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STEP = {2: 85, 4: 17}
"""By how much grey of so few bits is multiplied to fill a byte; in a label image that has to be taken back."""


class Geometry(NamedTuple):
    """How a picture lies in its file."""

    stored: tuple[int, int]
    """Height and width of the pixels in the file."""
    orientation: int
    """EXIF orientation, 1..8: 1 is stored upright, 2 and 4 mirrored, 3 upside down, 5..8 on its side."""

    @property
    def on_its_side(self) -> bool:
        """Whether height and width change places when it is turned upright."""
        return self.orientation >= 5

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright picture."""
        return self.stored[::-1] if self.on_its_side else self.stored

    def __str__(self) -> str:
        height, width = self.size
        if self.orientation == 1:
            return f"{width}×{height}"
        return f"{width}×{height} (EXIF orientation {self.orientation} of the stored {self.stored[1]}×{self.stored[0]})"


class Photo(NamedTuple):
    """A photo, and what was done to show it."""

    pixels: NDArray[np.uint8]
    """RGB, H×W×3, upright and on white."""
    geometry: Geometry
    """How it lies in its file."""
    see_through: float = 0.0
    """Fraction of its pixels that were not opaque, 0..1."""


def read_image(path: Path, *, at_least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A photo as RGB, H×W×3, upright; see `read_photo`."""
    return read_photo(path, at_least=at_least).pixels


def read_photo(path: Path, *, at_least: tuple[int, int] | None = None) -> Photo:
    """A photo as it is shown: RGB, upright, on white; see `photo_of` for the rules.

    Args:
        path: the file.
        at_least: height and width of the upright photo that suffice. A JPEG may then come at a half, a quarter or an
            eighth of its size, as long as it is no smaller than this: read several times as fast, with pixels that are
            averages of its own.

    Raises:
        DataError: the file is missing, no image, damaged, too large, or of numbers that are no colours.
    """
    if path.suffix == ARRAY:
        pixels = _array(path, channels=3)
        return Photo(pixels, Geometry(pixels.shape[:2], 1))
    content = _content(path)
    try:
        image = _opened(path, content)
        stored = image.height, image.width
        if at_least is not None and isinstance(image, JpegImageFile):
            height, width = at_least[::-1] if _noted_orientation(image) >= 5 else at_least
            image.draft(None, (width, height))
        photo = photo_of(image, str(path))
        if isinstance(image, JpegImageFile):  # where a smaller one was decoded
            photo = photo._replace(geometry=photo.geometry._replace(stored=stored))
        return photo
    except DataError:
        raise
    except Exception as error:  # a broken file may raise anything in the decoders
        raise _unreadable(path, error) from error


def photo_of(image: Image.Image, name: str) -> Photo:
    """A picture of any kind that Pillow knows as it is shown: RGB, upright, on white.

    - It is turned as its EXIF orientation says; a note that cannot be read, or is none of 1..8, turns nothing.
    - What can be seen through (an alpha channel, or a colour or palette entry that is transparent) is laid on white.
    - Grey becomes three equal channels. Of 16 bits a channel the upper eight are kept, so that 65535 is white, in grey
      and colour alike; of a TIFF with 12 bits likewise. Integers of 32 bits are 0..255, or 0..65535 where one is above 255.
      Floating-point numbers are 0..1 (rounded to the nearest of 256 steps), or where one is 2 or more, as integers; NaN is
      black, infinity white.
    - Everything else (palettes, CMYK, YCbCr, Lab) becomes RGB by Pillow's conversion.

    Args:
        image: opened or decoded.
        name: what to call it in messages.

    Raises:
        DataError: its numbers are no colours.
        Exception: whatever Pillow raises on a damaged file; its documentation names only some.
    """
    # What is odd in a file is either an error or of no matter.
    with warnings.catch_warnings(action="ignore"):
        _scale_transparent_colour(image)
        if isinstance(image, TiffImageFile):  # Pillow turns it while it decodes it
            geometry, turn = _tiff_geometry(image), 1
            image.load()
        else:
            image.load()
            turn = _orientation(image)
            geometry = Geometry((image.height, image.width), turn)
        see_through = 0.0
        if image.mode.startswith("I") or image.mode == "F":
            image = _grey_of(image, name)
        if image.has_transparency_data:
            image, see_through = _on_white(image)
        if image.mode != "RGB":
            image = image.convert("RGB")
        if turn != 1:
            image = image.transpose(_TRANSPOSE[turn])
    return Photo(np.array(image), geometry, see_through)


def _on_white(image: Image.Image) -> tuple[Image.Image, float]:
    """An image with opacity laid on white (RGB), and the fraction of its pixels that are not opaque."""
    if image.mode == "La":
        image = image.convert("LA")
    clear = image if image.mode == "RGBA" else image.convert("RGBA")
    opacity = clear.getchannel("A")
    if opacity.getextrema()[0] == 255:  # quick to see, and usual
        return clear.convert("RGB"), 0.0
    see_through = 1 - opacity.histogram()[255] / (clear.width * clear.height)
    clear = Image.alpha_composite(Image.new("RGBA", clear.size, (255, 255, 255, 255)), clear)
    return clear.convert("RGB"), see_through


def _grey_of(image: Image.Image, name: str) -> Image.Image:
    """Grey values of more than 8 bits as 8 (mode L), or with opacity (LA) where one value is transparent."""
    values = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if image.mode.startswith("I;16"):
        deep = values.astype(np.uint16)
        if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
            deep <<= 4
        if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # zero is white
            deep = ~deep
        grey = (deep >> 8).astype(np.uint8)
    else:
        grey = _wide_greys(values, name, sixteen=image.format == "PPM")
    shown = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        shown.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return shown


def _wide_greys(values: NDArray[np.generic], name: str, *, sixteen: bool) -> NDArray[np.uint8]:
    """Integers of 32 bits or floating-point numbers as 0..255; `sixteen` says that they are of 0..65535."""
    numbers: NDArray[np.floating] = values.astype(np.float32)
    finite = numbers[np.isfinite(numbers)]
    highest = finite.max(initial=0)
    if highest > 65535:
        raise DataError(
            f"{name} has numbers up to {highest:g}: a photo has 8 or 16 bits a channel. Convert it to PNG or JPEG"
        )
    if values.dtype.kind == "f" and highest < 2:
        numbers = numbers * 255 + 0.5
    elif sixteen or highest > 255:
        numbers = numbers / 256
    else:
        numbers = numbers + 0.5
    grey: NDArray[np.uint8] = np.nan_to_num(numbers, nan=0, posinf=255, neginf=0).clip(0, 255).astype(np.uint8)
    return grey


def _scale_transparent_colour(image: Image.Image) -> None:
    """Bring a PNG's transparent colour to the depth that Pillow decodes its pixels to; before it is decoded."""
    if image.format != "PNG" or not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return
    clear, packed = image.info.get("transparency"), image.tile[0].args
    if packed in ("L;2", "L;4") and isinstance(clear, int):
        image.info["transparency"] = clear * _STEP[int(str(packed)[-1])]
    elif packed == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)


_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture of each EXIF orientation is brought upright."""


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Ids (H×W) brought upright from an EXIF orientation, pixel by pixel."""
    if orientation == 1:
        return pixels
    turned = {
        2: lambda: pixels[:, ::-1],
        3: lambda: pixels[::-1, ::-1],
        4: lambda: pixels[::-1],
        5: lambda: pixels.T,
        6: lambda: np.rot90(pixels, -1),
        7: lambda: pixels[::-1, ::-1].T,
        8: lambda: np.rot90(pixels),
    }[orientation]()
    return np.ascontiguousarray(turned)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of a decoded image, by Pillow's reading of EXIF and XMP; 1 where there is none."""
    try:
        # The plain reading: a PNG's own would decode the image first, to find what stands behind its pixels.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  # a note that is broken says nothing, and the pixels may be whole
        return 1
    return int(found) if found in _TRANSPOSE else 1


def _noted_orientation(image: Image.Image) -> int:
    """As `_orientation`, of an image that may not be decoded yet; only a PNG with notes behind its pixels is."""
    with warnings.catch_warnings(action="ignore"):
        if _has_late_notes(image):
            image.load()
        return _orientation(image)


def _tiff_geometry(image: TiffImageFile) -> Geometry:
    """How a TIFF lies in its file; of one that is decoded, how it came out of the decoder."""
    if not image.tile:
        return Geometry((image.height, image.width), 1)
    width, height = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return Geometry((int(height), int(width)), _orientation(image))


_PNG_NOTES = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
"""Parts of a PNG in which an orientation may stand."""


def _png_parts(file: Opened) -> Iterator[bytes]:
    """The names of a PNG's parts, in order."""
    place = len(_PNG)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind
        place += 12 + length


def _has_late_notes(image: Image.Image) -> bool:
    """Whether a PNG has notes behind the first of its pixels, where opening it does not see them."""
    file = getattr(image, "fp", None)
    if image.format != "PNG" or not isinstance(file, Opened):  # of one that is decoded they are known
        return False
    before, parts = file.tell(), _png_parts(file)
    late = b"IDAT" in parts and not _PNG_NOTES.isdisjoint(parts)
    file.seek(before)
    return late


def geometry_of(path: Path) -> Geometry:
    """Size and EXIF orientation that an image file says it has; pixels are not decoded.

    Raises:
        DataError: the file is missing, no image, or too large.
    """
    if path.suffix == ARRAY:
        return Geometry(_array(path, channels=None).shape[:2], 1)
    with _taken(path, lambda path: path.open("rb")) as file:
        try:
            return _geometry(_opened(path, file))
        except DataError:
            raise
        except Exception as error:  # a broken file may raise anything in the decoders
            raise _unreadable(path, error) from error


def _geometry(image: ImageFile.ImageFile) -> Geometry:
    if isinstance(image, TiffImageFile):
        with warnings.catch_warnings(action="ignore"):
            return _tiff_geometry(image)
    return Geometry((image.height, image.width), _noted_orientation(image))


def is_plain(path: Path) -> bool:
    """Whether a photo is surely shown as it is stored: upright, without opacity, and no TIFF; pixels are not decoded.

    Raises:
        DataError: the file is missing, no image, or too large.
    """
    if path.suffix == ARRAY:
        return True
    with _taken(path, lambda path: path.open("rb")) as file:
        try:
            image = _opened(path, file)
            tiff = isinstance(image, TiffImageFile)
            return not tiff and not image.has_transparency_data and _geometry(image).orientation == 1
        except DataError:
            raise
        except Exception as error:  # a broken file may raise anything in the decoders
            raise _unreadable(path, error) from error


def read_label(
    path: Path,
    form: LabelFormat = LabelFormat(),  # noqa: B008  # frozen
    *,
    photo: Geometry | None = None,
) -> NDArray[np.uint8]:
    """A label image as its native ids, H×W, upright as its photo is shown.

    A label image that carries an EXIF orientation itself is turned by it, as every viewer shows it. Then, where its photo
    is stored on its side, its shape says which of the two pictures it lies on: on the stored one it is turned along with
    the photo, on the upright one it stays. (A label whose own note makes it fit less well than its stored pixels has
    that note from its photo, and is taken as it is stored.) Mirrored, upside down and square photos leave no trace in the
    shape: their labels lie on the upright picture, which labelling tools show.

    A grey image of 8, 16 or 32 bits holds numbers, an RGB image colours (opaque or not), an image with a palette either
    (`label_formats.palette_ids`).

    Args:
        path: the file.
        form: what its numbers and colours mean.
        photo: how its photo lies in its file. Whether the sizes are the same is for the caller to check.

    Raises:
        UnknownLabelError: it has colours or numbers that the set does not have.
        DataError: the file is missing, no image, damaged, too large, or not of a form that holds ids.
    """
    own = 1
    if path.suffix == ARRAY:
        ids = _array(path)
    else:
        content = _content(path)
        try:
            ids, own = _ids(path, content, form), _own_orientation(path, content)
        except DataError:
            raise
        except Exception as error:  # a broken file may raise anything in the decoders
            raise _unreadable(path, error) from error
    if own == 1:
        fits = photo is None or not photo.on_its_side or ids.shape == photo.size or ids.shape != photo.stored
        return ids if fits or photo is None else _turned(ids, photo.orientation)
    if content.startswith(_TIFF):  # Pillow has turned it
        upright, stored = ids, _turned(ids, {6: 8, 8: 6}.get(own, own))
    else:
        upright, stored = _turned(ids, own), ids
    if photo is None or upright.shape == photo.size:
        return upright
    if stored.shape == photo.size:
        return stored
    return _turned(upright, photo.orientation) if upright.shape == photo.stored else upright


def _own_orientation(path: Path, content: bytes) -> int:
    """EXIF orientation of a label image; most have no notes in which one could stand."""
    if content.startswith(_PNG):
        if _PNG_NOTES.isdisjoint(_png_parts(io.BytesIO(content))):
            return 1
    elif not content.startswith((*_TIFF, b"RIFF")):
        return 1
    return _geometry(_opened(path, content)).orientation


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


def size_misfit(photo: Geometry, label: tuple[int, ...]) -> str:
    """How the size of a label (height and width) differs from its photo's, in a few words; empty where it does not."""
    if label == photo.size:
        return ""
    either = "; it must lie on the upright photo, or on the stored one" if photo.orientation != 1 else ""
    return f"it is {photo}, its label {label[1]}×{label[0]}{either}"


def fault(path: Path) -> str:
    """What is wrong with a PNG or JPEG file although it can be decoded, in a few words; empty where nothing is.

    Decoders pass over a PNG's checksums, over an end that is missing behind the last pixel, and they take for pixels what
    follows a JPEG that is cut off. What lies behind the end of a whole file (the film of a motion photo, further
    pictures, zeros) is none of its pixels and no fault. Reading leaves this out: the files of a set are checked once, not
    in every epoch.

    Raises:
        DataError: the file cannot be read.
    """
    content = _content(path)
    if content.startswith(_PNG):
        return _png_fault(content)
    if content.startswith(_JPEG):
        return _jpeg_fault(path, content)
    return ""


class _JpegWalk(NamedTuple):
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


def _walk_jpeg(content: bytes) -> _JpegWalk:
    """Follow the segments of a JPEG from its start to its own end, whatever lies behind that or within a segment."""
    place, scans, whole = 2, 0, True
    while True:
        found = content.find(b"\xff", place)
        if found < 0:
            return _JpegWalk(scans, -1)
        # Decoders pass over stray bytes between segments; behind the first scan they are another file's.
        whole = whole and (found == place or not scans)
        place = _FILLING.match(content, found).end()  # type: ignore[union-attr]  # at least the one that was found
        kind = content[place] if place < len(content) else 0
        if kind == 0xD9:
            return _JpegWalk(scans, place - 1 if whole else -1)
        if scans and kind not in _BETWEEN_SCANS:
            return _JpegWalk(scans, -1)
        place += 1
        if kind in (0x00, 0x01, 0xD8) or 0xD0 <= kind <= 0xD7:  # has no length
            continue
        if place + 2 > len(content):
            return _JpegWalk(scans, -1)
        place += max(2, int.from_bytes(content[place : place + 2], "big"))
        if kind == 0xDA:
            scans += 1
            behind = _BEHIND_PIXELS.search(content, place)
            if behind is None:
                return _JpegWalk(scans, -1)
            place = behind.start()


def _jpeg_fault(path: Path, content: bytes) -> str:
    end = _walk_jpeg(content).end
    if end < 0 or (end + 2 < len(content) and not _has_all_pixels(path, content, end)):
        return "its end is missing"
    return ""


def _has_all_pixels(path: Path, content: bytes, end: int) -> bool:
    """Whether the pixels of a JPEG are complete where its end marker stands.

    What is cut off and followed by another file's bytes may find an end marker among these. To a decoder that has all
    pixels, bytes before the end marker mean nothing; one that lacks some makes pixels of them.
    """
    body = content[:end].rstrip(b"\xff")  # filling before the end marker
    more = np.random.default_rng(0).integers(0, 255, (128, 64), dtype=np.uint8)
    more[64:, 0], more[64:, 1] = 0xFF, 0xD0 + np.arange(64) % 8  # restarts, without which some would read no further
    try:
        first, second = (_decode(path, body + tail + b"\xff\xd9").tobytes() for tail in (b"", more.tobytes()))
    except DataError:
        raise
    except Exception:  # noqa: BLE001  # not even a picture
        return False
    return first == second


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


def _decode(path: Path, content: bytes, *, rawmodes: Mapping[str, str] | None = None) -> Image.Image:
    """Decode an image, as it is.

    Args:
        path: where it lies, for the messages.
        content: of the file.
        rawmodes: other ways to take the bytes of a pixel than those that Pillow chooses.

    Raises:
        DataError: it is no image or too large.
        Exception: whatever Pillow raises on a damaged file; its documentation names only some.
    """
    image = _opened(path, content)
    if rawmodes is not None:
        image.tile = [tile._replace(args=rawmodes.get(str(tile.args), tile.args)) for tile in image.tile]
    # What is odd in a file is either an error or of no matter.
    with warnings.catch_warnings(action="ignore"):
        image.load()
    return image


def too_many_scans(content: bytes) -> bool:
    """Whether a file is a JPEG that goes over its pixels more than `MAX_SCANS` times, each as long as the whole image."""
    # Most files are done with at once: only one with many such bytes, which may be those of a film behind it, is followed.
    return (
        content.startswith(_JPEG) and content.count(b"\xff\xda") > MAX_SCANS and _walk_jpeg(content).scans > MAX_SCANS
    )


_OPENING_TIFF = threading.Lock()


def open_picture(file: Opened, *, formats: tuple[str, ...] | None = None) -> ImageFile.ImageFile:
    """Open a picture as Pillow does, of which only the beginning is read.

    Of a TIFF whose pixels are not compressed, Pillow by itself takes YCbCr for RGB, and the planes of 16 bits for those
    of 8. With libtiff it reads both; compressed ones it always reads so.

    Args:
        file: at its beginning.
        formats: the kinds that may be read; all that Pillow knows if not given.

    Raises:
        Exception: whatever Pillow raises on what is no image.
    """
    head = file.read(4)
    file.seek(0)
    if not head.startswith(_TIFF) or not features.check("libtiff"):
        return Image.open(file, formats=formats)
    with _OPENING_TIFF:  # the switch is the module's
        before, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, True
        try:
            return Image.open(file, formats=formats)
        finally:
            TiffImagePlugin.READ_LIBTIFF = before


def _opened(path: Path, content: bytes | Opened) -> ImageFile.ImageFile:
    """An image of which only the beginning is read."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        with warnings.catch_warnings(action="ignore"):
            image = open_picture(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(path, " ".join(str(error).split())) from None
    except UnidentifiedImageError:
        file.seek(0)
        if file.read(4).startswith(_TIFF):
            raise DataError(
                f"cannot read {path}: it is a TIFF of a kind that Pillow does not know, or damaged. Convert it to PNG"
            ) from None
        content_kind = kind_by_content(path)
        if content_kind in _OTHER_KINDS:
            package = _OTHER_KINDS[content_kind]
            raise DataError(
                f"cannot read {path}: by its content it is {content_kind.upper()}, which is none of {', '.join(FORMATS)}. "
                f"Convert it to PNG or JPEG{f' ({package} reads it)' if package else ''}"
            ) from None
        raise DataError(
            f"cannot read {path}: it is none of {', '.join(FORMATS)}, or damaged at its beginning. Copy it anew"
        ) from None
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"it says that it has {image.width}×{image.height} pixels")
    if isinstance(content, bytes) and too_many_scans(content):
        raise DataError(f"{path} goes over its pixels more than {MAX_SCANS} times: no usual JPEG. Save it anew")
    return image


def _ids(path: Path, content: bytes, form: LabelFormat) -> NDArray[np.uint8]:
    kind = _png_kind(content)
    if form.wide and kind.bits == 16:
        return label_formats.from_numbers(_wide_numbers(path, content, kind.channels), form, str(path))
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
        return label_formats.from_numbers(np.asarray(image), form, str(path))
    if form.colors and image.mode in ("RGB", "RGBA"):
        return label_formats.color_ids(np.asarray(image)[:, :, :3], form, str(path))
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
    if not form.names or not label_formats.palette_may_decide(palette, form):
        return label_formats.from_numbers(indices, form, str(path))
    table = label_formats.palette_ids(palette, _counted(image), form, str(path))
    return label_formats.from_numbers(indices, form, str(path)) if table is None else _translated(indices, table)


_GREYS = tuple((g, g, g) for g in range(256))
"""A palette in which each index is its grey level, or the beginning of one."""


def _grey_ids(path: Path, image: Image.Image, step: int, form: LabelFormat) -> NDArray[np.uint8]:
    values = np.array(image, dtype=np.uint8)
    if image.mode == "L" and step > 1:
        values //= np.uint8(step)
    if form.names and (
        form.numbers == () or step > 1 or any((values == grey).any() for grey in label_formats.telling_greys(form))
    ):
        counts = np.bincount(values.reshape(-1), minlength=256)
        table = label_formats.grey_ids({int(i): int(counts[i]) for i in np.flatnonzero(counts)}, step, form, str(path))
        if table is not None:
            return _translated(values, table)
    return label_formats.from_numbers(values, form, str(path))


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
