"""A training step of SPC-Net against one of the baseline.

What is measured: forward, losses, backward, optimiser and update of one batch, with the code that training runs, from
images that are already in memory. By default ResNet-50 at 8 images of 256×256, 19 classes, 2 domains, single precision,
on the processor. The two networks take turns, so that a busy machine slows both; the table has medians, the fastest
step, the processor time (all threads), and two peaks of memory of a process that trains this network alone. `needed` is
what a step needs: each large block goes back to the system as soon as it is free. `held` is what a training process
holds: it keeps free blocks for speed, and how well the next ones fit into them is the C library's doing, not the
network's (docs/LOG.md). On a GPU both are what the tensors took.

Below stand the method's own parts, each with its backward pass, by itself on the features of that batch, and its share
of the baseline's step. For the head and the losses that is what they cost beyond the baseline's.

    python benchmarks/step.py --backbone mobilenet_v2 --size 128 256
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from _machine import describe, median
from _training import make_trainer
from torch import Tensor

from spcnet.models.backbones import BACKBONES
from spcnet.numerics import keep_freed_memory, peak_memory
from spcnet.types import Batch, SegOutput

NETWORKS = {"baseline": "deeplabv3plus", "spcnet": "spcnet"}


class Subject:
    """One network with its optimiser, and a batch to train on."""

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        self.args = args
        self.trainer = make_trainer(
            NETWORKS[name],
            args.backbone,
            classes=args.classes,
            domains=args.domains,
            device=args.device,
            precision=args.precision,
        )
        self.method, self.network, self.model = self.trainer.method, self.trainer.network, self.trainer.config.model
        self.network.train()
        self.batch = batch_of(args)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.precision == "bf16-mixed")

    def forward(self) -> SegOutput:
        with self.autocast():
            output: SegOutput = self.network(self.batch.image)
        return output

    def step(self) -> None:
        self.trainer.step([self.batch])


def batch_of(args: argparse.Namespace) -> Batch:
    dice = torch.Generator().manual_seed(1)
    image = torch.randn(args.images, 3, *args.size, generator=dice).to(args.device, memory_format=torch.channels_last)
    label = torch.randint(0, args.classes, (args.images, *args.size), generator=dice).to(args.device)
    domain = torch.arange(args.images, device=args.device) % args.domains
    return Batch(image, label, domain, tuple(str(i) for i in range(args.images)))


def timed(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    started, worked = time.perf_counter(), time.process_time()
    work()
    wait()
    return time.perf_counter() - started, time.process_time() - worked


def parts(subjects: dict[str, Subject], args: argparse.Namespace) -> dict[str, float]:
    """Seconds of processor time (CUDA: by the clock) of what SPC-Net does and the baseline does not."""
    ours, plain = subjects["spcnet"], subjects["baseline"]
    seen: dict[str, Tensor] = {}
    layers = {"first": ours.network.styles[0], "second": ours.network.styles[1], "head": ours.network.classifier}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given, name=name: seen.update({name: given[0].detach()}))
        for name, layer in layers.items()
    ]
    output = ours.forward()
    for hook in hooks:
        hook.remove()

    def through(layer: torch.nn.Module, feature: Tensor) -> None:
        with ours.autocast():
            given = layer(feature.requires_grad_())
        outputs = given[:2] if layer is ours.network.classifier else given[:1]
        wanted = [value for value in outputs if isinstance(value, Tensor)] if isinstance(given, tuple) else [given]
        torch.autograd.backward(wanted, [torch.ones_like(value) for value in wanted])

    def losses(subject: Subject) -> None:
        leaf = output._replace(
            logits=output.logits.detach().requires_grad_(),
            embedding=None if output.embedding is None else output.embedding.detach().requires_grad_(),
        )
        subject.method.losses(subject.network, leaf, subject.batch, subject.model).loss.backward()

    result = ours.method.losses(ours.network, output, ours.batch, ours.model)
    works: dict[str, Callable[[], object]] = {
        "style layers": lambda: [through(layers[name], seen[name]) for name in ("first", "second")],
        "head": lambda: through(layers["head"], seen["head"]),
        "linear classifier": lambda: through(plain.network.classifier, seen["head"]),
        "losses": lambda: losses(ours),
        "losses of the baseline": lambda: losses(plain),
        "update": lambda: ours.method.update(ours.network, result, progress=0.5),
    }
    which = 0 if args.device == "cuda" else 1
    seconds = {
        name: median([timed(work, args.device)[which] for _ in range(args.steps + 1)][1:])
        for name, work in works.items()
    }
    return {
        "style layers": seconds["style layers"],
        "head": seconds["head"] - seconds["linear classifier"],
        "losses": seconds["losses"] - seconds["losses of the baseline"],
        "update": seconds["update"],
    }


def memory(args: argparse.Namespace, name: str, *, keep: bool) -> float:
    """Peak MiB of a training step, in a process that trains this network alone, with free blocks kept or given back."""
    options = [f"--{key}={getattr(args, key)}" for key in ("backbone", "images", "classes", "domains", "device")]
    command = [sys.executable, __file__, f"--work={name}", *options, f"--precision={args.precision}"]
    command += ["--threads", str(args.threads), "--size", *map(str, args.size), *(["--keep"] if keep else [])]
    # A fixed threshold; by itself it grows with the blocks that are freed. Only glibc reads it.
    environment = os.environ | ({} if keep else {"MALLOC_MMAP_THRESHOLD_": str(2**20)})
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(done.stdout))


def work(args: argparse.Namespace) -> None:
    if args.keep:
        keep_freed_memory()  # as training does
    before = peak_memory(torch.device(args.device))
    subject = Subject(args, args.work)
    for _ in range(2):  # the optimiser's momentum is there from the second step on
        subject.step()
    print(json.dumps(peak_memory(torch.device(args.device)) - before))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50", choices=sorted(BACKBONES), help="feature extractor")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), help="height and width of an image")
    parser.add_argument("--images", type=int, default=8, help="images in the batch")
    parser.add_argument("--classes", type=int, default=19, help="number of classes")
    parser.add_argument("--domains", type=int, default=2, help="number of source domains")
    parser.add_argument("--steps", type=int, default=5, help="steps of each network that are timed")
    parser.add_argument("--threads", type=int, default=1, help="threads on the processor")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to compute")
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"), help="precision")
    parser.add_argument("--work", choices=tuple(NETWORKS), help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.work:
        work(args)
        return
    print(
        f"{args.backbone}, {args.images}×3×{args.size[0]}×{args.size[1]}, {args.classes} classes, {args.domains} "
        f"domains, {args.precision}, {args.device}"
    )
    megabytes = {name: tuple(memory(args, name, keep=keep) for keep in (False, True)) for name in NETWORKS}
    keep_freed_memory()  # as training does
    subjects = {name: Subject(args, name) for name in NETWORKS}
    seconds: dict[str, list[float]] = {name: [] for name in NETWORKS}
    busy: dict[str, list[float]] = {name: [] for name in NETWORKS}
    for turn in range(args.steps + 1):
        for name, subject in subjects.items():
            wall, processor = timed(subject.step, args.device)
            if turn:  # the first loads kernels
                seconds[name].append(wall)
                busy[name].append(processor)
    print(f"{'network':>14} {'median s':>9} {'fastest s':>9} {'processor s':>11} {'needed MiB':>10} {'held MiB':>9}")
    rows = {
        name: (median(seconds[name]), min(seconds[name]), median(busy[name]), *megabytes[name]) for name in NETWORKS
    }
    for name, row in rows.items():
        print(f"{name:>14} {row[0]:>9.3f} {row[1]:>9.3f} {row[2]:>11.3f} {row[3]:>10.0f} {row[4]:>9.0f}")
    ratios = [ours / plain for ours, plain in zip(rows["spcnet"], rows["baseline"], strict=True)]
    print("{:>14} {:>9.3f} {:>9.3f} {:>11.3f} {:>10.3f} {:>9.3f}".format("ratio", *ratios))
    whole = rows["baseline"][0 if args.device == "cuda" else 2]
    print("beyond the baseline, in processor time:" if args.device == "cpu" else "beyond the baseline:")
    for name, value in parts(subjects, args).items():
        print(f"{name:>14} {1000 * value:>8.1f} ms {100 * value / whole:>8.1f} %")
    print(describe(args.device))


if __name__ == "__main__":
    main()
