"""The light on a street: too much, too little, shadows, a low sun, dusk, night."""

import numpy as np

from spcnet.synthesis.weather.view import (
    Picture,
    View,
    blur,
    canvas,
    drawn,
    grain,
    luma,
    mix,
    ramp,
    rgb,
    saturate,
    smooth_noise,
)


def brightness(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Exposed for too long: everything lighter, and what was light burnt out."""
    gain = 1 + rng.uniform(0.6, 0.9) * strength
    bright = np.float32(gain) * view.image
    bright += np.float32(0.07 * strength)
    return bright


def darkness(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Exposed for too short: dark, the shadows darkest, and the sensor's noise begins to show."""
    lost = strength * rng.uniform(0.75, 0.85)
    dark = view.image * (np.float32(1 - lost) + np.float32(0.35 * lost) * view.image)
    for rows, columns, noise in grain(view, rng):
        dark[:, rows, columns] += np.float32(0.012 * strength) * noise
    return dark


def shadow(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Shadows on the street of what stands beside it: straight ones of houses, ragged ones of trees.

    The sun is gone there and the sky still shines, so that a shadow is also a little bluer.
    """
    low = view.coarse
    sheet, pen = canvas(low)
    for side in (-1, 1) if rng.random() < 0.5 else (float(rng.choice([-1, 1])),):
        near, far = rng.uniform(0.35, 1.1), rng.uniform(0.02, 0.12)
        reach = rng.uniform(0.1, 0.9)
        middle = rng.uniform(0.25, 0.75) * (near - far) + far
        # Five corners, from the street's side to as far into it as the shadow falls.
        corners = [
            (side * 1.3, far),
            (side * (1 - reach) * 0.4, far + 0.02),
            (side * (1 - 1.2 * reach), middle),
            (side * (1 - rng.uniform(0.6, 1.3) * reach), near),
            (side * 1.6, near + 0.1),
        ]
        pen.polygon([low.pixel(x, y) for x, y in corners], fill=255)
    for _ in range(rng.integers(1, 3)):  # across the street, as of a house or a bridge
        y = rng.uniform(0.08, 0.7)
        thick, tilt = rng.uniform(0.25, 0.6) * y + 0.04, rng.uniform(-0.25, 0.25) * y
        corners = [(-1.2, y - tilt), (1.2, y + tilt), (1.2, y + tilt + thick), (-1.2, y - tilt + thick)]
        pen.polygon([low.pixel(x, y) for x, y in corners], fill=255)
    leaves = rng.uniform(0, 0.3)
    shade = drawn(sheet, 2.2 * low.unit)
    shade += np.float32(leaves) * smooth_noise(low, 36, rng) * ramp(shade, 0.0, 0.5)
    shade = view.spread(ramp(shade, 0.4, 0.6))
    shade *= np.float32(strength)
    shaded = view.image.copy()
    for channel, taken in zip(shaded, (0.66, 0.62, 0.54), strict=True):
        channel *= 1 - np.float32(taken) * shade
    return shaded


def sun_flare(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """The sun shines into the lens: a glaring source with rays, a veil over all, and ghosts in a row through the middle.

    The ghosts are mirror images of the source between the lens's glasses.
    """
    low = view.coarse
    sun_x, sun_y = rng.uniform(-0.75, 0.75), rng.uniform(-0.85, -0.25)
    across, down = _from(low, sun_x, sun_y)
    far = across**2 + down**2
    rays, turn = int(rng.integers(5, 9)), rng.uniform(0, np.pi)
    star = np.cos(np.arctan2(down, across) * np.float32(rays) + np.float32(turn)) ** 2
    disc = np.exp(far * np.float32(-1 / 0.05**2))
    halo = 1 / (1 + far / np.float32(0.16**2))
    halo += np.float32(0.5) * star**8 / (1 + far / np.float32(0.22**2))
    light = rgb(2.4, 2.3, 2.1) * disc + rgb(1.05, 0.95, 0.78) * halo + rgb(0.22, 0.20, 0.17)
    for step in np.linspace(0.45, 2.3, int(rng.integers(6, 9))).tolist():
        step += rng.uniform(-0.1, 0.1)
        radius = rng.uniform(0.02, 0.085) * (0.6 + 0.5 * step)
        # From the source through the middle of the photograph, which lies a little below the horizon.
        ghost_x, ghost_y = sun_x * (1 - step), sun_y + (0.09 - sun_y) * step
        across, down = _from(low, ghost_x, ghost_y)
        far = np.sqrt(across**2 + down**2) / np.float32(radius)
        edge = (1 - ramp(far, 0.88, 1.06)) * (np.float32(0.55) + np.float32(0.45) * np.minimum(far, 1) ** 4)
        tint = rgb(rng.uniform(0.3, 1), rng.uniform(0.4, 1), rng.uniform(0.2, 0.9))
        light += np.float32(0.26) * tint * edge
    light *= np.float32(strength)
    np.clip(light, 0, 1, out=light)
    # Screen: light is added to light, and the sensor's range ends at 1.
    lit = 1 - view.image
    for rows, part in view.bands(light):
        lit[:, rows] *= part
    lit += view.image
    return lit


def dusk(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """The sun is below the horizon: the sky glows from orange to violet, and everything below it is dim.

    Shadows take the colour of the zenith and highlights that of the glow (split toning).
    """
    glow, zenith = rgb(0.98, 0.58, 0.28), rgb(0.36, 0.27, 0.46)
    # Darker, most so in between black and white: close to a power of 1.3.
    dim = np.float32(0.18) * view.image
    dim += np.float32(0.42)
    dim *= view.image
    dim = saturate(dim, luma(dim), 0.7)
    tone = view.luma**2 * (3 - 2 * view.luma)
    veil = np.float32(0.18) * np.exp(-((view.y / 0.35) ** 2))
    above = view.horizon
    lit = np.float32(0.85) + np.float32(0.3) * view.luma[:above]
    lit += np.float32(0.05) * smooth_noise(view, 6, rng)[:above]
    rise = np.sqrt(-view.y[:above])
    for channel, shadows, highlights, low, high in zip(
        dim, (0.80, 0.72, 1.0), (0.55, 0.20, -0.38), glow.ravel(), zenith.ravel(), strict=True
    ):
        channel *= np.float32(highlights) * tone + np.float32(shadows)
        channel *= 1 - veil
        channel += veil * low
        sky = (low + (high - low) * rise) * lit
        sky -= channel[:above]
        sky *= view.sky[:above]
        channel[:above] += sky
    return mix(view.image, dim, strength)


def night(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """A moonlit street seen by a car's headlights, between street lamps.

    In linear light each surface is lit by a faint blue sky, by headlights that fade with the square of the distance,
    and by warm lamps. Rear lights shine by themselves. The sensor adds noise, which shows in the dark.
    """
    low = view.coarse
    headlights = np.exp(-((low.x / 0.6) ** 2)) * ramp(low.y, -0.25, 0.2) / (1 + (low.depth / 16) ** 2)
    light = rgb(0.028, 0.042, 0.078) + headlights * rgb(1.15, 1.05, 0.86)
    glow = np.zeros_like(light)
    for _ in range(rng.integers(3, 6)):
        nearness = rng.uniform(0.25, 1.0)
        color = rgb(1.0, rng.uniform(0.70, 0.85), rng.uniform(0.35, 0.60))
        x = float(rng.choice([-1, 1])) * (0.12 + 0.75 * nearness * rng.uniform(0.8, 1.2))
        across, down = (low.x - x) * low.aspect, low.y + 0.75 * nearness
        far = (across**2 + down**2) / np.float32(0.05 * nearness) ** 2
        glow += color / (1 + far)
        light += color * np.float32(0.12 * nearness) / (1 + far / 100)
    red, green, blue = low.image
    redness = np.clip(red - np.maximum(green, blue), 0, 1)
    # What is red over a large area is paint.
    rear = ramp(redness - blur(redness, 5 * low.unit), 0.12, 0.3) * ramp(low.y, -0.2, 0.05)
    glow += (rear + 2 * blur(rear, 2.5 * low.unit)) * rgb(0.7, 0.03, 0.02)
    light *= 1 - np.float32(0.18) * (low.x**2 + low.y**2)
    glow *= np.float32(0.6)
    # Squares and roots stand for the display's gamma of 2.2.
    dark = view.image**2
    for rows, part in view.bands(light):
        dark[:, rows] *= part
    dark[:, : view.horizon] *= 1 - np.float32(0.8) * view.sky[: view.horizon]
    for rows, part in view.bands(glow):
        dark[:, rows] += part
    np.sqrt(dark, out=dark)
    for rows, columns, noise in grain(view, rng):
        dark[:, rows, columns] += np.float32(0.022) * noise
    violet = smooth_noise(view, 40, rng)
    dark[0] += np.float32(0.012) * violet
    dark[2] += np.float32(0.02) * violet
    return mix(view.image, dark, strength)


def _from(view: View, x: float, y: float) -> tuple[Picture, Picture]:
    """How far each column and each row is from a place, in heights of the photograph: 1×W and H×1."""
    column, row = view.pixel(x, y)
    across = (np.arange(view.width, dtype=np.float32) + np.float32(0.5 - column))[None]
    down = (np.arange(view.height, dtype=np.float32) + np.float32(0.5 - row))[:, None]
    height = np.float32(view.height / view.rows)
    return across / height, down / height
