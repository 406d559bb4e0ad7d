"""What lies or grows along the street: gravel, manhole covers, leaves in autumn."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from spcnet.synthesis.weather.view import (
    BOTTOM_DISTANCE,
    METRES_HIGH,
    Picture,
    Plane,
    View,
    luma,
    ramp,
    smooth_noise,
)

GRAVEL_SIDE = 1024
"""Pixels of the side of the square of stones that gravel is made of."""
GRAVEL_METRES = 3.0
"""Length of that side on the ground."""


def gravel(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Loose stones in patches on the road, small in the distance."""
    stony = view.image.copy()
    patches = smooth_noise(view.coarse, 9, rng)
    patches = ramp(patches + np.float32(1.3 * strength), 0.35, 0.75) * (1 - ramp(np.abs(view.coarse.x), 0.75, 1.0))
    shift = rng.integers(0, GRAVEL_SIDE, 2)
    first = int(np.count_nonzero(view.y <= 0.06))
    if first == view.height:
        return stony
    # Stones are lit as the road that they lie on.
    lit = float(np.clip(2.6 * np.mean(view.luma[first:]), 0.15, 1.1))
    lying = (
        view.spread(patches)[first:]
        * ramp(view.y[first:], 0.06, 0.2)
        * np.sqrt(view.bare_ground[first - view.horizon :])
    )
    stones = _on_the_road(view, first, shift)
    lying *= np.float32(0.35) + np.float32(0.65) * ramp(stones, 0.08, 0.25)
    for channel, tint in zip(stony[:, first:], (1.0, 0.95, 0.87), strict=True):
        channel += lying * (np.float32(tint * lit) * stones - channel)
    return stony


def manhole(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Iron covers in the road, round on the ground and so a flat ellipse in the picture, each in a patch of new asphalt."""
    covered = view.image.copy()
    for _ in range(int(rng.integers(2, 5))):
        down, side, radius = rng.uniform(0.3, 0.95), rng.uniform(-1, 1), rng.uniform(0.42, 0.6)
        x = side * (0.15 + 0.5 * down)
        _lay_cover(view, covered, x, down, radius * (0.55 + 0.45 * strength), min(1.0, 2.5 * strength), rng)
    return covered


def autumn(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Leaves turn yellow, orange and red; only what is green changes.

    Green is an excess over red and blue as a fraction of the brightness (Woebbecke et al., 1995), beyond what the road
    has of it: some cameras see everything a little green.
    """
    red, green, blue = view.image
    excess = green - (red + blue) * np.float32(0.5)
    excess /= view.luma + np.float32(0.04)
    road = view.y[:, 0] > 0.3
    cast = float(np.clip(np.median(excess[road, :: max(1, view.width // 64)]), 0.0, 0.12)) if road.any() else 0.02
    leaves = ramp(excess, cast + 0.03, cast + 0.09)
    # A turquoise sign is green too, and as blue as it is green; a beige wall is green, and more red than green.
    leaves *= ramp(green - blue, 0.0, 0.03)
    leaves *= ramp(green - red, -0.04, 0.0)
    # A car's paint and bonnet mirror trees; they are near the camera and low, where few leaves are.
    leaves *= np.float32(strength) * (1 - np.float32(0.85) * ramp(view.y, 0.3, 0.6))
    hue = ramp(smooth_noise(view.coarse, 14, rng) + np.float32(rng.uniform(-0.2, 0.2)), -0.9, 0.9)
    # From yellow over orange to red.
    leaf = np.stack([_between(hue, 1.25, 1.2, 0.95), _between(hue, 0.86, 0.52, 0.24), _between(hue, 0.14, 0.10, 0.10)])
    lit = view.luma * np.float32(1.35)
    lit += np.float32(0.1)
    turned = view.image.copy()
    for rows, colour in view.bands(leaf):
        colour *= lit[rows]
        colour -= turned[:, rows]
        colour *= leaves[rows]
        turned[:, rows] += colour
    return turned


def _between(fraction: Plane, first: float, middle: float, last: float) -> Plane:
    """A curve through three values at 0, 0.5 and 1."""
    slope, bend = 4 * middle - 3 * first - last, 2 * (first - 2 * middle + last)
    value: Plane = np.float32(bend) * fraction
    value += np.float32(slope)
    value *= fraction
    value += np.float32(first)
    return value


def _on_the_road(view: View, first: int, shift: NDArray[np.int64]) -> Plane:
    """Brightness of the stones on the plane of the road, 0..1, for the rows from `first` on; 0 between them."""
    rows = view.y[first:, 0]
    metres = BOTTOM_DISTANCE / rows
    # Width of a pixel on the ground, in metres; lengthways it grows with the square of the distance.
    pixel = METRES_HIGH * view.rows / view.height * metres / BOTTOM_DISTANCE
    across = view.x[0] * np.float32(view.aspect * METRES_HIGH / 2 / BOTTOM_DISTANCE)
    stones = np.empty((rows.size, view.width), np.float32)
    finest = np.log2(pixel * (GRAVEL_SIDE / GRAVEL_METRES))
    levels = np.clip(np.round(finest), 0, len(_stones()) - 1).astype(int)
    for level in np.unique(levels):
        tile = _stones()[level]
        side = tile.shape[0]
        here = levels == level
        per_metre = side / GRAVEL_METRES
        down = (metres[here] * per_metre + shift[0]).astype(np.int64) % side
        along = metres[here, None] * (across[None] * np.float32(per_metre))
        along += np.float32(shift[1] + 64 * side)
        index = along.astype(np.int32)
        index &= side - 1
        index += (down * side).astype(np.int32)[:, None]
        stones[here] = tile.ravel()[index]
    return stones


@cache
def _stones() -> tuple[NDArray[np.float32], ...]:
    """A square of gravel seen from above that tiles the plane, 0 between the stones, each time half as fine."""
    rng = np.random.default_rng(0)
    sheet = Image.new("L", (GRAVEL_SIDE, GRAVEL_SIDE))
    pen = ImageDraw.Draw(sheet)
    radii = np.sort(rng.uniform(7, 26, 1500) * rng.uniform(0.6, 1, 1500))
    places = rng.uniform(0, GRAVEL_SIDE, (radii.size, 2))
    greys = rng.uniform(90, 215, radii.size)
    shapes = rng.uniform(0.7, 1.3, radii.size)
    for radius, (x, y), grey, shape in zip(
        radii.tolist(), places.tolist(), greys.tolist(), shapes.tolist(), strict=True
    ):
        for left in {x, x - GRAVEL_SIDE if x + 40 > GRAVEL_SIDE else x + GRAVEL_SIDE if x < 40 else x}:
            for top in {y, y - GRAVEL_SIDE if y + 40 > GRAVEL_SIDE else y + GRAVEL_SIDE if y < 40 else y}:
                # Its shadow, its side away from the light, its top.
                for move, size, fill in ((5, 1.08, 12), (0, 1, 0.62 * grey), (-0.16 * radius, 0.8, grey)):
                    across, down = radius * shape * size, radius / shape * size
                    box = (left + move - across, top + move - down, left + move + across, top + move + down)
                    pen.ellipse(box, fill=int(fill))
    sheet = sheet.filter(ImageFilter.BoxBlur(1))
    return tuple(np.asarray(sheet.reduce(1 << level), dtype=np.float32) / np.float32(255) for level in range(6))


def _lay_cover(
    view: View, image: Picture, x: float, y: float, radius: float, opacity: float, rng: np.random.Generator
) -> None:
    """Put one cover of a radius in metres on the road, into the picture."""
    patch, turn, wear = rng.uniform(1.15, 1.6), rng.uniform(0, np.pi), rng.uniform(0.7, 1.0)
    metres = BOTTOM_DISTANCE / y
    reach = 1.5 * patch * radius
    # The rows and columns that the patch can cover.
    nearest, farthest = BOTTOM_DISTANCE / max(metres - reach, 0.5), BOTTOM_DISTANCE / (metres + reach)
    half = reach * 2 / (METRES_HIGH * view.aspect) * nearest
    left, top = view.pixel(x * nearest / y - half * 1.2, farthest)
    right, bottom = view.pixel(x * nearest / y + half * 1.2, nearest)
    other_left, other_right = view.pixel(x - half * 1.2, y)[0], view.pixel(x + half * 1.2, y)[0]
    columns = slice(*np.clip([int(min(left, other_left)), int(max(right, other_right)) + 1], 0, view.width).tolist())
    rows = slice(*np.clip([int(top), int(bottom) + 1], 0, view.height).tolist())
    here = image[:, rows, columns]
    if not here.size:
        return
    ground_y = np.maximum(view.y[rows], 1e-3)
    away = np.float32(BOTTOM_DISTANCE) / ground_y
    scale = np.float32(METRES_HIGH * view.aspect / 2 / BOTTOM_DISTANCE / radius)
    across = (view.x[:, columns] * away - np.float32(x * metres)) * scale
    along = np.broadcast_to((away - np.float32(metres)) / np.float32(radius), across.shape)
    # One pixel's size on the cover: its edges are blurred over it.
    soft = np.float32(METRES_HIGH * view.rows / view.height / radius) * away / BOTTOM_DISTANCE * metres / 3
    far = np.hypot(across, along)
    lit = float(np.clip(np.mean(luma(here)), 0.04, 0.9))
    asphalt = (np.maximum(np.abs(across), np.abs(along)) < patch).astype(np.float32)
    here *= 1 - np.float32(0.2 * opacity) * asphalt
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    # Raised squares in rows, as on most covers.
    studs = np.sin((across * cos + along * sin) * np.float32(11)) * np.sin(
        (along * cos - across * sin) * np.float32(11)
    )
    iron = np.float32(0.42) + np.float32(0.2 * wear) * np.clip(3 * studs, -1, 1)
    iron = np.where(far > 0.8, np.float32(0.75), iron)  # the frame
    iron = np.where(np.abs(far - 0.8) < 0.045, np.float32(0.08), iron)  # the gap around the lid
    iron = np.where(np.hypot(np.abs(across) - 0.45, along) < 0.1, np.float32(0.05), iron)  # the holes to lift it by
    cover = np.float32(opacity) * np.clip((1 - far) / soft + np.float32(0.5), 0, 1)
    for channel, tint in zip(here, (0.98, 0.96, 0.94), strict=True):
        channel += cover * (np.float32(tint * lit) * iron - channel)
