"""Sets whose labels tell known from unknown objects, for testing alone: which pixel does a network not know?

Their labels have two names, `known` and `anomaly`, and void. No network is trained on them, so they stand beside the
catalogue and are opened in a label space of their own.
"""

from spcnet.data.layouts import DatasetInfo, Layout, photos
from spcnet.label_tables import CITYSCAPES_TRAIN_IDS
from spcnet.labels import IGNORE, VOID, LabelSpace
from spcnet.synthesis import streets
from spcnet.synthesis.streets.unknown import UNKNOWN_OBJECT

KNOWN, ANOMALY = "known", "anomaly"
ANOMALY_SPACE = LabelSpace(
    "anomaly",
    (KNOWN, ANOMALY),
    ((128, 64, 128), (255, 102, 0)),
    {KNOWN: (KNOWN, *(name for name in CITYSCAPES_TRAIN_IDS.values() if name != VOID)), ANOMALY: (ANOMALY,)},
)
"""What pixel scores are measured in: class 1 is what shall be found."""
_TABLE = {0: KNOWN, 1: ANOMALY, IGNORE: VOID}

_SMIYC = "Chan et al., NeurIPS Datasets and Benchmarks 2021; https://segmentmeifyoucan.com"

ANOMALY_SETS: dict[str, DatasetInfo] = {
    "streets_unknown": DatasetInfo(
        title="Streets with unknown objects",
        summary="the generated scenes of streets with a sofa, a boar or a lost load on the road; nothing to download",
        reference="part of this package (spcnet.synthesis.streets)",
        native=CITYSCAPES_TRAIN_IDS | {UNKNOWN_OBJECT: ANOMALY},
        splits=("test",),
        subsets=streets.STYLES,
    ),
    "road_anomaly21": DatasetInfo(
        title="SegmentMeIfYouCan, RoadAnomaly21",
        summary="10 labelled photos with animals and strange vehicles anywhere (the labels of the 100 to test on are held back)",
        reference=_SMIYC,
        native=_TABLE,
        splits=("val",),
        outer=("dataset_AnomalyTrack",),
        layouts=(Layout("as downloaded", photos("images/validation*"), "labels_masks/validation*_labels_semantic.png", _TABLE),),
    ),
    "road_obstacle21": DatasetInfo(
        title="SegmentMeIfYouCan, RoadObstacle21",
        summary="30 labelled photos with small obstacles on the road, all else void (the labels of 327 more are held back)",
        reference=_SMIYC,
        native=_TABLE,
        splits=("val",),
        outer=("dataset_ObstacleTrack",),
        layouts=(
            Layout("as downloaded", photos("images/validation_*", ".webp", ".png"), "labels_masks/validation_*_labels_semantic.png", _TABLE),
        ),
    ),
    "fs_lost_found": DatasetInfo(
        title="Fishyscapes Lost & Found, the public part",
        summary="100 photos of Lost and Found with Fishyscapes' labels: lost cargo on the road, known pixels and void",
        reference="Blum et al., IJCV 2021; https://fishyscapes.com; photos: Pinggera et al., IROS 2016, http://www.6d-vision.com/lostandfounddataset",
        native=_TABLE,
        splits=("val",),
        outer=("fs_lost_found", "FS_LostFound_full"),
        layouts=(
            Layout("photos as images, labels as labels_masks", photos("images/*"), "labels_masks/*.png", _TABLE),
            Layout("photos beside the labels", photos("original/*"), "labels/*.png", _TABLE),
        ),
    ),
}  # fmt: skip
"""Set by the name it has in `spcnet ood pixels`."""
