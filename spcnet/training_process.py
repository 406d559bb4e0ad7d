"""Trainings as processes of their own: starting them, ending them, and their last lines."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from spcnet.config import RunConfig, from_dict, recipe_path
from spcnet.engine import records
from spcnet.engine.progress import bars
from spcnet.errors import DataError, SpcnetError
from spcnet.files import read_yaml
from spcnet.signals import handle_signals

PROGRAM = (sys.executable, "-m", "spcnet")
"""What each training is a process of."""
LOG_FILE = "log.txt"
"""In a run's folder: what its process said."""
STOPPED = 130
"""Exit code of a command that the user stopped, after it has saved."""
POLL_SECONDS = 0.5
"""Between two looks at how far trainings are."""


class TrainingProcess:
    """A training at work.

    Args:
        arguments: of the program `spcnet`.
        log: file that what it says is appended to.
        environment: what differs from this process's own.
        handles: open files that it holds as long as it lives.

    Raises:
        DataError: the log cannot be written, or the process not be started.
    """

    def __init__(
        self, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str], handles: Sequence[int] = ()
    ) -> None:
        self.log = log
        self.ending = False
        """Whether it received the request to end."""
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                self._said_from = file.tell()
                self._process = subprocess.Popen(
                    [*PROGRAM, *arguments],
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    pass_fds=handles,
                    start_new_session=True,  # a Ctrl-C on the terminal is handed on once, by `stopped_together`
                )
        except OSError as error:
            raise DataError(f"cannot start a training in {log.parent}: {error.strerror or error}") from error

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def code(self) -> int | None:
        """How it ended, as `subprocess` says it; None while it is at work."""
        return self._process.poll()

    def stop(self, *, again: bool = False) -> None:
        """Ask it to save and end; once, unless the user asks `again`, which ends it at once."""
        if self._process.poll() is None and (again or not self.ending):
            self.ending = True
            self._process.terminate()

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

    def was_stopped(self) -> bool:
        """Whether it ended on request."""
        return self.code() in (STOPPED, -signal.SIGTERM)

    def last_words(self) -> str:
        """What went wrong, in the process's own words."""
        code = self.code()
        if code is not None and code < 0:
            return f"ended by signal {-code}"
        with self.log.open("rb") as file:
            file.seek(self._said_from)
            text = file.read().decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip()]
        messages = [line.removeprefix("spcnet: ") for line in lines if line.startswith("spcnet: ")]
        return (messages or lines or ["it said nothing"])[-1]


@contextmanager
def stopped_together(running: list[TrainingProcess]) -> Iterator[list[int]]:
    """Hand a Ctrl-C, and a request to end, on to every training; gives a list that is no longer empty after one.

    However the block is left, no training goes on behind the user's back.
    """
    received: list[int] = []

    def hand_on(number: int) -> None:
        received.append(number)
        for process in running:
            process.stop(again=True)

    with handle_signals(("SIGINT", "SIGTERM", "SIGHUP"), hand_on):
        try:
            yield received
        finally:
            for process in running:
                process.stop()
            for process in running:
                process.wait()


class RecipeTraining:
    """The training of a recipe in a process, in a folder with its method's name below `output`; `jobs` trainings share the processor."""

    def __init__(self, recipe: str, output: Path, *, iterations: int | None, seed: int, jobs: int) -> None:
        path = recipe_path(recipe)
        config = from_dict(RunConfig, read_yaml(path, "recipe"))
        self.method, self.folder = config.method, output / config.method
        self.iterations = iterations or config.training.iterations
        self.arguments = ["train", f"--config={path}", f"--output={self.folder}", "--overwrite"]
        self.arguments += [f"--training.seed={seed}", f"--training.iterations={self.iterations}"]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, cores // jobs)
        self.process: TrainingProcess | None = None

    def start(self) -> TrainingProcess:
        """Start the process.

        Raises:
            DataError: the folder cannot be written.
        """
        threads = os.environ.get("OMP_NUM_THREADS") or str(self.threads)
        self.process = TrainingProcess(
            self.arguments, log=self.folder / LOG_FILE, environment={"OMP_NUM_THREADS": threads}
        )
        return self.process

    def progress(self) -> tuple[int, dict[str, float]]:
        """Finished iterations as far as they were logged, and the losses there."""
        lines = records.read_lines(self.folder / records.TRAIN_FILE)
        return (lines[-1]["iteration"], {"loss": lines[-1]["loss"]}) if lines else (0, {})

    def failure(self) -> SpcnetError | None:
        """What went wrong in a process that has ended, in its own words; None where nothing did."""
        code = self.process.code() if self.process is not None else 0
        if self.process is None or not code:
            return None
        error = SpcnetError(f"training {self.method}: {self.process.last_words()}")
        error.exit_code = STOPPED if self.process.was_stopped() else max(code, 1)
        return error


def run_together(trainings: Sequence[RecipeTraining], console: Console) -> None:
    """Run trainings beside each other and show how far they are; if one fails, the others are stopped, too.

    Raises:
        SpcnetError: what the first that failed said; where all were stopped, how each goes on.
    """
    titles = [f"train {training.method}" for training in trainings]
    running: list[TrainingProcess] = []
    with stopped_together(running), bars(console, titles, [t.iterations for t in trainings]) as shows:
        running.extend(training.start() for training in trainings)
        seen, failed = [-1] * len(trainings), False
        while any(process.code() is None for process in running):
            time.sleep(POLL_SECONDS)
            for i, (training, show) in enumerate(zip(trainings, shows, strict=True)):
                done, losses = training.progress()
                if done != seen[i]:
                    show(done, losses)
                    seen[i] = done
            if not failed and any(training.failure() is not None for training in trainings):
                failed = True
                for process in running:
                    process.stop()
    failures = [failure for training in trainings if (failure := training.failure()) is not None]
    # Those that were stopped because another failed say only that.
    causes = [failure for failure in failures if failure.exit_code != STOPPED] or failures
    if causes:
        error = SpcnetError("\n".join(str(failure) for failure in causes))
        error.exit_code = causes[0].exit_code
        raise error
