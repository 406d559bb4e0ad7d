"""What is never computed in half precision: statistics, distances, sums over pixels, moving averages, losses.

bfloat16 has eight significant bits: it counts to 256, knows no cosine between 0.996 and 1, and a moving average with
momentum 0.999 stands still in it. So convolutions run in the precision of the run, and what is derived from their
results in at least single precision.
"""

import torch
from torch import Tensor


def at_least_single(value: Tensor) -> Tensor:
    """The value itself in single or double precision; a half-precision one in single precision."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def without_autocast(value: Tensor) -> torch.autocast:
    """Within this, matrix products on the value's device keep the precision of their factors."""
    return torch.autocast(value.device.type, enabled=False)
