"""Reading photographs and label images, and saying in one line what is wrong with a file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.data import labels
from spcnet.errors import DataError


def read_image(path: Path) -> NDArray[np.uint8]:
    """A photo as RGB, H×W×3.

    Raises:
        DataError: the file is missing, no image, or damaged.
    """
    with _open(path) as image:
        return np.array(image.convert("RGB"))


def read_label(path: Path, *, wide: bool = False) -> NDArray[np.uint8]:
    """A label image as its native ids, H×W.

    Args:
        path: the file.
        wide: it may have 16 bits a channel, the class in the first (SYNTHIA).

    Raises:
        DataError: the file is missing, no image, damaged, or not 8-bit with one channel.
    """
    if wide and _bits(path) == 16:
        return _read_wide(path)
    with _open(path) as image:
        if image.mode not in ("L", "P"):
            raise DataError(
                f"{path} is an image of mode {image.mode}: a label image has one 8-bit channel with the class of each "
                "pixel (mode L or P), not colours"
            )
        return np.array(image)


def _bits(path: Path) -> int:
    """Bits a channel of a PNG file, 0 of any other."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError:
        return 0
    return head[24] if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == 26 else 0


def _read_wide(path: Path) -> NDArray[np.uint8]:
    """First channel of a PNG with 16 bits a channel, of which Pillow by itself gives the upper eight.

    Read with the two bytes of a number the other way round, it gives the lower eight.
    """
    image = _open(path)
    if image.mode.startswith("I"):  # a single channel is whole as it is
        pixels = np.array(image)
    else:
        upper, lower = np.array(image, dtype=np.uint16), np.array(_open(path, swapped=True))
        pixels = (256 * upper + lower)[:, :, 0]
    if pixels.max(initial=0) > labels.IGNORE:
        raise DataError(f"{path} has the label {pixels.max()}: native ids lie in 0..{labels.IGNORE}")
    narrow: NDArray[np.uint8] = pixels.astype(np.uint8)
    return narrow


def _open(path: Path, *, swapped: bool = False) -> Image.Image:
    """Open and decode an image, or say in one line which file is broken and how.

    Args:
        path: the file.
        swapped: take the bytes of 16-bit channels the other way round.
    """
    try:
        image = Image.open(path)
        if swapped:
            image.tile = [tile._replace(args=str(tile.args).replace(";16B", ";16L")) for tile in image.tile]
        image.load()
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: it was there when the data set was opened, or the path is wrong"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read {path}: {reason}. The file is damaged or no image; copy it anew") from None
    return image
