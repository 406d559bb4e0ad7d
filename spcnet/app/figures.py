"""What a network saw, in pictures, words and bars: HTML that needs no script, for light and dark pages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.formatting import percent, whole_percent
from spcnet.glossary import FIGURES, Layers, words_of
from spcnet.inference.ood import OODScore
from spcnet.inference.visualize import STYLE_COLORS, overlay
from spcnet.labels import IGNORE, LabelSpace
from spcnet.reports.html import css_rgb, render

SHOWN_WIDTH = 1024
"""Pixels that a picture is shown with at least; a smaller one is enlarged, so that its pixels are not smeared."""


@dataclass(frozen=True)
class Side:
    """What one network has to say about a picture or a video."""

    name: str
    """Of the network."""
    about: str
    """Its method and backbone."""
    space: LabelSpace
    fractions: tuple[float, ...]
    """Of each class in the pixels, 0..1."""
    figures: Mapping[str, Layers]
    """What the network tells beside the classes, as `spcnet.inference.results.Prediction` has it."""
    sources: tuple[str, ...]
    """Names of the sources; may be fewer than the network has."""
    ood: OODScore | None
    """None without a fitted OOD detector."""
    seconds: float
    """That the network took."""
    engine: str
    """What ran it, and in which precision where that is not single."""
    frames: int = 0
    """Of a video; 0 for a picture."""


def class_fractions(class_map: NDArray[np.uint8], space: LabelSpace) -> tuple[float, ...]:
    """Fraction of each class in the pixels of a class map (H×W), 0..1."""
    pixels = np.bincount(class_map.reshape(-1), minlength=IGNORE + 1)[: len(space)]
    return tuple((pixels / class_map.size).tolist())


def shown(
    image: NDArray[np.uint8],
    class_map: NDArray[np.uint8] | None,
    space: LabelSpace | None,
    *,
    opacity: float,
    width: int = SHOWN_WIDTH,
) -> NDArray[np.uint8]:
    """A picture (H×W×3, RGB) under the colours of its classes, brought to a width at least; without classes the picture.

    Args:
        image: the picture.
        class_map: class of each of its pixels, or None.
        space: of the classes.
        opacity: of the colours, 0..1.
        width: in pixels; the picture is enlarged by a whole number.
    """
    times = -(-width // image.shape[1])
    if times > 1:
        size = (image.shape[1] * times, image.shape[0] * times)
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        if class_map is not None:
            class_map = class_map.repeat(times, axis=0).repeat(times, axis=1)
    if class_map is None or space is None:
        return image
    return overlay(image, class_map, space, opacity=opacity)


def captions(left: str, right: str) -> str:
    """What lies on the two sides of the slider."""
    return f'<div class="sides"><span><b>Left</b> {escape(left)}</span><span><b>Right</b> {escape(right)}</span></div>'


def facts(sides: Sequence[Side], *, note: str = "") -> str:
    """Everything that is named below the picture, the note first."""
    spaces = {side.space.classes for side in sides}
    groups = [list(sides)] if len(spaces) == 1 else [[side] for side in sides]
    # The largest fraction of each class, and the classes with pixels by that.
    filters: dict[str, Callable[..., Any]] = {
        "largest": lambda group: list(map(max, zip(*(side.fractions for side in group), strict=True))),
        "by_area": lambda most: sorted((k for k, one in enumerate(most) if one), key=lambda k: -most[k]),
        "figures": lambda side: dict.fromkeys((*FIGURES, *side.figures)),
        "level": lambda ood: "usual" if ood.percentile < 0.9 else "unusual" if ood.score < 5 else "strange",
        "number": lambda value: f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}",
        "rgb": css_rgb,
        "words": words_of,
        "percent": percent,
        "whole_percent": whole_percent,
    }
    return render("facts", filters=filters, sides=sides, groups=groups, note=note, colors=STYLE_COLORS)
