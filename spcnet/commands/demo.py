"""`spcnet demo`."""

from pathlib import Path
from typing import Any

from rich.console import Console

RECIPES = ("demo/baseline", "demo/spcnet")


def demo(
    *, output: Path = Path("runs/demo"), iterations: int | None = None, seed: int = 0, console: Console | None = None
) -> dict[str, dict[str, Any]]:
    """Train baseline and SPC-Net on generated streets, test on unseen weather, write a report.

    Args:
        output: Folder for the two runs and report.html; runs that are there are replaced.
        iterations: Training steps of each network; the recipe's by default.
        seed: Seed of everything random.
        console: Where progress is shown; nowhere by default.

    Returns:
        The last evaluation of each run, by method.

    Raises:
        SpcnetError: a training failed or was stopped; with the message of its process.
    """
    from spcnet.engine import records
    from spcnet.studies.report import report
    from spcnet.training_process import RecipeTraining, run_together

    console = console or Console(quiet=True)
    trainings = [RecipeTraining(name, output, iterations=iterations, seed=seed, jobs=len(RECIPES)) for name in RECIPES]
    run_together(trainings, console)
    report(
        [one.folder for one in trainings],
        output=output / "report.html",
        title="Generated streets: trained on two styles, tested on six others",
        console=console,
    )
    return {one.method: records.read_lines(one.folder / records.RESULTS_FILE)[-1] for one in trainings}
