"""The trainings of a sweep: each a process of its own, some at a time, and how far they are."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import torch
import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spcnet import checkpoint
from spcnet.config import RunConfig, as_dict
from spcnet.engine import records
from spcnet.errors import DataError, UsageError
from spcnet.files import write_text
from spcnet.formatting import print_plain
from spcnet.training_process import LOG_FILE, TrainingProcess, stopped_together

State = Literal["waiting", "running", "done", "failed", "stopped"]
DONE_FILE = "done"
"""In a run's folder: that it has ended well."""
GPU = "CUDA_VISIBLE_DEVICES"
"""In the environment of a training: the GPUs that it has."""
LOOK_EVERY = 0.5
"""Seconds between two polls of the trainings."""
LINE_EVERY = 30.0
"""Seconds between two lines about a run where the output is not a terminal."""
_TAIL = 16384
"""Bytes at the end of a training log in which its last line is looked for."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    config: RunConfig
    settings: Mapping[str, str]
    """What is varied, as it was written: dotted path → value."""
    label: str
    """Its row in the table: runs that differ only by their seed have the same."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.config.output

    @property
    def name(self) -> str:
        """Name of that folder."""
        return self.config.output.name

    def is_done(self) -> bool:
        """Whether it was trained and scored to the end."""
        results = records.read_lines(self.folder / records.RESULTS_FILE)
        last = results[-1].get("iteration", 0) if results else 0
        return (self.folder / DONE_FILE).is_file() and last >= self.config.training.iterations

    def is_begun(self) -> bool:
        """Whether it can go on from a checkpoint."""
        return checkpoint.exists(self.folder)


class Training:
    """One run in a process of its own.

    Args:
        planned: the run.
        handles: open files that the process holds as long as it lives.
    """

    def __init__(self, planned: Planned, handles: Sequence[int] = ()) -> None:
        self.planned, self.handles = planned, handles
        self.state: State = "done" if planned.is_done() else "waiting"
        self.total = planned.config.training.iterations
        logged = _last_line(planned.folder / records.TRAIN_FILE) if planned.is_begun() else None
        self.iteration = self.total if self.state == "done" else logged[0] if logged else 0
        """Finished iterations, as far as they were logged."""
        self.loss = math.nan
        self.message = ""
        """What went wrong, in the process's own words."""
        self.seconds = 0.0
        """Since it was started."""
        self.slot: Mapping[str, str] = {}
        """Environment in which it runs: its cores, its GPU."""
        self._process: TrainingProcess | None = None
        self._started = 0.0
        self._before: tuple[int, float] | None = None
        """The last line of the log when the process was started: nothing that it wrote."""
        self._marks: list[tuple[int, float]] = []
        """Iterations with the times at which they were seen: the first one and the last one of this process."""

    @property
    def left(self) -> float | None:
        """Seconds that the remaining iterations will take; None while nobody can tell."""
        if self.state != "running" or len(self._marks) < 2:
            return None
        (first, began), (last, seen) = self._marks
        pace = (seen - began) / (last - first)
        return max(0.0, pace * (self.total - last) - (time.monotonic() - seen))

    @property
    def doing(self) -> str:
        """What a running one is at: before its first step it reads its data, after its last one it is scored."""
        return "test" if self.iteration == self.total else "train" if self._marks else "begin"

    def start(self, slot: Mapping[str, str]) -> TrainingProcess:
        """Begin, or go on from the checkpoint.

        Raises:
            DataError: the folder cannot be written.
        """
        folder, arguments = self.planned.folder, ["train"]
        (folder / DONE_FILE).unlink(missing_ok=True)
        config = yaml.safe_dump(as_dict(self.planned.config), sort_keys=False, allow_unicode=True)
        write_text(folder / records.CONFIG_FILE, config)
        arguments += [f"--config={folder / records.CONFIG_FILE}"]
        arguments += ["--resume"] if self.planned.is_begun() else ["--overwrite"]
        self.slot, self.state, self.message = slot, "running", ""
        self._started = time.monotonic()
        self._before = _last_line(folder / records.TRAIN_FILE)
        self._process = TrainingProcess(arguments, log=folder / LOG_FILE, environment=slot, handles=self.handles)
        return self._process

    def stop(self) -> None:
        """Ask the process to save and end."""
        if self._process is not None:
            self._process.stop()

    def look(self) -> None:
        """See how far the process is, and whether and how it has ended."""
        if self.state != "running" or self._process is None:
            return
        code = self._process.code()  # first, so that what it wrote before its end is read
        self.seconds = time.monotonic() - self._started
        line = _last_line(self.planned.folder / records.TRAIN_FILE)
        if line is not None and line != self._before:
            self._before = None
            self.iteration, self.loss = line
            now = time.monotonic()
            if not self._marks or self.iteration < self._marks[0][0]:  # a log is cut back to its checkpoint
                self._marks = [(self.iteration, now)]
            elif self.iteration > self._marks[-1][0]:
                self._marks = [self._marks[0], (self.iteration, now)]
        if code is None:
            return
        if code == 0:
            self.state, self.iteration = "done", self.total
            write_text(self.planned.folder / DONE_FILE, f"{datetime.now(UTC).isoformat(timespec='seconds')}\n")
        elif self._process.ending and self._process.was_stopped():
            self.state = "stopped"
        else:
            self.state, self.message = "failed", self._process.last_words()


def run_trainings(trainings: Sequence[Training], slots: Sequence[Mapping[str, str]], console: Console) -> bool:
    """Start the waiting trainings one after the other, each as soon as there is a slot for it; whether it was stopped."""
    free = list(slots)
    processes: list[TrainingProcess] = []
    with stopped_together(processes) as stopped, _board(trainings, console) as show:
        while True:
            for training in trainings:
                was_running = training.state == "running"
                training.look()
                if was_running and training.state != "running":
                    free.append(training.slot)
                elif training.state == "waiting" and free and not stopped:
                    processes.append(training.start(free.pop(0)))
                elif training.state == "running" and stopped:
                    training.stop()
            show()
            if not any(training.state == "running" for training in trainings):
                return bool(stopped)
            time.sleep(LOOK_EVERY)


@contextmanager
def _board(trainings: Sequence[Training], console: Console) -> Iterator[Callable[[], None]]:
    """A function that shows how far the trainings are: a table that stays in its place, or lines where that cannot be."""
    shown_states: dict[str, tuple[State, float]] = {}

    def tell(*, every: float) -> None:
        now = time.monotonic()
        for training in trainings:
            state, when = shown_states.get(training.planned.name, ("waiting", now))
            due = training.state == "running" and now - when >= every
            if training.state != state or due:
                shown_states[training.planned.name] = (training.state, now)
                if every < math.inf or training.state == "failed":
                    style = "red" if training.state == "failed" else None
                    print_plain(console, _line(training), style=style)

    if not console.is_terminal:
        yield lambda: tell(every=LINE_EVERY)
        return
    with Live(console=console, get_renderable=lambda: _table(trainings, console.height), refresh_per_second=4):
        yield lambda: tell(every=math.inf)


def _line(training: Training) -> str:
    name, at = training.planned.name, f"{training.iteration}/{training.total}"
    took = f"after {_clock(training.seconds)}"
    if training.state == "running":
        loss = "" if math.isnan(training.loss) else f", loss {training.loss:.3f}"
        left = "" if training.left is None else f", {_clock(training.left)} left"
        return f"{name}: {training.doing} {at}{loss}{left}"
    if training.state == "done":
        return f"{name}: done {took}" if training.seconds else f"{name}: done before"
    if training.state == "failed":
        where = training.planned.folder / LOG_FILE
        return f"{name}: failed {took}: {training.message} (more in {where})"
    return f"{name}: {training.state} at {at} {took}"


def _table(trainings: Sequence[Training], height: int) -> Table:
    """One line a run; where the terminal has too few, what goes on and what failed comes first."""
    table = Table(box=SIMPLE, pad_edge=False)
    for title in ("run", "state", "iteration", "loss", "time", "left"):
        table.add_column(title, justify="left" if title in ("run", "state") else "right", no_wrap=True)
    styles = {"running": "bold", "done": "green", "failed": "red", "waiting": "dim", "stopped": "yellow"}
    room = max(3, height - 8)
    order = ("running", "failed", "stopped", "waiting", "done")
    shown = sorted(trainings, key=lambda training: order.index(training.state))[:room]
    for training in trainings:
        if training not in shown:
            continue
        state = training.doing if training.state == "running" else training.state
        loss = "" if math.isnan(training.loss) else f"{training.loss:.3f}"
        times = (None if not training.seconds else training.seconds, training.left)
        clocks = ["" if seconds is None else _clock(seconds) for seconds in times]
        at = f"{training.iteration}/{training.total}"
        table.add_row(Text(training.planned.name), state, at, loss, *clocks, style=styles[training.state])
    hidden = len(trainings) - len(shown)
    table.caption = Text(counted(trainings) + (f"; {hidden} not shown" if hidden else ""), style="dim")
    table.caption_justify = "left"
    return table


def counted(trainings: Sequence[Training]) -> str:
    """How many runs are in which state, such as `2 of 6 runs done, 1 failed`."""
    states = [training.state for training in trainings]
    rest = [f"{states.count(s)} {s}" for s in ("running", "failed", "stopped", "waiting") if s in states]
    return ", ".join([f"{states.count('done')} of {len(states)} runs done", *rest])


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _last_line(path: Path) -> tuple[int, float] | None:
    """Iteration and loss of the last whole line of a training log; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            record = json.loads(line)
            return int(record["iteration"]), math.nan if record["loss"] is None else float(record["loss"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


@contextmanager
def claimed(output: Path) -> Iterator[tuple[int, ...]]:
    """Keep a second sweep out of a folder; the open files keep it out as long as any process that has them lives."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield ()
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = (output / ".lock").open("w")
    except OSError as error:
        remedy = "check its permission or choose another --output"
        raise DataError(f"cannot write to the folder {output} ({error.strerror}): {remedy}") from error
    with file:
        held: tuple[int, ...] = (file.fileno(),)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = f"{output} is in use: another sweep, or a training that outlived one, still writes there"
            raise UsageError(f"{what}; wait for its end, or choose another --output") from error
        except OSError:  # a file system that knows no locks, as those of some clusters
            held = ()
        yield held


def machine_slots(config: RunConfig, jobs: int, waiting: int) -> list[dict[str, str]]:
    """For each training at a time its part of the machine, as environment: cores, and GPUs where it computes on them."""
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}: at least one training at a time")
    jobs = min(jobs, max(waiting, 1))
    training = config.training
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = jobs * (training.devices if isinstance(training.devices, int) and training.devices > 1 else 1)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // beside))
    slots = [{"OMP_NUM_THREADS": threads} for _ in range(jobs)]
    if training.accelerator not in ("auto", "cuda", "gpu") or not torch.cuda.is_available() or jobs == 1:
        return slots
    visible = os.environ.get(GPU) or ",".join(map(str, range(torch.cuda.device_count())))
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if not isinstance(training.devices, int) or training.devices < 1 or jobs * training.devices > len(names):
        what = f"--jobs is {jobs} and training.devices is {training.devices}, with {len(names)} GPUs"
        raise UsageError(f"{what}: each training needs its devices; give fewer --jobs, or one device to each")
    for place, slot in enumerate(slots):
        devices = slice(place * training.devices, (place + 1) * training.devices)
        slot[GPU] = ",".join(names[devices])
    return slots
