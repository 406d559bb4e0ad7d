"""What the camera does to a picture: motion blur, dirt on the lens, compression, noise, a roll."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from spcnet.synthesis.weather.view import (
    Photo,
    Picture,
    Plane,
    View,
    canvas,
    drawn,
    grain,
    ramp,
    resize,
    rgb,
)

Affine = tuple[float, float, float, float, float, float]
"""Where a pixel comes from: column = a·x + b·y + c, row = d·x + e·y + f, as Pillow counts them."""
LARGEST_ROLL = 8.0
"""Largest roll of the camera in degrees."""


def speed(view: View, strength: float, rng: np.random.Generator) -> Photo:
    """Driving fast: what is beside the road smears away from the point that the car drives to, which stays sharp."""
    small = Image.fromarray(view.photo)
    if view.step > 1:
        small = small.reduce(2)
    column, row = view.pixel(0, 0)
    centre = (column * small.width / view.width, row * small.height / view.height)
    reach = 0.22 * strength * rng.uniform(0.9, 1.1)
    # Each step doubles the number of exposures: 1, 2, 4, ... pictures, each nearer by the same factor.
    for step in range(4):
        small = Image.blend(small, _closer(small, centre, 1 + reach * 2**step / 15), 0.5)
    smeared = small.resize((view.width, view.height), Image.Resampling.BILINEAR)
    low = view.coarse
    far = np.sqrt((low.x * np.float32(0.85)) ** 2 + (low.y * np.float32(0.8)) ** 2)
    mask = Image.fromarray((ramp(far, 0.12, 0.4) * 255).astype(np.uint8))
    mask = mask.resize(smeared.size, Image.Resampling.BILINEAR)
    return np.array(Image.composite(smeared, Image.fromarray(view.photo), mask))


def lens_dirt(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Specks of mud and drops of water on the lens, all out of focus; a drop shows the street upside down."""
    low = view.coarse
    fraction, shown = low.rows * low.columns, 0.3 + 0.7 * strength
    # All layers over each other on the coarse grid: what is seen is `clear` of the photograph, and `dirt`.
    clear, dirt = np.ones((low.height, low.width), np.float32), np.zeros((3, low.height, low.width), np.float32)

    def lay(colour: Picture, opacity: Plane) -> None:
        nonlocal clear, dirt
        clear *= 1 - opacity
        dirt += opacity * (colour - dirt)

    for count, smallest, largest, sigma, opacity, shade in (
        (16, 9.0, 24.0, 5.0, 0.6, rgb(0.30, 0.26, 0.21)),
        (110, 0.8, 4.0, 0.7, 0.85, rgb(0.16, 0.13, 0.10)),
    ):
        sheet, pen = canvas(low)
        blobs = rng.uniform(0, 1, (max(1, round(count * fraction)), 5)).tolist()
        for x, y, radius, shape, density in blobs[: max(1, round(shown * len(blobs)))]:
            size = (smallest + (largest - smallest) * radius**2) * low.unit
            _blob(pen, (x * low.width, y * low.height), size, 0.75 + 0.5 * shape, int(255 * (0.5 + 0.5 * density)))
        lay(shade, np.float32(opacity * strength) * drawn(sheet, sigma * low.unit))
    sheet, pen = canvas(low)
    blobs = rng.uniform(0, 1, (max(1, round(24 * fraction)), 4)).tolist()
    for x, y, radius, shape in blobs[: max(1, round(shown * len(blobs)))]:
        size = (2.5 + 6.5 * radius**2) * low.unit
        _blob(pen, (x * low.width, y * low.height), size, 0.85 + 0.3 * shape, 255)
    drops = drawn(sheet, 0.9 * low.unit)
    tiny = resize(low.image, (max(1, low.height // 6), max(1, low.width // 6)))[:, ::-1]
    inside = np.float32(0.12) + np.float32(0.95) * resize(tiny, (low.height, low.width))
    inside *= 1 - np.float32(1.8) * drops * (1 - drops)  # its rim is dark
    lay(inside, np.float32(0.9 * strength) * drops)
    dirty = view.image.copy()
    for rows, part in view.bands(np.concatenate([clear[None], dirt])):
        dirty[:, rows] *= part[0]
        dirty[:, rows] += part[1:]
    return dirty


def jpeg(view: View, strength: float, rng: np.random.Generator) -> Photo:
    """Compressed far too much: blocks of 8 by 8 pixels, blotches of colour, rings along edges."""
    quality = round(45 * (1 - strength) ** 2 + rng.uniform(6, 10))
    file = io.BytesIO()
    Image.fromarray(view.photo).save(file, "JPEG", quality=quality)
    with Image.open(file) as packed:
        after = packed.convert("RGB")
    return np.array(Image.blend(Image.fromarray(view.photo), after, min(1.0, 2 * strength)))


def noise(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """A small sensor in too little light: noise of the photons, which grows with the light, and of the reading.

    The variance of the first is proportional to the signal, that of the second constant (Foi et al., IEEE TIP 2008).
    """
    photons, reading = 0.034, 0.006
    spread = np.float32(photons) * view.image
    spread += np.float32(reading)
    np.sqrt(spread, out=spread)
    spread *= np.float32(strength * rng.uniform(0.85, 1.15))
    for rows, columns, tile in grain(view, rng):
        spread[:, rows, columns] *= tile
    spread += view.image
    return spread


def tilt(view: View, strength: float, rng: np.random.Generator) -> Photo:
    """The camera rolls: the street leans to one side."""
    return move(view.photo, roll(view, strength, rng))


def roll(view: View, strength: float, rng: np.random.Generator) -> Affine:
    """Where each pixel comes from when the camera rolls about the middle of the photograph, by up to `LARGEST_ROLL`."""
    angle = math.radians(float(rng.choice([-1, 1])) * rng.uniform(0.7, 1.0) * LARGEST_ROLL * strength)
    column, row = (0.5 - view.left) / view.columns * view.width, (0.5 - view.top) / view.rows * view.height
    cos, sin = math.cos(angle), math.sin(angle)
    return cos, sin, column - cos * column - sin * row, -sin, cos, row + sin * column - cos * row


def move(photo: Photo, source: Affine) -> Photo:
    """A photograph whose pixels come from elsewhere in it; beyond its edges, the edge goes on."""
    height, width = photo.shape[:2]
    a, b, c, d, e, f = source
    corners = [(a * x + b * y + c, d * x + e * y + f) for x in (0, width) for y in (0, height)]
    columns, rows = zip(*corners, strict=True)
    # Pillow fills with one colour what lies outside, so that the edge goes on in the picture that it gets.
    left, right = max(0, math.ceil(1 - min(columns))), max(0, math.ceil(max(columns) - width + 1))
    top, bottom = max(0, math.ceil(1 - min(rows))), max(0, math.ceil(max(rows) - height + 1))
    padded = Image.fromarray(np.pad(photo, ((top, bottom), (left, right), (0, 0)), mode="edge"))
    moved = padded.transform(
        (width, height), Image.Transform.AFFINE, (a, b, c + left, d, e, f + top), Image.Resampling.BILINEAR
    )
    return np.array(moved)


def move_label(label: Photo, source: Affine) -> Photo:
    """A label, H×W, whose pixels come from elsewhere in it; 255 where nothing was."""
    height, width = label.shape
    moved = Image.fromarray(label).transform(
        (width, height), Image.Transform.AFFINE, source, Image.Resampling.NEAREST, fillcolor=255
    )
    return np.array(moved)


def _closer(image: Image.Image, centre: tuple[float, float], factor: float) -> Image.Image:
    """The picture as seen when everything has come nearer by a factor, around a centre that may lie outside of it."""
    size, kept = image.size, 1 / factor
    box = [*(c - c * kept for c in centre), *(c + (s - c) * kept for c, s in zip(centre, size, strict=True))]
    low = [min(0, math.floor(value)) for value in box[:2]]
    high = [max(0, math.ceil(value - s)) for value, s in zip(box[2:], size, strict=True)]
    if any(low) or any(high):
        padding = ((-low[1], high[1]), (-low[0], high[0]), (0, 0))
        image = Image.fromarray(np.pad(np.asarray(image), padding, mode="edge"))
    left, top, right, bottom = box
    return image.resize(
        size, Image.Resampling.BILINEAR, box=(left - low[0], top - low[1], right - low[0], bottom - low[1])
    )


def _blob(pen: ImageDraw.ImageDraw, place: tuple[float, float], radius: float, shape: float, fill: int) -> None:
    """An ellipse of one value around a place."""
    x, y = place
    pen.ellipse((x - radius * shape, y - radius / shape, x + radius * shape, y + radius / shape), fill=fill)
