"""What each protocol makes of images and labels, held against the slow way that the published code goes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image, ImageOps

from spcnet.config import DataConfig, DomainSpec
from spcnet.data.datasets import Sample, open_domain
from spcnet.data.fixture import write_fixture
from spcnet.errors import UsageError
from spcnet.evaluation import protocols
from spcnet.evaluation.protocols import PROTOCOLS, as_published, protocol_named, protocol_set, protocols_named
from spcnet.evaluation.tta import augmented, windows
from spcnet.labels import label_space
from spcnet.types import SegOutput


def sample(height: int, width: int, *, seed: int = 0) -> Sample:
    dice = np.random.default_rng(seed)
    return Sample(
        dice.integers(1, 256, (height, width, 3), dtype=np.uint8),
        dice.integers(1, 19, (height, width), dtype=np.uint8),
        "made",
    )


def robustnets_square(image: Image.Image, side: int) -> Image.Image:
    """The steps one by one: the border on both sides, then the crop at the place it had without it."""
    width, height = image.size
    missing = (max(side - width, 0), max(side - height, 0))
    left, top = round((width - side) / 2), round((height - side) / 2)
    image = ImageOps.expand(image, border=(*missing, *missing), fill=0) if any(missing) else image
    return image.crop((left, top, left + side, top + side))


@pytest.mark.parametrize(("height", "width"), [(192, 108), (96, 128), (100, 100), (90, 160), (77, 63)])
def test_robustnet_cuts_mapillary_as_its_code_does(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "MAPILLARY_SIDE", 120)
    made = sample(height, width)
    found = protocols.robustnet(made, "mapillary")
    size = (int(width / height * 120), 120)
    for pixels, wanted, kind in (
        (found.image, made.image, Image.Resampling.BICUBIC),
        (found.label, made.label, Image.Resampling.NEAREST),
    ):
        np.testing.assert_array_equal(
            pixels, np.asarray(robustnets_square(Image.fromarray(wanted).resize(size, kind), 120))
        )


def test_robustnet_scores_padding_of_a_portrait_photo_as_road() -> None:
    made = sample(192, 108)
    label = protocols.robustnet(made, "mapillary").label
    assert label.shape == (1536, 1536)
    # A photo of 1080×1920 keeps 528 of its 864 columns at that height; 65.6 % of the square is padding.
    assert (label == 0).mean() == pytest.approx(0.656, abs=0.001)
    assert ((label != 0).any(axis=0)).sum() == 528


@pytest.mark.parametrize("name", ["robustnet", "spcnet-official"])
@pytest.mark.parametrize("dataset", ["cityscapes", "bdd100k", "gtav"])
def test_other_sets_keep_their_size(name: str, dataset: str) -> None:
    prepare = PROTOCOLS[name].prepare
    assert prepare is not None
    made = sample(40, 70)
    assert prepare(made, dataset) is made


def test_spcnet_official_takes_the_largest_square_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "MAPILLARY_SIDE", 30)
    made = sample(30, 50)
    found = protocols.spcnet_official(made, "mapillary_rein")
    np.testing.assert_array_equal(found.image, made.image[:, 10:40])
    np.testing.assert_array_equal(found.label, made.label[:, 10:40])
    tall = protocols.spcnet_official(sample(90, 60), "mapillary")
    assert tall.image.shape == (30, 30, 3)
    assert tall.label.shape == (30, 30)


@pytest.mark.parametrize(
    ("dataset", "size", "wanted", "label"),
    [
        ("cityscapes", (1024, 2048), (512, 1024), (1024, 2048)),
        ("gtav", (1052, 1914), (512, 932), (1052, 1914)),
        ("bdd100k", (720, 1280), (720, 1280), (720, 1280)),
        ("mapillary_rein", (1200, 1600), (512, 683), (600, 800)),
        ("mapillary_rein", (1600, 1200), (683, 512), (800, 600)),
    ],
)
def test_rein_brings_images_within_its_size(
    dataset: str, size: tuple[int, int], wanted: tuple[int, int], label: tuple[int, int]
) -> None:
    found = protocols.rein(sample(*size), dataset)
    assert found.image.shape == (*wanted, 3)
    assert found.label.shape == label


@pytest.mark.parametrize(
    ("dataset", "size", "wanted"),
    [
        ("cityscapes", (1024, 2048), (1024, 2048)),
        ("gtav", (1052, 1914), (1024, 1863)),
        ("bdd100k", (720, 1280), (1024, 1820)),  # made larger
        ("mapillary_rein", (1200, 1600), (1024, 1365)),
        ("mapillary_rein", (4000, 3000), (1365, 1024)),
    ],
)
def test_vfm_full_brings_images_within_twice_that_size_and_leaves_labels(
    dataset: str, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    found = protocols.vfm_full(sample(*size), dataset)
    assert found.image.shape == (*wanted, 3)
    assert found.label.shape == size


@pytest.mark.parametrize(
    ("name", "bright", "looks"),
    [("rein", 0.0, 3), ("vfm-full", 0.0, 18), ("vfm-full-coarse", 0.0, 3 + 18), ("vfm-full-coarse", 9.0, 3)],
)
def test_how_often_a_protocol_looks_at_an_image_of_cityscapes(name: str, bright: float, looks: int) -> None:
    # Rein: columns 0, 341, 512 of 1024×512. VFMSeg: rows 0, 320, 512 and columns 0, 320 … 1280, 1536 of 2048×1024;
    # at half that size, where a window is as tall as the image, columns 0, 320, 512.
    seen: list[tuple[int, ...]] = []

    def network(image: torch.Tensor) -> SegOutput:
        seen.append(tuple(image.shape))
        score = torch.full((len(image), 1, *image.shape[2:]), bright)
        return SegOutput(torch.cat([score, 0 * score], dim=1))

    way = PROTOCOLS[name]
    assert way.prepare is not None
    assert way.views is not None
    image = way.prepare(sample(1024, 2048), "cityscapes").image
    augmented(network, way.views, at_once=1)(torch.zeros(1, 3, *image.shape[:2]))
    assert set(seen) == {(1, 3, 512, 512)}
    assert len(seen) == looks


def test_rein_resizes_without_smoothing() -> None:
    stripes = np.zeros((1024, 2048, 3), np.uint8)
    stripes[:, ::4] = 255  # between the pixels that a quarter of the columns is mixed of
    small = protocols.rein(Sample(stripes, stripes[..., 0], "stripes"), "cityscapes").image
    assert set(np.unique(small)) == {0, 128}


@effort(max_examples=60, deadline=None)
@given(whole=st.integers(1, 2000), part=st.integers(1, 600), stride=st.integers(1, 600))
def test_windows_stand_at_multiples_of_a_stride_as_in_mmsegmentation(whole: int, part: int, stride: int) -> None:
    stride = min(stride, part)
    number = max(whole - part + stride - 1, 0) // stride + 1
    ends = [min(i * stride + part, whole) for i in range(number)]
    wanted = [max(end - part, 0) for end in ends]
    assert [left for _, left in windows((1, whole), (1, part), overlap=0, stride=stride)] == wanted


def test_rein_reads_mapillary_by_its_own_map_and_halves_it_once(tmp_path: Path) -> None:
    space, way = label_space("cityscapes19"), protocol_named("rein")
    assert way.domain("mapillary@val+fog") == "mapillary_rein@val+fog"
    assert {PROTOCOLS[name].domain("mapillary") for name in ("vfm-full", "vfm-full-coarse")} == {"mapillary_rein"}
    assert way.domain("cityscapes") == "cityscapes"
    for layout, wanted in (("Rein", (32, 64)), ("Rein, half the size, its own folder", (64, 128))):
        folder = tmp_path / layout.replace(" ", "_").replace(",", "")
        write_fixture("mapillary_rein", folder, layout=layout, size=(64, 128))
        spec = DomainSpec.parse("mapillary_rein@val")
        plain = open_domain(spec, data=DataConfig(roots={"mapillary_rein": str(folder)}), space=space, training=False)
        assert protocol_set(plain, way, dataset=spec.dataset).read(0).label.shape == wanted


def test_names_and_what_is_published() -> None:
    with pytest.raises(UsageError, match=r"unknown protocol 'robusnet'.*Did you mean 'robustnet'"):
        protocol_named("robusnet")
    assert [protocol.name for protocol in protocols_named("all")] == list(PROTOCOLS)
    assert protocols_named("rein") == (PROTOCOLS["rein"],)
    record = {"domains": {"a": {"precision": {"x": 0.1}, "recall": {"x": 0.9}, "miou": 0.5}}}
    swapped = as_published(record, PROTOCOLS["robustnet"])
    assert swapped["domains"]["a"] == {"precision": {"x": 0.9}, "recall": {"x": 0.1}, "miou": 0.5}
    assert swapped["protocol"] == "robustnet"
    assert as_published(record, PROTOCOLS["rein"])["domains"] == record["domains"]
