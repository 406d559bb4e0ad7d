"""What a dry run finds out: the domains, the memory of a step, the pace of the iterations, and how long a run will take."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from spcnet.config import RunConfig


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
    """To score one image, where that was timed, on all devices together."""
    again_seconds: float | None = None
    """The same at a later evaluation, when generated scenes are known; None where it is as the first."""
    problem: str = ""


class Device(NamedTuple):
    """The memory of one device of a run."""

    name: str
    available: int | None
    """Bytes that were free; None where it does not tell. On a processor all processes have them together."""
    peak: int
    """Bytes that this process took at most: on a GPU by its tensors, elsewhere in all."""


class Pace(NamedTuple):
    """How fast iterations follow each other."""

    step: float
    """Seconds of a step, its batch at hand."""
    wait: float = 0.0
    """Seconds of waiting for its batch."""

    @property
    def seconds(self) -> float:
        """Of one iteration."""
        return self.step + self.wait


@dataclass
class Statistics:
    """What it takes to select what a whitening loss removes, once in a run."""

    at: int
    """Iteration before which that is done."""
    seconds: float
    pace: Pace
    """Of the iterations after it."""
    unseen: float
    """Share of the generated scenes that were neither trained on before nor in the statistics."""


@dataclass
class Rehearsal:
    """What was found out."""

    domains: list[Domain] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is not as one would wish, and does not stop the run."""
    parameters: int = 0
    trained: int = 0
    """Those of the parameters that training changes."""
    needed: int = 0
    """Bytes that a step needs, counted: weights, their average, gradients, the optimiser's memory, and what is kept for the
    backward pass."""
    checkpoint: int = 0
    """Bytes of a checkpoint."""
    devices: list[Device] = field(default_factory=list)
    """Of each process."""
    once_seconds: float = 0.0
    """What is done once: opening the domains, building the network, what the first step takes beyond another one, writing the
    finished network."""
    labels_seconds: float = 0.0
    """To find the classes in the source labels, with `data.class_uniform`, where that was not stored before."""
    fresh: Pace | None = None
    """The pace while generated scenes are drawn for the first time; of sets of files the only one."""
    known: Pace | None = None
    """The pace once all generated scenes are known; None where there are none."""
    fresh_iterations: float = math.inf
    """How many iterations the first of these paces lasts."""
    statistics: Statistics | None = None
    checkpoint_seconds: float = 0.0
    log_seconds: float = 0.0
    """Of a line of the log."""
    sample_seconds: float = 0.0
    """Of what is shown every `logging.every` iterations."""
    record_seconds: float = 0.0
    """To note an evaluation, with its panels."""
    made_up: bool = False
    """Whether the steps were made with random images, because a source is missing."""

    @property
    def ready(self) -> bool:
        """Whether nothing is in the way."""
        return not self.problems and not any(domain.problem for domain in self.domains)

    @property
    def available(self) -> int | None:
        """Bytes that the device with the least has free; None where none tells."""
        return min((device.available for device in self.devices if device.available is not None), default=None)

    @property
    def peak(self) -> int | None:
        """Most bytes that the steps took on a device; None where none were made."""
        return max((device.peak for device in self.devices), default=None) if self.fresh is not None else None

    def training_seconds(self, config: RunConfig) -> float:
        """From the first iteration to the last, with statistics, logs and checkpoints, without evaluations."""
        if self.fresh is None:
            return 0.0
        training, known = config.training, self.known or self.fresh
        iterations = training.iterations
        fresh = min(self.fresh_iterations, iterations)
        first = self.fresh.seconds - known.seconds
        seconds = iterations * known.seconds + first * fresh
        if self.statistics is not None:
            at = self.statistics.at
            seconds += self.statistics.seconds + (iterations - at) * (self.statistics.pace.seconds - known.seconds)
            seconds -= first * max(0, fresh - at) * (1 - self.statistics.unseen)
        lines = iterations // training.log_every + (iterations % training.log_every > 0)
        samples = iterations // config.logging.every + 1 if config.logging.every else 0
        seconds += num_checkpoints(config) * self.checkpoint_seconds
        return seconds + lines * self.log_seconds + samples * self.sample_seconds

    def testing_seconds(self, config: RunConfig) -> float:
        """Of all evaluations together."""
        times = num_evaluations(config)
        return times * self.record_seconds + sum(
            num_scored(domain.images, config)
            * (domain.test_seconds + (times - 1) * (domain.again_seconds or domain.test_seconds))
            for domain in self.domains
            if domain.test_seconds is not None
        )

    def total_seconds(self, config: RunConfig) -> float:
        """Of the whole run."""
        return self.once_seconds + self.labels_seconds + self.training_seconds(config) + self.testing_seconds(config)


def num_checkpoints(config: RunConfig) -> int:
    """How many checkpoints a run writes."""
    training = config.training
    last = training.iterations - 1
    saves = 1 + last // training.checkpoint_every
    if training.evaluate_every:
        saves += last // training.evaluate_every
        saves -= last // math.lcm(training.evaluate_every, training.checkpoint_every)
    return saves


def num_evaluations(config: RunConfig) -> int:
    """How many times a run is scored."""
    every = config.training.evaluate_every
    return 1 + ((config.training.iterations - 1) // every if every else 0)


def num_scored(images: int, config: RunConfig) -> int:
    """How many images of a domain each evaluation scores."""
    return min(images, config.evaluation.limit or images)


def show(report: Rehearsal, config: RunConfig, console: Console) -> None:
    """Print what was found out."""
    figures = (Column(title, justify="right") for title in ("images", "first image", "read ms", "test"))
    table = Table("domain", "role", *figures, box=SIMPLE)
    for domain in report.domains:
        if domain.problem:
            table.add_row(domain.name, domain.role, "missing", "", "", "", style="red")
            continue
        height, width = domain.size or (0, 0)
        seconds = domain.test_seconds
        whole = "" if seconds is None else time_text(seconds * num_scored(domain.images, config))
        cells = (f"{domain.images:,}", f"{width}×{height}", f"{1000 * domain.read_seconds:.0f}", whole)
        table.add_row(domain.name, domain.role, *cells)
    console.print(table)
    for line in _lines(report, config):
        console.print(line, highlight=False, markup=False)
    problems = dict.fromkeys((*(d.problem for d in report.domains if d.problem), *report.problems))
    for what, style, lines in (("note", "yellow", report.notes), ("problem", "red", problems)):
        for line in lines:
            console.print(f"{what:12}{line}", style=style, highlight=False, markup=False)
    console.print("Ready: nothing was written." if report.ready else "Not ready: see the problems.", highlight=False)


def _lines(report: Rehearsal, config: RunConfig) -> Iterator[str]:
    """What was found out of the run as a whole."""
    training = config.training
    some = f", {report.trained / 1e6:.2f} million of them trained" if report.trained < report.parameters else ""
    yield f"network     {report.parameters / 1e6:.1f} million parameters{some}"
    yield f"memory      a step needs about {size_text(report.needed)}"
    for device in report.devices:
        free = "" if device.available is None else f"{size_text(device.available)} free"
        peak = f"{size_text(device.peak)} taken at most" if report.fresh is not None else ""
        yield f"            {device.name}: {', '.join(part for part in (free, peak) if part) or 'does not tell'}"
    if report.fresh is not None:
        pace = report.known or report.fresh
        parts = f" ({training.accumulate} micro-batches)" if training.accumulate > 1 else ""
        how = "with random images" if report.made_up else f"and {time_text(pace.wait)} of waiting for data"
        yield f"a step      {time_text(pace.step)}{parts} {how}"
        if report.known is not None and report.fresh_iterations:
            first = min(math.ceil(report.fresh_iterations), training.iterations)
            yield f"            {time_text(report.fresh.seconds)} in the first {first:,} iterations, which draw the scenes"
        if report.labels_seconds:
            yield f"classes     {time_text(report.labels_seconds)} to find them in the labels, once"
        if report.statistics is not None:
            taken = report.statistics
            after = f"then {time_text(taken.pace.seconds)} an iteration"
            yield f"statistics  {time_text(taken.seconds)} before iteration {taken.at + 1:,}, {after}"
        saves = num_checkpoints(config)
        yield f"training    {time_text(report.training_seconds(config))} for {training.iterations:,} iterations"
        yield f"            with {saves:,} checkpoint{'s' if saves > 1 else ''} of {time_text(report.checkpoint_seconds)}"
        times = num_evaluations(config)
        if any(domain.test_seconds is not None for domain in report.domains):
            yield f"testing     {time_text(report.testing_seconds(config))}{f' for {times} evaluations' if times > 1 else ''}"
        yield f"altogether  {time_text(report.total_seconds(config))}"
    if config.expected:
        yield f"expected    {config.expected}"


def size_text(amount: int) -> str:
    """A number of bytes."""
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"


def time_text(seconds: float) -> str:
    """A duration, with as many digits as say something."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"
