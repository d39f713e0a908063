"""How many trials fit side by side, by measuring what one more needs."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch import Tensor

from mlflow_phi3.data.messages import Example
from mlflow_phi3.errors import TrainingError
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training.adapters import begin_adapter, find_linear, plan_layout
from mlflow_phi3.training.choice import choose_engine, make_engine
from mlflow_phi3.training.engine import Row
from mlflow_phi3.training.spec import TrialSpec

SPARE = 0.8  # share of the free memory to use: allocators fragment, and others live here too
MOST = {"cpu": 4, "cuda": 32}  # a CPU's matrix products are nearly full with one trial
# Tokens of one adapter in one pass. A CPU's matrix products are full at about a thousand rows, and
# more would only take memory; a GPU's are not.
_TOKEN_BUDGET = {"cpu": 1024, "cuda": 16384}
SCORED = 1024  # tokens of one adapter in a scoring pass that a large group does not go below
_CGROUP = Path("/sys/fs/cgroup")  # version 2, as a container sees its own


def token_budget_of(device: torch.device) -> int:
    """Most tokens of one adapter in one pass on ``device``, where nothing else is asked for."""
    return _TOKEN_BUDGET.get(device.type, _TOKEN_BUDGET["cpu"])


def scoring_budget(token_budget: int, trials: int) -> int:
    """Most tokens of one adapter in a pass that scores for ``trials`` at once.

    Memory was measured for training, whose passes end with the batch: these do not.
    """
    return min(token_budget, max(SCORED, token_budget // trials))


def split_by_tokens(examples: Iterable[Example], budget: int) -> Iterator[list[Example]]:
    """Consecutive examples of at most ``budget`` tokens together, or a single longer one."""
    part: list[Example] = []
    tokens = 0
    for example in examples:
        if part and tokens + len(example.input_ids) > budget:
            yield part
            part, tokens = [], 0
        part.append(example)
        tokens += len(example.input_ids)
    if part:
        yield part


def memory_bytes(device: torch.device) -> int:
    """Resident set of this process (CPU) or allocated memory of ``device`` (GPU)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: the device's, or what machine, group and limits leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = int(psutil.virtual_memory().available)
    limit = _CGROUP / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - _group_bytes())
    if hasattr(psutil, "RLIMIT_AS"):  # Linux; `ulimit -v`
        process = psutil.Process()
        most = process.rlimit(psutil.RLIMIT_AS)[0]
        if most != psutil.RLIM_INFINITY:
            free = min(free, most - int(process.memory_info().vms))
    return free


def _group_bytes() -> int:
    """What the control group holds and would not give back when asked.

    Source: the working set of cAdvisor, by which Kubernetes evicts: what files have left in memory
    counts only as long as it is in use.
    """
    used = int((_CGROUP / "memory.current").read_text())
    told = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    left = next((int(value) for name, value in told if name == "inactive_file"), 0)
    return max(0, used - left)


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


MEMORY_ERRORS = (RuntimeError, MemoryError, TrainingError)
"""The classes of errors that may say that memory could not be had."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory could not be had."""
    # On a CPU torch has no class for it (c10/core/impl/alloc_cpu.cpp).
    told = isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
    told = told or (isinstance(error, TrainingError) and error.code == "PHI3-T015")
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)


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
