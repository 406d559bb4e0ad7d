"""One self-contained page about one or several runs: no network, light and dark, phone and paper.

Everything is there without a script. The page's own script, the only one that its policy lets run, sorts the table,
hides classes and enlarges images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spcnet.errors import DataError, UsageError, unknown_name_error
from spcnet.files import write_text
from spcnet.reports import html
from spcnet.reports.calibration import confidence, unknown_objects
from spcnet.reports.cards import read_cards, robustness
from spcnet.reports.classes import classes
from spcnet.reports.costs import NetworkCost, costs
from spcnet.reports.details import details, reading, setting
from spcnet.reports.gallery import images
from spcnet.reports.html import escaped
from spcnet.reports.leaderboard import cards, lead, results
from spcnet.reports.published import CHOICES
from spcnet.reports.runs import Run
from spcnet.reports.series import Series, series_of
from spcnet.reports.tables import summary_table
from spcnet.reports.training import fractions, training

_INSPECTION = "inspection"
"""Folder in a run, and name of the record in it, of `spcnet inspect`."""


def write_report(
    runs: Sequence[Run],
    output: Path,
    *,
    title: str | None = None,
    baseline: str = "deeplabv3plus",
    panels: int = 3,
    published: str = "auto",
    counted: Mapping[Path, NetworkCost] | None = None,
) -> Path:
    """Write one page about these runs, whole or not at all.

    Args:
        runs: what to compare; runs that differ only by their seed are shown as one, with mean and deviation.
        output: the file to write; folders above it are made.
        title: heading of the page; says what is compared by default.
        baseline: method that gaps are measured from, if it is among the runs.
        panels: images of each unseen domain to show.
        published: published results: `auto` beside the runs where they can stand there and folded up elsewhere, `all` of
            them unfolded, or `none`.
        counted: what networks cost, by `Run.folder`.

    Returns:
        The file written.

    Raises:
        UsageError: there are no runs, or `published` is unknown.
        DataError: a kept picture or record is broken, or the file cannot be written.
    """
    page = render_page(runs, title=title, baseline=baseline, panels=panels, published=published, counted=counted)
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
    panels: int = 3,
    published: str = "auto",
    counted: Mapping[Path, NetworkCost] | None = None,
) -> str:
    """The page of `write_report` as text.

    Raises:
        UsageError: there are no runs, `panels` is negative, or `published` is unknown.
        DataError: a kept picture or record is broken.
    """
    if panels < 0:
        raise UsageError(f"panels is {panels}: it cannot be negative")
    if published not in CHOICES:
        raise unknown_name_error(published, CHOICES, "choice of published rows")
    table = summary_table(runs, baseline=baseline)
    series, base = series_of(runs, baseline)
    # The baseline comes first wherever methods stand side by side.
    ordered = sorted(series, key=lambda one: one.group is not base)
    sections = [
        ("results", "Results", results(table, series, published=published)),
        ("setting", "What was compared", setting(series)),
        ("images", "Images", images(ordered, panels)),
        ("classes", "Classes", classes(ordered, base)),
        ("robustness", "Robustness", robustness(ordered, read_cards(runs))),
        ("confidence", "Confidence", confidence(ordered)),
        ("unknown", "Unknown objects", unknown_objects(ordered)),
        ("training", "Training", training(ordered)),
        *fractions(ordered),
        ("inside", "Inside the networks", _inside(ordered)),
        ("cost", "Cost", costs(ordered, counted or {})),
        ("runs", "Runs in detail", details(series)),
        ("reading", "How to read this", reading(table)),
    ]
    return html.document(
        title or _default_title(series),
        sections,
        lead=lead(table),
        cards=cards(table, series),
        version=next((run.environment["spcnet"] for run in runs if run.environment.get("spcnet")), None),
        script=True,
    )


def _default_title(series: Sequence[Series]) -> str:
    methods = list(dict.fromkeys(one.group.method for one in series))
    if len(methods) == 1:
        several = f"{methods[0]}: {html.counted(len(series), 'variant')} compared"
        return several if len(series) > 1 else f"A run of {methods[0]}"
    return f"{', '.join(methods[:-1])} and {methods[-1]} compared"


def _inside(series: Sequence[Series]) -> str:
    """What `spcnet inspect` saw in the first run of each method that it looked at; empty where there is none."""
    parts = []
    for one in series:
        run = next((run for run in one.group.runs if any(run.folder.glob(f"{_INSPECTION}/{_INSPECTION}.json"))), None)
        if run is None:
            continue
        # Here, for it takes a while to load and few runs have been inspected.
        from spcnet.reports.inspection import read_inspection
        from spcnet.reports.inspection_page import inspection_section

        inspection = read_inspection(run.folder)
        if inspection is not None:
            summary = f"<summary><b>{escaped(one.label)}</b> · seed {run.seed}</summary>"
            parts.append(f"<details open>{summary}{inspection_section(inspection)}</details>")
    return "".join(parts)
