"""The values that flow through the house, each with its shape.

Shape letters, the same everywhere: B images, M source domains (styles), K classes, C channels, D embedding size,
H×W pixels of the image, h×w cells of a feature map.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

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


class KnownStyles(NamedTuple):
    """The styles of M known domains that a network keeps at one place of its backbone."""

    mode: str
    """What the network does with them there."""
    bases: StyleStats
    """M×C."""
    distance: Callable[[StyleStats], Float[Tensor, "B M"]]
    """From each image's style to each of them."""
    weights: Callable[[StyleStats], Float[Tensor, "B M"] | None]
    """How much each of them explains each image, rows sum to one; None where the network does not weigh them."""
    correction: int
    """The variance of a style has the divisor h·w - correction."""


class MaskPrediction(NamedTuple):
    """What the queries of a mask head say: Q times a class and the mask of its pixels."""

    classes: Float[Tensor, "B Q K1"]
    """Class logits of each query; the last of K + 1 is "no object"."""
    masks: Float[Tensor, "B Q h w"]
    """Mask logits of each query: positive where the pixel belongs to it."""


class SegOutput(NamedTuple):
    """What every network of this package returns, in training and in evaluation alike."""

    logits: Float[Tensor, "B K H W"]
    """Class scores at the size of the image, before softmax."""
    auxiliary: Float[Tensor, "B K h8 w8"] | None = None
    """Class scores of the auxiliary head at its own size, where the network has one."""
    extras: Any = None
    """What only this kind of network tells, a named tuple of its own such as `Internals`; None for nothing."""
    masks: tuple[MaskPrediction, ...] = ()
    """Of a mask head, in training: the predictions of each of its layers that has a loss, the final one last."""

    @property
    def figures(self) -> dict[str, tuple[Float[Tensor, "B M ..."], ...]]:
        """Figures of each image and source, to be averaged and shown: by name, for each layer that has them."""
        return {} if self.extras is None else self.extras.figures()

    @property
    def styles(self) -> tuple[StyleStats, ...]:
        """Statistics of each image at each place of `Network.known_styles`."""
        styles: tuple[StyleStats, ...] = getattr(self.extras, "styles", ())
        return styles

    @property
    def embedding(self) -> Float[Tensor, "B D h w"] | None:
        """What the network compares with `Network.prototypes`: unit-length embeddings of the cells."""
        embedding: Tensor | None = getattr(self.extras, "embedding", None)
        return embedding


class Internals(NamedTuple):
    """What the networks of SPC-Net and RobustNet tell beside the scores."""

    styles: tuple[StyleStats, ...] = ()
    """Statistics of each image before each style layer."""
    style_weights: tuple[Float[Tensor, "B M ..."], ...] = ()
    """How much each source style explains each image (λ), one per style layer; with `channel_wise` also per channel."""
    embedding: Float[Tensor, "B D h w"] | None = None
    """Unit-length pixel embeddings, where the network clusters."""
    whitened: tuple[Float[Tensor, "B C h w"], ...] = ()
    """In training: standardised features of each layer that the whitening loss is about."""

    def figures(self) -> dict[str, tuple[Float[Tensor, "B M ..."], ...]]:
        """λ of each image."""
        return {"style_weights": self.style_weights} if self.style_weights else {}


class Averaged(NamedTuple):
    """Figures of images that are means over several passes; all that is left of the passes' own extras."""

    values: dict[str, tuple[Float[Tensor, "B M ..."], ...]]

    def figures(self) -> dict[str, tuple[Float[Tensor, "B M ..."], ...]]:
        """The means."""
        return self.values


def internals_of(output: SegOutput) -> Internals:
    """What a network tells beside the scores; nothing where that is of another kind."""
    return output.extras if isinstance(output.extras, Internals) else Internals()


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
    extras: Any = None
    """What the method observed of the batch and then updates from, without gradient; see `spcnet.methods.base`."""


class Network(nn.Module):
    """What a method builds, the trainer trains and everything else reads: images in, a `SegOutput` out."""

    base: dict[str, str] | None = None
    """Name and hash of the pretrained weights that its checkpoints leave out; None where they hold all."""
    recompute: bool = False
    """Whether its parts are computed once more for their gradients, to save memory."""

    def depths(self) -> dict[str, int]:
        """How deep each pretrained parameter lies, by its name in this network: 0 for the embedding or the stem.

        Layer-wise learning-rate decay and the backbone's factor hold for these; a parameter of a head is not among them.
        """
        return {}

    def embeddings(self) -> set[str]:
        """Names of the parameters that are learned tokens or positions, which weight decay leaves alone."""
        return set()

    def base_tensors(self) -> set[str]:
        """Names of the tensors that training never changes and that pretrained weights give."""
        return set()

    def parts(self) -> list[nn.Module]:
        """What it calls one after another: several processes gather the weights of each where they divide them (FSDP)."""
        return []

    def stored(self, *, whole: bool) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds: all, or all but those of its `base`."""
        left_out = set() if whole else self.base_tensors()
        return {name: value for name, value in self.state_dict().items() if name not in left_out}

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> SegOutput:
        """Class scores for each pixel, and what the method's losses and updates need."""
        raise NotImplementedError

    def known_styles(self) -> dict[str, KnownStyles]:
        """The styles that it keeps of its source domains, by place of the backbone, the shallow ones first."""
        return {}

    def prototypes(self) -> Float[Tensor, "K M D"] | None:
        """The unit-length vectors that it compares embeddings with, of each class and source domain; None without."""
        return None

    def drop_training_parts(self) -> None:
        """Leave out, in place, what `forward` in evaluation does not need."""


def detached(value: Any) -> Any:
    """The same without gradient, in nested tuples."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, tuple):
        items = [detached(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
