"""PASTA (Chattopadhyay et al., ICCV 2023, Eq. 3-5): noise on the amplitudes of an image's frequencies, more on the high ones."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spcnet.config import method_option
from spcnet.plugins.images import ImagePlugin, image_of, noise_like, pixels_of
from spcnet.types import Batch


@dataclass(frozen=True)
class Settings:
    """The settings of the plug-in."""

    probability: float = method_option(1.0, least=0, most=1, noun="a probability")
    """That an image is changed."""
    alpha: float = method_option(3.0, least=0)
    """How much more noise the highest frequencies get."""
    k: float = method_option(2.0, above=0)
    """How steeply the noise grows with the frequency."""
    beta: float = method_option(0.25, least=0)
    """Deviation of the noise at the lowest frequency, that is, of the brightness of each channel."""


class Pasta(ImagePlugin):
    """Noise on the amplitudes, while the phases stay."""

    name = "pasta"
    summary = "PASTA: noise on the amplitudes of an image's frequencies, more on the high ones"
    paper = "Chattopadhyay et al., PASTA: Proportional Amplitude Spectrum Training Augmentation, ICCV 2023"
    settings_type = Settings
    settings: Settings

    @classmethod
    def at_strength(cls, strength: float) -> Settings:
        """α and β times the strength."""
        return Settings(1.0, alpha=3 * strength, beta=0.25 * strength)

    def change(
        self, image: Float[Tensor, "N 3 H W"], batch: Batch, chosen: list[int], draws: list[np.random.Generator]
    ) -> Float[Tensor, "N 3 H W"]:
        """Amplitudes times normal noise around 1; what leaves 0..1 is cut off."""
        height, width = image.shape[2:]
        spectrum = torch.fft.rfft2(pixels_of(image))
        deviation = deviations(height, width, self.settings).to(image)
        noise = noise_like(spectrum[0].real, draws)
        # A frequency and its mirror get the same noise, as the spectrum of a real image needs; these columns have both.
        rows = torch.arange(height, device=image.device)
        first = torch.minimum(rows, -rows % height)
        for column in {0, width // 2} if width % 2 == 0 else {0}:
            noise[..., column] = noise[..., first, column]
        factor = 1 + deviation * noise
        return image_of(torch.fft.irfft2(spectrum * factor, s=(height, width)))


def deviations(height: int, width: int, settings: Settings) -> Float[Tensor, "H W2"]:
    """s(f) = (α·r/r_max)^k + β of each frequency of a real image, r being its distance from 0."""
    rows, columns = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
    radius = torch.hypot(rows[:, None], columns)
    return (settings.alpha * radius / radius.max().clamp(min=1)) ** settings.k + settings.beta
