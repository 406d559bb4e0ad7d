"""Class maps of photos: one at a time for a program, or whole folders into files."""

import csv
import glob
import io
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import nn
from torchvision.transforms import v2

from spcnet.data.labels import IGNORE, LabelSpace
from spcnet.data.transforms import normalise
from spcnet.errors import DataError, SpcnetError, UsageError
from spcnet.evaluation.evaluator import label_image, save_image
from spcnet.evaluation.metrics import classify
from spcnet.files import write_whole
from spcnet.inference.visualize import sheet
from spcnet.models.segmentor import MIN_SIZE
from spcnet.types import SegOutput

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
)
"""How the names of image files end, in small letters: what is looked for in folders and globs."""

CLASSES_SUFFIX = "_classes.png"
OVERLAY_SUFFIX = "_overlay.png"


@dataclass(frozen=True)
class Prediction:
    """What a network sees in one image."""

    class_map: npt.NDArray[np.uint8]
    """H×W at the image's own size: class of each pixel."""
    style_weights: tuple[tuple[float, ...], ...] | None
    """Share of each of the M source styles (λ) for each style layer; None if the network has none."""
    seconds: float
    """From the pixels to the class map; reading the file is not in it."""


@dataclass(frozen=True)
class FoundImage:
    """An image file, and what its results are called."""

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
    """Palette PNG whose pixel values are class ids."""
    overlay_file: Path | None
    """The picture to look at, if asked for."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be predicted."""

    path: Path
    reason: str
    """One line for the user."""


Outcome = Written | Failure


@dataclass(frozen=True)
class Predictions:
    """What became of all images."""

    written: list[Written] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Predictor:
    """A trained network made ready for photos of any size and kind.

    ```python
    predictor = Predictor(model, space=label_space("cityscapes19"), size=(512, 1024))
    class_map = predictor.predict("street.jpg").class_map  # H×W, uint8, at the photo's own size
    ```

    Args:
        model: the network; moved to the device and put into evaluation mode.
        space: its classes.
        size: height and width in pixels that each image is brought to for the network; None keeps each image's own.
        device: auto (an accelerator if there is one), cpu, cuda, cuda:1, mps.
        source_names: of the source domains, in the order of the style bases.

    Raises:
        UsageError: the size is too small, or there is no such device.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        space: LabelSpace,
        size: tuple[int, int] | None = None,
        device: torch.device | str = "auto",
        source_names: Sequence[str] = (),
    ) -> None:
        if size is not None and min(size) < MIN_SIZE:
            raise UsageError(
                f"the size {size[0]}×{size[1]} is too small: height and width must be at least {MIN_SIZE} pixels"
            )
        self.device = find_device(device)
        self.model = model.to(self.device).eval()
        self.space = space
        self.size = size
        self.source_names = tuple(source_names)

    def predict(self, image: npt.NDArray[Any] | Image.Image | Path | str) -> Prediction:
        """Find the class of each pixel of an image.

        Args:
            image: H×W×3 RGB (also H×W grey or H×W×4 with opacity) of bytes, a PIL image, or a file.

        Raises:
            UsageError: no such file, the image is smaller than 33 pixels and no `size` is set, or it is of a kind that
                shows no photo; or the network does not fit the space or the source names.
            DataError: the file is unreadable or the image is too large for the memory.
        """
        return self._predict(self._read(image))

    def _read(self, image: npt.NDArray[Any] | Image.Image | Path | str) -> npt.NDArray[np.uint8]:
        rgb = read_rgb(image)
        if self.size is None and min(rgb.shape[:2]) < MIN_SIZE:
            what = str(image) if isinstance(image, (Path, str)) else "the image"
            raise UsageError(
                f"{what} has {rgb.shape[0]}×{rgb.shape[1]} pixels: height and width must be at least {MIN_SIZE}. "
                "Set a size that it is brought to, or give a larger image"
            )
        return rgb

    def _predict(self, rgb: npt.NDArray[np.uint8]) -> Prediction:
        start = time.perf_counter()
        own_size = (rgb.shape[0], rgb.shape[1])
        try:
            with torch.inference_mode():
                pixels = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
                if self.size is not None:  # exactly as images are resized for scoring
                    pixels = v2.functional.resize(
                        pixels, list(self.size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True
                    )
                output: SegOutput = self.model(normalise(pixels.to(self.device))[None])
                self._check(output)
                class_map = classify(output.logits[0], size=own_size).byte().cpu().numpy()
                weights = tuple(tuple(_per_source(layer[0])) for layer in output.style_weights)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise DataError(
                f"the memory does not suffice for an image of {own_size[0]}×{own_size[1]} pixels: "
                "set a smaller size that it is brought to, or use another device"
            ) from error
        return Prediction(class_map, weights or None, time.perf_counter() - start)

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
        progress: Callable[[int, int, Outcome], None] | None = None,
    ) -> Predictions:
        """Predict image files, folders of them, and globs, and write the results into a folder.

        For each image NAME: `NAME_classes.png` (palette PNG, pixel values are class ids), and `NAME_overlay.png` (the
        photo under the colours, with a legend and the mix of styles). For all together: `predictions.json`, and
        `styles.csv` (one line per image and style layer) where the network has styles. An image that cannot be
        predicted is among the failures, and the others go on.

        Args:
            inputs: what to predict; see `find_images`.
            output: folder for the results; made if it is not there.
            overlay: opacity of the colours in the overlay, 0..1; None writes no overlays.
            progress: called after each image with how many are done, how many there are, and what became of it.

        Raises:
            UsageError: as `find_images`, or the opacity lies outside 0..1.
            DataError: the results cannot be written.
        """
        images = find_images(inputs, output=output)
        predictions = Predictions()
        for done, outcome in enumerate(self.predict_each(images, output, overlay=overlay), start=1):
            if isinstance(outcome, Written):
                predictions.written.append(outcome)
            else:
                predictions.failures.append(outcome)
            if progress is not None:
                progress(done, len(images), outcome)
        self._write_index(predictions, output)
        return predictions

    def predict_each(
        self, images: Sequence[FoundImage], output: Path, *, overlay: float | None = 0.5
    ) -> Iterator[Outcome]:
        """Predict images one after the other; each one's files are written before it is yielded.

        Args:
            images: what `find_images` found.
            output: folder for the results.
            overlay: opacity of the colours in the overlay, 0..1; None writes no overlays.

        Raises:
            UsageError: the opacity lies outside 0..1, or the network does not fit the space or the source names.
            DataError: the results cannot be written.
        """
        if overlay is not None and not 0 <= overlay <= 1:
            raise UsageError(f"the opacity of the overlay is {overlay}: it must lie in 0 (photo) .. 1 (colours)")
        for image in images:
            try:
                rgb = self._read(image.path)
            except SpcnetError as error:
                yield Failure(image.path, str(error))
                continue
            try:
                prediction = self._predict(rgb)
            except DataError as error:  # a network that does not fit is no fault of this image
                yield Failure(image.path, f"{image.path}: {error}")
                continue
            yield self._write(image, rgb, prediction, output, overlay)

    def _write(
        self,
        image: FoundImage,
        rgb: npt.NDArray[np.uint8],
        prediction: Prediction,
        output: Path,
        opacity: float | None,
    ) -> Written:
        class_map = prediction.class_map
        classes_file = output / f"{image.name}{CLASSES_SUFFIX}"
        save_image(label_image(class_map, self.space), classes_file)
        overlay_file = None
        if opacity is not None:
            overlay_file = output / f"{image.name}{OVERLAY_SUFFIX}"
            weights = prediction.style_weights or ()
            names = self._names(len(weights[0])) if weights else ()
            picture = sheet(rgb, class_map, self.space, opacity=opacity, style_weights=weights, source_names=names)
            save_image(picture, overlay_file)
        pixels = np.bincount(class_map.reshape(-1), minlength=IGNORE + 1)
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
        )

    def _names(self, num_sources: int) -> tuple[str, ...]:
        return self.source_names or tuple(f"source {m + 1}" for m in range(num_sources))

    def _write_index(self, predictions: Predictions, output: Path) -> None:
        styled = [(image, image.style_weights) for image in predictions.written if image.style_weights]
        names = self._names(len(styled[0][1][0])) if styled else self.source_names
        index: dict[str, Any] = {
            "space": self.space.name,
            "classes": list(self.space.classes),
            "sources": list(names),
            "size": list(self.size) if self.size else None,
            "images": [_as_json(image, names, output) for image in predictions.written],
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


def _as_json(image: Written, names: Sequence[str], output: Path) -> dict[str, Any]:
    weights = image.style_weights
    return {
        "name": image.name,
        "path": str(image.path),
        "height": image.height,
        "width": image.width,
        "seconds": round(image.seconds, 4),
        "shares": image.shares,
        "style_weights": None if weights is None else [dict(zip(names, layer, strict=True)) for layer in weights],
        "classes_file": image.classes_file.relative_to(output).as_posix(),
        "overlay_file": image.overlay_file.relative_to(output).as_posix() if image.overlay_file else None,
    }


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


def find_images(inputs: Sequence[Path | str], *, output: Path | None = None) -> list[FoundImage]:
    """The image files that inputs stand for, each once, with a name for its results.

    An input is an image file, a folder (searched with all folders below it), or a glob (`*`, `?`, `[...]`, and `**`
    for any depth; what it matches and is no image is passed over). The name of an image is its path below the folder
    that was searched, without the suffix; names that would clash get the suffix or more folders.

    Args:
        inputs: files, folders, globs.
        output: folder the results go to; what lies in it is not found in folders, so that results are not predicted.

    Raises:
        UsageError: no inputs, no such file, a glob that matches no image, a folder without images, or results that
            would overwrite an input.
        DataError: a folder cannot be read.
    """
    if not inputs:
        raise UsageError("there is nothing to predict: give images, folders or globs")
    found: dict[Path, tuple[Path, Path]] = {}
    for text in inputs:
        for path, base in _expand(text, output):
            found.setdefault(path.resolve(), (path, base))
    images = _name([*found.values()])
    if output is not None:
        taken = {output.resolve() / f"{i.name}{end}" for i in images for end in (CLASSES_SUFFIX, OVERLAY_SUFFIX)}
        overwritten = sorted(taken & found.keys())
        if overwritten:
            raise UsageError(f"{overwritten[0]} would be overwritten by the results: choose another output folder")
    return images


def _expand(text: Path | str, output: Path | None) -> list[tuple[Path, Path]]:
    """Image files of one input, each with the folder it was searched from."""
    path = Path(text).expanduser()
    if path.is_dir():
        if output is not None and output.resolve() == path.resolve():
            raise UsageError(f"the output folder {output} is the one that is searched: choose another for the results")
        files = _images_below(path, output)
        if not files:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise UsageError(f"the folder {text} has no images: files that end in {kinds} are looked for")
        return [(file, path) for file in files]
    if path.exists():
        return [(path, path.parent)]
    if not glob.has_magic(str(path)):
        raise UsageError(f"{text} is not there: give an image, a folder or a glob such as 'photos/*.jpg'")
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [match for match in matches if match.is_file() and _is_image(match)]
    if not files:
        raise UsageError(f"{text} matches no image: check the path, and the quotes around it")
    base = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
    return [(file, base) for file in files]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _images_below(folder: Path, output: Path | None) -> list[Path]:
    results = output.resolve() if output is not None else None

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}. Check its permissions") from error

    files: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (Path(parent) / f).resolve() != results)
        files += [Path(parent) / name for name in sorted(names) if _is_image(Path(name))]
    return files


def _name(found: list[tuple[Path, Path]]) -> list[FoundImage]:
    """Shortest names that differ, in small letters too: some file systems do not tell the letters apart."""
    whole = [path.resolve().parts for path, _ in found]
    levels = zip(*(parts[:-1] for parts in whole), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels)) or 1  # at least the root
    choices = []
    for (path, base), parts in zip(found, whole, strict=True):
        short = path.relative_to(base)
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
