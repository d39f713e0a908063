"""What the machine computes well."""

import torch


def has_bfloat16(device: str) -> bool:
    """Whether ``device`` computes in bfloat16 by itself: GPUs since Ampere, CPUs with AVX512-BF16.

    Others (T4 and V100, most CPUs) emulate it, slower than float32.
    """
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - torch has no public way to ask
