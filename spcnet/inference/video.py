"""Videos and webcams: frames in, one at a time, and frames out, as a file that plays everywhere.

Nothing here holds more than a frame, so that memory stays the same however long a video is. A video that breaks ends at
the break: what could be read before it counts. PyAV (the extra `video`) reads and writes.
"""

import errno
import importlib
import math
import os
import platform
import re
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
OLDEST_PYAV = 17
"""Major version of PyAV that is needed: before it, frames were converted to RGB with the matrix of BT.601 always."""

STREAM_LENGTH = frozenset(("mov", "avi"))
"""Kinds of files whose header states the length of the video stream, unless they are written in fragments."""
FILE_LENGTH = frozenset(("mov", "matroska", "flv"))
"""Kinds of files whose header may state the length of the longest stream. FFmpeg takes all other lengths from what is there."""
COUNTED = 100
"""Frames that are counted at least, so that the mean rate of the first few does not depend on their order."""

BT709, BT601 = 1, 6
"""Numbers of colour matrices in H.273, as streams carry them. As primaries and transfer, 1 is BT.709's, too."""
SWSCALE = {BT709: 1, BT601: 5}
"""The same matrices as FFmpeg's converter numbers them."""
LIMITED_RANGE = 1
"""FFmpeg's number of the range 16..235."""
HDR = {16: "PQ", 18: "HLG"}
"""Transfer functions of high dynamic range, by their numbers in H.273."""
BT2020 = 9
"""Number of its primaries in H.273."""


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
    """How many it has, counted without decoding them: all, or as many as requested; 0 for a camera."""
    live: bool
    """Whether it is a camera, which has no end."""
    container: Any = field(repr=False)
    contents: "Contents" = field(repr=False)
    broken: str | None = None
    """Where reading ended before the source's end, and why, in one line; known once the frames were read."""
    note: str | None = None
    """What is wrong with all its colours, in one line; known once a frame was read."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel over its height, in upright frames; known once a frame was read."""

    def read(self, *, every: int = 1, limit: int = 0) -> Iterator[Frame]:
        """The frames in their order, until the end or the place where the source breaks; see `broken`.

        Args:
            every: take every Nth frame, the first included.
            limit: take this number of frames at most; 0 for all.

        Raises:
            UsageError: `every` or `limit` makes no sense.
        """
        if every < 1 or limit < 0:
            raise UsageError(f"every is {every} and limit {limit}: take every 1st or later frame, and 0 (all) or more")
        first, taken, done = None, 0, 0
        last = -1.0
        end, gap = None, 0.0  # of what was shown so far, in the source's own time, and between two frames at most
        try:
            for number, frame in enumerate(self.container.decode(video=0)):
                seconds = number / float(self.rate)
                if frame.time is not None:
                    first = frame.time if first is None else first
                    # Broken clocks run backwards or stand still.
                    seconds = frame.time - first if frame.time - first > last else last + 1 / float(self.rate)
                    gap = max(gap, seconds - last) if number else 0.0
                    end = max(frame.time + _duration(frame), frame.time if end is None else end)
                last = seconds
                if number % every:
                    done = number + 1
                    continue
                image = _upright(frame)
                if not number:
                    self._describe(frame)
                done = number + 1
                yield Frame(number, seconds, image)
                taken += 1
                if taken == limit:
                    return
        except _errors() as error:
            self.broken = f"{self.name} breaks after {done} frames ({_reason(error)}): the rest is left out"
            return
        if self.live or (end is None and done):
            return
        start = self.contents.start if first is None else first
        end = start if end is None else end
        expected = self._end()
        length = expected - start
        # The last frame may have been shown as long as any other, and a cutter may leave a few that cannot be decoded.
        if end < expected - gap - max(0.05, min(0.02 * length, 0.5)):
            covered = f"{done} frames, at {end - start:.1f} of {length:.1f} seconds"
            self.broken = f"{self.name} ends after {covered}: it is cut off"
            return
        listed = self._listed()
        if self.contents.complete and self.contents.frames < listed - max(1, listed // 50):
            self.broken = f"{self.name} ends after {done} of its {listed} frames: it is cut off"

    def _describe(self, frame: Any) -> None:
        """Take down what the first frame says of all."""
        aspect = self.container.streams.video[0].sample_aspect_ratio
        if aspect is not None and aspect > 0:
            self.pixel_aspect = Fraction(1 / aspect if _turns(frame) % 2 else aspect)
        kind = HDR.get(frame.color_trc)
        if kind is not None or frame.color_primaries == BT2020:
            what = f"HDR ({kind})" if kind is not None else "in the wide gamut of BT.2020"
            self.note = (
                f"{self.name} is {what}: its frames are read without tone mapping and look paler than photos. "
                "Convert it to BT.709 for predictions as good as those of other videos"
            )

    def _listed(self) -> int:
        """Frames in the file's table of contents, where it has a whole one; those that an edit list leaves out do not count."""
        stream = self.container.streams.video[0]
        if not (stream.frames and self.container.format.name.startswith("mov")):
            return 0
        return sum(entry.size > 0 and not entry.is_discard for entry in stream.index_entries)

    def _end(self) -> float:
        """When the video ends if the file is whole, in seconds of the source's own time."""
        av, stream, there = packages(), self.container.streams.video[0], self.contents
        kind = self.container.format.name.split(",")[0]
        if kind in STREAM_LENGTH and stream.duration and stream.frames:
            # Of an AVI that is cut off FFmpeg shortens the duration, and keeps the number of ticks.
            ticks = max(stream.duration, stream.frames) if kind == "avi" else stream.duration
            return float(((stream.start_time or 0) + ticks) * stream.time_base)
        if kind in FILE_LENGTH and self.container.duration:
            start = (self.container.start_time or 0) / av.time_base
            stated: float = min(self.container.duration / av.time_base, _clock(stream.metadata.get("DURATION", "")))
            # Most programs count the length from 0, and some from the first frame.
            if stated < start:
                stated = there.end if kind == "flv" else start + stated
            # Sound and subtitles that go on to the end prove that nothing is missing.
            if there.end < stated - max(0.05, min(0.02 * stated, 0.5)):
                return stated
        return there.video_end


def _duration(frame: Any) -> float:
    """Seconds that a frame is shown for; 0 where it does not tell."""
    return float((frame.duration or 0) * frame.time_base)


def _clock(text: str) -> float:
    """Seconds of HH:MM:SS.SSS; without end for any other text."""
    clock = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d*)?)", text)
    return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3]) if clock else math.inf


def _turns(frame: Any) -> int:
    return round(getattr(frame, "rotation", 0) / 90) % 4  # phones film lying down and say so


class Contents(NamedTuple):
    """What is in a video file, counted from its packets: nothing is decoded."""

    frames: int = 0
    start: float = 0.0
    """When the first frame is shown, in seconds of the file's own time."""
    video_end: float = 0.0
    """When the last frame ends."""
    end: float = 0.0
    """When the last packet of any stream is over."""
    complete: bool = False
    """Whether the whole file was gone through."""

    @property
    def rate(self) -> Fraction | None:
        """Frames a second, on the mean; None for files without times."""
        length = Fraction(self.video_end - self.start).limit_denominator(1_000_000)
        return Fraction(self.frames) / length if self.frames and length > 0 else None


def count(path: str, *, most: int = 0) -> Contents:
    """Go through the packets of a video file, as far as it can be read.

    Args:
        path: the file.
        most: frames that are enough; 0 for all.
    """
    av = packages()
    frames, start = 0, None
    ends: dict[int, float] = {}
    complete = False
    try:
        with av.open(path, container_options={"format_whitelist": FILMS}) as container:
            video = container.streams.video[0].index
            for packet in container.demux():
                time = packet.dts if packet.pts is None else packet.pts
                # An empty packet stands for a frame that was dropped, or for the end of its stream.
                if not packet.size or packet.is_discard:
                    continue
                if time is not None:
                    over = float((time + (packet.duration or 0)) * packet.time_base)
                    ends[packet.stream_index] = max(over, ends.get(packet.stream_index, over))
                if packet.stream_index != video:
                    continue
                frames += 1
                if time is not None:
                    now = float(time * packet.time_base)
                    start = now if start is None else min(start, now)
                if most and frames >= max(most, COUNTED):
                    break
            else:
                complete = True
    except _errors():
        pass  # whoever reads the frames says so
    return Contents(
        frames, start or 0.0, ends.get(video, 0.0) if ends else 0.0, max(ends.values(), default=0.0), complete
    )


def _upright(frame: Any) -> npt.NDArray[np.uint8]:
    try:
        image: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise ValueError(
            f"its colours have the matrix {int(frame.colorspace)} of H.273, which is not supported: convert it to BT.709"
        ) from error
    turns = _turns(frame)
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


@contextmanager
def open_video(source: Path | str, *, most: int = 0) -> Iterator[Video]:
    """A video file or a webcam, ready to be read.

    Args:
        source: a file, or `webcam:0` for the first camera; after the colon also a device such as `/dev/video2`.
        most: frames that will be read at most, those that are passed over included; more are not counted. 0 for all.

    Raises:
        UsageError: there is no such file or camera, or PyAV is not installed.
        DataError: the file is not a video, or has no video stream.
    """
    av = packages()
    live = is_webcam(source)
    where, kind = camera(str(source).removeprefix(WEBCAM)) if live else (str(source), None)
    if not live and not Path(where).is_file():
        raise UsageError(f"{source} is not there: check the path")
    try:
        container = av.open(where, format=kind, container_options={} if live else {"format_whitelist": FILMS})
    except _errors() as error:
        if live:
            raise UsageError(
                f"there is no camera {source} ({_reason(error)}): check that it is plugged in and not used by another program"
            ) from error
        raise DataError(
            f"cannot read {source}: it is not a video, or broken ({_reason(error)}). Check the file"
        ) from error
    with container:
        if not container.streams.video:
            raise DataError(f"cannot read {source}: it has no video stream, only sound or data. Check the file")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)
        contents = Contents() if live else count(where, most=most)
        mean = contents.rate
        # Files of a variable frame rate state the highest, or the ticks of their clock.
        if mean is not None and abs(mean - rate) > rate / 20:
            rate = mean
        rate = rate if rate > 0 else USUAL_RATE
        frames = min(most, contents.frames) if most else contents.frames
        yield Video(str(source), rate, frames, live, container, contents)


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

    Colours are stored by the matrix of BT.709 in pictures of high definition and by that of BT.601 in smaller ones, as players
    assume where they do not read the stream's tags; the tags say so, too.

    Args:
        file: to write to.
        rate: frames a second, on the mean.
        pixel_aspect: width of a pixel over its height, as players are to show it.
    """

    TICKS = 30000
    """Parts of a second that times are given in: a whole number for most rates, and few enough for every codec."""

    def __init__(self, file: IO[bytes], *, rate: Fraction, pixel_aspect: Fraction = Fraction(1)) -> None:
        self.av = packages()
        self.container = self.av.open(file, mode="w", format="mp4")
        self.rate, self.pixel_aspect = rate, pixel_aspect
        self.convert = self.av.video.reformatter.VideoReformatter()
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
        context = self.stream.codec_context
        frame = self.convert.reformat(
            frame,
            width=context.width,
            height=context.height,
            format=context.pix_fmt,
            dst_colorspace=SWSCALE[context.colorspace],
            dst_color_range=context.color_range,
        )
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
            raise UsageError(
                f"PyAV here can write none of {', '.join(CODECS)}: pip install --upgrade 'av>={OLDEST_PYAV}'"
            )
        stream = self.container.add_stream(name, rate=self.rate.limit_denominator(65535))
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, self.TICKS)
        context.colorspace = BT709 if width >= 1280 or height > 576 else BT601
        context.color_primaries = context.color_trc = BT709  # predictions are drawn in sRGB, whose primaries these are
        context.color_range = LIMITED_RANGE
        if self.pixel_aspect != 1:
            context.sample_aspect_ratio = self.pixel_aspect.limit_denominator(255)
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
        UsageError: it is not installed, or too old.
    """
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise UsageError("videos and webcams need a package that is not installed (av): pip install av") from error
    major = re.match(r"\d+", str(av.__version__))
    if major is not None and int(major[0]) < OLDEST_PYAV:
        raise UsageError(
            f"PyAV {av.__version__} is installed, which ignores the colour matrix of videos and so reads wrong colours of "
            f"HD video: pip install 'av>={OLDEST_PYAV}'"
        )
    av.logging.set_level(None)
    return av


def _errors() -> tuple[type[BaseException], ...]:
    # PyAV's own errors have a base each; other errors of a decoder or the system have these.
    return (packages().error.FFmpegError, OSError, ValueError, EOFError)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(reason).split()).split(os.linesep)[0]
