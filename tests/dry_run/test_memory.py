"""The bytes that a step is said to take are those that it takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from spcnet.config import AdapterConfig, DataConfig, ModelConfig, RunConfig, TrainingConfig
from spcnet.dry_run.memory import step_memory, weights
from spcnet.engine.devices import make_fabric
from spcnet.engine.trainer import Trainer
from spcnet.methods import METHODS, card_for
from spcnet.types import Batch

SIDE, CLASSES = 128, 19
VIT = ModelConfig("timm/test_vit", output_stride=None, weights=None, decoder="conv4")
LORA = replace(VIT, adapter=AdapterConfig("lora", rank=2))
SHUFFLE = ModelConfig("shufflenet_v2", output_stride=32, weights=None)
CASES: dict[str, tuple[str, ModelConfig, dict[str, Any]]] = {
    "cnn": ("deeplabv3plus", SHUFFLE, {"optimizer": "adamw"}),
    "spcnet": ("spcnet", SHUFFLE, {}),
    "accumulated": ("spcnet", SHUFFLE, {"accumulate": 2}),
    "lora": ("deeplabv3plus", LORA, {"optimizer": "adamw"}),
    "lora in half precision": ("deeplabv3plus", LORA, {"optimizer": "adamw", "precision": "bf16-mixed"}),
    "recomputed": ("spcnet", VIT, {"activation_checkpointing": True}),
}


def settings(case: str, folder: Path) -> RunConfig:
    method, model, more = CASES[case]
    data = DataConfig(size=(SIDE, SIDE), images_per_domain=2)
    training = TrainingConfig(accelerator="cpu", **more)
    return RunConfig(method=method, model=model, data=data, training=training, output=folder)


@pytest.mark.parametrize("case", CASES)
def test_a_step_takes_what_is_counted(case: str, tmp_path: Path) -> None:
    """Every allocation of tensors in a real step, summed up; it begins with the weights and the optimiser's memory."""
    config = settings(case, tmp_path)
    method = METHODS[config.method]
    network = method.build(config.model, num_classes=CLASSES, num_domains=2)
    network.recompute = config.training.activation_checkpointing
    before = {name: value.clone() for name, value in network.state_dict().items()}
    counted = step_memory(network, config, "cpu")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value.grad is None for value in network.parameters())
    names = tuple(map(str, range(CLASSES)))
    card = card_for(method=config.method, model=config.model, space="x", classes=names, domains=["a", "b"], size=None)
    trainer = Trainer(config, method, network, card, make_fabric(config.training))
    trainer.keeps_failed_steps = False

    def parts() -> list[Batch]:
        image, label = torch.randn(4, 3, SIDE, SIDE), torch.randint(0, CLASSES, (4, SIDE, SIDE))
        return [Batch(image, label, torch.arange(4) % 2, tuple("abcd")) for _ in range(config.training.accumulate)]

    trainer.step(parts())
    remembered = sum(
        value.nbytes for own in trainer.optimizer.state.values() for value in own.values() if value is not None
    )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        trainer.step(parts())
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    sizes = [event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for size in sizes:
        now += size
        peak = max(peak, now)
    measured = weights(network)[0] + remembered + peak
    # The convolutions' own copies of weights, which nobody counts, are much of what so small images need.
    least = 0.75 if config.model.backbone == "shufflenet_v2" else 0.9
    assert least < counted / measured < 1.1


def test_all_that_can_be_trained_is_counted(tmp_path: Path) -> None:
    """Methods and heads that ask for numbers, which a step of shapes has none of."""
    for method, model in [
        *((name, SHUFFLE) for name in ("isw", "sw", "mixstyle", "style_substitution")),
        *(("deeplabv3plus", replace(VIT, decoder=name)) for name in ("eomt", "segformer")),
    ]:
        config = replace(settings("cnn", tmp_path), method=method, model=model)
        network = METHODS[method].build(model, num_classes=CLASSES, num_domains=2)
        assert step_memory(network, config, "cpu") > 4 * weights(network)[0], method


def test_processes_that_divide_the_weights_need_less(tmp_path: Path) -> None:
    config = settings("cnn", tmp_path)
    config = replace(config, model=replace(VIT, decoder="linear"))
    network = METHODS["deeplabv3plus"].build(config.model, num_classes=CLASSES, num_domains=2)
    divided = replace(config, training=replace(config.training, strategy="fsdp"))
    whole, two, eight = (
        step_memory(network, one, "cpu", processes=n) for one, n in [(config, 2), (divided, 2), (divided, 8)]
    )
    assert eight < two < whole
    total, trained = weights(network)
    # AdamW: weights, gradients and two numbers of each, an eighth instead of a half.
    assert two - eight == pytest.approx((total + 3 * trained) * (1 / 2 - 1 / 8), abs=8)
