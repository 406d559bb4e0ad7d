"""Damage that decoders pass over."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spcnet.data.image_faults import fault
from spcnet.data.image_files import too_many_scans
from spcnet.data.images import read_image
from tests.support.pictures import (
    colors,
    encoded,
    film,
    jpegs,
    written,
)


def test_files_that_decode_but_are_not_what_was_written_are_found_out(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(colors()))
    assert fault(written(tmp_path, content)) == ""
    flipped = bytearray(content)
    flipped[content.index(b"IEND") - 5] ^= 1
    path = written(tmp_path, bytes(flipped))
    assert np.array_equal(read_image(path), colors())
    assert "the checksum of its part 'IDAT' is wrong" in fault(path)
    assert fault(written(tmp_path, content[:-12])) == "its end is missing"
    jpeg = encoded(Image.fromarray(colors()), "JPEG")
    assert fault(written(tmp_path, jpeg)) == ""
    assert fault(written(tmp_path, jpeg[:-2])) == "its end is missing"


@pytest.mark.parametrize("kind", jpegs())
def test_the_segments_of_a_jpeg_say_where_it_ends_whatever_lies_behind(tmp_path: Path, kind: str) -> None:
    content = jpegs()[kind]
    assert read_image(written(tmp_path, content)).shape == (120, 160, 3)
    for behind in (b"", bytes(3), bytes(100_000), film(0, 200_000), content, content[: len(content) // 2], b"\xff" * 9):
        assert fault(written(tmp_path, content + behind)) == "", len(behind)
    for lost in (2, 3, 40, len(content) // 2):
        for behind in (b"", bytes(100_000), content, film(0, 300_000), film(1, 300_000)):
            assert fault(written(tmp_path, content[:-lost] + behind)) == "its end is missing", (lost, len(behind))


def test_an_end_marker_that_comes_too_early_is_not_the_end_of_a_jpeg_with_a_film(tmp_path: Path) -> None:
    """Of 247 films one begins with bytes that look like the end marker of the photo that was cut off."""
    for kind, content in jpegs().items():
        for lost in (len(content) // 3, len(content) // 4):
            cut = content[:-lost] + b"\x12\xff\xd9" + film(0, 1000)
            assert fault(written(tmp_path, cut)) == "its end is missing", kind


def test_stray_bytes_between_the_segments_of_a_jpegs_header_are_passed_over(tmp_path: Path) -> None:
    content = jpegs()["plain"]
    place = content.index(b"\xff\xc4")
    odd = content[:place] + bytes(7) + content[place:]
    assert np.array_equal(read_image(written(tmp_path, odd)), read_image(written(tmp_path, content, "b.png")))
    assert fault(written(tmp_path, odd + film(0, 1000))) == ""


def test_the_scans_of_what_lies_behind_a_jpeg_are_not_its_own(tmp_path: Path) -> None:
    content = jpegs()["plain"]
    path = written(tmp_path, content + b"\xff\xda" * 500)
    assert read_image(path).shape == (120, 160, 3)
    assert fault(path) == ""
    assert not too_many_scans(path.read_bytes())
