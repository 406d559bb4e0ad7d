"""Logging to tracking servers: Weights & Biases and MLflow, if enabled and installed.

A resumed run continues the same run on the server, whose id is in the run's folder. The steps after the last checkpoint
are repeated with the same values, so those that the server already has are skipped.
"""

import importlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from spcnet.config import LoggingConfig, RunConfig, as_dict
from spcnet.errors import DataError, UsageError
from spcnet.files import write_text

TRACKERS_FILE = "trackers.json"
"""File with the run's id on each tracking server."""

PARAMETERS_AT_ONCE, LONGEST_PARAMETER = 100, 500
"""Limits of an MLflow server."""


class Tracker(ABC):
    """A run on a tracking server."""

    name: str
    known: int
    """The last iteration that the server has from an earlier process; -1 for none."""
    errors: tuple[type[Exception], ...]
    """Errors that `log` and `close` raise if the server cannot be reached."""

    @abstractmethod
    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Send figures."""

    @abstractmethod
    def close(self) -> None:
        """End the process's part of the run."""


def check_installed(config: LoggingConfig) -> None:
    """Refuse a tracking server whose package is not installed.

    Raises:
        UsageError: names the option and what to install.
    """
    for name in TRACKERS:
        if getattr(config, name) is not None:
            _package(name)


def open_trackers(config: RunConfig) -> list[Tracker]:
    """Start or continue the run on every server of `config.logging`.

    Raises:
        UsageError: its package is not installed.
        DataError: it does not answer or refuses access; or the run's folder cannot be written.
    """
    with ExitStack() as opened:
        settings = as_dict(config)
        trackers = [
            opened.enter_context(closing(make(settings["logging"][name], config.output, settings)))
            for name, make in TRACKERS.items()
            if settings["logging"][name] is not None
        ]
        opened.pop_all()  # all answered: the caller closes them
    return trackers


class WandbTracker(Tracker):
    """A run of a Weights & Biases project; with `WANDB_MODE=offline` in the surroundings it stays on the disk."""

    name = "wandb"

    def __init__(self, project: str, output: Path, settings: Mapping[str, Any]) -> None:
        wandb = _package(self.name)
        self.errors = (wandb.Error, OSError)
        try:
            self.run = wandb.init(
                project=project,
                id=_stored(output, self.name, project),
                resume="allow",
                name=output.name,
                dir=str(output),
                config=dict(settings),
                settings={"console": "off"},  # otherwise it captures the progress bar
            )
        except self.errors as error:
            raise DataError(
                f"Weights & Biases does not begin a run in logging.wandb {project!r} ({_line(error)}): run `wandb login`, "
                "set WANDB_MODE=offline, or leave the option out"
            ) from error
        _store(output, self.name, project, self.run.id)
        self.known = self.run.step - 1

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Send figures; the server refuses earlier steps, so later figures of a step go to the next one."""
        self.run.log({**values, "iteration": iteration}, step=max(iteration, self.known + 1))

    def close(self) -> None:
        """Send the remaining figures and end."""
        self.run.finish()


class MlflowTracker(Tracker):
    """A run at an MLflow address, in the experiment that `MLFLOW_EXPERIMENT_NAME` names, or the default one."""

    name = "mlflow"

    def __init__(self, address: str, output: Path, settings: Mapping[str, Any]) -> None:
        self.mlflow = _package(self.name)
        self.errors = (self.mlflow.MlflowException, OSError)
        earlier = _stored(output, self.name, address)
        try:
            self.mlflow.set_tracking_uri(address)
            run = self.mlflow.start_run(run_id=earlier, run_name=output.name)
            if earlier is None:
                # The server does not change parameters, and a resumed run may have another accelerator.
                self._log_parameters(_flat(settings))
            history = self.mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
        except self.errors as error:
            raise DataError(
                f"MLflow does not begin a run at logging.mlflow {address!r} ({_line(error)}): check the address and that its "
                "server runs, or leave the option out"
            ) from error
        _store(output, self.name, address, run.info.run_id)
        self.known = max((entry.step for entry in history), default=-1)

    def _log_parameters(self, values: Mapping[str, object]) -> None:
        texts = [(name, str(value)[:LONGEST_PARAMETER]) for name, value in values.items() if str(value)]
        for start in range(0, len(texts), PARAMETERS_AT_ONCE):
            self.mlflow.log_params(dict(texts[start : start + PARAMETERS_AT_ONCE]))

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Send figures; characters that MLflow does not allow in names become underscores."""
        self.mlflow.log_metrics(
            {re.sub(r"[^\w\-. /]", "_", name): value for name, value in values.items()}, step=iteration
        )

    def close(self) -> None:
        """End the run."""
        self.mlflow.end_run()


TRACKERS: dict[str, Callable[[str, Path, Mapping[str, Any]], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}
"""Tracker by option of `LoggingConfig`, which is the package's name; called with address, run folder and settings."""


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"logging.{name} is set, but the package {name} is not installed: pip install {name}, or leave the option out"
        ) from error


def _stored(folder: Path, name: str, where: str | None) -> str | None:
    """The run's id on a server; None if it has none there."""
    entry = _read(folder).get(name)
    return str(entry["run"]) if isinstance(entry, dict) and entry.get("where") == where and "run" in entry else None


def _store(folder: Path, name: str, where: str | None, run: str) -> None:
    write_text(
        folder / TRACKERS_FILE, json.dumps({**_read(folder), name: {"where": where, "run": run}}, indent=2) + "\n"
    )


def _read(folder: Path) -> dict[str, Any]:
    try:
        entries = json.loads((folder / TRACKERS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _flat(values: Mapping[str, Any], above: Sequence[str] = ()) -> dict[str, object]:
    """Settings by their dotted names, as on the command line."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, (*above, name))
        else:
            flat[".".join((*above, name))] = value
    return flat


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
