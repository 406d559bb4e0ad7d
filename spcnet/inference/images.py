"""Photos from files, upright and in RGB; and the files that a user's inputs stand for."""

import glob
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from spcnet.config import plain_lists
from spcnet.data.image_files import open_picture
from spcnet.data.images import photo_of
from spcnet.data.listing import (
    FILMS,
    PICTURES,
    LeftOut,
    ending_of,
    files_below,
    is_no_picture,
    is_of_a_server,
    kind_by_content,
    kind_of_ending,
    plug_in_loaded,
)
from spcnet.errors import DataError, UsageError
from spcnet.inference.results import RESULT_SUFFIXES, FoundImage
from spcnet.inference.video import VIDEO_SUFFIXES, is_webcam

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
     ".pnm", ".jp2", ".gif")
)  # fmt: skip
"""How the names of image files end, in small letters: what is looked for in folders and globs.

Pictures for which Pillow may need a plug-in (HEIC, AVIF, JPEG XL) are looked for, too, where it has one."""


def read_rgb(image: npt.NDArray[Any] | Image.Image | Path | str) -> npt.NDArray[np.uint8]:
    """An image of any kind as H×W×3 RGB bytes: upright, on white, and of a file with several pictures the first.

    What a picture shows is decided in one place for prediction, training and evaluation: `spcnet.data.images.photo_of`.
    Here every kind of file is read that Pillow knows; a data set has fewer.

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
        return photo_of(Image.fromarray(image), "the image").pixels
    if isinstance(image, Image.Image):
        return _decoded(image, "the image")
    path = Path(image)
    if not path.is_file():
        problem = "is a folder: give an image" if path.is_dir() else "is not there: check the path"
        raise UsageError(f"{path} {problem}")
    try:
        # Decoders warn of what is odd in a file; what matters of it becomes an error.
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file, open_picture(file) as opened:
            return _decoded(opened, str(path))
    except UnidentifiedImageError as error:
        raise DataError(f"cannot read {path}: it is no image of a known kind. Convert it to PNG or JPEG") from error
    except DataError:
        raise
    except Exception as error:  # a broken file may raise anything in the decoders
        raise _unreadable(str(path), error) from error


def _decoded(image: Image.Image, where: str) -> npt.NDArray[np.uint8]:
    try:
        return photo_of(image, where).pixels
    except DataError:
        raise
    except Exception as error:  # pixels are decoded only here, and a broken file may raise anything
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> DataError:
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return DataError(f"cannot read {where}: it has more than {most} pixels. Make it smaller, or cut it")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return DataError(f"cannot read {where}: {' '.join(reason.split())}. Check or replace the file")


class Search(NamedTuple):
    """What inputs stand for."""

    images: list[FoundImage]
    """The files that are predicted."""
    left_out: LeftOut
    """Files in the folders and globs that could be pictures or videos and are not taken."""


@plain_lists
def find_images(inputs: Sequence[Path | str], *, output: Path | None = None, videos: bool = False) -> list[FoundImage]:
    """The image files that inputs stand for, each once, with a name for its results.

    An input is an image file, a folder (searched with all folders below it, linked ones too), or a glob (`*`, `?`, `[...]`,
    and `**` for any depth; what it matches and is no image is passed over). A file is taken for an image by the ending of
    its name, and where it has none, or an unknown one, by its content. The name of an image is its path below the folder
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
    return search_images(inputs, output=output, videos=videos).images


@plain_lists
def search_images(inputs: Sequence[Path | str], *, output: Path | None = None, videos: bool = False) -> Search:
    """As `find_images`, with what was left out.

    Raises:
        UsageError, DataError: as `find_images`.
    """
    if not inputs:
        raise UsageError("there is nothing to predict: give images, folders or globs")
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
    sources: dict[Path, tuple[Path, Path]] = {}
    others: dict[Path, str] = {}
    for text in inputs:
        if videos and is_webcam(text):
            sources.setdefault(Path(text), (Path(text), Path()))
            continue
        files, passed_over = _expand(text, output, suffixes)
        for path, base in files:
            sources.setdefault(path.resolve(), (path, base))
        for path, kind in passed_over.items():
            others.setdefault(path.resolve(), kind)
    images = _name([*sources.values()])
    if output is not None:
        taken = {output.resolve() / f"{i.name}{end}" for i in images for end in RESULT_SUFFIXES}
        overwritten = sorted(taken & sources.keys())
        if overwritten:
            raise UsageError(f"{overwritten[0]} would be overwritten by the results: choose another output folder")
    return Search(images, LeftOut(kind for path, kind in others.items() if path not in sources))


def _expand(
    text: Path | str, output: Path | None, wanted: frozenset[str]
) -> tuple[list[tuple[Path, Path]], dict[Path, str]]:
    """Image files of one input, each with the folder it was searched from; and others with what they are."""
    path = Path(text).expanduser()
    if path.is_dir():
        if output is not None and output.resolve() == path.resolve():
            raise UsageError(f"the output folder {output} is the one that is searched: choose another for the results")
        hidden: list[str] = []
        files, others = _sorted_out(_images_below(path, output, hidden), wanted)
        others |= {path / name: f"hidden {ending_of(name)}" for name in hidden}
        if not files:
            kinds = ", ".join(sorted(wanted))
            left = f" ({LeftOut(others.values()).text()} left out)" if others else ""
            raise UsageError(f"the folder {text} has no images{left}: files that end in {kinds} are looked for")
        return [(file, path) for file in files], others
    if path.exists():
        return [(path, path.parent)], {}
    if not glob.has_magic(str(path)):
        raise UsageError(f"{text} is not there: give an image, a folder or a glob such as 'photos/*.jpg'")
    pattern, base = _pattern(path)
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    if not any(map(is_of_a_server, path.parts)):
        matches = [match for match in matches if not any(map(is_of_a_server, match.parts[len(base.parts) :]))]
    files, others = _sorted_out([match for match in matches if match.is_file()], wanted)
    if not files:
        left = f" ({LeftOut(others.values()).text()} left out)" if others else ""
        raise UsageError(f"{text} matches no image{left}: check the path, and the quotes around it")
    return [(file, base) for file in files], others


def _pattern(path: Path) -> tuple[str, Path]:
    """A glob in which brackets in the names of folders that are there stand for themselves, and what of it is fixed."""
    base = Path()
    for number, part in enumerate(path.parts):
        if glob.has_magic(part) and not (base / part).is_dir():
            return str(Path(glob.escape(str(base)), *path.parts[number:])), base
        base = base / part
    return glob.escape(str(base)), base.parent


def _sorted_out(files: Sequence[Path], wanted: frozenset[str]) -> tuple[list[Path], dict[Path, str]]:
    """The files that are taken, and those that are not but could be pictures or videos, with what they are."""
    taken: list[Path] = []
    others: dict[Path, str] = {}
    for file in files:
        kind = _why_not(file, wanted)
        if kind is None:
            taken.append(file)
        elif kind:
            others[file] = kind
    return taken, others


def _why_not(file: Path, wanted: frozenset[str]) -> str | None:
    """What a file is that is not taken, or nothing where it is no picture or video at all; None where it is taken."""
    ending = ending_of(file.name)
    if file.name.startswith(".") or is_of_a_server(file.name):
        return ""
    if ending in wanted:
        return None
    if ending in VIDEO_SUFFIXES or is_no_picture(ending):
        return ""
    if needs := kind_of_ending(ending):
        # Phones send JPEG files that are still called .heic.
        readable = plug_in_loaded(needs) or kind_by_content(file) not in ("", "video", needs)
        return None if readable else ending
    if ending in PICTURES or ending in FILMS:
        return ending
    # No ending, or one that says nothing.
    content = kind_by_content(file)
    if content == "video":
        return (
            f"{ending or 'without ending'} (a video by its content: name it .mp4)" if wanted >= VIDEO_SUFFIXES else ""
        )
    if not content or plug_in_loaded(content):
        return None if content else ""
    return ".heic" if content == "heif" else f".{content}"


def _images_below(folder: Path, output: Path | None, hidden: list[str]) -> list[Path]:
    """The files in a folder, then those in each of its folders, sorted by name."""
    results = os.path.realpath(output) if output is not None else None

    def of_results(path: str) -> bool:
        return results is not None and f"{os.path.realpath(path)}/".startswith(f"{results.rstrip('/')}/")

    paths = [path.split("/") for path in files_below(folder, skip=of_results, hidden=hidden, missing_ok=False)]
    paths.sort(key=lambda parts: [*((1, part) for part in parts[:-1]), (0, parts[-1])])
    return [folder.joinpath(*parts) for parts in paths]


def _file_name(path: Path) -> Path:
    """A path that can be one of a file: a webcam's without colons and slashes."""
    return Path(re.sub(r"\W+", "-", str(path)).strip("-")) if is_webcam(path) else path


def _name(sources: list[tuple[Path, Path]]) -> list[FoundImage]:
    """Shortest names that differ, in small letters too: some file systems do not tell the letters apart."""
    whole = [_file_name(path).resolve().parts for path, _ in sources]
    levels = zip(*(parts[:-1] for parts in whole), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels)) or 1  # at least the root
    choices = []
    for (path, base), parts in zip(sources, whole, strict=True):
        short = _file_name(path) if is_webcam(path) else path.relative_to(base)
        short = Path(path.name) if ".." in short.parts else short  # results stay in their folder
        full = Path(*parts[shared:])
        choices.append([name.as_posix() for name in (short.with_suffix(""), short, full.with_suffix(""), full)])
    level = [0] * len(sources)
    while True:
        names = [choice[n] for choice, n in zip(choices, level, strict=True)]
        times = Counter(name.casefold() for name in names)
        clashing = [i for i, name in enumerate(names) if times[name.casefold()] > 1 and level[i] < 3]
        if not clashing:
            return [FoundImage(path, name) for (path, _), name in zip(sources, names, strict=True)]
        for i in clashing:
            level[i] += 1
