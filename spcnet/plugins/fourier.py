"""Amplitude mix (FDA: Yang and Soatto, CVPR 2020, Eq. 3; FACT: Xu et al., CVPR 2021, Eq. 3): low frequencies of another image."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spcnet.config import RunConfig, method_option
from spcnet.plugins.features import check_partners
from spcnet.plugins.images import ImagePlugin, image_of, pixels_of
from spcnet.types import Batch


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    probability: float = method_option(0.5, least=0, most=1, noun="a probability")
    """That an image is changed."""
    amount: tuple[float, float] = method_option((0.0, 1.0), least=0, most=1, rising=True, noun="both shares")
    """Range of the share of the other image's amplitudes; [0,1] is FACT's, [1,1] FDA's."""
    window: float = method_option(0.05, least=0, most=0.5, noun="a share")
    """Up to which frequency amplitudes are mixed: cycles along the image as a share of its shorter side in pixels. FDA has 0.01 to 0.09; 0.5 is all, FACT's."""
    mix: Literal["random", "cross-domain"] = method_option("random")
    """Whose amplitudes an image gets: any other image's of the batch (random), or an image's of another domain (cross-domain)."""


class Fourier(ImagePlugin):
    """Mixes the amplitudes of low frequencies between images of a micro-batch, while the phases stay."""

    name = "fourier"
    summary = "Amplitude mix: the low frequencies of an image get amplitudes of another image"
    paper = "Yang and Soatto, FDA, CVPR 2020; Xu et al., A Fourier-based Framework for Domain Generalization (FACT), CVPR 2021"
    settings_type = Settings
    settings: Settings

    @classmethod
    def at_strength(cls, strength: float) -> Settings:
        """That share of the other image's amplitudes."""
        return Settings(1.0, (strength, strength))

    def check(self, config: RunConfig) -> None:
        """Refuse to mix across domains where there is one."""
        if self.settings.mix == "cross-domain":
            check_partners(config, self.option("mix"))

    def change(
        self, image: Float[Tensor, "N 3 H W"], batch: Batch, chosen: list[int], draws: list[np.random.Generator]
    ) -> Float[Tensor, "N 3 H W"]:
        """(1-λ)·A + λ·A' within the window, A' being the amplitudes of the partner; what leaves 0..1 is cut off.

        An image without a possible partner in its micro-batch stays as it is.
        """
        partner = partners(batch.domain.tolist(), chosen, draws, across=self.settings.mix == "cross-domain")
        amount = image.new_tensor([rng.uniform(*self.settings.amount) for rng in draws])
        return mix_amplitudes(image, batch.image[partner], amount, window=self.settings.window)


def partners(domain: list[int], chosen: list[int], draws: list[np.random.Generator], *, across: bool) -> list[int]:
    """For each chosen image another one of the batch, where wanted of another domain; itself where there is none."""
    found = []
    for place, rng in zip(chosen, draws, strict=True):
        others = [i for i, one in enumerate(domain) if (one != domain[place] if across else i != place)]
        found.append(others[int(rng.integers(len(others)))] if others else place)
    return found


def mix_amplitudes(
    image: Float[Tensor, "N 3 H W"], other: Float[Tensor, "N 3 H W"], amount: Float[Tensor, " N"], *, window: float
) -> Float[Tensor, "N 3 H W"]:
    """Images with amplitudes of others at low frequencies.

    Args:
        image: normalised.
        other: the partners, normalised.
        amount: share of the partner's amplitudes, 0..1.
        window: highest frequency, as a share of the shorter side; the mean of a channel, frequency 0, is always mixed.
    """
    height, width = image.shape[2:]
    spectrum = torch.fft.rfft2(pixels_of(image))
    own, theirs = spectrum.abs(), torch.fft.rfft2(pixels_of(other)).abs()
    rows, columns = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
    low = (torch.maximum(rows.abs()[:, None], columns) <= window * min(height, width)).to(image)
    change = theirs / own.clamp(min=torch.finfo(own.dtype).tiny) - 1
    factor = 1 + amount[:, None, None, None] * low * change
    return image_of(torch.fft.irfft2(spectrum * factor, s=(height, width)))
