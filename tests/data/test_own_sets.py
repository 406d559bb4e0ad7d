"""Sets that the user describes."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from spcnet import labels
from spcnet.config import DataConfig, DomainSpec, OwnSet, RunConfig, from_dict
from spcnet.data.catalog import dataset
from spcnet.data.datasets import open_domain
from spcnet.data.folders import SetFolder
from spcnet.errors import DataError, SpcnetError, UsageError
from tests.support.sets import OWN, mine, opened, own_data, refusal, write

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


SMALL = (32, 64)


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
    pairs, table, *_ = SetFolder("mytown", tmp_path, own_data(tmp_path, own)).find_split("all")
    assert [(pair.name, pair.image.parent.name, pair.label.name) for pair in pairs] == [
        ("a_1", "cam_a", "1.png"),
        ("b_1", "cam_b", "1.png"),
        ("b_2", "cam_b", "2.png"),
    ]
    assert table == {5: "road"}


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
