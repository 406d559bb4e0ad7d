"""Videos and webcams: frames in, one at a time, and frames out, as a file that plays everywhere.

Nothing here holds more than a frame, so that memory stays the same however long a video is. A video that breaks ends at
the break: what could be read before it counts. PyAV (the extra `video`) reads and writes.
"""

import importlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spcnet.errors import DataError, UsageError

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp")
)
"""How the names of video files end, in small letters."""
FILMS = "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,ivf,h264,hevc,mjpeg,yuv4mpegpipe,gif,apng"
"""Kinds of files that FFmpeg may take a video for: none that, like a playlist, names other files for it to open."""
WEBCAM = "webcam:"
"""How the name of a webcam begins: `webcam:0`."""

CODECS = ("libx264", "h264", "libopenh264", "mpeg4")
"""Codecs of an MP4 file, the best first; the first that PyAV's build has is taken."""
USUAL_RATE = Fraction(25)
"""Frames a second of a source that does not tell."""


class Frame(NamedTuple):
    """One picture of a video."""

    number: int
    """Counted from 0 in the source, those that are passed over included."""
    seconds: float
    """From the source's first frame."""
    image: npt.NDArray[np.uint8]
    """H×W×3, RGB, upright."""


@dataclass
class Video:
    """An open video or webcam."""

    name: str
    rate: Fraction
    """Frames a second, on the mean."""
    frames: int
    """How many it says it has, or has by its length; 0 where it does not tell."""
    live: bool
    """Whether it is a camera, which has no end."""
    container: Any = field(repr=False)
    broken: str | None = None
    """Where reading ended before the source's end, and why, in one line; known once the frames were read."""

    def read(self, *, every: int = 1, limit: int = 0) -> Iterator[Frame]:
        """The frames in their order, until the end or the place where the source breaks; see `broken`.

        Args:
            every: take one frame of so many, the first included.
            limit: take so many frames at most; 0 for all.

        Raises:
            UsageError: `every` or `limit` makes no sense.
        """
        if every < 1 or limit < 0:
            raise UsageError(f"every is {every} and limit {limit}: take every 1st or later frame, and 0 (all) or more")
        first, taken, number = None, 0, -1
        last = -1.0
        try:
            for number, frame in enumerate(self.container.decode(video=0)):
                seconds = number / float(self.rate)
                if frame.time is not None:
                    first = frame.time if first is None else first
                    # Broken clocks run backwards or stand still.
                    seconds = frame.time - first if frame.time - first > last else last + 1 / float(self.rate)
                last = seconds
                if number % every:
                    continue
                yield Frame(number, seconds, _upright(frame))
                taken += 1
                if taken == limit:
                    return
        except _errors() as error:
            self.broken = f"{self.name} breaks after {number + 1} frames ({_reason(error)}): the rest is left out"
            return
        # A frame or two that a cutter left undecodable are no break.
        if number + 1 < self.frames - max(1, self.frames // 50):
            self.broken = f"{self.name} ends after {number + 1} of its {self.frames} frames: it is cut off"


def _upright(frame: Any) -> npt.NDArray[np.uint8]:
    image: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones film lying down and say so
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


@contextmanager
def open_video(source: Path | str) -> Iterator[Video]:
    """A video file or a webcam, ready to be read.

    Args:
        source: a file, or `webcam:0` for the first camera; after the colon also a device such as `/dev/video2`.

    Raises:
        UsageError: there is no such file or camera, or PyAV is not installed.
        DataError: the file is no video or has none in it.
    """
    av = packages()
    live = is_webcam(source)
    where, kind = camera(str(source).removeprefix(WEBCAM)) if live else (str(source), None)
    if not live and not Path(where).is_file():
        raise UsageError(f"{source} is not there: check the path")
    try:
        container = av.open(where, format=kind, options={} if live else {"format_whitelist": FILMS})
    except _errors() as error:
        if live:
            raise UsageError(
                f"there is no camera {source} ({_reason(error)}): check that it is plugged in and used by nobody else"
            ) from error
        raise DataError(
            f"cannot read {source}: it is no video, or broken ({_reason(error)}). Check the file"
        ) from error
    with container:
        if not container.streams.video:
            raise DataError(f"cannot read {source}: it has no video stream, only sound or data. Check the file")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)
        rate = rate if rate > 0 else USUAL_RATE
        length = Fraction(container.duration or 0, av.time_base)
        frames = 0 if live else int(stream.frames or length * rate)
        yield Video(str(source), rate, frames, live, container)


def is_webcam(source: Path | str) -> bool:
    """Whether a source is a camera and no file."""
    return str(source).startswith(WEBCAM)


def is_video(path: Path | str) -> bool:
    """Whether a source is a camera, or a file whose name ends like a video's."""
    return is_webcam(path) or Path(path).suffix.lower() in VIDEO_SUFFIXES


def camera(name: str) -> tuple[str, str | None]:
    """What a camera is opened as, and FFmpeg's name of the system's cameras.

    Args:
        name: a number, or what the system calls the camera.
    """
    system = platform.system()
    if system == "Darwin":
        return name, "avfoundation"
    if system == "Windows":
        return f"video={name}", "dshow"
    return f"/dev/video{name}" if name.isdigit() else name, "v4l2"


class VideoWriter:
    """Writes frames of one size into an MP4 file: H.264 where PyAV has it, yuv420p, of even size.

    Args:
        file: to write to.
        rate: frames a second, on the mean.
    """

    TICKS = 30000
    """Parts of a second that times are told in: a whole number for most rates, and few enough for every codec."""

    def __init__(self, file: IO[bytes], *, rate: Fraction) -> None:
        self.av = packages()
        self.container = self.av.open(file, mode="w", format="mp4")
        self.rate = rate
        self.stream: Any = None
        self.last = -1

    def write(self, image: npt.NDArray[np.uint8], seconds: float) -> None:
        """Add a frame.

        Args:
            image: H×W×3, RGB; a later frame of another size is brought to that of the first.
            seconds: when it is shown, from the beginning.
        """
        if self.stream is None:
            self.stream = self._open(image.shape[0], image.shape[1])
        frame = self.av.VideoFrame.from_ndarray(_even(image), format="rgb24")
        if (frame.width, frame.height) != (self.stream.width, self.stream.height):
            frame = frame.reformat(width=self.stream.width, height=self.stream.height)
        self.last = max(self.last + 1, round(seconds * self.TICKS))
        frame.pts, frame.time_base = self.last, Fraction(1, self.TICKS)
        for packet in self.stream.encode(frame):
            self.container.mux(packet)

    def close(self) -> None:
        """Write what is left; without this the file does not play."""
        if self.stream is not None:
            for packet in self.stream.encode(None):
                self.container.mux(packet)
        self.container.close()

    def _open(self, height: int, width: int) -> Any:
        name = next((name for name in CODECS if name in self.av.codecs_available and self._encodes(name)), None)
        if name is None:
            raise UsageError(f"PyAV here can write none of {', '.join(CODECS)}: pip install --upgrade av")
        stream = self.container.add_stream(name, rate=self.rate.limit_denominator(65535))
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.codec_context.time_base = Fraction(1, self.TICKS)
        if name == "libx264":
            stream.options = {"crf": "20", "preset": "veryfast"}
        else:
            stream.bit_rate = max(1_000_000, height * width * 6)
        return stream

    def _encodes(self, name: str) -> bool:
        try:
            self.av.codec.Codec(name, "w")
        except ValueError:  # it can only be read
            return False
        return True


def _even(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """With the last row and column twice where their number is odd: colours are stored for every other one."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(image)


def packages() -> Any:
    """PyAV.

    Raises:
        UsageError: it is not installed.
    """
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise UsageError("videos and webcams need a package that is not installed (av): pip install av") from error
    av.logging.set_level(None)
    return av


def _errors() -> tuple[type[BaseException], ...]:
    # PyAV's own errors have a base each; what a decoder or the system says besides has these.
    return (packages().error.FFmpegError, OSError, ValueError, EOFError)


def _reason(error: BaseException) -> str:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split()).split(os.linesep)[0]
