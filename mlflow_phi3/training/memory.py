"""Memory: what is taken, what is free, and which errors say that there is none."""

from pathlib import Path

import psutil
import torch

from mlflow_phi3.errors import TrainingError

_CGROUP = Path("/sys/fs/cgroup")  # version 2, as a container sees its own
# For these torch has no class: a CPU's allocator (c10/core/impl/alloc_cpu.cpp), and what CUDA's own
# libraries say when they find no room beside PyTorch's.
_TOLD = ("DefaultCPUAllocator: ", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
OUT_OF_MEMORY = "PHI3-T015"
"""The code of our own error that says so."""
MEMORY_ERRORS = (RuntimeError, MemoryError, TrainingError)
"""The classes of errors that may say that memory could not be had."""


def memory_bytes(device: torch.device) -> int:
    """Resident set of this process (CPU) or allocated memory of ``device`` (GPU)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: the device's, or what machine, group and limits leave."""
    if device.type == "cuda":  # what PyTorch keeps of what it no longer needs can be taken, too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
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
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in _TOLD)
    told = told or (isinstance(error, TrainingError) and error.code == OUT_OF_MEMORY)
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)
