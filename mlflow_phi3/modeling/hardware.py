"""What the machine computes well."""

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
