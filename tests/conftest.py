"""What every test process starts from, whatever started it."""

import os
import signal
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import filelock
import jaxtyping
import numpy as np
import pytest
import torch

CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
PACKAGE = Path(__file__).parents[1] / "spcnet"
UNCHECKED = "streets"
"""Not checked at each call: drawing a street takes more than five times as long with it. `tests/test_checked_types.py` checks it."""


def checked_modules() -> list[str]:
    """The package's modules and packages, whose types and shapes are checked at every call."""
    found = [path for folder in (PACKAGE, PACKAGE / "synthesis") for path in folder.iterdir()]
    names = [
        path.relative_to(PACKAGE.parent).with_suffix("") for path in found if path.suffix == ".py" or path.is_dir()
    ]
    left_out = ("__init__", "__main__", "synthesis", UNCHECKED)
    return sorted(".".join(name.parts) for name in names if name.name not in left_out and name.name[:2] != "__")


# Before anything of the package is imported: what is, stays unchecked.
jaxtyping.install_import_hook(checked_modules(), CHECKER)

from spcnet.synthesis import streets  # noqa: E402
from tests.support import devices  # noqa: E402

# One thread for each: on a busy machine several wait for each other longer than they compute.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # and for the programs that the tests start

# A shell lets what it starts in the background ignore Ctrl-C; the programs that the tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first the tests whose runs are forks: a process that has computed gradients cannot be forked to train."""
    items.sort(key=lambda item: "test_nothing_lost" not in item.nodeid)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """See `tests.support.devices`."""
    devices.parametrize(metafunc)


@pytest.fixture(scope="session", autouse=True)
def _streets_are_drawn_once() -> Iterator[None]:
    """Many tests want the same few streets, and drawing them is a third of their time.

    What a test imports by name, `from spcnet.synthesis.streets import generate`, is drawn again each time.
    """
    draw = streets.generate

    @lru_cache(maxsize=512)
    def drawn(index: int, style: str, seed: int, size: tuple[int, int], unknown: bool) -> streets.Scene:
        return draw(index, style=style, seed=seed, size=size, unknown=unknown)

    def generate(
        index: int, *, style: str, seed: int = 0, size: tuple[int, int] = (128, 256), unknown: bool = False
    ) -> streets.Scene:
        scene = drawn(index, style, seed, (size[0], size[1]), unknown)
        return streets.Scene(*(np.copy(part) for part in (scene.image, scene.label, scene.depth)))

    streets.generate = generate
    yield
    streets.generate = draw


@pytest.fixture(scope="session", autouse=True)
def _auto_compiles_nothing() -> Iterator[None]:
    """What takes the engine by itself takes torch: compiling would take seconds in each of hundreds of tests.

    `tests/inference/engines` sets it back.
    """
    from spcnet.inference import engines

    before, engines.PREFERRED = engines.PREFERRED, ("fused", "torch")
    yield
    engines.PREFERRED = before


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the finished runs `spcnet` and `deeplabv3plus`, trained once for all test processes: copy before you change."""
    from tests.support import tiny

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny-runs"
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            tiny.write_runs(folder)
    return folder
