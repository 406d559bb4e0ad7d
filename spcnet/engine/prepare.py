"""Preparation of a network for training: memory layout, compilation, activation checkpointing.

Channels last always: on a processor a step then takes between 0.78 (ResNet-50, bfloat16) and 0.95 (MobileNetV2, single
precision) of the time, and a GPU's half-precision convolutions want it. Compilation and activation checkpointing where
`training.compile` and `training.activation_checkpointing` ask for them. Whatever is chosen, the network's parameters,
buffers and their names stay what they are: it is scored, saved and updated as itself, and only training steps go
through what `prepare` returns. So images of other sizes are never compiled for.
"""

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn

from spcnet.config import TrainingConfig
from spcnet.engine.optim import rebind
from spcnet.errors import UsageError
from spcnet.types import Batch, Network


def prepare(network: Network, training: TrainingConfig, *, device: torch.device) -> nn.Module:
    """Bring a network into the form that is trained fastest, or with the least memory.

    Args:
        network: what `Method.build` made; its tensors are laid out channels last.
        training: whether to compile and to recompute.
        device: where it will be trained.

    Returns:
        The network, or a compiled form that shares its tensors; what Fabric sets up and the training steps call.

    Raises:
        UsageError: `training.compile` is on, and nothing can be compiled for this device; or `training.freeze_batchnorm` is,
            and there are no batch norms.
    """
    if training.freeze_batchnorm and not any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules()
    ):
        raise UsageError("training.freeze_batchnorm is true, but the network has no batch norms: leave it out")
    network.to(memory_format=torch.channels_last)
    network.recompute = training.activation_checkpointing
    if not training.compile:
        return network
    check_compiler(device)
    compiled = torch.compile(network)
    assert isinstance(compiled, nn.Module)
    return compiled


def set_up(
    fabric: Fabric, prepared: nn.Module, network: Network, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Network and optimiser as the steps of a run use them, by the strategy of its processes.

    Args:
        fabric: where to compute.
        prepared: what `prepare` made of the network.
        network: whose parameters are divided in place where `training.strategy` is fsdp.
        optimizer: of its parameters.
    """
    if not isinstance(fabric.strategy, ModelParallelStrategy):
        return fabric.setup(prepared, optimizer)  # type: ignore[no-any-return]
    divided = fabric.setup_module(prepared)
    rebind(optimizer, network)
    return divided, fabric.setup_optimizers(optimizer)  # type: ignore[return-value]


def check_compiler(device: torch.device) -> None:
    """Compile a sum, to check before the first step that compilation works.

    Raises:
        UsageError: it does not.
    """
    try:
        torch.compile(_double)(torch.ones(16, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needed = "a C++ compiler such as g++" if device.type == "cpu" else "Triton and a C compiler"
        raise UsageError(
            f"training.compile is true, but torch.compile fails for {device} ({why}): install {needed}, or leave the option out"
        ) from error


def _double(value: Tensor) -> Tensor:
    return value + value


def freeze_batchnorm(network: nn.Module) -> None:
    """Let the batch norms use the statistics that they have and keep them; gain and offset are trained on."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device, its images channels last."""
    image = batch.image.to(device, non_blocking=True, memory_format=torch.channels_last)
    return Batch(
        image, batch.label.to(device, non_blocking=True), batch.domain.to(device, non_blocking=True), batch.name
    )


def find_classes(network: Network, fabric: Fabric, image: Tensor) -> Tensor:
    """The class of each pixel (B×H×W) of normalised images (B×3×H×W); leaves the network in evaluation mode."""
    precision = fabric.strategy.precision
    network.eval()
    with torch.no_grad(), precision.forward_context():
        logits: Tensor = network(precision.convert_input(image.to(fabric.device))).logits
    return logits.argmax(1)
