"""The devices and precisions that the tests of losses, layers and updates run on.

A test that takes `device` runs on each, one that takes `device` and `dtype` in each precision there. `pytest -m gpu` selects those on a
GPU, which skip where there is none.
"""

from typing import Any

import pytest
import torch

_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured: this machine has no GPU for PyTorch"),
)
DEVICES = (pytest.param("cpu", id="cpu"), pytest.param("cuda", marks=_GPU, id="cuda"))
PRECISIONS = (
    pytest.param("cpu", torch.float32, id="cpu-float32"),
    pytest.param("cpu", torch.bfloat16, id="cpu-bfloat16"),
    *(pytest.param("cuda", dtype, marks=_GPU, id=f"cuda-{str(dtype)[6:]}")
      for dtype in (torch.float32, torch.bfloat16, torch.float16)),
)  # fmt: skip


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Give a test the devices, or devices and precisions, that it asks for."""
    if {"device", "dtype"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("device", "dtype"), PRECISIONS)
    elif "device" in metafunc.fixturenames:
        metafunc.parametrize("device", DEVICES)


def mixed(device: str, dtype: torch.dtype) -> Any:
    """The autocast under which a run in this precision computes; none for single precision."""
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


def rounded(exact: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor in a precision, and the same numbers in double: what is left of a difference is the computation's."""
    coarse = exact.detach().to(dtype)
    return coarse.requires_grad_(exact.requires_grad), coarse.detach().double().requires_grad_(exact.requires_grad)


def near(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype, *, within: float = 4) -> None:
    """Agreement within so many roundings of the precision, of each number or of the largest."""
    found, exact, error = found.detach(), exact.detach(), within * torch.finfo(dtype).eps
    torch.testing.assert_close(
        found.double(), exact.double(), rtol=error, atol=error * max(1.0, float(exact.abs().max()))
    )
