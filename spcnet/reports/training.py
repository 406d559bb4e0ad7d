"""What happened in training: losses and scores over iterations, and how much each source style explains a domain."""

import math
from collections.abc import Sequence

from spcnet.reports import figures
from spcnet.reports.figures import Curve
from spcnet.reports.html import escaped, figure, swatch
from spcnet.reports.runs import Role, Run
from spcnet.reports.series import Series, each_run, legend

PARTS = {
    "ce": "is the cross-entropy",
    "aux": "that of the auxiliary head",
    "var": "how far pixels are from the prototype of their class and domain",
    "dis": "how much class means resemble the prototypes of other classes",
    "whitening": "what is left of the covariances that are to vanish",
}
"""What the terms of a loss are, by the names that training logs."""


def training(series: Sequence[Series]) -> str:
    """Losses over iterations and, where a run was scored more than once, its scores over them."""
    parts = []
    names = list(
        dict.fromkeys(name for one in series for run in one.group.runs for line in run.log for name in line.parts)
    )
    plots = []
    if any(run.log for one in series for run in one.group.runs):
        plots.append(
            _loss_plot(
                "loss (weighted sum)", [(one, run, [line.loss for line in run.log]) for one, run in each_run(series)]
            )
        )
        for name in names:
            having = [(one, run) for one, run in each_run(series) if any(name in line.parts for line in run.log)]
            values = [(one, run, [line.parts.get(name, math.nan) for line in run.log]) for one, run in having]
            plots.append(_loss_plot(f"{name} (before its weight)", values))
        note = (
            "Loss over iterations, one line for each run: faint as logged, strong as a running mean. "
            "The sums of methods with different parts cannot be compared."
        )
        told = "; ".join(f"<b>{name}</b> {PARTS[name]}" for name in names if name in PARTS)
        note += f" The parts: {told}." if len(names) > 1 and told else ""
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


def styles(series: Sequence[Series]) -> str:
    """How much each source style explains each domain, layer by layer; empty where no method has styles."""
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
            plots.append(figure(svg))
        colors = figures.STYLE_COLORS
        entries = "".join(f"<li>{swatch(colors[i % len(colors)])}{escaped(name)}</li>" for i, name in enumerate(names))
        parts.append(
            f"<h3>{escaped(one.label)}, seed {run.seed}</h3>"
            f'<ul class="legend" aria-label="Source styles">{entries}</ul><div class="plots">{"".join(plots)}</div>'
        )
    if not parts:
        return ""
    note = (
        "λ: how much each source style explains the images of a domain, averaged over its images. Equal shares mean that "
        "the layer does not tell the styles apart; a source should be explained mostly by itself."
    )
    return f'<p class="note">{note}</p>' + "".join(parts)
