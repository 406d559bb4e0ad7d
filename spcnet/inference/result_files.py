"""What `spcnet predict` writes: class maps, overlays, tables of videos, and predictions.json."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from spcnet.evaluation.evaluator import save_image
from spcnet.files import check_writable, write_atomic
from spcnet.glossary import FIGURES, Layers, words_of
from spcnet.inference.ood import OODScore
from spcnet.inference.results import (
    FRAME_MAPS_SUFFIX,
    FRAMES_SUFFIX,
    LEGEND_SUFFIX,
    OVERLAY_SUFFIX,
    VIDEO_SUFFIX,
    FoundImage,
    Prediction,
    Predictions,
    Results,
    Written,
    WrittenVideo,
)
from spcnet.inference.video import Frame, Video, VideoWriter
from spcnet.inference.visualize import (
    class_image,
    confidence_image,
    legend,
    overlay,
    sheet,
)
from spcnet.labels import IGNORE, LabelSpace


class ResultWriter:
    """Writes what a network saw into a folder, image by image, and an index of it all.

    Args:
        output: the folder; made with the first file.
        results: what is written.
        space: the network's classes.
        source_names: of the source domains, in the order of the style bases; numbered where there are none.

    Raises:
        UsageError: `results` cannot be written.
    """

    def __init__(self, output: Path, results: Results, space: LabelSpace, source_names: Sequence[str] = ()) -> None:
        results.check(space)
        self.output, self.results, self.space, self.source_names = output, results, space, tuple(source_names)

    def names(self, num_sources: int) -> tuple[str, ...]:
        """Names of this number of sources."""
        return self.source_names or tuple(f"source {m + 1}" for m in range(num_sources))

    def check_folder(self) -> None:
        """Refuse an output folder in which nothing can be written, before there is anything to write.

        Raises:
            WriteError: it cannot be made or written to.
        """
        check_writable(self.output / "predictions.json")

    def check_video(self, video: FoundImage) -> None:
        """Refuse a video whose files cannot have their names, before hours go into it.

        Raises:
            WriteError: see the message.
        """
        ends = [FRAMES_SUFFIX, *((VIDEO_SUFFIX, LEGEND_SUFFIX) if self.results.overlay is not None else ())]
        places = [self.output / f"{video.name}{end}" for end in ends]
        if self.results.frame_maps:
            places.append(self.output / f"{video.name}{FRAME_MAPS_SUFFIX}" / f"{0:06d}.png")
        _check_all(places)

    def image(self, image: FoundImage, rgb: npt.NDArray[np.uint8], prediction: Prediction) -> Written:
        """Write the files of one image, all of them or none.

        Raises:
            WriteError: one cannot be written.
        """
        _check_all(self._files(image, prediction))
        results, class_map = self.results, prediction.class_map
        classes_file = self.output / results.classes_name(image.name)
        picture = class_image(class_map, self.space, ids=results.ids)
        save_image(Image.fromarray(class_map) if results.format == "bravo" else picture, classes_file)
        overlay_file = confidence_file = mean_confidence = None
        if prediction.confidence is not None:
            confidence_file = self.output / results.confidence_name(image.name)
            save_image(
                confidence_image(prediction.confidence, bits=16 if results.format == "bravo" else 8), confidence_file
            )
            mean_confidence = float(prediction.confidence.mean(dtype=np.float64))
        if results.overlay is not None:
            overlay_file = self.output / f"{image.name}{OVERLAY_SUFFIX}"
            names = self.names(_num_sources([prediction.figures]))
            picture = sheet(
                rgb, class_map, self.space, opacity=results.overlay, figures=prediction.figures, source_names=names
            )
            save_image(picture, overlay_file)
        pixels = _pixels(class_map)
        return Written(
            name=image.name,
            path=image.path,
            height=class_map.shape[0],
            width=class_map.shape[1],
            fractions={name: int(pixels[k]) / class_map.size for k, name in enumerate(self.space.classes)},
            figures=prediction.figures,
            seconds=prediction.seconds,
            classes_file=classes_file,
            overlay_file=overlay_file,
            confidence_file=confidence_file,
            mean_confidence=mean_confidence,
            ood_score=prediction.ood_score,
        )

    def _files(self, image: FoundImage, prediction: Prediction) -> list[Path]:
        """What is written of an image."""
        names = [self.results.classes_name(image.name)]
        names += [self.results.confidence_name(image.name)] if prediction.confidence is not None else []
        names += [f"{image.name}{OVERLAY_SUFFIX}"] if self.results.overlay is not None else []
        return [self.output / name for name in names]

    def index(self, predictions: Predictions, *, size: tuple[int, int] | None) -> None:
        """Write `predictions.json`, and a table of each figure that the network tells of images, such as `styles.csv`.

        Args:
            predictions: what became of all inputs.
            size: that images were brought to for the network, if they were.

        Raises:
            DataError: the files cannot be written.
        """
        figures = [image.figures for image in predictions.written]
        num_sources = _num_sources([*figures, *(video.figures for video in predictions.videos)])
        names = self.names(num_sources) if num_sources else self.source_names
        index: dict[str, Any] = {
            "space": self.space.name,
            "classes": list(self.space.classes),
            "sources": list(names),
            "size": list(size) if size else None,
            "ids": self.results.ids,
            "images": [_as_json(image, names, self.output) for image in predictions.written],
            "videos": [_video_as_json(video, names, self.output) for video in predictions.videos],
            "failures": [{"path": str(f.path), "reason": f.reason} for f in predictions.failures],
        }
        _write_text(self.output / "predictions.json", [json.dumps(index, ensure_ascii=False, indent=1)])
        for figure in dict.fromkeys(name for one in figures for name in one):
            table = io.StringIO(newline="")
            lines = csv.writer(table)
            lines.writerow(["image", "layer", *names])
            for image in predictions.written:
                layers = image.figures.get(figure, ())
                lines.writerows([image.name, n, *layer] for n, layer in enumerate(layers, start=1))
            _write_text(self.output / f"{words_of(figure).file or figure}.csv", [table.getvalue()])


class VideoRecord:
    """What was seen of a video so far, written down frame by frame.

    Args:
        writer: says where to and what.
        video: the source, as it was found.
        opened: the same, open.
        table: a file that holds the lines of the frames until the end is known.
        strange: whether frames have an OOD score.
        on_frame: called after each frame with how many are done and how many there will be, or 0 if nobody knows.
    """

    def __init__(
        self,
        writer: ResultWriter,
        video: FoundImage,
        opened: Video,
        table: IO[str],
        *,
        strange: bool,
        on_frame: Callable[[int, int], None] | None,
    ) -> None:
        self.writer, self.video, self.opened, self.strange = writer, video, opened, strange
        self.table, self.lines, self.on_frame = table, csv.writer(table), on_frame
        results = writer.results
        total = -(-opened.frames // results.every)
        self.total = min(total, results.limit) if total and results.limit else total or results.limit
        self.frames, self.seconds, self.confidence, self.strangeness = 0, 0.0, 0.0, 0.0
        self.pixels = np.zeros(IGNORE + 1, dtype=np.int64)
        self.sums: dict[str, npt.NDArray[np.float64]] = {}
        self.size = (0, 0)
        self.stopped = False
        """Whether the user stopped it before its end."""

    @property
    def video_file(self) -> Path | None:
        """The overlay video, if requested."""
        if self.writer.results.overlay is None:
            return None
        return self.writer.output / f"{self.video.name}{VIDEO_SUFFIX}"

    def add(self, frame: Frame, prediction: Prediction, film: VideoWriter | None) -> None:
        """Write down one frame, and its picture into `film`.

        Raises:
            DataError: a file cannot be written.
        """
        class_map, space, results = prediction.class_map, self.writer.space, self.writer.results
        figures = prediction.figures
        if not self.frames:
            self.size = class_map.shape
            self.sums = {name: np.zeros((len(layers), len(layers[0]))) for name, layers in figures.items()}
            self._write_head(figures)
        pixels = _pixels(class_map)
        sure = [] if prediction.confidence is None else [float(prediction.confidence.mean(dtype=np.float64))]
        strange = [] if prediction.ood_score is None else [prediction.ood_score.score]
        self.lines.writerow(
            [
                frame.number,
                round(frame.seconds, 4),
                *(round(value, 4) for value in (*sure, *strange)),
                *(round(int(pixels[k]) / class_map.size, 6) for k in range(len(space))),
                *(round(value, 6) for layers in figures.values() for layer in layers for value in layer),
            ]
        )
        if results.frame_maps:
            save_image(class_image(class_map, space, ids=results.ids), self._map_file(frame.number))
        if film is not None and results.overlay is not None:
            film.write(overlay(frame.image, class_map, space, opacity=results.overlay), frame.seconds)
        self.frames += 1
        self.seconds += prediction.seconds
        self.pixels += pixels
        self.confidence += sum(sure)
        self.strangeness += sum(strange)
        for name, layers in figures.items():
            self.sums[name] += np.array(layers)
        if self.on_frame is not None:
            self.on_frame(self.frames, self.total)

    def _write_head(self, figures: Mapping[str, Layers]) -> None:
        names = self.writer.names(_num_sources([figures]))
        columns = [
            f"{'' if figure in FIGURES else f'{figure}, '}layer {n}: {name}"
            for figure, layers in figures.items()
            for n in range(1, len(layers) + 1)
            for name in names
        ]
        sure = ["confidence"] if self.writer.results.confidence else []
        sure += ["unfamiliarity"] if self.strange else []
        self.lines.writerow(["frame", "seconds", *sure, *self.writer.space.classes, *columns])

    def _map_file(self, number: int) -> Path:
        return self.writer.output / f"{self.video.name}{FRAME_MAPS_SUFFIX}" / f"{number:06d}.png"

    def finish(self) -> WrittenVideo:
        """Write what is known only at the end.

        Raises:
            DataError: a file cannot be written.
        """
        space, output, results = self.writer.space, self.writer.output, self.writer.results
        frames_file = output / f"{self.video.name}{FRAMES_SUFFIX}"
        self.table.seek(0)
        _write_text(frames_file, self.table)
        if self.video_file is not None:
            classes = [int(k) for k in np.flatnonzero(self.pixels[: len(space)])]
            save_image(legend(space, classes), output / f"{self.video.name}{LEGEND_SUFFIX}")
        maps = self._map_file(0).parent if results.frame_maps else None
        whole = int(self.pixels.sum())
        return WrittenVideo(
            name=self.video.name,
            path=self.video.path,
            height=self.size[0],
            width=self.size[1],
            frames=self.frames,
            rate=float(self.opened.rate),
            fractions={name: int(self.pixels[k]) / whole for k, name in enumerate(space.classes)},
            figures={
                name: tuple(tuple(layer) for layer in (total / self.frames).tolist())
                for name, total in self.sums.items()
            },
            seconds=self.seconds,
            broken=self.opened.broken,
            stopped=self.stopped,
            frames_file=frames_file,
            video_file=self.video_file,
            classes_folder=maps,
            mean_confidence=self.confidence / self.frames if results.confidence else None,
            ood_score=self.strangeness / self.frames if self.strange else None,
            note=self.opened.note,
        )


def _check_all(places: Sequence[Path]) -> None:
    """Refuse places where no file can be written; the longest name first, so that what helps it helps all."""
    for place in sorted(places, key=lambda place: -len(place.name)):
        check_writable(place)


def _write_text(path: Path, lines: Iterable[str]) -> None:
    """As a whole or not at all; names of files that are no text are written as they can be."""
    write_atomic(path, lambda file: file.writelines(line.encode("utf-8", "backslashreplace") for line in lines))


def _pixels(class_map: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How many pixels each of the 256 values has."""
    counts: npt.NDArray[np.int64] = np.bincount(class_map.reshape(-1), minlength=IGNORE + 1)
    return counts


def _as_plain(reading: OODScore | None) -> dict[str, Any] | None:
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
        "shares": image.fractions,
        **_by_source(image.figures, names),
        "mean_confidence": image.mean_confidence,
        "unfamiliarity": _as_plain(image.ood_score),
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
        "note": video.note,
        "shares": video.fractions,
        **_by_source(video.figures, names),
        "mean_confidence": video.mean_confidence,
        "unfamiliarity": None if video.ood_score is None else round(video.ood_score, 4),
        "video_file": _below(video.video_file, output),
        "frames_file": _below(video.frames_file, output),
        "classes_folder": _below(video.classes_folder, output),
    }


def _num_sources(figures: Iterable[Mapping[str, Layers]]) -> int:
    """How many sources the first figure tells of; 0 where there is none."""
    return next((len(layers[0]) for one in figures for layers in one.values()), 0)


def _by_source(figures: Mapping[str, Layers], names: Sequence[str]) -> dict[str, Any]:
    """Figures as a file has them: those that every network's has by their names, null where there is none, then others."""
    named = {figure: [dict(zip(names, layer, strict=True)) for layer in layers] for figure, layers in figures.items()}
    known = {figure: named.pop(figure, None) for figure in FIGURES}
    return {**known, **({"figures": named} if named else {})}


def _below(path: Path | None, output: Path) -> str | None:
    return None if path is None else path.relative_to(output).as_posix()
