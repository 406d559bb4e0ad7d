"""Loading pretrained backbones: ImageNet files, and the names that other code bases use.

`spcnet.weights.files` reads the files and locates networks in them.
"""

import difflib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from spcnet.errors import CheckpointError
from spcnet.file_kinds import FileKind, split_part
from spcnet.models.backbones import Backbone, BackboneInfo
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
    several,
)
from spcnet.weights.timm_names import PATCHES, makers, mobilenet_names, timm_names

PUBLISHED = ("imagenet", "pretrained")
"""Values of model.weights for the published weights of a backbone, whatever they were trained on."""
CLASSIFIER_KEYS = ("fc.", "classifier.")
"""Prefixes of an ImageNet classifier's last layer, which segmentation does not use."""
HEAD_KEYS = (*CLASSIFIER_KEYS, "head.", "last_linear.", "projector.", "projection_head.", "predictor.")
"""Prefixes of the heads of other programs and of self-supervised training."""
_SEGMENTATION_PARTS = frozenset(
    [
        "aspp",
        "bot_aspp",
        "bot_fine",
        "final1",
        "final2",
        "dsn",
        "projection",
        "feat_norm",
        "mask_norm",
        "prototypes",
        "styleAdaIN1",
        "styleAdaIN2",
        "aux_classifier",
        "decode_head",
        "auxiliary_head",
        "decoder",
        "neck",
    ]
)
"""Parts of segmentation networks other than the backbone."""

REFERENCE_NAMES = (
    ("backbone.stem.", "layer0."),
    ("backbone.layer1.", "layer1."),
    ("backbone.layer2.", "layer2."),
    ("backbone.layer3.", "layer3."),
    ("backbone.layer4.", "layer4."),
    ("decoder.aspp.branches.", "aspp.features."),
    ("decoder.aspp.pool.", "aspp.img_conv."),
    ("decoder.reduce_deep.", "bot_aspp."),
    ("decoder.reduce_fine.", "bot_fine."),
    ("decoder.fuse.", "final1."),
    ("classifier.projection.", "projection."),
    ("classifier.embedding_norm.", "feat_norm."),
    ("classifier.score_norm.", "mask_norm."),
    ("classifier.prototypes", "prototypes"),
    ("classifier.", "final2."),
    ("auxiliary.", "dsn."),
    ("styles.0.base_mean", "styleAdaIN1.style_mu"),
    ("styles.0.base_std", "styleAdaIN1.style_sig"),
    ("styles.1.base_mean", "styleAdaIN2.style_mu"),
    ("styles.1.base_std", "styleAdaIN2.style_sig"),
)
"""Prefix of a key here and in the reference's PyTorch code; the first match is used."""
SHUFFLENET_NAMES = (("backbone.stem.", "layer0.layer."), ("backbone.layer4.0.", "layer4.layer."))
"""Differences for ShuffleNetV2."""
SHUFFLENET_STEM_NORM = "layer0.layer.0.1."
"""Prefix of an instance norm in the stem of ShuffleNetV2; the reference keeps the unused batch norm there."""


def reference_name(key: str, *, backbone: str, stem_norm: bool = False) -> str:
    """Name that RobustNet's and the author's PyTorch code give to a tensor of `Segmentor`.

    Args:
        key: name here.
        backbone: name of its backbone, here or in torchvision; the reference wraps the stem and the last stage of ShuffleNetV2
            once more.
        stem_norm: whether a norm slot of its stem is filled.

    Raises:
        KeyError: no tensor of a `Segmentor` begins like this.
    """
    shuffled = backbone.startswith("shufflenet_v2")
    for ours, theirs in (*SHUFFLENET_NAMES, *REFERENCE_NAMES) if shuffled else REFERENCE_NAMES:
        if key.startswith(ours):
            name = theirs + key.removeprefix(ours)
            if shuffled and stem_norm and name.startswith(SHUFFLENET_STEM_NORM):
                return name.replace(SHUFFLENET_STEM_NORM, "layer0.instance_norm_layer.")
            # A block with a filled norm slot is wrapped here.
            return name.replace(".block.", ".").replace(".norm.", ".instance_norm_layer.")
    raise KeyError(key)


_TIMM, _MMPRETRAIN = mobilenet_names("timm"), mobilenet_names("mmpretrain")
_CSAIL = {
    "conv1": "conv1.0",
    "bn1": "conv1.1",
    "conv2": "conv1.3",
    "bn2": "conv1.4",
    "conv3": "conv1.6",
    "bn3": "bn1",
}


def _timm_blocks(names: Iterable[str]) -> set[str]:
    """Prefixes of timm's blocks; EfficientNet has names of the same form, but other blocks."""
    return {".".join(name.split(".")[:3]) for name in names if name.startswith("blocks.")}


def torchvision_names(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The naming scheme of a backbone, and its tensors by torchvision's names, in the same order.

    Known schemes: torchvision, also of timm's and mmsegmentation's ResNets; timm's and mmpretrain's MobileNetV2; MIT CSAIL's
    ResNets with a stem of three convolutions, from which RobustNet's ResNet-101 starts. Other names are kept.

    Raises:
        CheckpointError: two tensors would get the same name.
    """
    maker, layers = "torchvision", {}
    if "conv_stem.weight" in tensors and _timm_blocks(tensors) == _timm_blocks(_TIMM):
        maker, layers = "timm", _TIMM
    elif "conv1.conv.weight" in tensors and "layer1.0.conv.0.conv.weight" in tensors:
        maker, layers = "mmpretrain", _MMPRETRAIN
    elif "conv3.weight" in tensors and "layer1.0.conv1.weight" in tensors:
        maker, layers = "MIT CSAIL", _CSAIL
    renamed = {}
    for name, value in tensors.items():
        layer, dot, leaf = name.rpartition(".")
        renamed[f"{layers.get(layer, layer)}{dot}{leaf}"] = value
    if len(renamed) != len(tensors):
        raise CheckpointError(f"the file has {maker}'s names and torchvision's for the same tensors: fetch it again")
    return maker, renamed


def backbone_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the backbone of an ImageNet file, recognised by torchvision's names; None if there is none."""
    if "features.18.0.weight" in tensors and "features.1.conv.0.0.weight" in tensors:
        return "mobilenet_v2"
    if "stage2.0.branch1.0.weight" in tensors and "conv5.0.weight" in tensors:
        return "shufflenet_v2"
    if "layer4.0.conv1.weight" not in tensors or not {"conv1.weight", "conv1.0.weight"} & tensors.keys():
        return None
    depth = sum(bool(re.fullmatch(r"layer[1-4]\.\d+\.conv1\.weight", name)) for name in tensors)
    bottleneck = "layer1.0.conv3.weight" in tensors
    return {(8, False): "resnet18", (16, True): "resnet50", (33, True): "resnet101"}.get((depth, bottleneck))


class BackboneFit(NamedTuple):
    """Comparison of a reading with a backbone."""

    reading: Reading
    maker: str
    """The naming scheme."""
    given: dict[str, Tensor]
    """By torchvision's names, without those that the backbone does not have."""
    left_out: list[str]
    """Names of the reading that are ignored: classifiers, heads."""
    fresh: tuple[str, ...]
    """Prefixes of tensors that keep random values, for a stem of another kind."""
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]
    """With both shapes."""
    whole_size: Mapping[str, Tensor]
    """The reading by the published names, before tensors are resampled to the backbone's shapes."""

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, unexpected or of another shape."""
        return not (self.missing or self.unexpected or self.misshapen)

    def problems(self) -> str:
        """The differences as text."""
        kinds = (
            ("lacks {} tensors", self.missing),
            ("has {} unexpected tensors", self.unexpected),
            ("has {} tensors in another shape", self.misshapen),
        )
        return ", ".join(f"{what.format(len(names))}, {several(names)}" for what, names in kinds if names)


def backbone_fits(backbone: Backbone, info: BackboneInfo, candidates: Sequence[Reading]) -> list[BackboneFit]:
    """Compare each reading of a file with a backbone, the best match first."""
    fits = [fit for reading in candidates if (fit := _backbone_fit(reading, backbone, info)) is not None]
    # The sort is stable: of equal matches the first is kept.
    return sorted(fits, key=lambda fit: (not fit.whole, len(fit.missing) + len(fit.misshapen), len(fit.unexpected)))


def _backbone_fit(reading: Reading, backbone: Backbone, info: BackboneInfo) -> BackboneFit | None:
    """None if a reading has no tensor of the backbone."""
    state, places = backbone.state_dict(), backbone.published
    wanted = {name: state[key].shape for key, name in places.items()}
    tensors = reading.tensors
    if info.convert is not None:
        own = {places.get(name, name): value for name, value in tensors.items()}
        maker, renamed = timm_names(own, info.known)
        # Patch embeddings of the right shape are kept: timm would resample them to its model and back.
        kept = {
            name: renamed.pop(name) for name in PATCHES if name in renamed and renamed[name].shape == wanted.get(name)
        }
        whole_size = {**info.convert(renamed), **kept}
        tensors = backbone.fitted(whole_size)
        names = {name: name for name in tensors}
    else:
        maker, names = _known_names(tensors, places, info)
        whole_size = {name: tensors[original] for name, original in names.items()}
    fresh = info.fresh if "conv1.weight" in names else ()
    given, left_out, unexpected = {}, [], []
    for name, original in names.items():
        if name.startswith(fresh or "\0"):
            continue
        if name in wanted:
            given[name] = tensors[original]
        elif (
            name in info.known
            or name.startswith(HEAD_KEYS)
            or (name not in places and name.partition(".")[0] in _SEGMENTATION_PARTS)
        ):
            left_out.append(original)
        else:
            unexpected.append(original)
    misshapen = [
        f"{name} ({_shape(given[name].shape)} against {_shape(wanted[name])})"
        for name in given
        if given[name].shape != wanted[name]
    ]
    if len(misshapen) == len(given) < len(wanted) // 2:
        return None  # a few names in common; the same family in another width has most
    missing = [k for k in wanted if k not in given and not k.startswith(fresh or "\0") and "num_batches" not in k]
    return BackboneFit(reading, maker, given, left_out, fresh, missing, unexpected, misshapen, whole_size)


def _shape(size: Sequence[int]) -> str:
    return "×".join(map(str, size)) or "a single number"


def _known_names(
    tensors: Mapping[str, Tensor], places: Mapping[str, str], info: BackboneInfo
) -> tuple[str, dict[str, str]]:
    """The naming scheme of tensors, and their original names by torchvision's."""
    for maker, start in (("spcnet", "stem."), ("RobustNet", "layer0.")):
        if any(name.startswith(start) for name in tensors):
            theirs = {key: key for key in places}
            if maker == "RobustNet":
                theirs = {reference_name(f"backbone.{key}", backbone=info.weights): key for key in places}
            return maker, {places[theirs[name]] if name in theirs else name: name for name in tensors}
    maker, renamed = torchvision_names(tensors)
    return maker, dict(zip(renamed, tensors, strict=True))


def choose_backbone(
    backbone: Backbone,
    info: BackboneInfo,
    file: WeightFile,
    part: str | None,
    *,
    found: Sequence[Reading] | None = None,
) -> BackboneFit:
    """The one reading of a file that is the backbone.

    Raises:
        CheckpointError: none is, or several are and their numbers differ; says what the file holds.
    """
    found = readings(file, at_least=len(backbone.published) // 4) if found is None else found
    fits = backbone_fits(backbone, info, named_readings(found, part, file))
    inner = [fit.reading for fit in fits if not (fit.missing or fit.misshapen)]
    if len(inner) > 1:
        fits = backbone_fits(backbone, info, apart(inner))
    complete = [fit for fit in fits if fit.whole]
    if not complete:
        raise _no_backbone(file, info, part, fits)
    chosen, *others = distinct([(fit.reading, fit.given, fit) for fit in complete], part)
    if others:
        raise ambiguous(file, f"{info.weights} backbones", [fit.reading for fit in (chosen, *others)])
    check_finite(file.path, chosen.given)
    return chosen


def _no_backbone(
    file: WeightFile, info: BackboneInfo, part: str | None, fits: Sequence[BackboneFit]
) -> CheckpointError:
    rule = (
        f"it must be an ImageNet {info.weights} with torchvision's key names, or those of timm, mmpretrain, "
        "MIT CSAIL or RobustNet"
    )
    if info.convert is not None:
        model = info.weights.partition(".")[0]
        others = ", ".join(makers(info.known))
        rule = f"it must be timm's {model} with timm's key names{f', or those of {others}' if others else ''}"
    plain = list(file.parts) == [""] and (not fits or not fits[0].reading.name)
    if fits and plain:
        return CheckpointError(f"{file.path} {fits[0].problems()}: {rule}")
    what = f"{file.path} has no {info.weights} that fits" + (f" in {part!r}" if part else "")
    nearest = ""
    if fits:
        name = fits[0].reading.name
        nearest = f"; the nearest, {file.path}{f'#{name}' if name else ''}, {fits[0].problems()}"
    of_other_size = fits and not (fits[0].missing or fits[0].unexpected)
    name_it = "" if of_other_size else f"; {file.path}#NAME names a part of it"
    return CheckpointError(f"{what}; it holds {overview(file)}{nearest}: {rule}{name_it}")


def load_imagenet(backbone: Backbone, info: BackboneInfo, weights: str) -> BackboneFit:
    """Load ImageNet weights into a backbone.

    Args:
        backbone: from `build_backbone`.
        info: which backbone it is.
        weights: `imagenet` or `pretrained` for the published ones, or the path of a file that holds the backbone, under
            names that `torchvision_names` or timm knows, RobustNet's or this package's; `FILE#NAME` for one of several in it.

    Returns:
        What was found there.

    Raises:
        CheckpointError: a tensor is missing, has another shape or is not finite, several networks fit, or the file
            cannot be read or fetched.
    """
    if weights in PUBLISHED:
        source, part = f"the published {info.weights} weights", None
        file = WeightFile(Path(source), FileKind.TORCH, {"": _download(info)})
    else:
        path, part = split_part(weights)
        if not path.is_file():
            raise _no_file(path)
        file, source = read_weights(path), weights
    fit = choose_backbone(backbone, info, file, part)
    fill_backbone(backbone, info, fit, source)
    if info.licence:
        warnings.warn(
            f"the weights of {info.weights} come under the licence {info.licence}, which is not a permissive one: networks "
            "trained from them do, too. Read it before you use or publish them",
            stacklevel=2,
        )
    return fit


def _no_file(path: Path) -> CheckpointError:
    if path.is_dir():
        return CheckpointError(f"model.weights is {path}, which is a folder: give a weight file in it")
    near = difflib.get_close_matches(str(path), PUBLISHED, n=1)
    hint = f". Did you mean {near[0]}?" if near else ""
    return CheckpointError(f"there is no weight file {path}: check the path given as model.weights{hint}")


def fill_backbone(backbone: Backbone, info: BackboneInfo, fit: BackboneFit, source: str) -> None:
    """Load pretrained tensors into a backbone, and warn of tensors that keep random values."""
    if fit.fresh:
        warnings.warn(
            f"{source}: another stem than that of {info.weights} here, {', '.join(fit.fresh)} start from random values. "
            "Give a file with a stem of three convolutions as model.weights to avoid it",
            stacklevel=3,
        )
    tensors = {key: fit.given[name] for key, name in backbone.published.items() if name in fit.given}
    backbone.load_state_dict(tensors, strict=False)


def _download(info: BackboneInfo) -> dict[str, Tensor]:
    if info.download is None:
        raise CheckpointError(
            "this backbone has no published weights: give a local file as model.weights, or set it to null to "
            "start from random values"
        )
    try:
        return info.download()
    except OSError as error:
        raise CheckpointError(
            f"could not fetch the published weights of {info.weights} ({error}): go online, give a local file as "
            "model.weights, or set it to null to start from random values"
        ) from error
