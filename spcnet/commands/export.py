"""`spcnet export`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from spcnet.config import plain_lists


@plain_lists
def export(
    model: Path,
    *,
    output: Path = Path("model.onnx"),
    format: Literal["onnx", "torch-export"] = "onnx",
    output_kind: Literal["logits", "labels"] = "logits",
    normalise: bool = False,
    pixels: Literal["uint8", "float32"] = "uint8",
    opset: int = 20,
    licence: str | None = None,
    size: tuple[int, int] | None = None,
    int8: bool = False,
    calibration: str | None = None,
    calibration_images: int = 64,
    score: str | None = None,
    limit: int = 0,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    repeats: int = 3,
    engines: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Write a network as ONNX or as a program of torch, and compare it.

    The file runs without this package; a report beside it says how it compares with the network. With `int8` a second
    file, `NAME.int8.onnx`, computes its convolutions in 8-bit integers; the report says what that costs on a domain.

    Args:
        model: Folder of a run, or a file of weights.
        output: File to write, *.onnx or *.pt2.
        format: Format of the file: onnx, or torch-export for a file that torch.export.load reads.
        output_kind: What the file answers: the logits of each pixel, or its class.
        normalise: The file takes RGB 0..255 and normalises it itself.
        pixels: Type of the image with --normalise.
        opset: Version of the ONNX operators.
        licence: What the file says of its terms.
        size: Height and width of its images, [H,W], for backbones of timm; those of the training by default.
        int8: Write NAME.int8.onnx as well, and what it loses.
        calibration: Domain or folder of images to calibrate int8 with; of a domain its training split.
        calibration_images: How many of them, spread evenly.
        score: Domain to evaluate the files on; the test split of the calibration's by default.
        limit: Most images of that domain; 0 for all.
        roots: Folder of each data set, by its name, beside the run's own.
        sets: YAML file that describes data sets of your own, by name, beside the run's own.
        repeats: Passes to time; 0 for none.
        engines: Engines to compare with the network, too, each NAME or NAME:PRECISION: [openvino,openvino:bf16,openvino:int8].
        console: Where the report is shown; nowhere by default.

    Returns:
        What the report says of each file, by its name.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    from spcnet.runs import DataOptions, OpenRun
    from spcnet.studies import exports

    options = exports.ExportOptions(
        format=format,
        output_kind=output_kind,
        pixels=pixels,
        normalise=normalise,
        opset=opset,
        licence=licence,
        size=size,
        int8=int8,
        calibration=calibration,
        calibration_images=calibration_images,
        score=score,
        limit=limit,
        repeats=repeats,
        engines=engines,
    )
    run = OpenRun(model, DataOptions(roots=roots or {}, sets=sets))
    return exports.export(run, output, options, console or Console(quiet=True))
