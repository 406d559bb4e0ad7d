"""What plug-ins that change the pixels of an image share: which images they change, and the values that they see."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.plugins.base import Plugin
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD, Batch


class ImagePlugin(Plugin):
    """Changes each image with a probability, `settings.probability`; the others stay as they are, bit for bit."""

    @classmethod
    def at_strength(cls, strength: float) -> Any:
        """Settings with which every image is changed by so much: 0 not at all, 1 as by default at most."""
        raise NotImplementedError

    @abstractmethod
    def change(
        self, image: Float[Tensor, "N 3 H W"], batch: Batch, chosen: list[int], draws: list[np.random.Generator]
    ) -> Float[Tensor, "N 3 H W"]:
        """What becomes of the images that are changed.

        Args:
            image: those of the batch that are changed, normalised.
            batch: all of the micro-batch.
            chosen: their places in it.
            draws: of each a generator of its own.
        """

    def alter(self, network: Segmentor, batch: Batch, step: Step) -> Float[Tensor, "B 3 H W"]:
        """The batch's images, those changed whose turn it is."""
        return self.altered(batch, step)

    def altered(self, batch: Batch, step: Step) -> Float[Tensor, "B 3 H W"]:
        """The same; no network is asked."""
        draws = step.generators(self.name)
        chosen = [place for place, rng in enumerate(draws) if rng.random() < self.settings.probability]
        if not chosen:
            return batch.image
        image = batch.image.clone()
        image[chosen] = self.change(image[chosen], batch, chosen, [draws[place] for place in chosen])
        return image


def pixels_of(image: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """Red, green and blue in 0..1 of normalised images."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return image * std + mean


def image_of(pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """Normalised images of red, green and blue, cut off outside 0..1."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels.clamp(0, 1) - mean) / std


def noise_like(one: Tensor, draws: list[np.random.Generator]) -> Tensor:
    """Normal noise of the shape of `one` for each generator, drawn on its device."""
    return torch.stack(
        [
            torch.randn(
                one.shape,
                dtype=one.dtype,
                device=one.device,
                generator=torch.Generator(one.device).manual_seed(int(rng.integers(2**63))),
            )
            for rng in draws
        ]
    )
