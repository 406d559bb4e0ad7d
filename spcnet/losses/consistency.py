"""Losses between two views of an image."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from spcnet.distributed import Reduce
from spcnet.numerics import at_least_single


def jensen_shannon(
    first: Float[Tensor, "B K H W"], second: Float[Tensor, "B K H W"], *, reduce: Reduce = lambda t: t
) -> Float[Tensor, ""]:
    """Jensen-Shannon divergence of the class probabilities of two views, mean over the pixels of all; 0..log 2.

    JS = KL(p‖m)/2 + KL(q‖m)/2 with m = (p+q)/2 (Zhao et al., SHADE, ECCV 2022, Eq. 3).

    Args:
        first: class scores of one view.
        second: those of the other.
        reduce: sums over processes and micro-batches.
    """
    p, q = (at_least_single(scores).log_softmax(1) for scores in (first, second))
    middle = torch.logaddexp(p, q) - math.log(2)
    total = ((p.exp() * (p - middle)).sum() + (q.exp() * (q - middle)).sum()) / 2
    sums = reduce(torch.stack([total, total.new_tensor(p.shape[0] * p.shape[2] * p.shape[3])]))
    return sums[0] / sums[1]
