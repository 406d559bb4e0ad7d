"""Networks on timm's backbones through everything that is made of a network: stored, predicted with, rewritten, exported."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from jaxtyping import config
from torch import Tensor

from spcnet import checkpoint
from spcnet import export as exporting
from spcnet.checkpoint import ModelCard
from spcnet.config import ModelConfig, as_dict
from spcnet.cost import Cost, costs
from spcnet.errors import UsageError
from spcnet.export import deployment
from spcnet.inference.fast import fused
from spcnet.inference.predictor import Predictor
from spcnet.labels import label_space
from spcnet.methods import build_model, rebuild
from spcnet.models.network import Segmentor

SPACE = label_space("idd7")
SIZE = (64, 96)
NAMES = ["tf_efficientnet_lite0", "vit_tiny_patch16_224", "vit_small_patch16_dinov3", "convnext_atto"]


@pytest.fixture(autouse=True)
def _tracing_without_checked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a network is traced its sizes are symbols, which are no `int` for the checks that tests run under."""
    traced = deployment.traced

    def unchecked(deployed: deployment.Deployed) -> torch.export.ExportedProgram:
        config.update("jaxtyping_disable", True)
        try:
            return traced(deployed)
        finally:
            config.update("jaxtyping_disable", False)

    monkeypatch.setattr(exporting, "traced", unchecked)


def network_of(name: str, method: str = "spcnet") -> Segmentor:
    torch.manual_seed(0)
    return build_model(method, backbone=f"timm/{name}", num_classes=len(SPACE), output_stride=None).eval()


def card_of(name: str, method: str = "spcnet", size: tuple[int, int] | None = SIZE) -> ModelCard:
    model = as_dict(ModelConfig(backbone=f"timm/{name}", weights=None, output_stride=None))
    return ModelCard(method, model, SPACE.name, SPACE.classes, ("streets/game", "streets/toy"), size)


def pixels(*size: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, *(size or SIZE)), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_network_is_built_again(name: str, tmp_path: Path) -> None:
    network = network_of(name)
    checkpoint.write(tmp_path / "model.safetensors", network.state_dict(), card_of(name))
    again = rebuild(checkpoint.read(tmp_path / "model.safetensors"), "model.safetensors")
    image = torch.randn(1, 3, 47, 65)
    with torch.no_grad():
        assert torch.equal(again(image).logits, network(image).logits)
    assert network(image).logits.shape == (1, len(SPACE), 47, 65)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_rewritten_for_a_processor_answers_alike(name: str) -> None:
    network, image = network_of(name), torch.randn(2, 3, 47, 65)
    with torch.inference_mode():
        wanted, found = network(image).logits, fused(network)(image).logits
    assert float((found - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


def test_photos_are_normalised_by_the_backbone_s_own_mean_and_deviation(tmp_path: Path) -> None:
    network = network_of("tf_efficientnet_lite0", "deeplabv3plus")
    checkpoint.write(
        tmp_path / "m.safetensors", network.state_dict(), card_of("tf_efficientnet_lite0", "deeplabv3plus")
    )
    again = rebuild(checkpoint.read(tmp_path / "m.safetensors"), "m.safetensors")
    photo = pixels()
    with torch.no_grad():
        maps = network.backbone.features((photo / 255 - 0.5) / 0.5, network.decoder.places)
        assert network.classifier is not None
        scores = network.classifier(network.decoder(*(maps[place] for place in network.decoder.places)))
    wanted = torch.nn.functional.interpolate(scores, SIZE, mode="bilinear", align_corners=True).argmax(1)[0]
    rgb = photo[0].permute(1, 2, 0).numpy()
    for engine in ("torch", "fused"):
        found = Predictor(again, space=SPACE, device="cpu", engine=engine).predict(rgb).class_map  # type: ignore[arg-type]
        assert float(np.mean(found == wanted.numpy())) > 0.999
    deployed = deployment.Deployed(
        again, card_of("tf_efficientnet_lite0", "deeplabv3plus"), kind="labels", pixels="uint8"
    )
    assert float((deployed(photo)[0] == wanted).float().mean()) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_exported_file_answers_alike_at_its_size(name: str, tmp_path: Path) -> None:
    written = exporting.export(network_of(name), card_of(name), tmp_path / "m.onnx", pixels="uint8")
    assert written.metadata["fixed_size"] == list(SIZE)
    assert {check[1:3] for check in written.checks} == {SIZE}
    model = onnx.load(tmp_path / "m.onnx")
    modes = {
        attribute.s
        for node in model.graph.node
        if node.op_type == "Resize"
        for attribute in node.attribute
        if attribute.name == "mode"
    }
    assert modes == {b"linear"}  # no positions are resampled in the graph


def test_a_file_of_fixed_size_needs_one() -> None:
    network = network_of("vit_tiny_patch16_224", "deeplabv3plus")
    card = card_of("vit_tiny_patch16_224", "deeplabv3plus", None)
    with pytest.raises(
        UsageError, match=r"takes images of one size alone, and the network was trained on images of any: give the"
    ):
        deployment.Deployed(network, card)
    assert deployment.Deployed(network, card, size=(48, 64)).size == (48, 64)


def test_a_file_of_any_size_takes_none() -> None:
    network = build_model("deeplabv3plus", backbone="shufflenet_v2", num_classes=len(SPACE))
    with pytest.raises(UsageError, match="takes images of any size: leave it out"):
        deployment.Deployed(network, card_of("x"), size=(48, 64))


def test_costs_are_counted_for_networks_of_timm() -> None:
    (found,) = costs(["deeplabv3plus"], ["timm/vit_tiny_patch16_224"], ["deeplabv3plus"], size=(64, 96), repeats=0)
    assert isinstance(found, Cost)
    assert found.parameters > 5e6
    assert found.macs > 0


def test_norm_slots_are_refused_where_there_are_none() -> None:
    with pytest.raises(UsageError):
        build_model("isw", backbone="timm/vit_tiny_patch16_224", output_stride=None)
