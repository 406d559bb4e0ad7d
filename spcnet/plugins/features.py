"""What plug-ins share that change or read the backbone's feature maps."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spcnet import distributed
from spcnet.config import RunConfig
from spcnet.errors import UsageError
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.models.style import restyle, style_stats
from spcnet.types import StyleStats


class Recorder(nn.Module):
    """Keeps the map of all images of the latest forward pass, of both halves of a doubled batch, and leaves it as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.feature: Tensor | None = None

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Keep it."""
        self.feature = feature
        return feature

    def take(self) -> Float[Tensor, "B C h w"]:
        """The map, which is not kept any longer."""
        feature, self.feature = self.feature, None
        assert feature is not None
        self.shape = (feature.shape[2], feature.shape[3])
        return feature


class Restyler(nn.Module):
    """Gives the images of a batch the styles that a function makes of theirs; the identity where there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.new_style: NewStyle | None = None
        """Set for each step."""

    def forward(self, feature: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Restyle; the statistics are constants for the gradient."""
        if self.new_style is None:
            return feature
        own = style_stats(feature)
        return restyle(feature, own, *self.new_style(own))


class NewStyle:
    """Makes new styles of those of a micro-batch; a subclass holds what is drawn for a step."""

    def __call__(self, own: StyleStats) -> StyleStats:
        """The style that each image gets.

        Args:
            own: the styles of the images, of this process alone.
        """
        raise NotImplementedError


def everywhere(stats: StyleStats) -> StyleStats:
    """The styles of the micro-batches of all processes, process by process, as `Step.everywhere` has the places."""
    return StyleStats(*(distributed.gather_rows(value) for value in stats))


def normal(step: Step, key: str, channels: int, like: Tensor) -> Float[Tensor, "2 B C"]:
    """Two standard normal numbers for each image and channel, on the device of `like`."""
    drawn = np.stack([rng.standard_normal((2, channels)) for rng in step.generators(key)], axis=1)
    return torch.from_numpy(drawn).to(like.device, like.dtype)


def places_of(network: Segmentor, layers: list[str] | None, option: str, backbone: str) -> list[str]:
    """The places of the backbone that a plug-in's setting names.

    Args:
        network: has the backbone.
        layers: the names; None for the first two that decoders read, of a CNN those after the stem.
        option: what a message calls the setting.
        backbone: its name, for the message.

    Raises:
        UsageError: there is no such place.
    """
    channels = network.backbone.channels
    names = network.backbone.pyramid[:2] if layers is None else layers
    unknown = [name for name in names if name not in channels]
    if unknown:
        raise UsageError(f"{option} names {unknown[0]}: the backbone {backbone} has {', '.join(channels)}")
    if not names:
        raise UsageError(
            f"{option} is empty, so nothing would change: name places of {', '.join(channels)}, or leave it out"
        )
    return [place for place in channels if place in names]


def check_partners(config: RunConfig, option: str) -> None:
    """Refuse to look for images of another domain where there is one domain.

    Args:
        config: the run.
        option: what a message calls the setting that asks for them.

    Raises:
        UsageError: naming the option.
    """
    if len(config.data.domain_names) < 2:
        raise UsageError(
            f"{option} is cross-domain, and {config.data.sources[0]} is the only domain: name a second one in data.sources, "
            "divide it by data.pseudo_domains, or mix random"
        )


def check_batch(config: RunConfig, name: str) -> None:
    """Refuse a batch of one image for a plug-in that compares the images of a batch.

    Args:
        config: the run.
        name: the plug-in's.

    Raises:
        UsageError: naming the option.
    """
    if config.data.images_per_domain == 1 and len(config.data.sources) == 1 and str(config.training.devices) == "1":
        raise UsageError(
            f"the plug-in {name} takes styles from other images of a batch, which has one image: set "
            "data.images_per_domain to 2 or more"
        )


def in_order(positions: list[int], *values: Tensor) -> list[Tensor]:
    """The rows of all processes in the order of the images' places, whoever had them.

    Args:
        positions: of each row the place of its image.
        values: tensors with a row for each; the rows of one image keep their order.
    """
    device = values[0].device
    order = distributed.gather_rows(torch.tensor(positions, device=device)).argsort(stable=True)
    return [distributed.gather_rows(value)[order] for value in values]


def append(memory: Tensor, count: int, rows: Tensor) -> None:
    """Write rows into a ring memory, in place.

    Args:
        memory: N rows.
        count: how many were written before.
        rows: the new ones, at most N of which stay.
    """
    rows = rows[-len(memory) :]
    index: Int[Tensor, " R"] = (count + torch.arange(len(rows), device=memory.device)) % len(memory)
    memory[index] = rows.to(memory.dtype)
