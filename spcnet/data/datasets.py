"""Data sets as they are trained and tested on: images with labels in the wanted space, in a fixed order.

`open_domain` turns what stands in a recipe (`camvid`, `idd_lite@train`, `streets/night`, `cityscapes+fog`) into a
`SegmentationSet`.

Everything that costs little to check is checked when a domain is opened, so that a run stops before it has trained:
names, folders, and that each photo has its label. What is inside a file is checked when it is read.
"""

import mmap
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from spcnet import labels
from spcnet.config import DataConfig, DomainSpec
from spcnet.data.catalog import dataset
from spcnet.data.folders import Pair, excluded_images, find_split, lines_without_image, old_copy, root_of
from spcnet.data.images import read_label, read_photo, size_misfit
from spcnet.data.label_formats import LabelFormat
from spcnet.errors import DataError, UsageError, unknown_name_error
from spcnet.labels import LabelSpace
from spcnet.synthesis import streets, weather

FIRST_TEST_SCENE = 1_000_000
"""Number of the first generated scene that is tested on; all before it are trained on."""


class Sample(NamedTuple):
    """One image with its truth."""

    image: NDArray[np.uint8]
    """RGB, H×W×3."""
    label: NDArray[np.uint8]
    """Class of each pixel, H×W: 0..K-1 of the label space, or `labels.IGNORE`."""
    name: str
    """What to call the image in messages and files; unique within its set."""
    depth: NDArray[np.float32] | None = None
    """Distance of each pixel in metres, H×W, where it is known."""


class SegmentationSet(ABC):
    """Labelled images of one domain, in a fixed order."""

    remarks: tuple[str, ...] = ()
    """What its user should hear of the files it was opened from, such as those that were left out; a line each."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int, /) -> Sample:
        """The image with that number, 0..len-1, the same at each call.

        Raises:
            DataError: a file is unreadable, or image and label do not belong together.
        """


def print_remarks(sets: Iterable[SegmentationSet], console: Console) -> None:
    """Print what there is to say of the files that sets were opened from, each line once."""
    for remark in dict.fromkeys(remark for one in sets for remark in one.remarks):
        console.print(remark, style="yellow", highlight=False, markup=False, soft_wrap=True)


class FolderSet(SegmentationSet):
    """Photos and label images that lie on disk as pairs."""

    def __init__(
        self,
        pairs: list[Pair],
        *,
        table: NDArray[np.uint8],
        form: LabelFormat = LabelFormat(),  # noqa: B008  # frozen
        remarks: tuple[str, ...] = (),
    ) -> None:
        """Keep the pairs in the order given.

        Args:
            pairs: where the files lie.
            table: class of each native id, 256 entries (`labels.remap`).
            form: how the label images say the native id.
            remarks: see `SegmentationSet`.
        """
        self.pairs, self.table, self.form, self.remarks = pairs, table, form, remarks

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, /) -> Sample:
        """Read one pair from disk; see `SegmentationSet.read`."""
        pair = self.pairs[index]
        photo = read_photo(pair.image)
        label = read_label(pair.label, self.form, photo=photo.geometry)
        if misfit := size_misfit(photo.geometry, label.shape):
            raise DataError(
                f"{pair.image} does not fit {pair.label}: {misfit}; image and label must have the same size"
            )
        return Sample(photo.pixels, labels.apply(self.table, label, str(pair.label)), pair.name)


class SceneMemory:
    """Images with labels that cost more to make than to keep, in memory that forked processes share.

    What one worker has made, all others have. The memory is taken only as images come in.
    """

    def __init__(self, num_scenes: int, *, size: tuple[int, int], limit: int = 512 * 2**20) -> None:
        """Set memory aside.

        Args:
            num_scenes: how many images there are, numbered from 0.
            size: height and width in pixels of all of them.
            limit: bytes that may be used; the last images, for which they do not suffice, are not kept.
        """
        self.size = size
        self.num_kept = min(num_scenes, limit // (4 * size[0] * size[1]))
        self._set_aside()

    def _set_aside(self) -> None:
        # An anonymous map and not `multiprocessing.shared_memory`, for which containers have little room.
        num_pixels = self.num_kept * self.size[0] * self.size[1]
        memory = np.frombuffer(mmap.mmap(-1, 4 * (num_pixels + self.num_kept) + 1), np.uint8)
        self.pixels = memory[: 4 * num_pixels].reshape(self.num_kept, *self.size, 4)
        self.checks = memory[4 * num_pixels : -1].view(np.uint32)

    def __getstate__(self) -> tuple[tuple[int, int], int]:
        return self.size, self.num_kept

    def __setstate__(self, state: tuple[tuple[int, int], int]) -> None:
        self.size, self.num_kept = state
        self._set_aside()  # a process that is sent a copy remembers for itself

    def get(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """Image and label of that number, if they are kept."""
        # Another process may be writing these very pixels: only what is whole has its checksum.
        if index >= self.num_kept or not self.checks[index]:
            return None
        kept = self.pixels[index].copy()
        if self.checks[index] != _checksum(kept):
            return None
        return np.ascontiguousarray(kept[..., :3]), np.ascontiguousarray(kept[..., 3])

    def put(self, index: int, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        """Keep an image and its label, if there is room for that number."""
        if index < self.num_kept:
            kept = np.dstack([image, label])
            self.pixels[index] = kept
            self.checks[index] = _checksum(kept)


def _checksum(pixels: NDArray[np.uint8]) -> int:
    """Never the 0 of memory that nothing was written to."""
    return zlib.crc32(pixels.data) or 1


class StreetsSet(SegmentationSet):
    """Generated scenes in one rendering style.

    No scene of the split `train` is ever one of `test`. The scenes to train on differ from style to style, as no two
    real sets show the same places. Those to test on are the same in every style, so that a difference between two
    scores comes from the style alone.
    """

    def __init__(
        self,
        style: str,
        *,
        split: str,
        num_scenes: int,
        size: tuple[int, int],
        table: NDArray[np.uint8],
        seed: int,
        with_depth: bool = False,
    ) -> None:
        """Describe the scenes; each is generated when it is read for the first time, and then kept in memory.

        Args:
            style: a name in `streets.STYLES`.
            split: train or test.
            num_scenes: how many scenes the set has.
            size: height and width in pixels.
            table: class of each train id, 256 entries (`labels.remap`).
            seed: other seeds give other scenes.
            with_depth: give the samples their depth, and keep nothing.

        Raises:
            UsageError: more scenes than there are numbers for.
        """
        if num_scenes > FIRST_TEST_SCENE:
            raise UsageError(f"data.{split}_scenes is {num_scenes}: it must be at most {FIRST_TEST_SCENE}")
        self.style = style
        self.split = split
        self.num_scenes = num_scenes
        self.size = size
        self.table = table
        self.first = FIRST_TEST_SCENE if split == "test" else 0
        self.seed = seed if split == "test" else seed + zlib.crc32(style.encode())
        self.memory = None if with_depth else SceneMemory(num_scenes, size=size)

    def __len__(self) -> int:
        return self.num_scenes

    def read(self, index: int, /) -> Sample:
        """Generate one scene, or remember it; see `SegmentationSet.read`."""
        if not 0 <= index < self.num_scenes:
            raise IndexError(index)
        name = f"{self.style}_{self.split}_{index:06d}"
        known = self.memory.get(index) if self.memory else None
        if known:
            return Sample(*known, name)
        scene = streets.generate(self.first + index, style=self.style, seed=self.seed, size=self.size)
        label = labels.apply(self.table, scene.label, name)
        if self.memory is None:
            return Sample(scene.image, label, name, scene.depth)
        self.memory.put(index, scene.image, label)
        return Sample(scene.image, label, name)


class WeatherSet(SegmentationSet):
    """A set whose images are seen in another weather. The same image always gets the same weather."""

    def __init__(self, plain: SegmentationSet, style: str, *, seed: int) -> None:
        """Put the weather on a set.

        Args:
            plain: the set as it is.
            style: a name in `weather.WEATHER`.
            seed: other seeds give other drops and flakes.
        """
        self.plain = plain
        self.remarks = plain.remarks
        self.style = style
        self.seed = seed

    def __len__(self) -> int:
        return len(self.plain)

    def read(self, index: int, /) -> Sample:
        """Read one image and change its weather; see `SegmentationSet.read`."""
        sample = self.plain.read(index)
        # From the name and not the number: a subset or a longer set shows the same image in the same weather.
        seed = zlib.crc32(sample.name.encode(), self.seed)
        image, label = weather.apply_weather_pair(sample.image, sample.label, self.style, seed=seed, depth=sample.depth)
        return sample._replace(image=image, label=label)


def open_domain(
    spec: DomainSpec, *, data: DataConfig, space: LabelSpace, training: bool, seed: int = 0
) -> SegmentationSet:
    """Open the domain that `SET[/SUBSET][@SPLIT][+STYLE]` names.

    Args:
        spec: the domain; `DomainSpec.parse` reads it from text.
        data: says where the sets lie, and how many and how large the generated scenes are.
        space: the classes that the labels are brought to.
        training: take the set's split to train on, where the spec names none; otherwise the one to test on.
        seed: of generated scenes and of weather. Not the seed of a run: runs with different seeds share their data.

    Raises:
        UsageError: a set, subset, split or style is unknown, or the space cannot tell the set's classes apart.
        DataError: the set's files are not where they should be.
    """
    info = dataset(spec.dataset, data)
    for given in data.roots:
        dataset(given, data)
    if spec.subset is not None and spec.subset not in info.subsets:
        if not info.subsets:
            raise UsageError(f"the data set {spec.dataset} has no subsets: write {spec.dataset} instead of {spec}")
        raise unknown_name_error(spec.subset, list(info.subsets), f"subset of {spec.dataset}")
    if spec.split is not None and spec.split not in info.splits:
        raise unknown_name_error(spec.split, list(info.splits), f"split of {spec.dataset}")
    if spec.style is not None and spec.style not in weather.WEATHER:
        raise unknown_name_error(spec.style, list(weather.WEATHER), "weather style")

    split = spec.split or (info.train_split if training else info.test_split)
    opened: SegmentationSet
    if not info.layouts:
        if spec.subset is None:
            raise UsageError(
                f"{spec} does not say which rendering style: write {spec.dataset}/STYLE, where STYLE is one of "
                f"{', '.join(info.subsets)}"
            )
        if data.size is None:
            raise UsageError(f"data.size is null: the scenes of {spec} are drawn at that size, so name one")
        opened = StreetsSet(
            spec.subset,
            split=split,
            num_scenes=data.train_scenes if split == "train" else data.test_scenes,
            size=data.size,
            table=labels.remap(info.native, space, spec.dataset),
            seed=seed,
            with_depth=spec.style is not None,
        )
    else:
        if spec.dataset in data.sets:
            for name in info.native.values():
                if name not in labels.known_names(space):
                    known = labels.known_names(space)
                    raise unknown_name_error(
                        name, known, f"class of the label space {space.name} in data.sets.{spec.dataset}"
                    )
        root = root_of(spec.dataset, data)
        excluded = excluded_images(spec.dataset, root, data)
        found = find_split(spec.dataset, root, split=split, subset=spec.subset, data=data, excluded=excluded)
        table = labels.remap(found.table, space, spec.dataset)
        old = old_copy(root, spec.dataset)
        remarks = (*([old] if old else []), *found.remarks, *lines_without_image(spec.dataset, excluded, data))
        opened = FolderSet(found.pairs, table=table, form=found.form, remarks=remarks)
    return WeatherSet(opened, spec.style, seed=seed) if spec.style else opened
