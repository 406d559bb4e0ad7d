"""One self-contained page about one or several runs: no network, no scripts, light and dark, phone and paper.

The page is put together from small functions that each return a piece of HTML. Whatever comes from a run (names,
settings, versions) passes through `escaped` on its way in.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from spcnet.errors import DataError, UsageError
from spcnet.files import write_text
from spcnet.reports import figures
from spcnet.reports.figures import Bars, Curve
from spcnet.reports.runs import DomainResult, Panel, Role, Run
from spcnet.reports.tables import (
    Group,
    Row,
    Table,
    baseline_of,
    column_title,
    format_points,
    group_runs,
    mean_std,
    summary_table,
)

_IGNORE = 255
"""Label of a pixel that is not scored, as in `spcnet.types.IGNORE_INDEX`, which would load torch."""

_ROLES: tuple[Role, Role] = ("source", "unseen")

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f23; --muted: #5c636b; --line: #d9dde2; --page: #f6f7f9; --card: #ffffff;
  --baseline: #5f6368; --blue: #0072b2; --better: #00734f; --worse: #b34700; --link: #005a9c; --warn: #fff3d6; --warn-line: #e69f00;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --muted: #a3abb3; --line: #3a4047; --page: #14171a;
  --card: #1d2125; --baseline: #b4bac1; --blue: #3f9fe0; --better: #3fd1a0; --worse: #ff9552; --link: #7cc0f5; --warn: #3a2f12; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 var(--font); }
header, main, footer { max-width: 1220px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 34px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; margin: 0 0 4px; }
h3 { font-size: 1rem; margin: 22px 0 6px; }
p { margin: 6px 0 12px; max-width: 76ch; }
a { color: var(--link); }
.lead, .note, figcaption, caption { color: var(--muted); }
.note, figcaption, caption { font-size: 0.86rem; }
nav { margin: 14px 0 4px; font-size: 0.9rem; display: flex; flex-wrap: wrap; gap: 4px 16px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px; margin: 18px 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 18px 0; }
.cards > div { background: var(--card); border: 1px solid var(--line); border-top: 4px solid var(--series);
  border-radius: 10px; padding: 12px 16px 14px; }
.cards b { display: block; overflow-wrap: anywhere; }
.cards .big { font-size: 2rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.cards small { color: var(--muted); display: block; }
.scroll { overflow-x: auto; max-width: 100%; -webkit-overflow-scrolling: touch; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
caption { text-align: left; padding-bottom: 6px; caption-side: top; }
caption span { position: sticky; left: 0; display: inline-block; max-width: min(100ch, calc(100vw - 64px)); }
th, td { padding: 5px 9px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
.results th, .results td { padding-left: 7px; padding-right: 7px; }
thead th { vertical-align: bottom; font-weight: 600; }
th[scope=row] { text-align: left; font-weight: 600; position: sticky; left: 0; background: var(--card); z-index: 1; }
thead tr:first-child th:first-child { position: sticky; left: 0; background: var(--card); z-index: 2; text-align: left; }
th.span { text-align: center; color: var(--muted); font-weight: 500; }
.edge { border-left: 2px solid var(--line); }
.mean { background: color-mix(in srgb, var(--line) 28%, transparent); }
td b { font-weight: 750; }
.std { color: var(--muted); font-size: 0.82em; }
.below { display: block; font-size: 0.8em; line-height: 1.35; }
.better { color: var(--better); } .worse { color: var(--worse); } .even { color: var(--muted); }
td.strong { font-weight: 700; }
.swatch { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; margin-right: 6px; vertical-align: -0.06em;
  border: 1px solid color-mix(in srgb, var(--ink) 25%, transparent); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; list-style: none; padding: 0; margin: 8px 0 12px; font-size: 0.88rem; }
.legend svg { width: 28px; height: 8px; margin-right: 6px; vertical-align: 1px; }
.warnings { background: var(--warn); border-left: 4px solid var(--warn-line); padding: 10px 14px; border-radius: 6px; margin: 12px 0; }
.warnings ul { margin: 4px 0 0; padding-left: 20px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 14px 22px; }
.plots.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); }
figure { margin: 0; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; }
figure.bars { max-width: 760px; }
.panels { display: grid; gap: 6px; min-width: calc(var(--columns) * 168px); grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); margin-top: 6px; }
.panels > div { min-width: 0; font-size: 0.84rem; }
.panels .head { font-weight: 600; align-self: end; }
.panels .head .name { overflow-wrap: anywhere; }
.panels img { width: 100%; height: auto; display: block; border-radius: 4px; }
.panels small { color: var(--muted); display: block; overflow-wrap: anywhere; line-height: 1.35; margin: 2px 0 4px; }
dl { columns: 2 420px; column-gap: 36px; margin: 10px 0 0; font-size: 0.92rem; }
dl > div { display: grid; grid-template-columns: 11.5em minmax(0, 1fr); gap: 0 12px; padding: 3px 0; break-inside: avoid; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); padding: 8px 0; }
summary { cursor: pointer; overflow-wrap: anywhere; } summary > b { font-weight: 600; }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 6px; padding: 12px; overflow-x: auto; font-size: 0.8rem; line-height: 1.45; }
footer { color: var(--muted); font-size: 0.85rem; padding-bottom: 40px; }
@media (max-width: 640px) { section { padding: 16px 14px; border-radius: 8px; } header, main, footer { padding-left: 12px; padding-right: 12px; }
  .panels { min-width: calc(var(--columns) * 124px); } dl { columns: 1; } dl > div { grid-template-columns: 8.5em minmax(0, 1fr); } h1 { font-size: 1.4rem; }
  th[scope=row] { white-space: normal; overflow-wrap: anywhere; min-width: 146px; max-width: 170px; padding-left: 0 !important; font-size: 0.84rem; } }
@page { size: landscape; margin: 12mm; }
@media print { :root { color-scheme: light; --ink: #000; --muted: #444; --line: #bbb; --page: #fff; --card: #fff; --baseline: #5f6368; --blue: #0072b2;
  --better: #00734f; --worse: #b34700; --link: #000; --warn: #fff; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10pt; } nav { display: none; } section { border: 0; padding: 0; } .scroll { overflow: visible; }
  header, main, footer { max-width: none; padding-left: 0; padding-right: 0; }
  table { font-size: 7.5pt; } th, td, .results th, .results td { padding: 2px 4px; } .panels { min-width: 0; }
  figure, .cards, tr, .panels > div { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""


@dataclass(frozen=True)
class _Series:
    """A group of runs with how it is drawn."""

    group: Group
    color: str
    dash: str

    @property
    def first(self) -> Run:
        """The run with the first seed, which stands for the group where only one can be shown."""
        return self.group.runs[0]


def write_report(
    runs: Sequence[Run],
    output: Path,
    *,
    title: str | None = None,
    baseline: str = "deeplabv3plus",
    digits: int = 1,
    panels: int = 3,
) -> Path:
    """Write one page about these runs, whole or not at all.

    Args:
        runs: what to compare; runs that differ only by their seed are shown as one, with mean and deviation.
        output: the file to write; folders above it are made.
        title: heading of the page; says what is compared by default.
        baseline: method that gaps are measured from, if it is among the runs.
        digits: decimals of a figure in per cent.
        panels: images of each unseen domain to show.

    Returns:
        The file written.

    Raises:
        UsageError: there are no runs.
        DataError: a kept picture is broken, or the file cannot be written.
    """
    page = render_page(runs, title=title, baseline=baseline, digits=digits, panels=panels)
    output = Path(output)
    if output.is_dir():
        raise DataError(f"cannot write {output}: it is a folder. Name a file, for example {output / 'report.html'}")
    write_text(output, page)
    return output


def render_page(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    baseline: str = "deeplabv3plus",
    digits: int = 1,
    panels: int = 3,
) -> str:
    """The page of `write_report` as text.

    Raises:
        UsageError: there are no runs, or `digits` or `panels` is negative.
        DataError: a kept picture is broken.
    """
    if digits < 0 or panels < 0:
        raise UsageError(f"digits is {digits} and panels is {panels}: neither can be negative")
    table = summary_table(runs, baseline=baseline)
    groups = group_runs(runs)
    base = baseline_of(groups, baseline)
    base_place = groups.index(base) if base is not None else None
    colors = figures.group_colors(len(groups), base_place)
    series = [
        _Series(group, color, figures.METHOD_DASHES[i % len(figures.METHOD_DASHES)])
        for i, (group, color) in enumerate(zip(groups, colors, strict=True))
    ]
    # The baseline comes first wherever methods stand side by side.
    ordered = sorted(series, key=lambda s: s.group is not base)
    heading = title or _default_title(series)
    sections = [
        ("results", "Results", _results(table, series, digits)),
        ("setting", "What was compared", _setting(series)),
        ("images", "Images", _images(ordered, panels)),
        ("classes", "Classes", _classes(ordered, base, digits)),
        ("training", "Training", _training(ordered)),
        ("styles", "Style weights", _styles(ordered)),
        ("runs", "Runs in detail", _details(series, digits)),
        ("reading", "How to read this", _reading(table)),
    ]
    sections = [(anchor, name, body) for anchor, name, body in sections if body]
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, _ in sections)
    bodies = "".join(
        f'<section id="{a}" aria-labelledby="{a}-h"><h2 id="{a}-h">{n}</h2>{b}</section>' for a, n, b in sections
    )
    version = next((str(run.environment["spcnet"]) for run in runs if run.environment.get("spcnet")), "")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(heading)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{escaped(heading)}</h1><p class="lead">{_lead(table, digits)}</p>'
        f'<nav aria-label="Sections">{links}</nav></header>\n'
        f"<main>{_cards(table, series, digits)}{bodies}</main>\n"
        f"<footer>Written by spcnet{' ' + escaped(version) if version else ''}. "
        "This page is one file: it loads nothing and runs no scripts.</footer>\n</body>\n</html>\n"
    )


# --- Head ------------------------------------------------------------------------------------------------------------


def _default_title(series: Sequence[_Series]) -> str:
    methods = list(dict.fromkeys(s.group.method for s in series))
    if len(methods) == 1:
        return (
            f"{methods[0]}: {counted(len(series), 'variant')} compared" if len(series) > 1 else f"A run of {methods[0]}"
        )
    return f"{', '.join(methods[:-1])} and {methods[-1]} compared"


def _lead(table: Table, digits: int) -> str:
    """The result in a sentence or two."""
    place = _mean_place(table)
    scored = [row for row in table.rows if place is not None and row.cells[place].value is not None]
    if place is None or not scored:
        return "These runs have no score on unseen domains yet."
    num_unseen = sum(column.kind == "unseen" for column in table.columns)
    over = f"the mean of {num_unseen} domains that were never trained on" if num_unseen > 1 else "the unseen domain"
    best = max(scored, key=lambda row: row.cells[place].value or 0.0)
    cell = best.cells[place]
    text = f"<b>{escaped(best.label)}</b> reaches {_percent(cell.value, digits)} % mIoU on {over}"
    if len(table.rows) > 1:
        text = f"Best on {over}: <b>{escaped(best.label)}</b> with {_percent(cell.value, digits)} % mIoU"
    if cell.gap is not None and table.baseline is not None:
        text += f", {format_points(cell.gap, digits=digits)}&nbsp;points from {escaped(table.baseline)}"
        if best.wins is not None and best.wins[1] > 1:
            text += f" and above it on {best.wins[0]} of {best.wins[1]} seeds"
    text += "."
    if len(table.rows) > 1 and min(len(row.seeds) for row in table.rows) < 2:
        text += " Not every method has several seeds, so a difference of a point or two may be chance."
    return text


def _cards(table: Table, series: Sequence[_Series], digits: int) -> str:
    place = _mean_place(table)
    if place is None:
        return ""
    cards = []
    for row, one in zip(table.rows, series, strict=True):
        cell = row.cells[place]
        spread = f' <span class="std">± {_percent(cell.std, digits)}</span>' if cell.std is not None else ""
        unit = '<span class="std"> %</span>' if cell.value is not None and cell.std is None else ""
        if row.is_baseline and len(table.rows) > 1:
            below = "baseline"
        elif cell.gap is not None:
            below = f"{_difference(cell.gap, digits)} points from the baseline{_wins(row)}"
        else:
            below = ""
        cards.append(
            f'<div style="--series: {figures.css_color(one.color)}"><b>{escaped(row.label)}</b>'
            f'<span class="big">{_percent(cell.value, digits)}{unit}{spread}</span>'
            f"<small>mIoU in %, mean of unseen · {counted(len(row.seeds), 'seed')}</small><small>{below}</small></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _wins(row: Row) -> str:
    return f", above it on {row.wins[0]} of {row.wins[1]} seeds" if row.wins is not None and row.wins[1] > 1 else ""


def _mean_place(table: Table) -> int | None:
    return next((place for place, column in enumerate(table.columns) if column.kind == "unseen mean"), None)


# --- Results ---------------------------------------------------------------------------------------------------------


def _results(table: Table, series: Sequence[_Series], digits: int) -> str:
    parts = []
    if table.warnings:
        items = "".join(f"<li>{escaped(line)}</li>" for line in table.warnings)
        parts.append(f'<div class="warnings" role="note"><b>Read with care</b><ul>{items}</ul></div>')
    spans = [(kind, sum(c.kind.startswith(kind) for c in table.columns)) for kind in ("source", "unseen", "gap")]
    words = {"source": "sources (trained on)", "unseen": "unseen (never trained on)", "gap": ""}
    top = "".join(
        f'<th scope="colgroup" colspan="{num}" class="span edge">{words[kind]}</th>' for kind, num in spans if num
    )
    heads = "".join(
        f'<th scope="col" class="{_column_class(table, place)}">{breakable(column_title(column))}</th>'
        for place, column in enumerate(table.columns)
    )
    rows = []
    for row, one in zip(table.rows, series, strict=True):
        cells = "".join(_result_cell(table, row, place, digits) for place in range(len(table.columns)))
        small = [counted(len(row.seeds), "seed")] + (["baseline"] if row.is_baseline and table.rows[1:] else [])
        label = f'{swatch(one.color)}{escaped(row.label)}<span class="below std">{" · ".join(small)}</span>'
        rows.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    notes = ["mIoU in %"]
    if any(len(row.seeds) > 1 for row in table.rows):
        notes.append("± is the sample standard deviation over seeds")
    if len(table.rows) > 1:
        notes.append("bold is the best of a column")
    if table.baseline is not None and len(table.rows) > 1:
        notes.append(f"small figures are points above or below {escaped(table.baseline)}")
    caption = "; ".join(notes) + "."
    return "".join(parts) + scrolling(
        f'<table class="results"><caption><span>{caption}</span></caption><thead><tr><th rowspan="2" scope="col">method</th>{top}</tr>'
        f"<tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
        "Results by domain",
    )


def _result_cell(table: Table, row: Row, place: int, digits: int) -> str:
    column, cell = table.columns[place], row.cells[place]
    css = _column_class(table, place)
    if column.kind == "gap":
        shown = "" if row.is_baseline else _difference(cell.value, digits)
        return f'<td class="{css} strong">{shown}</td>'
    text = _percent(cell.value, digits)
    if cell.best:
        text = f"<b>{text}</b>"
    if cell.std is not None:
        text += f'<span class="below std">± {_percent(cell.std, digits)}</span>'
    if cell.count < len(row.seeds) and cell.value is not None:
        text += f'<span class="below std">{cell.count} of {len(row.seeds)} seeds</span>'
    if cell.gap is not None:
        text += _difference(cell.gap, digits, css="below")
    return f'<td class="{css}">{text}</td>'


def _column_class(table: Table, place: int) -> str:
    column = table.columns[place]
    first = place == 0 or table.columns[place - 1].kind.split()[0] != column.kind.split()[0]
    return " ".join(name for name, on in (("edge", first), ("mean", column.kind.endswith("mean"))) if on)


# --- Setting ---------------------------------------------------------------------------------------------------------


def _setting(series: Sequence[_Series]) -> str:
    runs = [run for one in series for run in one.group.runs]
    paths = {
        "Backbone": "model.backbone",
        "Start of the backbone": "model.weights",
        "Output stride": "model.output_stride",
        "Sources": "data.sources",
        "Targets": "data.targets",
        "Label space": "data.space",
        "Image size": "data.size",
        "Images per domain in a batch": "data.images_per_domain",
        "Iterations": "training.iterations",
        "Learning rate": "training.learning_rate",
        "Precision": "training.precision",
    }
    methods = "; ".join(
        f"{one.group.label} (seed{'s' if len(one.group.runs) > 1 else ''} {', '.join(str(r.seed) for r in one.group.runs)})"
        for one in series
    )
    entries = [("Methods", methods)]
    for words, path in paths.items():
        join = " × " if path == "data.size" else ", "
        values = [_plain(run.setting(path), join) for run in runs]
        entries.append(
            (words, _agreed(runs, [value or "its own" for value in values] if path == "data.size" else values))
        )
    entries.append(("Classes", _agreed(runs, [f"{len(run.final.classes)}" for run in runs])))
    entries.append(("Scored after", _agreed(runs, [f"{run.final.iteration} iterations" for run in runs])))
    entries.append(("Training time", _ranged([_training_seconds(run) for run in runs], _duration)))
    entries.append(("Training speed", _ranged([_speed(run) for run in runs], lambda s: f"{s:.3g} images/s")))
    entries.append(
        ("Scoring time", _ranged([sum(d.seconds for d in run.final.domains.values()) for run in runs], _duration))
    )
    environment = {
        "Device": "device",
        "spcnet": "spcnet",
        "PyTorch": "torch",
        "Python": "python",
        "Platform": "platform",
    }
    for words, key in environment.items():
        entries.append((words, _agreed(runs, [_plain(run.environment.get(key)) for run in runs])))
    entries.append(("Git commit", _agreed(runs, [_plain(run.environment.get("git_commit"))[:12] for run in runs])))
    entries.append(("Started", _ranged_text([_when(run.environment.get("started")) for run in runs])))
    shown = "".join(
        f"<div><dt>{escaped(words)}</dt><dd>{escaped(value)}</dd></div>" for words, value in entries if value
    )
    return f"<dl>{shown}</dl>"


def _agreed(runs: Sequence[Run], values: Sequence[str]) -> str:
    """The value all runs share, or each value with the runs that have it."""
    owners: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        owners.setdefault(value, []).append(run.folder.name)
    if len(owners) == 1:
        return values[0]
    return "; ".join(f"{value or 'not recorded'} ({', '.join(names)})" for value, names in owners.items())


def _ranged(values: Sequence[float], say: Any) -> str:
    known = sorted(value for value in values if math.isfinite(value) and value > 0)
    if not known:
        return ""
    low, high = say(known[0]), say(known[-1])
    return f"{low} per run" if low == high else f"{low} to {high} per run"


def _ranged_text(values: Sequence[str]) -> str:
    known = sorted(value for value in values if value)
    if not known:
        return ""
    return known[0] if known[0] == known[-1] else f"{known[0]} to {known[-1]}"


def _training_seconds(run: Run) -> float:
    """Time spent training: the seconds begin anew with each process, so what each reached is added up."""
    total = last = 0.0
    for line in run.log:
        if not math.isfinite(line.seconds):
            continue
        if line.seconds < last:
            total += last
        last = line.seconds
    return total + last


def _speed(run: Run) -> float:
    known = [line.images_per_second for line in run.log if math.isfinite(line.images_per_second)]
    return float(np.median(known)) if known else math.nan


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _when(value: object) -> str:
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return _plain(value)


# --- Classes ---------------------------------------------------------------------------------------------------------


def _classes(series: Sequence[_Series], base: Group | None, digits: int) -> str:
    comparable, left_out = _same_classes(series)
    classes = comparable[0].first.final.classes
    bars = []
    for one in comparable:
        scores = [mean_std([_unseen_class_iou(run, name) for run in one.group.runs]) for name in classes]
        bars.append(Bars([mean for mean, _ in scores], one.color, [std for _, std in scores]))
    if not any(value is not None for series_bars in bars for value in series_bars.values):
        return ""
    several = any(len(one.group.runs) > 1 for one in comparable)
    note = (
        "IoU of each class, averaged over the unseen domains in which it occurs"
        + (" and over seeds; a line spans ± one standard deviation over seeds" if several else "")
        + "."
    )
    label = f"Bars of the IoU of {len(classes)} classes for {', '.join(one.group.label for one in comparable)}"
    parts = [
        f'<p class="note">{note}{escaped(left_out)}</p>',
        _legend(comparable),
        _figure(
            scrolling(f'<div style="min-width:480px">{figures.bars_svg(classes, bars, label=label)}</div>', label),
            css="bars",
        ),
    ]
    base_series = next((one for one in comparable if one.group is base), None)
    if base_series is not None:
        parts += [_difference_map(one, base_series, digits) for one in comparable if one is not base_series]
    return "".join(parts)


def _same_classes(series: Sequence[_Series]) -> tuple[list[_Series], str]:
    """Those whose classes are the first's, and a sentence about the others."""
    classes = series[0].first.final.classes
    same = [one for one in series if one.first.final.classes == classes]
    others = [one.group.label for one in series if one not in same]
    return same, f" Left out, because their classes are others: {', '.join(others)}." if others else ""


def _class_iou(domain: DomainResult | None, name: str) -> float | None:
    # The IoU of a class without a truth pixel is 0 if it was predicted anywhere: that says nothing about the class.
    return None if domain is None or name in domain.absent else domain.iou.get(name)


def _unseen_class_iou(run: Run, name: str) -> float | None:
    return mean_std([_class_iou(d, name) for d in run.final.domains.values() if d.role == "unseen"])[0]


def _difference_map(one: _Series, base: _Series, digits: int) -> str:
    """Class × domain: how many points this method is above or below the baseline."""
    domains = [name for name in one.first.final.domains if name in base.first.final.domains]
    classes = one.first.final.classes

    def score(series: _Series, domain: str, name: str) -> float | None:
        return mean_std([_class_iou(run.final.domains.get(domain), name) for run in series.group.runs])[0]

    table: dict[tuple[str, str], float] = {}
    for domain in domains:
        for name in classes:
            ours, theirs = score(one, domain, name), score(base, domain, name)
            if ours is not None and theirs is not None:
                table[name, domain] = ours - theirs
    if not table:
        return ""
    # The colours end at a difference that only few exceed, so that one odd cell does not pale the others.
    limit = max(0.02, float(np.percentile(np.abs(list(table.values())), 95)))
    roles = {name: one.first.final.domains[name].role for name in domains}
    heads = "".join(
        f'<th scope="col"{_edge(domains, roles, i)}>{breakable(name)}<br><span class="std">{roles[name]}</span></th>'
        for i, name in enumerate(domains)
    )
    rows = []
    for name, color in zip(classes, one.first.final.colors, strict=True):
        cells = "".join(
            _heat_cell(table.get((name, d)), limit, digits, _edge(domains, roles, i)) for i, d in enumerate(domains)
        )
        rows.append(f'<tr><th scope="row">{swatch(css_rgb(color))}{escaped(name)}</th>{cells}</tr>')
    method, reference = escaped(one.group.label), escaped(base.group.label)
    return f"<h3>{method} against {reference}, class by class</h3>" + scrolling(
        f"<table><caption><span>IoU of {method} minus IoU of {reference} in points: green is better, orange is worse, "
        "a dash where the class does not occur.</span></caption>"
        f'<thead><tr><th scope="col">class</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        f"Differences of {one.group.label} to {base.group.label} by class and domain",
    )


def _heat_cell(difference: float | None, limit: float, digits: int, attributes: str) -> str:
    if difference is None:
        return f'<td{attributes}><span class="even">–</span></td>'
    strength = 0.72 * min(1.0, abs(difference) / limit)
    color = "0,158,115" if difference > 0 else "230,110,20"
    return f'<td{attributes} style="background:rgba({color},{strength:.2f})">{format_points(difference, digits=digits)}</td>'


def _edge(names: Sequence[str], roles: Mapping[str, Role], place: int) -> str:
    first = place == 0 or roles[names[place - 1]] != roles[names[place]]
    return ' class="edge"' if first else ""


# --- Images ----------------------------------------------------------------------------------------------------------


def _images(series: Sequence[_Series], wanted: int) -> str:
    """Image, truth and each method's prediction, for the first images of each unseen domain."""
    shown, left_out = _same_classes(series)
    shown = [one for one in shown if one.first.panels]
    if not shown or wanted == 0:
        return ""
    final = shown[0].first.final
    used: set[int] = set()
    blocks = []
    for domain in final.names("unseen"):
        by_name = [{panel.name: panel for panel in one.first.panels.get(domain, ())} for one in shown]
        names = list(dict.fromkeys(name for panels in by_name for name in panels))
        # Images that every method has come first: they can be compared.
        names.sort(key=lambda name: sum(name not in panels for panels in by_name))
        if not names:
            continue
        heads = ["image", "truth", *(one.group.label for one in shown)]
        cells = [
            f'<div class="head">{swatch(shown[i - 2].color) if i >= 2 else ""}<span class="name">{breakable(head)}</span></div>'
            for i, head in enumerate(heads)
        ]
        for name in names[:wanted]:
            cells += _panel_row(domain, name, [panels.get(name) for panels in by_name], shown, final.colors, used)
        grid = f'<div class="panels" style="--columns: {len(heads)}">{"".join(cells)}</div>'
        blocks.append(f"<h3>{escaped(domain)}</h3>" + scrolling(grid, f"Images of {domain}"))
    if not blocks:
        return ""
    entries = "".join(
        f"<li>{swatch(css_rgb(color))}{escaped(name)}</li>"
        for k, (name, color) in enumerate(zip(final.classes, final.colors, strict=True))
        if k in used
    )
    entries += f"<li>{swatch('#000')}not labelled</li>" if _IGNORE in used else ""
    seeds = ", ".join(dict.fromkeys(str(one.first.seed) for one in shown))
    note = (
        f"Some images of each unseen domain, spread over it and not chosen by hand, with the predictions of the run with seed {seeds}. "
        f"Below each prediction: the share of this image's labelled pixels that is right.{escaped(left_out)}"
    )
    return f'<p class="note">{note}</p><ul class="legend" aria-label="Classes">{entries}</ul>{"".join(blocks)}'


def _panel_row(
    domain: str,
    name: str,
    panels: Sequence[Panel | None],
    series: Sequence[_Series],
    colors: Sequence[tuple[int, int, int]],
    used: set[int],
) -> list[str]:
    first = next(panel for panel in panels if panel is not None)
    truth = figures.read_labels(first.truth)
    used.update(int(k) for k in np.unique(truth))
    uri, size = figures.picture_uri(first.image)
    where = f"{escaped(name)} of {escaped(domain)}"
    cells = [
        f'<div><img src="{uri}" alt="Image {where}" width="{size[0]}" height="{size[1]}" loading="lazy"><small>{escaped(name)}</small></div>',
        f"<div>{label_picture(truth, colors, f'True classes of {where}', like=size)}</div>",
    ]
    for panel, one in zip(panels, series, strict=True):
        if panel is None:
            cells.append("<div><small>not kept by this run</small></div>")
            continue
        prediction = figures.read_labels(panel.prediction)
        used.update(int(k) for k in np.unique(prediction))
        share = _share_right(truth, prediction)
        words = f"{100 * share:.0f} % right" if share is not None else ""
        alt = f"Classes that {escaped(one.group.label)} sees in {where}" + (f": {words}" if words else "")
        cells.append(f"<div>{label_picture(prediction, colors, alt, like=size)}<small>{words}</small></div>")
    return cells


def label_picture(
    labels: npt.NDArray[np.uint8], colors: Sequence[tuple[int, int, int]], alt: str, *, like: tuple[int, int]
) -> str:
    """Labels in the shape of the image beside them, whose width and height need not be the labels' own."""
    height, width = labels.shape
    return (
        f'<img src="{figures.labels_uri(labels, colors)}" alt="{alt}" width="{width}" height="{height}" '
        f'style="aspect-ratio: {like[0]} / {like[1]}" loading="lazy">'
    )


def _share_right(truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> float | None:
    known = truth != _IGNORE
    if truth.shape != prediction.shape or not known.any():
        return None
    return float((truth[known] == prediction[known]).mean())


# --- Training --------------------------------------------------------------------------------------------------------


def _training(series: Sequence[_Series]) -> str:
    parts = []
    names = list(
        dict.fromkeys(name for one in series for run in one.group.runs for line in run.log for name in line.parts)
    )
    plots = []
    if any(run.log for one in series for run in one.group.runs):
        plots.append(
            _loss_plot(
                "loss (weighted sum)", [(one, run, [line.loss for line in run.log]) for one, run in _each(series)]
            )
        )
        for name in names:
            having = [(one, run) for one, run in _each(series) if any(name in line.parts for line in run.log)]
            values = [(one, run, [line.parts.get(name, math.nan) for line in run.log]) for one, run in having]
            plots.append(_loss_plot(f"{name} (before its weight)", values))
        note = (
            "Loss over iterations, one line for each run: faint as logged, strong as a running mean. "
            "The sums of methods with different parts cannot be compared."
        )
        parts.append(
            f'<p class="note">{note}</p>{_legend(series, lines=True)}<div class="plots">{"".join(plots)}</div>'
        )
    if any(len(run.evaluations) > 1 for _, run in _each(series)):
        plots = []
        for title, role in (("mIoU on sources in %", "source"), ("mIoU on unseen domains in %", "unseen")):
            curves = []
            for one, run in _each(series):
                means = [e.mean_source_miou if role == "source" else e.mean_unseen_miou for e in run.evaluations]
                known = [math.nan if mean is None else mean for mean in means]
                curves.append(Curve([e.iteration for e in run.evaluations], known, one.color, one.dash))
            label = f"Lines of the mean mIoU over the {role} domains against iterations, one for each run"
            plots.append(_figure(figures.curves_svg(title, curves, label=label, percent=True, smoothed=False)))
        note = "Scores during training. The table above uses the last one of each run, even where an earlier one was better."
        legend = "" if parts else _legend(series, lines=True)
        parts.append(
            f'<h3>Scores over iterations</h3><p class="note">{note}</p>{legend}<div class="plots">{"".join(plots)}</div>'
        )
    return "".join(parts)


def _loss_plot(title: str, values: Sequence[tuple[_Series, Run, Sequence[float]]]) -> str:
    curves = [Curve([line.iteration for line in run.log], y, one.color, one.dash) for one, run, y in values if run.log]
    last = "; ".join(f"{one.group.label} seed {run.seed} ends at {y[-1]:.3g}" for one, run, y in values if run.log)
    return _figure(figures.curves_svg(title, curves, label=f"Lines of {title} against iterations: {last}"))


def _each(series: Sequence[_Series]) -> list[tuple[_Series, Run]]:
    return [(one, run) for one in series for run in one.group.runs]


# --- Style weights ---------------------------------------------------------------------------------------------------


def _styles(series: Sequence[_Series]) -> str:
    parts = []
    for one in series:
        run = one.first
        domains = [domain for domain in run.final.domains.values() if domain.style_weights]
        num_layers = min((len(domain.style_weights) for domain in domains), default=0)
        sources = max((len(layer) for domain in domains for layer in domain.style_weights), default=0)
        if num_layers == 0 or any(len(layer) != sources for d in domains for layer in d.style_weights):
            continue
        configured = run.setting("data.sources")
        names = [str(n) for n in configured] if isinstance(configured, list) and len(configured) == sources else []
        names = names or [f"style {i + 1}" for i in range(sources)]
        plots = []
        for layer in range(num_layers):
            shares = [domain.style_weights[layer] for domain in domains]
            words = "; ".join(
                f"{d.name}: " + ", ".join(f"{n} {100 * w:.0f} %" for n, w in zip(names, s, strict=True))
                for d, s in zip(domains, shares, strict=True)
            )
            title = f"style layer {layer + 1}"
            svg = figures.shares_svg(title, [d.name for d in domains], shares, label=f"Stacked bars, {title}. {words}")
            plots.append(_figure(svg))
        colors = figures.STYLE_COLORS
        entries = "".join(f"<li>{swatch(colors[i % len(colors)])}{escaped(name)}</li>" for i, name in enumerate(names))
        parts.append(
            f"<h3>{escaped(one.group.label)}, seed {run.seed}</h3>"
            f'<ul class="legend" aria-label="Source styles">{entries}</ul><div class="plots">{"".join(plots)}</div>'
        )
    if not parts:
        return ""
    note = (
        "λ: how much each source style explains the images of a domain, averaged over its images. Equal shares mean that "
        "the layer does not tell the styles apart; a source should be explained mostly by itself."
    )
    return f'<p class="note">{note}</p>' + "".join(parts)


# --- Details ---------------------------------------------------------------------------------------------------------


def _details(series: Sequence[_Series], digits: int) -> str:
    return "".join(_run_details(run, one, digits) for one, run in _each(series))


def _run_details(run: Run, one: _Series, digits: int) -> str:
    final = run.final
    rows = []
    for name, domain in final.domains.items():
        absent = ", ".join(domain.absent) or "none"
        rows.append(
            f'<tr><th scope="row">{escaped(name)}</th><td>{domain.role}</td><td>{domain.images}</td>'
            f"<td>{_percent(domain.miou, digits)}</td><td>{_percent(domain.pixel_accuracy, digits)}</td>"
            f'<td style="text-align:left">{escaped(absent)}</td></tr>'
        )
    heads = "".join(
        f'<th scope="col">{h}</th>' for h in ("role", "images", "mIoU in %", "pixels right in %", "absent classes")
    )
    domains = scrolling(
        f"<table><caption><span>Scored after {final.iteration} iterations, {escaped(_when(final.time))}.</span></caption><thead><tr>"
        f'<th scope="col">domain</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        "Scores of this run by domain",
    )
    names = list(final.domains)
    class_rows = "".join(
        f'<tr><th scope="row">{swatch(css_rgb(color))}{escaped(name)}</th>'
        + "".join(
            f'<td class="{"even" if name in final.domains[d].absent else ""}">{_percent(final.domains[d].iou.get(name), digits)}</td>'
            for d in names
        )
        + "</tr>"
        for name, color in zip(final.classes, final.colors, strict=True)
    )
    class_heads = "".join(f'<th scope="col">{breakable(name)}</th>' for name in names)
    classes = scrolling(
        "<table><caption><span>IoU in %; grey where the class has no truth pixel, so that its IoU says nothing about it.</span></caption>"
        f'<thead><tr><th scope="col">class</th>{class_heads}</tr></thead><tbody>{class_rows}</tbody></table>',
        "IoU of this run by class and domain",
    )
    confusions = "".join(_confusion(run, role) for role in _ROLES)
    config = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True, width=100)
    environment = json.dumps(run.environment, indent=2, ensure_ascii=False) if run.environment else ""
    unseen = f" · unseen {_percent(final.mean_unseen_miou, digits)} %" if final.mean_unseen_miou is not None else ""
    return (
        f"<details><summary>{swatch(one.color)}<b>{escaped(one.group.label)}</b> · seed {run.seed}{unseen} · "
        f"{escaped(run.folder.name)}</summary>{domains}<h3>Classes</h3>{classes}"
        f'<h3>Confusion</h3><div class="plots large">{confusions}</div>'
        f"<h3>Configuration</h3><pre>{escaped(config)}</pre>"
        + (f"<h3>Environment</h3><pre>{escaped(environment)}</pre>" if environment else "")
        + "</details>"
    )


def _confusion(run: Run, role: Role) -> str:
    counts = sum(
        (domain.confusion for domain in run.final.domains.values() if domain.role == role),
        start=np.zeros((len(run.final.classes),) * 2, dtype=np.int64),
    )
    if counts.sum() == 0:
        return ""
    worst = top_confusions(run.final.classes, counts)
    words = ", ".join(f"{100 * share:.0f} % of {true} taken for {seen}" for true, seen, share in worst)
    title = "sources" if role == "source" else "unseen domains"
    svg = figures.confusion_svg(title, run.final.classes, counts, label=f"Confusion on {title}: {words}")
    caption = f"All {title} together; each row sums to 100 %. Most frequent: {escaped(words)}."
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def top_confusions(
    classes: Sequence[str], confusion: npt.NDArray[np.int64], *, num: int = 4
) -> list[tuple[str, str, float]]:
    """The confusions that cost the largest share of a true class: (true class, taken for, share)."""
    shares = np.nan_to_num(figures.row_shares(confusion))
    np.fill_diagonal(shares, 0.0)
    order = np.argsort(-shares, axis=None, kind="stable")[:num]
    places = [(int(i) // len(classes), int(i) % len(classes)) for i in order]
    return [
        (classes[row], classes[column], float(shares[row, column])) for row, column in places if shares[row, column]
    ]


# --- Reading ---------------------------------------------------------------------------------------------------------


def _reading(table: Table) -> str:
    paragraphs = [
        "<b>mIoU</b>: for each class, the pixels that are both truly and predictedly of the class, divided by those that are "
        "either; all pixels of a domain together, at the size of its labels. The mean over classes is the domain's mIoU, and "
        "a mean over domains weighs each domain alike.",
        "<b>Absent classes</b>: a class that a domain neither contains nor is predicted there is left out of its mean. A class that "
        "it does not contain but that was predicted counts as 0, as the definition has it; so with few classes present, a single wrong "
        "pixel can cost points. The figures by class leave classes without truth pixels out.",
        "<b>Seeds</b>: training is random. The same method with another seed easily differs by a point or more, above all with "
        "short training and few images. A small difference between single runs is noise; compare means over at least three "
        "seeds, and look at whether the sign of the difference is the same on each seed. ± is the spread of single runs, not the "
        "uncertainty of their mean.",
        "<b>Unseen</b> domains are used for scoring only, and the scores are those of the last evaluation of each run, not of its best.",
    ]
    if table.baseline is not None and len(table.rows) > 1:
        paragraphs.append(
            f"<b>Gap</b>: difference of the means of the unseen domains to {escaped(table.baseline)}, in points of mIoU "
            "(not in per cent of its score)."
        )
    return "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)


# --- Small pieces ----------------------------------------------------------------------------------------------------


def escaped(value: object) -> str:
    """Anything as text that is safe in HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def breakable(name: str) -> str:
    """A domain's or column's name with places where a narrow column may break it."""
    text = escaped(name)
    for mark in ("/", "_", "@"):
        text = text.replace(mark, f"{mark}<wbr>")
    return text.replace("+", "<wbr>+").replace("mean of ", "mean of<br>").replace("gap to ", "gap to<br>")


def _percent(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _difference(value: float | None, digits: int, *, css: str = "") -> str:
    text = format_points(value, digits=digits)
    color = "better" if text.startswith("+") else "worse" if text.startswith("−") else "even"
    return f'<span class="{css + " " if css else ""}{color}">{text}</span>'


def _plain(value: object, join: str = ", ") -> str:
    if value is None:
        return ""
    return join.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def counted(num: int, noun: str) -> str:
    """A number of things: 1 image, 2 images."""
    return f"{num} {noun}{'' if num == 1 else 's'}"


def css_rgb(color: tuple[int, int, int]) -> str:
    """A colour, each channel 0..255, as CSS writes it."""
    return f"rgb({color[0]},{color[1]},{color[2]})"


def swatch(color: str) -> str:
    """A small square of a colour, for legends."""
    return f'<span class="swatch" style="background:{figures.css_color(color)}"></span>'


def scrolling(content: str, label: str) -> str:
    """What may be wider than a phone scrolls by itself, with the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(label)}">{content}</div>'


def _figure(svg: str, *, css: str = "") -> str:
    return f'<figure class="{css}">{svg}</figure>' if css else f"<figure>{svg}</figure>"


def _legend(series: Iterable[_Series], *, lines: bool = False) -> str:
    """Which colour, and which line, is which method."""
    dashes = {"-": "", "--": "7 4", "-.": "8 3 2 3", ":": "2 3"}
    entries = []
    for one in series:
        color = figures.css_color(one.color)
        mark = swatch(one.color)
        if lines:
            mark = (
                '<svg viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4H28" fill="none" '
                f'style="stroke:{color};stroke-width:2.4" stroke-dasharray="{dashes[one.dash]}"/></svg>'
            )
        entries.append(f"<li>{mark}{escaped(one.group.label)}</li>")
    return f'<ul class="legend" aria-label="Methods">{"".join(entries)}</ul>'
