"""A copy of a data set as small and quick to read as training needs it, in the set's own layout.

Large PNG photos take longer to decode than to train on. `write_cache` writes them once as JPEG of high quality without
colour subsampling, at the size that is trained on, and the label images as PNG with the same ids; or both as unpacked
pixels. The copy is opened by naming its folder as the set's root. The set itself is only read.
"""

import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.config import DataConfig, plain_lists
from spcnet.data import label_formats
from spcnet.data.exclude import Excluded
from spcnet.data.folders import Listing, Pair, SetFolder
from spcnet.data.image_files import ARRAY
from spcnet.data.images import geometry_of, is_plain, read_image, size_misfit
from spcnet.data.label_formats import LabelFormat
from spcnet.data.label_images import read_label
from spcnet.data.layouts import DatasetInfo
from spcnet.data.listing import spellings
from spcnet.data.parallel import in_processes
from spcnet.data.roots import MARKER
from spcnet.errors import DataError, UsageError, WriteError, one_line, unknown_name_error
from spcnet.files import write_bytes, write_text

Form = Literal["jpeg", "raw"]
"""How photos are stored: packed as JPEG, or as unpacked pixels, which take ten times the room and no time."""
VERSION = 2
"""Of the way in which copies are written. Of version 1, which stored photos as they lie in their files and without their
opacity, what is shown otherwise is copied again; one of another version is not continued."""

_SAVE_EVERY = 30.0
"""Seconds between two notes of what is written, for the case that the process is killed."""
Stamp = tuple[int, int, int, int]
"""Bytes and time of change of a photo, and of its label image."""


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
    """What there is to say of the set's files, such as pictures that are not among its photos; a line each."""

    @property
    def images_per_second(self) -> float:
        """How many were written a second."""
        return self.written / self.seconds if self.seconds else 0.0

    @property
    def exit_code(self) -> int:
        """0 where the copy is complete, else 1."""
        return 1 if self.failed else 0


class CacheFormat(NamedTuple):
    """How a copy stores images."""

    size: tuple[int, int] | None = None
    """Height and width in pixels of all images of the copy; each image's own if not given."""
    form: Form = "jpeg"
    """"jpeg", or "raw" for unpacked pixels: nothing is lost, and a crop is read without the rest of its photo; takes three
    bytes a pixel, and one for the label."""
    quality: int = 95
    """Of the JPEG files, 1..100."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: a number is out of range, or the form is unknown.
        """
        if self.size is not None and min(self.size) < 1:
            height, width = self.size
            raise UsageError(f"the size of the copy is {height}×{width}: height and width must be at least 1")
        if self.form not in get_args(Form):
            raise unknown_name_error(self.form, get_args(Form), "form of a copy")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"the quality of the JPEG files is {self.quality}: it must lie in 1..100")


@plain_lists
def write_cache(
    name: str,
    root: Path,
    folder: Path,
    form: CacheFormat = CacheFormat(),  # noqa: B008  # immutable
    *,
    splits: Sequence[str] | None = None,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    data: DataConfig | None = None,
) -> CacheReport:
    """Write a copy of a set that is quick to read; what of it is there and up to date stays.

    Photos are stored as they are shown, upright and on white, their labels turned along. They are resized as for
    evaluation, bilinearly with antialiasing; labels by nearest neighbour. An image that cannot be read, or whose label has
    ids that the set does not have, is left out and reported. The same call continues a copy that was interrupted.

    Args:
        name: a set that lies on disk, or one of `data.sets`.
        root: its folder.
        folder: of the copy; new, empty, or with a copy of the same set.
        form: how the copy stores images.
        splits: the parts to copy; all that are there if not given.
        workers: processes that read and write; with 0 the calling one does.
        on_progress: called with the number of images that are done, and of all.
        data: the user's own sets, and the files that name images to leave out.

    Raises:
        UsageError: a number is out of range, a split unknown, or the folder lies in the set's or around it.
        DataError: there are no images of the set, or the folder holds something else or cannot be written to.
    """
    form.check()
    source, excluded = SetFolder(name, root, data), Excluded(name, root, data)
    listings = source.list_splits(splits)
    index = _Index(source, folder, form)
    jobs, failed = index.plan([one for part in listings.values() for one in part], excluded)
    for image in [image for image in index.entries if image in excluded or not (root / image).exists()]:
        index.remove(image)
    # First, so that an interrupted copy is known as such; an old one stays old until its photos are as they should be.
    index.save()
    for path in _tables(source):
        write_bytes(folder / source.below(path), path.read_bytes())

    started = time.perf_counter()
    stamps = {image: _stamp(job.pair) for image, job in jobs.items()}
    waiting = index.outdated(jobs, stamps)
    failed |= index.update(jobs, stamps, waiting, workers=workers, on_progress=on_progress)
    done = [image for image in jobs if image in index.entries]
    remarks = [line for split, part in listings.items() for line in source.left_out(part, split)]
    return CacheReport(
        name=name,
        folder=str(folder),
        images=len(done),
        written=sum(image in index.entries for image in waiting),
        bytes_before=sum(stamps[image][0] + stamps[image][2] for image in done),
        bytes_after=sum(sum(index.entries[image].sizes) for image in done),
        seconds=time.perf_counter() - started,
        failed=dict(sorted(failed.items())),
        remarks=(*remarks, *excluded.remarks()),
    )


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

    stamp: Stamp
    """Of the files it was made of: bytes and time of change of the photo, and of the label image."""
    places: tuple[str, str]
    """Paths of photo and label image below the copy's folder."""
    sizes: tuple[int, int]
    """Their bytes."""

    def is_current(self, stamp: Stamp, folder: Path) -> bool:
        """Whether it was made of the same files and is still there."""
        with suppress(OSError):
            return self.stamp == stamp and self.sizes == tuple((folder / place).stat().st_size for place in self.places)
        return False


def _copy(job: _Job, *, form: CacheFormat) -> _Copy:
    size = form.size
    try:
        geometry = geometry_of(job.pair.image)
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
    if form.form == "raw":
        photo, ids = (_encoded(np.save, np.ascontiguousarray(pixels), allow_pickle=False) for pixels in (shown, truth))
    else:
        plain = size in (None, geometry.size) and geometry.orientation == 1
        if is_jpeg and plain and original.startswith(b"\xff\xd8"):
            photo = original  # encoding it again would only lose
        elif is_jpeg:
            photo = _encoded(shown.save, "JPEG", quality=form.quality, subsampling=0)
        else:
            photo = _encoded(shown.save, "PNG", compress_level=1)
        ids = _encoded(Image.fromarray(truth).save, "PNG", compress_level=1)
    # The label first: where writing ends between the two, a label without a photo is in nobody's way.
    try:
        write_bytes(job.label, ids)
        write_bytes(job.image, photo)
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


def _encoded(save: Callable[..., None], *values: Any, **options: Any) -> bytes:
    """What a function writes into a file, which is its first parameter."""
    memory = io.BytesIO()
    save(memory, *values, **options)
    return memory.getvalue()


def _tables(source: SetFolder) -> list[Path]:
    """Files of a set that say what the ids in its label images mean."""
    info, root = source.info, source.root
    if not any(callable(layout.table) for layout in info.layouts):
        return []
    return [path for around in ("", *info.outer, *info.parts) for path in sorted((root / around).glob("config*.json"))]


def _renumbered(info: DatasetInfo) -> dict[str, str] | None:
    """What the native ids of a set mean, where they are not simply the numbers in its label images."""
    forms = [layout.format for layout in info.layouts if isinstance(layout.format, LabelFormat)]
    return next(
        ({str(native_id): known for native_id, known in form.names} for form in forms if form.numbers is not None), None
    )


def _stamp(pair: Pair) -> Stamp:
    try:
        image, label = pair.image.stat(), pair.label.stat()
    except OSError:
        return 0, 0, 0, 0
    return image.st_size, image.st_mtime_ns, label.st_size, label.st_mtime_ns


def _is_plain(photo: Path) -> bool:
    try:
        return is_plain(photo)
    except DataError:
        return False  # copying it will say what is wrong


def _entry(folder: Path, values: Any) -> _Entry:
    (first, second, third, fourth), (image, label), (photo_bytes, label_bytes) = values
    if any(folder.resolve() not in (folder / place).resolve().parents for place in (image, label)):
        raise ValueError(f"it names {image!r} and {label!r}, which do not lie below it")
    stamp = int(first), int(second), int(third), int(fourth)
    return _Entry(stamp, (str(image), str(label)), (int(photo_bytes), int(label_bytes)))


class _Index:
    """What is in a copy, as the file `MARKER` in its folder has it."""

    def __init__(self, source: SetFolder, folder: Path, form: CacheFormat) -> None:
        here, there = source.root.resolve(), folder.resolve()
        if here == there or here in there.parents or there in here.parents:
            what = f"the copy's folder {folder} is, or lies in or around, the data set's folder {source.root}"
            raise UsageError(f"{what}: name a folder beside it")
        self.source, self.folder, self.form = source, folder, form
        self.classes = _renumbered(source.info)
        """Meaning of the ids in its label images, where the user's description of the set decides which they are."""
        self.entries: dict[str, _Entry] = {}
        self.version = VERSION
        """That wrote the copy."""
        try:
            if not folder.exists() or not any(folder.iterdir()):
                return
            content = json.loads((folder / MARKER).read_bytes())
            stored = {key: content[key] for key in ("version", "set", "size", "form", "quality")}
            stored["classes"] = content.get("labels")
            self.entries = {str(image): _entry(folder, values) for image, values in content["files"].items()}
        except FileNotFoundError:
            what = f"{folder} holds files and no {MARKER}"
            raise DataError(f"{what}: a copy needs a folder that is new or empty") from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            remedy = "it says what is in the copy; delete the folder or name another"
            raise DataError(f"cannot read {folder / MARKER} ({reason}): {remedy}") from None
        self.version = stored["version"]
        version = 1 if self.version == 1 else VERSION
        size = form.size and list(form.size)
        wanted = self._header() | {"version": version, "size": size, "classes": self.classes}
        for key, value in stored.items():
            if value != wanted[key]:
                what = f"{folder} holds a copy with the {key} {value} and not {wanted[key]}"
                raise DataError(f"{what}: a copy is of one kind; name another folder, or delete this one")

    def _header(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "set": self.source.name,
            "source": str(self.source.root.resolve()),
            "size": self.form.size,
            "form": self.form.form,
            "quality": self.form.quality if self.form.form == "jpeg" else 0,
            **({} if self.classes is None else {"labels": self.classes}),
        }

    def save(self) -> None:
        """Write the file."""
        content = self._header() | {"files": {image: self.entries[image] for image in sorted(self.entries)}}
        write_text(self.folder / MARKER, json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n")

    def plan(self, listings: Iterable[Listing], excluded: Excluded) -> tuple[dict[str, _Job], dict[str, str]]:
        """The images to copy by their paths below the root, and why those without a label cannot be copied."""
        jobs: dict[str, _Job] = {}
        failed: dict[str, str] = {}
        below, folder = self.source.below, self.folder
        for listing in listings:
            as_jpeg = any(pattern.endswith(".jpg") for pattern in listing.layout.images)  # fits every spelling of it
            for pair in listing.bare:
                if below(pair.image) not in excluded:
                    failed[below(pair.image)] = f"its label {below(pair.label)} is missing"
            for pair in listing.pairs:
                image = below(pair.image)
                if image in excluded:
                    continue
                photo, label = folder / image, folder / below(pair.label)
                if self.form.form == "raw":
                    photo, label = photo.with_suffix(ARRAY), label.with_suffix(ARRAY)
                elif as_jpeg:
                    photo = photo.with_suffix(".jpg")
                jobs[image] = _Job(pair, photo, label, listing.form)
        return jobs, failed

    def remove(self, image: str) -> None:
        """Delete the files of an image."""
        for place in self.entries.pop(image).places:
            with suppress(OSError):
                (self.folder / place).unlink()

    def outdated(self, jobs: Mapping[str, _Job], stamps: Mapping[str, Stamp]) -> list[str]:
        """The images that are not in the copy as they are in the set."""
        waiting = [
            image
            for image in jobs
            if image not in self.entries or not self.entries[image].is_current(stamps[image], self.folder)
        ]
        if self.version == VERSION:
            return waiting
        missing = {*waiting}
        return [image for image in jobs if image in missing or not _is_plain(jobs[image].pair.image)]

    def update(
        self,
        jobs: Mapping[str, _Job],
        stamps: Mapping[str, Stamp],
        waiting: Sequence[str],
        *,
        workers: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> dict[str, str]:
        """Copy images; says why some cannot be copied."""
        progress, ready = on_progress or (lambda done, total: None), len(jobs) - len(waiting)
        copies = in_processes(
            partial(_copy, form=self.form),
            [jobs[image] for image in waiting],
            workers=workers,
            on_progress=lambda done, total: progress(ready + done, ready + total),
        )
        failed: dict[str, str] = {}
        saved = time.perf_counter()
        try:
            with closing(copies):
                for image, copy in zip(waiting, copies, strict=True):
                    if copy.error:
                        failed[image] = copy.error
                        if image in self.entries:
                            self.remove(image)
                    else:
                        image_path, label_path = (
                            path.relative_to(self.folder).as_posix() for path in (jobs[image].image, jobs[image].label)
                        )
                        self.entries[image] = _Entry(stamps[image], (image_path, label_path), copy.sizes)
                    if time.perf_counter() - saved > _SAVE_EVERY:
                        self.save()
                        saved = time.perf_counter()
            if jobs.keys() >= self.entries.keys():
                self.version = VERSION
        finally:
            self.save()
        return failed
