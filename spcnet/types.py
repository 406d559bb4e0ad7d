"""The values that flow through the house, each with its shape.

Shape letters, the same everywhere: B images, M source domains (styles), K classes, C channels, D embedding size,
H×W pixels of the image, h×w cells of a feature map.
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

IGNORE_INDEX = 255
"""Label of a pixel that neither trains nor scores."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""What is subtracted from red, green and blue of an image in 0..1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What red, green and blue are then divided by."""


class Batch(NamedTuple):
    """Images that are trained on or scored together."""

    image: Float[Tensor, "B 3 H W"]
    """RGB, normalised with the ImageNet mean and standard deviation."""
    label: Int[Tensor, "B H W"]
    """Class of each pixel, 0..K-1, or `IGNORE_INDEX`."""
    domain: Int[Tensor, " B"]
    """Index of each image's source domain; never inferred from its place in the batch."""
    name: tuple[str, ...]
    """What to call each image in messages and files."""


class StyleStats(NamedTuple):
    """The style of each image at one layer: statistics of its feature map over the cells."""

    mean: Float[Tensor, "B C"]
    std: Float[Tensor, "B C"]


class SegOutput(NamedTuple):
    """What every network of this package returns, in training and in evaluation alike."""

    logits: Float[Tensor, "B K H W"]
    """Class scores at the size of the image, before softmax."""
    auxiliary: Float[Tensor, "B K h8 w8"] | None = None
    """Class scores of the auxiliary head at its own size, where the network has one."""
    embedding: Float[Tensor, "B D h w"] | None = None
    """Unit-length pixel embeddings, where the network clusters."""
    styles: tuple[StyleStats, ...] = ()
    """Statistics of each image before each style layer."""
    style_weights: tuple[Float[Tensor, "B M ..."], ...] = ()
    """How much each source style explains each image (λ), one per style layer; with `channel_wise` also per channel."""
    whitened: tuple[Float[Tensor, "B C h w"], ...] = ()
    """In training: standardised features of each layer that the whitening loss is about."""


class ClassSums(NamedTuple):
    """What a batch says about each class of each domain, over all processes."""

    total: Float[Tensor, "K M D"]
    """Sum of the embeddings of its pixels."""
    pixels: Float[Tensor, "K M"]
    """Number of its pixels."""
    distance: Float[Tensor, "K M"]
    """Sum of (1 - e·p)² over them, p being the prototype of the class and the domain."""


class StepResult(NamedTuple):
    """The loss of one batch and what it is made of."""

    loss: Float[Tensor, ""]
    """What the optimiser descends."""
    parts: dict[str, Float[Tensor, ""]]
    """Each term before its weight, by name, for the log."""
    classes: ClassSums | None = None
    """For methods that cluster: what the prototypes are then pulled towards."""
    styles: tuple[StyleStats, ...] = ()
    """For methods with style layers: what the style bases are then pulled towards."""
    domain: Int[Tensor, " B"] | None = None
    """The domain that each image counts for: the batch's, or what the network found."""
