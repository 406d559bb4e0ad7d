"""Damage in image files that decoders pass over."""

import struct
import zlib
from pathlib import Path

import numpy as np

from spcnet.data.image_files import JPEG, PNG, decode, read_bytes, walk_jpeg
from spcnet.errors import DataError


def fault(path: Path) -> str:
    """What is wrong with a PNG or JPEG file although it can be decoded, in a few words; empty where nothing is.

    Decoders pass over a PNG's checksums, over an end that is missing behind the last pixel, and they take for pixels what
    follows a JPEG that is cut off. What lies behind the end of a whole file (the film of a motion photo, further
    pictures, zeros) is not part of its pixels and not a fault. Reading leaves this out: the files of a set are checked once, not
    in every epoch.

    Raises:
        DataError: the file cannot be read.
    """
    content = read_bytes(path)
    if content.startswith(PNG):
        return _png_fault(content)
    if content.startswith(JPEG):
        return _jpeg_fault(path, content)
    return ""


def _jpeg_fault(path: Path, content: bytes) -> str:
    end = walk_jpeg(content).end
    if end < 0 or (end + 2 < len(content) and not _has_all_pixels(path, content, end)):
        return "its end is missing"
    return ""


def _has_all_pixels(path: Path, content: bytes, end: int) -> bool:
    """Whether the pixels of a JPEG are complete where its end marker stands.

    What is cut off and followed by another file's bytes may find an end marker among these. To a decoder that has all
    pixels, bytes before the end marker mean nothing; one that lacks some makes pixels of them.
    """
    body = content[:end].rstrip(b"\xff")  # filling before the end marker
    more = np.random.default_rng(0).integers(0, 255, (128, 64), dtype=np.uint8)
    more[64:, 0], more[64:, 1] = 0xFF, 0xD0 + np.arange(64) % 8  # restarts, without which some would read no further
    try:
        first, second = (decode(path, body + tail + b"\xff\xd9").tobytes() for tail in (b"", more.tobytes()))
    except DataError:
        raise
    except Exception:  # noqa: BLE001  # not even a picture
        return False
    return first == second


def _png_fault(content: bytes) -> str:
    place, kind, view = len(PNG), b"", memoryview(content)
    while kind != b"IEND":
        if place + 12 > len(content):
            return "its end is missing"
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            return "its end is missing"
        if zlib.crc32(view[place + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            return f"the checksum of its part {kind.decode('ascii', 'replace')!r} is wrong"
        place = end + 4
    return ""
