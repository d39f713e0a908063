"""A base whose linear layers are kept in four bits, by bitsandbytes (QLoRA, arXiv:2305.14314)."""

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from mlflow_phi3.errors import UsageError

Quantization = Literal["none", "nf4"]

_DENSE = ("lm_head", "score")  # what tells tokens or labels apart stays as it is


@dataclass(frozen=True, slots=True)
class FourBit:
    """Frozen weights in four bits.

    Args:
        packed: uint8, two weights a number.
        state: bitsandbytes' ``QuantState``: the shape, and the scale of each block of 64 weights,
            itself in eight bits.
    """

    packed: Tensor
    state: Any

    @property
    def has_whole_rows(self) -> bool:
        """Whether each row consists of whole blocks."""
        return bool(self.state.shape[-1] % self.state.blocksize == 0)

    def dense(self) -> Tensor:
        """The weights ``[out, in]`` in the number format in which the base was loaded."""
        from bitsandbytes.functional import dequantize_4bit  # optional

        state = self.state
        if not self.has_whole_rows and state.shape.numel() % state.blocksize == 0:
            # With AVX-512, bitsandbytes 0.50.2 takes each row to begin with a block of its own.
            state = copy.copy(state)
            state.shape = torch.Size((self.state.shape.numel() // state.blocksize, state.blocksize))
        weights: Tensor = dequantize_4bit(self.packed, state)
        return weights.view(self.state.shape)


def check_quantization(quantization: Quantization) -> None:
    """Refuse what the installed packages cannot do.

    Raises:
        UsageError: A package is missing.
    """
    if quantization == "none":
        return
    missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
    if missing:
        raise UsageError(
            "PHI3-U012",
            f"quantization={quantization} needs {' and '.join(missing)}",
            where="quantization",
            fix="pip install 'mlflow-phi3[quantization]', or leave quantization out",
        )


def loading_options(quantization: Quantization, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """What ``from_pretrained`` is told, so that each weight is quantised as it is read.

    Args:
        quantization: ``none`` or ``nf4``.
        dtype: Number format in which products are computed.
        device: torch device on which the weights are packed.

    Raises:
        UsageError: A package is missing.
    """
    check_quantization(quantization)
    if quantization == "none":
        return {}
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(_DENSE),
    )
    return {"quantization_config": how, "device_map": {"": device}}


def free_from_loader(model: PreTrainedModel) -> None:
    """Leave a model that transformers has quantised with nothing but its layers in four bits.

    What else it holds speaks of the loading, and would be written into every checkpoint that is
    made of it. On a CPU, layers whose rows are not whole blocks (no Phi of Microsoft's has any) are
    made dense, with the same numbers: their own products would misread them, see
    :meth:`FourBit.dense`.
    """
    if getattr(model, "hf_quantizer", None) is None:
        return
    model.hf_quantizer.remove_quantization_config(model)
    for layer in model.modules():
        # On some processors the first prediction would repack the weights in place, rounded to
        # bfloat16: another base than the one that is trained on.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    for name, layer, weight in _in_four_bits(model):
        if weight.packed.device.type == "cpu" and not weight.has_whole_rows:
            _make_dense(model, name, layer, weight)


def frozen_weight(layer: nn.Module) -> Tensor | FourBit:
    """The weights of a linear layer as they are kept; nothing is copied."""
    weight = layer.get_parameter("weight")
    state = getattr(weight, "quant_state", None)
    return weight.detach() if state is None else FourBit(weight.detach(), state)


def dense_weight(layer: nn.Module) -> Tensor:
    """The weights ``[out, in]`` with which a linear layer computes."""
    weight = frozen_weight(layer)
    return weight.dense() if isinstance(weight, FourBit) else weight


def find_quantization(model: nn.Module) -> str:
    """How the linear layers are kept: ``none``, or bitsandbytes' name of the number format."""
    kinds = {str(weight.state.quant_type) for _, _, weight in _in_four_bits(model)}
    return "+".join(sorted(kinds)) or "none"


def dequantize(model: PreTrainedModel) -> PreTrainedModel:
    """Give every layer in four bits the dense weights it computes with; in place.

    Returns:
        ``model``.
    """
    for name, layer, weight in _in_four_bits(model):
        _make_dense(model, name, layer, weight)
    model.is_loaded_in_4bit = False  # PEFT asks for it
    return model


def _in_four_bits(model: nn.Module) -> list[tuple[str, nn.Linear, FourBit]]:
    """The layers in four bits, by name, with their weights."""
    return [
        (name, layer, weight)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and isinstance(weight := frozen_weight(layer), FourBit)
    ]


def _make_dense(model: nn.Module, name: str, layer: nn.Linear, weight: FourBit) -> None:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(weight.dense(), requires_grad=False)
    plain.bias = layer.bias
    model.set_submodule(name, plain.train(layer.training))
