"""Class maps of photos and videos: one at a time for a program, or whole folders into files."""

import csv
import glob
import io
import json
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby, islice, takewhile
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn
from torchvision.transforms import v2

from spcnet.data.labels import IGNORE, LabelSpace
from spcnet.data.transforms import normalise
from spcnet.errors import DataError, SpcnetError, UsageError, one_of
from spcnet.evaluation.evaluator import save_image
from spcnet.evaluation.metrics import classify
from spcnet.evaluation.views import Views, looking
from spcnet.files import write_whole
from spcnet.inference.fast import fused
from spcnet.inference.unfamiliarity import Reading, Unfamiliarity
from spcnet.inference.video import (
    VIDEO_SUFFIXES,
    Frame,
    Video,
    VideoWriter,
    is_video,
    is_webcam,
    open_video,
    packages,
)
from spcnet.inference.visualize import (
    Ids,
    check_ids,
    class_image,
    confidence_image,
    legend,
    overlay,
    sheet,
)
from spcnet.memory import keep_freed_memory
from spcnet.models.segmentor import MIN_SIZE, Segmentor
from spcnet.types import SegOutput

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
)
"""How the names of image files end, in small letters: what is looked for in folders and globs."""

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

WHOLE = Views()
"""One look at the whole image."""
Format = Literal["spcnet", "cityscapes"]
"""How the files of predictions are called, and which there are."""
_CITYSCAPES_NAME = re.compile(r"[^_]+_\d{6}_\d{6}(_|$)")
Speed = Literal["auto", "plain", "fused"]
"""How a network is run: as it is, rewritten by `spcnet.inference.fast`, or rewritten where that pays, on a processor."""


@dataclass(frozen=True)
class Prediction:
    """What a network sees in one image."""

    class_map: npt.NDArray[np.uint8]
    """H×W at the image's own size: class of each pixel."""
    style_weights: tuple[tuple[float, ...], ...] | None
    """Share of each of the M source styles (λ) for each style layer; None if the network has none."""
    seconds: float
    """From the pixels to the class map; reading the file is not in it. Of images in a batch each has an equal part."""
    confidence: npt.NDArray[np.float32] | None = None
    """H×W: probability of the chosen class, 0..1, as the network's softmax has it; None if it was not asked for."""
    unfamiliarity: Reading | None = None
    """How far the image is from all that the network was trained on; None where the predictor was not given a way to tell."""


_Labelled = tuple[
    npt.NDArray[np.uint8], tuple[tuple[float, ...], ...] | None, npt.NDArray[np.float32] | None, Reading | None
]


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
    shares: dict[str, float]
    """For each class the share of the image's pixels it covers, 0..1."""
    style_weights: tuple[tuple[float, ...], ...] | None
    """Share of each source style (λ) for each style layer; None if the network has none."""
    seconds: float
    """From the pixels to the class map."""
    classes_file: Path
    """PNG with the class of each pixel."""
    overlay_file: Path | None
    """The picture to look at, if asked for."""
    confidence_file: Path | None = None
    """Grey PNG of the probability of the chosen class, if asked for."""
    mean_confidence: float | None = None
    """Its mean over the pixels, 0..1."""
    unfamiliarity: Reading | None = None
    """How far the image is from all that the network was trained on, where that can be told."""


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
    shares: dict[str, float]
    """For each class the share of all pixels it covers, 0..1."""
    style_weights: tuple[tuple[float, ...], ...] | None
    """Mean share of each source style (λ) for each style layer; None if the network has none."""
    seconds: float
    """From the pixels to the class maps, all frames together."""
    broken: str | None
    """Where the source broke, in one line; what was read before is in the files."""
    stopped: bool
    """Whether the user stopped it before its end."""
    frames_file: Path
    """CSV with a line for each frame."""
    video_file: Path | None
    """The video to look at, if asked for."""
    classes_folder: Path | None
    """Class maps of the frames, if asked for."""
    mean_confidence: float | None = None
    """Mean over the pixels of all frames, 0..1, if asked for."""
    unfamiliarity: float | None = None
    """Mean score of the frames, where it can be told; see `spcnet.inference.unfamiliarity.Reading`."""


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


@dataclass(frozen=True)
class Results:
    """What is written for each image and video."""

    overlay: float | None = 0.5
    """Opacity of the colours over the photo, 0..1; None for no overlays."""
    ids: Ids = "train"
    """What the pixels of class maps are, see `spcnet.inference.visualize.class_image`."""
    format: Format = "spcnet"
    """`cityscapes`: nothing but `CITY_SEQUENCE_FRAME_pred_labelIds.png` for each image, with label ids, in one folder."""
    confidence: bool = False
    """Whether to write the probability of the chosen class, too."""
    frame_maps: bool = False
    """Whether to write the class map of each frame of a video."""
    every: int = 1
    """Of a video one frame of so many."""
    limit: int = 0
    """Of a video so many frames at most; 0 for all."""

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
        if self.format not in ("spcnet", "cityscapes"):
            raise one_of(self.format, ("spcnet", "cityscapes"), "format of predictions")
        if self.format == "cityscapes" and (self.overlay is not None or self.confidence or self.ids != "label"):
            raise UsageError(
                "the format cityscapes has class maps of label ids alone, for its programs take any other picture for one, "
                "too: leave out overlays, confidence and other ids"
            )

    def classes_name(self, name: str) -> str:
        """What the class map of an image of that name is called."""
        if self.format == "spcnet":
            return f"{name}{CLASSES_SUFFIX}"
        return f"{Path(name).name.removesuffix('_leftImg8bit')}_pred_labelIds.png"

    def check_names(self, found: "Sequence[FoundImage]") -> None:
        """Refuse inputs that this format has no names for.

        Raises:
            UsageError: see the message.
        """
        if self.format == "spcnet":
            return
        strange = [one for one in found if is_video(one.path) or not _CITYSCAPES_NAME.match(Path(one.name).name)]
        if strange:
            raise UsageError(
                f"{strange[0].path} is not named CITY_SEQUENCE_FRAME (aachen_000000_000019_leftImg8bit.png), by which "
                "Cityscapes' programs find the label of a prediction: leave it out, or drop --format cityscapes"
            )
        names: dict[str, Path] = {}
        for one in found:
            other = names.setdefault(self.classes_name(one.name), one.path)
            if other != one.path:
                raise UsageError(f"{other} and {one.path} would become the same prediction: leave one of them out")


class Predictor:
    """A trained network made ready for photos and videos of any size and kind.

    ```python
    predictor = Predictor(model, space=label_space("cityscapes19"), size=(512, 1024))
    class_map = predictor.predict("street.jpg").class_map  # H×W, uint8, at the photo's own size
    ```

    On a processor the network is rewritten so that it is faster (`spcnet.inference.fast`), and the C library is told to
    keep freed memory for the next image. Scores then differ by less than a thousandth of the largest, and labels where
    two classes are that close; `speed="plain"` runs the network as it is.

    Args:
        model: the network; moved to the device and put into evaluation mode.
        space: its classes.
        size: height and width in pixels that each image is brought to for the network; None keeps each image's own.
        device: auto (an accelerator if there is one), cpu, cuda, cuda:1, mps.
        source_names: of the source domains, in the order of the style bases.
        views: how images are looked at: whole or in windows, at which scales, mirrored too.
        batch_size: most images of one size that go through the network together, and most windows.
        speed: `auto`, `plain` or `fused`, see `Speed`.
        unfamiliarity: tells of each image how far it is from what the network was trained on; for whole images, looked at
            once, at the size that it was made with.

    Raises:
        UsageError: the size or the batch is too small, the views make no sense, or there is no such device.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        space: LabelSpace,
        size: tuple[int, int] | None = None,
        device: torch.device | str = "auto",
        source_names: Sequence[str] = (),
        views: Views = WHOLE,
        batch_size: int = 1,
        speed: Speed = "auto",
        unfamiliarity: Unfamiliarity | None = None,
    ) -> None:
        if unfamiliarity is not None and not views.plain:
            raise UsageError(
                "how unfamiliar an image is can only be told of whole images, looked at once: leave out windows, scales "
                "and mirror images, or the unfamiliarity"
            )
        if size is not None and min(size) < MIN_SIZE:
            raise UsageError(
                f"the size {size[0]}×{size[1]} is too small: height and width must be at least {MIN_SIZE} pixels"
            )
        if batch_size < 1:
            raise UsageError(f"the batch size is {batch_size}: at least one image must go through the network")
        if speed not in ("auto", "plain", "fused"):
            raise one_of(speed, ("auto", "plain", "fused"), "speed")
        check_views(views)
        self.device = find_device(device)
        self.model = model.to(self.device).eval()
        self.space = space
        self.size = size
        self.source_names = tuple(source_names)
        self.views, self.batch_size = views, batch_size
        self.unfamiliarity = unfamiliarity
        network = self.model
        if isinstance(network, Segmentor) and (speed == "fused" or (speed == "auto" and self.device.type == "cpu")):
            network = fused(network)
            if self.device.type == "cpu":
                keep_freed_memory()
        self._forward = looking(network, views, at_once=batch_size)

    def predict(self, image: npt.NDArray[Any] | Image.Image | Path | str, *, confidence: bool = False) -> Prediction:
        """Find the class of each pixel of an image.

        Args:
            image: H×W×3 RGB (also H×W grey or H×W×4 with opacity) of bytes, a PIL image, or a file.
            confidence: also say how probable the network finds the class of each pixel.

        Raises:
            UsageError: no such file, the image is smaller than 33 pixels and no `size` is set, or it is of a kind that
                shows no photo; or the network does not fit the space or the source names.
            DataError: the file is unreadable or the image is too large for the memory.
        """
        return self._predict([self._read(image)], confidence)[0]

    def predict_many(
        self, images: Iterable[npt.NDArray[Any] | Image.Image | Path | str], *, confidence: bool = False
    ) -> Iterator[Prediction]:
        """The same for many images; neighbours that have one size for the network go through it together.

        Raises:
            UsageError, DataError: as `predict`.
        """
        for batch in self._batched(map(self._read, images)):
            yield from self._predict(batch, confidence)

    def _batched(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[list[npt.NDArray[np.uint8]]]:
        for _, alike in groupby(images, key=self._network_size):
            while batch := list(islice(alike, self.batch_size)):
                yield batch

    def _network_size(self, rgb: npt.NDArray[np.uint8]) -> tuple[int, int]:
        return self.size or (rgb.shape[0], rgb.shape[1])

    def _read(self, image: npt.NDArray[Any] | Image.Image | Path | str) -> npt.NDArray[np.uint8]:
        rgb = read_rgb(image)
        self._check_size(rgb, str(image) if isinstance(image, (Path, str)) else "the image")
        return rgb

    def _check_size(self, rgb: npt.NDArray[np.uint8], what: str) -> None:
        if self.size is None and min(rgb.shape[:2]) < MIN_SIZE:
            raise UsageError(
                f"{what} has {rgb.shape[0]}×{rgb.shape[1]} pixels: height and width must be at least {MIN_SIZE}. "
                "Set a size that it is brought to, or give a larger image"
            )

    def _predict(self, images: Sequence[npt.NDArray[np.uint8]], confidence: bool) -> list[Prediction]:
        """Of images with one size for the network; one after the other where memory does not hold them all."""
        start = time.perf_counter()
        try:
            found = self._labelled(images, confidence)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(images) > 1:
                return [prediction for image in images for prediction in self._predict([image], confidence)]
            raise DataError(
                f"the memory does not suffice for an image of {images[0].shape[0]}×{images[0].shape[1]} pixels: "
                "set a smaller size that it is brought to, or use another device"
            ) from error
        seconds = (time.perf_counter() - start) / len(images)
        return [Prediction(class_map, weights, seconds, sure, reading) for class_map, weights, sure, reading in found]

    @torch.inference_mode()
    def _labelled(self, images: Sequence[npt.NDArray[np.uint8]], confidence: bool) -> list[_Labelled]:
        output: SegOutput = self._forward(torch.stack([self._prepared(image) for image in images]))
        self._check(output)
        readings = [None] * len(images) if self.unfamiliarity is None else self.unfamiliarity.readings(output)
        found = []
        for number, rgb in enumerate(images):
            own_size = (rgb.shape[0], rgb.shape[1])
            logits = output.logits[number]
            class_map = classify(logits, size=own_size)
            shares = len(self.views.scales) > 1 or self.views.flip
            sure = certainty(logits.log() if shares else logits, class_map).cpu().numpy() if confidence else None
            weights = tuple(tuple(_per_source(layer[number])) for layer in output.style_weights)
            found.append((class_map.byte().cpu().numpy(), weights or None, sure, readings[number]))
        return found

    def _prepared(self, rgb: npt.NDArray[np.uint8]) -> Float[Tensor, "3 H W"]:
        pixels = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
        if self.size is not None:  # exactly as images are resized for scoring
            pixels = v2.functional.resize(
                pixels, list(self.size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True
            )
        return normalise(pixels.to(self.device))

    def _check(self, output: SegOutput) -> None:
        num_classes = output.logits.shape[1]
        if num_classes != len(self.space):
            raise UsageError(
                f"the network tells {num_classes} classes apart, but the label space {self.space.name} has "
                f"{len(self.space)}: use the space it was trained in"
            )
        for layer in output.style_weights:
            if self.source_names and layer.shape[1] != len(self.source_names):
                raise UsageError(
                    f"the network knows {layer.shape[1]} source styles, but {len(self.source_names)} source names were "
                    f"given ({', '.join(self.source_names)}): give one for each"
                )

    def predict_paths(
        self,
        inputs: Sequence[Path | str],
        output: Path,
        *,
        overlay: float | None = 0.5,
        results: Results | None = None,
        progress: Callable[[int, int, Outcome], None] | None = None,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> Predictions:
        """Predict image and video files, folders of them, globs, and webcams, and write the results into a folder.

        For each image NAME: `NAME_classes.png` (palette PNG, pixel values are class ids), and `NAME_overlay.png` (the
        photo under the colours, with a legend and the mix of styles). For each video: see `predict_video`. For all
        together: `predictions.json`, and `styles.csv` (one line per image and style layer) where the network has
        styles. What cannot be predicted is among the failures, and the others go on. Where the user stops it, what is
        done until then stays, the video at hand included.

        Args:
            inputs: what to predict; see `find_images`; and webcams, `webcam:0`.
            output: folder for the results; made if it is not there.
            overlay: opacity of the colours in the overlay, 0..1; None writes no overlays.
            results: what is written; instead of `overlay`.
            progress: called after each input with how many are done, how many there are, and what became of it.
            on_frame: called after each frame of a video with how many are done and how many there will be, or 0.

        Raises:
            UsageError: as `find_images`, or `results` cannot be written.
            DataError: the results cannot be written.
            KeyboardInterrupt: the user stopped it.
        """
        results = results or Results(overlay)
        results.check(self.space)
        found = find_images(inputs, output=output, videos=True)
        results.check_names(found)
        predictions = Predictions()
        done = 0
        try:
            for video, alike in groupby(found, key=lambda one: is_video(one.path)):
                some = list(alike)
                outcomes = (
                    (self.predict_video(one, output, results=results, on_frame=on_frame) for one in some)
                    if video
                    else self.predict_each(some, output, results=results)
                )
                for outcome in outcomes:
                    done += 1
                    _add(predictions, outcome)
                    if progress is not None:
                        progress(done, len(found), outcome)
                    if isinstance(outcome, WrittenVideo) and outcome.stopped:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            if done:
                self._write_index(predictions, output, results)
            raise
        self._write_index(predictions, output, results)
        return predictions

    def predict_each(
        self,
        images: Sequence[FoundImage],
        output: Path,
        *,
        overlay: float | None = 0.5,
        results: Results | None = None,
    ) -> Iterator[Outcome]:
        """Predict images in their order; each one's files are written before it is yielded.

        Args:
            images: what `find_images` found.
            output: folder for the results.
            overlay: opacity of the colours in the overlay, 0..1; None writes no overlays.
            results: what is written; instead of `overlay`.

        Raises:
            UsageError: `results` cannot be written, or the network does not fit the space or the source names.
            DataError: the results cannot be written.
        """
        results = results or Results(overlay)
        results.check(self.space)
        waiting: list[tuple[FoundImage, npt.NDArray[np.uint8]]] = []
        for image in images:
            try:
                rgb = self._read(image.path)
            except SpcnetError as error:
                yield from self._predict_waiting(waiting, output, results)
                yield Failure(image.path, str(error))
                continue
            if waiting and self._network_size(waiting[0][1]) != self._network_size(rgb):
                yield from self._predict_waiting(waiting, output, results)
            waiting.append((image, rgb))
            if len(waiting) == self.batch_size:
                yield from self._predict_waiting(waiting, output, results)
        yield from self._predict_waiting(waiting, output, results)

    def _predict_waiting(
        self, waiting: list[tuple[FoundImage, npt.NDArray[np.uint8]]], output: Path, results: Results
    ) -> Iterator[Outcome]:
        """Predict images of one size and forget them."""
        batch = list(waiting)
        waiting.clear()
        if not batch:
            return
        try:
            predictions = self._predict([rgb for _, rgb in batch], results.confidence)
        except DataError as error:  # a network that does not fit is no fault of this image
            if len(batch) > 1:  # one of them is too large for the memory
                for one in batch:
                    yield from self._predict_waiting([one], output, results)
                return
            yield Failure(batch[0][0].path, f"{batch[0][0].path}: {error}")
            return
        for (image, rgb), prediction in zip(batch, predictions, strict=True):
            yield self._write(image, rgb, prediction, output, results)

    def _write(
        self,
        image: FoundImage,
        rgb: npt.NDArray[np.uint8],
        prediction: Prediction,
        output: Path,
        results: Results,
    ) -> Written:
        class_map = prediction.class_map
        classes_file = output / results.classes_name(image.name)
        save_image(class_image(class_map, self.space, ids=results.ids), classes_file)
        overlay_file = confidence_file = mean_confidence = None
        if prediction.confidence is not None:
            confidence_file = output / f"{image.name}{CONFIDENCE_SUFFIX}"
            save_image(confidence_image(prediction.confidence), confidence_file)
            mean_confidence = float(prediction.confidence.mean(dtype=np.float64))
        if results.overlay is not None:
            overlay_file = output / f"{image.name}{OVERLAY_SUFFIX}"
            weights = prediction.style_weights or ()
            names = self._names(len(weights[0])) if weights else ()
            picture = sheet(
                rgb, class_map, self.space, opacity=results.overlay, style_weights=weights, source_names=names
            )
            save_image(picture, overlay_file)
        pixels = _pixels(class_map)
        return Written(
            name=image.name,
            path=image.path,
            height=class_map.shape[0],
            width=class_map.shape[1],
            shares={name: int(pixels[k]) / class_map.size for k, name in enumerate(self.space.classes)},
            style_weights=prediction.style_weights,
            seconds=prediction.seconds,
            classes_file=classes_file,
            overlay_file=overlay_file,
            confidence_file=confidence_file,
            mean_confidence=mean_confidence,
            unfamiliarity=prediction.unfamiliarity,
        )

    def predict_video(
        self,
        video: FoundImage,
        output: Path,
        *,
        results: Results | None = None,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> WrittenVideo | Failure:
        """Predict a video frame by frame, with the memory of `batch_size` frames however long it is.

        For a video NAME: `NAME_overlay.mp4` (the frames under the colours, at their own size, rate and times) with
        `NAME_legend.png`, `NAME_frames.csv` (a line for each frame: share of each class, mix of styles), and where they
        are asked for the class maps, `NAME_classes/FRAME.png`. Where the source breaks, or the user stops it, what was
        predicted until then is written; a source without any frame leaves nothing.

        Args:
            video: what `find_images` found.
            output: folder for the results.
            results: what is written.
            on_frame: called after each frame with how many are done and how many there will be, or 0 if nobody knows.

        Raises:
            UsageError: `results` cannot be written, or the network does not fit the space or the source names.
            DataError: the results cannot be written.
        """
        results = results or Results()
        results.check(self.space)
        packages()
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(open_video(video.path))
                frames = opened.read(every=results.every, limit=results.limit)
                first = next(frames, None)
                if first is None:
                    raise DataError(opened.broken or f"cannot read {video.path}: it has no frames. Check the file")
                self._check_size(first.image, str(video.path))
            except SpcnetError as error:
                return Failure(video.path, str(error))
            try:
                prediction = self._predict([first.image], results.confidence)[0]
            except DataError as error:
                return Failure(video.path, f"{video.path}: {error}")
            table = stack.enter_context(TemporaryFile("w+", encoding="utf-8", newline=""))
            job = _VideoJob(self, video, opened, output, results, table, on_frame)
            if results.overlay is None:
                job.run(first, prediction, frames, None)
            else:
                job.video_file = output / f"{video.name}{VIDEO_SUFFIX}"
                write_whole(
                    job.video_file,
                    lambda file: job.run(first, prediction, frames, VideoWriter(file, rate=opened.rate)),
                )
            return job.finish()

    def _names(self, num_sources: int) -> tuple[str, ...]:
        return self.source_names or tuple(f"source {m + 1}" for m in range(num_sources))

    def _write_index(self, predictions: Predictions, output: Path, results: Results) -> None:
        styled = [(image, image.style_weights) for image in predictions.written if image.style_weights]
        known = [weights for _, weights in styled]
        known += [video.style_weights for video in predictions.videos if video.style_weights]
        names = self._names(len(known[0][0])) if known else self.source_names
        index: dict[str, Any] = {
            "space": self.space.name,
            "classes": list(self.space.classes),
            "sources": list(names),
            "size": list(self.size) if self.size else None,
            "ids": results.ids,
            "images": [_as_json(image, names, output) for image in predictions.written],
            "videos": [_video_as_json(video, names, output) for video in predictions.videos],
            "failures": [{"path": str(f.path), "reason": f.reason} for f in predictions.failures],
        }
        text = json.dumps(index, ensure_ascii=False, indent=1)
        write_whole(output / "predictions.json", lambda file: file.write(text.encode("utf-8", "backslashreplace")))
        if styled:
            table = io.StringIO(newline="")
            lines = csv.writer(table)
            lines.writerow(["image", "layer", *names])
            for image, layers in styled:
                lines.writerows([image.name, n, *layer] for n, layer in enumerate(layers, start=1))
            text_csv = table.getvalue().encode("utf-8", "backslashreplace")
            write_whole(output / "styles.csv", lambda file: file.write(text_csv))


class _VideoJob:
    """A video that is being predicted: what was seen so far, and where it goes."""

    def __init__(
        self,
        predictor: Predictor,
        video: FoundImage,
        opened: Video,
        output: Path,
        results: Results,
        table: IO[str],
        on_frame: Callable[[int, int], None] | None,
    ) -> None:
        self.predictor, self.video, self.opened, self.output, self.results = predictor, video, opened, output, results
        self.table, self.lines, self.on_frame = table, csv.writer(table), on_frame
        total = -(-opened.frames // results.every)
        self.total = min(total, results.limit) if total and results.limit else total or results.limit
        self.frames, self.seconds, self.confidence, self.strangeness = 0, 0.0, 0.0, 0.0
        self.pixels = np.zeros(IGNORE + 1, dtype=np.int64)
        self.weights: npt.NDArray[np.float64] | None = None
        self.size = (0, 0)
        self.stopped = False
        self.video_file: Path | None = None

    def run(self, first: Frame, prediction: Prediction, frames: Iterator[Frame], writer: VideoWriter | None) -> None:
        """Go on after the first frame until the end, or until the user stops it."""
        predictor = self.predictor
        at_once = 1 if self.opened.live else predictor.batch_size
        try:
            self._add(first, prediction, writer)
            for _, alike in groupby(frames, key=lambda frame: predictor._network_size(frame.image)):
                while batch := list(islice(alike, at_once)):
                    predictions = predictor._predict([frame.image for frame in batch], self.results.confidence)
                    for frame, found in zip(batch, predictions, strict=True):
                        self._add(frame, found, writer)
        except KeyboardInterrupt:
            self.stopped = True
        finally:
            if writer is not None:
                writer.close()

    def _add(self, frame: Frame, prediction: Prediction, writer: VideoWriter | None) -> None:
        class_map, space = prediction.class_map, self.predictor.space
        weights = prediction.style_weights or ()
        if not self.frames:
            self.size = class_map.shape
            self.weights = np.zeros((len(weights), len(weights[0]))) if weights else None
            self._write_head(weights)
        pixels = _pixels(class_map)
        sure = [] if prediction.confidence is None else [float(prediction.confidence.mean(dtype=np.float64))]
        strange = [] if prediction.unfamiliarity is None else [prediction.unfamiliarity.score]
        self.lines.writerow(
            [
                frame.number,
                round(frame.seconds, 4),
                *(round(value, 4) for value in (*sure, *strange)),
                *(round(int(pixels[k]) / class_map.size, 6) for k in range(len(space))),
                *(round(weight, 6) for layer in weights for weight in layer),
            ]
        )
        if self.results.frame_maps:
            save_image(class_image(class_map, space, ids=self.results.ids), self._map_file(frame.number))
        if writer is not None and self.results.overlay is not None:
            writer.write(overlay(frame.image, class_map, space, opacity=self.results.overlay), frame.seconds)
        self.frames += 1
        self.seconds += prediction.seconds
        self.pixels += pixels
        self.confidence += sum(sure)
        self.strangeness += sum(strange)
        if self.weights is not None:
            self.weights += np.array(weights)
        if self.on_frame is not None:
            self.on_frame(self.frames, self.total)

    def _write_head(self, weights: Sequence[Sequence[float]]) -> None:
        names = self.predictor._names(len(weights[0])) if weights else ()
        styles = [f"layer {n}: {name}" for n in range(1, len(weights) + 1) for name in names]
        sure = ["confidence"] if self.results.confidence else []
        sure += ["unfamiliarity"] if self.predictor.unfamiliarity is not None else []
        self.lines.writerow(["frame", "seconds", *sure, *self.predictor.space.classes, *styles])

    def _map_file(self, number: int) -> Path:
        return self.output / f"{self.video.name}{FRAME_MAPS_SUFFIX}" / f"{number:06d}.png"

    def finish(self) -> WrittenVideo:
        """Write what is known only at the end."""
        space = self.predictor.space
        frames_file = self.output / f"{self.video.name}{FRAMES_SUFFIX}"
        self.table.seek(0)
        write_whole(
            frames_file, lambda file: file.writelines(line.encode("utf-8", "backslashreplace") for line in self.table)
        )
        if self.video_file is not None:
            seen = [int(k) for k in np.flatnonzero(self.pixels[: len(space)])]
            save_image(legend(space, seen), self.output / f"{self.video.name}{LEGEND_SUFFIX}")
        maps = self._map_file(0).parent if self.results.frame_maps else None
        whole = int(self.pixels.sum())
        return WrittenVideo(
            name=self.video.name,
            path=self.video.path,
            height=self.size[0],
            width=self.size[1],
            frames=self.frames,
            rate=float(self.opened.rate),
            shares={name: int(self.pixels[k]) / whole for k, name in enumerate(space.classes)},
            style_weights=None
            if self.weights is None
            else tuple(tuple(layer) for layer in (self.weights / self.frames).tolist()),
            seconds=self.seconds,
            broken=self.opened.broken,
            stopped=self.stopped,
            frames_file=frames_file,
            video_file=self.video_file,
            classes_folder=maps,
            mean_confidence=self.confidence / self.frames if self.results.confidence else None,
            unfamiliarity=None if self.predictor.unfamiliarity is None else self.strangeness / self.frames,
        )


def certainty(scores: Float[Tensor, "K h w"], chosen: Int[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Probability of the chosen class of each pixel, from scores of any size: the softmax, 0..1.

    The scores are brought to the size of `chosen` as `classify` does.
    """
    height, width = chosen.shape
    total: Tensor | None = None
    own = torch.empty(height, width, device=scores.device)
    # Class by class, as `classify` does: the scores at full size would be K images large.
    for k, score in enumerate(scores.float()):
        if score.shape != (height, width):
            score = F.interpolate(score[None, None], size=(height, width), mode="bilinear", align_corners=True)[0, 0]
        total = score.clone() if total is None else torch.logaddexp(total, score)
        own = torch.where(chosen == k, score, own)
    assert total is not None
    return (own - total).exp()


def check_views(views: Views) -> None:
    """Refuse ways to look at an image that make no sense.

    Raises:
        UsageError: see the message.
    """
    if views.window is not None and min(views.window) < MIN_SIZE:
        raise UsageError(
            f"the window is {views.window[0]}×{views.window[1]}: height and width must be at least {MIN_SIZE} pixels"
        )
    if not 0 <= views.overlap < 1:
        raise UsageError(f"the overlap is {views.overlap}: a share of a window, 0 or more and below 1")
    if views.weights not in ("uniform", "hann"):
        raise one_of(views.weights, ("uniform", "hann"), "window weights")
    if not views.scales or min(views.scales) <= 0:
        raise UsageError(f"the scales are {list(views.scales)}: factors above 0, at least one")


def _add(predictions: Predictions, outcome: Outcome) -> None:
    if isinstance(outcome, Written):
        predictions.written.append(outcome)
    elif isinstance(outcome, WrittenVideo):
        predictions.videos.append(outcome)
    else:
        predictions.failures.append(outcome)


def _pixels(class_map: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How many pixels each of the 256 values has."""
    counts: npt.NDArray[np.int64] = np.bincount(class_map.reshape(-1), minlength=IGNORE + 1)
    return counts


def _as_plain(reading: Reading | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    return {
        "score": round(reading.score, 4),
        "percentile": round(reading.percentile, 4),
        "times": None if reading.times is None else round(reading.times, 4),
        "parts": {name: round(value, 4) for name, value in reading.parts.items()},
    }


def _as_json(image: Written, names: Sequence[str], output: Path) -> dict[str, Any]:
    return {
        "name": image.name,
        "path": str(image.path),
        "height": image.height,
        "width": image.width,
        "seconds": round(image.seconds, 4),
        "shares": image.shares,
        "style_weights": _by_source(image.style_weights, names),
        "mean_confidence": image.mean_confidence,
        "unfamiliarity": _as_plain(image.unfamiliarity),
        "classes_file": _below(image.classes_file, output),
        "overlay_file": _below(image.overlay_file, output),
        "confidence_file": _below(image.confidence_file, output),
    }


def _video_as_json(video: WrittenVideo, names: Sequence[str], output: Path) -> dict[str, Any]:
    return {
        "name": video.name,
        "path": str(video.path),
        "height": video.height,
        "width": video.width,
        "frames": video.frames,
        "rate": video.rate,
        "seconds": round(video.seconds, 4),
        "broken": video.broken,
        "stopped": video.stopped,
        "shares": video.shares,
        "style_weights": _by_source(video.style_weights, names),
        "mean_confidence": video.mean_confidence,
        "unfamiliarity": None if video.unfamiliarity is None else round(video.unfamiliarity, 4),
        "video_file": _below(video.video_file, output),
        "frames_file": _below(video.frames_file, output),
        "classes_folder": _below(video.classes_folder, output),
    }


def _by_source(weights: tuple[tuple[float, ...], ...] | None, names: Sequence[str]) -> list[dict[str, float]] | None:
    return None if weights is None else [dict(zip(names, layer, strict=True)) for layer in weights]


def _below(path: Path | None, output: Path) -> str | None:
    return None if path is None else path.relative_to(output).as_posix()


def _per_source(weights: torch.Tensor) -> list[float]:
    """One share per source of an image; weights per channel are averaged over the channels."""
    shares: list[float] = weights.float().reshape(len(weights), -1).mean(dim=1).tolist()
    return shares


def _is_out_of_memory(error: BaseException) -> bool:
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


def find_device(name: torch.device | str = "auto") -> torch.device:
    """The device of that name; 'auto' takes an accelerator if there is one.

    Raises:
        UsageError: there is no such device.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises any of these for a missing one
        raise UsageError(f"there is no device {str(name)!r} here: use auto, or cpu, which is everywhere") from error
    return device


def read_rgb(image: npt.NDArray[Any] | Image.Image | Path | str) -> npt.NDArray[np.uint8]:
    """An image of any kind as H×W×3 RGB bytes, upright.

    A photo that says how the camera was held (EXIF) is turned. What can be seen through is laid on white. Of a file
    with several pictures the first counts. 16-bit values lose their lower half: 65535 is white.

    Raises:
        UsageError: there is no such file, or an array does not have the shape or type of an image.
        DataError: the file is no image, broken, or must not be read.
    """
    if isinstance(image, np.ndarray):
        shown = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not shown or 0 in image.shape:
            raise UsageError(
                f"the image is an array of {image.dtype} with the shape {image.shape}: it must be uint8 and H×W×3 "
                "(RGB), H×W (grey) or H×W×4 (RGB and opacity)"
            )
        return _to_rgb(Image.fromarray(image))
    if isinstance(image, Image.Image):
        return _decoded(image, "the image")
    path = Path(image)
    if not path.is_file():
        problem = "is a folder: give an image" if path.is_dir() else "is not there: check the path"
        raise UsageError(f"{path} {problem}")
    try:
        # Decoders warn of what is odd in a file; what matters of it becomes an error.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:
            return _decoded(opened, str(path))
    except UnidentifiedImageError as error:
        raise DataError(f"cannot read {path}: it is no image of a known kind. Convert it to PNG or JPEG") from error
    except DataError:
        raise
    except Exception as error:  # a broken file may raise anything in the decoders
        raise _unreadable(str(path), error) from error


def _decoded(image: Image.Image, where: str) -> npt.NDArray[np.uint8]:
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # pixels are decoded only here, and a broken file may raise anything
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return DataError(f"cannot read {where}: {' '.join(reason.split())}. Check or replace the file")


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_to_bytes(np.asarray(image), image.mode)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, (255, 255, 255, 255)), clear)
    return np.array(image.convert("RGB"))


def _to_bytes(values: npt.NDArray[Any], mode: str) -> npt.NDArray[np.uint8]:
    """Grey values of more than 8 bits as bytes: of 0..65535, or of 0..255 where mode `I` or `F` holds no more."""
    values = np.nan_to_num(values.astype(np.float32), posinf=65535, neginf=0)
    if mode == "F" and values.max(initial=0) <= 1:
        values = values * 255
    elif mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values / 257
    return (values + 0.5).clip(0, 255).astype(np.uint8)


def find_images(inputs: Sequence[Path | str], *, output: Path | None = None, videos: bool = False) -> list[FoundImage]:
    """The image files that inputs stand for, each once, with a name for its results.

    An input is an image file, a folder (searched with all folders below it), or a glob (`*`, `?`, `[...]`, and `**`
    for any depth; what it matches and is no image is passed over). The name of an image is its path below the folder
    that was searched, without the suffix; names that would clash get the suffix or more folders.

    Args:
        inputs: files, folders, globs.
        output: folder the results go to; what lies in it is not found in folders, so that results are not predicted.
        videos: find video files and webcams, too.

    Raises:
        UsageError: no inputs, no such file, a glob that matches no image, a folder without images, or results that
            would overwrite an input.
        DataError: a folder cannot be read.
    """
    if not inputs:
        raise UsageError("there is nothing to predict: give images, folders or globs")
    wanted = IMAGE_SUFFIXES | VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
    found: dict[Path, tuple[Path, Path]] = {}
    for text in inputs:
        if videos and is_webcam(text):
            found.setdefault(Path(text), (Path(text), Path()))
            continue
        for path, base in _expand(text, output, wanted):
            found.setdefault(path.resolve(), (path, base))
    images = _name([*found.values()])
    if output is not None:
        taken = {output.resolve() / f"{i.name}{end}" for i in images for end in RESULT_SUFFIXES}
        overwritten = sorted(taken & found.keys())
        if overwritten:
            raise UsageError(f"{overwritten[0]} would be overwritten by the results: choose another output folder")
    return images


def _expand(text: Path | str, output: Path | None, wanted: frozenset[str]) -> list[tuple[Path, Path]]:
    """Image files of one input, each with the folder it was searched from."""
    path = Path(text).expanduser()
    if path.is_dir():
        if output is not None and output.resolve() == path.resolve():
            raise UsageError(f"the output folder {output} is the one that is searched: choose another for the results")
        files = _images_below(path, output, wanted)
        if not files:
            kinds = ", ".join(sorted(wanted))
            raise UsageError(f"the folder {text} has no images: files that end in {kinds} are looked for")
        return [(file, path) for file in files]
    if path.exists():
        return [(path, path.parent)]
    if not glob.has_magic(str(path)):
        raise UsageError(f"{text} is not there: give an image, a folder or a glob such as 'photos/*.jpg'")
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [match for match in matches if match.is_file() and _is_wanted(match, wanted)]
    if not files:
        raise UsageError(f"{text} matches no image: check the path, and the quotes around it")
    base = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
    return [(file, base) for file in files]


def _is_wanted(path: Path, wanted: frozenset[str]) -> bool:
    return path.suffix.lower() in wanted and not path.name.startswith(".")


def _images_below(folder: Path, output: Path | None, wanted: frozenset[str]) -> list[Path]:
    results = output.resolve() if output is not None else None

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}. Check its permissions") from error

    files: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (Path(parent) / f).resolve() != results)
        files += [Path(parent) / name for name in sorted(names) if _is_wanted(Path(name), wanted)]
    return files


def _file_name(path: Path) -> Path:
    """A path that can be one of a file: a webcam's without colons and slashes."""
    return Path(re.sub(r"\W+", "-", str(path)).strip("-")) if is_webcam(path) else path


def _name(found: list[tuple[Path, Path]]) -> list[FoundImage]:
    """Shortest names that differ, in small letters too: some file systems do not tell the letters apart."""
    whole = [_file_name(path).resolve().parts for path, _ in found]
    levels = zip(*(parts[:-1] for parts in whole), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels)) or 1  # at least the root
    choices = []
    for (path, base), parts in zip(found, whole, strict=True):
        short = _file_name(path) if is_webcam(path) else path.relative_to(base)
        short = Path(path.name) if ".." in short.parts else short  # results stay in their folder
        full = Path(*parts[shared:])
        choices.append([name.as_posix() for name in (short.with_suffix(""), short, full.with_suffix(""), full)])
    level = [0] * len(found)
    while True:
        names = [choice[n] for choice, n in zip(choices, level, strict=True)]
        times = Counter(name.casefold() for name in names)
        clashing = [i for i, name in enumerate(names) if times[name.casefold()] > 1 and level[i] < 3]
        if not clashing:
            return [FoundImage(path, name) for (path, _), name in zip(found, names, strict=True)]
        for i in clashing:
            level[i] += 1
