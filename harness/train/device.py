"""The device of a cell: its start, name, memory and random numbers.

On CUDA, `start_device` comes first: PyTorch's allocator knows no device before CUDA is initialised.
"""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path

import torch


def start_device(device: torch.device) -> None:
    """Initialise CUDA and make the device the current one of this process; on the CPU, do nothing."""
    if device.type == "cuda":
        torch.cuda.init()
        if device.index is not None:
            torch.cuda.set_device(device)


def device_name(device: torch.device) -> str:
    """Return the name of a GPU with its number of multiprocessors, or "cpu".

    Several choices of kernels and grids follow that number, and thread limits of MPS reduce it.
    """
    if device.type != "cuda":
        return "cpu"
    start_device(device)
    count = torch.cuda.get_device_properties(device).multi_processor_count
    return f"{torch.cuda.get_device_name(device)} ({count} multiprocessors)"


def set_seed(seed: int, device: torch.device) -> None:
    """Set the seed of the generators that training on a device draws from, the CPU's included.

    `torch.manual_seed` gives the same streams, but also prepares the generators of absent kinds of devices,
    each with a formatted stack trace: 0.2 ms.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


def free_bytes(device: torch.device) -> int:
    """Return the bytes of a GPU's memory that this process can still allocate."""
    start_device(device)
    # CUDA counts as used what PyTorch's allocator has reserved, although it can be allocated again.
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + reusable)


def total_bytes(device: torch.device) -> int:
    """Return the size of a GPU's memory in bytes."""
    start_device(device)
    return int(torch.cuda.mem_get_info(device)[1])


def reset_peak_memory(device: torch.device) -> None:
    """Reset the measurement of peak memory."""
    if device.type == "cuda":
        start_device(device)
        torch.cuda.reset_peak_memory_stats(device)
        return
    # psutil cannot reset this peak. On systems other than Linux it stays the peak of the whole process.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory since the reset in MiB: allocated on CUDA, resident set size on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Unlike `ru_maxrss`, VmHWM can be reset.
    with contextlib.suppress(OSError, IndexError):
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
