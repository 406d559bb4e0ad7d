"""What holds for every family of timm's models as backbones: one small variant of each."""

from collections.abc import Callable
from functools import cache

import pytest
import timm
import torch
from torch import Tensor

from spcnet.config import FeaturesConfig
from spcnet.errors import UsageError
from spcnet.models.backbones import Backbone, build_backbone

FAMILIES = {
    "resnet": "resnet18",
    "resnext": "resnext26ts",
    "regnet": "regnetx_002",
    "efficientnet": "efficientnet_b0",
    "efficientnet lite": "tf_efficientnet_lite0",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv4": "mobilenetv4_conv_small_035",
    "hrnet": "hrnet_w18_small",
    "densenet": "densenet121",
    "dpn": "dpn48b",
    "convnext": "convnext_atto",
    "convnextv2": "convnextv2_atto",
    "convnext of dinov3": "convnext_tiny.dinov3_lvd1689m",
    "swin": "swin_tiny_patch4_window7_224",
    "swinv2": "swinv2_tiny_window8_256",
    "pvtv2": "pvt_v2_b0",
    "fastvit": "fastvit_t8",
    "edgenext": "edgenext_xx_small",
    "hiera": "hiera_tiny_224",
    "sam2": "sam2_hiera_tiny",
    "repvit": "repvit_m0_9",
    "mobileone": "mobileone_s0",
    "poolformer": "poolformerv2_s12",
    "inception-next": "inception_next_atto",
    "davit": "davit_tiny",
    "maxvit": "maxvit_rmlp_pico_rw_256",
    "vit": "vit_tiny_patch16_224",
    "dinov2": "vit_small_patch14_dinov2",
    "dinov2 with registers": "vit_small_patch14_reg4_dinov2",
    "dinov3": "vit_small_patch16_dinov3",
    "eva02": "eva02_tiny_patch14_224",
    "sam": "samvit_base_patch16",
}
"""A name in timm for each family."""
HEAVY = {
    "hrnet",
    "densenet",
    "dpn",
    "convnext of dinov3",
    "swin",
    "swinv2",
    "hiera",
    "sam2",
    "poolformer",
    "davit",
    "maxvit",
    "sam",
}
NAMES = [
    pytest.param(name, id=family, marks=[pytest.mark.slow] if family in HEAVY else [])
    for family, name in FAMILIES.items()
]


@cache
def backbone_of(name: str) -> Backbone:
    """In evaluation; do not change it."""
    torch.manual_seed(0)
    return build_backbone(f"timm/{name}", output_stride=None).eval()


def image(backbone: Backbone, size: tuple[int, int] = (33, 65), images: int = 2) -> Tensor:
    return backbone.prepare(torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_odd_images_have_the_channels_and_the_stride_that_are_told(name: str) -> None:
    backbone = backbone_of(name)
    for size in ((33, 33), (47, 64)):
        given = image(backbone, size, 1)
        with torch.no_grad():
            maps = backbone.features(given, backbone.places)
        assert tuple(maps) == backbone.places == tuple(backbone.strides) == tuple(backbone.channels)
        for place, feature in maps.items():
            cells = tuple(-(-side // backbone.strides[place]) for side in given.shape[2:])
            assert feature.shape == (1, backbone.channels[place], *cells)
            assert bool(feature.isfinite().all())
    strides = [backbone.strides[place] for place in backbone.pyramid]
    assert strides == sorted(strides)
    assert len(strides) == 4
    assert set(backbone.style_places) <= set(backbone.places)


@pytest.mark.parametrize("name", NAMES)
def test_a_tap_sees_each_place_once_and_changes_what_lies_behind_it(name: str) -> None:
    backbone, seen = backbone_of(name), []
    given = image(backbone)
    first = backbone.style_places[0]

    def tap(place: str, feature: Tensor) -> Tensor:
        seen.append(place)
        assert feature.shape[1] == backbone.channels[place]
        return feature.flip(3) if place == first else feature

    with torch.no_grad():
        plain, tapped = backbone.features(given, backbone.places), backbone.features(given, backbone.places, tap)
        same = backbone.features(given, backbone.places, lambda place, feature: feature)
    assert tuple(seen) == backbone.places
    assert all(torch.equal(plain[place], same[place]) for place in backbone.places)
    if first not in backbone.pyramid:
        assert torch.equal(tapped[first], plain[first].flip(3))
    assert not torch.allclose(tapped[backbone.pyramid[-1]], plain[backbone.pyramid[-1]])


@pytest.mark.parametrize("name", NAMES)
def test_image_and_parameters_learn_through_taps(name: str) -> None:
    backbone = build_backbone(f"timm/{name}", output_stride=None).train()
    given = image(backbone).requires_grad_()
    maps = backbone.features(given, backbone.pyramid, lambda place, feature: feature * 1.5)
    sum(feature.square().mean() for feature in maps.values()).backward()  # type: ignore[union-attr]
    assert given.grad is not None
    assert float(given.grad.abs().max()) > 0
    assert [key for key, value in backbone.named_parameters() if value.requires_grad and value.grad is None] == []
    kept = backbone_of(name).features(given.detach(), backbone.pyramid)
    assert {place: feature.shape for place, feature in maps.items()} == {p: f.shape for p, f in kept.items()}


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_has_a_depth_and_each_tensor_its_name_in_timm(name: str) -> None:
    backbone = backbone_of(name)
    assert backbone.depths().keys() == {key for key, _ in backbone.named_parameters()}
    assert sorted(set(backbone.depths().values())) == list(range(max(backbone.depths().values()) + 1))
    assert backbone.embeddings() <= backbone.depths().keys()
    assert backbone.published.keys() == backbone.state_dict().keys()
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
    assert len(set(backbone.published.values())) == len(backbone.published)
    assert set(backbone.published.values()) <= whole.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_state_goes_from_one_to_another(name: str) -> None:
    one, other = backbone_of(name), build_backbone(f"timm/{name}", output_stride=None).eval()
    other.load_state_dict(one.state_dict())
    deepest = one.pyramid[-1]
    with torch.no_grad():
        assert torch.equal(one.features(image(one), [deepest])[deepest], other.features(image(one), [deepest])[deepest])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_exported_graph_answers_alike(name: str) -> None:
    backbone = backbone_of(name)
    given = image(backbone)

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            tapped = self.backbone.features(image, self.backbone.pyramid, lambda place, feature: feature * 1.5)
            return tuple(tapped.values())

    graph = torch.export.export(Maps(), (given,)).module()
    other = torch.randn_like(given)
    with torch.no_grad():
        for found, wanted in zip(graph(other), Maps()(other), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


RECOMPUTED = ["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "vit_small_patch16_dinov3"]


@pytest.mark.parametrize("name", [*RECOMPUTED, pytest.param("hiera_tiny_224", marks=pytest.mark.slow)])
def test_recomputed_gradients_and_statistics_are_those_that_are_kept(name: str) -> None:
    def run(*, recompute: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        torch.manual_seed(0)
        backbone = build_backbone(f"timm/{name}", output_stride=None).train()
        maps = backbone.features(
            image(backbone), backbone.pyramid, lambda place, feature: feature * 1.5, recompute=recompute
        )
        sum(feature.square().mean() for feature in maps.values()).backward()  # type: ignore[union-attr]
        return {k: v.grad for k, v in backbone.named_parameters() if v.grad is not None}, dict(backbone.named_buffers())

    kept, again = run(recompute=False), run(recompute=True)
    for one, other in zip(kept, again, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.allclose(value, other[key], rtol=1e-4, atol=1e-6) for key, value in one.items())


def test_what_is_no_chain_of_parts_is_not_recomputed() -> None:
    backbone = backbone_of("hrnet_w18_small")
    with pytest.raises(UsageError, match="no chain of parts that can be computed again: leave it out"):
        backbone.features(image(backbone), backbone.pyramid, recompute=True)


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224", "hiera_tiny_224"]
)
def test_maps_are_those_of_timm_itself(name: str) -> None:
    backbone = build_backbone(f"timm/{name}", output_stride=None).double().eval()
    theirs = timm.create_model(name, features_only=True).double().eval()
    theirs.load_state_dict({key.removeprefix("model."): value for key, value in backbone.state_dict().items()})
    given = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        for ours, wanted in zip(backbone.features(given, backbone.places).values(), theirs(given), strict=True):
            assert torch.equal(ours, wanted if wanted.shape == ours.shape else wanted.permute(0, 3, 1, 2))


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050", "regnetx_002"])
def test_a_network_that_can_be_dilated_has_the_output_stride(name: str, output_stride: int) -> None:
    backbone = build_backbone(f"timm/{name}", output_stride=output_stride).eval()
    deepest = backbone.pyramid[-1]
    with torch.no_grad():
        feature = backbone.features(image(backbone, (64, 96)), [deepest])[deepest]
    assert backbone.strides[deepest] == output_stride
    assert feature.shape[2:] == (64 // output_stride, 96 // output_stride)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a stride that cannot be": (
        lambda: build_backbone("timm/pvt_v2_b0", output_stride=16),
        r"model\.output_stride is 16, but the deepest map of timm/pvt_v2_b0 has the stride 32, .* set --model\.output_stride null",
    ),
    "an unknown model": (
        lambda: build_backbone("timm/vit_smal_patch14_dinov2", output_stride=None),
        r"no model 'vit_smal_patch14_dinov2'\. Did you mean 'timm/vit_small_patch14_dinov2'",
    ),
    "unknown weights": (
        lambda: build_backbone("timm/vit_small_patch14_dinov2.lvd142", output_stride=None),
        r"no weights of it that are called 'lvd142'\. Did you mean 'timm/vit_small_patch14_dinov2\.lvd142m'",
    ),
    "no prefix": (
        lambda: build_backbone("vit_tiny_patch16_224.augreg_in21k", output_stride=None),
        r"unknown backbone .*and timm's\. Did you mean 'timm/vit_tiny_patch16_224\.augreg_in21k'",
    ),
    "no prefix, like one of torchvision's": (
        lambda: build_backbone("resnet34", output_stride=None),
        r"Did you mean 'timm/resnet34'",
    ),
    "no name": (
        lambda: build_backbone("timm/", output_stride=None),
        "'timm/' names no backbone: a model's name stands behind",
    ),
    "nothing to resample": (
        lambda: build_backbone(
            "timm/vit_small_patch16_dinov3", output_stride=None, features=FeaturesConfig(resample="exact")
        ),
        r"model\.features\.resample is exact, but timm/vit_small_patch16_dinov3 learns no positions",
    ),
    "one size": (lambda: build_backbone("timm/levit_128s", output_stride=None), "no backbone for images of any size"),
    "an option for transformers": (
        lambda: build_backbone("timm/resnet18", output_stride=None, features=FeaturesConfig(norm=True)),
        r"model\.features\.norm is True, but timm/resnet18 is no plain vision transformer of timm: leave it out",
    ),
    "an option for transformers, of torchvision's": (
        lambda: build_backbone("resnet18", output_stride=16, features=FeaturesConfig(taps=[1, 2, 3, 4])),
        r"model\.features\.taps is \[1, 2, 3, 4\], but resnet18 is no plain vision transformer of timm: leave it out",
    ),
    "no stochastic depth": (
        lambda: build_backbone("timm/vgg11", output_stride=None, features=FeaturesConfig(drop_path=0.1)),
        r"model\.features\.drop_path is 0\.1, but timm/vgg11 has no stochastic depth: set it to 0",
    ),
}


@pytest.mark.parametrize("which", list(REFUSED))
def test_what_a_model_cannot_have_is_refused_in_one_line(which: str) -> None:
    make, message = REFUSED[which]
    with pytest.raises(UsageError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)
