"""Under autocast what is derived from features stays in single precision; and what half precision would make of it."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spcnet.config import LossConfig, ModelConfig
from spcnet.losses.clustering import class_sums, compactness_loss, discrimination_loss, image_sums
from spcnet.losses.segmentation import cross_entropy
from spcnet.losses.whitening import covariance, whitening_loss
from spcnet.methods import METHODS
from spcnet.models.heads.prototypes import PrototypeHead, unit
from spcnet.models.pseudo import StyleClusters
from spcnet.models.style import StyleProjection, style_distance, style_stats, style_weights
from spcnet.models.whitening import SwitchableWhitening
from spcnet.numerics import at_least_single
from spcnet.types import Batch, StyleStats

HALF = torch.bfloat16
NUM_CLASSES, NUM_DOMAINS = 4, 2


def half_autocast() -> torch.autocast:
    return torch.autocast("cpu", HALF)


def features(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(HALF)


def sums_of(embedding: Tensor) -> tuple[Tensor, ...]:
    label = torch.arange(embedding.shape[1]).expand(embedding.shape[:2]) % NUM_CLASSES
    domain = torch.arange(len(embedding)) % NUM_DOMAINS
    prototypes = unit(torch.randn(NUM_CLASSES, NUM_DOMAINS, embedding.shape[2]))
    images = image_sums(embedding, label, domain, prototypes)
    classes = class_sums(images, domain, num_domains=NUM_DOMAINS)
    losses = compactness_loss(classes), discrimination_loss(classes, prototypes)
    return (*images, *classes, *losses)


def styles_of(feature: Tensor) -> tuple[Tensor, ...]:
    stats, base = style_stats(feature), torch.rand(NUM_DOMAINS, feature.shape[1]) + 0.5
    distances = [style_distance(stats, base, base, distance=name) for name in ("was", "abs", "kl")]
    return (*stats, *distances, style_weights(distances[0]))


DERIVED: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    "style": lambda: styles_of(features(2, 8, 6, 6)),
    "embedding and scores": lambda: tuple(PrototypeHead(NUM_CLASSES, NUM_DOMAINS)(features(2, 256, 3, 3))),
    "clustering": lambda: sums_of(features(2, 16, 8)),
    "covariance": lambda: (
        covariance(features(2, 8, 6, 6)),
        whitening_loss(features(2, 8, 6, 6), torch.ones(8, 8, dtype=torch.bool).triu(1)),
    ),
    "cross-entropy": lambda: tuple(
        cross_entropy(features(2, NUM_CLASSES, 6, 6), torch.zeros(2, 6, 6, dtype=torch.long), border=border)
        for border in (0, 1)
    ),
}


@pytest.mark.parametrize("what", sorted(DERIVED))
def test_what_is_derived_from_half_precision_features_is_in_single_precision(what: str) -> None:
    with half_autocast():
        for number, value in enumerate(DERIVED[what]()):
            assert value.dtype == torch.float32, number


@pytest.mark.parametrize("method", ["deeplabv3plus", "isw", "spcnet", "sw"])
def test_losses_and_updates_under_autocast_are_those_without(method: str) -> None:
    """From one output of the network, in half precision as autocast leaves it."""
    torch.manual_seed(0)
    model = ModelConfig("shufflenet_v2", weights=None, auxiliary_weight=0.4, loss=LossConfig(border=1))
    network = METHODS[method].build(model, num_classes=NUM_CLASSES, num_domains=NUM_DOMAINS).train()
    for layer in network.whitening_layers:
        layer.mask.fill_(True).triu_(1)
    label = torch.arange(NUM_CLASSES).repeat_interleave(16).expand(2, 48, 64).contiguous()
    batch = Batch(torch.randn(2, 3, 48, 64), label, torch.tensor([1, 0]), ("a", "b"))
    with half_autocast():
        output = network(batch.image)
    before = {name: value.clone() for name, value in network.named_buffers()}
    found = []
    for enabled in (False, True):
        network.load_state_dict(before, strict=False)
        with torch.autocast("cpu", HALF, enabled=enabled):
            result = METHODS[method].losses(network, output, batch, model)
            METHODS[method].update(network, result, progress=0.5)
        assert result.loss.dtype == torch.float32
        assert {part.dtype for part in result.parts.values()} == {torch.float32}
        found.append((result.loss, {name: value.clone() for name, value in network.named_buffers()}))
    assert torch.equal(found[0][0], found[1][0])
    for name, value in found[0][1].items():
        assert value.dtype in (torch.float32, torch.long, torch.bool), name
        assert torch.equal(found[1][1][name], value), name


def test_centres_of_styles_move_alike_under_autocast() -> None:
    stats = StyleStats(torch.full((2, 4), 1.001), torch.full((2, 4), 0.3337))
    centres = []
    for enabled in (False, True):
        clusters = StyleClusters(NUM_DOMAINS, 4)
        with torch.autocast("cpu", HALF, enabled=enabled):
            clusters.update(stats, torch.tensor([0, 1]))
        centres.append(torch.cat([clusters.mean, clusters.std]))
    assert torch.equal(centres[0], centres[1])


def test_switchable_whitening_inverts_in_single_precision() -> None:
    torch.manual_seed(0)
    one = torch.randn(2, 1, 12, 12)
    feature = (one + 0.05 * torch.randn(2, 16, 12, 12)).to(HALF)  # channels that nearly go together
    layer = SwitchableWhitening(16, iterations=5).train()
    with half_autocast():
        found = layer(feature)
    exact = SwitchableWhitening(16, iterations=5).double().train()(feature.double())
    assert found.dtype == HALF
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.02)
    in_half = SwitchableWhitening(16, iterations=5).to(HALF).train()._whiten(feature)
    assert not torch.allclose(in_half.double(), exact, rtol=0.1, atol=0.1)


def test_half_precision_cannot_tell_cosines_near_one_apart() -> None:
    """A pixel four degrees from one class and three from the other: a tie in bfloat16, which the first wins."""
    angle = torch.deg2rad(torch.tensor([4.0, 3.0]))[:, None]
    pixel, across = torch.tensor([1.0, -1.0]) / 2**0.5, torch.tensor([1.0, 1.0]) / 2**0.5
    prototypes = angle.cos() * pixel + angle.sin() * across
    in_half = prototypes.to(HALF) @ pixel.to(HALF)
    assert in_half[0] == in_half[1]
    head = PrototypeHead(2, 1, in_channels=2, embedding_dim=2)
    head.projection = nn.Sequential()
    head.prototypes.copy_(prototypes[:, None])
    with half_autocast():
        found = head(torch.tensor([2.0, 0.0], dtype=HALF).view(1, 2, 1, 1))  # the layer norm makes it `pixel`
    assert int(found.scores.argmax(1)) == 1


@given(low=st.floats(0.5, 2), step=st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_a_style_mean_lies_between_the_values_that_half_precision_knows(low: float, step: int) -> None:
    """Cells of two neighbouring bfloat16 values: their mean is neither, and another image's style is told from it."""
    first = torch.tensor(low).to(HALF)
    second = (first.view(torch.int16) + step).view(HALF)
    feature = torch.stack([first, second]).repeat(1, 2048).view(1, 1, 64, 64)
    exact = (first.double() + second.double()) / 2
    with half_autocast():
        stats = style_stats(feature)
    assert float(stats.mean) == pytest.approx(float(exact), rel=1e-6)
    assert float(stats.std) == pytest.approx(float((feature.double().var() + 1e-6).sqrt()), rel=1e-5)


def test_half_precision_loses_the_spread_of_a_style() -> None:
    """Cells of 10 and 10.0625: the mean of the squares minus the square of the mean is zero in bfloat16."""
    feature = torch.tensor([10.0, 10.0625]).repeat(2048).view(1, 1, 64, 64).to(HALF)
    assert float(feature.square().mean() - feature.mean().square()) != pytest.approx(0.03125**2, rel=0.5)
    with half_autocast():
        assert float(style_stats(feature).std) == pytest.approx((0.03125**2 + 1e-6) ** 0.5, rel=1e-3)


def test_half_precision_counts_no_further_than_256() -> None:
    pixels = features(1, 1000, 8)
    label = torch.zeros(1, 1000, dtype=torch.long)
    member = torch.ones(1000, dtype=HALF)
    counted = torch.zeros((), dtype=HALF)
    for one in member:
        counted += one
    assert float(counted) == 256
    with half_autocast():
        sums = image_sums(pixels, label, torch.zeros(1, dtype=torch.long), torch.randn(2, 1, 8))
    assert float(sums.pixels[0, 0]) == 1000
    torch.testing.assert_close(sums.total[0, 0].double(), pixels[0].double().sum(0), rtol=1e-5, atol=1e-4)


def test_a_slow_moving_average_would_stand_still_in_half_precision() -> None:
    """Momentum 0.999, from 1 towards 0.9: in bfloat16 each step rounds back to 1."""
    stuck = torch.ones((), dtype=HALF)
    for _ in range(100):
        stuck = 0.999 * stuck + 0.001 * torch.tensor(0.9, dtype=HALF)
    assert float(stuck) == 1
    layer = StyleProjection(1, 2, momentum=0.999)
    layer.base_mean.fill_(1.0)
    stats = StyleStats(torch.full((1, 2), 0.9), torch.full((1, 2), 0.9))
    with half_autocast():
        for _ in range(100):
            layer.update(stats, torch.tensor([0]))
    expected = 0.9 + 0.1 * 0.999**100
    assert layer.base_mean.tolist() == [[pytest.approx(expected, rel=1e-5)] * 2]


def test_prototypes_move_by_the_thousandth_that_they_should() -> None:
    head = PrototypeHead(1, 1, in_channels=4, embedding_dim=2, momentum=0.999)
    head.prototypes.copy_(torch.tensor([[[1.0, 0.0]]]))
    towards = unit(torch.tensor([1.0, 0.2])).expand(1, 300, 2)
    with half_autocast():
        sums = image_sums(
            towards.to(HALF), torch.zeros(1, 300, dtype=torch.long), torch.zeros(1, dtype=torch.long), head.prototypes
        )
        classes = class_sums(sums, torch.zeros(1, dtype=torch.long), num_domains=1)
        head.update(classes)
    expected = unit(0.999 * torch.tensor([1.0, 0.0]) + 0.001 * unit(classes.total[0, 0]))
    torch.testing.assert_close(head.prototypes[0, 0], expected, rtol=1e-6, atol=1e-7)
    assert 0 < float(head.prototypes[0, 0, 1]) < 3e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_doubles_stay_doubles(dtype: torch.dtype) -> None:
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    value = torch.ones(2, dtype=dtype)
    assert at_least_single(value).dtype == wanted
    if dtype == wanted:
        assert at_least_single(value) is value
