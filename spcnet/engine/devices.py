"""Devices, processes and precision of a run, by Lightning Fabric.

Processes are started by Fabric (`--devices 8`), by `torchrun`, or by SLURM's `srun`; the last two set the number of
processes in the environment and need no option.
"""

import logging
import os
import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.precision.double import DoublePrecision
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.strategies.strategy import Strategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from spcnet.config import TrainingConfig
from spcnet.engine.sharding import shard
from spcnet.errors import UsageError
from spcnet.numerics import keep_freed_memory


class Layout(NamedTuple):
    """Number of processes."""

    devices: int | str
    """Per node; `auto` for one per device."""
    nodes: int
    starter: str | None
    """The launcher: torchrun, srun, or None for Fabric, which has not launched yet."""


def layout(config: TrainingConfig) -> Layout:
    """The processes of a run: from the environment of a launcher, otherwise from the settings.

    Raises:
        UsageError: settings and environment contradict each other.
    """
    environment = os.environ
    started = Layout(config.devices, config.nodes, None)
    if "TORCHELASTIC_RUN_ID" in environment:
        each = int(environment["LOCAL_WORLD_SIZE"])
        started = Layout(each, int(environment["WORLD_SIZE"]) // each, "torchrun")
    elif "SLURM_NTASKS" in environment and "SLURM_PROCID" in environment and int(environment["SLURM_NTASKS"]) > 1:
        nodes = int(environment.get("SLURM_NNODES", 1))
        started = Layout(int(environment["SLURM_NTASKS"]) // nodes, nodes, "srun")
    for option, setting, count in (
        ("devices", config.devices, started.devices),
        ("nodes", config.nodes, started.nodes),
    ):
        if setting not in (1, "auto", str(count), count):
            raise UsageError(
                f"training.{option} is {setting}, but {started.starter} started {count}: leave the option out, or start as "
                "many"
            )
    return started


def make_fabric(config: TrainingConfig, *, trains: bool = True) -> Fabric:
    """Launch Fabric with the devices, processes and precision of the settings; returns in every process.

    Args:
        config: the settings.
        trains: whether 16-mixed is refused on a processor, which does not compute it; otherwise a warning says that
            bf16-mixed takes its place.

    Raises:
        UsageError: the devices are not available or do not compute in the precision, or the strategy is for several processes and there is one.
    """
    asked = layout(config)
    # Fabric's log lines disturb the progress bar; some come from its sister package's logger.
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    strategy = _strategy(config, several=asked.devices not in (1, "1") or asked.nodes > 1)
    # Inside a job of SLURM that has one task, the processes are Fabric's to start.
    plugins: list[Any] = [LightningEnvironment()] if asked.starter is None and "SLURM_NTASKS" in os.environ else []
    precision: str | None = config.precision
    if isinstance(strategy, ModelParallelStrategy) and precision == "64-true":
        precision, plugins = None, [*plugins, DoublePrecision()]  # which Fabric takes for it by no name
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*AMP with fp16 is not supported on CPU")  # told below
            fabric = Fabric(
                accelerator=config.accelerator,
                devices=asked.devices,
                num_nodes=asked.nodes,
                precision=precision,  # type: ignore[arg-type]
                strategy=strategy,
                plugins=plugins,
            )
    except (ValueError, RuntimeError, TypeError, ImportError, MisconfigurationException) as error:
        # Lightning's own checks: no such accelerator, more devices than there are, no number, another number of tasks.
        raise UsageError(
            f"training.accelerator {config.accelerator} with training.devices {asked.devices} and training.nodes "
            f"{asked.nodes} is not available on this machine: {' '.join(str(error).split())}"
        ) from error
    if fabric.device.type == "cpu" and config.precision == "16-mixed":
        what = "training.precision is 16-mixed, which the processor does not compute"
        if trains:
            raise UsageError(f"{what}: take bf16-mixed or 32-true")
        warnings.warn(f"{what}: bf16-mixed takes its place", stacklevel=2)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if config.deterministic:
        # Some operations have no repeatable form on a GPU; those warn once instead of ending the run.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        # Otherwise every uninitialised buffer is filled in each step.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - unknown to mypy
    return fabric


def _strategy(config: TrainingConfig, *, several: bool) -> Strategy | str:
    if config.strategy == "fsdp" and several:
        return ModelParallelStrategy(lambda network, _: shard(network))
    if config.strategy != "auto" and not several:
        raise UsageError(
            f"training.strategy is {config.strategy}, but there is one process: set training.devices, or leave it out"
        )
    return DDPStrategy(gradient_as_bucket_view=True) if several else "auto"


def synchronise(network: nn.Module, fabric: Fabric) -> None:
    """Convert batch norms to synchronised ones, which PyTorch supports on GPUs; the tensors keep their names.

    On other devices each process normalises its own images, and the running statistics are those of the first process.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]


def scorer(network: nn.Module, fabric: Fabric) -> Callable[[Tensor], Any]:
    """The forward function of a network for evaluation: on the run's device, in its precision, without communication.

    Every process has to call this; the first process's weights are broadcast.
    """
    precision = fabric.strategy.precision
    precision.convert_module(network).to(fabric.device)
    if fabric.world_size > 1:
        for value in chain(network.parameters(), network.buffers()):
            torch.distributed.broadcast(value.detach(), 0)

    def forward(image: Tensor) -> Any:
        with precision.tensor_init_context():
            with precision.forward_context():
                output = network(precision.convert_input(image))
            return precision.convert_output(output)

    return forward
