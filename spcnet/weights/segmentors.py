"""Released networks of Rein, SoMA and EoMT: recognised by the names in their files, and renamed.

The names are those of the programs' own code (mmsegmentation's Mask2Former, EoMT, Hugging Face's EoMT); no released file was at
hand when this was written.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spcnet.config import AdapterConfig, FeaturesConfig, HeadConfig, ModelConfig
from spcnet.errors import CheckpointError
from spcnet.weights.timm_names import Rules, Tensors, joined, renamed_by

SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
"""timm's names of DINOv2's sizes, by their width."""
TAPS = {12: [2, 5, 8, 11], 24: [7, 11, 15, 23]}
"""Blocks that Rein and SoMA read, by the number of blocks."""
LAST_BLOCKS = re.compile(r"(?:blocks|layers)\.(\d+)\.")


class Released(NamedTuple):
    """A network of another program, as one of this package."""

    maker: str
    """The program, for messages."""
    model: ModelConfig
    """Its settings; without weights of the backbone where the file has them."""
    num_classes: int
    tensors: Tensors
    """By the names of `Segmentor`; of the backbone those that the file has."""
    updates: Tensors
    """SoMA's B A by the names of the weights that they are added to, from which its start was taken off."""
    rank: int
    """Of these; 0 where there are none."""
    ignored: tuple[str, ...]
    """Names in the file that only training uses."""

    @property
    def has_backbone(self) -> bool:
        """Whether the file has the backbone, too."""
        return "backbone.model.patch_embed.proj.weight" in self.tensors


_PIXEL_LAYER = {
    "self_attn.sampling_offsets": "attention.offsets",
    "self_attn.attention_weights": "attention.weights",
    "self_attn.value_proj": "attention.value",
    "self_attn.output_proj": "attention.out",
    "norms.0": "attention_norm",
    "norms.1": "norm",
    "ffn.layers.0.0": "feed_forward.0",
    "ffn.layers.1": "feed_forward.2",
}
_QUERY_LAYER = {
    "cross_attn.attn": "read",
    "self_attn.attn": "exchange",
    "norms.0": "read_norm",
    "norms.1": "exchange_norm",
    "norms.2": "norm",
    "ffn.layers.0.0": "feed_forward.0",
    "ffn.layers.1": "feed_forward.2",
}
_CONVOLUTIONS = {"input": "projections", "lateral": "laterals", "output": "smooth"}
_MASK2FORMER: Rules = (
    *(
        (rf"pixel_decoder\.{theirs}_convs\.(\d+)\.{part}\.", rf"pixels.{ours}.\1.{number}.")
        for theirs, ours in _CONVOLUTIONS.items()
        for number, part in enumerate(("conv", "gn"))
    ),
    *(
        (rf"{start}\.layers\.(\d+)\.{re.escape(theirs)}\.", rf"{own}.\1.{ours}.")
        for start, own, names in (
            (r"pixel_decoder\.encoder", "pixels.encoder.layers", _PIXEL_LAYER),
            ("transformer_decoder", "layers", _QUERY_LAYER),
        )
        for theirs, ours in names.items()
    ),
    (r"pixel_decoder\.level_encoding\.weight$", "pixels.encoder.level_embedding"),
    (r"pixel_decoder\.mask_feature\.", "pixels.to_masks."),
    (r"transformer_decoder\.post_norm\.", "norm."),
    (r"level_embed\.weight$", "level_embedding"),
    (r"query_embed\.weight$", "positions"),
    (r"query_feat\.weight$", "content"),
    (r"cls_embed\.", "to_class."),
    (r"mask_embed\.", "to_mask."),
)
_EOMT_HEAD: Rules = (
    (r"q\.weight$|query\.weight$", "queries"),
    (r"(?:class_head|class_predictor)\.", "to_class."),
    (r"mask_head\.fc1\.", "to_mask.0."),
    (r"mask_head\.fc2\.", "to_mask.2."),
    (r"mask_head\.fc3\.", "to_mask.4."),
    (r"mask_head\.(\d)\.", r"to_mask.\1."),
    (r"(?:upscale|upscale_block\.block)\.(\d)\.conv1\.", r"upscale.\1.0."),
    (r"(?:upscale|upscale_block\.block)\.(\d)\.conv2\.", r"upscale.\1.2."),
    (r"(?:upscale|upscale_block\.block)\.(\d)\.(?:norm|layernorm2d)\.", r"upscale.\1.3."),
)
_EOMT_HF_BACKBONE: Rules = (
    (r"embeddings\.position_embeddings\.weight$", "pos_embed"),
    (r"embeddings\.register_tokens$", "reg_token"),
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"layers\.(\d+)\.attention\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"layers\.(\d+)\.attention\.([qkv])_proj\.", r"blocks.\1.attn.\2."),
    (r"layers\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"layers\.(\d+)\.", r"blocks.\1."),
    (r"layernorm\.", "norm."),
)


def released(tensors: Mapping[str, Tensor], path: Path) -> Released | None:
    """The network of a reading of a file, by this package's names; None where it is none of these.

    Raises:
        CheckpointError: it is one of them, of a kind that cannot be opened.
    """
    if "decode_head.pixel_decoder.mask_feature.weight" in tensors:
        return _of_mmsegmentation(tensors, path)
    if {"q.weight", "class_head.weight", "upscale.0.conv1.weight"} <= tensors.keys():
        return _eomt(tensors, path, "EoMT", _of(tensors, "encoder.backbone."))
    if {"query.weight", "class_predictor.weight", "upscale_block.block.0.conv1.weight"} <= tensors.keys():
        named = {
            name: value for name, value in tensors.items() if name.startswith(("embeddings.", "layers.", "layernorm."))
        }
        backbone = joined(renamed_by(_EOMT_HF_BACKBONE, named))
        if "pos_embed" in backbone:
            backbone["pos_embed"] = backbone["pos_embed"][None]
        return _eomt(tensors, path, "Hugging Face's EoMT", backbone)
    return None


def _of(tensors: Mapping[str, Tensor], start: str) -> Tensors:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _ours(head: Tensors, backbone: Tensors) -> Tensors:
    return {f"decoder.{k}": v for k, v in head.items()} | {f"backbone.model.{k}": v for k, v in backbone.items()}


def _size(width: int, path: Path, maker: str) -> str:
    if width not in SIZES:
        raise CheckpointError(
            f"{path} is {maker} on a backbone of {width} channels, which is no DINOv2 ViT: only those are opened "
            f"({', '.join(map(str, SIZES))})"
        )
    return SIZES[width]


def _depth(tensors: Mapping[str, Tensor]) -> int:
    return 1 + max((int(match[1]) for name in tensors if (match := LAST_BLOCKS.search(name))), default=-1)


def _side(backbone: Mapping[str, Tensor], prefix: int) -> int:
    """Cells a side of the grid of learned positions."""
    return math.isqrt(backbone["pos_embed"].shape[1] - prefix)


def _eomt(tensors: Mapping[str, Tensor], path: Path, maker: str, backbone: Tensors) -> Released:
    if "pos_embed" not in backbone or "reg_token" not in backbone:
        raise CheckpointError(
            f"{path} is {maker} on another backbone than DINOv2 with registers, as the versions for DINOv3 are, whose files hold "
            "differences to weights that have to be fetched from Meta: it is recognised and not opened"
        )
    width = backbone["pos_embed"].shape[2]
    head = renamed_by(
        _EOMT_HEAD,
        {k: v for k, v in tensors.items() if not k.startswith(("encoder.", "embeddings.", "layers.", "layernorm."))},
    )
    ignored = tuple(name for name in ("attn_mask_probs", "criterion.empty_weight") if head.pop(name, None) is not None)
    ignored += tuple(name for name in list(head) if name.startswith("criterion.") and head.pop(name) is not None)
    model = ModelConfig(
        backbone=f"timm/vit_{_size(width, path, maker)}_patch14_reg4_dinov2",
        features=FeaturesConfig(
            pyramid="none", patch_size=backbone["patch_embed.proj.weight"].shape[-1], grid=_side(backbone, 0)
        ),
        decoder="eomt",
        head=HeadConfig(queries=len(head["queries"]), blocks=len(tensors.get("attn_mask_probs", torch.ones(4)))),
        output_stride=None,
        weights=None,
    )
    return Released(maker, model, len(head["to_class.bias"]) - 1, _ours(head, backbone), {}, 0, ignored)


def _of_mmsegmentation(tensors: Mapping[str, Tensor], path: Path) -> Released:
    """Rein, SoMA, or a frozen or wholly trained DINOv2, each under mmsegmentation's Mask2Former."""
    backbone_tensors, head = _of(tensors, "backbone."), renamed_by(_MASK2FORMER, _of(tensors, "decode_head."))
    reins = _of(backbone_tensors, "reins.")
    low = any(".lora_" in name for name in backbone_tensors)
    maker = "Rein" if reins else "SoMA" if low else "Mask2Former on DINOv2"
    plain = {k.removeprefix("model."): v for k, v in backbone_tensors.items() if not k.startswith("reins.")}
    factors = {k: plain.pop(k) for k in list(plain) if ".lora_" in k}
    ignored = tuple(f"backbone.{k}" for k in backbone_tensors if k.endswith("mask_token"))
    depth, width = _depth({**plain, **factors}), _width(plain, factors, reins)
    if reins:
        if "learnable_tokens_a" not in reins:
            raise CheckpointError(f"{path} is Rein without low rank (learnable_tokens): only its usual form is opened")
        depth = len(reins["learnable_tokens_a"])
    if depth not in TAPS:
        raise CheckpointError(
            f"{path} is {maker} on a backbone of {depth} blocks: DINOv2 of {', '.join(map(str, TAPS))} blocks is opened"
        )
    backbone = joined(plain)  # whose other names are timm's
    features: dict[str, object] = {"taps": TAPS[depth]}
    if "pos_embed" in backbone:
        features["grid"] = _side(backbone, 1)
    adapter = AdapterConfig()
    if reins:
        a = reins["learnable_tokens_a"]
        adapter = AdapterConfig(kind="rein", tokens=a.shape[1], rank=a.shape[2])
        head |= _queries(reins, head)
    layers = 1 + max(int(name.split(".")[1]) for name in head if name.startswith("layers."))
    model = ModelConfig(
        backbone=f"timm/vit_{_size(width, path, maker)}_patch14_dinov2",
        features=FeaturesConfig(**features),  # type: ignore[arg-type]
        adapter=adapter,
        decoder="mask2former",
        head=HeadConfig(queries=len(head["positions"]), layers=layers),
        output_stride=None,
        weights=None,
    )
    ours = _ours(head, backbone) | _rein(reins)
    rank = next((len(low) for name, low in factors.items() if name.endswith("lora_A.weight")), 0)
    return Released(maker, model, len(head["to_class.bias"]) - 1, ours, _products(factors), rank, ignored)


def _width(plain: Mapping[str, Tensor], factors: Mapping[str, Tensor], reins: Mapping[str, Tensor]) -> int:
    if reins:
        return reins["mlp_delta_f.weight"].shape[0]
    if "cls_token" in plain:
        return plain["cls_token"].shape[-1]
    return next((v.shape[1] for k, v in factors.items() if k.endswith("attn.q.lora_A.weight")), 0)


def _queries(reins: Mapping[str, Tensor], head: Tensors) -> Tensors:
    """The queries that Rein computes from its tokens: the same for every image, so plain parameters here."""
    tokens = reins["learnable_tokens_a"] @ reins["learnable_tokens_b"]
    low = F.linear(tokens, reins["transform.weight"], reins["transform.bias"])
    three = torch.stack([low.amax(0), low.mean(0), low[-1]], dim=-1)  # of each channel side by side, as they are merged
    positions = F.linear(three.flatten(1), reins["merge.weight"], reins["merge.bias"])
    tensors = {"positions": positions}
    if "querys2feat.weight" in head:
        tensors["content"] = F.linear(positions, head.pop("querys2feat.weight"), head.pop("querys2feat.bias"))
    return tensors


def _rein(reins: Mapping[str, Tensor]) -> Tensors:
    if not reins:
        return {}
    tensors = {"rein.scales.0": reins.get("scale", torch.tensor(1.0))}
    for ours, theirs in (("token_layers", "mlp_token2feat"), ("feature_layers", "mlp_delta_f")):
        tensors |= {f"rein.{ours}.0.{leaf}": reins[f"{theirs}.{leaf}"] for leaf in ("weight", "bias")}
    for part in "ab":
        tensors |= {f"rein.{part}.{number}": one for number, one in enumerate(reins[f"learnable_tokens_{part}"])}
    return tensors


def _products(factors: Mapping[str, Tensor]) -> Tensors:
    """B A of each layer that SoMA adapts, those of queries, keys and values below one another."""
    products: Tensors = {}
    for name, low in factors.items():
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            products[f"{layer}.weight"] = (factors[f"{layer}.lora_B.weight"].double() @ low.double()).to(low.dtype)
    return {f"backbone.model.{name}": value for name, value in joined(products).items()}
