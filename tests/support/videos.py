"""Small videos, made with PyAV."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")


def stripes(number: int, *, height: int = 48, width: int = 64) -> np.ndarray:
    """A grey frame that gets brighter, its left half black."""
    image = np.full((height, width, 3), min(255, 20 * number), dtype=np.uint8)
    image[:, : width // 2] = 0
    return image


def make_video(
    path: Path,
    *,
    frames: int = 8,
    rate: int = 10,
    height: int = 48,
    width: int = 64,
    codec: str = "mpeg4",
    turned: int = 0,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    noise: bool = False,
) -> Path:
    """A video whose frames are `stripes`, or noise."""
    dice = np.random.default_rng(0)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = 4
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if turned:
            stream.set_display_rotation(turned)
        for number in range(frames):
            image = stripes(number, height=height, width=width)
            if noise:
                image = dice.integers(0, 256, image.shape, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def record(
    path: Path,
    ticks: list[int],
    *,
    tick: Fraction = Fraction(1, 10),
    codec: str = "libx264",
    sound: float = 0.0,
    durations: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of 64×48 whose frames are shown at these ticks of a clock, with so many seconds of sound."""
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=round(1 / tick))
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.time_base = tick
        audio = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000) if sound else None
        for number, time in enumerate(ticks):
            image = stripes(number % 12)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = time, tick
            if durations:
                frame.duration = durations[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for start in range(0, round(sound * 48000), 960) if audio else ():
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), dtype=np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            container.mux(audio.encode(frame))
        if audio:
            container.mux(audio.encode(None))
    return path


COLORS = np.array(
    [(128, 64, 128), (0, 0, 142), (107, 142, 35), (70, 130, 180), (220, 20, 60), (250, 170, 30)], np.uint8
)
"""Saturated colours: a wrong matrix moves the second by some 20 of 255."""


def bars(height: int, width: int) -> np.ndarray:
    """H×W×3: `COLORS` side by side."""
    return np.repeat(np.repeat(COLORS[None], height, 0), -(-width // 6), 1)[:, :width]


def painted(
    path: Path, *, matrix: int, tag: int = 2, full: bool = False, primaries: int = 2, transfer: int = 2
) -> Path:
    """One frame of `bars`, stored by a matrix (a number of `av.video.reformatter.Colorspace`), with tags (of H.273)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 192, 64, "yuv420p"
        context, levels = stream.codec_context, 2 if full else 1
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = (
            tag,
            levels,
            primaries,
            transfer,
        )
        frame = av.VideoFrame.from_ndarray(bars(64, 192), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=levels)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def color_error(image: np.ndarray) -> int:
    """How far the middles of an image's bars are from `COLORS`, in levels of 255."""
    step = -(-image.shape[1] // 6)
    return int(np.abs(image[image.shape[0] // 2, step // 2 :: step][:6].astype(int) - COLORS).max())


def make_sound(path: Path) -> Path:
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
