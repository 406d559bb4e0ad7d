"""The engine of a command: its options together with the run's images, on which 8-bit networks are calibrated."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from statistics import median
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor, nn

from spcnet.config import DataConfig
from spcnet.data.datasets import SegmentationSet
from spcnet.data.loading import evaluation_batches
from spcnet.data.transforms import normalise
from spcnet.errors import UsageError, unknown_name_error
from spcnet.evaluation import evaluator
from spcnet.evaluation.metrics import mean_iou
from spcnet.export.comparison import pictures
from spcnet.export.quantisation import calibration_pictures
from spcnet.inference.engines import PRECISIONS, Calibration, EngineName, EngineNetwork, EngineOptions, Precision
from spcnet.runs import OpenRun

CALIBRATION_IMAGES = 64
"""Spread evenly over all calibration domains together."""
PLAIN_SIZE = (512, 1024)
"""Height and width of the images that engines are compared at, where the network was trained at no size."""


def engine_options(
    run: OpenRun,
    engine: EngineName,
    precision: Precision = "f32",
    calibration: str | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> EngineOptions:
    """Which engine runs a network.

    Args:
        run: the network.
        engine: by name.
        precision: what it computes in.
        calibration: of int8: a domain, of which its training split is taken, or a folder of images; by default the sources.
        size: height and width that images are brought to; those of the training by default.

    Raises:
        UsageError: they do not go together, or the sources are not known.
        DataError: the sources are not there.
    """
    if precision != "int8":
        if calibration is not None:
            raise UsageError(
                f"--calibration is for --precision int8, and the precision is {precision}: drop one of them"
            )
        return EngineOptions(engine, precision)
    sources = _sources(run, calibration)
    size = size or run.card.size
    limit = max(1, CALIBRATION_IMAGES // len(sources))
    images = partial(_images, sources, size, limit)
    # The pictures themselves tell one calibration from another: files change under their names.
    digest = sha256()
    for image in images():
        digest.update(str(tuple(image.shape)).encode() + image.numpy().tobytes())
    return EngineOptions(engine, precision, Calibration(digest.hexdigest(), images))


def _sources(run: OpenRun, calibration: str | None) -> Sequence[SegmentationSet | Path]:
    if calibration is not None and Path(calibration).is_dir():
        return [Path(calibration)]
    if calibration is not None:
        return list(run.training_sets([calibration]).values())
    if not run.is_run:
        raise UsageError(
            f"{run.path} does not say where its sources lie, which int8 is calibrated on: give --calibration, a domain or a "
            "folder of images like those to come"
        )
    return list(run.training_sets().values())


def _images(
    sources: Sequence[SegmentationSet | Path], size: tuple[int, int] | None, limit: int
) -> Iterator[Float[Tensor, "1 3 H W"]]:
    pictures = chain.from_iterable(calibration_pictures(source, size, limit=limit) for source in sources)
    return map(normalise, pictures)


class Parity(NamedTuple):
    """A network run by an engine beside the network in torch, on generated streets of one size."""

    engine: str
    precision: str
    height: int
    width: int
    difference: float
    """Largest difference of the logits."""
    largest: float
    """Largest logit of the network, without its sign."""
    equal: float
    """Share of the pixels that get the same class, 0..1."""
    seconds: float
    """Of one image, after one pass to warm up."""
    network_seconds: float
    """Of the network in torch."""
    miou: float | None = None
    """On the domain, 0..1; None where none is scored."""
    network_miou: float | None = None
    """Of the network in torch."""


def parse_engine(text: str) -> tuple[EngineName, Precision]:
    """An engine and its precision from `NAME` or `NAME:PRECISION`.

    Raises:
        UsageError: there is no such engine or precision.
    """
    name, _, precision = text.partition(":")
    if name not in PRECISIONS:
        raise unknown_name_error(name, list(PRECISIONS), "engine")
    if (precision or "f32") not in PRECISIONS[name]:
        raise unknown_name_error(precision, PRECISIONS[name], f"precision of {name}")
    return cast(EngineName, name), cast(Precision, precision or "f32")


def parity(
    run: OpenRun,
    engines: Sequence[str],
    calibration: str | None = None,
    *,
    tested: SegmentationSet | None = None,
    limit: int = 0,
    images: int = 4,
) -> list[Parity]:
    """Compare engines with the network in torch: at the size of the training and at four times its pixels.

    Args:
        run: the network.
        engines: each `NAME` or `NAME:PRECISION`.
        calibration: of int8, see `engine_options`.
        tested: labelled images, for the mIoU of both at both sizes.
        limit: largest number of them; 0 for all.
        images: generated streets of each size.

    Raises:
        UsageError: an engine is not known, not installed, or cannot run the network.
        DataError: an image cannot be read.
    """
    chosen = [parse_engine(text) for text in engines]
    network = run.network
    trained = run.card.size or PLAIN_SIZE
    rows = []
    for size in (trained, (2 * trained[0], 2 * trained[1])):
        data = replace(run.data, size=size, workers=0)

        def score(one: nn.Module, data: DataConfig = data) -> float | None:
            if tested is None:
                return None
            batches = evaluation_batches(tested, data, domain=0, batch_size=1, limit=limit)
            return mean_iou(evaluator.evaluate(one, batches, num_classes=len(run.space)).counts)

        streets = [normalise(picture[None]) for picture in pictures(images, *size)]
        expected = [_timed(network, street) for street in streets]
        miou = score(network)
        for name, precision in chosen:
            options = engine_options(run, name, precision, calibration if precision == "int8" else None, size=size)
            other = EngineNetwork(network, options, torch.device("cpu")).eval()
            _timed(other, streets[0])
            found = [_timed(other, street) for street in streets]
            pairs = [(one, two) for (one, _), (two, _) in zip(found, expected, strict=True)]
            rows.append(
                Parity(
                    name,
                    precision,
                    *size,
                    difference=max(float((one - two).abs().max()) for one, two in pairs),
                    largest=max(float(two.abs().max()) for _, two in pairs),
                    equal=sum(float((one.argmax(1) == two.argmax(1)).double().mean()) for one, two in pairs) / images,
                    seconds=median(seconds for _, seconds in found),
                    network_seconds=median(seconds for _, seconds in expected),
                    miou=score(other),
                    network_miou=miou,
                )
            )
    return rows


@torch.inference_mode()
def _timed(network: nn.Module, image: Tensor) -> tuple[Tensor, float]:
    """The logits of an image, and the seconds that they took."""
    start = time.perf_counter()
    logits: Tensor = network(image).logits
    return logits, time.perf_counter() - start


def parity_table(rows: Sequence[Parity]) -> Table:
    """The comparison as it is printed."""
    table = Table(box=SIMPLE)
    for title in ("engine", "size", "logits differ", "equal labels", "times as fast", "mIoU", "mIoU in torch"):
        table.add_column(title, justify="left" if title == "engine" else "right", no_wrap=True)
    for row in rows:
        mious = ["-" if value is None else f"{100 * value:.2f}" for value in (row.miou, row.network_miou)]
        table.add_row(
            f"{row.engine} {row.precision}",
            f"{row.height}×{row.width}",
            f"{row.difference:.1e}",
            f"{row.equal:.2%}",
            f"{row.network_seconds / row.seconds:.2f}",
            *mious,
        )
    return table
