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
"""RGB in 0..1, 3×H×W."""

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
        self.height, self.width = image.shape[1:]
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
        return _luma(self.image)

    @cached_property
    def sky(self) -> Plane:
        """How much each pixel is sky, 0..1: bright, rather blue than red, and nothing else above it."""
        if self.given_depth is not None:
            return (self.given_depth > SKY_DISTANCE / 3).astype(np.float32)
        red, _, blue = self.image
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
        walls = 70.0 - 45.0 * np.abs(self.x)
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
    """The style of a view, at a strength above 0 and up to 1."""


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
        UsageError: the style is unknown or the strength not in 0..1.
    """
    if style not in WEATHER:
        raise one_of(style, list(WEATHER), "weather style")
    if not 0 <= strength <= 1:
        raise UsageError(f"the strength of the weather is {strength}: it must lie in 0 (none) to 1 (a clear case)")
    if strength == 0:
        return image.copy()
    channels = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    view = View(channels / np.float32(255), depth=depth)
    styled = WEATHER[style].function(view, strength, np.random.default_rng(seed))
    return np.ascontiguousarray((np.clip(styled, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0))


def fog(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Koschmieder's law: light decays as exp(-βd) on its way, and the air's own light takes its place.

    The model of Foggy Cityscapes (Sakaridis et al., IJCV 2018), with β = 3/visibility and a density that varies in
    space; visibility is 150 m at strength 1, that set's thickest fog (β = 0.02 per metre).
    """
    return _haze(view.image, view, visibility=150 / strength, airlight=_rgb(0.80, 0.82, 0.84), rng=rng)


def night(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """A moonlit street seen by a car's headlights, between street lamps.

    In linear light each surface is lit by a faint blue sky, by headlights that fade with the square of the distance,
    and by warm lamps. Rear lights shine by themselves. The sensor adds noise, which shows in the dark.
    """
    headlights = np.exp(-((view.x / 0.6) ** 2)) * _ramp(view.y, -0.25, 0.2) / (1 + (view.depth / 16) ** 2)
    light = _rgb(0.028, 0.042, 0.078) + headlights * _rgb(1.15, 1.05, 0.86)
    glow = np.zeros_like(view.image)
    for _ in range(rng.integers(3, 6)):
        nearness = rng.uniform(0.25, 1.0)
        color = _rgb(1.0, rng.uniform(0.70, 0.85), rng.uniform(0.35, 0.60))
        x = float(rng.choice([-1, 1])) * (0.12 + 0.75 * nearness * rng.uniform(0.8, 1.2))
        across, down = (view.x - x) * view.width / view.height, view.y + 0.75 * nearness
        far = (across**2 + down**2) / np.float32(0.05 * nearness) ** 2
        glow += color / (1 + far)
        light += color * np.float32(0.12 * nearness) / (1 + far / 100)
    red, green, blue = view.image
    redness = np.clip(red - np.maximum(green, blue), 0, 1)
    # What is red over a large area is paint.
    rear = _ramp(redness - _blur(redness, 5 * view.unit), 0.12, 0.3) * _ramp(view.y, -0.2, 0.05)
    glow += (rear + 2 * _blur(rear, 2.5 * view.unit)) * _rgb(0.7, 0.03, 0.02)
    light *= (1 - np.float32(0.8) * view.sky) * (1 - np.float32(0.18) * (view.x**2 + view.y**2))
    # Squares and roots stand for the display's gamma of 2.2.
    dark = np.sqrt(view.image**2 * light + np.float32(0.6) * glow)
    dark += np.float32(0.022) * rng.standard_normal(view.image.shape, dtype=np.float32)
    dark += _rgb(0.012, 0.0, 0.02) * _smooth_noise(view, 40, rng)
    return _mix(view.image, dark, strength)


def dusk(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """The sun is below the horizon: the sky glows from orange to violet, and everything below it is dim.

    Shadows take the colour of the zenith and highlights that of the glow (split toning).
    """
    glow, zenith = _rgb(0.98, 0.58, 0.28), _rgb(0.36, 0.27, 0.46)
    rise = np.sqrt(np.clip(-view.y, 0, 1))
    sky = (glow + (zenith - glow) * rise) * (0.85 + 0.3 * view.luma + 0.05 * _smooth_noise(view, 6, rng))
    tone = view.luma**2 * (3 - 2 * view.luma)
    dim = 0.6 * _saturate(_darken(view.image), 0.7) * (_rgb(0.80, 0.72, 1.0) + _rgb(0.55, 0.20, -0.38) * tone)
    veil = np.float32(0.18) * np.exp(-((view.y / 0.35) ** 2))
    dim += veil * (glow - dim)
    return _mix(view.image, dim + view.sky * (sky - dim), strength)


def rain(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Grey light, wet ground that mirrors what stands on it, haze, and streaks of falling drops.

    A drop blurs into a streak that brightens what lies behind it (Garg and Nayar, IJCV 2007).
    """
    # An overcast sky lights from everywhere: less contrast and colour, more light in what lay in the shade.
    dull = 0.06 + 0.74 * _saturate(view.image, 0.45)
    dull = _haze(dull, view, visibility=300, airlight=_rgb(0.56, 0.58, 0.61), rng=rng)
    horizon = round(HORIZON * view.height)
    mirrored = np.clip(2 * horizon - np.arange(view.height), 0, horizon)
    # A wet road is rough: it mirrors, but smears upright.
    mirror = _resize(_resize(dull[:, mirrored], (max(2, view.height // 10), view.width)), view.luma.shape)
    wet = view.ground * (0.3 + 0.25 * _smooth_noise(view, 8, rng))
    dull = np.float32(0.92) * dull + wet * (mirror - dull)
    slant = rng.uniform(-0.25, 0.25)
    far = _falling(view, count=240, length=8, width=1, slant=slant, opacity=0.26, blur=0.4, rng=rng)
    near = _falling(view, count=40, length=24, width=1.6, slant=slant, opacity=0.34, blur=0.6, rng=rng)
    return _mix(view.image, dull + np.maximum(far, near) * (_rgb(0.82, 0.84, 0.88) - dull), strength)


def snow(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """White ground, pale air, and flakes at three distances, the near ones large, fast and out of focus."""
    pale = 0.92 * _saturate(view.image, 0.4) + np.float32(0.05)
    red, green, blue = view.image
    colored = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    # What is colourful or black is no ground: cars, people, tyres.
    lying = view.ground * (1 - _ramp(colored, 0.15, 0.4)) * _ramp(view.luma, 0.05, 0.35)
    lying *= np.clip(0.8 + 0.3 * _smooth_noise(view, 7, rng), 0, 0.92)
    pale += lying * (_rgb(0.84, 0.87, 0.92) * (0.78 + 0.35 * view.luma) - pale)
    pale = _haze(pale, view, visibility=150, airlight=_rgb(0.82, 0.84, 0.87), rng=rng)
    slant = rng.uniform(-0.5, 0.5)
    for flakes in (
        _falling(view, count=420, length=1, width=1, slant=slant, opacity=0.55, blur=0.3, rng=rng),
        _falling(view, count=140, length=2.5, width=2, slant=slant, opacity=0.8, blur=0.5, rng=rng),
        _falling(view, count=22, length=7, width=4.5, slant=slant, opacity=0.7, blur=1.6, rng=rng),
    ):
        pale += flakes * (np.float32(0.97) - pale)
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
    """A colour, 3×1×1."""
    return np.array([red, green, blue], dtype=np.float32)[:, None, None]


def _luma(image: Picture) -> Plane:
    red, green, blue = image
    luma: Plane = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    return luma


def _mix(before: Picture, after: Picture, strength: float) -> Picture:
    """A step from one picture towards another."""
    return before + np.float32(strength) * (after - before)


def _ramp(values: Plane, low: float, high: float) -> Plane:
    """0 up to `low`, 1 from `high` on, smooth in between."""
    share: Plane = np.clip((values - low) / np.float32(high - low), 0, 1)
    return share * share * (3 - 2 * share)


def _saturate(image: Picture, amount: float) -> Picture:
    """Keep that share of the colour and all of the brightness."""
    grey = _luma(image)
    return grey + np.float32(amount) * (image - grey)


def _darken(image: Picture) -> Picture:
    """Darker, most so in between black and white: close to a power of 1.3."""
    return image * (np.float32(0.7) + np.float32(0.3) * image)


def _haze(image: Picture, view: View, *, visibility: float, airlight: Picture, rng: np.random.Generator) -> Picture:
    """Scattering on the way through air in which contrast falls to 5 % over the visibility, in metres."""
    density = np.float32(3 / visibility) * (1 + np.float32(0.25) * _smooth_noise(view, 4, rng))
    return airlight + np.exp(-density * view.depth) * (image - airlight)


def _smooth_noise(view: View, cells: int, rng: np.random.Generator) -> Plane:
    """Random hills, so many across the picture, in -1..1."""
    coarse = rng.uniform(-1, 1, (max(2, cells // 2), cells)).astype(np.float32)
    return _resize(coarse, (view.height, view.width))


def _falling(
    view: View,
    *,
    count: int,
    length: float,
    width: float,
    slant: float,
    opacity: float,
    blur: float,
    rng: np.random.Generator,
) -> Plane:
    """Opacity of what falls at a slant during the exposure: each a line; lengths in units of the view."""
    canvas = Image.new("L", (view.width, view.height))
    draw = ImageDraw.Draw(canvas)
    starts = rng.uniform(-0.1, 1.0, (count, 2)) * (view.width, view.height)
    ends = starts + rng.uniform(0.5, 1.5, (count, 1)) * length * view.unit * np.array([slant, 1.0])
    values = (rng.uniform(0.4, 1.0, count) * opacity * 255).astype(int).tolist()
    for line, value in zip(np.hstack([starts, ends]).tolist(), values, strict=True):
        draw.line(line, fill=value, width=max(1, round(width * view.unit)))
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(blur * view.unit)), dtype=np.float32) / np.float32(255)


def _blur(plane: Plane, sigma: float) -> Plane:
    blurred = Image.fromarray((plane * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)


def _resize(values: Plane, size: tuple[int, ...]) -> Plane:
    """A plane or a picture at another height and width."""
    if values.ndim == 3:
        return np.stack([_resize(plane, size) for plane in values])
    plane = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BILINEAR))
