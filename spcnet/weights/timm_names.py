"""Names of timm for the backbones of other programs: Hugging Face's transformers, Meta's DINOv2 and DINOv3, torchvision.

The program is recognised by the names. Tensors are not changed, except that timm fuses queries, keys and values in one
matrix, and adds the position of the class token of DINOv2 with registers beforehand.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Rules = Sequence[tuple[str, str]]
"""Pattern of a prefix, and its replacement in timm; the first match is used."""


PATCHES = ("patch_embed.proj.weight", "pos_embed")
"""timm's names of the patch embedding's kernel and of the position embedding."""


class Layout(NamedTuple):
    """Naming scheme of a program for a backbone."""

    maker: str
    """Program and backbone, for messages."""
    marks: tuple[str, ...]
    """Names that only this scheme has."""
    rules: Rules
    convert: Callable[[Tensors], Tensors] = dict[str, Tensor]
    """Further conversion after renaming."""
    family: str = ""
    """A name of timm that its models of this kind have."""


_HF_BLOCK: Rules = (
    (
        r"(?:encoder\.|model\.)?layer\.(\d+)\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.",
        r"blocks.\1.attn.\2.",
    ),
    (r"(?:encoder\.|model\.)?layer\.(\d+)\.attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
)
_HF_DINOV2: Rules = (
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.register_tokens$", "reg_token"),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    *_HF_BLOCK,
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.mlp\.(?:weights_out|down_proj)\.", r"blocks.\1.mlp.fc2."),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"layernorm\.", "norm."),
)
_HF_DINOV3: Rules = (
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.register_tokens$", "reg_token"),
    (r"embeddings\.patch_embeddings\.", "patch_embed.proj."),
    *_HF_BLOCK,
    (r"(?:model\.)?layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.gamma_\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.gate_proj\.", r"blocks.\1.mlp.fc1_g."),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.up_proj\.", r"blocks.\1.mlp.fc1_x."),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.down_proj\.", r"blocks.\1.mlp.fc2."),
    (r"(?:model\.)?layer\.(\d+)\.", r"blocks.\1."),
)
_HF_CONVNEXT: Rules = (
    (r"(?:model\.)?stages\.0\.downsample_layers\.(\d)\.", r"stem.\1."),
    (r"(?:model\.)?stages\.(\d)\.downsample_layers\.(\d)\.", r"stages.\1.downsample.\2."),
    (r"(?:model\.)?stages\.(\d)\.layers\.(\d+)\.depthwise_conv\.", r"stages.\1.blocks.\2.conv_dw."),
    (r"(?:model\.)?stages\.(\d)\.layers\.(\d+)\.layer_norm\.", r"stages.\1.blocks.\2.norm."),
    (r"(?:model\.)?stages\.(\d)\.layers\.(\d+)\.pointwise_conv([12])\.", r"stages.\1.blocks.\2.mlp.fc\3."),
    (r"(?:model\.)?stages\.(\d)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"layer_norm\.", "head.norm."),
)
_META_DINOV2: Rules = (
    (r"register_tokens$", "reg_token"),
    (r"blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # in the chunks of its training; the second number counts all blocks
)
_META_DINOV3: Rules = (
    (r"storage_tokens$", "reg_token"),
    (r"blocks\.(\d+)\.ls([12])\.gamma$", r"blocks.\1.gamma_\2"),
    (r"blocks\.(\d+)\.mlp\.w1\.", r"blocks.\1.mlp.fc1_g."),
    (r"blocks\.(\d+)\.mlp\.w2\.", r"blocks.\1.mlp.fc1_x."),
    (r"blocks\.(\d+)\.mlp\.w3\.", r"blocks.\1.mlp.fc2."),
)
_META_CONVNEXT: Rules = (
    (r"downsample_layers\.0\.(\d)\.", r"stem.\1."),
    (r"downsample_layers\.(\d)\.(\d)\.", r"stages.\1.downsample.\2."),
    (r"stages\.(\d)\.(\d+)\.dwconv\.", r"stages.\1.blocks.\2.conv_dw."),
    (r"stages\.(\d)\.(\d+)\.pwconv([12])\.", r"stages.\1.blocks.\2.mlp.fc\3."),
    (r"stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"norm\.", "head.norm."),
    (r"head\.(?=weight|bias)", "head.fc."),
)


def _torchvision_stages(stage: str, merge: str) -> Rules:
    """Torchvision numbers stages and downsampling layers as one chain, from 1."""
    return tuple(
        rule
        for number in range(4)
        for rule in (
            (rf"features\.{2 * number + 1}\.(\d+)\.", rf"{stage}.{number}.blocks.\1."),
            (rf"features\.{2 * number}\.", f"{merge.format(number)}."),
        )
    )


_TORCHVISION_CONVNEXT: Rules = (
    (r"features\.0\.([01])\.", r"stem.\1."),
    *_torchvision_stages("stages", "stages.{}.downsample"),
    (r"classifier\.0\.", "head.norm."),
    (r"classifier\.2\.", "head.fc."),
)
_TORCHVISION_SWIN: Rules = (
    (r"features\.0\.0\.", "patch_embed.proj."),
    (r"features\.0\.2\.", "patch_embed.norm."),
    *_torchvision_stages("layers", "layers.{}.downsample"),
    (r"head\.", "head.fc."),
)


_MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)
"""Blocks in each stage of MobileNetV2."""
_TIMM_BLOCK = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
_TIMM_FIRST_BLOCK = ("conv_dw", "bn1", "conv_pw", "bn2")


def mobilenet_names(maker: str) -> dict[str, str]:
    """Torchvision's name of each layer of MobileNetV2, by that of timm or mmpretrain."""
    timm = maker == "timm"
    ends = ("conv_stem", "bn1", "conv_head", "bn2") if timm else ("conv1.conv", "conv1.bn", "conv2.conv", "conv2.bn")
    names = dict(zip(ends, ("features.0.0", "features.0.1", "features.18.0", "features.18.1"), strict=True))
    blocks = [(stage, block) for stage, number in enumerate(_MOBILENET_STAGES) for block in range(number)]
    for number, (stage, block) in enumerate(blocks, start=1):
        ours = ("0.0", "0.1", "1.0", "1.1", "2", "3") if stage else ("0.0", "0.1", "1", "2")
        if timm:
            theirs = [f"blocks.{stage}.{block}.{layer}" for layer in (_TIMM_BLOCK if stage else _TIMM_FIRST_BLOCK)]
        else:
            layers = [f"{place // 2}.{('conv', 'bn')[place % 2]}" for place in range(len(ours))]
            theirs = [f"layer{stage + 1}.{block}.conv.{layer}" for layer in layers]
        names.update(zip(theirs, (f"features.{number}.conv.{place}" for place in ours), strict=True))
    return names


def joined(tensors: Tensors) -> Tensors:
    """Fuse queries, keys (whose bias may be missing) and values into one matrix; drop the mask token of pretraining."""
    fused: Tensors = {}
    for name, value in tensors.items():
        block = re.fullmatch(r"(blocks\.\d+\.attn\.)([qkv])\.(weight|bias)", name)
        if block is None:
            if name.rpartition(".")[2] != "mask_token":
                fused[name] = value
            continue
        query, key, last = (tensors.get(f"{block[1]}{part}.{block[3]}") for part in "qkv")
        if query is None or last is None or (key is None and block[3] == "weight"):
            fused[name] = value  # incomplete: reported as missing by its name
        elif block[2] == "q":
            key = torch.zeros_like(query) if key is None else key
            fused[f"{block[1]}qkv.{block[3]}"] = torch.cat([query, key, last])
    return fused


def _of_dinov2(tensors: Tensors) -> Tensors:
    """Timm's DINOv2: one matrix for both halves of SwiGLU; registers, which have no position, before the positions."""
    converted = {}
    for name, value in joined(tensors).items():
        part = re.fullmatch(r"(blocks\.\d+\.mlp\.)(w12|w3|gate_proj|up_proj)\.(weight|bias)", name)
        if part is None:
            converted[name] = value
        elif part[2] == "gate_proj" and (up := tensors.get(f"{part[1]}up_proj.{part[3]}")) is not None:
            converted[f"{part[1]}fc1.{part[3]}"] = torch.cat([value, up])
        elif part[2] != "up_proj":
            converted[f"{part[1]}{'fc1' if part[2] == 'w12' else 'fc2'}.{part[3]}"] = value
    if "reg_token" in converted and {"cls_token", "pos_embed"} <= converted.keys():
        positions = converted["pos_embed"]
        converted["cls_token"] = converted["cls_token"] + positions[:, :1]
        converted["pos_embed"] = positions[:, 1:]
    return converted


def _of_dinov3(tensors: Tensors) -> Tensors:
    """Timm's DINOv3: separate biases of queries and values, none of keys; a plain MLP is `fc1`, `fc2`."""
    converted: Tensors = {}
    gated = any(".mlp.fc1_g." in name for name in tensors)
    for name, value in joined(tensors).items():
        if name.endswith(("bias_mask", ".periods")) or name.startswith(("local_cls_norm.", "rope")):
            continue  # constants, and tensors of the training
        if name.endswith(".attn.qkv.bias"):
            query, key, last = value.chunk(3)
            if f"{name}_mask" in tensors or not key.any():  # else it is of another network, and told as such
                start = name.removesuffix("qkv.bias")
                converted |= {f"{start}q_bias": query, f"{start}v_bias": last}
                continue
        converted[name if gated else name.replace(".mlp.fc1_x.", ".mlp.fc1.")] = value
    return converted


def _of_torchvision(tensors: Tensors) -> Tensors:
    """The parts of a block of ConvNeXt or Swin, which torchvision numbers."""
    parts = {
        "block.0": "conv_dw",
        "block.2": "norm",
        "block.3": "mlp.fc1",
        "block.5": "mlp.fc2",
        "mlp.0": "mlp.fc1",
        "mlp.3": "mlp.fc2",
    }
    converted = {}
    for name, value in tensors.items():
        if name.endswith("relative_position_index"):
            continue
        block = re.fullmatch(r"((?:stages|layers)\.\d\.blocks\.\d+\.)(.+)\.(weight|bias)", name)
        if block is not None:
            converted[f"{block[1]}{parts.get(block[2], block[2])}.{block[3]}"] = value
        elif name.endswith(".layer_scale"):
            converted[f"{name.removesuffix('layer_scale')}gamma"] = value.flatten()
        else:
            converted[name] = value
    return converted


_DINOV2, _DINOV3 = "blocks.0.ls1.gamma", "blocks.0.gamma_1"
_CONVNEXT, _SWIN = "stages.0.blocks.0.conv_dw.weight", "layers.0.blocks.0.attn.relative_position_bias_table"
LAYOUTS = (
    Layout(
        "Hugging Face's DINOv2",
        ("embeddings.cls_token", "embeddings.position_embeddings", "encoder.layer.0.layer_scale1.lambda1"),
        _HF_DINOV2,
        _of_dinov2,
        _DINOV2,
    ),
    Layout(
        "Hugging Face's DINOv3",
        ("embeddings.cls_token", "embeddings.patch_embeddings.weight"),
        _HF_DINOV3,
        _of_dinov3,
        _DINOV3,
    ),
    Layout(
        "Hugging Face's ConvNeXt of DINOv3",
        ("stages.0.layers.0.depthwise_conv.weight",),
        _HF_CONVNEXT,
        family=_CONVNEXT,
    ),
    Layout(
        "Hugging Face's ConvNeXt of DINOv3",
        ("model.stages.0.layers.0.depthwise_conv.weight",),
        _HF_CONVNEXT,
        family=_CONVNEXT,
    ),
    Layout("Meta's DINOv3", ("storage_tokens", "cls_token"), _META_DINOV3, _of_dinov3, _DINOV3),
    Layout("Meta's DINOv2", ("register_tokens", "pos_embed", "cls_token"), _META_DINOV2, _of_dinov2, _DINOV2),
    Layout("Meta's DINOv2", ("mask_token", "pos_embed", "blocks.0.ls1.gamma"), _META_DINOV2, _of_dinov2, _DINOV2),
    Layout("Meta's DINOv2", ("mask_token", "pos_embed", "blocks.0.0.ls1.gamma"), _META_DINOV2, _of_dinov2, _DINOV2),
    Layout(
        "Meta's ConvNeXt",
        ("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),
        _META_CONVNEXT,
        family=_CONVNEXT,
    ),
    Layout(
        "torchvision's ConvNeXt",
        ("features.0.0.weight", "features.1.0.block.0.weight"),
        _TORCHVISION_CONVNEXT,
        _of_torchvision,
        _CONVNEXT,
    ),
    Layout(
        "torchvision's Swin",
        ("features.0.0.weight", "features.1.0.attn.qkv.weight"),
        _TORCHVISION_SWIN,
        _of_torchvision,
        _SWIN,
    ),
    Layout(
        "torchvision's MobileNetV2",
        ("features.18.0.weight", "features.1.conv.0.0.weight"),
        tuple((rf"{re.escape(theirs)}\.", f"{ours}.") for ours, theirs in mobilenet_names("timm").items()),
        family="blocks.6.0.conv_pwl.weight",
    ),
)
"""Known layouts; the first one with all its marks is used."""


def timm_names(tensors: Mapping[str, Tensor], known: Collection[str] = ()) -> tuple[str, Tensors]:
    """The naming scheme of a backbone, and its tensors by timm's names; unknown names are kept.

    Args:
        tensors: of a reading of a file.
        known: timm's names of the model that is wanted. Some of DINOv3's have no biases of queries and values, because those
            that were published are zeros; a file's are then left out where they are.
    """
    layout = next((one for one in LAYOUTS if all(mark in tensors for mark in one.marks)), None)
    if layout is None:
        return "timm", dict(tensors)
    renamed = renamed_by(layout.rules, tensors)
    if len(renamed) != len(tensors):
        return "timm", dict(tensors)  # two networks in one: reported by their names
    converted = layout.convert(renamed)
    if known:
        converted = {name: value for name, value in converted.items() if name in known or not _idle(name, value)}
    return layout.maker, converted


def makers(known: Collection[str]) -> list[str]:
    """The programs whose names for a model are understood beside timm's.

    Args:
        known: timm's names of the model.
    """
    return list(dict.fromkeys(layout.maker for layout in LAYOUTS if layout.family in known))


def renamed_by(rules: Rules, tensors: Mapping[str, Tensor]) -> Tensors:
    """Rename tensors, each by the first matching rule; others keep their names."""
    patterns = [(re.compile(pattern), end) for pattern, end in rules]
    renamed = {}
    for name, value in tensors.items():
        fits = ((match.expand(end) + name[match.end() :]) for rule, end in patterns if (match := rule.match(name)))
        renamed[next(fits, name)] = value
    return renamed


def _idle(name: str, value: Tensor) -> bool:
    """Whether a tensor is a zero bias of queries or values."""
    return name.endswith((".attn.q_bias", ".attn.v_bias")) and not value.any()
