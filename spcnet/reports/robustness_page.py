"""The robustness card in pictures: its heat map, and one page that needs nothing else."""

import itertools
import math
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from spcnet.files import write_atomic, write_text
from spcnet.formatting import percent
from spcnet.reports import figures, html
from spcnet.reports.robustness import STYLE, STYLES, Card, ModelScores, folded, mean, overview, ratio, summary

_HEAT_STYLE = "\n" + files(__package__).joinpath("robustness.css").read_text(encoding="utf-8")


def heat_figure(card: Card) -> Figure:
    """Conditions (rows) by networks (columns): fraction of the clean score that is left, in %, on white."""
    names = card.conditions
    fraction = np.array([[ratio(model.mean(name), model.clean) for model in card.models] for name in names])
    # Without the global state of pyplot, and in the same letters everywhere.
    with matplotlib.rc_context({"font.size": 8.5, "text.parse_math": False}):
        edges = [i for i in range(1, len(names)) if card.group_of(names[i]) != card.group_of(names[i - 1])]
        figure = Figure(
            figsize=(max(3.4, 1.9 + 0.95 * len(card.models)), 1.1 + 0.215 * len(names)),
            layout="constrained",
            facecolor="white",
        )
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["RdYlBu"]
        axes.imshow(fraction, cmap=colours, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
        for row, column in np.ndindex(*fraction.shape):
            value = float(fraction[row, column])
            if math.isfinite(value):
                red, green, blue, _ = colours(value)
                # Relative luminance, roughly: below it white is the easier to read, as WCAG 2 reckons contrast.
                ink = "white" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18 else "black"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=ink)
        for edge in edges:
            axes.axhline(edge - 0.5, color="white", linewidth=3)
        for begin, end in itertools.pairwise([0, *edges, len(names)]):
            family, right = card.group_of(names[begin]), len(card.models) - 0.45
            if (end - begin) * 0.215 > 0.07 * len(family):  # as tall as its letters, in inches
                middle = (begin + end - 1) / 2
                axes.text(right, middle, family, rotation=270, ha="left", va="center", color="dimgrey")
        labels = [f"{folded(model.label)}\nclean {percent(model.clean)}" for model in card.models]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_yticks(range(len(names)), names)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        mean = "mean over severities" if len(card.severities) > 1 else "severity"
        what = f"{mean} {card.severity_range}; {card.domain}, {html.counted(card.images, 'image')}"
        figure.supxlabel(f"fraction of the clean mIoU that is left, in %\n{what}", fontsize=8.5)
    return figure


def write_heat_map(card: Card, output: Path) -> None:
    """Write `heat_figure` as a PNG.

    Raises:
        DataError: it cannot be written.
    """
    figure = heat_figure(card)
    write_atomic(output, lambda file: figure.savefig(file, format="png", dpi=130, metadata={"Software": None}))


def write_page(card: Card, output: Path, *, pictures: Path) -> Path:
    """Write the card as one page: no network, no scripts, light and dark, phone and paper.

    Raises:
        DataError: a picture cannot be read, or the page not be written.
    """
    write_text(output, render_page(card, pictures=pictures))
    return output


def render_page(card: Card, *, pictures: Path) -> str:
    """The page of `write_page` as text.

    Raises:
        DataError: a picture cannot be read.
    """
    sections = [
        ("overview", "Overview", _overview_section(card)),
        ("networks", "Heat map: conditions by networks", _heat_map(card, "networks")),
        ("severities", "Heat map: severities", _heat_map(card, "severities")),
        ("worst", "Worst cases", _worst_section(card, pictures)),
        ("setting", "What was scored", _setting_section(card)),
        ("reading", "How to read this", html.render("reading_robustness")),
    ]
    heading, version = f"How robust on {card.domain}?", card.environment.get("spcnet")
    return html.document(heading, sections, lead=_lead(card), cards=_cards(card), version=version, style=_HEAT_STYLE)


def _lead(card: Card) -> str:
    """The outcome in a sentence or two."""
    if not card.benchmark:
        return f"{html.counted(len(card.models), 'network')} on {html.escaped(card.description)}."
    summaries = [(summary(card, model), model) for model in card.models]
    best = max(summaries, key=lambda entry: _finite_or_least(entry[0].mpc))
    text = (
        f"<b>{html.escaped(best[1].label)}</b> has {percent(best[0].mpc)} % mIoU over the corruptions of {html.escaped(card.domain)}, "
        f"{percent(best[0].rpc)} % of what it has on clean images"
    )
    if len(summaries) > 1:
        text += f": the highest of {len(summaries)} networks"
        kept = max(summaries, key=lambda entry: _finite_or_least(entry[0].rpc))
        if kept[1] is not best[1]:
            text += f", while {html.escaped(kept[1].label)} keeps the largest fraction, {percent(kept[0].rpc)} %"
    losses = {family: mean([s.families[family] / s.clean for s, _ in summaries if s.clean]) for family in card.groups}
    worst = min(losses, key=lambda family: losses[family] if math.isfinite(losses[family]) else math.inf)
    return f"{text}. What costs most is {html.escaped(worst)}: {percent(losses[worst])} % of the clean score is left{' on average' if len(summaries) > 1 else ''}."


def _cards(card: Card) -> str:
    if not card.benchmark:
        return ""
    parts = ""
    for model, color in zip(card.models, figures.group_colors(len(card.models), None), strict=True):
        robustness = summary(card, model)
        small = f"mPC: {percent(robustness.rpc)} % of {percent(robustness.clean)} % clean"
        parts += html.card(color, model.label, f'{percent(robustness.mpc)}<span class="std"> %</span>', small)
    return f'<div class="cards">{parts}</div>'


def _overview_section(card: Card) -> str:
    header, rows = overview(card)
    columns = list(zip(*rows, strict=True))
    body = ""
    for number, model in enumerate(card.models):
        cells = ""
        for title, column in zip(header, columns, strict=True):
            known = [float(value) for value in column if value != "–"]
            best = len(known) > 1 and column[number] != "–" and float(column[number]) == max(known) > min(known)
            text = f"<b>{column[number]}</b>" if best else column[number]
            cells += f'<td class="{"mean" if title in ("mPC", "rPC") else ""}">{text}</td>'
        body += f'<tr><th scope="row">{html.escaped(model.label)}</th>{cells}</tr>'
    heads = "".join(f'<th scope="col">{html.escaped(title)}</th>' for title in header)
    caption = (
        f"mIoU in % on {html.escaped(card.description)}, averaged over severities {card.severity_range}; rPC is mPC in % of clean. "
        "Highest of a column in bold."
    )
    return html.scrolling(
        f'<table class="results"><caption><span>{caption}</span></caption><thead><tr><th scope="col">network</th>{heads}'
        f"</tr></thead><tbody>{body}</tbody></table>",
        "Scores by family of corruptions",
    )


def _heat_map(card: Card, by: str) -> str:
    """Shares of the clean score by networks or by severities."""
    filters: dict[str, Callable[..., Any]] = {
        "ratio": ratio,
        "percent": percent,
        "lost": _lost,
        "trained": lambda name, model: _trained(model, name),
        "breakable": html.breakable,
        "mpc": lambda model: summary(card, model).mpc,
    }
    known = any(_trained(model, name) for model in card.models for name in card.conditions)
    return html.render(f"heat_{by}", filters=filters, card=card, known=known, styles=STYLES)


def _worst_section(card: Card, pictures: Path) -> str:
    parts = []
    used: set[int] = set()
    titles = ("image", "truth", *(html.breakable(model.label) for model in card.models))
    heads = "".join(f'<div class="head">{title}</div>' for title in titles)
    for case in card.worst:
        if not case.pictures:
            continue
        photo = figures.picture_uri(pictures / case.pictures[0])
        what = f"{case.image}, {case.condition} at severity {case.severity}"
        cells = [f"<div>{html.photo(photo, html.escaped(what))}</div>"]
        scores = [
            "",
            *(f"<small>{percent(b)} → {percent(a)} %</small>" for b, a in zip(case.clean, case.corrupted, strict=True)),
        ]
        alts = [f"Truth of {what}", *(f"What {model.label} sees in {what}" for model in card.models)]
        for name, alt, score in zip(case.pictures[1:], alts, scores, strict=True):
            labels = figures.read_labels(pictures / name)
            used.update(np.unique(labels).tolist())
            cells.append(
                f"<div>{html.label_picture(labels, card.colors, html.escaped(alt), like=photo[1])}{score}</div>"
            )
        grid = f'<div class="panels" style="--columns: {2 + len(card.models)}">{heads}{"".join(cells)}</div>'
        parts.append(
            f'<div class="case"><h3>{html.escaped(case.condition)}, severity {case.severity}</h3>'
            f'<p class="note">{html.escaped(case.image)}</p>{html.scrolling(grid, what)}</div>'
        )
    if not parts:
        return ""
    shown = [entry for k, entry in enumerate(zip(card.classes, card.colors, strict=True)) if k in used]
    shown += [("not labelled", (0, 0, 0))] if used - set(range(len(card.classes))) else []
    legend = html.legend((html.swatch(html.css_rgb(color)) + html.escaped(name) for name, color in shown), "Classes")
    note = (
        "Images on which the networks lose most against the clean image, one of each family of conditions, the greatest loss "
        "first. Below each prediction: mean IoU over the classes of the image, clean → in this condition."
    )
    return f'<p class="note">{note}</p>{legend}{"".join(parts)}'


def _setting_section(card: Card) -> str:
    entries = [
        ("Set", f"{card.domain}, {html.counted(card.images, 'image')}"),
        ("Label space", f"{card.space}, {len(card.classes)} classes"),
        ("Severities", card.severity_range),
        ("Seed of the conditions", str(card.seed)),
    ]
    for model in card.models:
        size = "each image's own size" if model.size is None else f"{model.size[0]} × {model.size[1]}"
        styles = f"; trained with the styles {', '.join(model.styles)}" if model.styles else ""
        what = f"{model.method} on {model.backbone}, trained on {', '.join(model.sources)}"
        entries.append((model.label, f"{what}, scored at {size}, {model.precision}{styles}"))
    for words, key in (("spcnet", "spcnet"), ("PyTorch", "torch"), ("Platform", "platform"), ("Scored", "started")):
        entries.append((words, str(card.environment.get(key) or "")))
    return html.definitions(entries)


def _lost(fraction: float) -> int:
    """Strength of a cell's colour in %: 0 for nothing lost, never so strong that a figure is hard to read."""
    return round(82 * min(max(1 - fraction, 0.0), 1.0)) if math.isfinite(fraction) else 0


def _trained(model: ModelScores, name: str) -> bool:
    return name.removeprefix(STYLE) in model.styles and name.startswith(STYLE)


def _finite_or_least(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
