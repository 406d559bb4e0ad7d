"""What stands in the way of a run: its folder, the disk, the memory of a step."""

import os
import shutil
from pathlib import Path

import torch
from lightning.fabric import Fabric

from spcnet import distributed, training
from spcnet.config import RunConfig
from spcnet.cost import parameter_counts
from spcnet.dry_run.memory import step_memory, weights
from spcnet.engine.optim import memory_size
from spcnet.errors import SpcnetError
from spcnet.models.network import Segmentor
from spcnet.numerics import free_memory, peak_memory
from spcnet.reports.dry_run import Device, Rehearsal, size_text


def check_machine(config: RunConfig, network: Segmentor, fabric: Fabric, report: Rehearsal) -> None:
    """Note the network's size, the memory that a step needs and each device has, and what there is too little of."""
    report.trained, report.parameters = parameter_counts(network)
    own, trained = weights(network)
    averages = trained if config.training.ema else 0
    report.checkpoint = own + averages + memory_size(config.training) * trained
    report.needed = step_memory(network, config, fabric.device.type, processes=fabric.world_size)
    report.devices = distributed.gather(
        Device(_name(fabric), free_memory(fabric.device), int(2**20 * peak_memory(fabric.device)))
    )
    _check_disk(config.output, report)
    _check_memory(config, fabric, report)


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
