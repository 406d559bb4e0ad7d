"""`spcnet sweep`: one recipe with several methods, seeds and settings, as many trainings as that makes, and their table.

Each training is a process of its own, `spcnet train`, in a folder of its own below the sweep's, and leaves the file
`done` there when it has ended well. The same command goes on where the last one stopped: what is done is not done
again, what was stopped or killed goes on from its checkpoint, what failed is tried again. A folder that holds a run with
other settings is refused, so that a table never mixes two experiments.
"""

import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spcnet.config import RunConfig, as_dict, decides, plain_lists, recipe_path
from spcnet.engine import records
from spcnet.errors import SpcnetError, UsageError, one_line, unknown_name_error
from spcnet.files import write_text
from spcnet.formatting import print_plain
from spcnet.methods import method_named
from spcnet.options import OptionParser, add_run_options
from spcnet.plugins import make_plugins
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
from spcnet.studies.sweep_processes import GPU, Planned, Training, claimed, counted, machine_slots, run_trainings
from spcnet.training_process import STOPPED

SUMMARY_FILE, MARKDOWN_FILE, LATEX_FILE = "sweep.json", "table.md", "table.tex"
"""In the sweep's folder."""


def listed(text: str) -> list[str]:
    """The values in `[a,b]` or `a,b`, each as it was written; a value may itself be a list, `[[1,2],[3,4]]`.

    >>> listed("0.01,5e-3"), listed("[[96,192],[128,256]]")
    (['0.01', '5e-3'], ['[96, 192]', '[128, 256]'])
    """
    text = text.strip()
    if not text.startswith("["):
        return [value.strip() for value in text.split(",") if value.strip()]
    values = None
    with contextlib.suppress(yaml.YAMLError):
        values = yaml.safe_load(text)
    if not isinstance(values, list):
        raise UsageError(f"cannot read the list {text!r}: write [a,b] or a,b")
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def seeds(text: str) -> list[int]:
    """The seeds in `[0,1]` or `0,1`.

    Raises:
        UsageError: one is not a whole number.
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
    settings: dict[str, str] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not (path and equals and value):
            raise UsageError(f"{option} {text}: write OPTION=VALUE, for example training.learning_rate=0.01")
        if path in settings:
            raise UsageError(f"{option} names {path} twice: give all its values at once")
        settings[path] = value
    return settings


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
    _check_values(methods, seeds, vary)
    seeds = seeds or [base.training.seed]
    configs = []
    for method in methods or [base.method]:
        method_named(method)
        for chosen in itertools.product(*vary.values()):
            values = dict(zip(vary, chosen, strict=True))
            for seed in seeds:
                folder = output / _folder_name(method, values, seed)
                options = {**settings, **values, "method": method, "training.seed": str(seed), "output": str(folder)}
                configs.append((read(options), values))
    folders = Counter(config.output.name for config, _ in configs)
    if shared := [name for name, count in folders.items() if count > 1]:
        what = f"--vary {', '.join(vary)}: {folders[shared[0]]} runs would have the folder {shared[0]}"
        raise UsageError(f"{what}, whose name leaves out special characters: give them to sweeps with other --output")
    for config, _ in configs:
        method_named(config.method).check(config.model)
        make_plugins(config)
        check_unseen(config.data)
    runs = [Run(config.output, as_dict(config), {}, (), (), {}) for config, _ in configs]
    groups = group_runs(runs)
    if len(groups) < len(configs) // len(seeds):
        what = f"--vary {', '.join(vary)}: some of these runs would be the same experiment"
        why = "because an option says only how a run is computed, or two values mean the same"
        raise UsageError(f"{what}, {why}: vary something else")
    return [Planned(config, values, _label(config.method, values)) for config, values in configs]


def sweep(
    planned: Sequence[Planned], *, output: Path, jobs: int = 1, rule: str = "last", console: Console | None = None
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
    with claimed(output) as handles:
        trainings = [Training(run, handles) for run in planned]
        slots = machine_slots(planned[0].config, jobs, sum(training.state != "done" for training in trainings))
        stopped = run_trainings(trainings, slots, console)
        values, table = _summarise(trainings, rule, output)
    if stopped:
        what = f"stopped: {counted(trainings)}; what they have trained is saved"
        error = SpcnetError(f"{what}. Go on with the same command again")
        error.exit_code = STOPPED
        raise error
    if table is not None:
        console.print(render_terminal(table, width=console.width))
        written = ", ".join(str(output / name) for name in (MARKDOWN_FILE, LATEX_FILE, SUMMARY_FILE))
        print_plain(console, f"Written: {written}")
    return values


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
    slots = machine_slots(planned[0].config, jobs, len(states) - states.count("done"))
    gpus = [slot[GPU] for slot in slots if GPU in slot]
    where = f"GPU {' | '.join(gpus)}" if gpus else f"threads for each: {slots[0]['OMP_NUM_THREADS']}"
    text = f"{len(states)} runs in {planned[0].folder.parent}: {counts}; {len(slots)} at a time, {where}. Nothing was started."
    print_plain(console, text)


def _summarise(trainings: Sequence[Training], rule: str, output: Path) -> tuple[dict[str, Any], Aggregate | None]:
    """Write the tables and sweep.json over what is done; gives what sweep.json holds, and the table if a run is done."""
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
    return values, table


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
        arguments = [f"--config={recipe}", *(f"--{path}={value}" for path, value in options.items())]
        try:
            options_read = parser.instantiate(parser.parse_args(arguments))
        except jsonargparse.ArgumentError as error:
            raise UsageError(f"the recipe {recipe} with these settings: {one_line(error)}") from error
        return RunConfig(**{name: options_read[name] for name in RunConfig.__dataclass_fields__})

    return read


def _check_paths(paths: Sequence[str], config: RunConfig) -> None:
    """Refuse paths that are not options, and those that the sweep sets itself."""
    fixed = {"method": "--methods", "training.seed": "--seeds", "output": "--output"}
    values = as_dict(config)
    known = list(flatten(values))
    for path in paths:
        if path in fixed:
            raise UsageError(f"{path} is not varied like other options: use {fixed[path]}")
        group, _, _ = path.rpartition(".")
        siblings = [other for other in known if other.rpartition(".")[0] == group]
        below = [other for other in known if other.startswith(f"{path}.")]
        if below and path not in ("data.roots", "data.sets"):
            raise UsageError(f"{path} is a group of options: name one of them, for example {below[0]}")
        if path not in known and not below and not group.startswith(("data.roots", "data.sets")):
            raise unknown_name_error(path, siblings or known, "option")


def _check_values(methods: Sequence[str], seeds: Sequence[int], vary: Mapping[str, Sequence[str]]) -> None:
    """Refuse a value that is named twice, and an option without values."""
    named = {"--methods": methods, "--seeds": seeds, **{f"--vary {path}": values for path, values in vary.items()}}
    for what, values in named.items():
        doubled = sorted({str(value) for value in values if list(values).count(value) > 1})
        if doubled:
            raise UsageError(f"{what} names {', '.join(doubled)} twice: each run is made once")
    for varied, values in vary.items():
        if not values:
            raise UsageError(f"--vary {varied} has no values: write {varied}=[a,b]")


def _assignments(settings: Mapping[str, str]) -> list[str]:
    """`learning_rate=0.01` for each setting; with its whole path where two have one name."""
    last = {path: path.rpartition(".")[2] for path in settings}
    counts = Counter(last.values())
    return [f"{last[path] if counts[last[path]] == 1 else path}={value}" for path, value in settings.items()]


def _folder_name(method: str, settings: Mapping[str, str], seed: int) -> str:
    """`METHOD-SEED`, with what is varied between them."""
    name = "-".join([method, *_assignments(settings), str(seed)])
    return re.sub(r"[^\w.,@+=-]+", "_", re.sub(r"[][{}\s\"']", "", name))


def _label(method: str, settings: Mapping[str, str]) -> str:
    return f"{method} ({', '.join(_assignments(settings))})" if settings else method


def _check_same(planned: Planned) -> None:
    """Refuse a folder that holds a run with other settings, for it would be mixed with this one."""
    if not (planned.folder / records.CONFIG_FILE).is_file():
        return
    stored, planned_options = (flatten(as_dict(c)) for c in (OpenRun(planned.folder).config, planned.config))
    different = [path for path in sorted({*stored, *planned_options}) if stored.get(path) != planned_options.get(path)]
    changed = [path for path in different if decides(path) != "place"]
    # More processes make larger batches, and with them another experiment.
    spread = [path for path in different if path in ("training.devices", "training.nodes")]
    if spread and (batch_size(stored) is None or batch_size(stored) != batch_size(planned_options)):
        changed += spread
    if changed:
        differences = "; ".join(f"{path} {stored.get(path)}, now {planned_options.get(path)}" for path in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        remedy = "choose another --output, give the settings of before, or delete that folder"
        raise UsageError(f"{planned.folder} holds a run with other settings ({differences}{more}): {remedy}")
