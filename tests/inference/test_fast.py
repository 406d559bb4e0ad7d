import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spcnet.config import ModelConfig
from spcnet.inference import fast
from spcnet.inference.fast import PackedConv, UpsampledConv, WinogradConv, fold_norms, fused
from spcnet.methods import METHODS
from spcnet.models.backbones import BACKBONES
from spcnet.models.heads.base import resize
from spcnet.types import internals_of


def network(method="spcnet", backbone="mobilenet_v2", *, seed=0):
    """A network whose norms have seen something: fresh ones would fold into nothing."""
    torch.manual_seed(seed)
    built = METHODS[method].build(ModelConfig(backbone, weights=None), num_classes=19, num_domains=2)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return built.eval()


@torch.no_grad()
def difference(plain, quick, image):
    """Largest difference of all that two networks say, each as a part of its largest value."""
    one, other = plain(image), quick(image)
    pairs = [(one.logits, other.logits)]
    one, other = internals_of(one), internals_of(other)
    pairs += [*zip(one.style_weights, other.style_weights, strict=True)]
    pairs += [pair for a, b in zip(one.styles, other.styles, strict=True) for pair in zip(a, b, strict=True)]
    pairs += [(one.embedding, other.embedding)] if one.embedding is not None else []
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_says_the_same_when_it_is_rewritten(method):
    plain = network(method)
    assert difference(plain, fused(plain), torch.randn(2, 3, 72, 104)) < 1e-4


@pytest.mark.parametrize("backbone", sorted(set(BACKBONES) - {"mobilenet_v2", "resnet101"}))
def test_every_backbone_says_the_same_when_it_is_rewritten(backbone):
    plain = network(backbone=backbone)
    assert difference(plain, fused(plain), torch.randn(1, 3, 65, 131)) < 1e-4


@pytest.mark.parametrize("method", ["isw", "ibn", "sw"])
def test_norms_at_the_end_of_a_residual_block_stay_before_its_relu(method):
    plain = network(method, "resnet18")
    assert difference(plain, fused(plain), torch.randn(1, 3, 64, 96)) < 1e-4


@pytest.mark.parametrize("stride", [8, 32])
def test_other_output_strides_say_the_same(stride):
    torch.manual_seed(0)
    model = ModelConfig("resnet18", output_stride=stride, weights=None)
    plain = METHODS["spcnet"].build(model, num_classes=7, num_domains=2).eval()
    assert difference(plain, fused(plain), torch.randn(1, 3, 97, 129)) < 1e-4


@pytest.mark.parametrize("steps", [(), ("fold",), ("fold", "upsampled"), ("winograd",), ("packed",)])
def test_each_rewriting_alone_says_the_same(steps):
    plain = network(backbone="resnet18")
    assert difference(plain, fused(plain, steps=steps), torch.randn(1, 3, 64, 96)) < 1e-4


def test_the_network_itself_stays_as_it_is():
    plain = network("ibn")
    before = copy.deepcopy(plain.state_dict())
    names = [name for name, _ in plain.named_modules()]
    fused(plain)
    assert [name for name, _ in plain.named_modules()] == names
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("backbone", sorted(set(BACKBONES) - {"resnet101"}))
def test_no_batch_norm_is_left_and_every_other_norm_is(backbone):
    plain = network("ibn", backbone)

    def count(net, kind):
        return sum(isinstance(module, kind) for module in net.modules())

    quick = fused(plain)
    assert count(quick, nn.BatchNorm2d) == 0
    assert count(quick, nn.InstanceNorm2d) == count(plain, nn.InstanceNorm2d) > 0


def test_a_norm_that_does_not_follow_a_convolution_stays():
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    ).eval()
    image = torch.randn(1, 3, 8, 8)
    expected = layers(image)
    fold_norms(layers)
    assert [type(layer).__name__ for layer in layers] == ["Conv2d", "ReLU", "BatchNorm2d", "Conv2d", "Identity"]
    assert torch.allclose(layers(image), expected, atol=1e-6)


@settings(deadline=None, max_examples=15)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    rate=st.integers(1, 4),
    images=st.integers(1, 2),
    bias=st.booleans(),
)
def test_winograds_filtering_is_the_convolution(height, width, rate, images, bias):
    conv = nn.Conv2d(5, 6, 3, padding=rate, dilation=rate, bias=bias)
    image = torch.randn(images, 5, height, width)
    with torch.no_grad():
        expected, found = conv(image), WinogradConv(conv)(image)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4)


def test_winograds_filtering_is_used_on_large_maps_and_not_on_small_ones(monkeypatch):
    conv = nn.Conv2d(5, 6, 3, padding=1)
    layer, calls = WinogradConv(conv), []
    monkeypatch.setattr(conv, "forward", lambda image: calls.append(image.shape) or torch.zeros(1, 6, *image.shape[2:]))
    with torch.no_grad():
        layer(torch.zeros(1, 5, 40, 40))
        assert calls == []
        layer(torch.zeros(1, 5, 2, 2))
    assert calls == [(1, 5, 2, 2)]


@settings(deadline=None, max_examples=15)
@given(height=st.integers(1, 9), width=st.integers(1, 9), down=st.integers(1, 33), across=st.integers(1, 33))
def test_a_convolution_before_the_upsampling_is_the_one_after_it(height, width, down, across):
    conv = nn.Conv2d(2 + 3, 4, 3, padding=1)
    fine, coarse = torch.randn(2, 2, down, across), torch.randn(2, 3, height, width)
    with torch.no_grad():
        expected = conv(torch.cat([fine, resize(coarse, (down, across), align_corners=True)], dim=1))
        found = UpsampledConv(conv, fine_channels=2)(coarse, fine)
    assert torch.allclose(found, expected, atol=1e-5)


def test_which_convolutions_are_rewritten_and_how():
    def kinds(*layers):
        net = nn.ModuleList([nn.Sequential(*layers)])
        fast._replace_wide(net)
        fast._replace_convs(net)
        return [type(layer).__name__ for layer in net[0]]

    assert kinds(nn.Conv2d(4, 8, 1), nn.ReLU()) == ["PackedConv", "Identity"]
    assert kinds(nn.Conv2d(4, 8, 1), nn.Identity(), nn.ReLU6()) == ["PackedConv", "Identity", "Identity"]
    assert kinds(nn.Conv2d(4, 8, 1), nn.InstanceNorm2d(8), nn.ReLU()) == ["PackedConv", "InstanceNorm2d", "ReLU"]
    assert kinds(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()) == ["WinogradConv", "ReLU"]
    for narrow in (
        nn.Conv2d(256, 256, 3, padding=1, stride=2),
        nn.Conv2d(256, 256, 3),
        nn.Conv2d(16, 256, 3, padding=1),
        nn.Conv2d(256, 256, 3, padding=6, dilation=6),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
    ):
        assert kinds(narrow) == ["PackedConv"]


@settings(deadline=None, max_examples=20)
@given(
    size=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    later=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    stride=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.sampled_from([1, 3]),
    activation=st.sampled_from([None, nn.ReLU(), nn.ReLU6()]),
    added=st.booleans(),
)
def test_a_packed_convolution_is_the_convolution_at_every_size(size, later, stride, groups, kernel, activation, added):
    conv = nn.Conv2d(4, 8, kernel, stride=stride, padding=kernel // 2, groups=groups)
    nn.init.normal_(conv.weight, std=3)
    packed = PackedConv(conv, activation=activation)
    with torch.no_grad():
        for height, width in (size, later):
            image = torch.randn(2, 4, height, width)
            expected = conv(image)
            shortcut = torch.randn_like(expected) if added and not isinstance(activation, nn.ReLU6) else None
            expected = expected if shortcut is None else expected + shortcut
            expected = expected if activation is None else activation(expected)
            assert torch.allclose(packed(image, shortcut), expected, atol=1e-4)
