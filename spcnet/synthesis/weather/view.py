"""A photograph, what is known or guessed of its geometry, and the few operations that all styles are made of.

Fields that vary slowly (light, haze, hills of noise) are computed on a coarser grid and spread over the picture: with
large pictures that is most of what a style would cost.
"""

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from spcnet.errors import UsageError

Plane = NDArray[np.floating[Any]]
"""One value per pixel, H×W; where it says so, H×1 or 1×W."""
Picture = NDArray[np.floating[Any]]
"""RGB in 0..1, 3×H×W."""
Photo = NDArray[np.uint8]
"""RGB in 0..255, H×W×3: what comes and what is given back."""
Window = tuple[float, float, float, float]
"""Top, left, height and width of a cut, as fractions of the whole photograph."""

HORIZON = 0.45
"""Height of the horizon in a picture taken from a car, from the top, as a fraction of the picture's height."""
SKY_DISTANCE = 1000.0
"""How far away the sky is taken to be, in metres."""
BOTTOM_DISTANCE = 5.0
"""How far away the ground at the lower edge of the picture is taken to be, in metres."""
METRES_HIGH = 2.4
"""Height of the picture in metres, at that distance: a focal length of 2.1 heights, 1.3 m above the ground."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Fraction of red, green and blue in the brightness (BT.601)."""
BAND = 64
"""Rows that are worked on at a time where a whole picture would leave the processor's cache."""
GRAIN = 256
"""Side of the square of noise that larger pictures are tiled with, in pixels."""


class View:
    """A photograph, or a cut of one, and what is known of its geometry.

    All places are those of the whole photograph: a cut has the horizon, the ground and the vanishing point that it had
    before it was cut out, even where they now lie outside.
    """

    def __init__(self, photo: Photo, *, depth: Plane | None = None, window: Window | None = None) -> None:
        """Look at a photograph.

        Args:
            photo: RGB, H×W×3.
            depth: distance of each pixel in metres, H×W, where it is known.
            window: where it lies in the photograph that it was cut from; without it, it is the whole.

        Raises:
            UsageError: the window is not inside the photograph.
        """
        self.photo = photo
        self.height, self.width = photo.shape[:2]
        self.window = window = window or (0.0, 0.0, 1.0, 1.0)
        self.top, self.left, self.rows, self.columns = window
        if not (
            min(window) >= 0
            and min(self.rows, self.columns) > 0
            # A cut's fractions are quotients, so that top and height may add up to a little more than the whole.
            and max(self.top + self.rows, self.left + self.columns) <= 1 + 1e-6
        ):
            raise UsageError(
                f"the window {window} is not inside the photograph: top, left, height and width are fractions of it, 0..1"
            )
        self.unit = self.height / self.rows / 128
        """Pixels for one pixel of a photograph 128 high: the measure of what is drawn."""
        self.aspect = (self.width / self.columns) / (self.height / self.rows)
        """Width of the whole photograph as a fraction of its height."""
        self.step = int(np.clip(self.unit / 2, 1, 8))
        """Pixels for one pixel of the coarse grid, about."""
        self.given_depth = depth

    @cached_property
    def image(self) -> Picture:
        """The photograph in 0..1, 3×H×W."""
        channels = np.ascontiguousarray(self.photo.transpose(2, 0, 1), dtype=np.float32)
        channels /= np.float32(255)
        return channels

    @cached_property
    def coarse(self) -> "View":
        """The same view on a grid just fine enough for fields that vary slowly; itself where it is small."""
        if self.step == 1:
            return self
        # One pixel of each cell, its middle: that is free, and the result does not depend on one pixel.
        middles = slice(self.step // 2, None, self.step)
        depth = None if self.given_depth is None else self.given_depth[middles, middles]
        return View(self.photo[middles, middles], depth=depth, window=self.window)

    def spread(self, field: Plane) -> Plane:
        """A plane or a picture of the coarse grid on this view's grid."""
        return resize(field, (self.height, self.width))

    def bands(self, field: Plane) -> Iterator[tuple[slice, Plane]]:
        """What `spread` gives, some rows at a time: for what is used once, this stays in the processor's cache.

        Yields:
            The rows, and the field for them, H'×W or 3×H'×W, which is written over for the next ones.
        """
        size = (self.height, self.width)
        if field.shape[-2:] == size or not _enlarges(field, size):
            yield slice(0, self.height), self.spread(field)
            return
        planes = [_widen(plane, self.width) for plane in (field if field.ndim == 3 else field[None])]
        band = np.empty((len(planes), BAND, self.width), np.float32)
        for top in range(0, self.height, BAND):
            rows = slice(top, min(top + BAND, self.height))
            part = band[:, : rows.stop - top]
            for plane, out in zip(planes, part, strict=True):
                _heighten(plane, self.height, rows, out)
            yield rows, part if field.ndim == 3 else part[0]

    @cached_property
    def horizon(self) -> int:
        """Number of rows above the horizon."""
        return int(np.count_nonzero(self.y < 0))

    @cached_property
    def y(self) -> Plane:
        """Height of each row, H×1: -1 at the top, 0 at the horizon, 1 at the bottom."""
        rows = (np.arange(self.height, dtype=np.float32) + 0.5) / np.float32(self.height) * np.float32(self.rows)
        rows += np.float32(self.top - HORIZON)
        lifted: Plane = np.where(rows < 0, rows / HORIZON, rows / (1 - HORIZON))[:, None]
        return lifted

    @cached_property
    def x(self) -> Plane:
        """Place of each column, 1×W: -1 at the left, 1 at the right."""
        columns = (np.arange(self.width, dtype=np.float32) + 0.5) / np.float32(self.width) * np.float32(self.columns)
        places: Plane = ((columns + np.float32(self.left)) * 2 - 1)[None]
        return places

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Column and row of a place that is given as `x` and `y` give it; may lie outside of a cut."""
        row = HORIZON + y * (HORIZON if y < 0 else 1 - HORIZON)
        return (
            ((x + 1) / 2 - self.left) / self.columns * self.width,
            (row - self.top) / self.rows * self.height,
        )

    @cached_property
    def luma(self) -> Plane:
        """Brightness of each pixel (BT.601)."""
        return luma(self.image)

    @cached_property
    def sky(self) -> Plane:
        """How much each pixel is sky, 0..1: bright, rather blue than red, and nothing else above it."""
        if self.given_depth is not None:
            return (self.given_depth > SKY_DISTANCE / 3).astype(np.float32)
        sky = np.zeros((self.height, self.width), np.float32)
        above = self.horizon
        if above:
            red, _, blue = self.image[:, :above]
            bright = ramp(self.luma[:above] + (blue - red), 0.5, 0.7)
            bright *= ramp(-self.y[:above], 0.0, 0.15)
            # In coarse cells, so that a lamp post or a wire does not end the sky.
            step = self.step
            cells = resize(bright[::step, ::step], (max(2, above // (4 * step)), max(2, self.width // (8 * step))))
            np.multiply(bright, resize(np.minimum.accumulate(cells, axis=0), bright.shape), out=sky[:above])
        return sky

    @cached_property
    def corridor(self) -> Plane:
        """Distance of each pixel in metres if there were no sky: the road, and walls left and right."""
        ground = BOTTOM_DISTANCE / np.maximum(self.y, 0.02)
        walls = 70.0 - 45.0 * np.abs(self.x)
        return np.minimum(ground, walls)

    @cached_property
    def depth(self) -> Plane:
        """Distance of each pixel in metres."""
        if self.given_depth is not None:
            return np.clip(np.nan_to_num(self.given_depth, posinf=SKY_DISTANCE), 0.0, SKY_DISTANCE)
        return self.corridor + self.sky * (np.float32(SKY_DISTANCE) - self.corridor)

    @cached_property
    def ground(self) -> Plane:
        """How much each pixel may be ground, 0..1; not to be written to."""
        return np.broadcast_to(ramp(self.y, 0.05, 0.35), (self.height, self.width))

    @cached_property
    def bare_ground(self) -> Plane:
        """How much each pixel below the horizon is ground that shows, 0..1: H'×W for the rows from `horizon` on.

        What is colourful or black is a car, a person, a tyre.
        """
        red, green, blue = self.image[:, self.horizon :]
        bare = np.maximum(np.maximum(red, green), blue)
        bare -= np.minimum(np.minimum(red, green), blue)
        bare = 1 - ramp(bare, 0.15, 0.4)
        bare *= ramp(self.luma[self.horizon :], 0.05, 0.35)
        bare *= self.ground[self.horizon :]
        return bare


def rgb(red: float, green: float, blue: float) -> NDArray[np.float32]:
    """A colour, 3×1×1."""
    return np.array([red, green, blue], dtype=np.float32)[:, None, None]


def luma(image: Picture) -> Plane:
    """Brightness of each pixel (BT.601), H×W."""
    plane: Plane = np.einsum("c,chw->hw", LUMA, image)
    return plane


def mix(before: Picture, after: Picture, fraction: float | Plane) -> Picture:
    """A step from one picture towards another, written into the second."""
    if isinstance(fraction, float | int) and fraction == 1:
        return after
    after -= before
    after *= np.float32(fraction) if isinstance(fraction, float | int) else fraction
    after += before
    return after


def cover(view: View, image: Picture, colour: Picture, fraction: Plane) -> None:
    """Each pixel's step towards a colour, 3×1×1, written into the picture; the fraction is on the view's coarse grid."""
    for rows, clear in view.bands(1 - fraction):
        part = image[:, rows]
        part -= colour
        part *= clear
        part += colour


def ramp(values: Plane, low: float, high: float) -> Plane:
    """0 up to `low`, 1 from `high` on, smooth in between."""
    fraction: Plane = values - np.float32(low)
    fraction *= np.float32(1 / (high - low))
    np.clip(fraction, 0, 1, out=fraction)
    rest = 3 - 2 * fraction
    fraction *= fraction
    fraction *= rest
    return fraction


def saturate(image: Picture, grey: Plane, amount: float, *, gain: float = 1.0, lift: float = 0.0) -> Picture:
    """Keep a fraction of the colour and all of the brightness; then a gain and a lift, at no further cost.

    Args:
        image: RGB.
        grey: its `luma`.
        amount: fraction of the colour that is kept.
        gain: factor on the outcome.
        lift: what is added to it then.
    """
    kept = np.float32(amount * gain) * image
    rest = np.float32((1 - amount) * gain) * grey
    rest += np.float32(lift)
    kept += rest
    return kept


def resize(values: Plane, size: tuple[int, ...], *, first: int = 0) -> Plane:
    """A plane or a picture at another height and width, bilinear; the same array where that is its size.

    Args:
        values: H×W or 3×H×W.
        size: height and width.
        first: leave out the rows before this one.
    """
    if values.shape[-2:] == size:
        return values[..., first:, :]
    resized = np.empty((*values.shape[:-2], size[0] - first, size[1]), np.float32)
    planes = [(values, resized)] if values.ndim == 2 else zip(values, resized, strict=True)
    for plane, out in planes:
        if _enlarges(plane, size):
            _heighten(_widen(plane, size[1]), size[0], slice(first, None), out)
        else:
            image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
            out[:] = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))[first:]
    return resized


def _enlarges(values: Plane, size: tuple[int, ...]) -> bool:
    return all(2 <= cells <= pixels for cells, pixels in zip(values.shape[-2:], size, strict=True))


def _widen(plane: Plane, width: int) -> Plane:
    """A plane at a larger width: what Pillow's bilinear filter does, with `_heighten` in half its time."""
    left, right = _neighbours(plane.shape[1], width)
    wide = np.diff(plane, axis=1).take(left, axis=1)
    wide *= right
    wide += plane.take(left, axis=1)
    return wide


def _heighten(plane: Plane, height: int, rows: slice, out: Plane) -> None:
    """Some of the rows of a plane at a larger height."""
    above, below = _neighbours(plane.shape[0], height)
    above = above[rows]
    first, last = (int(above[0]), int(above[-1])) if above.size else (0, 0)
    near = plane[first : last + 2]
    np.diff(near, axis=0).take(above - first, axis=0, out=out, mode="clip")
    out *= below[rows, None]
    out += near.take(above - first, axis=0)


@lru_cache(maxsize=256)
def _neighbours(cells: int, pixels: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each pixel in a row of cells, the cell whose middle lies before it, and how far it is on the way to the next."""
    places = np.clip((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5, 0, cells - 1)
    before = np.minimum(places.astype(np.intp), cells - 2)
    return before, (places - before).astype(np.float32)


def blur(plane: Plane, sigma: float) -> Plane:
    """Gaussian blur of values in 0..1, in steps of 1/255."""
    blurred = Image.fromarray((plane * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)


def smooth_noise(view: View, cells: int, rng: np.random.Generator, *, first: int = 0) -> Plane:
    """Random hills, a given number across the whole photograph, in -1..1, for the rows from the given one on."""
    across = max(2, round(cells * view.columns))
    coarse = rng.uniform(-1, 1, (max(2, round(cells // 2 * view.rows)), across)).astype(np.float32)
    return resize(coarse, (view.height, view.width), first=first)


def grain(view: View, rng: np.random.Generator) -> Iterator[tuple[slice, slice, Picture]]:
    """Standard normal noise, independent in each channel: rows, columns and the noise for them, 3×H'×W'.

    Pictures larger than `GRAIN` get the same noise in each such square.
    """
    tile = rng.standard_normal((3, min(view.height, GRAIN), min(view.width, GRAIN)), dtype=np.float32)
    for top in range(0, view.height, GRAIN):
        for left in range(0, view.width, GRAIN):
            high, wide = min(GRAIN, view.height - top), min(GRAIN, view.width - left)
            yield slice(top, top + high), slice(left, left + wide), tile[:, :high, :wide]


def canvas(view: View) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty sheet of one byte per pixel, of the view's size, and the pen for it."""
    sheet = Image.new("L", (view.width, view.height))
    return sheet, ImageDraw.Draw(sheet)


def drawn(sheet: Image.Image, sigma: float = 0.0) -> Plane:
    """What was drawn on a sheet, blurred, in 0..1."""
    if sigma > 0:
        sheet = sheet.filter(ImageFilter.GaussianBlur(sigma))
    plane = np.asarray(sheet, dtype=np.float32)
    return plane / np.float32(255)


def to_photo(image: Picture | Photo) -> Photo:
    """A picture's bytes, H×W×3; what is above 1 or below 0 is cut off. Bytes are given back as they are."""
    if image.dtype == np.uint8:
        return np.asarray(image, dtype=np.uint8)
    photo = np.empty((*image.shape[1:], 3), np.uint8)
    # In bands, which stay in the processor's cache.
    for top in range(0, photo.shape[0], BAND):
        scaled = image[:, top : top + BAND] * np.float32(255)
        scaled += np.float32(0.5)
        np.clip(scaled, 0, 255, out=scaled)
        for index, channel in enumerate(scaled):
            photo[top : top + BAND, :, index] = channel
    return photo
