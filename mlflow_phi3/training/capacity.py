"""How many trials fit side by side, by measuring what one more needs."""

import heapq
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from mlflow_phi3.data.messages import Example
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training.choice import choose_engine, make_engine
from mlflow_phi3.training.engine.adapters import begin_adapter, find_linear, plan_layout
from mlflow_phi3.training.engine.interface import Row
from mlflow_phi3.training.memory import MEMORY_ERRORS, free_bytes, is_out_of_memory
from mlflow_phi3.training.passes import split_by_tokens
from mlflow_phi3.training.spec import TrialSpec

SPARE = 0.8  # share of the free memory to use: allocators fragment, and others live here too
MOST = {"cpu": 4, "cuda": 32}  # a CPU's matrix products are nearly full with one trial


def measure_trial_bytes(
    base: Base, train: Sequence[Example], spec: TrialSpec, *, token_budget: int
) -> int:
    """What one trial of ``spec`` takes beside the base, measured on its longest pass.

    Weights, gradient, AdamW's two moments, and what autograd keeps of one forward pass, counted
    tensor by tensor, so that it is right on a CPU too, whose allocator keeps no peak.
    """
    layout, weights = begin_adapter(base.model, spec.lora, spec.seed)
    longest = heapq.nlargest(spec.batch_size, train, key=lambda each: len(each.input_ids))
    examples = next(split_by_tokens(longest, token_budget))
    frozen = {parameter.data_ptr() for parameter in base.model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    row = Row(spec, layout, weights, torch.zeros_like(weights))
    with (
        closing(make_engine(base, choose_engine(base, "auto", spec))) as engine,
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        engine.accumulate_gradients(examples, [row])
    return sum(kept.values()) + 4 * weights.numel() * weights.element_size()


def choose_concurrency(
    base: Base,
    train: Sequence[Example],
    spec: TrialSpec,
    *,
    token_budget: int,
    budget_bytes: int | None = None,
) -> int:
    """How many trials of the largest ``spec`` to train side by side: at least one.

    Args:
        base: The frozen base, loaded.
        train: Training examples.
        spec: The trial that needs most: the highest rank, the most target modules.
        token_budget: As in :class:`mlflow_phi3.training.loop.Session`.
        budget_bytes: Memory to use; None is most of what is free now.
    """
    device = base.model.device
    room = SPARE * free_bytes(device) if budget_bytes is None else budget_bytes
    each = measure_trial_bytes(base, train, spec, token_budget=token_budget)
    most = MOST.get(device.type, 4)
    return max(1, min(most, int(room // each)))


def advise_size(base: Base, train: Sequence[Example], spec: TrialSpec, *, token_budget: int) -> str:
    """Which rank, at most ``spec``'s, would fit the memory that is free now; a phrase for people.

    Args:
        base: The frozen base, loaded.
        train: Training examples.
        spec: The trial that did not fit.
        token_budget: As in :class:`mlflow_phi3.training.loop.Session`.
    """
    room = SPARE * free_bytes(base.model.device)
    # The smallest measures what does not depend on the rank; the rest grows with it.
    one = replace(spec, lora=replace(spec.lora, r=1))
    linear = find_linear(base.model)
    try:
        least = measure_trial_bytes(base, train, one, token_budget=token_budget)
    except MEMORY_ERRORS as error:
        if not is_out_of_memory(error):
            raise
        return "not even lora_r=1 fits: lower max_length"
    of_rank = 16 * plan_layout(linear, one.lora).size  # float32 weights, gradient, two moments
    fits = 1 + int((room - least) // of_rank)
    if fits < 1:
        return f"not even lora_r=1 fits, which takes {least / 2**20:.0f} MiB: lower max_length"
    return f"lora_r={min(fits, spec.lora.r)} would fit {room / 2**20:.0f} MiB"
