"""What plug-ins for images do to a photograph, to look at."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from spcnet.data.transforms import denormalise, normalise
from spcnet.errors import UsageError, lookup
from spcnet.methods.step import Step
from spcnet.plugins import PLUGINS
from spcnet.plugins.fourier import Fourier
from spcnet.plugins.images import ImagePlugin
from spcnet.synthesis.streets import generate
from spcnet.types import IGNORE_INDEX, Batch

HIDDEN = "These change what a network makes of an image, or need its gradient, so that no picture can show them"


def shown() -> dict[str, type[ImagePlugin]]:
    """The plug-ins whose effect a picture shows, by name."""
    return {name: kind for name, kind in PLUGINS.items() if issubclass(kind, ImagePlugin)}


def changes(names: Sequence[str], *, seed: int) -> dict[str, Callable[[NDArray[np.uint8], float], NDArray[np.uint8]]]:
    """What plug-ins make of a photograph at a strength, by the words for a row of `spcnet.data.style_sheet`.

    Args:
        names: of the plug-ins.
        seed: of what is drawn; the same at each strength, so that one thing grows.

    Raises:
        UsageError: there is no such plug-in, or no picture can show it.
    """
    rows = {}
    for name in names:
        kind = lookup(name, PLUGINS, "plug-in")
        if not issubclass(kind, ImagePlugin):
            raise UsageError(
                f"the plug-in {name} has no picture: it changes features or needs a network; known are {', '.join(shown())}"
            )
        mixes = issubclass(kind, Fourier)
        rows[f"{name} + dusk" if mixes else name] = _change(kind, seed=seed)
    return rows


def _change(kind: type[ImagePlugin], *, seed: int) -> Callable[[NDArray[np.uint8], float], NDArray[np.uint8]]:
    def change(photo: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
        height, width = photo.shape[:2]
        street = generate(seed, style="dusk", seed=seed, size=(128, 256)).image
        other = torch.from_numpy(street).permute(2, 0, 1)[None].float()
        other = torch.nn.functional.interpolate(other, (height, width), mode="bilinear").byte()
        image = torch.cat([torch.from_numpy(photo.copy()).permute(2, 0, 1)[None], other])
        batch = Batch(
            normalise(image),
            torch.full((2, height, width), IGNORE_INDEX),
            torch.tensor([0, 1]),
            ("photograph", "street"),
        )
        altered = kind(kind.at_strength(strength)).change(
            batch.image[:1], batch, [0], Step(seed, 0, 0.0, (0,)).generators(kind.name)
        )
        return denormalise(altered)[0].permute(1, 2, 0).numpy()

    return change
