"""Blur: out of focus, through rough glass, moved, zoomed, and plain."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.synthesis.corruptions.pixels import Level, Photo, Tap, bands, gaussian, weighted_photo

SWAP_BLOCKS = 8
"""Neighbourhoods, one below the other, whose pixels swap before those above: they stay in the processor's cache."""


def gaussian_blur(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Gaussian blur with a standard deviation of `level[0]` pixels."""
    return gaussian(photo, level[0])


def defocus_blur(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Out of focus: each point is a disk of radius `level[0]` pixels, its rim softened by `level[1]`."""
    radius, soft = int(level[0]), level[1]
    halves = [int(math.sqrt(radius**2 - step**2)) for step in range(-radius, radius + 1)]
    if soft >= 0.3:  # less does not reach the next pixel
        photo = gaussian(photo, soft)
    height, width, channels = photo.shape
    padded = np.pad(photo, ((radius, radius), (radius + 1, radius), (0, 0)), mode="reflect")
    blurred = np.empty_like(photo)
    area = sum(2 * half + 1 for half in halves)
    for rows in bands(height):
        # A row of the disk is a difference of two running sums.
        running = np.cumsum(padded[rows.start : rows.stop + 2 * radius], axis=1, dtype=np.int32)
        running = running.reshape(len(running), -1)
        total = np.full((rows.stop - rows.start, width * channels), area // 2, np.int32)
        for step, half in enumerate(halves):
            line = running[step : step + len(total)]
            right, left = (radius + 1 + half) * channels, (radius - half) * channels
            total += line[:, right : right + width * channels]
            total -= line[:, left : left + width * channels]
        blurred[rows] = (total // area).reshape(-1, width, channels)
    return blurred


def glass_blur(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Frosted glass: blurred, then each pixel swaps its place with one nearby, then blurred again.

    The published code swaps one pixel after the other, from the last to the first. Here pixels whose neighbourhoods do
    not touch swap together, so that only the order differs; it is a shuffle all the same.

    Args:
        photo: RGB.
        level: standard deviation of the blur, the largest distance of the other pixel, how often.
        rng: draws the neighbours.
    """
    sigma, reach, rounds = level[0], int(level[1]), int(level[2])
    pixels = np.zeros((*photo.shape[:2], 4), np.uint8)
    pixels[..., :3] = gaussian(photo, sigma)
    packed: NDArray[np.uint32] = pixels.view(np.uint32)[..., 0]
    for _ in range(rounds):
        _swap(packed, reach, rng)
    return gaussian(np.ascontiguousarray(pixels[..., :3]), sigma)


def _swap(packed: NDArray[np.uint32], reach: int, rng: np.random.Generator) -> None:
    """Let each pixel that is not at the edge swap with one up to `reach` rows and columns away."""
    height, width = packed.shape
    flat, apart = packed.reshape(-1), 2 * reach
    rows, columns = np.arange(reach, height - reach), np.arange(reach, width - reach)
    if not rows.size or not columns.size:
        return
    away = rng.integers(0, apart, (2, rows.size, columns.size), np.uint8).astype(np.int32)
    away -= reach
    other = away[0] * width
    other += away[1]
    other += (rows[:, None] * width + columns).astype(np.int32)
    inner = packed[reach : height - reach, reach : width - reach]
    # Some rows after the other: they and what they reach stay in the processor's cache.
    for first in range(0, rows.size, apart * SWAP_BLOCKS)[::-1]:
        band = slice(first, first + apart * SWAP_BLOCKS)
        for top in range(apart)[::-1]:
            for left in range(apart)[::-1]:
                there = other[band][top::apart, left::apart]
                here = inner[band][top::apart, left::apart]
                came = flat[there]
                flat[there] = here
                here[...] = came


def motion_blur(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """The camera moves: a trail at a random angle within 45° of level.

    Args:
        photo: RGB.
        level: half the length of the trail in pixels, and how fast it fades.
        rng: draws the angle.
    """
    return weighted_photo(photo, trail(level[0], level[1], rng.uniform(-45, 45)))


def trail(radius: float, sigma: float, angle: float) -> list[Tap]:
    """A point that moves and fades: half a Gaussian along a line, as ImageMagick draws it.

    Args:
        radius: the trail has 2·radius + 1 points.
        sigma: standard deviation of the Gaussian, in pixels.
        angle: of the line, in degrees.
    """
    weights = np.exp(-0.5 * (np.arange(2 * int(radius) + 1) / sigma) ** 2)
    weights /= weights.sum()
    slope = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    seen = weights.cumsum() < 0.998  # what comes later changes no byte
    return [
        Tap(math.ceil(i * slope[0] - 0.5), math.ceil(i * slope[1] - 0.5), float(weight))
        for i, weight in enumerate(weights / weights[: int(seen.sum()) + 1].sum())
        if i <= int(seen.sum())
    ]


def zoom_blur(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """The camera comes nearer while it looks: the mean of the photograph and of its enlargements.

    Args:
        photo: RGB.
        level: the enlargement up to which, and the step between two.
        rng: not used.
    """
    height, width = photo.shape[:2]
    image = Image.fromarray(photo)
    factors = np.arange(1, level[0], level[1])
    total = photo.astype(np.uint16) * 2  # the first factor is 1
    near = np.empty_like(total)
    for factor in factors[1:]:
        seen = math.ceil(height / factor), math.ceil(width / factor)
        top, left = (height - seen[0]) // 2, (width - seen[1]) // 2
        part = image.crop((left, top, left + seen[1], top + seen[0]))
        near[...] = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR))
        total += near
    total += (len(factors) + 1) // 2
    total //= len(factors) + 1
    return total.astype(np.uint8)
