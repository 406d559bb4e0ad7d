"""Losses that compare class scores with labels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spcnet.types import IGNORE_INDEX


def cross_entropy(logits: Float[Tensor, "B K H W"], label: Int[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over the pixels that are not ignored; zero, with a zero gradient, where all are.

    Sums first and divides last, so that a batch without any labelled pixel gives 0 and not NaN.
    """
    total = F.cross_entropy(
        logits.float() if logits.dtype != torch.float64 else logits, label, ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return total / (label != IGNORE_INDEX).sum().clamp(min=1)
