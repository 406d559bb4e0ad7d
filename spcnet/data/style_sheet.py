"""One photograph in every weather and road style, at several strengths, side by side: to see what a style does to it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spcnet.config import plain_lists
from spcnet.errors import UsageError, lookup
from spcnet.synthesis.weather import WEATHER, apply_weather

GAP = 4
"""Pixels between two thumbnails."""
NARROWEST, WIDEST = 32, 4096
"""Width of a thumbnail, in pixels."""
INK, PAPER = (20, 20, 20), (255, 255, 255)


@plain_lists
def style_sheet(
    image: NDArray[np.uint8],
    *,
    styles: Sequence[str] | None = None,
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    seed: int = 0,
    width: int = 320,
) -> Image.Image:
    """A sheet with a row for each style and a column for each strength; the photograph itself is the first column.

    The styles are applied at the size of the photograph, and the results are scaled down.

    Args:
        image: RGB, H×W×3.
        styles: names in `WEATHER`, in the order of the rows; all of them if not given.
        strengths: how much of a style, each in 0..1, in the order of the columns.
        seed: of lamps, streaks, flakes and noise; the same in each cell, so that a row shows one thing growing.
        width: of a thumbnail, in pixels.

    Returns:
        The sheet, RGB.

    Raises:
        UsageError: a style is unknown, a strength or the width out of range, or there is no style or strength.
    """
    names = list(WEATHER) if styles is None else list(styles)
    for name in names:
        lookup(name, WEATHER, "weather style")
    if not names or not strengths:
        raise UsageError(f"a sheet of {len(names)} styles at {len(strengths)} strengths: name at least one of each")
    if not NARROWEST <= width <= WIDEST:
        raise UsageError(f"thumbnails {width} pixels wide: the width must lie in {NARROWEST}..{WIDEST}")
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    letters = max(12, min(width // 14, 40))
    font = ImageFont.load_default(size=letters)
    line = round(1.6 * letters)
    margin = round(max(font.getlength(name) for name in names)) + 2 * GAP
    sheet = Image.new("RGB", (margin + (len(strengths) + 1) * (width + GAP), line + len(names) * (height + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(["photograph", *(f"strength {strength:g}" for strength in strengths)]):
        middle = margin + column * (width + GAP) + width // 2
        pen.text((middle, line // 2), title, fill=INK, font=font, anchor="mm")
    original = _thumbnail(image, (width, height))
    for row, name in enumerate(names):
        top = line + row * (height + GAP)
        pen.text((GAP, top + height // 2), name, fill=INK, font=font, anchor="lm")
        sheet.paste(original, (margin, top))
        for column, strength in enumerate(strengths, start=1):
            styled = apply_weather(image, name, seed=seed, strength=strength)
            sheet.paste(_thumbnail(styled, (width, height)), (margin + column * (width + GAP), top))
    return sheet


def _thumbnail(image: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
