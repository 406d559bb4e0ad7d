"""Windows, scales and mirror images change how often a network looks, not what it says of a pixel that looks alike."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from torch import Tensor

from spcnet.errors import UsageError
from spcnet.evaluation.tta import CoarseToFine, TestTimeAugmentation, augmented, check_overlap, windows
from spcnet.types import Internals, SegOutput


class Pixelwise:
    """A network whose scores of a pixel are its colours, and whose style weight is the mean of its first one."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, image: Tensor) -> SegOutput:
        self.seen.append(tuple(image.shape))
        return SegOutput(
            image * torch.tensor([1.0, 2.0, -1.0]).view(3, 1, 1),
            extras=Internals(style_weights=(image.mean((2, 3))[:, :2],)),
        )


def picture(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


@effort(max_examples=100, deadline=None)
@given(whole=st.integers(1, 300), part=st.integers(1, 300), overlap=st.floats(0, 0.9))
def test_windows_cover_every_pixel_and_overlap_enough(whole: int, part: int, overlap: float) -> None:
    part = min(part, whole)
    places = [left for _, left in windows((1, whole), (1, part), overlap=overlap)]
    covered = np.zeros(whole, int)
    for left in places:
        assert 0 <= left <= whole - part
        covered[left : left + part] += 1
    assert covered.min() >= 1
    steps = np.diff(places)
    assert (steps <= max(1, int(part * (1 - overlap)))).all()
    assert len(places) == len(set(places))


@pytest.mark.parametrize("overlap", [0.91, 0.95, 0.999, 0.9999999])
@pytest.mark.parametrize(("size", "window"), [((64, 128), (40, 50)), ((64, 128), (33, 200)), (None, (512, 1024))])
def test_an_overlap_close_to_one_is_refused_with_the_windows_it_would_take(
    size: tuple[int, int] | None, window: tuple[int, int], overlap: float
) -> None:
    with pytest.raises(UsageError, match=r"overlap.*at most 0\.9;") as error:
        check_overlap(window, overlap, size)
    if size is not None:
        assert f" {len(windows(size, window, overlap=overlap)):,} windows" in str(error.value)
    check_overlap(window, 0.9, size)
    check_overlap(None, overlap, size)


@pytest.mark.parametrize("size", [(40, 60), (64, 128), None])
def test_the_bound_of_the_overlap_holds_for_windows_that_cover_an_image_and_says_what_a_larger_one_takes(
    size: tuple[int, int] | None,
) -> None:
    window = (64, 128) if size else (1024, 2048)
    larger = (2 * window[0], 2 * window[1])
    number = len(windows(larger, window, overlap=0.95))
    assert number > 100
    with pytest.raises(UsageError, match=rf"an image of {larger[0]}×{larger[1]} takes {number:,} windows"):
        check_overlap(window, 0.95, size)
    check_overlap(window, 0.9, size)


@pytest.mark.parametrize("weights", ["uniform", "hann"])
@pytest.mark.parametrize("size", [(40, 90), (33, 60), (64, 48)])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_windows_give_what_the_whole_image_gives(size: tuple[int, int], weights: str, at_once: int) -> None:
    image, network = picture(*size), Pixelwise()
    views = TestTimeAugmentation(window=(33, 40), weights=weights)  # type: ignore[arg-type]
    found = augmented(network, views, at_once=at_once)(image)
    torch.testing.assert_close(found.logits, Pixelwise()(image).logits, rtol=1e-5, atol=1e-5)
    assert all(shape[0] <= at_once and shape[2] <= 33 and shape[3] <= 40 for shape in network.seen)
    assert sum(shape[0] for shape in network.seen) == 2 * len(windows(size, (33, min(40, size[1])), overlap=1 / 3))
    assert found.figures["style_weights"][0].shape == (2, 2)


def test_the_mix_of_styles_is_each_images_own_mean_over_its_windows() -> None:
    image = torch.stack([torch.zeros(3, 40, 40), torch.ones(3, 40, 40)])
    image[:, :, :, 20:] += 4  # which the second of two windows sees
    found = augmented(Pixelwise(), TestTimeAugmentation(window=(40, 20), overlap=0), at_once=3)(image)
    torch.testing.assert_close(found.figures["style_weights"][0], torch.tensor([[2.0, 2.0], [3.0, 3.0]]))


def test_where_windows_overlap_those_that_see_a_pixel_in_their_middle_count_more() -> None:
    """A network that says how far a column is from the window's middle."""

    def forward(image: Tensor) -> SegOutput:
        away = (torch.arange(image.shape[3]) - (image.shape[3] - 1) / 2).abs()
        return SegOutput(away.expand(len(image), 1, *image.shape[2:]))

    image = picture(8, 60)
    uniform, hann = (
        augmented(forward, TestTimeAugmentation(window=(8, 40), overlap=0.5, weights=weights))(image).logits[0, 0, 0]  # type: ignore[arg-type]
        for weights in ("uniform", "hann")
    )
    assert (hann[20:40] < uniform[20:40]).all()
    torch.testing.assert_close(hann[:20], uniform[:20])


def test_scales_and_mirror_images_are_averaged_as_probabilities() -> None:
    image, network = picture(40, 60), Pixelwise()
    found = augmented(network, TestTimeAugmentation(scales=(1.0, 0.5), flip=True))(image)
    assert network.seen == [(2, 3, 40, 60)] * 2 + [(2, 3, 20, 30)] * 2
    small = F.interpolate(image, size=(20, 30), mode="bilinear", align_corners=False, antialias=True)
    low = F.interpolate(Pixelwise()(small).logits, size=(40, 60), mode="bilinear", align_corners=True)
    expected = (Pixelwise()(image).logits.softmax(1) + low.softmax(1)) / 2
    torch.testing.assert_close(found.logits, expected)
    torch.testing.assert_close(found.logits.sum(1), torch.ones(2, 40, 60))


def test_a_mirror_image_is_turned_back() -> None:
    def forward(image: Tensor) -> SegOutput:
        column = torch.linspace(-3, 3, image.shape[3]).expand(len(image), 1, *image.shape[2:])
        return SegOutput(torch.cat([image[:, :1] + 0 * column, 0 * column], dim=1))

    image = picture(8, 10)
    both = augmented(forward, TestTimeAugmentation(flip=True))(image).logits
    torch.testing.assert_close(both, forward(image).logits.softmax(1))


def test_one_look_at_the_whole_is_the_network_itself() -> None:
    network = Pixelwise()
    assert augmented(network, TestTimeAugmentation()) is network
    image = picture(20, 30)
    augmented(network, TestTimeAugmentation(window=(50, 50)))(image)
    assert network.seen == [(2, 3, 20, 30)]  # a window larger than the image is the image


class Sure:
    """A network whose first class is as likely as the first colour says; bright images make it sure."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, image: Tensor) -> SegOutput:
        self.seen.append(tuple(image.shape))
        score = image[:, :1]
        weights = (image.mean((2, 3))[:, :2],)
        return SegOutput(torch.cat([score, 0 * score], dim=1), extras=Internals(style_weights=weights))


COARSE = TestTimeAugmentation(window=(16, 16), stride=10, coarse=CoarseToFine())


def test_a_coarse_pass_that_is_sure_everywhere_is_the_answer() -> None:
    network, image = Sure(), torch.full((2, 3, 32, 64), 9.0)
    found = augmented(network, COARSE)(image)
    places = windows((16, 32), (16, 16), overlap=0, stride=10)  # of half the size
    assert sum(shape[0] for shape in network.seen) == 2 * len(places) == 6
    assert {shape[2:] for shape in network.seen} == {(16, 16)}
    torch.testing.assert_close(found.logits[:, 0], torch.full((2, 32, 64), 9.0))
    assert found.figures["coarse_windows"][0].tolist() == [[1.0], [1.0]]
    assert found.figures["style_weights"][0].tolist() == [[9.0, 9.0], [9.0, 9.0]]


def test_a_coarse_pass_that_is_sure_of_nothing_changes_nothing() -> None:
    image = picture(32, 64) / 10
    network = Sure()
    found = augmented(network, COARSE)(image)
    plain = augmented(Sure(), COARSE._replace(coarse=None))(image)
    torch.testing.assert_close(found.logits, plain.logits, rtol=1e-6, atol=1e-6)
    assert found.figures["coarse_windows"][0].tolist() == [[0.0], [0.0]]
    every = len(windows((32, 64), (16, 16), overlap=0, stride=10))
    assert sum(shape[0] for shape in network.seen) == 2 * (every + 3)


@pytest.mark.parametrize(("columns", "kept"), [(12, 0), (13, 1)])
def test_a_window_keeps_the_coarse_answer_where_more_than_the_share_of_its_pixels_is_sure(
    columns: int, kept: int
) -> None:
    """Of the first window of 16 columns 12 are three quarters, 13 more than four fifths."""
    views = TestTimeAugmentation(window=(16, 16), stride=16, coarse=CoarseToFine(scale=1.0))
    image = torch.zeros(1, 3, 16, 48)
    image[..., :columns] = 3.5  # sigmoid(3.5) = 0.9707 is above 0.968, sigmoid(3.4) = 0.9677 is not
    image[..., 16:32] = 3.4
    network = Sure()
    found = augmented(network, views)(image)
    assert found.figures["coarse_windows"][0].item() == pytest.approx(kept / 3)
    assert sum(shape[0] for shape in network.seen) == 3 + 3 - kept


def test_kept_windows_and_others_are_averaged_where_they_overlap() -> None:
    """A network that says which pass it is in: what lies in a kept window alone is coarse, in both half and half."""
    passes = iter([9.0, 0.0, 0.0, 0.0])

    def forward(image: Tensor) -> SegOutput:
        score = torch.where(image[:, :1] > 0, next(passes), 0.0)
        return SegOutput(torch.cat([score, 0 * score], dim=1))

    views = TestTimeAugmentation(window=(20, 20), stride=10, coarse=CoarseToFine(scale=1.0))
    image = torch.zeros(1, 3, 20, 30)
    image[..., :20] = 1  # the first window is sure, the second, of columns 10 to 30, is half sure
    calls = augmented(forward, views, at_once=100)(image)
    expected = torch.cat([torch.full((20, 10), 9.0), torch.full((20, 10), 4.5), torch.zeros(20, 10)], dim=1)
    torch.testing.assert_close(calls.logits[0, 0], expected)
    assert calls.figures["coarse_windows"][0].item() == 0.5
