"""Light, colour and what a computer does to a picture: brightness, contrast, saturation, wobble, large pixels, JPEG."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.synthesis.corruptions.pixels import (
    Level,
    Photo,
    Plane,
    bands,
    by_band,
    enlarged,
    fused_sum,
    gaussian_plane,
    quick_sum,
    ties,
    to_bytes,
)


def brightness(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Lighter: `level[0]` is added to the value (the highest channel, 0..1), hue and saturation stay."""
    value = np.arange(256, dtype=np.float32)
    lifted = np.minimum(value + np.float32(255 * level[0]), 255)
    factor = np.divide(lifted, value, out=np.zeros_like(value), where=value > 0)

    def lift(pixels: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        high = highest(photo[rows])
        pixels *= factor[high][..., None]
        pixels[high == 0] = lifted[0]  # black has no hue
        return pixels

    return by_band(photo, lift)


def saturate(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Colours paler or stronger: the saturation, 0..1, times `level[0]` plus `level[1]`; hue and value stay.

    What is grey has the hue 0, so that an addition makes it reddish, as in the published set.
    """
    gain, lift = np.float32(level[0]), np.float32(level[1])

    def change(pixels: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        high = highest(pixels)
        below = high[..., None] - pixels
        span = highest(below)
        target = np.clip(span / np.maximum(high, 1) * gain + lift, 0, 1) * high
        grey = span == 0
        below *= (target / np.maximum(span, 1))[..., None]
        if lift:
            below[grey] = target[grey][:, None] * np.array([0, 1, 1], np.float32)
        return high[..., None] - below

    return by_band(photo, change)


def highest(pixels: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32] | NDArray[np.uint8]:
    """The highest channel of each pixel; several times as fast as `max` over so short an axis."""
    most: NDArray[np.float32] | NDArray[np.uint8] = np.maximum(
        np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2]
    )
    return most


def contrast(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Everything nearer to the mean colour: a fraction `level[0]` of the difference to it is left."""
    kept, made = level[0], np.empty_like(photo)
    for channel in range(3):
        plane = photo[..., channel]
        table = np.arange(256) * kept + plane.mean() * (1 - kept)
        made[..., channel] = np.rint(table).astype(np.uint8)[plane]
    return made


def pixelate(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Large pixels: the photograph at `level[0]` of its size, and back."""
    height, width = photo.shape[:2]
    small = max(1, int(width * level[0])), max(1, int(height * level[0]))
    image = Image.fromarray(photo).resize(small, Image.Resampling.BOX)
    return np.array(image.resize((width, height), Image.Resampling.NEAREST))


def jpeg_compression(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Packed as a JPEG of quality `level[0]`."""
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=int(level[0]))
    with Image.open(file) as packed:
        return np.array(packed.convert("RGB"))


def elastic_transform(photo: Photo, level: Level, rng: np.random.Generator) -> Photo:
    """Wobbling: pixels come from a pixel or two away, neighbours from nearly the same direction.

    The form for pictures of streets (Michaelis et al., 2019), not that of ImageNet-C, which also turns and shears the
    whole picture: hills of noise with a standard deviation of a hundredth of the size. As labels are exact to a pixel or
    two, they stay.
    """
    height, width = photo.shape[:2]
    sigma = (height * 0.01, width * 0.01)
    down, across = (_hills((height, width), sigma, rng) * np.float32(level[0] * height * 0.005) for _ in range(2))
    across += np.arange(width, dtype=np.float32)
    down += np.arange(height, dtype=np.float32)[:, None]
    return moved(photo, down, across)


def moved(photo: Photo, down: Plane, across: Plane) -> Photo:
    """A photograph whose pixels come from other places, bilinear; beyond its edge it is seen in a mirror.

    Args:
        photo: RGB.
        down: row that each pixel comes from, H×W.
        across: its column, H×W.
    """
    height, width = photo.shape[:2]
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[..., :3] = photo
    packed = pixels.view(np.uint32).reshape(-1)
    made = np.empty_like(photo)
    for rows in bands(height):
        y, x = _mirrored(down[rows], height), _mirrored(across[rows], width)
        top, left = np.floor(y), np.floor(x)
        low, right = y - top, x - left
        high, near = 1 - low, 1 - right
        first, second = (np.minimum(top + k, height - 1).astype(np.int32) * width for k in (0, 1))
        here, next_ = (np.minimum(left + k, width - 1).astype(np.int32) for k in (0, 1))
        places = first + here, first + next_, second + here, second + next_
        # All four bytes of a pixel, so that a row is one run of numbers.
        parts = [np.take(packed, place).view(np.uint8).astype(np.float32) for place in places]
        fractions = [fraction.repeat(4, axis=1) for fraction in (near * high, right * high, near * low, right * low)]
        values = quick_sum(parts, fractions)
        tied = ties(values)
        values[tied] = fused_sum([part[tied] for part in parts], [fraction[tied] for fraction in fractions])
        made[rows] = to_bytes(values).reshape(-1, width, 4)[..., :3]
    return made


def _mirrored(places: Plane, size: int) -> Plane:
    """Places within 0..size-1, where those outside are seen in mirrors at the first and the last."""
    # By way of -1..1: the published pictures are rounded so.
    last = np.float32(size - 1)
    if size == 1:
        return np.zeros_like(places)
    places = np.abs((places * np.float32(2 / (size - 1)) - 1 + 1) * np.float32((size - 1) / 2))
    places -= np.trunc(places / (2 * last)) * (2 * last)
    mirrored: Plane = np.clip(np.minimum(places, 2 * last - places), 0, last)
    return mirrored


def _hills(size: tuple[int, int], sigma: tuple[float, float], rng: np.random.Generator) -> Plane:
    """Uniform noise in -1..1, blurred.

    Where the blur is wide, the noise is made in cells that are small against it: a cell's noise is the mean of that of
    its pixels.
    """
    cells = [max(1, int(s / 2)) for s in sigma]
    rough = [-(-pixels // cell) for pixels, cell in zip(size, cells, strict=True)]
    noise = rng.uniform(-1, 1, rough).astype(np.float32) * np.float32((cells[0] * cells[1]) ** -0.5)
    smooth = gaussian_plane(noise, (sigma[0] / cells[0], sigma[1] / cells[1]))
    if max(cells) == 1:
        return smooth
    grown = enlarged(smooth, (rough[0] * cells[0], rough[1] * cells[1]))
    return np.array(grown[: size[0], : size[1]])
