"""How a data set of one's own may be written: in Python, in a recipe, in a file of its own, on the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from spcnet import cli
from spcnet.commands.data import data_of
from spcnet.config import OwnSet, RunConfig, as_dict, from_dict, read_color, read_sets
from spcnet.errors import DataError, SpcnetError, UsageError
from spcnet.files import with_text_keys
from spcnet.studies import sweep

NAMES = {(128, 64, 128): "road", (0, 0, 142): "car", (0, 0, 0): "void"}

SPELLINGS = {
    "lists as keys": "{[128, 64, 128]: road, [0, 0, 142]: car, [0, 0, 0]: void}",
    "plain keys": "\n      128, 64, 128: road\n      0,0,142: car\n      0, 0, 0: void",
    "lists in quotes": """{"[128, 64, 128]": road, "(0, 0, 142)": car, '[0,0,0]': void}""",
    "hexadecimal": """{"#804080": road, "#00008e": car, '#000000': void}""",
    "classes first": "{road: [128, 64, 128], car: [[0, 0, 142]], void: '#000000'}",
    "classes first, in quotes": """{road: "128, 64, 128", car: ["#00008E"], void: [[0, 0, 0]]}""",
}


def own(**options: Any) -> OwnSet:
    return OwnSet(**{"images": "a/*.png", "labels": "b/*.png", "splits": ["all"]} | options)


def written(folder: Path, text: str, name: str = "sets.yaml", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_colours_mean_the_same_in_every_spelling(tmp_path: Path, spelling: str) -> None:
    text = f"""
  town:
    images: a/*.png
    labels: [b/*.png, c/*.png]
    splits: [all]
    colors: {SPELLINGS[spelling]}
"""
    alone = read_sets(written(tmp_path, text))
    recipe = read_sets(written(tmp_path, "data:\n sets:" + text.replace("\n", "\n  "), "recipe.yaml"))
    assert alone == recipe
    town = alone["town"]
    assert town.color_table == NAMES
    assert town.label_patterns == ["b/*.png", "c/*.png"]
    # What is stored is read by any program, and again by this one.
    stored = as_dict(RunConfig(data=from_dict(RunConfig, {"data": {"sets": {"town": as_dict(town)}}}).data))
    for text in (yaml.safe_dump(stored), json.dumps(stored)):
        assert from_dict(RunConfig, yaml.safe_load(text)).data.sets["town"] == town
        assert read_sets(written(tmp_path, text, "config.yaml")) == {"town": town}


def test_colours_are_written_as_tuples_in_python() -> None:
    town = own(colors={(128, 64, 128): "road", "car": [[0, 0, 142], "#00008f"]})
    assert town.color_table == {(128, 64, 128): "road", (0, 0, 142): "car", (0, 0, 143): "car"}
    assert town == own(colors={"128, 64, 128": "road", "0, 0, 142": "car", "0, 0, 143": "car"})


@pytest.mark.parametrize(
    "spoilt",
    ["#80408", "128, 64", "128, 64, 256", "-1, 0, 0", "1, 2, 3, 4", "[1, 2", [1, 2, True], [1, 2, 3.0], None, 804080],
)
def test_what_is_no_colour_is_none(spoilt: object) -> None:
    assert read_color(spoilt) is None


@pytest.mark.parametrize(
    ("colors", "words"),
    [
        ({"128, 64": "road"}, "write each colour"),
        ({"road": []}, "write each colour"),
        ({"road": [[1, 2, 3], [1, 2]]}, "write each colour"),
        ({804080: "road"}, "in quotes"),
        ({"1, 2, 3": "road", "car": [1, 2, 3]}, r"gives \(1, 2, 3\) to road and to car"),
    ],
)
def test_colours_that_make_no_sense_are_refused(colors: dict[Any, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        own(colors=colors)


def test_a_set_needs_numbers_or_colours_and_every_pattern_the_same_stars() -> None:
    with pytest.raises(UsageError, match="table is empty, and so is colors"):
        own()
    for labels in (["b/*.png", "c/*/*.png"], ["b/*.png", "../c/*.png"], ["b/*.png", "/c/*.png"], []):
        with pytest.raises(UsageError, match="labels"):
            own(table={0: "road"}, labels=labels)
    assert own(table={0: "road", 65535: "void"}).table[65535] == "void"


def test_a_file_of_sets_may_begin_with_a_byte_order_mark_and_have_umlauts(tmp_path: Path) -> None:
    text = "dorf: {images: 'Straße/*.jpg', labels: 'Maske/*.png', table: {0: road}, splits: [all]}\r\n"
    for encoding in ("utf-8", "utf-8-sig"):
        assert read_sets(written(tmp_path, text, encoding=encoding))["dorf"].images == "Straße/*.jpg"


TOWN = "town: {images: a/*.png, labels: b/*.png, table: {0: road}, splits: [all]}\n"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", DataError, "is empty: it must map names to values"),
        ("{}", UsageError, "describes no data set"),
        ("- town", DataError, "holds a list: it must map names to values"),
        ("town: [", DataError, "is no YAML"),
        ("town: a/*.png", UsageError, "town is 'a/*.png'"),
        ("data: {sources: [gtav]}", UsageError, "recipe without data.sets"),
        ("data: {sets: {}}", UsageError, "recipe without data.sets"),
        ("method: spcnet", UsageError, "method is 'spcnet'"),
        (TOWN + "park: {images: a/*.png, table: {0: road}}", UsageError, "park: OwnSet lacks labels"),
        (
            TOWN.replace("table", "tabel"),
            UsageError,
            "town: unknown option tabel in OwnSet: it has images, labels, table, splits, colors",
        ),
        (TOWN.replace("table", "1"), UsageError, "town: unknown option 1 in OwnSet"),
        ("sets: {}", UsageError, "describes no data set"),
        (TOWN.replace("table: {0: road}", "colors: {road: #804080}"), DataError, "is no YAML"),
        (TOWN + TOWN, DataError, "has town in line 1 and in line 2"),
        (TOWN.replace("0: road", "0: road, 0: car"), DataError, "has 0 in line 1 and in line 1"),
        ("a: &a [*a]", DataError, "contains itself, by an alias"),
    ],
)
def test_a_file_of_sets_that_makes_no_sense_is_one_line(
    tmp_path: Path, text: str, kind: type[SpcnetError], words: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(kind, match=re.escape(words)) as caught:
        read_sets(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sets_may_stand_below_sets_and_one_may_have_that_name(tmp_path: Path) -> None:
    below = "".join(f"  {line}\n" for line in TOWN.splitlines())
    assert read_sets(written(tmp_path, f"sets:\n{below}")) == read_sets(written(tmp_path, TOWN))
    assert [*read_sets(written(tmp_path, TOWN.replace("town", "sets")))] == ["sets"]


def test_a_file_of_sets_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, written(tmp_path, TOWN.replace("a/", "ä/"), encoding="latin-1")):
        with pytest.raises(DataError, match=re.escape(str(path))) as caught:
            read_sets(path)
        assert "\n" not in str(caught.value)


def test_text_without_lists_as_keys_stays_as_it_is() -> None:
    text = "# how it was\na: {b: [1, 2], 1e-3: .5}\n"
    assert with_text_keys(text) is text
    changed = yaml.safe_load(with_text_keys("x: 0x10\ny: {[1, 2]: 1e-3, '5': 5}\nz: &n {[3, 4, 5]: no}\nw: *n"))
    assert changed == {"x": 16, "y": {"1, 2": "1e-3", "5": 5}, "z": {"3, 4, 5": False}, "w": {"3, 4, 5": False}}


WRONG_TYPES = {
    TOWN.replace("[all]", "{all: 1}"): "town: data.sets: splits is {'all': 1}",
    TOWN.replace("b/*.png", "5"): "town: data.sets: the pattern labels is 5",
    TOWN.replace("0: road", "zero: road"): "town: data.sets: table has the numbers ['zero']",
    TOWN.replace("{0: road}", "[road]"): "town: data.sets: table is ['road']",
    TOWN.replace("0: road", "0: no"): "town: data.sets: table is {0: False}",
    TOWN.replace("table: {0: road}", "colors: [road]"): "town: data.sets: colors is ['road']",
    TOWN.replace("table: {0: road}", "colors: {'1, 2, 3': }"): "town: data.sets: colors has '1, 2, 3': None",
    TOWN.replace("table: {0: road}", "colors: {'1, 2, 3': no}"): "town: data.sets: colors has '1, 2, 3': False",
    TOWN.replace("table: {0: road}", "colors: {road: }"): "'road': None: write each colour",
}


def test_values_of_a_wrong_type_are_one_line_where_nothing_else_checks_types(tmp_path: Path) -> None:
    """In a process of its own, for the tests' type checker would refuse them earlier."""
    paths = [written(tmp_path, text, f"{place}.yaml") for place, text in enumerate(WRONG_TYPES)]
    program = """
import sys
from pathlib import Path
from spcnet.config import read_sets
from spcnet.errors import UsageError
for path in sys.argv[1:]:
    try:
        print(read_sets(Path(path)))
    except UsageError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, check=True)
    for path, words, line in zip(paths, WRONG_TYPES.values(), done.stdout.splitlines(), strict=True):
        assert str(path) in line
        assert words in line


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_recipe_is_read_alike_by_the_command_line_by_sweeps_and_by_data_commands(
    tmp_path: Path, spelling: str
) -> None:
    town = f"""
   town:
    images: a/*.png
    labels: [b/*.png, c/*.png]
    splits: [all]
    colors: {SPELLINGS[spelling]}
"""
    recipe = written(tmp_path, f"data:\n  sources: [town, streets/game]\n  sets:{town}", "recipe.yaml")
    expected = read_sets(recipe)
    assert cli.parse(["train", "--config", str(recipe)]).arguments["config"].data.sets == expected
    assert data_of(str(recipe)).sets == expected
    assert sweep._reader(recipe)({"data.workers": "0"}).data.sets == expected
    flow = "{images: a/*.png, labels: [b/*.png, c/*.png], splits: [all], colors: %s}"
    if "\n" not in SPELLINGS[spelling]:
        given = ["train", "--data.sources", "[town]", "--data.sets.town", flow % SPELLINGS[spelling]]
        assert cli.parse(given).arguments["config"].data.sets == expected
