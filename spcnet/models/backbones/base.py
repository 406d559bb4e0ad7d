"""The interface of backbones: feature maps by place, with their channels and strides."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spcnet.config import FeaturesConfig
from spcnet.errors import UsageError
from spcnet.models.recompute import recomputed
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD

B = TypeVar("B", bound="Backbone")


class Tapped(NamedTuple):
    """Result of a tap where the decoder reads another map than the next stage."""

    feature: Float[Tensor, "B C h w"]
    """Input of the next stage."""
    read: Float[Tensor, "B C h w"]
    """Input of the decoder and the heads."""


Tap = Callable[[str, Tensor], Tensor | Tapped]
"""Called with a place and its feature map; returns the map that replaces it, or a `Tapped` with one map for the next stage and one for the heads."""


def tapped(tap: Tap | None, place: str, feature: Tensor) -> Tapped:
    """Apply a tap to the feature map of a place."""
    result = feature if tap is None else tap(place, feature)
    return result if isinstance(result, Tapped) else Tapped(result, result)


class Backbone(nn.Module):
    """A feature extractor: a stem and stages, each an attribute that is called as its place is.

    One that is no chain of such parts has a `features` of its own.

    Args:
        channels: of the feature map at each place, the shallow ones first, beginning with the stem.
        strides: image size divided by the size of the feature map at each place, as this backbone is built.
        pixel_multiple: height and width of its images are multiples of this.
        mean: RGB mean of its pretraining, for images in 0..1.
        std: RGB standard deviation of its pretraining. All images of the package have ImageNet's mean and std, see
            `prepare`.
    """

    scale: Tensor
    shift: Tensor
    fixed_size: bool = False
    """Whether an exported network takes images of one fixed size."""

    def __init__(
        self,
        channels: Mapping[str, int],
        strides: Mapping[str, int],
        *,
        pixel_multiple: int = 1,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.channels, self.strides, self.pixel_multiple = dict(channels), dict(strides), pixel_multiple
        self.mean, self.std = mean, std
        self.renormalises = (mean, std) != (IMAGENET_MEAN, IMAGENET_STD)
        if self.renormalises:
            ours = torch.tensor([IMAGENET_MEAN, IMAGENET_STD, mean, std]).view(4, 3, 1, 1)
            self.register_buffer("scale", ours[1] / ours[3], persistent=False)
            self.register_buffer("shift", (ours[0] - ours[2]) / ours[3], persistent=False)
        self.kept_in_evaluation: tuple[nn.Module, ...] = ()
        """Frozen pretrained modules, which `train` leaves in evaluation mode."""
        self.published: dict[str, str] = {}
        """Name of each tensor in pretrained files, by its name here."""
        self.fitted: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
        """Resizes tensors with those names to the shapes that they have here."""

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the stem and the stages, the shallow ones first."""
        return tuple(self.channels)

    @property
    def pyramid(self) -> tuple[str, ...]:
        """Places of the four maps that decoders read, the finest first; of a chain of stages all but the stem."""
        return self.places[1:]

    @property
    def style_places(self) -> tuple[str, ...]:
        """The two places after which style layers stand; the stem and the first stage."""
        return self.places[:2]

    def train(self: B, mode: bool = True) -> B:  # noqa: PYI019 - beartype knows Self in whole classes alone
        """Set the mode of all modules except `kept_in_evaluation`."""
        nn.Module.train(self, mode)
        for module in self.kept_in_evaluation:
            module.training = False
        return self

    def depths(self) -> dict[str, int]:
        """Depth of each parameter, by its name: 0 for the stem or the embedding, then the number of the stage or block."""
        return {name: self.places.index(name.partition(".")[0]) for name, _ in self.named_parameters()}

    def embeddings(self) -> set[str]:
        """Names of the parameters that are learned tokens or positions, which weight decay leaves alone."""
        return set()

    def parts(self) -> list[nn.Module]:
        """Blocks that are called as a whole, whether they are recomputed or not."""
        return [part for place in self.places[1:] for part in getattr(self, place).children()]

    def prepare(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H2 W2"]:
        """Renormalise images by the backbone's mean and std, and zero-pad their sides to `pixel_multiple`."""
        if self.renormalises:
            image = torch.addcmul(self.shift, image, self.scale)
        if self.pixel_multiple > 1:
            image = F.pad(image, (0, -image.shape[3] % self.pixel_multiple, 0, -image.shape[2] % self.pixel_multiple))
        return image

    def bake(self, height: int, width: int) -> None:
        """Precompute what depends on the image size, for an export with a fixed size; nothing by default."""

    def features(
        self,
        image: Float[Tensor, "B 3 H W"],
        places: Collection[str],
        tap: Tap | None = None,
        *,
        recompute: bool = False,
    ) -> dict[str, Tensor]:
        """Feature maps at some places.

        Args:
            image: from `prepare`.
            places: places whose maps are returned.
            tap: is called at every place, and may replace the map there.
            recompute: activation checkpointing of the stem and of each block.
        """
        feature, maps = image, {}
        for number, place in enumerate(self.places):
            stage: nn.Module = getattr(self, place)
            # Block by block: a step then needs the memory of a block and not of a stage.
            for part in stage.children() if recompute and number else (stage,):
                feature = recomputed(part, feature) if recompute else part(feature)
            feature, read = tapped(tap, place, feature)
            if place in places:
                maps[place] = read
        return maps

    def put_norm(self, slot: str, make: Callable[[int], nn.Module]) -> None:
        """Put a norm into a slot, see `spcnet.models.norm_slots`.

        Args:
            slot: its name.
            make: the norm for a number of channels.

        Raises:
            UsageError: the backbone has no such slot.
        """
        raise UsageError(f"this backbone has no slot {slot}: leave out model.norms, or choose another backbone")


def refuse_ignored(features: FeaturesConfig, backbone: str, *, heeded: Collection[str] = ()) -> None:
    """Refuse settings that a backbone ignores.

    Args:
        features: the settings.
        backbone: its name.
        heeded: names of the settings that it reads.

    Raises:
        UsageError: another setting is not the default.
    """
    default = FeaturesConfig()
    for field in dataclasses.fields(FeaturesConfig):
        value = getattr(features, field.name)
        if field.name not in heeded and value != getattr(default, field.name):
            raise UsageError(
                f"model.features.{field.name} is {value}, but {backbone} is no plain vision transformer of timm: leave it out"
                if field.name != "drop_path"
                else f"model.features.drop_path is {value}, but {backbone} has no stochastic depth: set it to 0"
            )


class BackboneInfo(NamedTuple):
    """Metadata of a backbone, available before it is built."""

    summary: str
    build: Callable[[int | None, FeaturesConfig], Backbone]
    """Builds it with random weights for an output stride (None: the backbone's default) and settings."""
    weights: str = ""
    """Name of its ImageNet weights at their source."""
    download: Callable[[], dict[str, Tensor]] | None = None
    """Downloads them, with the names of `Backbone.published`; raises OSError."""
    fresh: tuple[str, ...] = ()
    """Prefixes of the published names whose tensors have another shape in those weights."""
    norm_slots: tuple[str, ...] = ()
    """Slots in which RobustNet places instance norms and whitening, see `spcnet.models.norm_slots`."""
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    """Maps the names in files to the published ones, where `spcnet.weights.imagenet` does not know them."""
    known: frozenset[str] = frozenset()
    """Published names of the complete classifier; those that the backbone lacks are dropped from a file."""
    licence: str = ""
    """Terms of the published weights where they are not permissive, by the licence's short name."""
    flat: bool = False
    """Whether all its maps have one size, unless `model.features.pyramid` resizes them."""
