"""Tileable surface textures with natural spectra, and a bank of leafy tree crowns; made once from a fixed seed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = 256
"""Pixels along one side of a texture tile (a power of two)."""
LEVELS = 7
"""Sizes that a texture is kept in, each half the one before."""
LAYERS = (
    "plain", "smooth", "grain", "cobble", "slabs", "grass", "streaks", "brick", "blocks", "planks", "tiles",
    "clutter", "leaf", "gloss", "cloud",
)  # fmt: skip
"""Names of the textures."""
CROWNS = {"round": 6, "tall": 4, "conifer": 3, "bush": 5, "hedge": 3}
"""Shapes in the bank of crowns and how many of each there are."""
CROWN_SIZE = 192

Floats = npt.NDArray[np.floating[Any]]


def spectral_noise(size: int, exponent: float, rng: np.random.Generator, stretch: float = 1.0) -> Floats:
    """Tileable noise whose amplitude falls with frequency as f^-exponent.

    Args:
        size: pixels along each side.
        exponent: 0 is white noise, 1 is what photographs have, more is smoother.
        rng: source of chance.
        stretch: how much longer the grain is vertically than horizontally.

    Returns:
        size×size, mean 0, standard deviation 1.
    """
    fy = np.fft.fftfreq(size)[:, None] * stretch
    fx = np.fft.rfftfreq(size)[None, :]
    frequency = np.sqrt(fx**2 + fy**2)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / frequency**exponent
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return _standard(noise)


def _standard(noise: Floats) -> Floats:
    standard: Floats = ((noise - noise.mean()) / max(float(noise.std()), 1e-9)).astype(np.float32)
    return standard


def _bond(rows: int, columns: int, joint: int, rng: np.random.Generator) -> Floats:
    """Stones in courses with dark joints between them, every other course shifted; each stone its own tone."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    height, width = SIZE // rows, SIZE // columns
    course = y // height
    x = (x + ((course % 2) * 0.5 * width).astype(int)) % SIZE
    tone = rng.standard_normal((rows, columns))[course % rows, (x // width) % columns]
    joints = (y % height < joint) | (x % width < joint)
    return np.where(joints, -2.2, tone * 0.8).astype(np.float32)


def _stripes(count: int, rng: np.random.Generator, joint: int = 1, *, upright: bool) -> Floats:
    """Boards side by side, each its own tone, with dark joints."""
    along = np.arange(SIZE)
    width = SIZE // count
    line = np.where(along % width < joint, -2.0, rng.standard_normal(count)[along // width % count] * 0.8)
    return np.broadcast_to(line[None, :] if upright else line[:, None], (SIZE, SIZE)).astype(np.float32)


def _clutter(rng: np.random.Generator) -> Floats:
    """Rectangles over rectangles: what stands in a shop window, or lettering seen from afar."""
    field = np.zeros((SIZE, SIZE), dtype=np.float32)
    for _ in range(240):
        y, x = rng.integers(0, SIZE, 2)
        h, w = rng.integers(5, 46, 2)
        field[np.ix_(np.arange(y, y + h) % SIZE, np.arange(x, x + w) % SIZE)] = rng.standard_normal()
    return field


def _leaves(rng: np.random.Generator) -> Floats:
    """Clumps of leaves: a sharp-edged light and dark pattern over several sizes."""
    coarse, middle, fine = (spectral_noise(SIZE, e, rng) for e in (1.4, 0.9, 0.35))
    return _standard(np.tanh(coarse * 1.2) + 0.9 * np.tanh(middle * 1.5) + 0.7 * fine)


def _layer(name: str, rng: np.random.Generator) -> Floats:
    def noise(exponent: float, stretch: float = 1.0) -> Floats:
        return spectral_noise(SIZE, exponent, rng, stretch)

    recipe: dict[str, Callable[[], Floats]] = {
        "plain": lambda: noise(1.2),
        "smooth": lambda: noise(1.6),
        "grain": lambda: 0.75 * noise(1.3) + 0.65 * noise(0.25),
        "cobble": lambda: _bond(32, 32, 2, rng) + 0.6 * noise(1.2),
        "slabs": lambda: 0.5 * _bond(8, 8, 2, rng) + 0.8 * noise(1.0),
        "grass": lambda: noise(1.3) + 0.9 * noise(0.4, 0.5),
        "streaks": lambda: 0.8 * noise(1.2, 3.0) + 0.5 * noise(1.0),
        "brick": lambda: _bond(32, 8, 2, rng) + 0.7 * noise(1.1),
        "blocks": lambda: 0.7 * _bond(16, 8, 2, rng) + 0.9 * noise(1.1),
        "planks": lambda: 0.8 * _stripes(16, rng, 2, upright=True) + 0.5 * noise(1.0, 3.0),
        "tiles": lambda: 0.7 * _stripes(32, rng, 2, upright=False) + 0.7 * noise(1.0),
        "clutter": lambda: _clutter(rng),
        "leaf": lambda: _leaves(rng),
        "gloss": lambda: noise(2.0),
        "cloud": lambda: noise(1.75),
    }
    return _standard(np.clip(recipe[name](), -3, 3))


@dataclass(frozen=True)
class Atlas:
    """All textures in all sizes, one after the other in one flat array."""

    values: Floats
    offsets: npt.NDArray[np.int32]
    """Where each texture (row) begins at each level (column)."""


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """The textures, each of mean 0 and standard deviation 1 at its largest size and paler as it shrinks."""
    rng = np.random.default_rng(20230617)
    flat, offsets, position = [], np.zeros((len(LAYERS), LEVELS), dtype=np.int32), 0
    for number, name in enumerate(LAYERS):
        tile = _layer(name, rng)
        for level in range(LEVELS):
            offsets[number, level] = position
            flat.append(tile.ravel())
            position += tile.size
            half = tile.shape[0] // 2
            tile = tile.reshape(half, 2, half, 2).mean(axis=(1, 3))
    return Atlas(np.concatenate(flat), offsets)


@dataclass(frozen=True)
class Crown:
    """One shape of foliage, as greyscale images."""

    shade: Image.Image
    """0..255 from the deepest shadow to the brightest leaf."""
    cover: Image.Image
    """Above 128 where there is foliage."""


def _blobs(shape: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Height field of a crown's balls of leaves, and how much light falls on each point of them."""
    y, x = (np.mgrid[0:CROWN_SIZE, 0:CROWN_SIZE].astype(np.float32) + 0.5) / CROWN_SIZE * 2 - 1
    field = np.full((CROWN_SIZE, CROWN_SIZE), -1.0, dtype=np.float32)
    light = np.zeros_like(field)
    if shape == "conifer":
        width = 0.08 + 0.42 * (y + 1)
        field = ((0.95 * width - np.abs(x)) / 0.5 + 0.25 * np.abs(np.sin(y * 11))).astype(np.float32)
        light = (0.3 * (0.3 - np.abs(x)) - 0.5 * np.sin(y * 11)).astype(np.float32)
        return np.where(np.abs(y) > 0.96, -1, field), light
    spread = {"round": (0.48, 0.42), "tall": (0.34, 0.58), "bush": (0.62, 0.34), "hedge": (0.78, 0.25)}[shape]
    centre = {"bush": 0.35, "hedge": 0.3}.get(shape, 0.0)
    for _ in range(16 if shape in ("round", "tall") else 12):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1) ** 0.6
        radius = rng.uniform(0.22, 0.42)
        bx, by = spread[0] * reach * np.cos(angle), centre + spread[1] * reach * np.sin(angle)
        ball = 1 - ((x - bx) ** 2 + (y - by) ** 2) / radius**2
        above = ball > field
        slope = -(0.75 * (y - by) + 0.45 * (x - bx)) / radius
        light = np.where(above, slope, light)
        field = np.maximum(field, ball).astype(np.float32)
    if shape in ("bush", "hedge"):
        field = np.where(y > 0.97, -1, field)
    return field, light.astype(np.float32)


@lru_cache(maxsize=1)
def crowns() -> dict[str, tuple[Crown, ...]]:
    """The bank of crowns by shape."""
    rng = np.random.default_rng(20230618)
    bank = {}
    for shape, count in CROWNS.items():
        made = []
        for _ in range(count):
            field, light = _blobs(shape, rng)
            leaf = _leaves(rng)[:CROWN_SIZE, :CROWN_SIZE]
            ragged = spectral_noise(SIZE, 0.9, rng)[:CROWN_SIZE, :CROWN_SIZE]
            cover = field + 0.33 * ragged + 0.12 * leaf - 0.12
            down = np.linspace(0.55, -0.65, CROWN_SIZE, dtype=np.float32)[:, None]
            shade = 0.46 + 0.22 * light + 0.17 * leaf + 0.22 * down + 0.1 * np.clip(field, 0, 1)
            values = (np.clip(shade * 255, 0, 255), np.clip(128 + 180 * cover, 0, 255))
            made += [Crown(*(Image.fromarray(v.astype(np.uint8)[:, ::turn]) for v in values)) for turn in (1, -1)]
        bank[shape] = tuple(made)
    return bank
