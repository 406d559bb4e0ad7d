"""Where the numbers of the public reference code lie; tests that need them skip where they are absent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared"
GOLDEN = SHARED / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the reference's numbers are not at {GOLDEN}")


def load(name: str) -> dict[str, torch.Tensor]:
    """One golden file: inputs in float64, results as stored; a Python object, where there was no value, is left out."""
    arrays: dict[str, Any] = {}
    with np.load(GOLDEN / name) as stored:
        for key in stored.files:
            try:
                arrays[key] = stored[key]
            except ValueError:  # it would have to be unpickled
                continue
    return {
        key: torch.from_numpy(np.asarray(value, dtype=np.float64 if value.dtype == np.float32 else value.dtype))
        for key, value in arrays.items()
    }


def settings(name: str) -> dict[str, Any]:
    """What `index.json` says of a golden file."""
    import json

    found: dict[str, Any] = json.loads((GOLDEN / "index.json").read_text())["files"][name]
    return found


def files(pattern: str) -> list[str]:
    """Names of the golden files that match, none where the folder is absent."""
    return sorted(path.name for path in GOLDEN.glob(pattern))
