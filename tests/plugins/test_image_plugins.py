"""Plug-ins that change the pixels of images: against plain references, and what all keep."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spcnet.config import DataConfig, ModelConfig, RunConfig
from spcnet.errors import UsageError
from spcnet.methods import METHODS
from spcnet.methods.step import Step
from spcnet.models.network import Segmentor
from spcnet.plugins import PLUGINS, make_plugins
from spcnet.plugins.advstyle import AdvStyle
from spcnet.plugins.fourier import Fourier, mix_amplitudes, partners
from spcnet.plugins.images import ImagePlugin, image_of, pixels_of
from spcnet.plugins.pasta import Pasta, deviations
from spcnet.plugins.preview import changes, shown
from spcnet.plugins.randconv import RandConv
from spcnet.types import IGNORE_INDEX, Batch

CLASSES = 5
IMAGE_PLUGINS = {name: kind for name, kind in PLUGINS.items() if issubclass(kind, ImagePlugin)}
each_plugin = pytest.mark.parametrize("kind", IMAGE_PLUGINS.values(), ids=list(IMAGE_PLUGINS))
each_size = pytest.mark.parametrize("size", [(32, 48), (33, 47), (8, 1)], ids=str)


def batch_of(device: str, *, size: tuple[int, int] = (33, 47), dtype: torch.dtype = torch.double) -> Batch:
    """Images of smooth colours with little noise, three domains."""
    dice = torch.Generator().manual_seed(0)
    coarse = 0.3 + 0.4 * torch.rand(4, 3, 3, 4, generator=dice, dtype=dtype)
    pixels = F.interpolate(coarse, size, mode="bilinear") + 0.02 * torch.rand(4, 3, *size, generator=dice, dtype=dtype)
    label = torch.randint(0, CLASSES, (4, *size), generator=dice)
    label[1, :4] = IGNORE_INDEX
    domain = torch.tensor([0, 1, 1, 2])
    return Batch(image_of(pixels).to(device), label.to(device), domain.to(device), tuple("abcd"))


def step_of(iteration: int = 3, positions: tuple[int, ...] = (0, 1, 2, 3), **more: object) -> Step:
    return Step(7, iteration, 0.5, positions, **more)  # type: ignore[arg-type]


@pytest.fixture
def network() -> Segmentor:
    """In double precision, so that differences of the order of sums do not count."""
    torch.manual_seed(0)
    model = ModelConfig("shufflenet_v2", output_stride=32, weights=None)
    return METHODS["deeplabv3plus"].build(model, num_classes=CLASSES, num_domains=3).double().eval()


def alter(plugin: ImagePlugin, batch: Batch, step: Step) -> torch.Tensor:
    return plugin.altered(batch, step)


# what all keep --------------------------------------------------------------------------------------------------------


@each_plugin
@each_size
def test_at_strength_zero_images_stay_as_they_are(kind: type[ImagePlugin], size: tuple[int, int], device: str) -> None:
    if kind is RandConv and min(size) < 4:
        size = (8, 4)
    batch = batch_of(device, size=size)
    altered = alter(kind(kind.at_strength(0.0)), batch, step_of())
    torch.testing.assert_close(altered, batch.image, rtol=0, atol=1e-12)


@each_plugin
def test_with_probability_zero_images_stay_bit_for_bit(kind: type[ImagePlugin], device: str) -> None:
    batch = batch_of(device)
    plugin = kind(replace(kind.settings_type(), probability=0.0))  # type: ignore[type-var]
    assert torch.equal(alter(plugin, batch, step_of()), batch.image)


@each_plugin
def test_what_is_drawn_depends_on_step_and_place_alone(kind: type[ImagePlugin], device: str) -> None:
    batch, plugin = batch_of(device), kind(kind.at_strength(0.7))
    before = batch.image.clone()
    first = alter(plugin, batch, step_of())
    assert torch.equal(batch.image, before)
    assert (first.dtype, first.shape) == (before.dtype, before.shape)
    assert bool(first.isfinite().all())
    torch.manual_seed(99)
    assert torch.equal(alter(plugin, batch, step_of()), first)
    other = alter(plugin, batch, step_of(iteration=4))
    changed = [not torch.equal(*pair) for pair in zip(other, first, strict=True)]
    assert all(changed) if kind is not Fourier else any(changed)  # of four images the same one may be drawn again


@each_plugin
def test_some_images_are_changed_and_the_others_stay(kind: type[ImagePlugin], device: str) -> None:
    plugin = kind(replace(kind.at_strength(0.7), probability=0.5))
    batch, same = batch_of(device), []
    for iteration in range(20):
        altered = alter(plugin, batch, step_of(iteration))
        same += [torch.equal(*pair) for pair in zip(altered, batch.image, strict=True)]
    assert 20 < sum(same) < 60


@pytest.mark.parametrize("kind", [Pasta, RandConv])
def test_an_image_is_changed_alike_whatever_stands_beside_it(kind: type[ImagePlugin], device: str) -> None:
    batch, plugin = batch_of(device), kind(kind.settings_type())
    whole = alter(plugin, batch, step_of())
    for places in ([0, 1], [2, 3], [3]):
        part = Batch(batch.image[places], batch.label[places], batch.domain[places], tuple("xyz"[: len(places)]))
        torch.testing.assert_close(alter(plugin, part, step_of(positions=tuple(places))), whole[places])


# the formulas ---------------------------------------------------------------------------------------------------------


def test_pixels_and_images_are_each_others_inverse() -> None:
    pixels = torch.rand(2, 3, 4, 5, dtype=torch.double)
    torch.testing.assert_close(pixels_of(image_of(pixels)), pixels)
    assert float(pixels_of(image_of(3 * pixels - 1)).min()) >= -1e-12


@each_size
def test_pasta_has_more_noise_the_higher_the_frequency(size: tuple[int, int]) -> None:
    settings = Pasta.settings_type(alpha=2.0, k=3.0, beta=0.1)  # type: ignore[call-arg]
    found, (height, width) = deviations(*size, settings), size
    largest = max(1.0, np.hypot(height // 2, width // 2))
    for row in range(height):
        for column in range(width // 2 + 1):
            radius = np.hypot(min(row, height - row), column)
            assert float(found[row, column]) == pytest.approx((2 * radius / largest) ** 3 + 0.1, rel=1e-5)


@pytest.mark.parametrize("size", [(33, 47), (32, 48)], ids=str)
def test_pasta_changes_amplitudes_by_its_deviations_and_leaves_phases(size: tuple[int, int], device: str) -> None:
    batch, factors = batch_of(device, size=size), []
    plugin = Pasta(Pasta.settings_type(alpha=0.05, beta=0.05))  # type: ignore[call-arg]
    for iteration in range(60):
        altered = alter(plugin, batch, step_of(iteration))
        spectra = [torch.fft.rfft2(pixels_of(one)) for one in (altered, batch.image)]
        factors.append(spectra[0] / spectra[1])
    ratio = torch.stack(factors)
    assert float(ratio.imag.abs().max()) < 1e-8
    found = (ratio.real - 1).flatten(0, 2)
    expected = deviations(*size, plugin.settings).to(found)
    assert float(((found / expected).square().mean((0)).sqrt() - 1).abs().max()) < 0.15
    assert abs(float((found / expected).mean())) < 0.01


@each_size
@pytest.mark.parametrize("window", [0.0, 0.1, 0.5])
def test_amplitudes_are_mixed_as_a_whole_spectrum_says(size: tuple[int, int], window: float, device: str) -> None:
    batch = batch_of(device, size=size)
    image, other, amount = batch.image[:2], batch.image[2:], torch.tensor([0.2, 1.0], device=device).double()
    found = pixels_of(mix_amplitudes(image, other, amount, window=window)).cpu().numpy()
    for i in range(2):
        own, theirs = (np.fft.fftshift(np.fft.fft2(pixels_of(x)[i].cpu().numpy()), axes=(1, 2)) for x in (image, other))
        (height, width), reach = size, window * min(size)
        rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
        low = (abs(rows) <= reach)[:, None] & (abs(columns) <= reach)
        amplitude = np.where(low, (1 - float(amount[i])) * abs(own) + float(amount[i]) * abs(theirs), abs(own))
        expected = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * np.angle(own)), axes=(1, 2))).real
        np.testing.assert_allclose(found[i], expected.clip(0, 1), atol=1e-9)


def test_partners_are_others_and_where_wanted_of_another_domain() -> None:
    domain = [0, 1, 1, 2]
    for seed in range(30):
        draws = [np.random.default_rng([seed, i]) for i in range(3)]
        assert all(i != j for i, j in zip([0, 1, 3], partners(domain, [0, 1, 3], draws, across=False), strict=True))
        across = partners(domain, [0, 1, 3], draws, across=True)
        assert all(domain[i] != domain[j] for i, j in zip([0, 1, 3], across, strict=True))
    assert partners([0, 0], [1], [np.random.default_rng(0)], across=True) == [1]
    assert partners([0], [0], [np.random.default_rng(0)], across=False) == [0]


def test_mixing_across_domains_needs_two() -> None:
    config = RunConfig(
        plugins=[{"name": "fourier", "mix": "cross-domain"}],
        data=DataConfig(sources=["streets/game"], targets=["streets/night"]),
    )
    with pytest.raises(UsageError, match=r"plugins.fourier.mix is cross-domain.*only domain"):
        make_plugins(config)


def test_random_convolutions_are_those_of_each_image_alone(device: str) -> None:
    batch, plugin, sides = batch_of(device), RandConv(RandConv.settings_type(probability=1.0)), set()  # type: ignore[call-arg]
    for iteration in range(6):
        altered, step = alter(plugin, batch, step_of(iteration)), step_of(iteration)
        draws = step.generators("randconv")
        kernels = []
        for rng in draws:
            rng.random()
            side = int(rng.choice([1, 3, 5, 7]))
            kernels.append(rng.normal(0, 1 / np.sqrt(3 * side**2), (3, 3, side, side)))
            sides.add(side)
        for image, found, kernel, rng in zip(batch.image, altered, kernels, draws, strict=True):
            share, edge = rng.uniform(0, 1), kernel.shape[2] // 2
            around = F.pad(image[None], [edge] * 4, mode="reflect")
            convolved = F.conv2d(around, torch.from_numpy(kernel).to(image))[0]
            torch.testing.assert_close(found, (1 - share) * image + share * convolved)
    assert sides == {1, 3, 5, 7}


# AdvStyle -------------------------------------------------------------------------------------------------------------


def own_losses(network: Segmentor, image: torch.Tensor, label: torch.Tensor) -> list[torch.Tensor]:
    return [
        F.cross_entropy(network(one[None]).logits, truth[None], ignore_index=IGNORE_INDEX)
        for one, truth in zip(image, label, strict=True)
    ]


def test_the_adversarial_style_is_one_step_up_each_images_own_loss(network: Segmentor) -> None:
    batch = batch_of("cpu", size=(40, 48))
    plugin = AdvStyle(AdvStyle.settings_type(rate=0.3))  # type: ignore[call-arg]
    altered = plugin.alter(network, batch, step_of(forward=network))
    for image, truth, found in zip(batch.image, batch.label, altered, strict=True):
        mean = image.mean((1, 2)).clone().requires_grad_()
        std = (image.var((1, 2)) + 1e-6).sqrt().requires_grad_()
        flat = (image - mean.detach()[:, None, None]) / std.detach()[:, None, None]
        (loss,) = own_losses(network, (flat * std[:, None, None] + mean[:, None, None])[None], truth[None])
        up = torch.autograd.grad(loss, [mean, std])
        mean, std = (value.detach() + 0.3 * slope for value, slope in zip((mean, std), up, strict=True))
        torch.testing.assert_close(found, flat * std[:, None, None] + mean[:, None, None])


def test_adversarial_images_cost_more_and_the_network_stays_as_it_is(network: Segmentor) -> None:
    batch = batch_of("cpu", size=(40, 48))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plugin = AdvStyle(AdvStyle.settings_type(rate=0.1))  # type: ignore[call-arg]
    with torch.no_grad():
        altered = plugin.alter(network, batch, step_of(forward=network))
        plain, harder = (torch.stack(own_losses(network, image, batch.label)) for image in (batch.image, altered))
    assert bool((harder > plain).all())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    still = AdvStyle(AdvStyle.settings_type(rate=0.0)).alter(network, batch, step_of(forward=network))  # type: ignore[call-arg]
    torch.testing.assert_close(still, batch.image)


def test_images_without_labels_have_no_harder_style(network: Segmentor) -> None:
    batch = batch_of("cpu", size=(40, 48))
    batch.label[2] = IGNORE_INDEX
    altered = AdvStyle(AdvStyle.settings_type()).alter(network, batch, step_of(forward=network))
    torch.testing.assert_close(altered[2], batch.image[2])
    assert not torch.allclose(altered[1], batch.image[1])


# to look at -----------------------------------------------------------------------------------------------------------


def test_a_picture_shows_each_plugin_growing_with_its_strength() -> None:
    photo = np.random.default_rng(0).integers(60, 200, (33, 40, 3)).astype(np.uint8)
    rows = changes(list(shown()), seed=0)
    assert len(rows) == len(IMAGE_PLUGINS)
    for change in rows.values():
        off, half, full = (change(photo, strength).astype(int) for strength in (0.0, 0.5, 1.0))
        assert np.abs(off - photo).max() <= 1
        assert np.abs(full - photo).mean() > np.abs(half - photo).mean() > 0


def test_what_has_no_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="the plug-in advstyle has no picture"):
        changes(["advstyle"], seed=0)
