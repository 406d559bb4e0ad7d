"""Class maps that lie on disk as PNG files, from this or any other code, compared with the labels of a domain."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from spcnet import distributed, label_tables, labels
from spcnet.data import label_formats
from spcnet.data.datasets import SegmentationSet
from spcnet.data.label_formats import LabelFormat
from spcnet.data.label_images import read_label
from spcnet.errors import DataError, UsageError
from spcnet.evaluation.evaluator import DomainResult
from spcnet.evaluation.metrics import confusion, outcome
from spcnet.inference.results import CLASSES_SUFFIX
from spcnet.labels import LabelSpace, label_space

Ids = Literal["auto", "train", "label", "color"]
"""What the pixels of predictions are: train ids 0..K-1, Cityscapes' label ids, or colours; `auto` goes by the names."""
INDEX_FILE = "predictions.json"
"""In a folder that `spcnet predict` wrote: what its class maps hold."""


@dataclass(frozen=True)
class Predictions:
    """A folder of class maps, one PNG for each image of a domain, as large as its label.

    A prediction belongs to the image whose file name it begins with, up to endings such as `_classes`, `_pred` or
    `_labelIds`; the folders they lie in need not be the same.
    """

    folder: Path
    """Is searched with all folders in it."""
    space: LabelSpace
    ids: Ids = "auto"
    """What the pixels are."""

    @classmethod
    def open(cls, folder: Path, *, ids: Ids = "auto", space: str | None = None) -> "Predictions":
        """The class maps in a folder, with what `spcnet predict` noted of them there.

        Args:
            folder: where they lie.
            ids: what the pixels are.
            space: name of their label space; as noted by default, else cityscapes19.

        Raises:
            DataError: there are none.
            UsageError: another label space was noted, or there is no such space.
        """
        if not _pictures(folder):
            raise DataError(
                f"the folder {folder} holds neither a run, nor a network, nor predictions, which are PNG files: check the path"
            )
        index = _index(folder)
        if ids == "auto" and index.get("ids") in ("train", "label", "color"):
            ids = index["ids"]
        noted = index.get("space") if isinstance(index.get("space"), str) else None
        if noted is not None and space not in (None, noted):
            raise UsageError(
                f"{folder / INDEX_FILE} says that the predictions have the label space {noted}, and --space is {space}: "
                "leave out --space"
            )
        return cls(folder, label_space(noted or space or "cityscapes19"), ids)

    @cached_property
    def paths(self) -> dict[str, list[Path]]:
        """The class maps by the names of their images."""
        paths: dict[str, list[Path]] = {}
        for path in _pictures(self.folder):
            paths.setdefault(_core(path.name), []).append(path)
        return paths

    def evaluate(self, images: SegmentationSet, *, limit: int = 0, what: str = "the domain") -> DomainResult:
        """Compare the class maps with the labels of a domain, or with this process's shard of them.

        Args:
            images: the domain.
            limit: number of images to evaluate, the first ones; 0 for all.
            what: name of the domain, for messages.

        Raises:
            DataError: an image has no prediction, or several; one is not as large as the label, or has a pixel without a
                class.
        """
        start = time.perf_counter()
        names = _file_names(images)
        number = min(len(images), limit) if limit else len(images)
        if not number:
            raise DataError(f"{what} has no image to evaluate")
        missing = [name for name in names[:number] if _core(name) not in self.paths]
        if missing:
            raise DataError(
                f"{len(missing)} of {number} images of {what} have no prediction in {self.folder}: the first is {missing[0]}, "
                f"whose prediction would be {_core(missing[0])}{CLASSES_SUFFIX}; every image counts"
            )
        counts = torch.zeros(len(self.space), len(self.space), dtype=torch.int64)
        outcomes = []
        for index in range(distributed.rank(), number, distributed.world_size()):
            name = names[index]
            paths = self.paths[_core(name)]
            if len(paths) > 1:
                raise DataError(
                    f"the image {name} of {what} has {len(paths)} predictions, {paths[0]} and {paths[1]}: leave one"
                )
            prediction = read_prediction(paths[0], space=self.space, ids=self.ids)
            label = images.read(index).label
            if prediction.shape != label.shape:
                raise DataError(
                    f"{paths[0]} is {prediction.shape[1]}×{prediction.shape[0]} but the label of {name} is "
                    f"{label.shape[1]}×{label.shape[0]}: predictions must have the size of the labels"
                )
            classes, truth = (torch.from_numpy(pixels).long() for pixels in (prediction, label))
            of_image = confusion(classes, truth, num_classes=len(self.space))
            counts += of_image
            outcomes.append(outcome(of_image))
        stacked = torch.stack(outcomes) if outcomes else None
        return DomainResult(counts, len(outcomes), time.perf_counter() - start, outcomes=stacked)


def read_prediction(path: Path, *, space: LabelSpace, ids: Ids = "auto") -> npt.NDArray[np.uint8]:
    """The class of each pixel of a predicted class map, H×W, 0..K-1.

    Raises:
        DataError: it cannot be read, or a pixel has no class.
        UsageError: label ids of a space that Cityscapes does not know.
    """
    kind = ids
    if kind == "auto":
        kind = "label" if re.search(r"label_?ids$", path.stem, re.IGNORECASE) else "train"
    if kind == "label" and space.name != "cityscapes19":
        raise UsageError(
            f"label ids are Cityscapes' own, and the label space is {space.name}: give --ids train or color"
        )
    classes = tuple(enumerate(space.classes))
    colors = tuple((color, k) for k, color in enumerate(space.colors))
    form = {
        "train": LabelFormat(classes, colors),
        "label": LabelFormat.of(
            label_tables.CITYSCAPES_IDS, label_tables.cityscapes_colors(label_tables.CITYSCAPES_IDS)
        ),
        "color": LabelFormat(classes, colors, numbers=()),
    }[kind]
    read_as = {"train": "train ids", "label": "label ids", "color": "colours"}[kind]
    read_as += " or colours" if ids == "auto" and kind == "train" else ""
    rule = f"read as {read_as}: each pixel must have one of the {len(space)} classes of {space.name}; --ids says what the pixels are"
    try:
        pixels = read_label(path, form)
    except label_formats.UnknownLabelError as error:
        raise DataError(f"{error}; {rule}") from None
    if kind == "label":
        table = labels.remap(label_tables.CITYSCAPES_IDS, space, "predictions")
        pixels = np.asarray(table[pixels])
    if (worst := int(pixels.max(initial=0))) >= len(space):
        came = "no class" if kind == "label" or worst == labels.IGNORE else f"the class {worst}"
        raise DataError(f"{path} has a pixel with {came}, {rule}")
    return pixels


def _index(folder: Path) -> Mapping[str, Any]:
    """What `spcnet predict` noted of the class maps in a folder; empty where it did not write them."""
    try:
        index = json.loads((folder / INDEX_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


_ENDINGS = re.compile(
    r"(_classes|_prediction|_pred|_trainids|_labeltrainids|_labelids|_labels|_label|_color|_gtfine|_gtcoarse|_leftimg8bit|_rgb_anon"
    r"|_rgb|_train_id|_ids)$",
    re.IGNORECASE,
)


def _core(name: str) -> str:
    """A file's name without what says of which kind it is."""
    stem = re.sub(r"\.(png|jpe?g|npy|webp|bmp|tiff?)$", "", name, flags=re.IGNORECASE)
    while (shorter := _ENDINGS.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem


def _pictures(folder: Path) -> list[Path]:
    """The class maps in a folder: PNG files, without overlays and maps of confidence."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() == ".png" and path.is_file() and not path.stem.endswith(("_overlay", "_confidence"))
    )


def _file_names(images: SegmentationSet) -> list[str]:
    """What the files of a set's images are called; of generated ones their names."""
    if (files := images.stored()) is not None:
        stems = [pair.image.name for pair in files.pairs]
        if len(set(map(_core, stems))) == len(stems):
            return stems
    return [images.name_of(index) for index in range(len(images))]
