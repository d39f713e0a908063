"""What the machine computes well."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from mlflow_phi3.errors import UsageError


def has_bfloat16(device: str) -> bool:
    """Whether ``device`` computes in bfloat16 by itself: GPUs since Ampere, CPUs with AVX512-BF16.

    Others (T4 and V100, most CPUs) emulate it, slower than float32.
    """
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - torch has no public way to ask


def choose_device(device: str, *, where: str = "device") -> str:
    """The torch device that ``auto`` stands for: a CUDA GPU when there is one, else the CPU.

    Args:
        device: As a person wrote it.
        where: The option that they wrote it in.

    Raises:
        UsageError: No such device on this machine.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            "PHI3-U051",
            f"no device {device!r}: {str(error).splitlines()[0]}",
            where=where,
            fix="leave it out, or give cpu, or cuda where torch sees a GPU",
        ) from None
    return device


@contextmanager
def fast_products(dtype: torch.dtype) -> Iterator[None]:
    """Multiply a CPU's float32 matrices as fast as a model in ``dtype`` allows.

    Beside a bfloat16 model they may be rounded to bfloat16 as it is (sums and results stay
    float32). float32's are exact, by oneDNN where MKL is slow at them: to AMD's processors it gives
    AVX2's instructions, half as wide as theirs.
    """
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch puts an object in the place of its module
    before = settings.fp32_precision
    if dtype is torch.bfloat16 or _onednn_wins():
        settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@cache
def _onednn_wins() -> bool:
    """Whether this is AMD's processor, and oneDNN, though allowed to, rounds no float32 on it.

    PyTorch hands float32 to oneDNN only with that permission, of which oneDNN makes use where there
    is AMX.
    """
    cpus = Path("/proc/cpuinfo")
    if not cpus.exists() or "AuthenticAMD" not in cpus.read_text(encoding="utf-8"):
        return False
    with fast_products(torch.bfloat16):
        exact = torch.full((64, 64), 1.0 + 2.0**-20)
        return torch.equal(exact @ torch.eye(64), exact)
