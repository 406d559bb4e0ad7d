"""MixStyle: the formula, what is drawn and from what, and that it is the identity where it should be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spcnet.config import ModelConfig, RunConfig, TrainingConfig, as_dict, from_dict
from spcnet.engine.devices import make_fabric
from spcnet.engine.trainer import Trainer
from spcnet.errors import UsageError
from spcnet.methods import METHODS, card_for
from spcnet.models.mixing import StyleMixer, mix_styles, other_domain
from spcnet.models.network import Segmentor
from spcnet.types import Batch
from tests.support.weight_files import restore

CLASSES = 4


def model_of(**own: Any) -> ModelConfig:
    return ModelConfig("shufflenet_v2", output_stride=32, weights=None, settings=own)


def network_of(**own: Any) -> Segmentor:
    return METHODS["mixstyle"].build(model_of(**own), num_classes=CLASSES, num_domains=2)


def features(images: int = 4, *, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    spread = 1 + torch.rand(images, 3, 1, 1, generator=random)
    return spread * torch.randn(images, 3, 6, 5, generator=random) + torch.randn(images, 3, 1, 1, generator=random)


def batch_of(seed: int, images: int = 4) -> Batch:
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (images, 48, 64), generator=random)
    image = torch.randn(images, 3, 48, 64, generator=random)
    return Batch(image, label, torch.arange(images) % 2, tuple(map(str, range(images))))


# parity


def test_a_mixed_image_is_that_of_the_slow_formula() -> None:
    feature, partner, strength = features(), torch.tensor([2, 0, 1, 3]), torch.tensor([0.0, 0.25, 0.9, 0.4])
    mixed = mix_styles(feature, partner, strength)
    for image in range(4):
        for channel in range(3):
            x, y = feature[image, channel], feature[partner[image], channel]
            own, other = ((z.mean(), (z.var() + 1e-6).sqrt()) for z in (x, y))
            keep = strength[image]
            mean, std = (keep * a + (1 - keep) * b for a, b in zip(own, other, strict=True))
            torch.testing.assert_close(mixed[image, channel], std * (x - own[0]) / own[1] + mean, rtol=1e-5, atol=1e-5)


def test_the_statistics_are_constants_for_the_gradient() -> None:
    feature = features().double().requires_grad_()
    partner, strength = torch.tensor([1, 2, 3, 0]), torch.tensor([0.3, 0.6, 0.1, 0.9]).double()
    (gradient,) = torch.autograd.grad(mix_styles(feature, partner, strength).sum(), feature)
    own = (feature.var((2, 3)) + 1e-6).sqrt()
    mixed = strength[:, None] * own + (1 - strength[:, None]) * own[partner]
    torch.testing.assert_close(gradient, (mixed / own)[..., None, None].expand_as(gradient))


# properties


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(0, 99))
def test_a_mixed_image_has_the_mixed_style_and_its_own_content(strengths: list[float], seed: int) -> None:
    images = len(strengths)
    feature, strength = features(images, seed=seed), torch.tensor(strengths)
    partner = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    mixed = mix_styles(feature, partner, strength)
    mean, keep = feature.mean((2, 3)), strength[:, None]
    torch.testing.assert_close(mixed.mean((2, 3)), keep * mean + (1 - keep) * mean[partner], rtol=1e-4, atol=1e-4)
    standard = [torch.nn.functional.instance_norm(value, eps=1e-8) for value in (feature, mixed)]
    torch.testing.assert_close(standard[0], standard[1], rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 99))
def test_a_partner_across_domains_is_of_another_domain_where_there_is_one(domains: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    domain = torch.tensor(domains)
    for image, partner in enumerate(other_domain(domain).tolist()):
        if len(set(domains)) > 1:
            assert domains[partner] != domains[image]
        else:
            assert partner == image


def test_every_image_of_another_domain_may_be_the_partner() -> None:
    torch.manual_seed(0)
    domain = torch.tensor([0, 0, 1, 2])
    partners = {tuple(other_domain(domain).tolist()) for _ in range(200)}
    assert {partner[0] for partner in partners} == {2, 3}
    assert {partner[2] for partner in partners} == {0, 1, 3}


def drawn(images: int = 4, *, seed: int = 0, **own: Any) -> list[StyleMixer]:
    """The mixers of a network that is about to be trained on a batch."""
    network, batch = network_of(**own), batch_of(0, images)
    torch.manual_seed(seed)
    METHODS["mixstyle"].prepare(network, batch, model_of(**own))
    return [module for module in network.modules() if isinstance(module, StyleMixer)]


def test_nothing_is_mixed_in_evaluation_or_with_the_probability_zero() -> None:
    feature = features()
    for mixer in drawn(probability=1.0):
        assert torch.equal(mixer.eval()(feature), feature)
        assert not torch.allclose(mixer.train()(feature), feature)
    for mixer in drawn(probability=0.0):
        assert torch.equal(mixer.train()(feature), feature)


def test_an_image_keeps_its_style_where_it_keeps_all_of_it_or_is_its_own_partner() -> None:
    feature = features()
    assert torch.equal(mix_styles(feature, torch.tensor([1, 0, 3, 2]), torch.ones(4)), feature)
    torch.testing.assert_close(mix_styles(feature, torch.arange(4), torch.tensor([0.1, 0.5, 0.7, 0.0])), feature)


def test_a_layer_mixes_as_often_as_the_probability_says() -> None:
    network, batch, model = network_of(probability=0.25), batch_of(0), model_of(probability=0.25)
    mixers = [module for module in network.modules() if isinstance(module, StyleMixer)]
    assert len(mixers) == 2
    torch.manual_seed(0)
    mixed = 0
    for _ in range(200):
        METHODS["mixstyle"].prepare(network, batch, model)
        mixed += sum(mixer.partner is not None for mixer in mixers)
    assert 70 < mixed < 130


def test_strengths_are_of_the_beta_distribution() -> None:
    for alpha in (0.1, 2.0):
        (first, _) = drawn(4000, probability=1.0, alpha=alpha)
        assert first.strength is not None
        assert float(first.strength.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(first.strength.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_what_is_drawn_is_a_function_of_the_seed_and_differs_between_layers() -> None:
    once, again, other = (drawn(probability=1.0, seed=seed) for seed in (3, 3, 4))
    for one, same, different in zip(once, again, other, strict=True):
        assert one.strength is not None
        assert same.strength is not None
        assert different.strength is not None
        assert torch.equal(one.strength, same.strength)
        assert not torch.equal(one.strength, different.strength)
    assert not torch.equal(once[0].strength, once[1].strength)  # type: ignore[arg-type]


# the method


@pytest.mark.parametrize("mix", ["random", "cross-domain"])
def test_a_resumed_run_goes_on_exactly_and_its_network_opens(mix: str, tmp_path: Path) -> None:
    model = model_of(probability=1.0, mix=mix)

    def run(folder: Path, start: int, end: int) -> Trainer:
        training = TrainingConfig(iterations=4, log_every=1, checkpoint_every=1, accelerator="cpu", accumulate=2)
        config = RunConfig(method="mixstyle", model=model, training=training, output=folder)
        torch.manual_seed(0)
        network = METHODS["mixstyle"].build(model, num_classes=CLASSES, num_domains=2)
        card = card_for(
            method="mixstyle", model=model, space="toy", classes=tuple("abcd"), domains=["x", "y"], size=(48, 64)
        )
        folder.mkdir(exist_ok=True)
        trainer = Trainer(config, METHODS["mixstyle"], network, card, make_fabric(training))
        if start:
            trainer.resume()
        trainer.fit(batch_of(number) for number in range(2 * start, 2 * end))
        return trainer

    whole = run(tmp_path / "whole", 0, 4)
    run(tmp_path / "parts", 0, 2)
    resumed = run(tmp_path / "parts", 2, 4)
    expected = whole.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.network.state_dict().items())
    whole.finish()
    network, card = restore(tmp_path / "whole")
    assert card.model["settings"] == {"probability": 1.0, "mix": mix}
    baseline = METHODS["deeplabv3plus"].build(model_of(), num_classes=CLASSES, num_domains=2)
    assert network.state_dict().keys() == baseline.state_dict().keys()
    baseline.load_state_dict(network.state_dict())
    image = batch_of(9).image
    with torch.no_grad():
        assert torch.equal(network(image).logits, baseline.eval()(image).logits)


@pytest.mark.parametrize(
    ("method", "own", "message"),
    [
        (
            "mixstyle",
            {"alpa": 0.1},
            r"model\.settings\.alpa: the method mixstyle has the settings probability, alpha, ",
        ),
        (
            "deeplabv3plus",
            {"alpha": 0.1},
            r"model\.settings\.alpha: the method deeplabv3plus has no settings of its own",
        ),
        ("mixstyle", {"alpha": 0.0}, r"model\.settings\.alpha is 0\.0"),
        ("mixstyle", {"probability": 1.5}, r"model\.settings\.probability is 1\.5"),
        ("mixstyle", {"probability": "often"}, r"model\.settings\.probability is 'often'"),
        ("mixstyle", {"mix": "all"}, r"model\.settings\.mix is 'all': it must be one of random, cross-domain"),
        ("mixstyle", {"layers": ["layer9"]}, r"model\.settings\.layers names layer9"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_option(method: str, own: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        METHODS[method].build(model_of(**own), num_classes=CLASSES, num_domains=2)


def test_settings_are_written_and_read_and_older_configurations_have_none() -> None:
    config = RunConfig(method="mixstyle", model=model_of(alpha=0.2))
    assert from_dict(RunConfig, as_dict(config)) == config
    older = as_dict(RunConfig())
    del older["model"]["settings"]
    assert from_dict(RunConfig, older) == RunConfig()
