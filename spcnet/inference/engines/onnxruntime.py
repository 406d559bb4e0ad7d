"""ONNX Runtime: the graph on the processor, on a GPU, or in TensorRT through its provider."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spcnet.errors import UsageError, one_line
from spcnet.inference.engines.cache import Store
from spcnet.inference.engines.graph import Graph, Program, missing_package, quiet


class ONNXRuntime:
    """Runs graphs in ONNX Runtime, on a processor with as many threads as torch has.

    Args:
        device: cpu, or cuda for its CUDA provider.
        tensorrt: compute in TensorRT, whose compiled form it keeps in the cache.
        cache: folder of compiled networks.

    Raises:
        UsageError: a package is not installed, or it has no provider for the device.
    """

    split = False

    def __init__(self, device: torch.device, *, tensorrt: bool, cache: Path | None) -> None:
        try:
            for name in ("onnx", "onnxscript"):  # torch's exporter writes with them
                importlib.import_module(name)
            self.package = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise missing_package("onnx", error) from error
        self.name = "tensorrt" if tensorrt else "onnxruntime"
        kinds = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        self.provider = "TensorrtExecutionProvider" if tensorrt else kinds.get(device.type, device.type)
        able = self.package.get_available_providers()
        if self.provider not in able:
            raise UsageError(
                f"the engine {self.name} needs ONNX Runtime's {self.provider}, and the one "
                f"that is installed has {', '.join(able)}: pip install onnxruntime-gpu on a machine with an NVIDIA GPU"
                f"{' and TensorRT' if tensorrt else ''}, or choose the engine torch"
            )
        self.options: dict[str, Any] = {}
        if tensorrt and cache is not None:
            self.options = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache / "tensorrt")}

    def program(self, graph: Graph, store: Store, about: Mapping[str, Any]) -> Program:
        """A graph ready to run; what is stored is its ONNX file."""
        key = {**about, "engine": self.name, "version": self.package.__version__, "onnx": _version("onnx")}
        return store.get(key, lambda: _converted(graph), self._load)

    def _load(self, content: bytes) -> Program:
        settings = self.package.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        session = self.package.InferenceSession(content, settings, providers=[(self.provider, self.options)])
        if self.provider not in session.get_providers():
            raise UsageError(
                f"ONNX Runtime has {self.provider}, but its libraries do not load here: install what its version needs, or "
                "choose the engine torch"
            )
        names = [one.name for one in session.get_inputs()]

        def run(*given: Tensor) -> Sequence[Tensor]:
            try:
                results = session.run(None, {name: one.numpy() for name, one in zip(names, given, strict=True)})
            except Exception as error:  # the runtime's errors have no common base
                raise UsageError(
                    f"ONNX Runtime cannot run the network ({one_line(error)}): choose the engine torch"
                ) from error
            return [torch.from_numpy(one) for one in results]

        return run


def _converted(graph: Graph) -> bytes:
    with quiet(), torch.no_grad():
        program = torch.onnx.export(graph.exported(), dynamo=True, verbose=False)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _version(package: str) -> str:
    return str(importlib.import_module(package).__version__)
