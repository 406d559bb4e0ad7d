"""How tensors are computed and kept: precision, size of a piece of work, memory.

What is never computed in half precision are statistics, distances, sums over pixels, moving averages and losses.
bfloat16 has eight significant bits: it counts to 256, knows no cosine between 0.996 and 1, and a moving average with
momentum 0.999 stands still in it. So convolutions run in the precision of the run, and what is derived from their
results in at least single precision.
"""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from spcnet.errors import UsageError


def at_least_single(value: Tensor) -> Tensor:
    """The value itself in single or double precision; a half-precision one in single precision."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def without_autocast(value: Tensor) -> torch.autocast:
    """Within this, matrix products on the value's device keep the precision of their factors."""
    return torch.autocast(value.device.type, enabled=False)


def device_of(module: nn.Module) -> torch.device:
    """The device that a network's parameters are on."""
    return next(module.parameters()).device


def find_device(name: torch.device | str = "auto") -> torch.device:
    """The device of that name; 'auto' takes an accelerator if there is one.

    Raises:
        UsageError: there is no such device.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises any of these for a missing one
        raise UsageError(f"there is no device {str(name)!r} here: use auto, or cpu, which is everywhere") from error
    return device


def pixels_at_a_time(device: torch.device) -> int:
    """How many pixels' embeddings are worked on together.

    Half a MiB at D = 256 stays in a processor's cache; but where threads wait for each other after each step, or a
    device has to be told of it, fewer and larger steps are faster. The values do not depend on it.
    """
    if device.type != "cpu":
        return 65536
    threads = torch.get_num_threads()
    return 512 if threads == 1 else 4096 * threads


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors on the CPU give back, for the next step needs the same again.

    By default glibc returns each large block to the system and every step takes its pages again; on small networks that
    is a tenth of the time (docs/LOG.md). Does nothing where there is another C library.

    Returns:
        Whether it took.
    """
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1  # names and signs as in malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_threshold, 2**30)) and bool(mallopt(trim_threshold, largest))


def peak_memory(device: torch.device) -> float:
    """The most memory that was held so far, in MiB: by tensors on a GPU, elsewhere by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free: on a GPU, or for this process on a processor; None where the device does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    amounts = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        amounts += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # the limit of a container
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        amounts.append(int(Path("/sys/fs/cgroup/memory.max").read_text()) - used)
    return min(amounts, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device or of the machine does not suffice."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)
