"""The page of old names beside new ones is right: what it calls old is gone or warns, what it calls new is there."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from spcnet.cli import OLD_COMMANDS, OLD_OPTIONS

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text()


def rows(heading: str) -> list[tuple[list[str], list[str]]]:
    """Names in the two columns of the table below a heading."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    cells = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", old), re.findall(r"`([^`]+)`", new)) for old, new in cells]


def thing(name: str) -> object:
    """A module, or what a module has by that name; None where there is neither."""
    home, _, last = name.rpartition(".")
    try:
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
    except ModuleNotFoundError:
        pass
    try:
        return getattr(importlib.import_module(home), last, None)
    except ModuleNotFoundError:
        return None


@pytest.mark.parametrize("heading", ["Python modules", "Functions and classes"])
def test_new_names_are_there_and_old_ones_are_not(heading: str) -> None:
    table = rows(heading)
    assert len(table) > 5
    for old, new in table:
        for name in new:
            assert thing(name) is not None, name
        for name in old:
            assert thing(f"spcnet.{name}") is None or f"spcnet.{name}" in new, name


def test_commands_and_options_that_still_work_are_on_the_page() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for old, new in OLD_COMMANDS.items():
        assert any(f"`spcnet {old}" in line and f"`spcnet {new}" in line for line in lines), old
    for command, renamed in OLD_OPTIONS.items():
        names = (command, *(old for old, new in OLD_COMMANDS.items() if new == command))
        for old, new in renamed.items():
            assert any(
                f"`{old}`" in line and f"`{new}`" in line and any(f"`{name}`" in line for name in names)
                for line in lines
            ), (command, old)
