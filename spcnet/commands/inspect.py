"""`spcnet inspect`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from spcnet.config import plain_lists


@plain_lists
def inspect(
    models: Sequence[Path],
    *,
    targets: Sequence[str] | None = None,
    limit: int = 50,
    pixels: int = 60,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    output: Path | None = None,
    console: Console | None = None,
) -> list[Any]:
    """Look inside networks: maps of styles and pixels, source weights, nearest known styles, prototypes.

    Args:
        models: Folders of runs.
        targets: Domains to show as unseen instead of the run's own, for example [cityscapes,cityscapes+fog].
        limit: Most images of each domain, spread evenly over it; 0 for all.
        pixels: Most pixels of each class and domain on the maps.
        roots: Folder of each data set, by its name, beside the run's own.
        sets: YAML file that describes data sets of your own, by name, beside the run's own.
        batch_size: Images that the network sees together; the run's own by default.
        seed: Random seed of t-SNE and of which pixels are shown.
        accelerator: Where to compute: auto, cpu, cuda or mps.
        output: File for one page of all the networks as well.
        console: Where progress and the table are shown; nowhere by default.

    Returns:
        The record of each network, a `spcnet.reports.inspection.Inspection`.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    from spcnet.reports.inspection import render_terminal
    from spcnet.reports.inspection_page import write_page
    from spcnet.runs import DataOptions, OpenRun
    from spcnet.studies import inspection

    console = console or Console(quiet=True)
    options = DataOptions(targets, roots or {}, sets)
    inspections = [
        inspection.inspect(
            OpenRun(model, options, accelerator),
            limit=limit,
            pixels=pixels,
            batch_size=batch_size,
            seed=seed,
            console=console,
        )
        for model in models
    ]
    console.print(render_terminal(inspections))
    pages = [one.folder / inspection.PAGE_FILE for one in inspections]
    if output is not None:
        pages.append(write_page(inspections, output))
    for page in pages:
        console.print(f"Wrote the page {page}", highlight=False, markup=False)
    return inspections
