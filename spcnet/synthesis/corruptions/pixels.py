"""What all corruptions are made of: photographs as bytes, worked on in bands that stay in the processor's cache."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spcnet.data import transforms

Photo = NDArray[np.uint8]
"""RGB in 0..255, H×W×3."""
Plane = NDArray[np.float32]
"""One value per pixel, H×W."""
Level = tuple[float, ...]
"""The published parameters of a corruption at one severity."""

BAND = 64
"""Rows that are worked on at a time."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Share of red, green and blue in the brightness (BT.601)."""


class Tap(NamedTuple):
    """One term of a weighted sum of shifted pictures."""

    down: int
    right: int
    weight: float


def bands(height: int) -> Iterator[slice]:
    """The rows of a picture, some at a time."""
    for top in range(0, height, BAND):
        yield slice(top, min(top + BAND, height))


def to_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values in 0..255 rounded, and cut off outside; written into the values."""
    np.rint(values, out=values)
    np.clip(values, 0, 255, out=values)
    return values.astype(np.uint8)


def by_band(photo: Photo, work: Callable[[NDArray[np.float32], slice], NDArray[np.float32]]) -> Photo:
    """A photograph whose rows are made from its own by `work`, which is given them as a copy, and which rows they are."""
    made = np.empty_like(photo)
    for rows in bands(photo.shape[0]):
        made[rows] = to_bytes(work(photo[rows].astype(np.float32), rows))
    return made


def gaussian(photo: Photo, sigma: float) -> Photo:
    """Gaussian blur; beyond its edge a picture goes on as there."""
    blurred = transforms.gaussian_blur(torch.from_numpy(photo).permute(2, 0, 1).contiguous(), sigma=sigma)
    return np.ascontiguousarray(blurred.permute(1, 2, 0).numpy())


def gaussian_plane(plane: Plane, sigma: tuple[float, float]) -> Plane:
    """Gaussian blur of a plane, by a standard deviation down and one across, cut off at three of them."""
    for axis in (0, 1):
        reach = int(np.ceil(3 * sigma[axis]))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma[axis], 1e-6)) ** 2)
        steps = [(step, 0) if axis == 0 else (0, step) for step in range(-reach, reach + 1)]
        taps = [Tap(*step, float(w)) for step, w in zip(steps, weights / weights.sum(), strict=True)]
        plane = weighted_sum(plane[..., None], taps, mode="symmetric")[..., 0]
    return plane


def weighted_sum(
    image: NDArray[np.uint8] | NDArray[np.float32], taps: Sequence[Tap], *, mode: str = "edge"
) -> NDArray[np.float32]:
    """Sum of a picture's shifted copies, each with its weight.

    Args:
        image: H×W×C.
        taps: the pixel (y, x) gets weight × image[y + down, x + right] of each.
        mode: how the picture goes on beyond its edge, as `numpy.pad` names it.

    Returns:
        The sum, H×W×C.
    """
    height, width, channels = image.shape
    down, right = [tap.down for tap in taps], [tap.right for tap in taps]
    above, below, before, behind = -min(0, *down), max(0, *down), -min(0, *right), max(0, *right)
    # Channels lie side by side, so that a row is one run of numbers.
    padded = _padded(image, ((above, below), (before, behind)), mode).view(height + above + below, -1)
    summed = torch.empty(height, width * channels)
    for rows in bands(height):
        band = padded[rows.start : rows.stop + above + below].float()
        out = summed[rows].zero_()
        for tap in taps:
            first, left = tap.down + above, (tap.right + before) * channels
            part = band[first : first + rows.stop - rows.start, left : left + width * channels]
            out.add_(part, alpha=tap.weight)
    return summed.view(height, width, channels).numpy()


def _padded(
    image: NDArray[np.uint8] | NDArray[np.float32], margins: tuple[tuple[int, int], tuple[int, int]], mode: str
) -> Tensor:
    return torch.from_numpy(np.pad(image, (*margins, (0, 0)), mode=mode))  # type: ignore[call-overload]


def enlarged(plane: Plane, size: tuple[int, int]) -> Plane:
    """A plane at a larger height and width, bilinear."""
    grown = Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(grown, dtype=np.float32)
