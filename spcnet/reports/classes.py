"""Scores class by class: bars over the unseen domains, and differences to the baseline by domain."""

from collections.abc import Mapping, Sequence

import numpy as np

from spcnet.reports import figures
from spcnet.reports.figures import Bars
from spcnet.reports.html import breakable, css_rgb, escaped, figure, scrolling, swatch
from spcnet.reports.runs import DomainResult, Role, Run
from spcnet.reports.series import Series, legend, same_classes
from spcnet.reports.tables import Group, format_points, mean_std


def classes(series: Sequence[Series], base: Group | None) -> str:
    """Bars of each class, and a map of differences for each method beside the baseline."""
    comparable, left_out = same_classes(series)
    names = comparable[0].first.final.classes
    bars = []
    for one in comparable:
        scores = [mean_std([_unseen_class_iou(run, name) for run in one.group.runs]) for name in names]
        bars.append(Bars([mean for mean, _ in scores], one.color, [std for _, std in scores]))
    if not any(value is not None for series_bars in bars for value in series_bars.values):
        return ""
    several = any(len(one.group.runs) > 1 for one in comparable)
    seeds = " and over seeds; a line spans ± one standard deviation over seeds" if several else ""
    note = f"IoU of each class, averaged over the unseen domains in which it occurs{seeds}."
    label = f"Bars of the IoU of {len(names)} classes for {', '.join(one.label for one in comparable)}"
    parts = [
        f'<p class="note">{note}{escaped(left_out)}</p>',
        legend(comparable),
        figure(figures.bars_svg(names, bars, label=label), css="bars"),
    ]
    base_series = next((one for one in comparable if one.group is base), None)
    if base_series is not None:
        maps = [_difference_map(one, base_series) for one in comparable if one is not base_series]
        parts.append(f'<div class="maps">{"".join(maps)}</div>' if any(maps) else "")
    return "".join(parts)


def _class_iou(domain: DomainResult | None, name: str) -> float | None:
    # The IoU of a class without a truth pixel is 0 if it was predicted anywhere: that says nothing about the class.
    return None if domain is None or name in domain.absent else domain.iou.get(name)


def _unseen_class_iou(run: Run, name: str) -> float | None:
    return mean_std([_class_iou(d, name) for d in run.final.domains.values() if d.role == "unseen"])[0]


def _difference_map(one: Series, base: Series) -> str:
    """Class × domain: how many points this method is above or below the baseline."""
    domains = [name for name in one.first.final.domains if name in base.first.final.domains]

    def score(series: Series, domain: str, name: str) -> float | None:
        return mean_std([_class_iou(run.final.domains.get(domain), name) for run in series.group.runs])[0]

    table: dict[tuple[str, str], float] = {}
    for domain in domains:
        for name in one.first.final.classes:
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
    for name, color in zip(one.first.final.classes, one.first.final.colors, strict=True):
        cells = "".join(
            _heat_cell(table.get((name, d)), limit, edge=bool(_edge(domains, roles, i))) for i, d in enumerate(domains)
        )
        rows.append(f'<tr><th scope="row">{swatch(css_rgb(color))}{escaped(name)}</th>{cells}</tr>')
    method, reference = escaped(one.label), escaped(base.label)
    shown = scrolling(
        f"<table><caption><span>IoU of {method} minus IoU of {reference} in points: green is better, orange is worse, "
        "a dash where the class does not occur.</span></caption>"
        f'<thead><tr><th scope="col">class</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        f"Differences of {one.label} to {base.label} by class and domain",
    )
    return f"<div><h3>{method} against {reference}, class by class</h3>{shown}</div>"


def _heat_cell(difference: float | None, limit: float, *, edge: bool) -> str:
    css = "part edge" if edge else "part"
    if difference is None:
        return f'<td class="{css}" style="--much:0%"><span class="even">–</span></td>'
    strength = round(100 * min(1.0, abs(difference) / limit))
    shade = "more" if difference > 0 else "less"
    return f'<td class="{css}" style="--shade:var(--{shade});--much:{strength}%">{format_points(difference)}</td>'


def _edge(names: Sequence[str], roles: Mapping[str, Role], place: int) -> str:
    first = place == 0 or roles[names[place - 1]] != roles[names[place]]
    return ' class="edge"' if first else ""
