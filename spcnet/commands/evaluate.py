"""`spcnet evaluate`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from spcnet.config import plain_lists


@plain_lists
def evaluate(
    model: Path,
    *,
    targets: Sequence[str] | None = None,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    size: tuple[int, int] | None = None,
    protocol: str = "spcnet",
    limit: int | None = None,
    batch_size: int | None = None,
    panels: int | None = None,
    window: tuple[int, int] | None = None,
    overlap: float | None = None,
    window_weights: Literal["uniform", "hann"] | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    accelerator: str | None = None,
    devices: int | str = 1,
    engine: Literal["auto", "torch", "fused", "onnxruntime", "openvino", "tensorrt"] = "torch",
    precision: Literal["f32", "bf16", "int8"] = "f32",
    calibration: str | None = None,
    classes: bool = False,
    space: str | None = None,
    ids: Literal["auto", "train", "label", "color"] = "auto",
    output: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluate a trained network, or what one predicted.

    Args:
        model: Folder of a run; file of weights of this package, RobustNet or SPC-Net; ONNX file of `spcnet export`; or
            folder of predictions, an image of class ids for each image of the domain.
        targets: Domains to evaluate on, no others; [] for the run's sources; its sources and targets by default.
        roots: Folder of each data set, by its name, beside the run's own.
        sets: YAML file that describes data sets of your own, by name, beside the run's own.
        size: Height and width that images are brought to, [H,W]; those of the training by default.
        protocol: Whose evaluation: spcnet, robustnet, spcnet-official, rein, vfm-full or vfm-full-coarse; all for each in turn.
        limit: Most images of each domain, its first ones; 0 for all.
        batch_size: Images that the network sees together.
        panels: Images of each domain whose prediction is kept for the report.
        window: Slide a window of this height and width over each image, [H,W].
        overlap: Fraction of a window that the next one covers.
        window_weights: Whether pixels near a window's border count less (hann).
        scales: Average over these sizes of the image, [0.5,1,1.5].
        flip: Average with the mirror image, true or false.
        accelerator: Where to compute: auto, cpu, cuda or mps; where the run was trained by default.
        devices: How many devices share the images, or auto.
        engine: What runs the network: torch as it is, fused, onnxruntime, openvino or tensorrt; auto: openvino on a processor where it is installed.
        precision: What the engine computes in: f32, bf16 or int8.
        calibration: Domain or folder of images to calibrate int8 with; the run's sources by default.
        classes: Show each domain class by class.
        space: Label space of a folder of predictions; what `spcnet predict` noted there by default, else cityscapes19.
        ids: What the pixels of predictions are: train ids, Cityscapes' label ids, or colours; auto looks at the names.
        output: File that gets the result as a line; beside the model by default.
        console: Where progress and metrics are shown; nowhere by default.

    Returns:
        The record, see `spcnet.evaluation.evaluator.record`: of a run with the figures that it had of other domains. By all
        protocols a record for each, by its name, under `protocols`.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    from spcnet.runs import DataOptions, OpenRun
    from spcnet.studies import evaluation

    changes: dict[str, Any] = {"limit": limit, "batch_size": batch_size, "panels": panels, "window": window}
    changes |= {"overlap": overlap, "window_weights": window_weights, "scales": scales, "flip": flip}
    options = evaluation.EvaluateOptions(
        protocol=protocol,
        changes={name: value for name, value in changes.items() if value is not None},
        devices=devices,
        accelerator=accelerator,
        space=space,
        ids=ids,
        output=output,
        classes=classes,
        engine=engine,
        precision=precision,
        calibration=calibration,
    )
    run = OpenRun(model, DataOptions(targets, roots or {}, sets, size))
    return evaluation.evaluate(run, options, console or Console(quiet=True))
