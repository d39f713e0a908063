"""Adapters: where each matrix lies in a trial's flat vector, and how it begins.

A trial's weights are one float32 vector. The optimizer steps it, a checkpoint stores it, clipping
takes its norm; only the forward pass needs to know which matrix lies where, and asks the layout.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.quantization import dense_weight
from mlflow_phi3.training.spec import ALL_LINEAR, LoraSpec

PEFT_PREFIX = "base_model.model."
HEAD = "score"  # the classification head of transformers' *ForSequenceClassification


@dataclass(frozen=True, slots=True)
class Slot:
    """One trained tensor of an adapter.

    Args:
        name: Key in PEFT's weights file.
        shape: ``A [r, in]``, ``B [out, r]``, DoRA's magnitude ``[out]``, head ``[classes, d]``.
        offset: Where it begins in the flat vector.
    """

    name: str
    shape: tuple[int, ...]
    offset: int

    def view(self, flat: Tensor) -> Tensor:
        """This tensor within ``flat [..., size]``, not copied: ``[..., *shape]``."""
        part = flat[..., self.offset : self.offset + math.prod(self.shape)]
        return part.view(*flat.shape[:-1], *self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of an adapter, in the order in which they lie in the flat vector."""

    lora: LoraSpec
    modules: tuple[str, ...]
    slots: tuple[Slot, ...]
    classifies: bool

    @property
    def size(self) -> int:
        """Trained numbers in all."""
        return self.slots[-1].offset + math.prod(self.slots[-1].shape)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """PEFT name -> view into ``flat [..., size]``."""
        return {slot.name: slot.view(flat) for slot in self.slots}


def find_linear(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers of a bare base by their name; before PEFT adds some of its own."""
    return {n: module for n, module in model.named_modules() if isinstance(module, nn.Linear)}


def plan_layout(linear: Mapping[str, nn.Linear], lora: LoraSpec) -> Layout:
    """Which tensors an adapter of shape ``lora`` over the layers ``linear`` consists of.

    Raises:
        UsageError: A target module is not a linear layer of the model.
    """
    inner = {n: m for n, m in linear.items() if n.rpartition(".")[2] not in {"lm_head", HEAD}}
    kinds = {name.rpartition(".")[2] for name in inner}
    wanted = kinds if ALL_LINEAR in lora.target_modules else set(lora.target_modules)
    if not wanted or not wanted <= kinds:
        raise UsageError(
            "PHI3-U062",
            f"no linear layers named {', '.join(sorted(wanted - kinds)) or '(nothing)'}",
            where="target_modules",
            fix=f"choose among {', '.join(sorted(kinds))} or {ALL_LINEAR}",
        )
    modules = tuple(name for name in inner if name.rpartition(".")[2] in wanted)
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for name in modules:
        width_in, width_out = inner[name].in_features, inner[name].out_features
        shapes.append((f"{PEFT_PREFIX}{name}.lora_A.weight", (lora.r, width_in)))
        shapes.append((f"{PEFT_PREFIX}{name}.lora_B.weight", (width_out, lora.r)))
        if lora.dora:
            shapes.append((f"{PEFT_PREFIX}{name}.lora_magnitude_vector", (width_out,)))
    if HEAD in linear:
        shapes.append((f"{PEFT_PREFIX}{HEAD}.weight", tuple(linear[HEAD].weight.shape)))
    offsets = accumulate((math.prod(shape) for _, shape in shapes), initial=0)
    slots = tuple(Slot(*named, at) for named, at in zip(shapes, offsets, strict=False))
    return Layout(lora, modules, slots, classifies=HEAD in linear)


def initial_weights(linear: Mapping[str, nn.Linear], layout: Layout, seed: int) -> Tensor:
    """The flat vector a trial begins with, as PEFT begins: A random, B zero, so nothing changes.

    Returns:
        float32 ``[layout.size]`` on the CPU.

    Source: ``peft.tuners.lora.layer.LoraLayer.reset_lora_parameters`` (Kaiming uniform, a=sqrt(5)).
    """
    flat = torch.zeros(layout.size)
    random = torch.Generator().manual_seed(seed)
    for name, view in layout.views(flat).items():
        owner = name.removeprefix(PEFT_PREFIX)
        if name.endswith("lora_A.weight"):
            bound = 1.0 / math.sqrt(view.shape[-1])
            view.uniform_(-bound, bound, generator=random)
        elif name.endswith("lora_magnitude_vector"):
            weight = dense_weight(linear[owner.removesuffix(".lora_magnitude_vector")])
            view.copy_(torch.linalg.vector_norm(weight.float(), dim=1))
        elif owner == f"{HEAD}.weight":
            view.copy_(linear[HEAD].weight.detach())
    return flat


def begin_adapter(model: PreTrainedModel, lora: LoraSpec, seed: int) -> tuple[Layout, Tensor]:
    """A fresh adapter over a bare base: its layout, and float32 ``[layout.size]`` beside the base.

    Raises:
        UsageError: A target module is not a linear layer of the model.
    """
    linear = find_linear(model)
    layout = plan_layout(linear, lora)
    return layout, initial_weights(linear, layout, seed).to(model.device)
