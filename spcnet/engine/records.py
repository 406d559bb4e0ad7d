"""Records of a run: settings, environment, one JSON line for each log step and each evaluation."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from spcnet import distributed
from spcnet.config import RunConfig, as_dict
from spcnet.errors import DataError
from spcnet.files import remove_unfinished, write_text

CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
TRAIN_FILE = "train.jsonl"
RESULTS_FILE = "results.jsonl"
SKIPPED_FILE = "skipped.jsonl"
"""Images that a run could not read and went on without, with `data.on_bad_image: skip`."""


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line to a file, create it if needed, and flush it to the disk.

    An incomplete last line, left by a killed process, is removed.

    Raises:
        DataError: no permission or no space; the file is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, because a buffer would retry a failed write when the file is closed.
        with path.open("ab", buffering=0) as file:
            end = _whole_lines(path)
            file.truncate(end)
            try:
                line = (json.dumps(record) + "\n").encode()
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror or error}): check the folder's permissions and the free space"
        ) from error


def _whole_lines(path: Path) -> int:
    """Size of a file up to the end of its last complete line, in bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 1))
        if file.read(1) in (b"\n", b""):
            return size
        file.seek(0)
        return file.read().rfind(b"\n") + 1


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; invalid lines, such as the last one of a killed process, are skipped."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                records.append(record)
    return records


def keep_until(path: Path, iteration: int) -> None:
    """Drop the lines after an iteration, so that a resumed run does not log the same steps twice."""
    if path.is_file():
        kept = [record for record in read_lines(path) if record.get("iteration", math.inf) <= iteration]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def open_run(config: RunConfig) -> None:
    """Create the run's folder, write its settings and environment, and remove unfinished files of killed processes.

    Raises:
        DataError: the folder cannot be written.
    """
    remove_unfinished(config.output)
    write_text(config.output / CONFIG_FILE, yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True))
    write_text(config.output / ENVIRONMENT_FILE, json.dumps(surroundings(), indent=2) + "\n")


def surroundings() -> dict[str, Any]:
    """Versions, machine, command and time, to reproduce the run."""
    return {
        "spcnet": _version("spcnet"),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "lightning": _version("lightning"),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git_commit": git_commit(),
        "command": " ".join(sys.argv),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def environment() -> dict[str, Any]:
    """`surroundings` without the command line, for public records."""
    return {name: value for name, value in surroundings().items() if name != "command"}


def git_commit() -> str | None:
    """Commit of the running source, with a `+` for uncommitted changes; None outside a repository."""
    folder = Path(__file__).parent
    try:
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=folder, capture_output=True, timeout=10, check=False
        )
        if tracked.returncode != 0:  # an installed package inside somebody else's repository
            return None
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
