"""Fit the out-of-distribution (OOD) detector of a network, and measure what its score is worth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from spcnet.config import plain_lists


@plain_lists
def fit(
    model: Path,
    *,
    domains: Sequence[str] | None = None,
    limit: int = 100,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    batch_size: int = 8,
    accelerator: str = "auto",
    console: Console | None = None,
) -> Any:
    """Fit the out-of-distribution (OOD) detector of a network on images of its sources.

    Args:
        model: Folder of a run.
        domains: What to fit on, for example [camvid@val,idd_lite@train]; the sources as they were trained on by default.
        limit: Most images of each domain, spread evenly over it; 0 for all.
        roots: Folder of each data set, by its name, beside the run's own.
        sets: YAML file that describes data sets of your own, by name, beside the run's own.
        batch_size: Images that the network sees together.
        accelerator: Where to compute: auto, cpu, cuda or mps.
        console: Where progress is shown; nowhere by default.

    Returns:
        The detector, a `spcnet.inference.ood.OODDetector`.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    from spcnet.inference.ood import ood_file
    from spcnet.runs import DataOptions, OpenRun
    from spcnet.studies.ood import fit_ood

    console = console or Console(quiet=True)
    run = OpenRun(model, DataOptions(roots=roots or {}, sets=sets), accelerator)
    detector = fit_ood(run, domains, limit=limit, batch_size=batch_size, console=console)
    count, names = len(detector.known), ", ".join(detector.domains)
    message = f"Fitted the OOD detector on {count} images of {names}: {ood_file(model)}"
    console.print(message, highlight=False, markup=False)
    return detector


@plain_lists
def pixels(
    model: Path,
    *,
    targets: Sequence[str] = ("streets_unknown/overcast", "streets_unknown/night"),
    limit: int = 50,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    batch_size: int = 8,
    accelerator: str = "auto",
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure how well the scores of pixels find objects that no class names.

    Args:
        model: Folder of a run.
        targets: Domains with unknown objects, [road_anomaly21,road_obstacle21,fs_lost_found]; generated ones by default.
        limit: Most images of each domain, spread evenly over it; 0 for all.
        roots: Folder of each data set, by its name, beside the run's own.
        sets: YAML file that describes data sets of your own, by name, beside the run's own.
        batch_size: Images that the network sees together.
        accelerator: Where to compute: auto, cpu, cuda or mps.
        console: Where progress and the table are shown; nowhere by default.

    Returns:
        What is written to `ood_pixels.json` in the run's folder.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    from spcnet.reports.calibration import PIXELS_FILE, pixels_table
    from spcnet.runs import DataOptions, OpenRun
    from spcnet.studies.pixel_ood import evaluate_pixels

    console = console or Console(quiet=True)
    run = OpenRun(model, DataOptions(roots=roots or {}, sets=sets), accelerator)
    result = evaluate_pixels(run, targets, limit=limit, batch_size=batch_size, console=console)
    console.print(pixels_table(result))
    folder = model if model.is_dir() else model.parent
    console.print(f"Wrote all figures to {folder / PIXELS_FILE}", highlight=False, markup=False)
    return result


@plain_lists
def evaluate(
    model: Path,
    *,
    targets: Sequence[str] | None = None,
    corruptions: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    severities: Sequence[int] = (2, 5),
    limit: int = 50,
    varied: int = 12,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    batch_size: int = 8,
    seed: int = 0,
    accelerator: str = "auto",
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure how well the OOD score of a network separates images and predicts its mIoU.

    The detector is fitted first where there is none.

    Args:
        model: Folder of a run.
        targets: Domains to take as unseen instead of the run's own, without those in a weather style.
        corruptions: Which corruptions, [fog,snow]; [] for none; all by default.
        styles: Which weather styles, at full strength, [rain,night]; [] for none; all by default.
        severities: Severities of the corruptions, each 1..5.
        limit: Most clean images of each domain, spread evenly over it; 0 for all.
        varied: Images of each domain that are shown in every condition; 0 for none.
        roots: Folder of each data set, by its name, beside the run's own.
        sets: YAML file that describes data sets of your own, by name, beside the run's own.
        batch_size: Images that the network sees together.
        seed: Random seed for noise, snow and rain.
        accelerator: Where to compute: auto, cpu, cuda or mps.
        console: Where progress and the tables are shown; nowhere by default.

    Returns:
        What is written to `ood_evaluation.json` in the run's folder.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    from spcnet.inference.ood import ood_file
    from spcnet.runs import DataOptions, OpenRun
    from spcnet.studies.conditions import with_full_styles
    from spcnet.studies.ood import RESULT_FILE, evaluate_ood
    from spcnet.studies.ood_metrics import tables

    console = console or Console(quiet=True)
    conditions = with_full_styles(corruptions, styles, severities)
    run = OpenRun(model, DataOptions(targets, roots or {}, sets), accelerator)
    result = evaluate_ood(
        run, conditions, limit=limit, varied=varied, batch_size=batch_size, seed=seed, console=console
    )
    for table in tables(result):
        console.print(table)
    console.print(f"Wrote all figures to {ood_file(model).parent / RESULT_FILE}", highlight=False, markup=False)
    return result
