"""`spcnet app`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from spcnet.config import plain_lists


@plain_lists
def app(
    models: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    max_megapixels: float = 24.0,
    max_mb: float = 50.0,
    max_seconds: float = 10.0,
    time_limit: float = 120.0,
    concurrency: int = 1,
    accelerator: str = "auto",
    engine: Literal["auto", "torch", "fused", "onnxruntime", "openvino", "tensorrt"] = "auto",
    precision: Literal["f32", "bf16", "int8"] = "f32",
    calibration: str | None = None,
    console: Console | None = None,
) -> None:
    """Show networks side by side on a web page, with your own photos and videos.

    Args:
        models: Folders of runs, or checkpoint files.
        host: Address to listen at; 0.0.0.0 for all.
        port: Port to listen at; 0 for any that is free.
        share: Make a public address, through Gradio's servers.
        max_megapixels: Millions of pixels of an uploaded picture, or of a frame.
        max_mb: Megabytes of an uploaded file.
        max_seconds: Seconds of a video that are labelled.
        time_limit: Seconds that labelling a video may take.
        concurrency: Requests that are handled at the same time; the others wait.
        accelerator: Where to compute: auto, cpu, cuda or mps.
        engine: What runs the network: torch as it is, fused, onnxruntime, openvino or tensorrt; auto: openvino on a processor where it is installed.
        precision: What the engine computes in: f32, bf16 or int8.
        calibration: Domain or folder of images to calibrate int8 with; each run's sources by default.
        console: Where the address is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
        KeyboardInterrupt: the user stopped it; nothing is left.
    """
    from spcnet.app.server import Address, serve
    from spcnet.app.uploads import Limits
    from spcnet.runs import OpenRun
    from spcnet.studies.engines import engine_options

    limits = Limits(max_megapixels, max_mb, max_seconds, time_limit, concurrency)
    runs = [OpenRun(model) for model in models]
    engines = [engine_options(run, engine, precision, calibration) for run in runs]
    serve(
        runs,
        Address(host, port, share),
        limits=limits,
        device=accelerator,
        engines=engines,
        console=console or Console(quiet=True),
    )
