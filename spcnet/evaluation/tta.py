"""Test-time augmentation: sliding windows, other scales, the mirror image, coarse before fine.

By default a network is evaluated on the whole image at once. Windows are for networks that were trained on
crops and for images that do not fit into memory; scales and mirror images are what many papers call multi-scale testing,
at several times the cost.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from spcnet.errors import UsageError
from spcnet.types import Averaged, SegOutput

Forward = Callable[[Tensor], SegOutput]
Weights = Literal["uniform", "hann"]
MOST_OVERLAP = 0.9
"""Largest fraction of a window that the next one may cover: each pixel is then computed about a hundred times."""


class CoarseToFine(NamedTuple):
    """A pass over the image made smaller comes first; windows that it is sure of keep its logits.

    Source: VFMSeg (Tang et al., AAAI 2025), its inference in two stages.
    """

    scale: float = 0.5
    """Factor on the image's size in the first pass, which slides the same windows."""
    confidence: float = 0.968
    """Probability of the best class above which a pixel is sure."""
    fraction: float = 0.8
    """Of a window's pixels; where more are sure, the window is not evaluated again."""


class TestTimeAugmentation(NamedTuple):
    """How an image is viewed."""

    window: tuple[int, int] | None = None
    """Height and width in pixels of a window; None for the whole image."""
    overlap: float = 1 / 3
    """Share of a window that the next one covers, too, at least."""
    stride: int | None = None
    """Instead of that fraction: pixels from one window to the next; the last one is moved back into the image."""
    weights: Weights = "uniform"
    """How much each pixel of a window counts where windows overlap: all alike, or less towards the window's border."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on the image's size."""
    flip: bool = False
    """Evaluate the mirror image, too."""
    coarse: CoarseToFine | None = None
    """Evaluate the image made smaller first, and only where that is not enough through windows at its own size."""

    @property
    def plain(self) -> bool:
        """Whether this is the whole image at once."""
        return self.window is None and self.scales == (1.0,) and not self.flip


def augmented(forward: Forward, views: TestTimeAugmentation, *, at_once: int = 8) -> Forward:
    """A network with test-time augmentation, called like the network itself.

    Over scales and mirror images the classes' probabilities are averaged, as multi-scale testing does; over windows the
    logits are. The network's other figures of an image (`SegOutput.figures`) is the mean over all passes.

    Args:
        forward: the network.
        views: what to average over.
        at_once: most windows of images in one pass.
    """
    if views.plain:
        return forward

    def look(image: Float[Tensor, "B 3 H W"]) -> SegOutput:
        size = (image.shape[2], image.shape[3])
        if len(views.scales) == 1 and not views.flip:
            output = _windowed(forward, _scaled(image, views.scales[0]), views, at_once)
            return output._replace(logits=_bilinear(output.logits, size))
        total: Tensor | None = None
        outputs = []
        for scale, mirrored in itertools.product(views.scales, (False, True) if views.flip else (False,)):
            scaled = _scaled(image, scale)
            output = _windowed(forward, scaled.flip(3) if mirrored else scaled, views, at_once)
            logits = output.logits.flip(3) if mirrored else output.logits
            probabilities = _bilinear(logits, size).float().softmax(1)
            total = probabilities if total is None else total.add_(probabilities)
            outputs.append(output)
        assert total is not None
        figures = {name: tuple(torch.stack(layer).mean(0) for layer in layers) for name, layers in _by_layer(outputs)}
        return SegOutput(total.div_(len(outputs)), extras=Averaged(figures))

    return look


def check_overlap(window: tuple[int, int] | None, overlap: float, size: tuple[int, int] | None) -> None:
    """Refuse an overlap with which an image takes too many windows.

    Args:
        window: height and width in pixels; None for whole images.
        overlap: fraction of a window that the next one covers, too.
        size: height and width of the images, where they are known.

    Raises:
        UsageError: says how many windows an image would take.
    """
    if window is None or overlap <= MOST_OVERLAP:
        return
    height, width = size or (1024, 2048)
    if height <= window[0] and width <= window[1]:
        # Of such an image there is one window, but at another scale or of a larger image there are more.
        height, width = 2 * window[0], 2 * window[1]
    steps = [max(1, int(part * (1 - overlap))) for part in window]
    counts = [
        -(-max(0, whole - part) // step) + 1 for whole, part, step in zip((height, width), window, steps, strict=True)
    ]
    raise UsageError(
        f"the overlap is {overlap:g}: the next window of {window[0]}×{window[1]} begins after {steps[0]} pixels down and "
        f"{steps[1]} across, so that an image of {height}×{width} takes {counts[0] * counts[1]:,} windows. Set at most "
        f"{MOST_OVERLAP:g}; 0.5 is usual"
    )


def windows(
    size: tuple[int, int], window: tuple[int, int], *, overlap: float, stride: int | None = None
) -> list[tuple[int, int]]:
    """Upper left corners of windows that cover an image.

    Without a stride they are evenly spread, the fewest with at least that overlap; with one they stand at its multiples,
    the last ones moved back into the image.
    """
    rows, columns = (_places(whole, part, overlap, stride) for whole, part in zip(size, window, strict=True))
    return list(itertools.product(rows, columns))


def _places(whole: int, part: int, overlap: float, stride: int | None) -> list[int]:
    if part >= whole:
        return [0]
    if stride is not None:
        return [*range(0, whole - part, stride), whole - part]
    step = max(1, int(part * (1 - overlap)))
    count = -(-(whole - part) // step) + 1
    return [round(place * (whole - part) / (count - 1)) for place in range(count)]


def _windowed(
    forward: Forward, image: Float[Tensor, "B 3 H W"], views: TestTimeAugmentation, at_once: int
) -> SegOutput:
    size = (image.shape[2], image.shape[3])
    if views.window is None or (size[0] <= views.window[0] and size[1] <= views.window[1]):
        return forward(image)
    height, width = min(views.window[0], size[0]), min(views.window[1], size[1])
    each_image = windows(size, (height, width), overlap=views.overlap, stride=views.stride)
    places = [(b, *place) for b in range(len(image)) for place in each_image]
    weights = _window_weights(height, width, views.weights).to(image.device)
    total: Tensor | None = None
    mass = torch.zeros(1, *size, device=image.device)
    for top, left in each_image:
        mass[:, top : top + height, left : left + width] += weights
    outputs = []
    first: SegOutput | None = None
    if views.coarse is not None:
        first, kept = _coarse(forward, image, views, at_once, places)
        total = torch.zeros_like(first.logits)
        for b, top, left in kept:
            part = first.logits[b, :, top : top + height, left : left + width]
            total[b, :, top : top + height, left : left + width] += part * weights
        places = [place for place in places if place not in kept]
    for begin in range(0, len(places), at_once):
        some = places[begin : begin + at_once]
        output = forward(torch.stack([image[b, :, top : top + height, left : left + width] for b, top, left in some]))
        if total is None:
            total = torch.zeros(len(image), output.logits.shape[1], *size, device=image.device)
        for (b, top, left), logits in zip(some, output.logits, strict=True):
            total[b, :, top : top + height, left : left + width] += logits.float() * weights
        outputs.append(output)
    assert total is not None
    if first is not None:
        return first._replace(logits=total.div_(mass))
    each = len(each_image)
    figures = {
        name: tuple(torch.cat(layer).view(len(image), each, *layer[0].shape[1:]).mean(1) for layer in layers)
        for name, layers in _by_layer(outputs)
    }
    return SegOutput(total.div_(mass), extras=Averaged(figures))


def _coarse(
    forward: Forward,
    image: Float[Tensor, "B 3 H W"],
    views: TestTimeAugmentation,
    at_once: int,
    places: Sequence[tuple[int, int, int]],
) -> tuple[SegOutput, set[tuple[int, int, int]]]:
    """The first pass at the image's own size, and those windows (image, top, left) that keep its logits.

    Its figures are the network's from this pass, and `coarse_windows`, the fraction of each image's windows that it keeps.
    """
    assert views.coarse is not None
    assert views.window is not None
    size = (image.shape[2], image.shape[3])
    small = [max(1, round(side * views.coarse.scale)) for side in size]
    shrunk = F.interpolate(image, size=small, mode="bilinear", align_corners=False)
    output = _windowed(forward, shrunk, views._replace(coarse=None), at_once)
    # The edges of both lie on each other, as when the image was made smaller.
    logits = F.interpolate(output.logits.float(), size=size, mode="bilinear", align_corners=False)
    sure = logits.softmax(1).amax(1) > views.coarse.confidence
    height, width = min(views.window[0], size[0]), min(views.window[1], size[1])
    fractions = [float(sure[b, top : top + height, left : left + width].float().mean()) for b, top, left in places]
    keep = {place for place, fraction in zip(places, fractions, strict=True) if fraction > views.coarse.fraction}
    counts = torch.zeros(len(image), 1, device=image.device)
    for b, *_ in keep:
        counts[b] += 1
    return SegOutput(
        logits, extras=Averaged({**output.figures, "coarse_windows": (counts * (len(image) / len(places)),)})
    ), keep


def _window_weights(height: int, width: int, weights: Weights) -> Float[Tensor, "h w"]:
    if weights == "uniform":
        return torch.ones(height, width)
    # Without the zeros at its ends, so that the image's own border has a weight.
    down, across = (torch.hann_window(side + 2, periodic=False)[1:-1] for side in (height, width))
    return torch.outer(down, across)


def _scaled(image: Float[Tensor, "B 3 H W"], scale: float) -> Float[Tensor, "B 3 h w"]:
    if scale == 1.0:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[2:]]
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)


def _bilinear(logits: Float[Tensor, "B K h w"], size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)  # as everywhere in the network


def _by_layer(outputs: Sequence[SegOutput]) -> Iterator[tuple[str, Iterator[tuple[Tensor, ...]]]]:
    """Each figure of the outputs by name, layer by layer, with the tensors of all outputs."""
    figures = [output.figures for output in outputs]
    for name in figures[0]:
        yield name, zip(*(one[name] for one in figures), strict=True)
