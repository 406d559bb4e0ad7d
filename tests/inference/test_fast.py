import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spcnet.config import ModelConfig
from spcnet.inference.fast import UpsampledConv, fold_norms, fused
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


@pytest.mark.parametrize("steps", [(), ("fold",), ("fold", "upsampled")])
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
@given(height=st.integers(1, 9), width=st.integers(1, 9), down=st.integers(1, 33), across=st.integers(1, 33))
def test_a_convolution_before_the_upsampling_is_the_one_after_it(height, width, down, across):
    conv = nn.Conv2d(2 + 3, 4, 3, padding=1)
    fine, coarse = torch.randn(2, 2, down, across), torch.randn(2, 3, height, width)
    with torch.no_grad():
        expected = conv(torch.cat([fine, resize(coarse, (down, across), align_corners=True)], dim=1))
        found = UpsampledConv(conv, fine_channels=2)(coarse, fine)
    assert torch.allclose(found, expected, atol=1e-5)
