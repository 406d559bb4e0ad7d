"""A factory of run folders with random but plausible values, as training writes them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from spcnet.config import DataConfig, EvaluationConfig, ModelConfig, RunConfig, TrainingConfig, as_dict
from spcnet.reports.runs import panel_folder

CLASSES = ["road", "sidewalk", "building", "car", "person", "sky", "train"]
COLORS = [[128, 64, 128], [244, 35, 232], [70, 70, 70], [0, 0, 142], [220, 20, 60], [70, 130, 180], [0, 80, 100]]
SOURCES = ["streets/game", "streets/toy"]
TARGETS = ["streets/overcast", "streets/dusk", "streets/night", "streets/fog", "camvid", "idd_lite@val"]


def scores(confusion: np.ndarray) -> tuple[float | None, dict[str, float | None]]:
    """The mIoU and the IoU of each class by the definition; a class in neither truth nor prediction has none."""
    iou: dict[str, float | None] = {}
    for k, name in enumerate(CLASSES):
        hit = int(confusion[k, k])
        union = int(confusion[k].sum() + confusion[:, k].sum()) - hit
        iou[name] = hit / union if union else None
    known = [value for value in iou.values() if value is not None]
    return (sum(known) / len(known) if known else None), iou


def domain_record(role: str, quality: float, rng: np.random.Generator, *, styles: int = 0) -> dict[str, Any]:
    """A domain scored with the given share of right pixels; the last class is nowhere."""
    sizes = np.array([9000, 2500, 8000, 2200, 600, 4000, 0])
    confusion = np.zeros((7, 7), dtype=np.int64)
    for k, size in enumerate(sizes):
        right = np.clip(quality + rng.normal(0, 0.03) - 0.04 * k, 0.05, 0.99)
        wrong = rng.dirichlet(np.array([1.0 if j not in (k, 6) else 1e-9 for j in range(7)]))
        confusion[k] = np.round(size * (1 - right) * wrong)
        confusion[k, k] = round(size * right)
        confusion[k, 6] = 0
    miou, iou = scores(confusion)
    weights = rng.dirichlet(np.ones(styles), size=3).tolist() if styles else None
    hit, truth, seen = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = {name: float(hit[k] / truth[k]) if truth[k] else None for k, name in enumerate(CLASSES)}
    assert miou is not None
    return {
        "role": role,
        "images": 100,
        "miou": miou,
        "iou": iou,
        "miou_interval": [miou - 0.013, miou + 0.017],
        "precision": {name: float(hit[k] / seen[k]) if seen[k] else None for k, name in enumerate(CLASSES)},
        "recall": recall,
        "mean_accuracy": float(np.mean([value for value in recall.values() if value is not None])),
        "frequency_weighted_iou": float(sum(truth[k] * (iou[n] or 0) for k, n in enumerate(CLASSES)) / truth.sum()),
        "pixel_accuracy": float(np.trace(confusion) / confusion.sum()),
        "absent": ["train"],
        "confusion": confusion.tolist(),
        "seconds": 12.5,
        "style_weights": weights,
    }


def result_record(
    method: str, seed: int, iteration: int, domains: Mapping[str, Mapping[str, Any]], **changes: Any
) -> dict[str, Any]:
    """One line of results.jsonl."""

    def mean(role: str) -> float | None:
        known = [d["miou"] for d in domains.values() if d["role"] == role]
        return sum(known) / len(known) if known and None not in known else None

    return {
        "run": f"{method}-{seed}",
        "iteration": iteration,
        "time": "2025-05-04T10:11:12+00:00",
        "method": method,
        "seed": seed,
        "classes": CLASSES,
        "colors": COLORS,
        "domains": dict(domains),
        "mean_source_miou": mean("source"),
        "mean_unseen_miou": mean("unseen"),
    } | changes


def small_domains(**mious: float | None) -> dict[str, dict[str, Any]]:
    """Domains of which only the mIoU matters; names with `source` in them are sources."""
    return {
        name: {
            "role": "source" if "source" in name else "unseen",
            "images": 10,
            "miou": miou,
            "iou": dict.fromkeys(CLASSES, miou),
            "pixel_accuracy": miou,
            "absent": [],
            "confusion": np.eye(7, dtype=int).tolist(),
            "seconds": 1.0,
            "style_weights": None,
        }
        for name, miou in mious.items()
    }


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_panels(folder: Path, domain: str, rng: np.random.Generator, *, quality: float) -> None:
    """Two small pictures of a street with a truth and a prediction."""
    place = folder / "panels" / panel_folder(domain)
    place.mkdir(parents=True)
    # All 256 colours: with fewer, the PNG has fewer bits than 255 needs.
    palette = [channel for color in [*COLORS, *[[0, 0, 0]] * (256 - len(COLORS))] for channel in color]
    for index in range(2):
        truth = np.full((32, 64), 2, dtype=np.uint8)
        truth[:10] = 5
        truth[20:] = 0
        truth[20:24, :30] = 1
        truth[16:26, 40:52] = 3
        truth[30:] = 255
        prediction = np.where(truth == 255, 0, truth).astype(np.uint8)
        wrong = rng.random((8, 16)) > quality
        prediction[np.kron(wrong, np.ones((4, 4), dtype=bool))] = rng.integers(0, 6)
        picture = np.array([*COLORS, [0, 0, 0]], dtype=float)[np.minimum(truth, 7)] * 0.5 + rng.normal(
            70, 12, (32, 64, 1)
        )
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(place / f"{index}_image.png")
        for kind, label in (("truth", truth), ("prediction", prediction)):
            image = Image.fromarray(label, mode="P")
            image.putpalette(palette)
            image.save(place / f"{index}_{kind}.png")
    (place / "panels.json").write_text(json.dumps(["scene-0", "scene-17"]))


def write_run(
    folder: Path,
    *,
    method: str = "spcnet",
    seed: int = 0,
    quality: float = 0.7,
    iterations: int = 600,
    evaluations: Sequence[int] | None = None,
    panels: bool = False,
    domains: Mapping[str, Mapping[str, Any]] | None = None,
    backbone: str = "resnet18",
    size: tuple[int, int] = (128, 256),
    model: ModelConfig | None = None,
    data: DataConfig | None = None,
    **changes: Any,
) -> Path:
    """Write a run folder and give its path; every part of it can be set."""
    rng = np.random.default_rng([seed, sum(map(ord, method))])
    data = data or DataConfig(sources=SOURCES, targets=TARGETS, size=size)
    folder.mkdir(parents=True)
    config = RunConfig(
        method=method,
        model=model or ModelConfig(backbone=backbone),
        data=data,
        training=TrainingConfig(iterations=iterations, seed=seed),
        evaluation=EvaluationConfig(panels=2),
        output=folder,
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(as_dict(config)), encoding="utf-8")
    environment = {
        "spcnet": "0.1.0",
        "python": "3.12.1",
        "torch": "2.7.0",
        "platform": "Linux",
        "device": "cpu",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "started": "2025-05-04T09:00:00+00:00",
    }
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    log = []
    for step in range(20, iterations + 1, 20):
        fall = float(np.exp(-step / 200))
        parts = {"ce": 0.3 + 2 * fall + rng.normal(0, 0.05)}
        if method == "spcnet":
            parts |= {"var": 0.2 + fall, "dis": 1 + 0.5 * fall + rng.normal(0, 0.02)}
        log.append(
            {
                "iteration": step,
                "loss": sum(parts.values()),
                "parts": parts,
                "learning_rate": 0.01 * (1 - step / (iterations + 1)) ** 0.9,
                "seconds": step * 0.8,
                "images_per_second": 10 + rng.normal(0, 0.3),
            }
        )
    write_lines(folder / "train.jsonl", log)
    records = []
    for step in evaluations or [iterations]:
        if domains is None:
            share = quality * (0.6 + 0.4 * step / iterations)
            styles = 2 if method == "spcnet" else 0
            scored = {d: domain_record("source", share + 0.15, rng, styles=styles) for d in data.sources}
            scored |= {
                d: domain_record("unseen", share - 0.03 * i, rng, styles=styles) for i, d in enumerate(data.targets)
            }
        else:
            scored = {d: dict(record) for d, record in domains.items()}
        records.append(result_record(method, seed, step, scored, **changes))
    write_lines(folder / "results.jsonl", records)
    if panels:
        for domain in records[-1]["domains"]:
            write_panels(folder, domain, rng, quality=quality)
    return folder
