"""Mapillary's classes, and the configuration in its folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spcnet import label_tables, labels
from spcnet.config import DataConfig
from spcnet.data.catalog import DATASETS
from spcnet.data.fixture import write_fixture
from spcnet.errors import DataError
from tests.support.sets import opened, refusal

CITY = labels.label_space("cityscapes19")


SMALL = (32, 64)


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
    assert len(label_tables.MAPILLARY_V20) == len(set(label_tables.MAPILLARY_V20)) == 124
    for rein in (False, True):
        new, old = (
            dict(zip(names, label_tables.mapillary(names, rein=rein).values(), strict=True))
            for names in (label_tables.MAPILLARY_V20, label_tables.MAPILLARY_V12)
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
    (tmp_path / "config.json").write_text(json.dumps({"labels": [{"name": n} for n in label_tables.MAPILLARY_V12]}))
    assert len(opened("mapillary", data)) == 1
    (tmp_path / "config.json").write_text(
        json.dumps({"labels": [{"name": n} for n in label_tables.MAPILLARY_V12[:65]]})
    )
    assert "it has 65 labels" in refusal(DataError, "mapillary", data)
    (tmp_path / "config.json").write_text(json.dumps({"labels": [{"name": n} for n in label_tables.MAPILLARY_V20]}))
    assert "'construction--barrier--ambiguous' at 2" in refusal(DataError, "mapillary", data)


def test_a_missing_configuration_of_version_2_is_asked_for(tmp_path: Path) -> None:
    written = write_fixture("mapillary", tmp_path, layout="as downloaded, v2.0", images_per_split=1, size=SMALL)
    written[0].unlink()
    assert "config_v2.0.json does not exist" in refusal(
        DataError, "mapillary", DataConfig(roots={"mapillary": str(tmp_path)})
    )
