"""From data sets to batches: for training balanced over the domains and repeatable, for evaluation in order.

Which images a training batch has is decided in `spcnet.data.sampling`.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spcnet.config import DataConfig
from spcnet.data.centroids import Centres, class_centres
from spcnet.data.datasets import Sample, SegmentationSet
from spcnet.data.items import item_loader
from spcnet.data.sampling import DomainIndex, Draw, RareClasses, Shard, Stream, TrainingSampler
from spcnet.data.transforms import TrainingTransform, evaluation_transform, normalise, photometric_transform
from spcnet.errors import DataError
from spcnet.labels import label_space
from spcnet.signals import leave_signals_to_parent
from spcnet.types import IGNORE_INDEX, Batch


class _Item(NamedTuple):
    """One image, ready to be batched."""

    image: UInt8[Tensor, "*pair 3 H W"]
    label: UInt8[Tensor, "h w"]
    domain: int
    name: str
    skipped: dict[str, str]
    """Message of each unreadable image that this one replaces, by its name."""


class _Read(NamedTuple):
    """An image of a source, or the next one that is readable."""

    sample: Sample
    image: int
    skipped: dict[str, str]


def _read(plain: SegmentationSet, image: int, *, skip: bool) -> _Read:
    """Read an image, or if it may be skipped and cannot be read, the next that can."""
    skipped: dict[str, str] = {}
    for number in range(image, image + len(plain)):
        number %= len(plain)
        try:
            return _Read(plain.read(number), number, skipped)
        except DataError as error:
            if not skip:
                raise
            skipped[plain.name_of(number)] = str(error)
    first, message = next(iter(skipped.items()))
    raise DataError(f"none of the {len(plain)} images of a source can be read; of {first}: {message}")


def file_names(images: SegmentationSet) -> list[str] | None:
    """Names of a set's images in their order, wherever the set lies; None where they are no files."""
    stored = images.stored()
    return None if stored is None else [pair.name for pair in stored.pairs]


# A `DataLoader` that catches an exception in a worker puts the worker's traceback into its message, but a `DataError` is
# one line for the user. So errors leave the workers as values, and are raised where the batches arrive.


class _DrawnImages(Dataset[Any]):
    """Images of all domains, by draw; an error where one cannot be read."""

    def __init__(self, sets: Sequence[SegmentationSet], data: DataConfig) -> None:
        self.sets, self.skip = list(sets), data.on_bad_image == "skip"

    def __getitem__(self, drawn: Draw) -> _Item | DataError:
        try:
            return self.prepare(drawn, _read(self.sets[drawn.domain], drawn.image, skip=self.skip))
        except DataError as error:
            return error

    @abstractmethod
    def prepare(self, drawn: Draw, read: _Read) -> _Item:
        """The image as it is batched."""

    def with_seed(self, drawn: Draw, transform: Callable[[], Any]) -> Any:
        """What a transform gives with the seed of a draw; the random generator is restored."""
        # `torch.manual_seed` would also seed the accelerators, which `devices=[]` does not restore.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(drawn.seed)
            return transform()


class _TrainingImages(_DrawnImages):
    """Augmented images."""

    def __init__(self, sets: Sequence[SegmentationSet], data: DataConfig, *, seed: int) -> None:
        super().__init__(sets, data)
        self.transform = TrainingTransform(data)
        self.domains = DomainIndex(data, [len(plain) for plain in sets], seed=seed)

    def prepare(self, drawn: Draw, read: _Read) -> _Item:
        """Augment image and label."""
        sample, number, skipped = read
        transform = partial(
            self.transform,
            _image(sample.image),
            torch.from_numpy(sample.label),
            centre=None if skipped else drawn.centre,
            depth=None if sample.depth is None else torch.from_numpy(sample.depth),
            show=None if skipped else drawn.show,
        )
        image, label, style = self.with_seed(drawn, transform)
        return _Item(image, label, self.domains.of(drawn.domain, number, style), sample.name, skipped)


class _PhotometricPairs(_DrawnImages):
    """An image, whole, twice: strongly altered in colour and blurred, and as it is."""

    def __init__(self, sets: Sequence[SegmentationSet], data: DataConfig) -> None:
        super().__init__(sets, data)
        self.resize, self.alter = evaluation_transform(data), photometric_transform()

    def prepare(self, drawn: Draw, read: _Read) -> _Item:
        """Alter a copy of the image."""
        plain = self.resize(_image(read.sample.image)).contiguous()
        pair = torch.stack([self.with_seed(drawn, lambda: self.alter(plain)), plain])
        return _Item(pair, torch.from_numpy(read.sample.label), drawn.domain, read.sample.name, read.skipped)


class _EvaluationImages(Dataset[Any]):
    """Resized images of one domain with their labels at their own size, by number; name and error of an unreadable one."""

    def __init__(self, plain: SegmentationSet, data: DataConfig, *, domain: int, limit: int, shard: Shard) -> None:
        self.plain, self.transform, self.domain = plain, evaluation_transform(data), domain
        self.numbers = range(min(len(plain), limit) if limit else len(plain))[shard.rank :: shard.world_size]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> _Item | tuple[str, DataError]:
        try:
            sample = self.plain.read(self.numbers[place])
        except DataError as error:
            return self.plain.name_of(self.numbers[place]), error
        image = self.transform(_image(sample.image)).contiguous()
        return _Item(image, torch.from_numpy(sample.label), self.domain, sample.name, {})


def _image(image: NDArray[np.uint8]) -> UInt8[Tensor, "3 H W"]:
    # Left as it lies in memory, colour by colour of each pixel, which is resized faster.
    return torch.from_numpy(image).permute(2, 0, 1)


def _batch(items: list[_Item]) -> Batch:
    """One batch of images and labels of one size."""
    return Batch(
        image=normalise(torch.stack([item.image for item in items])),
        label=torch.stack([item.label for item in items]).long(),
        domain=torch.tensor([item.domain for item in items]),
        name=tuple(item.name for item in items),
    )


def _pairs(items: list[_Item]) -> Batch:
    """Pairs of one batch one after the other; they carry no labels."""
    image = normalise(torch.cat([item.image for item in items]))
    return Batch(
        image,
        label=torch.full((len(image), *image.shape[2:]), IGNORE_INDEX),
        domain=torch.tensor([item.domain for item in items]).repeat_interleave(2),
        name=tuple(name for item in items for name in (f"{item.name} altered", item.name)),
    )


class TrainingLoader(DataLoader[Batch]):
    """A `DataLoader` that raises a worker's `DataError` as it was, and knows what was skipped."""

    skipped: dict[str, str]
    """Message of each image so far that could not be read, by the image's name."""

    def __init__(
        self, images: _DrawnImages, data: DataConfig, join: Callable[[list[_Item]], Batch], **options: Any
    ) -> None:
        """Make a loader of batches that `join` makes of items, with `options` of a `DataLoader`."""
        super().__init__(
            images,
            num_workers=data.workers,
            collate_fn=partial(_joined, join=join),
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator(),
            **options,
        )
        self.skipped = {}

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for loaded in super().__iter__():
            if isinstance(loaded, DataError):
                raise loaded
            batch, skipped = loaded
            self.skipped |= skipped
            yield batch


def _joined(
    items: list[_Item | DataError], join: Callable[[list[_Item]], Batch]
) -> tuple[Batch, dict[str, str]] | DataError:
    """What a worker hands over: a batch and what was skipped for it, or the first error."""
    readable: list[_Item] = []
    for item in items:
        if isinstance(item, DataError):
            return item
        readable.append(item)
    return join(readable), {name: message for item in readable for name, message in item.skipped.items()}


def training_batches(
    sets: Sequence[SegmentationSet],
    data: DataConfig,
    *,
    seed: int,
    iterations: range,
    parts: int = 1,
    shard: Shard = Shard(),  # noqa: B008  # immutable
    on_progress: Callable[[int, int], None] | None = None,
    store: bool = True,
) -> TrainingLoader:
    """The micro-batches of some iterations, composed as `data.sampling` says.

    Each has `data.images_per_domain` images of each set (balanced), as many in all, but of all sets as they come
    (proportional), or of one set, another one each iteration (alternating).

    The batch of an iteration depends on nothing but `sets`, `data`, `seed`, `parts` and `shard`: not on where `iterations`
    starts, on `data.workers`, or any random state. All parts of all processes hold together what one process without parts
    draws with that many times the images.

    Args:
        sets: the source domains; the place in this list is the domain index in the batch.
        data: batch composition, image size, augmentation, number of worker processes.
        seed: of the run.
        iterations: from the first one to make to the end of the run.
        parts: micro-batches of each iteration.
        shard: this process.
        on_progress: with `data.class_uniform` or `rare_class` called, for each set, with the number of images whose class centres are
            known, and of all.
        store: write the class centres beside the data, for the next time.

    Raises:
        UsageError: the only source has fewer images than it is to be divided into domains.
        DataError: while iterating, when an image or label is broken and `data.on_bad_image` is to stop, or none of a
            set can be read; where classes are drawn when a label is broken, at once.
    """
    images = _TrainingImages(sets, data, seed=seed)
    centres = [
        class_centres(
            plain, tile=data.tile, workers=data.workers, skip_bad=images.skip, on_progress=on_progress, store=store
        )
        for plain in (sets if data.draws_classes else ())
    ]
    streams = _streams(sets, data, centres, seed=seed)
    sampler = TrainingSampler(
        streams,
        images=data.images_per_domain * (len(sets) // len(streams)),
        alternate=data.sampling == "alternating",
        iterations=iterations,
        parts=parts,
        shard=shard,
    )
    return TrainingLoader(images, data, _batch, batch_sampler=sampler, pin_memory=torch.cuda.is_available())


def _streams(
    sets: Sequence[SegmentationSet], data: DataConfig, centres: Sequence[Centres], *, seed: int
) -> list[Stream]:
    """The streams that training draws from: one for each set, or with proportional sampling one for all."""
    every = range(len(sets))
    return [
        Stream(
            [len(sets[i]) for i in part],
            seed=seed,
            first=part[0],
            centres=[centres[i] for i in part] if centres else (),
            num_classes=len(label_space(data.space)),
            share=data.class_uniform,
            rare=RareClasses(data.rare_class, data.rare_temperature, data.rare_pixels) if data.rare_class else None,
        )
        for part in ([every] if data.sampling == "proportional" else [every[i : i + 1] for i in every])
    ]


def photometric_trials(
    sets: Sequence[SegmentationSet],
    data: DataConfig,
    *,
    seed: int,
    trials: int,
    pairs: int,
    shard: Shard = Shard(),  # noqa: B008  # immutable
) -> Iterator[TrainingLoader]:
    """For each trial the batches in which altered images and their originals take turns (Choi et al., §3.3).

    The same for the same arguments. The sources take turns; images are drawn as for training, and each process has
    its shard of them.

    Args:
        sets: the source domains.
        data: size of the images, images of a batch, number of worker processes.
        seed: of the run.
        trials: number of trials.
        pairs: of each trial, over all processes.
        shard: this process.

    Raises:
        DataError: while iterating, when an image is broken.
    """
    for trial in range(trials):
        # Other images and alterations than the training's: another seed for each trial.
        trial_seed = int(np.random.SeedSequence([seed, 1 + trial]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        streams = [Stream([len(plain)], seed=trial_seed, first=domain) for domain, plain in enumerate(sets)]
        numbers = range(shard.rank, pairs, shard.world_size)
        draws = [streams[number % len(sets)].draw(number // len(sets)) for number in numbers]
        size = data.images_per_domain if data.size else 1  # images of their own size do not stack
        batches = [draws[first : first + size] for first in range(0, len(draws), size)]
        yield TrainingLoader(_PhotometricPairs(sets, data), data, _pairs, batch_sampler=batches)


def evaluation_batches(
    plain: SegmentationSet,
    data: DataConfig,
    *,
    domain: int,
    batch_size: int,
    limit: int = 0,
    shard: Shard = Shard(),  # noqa: B008  # immutable
    on_skip: Callable[[str, str], None] | None = None,
) -> Iterator[Batch]:
    """The images of a set in order, each in exactly one batch, with their labels at their own size.

    Several processes take turns, image by image, so that each image is in the batches of exactly one.

    A batch holds `batch_size` images, or fewer at the end and where the next image or label has another size.

    Args:
        plain: the domain.
        data: size of the images, number of worker processes.
        domain: domain index that the batches carry.
        batch_size: most images in a batch.
        limit: largest number of images of all processes; 0 takes all.
        shard: this process.
        on_skip: called with name and message of each image that cannot be read and is left out, where
            `data.on_bad_image` is to skip it; without it none is.

    Raises:
        DataError: while iterating, when an image or label is broken and not left out.
    """
    images = _EvaluationImages(plain, data, domain=domain, limit=limit, shard=shard)
    waiting: list[_Item] = []
    for item in item_loader(images, workers=data.workers):
        if not isinstance(item, _Item):
            if on_skip is None or data.on_bad_image != "skip":
                raise item[1]
            on_skip(item[0], str(item[1]))
            continue
        shapes = [(one.image.shape, one.label.shape) for one in (item, *waiting[:1])]
        if waiting and (len(waiting) == batch_size or shapes[0] != shapes[1]):
            yield _batch(waiting)
            waiting = []
        waiting.append(item)
    if waiting:
        yield _batch(waiting)
