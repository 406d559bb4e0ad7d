"""ONNX files whose convolutions compute in 8-bit integers, and what that costs in mIoU."""

import importlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from spcnet.config import DataConfig
from spcnet.data.datasets import SegmentationSet
from spcnet.data.loading import evaluation_batches
from spcnet.errors import DataError
from spcnet.evaluation import evaluator
from spcnet.export.deployment import Deployed, Program
from spcnet.export.onnx_files import FileNetwork, least_ir_version, packages
from spcnet.inference.engines.graph import quiet
from spcnet.inference.images import find_images, read_rgb

BETWEEN = ("Add", "Clip", "Concat", "MaxPool", "Relu", "Resize")
"""Kinds of ONNX nodes that compute in 8 bits where they stand between convolutions."""


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
        files = [one.path for one in find_images([source])]
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
    onnx, _ = packages()
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
    """What an exported file makes of a domain, by the evaluator and on the images that a network is evaluated on.

    Args:
        program: the file.
        deployed: what it was made from.
        domain: labelled images.
        data: size of the images.
        num_classes: K.
        batch_size: images that the file gets together.
        limit: largest number of images to evaluate; 0 for all.

    Raises:
        DataError: an image cannot be read.
    """
    return evaluator.evaluate(
        FileNetwork(program, kind=deployed.kind, pixels=deployed.pixels, num_classes=num_classes),
        evaluation_batches(domain, data, domain=0, batch_size=batch_size, limit=limit),
        num_classes=num_classes,
    )
