"""Class maps of photos and videos: one at a time for a program, or whole folders into files."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from spcnet.checkpoint import Calibration
from spcnet.config import plain_lists
from spcnet.data.listing import ending_of, kind_by_content, kind_of_ending, package_for, plug_in_loaded
from spcnet.data.transforms import normalise
from spcnet.errors import DataError, SpcnetError, UsageError, WriteError
from spcnet.evaluation.metrics import certainty, classify
from spcnet.evaluation.tta import TestTimeAugmentation, augmented
from spcnet.files import write_atomic
from spcnet.glossary import Layers
from spcnet.inference.engines import EngineName, EngineOptions, Running
from spcnet.inference.images import find_images, read_rgb
from spcnet.inference.ood import OODDetector, OODScore
from spcnet.inference.result_files import ResultWriter, VideoRecord
from spcnet.inference.results import Failure, FoundImage, Outcome, Prediction, Predictions, Results, WrittenVideo
from spcnet.inference.video import Frame, VideoWriter, is_video, open_video, packages
from spcnet.inference.views import check_views
from spcnet.labels import IGNORE, LabelSpace
from spcnet.models.network import MIN_SIZE
from spcnet.numerics import find_device, is_out_of_memory
from spcnet.types import SegOutput

WHOLE = TestTimeAugmentation()
"""The whole image at once."""

_Labelled = tuple[npt.NDArray[np.uint8], Mapping[str, Layers], npt.NDArray[np.float32] | None, OODScore | None]


class Predictor:
    """A trained network made ready for photos and videos of any size and kind.

    ```python
    predictor = Predictor(model, space=label_space("cityscapes19"), size=(512, 1024))
    class_map = predictor.predict("street.jpg").class_map  # H×W, uint8, at the photo's own size
    ```

    On a processor OpenVINO runs the network where it is installed, or torch a rewritten copy (`spcnet.inference.engines`),
    elsewhere torch with low-rank updates merged. Scores then differ by less than a thousandth of the largest, and labels
    where two classes are that close; `engine="torch"` runs the network as it is. On a processor freed memory is also kept
    for the next image.

    Args:
        model: the network; moved to the device and put into evaluation mode.
        space: its classes.
        size: height and width in pixels that each image is brought to for the network; None keeps each image's own.
        device: auto (an accelerator if there is one), cpu, cuda, cuda:1, mps.
        source_names: of the source domains, in the order of the style bases.
        views: how images are viewed: whole or in windows, at which scales, mirrored too.
        batch_size: most images of one size that go through the network together, and most windows.
        engine: the program that runs the network, by name or with its precision, see `spcnet.inference.engines`.

    Raises:
        UsageError: the size or the batch is too small, the views make no sense, there is no such device, or the engine does not run
            the network there.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        space: LabelSpace,
        size: tuple[int, int] | None = None,
        device: torch.device | str = "auto",
        source_names: Sequence[str] = (),
        views: TestTimeAugmentation = WHOLE,
        batch_size: int = 1,
        engine: EngineOptions | EngineName = "auto",
    ) -> None:
        if size is not None and min(size) < MIN_SIZE:
            raise UsageError(
                f"the size {size[0]}×{size[1]} is too small: height and width must be at least {MIN_SIZE} pixels"
            )
        if batch_size < 1:
            raise UsageError(f"the batch size is {batch_size}: at least one image must go through the network")
        check_views(views, size)
        if size is not None and not _fits(size, views):
            raise UsageError(
                f"the size {size[0]}×{size[1]} is too small at the scale {min(views.scales):g}: height and width must be at "
                f"least {MIN_SIZE} pixels at each"
            )
        self.device = find_device(device)
        self.model = model.to(self.device).eval()
        self.space = space
        self.size = size
        self.source_names = tuple(source_names)
        self.views, self.batch_size = views, batch_size
        self.ood_detector: OODDetector | None = None
        self.calibration: Calibration | None = None
        options = EngineOptions(engine) if isinstance(engine, str) else engine
        self._running = Running(self.model, options, self.device)
        self._forward = augmented(self._running, views, at_once=batch_size)

    @property
    def engine(self) -> str:
        """The engine that runs the network, and its precision where that is not single: `openvino bf16`."""
        running = self._running
        return running.name if running.precision == "f32" else f"{running.name} {running.precision}"

    def score_ood(self, detector: OODDetector) -> None:
        """Give each prediction an out-of-distribution score from now on.

        Args:
            detector: fitted on images of the size that this predictor brings images to.

        Raises:
            UsageError: images are seen in windows, at several scales or mirrored, for which no detector is fitted.
        """
        if not self.views.plain:
            raise UsageError("OOD scores require whole images at one scale: leave out window, scales and flip")
        self.ood_detector = detector

    def calibrate(self, calibration: Calibration | None) -> None:
        """Divide logits by a temperature before each confidence from now on, and make pixels below thresholds void.

        Args:
            calibration: of the network's card; None for the network's own confidence and no void pixels.

        Raises:
            UsageError: its thresholds are for another number of classes.
        """
        thresholds = None if calibration is None else calibration.thresholds
        if thresholds is not None and len(thresholds) != len(self.space):
            raise UsageError(
                f"the calibration has thresholds of {len(thresholds)} classes, but the label space {self.space.name} has "
                f"{len(self.space)}: calibrate this network, with spcnet calibrate"
            )
        self.calibration = calibration

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
        try:
            if isinstance(image, (Path, str)):
                plug_in_loaded(kind_of_ending(ending_of(str(image))))
            rgb = read_rgb(image)
        except DataError as error:
            content = kind_by_content(Path(image)) if isinstance(image, (Path, str)) else ""
            if package := package_for(content):
                raise DataError(
                    f"cannot read {image}: it is a picture of the kind {content.upper()}, which takes a plug-in. pip install "
                    f"{package}, or convert it to PNG or JPEG"
                ) from error
            raise
        self._check_size(rgb, str(image) if isinstance(image, (Path, str)) else "the image")
        return rgb

    def _check_size(self, rgb: npt.NDArray[np.uint8], what: str) -> None:
        if self.size is None and not _fits(rgb.shape[:2], self.views):
            scale = min(self.views.scales)
            raise UsageError(
                f"{what} has {rgb.shape[0]}×{rgb.shape[1]} pixels: height and width must be at least {MIN_SIZE}"
                f"{'' if scale == 1 else f' at the scale {scale:g}'}. "
                "Set a size that it is brought to, or give a larger image"
            )

    def _predict(self, images: Sequence[npt.NDArray[np.uint8]], confidence: bool) -> list[Prediction]:
        """Of images with one size for the network; one after the other where memory does not hold them all."""
        start = time.perf_counter()
        try:
            labelled = self._labelled(images, confidence)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(images) > 1:
                return [prediction for image in images for prediction in self._predict([image], confidence)]
            raise DataError(
                f"the memory does not suffice for an image of {images[0].shape[0]}×{images[0].shape[1]} pixels: "
                "set a smaller size that it is brought to, or use another device"
            ) from error
        seconds = (time.perf_counter() - start) / len(images)
        return [
            Prediction(class_map, figures, seconds, sure, reading) for class_map, figures, sure, reading in labelled
        ]

    @torch.inference_mode()
    def _labelled(self, images: Sequence[npt.NDArray[np.uint8]], confidence: bool) -> list[_Labelled]:
        output: SegOutput = self._forward(torch.stack([self._prepared(image) for image in images]))
        self._check(output)
        readings = [None] * len(images) if self.ood_detector is None else self.ood_detector.scores(output)
        labelled: list[_Labelled] = []
        for number, rgb in enumerate(images):
            own_size = (rgb.shape[0], rgb.shape[1])
            logits = output.logits[number]
            class_map = classify(logits, size=own_size)
            averaged = len(self.views.scales) > 1 or self.views.flip
            sure, calibration = None, self.calibration
            if confidence or (calibration is not None and calibration.thresholds is not None):
                scores = logits.log() if averaged else logits
                sure = certainty(scores if calibration is None else scores.float() / calibration.temperature, class_map)
            if sure is not None and calibration is not None and calibration.thresholds is not None:
                unsure = sure < sure.new_tensor(calibration.thresholds)[class_map]
                class_map = class_map.masked_fill(unsure, IGNORE)
            shown = sure.cpu().numpy() if sure is not None and confidence else None
            figures = {
                name: tuple(tuple(_per_source(layer[number])) for layer in layers)
                for name, layers in output.figures.items()
            }
            labelled.append((class_map.byte().cpu().numpy(), figures, shown, readings[number]))
        return labelled

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
        for layer in chain.from_iterable(output.figures.values()):
            if self.source_names and layer.shape[1] != len(self.source_names):
                raise UsageError(
                    f"the network knows {layer.shape[1]} source styles, but {len(self.source_names)} source names were "
                    f"given ({', '.join(self.source_names)}): give one for each"
                )

    @plain_lists
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
        styles. What cannot be predicted is among the failures. Where the user stops it, what is done until then stays.

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
        writer = self._writer(output, results)
        images = find_images(inputs, output=output, videos=True)
        results.check_names(images)
        writer.check_folder()
        predictions = Predictions()
        done = 0
        try:
            for video, group in groupby(images, key=lambda one: is_video(one.path)):
                some = list(group)
                outcomes = (
                    (self.predict_video(one, output, results=results, on_frame=on_frame) for one in some)
                    if video
                    else self.predict_each(some, output, results=results)
                )
                for outcome in outcomes:
                    done += 1
                    predictions.add(outcome)
                    if progress is not None:
                        progress(done, len(images), outcome)
                    if isinstance(outcome, WrittenVideo) and outcome.stopped:
                        raise KeyboardInterrupt
        except (KeyboardInterrupt, WriteError) as error:
            # Where nothing more can be written, the list of what there is may be just what no longer fits.
            with suppress(WriteError):
                if done or isinstance(error, WriteError):
                    writer.index(predictions, size=self.size)
            raise
        writer.index(predictions, size=self.size)
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
        writer = self._writer(output, results or Results(overlay))
        waiting: list[tuple[FoundImage, npt.NDArray[np.uint8]]] = []
        for image in images:
            try:
                rgb = self._read(image.path)
            except SpcnetError as error:
                yield from self._predict_waiting(waiting, writer)
                yield Failure(image.path, str(error))
                continue
            if waiting and self._network_size(waiting[0][1]) != self._network_size(rgb):
                yield from self._predict_waiting(waiting, writer)
            waiting.append((image, rgb))
            if len(waiting) == self.batch_size:
                yield from self._predict_waiting(waiting, writer)
        yield from self._predict_waiting(waiting, writer)

    def _predict_waiting(
        self, waiting: list[tuple[FoundImage, npt.NDArray[np.uint8]]], writer: ResultWriter
    ) -> Iterator[Outcome]:
        """Predict images of one size and forget them."""
        batch = list(waiting)
        waiting.clear()
        if not batch:
            return
        try:
            predictions = self._predict([rgb for _, rgb in batch], writer.results.confidence)
        except DataError as error:  # a network that does not fit is no fault of this image
            if len(batch) > 1:  # one of them is too large for the memory
                for one in batch:
                    yield from self._predict_waiting([one], writer)
                return
            yield Failure(batch[0][0].path, f"{batch[0][0].path}: {error}")
            return
        for (image, rgb), prediction in zip(batch, predictions, strict=True):
            try:
                written = writer.image(image, rgb, prediction)
            except WriteError as error:
                if error.concerns_all:
                    raise
                yield Failure(image.path, f"{image.path}: {error}")
            else:
                yield written

    def predict_video(
        self,
        video: FoundImage,
        output: Path,
        *,
        results: Results | None = None,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> WrittenVideo | Failure:
        """Predict a video frame by frame, with the memory of `batch_size` frames however long it is.

        For a video NAME: `NAME_overlay.mp4` (the frames under the colours, at their own size, shape of pixels, rate and times) with
        `NAME_legend.png`, `NAME_frames.csv` (a line for each frame: fraction of each class, mix of styles), and where they
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
        writer = self._writer(output, results)
        packages()
        try:
            writer.check_video(video)
            return self._predict_video(video, writer, on_frame)
        except WriteError as error:
            if error.concerns_all:
                raise
            return Failure(video.path, f"{video.path}: {error}")

    def _predict_video(
        self, video: FoundImage, writer: ResultWriter, on_frame: Callable[[int, int], None] | None
    ) -> WrittenVideo | Failure:
        results = writer.results
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(open_video(video.path, most=results.every * results.limit))
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
            strange = self.ood_detector is not None
            record = VideoRecord(writer, video, opened, table, strange=strange, on_frame=on_frame)
            if record.video_file is None:
                self._film(record, first, prediction, frames, None)
            else:
                film = partial(VideoWriter, rate=opened.rate, pixel_aspect=opened.pixel_aspect)
                write_atomic(record.video_file, lambda file: self._film(record, first, prediction, frames, film(file)))
            return record.finish()

    def _film(
        self,
        record: VideoRecord,
        first: Frame,
        prediction: Prediction,
        frames: Iterator[Frame],
        film: VideoWriter | None,
    ) -> None:
        """Go on after the first frame until the end, or until the user stops it."""
        at_once = 1 if record.opened.live else self.batch_size
        confidence = record.writer.results.confidence
        try:
            record.add(first, prediction, film)
            for _, alike in groupby(frames, key=lambda frame: self._network_size(frame.image)):
                while batch := list(islice(alike, at_once)):
                    predictions = self._predict([frame.image for frame in batch], confidence)
                    for frame, labelled in zip(batch, predictions, strict=True):
                        record.add(frame, labelled, film)
        except KeyboardInterrupt:
            record.stopped = True
        finally:
            if film is not None:
                film.close()

    def _writer(self, output: Path, results: Results) -> ResultWriter:
        return ResultWriter(output, results, self.space, self.source_names)


def _fits(size: tuple[int, ...], views: TestTimeAugmentation) -> bool:
    """Whether an image of that height and width is large enough for the network at each scale."""
    return round(min(size) * min(views.scales)) >= MIN_SIZE


def _per_source(weights: torch.Tensor) -> list[float]:
    """One fraction per source of an image; weights per channel are averaged over the channels."""
    fractions: list[float] = weights.float().reshape(len(weights), -1).mean(dim=1).tolist()
    return fractions
