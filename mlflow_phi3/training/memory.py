"""Memory: what is taken, what is free, and which errors say that there is none."""

from pathlib import Path

import psutil
import torch

from mlflow_phi3.errors import TrainingError

_CGROUP = Path("/sys/fs/cgroup")  # version 2, as a container sees its own
MEMORY_ERRORS = (RuntimeError, MemoryError, TrainingError)
"""The classes of errors that may say that memory could not be had."""


def memory_bytes(device: torch.device) -> int:
    """Resident set of this process (CPU) or allocated memory of ``device`` (GPU)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: the device's, or what machine, group and limits leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = int(psutil.virtual_memory().available)
    limit = _CGROUP / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - _group_bytes())
    if hasattr(psutil, "RLIMIT_AS"):  # Linux; `ulimit -v`
        process = psutil.Process()
        most = process.rlimit(psutil.RLIMIT_AS)[0]
        if most != psutil.RLIM_INFINITY:
            free = min(free, most - int(process.memory_info().vms))
    return free


def _group_bytes() -> int:
    """What the control group holds and would not give back when asked.

    Source: the working set of cAdvisor, by which Kubernetes evicts: what files have left in memory
    counts only as long as it is in use.
    """
    used = int((_CGROUP / "memory.current").read_text())
    told = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    left = next((int(value) for name, value in told if name == "inactive_file"), 0)
    return max(0, used - left)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory could not be had."""
    # On a CPU torch has no class for it (c10/core/impl/alloc_cpu.cpp).
    told = isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
    told = told or (isinstance(error, TrainingError) and error.code == "PHI3-T015")
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)
