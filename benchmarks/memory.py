"""What `train --dry-run` counts for a training step against what the step takes.

Each case is a process of its own: its network is built, the step is counted from shapes, then steps are made by the
trainer with random images. `measured` is the largest resident memory of the process during the second step less what it
had before the network was built; each large block goes back to the system as soon as it is free.

    python benchmarks/memory.py
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from _machine import describe

from spcnet.config import RunConfig, from_dict
from spcnet.dry_run.memory import step_memory
from spcnet.engine import devices
from spcnet.engine.trainer import Trainer
from spcnet.labels import label_space
from spcnet.methods import card_for, method_named
from spcnet.types import Batch

VIT = {"backbone": "timm/vit_small_patch16_224", "output_stride": None, "decoder": "conv4"}
LORA = VIT | {"adapter": {"kind": "lora"}}
LITE = {"backbone": "timm/tf_efficientnet_lite0", "output_stride": None}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ResNet-18": ("deeplabv3plus", "32-true", {"backbone": "resnet18"}),
    "ResNet-18, bf16": ("deeplabv3plus", "bf16-mixed", {"backbone": "resnet18"}),
    "MobileNetV2": ("deeplabv3plus", "32-true", {"backbone": "mobilenet_v2"}),
    "MobileNetV2 SPC-Net": ("spcnet", "32-true", {"backbone": "mobilenet_v2"}),
    "MobileNetV2 SPC-Net, bf16": ("spcnet", "bf16-mixed", {"backbone": "mobilenet_v2"}),
    "EfficientNet-Lite0": ("deeplabv3plus", "32-true", LITE),
    "ViT-S full linear": ("deeplabv3plus", "32-true", VIT | {"decoder": "linear"}),
    "ViT-S LoRA conv4": ("deeplabv3plus", "32-true", LORA),
    "ViT-S LoRA conv4, bf16": ("deeplabv3plus", "bf16-mixed", LORA),
    "ViT-S frozen segformer, bf16": (
        "deeplabv3plus", "bf16-mixed", VIT | {"decoder": "segformer", "adapter": {"kind": "frozen"}},
    ),
    "ViT-S SPC-Net conv4": ("spcnet", "32-true", VIT),
}  # fmt: skip


def resident(which: str) -> int:
    """Bytes of this process: VmRSS, or VmHWM for the most since `forget`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return 1024 * int(line.split()[1])


def measure(name: str, size: int, images: int) -> tuple[int, int]:
    """Bytes that are counted and bytes that are taken."""
    method_name, precision, model = CASES[name]
    settings = {
        "method": method_name,
        "model": model | {"weights": None},
        "data": {"size": [size, size], "images_per_domain": images // 2},
        "training": {"precision": precision, "optimizer": "adamw", "accelerator": "cpu", "learning_rate": 1e-4},
    }
    config = from_dict(RunConfig, settings)
    method, space = method_named(config.method), label_space(config.data.space)
    for half in (False, True):  # what first operations load
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            timm.create_model("test_vit")(torch.randn(1, 3, 160, 160)).sum().backward()
    devices.keep_freed_memory = lambda: False  # what is freed is given back, and so does not count
    gc.collect()
    before = resident("VmRSS")
    network = method.build(config.model, num_classes=len(space.classes), num_domains=2)
    card = card_for(
        method=method.name, model=config.model, space=space.name, classes=space.classes, domains=["a", "b"], size=None
    )
    counted = step_memory(network, config, "cpu")
    trainer = Trainer(
        replace(config, output=Path("nowhere")), method, network, card, devices.make_fabric(config.training)
    )
    trainer.keeps_failed_steps = False
    image = torch.randn(images, 3, size, size)
    label = torch.randint(0, len(space.classes), (images, size, size))
    batch = Batch(image, label, torch.arange(images) % 2, tuple(map(str, range(images))))
    trainer.step([batch])
    Path("/proc/self/clear_refs").write_text("5")  # forget the most that was resident so far
    trainer.step([batch])
    return counted, resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=384, help="side of the images")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.size, args.images)))
        return
    print(describe())
    print(f"{'network':>28} {'counted MiB':>11} {'measured MiB':>12} {'ratio':>6}")
    for name in CASES:
        command = [sys.executable, __file__, "--case", name, "--size", str(args.size), "--images", str(args.images)]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": "0"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        counted, measured = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:>28} {counted / 2**20:>11.0f} {measured / 2**20:>12.0f} {counted / measured:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
