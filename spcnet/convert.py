"""Conversion of networks from and to other code: files are recognised by content, and every tensor is accounted for.

Read are RobustNet's snapshots (`.pth`), the names of the author's SPC-Net in PyTorch, the official SPC-Net in MindSpore
(`.ckpt`), this package's own files, and ImageNet backbones (torchvision, timm, MIT CSAIL). Written is this package's format, or a state dict with RobustNet's names.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from spcnet import checkpoint
from spcnet.checkpoint import ModelCard
from spcnet.config import ModelConfig, plain_lists
from spcnet.errors import CheckpointError, UsageError
from spcnet.file_kinds import FileKind, refuse_other, split_part
from spcnet.files import write_atomic
from spcnet.labels import SPACES, label_space
from spcnet.methods import card_for, method_named, plain_network
from spcnet.methods.baseline import Baseline
from spcnet.methods.robustnet import RobustNet
from spcnet.models.backbones import backbone_info, build_backbone
from spcnet.models.network import Segmentor
from spcnet.models.norm_slots import SLOTS, Slot, slots_of_codes
from spcnet.models.whitening import Kind
from spcnet.released import METHOD, LoadReport, open_released
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD
from spcnet.weights.files import (
    Reading,
    WeightFile,
    ambiguous,
    apart,
    check_finite,
    distinct,
    named_readings,
    overview,
    read_weights,
    readings,
)
from spcnet.weights.imagenet import (
    SHUFFLENET_STEM_NORM,
    backbone_of,
    choose_backbone,
    fill_backbone,
    reference_name,
    torchvision_names,
)
from spcnet.weights.segmentors import released

OWN_STATE = (".mask", ".variance", ".pairs", ".trials")
"""Suffixes of the buffers of selective whitening, which the reference does not save."""
COUNTERS = "num_batches_tracked"


FORMATS: dict[FileKind, str] = {FileKind.MINDSPORE: "MindSpore checkpoint", FileKind.SAFETENSORS: "safetensors"}
"""Name of each file kind in a report; all others are PyTorch's."""


def _format(file: WeightFile, reading: Reading) -> str:
    """Format of a file, and the location of the network in it."""
    format = FORMATS.get(file.kind, "PyTorch state dict")
    return f"{format} ({reading.name})" if reading.name else format


def whole_networks(file: WeightFile, part: str | None) -> list[Reading]:
    """The readings of a file with a backbone and a head under RobustNet's names.

    Raises:
        CheckpointError: nothing in the file is called so, or none of its readings is a network.
    """
    every = readings(file)
    networks = [
        one
        for one in named_readings(every, part, file)
        if _head(one.tensors) is not None and _backbone(one.tensors) is not None
    ]
    if networks:
        return apart(networks)
    path = file.path
    for one in every:
        alone = backbone_of(torchvision_names(one.tensors)[1])
        if alone is not None:
            raise CheckpointError(
                f"{path} is an ImageNet {alone} without a segmentation head: give it as model.weights, or train one"
            )
    where = f" in {part!r}" if part else ""
    lacks = "final2 or prototypes" if any(_backbone(one.tensors) for one in every) else "a known backbone"
    raise CheckpointError(
        f"{path} is no DeepLabV3+ of RobustNet or SPC-Net: it lacks {lacks}{where}; it holds {overview(file)}"
    )


def _head(tensors: Mapping[str, Tensor]) -> Tensor | None:
    head = tensors.get("final2.0.weight", tensors.get("prototypes"))
    return head if head is not None and head.ndim >= 2 else None


def recognise(tensors: Mapping[str, Tensor], path: Path) -> tuple[Baseline, ModelConfig, int, int]:
    """Method, network settings, number of classes and number of domains, recognised by names and shapes.

    Settings that leave no trace in them have defaults: the output stride (32 for ResNet-18, 16 for the others, as in
    RobustNet), and which slots hold an instance norm without gain and offset (RobustNet's, if the stem shows that
    there are some).

    Raises:
        CheckpointError: it is no network of this family.
    """
    backbone, head = _backbone(tensors), _head(tensors)
    if backbone is None or head is None:
        raise CheckpointError(
            f"{path} is no DeepLabV3+ of RobustNet or SPC-Net: it lacks {'a known backbone' if backbone is None else 'final2 or prototypes'}"
        )
    prototypes, style = tensors.get("prototypes"), tensors.get("styleAdaIN1.style_mu")
    slots = _slots(tensors, backbone)
    kinds = set(slots.values())
    name = {
        (True, True): "spcnet",
        (True, False): "semantic_clustering",
        (False, True): "style_projection",
        (False, False): next(iter(kinds)) if len(kinds) == 1 else "deeplabv3plus",
    }[prototypes is not None, style is not None]
    domains = prototypes.shape[1] if prototypes is not None and prototypes.ndim == 3 else 1
    if style is not None:
        domains = len(style)
    model = ModelConfig(
        backbone=backbone,
        output_stride=32 if backbone == "resnet18" else 16,
        weights=None,
        norms={str(slot): str(kind) for slot, kind in slots.items()} or None,
    )
    return method_named(name), model, len(head), domains


def _backbone(tensors: Mapping[str, Tensor]) -> str | None:
    if "layer0.layer.0.0.weight" in tensors:
        return "shufflenet_v2"
    if "layer0.0.0.weight" in tensors:
        return "mobilenet_v2"
    stem = tensors.get("layer0.0.weight")
    if stem is None or stem.ndim != 4:
        return None
    if "layer1.0.conv3.weight" not in tensors:
        return "resnet18"
    return "resnet101" if stem.shape[-1] == 3 else "resnet50"


def _slots(tensors: Mapping[str, Tensor], backbone: str) -> dict[Slot, Kind]:
    """Kind of norm by slot, as far as the names show it."""
    marks: dict[str, Kind] = {}
    for key in tensors:
        match = re.match(r"layer([0-4])\.(?:\d+\.)?instance_norm_layer\.(\w+)", key)
        if match:
            stage, leaf = f"layer{match[1]}" if match[1] != "0" else "stem3", match[2]
            if leaf == "sw_mean_weight" or marks.get(stage) != "sw":
                marks[stage] = "sw" if leaf == "sw_mean_weight" else "ibn"
    slots = {str(slot) for slot in backbone_info(backbone).norm_slots}
    for slot, place in (("stem1", "1"), ("stem2", "4"), ("stem3", "7" if backbone == "resnet101" else "1")):
        if not backbone.startswith("resnet") or (backbone != "resnet101" and slot != "stem3"):
            continue
        if f"layer0.{place}.running_var" not in tensors:
            if f"layer0.{place}.sw_mean_weight" in tensors:
                marks[slot] = "sw"
            elif f"layer0.{place}.weight" in tensors:
                marks[slot] = "ibn"
            else:
                # Norms without gain and offset leave no trace in the stages: RobustNet's slots are assumed.
                marks.update(dict.fromkeys((slot, *(s for s in slots if s.startswith("layer"))), "is"))
    return {slot: marks[slot] for slot in SLOTS if slot in marks}


@plain_lists
def load_foreign(
    path: Path,
    *,
    method: str | None = None,
    output_stride: int | None = None,
    wt_layer: Sequence[int] | None = None,
    space: str | None = None,
    domains: Sequence[str] | None = None,
    allow_missing: Sequence[str] = (),
    base: Path | None = None,
) -> tuple[Segmentor, ModelCard, LoadReport]:
    """Load a network from a file of other code; returns network, card, and a report of every tensor.

    Args:
        path: the file; `FILE#NAME` for one of several networks in it.
        method: name in `METHODS`, if the content is ambiguous (`isw` and `is` have the same tensors).
        output_stride: 8, 16 or 32; no file holds it.
        wt_layer: RobustNet's seven codes, if the content is ambiguous.
        space: label space; `cityscapes19` for 19 classes.
        domains: names of the source domains, in the order of the style bases.
        allow_missing: prefixes of names in the file that may be missing; those tensors keep random values.
        base: file of the pretrained backbone, for a file of Rein or SoMA without it.

    Raises:
        CheckpointError: the file cannot be read, holds no such network, or lacks tensors.
        UsageError: an argument does not fit the content of the file.
    """
    source, part = split_part(path)
    file = read_weights(source)
    options = _Options(method, output_stride, wt_layer, space, domains, tuple(allow_missing))
    if (opened := _released(file, part, options, base)) is not None:
        return opened
    if base is not None:
        raise UsageError(f"--base is for files of Rein and SoMA, and {source} is none: leave it out")
    different = distinct([(one, one.tensors, one) for one in whole_networks(file, part)], part)
    if len(different) == 1:
        return _network(file, different[0], options)
    fitting, problems = [], []
    for one in different:
        try:
            fitting.append((one, _network(file, one, options)))
        except (CheckpointError, UsageError) as error:
            problems.append(error)
    if len(fitting) > 1:
        raise ambiguous(file, "DeepLabV3+", [one for one, _ in fitting])
    if not fitting:
        names = " or ".join(f"{source}#{one.name}" if one.name else str(source) for one in different)
        raise CheckpointError(f"none of {len(different)} networks in {source} fits, {names}: {problems[0]}")
    return fitting[0][1]


def _released(
    file: WeightFile, part: str | None, options: "_Options", base: Path | None
) -> tuple[Segmentor, ModelCard, LoadReport] | None:
    """A network of Rein, SoMA or EoMT; None if the file has none."""
    kinds = [
        (one, network)
        for one in named_readings(readings(file), part, file)
        if (network := released(one.tensors, file.path))
    ]
    if not kinds:
        return None
    different = distinct([(one, one.tensors, (one, network)) for one, network in kinds], part)
    if len(different) > 1:
        raise ambiguous(file, different[0][1].maker, [one for one, _ in different])
    reading, network = different[0]
    idle = ("method", "output_stride", "wt_layer", "allow_missing")
    if given := [name for name in idle if getattr(options, name)]:
        raise UsageError(
            f"{file.path} is {network.maker}, whose settings are in the file: leave out {', '.join(given)}"
        )
    opened = open_released(network, file.path, base)
    labels = _space(options.space, network.num_classes, file.path)
    card = card_for(
        method=METHOD,
        model=opened.model,
        space=labels,
        classes=label_space(labels).classes,
        domains=list(options.domains or ("source 1",)),
        size=None,
    )
    where = f" ({reading.name})" if reading.name else ""
    return opened.network, card, LoadReport(f"{network.maker}{where}", opened.matched, opened.left_out, (), ())


class _Options(NamedTuple):
    """The user's settings for a file; see `load_foreign`."""

    method: str | None
    output_stride: int | None
    wt_layer: Sequence[int] | None
    space: str | None
    domains: Sequence[str] | None
    allow_missing: tuple[str, ...]


def _network(file: WeightFile, reading: Reading, options: _Options) -> tuple[Segmentor, ModelCard, LoadReport]:
    """The network of a reading; errors as `load_foreign`."""
    path, tensors = file.path, reading.tensors
    check_finite(path, tensors)
    recognised, model, num_classes, num_domains = recognise(tensors, path)
    if options.wt_layer is not None:
        norms = {str(k): str(v) for k, v in slots_of_codes(options.wt_layer).items()}
        model = dataclasses.replace(model, norms=norms or None)
    if options.method is not None:
        recognised = method_named(options.method)
        if isinstance(recognised, RobustNet) and recognised.norm is not None and options.wt_layer is None:
            model = dataclasses.replace(model, norms=None)
    if options.output_stride is not None:
        model = dataclasses.replace(model, output_stride=options.output_stride)
    names = (
        tuple(options.domains) if options.domains is not None else tuple(f"source {i + 1}" for i in range(num_domains))
    )
    if len(names) != num_domains and recognised.styled:
        raise UsageError(f"--domains names {len(names)} sources, {path} was trained with {num_domains}")
    labels = _space(options.space, num_classes, path)
    network = recognised.build(model, num_classes=num_classes, num_domains=num_domains)
    report = _fill(network, tensors, model, _format(file, reading), path, options.allow_missing)
    beside = [name for name in file.parts[reading.part] if not name.startswith(reading.prefix)]
    report = dataclasses.replace(report, left_out=(*report.left_out, *beside))
    card = card_for(
        method=recognised.name,
        model=model,
        space=labels,
        classes=label_space(labels).classes,
        domains=list(names),
        size=(1024, 2048),
    )
    return network.eval(), card, report


def _space(wanted: str | None, num_classes: int, path: Path) -> str:
    fitting = [name for name, space in SPACES.items() if len(space) == num_classes]
    if wanted is None:
        if not fitting:
            raise UsageError(
                f"{path} has {num_classes} classes, for which there is no label space: known are "
                f"{', '.join(f'{name} ({len(space)})' for name, space in SPACES.items())}"
            )
        return fitting[0]
    if len(label_space(wanted)) != num_classes:
        raise UsageError(f"--space {wanted} has {len(label_space(wanted))} classes, {path} has {num_classes}")
    return wanted


def _fill(
    network: Segmentor,
    tensors: Mapping[str, Tensor],
    model: ModelConfig,
    format: str,
    path: Path,
    allow_missing: Sequence[str],
) -> LoadReport:
    theirs = reference_names(network, model)
    state = network.state_dict()
    missing, matched = [], []
    for key, value in state.items():
        name = theirs[key]
        tensor = tensors.get(name)
        if tensor is None:
            if not key.endswith((COUNTERS, *OWN_STATE)):
                missing.append(name)
            continue
        if tensor.shape != value.shape:
            raise CheckpointError(
                f"{path} has {name} of the shape {tuple(tensor.shape)}, the network wants {tuple(value.shape)}: "
                "it is of another backbone, or set --method, --wt_layer"
            )
        state[key] = tensor.to(value.dtype)
        matched.append(name)
    rest = [name for name in tensors if name not in set(matched)]
    left_out = [n for n in rest if n.startswith(("dsn.", "fc.", SHUFFLENET_STEM_NORM)) or n.endswith(COUNTERS)]
    report = LoadReport(
        format, tuple(matched), tuple(left_out), tuple(missing), tuple(n for n in rest if n not in set(left_out))
    )
    refused = [name for name in missing if not name.startswith(tuple(allow_missing) or ("\0",))]
    if refused:
        raise CheckpointError(
            f"{path} lacks {len(refused)} tensors, {', '.join(refused[:3])}{', …' if len(refused) > 3 else ''}: it is of another "
            "network; set --method or --wt_layer, or name the tensors that may stay random in --allow_missing"
        )
    if report.unexpected:
        raise CheckpointError(
            f"{path} has {len(report.unexpected)} tensors that {model.backbone} has no place for, "
            f"{', '.join(report.unexpected[:3])}: set --method or --wt_layer"
        )
    network.load_state_dict(state)
    return report


@dataclass(frozen=True)
class BackboneFile:
    """An ImageNet backbone for `model.weights`."""

    name: str
    """Name in `BACKBONES`."""
    tensors: dict[str, Tensor]
    """By torchvision's names, without the classifier."""
    report: LoadReport


def load_backbone(path: Path) -> BackboneFile | None:
    """Load an ImageNet backbone of torchvision, timm or MIT CSAIL; None if the file holds none.

    Raises:
        CheckpointError: it cannot be read, or lacks tensors.
    """
    source, part = split_part(path)
    file = read_weights(source)
    candidates = named_readings(readings(file), part, file)
    kinds = [(name, one) for one in candidates if (name := backbone_of(torchvision_names(one.tensors)[1]))]
    if not kinds:
        return None
    if len({name for name, _ in kinds}) > 1:
        raise ambiguous(file, "backbones of " + " and ".join(dict(kinds)), [one for _, one in kinds])
    name = kinds[0][0]
    info = backbone_info(name)
    backbone = build_backbone(name, output_stride=32)
    fit = choose_backbone(backbone, info, file, part, found=[one for _, one in kinds])
    fill_backbone(backbone, info, fit, str(path))
    prefix, renamed = fit.reading.prefix, torchvision_names(fit.reading.tensors)[1]
    original = dict(zip(renamed, fit.reading.tensors, strict=True))
    beside = [key for key in file.parts[fit.reading.part] if not key.startswith(prefix)]
    report = LoadReport(
        f"{fit.maker}'s {name}" + (f" ({fit.reading.name})" if fit.reading.name else ""),
        tuple(prefix + original[key] for key in fit.given),
        (*(prefix + key for key in fit.left_out), *beside),
        tuple(key for key in backbone.published.values() if key.startswith(fit.fresh or "\0")),
        (),
    )
    kept = {
        key: value.clone(memory_format=torch.contiguous_format)
        for key, value in renamed.items()
        if key in fit.given or key.startswith(fit.fresh or "\0")
    }
    return BackboneFile(name, kept, report)


def write_backbone(backbone: BackboneFile, path: Path) -> None:
    """Write a backbone as a safetensors file for `model.weights`.

    Raises:
        DataError: the file cannot be written.
    """
    card = {"backbone": backbone.name, "source": backbone.report.format, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    content = save(backbone.tensors, metadata={"spcnet_backbone": json.dumps(card)})
    write_atomic(path, lambda file: file.write(content))


def reference_names(network: Segmentor, model: ModelConfig) -> dict[str, str]:
    """RobustNet's name of every tensor of a network, by the name here."""
    stem_norm = any(key.startswith("backbone.stem.0.1.") for key in network.state_dict()) and not any(
        key == "backbone.stem.0.1.running_var" for key in network.state_dict()
    )
    return {key: reference_name(key, backbone=model.backbone, stem_norm=stem_norm) for key in network.state_dict()}


def is_foreign(path: Path) -> bool:
    """Whether a path is a file of other code, or names a part of one (`FILE#NAME`); not a run or a file of this package.

    Raises:
        UsageError: it is an exported network, or a part is named of a file of this package.
        CheckpointError: it is a file that holds no weights.
    """
    file, part = split_part(path)
    if not file.is_file():
        return False
    refuse_other(file)
    is_own = checkpoint.is_own(file)
    if is_own and part is not None:
        raise UsageError(f"{file} holds one network alone: leave out #{part}")
    return not is_own


def whole_network(network: Segmentor, card: ModelCard, *, merge: bool, to: str) -> tuple[Segmentor, ModelCard]:
    """A network of this package and its card, for a file with all tensors.

    Args:
        network: the network.
        card: of its file, which may leave out frozen weights.
        merge: merge low-rank updates into the weights.
        to: the format; RobustNet's has no adapters, so they are merged.

    Raises:
        UsageError: it has no updates that could be merged.
    """
    adapter = card.model.get("adapter", {})
    if merge or (to == "robustnet" and adapter.get("kind") in ("lora", "rein")):
        return plain_network(network, card)
    if card.base is not None:
        network.base = None
        card = dataclasses.replace(card, model={**card.model, "adapter": {**adapter, "save_base": True}}, base=None)
    return network, card


def write_robustnet(network: Segmentor, card: ModelCard, path: Path) -> None:
    """Write a network as a state dict that RobustNet's code loads, `{"state_dict": {"module.…": tensor}}`.

    Raises:
        DataError: the file cannot be written.
    """
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    model = ModelConfig(**{k: v for k, v in card.model.items() if k in fields and not isinstance(v, dict)})
    names = reference_names(network, model)
    state = {
        f"module.{names[key]}": value.contiguous()
        for key, value in network.state_dict().items()
        if not key.endswith(OWN_STATE)
    }
    write_atomic(path, lambda file: torch.save({"state_dict": state}, file))
