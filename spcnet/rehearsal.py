"""`spcnet train --dry-run`: is the data there, does a step fit into memory, how long will it take?

Asked before hours are spent. Every domain is opened and its first image read; the memory of a training step is counted
from shapes alone, and where that fits some real steps are made and timed. Nothing is written.
"""

import dataclasses
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from spcnet.commands import check_unseen, domain_names, source_tests
from spcnet.config import DataConfig, DomainSpec, RunConfig
from spcnet.cost import kept_for_backward
from spcnet.data.datasets import SegmentationSet, open_domain
from spcnet.data.labels import LabelSpace, label_space
from spcnet.data.loading import evaluation_batches, training_batches
from spcnet.engine.devices import make_fabric
from spcnet.engine.optim import make_optimizer
from spcnet.engine.prepare import prepare
from spcnet.engine.trackers import check_installed
from spcnet.errors import CheckpointError, SpcnetError
from spcnet.evaluation import evaluator
from spcnet.evaluation.views import check_overlap
from spcnet.methods import Method, Segmentor, method_named
from spcnet.types import IGNORE_INDEX, Batch

STEPS = 4
"""Training steps that are made; the first warms up and is not timed, unless it is the only one."""
LONG = 20.0
"""Seconds of a first step after which no other is made."""


@dataclass(frozen=True)
class Domain:
    """One domain of a run, as it was found."""

    name: str
    role: str
    """source or test."""
    images: int = 0
    size: tuple[int, int] | None = None
    """Height and width of its first image."""
    read_seconds: float = 0.0
    """To read that one."""
    test_seconds: float | None = None
    """To score one image, where that was timed."""
    problem: str = ""


@dataclass
class Rehearsal:
    """What was found out."""

    domains: list[Domain] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    parameters: int = 0
    needed: int = 0
    """Bytes that a step needs, counted: weights, gradients, momentum, and what is kept for the backward pass."""
    available: int | None = None
    """Bytes that the device has free; None where it does not tell."""
    peak: int | None = None
    """Bytes that the steps took."""
    step_seconds: float | None = None
    """Of one training step, its batch at hand."""
    batch_seconds: float | None = None
    """To wait for one batch."""
    made_up: bool = False
    """Whether the steps were made with random images, because a source is missing."""

    @property
    def ready(self) -> bool:
        """Whether nothing is in the way."""
        return not self.problems and not any(domain.problem for domain in self.domains)


def rehearse(config: RunConfig, *, say: Callable[[str], object] = lambda text: None) -> Rehearsal:
    """Find out whether a run can be made, and what it will take.

    Args:
        config: the run.
        say: is told what is being done.

    Raises:
        UsageError: a setting makes no sense.
    """
    method = method_named(config.method)
    method.check(config.model)
    check_installed(config.logging)
    check_unseen(config.data)
    check_overlap(config.evaluation.window, config.evaluation.overlap, config.data.size)
    space = label_space(config.data.space)
    found = Rehearsal()
    say("opening the domains")
    sources = _open(config.data, space, found)
    # One process is like the others.
    fabric = make_fabric(dataclasses.replace(config.training, devices=1, nodes=1))
    network = _build(config, method, space, found)
    batch_size = config.data.images_per_domain * (
        1 if config.data.sampling == "alternating" else len(config.data.sources)
    )
    found.parameters = sum(p.numel() for p in network.parameters())
    network.recompute = config.training.activation_checkpointing
    found.needed = _counted(network, config, batch_size, len(space))
    found.available = _free(fabric.device)
    _check_disk(config.output, found)
    if found.available is not None and found.needed > found.available:
        found.problems.append(
            f"a step needs about {_bytes(found.needed)} and {fabric.device} has {_bytes(found.available)} free: lower "
            "data.images_per_domain or data.crop, raise model.output_stride, or use training.precision bf16-mixed"
        )
        return found
    # Not compiled, which takes minutes: time and memory are those of a plain step.
    prepared = prepare(network, dataclasses.replace(config.training, compile=False), device=fabric.device)
    wrapped, optimizer = fabric.setup(prepared, make_optimizer(network.parameters(), config.training))
    batches: Iterator[Batch] = repeat(_made_up(config, batch_size, len(space)))
    if len(sources) == len(config.data.sources):
        # To find the places of the classes would read every label, and store them beside the data.
        plainly = dataclasses.replace(config.data, class_uniform=0.0)
        loader = training_batches(sources, plainly, seed=config.training.seed, iterations=STEPS)
        batches = iter(loader)
    else:
        found.made_up = True
    say(f"making up to {STEPS} steps, {batch_size} images each, on {fabric.device}")
    waits, steps = [], []
    started = time.perf_counter()
    try:
        for number, batch in enumerate(islice(batches, STEPS)):
            waits.append(time.perf_counter() - started)
            image = batch.image.to(fabric.device, memory_format=torch.channels_last)
            batch = Batch(image, batch.label.to(fabric.device), batch.domain.to(fabric.device), batch.name)
            begun = time.perf_counter()
            wrapped.train()
            result = method.losses(network, wrapped(batch.image), batch, config.model, progress=number / STEPS)
            fabric.backward(result.loss)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.update(network, result, progress=number / STEPS)
            _wait_for(fabric.device)
            steps.append(time.perf_counter() - begun)
            if steps[0] > LONG:
                break
            started = time.perf_counter()
    except torch.OutOfMemoryError as error:
        found.problems.append(f"a step does not fit into the memory of {fabric.device}: {str(error).splitlines()[0]}")
        return found
    except SpcnetError as error:
        found.problems.append(str(error))
        return found
    later = waits[1:] or waits
    found.step_seconds, found.batch_seconds = min(steps[1:] or steps), sum(later) / len(later)
    found.peak = _peak(fabric.device)
    say("scoring some images of each domain")
    _time_tests(wrapped, config, space, fabric.device, found)
    return found


def _open(data: DataConfig, space: LabelSpace, found: Rehearsal) -> list[SegmentationSet]:
    """Open every domain and read its first image; what is wrong goes into the result."""
    sources = []
    wanted = [(text, "source") for text in data.sources]
    wanted += [(text, "test") for text in dict.fromkeys((*source_tests(data), *data.targets))]
    for text, role in wanted:
        try:
            opened = open_domain(DomainSpec.parse(text), data=data, space=space, training=role == "source")
            started = time.perf_counter()
            sample = opened.read(0)
            seconds = time.perf_counter() - started
        except SpcnetError as error:
            found.domains.append(Domain(text, role, problem=str(error)))
            continue
        size = (sample.label.shape[0], sample.label.shape[1])
        found.domains.append(Domain(text, role, len(opened), size, seconds))
        if role == "source":
            sources.append(opened)
    return sources


def _build(config: RunConfig, method: Method, space: LabelSpace, found: Rehearsal) -> Segmentor:
    build = {
        "num_classes": len(space),
        "num_domains": len(domain_names(config.data)),
        "cluster_domains": config.data.pseudo_domains > 0 and config.data.pseudo_by == "cluster",
    }
    try:
        return method.build(config.model, **build)  # type: ignore[arg-type]
    except CheckpointError as error:
        found.problems.append(str(error))
        return method.build(config.model, **build, pretrained=False)  # type: ignore[arg-type]


def _counted(network: Segmentor, config: RunConfig, batch_size: int, num_classes: int) -> int:
    """Bytes of a training step in single precision, from shapes alone."""
    size = config.data.crop or config.data.size
    assert size is not None
    with FakeTensorMode(allow_non_fake_inputs=True):
        kept = kept_for_backward(network, torch.empty(1, 3, *size))
    network.zero_grad(set_to_none=True)
    scores = 4 * num_classes * size[0] * size[1]
    own = sum(p.numel() * p.element_size() for p in network.parameters())
    # The scores' logarithms are kept for the backward pass of the loss, and their gradient is as large again.
    return 3 * own + batch_size * (kept + 2 * scores)


def _made_up(config: RunConfig, batch_size: int, num_classes: int) -> Batch:
    size = config.data.crop or config.data.size
    assert size is not None
    dice = torch.Generator().manual_seed(0)
    label = torch.randint(0, num_classes, (batch_size, *size), generator=dice)
    label[:, 0] = IGNORE_INDEX
    domain = torch.arange(batch_size) % len(domain_names(config.data))
    image = torch.randn(batch_size, 3, *size, generator=dice)
    return Batch(image, label, domain, tuple(f"made up {i}" for i in range(batch_size)))


def _time_tests(
    network: nn.Module, config: RunConfig, space: LabelSpace, device: torch.device, found: Rehearsal
) -> None:
    for index, domain in enumerate(found.domains):
        if domain.role == "source" or domain.problem:
            continue
        spec = DomainSpec.parse(domain.name)
        plain = open_domain(spec, data=config.data, space=space, training=False)
        limit = min(len(plain), config.evaluation.batch_size)
        started = time.perf_counter()
        try:
            evaluator.evaluate(
                network,
                evaluation_batches(plain, config.data, domain=0, batch_size=config.evaluation.batch_size, limit=limit),
                num_classes=len(space),
                device=device,
                panels=0,
            )
        except SpcnetError as error:
            found.domains[index] = Domain(domain.name, domain.role, domain.images, domain.size, problem=str(error))
            continue
        seconds = (time.perf_counter() - started) / limit
        found.domains[index] = Domain(
            domain.name, domain.role, domain.images, domain.size, domain.read_seconds, seconds
        )


def _check_disk(output: Path, found: Rehearsal) -> None:
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free, wanted = shutil.disk_usage(there).free, 2 * 2 * 4 * found.parameters
    if not os.access(there, os.W_OK):
        found.problems.append(f"cannot write to {there}: choose another --output")
    if free < wanted:
        found.problems.append(
            f"{there} has {_bytes(free)} free, and the run's checkpoints take {_bytes(wanted)}: make room or choose "
            "another --output"
        )


def _free(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    amounts = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        amounts += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # the limit of a container
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        amounts.append(int(Path("/sys/fs/cgroup/memory.max").read_text()) - used)
    return min(amounts, default=None)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def show(found: Rehearsal, config: RunConfig, console: Console) -> None:
    """Print what was found out."""
    table = Table(box=SIMPLE)
    for title in ("domain", "role"):
        table.add_column(title)
    for title in ("images", "first image", "read ms", "test"):
        table.add_column(title, justify="right")
    for domain in found.domains:
        if domain.problem:
            table.add_row(domain.name, domain.role, "missing", "", "", "", style="red")
            continue
        height, width = domain.size or (0, 0)
        whole = "" if domain.test_seconds is None else _time(domain.test_seconds * _scored(domain.images, config))
        table.add_row(
            domain.name,
            domain.role,
            f"{domain.images:,}",
            f"{width}×{height}",
            f"{1000 * domain.read_seconds:.0f}",
            whole,
        )
    console.print(table)
    lines = [f"network     {found.parameters / 1e6:.1f} million parameters"]
    free = "" if found.available is None else f", {_bytes(found.available)} are free"
    peak = "" if found.peak is None else f"; the process took {_bytes(found.peak)} at most"
    lines.append(f"memory      a step needs about {_bytes(found.needed)} in single precision{free}{peak}")
    if found.step_seconds is not None and found.batch_seconds is not None:
        each = found.step_seconds + found.batch_seconds
        how = "with random images" if found.made_up else f"and {1000 * found.batch_seconds:.0f} ms of waiting for data"
        lines.append(f"a step      {_time(found.step_seconds)} {how}")
        lines.append(
            f"training    {_time(each * config.training.iterations)} for {config.training.iterations:,} iterations"
        )
        tested = sum((d.test_seconds or 0) * _scored(d.images, config) for d in found.domains)
        if tested:
            times = 1
            if config.training.evaluate_every:
                times = math.ceil(config.training.iterations / config.training.evaluate_every)
            lines.append(f"testing     {_time(tested)}{f', {times} times' if times > 1 else ''}")
    if config.expected:
        lines.append(f"expected    {config.expected}")
    console.print("\n".join(lines), highlight=False, markup=False)
    for problem in dict.fromkeys((*(d.problem for d in found.domains if d.problem), *found.problems)):
        console.print(f"problem     {problem}", style="red", highlight=False, markup=False)
    console.print("Ready: nothing was written." if found.ready else "Not ready: see the problems.", highlight=False)


def _scored(images: int, config: RunConfig) -> int:
    return min(images, config.evaluation.limit or images)


def _bytes(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"
