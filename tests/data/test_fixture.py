from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spcnet import label_tables, labels
from spcnet.config import DataConfig, DomainSpec
from spcnet.data import splits
from spcnet.data.catalog import DATASETS
from spcnet.data.datasets import FolderSet, open_domain
from spcnet.data.fixture import write_fixture
from spcnet.data.folders import SetFolder
from spcnet.errors import DataError, SpcnetError, UsageError
from spcnet.synthesis import streets

ON_DISK = {name: info for name, info in DATASETS.items() if info.layouts}
EVERY_LAYOUT = [(name, number) for name, info in ON_DISK.items() for number in range(len(info.layouts))]
SMALL = (32, 64)


def opened(domain: str, root: Path, space: str = "cityscapes19") -> FolderSet:
    data = DataConfig(roots={DomainSpec.parse(domain).dataset: str(root)})
    plain = open_domain(DomainSpec.parse(domain), data=data, space=labels.label_space(space), training=True)
    assert isinstance(plain, FolderSet)
    return plain


@pytest.mark.parametrize(("name", "number"), EVERY_LAYOUT, ids=str)
def test_each_set_in_each_layout_is_found_whole_and_has_the_labels_of_its_streets(
    tmp_path: Path, name: str, number: int
) -> None:
    info, layout = ON_DISK[name], ON_DISK[name].layouts[number]
    written = [path for path in write_fixture(name, tmp_path, layout=number, size=SMALL) if path.suffix != ".json"]
    numbers = {image: i for i, image in enumerate(written[::2])}
    space = labels.label_space("idd7" if name == "idd_lite" else "cityscapes19")
    parts = layout.only or info.splits
    images: set[Path] = set()
    for split in parts:
        for subset in (None, *info.subsets):
            domain = opened(f"{name}{f'/{subset}' if subset else ''}@{split}", tmp_path, space.name)
            count = len({pair.image for pair in domain.pairs})
            full = split == "full" and len(parts) > 1
            assert count == 2 * (len(info.subsets) if info.subsets and not subset else 1) * (
                len(parts) - 1 if full else 1
            )
            images |= {pair.image for pair in domain.pairs}
            if not full:
                listing = SetFolder(name, tmp_path).survey(split, subset or next(iter(info.subsets), None))
                assert listing.layout.table == layout.table or callable(layout.table)
                assert not listing.orphans
            known = set(domain.table[domain.table < len(space)].tolist())
            for i, pair in enumerate(domain.pairs):
                sample = domain.read(i)
                scene = streets.generate(
                    numbers[pair.image],
                    style=list(streets.STYLES)[numbers[pair.image] % len(streets.STYLES)],
                    seed=0,
                    size=SMALL,
                )
                expected = labels.remap(label_tables.CITYSCAPES_TRAIN_IDS, space, name)[scene.label]
                expected[~np.isin(expected, list(known))] = labels.IGNORE
                assert np.array_equal(sample.label, expected)
                assert len(np.unique(expected)) > 3
                assert np.abs(sample.image.astype(int) - scene.image).mean() < (
                    1e-9 if pair.image.suffix == ".png" else 8
                )
    assert images == set(numbers)


@pytest.mark.parametrize("name", sorted(ON_DISK))
def test_every_split_and_subset_of_a_set_is_in_its_first_layout(tmp_path: Path, name: str) -> None:
    info = ON_DISK[name]
    write_fixture(name, tmp_path, images_per_split=1, size=SMALL)
    for split in info.splits:
        for subset in (None, *info.subsets):
            assert len(opened(f"{name}{f'/{subset}' if subset else ''}@{split}", tmp_path, "idd7")) >= 1


@pytest.mark.parametrize("name", sorted(ON_DISK))
def test_the_layouts_of_a_set_have_names_of_their_own(name: str) -> None:
    names = [layout.name for layout in ON_DISK[name].layouts]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "layout", "mode", "depth"),
    [
        ("gtav", "as downloaded", "P", 8),
        ("gtav", "RobustNet", "RGB", 8),
        ("gtav", "mmsegmentation, DAFormer", "L", 8),
        ("synthia", "as downloaded", "RGB", 16),
        ("mapillary", "as downloaded, v1.2", "P", 8),
        ("cityscapes", "ids", "L", 8),
    ],
)
def test_label_images_have_the_form_of_the_real_ones(
    tmp_path: Path, name: str, layout: str, mode: str, depth: int
) -> None:
    written = write_fixture(name, tmp_path, layout=layout, images_per_split=1, size=SMALL)
    assert Image.open(written[1]).mode == mode
    assert written[1].read_bytes()[24] == depth


def test_photos_of_a_numbered_set_are_those_of_its_splits(tmp_path: Path) -> None:
    written = write_fixture("gtav", tmp_path, layout="as downloaded", images_per_split=1, size=SMALL)
    assert [path.name for path in written[::2]] == [
        f"{min(splits.gtav()[split])}.png" for split in ("train", "val", "test")
    ]


def test_other_seeds_give_other_streets(tmp_path: Path) -> None:
    one, same, other = (
        write_fixture("kitti", tmp_path / str(i), seed=seed, size=SMALL)[0].read_bytes()
        for i, seed in enumerate((0, 0, 1))
    )
    assert one == same
    assert one != other


def test_nothing_is_written_into_a_folder_that_holds_something(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        write_fixture("kitti", tmp_path)
    with pytest.raises(DataError, match="is a file"):
        write_fixture("kitti", mine)
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize(
    ("name", "how", "hint"),
    [
        ("streets", {}, "is generated"),
        ("gtab", {}, "Did you mean 'gtav'"),
        ("gtav", {"layout": "robustnet"}, "Did you mean 'RobustNet'"),
        ("gtav", {"layout": 5}, "0 to 4"),
        ("gtav", {"layout": "5"}, "0 to 4"),
        ("gtav", {"images_per_split": 0}, "1..2000"),
        ("gtav", {"size": (8, 64)}, "must each lie in"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(tmp_path: Path, name: str, how: dict, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        write_fixture(name, tmp_path, **how)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


OUTER = [(name, outer) for name, info in ON_DISK.items() for outer in (*info.outer, *info.parts)]


@pytest.mark.parametrize(("name", "outer"), OUTER)
def test_a_set_is_found_in_the_folder_of_its_download(tmp_path: Path, name: str, outer: str) -> None:
    write_fixture(name, tmp_path / outer, images_per_split=1, size=SMALL)
    assert len(opened(name, tmp_path, "idd7")) >= 1


def test_cityscapes_is_found_with_one_download_unpacked_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write_fixture("cityscapes", tmp_path / "made", size=SMALL)
    (tmp_path / "gtFine_trainvaltest").mkdir()
    (tmp_path / "made" / "gtFine").rename(tmp_path / "gtFine_trainvaltest" / "gtFine")
    (tmp_path / "made" / "leftImg8bit").rename(tmp_path / "leftImg8bit")
    assert len(opened("cityscapes", tmp_path)) == 2


def test_both_parts_of_idd_are_read(tmp_path: Path) -> None:
    for seed, part in enumerate(("IDD_Segmentation", "idd20kII")):
        write_fixture("idd", tmp_path / part, seed=seed, size=SMALL)
    domain = opened("idd", tmp_path)
    samples = [domain.read(i) for i in range(len(domain))]
    assert len(samples) == 4
    assert len({sample.name for sample in samples}) == 4
    assert len({sample.image.tobytes() for sample in samples}) == 4
    listing = SetFolder("idd", tmp_path).survey("train")
    assert (listing.bare, listing.orphans) == ([], [])


def test_a_set_without_its_labels_says_where_they_may_lie(tmp_path: Path) -> None:
    for path in write_fixture("gtav", tmp_path, layout="as downloaded", images_per_split=1, size=SMALL)[1::2]:
        path.unlink()
    with pytest.raises(SpcnetError) as caught:
        opened("gtav", tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert "has 1 images" in text
    for layout in ON_DISK["gtav"].layouts:
        assert f"({layout.name})" in text
