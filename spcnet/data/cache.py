"""A copy of a data set as small and quick to read as training needs it, in the set's own layout.

Large PNG photos take longer to decode than to train on. `write_cache` writes them once as JPEG of high quality without
colour subsampling, at the size that is trained on, and the label images as PNG with the same ids; or both as unpacked
pixels. The copy is opened by naming its folder as the set's root. The set itself is only read.
"""

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.config import DataConfig, plain_lists
from spcnet.data import label_formats
from spcnet.data.catalog import dataset
from spcnet.data.doctor import below, list_splits
from spcnet.data.folders import MARKER, Pair, excluded_images, left_out_of, lines_without_image
from spcnet.data.images import ARRAY, geometry_of, is_plain, read_image, read_label, size_misfit
from spcnet.data.label_formats import LabelFormat
from spcnet.data.listing import spellings
from spcnet.data.parallel import in_processes
from spcnet.errors import DataError, UsageError, WriteError, unknown_name_error
from spcnet.files import write_atomic, write_text

Form = Literal["jpeg", "raw"]
"""How photos are stored: packed as JPEG, or as unpacked pixels, which take ten times the room and no time."""
VERSION = 2
"""Of the way in which copies are written. Of version 1, which stored photos as they lie in their files and without their
opacity, what is shown otherwise is copied again; one of another version is not gone on with."""

_SAVE_EVERY = 30.0
"""Seconds between two notes of what is written, for the case that the process is killed."""


@dataclass(frozen=True)
class CacheReport:
    """What a copy is, and how long it took."""

    name: str
    folder: str
    images: int
    """Images with a label that are in the copy."""
    written: int
    """Those of them that were written now; the others were there already."""
    bytes_before: int
    """Bytes of the photos and label images that are in the copy, as they are in the set."""
    bytes_after: int
    """Bytes of the same in the copy."""
    seconds: float
    failed: Mapping[str, str]
    """Path of a photo below the set's root → why it is not in the copy."""
    remarks: tuple[str, ...] = ()
    """What there is to say of the set's files, such as pictures that are none of its photos; a line each."""

    @property
    def images_per_second(self) -> float:
        """How many were written a second."""
        return self.written / self.seconds if self.seconds else 0.0

    @property
    def exit_code(self) -> int:
        """0 where the copy is complete, else 1."""
        return 1 if self.failed else 0


@plain_lists
def write_cache(
    name: str,
    root: Path,
    folder: Path,
    *,
    size: tuple[int, int] | None = None,
    splits: Sequence[str] | None = None,
    form: Form = "jpeg",
    quality: int = 95,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    data: DataConfig | None = None,
) -> CacheReport:
    """Write a copy of a set that is quick to read; what of it is there and up to date stays.

    Photos are stored as they are shown, upright and on white, their labels turned along. They are resized as for
    evaluation, bilinearly with antialiasing; of labels the nearest pixel is taken. An image
    that cannot be read, or whose label has ids that the set does not have, is left out and reported. What was begun and stopped can be gone on with by the same call.

    Args:
        name: a set that lies on disk, or one of `data.sets`.
        root: its folder.
        folder: of the copy; new, empty, or with a copy of the same set.
        size: height and width in pixels of all images of the copy; each image's own if not given.
        splits: the parts to copy; all that are there if not given.
        form: "jpeg", or "raw" for unpacked pixels: nothing is lost, and a crop is read without the rest of its photo; takes
            three bytes a pixel, and one for the label.
        quality: of the JPEG files, 1..100.
        workers: processes that read and write; with 0 the calling one does.
        on_progress: told how many images of how many are done.
        data: the user's own sets, and the files that name images to leave out.

    Raises:
        UsageError: a number is out of range, a split unknown, or the folder lies in the set's or around it.
        DataError: there are no images of the set, or the folder holds something else or cannot be written to.
    """
    if size is not None and min(size) < 1:
        raise UsageError(f"the size of the copy is {size[0]}×{size[1]}: height and width must be at least 1")
    if form not in get_args(Form):
        raise unknown_name_error(form, get_args(Form), "form of a copy")
    if not 1 <= quality <= 100:
        raise UsageError(f"the quality of the JPEG files is {quality}: it must lie in 1..100")
    here, there = root.resolve(), folder.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UsageError(
            f"the copy's folder {folder} is, or lies in or around, the data set's folder {root}: name a folder beside it"
        )
    found = list_splits(name, root, splits=splits, data=data)
    left_out = excluded_images(name, root, data)
    settings = _Settings(size, form, quality if form == "jpeg" else 0, _renumbered(name, data))
    index, version = _read_index(folder, name, settings)
    jobs: dict[str, _Job] = {}
    failed: dict[str, str] = {}
    for listing in (one for listings in found.values() for one in listings):
        as_jpeg = any(pattern.endswith(".jpg") for pattern in listing.layout.images)  # fits every spelling of it
        for pair in listing.bare:
            failed[below(root, pair.image)] = f"its label {below(root, pair.label)} is missing"
        for pair in listing.pairs:
            source = below(root, pair.image)
            photo, label = folder / source, folder / below(root, pair.label)
            if form == "raw":
                photo, label = photo.with_suffix(ARRAY), label.with_suffix(ARRAY)
            elif as_jpeg:
                photo = photo.with_suffix(".jpg")
            jobs[source] = _Job(pair, photo, label, listing.form)
    for image in [image for image in (*failed, *jobs) if image in left_out]:
        failed.pop(image, None)
        jobs.pop(image, None)
    for image in [image for image in index if image in left_out or not (root / image).exists()]:
        _remove(folder, index.pop(image))
    # First, so that a folder that was begun is known as such; an old one stays old until its photos are as they should be.
    _write_index(folder, name, root, settings, index, version)
    for path in _tables(name, root, data):
        write_atomic(folder / below(root, path), partial(_write, content=path.read_bytes()))

    stamps = {image: _stamp(job.pair) for image, job in jobs.items()}
    waiting = [image for image in jobs if image not in index or not index[image].is_current(stamps[image], folder)]
    if version < VERSION:
        again = set(waiting)
        waiting = [image for image in jobs if image in again or not _is_plain(jobs[image].pair.image)]
    tell = on_progress or (lambda done, total: None)
    ready = len(jobs) - len(waiting)
    work = partial(_copy, settings=settings)
    copies = in_processes(
        work,
        [jobs[image] for image in waiting],
        workers=workers,
        on_progress=lambda done, total: tell(ready + done, ready + total),
    )
    started = saved = time.perf_counter()
    try:
        with closing(copies):
            for image, copy in zip(waiting, copies, strict=True):
                old = index.pop(image, None)
                if copy.error:
                    failed[image] = copy.error
                    if old:
                        _remove(folder, old)
                else:
                    places = (below(folder, jobs[image].image), below(folder, jobs[image].label))
                    index[image] = _Entry(stamps[image], places, copy.sizes)
                if time.perf_counter() - saved > _SAVE_EVERY:
                    _write_index(folder, name, root, settings, index, version)
                    saved = time.perf_counter()
        if jobs.keys() >= index.keys():
            version = VERSION
    finally:
        _write_index(folder, name, root, settings, index, version)
    done = [image for image in jobs if image in index]
    remarks = [line for split, listings in found.items() for line in left_out_of(name, root, listings, split=split)]
    return CacheReport(
        name=name,
        folder=str(folder),
        images=len(done),
        written=sum(image in index for image in waiting),
        bytes_before=sum(stamps[image][0] + stamps[image][2] for image in done),
        bytes_after=sum(sum(index[image].sizes) for image in done),
        seconds=time.perf_counter() - started,
        failed=dict(sorted(failed.items())),
        remarks=(*remarks, *lines_without_image(name, left_out, data)),
    )


class _Settings(NamedTuple):
    """How a copy is made."""

    size: tuple[int, int] | None
    form: str
    quality: int
    """Of the JPEG files; 0 where there are none."""
    labels: Mapping[str, str] | None
    """What the ids in its label images mean, where the user's description of the set decides which they are."""


class _Job(NamedTuple):
    """One image to copy."""

    pair: Pair
    image: Path
    """Where the copy of the photo lies."""
    label: Path
    """Where the copy of the label image lies."""
    form: LabelFormat
    """How the label image says the class; its copy has native ids."""


class _Copy(NamedTuple):
    """What became of it."""

    sizes: tuple[int, int]
    """Bytes of the photo and of the label image, as written."""
    error: str
    """Why it was left out; empty where it was not."""


class _Entry(NamedTuple):
    """What is known of an image that is in the copy."""

    stamp: tuple[int, int, int, int]
    """Of the files it was made of: bytes and time of change of the photo, and of the label image."""
    places: tuple[str, str]
    """Paths of photo and label image below the copy's folder."""
    sizes: tuple[int, int]
    """Their bytes."""

    def is_current(self, stamp: tuple[int, int, int, int], folder: Path) -> bool:
        """Whether it was made of the same files and is still there."""
        return self.stamp == stamp and self.sizes == tuple(_bytes(folder / place) for place in self.places)


def _copy(job: _Job, *, settings: _Settings) -> _Copy:
    size = settings.size
    try:
        geometry = geometry_of(job.pair.image)
        own_size = geometry.size
        label = read_label(job.pair.label, job.form, photo=geometry)
        label_formats.check_ids(label, job.form, str(job.pair.label))
        if misfit := size_misfit(geometry, label.shape):
            raise DataError(f"{job.pair.image} and its label must have the same size: {misfit}")
        # Decoding a JPEG at twice the wanted size first changes next to nothing, and is much faster.
        image = read_image(job.pair.image, at_least=size and (2 * size[0], 2 * size[1]))
    except DataError as error:
        return _Copy((0, 0), str(error))
    is_jpeg = job.image.suffix.lower() in spellings(".jpg")
    original = job.pair.image.read_bytes()
    truth = label if size is None else nearest(label, size)
    shown = Image.fromarray(image)
    if size is not None and image.shape[:2] != size:
        shown = shown.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    if settings.form == "raw":
        photo, ids = _packed(np.asarray(shown)), _packed(truth)
    else:
        plain = size in (None, own_size) and geometry.orientation == 1
        if is_jpeg and plain and original.startswith(b"\xff\xd8"):
            photo = original  # encoding it again would only lose
        elif is_jpeg:
            photo = _encoded(shown, "JPEG", quality=settings.quality, subsampling=0)
        else:
            photo = _encoded(shown, "PNG", compress_level=1)
        ids = _encoded(Image.fromarray(truth), "PNG", compress_level=1)
    # The label first: where writing ends between the two, a label without a photo is in nobody's way.
    try:
        write_atomic(job.label, partial(_write, content=ids))
        write_atomic(job.image, partial(_write, content=photo))
    except WriteError as error:
        if error.concerns_all:
            raise
        return _Copy((0, 0), str(error))
    return _Copy((len(photo), len(ids)), "")


def nearest(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A label image (H×W) of another height and width: of each pixel the one at its middle (nearest-exact)."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(label.shape, size, strict=True))
    resized: NDArray[np.uint8] = label[rows[:, None], columns]
    return resized


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    memory = io.BytesIO()
    image.save(memory, kind, **options)
    return memory.getvalue()


def _packed(pixels: NDArray[np.uint8]) -> bytes:
    memory = io.BytesIO()
    np.save(memory, np.ascontiguousarray(pixels), allow_pickle=False)
    return memory.getvalue()


def _write(file: IO[bytes], *, content: bytes) -> None:
    file.write(content)


def _tables(name: str, root: Path, data: DataConfig | None) -> list[Path]:
    """Files of a set that say what the ids in its label images mean."""
    info = dataset(name, data)
    if not any(callable(layout.table) for layout in info.layouts):
        return []
    return [path for around in ("", *info.outer, *info.parts) for path in sorted((root / around).glob("config*.json"))]


def _renumbered(name: str, data: DataConfig | None) -> dict[str, str] | None:
    """What the native ids of a set mean, where they are not simply the numbers in its label images."""
    forms = [layout.format for layout in dataset(name, data).layouts if isinstance(layout.format, LabelFormat)]
    return next(
        ({str(native_id): known for native_id, known in form.names} for form in forms if form.numbers is not None), None
    )


def _stamp(pair: Pair) -> tuple[int, int, int, int]:
    try:
        image, label = pair.image.stat(), pair.label.stat()
    except OSError:
        return 0, 0, 0, 0
    return image.st_size, image.st_mtime_ns, label.st_size, label.st_mtime_ns


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _remove(folder: Path, entry: _Entry) -> None:
    for place in entry.places:
        with suppress(OSError):
            (folder / place).unlink()


def _is_plain(photo: Path) -> bool:
    try:
        return is_plain(photo)
    except DataError:
        return False  # copying it will say what is wrong


def _write_index(
    folder: Path, name: str, root: Path, settings: _Settings, index: Mapping[str, _Entry], version: int
) -> None:
    content = {
        "version": version,
        "set": name,
        "source": str(root.resolve()),
        "size": settings.size,
        "form": settings.form,
        "quality": settings.quality,
        **({} if settings.labels is None else {"labels": settings.labels}),
        "files": {image: index[image] for image in sorted(index)},
    }
    write_text(folder / MARKER, json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n")


def _read_index(folder: Path, name: str, settings: _Settings) -> tuple[dict[str, _Entry], int]:
    """What is in a copy that was begun, and the version that wrote it.

    Raises:
        DataError: the folder holds something else.
    """
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return {}, VERSION
        content = json.loads((folder / MARKER).read_bytes())
        found = {key: content[key] for key in ("version", "set", "size", "form", "quality")}
        found["classes"] = content.get("labels")
        index = {str(image): _entry(folder, values) for image, values in content["files"].items()}
    except FileNotFoundError:
        raise DataError(f"{folder} holds files and no {MARKER}: a copy needs a folder that is new or empty") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"cannot read {folder / MARKER} ({reason}): it says what is in the copy; delete the folder or name another"
        ) from None
    wanted = {
        "version": 1 if found["version"] == 1 else VERSION,
        "set": name,
        "size": settings.size and list(settings.size),
        "form": settings.form,
        "quality": settings.quality,
        "classes": settings.labels,
    }
    for key, value in wanted.items():
        if found[key] != value:
            raise DataError(
                f"{folder} holds a copy with the {key} {found[key]} and not {value}: a copy is of one kind; "
                "name another folder, or delete this one"
            )
    return index, found["version"]


def _entry(folder: Path, values: Any) -> _Entry:
    stamp, places, sizes = values
    first, second, third, fourth = map(int, stamp)
    image, label = map(str, places)
    if any(folder.resolve() not in (folder / place).resolve().parents for place in (image, label)):
        raise ValueError(f"it names {image!r} and {label!r}, which do not lie below it")
    photo_bytes, label_bytes = map(int, sizes)
    return _Entry((first, second, third, fourth), (image, label), (photo_bytes, label_bytes))
