"""One trial over a frozen base that fits no single device: FSDP spreads it over several.

    torchrun --nproc-per-node 8 -m mlflow_phi3.training.sharded --model microsoft/phi-4 \
        --prepared .phi3/prepared/<key> --out adapters --learning_rate 1e-4 --epochs 2

Hugging Face's modules with PEFT's adapter, as in the reference engine, under PyTorch's
``fully_shard``: a device holds its part of every layer, and a whole one only while it computes
with it. Each optimizer batch is dealt out to the processes; its loss and gradient are those of one
process, and what is written is the same adapter in PEFT's format.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mlflow_phi3.data.messages import Example
from mlflow_phi3.data.prepared import load_prepared
from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.base import Base, Precision, load_base
from mlflow_phi3.training.adapters import Layout, find_linear, initial_weights, plan_layout
from mlflow_phi3.training.batching import split_by_tokens
from mlflow_phi3.training.capacity import memory_bytes
from mlflow_phi3.training.checkpoint import save_checkpoint
from mlflow_phi3.training.loss import TokenLoss, get_loss
from mlflow_phi3.training.optimizer import make_optimizer
from mlflow_phi3.training.reference import find_trained, predict, same_rope, trainable
from mlflow_phi3.training.reports import EvaluationReport, StepReport, perplexity
from mlflow_phi3.training.schedule import Calendar, order_examples
from mlflow_phi3.training.spec import LoraSpec, Scheduler, TrialSpec

TRIAL = "sharded"
_DEFAULT = TrialSpec(0.0)


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train together.

    Args:
        rank: This one's number.
        size: How many there are.
        device: What this one computes on.
    """

    rank: int
    size: int
    device: torch.device

    def add_up(self, *numbers: float) -> list[float]:
        """Sums over all processes."""
        told = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        distributed.all_reduce(told)
        return [float(number) for number in told]


@dataclass(frozen=True, slots=True)
class Scores:
    """An evaluation.

    Args:
        loss: Nats per supervised token.
        tokens: How many of those there are.
        accuracy: Share of them whose most likely token is right.
    """

    loss: float
    tokens: int
    accuracy: float

    def to_report(self, step: int, epoch: int, *, best: bool, folder: Path) -> EvaluationReport:
        """As the other engines tell it."""
        return EvaluationReport(
            trial=TRIAL,
            step=step,
            epoch=epoch,
            loss=self.loss,
            perplexity=perplexity(self.loss),
            token_accuracy=self.accuracy,
            supervised_tokens=self.tokens,
            best=best,
            checkpoint=folder / "last",
        )


def train_sharded(
    base: Base,
    train: Sequence[Example],
    validation: Sequence[Example],
    spec: TrialSpec,
    *,
    group: Group,
    folder: Path,
    token_budget: int = 1024,
) -> Iterator[StepReport | EvaluationReport]:
    """Train ``spec`` in every process of ``group``; each is told the same.

    Args:
        base: The frozen base, on the CPU; its layers move to the devices part by part.
        train: Training examples.
        validation: Evaluated after each epoch; may be empty.
        spec: The trial. With dropout, the masks are not those of one process.
        group: The processes.
        folder: The first process keeps ``<folder>/{best,last}``.
        token_budget: Most tokens of one process in one pass.

    Raises:
        UsageError: The base is quantised, or has a head over labels.
    """
    _refuse_others(base)
    layout = plan_layout(find_linear(base.model), spec.lora)
    model, parameters = _shard(base, layout, spec)
    loss_of, calendar = get_loss(spec, group.device), Calendar(spec, len(train))
    optimizer = _make_optimizer(spec, parameters.values())
    best = math.inf
    for step in range(calendar.total_steps):
        began = time.perf_counter()
        epoch, start, end = calendar.batch(step)
        batch = [train[at] for at in order_examples(spec, epoch, len(train))[start:end]]
        loss, targets = _differentiate(model, batch, loss_of, group, token_budget)
        norm = _clip(parameters.values(), spec.max_grad_norm)
        rate = optimizer.param_groups[0]["lr"] = calendar.learning_rate(step)
        optimizer.step()
        optimizer.zero_grad()
        read = sum(len(example.input_ids) for example in batch)
        yield StepReport(
            trial=TRIAL,
            step=step + 1,
            total_steps=calendar.total_steps,
            epoch=epoch + end / len(train),
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens=read,
            supervised_tokens=targets,
            tokens_per_second=read / (time.perf_counter() - began),
            memory_bytes=memory_bytes(group.device),
        )
        if end == len(train):
            scores = _evaluate(model, validation, group, token_budget)
            improved = not validation or scores.loss < best
            best = min(best, scores.loss)
            _save(folder, ("last", "best") if improved else ("last",), layout, parameters, base)
            if validation:
                yield scores.to_report(step + 1, epoch + 1, best=improved, folder=folder)


def _refuse_others(base: Base) -> None:
    if base.labels or base.quantization != "none":
        raise UsageError(
            "PHI3-U069",
            "only a full base that answers is spread over devices",
            where=base.name,
            fix="leave quantization and labels out, or train it on one device",
        )


def _shard(
    base: Base, layout: Layout, spec: TrialSpec
) -> tuple[PeftModel, dict[str, nn.Parameter]]:
    """Put a fresh adapter on the base and spread both; the trained tensors by their file's name."""
    weights = initial_weights(find_linear(base.model), layout, spec.seed)
    model = get_peft_model(base.model, trainable(base, layout))
    parameters = find_trained(model, "default")
    with torch.no_grad():
        for name, view in layout.views(weights).items():
            parameters[name].copy_(view)
    for layer in base.model.model.layers:
        fully_shard(layer)
    return fully_shard(model), find_trained(model, "default")


def _make_optimizer(spec: TrialSpec, parameters: Iterable[nn.Parameter]) -> Optimizer:
    rate, decay = spec.learning_rate, spec.weight_decay
    return make_optimizer(spec.optimizer, parameters, learning_rate=rate, weight_decay=decay)


def _differentiate(
    model: PeftModel, batch: Sequence[Example], loss_of: TokenLoss, group: Group, budget: int
) -> tuple[float, int]:
    """Add the gradient of a batch's mean loss to the parameters; that loss, and its tokens."""
    targets = sum(int(np.count_nonzero(example.supervised)) for example in batch)
    total = 0.0
    model.train()
    for part, counts in _deal(model, batch, group, budget):
        logits, wanted = predict(model, part)
        loss = loss_of(logits.float(), wanted).sum() * counts
        # FSDP takes the mean over the processes, where the sum is wanted.
        (loss * group.size / (targets or 1)).backward()
        total += float(loss.detach())
    return group.add_up(total)[0] / (targets or 1), targets


def _deal(
    model: PeftModel, batch: Sequence[Example], group: Group, budget: int
) -> list[tuple[list[Example], float]]:
    """This process's passes over its share of ``batch``, and whether each counts.

    All processes make as many passes as the one that has most, for they compute every layer
    together; what is added for that counts nothing.
    """
    shares = [
        [
            like
            for part in split_by_tokens(batch[rank :: group.size], budget)
            for like in same_rope(model, part)
        ]
        for rank in range(group.size)
    ]
    mine = [(part, 1.0) for part in shares[group.rank]]
    most = max(len(share) for share in shares)
    return mine + [([batch[0]], 0.0)] * (most - len(mine))


def _clip(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale the gradients to norm ``limit``; 0 leaves them. Their norm before."""
    found = list(parameters)
    norm = _whole(nn.utils.get_total_norm([each.grad for each in found if each.grad is not None]))
    if limit:
        nn.utils.clip_grads_with_norm_(found, limit, norm)
    return float(norm)


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is spread over the processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def _evaluate(model: PeftModel, examples: Sequence[Example], group: Group, budget: int) -> Scores:
    """What all processes together find on ``examples``."""
    model.eval()
    nll = tokens = correct = 0.0
    for start in range(0, len(examples), 8 * group.size):
        batch = [examples[at] for at in range(start, min(start + 8 * group.size, len(examples)))]
        for part, counts in _deal(model, batch, group, budget):
            logits, wanted = predict(model, part)
            nll += counts * float(
                nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
            )
            correct += counts * int((logits.argmax(-1) == wanted).sum())
            tokens += counts * len(wanted)
    nll, tokens, correct = group.add_up(nll, tokens, correct)
    return Scores(nll / max(1.0, tokens), int(tokens), correct / max(1.0, tokens))


def _save(
    folder: Path,
    names: Sequence[str],
    layout: Layout,
    parameters: Mapping[str, nn.Parameter],
    base: Base,
) -> None:
    """Gather the adapter; the first process writes it."""
    flat = torch.empty(layout.size)
    for name, view in layout.views(flat).items():
        view.copy_(_whole(parameters[name].detach()))
    if distributed.get_rank() == 0:
        for name in names:
            save_checkpoint(folder / name, layout, flat, base_name=base.path)


def main() -> None:
    """What ``torchrun`` starts in each process."""
    parser = argparse.ArgumentParser(prog="mlflow_phi3.training.sharded", description=__doc__)
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument("--model_revision", default=None)
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--prepared", type=Path, required=True, help="folder that prepare wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for best and last")
    parser.add_argument("--token_budget", type=int, default=1024, help="tokens of one pass")
    parser.add_argument("--learning_rate", type=float, required=True)
    for name in ("batch_size_multiplier", "epochs", "per_device_batch_size", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(_DEFAULT, name))
    for name in ("warmup_ratio", "weight_decay", "max_grad_norm"):
        parser.add_argument(f"--{name}", type=float, default=getattr(_DEFAULT, name))
    parser.add_argument("--scheduler", choices=get_args(Scheduler), default=_DEFAULT.scheduler)
    parser.add_argument("--lora_r", type=int, default=_DEFAULT.lora.r)
    parser.add_argument("--lora_alpha", type=float, default=_DEFAULT.lora.alpha)
    asked = parser.parse_args()
    names = {field.name for field in fields(TrialSpec)} & vars(asked).keys()
    spec = TrialSpec(
        lora=LoraSpec(asked.lora_r, asked.lora_alpha),
        **{name: getattr(asked, name) for name in names},
    )
    group = join()
    try:
        base = load_base(asked.model, revision=asked.model_revision, precision=asked.precision)
        data = load_prepared(asked.prepared)
        train, validation = data.examples("train"), data.examples("validation")
        for report in train_sharded(
            base,
            train,
            validation,
            spec,
            group=group,
            folder=asked.out,
            token_budget=asked.token_budget,
        ):
            if group.rank == 0:
                print(json.dumps(asdict(report), default=str), flush=True)  # noqa: T201 - a program
    finally:
        distributed.destroy_process_group()


def join() -> Group:
    """Join the processes that ``torchrun`` has started."""
    local = int(os.environ["LOCAL_RANK"])
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if gpu else "gloo")
    return Group(distributed.get_rank(), distributed.get_world_size(), device)


if __name__ == "__main__":
    main()
