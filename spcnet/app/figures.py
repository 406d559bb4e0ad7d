"""What a network saw, in pictures, words and bars: HTML that needs no script, for light and dark pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.formatting import percent, whole_percent
from spcnet.glossary import FIGURES, Layers, words_of
from spcnet.inference.ood import OODScore
from spcnet.inference.visualize import STYLE_COLORS, overlay
from spcnet.labels import IGNORE, LabelSpace

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
    """Everything that is named below the picture.

    Args:
        sides: of one or two networks.
        note: said first.
    """
    remark = f'<p class="note">{escape(note)}</p>' if note else ""
    cards = "".join(f'<section class="network">{_card(side)}</section>' for side in sides)
    spaces = {side.space.classes for side in sides}
    tables = [_areas(sides)] if len(spaces) == 1 else [_areas([side]) for side in sides]
    return f'<div class="facts">{remark}<div class="networks">{cards}</div>{"".join(tables)}</div>'


def _card(side: Side) -> str:
    time = f"{side.seconds * 1000:.0f} ms" if side.seconds < 10 else f"{side.seconds:.0f} s"
    what = (
        f"{side.frames} frames labelled in {time} by {side.engine}"
        if side.frames
        else f"Labelled in {time} by {side.engine}"
    )
    return f"<h3>{escape(side.name)} <small>{escape(side.about)}</small></h3><p>{what}</p>{_ood(side)}{_figures(side)}"


def _ood(side: Side) -> str:
    if side.frames:  # a video has means over its frames, an OOD score is an image's
        return ""
    ood = side.ood
    if ood is None:
        return (
            '<p><b>OOD score</b> <span class="muted">not available: fit a detector with <code>spcnet ood fit</code>'
            "</span></p>"
        )
    times = "" if ood.times is None else f"; its style is {_number(ood.times)} times as far off as usual"
    level = "usual" if ood.percentile < 0.9 else "unusual" if ood.score < 5 else "strange"
    known = "all known images" if ood.percentile == 1 else f"{min(99.0, 100 * ood.percentile):.0f} % of known images"
    return (
        f'<p><b>OOD score</b> <span class="level {level}">{_number(ood.score)}</span> {level}: above that of '
        f"{known}{times}</p>"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _figures(side: Side) -> str:
    return "".join(_bars(side, name) for name in dict.fromkeys((*FIGURES, *side.figures)))


def _bars(side: Side, figure: str) -> str:
    layers, about = side.figures.get(figure, ()), words_of(figure)
    if not layers:
        return f'<p><b>{about.symbol}</b> <span class="muted">{about.absent}</span></p>'
    names = side.sources
    if len(names) != len(layers[0]):
        names = tuple(f"source {m + 1}" for m in range(len(layers[0])))
    rows = []
    for number, weights in enumerate(layers, start=1):
        pieces = "".join(
            f'<i style="width:{weight:.2%};background:{_rgb(STYLE_COLORS[m % len(STYLE_COLORS)])}"></i>'
            for m, weight in enumerate(weights)
        )
        words = ", ".join(f"{name} {percent(weight, unit=' %')}" for name, weight in zip(names, weights, strict=True))
        rows.append(
            f'<div class="lambda"><span>layer {number}</span><div class="bar" role="img" aria-label="{escape(words)}">'
            f"{pieces}</div></div>"
        )
    keys = "".join(
        f'<li><i style="background:{_rgb(STYLE_COLORS[m % len(STYLE_COLORS)])}"></i>{escape(name)} '
        f'<span class="muted">{" · ".join(percent(layer[m], unit=" %") for layer in layers)}</span></li>'
        for m, name in enumerate(names)
    )
    return f'<p><b>{about.symbol}</b> {about.caption}</p>{"".join(rows)}<ul class="keys">{keys}</ul>'


def _areas(sides: Sequence[Side]) -> str:
    space = sides[0].space
    most = [max(side.fractions[k] for side in sides) for k in range(len(space))]
    there = sorted((k for k in range(len(space)) if most[k]), key=lambda k: -most[k])
    heads = "".join(f'<th scope="col">{escape(side.name)}</th>' for side in sides)
    rows = "".join(
        f'<tr><th scope="row">{_swatch(space, k)}{escape(space.classes[k])}</th>'
        + "".join(_area(side.fractions[k], max(most), space.colors[k]) for side in sides)
        + "</tr>"
        for k in there
    )
    absent = "".join(
        f"<li>{_swatch(space, k)}{escape(space.classes[k])}</li>" for k in range(len(space)) if not most[k]
    )
    rest = f'<p class="muted absent">Not found:</p><ul class="keys">{absent}</ul>' if absent else ""
    return (
        f'<section class="areas"><table><caption>Area of each class</caption><thead><tr><th scope="col">Class</th>{heads}'
        f"</tr></thead><tbody>{rows}</tbody></table>{rest}</section>"
    )


def _area(fraction: float, most: float, color: tuple[int, int, int]) -> str:
    bar = f'<i style="width:{fraction / most:.1%};background:{_rgb(color)}"></i>' if fraction else ""
    return f'<td><span class="figure">{whole_percent(fraction) if fraction else "–"}</span><span class="track">{bar}</span></td>'


def _swatch(space: LabelSpace, k: int) -> str:
    return f'<i class="swatch" style="background:{_rgb(space.colors[k])}"></i>'


def _rgb(color: tuple[int, int, int]) -> str:
    return f"rgb({color[0]},{color[1]},{color[2]})"
