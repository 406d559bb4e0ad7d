"""The project as a package: what a wheel holds, what the Makefile and the gate do, and that the papers around it agree."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import spcnet
from spcnet.inference.video import OLDEST_PYAV

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the make that runs these tests hands it nothing on."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "PYTHON", "VENV"}
    }
    return subprocess.run(command, cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False)


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as `make wheel` builds it."""
    folder = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(path).decode())


def test_the_wheel_holds_every_module_and_the_marker_of_types(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "spcnet").rglob("*.py")}
    ends = ("css", "js", "csv", "json", "txt")
    data = {path.relative_to(ROOT).as_posix() for end in ends for path in (ROOT / "spcnet").rglob(f"*.{end}")}
    assert len(data) >= 9  # of the report, of the web demo, of generated streets, splits, published results
    assert modules | data | {"spcnet/py.typed"} <= set(wheel.namelist())


def test_the_wheel_holds_every_recipe(wheel: zipfile.ZipFile) -> None:
    recipes = {
        f"spcnet/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "recipes").rglob("*") if path.is_file()
    }
    packed = {name for name in wheel.namelist() if name.startswith("spcnet/recipes/")}
    assert "spcnet/recipes/README.md" in packed
    assert packed == recipes


def test_the_wheel_holds_the_licence_and_nothing_beside_the_package(wheel: zipfile.ZipFile) -> None:
    info = f"spcnet-{PROJECT['version']}.dist-info"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert {name.split("/")[0] for name in wheel.namelist()} == {"spcnet", info}
    data = {".png", ".jpg", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".onnx", ".parquet", ".zip"}
    assert not [name for name in wheel.namelist() if Path(name).suffix in data]


def test_every_extra_with_pyav_wants_one_that_reads_the_colour_matrix() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = {name: line for name, lines in extras.items() for line in lines if re.match(r"av\b", line)}
    assert {"video", "app"} <= set(wanted)
    assert set(wanted.values()) == {f"av>={OLDEST_PYAV}"} == {"av>=17"}


def test_the_wheel_offers_the_extras_and_the_command(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert {"app", "onnx", "hub", "wandb", "mlflow", "dev"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata["Requires-Python"] == ">=3.11"
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "spcnet = spcnet.cli:main" in wheel.read(path).decode()


def test_a_plain_install_brings_no_development_tools(metadata: Message) -> None:
    plain = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert any(line.startswith("torch>=") for line in plain)
    assert not any(
        re.match(r"(pytest|ruff|mypy|hypothesis|gradio|onnx|huggingface|wandb|mlflow)", line) for line in plain
    )


# One version everywhere


def test_the_package_knows_its_version() -> None:
    assert spcnet.__version__ == version("spcnet") == PROJECT["version"]


def test_the_changelog_has_a_section_for_this_version() -> None:
    assert re.search(rf"^## \[{re.escape(PROJECT['version'])}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


# The citation


def test_the_citation_has_what_its_format_requires() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    for work in (citation, *citation["references"]):
        assert work["title"]
        assert work["authors"]
        for author in work["authors"]:
            assert set(author) in ({"name"}, {"given-names", "family-names"}), author
    assert citation["message"]


def test_each_cited_paper_can_be_found() -> None:
    papers = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    assert [paper["title"].split(":")[0].split(" for ")[0] for paper in papers] == [
        "Style Projected Clustering",
        "RobustNet",
        "Encoder-Decoder with Atrous Separable Convolution",
    ]
    for paper in papers:
        assert isinstance(paper["year"], int)
        known = [paper.get("doi", ""), *(identifier["value"] for identifier in paper.get("identifiers", ()))]
        assert any(re.fullmatch(r"10\.\d{4,}/\S+|arXiv:\d{4}\.\d{5}", value) for value in known), paper["title"]


# The Makefile


@needs_make
def test_make_alone_lists_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^make ([\w-]+) +\S", run("make").stdout, re.MULTILINE)
    assert {"demo", "test", "test-slow", "test-all", "check", "wheel", "bench", "clean", "help"} <= set(listed)
    assert sorted(listed) == sorted(phony.split())


@needs_make
@pytest.mark.parametrize(
    ("target", "program"),
    [
        ("demo", "bin/spcnet demo --x"),
        ("test", 'bin/python -m pytest -n auto -m "not slow" --x'),
        ("test-slow", "bin/python -m pytest -n auto -m slow --x"),
    ],
)
def test_the_first_call_installs_and_the_next_does_not(tmp_path: Path, target: str, program: str) -> None:
    venv = tmp_path / "venv"
    call = ("make", "--dry-run", target, f"VENV={venv}", "ARGS=--x")

    first = run(*call)
    assert first.returncode == 0, first.stderr
    assert first.stdout.index("-m venv") < first.stdout.index('".[dev]"') < first.stdout.index(program)

    (venv / "bin").mkdir(parents=True)
    (venv / "bin/pip").touch()
    (venv / ".installed").touch()
    assert run(*call).stdout.strip() == f"{venv}/{program}"

    os.utime(venv / ".installed", (0, 0))  # as if pyproject.toml had been edited since
    again = run(*call).stdout
    assert "-m venv" not in again
    assert '".[dev]"' in again


@needs_make
def test_an_old_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 8, 1); $2"\n')
    old.chmod(0o755)
    refused = run("make", "test", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}")
    assert refused.returncode != 0
    assert f"spcnet needs Python 3.11 or newer, and {old} is not" in refused.stderr
    assert "make PYTHON=" in refused.stderr
    assert not (tmp_path / "venv").exists()


# The gate


@pytest.mark.parametrize(
    ("tests", "slow", "check", "passes"),
    [
        ("echo '12 passed, 1 skipped in 3.0s'", "echo '3 passed in 9.0s'", "true", True),
        ("echo '12 passed in 3.0s'", "echo '3 passed in 9.0s'", "exit 1", False),
        ("echo '1 failed, 11 passed in 3.0s'; exit 2", "echo '3 passed in 9.0s'", "true", False),
        ("echo '13 skipped in 0.1s'", "echo '3 passed in 9.0s'", "true", False),
        ("echo 'no tests ran in 0.1s'; exit 2", "echo '3 passed in 9.0s'", "true", False),
        ("echo '12 passed in 3.0s'", "echo '1 failed, 2 passed in 9.0s'; exit 1", "true", False),
        ("echo '12 passed in 3.0s'", "echo '3 skipped in 0.1s'", "true", False),
    ],
)
def test_the_gate_opens_only_when_tests_ran_and_all_is_well(
    tmp_path: Path, tests: str, slow: str, check: str, passes: bool
) -> None:
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\ncase "$1" in test) {tests};; test-slow) {slow};; check) {check};; *) exit 9;; esac\n')
    make.chmod(0o755)
    gate = run(ROOT / ".ci/run", cwd=tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (gate.returncode == 0) is passes, gate.stdout + gate.stderr


# The repository


def tracked_files() -> list[Path]:
    listing = run("git", "ls-files", "-z") if shutil.which("git") else None
    if listing is None or listing.returncode != 0:
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_place_on_one_machine() -> None:
    place = re.compile(rb"(?<![\w.])/(work|farm|home|root|Users)/")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if b"\0" not in (content := path.read_bytes())
        for number, line in enumerate(content.splitlines(), start=1)
        if place.search(line)
    ]
    assert not found, f"absolute paths of somebody's machine: {', '.join(found)}"


def test_settings_and_reports_load_without_torch() -> None:
    program = "import sys, spcnet.config, spcnet.errors, spcnet.reports; sys.exit('torch' in sys.modules)"
    loaded = run(sys.executable, "-c", program)
    assert loaded.returncode == 0, loaded.stderr or "importing spcnet.config or spcnet.reports loads torch"
