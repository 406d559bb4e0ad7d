"""The reference's numbers that come with the project are whole, and small enough to come with it."""

import fnmatch
import json
import re

import pytest

from tests import golden


def test_every_golden_file_that_the_index_describes_is_there() -> None:
    described = set(json.loads((golden.GOLDEN / "index.json").read_text())["files"])
    stored = {path.name for path in golden.GOLDEN.iterdir() if path.suffix in (".npz", ".ckpt")}
    assert described == stored
    assert all(
        golden.settings(name).get("source") or name.startswith("ms_small") or "official" in name for name in stored
    )
    assert sum((golden.GOLDEN / name).stat().st_size for name in stored) < 2e6


def test_every_golden_file_is_read_by_a_test() -> None:
    source = "\n".join(path.read_text() for path in golden.GOLDEN.parent.rglob("test_*.py"))
    read = re.findall(r'golden\.(?:files|load)\("([^"]+)"\)|golden\.GOLDEN / "([^"]+)"', source)
    patterns = ["".join(found) for found in read]
    stored = [path.name for path in golden.GOLDEN.iterdir() if path.suffix in (".npz", ".ckpt")]
    assert not [name for name in stored if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def test_two_networks_come_with_the_project() -> None:
    shapes = json.loads((golden.NETWORKS / "keys.json").read_text())
    assert set(shapes) == {path.stem for path in golden.NETWORKS.glob("*.safetensors")}
    assert len(shapes) >= 2


def test_a_golden_file_that_is_missing_is_an_error_and_no_skipped_test() -> None:
    with pytest.raises(FileNotFoundError, match="the checkout is incomplete"):
        golden.files("nothing_*.npz")
