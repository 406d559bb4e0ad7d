"""Weather as ImageNet-C has it: flakes, frost on the pane, patches of fog, drops and mud on the lens.

Simpler than the styles of `spcnet.synthesis.weather`, which know of distance, ground and sky; these lie flat on the picture.
"""

import numpy as np
from numpy.typing import NDArray

from spcnet.synthesis.corruptions.blur import trail
from spcnet.synthesis.corruptions.frost import frost_picture
from spcnet.synthesis.corruptions.pixels import (
    LUMA,
    Level,
    Photo,
    Plane,
    Tap,
    by_band,
    enlarged,
    gaussian_plane,
    weighted_sum,
)

WATER, MUD = (np.array(color, np.float32) for color in ((175, 238, 238), (63, 42, 20)))
NUM_FROSTS = 5
"""Pictures of frost to choose from, as in the published code."""


def snow(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Flakes that fall, and a paler picture.

    Args:
        photo: RGB.
        level: mean and deviation of the noise that flakes are made of, how much it is enlarged, what of it is a flake;
            length and fading of their trails; fraction of the photograph that is not paled.
        rng: draws the flakes and the direction in which they fall.
    """
    mean, deviation, zoom, least, radius, sigma, kept = level
    height, width = photo.shape[:2]
    cells = -(-height // zoom), -(-width // zoom)
    grains = rng.normal(mean, deviation, (int(cells[0]), int(cells[1]))).astype(np.float32)
    flakes = enlarged(grains, (height, width)).copy()
    flakes[flakes < least] = 0
    np.minimum(flakes, 1, out=flakes)
    falling = weighted_sum(flakes, trail(radius, sigma, rng.uniform(-135, -45)))[..., None]
    # And the same once more, turned upside down.
    flakes = 255 * (falling + falling[::-1, ::-1])

    def cover(pixels: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        pale = (pixels @ (np.float32(1.5) * LUMA))[..., None] + np.float32(127.5)
        np.maximum(pale, pixels, out=(pale := np.broadcast_to(pale, pixels.shape).copy()))
        pixels *= np.float32(kept)
        pixels += np.float32(1 - kept) * pale
        pixels += flakes[rows]
        return pixels

    return by_band(photo, cover)


def frost(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Crystals of ice on the pane: `level[0]` of the photograph and `level[1]` of a picture of frost.

    The published photographs of frost are not ours to hand on, so the pictures are drawn (`frost_picture`). A piece of
    one of them is used; where the photograph is larger, the picture of frost is enlarged.
    """
    height, width = photo.shape[:2]
    ice = frost_picture(int(rng.integers(NUM_FROSTS)), max(1.0, 1.1 * max(height, width) / 1024))
    top, left = (int(rng.integers(0, max(1, s - n))) for s, n in zip(ice.shape[:2], (height, width), strict=True))
    part = ice[top : top + height, left : left + width]

    def lay(pixels: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        pixels *= np.float32(level[0])
        pixels += np.float32(level[1]) * part[rows]
        return pixels

    return by_band(photo, lay)


def fog(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Patches of fog: `level[0]` of a fractal is added, and the whole brought back into range.

    Args:
        photo: RGB.
        level: thickness, and how much smoother the fractal is than its noise.
        rng: draws the fractal.
    """
    thickness, decay = level
    height, width = photo.shape[:2]
    side = 1 << (max(height, width, 2) - 1).bit_length()
    patches = plasma(side, decay, rng)[:height, :width, None] * np.float32(255 * thickness)
    brightest = float(photo.max()) / 255
    scale = np.float32(brightest / (brightest + thickness))

    def add(pixels: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        pixels += patches[rows]
        pixels *= scale
        return pixels

    return by_band(photo, add)


def plasma(side: int, decay: float, rng: np.random.Generator) -> Plane:
    """A fractal landscape in 0..1 by the diamond-square algorithm, whose edges fit together.

    Args:
        side: rows and columns; a power of two.
        decay: from one size of hills to the next half as wide, their height falls by this factor squared.
        rng: draws the hills.
    """
    land = np.zeros((side, side), np.float32)
    step, height = side, 1.0
    while step >= 2:
        half = step // 2

        def rough(total: Plane, height: float = height) -> Plane:
            total *= np.float32(0.25)
            total += (rng.random(total.shape, np.float32) - np.float32(0.5)) * np.float32(2 * height)
            return total

        corner = land[::step, ::step]
        pairs = corner + np.roll(corner, -1, axis=0)
        land[half::step, half::step] = rough(pairs + np.roll(pairs, -1, axis=1))
        middle = land[half::step, half::step]
        across, down = corner + np.roll(corner, -1, axis=1), corner + np.roll(corner, -1, axis=0)
        land[::step, half::step] = rough(middle + np.roll(middle, 1, axis=0) + across)
        land[half::step, ::step] = rough(middle + np.roll(middle, 1, axis=1) + down)
        step, height = half, height / decay**2
    land -= land.min()
    land /= max(float(land.max()), 1e-9)
    return land


def spatter(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Drops of water on the lens; at the last two severities, mud.

    Args:
        photo: RGB.
        level: mean and deviation of the noise that drops are made of, its blur, what of it is a drop; for water the
            strength, for mud the blur of its rim; whether it is mud.
        rng: draws the drops.
    """
    mean, deviation, sigma, least, amount, mud = level
    height, width = photo.shape[:2]
    liquid = rng.standard_normal((height, width), np.float32)
    liquid *= np.float32(deviation)
    liquid += np.float32(mean)
    liquid = gaussian_plane(liquid, (sigma, sigma))
    if mud:
        cover = gaussian_plane((liquid > least).astype(np.float32), (amount, amount))
        cover[cover < 0.8] = 0
        color = MUD
    else:
        liquid[liquid < least] = 0
        cover = liquid * _relief(liquid > 0)
        cover *= np.float32(amount / max(float(cover.max()), 1e-9))
        color = WATER

    def splash(pixels: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        if mud:
            pixels *= 1 - cover[rows, :, None]
        pixels += cover[rows, :, None] * color
        return pixels

    return by_band(photo, splash)


def _relief(drops: NDArray[np.bool_]) -> Plane:
    """Light on drops: by how far each pixel is from their rims, lit from one corner."""
    inner = np.ones_like(drops)
    inner[1:] &= drops[:-1]
    inner[:-1] &= drops[1:]
    inner[:, 1:] &= drops[:, :-1]
    inner[:, :-1] &= drops[:, 1:]
    away = distance(drops & ~inner, reach=20)
    box = [Tap(down, right, 1 / 9) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    away = np.floor(weighted_sum(away, box))
    # Equalised: as many pixels darker as brighter than the middle.
    depth = away.astype(np.uint8)
    fraction = np.bincount(depth.ravel(), minlength=256).cumsum() / depth.size
    first = fraction[depth.min()]
    table = np.rint(255 * (fraction - first) / max(1 - first, 1e-9)).clip(0, 255).astype(np.float32)
    lit = [Tap(-1, -1, -2), Tap(-1, 0, -1), Tap(0, -1, -1), Tap(0, 0, 1), Tap(0, 1, 1), Tap(1, 0, 1), Tap(1, 1, 2)]
    shaded = weighted_sum(table[depth], lit)
    return weighted_sum(np.clip(shaded, 0, 255), box)


def distance(marks: NDArray[np.bool_], *, reach: int) -> Plane:
    """Distance of each pixel to the nearest mark in pixels, no more than `reach`."""
    height, width = marks.shape
    columns = np.arange(width, dtype=np.int32)
    left = np.maximum.accumulate(np.where(marks, columns, -reach), axis=1)
    right = np.minimum.accumulate(np.where(marks, columns, width + reach)[:, ::-1], axis=1)[:, ::-1]
    along = np.minimum(np.minimum(columns - left, right - columns), reach).astype(np.uint16) ** 2
    padded = np.pad(along, ((reach, reach), (0, 0)), constant_values=reach**2)
    nearest = np.full_like(along, reach**2)
    for step in range(-reach, reach + 1):
        np.minimum(nearest, padded[reach + step : reach + step + height] + np.uint16(step**2), out=nearest)
    return np.sqrt(nearest, dtype=np.float32)
