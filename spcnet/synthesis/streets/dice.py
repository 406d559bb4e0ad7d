"""Chance for the drawing of streets: cheap scalar draws that are the same on every machine."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_BLOCK = 2048


class Dice:
    """A stream of scalar random numbers from `numpy.random.default_rng(key)`, drawn in blocks for speed."""

    def __init__(self, *key: int) -> None:
        self._rng = np.random.default_rng(list(key))
        self._numbers: list[float] = []

    def random(self) -> float:
        """A number in [0, 1)."""
        if not self._numbers:
            self._numbers = self._rng.random(_BLOCK).tolist()
        return self._numbers.pop()

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.random()

    def whole(self, low: int, high: int) -> int:
        """A whole number in low..high, both included."""
        return low + int((high - low + 1) * self.random())

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def sign(self) -> int:
        """Either -1 or 1."""
        return 1 if self.random() < 0.5 else -1

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all alike."""
        return options[int(self.random() * len(options))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """One of the keys, each as likely as its weight."""
        left = self.random() * sum(weights.values())
        for option, weight in weights.items():
            left -= weight
            if left < 0:
                return option
        return option

    def array(self, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Numbers in [0, 1) of the given shape."""
        return self._rng.random(shape, dtype=np.float32)
