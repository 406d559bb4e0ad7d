"""Where the folder of a set is searched."""

from pathlib import Path

import pytest

from spcnet.config import DataConfig
from spcnet.data.roots import root_of
from spcnet.errors import DataError
from tests.support.sets import refusal

SMALL = (32, 64)


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
    assert "data.roots.kitti" in refusal(DataError, "kitti", data)
