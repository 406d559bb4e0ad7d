"""Programs that run a network, behind one call: torch, ONNX Runtime, OpenVINO, TensorRT.

| engine | runs | precision |
|---|---|---|
| `torch` | the network as it is | f32, bf16 (autocast) |
| `fused` | the network with batch norms folded and channels last (`spcnet.inference.fast`) | f32 |
| `onnxruntime` | its graph in ONNX Runtime | f32 |
| `openvino` | its graph in OpenVINO, on a processor | f32, bf16, int8 (NNCF) |
| `tensorrt` | its graph in ONNX Runtime's TensorRT provider, on an NVIDIA GPU | f32 |

In bf16 and int8 the classifier stays in single precision: the cosines of the prototype head are near one, where bfloat16
knows a few steps. What a network tells beside the scores (statistics of styles, λ, embeddings) comes out of every engine.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.errors import UsageError, unknown_name_error
from spcnet.inference.engines.cache import cache_folder
from spcnet.inference.engines.graph import CompileError, GraphNetwork
from spcnet.inference.fast import fused
from spcnet.models.adapters import merged
from spcnet.models.network import Segmentor
from spcnet.numerics import keep_freed_memory
from spcnet.types import KnownStyles, Network, SegOutput

EngineName = Literal["auto", "torch", "fused", "onnxruntime", "openvino", "tensorrt"]
"""auto: on a processor `openvino` where it is installed, else `fused`; on other devices `torch`."""
Precision = Literal["f32", "bf16", "int8"]

PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "torch": ("f32", "bf16"),
    "fused": ("f32",),
    "onnxruntime": ("f32",),
    "openvino": ("f32", "bf16", "int8"),
    "tensorrt": ("f32",),
}
"""What each engine can compute in."""


class Calibration(NamedTuple):
    """Images that show how large activations are, for int8."""

    name: str
    """Tells them from others; part of the name under which a compiled network is cached."""
    images: Callable[[], Iterator[Float[Tensor, "B 3 H W"]]]
    """Gives them, normalised, of the sizes that the network will see."""


@dataclass(frozen=True)
class EngineOptions:
    """Which program runs a network, and how.

    Raises:
        UsageError: there is no such engine or precision, or they do not go together.
    """

    name: EngineName = "auto"
    precision: Precision = "f32"
    calibration: Calibration | None = None
    """For int8."""
    cache: Path | None = field(default_factory=cache_folder)
    """Folder of compiled networks; None compiles each time."""

    def __post_init__(self) -> None:
        if self.name not in get_args(EngineName):
            raise unknown_name_error(self.name, get_args(EngineName), "engine")
        if self.precision not in get_args(Precision):
            raise unknown_name_error(self.precision, get_args(Precision), "precision")
        able = PRECISIONS.get(self.name, get_args(Precision))
        if self.precision not in able:
            raise UsageError(
                f"the engine {self.name} computes in {' or '.join(able)}, and the precision is {self.precision}: choose "
                f"another, or the engine {'openvino' if self.precision == 'int8' else 'torch or openvino'}"
            )
        if (self.calibration is not None) != (self.precision == "int8"):
            raise UsageError(
                "int8 needs images to calibrate with: give calibration"
                if self.calibration is None
                else f"calibration is for int8, and the precision is {self.precision}: leave it out"
            )


PREFERRED: tuple[str, ...] = ("openvino", "fused", "torch")
"""What `auto` takes on a processor: the first that is installed and computes in the precision."""


class Running:
    """A network as an engine runs it, called like the network itself.

    Where the engine was chosen by `auto` and cannot compile the network, a warning says so and the next one runs it.

    Args:
        network: in evaluation mode, on the device.
        options: which engine, and how.
        device: where the images are.

    Raises:
        UsageError: the engine is not installed, does not compute on such a device, or takes no network of this kind.
    """

    def __init__(self, network: nn.Module, options: EngineOptions, device: torch.device) -> None:
        self.network, self.options, self.device = network, options, device
        self.precision = options.precision
        choices: list[str] = [options.name] if options.name != "auto" else self._choices()
        if not choices:
            raise UsageError(
                f"the precision is {options.precision}, which takes OpenVINO on a processor: choose f32 or bf16"
            )
        self.name: str = choices[0]
        self._others: list[str] = choices[1:]
        self.forward = self._start()

    def __call__(self, image: Float[Tensor, "B 3 H W"]) -> SegOutput:
        """What the network says of images."""
        try:
            output: SegOutput = self.forward(image)
        except CompileError as error:
            if not self._others:
                raise
            warnings.warn(f"{error}. The engine {self._others[0]} runs it instead", stacklevel=2)
            self.name = self._others.pop(0)
            self.forward = self._start()
            return self(image)
        return output

    def _choices(self) -> list[str]:
        if self.device.type != "cpu" or not isinstance(self.network, Segmentor):
            return ["torch"] if self.precision in PRECISIONS["torch"] else []
        installed = importlib.util.find_spec("openvino") is not None or self.precision == "int8"
        able = [name for name in PREFERRED if self.precision in PRECISIONS[name]]
        return [name for name in able if name != "openvino" or installed]

    def _start(self) -> Callable[[Tensor], SegOutput]:
        network, options = self.network, self.options
        if self.name == "torch":
            # Low-rank updates stay apart where the network is wanted as it is.
            plain = merged(network) if options.name == "auto" and isinstance(network, Segmentor) else network
            return plain if self.precision == "f32" else _autocast(plain, self.device)
        if not isinstance(network, Segmentor):
            raise UsageError(
                f"the engine {self.name} runs networks of this package's methods alone: choose the engine torch"
            )
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.name == "fused":
            return fused(network)
        if self.name == "openvino":
            from spcnet.inference.engines.openvino import OpenVINO

            return GraphNetwork(network, OpenVINO(self.precision, options.calibration, self.device), options.cache)
        from spcnet.inference.engines.onnxruntime import ONNXRuntime

        runtime = ONNXRuntime(self.device, tensorrt=self.name == "tensorrt", cache=options.cache)
        return GraphNetwork(network, runtime, options.cache)


class EngineNetwork(Network):
    """A network that an engine runs, as a module that the evaluator takes.

    Args:
        network: in evaluation mode, on the device.
        options: which engine, and how.
        device: where the images are.

    Raises:
        UsageError: as `Running`.
    """

    def __init__(self, network: Segmentor, options: EngineOptions, device: torch.device) -> None:
        super().__init__()
        self._network, self.running = [network], Running(network, options, device)

    def known_styles(self) -> dict[str, KnownStyles]:
        """Those of the network."""
        return self._network[0].known_styles()

    def prototypes(self) -> Float[Tensor, "K M D"] | None:
        """Those of the network."""
        return self._network[0].prototypes()

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> SegOutput:
        """What the network says of images."""
        return self.running(image)


def _autocast(network: nn.Module, device: torch.device) -> Callable[[Tensor], SegOutput]:
    """The network with its convolutions in bfloat16; what must not be stays in single precision by itself."""
    network = network.to(memory_format=torch.channels_last)

    def forward(image: Float[Tensor, "B 3 H W"]) -> SegOutput:
        with torch.autocast(device.type, torch.bfloat16):
            output: SegOutput = network(image)
        return output._replace(logits=output.logits.float())

    return forward


__all__ = ["PRECISIONS", "Calibration", "EngineName", "EngineNetwork", "EngineOptions", "Precision", "Running"]
