"""`spcnet calibrate`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from spcnet.config import plain_lists
from spcnet.errors import UsageError


@plain_lists
def calibrate(
    model: Path,
    *,
    targets: Sequence[str] | None = None,
    fit_on: Literal["held-out", "train"] = "held-out",
    thresholds: str | None = None,
    corruptions: Sequence[str] | None = (),
    styles: Sequence[str] | None = (),
    severities: Sequence[int] = (2, 5),
    limit: int = 100,
    varied: int = 12,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    batch_size: int = 8,
    seed: int = 0,
    accelerator: str = "auto",
    console: Console | None = None,
) -> dict[str, Any]:
    """Calibrate the confidence of a network on its sources, and measure what it is worth.

    Temperature and thresholds go into the card of the network's file, where predict, app and export find them; a later
    call replaces them.

    Args:
        model: Folder of a run.
        targets: Domains to measure beside the sources, instead of the run's own targets.
        fit_on: Images of the sources to fit on: every other test image, of which the rest are measured, or training images.
        thresholds: Precision wanted of each class, auto:0.95: pixels become void so that those that are left have it on
            the images fitted on; none by default.
        corruptions: In which corruptions to measure, [fog,snow]; null for all; none by default.
        styles: In which weather styles at full strength, [rain,night]; null for all; none by default.
        severities: Severities of the corruptions, each 1..5.
        limit: Most clean images of each domain, spread evenly over it; 0 for all.
        varied: Images of each domain that are shown in every condition; 0 for none.
        roots: Folder of each data set, by its name, beside the run's own.
        sets: YAML file that describes data sets of your own, by name, beside the run's own.
        batch_size: Images that the network sees together.
        seed: Random seed for noise, snow and rain, and for the pixels fitted on.
        accelerator: Where to compute: auto, cpu, cuda or mps.
        console: Where progress and the tables are shown; nowhere by default.

    Returns:
        What is written to `calibration.json` in the run's folder.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    from spcnet.reports.calibration import CALIBRATION_FILE, terminal_tables
    from spcnet.runs import DataOptions, OpenRun
    from spcnet.studies import calibration
    from spcnet.studies.conditions import with_full_styles

    console = console or Console(quiet=True)
    precision = None
    if thresholds is not None:
        match = re.fullmatch(r"auto:(0?\.\d+)", thresholds)
        if match is None:
            raise UsageError(f"thresholds is {thresholds}: write auto: and the precision wanted, for example auto:0.95")
        precision = float(match[1])
    options = calibration.CalibrateOptions(
        with_full_styles(corruptions, styles, severities), fit_on, precision, limit, varied, batch_size, seed
    )
    run = OpenRun(model, DataOptions(targets, roots or {}, sets), accelerator)
    result = calibration.calibrate(run, options, console)
    for table in terminal_tables(result):
        console.print(table)
    folder = model if model.is_dir() else model.parent
    console.print(f"Wrote all figures to {folder / CALIBRATION_FILE}", highlight=False, markup=False)
    return result
