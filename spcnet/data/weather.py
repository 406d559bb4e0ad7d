"""Weather for photographs: what a street of a real data set would look like at night, in fog, in rain.

Each style is a small model of what changes between the scene and the picture: the light, the air in between, the
surfaces, what falls. None is a rendering; they are strong, recognisable shifts with which to ask how a network fares
outside its training data. NumPy and Pillow only, so that a style can be put on a set without a generative model.

A style needs to know how far away things are. Where no depth is given it is guessed from the picture (`View`): a street
seen as a corridor, a plane below the horizon with walls left and right, and the sky beyond.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from spcnet.errors import UsageError, one_of

Plane = NDArray[np.floating[Any]]
"""One value per pixel, H×W."""
Picture = NDArray[np.floating[Any]]
"""RGB in 0..1, H×W×3."""

HORIZON = 0.45
"""Height of the horizon in a picture taken from a car, from the top, as a share of the picture's height."""
SKY_DISTANCE = 1000.0
"""How far away the sky is taken to be, in metres."""


class View:
    """A picture and what is known of its geometry."""

    def __init__(self, image: Picture, *, depth: Plane | None) -> None:
        """Look at a picture.

        Args:
            image: RGB in 0..1.
            depth: distance of each pixel in metres, where it is known.
        """
        self.image = image
        self.height, self.width = image.shape[:2]
        self.unit = self.height / 128
        """Pixels for one pixel of a picture 128 high: the measure of what is drawn."""
        self.given_depth = depth

    @cached_property
    def y(self) -> Plane:
        """Height of each row, H×1: -1 at the top, 0 at the horizon, 1 at the bottom."""
        rows = (np.arange(self.height, dtype=np.float32) + 0.5) / self.height - HORIZON
        lifted: Plane = np.where(rows < 0, rows / HORIZON, rows / (1 - HORIZON))[:, None]
        return lifted

    @cached_property
    def x(self) -> Plane:
        """Place of each column, 1×W: -1 at the left, 1 at the right."""
        columns: Plane = ((np.arange(self.width, dtype=np.float32) + 0.5) / self.width * 2 - 1)[None]
        return columns

    @cached_property
    def luma(self) -> Plane:
        """Brightness of each pixel (BT.601)."""
        return self.image @ _rgb(0.299, 0.587, 0.114)

    @cached_property
    def sky(self) -> Plane:
        """How much each pixel is sky, 0..1: bright, rather blue than red, and nothing else above it."""
        if self.given_depth is not None:
            return (self.given_depth > SKY_DISTANCE / 3).astype(np.float32)
        red, blue = self.image[..., 0], self.image[..., 2]
        bright = _ramp(self.luma + (blue - red), 0.5, 0.7) * _ramp(-self.y, 0.0, 0.15)
        # In coarse cells, so that a lamp post or a wire does not end the sky.
        coarse = _resize(bright, (max(2, self.height // 4), max(2, self.width // 8)))
        return bright * _resize(np.minimum.accumulate(coarse, axis=0), self.luma.shape)

    @cached_property
    def depth(self) -> Plane:
        """Distance of each pixel in metres."""
        if self.given_depth is not None:
            return np.clip(np.nan_to_num(self.given_depth, posinf=SKY_DISTANCE), 0.0, SKY_DISTANCE)
        ground = 5.0 / np.maximum(self.y, 0.02)
        walls = 90.0 - 60.0 * np.abs(self.x)
        return np.minimum(ground, walls) * (1 - self.sky) + SKY_DISTANCE * self.sky

    @cached_property
    def ground(self) -> Plane:
        """How much each pixel may be ground, 0..1."""
        return _ramp(self.y, 0.05, 0.35) * np.ones_like(self.x)


@dataclass(frozen=True)
class Weather:
    """A style that a photograph can be given."""

    description: str
    """What it looks like, in one line."""
    function: Callable[[View, float, np.random.Generator], Picture]
    """The style of a view, at a strength above 0."""


def apply_weather(
    image: NDArray[np.uint8], style: str, *, seed: int, strength: float = 1.0, depth: Plane | None = None
) -> NDArray[np.uint8]:
    """A photograph in another weather.

    Args:
        image: RGB, H×W×3, of any size.
        style: a name in `WEATHER`.
        seed: of lamps, streaks, flakes and noise; the same seed gives the same picture.
        strength: how much of it; 0 changes nothing, 1 is a clear case.
        depth: distance of each pixel in metres, H×W; guessed from the picture where it is not given.

    Returns:
        RGB of the same size.

    Raises:
        UsageError: the style is unknown or the strength negative.
    """
    if style not in WEATHER:
        raise one_of(style, list(WEATHER), "weather style")
    if strength < 0:
        raise UsageError(f"the strength of the weather is {strength}: it must be 0 (none) or more")
    if strength == 0:
        return image.copy()
    view = View(image.astype(np.float32) / 255, depth=depth)
    styled = WEATHER[style].function(view, strength, np.random.default_rng(seed))
    return (np.clip(styled, 0, 1) * 255 + 0.5).astype(np.uint8)


def fog(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Koschmieder's law: light decays as exp(-βd) on its way, and the air's own light takes its place.

    The model of Foggy Cityscapes (Sakaridis et al., IJCV 2018), with β = 3/visibility and a density that varies in
    space; visibility is 60 m at strength 1.
    """
    return _haze(view.image, view, visibility=60.0 / strength, airlight=(0.80, 0.82, 0.84), rng=rng)


def night(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """A moonlit street seen by a car's headlights, between street lamps.

    In linear light each surface is lit by a faint blue sky, by headlights that fade with the square of the distance,
    and by warm lamps. Rear lights shine by themselves. The sensor adds noise, which shows in the dark.
    """
    linear = view.image**2.2
    headlights = np.exp(-((view.x / 0.6) ** 2)) * _ramp(view.y, -0.25, 0.2) / (1 + (view.depth / 14) ** 2)
    lit = _rgb(0.022, 0.03, 0.05) + headlights[..., None] * _rgb(0.80, 0.74, 0.62)
    glow = np.zeros_like(linear)
    for _ in range(rng.integers(3, 6)):
        side = rng.choice([-1, 1])
        nearness = rng.uniform(0.25, 1.0)
        color = _rgb(1.0, rng.uniform(0.7, 0.85), rng.uniform(0.35, 0.6))
        x, y = side * (0.12 + 0.75 * nearness * rng.uniform(0.8, 1.2)), -0.75 * nearness
        across, down = (view.x - x) * view.width / view.height, view.y - y
        spread = across**2 + (down * 0.9) ** 2
        size = 0.05 * nearness
        glow += (1 / (1 + spread / size**2) ** 1.2)[..., None] * color
        lit += (0.10 * nearness / (1 + spread / 0.25))[..., None] * color
    red = view.image[..., 0] - view.image[..., 1:].max(axis=2)
    rear = _ramp(red, 0.18, 0.4) * _ramp(view.y, -0.2, 0.05)
    glow += (rear + 2 * _blur(rear, 2.5 * view.unit))[..., None] * _rgb(0.7, 0.03, 0.02)
    lit *= (1 - 0.8 * view.sky)[..., None]
    edge = 1 - 0.35 * (view.x**2 + view.y**2) / 2
    dark = (linear * lit * edge[..., None] + 0.6 * glow) ** np.float32(1 / 2.2)
    noise = rng.standard_normal(view.image.shape, dtype=np.float32) * 0.025
    noise += _smooth_noise(view, 40, rng)[..., None] * _rgb(0.012, 0.0, 0.02)
    return _mix(view.image, dark + noise, strength)


def dusk(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """The sun is below the horizon: the sky glows from orange to violet, and everything below it is dim.

    Shadows take the colour of the zenith and highlights that of the glow (split toning), in place of a radiosity model.
    """
    rise = np.clip(-view.y, 0, 1)[..., None] ** np.float32(0.8)
    low, high = _rgb(0.98, 0.58, 0.28), _rgb(0.36, 0.27, 0.46)
    clouds = 0.85 + 0.3 * view.luma[..., None] + 0.05 * _smooth_noise(view, 6, rng)[..., None]
    sky = (low * (1 - rise) + high * rise) * clouds
    dim = (0.58 * view.image ** np.float32(1.35)) @ _saturation(0.7)
    tone = view.luma[..., None] ** np.float32(1.5)
    dim *= _rgb(0.80, 0.72, 1.0) * (1 - tone) + _rgb(1.35, 0.92, 0.62) * tone
    veil = np.exp(-((view.y / 0.35) ** 2))[..., None] * np.float32(0.18)
    dim = dim * (1 - veil) + low * veil
    sky_share = view.sky[..., None]
    return _mix(view.image, dim * (1 - sky_share) + sky * sky_share, strength)


def rain(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Grey light, wet ground that mirrors what stands on it, haze, and streaks of falling drops.

    A drop blurs into a streak that brightens what lies behind it (Garg and Nayar, IJCV 2007).
    """
    dull: Picture = (0.72 * view.image ** np.float32(1.25)) @ _saturation(0.45)
    dull = _haze(dull, view, visibility=220.0, airlight=(0.46, 0.48, 0.51), rng=rng)
    horizon = round(HORIZON * view.height)
    mirrored = np.clip(2 * horizon - np.arange(view.height), 0, horizon)
    small = _resize(dull[mirrored], (max(2, view.height // 10), view.width))
    sheen = view.ground * (0.45 + 0.18 * _smooth_noise(view, 8, rng))
    wet = np.clip(sheen, 0, 0.8)[..., None]
    dull = dull * (1 - wet) * np.float32(0.92) + _resize(small, view.luma.shape) * wet
    slant = rng.uniform(-0.25, 0.25)
    drops = np.maximum(
        _falling(view, count=260, length=9, width=1, slant=slant, opacity=0.28, rng=rng),
        _falling(view, count=45, length=24, width=1.6, slant=slant, opacity=0.42, rng=rng),
    )[..., None]
    return _mix(view.image, dull * (1 - drops) + _rgb(0.82, 0.84, 0.88) * drops, strength)


def snow(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """White ground, white air, and flakes at several distances, the near ones large, fast and out of focus."""
    pale: Picture = (view.image * np.float32(0.92) + np.float32(0.05)) @ _saturation(0.4)
    spread = view.image.max(axis=2) - view.image.min(axis=2)
    cover = view.ground * (0.8 + 0.25 * _smooth_noise(view, 7, rng)) * (1 - _ramp(spread, 0.15, 0.4))
    cover = np.clip(cover * _ramp(view.luma, 0.05, 0.35), 0, 0.92)[..., None]
    white = _rgb(0.84, 0.87, 0.92) * (0.78 + 0.35 * view.luma[..., None])
    pale = pale * (1 - cover) + white * cover
    pale = _haze(pale, view, visibility=160.0, airlight=(0.82, 0.84, 0.87), rng=rng)
    slant = rng.uniform(-0.5, 0.5)
    for count, length, width, opacity, blur in (
        (420, 1.0, 1.0, 0.55, 0.3),
        (140, 2.5, 2.0, 0.8, 0.5),
        (22, 7, 4.5, 0.7, 1.6),
    ):
        flakes = _falling(
            view, count=count, length=length, width=width, slant=slant, opacity=opacity, rng=rng, blur=blur
        )[..., None]
        pale = pale * (1 - flakes) + np.float32(0.97) * flakes
    return _mix(view.image, pale, strength)


WEATHER: dict[str, Weather] = {
    "night": Weather("dark, lit by headlights and street lamps, with sensor noise", night),
    "dusk": Weather("after sunset: an orange to violet sky, dim ground", dusk),
    "fog": Weather("thick fog: contrast and colour fade with distance", fog),
    "rain": Weather("grey light, wet mirroring ground, slanted streaks", rain),
    "snow": Weather("white ground, pale colours, flakes in the air", snow),
}
"""Style by the name it has in a recipe."""


def _rgb(red: float, green: float, blue: float) -> NDArray[np.float32]:
    return np.array([red, green, blue], dtype=np.float32)


def _mix(before: Picture, after: Picture, strength: float) -> Picture:
    return before + np.float32(min(strength, 1.5)) * (after - before)


def _ramp(values: Plane, low: float, high: float) -> Plane:
    """0 up to `low`, 1 from `high` on, smooth in between."""
    share: Plane = np.clip((values - low) / np.float32(high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _saturation(amount: float) -> NDArray[np.float32]:
    """Matrix, to be multiplied from the right, that keeps that share of the colour and all of the brightness."""
    grey = np.repeat(_rgb(0.299, 0.587, 0.114)[:, None], 3, axis=1)
    return amount * np.eye(3, dtype=np.float32) + (1 - amount) * grey


def _haze(
    image: Picture, view: View, *, visibility: float, airlight: tuple[float, float, float], rng: np.random.Generator
) -> Picture:
    density = (3.0 / visibility) * (1 + 0.25 * _smooth_noise(view, 4, rng))
    clear = np.exp(-density * view.depth)[..., None]
    return image * clear + _rgb(*airlight) * (1 - clear)


def _smooth_noise(view: View, cells: int, rng: np.random.Generator) -> Plane:
    """Random hills of about unit height, so many across the picture, in -1..1."""
    coarse = rng.uniform(-1, 1, (max(2, cells // 2), cells)).astype(np.float32)
    return np.clip(_resize(coarse, (view.height, view.width), Image.Resampling.BICUBIC), -1, 1)


def _falling(
    view: View,
    *,
    count: int,
    length: float,
    width: float,
    slant: float,
    opacity: float,
    rng: np.random.Generator,
    blur: float = 0.4,
) -> Plane:
    """Opacity of streaks that fall at a slant: each a line, so long and wide in units of the view."""
    canvas = Image.new("L", (view.width, view.height))
    draw = ImageDraw.Draw(canvas)
    starts = rng.uniform(-0.1, 1.0, (count, 2)) * (view.width, view.height * 1.1)
    lengths = rng.uniform(0.5, 1.5, count) * length * view.unit
    ends = starts + lengths[:, None] * [slant, 1.0]
    values = rng.uniform(0.4, 1.0, count) * opacity * 255
    thick = max(1, round(width * view.unit))
    for line, value in zip(np.hstack([starts, ends]).tolist(), values.astype(int).tolist(), strict=True):
        draw.line(line, fill=value, width=thick)
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(blur * view.unit)), dtype=np.float32) / 255


def _blur(plane: Plane, sigma: float) -> Plane:
    blurred = Image.fromarray((plane * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(blurred, dtype=np.float32) / 255


def _resize(plane: Plane, size: tuple[int, ...], how: Image.Resampling = Image.Resampling.BILINEAR) -> Plane:
    """A plane or picture at another height and width."""
    if plane.ndim == 3:
        return np.stack([_resize(plane[..., c], size, how) for c in range(plane.shape[2])], axis=2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32)).resize((size[1], size[0]), how))
