import re
from pathlib import Path

import pytest

from spcnet import labels
from spcnet.data.catalog import DATASETS

CITY = labels.label_space("cityscapes19")
DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
SMALL = (32, 64)


# The catalogue


def test_the_sets_that_results_are_published_for_are_there() -> None:
    published = "gtav synthia idd idd_lite cityscapes bdd100k mapillary mapillary_rein"
    further = "acdc dark_zurich nighttime_driving kitti urbansyn wilddash2 camvid streets"
    assert set(DATASETS) == {*published.split(), *further.split()}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_an_entry_of_the_catalogue_fits_together(name: str) -> None:
    info = DATASETS[name]
    assert {info.train_split, info.test_split} <= set(info.splits)
    by_folder = any("{subset}" in layout.labels for layout in info.layouts)
    assert not info.layouts or by_folder or set(info.subsets) == set(info.prefixes)
    for layout in info.layouts:
        stars = [re.findall(r"\*\*/|\*", pattern) for pattern in (*layout.images, layout.labels)]
        assert all(found == stars[0] for found in stars)
        assert all(set(layout.only) <= set(info.splits) for layout in info.layouts)
        # A cache writes photos as JPEG into the same layout.
        assert any(pattern.endswith(".jpg") for pattern in layout.images)
        if not callable(layout.table):
            space = labels.label_space("idd7")
            labels.remap(layout.table, space, name)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"streets"}))
def test_the_page_on_data_sets_tells_of_every_set_and_of_its_folders(name: str) -> None:
    text = DOCUMENT.read_text()
    assert f"`{name}`" in text
    for layout in DATASETS[name].layouts:
        base = layout.labels.split("*")[0].rpartition("/")[0]
        last = [part for part in base.split("/") if "{" not in part][-1:]
        assert all(part in text for part in last)
