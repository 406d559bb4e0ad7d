"""OpenVINO: graphs compiled for the processor, in f32, bf16 or, calibrated by NNCF, int8."""

import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spcnet.errors import DataError, UsageError
from spcnet.inference.engines.cache import Store
from spcnet.inference.engines.graph import Graph, Program, Trunk, missing_package, quiet


class OpenVINO:
    """Compiles graphs with OpenVINO, with as many threads as torch has.

    Args:
        precision: f32, bf16 or int8.
        calibration: of int8, see `spcnet.inference.engines.Calibration`.
        device: must be the processor.

    Raises:
        UsageError: a package is not installed, or the device or the processor cannot compute so.
    """

    def __init__(self, precision: str, calibration: Any, device: torch.device) -> None:
        try:
            import openvino
            from openvino.frontend import FrontEndManager  # noqa: F401
        except ImportError as error:
            raise missing_package("openvino", error) from error
        if device.type != "cpu":
            raise UsageError(
                f"the engine openvino computes on the processor, and the device is {device.type}: choose cpu"
            )
        self.package, self.precision, self.calibration = openvino, precision, calibration
        self.name, self.split = "openvino", precision != "f32"
        self.core = openvino.Core()
        able = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision != "f32" and precision.upper() not in able:
            raise UsageError(
                f"the precision is {precision}, which this processor does not compute in ({', '.join(sorted(able))}): choose f32"
            )
        if precision == "int8":
            _nncf()

    def program(self, graph: Graph, store: Store, about: Mapping[str, Any]) -> Program:
        """A graph ready to run; what is stored is its compiled form."""
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" and not graph.precise else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        key = {
            **about,
            **settings,
            "engine": "openvino",
            "version": self.package.get_version(),
            "device": [
                self.core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
            ],
            "precision": "f32" if graph.precise else self.precision,
            "calibration": None if self.calibration is None or graph.precise else self.calibration.name,
        }

        def compiled() -> bytes:
            stream = io.BytesIO()
            self.core.compile_model(self._converted(graph), "CPU", settings).export_model(stream)
            return stream.getvalue()

        def load(content: bytes) -> Program:
            request = self.core.import_model(io.BytesIO(content), "CPU", settings).create_infer_request()
            shapes = [tuple(one.shape) for one in request.get_compiled_model().outputs]

            def run(*given: Tensor) -> Sequence[Tensor]:
                # Results are written where they stay, so that each call has memory of its own.
                values = [np.empty(shape, np.float32) for shape in shapes]
                for place, value in enumerate(values):
                    request.set_output_tensor(place, self.package.Tensor(value, shared_memory=True))
                request.infer([one.contiguous().numpy() for one in given], share_inputs=True, share_outputs=True)
                return [torch.from_numpy(value) for value in values]

            return run

        return store.get(key, compiled, load)

    def _converted(self, graph: Graph) -> Any:
        """A graph in OpenVINO's own form."""
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        # What `openvino.convert_model` does, without its messages to the maker.
        frontend = FrontEndManager().load_by_framework("pytorch")
        with quiet():
            decoder = TorchFXPythonDecoder.from_exported_program(graph.exported())  # must outlive the conversion
            model = frontend.convert(frontend.load(decoder))
            model.reshape(dict(zip(model.inputs, (list(one.shape) for one in graph.inputs), strict=True)))
            return self._quantised(model, graph) if self.precision == "int8" and not graph.precise else model

    def _quantised(self, model: Any, graph: Graph) -> Any:
        nncf = _nncf()
        assert self.calibration is not None
        shape = graph.inputs[0].shape
        images = [
            F.interpolate(image.float(), shape[2:], mode="bilinear").expand(shape).contiguous().numpy()
            for whole in self.calibration.images()
            for image in whole.split(1)
        ]
        if not images:
            raise DataError("there is no image to calibrate int8 with: name a domain or a folder that has some")
        assert isinstance(graph.module, Trunk)
        transformer = hasattr(graph.module.network.backbone, "patch_size")
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        )


def _nncf() -> Any:
    """The package nncf, which sends no messages to its maker.

    Raises:
        UsageError: it is not installed.
    """
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        import nncf
    except ImportError as error:
        raise missing_package("openvino", error) from error
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
