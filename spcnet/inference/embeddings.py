"""What a network makes of images on the inside: their styles at its first layers, λ, embeddings of their pixels.

It is looked at from outside, by hooks, so that every network can be looked into and none computes anything else than it
always does. The functions below lay what was found out on a plane and say in figures what such a map only suggests.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from spcnet.evaluation.evaluator import evaluating
from spcnet.losses.clustering import labels_at
from spcnet.models.heads.prototypes import unit
from spcnet.models.network import Segmentor
from spcnet.models.style import StyleProjection, style_distance, style_stats
from spcnet.numerics import device_of
from spcnet.types import Batch, SegOutput, StyleStats, internals_of

PLACES = ("stem", "layer1")
"""After which parts of the backbone styles are looked at: where the paper's style layers stand."""
PERPLEXITY = 30.0
"""Of t-SNE: about how many neighbours of a point its place depends on."""


class StyleView(NamedTuple):
    """The styles of N images at one place; a style is the mean, then the deviation of each of C channels, S = 2·C."""

    before: Float[Tensor, "N S"]
    """What comes out of the backbone there."""
    after: Float[Tensor, "N S"] | None
    """What the style layer makes of it; None where the network has none."""
    distance: Float[Tensor, "N M"] | None
    """The style layer's own distance to each of its bases, averaged over channels."""
    weights: Float[Tensor, "N M"] | None
    """λ, averaged over channels where each has its own; None where the layer weighs no bases."""


class Pixels(NamedTuple):
    """Embeddings of some pixels with their classes."""

    embedding: Float[Tensor, "P D"]
    """Unit length."""
    label: Int[Tensor, " P"]


class Inside(NamedTuple):
    """What was seen of the images of one domain, on the CPU."""

    names: tuple[str, ...]
    styles: tuple[StyleView, ...]
    """At each of `PLACES`."""
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
    """Show images of one domain to a network and keep what it makes of them.

    Where the network has no pixel embeddings, they are the decoder's features, or what its queries say of
    a pixel, brought to unit length. Which pixels are
    kept depends on the images' names and the seed alone, each pixel of a class having the same chance.

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
    views: list[tuple[StyleView, ...]] = []
    kept = _Drawn(num_classes, pixels)
    listened: list[nn.Module] = list(network.style_layers) or [getattr(network.backbone, place) for place in PLACES]
    with evaluating(network), torch.inference_mode(), _heard([*listened, network.decoder]) as heard:
        for batch in batches:
            heard.clear()
            output: SegOutput = network(batch.image.to(device))
            *early, decoded = heard
            layers: list[StyleProjection | None] = [*network.style_layers] or [None] * len(early)
            views.append(tuple(_view(layer, seen) for layer, seen in zip(layers, early, strict=True)))
            embedding = internals_of(output).embedding
            if isinstance(decoded, tuple):  # of queries: what each says of a cell
                decoded = decoded[-1].masks
            feature = decoded if embedding is None else embedding
            label = labels_at(batch.label, (feature.shape[2], feature.shape[3]))
            for name, own, classes in zip(batch.name, feature, label, strict=True):
                kept.add(own.flatten(1), classes.flatten(), seed=zlib.crc32(name.encode(), seed))
            names += batch.name
            if on_images is not None:
                on_images(len(names))
    return Inside(tuple(names), tuple(_joined(view) for view in zip(*views, strict=True)), kept.pixels())


@contextmanager
def _heard(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """A list that fills with what modules return, in the order in which they are called."""
    heard: list[Any] = []
    handles = [module.register_forward_hook(lambda _, __, result: heard.append(result)) for module in modules]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _view(layer: StyleProjection | None, seen: Any) -> StyleView:
    """What a style layer returned, or a part of the backbone where there is no such layer."""
    if layer is None:
        return StyleView(_vector(style_stats(seen)), None, None, None)
    bases = layer.base_mean, layer.base_std
    distance = style_distance(seen.stats, *bases, distance=layer.distance).mean(dim=2).float().cpu()
    weights = seen.weights
    if weights is not None:
        weights = (weights.mean(dim=2) if weights.ndim > 2 else weights).float().cpu()
    after = style_stats(seen.feature, correction=layer.correction)
    return StyleView(_vector(seen.stats), _vector(after), distance, weights)


def _vector(stats: StyleStats) -> Float[Tensor, "N S"]:
    return torch.cat(stats, dim=1).float().cpu()


def style_bases(layer: StyleProjection) -> Float[Tensor, "M S"]:
    """The bases of a style layer in the form of `StyleView.before`."""
    return _vector(StyleStats(layer.base_mean, layer.base_std))


def _joined(parts: Sequence[StyleView]) -> StyleView:
    columns: list[Any] = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
    return StyleView(*columns)


class _Drawn:
    """So many pixels of each class, drawn from a stream: of all that came by those with the smallest random keys."""

    def __init__(self, num_classes: int, wanted: int) -> None:
        self.wanted = wanted
        self.keys = [torch.empty(0) for _ in range(num_classes)]
        self.found: list[Tensor | None] = [None] * num_classes

    def add(self, feature: Float[Tensor, "D P"], label: Int[Tensor, " P"], *, seed: int) -> None:
        """Let the pixels of an image come by."""
        keys = torch.rand(len(label), generator=torch.Generator().manual_seed(seed))
        for k, known in enumerate(self.found):
            places = (label == k).nonzero()[:, 0]
            places = places[keys[places].argsort(stable=True)[: self.wanted]]
            pixels = unit(feature[:, places.to(feature.device)].T.float()).cpu()
            together = torch.cat([self.keys[k], keys[places]])
            best = together.argsort(stable=True)[: self.wanted]
            self.keys[k] = together[best]
            self.found[k] = (pixels if known is None else torch.cat([known, pixels]))[best]

    def pixels(self) -> Pixels:
        """All that were kept, class by class."""
        found = [part for part in self.found if part is not None]
        label = torch.arange(len(found)).repeat_interleave(torch.tensor([len(part) for part in found]))
        return Pixels(torch.cat(found), label)


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
    """Share of the images whose nearest other image by style is of their own domain; NaN for a single image."""
    if len(style) < 2:
        return float("nan")
    distance = torch.cdist(style.double(), style.double())
    distance.fill_diagonal_(torch.inf)
    return float((domain[distance.argmin(dim=1)] == domain).double().mean())


def matched(pixels: Pixels, known: Pixels) -> float:
    """Share of pixels whose most similar known pixel is of their class, mean over their classes; NaN where there is none.

    Classes of which no pixel is known are left out.
    """
    classes = sorted(set(pixels.label.tolist()) & set(known.label.tolist()))
    if not classes:
        return float("nan")
    right = known.label[(pixels.embedding @ known.embedding.T).argmax(dim=1)] == pixels.label
    return sum(float(right[pixels.label == k].double().mean()) for k in classes) / len(classes)


class Likeness(NamedTuple):
    """How alike prototypes are, by their cosines."""

    within: float
    """Mean over pairs of one class and two domains; NaN with a single domain."""
    between: float
    """Mean over pairs of two classes, whatever their domains."""
    classes: Float[Tensor, "K K"]
    """Mean over the domains' pairs for each two classes."""


def likeness(prototypes: Float[Tensor, "K M D"]) -> tuple[Float[Tensor, "KM KM"], Likeness]:
    """Cosines of all prototypes, class by class and in a class domain by domain, and what they come to."""
    num_classes, num_domains, _ = prototypes.shape
    flat = F.normalize(prototypes.flatten(0, 1).double(), dim=-1)
    cosine = flat @ flat.T
    blocks = cosine.view(num_classes, num_domains, num_classes, num_domains).permute(0, 2, 1, 3)
    classes = blocks.mean(dim=(2, 3))
    other = ~torch.eye(num_classes, dtype=torch.bool)
    own = blocks[torch.arange(num_classes), torch.arange(num_classes)]
    pairs = ~torch.eye(num_domains, dtype=torch.bool)
    return cosine, Likeness(float(own[:, pairs].mean()), float(classes[other].mean()), classes)
