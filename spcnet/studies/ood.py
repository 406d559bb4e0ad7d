"""Fitting the OOD detector of a run on images of its sources, and measuring what its score is worth."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from spcnet.config import DomainSpec
from spcnet.data.datasets import SegmentationSet, print_remarks
from spcnet.engine import records
from spcnet.engine.progress import bar
from spcnet.errors import UsageError
from spcnet.evaluation.evaluator import evaluating
from spcnet.evaluation.metrics import classify, confusion, outcome
from spcnet.files import write_text
from spcnet.inference.ood import OODDetector, OODScore, Signals, ood_file, signals
from spcnet.reports.robustness import CLEAN
from spcnet.runs import OpenRun
from spcnet.studies.conditions import Condition, check_at_least, image_score, network_outputs, spread
from spcnet.studies.ood_metrics import OOD, ScoredImage, groups, prediction, separation
from spcnet.types import SegOutput

RESULT_FILE = "ood_evaluation.json"
IMAGES_FILE = "ood_images.jsonl"
"""Every image with its scores, one per line."""


def fit_ood(
    run: OpenRun,
    domains: Sequence[str] | None = None,
    *,
    limit: int = 100,
    batch_size: int = 8,
    console: Console | None = None,
) -> OODDetector:
    """Fit the OOD detector of a run and write it beside the checkpoint.

    Args:
        run: the network and its data.
        domains: what to fit on, `SET[/SUBSET][@SPLIT]`; by default the sources as they were trained on.
        limit: images of each domain, spread evenly over it; 0 for all.
        batch_size: images that the network sees together.
        console: where progress is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    check_at_least(limit=(limit, 0), batch_size=(batch_size, 1))
    network, sets = run.network, run.training_sets(domains or None)
    if not sets:
        raise UsageError("there is no domain to fit on: name one of the sources in --domains")
    print_remarks(sets.values(), console)
    places = {name: spread(len(images), limit) for name, images in sets.items()}
    with (
        bar(console, sum(map(len, places.values())), 0, "fit OOD detector") as show,
        evaluating(network),
        torch.inference_mode(),
    ):

        def outputs() -> Iterator[tuple[SegOutput, Tensor]]:
            done = 0
            for number, (name, images) in enumerate(sets.items()):
                for output, items in network_outputs(
                    run, images, places[name], Condition(CLEAN, 0), batch_size=batch_size
                ):
                    yield output, torch.full((len(items),), number)
                    done += len(items)
                    show(done, {})

        detector = OODDetector.fit(network, outputs(), domains=list(sets))
    detector.write(run.path)
    return detector


def evaluate_ood(
    run: OpenRun,
    conditions: Sequence[Condition],
    *,
    limit: int = 50,
    varied: int = 12,
    batch_size: int = 8,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure what the OOD score of a run is worth; written to the run's folder as JSON.

    The detector is fitted first where there is none; see `fit_ood`. Domains in a weather style are left out, for
    `conditions` has the styles.

    Args:
        run: the network and its data.
        conditions: `clean` first.
        limit: clean images of each domain, spread evenly over it; 0 for all.
        varied: images of each domain that are shown in every other condition; 0 for none.
        batch_size: images that the network sees together.
        seed: random seed for noise, snow and rain.
        console: where progress is shown; nowhere by default.

    Returns:
        What the file holds.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    check_at_least(limit=(limit, 0), varied=(varied, 0), batch_size=(batch_size, 1))
    if not ood_file(run.path).is_file():
        fit_ood(run, batch_size=batch_size, console=console)
    detector = OODDetector.read(run.path, run.network)
    names = [*run.sources, *run.data.targets]
    tests = run.tests([name for name in names if DomainSpec.parse(name).style is None])
    print_remarks(tests.values(), console)
    plan = [
        (name, condition, spread(len(images), limit if condition.name == CLEAN else varied))
        for name, images in tests.items()
        for condition in (conditions if varied else conditions[:1])
    ]
    scored = _score_all(detector, run, tests, plan, batch_size=batch_size, seed=seed, console=console)
    images = {name: sum(len(places) for n, c, places in plan if (n, c.name) == (name, CLEAN)) for name in tests}
    result = {
        **_about(run, detector, images),
        "varied": varied,
        "conditions": [f"{c.name} {c.severity}" for c in conditions],
        "separation": separation(scored, set(run.sources)),
        "prediction": prediction(scored),
        "groups": groups(scored),
        "environment": records.environment(),
    }
    folder = ood_file(run.path).parent
    write_text(folder / IMAGES_FILE, "".join(json.dumps(image.as_json()) + "\n" for image in scored))
    write_text(folder / RESULT_FILE, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    return result


def _score_all(
    detector: OODDetector,
    run: OpenRun,
    tests: Mapping[str, SegmentationSet],
    plan: Sequence[tuple[str, Condition, list[int]]],
    *,
    batch_size: int,
    seed: int,
    console: Console,
) -> list[ScoredImage]:
    """Score the images of a plan: of each domain in each condition those at some indices."""
    scored: list[ScoredImage] = []
    with (
        bar(console, sum(len(places) for *_, places in plan), 0, "evaluate OOD score") as show,
        evaluating(run.network),
        torch.inference_mode(),
    ):
        for name, condition, places in plan:
            for output, items in network_outputs(run, tests[name], places, condition, batch_size=batch_size, seed=seed):
                scored += _scored(detector, output, items, name, condition)
                show(len(scored), {})
    return scored


def _about(run: OpenRun, detector: OODDetector, images: dict[str, int]) -> dict[str, Any]:
    """What was evaluated on which clean images."""
    return {
        "run": run.path.name,
        "method": run.card.method,
        "known": {"domains": list(detector.domains), "images": len(detector.known)},
        "sources": sorted(set(run.sources) & set(images)),
        "unseen": sorted(set(images) - set(run.sources)),
        "images": images,
    }


def _scored(
    detector: OODDetector, output: SegOutput, items: Sequence[tuple[Tensor, str]], domain: str, condition: Condition
) -> Iterator[ScoredImage]:
    batch = signals(detector.network, output)
    num_classes = output.logits.shape[1]
    for i, (score, (label, name)) in enumerate(zip(detector.score_signals(batch), items, strict=True)):
        classes = classify(output.logits[i], size=(label.shape[0], label.shape[1])).cpu()
        counts = confusion(classes, label.long(), num_classes=num_classes)
        scores = _scores(score, batch, i)
        yield ScoredImage(domain, condition, name, image_score(counts), outcome(counts), score, scores)


def _scores(score: OODScore, batch: Signals, i: int) -> dict[str, float]:
    """The OOD score, its parts if it has several, and the plain scores that it is compared with; higher is farther."""
    scores = {OOD: score.score}
    if len(score.parts) > 1:
        scores |= {f"ood {part}": value for part, value in score.parts.items()}
    if batch.styles:
        scores["base distance"] = float(batch.distance[i].mean())
    return {
        **scores,
        "confidence": -float(batch.confidence[i]),
        "entropy": float(batch.entropy[i]),
        "max logit": -float(batch.max_logit[i]),
    }
