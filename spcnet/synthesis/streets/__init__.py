"""Generated street scenes with exact labels: the 19 Cityscapes classes in many styles, for training and for tests.

A scene is drawn from `(seed, index)` alone and coloured from `(seed, index, style)`: the same scene in two styles has
the same labels and the same depth to the last pixel, so that a style is a domain in the purest sense.

    >>> scene = generate(0, style="game")
    >>> scene.image.shape, scene.label.shape
    ((128, 256, 3), (128, 256))
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spcnet.errors import UsageError, unknown_name_error
from spcnet.synthesis.streets.dice import Dice
from spcnet.synthesis.streets.render import render
from spcnet.synthesis.streets.scene import draw_scene
from spcnet.synthesis.streets.styles import LOOKS
from spcnet.synthesis.streets.unknown import place_unknown

SMALLEST, LARGEST = 16, 4096
"""Bounds of a scene's height and width in pixels."""

_UNKNOWN_STREAM = 2**32 + 1
"""Of random numbers; above those of the styles."""

STYLES: dict[str, str] = {name: look.about for name, look in LOOKS.items()}
"""One line about each style, by name."""


@dataclass(frozen=True)
class Scene:
    """A street scene."""

    image: NDArray[np.uint8]
    """RGB, H×W×3."""
    label: NDArray[np.uint8]
    """Cityscapes train id of each pixel, H×W; 255 is void."""
    depth: NDArray[np.float32]
    """Distance along the camera's axis in metres, H×W; 1000 for the sky."""


def generate(
    index: int, *, style: str, seed: int = 0, size: tuple[int, int] = (128, 256), unknown: bool = False
) -> Scene:
    """Draw one street scene.

    Args:
        index: number of the scene, 0 or more.
        style: name in `STYLES`; decides colours, light and weather, never geometry.
        seed: number of the world the scenes come from, 0 or more.
        size: height and width in pixels.
        unknown: put objects that no class names onto the road; their label is `unknown.UNKNOWN_OBJECT`.

    Returns:
        Image, label and depth; the same for the same arguments, whatever was drawn before.

    Raises:
        UsageError: the style is unknown, or a number is out of range.
    """
    if style not in LOOKS:
        raise unknown_name_error(style, list(STYLES), "streets style")
    height, width = size
    if not (SMALLEST <= height <= LARGEST and SMALLEST <= width <= LARGEST):
        raise UsageError(
            f"a street scene of {height}×{width} pixels: height and width must each lie in {SMALLEST}..{LARGEST}"
        )
    if index < 0 or seed < 0:
        raise UsageError(f"street scene {index} of seed {seed}: both must be 0 or more")
    add = None
    if unknown:
        dice = Dice(seed, index, _UNKNOWN_STREAM)
        add = lambda stage, canvas, plan: place_unknown(stage, canvas, dice, plan)  # noqa: E731
    drawing = draw_scene(Dice(seed, index, 0), height, width, add=add)
    return Scene(*render(drawing, style, Dice(seed, index, 1 + zlib.crc32(style.encode()))))


__all__ = ["STYLES", "Scene", "generate"]
