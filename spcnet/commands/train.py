"""`spcnet train`."""

from rich.console import Console

from spcnet.config import RunConfig


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    console: Console | None = None,
) -> int:
    """Train a network on source domains and test it on unseen ones.

    Args:
        config: The run.
        resume: Continue from the last checkpoint of the run in --output.
        overwrite: Start again in a folder that already holds a run.
        dry_run: Only check data, memory and time: make and time some steps, the method's statistics, a checkpoint and an
            evaluation of some images; the run's folder is not touched.
        console: Where progress is shown; nowhere by default.

    Returns:
        0, or 1 where a dry run found that the training would fail.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
        Interrupted: stopped by the user; the state is saved.
    """
    from spcnet import distributed, training
    from spcnet.studies.report import show_table

    console = console or Console(quiet=True)
    if dry_run:
        from spcnet.dry_run import rehearse
        from spcnet.reports.dry_run import show

        report = rehearse(config, resume=resume, overwrite=overwrite, say=console.print)
        if distributed.rank() == 0:
            show(report, config, console)
        return int(not report.ready)
    training.train(config, resume=resume, overwrite=overwrite, console=console)
    if distributed.rank() == 0:
        show_table([config.output], console)
        console.print(
            f"The run is in {config.output}; `spcnet report {config.output}` makes a page of it.", highlight=False
        )
    return 0
