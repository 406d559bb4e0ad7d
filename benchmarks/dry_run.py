"""Does `spcnet train --dry-run` promise the time that the run then takes?

For gradient accumulation over 1 and 4 micro-batches, and for ISW with its statistics, a dry run and the run itself are made
in turns, each in a process of its own, on generated streets, with checkpoints, a log and two evaluations. Printed is what
was promised beside what was measured: of the training loop (steps, statistics, checkpoints, log) and of the whole run from
opening the data to the last score; the start of Python is in neither. The ratio of the medians should lie within 25 % of 1.

    python benchmarks/dry_run.py
    python benchmarks/dry_run.py --cases isw --turns 1 --iterations 24
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _machine import describe, median

from spcnet import dry_run, training
from spcnet.config import DataConfig, EvaluationConfig, ModelConfig, RunConfig, TrainingConfig, WhiteningConfig
from spcnet.engine.trainer import Trainer

AIM = 0.25
"""How far the ratio of promised and measured time may lie from 1."""
CASES = {"accumulate 1": ("spcnet", 1), "accumulate 4": ("spcnet", 4), "isw": ("isw", 1)}
"""Method, and micro-batches of an iteration."""


def settings(case: str, output: Path, iterations: int, workers: int) -> RunConfig:
    method, accumulate = CASES[case]
    iterations = max(4, iterations // accumulate)
    return RunConfig(
        method=method,
        model=ModelConfig(
            backbone="resnet18" if method == "isw" else "shufflenet_v2",
            weights=None,
            whitening=WhiteningConfig(start=0.25, trials=3, pairs=24),
        ),
        data=DataConfig(
            targets=["streets/night"],
            size=(96, 192),
            images_per_domain=2,
            train_scenes=60,
            test_scenes=24,
            workers=workers,
        ),
        training=TrainingConfig(
            iterations=iterations,
            accumulate=accumulate,
            accelerator="cpu",
            log_every=5,
            checkpoint_every=max(1, iterations // 3),
            evaluate_every=iterations // 2,
        ),
        evaluation=EvaluationConfig(panels=2),
        output=output,
    )


def promised(config: RunConfig) -> dict[str, float]:
    report = dry_run.rehearse(config)
    if not report.ready:
        sys.exit(f"the dry run says: {report.problems}")
    return {"training": report.training_seconds(config), "whole": report.total_seconds(config)}


def measured(config: RunConfig) -> dict[str, float]:
    """Of a real run; the evaluations within the loop are not of the loop."""
    spent = {"fit": 0.0, "score": 0.0}

    @contextlib.contextmanager
    def timing(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        spent[name] += time.perf_counter() - began

    fit, evaluate = Trainer.fit, Trainer._evaluate

    def timed_fit(trainer: Trainer, *args: Any, **options: Any) -> None:
        with timing("fit"):
            fit(trainer, *args, **options)

    def timed_evaluate(trainer: Trainer, *args: Any) -> None:
        with timing("score"):
            evaluate(trainer, *args)

    Trainer.fit, Trainer._evaluate = timed_fit, timed_evaluate  # type: ignore[method-assign]
    began = time.perf_counter()
    training.train(config)
    return {"training": spent["fit"] - spent["score"], "whole": time.perf_counter() - began}


def work(args: argparse.Namespace) -> None:
    """In a process of its own."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = settings(args.case, Path(folder) / "run", args.iterations, args.workers)
        found = (promised if args.work == "promised" else measured)(config)
    print(json.dumps(found))


def spawn(args: argparse.Namespace, case: str, what: str) -> dict[str, float]:
    options = [f"--{name}={getattr(args, name)}" for name in ("iterations", "workers", "threads")]
    command = [sys.executable, __file__, f"--work={what}", f"--case={case}", *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), help="what to run")
    parser.add_argument("--turns", type=int, default=3, help="dry runs and runs of each case, in turns")
    parser.add_argument("--iterations", type=int, default=60, help="micro-batches of a run")
    parser.add_argument("--workers", type=int, default=1, help="processes that load images")
    parser.add_argument("--threads", type=int, default=1, help="threads of the process that trains")
    parser.add_argument("--work", choices=("promised", "measured"), help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(args.turns):
        for case in args.cases:
            for what in ("promised", "measured"):
                for part, value in spawn(args, case, what).items():
                    seconds.setdefault((case, part, what), []).append(value)
    print(f"{'':>14} {'':>9} {'promised s':>10} {'measured s':>10} {'ratio':>6}")
    missed = 0
    for case in args.cases:
        for part in ("training", "whole"):
            dry, real = (median(seconds[case, part, what]) for what in ("promised", "measured"))
            missed += abs(dry / real - 1) > AIM
            print(f"{case:>14} {part:>9} {dry:>10.2f} {real:>10.2f} {dry / real:>6.2f}")
    print(f"{'all' if not missed else 'not all'} within {100 * AIM:.0f} %; medians of {args.turns}")
    print(describe())


if __name__ == "__main__":
    main()
