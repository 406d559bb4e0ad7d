"""Sets on disk and runs that read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spcnet import labels
from spcnet.config import DataConfig, DomainSpec, EvaluationConfig, ModelConfig, OwnSet, RunConfig, TrainingConfig
from spcnet.data.datasets import SegmentationSet, open_domain
from spcnet.data.exclude import excluded_lines
from spcnet.errors import SpcnetError


def opened(domain: str, data: DataConfig, space: str = "cityscapes19", *, training: bool = True) -> SegmentationSet:
    return open_domain(DomainSpec.parse(domain), data=data, space=labels.label_space(space), training=training)


def refusal(kind: type[SpcnetError], domain: str, data: DataConfig, space: str = "cityscapes19") -> str:
    with pytest.raises(kind) as caught:
        opened(domain, data, space)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path: Path, value: int = 0, *, size: tuple[int, int] = (12, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        Image.new("RGB", size[::-1], (value, 90, 90)).save(path)
    else:
        Image.fromarray(np.full(size, value, np.uint8)).save(path)


MODEL = ModelConfig(backbone="shufflenet_v2", weights=None, output_stride=32)


def run_of(output: Path, *, data: dict[str, Any], method: str = "spcnet", iterations: int = 2) -> RunConfig:
    values = {"size": (48, 96), "images_per_domain": 2, "workers": 0, "targets": []} | data
    return RunConfig(
        method=method,
        model=MODEL,
        data=DataConfig(**values),
        training=TrainingConfig(iterations=iterations, log_every=1, checkpoint_every=iterations, accelerator="cpu"),
        evaluation=EvaluationConfig(batch_size=1, panels=0, limit=1),
        output=output,
    )


def read_excluded(files: Sequence[str]) -> dict[str, set[str]]:
    """The images to leave out, by data set, as they are written in lists."""
    images: dict[str, set[str]] = {}
    for line in excluded_lines(files):
        images.setdefault(line.name, set()).add(line.path)
    return images


OWN = OwnSet("photos/{split}/**/*.jpg", "masks/{split}/**/*_mask.png", {0: "void", 1: "road", 7: "car"})


def mine(root: Path, *names: str, split: str = "train", label: int = 7) -> None:
    for name in names:
        write(root / f"photos/{split}/{name}.jpg")
        write(root / f"masks/{split}/{name}_mask.png", label)


def own_data(root: Path, own: OwnSet = OWN, **options: object) -> DataConfig:
    return DataConfig(roots={"mytown": str(root)}, sets={"mytown": own}, **options)
