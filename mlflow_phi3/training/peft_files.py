"""Adapters as PEFT writes and reads them: ``adapter_config.json`` and safetensors."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftType
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlflow_phi3.errors import TrainingError
from mlflow_phi3.modeling.adapter import CONFIG_FILE, WEIGHTS_FILE
from mlflow_phi3.training.engine.adapters import HEAD, Layout
from mlflow_phi3.training.spec import LoraSpec

UNREAD = (
    "alpha_pattern",
    "rank_pattern",
    "layer_replication",
    "alora_invocation_tokens",
    "target_parameters",
)
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # others change the base as well


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
    if config.peft_type != PeftType.LORA:  # PEFT reads any of its kinds
        odd = [f"peft_type={config.peft_type.value}"]
    elif config.init_lora_weights not in PLAIN_STARTS:
        odd.append(f"init_lora_weights={config.init_lora_weights}")
    if odd:
        raise TrainingError(
            "PHI3-T011",
            f"{odd[0]} is not read",
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
