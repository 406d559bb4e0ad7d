"""What surrounds the package: workflows, forms, hooks and the image, which no program here runs, say what is there."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PYTHONS = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
TOOLS = {re.match(r"[\w-]+", line)[0] for line in PROJECT["optional-dependencies"]["dev"]}  # type: ignore[index]


def load(path: Path) -> dict[str, Any]:
    content = yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # "on" stays a word
    assert isinstance(content, dict)
    return content


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


# Workflows


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_well_formed_and_asks_for_no_more_rights_than_it_needs(path: Path) -> None:
    workflow = load(path)
    assert workflow["name"] == path.stem
    assert workflow["on"]
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert ("uses" in job) != ("runs-on" in job), name
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= workflow["jobs"].keys(), name
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@\S+", step["uses"]), step
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_what_is_there(path: Path) -> None:
    for step in steps(load(path)):
        for line in step.get("run", "").splitlines():
            words = shlex.split(line) or [""]
            if words[0] == "make":
                assert set(words[1:]) <= TARGETS, line
            if "/" in words[0] and not words[0].startswith("fresh/"):
                assert (ROOT / words[0]).is_file(), line


def test_every_workflow_uses_a_python_that_the_package_supports() -> None:
    assert PYTHONS[0] == PROJECT["requires-python"].removeprefix(">=")
    matrix = load(ROOT / ".github/workflows/tests.yml")["jobs"]["gate"]["strategy"]["matrix"]["python"]
    assert set(matrix) <= set(PYTHONS)
    assert {PYTHONS[0], PYTHONS[-1]} <= set(matrix)
    for path in WORKFLOWS:
        for step in steps(load(path)):
            version = step.get("with", {}).get("python-version", PYTHONS[-1])
            assert version in (*PYTHONS, "${{ matrix.python }}"), path.name
        for name in re.findall(r"PYTHON: python(3\.\d+)", path.read_text()):
            assert name in PYTHONS


def test_the_tests_of_a_change_are_the_gate() -> None:
    workflow = load(ROOT / ".github/workflows/tests.yml")
    assert {"push", "pull_request", "workflow_call"} <= workflow["on"].keys()
    assert ".ci/run" in [step.get("run") for step in steps(workflow)]


def test_only_a_tested_and_checked_tag_is_published_and_without_a_password() -> None:
    workflow = load(ROOT / ".github/workflows/release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    publish = workflow["jobs"]["publish"]
    assert set(publish["needs"]) == {"tests", "build"}
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert not any("run" in step for step in publish["steps"]), "nothing else has the right to publish"
    commands = "\n".join(step.get("run", "") for step in steps(workflow))
    assert "-t sdist -t wheel" in commands
    assert "twine check --strict" in commands
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_the_site_that_is_published_is_the_one_that_make_docs_builds() -> None:
    workflow = load(ROOT / ".github/workflows/docs.yml")
    assert "make docs" in [step.get("run") for step in steps(workflow)]
    (site,) = (step["with"]["path"] for step in steps(workflow) if "upload-pages" in step.get("uses", ""))
    assert f" docs {site}" in (ROOT / "Makefile").read_text()
    assert workflow["jobs"]["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}


# Forms, hooks, updates


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_is_one_that_the_host_accepts(path: Path) -> None:
    form = load(path)
    assert form["name"]
    assert form["description"]
    assert form["labels"]
    names = [part["id"] for part in form["body"]]
    assert len(names) == len(set(names))
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert part["attributes"]["label"]
        assert (part["type"] in ("dropdown", "checkboxes")) == ("options" in part["attributes"])
    assert any(part.get("validations", {}).get("required") == "true" for part in form["body"])


def test_the_forms_are_for_bugs_features_and_additions() -> None:
    assert [path.stem for path in FORMS] == ["bug", "feature", "method-or-data-set"]
    assert "CHANGELOG.md" in (ROOT / ".github/pull_request_template.md").read_text()


def test_the_hooks_run_the_tools_of_make_check() -> None:
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    programs = [hook["entry"].split()[0] for hook in repository["hooks"]]
    assert programs == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]
    checks = (ROOT / "Makefile").read_text()
    for hook in repository["hooks"]:
        program = Path(hook["entry"].split()[0]).name
        assert program in TOOLS
        assert f"$(VENV)/bin/{program}" in checks
        assert hook["language"] == "system"


def test_updates_are_proposed_for_what_has_a_file_here() -> None:
    ecosystems = {entry["package-ecosystem"] for entry in load(ROOT / ".github/dependabot.yml")["updates"]}
    assert ecosystems == {"github-actions", "pip", "docker"}


@pytest.mark.parametrize("name", ["SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_there_is_a_private_way_to_the_maintainers(name: str) -> None:
    assert "Report a vulnerability" in (ROOT / name).read_text()
    assert name in (ROOT / "CONTRIBUTING.md").read_text()


# The image


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def arguments() -> dict[str, str]:
    return dict(value.split("=", 1) for name, value in instructions() if name == "ARG")


def test_the_image_is_made_of_instructions_that_exist() -> None:
    names = [name for name, _ in instructions()]
    assert set(names) <= {"ARG", "FROM", "ENV", "RUN", "COPY", "USER", "WORKDIR", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert names[: names.index("FROM") + 1] == ["ARG", "FROM"]
    before, after = dict(instructions())["FROM"], arguments()
    assert re.findall(r"\$\{(\w+)\}", before) == ["PYTHON"]
    used = {word for name, text in instructions() if name == "RUN" for word in re.findall(r"\$\{(\w+)\}", text)}
    assert used == {"TORCH_INDEX", "EXTRAS", "USER_ID"} == after.keys() - {"PYTHON"}


def test_the_image_has_a_python_and_extras_of_the_package() -> None:
    assert arguments()["PYTHON"] in PYTHONS
    assert set(arguments()["EXTRAS"].split(",")) <= PROJECT["optional-dependencies"].keys()
    assert arguments()["TORCH_INDEX"].endswith("/cpu")


def test_what_the_image_copies_is_there_and_all_that_the_wheel_is_built_from() -> None:
    sources = [word for name, text in instructions() if name == "COPY" for word in text.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {
        *hatch["packages"],
        *hatch["force-include"],
        PROJECT["readme"],
        *PROJECT["license-files"],
        "pyproject.toml",
    }
    assert set(sources) == wanted
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == wanted


def test_what_the_image_copies_is_enough_to_build_the_package(tmp_path: Path) -> None:
    for name, text in instructions():
        if name == "COPY":
            *sources, target = text.split()
            for source in sources:
                place = tmp_path / target.strip("/") / ("" if (ROOT / source).is_dir() else source)
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                place.parent.mkdir(parents=True, exist_ok=True)
                copy(ROOT / source, place)
    (installing,) = (text for name, text in instructions() if name == "RUN" and "${EXTRAS}" in text)
    assert '"/src[${EXTRAS}]"' in installing
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    built = subprocess.run(build, cwd=tmp_path / "src", capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert list(tmp_path.glob("spcnet-*.whl"))


def test_the_image_runs_the_program_as_an_ordinary_user_in_a_folder_of_its_own() -> None:
    content = instructions()
    names = [name for name, _ in content]
    values = dict(content)
    assert values["ENTRYPOINT"] == '["spcnet"]'
    assert values["ENTRYPOINT"].strip('[]"') in PROJECT["scripts"]
    assert values["USER"] not in ("root", "0")
    assert all(name != "RUN" for name in names[names.index("USER") :])
    (creating,) = (text for name, text in content if name == "RUN" and "useradd" in text)
    assert creating.split()[-1] == values["USER"]
    assert f"--home-dir {values['WORKDIR']}" in creating


def test_the_page_about_installing_names_every_argument_of_the_image() -> None:
    page = (ROOT / "docs/install.md").read_text()
    for name in arguments():
        assert f"`{name}`" in page
    assert f"-p {dict(instructions())['EXPOSE']}:" in page
