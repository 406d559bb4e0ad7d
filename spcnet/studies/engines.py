"""The engine of a command: its options together with the run's images, on which 8-bit networks are calibrated."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from spcnet.data.datasets import SegmentationSet
from spcnet.data.transforms import normalise
from spcnet.errors import UsageError
from spcnet.export.quantisation import calibration_pictures
from spcnet.inference.engines import Calibration, EngineName, EngineOptions, Precision
from spcnet.inference.images import find_images
from spcnet.runs import OpenRun

CALIBRATION_IMAGES = 64
"""Spread evenly over all calibration domains together."""


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
    names = [
        *(str(file) for source in sources for file in _files(source)),
        f"{size} {limit}",
    ]
    return EngineOptions(engine, precision, Calibration("; ".join(names), partial(_images, sources, size, limit)))


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


def _files(source: SegmentationSet | Path) -> list[object]:
    """What tells the images of a source from others."""
    if isinstance(source, Path):
        paths = [one.path for one in find_images([source])]
        return [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return [source.name_of(number) for number in range(len(source))]


def _images(
    sources: Sequence[SegmentationSet | Path], size: tuple[int, int] | None, limit: int
) -> Iterator[Float[Tensor, "1 3 H W"]]:
    pictures = chain.from_iterable(calibration_pictures(source, size, limit=limit) for source in sources)
    return map(normalise, pictures)
