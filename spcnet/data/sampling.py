"""Which images are in each training batch, as a pure function of the seed and the iteration.

Nothing is drawn from a random state that has to be kept: each place of each batch has a number, and the number gives the
image and the seed of its augmentation. So a run that is resumed at iteration t sees what it would have seen, whatever the
number of worker processes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from spcnet.config import DataConfig
from spcnet.data.centroids import Centres
from spcnet.errors import UsageError


class Draw(NamedTuple):
    """One place of a training batch: which image, and how it is augmented."""

    domain: int
    """Which of the source sets."""
    image: int
    """Which image of it."""
    seed: int
    """Of the augmentation, 0..2⁶³-1."""
    centre: tuple[float, float] | None = None
    """Row and column, as shares of height and width, of a pixel that the crop must contain."""
    show: int | None = None
    """The class that the crop should show much of."""


class RareClasses(NamedTuple):
    """How classes are drawn by how rare they are (Hoyer et al., DAFormer, CVPR 2022, Eq. 7-8)."""

    fraction: float
    """Of the draws that are for a class."""
    temperature: float
    """T; a class with the fraction f of the pixels has a probability as exp((1 - f)/T)."""
    pixels: int
    """An image is drawn for the classes that have more pixels than this in it."""


class Stream:
    """The endless series of draws from one source, or from several that are joined.

    It goes in epochs, each with as many draws as there are images, in a new random order. Without centres, each
    image comes once an epoch. With them, a share of the draws is dealt out to the classes in turn, so that over the
    epochs all get equally many: for each the images that show it take turns, the crop around its centre. The other
    draws are random images, each at most once an epoch; so are those of classes that no image shows.
    With rare classes, a fraction of the draws is for a class that is drawn by how rare it is, and an image drawn among those
    that show it.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        seed: int,
        first: int = 0,
        centres: Sequence[Centres] = (),
        num_classes: int = 0,
        share: float = 0.0,
        rare: RareClasses | None = None,
    ) -> None:
        """Plan a stream from `lengths` images of each source, of which `first` is the first one's domain index.

        With `centres` of each source, the classes get that `share` of the draws, or what `rare` says.
        """
        self.seed, self.first, self.share, self.num_classes = seed, first, share, num_classes
        self.begins = np.cumsum([0, *lengths])
        """Number of the first image of each source among those of all, and the number of all."""
        joined = [one._replace(image=one.image + begin) for one, begin in zip(centres, self.begins, strict=False)]
        self.centres = Centres(*map(np.concatenate, zip(*joined, strict=True))) if joined else None
        self.rare = rare
        if rare is not None and self.centres is not None:
            self.probability, self.showing = rare_classes(self.centres, len(self), num_classes, rare)
        self.epochs: dict[int, _Epoch] = {}

    def __len__(self) -> int:
        return int(self.begins[-1])

    def draw(self, position: int) -> Draw:
        """The draw at a position: 0, 1, 2, ... along the stream."""
        number, place = divmod(position, len(self))
        if number not in self.epochs:
            # A batch may end one epoch and begin the next.
            self.epochs = {known: plan for known, plan in self.epochs.items() if known == number - 1}
            self.epochs[number] = self._plan(number)
        images, centres, shown = self.epochs[number]
        image = int(images[place])
        source = int(np.searchsorted(self.begins, image, side="right")) - 1
        augmentation = np.random.SeedSequence([self.seed, self.first, position]).generate_state(1, np.uint64)[0]
        row, column = (float(share) for share in centres[place])
        centre = None if np.isnan(row) else (row, column)
        show = None if shown[place] < 0 else int(shown[place])
        return Draw(self.first + source, image - int(self.begins[source]), int(augmentation >> 1), centre, show)

    def _plan(self, epoch: int) -> "_Epoch":
        """What each place of an epoch has."""
        length = len(self)
        rng = np.random.default_rng([self.seed, self.first, epoch])
        images = rng.permutation(length)
        centres, shown = np.full((length, 2), np.nan, np.float32), np.full(length, -1)
        if self.centres is None:
            return _Epoch(images, centres, shown)
        if self.rare is not None:
            begin, end = (int(number * length * self.rare.fraction) for number in (epoch, epoch + 1))
            if self.probability.any():
                shown[: end - begin] = rng.choice(self.num_classes, end - begin, p=self.probability)
            for place in np.flatnonzero(shown >= 0):
                images[place] = rng.choice(self.showing[shown[place]])
            order = rng.permutation(length)
            return _Epoch(images[order], centres, shown[order])
        turns = np.arange(int(epoch * length * self.share), int((epoch + 1) * length * self.share))
        wanted = np.bincount(turns % self.num_classes, minlength=self.num_classes)
        known = [np.flatnonzero(self.centres.label == label) for label in range(self.num_classes)]
        drawn = [np.resize(rng.permutation(n), count) for n, count in zip(known, wanted, strict=True) if len(n)]
        picked = np.concatenate([*drawn, np.empty(0, np.int64)])
        images[: len(picked)] = self.centres.image[picked]
        centres[: len(picked), 0] = self.centres.row[picked]
        centres[: len(picked), 1] = self.centres.column[picked]
        order = rng.permutation(length)
        return _Epoch(images[order], centres[order], shown)


class _Epoch(NamedTuple):
    """The places of an epoch of a stream."""

    images: NDArray[np.int64]
    """Number of the image, N."""
    centres: NDArray[np.float32]
    """What the crop must contain, N×2; NaN for nothing."""
    shown: NDArray[np.int64]
    """Class that the crop should show, N; -1 for none."""


def rare_classes(
    centres: Centres, num_images: int, num_classes: int, rare: RareClasses
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """With which probability each class is drawn, and the images that show much of it; 0 where none does.

    Args:
        centres: with the pixels of each class in each tile.
        num_images: number of the images.
        num_classes: K.
        rare: the rule.
    """
    counts = np.zeros((num_classes, num_images), np.int64)
    np.add.at(counts, (centres.label, centres.image), centres.pixels)
    showing = [np.flatnonzero(one > rare.pixels) for one in counts]
    possible = np.array([len(images) > 0 for images in showing])
    if not possible.any():
        return np.zeros(num_classes), showing
    exponent = (1 - counts.sum(1) / counts.sum()) / rare.temperature
    weight = np.exp(exponent - exponent[possible].max(), where=possible, out=np.zeros(num_classes))
    return weight / weight.sum(), showing


class Shard(NamedTuple):
    """Which of the processes that work together this one is; each gets images of its own."""

    rank: int = 0
    world_size: int = 1


class TrainingSampler(Sampler[list[Draw]]):
    """The draws of each micro-batch."""

    def __init__(
        self,
        streams: Sequence[Stream],
        *,
        images: int,
        iterations: range,
        parts: int = 1,
        alternate: bool = False,
        shard: Shard = Shard(),  # noqa: B008  # immutable
    ) -> None:
        """Plan a run with so many images of each stream in a micro-batch, of which an iteration has `parts`.

        With `alternate` one stream has all of a batch, another one of the next.
        """
        self.streams, self.images, self.iterations = list(streams), images, iterations
        self.parts, self.alternate, self.shard = parts, alternate, shard

    def __len__(self) -> int:
        return len(self.iterations) * self.parts

    def __iter__(self) -> Iterator[list[Draw]]:
        for iteration in self.iterations:
            turn, which = divmod(iteration, len(self.streams)) if self.alternate else (iteration, None)
            streams = self.streams if which is None else [self.streams[which]]
            for part in range(self.parts):
                first = ((turn * self.parts + part) * self.shard.world_size + self.shard.rank) * self.images
                yield [stream.draw(first + slot) for stream in streams for slot in range(self.images)]


class DomainIndex:
    """The domain index of each image: its source's, or that of its part of the only source."""

    def __init__(self, data: DataConfig, lengths: Sequence[int], *, seed: int) -> None:
        self.parts, self.by = data.pseudo_domains, data.pseudo_by
        if self.parts and self.by == "random":
            if lengths[0] < self.parts:
                what = f"data.pseudo_domains is {self.parts}, but the source has {lengths[0]} images"
                raise UsageError(f"{what}: every domain needs one")
            order = np.random.default_rng([seed, 2**32 - 1]).permutation(lengths[0])
            self.part = np.empty(lengths[0], np.int64)
            self.part[order] = np.arange(lengths[0]) % self.parts

    def of(self, source: int, image: int, style: int | None) -> int:
        """The index; 0 of all where the network finds the clusters."""
        if not self.parts:
            return source
        if self.by == "random":
            return int(self.part[image])
        if self.by == "cluster" or style is None:
            return 0
        return 1 + style % (self.parts - 1)
