"""Colours for a drawn street: light, surfaces, shadows, air, lamps and weather of one style."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from spcnet.synthesis.streets.canvas import SCALE, Caster, Point
from spcnet.synthesis.streets.dice import Dice
from spcnet.synthesis.streets.materials import MATERIALS, NUMBER
from spcnet.synthesis.streets.scene import Drawing
from spcnet.synthesis.streets.styles import LOOKS, PALETTES, Style
from spcnet.synthesis.streets.textures import LAYERS, LEVELS, SIZE, atlas
from spcnet.synthesis.streets.vehicles import OFF

SHADOWS_END = 45.0
"""Distance in metres from which on nothing throws a shadow: it would be thinner than a pixel."""
SKY_DEPTH = 1000.0
"""Metres written into the depth of the sky."""

Floats = npt.NDArray[np.floating[Any]]


def rgb(text: str) -> Floats:
    """A colour from its six hexadecimal digits, each channel 0..1."""
    return np.array([int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)], dtype=np.float32)


# ------------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class _Palette:
    colours: Floats
    """Material × colour × channel, padded."""
    counts: Floats


@lru_cache(maxsize=32)
def _palette(style: str) -> _Palette:
    merged: dict[str, Sequence[str]] = {}
    for name in LOOKS[style].palettes:
        merged |= PALETTES[name]
    longest = max(len(v) for v in merged.values())
    colours = np.zeros((len(MATERIALS), longest, 3), dtype=np.float32)
    for name, number in NUMBER.items():
        for i, text in enumerate(merged[name]):
            colours[number, i] = rgb(text)
    return _Palette(colours, np.array([len(merged[name]) for name in MATERIALS], dtype=np.float32))


_TEXTURE = np.array([LAYERS.index(m.texture) for m in MATERIALS.values()], dtype=np.int32)
_TEXELS = np.array([SIZE / m.metres for m in MATERIALS.values()], dtype=np.float32)
_STRENGTH = np.array([m.strength for m in MATERIALS.values()], dtype=np.float32)
_WET = np.array([m.wet for m in MATERIALS.values()], dtype=np.float32)

GLOWING: dict[str, tuple[str, float]] = {
    "lamp_red": ("ff4030", 1.0),
    "lamp_amber": ("ffb830", 1.0),
    "lamp_green": ("40ffa0", 1.0),
    "headlamp": ("fff6e0", 1.0),
    "taillamp": ("ff2c20", 0.8),
    "street_lamp": ("ffe2a8", 1.0),
    "display": ("ffb838", 0.7),
    "shop": ("ffe0a8", 0.75),
    "shop_sign": ("ffffff", 0.55),
}
"""Materials that shine of themselves when a style's lamps are on: colour and strength."""
LIT_WINDOWS = ("ffdc9c", "ffc878", "fff0d0", "e8f0ff", "ffb868")


@dataclass(frozen=True)
class Parts:
    """Tables over the parts of a drawing, row by part number."""

    kind: npt.NDArray[np.uint8]
    material: npt.NDArray[np.int32]
    pick: Floats
    shade: Floats
    normal: Floats
    inverse: Floats
    """Coefficients of 1/z on the ray's x, the ray's y and 1."""
    thing: npt.NDArray[np.int32]


def tables(drawing: Drawing) -> Parts:
    """Tables of the parts from the canvas's rows."""
    rows = np.array(drawing.canvas.rows, dtype=np.float32)
    normal, distance = rows[:, 4:7], rows[:, 7:8]
    return Parts(
        rows[:, 0].astype(np.uint8), rows[:, 1].astype(np.int32), rows[:, 2], rows[:, 3], normal,
        normal / np.where(np.abs(distance) < 1e-3, -1e-3, distance), rows[:, 8].astype(np.int32),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ light


@dataclass(frozen=True)
class Weather:
    """What one scene draws from its style's ranges."""

    style: Style
    sun: Floats
    """Unit vector towards the sun."""
    direct: Floats
    """Colour of the sun's light times its strength."""
    ambient: Floats
    zenith: Floats
    horizon: Floats
    cover: float
    haze: float
    air: Floats
    lit: float


def weather(style: Style, dice: Dice) -> Weather:
    """Draw the weather of one scene."""
    elevation, azimuth = math.radians(dice.between(*style.elevation)), dice.between(-math.pi, math.pi)
    sun = np.array(
        [math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)],
        dtype=np.float32,
    )
    zenith, horizon = (rgb(text) for text in dice.pick(style.skies))
    return Weather(
        style, sun, rgb(style.sun_colour) * np.float32(dice.between(*style.sun)),
        rgb(style.ambient_colour) * np.float32(dice.between(*style.ambient)), zenith, horizon,
        dice.between(*style.clouds), math.exp(dice.between(math.log(style.haze[0]), math.log(style.haze[1]))),
        horizon if style.haze_colour is None else rgb(style.haze_colour), dice.between(*style.lit_windows),
    )  # fmt: skip


def part_colours(parts: Parts, style_name: str, now: Weather) -> tuple[Floats, Floats]:
    """Lit colour of each part (N×3), and what it glows with of itself (N×3)."""
    palette, style = _palette(style_name), now.style
    number = parts.material
    place = parts.pick * palette.counts[number]
    albedo = palette.colours[number, place.astype(np.intp)]
    albedo = albedo * (1 + 0.26 * (place % 1 - 0.5))[:, None]
    shade = parts.shade
    leafy = number == NUMBER["foliage"]
    if style.steps:
        shade = np.where(leafy, np.round(shade * style.steps) / style.steps * 0.6 + 0.42, shade)
    if style.snow:
        flat = np.clip((parts.normal[:, 1] - 0.55) * 4, 0, 1)
        lying = flat * (parts.kind != 0) * (parts.kind != 1) * (parts.kind < 20)
        lying = np.where(leafy, np.clip((shade - 0.75) * 1.9, 0, 1), lying) * style.snow
        albedo = albedo + lying[:, None] * (np.float32(0.88) - albedo)
    up = 0.82 + 0.18 * parts.normal[:, 1]
    facing = np.maximum(parts.normal @ now.sun, 0)
    # Leaves and people are round: they catch the sun from any side.
    round_things = leafy | (parts.kind == 11) | (parts.kind == 12) | (parts.kind == 5)
    facing = np.where(round_things, 0.62, facing)
    light = up[:, None] * now.ambient + facing[:, None] * now.direct
    colour = albedo * light * shade[:, None]
    glow = np.zeros_like(colour)
    if style.lamps:
        for name, (text, strength) in GLOWING.items():
            chosen = (number == NUMBER[name]) & (parts.pick != np.float32(OFF))
            glow[chosen] = rgb(text) * np.float32(strength * min(1.0, 0.25 + style.lamps))
        for name in ("shop", "shop_sign"):
            chosen = number == NUMBER[name]
            lit = 0.35 * now.lit + 0.65 * now.lit * (parts.pick[chosen] * 97 % 1)
            glow[chosen] *= lit[:, None] + albedo[chosen] * 0.25
    elif style_name in ("game", "toy"):
        for name in ("lamp_red", "lamp_amber", "lamp_green"):
            chosen = number == NUMBER[name]
            glow[chosen] = albedo[chosen] * 0.5
    if now.lit:
        chosen = (number == NUMBER["window"]) & (parts.pick * 89 % 1 < now.lit)
        which = (parts.pick[chosen] * 613 % 1 * len(LIT_WINDOWS)).astype(np.intp)
        level = 0.35 + 0.55 * (parts.pick[chosen] * 331 % 1)
        glow[chosen] = np.stack([rgb(t) for t in LIT_WINDOWS])[which] * level[:, None]
    colour[0] = 0
    return colour.astype(np.float32), glow.astype(np.float32)


def _hull(points: Sequence[Point]) -> list[Point]:
    """Convex hull."""
    ordered = sorted(points)

    def half(run: Sequence[Point]) -> list[Point]:
        chain: list[Point] = []
        for p in run:
            while len(chain) > 1:
                (x0, y0), (x1, y1) = chain[-2:]
                if (x1 - x0) * (p[1] - y0) > (y1 - y0) * (p[0] - x0):
                    break
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return half(ordered) + half(ordered[::-1])


def shadows(drawing: Drawing, now: Weather) -> tuple[Floats, Floats]:
    """Fraction of the sun that is kept from the ground at each pixel, and of the sky's light close to things (H×W each)."""
    camera = drawing.plan.camera
    size = (camera.width // SCALE, camera.height // SCALE)

    def project(x: float, z: float) -> Point:
        u, v = camera.project(x, 0.0, max(z, 0.4))
        return u / SCALE, v / SCALE

    casters = [c for c in drawing.canvas.casters if c.foot[0][1] < SHADOWS_END]
    reach = 1.0 / max(float(now.sun[1]), 0.07)
    shift = (-float(now.sun[0]) * reach, -float(now.sun[2]) * reach)

    def moved(caster: Caster, height: float) -> list[Point]:
        return [(x + shift[0] * height, z + shift[1] * height) for x, z in caster.foot]

    cast, near = Image.new("L", size, 0), Image.new("L", size, 0)
    if float(now.direct.max()) > 0.1:
        draw = ImageDraw.Draw(cast)
        for caster in sorted(casters, key=lambda c: not c.soft):
            hull = _hull(moved(caster, caster.lift) + moved(caster, caster.height))
            draw.polygon([project(x, z) for x, z in hull], fill=175 if caster.soft else 255)
        cast = cast.filter(ImageFilter.BoxBlur(0.7))
    draw = ImageDraw.Draw(near)
    for caster in casters:
        if not caster.soft and caster.height < 4.5:
            draw.polygon([project(x, z) for x, z in caster.foot], fill=230)
    near = near.filter(ImageFilter.BoxBlur(max(1.0, size[0] / 170)))
    return np.asarray(cast, dtype=np.float32) / 255, np.asarray(near, dtype=np.float32) / 255


# ------------------------------------------------------------------------------------------------ image


@dataclass(frozen=True)
class Geometry:
    """Where in the world each pixel lies (H×W each); `part` is the part its label comes from."""

    part: npt.NDArray[np.int32]
    x: Floats
    y: Floats
    z: Floats
    ray_x: Floats
    ray_y: Floats


def geometry(drawing: Drawing, parts: Parts) -> Geometry:
    """Follow each pixel's ray to the plane of the part it sees."""
    camera = drawing.plan.camera
    part = np.ascontiguousarray(drawing.parts[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE])
    height, width = part.shape
    columns = np.arange(width) * SCALE + SCALE / 2 + 0.5 - camera.centre
    ray_x = (camera.mirror * columns / camera.focal).astype(np.float32)
    ray_y = ((np.arange(height) * SCALE + SCALE / 2 + 0.5 - camera.horizon) / camera.focal).astype(np.float32)
    a, b, c = (parts.inverse[:, i].copy() for i in range(3))
    inverse = a.take(part) * ray_x - b.take(part) * ray_y[:, None] + c.take(part)
    z = 1 / np.clip(inverse, 1 / SKY_DEPTH, 2.0)
    return Geometry(part, ray_x * z, np.float32(camera.eye) - ray_y[:, None] * z, z, ray_x, ray_y)


def surface(parts: Parts, where: Geometry, focal: float, strength: float) -> Floats:
    """Factor on each pixel's brightness from the texture of what is seen there (H×W)."""
    bank = atlas()
    flat = (parts.normal[:, 1] > 0.7).take(where.part)
    number = parts.material.take(where.part)
    scale = _TEXELS.take(number)
    down = np.where(flat, where.z, where.y)
    along = where.x + where.z * ~flat
    # A texel on the ground is foreshortened: the size in between the near and the far axis is looked up.
    slant = np.maximum(where.z * np.float32(0.45), 1) * flat + ~flat
    blur = np.log2(scale * where.z * np.sqrt(slant)) + np.float32(0.35 - math.log2(focal))
    level = np.clip(blur, 0, LEVELS - 1).astype(np.int32)
    scale *= np.float32(1) / (1 << level)
    last = (SIZE >> level) - 1
    row = np.floor(down * scale).astype(np.int32) & last
    column = np.floor(along * scale).astype(np.int32) & last
    offset = bank.offsets.ravel().take((_TEXTURE * LEVELS).take(number) + level)
    value = bank.values.take(offset + row * (last + 1) + column)
    value *= (_STRENGTH * np.float32(strength)).take(number)
    value += 1
    factor: Floats = np.maximum(value, np.float32(0.1))
    return factor


def split(samples: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The samples of all pixels, one array per place in a pixel (each H×W)."""
    return [np.ascontiguousarray(samples[i::SCALE, j::SCALE]) for i in range(SCALE) for j in range(SCALE)]


def _mean(table: Floats, samples: Sequence[npt.NDArray[np.int32]]) -> Floats:
    """Look every sample up in a table and average over each pixel."""
    total: Floats = table.take(samples[0], axis=0)
    for sample in samples[1:]:
        total += table.take(sample, axis=0)
    total *= np.float32(1 / len(samples))
    return total


def sky(where: Geometry, now: Weather, dice: Dice, rows: int) -> Floats:
    """The sky in the uppermost rows, as if nothing stood before it (rows×W×3)."""
    style = now.style
    width = where.z.shape[1]
    up = np.clip(-where.ray_y[:rows], 0.0, 1.0)[:, None]
    blend = np.clip(up * np.float32(2.2), 0, 1) ** np.float32(0.7)
    plain = now.horizon + (now.zenith - now.horizon) * blend[:, :, None]
    colour: Floats = np.broadcast_to(plain, (rows, width, 3))
    tile = _clouds()
    lift = 1 / (up + np.float32(0.16))
    row = (lift * np.float32(34) + np.float32(dice.random() * SIZE)).astype(np.int32) & (SIZE - 1)
    column = (where.ray_x[None, :] * lift * np.float32(26) + np.float32(dice.random() * SIZE)).astype(np.int32)
    column &= SIZE - 1
    fine = tile[(row * 3) & (SIZE - 1), (column * 3) & (SIZE - 1)]
    cloud = tile[row, column] * np.float32(0.8) + fine * np.float32(0.3)
    threshold = np.float32(1.5 - 3.2 * now.cover)
    soft = 6.0 if style.steps else 1.1
    cover = np.clip((cloud - threshold) * soft, 0, 1)[:, :, None]
    light, dark = rgb(style.cloud_colours[0]), rgb(style.cloud_colours[1])
    shade = np.clip((cloud - threshold) * np.float32(0.45), 0, 1)[:, :, None]
    clouds = light + (dark - light) * shade
    colour = colour + (clouds - colour) * cover * np.float32(0.9)
    if style.elevation[1] < 20 and now.sun[2] > 0:
        dx = where.ray_x[None, :] - now.sun[0] / now.sun[2]
        dy = -where.ray_y[:rows, None] - now.sun[1] / now.sun[2]
        glow = np.exp(-np.sqrt(dx**2 + dy**2) * np.float32(3.5))[:, :, None]
        colour = colour + glow * rgb(style.sun_colour) * np.float32(0.8)
    return colour


def _beams(drawing: Drawing, where: Geometry, style: Style) -> Floats:
    """Light of the camera car's head lamps and of street lamps on what they shine on (H×W×3)."""
    spread = np.exp(-((where.ray_x * np.float32(2.1)) ** 2))[None, :]
    low = np.clip(1.5 - 0.35 * where.y, 0.12, 1.0)
    ahead = spread * low * np.float32(1.25) / (1 + (where.z / 13) ** 2)
    light = ahead[:, :, None] * rgb("fff4dc")
    lamps = [lamp for lamp in drawing.canvas.lights if lamp.kind == "street"]
    warm = np.zeros_like(where.z)
    for lamp in sorted(lamps, key=lambda lamp: lamp.z)[:4]:
        reach = (where.x - np.float32(lamp.x)) ** 2 + (where.z - np.float32(lamp.z)) ** 2
        reach += (where.y - np.float32(lamp.y)) ** 2 * np.float32(0.6)
        warm += np.float32(0.75 * 34) / (34 + reach)
    light += warm[:, :, None] * rgb("ffc888")
    beams: Floats = light * np.float32(style.beams)
    return beams


HALO: dict[str, tuple[str, float, float]] = {
    "head": ("fff2d8", 0.55, 0.9),
    "tail": ("ff3020", 0.28, 0.6),
    "street": ("ffd69a", 0.7, 0.8),
    "signal_red": ("ff3828", 0.4, 0.8),
    "signal_amber": ("ffb830", 0.4, 0.8),
    "signal_green": ("40ffa0", 0.4, 0.8),
    "display": ("ffb838", 0.2, 0.3),
}
"""Colour, radius in metres and strength of the halo around each kind of lamp."""


def _halos(image: Floats, drawing: Drawing, style: Style, haze: float) -> None:
    """Add the glow around every lamp that is seen."""
    camera = drawing.plan.camera
    height, width, _ = image.shape
    samples = drawing.parts
    for lamp in drawing.canvas.lights:
        u, v = int(lamp.sample[0]), int(lamp.sample[1])
        around = samples[max(0, v - 1) : v + 2, max(0, u - 1) : u + 2]
        if not (0 <= u < camera.width and 0 <= v < camera.height) or not (around == lamp.part).any():
            continue
        text, metres, strength = HALO[lamp.kind]
        radius = min(max(metres * camera.focal / SCALE / lamp.z, height / 60), height / 9)
        reach = int(radius * 3.2) + 1
        x, y = u / SCALE, v / SCALE
        x0, x1 = max(0, int(x) - reach), min(width, int(x) + reach)
        y0, y1 = max(0, int(y) - reach), min(height, int(y) + reach)
        if x1 <= x0 or y1 <= y0:
            continue
        dx = (np.arange(x0, x1, dtype=np.float32) + 0.5 - x) / radius
        dy = (np.arange(y0, y1, dtype=np.float32) + 0.5 - y) / radius
        fall = np.exp(-dy * dy)[:, None] * np.exp(-dx * dx)[None, :]
        wide = np.maximum(1 - (dy * dy)[:, None] / 9 - (dx * dx)[None, :] / 9, 0) ** 2
        bright = strength * style.lamps * math.exp(-lamp.z / max(haze, 60))
        image[y0:y1, x0:x1] += ((fall + 0.16 * wide) * np.float32(bright))[:, :, None] * rgb(text)


def _mirror(image: Floats, parts: Parts, where: Geometry, drawing: Drawing, style: Style, dice: Dice) -> None:
    """Wet ground: what stands above the horizon shows again below it, blurred and rippled."""
    height, width, _ = image.shape
    horizon = drawing.plan.camera.horizon / SCALE
    first = min(max(0, int(horizon) + 1), height - 2)
    rows = np.arange(first, height, dtype=np.float32)[:, None]
    ripple = (dice.array(height - first, width) - np.float32(0.5)) * (rows - np.float32(horizon)) * np.float32(0.12)
    source = np.clip(np.float32(2 * horizon - 2) - rows + ripple, 0, height - 1).astype(np.intp)
    seen = image.reshape(-1, 3).take(source * width + np.arange(width), axis=0)
    seen[1:] += seen[:-1]
    seen[1:] *= np.float32(0.5)
    tile, x, z = _clouds(), where.x[first:], where.z[first:]
    puddle = tile[(z * 18).astype(np.int32) & (SIZE - 1), (x * 22).astype(np.int32) & (SIZE - 1)]
    # Water mirrors more where one looks along it.
    grazing = np.clip(1.15 - 2.2 * where.ray_y[first:], 0.4, 1.0)[:, None] * np.float32(style.wet)
    fraction = (_WET[parts.material] * (parts.normal[:, 1] > 0.7)).take(where.part[first:]) * grazing
    fraction *= np.clip(0.5 + 0.3 * puddle, 0.12, 1.0)
    image[first:] += (seen - image[first:]) * fraction[:, :, None]


def _clouds() -> Floats:
    """The smoothest texture at its largest size."""
    bank = atlas()
    return bank.values[bank.offsets[LAYERS.index("cloud"), 0] :][: SIZE * SIZE].reshape(SIZE, SIZE)


def _rain(image: Floats, now: Weather, dice: Dice) -> Floats:
    height, width, _ = image.shape
    count = int(dice.between(*now.style.streaks) * height * width / 1000)
    veil = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(veil)
    slant = dice.between(-0.25, 0.25)
    for x, y, length, bright in dice.array(count, 4).tolist():
        left, top, drop = x * width, y * height, height * (0.02 + 0.08 * length)
        draw.line((left, top, left + slant * drop, top + drop), fill=int(25 + 65 * bright))
    fraction = np.asarray(veil, dtype=np.float32)[:, :, None] / 255
    return image + (np.float32(0.85) * now.horizon + np.float32(0.1) - image) * fraction


def _flakes(image: Floats, now: Weather, dice: Dice) -> Floats:
    height, width, _ = image.shape
    count = int(dice.between(*now.style.flakes) * height * width / 1000)
    veil = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(veil)
    for across, down, large, bright in dice.array(count, 4).tolist():
        x, y, radius = across * width, down * height, height / 128 * (0.35 + 1.5 * large**5)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(90 + 130 * bright))
    fraction = np.asarray(veil.filter(ImageFilter.BoxBlur(0.4)), dtype=np.float32)[:, :, None] / 255
    return image + (np.float32(0.96) - image) * fraction


def _outlines(drawing: Drawing, parts: Parts, z: Floats) -> Floats:
    """Fraction of ink at each pixel where one thing ends and another begins (H×W)."""
    ink = np.zeros(drawing.parts.shape, dtype=np.float32)
    for table, weight in ((parts.thing, 1.6), (parts.material, 0.35)):
        seen = table.take(drawing.parts)
        edge = np.zeros(seen.shape, dtype=bool)
        edge[:, 1:] = seen[:, 1:] != seen[:, :-1]
        edge[1:] |= seen[1:] != seen[:-1]
        ink += edge * np.float32(weight / SCALE**2)
    first, *others = split(ink)
    for other in others:
        first += other
    shown: Floats = np.minimum(first, 1) * np.clip(22 / z, 0.15, 1)
    return shown


def _finish(image: Floats, style: Style, dice: Dice) -> npt.NDArray[np.uint8]:
    """Exposure, colour cast, saturation, contrast, vignette and grain; then eight bits."""
    height, width, _ = image.shape
    exposure = rgb(dice.pick(style.cast)) * np.float32(dice.between(*style.exposure))
    saturation, contrast = dice.between(*style.saturation), dice.between(*style.contrast)
    luma = np.array([0.3, 0.59, 0.11], dtype=np.float32)
    # Exposure and cast, then saturation, then contrast about the mean: one matrix and one shift.
    mix = contrast * (saturation * np.eye(3) + (1 - saturation) * luma[:, None]) * exposure[:, None]
    pivot = (1 - contrast) * max(0.05, float((image.mean(axis=(0, 1)) * exposure) @ luma))
    image = image @ mix.astype(np.float32)
    image += np.float32(pivot)
    dark = dice.between(*style.vignette)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    image *= (1 - np.float32(dark * 0.5) * (x * x + y * y))[:, :, None]
    if style.grain:
        noise = dice.array(height, width, 3)
        noise -= np.float32(0.5)
        noise *= np.float32(style.grain * math.sqrt(12))
        image += noise
    image *= 255
    image += np.float32(0.5)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def render(
    drawing: Drawing, style_name: str, dice: Dice
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Colour a drawing in a style.

    Returns:
        Image (H×W×3), label (H×W, train ids, 255 void), and depth in metres (H×W); the last two do not depend on the style.
    """
    style = LOOKS[style_name]
    now = weather(style, dice)
    parts = tables(drawing)
    where = geometry(drawing, parts)
    focal = drawing.plan.camera.focal / SCALE
    colour, glow = part_colours(parts, style_name, now)
    lit = colour if style.beams else colour + glow
    samples = split(drawing.parts)
    image = _mean(lit, samples)
    ground = (parts.normal[:, 1] > 0.7).take(where.part)
    texture = surface(parts, where, focal, style.texture)
    # Light fails towards the foot of walls and in the depth of the street.
    foot = np.float32(0.8) + np.float32(0.2) * np.clip(where.y * np.float32(0.5), 0, 1)
    moving = (parts.kind > 10).take(where.part)
    factor = texture * np.where(ground | moving, np.float32(1), foot)
    cast, near = shadows(drawing, now)
    sunny = now.direct * max(float(now.sun[1]), 0.0)
    fraction = sunny / (sunny + now.ambient)
    factor *= 1 - np.float32(0.62) * near * ground
    image *= factor[:, :, None]
    if cast.any():
        image *= 1 - (cast * ground)[:, :, None] * fraction
    if style.beams:
        bare = colour / np.maximum(now.ambient, 0.02)
        image += _mean(bare, samples) * _beams(drawing, where, style) * texture[:, :, None]
        image += _mean(glow, samples)
    clear = np.exp(where.z * np.float32(-1 / now.haze))[:, :, None]
    image *= clear
    is_sky = np.zeros(len(parts.kind), dtype=np.float32)
    is_sky[0] = 1
    open_sky = _mean(is_sky, samples)[:, :, None]
    image += (1 - clear) * (1 - open_sky) * now.air
    rows = int(np.flatnonzero(open_sky.any(axis=(1, 2))).max(initial=-1)) + 1
    image[:rows] += open_sky[:rows] * sky(where, now, dice, rows)
    if style.outline:
        image *= 1 - np.float32(style.outline) * _outlines(drawing, parts, where.z)[:, :, None]
    if style.lamps:
        _halos(image, drawing, style, now.haze)
    if style.wet:
        _mirror(image, parts, where, drawing, style, dice)
    if style.streaks[1]:
        image = _rain(image, now, dice)
    if style.flakes[1]:
        image = _flakes(image, now, dice)
    depth = np.where(where.part == 0, np.float32(SKY_DEPTH), where.z)
    return _finish(image, style, dice), parts.kind[where.part], depth.astype(np.float32)
