"""Files of Rein, SoMA and EoMT, made from the names that their programs give, become networks that compute the same."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spcnet.commands.convert import convert
from spcnet.config import AdapterConfig, FeaturesConfig, HeadConfig, ModelConfig
from spcnet.convert import load_foreign
from spcnet.errors import CheckpointError, UsageError
from spcnet.methods import method_named
from spcnet.models.network import Segmentor, semantic_logits
from spcnet.runs import OpenRun
from spcnet.types import MaskPrediction

K, QUERIES = 19, 7


def image(side: int = 64) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def scattered(network: torch.nn.Module) -> None:
    """Every number drawn, so that no layer scale or bias hides a mistake."""
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=dice) * 0.05)


# EoMT -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eomt() -> Any:
    """Hugging Face's EoMT on DINOv2 ViT-S with registers, for images of 64 pixels."""
    module = pytest.importorskip("transformers", exc_type=ImportError)
    config = module.EomtConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=64,
        patch_size=16,
        num_blocks=3,
        num_upscale_blocks=2,
        num_queries=QUERIES,
        num_labels=K,
    )
    torch.manual_seed(0)
    model = module.EomtForUniversalSegmentation(config).eval()
    scattered(model)
    model.attn_mask_probs.fill_(0.0)  # as trained to the end
    return model


def own_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """EoMT's own names, whose transformer is timm's."""
    found: dict[str, Tensor] = {}
    for name, value in theirs.items():
        if (part := re.fullmatch(r"layers\.(\d+)\.attention\.([qkv])_proj\.(weight|bias)", name)) is not None:
            if part[2] == "q":
                three = [theirs[f"layers.{part[1]}.attention.{one}_proj.{part[3]}"] for one in "qkv"]
                found[f"network.encoder.backbone.blocks.{part[1]}.attn.qkv.{part[3]}"] = torch.cat(three)
            continue
        new = name
        for old, other in (
            (r"^embeddings\.position_embeddings\.weight", "encoder.backbone.pos_embed"),
            (r"^embeddings\.register_tokens", "encoder.backbone.reg_token"),
            (r"^embeddings\.cls_token", "encoder.backbone.cls_token"),
            (r"^embeddings\.patch_embeddings\.projection", "encoder.backbone.patch_embed.proj"),
            (r"^layers\.(\d+)\.attention\.out_proj", r"encoder.backbone.blocks.\1.attn.proj"),
            (r"^layers\.(\d+)\.layer_scale(\d)\.lambda1", r"encoder.backbone.blocks.\1.ls\2.gamma"),
            (r"^layers\.", "encoder.backbone.blocks."),
            (r"^layernorm\.", "encoder.backbone.norm."),
            (r"^query\.weight", "q.weight"),
            (r"^class_predictor", "class_head"),
            (r"^mask_head\.fc1", "mask_head.0"),
            (r"^mask_head\.fc2", "mask_head.2"),
            (r"^mask_head\.fc3", "mask_head.4"),
            (r"^upscale_block\.block", "upscale"),
            (r"layernorm2d", "norm"),
        ):
            new = re.sub(old, other, new)
        found[new if new.startswith("criterion") else f"network.{new}"] = value
    found["network.encoder.backbone.pos_embed"] = found["network.encoder.backbone.pos_embed"][None]
    found["network.encoder.pixel_mean"] = torch.zeros(1, 3, 1, 1)
    return found


@pytest.mark.parametrize("names", ["Hugging Face's EoMT", "EoMT"])
def test_eomt_gives_what_transformers_gives(eomt: Any, names: str, tmp_path: Path) -> None:
    theirs = dict(eomt.state_dict())
    torch.save({"state_dict": theirs if "Hugging" in names else own_names(theirs)}, tmp_path / "w")
    network, card, report = load_foreign(tmp_path / "w")
    assert report.format == f"{names} (state_dict{'.network' if names == 'EoMT' else ''})"
    assert not report.missing
    assert card.model["backbone"] == "timm/vit_small_patch14_reg4_dinov2"
    assert card.space == "cityscapes19"
    with torch.no_grad():
        told = eomt(pixel_values=image())
        wanted = semantic_logits(MaskPrediction(told.class_queries_logits, told.masks_queries_logits))
        found = network(image()).logits
    wanted = F.interpolate(wanted, size=found.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_converted_eomt_is_a_file_of_this_package(eomt: Any, tmp_path: Path) -> None:
    torch.save(dict(eomt.state_dict()), tmp_path / "w")
    convert(tmp_path / "w", tmp_path / "ours.safetensors")
    network, *_ = load_foreign(tmp_path / "w")
    with torch.no_grad():
        torch.testing.assert_close(
            OpenRun(tmp_path / "ours.safetensors").network(image()).logits, network(image()).logits
        )


def test_eomt_that_is_cut_off_or_of_dinov3_is_refused(eomt: Any, tmp_path: Path) -> None:
    theirs = dict(eomt.state_dict())
    torch.save({k: v for k, v in theirs.items() if k != "mask_head.fc2.bias"}, tmp_path / "cut")
    with pytest.raises(
        CheckpointError, match=r"Hugging Face's EoMT on vit_small.*lacks 1 tensors, decoder.to_mask.2.bias"
    ):
        load_foreign(tmp_path / "cut")
    torch.save({k: v for k, v in theirs.items() if "position_embeddings" not in k}, tmp_path / "v3")
    with pytest.raises(CheckpointError, match=r"another backbone than DINOv2.*recognised and not opened"):
        load_foreign(tmp_path / "v3")


# mmsegmentation's Mask2Former on DINOv2 ---------------------------------------------------------------------------------


def ours_of(adapter: AdapterConfig, weights: str | None = None, grid: int | None = None) -> Segmentor:
    model = ModelConfig(
        backbone="timm/vit_small_patch14_dinov2",
        features=FeaturesConfig(taps=[2, 5, 8, 11], grid=grid),
        adapter=adapter,
        decoder="mask2former",
        head=HeadConfig(queries=QUERIES, layers=3),
        output_stride=None,
        weights=weights,
    )
    torch.manual_seed(0)
    return method_named("deeplabv3plus").build(model, num_classes=K, num_domains=1)


HEAD = (
    (r"^pixels\.projections\.(\d)\.0", r"pixel_decoder.input_convs.\1.conv"),
    (r"^pixels\.projections\.(\d)\.1", r"pixel_decoder.input_convs.\1.gn"),
    (r"^pixels\.laterals\.(\d)\.0", r"pixel_decoder.lateral_convs.\1.conv"),
    (r"^pixels\.laterals\.(\d)\.1", r"pixel_decoder.lateral_convs.\1.gn"),
    (r"^pixels\.smooth\.(\d)\.0", r"pixel_decoder.output_convs.\1.conv"),
    (r"^pixels\.smooth\.(\d)\.1", r"pixel_decoder.output_convs.\1.gn"),
    (r"^pixels\.to_masks", "pixel_decoder.mask_feature"),
    (r"^pixels\.encoder\.level_embedding", "pixel_decoder.level_encoding.weight"),
    (r"^pixels\.encoder\.layers", "pixel_decoder.encoder.layers"),
    (r"attention\.offsets", "self_attn.sampling_offsets"),
    (r"attention\.weights", "self_attn.attention_weights"),
    (r"attention\.value", "self_attn.value_proj"),
    (r"attention\.out", "self_attn.output_proj"),
    (r"(pixel_decoder.*)attention_norm", r"\1norms.0"),
    (r"(pixel_decoder\.encoder\.layers\.\d)\.norm\.", r"\1.norms.1."),
    (r"feed_forward\.0", "ffn.layers.0.0"),
    (r"feed_forward\.2", "ffn.layers.1"),
    (r"^layers\.(\d)\.read_norm", r"transformer_decoder.layers.\1.norms.0"),
    (r"^layers\.(\d)\.exchange_norm", r"transformer_decoder.layers.\1.norms.1"),
    (r"^layers\.(\d)\.norm\.", r"transformer_decoder.layers.\1.norms.2."),
    (r"^layers\.(\d)\.read\.", r"transformer_decoder.layers.\1.cross_attn.attn."),
    (r"^layers\.(\d)\.exchange\.", r"transformer_decoder.layers.\1.self_attn.attn."),
    (r"^layers\.(\d)\.ffn", r"transformer_decoder.layers.\1.ffn"),
    (r"^norm\.", "transformer_decoder.post_norm."),
    (r"^level_embedding", "level_embed.weight"),
    (r"^positions", "query_embed.weight"),
    (r"^content", "query_feat.weight"),
    (r"^to_class", "cls_embed"),
    (r"^to_mask\.", "mask_embed."),
)


def head_of(network: Segmentor) -> dict[str, Tensor]:
    found = {}
    for name, value in network.decoder.state_dict().items():
        for ours, theirs in HEAD:
            name = re.sub(ours, theirs, name)
        found[f"decode_head.{name}"] = value
    return found


def backbone_of(network: Segmentor, *, split: bool = False) -> dict[str, Tensor]:
    """Meta's names of DINOv2, as in Rein's files; in SoMA's queries, keys and values are apart."""
    found = {"mask_token": torch.zeros(1, 384)}
    for name, value in network.backbone.state_dict().items():
        theirs = name.removeprefix("model.")
        if split and ".qkv." in theirs:
            found |= {theirs.replace("qkv", part): one for part, one in zip("qkv", value.chunk(3), strict=True)}
        else:
            found[theirs] = value
    return found


def base_of(network: Segmentor, path: Path) -> Path:
    """The pretrained backbone in a file of its own."""
    torch.save(backbone_of(network) | {"norm.weight": torch.ones(384), "norm.bias": torch.zeros(384)}, path)
    return path


def same(one: Segmentor, other: Segmentor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(one.eval()(image()).logits, other.eval()(image()).logits, rtol=1e-3, atol=1e-4)


def rein_file(network: Segmentor) -> dict[str, Tensor]:
    """Rein's tensors, with queries that come of its tokens; they are put into the network, which has its own."""
    dice = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=dice) * 0.1

    rein: Any = network.rein
    decoder: Any = network.decoder
    tensors = {
        "learnable_tokens_a": torch.stack(list(rein.a)).detach(),
        "learnable_tokens_b": torch.stack(list(rein.b)).detach(),
        "scale": rein.scales[0].detach(),
        "mlp_token2feat.weight": rein.token_layers[0].weight.detach(),
        "mlp_token2feat.bias": rein.token_layers[0].bias.detach(),
        "mlp_delta_f.weight": rein.feature_layers[0].weight.detach(),
        "mlp_delta_f.bias": rein.feature_layers[0].bias.detach(),
        "transform.weight": drawn(256, 384),
        "transform.bias": drawn(256),
        "merge.weight": drawn(256, 768),
        "merge.bias": drawn(256),
    }
    # As Rein's code pools them: over the layers, behind queries and channels.
    tokens = (tensors["learnable_tokens_a"] @ tensors["learnable_tokens_b"]) @ tensors["transform.weight"].T
    tokens = (tokens + tensors["transform.bias"]).permute(1, 2, 0)
    depth = tokens.shape[2]
    pooled = [F.max_pool1d(tokens, depth), F.avg_pool1d(tokens, depth), tokens[:, :, -1:]]
    positions = torch.cat(pooled, -1).flatten(1) @ tensors["merge.weight"].T + tensors["merge.bias"]
    to_content, bias = drawn(256, 256), drawn(256)
    decoder.positions.data.copy_(positions)
    decoder.content.data.copy_(positions @ to_content.T + bias)
    head = {k: v for k, v in head_of(network).items() if "query_" not in k}
    head |= {"decode_head.querys2feat.weight": to_content, "decode_head.querys2feat.bias": bias}
    return head | {f"backbone.reins.{name}": value for name, value in tensors.items()}


REIN = AdapterConfig(kind="rein", tokens=QUERIES, rank=4)


@pytest.mark.slow
def test_rein_with_its_backbone_beside_it(tmp_path: Path) -> None:
    network = ours_of(REIN)
    scattered(network)
    network.rein.scales[0].data.fill_(0.5)  # type: ignore[union-attr, operator]
    torch.save({"state_dict": rein_file(network)}, tmp_path / "rein.pth")
    base = base_of(network, tmp_path / "dinov2.pth")
    found, card, report = load_foreign(tmp_path / "rein.pth", base=base)
    assert report.format == "Rein (state_dict)"
    assert card.model["adapter"]["kind"] == "rein"
    same(found, network)
    convert(tmp_path / "rein.pth", tmp_path / "ours.safetensors", base=base)
    with pytest.raises(CheckpointError, match=r"is Rein without its backbone.*--base FILE.*vit_small_patch14_dinov2"):
        load_foreign(tmp_path / "rein.pth")


def test_rein_with_its_backbone_in_it(tmp_path: Path) -> None:
    network = ours_of(REIN, grid=4)
    scattered(network)
    whole = rein_file(network) | {f"backbone.{name}": value for name, value in backbone_of(network).items()}
    torch.save(whole, tmp_path / "rein.pth")
    found, card, _ = load_foreign(tmp_path / "rein.pth")
    assert card.model["features"]["grid"] == 4
    same(found, network)
    with pytest.raises(UsageError, match=r"Rein with its backbone: leave out --base"):
        load_foreign(tmp_path / "rein.pth", base=tmp_path / "rein.pth")


def soma_of(plain: Segmentor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What SoMA trains, for the last blocks: the whole, and what it leaves of the pretrained weights. The network follows."""
    dice = torch.Generator().manual_seed(5)
    low: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    state = plain.backbone.state_dict()
    for number in (10, 11):
        for layer in ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"):
            ours = re.sub(r"attn\.[qkv]$", "attn.qkv", layer)
            whole = state[f"model.blocks.{number}.{ours}.weight"]
            part = whole if ours == layer else whole.chunk(3)["qkv".index(layer[-1])]
            u, s, v = torch.linalg.svd(part)
            rest = part - u[:, s.argsort()[:4]] * s[s.argsort()[:4]] @ v[: len(s)][s.argsort()[:4]]
            b, a = torch.randn(len(part), 4, generator=dice) * 0.1, torch.randn(4, part.shape[1], generator=dice) * 0.1
            part.copy_(rest + b @ a)
            low |= {f"blocks.{number}.{layer}.lora_A.weight": a, f"blocks.{number}.{layer}.lora_B.weight": b}
            frozen[f"blocks.{number}.{layer}.weight"] = rest.clone()
    return low, frozen


@pytest.mark.slow
def test_soma_with_its_backbone_beside_it_and_in_it(tmp_path: Path) -> None:
    network = ours_of(AdapterConfig())
    scattered(network)
    base = base_of(network, tmp_path / "dinov2.pth")
    low, frozen = soma_of(network)
    split = backbone_of(network, split=True)
    biases = {k: v for k, v in split.items() if re.search(r"blocks\.1[01]\.(attn|mlp).*bias", k)}
    head = head_of(network)
    own = {f"backbone.model.{name}": value for name, value in (low | biases).items()}
    torch.save({"state_dict": head | own, "message_hub": {}}, tmp_path / "soma.pth")
    found, card, report = load_foreign(tmp_path / "soma.pth", base=base)
    assert report.format == "SoMA (state_dict)"
    assert card.model["adapter"]["kind"] == "full", "the update is added to the weights"
    same(found, network)
    whole = {f"backbone.model.{name}": value for name, value in (split | low | frozen).items()}
    torch.save({"state_dict": head | whole}, tmp_path / "whole.pth")
    same(load_foreign(tmp_path / "whole.pth")[0], network)


@pytest.mark.slow
def test_a_frozen_backbone_under_mask2former_and_what_is_refused(tmp_path: Path) -> None:
    network = ours_of(AdapterConfig())
    scattered(network)
    whole = head_of(network) | {f"backbone.{name}": value for name, value in backbone_of(network).items()}
    torch.save(whole, tmp_path / "frozen.pth")
    same(load_foreign(tmp_path / "frozen.pth")[0], network)
    with pytest.raises(UsageError, match=r"Mask2Former on DINOv2, whose settings.*leave out output_stride"):
        load_foreign(tmp_path / "frozen.pth", output_stride=16)
    lost = "decode_head.transformer_decoder.layers.1.norms.2.weight"
    torch.save({k: v for k, v in whole.items() if k != lost}, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors, decoder.layers.1.norm.weight"):
        load_foreign(tmp_path / "cut.pth")
