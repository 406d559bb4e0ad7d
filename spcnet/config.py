"""Every setting of a run as frozen values: what may be set, what it means, and which values make no sense.

No torch in here: a recipe can be checked, printed and compared without loading a framework. The defaults are the
paper's (Huang et al., CVPR 2023) and, for what the paper leaves open, those of the framework it was trained in
(RobustNet, Choi et al., CVPR 2021).
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from spcnet.errors import DataError, UsageError

OUTPUT_STRIDES = (8, 16, 32)
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise UsageError(message)


@dataclass(frozen=True)
class StyleConfig:
    """Style projection (paper §3.2), for the methods that have style layers."""

    mode: Literal["projection", "normalization", "substitution"] | None = None
    """What replaces an image's style: the weighted sum of the bases (projection), nothing (normalization), or the nearest base (substitution). Default: what the method's name says."""
    distance: Literal["was", "abs", "kl"] = "was"
    """Distance between two styles: Wasserstein, difference of mean/std, or Kullback-Leibler divergence."""
    channel_wise: bool = False
    """Weigh the bases for each channel by itself instead of for the whole image."""
    momentum: float = 0.9
    """Share of a style base that one update keeps (α)."""
    sharpness: float = 1.0
    """Factor on the similarities 1/(1+distance) before the softmax over the bases; 1 is the paper's Eq. 4, more lets the nearest base weigh more."""

    def __post_init__(self) -> None:
        _require(0 <= self.momentum <= 1, f"style.momentum is {self.momentum}: it must lie in 0..1")
        _require(self.sharpness > 0, f"style.sharpness is {self.sharpness}: it must be above 0")


@dataclass(frozen=True)
class ClusteringConfig:
    """Semantic clustering (paper §3.3), for the methods that classify by prototypes."""

    embedding_dim: int = 256
    """Size D of a pixel embedding and of a prototype."""
    momentum: float = 0.999
    """Share of a prototype that one update keeps (γ)."""
    ramp_up: bool = False
    """Let the momentum grow over the run as exp(-0.1·(1-t/T)²), t/T being the share of the run that is done, instead of the fixed value."""
    temperature: float = 0.1
    """Divisor τ of the similarities in the discrimination loss."""
    var_weight: float = 1.0
    """Weight β of the compactness loss L_var (pixels to their prototype). In no public source; see docs/LOG.md."""
    dis_weight: float = 0.1
    """Weight of the discrimination loss L_dis (class means away from other classes). In no public source; see docs/LOG.md."""

    def __post_init__(self) -> None:
        _require(self.embedding_dim >= 1, f"clustering.embedding_dim is {self.embedding_dim}: it must be at least 1")
        _require(0 <= self.momentum <= 1, f"clustering.momentum is {self.momentum}: it must lie in 0..1")
        _require(self.temperature > 0, f"clustering.temperature is {self.temperature}: it must be above 0")
        for name in ("var_weight", "dis_weight"):
            value = getattr(self, name)
            _require(value >= 0, f"clustering.{name} is {value}: a loss weight must be 0 (off) or more")


@dataclass(frozen=True)
class WhiteningConfig:
    """The whitening losses (Choi et al., CVPR 2021), for networks with iw, irw or isw in their norm slots."""

    weight: float = 0.6
    """Weight of the whitening loss."""
    relax: int = 0
    """Above 0: irw's margin is the number of covariances divided by this (0: by 64); isw takes so large a share of them instead of clusters."""
    start: float = 0.12
    """Share of the run that isw trains without the loss, before it takes the statistics; RobustNet's six epochs of GTAV."""
    clusters: int = 3
    """k of the k-means over the variances of the covariances; isw removes those outside the lowest cluster."""
    trials: int = 10
    """How many statistics isw takes; a covariance must be sensitive in all of them."""
    pairs: int = 500
    """Pairs of an image and its photometric alteration in one trial."""
    legacy: bool = False
    """Cluster the zeros below the diagonal, too, as the released code does."""

    def __post_init__(self) -> None:
        _require(self.weight >= 0, f"whitening.weight is {self.weight}: a loss weight must be 0 (off) or more")
        _require(self.relax >= 0, f"whitening.relax is {self.relax}: it must be 0 (none) or more")
        _require(0 <= self.start < 1, f"whitening.start is {self.start}: a share of the run lies in 0..1, without 1")
        for name, least in (("clusters", 2), ("trials", 1), ("pairs", 1)):
            value = getattr(self, name)
            _require(value >= least, f"whitening.{name} is {value}: it must be at least {least}")


Weighting = Literal["none", "class", "image", "batch"]


@dataclass(frozen=True)
class LossConfig:
    """The cross-entropy, with the forms that RobustNet offers. Those for images and borders leave the auxiliary head out."""

    weighting: Weighting = "none"
    """Weights of the classes: none, fixed ones (class), or by how rare each is in its image (image) or in the batch (batch)."""
    class_weights: list[float] | None = None
    """For the weighting 'class', a weight for each class; default: RobustNet's for the 19 Cityscapes classes."""
    bound: float = 1.0
    """For the weightings 'image' and 'batch': how much more than 1 the rarest class may weigh."""
    border: int = 0
    """A pixel with other classes within so many pixels may have any of them (label relaxation); 0 for none, RobustNet's is 1."""
    border_until: float = 1.0
    """Share of the run after which borders count like any pixel."""
    strict: list[int] = field(default_factory=list)
    """Numbers of the classes that keep their own label at a border."""

    def __post_init__(self) -> None:
        known = get_args(Weighting)
        _require(self.weighting in known, f"loss.weighting is {self.weighting!r}: it must be one of {', '.join(known)}")
        _require(
            self.class_weights is None or (self.weighting == "class" and min(self.class_weights, default=0) > 0),
            f"loss.class_weights is {self.class_weights}: it goes with loss.weighting class, and every weight is above 0",
        )
        _require(self.bound >= 0, f"loss.bound is {self.bound}: it must be 0 or more")
        _require(self.border >= 0, f"loss.border is {self.border}: it must be 0 (none) or more pixels")
        _require(
            0 <= self.border_until <= 1, f"loss.border_until is {self.border_until}: a share of the run lies in 0..1"
        )


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = "resnet50"
    """Feature extractor: resnet18, resnet50, resnet101, mobilenet_v2 or shufflenet_v2."""
    output_stride: int = 16
    """Image size divided by the size of the deepest feature map: 8, 16 or 32. Smaller is finer and costs more."""
    weights: str | None = "imagenet"
    """Where the backbone starts: 'imagenet' (downloaded by torchvision), a local file (FILE#NAME for one of several networks in it), or null for random values."""
    style: StyleConfig = field(default_factory=StyleConfig)
    """Style projection."""
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    """Semantic clustering."""
    whitening: WhiteningConfig = field(default_factory=WhiteningConfig)
    """The whitening losses."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The cross-entropy."""
    norms: dict[str, str] | list[int] | None = None
    """Instance norms in the backbone: slot (stem, layer1 … layer4) → kind (ibn, is, iw, irw, isw, sw), or RobustNet's seven wt_layer codes. Default: what the method's name says."""
    auxiliary_weight: float = 0.0
    """Weight of the loss of an auxiliary head on the third stage; 0 builds none. RobustNet's is 0.4."""

    def __post_init__(self) -> None:
        _require(
            self.output_stride in OUTPUT_STRIDES,
            f"model.output_stride is {self.output_stride}: it must be one of {', '.join(map(str, OUTPUT_STRIDES))}",
        )
        _require(self.auxiliary_weight >= 0, f"model.auxiliary_weight is {self.auxiliary_weight}: it must be 0 or more")


@dataclass(frozen=True)
class DomainSpec:
    """One domain, as it is written in a recipe: `SET[/SUBSET][@SPLIT][+STYLE]`.

    `camvid` is a data set, `streets/night` a subset of one (there: a rendering style), `idd_lite@train` a split of
    one, and `cityscapes+fog` a set whose images get a weather style put on.
    """

    dataset: str
    subset: str | None = None
    split: str | None = None
    style: str | None = None

    @classmethod
    def parse(cls, text: str) -> "DomainSpec":
        """Read a domain from its written form.

        Raises:
            UsageError: the text is not of the form `SET[/SUBSET][@SPLIT][+STYLE]`.
        """
        found = re.fullmatch(r"(\w+)(?:/(\w+))?(?:@(\w+))?(?:\+(\w+))?", text)
        if found is None:
            raise UsageError(
                f"cannot read the domain {text!r}: write SET[/SUBSET][@SPLIT][+STYLE], for example camvid, "
                "streets/night, idd_lite@train or cityscapes+fog"
            )
        return cls(*found.groups())

    def __str__(self) -> str:
        parts = [self.dataset]
        parts += [f"/{self.subset}"] if self.subset else []
        parts += [f"@{self.split}"] if self.split else []
        parts += [f"+{self.style}"] if self.style else []
        return "".join(parts)


Color = tuple[int, int, int]
"""Red, green and blue, each 0..255."""

_COLOR = re.compile(r"[\[(]?\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*[\])]?")


def read_color(written: object) -> Color | None:
    """The RGB colour that is written as `[128, 64, 128]`, `"128, 64, 128"` or `"#804080"`; None for anything else.

    >>> read_color("128, 64, 128"), read_color("#804080"), read_color([128, 64, 128]), read_color("road")
    ((128, 64, 128), (128, 64, 128), (128, 64, 128), None)
    """
    if isinstance(written, str):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", written.strip()):
            written = bytes.fromhex(written.strip()[1:])
        elif numbers := _COLOR.fullmatch(written.strip()):
            written = [int(number) for number in numbers.groups()]
    if not isinstance(written, (list, tuple, bytes)) or len(written) != 3:
        return None
    red, green, blue = written
    if not all(type(channel) is int and 0 <= channel <= 255 for channel in (red, green, blue)):
        return None
    return red, green, blue


@dataclass(frozen=True)
class OwnSet:
    """A data set of your own: where its files lie, and what its labels mean, by their numbers, their colours, or both."""

    images: str
    """Pattern of the photos below the root, photos/{split}/**/*.jpg: * stands for any name, **/ for any folders, {split} for the split."""
    labels: str | list[str]
    """Pattern of the label images, with the same stars: masks/{split}/**/*_mask.png is the label of what the stars stand for. Of several patterns, the first by which a photo has a label."""
    table: dict[int, str] = field(default_factory=dict)
    """Number in the label image, 0..65535 → name of the class, as the label space knows it; void for what is not labelled."""
    splits: list[str] = field(default_factory=lambda: ["train", "val"])
    """Splits, the one to train on first, the one to test on last."""
    colors: dict[Any, str | list[int] | list[list[int] | str]] = field(default_factory=dict)
    """Colour in the label image → name of the class, "128, 64, 128": road; or name → colour, or list of colours, road: [128, 64, 128]."""

    def __post_init__(self) -> None:
        _require(
            isinstance(self.splits, list) and all(isinstance(split, str) for split in self.splits),
            f"data.sets: splits is {self.splits!r}: it must be a list of names, such as [train, val]",
        )
        _require(bool(self.splits), "data.sets: splits is empty: name at least one")
        for option, patterns in (("images", [self.images]), ("labels", self.label_patterns)):
            _require(bool(patterns), f"data.sets: {option} is empty: name at least one pattern")
            for pattern in patterns:
                self._check_pattern(option, pattern)
        _require(
            bool(self.table or self.colors),
            "data.sets: table is empty, and so is colors: name the class of each number or colour in the label images",
        )
        _require(
            isinstance(self.table, dict) and all(isinstance(name, str) for name in self.table.values()),
            f"data.sets: table is {self.table!r}: it must give each number in the label images the name of a class",
        )
        strange = [number for number in self.table if type(number) is not int or not 0 <= number <= 65535]
        _require(not strange, f"data.sets: table has the numbers {strange}: label images hold 0..65535")
        # One form, whichever it was written in, so that what is stored reads as what was meant.
        found = {", ".join(map(str, color)): name for color, name in self._named_colors().items()}
        object.__setattr__(self, "colors", found)

    @property
    def label_patterns(self) -> list[str]:
        """The patterns of the label images, the preferred one first."""
        return self.labels if isinstance(self.labels, list) else [self.labels]

    @property
    def color_table(self) -> dict[Color, str]:
        """RGB colour in the label images → name of the class."""
        return self._named_colors()

    def _check_pattern(self, option: str, pattern: object) -> None:
        _require(
            isinstance(pattern, str),
            f"data.sets: the pattern {option} is {pattern!r}: write a path below the set's root, with stars",
        )
        assert isinstance(pattern, str)
        _require(
            not Path(pattern).is_absolute() and ".." not in Path(pattern).parts,
            f"data.sets: the pattern {option} is {pattern!r}: it is a path below the set's root",
        )
        _require(
            len(self.splits) == 1 or "{split}" in pattern,
            f"data.sets: the pattern {option} is {pattern!r}: with several splits it says {{split}} where they differ",
        )
        _require(
            self.images.count("*") == pattern.count("*") > 0,
            f"data.sets: images is {self.images!r} and labels is {pattern!r}: both must have the same stars, at least one",
        )

    def _named_colors(self) -> dict[Color, str]:
        rule = (
            'write each colour as "128, 64, 128" or "#804080", in quotes, or [128, 64, 128], with the name of its class; '
            "or the name of a class with its colour or a list of colours"
        )
        _require(isinstance(self.colors, dict), f"data.sets: colors is {self.colors!r}: {rule}")
        names: dict[Color, str] = {}
        for key, value in self.colors.items():
            color, single = read_color(key), read_color(value)
            name: object
            several: list[Color | None]
            if color is not None:
                name, several = value, [color]
            elif single is not None:
                name, several = key, [single]
            else:
                name, several = key, [read_color(one) for one in value] if isinstance(value, list) else []
            right = bool(several) and None not in several and isinstance(name, str) and name != ""
            _require(right, f"data.sets: colors has {key!r}: {value!r}: {rule}")
            for one in several:
                assert one is not None
                known = names.setdefault(one, str(name))
                _require(
                    known == name, f"data.sets: colors gives {one} to {known} and to {name}: a colour has one class"
                )
        return names


@dataclass(frozen=True)
class AugmentationConfig:
    """What happens to a training image, in this order; RobustNet's values."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random factor on the image's size."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    jitter: float = 0.5
    """Probability of a change of brightness, contrast, saturation (each ±0.4) and hue (±0.1)."""
    blur: tuple[float, float] | None = (0.15, 1.3)
    """Range of the standard deviation of a Gaussian blur, in pixels; null for none."""
    styles: list[str] = field(default_factory=list)
    """Weather and road styles of which an image gets one; empty for none (`spcnet data styles` shows them)."""
    style_probability: float = 0.5
    """Probability that an image gets one of the styles."""
    style_strength: tuple[float, float] = (0.3, 1.0)
    """Range of the strength of a style."""

    def __post_init__(self) -> None:
        _require(
            0 <= self.style_strength[0] <= self.style_strength[1] <= 1,
            f"data.augmentation.style_strength is {self.style_strength}: write two values in 0..1, the smaller first",
        )
        doubled = sorted({s for s in self.styles if self.styles.count(s) > 1})
        _require(not doubled, f"data.augmentation.styles names {', '.join(doubled)} twice")
        _require(
            0 < self.scale[0] <= self.scale[1],
            f"data.augmentation.scale is {self.scale}: write two factors above 0, the smaller first",
        )
        for name in ("flip", "jitter", "style_probability"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"data.augmentation.{name} is {value}: a probability lies in 0..1")
        if self.blur is not None:
            _require(
                0 < self.blur[0] <= self.blur[1],
                f"data.augmentation.blur is {self.blur}: write two values above 0, the smaller first",
            )


@dataclass(frozen=True)
class DataConfig:
    """What is trained on and what is tested on."""

    sources: list[str] = field(default_factory=lambda: ["streets/game", "streets/toy"])
    """Domains to train on, each SET[/SUBSET][@SPLIT]; their order gives the domain index."""
    targets: list[str] = field(
        default_factory=lambda: [f"streets/{s}" for s in ("overcast", "dusk", "night", "fog", "rain", "snow")]
    )
    """Domains to test on that are never trained on, each SET[/SUBSET][@SPLIT][+STYLE]."""
    space: str = "cityscapes19"
    """Label space: cityscapes19, or a named merge such as idd7."""
    roots: dict[str, str] = field(default_factory=dict)
    """Folder of each data set that lies on disk, by the set's name."""
    root: str | None = None
    """Folder that holds one folder for each data set, named as the set is; for those that data.roots leaves out."""
    sets: dict[str, OwnSet] = field(default_factory=dict)
    """Data sets of your own, by the name that sources and targets give them."""
    exclude: list[str] = field(default_factory=list)
    """Files that list images to leave out, as `spcnet data check` writes them."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What an unreadable image or label does: stop the run, or skip it, which is counted, listed and reported."""
    sampling: Literal["balanced", "proportional", "alternating"] = "balanced"
    """What a training batch holds: as many images of each source (balanced), of all sources as they come (proportional), or of one source, another each step (alternating)."""
    class_uniform: float = 0.0
    """Share of the images that are drawn class by class, the crop around that class; 0 for none, RobustNet's is 0.5."""
    tile: int = 1024
    """Side in pixels of the tiles of an image in which the centre of each class is looked for, for data.class_uniform."""
    pseudo_domains: int = 0
    """Above 0: divide the only source into so many domains; the paper has 10."""
    pseudo_by: Literal["style", "cluster", "random"] = "style"
    """What divides it: the style that augmentation gave the image, clusters of the style statistics during training, or chance."""
    size: tuple[int, int] | None = (128, 256)
    """Height and width in pixels that every image is brought to; null leaves each as large as it is."""
    crop: tuple[int, int] | None = None
    """Height and width of the piece of an image, brought to that size, that is trained on; default: data.size."""
    images_per_domain: int = 4
    """Images of each source in a training batch."""
    workers: int = 1
    """Processes that prepare training images beside the one that trains; 0 prepares them in the same."""
    train_scenes: int = 2000
    """Generated scenes to train on, for the set `streets`."""
    test_scenes: int = 100
    """Generated scenes to test on, for the set `streets`; never among those trained on."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What happens to a training image."""

    def __post_init__(self) -> None:
        for option in ("sources", "targets"):
            for text in getattr(self, option):
                DomainSpec.parse(text)
        _require(len(self.sources) >= 1, "data.sources is empty: name at least one domain to train on")
        doubled = sorted({s for s in self.sources if self.sources.count(s) > 1})
        _require(not doubled, f"data.sources names {', '.join(doubled)} twice: each source is one domain")
        both = sorted(set(self.sources) & set(self.targets))
        _require(not both, f"{', '.join(both)} stands in data.sources and data.targets: a target is never trained on")
        for option in ("on_bad_image", "sampling", "pseudo_by"):
            value, known = getattr(self, option), get_args(get_type_hints(type(self))[option])
            _require(value in known, f"data.{option} is {value!r}: it must be one of {', '.join(known)}")
        _require(0 <= self.class_uniform <= 1, f"data.class_uniform is {self.class_uniform}: a share lies in 0..1")
        _require(self.tile >= 16, f"data.tile is {self.tile}: it must be at least 16 pixels")
        _require(
            self.pseudo_domains == 0 or (self.pseudo_domains >= 2 and len(self.sources) == 1),
            f"data.pseudo_domains is {self.pseudo_domains} with {len(self.sources)} sources: it divides a single source, "
            "into two or more; 0 for not at all",
        )
        _require(
            self.pseudo_domains == 0
            or self.pseudo_by != "style"
            or len(self.augmentation.styles) >= self.pseudo_domains - 1,
            f"data.pseudo_domains is {self.pseudo_domains} by style, but data.augmentation.styles has "
            f"{len(self.augmentation.styles)}: one domain is the images as they are, each other needs a style of its own",
        )
        _require(
            self.pseudo_domains == 0 or self.pseudo_by != "style" or 0 < self.augmentation.style_probability < 1,
            f"data.augmentation.style_probability is {self.augmentation.style_probability}: with domains by style there "
            "must be images with a style and images without",
        )
        _require(
            self.size is not None or self.crop is not None,
            "data.size is null: name data.crop, for images of a batch must be of one size",
        )
        for option in ("size", "crop"):
            pixels = getattr(self, option)
            _require(
                pixels is None or min(pixels) >= 33,
                f"data.{option} is {pixels}: height and width must be at least 33 pixels",
            )
        for name, least in (("images_per_domain", 1), ("workers", 0), ("train_scenes", 1), ("test_scenes", 1)):
            value = getattr(self, name)
            _require(value >= least, f"data.{name} is {value}: it must be at least {least}")


@dataclass(frozen=True)
class TrainingConfig:
    """The loop: stochastic gradient descent for a number of iterations."""

    iterations: int = 40_000
    """Optimiser steps."""
    learning_rate: float = 0.01
    """Learning rate at the start."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent."""
    weight_decay: float = 5e-4
    """Weight decay."""
    poly_power: float = 0.9
    """Exponent of the schedule: the learning rate falls as (1 - iteration/iterations)^power."""
    restart: float = 1.0
    """Share of the run after which the schedule starts anew (RobustNet's scl-poly, there when borders stop being relaxed); 1 for never."""
    restart_factor: float = 1.0
    """Factor on the learning rate at the restart."""
    restart_power: float = 1.5
    """Exponent of the schedule after the restart."""
    seed: int = 0
    """Seed of everything random."""
    log_every: int = 20
    """Iterations between two lines of the training log."""
    checkpoint_every: int = 500
    """Iterations between two checkpoints."""
    evaluate_every: int = 0
    """Iterations between two evaluations during training; 0 evaluates at the end only."""
    accelerator: str = "auto"
    """Where to compute: auto, cpu, cuda or mps."""
    devices: int | str = 1
    """How many devices, a process on each, or 'auto' for all; what torchrun or srun started needs no number."""
    nodes: int = 1
    """How many machines with so many devices each."""
    accumulate: int = 1
    """Parts of a batch that are looked at one after the other before an optimiser step, so that only one has to fit into memory; data.images_per_domain is of one part and process."""
    freeze_batchnorm: bool = False
    """Batch norms keep the statistics that they have, for small batches or a finished network."""
    precision: Precision = "32-true"
    """Precision: 32-true, bf16-mixed, 16-mixed or 64-true."""
    deterministic: bool = True
    """Refuse operations that do not repeat bit for bit, where the device offers others."""
    profile: int = 0
    """Steps, after a warm-up, whose operations are timed by torch.profiler and written to the run's folder profile/; 0 for none."""
    compile: bool = False
    """Translate the network's forward and backward into code for this device first (torch.compile): the first step takes minutes, the others are faster."""
    activation_checkpointing: bool = False
    """Compute backbone and decoder anew for their gradients instead of keeping what they computed: less memory, more time; the losses are the same."""

    def __post_init__(self) -> None:
        for name in ("iterations", "log_every", "checkpoint_every", "nodes", "accumulate"):
            value = getattr(self, name)
            _require(value >= 1, f"training.{name} is {value}: it must be at least 1")
        _require(self.evaluate_every >= 0, f"training.evaluate_every is {self.evaluate_every}: it must be 0 or more")
        _require(self.profile >= 0, f"training.profile is {self.profile}: it must be 0 (off) or more steps")
        _require(self.learning_rate > 0, f"training.learning_rate is {self.learning_rate}: it must be above 0")
        _require(0 <= self.momentum < 1, f"training.momentum is {self.momentum}: it must be 0 or more and below 1")
        _require(
            0 < self.restart <= 1, f"training.restart is {self.restart}: a share of the run lies above 0 and up to 1"
        )
        _require(self.restart_factor > 0, f"training.restart_factor is {self.restart_factor}: it must be above 0")
        for name in ("weight_decay", "poly_power", "restart_power"):
            value = getattr(self, name)
            _require(value >= 0, f"training.{name} is {value}: it must be 0 or more")
        precisions = get_args(Precision)
        _require(
            self.precision in precisions,
            f"training.precision is {self.precision!r}: it must be one of {', '.join(precisions)}",
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """How a trained network is scored: at the size of the labels; by default in whole images, at one scale."""

    batch_size: int = 8
    """Images scored together."""
    panels: int = 4
    """Images of each domain whose prediction is kept for the report."""
    limit: int = 0
    """Score only the first so many images of each domain; 0 scores all."""
    window: tuple[int, int] | None = None
    """Height and width in pixels of a window that slides over each image; null looks at the whole image."""
    overlap: float = 0.3333
    """Share of a window that the next one covers, too."""
    window_weights: Literal["uniform", "hann"] = "uniform"
    """How much the pixels of a window count where windows overlap: all alike, or less towards its border."""
    scales: list[float] = field(default_factory=lambda: [1.0])
    """Factors on the image's size; the probabilities at all of them are averaged."""
    flip: bool = False
    """Look at the mirror image of each image, too."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("panels", 0), ("limit", 0)):
            value = getattr(self, name)
            _require(value >= least, f"evaluation.{name} is {value}: it must be at least {least}")
        _require(
            self.window is None or min(self.window) >= 33,
            f"evaluation.window is {self.window}: height and width must be at least 33 pixels",
        )
        _require(0 <= self.overlap < 1, f"evaluation.overlap is {self.overlap}: a share of a window, below 1")
        known = ("uniform", "hann")
        _require(
            self.window_weights in known,
            f"evaluation.window_weights is {self.window_weights!r}: it must be one of {', '.join(known)}",
        )
        _require(
            bool(self.scales) and min(self.scales) > 0,
            f"evaluation.scales is {self.scales}: factors above 0, at least one",
        )

    @property
    def views(self) -> str | None:
        """How images are looked at, in words; None where it is one look at the whole image."""
        window = [] if self.window is None else [f"windows of {self.window[0]}×{self.window[1]}, {self.window_weights}"]
        if self.window is not None and self.overlap != type(self).overlap:
            window[0] += f", overlap {self.overlap:g}"
        scales = [] if self.scales == [1.0] else [f"scales {', '.join(f'{scale:g}' for scale in self.scales)}"]
        return "; ".join([*window, *scales, *(["mirrored"] if self.flip else [])]) or None


@dataclass(frozen=True)
class LoggingConfig:
    """What is told of a run while it trains, beside train.jsonl and TensorBoard's losses."""

    every: int = 500
    """Iterations between two sample predictions, histograms of style weights and prototype similarities on TensorBoard; 0 for none."""
    wandb: str | None = None
    """Project of Weights & Biases that gets the figures, too; needs pip install wandb."""
    mlflow: str | None = None
    """Address of MLflow, such as http://localhost:5000 or sqlite:///mlflow.db, that gets the figures, too; needs pip install mlflow."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, f"logging.every is {self.every}: it must be 0 (off) or more")
        for name in ("wandb", "mlflow"):
            value = getattr(self, name)
            _require(value is None or value.strip() != "", f"logging.{name} is empty: name one, or leave it out")


@dataclass(frozen=True)
class RunConfig:
    """A run from beginning to end: which method, on what, for how long."""

    method: str = "spcnet"
    """Name of a method in `spcnet.METHODS`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is trained and tested on."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The training loop."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How the result is scored."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """What is told of it meanwhile."""
    output: Path = Path("runs/spcnet")
    """Folder of the run: its log, checkpoints and results."""
    expected: str = ""
    """What this recipe should give, in words and figures with their source; not used by the program."""

    def __post_init__(self) -> None:
        _require(
            self.training.accumulate == 1 or self.model.loss.weighting != "batch",
            f"training.accumulate is {self.training.accumulate} and model.loss.weighting is batch, whose weights depend on "
            "the labels of all parts: choose the weighting image, or one part",
        )


def recipes_folder() -> Path:
    """Where the recipes that come with this package lie: inside an installed one, beside the source of a checkout."""
    package = Path(__file__).parent
    beside = package.parent / "recipes"
    return beside if (package.parent / "pyproject.toml").is_file() and beside.is_dir() else package / "recipes"


def recipe_path(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with this package, such as `real-small/spcnet`.

    Raises:
        UsageError: there is neither.
    """
    given = Path(name)
    if given.is_file():
        return given
    folder = recipes_folder()
    own = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}
    found = own.get(name.removeprefix("recipes/").removesuffix(".yaml"))
    if found is None:
        raise UsageError(f"there is no recipe {name}: give a YAML file, or one of {', '.join(own)}")
    return found


T = TypeVar("T")


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """The opposite of `as_dict` for one of the classes above.

    Raises:
        UsageError: a key is unknown or a value is of the wrong kind.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    _require(
        not unknown, f"unknown {'option' if len(unknown) == 1 else 'options'} {', '.join(unknown)} in {kind.__name__}"
    )
    fields = [f for f in dataclasses.fields(kind) if f.init] if dataclasses.is_dataclass(kind) else []
    needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in values]
    _require(
        not missing, f"{kind.__name__} lacks {' and '.join(missing)}: name {'it' if len(missing) == 1 else 'them'}"
    )
    filled: dict[str, Any] = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
            filled[key] = from_dict(hint, value)
        elif get_origin(hint) is dict and isinstance(value, Mapping) and dataclasses.is_dataclass(get_args(hint)[1]):
            filled[key] = {name: from_dict(get_args(hint)[1], one) for name, one in value.items()}
        elif get_origin(hint) is dict and isinstance(value, Mapping) and get_args(hint)[0] is int:
            filled[key] = {int(number) if str(number).isdigit() else number: one for number, one in value.items()}
        elif isinstance(value, list) and "tuple" in str(hint):
            filled[key] = tuple(value)
        elif hint is Path:
            filled[key] = Path(value)
        else:
            filled[key] = value
    try:
        return kind(**filled)
    except TypeError as error:
        raise UsageError(f"{kind.__name__} cannot be read: {' '.join(str(error).split())}") from error


def as_dict(config: Any) -> Any:
    """A configuration as plain values that JSON and YAML can hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: as_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [as_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: as_dict(value) for key, value in config.items()}
    return str(config) if isinstance(config, Path) else config


def with_text_keys(text: str) -> str:
    """A YAML text whose keys are all plain: `[128, 64, 128]: road` becomes `128, 64, 128: road`.

    A list cannot be a key of what YAML is read into. Text without such keys comes back as it is.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    changed = False
    for mapping in _mappings(root):
        for place, (key, value) in enumerate(mapping.value):
            if isinstance(key, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in key.value):
                plain = yaml.ScalarNode("tag:yaml.org,2002:str", ", ".join(item.value for item in key.value))
                mapping.value[place] = plain, value
                changed = True
    written: str = yaml.serialize(root, allow_unicode=True) if changed else text
    return written


class ListKeys:
    """Reads YAML as another function does, and lists as keys, too: for `jsonargparse.set_loader`."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self.load: Callable[[str], Any] = load.load if isinstance(load, ListKeys) else load

    def __call__(self, text: str) -> Any:
        """What the text holds; errors are those of the function."""
        try:
            return self.load(text)
        except yaml.constructor.ConstructorError:
            return self.load(with_text_keys(text))


def _mappings(root: yaml.Node | None) -> list[yaml.MappingNode]:
    """Every mapping in a YAML text, each once."""
    found: list[yaml.MappingNode] = []
    waiting, seen = [root] if root is not None else [], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            found.append(node)
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    return found


def read_sets(path: Path) -> dict[str, OwnSet]:
    """The data sets of one's own that a file describes, by name.

    Args:
        path: a YAML file in UTF-8 that maps names to sets, `mytown: {images: ..., labels: ..., table: ...}`; or a recipe
            or a run's `config.yaml` that has them under `data.sets`.

    Raises:
        DataError: the file cannot be read, or is no YAML in UTF-8.
        UsageError: it describes no set, or one wrongly.
    """
    rule = "it must map the name of each set to its images, labels, and table or colors; or be a recipe with data.sets"
    try:
        text = path.expanduser().read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read the file of data sets {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    try:
        twice = _doubled_key(text)
        values = yaml.safe_load(with_text_keys(text))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    _require(twice is None, f"{path} {twice}")
    _require(isinstance(values, dict) and bool(values), f"{path} describes no data set: {rule}")
    data = values.get("data")
    if isinstance(data, dict) and "images" not in data:
        values = data.get("sets")
        _require(isinstance(values, dict) and bool(values), f"{path} is a recipe without data.sets: {rule}")
    sets: dict[str, OwnSet] = {}
    for name, described in values.items():
        _require(isinstance(described, dict), f"{path}: {name} is {described!r} and no data set: {rule}")
        try:
            sets[str(name)] = from_dict(OwnSet, described)
        except UsageError as error:
            raise UsageError(f"{path}: {name}: {error}") from None
    return sets


def _doubled_key(text: str) -> str | None:
    """What to say of a key that a mapping of a YAML text has twice, of which only the last would count."""
    for mapping in _mappings(yaml.compose(text, Loader=yaml.SafeLoader)):
        lines: dict[str, int] = {}
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in lines:
                    return f"has {key.value} in line {lines[key.value]} and in line {line}: name it once"
                lines[key.value] = line
    return None
