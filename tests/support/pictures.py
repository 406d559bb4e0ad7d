"""Pictures and labels in every form that sets come in, also those that Pillow cannot write."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spcnet.data.images import read_image
from spcnet.data.label_images import read_label
from spcnet.errors import DataError

ORIENTATION = 274


def colors(height: int = 12, width: int = 20, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ids(height: int = 12, width: int = 20, *, below: int = 20) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, below, (height, width), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    memory = io.BytesIO()
    image.save(memory, kind, **options)
    return memory.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(height: int, width: int, *, bits: int, color_type: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0))


def png(pixels: NDArray[np.generic], *, bits: int, color_type: int, palette: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG of pixels that are already packed into bytes, as Pillow cannot write it."""
    height, width = pixels.shape[0], pixels.shape[1] * (8 // bits if bits < 8 else 1)
    kind = ">u2" if bits == 16 else "u1"
    rows = b"".join(b"\0" + row.astype(kind).tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + header(height, width, bits=bits, color_type=color_type)
        + more
        + (chunk(b"PLTE", palette) if palette else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def written(folder: Path, content: bytes, name: str = "a.png") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


UPRIGHT = colors(16, 32)


STORED = {  # where the picture's first row and column lie for each orientation, by the EXIF standard
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: np.rot90,
    7: lambda pixels: np.swapaxes(pixels[::-1, ::-1], 0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}
"""The upright picture as a file with that orientation stores it."""


def turned(orientation: int, kind: str = "PNG", pixels: NDArray[np.uint8] = UPRIGHT, **options: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels))), kind, exif=exif, **options)


def tiff(strips: list[bytes], size: tuple[int, int], photometric: int, bits: tuple[int, ...], **more: Any) -> bytes:
    """A TIFF of strips that are not compressed, as Pillow cannot write it: height and width, what the numbers are."""
    order, planar, rows, extra, subsampling = (
        more.get(name, default)
        for name, default in (("order", "<"), ("planar", 1), ("rows", size[0]), ("extra", ()), ("subsampling", ()))
    )
    entries: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (size[1],)), 257: ("I", (size[0],)), 258: ("H", bits), 259: ("H", (1,)), 262: ("H", (photometric,)),
        277: ("H", (len(bits),)), 278: ("I", (rows,)), 279: ("I", tuple(map(len, strips))), 284: ("H", (planar,)),
    }  # fmt: skip
    starts = np.cumsum([8, *map(len, strips)]).tolist()
    entries[273] = ("I", tuple(starts[:-1]))
    entries |= {tag: ("H", value) for tag, value in ((338, extra), (530, subsampling)) if value}
    begin = starts[-1] + starts[-1] % 2
    behind = begin + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(f"{order}H", len(entries)), b""
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place = struct.pack(f"{order}I", behind + len(values))
            values += packed + bytes(len(packed) % 2)
        directory += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + place
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", begin)
    return start + b"".join(strips) + bytes(starts[-1] % 2) + directory + bytes(4) + values


def film(seed: int, length: int) -> bytes:
    return b"\0\0\0\x18ftypmp42" + np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8).tobytes()


def jpegs() -> dict[str, bytes]:
    """JPEG files of many kinds."""
    image = Image.fromarray(colors(3, 4)).resize((160, 120), Image.Resampling.BICUBIC)
    plain, thumbnail = encoded(image, "JPEG", quality=95), encoded(image, "JPEG", quality=20)
    note = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    filled = plain[:-2].replace(b"\xff\xc4", b"\xff\xff\xff\xc4").replace(b"\xff\xda", b"\xff\xff\xda")
    return {
        "plain": plain,
        "progressive": encoded(image, "JPEG", progressive=True),
        "with restarts": encoded(image, "JPEG", progressive=True, restart_marker_blocks=3),
        "grey": encoded(image.convert("L"), "JPEG", restart_marker_rows=1),
        "inks": encoded(image.convert("CMYK"), "JPEG"),
        "with a thumbnail": plain[:2] + note + plain[2:],
        "with filling": filled + b"\xff\xff\xff\xd9",
    }


def one_line(path: Path, *, label: bool = False) -> str:
    """What is said of a photo, or label image, that cannot be read: one line with its path."""
    with pytest.raises(DataError) as raised:
        read_label(path) if label else read_image(path)
    text = str(raised.value)
    assert str(path) in text
    assert "\n" not in text
    return text
