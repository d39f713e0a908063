"""The number format of a model that is loaded already."""

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def cast_weights(model: M, dtype: torch.dtype) -> M:
    """Turn the weights to ``dtype``, in place, and leave the buffers as they are.

    ``Module.to(dtype)`` would round the rotary embedding's frequencies too, which
    ``from_pretrained`` keeps in float32 whatever the weights are in: an angle is a frequency times
    a position, so that after 2,000 tokens a frequency in bfloat16 is off by whole radians.

    Args:
        model: Its weights are all dense.
        dtype: Number format of the weights.

    Returns:
        ``model``.
    """
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model
