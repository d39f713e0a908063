"""An adapter and its optimizer, spread with their base over the processes that train together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training import checkpoint as disk
from mlflow_phi3.training.engine.adapters import Layout, find_linear, initial_weights, plan_layout
from mlflow_phi3.training.optimizer import make_optimizer
from mlflow_phi3.training.peft_files import load_adapter
from mlflow_phi3.training.reference import find_trained, trainable
from mlflow_phi3.training.spec import TrialSpec


@dataclass(frozen=True, slots=True)
class Spread:
    """An adapter on its base, and its optimizer, in parts.

    Args:
        spec: What it trains with.
        layout: Where its tensors lie when they are whole.
        model: The base with the adapter.
        parameters: The trained tensors, by their names and in the order of the layout.
        optimizer: Over these.
    """

    spec: TrialSpec
    layout: Layout
    model: PeftModel
    parameters: Mapping[str, nn.Parameter]
    optimizer: Optimizer

    def gather(self) -> tuple[Tensor, Optimizer]:
        """Weights ``[layout.size]`` and optimizer as one process has them; all must ask."""
        flat = torch.empty(self.layout.size)
        views = self.layout.views(flat)
        whole = make_optimizer(self.spec, views.values())
        for name, view in views.items():
            view.copy_(gathered(self.parameters[name].detach()))
            state = self.optimizer.state[self.parameters[name]]
            whole.state[view] = {key: gathered(value) for key, value in state.items()}
        return flat, whole

    def restore(self, last: Path) -> None:
        """Deal out the optimizer of the checkpoint ``last``."""
        views = self.layout.views(torch.empty(self.layout.size))
        whole = make_optimizer(self.spec, views.values())
        disk.load_optimizer(last, whole)
        for name, view in views.items():
            parameter = self.parameters[name]
            state = {key: _part(value, parameter) for key, value in whole.state[view].items()}
            self.optimizer.state[parameter] = state


def spread_adapter(base: Base, spec: TrialSpec, last: Path | None) -> Spread:
    """Put a fresh adapter on the base, or that of a checkpoint, and spread both."""
    linear = find_linear(base.model)
    layout = plan_layout(linear, spec.lora)
    weights = load_adapter(last, layout) if last else initial_weights(linear, layout, spec.seed)
    model = get_peft_model(base.model, trainable(base, layout))
    parameters = find_trained(model, "default")
    views = layout.views(weights)
    with torch.no_grad():
        for name, view in views.items():
            parameters[name].copy_(view)
    for layer in base.model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    found = find_trained(model, "default")
    parameters = {name: found[name] for name in views}
    optimizer = make_optimizer(spec, parameters.values())
    spread = Spread(spec, layout, model, parameters, optimizer)
    if last:
        spread.restore(last)
    return spread


def gathered(value: Any) -> Any:
    """All of a tensor that is spread over the processes; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part(value: Any, parameter: Tensor) -> Any:
    """What of an optimizer's ``value`` belongs beside this process's part of ``parameter``."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value
