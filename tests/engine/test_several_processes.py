"""R processes equal one on the joined batch, and parts of a batch equal the whole; with real processes (gloo)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from PIL import Image
from torch import Tensor, nn

from spcnet import distributed
from spcnet.config import AdapterConfig, DataConfig, LossConfig, ModelConfig, RunConfig, TrainingConfig, WhiteningConfig
from spcnet.engine import records
from spcnet.engine.devices import layout, make_fabric, scorer
from spcnet.engine.trainer import Trainer
from spcnet.errors import UsageError
from spcnet.evaluation import evaluator
from spcnet.methods import METHODS, card_for
from spcnet.models.network import Segmentor
from spcnet.types import IGNORE_INDEX, Batch
from tests.support.demo_networks import shortened

CLASSES, IMAGES, STEPS = 4, 6, 5
MODEL = ModelConfig("shufflenet_v2", output_stride=32, weights=None)
CASES: dict[str, tuple[str, ModelConfig]] = {
    "baseline": ("deeplabv3plus", replace(MODEL, auxiliary_weight=0.4)),
    "spcnet": (
        "spcnet",
        replace(MODEL, loss=LossConfig({"ce": 1, "ohem": 0.5, "dice": 1, "lovasz": 1}, weighting="image", border=1)),
    ),
    "clustered": ("spcnet", replace(MODEL, loss=LossConfig(weighting="batch"))),
    "isw": ("isw", replace(MODEL, whitening=WhiteningConfig(start=0.4, clusters=2))),
    "sw": ("sw", MODEL),
    "lora": ("spcnet", replace(MODEL, adapter=AdapterConfig("lora", rank=2, targets=["branch2.0"], start="soma"))),
    "rein": ("spcnet", replace(MODEL, adapter=AdapterConfig("rein", rank=2, tokens=4))),
    "adamw": ("deeplabv3plus", MODEL),
}
OPTIMISATION: dict[str, dict[str, Any]] = {
    "adamw": {
        "optimizer": "adamw", "learning_rate": 2e-3, "weight_decay": 0.05, "weight_decay_end": 0.01, "layer_decay": 0.8,
        "warmup": 1, "backbone_warmup": (1, 1), "warmup_factor": 0.1, "clip_gradient": 0.1, "ema": 0.5, "ema_start": 1,
    },
}  # fmt: skip
"""Settings of the training beside those that all cases have."""
PARTS = ("spcnet", "isw", "adamw", "lora")
"""Those that are trained with batches in parts, too; the others look at the whole batch, and say so or are like batch norms."""


def joined(iteration: int) -> Batch:
    """Six images of two domains in turns; of the first an image without labels, of the second one of a single class."""
    dice = torch.Generator().manual_seed(iteration)
    label = (
        torch.randint(0, CLASSES, (IMAGES, 4, 1), generator=dice).repeat_interleave(12, 1).expand(-1, 48, 64).clone()
    )
    image = torch.randn(IMAGES, 3, 48, 64, generator=dice, dtype=torch.double) + label[:, None] / 2
    label[2], label[5] = IGNORE_INDEX, 3
    domain = torch.tensor([0, 1] * 3)
    return Batch(image - 0.7 * domain.view(-1, 1, 1, 1), label, domain, tuple("abcdef"))


def share(batch: Batch, rank: int, world: int) -> Batch:
    return Batch(*(part[rank::world] for part in batch))  # type: ignore[arg-type]


def batches(rank: int, world: int, parts: int) -> Iterator[Batch]:
    """Of two processes, each has a single domain."""
    for iteration in range(STEPS):
        own = share(joined(iteration), rank, world)
        for part in range(parts):
            yield share(own, part, parts)


def pairs(rank: int, world: int) -> Iterator[Iterator[Batch]]:
    """Two trials of five pairs of an image and its altered form; the processes have unequally many."""
    for trial in range(2):
        images = joined(100 + trial).image[:5]
        altered = 1.5 * images + torch.arange(3).view(3, 1, 1)
        both = torch.stack([altered, images], dim=1)[rank::world]
        label = torch.full((2, 48, 64), IGNORE_INDEX)
        yield (Batch(pair, label, torch.zeros(2, dtype=torch.long), ("x", "y")) for pair in both)


def made(case: str) -> Segmentor:
    """The network that all processes begin with; its random numbers are the same everywhere."""
    method, model = CASES[case]
    torch.manual_seed(0)
    built = METHODS[method].build(model, num_classes=CLASSES, num_domains=2, cluster_domains=case == "clustered")
    return shortened(built)


def learn(case: str, folder: Path, *, rank: int = 0, world: int = 1, parts: int = 1) -> dict[str, Tensor]:
    """Weights, buffers, last gradients, losses, and outputs after five steps."""
    method, model = CASES[case]
    output = folder / case.replace(" ", "_")
    common: dict[str, Any] = {
        "iterations": STEPS, "log_every": 1, "checkpoint_every": 100, "accelerator": "cpu", "precision": "64-true",
        "learning_rate": 0.05, "freeze_batchnorm": True, "accumulate": parts,
    }  # fmt: skip
    training = TrainingConfig(**common | OPTIMISATION.get(case, {}))
    config = RunConfig(
        method=method, model=model, data=DataConfig(images_per_domain=1), training=training, output=output
    )
    output.mkdir(parents=True, exist_ok=True)
    fabric = make_fabric(training)
    assert fabric.world_size == world
    network = made(case)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.p = 0.0
    names = ("w", "x", "y", "z")
    card = card_for(method=method, model=model, space="test", classes=names, domains=["a", "b"], size=(48, 64))
    trainer = Trainer(config, METHODS[method], network, card, fabric)
    gradients: dict[str, Tensor] = {}

    def note(optimizer: torch.optim.Optimizer, *rest: object) -> None:
        gradients.update({f"gradient {k}": p.grad.clone() for k, p in network.named_parameters() if p.grad is not None})

    trainer.optimizer.register_step_pre_hook(note)
    trainer.fit(batches(rank, world, parts), trials=lambda: pairs(rank, world))
    evaluated = trainer.evaluated
    assert (evaluated is network) == (case not in OPTIMISATION)
    forward = scorer(evaluated, fabric)
    own = evaluator.evaluate(
        evaluated,
        [share(joined(77), rank, world)] if rank < 2 else [],
        num_classes=CLASSES,
        forward=forward,
        may_be_empty=True,
    )
    if world == 3:
        own = evaluator.evaluate(
            evaluated, [share(joined(77), rank, world)], num_classes=CLASSES, forward=forward, may_be_empty=True
        )
    scored = evaluator.merge_shards(distributed.gather(own), panels=0)
    told = records.read_lines(output / records.TRAIN_FILE) if rank == 0 else []
    with torch.no_grad():
        seen = forward(joined(55).image).logits
    return {
        **gradients,
        **{name: value.clone() for name, value in network.state_dict().items()},
        "losses": torch.tensor([[line["loss"], *line["parts"].values()] for line in told], dtype=torch.double),
        "output": seen,
        "counts": scored.counts,
        **{
            f"average {name}": value.detach().clone()
            for name, value in evaluated.named_parameters()
            if evaluated is not network
        },
    }


def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def work(rank: int, world: int, folder: str, at: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(at), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    found = {case: learn(case, Path(folder), rank=rank, world=world) for case in CASES}
    if world == 2:
        own = Path(folder) / "parts"
        found |= {f"{case} in parts": learn(case, own, rank=rank, world=world, parts=3) for case in PARTS}
    torch.save(found, f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("alone")
    return {case: learn(case, folder) for case in CASES}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = float((found[name].double() - value.double()).abs().max())
        assert difference <= 1e-8, (what, name, difference)
    assert torch.equal(found["counts"], expected["counts"])
    assert expected["losses"].shape[0] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_many_processes_equal_one(world: int, alone: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (world, str(tmp_path), port()), nprocs=world)
    shares = [torch.load(tmp_path / f"{rank}.pth", weights_only=True, mmap=True) for rank in range(world)]
    for case, expected in alone.items():
        assert_same(shares[0][case], expected, case)
        for other in shares[1:]:
            for name, value in shares[0][case].items():
                assert name == "losses" or torch.equal(other[case][name], value), (case, name)
    if world == 2:
        for case in PARTS:
            assert_same(shares[0][f"{case} in parts"], alone[case], f"{case} in parts")


def test_steps_move_every_buffer_and_weight(alone: dict[str, dict[str, Tensor]]) -> None:
    """What the comparison above would not see, if nothing happened."""
    for case in CASES:
        network = made(case).double()
        kept = network.base_tensors() | {name for name in network.state_dict() if ".start_" in name}
        if case in ("lora", "rein"):
            assert all(torch.equal(alone[case][name], network.state_dict()[name]) for name in kept)
        for name, value in network.state_dict().items():
            if name in kept and case in ("lora", "rein"):
                continue
            if "running" not in name and "num_batches" not in name and not name.endswith(("variance", "pairs")):
                assert not torch.equal(alone[case][name], value), (case, name)


@pytest.mark.parametrize("case", PARTS)
def test_parts_of_a_batch_equal_the_whole(case: str, alone: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    assert_same(learn(case, tmp_path, parts=3), alone[case], case)


def test_weights_from_the_whole_batch_are_refused_for_parts() -> None:
    with pytest.raises(UsageError, match="accumulate is 2"):
        RunConfig(model=CASES["clustered"][1], training=TrainingConfig(accumulate=2))


# who starts the processes ---------------------------------------------------------------------------------------------


def test_torchrun_and_srun_say_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig()
    assert layout(config) == (1, 1, None)
    for name, value in {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "3"}.items():
        monkeypatch.setenv(name, value)
    assert layout(config) == (4, 2, "srun")
    assert layout(replace(config, devices=4, nodes=2)) == (4, 2, "srun")
    with pytest.raises(UsageError, match=r"training.devices is 8, but srun started 4"):
        layout(replace(config, devices=8))
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    assert layout(config) == (2, 3, "torchrun")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert layout(replace(config, devices=2)) == (2, 1, None)


@pytest.mark.parametrize("devices", [-1, "two", 0, "8x"])
def test_devices_that_cannot_be_had_are_told_of_in_one_line(devices: int | str) -> None:
    with pytest.raises(UsageError, match=rf"training.accelerator cpu with training.devices {devices}") as told:
        make_fabric(TrainingConfig(accelerator="cpu", devices=devices))
    assert "\n" not in str(told.value)


def test_more_gpus_than_there_are_are_told_of_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("lightning.fabric.accelerators.cuda.num_cuda_devices", lambda: 1)
    with pytest.raises(UsageError, match=r"with training.devices 8 .*your machine only has: \[0\]") as told:
        make_fabric(TrainingConfig(accelerator="cuda", devices=8))
    assert "\n" not in str(told.value)


def test_all_score_the_network_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their batch norms on processors have seen other images."""
    fabric, network = (
        make_fabric(TrainingConfig(accelerator="cpu")),
        nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
    )
    sent: list[int] = []
    monkeypatch.setattr(type(fabric), "world_size", 2)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda value, source: sent.append(value.data_ptr()))
    scorer(network, fabric)
    assert sent == [value.data_ptr() for value in (*network.parameters(), *network.buffers())]


def test_half_precision_is_refused_on_a_processor_and_told_where_nothing_is_trained() -> None:
    config = TrainingConfig(accelerator="cpu", precision="16-mixed")
    with pytest.raises(UsageError, match="16-mixed, which the processor does not compute: take bf16-mixed or 32-true"):
        make_fabric(config)
    with pytest.warns(UserWarning, match="does not compute: bf16-mixed takes its place") as told:
        assert make_fabric(config, trains=False).strategy.precision.precision == "bf16-mixed"
    assert len(told) == 1


def test_fabric_keeps_its_news_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    make_fabric(TrainingConfig(accelerator="cpu", precision="bf16-mixed"))
    assert not caplog.records


TINY = [
    "--method", "spcnet", "--model.backbone", "shufflenet_v2", "--model.output_stride", "32", "--model.weights", "null",
    "--data.size", "[48,64]", "--data.images_per_domain", "1", "--data.workers", "0", "--data.train_scenes", "8",
    "--data.test_scenes", "3", "--data.targets", "[streets/fog]", "--training.log_every", "1", "--accelerator", "cpu",
]  # fmt: skip
FAKE_SRUN = """#!/bin/bash
# Starts the processes as srun does: each knows its number.
echo $$ > srun.pid
shift
for rank in 0 1; do
  SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2 SLURM_NNODES=1 SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NODEID=0 \\
  SLURM_JOB_ID=4242 SLURM_STEP_ID=0 SLURM_NODELIST=localhost MASTER_ADDR=127.0.0.1 MASTER_PORT={port} "$@" &
  pids[$rank]=$!
done
trap 'kill -TERM ${{pids[@]}}' TERM
code=0
for pid in ${{pids[@]}}; do
  while kill -0 $pid 2> /dev/null; do wait $pid; done
  wait $pid; found=$?
  [ $found -gt $code ] && code=$found
done
exit $code
"""


def environment(folder: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "RANK", "WORLD"))},
        "PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "NO_COLOR": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]), "SPCNET": f"{sys.executable} -m spcnet", "SLURM_JOB_ID": "4242",
    }  # fmt: skip


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in a folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(folder),
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


def told_of(folder: Path) -> tuple[list[float], dict[str, list[list[int]]], dict[str, int]]:
    """Losses, pixels counted, and images scored, by domain."""
    losses = [line["loss"] for line in records.read_lines(folder / records.TRAIN_FILE)]
    domains = records.read_lines(folder / records.RESULTS_FILE)[-1]["domains"]
    return (
        losses,
        {name: domain["confusion"] for name, domain in domains.items()},
        {name: domain["images"] for name, domain in domains.items()},
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="runs a batch script")
def test_however_the_processes_are_started_the_run_is_the_same(tmp_path: Path) -> None:
    """Fabric, torchrun, and srun through the batch script, which is asked to end, saves, and is taken up again."""
    for name, text in {
        "srun": FAKE_SRUN.format(port=port()),
        "scontrol": '#!/bin/bash\necho "$@" > requeued\n',
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    steps = ["--iterations", "3"]
    own = run(tmp_path, "-m", "spcnet", "train", *TINY, *steps, "--devices", "2", "--output", "own")
    assert own.returncode == 0, own.stderr
    assert own.stdout.count("The run is in own") == 1  # one process talks

    elastic = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "spcnet")
    other = run(tmp_path, *elastic, "train", *TINY, *steps, "--output", "elastic")
    assert other.returncode == 0, other.stderr

    (tmp_path / "tiny.yaml").write_text("method: spcnet\n")
    script = Path(__file__).parents[2] / "recipes" / "cluster" / "slurm.sbatch"
    job = ["bash", str(script), "tiny.yaml", "slurm", *TINY, *steps, "--training.checkpoint_every", "1"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(job, stdout=log, stderr=log, env=environment(tmp_path), cwd=tmp_path)
        while not (tmp_path / "slurm" / "checkpoint.safetensors").exists() and running.poll() is None:
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGTERM)
        code = running.wait(200)
    if code == 130:  # the first checkpoint came before the last step
        assert (tmp_path / "requeued").read_text() == "requeue 4242\n"
        again = subprocess.run(
            job, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
        )
        assert again.returncode == 0, again.stderr
    else:
        assert code == 0, (tmp_path / "log").read_text()

    losses, counts, images = told_of(tmp_path / "own")
    assert len(losses) == 3
    assert set(images.values()) == {3}  # by two processes, each image once
    assert told_of(tmp_path / "elastic") == (losses, counts, images)
    assert told_of(tmp_path / "slurm") == (losses, counts, images)
    assert run(tmp_path, "-m", "spcnet", "evaluate", "own").returncode == 0
    assert told_of(tmp_path / "own") == (losses, counts, images)  # one process counts the same


@pytest.mark.slow
def test_what_one_process_cannot_do_ends_all_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 48), (number, 9, 9)).save(tmp_path / "images" / f"{number}.png")
        Image.new("L", (64, 48), 7).save(tmp_path / "labels" / f"{number}.png")
    whole = (tmp_path / "images" / "2.png").read_bytes()
    (tmp_path / "images" / "2.png").write_bytes(whole[: len(whole) // 2])
    own = {"mine": {"images": "images/*.png", "labels": "labels/*.png", "table": {7: "road"}, "splits": ["all"]}}
    options = [
        *TINY, "--data.sources", "[mine]", "--data.sets", json.dumps(own), "--data.roots.mine", str(tmp_path),
        "--data.targets", "[]", "--iterations", "4", "--devices", "2", "--output", "run",
    ]  # fmt: skip
    found = run(tmp_path, "-m", "spcnet", "train", *options)
    assert found.returncode == 1
    assert found.stderr.count("spcnet:") == 1
    assert "2.png" in found.stderr
    assert "Traceback" not in found.stderr
