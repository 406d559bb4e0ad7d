"""Plain vision transformers of timm: against timm's own maps, and what only they offer."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from spcnet.config import FeaturesConfig
from spcnet.errors import UsageError
from spcnet.models.backbones import build_backbone
from spcnet.models.backbones.timm_vit import TimmViT

PLAIN = ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224"]
EACH = pytest.mark.parametrize("name", PLAIN)


def vit(name: str, output_stride: int | None = None, **features: Any) -> TimmViT:
    torch.manual_seed(0)
    backbone = build_backbone(f"timm/{name}", output_stride=output_stride, features=FeaturesConfig(**features))
    assert isinstance(backbone, TimmViT)
    for key, value in backbone.named_parameters():
        if key.endswith((".gamma", ".gamma_1", ".gamma_2")):  # layer scale starts so small that blocks would do nothing
            torch.nn.init.ones_(value)
    return backbone.eval()


def image(*size: int) -> Tensor:
    return torch.randn(*(size or (2, 3, 64, 96)), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", [*PLAIN, pytest.param("samvit_base_patch16_224", marks=pytest.mark.slow)])
def test_the_maps_of_blocks_are_timm_s_intermediates(name: str, norm: bool) -> None:
    if norm and name.startswith(("sam", "eva02")):
        pytest.skip("timm applies a neck there, and no norm here")
    patch = timm.create_model(name).patch_embed.patch_size[0]
    # Rotary positions are computed for any size, and timm's SAM of this size has relative ones alone.
    resample = {} if name.startswith("sam") or "dinov3" in name else {"resample": "exact"}
    backbone = vit(name, pyramid="none", patch_size=patch, norm=norm, **resample).double()
    free = {} if name.startswith("sam") else {"dynamic_img_size": True}
    theirs = timm.create_model(name, num_classes=0, **free).double().eval()
    theirs.load_state_dict({k.removeprefix("model."): v for k, v in backbone.state_dict().items()}, strict=False)
    given = image(1, 3, 4 * patch, 6 * patch).double()
    taps = [int(place.removeprefix("block")) for place in backbone.pyramid]
    with torch.no_grad():
        wanted = theirs.forward_intermediates(given, indices=taps, intermediates_only=True, norm=norm)
        found = backbone.features(given, backbone.pyramid)
    for ours, expected in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_plain_and_exact_positions_differ() -> None:
    plain, exact = (vit("vit_tiny_patch16_224", resample=resample) for resample in ("plain", "exact"))
    with torch.no_grad():
        one, other = (backbone.features(image(), ["block11"])["block11"] for backbone in (plain, exact))
    assert not torch.allclose(one, other, atol=1e-3)


def test_plain_positions_are_a_bicubic_resize_that_leaves_the_class_token() -> None:
    backbone = vit("vit_small_patch14_dinov2")
    learned = backbone.model.pos_embed
    grid = learned[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    wanted = (
        F.interpolate(grid, size=(4, 6), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).reshape(1, 24, -1)
    )
    found = backbone._positions((4, 6))
    assert found is not None
    assert torch.equal(found[:, :1], learned[:, :1])
    assert torch.allclose(found[:, 1:], wanted)


@pytest.mark.parametrize(
    ("output_stride", "strides"), [(None, [4, 8, 16, 32]), (16, [4, 8, 16, 16]), (8, [4, 8, 8, 8])]
)
@pytest.mark.parametrize("pyramid", ["resize", "deconv"])
def test_the_pyramid_ends_at_the_output_stride(pyramid: str, output_stride: int | None, strides: list[int]) -> None:
    backbone = vit("vit_tiny_patch16_224", output_stride, pyramid=pyramid)
    with torch.no_grad():
        maps = backbone.features(image(), backbone.pyramid)
    assert [backbone.strides[place] for place in backbone.pyramid] == strides
    assert [feature.shape[2:] for feature in maps.values()] == [(64 // stride, 96 // stride) for stride in strides]


def test_the_pyramid_by_resize_is_rein_s() -> None:
    raw, backbone = vit("vit_tiny_patch16_224", pyramid="none"), vit("vit_tiny_patch16_224")
    with torch.no_grad():
        plain, scaled = (one.features(image(), one.pyramid).values() for one in (raw, backbone))
    for factor, before, after in zip((4, 2, 1, 0.5), plain, scaled, strict=True):
        wanted = F.interpolate(before, scale_factor=factor, mode="bilinear", align_corners=False)
        assert torch.allclose(after, wanted, atol=1e-6)


def test_a_learned_pyramid_is_trained_and_not_pretrained() -> None:
    backbone = vit("vit_tiny_patch16_224", pyramid="deconv").train()
    sum(feature.square().mean() for feature in backbone.features(image(), backbone.pyramid).values()).backward()  # type: ignore[union-attr]
    learned = {name for name, _ in backbone.named_parameters() if name.startswith("scales.")}
    assert learned
    assert all(value.grad is not None for value in backbone.scales.parameters())
    assert not learned & (backbone.depths().keys() | backbone.published.keys())


@EACH
def test_depths_count_the_embedding_the_blocks_and_the_norm(name: str) -> None:
    depths = vit(name).depths()
    assert {depth for key, depth in depths.items() if ".blocks." not in key and "norm." not in key} == {0}
    assert all(depth == int(key.split(".")[2]) + 1 for key, depth in depths.items() if ".blocks." in key)
    assert {depth for key, depth in depths.items() if key.startswith(("model.norm.", "model.fc_norm."))} == {13}


def test_tokens_and_positions_are_embeddings() -> None:
    assert vit("vit_small_patch14_reg4_dinov2").embeddings() == {
        "model.cls_token",
        "model.reg_token",
        "model.pos_embed",
    }


@EACH
def test_a_tap_leaves_class_and_register_tokens_alone(name: str) -> None:
    backbone = vit(name)
    with torch.no_grad():
        tokens, state = backbone.tokens_before(2, image(1, 3, 64, 64))
        tapped, _ = backbone.tokens_before(
            2, image(1, 3, 64, 64), lambda place, feature: torch.zeros_like(feature) if place == "block1" else feature
        )
    assert torch.equal(tapped[:, : backbone.prefix], tokens[:, : backbone.prefix])
    assert not tapped[:, backbone.prefix :].any()
    assert backbone.patch_map(tokens, state).shape == (1, backbone.embed_dim, *backbone.grid(state))


@EACH
def test_queries_before_the_tokens_change_them_only_through_attention(name: str) -> None:
    backbone = vit(name)
    with torch.no_grad():
        tokens, state = backbone.tokens_before(8, image(2, 3, 64, 64))
        number, queries = tokens.shape[1], torch.randn(2, 5, backbone.embed_dim)
        mask = torch.ones(number + 5, number + 5, dtype=torch.bool)
        mask[5:, :5] = False
        joined = backbone.run_block(8, torch.cat([queries, tokens], 1), state, mask)
        assert torch.allclose(joined[:, 5:], backbone.run_block(8, tokens, state), atol=1e-5)
        free = backbone.run_block(8, torch.cat([queries, tokens], 1), state)
        assert not torch.allclose(free[:, 5:], joined[:, 5:], atol=1e-5)
        # Queries have no place: their order is theirs alone.
        turned = backbone.run_block(8, torch.cat([queries.flip(1), tokens], 1), state)
        assert torch.allclose(turned[:, :5].flip(1), free[:, :5], atol=1e-5)
        assert torch.allclose(turned[:, 5:], free[:, 5:], atol=1e-5)


@pytest.mark.slow
def test_sam_s_windows_take_no_queries() -> None:
    backbone = vit("samvit_base_patch16_224", taps=[0, 1, 2, 3])
    tokens, state = backbone.embed(image(1, 3, 48, 48))
    with pytest.raises(UsageError, match="look at windows and take no queries"):
        backbone.run_block(0, torch.cat([tokens[:, :1], tokens], 1), state)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"taps": [2, 5, 8, 12]}, r"features\.taps is \[2, 5, 8, 12\]: give distinct block indices of 0\.\.11"),
        ({"taps": [5, 2, 8, 11]}, "in ascending order"),
        ({"taps": [5, 11]}, "names 2 blocks: the pyramid has four maps"),
        ({"taps": [11], "pyramid": "none"}, "name two blocks at least"),
    ],
)
def test_taps_that_do_not_exist_are_refused(features: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        vit("vit_tiny_patch16_224", **features)


def test_blocks_behind_the_last_tap_are_left_out() -> None:
    backbone = vit("vit_tiny_patch16_224", taps=[1, 3, 5, 7])
    assert len(backbone.blocks) == 8
    assert not [key for key in backbone.published if ".blocks.8." in key]


def test_without_a_pyramid_the_output_stride_is_the_patch() -> None:
    with pytest.raises(
        UsageError, match=r"all maps have the stride of the patches, 16: set model\.output_stride to null"
    ):
        vit("vit_tiny_patch16_224", 8, pyramid="none")


def test_stochastic_depth_grows_with_the_block() -> None:
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit("vit_tiny_patch16_224", drop_path=0.2).blocks]
    assert rates == pytest.approx([0.2 * number / 11 for number in range(12)])


@EACH
def test_baked_positions_are_those_of_the_size(name: str) -> None:
    backbone, given = vit(name), image(1, 3, 64, 96)
    with torch.no_grad():
        before = backbone.features(given, backbone.pyramid)
        backbone.bake(64, 96)
        after = backbone.features(given, backbone.pyramid)
    assert all(torch.equal(before[place], after[place]) for place in before)
    assert not {"baked_positions", "baked_rope"} & backbone.state_dict().keys()
