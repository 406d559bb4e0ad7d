"""What `spcnet report` does: one page about runs, with what their networks cost."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from spcnet.config import plain_lists
from spcnet.cost import PAPER_SIZE, cost
from spcnet.errors import SpcnetError
from spcnet.formatting import print_plain
from spcnet.methods import method_named
from spcnet.reports.costs import NetworkCost
from spcnet.reports.page import write_report
from spcnet.reports.runs import Run, load_run
from spcnet.reports.tables import ranked, render_terminal, summary_table
from spcnet.runs import OpenRun


def show_table(folders: Sequence[Path], console: Console, *, baseline: str = "deeplabv3plus") -> None:
    """Print the mIoU of runs, domain by domain."""
    table = summary_table([load_run(folder) for folder in folders], baseline=baseline)
    console.print(render_terminal(table, width=console.width))


@plain_lists
def report(
    runs: Sequence[Path],
    *,
    output: Path,
    baseline: str = "deeplabv3plus",
    title: str | None = None,
    published: str = "auto",
    console: Console | None = None,
) -> Path:
    """Write one HTML page about runs, and print their table.

    Args:
        runs: their folders.
        output: the page.
        baseline: method that the others are compared with.
        title: heading of the page.
        published: published results on it: auto, all or none; see `spcnet.reports.page.write_report`.
        console: where the table is shown; nowhere by default.

    Raises:
        UsageError, DataError: a folder is not a run, or the page cannot be written.
    """
    console = console or Console(quiet=True)
    method_named(baseline)
    # An earlier page, and the tables of a sweep, among what a glob found are no runs.
    runs = [run for run in runs if run.suffix not in (".html", ".md", ".tex", ".json") or not run.is_file()] or list(
        runs
    )
    board = ranked([load_run(run) for run in runs], baseline=baseline)
    page = write_report(
        board, output, title=title, baseline=baseline, published=published, counted=network_costs(board)
    )
    show_table([run.folder for run in board], console, baseline=baseline)
    print_plain(console, f"The page is {page}")
    return page


def network_costs(runs: Sequence[Run]) -> dict[Path, NetworkCost]:
    """What the networks of runs cost for an image of their size, by folder; without those that cannot be built here."""
    known: dict[str, NetworkCost] = {}
    costs = {}
    for run in runs:
        try:
            config = OpenRun(run.folder).config
            size = config.data.size or config.data.crop or PAPER_SIZE
            num_classes, num_domains = len(run.final.classes), len(config.data.domain_names)
            key = repr((config.method, config.model, size, num_classes, num_domains))
            if key not in known:
                counted = cost(
                    config.method,
                    config.model.backbone,
                    size=size,
                    num_classes=num_classes,
                    num_domains=num_domains,
                    model=config.model,
                )
                known[key] = NetworkCost(
                    counted.parameters,
                    counted.macs,
                    counted.activations,
                    size,
                    None if counted.trained == counted.parameters else counted.trained,
                )
        except SpcnetError:  # the page is for what the runs scored; a cost that cannot be counted is left out
            continue
        costs[run.folder] = known[key]
    return costs
