import json
import os
import re
import tempfile
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spcnet import labels
from spcnet.config import DataConfig, DomainSpec, OwnSet, RunConfig, from_dict
from spcnet.data.cache import write_cache
from spcnet.data.catalog import DATASETS, dataset
from spcnet.data.datasets import open_domain
from spcnet.data.doctor import check
from spcnet.data.fixture import write_fixture
from spcnet.data.folders import filled, find_pairs, placed, read_excluded, root_of, survey, write_excluded
from spcnet.errors import DataError, SpcnetError, UsageError
from tests.support.sets import opened, refusal, write

CITY = labels.label_space("cityscapes19")
DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
SMALL = (32, 64)


@pytest.fixture(autouse=True)
def no_data_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPCNET_DATA", raising=False)


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


# Mapillary's classes


def test_mapillary_s_classes_are_those_of_robustnet() -> None:
    """RobustNet's own table, by number."""
    groups = [
        (13, 24, 41),
        (2, 15),
        (17,),
        (6,),
        (3,),
        (45, 47),
        (48,),
        (50,),
        (30,),
        (29,),
        (27,),
        (19,),
        (20, 21, 22),
    ]
    groups += [(55,), (61,), (54,), (58,), (57,), (52,)]
    expected = {i: k for k, group in enumerate(groups) for i in group}
    table = labels.remap(dict(DATASETS["mapillary"].native), CITY, "mapillary")
    assert [int(table[i]) for i in range(66)] == [expected.get(i, labels.IGNORE) for i in range(66)]
    assert (table[66:] == labels.UNKNOWN).all()


def test_rein_s_classes_differ_from_robustnet_s_where_its_tool_says() -> None:
    table, other = (labels.remap(dict(DATASETS[n].native), CITY, n) for n in ("mapillary", "mapillary_rein"))
    changed = {i: int(other[i]) for i in range(66) if table[i] != other[i]}
    assert changed == {7: 0, 8: 0, 10: 0, 14: 0, 23: 0, 41: 255, 9: 1, 11: 1, 44: 5, 46: 7, 49: 7}


def test_version_2_tells_124_things_apart_each_as_1_2_would() -> None:
    assert len(labels.MAPILLARY_V20) == len(set(labels.MAPILLARY_V20)) == 124
    for rein in (False, True):
        new, old = (
            dict(zip(names, labels.mapillary(names, rein=rein).values(), strict=True))
            for names in (labels.MAPILLARY_V20, labels.MAPILLARY_V12)
        )
        assert all(new[name] == meaning for name, meaning in old.items() if name in new)
        assert set(new.values()) & set(CITY.classes) == set(CITY.classes)


def test_mapillary_rein_is_looked_for_where_mapillary_lies(tmp_path: Path) -> None:
    written = write_fixture("mapillary", tmp_path / "mapillary", images_per_split=1, size=SMALL)
    Image.fromarray(np.full(SMALL, 7, np.uint8)).save(written[1])  # a bike lane
    for data in (DataConfig(root=str(tmp_path)), DataConfig(roots={"mapillary": str(tmp_path / "mapillary")})):
        assert np.unique(opened("mapillary@train", data).read(0).label).tolist() == [labels.IGNORE]
        assert np.unique(opened("mapillary_rein@train", data).read(0).label).tolist() == [0]
        assert np.unique(opened("mapillary@train", data, "idd7").read(0).label).tolist() == [0]
    (tmp_path / "mapillary").rename(tmp_path / "mapillary_rein")
    assert len(opened("mapillary_rein", DataConfig(root=str(tmp_path)))) == 1


def test_the_order_of_version_2_is_read_from_its_configuration(tmp_path: Path) -> None:
    written = write_fixture("mapillary", tmp_path, layout="as downloaded, v2.0", images_per_split=1, size=SMALL)
    names = ["construction--flat--road", "nature--sky", "object--vehicle--car"]
    written[0].write_text(json.dumps({"labels": [{"name": name, "color": [0, 0, 0]} for name in names]}))
    for value, expected in ((0, 0), (1, 10), (2, 13)):
        Image.fromarray(np.full(SMALL, value, np.uint8)).save(written[2])
        data = DataConfig(roots={"mapillary": str(tmp_path)})
        assert np.unique(opened("mapillary@train", data).read(0).label).tolist() == [expected]


BAD_CONFIGURATIONS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b"\xff\xfe",
    b'{"labels": null}',
    b'{"labels": []}',
    b'{"labels": {}}',
    b'{"labels": "abc"}',
    b'{"labels": [1, 2]}',
    b'{"labels": [{"readable": "Road"}]}',
    b'{"labels": [{"name": 7}]}',
    b'{"labels": [{"name": "construction--flat--rod"}]}',
    b'{"labels": [{"name": "evil\\nline' + b"x" * 999 + b'"}]}',
    json.dumps({"labels": [{"name": "nature--sky"}] * 300}).encode(),
    b"[" * 100_000,
    b'{"labels": ' + b"9" * 10_000 + b"}",
]


@pytest.mark.parametrize("content", BAD_CONFIGURATIONS, ids=range(len(BAD_CONFIGURATIONS)))
@pytest.mark.parametrize("layout", ["as downloaded, v1.2", "as downloaded, v2.0"])
def test_a_broken_configuration_of_mapillary_is_answered_in_one_line(
    tmp_path: Path, layout: str, content: bytes
) -> None:
    write_fixture("mapillary", tmp_path, layout=layout, images_per_split=1, size=SMALL)
    path = tmp_path / ("config_v2.0.json" if "v2.0" in layout else "config.json")
    path.write_bytes(content)
    text = refusal(DataError, "mapillary", DataConfig(roots={"mapillary": str(tmp_path)}))
    assert str(path) in text
    assert len(text) < len(str(path)) + 400


def test_a_configuration_of_version_1_2_confirms_the_table(tmp_path: Path) -> None:
    write_fixture("mapillary", tmp_path, images_per_split=1, size=SMALL)
    data = DataConfig(roots={"mapillary": str(tmp_path)})
    (tmp_path / "config.json").write_text(json.dumps({"labels": [{"name": n} for n in labels.MAPILLARY_V12]}))
    assert len(opened("mapillary", data)) == 1
    (tmp_path / "config.json").write_text(json.dumps({"labels": [{"name": n} for n in labels.MAPILLARY_V12[:65]]}))
    assert "it has 65 labels" in refusal(DataError, "mapillary", data)
    (tmp_path / "config.json").write_text(json.dumps({"labels": [{"name": n} for n in labels.MAPILLARY_V20]}))
    assert "'construction--barrier--ambiguous' at 2" in refusal(DataError, "mapillary", data)


def test_a_missing_configuration_of_version_2_is_asked_for(tmp_path: Path) -> None:
    written = write_fixture("mapillary", tmp_path, layout="as downloaded, v2.0", images_per_split=1, size=SMALL)
    written[0].unlink()
    assert "config_v2.0.json does not exist" in refusal(
        DataError, "mapillary", DataConfig(roots={"mapillary": str(tmp_path)})
    )


# Roots


def test_the_root_of_a_set_comes_from_the_nearest_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("own", "joint/kitti", "environment/kitti"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.setenv("SPCNET_DATA", str(tmp_path / "environment"))
    own, joint = {"kitti": str(tmp_path / "own")}, str(tmp_path / "joint")
    assert root_of("kitti", DataConfig(roots=own, root=joint)) == tmp_path / "own"
    assert root_of("kitti", DataConfig(root=joint)) == tmp_path / "joint" / "kitti"
    assert root_of("kitti", DataConfig()) == tmp_path / "environment" / "kitti"
    (tmp_path / "joint" / "kitti").rmdir()
    assert root_of("kitti", DataConfig(root=joint)) == tmp_path / "environment" / "kitti"


def test_a_set_that_lies_nowhere_is_answered_with_every_way_to_say_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (DataConfig(), DataConfig(root=str(tmp_path))):
        text = refusal(DataError, "kitti", data)
        assert "data.roots.kitti" in text
        assert "data.root " in text
        assert "SPCNET_DATA" in text
    assert str(tmp_path / "kitti") in text
    monkeypatch.setenv("SPCNET_DATA", str(tmp_path / "env"))
    assert str(tmp_path / "env" / "kitti") in refusal(DataError, "kitti", data)


def test_a_root_given_for_a_set_is_not_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "kitti").mkdir()
    data = DataConfig(roots={"kitti": str(tmp_path / "gone")}, root=str(tmp_path))
    assert "it comes from data.roots.kitti" in refusal(DataError, "kitti", data)


# Which label belongs to which photo


def test_half_converted_labels_are_passed_over_for_the_whole_ones(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"images/0000{i}.jpg")
    write_fixture("gtav", tmp_path / "a", layout="as downloaded", size=SMALL)
    pairs, table = find_pairs("gtav", tmp_path / "a", split="train")
    first = pairs[0].label
    write(first.with_name(f"{first.stem}_labelTrainIds.png"), 13)
    assert find_pairs("gtav", tmp_path / "a", split="train") == (pairs, table)
    for pair in pairs:
        write(pair.label.with_name(f"{pair.label.stem}_labelTrainIds.png"), 13)
    assert find_pairs("gtav", tmp_path / "a", split="train")[1] == labels.CITYSCAPES_TRAIN_IDS
    listing = survey("gtav", tmp_path / "a", split="train")
    assert listing.orphans == []


def test_what_is_missing_on_either_side_is_listed(tmp_path: Path) -> None:
    write_fixture("cityscapes", tmp_path, layout="ids", images_per_split=4, size=SMALL)
    pairs, _ = find_pairs("cityscapes", tmp_path, split="train")
    pairs[0].label.unlink()
    pairs[2].image.unlink()
    listing = survey("cityscapes", tmp_path, split="train")
    assert listing.bare == [pairs[0]]
    assert listing.orphans == [pairs[2].label]
    assert listing.pairs == [pairs[1], pairs[3]]
    with pytest.raises(DataError, match=r"1 of 3 images .* have no label"):
        find_pairs("cityscapes", tmp_path, split="train")


def test_instance_labels_beside_the_classes_are_not_labels_without_photos(tmp_path: Path) -> None:
    write_fixture("idd_lite", tmp_path, size=SMALL)
    pairs, _ = find_pairs("idd_lite", tmp_path, split="val")
    write(pairs[0].label.with_name("x_inst_label.png"))
    assert survey("idd_lite", tmp_path, split="val").orphans == []


def test_a_photo_in_two_formats_counts_once(tmp_path: Path) -> None:
    written = write_fixture("kitti", tmp_path, size=SMALL)
    write(written[0].with_suffix(".jpg"))
    pairs, _ = find_pairs("kitti", tmp_path, split="train")
    assert [pair.image for pair in pairs] == written[::2]


def test_hidden_files_and_folders_are_not_looked_at(tmp_path: Path) -> None:
    written = write_fixture("cityscapes", tmp_path, size=SMALL)
    write(written[0].with_name("._" + written[0].name))
    write(written[0].parent.parent / ".trash" / written[0].name)
    assert len(find_pairs("cityscapes", tmp_path, split="train")[0]) == 2


def test_names_are_told_apart_whatever_the_folders(tmp_path: Path) -> None:
    for stem in ("a_b/c", "a/b_c", "d/e"):
        write(tmp_path / f"leftImg8bit/train/{stem}_leftImg8bit.jpg")
        write(tmp_path / f"gtFine/train/{stem}_gtFine_labelIds.png")
    names = [pair.name for pair in find_pairs("cityscapes", tmp_path, split="train")[0]]
    assert len(set(names)) == 3
    assert "d_e" in names


def test_linked_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    write_fixture("cityscapes", tmp_path / "set", size=SMALL)
    for inside in ("leftImg8bit", "gtFine"):
        elsewhere = tmp_path / f"elsewhere_{inside}"
        (tmp_path / "set" / inside / "train" / "town").rename(elsewhere)
        (tmp_path / "set" / inside / "train" / "town").symlink_to(elsewhere)
        (elsewhere / "loop").symlink_to(tmp_path / "set" / inside / "train")
        (tmp_path / "set" / inside / "train" / "up").symlink_to("..")
    assert len(find_pairs("cityscapes", tmp_path / "set", split="train")[0]) == 2


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fixture("kitti", tmp_path, size=SMALL)

    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    text = refusal(DataError, "kitti", DataConfig(roots={"kitti": str(tmp_path)}))
    assert "cannot list the folder" in text
    assert "Permission denied" in text


def test_a_subset_without_images_says_how_their_names_begin(tmp_path: Path) -> None:
    for path in write_fixture("camvid", tmp_path, size=SMALL):
        if path.name.startswith("0001TP"):
            path.unlink()
    text = refusal(DataError, "camvid/dusk", DataConfig(roots={"camvid": str(tmp_path)}))
    assert "camvid/dusk@train has no images" in text
    assert "the names beginning with 0001TP" in text


# Labels that are not made yet


def polygons(root: Path, part: str = "", *, town: str = "201", name: str = "frame0001", end: str = ".png") -> Path:
    """A photo as Cityscapes and IDD have it, and its polygons; where its label should lie."""
    write(root / part / f"leftImg8bit/train/{town}/{name}_leftImg8bit{end}")
    made = root / part / f"gtFine/train/{town}/{name}_gtFine_polygons.json"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text("{}")
    return made.with_name(f"{name}_gtFine_")


def test_the_label_that_is_missing_is_that_of_the_photo_s_own_part(tmp_path: Path) -> None:
    for part, end in (("IDD_Segmentation", ".png"), ("idd20kII", ".jpg")):
        label = polygons(tmp_path, part, end=end)
        if part == "IDD_Segmentation":
            write(label.with_name(f"{label.name}labelcsTrainIds.png"))
    data = DataConfig(roots={"idd": str(tmp_path)})
    text = refusal(DataError, "idd", data)
    wanted = tmp_path / "idd20kII/gtFine/train/201/frame0001_gtFine_labelcsTrainIds.png"
    assert f"whose label should be {wanted}." in text
    assert f"Polygons are there (1, the first {tmp_path}/idd20kII/gtFine/" in text
    assert f"createLabels.py --datadir {tmp_path / 'idd20kII'} --id-type csTrainId --num-workers" in text
    report = check("idd", tmp_path)
    assert report.problems[0].detail == f"{wanted.relative_to(tmp_path).as_posix()} is missing"
    assert "createLabels.py" in report.notes[0]
    wanted.with_name("frame0001_gtFine_labellevel3Ids.png").write_bytes(b"")
    (tmp_path / "idd20kII/gtFine/train/201/frame0001_gtFine_polygons.json").unlink()
    assert "labellevel3Ids.png: use one kind of label images for all" in refusal(DataError, "idd", data)


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("idd", "PYTHONPATH=helpers python preperation/createLabels.py --datadir {root} --id-type csTrainId"),
        ("cityscapes", "CITYSCAPES_DATASET={root} csCreateTrainIdLabelImgs"),
    ],
)
@pytest.mark.parametrize("outer", [False, True])
def test_polygons_alone_are_told_of_with_the_tool_that_makes_label_images(
    tmp_path: Path, name: str, tool: str, outer: bool
) -> None:
    part = (DATASETS[name].outer[-1] if name == "cityscapes" else "idd20kII") if outer else ""
    for frame in ("frame0001", "frame0002"):
        polygons(tmp_path, part, name=frame)
    text = refusal(DataError, name, DataConfig(roots={name: str(tmp_path)}))
    assert "has 2 images" in text
    assert "Polygons are there (2, the first" in text
    assert tool.format(root=tmp_path / part) in text


def test_the_tool_for_cityscapes_polygons_is_one_that_is_installed_with_its_package() -> None:
    tools = {point.name for point in entry_points(group="console_scripts")}
    if "csEvalPixelLevelSemanticLabeling" not in tools:
        pytest.skip("cityscapesScripts is not installed")
    (source,) = DATASETS["cityscapes"].sources
    assert source.tool.split()[-1] in tools
    (other,) = DATASETS["nighttime_driving"].sources
    assert find_spec(other.tool.split("python -m ")[1].split()[0])


def test_other_sources_of_label_images_are_told_of(tmp_path: Path) -> None:
    write(tmp_path / "wild/images/a.jpg")
    write(tmp_path / "wild/panoptic/a.png")
    text = refusal(DataError, "wilddash2", DataConfig(roots={"wilddash2": str(tmp_path / "wild")}))
    assert f"pano2sem.py --json_path {tmp_path}/wild/panoptic.json --outp_dir_sem {tmp_path}/wild/semantic" in text
    write(tmp_path / "bdd/images/10k/train/a.jpg")
    (tmp_path / "bdd/labels/sem_seg/polygons").mkdir(parents=True)
    (tmp_path / "bdd/labels/sem_seg/polygons/sem_seg_train.json").write_text("[]")
    text = refusal(DataError, "bdd100k", DataConfig(roots={"bdd100k": str(tmp_path / "bdd")}))
    assert "bdd100k.label.to_mask -m sem_seg" in text
    mine(tmp_path / "mine", "1")
    (tmp_path / "mine/masks/train/1_mask.png").rename(tmp_path / "mine/masks/train/1_mask.json")
    assert "1 files of JSON are there" in refusal(DataError, "mytown", own_data(tmp_path / "mine"))


# Sets of one's own

OWN = OwnSet("photos/{split}/**/*.jpg", "masks/{split}/**/*_mask.png", {0: "void", 1: "road", 7: "car"})


def mine(root: Path, *names: str, split: str = "train", label: int = 7) -> None:
    for name in names:
        write(root / f"photos/{split}/{name}.jpg")
        write(root / f"masks/{split}/{name}_mask.png", label)


def own_data(root: Path, own: OwnSet = OWN, **options: object) -> DataConfig:
    return DataConfig(roots={"mytown": str(root)}, sets={"mytown": own}, **options)


def test_a_set_of_one_s_own_is_opened_like_any_other(tmp_path: Path) -> None:
    mine(tmp_path, "0001", "north/0001", "north/deep/0002")
    mine(tmp_path, "0009", split="val", label=1)
    data = own_data(tmp_path)
    train, test = opened("mytown", data), opened("mytown", data, training=False)
    assert [train.read(i).name for i in range(len(train))] == ["0001", "north_0001", "north_deep_0002"]
    assert np.unique(train.read(1).label).tolist() == [13]
    assert np.unique(test.read(0).label).tolist() == [0]
    assert len(opened("mytown@val", data)) == 1
    foggy = opened("mytown@train+fog", data).read(0)
    assert not np.array_equal(foggy.image, train.read(0).image)
    assert np.array_equal(foggy.label, train.read(0).label)
    assert np.unique(opened("mytown", data, "idd7").read(0).label).tolist() == [3]


def test_a_set_of_one_s_own_lies_where_any_other_may_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine(tmp_path / "mytown", "1")
    assert len(opened("mytown@train", DataConfig(root=str(tmp_path), sets={"mytown": OWN}))) == 1
    monkeypatch.setenv("SPCNET_DATA", str(tmp_path))
    assert len(opened("mytown@train", DataConfig(sets={"mytown": OWN}))) == 1


def test_stars_stand_for_the_same_in_both_patterns_and_for_no_slash(tmp_path: Path) -> None:
    own = OwnSet("cam_*/rgb_*.jpg", "truth/*.d/*.png", {5: "road"}, ["all"])
    for camera, frame in (("a", "1"), ("b", "1"), ("b", "2")):
        write(tmp_path / f"cam_{camera}/rgb_{frame}.jpg")
        write(tmp_path / f"truth/{camera}.d/{frame}.png", 5)
    write(tmp_path / "cam_a/deep/rgb_9.jpg")
    pairs, table = find_pairs("mytown", tmp_path, split="all", data=own_data(tmp_path, own))
    assert [(pair.name, pair.image.parent.name, pair.label.name) for pair in pairs] == [
        ("a_1", "cam_a", "1.png"),
        ("b_1", "cam_b", "1.png"),
        ("b_2", "cam_b", "2.png"),
    ]
    assert table == {5: "road"}


PART = st.text("ab.+()[]$^", min_size=1, max_size=4).filter(lambda text: text.strip("."))


@settings(max_examples=60, deadline=None)
@given(stars=st.lists(PART, min_size=3, max_size=3), fixed=st.lists(PART, min_size=3, max_size=3))
def test_a_pattern_filled_with_what_its_stars_stand_for_is_the_path_that_it_fits(
    stars: list[str], fixed: list[str]
) -> None:
    from spcnet.data.folders import _compiled

    pattern = f"{fixed[0]}/**/{fixed[1]}*/x*{fixed[2]}"
    path = filled(pattern, (f"{stars[0]}/", *stars[1:]))
    folder, expression, deep = _compiled(pattern)
    assert (folder, deep) == (fixed[0], True)
    found = expression.fullmatch(path)
    assert found is not None
    assert filled(pattern, found.groups()) == path


def test_words_in_braces_are_replaced_and_others_stay() -> None:
    assert placed("a/{split}/{x}*.jpg", {"split": ""}, outer="o/p") == "o/p/a/{x}*.jpg"


@pytest.mark.parametrize(
    ("own", "kind", "hint"),
    [
        (OwnSet("p/{split}/*.jpg", "m/{split}/*.png", {0: "raod"}), UsageError, "Did you mean 'road'"),
        (OwnSet("p/{split}/*.jpg", "m/{split}/*.png", {0: "unicorn"}), UsageError, "known are"),
        (OwnSet("p/{split}/**/*.jpg", "m/{split}/*/**.png", {0: "road"}), UsageError, "other stars"),
        (OwnSet("p/{split}/**/*.jpg", "m/{split}/*/a*b*.png", {0: "road"}), UsageError, "in the same order"),
        (
            OwnSet("p/{split}/*.jpeg", "m/{split}/*.png", {0: "road"}),
            DataError,
            "expected p/train/*.jpeg with m/train/*.png",
        ),
    ],
)
def test_a_wrong_description_of_a_set_is_answered_in_one_line(
    tmp_path: Path, own: OwnSet, kind: type[SpcnetError], hint: str
) -> None:
    mine(tmp_path, "1")
    text = refusal(kind, "mytown", own_data(tmp_path, own))
    assert hint in text
    if kind is DataError:
        assert str(tmp_path) in text


def test_a_set_of_one_s_own_takes_no_built_in_name(tmp_path: Path) -> None:
    assert "data.sets.kitti has the name of a built-in" in refusal(
        UsageError, "mytown", DataConfig(sets={"kitti": OWN})
    )
    assert "letters, digits" in refusal(UsageError, "mytown", DataConfig(sets={"my-town": OWN}))
    assert "'mytown'" in refusal(UsageError, "mytwon", own_data(tmp_path))
    assert "known are" in refusal(UsageError, "mytown", DataConfig())
    assert "split of mytown" in refusal(UsageError, "mytown@test", own_data(tmp_path))
    assert "no subsets" in refusal(UsageError, "mytown/day", own_data(tmp_path))
    assert dataset("mytown", own_data(tmp_path)).test_split == "val"


def test_the_recipe_on_the_page_about_data_sets_works_as_it_stands(tmp_path: Path) -> None:
    text = DOCUMENT.read_text()
    values = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    for split in ("train", "val"):
        mine(tmp_path, "north/0001", "north/0002", split=split)
    assert values["data"]["roots"] == {"mytown": "/data/mytown"}
    values["data"]["roots"] = {"mytown": str(tmp_path)}
    config = from_dict(RunConfig, values)
    space = labels.label_space(config.data.space)
    for training, domains in ((True, config.data.sources), (False, config.data.targets)):
        for domain in domains:
            plain = open_domain(DomainSpec.parse(domain), data=config.data, space=space, training=training)
            sample = plain.read(0)
            if "mytown" in domain:
                assert len(plain) == 2
                assert np.unique(sample.label).tolist() == [space.classes.index("car")]


def test_the_program_on_the_page_about_data_sets_works_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0], {})
    assert len(opened("gtav", DataConfig(root="tiny"))) == 2


# Images that are left out


def test_listed_images_are_left_out_and_others_stay(tmp_path: Path) -> None:
    written = write_fixture("cityscapes", tmp_path / "city", images_per_split=3, size=SMALL)
    gone = written[2].relative_to(tmp_path / "city").as_posix()
    written[3].unlink()  # the label of what is left out may be missing
    list_file = tmp_path / "bad.txt"
    write_excluded(list_file, [("cityscapes", gone, "no\tlabel\n at all"), ("kitti", gone, "other set")])
    assert read_excluded([str(list_file)]) == {"cityscapes": frozenset({gone}), "kitti": frozenset({gone})}
    data = DataConfig(roots={"cityscapes": str(tmp_path / "city")}, exclude=[str(list_file)])
    domain = opened("cityscapes@train", data)
    assert [domain.read(i).name for i in range(len(domain))] == ["town_000001", "town_000003"]
    assert gone not in {pair.image.relative_to(tmp_path / "city").as_posix() for pair in domain.pairs}
    assert len(opened("cityscapes@val", data)) == 3


def test_the_page_s_example_of_a_list_is_one(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(re.findall(r"```\n(gtav.*?)```", DOCUMENT.read_text(), re.DOTALL)[0])
    assert read_excluded([str(tmp_path / "list")]) == {"gtav": frozenset({"images/train/12160.png"})}


def test_leaving_out_every_image_is_refused(tmp_path: Path) -> None:
    written = write_fixture("kitti", tmp_path / "set", size=SMALL)
    rows = [("kitti", path.relative_to(tmp_path / "set").as_posix(), "x") for path in written]
    write_excluded(tmp_path / "all", rows)
    data = DataConfig(roots={"kitti": str(tmp_path / "set")}, exclude=[str(tmp_path / "all")])
    assert "data.exclude leaves out every image" in refusal(DataError, "kitti", data)


@pytest.mark.parametrize(
    "content",
    [
        "city\t{path}\twhy\n",
        "\ufeffcity\t{path}\twhy\n",
        "\ufeff# a list\r\ncity\t{path}\twhy\r\n",
        "# a list\rcity\t{path}\twhy\r",
        "city\t./{path}\twhy",
        "city\t{back}\twhy",
        "city\t.\\{back}\twhy",
        "city\t{path}  \twhy  \n  \n",
        "  # a list\n city \t {path}\n",
        "city\t{path}\t",
        "city\t{root}/{path}\twhy",
        "city\t{link}/{path}\twhy",
        "city\t{upper}\twhy",
        "city\t{jpeg}\twhy",
        "city\t{path}\twhy\ncity\t{path}\tagain",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_counts_however_it_was_saved(tmp_path: Path, content: str, encoding: str) -> None:
    for name in ("ä 1", "2"):
        write(tmp_path / f"root/photos/{name}.png")
        write(tmp_path / f"root/masks/{name}.png")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    path = "photos/ä 1.png"
    text = content.format(
        path=path,
        back=path.replace("/", "\\"),
        root=tmp_path / "root",
        link=tmp_path / "link",
        upper=path.replace(".png", ".PNG"),
        jpeg=path.replace(".png", ".jpg"),
    )
    (tmp_path / "list").write_bytes(text.encode(encoding))
    own = OwnSet("photos/*.png", "masks/*.png", {0: "road"}, ["all"])
    data = DataConfig(roots={"city": str(tmp_path / "root")}, sets={"city": own}, exclude=[str(tmp_path / "list")])
    domain = opened("city", data)
    assert [domain.read(i).name for i in range(len(domain))] == ["2"]
    assert domain.remarks == ()


def test_lines_that_name_no_image_and_sets_that_nobody_knows_are_told_of(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for split in ("train", "val"):
        for name in ("1", "2"):
            mine(root, name, split=split)
    lines = [
        "# a list",
        "mytown\tphotos/train/1.jpg\tused",
        "mytown\tphotos/val/1.jpg\tan image of the other split",
        "mytown\tphotos/val/2.JPEG\tone in another spelling",
        "mytown\tphotos/train/9.jpg\tnot there",
        "mytown\tmasks/train/2_mask.png\ta label",
        "mytown\t/elsewhere/photos/train/2.jpg\tnot below the root",
        "mytown\tphotos/train/8.jpg\tnot there",
        "kitti\ttraining/image_2/1.png\ta set that is not used",
        "mytwon\tphotos/train/2.jpg\twrong name",
        "streets\tx.png\tgenerated",
    ]
    (tmp_path / "list").write_text("\n".join(lines))
    data = own_data(root, exclude=[str(tmp_path / "list")])
    assert opened("mytown@train", data).remarks == (
        f"{tmp_path}/list lists 4 images that the data set mytown in {root} does not have, and nothing is left out for them: "
        "line 5 (photos/train/9.jpg), line 6 (masks/train/2_mask.png), line 7 (/elsewhere/photos/train/2.jpg) and 1 more",
        f"{tmp_path}/list lists images of 'mytwon', which is no data set with files: line 10. Did you mean 'mytown'?",
        f"{tmp_path}/list lists images of 'streets', which is no data set with files: line 11",
    )
    assert len(opened("mytown@train", data)) == 1
    report = check("mytown", root, data=data)
    assert len(report.notes) == 3
    assert (report.left_out, report.images) == (3, 1)


def test_a_list_about_a_set_counts_for_its_copy_too(tmp_path: Path) -> None:
    write_fixture("kitti", tmp_path / "set", images_per_split=3, size=SMALL)
    gone = find_pairs("kitti", tmp_path / "set", split="train")[0][1].image.relative_to(tmp_path / "set").as_posix()
    write_excluded(tmp_path / "list", [("kitti", gone, "bad")])
    assert gone.endswith(".png")
    for form in ("jpeg", "raw"):
        write_cache("kitti", tmp_path / "set", tmp_path / form, form=form)
        data = DataConfig(roots={"kitti": str(tmp_path / form)}, exclude=[str(tmp_path / "list")])
        assert (len(opened("kitti", data)), opened("kitti", data).remarks) == (2, ())


@pytest.mark.parametrize(
    "line", ["kitti", "kitti a.png why", "\ta.png\twhy", "kitti\ta/../b.png\twhy", "kitti\ta\\..\\b.png\twhy",
             "kitti\t\twhy", "kitti\t", "kitti\ta.png\twhy\tand", "kitti\ta\x00b.png\twhy"]
)  # fmt: skip
def test_a_malformed_list_is_answered_with_the_line_s_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"# a list\n\nkitti\tfine.png\twhy\n{line}\n")
    with pytest.raises(DataError, match=r"list, line 4: cannot read") as caught:
        read_excluded([str(tmp_path / "list")])
    assert "\n" not in str(caught.value)


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "gone", tmp_path / "binary", tmp_path):
        with pytest.raises(DataError, match=r"which data\.exclude names"):
            read_excluded([str(file)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["kitti", "gtav"]),
            st.lists(
                st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1), min_size=1
            )
            .map("/".join)
            .filter(lambda path: ".." not in path),
            st.text(),
        ),
        max_size=5,
    )
)
def test_a_list_is_read_as_it_was_written(rows: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_excluded(Path(folder) / "list", rows)
        found = read_excluded([str(Path(folder) / "list")])
    assert found == {name: frozenset(path for n, path, _ in rows if n == name) for name in {n for n, _, _ in rows}}
