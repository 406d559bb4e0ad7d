"""How the methods of a page are drawn: each with its colour and its line, the same in all sections."""

from collections.abc import Sequence
from dataclasses import dataclass

from spcnet.reports import figures, html
from spcnet.reports.html import escaped, swatch
from spcnet.reports.runs import Run
from spcnet.reports.tables import Group, baseline_of, group_runs


@dataclass(frozen=True)
class Series:
    """A group of runs with how it is drawn."""

    group: Group
    color: str
    dash: str

    @property
    def first(self) -> Run:
        """The run with the first seed, which stands for the group where only one can be shown."""
        return self.group.runs[0]

    @property
    def label(self) -> str:
        """What the group is called."""
        return self.group.label


def series_of(runs: Sequence[Run], baseline: str) -> tuple[list[Series], Group | None]:
    """The runs as they are drawn, in their order, and the group of the baseline if there is one."""
    groups = group_runs(runs)
    base = baseline_of(groups, baseline)
    colors = figures.group_colors(len(groups), groups.index(base) if base is not None else None)
    dashes = figures.METHOD_DASHES
    return [
        Series(group, color, dashes[place % len(dashes)])
        for place, (group, color) in enumerate(zip(groups, colors, strict=True))
    ], base


def each_run(series: Sequence[Series]) -> list[tuple[Series, Run]]:
    """Every run with the series it belongs to."""
    return [(one, run) for one in series for run in one.group.runs]


def same_classes(series: Sequence[Series]) -> tuple[list[Series], str]:
    """Those whose classes are the first's, and a sentence about the others."""
    classes = series[0].first.final.classes
    same = [one for one in series if one.first.final.classes == classes]
    others = [one.label for one in series if one not in same]
    return same, f" Left out, because their classes are others: {', '.join(others)}." if others else ""


def legend(series: Sequence[Series], *, lines: bool = False) -> str:
    """Which colour, and which line, is which method."""
    dashes = {"-": "", "--": "7 4", "-.": "8 3 2 3", ":": "2 3"}
    line = (
        '<svg viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4H28" fill="none" '
        'style="stroke:{};stroke-width:2.4" stroke-dasharray="{}"/></svg>'
    )
    marks = [line.format(figures.css_color(o.color), dashes[o.dash]) if lines else swatch(o.color) for o in series]
    return html.legend((mark + escaped(one.label) for mark, one in zip(marks, series, strict=True)), "Methods")
