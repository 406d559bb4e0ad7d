"""Processes that divide weights, gradients and the optimiser's memory (FSDP2) train what one process trains."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from spcnet import checkpoint
from spcnet.config import AdapterConfig, ModelConfig, RunConfig, TrainingConfig, WhiteningConfig
from spcnet.engine.devices import make_fabric
from spcnet.engine.sharding import Replica, gathered, shard
from spcnet.engine.trainer import Trainer
from spcnet.errors import UsageError
from spcnet.methods import METHODS
from spcnet.models.network import Segmentor
from spcnet.types import Batch
from tests.support import training

STEPS, HALF = 4, 2
VIT = ModelConfig("timm/test_vit", output_stride=None, weights=None, decoder="conv4")
CASES: dict[str, tuple[str, ModelConfig, dict[str, Any]]] = {
    "lora": (
        "deeplabv3plus",
        replace(VIT, adapter=AdapterConfig("lora", rank=2)),
        {"optimizer": "adamw", "learning_rate": 1e-3, "clip_gradient": 0.5, "layer_decay": 0.8},
    ),
    "spcnet": ("spcnet", VIT, {"accumulate": 2, "activation_checkpointing": True}),
}


def settings(case: str, folder: Path, *, strategy: str = "auto") -> RunConfig:
    """Of one process the images of two, in as many parts."""
    method, model, more = CASES[case]
    frozen = {"freeze_batchnorm": True} if model.decoder == "deeplabv3plus" else {}  # others have no batch norms
    common = {"precision": "64-true", "strategy": strategy, **frozen}
    parts = more.get("accumulate", 1) * (1 if strategy == "fsdp" else 2)
    config = training.settings(folder, method=method, iterations=STEPS, **common | more | {"accumulate": parts})
    return replace(config, model=model, data=replace(config.data, images_per_domain=1))


def made(config: RunConfig) -> Trainer:
    trainer = training.trainer(config)
    for layer in trainer.network.modules():
        if isinstance(layer, (nn.Dropout, nn.Dropout2d)):
            layer.p = 0.0
    return trainer


def batches(trainer: Trainer, start: int, end: int) -> Iterator[Batch]:
    """The share of this process of each batch, in as many parts as the run has."""
    world, parts = trainer.fabric.world_size, trainer.config.training.accumulate
    for whole in training.batches(start, end):
        for part in range(parts):
            yield Batch(*(value[trainer.fabric.global_rank :: world][part::parts] for value in whole))  # type: ignore[arg-type]


def work(rank: int, world: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.save({case: learn(case, Path(folder) / case) for case in CASES}, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def learn(case: str, folder: Path) -> dict[str, Any]:
    """Train in one go, and again with a stop in the middle; what this process holds, and what the whole network says."""
    straight = made(settings(case, folder / "straight", strategy="fsdp"))
    numbers = sum(value.numel() for value in straight.network.parameters())
    trained = sum(value.numel() for value in straight.network.parameters() if value.requires_grad)
    straight.fit(batches(straight, 0, STEPS))
    straight.finish()
    scores = straight.evaluated.eval()(picture()).logits.detach()
    parameters = list(straight.network.parameters())
    assert all(isinstance(value, DTensor) for value in parameters)
    local = sum(value.to_local().numel() for value in parameters if isinstance(value, DTensor))
    memory = [value for own in straight.optimizer.state.values() for value in own.values() if value.ndim]
    remembered = sum(value.to_local().numel() for value in memory)
    first = made(settings(case, folder / "resumed", strategy="fsdp"))
    first.fit(batches(first, 0, HALF))
    first.save()
    second = made(settings(case, folder / "resumed", strategy="fsdp"))
    second.resume()
    second.fit(batches(second, HALF, STEPS))
    return {
        "scores": scores,
        "weights": local / numbers,
        "memory": remembered / (trained * (2 if case == "lora" else 1)),
        "classes": straight.predictor()(picture()),
    }


def picture() -> Tensor:
    return next(training.batches(77, 78)).image.double()


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def difference(one: Path, other: Path) -> float:
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


@pytest.mark.slow
def test_two_processes_that_divide_the_weights_train_what_one_trains(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (2, str(tmp_path), port()), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2)]
    for case in CASES:
        alone = made(settings(case, tmp_path / "alone" / case))
        alone.fit(batches(alone, 0, STEPS))
        alone.finish()
        folder = tmp_path / case
        for name in (checkpoint.LATEST_FILE, checkpoint.MODEL_FILE):
            assert difference(folder / "straight" / name, alone.config.output / name) < 1e-8, (case, name)
        ours, theirs = (training.losses(run) for run in (folder / "straight", alone.config.output))
        assert ours == pytest.approx(theirs, abs=1e-8)
        assert len(set(ours)) == STEPS
        # A run that stops and goes on, bit for bit; and one process that goes on from the same checkpoint.
        assert (
            difference(folder / "resumed" / checkpoint.LATEST_FILE, folder / "straight" / checkpoint.LATEST_FILE) == 0
        )
        half = (folder / "resumed" / checkpoint.PREVIOUS_FILE).read_bytes()
        taken_up = made(settings(case, tmp_path / "taken up" / case))
        (taken_up.config.output / checkpoint.LATEST_FILE).write_bytes(half)
        taken_up.resume()
        taken_up.fit(batches(taken_up, HALF, STEPS))
        last = [run / checkpoint.LATEST_FILE for run in (taken_up.config.output, alone.config.output)]
        assert difference(*last) < 1e-8, case
        # The file of the finished run predicts what the divided network predicts, in each process.
        network = METHODS[CASES[case][0]].build(CASES[case][1], num_classes=training.CLASSES, num_domains=2)
        network.double().load_state_dict(load_file(folder / "straight" / checkpoint.MODEL_FILE))
        expected = network.eval()(picture()).logits.detach()
        for result in results:
            torch.testing.assert_close(result[case]["scores"], expected, rtol=0, atol=1e-10)
            assert torch.equal(result[case]["classes"], expected.argmax(1))
            # Rows are divided, so that a parameter of one row is whole in the first process.
            assert 0.45 < result[case]["weights"] < 0.55
            assert 0.45 < result[case]["memory"] < 0.55


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        ModelConfig("shufflenet_v2", output_stride=32, weights=None),
        replace(VIT, decoder="eomt"),
        ModelConfig("timm/test_convnext", output_stride=None, weights=None, decoder="mask2former"),
        ModelConfig("timm/test_efficientnet", output_stride=None, weights=None, decoder="segformer"),
    ],
    ids=lambda model: model.backbone if isinstance(model, ModelConfig) else None,
)
def test_a_divided_network_computes_what_the_whole_one_does(
    model: ModelConfig, recompute: bool, one_process: None
) -> None:
    torch.manual_seed(0)
    whole = METHODS["deeplabv3plus"].build(model, num_classes=3, num_domains=2).double()
    whole.recompute = recompute
    divided = Replica(whole).of(whole)
    replica = Replica(divided)
    shard(divided)
    assert sum(hasattr(module, "unshard") for module in divided.modules()) > 3
    image = torch.randn(2, 3, 64, 64, dtype=torch.double)
    for network in (whole, divided):
        torch.manual_seed(1)
        scores(network, image).square().mean().backward()
    gradients = gathered({name: p.grad for name, p in divided.named_parameters() if p.grad is not None})
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-8, atol=1e-10)
    copied = replica.of(divided).state_dict()
    assert copied.keys() == whole.state_dict().keys()
    for name, value in divided.named_parameters():
        assert isinstance(value, DTensor)
        assert torch.equal(copied[name], value.full_tensor())


def scores(network: Segmentor, image: Tensor) -> Tensor:
    output = network.train()(image)
    return torch.cat([output.logits.flatten(), *(mask.masks.flatten() for mask in output.masks)])


@pytest.mark.parametrize(
    "settings", [{"ema": 0.9}, {"compile": True}, {"precision": "16-mixed"}], ids=lambda settings: next(iter(settings))
)
def test_what_does_not_go_with_divided_weights_is_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(UsageError, match=rf"training\.{name} is .* does not go with training\.strategy fsdp"):
        TrainingConfig(strategy="fsdp", **settings)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_has_nothing_to_divide(strategy: str) -> None:
    with pytest.raises(UsageError, match=rf"training\.strategy is {strategy}, but there is one process"):
        make_fabric(TrainingConfig(strategy=strategy, accelerator="cpu"))  # type: ignore[arg-type]


def test_methods_that_take_statistics_are_refused(tmp_path: Path) -> None:
    config = training.settings(tmp_path, method="isw")
    config = replace(config, model=replace(config.model, whitening=WhiteningConfig(start=0.5)))
    trainer = training.trainer(config)
    divided = replace(config, training=replace(config.training, strategy="fsdp"))
    with pytest.raises(UsageError, match=r"training\.strategy is fsdp, but isw takes statistics"):
        Trainer(divided, trainer.method, trainer.network, trainer.card, trainer.fabric)
