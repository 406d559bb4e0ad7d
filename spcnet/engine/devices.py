"""Where a run computes: devices, processes and precision, all Lightning Fabric's.

Processes are started by Fabric itself (`--devices 8`), by `torchrun`, or by SLURM's `srun`; the latter two say in the
environment how many there are, and need no option.
"""

import logging
import os
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
    """How many processes there are."""

    devices: int | str
    """On each node; `auto` for as many as there are devices."""
    nodes: int
    starter: str | None
    """Who started them: torchrun, srun, or None for Fabric, which is yet to do so."""


def layout(config: TrainingConfig) -> Layout:
    """The processes that a run has: those that the environment tells of, otherwise what the settings ask for.

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
    for option, asked, found in (("devices", config.devices, started.devices), ("nodes", config.nodes, started.nodes)):
        if asked not in (1, "auto", str(found), found):
            raise UsageError(
                f"training.{option} is {asked}, but {started.starter} started {found}: leave the option out, or start as "
                "many"
            )
    return started


def make_fabric(config: TrainingConfig) -> Fabric:
    """Devices, processes and precision as the configuration asks for; returns in every one of the processes.

    Raises:
        UsageError: there are no such devices, or one process and a strategy for several.
    """
    asked = layout(config)
    # What Fabric tells of its own is noise beside a progress bar; some of it goes by the name of its sister package.
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    strategy = _strategy(config, several=asked.devices not in (1, "1") or asked.nodes > 1)
    # Inside a job of SLURM that has one task, the processes are Fabric's to start.
    plugins: list[Any] = [LightningEnvironment()] if asked.starter is None and "SLURM_NTASKS" in os.environ else []
    precision: str | None = config.precision
    if isinstance(strategy, ModelParallelStrategy) and precision == "64-true":
        precision, plugins = None, [*plugins, DoublePrecision()]  # which Fabric takes for it by no name
    try:
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
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if config.deterministic:
        # Some operations have no repeatable form on a GPU; those warn once instead of ending the run.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        # Memory that nothing is written to before it is read would be filled first, in each step again.
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
    """Let a network's batch norms take their statistics over all processes, which PyTorch can on GPUs; names stay.

    Elsewhere each process normalises by its own images, and the running statistics are the first process's.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]


def scorer(network: nn.Module, fabric: Fabric) -> Callable[[Tensor], Any]:
    """How a network is called when it is scored: on the run's device, in its precision, each process by itself.

    Every process comes here; all then have the network as the first has it.
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
