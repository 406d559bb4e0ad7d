"""The demo: baseline and SPC-Net trained on generated streets, tested on weather that neither has seen.

Each training is a process of its own, `spcnet train` with a recipe of `recipes/demo`, and has its share of the
processor: two that train beside each other on a core each are done sooner than one after the other on both.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from spcnet.config import RunConfig, from_dict, recipe_path
from spcnet.engine import records
from spcnet.engine.progress import bars
from spcnet.errors import SpcnetError
from spcnet.files import read_yaml
from spcnet.studies import report
from spcnet.studies.subject import Record
from spcnet.training_process import LOG_FILE, STOPPED, TrainingProcess, stopped_together

RECIPES = ("demo/baseline", "demo/spcnet")
LOOK_EVERY = 0.5
"""Seconds between two looks at how far the trainings are."""


def demo(
    *, output: Path, iterations: int | None = None, seed: int = 0, console: Console | None = None
) -> dict[str, Record]:
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
    report.report(
        [training.folder for training in trainings],
        output=output / "report.html",
        title="Generated streets: trained on two styles, tested on six others",
        console=console,
    )
    return {training.method: records.read_lines(training.folder / records.RESULTS_FILE)[-1] for training in trainings}


class Training:
    """One of the two trainings.

    Args:
        recipe: name of the recipe.
        output: folder in which the run gets a folder with its method's name.
        iterations: training steps; the recipe's by default.
        seed: of everything random.
        beside: how many trainings share the processor.
    """

    def __init__(self, recipe: str, output: Path, *, iterations: int | None, seed: int, beside: int) -> None:
        path = recipe_path(recipe)
        config = from_dict(RunConfig, read_yaml(path, "recipe"))
        self.method, self.folder = config.method, output / config.method
        self.iterations = iterations or config.training.iterations
        self.arguments = ["train", f"--config={path}", f"--output={self.folder}", "--overwrite"]
        self.arguments += [f"--training.seed={seed}", f"--training.iterations={self.iterations}"]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, cores // beside)
        self.process: TrainingProcess | None = None

    def start(self) -> TrainingProcess:
        """Begin.

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


def watch(trainings: Sequence[Training], console: Console) -> None:
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
            time.sleep(LOOK_EVERY)
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
    telling = [failure for failure in failures if failure.exit_code != STOPPED] or failures
    if telling:
        error = SpcnetError("\n".join(str(failure) for failure in telling))
        error.exit_code = telling[0].exit_code
        raise error
