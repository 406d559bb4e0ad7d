"""`spcnet sweep`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console

from spcnet.config import plain_lists
from spcnet.options import REPEATED


@plain_lists
def sweep(
    recipe: str,
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    vary: Annotated[Sequence[str], REPEATED] = (),
    set: Annotated[Sequence[str], REPEATED] = (),
    output: Path = Path("runs/sweep"),
    jobs: int = 1,
    select: Literal["last", "best_on_source", "oracle"] = "last",
    dry_run: bool = False,
    console: Console | None = None,
) -> int:
    """Train a recipe with several methods, seeds and settings, and make a table of them.

    Args:
        recipe: A YAML file, or the name of one that comes with spcnet.
        methods: Methods, spcnet,deeplabv3plus or [spcnet,deeplabv3plus]; the recipe's by default.
        seeds: Seeds, 0,1,2 or [0,1,2]; the recipe's by default.
        vary: An option with its values, training.learning_rate=[0.01,5e-3]; can be given again.
        set: An option with its value in all runs, training.iterations=100; can be given again.
        output: Folder for the runs and their table.
        jobs: Trainings at the same time; on GPUs each has its own.
        select: Which evaluation of a run counts: the last, the best on its sources, or (oracle) the best on the test data.
        dry_run: Only list the runs and what is left to do.
        console: Where progress and the table are shown; nowhere by default.

    Returns:
        0 where every run is done, else 1.

    Raises:
        UsageError, DataError: see the message.
    """
    from spcnet.studies import sweep as sweeps

    console = console or Console(quiet=True)
    planned = sweeps.plan(
        recipe,
        output=output,
        methods=methods,
        seeds=seeds,
        vary={path: sweeps.listed(text) for path, text in sweeps.assigned(vary, "--vary").items()},
        settings=sweeps.assigned(set, "--set"),
    )
    if dry_run:
        sweeps.show_plan(planned, console, jobs=jobs)
        return 0
    summary = sweeps.sweep(planned, output=output, jobs=jobs, rule=select, console=console)
    return int(any(run["state"] != "done" for run in summary["runs"]))
