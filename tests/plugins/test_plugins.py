"""The contract of plug-ins, for each that the registry has: any method trains with it, goes on exactly, and is left as it was."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
import torchvision
from torch import Tensor, nn

from spcnet.config import DataConfig, HeadConfig, RunConfig, from_dict
from spcnet.engine.devices import make_fabric
from spcnet.engine.trainer import Trainer
from spcnet.errors import CheckpointError, UsageError
from spcnet.methods import METHODS, card_for
from spcnet.plugins import PLUGINS, make_plugins, with_plugins
from spcnet.types import Batch
from tests.support import training
from tests.support.demo_networks import shortened

Item = str | dict[str, Any]
ALWAYS: dict[str, dict[str, Any]] = {
    "mixstyle": {"probability": 1.0, "alpha": 1.0},
    "dsu": {"probability": 1.0},
    "np_plus": {"probability": 1.0, "random_features": 1.0},
    "fourier": {"probability": 1.0},
    "randconv": {"probability": 1.0},
    "shade": {"styles": 3, "memory": 6, "every": 2},
    "two_view": {"photometric": 0.4},
    "feature_distance": {"weight": 1.0, "classes": ["road", "sidewalk"]},
    "content_extension": {"weight": 1.0, "cells": 3, "memory": 20},
}
"""Settings with which a plug-in acts in every step; its defaults where it is not named."""


def run_of(*names: str, **off: Any) -> list[Item]:
    """A plug-in with what it needs beside it."""
    items: list[Item] = [{"name": name, **ALWAYS.get(name, {}), **off} for name in names]
    return [*items, {"name": "mixstyle", **ALWAYS["mixstyle"]}] if names == ("content_extension",) else items


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights of ShuffleNet."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    torch.save(torchvision.models.shufflenet_v2_x1_0().state_dict(), path)
    return str(path)


def trainer_of(config: RunConfig, *, short: bool = False) -> Trainer:
    method = METHODS[config.method]
    torch.manual_seed(config.training.seed)
    network = method.build(config.model, num_classes=training.CLASSES, num_domains=2)
    network = shortened(network) if short else network
    for layer in network.modules():
        if isinstance(layer, nn.Dropout2d | nn.Dropout):
            layer.p = 0.0
    card = card_for(
        method=config.method, model=config.model, space="test", classes=tuple("wxyz"), domains=["a", "b"], size=(48, 64)
    )
    config.output.mkdir(parents=True, exist_ok=True)
    plugins = make_plugins(config)
    return Trainer(config, with_plugins(method, plugins, network, config), network, card, make_fabric(config.training))


def config_of(
    folder: Path, plugins: list[Item], *, method: str = "deeplabv3plus", weights: str | None = None, **options: Any
) -> RunConfig:
    config = training.settings(folder, method=method, **options)
    return replace(config, plugins=plugins, model=replace(config.model, weights=weights))


def fitted(config: RunConfig, start: int, end: int, *, parts: int = 1, resume: bool = False) -> Trainer:
    trainer = trainer_of(config)
    if resume:
        trainer.resume()
    trainer.fit(part for batch in training.batches(start, end) for part in parted(batch, parts))
    return trainer


def parted(batch: Batch, parts: int) -> list[Batch]:
    return [Batch(*(value[part::parts] for value in batch)) for part in range(parts)]  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["deeplabv3plus", "spcnet"])
@pytest.mark.parametrize("name", PLUGINS)
def test_a_plug_in_changes_the_training_and_nothing_of_what_comes_out(
    name: str, method: str, weights: str, tmp_path: Path
) -> None:
    plain = fitted(config_of(tmp_path / "plain", [], method=method, weights=weights, iterations=2), 0, 2)
    trainer = fitted(config_of(tmp_path / "run", run_of(name), method=method, weights=weights, iterations=2), 0, 2)
    assert training.losses(tmp_path / "run") != training.losses(tmp_path / "plain")
    state, expected = trainer.network.state_dict(), plain.network.state_dict()
    assert state.keys() == expected.keys()
    assert any(not torch.equal(value, expected[key]) for key, value in state.items())
    image = next(iter(training.batches(9, 10))).image
    plain.network.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(trainer.network.eval()(image).logits, plain.network.eval()(image).logits)


@pytest.mark.parametrize("name", PLUGINS)
def test_a_resumed_run_goes_on_exactly(name: str, weights: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"iterations": 4, "checkpoint_every": 2, "weights": weights}
    whole = fitted(config_of(tmp_path / "whole", run_of(name), **options), 0, 4)
    begun = config_of(tmp_path / "parts", run_of(name), **options)
    fitted(begun, 0, 2)
    resumed = fitted(begun, 2, 4, resume=True)
    for found, expected in (
        (resumed.network.state_dict(), whole.network.state_dict()),
        (resumed.method.state(), whole.method.state()),
    ):
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert training.losses(tmp_path / "parts") == training.losses(tmp_path / "whole")


@pytest.mark.parametrize("off", [("mixstyle", "probability"), ("dsu", "strength"), ("np_plus", "probability")])
def test_a_plug_in_of_strength_nought_is_the_identity(off: tuple[str, str], tmp_path: Path) -> None:
    name, setting = off
    fitted(config_of(tmp_path / "plain", [], iterations=2), 0, 2)
    fitted(config_of(tmp_path / "off", run_of(name, **{setting: 0.0}), iterations=2), 0, 2)
    assert training.losses(tmp_path / "off") == training.losses(tmp_path / "plain")


def test_views_are_the_image_as_it_is_and_altered_and_labels_stay(tmp_path: Path) -> None:
    trainer = trainer_of(config_of(tmp_path, run_of("two_view")))
    (batch,) = training.batches(0, 1)
    step = trainer._step(4, 0, 0.0)
    doubled = trainer.method.alter(trainer.network, batch, step)
    assert torch.equal(doubled.image[:4], batch.image)
    assert not torch.equal(doubled.image[4:], batch.image)
    assert torch.equal(doubled.label, batch.label.repeat(2, 1, 1))
    assert torch.equal(doubled.domain, batch.domain.repeat(2))
    assert torch.equal(trainer.method.alter(trainer.network, batch, step).image, doubled.image)
    later = trainer.method.alter(trainer.network, batch, replace(step, iteration=1))
    assert not torch.equal(later.image, doubled.image)


@pytest.mark.parametrize("names", [("shade", "two_view", "content_extension"), ("pasta", "randconv", "advstyle")])
def test_micro_batches_equal_the_whole(names: tuple[str, ...], tmp_path: Path) -> None:
    plugins = run_of(*names)
    options: dict[str, Any] = {"iterations": 3, "precision": "64-true", "freeze_batchnorm": True}
    whole = fitted(config_of(tmp_path / "whole", plugins, **options), 0, 3)
    config = config_of(tmp_path / "parts", plugins, accumulate=2, **options)
    parts = fitted(replace(config, data=DataConfig(images_per_domain=1)), 0, 3, parts=2)
    assert_close(parts.network.state_dict() | parts.method.state(), whole.network.state_dict() | whole.method.state())


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # What plug-ins remember is single precision.
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-8 if value.dtype == torch.double else 1e-6)


SEVERAL: dict[str, list[Item]] = {
    "features": run_of("mixstyle", "dsu", "np_plus"),
    "cross-domain": [{"name": "mixstyle", "mix": "cross-domain", "probability": 1.0}],
    "images": run_of("pasta", "randconv", "advstyle"),
    "views": run_of("shade", "two_view", "content_extension"),
}


def learn(case: str, folder: Path, *, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    options: dict[str, Any] = {"iterations": 3, "precision": "64-true", "freeze_batchnorm": True}
    config = replace(config_of(folder / case, SEVERAL[case], **options), data=DataConfig(images_per_domain=2 // world))
    trainer = trainer_of(config, short=True)
    assert trainer.fabric.world_size == world
    trainer.fit(parted(batch, world)[rank] for batch in training.batches(0, 3))
    return {**trainer.network.state_dict(), **trainer.method.state()}


def work(rank: int, world: int, folder: str, at: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(at), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    found = {case: learn(case, Path(folder), rank=rank, world=world) for case in SEVERAL}
    torch.save(found, f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (2, str(tmp_path), 29_000 + os.getpid() % 900), nprocs=2)
    found = torch.load(tmp_path / "0.pth", weights_only=True)
    for case in SEVERAL:
        assert_close(found[case], learn(case, tmp_path / "alone"))


def test_a_mask_head_and_a_plug_in_train_together(tmp_path: Path) -> None:
    config = config_of(tmp_path, run_of("shade", "two_view"), iterations=2)
    head = HeadConfig(queries=4, layers=1, points=64)
    config = replace(config, model=replace(config.model, decoder="mask2former", output_stride=32, head=head))
    trainer = fitted(config, 0, 2)
    assert trainer.iteration == 2


@pytest.mark.parametrize(
    ("plugins", "options", "message"),
    [
        (["mixstle"], {}, r"unknown plug-in 'mixstle': .* Did you mean 'mixstyle'\?"),
        (
            [{"name": "dsu", "strenght": 1}],
            {},
            r"plugins\.dsu\.strenght: the plug-in dsu has the .* Did you mean strength\?",
        ),
        ([{"name": "dsu", "strength": -1}], {}, r"plugins\.dsu\.strength is -1"),
        ([{"alpha": 1}], {}, r"plugins has \{'alpha': 1\}: each is a name"),
        (["dsu", {"name": "dsu"}], {}, r"plugins names dsu twice"),
        (["two_view"], {}, r"plugins names two_view, which trains on .* nothing alters it"),
        (["mixstyle"], {"compile": True}, r"training\.compile is true, and the plug-in mixstyle"),
        ([{"name": "mixstyle", "layers": ["layer9"]}], {}, r"plugins\.mixstyle\.layers names layer9"),
        ([{"name": "shade", "memory": 8}], {}, r"plugins\.shade\.memory is 8"),
        (["feature_distance"], {}, r"feature_distance, and model\.weights is null"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_option(
    plugins: list[Item], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        trainer_of(config_of(tmp_path, plugins, **options))


def test_a_run_goes_on_with_its_own_plug_ins_alone(tmp_path: Path) -> None:
    fitted(config_of(tmp_path, run_of("shade"), iterations=2, checkpoint_every=1), 0, 1)
    with pytest.raises(CheckpointError, match="has a state of the plug-in shade, which this run lacks"):
        trainer_of(config_of(tmp_path, [], iterations=2)).resume()


def test_names_may_stand_without_brackets() -> None:
    assert from_dict(RunConfig, {"plugins": "mixstyle,dsu"}).plugins == ["mixstyle", "dsu"]


def test_help_and_docs_name_every_plug_in() -> None:
    root = Path(__file__).parents[2]
    listed = re.findall(r"^\| `(\w+)` \|", (root / "docs" / "plugins.md").read_text(), re.MULTILINE)
    assert listed == list(PLUGINS)
    line = next(
        line for line in (root / "docs" / "options.md").read_text().splitlines() if line.startswith("| `plugins`")
    )
    assert ", ".join(PLUGINS) in line


@pytest.mark.parametrize(
    ("plugin", "data", "message"),
    [
        ({"name": "mixstyle", "layers": []}, {}, r"mixstyle\.layers is empty, so nothing would change"),
        ({"name": "dsu", "layers": []}, {}, r"dsu\.layers is empty"),
        ("dsu", {"sources": ["streets/game"], "images_per_domain": 1}, "dsu takes styles from other images of a batch"),
        ("mixstyle", {"sources": ["streets/game"], "images_per_domain": 1}, "mixstyle takes styles from other images"),
        (
            {"name": "mixstyle", "mix": "cross-domain"},
            {"sources": ["streets/game"], "images_per_domain": 4},
            "mix is cross-domain, and streets/game is the only domain",
        ),
    ],
)
def test_a_plug_in_that_would_change_nothing_is_refused(plugin: Item, data: dict[str, Any], message: str) -> None:
    config = from_dict(RunConfig, {"plugins": [plugin], "data": data, "method": "deeplabv3plus"})
    network = METHODS["deeplabv3plus"].build(training.settings(Path("x")).model, num_classes=4, num_domains=2)
    with pytest.raises(UsageError, match=message):
        with_plugins(METHODS["deeplabv3plus"], make_plugins(config), network, config)
