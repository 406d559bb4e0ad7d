"""What all corruptions are made of: photographs as bytes, worked on in bands that stay in the processor's cache."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Photo = NDArray[np.uint8]
"""RGB in 0..255, H×W×3."""
Plane = NDArray[np.float32]
"""One value per pixel, H×W."""
Level = tuple[float, ...]
"""The published parameters of a corruption at one severity."""

BAND = 16
"""Rows that are worked on at a time."""
COLUMNS = 96
"""Values of a row that one matrix product blurs."""
NEAR = np.float32(2e-4)
"""How far from a half sums in single precision may be rounded to the other byte; they err by a tenth of it."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Fraction of red, green and blue in the brightness (BT.601)."""


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
    """Gaussian blur that is cut off at three standard deviations; beyond its edge a picture goes on as there."""
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-((d / sigma) ** 2) / 2) for d in range(-reach, reach + 1)]
    weights = [weight / sum(weights) for weight in weights]
    if 255 * (1 - weights[reach] ** 2) < 0.49:
        return photo.copy()  # no pixel could change by as much as rounding takes back
    height, width, channels = photo.shape
    padded = np.pad(photo, ((reach, reach), (reach, reach), (0, 0)), mode="edge").reshape(height + 2 * reach, -1)
    blurred = np.empty((height, width * channels), np.uint8)
    steps = range(2 * reach + 1)
    vertical = np.ascontiguousarray(_shifts(weights, BAND, 1).T)
    horizontal = _shifts(weights, COLUMNS, channels)
    for rows in bands(height):
        size = rows.stop - rows.start
        band = padded[rows.start : rows.stop + 2 * reach].astype(np.float32)
        down = vertical[:size, : size + 2 * reach] @ band
        across = np.empty((size, width * channels), np.float32)
        for left in range(0, width * channels, COLUMNS):
            columns = slice(left, min(left + COLUMNS, width * channels))
            seen = down[:, left : columns.stop + 2 * reach * channels]
            across[:, columns] = seen @ horizontal[: seen.shape[1], : columns.stop - left]
        y, x = ties(across)
        columns = x[:, None] + channels * np.arange(2 * reach + 1)
        window = fused_sum([band[(y + step)[:, None], columns] for step in steps], weights)
        across[y, x] = fused_sum([window[:, step] for step in steps], weights)
        blurred[rows] = to_bytes(across)
    return blurred.reshape(photo.shape)


def _shifts(weights: Sequence[float], size: int, step: int) -> NDArray[np.float32]:
    """The matrix by which a row of values becomes `size` sums of some that lie `step` apart, each with its weight."""
    matrix = np.zeros((size + step * (len(weights) - 1), size), np.float32)
    for number, weight in enumerate(weights):
        np.fill_diagonal(matrix[step * number :], weight)
    return matrix


def gaussian_plane(plane: Plane, sigma: tuple[float, float]) -> Plane:
    """Gaussian blur of a plane, by a standard deviation down and one across, cut off at three of them."""
    for axis in (0, 1):
        reach = int(np.ceil(3 * sigma[axis]))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma[axis], 1e-6)) ** 2)
        steps = [(step, 0) if axis == 0 else (0, step) for step in range(-reach, reach + 1)]
        taps = [Tap(*step, float(w)) for step, w in zip(steps, weights / weights.sum(), strict=True)]
        plane = weighted_sum(plane, taps, mode="symmetric")
    return plane


def weighted_sum(plane: Plane, taps: Sequence[Tap], *, mode: str = "edge") -> Plane:
    """Sum of a plane's shifted copies, each with its weight.

    Args:
        plane: H×W.
        taps: the pixel (y, x) gets weight × plane[y + down, x + right] of each.
        mode: how the plane goes on beyond its edge, as `numpy.pad` names it.

    Returns:
        The sum, H×W.
    """
    summed = np.empty_like(plane)
    for rows, parts in _shifted(plane[..., None], taps, mode, np.float64):
        summed[rows] = fused_sum(parts, [tap.weight for tap in taps])
    return summed


def weighted_photo(photo: Photo, taps: Sequence[Tap]) -> Photo:
    """Rounded sum of a photograph's shifted copies, each with its weight; beyond its edge it goes on as there."""
    summed, weights = np.empty_like(photo), [tap.weight for tap in taps]
    for rows, parts in _shifted(photo, taps, "edge", np.float32):
        band = quick_sum(parts, weights)
        y, x = ties(band)
        band[y, x] = fused_sum([part[y, x] for part in parts], weights)
        summed[rows] = to_bytes(band).reshape(-1, *photo.shape[1:])
    return summed


def _shifted(
    image: NDArray[np.uint8] | NDArray[np.float32], taps: Sequence[Tap], mode: str, dtype: type[np.floating[Any]]
) -> Iterator[tuple[slice, list[NDArray[Any]]]]:
    """For each band of an image (H×W×C) its rows, and its copies as the taps shift them: rows × W·C."""
    height, width, channels = image.shape
    down, right = [tap.down for tap in taps], [tap.right for tap in taps]
    above, below, before, behind = -min(0, *down), max(0, *down), -min(0, *right), max(0, *right)
    padded = np.pad(image, ((above, below), (before, behind), (0, 0)), mode=mode)  # type: ignore[call-overload]
    padded = padded.reshape(len(padded), -1)
    for rows in bands(height):
        band = padded[rows.start : rows.stop + above + below].astype(dtype)
        corners = [(tap.down + above, (tap.right + before) * channels) for tap in taps]
        size = rows.stop - rows.start
        yield rows, [band[top : top + size, left : left + width * channels] for top, left in corners]


Weights = Sequence[Any]
"""One for each array of a sum, or for each of its values."""


def quick_sum(parts: Iterable[NDArray[np.float32]], weights: Weights) -> NDArray[np.float32]:
    """Sum of weighted arrays of one shape, in single precision."""
    terms = zip(parts, weights, strict=True)
    part, weight = next(terms)
    total: NDArray[np.float32] = part * np.float32(weight)
    term = np.empty_like(total)
    for part, weight in terms:
        np.multiply(part, np.float32(weight), out=term)
        total += term
    return total


def fused_sum(parts: Sequence[NDArray[Any]], weights: Weights) -> NDArray[np.float32]:
    """Sum of weighted arrays, each product and its addition rounded once, as processors with FMA do it.

    Several times as slow as `quick_sum`, which is why bytes need it only where that is near a `tie`.
    """
    total = np.zeros(parts[0].shape, np.float32)
    for part, weight in zip(parts, weights, strict=True):
        exact = np.multiply(part, np.float32(weight), dtype=np.float64)  # 24 bits times 24 bits
        np.add(exact, total, out=total, dtype=np.float64, casting="same_kind")
    return total


def ties(values: NDArray[np.float32]) -> tuple[NDArray[np.intp], ...]:
    """Where values lie so near to a half that their last bits say to which byte they are rounded."""
    away = values - np.floor(values)
    away -= np.float32(0.5)
    np.abs(away, out=away)
    return np.unravel_index(np.flatnonzero(away < NEAR), away.shape)


def enlarged(plane: Plane, size: tuple[int, int]) -> Plane:
    """A plane at a larger height and width, bilinear."""
    grown = Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(grown, dtype=np.float32)
