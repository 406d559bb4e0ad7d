"""Label images: their ids, and which picture they lie on."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spcnet.data.images import Geometry, geometry_of, read_image, size_misfit
from spcnet.data.label_formats import LabelFormat
from spcnet.data.label_images import read_label
from spcnet.errors import DataError
from tests.support.pictures import (
    ORIENTATION,
    STORED,
    colors,
    encoded,
    ids,
    one_line,
    png,
    turned,
    written,
)

WIDE = LabelFormat(wide=True)


SIDEWAYS = (5, 6, 7, 8)


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
