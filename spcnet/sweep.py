"""`spcnet sweep`: one recipe with several methods, seeds and settings, as many trainings as that makes, and their table.

Each training is a process of its own, `spcnet train`, in a folder of its own below the sweep's, and leaves the file
`done` there when it has ended well. The same command goes on where the last one stopped: what is done is not done
again, what was stopped or killed goes on from its checkpoint, what failed is tried again. A folder that holds a run with
other settings is refused, so that a table never mixes two experiments.
"""

import itertools
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import torch
import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spcnet import checkpoint
from spcnet.config import RunConfig, as_dict, decides, plain_lists, recipe_path
from spcnet.engine import records
from spcnet.errors import DataError, SpcnetError, UsageError, unknown_name_error
from spcnet.files import write_text
from spcnet.methods import method_named
from spcnet.options import OptionParser, add_run_options
from spcnet.reports.aggregate import (
    RULES,
    Aggregate,
    aggregate,
    render_terminal,
    select,
    to_latex,
    to_markdown,
    to_values,
)
from spcnet.reports.runs import Run, load_run
from spcnet.reports.tables import batch_size, flatten, group_runs
from spcnet.runs import OpenRun, check_unseen
from spcnet.training_process import LOG_FILE, STOPPED, TrainingProcess, stopped_together

State = Literal["waiting", "running", "done", "failed", "stopped"]

DONE_FILE = "done"
"""In a run's folder: that it has ended well."""
SUMMARY_FILE, MARKDOWN_FILE, LATEX_FILE = "sweep.json", "table.md", "table.tex"
"""In the sweep's folder."""
LOOK_EVERY = 0.5
"""Seconds between two looks at how far the trainings are."""
LINE_EVERY = 30.0
"""Seconds between two lines on a run where there is no terminal to draw on."""
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


def listed(text: str) -> list[str]:
    """The values in `[a,b]` or `a,b`, each as it was written; a value may itself be a list, `[[1,2],[3,4]]`.

    >>> listed("0.01,5e-3"), listed("[[96,192],[128,256]]")
    (['0.01', '5e-3'], ['[96, 192]', '[128, 256]'])
    """
    text = text.strip()
    if not text.startswith("["):
        return [value.strip() for value in text.split(",") if value.strip()]
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"cannot read the list {text!r}: write [a,b] or a,b") from error
    if not isinstance(values, list):
        raise UsageError(f"cannot read the list {text!r}: write [a,b] or a,b")
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def seeds(text: str) -> list[int]:
    """The seeds in `[0,1]` or `0,1`.

    Raises:
        UsageError: one is no whole number.
    """
    values = listed(text)
    wrong = [value for value in values if not value.isdecimal()]
    if wrong:
        raise UsageError(f"--seeds has {', '.join(wrong)}: a seed is a whole number, 0 or more")
    return [int(value) for value in values]


def assigned(texts: Sequence[str], option: str) -> dict[str, str]:
    """Dotted path → value, from `path=value` texts.

    Args:
        texts: such as `training.learning_rate=0.01`.
        option: what they were given as, for the messages.

    Raises:
        UsageError: one is of another form, or a path stands there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not (path and equals and value):
            raise UsageError(f"{option} {text}: write OPTION=VALUE, for example training.learning_rate=0.01")
        if path in found:
            raise UsageError(f"{option} names {path} twice: give all its values at once")
        found[path] = value
    return found


@plain_lists
def plan(
    recipe: str,
    *,
    output: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    vary: Mapping[str, Sequence[str]] | None = None,
    settings: Mapping[str, str] | None = None,
) -> list[Planned]:
    """Every run of a sweep: each method with each combination of values and each seed, the seeds of a row together.

    Args:
        recipe: file or name of a recipe.
        output: folder of the sweep.
        methods: names of methods; the recipe's by default.
        seeds: the recipe's by default.
        vary: dotted path of an option → its values, as one would write them for `spcnet train`.
        settings: dotted path of an option → its value in all runs, instead of the recipe's.

    Raises:
        UsageError: a name, an option or a value makes no sense, or two runs would be the same.
    """
    vary, settings = {path: listed(v) if isinstance(v, str) else v for path, v in (vary or {}).items()}, settings or {}
    read = _reader(recipe_path(recipe))
    base = read({})
    _check_paths([*vary, *settings], base)
    both = sorted(set(vary) & set(settings))
    if both:
        raise UsageError(f"{both[0]} is set and varied: leave out one of them")
    for values, what in (
        (methods, "--methods"),
        (seeds, "--seeds"),
        *((v, f"--vary {path}") for path, v in vary.items()),
    ):
        doubled = sorted({str(value) for value in values if list(values).count(value) > 1})
        if doubled:
            raise UsageError(f"{what} names {', '.join(doubled)} twice: each run is made once")
    for varied, values in vary.items():
        if not values:
            raise UsageError(f"--vary {varied} has no values: write {varied}=[a,b]")
    seeds = seeds or [base.training.seed]
    configs = []
    for method in methods or [base.method]:
        method_named(method)
        for chosen in itertools.product(*vary.values()):
            own = dict(zip(vary, chosen, strict=True))
            for seed in seeds:
                folder = output / _folder_name(method, own, seed)
                options = {**settings, **own, "method": method, "training.seed": str(seed), "output": str(folder)}
                configs.append((read(options), own))
    for config, _ in configs:
        method_named(config.method).check(config.model)
        check_unseen(config.data)
    runs = [Run(config.output, as_dict(config), {}, (), (), {}) for config, _ in configs]
    groups = group_runs(runs)
    if len(groups) < len(configs) // len(seeds):
        raise UsageError(
            f"--vary {', '.join(vary)}: some of these runs would be the same experiment, because an option says only how a run "
            "is computed, or two values mean the same: vary something else"
        )
    return [Planned(config, own, _label(config.method, own)) for config, own in configs]


def sweep(
    planned: Sequence[Planned],
    *,
    output: Path,
    jobs: int = 1,
    rule: str = "last",
    console: Console | None = None,
) -> dict[str, Any]:
    """Make the runs that are not done yet, and write table.md, table.tex and sweep.json over all that are.

    Args:
        planned: what `plan` gave.
        output: folder of the sweep.
        jobs: how many trainings at the same time; they divide the processor's cores, and on GPUs each has its own.
        rule: which evaluation of a run counts, a name in `spcnet.reports.aggregate.RULES`.
        console: where progress is shown; nowhere by default.

    Returns:
        What sweep.json holds; the state of each run is in `runs`.

    Raises:
        UsageError: a folder holds a run with other settings, or is used by another sweep; no such rule; too few GPUs.
        SpcnetError: the user stopped the sweep (exit code 130); the runs have saved what they have trained.
    """
    console = console or Console(quiet=True)
    if rule not in RULES:
        raise unknown_name_error(rule, tuple(RULES), "rule of selection")
    for run in planned:
        _check_same(run)
    with _claimed(output) as handles:
        trainings = [Training(run, handles) for run in planned]
        shares = _shares(planned[0].config, jobs, sum(training.state != "done" for training in trainings))
        stopped = _run(trainings, shares, console)
        found = _summarise(trainings, rule, output)
    if stopped:
        error = SpcnetError(
            f"stopped: {_counted(trainings)}; what they have trained is saved. Go on with the same command again"
        )
        error.exit_code = STOPPED
        raise error
    if found.table is not None:
        console.print(render_terminal(found.table, width=console.width))
        written = ", ".join(str(output / name) for name in (MARKDOWN_FILE, LATEX_FILE, SUMMARY_FILE))
        console.print(f"Written: {written}", highlight=False, markup=False, soft_wrap=True)
    return found.values


def show_plan(planned: Sequence[Planned], console: Console, *, jobs: int = 1) -> None:
    """Print what `sweep` would do.

    Raises:
        UsageError: a folder holds a run with other settings.
    """
    for run in planned:
        _check_same(run)
    states = ["done" if run.is_done() else "goes on" if run.is_begun() else "new" for run in planned]
    table = Table(box=SIMPLE, pad_edge=False)
    for title in ("run", "iterations", "state"):
        table.add_column(title, justify="right" if title == "iterations" else "left", overflow="fold")
    for run, state in zip(planned, states, strict=True):
        cells = [run.name, str(run.config.training.iterations), state]
        table.add_row(*map(Text, cells), style="dim" if state == "done" else "")
    console.print(table)
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "goes on", "new") if state in states)
    shares = _shares(planned[0].config, jobs, len(states) - states.count("done"))
    gpus = [share[_GPU] for share in shares if _GPU in share]
    where = f"GPU {' | '.join(gpus)}" if gpus else f"threads for each: {shares[0]['OMP_NUM_THREADS']}"
    console.print(
        f"{len(states)} runs in {planned[0].folder.parent}: {counts}; {len(shares)} at a time, {where}. Nothing was started.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


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
        self.share: Mapping[str, str] = {}
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

    def start(self, share: Mapping[str, str]) -> TrainingProcess:
        """Begin, or go on from the checkpoint.

        Raises:
            DataError: the folder cannot be written.
        """
        folder, arguments = self.planned.folder, ["train"]
        (folder / DONE_FILE).unlink(missing_ok=True)
        write_text(
            folder / records.CONFIG_FILE,
            yaml.safe_dump(as_dict(self.planned.config), sort_keys=False, allow_unicode=True),
        )
        arguments += [f"--config={folder / records.CONFIG_FILE}"]
        arguments += ["--resume"] if self.planned.is_begun() else ["--overwrite"]
        self.share, self.state, self.message = share, "running", ""
        self._started = time.monotonic()
        self._before = _last_line(folder / records.TRAIN_FILE)
        self._process = TrainingProcess(arguments, log=folder / LOG_FILE, environment=share, handles=self.handles)
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
        elif self._process.asked and self._process.was_stopped():
            self.state = "stopped"
        else:
            self.state, self.message = "failed", self._process.last_words()


@dataclass(frozen=True)
class Outcome:
    """What is known at the end of a sweep, or when it was stopped."""

    values: dict[str, Any]
    """What sweep.json holds."""
    table: Aggregate | None
    """Over the runs that are done; None where none is."""


def _run(trainings: Sequence[Training], shares: Sequence[Mapping[str, str]], console: Console) -> bool:
    """Start the waiting trainings one after the other, each as soon as there is a share for it; whether it was stopped."""
    free = list(shares)
    processes: list[TrainingProcess] = []
    with stopped_together(processes) as stopped, _board(trainings, console) as show:
        while True:
            for training in trainings:
                was_running = training.state == "running"
                training.look()
                if was_running and training.state != "running":
                    free.append(training.share)
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
    told: dict[str, tuple[State, float]] = {}

    def tell(*, every: float) -> None:
        now = time.monotonic()
        for training in trainings:
            state, when = told.get(training.planned.name, ("waiting", now))
            due = training.state == "running" and now - when >= every
            if training.state != state or due:
                told[training.planned.name] = (training.state, now)
                if every < math.inf or training.state == "failed":
                    style = "red" if training.state == "failed" else None
                    console.print(_line(training), style=style, highlight=False, markup=False, soft_wrap=True)

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
        table.add_row(
            Text(training.planned.name),
            state,
            f"{training.iteration}/{training.total}",
            "" if math.isnan(training.loss) else f"{training.loss:.3f}",
            _clock(training.seconds) if training.seconds else "",
            "" if training.left is None else _clock(training.left),
            style=styles[training.state],
        )
    hidden = len(trainings) - len(shown)
    table.caption = Text(_counted(trainings) + (f"; {hidden} not shown" if hidden else ""), style="dim")
    table.caption_justify = "left"
    return table


def _counted(trainings: Sequence[Training]) -> str:
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


def _summarise(trainings: Sequence[Training], rule: str, output: Path) -> Outcome:
    """Write the tables and sweep.json over what is done."""
    runs = {t.planned.name: load_run(t.planned.folder) for t in trainings if t.state == "done"}
    missing = [t for t in trainings if t.state != "done"]
    notes = [f"{t.planned.name} is missing: {t.state}" + (f" ({t.message})" if t.message else "") for t in missing]
    labels = {t.planned.folder: t.planned.label for t in trainings}
    table = aggregate(list(runs.values()), rule=rule, notes=notes, labels=labels) if runs else None
    values = {
        "runs": [_run_values(t, runs.get(t.planned.name), rule) for t in trainings],
        "table": None if table is None else to_values(table),
    }
    write_text(output / SUMMARY_FILE, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    if table is not None:
        write_text(output / MARKDOWN_FILE, to_markdown(table))
        write_text(output / LATEX_FILE, to_latex(table))
    return Outcome(values, table)


def _run_values(training: Training, run: Run | None, rule: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "run": training.planned.name,
        "label": training.planned.label,
        "method": training.planned.config.method,
        "seed": training.planned.config.training.seed,
        "settings": dict(training.planned.settings),
        "state": training.state,
        "message": training.message,
    }
    if run is None:
        return values
    chosen = select(run, rule).final
    return values | {
        "iteration": chosen.iteration,
        "mean_source_miou": chosen.mean_source_miou,
        "mean_unseen_miou": chosen.mean_unseen_miou,
        "domains": {name: {"role": d.role, "miou": d.miou} for name, d in chosen.domains.items()},
    }


def _reader(recipe: Path) -> Callable[[Mapping[str, str]], RunConfig]:
    """A function that reads the recipe with some options in place of its own, exactly as `spcnet train` would."""
    parser = OptionParser(exit_on_error=False)
    add_run_options(parser)

    def read(options: Mapping[str, str]) -> RunConfig:
        given = [f"--config={recipe}", *(f"--{path}={value}" for path, value in options.items())]
        try:
            found = parser.instantiate(parser.parse_args(given))
        except jsonargparse.ArgumentError as error:
            raise UsageError(f"the recipe {recipe} with these settings: {' '.join(str(error).split())}") from error
        return RunConfig(**{name: found[name] for name in RunConfig.__dataclass_fields__})

    return read


def _check_paths(paths: Sequence[str], config: RunConfig) -> None:
    """Refuse what is no option, and what the sweep sets itself."""
    own = {"method": "--methods", "training.seed": "--seeds", "output": "--output"}
    values = as_dict(config)
    known = list(flatten(values))
    for path in paths:
        if path in own:
            raise UsageError(f"{path} is not varied like other options: use {own[path]}")
        group, _, _ = path.rpartition(".")
        siblings = [other for other in known if other.rpartition(".")[0] == group]
        below = [other for other in known if other.startswith(f"{path}.")]
        if below and path not in ("data.roots", "data.sets"):
            raise UsageError(f"{path} is a group of options: name one of them, for example {below[0]}")
        if path not in known and not below and not group.startswith(("data.roots", "data.sets")):
            raise unknown_name_error(path, siblings or known, "option")


def _said(settings: Mapping[str, str]) -> list[str]:
    """`learning_rate=0.01` for each setting; with its whole path where two have one name."""
    last = [path.rpartition(".")[2] for path in settings]
    return [
        f"{name if last.count(name) == 1 else path}={value}"
        for name, (path, value) in zip(last, settings.items(), strict=True)
    ]


def _folder_name(method: str, settings: Mapping[str, str], seed: int) -> str:
    """`METHOD-SEED`, with what is varied between them."""
    name = "-".join([method, *_said(settings), str(seed)])
    return re.sub(r"[^\w.,@+=-]+", "_", re.sub(r"[][{}\s\"']", "", name))


def _label(method: str, settings: Mapping[str, str]) -> str:
    return f"{method} ({', '.join(_said(settings))})" if settings else method


def _check_same(planned: Planned) -> None:
    """Refuse a folder that holds a run with other settings, for it would be mixed with this one."""
    if not (planned.folder / records.CONFIG_FILE).is_file():
        return
    found, wanted = (flatten(as_dict(c)) for c in (OpenRun(planned.folder).config, planned.config))
    different = [path for path in sorted({*found, *wanted}) if found.get(path) != wanted.get(path)]
    changed = [path for path in different if decides(path) != "place"]
    # More processes make larger batches, and with them another experiment.
    spread = [path for path in different if path in ("training.devices", "training.nodes")]
    if spread and (batch_size(found) is None or batch_size(found) != batch_size(wanted)):
        changed += spread
    if changed:
        told = "; ".join(f"{path} {found.get(path)}, now {wanted.get(path)}" for path in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UsageError(
            f"{planned.folder} holds a run with other settings ({told}{more}): choose another --output, give the "
            "settings of before, or delete that folder"
        )


@contextmanager
def _claimed(output: Path) -> Iterator[tuple[int, ...]]:
    """Keep a second sweep out of a folder; the open files keep it out as long as any process that has them lives."""
    try:
        import fcntl
    except ImportError:  # Windows
        with nullcontext(()) as nothing:
            yield nothing
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = (output / ".lock").open("w")
    except OSError as error:
        raise DataError(
            f"cannot write to the folder {output} ({error.strerror}): check its permission or choose another --output"
        ) from error
    with file:
        held: tuple[int, ...] = (file.fileno(),)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{output} is in use: another sweep, or a training that outlived one, still writes there; wait for its "
                "end, or choose another --output"
            ) from error
        except OSError:  # a file system that knows no locks, as those of some clusters
            held = ()
        yield held


_GPU = "CUDA_VISIBLE_DEVICES"


def _shares(config: RunConfig, jobs: int, waiting: int) -> list[dict[str, str]]:
    """For each training at a time its part of the machine, as environment: cores, and GPUs where it computes on them."""
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}: at least one training at a time")
    jobs = min(jobs, max(waiting, 1))
    training = config.training
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = jobs * (training.devices if isinstance(training.devices, int) and training.devices > 1 else 1)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // beside))
    shares = [{"OMP_NUM_THREADS": threads} for _ in range(jobs)]
    if training.accelerator not in ("auto", "cuda", "gpu") or not torch.cuda.is_available() or jobs == 1:
        return shares
    visible = os.environ.get(_GPU) or ",".join(map(str, range(torch.cuda.device_count())))
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if not isinstance(training.devices, int) or training.devices < 1 or jobs * training.devices > len(names):
        raise UsageError(
            f"--jobs is {jobs} and training.devices is {training.devices}, with {len(names)} GPUs: each training needs its own; "
            "give fewer --jobs, or one device to each"
        )
    for place, share in enumerate(shares):
        own = slice(place * training.devices, (place + 1) * training.devices)
        share[_GPU] = ",".join(names[own])
    return shares
