"""`spcnet robustness`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from spcnet.config import plain_lists


@plain_lists
def robustness(
    models: Sequence[Path],
    *,
    target: str,
    output: Path = Path("robustness"),
    corruptions: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    limit: int = 0,
    worst: int = 6,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    batch_size: int = 8,
    workers: int = 1,
    seed: int = 0,
    accelerator: str = "auto",
    engine: Literal["auto", "torch", "fused", "onnxruntime", "openvino", "tensorrt"] = "torch",
    precision: Literal["f32", "bf16", "int8"] = "f32",
    calibration: str | None = None,
    console: Console | None = None,
) -> Any:
    """Evaluate networks under 19 corruptions and in weather styles, and write a card.

    Args:
        models: Folders of runs, or checkpoint files, of one label space.
        target: Domain to evaluate on, for example cityscapes.
        output: Folder of the card; a later call goes on.
        corruptions: Which corruptions, [fog,snow]; [] for none; all by default.
        styles: Which weather styles, [rain,night]; [] for none; all by default.
        severities: Which severities, each 1..5.
        limit: Most images, spread evenly over the domain; 0 for all.
        worst: How many of the worst cases are shown as pictures.
        roots: Folder of each data set, by its name, beside the first run's own.
        sets: YAML file that describes data sets of your own, by name, beside the first run's own.
        batch_size: Images that a network sees together.
        workers: Processes that corrupt images; 0 for none.
        seed: Random seed for noise, snow and rain.
        accelerator: Where to compute: auto, cpu, cuda or mps.
        engine: What runs the network: torch as it is, fused, onnxruntime, openvino or tensorrt; auto: openvino on a processor where it is installed.
        precision: What the engine computes in: f32, bf16 or int8.
        calibration: Domain or folder of images to calibrate int8 with; each run's sources by default.
        console: Where progress and the tables are shown; nowhere by default.

    Returns:
        The card, a `spcnet.reports.robustness.Card`.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    from spcnet.reports.robustness import render_terminal
    from spcnet.runs import DataOptions, OpenRun
    from spcnet.studies.conditions import conditions
    from spcnet.studies.robustness import PAGE_FILE, CardOptions, robustness_card

    console = console or Console(quiet=True)
    options = CardOptions(
        conditions(corruptions, styles, severities),
        limit,
        worst,
        batch_size,
        workers,
        seed,
        engine=engine,
        precision=precision,
        calibration=calibration,
    )
    runs = [OpenRun(model, DataOptions(roots=roots or {}, sets=sets)) for model in models]
    card = robustness_card(runs, target, options, output, accelerator=accelerator, console=console)
    for table in render_terminal(card):
        console.print(table)
    console.print(f"Wrote the card to {output / PAGE_FILE}", highlight=False, markup=False)
    return card
