"""Losses of heads that classify masks: matching of queries to classes, cross-entropy and dice at sampled points.

Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation (CVPR 2022), §3.3 and Appendix, for semantic
segmentation: the masks to find are those of the classes that an image has.

An ignored pixel has no weight, in the matching as in the losses. An image without a labelled pixel adds nothing to the
losses.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from spcnet.distributed import Reduce
from spcnet.numerics import at_least_single, without_autocast
from spcnet.types import IGNORE_INDEX, MaskPrediction

CLASS_WEIGHT, BCE_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0
"""Weights of the three losses, and of the three costs in the matching."""
NO_OBJECT = 0.1
"""Weight of a query without a mask in the cross-entropy of the classes."""
OVERSAMPLE, IMPORTANCE = 3, 0.75
"""Candidates per sampled point, and the fraction of the points that are chosen as the most uncertain candidates."""


class MaskLosses(NamedTuple):
    """The three losses, each summed over the predictions."""

    classes: Float[Tensor, ""]
    """Cross-entropy of the queries' classes."""
    bce: Float[Tensor, ""]
    """Binary cross-entropy of the matched masks."""
    dice: Float[Tensor, ""]
    """1 - the dice coefficient of the matched masks."""


class Matches(NamedTuple):
    """N queries and their target classes."""

    image: Int[Tensor, " N"]
    query: Int[Tensor, " N"]
    label: Int[Tensor, " N"]


class Points(NamedTuple):
    """Sampling points, x and y in 0..1; the same for all images and predictions."""

    matching: Float[Tensor, "P 2"]
    """For the matching costs."""
    candidates: Float[Tensor, "P3 2"]
    """Each mask takes the most uncertain of these."""
    others: Float[Tensor, "P4 2"]
    """Every mask takes these as well."""


class Truth(NamedTuple):
    """The labels at N times P points."""

    fraction: Float[Tensor, "N *K P"]
    """Fraction of a point on each class, interpolated between the four nearest pixels."""
    weight: Float[Tensor, "N P"]
    """Fraction of a point on pixels that are not ignored."""


def mask_losses(
    predictions: Sequence[MaskPrediction],
    label: Int[Tensor, "B H W"],
    *,
    num_points: int,
    fixed_queries: bool = False,
    progress: float = 0.0,
    reduce: Reduce = lambda t: t,
) -> MaskLosses:
    """The losses of all predictions of a mask head.

    Sums over the images are divided by the sum of the class weights and by the number of masks. The points are a function of
    `progress`, the same for every micro-batch. So the losses do not depend on the number of processes or micro-batches, and a
    resumed run repeats those of an uninterrupted one.

    Args:
        predictions: of each layer.
        label: class of each pixel, or 255; the masks cover the same area.
        num_points: sampled points per mask.
        fixed_queries: query k stands for class k, and nothing is matched.
        progress: fraction of the run that is done, 0..1.
        reduce: sums over processes, so that the means are those of all.
    """
    num_classes = predictions[0].classes.shape[2] - 1
    present = present_classes(label, num_classes)
    layers = [MaskPrediction(at_least_single(layer.classes), at_least_single(layer.masks)) for layer in predictions]
    points = draw_points(num_points, progress, layers[0].masks)
    with without_autocast(layers[0].masks):
        if fixed_queries:
            image, classes_present = present.nonzero().unbind(1)
            matches = [Matches(image, classes_present, classes_present)] * len(layers)
        else:
            matches = match(layers, label, present, points.matching)
        totals = [_layer_sums(*pair, label, present, points) for pair in zip(layers, matches, strict=True)]
    weights = _class_weights(layers[0].classes, _class_targets(layers[0].classes, matches[0]), present)
    sums = torch.cat([torch.stack(totals).sum(0), torch.stack([weights.sum(), present.sum().to(weights.dtype)])])
    classes, bce, dice, mass, masks = reduce(sums).unbind()
    masks = masks.clamp(min=1)
    return MaskLosses(classes / mass.clamp(min=torch.finfo(mass.dtype).tiny), bce / masks, dice / masks)


def draw_points(num_points: int, progress: float, like: Tensor) -> Points:
    """Points that depend on the progress of the run alone, drawn on the processor.

    Args:
        num_points: sampled points per mask.
        progress: fraction of the run that is done, 0..1.
        like: gives device and type.
    """
    # A fraction of the run is a number of iterations, so that these are different numbers for all of them.
    random = torch.Generator().manual_seed(round(progress * 2**52))
    certain = num_points - int(IMPORTANCE * num_points)
    counts = [num_points, OVERSAMPLE * num_points, certain]
    drawn = torch.rand(sum(counts), 2, generator=random, dtype=torch.float64).to(like.dtype).to(like.device)
    return Points(*torch.split(drawn, counts))


def present_classes(label: Int[Tensor, "B H W"], num_classes: int) -> Bool[Tensor, "B K"]:
    """Which classes each image has."""
    present = torch.zeros(len(label), num_classes + 1, dtype=torch.bool, device=label.device)
    return present.scatter_(1, label.clamp(max=num_classes).flatten(1), True)[:, :num_classes]


@torch.no_grad()
def match(
    predictions: Sequence[MaskPrediction],
    label: Int[Tensor, "B H W"],
    present: Bool[Tensor, "B K"],
    points: Float[Tensor, "P 2"],
) -> list[Matches]:
    """Assign queries to the classes of each image at the least total cost, for each prediction (Hungarian algorithm).

    With fewer queries than classes the costliest classes stay unmatched.

    Args:
        predictions: of each layer.
        label: class of each pixel, or 255.
        present: which classes each image has.
        points: where costs are computed.
    """
    images = torch.arange(len(label), device=label.device)
    truth = classes_at(label, images, points.expand(len(label), -1, -1), torch.arange(present.shape[1]).to(images))
    costs = torch.stack([_costs(prediction, truth, points) for prediction in predictions])
    present_labels = [row.nonzero()[:, 0] for row in present.cpu()]
    matches = []
    # The matching needs finite costs; the loss then is not finite, which the trainer reports.
    for layer in costs.nan_to_num(nan=1e30, posinf=1e30, neginf=-1e30).cpu():
        pairs = [linear_sum_assignment(cost[:, columns]) for cost, columns in zip(layer, present_labels, strict=True)]
        image = torch.cat([torch.full((len(rows),), number) for number, (rows, _) in enumerate(pairs)])
        query = torch.cat([torch.as_tensor(rows, dtype=torch.long) for rows, _ in pairs])
        matched = torch.cat(
            [
                labels[torch.as_tensor(at, dtype=torch.long)]
                for labels, (_, at) in zip(present_labels, pairs, strict=True)
            ]
        )
        matches.append(Matches(*(index.to(label.device) for index in (image, query, matched))))
    return matches


def _costs(prediction: MaskPrediction, truth: Truth, points: Float[Tensor, "P 2"]) -> Float[Tensor, "B Q K"]:
    """Matching cost of each query and class: weighted sum of minus the class probability, binary cross-entropy and dice."""
    logits = sample_shared(prediction.masks, points)
    fraction, weight = truth.fraction.mT, truth.weight[..., None]  # B P K, B P 1
    mass = weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    bce = (-F.logsigmoid(logits) @ weight + logits @ (weight - fraction)) / mass
    inside = logits.sigmoid()
    dice = 1 - (2 * inside @ fraction + 1) / (inside @ weight + fraction.sum(1, keepdim=True) + 1)
    return BCE_WEIGHT * bce + DICE_WEIGHT * dice - CLASS_WEIGHT * prediction.classes.softmax(2)[..., :-1]


def _layer_sums(
    prediction: MaskPrediction,
    matches: Matches,
    label: Int[Tensor, "B H W"],
    present: Bool[Tensor, "B K"],
    points: Points,
) -> Float[Tensor, "3"]:
    """The three losses of one prediction, summed over queries and masks."""
    targets = _class_targets(prediction.classes, matches)
    weights = _class_weights(prediction.classes, targets, present)
    classes = (F.cross_entropy(prediction.classes.mT, targets, reduction="none") * weights).sum()
    masks = prediction.masks[matches.image, matches.query]
    if not len(masks):
        nothing = masks.sum()  # zero, with a gradient of zero
        return torch.stack([classes, nothing, nothing])
    at = uncertain_points(masks.detach(), label, matches.image, points)
    truth = classes_at(label, matches.image, at, matches.label[:, None])
    logits = F.grid_sample(masks[:, None], 2 * at[:, None] - 1, align_corners=False)[:, 0, 0]
    fraction = truth.fraction[:, 0]
    return torch.stack([classes, point_bce(logits, fraction, truth.weight), point_dice(logits, fraction, truth.weight)])


def _class_targets(classes: Float[Tensor, "B Q K1"], matches: Matches) -> Int[Tensor, "B Q"]:
    """Target class of each query; K, "no object", for an unmatched one."""
    targets = torch.full(classes.shape[:2], classes.shape[2] - 1, device=classes.device)
    targets[matches.image, matches.query] = matches.label
    return targets


def _class_weights(
    classes: Float[Tensor, "B Q K1"], targets: Int[Tensor, "B Q"], present: Bool[Tensor, "B K"]
) -> Float[Tensor, "B Q"]:
    """Weight of each query in the cross-entropy of the classes; 0 in an image without a labelled pixel."""
    weights = classes.new_ones(targets.shape).masked_fill(targets == classes.shape[2] - 1, NO_OBJECT)
    return weights * present.any(1, keepdim=True)


def point_bce(
    logits: Float[Tensor, "N P"], fraction: Float[Tensor, "N P"], weight: Float[Tensor, "N P"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of each mask, mean over its points by their weight; summed over the masks.

    Args:
        logits: of the masks at the points.
        fraction: how much of each point lies on the mask, 0..1.
        weight: weight of each point, at least `fraction`; 0 on ignored pixels.
    """
    cost = (weight - fraction) * logits - weight * F.logsigmoid(logits)
    return (cost.sum(1) / weight.sum(1).clamp(min=torch.finfo(weight.dtype).tiny)).sum()


def point_dice(
    logits: Float[Tensor, "N P"], fraction: Float[Tensor, "N P"], weight: Float[Tensor, "N P"]
) -> Float[Tensor, ""]:
    """1 - (2·Σ p·t + 1) / (Σ p + Σ t + 1) of each mask, p its probability at a point and t the truth; summed over the masks.

    Args:
        logits: of the masks at the points.
        fraction: how much of each point lies on the mask, 0..1.
        weight: weight of each point, at least `fraction`; 0 on ignored pixels.
    """
    inside = logits.sigmoid()
    both, either = (inside * fraction).sum(1), (inside * weight).sum(1) + fraction.sum(1)
    return (1 - (2 * both + 1) / (either + 1)).sum()


@torch.no_grad()
def uncertain_points(
    masks: Float[Tensor, "N h w"], label: Int[Tensor, "B H W"], image: Int[Tensor, " N"], points: Points
) -> Float[Tensor, "N P 2"]:
    """Points of each mask: three quarters are its most uncertain candidates, with ignored pixels last.

    Args:
        masks: logits.
        label: class of each pixel, or 255.
        image: index of each mask's image.
        points: the candidates, and the remaining quarter.
    """
    certainty = sample_shared(masks[None], points.candidates)[0].abs()
    images, nothing = torch.arange(len(label), device=label.device), label.new_zeros(0)
    weight = classes_at(label, images, points.candidates.expand(len(label), -1, -1), nothing).weight
    certainty = certainty.masked_fill(weight[image] == 0, torch.inf)
    few = len(points.matching) - len(points.others)
    at = points.candidates[certainty.topk(few, dim=1, largest=False).indices]
    return torch.cat([at, points.others.expand(len(masks), -1, -1)], dim=1)


def sample_shared(masks: Float[Tensor, "B N h w"], points: Float[Tensor, "P 2"]) -> Float[Tensor, "B N P"]:
    """Sample all masks at the same points, bilinear with zero padding."""
    grid = (2 * points - 1).expand(len(masks), 1, -1, -1)
    return F.grid_sample(masks, grid, align_corners=False)[:, :, 0]


def classes_at(
    label: Int[Tensor, "B H W"],
    image: Int[Tensor, " N"],
    points: Float[Tensor, "N P 2"],
    classes: Int[Tensor, "*N K"],
) -> Truth:
    """Sample label maps at points: one-hot masks of classes, interpolated as in `sample_shared`.

    Args:
        label: class of each pixel, or 255.
        image: index of the image of each row of points.
        points: x and y in 0..1.
        classes: classes to sample, the same for all rows or separate for each row.
    """
    height, width = label.shape[1:]
    size = torch.tensor([width, height], dtype=points.dtype, device=points.device)
    low = (points * size - 0.5).floor()
    part = points * size - 0.5 - low
    start = (image * height * width)[:, None]
    queried = classes.expand(len(image), -1)[..., None]
    fraction = points.new_zeros(*queried.shape[:2], points.shape[1])
    ignored, within = points.new_zeros(points.shape[:2]), points.new_zeros(points.shape[:2])
    for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = (low[..., axis].long() + step for axis, step in enumerate((right, down)))
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        labels = label.flatten()[start + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)]
        amount = (part[..., 0] if right else 1 - part[..., 0]) * (part[..., 1] if down else 1 - part[..., 1]) * inside
        fraction += (labels[:, None] == queried) * amount[:, None]
        ignored += (labels == IGNORE_INDEX) * amount
        within += amount
    # Beyond the image there is no class, as in `sample_shared`; the weight is that of the part within the image.
    return Truth(fraction, 1 - ignored / within)
