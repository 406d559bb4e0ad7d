"""What CONTRIBUTING.md says of adding a backbone and a head, done: a file and a line in a table."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from spcnet import checkpoint
from spcnet.config import ModelConfig
from spcnet.data.transforms import normalise
from spcnet.errors import CheckpointError, UsageError
from spcnet.inference.fast import fused
from spcnet.methods import build_model, card_for, method_named
from spcnet.models.backbones import BACKBONES, build_backbone
from spcnet.models.heads import DECODERS
from spcnet.models.heads.base import resize
from spcnet.weights.imagenet import load_imagenet
from tests.support.weight_files import restore

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def module_of(title: str, folder: Path) -> ModuleType:
    """The program below a title of the guide, written to a file and imported."""
    found = re.search(rf"^### {title}\n.*?^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert found, title
    path = folder / "added.py"
    path.write_text(found[1])
    spec = importlib.util.spec_from_file_location("added", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(BACKBONES, "patches", module_of("A backbone", tmp_path).PATCHES)
    return "patches"


@pytest.fixture
def added_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(DECODERS, "sum", module_of("A head", tmp_path).SumDecoder)
    return "sum"


@pytest.mark.parametrize("method", ["deeplabv3plus", "spcnet"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_backbone_from_one_file_trains_with_every_part(patches: str, method: str, recompute: bool) -> None:
    torch.manual_seed(0)
    network = build_model(method, backbone=patches, num_classes=3, auxiliary=True).train()
    network.recompute = recompute
    image = torch.randn(2, 3, 33, 51)
    output = network(image)
    assert output.auxiliary is not None
    (output.logits.square().mean() + output.auxiliary.square().mean()).backward()
    assert output.logits.shape == (2, 3, 33, 51)
    unused = {"classifier.score_norm.bias"}  # the norm's output has the mean zero
    silent = {name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())}
    assert silent <= unused
    with torch.no_grad():
        assert network.eval()(image).logits.shape == output.logits.shape


def test_its_images_are_padded_and_the_scores_cut(patches: str) -> None:
    torch.manual_seed(0)
    network = build_model("deeplabv3plus", backbone=patches, num_classes=3).eval()
    image = torch.randn(1, 3, 40, 70)
    padded = (-network.backbone.shift / network.backbone.scale).expand(1, 3, 64, 96).clone()  # the mean colour
    padded[:, :, :40, :70] = image
    with torch.no_grad():
        torch.testing.assert_close(network(image).logits, network(padded).logits[:, :, :40, :70], rtol=1e-4, atol=1e-5)


def test_its_images_are_normalised_as_it_was_pretrained(patches: str) -> None:
    network = build_model("deeplabv3plus", backbone=patches, num_classes=3).eval()
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    own = (image / 255 - 0.5) / 0.5
    torch.testing.assert_close(network.backbone.prepare(normalise(image)), own)
    with torch.no_grad():
        maps = network.backbone.features(own, network.decoder.places)
        scores = network.classifier(network.decoder(*(maps[place] for place in network.decoder.places)))
        torch.testing.assert_close(network(normalise(image)).logits, resize(scores, (64, 96), align_corners=True))


def test_it_is_stored_restored_and_rewritten_for_a_processor(patches: str, tmp_path: Path) -> None:
    model = ModelConfig(patches, weights=None)
    network = method_named("spcnet").build(model, num_classes=19, num_domains=2).eval()
    card = card_for(
        method="spcnet", model=model, space="cityscapes19", classes=("a",) * 19, domains=["x", "y"], size=None
    )
    checkpoint.write(tmp_path / checkpoint.MODEL_FILE, network.state_dict(), card)
    again, _ = restore(tmp_path)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(image).logits, again(image).logits)
        torch.testing.assert_close(fused(again)(image).logits, network(image).logits, rtol=1e-4, atol=1e-4)


def test_it_starts_from_a_file_of_its_own_names(patches: str, tmp_path: Path) -> None:
    one, other = (build_backbone(patches, output_stride=16) for _ in range(2))
    torch.save(one.state_dict(), tmp_path / "w.pth")
    load_imagenet(other, BACKBONES[patches], str(tmp_path / "w.pth"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    with pytest.raises(CheckpointError, match=r"no published weights: .*model\.weights"):
        load_imagenet(other, BACKBONES[patches], "imagenet")


def test_norms_that_it_has_no_slots_for_are_refused(patches: str) -> None:
    model = ModelConfig(patches, weights=None, norms={"layer1": "ibn"})
    with pytest.raises(UsageError, match="no slot layer1"):
        method_named("deeplabv3plus").build(model, num_classes=3, num_domains=2)


@pytest.mark.parametrize("backbone", ["shufflenet_v2", "resnet18"])
def test_a_head_from_one_file_trains_and_is_chosen_by_name(added_decoder: str, backbone: str) -> None:
    torch.manual_seed(0)
    model = ModelConfig(backbone, decoder=added_decoder, weights=None)
    network = method_named("spcnet").build(model, num_classes=3, num_domains=2).train()
    image = torch.randn(2, 3, 33, 51)
    output = network(image)
    output.logits.square().mean().backward()
    assert output.logits.shape == (2, 3, 33, 51)
    assert all(bool(parameter.grad.any()) for parameter in network.decoder.parameters())
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(fused(network)(image).logits, network(image).logits, rtol=1e-4, atol=1e-4)


def test_an_unknown_decoder_is_answered_with_the_known() -> None:
    with pytest.raises(UsageError, match=r"unknown decoder 'deeplab'.*Did you mean 'deeplabv3plus'"):
        method_named("deeplabv3plus").check(ModelConfig(decoder="deeplab"))
