"""What was set, every run by itself, and how to read the page."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from spcnet.formatting import percent
from spcnet.reports import figures
from spcnet.reports.costs import duration, speed, training_seconds
from spcnet.reports.html import (
    breakable,
    css_rgb,
    definitions,
    escaped,
    interval,
    plain,
    ranged,
    render,
    swatch,
    table,
)
from spcnet.reports.runs import DomainResult, Role, Run
from spcnet.reports.series import Series, each_run
from spcnet.reports.tables import Table

_ROLES: tuple[Role, Role] = ("source", "unseen")
_PATHS = {
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
_ENVIRONMENT = {"Device": "device", "spcnet": "spcnet", "PyTorch": "torch", "Python": "python", "Platform": "platform"}


def setting(series: Sequence[Series]) -> str:
    """What the runs share, and in what they differ."""
    runs = [run for _, run in each_run(series)]
    methods = "; ".join(
        f"{one.label} (seed{'s' if len(one.group.runs) > 1 else ''} {', '.join(str(r.seed) for r in one.group.runs)})"
        for one in series
    )
    entries = [("Methods", methods)]
    for words, path in _PATHS.items():
        is_size = path == "data.size"
        values = [
            plain(run.setting(path), " × " if is_size else ", ") or ("its own" if is_size else "") for run in runs
        ]
        entries.append((words, _agreed(runs, values)))
    entries.append(("Classes", _agreed(runs, [f"{len(run.final.classes)}" for run in runs])))
    entries.append(("Scored after", _agreed(runs, [f"{run.final.iteration} iterations" for run in runs])))
    entries.append(("Way of scoring", _agreed(runs, [run.final.manner for run in runs])))
    if any(run.final.ema for run in runs):
        averages = [f"exponential moving average, {run.final.ema:g}" if run.final.ema else "as trained" for run in runs]
        entries.append(("Scored weights", _agreed(runs, averages)))
    own = [_own_sets(run) for run in runs]
    entries.append(("Own data sets", _agreed(runs, [sets or "none" for sets in own]) if any(own) else ""))
    times: list[tuple[str, list[float], Any]] = [
        ("Training time", [training_seconds(run) for run in runs], duration),
        ("Training speed", [speed(run) for run in runs], lambda s: f"{s:.3g} images/s"),
        ("Scoring time", [sum(d.seconds for d in run.final.domains.values()) for run in runs], duration),
    ]
    entries += [(words, f"{text} per run") for words, values, say in times if (text := ranged(values, say))]
    for words, key in _ENVIRONMENT.items():
        entries.append((words, _agreed(runs, [plain(run.environment.get(key)) for run in runs])))
    entries.append(("Git commit", _agreed(runs, [plain(run.environment.get("git_commit"))[:12] for run in runs])))
    started = sorted(filter(None, (_when(run.environment.get("started")) for run in runs)))
    entries.append(("Started", " to ".join(dict.fromkeys((*started[:1], *started[-1:])))))
    return definitions(entries)


def _own_sets(run: Run) -> str:
    """Each scored domain of a set of one's own: where it lies and by which patterns."""
    described: dict[str, list[str]] = {}
    for name, domain in run.final.domains.items():
        if own := domain.own_set:
            patterns = own.get("labels")
            labels = ", ".join(map(str, patterns)) if isinstance(patterns, list) else patterns
            described.setdefault(f"{own.get('root')} (images {own.get('images')}, labels {labels})", []).append(name)
    return "; ".join(f"{', '.join(names)}: {where}" for where, names in described.items())


def _agreed(runs: Sequence[Run], values: Sequence[str]) -> str:
    """The value all runs share, or each value with the runs that have it."""
    owners: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        owners.setdefault(value, []).append(run.folder.name)
    if len(owners) == 1:
        return values[0]
    return "; ".join(f"{value or 'not recorded'} ({', '.join(names)})" for value, names in owners.items())


def _when(value: object) -> str:
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return plain(value)


def details(series: Sequence[Series]) -> str:
    """Every run, folded up."""
    return "".join(_run_details(run, one) for one, run in each_run(series))


def _run_details(run: Run, one: Series) -> str:
    final = run.final
    confusions = "".join(_confusion(run, role) for role in _ROLES)
    config = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True, width=100)
    environment = json.dumps(run.environment, indent=2, ensure_ascii=False) if run.environment else ""
    unseen = f" · unseen {percent(final.mean_unseen_miou)} %" if final.mean_unseen_miou is not None else ""
    return (
        f"<details><summary>{swatch(one.color)}<b>{escaped(one.label)}</b> · seed {run.seed}{unseen} · "
        f"{escaped(run.folder.name)}</summary>{_domains(run)}<h3>Classes</h3>{_class_tables(run)}"
        f'<h3>Confusion</h3><div class="plots large">{confusions}</div>'
        f"<h3>Configuration</h3><pre>{escaped(config)}</pre>"
        + (f"<h3>Environment</h3><pre>{escaped(environment)}</pre>" if environment else "")
        + "</details>"
    )


def _domains(run: Run) -> str:
    columns: list[tuple[str, Any]] = [
        ("role", lambda d: d.role),
        ("images", lambda d: str(d.images)),
        ("mIoU in %", lambda d: percent(d.miou)),
        ("95 % interval", lambda d: interval(d.interval)),
        ("pixels right in %", lambda d: percent(d.pixel_accuracy)),
        ("mean accuracy in %", lambda d: "" if d.mean_accuracy is None else percent(d.mean_accuracy)),
        ("weighted IoU in %", lambda d: "" if d.weighted_iou is None else percent(d.weighted_iou)),
        ("absent classes", lambda d: escaped(", ".join(d.absent) or "none")),
    ]
    domains = run.final.domains
    # Earlier versions did not record all of it.
    columns = [(head, say) for head, say in columns if any(say(domain) for domain in domains.values())]
    when = escaped(_when(run.final.time))
    return table(
        ["domain", *(head for head, _ in columns)],
        [[escaped(name), *(say(domain) for _, say in columns)] for name, domain in domains.items()],
        caption=f"Scored after {run.final.iteration} iterations, {when}.",
        label="Scores of this run by domain",
    )


_CLASS_TABLES = {
    "iou": ("IoU", "IoU in %; grey where the class has no truth pixel, so that its IoU says nothing about it."),
    "precision": (
        "Precision",
        "Precision in %: of the pixels taken for a class, the fraction that has it; a dash where it was never seen.",
    ),
    "recall": (
        "Recall",
        "Recall in %: of the pixels of a class, the fraction that was found; a dash where it has none.",
    ),
}
"""What a table of the classes shows, field of `DomainResult` → name and caption."""


def _class_tables(run: Run) -> str:
    shown = _class_table(run, "iou")
    if any(domain.precision or domain.recall for domain in run.final.domains.values()):
        tables = f'<div class="plots large">{_class_table(run, "precision")}{_class_table(run, "recall")}</div>'
        shown += f"<details><summary>Precision and recall</summary>{tables}</details>"
    return shown


def _class_table(run: Run, field: str) -> str:
    def cell(domain: DomainResult, name: str) -> str:
        text = percent(getattr(domain, field).get(name))
        return f'<span class="even">{text}</span>' if name in domain.absent else text

    final, (words, caption) = run.final, _CLASS_TABLES[field]
    rows = [
        [swatch(css_rgb(color)) + escaped(name), *(cell(domain, name) for domain in final.domains.values())]
        for name, color in zip(final.classes, final.colors, strict=True)
    ]
    heads = ["class", *map(breakable, final.domains)]
    return table(heads, rows, caption=caption, label=f"{words} of this run by class and domain")


def _confusion(run: Run, role: Role) -> str:
    counts = sum(
        (domain.confusion for domain in run.final.domains.values() if domain.role == role),
        start=np.zeros((len(run.final.classes),) * 2, dtype=np.int64),
    )
    if counts.sum() == 0:
        return ""
    worst = top_confusions(run.final.classes, counts)
    words = ", ".join(f"{100 * fraction:.0f} % of {true} taken for {seen}" for true, seen, fraction in worst)
    title = "sources" if role == "source" else "unseen domains"
    svg = figures.confusion_svg(title, run.final.classes, counts, label=f"Confusion on {title}: {words}")
    caption = f"All {title} together; each row sums to 100 %. Most frequent: {escaped(words)}."
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def top_confusions(
    classes: Sequence[str], confusion: npt.NDArray[np.int64], *, num: int = 4
) -> list[tuple[str, str, float]]:
    """The confusions that cost the largest fraction of a true class: (true class, taken for, fraction)."""
    fractions = np.nan_to_num(figures.row_shares(confusion))
    np.fill_diagonal(fractions, 0.0)
    order = np.argsort(-fractions, axis=None, kind="stable")[:num]
    places = [(int(i) // len(classes), int(i) % len(classes)) for i in order]
    return [
        (classes[row], classes[column], float(fractions[row, column]))
        for row, column in places
        if fractions[row, column]
    ]


def reading(table: Table) -> str:
    """What the words and figures of the page mean."""
    return render("reading_report", baseline=table.baseline if len(table.rows) > 1 else None)
