"""What the machine computes well."""

import torch


def has_bfloat16(device: str) -> bool:
    """Whether ``device`` computes in bfloat16 by itself: every GPU; a CPU with AVX512-BF16.

    Other CPUs emulate it, slower than float32.
    """
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - torch has no public way to ask
