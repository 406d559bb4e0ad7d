"""Tables over seeds: which evaluation of a run counts, and the mean of its figures with their standard error.

Training, recording and selecting are three steps of their own (Gulrajani & Lopez-Paz, In Search of Lost Domain
Generalization, ICLR 2021), and a rule of selection has a name that says what it looks at: a rule that looks at the
unseen domains uses the test data, and every table made with it says so. No test of significance is made.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rich.table
import rich.text

from spcnet.errors import DataError, unknown_name_error
from spcnet.formatting import markdown_table
from spcnet.reports.runs import Run
from spcnet.reports.tables import (
    Cell,
    Column,
    Row,
    Table,
    column_title,
    comparability,
    first_that_fits,
    grid,
    group_runs,
    narrow,
    summary_table,
)

Rule = Literal["last", "best_on_source", "oracle"]

RULES: Mapping[Rule, str] = {
    "last": "the last iteration of each run",
    "best_on_source": "the evaluation of each run with the highest mean mIoU on the test images of its sources",
    "oracle": "the evaluation of each run with the highest mean mIoU on the unseen domains: ORACLE, IT LOOKS AT THE TEST DATA",
}
"""Rule of selection → which evaluation of a run it takes, in the words that stand below a table."""


@dataclass(frozen=True)
class Aggregate:
    """The figures of several methods, each over its seeds."""

    table: Table
    """Means and sample standard deviations of the chosen evaluations, one row for runs that differ only by their seed."""
    rule: Rule
    """How the evaluation of each run was chosen."""
    notes: tuple[str, ...]
    """What a reader must know: why rows cannot simply be compared, what is missing."""

    @property
    def looks_at_targets(self) -> bool:
        """Whether the unseen domains had a say in what is shown of them."""
        return self.rule == "oracle"


def select(run: Run, rule: str) -> Run:
    """The run as if it had been evaluated only where the rule says; of equals the later.

    The network in the run's folder stays that of the last iteration.

    Raises:
        UsageError: there is no such rule.
        DataError: no evaluation has the score that the rule looks at.
    """
    checked = _rule(rule)
    if checked == "last":
        return dataclasses.replace(run, evaluations=run.evaluations[-1:])

    means = run.means("source" if checked == "best_on_source" else "unseen")
    scores = [-math.inf if value is None else value for value in means]
    best = max(range(len(scores)), key=lambda place: (scores[place], run.evaluations[place].iteration))
    if scores[best] == -math.inf:
        domains = "sources" if checked == "best_on_source" else "unseen domains"
        what = f"{run.folder} has no evaluation with a mean over its {domains}, which the rule {checked} looks at"
        raise DataError(f"{what}: choose last, or test the run on such domains")
    return dataclasses.replace(run, evaluations=(run.evaluations[best],))


def aggregate(
    runs: Sequence[Run], *, rule: str = "last", notes: Sequence[str] = (), labels: Mapping[Path, str] | None = None
) -> Aggregate:
    """Put the chosen evaluations of runs together, one row for those that differ only by their seed.

    Args:
        runs: in the order of the rows.
        rule: name in `RULES`.
        notes: what else is to be said below the table.
        labels: what a row is called, by the folder of any of its runs; by default its method and what sets it apart.

    Raises:
        UsageError: there are no runs, or no such rule.
        DataError: a run has not the score that the rule looks at.
    """
    checked = _rule(rule)
    selected = [select(run, checked) for run in runs]
    table = summary_table(selected)
    called = [(labels or {}).get(group.runs[0].folder, group.label) for group in group_runs(selected)]
    rows = tuple(dataclasses.replace(row, label=name) for row, name in zip(table.rows, called, strict=True))
    # What was chosen earlier than the last iteration was chosen so: the whole runs are what must be comparable.
    said = [*comparability(runs), *notes]
    if checked != "last" and len({len(run.evaluations) for run in runs}) > 1:
        said.append(f"not comparable: {checked} chooses from more evaluations in some runs than in others")
    once = sorted({run.folder.name for run in runs if len(run.evaluations) == 1})
    if checked != "last" and once:
        what = f"only one evaluation to choose from in {', '.join(once)}"
        said.append(f"{what}: there {checked} is last; more with training.evaluate_every")
    return Aggregate(dataclasses.replace(table, rows=rows, warnings=()), checked, tuple(said))


def standard_error(cell: Cell) -> float | None:
    """Standard error of a cell's mean over seeds, s/√n; None for fewer than two."""
    return None if cell.std is None else cell.std / math.sqrt(cell.count)


def to_markdown(aggregate: Aggregate) -> str:
    """The table as Markdown, the best mean of each column in bold; what it shows stands below it."""
    columns = _shown(aggregate.table)
    rows = []
    for row in aggregate.table.rows:
        texts = [(cell.best, *_text(cell, row)) for cell in _cells(aggregate.table, row, columns)]
        cells = ((f"**{mean}**" if best else mean) + error for best, mean, error in texts)
        rows.append([row.label, str(len(row.seeds)), *cells])
    body = markdown_table(["mIoU in %", "n", *(_title(column) for column in columns)], rows)
    return "\n".join([*body, "", explanation(aggregate), *(f"\n> {note}" for note in aggregate.notes)]) + "\n"


def to_latex(aggregate: Aggregate) -> str:
    r"""The table for `\input`, in the manner of booktabs; the caption says what it shows."""
    columns = _shown(aggregate.table)
    header = ["Method", "$n$", *(_tex(_title(column)) for column in columns)]
    rows = []
    for row in aggregate.table.rows:
        texts = []
        for cell in _cells(aggregate.table, row, columns):
            mean, error = _text(cell, row)
            mean = f"\\mathbf{{{mean}}}" if cell.best else mean
            texts.append("--" if cell.value is None else f"${mean}{_tex_error(error)}$")
        rows.append([_tex(row.label), f"${len(row.seeds)}$", *texts])
    means = [column.kind == "unseen mean" for column in columns]
    # A space before the mean of the unseen domains, for a vertical line has no place in booktabs.
    alignment = "".join("@{\\hskip 1.5em}c" if mean else "c" for mean in means)
    lines = [
        "% Needs \\usepackage{booktabs}.",
        *(f"% Note: {note}" for note in aggregate.notes),
        "\\begin{table}[t]",
        "  \\centering",
        f"  \\caption{{{_tex(explanation(aggregate))}}}",
        "  \\label{tab:sweep}",
        f"  \\begin{{tabular}}{{lr{alignment}}}",
        "    \\toprule",
        f"    {' & '.join(header)} \\\\",
        "    \\midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_values(aggregate: Aggregate) -> dict[str, Any]:
    """The figures as plain values that JSON can hold: fractions, 0..1, unrounded; None where there is none."""
    return {
        "select": aggregate.rule,
        "selected": RULES[aggregate.rule],
        "looks_at_targets": aggregate.looks_at_targets,
        "rows": [
            {
                "label": row.label,
                "method": row.method,
                "seeds": list(row.seeds),
                "columns": {
                    column.name: {
                        "kind": column.kind,
                        "miou": cell.value,
                        "standard_error": standard_error(cell),
                        "standard_deviation": cell.std,
                        "n": cell.count,
                        "best": cell.best,
                    }
                    for column, cell in zip(aggregate.table.columns, row.cells, strict=True)
                    if column.kind != "gap"
                },
            }
            for row in aggregate.table.rows
        ],
        "notes": list(aggregate.notes),
    }


def render_terminal(aggregate: Aggregate, *, width: int = 80) -> rich.table.Table:
    """The table for a terminal of that many characters: methods as rows, else domains as rows, else the means only."""
    columns = _shown(aggregate.table)
    means = [column for column in columns if column.kind not in ("source", "unseen")]
    shown = first_that_fits(
        width,
        lambda: _methods_as_rows(aggregate, columns),
        lambda: _domains_as_rows(aggregate, columns),
        lambda: _methods_as_rows(aggregate, means or columns),
    )
    caption = rich.text.Text(explanation(aggregate), style="bold red" if aggregate.looks_at_targets else "dim")
    for note in aggregate.notes:
        caption.append(f"\n! {note}", style="not bold yellow")
    shown.caption, shown.caption_justify = caption, "left"
    return shown


def explanation(aggregate: Aggregate) -> str:
    """What the figures are, in one sentence or two."""
    seeds = {cell.count for row in aggregate.table.rows for cell in row.cells}
    error = "mean ± standard error over n seeds" if max(seeds) > 1 else "a single seed, so without an error"
    if max(seeds) > 1 and any(len(row.seeds) == 1 for row in aggregate.table.rows):
        error += "; a single seed has no error"
    return f"mIoU in %, {error}. Scored: {RULES[aggregate.rule]}."


def _rule(name: str) -> Rule:
    for rule in RULES:
        if rule == name:
            return rule
    raise unknown_name_error(name, tuple(RULES), "rule of selection")


def _shown(table: Table) -> list[Column]:
    """Each unseen domain, their mean, and the mean of the sources (or the only source)."""
    sources = [column for column in table.columns if column.kind == "source"]
    kinds = ("unseen", "unseen mean", "source mean")
    shown = [column for column in table.columns if column.kind in kinds or (len(sources) == 1 and column in sources)]
    return sorted(shown, key=lambda column: column.kind.startswith("source"))


def _title(column: Column) -> str:
    return f"{column.name} (source)" if column.kind == "source" else column_title(column)


def _cells(table: Table, row: Row, columns: Sequence[Column]) -> list[Cell]:
    by_column = dict(zip(table.columns, row.cells, strict=True))
    return [by_column[column] for column in columns]


def _text(cell: Cell, row: Row) -> tuple[str, str]:
    """The mean in per cent and what follows it; how many seeds it is over, where those are not all of the row's."""
    if cell.value is None:
        return "–", ""
    error = standard_error(cell)
    text = "" if error is None else f" ± {100 * error:.1f}"
    fewer = f" (n={cell.count})" if cell.count < len(row.seeds) else ""
    return f"{100 * cell.value:.1f}", text + fewer


def _methods_as_rows(aggregate: Aggregate, columns: Sequence[Column]) -> rich.table.Table:
    kinds = [column.kind for column in columns]
    styles = ["dim" if kind.startswith("source") else "bold" if kind.endswith("mean") else "" for kind in kinds]
    titles = ((narrow(_title(column)), style) for column, style in zip(columns, styles, strict=True))
    shown = grid("method", [("n", ""), *titles])
    for row in aggregate.table.rows:
        texts = [_styled(cell, row) for cell in _cells(aggregate.table, row, columns)]
        shown.add_row(rich.text.Text(row.label), str(len(row.seeds)), *texts)
    return shown


def _domains_as_rows(aggregate: Aggregate, columns: Sequence[Column]) -> rich.table.Table:
    rows = aggregate.table.rows
    shown = grid("domain", ((f"{row.label.replace(' (', chr(10) + '(')}\nn = {len(row.seeds)}", "") for row in rows))
    for column in columns:
        texts = [_styled(_cells(aggregate.table, row, [column])[0], row) for row in rows]
        shown.add_row(rich.text.Text(_title(column), style="bold" if column.kind.endswith("mean") else ""), *texts)
    return shown


def _styled(cell: Cell, row: Row) -> rich.text.Text:
    mean, error = _text(cell, row)
    return rich.text.Text.assemble((mean, "bold" if cell.best else ""), error, no_wrap=True)


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "×": r"$\times$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _tex(text: str) -> str:
    r"""Plain words for LaTeX.

    >>> _tex("best_on_source")
    'best\\_on\\_source'
    """
    return re.sub("|".join(map(re.escape, _TEX)), lambda sign: _TEX[sign.group()], text)


def _tex_error(text: str) -> str:
    """What follows a mean, inside of mathematics."""
    return re.sub(r"\(n=(\d+)\)", r"\\;(n{=}\1)", text.replace("±", r"\pm"))
