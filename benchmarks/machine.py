"""What figures were measured with: the code, the machine, and the versions of the libraries."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

_ROOT = Path(__file__).resolve().parents[1]
_CPUINFO = Path("/proc/cpuinfo")


def describe(*packages: str) -> dict[str, Any]:
    """Facts for a results file.

    Args:
        packages: Distributions whose versions matter.
    """
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
        "hardware": {
            "cpu": _cpu(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "load_average": os.getloadavg(),
        },
    }


def _cpu() -> str:
    """The processor's name, with its matrix units, which a rented machine's name may not tell."""
    told: dict[str, str] = {}
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            told.setdefault(key.strip(), value.strip())
    flags = told.get("flags", "").split()
    units = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    name = told.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(units)})" if units else name
