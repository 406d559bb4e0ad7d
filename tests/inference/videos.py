"""Small videos, made with PyAV."""

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
    options: dict[str, str] | None = None,
    noise: bool = False,
) -> Path:
    """A video whose frames are `stripes`, or noise."""
    dice = np.random.default_rng(0)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = 4
        if turned:
            stream.set_display_rotation(turned)
        for number in range(frames):
            image = stripes(number, height=height, width=width)
            if noise:
                image = dice.integers(0, 256, image.shape, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def make_sound(path: Path) -> Path:
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
