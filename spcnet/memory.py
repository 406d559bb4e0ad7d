"""How tensors are kept where they are quick to reach: a processor's cache, and memory the process already holds."""

import ctypes

import torch


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

    By default glibc returns each large block to the system and every step takes its pages anew; on small networks that
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
