"""One photograph in every weather and road style, at several strengths, side by side: to see what a style does to it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

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
Change = Callable[[NDArray[np.uint8], float], NDArray[np.uint8]]
"""From a photograph, H×W×3, and a strength in 0..1 to what becomes of it."""


@plain_lists
def style_sheet(
    image: NDArray[np.uint8],
    *,
    styles: Sequence[str] | None = None,
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    seed: int = 0,
    width: int = 320,
    more: Mapping[str, Change] | None = None,
) -> Image.Image:
    """A sheet with a row for each style or other change and a column for each strength; the photograph itself is the first column.

    The styles are applied at the size of the photograph, and the results are scaled down.

    Args:
        image: RGB, H×W×3.
        styles: names in `WEATHER`, in the order of the rows; all of them if not given.
        strengths: how much of a style, each in 0..1, in the order of the columns.
        seed: of lamps, streaks, flakes and noise; the same in each cell, so that a row shows one thing growing.
        width: of a thumbnail, in pixels.
        more: further rows below the styles: what changes the photograph to a strength, by the words that stand beside it.

    Returns:
        The sheet, RGB.

    Raises:
        UsageError: a style is unknown, a strength or the width out of range, or there is no style or strength.
    """
    weather = list(WEATHER) if styles is None else list(styles)
    for name in weather:
        lookup(name, WEATHER, "weather style")
    changes: list[tuple[str, Change]] = [(name, partial(_weather, name=name, seed=seed)) for name in weather]
    changes += (more or {}).items()
    if not changes or not strengths:
        raise UsageError(f"a sheet of {len(changes)} styles at {len(strengths)} strengths: name at least one of each")
    if not NARROWEST <= width <= WIDEST:
        raise UsageError(f"thumbnails {width} pixels wide: the width must lie in {NARROWEST}..{WIDEST}")
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    letters = max(12, min(width // 14, 40))
    font = ImageFont.load_default(size=letters)
    line = round(1.6 * letters)
    margin = round(max(font.getlength(name) for name, _ in changes)) + 2 * GAP
    sheet = Image.new(
        "RGB", (margin + (len(strengths) + 1) * (width + GAP), line + len(changes) * (height + GAP)), PAPER
    )
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(["photograph", *(f"strength {strength:g}" for strength in strengths)]):
        middle = margin + column * (width + GAP) + width // 2
        pen.text((middle, line // 2), title, fill=INK, font=font, anchor="mm")
    original = _thumbnail(image, (width, height))
    for row, (name, change) in enumerate(changes):
        top = line + row * (height + GAP)
        pen.text((GAP, top + height // 2), name, fill=INK, font=font, anchor="lm")
        sheet.paste(original, (margin, top))
        for column, strength in enumerate(strengths, start=1):
            sheet.paste(_thumbnail(change(image, strength), (width, height)), (margin + column * (width + GAP), top))
    return sheet


def _weather(image: NDArray[np.uint8], strength: float, *, name: str, seed: int) -> NDArray[np.uint8]:
    return apply_weather(image, name, seed=seed, strength=strength)


def _thumbnail(image: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
