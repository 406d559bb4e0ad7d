"""Pretrained weights of timm's models: from files under timm's names and those it converts, and by timm's own loading."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor

from spcnet.config import FeaturesConfig
from spcnet.errors import CheckpointError, UsageError
from spcnet.models.backbones import Backbone, backbone_info, build_backbone
from spcnet.weights.imagenet import load_imagenet
from tests import golden

WEIGHTS = golden.SHARED / "weights"
DINOV2 = "vit_small_patch14_dinov2"


def state_of(name: str) -> dict[str, Tensor]:
    """A whole classifier of timm with random numbers."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = timm.create_model(name).state_dict()
    return {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in state.items()}


def filled(name: str, path: Path, **features: Any) -> Backbone:
    backbone = build_backbone(f"timm/{name}", output_stride=None, features=FeaturesConfig(**features))
    load_imagenet(backbone, backbone_info(f"timm/{name}"), str(path))
    return backbone


@pytest.mark.parametrize(
    "name", ["resnet18", "regnetx_002", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "pvt_v2_b0"]
)
@pytest.mark.parametrize("form", ["w.safetensors", "w.pth"])
def test_a_file_of_timm_s_names_fills_the_backbone_without_its_classifier(name: str, form: str, tmp_path: Path) -> None:
    state, path = state_of(name), tmp_path / form
    if form.endswith("pth"):
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, path)
    else:
        save_file(state, path)
    backbone = filled(name, path)
    found = backbone.state_dict()
    assert all(torch.equal(found[ours], state[theirs]) for ours, theirs in backbone.published.items())


def test_a_stored_backbone_fills_another(tmp_path: Path) -> None:
    one = build_backbone("timm/convnext_atto", output_stride=None)
    torch.save({"model": {f"backbone.{key}": value for key, value in one.state_dict().items()}}, tmp_path / "w.pth")
    other = filled("convnext_atto", tmp_path / "w.pth").state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.state_dict().items())


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda state: state.pop("blocks.3.mlp.fc1.weight"), r"lacks 1 tensors, blocks\.3\.mlp\.fc1\.weight"),
    "unexpected": (
        lambda state: state.update({"blocks.12.x": torch.ones(1)}),
        r"has 1 unexpected tensors, blocks\.12\.x",
    ),
    "misshapen": (
        lambda state: state.update({"cls_token": torch.ones(1, 1, 7)}),
        r"has 1 tensors in another shape, cls_token \(1×1×7 against 1×1×192\)",
    ),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_a_file_that_does_not_fit_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    change, message = BROKEN[kind]
    state = state_of("vit_tiny_patch16_224")
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=message) as refused:
        filled("vit_tiny_patch16_224", tmp_path / "w.safetensors")
    assert "timm's vit_tiny_patch16_224 with timm's key names" in str(refused.value)


@pytest.mark.parametrize("inner", [False, True])
def test_the_same_network_in_another_width_is_told_by_its_shapes(inner: bool, tmp_path: Path) -> None:
    state = state_of("vit_small_patch16_224")
    torch.save({"model": state} if inner else state, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"150 tensors in another shape, .*\(1×1×384 against 1×1×192\)"
    ) as refused:
        filled("vit_tiny_patch16_224", tmp_path / "w.pth")
    assert "#NAME" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("vit_tiny_patch16_224", "timm's key names$"),
        ("vit_small_patch14_dinov2", "or those of Hugging Face's DINOv2, Meta's DINOv2$"),
        ("convnext_atto", "or those of Hugging Face's ConvNeXt of DINOv3, Meta's ConvNeXt, torchvision's ConvNeXt$"),
        ("mobilenetv2_100", "or those of torchvision's MobileNetV2$"),
    ],
)
def test_the_names_that_a_family_is_read_in_are_told(name: str, accepted: str, tmp_path: Path) -> None:
    torch.save({"model": {"odd": torch.ones(1)}, "epoch": 1}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as refused:
        filled(name, tmp_path / "w.pth")
    assert re.search(accepted, str(refused.value).rpartition("; ")[0])


def test_torchvision_s_mobilenet_is_timm_s(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2().eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = filled("mobilenetv2_100", tmp_path / "w.pth").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        deepest = ours.features(ours.prepare(image), ours.places)[ours.places[-1]]
        torch.testing.assert_close(deepest, theirs.features[:18](image), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("weights", "message"), [("", "which is a folder: give"), ("imagnet", "Did you mean imagenet?")]
)
def test_what_is_no_weight_file_is_told(weights: str, message: str, tmp_path: Path) -> None:
    backbone, info = build_backbone("timm/resnet18", output_stride=None), backbone_info("timm/resnet18")
    with pytest.raises(CheckpointError) as refused:
        load_imagenet(backbone, info, weights or str(tmp_path))
    assert message in str(refused.value)


@pytest.mark.parametrize("resample", ["plain", "exact"])
def test_a_kernel_of_patch_14_becomes_one_of_16(resample: str, tmp_path: Path) -> None:
    state = state_of(DINOV2)
    save_file(state, tmp_path / "w.safetensors")
    backbone = filled(DINOV2, tmp_path / "w.safetensors", resample=resample)
    kernel = state["patch_embed.proj.weight"]
    wanted = (
        F.interpolate(kernel, size=(16, 16), mode="bicubic", align_corners=False)
        if resample == "plain"
        else resample_patch_embed(kernel, [16, 16])
    )
    found = backbone.state_dict()
    assert torch.equal(found["model.patch_embed.proj.weight"], wanted)
    assert torch.equal(found["model.pos_embed"], state["pos_embed"])
    whole = filled(DINOV2, tmp_path / "w.safetensors", patch_size=14)
    assert torch.equal(whole.state_dict()["model.patch_embed.proj.weight"], kernel)


@pytest.mark.parametrize("registers", [False, True])
def test_meta_s_files_of_dinov2_are_converted_by_timm(registers: bool, tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2" if registers else DINOV2
    state = state_of(name)
    theirs = dict(state, mask_token=torch.zeros(1, 384))
    if registers:
        theirs["register_tokens"] = theirs.pop("reg_token")
        first = torch.randn(1, 1, 384)
        theirs["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
        theirs["cls_token"] = state["cls_token"] - first
    torch.save(theirs, tmp_path / "w.pth")
    found = filled(name, tmp_path / "w.pth", patch_size=14)
    values = found.state_dict()
    for ours, key in found.published.items():
        torch.testing.assert_close(values[ours], state[key])


@pytest.mark.parametrize("word", ["imagenet", "pretrained"])
def test_published_weights_come_by_timm_s_own_loading(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    theirs = timm.create_model("vit_tiny_patch16_224")
    make = timm.create_model

    def create(name: str, pretrained: bool = False, **given: Any) -> Any:
        return theirs if pretrained else make(name, **given)

    backbone = build_backbone("timm/vit_tiny_patch16_224", output_stride=None)
    monkeypatch.setattr(timm, "create_model", create)
    load_imagenet(backbone, backbone_info("timm/vit_tiny_patch16_224"), word)
    found, wanted = backbone.state_dict(), theirs.state_dict()
    assert all(torch.equal(found[ours], wanted[key]) for ours, key in backbone.published.items())


def test_without_a_network_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no connection\nmore")

    backbone = build_backbone("timm/vit_tiny_patch16_224", output_stride=None)
    info = backbone_info("timm/vit_tiny_patch16_224")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        CheckpointError, match=r"vit_tiny_patch16_224 \(no connection\): go online, give a local file"
    ) as refused:
        load_imagenet(backbone, info, "imagenet")
    assert "\n" not in str(refused.value)


def test_a_model_without_published_weights_says_so() -> None:
    backbone = build_backbone("timm/resnet18", output_stride=None)
    info = backbone_info("timm/resnet18")._replace(download=None)
    with pytest.raises(CheckpointError, match="no published weights: give a local file"):
        load_imagenet(backbone, info, "imagenet")


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("vit_small_patch16_dinov3.lvd1689m", "dinov3-license"),
        ("convnext_tiny.dinov3_lvd1689m", "dinov3-license"),
        ("hiera_tiny_224.mae", "cc-by-nc-4.0"),
        ("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", "fair-noncommercial-research-license"),
        ("vit_small_patch14_dinov2.lvd142m", ""),
        ("resnet18", ""),
    ],
)
def test_terms_that_are_not_permissive_are_known(name: str, licence: str) -> None:
    assert backbone_info(f"timm/{name}").licence == licence


def test_terms_that_are_not_permissive_are_told_with_the_weights(tmp_path: Path) -> None:
    save_file(state_of("hiera_tiny_224"), tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match=r"weights of hiera_tiny_224\.mae come under the licence cc-by-nc-4\.0"):
        filled("hiera_tiny_224.mae", tmp_path / "w.safetensors")


@pytest.mark.parametrize("size", [0, 2])
def test_the_real_efficientnet_lite_has_timm_s_maps_and_its_own_mean_and_deviation(size: int) -> None:
    name, path = f"tf_efficientnet_lite{size}", WEIGHTS / f"tf_efficientnet_lite{size}_imagenet.safetensors"
    if not path.is_file():
        pytest.skip("the file of ImageNet weights is not here")
    backbone = filled(name, path).double().eval()
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    theirs = timm.create_model(name, features_only=True)
    kept = theirs.state_dict().keys()
    theirs.load_state_dict({key: value for key, value in load_file(path).items() if key in kept})
    pixels = torch.rand(1, 3, 47, 65, dtype=torch.float64)
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    prepared = backbone.prepare((pixels - mean) / std)
    torch.testing.assert_close(prepared, (pixels - 0.5) / 0.5, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        wanted = theirs.double().eval()(prepared)
        found = backbone.features(prepared, backbone.places)
    assert all(torch.equal(ours, expected) for ours, expected in zip(found.values(), wanted, strict=True))


def test_positions_that_are_resampled_once_are_those_that_an_image_of_that_size_gets(tmp_path: Path) -> None:
    """A grid of 32 is what Rein's and SoMA's files have, for images of 512 pixels in patches of 16."""
    save_file(state_of(DINOV2), tmp_path / "w.safetensors")
    once = filled(DINOV2, tmp_path / "w.safetensors", grid=4).eval()
    each = filled(DINOV2, tmp_path / "w.safetensors").eval()
    assert once.state_dict()["model.pos_embed"].shape == (1, 17, 384)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        one, other = (backbone.features(backbone.prepare(image), ["embed"])["embed"] for backbone in (once, each))
    torch.testing.assert_close(one, other)
    with pytest.raises(
        UsageError, match=r"model.features.grid is 4, but timm/vit_small_patch16_dinov3 learns no positions"
    ):
        build_backbone("timm/vit_small_patch16_dinov3", output_stride=None, features=FeaturesConfig(grid=4))
