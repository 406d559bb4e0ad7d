"""Mask2Former's pixel decoder and its queries."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spcnet.config import HeadConfig
from spcnet.errors import UsageError
from spcnet.models.backbones import Backbone
from spcnet.models.heads import DECODERS
from spcnet.models.heads.mask2former import Mask2FormerDecoder, elsewhere
from spcnet.models.heads.pixel_decoder import PixelDecoder
from spcnet.types import MaskPrediction

CHANNELS, STRIDES = (6, 8, 10, 12), (4, 8, 16, 32)
WIDTH, K, QUERIES = 64, 5, 7


def backbone_of(number: int = 4) -> Backbone:
    """A stem and the last of four maps, or fewer."""
    places = [f"stage{stage}" for stage in range(4)][-number:]
    channels = {"stem": 4, **dict(zip(places, CHANNELS[-number:], strict=True))}
    return Backbone(channels, {"stem": 2, **dict(zip(places, STRIDES[-number:], strict=True))})


def decoder_of(number: int = 4, **settings: Any) -> Mask2FormerDecoder:
    torch.manual_seed(0)
    config = HeadConfig(**{"channels": WIDTH, "queries": QUERIES, "layers": 4, **settings})
    return Mask2FormerDecoder(backbone_of(number), K, config)


def maps(size: tuple[int, int] = (64, 96), number: int = 4, images: int = 2) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    sizes = [tuple(-(-side // stride) for side in size) for stride in STRIDES]
    made = [torch.randn(images, c, *hw, generator=random) for c, hw in zip(CHANNELS, sizes, strict=True)]
    return [feature.requires_grad_() for feature in made[-number:]]


# Our name of each part of the pixel decoder and of the queries' layers, and theirs.
PIXELS = (
    (r"^projections\.", "input_projections."),
    (r"^encoder\.level_embedding$", "level_embed"),
    (r"^encoder\.layers\.(\d+)\.attention\.offsets", r"encoder.layers.\1.self_attn.sampling_offsets"),
    (r"^encoder\.layers\.(\d+)\.attention\.weights", r"encoder.layers.\1.self_attn.attention_weights"),
    (r"^encoder\.layers\.(\d+)\.attention\.value", r"encoder.layers.\1.self_attn.value_proj"),
    (r"^encoder\.layers\.(\d+)\.attention\.out", r"encoder.layers.\1.self_attn.output_proj"),
    (r"^encoder\.layers\.(\d+)\.attention_norm", r"encoder.layers.\1.self_attn_layer_norm"),
    (r"^encoder\.layers\.(\d+)\.norm", r"encoder.layers.\1.final_layer_norm"),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.0", r"encoder.layers.\1.fc1"),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.2", r"encoder.layers.\1.fc2"),
    (r"^laterals\.0", "adapter_1"),
    (r"^smooth\.0", "layer_1"),
    (r"^to_masks", "mask_projection"),
)
QUERY_PARTS = (
    (r"^content$", "queries_features.weight"),
    (r"^positions$", "queries_embedder.weight"),
    (r"^level_embedding$", "level_embed.weight"),
    (r"^layers\.(\d+)\.read\.", r"decoder.layers.\1.cross_attn."),
    (r"^layers\.(\d+)\.read_norm", r"decoder.layers.\1.cross_attn_layer_norm"),
    (r"^layers\.(\d+)\.exchange\.out_proj", r"decoder.layers.\1.self_attn.out_proj"),
    (r"^layers\.(\d+)\.exchange_norm", r"decoder.layers.\1.self_attn_layer_norm"),
    (r"^layers\.(\d+)\.feed_forward\.0", r"decoder.layers.\1.fc1"),
    (r"^layers\.(\d+)\.feed_forward\.2", r"decoder.layers.\1.fc2"),
    (r"^layers\.(\d+)\.norm", r"decoder.layers.\1.final_layer_norm"),
    (r"^norm", "decoder.layernorm"),
    (r"^to_mask\.0", "decoder.mask_predictor.mask_embedder.0.0"),
    (r"^to_mask\.2", "decoder.mask_predictor.mask_embedder.1.0"),
    (r"^to_mask\.4", "decoder.mask_predictor.mask_embedder.2.0"),
)


def randomised(module: nn.Module) -> None:
    """Random values everywhere: what starts at zero would hide a difference."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))


def copied(ours: nn.Module, theirs: nn.Module, names: tuple[tuple[str, str], ...]) -> set[str]:
    """Load our tensors into theirs by name; returns what of ours has no counterpart."""
    state, left = theirs.state_dict(), set()
    for name, value in ours.state_dict().items():
        if split := re.match(r"^layers\.(\d+)\.exchange\.in_proj_(weight|bias)$", name):
            for part, own in zip("qkv", value.chunk(3), strict=True):
                state[f"decoder.layers.{split[1]}.self_attn.{part}_proj.{split[2]}"] = own
            continue
        match = next((other for pattern, new in names if (other := re.sub(pattern, new, name)) in state), None)
        if match is None:
            left.add(name)
        else:
            assert state[match].shape == value.shape
            state[match] = value
    theirs.load_state_dict(state)
    return left


def config_of_theirs(module: Any) -> Any:
    return module.Mask2FormerConfig(
        feature_size=WIDTH,
        mask_feature_size=WIDTH,
        hidden_dim=WIDTH,
        encoder_feedforward_dim=1024,
        encoder_layers=6,
        dim_feedforward=2048,
        num_attention_heads=8,
        decoder_layers=5,  # counts the predictions
        num_queries=QUERIES,
        dropout=0.0,
        feature_strides=list(STRIDES),
        common_stride=4,
    )


def test_the_pixel_decoder_computes_what_transformers_does() -> None:
    module = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    ours = PixelDecoder(CHANNELS, WIDTH).double()
    theirs = module.Mask2FormerPixelDecoder(config_of_theirs(module), list(CHANNELS)).double()
    randomised(ours)
    assert copied(ours, theirs, PIXELS) == set()
    read = [feature.detach().double() for feature in maps((72, 100))]
    found, expected = ours(*read), theirs(read, output_attentions=False, output_hidden_states=False, return_dict=True)
    torch.testing.assert_close(found.fine, expected.mask_features, rtol=1e-9, atol=1e-9)
    for one, other in zip(found.levels, expected.multi_scale_features, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_the_queries_compute_what_transformers_does(training: bool) -> None:
    module = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    ours = decoder_of().double().train(training)
    theirs = module.Mask2FormerTransformerModule(WIDTH, config_of_theirs(module)).double().eval()
    randomised(ours)
    left = copied(ours, theirs, QUERY_PARTS)
    assert {name.partition(".")[0] for name in left} == {"pixels", "to_class"}
    read = [feature.detach().double() for feature in maps((72, 100))]
    pixels = ours.pixels(*read)
    found = ours(*read)
    expected = theirs(list(pixels.levels), pixels.fine, output_hidden_states=True)
    wanted = expected.masks_queries_logits if training else expected.masks_queries_logits[-1:]
    states = expected.intermediate_hidden_states if training else expected.intermediate_hidden_states[-1:]
    assert len(found) == (5 if training else 1)
    for one, masks, state in zip(found, wanted, states, strict=True):
        torch.testing.assert_close(one.masks, masks, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(one.classes, ours.to_class(state.transpose(0, 1)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("attention", [True, False])
def test_pyramids_of_fewer_maps_have_masks_at_the_size_of_the_finest(number: int, attention: bool) -> None:
    decoder, read = decoder_of(number, pixel_decoder=attention).train(), maps(number=number)
    found = decoder(*read)
    assert len(found) == 5
    assert all(one.masks.shape == (2, QUERIES, *read[0].shape[2:]) for one in found)
    assert all(one.classes.shape == (2, QUERIES, K + 1) for one in found)


@pytest.mark.parametrize("attention", [True, False])
def test_every_map_and_every_parameter_has_a_gradient(attention: bool) -> None:
    decoder, read = decoder_of(pixel_decoder=attention).train(), maps()
    randomised(decoder)
    torch.autograd.backward([part.square().mean() for one in decoder(*read) for part in one])
    assert all(feature.grad is not None and bool(feature.grad.any()) for feature in read)
    assert [name for name, own in decoder.named_parameters() if own.grad is None] == []


def test_without_pixel_decoder_there_is_less_of_it() -> None:
    whole, plain = (
        sum(p.numel() for p in decoder_of(pixel_decoder=attention).pixels.parameters()) for attention in (True, False)
    )
    assert plain < whole / 10


def test_a_query_whose_mask_is_empty_reads_everything_and_others_read_where_theirs_is() -> None:
    embeddings = torch.eye(2)[None]
    cells = torch.tensor([[[1.0, -1, 0], [-1, -2, -3]]])
    assert elsewhere(embeddings, cells).tolist() == [[[False, True, False], [False, False, False]]]


def test_there_is_a_query_for_each_class_where_they_are_fixed() -> None:
    config = HeadConfig(channels=WIDTH, layers=1, fixed_queries=True)
    (found,) = DECODERS["mask2former"](backbone_of(), K, config).eval()(*maps())
    assert isinstance(found, MaskPrediction)
    assert found.classes.shape == (2, K, K + 1)


def test_what_weight_decay_leaves_alone_are_the_queries_and_the_levels() -> None:
    decoder = decoder_of()
    expected = {"content", "positions", "level_embedding", "pixels.encoder.level_embedding"}
    assert decoder.embeddings() == expected
    assert expected <= {name for name, _ in decoder.named_parameters()}


def test_what_makes_no_sense_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"model\.head\.channels is 100.*multiple of 32"):
        decoder_of(channels=100)
    with pytest.raises(UsageError, match=r"model\.head\.queries is 7.*fixed_queries"):
        decoder_of(fixed_queries=True)
