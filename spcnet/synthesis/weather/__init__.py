"""Weather and road styles for photographs: a street of a real data set at night, in fog, in rain, with gravel on it.

Each style is a small model of what changes between the scene and the picture: the light, the air in between, the
surfaces, what falls, the camera. None is a rendering; they are strong, recognisable shifts with which to train a network
or to ask how it fares outside its training data. NumPy and Pillow only, so that a style can be put on a set without a
generative model. The list is that of Automold (Saxena, 2018) with night, dusk, dirt, compression, noise and roll added.

A style needs to know how far away things are. Where no depth is given it is guessed from the picture (`View`): a street
seen as a corridor, a plane below the horizon with walls left and right, and the sky beyond.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spcnet.errors import UsageError, lookup
from spcnet.synthesis.weather.air import fog
from spcnet.synthesis.weather.camera import Affine, jpeg, lens_dirt, move_label, noise, roll, speed, tilt
from spcnet.synthesis.weather.falling import drizzle, rain, snow, torrential
from spcnet.synthesis.weather.light import brightness, darkness, dusk, night, shadow, sun_flare
from spcnet.synthesis.weather.surface import autumn, gravel, manhole
from spcnet.synthesis.weather.view import SKY_DISTANCE, Photo, Picture, Plane, View, Window, to_photo


@dataclass(frozen=True)
class Weather:
    """A style that a photograph can be given."""

    description: str
    """What it looks like, in one line."""
    function: Callable[[View, float, np.random.Generator], Picture | Photo]
    """The style of a view, at a strength above 0 and up to 1; values in 0..1, 3×H×W, or bytes, H×W×3."""
    family: str
    """Styles of one family are too alike for one to count as unseen after training with another."""
    motion: Callable[[View, float, np.random.Generator], Affine] | None = None
    """Where each pixel comes from, where the style moves them."""

    @property
    def moves(self) -> bool:
        """Whether it moves pixels, so that a label must move along."""
        return self.motion is not None


WEATHER: dict[str, Weather] = {
    "brightness": Weather("exposed for too long: light, highlights burnt out", brightness, "exposure"),
    "darkness": Weather("exposed for too short: dark and a little noisy", darkness, "dark"),
    "shadow": Weather("shadows of houses and trees on the street", shadow, "shadow"),
    "snow": Weather("white ground, pale colours, flakes in the air", snow, "snow"),
    "drizzle": Weather("a grey sky, damp ground, fine short streaks", drizzle, "rain"),
    "rain": Weather("grey light, wet mirroring ground, slanted streaks", rain, "rain"),
    "torrential": Weather("a downpour: dark, no distance, long streaks everywhere", torrential, "rain"),
    "fog": Weather("thick fog: contrast and colour fade with distance", fog, "fog"),
    "gravel": Weather("loose stones in patches on the road", gravel, "ground"),
    "sun_flare": Weather("the sun shines into the lens: glare, rays, ghosts", sun_flare, "flare"),
    "speed": Weather("motion blur away from the vanishing point", speed, "blur"),
    "autumn": Weather("leaves turned yellow, orange and red", autumn, "foliage"),
    "manhole": Weather("iron covers in the road", manhole, "ground"),
    "dusk": Weather("after sunset: an orange to violet sky, dim ground", dusk, "dusk"),
    "night": Weather("dark, lit by headlights and street lamps, with sensor noise", night, "dark"),
    "lens_dirt": Weather("mud and drops of water on the lens", lens_dirt, "lens"),
    "jpeg": Weather("compressed too much: blocks and blotches", jpeg, "compression"),
    "noise": Weather("sensor noise that grows with the light", noise, "noise"),
    "tilt": Weather("the camera rolls to one side", tilt, "roll", roll),
}
"""Style by the name it has in a recipe."""


def apply_weather(
    image: NDArray[np.uint8],
    style: str,
    *,
    seed: int,
    strength: float = 1.0,
    depth: Plane | None = None,
    window: Window | None = None,
) -> NDArray[np.uint8]:
    """A photograph in another weather.

    Args:
        image: RGB, H×W×3, of any size.
        style: a name in `WEATHER`. Where it moves pixels, the edge goes on beyond the picture; use
            `apply_weather_pair` where there is a label.
        seed: of lamps, streaks, flakes and noise; the same seed gives the same picture.
        strength: how much of it; 0 changes nothing, 1 is a clear case.
        depth: distance of each pixel in metres, H×W; guessed from the picture where it is not given.
        window: top, left, height and width of the image as fractions of the photograph that it was cut from, so that the
            horizon is where it was; without it, the image is the whole.

    Returns:
        RGB of the same size.

    Raises:
        UsageError: the style is unknown, the strength not in 0..1, or the window not inside the photograph.
    """
    weather = lookup(style, WEATHER, "weather style")
    if not 0 <= strength <= 1:
        raise UsageError(f"the strength of the weather is {strength}: it must lie in 0 (none) to 1 (a clear case)")
    view = View(image, depth=depth, window=window)
    if strength == 0:
        return image.copy()
    return to_photo(weather.function(view, strength, np.random.default_rng(seed)))


def apply_weather_pair(
    image: NDArray[np.uint8],
    label: NDArray[np.uint8],
    style: str,
    *,
    seed: int,
    strength: float = 1.0,
    depth: Plane | None = None,
    window: Window | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A photograph and its label (one byte per pixel, H×W) in another weather; the other arguments as of `apply_weather`.

    Returns:
        The image, and the label: the one that was given, or where the style moves pixels, a new one that has moved
        along, with 255 where nothing was.

    Raises:
        UsageError: as `apply_weather`, or image and label differ in size.
    """
    if image.shape[:2] != label.shape:
        sizes = f"the image is {image.shape[0]}×{image.shape[1]} pixels and the label {label.shape}"
        raise UsageError(f"{sizes}: they must be equal in size")
    styled = apply_weather(image, style, seed=seed, strength=strength, depth=depth, window=window)
    motion = WEATHER[style].motion
    if motion is None or strength == 0:
        return styled, label
    source = motion(View(image, depth=depth, window=window), strength, np.random.default_rng(seed))
    return styled, move_label(label, source)


__all__ = ["SKY_DISTANCE", "WEATHER", "View", "Weather", "apply_weather", "apply_weather_pair"]
