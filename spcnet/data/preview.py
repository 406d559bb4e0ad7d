"""A sheet of some images of a data set with their labels in colour: to see at a glance what a set is and whether it fits.

Wrong label tables, labels shifted against their photos, and classes that are missing show here before they cost a run.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spcnet.data.datasets import SegmentationSet
from spcnet.errors import UsageError
from spcnet.formatting import fine_percent
from spcnet.labels import IGNORE, LabelSpace

NARROWEST, WIDEST = 64, 2048
"""Width of a photo on the sheet, in pixels."""
MOST_IMAGES = 256
"""Images on a sheet."""
IGNORED_NAME = "not labelled"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GAP, _PAPER, _INK, _FAINT = 8, (255, 255, 255), (34, 34, 34), (110, 110, 110)
_DARK, _LIGHT, _STRIPE = (38, 38, 38), (92, 92, 92), 4


def contact_sheet(
    plain: SegmentationSet,
    space: LabelSpace,
    *,
    num_images: int = 8,
    columns: int | None = None,
    width: int = 320,
    seed: int = 0,
) -> Image.Image:
    """Images with their labels beside them, their names below, and a legend of the classes that occur.

    Args:
        plain: the set; its labels are classes of the space.
        space: names and colours of the classes.
        num_images: how many images are drawn at random, in the set's order; all of them where it has fewer.
        columns: images side by side; as many as give a sheet about as wide as it is high, if not given.
        width: of a photo on the sheet, in pixels.
        seed: of the drawing.

    Returns:
        The sheet, RGB. Pixels of no class are striped in dark grey.

    Raises:
        UsageError: a number is out of range.
        DataError: an image cannot be read.
    """
    if not 1 <= num_images <= MOST_IMAGES:
        raise UsageError(f"a sheet of {num_images} images: it must be 1..{MOST_IMAGES}")
    if columns is not None and not 1 <= columns <= num_images:
        raise UsageError(f"a sheet of {num_images} images in {columns} columns: there must be 1..{num_images} columns")
    if not NARROWEST <= width <= WIDEST:
        raise UsageError(f"photos {width} pixels wide: the width must lie in {NARROWEST}..{WIDEST}")
    drawn = np.random.default_rng(seed).permutation(len(plain))[:num_images]
    font = ImageFont.load_default(max(11, min(width // 22, 28)))
    pixels = np.zeros(IGNORE + 1, np.int64)
    cells = []
    for index in sorted(drawn.tolist()):
        sample = plain.read(index)
        pixels += np.bincount(sample.label.reshape(-1), minlength=IGNORE + 1)
        cells.append(_cell(sample.image, sample.label, sample.name, space, width, font))
    across, down = max(cell.width for cell in cells), max(cell.height for cell in cells)
    if columns is None:
        columns = min(len(cells), max(1, round((len(cells) * down / across) ** 0.5)))
    rows = -(-len(cells) // columns)
    full = columns * (across + 2 * _GAP)
    names = _legend(pixels, space, full, font)
    sheet = Image.new("RGB", (full, rows * (down + 2 * _GAP) + names.height), _PAPER)
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        sheet.paste(cell, (_GAP + column * (across + 2 * _GAP), _GAP + row * (down + 2 * _GAP)))
    sheet.paste(names, (0, sheet.height - names.height))
    return sheet


def paint(class_map: NDArray[np.uint8], space: LabelSpace) -> NDArray[np.uint8]:
    """A class map (H×W) in the colours of its space (H×W×3, RGB), dark stripes for pixels of no class."""
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(space)] = space.colors
    colored: NDArray[np.uint8] = table[class_map]
    height, width = class_map.shape
    stripe = (np.arange(height)[:, None] + np.arange(width)) // _STRIPE % 2 == 1
    none = class_map >= len(space)
    colored[none & stripe] = _LIGHT
    colored[none & ~stripe] = _DARK
    return colored


def _cell(
    image: NDArray[np.uint8], label: NDArray[np.uint8], name: str, space: LabelSpace, width: int, font: Font
) -> Image.Image:
    """One photo, its label beside it, its name below."""
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    line = round(font.getbbox("Ág")[3] * 1.5)
    cell = Image.new("RGB", (2 * width + 2, height + line), _PAPER)
    cell.paste(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS), (0, 0))
    # Painted at the size in which it is shown: the stripes would be lost otherwise.
    small = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    cell.paste(Image.fromarray(paint(np.asarray(small), space)), (width + 2, 0))
    ImageDraw.Draw(cell).text((2, height + line // 2), _fitted(name, font, cell.width - 4), _INK, font, anchor="lm")
    return cell


def _fitted(text: str, font: Font, width: int) -> str:
    """A text with dots for its middle, where it is too long."""
    kept = len(text)
    shown = text
    while kept > 2 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return shown


def _legend(pixels: NDArray[np.int64], space: LabelSpace, width: int, font: Font) -> Image.Image:
    """Names, colours and fractions of the classes that occur, most first, then of the other pixels."""
    total = int(pixels.sum())
    order = [int(k) for k in np.argsort(-pixels[: len(space)], kind="stable") if pixels[k]]
    entries = [(k, space.classes[k], pixels[k] / total) for k in order]
    if others := total - int(pixels[: len(space)].sum()):
        entries.append((IGNORE, IGNORED_NAME, others / total))
    texts = [(k, name, fine_percent(fraction)) for k, name, fraction in entries]
    swatch = round(font.getbbox("Ág")[3] * 1.1)
    line, gap = round(1.5 * swatch), swatch // 2
    middle = max(font.getlength(name) for _, name, _ in texts)
    column = round(swatch + gap + middle + gap + font.getlength("<0.01 %") + 2 * swatch)
    columns = max(1, min((width - 2 * _GAP) // column, len(texts)))
    rows = -(-len(texts) // columns)
    image = Image.new("RGB", (width, rows * line + 2 * _GAP), _PAPER)
    pen = ImageDraw.Draw(image)
    for place, (k, name, fraction) in enumerate(texts):
        left, top = _GAP + place // rows * column, _GAP + place % rows * line
        shown = paint(np.full((swatch, 2 * swatch), k, np.uint8), space)[:, :swatch]
        image.paste(Image.fromarray(shown), (left, top))
        right = left + swatch + gap
        pen.text((right, top + swatch // 2), name, _INK, font, anchor="lm")
        end = right + middle + gap + font.getlength("<0.01 %")
        pen.text((end, top + swatch // 2), fraction, _FAINT, font, anchor="rm")
    return image
