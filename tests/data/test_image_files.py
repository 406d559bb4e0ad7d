"""Files that are no image, damaged, too large, or dangerous."""

import os
import pickle
import re
import struct
import subprocess
import sys
import textwrap
import time
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from spcnet.data import image_files
from spcnet.data.image_faults import fault
from spcnet.data.image_files import MAX_PIXELS
from spcnet.data.images import geometry_of, read_image
from spcnet.data.label_formats import LabelFormat
from spcnet.data.label_images import read_label
from spcnet.errors import DataError
from tests.support.pictures import (
    chunk,
    colors,
    encoded,
    header,
    ids,
    jpegs,
    one_line,
    png,
    written,
)

WIDE = LabelFormat(wide=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((4, 5), np.uint8), "(4, 5)"),
        (np.zeros((4, 5, 4), np.uint8), "(4, 5, 4)"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        (np.zeros(5, np.uint8), "(5,)"),
        (np.asfortranarray(np.zeros((4, 5, 3), np.uint8)), "uint8 (4, 5, 3)"),
        (np.array([None, "code"], dtype=object), "cannot read"),
        (np.broadcast_to(np.uint8(0), (1, 2**28, 3)), "268435456"),
    ],
)
def test_unpacked_pixels_of_another_form_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "photo.npy"
    if content.size > 2**20:
        np.lib.format.open_memmap(path, "w+", content.dtype, content.shape).flush()  # a file with a hole
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@given(place=st.integers(0, 127 + 60), value=st.integers(0, 255), cut=st.none() | st.integers(0, 187))
@settings(max_examples=60, deadline=None)
def test_damaged_unpacked_pixels_are_pixels_or_one_line(
    place: int, value: int, cut: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("raw") / "photo.npy"
    np.save(path, np.zeros((4, 5, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content[:cut])
    with suppress(DataError):
        assert read_image(path).shape[2] == 3


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_place_of_pixels_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "photo.npy").write_bytes(pickle.dumps(Code(tmp_path / "run")))
    with pytest.raises(DataError, match=r"photo\.npy"):
        read_image(tmp_path / "photo.npy")
    assert not (tmp_path / "run").exists()


def test_a_missing_array_and_a_pipe_are_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    for name in ("none.npy", "pipe.npy"):
        with pytest.raises(DataError, match=name):
            read_label(tmp_path / name)


def test_what_is_no_image_file_is_said(tmp_path: Path) -> None:
    assert "does not exist" in one_line(tmp_path / "none.png")
    assert "a folder" in one_line(tmp_path)
    assert "not one of PNG" in one_line(written(tmp_path, b"", "empty.png"))
    assert "not one of PNG" in one_line(written(tmp_path, b"GIF89a" + b"\0" * 100, "a.gif"))
    for label in (False, True):
        assert "not one of PNG" in one_line(written(tmp_path, b"<html>404\n</html>"), label=label)
    with pytest.raises(DataError, match="cannot read"):
        read_image(Path("a\0b"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "a device and not a file" in one_line(tmp_path / "pipe.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="for root every file is readable")
def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, encoded(Image.fromarray(colors())))
    path.chmod(0)
    assert "permission" in one_line(path).lower()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, kind: str) -> None:
    content = encoded(Image.fromarray(colors(64, 64)), kind)
    assert read_image(written(tmp_path, content)).shape == (64, 64, 3)
    for share in (0.02, 0.3, 0.6):
        assert "cannot read" in one_line(written(tmp_path, content[: int(share * len(content))]))


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    for height, width in ((side, side), (2**31 - 1, 2**31 - 1), (1, MAX_PIXELS + 1)):
        content = b"\x89PNG\r\n\x1a\n" + header(height, width, bits=8, color_type=2) + chunk(b"IDAT", b"")
        with warnings.catch_warnings(action="error"):
            assert "too large" in one_line(written(tmp_path, content))


def test_a_file_with_too_many_bytes_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, encoded(Image.fromarray(colors())))
    monkeypatch.setattr(image_files, "MAX_BYTES", 100)
    assert "may have 100" in one_line(path)


def test_text_that_swells_when_it_is_unpacked_is_refused(tmp_path: Path) -> None:
    swelling = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24)))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**24)))
    assert "cannot read" in one_line(written(tmp_path, png(colors()[:, :, 0], bits=8, color_type=0, more=swelling)))
    # A colour profile is not unpacked beyond what is allowed, and not needed.
    path = written(tmp_path, png(colors()[:, :, 0], bits=8, color_type=0, more=profile))
    assert "cannot read" in one_line(path)


def test_a_jpeg_that_goes_over_its_pixels_without_end_is_refused(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(colors(64, 64)), "JPEG", progressive=True)
    assert read_image(written(tmp_path, content, "a.jpg")).shape == (64, 64, 3)
    last = content.rindex(b"\xff\xda")
    assert "goes over its pixels" in one_line(
        written(tmp_path, content[:last] + content[last:-2] * 200 + content[-2:], "a.jpg")
    )


def test_much_behind_a_jpeg_is_passed_over_at_once() -> None:
    content = jpegs()["plain"]
    for behind in (bytes(2**24), b"\xff" * 2**24, b"\xff\xda" * 2**23):
        start = time.process_time()
        assert image_files.walk_jpeg(content + behind).end == len(content) - 2
        image_files.walk_jpeg(content[:-2] + behind)
        assert time.process_time() - start < 3


FILES = {
    "photo.png": encoded(Image.fromarray(colors())),
    "palette.png": encoded(Image.fromarray(ids()).convert("P")),
    "grey.png": encoded(Image.fromarray(ids())),
    "deep.png": png(colors().astype(np.uint16), bits=16, color_type=2),
    "animated.png": encoded(Image.fromarray(colors()), save_all=True, append_images=[Image.fromarray(colors(seed=2))]),
    "photo.jpg": encoded(Image.fromarray(colors()), "JPEG"),
    "progressive.jpg": encoded(Image.fromarray(colors()), "JPEG", progressive=True, exif=b"Exif\0\0MM\0*" + bytes(40)),
    "cmyk.jpg": encoded(Image.fromarray(colors()).convert("CMYK"), "JPEG"),
}


def mutated(content: bytes, data: st.DataObject) -> bytes:
    places = st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        how = data.draw(st.sampled_from(["flip", "cut", "twice", "header"]))
        place = data.draw(places)
        if how == "flip" and place < len(content):
            content = content[:place] + bytes([data.draw(st.integers(0, 255))]) + content[place + 1 :]
        elif how == "cut":
            content = content[:place]
        elif how == "twice":
            end = data.draw(places)
            content = content[: max(place, end)] + content[min(place, end) :]
        elif content[12:16] == b"IHDR" and len(content) > 33:
            size = struct.pack(">II", *(data.draw(st.integers(0, 2**31 - 1)) for _ in range(2)))
            depth = bytes([data.draw(st.sampled_from([1, 2, 4, 8, 16, 3])), data.draw(st.integers(0, 7))])
            changed = b"IHDR" + data.draw(st.sampled_from([content[16:24], size])) + depth + content[26:29]
            content = content[:12] + changed + struct.pack(">I", zlib.crc32(changed)) + content[33:]
    return content


@pytest.mark.parametrize("name", sorted(FILES))
@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_a_picture_of_the_size_it_says_or_one_line(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    path = written(tmp_path, mutated(FILES[name], data), name)
    read = data.draw(st.sampled_from([read_image, read_label, lambda path: read_label(path, WIDE), fault]))
    refused, result = "", None
    with warnings.catch_warnings(action="error"):
        try:
            result = read(path)
        except DataError as error:
            refused = str(error)
        assert "\n" not in refused
        if isinstance(result, np.ndarray):
            assert result.dtype == np.uint8
            assert result.shape[:2] == geometry_of(path).size


BOMBS = textwrap.dedent("""
    import resource, sys
    from pathlib import Path
    from spcnet.data.images import read_image
    from spcnet.data.label_images import read_label
    from spcnet.data.label_formats import LabelFormat
    from spcnet.errors import DataError
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 256 * 2**20, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    for name in sys.argv[1:]:
        for read in (read_image, read_label, lambda path: read_label(path, LabelFormat(wide=True))):
            try:
                print("read", read(Path(name)).shape)
            except DataError as error:
                print("refused", error)
""")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_bombs_end_as_one_line_within_little_memory_and_time(tmp_path: Path) -> None:
    start, end = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
    tiny = chunk(b"IDAT", zlib.compress(bytes(1000)))
    vast = chunk(b"IDAT", zlib.compress(bytes(2**26)))
    texts = b"".join(chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(2**20 - 1))) for i in range(100))
    small = header(4, 4, bits=8, color_type=0)
    bombs = {
        "claims more than it has": start + header(11000, 11000, bits=8, color_type=2) + tiny + end,
        "claims more than may be": start + header(2**30, 2**30, bits=16, color_type=6) + vast + end,
        "has more than it claims": start + small + vast + end,
        "many texts": start + small + texts + tiny + end,
        "a part without end": start + small + struct.pack(">I", 2**32 - 1) + b"tEXt" + bytes(100),
        "scans": encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)[:-2] * 500,
    }
    paths = [written(tmp_path, content, f"{name}.png") for name, content in bombs.items()]
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, *map(str, paths)], capture_output=True, text=True, timeout=60, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(lines) == 3 * len(bombs)
    assert sum(line.startswith("refused") for line in lines) >= 3 * (len(bombs) - 2)


@pytest.mark.parametrize(("kind", "package"), [("GIF", ""), ("JPEG2000", ""), ("HEIF", " (pillow-heif reads it)")])
def test_a_picture_of_another_kind_is_named_with_what_reads_it(tmp_path: Path, kind: str, package: str) -> None:
    path = tmp_path / "a.jpg"
    if kind == "HEIF":
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    else:
        Image.new("RGB", (40, 40)).save(path, kind)
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(caught.value).endswith(f". Convert it to PNG or JPEG{package}")
    assert f"by its content it is {'JP2' if kind == 'JPEG2000' else kind}, which" in str(caught.value)
