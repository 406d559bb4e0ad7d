"""`spcnet calibrate`: what the confidence of a run's network is worth, fitted on its sources and measured everywhere."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from spcnet import checkpoint
from spcnet.config import DomainSpec
from spcnet.data.catalog import dataset
from spcnet.data.datasets import SegmentationSet, print_remarks
from spcnet.engine import records
from spcnet.engine.progress import bar
from spcnet.errors import UsageError
from spcnet.evaluation.calibration import (
    PLAIN,
    SAMPLED,
    ConfidenceCounts,
    Scaling,
    fit_scaling,
    labelled_pixels,
)
from spcnet.evaluation.evaluator import evaluating
from spcnet.files import write_text
from spcnet.reports.calibration import CALIBRATION_FILE
from spcnet.reports.robustness import CLEAN
from spcnet.runs import OpenRun
from spcnet.studies.conditions import Condition, check_at_least, network_outputs, spread


@dataclass(frozen=True)
class CalibrateOptions:
    """How a network is calibrated."""

    conditions: Sequence[Condition]
    """What images are shown in, `clean` first."""
    fit_on: str = "held-out"
    """`held-out`: every other test image of the sources, the others are measured; `train`: their training images."""
    precision: float | None = None
    """That pixels of each class shall have where they keep it; None for no thresholds."""
    limit: int = 100
    """Clean images of each domain, spread evenly over it; 0 for all."""
    varied: int = 12
    """Images of each domain that are shown in every other condition; 0 for none."""
    batch_size: int = 8
    seed: int = 0


Part = tuple[str, SegmentationSet, list[int]]
"""A domain, its images, and which of them."""


def calibrate(run: OpenRun, options: CalibrateOptions, console: Console) -> dict[str, Any]:
    """Fit temperature, vector scaling and thresholds on the sources, and measure the confidence on every domain.

    The temperature and the thresholds go into the card of the network's file, the figures into the run's folder.

    Args:
        run: the network and its data.
        options: how.
        console: where progress is shown.

    Returns:
        What the file `calibration.json` holds.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    check_at_least(limit=(options.limit, 0), varied=(options.varied, 0), batch_size=(options.batch_size, 1))
    if options.precision is not None and not 0 < options.precision < 1:
        raise UsageError(f"the precision of the thresholds is {options.precision}: it must lie between 0 and 1")
    if options.fit_on not in ("held-out", "train"):
        raise UsageError(f"fit_on is {options.fit_on}: write held-out or train")
    file = checkpoint.find(run.path) if run.is_run else run.path
    if not checkpoint.is_own(file):
        raise UsageError(f"{file} has no card that a calibration could go into: convert it first, with spcnet convert")
    fitted_on, measured = _parts(run, options)
    print_remarks([images for _, images, _ in (*fitted_on, *measured)], console)
    about = {
        name: {"images": len(places), "trained_on": options.fit_on == "train" or _is_trained_on(run, name)}
        for name, _, places in fitted_on
    }
    with evaluating(run.network), torch.inference_mode():
        logits, label = _sampled(run, fitted_on, options, console)
    scalings = {
        "network": PLAIN,
        "temperature": fit_scaling(logits, label),
        "vector": fit_scaling(logits, label, vector=True),
    }
    with evaluating(run.network), torch.inference_mode():
        thresholds = _thresholds(run, fitted_on, scalings["temperature"], options, console)
        domains = _measured(run, measured, scalings, thresholds, options, console)
    result = {
        "run": run.path.name,
        "method": run.card.method,
        "iteration": run.iteration,
        "fit": about,
        "fit_on": options.fit_on,
        "temperature": 1 / scalings["temperature"].scale[0],
        "vector": dataclasses.asdict(scalings["vector"]),
        "precision": options.precision,
        "thresholds": None if thresholds is None else dict(zip(run.space.classes, thresholds, strict=True)),
        "sources": [name for name in domains if name in run.sources],
        "domains": domains,
        "environment": records.environment(),
    }
    _store(run, result, thresholds)
    folder = run.path if run.path.is_dir() else run.path.parent
    write_text(folder / CALIBRATION_FILE, json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n")
    return result


def _is_trained_on(run: OpenRun, name: str) -> bool:
    """Whether the images that a source is tested on are those that it is trained on, for it has no others."""
    spec = DomainSpec.parse(name)
    info = dataset(spec.dataset, run.data)
    return (spec.split or info.test_split) == info.train_split


def _parts(run: OpenRun, options: CalibrateOptions) -> tuple[list[Part], list[Part]]:
    """What is fitted on and what is measured: no image is both."""
    if not run.sources:
        raise UsageError(f"{run.path} does not say what it was trained on: calibrate the folder of a run")
    names = list(dict.fromkeys([*run.sources, *run.names]))
    tests = {name: (images, spread(len(images), options.limit)) for name, images in run.tests(names).items()}
    if options.fit_on == "train":
        fitted = [(name, images, spread(len(images), options.limit)) for name, images in run.training_sets().items()]
        return fitted, [(name, *tests[name]) for name in names]
    fitted = [(name, tests[name][0], tests[name][1][::2]) for name in run.sources]
    measured = [
        (name, tests[name][0], tests[name][1][1::2] if name in run.sources else tests[name][1]) for name in names
    ]
    return fitted, measured


def _pixels(
    run: OpenRun, part: Part, condition: Condition, options: CalibrateOptions, *, sample: int = 0
) -> Iterator[tuple[Float[Tensor, "N K"], Int[Tensor, " N"]]]:
    """The labelled pixels of each image."""
    _, images, places = part
    for output, items in network_outputs(
        run, images, places, condition, batch_size=options.batch_size, seed=options.seed
    ):
        for logits, (label, _) in zip(output.logits, items, strict=True):
            yield labelled_pixels(logits, label.long(), sample=sample, seed=options.seed)


def _sampled(
    run: OpenRun, parts: Sequence[Part], options: CalibrateOptions, console: Console
) -> tuple[Float[Tensor, "N K"], Int[Tensor, " N"]]:
    """A few pixels of each image of the sources, outside of inference mode."""
    logits, labels = [], []
    with bar(console, sum(len(places) for *_, places in parts), 0, "fit") as show:
        for part in parts:
            for some, label in _pixels(run, part, Condition(CLEAN, 0), options, sample=SAMPLED):
                logits.append(some.cpu())
                labels.append(label.cpu())
                show(len(logits), {})
    return torch.cat(logits).clone(), torch.cat(labels).clone()


def _thresholds(
    run: OpenRun, parts: Sequence[Part], scaling: Scaling, options: CalibrateOptions, console: Console
) -> list[float] | None:
    if options.precision is None:
        return None
    counts, done = ConfidenceCounts(len(run.space), scaling), 0
    with bar(console, sum(len(places) for *_, places in parts), 0, "thresholds") as show:
        for part in parts:
            for logits, label in _pixels(run, part, Condition(CLEAN, 0), options):
                counts.add(logits, label)
                show(done := done + 1, {})
    return counts.class_thresholds(options.precision)


def _measured(
    run: OpenRun,
    parts: Sequence[Part],
    scalings: Mapping[str, Scaling],
    thresholds: list[float] | None,
    options: CalibrateOptions,
    console: Console,
) -> dict[str, Any]:
    """Of each domain its role, and the figures of each condition with each scaling."""
    plan = [
        (
            part,
            condition,
            part[2] if condition.name == CLEAN else [part[2][i] for i in spread(len(part[2]), options.varied)],
        )
        for part in parts
        for condition in (options.conditions if options.varied else options.conditions[:1])
        if condition.name == CLEAN or DomainSpec.parse(part[0]).style is None
    ]
    domains: dict[str, Any] = {}
    done = 0
    with bar(console, sum(len(places) for *_, places in plan), 0, "measure") as show:
        for (name, images, _), condition, places in plan:
            counts = {
                way: ConfidenceCounts(len(run.space), scaling, thresholds=thresholds if way == "temperature" else None)
                for way, scaling in scalings.items()
            }
            for logits, label in _pixels(run, (name, images, places), condition, options):
                for one in counts.values():
                    one.add(logits, label)
                show(done := done + 1, {})
            title = condition.name if condition.name == CLEAN else f"{condition.name} {condition.severity}"
            entry = domains.setdefault(name, {"role": "source" if name in run.sources else "unseen", "conditions": {}})
            figures = {way: one.figures() for way, one in counts.items()}
            entry["conditions"][title] = {"images": len(places), "family": condition.family, **figures}
    return domains


def _store(run: OpenRun, result: Mapping[str, Any], thresholds: list[float] | None) -> None:
    """Put the temperature and the thresholds into the card; the weights stay as they are."""
    images = "; ".join(
        f"{counted['images']} {'training' if counted['trained_on'] else 'held-out'} images of {name}"
        for name, counted in result["fit"].items()
    )
    calibration = checkpoint.Calibration(
        result["temperature"], images, None if thresholds is None else tuple(thresholds), result["precision"]
    )
    file = checkpoint.find(run.path)
    stored = checkpoint.read_all(file)
    card = dataclasses.replace(stored.card, calibration=calibration)
    checkpoint.write(file, stored.tensors, card, stored.state)
