"""Find out what went wrong in a run."""

from pathlib import Path

from rich.console import Console


def replay(folder: Path, *, accelerator: str | None = None, console: Console | None = None) -> None:
    """Repeat a step whose loss was not finite, and say where it goes wrong.

    Args:
        folder: What the run left, RUN/nan.
        accelerator: Where to compute: auto, cpu, cuda or mps; where the run did by default.
        console: Where the result is shown; nowhere by default.

    Raises:
        UsageError, CheckpointError: see the message.
    """
    from spcnet.studies.replay import replay

    replay(folder, accelerator=accelerator, console=console or Console(quiet=True))
