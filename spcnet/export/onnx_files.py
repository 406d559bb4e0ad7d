"""Networks as ONNX files: written, described, and run with ONNX Runtime."""

import importlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.data.transforms import denormalise
from spcnet.errors import DataError, UsageError
from spcnet.export.deployment import Kind, Pixels, Program
from spcnet.inference.engines.graph import quiet
from spcnet.labels import IGNORE
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD, SegOutput

OPSET = 20
"""Version of the ONNX operators; the exporter's own."""


OLDEST_OPSET = 18
"""The oldest that the exporter writes."""


IR_WITH_METADATA = 10
"""Version of ONNX's file format from which on nodes and values have metadata of their own."""


def to_onnx(graph: torch.export.ExportedProgram, metadata: Mapping[str, Any]) -> bytes:
    """A network as the content of an ONNX file, with an entry of JSON for each of the metadata.

    Raises:
        UsageError: the packages for ONNX are not installed, or that version of the operators could not be written.
    """
    packages()
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            dynamo=True,
            opset_version=metadata["opset"],
            input_names=["image"],
            output_names=[metadata["output"]["name"]],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    (written,) = (one.version for one in model.opset_import if not one.domain)
    if written != metadata["opset"]:
        raise UsageError(f"the opset is {metadata['opset']}, but the exporter could only write {written}: ask for that")
    name_sizes(model.graph)
    least_ir_version(model)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    content: bytes = model.SerializeToString()
    return content


def check_opset(opset: int) -> None:
    """Refuse a version of the ONNX operators that cannot be written.

    Raises:
        UsageError: there is no such version, or the packages for ONNX are not installed.
    """
    onnx, _ = packages()
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UsageError(f"the opset is {opset}: it must lie in {OLDEST_OPSET}..{newest}; {OPSET} is the default")


def least_ir_version(model: Any) -> None:
    """Give an ONNX model the least version of the file format that its operators need, so that runtimes of their time read it.

    Exporters write a version of their own, whatever the operators.

    Args:
        model: a `ModelProto`; changed in place.
    """
    onnx, _ = packages()
    known = {(one.domain, one.version): one for part in (model, *model.functions) for one in part.opset_import}
    # Domains that ONNX does not know, such as com.microsoft, ask for no version of the format.
    model.ir_version = onnx.helper.find_min_ir_version_for(list(known.values()), ignore_unknown=True)
    if model.ir_version < IR_WITH_METADATA:
        for one in (
            model.graph,
            *model.graph.node,
            *model.graph.initializer,
            *chain(model.graph.input, model.graph.output),
        ):
            del one.metadata_props[:]
        for value in model.graph.value_info:
            del value.metadata_props[:]


def name_sizes(graph: Any) -> None:
    """Call the free sizes of an ONNX graph batch, height and width, instead of the exporter's numbers."""
    shape = graph.input[0].type.tensor_type.shape.dim
    sides = ((0, "batch"), (2, "height"), (3, "width"))
    names = {shape[place].dim_param: name for place, name in sides if shape[place].dim_param}
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda match: names[match[1]], dim.dim_param)


def onnx_program(content: bytes, what: str = "the file") -> Program:
    """Make an ONNX file ready to run on the processor, with as many threads as torch has.

    Args:
        content: of the file.
        what: its name, for messages.

    Raises:
        UsageError: the packages for ONNX are not installed.
        DataError: ONNX Runtime cannot read it; and where the program is run, if it does not take such images.
    """
    _, runtime = packages()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common base
        raise DataError(f"ONNX Runtime cannot read {what}: {' '.join(str(error).split())}. Export it again") from error
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {name: image.numpy()})[0])
        except Exception as error:  # as above
            size = "×".join(map(str, image.shape))
            raise DataError(
                f"{what} does not take images of {size} ({' '.join(str(error).split())}): give one that spcnet export "
                "wrote, whose sizes are free"
            ) from error

    return run


def onnx_metadata(content: bytes, what: str) -> dict[str, Any]:
    """What an ONNX file that `export` wrote says of itself; see `describe`.

    Args:
        content: of the file.
        what: its name, for messages.

    Raises:
        UsageError: the packages for ONNX are not installed.
        DataError: the file cannot be read, or says nothing of itself.
    """
    package, _ = packages()
    try:
        entries = {one.key: one.value for one in package.load_model_from_string(content).metadata_props}
        metadata = {key: json.loads(value) for key, value in entries.items()}
    except Exception as error:  # of the decoder of protocol buffers or of JSON
        raise DataError(f"{what} is no ONNX file that can be read: export the network again") from error
    missing = [
        key for key in ("space", "classes", "output", "normalise", "input", "mean", "std") if key not in metadata
    ]
    if missing:
        raise DataError(
            f"{what} does not say what its classes and its images are (no {', '.join(missing)}): give a file that "
            "spcnet export wrote"
        )
    kind, pixels = ((metadata[key] if isinstance(metadata[key], dict) else {}) for key in ("output", "input"))
    size = metadata.get("size")
    wrong = {
        "space": not isinstance(metadata["space"], str),
        "output": kind.get("name") not in ("logits", "labels"),
        "input": pixels.get("type") not in ("uint8", "float32"),
        "mean": not _are_numbers(metadata["mean"], 3),
        "std": not _are_numbers(metadata["std"], 3) or min(metadata["std"]) <= 0,
        "size": size is not None and not _are_numbers(size, 2),
    }
    if any(wrong.values()):
        said = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
        raise DataError(f"{what} says of itself what cannot be ({said}): give a file that spcnet export wrote")
    return metadata


def _are_numbers(values: object, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(one, (int, float)) for one in values)


def packages() -> tuple[Any, Any]:
    """The packages onnx and onnxruntime.

    Raises:
        UsageError: one is not installed.
    """
    try:
        importlib.import_module("onnxscript")  # torch's exporter writes with it
        return importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UsageError(
            f"the format onnx needs a package that is not installed ({error.name}): pip install onnx onnxruntime onnxscript, or choose the "
            "format torch-export"
        ) from error


class FileNetwork(nn.Module):
    """An exported file as a network that the evaluator takes.

    Labels count as logits of one for the chosen class and zero for the others.

    Args:
        program: the file.
        kind: whether it answers logits or labels.
        pixels: type of its images where it normalises them itself.
        num_classes: K.
        mean: what it wants subtracted from images in 0..1, where it does not normalise them.
        std: what it wants them divided by.
    """

    def __init__(
        self,
        program: Program,
        *,
        kind: Kind,
        pixels: Pixels | None,
        num_classes: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.program, self.kind, self.pixels, self.num_classes = program, kind, pixels, num_classes
        self.wanted = None
        if (tuple(mean), tuple(std)) != (IMAGENET_MEAN, IMAGENET_STD):
            self.wanted = torch.tensor([mean, std]).view(2, 3, 1, 1)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> SegOutput:
        """Scores of normalised images; a file that normalises gets the bytes they come from.

        Raises:
            DataError: the file answers with other classes than its own.
        """
        if self.pixels is not None:
            image = denormalise(image).to(torch.uint8 if self.pixels == "uint8" else torch.float32)
        elif self.wanted is not None:
            image = (denormalise(image).float() / 255 - self.wanted[0]) / self.wanted[1]
        answer = self.program(image)
        if self.kind == "labels" and bool((answer == IGNORE).any()):
            raise DataError(
                "the file makes pixels void that lie below a class's threshold, and metrics want a class for each: "
                "export logits and evaluate those"
            )
        if self.kind == "labels":
            fits = answer.ndim == 3 and int(answer.max()) < self.num_classes
        else:
            fits = answer.ndim == 4 and answer.shape[1] == self.num_classes
        if not fits:
            raise DataError(
                f"the file answers with {self.kind} of the shape {tuple(answer.shape)}, and not of the {self.num_classes} "
                "classes that it says to have: export the network again"
            )
        if self.kind == "labels":
            answer = F.one_hot(answer.long(), self.num_classes).movedim(-1, 1).float()
        return SegOutput(answer)
