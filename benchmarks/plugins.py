"""What each plug-in adds to a training step, as a ratio to the plain baseline's.

What is measured: `Trainer.step`, that is forward, losses, backward, optimiser and updates of a batch that is already in memory,
with every plug-in of the registry in its default settings. All take turns in each round, so that a busy machine slows all
alike; the table has the fastest step, its ratio to the fastest plain one, and the median of the ratios within a round. The plain
baseline stands in the table twice: the second one tells how exact a ratio is. A plug-in that changes only some batches is timed over
as many iterations as there are rounds. One that compares two views and alters nothing itself is timed beside `pasta`.

    python benchmarks/plugins.py --rounds 20
"""

import argparse
import time

import torch
from _machine import describe, median
from _training import make_trainer

from spcnet.engine.trainer import Trainer
from spcnet.errors import SpcnetError
from spcnet.numerics import keep_freed_memory
from spcnet.plugins import PLUGINS
from spcnet.types import Batch

PLAIN, AGAIN = "(none)", "(none, again)"


def main() -> None:
    """Time the steps and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), help="height and width")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--method", default="deeplabv3plus")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    keep_freed_memory()
    trainers, refused = {}, {}
    for name in (PLAIN, AGAIN, *PLUGINS):
        # One that compares two views needs another that alters one of them.
        for beside in ([], ["pasta"]):
            plugins = [*beside, name] if name in PLUGINS else []
            try:
                trainers[", ".join([*beside, name])] = make_trainer(
                    args.method, args.backbone, classes=19, domains=2, device=args.device, plugins=plugins
                )
                break
            except SpcnetError as error:
                refused[name] = str(error)
        else:
            continue
        refused.pop(name, None)
    batch = batch_of(args)
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(args.rounds + 2):
        for name, trainer in trainers.items():
            seconds = timed(trainer, batch)
            if number >= 2:
                times[name].append(seconds)
    print(
        f"{args.method}, {args.backbone}, {args.images} images of {args.size[0]}×{args.size[1]}; {describe(args.device)}\n"
    )
    print("| plug-in | fastest step, ms | ratio | median ratio |\n|---|---|---|---|")
    for name, own in times.items():
        ratios = [one / plain for one, plain in zip(own, times[PLAIN], strict=True)]
        print(f"| {name} | {1e3 * min(own):.0f} | {min(own) / min(times[PLAIN]):.2f} | {median(ratios):.2f} |")
    for name, message in refused.items():
        print(f"\n{name}: not timed ({message})")


def batch_of(args: argparse.Namespace) -> Batch:
    """Random images and labels, half of each of two domains."""
    dice = torch.Generator().manual_seed(0)
    shape = (args.images, *args.size)
    image = torch.randn(args.images, 3, *args.size, generator=dice)
    label = torch.randint(0, 19, shape, generator=dice)
    domain = torch.arange(args.images) * 2 // args.images
    return Batch(image, label, domain, tuple(map(str, range(args.images))))


def timed(trainer: Trainer, batch: Batch) -> float:
    """Seconds of one step."""
    begin = time.perf_counter()
    result = trainer.step([batch])
    float(result.loss.detach())  # a GPU has to be waited for
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
