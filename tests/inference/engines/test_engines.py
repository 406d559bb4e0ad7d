"""Every engine says what torch says of a network: scores, λ, statistics of styles, embeddings."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spcnet.config import ModelConfig
from spcnet.errors import UsageError
from spcnet.inference import engines
from spcnet.inference.engines import Calibration, EngineNetwork, EngineOptions, Running, cache, graph
from spcnet.inference.engines.cache import Store
from spcnet.inference.ood import OODDetector
from spcnet.inference.predictor import Predictor
from spcnet.labels import label_space
from spcnet.methods import METHODS
from spcnet.models.network import Segmentor
from spcnet.types import SegOutput

CPU = torch.device("cpu")
INSTALLED = {
    name: importlib.util.find_spec(name) is not None for name in ("openvino", "nncf", "onnxruntime", "onnxscript")
}
HAVE = {
    "openvino": INSTALLED["openvino"],
    "onnxruntime": INSTALLED["onnxruntime"] and INSTALLED["onnxscript"],
}


def needs(engine: str) -> None:
    if not HAVE.get(engine, True):
        pytest.skip(f"{engine} is not installed")


def network(method: str = "spcnet", backbone: str = "timm/test_resnet", **options: Any) -> Segmentor:
    torch.manual_seed(0)
    stride = None if backbone.startswith("timm/") else 16
    config = ModelConfig(backbone, output_stride=stride, weights=None, **options)
    built = METHODS[method].build(config, num_classes=7, num_domains=2)
    return built.eval().requires_grad_(False)


def calibration(*size: int) -> Calibration:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, *size, generator=generator)
    return Calibration("three of noise", lambda: iter(images.split(1)))


def parts(output: SegOutput) -> list[Tensor]:
    stats = [part for style in output.styles for part in style]
    weights = [layer for layers in output.figures.values() for layer in layers]
    return [output.logits, *stats, *weights, *([] if output.embedding is None else [output.embedding])]


def assert_says_the_same(found: SegOutput, expected: SegOutput, tolerance: float) -> None:
    assert len(parts(found)) == len(parts(expected))
    for one, other in zip(parts(found), parts(expected), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert float((one - other).abs().max() / other.abs().max()) < tolerance


PAIRS = [
    ("openvino", "spcnet", {}),
    ("fused", "spcnet", {}),
    *(
        pytest.param(engine, method, options, marks=pytest.mark.slow)
        for engine, method, options in [
            ("onnxruntime", "spcnet", {}),
            ("openvino", "isw", {"backbone": "resnet18"}),
            ("openvino", "mixstyle", {}),
            ("openvino", "spcnet", {"backbone": "mobilenet_v2"}),
            ("openvino", "deeplabv3plus", {"backbone": "timm/test_vit", "decoder": "linear"}),
            ("openvino", "spcnet", {"backbone": "timm/test_convnext", "decoder": "segformer"}),
            ("openvino", "deeplabv3plus", {"decoder": "mask2former"}),
            ("openvino", "deeplabv3plus", {"backbone": "timm/test_vit", "decoder": "eomt"}),
            ("onnxruntime", "deeplabv3plus", {"backbone": "timm/test_vit", "decoder": "linear"}),
        ]
    ),
]


@pytest.mark.parametrize(("engine", "method", "options"), PAIRS)
def test_single_precision_says_what_torch_says_at_odd_sizes(
    engine: str, method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    needs(engine)
    plain = network(method, **options)
    runs = Running(plain, EngineOptions(engine, cache=tmp_path), CPU)  # type: ignore[arg-type]
    image = torch.randn(2, 3, 65, 97)
    assert_says_the_same(runs(image), plain(image), 1e-4)


@pytest.mark.parametrize("engine", [pytest.param("openvino", marks=pytest.mark.slow), "torch"])
def test_bf16_keeps_the_labels_and_the_prototype_head_precise(engine: str) -> None:
    needs(engine)
    plain, image = network(), torch.randn(1, 3, 64, 96)
    try:
        found = Running(plain, EngineOptions(engine, "bf16", cache=None), CPU)(image)  # type: ignore[arg-type]
    except UsageError as error:
        pytest.skip(str(error))
    expected = plain(image)
    assert_says_the_same(found, expected, 0.05)
    assert found.embedding is not None
    # bfloat16 knows nothing between 0.996 and 1: lengths would differ by more.
    torch.testing.assert_close(found.embedding.norm(dim=1), torch.ones_like(found.embedding[:, 0]), atol=1e-5, rtol=0)
    assert (found.logits != found.logits.bfloat16().float()).any()


@pytest.mark.slow
def test_int8_is_calibrated_and_near() -> None:
    needs("openvino")
    if not INSTALLED["nncf"]:
        pytest.skip("nncf is not installed")
    plain, image = network(), torch.randn(1, 3, 64, 96)
    found = Running(plain, EngineOptions("openvino", "int8", calibration(64, 96), cache=None), CPU)(image)
    assert_says_the_same(found, plain(image), 0.2)
    assert (found.logits - plain(image).logits).abs().max() > 1e-4  # it is quantised


def test_what_an_earlier_image_gave_stays_when_the_next_one_comes() -> None:
    needs("openvino")
    runs = Running(network(), EngineOptions("openvino", cache=None), CPU)
    first, second = torch.randn(2, 1, 3, 64, 64)
    before = runs(first)
    copies = [part.clone() for part in parts(before)]
    runs(second)
    assert all(torch.equal(part, copy) for part, copy in zip(parts(before), copies, strict=True))


# What is kept


class Counting:
    """Compiles nothing, and counts."""

    name, split = "counting", True

    def __init__(self) -> None:
        self.compiled = 0

    def program(self, part: graph.Graph, store: Store, about: Any) -> graph.Program:
        self.compiled += 1
        return part.module


def test_few_shapes_are_kept_and_the_classifier_is_apart() -> None:
    plain, compiler = network(), Counting()
    runs = graph.GraphNetwork(plain, compiler, None)
    for side in (40, 41, 42, 43, 40, 44, 40):
        image = torch.randn(1, 3, side, 40)
        assert_says_the_same(runs(image), plain(image), 1e-4)
    assert compiler.compiled == 2 * 5  # two graphs each, and 40 was never forgotten
    assert len(runs._programs) == graph.MOST_SHAPES


def test_a_stored_form_is_taken_again_and_made_anew_where_it_is_damaged_or_of_another_version(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"compiled"

    def get(store: Store, version: str = "1") -> str:
        return store.get({"version": version}, make, bytes.decode)

    store = Store(tmp_path, plain := network())
    assert get(store) == get(Store(tmp_path, plain)) == "compiled"
    assert len(made) == 1
    (file,) = tmp_path.iterdir()
    for damaged in (b"", b"\n", file.read_bytes()[:-1], file.read_bytes() + b"x", b"[]\ncompiled"):
        file.write_bytes(damaged)
        assert get(store) == "compiled"
    assert len(made) == 6
    assert get(store, "2") == "compiled"
    other = network()
    other.style_layers[0].sharpness = 2.0
    get(Store(tmp_path, other))
    next(other.backbone.parameters()).view(-1)[0] += 1
    get(Store(tmp_path, other))
    assert len(made) == 9


def test_a_form_that_the_engine_refuses_is_made_anew(tmp_path: Path) -> None:
    contents = iter([b"old", b"new"])
    store = Store(tmp_path, network())
    store.get({}, lambda: next(contents), bytes)

    def load(content: bytes) -> bytes:
        if content == b"old":
            raise RuntimeError("a version that I do not know")
        return content

    assert store.get({}, lambda: next(contents), load) == b"new"


def test_the_least_recently_used_forms_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 500)
    store = Store(tmp_path, network())
    for number in range(5):
        store.get({"number": number}, lambda: bytes(100), bytes)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 500


def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Store(tmp_path / "file" / "engines", network()).get({}, lambda: b"made", bytes) == b"made"


def test_a_compiled_network_is_loaded_and_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("openvino")
    plain, image = network(), torch.randn(1, 3, 64, 64)
    first = Running(plain, EngineOptions("openvino", cache=tmp_path), CPU)(image)
    monkeypatch.setattr(torch.export, "export", None)
    again = Running(plain, EngineOptions("openvino", cache=tmp_path), CPU)(image)
    torch.testing.assert_close(first.logits, again.logits, rtol=0, atol=0)


# Which engine


def test_auto_takes_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PREFERRED", ("openvino", "fused", "torch"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plain = network()
    assert Running(plain, EngineOptions(), CPU).name == "fused"
    assert Running(plain, EngineOptions(precision="bf16"), CPU).name == "torch"
    assert Running(torch.nn.Identity(), EngineOptions(), CPU).name == "torch"
    if HAVE["openvino"]:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
        assert Running(plain, EngineOptions(), CPU).name == "openvino"


def test_auto_goes_on_with_the_next_engine_where_one_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("openvino")
    monkeypatch.setattr(engines, "PREFERRED", ("openvino", "fused"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("an operator\nthat nobody knows")

    monkeypatch.setattr(torch.export, "export", broken)
    plain, image = network(), torch.randn(1, 3, 64, 64)
    runs = Running(plain, EngineOptions(cache=None), CPU)
    with pytest.warns(UserWarning, match="openvino cannot compile the network .an operator that nobody knows"):
        found = runs(image)
    assert runs.name == "fused"
    torch.testing.assert_close(found.logits, plain(image).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="choose the engine torch"):
        Running(plain, EngineOptions("openvino", cache=None), CPU)(image)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "fused", "precision": "bf16"}, "fused computes in f32, and the precision is bf16"),
        ({"name": "openvino", "precision": "int8"}, "give calibration"),
        ({"name": "openvino", "calibration": Calibration("", lambda: iter(()))}, "leave it out"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EngineOptions(**options)


@pytest.mark.parametrize(
    ("engine", "missing", "extra"),
    [("openvino", "openvino", "openvino"), ("onnxruntime", "onnxruntime", "onnx"), ("tensorrt", "onnxruntime", "onnx")],
)
def test_an_engine_that_is_not_installed_names_the_extra(
    engine: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(UsageError, match=rf"pip install 'spcnet\[{extra}\]'") as error:
        Running(network(), EngineOptions(engine), CPU)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_tensorrt_is_refused_where_there_is_none() -> None:
    needs("onnxruntime")
    import onnxruntime

    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is TensorRT")
    with pytest.raises(UsageError, match=r"needs ONNX Runtime's TensorrtExecutionProvider.*has .*CPU.*onnxruntime-gpu"):
        Running(network(), EngineOptions("tensorrt"), CPU)


def test_an_image_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 33"):
        graph.GraphNetwork(network(), Counting(), None)(torch.zeros(1, 3, 32, 40))


# Through the predictor


def test_a_predictor_gives_lambda_confidence_and_the_ood_score_by_every_engine(tmp_path: Path) -> None:
    needs("openvino")
    plain, space = network(), label_space("idd7")
    images = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    inputs = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 128 - 1 for image in images]
    known = ((plain(one), torch.tensor([number % 2])) for number, one in enumerate(inputs))
    detector = OODDetector.fit(plain, known, domains=["one", "two"])
    found = {}
    for engine in ("torch", "openvino"):
        options = EngineOptions(engine, cache=tmp_path)  # type: ignore[arg-type]
        predictor = Predictor(plain, space=space, device="cpu", engine=options)
        predictor.score_ood(detector)
        assert predictor.engine == engine
        found[engine] = predictor.predict(images[0], confidence=True)
    one, other = found.values()
    assert (one.class_map == other.class_map).mean() > 0.999
    np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-4)
    np.testing.assert_allclose(one.figures["style_weights"][0], other.figures["style_weights"][0], atol=1e-5)
    assert one.ood_score is not None
    assert other.ood_score is not None
    assert other.ood_score.score == pytest.approx(one.ood_score.score, abs=1e-2)


def test_an_engines_network_tells_styles_and_prototypes() -> None:
    plain = network()
    runs = EngineNetwork(plain, EngineOptions("fused"), CPU)
    assert list(runs.known_styles()) == list(plain.known_styles())
    torch.testing.assert_close(runs.prototypes(), plain.prototypes())
    assert not list(runs.parameters())
