"""Cards of robustness."""

import json
from collections.abc import Sequence
from pathlib import Path

from spcnet.reports.robustness import Card, ModelScores, Score, as_json
from tests.support.report_factory import CLASSES, COLORS

FAMILIES = {"clean": "clean", "gaussian_noise": "noise", "fog": "weather", "+night": "+light"}


def score(miou: float) -> Score:
    return Score(miou, (miou,) * len(CLASSES), 0.9)


def write_card(
    folder: Path,
    labels: Sequence[str],
    *,
    methods: Sequence[str],
    backbone: str = "resnet50",
    domain: str = "cityscapes",
    families: dict[str, str] = FAMILIES,
) -> Path:
    """A card as `spcnet robustness` writes it: half of the score is left in noise, three quarters elsewhere."""
    models = tuple(
        ModelScores(
            label=label,
            method=method,
            backbone=backbone,
            sources=("gtav",),
            styles=(),
            size=(128, 256),
            precision="32-true",
            scores={"clean": {0: score(0.6)}}
            | {
                name: {s: score(0.3 if family == "noise" else 0.45) for s in (1, 3)}
                for name, family in families.items()
                if name != "clean"
            },
        )
        for label, method in zip(labels, methods, strict=True)
    )
    colors = tuple((r, g, b) for r, g, b in COLORS)
    card = Card(domain, 50, "own7", tuple(CLASSES), colors, families, (1, 3), models)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "robustness.json"
    path.write_text(json.dumps(as_json(card)))
    return path
