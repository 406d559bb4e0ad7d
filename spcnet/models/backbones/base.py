"""What every backbone is to the rest of the package: feature maps by place, and what one must know to read them."""

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
    """What a tap returns where heads read another map than the next stage."""

    feature: Float[Tensor, "B C h w"]
    """The feature map from there on."""
    read: Float[Tensor, "B C h w"]
    """The one that heads read."""


Tap = Callable[[str, Tensor], Tensor | Tapped]
"""Called with a place and the feature map there; what it returns is the feature map from there on, and the one that heads read."""


def tapped(tap: Tap | None, place: str, feature: Tensor) -> Tapped:
    """What becomes of a feature map at a place."""
    found = feature if tap is None else tap(place, feature)
    return found if isinstance(found, Tapped) else Tapped(found, found)


class Backbone(nn.Module):
    """A feature extractor: a stem and stages, each an attribute that is called as its place is.

    One that is no chain of such parts has a `features` of its own.

    Args:
        channels: of the feature map at each place, the shallow ones first, beginning with the stem.
        strides: image size divided by the size of the feature map at each place, as this backbone is built.
        pixel_multiple: height and width of its images are multiples of this.
        mean: what it was pretrained to have subtracted from red, green and blue of an image in 0..1.
        std: what red, green and blue were then divided by. All images of the package have ImageNet's mean and std, see
            `prepare`.
    """

    scale: Tensor
    shift: Tensor
    fixed_size: bool = False
    """Whether an exported network takes images of one size alone."""

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
        """Modules that `train` leaves in evaluation mode: the pretrained ones, where they are not trained."""
        self.published: dict[str, str] = {}
        """Name of each tensor in files of pretrained weights, by its name here."""
        self.fitted: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
        """Brings tensors by those names to the shapes that they have here."""

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
        """Set the mode of all modules but those that stay in evaluation."""
        nn.Module.train(self, mode)
        for module in self.kept_in_evaluation:
            module.training = False
        return self

    def depths(self) -> dict[str, int]:
        """How deep each parameter lies, by its name: 0 for the stem or the embedding, then a number a stage or a block."""
        return {name: self.places.index(name.partition(".")[0]) for name, _ in self.named_parameters()}

    def embeddings(self) -> set[str]:
        """Names of the parameters that are learned tokens or positions, which weight decay leaves alone."""
        return set()

    def parts(self) -> list[nn.Module]:
        """Blocks that are called as a whole, whether they are recomputed or not."""
        return [part for place in self.places[1:] for part in getattr(self, place).children()]

    def prepare(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H2 W2"]:
        """Images of the package as this backbone wants them: normalised by its own mean and std, sides padded with zeros."""
        if self.renormalises:
            image = torch.addcmul(self.shift, image, self.scale)
        if self.pixel_multiple > 1:
            image = F.pad(image, (0, -image.shape[3] % self.pixel_multiple, 0, -image.shape[2] % self.pixel_multiple))
        return image

    def bake(self, height: int, width: int) -> None:
        """Make ready for images of one size, where that saves operations in an exported network; by default nothing is."""

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
            places: of which to return the map.
            tap: is called at every place, and may replace the map there.
            recompute: compute the stem, and of the stages each block, again when the gradient is taken, to save memory.
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
    """Refuse settings that a backbone would ignore.

    Args:
        features: the settings.
        backbone: its name.
        heeded: names of those that it heeds.

    Raises:
        UsageError: names the first other one that is not the default.
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
    """What is known of a backbone before it is built."""

    summary: str
    build: Callable[[int | None, FeaturesConfig], Backbone]
    """Makes it with random weights for an output stride, at which the deepest of its maps then lies (None: where it does of
    itself), and settings."""
    weights: str = ""
    """What its ImageNet weights are called where they come from."""
    download: Callable[[], dict[str, Tensor]] | None = None
    """Fetches them, by the names that `Backbone.published` has; raises OSError."""
    fresh: tuple[str, ...] = ()
    """Beginnings of the published names that those weights do not have in the right shape."""
    norm_slots: tuple[str, ...] = ()
    """Where RobustNet puts instance norms and whitening, see `spcnet.models.norm_slots`."""
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    """Brings the names that files have to the published ones, where `spcnet.weights.imagenet` does not know them."""
    known: frozenset[str] = frozenset()
    """Published names of the whole classifier; what of them the backbone does not take is left out of a file."""
    licence: str = ""
    """Terms of the published weights where they are not permissive, by the licence's short name."""
    flat: bool = False
    """Whether all its maps have one size, unless `model.features.pyramid` brings them to several."""
