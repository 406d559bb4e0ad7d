"""What holds for every decoder and every classifier."""

import pytest
import torch
from torch import Tensor

from spcnet.config import ClusteringConfig, HeadConfig
from spcnet.models.backbones import Backbone
from spcnet.models.heads import CLASSIFIERS, DECODERS
from spcnet.models.heads.base import Decoder

CHANNELS = {"stem": 4, "first": 6, "second": 8, "third": 10, "deep": 12}
STRIDES = {"stem": 2, "first": 4, "second": 8, "third": 16, "deep": 16}


def decoder_of(name: str) -> Decoder:
    torch.manual_seed(0)
    return DECODERS[name](Backbone(CHANNELS, STRIDES), 5, HeadConfig())


def maps(decoder: Decoder, size: tuple[int, int], images: int = 2) -> list[Tensor]:
    """What a decoder reads of an image of this size."""
    sizes = [tuple(-(-side // STRIDES[place]) for side in size) for place in decoder.places]
    return [
        torch.randn(images, CHANNELS[p], *hw, requires_grad=True) for p, hw in zip(decoder.places, sizes, strict=True)
    ]


@pytest.mark.parametrize("size", [(33, 33), (47, 64), (64, 97)])
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_decoder_joins_the_maps_that_it_names_at_every_size(name: str, size: tuple[int, int]) -> None:
    decoder = decoder_of(name).eval()
    assert set(decoder.places) <= set(CHANNELS)
    read = maps(decoder, size)
    joined = decoder(*read)
    assert joined.shape[:2] == (2, decoder.out_channels)
    assert joined.shape[2:] == max(tuple(feature.shape[2:]) for feature in read)
    assert decoder.train()(*read).shape == joined.shape


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_every_map_and_every_parameter_of_a_decoder_has_a_gradient(name: str) -> None:
    decoder = decoder_of(name).train()
    read = maps(decoder, (64, 96))
    decoder(*read).square().mean().backward()
    assert all(feature.grad is not None and bool(feature.grad.any()) for feature in read)
    assert all(parameter.grad is not None for parameter in decoder.parameters())


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_decoder_trains_on_one_image_of_the_least_size(name: str) -> None:
    decoder = decoder_of(name).train()
    assert bool(decoder(*maps(decoder, (33, 33), images=1)).isfinite().all())


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_decoder_s_state_goes_from_one_to_another(name: str) -> None:
    one, other = decoder_of(name).eval(), DECODERS[name](Backbone(CHANNELS, STRIDES), 5, HeadConfig()).eval()
    other.load_state_dict(one.state_dict())
    read = maps(one, (64, 96))
    assert torch.equal(one(*read), other(*read))


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
