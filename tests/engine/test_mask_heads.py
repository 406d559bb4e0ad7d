"""Heads of masks in the loop: they train with every method that makes sense, repeat, and go on where they stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spcnet import checkpoint
from spcnet.config import HeadConfig, LossConfig, ModelConfig, RunConfig
from spcnet.engine import records
from spcnet.errors import UsageError
from spcnet.methods import METHODS
from spcnet.types import Batch
from tests.support.training import batches, losses, pairs, settings, trainer
from tests.support.weight_files import restore

QUERIES = HeadConfig(queries=8, layers=2, channels=32, points=128)
MASKS = ("mask_class", "mask_bce", "mask_dice")


def mask2former(backbone: str = "shufflenet_v2", head: HeadConfig = QUERIES) -> ModelConfig:
    return ModelConfig(backbone=backbone, decoder="mask2former", head=head, output_stride=32, weights=None)


def eomt(**head: int | bool) -> ModelConfig:
    config = HeadConfig(**{"queries": 8, "blocks": 2, "points": 128, **head})
    return ModelConfig("timm/vit_tiny_patch16_224", decoder="eomt", head=config, weights=None)


def run_of(output: Path, method: str, model: ModelConfig, *, iterations: int = 2, **training: object) -> RunConfig:
    config = settings(output, method=method, iterations=iterations, learning_rate=1e-3, **training)
    return replace(config, model=model)


@pytest.mark.parametrize(
    ("method", "model", "more"),
    [
        ("deeplabv3plus", mask2former(), ()),
        ("deeplabv3plus", mask2former(head=replace(QUERIES, pixel_decoder=False)), ()),
        ("deeplabv3plus", mask2former(head=replace(QUERIES, queries=100, fixed_queries=True)), ()),
        ("style_projection", mask2former(), ()),
        ("mixstyle", mask2former(), ()),
        ("isw", mask2former("resnet18"), ("whitening",)),
        ("deeplabv3plus", eomt(), ()),
        ("style_projection", eomt(), ()),
        ("mixstyle", eomt(queries=100, fixed_queries=True), ()),
    ],
)
def test_it_trains_is_saved_and_read_back(
    method: str, model: ModelConfig, more: tuple[str, ...], tmp_path: Path
) -> None:
    run = trainer(run_of(tmp_path, method, model))
    before = {name: own.detach().clone() for name, own in run.network.named_parameters()}
    run.fit(batches(0, 2), trials=pairs)
    lines = records.read_lines(tmp_path / records.TRAIN_FILE)
    assert [set(line["parts"]) for line in lines] == [{*MASKS, *more}] * 2
    moved = [name for name, own in run.network.named_parameters() if not torch.equal(own, before[name])]
    assert any(name.startswith("backbone.") for name in moved)
    assert {name for name in before if name.startswith("decoder.")} <= set(moved)
    again, _ = restore(run.finish())
    image = next(batches(5, 6)).image
    with torch.no_grad():
        found = again.eval()(image)
        torch.testing.assert_close(
            found.logits, run.network.eval()(image).logits, rtol=1e-4, atol=1e-4
        )  # another layout
    assert found.logits.shape == (4, 4, 48, 64)
    assert found.masks == ()


@pytest.mark.slow
@pytest.mark.parametrize("model", [mask2former(), eomt()], ids=["mask2former", "eomt"])
def test_it_learns(model: ModelConfig, tmp_path: Path) -> None:
    trainer(run_of(tmp_path, "deeplabv3plus", model, iterations=40, optimizer="adamw")).fit(batches(0, 40))
    found = losses(tmp_path)
    assert sum(found[-5:]) < 0.9 * sum(found[:5])


@pytest.mark.parametrize("model", [mask2former(), eomt()], ids=["mask2former", "eomt"])
def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(model: ModelConfig, tmp_path: Path) -> None:
    whole, parted = (
        run_of(tmp_path / name, "deeplabv3plus", model, iterations=4, checkpoint_every=2)
        for name in ("whole", "parted")
    )
    trainer(whole).fit(batches(0, 4))
    trainer(parted).fit(batches(0, 3))
    second = trainer(parted)
    second.resume()
    assert second.iteration == 2
    second.fit(batches(2, 4))
    assert losses(parted.output) == losses(whole.output)
    one, two = (checkpoint.read_all(config.output / checkpoint.LATEST_FILE)[0] for config in (whole, parted))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("model", [mask2former(), eomt()], ids=["mask2former", "eomt"])
def test_parts_of_a_batch_equal_the_whole(model: ModelConfig, tmp_path: Path) -> None:
    """In the middle of a run, where eomt's queries give up their masks; the batch norms keep their statistics."""
    weights = []
    for parts in (1, 2):
        frozen = model.decoder == "mask2former"  # a vision transformer has no batch norms
        training = {"accumulate": parts, "precision": "64-true", "freeze_batchnorm": frozen}
        run = trainer(run_of(tmp_path / str(parts), "deeplabv3plus", model, iterations=8, **training))
        run.iteration = 3
        batch = next(batches(0, 1))
        halves = [Batch(*(value[k::parts] for value in batch)) for k in range(parts)]
        run.step(halves)
        weights.append(run.network.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-9, atol=1e-12)


def test_a_batch_without_a_labelled_pixel_moves_nothing(tmp_path: Path) -> None:
    run = trainer(run_of(tmp_path, "deeplabv3plus", mask2former(), weight_decay=0.0))
    before = {name: own.detach().clone() for name, own in run.network.named_parameters()}
    batch = next(batches(0, 1))
    result = run.step([batch._replace(label=torch.full_like(batch.label, 255))])
    assert result.loss.item() == 0
    assert all(torch.equal(own, before[name]) for name, own in run.network.named_parameters())


@pytest.mark.parametrize("name", ["mask2former", "eomt"])
@pytest.mark.parametrize(
    ("method", "changed", "message"),
    [
        ("spcnet", {}, r"method spcnet classifies pixels by prototypes.*classifies queries"),
        ("semantic_clustering", {}, r"method semantic_clustering classifies pixels by prototypes"),
        ("deeplabv3plus", {"auxiliary_weight": 0.4}, r"model\.auxiliary_weight is 0\.4.*set it to 0"),
        ("deeplabv3plus", {"loss": LossConfig(weighting="image")}, r"model\.loss\.weighting is 'image'.*masks"),
        ("deeplabv3plus", {"loss": LossConfig(border=1)}, r"model\.loss\.border is 1.*masks"),
        ("deeplabv3plus", {"head": HeadConfig(dropout=0.5)}, r"model\.head\.dropout is 0\.5"),
    ],
)
def test_what_it_would_ignore_is_refused(name: str, method: str, changed: dict[str, object], message: str) -> None:
    model = replace(mask2former() if name == "mask2former" else eomt(), **changed)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        METHODS[method].check(model)


def test_eomt_on_a_network_of_convolutions_is_refused() -> None:
    model = replace(mask2former(), decoder="eomt", head=HeadConfig())
    with pytest.raises(UsageError, match=r"eomt .* plain vision transformer, and this backbone has no such tokens"):
        METHODS["deeplabv3plus"].build(model, num_classes=4, num_domains=2)
