"""Reading photographs.

One file is one picture, whoever reads it: training, evaluation, the copies of `spcnet data cache`, prediction and the web
demo all call `photo_of`, which decides

- orientation: upright, as EXIF says (EXIF or XMP, in any format that carries them);
- opacity: transparent pixels (an alpha channel, a transparent colour) are laid on white;
- depth: of 16 bits the upper eight are kept, in grey and colour alike; see `photo_of` for other numbers;
- CMYK, YCbCr and Lab are converted to RGB, colour profiles dropped; of several pictures the first is read.

A label image belongs to its photo as that is shown, upright; see `spcnet.data.label_images.read_label`.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from spcnet.data.image_files import (
    ARRAY,
    GREY_STEP,
    PNG_NOTES,
    Opened,
    decoding,
    image_header,
    open_image,
    png_parts,
    read_array,
    read_bytes,
)
from spcnet.errors import DataError


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
            eighth of its size, as long as it is not smaller than this: read several times as fast, with pixels that are
            averages of its own.

    Raises:
        DataError: the file is missing, no image, damaged, too large, or of numbers that are no colours.
    """
    if path.suffix == ARRAY:
        pixels = read_array(path, channels=3)
        return Photo(pixels, Geometry(pixels.shape[:2], 1))
    content = read_bytes(path)
    with decoding(path):
        image = open_image(path, content)
        stored = image.height, image.width
        if at_least is not None and isinstance(image, JpegImageFile):
            height, width = at_least[::-1] if _noted_orientation(image) >= 5 else at_least
            image.draft(None, (width, height))
        photo = photo_of(image, str(path))
        if isinstance(image, JpegImageFile):  # where a smaller one was decoded
            photo = photo._replace(geometry=photo.geometry._replace(stored=stored))
        return photo


def photo_of(image: Image.Image, name: str) -> Photo:
    """A picture of any kind that Pillow knows as it is shown: RGB, upright, on white.

    - It is turned as its EXIF orientation says; a note that cannot be read, or is not in 1..8, turns nothing.
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
            image = image.transpose(TRANSPOSE[turn])
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
        rule = "a photo has 8 or 16 bits a channel. Convert it to PNG or JPEG"
        raise DataError(f"{name} has numbers up to {highest:g}: {rule}")
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
        image.info["transparency"] = clear * GREY_STEP[int(str(packed)[-1])]
    elif packed == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)


TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture of each EXIF orientation is brought upright."""


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of a decoded image, by Pillow's reading of EXIF and XMP; 1 where there is none."""
    try:
        # The plain reading: a PNG's own would decode the image first, to find what stands behind its pixels.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  # a note that is broken says nothing, and the pixels may be whole
        return 1
    return int(orientation) if orientation in TRANSPOSE else 1


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


def _has_late_notes(image: Image.Image) -> bool:
    """Whether a PNG has notes behind the first of its pixels, where opening it does not see them."""
    file = getattr(image, "fp", None)
    if image.format != "PNG" or not isinstance(file, Opened):  # of one that is decoded they are known
        return False
    before, parts = file.tell(), png_parts(file)
    late = b"IDAT" in parts and not PNG_NOTES.isdisjoint(parts)
    file.seek(before)
    return late


def geometry_of(path: Path) -> Geometry:
    """Size and EXIF orientation that an image file says it has; pixels are not decoded.

    Raises:
        DataError: the file is missing, no image, or too large.
    """
    if path.suffix == ARRAY:
        return Geometry(read_array(path, channels=None).shape[:2], 1)
    with image_header(path) as image:
        return geometry_in(image)


def geometry_in(image: ImageFile.ImageFile) -> Geometry:
    """Size and EXIF orientation of an image of which only the beginning is read."""
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
    with image_header(path) as image:
        tiff = isinstance(image, TiffImageFile)
        return not tiff and not image.has_transparency_data and geometry_in(image).orientation == 1


def size_misfit(photo: Geometry, label: tuple[int, ...]) -> str:
    """How the size of a label (height and width) differs from its photo's, in a few words; empty where it does not."""
    if label == photo.size:
        return ""
    either = "; it must lie on the upright photo, or on the stored one" if photo.orientation != 1 else ""
    return f"it is {photo}, its label {label[1]}×{label[0]}{either}"
