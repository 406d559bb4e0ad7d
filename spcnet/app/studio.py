"""The networks of the demo, the scenes that it shows, and what the networks saw in them."""

import hashlib
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from spcnet.app.uploads import Limits, read_upload
from spcnet.convert import load_any
from spcnet.errors import DataError, UsageError, lookup
from spcnet.inference.ood import OODDetector, OODScore, ood_file
from spcnet.inference.predictor import Predictor
from spcnet.inference.results import Prediction
from spcnet.labels import label_space
from spcnet.synthesis.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from spcnet.synthesis.streets import STYLES, generate
from spcnet.synthesis.weather import WEATHER, apply_weather
from spcnet.types import SegOutput

SCENE_PIXELS = 2**18
"""Pixels of a built-in scene at most: 362×724."""
KEPT_BYTES = 2**28
"""Of photos and class maps that are kept, so that a change of colours or sides computes nothing anew."""
NO_STYLE = "none"

V = TypeVar("V")


class Seen(NamedTuple):
    """What a network sees in a picture."""

    prediction: Prediction
    reading: OODScore | None
    """How strange the picture is; None where the network was not shown what is usual."""


@dataclass(frozen=True)
class Scene:
    """A built-in picture."""

    name: str
    about: str
    """One line."""
    image: NDArray[np.uint8]
    """H×W×3, RGB."""


class Model:
    """A network that labels pictures, one after the other.

    Args:
        path: folder of a run, or a file that `spcnet.load_model` reads.
        name: what it is called on the page.
        device: where it computes: auto, cpu, cuda or mps.

    Raises:
        UsageError, DataError, CheckpointError: it cannot be read, or its unfamiliarity file is broken.
    """

    def __init__(self, path: Path, *, name: str, device: str = "auto") -> None:
        network, card = load_any(path)
        self.name, self.space, self.size = name, label_space(card.space), card.size
        self.about = f"{card.method}, {card.model.get('backbone', 'unknown backbone')}"
        self.domains = card.domains
        # Of other weights it would be wrong, and without it there is no figure.
        self.unfamiliarity = OODDetector.read(path, network) if ood_file(path).is_file() else None
        outputs = self._outputs = deque[SegOutput](maxlen=1)
        if self.unfamiliarity is not None:
            # The predictor may run a copy that is faster; what is hooked on goes along with it.
            network.register_forward_hook(lambda network, images, output: outputs.append(output))
        self.predictor = Predictor(network, space=self.space, size=card.size, device=device, source_names=card.domains)
        self._lock = threading.Lock()

    def look(self, image: NDArray[np.uint8]) -> Seen:
        """Label a picture, H×W×3 RGB.

        Raises:
            UsageError, DataError: as `Predictor.predict`.
        """
        with self._lock:
            prediction = self.predictor.predict(image)
            reading = None
            if self.unfamiliarity is not None:
                reading = self.unfamiliarity.scores(self._outputs.pop())[0]
            return Seen(prediction, reading)


class Kept:
    """What was made lately, by what it was made from, as long as it all fits.

    Args:
        limit: bytes of all together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V], size: Callable[[V], int]) -> V:
        """The value of a key, made where it is not there; what was not asked for longest goes first."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                found: V = self._entries[key][0]
                return found
        value = make()
        with self._lock:
            _, before = self._entries.pop(key, (None, 0))
            self._entries[key] = value, size(value)
            self.bytes += size(value) - before
            while self.bytes > self.limit and self._entries:
                self.bytes -= self._entries.popitem(last=False)[1][1]
        return value


class Studio:
    """Networks, scenes, and what was seen lately.

    Args:
        paths: of the networks, see `Model`.
        limits: what visitors may ask for.
        device: where the networks compute: auto, cpu, cuda or mps.

    Raises:
        UsageError, DataError, CheckpointError: a network cannot be read.
    """

    def __init__(self, paths: Sequence[Path], *, limits: Limits, device: str = "auto") -> None:
        if not paths:
            raise UsageError("there is no network to show: give folders of runs or files of weights")
        self.limits = limits
        self.models = {
            name: Model(path, name=name, device=device) for name, path in zip(short_names(paths), paths, strict=True)
        }
        self.scenes = street_scenes(scene_size([model.size for model in self.models.values()]))
        self._kept = Kept(KEPT_BYTES)
        for model in self.models.values():  # the first look is slow, and a network that cannot look is told of now
            model.look(self.scenes[0].image)

    def photo(self, source: Path | int, style: str = NO_STYLE, strength: float = 1.0) -> NDArray[np.uint8]:
        """A picture in a style: H×W×3, RGB.

        Args:
            source: an uploaded file, or the number of a scene.
            style: see `STYLE_CHOICES`.
            strength: of the style, 0..1.

        Raises:
            UsageError: there is no such scene or style, or the strength lies outside.
            DataError: the file cannot be read, or is beyond the limits.
        """
        key = self._key(source)
        if style == NO_STYLE:
            return self._kept.get(key, lambda: self._read(source), _nbytes)
        return self._kept.get(
            (key, style, strength), lambda: styled(self.photo(source), style, strength=strength), _nbytes
        )

    def look(self, name: str, source: Path | int, style: str = NO_STYLE, strength: float = 1.0) -> Seen:
        """What a network sees in a picture; arguments and errors as for `photo`.

        Raises:
            UsageError, DataError: there is no such network, or see `photo`.
        """
        model = lookup(name, self.models, "network")
        key = (self._key(source), style, strength if style != NO_STYLE else 0.0, name)
        return self._kept.get(
            key, lambda: model.look(self.photo(source, style, strength)), lambda seen: seen.prediction.class_map.nbytes
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
    # The same network twice is still two networks to look at.
    return [f"{name} ({number})" for number, name in enumerate(("/".join(part[-1:]) for part in parts), start=1)]
