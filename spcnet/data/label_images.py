"""Reading label images: their native ids, upright as their photo is shown."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.data import label_formats
from spcnet.data.image_files import (
    ARRAY,
    GREY_STEP,
    JPEG,
    PNG,
    PNG_NOTES,
    TIFF,
    decode,
    decoding,
    open_image,
    png_parts,
    read_array,
    read_bytes,
)
from spcnet.data.images import TRANSPOSE, Geometry, geometry_in
from spcnet.data.label_formats import LabelFormat
from spcnet.errors import DataError


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
    orientation = 1
    if path.suffix == ARRAY:
        ids = read_array(path)
    else:
        content = read_bytes(path)
        with decoding(path):
            ids, orientation = _ids(path, content, form), _own_orientation(path, content)
    if orientation == 1:
        fits = photo is None or not photo.on_its_side or ids.shape == photo.size or ids.shape != photo.stored
        return ids if fits or photo is None else _turned(ids, photo.orientation)
    if content.startswith(TIFF):  # Pillow has turned it
        upright, stored = ids, _turned(ids, {6: 8, 8: 6}.get(orientation, orientation))
    else:
        upright, stored = _turned(ids, orientation), ids
    if photo is None or upright.shape == photo.size:
        return upright
    if stored.shape == photo.size:
        return stored
    return _turned(upright, photo.orientation) if upright.shape == photo.stored else upright


def _own_orientation(path: Path, content: bytes) -> int:
    """EXIF orientation of a label image; most have no notes in which one could stand."""
    if content.startswith(PNG):
        if PNG_NOTES.isdisjoint(png_parts(io.BytesIO(content))):
            return 1
    elif not content.startswith((*TIFF, b"RIFF")):
        return 1
    return geometry_in(open_image(path, content)).orientation


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Ids (H×W) brought upright from an EXIF orientation, pixel by pixel."""
    return pixels if orientation == 1 else np.array(Image.fromarray(pixels).transpose(TRANSPOSE[orientation]))


def _ids(path: Path, content: bytes, form: LabelFormat) -> NDArray[np.uint8]:
    bits, channels = _png_kind(content)
    if form.wide and bits == 16:
        return label_formats.from_numbers(_wide_numbers(path, content, channels), form, str(path))
    image = decode(path, content)
    if content.startswith(JPEG):
        raise DataError(f"{path} is a JPEG: it changes the ids of a label image's pixels a little. Take the PNG")
    if image.mode == "LA" and bits == 8:
        image = image.getchannel("L")  # how opaque a label is means nothing
    if image.mode == "P":
        return _palette_ids(path, image, form)
    if image.mode in ("L", "1"):
        return _grey_ids(path, image, 255 if image.mode == "1" else GREY_STEP.get(bits, 1), form)
    if (image.mode.startswith("I;16") or image.mode == "I") and channels < 2 and form.numbers != ():
        return label_formats.from_numbers(np.asarray(image), form, str(path))
    if form.colors and image.mode in ("RGB", "RGBA"):
        return label_formats.color_ids(np.asarray(image)[:, :, :3], form, str(path))
    colors = " or their colours (RGB)" if form.colors else ", not colours"
    rule = f"a label image has one channel with the number of each pixel's class (mode L, I;16 or P){colors}"
    raise DataError(f"{path} is an image of mode {image.mode}: {rule}")


def _palette_ids(path: Path, image: Image.Image, form: LabelFormat) -> NDArray[np.uint8]:
    levels = iter(image.getpalette("RGB") or ())
    palette = tuple(zip(levels, levels, levels, strict=False))
    if len(palette) > 1 and palette == _GREYS[: len(palette)]:
        return _grey_ids(path, image, 1, form)
    indices = np.array(image, dtype=np.uint8)
    # Counting pixels takes a tenth of decoding them, and few palettes need it.
    if not form.names or not label_formats.palette_may_decide(palette, form):
        return label_formats.from_numbers(indices, form, str(path))
    used = {value: number for value, number in enumerate(image.histogram()) if number}
    table = label_formats.palette_ids(palette, used, form, str(path))
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


def _translated(pixels: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The entry of a table for each pixel."""
    return np.frombuffer(bytearray(pixels).translate(table.tobytes()), np.uint8).reshape(pixels.shape)


def _png_kind(content: bytes) -> tuple[int, int]:
    """Bits of a channel, and channels; 0 and 0 of a file that is not a PNG."""
    if not content.startswith(PNG) or len(content) < 26:
        return 0, 0
    return content[24], {0: 1, 2: 3, 4: 2, 6: 4}.get(content[25], 1)


def _wide_numbers(path: Path, content: bytes, channels: int) -> NDArray[np.uint16]:
    """First channel of a PNG with 16 bits a channel, of which Pillow by itself gives the upper eight."""
    if channels == 1:
        return np.asarray(decode(path, content))
    if channels == 2:  # four bytes, of which the first two are the class
        both = np.asarray(decode(path, content, rawmodes={"LA;16B": "RGBA"}))
        upper, lower = both[:, :, 0], both[:, :, 1]
    else:
        upper = np.asarray(decode(path, content))[:, :, 0]
        # With the two bytes of a number taken the other way round, it gives the lower eight.
        rawmodes = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
        lower = np.asarray(decode(path, content, rawmodes=rawmodes))[:, :, 0]
    numbers: NDArray[np.uint16] = upper.astype(np.uint16) * 256 + lower
    return numbers
