"""One tiny training that many tests look at: SPC-Net and the baseline on generated streets of 48×64."""

import shutil
from pathlib import Path

from spcnet.cli import main

SMALL = [
    "--model.backbone=shufflenet_v2",
    "--model.output_stride=32",
    "--model.weights=null",
    "--data.size=[48,64]",
    "--data.images_per_domain=1",
    "--data.train_scenes=12",
    "--data.test_scenes=2",
    "--data.workers=0",
    "--data.targets=[streets/night]",
    "--training.log_every=1",
    "--evaluation.panels=1",
    "--accelerator=cpu",
]
"""Options that make a training take a second."""
METHODS = ("spcnet", "deeplabv3plus")


def train(output: Path, *options: str, iterations: int = 2) -> int:
    """Train as a user does from the command line; returns the exit code."""
    return main(["train", *SMALL, f"--iterations={iterations}", f"--output={output}", *options])


def write_runs(folder: Path) -> None:
    """Train both networks into a folder, which is there only when it is whole."""
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for method in METHODS:
        assert train(unfinished / method, f"--method={method}") == 0
    unfinished.rename(folder)
