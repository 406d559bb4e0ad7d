"""Style projection against the reference's numbers, and what it must never do."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from spcnet.errors import UsageError
from spcnet.models.style import (
    VARIANCE_EPS,
    Distance,
    StyleProjection,
    restyle,
    style_distance,
    style_stats,
    style_weights,
)
from spcnet.types import StyleStats
from tests import golden
from tests.support.devices import mixed, near, rounded

EXACT = {"rtol": 0.0, "atol": 1e-9}
DISTANCES: tuple[Distance, ...] = ("was", "abs", "kl")


def layer_of(mean: Tensor, std: Tensor, **options: object) -> StyleProjection:
    layer = StyleProjection(len(mean), mean.shape[1], **options).to(mean)  # type: ignore[arg-type]
    layer.base_mean.copy_(mean)
    layer.base_std.copy_(std)
    return layer


def random_layer(
    device: str, seed: int = 0, *, domains: int = 3, channels: int = 4, **options: object
) -> StyleProjection:
    dice = torch.Generator().manual_seed(seed)
    mean = torch.randn(domains, channels, generator=dice, dtype=torch.double)
    std = 0.5 + torch.rand(domains, channels, generator=dice, dtype=torch.double)
    return layer_of(mean.to(device), std.to(device), **options)


def random_feature(device: str, *shape: int, seed: int = 1) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=dice, dtype=torch.double) + 0.5).to(device)


def agree(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, **EXACT)


def single(ours: Tensor, theirs: Tensor) -> None:
    """For files that hold single precision only."""
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


# golden ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", golden.files("style_[!o]*.npz"))
def test_projection_and_update_agree_with_the_reference(file: str, device: str) -> None:
    given, said = golden.load(file, device), golden.settings(file)
    layer = layer_of(
        given["base_mu"],
        given["base_sig"],
        distance=said["distance"],
        channel_wise=said["per_channel"],
        momentum=said["momentum"],
    )
    domain = torch.arange(said["N"], device=device) // said["images_per_source"]
    layer.eval()
    agree(layer(given["x"]).feature, given["y_eval__f64"])
    layer.train()
    image = given["x"].requires_grad_()
    first = layer(image)
    agree(first.stats.mean, given["mu__f64"])
    agree(first.stats.std, given["sig__f64"])
    agree(first.feature, given["y_train__f64"])
    (gradient,) = torch.autograd.grad((given["w"] * first.feature).sum(), image)
    agree(gradient, given["gx__f64"])
    layer.update(first.stats, domain)
    agree(layer.base_mean, given["base_mu_after__f64"])
    agree(layer.base_std, given["base_sig_after__f64"])
    second = layer(given["x2"])
    agree(second.feature, given["y_train2__f64"])
    layer.update(second.stats, domain)
    agree(layer.base_mean, given["base_mu_after2__f64"])
    agree(layer.base_std, given["base_sig_after2__f64"])


@pytest.mark.parametrize("file", golden.files("style_odd_*.npz"))
def test_absent_domains_stay_where_the_reference_writes_nan(file: str, device: str) -> None:
    given, said = golden.load(file, device), golden.settings(file)
    layer = layer_of(given["base_mu"], given["base_sig"], momentum=said["momentum"])
    result = layer(given["x"])
    single(result.feature, given["y_train__f32"])
    domain = torch.arange(said["N"], device=device) // said["images_per_source"]
    known = domain < said["M"]  # the reference leaves images beyond the last source out of the update
    if not known.all():
        with pytest.raises(UsageError, match=r"the network knows the domains 0\.\.1"):
            layer.update(result.stats, domain)
        agree(layer.base_mean, given["base_mu"])
    layer.update(StyleStats(result.stats.mean[known], result.stats.std[known]), domain[known])
    lost = said["rows_nan_after_step"]
    kept = [m for m in range(said["M"]) if m not in lost]
    for ours, before, after in (
        (layer.base_mean, given["base_mu"], given["base_mu_after__f32"]),
        (layer.base_std, given["base_sig"], given["base_sig_after__f32"]),
    ):
        assert bool(after[lost].isnan().all())
        single(ours[kept], after[kept])
        agree(ours[lost], before[lost])
    second = layer(given["x2"]).feature
    assert bool(second.isfinite().all())
    if not said["second_output_all_nan"]:
        single(second, given["y_train2__f32"])


@pytest.mark.parametrize("file", golden.files("style_official_*.npz"))
def test_the_divisor_of_the_official_inference_code_is_available(file: str, device: str) -> None:
    given = golden.load(file, device)
    closest, other = (
        (layer_of(given["base_mu"], given["base_sig"], correction=c)(given["x"]).feature - given["y"]).abs().max()
        for c in (0, 1)
    )
    assert closest < 5e-6  # computed and stored in single precision
    assert other > 100 * closest


# parity ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_those_of_the_normal_distributions(distance: Distance, device: str) -> None:
    layer, feature = random_layer(device), random_feature(device, 2, 4, 3, 5)
    stats = style_stats(feature)
    found = style_distance(stats, layer.base_mean, layer.base_std, distance=distance)
    for b, m, c in itertools.product(range(2), range(3), range(4)):
        cells = feature[b, c].flatten()
        mu, sigma = cells.mean(), ((cells - cells.mean()).square().sum() / (len(cells) - 1) + VARIANCE_EPS).sqrt()
        base = torch.distributions.Normal(layer.base_mean[m, c], layer.base_std[m, c])
        expected = {
            "was": (mu - base.mean) ** 2 + sigma**2 + base.stddev**2 - 2 * sigma * base.stddev,
            "abs": (mu / sigma - base.mean / base.stddev).abs(),
            "kl": torch.distributions.kl_divergence(torch.distributions.Normal(mu, sigma), base),
        }[distance]
        agree(found[b, m, c], expected)


def test_an_unknown_distance_is_refused(device: str) -> None:
    stats = style_stats(random_feature(device, 1, 4, 2, 2))
    with pytest.raises(UsageError, match="unknown style distance 'cosine': known are was, abs, kl"):
        style_distance.__wrapped__(
            stats, torch.zeros(1, 4, device=device), torch.ones(1, 4, device=device), distance="cosine"
        )  # type: ignore[attr-defined]


def test_a_map_of_a_single_cell_has_no_variance(device: str) -> None:
    stats = style_stats(torch.tensor([[[[3.0]], [[-1.0]]]], device=device))
    assert stats.mean.tolist() == [[3.0, -1.0]]
    torch.testing.assert_close(stats.std, torch.full((1, 2), VARIANCE_EPS**0.5, device=device))


def test_statistics_of_half_precision_are_taken_in_single(device: str) -> None:
    feature = (100 + torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))).to(device).bfloat16()
    stats = style_stats(feature)
    assert stats.mean.dtype == torch.float32
    torch.testing.assert_close(stats.mean, feature.double().mean((2, 3)).float())


@pytest.mark.parametrize("mode", ["projection", "normalization", "substitution"])
def test_in_each_precision_style_and_update_are_those_of_double(mode: str, device: str, dtype: torch.dtype) -> None:
    exact, domain = random_layer(device, mode=mode), torch.tensor([0, 1, 1], device=device)
    layer = layer_of(exact.base_mean.float(), exact.base_std.float(), mode=mode)
    feature, same = rounded(random_feature(device, 3, 4, 9, 8), dtype)
    with mixed(device, dtype):
        ours = layer(feature)
        layer.update(ours.stats, domain)
    theirs = exact(same)
    exact.update(theirs.stats, domain)
    assert ours.feature.dtype == dtype
    assert layer.base_mean.dtype == ours.stats.mean.dtype == torch.float32
    near(ours.feature, theirs.feature, dtype)
    for name in ("base_mean", "base_std"):
        near(getattr(layer, name), getattr(exact, name), torch.float32, within=16)


# property -------------------------------------------------------------------------------------------------------------

MODES = ("projection", "normalization", "substitution")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_forward_does_not_change_the_layer(mode: str, training: bool, device: str) -> None:
    layer = random_layer(device, mode=mode).train(training)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    first, second = layer(random_feature(device, 2, 4, 5, 5)), layer(random_feature(device, 2, 4, 5, 5))
    assert torch.equal(first.feature, second.feature)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert not list(layer.parameters())


@pytest.mark.parametrize("channel_wise", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_weights_sum_to_one_and_favour_the_near(distance: Distance, channel_wise: bool, device: str) -> None:
    layer = random_layer(device, distance=distance, channel_wise=channel_wise)
    result = layer(random_feature(device, 5, 4, 6, 6))
    assert result.weights is not None
    assert result.weights.shape == ((5, 3, 4) if channel_wise else (5, 3))
    agree(result.weights.sum(1), torch.ones_like(result.weights.sum(1)))
    distances = style_distance(result.stats, layer.base_mean, layer.base_std, distance=distance)
    distances = distances if channel_wise else distances.mean(2)
    assert torch.equal(result.weights.argsort(1, descending=True), distances.argsort(1))


def test_sharpness_widens_the_weights_and_one_is_the_paper(device: str) -> None:
    distance = torch.tensor([[0.0, 1e9]], dtype=torch.double, device=device)
    agree(style_weights(distance), torch.softmax(torch.tensor([[1.0, 0.0]], dtype=torch.double, device=device), dim=1))
    assert style_weights(distance, sharpness=10)[0, 0] > 0.9999


def test_channel_wise_weighs_each_channel_by_its_own_distance(device: str) -> None:
    mean = torch.tensor([[0.0, 5.0], [5.0, 0.0]], dtype=torch.double, device=device)
    layer = layer_of(mean, torch.ones(2, 2, dtype=torch.double, device=device), channel_wise=True)
    feature = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    weights = layer(feature.to(device)).weights
    assert weights is not None
    assert weights[0, 0, 0] > weights[0, 1, 0]
    assert weights[0, 1, 1] > weights[0, 0, 1]


def test_substitution_gives_each_image_the_style_of_the_nearest_base(device: str) -> None:
    layer = random_layer(device, mode="substitution")
    mean, std = layer.base_mean[[2, 0]], layer.base_std[[2, 0]]
    feature = random_feature(device, 2, 4, 9, 9)
    near = restyle(feature, style_stats(feature), mean + 0.01, std)
    result = layer(near)
    assert result.weights is not None
    assert result.weights.tolist() == [[0, 0, 1], [1, 0, 0]]
    after = style_stats(result.feature)
    torch.testing.assert_close(after.mean, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(after.std, std, rtol=0, atol=1e-5)


def test_normalization_gives_mean_zero_and_deviation_one(device: str) -> None:
    result = random_layer(device, mode="normalization")(random_feature(device, 3, 4, 7, 5))
    assert result.weights is None
    torch.testing.assert_close(
        result.feature.mean((2, 3)), torch.zeros(3, 4, dtype=torch.double, device=device), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        result.feature.std((2, 3)), torch.ones(3, 4, dtype=torch.double, device=device), rtol=0, atol=1e-5
    )


def test_projected_images_have_the_weighted_style(device: str) -> None:
    layer = random_layer(device)
    result = layer(random_feature(device, 3, 4, 7, 5))
    assert result.weights is not None
    after = style_stats(result.feature)
    torch.testing.assert_close(after.mean, result.weights @ layer.base_mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(after.std, result.weights @ layer.base_std, rtol=0, atol=1e-5)


def test_a_flat_map_stays_finite(device: str) -> None:
    for mode, distance in itertools.product(MODES, DISTANCES):
        result = random_layer(device, mode=mode, distance=distance)(
            torch.zeros(1, 4, 3, 3, dtype=torch.double, device=device)
        )
        assert bool(result.feature.isfinite().all())


@examples(max_examples=30, deadline=None)
@given(domains=st.lists(st.integers(0, 3), min_size=1, max_size=7), seed=st.integers(0, 1000))
def test_batch_order_does_not_matter_and_absent_domains_stay(domains: list[int], seed: int, device: str) -> None:
    dice = torch.Generator().manual_seed(seed)
    feature, domain = random_feature(device, len(domains), 3, 2, 4, seed=seed), torch.tensor(domains, device=device)
    one, other = (random_layer(device, domains=4, channels=3) for _ in range(2))
    before = one.base_mean.clone(), one.base_std.clone()
    order = torch.randperm(len(domains), generator=dice).to(device)
    one.update(one(feature).stats, domain)
    other.update(other(feature[order]).stats, domain[order])
    for ours, shuffled, old, stat in zip(
        (one.base_mean, one.base_std),
        (other.base_mean, other.base_std),
        before,
        style_stats(feature),
        strict=True,
    ):
        torch.testing.assert_close(ours, shuffled, rtol=0, atol=1e-12)
        for m in range(4):
            images = [stat[i] for i, d in enumerate(domains) if d == m]
            expected = 0.9 * old[m] + 0.1 * torch.stack(images).mean(0) if images else old[m]
            torch.testing.assert_close(ours[m], expected, rtol=0, atol=1e-12)


def test_two_processes_that_sum_equal_one(device: str) -> None:
    feature, domain = random_feature(device, 5, 4, 3, 3), torch.tensor([0, 1, 1, 2, 0], device=device)
    whole = random_layer(device)
    whole.update(style_stats(feature), domain)
    shares = [slice(0, 2), slice(2, 5)]
    sent: list[Tensor] = []
    for share in shares:  # what each would send
        random_layer(device).update(style_stats(feature[share]), domain[share], reduce=lambda t: sent.append(t) or t)
    for share in shares:
        part = random_layer(device)
        part.update(style_stats(feature[share]), domain[share], reduce=lambda t: torch.stack(sent).sum(0))
        torch.testing.assert_close(part.base_mean, whole.base_mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(part.base_std, whole.base_std, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strange", [3, -1])
def test_a_domain_that_the_layer_does_not_know_is_refused_and_nothing_changes(strange: int, device: str) -> None:
    layer = random_layer(device)
    before = layer.base_mean.clone()
    with pytest.raises(UsageError, match=r"the network knows the domains 0\.\.2"):
        layer.update(style_stats(random_feature(device, 2, 4, 3, 3)), torch.tensor([0, strange], device=device))
    assert torch.equal(layer.base_mean, before)


# gradcheck ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_gradient_takes_the_images_own_statistics_as_constants(mode: str, distance: Distance, device: str) -> None:
    layer, feature = random_layer(device, mode=mode, distance=distance), random_feature(device, 2, 4, 3, 3)
    fixed = layer(feature)
    if fixed.weights is None:
        mean, std = torch.zeros_like(fixed.stats.mean), torch.ones_like(fixed.stats.std)
    else:
        mean, std = fixed.weights @ layer.base_mean, fixed.weights @ layer.base_std
    assert torch.autograd.gradcheck(lambda x: restyle(x, fixed.stats, mean, std), feature.clone().requires_grad_())
    image = feature.requires_grad_()
    (gradient,) = torch.autograd.grad(layer(image).feature.sum(), image)
    agree(gradient, (std / fixed.stats.std)[..., None, None].expand_as(gradient))


@pytest.mark.parametrize("mean", [3.0, 30.0])
def test_half_precision_moves_no_channel_s_mean(mean: float) -> None:
    """A shift that is rounded to bfloat16 would move all cells the same way, by up to 2⁻⁹ of the mean."""
    random = torch.Generator().manual_seed(0)
    feature = (mean + torch.randn(4, 32, 64, 64, generator=random)).bfloat16()
    own = style_stats(feature)
    nothing = torch.zeros_like(own.mean)
    restyled = restyle(feature, own, nothing, nothing + 1)
    assert restyled.dtype == torch.bfloat16
    assert float(restyled.double().mean((2, 3)).abs().max()) < 0.002
    rounded = torch.addcmul(
        (-own.mean / own.std)[..., None, None].bfloat16(), feature, (1 / own.std)[..., None, None].bfloat16()
    )
    assert float(rounded.double().mean((2, 3)).abs().max()) > 0.004 * mean
