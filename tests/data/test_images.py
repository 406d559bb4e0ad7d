import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spcnet.data.images import geometry_of, photo_of, read_image, read_photo
from spcnet.data.label_formats import LabelFormat
from tests.support.pictures import (
    ORIENTATION,
    STORED,
    UPRIGHT,
    chunk,
    colors,
    encoded,
    one_line,
    png,
    tiff,
    turned,
    written,
)

WIDE = LabelFormat(wide=True)


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
