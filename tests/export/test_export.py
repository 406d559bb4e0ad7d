"""Exported files answer as their networks do, for every method and backbone and at any size, and say what they are."""

import json
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from jaxtyping import config
from PIL import Image
from torch import nn

from spcnet import checkpoint
from spcnet import export as ex
from spcnet.checkpoint import ModelCard
from spcnet.cli import main
from spcnet.config import DataConfig, DomainSpec, HeadConfig, ModelConfig, as_dict
from spcnet.data.datasets import open_domain
from spcnet.data.loading import evaluation_batches
from spcnet.data.transforms import normalise
from spcnet.errors import DataError, UsageError
from spcnet.evaluation import evaluator
from spcnet.export import comparison, deployment, onnx_files, quantisation
from spcnet.labels import label_space
from spcnet.methods import METHODS, build_model
from spcnet.models.backbones import BACKBONES
from spcnet.models.heads import DECODERS
from spcnet.models.network import Segmentor
from tests.support.demo_networks import shortened
from tests.support.weight_files import restore

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_only.py"
SIZES = ((1, 33, 33), (2, 64, 96), (3, 47, 71))
"""The smallest, one like the training's, an odd one; none is the size that is exported with."""
SPACE = label_space("idd7")

one_backbone = [(method, "resnet18") for method in METHODS]
one_method = [(method, backbone) for backbone in BACKBONES for method in ("spcnet", "isw")]
MATRIX = list(dict.fromkeys([*one_backbone, *one_method]))
"""Every method with one backbone, every backbone with two methods."""


@pytest.fixture(scope="module", autouse=True)
def _tracing_without_checked_shapes() -> Iterator[None]:
    """While a network is traced its sizes are symbols, which are no `int` for the checks that tests run under."""
    traced = deployment.traced

    def unchecked(deployed: deployment.Deployed) -> torch.export.ExportedProgram:
        config.update("jaxtyping_disable", True)
        try:
            return traced(deployed)
        finally:
            config.update("jaxtyping_disable", False)

    deployment.traced = unchecked
    yield
    deployment.traced = traced


def made(method: str, backbone: str, decoder: str = "deeplabv3plus") -> Segmentor:
    """A network whose running statistics are not those of a new one, so that each of them counts."""
    torch.manual_seed(0)
    network = build_model(
        method,
        backbone=backbone,
        num_classes=len(SPACE),
        num_domains=2,
        auxiliary=True,
        options={"decoder": decoder},
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return network.eval()


def card_of(method: str, backbone: str, size: tuple[int, int] | None = (48, 64)) -> ModelCard:
    model = as_dict(ModelConfig(backbone=backbone, weights=None))
    return ModelCard(method, model, SPACE.name, SPACE.classes, ("streets/game", "streets/toy"), size)


def onnx_of(deployed: deployment.Deployed, card: ModelCard, graph: torch.export.ExportedProgram) -> bytes:
    return onnx_files.to_onnx(graph, deployment.describe(deployed, card, format="onnx", opset=onnx_files.OPSET))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "backbone"), MATRIX)
def test_every_method_and_backbone_answers_alike_at_any_size(method: str, backbone: str) -> None:
    card = card_of(method, backbone)
    deployed = deployment.Deployed(shortened(made(method, backbone)), card)
    graph = deployment.traced(deployed)
    for program in (graph.module(), onnx_files.onnx_program(onnx_of(deployed, card, graph))):
        with torch.no_grad():
            checks = comparison.compare(deployed, program, SIZES)
        assert [check[:3] for check in checks] == list(SIZES)
        for check in checks:
            assert check.largest > 0.1
            assert check.difference < 1e-4 * max(1, check.largest)
            assert check.equal > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("pixel_decoder", [True, False])
def test_a_head_of_masks_answers_alike_at_any_size(pixel_decoder: bool) -> None:
    head = HeadConfig(queries=8, layers=2, channels=32, pixel_decoder=pixel_decoder)
    model = ModelConfig("shufflenet_v2", decoder="mask2former", head=head, output_stride=32, weights=None)
    torch.manual_seed(0)
    network = METHODS["style_projection"].build(model, num_classes=len(SPACE), num_domains=2).eval()
    card = ModelCard(
        "style_projection", as_dict(model), SPACE.name, SPACE.classes, ("streets/game", "streets/toy"), (48, 64)
    )
    deployed = deployment.Deployed(network, card)
    program = onnx_files.onnx_program(onnx_of(deployed, card, deployment.traced(deployed)))
    with torch.no_grad():
        checks = comparison.compare(deployed, program, SIZES)
    assert [check[:3] for check in checks] == list(SIZES)
    for check in checks:
        assert check.difference < 1e-4 * check.largest
        assert check.equal > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("decoder", sorted(name for name, one in DECODERS.items() if not one.masks))
@pytest.mark.parametrize(("method", "backbone"), [("spcnet", "resnet18"), ("deeplabv3plus", "mobilenet_v2")])
def test_every_decoder_answers_alike_at_any_size(method: str, backbone: str, decoder: str) -> None:
    card = card_of(method, backbone)
    deployed = deployment.Deployed(shortened(made(method, backbone, decoder)), card)
    graph = deployment.traced(deployed)
    content = onnx_of(deployed, card, graph)
    for program in (graph.module(), onnx_files.onnx_program(content)):
        with torch.no_grad():
            checks = comparison.compare(deployed, program, SIZES)
        for check in checks:
            assert check.largest > 0.01
            assert check.difference < 1e-4 * max(1, check.largest)
            assert check.equal > 0.999
    weights = {one.name for one in onnx.load_from_string(content).graph.initializer}
    convolutions = [node for node in onnx.load_from_string(content).graph.node if node.op_type == "Conv"]
    assert all(node.input[1] in weights for node in convolutions)  # as 8 bits need it


# One file of labels that normalises its images, with its 8-bit twin, as the command writes them.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = build_model("spcnet", backbone="shufflenet_v2", num_classes=len(SPACE))
    network.load_state_dict(
        {k: v for k, v in made("spcnet", "shufflenet_v2").state_dict().items() if not k.startswith("auxiliary.")}
    )
    checkpoint.write(path, network.state_dict(), card_of("spcnet", "shufflenet_v2"))
    return path


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "model.onnx"
    options = ["--output_kind=labels", "--normalise", "--int8", "--calibration=streets/game", "--calibration_images=4"]
    assert main(["export", str(trained), f"--output={output}", *options, "--limit=3", "--repeats=1"]) == 0
    return output


def metadata_of(path: Path) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}


def test_a_file_says_what_a_user_needs(exported: Path) -> None:
    found = metadata_of(exported)
    assert found["classes"] == list(SPACE.classes)
    assert found["colors"] == [list(color) for color in SPACE.colors]
    assert (found["method"], found["backbone"], found["size"], found["opset"]) == (
        "spcnet",
        "shufflenet_v2",
        [48, 64],
        20,
    )
    assert (found["mean"], found["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert found["normalise"] is True
    assert found["input"]["type"] == "uint8"
    assert found["licence"].startswith(
        "code: Apache-2.0; weights: subject to the terms of the training data (streets/game"
    )
    assert onnx.load(exported).opset_import[0].version == 20


def test_both_files_have_the_least_format_version_of_their_operators_and_are_valid(exported: Path) -> None:
    for path in (exported, exported.with_name("model.int8.onnx")):
        model = onnx.load(path)
        assert (model.opset_import[0].version, model.ir_version) == (20, 9)
        onnx.checker.check_model(model, full_check=True)
        assert {one.key for one in model.metadata_props} >= {"classes", "opset", "spcnet"}


@pytest.mark.parametrize(("opset", "version"), [(18, 8), (19, 9), (20, 9), (21, 10), (22, 10), (23, 11), (24, 12)])
@pytest.mark.parametrize("foreign", [False, True])
def test_the_format_version_is_the_least_that_the_operators_need(opset: int, version: int, foreign: bool) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    answer = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.add(key="where", value="layer")
    domains = [
        onnx.helper.make_opsetid("", opset),
        *([onnx.helper.make_opsetid("com.microsoft", 1)] if foreign else []),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "graph", [value], [answer]), opset_imports=domains, ir_version=13
    )
    model.metadata_props.add(key="classes", value="[]")
    onnx_files.least_ir_version(model)
    assert model.ir_version == version
    assert [one.key for one in model.metadata_props] == ["classes"]
    assert len(model.graph.node[0].metadata_props) == (version >= 10)  # nodes have them from format version 10 on
    onnx.checker.check_model(model, full_check=True)


def test_batch_height_and_width_are_free_and_named(exported: Path) -> None:
    graph = onnx.load(exported).graph
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (graph.input[0], graph.output[0])
    ]
    assert shapes == [["batch", 3, "height", "width"], ["batch", "height", "width"]]


def test_the_report_lies_beside_the_file(exported: Path) -> None:
    report = json.loads(ex.report_path(exported).read_text())
    assert report["bytes"] == exported.stat().st_size
    sizes = [(check["images"], check["height"], check["width"]) for check in report["checks"]]
    assert sizes == [*comparison.CHECKED, (1, 48, 64)]
    for check in report["checks"]:
        assert check["difference"] < 1e-4
        assert check["equal"] > 0.999


def test_the_8_bit_file_is_smaller_scored_and_says_so(exported: Path) -> None:
    small = exported.with_name("model.int8.onnx")
    assert small.stat().st_size < 0.4 * exported.stat().st_size
    assert metadata_of(small) == metadata_of(exported) | {"precision": "int8"}
    files = json.loads(ex.report_path(exported).read_text())["files"]
    assert files.keys() == {exported.name, small.name}
    for name, found in files.items():
        assert found["bytes"] == (exported.parent / name).stat().st_size
        assert (found["domain"], found["images"]) == ("streets/game", 3)
        assert 0 < found["miou"] < 1
        assert found["timing"]["file"] > 0
    assert files[small.name]["checks"][-1]["equal"] > 0.5
    kinds = {node.op_type for node in onnx.load(small).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_a_file_scores_what_its_network_scores(exported: Path, trained: Path) -> None:
    network, card = restore(trained)
    data = DataConfig(size=(48, 64), space=SPACE.name, test_scenes=4, workers=0)
    domain = open_domain(DomainSpec.parse("streets/night"), data=data, space=SPACE, training=False)
    deployed = deployment.Deployed(network, card, kind="labels", pixels="uint8")
    program = onnx_files.onnx_program(exported.read_bytes())
    found = quantisation.score(program, deployed, domain, data, num_classes=len(SPACE), batch_size=2)
    batches = evaluation_batches(domain, data, domain=0, batch_size=2)
    wanted = evaluator.evaluate(network, batches, num_classes=len(SPACE))
    assert found.images == wanted.images == 4
    assert int((found.counts - wanted.counts).abs().sum()) <= 0.001 * int(wanted.counts.sum())


def test_the_example_runs_without_torch_and_spcnet(exported: Path, trained: Path, tmp_path: Path) -> None:
    photo, shown = tmp_path / "photo.png", tmp_path / "labels.png"
    pixels = comparison.pictures(1, 90, 120)[0].movedim(0, -1).numpy()
    Image.fromarray(pixels).save(photo)
    program = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'spcnet')))\n"
        f"sys.argv = {['onnx_only.py', str(exported), str(photo), str(shown)]!r}\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.rsplit(maxsplit=1)[0].strip() for line in done.stdout.splitlines()] == list(SPACE.classes)

    network, card = restore(trained)
    small = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BILINEAR)
    image = torch.from_numpy(np.array(small)).movedim(-1, 0)[None]
    with torch.no_grad():
        wanted = deployment.Deployed(network, card, kind="labels", pixels="uint8")(image)[0].numpy()
    wanted = np.asarray(Image.fromarray(wanted).resize((120, 90), Image.Resampling.NEAREST))
    with Image.open(shown) as picture:
        assert (np.asarray(picture) == wanted).mean() > 0.999
        colors = np.array(SPACE.colors, np.uint8)[np.asarray(picture)]
        assert np.array_equal(np.asarray(picture.convert("RGB")), colors)


@pytest.mark.slow
def test_a_file_of_torch_is_read_back_and_holds_no_pickle(trained: Path, tmp_path: Path) -> None:
    network, card = restore(trained)
    output = tmp_path / "model.pt2"
    written = ex.export(network, card, output, kind="labels", pixels="float32")
    assert {check.equal for check in written.checks} == {1}
    with zipfile.ZipFile(output) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    (metadata,) = (json.loads(value) for name, value in content.items() if name.endswith(deployment.METADATA_FILE))
    assert metadata["classes"] == list(SPACE.classes)
    assert metadata["input"]["type"] == "float32"
    assert "opset" not in metadata
    weights = next(json.loads(value) for name, value in content.items() if name.endswith("weights_config.json"))
    assert not any(entry["use_pickle"] for entry in weights["config"].values())
    assert not any(value[:2] in (b"\x80\x02", b"PK") for value in content.values())


# What a file is refused for


def check(**changed: float) -> comparison.Check:
    return comparison.Check(2, 64, 96, **{"difference": 1e-5, "largest": 5.0, "equal": 1.0} | changed)


@pytest.mark.parametrize("wrong", [{"difference": 0.006}, {"difference": float("nan")}, {"equal": 0.998}])
def test_a_file_that_answers_otherwise_is_refused(wrong: dict[str, float]) -> None:
    comparison.refuse_difference([check(), check(difference=0.004, equal=0.9991)])
    with pytest.raises(
        DataError, match=r"on 2 images of 64×96 .* nothing was written. Choose another --opset"
    ) as found:
        comparison.refuse_difference([check(), check(**wrong)])
    assert "\n" not in str(found.value)


def test_a_wrong_export_leaves_no_file_and_ends_with_1(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = restore(trained)[0]
    monkeypatch.setattr(ex, "traced", lambda deployed: None)
    monkeypatch.setattr(ex, "to_torch", lambda graph, metadata: b"")
    monkeypatch.setattr(ex, "torch_program", lambda content: lambda image: right(image).logits.detach() + 0.1)
    output = tmp_path / "out" / "model.pt2"
    assert main(["export", str(trained), "--format=torch-export", f"--output={output}"]) == 1
    assert "the exported file is not the network: on 1 images of 33×33" in " ".join(capsys.readouterr().err.split())
    assert not output.parent.exists()


@pytest.mark.parametrize("kind", ["labels", "logits"])
def test_a_comparison_sees_one_wrong_pixel(kind: deployment.Kind) -> None:
    deployed = deployment.Deployed(made("deeplabv3plus", "resnet18"), card_of("deeplabv3plus", "resnet18"), kind=kind)

    def program(image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            answer = deployed(image).clone()
            worst = deployed.logits(image)[0, :, 5, 7].argmin()
        if kind == "labels":
            answer[0, 5, 7] = worst
        else:
            answer[0, worst, 5, 7] += 3
        return answer

    (found,) = comparison.compare(deployed, program, [(1, 40, 40)])
    assert found.difference > 0.01
    if kind == "labels":
        assert found.equal == 1 - 1 / 1600


def test_a_comparison_refuses_another_shape() -> None:
    deployed = deployment.Deployed(made("deeplabv3plus", "resnet18"), card_of("deeplabv3plus", "resnet18"))
    with pytest.raises(
        DataError, match=r"answers with the shape \(1, 7, 1, 1\) where the network has \(1, 7, 40, 40\)"
    ):
        comparison.compare(deployed, lambda image: torch.zeros(1, 7, 1, 1), [(1, 40, 40)])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output=model.pt"], "a file of the format onnx ends in .onnx"),
        (["--output=model.onnx", "--format=torch-export"], "a file of the format torch-export ends in .pt2"),
        (["--opset=11"], "the opset is 11: it must lie in 18.."),
        (["--int8"], "--int8 needs --calibration: a domain, for example camvid"),
        (["--int8", "--calibration=x", "--format=torch-export"], "--int8 is for the format onnx"),
        (["--int8", "--calibration=camvit"], "unknown data set 'camvit'"),
        (["--repeats=-1"], "repeats -1"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(
    trained: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained), *options]) == 2
    message = capsys.readouterr().err
    assert said in " ".join(message.split())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_told_with_the_remedy(
    package: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UsageError, match=rf"\({package}\): pip install onnx onnxruntime onnxscript, or choose the format torch-export"
    ):
        ex.export(*restore(trained), tmp_path / "model.onnx")


def test_calibration_takes_images_from_the_whole_of_a_folder(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("RGB", (80, 60), (number, 0, 0)).save(tmp_path / f"{number}.png")
    found = list(quantisation.calibration_pictures(tmp_path, (40, 50), limit=4))
    assert [tuple(image.shape) for image in found] == [(1, 3, 40, 50)] * 4
    assert [int(image[0, 0, 0, 0]) for image in found] == [0, 3, 6, 9]


def test_8_bits_are_for_convolutions_and_what_lies_between_them() -> None:
    def node(kind: str, given: list[str], answer: str) -> onnx.NodeProto:
        return onnx.helper.make_node(kind, given, [answer], name=answer)

    graph = onnx.helper.make_graph(
        [
            node("Conv", ["image", "weight"], "first"),
            node("Relu", ["first"], "bounded"),
            node("Conv", ["bounded", "weight"], "second"),
            node("Add", ["bounded", "second"], "shortcut"),
            node("ReduceMean", ["shortcut"], "variance"),
            node("Add", ["variance", "eps"], "lifted"),
            node("Mul", ["shortcut", "lifted"], "scaled"),
            node("Add", ["scaled", "lifted"], "restyled"),
            node("Conv", ["restyled", "weight"], "third"),
            node("Resize", ["third", "", "", "size"], "larger"),
            node("Conv", ["larger", "weight"], "scores"),
            node("Resize", ["scores", "", "", "size"], "logits"),
        ],
        "made",
        [],
        [],
    )
    assert quantisation.kept_precise(graph) == ["lifted", "restyled", "logits"]


def test_quantising_without_an_image_is_refused() -> None:
    empty = onnx.helper.make_model(
        onnx.helper.make_graph(
            [], "none", [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1])], []
        )
    )
    with pytest.raises(DataError, match="no image to calibrate with"):
        quantisation.quantise(empty.SerializeToString(), iter(()))


def test_normalising_inside_is_the_projects_normalisation() -> None:
    network, card = made("deeplabv3plus", "resnet18"), card_of("deeplabv3plus", "resnet18")
    pixels = comparison.pictures(2, 40, 56)
    answers = []
    for kind in (None, "uint8", "float32"):
        deployed = deployment.Deployed(network, card, pixels=kind)
        given = deployed.given(pixels)
        assert given.dtype == (torch.uint8 if kind == "uint8" else torch.float32)
        answers.append(deployed(given))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
    assert torch.allclose(answers[0], network(normalise(pixels)).logits, atol=1e-5)


def test_a_file_leaves_out_what_only_training_needs() -> None:
    network = made("spcnet", "shufflenet_v2")
    assert network.auxiliary is not None
    deployed = deployment.Deployed(network, card_of("spcnet", "shufflenet_v2"))
    assert deployed.network.auxiliary is None
    assert network.auxiliary is not None


def test_what_an_export_would_not_use_is_told_before_the_work(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ex, "export", lambda *_, **__: pytest.fail("exported"))
    (tmp_path / "empty").mkdir()
    for options, said in (
        (["--calibration=streets/game"], "--calibration is for --int8 and for engines in int8: give both, or --score"),
        (["--pixels=float32"], "--pixels float32 is for a file that normalises its images: give --normalise"),
        (["--int8", f"--calibration={tmp_path / 'empty'}"], "empty has no images"),
    ):
        assert main(["export", str(trained), f"--output={tmp_path / 'x.onnx'}", *options]) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_the_example_turns_photos_upright_and_says_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"size": None, "normalise": True, "input": {"name": "image", "type": "uint8"}}
    about |= {"output": {"name": "labels"}, "classes": ["dark", "light"], "colors": [[0, 0, 0], [255, 255, 255]]}

    class Session:
        """Says of a pixel whether it is light."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def get_modelmeta(self) -> Any:
            return SimpleNamespace(custom_metadata_map={key: json.dumps(value) for key, value in about.items()})

        def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [(given["image"][:, 0] > 127).astype(np.uint8)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    example = runpy.run_path(str(EXAMPLE))["main"]
    model, photo, out = tmp_path / "model.onnx", tmp_path / "photo.png", tmp_path / "out.png"
    model.write_bytes(b"")
    lying = Image.fromarray(np.repeat(np.uint8([[0, 0, 255]]), 2, axis=0))  # light on the right, before it is turned
    turned = Image.Exif()
    turned[0x0112] = 6
    lying.save(photo, exif=turned)

    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["onnx_only.py", *map(str, arguments)])
        example()

    run(model, photo, out)
    assert np.asarray(Image.open(out)).tolist() == [[0, 0], [0, 0], [1, 1]]
    capsys.readouterr()
    for arguments, said in (
        ((tmp_path / "no.onnx", photo, out), "there is no file"),
        ((model, tmp_path / "no.png", out), "there is no file"),
        ((model, photo, tmp_path / "out.jpg"), r"only in a file *.png"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(*arguments)
        assert said in capsys.readouterr().err
    about.clear()
    with pytest.raises(SystemExit, match="2"):
        run(model, photo, out)
    assert "give a file of spcnet export" in capsys.readouterr().err
