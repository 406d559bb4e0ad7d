"""From data sets to batches: for training balanced over the domains and repeatable, for evaluation in order.

A training batch is a pure function of the seed and the iteration. Nothing is drawn from a stream that has to be kept:
each place of each batch has a number, the number gives the image and the seed of its augmentation. So a run that goes
on at iteration t sees what it would have seen, whatever the number of worker processes.
"""

import signal
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors

from spcnet.config import DataConfig
from spcnet.data.datasets import SegmentationSet
from spcnet.data.transforms import evaluation_transform, normalise, photometric_transform, training_transform
from spcnet.errors import DataError
from spcnet.types import IGNORE_INDEX, Batch


class Draw(NamedTuple):
    """One place of a training batch: which image, and how it is augmented."""

    domain: int
    """Which of the source sets."""
    image: int
    """Which image of it."""
    seed: int
    """Of the augmentation, 0..2⁶³-1."""


def draw(domain: int, position: int, *, length: int, seed: int) -> Draw:
    """The image at a position of the endless stream of one domain.

    The stream goes through the set in epochs, each in its own random order; an image comes again when all have come.

    Args:
        domain: index of the source set.
        position: 0, 1, 2, ... along the stream.
        length: number of images of the set.
        seed: of the run.
    """
    epoch, place = divmod(position, length)
    augmentation = np.random.SeedSequence([seed, domain, position]).generate_state(1, np.uint64)[0]
    return Draw(domain, int(_order(seed, domain, epoch, length)[place]), int(augmentation >> 1))


@lru_cache(maxsize=64)
def _order(seed: int, domain: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, domain, epoch]).permutation(length)


class BalancedSampler(Sampler[list[Draw]]):
    """The draws of each iteration: the same number of images of each domain, domain after domain."""

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        images_per_domain: int,
        seed: int,
        iterations: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan a run.

        Args:
            lengths: number of images of each source set.
            images_per_domain: images of each domain in a batch of this process.
            seed: of the run.
            iterations: iteration at which the run ends.
            start: iteration at which this process takes it up.
            rank: number of this process among those that train together; each draws other images.
            world_size: how many processes train together.
        """
        self.lengths = tuple(lengths)
        self.images_per_domain = images_per_domain
        self.seed = seed
        self.iterations = iterations
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return max(0, self.iterations - self.start)

    def __iter__(self) -> Iterator[list[Draw]]:
        for iteration in range(self.start, self.iterations):
            first = (iteration * self.world_size + self.rank) * self.images_per_domain
            yield [
                draw(domain, first + slot, length=length, seed=self.seed)
                for domain, length in enumerate(self.lengths)
                for slot in range(self.images_per_domain)
            ]


class _Item(NamedTuple):
    """One image, ready to be batched."""

    image: UInt8[Tensor, "*pair 3 H W"]
    label: UInt8[Tensor, "h w"]
    domain: int
    name: str


class _TrainingImages(Dataset[Any]):
    """Augmented images of all domains, by draw."""

    def __init__(self, sets: Sequence[SegmentationSet], data: DataConfig) -> None:
        self.sets = list(sets)
        self.transform = training_transform(data)

    def __getitem__(self, drawn: Draw) -> _Item | DataError:
        try:
            sample = self.sets[drawn.domain].read(drawn.image)
        except DataError as error:
            return error
        # The generator that the transforms draw from is given back as it was. `torch.manual_seed` would also seed the
        # accelerators, which `devices=[]` does not give back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(drawn.seed)
            image, label = self.transform(_image(sample.image), _label(sample.label))
        return _Item(image.as_subclass(Tensor), label.as_subclass(Tensor), drawn.domain, sample.name)


class _EvaluationImages(Dataset[Any]):
    """Resized images of one domain with their labels at their own size, by number."""

    def __init__(self, plain: SegmentationSet, data: DataConfig, *, domain: int, limit: int) -> None:
        self.plain = plain
        self.transform = evaluation_transform(data)
        self.domain = domain
        self.num_images = min(len(plain), limit) if limit else len(plain)

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> _Item | DataError:
        try:
            sample = self.plain.read(index)
        except DataError as error:
            return error
        image = self.transform(_image(sample.image)).as_subclass(Tensor)
        return _Item(image, torch.from_numpy(sample.label), self.domain, sample.name)


def _image(image: NDArray[np.uint8]) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1).contiguous())


def _label(label: NDArray[np.uint8]) -> tv_tensors.Mask:
    return tv_tensors.Mask(torch.from_numpy(label))


def _batch(items: list[_Item]) -> Batch:
    """One batch of images and labels of one size."""
    return Batch(
        image=normalise(torch.stack([item.image for item in items])),
        label=torch.stack([item.label for item in items]).long(),
        domain=torch.tensor([item.domain for item in items]),
        name=tuple(item.name for item in items),
    )


# A `DataLoader` that finds an exception in a worker puts the worker's traceback into its message, but a `DataError` is
# one line for the user. So errors leave the workers as values, and are raised where the batches arrive.


def _batch_or_error(items: list[_Item | DataError]) -> Batch | DataError:
    error = next((item for item in items if isinstance(item, DataError)), None)
    return error or _batch([item for item in items if not isinstance(item, DataError)])


def _unchanged(item: Any) -> Any:
    return item


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the worker must live until the step under way is saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class TrainingLoader(DataLoader[Batch]):
    """A `DataLoader` that raises a worker's `DataError` as it was."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
            yield batch


def training_batches(
    sets: Sequence[SegmentationSet],
    data: DataConfig,
    *,
    seed: int,
    iterations: int,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> TrainingLoader:
    """The batches of iterations `start` to `iterations - 1`, each with `data.images_per_domain` images of each set.

    The batch of an iteration depends on nothing but the arguments `sets`, `data`, `seed`, `rank` and `world_size`: not
    on `start`, `data.workers`, or any random state.

    Args:
        sets: the source domains; the place in this list is the domain index in the batch.
        data: batch composition, image size, augmentation, number of worker processes.
        seed: of the run.
        iterations: iteration at which the run ends.
        start: iteration at which it is taken up.
        rank: number of this process among those that train together.
        world_size: how many processes train together; each gets its own images.

    Raises:
        DataError: while iterating, when an image or label is broken.
    """
    return TrainingLoader(
        _TrainingImages(sets, data),
        batch_sampler=BalancedSampler(
            [len(plain) for plain in sets],
            images_per_domain=data.images_per_domain,
            seed=seed,
            iterations=iterations,
            start=start,
            rank=rank,
            world_size=world_size,
        ),
        num_workers=data.workers,
        worker_init_fn=_leave_signals_to_the_parent,
        collate_fn=_batch_or_error,
        # Of its own, for a loader draws its workers' seeds from the global generator otherwise.
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=data.workers > 0,
    )


class _PhotometricPairs(Dataset[Any]):
    """An image, whole, twice: strongly altered in colour and blurred, and as it is; by draw."""

    def __init__(self, sets: Sequence[SegmentationSet], data: DataConfig) -> None:
        self.sets = list(sets)
        self.resize, self.alter = evaluation_transform(data), photometric_transform()

    def __getitem__(self, drawn: Draw) -> _Item | DataError:
        try:
            sample = self.sets[drawn.domain].read(drawn.image)
        except DataError as error:
            return error
        plain = self.resize(_image(sample.image))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(drawn.seed)
            altered = self.alter(plain)
        pair = torch.stack([altered.as_subclass(Tensor), plain.as_subclass(Tensor)])
        return _Item(pair, torch.from_numpy(sample.label), drawn.domain, sample.name)


def _pairs_or_error(items: list[_Item | DataError]) -> Batch | DataError:
    """Pairs of one batch one after the other; they carry no labels."""
    error = next((item for item in items if isinstance(item, DataError)), None)
    if error:
        return error
    found = [item for item in items if not isinstance(item, DataError)]
    image = normalise(torch.cat([item.image for item in found]))
    return Batch(
        image,
        label=torch.full((len(image), *image.shape[2:]), IGNORE_INDEX),
        domain=torch.tensor([item.domain for item in found]).repeat_interleave(2),
        name=tuple(name for item in found for name in (f"{item.name} altered", item.name)),
    )


def photometric_trials(
    sets: Sequence[SegmentationSet],
    data: DataConfig,
    *,
    seed: int,
    trials: int,
    pairs: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[TrainingLoader]:
    """For each trial the batches in which altered images and their originals take turns (Choi et al., §3.3).

    The same for the same arguments. The sources take turns; images are drawn as for training, and each process has
    its share of them.

    Args:
        sets: the source domains.
        data: size of the images, images of a batch, number of worker processes.
        seed: of the run.
        trials: how many.
        pairs: of each trial, over all processes.
        rank: number of this process among those that train together.
        world_size: how many processes train together.

    Raises:
        DataError: while iterating, when an image is broken.
    """
    for trial in range(trials):
        # Other images and alterations than the training's: a stream of its own for each trial.
        stream = int(np.random.SeedSequence([seed, 1 + trial]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        draws = [
            draw(number % len(sets), number // len(sets), length=len(sets[number % len(sets)]), seed=stream)
            for number in range(rank, pairs, world_size)
        ]
        size = data.images_per_domain if data.size else 1  # images of their own size do not stack
        yield TrainingLoader(
            _PhotometricPairs(sets, data),
            batch_sampler=[draws[first : first + size] for first in range(0, len(draws), size)],
            num_workers=data.workers,
            worker_init_fn=_leave_signals_to_the_parent,
            collate_fn=_pairs_or_error,
            generator=torch.Generator(),
        )


def evaluation_batches(
    plain: SegmentationSet, data: DataConfig, *, domain: int, batch_size: int, limit: int = 0
) -> Iterator[Batch]:
    """The images of a set in order, each in exactly one batch, with their labels at their own size.

    A batch holds `batch_size` images, or fewer at the end and where the next image or label has another size.

    Args:
        plain: the domain.
        data: size of the images, number of worker processes.
        domain: domain index that the batches carry.
        batch_size: most images in a batch.
        limit: stop after so many images; 0 takes all.

    Raises:
        DataError: while iterating, when an image or label is broken.
    """
    loader = DataLoader(
        _EvaluationImages(plain, data, domain=domain, limit=limit),
        batch_size=None,
        num_workers=data.workers,
        worker_init_fn=_leave_signals_to_the_parent,
        collate_fn=_unchanged,
        generator=torch.Generator(),
    )
    waiting: list[_Item] = []
    for item in loader:
        if isinstance(item, DataError):
            raise item
        shapes = [(one.image.shape, one.label.shape) for one in (item, *waiting[:1])]
        if waiting and (len(waiting) == batch_size or shapes[0] != shapes[1]):
            yield _batch(waiting)
            waiting = []
        waiting.append(item)
    if waiting:
        yield _batch(waiting)
