"""What every test process starts from, whatever started it."""

import os
import signal
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest
import torch

from spcnet.data import streets

# One thread for each: on a busy machine several wait for each other longer than they compute.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # and for the programs that the tests start

# A shell lets what it starts in the background ignore Ctrl-C; the programs that the tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _streets_are_drawn_once() -> Iterator[None]:
    """Many tests want the same few streets, and drawing them is a third of their time.

    What a test imports by name, `from spcnet.data.streets import generate`, is drawn anew each time.
    """
    draw = streets.generate

    @lru_cache(maxsize=512)
    def drawn(index: int, style: str, seed: int, size: tuple[int, int]) -> streets.Scene:
        return draw(index, style=style, seed=seed, size=size)

    def generate(index: int, *, style: str, seed: int = 0, size: tuple[int, int] = (128, 256)) -> streets.Scene:
        scene = drawn(index, style, seed, (size[0], size[1]))
        return streets.Scene(*(np.copy(part) for part in (scene.image, scene.label, scene.depth)))

    streets.generate = generate
    yield
    streets.generate = draw
