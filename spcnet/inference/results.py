"""What a network saw in images and videos, and the files that say so."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from spcnet.errors import UsageError, unknown_name_error
from spcnet.glossary import Layers
from spcnet.inference.ood import OODScore
from spcnet.inference.video import is_video
from spcnet.inference.visualize import (
    Ids,
    check_ids,
)
from spcnet.labels import LabelSpace

CLASSES_SUFFIX = "_classes.png"


OVERLAY_SUFFIX = "_overlay.png"


CONFIDENCE_SUFFIX = "_confidence.png"


VIDEO_SUFFIX = "_overlay.mp4"


FRAMES_SUFFIX = "_frames.csv"


LEGEND_SUFFIX = "_legend.png"


FRAME_MAPS_SUFFIX = "_classes"
"""Folder of a video's class maps, a file for each frame."""


RESULT_SUFFIXES = (CLASSES_SUFFIX, OVERLAY_SUFFIX, CONFIDENCE_SUFFIX, VIDEO_SUFFIX, FRAMES_SUFFIX, LEGEND_SUFFIX)
"""How the names of the files end that are made of an input."""


Format = Literal["spcnet", "cityscapes", "bravo"]
"""How the files of predictions are called, and which there are."""


_CITYSCAPES_NAME = re.compile(r"[^_]+_\d{6}_\d{6}(_|$)")


@dataclass(frozen=True)
class Prediction:
    """What a network sees in one image."""

    class_map: npt.NDArray[np.uint8]
    """H×W at the image's own size: class of each pixel."""
    figures: Mapping[str, Layers]
    """What the network's `SegOutput.figures` say of the image, by name: for each layer the fraction of each source."""
    seconds: float
    """From the pixels to the class map; reading the file is not in it. Of images in a batch each has an equal part."""
    confidence: npt.NDArray[np.float32] | None = None
    """H×W: probability of the chosen class, 0..1, as the network's softmax has it; None if not requested."""
    ood_score: OODScore | None = None
    """How far the image is from all that the network was trained on; None where the predictor was not given a way to tell."""


@dataclass(frozen=True)
class FoundImage:
    """An image or video file, or a webcam, and what its results are called."""

    path: Path
    name: str
    """Begins the names of the files made from it; may hold folders. No two images of one search share it."""


@dataclass(frozen=True)
class Written:
    """An image that was predicted, and the files that say so."""

    name: str
    path: Path
    height: int
    width: int
    fractions: dict[str, float]
    """For each class the fraction of the image's pixels it covers, 0..1."""
    figures: Mapping[str, Layers]
    """As of a `Prediction`."""
    seconds: float
    """From the pixels to the class map."""
    classes_file: Path
    """PNG with the class of each pixel."""
    overlay_file: Path | None
    """The overlay, if requested."""
    confidence_file: Path | None = None
    """Grey PNG of the probability of the chosen class, if requested."""
    mean_confidence: float | None = None
    """Its mean over the pixels, 0..1."""
    ood_score: OODScore | None = None
    """How far the image is from all that the network was trained on, where there is a detector."""


@dataclass(frozen=True)
class WrittenVideo:
    """A video whose frames were predicted, and the files that say so."""

    name: str
    path: Path
    height: int
    width: int
    frames: int
    """How many were predicted."""
    rate: float
    """Frames a second of the source."""
    fractions: dict[str, float]
    """For each class the fraction of all pixels it covers, 0..1."""
    figures: Mapping[str, Layers]
    """As of a `Prediction`, mean over the frames."""
    seconds: float
    """From the pixels to the class maps, all frames together."""
    broken: str | None
    """Where the source broke, in one line; what was read before is in the files."""
    stopped: bool
    """Whether the user stopped it before its end."""
    frames_file: Path
    """CSV with a line for each frame."""
    video_file: Path | None
    """The overlay video, if requested."""
    classes_folder: Path | None
    """Class maps of the frames, if requested."""
    mean_confidence: float | None = None
    """Mean over the pixels of all frames, 0..1, if requested."""
    ood_score: float | None = None
    """Mean score of the frames, where there is a detector; see `spcnet.inference.ood.OODScore`."""
    note: str | None = None
    """What is wrong with the colours of the whole source, in one line."""


@dataclass(frozen=True)
class Failure:
    """An image or video that could not be predicted."""

    path: Path
    reason: str
    """One line for the user."""


Outcome = Written | WrittenVideo | Failure


@dataclass(frozen=True)
class Predictions:
    """What became of all images and videos."""

    written: list[Written] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    videos: list[WrittenVideo] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Put one more to its kind."""
        if isinstance(outcome, Written):
            self.written.append(outcome)
        elif isinstance(outcome, WrittenVideo):
            self.videos.append(outcome)
        else:
            self.failures.append(outcome)


@dataclass(frozen=True)
class Results:
    """What is written for each image and video."""

    overlay: float | None = 0.5
    """Opacity of the colours over the photo, 0..1; None for no overlays."""
    ids: Ids = "train"
    """What the pixels of class maps are, see `spcnet.inference.visualize.class_image`."""
    format: Format = "spcnet"
    """`cityscapes`: nothing but `CITY_SEQUENCE_FRAME_pred_labelIds.png` for each image, with label ids, in one folder; `bravo`:
    nothing but `NAME_pred.png`, train ids, and `NAME_conf.png`, the confidence in 16 bits, as the BRAVO challenge takes them."""
    confidence: bool = False
    """Whether to write the probability of the chosen class, too."""
    frame_maps: bool = False
    """Whether to write the class map of each frame of a video."""
    every: int = 1
    """Every Nth frame of a video is predicted."""
    limit: int = 0
    """Largest number of frames of a video; 0 for all."""

    def check(self, space: LabelSpace) -> None:
        """Refuse what cannot be written.

        Raises:
            UsageError: see the message.
        """
        if self.overlay is not None and not 0 <= self.overlay <= 1:
            raise UsageError(f"the opacity of the overlay is {self.overlay}: it must lie in 0 (photo) .. 1 (colours)")
        if self.every < 1 or self.limit < 0:
            raise UsageError(
                f"every is {self.every} and limit {self.limit}: take every 1st or later frame, and 0 (all) or more of them"
            )
        check_ids(self.ids, space)
        if self.format not in ("spcnet", "cityscapes", "bravo"):
            raise unknown_name_error(self.format, ("spcnet", "cityscapes", "bravo"), "format of predictions")
        if self.format == "bravo" and (self.overlay is not None or not self.confidence or self.ids != "train"):
            raise UsageError(
                "the format bravo has train ids and the confidence alone: leave out overlays and other ids"
            )
        if self.format == "cityscapes" and (self.overlay is not None or self.confidence or self.ids != "label"):
            raise UsageError(
                "the format cityscapes has class maps of label ids alone, for its programs take any other picture for one, "
                "too: leave out overlays, confidence and other ids"
            )

    def classes_name(self, name: str) -> str:
        """What the class map of an image of that name is called."""
        if self.format == "spcnet":
            return f"{name}{CLASSES_SUFFIX}"
        if self.format == "bravo":
            return f"{name}_pred.png"
        return f"{Path(name).name.removesuffix('_leftImg8bit')}_pred_labelIds.png"

    def confidence_name(self, name: str) -> str:
        """What the confidence of an image of that name is called."""
        return f"{name}{'_conf.png' if self.format == 'bravo' else CONFIDENCE_SUFFIX}"

    def check_names(self, images: "Sequence[FoundImage]") -> None:
        """Refuse inputs that this format has no names for.

        Raises:
            UsageError: see the message.
        """
        if self.format != "cityscapes":
            return
        strange = [one for one in images if is_video(one.path) or not _CITYSCAPES_NAME.match(Path(one.name).name)]
        if strange:
            raise UsageError(
                f"{strange[0].path} is not named CITY_SEQUENCE_FRAME (aachen_000000_000019_leftImg8bit.png), by which "
                "Cityscapes' programs find the label of a prediction: leave it out, or drop --format cityscapes"
            )
        names: dict[str, Path] = {}
        for one in images:
            other = names.setdefault(self.classes_name(one.name), one.path)
            if other != one.path:
                raise UsageError(f"{other} and {one.path} would become the same prediction: leave one of them out")
