"""From data sets to batches: for training balanced over the domains and repeatable, for evaluation in order.

A training batch is a pure function of the seed and the iteration. Nothing is drawn from a stream that has to be kept:
each place of each batch has a number, the number gives the image and the seed of its augmentation. So a run that goes
on at iteration t sees what it would have seen, whatever the number of worker processes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from spcnet.config import DataConfig
from spcnet.data.centroids import (
    Centres,
    class_centres,
    class_map,
    innermost,
    unchanged,
)
from spcnet.data.datasets import FolderSet, Sample, SegmentationSet
from spcnet.data.transforms import TrainingTransform, evaluation_transform, normalise, photometric_transform
from spcnet.errors import DataError, UsageError
from spcnet.labels import IGNORE, label_space
from spcnet.signals import leave_signals_to_parent
from spcnet.types import IGNORE_INDEX, Batch


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


class Stream:
    """The endless series of draws from one source, or from several that are joined.

    It goes in epochs, each with as many draws as there are images, in a random order of its own. Without centres, each
    image comes once an epoch. With them, a share of the draws is dealt out to the classes in turn, so that over the
    epochs all get equally many: for each the images that show it take turns, the crop around its centre. The other
    draws are random images, each at most once an epoch; so are those of classes that no image shows.
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
    ) -> None:
        """Plan a stream.

        Args:
            lengths: number of images of each of its sources.
            seed: of the run.
            first: domain index of the first of its sources.
            centres: for each of its sources, where the classes are.
            num_classes: K.
            share: of the draws that classes get.
        """
        self.seed, self.first, self.share, self.num_classes = seed, first, share, num_classes
        self.begins = np.cumsum([0, *lengths])
        """Number of the first image of each source among those of all, and the number of all."""
        joined = [one._replace(image=one.image + begin) for one, begin in zip(centres, self.begins, strict=False)]
        self.centres = Centres(*map(np.concatenate, zip(*joined, strict=True))) if joined else None
        self.epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}

    def __len__(self) -> int:
        return int(self.begins[-1])

    def draw(self, position: int) -> Draw:
        """The draw at a position: 0, 1, 2, ... along the stream."""
        number, place = divmod(position, len(self))
        if number not in self.epochs:
            # A batch may end one epoch and begin the next.
            self.epochs = {known: plan for known, plan in self.epochs.items() if known == number - 1}
            self.epochs[number] = self._plan(number)
        images, centres = self.epochs[number]
        image = int(images[place])
        source = int(np.searchsorted(self.begins, image, side="right")) - 1
        augmentation = np.random.SeedSequence([self.seed, self.first, position]).generate_state(1, np.uint64)[0]
        row, column = (float(share) for share in centres[place])
        return Draw(
            self.first + source,
            image - int(self.begins[source]),
            int(augmentation >> 1),
            None if np.isnan(row) else (row, column),
        )

    def _plan(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Image of each place of an epoch, and its centre: N×2, NaN for none."""
        length = len(self)
        rng = np.random.default_rng([self.seed, self.first, epoch])
        images = rng.permutation(length)
        centres = np.full((length, 2), np.nan, np.float32)
        if self.centres is None:
            return images, centres
        turns = np.arange(int(epoch * length * self.share), int((epoch + 1) * length * self.share))
        wanted = np.bincount(turns % self.num_classes, minlength=self.num_classes)
        known = [np.flatnonzero(self.centres.label == label) for label in range(self.num_classes)]
        drawn = [np.resize(rng.permutation(own), count) for own, count in zip(known, wanted, strict=True) if len(own)]
        picked = np.concatenate([*drawn, np.empty(0, np.int64)])
        images[: len(picked)] = self.centres.image[picked]
        centres[: len(picked), 0] = self.centres.row[picked]
        centres[: len(picked), 1] = self.centres.column[picked]
        order = rng.permutation(length)
        return images[order], centres[order]


class TrainingSampler(Sampler[list[Draw]]):
    """The draws of each iteration."""

    def __init__(
        self,
        streams: Sequence[Stream],
        *,
        images: int,
        iterations: int,
        parts: int = 1,
        alternate: bool = False,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan a run.

        Args:
            streams: what is drawn from.
            images: how many images of each stream a part of the batch of this process has.
            iterations: iteration at which the run ends.
            parts: in how many parts the batch of an iteration comes; over the processes they are one large batch.
            alternate: one stream has all of a batch, another one of the next.
            start: iteration at which this process takes it up.
            rank: number of this process among those that train together; each draws other images.
            world_size: how many processes train together.
        """
        self.streams = list(streams)
        self.images = images
        self.alternate = alternate
        self.parts = parts
        self.iterations = iterations
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return max(0, self.iterations - self.start) * self.parts

    def __iter__(self) -> Iterator[list[Draw]]:
        for number in range(self.start * self.parts, self.iterations * self.parts):
            iteration, part = divmod(number, self.parts)
            turn, which = divmod(iteration, len(self.streams)) if self.alternate else (iteration, None)
            first = ((turn * self.parts + part) * self.world_size + self.rank) * self.images
            yield [
                stream.draw(first + slot)
                for stream in (self.streams if which is None else [self.streams[which]])
                for slot in range(self.images)
            ]


class _Domains:
    """The domain index of each image: its source's, or that of its part of the only source."""

    def __init__(self, data: DataConfig, lengths: Sequence[int], *, seed: int) -> None:
        self.parts, self.by = data.pseudo_domains, data.pseudo_by
        if self.parts and self.by == "random":
            if lengths[0] < self.parts:
                raise UsageError(
                    f"data.pseudo_domains is {self.parts}, but the source has {lengths[0]} images: every domain needs one"
                )
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


class _Item(NamedTuple):
    """One image, ready to be batched."""

    image: UInt8[Tensor, "*pair 3 H W"]
    label: UInt8[Tensor, "h w"]
    domain: int
    name: str
    skipped: dict[str, str]
    """Message of each unreadable image that this one stands in for, by its name."""


class _Loaded(NamedTuple):
    """What a worker hands over."""

    batch: Batch
    skipped: dict[str, str]


class _Unreadable(NamedTuple):
    """An image that evaluation cannot read."""

    name: str
    error: DataError


class _Read(NamedTuple):
    """An image of a source, or the next one that is readable."""

    sample: Sample
    image: int
    skipped: dict[str, str]


def _read(plain: SegmentationSet, image: int, *, skip: bool) -> _Read:
    """Read an image, or if it may be skipped and cannot be read, the next that can.

    Raises:
        DataError: it cannot be read and may not be skipped, or none of the set can be read.
    """
    skipped: dict[str, str] = {}
    for number in range(image, image + len(plain)):
        number %= len(plain)
        try:
            return _Read(plain.read(number), number, skipped)
        except DataError as error:
            if not skip:
                raise
            skipped[_name(plain, number)] = str(error)
    first, message = next(iter(skipped.items()))
    raise DataError(f"none of the {len(plain)} images of a source can be read; of {first}: {message}")


def _name(plain: SegmentationSet, image: int) -> str:
    """What to call an image that cannot be read."""
    stored = innermost(plain)
    return stored.pairs[image].name if isinstance(stored, FolderSet) else f"image {image}"


def file_names(images: SegmentationSet) -> list[str] | None:
    """Names of a set's images in their order, wherever the set lies; None where they are no files."""
    stored = innermost(images)
    return [pair.name for pair in stored.pairs] if isinstance(stored, FolderSet) else None


FEW = 4
"""Images that are looked at for a labelled pixel before the others are, by all worker processes."""


def check_labelled(
    name: str,
    images: SegmentationSet,
    *,
    workers: int = 0,
    say: Callable[[str], object] = lambda text: None,
) -> None:
    """Refuse a source without a single labelled pixel, from which nothing can be learnt; see `labelled`.

    Args:
        name: of the set, as it was written.
        images: the set.
        workers: processes that read, where many images have to be read.
        say: is told when many have to be read.

    Raises:
        DataError: no image that can be read has a labelled pixel.
    """
    if not labelled(name, images, workers=workers, say=say):
        raise DataError(
            f"the source {name} has no labelled pixel, so nothing can be learnt from it: of its {len(images):,} images none "
            "that can be read has a pixel that is not void. Check that the label images are the set's class maps and that its "
            "split has public labels, or take it out of data.sources"
        )


def labelled(
    name: str, images: SegmentationSet, *, workers: int = 0, say: Callable[[str], object] = lambda text: None
) -> bool:
    """Whether any pixel of a set has a class.

    Images of a set of files are looked at in random order until one has, as a rule the first. Only of a set with hardly
    any labels more are read, up to all. What is generated is labelled; and of a set in which nothing can be read, that is
    said by whoever reads it.

    Args:
        name: of the set, for `say`.
        images: the set.
        workers: processes that read, where many images have to be read.
        say: is told when many have to be read.
    """
    stored = innermost(images)
    if not isinstance(stored, FolderSet):
        return True
    order = np.random.default_rng(0).permutation(len(stored))
    readable = False
    for begin, end, helpers in ((0, FEW, 0), (FEW, len(order), workers)):
        part = order[begin:end]
        if begin and len(part):
            say(f"{FEW} images of {name} that were looked at have no labelled pixel: looking at all {len(order):,}")
        loader = DataLoader(
            _HasLabels(stored, part),
            batch_size=None,
            num_workers=min(helpers, len(part)),
            worker_init_fn=leave_signals_to_parent,
            collate_fn=unchanged,
            generator=torch.Generator(),
        )
        for has_labels in loader:
            if has_labels:
                return True
            readable |= has_labels is not None
    return not readable


class _HasLabels(Dataset[bool | None]):
    """Whether images that can be read have a labelled pixel; None for one that cannot."""

    def __init__(self, stored: SegmentationSet, order: NDArray[np.int64]) -> None:
        self.stored, self.order = stored, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> bool | None:
        index = int(self.order[place])
        try:
            if int(class_map(self.stored, index).min(initial=IGNORE)) == IGNORE:
                return False
            self.stored.read(index)  # a label is of no use without its photo
        except DataError:
            return None
        return True


class _TrainingImages(Dataset[Any]):
    """Augmented images of all domains, by draw."""

    def __init__(self, sets: Sequence[SegmentationSet], data: DataConfig, *, seed: int) -> None:
        self.sets = list(sets)
        self.transform = TrainingTransform(data)
        self.domains = _Domains(data, [len(plain) for plain in sets], seed=seed)
        self.skip = data.on_bad_image == "skip"

    def __getitem__(self, drawn: Draw) -> _Item | DataError:
        try:
            sample, found, skipped = _read(self.sets[drawn.domain], drawn.image, skip=self.skip)
        except DataError as error:
            return error
        # The generator that the transforms draw from is given back as it was. `torch.manual_seed` would also seed the
        # accelerators, which `devices=[]` does not give back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(drawn.seed)
            image, label, style = self.transform(
                _image(sample.image),
                torch.from_numpy(sample.label),
                centre=None if skipped else drawn.centre,
                depth=None if sample.depth is None else torch.from_numpy(sample.depth),
            )
        return _Item(image, label, self.domains.of(drawn.domain, found, style), sample.name, skipped)


class _EvaluationImages(Dataset[Any]):
    """Resized images of one domain with their labels at their own size, by number."""

    def __init__(self, plain: SegmentationSet, data: DataConfig, *, domain: int, limit: int, share: slice) -> None:
        self.plain = plain
        self.transform = evaluation_transform(data)
        self.domain = domain
        self.numbers = range(min(len(plain), limit) if limit else len(plain))[share]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> _Item | _Unreadable:
        index = self.numbers[place]
        try:
            sample = self.plain.read(index)
        except DataError as error:
            return _Unreadable(_name(self.plain, index), error)
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


# A `DataLoader` that finds an exception in a worker puts the worker's traceback into its message, but a `DataError` is
# one line for the user. So errors leave the workers as values, and are raised where the batches arrive.


def _loaded_or_error(items: list[_Item | DataError]) -> _Loaded | DataError:
    return _joined(items, _batch)


def _joined(items: list[_Item | DataError], join: Callable[[list[_Item]], Batch]) -> _Loaded | DataError:
    error = next((item for item in items if isinstance(item, DataError)), None)
    if error:
        return error
    found = [item for item in items if not isinstance(item, DataError)]
    return _Loaded(join(found), {name: message for item in found for name, message in item.skipped.items()})


class TrainingLoader(DataLoader[Batch]):
    """A `DataLoader` that raises a worker's `DataError` as it was, and knows what was skipped."""

    skipped: dict[str, str]
    """Message of each image that could not be read, of those met so far, by the image's name."""

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        """Take the options of a `DataLoader`."""
        super().__init__(dataset, worker_init_fn=leave_signals_to_parent, generator=torch.Generator(), **options)
        self.skipped = {}

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for loaded in super().__iter__():
            if isinstance(loaded, DataError):
                raise loaded
            batch, skipped = loaded
            self.skipped |= skipped
            yield batch


def training_batches(
    sets: Sequence[SegmentationSet],
    data: DataConfig,
    *,
    seed: int,
    iterations: int,
    parts: int = 1,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    store: bool = True,
) -> TrainingLoader:
    """The batches of iterations `start` to `iterations - 1`, composed as `data.sampling` says; of each its parts.

    Each has `data.images_per_domain` images of each set (balanced), as many in all, but of all sets as they come
    (proportional), or so many of one set, another one each iteration (alternating).

    The batch of an iteration depends on nothing but the arguments `sets`, `data`, `seed`, `parts`, `rank` and
    `world_size`: not on `start`, `data.workers`, or any random state. All parts of all processes hold together what one
    process without parts draws with so many times the images.

    Args:
        sets: the source domains; the place in this list is the domain index in the batch.
        data: batch composition, image size, augmentation, number of worker processes.
        seed: of the run.
        iterations: iteration at which the run ends.
        parts: in how many parts each batch comes.
        start: iteration at which it is taken up.
        rank: number of this process among those that train together.
        world_size: how many processes train together; each gets its own images.
        on_progress: told, for each set, of how many images the places of the classes are known, and of how many they
            will be; with `data.class_uniform`.
        store: write down the places of the classes beside the data, for the next time.

    Raises:
        UsageError: the only source has fewer images than it is to be divided into domains.
        DataError: while iterating, when an image or label is broken and `data.on_bad_image` is to stop, or none of a
            set can be read; with `data.class_uniform` when a label is broken, at once.
    """
    images = _TrainingImages(sets, data, seed=seed)
    joined = data.sampling == "proportional"
    return TrainingLoader(
        images,
        batch_sampler=TrainingSampler(
            _streams(sets, data, seed=seed, joined=joined, on_progress=on_progress, store=store),
            images=data.images_per_domain * (len(sets) if joined else 1),
            alternate=data.sampling == "alternating",
            iterations=iterations,
            parts=parts,
            start=start,
            rank=rank,
            world_size=world_size,
        ),
        num_workers=data.workers,
        collate_fn=_loaded_or_error,
        pin_memory=torch.cuda.is_available(),
    )


def _streams(
    sets: Sequence[SegmentationSet],
    data: DataConfig,
    *,
    seed: int,
    joined: bool,
    on_progress: Callable[[int, int], None] | None,
    store: bool,
) -> list[Stream]:
    """What training draws from: one stream for each set, or a single one."""
    centres: list[Centres] = []
    if data.class_uniform:
        skip_bad = data.on_bad_image == "skip"
        centres = [
            class_centres(
                plain, tile=data.tile, workers=data.workers, skip_bad=skip_bad, on_progress=on_progress, store=store
            )
            for plain in sets
        ]
    lengths = [len(plain) for plain in sets]
    num_classes = len(label_space(data.space))
    return [
        Stream(
            lengths[part],
            seed=seed,
            first=part.start,
            centres=centres[part],
            num_classes=num_classes,
            share=data.class_uniform,
        )
        for part in ([slice(0, len(sets))] if joined else [slice(i, i + 1) for i in range(len(sets))])
    ]


class _PhotometricPairs(Dataset[Any]):
    """An image, whole, twice: strongly altered in colour and blurred, and as it is; by draw."""

    def __init__(self, sets: Sequence[SegmentationSet], data: DataConfig) -> None:
        self.sets = list(sets)
        self.resize, self.alter = evaluation_transform(data), photometric_transform()
        self.skip = data.on_bad_image == "skip"

    def __getitem__(self, drawn: Draw) -> _Item | DataError:
        try:
            sample, _, skipped = _read(self.sets[drawn.domain], drawn.image, skip=self.skip)
        except DataError as error:
            return error
        plain = self.resize(_image(sample.image)).contiguous()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(drawn.seed)
            altered = self.alter(plain)
        pair = torch.stack([altered, plain])
        return _Item(pair, torch.from_numpy(sample.label), drawn.domain, sample.name, skipped)


def _pairs_or_error(items: list[_Item | DataError]) -> _Loaded | DataError:
    return _joined(items, _pairs)


def _pairs(items: list[_Item]) -> Batch:
    """Pairs of one batch one after the other; they carry no labels."""
    image = normalise(torch.cat([item.image for item in items]))
    return Batch(
        image,
        label=torch.full((len(image), *image.shape[2:]), IGNORE_INDEX),
        domain=torch.tensor([item.domain for item in items]).repeat_interleave(2),
        name=tuple(name for item in items for name in (f"{item.name} altered", item.name)),
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
        own = int(np.random.SeedSequence([seed, 1 + trial]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        streams = [Stream([len(plain)], seed=own, first=domain) for domain, plain in enumerate(sets)]
        draws = [streams[number % len(sets)].draw(number // len(sets)) for number in range(rank, pairs, world_size)]
        size = data.images_per_domain if data.size else 1  # images of their own size do not stack
        yield TrainingLoader(
            _PhotometricPairs(sets, data),
            batch_sampler=[draws[first : first + size] for first in range(0, len(draws), size)],
            num_workers=data.workers,
            collate_fn=_pairs_or_error,
        )


def evaluation_batches(
    plain: SegmentationSet,
    data: DataConfig,
    *,
    domain: int,
    batch_size: int,
    limit: int = 0,
    rank: int = 0,
    world_size: int = 1,
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
        limit: stop after so many images of all processes; 0 takes all.
        rank: number of this process among those that score together.
        world_size: how many processes score together.
        on_skip: called with name and message of each image that cannot be read and is left out, where
            `data.on_bad_image` is to skip it; without it none is.

    Raises:
        DataError: while iterating, when an image or label is broken and not left out.
    """
    loader = DataLoader(
        _EvaluationImages(plain, data, domain=domain, limit=limit, share=slice(rank, None, world_size)),
        batch_size=None,
        num_workers=data.workers,
        worker_init_fn=leave_signals_to_parent,
        collate_fn=unchanged,
        generator=torch.Generator(),
    )
    waiting: list[_Item] = []
    for item in loader:
        if isinstance(item, _Unreadable):
            if on_skip is None or data.on_bad_image != "skip":
                raise item.error
            on_skip(item.name, str(item.error))
            continue
        shapes = [(one.image.shape, one.label.shape) for one in (item, *waiting[:1])]
        if waiting and (len(waiting) == batch_size or shapes[0] != shapes[1]):
            yield _batch(waiting)
            waiting = []
        waiting.append(item)
    if waiting:
        yield _batch(waiting)
