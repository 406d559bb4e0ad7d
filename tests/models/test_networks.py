"""Whole networks against the reference's, and the rules of the one forward."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spcnet.errors import UsageError
from spcnet.methods import build_model
from spcnet.models.backbones import build_backbone
from spcnet.models.heads.deeplab import AtrousConv2d, PoolableBatchNorm2d
from spcnet.models.network import Segmentor, semantic_logits
from spcnet.types import MaskPrediction
from spcnet.weights.imagenet import SHUFFLENET_STEM_NORM, reference_name
from tests import golden
from tests.support.reference import formula

NAMES = {
    "r18": "resnet18",
    "r50": "resnet50",
    "r101": "resnet101",
    "mobilenetv2": "mobilenet_v2",
    "shufflenetv2": "shufflenet_v2",
}
METHOD_OF = {"base": "deeplabv3plus", "ibn": "ibn", "is": "is", "isw": "is", "sw": "sw"}
"""In evaluation selective whitening is instance standardisation: only its loss differs."""


# golden ---------------------------------------------------------------------------------------------------------------


def build(stored: str) -> tuple[Segmentor, str]:
    """The network a golden file is of, with random values, and its backbone's name."""
    parts = stored.removeprefix("spc_").split("_")
    backbone = NAMES[parts[0]]
    network = build_model(
        "spcnet" if stored.startswith("spc_") else METHOD_OF[parts[-1]],
        backbone=backbone,
        output_stride=int(parts[1].removeprefix("os")),
        num_domains=int(parts[2].removeprefix("M")) if stored.startswith("spc_") else 2,
        auxiliary=True,
    )
    return network, backbone


@pytest.mark.parametrize("stored", golden.networks())
def test_names_shapes_and_logits_agree_with_the_reference(stored: str) -> None:
    network, backbone = build(stored)
    network = network.double().eval()
    state = network.state_dict()
    normed = not stored.endswith("_base") and not stored.startswith("spc_")
    names = {key: reference_name(key, backbone=backbone, stem_norm=normed) for key in state}
    shapes = golden.network_shapes(stored)
    if normed:  # the reference keeps the batch norm that the slot's layer replaces, and does not use it
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith(SHUFFLENET_STEM_NORM)}
    assert {names[key]: tuple(value.shape) for key, value in state.items()} == shapes
    network.load_state_dict(
        {
            key: formula(names[key], tuple(value.shape)) if value.is_floating_point() else value
            for key, value in state.items()
        }
    )
    image = np.random.default_rng(1000).standard_normal((1, 3, 65, 97)).astype(np.float32)
    expected = load_file(golden.network_file(stored))["logits"]
    if stored.startswith("spc_"):
        # These files hold the numbers with the channels last, although the shape they declare has them second.
        expected = expected.view(1, 65, 97, 19).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network(torch.from_numpy(image).double()).logits
    torch.testing.assert_close(logits, expected.double(), rtol=0, atol=1e-5)


def test_a_name_of_nothing_has_no_reference_name() -> None:
    with pytest.raises(KeyError):
        reference_name("head.weight", backbone="resnet50")


@pytest.mark.parametrize(
    ("method", "backbone", "domains", "expected"),
    [
        ("deeplabv3plus", "resnet50", 2, 45_081_542),
        ("ibn", "resnet50", 2, 45_083_078),
        ("is", "resnet50", 2, 45_081_414),
        ("spcnet", "resnet50", 2, 45_219_801),
        ("spcnet", "resnet50", 3, 45_225_305),
        ("spcnet", "resnet50", 10, 45_263_833),
        ("deeplabv3plus", "resnet101", 2, 64_197_446),
        ("spcnet", "resnet101", 2, 64_335_961),
        ("deeplabv3plus", "mobilenet_v2", 2, 14_840_966),
        ("spcnet", "mobilenet_v2", 2, 14_978_137),
        ("deeplabv3plus", "shufflenet_v2", 2, 12_637_738),
        ("spcnet", "shufflenet_v2", 2, 12_775_277),
    ],
)
def test_parameters_are_as_many_as_published(method: str, backbone: str, domains: int, expected: int) -> None:
    with torch.device("meta"):
        network = build_model(method, backbone=backbone, num_domains=domains, auxiliary=True)
    # Bases and prototypes are buffers here and parameters in the published counts.
    learnt = [value for key, value in network.named_buffers() if key.endswith(("base_mean", "base_std", "prototypes"))]
    assert sum(value.numel() for value in (*network.parameters(), *learnt)) == expected


# parity ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2, 3), (4, 4), (5, 9), (9, 5), (5, 4), (4, 5), (12, 12)])
def test_leaving_out_taps_in_the_padding_changes_nothing(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = AtrousConv2d(3, 4, 4).double()
    plain = nn.Conv2d(3, 4, 3, padding=4, dilation=4, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    image = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)
    cotangent = torch.randn(2, 4, *size, dtype=torch.double)
    results: list[Any] = [(conv(image), conv.weight) for conv in (ours, plain)]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((value * cotangent).sum(), (image, weight)) for value, weight in results]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_batch_norm_is_the_plain_one_wherever_there_is_a_variance() -> None:
    ours, plain = PoolableBatchNorm2d(3), nn.BatchNorm2d(3)
    image = torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(image), plain(image))
    assert torch.equal(ours.running_mean, plain.running_mean)


def test_batch_norm_of_a_single_cell_uses_and_keeps_the_running_statistics() -> None:
    norm = PoolableBatchNorm2d(3)
    norm.running_mean.fill_(1.0)
    cell = torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(norm(cell).flatten(), torch.tensor([1.0, 2.0, 3.0]), rtol=1e-4, atol=0)
    assert norm.running_mean.tolist() == [1.0, 1.0, 1.0]


# property -------------------------------------------------------------------------------------------------------------


def test_dilation_widens_what_the_reference_widens() -> None:
    with torch.device("meta"):
        resnet, mobilenet = (build_backbone(name, output_stride=16) for name in ("resnet50", "mobilenet_v2"))
    wide = [m.dilation for m in resnet.layer4.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert wide == [(2, 2)] * 3  # the first block too, where torchvision leaves 1
    wide = [m.dilation for m in mobilenet.layer3.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert wide.count((2, 2)) == 1  # only the one that was strided


@pytest.fixture(scope="module")
def small() -> Segmentor:
    torch.manual_seed(0)
    return build_model("spcnet", backbone="shufflenet_v2", num_classes=3).eval()


@pytest.mark.parametrize("size", [(33, 33), (33, 64), (37, 51), (64, 48), (65, 97)])
def test_every_size_from_33_gives_scores_of_that_size(small: Segmentor, size: tuple[int, int]) -> None:
    with torch.no_grad():
        output = small(torch.zeros(1, 3, *size))
    assert output.logits.shape == (1, 3, *size)
    assert bool(output.logits.isfinite().all())


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (1, 1)])
def test_smaller_images_are_refused(small: Segmentor, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=rf"{size[0]}×{size[1]} pixels: height and width must be at least 33"):
        small(torch.zeros(1, 3, *size))


def test_images_of_a_batch_do_not_touch_each_other(small: Segmentor) -> None:
    images = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = small(images).logits
        alone = torch.cat([small(image[None]).logits for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_the_fine_features_are_those_before_the_second_style_layer(small: Segmentor) -> None:
    seen: dict[str, Tensor] = {}
    handles = [
        small.backbone.layer1.register_forward_hook(lambda m, i, o: seen.update(stage=o)),
        small.decoder.register_forward_pre_hook(lambda m, i: seen.update(fine=i[1])),
        small.backbone.layer2.register_forward_pre_hook(lambda m, i: seen.update(deeper=i[0])),
    ]
    with torch.no_grad():
        small(torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0)))
    for handle in handles:
        handle.remove()
    assert torch.equal(seen["fine"], seen["stage"])
    assert not torch.equal(seen["deeper"], seen["stage"])


def test_class_scores_of_queries_are_the_log_of_their_masks_by_their_classes() -> None:
    torch.manual_seed(0)
    classes, masks = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 5, 3, 6, dtype=torch.float64)
    scores = semantic_logits(MaskPrediction(classes, masks))
    assert scores.shape == (2, 3, 3, 6)  # the last of four is "no object"
    for image in range(2):
        for k in range(3):
            total = sum(classes[image, q].softmax(0)[k] * masks[image, q].sigmoid() for q in range(5))
            torch.testing.assert_close(scores[image, k].exp(), total)
