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
from numpy.typing import NDArray
from PIL import Image

from spcnet.data import images
from spcnet.data.images import (
    MAX_PIXELS,
    Geometry,
    fault,
    geometry_of,
    photo_of,
    read_image,
    read_label,
    read_photo,
    size_misfit,
    too_many_scans,
)
from spcnet.errors import DataError
from spcnet.labels import LabelFormat
from tests.support.pictures import (
    ORIENTATION,
    STORED,
    UPRIGHT,
    chunk,
    colors,
    encoded,
    film,
    header,
    ids,
    jpegs,
    png,
    tiff,
    turned,
    written,
)

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


def on_white(pixels: NDArray[np.uint8], opacity: NDArray[np.uint8]) -> NDArray[np.float64]:
    share = opacity[..., None] / 255
    found: NDArray[np.float64] = pixels * share + 255 * (1 - share)
    return found


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_of_photos_with_16_bits_the_upper_eight_are_kept(tmp_path: Path, color_type: int, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (12, 20, channels), dtype=np.uint16)
    read = read_image(written(tmp_path, png(deep, bits=16, color_type=color_type)))
    upper = np.broadcast_to((deep >> 8)[:, :, : 3 if channels > 2 else 1], read.shape).astype(np.uint8)
    if channels in (1, 3):
        assert np.array_equal(read, upper)
    else:
        assert np.abs(read - on_white(upper, (deep[:, :, -1] >> 8).astype(np.uint8))).max() <= 1


def test_what_can_be_seen_through_lies_on_white_without_a_warning(tmp_path: Path) -> None:
    opacity = np.random.default_rng(3).integers(0, 256, (12, 20), dtype=np.uint8)
    opacity[0], opacity[1] = 0, 255
    image = Image.fromarray(np.dstack([colors(), opacity]))
    grey = Image.fromarray(colors()[:, :, 0])
    veiled = grey.copy()
    veiled.putalpha(Image.fromarray(opacity))
    palette = Image.fromarray(colors()).quantize(16)
    levels = np.random.default_rng(4).integers(0, 256, 16, dtype=np.uint8)
    levels[:2] = 255
    key = tuple(colors()[5, 7].tolist())
    cases = {
        "RGBA": (encoded(image), on_white(colors(), opacity)),
        "WebP": (encoded(image, "WEBP", lossless=True, exact=True), on_white(colors(), opacity)),
        "TIFF": (encoded(image, "TIFF"), on_white(colors(), opacity)),
        "LA": (encoded(veiled), on_white(np.repeat(colors()[:, :, :1], 3, 2), opacity)),
        "palette": (
            encoded(palette, transparency=levels.tobytes()),
            on_white(np.asarray(palette.convert("RGB")), levels[np.asarray(palette)]),
        ),
        "one entry": (
            encoded(palette, transparency=3),
            on_white(np.asarray(palette.convert("RGB")), np.where(np.asarray(palette) == 3, 0, 255).astype(np.uint8)),
        ),
        "colour": (
            encoded(Image.fromarray(colors()), transparency=key),
            on_white(colors(), np.where((colors() == key).all(axis=2), 0, 255).astype(np.uint8)),
        ),
        "grey": (
            encoded(grey, transparency=int(colors()[2, 2, 0])),
            on_white(
                np.repeat(colors()[:, :, :1], 3, 2),
                np.where(colors()[:, :, 0] == colors()[2, 2, 0], 0, 255).astype(np.uint8),
            ),
        ),
    }
    for name, (content, expected) in cases.items():
        with warnings.catch_warnings(action="error"):
            photo = read_photo(written(tmp_path, content))
        assert np.abs(photo.pixels - expected).max() <= 1, name
        assert (expected != 255).any(), name
        assert 0 < photo.see_through < 1, name
    multiplied = photo_of(veiled.convert("La"), "an image").pixels
    assert np.abs(multiplied - cases["LA"][1]).max() <= 2
    opaque = encoded(Image.fromarray(np.dstack([colors(), np.full((12, 20), 255, np.uint8)])))
    assert np.array_equal(read_image(written(tmp_path, opaque)), colors())
    assert read_photo(written(tmp_path, opaque)).see_through == 0


@pytest.mark.parametrize(("bits", "key"), [(1, 1), (2, 2), (4, 9), (8, 77), (16, 0x1234)])
def test_the_transparent_grey_of_a_png_is_one_of_its_own_depth(tmp_path: Path, bits: int, key: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (12, 24))
    values[0] = key
    packed = values
    if bits < 8:
        unpacked = np.unpackbits(values.astype(np.uint8)[:, :, None], axis=2)[:, :, 8 - bits :]
        packed = np.packbits(unpacked.reshape(12, -1), axis=1)
    content = png(packed, bits=bits, color_type=0, more=chunk(b"tRNS", struct.pack(">H", key)))
    grey = values * 255 // (2**bits - 1) if bits < 16 else values >> 8
    expected = np.where(values == key, 255, grey)
    assert np.array_equal(read_image(written(tmp_path, content))[:, :, 0], expected)


def test_the_transparent_colour_of_a_png_with_16_bits_is_found(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (12, 20, 3), dtype=np.uint16)
    content = png(deep, bits=16, color_type=2, more=chunk(b"tRNS", struct.pack(">3H", *(int(v) for v in deep[3, 4]))))
    photo = read_photo(written(tmp_path, content))
    expected = (deep >> 8).astype(np.uint8)
    expected[3, 4] = 255
    assert np.array_equal(photo.pixels, expected)


SIDEWAYS = (5, 6, 7, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "TIFF packed"])
def test_a_photo_is_read_upright_as_its_exif_says(tmp_path: Path, orientation: int, kind: str) -> None:
    options = {"WEBP": {"lossless": True}, "TIFF packed": {"compression": "tiff_lzw"}}.get(kind, {})
    path = written(tmp_path, turned(orientation, kind.split(maxsplit=1)[0], **options))
    photo = read_photo(path)
    if kind == "JPEG":
        plain = read_image(written(tmp_path, encoded(Image.open(path), "PNG", exif=b""), "b.png"))
        expected = {2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 6: np.rot90(plain, -1)}
        assert orientation not in expected or np.array_equal(photo.pixels, expected[orientation])
        assert photo.pixels.shape == UPRIGHT.shape
    else:
        assert np.array_equal(photo.pixels, UPRIGHT)
    assert photo.pixels.flags.c_contiguous
    assert geometry_of(path).size == (16, 32)
    stored = (32, 16) if orientation in SIDEWAYS else (16, 32)
    assert geometry_of(path) == photo.geometry == (stored, orientation)


def exif_text() -> bytes:
    """EXIF with orientation 6 as ImageMagick wrote it into a PNG's text before there was a part of its own for it."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = b"Exif\0\0" + exif.tobytes(8).removeprefix(b"Exif\0\0")
    return b"Raw profile type exif\0\nexif\n%8d\n" % len(content) + content.hex().encode() + b"\n"


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "note",
    [
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        chunk(b"tEXt", exif_text()),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()),
    ],
    ids=["EXIF", "text", "XMP"],
)
def test_an_orientation_stands_anywhere_in_a_png(tmp_path: Path, note: bytes, late: bool) -> None:
    plain = encoded(Image.fromarray(np.ascontiguousarray(STORED[6](UPRIGHT))))
    place = plain.index(b"IEND" if late else b"IDAT") - 4
    path = written(tmp_path, plain[:place] + note + plain[place:])
    assert np.array_equal(read_image(path), UPRIGHT)
    assert geometry_of(path) == ((32, 16), 6)


@pytest.mark.parametrize("note", [b"MM\0*" + bytes(40), b"II*\0\xff\xff\xff\xff", b"x"])
def test_a_broken_note_turns_nothing_and_the_pixels_are_read(tmp_path: Path, note: bytes) -> None:
    plain = encoded(Image.fromarray(UPRIGHT))
    place = plain.index(b"IDAT") - 4
    for kind in (b"eXIf", b"tEXt"):
        text = note if kind == b"eXIf" else b"Raw profile type exif\0\nexif\n 4\nxyz"
        path = written(tmp_path, plain[:place] + chunk(kind, text) + plain[place:])
        assert np.array_equal(read_image(path), UPRIGHT)
        assert geometry_of(path) == ((16, 32), 1)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = written(tmp_path, encoded(Image.fromarray(UPRIGHT), exif=exif))
    assert np.array_equal(read_image(path), UPRIGHT)
    assert geometry_of(path).orientation == 1


@pytest.mark.parametrize("at_least", [(100, 200), (100, 100), (200, 100), (101, 10), (50, 50)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_turned_jpeg_is_read_smaller_but_never_smaller_than_asked_for(
    tmp_path: Path, orientation: int, at_least: tuple[int, int]
) -> None:
    smooth = np.asarray(Image.fromarray(colors(4, 8)).resize((800, 400), Image.Resampling.BICUBIC))
    path = written(tmp_path, turned(orientation, "JPEG", smooth, quality=95, subsampling=0), "a.jpg")
    photo = read_photo(path, at_least=at_least)
    factor = 400 // photo.pixels.shape[0]
    assert factor == max(f for f in (1, 2, 4, 8) if f == 1 or (400 // f >= at_least[0] and 800 // f >= at_least[1]))
    expected = np.asarray(Image.fromarray(smooth).reduce(factor))
    assert photo.pixels.shape == expected.shape
    assert np.abs(photo.pixels.astype(int) - expected).mean() < 2
    assert photo.geometry == geometry_of(path)


LABEL = ids(16, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_label_lies_on_the_upright_photo_or_by_its_shape_on_the_one_on_its_side(
    tmp_path: Path, orientation: int
) -> None:
    photo = geometry_of(written(tmp_path, turned(orientation)))
    upright = written(tmp_path, encoded(Image.fromarray(LABEL)), "upright.png")
    assert np.array_equal(read_label(upright, photo=photo), LABEL)
    as_stored = np.ascontiguousarray(STORED[orientation](LABEL))
    stored = written(tmp_path, encoded(Image.fromarray(as_stored)), "stored.png")
    np.save(tmp_path / "stored.npy", as_stored)
    for path in (stored, tmp_path / "stored.npy"):
        read = read_label(path, photo=photo)
        assert np.array_equal(read, LABEL if orientation in SIDEWAYS else as_stored)
        assert read.flags.c_contiguous
        assert np.array_equal(read_label(path), as_stored)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_a_label_that_is_turned_like_its_photo_fits_it(tmp_path: Path, orientation: int, kind: str) -> None:
    photo = geometry_of(written(tmp_path, turned(orientation)))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = np.repeat(LABEL[:, :, None], 3, 2) if kind == "WEBP" else LABEL
    path = written(tmp_path, turned(orientation, kind, pixels, **options), "label")
    greys = LabelFormat.of({k: f"class {k}" for k in range(20)}, [((k, k, k), k) for k in range(20)])
    assert np.array_equal(read_label(path, greys, photo=photo), LABEL)
    assert np.array_equal(read_label(path, greys), LABEL)


@pytest.mark.parametrize("orientation", SIDEWAYS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_label_that_was_turned_upright_and_kept_the_note_of_its_photo_is_not_turned_twice(
    tmp_path: Path, orientation: int, kind: str
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = written(tmp_path, encoded(Image.fromarray(LABEL), kind, exif=exif), "label")
    photo = geometry_of(written(tmp_path, turned(orientation)))
    assert np.array_equal(read_label(path, photo=photo), LABEL)


def test_a_label_with_a_note_of_its_own_may_lie_on_the_stored_picture(tmp_path: Path) -> None:
    photo = geometry_of(written(tmp_path, turned(6)))
    drawn = np.ascontiguousarray(STORED[6](LABEL))
    assert np.array_equal(read_label(written(tmp_path, turned(3, pixels=drawn), "l.png"), photo=photo), LABEL)


def test_of_a_square_photo_the_label_lies_on_the_upright_one(tmp_path: Path) -> None:
    pixels, label = colors(16, 16), ids(16, 16)
    path = written(tmp_path, turned(6, pixels=pixels))
    assert np.array_equal(read_image(path), pixels)
    truth = written(tmp_path, encoded(Image.fromarray(label)), "label.png")
    assert np.array_equal(read_label(truth, photo=geometry_of(path)), label)


def test_a_label_that_fits_neither_picture_is_told_of_with_exif(tmp_path: Path) -> None:
    photo = geometry_of(written(tmp_path, turned(6)))
    label = read_label(written(tmp_path, encoded(Image.fromarray(ids(16, 31))), "l.png"), photo=photo)
    text = size_misfit(photo, label.shape)
    assert "32×16 (EXIF orientation 6 of the stored 16×32)" in text
    assert "31×16" in text
    assert "EXIF" not in size_misfit(Geometry((16, 32), 1), (16, 31))
    assert size_misfit(photo, (16, 32)) == ""


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


def shown(tmp_path: Path, numbers: NDArray[np.generic], kind: str = "TIFF") -> list[int]:
    """The grey that a row of numbers is read as."""
    read = read_image(written(tmp_path, encoded(Image.fromarray(numbers), kind)))
    assert (read == read[:, :, :1]).all()
    found: list[int] = read[0, :, 0].tolist()
    return found


def test_integers_of_32_bits_are_bytes_or_16_bits(tmp_path: Path) -> None:
    assert shown(tmp_path, np.array([[-3, 0, 7, 255]], np.int32)) == [0, 0, 7, 255]
    assert shown(tmp_path, np.array([[-3, 0, 255, 256, 0x7FFF, 65535]], np.int32)) == [0, 0, 0, 1, 0x7F, 255]
    # Of a grey map the largest number stands in the file.
    dark = b"P5 3 1 65535\n" + np.array([0, 200, 255], ">u2").tobytes()
    assert not read_image(written(tmp_path, dark)).any()


def test_floating_point_numbers_are_shares_or_bytes_or_16_bits(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    for numbers, expected in (
        ([0, 0.5, 1], [0, 128, 255]),
        ([-0.1, 0.25, 1.01], [0, 64, 255]),  # resizing overshoots a little
        ([nan, -inf, 0.5, inf], [0, 0, 128, 255]),
        ([0, 2, 99.6, 255], [0, 2, 100, 255]),
        ([0, 256, 65535], [0, 1, 255]),
    ):
        assert shown(tmp_path, np.array([numbers], np.float32)) == expected, numbers


@pytest.mark.parametrize("numbers", [np.array([[0, 65536]], np.int32), np.array([[0, 1e6]], np.float32)])
def test_numbers_that_are_no_colours_are_no_photo(tmp_path: Path, numbers: NDArray[np.generic]) -> None:
    assert "has numbers up to" in one_line(written(tmp_path, encoded(Image.fromarray(numbers), "TIFF")))


SMOOTH = np.asarray(Image.fromarray(colors(2, 3)).resize((20, 12), Image.Resampling.BICUBIC))


def thinned(ycc: NDArray[np.uint8], across: int, down: int) -> bytes:
    """YCbCr with one colour for several pixels, as TIFF packs it."""
    height, width = ycc.shape[:2]
    blocks = ycc.reshape(height // down, down, width // across, across, 3).swapaxes(1, 2)
    brightness = blocks[..., 0].reshape(-1, down * across)
    colour = blocks[..., 1:].mean(axis=(2, 3)).round().astype(np.uint8).reshape(-1, 2)
    return np.hstack([brightness, colour]).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("rows", [12, 4])
@pytest.mark.parametrize(
    ("what", "planar"),
    [
        ("YCbCr thinned", 1),
        ("RGBX", 1),
        *((what, planar) for what in ("YCbCr", "RGB", "RGB of 16 bits") for planar in (1, 2)),
    ],
)
def test_a_tiff_that_is_not_compressed_is_read_however_it_is_laid_out(
    tmp_path: Path, what: str, planar: int, rows: int, order: str
) -> None:
    ycc = np.asarray(Image.fromarray(SMOOTH).convert("YCbCr"))
    if what == "YCbCr thinned":
        strips = [thinned(ycc[top : top + rows], 2, 2) for top in range(0, 12, rows)]
        content = tiff(strips, (12, 20), 6, (8, 8, 8), rows=rows, order=order, subsampling=(2, 2))
    else:
        numbers, photometric, more = {
            "YCbCr": (ycc, 6, {"subsampling": (1, 1)}),
            "RGB": (SMOOTH, 2, {}),
            "RGB of 16 bits": ((SMOOTH.astype(np.uint16) * 256 + 99).astype(f"{order}u2"), 2, {}),
            "RGBX": (np.dstack([SMOOTH, SMOOTH[:, :, 0]]), 2, {"extra": (0,)}),
        }[what]
        parts = [numbers] if planar == 1 else [numbers[:, :, k] for k in range(numbers.shape[2])]
        strips = [part[top : top + rows].tobytes() for part in parts for top in range(0, 12, rows)]
        bits = (8 * numbers.itemsize,) * numbers.shape[2]
        content = tiff(strips, (12, 20), photometric, bits, rows=rows, order=order, planar=planar, **more)
    read = read_image(written(tmp_path, content)).astype(int)
    if what.startswith("RGB"):
        assert np.array_equal(read, SMOOTH)
    else:  # of 2×2 pixels the brightness is each one's own
        grey = np.array([0.299, 0.587, 0.114])
        assert np.abs((read - SMOOTH) @ grey).max() < (3 if what == "YCbCr" else 16)
        assert np.abs(read - SMOOTH).mean() < (1.5 if what == "YCbCr" else 8)


@pytest.mark.parametrize("photometric", [0, 1])
def test_a_tiff_says_whether_zero_is_white(tmp_path: Path, photometric: int) -> None:
    grey = SMOOTH[:, :, 0]
    for numbers in (grey, grey.astype(np.uint16) * 257):
        stored = ~numbers if photometric == 0 else numbers
        content = tiff([stored.tobytes()], (12, 20), photometric, (8 * numbers.itemsize,))
        assert np.array_equal(read_image(written(tmp_path, content))[:, :, 1], grey)


def test_a_tiff_with_12_bits_is_not_dark(tmp_path: Path) -> None:
    twelve = np.random.default_rng(0).integers(0, 4096, (4, 6))
    pairs = twelve.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    content = tiff([packed.astype(np.uint8).tobytes()], (4, 6), 1, (12,))
    assert np.array_equal(read_image(written(tmp_path, content))[:, :, 2], twelve >> 4)


def test_a_tiff_of_a_kind_that_is_not_read_is_said_to_be_one(tmp_path: Path) -> None:
    content = tiff([np.zeros((4, 5, 2), np.uint8).tobytes()], (4, 5), 1, (8, 8), extra=(1,))
    assert "a TIFF of a kind that" in one_line(written(tmp_path, content))


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


def test_much_behind_a_jpeg_is_passed_over_at_once() -> None:
    content = jpegs()["plain"]
    for behind in (bytes(2**24), b"\xff" * 2**24, b"\xff\xda" * 2**23):
        start = time.process_time()
        assert images._walk_jpeg(content + behind).end == len(content) - 2
        images._walk_jpeg(content[:-2] + behind)
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
    from spcnet.data.images import read_image, read_label
    from spcnet.labels import LabelFormat
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
