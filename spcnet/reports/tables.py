"""The headline table: which method scores what on which domain, as data, and how to show it as text.

Runs that differ only by their seed, and by where and how they were computed (`spcnet.config.Decides`), are one row, with
the mean and the sample standard deviation over the seeds. A run that is not comparable with the others is still shown,
and a warning says why.
"""

import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rich.box
import rich.console
import rich.measure
import rich.table
import rich.text

from spcnet.config import RunConfig, as_dict, decides, options, settled
from spcnet.errors import DataError, UsageError
from spcnet.formatting import percent
from spcnet.reports.runs import Role, Run

Kind = Literal["source", "source mean", "unseen", "unseen mean", "gap"]

_BATCH = "data.images_per_domain"
"""The option by which the size of a batch is compared; parts of a batch and processes multiply it."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only by their seed."""

    label: str
    runs: tuple[Run, ...]
    """By rising seed."""

    @property
    def method(self) -> str:
        """Name of the method of these runs."""
        return self.runs[0].method


@dataclass(frozen=True)
class Column:
    """What a column shows."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Cell:
    """One figure of the table, as fractions (0..1); in the gap column a difference (-1..1)."""

    value: float | None
    """Mean over the runs of the row; None where none has it."""
    std: float | None = None
    """Sample standard deviation over the runs; None with fewer than two."""
    count: int = 0
    """Runs that the mean is over."""
    best: bool = False
    """Whether no other row has more in this column, and some row has less."""
    gap: float | None = None
    """Value minus the baseline's; None in the baseline's own row or where there is none."""


@dataclass(frozen=True)
class Row:
    """One method, with all its seeds."""

    label: str
    method: str
    seeds: tuple[int, ...]
    iterations: int
    """The fewest iterations after which one of its runs was scored."""
    is_baseline: bool
    cells: tuple[Cell, ...]
    """One for each column of the table."""
    wins: tuple[int, int] | None = None
    """Seeds on which the mean of the unseen domains is above the baseline's with the same seed, and how many there are."""


@dataclass(frozen=True)
class Table:
    """The headline table."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: str | None
    """Label of the row that gaps are measured from; None if there is none."""
    warnings: tuple[str, ...]
    """Why the rows cannot simply be compared."""


def group_runs(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Put runs that differ only by their seed, and where and how they ran, together, in the order in which they first come.

    A folder that is named twice counts once. Groups of one method are told apart by the settings in which they differ.
    """
    unique = {run.folder.resolve(): run for run in runs}
    by_key: dict[str, list[Run]] = {}
    for run in unique.values():
        by_key.setdefault(json.dumps(_identity(run), sort_keys=True, default=str), []).append(run)
    members = [tuple(sorted(group, key=lambda run: run.seed)) for group in by_key.values()]
    return tuple(Group(_label(group, members), group) for group in members)


def ranked(runs: Sequence[Run], *, baseline: str = "deeplabv3plus") -> list[Run]:
    """Runs in the order of a leaderboard: the baseline, then by the mean of the unseen domains, the best method first.

    Methods without that mean come last; the seeds of a method stay together.
    """
    groups = group_runs(runs)
    base = baseline_of(groups, baseline)
    mean = Column("mean of unseen", "unseen mean")

    def place(group: Group) -> tuple[bool, float]:
        value = _cell(group, mean).value
        return group is not base, -value if value is not None else math.inf

    return [run for group in sorted(groups, key=place) for run in group.runs]


def baseline_of(groups: Sequence[Group], baseline: str) -> Group | None:
    """The group of the baseline method; of several the first. None if no group has that method."""
    return next((group for group in groups if group.method == baseline), None)


def comparability(runs: Sequence[Run]) -> tuple[str, ...]:
    """One line for each reason why a difference between these runs is not one between their methods alone."""
    warnings = []
    for path, option in options().items():
        if not option.rule.compared:
            continue
        # A setting that an older run does not record says nothing.
        values = {_say(value): run for run in reversed(runs) if (value := _compared(run, path)) is not None}
        if len(values) > 1:
            listed = "; ".join(f"{value} ({values[value].folder.name})" for value in sorted(values))
            warnings.append(f"not comparable: the {option.rule.compared} differs: {listed}")
    if len({run.final.classes for run in runs}) > 1 and len({_say(run.setting("data.space")) for run in runs}) == 1:
        warnings.append("not comparable: the classes differ although the label space has one name")
    if len({frozenset((d.name, d.role) for d in run.final.domains.values()) for run in runs}) > 1 and not any(
        "targets" in line or "sources" in line for line in warnings
    ):
        warnings.append("not comparable: the runs were not scored on the same domains, so their means differ in kind")
    for run in runs:
        planned = run.setting("training.iterations")
        if isinstance(planned, int) and run.final.iteration < planned:
            warnings.append(f"{run.folder.name} was scored after {run.final.iteration} of {planned} iterations")
    for group in group_runs(runs):
        for one, other in itertools.pairwise(group.runs):
            if one.seed == other.seed:
                names = f"{_place(one, [other])} and {_place(other, [one])}"
                warnings.append(f"{names} are one experiment with one seed, {one.seed}: their row counts both")
    counts: dict[tuple[str, str], set[int]] = {}
    meant: dict[str, set[str]] = {}
    for domain in (domain for run in runs for domain in run.final.domains.values()):
        counts.setdefault((domain.name, domain.role), set()).add(domain.images)
        described = {key: value for key, value in domain.own_set.items() if key != "root"}
        meant.setdefault(domain.name, set()).add(json.dumps(described, sort_keys=True))
    if several := sorted(name for name, descriptions in meant.items() if len(descriptions) > 1):
        warnings.append(f"not comparable: {', '.join(several)} means own data sets that are described differently")
    if uneven := sorted(name for (name, _), sizes in counts.items() if len(sizes) > 1):
        warnings.append(f"not comparable: the number of scored images differs on {', '.join(uneven)}")
    return tuple(warnings)


def summary_table(runs: Sequence[Run], *, baseline: str = "deeplabv3plus") -> Table:
    """Score of every method on every domain, with its means and its gap to the baseline on the unseen domains.

    Raises:
        UsageError: there are no runs.
    """
    if not runs:
        raise UsageError("there is no run to report: name at least one run folder")
    groups = group_runs(runs)
    base = baseline_of(groups, baseline)
    columns = _columns(groups, with_gap=base is not None and len(groups) > 1)
    plain = [[_cell(group, column) for column in columns] for group in groups]
    base_cells = plain[groups.index(base)] if base is not None else None
    rows = []
    for group, cells in zip(groups, plain, strict=True):
        finished: list[Cell] = []
        for place, (column, cell) in enumerate(zip(columns, cells, strict=True)):
            theirs = base_cells[place].value if base_cells is not None and group is not base else None
            gap = None if cell.value is None or theirs is None else cell.value - theirs
            if column.kind == "gap":
                mean = finished[-1]
                finished.append(Cell(mean.gap, count=mean.count if mean.gap is not None else 0))
                continue
            known = [other.value for row in plain if (other := row[place]).value is not None]
            best = cell.value is not None and min(known) < cell.value == max(known)
            finished.append(Cell(cell.value, cell.std, cell.count, best, gap))
        seeds = tuple(run.seed for run in group.runs)
        iterations = min(run.final.iteration for run in group.runs)
        wins = _wins(group, base) if base is not None and group is not base else None
        rows.append(Row(group.label, group.method, seeds, iterations, group is base, tuple(finished), wins))
    return Table(columns, tuple(rows), base.label if base else None, comparability([r for g in groups for r in g.runs]))


def mean_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of the known values; None for too few (one for the mean, two for the other)."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return None, None
    mean = sum(known) / len(known)
    if len(known) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1))


def format_value(cell: Cell, column: Column, *, std: bool = True) -> str:
    """A cell in per cent (a gap in points, with its sign), such as `61.2 ± 0.4`; an en dash for nothing."""
    if column.kind == "gap":
        return format_points(cell.value)
    if cell.value is None:
        return "–"
    text = percent(cell.value)
    return f"{text} ± {percent(cell.std)}" if std and cell.std is not None else text


def format_points(difference: float | None) -> str:
    """A difference of fractions in points with its sign, such as `+3.1` or `−0.4`; an en dash for nothing."""
    if difference is None:
        return "–"
    text = f"{100 * abs(difference):.1f}"
    # What rounds to zero has no sign to boast of.
    sign = "" if float(text) == 0 else "+" if difference > 0 else "−"
    return sign + text


def column_title(column: Column) -> str:
    """What to write over a column."""
    titles = {"source mean": "mean of sources", "unseen mean": "mean of unseen", "gap": "gap to baseline"}
    return titles.get(column.kind, column.name)


def row_title(row: Row) -> str:
    """A row's label, with the number of seeds where there are several."""
    return f"{row.label} ({len(row.seeds)} seeds)" if len(row.seeds) > 1 else row.label


def render_terminal(table: Table, *, width: int = 80) -> rich.table.Table:
    """The table for a terminal of that many characters: the first of these layouts that fits.

    Runs as rows; domains as rows (fits many domains); domains as rows without the ± of seeds; runs as rows with the
    means only.
    """
    means = [column for column in table.columns if column.kind not in ("source", "unseen")]
    shown = first_that_fits(
        width,
        lambda: _runs_as_rows(table, table.columns),
        lambda: _domains_as_rows(table, std=True),
        lambda: _domains_as_rows(table, std=False),
        lambda: _runs_as_rows(table, means),
    )
    if table.warnings:
        shown.caption = rich.text.Text("\n".join(f"! {line}" for line in table.warnings), style="yellow")
        shown.caption_justify = "left"
    return shown


def first_that_fits(width: int, *layouts: Callable[[], rich.table.Table]) -> rich.table.Table:
    """The first table that so many characters hold without cutting or folding anything; the last where none does."""
    console = rich.console.Console(width=10_000, file=io.StringIO())
    for layout in layouts:
        shown = layout()
        if rich.measure.Measurement.get(console, console.options, shown).maximum <= width:
            break
    return shown


def grid(head: str, titles: Iterable[tuple[str, str]], *, fold: bool = False) -> rich.table.Table:
    """An empty table for a terminal: a column of names, then one of figures for each title with its style."""
    shown = rich.table.Table(title="mIoU in %", box=rich.box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column(head, overflow="fold")
    for title, style in titles:
        overflow: Any = "fold" if fold else "ellipsis"
        shown.add_column(rich.text.Text(title), justify="right", header_style=style, overflow=overflow)
    return shown


def flatten(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted path, the numbers that are keys of `data.sets` as text; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def _identity(run: Run) -> dict[str, Any]:
    # A run of an earlier version does not record the settings that came later: it had what is their default.
    return {
        path: value
        for path, value in (flatten(as_dict(RunConfig())) | flatten(settled(run.config))).items()
        if decides(path) in ("result", "schedule")
    }


def _compared(run: Run, path: str) -> Any:
    """What of a setting must agree; of the images in a batch how many all parts and processes have together."""
    if path != _BATCH:
        return run.setting(path)
    processes = run.environment.get("processes")
    return batch_size(flatten(run.config), processes if isinstance(processes, int) else None)


def batch_size(settings: Mapping[str, Any], processes: int | None = None) -> int | None:
    """Images of each source, or of all, that an optimiser step sees, from settings by dotted path; None where they do not tell."""
    images = settings.get(_BATCH)
    counts = [settings.get(f"training.{name}", 1) for name in ("accumulate", "devices", "nodes")]
    if processes is not None:
        counts = [counts[0], processes]
    if not all(isinstance(count, int) and count > 0 for count in (images, *counts)):
        return None  # as many devices as there were
    return math.prod((images, *counts))


def _label(group: tuple[Run, ...], groups: Sequence[tuple[Run, ...]]) -> str:
    method = group[0].method
    rivals = [other for other in groups if other[0].method == method]
    if len(rivals) == 1:
        return method
    settings = [_identity(other[0]) for other in rivals]
    paths = sorted({path for one in settings for path in one})
    differing = [path for path in paths if len({_say(one.get(path)) for one in settings}) > 1]
    if len(differing) > 2:
        return f"{method} ({_place(group[0], [run for other in rivals if other is not group for run in other[:1]])})"
    identity = _identity(group[0])
    settings_said = (f"{path.partition('.')[2] or path}={_say(identity.get(path))}" for path in differing)
    return f"{method} ({', '.join(settings_said)})"


def _place(run: Run, others: Sequence[Run]) -> str:
    """The end of a run's path that none of the others has: its name, with folders above it where names are the same."""
    parts = run.folder.parts
    for length in range(1, len(parts) + 1):
        if all(other.folder.parts[-length:] != parts[-length:] for other in others):
            return str(Path(*parts[-length:]))
    return str(run.folder)


def _say(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_say, value)) or "none"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _columns(groups: Sequence[Group], *, with_gap: bool) -> tuple[Column, ...]:
    columns: list[Column] = []
    roles: tuple[Role, Role] = ("source", "unseen")
    for role in roles:
        names = dict.fromkeys(name for group in groups for run in group.runs for name in run.final.names(role))
        columns += [Column(name, role) for name in names]
        if len(names) > 1 or (role == "unseen" and names):
            columns.append(Column(f"mean of {role}", "source mean" if role == "source" else "unseen mean"))
    if with_gap and any(column.kind == "unseen mean" for column in columns):
        columns.append(Column("gap", "gap"))
    if not columns:
        raise DataError("the runs were scored on no domain: run `spcnet evaluate` with targets")
    return tuple(columns)


def _cell(group: Group, column: Column) -> Cell:
    values = [_score(run, column) for run in group.runs]
    mean, std = mean_std(values)
    return Cell(mean, std, sum(value is not None for value in values))


def _score(run: Run, column: Column) -> float | None:
    means = {"source mean": run.final.mean_source_miou, "unseen mean": run.final.mean_unseen_miou, "gap": None}
    if column.kind in means:
        return means[column.kind]
    domain = run.final.domains.get(column.name)
    return domain.miou if domain is not None and domain.role == column.kind else None


def _wins(group: Group, base: Group) -> tuple[int, int] | None:
    reference = {run.seed: run.final.mean_unseen_miou for run in base.runs}
    pairs = [(run.final.mean_unseen_miou, reference[run.seed]) for run in group.runs if run.seed in reference]
    known = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    return (sum(ours > theirs for ours, theirs in known), len(known)) if known else None


def _texts(table: Table, row: Row, *, std: bool = True) -> list[str]:
    return [
        "" if column.kind == "gap" and row.is_baseline else format_value(cell, column, std=std)
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]


def _styled(text: str, cell: Cell, column: Column) -> rich.text.Text:
    if column.kind == "gap" and cell.value:
        return rich.text.Text(text, style="green" if cell.value > 0 else "red", no_wrap=True)
    return rich.text.Text(text, style="bold" if cell.best else "", no_wrap=True)


def _runs_as_rows(table: Table, columns: Sequence[Column]) -> rich.table.Table:
    styles = ["bold" if c.kind.endswith("mean") else "dim" if c.kind == "source" else "" for c in columns]
    shown = grid("method", ((narrow(column_title(c)), style) for c, style in zip(columns, styles, strict=True)))
    for row in table.rows:
        texts = dict(zip(table.columns, zip(_texts(table, row), row.cells, strict=True), strict=True))
        shown.add_row(rich.text.Text(row_title(row)), *(_styled(*texts[column], column) for column in columns))
    return shown


def _domains_as_rows(table: Table, *, std: bool) -> rich.table.Table:
    seeds = [f"\n{len(row.seeds)} seeds" if len(row.seeds) > 1 else "" for row in table.rows]
    titles = ((row.label.replace(" (", "\n(") + more, "") for row, more in zip(table.rows, seeds, strict=True))
    shown = grid("domain", titles, fold=True)
    texts = [_texts(table, row, std=std) for row in table.rows]
    for place, column in enumerate(table.columns):
        is_mean = column.kind not in ("source", "unseen")
        title = column_title(column) if is_mean else f"{column.name} ({column.kind})"
        shown.add_row(
            rich.text.Text(title, style="bold" if is_mean else ""),
            *(_styled(text[place], row.cells[place], column) for text, row in zip(texts, table.rows, strict=True)),
            end_section=column.kind.endswith("mean"),
        )
    return shown


def narrow(title: str) -> str:
    """A heading on several lines, so that it is no wider than its figures."""
    return title.replace("/", "/\n").replace("+", "\n+").replace("mean of ", "mean of\n").replace("gap to ", "gap to\n")
