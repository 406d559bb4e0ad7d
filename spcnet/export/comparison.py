"""A file beside the network that it was made from: differences, equal labels, seconds."""

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import median
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import v2

from spcnet.errors import DataError
from spcnet.export.deployment import Deployed, Program
from spcnet.labels import IGNORE
from spcnet.models.network import MIN_SIZE
from spcnet.synthesis import streets

CHECKED = ((1, MIN_SIZE, MIN_SIZE), (2, 64, 96), (3, 65, 131), (1, 224, 160))
"""Images, height and width that a file is compared with its network at, odd sizes among them, beside the training's."""


TOLERANCE = 1e-3
"""Largest difference of the logits, as a fraction of the largest logit, of a file that is kept."""


EQUAL = 0.999
"""Smallest fraction of equal labels of a file that is kept."""


class Check(NamedTuple):
    """A file compared with its network on images of one size."""

    images: int
    height: int
    width: int
    difference: float
    """Largest difference of the logits; of a file of labels, how much lower than the highest the logit of the chosen class is."""
    largest: float
    """Largest logit of the network, without its sign."""
    equal: float
    """Share of the pixels that get the same class, 0..1."""


class Timing(NamedTuple):
    """Median seconds of one image."""

    height: int
    width: int
    network: float
    """Of the network in torch."""
    file: float
    """Of the file."""


def checked_sizes(
    size: tuple[int, int] | None, *, fixed: tuple[int, int] | None = None
) -> tuple[tuple[int, int, int], ...]:
    """Images, height and width that a file is compared at: `CHECKED` and an image of the training's size, or one fixed size."""
    if fixed is not None:
        return (1, *fixed), (3, *fixed)
    trained = (1, *size) if size is not None and min(size) >= MIN_SIZE else None
    return tuple(dict.fromkeys([*CHECKED, trained] if trained else CHECKED))


def pictures(images: int, height: int, width: int) -> UInt8[Tensor, "B 3 H W"]:
    """Generated streets in several styles, brought to a size."""
    drawn = torch.stack([_street(number) for number in range(images)])
    resized: UInt8[Tensor, "B 3 H W"] = v2.functional.resize(drawn, [height, width], antialias=True)
    return resized


@lru_cache(maxsize=8)
def _street(number: int) -> UInt8[Tensor, "3 h w"]:
    styles = list(streets.STYLES)
    return torch.from_numpy(streets.generate(number, style=styles[number % len(styles)]).image).permute(2, 0, 1)


def compare(deployed: Deployed, program: Program, sizes: Iterable[tuple[int, int, int]]) -> tuple[Check, ...]:
    """Run a file beside its network on generated streets.

    Args:
        deployed: the network.
        program: the file.
        sizes: images, height and width of each comparison.
    """
    checks = []
    for size in sizes:
        image = deployed.given(pictures(*size))
        with torch.no_grad():
            expected = deployed.logits(image)
        answer = program(image)
        best, label = expected.max(dim=1)
        if deployed.kind == "labels":
            if answer.shape != label.shape:
                raise _misshapen(answer, label)
            chosen, label = answer.long(), deployed.classes(expected)
            # A tie may be broken either way: what counts is how much worse the chosen class is, where there is one.
            worse = best - expected.gather(1, chosen.clamp(max=expected.shape[1] - 1)[:, None])[:, 0]
            difference = worse.where(chosen != IGNORE, 0)
        else:
            if answer.shape != expected.shape:
                raise _misshapen(answer, expected)
            chosen = answer.argmax(dim=1)
            difference = (answer - expected).abs()
        checks.append(
            Check(
                *size,
                difference=float(difference.max()),
                largest=float(expected.abs().max()),
                equal=float((chosen == label).double().mean()),
            )
        )
    return tuple(checks)


def _misshapen(answer: Tensor, expected: Tensor) -> DataError:
    return DataError(
        f"the exported file answers with the shape {tuple(answer.shape)} where the network has {tuple(expected.shape)}: "
        "nothing was written. Choose another --opset or --format"
    )


def refuse_difference(checks: Sequence[Check]) -> None:
    """Refuse a file that does not answer as its network does.

    Raises:
        DataError: says at which size, and by how much.
    """
    for check in checks:
        bound = TOLERANCE * max(1.0, check.largest)
        # Not `>`: a difference that is no number is refused as well.
        if not (check.difference <= bound and check.equal >= EQUAL):
            raise DataError(
                f"the exported file is not the network: on {check.images} images of {check.height}×{check.width} their logits "
                f"differ by {check.difference:.3g} (at most {bound:.3g}) and {check.equal:.2%} of the labels are equal (at least "
                f"{EQUAL:.1%}): nothing was written. Choose another --opset or --format"
            )


def timed(deployed: Deployed, program: Program, size: tuple[int, int], *, repeats: int) -> Timing:
    """Median time of one image in the network and in the file, in turns, after one pass each to warm up.

    Args:
        deployed: the network.
        program: the file.
        size: height and width of the image.
        repeats: passes to time, at least 1.
    """
    image = deployed.given(pictures(1, *size))
    seconds: dict[str, list[float]] = {"network": [], "file": []}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, run in (("network", deployed), ("file", program)):
                start = time.perf_counter()
                run(image)
                seconds[name].append(time.perf_counter() - start)
    return Timing(*size, *(median(times[1:]) for times in seconds.values()))
