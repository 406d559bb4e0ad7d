"""What visitors bring: photos and videos that nobody vouches for, read within limits or refused in one line.

What a file is, is recognised by its content and never from its name, and no message repeats the name or where the file lies.
FFmpeg reads playlists, which may name other files and servers, so it is shown only files that begin as a film does.
"""

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spcnet.data.image_files import FORMATS, MAX_SCANS, open_picture, too_many_scans
from spcnet.errors import DataError, SpcnetError, UsageError
from spcnet.inference.images import read_rgb
from spcnet.inference.video import Frame, Video, open_video
from spcnet.models.network import MIN_SIZE

PHOTO_PIXELS = 2**21
"""Pixels that a photo is worked on with: 1024×2048. A larger one is made smaller first."""
FRAME_PIXELS = 2**18
"""Pixels that a frame of a video is worked on with: 362×724."""
MAX_FRAMES = 250
"""Frames of a video that are labelled; of one with more in its time, every second or third is taken."""
KINDS = "a picture (PNG, JPEG, WebP, TIFF, BMP, GIF) or a video (MP4, MOV, MKV, WebM, AVI)"

_PICTURES = (*FORMATS, "GIF")
_STILL = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
"""Brands of still pictures in the container of MP4."""


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for."""

    megapixels: float = 24.0
    """Millions of pixels of a picture or of a frame."""
    megabytes: float = 50.0
    """Of a file."""
    seconds: float = 10.0
    """Of a video that are labelled."""
    time: float = 120.0
    """Seconds that labelling a video may take; what is done by then is shown."""
    concurrency: int = 1
    """Requests that are worked on together; the others wait."""
    waiting: int = 32
    """Requests that may wait; further ones are refused."""

    def __post_init__(self) -> None:
        for name, option, value in (
            ("picture's megapixels", "--max_megapixels", self.megapixels),
            ("file's megabytes", "--max_mb", self.megabytes),
            ("video's seconds", "--max_seconds", self.seconds),
            ("time", "--time_limit", self.time),
        ):
            if not 0 < value < math.inf:
                raise UsageError(f"the limit of a {name} is {value}: {option} must be above 0")
        if self.concurrency < 1 or self.waiting < 1:
            raise UsageError(
                f"{self.concurrency} requests at a time and {self.waiting} waiting: --concurrency must be 1 or more"
            )

    @property
    def bytes(self) -> int:
        """Of a file."""
        return int(self.megabytes * 2**20)

    @property
    def pixels(self) -> int:
        """Of a picture or of a frame."""
        return int(self.megapixels * 1e6)

    def check_pixels(self, height: int, width: int, what: str) -> None:
        """Refuse what is too large or too small to show a street.

        Raises:
            DataError: see the message.
        """
        if height * width > self.pixels:
            raise DataError(
                f"{what} has {width}×{height} pixels: at most {self.megapixels:g} megapixels are taken. Make it smaller"
            )
        if min(height, width) < MIN_SIZE:
            raise DataError(
                f"{what} has {width}×{height} pixels: width and height must be at least {MIN_SIZE}. Give a larger one"
            )


def read_upload(path: Path, *, limits: Limits) -> NDArray[np.uint8]:
    """A photo, or the first frame of a video: H×W×3, RGB, upright, of `PHOTO_PIXELS` at most.

    Raises:
        DataError: it is none, broken, or beyond the limits.
    """
    if not is_film(path):
        return read_photo(path, limits=limits)
    with opened(path, limits=limits) as video:
        for frame in video.read(limit=1):
            return fitting(frame.image, PHOTO_PIXELS)
        raise _frameless(video, path)


def read_photo(path: Path, *, limits: Limits) -> NDArray[np.uint8]:
    """A photo as `spcnet predict` sees it: H×W×3, RGB, upright, see-through parts on white; of several the first.

    Raises:
        DataError: it is none, broken, or beyond the limits.
    """
    content = _content(path, limits)
    try:
        image: Image.Image = open_picture(io.BytesIO(content), formats=_PICTURES)
    except Image.DecompressionBombError:
        raise DataError(
            f"the picture says that it has hundreds of millions of pixels: at most {limits.megapixels:g} megapixels "
            "are taken. Make it smaller"
        ) from None
    except Exception as error:  # a broken file may raise anything in the decoders
        raise _unknown(content) from error
    limits.check_pixels(image.height, image.width, "the picture")
    if too_many_scans(content):
        raise DataError(f"the picture goes over its pixels more than {MAX_SCANS} times: no usual JPEG. Save it again")
    try:
        shrink = math.sqrt(PHOTO_PIXELS / (image.width * image.height))
        if shrink >= 1:
            return read_rgb(image)
        # What resizing would mix up is brought to colours first: numbers of a palette, the one colour that is transparent,
        # numbers whose largest says what white is. The rest is made smaller before anything else, so that no copy of all
        # pixels is made; a JPEG is only decoded in part.
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")
        elif "transparency" in image.info or image.mode in ("1", "I", "F"):
            image = Image.fromarray(read_rgb(image))
        image.thumbnail((int(image.width * shrink), int(image.height * shrink)), Image.Resampling.BILINEAR)
        return read_rgb(image)
    except SpcnetError:
        raise DataError(
            "the picture is broken: not all of its pixels can be read. Save it again, or give another"
        ) from None
    except Exception as error:  # as above
        raise DataError("the picture is broken: it cannot be decoded. Save it again, or give another") from error


def is_film(path: Path) -> bool:
    """Whether a file begins as a video does: MP4 and MOV, Matroska and WebM, AVI.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise DataError("the file is no longer there: upload it again") from error
    return (
        (head[4:8] == b"ftyp" and head[8:12] not in _STILL)
        or head.startswith(b"\x1aE\xdf\xa3")
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
    )


@contextmanager
def opened(path: Path, *, limits: Limits) -> Iterator[Video]:
    """A video, ready to be read.

    Raises:
        UsageError: PyAV is not installed.
        DataError: it is none, broken, or beyond the limits.
    """
    if not is_film(path):
        raise DataError(f"this is no video of a known kind: give {KINDS}")
    try:
        with open_video(path) as video:
            coded = video.container.streams.video[0].codec_context
            if coded.width and coded.height:
                limits.check_pixels(coded.height, coded.width, "the video")
            yield video
    except DataError as error:
        raise DataError(str(error).replace(str(path), "the video")) from error


def frames(video: Video, *, limits: Limits, enough: Callable[[], bool] = lambda: False) -> Iterator[Frame]:
    """The frames of a video's first seconds, `MAX_FRAMES` at most, each of `FRAME_PIXELS` at most, until there are `enough`."""
    for frame in video.read(every=thinned(video, limits=limits), limit=MAX_FRAMES):
        if frame.seconds > limits.seconds:
            return
        yield frame._replace(image=fitting(frame.image, FRAME_PIXELS))
        if enough():
            return


def thinned(video: Video, *, limits: Limits) -> int:
    """Of how many frames one is taken, so that `MAX_FRAMES` fill the time."""
    seconds = min(limits.seconds, video.frames / float(video.rate)) if video.frames else limits.seconds
    return max(1, math.ceil(seconds * float(video.rate) / MAX_FRAMES))


def expected(video: Video, *, limits: Limits) -> int:
    """How many frames `frames` will give, about."""
    within = int(limits.seconds * float(video.rate)) + 1
    within = min(within, video.frames or within)
    return min(MAX_FRAMES, math.ceil(within / thinned(video, limits=limits)))


def fitting(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """A picture (H×W×3) with its sides in proportion and no more pixels than that."""
    height, width = image.shape[:2]
    if height * width <= pixels:
        return image
    shrink = math.sqrt(pixels / (height * width))
    size = (max(MIN_SIZE, int(width * shrink)), max(MIN_SIZE, int(height * shrink)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _content(path: Path, limits: Limits) -> bytes:
    try:
        length = path.stat().st_size
        if length > limits.bytes:
            raise DataError(f"the file has {length / 2**20:.1f} MB: at most {limits.megabytes:g} are taken")
        content = path.read_bytes()
    except OSError as error:
        raise DataError("the file is no longer there: upload it again") from error
    if not content:
        raise DataError(f"the file is empty: give {KINDS}")
    return content


def _unknown(content: bytes) -> DataError:
    if content[4:8] == b"ftyp":
        return DataError("this is a HEIC or AVIF picture, which is not read here: save it as JPEG or PNG")
    return DataError(f"this is no picture of a known kind, or broken at its beginning: give {KINDS}")


def _frameless(video: Video, path: Path) -> DataError:
    reason = (video.broken or "").replace(str(path), "the video")
    return DataError(reason or "the video has no frames: give another")
