"""What stands in the way of a run: its folder, the disk, the memory of a step."""

import os
import shutil
from pathlib import Path

import torch
from lightning.fabric import Fabric

from spcnet import distributed, training
from spcnet.config import DataConfig, RunConfig
from spcnet.cost import kept_for_backward, parameter_counts
from spcnet.engine.optim import memory_size
from spcnet.errors import SpcnetError
from spcnet.labels import label_space
from spcnet.models.network import Segmentor
from spcnet.numerics import free_memory, peak_memory
from spcnet.reports.dry_run import Device, Rehearsal, size_text


def micro_batch_size(data: DataConfig) -> int:
    """Images of a micro-batch of one process."""
    return data.images_per_domain * (1 if data.sampling == "alternating" else len(data.sources))


def check_machine(config: RunConfig, network: Segmentor, fabric: Fabric, report: Rehearsal) -> None:
    """Note the network's size, the memory that a step needs and each device has, and what there is too little of."""
    report.trained, report.parameters = parameter_counts(network)
    own, trained = _weights(network)
    averages = trained if config.training.ema else 0
    report.checkpoint = own + averages + memory_size(config.training) * trained
    report.needed = step_memory(network, config, fabric.device.type)
    report.devices = distributed.gather(
        Device(_name(fabric), free_memory(fabric.device), int(2**20 * peak_memory(fabric.device)))
    )
    _check_disk(config.output, report)
    _check_memory(config, fabric, report)


def _weights(network: Segmentor) -> tuple[int, int]:
    """Bytes of all parameters, and of those that are trained."""
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def step_memory(network: Segmentor, config: RunConfig, device: str) -> int:
    """Bytes of a training step of one process in the run's precision, from shapes alone.

    Args:
        network: left in training mode, without gradients.
        config: of the run.
        device: kind of device that it computes on.
    """
    size = config.data.crop or config.data.size
    assert size is not None
    kept = kept_for_backward(network, size, precision=config.training.precision, device=device)
    network.zero_grad(set_to_none=True)
    pixels, images = size[0] * size[1], micro_batch_size(config.data)
    scores = 4 * len(label_space(config.data.space)) * pixels
    own, trained = _weights(network)
    weights = own + (own if config.training.ema else 0) + (1 + memory_size(config.training)) * trained
    # The scores' logarithms are kept for the backward pass of the loss, and their gradient is as large again; so is the
    # gradient of the largest map. All micro-batches are on the device, three floats and a whole number a pixel, but the
    # network has one at a time.
    step = weights + kept.fixed + images * (kept.each + kept.largest + 2 * scores)
    counted = step + (config.training.accumulate - 1) * images * 20 * pixels
    return counted * (2 if config.training.precision == "64-true" else 1)


def _check_memory(config: RunConfig, fabric: Fabric, report: Rehearsal) -> None:
    """Note where a step does not fit; processes on one machine's processor have its memory together."""
    beside = fabric.world_size // config.training.nodes if fabric.device.type == "cpu" else 1
    report.needed *= max(1, beside)
    if report.available is not None and report.needed > report.available:
        scarce = min(
            (device for device in report.devices if device.available is not None),
            key=lambda device: device.available or 0,
        )
        report.problems.append(
            f"a step needs about {size_text(report.needed)} and {scarce.name} has {size_text(report.available)} free: lower "
            "data.images_per_domain (training.accumulate makes up for it) or data.crop, raise model.output_stride, or use "
            "training.activation_checkpointing or training.precision bf16-mixed"
        )


def check_folder(output: Path, report: Rehearsal, *, resume: bool, overwrite: bool) -> None:
    """Whether the training itself would begin there."""
    if distributed.rank() > 0:
        return
    try:
        training.check_claim(output, resume=resume, overwrite=overwrite)
    except SpcnetError as error:
        report.problems.append(str(error))
    else:
        if resume:
            report.notes.append("the times are those of the whole run, not of what is left of it")


def _check_disk(output: Path, report: Rehearsal) -> None:
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free, needed = shutil.disk_usage(there).free, 2 * report.checkpoint
    if not os.access(there, os.W_OK):
        report.problems.append(f"cannot write to {there}: choose another --output")
    if free < needed:
        report.problems.append(
            f"{there} has {size_text(free)} free, and the run's checkpoints take {size_text(needed)}: make room or choose "
            "another --output"
        )


def _name(fabric: Fabric) -> str:
    """The device of this process."""
    device = fabric.device
    name = f"{torch.cuda.get_device_name(device)} ({device})" if device.type == "cuda" else str(device)
    return f"{name} of process {fabric.global_rank}" if fabric.world_size > 1 else name
