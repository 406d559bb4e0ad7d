"""Every setting of a run as frozen values: the options in their groups, each with its default, its rule and its meaning.

The defaults are the paper's (Huang et al., CVPR 2023) and, for what the paper leaves open, those of the framework it
was trained in (RobustNet, Choi et al., CVPR 2021).
"""

import difflib
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from spcnet.config.adapters import AdapterConfig
from spcnet.config.domains import DomainSpec, OwnSet
from spcnet.config.options import Decides, Option, Settings, option, require, walk
from spcnet.config.training import TrainingConfig

OUTPUT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class StyleConfig(Settings, group="model.style"):
    """Style projection (paper §3.2), for the methods that have style layers."""

    mode: Literal["projection", "normalization", "substitution"] | None = option("result", None)
    """What replaces an image's style: the weighted sum of the bases (projection), nothing (normalization), or the nearest base (substitution). Default: what the method's name says."""
    distance: Literal["was", "abs", "kl"] = option("result", "was")
    """Distance between two styles: Wasserstein, difference of mean/std, or Kullback-Leibler divergence."""
    channel_wise: bool = option("result", False)
    """Weigh the bases for each channel by itself instead of for the whole image."""
    momentum: float = option("result", 0.9, least=0, most=1)
    """Share of a style base that one update keeps (α)."""
    sharpness: float = option("result", 1.0, above=0)
    """Factor on the similarities 1/(1+distance) before the softmax over the bases; 1 is the paper's Eq. 4, more lets the nearest base weigh more."""


@dataclass(frozen=True)
class ClusteringConfig(Settings, group="model.clustering"):
    """Semantic clustering (paper §3.3), for the methods that classify by prototypes."""

    embedding_dim: int = option("result", 256, least=1)
    """Size D of a pixel embedding and of a prototype."""
    momentum: float = option("result", 0.999, least=0, most=1)
    """Share of a prototype that one update keeps (γ)."""
    ramp_up: bool = option("result", False)
    """Let the momentum grow over the run as exp(-0.1·(1-t/T)²), t/T being the fraction of the run that is done, instead of the fixed value."""
    temperature: float = option("result", 0.1, above=0)
    """Divisor τ of the similarities in the discrimination loss."""
    var_weight: float = option("result", 1.0, least=0, noun="a loss weight", zero="off")
    """Weight β of the compactness loss L_var (pixels to their prototype). In no public source; see docs/LOG.md."""
    dis_weight: float = option("result", 0.1, least=0, noun="a loss weight", zero="off")
    """Weight of the discrimination loss L_dis (class means away from other classes). In no public source; see docs/LOG.md."""


@dataclass(frozen=True)
class WhiteningConfig(Settings, group="model.whitening"):
    """The whitening losses (Choi et al., CVPR 2021), for networks with iw, irw or isw in their norm slots."""

    weight: float = option("result", 0.6, least=0, noun="a loss weight", zero="off")
    """Weight of the whitening loss."""
    relax: int = option("result", 0, least=0, zero="none")
    """Above 0: irw's margin is the number of covariances divided by this (0: by 64); isw takes as many of them instead of clusters."""
    start: float = option("result", 0.12, least=0, below=1, noun="a fraction of the run")
    """Share of the run that isw trains without the loss, before it takes the statistics; RobustNet's six epochs of GTAV."""
    clusters: int = option("result", 3, least=2)
    """k of the k-means over the variances of the covariances; isw removes those outside the lowest cluster."""
    trials: int = option("result", 10, least=1)
    """How many statistics isw takes; a covariance must be sensitive in all of them."""
    pairs: int = option("result", 500, least=1)
    """Pairs of an image and its photometric alteration in one trial."""
    legacy: bool = option("result", False)
    """Cluster the zeros below the diagonal, too, as the released code does."""


PIXEL_LOSSES: dict[str, tuple[str, ...]] = {
    "ce": ("weighting", "bound", "border", "border_until", "strict"),
    "focal": ("focal_gamma",),
    "ohem": ("ohem_threshold", "ohem_least"),
    "dice": (),
    "lovasz": (),
}
"""The losses of pixels by name, with the options of `model.loss` that only this one has."""
Weighting = Literal["none", "class", "image", "batch"]


@dataclass(frozen=True)
class LossConfig(Settings, group="model.loss"):
    """The losses of pixels: the cross-entropy, with the forms that RobustNet offers, and others beside it or in its place.

    The auxiliary head has the cross-entropy alone, with fixed weights of the classes.
    """

    terms: dict[str, float] = option("result", factory=lambda: {"ce": 1.0})
    """The losses with their weights: ce (cross-entropy), focal, ohem (cross-entropy of the hard pixels), dice, lovasz. {ce: 1, dice: 1} adds one to the cross-entropy, {ohem: 1} takes one in its place."""
    focal_gamma: float = option("result", 2.0, least=0)
    """γ of focal: the larger, the less count pixels that are nearly right."""
    ohem_threshold: float = option("result", 0.7, above=0, most=1, noun="a probability")
    """A pixel is hard for ohem where its class has a lower probability than this."""
    ohem_least: float = option("result", 0.2, least=0, most=1, noun="a share")
    """Smallest share of an image's labelled pixels that ohem takes, the hardest ones; 0.2 is about the 100,000 pixels that is usual for crops of 512×1024."""
    weighting: Weighting = option("result", "none")
    """Weights of the classes: none, fixed ones (class), or by how rare each is in its image (image) or in the batch (batch)."""
    class_weights: list[float] | None = option("result", None, above=0, noun="every weight")
    """For the weighting 'class', a weight for each class; default: RobustNet's for the 19 Cityscapes classes."""
    bound: float = option("result", 1.0, least=0)
    """For the weightings 'image' and 'batch': how much more than 1 the rarest class may weigh."""
    border: int = option("result", 0, least=0, zero="none", unit="pixels")
    """A pixel with other classes within this number of pixels may have any of them (label relaxation); 0 for none, RobustNet's is 1."""
    border_until: float = option("result", 1.0, least=0, most=1, noun="a fraction of the run")
    """Share of the run after which borders count like any pixel."""
    strict: list[int] = option("result", factory=list)
    """Numbers of the classes that keep their own label at a border."""

    def __post_init__(self) -> None:
        super().__post_init__()
        near = [match for name in self.terms for match in difflib.get_close_matches(name, PIXEL_LOSSES, n=1)]
        require(
            len(self.terms) > 0 and all(name in PIXEL_LOSSES for name in self.terms),
            f"model.loss.terms is {self.terms}: it needs one or more of {', '.join(PIXEL_LOSSES)}, each with its weight"
            + (f". Did you mean {near[0]}?" if near else ""),
        )
        for name, weight in self.terms.items():
            fits = isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 < weight < float("inf")
            require(fits, f"model.loss.terms.{name} is {weight!r}: a loss weight must be a number above 0 and finite")
        ignored = [
            name
            for term, names in PIXEL_LOSSES.items()
            for name in (names if term not in self.terms else ())
            if getattr(self, name) != getattr(type(self), name, [])
        ]
        require(
            not ignored,
            f"model.loss.{', '.join(ignored[:1])} has no effect on the losses {', '.join(self.terms)}: leave it out, or name "
            "its loss in model.loss.terms",
        )
        require(
            self.class_weights is None or self.weighting == "class",
            f"model.loss.class_weights is {self.class_weights}: it goes with loss.weighting class, which is {self.weighting}",
        )


@dataclass(frozen=True)
class FeaturesConfig(Settings, group="model.features"):
    """What is taken from the backbone, for those of timm."""

    taps: list[int] | None = option("result", None, least=0)
    """Numbers of the blocks of a vision transformer whose outputs the head reads, from 0. Default: four, at even distances, the last block among them."""
    norm: bool = option("result", False)
    """Apply the vision transformer's final norm to each of these outputs."""
    patch_size: int | None = option("result", None, least=1, unit="pixels")
    """Side of a vision transformer's patches. Default: 16 for weights of patch 14, whose kernel and positions are then resampled, else the model's own."""
    grid: int | None = option("result", None, least=1)
    """Cells a side of a vision transformer's grid of learned positions, to which published ones are resampled once. Default: as many as are published, resampled to each image."""
    resample: Literal["plain", "exact"] = option("result", "plain")
    """How patch kernel and position embedding are brought to another size: bicubic interpolation as DINOv2's, Rein's and SoMA's code has it (plain), or pseudo-inverse kernel resize and antialiased positions, timm's default (exact)."""
    pyramid: Literal["resize", "deconv", "none"] | None = option("result", None)
    """How a vision transformer's maps come to the strides 4, 8, 16 and 32: bilinear resize, learned transposed convolutions, or not at all. Default: resize, or none for the decoder conv4."""
    drop_path: float = option("result", 0.0, least=0, below=1, noun="a probability")
    """Stochastic depth of the last block, growing linearly over the depth."""


@dataclass(frozen=True)
class HeadConfig(Settings, group="model.head"):
    """Settings of the decoders, each for those that it names."""

    channels: int | None = option("result", None, least=1)
    """Channels of the decoder's features; default: the decoder's own."""
    dropout: float = option("result", 0.1, least=0, below=1, noun="a probability")
    """Dropout before the classifier, for linear, conv4 and segformer."""
    queries: int = option("result", 100, least=1)
    """Number of queries of mask2former and eomt."""
    fixed_queries: bool = option("result", False)
    """One query for each class instead, matched to it without a Hungarian algorithm."""
    layers: int = option("result", 9, least=1)
    """Layers of mask2former's transformer decoder."""
    pixel_decoder: bool = option("result", True)
    """Give mask2former its pixel decoder of deformable attention; without it the maps are only projected and joined."""
    blocks: int = option("result", 4, least=1)
    """Last blocks of the vision transformer that eomt's queries go through."""
    points: int = option("result", 12_544, least=1)
    """Points at which the mask losses are evaluated."""


@dataclass(frozen=True)
class ModelConfig(Settings, group="model"):
    """The network."""

    backbone: str = option("result", "resnet50", compared="backbone")
    """Feature extractor: resnet18, resnet50, resnet101, mobilenet_v2, shufflenet_v2, or timm/NAME for any model of timm by its name there."""
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    """What is taken from the backbone."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """What of the backbone is trained."""
    decoder: str = option("result", "deeplabv3plus", compared="decoder")
    """What makes class scores of the backbone's feature maps: deeplabv3plus, linear, conv4, segformer, mask2former or eomt."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Settings of the decoder."""
    output_stride: int | None = option("result", 16, choices=OUTPUT_STRIDES, compared="output stride")
    """Image size divided by the size of the deepest feature map: 8, 16 or 32, or null for the backbone's own. Smaller is finer and costs more; a backbone of timm that cannot be dilated takes its own alone."""
    weights: str | None = option("result", "imagenet", compared="start of the backbone")
    """Where the backbone starts: 'imagenet' or 'pretrained' (what torchvision or timm publishes), a local file (FILE#NAME for one of several networks in it), or null for random values."""
    style: StyleConfig = field(default_factory=StyleConfig)
    """Style projection."""
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    """Semantic clustering."""
    whitening: WhiteningConfig = field(default_factory=WhiteningConfig)
    """The whitening losses."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The cross-entropy."""
    norms: dict[str, str] | list[int] | None = option("result", None)
    """Instance norms in the backbone: slot (stem, layer1 … layer4) → kind (ibn, is, iw, irw, isw, sw), or RobustNet's seven wt_layer codes. Default: what the method's name says."""
    auxiliary_weight: float = option("result", 0.0, least=0, noun="a loss weight", zero="off")
    """Weight of the loss of an auxiliary head on the third stage; 0 builds none. RobustNet's is 0.4."""
    settings: dict[str, Any] = option("result", factory=dict)
    """Settings that only this method has, by name; docs/methods.md lists them."""


@dataclass(frozen=True)
class AugmentationConfig(Settings, group="data.augmentation"):
    """What happens to a training image, in this order; RobustNet's values."""

    scale: tuple[float, float] = option("result", (0.5, 2.0), above=0, rising=True, noun="both factors")
    """Range of the random factor on the image's size."""
    flip: float = option("result", 0.5, least=0, most=1, noun="a probability")
    """Probability of a left-right flip."""
    jitter: float = option("result", 0.5, least=0, most=1, noun="a probability")
    """Probability of a change of brightness, contrast, saturation (each ±0.4) and hue (±0.1)."""
    blur: tuple[float, float] | None = option("result", (0.15, 1.3), above=0, rising=True, noun="both values")
    """Range of the standard deviation of a Gaussian blur, in pixels; null for none."""
    styles: list[str] = option("result", factory=list)
    """Weather and road styles of which an image gets one; empty for none (`spcnet data styles` shows them)."""
    style_probability: float = option("result", 0.5, least=0, most=1, noun="a probability")
    """Probability that an image gets one of the styles."""
    style_strength: tuple[float, float] = option("result", (0.3, 1.0), least=0, most=1, rising=True, noun="both values")
    """Range of the strength of a style."""

    def __post_init__(self) -> None:
        super().__post_init__()
        doubled = sorted({s for s in self.styles if self.styles.count(s) > 1})
        require(not doubled, f"data.augmentation.styles names {', '.join(doubled)} twice")


@dataclass(frozen=True)
class DataConfig(Settings, group="data"):
    """What is trained on and what is tested on."""

    sources: list[str] = option("result", factory=lambda: ["streets/game", "streets/toy"], compared="sources")
    """Domains to train on, each SET[/SUBSET][@SPLIT]; their order gives the domain index."""
    targets: list[str] = option(
        "result",
        factory=lambda: [f"streets/{s}" for s in ("overcast", "dusk", "night", "fog", "rain", "snow")],
        compared="targets",
    )
    """Domains to test on that are never trained on, each SET[/SUBSET][@SPLIT][+STYLE]."""
    space: str = option("result", "cityscapes19", compared="label space")
    """Label space: cityscapes19, or a named merge such as idd7."""
    roots: dict[str, str] = option("place", factory=dict)
    """Folder of each data set that lies on disk, by the set's name."""
    root: str | None = option("place", None)
    """Folder that holds one folder for each data set, named as the set is; for those that data.roots leaves out."""
    sets: dict[str, OwnSet] = option("result", factory=dict)
    """Data sets of your own, by the name that sources and targets give them."""
    exclude: list[str] = option("result", factory=list)
    """Files that list images to leave out, as `spcnet data check` writes them."""
    on_bad_image: Literal["stop", "skip"] = option("result", "stop")
    """What an unreadable image or label does: stop the run, or skip it, which is counted, listed and reported."""
    sampling: Literal["balanced", "proportional", "alternating"] = option("schedule", "balanced")
    """What a training batch holds: as many images of each source (balanced), of all sources as they come (proportional), or of one source, another each step (alternating)."""
    class_uniform: float = option("schedule", 0.0, least=0, most=1, noun="a fraction")
    """Share of the images that are drawn class by class, the crop around that class; 0 for none, RobustNet's is 0.5."""
    rare_class: float = option("schedule", 0.0, least=0, most=1, noun="a fraction")
    """Share of the images that are drawn for a class, the rarer the more often (DAFormer's rare-class sampling), in place of data.class_uniform; 0 for none, DAFormer's is 1."""
    rare_temperature: float = option("schedule", 0.01, above=0)
    """Temperature T of that: a class with the share f of the pixels is drawn with a probability as exp((1 - f)/T); a large one draws all alike."""
    rare_pixels: int = option("schedule", 3000, least=1, unit="pixels")
    """An image is drawn for a class that has more pixels than this in its label, and is cropped up to ten times until more than half as many are in the crop."""
    tile: int = option("result", 1024, least=16, unit="pixels")
    """Side in pixels of the tiles of an image in which the centre of each class is looked for, for data.class_uniform."""
    pseudo_domains: int = option("result", 0, least=0, zero="none")
    """Above 0: number of domains that the only source is divided into; the paper has 10."""
    pseudo_by: Literal["style", "cluster", "random"] = option("result", "style")
    """What divides it: the style that augmentation gave the image, clusters of the style statistics during training, or chance."""
    size: tuple[int, int] | None = option(
        "result", (128, 256), least=33, unit="pixels", noun="height and width", compared="image size"
    )
    """Height and width in pixels that every image is brought to; null leaves each as large as it is."""
    crop: tuple[int, int] | None = option("result", None, least=33, unit="pixels", noun="height and width")
    """Height and width of the piece of an image, brought to that size, that is trained on; default: data.size."""
    images_per_domain: int = option("result", 4, least=1, compared="images per domain in a batch")
    """Images of each source in a training batch."""
    workers: int = option("place", 1, least=0, zero="none beside the one that trains")
    """Processes that prepare training images beside the one that trains; 0 prepares them in the same."""
    train_scenes: int = option("schedule", 2000, least=1, compared="number of training scenes")
    """Generated scenes to train on, for the set `streets`."""
    test_scenes: int = option("result", 100, least=1, compared="number of test scenes")
    """Generated scenes to test on, for the set `streets`; never among those trained on."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What happens to a training image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sources", "targets"):
            for text in getattr(self, name):
                DomainSpec.parse(text)
        require(len(self.sources) >= 1, "data.sources is empty: name at least one domain to train on")
        doubled = sorted({s for s in self.sources if self.sources.count(s) > 1})
        require(not doubled, f"data.sources names {', '.join(doubled)} twice: each source is one domain")
        both = sorted(set(self.sources) & set(self.targets))
        require(not both, f"{', '.join(both)} stands in data.sources and data.targets: a target is never trained on")
        require(
            self.rare_class == 0 or self.class_uniform == 0,
            f"data.rare_class is {self.rare_class} and data.class_uniform {self.class_uniform}: each is a way to draw classes, "
            "choose one",
        )
        for name in ("rare_temperature", "rare_pixels") if self.rare_class == 0 else ():
            require(
                getattr(self, name) == getattr(type(self), name),
                f"data.{name} is {getattr(self, name)}: it goes with data.rare_class above 0; leave it out",
            )
        require(
            self.pseudo_domains == 0 or (self.pseudo_domains >= 2 and len(self.sources) == 1),
            f"data.pseudo_domains is {self.pseudo_domains} with {len(self.sources)} sources: it divides a single source, "
            "into two or more; 0 for not at all",
        )
        require(
            self.pseudo_domains == 0
            or self.pseudo_by != "style"
            or len(self.augmentation.styles) >= self.pseudo_domains - 1,
            f"data.pseudo_domains is {self.pseudo_domains} by style, but data.augmentation.styles has "
            f"{len(self.augmentation.styles)}: one domain is the images as they are, each other needs a style of its own",
        )
        require(
            self.pseudo_domains == 0 or self.pseudo_by != "style" or 0 < self.augmentation.style_probability < 1,
            f"data.augmentation.style_probability is {self.augmentation.style_probability}: with domains by style there "
            "must be images with a style and images without",
        )
        require(
            self.size is not None or self.crop is not None,
            "data.size is null: name data.crop, for images of a batch must be of one size",
        )

    @property
    def draws_classes(self) -> bool:
        """Whether images are drawn for their classes, so that all labels are read first."""
        return self.class_uniform > 0 or self.rare_class > 0

    @property
    def source_tests(self) -> list[str]:
        """The sources as domains to test on: their test splits, whatever split was trained on."""
        return [str(replace(DomainSpec.parse(text), split=None)) for text in self.sources]

    @property
    def tests(self) -> list[str]:
        """All domains to test on, sources first."""
        return list(dict.fromkeys([*self.source_tests, *self.targets]))

    @property
    def domain_names(self) -> list[str]:
        """The domains that a network learns to tell apart: the sources, or the parts of the only one if it is divided."""
        if not self.pseudo_domains:
            return self.sources
        return [f"{self.sources[0]}#{number + 1}" for number in range(self.pseudo_domains)]


@dataclass(frozen=True)
class EvaluationConfig(Settings, group="evaluation"):
    """How a trained network is scored: at the size of the labels; by default in whole images, at one scale."""

    batch_size: int = option("place", 8, least=1)
    """Images scored together."""
    panels: int = option("place", 4, least=0)
    """Images of each domain whose prediction is kept for the report."""
    limit: int = option("result", 0, least=0, zero="all", compared="limit of scored images")
    """Number of images of each domain to evaluate, the first ones; 0 scores all."""
    window: tuple[int, int] | None = option("result", None, least=33, unit="pixels", noun="height and width")
    """Height and width in pixels of a window that slides over each image; null looks at the whole image."""
    overlap: float = option("result", 0.3333)
    """Share of a window that the next one covers, too."""
    window_weights: Literal["uniform", "hann"] = option("result", "uniform")
    """How much the pixels of a window count where windows overlap: all alike, or less towards its border."""
    scales: list[float] = option("result", factory=lambda: [1.0], above=0, noun="every factor")
    """Factors on the image's size; the probabilities at all of them are averaged."""
    flip: bool = option("result", False)
    """Look at the mirror image of each image, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.overlap < 1, f"evaluation.overlap is {self.overlap}: a fraction of a window, below 1")

    @property
    def views(self) -> str | None:
        """How images are viewed, in words; None where it is the whole image at once."""
        window = [] if self.window is None else [f"windows of {self.window[0]}×{self.window[1]}, {self.window_weights}"]
        if self.window is not None and self.overlap != type(self).overlap:
            window[0] += f", overlap {self.overlap:g}"
        scales = [] if self.scales == [1.0] else [f"scales {', '.join(f'{scale:g}' for scale in self.scales)}"]
        return "; ".join([*window, *scales, *(["mirrored"] if self.flip else [])]) or None


@dataclass(frozen=True)
class LoggingConfig(Settings, group="logging"):
    """What is logged of a run while it trains, beside train.jsonl and TensorBoard's losses."""

    every: int = option("place", 500, least=0, zero="off")
    """Iterations between two sample predictions, histograms of style weights and prototype similarities on TensorBoard; 0 for none."""
    wandb: str | None = option("place", None)
    """Project of Weights & Biases that gets the figures, too; needs pip install wandb."""
    mlflow: str | None = option("place", None)
    """Address of MLflow, such as http://localhost:5000 or sqlite:///mlflow.db, that gets the figures, too; needs pip install mlflow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("wandb", "mlflow"):
            value = getattr(self, name)
            require(value is None or value.strip() != "", f"logging.{name} is empty: name one, or leave it out")


@dataclass(frozen=True)
class RunConfig(Settings):
    """A run from beginning to end: which method, on what, for how long."""

    method: str = option("result", "spcnet")
    """Name of a method in `spcnet.METHODS`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    plugins: list[str | dict[str, Any]] = option("result", factory=list)
    """What is added to the method in training (mixstyle, dsu, np_plus, shade, pasta, fourier, randconv, advstyle, two_view, feature_distance, content_extension; docs/plugins.md): names, or mappings with a name and settings, `[mixstyle, {name: pasta, alpha: 3}]`."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is trained and tested on."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The training loop."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How the result is scored."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """What is logged of it meanwhile."""
    output: Path = option("place", Path("runs/spcnet"))
    """Folder of the run: its log, checkpoints and results."""
    expected: str = option("place", "")
    """What this recipe should give, in words and figures with their source; not used by the program."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for item in self.plugins:
            require(
                isinstance(item, str) or isinstance(item.get("name"), str),
                f"plugins has {item}: each is a name, or a mapping with a name and settings, such as {{name: mixstyle, alpha: 0.1}}",
            )
        names = [item if isinstance(item, str) else item["name"] for item in self.plugins]
        doubled = sorted({name for name in names if names.count(name) > 1})
        require(not doubled, f"plugins names {', '.join(doubled)} twice")
        require(
            self.training.accumulate == 1 or self.model.loss.weighting != "batch",
            f"training.accumulate is {self.training.accumulate} and model.loss.weighting is batch, whose weights depend on "
            "the labels of all parts: choose the weighting image, or one part",
        )


@cache
def options() -> dict[str, Option]:
    """Every option of a run by its dotted path, in the order of the fields."""
    return {one.path: one for _, one in walk(RunConfig, "")}


def decides(path: str) -> Decides:
    """What the option at a dotted path decides; one within a mapping (`data.roots.gtav`) what the mapping does.

    An option that is not known, of a newer version, counts as one that decides the result.
    """
    known = options()
    while path:
        if path in known:
            return known[path].rule.decides
        path = path.rpartition(".")[0]
    return "result"


def kept_on_resume(group: str) -> tuple[str, ...]:
    """Names of the options in a group, such as `training`, that a resumed run must keep."""
    paths = [path for path, one in options().items() if one.rule.decides in ("schedule", "order")]
    return tuple(name for path in paths for head, _, name in [path.rpartition(".")] if head == group)
