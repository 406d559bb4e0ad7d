"""A trained network as a file that runs without this package: ONNX, or torch's own exported program.

Batch, height and width of the image stay free. The file says of itself what a user needs: classes, colours, how the
image is prepared. Before anything is written the file is run beside the network on images of several sizes, and one that
answers otherwise is refused. With `quantise` the convolutions of an ONNX file compute in 8-bit integers; what that costs
is measured by `score` with the project's own evaluator.
"""

import copy
import importlib
import importlib.metadata
import io
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import v2

from spcnet.checkpoint import ModelCard
from spcnet.config import DataConfig
from spcnet.data.datasets import SegmentationSet
from spcnet.data.loading import evaluation_batches
from spcnet.data.transforms import denormalise
from spcnet.errors import DataError, UsageError, unknown_name_error
from spcnet.evaluation import evaluator
from spcnet.files import write_atomic, write_text
from spcnet.inference.images import find_images, read_rgb
from spcnet.labels import label_space
from spcnet.models.network import MIN_SIZE, Segmentor
from spcnet.synthesis import streets
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD, SegOutput

Format = Literal["onnx", "torch-export"]
Kind = Literal["logits", "labels"]
Pixels = Literal["uint8", "float32"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
"""How the name of a file ends, by its format."""
OPSET = 20
"""Version of the ONNX operators; the exporter's own."""
OLDEST_OPSET = 18
"""The oldest that the exporter writes."""
IR_WITH_METADATA = 10
"""Version of ONNX's file format from which on nodes and values have metadata of their own."""
TRACED = (2, 96, 160)
"""Images, height and width that the network is exported with; the file works at any other."""
CHECKED = ((1, MIN_SIZE, MIN_SIZE), (2, 64, 96), (3, 65, 131), (1, 224, 160))
"""Images, height and width that a file is compared with its network at, odd sizes among them, beside the training's."""
TOLERANCE = 1e-3
"""Largest difference of the scores, as a part of the largest score, of a file that is kept."""
EQUAL = 0.999
"""Smallest share of equal labels of a file that is kept."""
METADATA_FILE = "spcnet.json"
"""Name of the metadata within a file of torch."""

BETWEEN = ("Add", "Clip", "Concat", "MaxPool", "Relu", "Resize")
"""Kinds of ONNX nodes that compute in 8 bits where they stand between convolutions."""

Program = Callable[[Tensor], Tensor]
"""A file made ready to run: images in, scores or labels out."""


class Deployed(nn.Module):
    """What a file holds: a network with the preparation of the image before it and the choice of the class after it.

    Args:
        network: is copied; what only training needs is left out.
        card: mean and deviation of the images.
        kind: `logits` for the scores of each pixel, `labels` for its class.
        pixels: type of the images where they come as 0..255 and are normalised in here; None for normalised images.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: Segmentor, card: ModelCard, *, kind: Kind = "logits", pixels: Pixels | None = None
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().float().eval()
        self.network.auxiliary = self.network.clusters = None
        self.kind, self.pixels = kind, pixels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (card.mean, card.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.eval()

    def forward(self, image: Shaped[Tensor, "B 3 H W"]) -> Shaped[Tensor, "B ..."]:
        """Scores (B×K×H×W, float32) or the class of each pixel (B×H×W, uint8)."""
        logits = self.scores(image)
        return logits.argmax(dim=1).to(torch.uint8) if self.kind == "labels" else logits

    def scores(self, image: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H W"]:
        """Class scores, whatever the file is to answer."""
        if self.pixels is not None:
            image = torch.addcmul(self.shift, image.float(), self.scale)
        logits: Tensor = self.network(image).logits
        return logits

    def given(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Shaped[Tensor, "B 3 H W"]:
        """RGB bytes as this network wants its images."""
        if self.pixels is None:
            return torch.addcmul(self.shift, pixels.float(), self.scale)
        return pixels if self.pixels == "uint8" else pixels.float()


class Check(NamedTuple):
    """A file compared with its network on images of one size."""

    images: int
    height: int
    width: int
    difference: float
    """Largest difference of the scores; of a file of labels, how much less than the best one a chosen class scores."""
    largest: float
    """Largest score of the network, without its sign."""
    equal: float
    """Share of the pixels that get the same class, 0..1."""


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares with the network it was made from."""

    file: Path
    bytes: int
    checks: tuple[Check, ...]
    metadata: dict[str, Any]


class Timing(NamedTuple):
    """Median seconds of one image."""

    height: int
    width: int
    network: float
    """Of the network in torch."""
    file: float
    """Of the file."""


def export(
    network: Segmentor,
    card: ModelCard,
    output: Path,
    *,
    format: Format = "onnx",
    kind: Kind = "logits",
    pixels: Pixels | None = None,
    opset: int = OPSET,
    licence: str | None = None,
    checked: Sequence[tuple[int, int, int]] | None = None,
) -> Export:
    """Write a network as a file, after it has answered as the network does.

    Args:
        network: what `restore` or `build_model` made.
        card: what it is.
        output: file to write, `*.onnx` or `*.pt2`.
        format: `onnx`, or `torch-export` for a file that `torch.export.load` reads.
        kind: `logits` for the scores of each pixel, `labels` for its class.
        pixels: type of images 0..255 that the file normalises itself; None for images that come normalised.
        opset: version of the ONNX operators.
        licence: what the file says of its terms; by default that they depend on the training data.
        checked: images, height and width that the file is compared at; several by default.

    Raises:
        UsageError: an option is wrong, or the packages for ONNX are not installed.
        DataError: the file answers otherwise than the network, or cannot be written.
    """
    for value, known, what in ((format, tuple(SUFFIXES), "format"), (kind, ("logits", "labels"), "kind of output")):
        if value not in known:
            raise unknown_name_error(value, known, what)
    if output.suffix.lower() != SUFFIXES[format]:
        raise UsageError(f"the output is {output}: a file of the format {format} ends in {SUFFIXES[format]}")
    if format == "onnx":
        check_opset(opset)
    deployed = Deployed(network, card, kind=kind, pixels=pixels)
    metadata = describe(deployed, card, format=format, opset=opset, licence=licence)
    if format == "onnx":
        content = to_onnx(traced(deployed), metadata)
        program = onnx_program(content)
    else:
        content = to_torch(traced(deployed), metadata)
        program = torch_program(content)
    checks = compare(deployed, program, checked or checked_sizes(card.size))
    refuse_difference(checks)
    write_atomic(output, lambda file: file.write(content))
    return Export(output, len(content), checks, metadata)


def checked_sizes(size: tuple[int, int] | None) -> tuple[tuple[int, int, int], ...]:
    """Images, height and width that a file is compared at: `CHECKED`, and an image of the training's size."""
    own = (1, *size) if size is not None and min(size) >= MIN_SIZE else None
    return tuple(dict.fromkeys([*CHECKED, own] if own else CHECKED))


def describe(
    deployed: Deployed, card: ModelCard, *, format: Format, opset: int, licence: str | None = None
) -> dict[str, Any]:
    """What a file says of itself, as values that JSON can hold."""
    space = label_space(card.space)
    layout = "B×3×H×W, RGB, " + (
        "0..255" if deployed.pixels else "normalised: each channel in 0..1, less its mean, divided by its std"
    )
    answer = {"labels": "B×H×W, number of the class", "logits": "B×K×H×W, scores before softmax"}[deployed.kind]
    return {
        "spcnet": importlib.metadata.version("spcnet"),
        "method": card.method,
        "backbone": card.model["backbone"],
        "space": card.space,
        "classes": list(card.classes),
        "colors": [list(color) for color in space.colors],
        "domains": list(card.domains),
        "size": None if card.size is None else list(card.size),
        "min_size": MIN_SIZE,
        "mean": list(card.mean),
        "std": list(card.std),
        "normalise": deployed.pixels is not None,
        "input": {"name": "image", "type": deployed.pixels or "float32", "layout": layout},
        "output": {
            "name": deployed.kind,
            "type": "uint8" if deployed.kind == "labels" else "float32",
            "layout": answer,
        },
        "format": format,
        **({"opset": opset} if format == "onnx" else {"torch": torch.__version__}),
        "licence": licence
        or f"code: Apache-2.0; weights: subject to the terms of the training data ({', '.join(card.domains)})",
    }


def traced(deployed: Deployed) -> torch.export.ExportedProgram:
    """The network as a graph of operators, with batch, height and width left free."""
    images, height, width = TRACED
    pixels = deployed.given(torch.zeros(images, 3, height, width, dtype=torch.uint8))
    free = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=MIN_SIZE),
        3: torch.export.Dim("width", min=MIN_SIZE),
    }
    with torch.no_grad():
        return torch.export.export(deployed, (pixels,), dynamic_shapes={"image": free}, strict=False)


def to_torch(graph: torch.export.ExportedProgram, metadata: Mapping[str, Any]) -> bytes:
    """A network as the content of a file that `torch.export.load` reads, with the metadata in `spcnet.json`."""
    file = io.BytesIO()
    graph.example_inputs = None  # they alone would be pickled
    text = json.dumps(metadata, ensure_ascii=False)
    torch.export.save(graph, file, extra_files={METADATA_FILE: text})
    return file.getvalue()


def to_onnx(graph: torch.export.ExportedProgram, metadata: Mapping[str, Any]) -> bytes:
    """A network as the content of an ONNX file, with an entry of JSON for each of the metadata.

    Raises:
        UsageError: the packages for ONNX are not installed, or that version of the operators could not be written.
    """
    _packages()
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
    onnx, _ = _packages()
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UsageError(f"the opset is {opset}: it must lie in {OLDEST_OPSET}..{newest}; {OPSET} is the default")


def least_ir_version(model: Any) -> None:
    """Give an ONNX model the least version of the file format that its operators need, so that runtimes of their time read it.

    Exporters write a version of their own, whatever the operators.

    Args:
        model: a `ModelProto`; changed in place.
    """
    onnx, _ = _packages()
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
    names = {shape[place].dim_param: name for place, name in ((0, "batch"), (2, "height"), (3, "width"))}
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda found: names[found[1]], dim.dim_param)


def onnx_program(content: bytes, what: str = "the file") -> Program:
    """Make an ONNX file ready to run on the processor, with as many threads as torch has.

    Args:
        content: of the file.
        what: its name, for messages.

    Raises:
        UsageError: the packages for ONNX are not installed.
        DataError: ONNX Runtime cannot read it; and where the program is run, if it does not take such images.
    """
    _, runtime = _packages()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common base
        raise DataError(f"ONNX Runtime cannot read {what}: {' '.join(str(error).split())}. Export it anew") from error
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
    package, _ = _packages()
    try:
        entries = {one.key: one.value for one in package.load_model_from_string(content).metadata_props}
        found = {key: json.loads(value) for key, value in entries.items()}
    except Exception as error:  # of the decoder of protocol buffers or of JSON
        raise DataError(f"{what} is no ONNX file that can be read: export the network anew") from error
    missing = [key for key in ("space", "classes", "output", "normalise", "input", "mean", "std") if key not in found]
    if missing:
        raise DataError(
            f"{what} does not say what its classes and its images are (no {', '.join(missing)}): give a file that "
            "spcnet export wrote"
        )
    kind, pixels = ((found[key] if isinstance(found[key], dict) else {}) for key in ("output", "input"))
    size = found.get("size")
    wrong = {
        "space": not isinstance(found["space"], str),
        "output": kind.get("name") not in ("logits", "labels"),
        "input": pixels.get("type") not in ("uint8", "float32"),
        "mean": not _are_numbers(found["mean"], 3),
        "std": not _are_numbers(found["std"], 3) or min(found["std"]) <= 0,
        "size": size is not None and not _are_numbers(size, 2),
    }
    if any(wrong.values()):
        said = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
        raise DataError(f"{what} says of itself what cannot be ({said}): give a file that spcnet export wrote")
    return found


def _are_numbers(values: object, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(one, (int, float)) for one in values)


def torch_program(content: bytes) -> Program:
    """Make a file of torch ready to run. Only for what this process has written: torch's loader trusts its file."""
    module = torch.export.load(io.BytesIO(content)).module()

    def run(image: Tensor) -> Tensor:
        with torch.no_grad():
            answer: Tensor = module(image)
        return answer

    return run


def _packages() -> tuple[Any, Any]:
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


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings and log lines: what matters of them is found by the comparison."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def pictures(images: int, height: int, width: int) -> UInt8[Tensor, "B 3 H W"]:
    """Generated streets in several styles, brought to a size."""
    drawn = torch.stack([_street(number) for number in range(images)])
    resized: UInt8[Tensor, "B 3 H W"] = v2.functional.resize(drawn, [height, width], antialias=True)
    return resized


@lru_cache(maxsize=8)
def _street(number: int) -> UInt8[Tensor, "3 h w"]:
    styles = list(streets.STYLES)
    return torch.from_numpy(streets.generate(number, style=styles[number % len(styles)]).image).permute(2, 0, 1)


def compare(deployed: Deployed, program: Program, sizes: Iterable[tuple[int, int, int]]) -> tuple[Check, ...]:
    """Run a file beside its network on generated streets.

    Args:
        deployed: the network.
        program: the file.
        sizes: images, height and width of each comparison.
    """
    checks = []
    for size in sizes:
        image = deployed.given(pictures(*size))
        with torch.no_grad():
            wanted = deployed.scores(image)
        answer = program(image)
        best, label = wanted.max(dim=1)
        if deployed.kind == "labels":
            if answer.shape != label.shape:
                raise _misshapen(answer, label)
            chosen = answer.long()
            # A tie may be broken either way: what counts is how much worse the chosen class is.
            difference = best - wanted.gather(1, chosen.clamp(max=wanted.shape[1] - 1)[:, None])[:, 0]
        else:
            if answer.shape != wanted.shape:
                raise _misshapen(answer, wanted)
            chosen = answer.argmax(dim=1)
            difference = (answer - wanted).abs()
        checks.append(
            Check(
                *size,
                difference=float(difference.max()),
                largest=float(wanted.abs().max()),
                equal=float((chosen == label).double().mean()),
            )
        )
    return tuple(checks)


def _misshapen(answer: Tensor, wanted: Tensor) -> DataError:
    return DataError(
        f"the exported file answers with the shape {tuple(answer.shape)} where the network has {tuple(wanted.shape)}: "
        "nothing was written. Choose another --opset or --format"
    )


def refuse_difference(checks: Sequence[Check]) -> None:
    """Refuse a file that does not answer as its network does.

    Raises:
        DataError: says at which size, and by how much.
    """
    for check in checks:
        bound = TOLERANCE * max(1.0, check.largest)
        # Not `>`: a difference that is no number is refused as well.
        if not (check.difference <= bound and check.equal >= EQUAL):
            raise DataError(
                f"the exported file is not the network: on {check.images} images of {check.height}×{check.width} their scores "
                f"differ by {check.difference:.3g} (at most {bound:.3g}) and {check.equal:.2%} of the labels are equal (at least "
                f"{EQUAL:.1%}): nothing was written. Choose another --opset or --format"
            )


def timed(deployed: Deployed, program: Program, size: tuple[int, int], *, repeats: int) -> Timing:
    """Median time of one image in the network and in the file, in turns, after one pass each to warm up.

    Args:
        deployed: the network.
        program: the file.
        size: height and width of the image.
        repeats: passes to time, at least 1.
    """
    image = deployed.given(pictures(1, *size))
    seconds: dict[str, list[float]] = {"network": [], "file": []}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, run in (("network", deployed), ("file", program)):
                start = time.perf_counter()
                run(image)
                seconds[name].append(time.perf_counter() - start)
    return Timing(*size, *(median(found[1:]) for found in seconds.values()))


def calibration_pictures(
    source: SegmentationSet | Path, size: tuple[int, int] | None, *, limit: int
) -> Iterator[UInt8[Tensor, "1 3 H W"]]:
    """Images, spread evenly over a domain or a folder, as a network sees them when it is scored.

    Args:
        source: the domain, or a folder of images without labels.
        size: height and width that each is brought to; its own where there is none.
        limit: how many, at most.

    Raises:
        UsageError, DataError: there is no image, or one cannot be read.
    """
    read: Callable[[int], NDArray[np.uint8]]
    if isinstance(source, Path):
        files = [found.path for found in find_images([source])]
        read, total = lambda number: read_rgb(files[number]), len(files)
    else:
        read, total = lambda number: source.read(number).image, len(source)
    for number in range(0, total, max(1, -(-total // limit))):
        image = torch.from_numpy(read(number)).permute(2, 0, 1)
        if size is not None:
            image = v2.functional.resize(image, list(size), antialias=True)
        yield image[None].contiguous()


def quantise(content: bytes, calibration: Iterable[Shaped[Tensor, "B 3 H W"]]) -> bytes:
    """An ONNX file whose convolutions compute in 8-bit integers: weights by channel, activations by what they are in images.

    Static quantisation with QDQ nodes (ONNX Runtime). Norms, style layers and prototypes stay in single precision, see
    `kept_precise`.

    Args:
        content: of the file in single precision.
        calibration: images as the file wants them.

    Raises:
        UsageError: the packages for ONNX are not installed.
        DataError: there is no image.
    """
    onnx, _ = _packages()
    quantization = importlib.import_module("onnxruntime.quantization")
    model = onnx.load_from_string(content)
    given = iter(calibration)
    first = next(given, None)
    if first is None:
        raise DataError("there is no image to calibrate with: name a domain or a folder that has some")
    images, name = chain([first], given), model.graph.input[0].name

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, Any] | None:
            image = next(images, None)
            return None if image is None else {name: image.numpy()}

    with TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            model,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", *BETWEEN],
            nodes_to_exclude=kept_precise(model.graph),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # The mean of the images' extremes: a single bright pixel would stretch the 256 steps for all.
            extra_options={"CalibMovingAverage": True},
        )
        smaller = onnx.load(path)
    del smaller.metadata_props[:]
    smaller.metadata_props.extend(model.metadata_props)
    smaller.metadata_props.add(key="precision", value=json.dumps("int8"))
    least_ir_version(smaller)
    result: bytes = smaller.SerializeToString()
    return result


def kept_precise(graph: Any) -> list[str]:
    """Names of the nodes of an ONNX graph that compute in single precision, of the kinds that could do otherwise.

    8 bits are for convolutions and for what lies between them. A sum in a norm or a style layer would lose the small
    variances that it is then divided by, and the last upsampling the small differences between the classes.
    """
    feeds: set[str] = set()  # values that lead to a convolution
    for node in reversed(graph.node):
        if node.op_type == "Conv" or feeds.intersection(node.output):
            feeds.update(node.input)
    small: set[str] = set()  # values of 8 bits
    kept = []
    for node in graph.node:
        # Sizes, bounds and weights are constants, or whole numbers that no convolution feeds.
        given = node.input[:1] if node.op_type in ("Resize", "Clip") else node.input
        between = node.op_type in BETWEEN and all(name in small for name in given) and feeds.intersection(node.output)
        if node.op_type == "Conv" or between:
            small.update(node.output)
        elif node.op_type in BETWEEN:
            kept.append(node.name)
    return kept


class FileNetwork(nn.Module):
    """An exported file as a network that the evaluator scores.

    Labels count as scores of one for the chosen class and zero for the others.

    Args:
        program: the file.
        kind: whether it answers scores or labels.
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
        if self.kind == "labels":
            fits = answer.ndim == 3 and int(answer.max()) < self.num_classes
        else:
            fits = answer.ndim == 4 and answer.shape[1] == self.num_classes
        if not fits:
            raise DataError(
                f"the file answers with {self.kind} of the shape {tuple(answer.shape)}, and not of the {self.num_classes} "
                "classes that it says to have: export the network anew"
            )
        if self.kind == "labels":
            answer = F.one_hot(answer.long(), self.num_classes).movedim(-1, 1).float()
        return SegOutput(answer)


def score(
    program: Program,
    deployed: Deployed,
    domain: SegmentationSet,
    data: DataConfig,
    *,
    num_classes: int,
    batch_size: int = 1,
    limit: int = 0,
) -> evaluator.DomainResult:
    """What an exported file makes of a domain, by the evaluator and on the images that score a network.

    Args:
        program: the file.
        deployed: what it was made from.
        domain: labelled images.
        data: size of the images.
        num_classes: K.
        batch_size: images that the file gets together.
        limit: score so many images at most; 0 for all.

    Raises:
        DataError: an image cannot be read.
    """
    return evaluator.evaluate(
        FileNetwork(program, kind=deployed.kind, pixels=deployed.pixels, num_classes=num_classes),
        evaluation_batches(domain, data, domain=0, batch_size=batch_size, limit=limit),
        num_classes=num_classes,
    )


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
