"""A trained network as a file that runs without this package: ONNX, or torch's own exported program.

Batch, height and width of the image stay free. The file says of itself what a user needs: classes, colours, how the
image is prepared. Before anything is written the file is run beside the network on images of several sizes, and one that
answers otherwise is refused. With `quantise` the convolutions of an ONNX file compute in 8-bit integers; what that costs
is measured by `score` with the project's own evaluator.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from spcnet.checkpoint import ModelCard
from spcnet.errors import UsageError, unknown_name_error
from spcnet.export.comparison import TOLERANCE, Check, checked_sizes, compare, refuse_difference
from spcnet.export.deployment import Deployed, Format, Kind, Pixels, describe, to_torch, torch_program, traced
from spcnet.export.onnx_files import OPSET, check_opset, onnx_program, to_onnx
from spcnet.files import write_atomic, write_text
from spcnet.models.network import Segmentor

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
"""How the name of a file ends, by its format."""


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares with the network it was made from."""

    file: Path
    bytes: int
    checks: tuple[Check, ...]
    metadata: dict[str, Any]


def export(
    network: Segmentor,
    card: ModelCard,
    output: Path,
    *,
    kind: Kind = "logits",
    pixels: Pixels | None = None,
    opset: int = OPSET,
    licence: str | None = None,
    size: tuple[int, int] | None = None,
) -> Export:
    """Write a network as a file, after it has answered as the network does.

    Args:
        network: a trained network, see `spcnet.runs.OpenRun`.
        card: what it is.
        output: file to write: `*.onnx`, or `*.pt2` for a file that `torch.export.load` reads.
        kind: `logits` of each pixel, `labels` for its class.
        pixels: type of images 0..255 that the file normalises itself; None for images that come normalised.
        opset: version of the ONNX operators.
        licence: what the file says of its terms; by default that they depend on the training data.
        size: height and width of the images, for backbones that take those of one size alone once they are exported.

    Raises:
        UsageError: an option is wrong, or the packages for ONNX are not installed.
        DataError: the file answers otherwise than the network, or cannot be written.
    """
    if kind not in get_args(Kind):
        raise unknown_name_error(kind, get_args(Kind), "kind of output")
    formats: dict[str, Format] = {suffix: name for name, suffix in SUFFIXES.items()}
    if output.suffix.lower() not in formats:
        raise UsageError(f"the output is {output}: a file of weights ends in {' or '.join(formats)}")
    format = formats[output.suffix.lower()]
    if format == "onnx":
        check_opset(opset)
    deployed = Deployed(network, card, kind=kind, pixels=pixels, size=size)
    metadata = describe(deployed, card, format=format, opset=opset, licence=licence)
    if format == "onnx":
        content = to_onnx(traced(deployed), metadata)
        program = onnx_program(content)
    else:
        content = to_torch(traced(deployed), metadata)
        program = torch_program(content)
    checks = compare(deployed, program, checked_sizes(card.size, fixed=deployed.size))
    refuse_difference(checks)
    write_atomic(output, lambda file: file.write(content))
    return Export(output, len(content), checks, metadata)


def report_path(output: Path) -> Path:
    """Where the comparison of a file lies: beside it."""
    return output.with_name(output.name + ".json")


def write_report(written: Export, **more: Any) -> Path:
    """Write the comparison of a file with its network beside the file, as JSON, and say where.

    Raises:
        DataError: it cannot be written.
    """
    path = report_path(written.file)
    content = {
        "file": written.file.name,
        "bytes": written.bytes,
        "tolerance": TOLERANCE,
        "checks": [check._asdict() for check in written.checks],
        **more,
        "metadata": written.metadata,
    }
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    return path
