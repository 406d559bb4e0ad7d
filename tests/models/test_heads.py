"""What holds for every decoder and every classifier."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from spcnet.config import ClusteringConfig, HeadConfig, ModelConfig
from spcnet.errors import UsageError
from spcnet.methods import METHODS
from spcnet.models.backbones import Backbone
from spcnet.models.heads import CLASSIFIERS, DECODERS
from spcnet.models.heads.base import Decoder
from spcnet.models.heads.conv4 import FourTapDecoder, averaged
from spcnet.models.heads.linear import LinearDecoder
from spcnet.models.heads.segformer import SegformerDecoder

CHANNELS = {"stem": 4, "first": 6, "second": 8, "third": 10, "deep": 12}
PYRAMIDS = {
    "dilated": {"stem": 2, "first": 4, "second": 8, "third": 16, "deep": 16},
    "fine": {"stem": 2, "first": 4, "second": 8, "third": 8, "deep": 8},
    "whole": {"stem": 2, "first": 4, "second": 8, "third": 16, "deep": 32},
    "flat": {"stem": 16, "first": 16, "second": 16, "third": 16, "deep": 16},
}
"""Strides of backbones: a dilated one, one at 8, one as it was pretrained, and a vision transformer without pyramid."""
DEFAULT = HeadConfig()
DENSE = sorted(name for name, decoder in DECODERS.items() if not decoder.masks)


def decoder_of(name: str, *, strides: str = "dilated", config: HeadConfig = DEFAULT) -> Decoder:
    torch.manual_seed(0)
    return DECODERS[name](Backbone(CHANNELS, PYRAMIDS[strides]), 5, config)


def maps(decoder: Decoder, size: tuple[int, int], *, strides: str = "dilated", images: int = 2) -> list[Tensor]:
    """What a decoder reads of an image of this size."""
    sizes = [tuple(-(-side // PYRAMIDS[strides][place]) for side in size) for place in decoder.places]
    return [
        torch.randn(images, CHANNELS[p], *hw, requires_grad=True) for p, hw in zip(decoder.places, sizes, strict=True)
    ]


@pytest.mark.parametrize("size", [(33, 33), (47, 64), (64, 97)])
@pytest.mark.parametrize("strides", PYRAMIDS)
@pytest.mark.parametrize("name", DENSE)
def test_a_decoder_joins_the_maps_that_it_names_at_every_size(name: str, strides: str, size: tuple[int, int]) -> None:
    decoder = decoder_of(name, strides=strides).eval()
    assert set(decoder.places) <= set(CHANNELS)
    read = maps(decoder, size, strides=strides)
    joined = decoder(*read)
    assert joined.shape[:2] == (2, decoder.out_channels)
    if name == "conv4":
        coarsest = min(PYRAMIDS[strides]["third"], 16)
        assert joined.shape[2:] == tuple(-(-side // coarsest) * coarsest // 4 for side in size)
    else:
        assert joined.shape[2:] == max(tuple(feature.shape[2:]) for feature in read)
    assert decoder.train()(*read).shape == joined.shape


@pytest.mark.parametrize("name", DENSE)
def test_every_map_and_every_parameter_of_a_decoder_has_a_gradient(name: str) -> None:
    decoder = decoder_of(name).train()
    read = maps(decoder, (64, 96))
    (decoder(*read) ** 3).mean().backward()  # a norm keeps sum and squares
    assert all(feature.grad is not None and bool(feature.grad.any()) for feature in read)
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in decoder.parameters())


@pytest.mark.parametrize("name", DENSE)
def test_a_decoder_trains_on_one_image_of_the_least_size(name: str) -> None:
    decoder = decoder_of(name).train()
    assert bool(decoder(*maps(decoder, (33, 33), images=1)).isfinite().all())


@pytest.mark.parametrize("name", DENSE)
def test_a_decoder_s_state_goes_from_one_to_another(name: str) -> None:
    one, other = decoder_of(name).eval(), DECODERS[name](Backbone(CHANNELS, PYRAMIDS["dilated"]), 5, HeadConfig())
    other.eval().load_state_dict(one.state_dict())
    read = maps(one, (64, 96))
    assert torch.equal(one(*read), other(*read))


@pytest.mark.parametrize("name", DENSE)
def test_a_decoder_s_maps_are_those_of_each_image_by_itself_in_evaluation(name: str) -> None:
    decoder = decoder_of(name).eval()
    read = maps(decoder, (48, 64))
    with torch.no_grad():
        alone = torch.cat([decoder(*(feature[i : i + 1] for feature in read)) for i in range(2)])
        torch.testing.assert_close(decoder(*read), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_a_classifier_scores_each_cell(name: str) -> None:
    torch.manual_seed(0)
    config = ClusteringConfig(embedding_dim=5)
    one, other = (CLASSIFIERS[name](7, 4, 3, config) for _ in range(2))
    other.load_state_dict(one.state_dict())
    feature = torch.randn(2, 7, 9, 5, requires_grad=True)
    scores, again = (
        result if isinstance(result, Tensor) else result.scores for result in (one(feature), other(feature))
    )
    assert scores.shape == (2, 4, 9, 5)
    assert torch.equal(scores, again)
    (scores**3).sum().backward()  # a layer norm keeps sum and squares
    assert feature.grad is not None
    assert bool(feature.grad.any())
    assert all(parameter.grad is not None for parameter in one.parameters())


# parity ---------------------------------------------------------------------------------------------------------------


def transformers_head() -> SegformerDecodeHead:
    """The head of Hugging Face's library, which keeps the order of the paper, with random values everywhere."""
    read = [channels for place, channels in CHANNELS.items() if place != "stem"]
    config = SegformerConfig(hidden_sizes=read, decoder_hidden_size=16, num_labels=5, classifier_dropout_prob=0.0)
    torch.manual_seed(1)
    head = SegformerDecodeHead(config).double()
    for value in head.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if value.ndim == 1 else value.normal_(0, 0.3)
    return head


def ours_of(theirs: SegformerDecodeHead) -> tuple[SegformerDecoder, nn.Module]:
    """Our decoder and classifier with the values of theirs."""
    decoder = decoder_of("segformer", strides="whole", config=HeadConfig(channels=16, dropout=0)).double()
    classifier = CLASSIFIERS["linear"](16, 5, 1, ClusteringConfig()).double()
    state = {}
    for name, value in theirs.state_dict().items():
        if name.startswith("linear_projections"):
            state[name.replace("linear_projections", "project").replace("proj.", "")] = value
        elif name == "linear_fuse.weight":
            state["fuse.weight"] = value[..., 0, 0]
        elif not name.startswith("classifier"):
            state[name.replace("batch_norm", "norm")] = value
    decoder.load_state_dict(state)
    classifier.load_state_dict({"0.weight": theirs.classifier.weight, "0.bias": theirs.classifier.bias})
    assert isinstance(decoder, SegformerDecoder)
    return decoder, classifier


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(64, 96), (47, 71)])
def test_segformer_s_scores_and_gradients_are_those_of_transformers(size: tuple[int, int], training: bool) -> None:
    theirs = transformers_head().train(training)
    decoder, classifier = ours_of(theirs)
    decoder.train(training)
    read = [feature.detach().double().requires_grad_() for feature in maps(decoder, size, strides="whole")]
    ours, expected = classifier(decoder(*read)), theirs(read)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(expected)
    wanted = [*read, *theirs.parameters()]
    found = [*read, *decoder.project.parameters(), decoder.fuse.weight, *decoder.norm.parameters()]
    found += classifier.parameters()
    gradients = torch.autograd.grad((ours * cotangent).sum(), found)
    for mine, other in zip(gradients, torch.autograd.grad((expected * cotangent).sum(), wanted), strict=True):
        torch.testing.assert_close(mine.squeeze(), other.squeeze(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(decoder.norm.running_var, theirs.batch_norm.running_var)


@pytest.mark.parametrize("strides", ["flat", "whole", "fine"])
def test_conv4_is_one_convolution_of_the_joined_maps_and_two_transposed_ones(strides: str) -> None:
    decoder = decoder_of("conv4", strides=strides, config=HeadConfig(channels=64, dropout=0)).double()
    assert isinstance(decoder, FourTapDecoder)
    read = [feature.double() for feature in maps(decoder, (64, 96), strides=strides)]
    height, width = (side // min(PYRAMIDS[strides]["third"], 16) for side in (64, 96))
    same = [
        F.adaptive_avg_pool2d(feature, (height, width))
        if feature.shape[2] >= height
        else F.interpolate(feature, size=(height, width), mode="bilinear", align_corners=False)
        for feature in read
    ]
    weight = torch.cat([part.weight for part in decoder.join], 1)
    joined = F.group_norm(F.conv2d(torch.cat(same, 1), weight), 32, decoder.norm.weight, decoder.norm.bias).relu()
    steps = [layer for layer in decoder.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert len(steps) == (1 if strides == "fine" else 2)
    for step in steps:
        joined = F.conv_transpose2d(joined, step.weight, step.bias, stride=2)
    torch.testing.assert_close(decoder(*read), joined, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(8, 12), (9, 12), (11, 7)])
def test_cells_are_averaged_as_torch_pools_them(size: tuple[int, int]) -> None:
    feature = torch.randn(2, 3, *size, dtype=torch.double)
    expected = F.avg_pool2d(feature, 4, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(averaged(feature, 4), expected, rtol=1e-12, atol=1e-12)


def test_linear_scores_are_an_affine_function_of_the_deepest_map_cell_by_cell() -> None:
    decoder = decoder_of("linear").double().train()
    assert isinstance(decoder, LinearDecoder)
    decoder.dropout.p = 0.0
    classifier = CLASSIFIERS["linear"](12, 5, 1, ClusteringConfig()).double()
    (deep,) = (feature.detach().double() for feature in maps(decoder, (64, 96)))
    mean, std = deep.mean((0, 2, 3)), (deep.var((0, 2, 3), correction=0) + 1e-5).sqrt()
    weight = classifier[0].weight[:, :, 0, 0] / std
    expected = torch.einsum("kc,bchw->bkhw", weight, deep - mean.view(1, -1, 1, 1)) + classifier[0].bias.view(-1, 1, 1)
    torch.testing.assert_close(classifier(decoder(deep)), expected, rtol=1e-10, atol=1e-10)


# property -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "value"), [("dropout", 0.5), ("channels", 24)])
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_setting_changes_the_decoder_or_is_refused(name: str, setting: str, value: float) -> None:
    model = ModelConfig("resnet18", decoder=name, head=HeadConfig(**{setting: value}), weights=None)
    if setting in DECODERS[name].settings:
        METHODS["deeplabv3plus"].check(model)
        if not DECODERS[name].masks:
            decoder = decoder_of(name, config=model.head)
            drops = [layer.p for layer in decoder.modules() if isinstance(layer, (nn.Dropout, nn.Dropout2d))]
            assert decoder.out_channels == 24 if setting == "channels" else drops == [0.5]
        return
    with pytest.raises(UsageError, match=rf"model\.head\.{setting} is {value}, which the decoder {name} does not read"):
        METHODS["deeplabv3plus"].check(model)


def test_what_reads_a_refused_setting_is_named() -> None:
    model = ModelConfig("resnet18", head=HeadConfig(dropout=0.2), weights=None)
    with pytest.raises(UsageError, match=r"choose a decoder that does \(.*segformer.*\)"):
        METHODS["spcnet"].build(model, num_classes=3, num_domains=2)


@pytest.mark.parametrize("name", DENSE)
def test_the_classifier_starts_as_its_head_s_origin_has_it(name: str) -> None:
    torch.manual_seed(0)
    model = ModelConfig("resnet18", decoder=name, weights=None)
    network = METHODS["deeplabv3plus"].build(model, num_classes=19, num_domains=1)
    assert network.classifier is not None
    (conv,) = network.classifier.children()
    expected = (2 / 256) ** 0.5 if name == "deeplabv3plus" else 0.01
    assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.1)
    assert not bool(conv.bias.any())


@pytest.mark.parametrize("name", DENSE)
def test_scores_come_to_the_size_of_the_image_as_the_decoder_says(name: str) -> None:
    torch.manual_seed(0)
    model = ModelConfig("resnet18", decoder=name, weights=None)
    network = METHODS["deeplabv3plus"].build(model, num_classes=3, num_domains=1).eval()
    assert network.classifier is not None
    scores: list[Tensor] = []
    network.classifier.register_forward_hook(lambda layer, given, found: scores.append(found))
    with torch.no_grad():
        logits = network(torch.randn(1, 3, 64, 96)).logits
    aligned = name == "deeplabv3plus"
    expected = F.interpolate(scores[0], size=(64, 96), mode="bilinear", align_corners=aligned)
    torch.testing.assert_close(logits, expected)
