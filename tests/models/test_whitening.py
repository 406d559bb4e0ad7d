"""Norm slots of the backbones, and switchable whitening."""

import pytest
import torch
from torch import nn

from spcnet.errors import UsageError
from spcnet.methods import build_model
from spcnet.models.backbones import BACKBONES, backbone_info, build_backbone
from spcnet.models.backbones.torchvision import NormedBlock
from spcnet.models.norm_slots import fill_slots, slots_of, slots_of_codes
from spcnet.models.whitening import Kind, SwitchableWhitening, instance_norm, inverse_root
from tests.support.devices import mixed, near, rounded


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@pytest.mark.parametrize("method", ["ibn", "is", "sw"])
def test_every_backbone_trains_with_every_norm(method: str, backbone: str, device: str) -> None:
    network = build_model(method, backbone=backbone, num_classes=3, output_stride=32).train().to(device)
    network(torch.randn(2, 3, 64, 64, device=device)).logits.square().sum().backward()
    norms = [m for m in network.modules() if isinstance(m, (nn.InstanceNorm2d, SwitchableWhitening))]
    assert len(norms) == len(backbone_info(backbone).norm_slots)
    for norm in norms:
        assert all(p.grad is not None and bool(p.grad.any()) for p in norm.parameters())


def test_a_slot_normalises_what_leaves_its_block(device: str) -> None:
    backbone = build_backbone("resnet18", output_stride=32)
    fill_slots(backbone, {"layer1": "is"})
    backbone.to(device)
    block = backbone.layer1[-1]  # type: ignore[index]
    assert isinstance(block, NormedBlock)
    seen: list[torch.Tensor] = []
    block.norm.register_forward_hook(lambda layer, given, out: seen.append(out.clone()))
    out = block(3 + torch.randn(2, 64, 9, 7, device=device))
    torch.testing.assert_close(seen[0].mean((2, 3)), torch.zeros(2, 64, device=device), atol=1e-4, rtol=0)
    assert torch.equal(out, seen[0].relu())


def test_codes_names_and_the_stem_say_the_same() -> None:
    info = backbone_info("resnet50")
    codes = slots_of([0, 0, 4, 4, 2, 0, 0], info)
    assert codes == slots_of({"stem3": "ibn", "layer1": "ibn", "layer2": "isw"}, info)
    assert codes == slots_of({"stem": "ibn", "layer1": "ibn", "layer2": "isw"}, info)
    assert slots_of({"stem": "is"}, backbone_info("resnet101")) == {"stem1": "is", "stem2": "is"}


@pytest.mark.parametrize("codes", [[], [0] * 6, [0, 0, 6, 0, 0, 0, 0], [0, 0, -1, 0, 0, 0, 0]])
def test_codes_that_make_no_sense_are_refused(codes: list[int]) -> None:
    with pytest.raises(UsageError, match="seven codes"):
        slots_of_codes(codes)


@pytest.mark.parametrize(
    ("norms", "said"),
    [({"stem": "ibm"}, "Did you mean 'ibn'"), ({"layer9": "ibn"}, "unknown slot 'layer9'")],
)
def test_unknown_slots_and_kinds_are_answered_with_the_known(norms: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        slots_of(norms, backbone_info("resnet18"))


@pytest.mark.parametrize("backbone", [name for name in sorted(BACKBONES) if "stem1" not in BACKBONES[name].norm_slots])
def test_a_slot_that_a_backbone_lacks_is_an_error(backbone: str) -> None:
    built = build_backbone(backbone, output_stride=32)
    with pytest.raises(UsageError, match="no slot stem1: its stem has stem3 alone"):
        fill_slots(built, {"stem1": "is"})


def test_whitened_groups_have_the_unit_covariance(device: str) -> None:
    torch.manual_seed(0)
    layer = SwitchableWhitening(32, iterations=11, eps=0.0).double().to(device)
    layer.sw_mean_weight.data = layer.sw_var_weight.data = torch.tensor(
        [-50.0, 50.0], device=device
    ).double()  # the image's alone
    feature = torch.randn(3, 32, 12, 11, device=device).double()
    feature = feature + 0.3 * feature.roll(1, dims=1)
    white = layer(feature).reshape(3, 2, 16, -1)
    found = white @ white.transpose(2, 3) / white.shape[3]
    torch.testing.assert_close(found, torch.eye(16, device=device).double().expand_as(found), atol=1e-3, rtol=0)


def test_the_running_moments_are_those_of_the_batch(device: str) -> None:
    torch.manual_seed(0)
    layer = SwitchableWhitening(16, momentum=0.0).double().train().to(device)
    feature = 2 + torch.randn(4, 16, 5, 6, device=device).double()
    layer(feature)
    cells = feature.transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean[0, :, 0], cells.mean(1))
    torch.testing.assert_close(layer.running_cov[0], torch.cov(cells, correction=0))
    before = layer.running_cov.clone()
    layer.eval()(feature)
    assert torch.equal(before, layer.running_cov)


def test_the_inverse_root_is_one(device: str) -> None:
    torch.manual_seed(0)
    factor = torch.randn(2, 5, 4, 90, device=device).double()
    matrix = factor @ factor.transpose(2, 3)
    root = inverse_root(matrix, iterations=10)
    torch.testing.assert_close(
        root @ matrix @ root, torch.eye(4, device=device).double().expand_as(matrix), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize(("channels", "group"), [(64, 16), (24, 12), (116, 4), (232, 8), (7, 7)])
def test_groups_are_as_large_as_the_channels_allow(channels: int, group: int, device: str) -> None:
    layer = SwitchableWhitening(channels).to(device)
    assert layer.running_cov.shape == (channels // group, group, group)
    assert layer(torch.randn(2, channels, 4, 4, device=device)).shape == (2, channels, 4, 4)


def test_a_covariance_is_inverted_in_single_precision_whatever_the_run_has(device: str) -> None:
    """Channels that nearly go together: in half precision Newton's iteration leaves them so."""
    dice = torch.Generator().manual_seed(0)
    common = torch.randn(2, 1, 20, 20, generator=dice)
    feature = common + 0.1 * torch.randn(2, 16, 20, 20, generator=dice)
    feature = feature.to(device)
    layer = SwitchableWhitening(16).train().requires_grad_(False).to(device)
    expected = layer(feature)
    with torch.autocast(device, torch.bfloat16):
        found = layer(feature)
        rounded = layer(feature.bfloat16())
    assert torch.equal(found, expected)
    assert rounded.dtype == torch.bfloat16
    # What is left is the rounding of input and output themselves.
    torch.testing.assert_close(rounded.float(), layer(feature.bfloat16().float()), rtol=2**-7, atol=2**-7)
    with torch.autocast(device, torch.bfloat16):
        rough = layer._whiten(feature.bfloat16())
    assert float((rough.float() - expected).square().mean().sqrt()) > 0.1 * float(expected.std())


@pytest.mark.parametrize("kind", ["isw", "ibn", "sw"])
def test_in_each_precision_a_norm_and_its_gradient_are_those_of_double(
    kind: Kind, device: str, dtype: torch.dtype
) -> None:
    exact = instance_norm(kind, 16).double().to(device).train()
    layer = instance_norm(kind, 16).to(device).train()
    layer.load_state_dict(exact.state_dict())
    feature, same = rounded(torch.randn(2, 16, 9, 8, generator=torch.Generator().manual_seed(0)).to(device), dtype)
    feature.requires_grad_(), same.requires_grad_()
    with mixed(device, dtype):
        ours = layer(feature)
    theirs = exact(same)
    near(ours, theirs, dtype, within=16)
    near(
        *(torch.autograd.grad(out.square().sum(), x)[0] for out, x in ((ours, feature), (theirs, same))),
        dtype,
        within=64,
    )
