"""Semantic clustering at the paper's size against a loop over classes and domains.

What is measured: class sums, compactness loss, discrimination loss, their gradient with respect to the embeddings, and
the update of the prototypes; not the network before them. By default 19 classes, 2 domains, 8 images of 192×192 pixels
(a 768×768 crop at a quarter of its size) with embeddings of size 256, in single precision.

- `spcnet`: the functions that training runs, `spcnet.losses.clustering` and `PrototypeHead.update`.
- `mask`: a plain loop; for each class and each domain the pixels are picked with a boolean mask over the batch.
- `slice`: the same loop, but the domain's images are cut out of the batch by position first, as the method's public
  code does; faster than `mask`, and only possible where the images of a domain stand together in equal numbers.

Each runs in a process of its own, in turns, so that a busy machine slows all alike. Time is the median over all runs;
the fastest stands beside it, and the processor time, summed over threads, which other programs disturb least. Memory is
the growth of the process's peak above the inputs, the gradient itself included. All must give the same losses, gradient
and prototypes, or the benchmark fails.

    python benchmarks/clustering.py --threads 1 2
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from _machine import describe, median
from torch import Tensor

from spcnet.losses.clustering import class_sums, compactness_loss, discrimination_loss, image_sums
from spcnet.models.heads.prototypes import PrototypeHead
from spcnet.numerics import peak_memory

MOMENTUM, TEMPERATURE = 0.999, 0.1
Result = tuple[Tensor, Tensor, Tensor, Tensor]
"""Compactness loss, discrimination loss, gradient of their sum, prototypes after the update."""


def by_spcnet(embedding: Tensor, label: Tensor, domain: Tensor, prototypes: Tensor) -> Result:
    num_classes, num_domains, dim = prototypes.shape
    head = PrototypeHead(num_classes, num_domains, in_channels=1, embedding_dim=dim, momentum=MOMENTUM)
    head.prototypes.copy_(prototypes)
    known = head.unit_prototypes
    sums = image_sums(embedding, label, domain, known)
    classes = class_sums(sums, domain, num_domains=num_domains)
    var = compactness_loss(classes)
    dis = discrimination_loss(classes, known, temperature=TEMPERATURE)
    (gradient,) = torch.autograd.grad(var + dis, embedding)
    head.update(classes)
    return var.detach(), dis.detach(), gradient, head.prototypes


def by_mask(embedding: Tensor, label: Tensor, domain: Tensor, prototypes: Tensor) -> Result:
    def chosen(k: int, m: int) -> Tensor:
        return embedding[(label == k) & (domain == m)[:, None]]

    return by_loop(embedding, prototypes, chosen)


def by_slice(embedding: Tensor, label: Tensor, domain: Tensor, prototypes: Tensor) -> Result:
    per_domain = len(embedding) // prototypes.shape[1]
    pixels, labels = embedding.split(per_domain), label.split(per_domain)

    def chosen(k: int, m: int) -> Tensor:
        return pixels[m][labels[m] == k]

    return by_loop(embedding, prototypes, chosen)


def by_loop(embedding: Tensor, prototypes: Tensor, chosen: Callable[[int, int], Tensor]) -> Result:
    num_classes, num_domains, _ = prototypes.shape
    known = F.normalize(prototypes, dim=-1)
    after = known.clone()
    var, dis = embedding.new_zeros(()), embedding.new_zeros(())
    for m in range(num_domains):
        for k in range(num_classes):
            pixels = chosen(k, m)
            if not len(pixels):
                continue
            var = var + (1 - pixels @ known[k, m]).square().mean()
            mean = F.normalize(pixels.mean(0), dim=0)
            similarity = torch.einsum("d,knd->kn", mean, known) / TEMPERATURE
            others = torch.cat([similarity[:k], similarity[k + 1 :]]).flatten()
            scores = torch.cat([similarity[k].mean()[None], others])[None]
            dis = dis + F.cross_entropy(scores, torch.zeros(1, dtype=torch.long))
            after[k, m] = F.normalize(MOMENTUM * known[k, m] + (1 - MOMENTUM) * mean.detach(), dim=0)
    var, dis = var / (num_classes * num_domains), dis / (num_classes * num_domains)
    (gradient,) = torch.autograd.grad(var + dis, embedding)
    return var.detach(), dis.detach(), gradient, after


CODES = {"mask": by_mask, "slice": by_slice, "spcnet": by_spcnet}


def inputs(args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings of unit length, labels in patches as streets have them, about one pixel in twenty ignored."""
    dice = torch.Generator().manual_seed(args.seed)
    embedding = torch.empty(args.images, args.size**2, args.dim)
    for image in embedding:  # one by one and in place: a peak before the measurement would hide the one in it
        image.normal_(generator=dice).div_(image.norm(dim=-1, keepdim=True))
    patches = torch.randint(0, args.classes + 1, (args.images, 1, 16, 16), generator=dice)
    patches[patches == args.classes] = 255
    label = F.interpolate(patches.float(), size=(args.size, args.size)).long().flatten(1)
    domain = torch.arange(args.images) // (args.images // args.domains)
    prototypes = torch.randn(args.classes, args.domains, args.dim, generator=dice)
    return embedding.requires_grad_(), label, domain, F.normalize(prototypes, dim=-1)


class Figures(NamedTuple):
    """What was measured of one code."""

    seconds: list[float]
    busy: list[float]
    bytes: int


def work(args: argparse.Namespace) -> None:
    """One process: run one of them, write its times, its memory and what it computed."""
    torch.set_num_threads(args.threads[0])
    step = CODES[args.work]
    embedding, label, domain, prototypes = inputs(args)
    step(embedding[:, :64], label[:, :64], domain, prototypes)  # loads the kernels
    before, seconds, busy = peak_memory(torch.device("cpu")), [], []
    for _ in range(args.repeats):
        started, worked = time.perf_counter(), time.process_time()
        var, dis, gradient, after = step(embedding, label, domain, prototypes)
        seconds.append(time.perf_counter() - started)
        busy.append(time.process_time() - worked)
        grown = int(2**20 * (peak_memory(torch.device("cpu")) - before))
        if len(seconds) < args.repeats:
            del gradient
    some = gradient.flatten(0, 1)[:: max(1, args.images * args.size**2 // 4096)]
    np.savez(args.into, var=var, dis=dis, gradient=some, prototypes=after)
    print(json.dumps({"seconds": seconds, "busy": busy, "bytes": grown, "machine": describe()}))


def measure(args: argparse.Namespace, name: str, threads: int, into: Path) -> dict[str, Any]:
    sizes = [
        f"--{option}={getattr(args, option)}"
        for option in ("images", "size", "dim", "classes", "domains", "repeats", "seed")
    ]
    command = [sys.executable, __file__, f"--work={name}", f"--threads={threads}", f"--into={into}", *sizes]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(first: Path, second: Path) -> float:
    """Largest relative difference of what the two computed."""
    a, b = np.load(first), np.load(second)
    return max(float(np.abs(a[key] - b[key]).max() / np.abs(b[key]).max()) for key in a.files)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for option, value, what in (
        ("images", 8, "images in the batch"),
        ("size", 192, "height and width of the embedding map"),
        ("dim", 256, "size of an embedding"),
        ("classes", 19, "number of classes"),
        ("domains", 2, "number of domains"),
        ("repeats", 3, "runs in a process"),
        ("rounds", 2, "processes for each"),
        ("seed", 0, "seed of the inputs"),
    ):
        parser.add_argument(f"--{option}", type=int, default=value, help=what)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="numbers of threads to try")
    parser.add_argument("--work", choices=tuple(CODES), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    if args.images % args.domains:
        parser.error(f"--images is {args.images}: it must be a multiple of --domains, {args.domains}")
    print(
        f"{args.images} images of {args.size}×{args.size} embeddings of size {args.dim}, {args.classes} classes, "
        f"{args.domains} domains; the embeddings and their gradient are "
        f"{args.images * args.size**2 * args.dim * 4 / 2**20:.0f} MiB each"
    )
    print(f"{'threads':>7} {'code':>7} {'median s':>9} {'fastest s':>9} {'processor s':>11} {'peak MiB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        into = {name: Path(folder) / f"{name}.npz" for name in CODES}
        for threads in args.threads:
            table = {name: Figures([], [], 0) for name in CODES}
            for _ in range(args.rounds):
                for name, figures in table.items():
                    found = measure(args, name, threads, into[name])
                    figures.seconds.extend(found["seconds"])
                    figures.busy.extend(found["busy"])
                    table[name] = figures._replace(bytes=max(figures.bytes, found["bytes"]))
            ours = table["spcnet"]
            for name, figures in table.items():
                print(
                    f"{threads:>7} {name:>7} {median(figures.seconds):>9.3f} {min(figures.seconds):>9.3f} "
                    f"{median(figures.busy):>11.3f} {figures.bytes / 2**20:>9.0f}"
                )
            for name in ("mask", "slice"):
                other = table[name]
                print(
                    f"{threads:>7} {name:>7} {median(other.seconds) / median(ours.seconds):>8.1f}× "
                    f"{min(other.seconds) / min(ours.seconds):>8.1f}× {median(other.busy) / median(ours.busy):>10.1f}× "
                    f"{other.bytes / ours.bytes:>8.2f}×   of spcnet"
                )
        difference = max(compare(into["spcnet"], into[name]) for name in ("mask", "slice"))
    print(f"largest relative difference of losses, gradient and prototypes: {difference:.1e}")
    print(found["machine"])
    if not difference < 1e-4:
        raise SystemExit("they do not agree")


if __name__ == "__main__":
    main()
