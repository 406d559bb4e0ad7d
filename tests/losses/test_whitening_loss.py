"""The whitening losses and the selection of covariances against the reference's numbers."""

import pytest
import torch
import torch.nn.functional as F

from spcnet.losses.whitening import covariance, whitening_loss
from spcnet.models.whitening import InstanceWhitening, sensitive
from tests import golden
from tests.support.devices import mixed, near, rounded


@pytest.mark.parametrize("file", golden.files("isw_loss_*.npz"))
def test_the_loss_and_its_gradient_agree_with_the_reference(file: str, device: str) -> None:
    told = golden.load(file, device)
    feature = F.instance_norm(told["x"]).requires_grad_()
    torch.testing.assert_close(feature, told["z__f64"], rtol=0, atol=1e-9)
    torch.testing.assert_close(covariance(feature), told["cov__f64"], rtol=0, atol=1e-9)
    mask = told["mask"].bool()
    assert int(mask.sum()) == int(told["count"])
    loss = whitening_loss(feature, mask, margin=float(told["margin"]))
    torch.testing.assert_close(loss, told["loss__f64"], rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(loss, feature)
    torch.testing.assert_close(gradient, told["g_z__f64"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("file", golden.files("isw_select_*.npz"))
def test_the_released_selection_agrees_with_the_reference(file: str, device: str) -> None:
    told, said = golden.load(file, device), golden.settings(file)
    layer = InstanceWhitening(said["C"], selective=True).double().to(device)
    trials = told["pairs"].split(said["pairs_per_trial"])
    assert len(trials) == said["trials"]
    for number, pairs in enumerate(trials):
        layer.observe(covariance(pairs.flatten(0, 1)))
        torch.testing.assert_close(
            layer.variance / layer.pairs, told["var_mean"][number], rtol=0, atol=1e-7
        )  # stored in single precision
        layer.select(clusters=said["clusters"], relax=int(said["relax_denominator"]), legacy=True)
        assert torch.equal(layer.mask, told["mask_trials"][number].bool())
    assert torch.equal(layer.mask, told["mask_sel"].bool())
    assert int(layer.trials) == said["trials"]


def test_the_relaxed_margin_agrees_with_the_reference() -> None:
    for channels, relax, margin, count, ones in golden.load("irw_settings.npz")["table"].long().tolist():
        layer = InstanceWhitening(channels, relax=relax)
        assert (layer.margin, int(layer.mask.sum())) == (margin, ones)
        assert count == ones


def test_the_default_selection_looks_above_the_diagonal_alone(device: str) -> None:
    variance = torch.zeros(6, 6, device=device)
    above = torch.ones(6, 6, dtype=torch.bool, device=device).triu(1)
    variance[above] = torch.tensor([5.0, 5, 5, *[2] * 10, 9, 9], device=device)
    assert torch.equal(sensitive(variance, clusters=3), variance >= 5)
    # To the released code the zeros below the diagonal are the lowest cluster: it takes what hardly varies, too.
    assert torch.equal(sensitive(variance, clusters=3, legacy=True), above)
    assert int(sensitive(variance, relax=3).sum()) == 5
    assert not bool((sensitive(variance, clusters=50) & ~above).any())


def test_no_mask_no_loss_but_a_graph(device: str) -> None:
    feature = torch.randn(2, 4, 5, 5, device=device, requires_grad=True)
    loss = whitening_loss(feature, torch.zeros(4, 4, dtype=torch.bool, device=device))
    loss.backward()
    assert float(loss.detach()) == 0
    assert feature.grad is not None
    assert not bool(feature.grad.any())


def test_half_precision_features_are_multiplied_in_single(device: str) -> None:
    feature = F.instance_norm(torch.randn(1, 3, 40, 40, device=device))
    mask = torch.ones(3, 3, dtype=torch.bool, device=device).triu(1)
    with torch.autocast(device, torch.bfloat16):
        loss = whitening_loss(feature.bfloat16(), mask)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, whitening_loss(feature.bfloat16().float(), mask))


def test_in_each_precision_the_loss_and_its_gradient_are_those_of_double(device: str, dtype: torch.dtype) -> None:
    dice = torch.Generator().manual_seed(0)
    exact = F.instance_norm(torch.randn(2, 5, 9, 8, generator=dice, dtype=torch.double)).to(device).requires_grad_()
    feature, same = rounded(exact, dtype)
    mask = torch.ones(5, 5, dtype=torch.bool, device=device).triu(1)
    with mixed(device, dtype):
        ours = whitening_loss(feature, mask)
    theirs = whitening_loss(same, mask)
    assert ours.dtype == torch.float32
    near(ours, theirs, torch.float32, within=16)
    near(*(torch.autograd.grad(loss, x)[0] for loss, x in ((ours, feature), (theirs, same))), dtype)


def test_two_processes_select_what_one_selects(device: str) -> None:
    torch.manual_seed(0)
    covariances = covariance(F.instance_norm(torch.randn(12, 5, 6, 6, device=device)))
    whole, *parts = (InstanceWhitening(5, selective=True).to(device) for _ in range(3))
    whole.observe(covariances)
    parts[0].observe(covariances[:4])
    parts[1].observe(covariances[4:])
    sums = sum(torch.cat([part.variance.flatten(), part.pairs[None]]) for part in parts)
    assert isinstance(sums, torch.Tensor)
    whole.select(clusters=2)
    for part in parts:
        part.select(clusters=2, reduce=lambda value: sums)
        assert torch.equal(part.mask, whole.mask)
