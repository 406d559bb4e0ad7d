"""What a file holds: a network that prepares its image itself, as a graph of operators and as a file of torch."""

import copy
import dataclasses
import importlib
import importlib.metadata
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from spcnet.checkpoint import ModelCard
from spcnet.errors import UsageError
from spcnet.labels import IGNORE, label_space
from spcnet.models.adapters import merged
from spcnet.models.backbones import Backbone
from spcnet.models.network import MIN_SIZE, Segmentor

Format = Literal["onnx", "torch-export"]


Kind = Literal["logits", "labels"]


Pixels = Literal["uint8", "float32"]


TRACED = (2, 96, 160)
"""Images, height and width that the network is exported with; the file works at any other."""


METADATA_FILE = "spcnet.json"
"""Name of the metadata within a file of torch."""


Program = Callable[[Tensor], Tensor]
"""A file made ready to run: images in, logits or labels out."""


class Deployed(nn.Module):
    """What a file holds: a network with the preparation of the image before it and the choice of the class after it.

    Args:
        network: is copied; what only training needs is left out, and low-rank updates are merged.
        card: mean and deviation of the images.
        kind: `logits` of each pixel, `labels` for its class.
        pixels: type of the images where they come as 0..255 and are normalised in here; None for normalised images.
        size: height and width of the images, where the backbone takes those of one size alone once it is exported; by
            default those that it was trained on.

    Raises:
        UsageError: there is no such size, or the file takes images of any.
    """

    scale: Tensor
    shift: Tensor

    size: tuple[int, int] | None
    """Height and width of the images; None for any."""
    thresholds: Tensor | None
    """Of each class the confidence below which its pixels become void; None where all keep their class."""

    def __init__(
        self,
        network: Segmentor,
        card: ModelCard,
        *,
        kind: Kind = "logits",
        pixels: Pixels | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(merged(network)).cpu().float().eval()
        self.network.drop_training_parts()
        self.network.decoder = self.network.decoder.folded()
        self.size = _fixed_size(self.network.backbone, card, size)
        if self.size is not None:
            self.network.backbone.bake(*self.size)
        self.kind, self.pixels = kind, pixels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (card.mean, card.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        calibration = card.calibration
        self.temperature = 1.0 if calibration is None else calibration.temperature
        values = None if calibration is None or kind == "logits" else calibration.thresholds
        thresholds = None if values is None else torch.tensor(values)
        self.register_buffer("thresholds", thresholds, persistent=False)
        self.eval()

    def forward(self, image: Shaped[Tensor, "B 3 H W"]) -> Shaped[Tensor, "B ..."]:
        """Logits (B×K×H×W, float32) or the class of each pixel (B×H×W, uint8; 255 below the class's threshold)."""
        logits = self.logits(image)
        return logits if self.kind == "logits" else self.classes(logits).to(torch.uint8)

    def classes(self, logits: Float[Tensor, "B K H W"]) -> Int[Tensor, "B H W"]:
        """The class of each pixel; 255 where the calibrated confidence is below the class's threshold."""
        classes = logits.argmax(dim=1)
        if self.thresholds is None:
            return classes
        confidence = (logits / self.temperature).softmax(dim=1).amax(dim=1)
        return torch.where(confidence < self.thresholds[classes], IGNORE, classes)

    def logits(self, image: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H W"]:
        """Logits, whatever the file is to answer."""
        if self.pixels is not None:
            image = torch.addcmul(self.shift, image.float(), self.scale)
        logits: Tensor = self.network(image).logits
        return logits

    def given(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Shaped[Tensor, "B 3 H W"]:
        """RGB bytes as this network wants its images."""
        if self.pixels is None:
            return torch.addcmul(self.shift, pixels.float(), self.scale)
        return pixels if self.pixels == "uint8" else pixels.float()


def _fixed_size(backbone: Backbone, card: ModelCard, size: tuple[int, int] | None) -> tuple[int, int] | None:
    if not backbone.fixed_size:
        if size is not None:
            raise UsageError(
                f"size is {list(size)}, but a file of {card.model['backbone']} takes images of any size: leave it out"
            )
        return None
    found = size or card.size
    if found is None or min(found) < MIN_SIZE:
        raise UsageError(
            f"an exported {card.model['backbone']} takes images of one size alone, and "
            + (
                "the network was trained on images of any"
                if found is None
                else f"{list(found)} is less than {MIN_SIZE} pixels"
            )
            + ": give the size, for example --size [512,1024]"
        )
    return found


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
        **({} if deployed.size is None else {"fixed_size": list(deployed.size)}),
        "mean": list(card.mean),
        "std": list(card.std),
        "normalise": deployed.pixels is not None,
        "input": {"name": "image", "type": deployed.pixels or "float32", "layout": layout},
        "output": {
            "name": deployed.kind,
            "type": "uint8" if deployed.kind == "labels" else "float32",
            "layout": answer,
        },
        **({} if card.calibration is None else {"calibration": dataclasses.asdict(card.calibration)}),
        "format": format,
        **({"opset": opset} if format == "onnx" else {"torch": torch.__version__}),
        "licence": licence
        or f"code: Apache-2.0; weights: subject to the terms of the training data ({', '.join(card.domains)})",
    }


def traced(deployed: Deployed) -> torch.export.ExportedProgram:
    """The network as a graph of operators, with batch, height and width left free; the sides where they are not fixed."""
    images, height, width = (TRACED[0], *(deployed.size or TRACED[1:]))
    pixels = deployed.given(torch.zeros(images, 3, height, width, dtype=torch.uint8))
    sides = {2: torch.export.Dim("height", min=MIN_SIZE), 3: torch.export.Dim("width", min=MIN_SIZE)}
    free = {
        0: torch.export.Dim("batch", min=1),
        **({} if deployed.size else sides),
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


def torch_program(content: bytes) -> Program:
    """Make a file of torch ready to run. Only for what this process has written: torch's loader trusts its file."""
    module = torch.export.load(io.BytesIO(content)).module()

    def run(image: Tensor) -> Tensor:
        with torch.no_grad():
            answer: Tensor = module(image)
        return answer

    return run
