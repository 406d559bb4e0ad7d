"""What the networks of a page cost: size, arithmetic, memory, and how fast they were trained and scored."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spcnet.reports.html import escaped, ranged, swatch, table
from spcnet.reports.runs import Run
from spcnet.reports.series import Series

MODEL_FILE = "model.safetensors"


@dataclass(frozen=True)
class NetworkCost:
    """What `spcnet.cost` counts for one network."""

    parameters: int
    """Numbers in weights, without the auxiliary head."""
    macs: int
    """Multiply-accumulates for one image."""
    activations: int
    """Bytes that a training step keeps for its backward pass, for one image."""
    size: tuple[int, int]
    """Height and width of that image."""
    trained: int | None = None
    """Those of the parameters that training changes; None for all of them."""


def costs(series: Sequence[Series], counted: Mapping[Path, NetworkCost]) -> str:
    """A line for each method, with what was counted by `Run.folder`; what neither was counted nor recorded is left empty."""
    rows = []
    sizes: set[tuple[int, int]] = set()
    for one in series:
        runs = one.group.runs
        known = next((counted[run.folder] for run in runs if run.folder in counted), None)
        if known is not None:
            sizes.add(known.size)
        counts = [""] * 4
        if known is not None:
            trained = "" if known.trained is None else f"{known.trained / 1e6:.2f}"
            figures = [f"{known.macs / 1e9:.2f}", f"{known.activations / 2**20:.0f}"]
            counts = [f"{known.parameters / 1e6:.2f}", trained, *figures]
        measured = [ranged(map(measure, runs), say) for measure, say in _MEASURED]
        backbone = escaped(one.first.setting("model.backbone") or "")
        rows.append([swatch(one.color) + escaped(one.label), backbone, *counts, *measured])
    heads = ["method", "backbone", "parameters, M", "trained, M", "GMACs", "kept, MiB", "file, MiB"]
    heads += ["training, images/s", "s per step", "training time", "scoring, images/s"]
    wide = [head.replace(", ", ",<br>") for head in heads]
    # A column of which nothing is known says nothing.
    kept = [place for place in range(len(heads)) if place < 2 or any(row[place] for row in rows)]
    if len(kept) == 2:
        return ""
    at = " or ".join(f"{height}×{width}" for height, width in sorted(sizes))
    counting = (
        f"Counted for one image of {at}: GMACs are billions of multiply-accumulates of the matrix products; kept is what a "
        "training step keeps for its backward pass, in single precision. "
    )
    caption = (
        f"{counting if sizes else ''}Speeds are as the runs recorded them, with all that went on beside them on the machine; "
        "scoring includes reading the images."
    )
    body = [[row[place] for place in kept] for row in rows]
    return table([wide[place] for place in kept], body, caption=caption, label="Cost of each method", text=2)


def training_seconds(run: Run) -> float:
    """Time spent training: the seconds start again with each process, so what each reached is added up."""
    total = last = 0.0
    for line in run.log:
        if not math.isfinite(line.seconds):
            continue
        if line.seconds < last:
            total += last
        last = line.seconds
    return total + last


def speed(run: Run) -> float:
    """Images in a second of training, the median of the log; NaN if not recorded."""
    known = [line.images_per_second for line in run.log if math.isfinite(line.images_per_second)]
    return float(np.median(known)) if known else math.nan


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _step_seconds(run: Run) -> float:
    """Median time of an iteration, from the seconds between lines of the log."""
    steps = [
        (after.seconds - before.seconds) / (after.iteration - before.iteration)
        for before, after in zip(run.log, run.log[1:], strict=False)
        if after.seconds > before.seconds
    ]
    return float(np.median(steps)) if steps else math.nan


def _scoring_speed(run: Run) -> float:
    timed = [domain for domain in run.final.domains.values() if domain.seconds > 0]
    return sum(d.images for d in timed) / sum(d.seconds for d in timed) if timed else math.nan


def _mebibytes(run: Run) -> float:
    path = run.folder / MODEL_FILE
    return path.stat().st_size / 2**20 if path.is_file() else math.nan


_MEASURED: tuple[tuple[Callable[[Run], float], Callable[[float], str]], ...] = (
    (_mebibytes, "{:.1f}".format),
    (speed, "{:.3g}".format),
    (_step_seconds, "{:.3g}".format),
    (training_seconds, duration),
    (_scoring_speed, "{:.3g}".format),
)
"""What is measured of a run, in the order of the columns, and how it is written."""
