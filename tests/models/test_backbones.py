"""What holds for every backbone, whatever it is made of."""

import pytest
import torch
from torch import Tensor, nn

from spcnet.errors import UsageError
from spcnet.models.backbones import BACKBONES, Backbone, build_backbone
from spcnet.models.backbones.torchvision import TORCHVISION

SIZES = [(33, 33), (47, 64), (64, 97)]


def built(name: str, output_stride: int = 16) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, output_stride=output_stride)


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Do not change it."""
    return built(request.param).eval()


def image(backbone: Backbone, size: tuple[int, int] = (64, 96), images: int = 2) -> Tensor:
    height, width = (-(-side // backbone.pixel_multiple) * backbone.pixel_multiple for side in size)
    return torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_each_map_has_the_channels_and_the_stride_that_are_stated(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride=output_stride)
        maps = backbone.features(torch.empty(2, 3, 64, 128), backbone.places)
    assert tuple(maps) == backbone.places == tuple(backbone.strides)
    for place, feature in maps.items():
        stride = backbone.strides[place]
        assert feature.shape == (2, backbone.channels[place], 64 // stride, 128 // stride)
    assert list(backbone.strides.values()) == sorted(backbone.strides.values())
    assert backbone.strides[backbone.places[-1]] == output_stride


@pytest.mark.parametrize("size", SIZES)
def test_odd_sizes_give_maps_that_cover_the_image(backbone: Backbone, size: tuple[int, int]) -> None:
    given = image(backbone, size)
    with torch.no_grad():
        maps = backbone.features(given, backbone.places)
    for place, feature in maps.items():
        assert feature.shape[2:] == tuple(-(-side // backbone.strides[place]) for side in given.shape[2:])
        assert bool(feature.isfinite().all())


def test_images_are_normalised_by_numbers_of_three_channels(backbone: Backbone) -> None:
    assert len(backbone.mean) == len(backbone.std) == 3
    assert min(backbone.std) > 0
    assert backbone.pixel_multiple >= 1


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_those_of_torchvision_take_the_package_s_images_as_they_are(name: str) -> None:
    given = torch.empty(1, 3, 33, 51)
    assert build_backbone(name, output_stride=32).prepare(given) is given


def test_a_tap_that_changes_nothing_is_none(backbone: Backbone) -> None:
    seen: list[str] = []

    def tap(place: str, feature: Tensor) -> Tensor:
        seen.append(place)
        return feature

    with torch.no_grad():
        plain = backbone.features(image(backbone), backbone.places)
        tapped = backbone.features(image(backbone), backbone.places, tap)
    assert tuple(seen) == backbone.places
    assert all(torch.equal(plain[place], tapped[place]) for place in backbone.places)


def test_a_tap_changes_the_map_of_its_place_and_those_behind_it(backbone: Backbone) -> None:
    second = backbone.places[1]
    with torch.no_grad():
        plain = backbone.features(image(backbone), backbone.places)
        tapped = backbone.features(
            image(backbone), backbone.places, lambda place, feature: 2 * feature if place == second else feature
        )
    assert torch.equal(tapped[backbone.places[0]], plain[backbone.places[0]])
    assert torch.equal(tapped[second], 2 * plain[second])
    assert not torch.allclose(tapped[backbone.places[-1]], plain[backbone.places[-1]])


def test_only_the_maps_that_are_asked_for_are_kept(backbone: Backbone) -> None:
    wanted = (backbone.places[-1], backbone.places[1])
    with torch.no_grad():
        assert set(backbone.features(image(backbone), wanted)) == set(wanted)


@pytest.mark.parametrize("name", sorted(BACKBONES))
@pytest.mark.parametrize("recompute", [False, True])
def test_every_parameter_learns_and_shapes_are_those_of_evaluation(name: str, recompute: bool) -> None:
    backbone = built(name).train()
    deepest = backbone.places[-1]
    trained = backbone.features(image(backbone), [deepest], recompute=recompute)[deepest]
    trained.square().mean().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    with torch.no_grad():
        assert backbone.eval().features(image(backbone), [deepest])[deepest].shape == trained.shape


def test_recomputed_maps_are_those_that_are_kept(backbone: Backbone) -> None:
    plain = backbone.features(image(backbone), backbone.places)
    again = backbone.features(image(backbone), backbone.places, recompute=True)
    assert all(torch.equal(plain[place], again[place]) for place in backbone.places)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_state_goes_from_one_to_another(name: str) -> None:
    one, other = built(name).eval(), build_backbone(name, output_stride=16).eval()
    other.load_state_dict(one.state_dict())
    deepest = one.places[-1]
    with torch.no_grad():
        assert torch.equal(one.features(image(one), [deepest])[deepest], other.features(image(one), [deepest])[deepest])


def test_every_tensor_has_one_published_name(backbone: Backbone) -> None:
    assert backbone.published.keys() == backbone.state_dict().keys()
    assert len(set(backbone.published.values())) == len(backbone.published)


def test_a_backbone_without_slots_takes_no_norm() -> None:
    plain = Backbone({"stem": 4, "stage1": 8}, {"stem": 2, "stage1": 4})
    with pytest.raises(UsageError, match=r"no slot stem3: leave out model\.norms"):
        plain.put_norm("stem3", nn.InstanceNorm2d)
