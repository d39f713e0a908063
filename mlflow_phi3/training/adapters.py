"""Adapters: where each matrix lies in a trial's flat vector, how it begins, and PEFT's files.

A trial's weights are one float32 vector. The optimizer steps it, a checkpoint stores it, clipping
takes its norm; only the forward pass needs to know which matrix lies where, and asks the layout.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from mlflow_phi3.errors import TrainingError, UsageError
from mlflow_phi3.modeling.adapter import CONFIG_FILE, WEIGHTS_FILE
from mlflow_phi3.modeling.quantization import dense_weight
from mlflow_phi3.training.spec import ALL_LINEAR, LoraSpec

PEFT_PREFIX = "base_model.model."
UNREAD = ("alpha_pattern", "rank_pattern", "layer_replication", "alora_invocation_tokens")
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # others change the base as well
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


def peft_config(layout: Layout, base_name: str) -> LoraConfig:
    """The adapter's shape in PEFT's own words."""
    lora = layout.lora
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=sorted({name.rpartition(".")[2] for name in layout.modules}),
        modules_to_save=[HEAD] if layout.classifies else None,
        task_type="SEQ_CLS" if layout.classifies else "CAUSAL_LM",
        base_model_name_or_path=base_name,
        inference_mode=True,
    )


def save_adapter(folder: Path, layout: Layout, flat: Tensor, base_name: str) -> None:
    """Write ``flat`` into the existing ``folder`` in PEFT's format."""
    tensors = {name: view.contiguous() for name, view in layout.views(flat.detach().cpu()).items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    peft_config(layout, base_name).save_pretrained(str(folder))


def load_adapter(folder: Path, layout: Layout) -> Tensor:
    """Read an adapter in PEFT's format, whoever wrote it: float32 ``[layout.size]`` on the CPU.

    Raises:
        TrainingError: It is of another shape.
    """
    found = load_file(folder / WEIGHTS_FILE)
    shapes = {slot.name: slot.shape for slot in layout.slots}
    for name in sorted(found.keys() | shapes.keys()):
        shape = tuple(found[name].shape) if name in found else None
        if shape != shapes.get(name):
            raise TrainingError(
                "PHI3-T011",
                f"the adapter has {name} of shape {shape}, expected {shapes.get(name)}",
                where=str(folder),
                fix="continue with the rank, target modules and base it was trained with",
            )
    flat = torch.empty(layout.size)
    for name, view in layout.views(flat).items():
        view.copy_(found[name])
    return flat


def load_lora_spec(folder: Path) -> LoraSpec:
    """The shape of the adapter in ``folder``, from its ``adapter_config.json``.

    Raises:
        TrainingError: Its tensors mean something else than plain LoRA's of that shape.
    """
    config = LoraConfig.from_pretrained(str(folder))
    odd = [name for name in UNREAD if getattr(config, name, None)]
    if odd or config.init_lora_weights not in PLAIN_STARTS:
        raise TrainingError(
            "PHI3-T011",
            f"{odd[0] if odd else f'init_lora_weights={config.init_lora_weights}'} is not read",
            where=f"{folder / CONFIG_FILE}",
            fix="save it as plain LoRA (PEFT: path_initial_model_for_weight_conversion)",
        )
    targets = config.target_modules
    return LoraSpec(
        r=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=(targets,) if isinstance(targets, str) else tuple(sorted(targets)),
        rslora=config.use_rslora,
        dora=config.use_dora,
    )
