"""Fold an adapter into its base: a checkpoint that needs nothing beside it."""

import copy
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import GenerationConfig, PreTrainedModel

from mlflow_phi3.modeling.adapter import check_adapter
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.generate import padding_id, stop_ids
from mlflow_phi3.modeling.precision import cast_weights
from mlflow_phi3.modeling.quantization import dequantize


def merge_adapter(base: Base, adapter: Path, out: Path, *, dtype: torch.dtype) -> Path:
    """Write base plus adapter as one portable checkpoint folder; the base is left untouched.

    Args:
        base: The frozen base the adapter was trained on.
        adapter: Folder in PEFT's format.
        out: Folder to write: safetensors, tokenizer with chat template, generation configuration.
        dtype: Number format of the written weights.

    Returns:
        ``out``.

    Raises:
        UsageError: ``adapter`` holds no adapter.
    """
    check_adapter(adapter)
    # A GPU has room for the base and a copy of it, and seldom for the copy in float32 as well.
    model = dequantize(copy.deepcopy(base.model)).to("cpu")
    save_checkpoint(fold_adapter(model, adapter, dtype=dtype), base, out)
    return out


def fold_adapter(model: PreTrainedModel, adapter: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """Add the adapter to ``model``'s own weights, for good.

    The sum is taken in float32 and rounded once to ``dtype``, layer by layer, so that beside the
    model only one layer's float32 weights are held. Weights in four bits are taken as they compute:
    the adapter was trained on them, and not on what they were rounded from.

    Args:
        model: The bare base; used up.
        adapter: Folder in PEFT's format.
        dtype: Number format of the sum.
    """
    tuned = PeftModel.from_pretrained(dequantize(model), str(adapter)).eval()
    for layer in tuned.modules():
        if isinstance(layer, BaseTunerLayer):
            cast_weights(layer.get_base_layer(), torch.float32)
            layer.merge(safe_merge=True)
            cast_weights(layer.get_base_layer(), dtype)
    merged: PreTrainedModel = cast_weights(tuned.unload(), dtype)
    merged.config.dtype = dtype
    return merged


def save_checkpoint(model: PreTrainedModel, base: Base, out: Path) -> None:
    """Write ``model`` with the base's tokenizer and, if it answers, a configuration that stops."""
    out.mkdir(parents=True, exist_ok=True)
    if not base.labels:
        model.generation_config = GenerationConfig(
            do_sample=False,
            bos_token_id=base.tokenizer.bos_token_id,
            eos_token_id=stop_ids(base.model, base.tokenizer),
            pad_token_id=padding_id(base.model, base.tokenizer),
        )
    model.save_pretrained(out)
    base.tokenizer.save_pretrained(out)
