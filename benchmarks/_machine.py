"""What a figure was measured on; a time without it says nothing."""

import platform
from pathlib import Path

import torch


def describe(device: str = "cpu") -> str:
    """Processor or accelerator, cores, versions, in one line."""
    cores = f"{torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{_processor()}, {cores}"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def median(values: list[float]) -> float:
    """Middle of the sorted values, the upper one of two."""
    return sorted(values)[len(values) // 2]
