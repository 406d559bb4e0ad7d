"""Styles of images at a network's shallow places, λ, and embeddings of their pixels; for any method and backbone.

They are read while the network computes what it always does. The functions below map them to a plane and put in figures
what such a map only suggests.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from spcnet.evaluation.evaluator import evaluating
from spcnet.losses.clustering import labels_at
from spcnet.models.heads.prototypes import unit
from spcnet.models.network import Segmentor
from spcnet.models.style import style_stats
from spcnet.numerics import device_of
from spcnet.types import Batch, KnownStyles, MaskPrediction, SegOutput, StyleStats

PERPLEXITY = 30.0
"""Of t-SNE: about how many neighbours of a point its place depends on."""


class StyleView(NamedTuple):
    """The styles of N images at one place; a style is the mean, then the deviation of each of C channels, S = 2·C."""

    before: Float[Tensor, "N S"]
    """What comes out of the backbone there."""
    after: Float[Tensor, "N S"] | None
    """What the network makes of it; None where it keeps no known styles there, as of all that follows."""
    distance: Float[Tensor, "N M"] | None
    """From each image's style to each known style."""
    weights: Float[Tensor, "N M"] | None
    """λ, how much each known style explains each image; None where the network weighs none."""


class Pixels(NamedTuple):
    """Embeddings of some pixels with their classes."""

    embedding: Float[Tensor, "P D"]
    """Unit length."""
    label: Int[Tensor, " P"]


class Inside(NamedTuple):
    """Styles and pixels of the images of one domain, on the CPU."""

    names: tuple[str, ...]
    styles: dict[str, StyleView]
    """By place of the backbone."""
    pixels: Pixels


def look_inside(
    network: Segmentor,
    batches: Iterable[Batch],
    *,
    num_classes: int,
    pixels: int = 60,
    seed: int = 0,
    on_images: Callable[[int], None] | None = None,
) -> Inside:
    """Show images of one domain to a network and keep their styles and some of their pixels.

    Styles are those where the network keeps known ones, else at the backbone's `style_places`. Where the network has no
    pixel embeddings, they are the decoder's features, or the mask logits of its queries, brought to unit length.
    Which pixels are kept depends on the images' names and the seed alone, each pixel of a class having the same chance.

    Args:
        network: left in the mode it came in.
        batches: the images with their labels, of which there is at least one.
        num_classes: K.
        pixels: most pixels of a class that are kept.
        seed: others keep other pixels.
        on_images: called with the number of images done.
    """
    device = device_of(network)
    names: list[str] = []
    views: dict[str, list[StyleView]] = {p: [] for p in network.known_styles() or network.backbone.style_places}
    drawn = _Drawn(num_classes, pixels)
    with evaluating(network), torch.inference_mode(), _observed(network, views) as decoded:
        for batch in batches:
            output: SegOutput = network(batch.image.to(device))
            feature = decoded[-1] if output.embedding is None else output.embedding
            label = labels_at(batch.label, (feature.shape[2], feature.shape[3]))
            for name, cells, classes in zip(batch.name, feature, label, strict=True):
                drawn.add(cells.flatten(1), classes.flatten(), seed=zlib.crc32(name.encode(), seed))
            names += batch.name
            if on_images is not None:
                on_images(len(names))
    return Inside(tuple(names), {place: _joined(view) for place, view in views.items()}, drawn.pixels())


@contextmanager
def _observed(network: Segmentor, views: Mapping[str, list[StyleView]]) -> Iterator[list[Tensor]]:
    """Within it, each forward pass adds its styles to `views`, by place; gives the decoder's features of the latest."""
    known, decoded = network.known_styles(), list[Tensor]()

    def keep(place: str, before: Tensor, after: Tensor) -> None:
        if place in views:  # at once, for a later layer may work in place
            views[place].append(_view(known.get(place), before, after))

    def decode(_: Any, __: Any, result: Tensor | tuple[MaskPrediction, ...]) -> None:
        decoded[:] = [result if isinstance(result, Tensor) else result[-1].masks]

    handle = network.decoder.register_forward_hook(decode)
    network.on_map = keep
    try:
        yield decoded
    finally:
        network.on_map = None
        handle.remove()


def _view(known: KnownStyles | None, before: Tensor, after: Tensor) -> StyleView:
    """The styles at one place."""
    if known is None:
        return StyleView(style_vectors(style_stats(before)), None, None, None)
    stats = style_stats(before, correction=known.correction)
    weights = known.weights(stats)
    return StyleView(
        style_vectors(stats),
        style_vectors(style_stats(after, correction=known.correction)),
        known.distance(stats).float().cpu(),
        None if weights is None else weights.float().cpu(),
    )


def style_vectors(stats: StyleStats) -> Float[Tensor, "N S"]:
    """Styles in the form of `StyleView.before`."""
    return torch.cat(stats, dim=1).float().cpu()


def _joined(parts: Sequence[StyleView]) -> StyleView:
    columns: list[Any] = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
    return StyleView(*columns)


class _Drawn:
    """A sample of at most `limit` pixels of each class from a stream: those with the smallest random keys."""

    def __init__(self, num_classes: int, limit: int) -> None:
        self.limit = limit
        self.keys = [torch.empty(0) for _ in range(num_classes)]
        self.samples: list[Tensor | None] = [None] * num_classes

    def add(self, feature: Float[Tensor, "D P"], label: Int[Tensor, " P"], *, seed: int) -> None:
        """Draw from the pixels of an image."""
        keys = torch.rand(len(label), generator=torch.Generator().manual_seed(seed))
        for k, sample in enumerate(self.samples):
            places = (label == k).nonzero()[:, 0]
            places = places[keys[places].argsort(stable=True)[: self.limit]]
            pixels = unit(feature[:, places.to(feature.device)].T.float()).cpu()
            joined = torch.cat([self.keys[k], keys[places]])
            best = joined.argsort(stable=True)[: self.limit]
            self.keys[k] = joined[best]
            self.samples[k] = (pixels if sample is None else torch.cat([sample, pixels]))[best]

    def pixels(self) -> Pixels:
        """The sample, class by class."""
        samples = [sample for sample in self.samples if sample is not None]
        label = torch.arange(len(samples)).repeat_interleave(torch.tensor([len(sample) for sample in samples]))
        return Pixels(torch.cat(samples), label)


def laid_out(groups: Sequence[Float[Tensor, "_ S"]], *, seed: int = 0) -> list[NDArray[np.float64]]:
    """Points of many dimensions on a plane, all groups on the same map, by t-SNE (van der Maaten and Hinton, 2008).

    Begins with the first principal components and a fixed seed, so that the same points come out the same. Neighbours
    stay neighbours; distances between far clusters and the sizes of clusters mean little.

    Args:
        groups: points; what counts is their Euclidean distance. For styles that is the Wasserstein distance of SPC-Net's
            Eq. 3, for embeddings of unit length it orders as the cosine does. Nothing is standardised.
        seed: of t-SNE.

    Returns:
        For each group its places, each coordinate in -1..1.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    points = torch.cat(list(groups)).double().numpy()
    points -= points.mean(axis=0)
    size, spread = len(points), float(np.abs(points).max(initial=0.0))
    if spread < 1e-9:
        flat = np.zeros((size, 2))
    else:
        points /= spread
        # What lies beyond fifty components is noise to t-SNE, and most of its time.
        points = PCA(min(50, *points.shape), random_state=seed).fit_transform(points)
        if size < 5:
            flat = np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1]))))
        else:
            perplexity = min(PERPLEXITY, (size - 1) / 3)
            flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points).astype(np.float64)
        flat -= (flat.max(axis=0) + flat.min(axis=0)) / 2
        flat /= np.abs(flat).max()
    ends = np.cumsum([len(group) for group in groups])
    return np.split(flat, ends[:-1])


def style_gap(style: Float[Tensor, "N S"], domain: Int[Tensor, " N"]) -> float:
    """How far the domains' mean styles lie apart: squared Wasserstein distance per channel, mean over pairs of domains.

    NaN where there are fewer than two domains.
    """
    means = torch.stack([style[domain == d].mean(dim=0) for d in sorted(set(domain.tolist()))]).double()
    return float(F.pdist(means).square().mean()) / (style.shape[1] / 2)


def told_apart(style: Float[Tensor, "N S"], domain: Int[Tensor, " N"]) -> float:
    """Fraction of the images whose nearest other image by style is of their own domain; NaN for a single image."""
    if len(style) < 2:
        return float("nan")
    distance = torch.cdist(style.double(), style.double())
    distance.fill_diagonal_(torch.inf)
    return float((domain[distance.argmin(dim=1)] == domain).double().mean())


def matched(pixels: Pixels, known: Pixels) -> float:
    """Fraction of pixels whose most similar known pixel is of their class, mean over their classes; NaN where there is none.

    Classes of which no pixel is known are left out.
    """
    classes = sorted(set(pixels.label.tolist()) & set(known.label.tolist()))
    if not classes:
        return float("nan")
    right = known.label[(pixels.embedding @ known.embedding.T).argmax(dim=1)] == pixels.label
    return sum(float(right[pixels.label == k].double().mean()) for k in classes) / len(classes)


class Likeness(NamedTuple):
    """How similar prototypes are, by their cosines."""

    within: float
    """Mean over pairs of one class and two domains; NaN with a single domain."""
    between: float
    """Mean over pairs of two classes, whatever their domains."""
    classes: Float[Tensor, "K K"]
    """Mean over the domains' pairs for each two classes."""


def likeness(prototypes: Float[Tensor, "K M D"]) -> tuple[Float[Tensor, "KM KM"], Likeness]:
    """Cosines of all prototypes, class by class and in a class domain by domain, and their means."""
    num_classes, num_domains, _ = prototypes.shape
    flat = F.normalize(prototypes.flatten(0, 1).double(), dim=-1)
    cosine = flat @ flat.T
    blocks = cosine.view(num_classes, num_domains, num_classes, num_domains).permute(0, 2, 1, 3)
    classes = blocks.mean(dim=(2, 3))
    other = ~torch.eye(num_classes, dtype=torch.bool)
    diagonal = blocks[torch.arange(num_classes), torch.arange(num_classes)]
    pairs = ~torch.eye(num_domains, dtype=torch.bool)
    return cosine, Likeness(float(diagonal[:, pairs].mean()), float(classes[other].mean()), classes)
