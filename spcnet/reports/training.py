"""What happened in training: losses and scores over iterations, and what networks tell of images beside the classes."""

import math
from collections.abc import Sequence

from spcnet.glossary import TERMS, words_of
from spcnet.reports import figures, html
from spcnet.reports.figures import Curve
from spcnet.reports.html import escaped, figure, swatch
from spcnet.reports.runs import Role, Run
from spcnet.reports.series import Series, each_run, legend


def training(series: Sequence[Series]) -> str:
    """Losses over iterations and, where a run was scored more than once, its scores over them."""
    parts, runs = [], each_run(series)
    names = list(dict.fromkeys(name for _, run in runs for line in run.log for name in line.parts))
    if any(run.log for _, run in runs):
        plots = [_loss_plot("loss (weighted sum)", [(one, run, [line.loss for line in run.log]) for one, run in runs])]
        for name in names:
            having = [(one, run) for one, run in runs if any(name in line.parts for line in run.log)]
            values = [(one, run, [line.parts.get(name, math.nan) for line in run.log]) for one, run in having]
            plots.append(_loss_plot(f"{name} (before its weight)", values))
        note = (
            "Loss over iterations, one line for each run: faint as logged, strong as a running mean. "
            "The sums of methods with different parts cannot be compared."
        )
        explanation = "; ".join(f"<b>{name}</b> {TERMS[name]}" for name in names if name in TERMS)
        note += f" The parts: {explanation}." if len(names) > 1 and explanation else ""
        parts.append(f'<p class="note">{note}</p>{legend(series, lines=True)}<div class="plots">{"".join(plots)}</div>')
    if any(len(run.evaluations) > 1 for _, run in each_run(series)):
        plots = []
        titles: dict[Role, str] = {"source": "mIoU on sources in %", "unseen": "mIoU on unseen domains in %"}
        for role, title in titles.items():
            curves = []
            for one, run in each_run(series):
                means = run.means(role)
                known = [math.nan if mean is None else mean for mean in means]
                curves.append(Curve([e.iteration for e in run.evaluations], known, one.color, one.dash))
            label = f"Lines of the mean mIoU over the {role} domains against iterations, one for each run"
            plots.append(figure(figures.curves_svg(title, curves, label=label, percent=True, smoothed=False)))
        note = "Scores during training. The table above uses the last one of each run, even where an earlier one was better."
        lines = "" if parts else legend(series, lines=True)
        parts.append(
            f'<h3>Scores over iterations</h3><p class="note">{note}</p>{lines}<div class="plots">{"".join(plots)}</div>'
        )
    return "".join(parts)


def _loss_plot(title: str, values: Sequence[tuple[Series, Run, Sequence[float]]]) -> str:
    curves = [Curve([line.iteration for line in run.log], y, one.color, one.dash) for one, run, y in values if run.log]
    last = "; ".join(f"{one.label} seed {run.seed} ends at {y[-1]:.3g}" for one, run, y in values if run.log)
    return figure(figures.curves_svg(title, curves, label=f"Lines of {title} against iterations: {last}"))


def fractions(series: Sequence[Series]) -> list[tuple[str, str, str]]:
    """A section for each figure that a network tells of images: its name, heading and body, bars layer by layer."""
    known = dict.fromkeys(
        name for one in series for domain in one.first.final.domains.values() for name in domain.figures
    )
    sections = []
    for name in known:
        words = words_of(name)
        body = "".join(_shares_of(one, name) for one in series)
        if body:
            sections.append(
                (words.file or name, words.heading, (f'<p class="note">{words.note}</p>' if words.note else "") + body)
            )
    return sections


def _shares_of(one: Series, figure_name: str) -> str:
    run, words = one.first, words_of(figure_name)
    domains = {d.name: d.figures[figure_name] for d in run.final.domains.values() if figure_name in d.figures}
    parts = max((len(layer) for layers in domains.values() for layer in layers), default=0)
    if not parts or any(len(layer) != parts for layers in domains.values() for layer in layers):
        return ""
    configured = run.setting("data.sources")
    names = [str(n) for n in configured] if isinstance(configured, list) and len(configured) == parts else []
    names = names or [f"style {i + 1}" for i in range(parts)]
    plots = []
    for layer in range(min(map(len, domains.values()))):
        values = [layers[layer] for layers in domains.values()]
        explanation = "; ".join(
            f"{domain}: " + ", ".join(f"{n} {100 * w:.0f} %" for n, w in zip(names, s, strict=True))
            for domain, s in zip(domains, values, strict=True)
        )
        title = f"{words.layer} {layer + 1}"
        plots.append(
            figure(figures.shares_svg(title, [*domains], values, label=f"Stacked bars, {title}. {explanation}"))
        )
    colors = figures.STYLE_COLORS
    known = html.legend((swatch(colors[i % len(colors)]) + escaped(name) for i, name in enumerate(names)), words.parts)
    return f'<h3>{escaped(one.label)}, seed {run.seed}</h3>{known}<div class="plots">{"".join(plots)}</div>'
