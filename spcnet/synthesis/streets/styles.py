"""How a street may look: palettes, light, weather and finish of each style, all as data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

Palette = Mapping[str, Sequence[str]]

PALETTES: dict[str, Palette] = json.loads(files(__package__).joinpath("palettes.json").read_text("utf-8"))
"""Albedo of each material as RGB in hexadecimal, by palette; a part takes one of the colours.

`real` has every material in neutral daylight; the others what differs from it: `toy` plastic colours, `game` what a
computer game paints warmer and cleaner than the world is, the rest a time of day or a weather.
"""


@dataclass(frozen=True)
class Style:
    """Everything a style decides. Ranges are (low, high) and drawn again for each scene."""

    about: str
    palettes: tuple[str, ...] = ("real",)
    """Names in `PALETTES`; later ones override earlier ones."""
    skies: tuple[tuple[str, str], ...] = (("6f97c4", "cdd9e2"),)
    """Colours at the zenith and at the horizon."""
    clouds: tuple[float, float] = (0.1, 0.8)
    """Fraction of the sky that clouds cover."""
    cloud_colours: tuple[str, str] = ("f4f4f2", "b4bac2")
    """Lit and shaded side of clouds."""
    sun_colour: str = "fff1d8"
    sun: tuple[float, float] = (0.45, 0.7)
    """Strength of direct light."""
    elevation: tuple[float, float] = (25, 60)
    """Height of the sun in degrees."""
    ambient_colour: str = "dfe8f4"
    ambient: tuple[float, float] = (0.5, 0.68)
    """Strength of the light from the sky."""
    texture: float = 1.0
    """Factor on every material's texture."""
    haze: tuple[float, float] = (500.0, 1500.0)
    """Distance in metres at which a thing has lost 63 % of its contrast."""
    haze_colour: str | None = None
    """Colour of the air; that of the horizon if not given."""
    lit_windows: tuple[float, float] = (0.0, 0.0)
    """Fraction of windows with light behind them."""
    lamps: float = 0.0
    """Strength of the glow around lamps."""
    beams: float = 0.0
    """Strength of the camera car's head lamps and of street lamps on what they shine on."""
    wet: float = 0.0
    """How much wet ground mirrors."""
    streaks: tuple[float, float] = (0.0, 0.0)
    """Rain streaks per thousand pixels."""
    snow: float = 0.0
    """How thick snow lies on what faces up."""
    flakes: tuple[float, float] = (0.0, 0.0)
    """Snow flakes per thousand pixels."""
    outline: float = 0.0
    """Darkness of drawn outlines."""
    steps: int = 0
    """Number of flat tones of foliage; 0 leaves it smooth."""
    exposure: tuple[float, float] = (0.9, 1.1)
    contrast: tuple[float, float] = (0.95, 1.1)
    saturation: tuple[float, float] = (0.9, 1.05)
    cast: tuple[str, ...] = ("ffffff",)
    """Colour casts of the camera."""
    grain: float = 0.012
    """Standard deviation of the sensor's noise (fraction of white)."""
    vignette: tuple[float, float] = (0.0, 0.2)


_DAY = Style("realistic daylight")

LOOKS: dict[str, Style] = {
    "game": replace(
        _DAY, about="computer game: warm sun, crisp shadows, textured surfaces, rich colours", palettes=("real", "game"),
        skies=(("4f8fd4", "c4d8e8"), ("6ba2dc", "e6dfcc"), ("3f7cc0", "b4cede"), ("8fb0d0", "e8e4d8"), ("aab8c4", "dde0e0")),
        clouds=(0.05, 0.75), sun_colour="ffe6ba", sun=(0.35, 0.75), ambient_colour="d4def0", ambient=(0.45, 0.65),
        haze=(300, 1200), contrast=(1.0, 1.2), saturation=(0.95, 1.2), exposure=(0.85, 1.3),
        cast=("ffffff", "fff6e8", "eef4ff", "fffaf0", "f0faf2", "ffffff"), grain=0.012,
    ),
    "toy": replace(
        _DAY, about="toy town: flat bright plastic colours with drawn outlines", palettes=("real", "toy"),
        skies=(("58b8f8", "b8e8ff"), ("70c8ff", "e0f4ff"), ("4aa8f0", "ffe8c0")), clouds=(0.2, 0.5),
        cloud_colours=("ffffff", "e8f4ff"), sun_colour="ffffff", sun=(0.3, 0.45), ambient_colour="ffffff", ambient=(0.66, 0.74),
        texture=0.12, haze=(900, 3000), outline=0.6, steps=4, exposure=(0.98, 1.06), contrast=(1.0, 1.08),
        saturation=(1.0, 1.2), grain=0.0, vignette=(0.0, 0.05),
    ),
    "overcast": replace(
        _DAY, about="grey day: flat light from a closed sky, hardly a shadow",
        skies=(("b4b8bc", "d8dada"), ("9aa0a6", "c8cccc"), ("c8cacc", "e6e6e4")), clouds=(0.9, 1.0),
        cloud_colours=("d8dadc", "a0a5aa"), sun=(0.0, 0.08), ambient_colour="f0f4f8", ambient=(0.75, 0.95),
        haze=(250, 800), contrast=(0.85, 1.05), saturation=(0.6, 0.85), cast=("ffffff", "f0fff4", "f4f8ff"), grain=0.016,
    ),
    "dusk": replace(
        _DAY, about="sunset: low orange sun, long shadows, a glowing horizon", palettes=("real", "dusk"),
        skies=(("3c4a78", "f09a58"), ("50557c", "f4b878"), ("2c3864", "d8704c"), ("6a6a8c", "f8c88c")), clouds=(0.2, 0.7),
        cloud_colours=("f4a874", "6a5a74"), sun_colour="ff9a4c", sun=(0.4, 0.7), elevation=(4, 13), ambient_colour="a8a0c4",
        ambient=(0.36, 0.52), haze=(120, 500), lit_windows=(0.03, 0.2), lamps=0.45, beams=0.12, exposure=(0.85, 1.15),
        contrast=(1.0, 1.15), saturation=(0.85, 1.1), cast=("ffeede", "ffe4d0", "fff0f0"), grain=0.018, vignette=(0.1, 0.35),
    ),
    "night": replace(
        _DAY, about="night: dark sky, lit windows, head, tail and street lamps", palettes=("real", "night"),
        skies=(("06080f", "1c1c26"), ("0a0d18", "2c2622"), ("04060a", "141a28")), clouds=(0.0, 0.6),
        cloud_colours=("2c2a2c", "12141c"), sun_colour="8090c0", sun=(0.01, 0.05), ambient_colour="8a9cc8", ambient=(0.10, 0.18),
        haze=(250, 800), lit_windows=(0.15, 0.5), lamps=0.9, beams=0.55, exposure=(0.75, 1.05), contrast=(1.0, 1.15),
        saturation=(0.75, 1.0), cast=("ffeed8", "ffe4c4", "f0f4ff"), grain=0.028, vignette=(0.15, 0.4),
    ),
    "fog": replace(
        _DAY, about="fog that thickens with distance", skies=(("c8ccce", "d0d3d4"), ("b4b8ba", "bec2c3"), ("d8d8d6", "dededc")),
        clouds=(0.0, 0.1), cloud_colours=("d8dadc", "c8ccd0"), sun=(0.0, 0.05), ambient_colour="f0f4f4", ambient=(0.75, 0.9),
        haze=(18, 75), lit_windows=(0.0, 0.1), lamps=0.35, contrast=(0.8, 0.95), saturation=(0.5, 0.8), grain=0.014,
    ),
    "rain": replace(
        _DAY, about="rain: dark sky, wet mirroring road, streaks, lamps on", palettes=("real", "rain"),
        skies=(("767c84", "a4a9ac"), ("5c636c", "90969a"), ("8c9196", "b4b7b8")), clouds=(0.9, 1.0),
        cloud_colours=("9a9fa4", "666c74"), sun=(0.0, 0.03), ambient_colour="e4ecf4", ambient=(0.5, 0.72), haze=(70, 260),
        lit_windows=(0.05, 0.3), lamps=0.6, beams=0.15, wet=1.0, streaks=(3.0, 9.0), contrast=(0.8, 1.0),
        saturation=(0.5, 0.8), cast=("f4f8ff", "ffffff", "f0faf8"), grain=0.018, vignette=(0.1, 0.3),
    ),
    "snow": replace(
        _DAY, about="snowfall: white ground and roofs, pale air, flakes", palettes=("real", "snow"),
        skies=(("c4c9d0", "d8dce0"), ("b0b6be", "c8ccd2"), ("d2d6da", "e2e5e8")), clouds=(0.9, 1.0),
        cloud_colours=("d8dce0", "b8bec6"), sun=(0.0, 0.06), ambient_colour="eef3fa", ambient=(0.72, 0.92), haze=(70, 260),
        lit_windows=(0.02, 0.2), lamps=0.3, snow=0.85, flakes=(3.0, 14.0), contrast=(0.85, 1.0), saturation=(0.5, 0.75), grain=0.014,
    ),
}  # fmt: skip
"""Every style by name."""
