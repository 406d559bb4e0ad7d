"""What lies in the air between the camera and the street."""

import numpy as np

from spcnet.synthesis.weather.view import SKY_DISTANCE, Picture, View, rgb, smooth_noise


def haze(image: Picture, view: View, *, visibility: float, airlight: Picture, rng: np.random.Generator) -> Picture:
    """Scattering on the way through air in which contrast falls to 5 % over the visibility, in metres."""
    near = view.coarse
    density = smooth_noise(near, 4, rng) * np.float32(0.75 / visibility)
    density += np.float32(3 / visibility)
    if view.given_depth is not None:
        through = np.exp(-view.spread(density) * view.depth)
    else:
        through = view.spread(np.exp(-density * near.corridor))
        # The sky's edges are as fine as the picture; how dense the air is in front of it makes no difference.
        farther = np.float32(SKY_DISTANCE) - view.corridor[: view.horizon]
        through[: view.horizon] *= np.exp(view.sky[: view.horizon] * farther * np.float32(-3 / visibility))
    hazy = image - airlight
    hazy *= through
    hazy += airlight
    return hazy


def fog(view: View, strength: float, rng: np.random.Generator) -> Picture:
    """Koschmieder's law: light decays as exp(-βd) on its way, and the air's own light takes its place.

    The model of Foggy Cityscapes (Sakaridis et al., IJCV 2018), with β = 3/visibility and a density that varies in
    space; visibility is 150 m at strength 1, that set's thickest fog (β = 0.02 per metre).
    """
    return haze(view.image, view, visibility=150 / strength, airlight=rgb(0.80, 0.82, 0.84), rng=rng)
