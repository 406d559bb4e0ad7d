"""The robustness card: tables, heat maps, and one page that needs nothing else.

mPC and rPC are those of Michaelis et al. (2019): the mean score over the corruptions of the benchmark and over their
severities, and its share of the score on clean images. Only the fifteen corruptions of the benchmark count in them; the
four of the family `extra` and the weather styles have means of their own.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import rich.console
import rich.measure
import rich.table
import rich.text
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD

from spcnet.files import write_atomic, write_text
from spcnet.formatting import percent
from spcnet.reports import figures, html

CLEAN = "clean"
"""The condition in which images are as they are."""
STYLE = "+"
"""Before the name of a weather style, as in a domain's name."""
BENCHMARK = ("noise", "blur", "weather", "digital")
"""Families of corruptions whose mean is mPC."""
STYLES = "styles"
"""What all families of weather styles are together."""


@dataclass(frozen=True)
class Score:
    """What a network makes of a set in one condition."""

    miou: float
    """0..1; NaN where no class occurs."""
    iou: tuple[float, ...]
    """Of each class; NaN for one in neither the truth nor the prediction."""
    pixel_accuracy: float
    """Share of the labelled pixels that are right."""


@dataclass(frozen=True)
class ModelScores:
    """A network with all its scores."""

    label: str
    method: str
    backbone: str
    sources: tuple[str, ...]
    """Domains it was trained on."""
    styles: tuple[str, ...]
    """Weather styles it was trained with."""
    size: tuple[int, int] | None
    """Height and width that images were brought to."""
    precision: str
    scores: Mapping[str, Mapping[int, Score]]
    """By condition and severity; `clean` has the severity 0."""

    @property
    def clean(self) -> float:
        """Its mIoU on the images as they are."""
        return self.scores[CLEAN][0].miou

    def mean(self, condition: str) -> float:
        """Its mIoU in a condition, averaged over the severities."""
        return _mean([score.miou for score in self.scores[condition].values()])


@dataclass(frozen=True)
class WorstCase:
    """An image on which networks lose much."""

    image: str
    condition: str
    severity: int
    clean: tuple[float, ...]
    """Each network's mean IoU on the clean image, over the classes it shows."""
    corrupted: tuple[float, ...]
    """The same in this condition."""
    pictures: tuple[str, ...] = ()
    """Names of the files: the image, its truth, what each network sees."""


@dataclass(frozen=True)
class Card:
    """Networks scored on a set in many conditions."""

    domain: str
    images: int
    space: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    families: Mapping[str, str]
    """Family of each condition, in the order in which they are shown."""
    severities: tuple[int, ...]
    models: tuple[ModelScores, ...]
    worst: tuple[WorstCase, ...] = ()
    seed: int = 0
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def conditions(self) -> list[str]:
        """All of them but `clean`."""
        return [name for name in self.families if name != CLEAN]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Conditions by family; those of all styles under `styles`."""
        grouped: dict[str, list[str]] = {}
        for name in self.conditions:
            family = STYLES if name.startswith(STYLE) else self.families[name]
            grouped.setdefault(family, []).append(name)
        return grouped

    @property
    def style_families(self) -> dict[str, list[str]]:
        """Weather styles by their family."""
        grouped: dict[str, list[str]] = {}
        for name in self.groups.get(STYLES, []):
            grouped.setdefault(self.families[name], []).append(name)
        return grouped

    @property
    def benchmark(self) -> list[str]:
        """The corruptions that count in mPC."""
        return [name for name in self.conditions if self.families[name] in BENCHMARK]


@dataclass(frozen=True)
class Summary:
    """A network's card in a few figures; what was not scored is NaN."""

    clean: float
    mpc: float
    """Mean mIoU over the corruptions of the benchmark and their severities."""
    rpc: float
    """Its share of the clean one."""
    families: Mapping[str, float]
    """Mean mIoU over the conditions of each family and their severities."""


def summary(card: Card, model: ModelScores) -> Summary:
    """The means of a network's scores; each corruption weighs alike in its family, and in mPC."""
    mpc = _mean([model.mean(name) for name in card.benchmark])
    families = {
        family: _mean([model.mean(name) for name in names])
        for family, names in (*card.groups.items(), *card.style_families.items())
    }
    return Summary(model.clean, mpc, mpc / model.clean if model.clean else math.nan, families)


def as_json(card: Card) -> dict[str, Any]:
    """The card as plain values, with the summaries; what is not a number is None."""
    values = dataclasses.asdict(card)
    for model, own in zip(card.models, values["models"], strict=True):
        own["summary"] = dataclasses.asdict(summary(card, model))
        own["relative"] = {name: model.mean(name) / model.clean if model.clean else None for name in card.conditions}
    plain: dict[str, Any] = _plain(values)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Overview:
    """The networks by family: a line for each network or, where a terminal is too narrow for that, a column."""

    def __init__(self, card: Card) -> None:
        header, rows = _overview(card)
        labels = [rich.text.Text(_folded(model.label)) for model in card.models]
        # Narrow gaps: ten columns beside the names have to fit into a terminal of 80.
        given: dict[str, Any] = {"title": f"mIoU in % on {card.domain}", "box": SIMPLE_HEAD, "pad_edge": False}
        self.wide = rich.table.Table(**given, padding=(0, 1, 0, 0))
        self.wide.add_column("network", overflow="fold")
        for title in header:
            self.wide.add_column(title, justify="right", no_wrap=True)
        for label, cells in zip(labels, rows, strict=True):
            self.wide.add_row(label, *cells)
        self.narrow = rich.table.Table(**given, padding=(0, 1, 0, 0))
        self.narrow.add_column("", no_wrap=True)
        for label in labels:
            self.narrow.add_column(label, justify="right", overflow="fold")
        for title, *cells in zip(header, *rows, strict=True):
            self.narrow.add_row(title, *cells)

    def __rich_console__(self, console: rich.console.Console, options: rich.console.ConsoleOptions) -> Any:
        needed = rich.measure.Measurement.get(console, options.update(max_width=1000), self.wide).minimum
        yield self.wide if needed <= options.max_width else self.narrow


def render_terminal(card: Card) -> list[rich.console.RenderableType]:
    """Two tables for a terminal: of the networks, and with a line for each condition."""
    detail = rich.table.Table(
        title="Mean over the severities, and its share of clean, in %",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    detail.add_column("condition", no_wrap=True)
    for model in card.models:
        detail.add_column(rich.text.Text(_folded(model.label)), justify="right", overflow="fold")
    for names in card.groups.values():
        for name in names:
            cells = [f"{percent(model.mean(name))} ({_share(model.mean(name), model.clean)})" for model in card.models]
            detail.add_row(rich.text.Text(name), *cells, end_section=name == names[-1])
    return [_Overview(card), detail]


def to_markdown(card: Card) -> str:
    """The tables as Markdown: an overview, then every condition."""
    header, rows = _overview(card)
    lines = [f"mIoU in % on {_what(card)}.", "", *_markdown_head(["network", *header])]
    lines += [_markdown_row([model.label, *cells]) for model, cells in zip(card.models, rows, strict=True)]
    lines += ["", f"Mean over severities {_severities(card)}; in brackets its share of the clean score, in %.", ""]
    lines += _markdown_head(["condition", *(model.label for model in card.models)])
    lines.append(_markdown_row([CLEAN, *(percent(model.clean) for model in card.models)]))
    for name in card.conditions:
        cells = [f"{percent(model.mean(name))} ({_share(model.mean(name), model.clean)})" for model in card.models]
        lines.append(_markdown_row([name, *cells]))
    return "\n".join(lines) + "\n"


def _markdown_head(titles: Sequence[str]) -> list[str]:
    return [_markdown_row(titles), "| --- |" + " ---: |" * (len(titles) - 1)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _overview(card: Card) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the table with a line for each network."""
    families = list(card.groups)
    benchmark = ["mPC", "rPC"] if card.benchmark else []
    rows = []
    for model in card.models:
        found = summary(card, model)
        means = [percent(found.mpc), percent(found.rpc)] if card.benchmark else []
        rows.append([percent(found.clean), *means, *(percent(found.families[family]) for family in families)])
    return [CLEAN, *benchmark, *families], rows


def heat_figure(card: Card) -> Figure:
    """Conditions (rows) by networks (columns): share of the clean score that is left, in %, on white."""
    names = card.conditions
    share = np.array([[_ratio(model.mean(name), model.clean) for model in card.models] for name in names])
    # Without the global state of pyplot, and in the same letters everywhere.
    with matplotlib.rc_context({"font.size": 8.5, "text.parse_math": False}):
        edges = [i for i in range(1, len(names)) if _row_family(card, names[i]) != _row_family(card, names[i - 1])]
        figure = Figure(
            figsize=(max(3.4, 1.9 + 0.95 * len(card.models)), 1.1 + 0.215 * len(names)),
            layout="constrained",
            facecolor="white",
        )
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["RdYlBu"]
        axes.imshow(share, cmap=colours, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
        for row, column in np.ndindex(*share.shape):
            value = float(share[row, column])
            if math.isfinite(value):
                red, green, blue, _ = colours(value)
                # Relative luminance, roughly: below it white is the easier to read, as WCAG 2 reckons contrast.
                ink = "white" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18 else "black"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=ink)
        for edge in edges:
            axes.axhline(edge - 0.5, color="white", linewidth=3)
        for begin, end in itertools.pairwise([0, *edges, len(names)]):
            family, right = _row_family(card, names[begin]), len(card.models) - 0.45
            if (end - begin) * 0.215 > 0.07 * len(family):  # as tall as its letters, in inches
                middle = (begin + end - 1) / 2
                axes.text(right, middle, family, rotation=270, ha="left", va="center", color="dimgrey")
        labels = [f"{_folded(model.label)}\nclean {percent(model.clean)}" for model in card.models]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_yticks(range(len(names)), names)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        mean = "mean over severities" if len(card.severities) > 1 else "severity"
        what = f"{mean} {_severities(card)}; {card.domain}, {html.counted(card.images, 'image')}"
        figure.supxlabel(f"share of the clean mIoU that is left, in %\n{what}", fontsize=8.5)
    return figure


def write_heat_map(card: Card, output: Path) -> None:
    """Write `heat_figure` as a PNG.

    Raises:
        DataError: it cannot be written.
    """
    figure = heat_figure(card)
    write_atomic(output, lambda file: figure.savefig(file, format="png", dpi=130, metadata={"Software": None}))


def _row_family(card: Card, name: str) -> str:
    return STYLES if name.startswith(STYLE) else card.families[name]


# --- The page --------------------------------------------------------------------------------------------------------

_HEAT_STYLE = """
:root { --heat: #d9480f; } @media (prefers-color-scheme: dark) { :root { --heat: #c2410c; } }
.heat td, .heat th { padding: 3px 8px; border-bottom: 1px solid var(--card); }
.heat td { text-align: center; min-width: 3.6em; background: color-mix(in srgb, var(--heat) var(--lost), var(--card)); }
.heat thead th { text-align: center; white-space: normal; max-width: 8.5em; font-size: 0.86rem; }
.severities { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 0 20px; align-items: start; }
.severities td, .severities th { padding: 3px 5px !important; } .severities td { min-width: 2.6em !important; }
.heat th[scope=row] { font-weight: 500; white-space: nowrap; }
.heat tbody tr.first th, .heat tbody tr.first td { border-top: 9px solid var(--card); }
.heat th.family { text-align: left; color: var(--muted); font-weight: 400; font-size: 0.82rem; }
.heat td.known { font-style: italic; text-decoration: underline dotted; }
.scale { white-space: nowrap; } .scale i { display: inline-block; vertical-align: -0.06em; width: 22px; height: 12px; border: 1px solid var(--line); border-width: 1px 0; background: color-mix(in srgb, var(--heat) var(--lost), var(--card)); }
.case { margin: 18px 0 26px; } .case h3 { margin-bottom: 2px; }
.case .panels { min-width: calc(var(--columns) * 124px); }
@media (max-width: 640px) { .heat th[scope=row] { min-width: 0; max-width: 112px; white-space: normal; overflow-wrap: normal; font-size: 0.8rem; }
  .heat td { min-width: 2.8em; padding: 3px 4px; } .heat thead th { font-size: 0.76rem; padding: 3px 2px; } }
"""


def write_page(card: Card, output: Path, *, pictures: Path, title: str | None = None) -> Path:
    """Write the card as one page: no network, no scripts, light and dark, phone and paper.

    Args:
        card: what it shows.
        output: the file.
        pictures: folder of the worst cases' pictures.
        title: heading; says what is shown by default.

    Raises:
        DataError: a picture cannot be read, or the page not be written.
    """
    write_text(output, render_page(card, pictures=pictures, title=title))
    return output


def render_page(card: Card, *, pictures: Path, title: str | None = None) -> str:
    """The page of `write_page` as text.

    Raises:
        DataError: a picture cannot be read.
    """
    heading = title or f"How robust on {card.domain}?"
    sections = [
        ("overview", "Overview", _overview_section(card)),
        ("networks", "Heat map: conditions by networks", _networks_section(card)),
        ("severities", "Heat map: severities", _severities_section(card)),
        ("worst", "Worst cases", _worst_section(card, pictures)),
        ("setting", "What was scored", _setting_section(card)),
        ("reading", "How to read this", _reading_section(card)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, _ in sections)
    bodies = "".join(
        f'<section id="{a}" aria-labelledby="{a}-h"><h2 id="{a}-h">{n}</h2>{b}</section>' for a, n, b in sections
    )
    version = card.environment.get("spcnet") or ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(heading)}</title>\n<style>{html.STYLE}{_HEAT_STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{_text(heading)}</h1><p class="lead">{_lead(card)}</p>'
        f'<nav aria-label="Sections">{links}</nav></header>\n<main>{_cards(card)}{bodies}</main>\n'
        f"<footer>Written by spcnet {_text(version)}. This page is one file: it loads nothing and runs no scripts.</footer>\n"
        "</body>\n</html>\n"
    )


def _lead(card: Card) -> str:
    """The outcome in a sentence or two."""
    if not card.benchmark:
        return f"{_networks(card)} on {_text(_what(card))}."
    found = [(summary(card, model), model) for model in card.models]
    best = max(found, key=lambda entry: _known(entry[0].mpc))
    text = (
        f"<b>{_text(best[1].label)}</b> has {percent(best[0].mpc)} % mIoU over the corruptions of {_text(card.domain)}, "
        f"{percent(best[0].rpc)} % of what it has on clean images"
    )
    if len(found) > 1:
        text += f": the highest of {len(found)} networks"
        kept = max(found, key=lambda entry: _known(entry[0].rpc))
        if kept[1] is not best[1]:
            text += f", while {_text(kept[1].label)} keeps the largest share, {percent(kept[0].rpc)} %"
    losses = {family: _mean([s.families[family] / s.clean for s, _ in found if s.clean]) for family in card.groups}
    worst = min(losses, key=lambda family: losses[family] if math.isfinite(losses[family]) else math.inf)
    return f"{text}. What costs most is {_text(worst)}: {percent(losses[worst])} % of the clean score is left{' on average' if len(found) > 1 else ''}."


def _cards(card: Card) -> str:
    if not card.benchmark:
        return ""
    colors = figures.group_colors(len(card.models), None)
    parts = []
    for model, color in zip(card.models, colors, strict=True):
        found = summary(card, model)
        parts.append(
            f'<div style="--series: {figures.css_color(color)}"><b>{_text(model.label)}</b>'
            f'<span class="big">{percent(found.mpc)}<span class="std"> %</span></span>'
            f"<small>mPC: {percent(found.rpc)} % of {percent(found.clean)} % clean</small></div>"
        )
    return f'<div class="cards">{"".join(parts)}</div>'


def _overview_section(card: Card) -> str:
    header, rows = _overview(card)
    columns = list(zip(*rows, strict=True))
    body = ""
    for number, model in enumerate(card.models):
        cells = ""
        for title, column in zip(header, columns, strict=True):
            known = [float(value) for value in column if value != "–"]
            best = len(known) > 1 and column[number] != "–" and float(column[number]) == max(known) > min(known)
            text = f"<b>{column[number]}</b>" if best else column[number]
            cells += f'<td class="{"mean" if title in ("mPC", "rPC") else ""}">{text}</td>'
        body += f'<tr><th scope="row">{_text(model.label)}</th>{cells}</tr>'
    heads = "".join(f'<th scope="col">{_text(title)}</th>' for title in header)
    caption = (
        f"mIoU in % on {_text(_what(card))}, averaged over severities {_severities(card)}; rPC is mPC in % of clean. "
        "Highest of a column in bold."
    )
    return html.scrolling(
        f'<table class="results"><caption><span>{caption}</span></caption><thead><tr><th scope="col">network</th>{heads}'
        f"</tr></thead><tbody>{body}</tbody></table>",
        "Scores by family of corruptions",
    )


def _networks_section(card: Card) -> str:
    heads = "".join(f'<th scope="col">{_breakable(model.label)}</th>' for model in card.models)
    body = '<tr><th scope="row">clean, mIoU in %</th>'
    body += "".join(f'<td style="--lost: 0%"><b>{percent(model.clean)}</b></td>' for model in card.models) + "</tr>"
    for family, names in card.groups.items():
        for name in names:
            css = ' class="first"' if name == names[0] else ""
            cells = "".join(_cell(card, model, name, model.mean(name)) for model in card.models)
            told = f'<th class="family" scope="rowgroup" rowspan="{len(names)}">{_text(family)}</th>' if css else ""
            body += f'<tr{css}><th scope="row">{_breakable(name)}</th>{cells}{told}</tr>'
    heads += '<th scope="col"><span class="hidden">family</span></th>'
    table = f'<table class="heat"><thead><tr><th scope="col"></th>{heads}</tr></thead><tbody>{body}</tbody></table>'
    known = any(_trained(model, name) for model in card.models for name in card.conditions)
    note = (
        f"Share of the clean mIoU that is left, in %, averaged over severities {_severities(card)}; {_scale()}"
        + (
            " A name with + is a weather style, the others are the corruptions of ImageNet-C."
            if STYLES in card.groups
            else ""
        )
        + (" Figures in italics with dots below: a style that the network was trained with." if known else "")
    )
    return f'<p class="note">{note}</p>' + html.scrolling(table, "Share of the clean score by condition and network")


def _severities_section(card: Card) -> str:
    heads = "".join(f'<th scope="col">{severity}</th>' for severity in card.severities)
    parts = []
    for model in card.models:
        body = ""
        for names in card.groups.values():
            for name in names:
                css = ' class="first"' if name == names[0] and body else ""
                scores = model.scores[name]
                cells = "".join(_cell(card, model, name, scores[severity].miou) for severity in card.severities)
                body += f'<tr{css}><th scope="row">{_breakable(name)}</th>{cells}</tr>'
        table = f'<table class="heat"><thead><tr><th scope="col">severity</th>{heads}</tr></thead><tbody>{body}</tbody></table>'
        found = summary(card, model)
        means = f" · mPC {percent(found.mpc)} %" if card.benchmark else ""
        parts.append(
            f"<details open><summary><b>{_text(model.label)}</b> · clean {percent(model.clean)} %"
            f"{means}</summary>{html.scrolling(table, f'Share of the clean score of {model.label} by condition and severity')}</details>"
        )
    note = f"Share of the clean mIoU that is left at each severity, in %; {_scale()}"
    return f'<p class="note">{note}</p><div class="severities">{"".join(parts)}</div>'


def _worst_section(card: Card, pictures: Path) -> str:
    parts = []
    used: set[int] = set()
    for case in card.worst:
        if not case.pictures:
            continue
        uri, size = figures.picture_uri(pictures / case.pictures[0])
        truth = figures.read_labels(pictures / case.pictures[1])
        heads = "".join(
            f'<div class="head">{head}</div>'
            for head in ("image", "truth", *(_breakable(model.label) for model in card.models))
        )
        what = f"{case.image}, {case.condition} at severity {case.severity}"
        cells = [
            f'<div><img src="{uri}" alt="{_text(what)}" width="{size[0]}" height="{size[1]}" loading="lazy"></div>',
            f"<div>{html.label_picture(truth, card.colors, _text(f'Truth of {what}'), like=size)}</div>",
        ]
        shown = [truth]
        for model, name, before, after in zip(card.models, case.pictures[2:], case.clean, case.corrupted, strict=True):
            seen = figures.read_labels(pictures / name)
            shown.append(seen)
            alt = _text(f"What {model.label} sees in {what}")
            cells.append(
                f"<div>{html.label_picture(seen, card.colors, alt, like=size)}<small>{percent(before)} → {percent(after)} %</small></div>"
            )
        used |= {int(k) for labels in shown for k in np.unique(labels)}
        grid = f'<div class="panels" style="--columns: {2 + len(card.models)}">{heads}{"".join(cells)}</div>'
        parts.append(
            f'<div class="case"><h3>{_text(case.condition)}, severity {case.severity}</h3>'
            f'<p class="note">{_text(case.image)}</p>{html.scrolling(grid, what)}</div>'
        )
    if not parts:
        return ""
    legend = "".join(
        f"<li>{html.swatch(html.css_rgb(color))}{_text(name)}</li>"
        for place, (name, color) in enumerate(zip(card.classes, card.colors, strict=True))
        if place in used
    )
    if used - set(range(len(card.classes))):
        legend += f"<li>{html.swatch(html.css_rgb((0, 0, 0)))}not labelled</li>"
    note = (
        "Images on which the networks lose most against the clean image, one of each family of conditions, the greatest loss "
        "first. Below each prediction: mean IoU over the classes of the image, clean → in this condition."
    )
    return f'<p class="note">{note}</p><ul class="legend" aria-label="Classes">{legend}</ul>{"".join(parts)}'


def _setting_section(card: Card) -> str:
    entries = [
        ("Set", f"{card.domain}, {html.counted(card.images, 'image')}"),
        ("Label space", f"{card.space}, {len(card.classes)} classes"),
        ("Severities", _severities(card)),
        ("Seed of the conditions", str(card.seed)),
    ]
    for model in card.models:
        size = "each image's own size" if model.size is None else f"{model.size[0]} × {model.size[1]}"
        styles = f"; trained with the styles {', '.join(model.styles)}" if model.styles else ""
        entries.append(
            (
                model.label,
                f"{model.method} on {model.backbone}, trained on {', '.join(model.sources)}, scored at {size}, {model.precision}{styles}",
            )
        )
    for words, key in (("spcnet", "spcnet"), ("PyTorch", "torch"), ("Platform", "platform"), ("Scored", "started")):
        entries.append((words, str(card.environment.get(key) or "")))
    shown = "".join(f"<div><dt>{_text(words)}</dt><dd>{_text(value)}</dd></div>" for words, value in entries if value)
    return f"<dl>{shown}</dl>"


def _reading_section(card: Card) -> str:
    paragraphs = [
        "<b>Corruptions</b>: the 19 of ImageNet-C (Hendrycks and Dietterich, 2019), with the published parameters for each "
        "severity, put on each image at the size it has in its file, before it is brought to the network's size. On small images a "
        "blur of so many pixels hides more than on large ones, so cards of sets of different sizes are not comparable. The frost is "
        "drawn, and the elastic transform is the mild form for street scenes, whose labels stay: figures are near those of the "
        "published pictures, not equal to them.",
        "<b>mPC</b>: mIoU averaged over the severities of a corruption, then over the corruptions of the families noise, blur, weather "
        "and digital (Michaelis et al., 2019). <b>rPC</b>: its share of the clean mIoU. A network that is poor on clean images can keep "
        "a large share of little, so look at both.",
        "<b>extra</b>: the four corruptions that the benchmark keeps for validation; they do not count in mPC.",
        "<b>Styles</b>: weather and road styles that know of distance, ground and sky; severity s is the strength s/5. Where a style "
        "moves pixels, the label moves along.",
        "<b>Training with styles</b>: a network that has seen noise, blur or JPEG blocks in training is at home in the corruptions "
        "of that kind; what each was trained with stands above.",
        "<b>Chance</b>: training with another seed moves a network's scores by a point or more, and its loss under a corruption "
        "often by several. A card of one seed each says little about which method is better.",
    ]
    return "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)


# --- Small pieces ----------------------------------------------------------------------------------------------------

_text = html.escaped
_breakable = html.breakable


def _cell(card: Card, model: ModelScores, name: str, value: float) -> str:
    """A cell of a heat map, with the mIoU itself for who points at it."""
    share = _ratio(value, model.clean)
    css = ' class="known"' if _trained(model, name) else ""
    hint = f"{model.label}, {name}: mIoU {percent(value)} %"
    return f'<td{css} style="--lost: {_lost(share)}%" title="{_text(hint)}">{percent(share, 0)}</td>'


def _lost(share: float) -> int:
    """How strongly a cell is coloured, in %: nothing for nothing lost, never so strong that a figure is hard to read."""
    return round(82 * min(max(1 - share, 0.0), 1.0)) if math.isfinite(share) else 0


def _trained(model: ModelScores, name: str) -> bool:
    return name.removeprefix(STYLE) in model.styles and name.startswith(STYLE)


def _scale() -> str:
    steps = "".join(f'<i style="--lost: {_lost(1 - lost / 5)}%"></i>' for lost in range(6))
    return f'<span class="scale">nothing lost <span aria-hidden="true">{steps}</span> all lost</span>.'


def _what(card: Card) -> str:
    return f"{card.domain} ({html.counted(card.images, 'image')}, {card.space})"


def _networks(card: Card) -> str:
    return html.counted(len(card.models), "network")


def _severities(card: Card) -> str:
    low, high = card.severities[0], card.severities[-1]
    together = len(card.severities) == high - low + 1 and low < high
    return f"{low} to {high}" if together else ", ".join(map(str, card.severities))


def _folded(label: str) -> str:
    """A long name on two lines."""
    place = label.find("_", 4) + 1 if len(label) > 12 else 0
    return f"{label[:place]}\n{label[place:]}" if place else label


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _ratio(value: float, clean: float) -> float:
    return value / clean if clean else math.nan


def _known(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _share(value: float, clean: float) -> str:
    return percent(_ratio(value, clean), 0)
