import io
import os
import pickle
import re
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from spcnet.data import images
from spcnet.data.images import MAX_PIXELS, fault, read_image, read_label, size_of
from spcnet.data.labels import LabelFormat
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


WIDE = LabelFormat(wide=True)


def one_line(path: Path, *, label: bool = False) -> str:
    with pytest.raises(DataError) as raised:
        read_label(path) if label else read_image(path)
    text = str(raised.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_a_photo_comes_as_it_was_written(tmp_path: Path) -> None:
    pixels = colors()
    read = read_image(written(tmp_path, encoded(Image.fromarray(pixels))))
    assert np.array_equal(read, pixels)
    assert read.flags.writeable


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_photos_of_other_kinds_become_rgb(tmp_path: Path, mode: str) -> None:
    plain = Image.fromarray(colors())
    image = plain.convert("RGB" if mode == "CMYK" else mode)
    expected = np.asarray(image.convert("RGB"))
    if mode == "CMYK":
        read = read_image(written(tmp_path, encoded(plain.resize((40, 24)).convert("CMYK"), "JPEG", quality=100)))
        assert np.abs(read.astype(int) - np.asarray(plain.resize((40, 24)))).mean() < 12
    else:
        assert np.array_equal(read_image(written(tmp_path, encoded(image))), expected)


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_of_photos_with_16_bits_the_upper_eight_are_kept(tmp_path: Path, color_type: int, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (12, 20, channels), dtype=np.uint16)
    read = read_image(written(tmp_path, png(deep, bits=16, color_type=color_type)))
    assert np.array_equal(read, np.broadcast_to((deep >> 8)[:, :, : 3 if channels > 2 else 1], read.shape))


def test_transparent_pixels_keep_their_colour_without_a_warning(tmp_path: Path) -> None:
    pixels = np.dstack([colors(), np.zeros((12, 20), np.uint8)])
    assert np.array_equal(read_image(written(tmp_path, encoded(Image.fromarray(pixels)))), pixels[:, :, :3])
    image = Image.fromarray(colors()).quantize(16)
    path = written(tmp_path, encoded(image, transparency=bytes(range(16))))
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_a_photo_is_not_turned_by_what_exif_says_for_its_label_is_not_turned_either(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.fromarray(colors(16, 32))
    turned, plain = encoded(image, "JPEG", exif=exif), encoded(image, "JPEG")
    assert np.array_equal(read_image(written(tmp_path, turned, "a.jpg")), read_image(written(tmp_path, plain, "b.jpg")))
    path = written(tmp_path, encoded(image, exif=exif))
    assert read_image(path).shape == (16, 32, 3)
    assert size_of(path) == (16, 32)


def test_of_an_animation_there_is_the_first_picture(tmp_path: Path) -> None:
    first, second = (Image.fromarray(colors(seed=seed)) for seed in (1, 2))
    path = written(tmp_path, encoded(first, save_all=True, append_images=[second]))
    assert np.array_equal(read_image(path), np.asarray(first))


@pytest.mark.parametrize("at_least", [(1, 1), (100, 10), (100, 200), (101, 10), (400, 800), (2000, 2000)])
def test_a_jpeg_is_read_smaller_but_never_smaller_than_asked_for(tmp_path: Path, at_least: tuple[int, int]) -> None:
    smooth = Image.fromarray(colors(4, 8)).resize((800, 400), Image.Resampling.BICUBIC)
    path = written(tmp_path, encoded(smooth, "JPEG", quality=95, subsampling=0), "a.jpg")
    read = read_image(path, at_least=at_least)
    assert read.shape[0] >= min(at_least[0], 400)
    assert read.shape[1] >= min(at_least[1], 800)
    factor = 400 // read.shape[0]
    assert factor == max(f for f in (1, 2, 4, 8) if f == 1 or (400 // f >= at_least[0] and 800 // f >= at_least[1]))
    assert np.abs(read.astype(int) - np.asarray(smooth.reduce(factor))).mean() < 2


def test_a_png_comes_at_its_own_size_whatever_suffices(tmp_path: Path) -> None:
    assert read_image(written(tmp_path, encoded(Image.fromarray(colors()))), at_least=(1, 1)).shape == (12, 20, 3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [False, True])
def test_the_ids_of_a_label_are_its_numbers_at_any_depth(tmp_path: Path, bits: int, palette: bool) -> None:
    label = ids(12, 24, below=min(2**bits, 200))
    packed = np.packbits(
        np.unpackbits(label[:, :, None], axis=2)[:, :, 8 - bits :].reshape(12, -1), axis=1
    )  # the lowest bits of each number, one after the other
    content = png(
        packed, bits=bits, color_type=3 if palette else 0, palette=os.urandom(3 * 2**bits) if palette else b""
    )
    assert np.array_equal(read_label(written(tmp_path, content)), label)


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_wide_label_has_its_ids_in_the_first_channel(tmp_path: Path, color_type: int, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (12, 20, channels), dtype=np.uint16)
    deep[:, :, 0] = ids(below=256)
    path = written(tmp_path, png(deep, bits=16, color_type=color_type))
    assert np.array_equal(read_label(path, WIDE), deep[:, :, 0])
    if channels == 1:
        assert np.array_equal(read_label(path), deep[:, :, 0])
    else:
        assert "a label image has one channel" in one_line(path, label=True)


def test_a_wide_label_with_an_id_beyond_255_is_refused(tmp_path: Path) -> None:
    for color_type, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        deep = np.full((4, 5, channels), 300, np.uint16)
        with pytest.raises(DataError, match=r"unknown ids: 20 of 20 pixels: 300 \(20 pixels\)"):
            read_label(written(tmp_path, png(deep, bits=16, color_type=color_type)), WIDE)


def test_colours_are_ids_only_where_a_table_says_so(tmp_path: Path) -> None:
    form = LabelFormat.of({7: "road", 8: "sidewalk"}, [((128, 64, 128), 7), ((244, 35, 232), 8)])
    pixels = np.array([[(128, 64, 128), (244, 35, 232), (128, 64, 128)]], np.uint8)
    path = written(tmp_path, encoded(Image.fromarray(pixels)))
    assert read_label(path, form).tolist() == [[7, 8, 7]]
    assert "not colours" in one_line(path, label=True)
    for alpha in (0, 100, 255):
        with_alpha = np.dstack([pixels, np.full((1, 3), alpha, np.uint8)])
        assert read_label(written(tmp_path, encoded(Image.fromarray(with_alpha))), form).tolist() == [[7, 8, 7]]


def test_a_label_as_jpeg_is_refused(tmp_path: Path) -> None:
    assert "is a JPEG" in one_line(written(tmp_path, encoded(Image.fromarray(ids()), "JPEG")), label=True)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_that_are_no_colours_are_no_photo(tmp_path: Path, mode: str) -> None:
    assert f"of mode {mode}" in one_line(written(tmp_path, encoded(Image.new(mode, (4, 4)), "TIFF")))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((4, 5), np.uint8), "(4, 5)"),
        (np.zeros((4, 5, 4), np.uint8), "(4, 5, 4)"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        (np.zeros(5, np.uint8), "(5,)"),
        (np.asfortranarray(np.zeros((4, 5, 3), np.uint8)), "make the copy anew"),
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
    assert "none of PNG" in one_line(written(tmp_path, b"", "empty.png"))
    assert "none of PNG" in one_line(written(tmp_path, b"GIF89a" + b"\0" * 100, "a.gif"))
    for label in (False, True):
        assert "none of PNG" in one_line(written(tmp_path, b"<html>404\n</html>"), label=label)
    with pytest.raises(DataError, match="cannot read"):
        read_image(Path("a\0b"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "is no file" in one_line(tmp_path / "pipe.png")


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
    monkeypatch.setattr(images, "MAX_BYTES", 100)
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
            assert result.shape[:2] == size_of(path)


BOMBS = textwrap.dedent("""
    import resource, sys
    from pathlib import Path
    from spcnet.data.images import read_image, read_label
    from spcnet.data.labels import LabelFormat
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
