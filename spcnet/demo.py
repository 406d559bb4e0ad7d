"""The demo: baseline and SPC-Net trained on generated streets, tested on weather that neither has seen.

Each training is a process of its own, `spcnet train` with a recipe of `recipes/demo`, and has its share of the
processor: two that train beside each other on a core each are done sooner than one after the other on both.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console

from spcnet import commands
from spcnet.config import RunConfig, from_dict, recipe_path
from spcnet.engine import records
from spcnet.engine.progress import bars
from spcnet.errors import SpcnetError

RECIPES = ("demo/baseline", "demo/spcnet")
LOOK_EVERY = 0.5
"""Seconds between two looks at how far the trainings are."""
_STOPPED = 130


def demo(
    *, output: Path, iterations: int | None = None, seed: int = 0, console: Console | None = None
) -> dict[str, commands.Record]:
    """Train baseline and SPC-Net with the same budget on generated streets, test both on unseen weather, report.

    Args:
        output: folder for the two runs and report.html; runs in it that are there are replaced.
        iterations: training steps of each; the recipe's by default.
        seed: of everything random.
        console: where progress is shown; nowhere by default.

    Returns:
        The last evaluation of each run, by method.

    Raises:
        SpcnetError: a training failed or was stopped; says what it said.
    """
    console = console or Console(quiet=True)
    trainings = [Training(name, output, iterations=iterations, seed=seed, beside=len(RECIPES)) for name in RECIPES]
    watch(trainings, console)
    commands.report(
        [training.folder for training in trainings],
        output=output / "report.html",
        title="Generated streets: trained on two styles, tested on six others",
        console=console,
    )
    return {training.method: records.read_lines(training.folder / records.RESULTS_FILE)[-1] for training in trainings}


class Training:
    """A training in a process of its own.

    Args:
        recipe: name of the recipe.
        output: folder in which the run gets a folder with its method's name.
        iterations: training steps; the recipe's by default.
        seed: of everything random.
        beside: how many trainings share the processor.
    """

    def __init__(self, recipe: str, output: Path, *, iterations: int | None, seed: int, beside: int) -> None:
        path = recipe_path(recipe)
        config = from_dict(RunConfig, yaml.safe_load(path.read_text()))
        self.method, self.folder = config.method, output / config.method
        self.iterations = iterations or config.training.iterations
        self.arguments = ["train", f"--config={path}", f"--output={self.folder}", "--overwrite"]
        self.arguments += [f"--training.seed={seed}", f"--training.iterations={self.iterations}"]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, cores // beside)
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process's end
        self.process: subprocess.Popen[str] | None = None
        self.asked = False
        """Whether it was asked to end."""

    def start(self) -> None:
        """Begin; what the process says is kept until it ends."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "spcnet", *self.arguments],
            env={"OMP_NUM_THREADS": str(self.threads), **os.environ},
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            text=True,
            start_new_session=True,  # a Ctrl-C on the terminal is handed on once, by `watch`
        )

    def stop(self, *, again: bool = False) -> None:
        """Ask the process to save and end; once, for a second time would end it while it saves.

        Args:
            again: the user asked for a second time, and means it.
        """
        if self.process is not None and self.process.poll() is None and (again or not self.asked):
            self.asked = True
            self.process.terminate()

    def progress(self) -> tuple[int, dict[str, float]]:
        """Finished iterations as far as they were logged, and the losses there."""
        lines = records.read_lines(self.folder / records.TRAIN_FILE)
        return (lines[-1]["iteration"], {"loss": lines[-1]["loss"]}) if lines else (0, {})

    def running(self) -> bool:
        """Whether the process is still at work."""
        return self.process is not None and self.process.poll() is None

    def failure(self) -> SpcnetError | None:
        """What went wrong in a process that has ended, in its own words; None where nothing did."""
        code = self.process.poll() if self.process is not None else 0
        if not code:
            return None
        self.said.seek(0)
        lines = [line for line in self.said.read().splitlines() if line.strip()]
        told = [line.removeprefix("spcnet: ") for line in lines if line.startswith("spcnet: ")]
        text = (told or lines or ["it said nothing"])[-1] if code > 0 else f"ended by signal {-code}"
        error = SpcnetError(f"training {self.method}: {text}")
        error.exit_code = _STOPPED if code == -signal.SIGTERM else max(code, 1)
        return error


def watch(trainings: Sequence[Training], console: Console) -> None:
    """Run trainings beside each other and show how far they are; if one fails, the others are stopped, too.

    Raises:
        SpcnetError: what the first that failed said; where all were stopped, how each goes on.
    """
    titles = [f"train {training.method}" for training in trainings]
    with _stopped_together(trainings), bars(console, titles, [t.iterations for t in trainings]) as shows:
        for training in trainings:
            training.start()
        seen, stopped = [-1] * len(trainings), False
        while any(training.running() for training in trainings):
            time.sleep(LOOK_EVERY)
            for i, (training, show) in enumerate(zip(trainings, shows, strict=True)):
                done, losses = training.progress()
                if done != seen[i]:
                    show(done, losses)
                    seen[i] = done
            if not stopped and any(training.failure() is not None for training in trainings):
                stopped = True
                for training in trainings:
                    training.stop()
    failures = [failure for training in trainings if (failure := training.failure()) is not None]
    # Those that were stopped because another failed say only that.
    telling = [failure for failure in failures if failure.exit_code != _STOPPED] or failures
    if telling:
        error = SpcnetError("\n".join(str(failure) for failure in telling))
        error.exit_code = telling[0].exit_code
        raise error


@contextmanager
def _stopped_together(trainings: Sequence[Training]) -> Iterator[None]:
    """Hand a Ctrl-C, and a request to end, on to every training; they save, and `watch` sees them end.

    However the block is left, no training goes on behind the user's back.
    """

    def hand_on(number: int, frame: FrameType | None) -> None:
        for training in trainings:
            training.stop(again=True)

    before: dict[int, Any] = {}
    try:
        for watched in (getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)):
            before[watched] = signal.signal(watched, hand_on)
    except ValueError:  # not the main thread: signals are somebody else's
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for training in trainings:
            training.stop()
            if training.process is not None:
                training.process.wait()
