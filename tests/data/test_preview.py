from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spcnet.data.datasets import Sample, SegmentationSet
from spcnet.data.preview import contact_sheet, paint
from spcnet.errors import DataError, UsageError
from spcnet.formatting import fine_percent
from spcnet.labels import IGNORE, label_space

SPACE = label_space("cityscapes19")
ROAD, SKY = SPACE.classes.index("road"), SPACE.classes.index("sky")


class Made(SegmentationSet):
    """Grey photos whose upper half is sky, whose lower half is road, and whose left edge is of no class."""

    def __init__(self, number: int, *, size: tuple[int, int] = (32, 64), name: str = "image") -> None:
        self.number, self.size, self.name = number, size, name
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.number

    def read(self, index: int, /) -> Sample:
        self.asked.append(index)
        label = np.full(self.size, ROAD, np.uint8)
        label[: self.size[0] // 2] = SKY
        label[:, : self.size[1] // 4] = IGNORE
        return Sample(np.full((*self.size, 3), 200, np.uint8), label, f"{self.name}_{index}")


def colours_of(sheet: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(sheet.reshape(-1, 3), axis=0).tolist()}


def test_the_sheet_shows_photo_and_label_in_the_colours_of_the_space() -> None:
    sheet = np.asarray(contact_sheet(Made(3), SPACE, num_images=2, columns=1, width=128))
    assert sheet.dtype == np.uint8
    assert {SPACE.colors[ROAD], SPACE.colors[SKY], (200, 200, 200)} <= colours_of(sheet)
    assert SPACE.colors[SPACE.classes.index("car")] not in colours_of(sheet)


def test_different_images_are_drawn_in_the_order_of_the_set_and_the_same_for_a_seed() -> None:
    drawn = []
    for seed in (0, 0, 1):
        plain = Made(100)
        contact_sheet(plain, SPACE, num_images=9, width=64, seed=seed)
        assert plain.asked == sorted(set(plain.asked))
        assert len(plain.asked) == 9
        drawn.append(plain.asked)
    assert drawn[0] == drawn[1] != drawn[2]


def test_of_a_small_set_all_images_are_shown() -> None:
    plain = Made(3)
    contact_sheet(plain, SPACE, num_images=8, width=64)
    assert plain.asked == [0, 1, 2]


def test_columns_make_the_sheet_wide_and_rows_make_it_high() -> None:
    wide, high = (contact_sheet(Made(4), SPACE, num_images=4, columns=columns, width=64) for columns in (4, 1))
    assert wide.width == 4 * high.width
    assert high.height > wide.height
    square = contact_sheet(Made(16), SPACE, num_images=16, width=64)
    assert 0.5 < square.width / square.height < 2


def test_pixels_of_no_class_are_striped_and_no_class_has_their_colours() -> None:
    painted = paint(np.full((16, 16), IGNORE, np.uint8), SPACE)
    colours = colours_of(painted)
    assert len(colours) == 2
    assert all(20 < red == green == blue < 120 for red, green, blue in colours)
    assert not colours & set(SPACE.colors)
    for name in ("cityscapes19", "idd7"):
        space = label_space(name)
        classes = np.arange(len(space), dtype=np.uint8)[None]
        assert paint(classes, space)[0].tolist() == [list(colour) for colour in space.colors]


def test_shares_have_the_digits_that_say_something() -> None:
    shares = (0.0, 0.00004, 0.0042, 0.31, 1.0)
    assert [fine_percent(share) for share in shares] == ["0.00 %", "<0.01 %", "0.42 %", "31.0 %", "100.0 %"]


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (200, 64)])
def test_images_of_any_shape_and_names_of_any_length_fit(size: tuple[int, int]) -> None:
    sheet = contact_sheet(Made(2, size=size, name="a_very_long_name_" * 20), SPACE, num_images=2, width=64)
    assert sheet.mode == "RGB"


def test_a_set_without_any_labelled_pixel_still_has_a_sheet() -> None:
    class Void(Made):
        def read(self, index: int, /) -> Sample:
            sample = super().read(index)
            return sample._replace(label=np.full_like(sample.label, IGNORE))

    assert contact_sheet(Void(1), SPACE, width=64).width > 128


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_images": 0}, "0 images"),
        ({"num_images": 10_000}, "10000 images"),
        ({"columns": 0}, "0 columns"),
        ({"columns": 9}, "9 columns"),
        ({"width": 5}, "5 pixels wide"),
        ({"width": 10_000}, "10000 pixels wide"),
    ],
)
def test_what_no_sheet_can_have_is_said(wrong: dict[str, int], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        contact_sheet(Made(8), SPACE, **wrong)  # type: ignore[arg-type]


def test_an_image_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    class Broken(Made):
        def read(self, index: int, /) -> Sample:
            raise DataError(f"cannot read {tmp_path}")

    with pytest.raises(DataError, match="cannot read"):
        contact_sheet(Broken(1), SPACE, width=64)
