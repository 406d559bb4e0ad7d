"""RandConv (Xu et al., ICLR 2021, Algorithm 1): an image through a random convolution, mixed with itself."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from spcnet.config import method_option
from spcnet.plugins.images import ImagePlugin
from spcnet.types import Batch


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    probability: float = method_option(0.5, least=0, most=1, noun="a probability")
    """That an image is changed."""
    amount: tuple[float, float] = method_option((0.0, 1.0), least=0, most=1, rising=True, noun="both shares")
    """Range of the share of the convolved image."""
    largest: int = method_option(7, choices=(1, 3, 5, 7))
    """Largest side of a kernel in pixels; the odd ones up to it are equally likely."""


class RandConv(ImagePlugin):
    """Random colours and textures, while shapes stay."""

    name = "randconv"
    summary = "RandConv: an image through a random convolution, mixed with itself"
    paper = "Xu et al., Robust and Generalizable Visual Representation Learning via Random Convolutions, ICLR 2021"
    settings_type = Settings
    settings: Settings

    @classmethod
    def at_strength(cls, strength: float) -> Settings:
        """That share of the convolved image."""
        return Settings(1.0, (strength, strength))

    def change(
        self, image: Float[Tensor, "N 3 H W"], batch: Batch, chosen: list[int], draws: list[np.random.Generator]
    ) -> Float[Tensor, "N 3 H W"]:
        """(1-λ)·x + λ·(x ∗ w) of the normalised image, w ~ N(0, 1/(3·k²)) of a random side k; each image has its own kernel."""
        largest = self.settings.largest
        kernels = []
        for rng in draws:
            side = int(rng.choice(range(1, largest + 1, 2)))
            kernel = rng.normal(0, (3 * side**2) ** -0.5, (3, 3, side, side))
            kernels.append(np.pad(kernel, [(0, 0), (0, 0), *[((largest - side) // 2,) * 2] * 2]))
        weight = torch.from_numpy(np.concatenate(kernels)).to(image)
        amount = image.new_tensor([rng.uniform(*self.settings.amount) for rng in draws])[:, None, None, None]
        around = F.pad(image, [largest // 2] * 4, mode="reflect")
        with torch.autocast(image.device.type, enabled=False):
            convolved = F.conv2d(around.flatten(0, 1)[None], weight, groups=len(image))[0].view_as(image)
        return torch.lerp(image, convolved, amount)
