"""Out-of-distribution scores of pixels: how little a network knows what it sees there, from one forward pass."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from spcnet.numerics import at_least_single, without_autocast
from spcnet.types import Network, SegOutput

SCORES = ("max softmax", "max logit", "energy", "entropy", "prototypes", "rba")
"""Names of the scores; `prototypes` takes a network with prototypes, `rba` a mask head."""


def pixel_scores(network: Network, output: SegOutput) -> dict[str, Float[Tensor, "B h w"]]:
    """Scores of each pixel by name, at the size of the logits; higher is farther from what is known.

    `max softmax` (Hendrycks and Gimpel, ICLR 2017) and `max logit` (Hendrycks et al., ICML 2022), both negative; `energy`,
    minus the log-sum of the exponentials (Liu et al., NeurIPS 2020); `entropy` of the softmax in nats; `prototypes`,
    one minus the cosine to the nearest prototype of any class and domain; `rba` (Nayal et al., ICCV 2023), minus the sum of
    the squashed (tanh) scores of the classes, which a mask head gives as sums over its queries.

    Args:
        network: the network, read only.
        output: what it returned.
    """
    logits = at_least_single(output.logits)
    logs = logits.log_softmax(dim=1)
    scores = {
        "max softmax": -logs.amax(dim=1).exp(),
        "max logit": -logits.amax(dim=1),
        "energy": -logits.logsumexp(dim=1),
        "entropy": -(logs.exp() * logs).sum(dim=1),
    }
    prototypes = network.prototypes()
    if prototypes is not None and output.embedding is not None:
        embedding = at_least_single(output.embedding)
        with without_autocast(embedding):
            cosine = torch.einsum("bdhw,pd->bphw", embedding, prototypes.flatten(0, 1).to(embedding.dtype))
        nearest = 1 - cosine.amax(dim=1, keepdim=True)
        size = logits.shape[2:]
        scores["prototypes"] = F.interpolate(nearest, size=size, mode="bilinear", align_corners=True)[:, 0]
    if hasattr(network, "classifier") and network.classifier is None:
        scores["rba"] = -logits.exp().tanh().sum(dim=1)  # the logits of a mask head are the logarithms of its sums
    return scores
