"""One file is one picture: whoever opens it, by whatever command, sees the same pixels."""

import io
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spcnet.app.uploads import Limits, read_upload
from spcnet.data.cache import CacheFormat, write_cache
from spcnet.data.datasets import FolderSet
from spcnet.data.folders import SetFolder
from spcnet.export.quantisation import calibration_pictures
from spcnet.inference.images import read_rgb
from tests.support.pictures import STORED, chunk, png, tiff, turned

EXAMPLE = Path(__file__).parents[1] / "examples" / "onnx_only.py"
STREET = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((64, 48))
)
LABEL = np.random.default_rng(1).integers(0, 12, (48, 64), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def veiled(mode: str = "RGBA") -> Image.Image:
    image = Image.fromarray(STREET).convert(mode)
    image.putalpha(Image.fromarray(np.arange(48 * 64).reshape(48, 64).astype(np.uint8)))
    return image


def deep() -> NDArray[np.uint16]:
    return STREET[:, :, 1].astype(np.uint16) * 256 + np.random.default_rng(2).integers(
        0, 256, (48, 64), dtype=np.uint16
    )


def palette() -> Image.Image:
    return Image.fromarray(STREET).quantize(20)


KINDS: dict[str, Callable[[], bytes]] = {
    **{f"{kind} {o}": lambda kind=kind, o=o: turned(o, kind, STREET) for kind in ("PNG", "JPEG") for o in range(1, 9)},
    **{f"TIFF {o}": lambda o=o: turned(o, "TIFF", STREET) for o in (3, 6)},
    **{f"TIFF {o}, with opacity": lambda o=o: turned(o, "TIFF", np.asarray(veiled())) for o in (2, 6)},
    **{f"TIFF {o}, grey": lambda o=o: turned(o, "TIFF", STREET[:, :, 0]) for o in (4, 8)},
    **{f"WebP {o}": lambda o=o: turned(o, "WEBP", STREET, lossless=True) for o in (2, 5)},
    "RGBA": lambda: encoded(veiled(), "PNG"),
    "LA": lambda: encoded(veiled("L"), "PNG"),
    "WebP with opacity": lambda: encoded(veiled(), "WEBP", lossless=True),
    "RGBA turned": lambda: encoded(veiled(), "PNG", exif=b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    "palette": lambda: encoded(palette(), "PNG"),
    "palette with opacity": lambda: encoded(palette(), "PNG", transparency=bytes(range(0, 200, 10))),
    "palette with a clear entry": lambda: encoded(palette(), "PNG", transparency=4),
    "RGB with a clear colour": lambda: encoded(
        Image.fromarray(STREET), "PNG", transparency=tuple(STREET[9, 9].tolist())
    ),
    "grey with a clear value": lambda: encoded(
        Image.fromarray(STREET[:, :, 0]), "PNG", transparency=int(STREET[9, 9, 0])
    ),
    "16 bits": lambda: encoded(Image.fromarray(deep()), "PNG"),
    "16 bits with a clear value": lambda: png(
        deep(), bits=16, color_type=0, more=chunk(b"tRNS", int(deep()[9, 9]).to_bytes(2, "big"))
    ),
    "16 bits TIFF": lambda: encoded(Image.fromarray(deep()), "TIFF"),
    "YCbCr TIFF": lambda: tiff(
        [np.asarray(Image.fromarray(STREET).convert("YCbCr")).tobytes()], (48, 64), 6, (8, 8, 8), subsampling=(1, 1)
    ),
    "black and white": lambda: encoded(Image.fromarray(STREET).convert("1"), "PNG"),
    "inks": lambda: encoded(Image.fromarray(STREET).convert("CMYK"), "JPEG"),
    "integers": lambda: encoded(Image.fromarray(deep().astype(np.int32)), "TIFF"),
    "numbers": lambda: encoded(Image.fromarray(STREET[:, :, 1].astype(np.float32) / 255), "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_sees_the_same_pixels_of_a_file(kind: str, tmp_path: Path) -> None:
    # What a file is, is seen from its content: a set that asks for PNG has them all.
    root = tmp_path / "set"
    photo, label = root / "train" / "0001TP_1.png", root / "trainannot" / "0001TP_1.png"
    for folder in (photo.parent, label.parent):
        folder.mkdir(parents=True)
    photo.write_bytes(KINDS[kind]())
    seen = read_rgb(photo)
    upright = seen.shape == (48, 64, 3)
    Image.fromarray(LABEL if upright else np.rot90(LABEL)).save(label)

    def first_of(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        pairs, *_ = SetFolder("camvid", folder).find_split("train")
        return FolderSet(pairs, table=np.arange(256, dtype=np.uint8)).read(0)[:2]

    pixels, truth = first_of(root)  # training, evaluation, preview, inspection
    write_cache("camvid", root, tmp_path / "copy", CacheFormat(form="raw"))
    copied, copied_truth = first_of(tmp_path / "copy")
    (calibrated,) = calibration_pictures(photo.parent, None, limit=1)  # 8-bit integers, and the domain's by `read`
    doors = {
        "set": pixels,
        "copy": copied,
        "app": read_upload(photo, limits=Limits()),
        "calibration": calibrated[0].movedim(0, -1).numpy(),
    }
    if kind not in ("integers", "numbers"):  # the example is short
        doors["example"] = np.asarray(runpy.run_path(str(EXAMPLE))["read"](photo))
    for door, found in doors.items():
        assert np.array_equal(found, seen), door
    assert np.array_equal(truth, LABEL if upright else np.rot90(LABEL))
    assert np.array_equal(copied_truth, truth)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_picture_above_the_size_of_the_app_is_made_smaller_upright(
    orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spcnet.app.uploads.PHOTO_PIXELS", 48 * 64 // 4)
    monkeypatch.setattr("spcnet.app.uploads.MIN_SIZE", 8)
    small = np.asarray(Image.fromarray(STREET).resize((32, 24), Image.Resampling.BILINEAR))
    for content in (turned(orientation, pixels=STREET), turned(orientation, "TIFF", STREET)):
        (tmp_path / "a.png").write_bytes(content)
        found = read_upload(tmp_path / "a.png", limits=Limits())
        assert np.abs(found.astype(int) - small).max() <= 2


def test_a_clear_colour_is_not_mixed_with_others_when_a_picture_is_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spcnet.app.uploads.PHOTO_PIXELS", 48 * 64 // 4)
    monkeypatch.setattr("spcnet.app.uploads.MIN_SIZE", 8)
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, ::2] = (200, 0, 0)
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(pixels), "PNG", transparency=(0, 0, 0)))
    found = read_upload(tmp_path / "a.png", limits=Limits())
    assert np.abs(found[5:-5, 5:-5].astype(int) - (227, 127, 127)).max() <= 3


def test_the_pictures_of_this_file_are_stored_as_exif_has_it() -> None:
    """The orientation's numbers are the standard's: the side where the first row lies, and the first column."""
    marked = np.array([[1, 2], [3, 4]])  # upright: 1 is top left
    corners = {1: 1, 2: 2, 3: 4, 4: 3, 5: 1, 6: 2, 7: 4, 8: 3}  # what is stored first
    behind = {1: 2, 2: 1, 3: 3, 4: 4, 5: 3, 6: 4, 7: 2, 8: 1}  # what is stored beside it
    for orientation, stored in STORED.items():
        assert stored(marked)[0].tolist() == [corners[orientation], behind[orientation]], orientation
