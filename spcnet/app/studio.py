"""The networks of the web demo, its scenes, and their predictions."""

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from spcnet.app.uploads import Limits, read_upload
from spcnet.errors import DataError, UsageError, lookup
from spcnet.inference.engines import EngineName, EngineOptions
from spcnet.inference.ood import OODDetector, OODScore, ood_file
from spcnet.inference.predictor import Predictor
from spcnet.inference.results import Prediction
from spcnet.runs import OpenRun
from spcnet.synthesis.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from spcnet.synthesis.streets import STYLES, generate
from spcnet.synthesis.weather import WEATHER, apply_weather

SCENE_PIXELS = 2**18
"""Pixels of a built-in scene at most: 362×724."""
CACHE_BYTES = 2**28
"""Of photos and class maps that are kept, so that a change of colours or sides computes nothing again."""
NO_STYLE = "none"

V = TypeVar("V")


class Scored(NamedTuple):
    """A network's prediction of a picture with its OOD score."""

    prediction: Prediction
    ood: OODScore | None
    """None without a fitted detector."""


@dataclass(frozen=True)
class Scene:
    """A built-in picture."""

    name: str
    about: str
    """One line."""
    image: NDArray[np.uint8]
    """H×W×3, RGB."""


class Model:
    """A network that labels pictures, one after the other, under a name on the page.

    Raises:
        UsageError, DataError, CheckpointError: it cannot be read, or its OOD detector is damaged.
    """

    def __init__(
        self, run: OpenRun, *, name: str, device: str = "auto", engine: EngineOptions | EngineName = "auto"
    ) -> None:
        network, card = run.network, run.card
        self.name, self.space, self.size, self.domains = name, run.space, card.size, card.domains
        self.about = f"{card.method}, {card.model.get('backbone', 'unknown backbone')}"
        self.detector = OODDetector.read(run.path, network) if ood_file(run.path).is_file() else None
        self.predictor = Predictor(
            network, space=self.space, size=card.size, device=device, source_names=card.domains, engine=engine
        )
        if self.detector is not None:
            self.predictor.score_ood(self.detector)
        self.predictor.calibrate(card.calibration)
        self._lock = threading.Lock()

    def predict(self, image: NDArray[np.uint8]) -> Scored:
        """Label a picture, H×W×3 RGB.

        Raises:
            UsageError, DataError: as `Predictor.predict`.
        """
        with self._lock:
            prediction = self.predictor.predict(image)
            return Scored(prediction, prediction.ood_score)


class RecentValues:
    """A least-recently-used cache that is limited in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V], size: Callable[[V], int]) -> V:
        """The value of a key, made if it is not there; the least recently used are dropped first."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                value: V = self._entries[key][0]
                return value
        value = make()
        with self._lock:
            _, before = self._entries.pop(key, (None, 0))
            self._entries[key] = value, size(value)
            self.bytes += size(value) - before
            while self.bytes > self.limit and self._entries:
                self.bytes -= self._entries.popitem(last=False)[1][1]
        return value


class Studio:
    """Networks, scenes, and recent predictions.

    Raises:
        UsageError, DataError, CheckpointError: a network cannot be read.
    """

    def __init__(
        self,
        runs: Sequence[OpenRun],
        *,
        limits: Limits,
        device: str = "auto",
        engines: Sequence[EngineOptions] | None = None,
    ) -> None:
        if not runs:
            raise UsageError("there is no network to show: give folders of runs or files of weights")
        self.limits = limits
        names = short_names([run.path for run in runs])
        engines = engines or [EngineOptions() for _ in runs]
        self.models = {
            name: Model(run, name=name, device=device, engine=engine)
            for name, run, engine in zip(names, runs, engines, strict=True)
        }
        self.scenes = street_scenes(scene_size([model.size for model in self.models.values()]))
        self._recent = RecentValues(CACHE_BYTES)
        for model in self.models.values():  # the first prediction is slow, and a network that fails is reported now
            model.predict(self.scenes[0].image)

    def photo(self, source: Path | int, style: str = NO_STYLE, strength: float = 1.0) -> NDArray[np.uint8]:
        """A picture (an uploaded file or the number of a scene) in a style of `STYLE_CHOICES`: H×W×3, RGB.

        Raises:
            UsageError: there is no such scene or style, or the strength lies outside.
            DataError: the file cannot be read, or is beyond the limits.
        """
        key = self._key(source)
        if style == NO_STYLE:
            return self._recent.get(key, lambda: self._read(source), _nbytes)
        return self._recent.get(
            (key, style, strength), lambda: styled(self.photo(source), style, strength=strength), _nbytes
        )

    def predict(self, name: str, source: Path | int, style: str = NO_STYLE, strength: float = 1.0) -> Scored:
        """A network's prediction of a picture; arguments and errors as for `photo`.

        Raises:
            UsageError, DataError: there is no such network, or see `photo`.
        """
        model = lookup(name, self.models, "network")
        key = (self._key(source), style, strength if style != NO_STYLE else 0.0, name)
        return self._recent.get(
            key,
            lambda: model.predict(self.photo(source, style, strength)),
            lambda scored: scored.prediction.class_map.nbytes,
        )

    def _read(self, source: Path | int) -> NDArray[np.uint8]:
        if isinstance(source, Path):
            return read_upload(source, limits=self.limits)
        if not 0 <= source < len(self.scenes):
            raise UsageError(f"there is no scene {source}: there are {len(self.scenes)}")
        return self.scenes[source].image

    def _key(self, source: Path | int) -> Hashable:
        if isinstance(source, int):
            return source
        try:
            with source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise DataError("the file is no longer there: upload it again") from error


def _nbytes(image: NDArray[np.uint8]) -> int:
    return image.nbytes


def styled(image: NDArray[np.uint8], style: str, *, strength: float, seed: int = 0) -> NDArray[np.uint8]:
    """A picture in a style of `STYLE_CHOICES`: H×W×3, RGB.

    Args:
        image: the picture.
        style: `none`, `weather/NAME` or `corruption/NAME`.
        strength: 0 changes nothing, 1 is the most; a corruption's five severities are fifths of it.
        seed: of flakes, streaks and noise.

    Raises:
        UsageError: there is no such style, or the strength lies outside 0..1.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"the strength of the style is {strength}: it must lie in 0 (none) .. 1 (most)")
    if style == NO_STYLE:
        return image
    kind, _, name = style.partition("/")
    if kind == "weather":
        return apply_weather(image, name, seed=seed, strength=strength)
    if kind == "corruption":
        return corrupt(image, name, severity=math.ceil(strength * len(SEVERITIES)), seed=seed)
    raise UsageError(f"there is no style {style!r}: none, weather/NAME and corruption/NAME are")


def about_style(style: str) -> str:
    """What a style looks like, in one line."""
    kind, _, name = style.partition("/")
    if kind == "weather":
        return lookup(name, WEATHER, "weather style").description
    return lookup(name, CORRUPTIONS, "corruption").description if kind == "corruption" else "as it is"


STYLE_CHOICES: tuple[tuple[str, str], ...] = (
    ("None: as it is", NO_STYLE),
    *((f"Weather: {name.replace('_', ' ')}", f"weather/{name}") for name in WEATHER),
    *((f"Damage: {name.replace('_', ' ')}", f"corruption/{name}") for name in CORRUPTIONS),
)
"""Styles that a picture can be given: what is read on the page, and what `styled` takes."""


def street_scenes(size: tuple[int, int]) -> tuple[Scene, ...]:
    """Generated streets of this height and width, another street in each style."""
    return tuple(
        Scene(style, about, generate(index, style=style, seed=7, size=size).image)
        for index, (style, about) in enumerate(STYLES.items())
    )


def scene_size(sizes: Sequence[tuple[int, int] | None]) -> tuple[int, int]:
    """Height and width of the scenes: those of the network with the largest images, within `SCENE_PIXELS`."""
    height, width = max((size for size in sizes if size), key=math.prod, default=(256, 512))
    shrink = min(1.0, math.sqrt(SCENE_PIXELS / (height * width)))
    return max(64, round(height * shrink)), max(64, round(width * shrink))


def short_names(paths: Sequence[Path]) -> list[str]:
    """What networks are called: the ends of their paths, as many folders as tell them apart."""
    parts = []
    for path in paths:
        whole = path.resolve()
        named_by_folder = whole.is_file() and whole.stem in ("model", "checkpoint")
        parts.append(
            whole.parent.parts
            if named_by_folder
            else (*whole.parent.parts, whole.stem if whole.is_file() else whole.name)
        )
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    # The same network twice is still two networks to show.
    return [f"{name} ({number})" for number, name in enumerate(("/".join(part[-1:]) for part in parts), start=1)]
