"""Data sets as they are trained and tested on: images with labels in the wanted space, in a fixed order.

`open_domain` turns what stands in a recipe (`camvid`, `idd_lite@train`, `streets/night`, `cityscapes+fog`) into a
`SegmentationSet`.

Everything that costs little to check is checked when a domain is opened, so that a run stops before it has trained:
names, folders, and that each photo has its label. What is inside a file is checked when it is read.
"""

import copy
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
from spcnet.data.exclude import Excluded
from spcnet.data.folders import Pair, SetFolder
from spcnet.data.images import geometry_of, read_photo, size_misfit
from spcnet.data.label_formats import LabelFormat
from spcnet.data.label_images import read_label
from spcnet.data.roots import old_copy, root_of
from spcnet.errors import DataError, UsageError, unknown_name_error
from spcnet.formatting import print_plain
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
    """Remarks about the files it was opened from, such as those that were left out; a line each."""
    remembers = False
    """Whether its images are made when they are first read, and then kept."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int, /) -> Sample:
        """The image with that number, 0..len-1, the same at each call.

        Raises:
            DataError: a file is unreadable, or image and label do not belong together.
        """

    def name_of(self, index: int, /) -> str:
        """What to call an image in messages, without reading it."""
        return f"image {index}"

    def stored(self) -> "FolderSet | None":
        """The files that its images are read from, in the same order; None where there are none."""
        return None

    def label_of(self, index: int, /) -> NDArray[np.uint8]:
        """Class of each pixel of an image, H×W, before its weather is changed; a photo that is a file is not decoded.

        Raises:
            DataError: the label cannot be read.
        """
        return self.read(index).label

    def first(self, number: int, /) -> "SegmentationSet":
        """The first images of the set, or the set itself where it cannot be cut."""
        return self


def print_remarks(sets: Iterable[SegmentationSet], console: Console) -> None:
    """Print what there is to say of the files that sets were opened from, each line once."""
    for remark in dict.fromkeys(remark for one in sets for remark in one.remarks):
        print_plain(console, remark, style="yellow")


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
        """Keep the pairs in the order given; `table` has the class of each native id, 256 entries (`labels.remap`)."""
        self.pairs, self.table, self.form, self.remarks = pairs, table, form, remarks

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, /) -> Sample:
        """Read one pair from disk; see `SegmentationSet.read`."""
        pair = self.pairs[index]
        photo = read_photo(pair.image)
        label = read_label(pair.label, self.form, photo=photo.geometry)
        if misfit := size_misfit(photo.geometry, label.shape):
            rule = "image and label must have the same size"
            raise DataError(f"{pair.image} does not fit {pair.label}: {misfit}; {rule}")
        return Sample(photo.pixels, labels.apply(self.table, label, str(pair.label)), pair.name)

    def name_of(self, index: int, /) -> str:
        """Name of the pair."""
        return self.pairs[index].name

    def stored(self) -> "FolderSet":
        """Itself."""
        return self

    def label_of(self, index: int, /) -> NDArray[np.uint8]:
        """Read the label, turned along with a photo that is stored on its side; see `SegmentationSet.label_of`."""
        pair = self.pairs[index]
        try:
            photo = geometry_of(pair.image)
        except DataError:
            photo = None  # reading the photo will say what is wrong
        return labels.apply(self.table, read_label(pair.label, self.form, photo=photo), str(pair.label))

    def first(self, number: int, /) -> "FolderSet":
        """The first pairs."""
        return FolderSet(self.pairs[:number], table=self.table, form=self.form, remarks=self.remarks)


class SceneMemory:
    """Images with labels that cost more to make than to keep, in memory that forked processes share.

    What one worker has made, all others have. The memory is taken only as images come in.
    """

    def __init__(self, num_scenes: int, *, size: tuple[int, int], limit: int = 512 * 2**20) -> None:
        """Reserve memory for `num_scenes` images of one size; the last, for which `limit` bytes do not suffice, are not kept."""
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
        unknown: bool = False,
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
            unknown: with objects on the road that no class names.

        Raises:
            UsageError: more scenes than there are numbers for.
        """
        if num_scenes > FIRST_TEST_SCENE:
            raise UsageError(f"data.{split}_scenes is {num_scenes}: it must be at most {FIRST_TEST_SCENE}")
        self.unknown = unknown
        self.style, self.split, self.num_scenes, self.size, self.table = style, split, num_scenes, size, table
        self.first_scene = FIRST_TEST_SCENE if split == "test" else 0
        self.seed = seed if split == "test" else seed + zlib.crc32(style.encode())
        self.memory = None if with_depth else SceneMemory(num_scenes, size=size)

    def __len__(self) -> int:
        return self.num_scenes

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        """Whether scenes are kept."""
        return self.memory is not None

    def read(self, index: int, /) -> Sample:
        """Generate one scene, or remember it; see `SegmentationSet.read`."""
        if not 0 <= index < self.num_scenes:
            raise IndexError(index)
        name = self.name_of(index)
        known = self.memory.get(index) if self.memory else None
        if known:
            return Sample(*known, name)
        scene = streets.generate(
            self.first_scene + index, style=self.style, seed=self.seed, size=self.size, unknown=self.unknown
        )
        label = labels.apply(self.table, scene.label, name)
        if self.memory is not None:
            self.memory.put(index, scene.image, label)
        return Sample(scene.image, label, name, scene.depth if self.memory is None else None)

    def name_of(self, index: int, /) -> str:
        """Style, split and number of the scene."""
        return f"{self.style}_{self.split}_{index:06d}"

    def first(self, number: int, /) -> "StreetsSet":
        """The first scenes, with the same memory."""
        fewer = copy.copy(self)
        fewer.num_scenes = min(number, self.num_scenes)
        return fewer


class WrappedSet(SegmentationSet):
    """The images of another set, changed after they are read: a subclass says how in `read`."""

    def __init__(self, plain: SegmentationSet) -> None:
        """Take the set as it is."""
        self.plain, self.remarks = plain, plain.remarks

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        """Whether the plain images are kept."""
        return self.plain.remembers

    def __len__(self) -> int:
        return len(self.plain)

    def name_of(self, index: int, /) -> str:
        """Name of the plain image."""
        return self.plain.name_of(index)

    def stored(self) -> FolderSet | None:
        """The files of the plain set."""
        return self.plain.stored()

    def label_of(self, index: int, /) -> NDArray[np.uint8]:
        """Label of the plain image."""
        return self.plain.label_of(index)

    def first(self, number: int, /) -> "WrappedSet":
        """The first images of the plain set, changed likewise."""
        fewer = copy.copy(self)
        fewer.plain = self.plain.first(number)
        return fewer


class WeatherSet(WrappedSet):
    """A set whose images are seen in another weather. The same image always gets the same weather."""

    def __init__(self, plain: SegmentationSet, style: str, *, seed: int) -> None:
        """Put a style of `weather.WEATHER` on a set, with this random seed for rain, snow and noise."""
        super().__init__(plain)
        self.style, self.seed = style, seed

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
    for name in data.roots:
        dataset(name, data)
    if spec.subset is not None and not info.subsets:
        raise UsageError(f"the data set {spec.dataset} has no subsets: write {spec.dataset} instead of {spec}")
    for value, known, what in (
        (spec.subset, info.subsets, f"subset of {spec.dataset}"),
        (spec.split, info.splits, f"split of {spec.dataset}"),
        (spec.style, weather.WEATHER, "weather style"),
    ):
        if value is not None and value not in known:
            raise unknown_name_error(value, list(known), what)
    split = spec.split or (info.train_split if training else info.test_split)
    plain = (_open_folder if info.layouts else _open_streets)(spec, split, data, space, seed)
    return WeatherSet(plain, spec.style, seed=seed) if spec.style else plain


def _open_streets(spec: DomainSpec, split: str, data: DataConfig, space: LabelSpace, seed: int) -> SegmentationSet:
    info = dataset(spec.dataset, data)
    if spec.subset is None:
        styles = ", ".join(info.subsets)
        raise UsageError(f"{spec} has no rendering style: write {spec.dataset}/STYLE, where STYLE is one of {styles}")
    if data.size is None:
        raise UsageError(f"data.size is null: the scenes of {spec} are drawn at that size, so set one")
    return StreetsSet(
        spec.subset,
        split=split,
        num_scenes=data.train_scenes if split == "train" else data.test_scenes,
        size=data.size,
        table=labels.remap(info.native, space, spec.dataset),
        seed=seed,
        with_depth=spec.style is not None,
        unknown=spec.dataset == "streets_unknown",
    )


def _open_folder(spec: DomainSpec, split: str, data: DataConfig, space: LabelSpace, seed: int) -> SegmentationSet:
    name = spec.dataset
    if name in data.sets:
        known = labels.known_names(space)
        for native in dataset(name, data).native.values():
            if native not in known:
                raise unknown_name_error(native, known, f"class of the label space {space.name} in data.sets.{name}")
    root = root_of(name, data)
    excluded = Excluded(name, root, data)
    files = SetFolder(name, root, data).find_split(split, spec.subset, excluded=excluded)
    table = labels.remap(files.table, space, name)
    old = old_copy(root, name)
    remarks = (*([old] if old else []), *files.remarks, *excluded.remarks())
    return FolderSet(files.pairs, table=table, form=files.form, remarks=remarks)
