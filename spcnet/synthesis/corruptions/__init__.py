"""The 19 common corruptions of ImageNet-C, each at five severities, for photographs of any size.

Fifteen make up the benchmark, four more are for validation (Hendrycks & Dietterich, ICLR 2019). The parameters are the
published ones, which were chosen for pictures of 224×224, and they stay as they are for larger pictures, as Michaelis et
al. (2019) do for Cityscapes. Written again on NumPy and Pillow; what is not as in the published code:

- `frost`: the photographs of frost are not ours to hand on, so the frost is drawn.
- `glass_blur`: pixels swap places in another order.
- `elastic_transform`: the form for street scenes, see there; labels stay where they are.
- The four kinds of noise draw from 4096 equally likely outcomes for each value.
- Values are rounded, not cut off to whole ones.

So scores are near those of the published pictures, not equal to them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spcnet.errors import UsageError, lookup
from spcnet.synthesis.corruptions import blur, digital, noise, weather
from spcnet.synthesis.corruptions.pixels import Level, Photo

SEVERITIES = (1, 2, 3, 4, 5)
FAMILIES = ("noise", "blur", "weather", "digital", "extra")
"""The four of the benchmark, and that of the four corruptions that are not part of it."""


@dataclass(frozen=True)
class Corruption:
    """One way in which a picture goes bad."""

    description: str
    """What it looks like, in one line."""
    family: str
    """One of `FAMILIES`."""
    function: Callable[[Photo, Level, np.random.Generator], Photo]
    """Photograph, parameters and randomness in, photograph out."""
    levels: tuple[Level, Level, Level, Level, Level]
    """Published parameters for each severity; what they mean says the function."""


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption("normal noise, the same in light and dark", "noise", noise.gaussian_noise,
        ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    "shot_noise": Corruption("noise of few photons", "noise", noise.shot_noise, ((60,), (25,), (12,), (5,), (3,))),
    "impulse_noise": Corruption("salt and pepper", "noise", noise.impulse_noise,
        ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    "defocus_blur": Corruption("out of focus", "blur", blur.defocus_blur,
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": Corruption("seen through frosted glass", "blur", blur.glass_blur,
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": Corruption("the camera moves sideways", "blur", blur.motion_blur,
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": Corruption("the camera comes nearer", "blur", blur.zoom_blur,
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    "snow": Corruption("falling flakes and a pale picture", "weather", weather.snow,
        ((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
         (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55))),
    "frost": Corruption("crystals of ice on the pane", "weather", weather.frost,
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": Corruption("patches of fog, near as far", "weather", weather.fog,
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": Corruption("too much light", "weather", digital.brightness, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    "contrast": Corruption("everything near the mean colour", "digital", digital.contrast,
        ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    "elastic_transform": Corruption("wobbling edges", "digital", digital.elastic_transform,
        ((250 * 0.05,), (250 * 0.065,), (250 * 0.085,), (250 * 0.1,), (250 * 0.12,))),
    "pixelate": Corruption("large pixels", "digital", digital.pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "jpeg_compression": Corruption("blocks of a strong JPEG", "digital", digital.jpeg_compression,
        ((25,), (18,), (15,), (10,), (7,))),
    "speckle_noise": Corruption("noise that grows with the light", "extra", noise.speckle_noise,
        ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,))),
    "gaussian_blur": Corruption("plain blur", "extra", blur.gaussian_blur, ((1,), (2,), (3,), (4,), (6,))),
    "spatter": Corruption("drops of water on the lens, then mud", "extra", weather.spatter,
        ((0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0), (0.65, 0.3, 2, 0.68, 0.5, 0),
         (0.65, 0.3, 1, 0.65, 1.5, 1), (0.67, 0.4, 1, 0.65, 1.5, 1))),
    "saturate": Corruption("colours pale, then glaring", "extra", digital.saturate,
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
}  # fmt: skip
"""Corruption by its published name, in the published order."""


def corrupt(image: NDArray[np.uint8], name: str, *, severity: int, seed: int) -> NDArray[np.uint8]:
    """A photograph gone bad.

    Args:
        image: RGB, H×W×3, of any size.
        name: a name in `CORRUPTIONS`.
        severity: 1 (a little) to 5 (badly); 0 changes nothing.
        seed: of noise, flakes and directions; the same seed gives the same picture.

    Returns:
        RGB of the same size; the image given is left as it is.

    Raises:
        UsageError: the corruption is unknown, the severity not in 0..5, or the image not RGB bytes.
    """
    corruption = lookup(name, CORRUPTIONS, "corruption")
    if severity not in (0, *SEVERITIES):
        raise UsageError(f"the severity of {name} is {severity}: it must be 1 (a little) to 5 (badly), or 0 for none")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UsageError(f"an image of {image.dtype} {image.shape} came: a corruption takes RGB bytes, H×W×3")
    if severity == 0:
        return image.copy()
    return corruption.function(
        np.ascontiguousarray(image), corruption.levels[severity - 1], np.random.default_rng(seed)
    )


__all__ = ["CORRUPTIONS", "FAMILIES", "SEVERITIES", "Corruption", "corrupt"]
