"""Numbers of the public reference code. The small ones lie in this folder; eighteen more networks may lie beside the project."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parent
"""Stored values that come with the project: without them the parity tests fail."""
NETWORKS = GOLDEN / "networks"
SHARED = GOLDEN.parents[2] / "shared"
MORE = SHARED / "golden"
"""The whole collection, which is too large for the project."""
needs_more = pytest.mark.skipif(not MORE.is_dir(), reason=f"the reference's other networks are not at {MORE}")


def load(name: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """One golden file on a device: inputs in float64, results as stored; a Python object, where there was no value, is left out."""
    arrays: dict[str, Any] = {}
    with np.load(GOLDEN / name) as stored:
        for key in stored.files:
            try:
                arrays[key] = stored[key]
            except ValueError:  # it would have to be unpickled
                continue
    return {
        key: torch.from_numpy(np.asarray(value, np.float64 if value.dtype == np.float32 else value.dtype)).to(device)
        for key, value in arrays.items()
    }


@cache
def _index() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((GOLDEN / "index.json").read_text())["files"]
    return found


def settings(name: str) -> dict[str, Any]:
    """What `index.json` says of a golden file."""
    return _index()[name]


def files(pattern: str) -> list[str]:
    """Names of the golden files that match.

    Raises:
        FileNotFoundError: there is none. A parametrised test without parameters would only be skipped.
    """
    found = sorted(path.name for path in GOLDEN.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no golden file {GOLDEN / pattern}: the checkout is incomplete")
    return found


def networks() -> list[Any]:
    """Names of the reference's networks; those that do not come with the project are skipped where they are absent."""
    own = sorted(path.stem for path in NETWORKS.glob("*.safetensors"))
    if not own:
        raise FileNotFoundError(f"no network in {NETWORKS}: the checkout is incomplete")
    more = sorted({path.stem for path in (MORE / "networks").glob("*.safetensors")} - {*own})
    return [*own, *(more or [pytest.param("the others", marks=needs_more)])]


def network_file(name: str) -> Path:
    """Logits of one of the reference's networks."""
    own = NETWORKS / f"{name}.safetensors"
    return own if own.is_file() else MORE / "networks" / own.name


@cache
def network_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of one of the reference's networks, by its name there."""
    for folder in (NETWORKS, MORE / "networks"):
        stored = json.loads((folder / "keys.json").read_text())
        if name in stored:
            return {key: tuple(shape) for key, shape in stored[name]}
    raise KeyError(name)
