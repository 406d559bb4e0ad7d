"""Backbones in Hugging Face's, Meta's and torchvision's names give in timm what they give where they are from, in double."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from spcnet.config import FeaturesConfig
from spcnet.errors import CheckpointError
from spcnet.models.backbones import backbone_info, build_backbone
from spcnet.weights.imagenet import load_imagenet
from spcnet.weights.timm_names import timm_names

transformers = pytest.importorskip("transformers", exc_type=ImportError)

VIT: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 3}
HF: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}


def randomised(model: nn.Module) -> nn.Module:
    """In double precision, every number drawn, so that no layer scale or bias hides a mistake."""
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=dice) * 0.3)
    return model.double().eval()


def stored(model: Any, folder: Path) -> dict[str, Tensor]:
    """As in the files of the hub, whose names are older than those of the program's modules."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def filled(name: str, tensors: dict[str, Tensor], **given: Any) -> nn.Module:
    """Timm's model with these tensors; each is wanted and none is missing."""
    model = timm.create_model(name, pretrained=False, num_classes=0, **given).double().eval()
    state = model.state_dict()
    _, renamed = timm_names(tensors, set(state))
    model.load_state_dict(renamed)
    return model


def image(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def dinov2(*, registers: bool = False, gated: bool = False) -> Any:
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{kind}Config")(**HF, image_size=56, patch_size=14, use_swiglu_ffn=gated)
    return randomised(getattr(transformers, f"{kind}Model")(config))


def dinov3(*, gated: bool = False) -> Any:
    config = transformers.DINOv3ViTConfig(
        **HF,
        intermediate_size=96,
        image_size=64,
        patch_size=16,
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )
    return randomised(transformers.DINOv3ViTModel(config))


def timm_dinov2(tensors: dict[str, Tensor], *, registers: bool = False, gated: bool = False) -> nn.Module:
    given: dict[str, Any] = {**VIT, "img_size": 56}
    size = "giant" if gated else "small"
    if gated:
        given["mlp_ratio"] = 2 * 64 / 24  # 64 = 4·24·2/3, as DINOv2 rounds it
    return filled(f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2", tensors, **given)


@pytest.mark.parametrize("names", ["of the hub's files", "of the modules"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_of_hugging_face(registers: bool, gated: bool, names: str, tmp_path: Path) -> None:
    theirs = dinov2(registers=registers, gated=gated)
    tensors = stored(theirs, tmp_path) if "files" in names else theirs.state_dict()
    assert timm_names(tensors)[0] == "Hugging Face's DINOv2"
    ours = timm_dinov2(tensors, registers=registers, gated=gated)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(image(56)), theirs(image(56)).last_hidden_state)


@pytest.mark.parametrize("names", ["of the hub's files", "of the modules"])
@pytest.mark.parametrize("gated", [False, True])
def test_dinov3_of_hugging_face(gated: bool, names: str, tmp_path: Path) -> None:
    theirs = dinov3(gated=gated)
    tensors = stored(theirs, tmp_path) if "files" in names else theirs.state_dict()
    assert timm_names(tensors)[0] == "Hugging Face's DINOv3"
    if gated:
        ours = filled("vit_small_plus_patch16_dinov3_qkvb", tensors, **VIT, mlp_ratio=4, swiglu_align_to=8)
    else:
        ours = filled("vit_small_patch16_dinov3_qkvb", tensors, **VIT)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(image(64)), theirs(image(64)).last_hidden_state)


@pytest.mark.parametrize("names", ["of the hub's files", "of the modules"])
def test_convnext_of_dinov3_of_hugging_face(names: str, tmp_path: Path) -> None:
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1])
    theirs: Any = randomised(transformers.DINOv3ConvNextModel(config))
    tensors = stored(theirs, tmp_path) if "files" in names else theirs.state_dict()
    assert timm_names(tensors)[0] == "Hugging Face's ConvNeXt of DINOv3"
    ours = filled("convnext_tiny", tensors, dims=(8, 16, 24, 32), depths=(1, 2, 1, 1))
    with torch.no_grad():
        torch.testing.assert_close(ours(image(64)), theirs(image(64)).pooler_output)


def metas(state: dict[str, Tensor], renamed: Callable[[str], str]) -> dict[str, Tensor]:
    """Hugging Face's tensors by Meta's names, whose three matrices are one."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".q_proj." in name or ".k_proj." in name or ".v_proj." in name:
            joined = renamed(name).replace(name.split(".attention.")[1].split(".")[0], "qkv")
            parts = [
                name.replace(name.split(".attention.")[1].split(".")[0], part)
                for part in ("q_proj", "k_proj", "v_proj")
            ]
            found[joined] = torch.cat([state[p] if p in state else torch.zeros(24, dtype=torch.float64) for p in parts])
        else:
            found[renamed(name)] = value
    return found


META = (
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.patch_embeddings", "patch_embed.proj"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.", ""),
    ("encoder.layer.", "blocks."),
    ("model.layer.", "blocks."),
    ("attention.o_proj", "attn.proj"),
    ("attention.", "attn."),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("layernorm.", "norm."),
)


def as_meta(name: str, *further: tuple[str, str]) -> str:
    for old, new in (*META, *further):
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_of_meta(registers: bool, chunked: bool) -> None:
    theirs = dinov2(registers=registers)
    tensors = metas(theirs.state_dict(), as_meta)
    if chunked:  # as its training keeps them: of three blocks the last is in the second chunk
        tensors = {
            re.sub(r"blocks\.(\d)\.", lambda found: f"blocks.{int(found[1]) // 2}.{found[1]}.", name): value
            for name, value in tensors.items()
        }
    assert timm_names(tensors)[0] == "Meta's DINOv2"
    ours = timm_dinov2(tensors, registers=registers)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(image(56)), theirs(image(56)).last_hidden_state)


@pytest.mark.parametrize("gated", [False, True])
def test_dinov3_of_meta(gated: bool) -> None:
    theirs = dinov3(gated=gated)
    linears = (
        (("gate_proj", "w1"), ("up_proj", "w2"), ("down_proj", "w3"))
        if gated
        else (("up_proj", "fc1"), ("down_proj", "fc2"))
    )
    tensors = metas(
        {name: value for name, value in theirs.state_dict().items() if not name.endswith("k_proj.bias")},
        lambda name: as_meta(name, ("register_tokens", "storage_tokens"), *linears),
    )
    tensors["rope_embed.periods"] = torch.ones(2)
    for number in range(3):
        tensors[f"blocks.{number}.attn.qkv.bias_mask"] = torch.ones(72)
        tensors[f"blocks.{number}.attn.qkv.bias"][24:48] = 5.0  # which the mask makes zero
    assert timm_names(tensors)[0] == "Meta's DINOv3"
    given: dict[str, Any] = {"mlp_ratio": 4, "swiglu_align_to": 8} if gated else {}
    ours = filled(f"vit_small_{'plus_' if gated else ''}patch16_dinov3_qkvb", tensors, **VIT, **given)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(image(64)), theirs(image(64)).last_hidden_state)


def test_biases_of_zeros_are_left_out_where_the_model_has_none_and_others_are_not() -> None:
    theirs = dinov3()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith(("q_proj.bias", "v_proj.bias")):
                parameter.zero_()
    ours = filled("vit_small_patch16_dinov3", theirs.state_dict(), **VIT)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(image(64)), theirs(image(64)).last_hidden_state)
    theirs.model.layer[1].attention.q_proj.bias.data[0] = 1e-3
    kept = timm_names(theirs.state_dict(), set(ours.state_dict()))[1]
    assert [name for name in kept if name not in ours.state_dict()] == ["blocks.1.attn.q_bias"]


def test_convnext_of_meta() -> None:
    ours = randomised(
        timm.create_model("convnext_tiny", pretrained=False, dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_classes=5)
    )
    theirs = {}
    for name, value in ours.state_dict().items():
        for old, new in (
            ("stem.", "downsample_layers.0."),
            ("stages.1.downsample.", "downsample_layers.1."),
            ("stages.2.downsample.", "downsample_layers.2."),
            ("stages.3.downsample.", "downsample_layers.3."),
            (".blocks.", "."),
            ("conv_dw", "dwconv"),
            ("mlp.fc", "pwconv"),
            ("head.norm.", "norm."),
            ("head.fc.", "head."),
        ):
            name = name.replace(old, new)
        theirs[name] = value
    maker, found = timm_names(theirs)
    assert maker == "Meta's ConvNeXt"
    assert set(found) == set(ours.state_dict())
    assert all(torch.equal(found[name], value) for name, value in ours.state_dict().items())


def test_convnext_of_torchvision() -> None:
    settings = [
        torchvision.models.convnext.CNBlockConfig(*sides)
        for sides in ((8, 16, 1), (16, 24, 2), (24, 32, 1), (32, None, 1))
    ]
    theirs = randomised(torchvision.models.ConvNeXt(settings, num_classes=5))
    assert timm_names(theirs.state_dict())[0] == "torchvision's ConvNeXt"
    ours = timm.create_model(
        "convnext_tiny", pretrained=False, dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_classes=5
    )
    ours = ours.double().eval()
    ours.load_state_dict(timm_names(theirs.state_dict())[1])
    with torch.no_grad():
        torch.testing.assert_close(ours(image(64)), theirs(image(64)))


def test_swin_of_torchvision() -> None:
    theirs = randomised(
        torchvision.models.SwinTransformer(
            [4, 4],
            12,
            [1, 2, 1, 1],
            [1, 2, 3, 3],
            [4, 4],
            norm_layer=lambda width: nn.LayerNorm(width, eps=1e-5),
            num_classes=5,
        )
    )
    assert timm_names(theirs.state_dict())[0] == "torchvision's Swin"
    ours = timm.create_model(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        embed_dim=12,
        depths=(1, 2, 1, 1),
        num_heads=(1, 2, 3, 3),
        window_size=4,
        img_size=128,
        num_classes=5,
    )
    ours = ours.double().eval()
    ours.load_state_dict(timm_names(theirs.state_dict())[1])
    with torch.no_grad():
        torch.testing.assert_close(ours(image(128)), theirs(image(128)))


def test_a_resnet_has_the_same_names_in_torchvision_and_in_timm() -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    maker, found = timm_names(theirs)
    assert maker == "timm"
    timm.create_model("resnet18", pretrained=False).load_state_dict(found)


def test_what_is_cut_off_or_unknown_keeps_its_names() -> None:
    whole = dict(dinov2().state_dict())
    lost = "encoder.layer.1.attention.k_proj.weight"
    found = timm_names({name: value for name, value in whole.items() if name != lost})[1]
    assert "blocks.1.attn.qkv.weight" not in found
    assert {"blocks.1.attn.q.weight", "blocks.1.attn.v.weight", "blocks.0.attn.qkv.weight"} <= set(found)
    odd = {"a.b": torch.ones(1)}
    assert timm_names(odd) == ("timm", odd)


@pytest.fixture(scope="module")
def small_dinov2() -> Any:
    """Hugging Face's DINOv2 ViT-S with registers, random: as deep as timm's, for images of 518 pixels."""
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14
    )
    torch.manual_seed(0)
    return transformers.Dinov2WithRegistersModel(config).double().eval()


def test_a_file_of_hugging_face_is_the_start_of_a_backbone_and_gives_its_features(
    small_dinov2: Any, tmp_path: Path
) -> None:
    small_dinov2.save_pretrained(tmp_path)
    name = "timm/vit_small_patch14_reg4_dinov2"
    features = FeaturesConfig(patch_size=14, taps=[2, 5, 8, 11], norm=True, pyramid="none", resample="exact")
    backbone = build_backbone(name, output_stride=None, features=features).double().eval()
    load_imagenet(backbone, backbone_info(name), str(tmp_path / "model.safetensors"))
    picture = torch.randn(1, 3, 70, 140, dtype=torch.float64)
    with torch.no_grad():
        found = backbone.features(backbone.prepare(picture), ["block5"])["block5"]
        wanted = small_dinov2(picture, output_hidden_states=True).hidden_states[6]
        wanted = small_dinov2.layernorm(wanted)[:, 5:].mT.reshape(1, 384, 5, 10)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)  # both resample positions in single precision


def test_kernels_of_the_wanted_patches_are_taken_as_they_are(small_dinov2: Any, tmp_path: Path) -> None:
    """As in files of Rein and SoMA, whose DINOv2 has patches of 16 pixels."""
    tensors = {name: value.float() for name, value in small_dinov2.state_dict().items()}
    kernel = torch.randn(384, 3, 16, 16)
    tensors["embeddings.patch_embeddings.projection.weight"] = kernel
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in tensors.items()}}, tmp_path / "w.pth")
    name = "timm/vit_small_patch14_reg4_dinov2"
    backbone = build_backbone(name, output_stride=None)
    load_imagenet(backbone, backbone_info(name), str(tmp_path / "w.pth"))
    assert torch.equal(backbone.state_dict()["model.patch_embed.proj.weight"], kernel)


def test_a_file_of_another_size_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    torch.save(dinov2().float().state_dict(), tmp_path / "w.pth")
    name = "timm/vit_small_patch14_dinov2"
    with pytest.raises(
        CheckpointError,
        match=r"has no vit_small_patch14_dinov2 that fits.*timm's key names, or those of Hugging Face's DINOv2, Meta's",
    ):
        load_imagenet(build_backbone(name, output_stride=None), backbone_info(name), str(tmp_path / "w.pth"))
