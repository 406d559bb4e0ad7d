"""Noise that strikes each pixel by itself: the outcome is a random byte whose distribution hangs on the byte before.

So each of them is a table: for each byte 4096 outcomes that are equally likely, the quantiles of its distribution. An
image draws a number for each value and looks up; the noise of photons then costs no more than the other kinds.
"""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from spcnet.synthesis.corruptions.pixels import Level, Photo, bands

STEPS = 4096
"""Outcomes in the table of each byte."""
Table = NDArray[np.uint8]
"""256 × `STEPS`."""


def gaussian_noise(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Sensor noise in little light: normal, with a standard deviation of `level[0]` on 0..1."""
    return _struck(photo, _gaussian(*level), rng)


def shot_noise(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Noise of the photons: Poisson, with `level[0]` photons in a white pixel."""
    return _struck(photo, _shot(*level), rng)


def impulse_noise(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Salt and pepper: a fraction `level[0]` of the values is 0 or 255."""
    return _struck(photo, _impulse(*level), rng)


def speckle_noise(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Noise that grows with the light: normal, with a standard deviation of `level[0]` times the value."""
    return _struck(photo, _speckle(*level), rng)


def _struck(photo: Photo, table: Table, rng: np.random.Generator) -> Photo:
    made, flat = np.empty_like(photo), table.ravel()
    for rows in bands(photo.shape[0]):
        cells = photo[rows].astype(np.intp)
        cells *= STEPS
        cells += rng.integers(0, STEPS, cells.shape, np.uint16)
        np.take(flat, cells, out=made[rows], mode="clip")
    return made


def _bytes() -> NDArray[np.float64]:
    return np.arange(256, dtype=np.float64)[:, None]


def _midpoints() -> NDArray[np.float64]:
    """The middle of each of `STEPS` equal fractions of 0..1."""
    return (np.arange(STEPS) + 0.5) / STEPS


def _normal() -> NDArray[np.float64]:
    """`STEPS` quantiles of the standard normal distribution, the middle one of each fraction."""
    quantiles = np.array([NormalDist().inv_cdf(fraction) for fraction in _midpoints()])
    quantiles /= quantiles.std()  # what the cut tails take from the deviation
    return quantiles


def _table(values: NDArray[np.float64]) -> Table:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _gaussian(deviation: float) -> Table:
    return _table(_bytes() + 255 * deviation * _normal())


@lru_cache(maxsize=8)
def _speckle(deviation: float) -> Table:
    return _table(_bytes() * (1 + deviation * _normal()))


@lru_cache(maxsize=8)
def _shot(photons: float) -> Table:
    counts = np.arange(int(photons + 12 * photons**0.5 + 12), dtype=np.float64)
    mean = np.maximum(_bytes() / 255 * photons, 1e-12)
    factorials = np.array([math.lgamma(count + 1) for count in counts])
    below = np.exp(counts * np.log(mean) - mean - factorials).cumsum(axis=1)
    return _table(np.stack([np.searchsorted(row, _midpoints()) for row in below]) * 255 / photons)


@lru_cache(maxsize=8)
def _impulse(fraction: float) -> Table:
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], STEPS, axis=1)
    half = round(fraction / 2 * STEPS)
    table[:, :half], table[:, STEPS - half :] = 0, 255
    return table
