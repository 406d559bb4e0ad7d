"""What README, docs and CONTRIBUTING name exists: files, folders, modules, functions, make targets, recipes, links."""

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from spcnet.config import recipe_path
from spcnet.errors import UsageError

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "recipes").rglob("*.md")])
PRESENT = [page for page in PAGES if page.name != "LOG.md"]
"""The pages that speak of what is; the log names what was there at the time."""
BASES = (ROOT, ROOT / "spcnet", ROOT / "recipes")
"""Below what the pages name files: the checkout, the package, the recipes."""
NOT_HERE = ("runs/", "dist/", "build/", "docs/_build", "spcnet/recipes")
"""What begins paths that a user's own program runs make, or a build."""


def spans(text: str) -> Iterator[str]:
    """The code within sentences; blocks of code are left out."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from (" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))


def paths_of(page: Path) -> Iterator[str]:
    """Paths of the project that a page names: in sentences, and in its trees of folders."""
    text = page.read_text()
    for span in spans(text):
        first = span.split()[0]
        if first in ("python", ".venv/bin/python") and len(span.split()) > 1:
            first = span.split()[1]
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*(/[\w.*-]*)*", first):
            continue
        head = first.partition("/")[0]
        inside = "/" in first and any((base / head).is_dir() for base in BASES)
        if (inside or re.search(r"\w\.(py|md|toml)$", first)) and not first.startswith(NOT_HERE):
            yield first
    yield from re.findall(r"(?:python |^ {2,}|[ ,])((?:[\w-]+/)*\w+\.py)\b", "\n".join(blocks(text)), re.MULTILINE)


def blocks(text: str) -> list[str]:
    """The contents of the blocks of code that are no program."""
    return re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def exists(path: str, page: Path) -> bool:
    """Whether a named path lies in the checkout; a folder's data sets are named as their modules are, without an ending."""
    path = path.rstrip("/.")
    return any(
        list(base.glob(path)) or list(base.glob(f"{path}.yaml"))
        for base in (*BASES, page.parent, ROOT / "spcnet" / "data")
    )


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_path_on_a_page_exists(page: Path) -> None:
    missing = sorted({path for path in paths_of(page) if not exists(path, page)})
    assert not missing, f"{page.name} names {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file) if file else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there.read_text())):
            missing.append(target)
    assert not missing, f"{page.name} links to {missing}"


def anchors(text: str) -> set[str]:
    """What the headings of a page are linked by."""
    titles = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def names_of(page: Path) -> set[str]:
    """Modules, functions and classes of the package that a page names, with their dots."""
    text = page.read_text()
    documented = set(re.findall(r"^\.\. auto\w+:: (\S+)$", text, re.MULTILINE))
    return documented | set(re.findall(r"(?<![\w./-])spcnet(?:\.[A-Za-z_]\w*)+(?![\w.-]*/)", " ".join(spans(text))))


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_name_of_the_package_on_a_page_can_be_imported(page: Path) -> None:
    missing = []
    for name in names_of(page):
        words = name.split(".")
        for length in range(len(words), 0, -1):
            try:
                found: object = importlib.import_module(".".join(words[:length]))
            except ModuleNotFoundError:
                continue
            try:
                for word in words[length:]:
                    found = getattr(found, word)
            except AttributeError:
                missing.append(name)
            break
    assert not missing, f"{page.name} names {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_make_target_and_recipe_on_a_page_exists(page: Path) -> None:
    text = page.read_text()
    code = "\n".join([*spans(text), *blocks(text)])
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert not set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) - targets
    missing = []
    for recipe in re.findall(r"--config[ =]([\w./-]+)", code):
        try:
            recipe_path(recipe)
        except UsageError:
            if not recipe.endswith(("NAME", ".yaml")):
                missing.append(recipe)
    assert not missing, f"{page.name} names the recipes {missing}"


def test_what_is_to_be_added_goes_where_contributing_says() -> None:
    rows = dict(re.findall(r"^\| an? ([\w ]+) \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    registries = {
        "method": "METHODS", "data set": "DATASETS", "label space": "SPACES", "backbone": "BACKBONES", "decoder": "DECODERS",
    }  # fmt: skip
    for kind, registry in registries.items():
        places = re.findall(r"`([\w/]+(?:\.py|/))`", rows[kind])
        files = [ROOT / "spcnet" / place / ("__init__.py" if place.endswith("/") else "") for place in places]
        defining = [file for file in files if re.search(rf"^{registry}\b", file.read_text(), re.MULTILINE)]
        assert defining, f"{registry} stands in none of {places}, where CONTRIBUTING sends who adds a {kind}"


def test_the_pages_are_full_of_names() -> None:
    assert sum(len(list(paths_of(page))) for page in PAGES) > 100
    assert sum(len(names_of(page)) for page in PAGES) > 30


def test_the_architecture_page_shows_the_layers_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert "```\n" + "\n".join(layers) + "\n```" in (ROOT / "docs" / "architecture.md").read_text()
