"""`spcnet ood pixels`: how well a network's scores of pixels find objects that no class names."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from torch.nn import functional as F

from spcnet.config import DomainSpec
from spcnet.data.anomalies import ANOMALY_SETS, ANOMALY_SPACE
from spcnet.data.datasets import print_remarks
from spcnet.engine import records
from spcnet.engine.progress import bar
from spcnet.errors import UsageError
from spcnet.evaluation.calibration import ScoreCounts
from spcnet.evaluation.evaluator import evaluating
from spcnet.files import write_text
from spcnet.inference.pixel_ood import pixel_scores
from spcnet.labels import IGNORE
from spcnet.reports.calibration import PIXELS_FILE
from spcnet.reports.robustness import CLEAN
from spcnet.runs import OpenRun, open_domains
from spcnet.studies.conditions import Condition, check_at_least, network_outputs, spread


def evaluate_pixels(
    run: OpenRun, targets: Sequence[str], *, limit: int = 0, batch_size: int = 8, console: Console | None = None
) -> dict[str, Any]:
    """Measure each score of pixels on sets with unknown objects; written to the run's folder as JSON.

    Args:
        run: the network and its data.
        targets: domains of the sets in `ANOMALY_SETS`.
        limit: images of each domain, spread evenly over it; 0 for all.
        batch_size: images that the network sees together.
        console: where progress is shown; nowhere by default.

    Returns:
        What the file holds: of each domain its images, pixels, share of anomalies, and of each score the figures of
        `spcnet.evaluation.calibration.ScoreCounts.figures`.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    check_at_least(limit=(limit, 0), batch_size=(batch_size, 1))
    if not targets:
        raise UsageError(f"there is no target to measure on: name one or more of {', '.join(ANOMALY_SETS)}")
    for name in targets:
        if DomainSpec.parse(name).dataset not in ANOMALY_SETS:
            raise UsageError(f"{name} has no labels of unknown objects: name one of {', '.join(ANOMALY_SETS)}")
    data = run.options.merge(run.config.data) if run.is_run else run.data
    tests = open_domains(targets, data, ANOMALY_SPACE, training=False)
    print_remarks(tests.values(), console)
    places = {name: spread(len(images), limit) for name, images in tests.items()}
    domains: dict[str, Any] = {}
    done = 0
    with (
        bar(console, sum(map(len, places.values())), 0, "score pixels") as show,
        evaluating(run.network),
        torch.inference_mode(),
    ):
        for name, images in tests.items():
            counts: dict[str, ScoreCounts] = {}
            for output, items in network_outputs(run, images, places[name], Condition(CLEAN, 0), batch_size=batch_size):
                for score, values in pixel_scores(run.network, output).items():
                    for value, (label, _) in zip(values, items, strict=True):
                        at_label = F.interpolate(
                            value[None, None], size=label.shape, mode="bilinear", align_corners=True
                        )[0, 0].cpu()
                        known = label != IGNORE
                        counts.setdefault(score, ScoreCounts()).add(at_label[known], label[known] == 1)
                show(done := done + len(items), {})
            pixels = next(iter(counts.values())).counts.sum(axis=1)
            domains[name] = {
                "images": len(places[name]),
                "pixels": int(pixels.sum()),
                "anomalies": float(pixels[1] / max(pixels.sum(), 1)),
                "scores": {score: one.figures() for score, one in counts.items()},
            }
    result = {"run": run.path.name, "method": run.card.method, "domains": domains, "environment": records.environment()}
    folder = run.path if run.path.is_dir() else run.path.parent
    write_text(folder / PIXELS_FILE, json.dumps(result, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return result
