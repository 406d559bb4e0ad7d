"""What makes labelling an image faster on a processor: each way alone, all of them together, beside the plain network.

One image of 512×1024, batch 1. Every way runs in a process of its own, in turns, so that a busy machine slows all alike;
figures are medians over all runs. `ratio` says how many times as fast as the plain network it is, by the clock and by
computing time (summed over threads), which a busy machine changes less.

- `plain`: the network as it was trained, called in inference mode.
- `torch bf16`: the same in bfloat16, channels last.
- `fold`, `fused`: the rewritings of `spcnet.inference.fast`, the first alone and both.
- `onnxruntime`, `openvino`, `openvino bf16`, `openvino int8`: engines of `spcnet.inference.engines`, int8 calibrated on
  generated streets. An engine that is not installed, or a precision that the processor lacks, is left out with the reason.
- `compiled`: `torch.compile` with frozen weights. Only with --compile, for it takes minutes; needs a C++ compiler.
- `picture`, `fast picture`: bytes to class map by `Predictor(engine="torch")` and by default.

Scores and labels of every way are compared with the plain network's; the last column says whether a figure counts: no
score differs by more than 1e-3, and 99.9 % of the labels are equal. The networks are trained for some steps on generated
streets, so that labels are no ties; --run takes the folder of a trained one.

    python benchmarks/inference.py
    python benchmarks/inference.py --networks spcnet/mobilenet_v2 --threads 1 --compile
    python benchmarks/inference.py --run runs/demo/spcnet-0
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import describe, median
from torch import Tensor, nn

from spcnet import training
from spcnet.config import DataConfig, EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from spcnet.data.transforms import normalise
from spcnet.export import comparison
from spcnet.inference.engines import Calibration, EngineOptions, Running
from spcnet.inference.fast import STEPS, Step, fused
from spcnet.inference.predictor import Predictor
from spcnet.labels import label_space
from spcnet.numerics import keep_freed_memory
from spcnet.runs import OpenRun

NETWORKS = ("spcnet/mobilenet_v2", "deeplabv3plus/mobilenet_v2", "spcnet/resnet50", "deeplabv3plus/resnet50")
SIZE = (512, 1024)
DIFFERENCE, EQUAL = 1e-3, 0.999
AIM = 1.6
"""So many times as fast as the plain network the best way should be."""

REWRITTEN: dict[str, tuple[Step, ...]] = {"fold": ("fold",), "fused": STEPS}
"""Ways that are rewritings, and which."""
ENGINES = {
    "torch bf16": ("torch", "bf16"),
    "onnxruntime": ("onnxruntime", "f32"),
    "openvino": ("openvino", "f32"),
    "openvino bf16": ("openvino", "bf16"),
    "openvino int8": ("openvino", "int8"),
}
"""Ways that are engines: name and precision."""
BASE = ("plain", *REWRITTEN, *ENGINES)
COMPILED = "compiled"
PICTURES = ("picture", "fast picture")


class Scores(nn.Module):
    """A network that answers with its scores alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image).logits
        return logits


def way(name: str, folder: Path, picture: Tensor) -> Callable[[], Tensor]:
    """What is to be timed; it answers with scores, or with labels where it is a picture's."""
    image = normalise(picture)[None]
    run = OpenRun(folder)
    network, card = run.network, run.card
    if name in PICTURES:
        predictor = Predictor(
            network,
            space=label_space(card.space),
            size=SIZE,
            device="cpu",
            engine="torch" if name == "picture" else "auto",
        )
        pixels = picture.permute(1, 2, 0).contiguous().numpy()
        return lambda: torch.from_numpy(predictor.predict(pixels).class_map)
    if name in REWRITTEN:
        keep_freed_memory()
        network = fused(network, steps=REWRITTEN[name])
    if name in ENGINES:
        engine, precision = ENGINES[name]
        options = EngineOptions(engine, precision, STREETS if precision == "int8" else None)
        running = Running(network, options, torch.device("cpu"))
        return lambda: running(image).logits
    if name == COMPILED:
        import torch._inductor.config as inductor

        inductor.freezing = True
        compiled = torch.compile(Scores(network.to(memory_format=torch.channels_last)))
        return lambda: compiled(image)
    return lambda: Scores(network)(image)


STREETS = Calibration("streets", lambda: iter(normalise(comparison.pictures(8, *SIZE)).split(1)))


def picture() -> Tensor:
    """A generated street of another seed than those that are trained on."""
    return comparison.pictures(1, *SIZE)[0]


def work(args: argparse.Namespace) -> None:
    """One process: run one way, write its times and what it answered."""
    torch.set_num_threads(args.threads[0])
    with torch.no_grad() if args.work == COMPILED else torch.inference_mode():
        run = way(args.work, args.run, picture())
        began = time.perf_counter()
        run()
        first = time.perf_counter() - began
        seconds, busy = [], []
        for _ in range(args.repeats):
            began, worked = time.perf_counter(), time.process_time()
            answer = run()
            seconds.append(time.perf_counter() - began)
            busy.append(time.process_time() - worked)
    np.save(args.into, answer.numpy())
    print(json.dumps({"seconds": seconds, "busy": busy, "first": first, "machine": describe()}))


def measured(name: str, threads: int, args: argparse.Namespace, folder: Path) -> dict[str, Any] | None:
    command = [sys.executable, __file__, f"--work={name}", f"--threads={threads}", f"--run={folder}"]
    command += [f"--repeats={args.repeats}", f"--into={folder / f'{name}.npy'}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        if name in ENGINES and "UsageError" in reason:
            print(f"{name} is not measured: {reason}")
            return None
        raise SystemExit(f"{name}: {reason}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def trained(network: str, folder: Path, steps: int) -> None:
    """A network that was trained on generated streets for some steps."""
    method, backbone = network.split("/")
    training.train(
        RunConfig(
            method=method,
            model=ModelConfig(backbone, weights=None),
            data=DataConfig(
                sources=["streets/game", "streets/toy"], targets=[], size=(128, 256), crop=(128, 128), workers=0
            ),
            training=TrainingConfig(iterations=steps, evaluate_every=steps),
            evaluation=EvaluationConfig(limit=1, panels=0),
            output=folder,
        ),
        overwrite=True,
    )


def compare(answer: np.ndarray, plain: np.ndarray) -> tuple[float, float]:
    """Largest difference of the scores, and the share of equal labels; of labels alone the second."""
    if answer.ndim == 2:
        return 0.0, float((answer == plain.argmax(axis=1)[0]).mean())
    same = answer.argmax(axis=1) == plain.argmax(axis=1)
    return float(np.abs(answer - plain).max()), float(same.mean())


def table(network: str, threads: int, args: argparse.Namespace, folder: Path) -> float:
    """Measure and print one table; gives the best ratio that counts."""
    names = [*BASE, *([COMPILED] if args.compile else []), *PICTURES]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    busy: dict[str, list[float]] = {name: [] for name in names}
    first: dict[str, float] = {}
    for _ in range(args.rounds):
        for name in list(names):
            found = measured(name, threads, args, folder)
            if found is None:
                names.remove(name)
                continue
            machine = found["machine"]
            seconds[name] += found["seconds"]
            busy[name] += found["busy"]
            first[name] = found["first"]
    print(f"\n{network}, {SIZE[0]}×{SIZE[1]}, {threads} thread(s); {machine}")
    print("| way | ms | ratio | computing ms | ratio | first call s | scores differ | equal labels | counts |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---|")
    plain = np.load(folder / "plain.npy")
    best = 0.0
    for name in names:
        against = "picture" if name in PICTURES else "plain"
        spent, worked = median(seconds[name]), median(busy[name])
        ratios = median(seconds[against]) / spent, median(busy[against]) / worked
        difference, equal = compare(np.load(folder / f"{name}.npy"), plain)
        counts = difference <= DIFFERENCE and equal >= EQUAL
        if counts and name not in PICTURES:
            best = max(best, ratios[0])
        print(
            f"| {name} | {1000 * spent:.0f} | {ratios[0]:.2f} | {1000 * worked:.0f} | {ratios[1]:.2f} | {first[name]:.1f} | "
            f"{difference:.1e} | {equal:.4%} | {'yes' if counts else 'no'} |",
            flush=True,
        )
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="METHOD/BACKBONE, each trained again")
    parser.add_argument("--run", type=Path, default=None, help="folder of a trained network, instead of --networks")
    parser.add_argument("--steps", type=int, default=20, help="training steps of each network")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()], help="numbers to try")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each way")
    parser.add_argument("--repeats", type=int, default=3, help="images in each process, after one to warm up")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile, too")
    parser.add_argument("--work", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    if args.compile and not (shutil.which("g++") or shutil.which("clang++")):
        print("torch.compile is not measured: it needs a C++ compiler such as g++, and there is none")
        args.compile = False
    networks = [args.run.name] if args.run else args.networks
    reached: list[tuple[str, int, float]] = []
    for network in networks:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if args.run:
                shutil.copytree(args.run, folder, dirs_exist_ok=True)
            else:
                trained(network, folder, args.steps)
            reached += [(network, threads, table(network, threads, args, folder)) for threads in args.threads]
    print()
    for network, threads, best in reached:
        word = "reached" if best >= AIM else "not reached"
        print(f"{network}, {threads} thread(s): {best:.2f} times as fast as plain; {AIM} {word}")


if __name__ == "__main__":
    main()
