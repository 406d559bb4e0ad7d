"""What training costs, and how the cost grows: baseline, ISW and SPC-Net, by image size, domains, classes, processes.

From one point (crop 256, M = 2 source domains, K = 19 classes, R = 1 process) one of the four is varied at a time. A
row has the seconds of a training step, the images per second, and the peak of memory of a process that trains this
network alone; its shares are those of the batch (data), the forward pass, the losses with what is learnt without a
gradient (style bases, prototypes), the backward pass, and the optimiser. The networks take turns, so that a busy machine
slows all; figures are medians. `ratio` is against the baseline in the same row; on the processor it is of computing
time, which a busy machine changes little. `grows` is against the first row of the same axis, along R by the clock.

The networks train on random images; `data` is what `spcnet.data.loading` takes to prepare as many generated streets in
the process that trains (scale, crop, flip, jitter, blur). In a real run worker processes do that meanwhile.

With R processes the batch is divided between them, each has its share of the threads, and their gradients and sums are
joined as in training (DistributedDataParallel; gloo on processors, so not on a GPU: there R stays 1).

    python benchmarks/train.py --plot growth.png
    python benchmarks/train.py --quick
    python benchmarks/train.py --flat

`--flat` instead trains a tiny network for 2,000 steps by `spcnet train`, on the processor, notes the process's resident
memory every 100 steps, and says whether it stays flat.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from _machine import describe, median
from _training import make_trainer

from spcnet import distributed
from spcnet.config import DataConfig, DomainSpec, TrainingConfig
from spcnet.data.datasets import open_domain
from spcnet.data.loading import training_batches
from spcnet.engine.devices import make_fabric
from spcnet.labels import label_space
from spcnet.models.backbones import BACKBONES
from spcnet.numerics import keep_freed_memory, peak_memory
from spcnet.types import IGNORE_INDEX, Batch

NETWORKS = {"baseline": "deeplabv3plus", "isw": "isw", "spcnet": "spcnet"}
PHASES = ("data", "forward", "losses", "backward", "optimiser")
AXES = {"size": "crop in pixels", "domains": "source domains M", "classes": "classes K", "processes": "processes R"}
GRID = {"size": (256, 384, 512, 768), "domains": (1, 2, 5, 10), "classes": (7, 19, 65, 150), "processes": (1, 2)}
QUICK = {"size": (64, 96), "domains": (2, 10), "classes": (19, 150), "processes": (1, 2)}
POINT = {"domains": 2, "classes": 19, "processes": 1}
AIM = 1.10
"""At most so many times the baseline's step SPC-Net's should take."""
LEAST_STEPS = 3
MEMORY_STEPS = 2
"""The optimiser's momentum is there from the second step on."""
SOURCES = ("streets/game", "streets/toy")


class Clock:
    """Seconds by the clock and of the processor (all threads) of each phase of a step."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, tuple[float, float]] = {}
        self.last = self._now()

    def _now(self) -> tuple[float, float]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def begin(self) -> None:
        self.last = self._now()

    def lap(self, phase: str) -> None:
        now, before = self._now(), self.seconds.get(phase, (0.0, 0.0))
        self.seconds[phase] = (before[0] + now[0] - self.last[0], before[1] + now[1] - self.last[1])
        self.last = self._now()


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
            devices=args.processes,
        )
        self.batch = batch_of(args)
        if self.trainer.statistics_at is not None:  # what selective whitening removes is selected once in a run
            self.trainer.take_statistics([[self.batch]])
        self.clock = Clock(args.device)
        self._watch()

    def _watch(self) -> None:
        """Let the clock know where one phase of a step ends and the next begins."""
        self.trainer.network.register_forward_hook(lambda *_: self.clock.lap("forward"))
        fabric, optimizer = self.trainer.fabric, self.trainer.optimizer
        backward = fabric.backward

        def timed_backward(loss: torch.Tensor) -> None:
            self.clock.lap("losses")
            backward(loss)
            self.clock.lap("backward")

        fabric.backward = timed_backward  # type: ignore[method-assign,assignment]
        optimizer.register_step_post_hook(lambda *_: self.clock.lap("optimiser"))

    def step(self, clock: Clock) -> None:
        self.clock = clock
        clock.begin()
        self.trainer.step([self.batch])
        clock.lap("losses")


def share_of(args: argparse.Namespace) -> int:
    """Images of the batch that this process has."""
    return max(1, args.images // args.processes)


def batch_of(args: argparse.Namespace) -> Batch:
    dice, images = torch.Generator().manual_seed(1 + distributed.rank()), share_of(args)
    image = torch.randn(images, 3, args.size, args.size, generator=dice)
    # Classes in blocks, as in a street: a pixel's neighbours mostly have its class.
    coarse = torch.randint(
        0, args.classes, (images, 1, max(1, args.size // 16), max(1, args.size // 16)), generator=dice
    )
    label = torch.nn.functional.interpolate(coarse.float(), (args.size, args.size)).long().squeeze(1)
    label[:, : args.size // 32] = IGNORE_INDEX
    domain = (torch.arange(images) + distributed.rank() * images) % args.domains
    moved = image.to(args.device, memory_format=torch.channels_last)
    return Batch(moved, label.to(args.device), domain.to(args.device), tuple(str(i) for i in range(images)))


def streets(args: argparse.Namespace) -> Iterator[Batch]:
    """Batches of generated streets, by the way that training images go."""
    sources = SOURCES[: min(args.domains, share_of(args), len(SOURCES))]
    data = DataConfig(
        sources=list(sources),
        targets=[],
        size=(args.size, 2 * args.size),
        crop=(args.size, args.size),
        images_per_domain=max(1, share_of(args) // len(sources)),
        workers=0,
    )
    space = label_space(data.space)
    sets = [open_domain(DomainSpec.parse(source), data=data, space=space, training=True) for source in sources]
    options = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    return iter(training_batches(sets, data, seed=0, iterations=range(args.steps + 1), **options))


def work(args: argparse.Namespace) -> None:
    """In a process of its own: time all networks in turns, or take the peak of memory of one."""
    if args.processes > 1:
        # As a launcher says it, so that the trainer's own devices find each other.
        rank, world, (host, port) = str(args.rank), str(args.processes), args.meet.split(":")
        os.environ |= {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
            "GROUP_RANK": "0",
        }
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "benchmark"}
        make_fabric(TrainingConfig(accelerator=args.device, devices=args.processes))
    if args.device == "cpu":
        keep_freed_memory()  # as training does
    found: dict[str, Any]
    if args.work == "time":
        found = timed(args)
    else:
        before = peak_memory(torch.device(args.device))
        subject = Subject(args, args.work)
        for _ in range(MEMORY_STEPS):
            subject.step(Clock(args.device))
        found = {"bytes": 2**20 * (peak_memory(torch.device(args.device)) - before)}
    if args.rank == 0:
        print(json.dumps(found | {"machine": describe(args.device)}))
    if args.processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def timed(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, by the clock and of the processor, of each phase of each network in each turn."""
    subjects = {name: Subject(args, name) for name in NETWORKS}
    batches = streets(args)
    laps: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in NETWORKS}
    for turn in range(args.steps + 1):
        data = Clock(args.device)
        data.begin()
        next(batches)
        data.lap("data")
        for name, subject in subjects.items():
            clock = Clock(args.device)
            if args.processes > 1:
                dist.barrier()
            subject.step(clock)
            if turn:  # the first loads kernels
                laps[name].append(data.seconds | clock.seconds)
    return {"laps": laps}


class Figures(NamedTuple):
    """What one network cost at one point."""

    seconds: float
    """Of a step by the clock, without data."""
    busy: float
    """Of a step in computing time of a process (CUDA: by the clock), without data."""
    rate: float
    """Images per second, without data."""
    mebibytes: float
    """Peak beyond what the process had before the network, of one process."""
    shares: dict[str, float]
    """Of each phase, with data, in computing time."""


def measure(args: argparse.Namespace, point: dict[str, int]) -> tuple[dict[str, Figures], str]:
    found = spawn(args, point, "time")
    which = 0 if args.device == "cuda" else 1
    figures = {}
    for name in NETWORKS:
        laps = found["laps"][name]
        phases = {phase: median([lap[phase][which] for lap in laps]) for phase in PHASES}
        seconds, busy = (median([sum(lap[phase][kind] for phase in PHASES[1:]) for lap in laps]) for kind in (0, which))
        images = point["processes"] * max(1, args.images // point["processes"])
        figures[name] = Figures(
            seconds,
            busy,
            images / seconds,
            spawn(args, point, name)["bytes"] / 2**20,
            {phase: value / sum(phases.values()) for phase, value in phases.items()},
        )
    return figures, found["machine"]


def spawn(args: argparse.Namespace, point: dict[str, int], what: str) -> dict[str, Any]:
    """Run `work` in as many processes as the point has; what the first of them found."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        meet = f"127.0.0.1:{found.getsockname()[1]}"
    options = {key: getattr(args, key) for key in ("backbone", "images", "steps", "device", "precision")} | point
    options["threads"] = max(1, args.threads // point["processes"])
    command = [sys.executable, __file__, f"--work={what}", f"--meet={meet}"]
    command += [f"--{key}={value}" for key, value in options.items()]
    environment = os.environ | {"OMP_NUM_THREADS": str(options["threads"])}
    running = [
        subprocess.Popen([*command, f"--rank={rank}"], stdout=subprocess.PIPE, text=True, env=environment)
        for rank in range(point["processes"])
    ]
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit(f"measuring {what} at {point} failed; its error stands above")
    answer: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return answer


def show_titles(axis: str) -> None:
    print(f"\n{AXES[axis]}")
    print(
        f"{axis:>9} {'network':>9} {'s/step':>8} {'images/s':>8} {'MiB':>7} {'ratio':>6} {'ratio MiB':>9} {'grows':>6} "
        + " ".join(f"{phase:>9}" for phase in PHASES)
    )


def show(axis: str, value: int, figures: dict[str, Figures], first: dict[str, Figures]) -> None:
    """What the networks cost at one point, against the baseline there, and against the first point of the axis."""
    plain = figures["baseline"]
    for name, own in figures.items():
        # Processes wait for each other, and a processor computes while it waits.
        grows = own.seconds / first[name].seconds if axis == "processes" else own.busy / first[name].busy
        ratios = f"{own.busy / plain.busy:>6.3f} {own.mebibytes / plain.mebibytes:>9.3f} {grows:>6.2f}"
        shares = " ".join(f"{100 * own.shares[phase]:>7.1f} %" for phase in PHASES)
        print(
            f"{value:>9} {name:>9} {own.seconds:>8.3f} {own.rate:>8.2f} {own.mebibytes:>7.0f} {ratios} {shares}",
            flush=True,
        )


def plot(path: Path, table: dict[str, dict[int, dict[str, Figures]]]) -> None:
    """Seconds of a step and memory along each axis, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(table), 5.6), layout="constrained")
    panels = figure.subplots(2, len(table), squeeze=False)
    kinds: tuple[tuple[str, Callable[[Figures], float]], ...] = (
        ("seconds per step", lambda own: own.seconds),
        ("peak memory of a process, MiB", lambda own: own.mebibytes),
    )
    for column, (axis, rows) in enumerate(table.items()):
        for row, (title, value) in enumerate(kinds):
            panel = panels[row][column]
            for name, marker in zip(NETWORKS, "os^", strict=True):
                panel.plot(list(rows), [value(figures[name]) for figures in rows.values()], marker=marker, label=name)
            panel.set_ylim(0, 1.08 * max(value(own) for figures in rows.values() for own in figures.values()))
            panel.set_xticks(list(rows))
            panel.grid(alpha=0.3)
            panel.set_xlabel(AXES[axis])
            if column == 0:
                panel.set_ylabel(title)
    panels[0][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


def flat(steps: int, every: int) -> None:
    """Resident memory of a training process, step by step; whether it stays flat."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = {
            "method": "spcnet",
            "model.backbone": "shufflenet_v2",
            "model.output_stride": "32",
            "model.weights": "null",
            "data.size": "[48,64]",
            "data.images_per_domain": "1",
            "data.train_scenes": "50",
            "data.test_scenes": "1",
            "data.targets": "[streets/night]",
            "data.workers": "0",
            "training.iterations": str(steps),
            "training.log_every": str(every),
            "training.checkpoint_every": str(max(every, steps // 4)),
            "training.accelerator": "cpu",
            "evaluation.panels": "0",
            "output": str(run),
        }
        command = [sys.executable, "-m", "spcnet", "train", *(f"--{key}={value}" for key, value in options.items())]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        samples: dict[int, float] = {}
        print(f"spcnet, shufflenet_v2, 2 images of 48×64, {steps} steps, resident memory of the process:")
        while process.poll() is None:
            time.sleep(0.02)
            log = run / "train.jsonl"
            done = log.read_text().count("\n") * every if log.is_file() else 0
            if done and done not in samples and (used := resident(process.pid)):
                samples[done] = used
                print(f"{done:>7} {used:>8.1f} MiB", flush=True)
        if process.returncode:
            sys.exit("the training failed; its error stands above")
    # The first quarter warms up: kernels, buffers of the allocator, the first checkpoint.
    later = [used for done, used in samples.items() if done > steps // 4]
    half = len(later) // 2
    if not half:
        sys.exit("too few samples: the training was over before they were taken")
    growth = median(later[half:]) - median(later[:half])
    share = growth / median(later[:half])
    verdict = "flat" if share < 0.01 else "NOT flat"
    print(
        f"from the first half to the second, after a warm-up of {steps // 4} steps: {growth:+.1f} MiB ({100 * share:+.2f} %): "
        f"{verdict} (below 1 %)"
    )
    print(describe())


def resident(process: int) -> float:
    """MiB of memory that a process has; 0 where it has ended."""
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=False)
    return float(done.stdout) / 1024 if done.stdout.strip() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--backbone", default="resnet50", choices=sorted(BACKBONES), help="feature extractor")
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES), help="what is varied")
    parser.add_argument("--images", type=int, default=8, help="images in the batch, of all processes together")
    parser.add_argument("--steps", type=int, default=3, help="steps of each network that are timed at each point")
    parser.add_argument("--threads", type=int, default=cores, help="threads of all processes together")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to compute")
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"), help="precision")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    parser.add_argument("--quick", action="store_true", help="small sizes and a small network, to see that it runs")
    parser.add_argument("--flat", action="store_true", help="instead: whether memory stays flat over 2,000 steps")
    for option in ("size", *POINT):
        parser.add_argument(f"--{option}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=("time", *NETWORKS), help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--meet", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.work:
        work(args)
        return
    if args.flat:
        flat(*((200, 20) if args.quick else (2000, 100)))
        return
    grid = QUICK if args.quick else GRID
    if args.quick:
        args.backbone, args.images, args.steps = "shufflenet_v2", 4, LEAST_STEPS
    if args.steps < LEAST_STEPS:
        parser.error(f"--steps is {args.steps}: the ratio of single steps says nothing, time at least {LEAST_STEPS}")
    base = {"size": grid["size"][0], **POINT}
    print(
        f"{args.backbone}, {args.images} images in the batch, crop {base['size']}, M = {base['domains']}, K = {base['classes']}, "
        f"R = {base['processes']} unless varied; {args.precision}, {args.device}, {args.threads} {'threads' if args.threads > 1 else 'thread'}, "
        f"medians of {args.steps}"
    )
    known: dict[str, dict[str, Figures]] = {}
    table: dict[str, dict[int, dict[str, Figures]]] = {}
    machine = ""
    for axis in args.axes:
        values = grid[axis] if axis != "processes" or args.device == "cpu" else (1,)
        rows: dict[int, dict[str, Figures]] = {}
        show_titles(axis)
        for value in values:
            point = base | {axis: value}
            key = json.dumps(point)
            if key not in known:
                known[key], told = measure(args, point)
                machine = machine or told  # of the first point, whose process has all threads
            rows[value] = known[key]
            show(axis, value, rows[value], rows[values[0]])
        table[axis] = rows
    if args.plot:
        plot(args.plot, table)
        print(f"\nplot: {args.plot}")
    at_base = known.get(json.dumps(base)) or next(iter(known.values()))
    plain, ours = at_base["baseline"], at_base["spcnet"]
    print(
        f"\nSPC-Net's step against the baseline's: {ours.busy / plain.busy:.3f} in "
        f"{'time' if args.device == 'cuda' else 'computing time'}, {ours.seconds / plain.seconds:.3f} by the clock, "
        f"{ours.mebibytes / plain.mebibytes:.3f} in memory; the aim is at most {AIM:.2f} in time"
    )
    print(machine)


if __name__ == "__main__":
    main()
