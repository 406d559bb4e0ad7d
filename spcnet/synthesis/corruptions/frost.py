"""Pictures of frost on a pane, drawn: feathers of ice that grow from a few points, over a thin film of rime.

They stand in the place of the photographs that come with ImageNet-C, which cannot be handed on.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from spcnet.synthesis.corruptions.pixels import Photo, Plane

SIDE = 1024
"""Rows and columns of a picture."""
MEAN, SPREAD = 100.0, 48.0
"""Of the pictures' brightness."""
DARK, BRIGHT = (np.array(color, np.float32) for color in ((0.78, 0.92, 1.16), (0.97, 1.0, 1.04)))
"""Colour of thin and of thick ice, as factors on the brightness."""

Segments = NDArray[np.float64]
"""Where each of several needles begins and in what direction and how far it goes: N×4, x, y, radians, pixels."""


@lru_cache(maxsize=8)
def frost_picture(number: int, scale: float = 1.0) -> Photo:
    """One of the pictures, always the same; not to be written to.

    Args:
        number: which.
        scale: 1 for `SIDE` pixels a side, more for a larger one.
    """
    if scale != 1:
        side = math.ceil(SIDE * scale)
        enlarged = np.array(Image.fromarray(frost_picture(number)).resize((side, side), Image.Resampling.BICUBIC))
        enlarged.flags.writeable = False
        return enlarged
    rng = np.random.default_rng(number)
    film = sum((_hills(cells, rng) * fraction for cells, fraction in ((3, 0.55), (9, 0.3), (40, 0.15))), np.float32(0))
    ridges = 1 - np.abs(2 * _hills(60, rng) - 1) ** 0.7
    ice = 0.75 * film + 0.35 * film * ridges + 0.9 * _feathers(rng) * (0.35 + 0.65 * film)
    ice += 0.05 * rng.standard_normal((SIDE, SIDE), np.float32)
    ice = (ice - ice.mean()) / ice.std()
    grey = np.clip(MEAN + SPREAD * ice, 0, 255)[..., None]
    thick = grey / 255
    picture: Photo = np.clip(grey * (DARK + thick * (BRIGHT - DARK)), 0, 255).astype(np.uint8)
    picture.flags.writeable = False
    return picture


def _hills(cells: int, rng: np.random.Generator) -> Plane:
    """Smooth noise in 0..1 with a given number of hills across."""
    coarse = Image.fromarray(rng.random((cells, cells), np.float32))
    hills = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
    spread: Plane = np.clip((hills - hills.min()) / max(float(np.ptp(hills)), 1e-9), 0, 1)
    return spread


def _feathers(rng: np.random.Generator) -> Plane:
    """Feathers of ice, 0..1: stems that bend, twigs to both sides of them, and needles on the twigs."""
    sheets = [Image.new("L", (SIDE, SIDE)) for _ in range(2)]
    pens = [ImageDraw.Draw(sheet) for sheet in sheets]
    for _ in range(34):
        x, y = rng.uniform(-0.05, 1.05, 2) * SIDE
        begin, spread = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.1)
        for arm in range(int(rng.integers(2, 6))):
            stem = _stem(x, y, begin + arm * spread, rng.uniform(0.12, 0.42) * SIDE, rng)
            twigs = _twigs(stem, 0.30, rng)
            for pen, needles, width, fill in (
                (pens[0], stem, 3, 255),
                (pens[0], twigs, 2, 215),
                (pens[1], _twigs(_cut(twigs, 7.0), 0.9, rng), 1, 190),
            ):
                _draw(pen, needles, width, fill)
    thick, fine = (np.asarray(sheet, dtype=np.float32) / 255 for sheet in sheets)
    soft = np.asarray(sheets[0].filter(ImageFilter.GaussianBlur(5)), dtype=np.float32) / 255
    return np.maximum(np.maximum(0.9 * thick, 0.75 * fine), soft)


def _stem(x: float, y: float, angle: float, length: float, rng: np.random.Generator) -> Segments:
    """A bent line, in pieces of seven pixels."""
    steps = max(2, int(length / 7))
    angles = angle + np.linspace(0, rng.uniform(-0.7, 0.7), steps) + rng.normal(0, 0.06, steps)
    columns, rows = x + 7 * np.cumsum(np.cos(angles)), y + 7 * np.cumsum(np.sin(angles))
    return np.column_stack([columns, rows, angles, np.full(steps, 7.0)])


def _cut(needles: Segments, piece: float) -> Segments:
    """The same lines in pieces of a given number of pixels, each with the length of what is left of its line."""
    counts = np.maximum(1, needles[:, 3] // piece).astype(int)
    owner = np.repeat(np.arange(len(needles)), counts)
    along = (np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)) * piece
    x, y, angle, length = needles[owner].T
    return np.column_stack([x + along * np.cos(angle), y + along * np.sin(angle), angle, (length - along) * 0.35])


def _twigs(stem: Segments, fraction: float, rng: np.random.Generator) -> Segments:
    """Lines to both sides of a stem at about 60°, shorter towards its tip."""
    left = np.linspace(1, 0.1, len(stem)) * fraction * stem[:, 3].sum() if fraction < 0.5 else stem[:, 3] * fraction
    sides = []
    for side in (-1, 1):
        angle = stem[:, 2] + side * rng.normal(1.0, 0.08, len(stem))
        sides.append(np.column_stack([stem[:, :2], angle, left * rng.uniform(0.45, 1.0, len(stem))]))
    return np.concatenate(sides)


def _draw(pen: ImageDraw.ImageDraw, needles: Segments, width: int, fill: int) -> None:
    x, y, angle, length = needles.T
    ends = np.column_stack([x, y, x + length * np.cos(angle), y + length * np.sin(angle)])
    for line in ends[length > 1].tolist():
        pen.line(line, fill=fill, width=width)
