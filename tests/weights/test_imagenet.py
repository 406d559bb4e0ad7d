"""Files of trained values: what loads, what is refused, and that nothing in them is executed."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from spcnet.errors import CheckpointError, UsageError
from spcnet.methods import build_model
from spcnet.models.backbones import backbone_info, build_backbone
from spcnet.weights.files import read_weights, readings
from spcnet.weights.imagenet import load_imagenet
from tests import golden
from tests.support.backbones import classifier_state

IMAGENET = golden.SHARED / "weights" / "mobilenet_v2_imagenet.safetensors"


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def classifier(name: str = "shufflenet_v2", seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return classifier_state(name)


@pytest.mark.parametrize("form", ["state.safetensors", "state.pth", "wrapped.pth", "parallel.pth"])
def test_every_form_of_state_dict_loads_the_same(tmp_path: Path, form: str) -> None:
    tensors, path = {"a.weight": torch.arange(3.0), "b": torch.ones(())}, tmp_path / form
    if form.endswith(".safetensors"):
        save_file(tensors, path)
    else:
        content: Any = {f"module.{key}": value for key, value in tensors.items()} if "parallel" in form else tensors
        torch.save({"state_dict": content, "epoch": 3} if form != "state.pth" else content, path)
    [reading] = [one for one in readings(read_weights(path)) if set(one.tensors) == set(tensors)]
    found = reading.tensors
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], value) for key, value in tensors.items())


def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "bomb.pth"
    torch.save({"a": torch.ones(1), "b": Bomb(mark)}, path)
    with pytest.raises(CheckpointError, match="holds more than tensors, and was not opened: save the state dict alone"):
        read_weights(path)
    assert not mark.exists()
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps({"a": Bomb(mark)}, protocol=2))
    with pytest.raises(CheckpointError):
        read_weights(plain)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the bomb is live
    assert mark.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("damage", ["truncated", "random", "empty"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save({"a": torch.ones(100)}, path)
    else:
        save_file({"a": torch.ones(100)}, path)
    content = path.read_bytes()
    noise = torch.randint(0, 256, (300,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    path.write_bytes({"truncated": content[:-150], "random": noise.numpy().tobytes(), "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=name):
        read_weights(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no weight file .*nowhere\.pth: check the path"):
        read_weights(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [[torch.ones(1)], {"epoch": 3}, torch.ones(2)])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="is no state dict: it must map names to tensors"):
        read_weights(tmp_path / "odd.pth")


def test_backbone_weights_come_from_a_file(tmp_path: Path) -> None:
    given = classifier(seed=1)
    save_file({k: v.contiguous() for k, v in given.items() if not k.startswith("fc.")}, tmp_path / "w.safetensors")
    network = build_model("deeplabv3plus", backbone="shufflenet_v2", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(network.backbone.state_dict()["stem.0.0.weight"], given["conv1.0.weight"])
    assert torch.equal(network.backbone.state_dict()["layer4.0.0.weight"], given["conv5.0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv1.0.weight"), r"lacks 1 tensors, conv1\.0\.weight: it must be an ImageNet shufflenet"),
        (lambda w: w.update(extra=torch.ones(1)), r"has 1 unexpected tensors, extra"),
        (lambda w: w.update({"conv1.0.weight": torch.ones(1)}), r"has 1 tensors in another shape, conv1\.0\.weight"),
        (lambda w: [w.pop(key) for key in list(w) if key.startswith("stage2")], r"lacks \d+ tensors, .*, …"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    given = classifier()
    change(given)
    torch.save(given, tmp_path / "w.pth")
    network = build_backbone("shufflenet_v2", output_stride=16)
    before = network.state_dict()["layer2.0.branch1.0.weight"].clone()
    with pytest.raises(CheckpointError, match=message):
        load_imagenet(network, backbone_info("shufflenet_v2"), str(tmp_path / "w.pth"))
    assert torch.equal(network.state_dict()["layer2.0.branch1.0.weight"], before)


@pytest.mark.skipif(not IMAGENET.is_file(), reason=f"no ImageNet weights at {IMAGENET}")
def test_imagenet_weights_fill_the_backbone() -> None:
    network = build_model("spcnet", backbone="mobilenet_v2", weights=str(IMAGENET))
    given = load_file(IMAGENET)
    assert torch.equal(network.backbone.state_dict()["stem.0.0.weight"], given["features.0.0.weight"])
    assert torch.equal(network.backbone.state_dict()["layer4.0.1.running_var"], given["features.18.1.running_var"])


class Served:
    """Stands for torchvision's list of weights of one network."""

    def __init__(self, tensors: dict[str, Tensor] | OSError) -> None:
        self.tensors = tensors

    @property
    def IMAGENET1K_V1(self) -> "Served":
        return self

    def get_state_dict(self, *, progress: bool, check_hash: bool) -> dict[str, Tensor]:
        assert check_hash
        if isinstance(self.tensors, OSError):
            raise self.tensors
        return self.tensors


def test_without_a_network_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    offline = Served(OSError("no route to host"))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: asked.append(name) or offline)
    with pytest.raises(
        CheckpointError, match=r"weights of resnet50 \(no route to host\): go online, give a local file as"
    ):
        build_model("deeplabv3plus", weights="imagenet")
    assert asked == ["resnet50"]


def test_resnet101_warns_that_its_stem_starts_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    plain = torchvision.models.resnet101().state_dict()
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: Served(plain))
    with pytest.warns(
        UserWarning,
        match=r"resnet101 weights: another stem than that of resnet101 here, conv1\., .* start from random values",
    ):
        network = build_model("deeplabv3plus", backbone="resnet101", weights="imagenet")
    filled = network.backbone.state_dict()
    assert torch.equal(filled["layer3.5.conv2.weight"], plain["layer3.5.conv2.weight"])
    assert torch.equal(filled["layer1.0.conv2.weight"], plain["layer1.0.conv2.weight"])
    assert filled["layer1.0.conv1.weight"].shape == (64, 128, 1, 1)


def test_an_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"unknown backbone 'resnet5'.* Did you mean 'resnet50'\?"):
        backbone_info("resnet5")
