"""What training and inference cost on a GPU, beside the paper's figures; one command, under ten minutes.

Training: images a second and peak memory at 8 crops of 768×768, ResNet-50, 19 classes, 2 domains: forward, losses,
backward, optimiser and update, from images that are already there; baseline, SPC-Net and ISW. Inference: milliseconds
for one image of 2048×1024; baseline and SPC-Net. Both in single precision, bfloat16 and compiled. Times are medians
after a warm-up, on a GPU by its own events. Then the profiler says what a training step of SPC-Net spends its time on,
and whether it waits for the processor that launches its kernels.

The paper (Huang et al., CVPR 2023, Table 8) has 7.82 ms for the baseline and 9.98 ms for SPC-Net on a V100.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --size small     # the same code in a minute, to see that it runs
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from _machine import describe, median
from _training import make_trainer
from torch import nn
from torch.profiler import ProfilerActivity, profile

from spcnet.config import ModelConfig
from spcnet.cost import cost
from spcnet.engine.records import git_commit
from spcnet.methods import METHODS
from spcnet.models.network import Segmentor
from spcnet.types import Batch

CLASSES, DOMAINS = 19, 2
PAPER = {"deeplabv3plus": 7.82, "spcnet": 9.98}
"""Milliseconds an image, Table 8."""
NAMES = {"deeplabv3plus": "baseline", "spcnet": "SPC-Net", "isw": "ISW"}


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    backbone: str
    crop: int
    images: int
    image: tuple[int, int]
    warm_up: int
    repeats: int
    backend: str
    """Of torch.compile; `eager` only traces, which takes seconds."""


SCALES = {
    "paper": Scale("resnet50", 768, 8, (1024, 2048), 5, 20, "inductor"),
    "small": Scale("resnet18", 64, 2, (64, 128), 1, 2, "eager"),
}


@dataclass(frozen=True)
class Variant:
    """One way to run a network."""

    half: bool = False
    channels_last: bool = True
    compiled: bool = False

    def __str__(self) -> str:
        words = ["bf16" if self.half else "fp32", "channels-last" if self.channels_last else "contiguous"]
        return ", ".join([*words, *(["compiled"] if self.compiled else [])])

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


TRAINING = (Variant(), Variant(half=True), Variant(half=True, compiled=True))
INFERENCE = (Variant(channels_last=False), Variant(half=True, channels_last=False), *TRAINING, Variant(compiled=True))


class Bench:
    """The rows that are measured, until the time is over."""

    def __init__(self, scale: Scale, device: str, seconds: float) -> None:
        self.scale, self.device = scale, torch.device(device)
        self.end = time.monotonic() + seconds

    def build(self, method: str) -> Segmentor:
        torch.manual_seed(0)
        model = ModelConfig(self.scale.backbone, weights=None)
        network = METHODS[method].build(model, num_classes=CLASSES, num_domains=DOMAINS)
        moved: Segmentor = network.to(self.device)
        return moved

    def autocast(self, variant: Variant) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=variant.half)

    def called(self, network: nn.Module, variant: Variant) -> nn.Module:
        if not variant.compiled:
            return network
        torch._dynamo.reset()
        compiled = torch.compile(network, backend=self.scale.backend)
        assert isinstance(compiled, nn.Module)
        return compiled

    def step(self, method: str, variant: Variant) -> Callable[[], object]:
        """What makes one training step."""
        trainer = make_trainer(
            method,
            self.scale.backbone,
            classes=CLASSES,
            domains=DOMAINS,
            device=self.device.type,
            precision="bf16-mixed" if variant.half else "32-true",
        )
        trainer.prepared = self.called(trainer.network, variant)
        images, crop = self.scale.images, self.scale.crop
        batch = Batch(
            torch.randn(images, 3, crop, crop, device=self.device).contiguous(memory_format=variant.layout),
            torch.randint(0, CLASSES, (images, crop, crop), device=self.device),
            torch.arange(images, device=self.device) % DOMAINS,
            tuple(map(str, range(images))),
        )

        return lambda: trainer.step([batch])

    def milliseconds(self, work: Callable[[], object]) -> float:
        """Median time of a call, after a warm-up."""
        for _ in range(self.scale.warm_up):
            work()
        found = []
        for _ in range(self.scale.repeats):
            if self.device.type == "cuda":
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                begin.record()
                work()
                end.record()
                end.synchronize()
                found.append(begin.elapsed_time(end))
            else:
                started = time.perf_counter()
                work()
                found.append(1000 * (time.perf_counter() - started))
        return median(found)

    def train(self, method: str, variant: Variant) -> tuple[float, float]:
        """Milliseconds of a step, and its peak memory in MiB (0 on a processor)."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        spent = self.milliseconds(self.step(method, variant))
        return spent, torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0

    def infer(self, method: str, variant: Variant) -> float:
        """Milliseconds of one image."""
        network = self.build(method).eval().to(memory_format=variant.layout)
        called = self.called(network, variant)
        image = torch.randn(1, 3, *self.scale.image, device=self.device).contiguous(memory_format=variant.layout)

        def work() -> None:
            with torch.no_grad(), self.autocast(variant):
                called(image)

        return self.milliseconds(work)

    def tried(self, work: Callable[[], tuple[float, ...] | float]) -> tuple[float, ...] | float | str:
        """What was measured, or why it was not: one row that fails does not lose the others."""
        if time.monotonic() > self.end:
            return "not measured: out of time"
        try:
            return work()
        except torch.OutOfMemoryError:
            return "not measured: out of memory"
        except RuntimeError as error:
            return f"not measured: {str(error).strip().splitlines()[0][:100]}"

    def profiled(self) -> list[str]:
        """Lines that say where the time of a training step goes."""
        step, cuda, steps = self.step("spcnet", Variant(half=True)), self.device.type == "cuda", 3
        for _ in range(self.scale.warm_up):
            step()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self.wait()
        started = time.perf_counter()
        with profile(activities=activities) as seen:
            for _ in range(steps):
                step()
            self.wait()
        whole = 1e6 * (time.perf_counter() - started)
        spent: Counter[str] = Counter()
        for event in seen.key_averages():
            # Kernels are counted with the operation that launched them.
            if event.device_type.name == "CPU":
                spent[kind_of(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
        busy = sum(spent.values())
        if not busy:
            return ["not measured: the profiler saw nothing at work"]
        lines = ["| part of a training step | share |", "|---|---:|"]
        lines += [f"| {kind} | {100 * time / busy:.0f} % |" for kind, time in spent.most_common() if time > busy / 200]
        most, share = spent.most_common(1)[0]
        bound = f"{most} bind it ({100 * share / busy:.0f} % of the time at work)"
        if cuda and busy < 0.8 * whole:
            bound = f"the GPU waits {100 - 100 * busy / whole:.0f} % of the time: the launching of kernels binds it"
        elif cuda:
            bound += f", the GPU is at work {min(100.0, 100 * busy / whole):.0f} % of the time"
        return [*lines, "", f"SPC-Net, bf16, channels-last, not compiled: {bound}."]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


KINDS = {
    "convolutions": ("conv",),
    "norms": ("norm", "var_mean"),
    "optimiser": ("foreach", "fused_sgd"),
    "matrix products": ("mm", "bmm", "matmul", "linear", "einsum"),
    "resizing and pooling": ("upsample", "pool"),
    "entropy and softmax": ("softmax", "nll", "cross_entropy", "logsumexp"),
    "copies and casts": ("copy", "cat", "clone", "_to_", "contiguous", "fill", "zero"),
}
"""Kind of operation → what its name contains; the first that fits."""


def kind_of(name: str) -> str:
    """What to count an operation of the profiler as."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "element by element")


def training_table(bench: Bench) -> list[str]:
    lines = [
        "| training | variant | ms a step | images a second | peak MiB | × baseline |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for variant in TRAINING:
        plain = None
        for method in ("deeplabv3plus", "spcnet", "isw"):
            found = bench.tried(lambda method=method, variant=variant: bench.train(method, variant))  # type: ignore[misc]
            if not isinstance(found, tuple):
                lines.append(f"| {NAMES[method]} | {variant} | {found} | | | |")
                continue
            spent, peak = found
            plain = spent if method == "deeplabv3plus" else plain
            ratio = f"{spent / plain:.3f}" if plain is not None else ""
            memory = f"{peak:.0f}" if peak else ""
            rate = 1000 * bench.scale.images / spent
            lines.append(f"| {NAMES[method]} | {variant} | {spent:.1f} | {rate:.1f} | {memory} | {ratio} |")
    return lines


def inference_table(bench: Bench) -> list[str]:
    lines = [
        "| inference | baseline ms | SPC-Net ms | SPC-Net ÷ baseline | SPC-Net TFLOP/s |",
        "|---|---:|---:|---:|---:|",
    ]
    flops = 2 * cost("spcnet", bench.scale.backbone, size=bench.scale.image).macs
    for variant in INFERENCE:
        found = [
            bench.tried(lambda method=method, variant=variant: bench.infer(method, variant))  # type: ignore[misc]
            for method in PAPER
        ]
        cells = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in found]
        plain, ours = found
        both = isinstance(plain, float) and isinstance(ours, float)
        ratio = f"{ours / plain:.3f}" if both else ""  # type: ignore[operator]
        speed = f"{flops / ours / 1e9:.2f}" if isinstance(ours, float) else ""
        lines.append(f"| {variant} | {cells[0]} | {cells[1]} | {ratio} | {speed} |")
    plain, ours = PAPER.values()
    lines.append(f"| the paper, on a V100 | {plain} | {ours} | {ours / plain:.3f} | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="where to compute")
    parser.add_argument("--size", default="paper", choices=sorted(SCALES), help="the paper's sizes, or small ones")
    parser.add_argument("--minutes", type=float, default=8.0, help="after so many no further row is begun")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("not measured: no GPU")
        return
    scale = SCALES[args.size]
    torch.backends.cudnn.benchmark = True
    bench = Bench(scale, args.device, 60 * args.minutes)
    print(f"Commit {git_commit()}; {describe(args.device)}.")
    print(
        f"{scale.backbone}, {CLASSES} classes, {DOMAINS} domains; training: {scale.images} crops of "
        f"{scale.crop}×{scale.crop}; inference: one image of {scale.image[1]}×{scale.image[0]}; torch.compile with "
        f"{scale.backend}; single precision convolutions may use TF32: {torch.backends.cudnn.allow_tf32}.\n"
    )
    for table in (inference_table, training_table, Bench.profiled):
        print("\n".join(table(bench)), flush=True)
        print()


if __name__ == "__main__":
    main()
