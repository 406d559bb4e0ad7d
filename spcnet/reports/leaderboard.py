"""The headline: who scores what where, with published rows beside it that are never ranked, and other ways of scoring."""

from collections.abc import Callable, Sequence
from typing import Any

from spcnet.formatting import percent
from spcnet.reports.html import breakable, card, counted, difference, escaped, interval, render, sortable, swatch
from spcnet.reports.html import table as plain_table
from spcnet.reports.published import CAUTIONS, PUBLISHED, SETS, Published, beside, obstacles, set_of
from spcnet.reports.runs import OWN_PROTOCOL, Evaluation, Run
from spcnet.reports.series import Series, each_run
from spcnet.reports.tables import Column, Row, Table, column_title, format_points


def lead(table: Table) -> str:
    """The result in a sentence or two."""
    place = _mean_place(table)
    scored = [row for row in table.rows if place is not None and row.cells[place].value is not None]
    if place is None or not scored:
        return "These runs have no score on unseen domains yet."
    num_unseen = sum(column.kind == "unseen" for column in table.columns)
    over = f"the mean of {num_unseen} domains that were never trained on" if num_unseen > 1 else "the unseen domain"
    best = max(scored, key=lambda row: row.cells[place].value or 0.0)
    cell = best.cells[place]
    text = f"<b>{escaped(best.label)}</b> reaches {percent(cell.value)} % mIoU on {over}"
    if len(table.rows) > 1:
        text = f"Best on {over}: <b>{escaped(best.label)}</b> with {percent(cell.value)} % mIoU"
    if cell.gap is not None and table.baseline is not None:
        text += f", {format_points(cell.gap)}&nbsp;points from {escaped(table.baseline)}"
        if best.wins is not None and best.wins[1] > 1:
            text += f" and above it on {best.wins[0]} of {best.wins[1]} seeds"
    text += "."
    if len(table.rows) > 1 and min(len(row.seeds) for row in table.rows) < 2:
        text += " Not every method has several seeds, so a difference of a point or two may be chance."
    return text


def cards(table: Table, series: Sequence[Series]) -> str:
    """Each method's mean over the unseen domains, in large figures."""
    place = _mean_place(table)
    if place is None:
        return ""
    shown = ""
    for row, one in zip(table.rows, series, strict=True):
        cell = row.cells[place]
        spread = f' <span class="std">± {percent(cell.std)}</span>' if cell.std is not None else ""
        unit = '<span class="std"> %</span>' if cell.value is not None and cell.std is None else ""
        if row.is_baseline and len(table.rows) > 1:
            below = "baseline"
        elif cell.gap is not None:
            below = f"{difference(cell.gap)} points from the baseline{_wins(row)}"
        else:
            below = ""
        what = f"mIoU in %, mean of unseen · {counted(len(row.seeds), 'seed')}"
        shown += card(one.color, row.label, f"{percent(cell.value)}{unit}{spread}", what, below)
    return f'<div class="cards">{shown}</div>'


def _wins(row: Row) -> str:
    return f", above it on {row.wins[0]} of {row.wins[1]} seeds" if row.wins is not None and row.wins[1] > 1 else ""


def _mean_place(table: Table) -> int | None:
    return next((place for place, column in enumerate(table.columns) if column.kind == "unseen mean"), None)


def results(table: Table, series: Sequence[Series], *, published: str = "auto") -> str:
    """The table of methods by domains, with warnings, published rows and other ways of scoring."""
    runs = [run for _, run in each_run(series)]
    hindered = obstacles(runs)
    rows = beside(runs, every=published == "all") if published != "none" and not hindered else ()
    parts = (
        _board(table, series, rows),
        _protocols(series, table),
        _fold(hindered, rows, wanted=published),
    )
    return "".join(parts)


def _board(table: Table, series: Sequence[Series], published: Sequence[Published]) -> str:
    """Warnings, and the table of methods with published rows below."""
    several = len(table.rows) > 1
    notes = ["mIoU in %"]
    if any(len(row.seeds) > 1 for row in table.rows):
        notes.append("± is the sample standard deviation over seeds")
    if any(d.interval for one in series if len(one.group.runs) == 1 for d in one.first.final.domains.values()):
        notes.append("below a score is its 95&nbsp;% interval, by bootstrap over the images")
    if several:
        notes.append("bold is the best of a column")
    if table.baseline is not None and several:
        notes.append(f"small figures are points above or below {escaped(table.baseline)}")
    words = {"source": "sources (trained on)", "unseen": "unseen (never trained on)", "gap": ""}

    def small(row: Row, one: Series) -> list[str]:
        marks = [counted(len(row.seeds), "seed")] + (["baseline"] if row.is_baseline and several else [])
        return marks + ([f"{one.first.setting('model.backbone')}", f"protocol {OWN_PROTOCOL}"] if published else [])

    def intervals(one: Series, column: Column) -> list[str]:
        ends = [(run.seed, _interval_on(run, column)) for run in one.group.runs]
        return [f"seed {seed}: {interval(pair)}" for seed, pair in ends if pair is not None]

    filters: dict[str, Callable[..., Any]] = {
        "small": small,
        "intervals": intervals,
        "scores": lambda row: _published_scores(table, row),
        "title": column_title,
        **{one.__name__: one for one in (breakable, difference, percent, sortable, swatch)},
    }
    return render(
        "results",
        filters=filters,
        table=table,
        rows=list(zip(table.rows, series, strict=True)),
        published=published,
        notes=notes,
        spans=[(sum(c.kind.startswith(kind) for c in table.columns), text) for kind, text in words.items()],
        css=[_column_class(table, place) for place in range(len(table.columns))],
    )


def _interval_on(run: Run, column: Column) -> tuple[float, float] | None:
    domain = run.final.domains.get(column.name)
    return domain.interval if domain is not None and domain.role == column.kind else None


def _column_class(table: Table, place: int) -> str:
    column = table.columns[place]
    first = place == 0 or table.columns[place - 1].kind.split()[0] != column.kind.split()[0]
    return " ".join(name for name, on in (("edge", first), ("mean", column.kind.endswith("mean"))) if on)


def _published_scores(table: Table, row: Published) -> list[float | None]:
    """A published row's score in each column."""
    targets = {set_of(column.name) for column in table.columns if column.kind == "unseen"}
    mean = row.mean if targets == set(SETS[:3]) else None
    return [
        row.scores.get(set_of(column.name) or "")
        if column.kind in ("source", "unseen")
        else mean
        if column.kind == "unseen mean"
        else None
        for column in table.columns
    ]


def _fold(hindered: Sequence[str], rows: Sequence[Published], *, wanted: str) -> str:
    """All published rows, and why they do not stand beside the runs."""
    if wanted == "none":
        return ""
    if rows:
        title = "Published results: all rows, and how far they can be compared"
        why = (
            "<p>Above stand rows that were trained on the same sets and, unless all were asked for, read in the authors' own "
            "files, with a figure for each of the domains. None of them was measured here.</p>"
        )
    else:
        title = "Published results, and why they do not stand beside these"
        reasons = hindered or ("Sets: no published row has a figure for the domains of these runs.",)
        why = f"<ul>{''.join(f'<li>{escaped(reason)}</li>' for reason in reasons)}</ul>"
    cautions = "".join(f"<li>{escaped(line)}</li>" for line in CAUTIONS)
    heads = ["method", "backbone", "trained on", "protocol", "mean of<br>C, B, M", *map(escaped, SETS), "read in"]
    body = [
        [
            escaped(row.method),
            escaped(row.backbone),
            escaped(", ".join(row.sources)),
            escaped(row.protocol),
            percent(row.mean) if row.mean is not None else "",
            *(percent(row.scores[name]) if name in row.scores else "" for name in SETS),
            escaped(row.place) + ("" if row.verified else " (not verified)"),
        ]
        for row in PUBLISHED
    ]
    caption = (
        "Published, not measured here: mIoU in %, 19 classes; C, B, M are Cityscapes, BDD100K and Mapillary. The protocol "
        "<b>own</b> is the paper's own. Rows that are not verified were read in a copy of the table."
    )
    return (
        f'<details id="published"{" open" if wanted == "all" else ""}><summary><b>{title}</b></summary>{why}'
        f"<p>Published rows differ among each other, too:</p><ul>{cautions}</ul>"
        + plain_table(heads, body, caption=caption, label="Published results", text=4)
        + "</details>"
    )


def _manner(run: Run, evaluation: Evaluation) -> str:
    if evaluation is run.final and evaluation.views is None:
        return f"{OWN_PROTOCOL} (above)"
    later = "" if evaluation.iteration == run.final.iteration else f"; after {evaluation.iteration} iterations"
    return f"{evaluation.manner}{later}"


def _protocols(series: Sequence[Series], table: Table) -> str:
    """What the same networks score with other views; empty where nothing else was tried."""
    having = [(one, run) for one, run in each_run(series) if run.others]
    if not having:
        return ""
    columns = [column.name for column in table.columns if column.kind in ("source", "unseen")]
    names = list(dict.fromkeys((*columns, *(n for _, run in having for other in run.others for n in other.domains))))
    rows = []
    for one, run in having:
        title = f'{swatch(one.color)}{escaped(one.label)}<span class="below std">seed {run.seed}</span>'
        again = f'<span class="hidden">{escaped(one.label)}, seed {run.seed}</span>'
        for evaluation in (run.final, *run.others):
            is_final = evaluation is run.final
            scores = [evaluation.domains[name].miou if name in evaluation.domains else None for name in names]
            mean = percent(evaluation.mean_unseen_miou)
            if (
                set(evaluation.names("unseen")) != set(run.final.names("unseen"))
                and evaluation.mean_unseen_miou is not None
            ):
                mean += f'<span class="below std">of {counted(len(evaluation.names("unseen")), "domain")}</span>'
            figures = ["" if score is None else percent(score) for score in scores]
            rows.append([title if is_final else again, escaped(_manner(run, evaluation)), *figures, mean])
    caption = (
        "The same network, scored in another manner; these figures are in no mean and no ranking above. mIoU in %."
    )
    heads = ["method", "protocol", *map(breakable, names), "mean of unseen"]
    shown = plain_table(heads, rows, caption=caption, label="Scores by protocol", text=2)
    return f"<h3>Same network, other protocols</h3>{shown}"
