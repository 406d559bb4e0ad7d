"""Pictures of what a network sees: class maps as numbers and in colour, over the photo, a legend, the mix of styles as bars."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from spcnet.errors import UsageError, unknown_name_error
from spcnet.evaluation.evaluator import label_image
from spcnet.formatting import whole_percent
from spcnet.glossary import Layers, words_of
from spcnet.label_tables import CITYSCAPES_IDS
from spcnet.labels import IGNORE, LabelSpace

Ids = Literal["train", "label", "color"]
"""What the pixels of a written class map are: class ids 0..K-1, Cityscapes' own label ids, or colours."""

STYLE_COLORS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (120, 120, 120),
    (148, 103, 189),
    (140, 86, 75),
)
"""RGB colours of the source styles, in their order; colour-blind eyes distinguish the first seven too (Okabe and Ito, 2008)."""

MIN_SHEET_WIDTH = 480
"""Pixels a sheet is wide at least: smaller photos are shown larger, so that the text below them can be read."""
_MAX_ENLARGED_HEIGHT = 1600

_PAPER, _INK, _FAINT = (255, 255, 255), (34, 34, 34), (110, 110, 110)


def colorize(class_map: npt.NDArray[np.uint8], space: LabelSpace) -> npt.NDArray[np.uint8]:
    """A class map (H×W) in the colours of its space (H×W×3, RGB); pixels of no class are black."""
    table = np.zeros((IGNORE + 1, 3), dtype=np.uint8)
    table[: len(space)] = space.colors
    colored: npt.NDArray[np.uint8] = table[class_map]
    return colored


def class_image(class_map: npt.NDArray[np.uint8], space: LabelSpace, *, ids: Ids = "train") -> Image.Image:
    """A class map (H×W) as an image to write.

    Args:
        class_map: class of each pixel, or 255.
        space: the classes.
        ids: `train` for class ids in a palette image that shows their colours; `label` for Cityscapes' label ids (road 7
            to bicycle 33, no class 0) in a grey image, as the benchmark's server takes them; `color` for RGB.

    Raises:
        UsageError: label ids of a space whose classes Cityscapes does not have.
    """
    if ids == "color":
        return Image.fromarray(colorize(class_map, space))
    if ids == "label":
        return Image.fromarray(label_ids(space)[class_map])
    return label_image(class_map, space)


def check_ids(ids: str, space: LabelSpace) -> None:
    """Refuse what `class_image` cannot write.

    Raises:
        UsageError: see the message.
    """
    if ids not in ("train", "label", "color"):
        raise unknown_name_error(ids, ("train", "label", "color"), "kind of ids")
    if ids == "label":
        label_ids(space)


def label_ids(space: LabelSpace) -> npt.NDArray[np.uint8]:
    """Cityscapes' label id of each class: a table of 256 entries, 0 (unlabelled) for no class.

    Raises:
        UsageError: Cityscapes does not have all classes of the space.
    """
    number = {name: native_id for native_id, name in CITYSCAPES_IDS.items()}
    foreign = [name for name in space.classes if name not in number]
    if foreign:
        raise UsageError(
            f"the label ids of Cityscapes have no {', '.join(foreign)}, which are classes of {space.name}: "
            "use the ids train or color"
        )
    table = np.zeros(IGNORE + 1, dtype=np.uint8)
    table[: len(space)] = [number[name] for name in space.classes]
    return table


def confidence_image(confidence: npt.NDArray[np.floating], *, bits: Literal[8, 16] = 8) -> Image.Image:
    """Fractions 0..1 (H×W) as a grey image of so many bits: 0 black, 1 white."""
    white = 2**bits - 1
    return Image.fromarray((confidence.clip(0, 1) * white + 0.5).astype(np.uint8 if bits == 8 else np.uint16))


def overlay(
    image: npt.NDArray[np.uint8], class_map: npt.NDArray[np.uint8], space: LabelSpace, *, opacity: float
) -> npt.NDArray[np.uint8]:
    """The photo (H×W×3, RGB) with the colours of its classes over it; pixels of no class stay as they are.

    Args:
        image: the photo.
        class_map: class of each of its pixels, or 255.
        space: what the classes look like.
        opacity: 0 shows the photo alone, 1 the colours alone.

    Raises:
        UsageError: the opacity lies outside 0..1, or the class map has another size than the photo.
    """
    if not 0 <= opacity <= 1:
        raise UsageError(f"the opacity of the overlay is {opacity}: it must lie in 0 (photo) .. 1 (colours)")
    if image.shape[:2] != class_map.shape:
        raise UsageError(
            f"the photo has {image.shape[0]}×{image.shape[1]} pixels and the class map {class_map.shape[0]}×"
            f"{class_map.shape[1]}: they must be of one size"
        )
    # In whole numbers: a quarter of the memory of floats and several times as fast.
    weight = round(opacity * 256)
    mixed = image.astype(np.uint16) * (256 - weight) + colorize(class_map, space).astype(np.uint16) * weight
    blended = ((mixed + 128) >> 8).astype(np.uint8)
    return np.where((class_map < len(space))[..., None], blended, image)


def legend(
    space: LabelSpace,
    classes: Sequence[int],
    *,
    fractions: Sequence[float] | None = None,
    width: int = MIN_SHEET_WIDTH,
    text_size: int = 13,
) -> Image.Image:
    """Names of classes beside their colours, in as many columns as fit.

    Args:
        space: names and colours.
        classes: which classes to name, in this order.
        fractions: for each of these the fraction of the picture it covers, 0..1, written after the name.
        width: of the result, in pixels.
        text_size: height of the text, in pixels.
    """
    font = _font(text_size)
    names = [space.classes[k] for k in classes]
    notes = [""] * len(names) if fractions is None else [whole_percent(fraction) for fraction in fractions]
    gap, swatch, line = text_size // 2, text_size, round(text_size * 1.7)
    texts = max((font.getlength(name) for name in names), default=0)
    figures = max((font.getlength(note) for note in notes), default=0)
    column = round(swatch + gap + texts + (gap + figures if figures else 0) + 2 * text_size)
    columns = max(1, min((width - text_size) // column, len(names)))
    rows = -(-len(names) // columns)
    image = Image.new("RGB", (width, max(rows, 1) * line + text_size), _PAPER)
    draw = ImageDraw.Draw(image)
    for place, (k, name, note) in enumerate(zip(classes, names, notes, strict=True)):
        x = text_size + place // rows * column  # down the columns: the order is read from top to bottom
        middle = text_size // 2 + place % rows * line + line // 2
        box = (x, middle - swatch // 2, x + swatch, middle - swatch // 2 + swatch)
        draw.rounded_rectangle(box, radius=3, fill=space.colors[k])
        draw.text((x + swatch + gap, middle), name, fill=_INK, font=font, anchor="lm")
        if note:
            right = x + swatch + gap + texts + gap + figures
            draw.text((right, middle), note, fill=_FAINT, font=font, anchor="rm")
    return image


def style_bar(
    weights: Sequence[float],
    names: Sequence[str],
    *,
    title: str = "",
    width: int = MIN_SHEET_WIDTH,
    text_size: int = 13,
) -> Image.Image:
    """How much each source style explains an image, as one bar: each source's piece is as long as its fraction.

    Args:
        weights: fraction of each source (λ); they sum to 1.
        names: of the sources, in the same order.
        title: what the bar is about, written above it.
        width: of the result, in pixels.
        text_size: height of the text, in pixels.

    Raises:
        UsageError: there are not as many names as weights.
    """
    if len(names) != len(weights):
        raise UsageError(f"there are {len(weights)} style weights and {len(names)} names of sources: give one for each")
    font, line = _font(text_size), round(text_size * 1.7)
    labels = [f"{name}  {whole_percent(weight)}" for name, weight in zip(names, weights, strict=True)]
    rows = _flow([font.getlength(label) + 3 * text_size for label in labels], width - 2 * text_size)
    top = line if title else text_size // 2
    bar = text_size
    image = Image.new("RGB", (width, top + bar + len(rows) * line + text_size // 2), _PAPER)
    draw = ImageDraw.Draw(image)
    if title:
        draw.text((text_size, top // 2), title, fill=_INK, font=font, anchor="lm")
    edges = text_size + np.cumsum([0.0, *weights]) * (width - 2 * text_size)
    for m, (left, right) in enumerate(pairwise(edges)):
        if round(right) > round(left):
            color = STYLE_COLORS[m % len(STYLE_COLORS)]
            draw.rectangle((round(left), top, round(right) - 1, top + bar), fill=color)
    for row, members in enumerate(rows):
        x, middle = float(text_size), top + bar + row * line + line // 2 + 2
        for m in members:
            dot = text_size * 0.35
            center = x + dot
            box = (center - dot, middle - dot, center + dot, middle + dot)
            draw.ellipse(box, fill=STYLE_COLORS[m % len(STYLE_COLORS)])
            draw.text((x + 1.2 * text_size, middle), labels[m], fill=_INK, font=font, anchor="lm")
            x += font.getlength(labels[m]) + 3 * text_size
    return image


def sheet(
    image: npt.NDArray[np.uint8],
    class_map: npt.NDArray[np.uint8],
    space: LabelSpace,
    *,
    opacity: float = 0.5,
    figures: Mapping[str, Layers] | None = None,
    source_names: Sequence[str] = (),
) -> Image.Image:
    """One picture: the overlay, below it the classes it shows, most first, and the mix of styles per layer.

    Args:
        image: the photo, H×W×3, RGB.
        class_map: class of each of its pixels, H×W, or 255.
        space: names and colours of the classes.
        opacity: of the colours over the photo, 0..1.
        figures: what the network tells of the image beside the classes, of each source, such as its mix of styles.
        source_names: of the sources.

    Raises:
        UsageError: as `overlay` and `style_bar`.
    """
    photo = Image.fromarray(overlay(image, class_map, space, opacity=opacity))
    enlarge = min(-(-MIN_SHEET_WIDTH // photo.width), _MAX_ENLARGED_HEIGHT // photo.height)
    if enlarge > 1:
        photo = photo.resize((photo.width * enlarge, photo.height * enlarge), Image.Resampling.BICUBIC)
    width = max(photo.width, MIN_SHEET_WIDTH)
    text_size = max(13, round(min(photo.width, 2 * photo.height) / 60))
    pixels = np.bincount(class_map.reshape(-1), minlength=IGNORE + 1)[: len(space)]
    present = [int(k) for k in np.argsort(-pixels, kind="stable") if pixels[k]]
    fractions = [pixels[k] / class_map.size for k in present]
    strips = [legend(space, present, fractions=fractions, width=width, text_size=text_size)]
    for name, layers in (figures or {}).items():
        for number, parts in enumerate(layers, start=1):
            title = words_of(name).title + (f", layer {number}" if len(layers) > 1 else "")
            strips.append(style_bar(parts, source_names, title=title, width=width, text_size=text_size))
    pictures = [photo, *strips]
    whole = Image.new("RGB", (width, sum(part.height for part in pictures)), _PAPER)
    top = 0
    for part in pictures:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def _flow(widths: Sequence[float], limit: float) -> list[list[int]]:
    """Which items stand in which row when each row is filled from the left up to a limit."""
    rows: list[list[int]] = []
    used = 0.0
    for item, width in enumerate(widths):
        if not rows or used + width > limit:
            rows.append([])
            used = 0.0
        rows[-1].append(item)
        used += width
    return rows


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
