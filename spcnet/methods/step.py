"""What a step of training is to those that draw random numbers for it or ask the network once more."""

import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from spcnet.types import SegOutput


@dataclass(frozen=True)
class Step:
    """One micro-batch of one iteration.

    What is drawn is a function of the seed, the iteration, the image's place in the batch of all parts and processes, and a
    key. So it is the same in a resumed run, on every device, and however the batch is divided.
    """

    seed: int
    iteration: int
    """Finished iterations."""
    progress: float
    """Fraction of the run that is done, 0..1."""
    positions: tuple[int, ...]
    """Of each image its place in the batch of all parts and processes."""
    part: int = 0
    """Number of the micro-batch."""
    forward: Callable[[Float[Tensor, "B 3 H W"]], SegOutput] | None = None
    """The network in this run's precision, in evaluation mode: without taps and dropout, its buffers stay as they are."""
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    """Within this, other networks compute in this run's precision."""
    everywhere: tuple[int, ...] = ()
    """The positions of the images of this part in all processes, process by process; of one process its own."""

    def __post_init__(self) -> None:
        if not self.everywhere:
            object.__setattr__(self, "everywhere", self.positions)

    @property
    def images(self) -> int:
        """Number of images of the micro-batch, before a plug-in doubles it."""
        return len(self.positions)

    def generators(self, key: str) -> list[np.random.Generator]:
        """A random generator for each image.

        Args:
            key: what is drawn, such as `pasta`; generators of different keys are independent.
        """
        number = zlib.crc32(key.encode())
        # One more than the place: `generator` has 0 there.
        return [np.random.default_rng([self.seed, self.iteration, place + 1, number]) for place in self.positions]

    def generator(self, key: str) -> np.random.Generator:
        """A random generator for the whole batch, the same in all parts and processes."""
        return np.random.default_rng([self.seed, self.iteration, 0, zlib.crc32(key.encode())])


def positions_of(images: int, *, streams: int, shard: int, shards: int) -> tuple[int, ...]:
    """Of each image of a micro-batch its place in the batch of all parts and processes, as `spcnet.data.sampling` deals them out.

    Args:
        images: number of images of the micro-batch, as many of each stream.
        streams: sources that each have images of their own in every micro-batch.
        shard: which part of the batch it is, over all processes.
        shards: of how many.
    """
    each = images // streams if images % streams == 0 else images
    return tuple((image // each * shards + shard) * each + image % each for image in range(images))
