"""OODDetector: how far an image is from all known domains, from what one forward pass leaves behind.

Two things are looked at. The *style*: mean and deviation of each channel before each style layer, whose distance to the
nearest known domain SPC-Net weighs its bases by (Huang et al., CVPR 2023, Eq. 1-3). And the *prototypes*: how near the
pixels are to the nearest one, and how much nearer than to the nearest of another class (Eq. 8).

The paper's distance has no unit, and channels in which any two images differ drown those in which all known images
agree. So images of the sources say what is usual (`fit`): a style is measured in the scatter of the known images of a
domain around their mean, along the directions in which it lies (Mahalanobis; Lee et al., NeurIPS 2018), with a
probabilistic principal component analysis for the covariance (Tipping and Bishop, 1999). What came out is a file beside
the checkpoint that is bound to the network's weights. A network without styles and prototypes has its confidence alone
(Hendrycks and Gimpel, ICLR 2017).
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from spcnet import checkpoint
from spcnet.errors import DataError, UsageError
from spcnet.files import write_text
from spcnet.models.network import Segmentor
from spcnet.models.style import style_distance
from spcnet.numerics import at_least_single, without_autocast
from spcnet.types import SegOutput, internals_of

FORMAT = 1
"""Raised when a file written today could not be read by an older version."""
OOD_FILE = "familiar.json"
"""What is usual for the network beside it."""
FEWEST = 20
"""Images that are needed at least to say what is usual."""
AXES = 16
"""Directions of a layer's style space whose scatter is told apart; in all others it is taken to be the same."""
FOLDS = 5
"""Parts of the known images; each is measured by what the others say, as an image to come will be."""
EVERY = 4
"""Of the pixels' scores, which lie at a fourth of the image's size, one in so many rows and columns is looked at."""
LEAST_SCALE = 0.01
"""Scatter of a channel against the median channel below which it is not believed: a dead channel has none."""
LARGEST = 1e6
"""Where a score ends."""
BEYOND = 1e100
"""What counts for a figure that is none; its square is a number still."""


class Signals(NamedTuple):
    """What an image shows, before anything is said about whether that is usual."""

    styles: tuple[Float[Tensor, "B F"], ...]
    """Mean and deviation of each channel before each style layer, F = 2·C."""
    distance: Float[Tensor, "B L"]
    """The paper's distance to the nearest base, in each of the L style layers."""
    similarity: Float[Tensor, " B"] | None
    """Cosine of a pixel to its nearest prototype, mean over the pixels."""
    margin: Float[Tensor, " B"] | None
    """How much more that is than to the nearest prototype of another class, mean over the pixels."""
    confidence: Float[Tensor, " B"]
    """Largest softmax probability, mean over the pixels."""
    entropy: Float[Tensor, " B"]
    """Of the softmax, in nats, mean over the pixels."""
    max_logit: Float[Tensor, " B"]
    """Largest class score, mean over the pixels."""


@torch.no_grad()
def signals(network: Segmentor, output: SegOutput) -> Signals:
    """What a forward pass says about each image; all in double precision, on the CPU.

    Args:
        network: the network, which is left alone.
        output: what it returned.
    """
    layers, internals = network.style_layers, internals_of(output)
    nearest = [
        style_distance(stats, layer.base_mean, layer.base_std, distance=layer.distance).mean(dim=2).amin(dim=1)
        for layer, stats in zip(layers, internals.styles, strict=True)
    ]
    similarity = margin = None
    if network.prototype_head is not None and internals.embedding is not None:
        best, second = nearest_classes(internals.embedding, network.prototype_head.unit_prototypes)
        similarity, margin = _cpu(best), _cpu(best - second)
    scores = at_least_single(output.logits[:, :, ::EVERY, ::EVERY])
    logs = scores.log_softmax(dim=1)
    shares = logs.exp()
    return Signals(
        styles=tuple(_cpu(torch.cat([stats.mean, stats.std], dim=1)) for stats in internals.styles),
        distance=_cpu(torch.stack(nearest, dim=1) if nearest else scores.new_zeros(len(scores), 0)),
        similarity=similarity,
        margin=margin,
        confidence=_cpu(shares.amax(dim=1).mean(dim=(1, 2))),
        entropy=_cpu(-(shares * logs).sum(dim=1).mean(dim=(1, 2))),
        max_logit=_cpu(scores.amax(dim=1).mean(dim=(1, 2))),
    )


def nearest_classes(
    embedding: Float[Tensor, "B D h w"], prototypes: Float[Tensor, "K M D"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Cosine to the nearest prototype of the nearest and of the second class, each a mean over an image's cells."""
    num_classes, num_domains, _ = prototypes.shape
    cells = embedding.permute(0, 2, 3, 1).flatten(1, 2)
    with without_autocast(cells):
        cosine = cells @ prototypes.flatten(0, 1).to(cells.dtype).T
    classes = cosine.view(*cosine.shape[:2], num_classes, num_domains).amax(dim=3)
    best, second = classes.topk(2, dim=2).values.mean(dim=1).unbind(1)
    return best, second


def _cpu(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


@dataclass(frozen=True)
class StyleSpace:
    """Where the styles of known images lie at one layer: around a centre for each domain, with one covariance for all."""

    centres: NDArray[np.float64]
    """M×F, mean style of each domain."""
    scale: NDArray[np.float64]
    """F, scatter of each value around its domain's mean."""
    axes: NDArray[np.float64]
    """k×F, orthonormal directions in units of the scale."""
    variance: NDArray[np.float64]
    """k, along each of them."""
    noise: float
    """Variance along every other direction."""

    @classmethod
    def fit(cls, styles: Float[Tensor, "N F"], domain: Int[Tensor, " N"]) -> "StyleSpace":
        """Take the styles of known images, each with the number of its domain; every domain has one at least."""
        from sklearn.decomposition import PCA

        values, numbers = styles.numpy(), domain.numpy()
        known, place = np.unique(numbers, return_inverse=True)
        centres = np.stack([values[numbers == number].mean(axis=0) for number in known])
        left = values - centres[place]
        scale = left.std(axis=0)
        typical = np.median(scale[scale > 0]) if (scale > 0).any() else 1.0
        scale = np.maximum(scale, LEAST_SCALE * typical)
        axes = max(1, min(AXES, left.shape[1] - 1, len(left) - len(known) - 1))
        with np.errstate(invalid="ignore"):  # a share of no variance at all, which nobody asks for
            pca = PCA(axes, svd_solver="full").fit(left / scale)
        variance = np.maximum(pca.explained_variance_, 1e-6)
        return cls(
            centres, scale, np.ascontiguousarray(pca.components_), variance, max(float(pca.noise_variance_), 1e-3)
        )

    def distance(self, styles: Float[Tensor, "B F"]) -> NDArray[np.float64]:
        """Mahalanobis distance of each style to the nearest centre, as a root mean square over its F values."""
        values = np.nan_to_num(styles.numpy(), nan=BEYOND).clip(-BEYOND, BEYOND)
        left = (values[:, None] - self.centres) / self.scale
        along = left @ self.axes.T
        beside = np.maximum(np.square(left).sum(axis=2) - np.square(along).sum(axis=2), 0.0)
        squared = (np.square(along) / self.variance).sum(axis=2) + beside / self.noise
        found: NDArray[np.float64] = np.sqrt(squared.min(axis=1) / left.shape[2])
        return found


@dataclass(frozen=True)
class Usual:
    """Mean and deviation of a figure over the known images."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Usual":
        """Of these values; all alike count as scattered by next to nothing."""
        return cls(float(values.mean()), max(float(values.std()), 1e-6))

    def standing(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many deviations above the mean each value is."""
        return (values - self.mean) / self.std


class Reading(NamedTuple):
    """How far an image is from all known domains."""

    score: float
    """In standard deviations of known images: 0 is a typical one, more is stranger; the mean of the parts, rescaled."""
    percentile: float
    """Share of the known images that are less strange, 0..1. It ends at 1; the score goes on."""
    times: float | None
    """How many times as far as a typical known image its style is; None for a network without styles."""
    parts: dict[str, float]
    """What the score is made of, in standard deviations: `style` and `prototypes`, or `confidence`."""


class OODDetector:
    """Tells how far images are from all domains that a network was trained on.

    ```python
    unfamiliarity = OODDetector.read("runs/first", network)  # after `spcnet familiarise runs/first`
    output = network(images)
    scores = unfamiliarity.score(output)  # one for each image
    ```

    Args:
        network: the network that the outputs come from, in evaluation mode; it is read, never changed.
        spaces: where the known styles lie, for each style layer; none for a network without.
        usual: of each figure.
        total: of the mean over the parts.
        known: scores of the known images.
        domains: names of the domains that the known images are from.
    """

    def __init__(
        self,
        network: Segmentor,
        *,
        spaces: Sequence[StyleSpace],
        usual: dict[str, Usual],
        total: Usual,
        known: NDArray[np.float64],
        domains: Sequence[str],
    ) -> None:
        self.network = network
        self.spaces, self.usual, self.total = tuple(spaces), usual, total
        self.known = np.sort(known)
        self.domains = tuple(domains)

    @classmethod
    def fit(
        cls, network: Segmentor, outputs: Iterable[tuple[SegOutput, Int[Tensor, " B"]]], *, domains: Sequence[str]
    ) -> "OODDetector":
        """Learn from images of the sources what is usual.

        Every image is measured by what the others say (five parts in turn), for among those that a covariance is made
        from all look more usual than they are.

        Args:
            network: the network, in evaluation mode.
            outputs: what it returned for known images, batch by batch, with the number of each image's domain.
            domains: names of the domains, by number.

        Raises:
            DataError: there are too few images, or what the network says of them is not finite.
        """
        from sklearn.model_selection import PredefinedSplit

        found, numbers = [], []
        for output, domain in outputs:
            found.append(signals(network, output))
            numbers.append(domain.cpu())
        count = sum(len(domain) for domain in numbers)
        if count < FEWEST:
            raise DataError(
                f"there are {count} known images: {FEWEST} are needed to say what is usual, and 100 of each source are better"
            )
        seen, domain = _joined(found), torch.cat(numbers)
        if not all(bool(values.isfinite().all()) for values in (*seen.styles, seen.max_logit)):
            raise DataError(
                "what the network says of known images is not finite: its weights are damaged, train it anew"
            )
        distances = [np.empty(count) for _ in seen.styles]
        # Each part is a stretch of each domain: frames of one drive, which are alike, stay together.
        part = np.empty(count, np.int64)
        for number in np.unique(domain.numpy()):
            own = np.flatnonzero(domain.numpy() == number)
            part[own] = np.arange(len(own)) * FOLDS // len(own)
        for rest, held_out in PredefinedSplit(part).split() if distances else ():
            for styles, into in zip(seen.styles, distances, strict=True):
                into[held_out] = StyleSpace.fit(styles[rest], domain[rest]).distance(styles[held_out])
        figures = _figures(seen, distances)
        usual = {name: Usual.of(values) for name, values in figures.items()}
        mean = np.mean(list(_parts(figures, usual).values()), axis=0)
        total = Usual.of(mean)
        return cls(
            network,
            spaces=[StyleSpace.fit(styles, domain) for styles in seen.styles],
            usual=usual,
            total=total,
            known=total.standing(mean),
            domains=domains,
        )

    def readings(self, output: SegOutput) -> list[Reading]:
        """How strange each image of a batch is, with what makes it so.

        Args:
            output: what the network returned for the batch; nothing is computed anew.
        """
        return self.read_signals(signals(self.network, output))

    def score(self, output: SegOutput) -> Float[Tensor, " B"]:
        """How strange each image of a batch is: see `Reading.score`."""
        return torch.tensor([reading.score for reading in self.readings(output)], dtype=torch.float64)

    def read_signals(self, seen: Signals) -> list[Reading]:
        """The same from what `signals` found."""
        distances = [space.distance(styles) for space, styles in zip(self.spaces, seen.styles, strict=True)]
        figures = _figures(seen, distances)
        parts = {
            name: np.nan_to_num(np.clip(values, -LARGEST, LARGEST), nan=LARGEST)
            for name, values in _parts(figures, self.usual).items()
        }
        score = np.clip(self.total.standing(np.mean(list(parts.values()), axis=0)), -LARGEST, LARGEST)
        percentile = np.searchsorted(self.known, score, side="left") / len(self.known)
        times = None
        if distances:
            above = [figures[name] - self.usual[name].mean for name in figures if name.startswith("style")]
            times = np.nan_to_num(np.exp(np.minimum(np.mean(above, axis=0), math.log(LARGEST))), nan=LARGEST)
        return [
            Reading(
                float(score[i]),
                float(percentile[i]),
                None if times is None else float(times[i]),
                {name: float(values[i]) for name, values in parts.items()},
            )
            for i in range(len(score))
        ]

    def write(self, path: Path) -> Path:
        """Write the file beside a checkpoint, whole or not at all.

        Args:
            path: folder of the run, or its checkpoint file.

        Returns:
            The file.

        Raises:
            DataError: it cannot be written.
        """
        file = ood_file(path)
        content = {
            "format": FORMAT,
            "network": checkpoint.fingerprint(self.network.state_dict()),
            "domains": list(self.domains),
            "spaces": [
                {
                    "centres": space.centres.tolist(),
                    "scale": space.scale.tolist(),
                    "axes": space.axes.tolist(),
                    "variance": space.variance.tolist(),
                    "noise": space.noise,
                }
                for space in self.spaces
            ],
            "usual": {name: asdict(usual) for name, usual in self.usual.items()},
            "total": asdict(self.total),
            "known": self.known.tolist(),
        }
        write_text(file, json.dumps(content, allow_nan=False) + "\n")
        return file

    @classmethod
    def read(cls, path: Path | str, network: Segmentor) -> "OODDetector":
        """Read what was written beside a checkpoint.

        Args:
            path: folder of the run, or its checkpoint file.
            network: the network of that checkpoint.

        Raises:
            DataError: there is no such file, it is damaged, or it belongs to another network.
        """
        file = ood_file(Path(path))
        remedy = f"make it with: spcnet familiarise {Path(path)}"
        if not file.is_file():
            raise DataError(f"there is no {file}, which says what is usual for the network: {remedy}")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            written = content["format"]
            if written != FORMAT:
                raise DataError(f"{file} has the format {written}, and this version reads {FORMAT}: {remedy}")
            if content["network"] != checkpoint.fingerprint(network.state_dict()):
                raise DataError(
                    f"{file} was made for other weights than the network has, of an earlier training or another run: {remedy}"
                )
            found = cls(
                network,
                spaces=[_space(entry) for entry in content["spaces"]],
                usual={name: _usual(entry) for name, entry in content["usual"].items()},
                total=_usual(content["total"]),
                known=_numbers(content["known"], 1),
                domains=[str(name) for name in content["domains"]],
            )
            widths = [space.centres.shape[1] for space in found.spaces]
            wanted = [2 * layer.base_mean.shape[1] for layer in network.style_layers]
            if widths != wanted or set(found.usual) != set(_names(network)):
                raise ValueError(f"its layers have {widths} values, the network's {wanted}")
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, UsageError):
                raise
            raise DataError(
                f"{file} is damaged or something else ({' '.join(str(error).split())}): {remedy}"
            ) from error
        return found


def ood_file(path: Path) -> Path:
    """The file that belongs to a run's folder or a checkpoint file."""
    return path / OOD_FILE if path.is_dir() else path.parent / OOD_FILE


def _names(network: Segmentor) -> list[str]:
    """The figures that a network is judged by."""
    styles = [f"style {number}" for number in range(1, len(network.style_layers) + 1)]
    prototypes = ["prototypes: similarity", "prototypes: margin"] if network.prototype_head is not None else []
    return [*styles, *prototypes] or ["confidence"]


def _figures(seen: Signals, distances: Sequence[NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """What images are judged by: more is stranger. Distances by their logarithm, so that times are differences."""
    figures = {f"style {number}": _log(values) for number, values in enumerate(distances, start=1)}
    if seen.similarity is not None and seen.margin is not None:
        figures["prototypes: similarity"] = _log(_lacking(seen.similarity.numpy()))
        figures["prototypes: margin"] = _log(_lacking(seen.margin.numpy()))
    return figures or {"confidence": -seen.max_logit.numpy()}


def _lacking(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a cosine, or a difference of two, lacks to 1; of what can be neither, as much as can be."""
    found: NDArray[np.float64] = np.where(np.abs(cosine) < 2.01, 1 - cosine, BEYOND)
    return found


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.log(np.maximum(values, 1e-6))
    return found


def _parts(figures: dict[str, NDArray[np.float64]], usual: dict[str, Usual]) -> dict[str, NDArray[np.float64]]:
    """Standing of each image in each part, the mean over the part's figures."""
    grouped: dict[str, list[NDArray[np.float64]]] = {}
    for name, values in figures.items():
        grouped.setdefault(name.split(":")[0].split(" ")[0], []).append(usual[name].standing(values))
    return {part: np.mean(values, axis=0) for part, values in grouped.items()}


def _joined(found: Sequence[Signals]) -> Signals:
    """The signals of several batches as those of one."""

    def joined(parts: Sequence[Any]) -> Any:
        if parts[0] is None:
            return None
        if isinstance(parts[0], tuple):
            return tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
        return torch.cat(list(parts))

    return Signals(*map(joined, zip(*found, strict=True)))


def _numbers(values: Any, dimensions: int) -> NDArray[np.float64]:
    found = np.array(values, dtype=np.float64)
    if found.ndim != dimensions or found.size == 0 or not np.isfinite(found).all():
        raise ValueError(f"a table of numbers has the shape {found.shape}")
    return found


def _space(entry: Any) -> StyleSpace:
    centres, scale = _numbers(entry["centres"], 2), _numbers(entry["scale"], 1)
    axes, variance = _numbers(entry["axes"], 2), _numbers(entry["variance"], 1)
    noise = float(entry["noise"])
    width = centres.shape[1]
    if scale.shape != (width,) or axes.shape != (len(variance), width) or min(scale.min(), variance.min(), noise) <= 0:
        raise ValueError("its tables do not fit together")
    return StyleSpace(centres, scale, axes, variance, noise)


def _usual(entry: Any) -> Usual:
    mean, std = _numbers([entry["mean"], entry["std"]], 1).tolist()
    if std <= 0:
        raise ValueError("a deviation is not positive")
    return Usual(mean, std)
