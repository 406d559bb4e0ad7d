"""Out-of-distribution (OOD) scores: how far an image is from all known domains, from one forward pass.

Two things are measured. The *style*: mean and deviation of each channel before each style layer, whose distance to the
nearest known domain SPC-Net weighs its bases by (Huang et al., CVPR 2023, Eq. 1-3). And the *prototypes*: how near the
pixels are to the nearest one, and how much nearer than to the nearest of another class (Eq. 8).

The paper's distance has no unit, and channels in which any two images differ drown those in which all known images
agree. So the detector is fitted on images of the sources (`fit`): a style is measured in the scatter of the known images of a
domain around their mean, along the directions in which it lies (Mahalanobis; Lee et al., NeurIPS 2018), with a
probabilistic principal component analysis for the covariance (Tipping and Bishop, 1999). The fitted detector is a file
beside the checkpoint that is bound to the network's weights. A network without styles and prototypes has its confidence alone
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
from spcnet.numerics import at_least_single, without_autocast
from spcnet.types import Network, SegOutput

FORMAT = 1
"""Raised when a file written today could not be read by an older version."""
OOD_FILE = "ood.json"
"""The fitted detector, beside the network."""
OLD_OOD_FILE = "familiar.json"
"""Its name in versions before 0.2."""
MIN_IMAGES = 20
"""Fewest images to fit on."""
MAX_COMPONENTS = 16
"""Directions of a layer's style space that have a variance of their own; all others share one."""
FOLDS = 5
"""Of the cross-validation by which known images are scored, as an image to come will be."""
LOGIT_STRIDE = 4
"""Step over the rows and columns of the logits, which have a fourth of the image's size, is read."""
MIN_RELATIVE_SCALE = 0.01
"""Lower bound of a channel's scatter as a fraction of the median channel's: a dead channel has none."""
MAX_SCORE = 1e6
"""Scores are clipped to it."""
BEYOND = 1e100
"""Stands in for a value that is not finite; its square still is."""


class Signals(NamedTuple):
    """What a forward pass says about each image, before it is compared with known images."""

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
    """Largest logit, mean over the pixels."""


@torch.no_grad()
def signals(network: Network, output: SegOutput) -> Signals:
    """Signals of each image of a batch, in double precision on the CPU.

    Args:
        network: the network, unchanged.
        output: what it returned.
    """
    known, prototypes = network.known_styles().values(), network.prototypes()
    nearest = [place.distance(stats).amin(dim=1) for place, stats in zip(known, output.styles, strict=True)]
    similarity = margin = None
    if prototypes is not None and output.embedding is not None:
        best, second = nearest_classes(output.embedding, prototypes)
        similarity, margin = _cpu(best), _cpu(best - second)
    logits = at_least_single(output.logits[:, :, ::LOGIT_STRIDE, ::LOGIT_STRIDE])
    logs = logits.log_softmax(dim=1)
    probabilities = logs.exp()
    return Signals(
        styles=tuple(_cpu(torch.cat([stats.mean, stats.std], dim=1)) for stats in output.styles),
        distance=_cpu(torch.stack(nearest, dim=1) if nearest else logits.new_zeros(len(logits), 0)),
        similarity=similarity,
        margin=margin,
        confidence=_cpu(probabilities.amax(dim=1).mean(dim=(1, 2))),
        entropy=_cpu(-(probabilities * logs).sum(dim=1).mean(dim=(1, 2))),
        max_logit=_cpu(logits.amax(dim=1).mean(dim=(1, 2))),
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
        """Fit on the styles of known images, each with the number of its domain; every domain has at least one."""
        from sklearn.decomposition import PCA

        values, numbers = styles.numpy(), domain.numpy()
        known, place = np.unique(numbers, return_inverse=True)
        centres = np.stack([values[numbers == number].mean(axis=0) for number in known])
        left = values - centres[place]
        scale = left.std(axis=0)
        typical = np.median(scale[scale > 0]) if (scale > 0).any() else 1.0
        scale = np.maximum(scale, MIN_RELATIVE_SCALE * typical)
        axes = max(1, min(MAX_COMPONENTS, left.shape[1] - 1, len(left) - len(known) - 1))
        with np.errstate(invalid="ignore"):  # the unused explained_variance_ratio_ of no variance at all
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
        distance: NDArray[np.float64] = np.sqrt(squared.min(axis=1) / left.shape[2])
        return distance


@dataclass(frozen=True)
class Standardization:
    """Mean and deviation of a feature over the known images."""

    mean: float
    std: float

    @classmethod
    def fit(cls, values: NDArray[np.float64]) -> "Standardization":
        """Fit on values; a deviation below 1e-6 counts as 1e-6."""
        return cls(float(values.mean()), max(float(values.std()), 1e-6))

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Z-scores: how many deviations each value is above the mean."""
        return (values - self.mean) / self.std


class OODScore(NamedTuple):
    """How far an image is from all known domains."""

    score: float
    """In standard deviations of known images: 0 is typical, higher is farther; the mean of the parts, standardised."""
    percentile: float
    """Fraction of the known images with a lower score, 0..1. It ends at 1; the score has no upper end."""
    times: float | None
    """Distance of its style over that of a typical known image; None for a network without styles."""
    parts: dict[str, float]
    """What the score is the mean of, in standard deviations: `style` and `prototypes`, or `confidence`."""


class OODDetector:
    """Scores how far images are from all domains that a network was trained on.

    ```python
    detector = OODDetector.read("runs/first", network)  # after `spcnet ood fit runs/first`
    scores = detector.scores(network(images))  # one for each image
    ```

    Args:
        network: the network that the outputs come from, in evaluation mode; it is read, never changed.
        spaces: where the known styles lie, for each style layer; none for a network without.
        features: standardisation of each feature.
        total: of the mean over the parts.
        known: scores of the known images.
        domains: names of the domains that the known images are from.
    """

    def __init__(
        self,
        network: Network,
        *,
        spaces: Sequence[StyleSpace],
        features: dict[str, Standardization],
        total: Standardization,
        known: NDArray[np.float64],
        domains: Sequence[str],
    ) -> None:
        self.network = network
        self.spaces, self.features, self.total = tuple(spaces), features, total
        self.known = np.sort(known)
        self.domains = tuple(domains)

    @classmethod
    def fit(
        cls, network: Network, outputs: Iterable[tuple[SegOutput, Int[Tensor, " B"]]], *, domains: Sequence[str]
    ) -> "OODDetector":
        """Fit on images of the sources.

        Known images are scored by cross-validation, for those that a covariance is estimated from lie nearer to it.

        Args:
            network: the network, in evaluation mode.
            outputs: what it returned for known images, batch by batch, with the number of each image's domain.
            domains: names of the domains, by number.

        Raises:
            DataError: there are fewer than `MIN_IMAGES` images, or an output is not finite.
        """
        from sklearn.model_selection import PredefinedSplit

        batches, numbers = [], []
        for output, domain in outputs:
            batches.append(signals(network, output))
            numbers.append(domain.cpu())
        count = sum(map(len, numbers))
        if count < MIN_IMAGES:
            raise DataError(
                f"there are {count} known images: {MIN_IMAGES} are needed, and 100 of each source are better"
            )
        known, domain = _joined(batches), torch.cat(numbers)
        if not all(bool(values.isfinite().all()) for values in (*known.styles, known.max_logit)):
            raise DataError(
                "the network's outputs for known images are not finite: its weights are damaged, train again"
            )
        distances = [np.empty(count) for _ in known.styles]
        # A fold is a stretch of each domain: frames of one drive, which are alike, stay together.
        fold = np.empty(count, np.int64)
        for number in np.unique(domain.numpy()):
            places = np.flatnonzero(domain.numpy() == number)
            fold[places] = np.arange(len(places)) * FOLDS // len(places)
        for rest, held_out in PredefinedSplit(fold).split() if distances else ():
            for styles, distance in zip(known.styles, distances, strict=True):
                distance[held_out] = StyleSpace.fit(styles[rest], domain[rest]).distance(styles[held_out])
        values = _features(known, distances)
        features = {name: Standardization.fit(column) for name, column in values.items()}
        mean = np.mean(list(_parts(values, features).values()), axis=0)
        total = Standardization.fit(mean)
        return cls(
            network,
            spaces=[StyleSpace.fit(styles, domain) for styles in known.styles],
            features=features,
            total=total,
            known=total.apply(mean),
            domains=domains,
        )

    def scores(self, output: SegOutput) -> list[OODScore]:
        """Score each image of a batch.

        Args:
            output: what the network returned for the batch.
        """
        return self.score_signals(signals(self.network, output))

    def score_signals(self, batch: Signals) -> list[OODScore]:
        """The same from what `signals` returned."""
        distances = [space.distance(styles) for space, styles in zip(self.spaces, batch.styles, strict=True)]
        features = _features(batch, distances)
        parts = {
            name: np.nan_to_num(np.clip(values, -MAX_SCORE, MAX_SCORE), nan=MAX_SCORE)
            for name, values in _parts(features, self.features).items()
        }
        score = np.clip(self.total.apply(np.mean(list(parts.values()), axis=0)), -MAX_SCORE, MAX_SCORE)
        percentile = np.searchsorted(self.known, score, side="left") / len(self.known)
        times = None
        if distances:
            above = [features[name] - self.features[name].mean for name in features if name.startswith("style")]
            times = np.nan_to_num(np.exp(np.minimum(np.mean(above, axis=0), math.log(MAX_SCORE))), nan=MAX_SCORE)
        return [
            OODScore(
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
        file = _folder(path) / OOD_FILE
        content = {
            "format": FORMAT,
            "network": checkpoint.fingerprint(self.network.state_dict()),
            "domains": list(self.domains),
            "spaces": [
                {name: np.asarray(value).tolist() for name, value in vars(space).items()} for space in self.spaces
            ],
            "usual": {name: asdict(feature) for name, feature in self.features.items()},
            "total": asdict(self.total),
            "known": self.known.tolist(),
        }
        write_text(file, json.dumps(content, allow_nan=False) + "\n")
        return file

    @classmethod
    def read(cls, path: Path | str, network: Network) -> "OODDetector":
        """Read the detector beside a checkpoint.

        Args:
            path: folder of the run, or its checkpoint file.
            network: the network of that checkpoint.

        Raises:
            DataError: there is no such file, it is damaged, or it belongs to another network.
        """
        file = ood_file(Path(path))
        remedy = f"run spcnet ood fit {Path(path)}"
        if not file.is_file():
            raise DataError(f"there is no OOD detector {file}: {remedy}")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise DataError(f"{file} has the format {content['format']}, this version reads {FORMAT}: {remedy}")
            if content["network"] != checkpoint.fingerprint(network.state_dict()):
                raise DataError(f"{file} was fitted for other weights than the network has: {remedy}")
            detector = cls(
                network,
                spaces=[_space(entry) for entry in content["spaces"]],
                features={name: _standardization(entry) for name, entry in content["usual"].items()},
                total=_standardization(content["total"]),
                known=_numbers(content["known"], 1),
                domains=[str(name) for name in content["domains"]],
            )
            widths = [space.centres.shape[1] for space in detector.spaces]
            expected = [2 * known.bases.mean.shape[1] for known in network.known_styles().values()]
            if widths != expected or set(detector.features) != set(_feature_names(network)):
                raise ValueError(f"its layers have {widths} values, the network's {expected}")
        except UsageError:
            raise
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{file} is damaged or not an OOD detector ({reason}): {remedy}") from error
        return detector


def ood_file(path: Path) -> Path:
    """The detector's file for a run's folder or a checkpoint file; an earlier version's where only that is there."""
    new, old = _folder(path) / OOD_FILE, _folder(path) / OLD_OOD_FILE
    return old if old.is_file() and not new.is_file() else new


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _feature_names(network: Network) -> list[str]:
    styles = [f"style {number}" for number in range(1, len(network.known_styles()) + 1)]
    prototypes = [] if network.prototypes() is None else ["prototypes: similarity", "prototypes: margin"]
    return [*styles, *prototypes] or ["confidence"]


def _features(batch: Signals, distances: Sequence[NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Features by `_feature_names`, higher is farther. Distances as logarithms, so that ratios are differences."""
    features = {f"style {number}": _log(values) for number, values in enumerate(distances, start=1)}
    if batch.similarity is not None and batch.margin is not None:
        features["prototypes: similarity"] = _log(_one_minus(batch.similarity.numpy()))
        features["prototypes: margin"] = _log(_one_minus(batch.margin.numpy()))
    return features or {"confidence": -batch.max_logit.numpy()}


def _one_minus(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 minus a cosine or a difference of two; `BEYOND` for a value that can be neither."""
    return np.where(np.abs(cosine) < 2.01, 1 - cosine, BEYOND)


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithm: NDArray[np.float64] = np.log(np.maximum(values, 1e-6))
    return logarithm


def _parts(
    features: dict[str, NDArray[np.float64]], standardizations: dict[str, Standardization]
) -> dict[str, NDArray[np.float64]]:
    """Mean z-score of each image over the features of each part: `style`, `prototypes`, `confidence`."""
    grouped: dict[str, list[NDArray[np.float64]]] = {}
    for name, values in features.items():
        grouped.setdefault(name.split(":")[0].split(" ")[0], []).append(standardizations[name].apply(values))
    return {part: np.mean(values, axis=0) for part, values in grouped.items()}


def _joined(batches: Sequence[Signals]) -> Signals:
    """The signals of several batches as those of one."""

    def joined(parts: Sequence[Any]) -> Any:
        if parts[0] is None:
            return None
        if isinstance(parts[0], tuple):
            return tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
        return torch.cat(list(parts))

    return Signals(*map(joined, zip(*batches, strict=True)))


def _numbers(values: Any, dimensions: int) -> NDArray[np.float64]:
    numbers = np.array(values, dtype=np.float64)
    if numbers.ndim != dimensions or numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"a table of numbers has the shape {numbers.shape}")
    return numbers


def _space(entry: Any) -> StyleSpace:
    centres, scale = _numbers(entry["centres"], 2), _numbers(entry["scale"], 1)
    axes, variance = _numbers(entry["axes"], 2), _numbers(entry["variance"], 1)
    noise = float(entry["noise"])
    width = centres.shape[1]
    if scale.shape != (width,) or axes.shape != (len(variance), width) or min(scale.min(), variance.min(), noise) <= 0:
        raise ValueError("its tables do not fit together")
    return StyleSpace(centres, scale, axes, variance, noise)


def _standardization(entry: Any) -> Standardization:
    mean, std = _numbers([entry["mean"], entry["std"]], 1).tolist()
    if std <= 0:
        raise ValueError("a deviation is not positive")
    return Standardization(mean, std)
