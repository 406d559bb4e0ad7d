"""What falls: drizzle, rain, torrential rain, snow."""

from dataclasses import dataclass

import numpy as np

from spcnet.synthesis.weather.air import haze
from spcnet.synthesis.weather.view import (
    Picture,
    Plane,
    View,
    canvas,
    cover,
    drawn,
    mix,
    resize,
    rgb,
    saturate,
    smooth_noise,
)


@dataclass(frozen=True)
class Drops:
    """Streaks or flakes at one distance; lengths in pixels of a photograph 128 high."""

    count: int
    """In the whole photograph."""
    length: float
    width: float
    opacity: float
    blur: float


@dataclass(frozen=True)
class Rainfall:
    """How hard it rains."""

    light: float
    """Fraction of the light that an overcast sky leaves."""
    shade: float
    """Light that the clouds' scattering adds where it was dark."""
    colour: float
    """Fraction of the colours that is left."""
    visibility: float
    """Metres over which the contrast falls to 5 %."""
    grey: float
    """Brightness of the air's own light, and so of the clouds."""
    wetness: float
    """How much of what stands on it the ground mirrors."""
    slant: float
    """Largest slope of the streaks."""
    streaks: tuple[Drops, ...]


DRIZZLE = Rainfall(
    light=0.86, shade=0.03, colour=0.7, visibility=900, grey=0.68, wetness=0.12, slant=0.15,
    streaks=(Drops(420, 4, 1, 0.20, 0.4), Drops(60, 7, 1, 0.24, 0.4)),
)  # fmt: skip
RAIN = Rainfall(
    light=0.74, shade=0.06, colour=0.45, visibility=300, grey=0.58, wetness=0.3, slant=0.25,
    streaks=(Drops(240, 8, 1, 0.26, 0.4), Drops(40, 24, 1.6, 0.34, 0.6)),
)  # fmt: skip
TORRENTIAL = Rainfall(
    light=0.56, shade=0.06, colour=0.3, visibility=150, grey=0.54, wetness=0.5, slant=0.5,
    streaks=(Drops(420, 16, 1, 0.26, 0.4), Drops(110, 48, 1.4, 0.34, 0.6), Drops(14, 90, 2.6, 0.30, 1.4)),
)  # fmt: skip
FLAKES = (Drops(420, 1, 1, 0.55, 0.3), Drops(140, 2.5, 2, 0.8, 0.5), Drops(22, 7, 4.5, 0.7, 1.6))


def drizzle(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """A damp street under a grey sky, and fine short streaks."""
    return _rainy(view, DRIZZLE, strength, rng)


def rain(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Grey light, wet ground that mirrors what stands on it, haze, and streaks of falling drops.

    A drop blurs into a streak that brightens what lies behind it (Garg and Nayar, IJCV 2007).
    """
    return _rainy(view, RAIN, strength, rng)


def torrential(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """A downpour: dark, the distance lost in spray, the road a mirror, long streaks everywhere."""
    return _rainy(view, TORRENTIAL, strength, rng)


def snow(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """White ground, pale air, and flakes at three distances, the near ones large, fast and out of focus."""
    pale = saturate(view.image, view.luma, 0.4, gain=0.92, lift=0.05)
    first = view.horizon
    hills = smooth_noise(view, 7, rng, first=first)
    lying = view.bare_ground * np.clip(np.float32(0.8) + np.float32(0.3) * hills, 0, 0.92)
    brightness = np.float32(0.78) + np.float32(0.35) * view.luma[first:]
    for channel, value in zip(pale[:, first:], (0.84, 0.87, 0.92), strict=True):
        channel += lying * (np.float32(value) * brightness - channel)
    pale = haze(pale, view, visibility=150, airlight=rgb(0.82, 0.84, 0.87), rng=rng)
    slant = rng.uniform(-0.5, 0.5)
    clear = 1 - _falling(view, FLAKES[0], slant, rng)
    for drops in FLAKES[1:]:
        clear *= 1 - _falling(view, drops, slant, rng)
    cover(view, pale, rgb(0.97, 0.97, 0.97), 1 - clear)
    return mix(view.image, pale, strength)


def _rainy(view: View, rainfall: Rainfall, strength: float, rng: np.random.Generator) -> Picture:
    # An overcast sky lights from everywhere: less contrast and colour, more light in what lay in the shade.
    dull = saturate(view.image, view.luma, rainfall.colour, gain=rainfall.light, lift=rainfall.shade)
    airlight = rgb(rainfall.grey - 0.02, rainfall.grey, rainfall.grey + 0.03)
    dull = haze(dull, view, visibility=rainfall.visibility, airlight=airlight, rng=rng)
    first = view.horizon
    wet = view.ground[first:] * (1 + np.float32(5 / 6) * smooth_noise(view, 8, rng, first=first))
    wet *= np.float32(rainfall.wetness)
    mirrored = _mirror(dull, view, airlight)
    mirrored -= dull[:, first:]
    mirrored *= wet
    dull *= np.float32(0.92)
    dull[:, first:] += mirrored
    slant = rng.uniform(-rainfall.slant, rainfall.slant)
    streaks = _falling(view, rainfall.streaks[0], slant, rng)
    for drops in rainfall.streaks[1:]:
        streaks = np.maximum(streaks, _falling(view, drops, slant, rng))
    cover(view, dull, rgb(0.82, 0.84, 0.88), streaks)
    return mix(view.image, dull, strength)


def _mirror(image: Picture, view: View, airlight: Picture) -> Picture:
    """What wet ground mirrors, for the rows below the horizon: what is as far above it as they are below."""
    horizon, below, step = view.horizon, view.height - view.horizon, view.step
    if not horizon or not below:
        return np.repeat(np.broadcast_to(airlight, (3, 1, view.width)), below, axis=1)
    mirrored = np.maximum(horizon - 1 - np.arange(0, below, step), 0)
    # A wet road is rough: it mirrors, but smears upright.
    smeared = resize(image[:, mirrored, ::step], (max(2, below // 10), -(-view.width // step)))
    return resize(smeared, (below, view.width))


def _falling(view: View, drops: Drops, slant: float, rng: np.random.Generator) -> Plane:
    """Opacity of what falls at a slant during the exposure, each a line; on the view's coarse grid."""
    view = view.coarse
    sheet, pen = canvas(view)
    count = max(1, round(drops.count * view.rows * view.columns))
    starts = rng.uniform(-0.1, 1.0, (count, 2)) * (view.width, view.height)
    ends = starts + rng.uniform(0.5, 1.5, (count, 1)) * drops.length * view.unit * np.array([slant, 1.0])
    values = (rng.uniform(0.4, 1.0, count) * drops.opacity * 255).astype(int).tolist()
    width = max(1, round(drops.width * view.unit))
    for line, value in zip(np.hstack([starts, ends]).tolist(), values, strict=True):
        pen.line(line, fill=value, width=width)
    return drawn(sheet, drops.blur * view.unit)
