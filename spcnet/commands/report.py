"""`spcnet report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from spcnet.config import plain_lists


@plain_lists
def report(
    runs: Sequence[Path],
    *,
    output: Path = Path("report.html"),
    baseline: str = "deeplabv3plus",
    title: str | None = None,
    published: Literal["auto", "all", "none"] = "auto",
    console: Console | None = None,
) -> None:
    """Make one HTML page of one or several runs.

    Args:
        runs: Folders of runs to show side by side.
        output: The page to write.
        baseline: Method that the others are compared with.
        title: Title of the page.
        published: Published results on the page: beside the runs where they can stand there, all of them, or none.
        console: Where the table is shown; nowhere by default.

    Raises:
        UsageError, DataError: a folder is no run, or the page cannot be written.
    """
    from spcnet.studies.report import report as write_report

    write_report(runs, output=output, baseline=baseline, title=title, published=published, console=console)
