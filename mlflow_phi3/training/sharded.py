"""One trial over a frozen base that fits no single device: FSDP spreads it over several.

    torchrun --nproc-per-node 8 -m mlflow_phi3.training.sharded --model microsoft/phi-4 \
        --prepared .phi3/prepared/<key> --out adapters --learning_rate 1e-4 --epochs 2

Hugging Face's modules with PEFT's adapter, as in the reference engine, under PyTorch's
``fully_shard``: a device holds its part of every layer, and a whole one only while it computes
with it. Each optimizer batch is dealt out to the processes; its loss and gradient are those of one
process, and what is written are the same checkpoints. The same command goes on from the last one.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from peft import PeftModel
from torch import distributed, nn

from mlflow_phi3.config.hyperparameters import Scheduler
from mlflow_phi3.data.messages import Example
from mlflow_phi3.data.prepared import load_prepared
from mlflow_phi3.errors import Phi3Error, UsageError
from mlflow_phi3.modeling.base import Base, Precision, load_base
from mlflow_phi3.training import checkpoint as disk
from mlflow_phi3.training.engine.loss import TokenLoss, get_loss
from mlflow_phi3.training.memory import memory_bytes
from mlflow_phi3.training.passes import split_by_tokens
from mlflow_phi3.training.reference import alike, predict
from mlflow_phi3.training.reports import EvaluationReport, StepReport, diverged, perplexity
from mlflow_phi3.training.rider import Rider
from mlflow_phi3.training.schedule import Schedule, check_evaluations, order_examples
from mlflow_phi3.training.spec import LoraSpec, TrialSpec
from mlflow_phi3.training.spread import Spread, gathered, spread_adapter

TRIAL = "sharded"
# Tokens of one process in one pass. Nothing is computed a second time to save memory here: Phi-4
# keeps 15 to 20 MB a token for the backward pass, so that twice as many do not fit 80 GB.
TOKEN_BUDGET = {"cpu": 1024, "cuda": 2048}
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


def train_sharded(
    base: Base,
    train: Sequence[Example],
    validation: Sequence[Example],
    spec: TrialSpec,
    *,
    group: Group,
    folder: Path,
    token_budget: int | None = None,
    checkpoint_s: float = 600.0,
) -> Iterator[StepReport | EvaluationReport]:
    """Train ``spec`` in every process of ``group``; each is told the same.

    Args:
        base: The frozen base, on the CPU; its layers move to the devices part by part.
        train: Training examples.
        validation: Evaluated as often as ``spec`` asks for; may be empty.
        spec: The trial. With dropout, the masks are not those of one process.
        group: The processes.
        folder: The first process keeps ``<folder>/{best,last}``; where ``last`` holds an earlier
            training of the same, this one goes on from there.
        token_budget: Most tokens of one process in one pass; None chooses by device.
        checkpoint_s: Seconds after which ``last`` is renewed between evaluations.

    Raises:
        UsageError: The base is quantised, or has a head over labels; or an epoch has fewer steps
            than evaluations.
        TrainingError: ``last`` holds the checkpoint of something else; or a loss or a gradient is
            not finite, and what was not is neither applied nor kept.
    """
    _refuse_others(base)
    check_evaluations(spec, len(train))
    budget = token_budget or TOKEN_BUDGET.get(group.device.type, 1024)
    identity = disk.identify(spec, base, disk.digest_examples(train))
    progress = _find_progress(folder / "last", identity, group)
    rider = Rider(TRIAL, spec, folder)
    rider.take_up(progress)
    spread = spread_adapter(base, spec, folder / "last" if progress.step else None)
    schedule = Schedule(spec, len(train))
    saved = time.perf_counter()
    for step in range(progress.step, schedule.total_steps):
        stepped = _step(spread, train, step, group, budget)
        yield stepped
        progress = replace(progress, step=stepped.step)
        if stepped.evaluation_follows:
            number = progress.evaluated + 1
            told = _evaluate(spread.model, validation, group, budget, stepped, number)
            _refuse_infinite(f"validation loss {told.loss}", step, told.loss)
            improved = rider.hear(told.loss if validation else None)
            best, before = rider.best_loss, rider.best_before
            progress = replace(progress, evaluated=number, best_loss=best, best_before=before)
            _save(spread, progress, base, folder, best=improved)
            saved = time.perf_counter()
            if validation:
                yield replace(told, best=improved)
        elif group.add_up(time.perf_counter() - saved)[0] > checkpoint_s * group.size:
            _save(spread, progress, base, folder)
            saved = time.perf_counter()


def _step(
    spread: Spread, train: Sequence[Example], step: int, group: Group, budget: int
) -> StepReport:
    """The update that follows ``step`` finished ones."""
    began = time.perf_counter()
    spec, schedule = spread.spec, Schedule(spread.spec, len(train))
    epoch, start, end = schedule.batch(step)
    batch = [train[at] for at in order_examples(spec, epoch, len(train))[start:end]]
    loss, targets = _differentiate(spread.model, batch, get_loss(spec, group.device), group, budget)
    norm = _clip(spread.parameters.values(), spec.max_grad_norm)
    _refuse_infinite(f"loss {loss}, gradient norm {norm}", step, loss, norm)
    rate = spread.optimizer.param_groups[0]["lr"] = schedule.learning_rate(step)
    spread.optimizer.step()
    spread.optimizer.zero_grad()
    read = sum(len(example.input_ids) for example in batch)
    return StepReport(
        trial=TRIAL,
        step=step + 1,
        total_steps=schedule.total_steps,
        epoch=epoch + end / len(train),
        loss=loss,
        learning_rate=rate,
        grad_norm=norm,
        tokens=read,
        supervised_tokens=targets,
        tokens_per_second=read / (time.perf_counter() - began),
        memory_bytes=memory_bytes(group.device),
        evaluation_follows=schedule.evaluation_follows(step + 1),
    )


def _refuse_infinite(problem: str, step: int, *numbers: float) -> None:
    """Stop in every process, all of which have the same numbers, before anything comes of them."""
    if not all(math.isfinite(number) for number in numbers):
        raise diverged(problem, step=step + 1, where=TRIAL)


def _find_progress(last: Path, identity: Mapping[str, Any], group: Group) -> disk.Progress:
    """How far an earlier training of the same has come; no step when there is none."""
    if group.rank == 0:
        disk.finish_replacing(last)
    distributed.barrier()
    if not disk.is_resumable(last):
        return disk.Progress(0, 0, math.inf, math.inf, identity)
    progress = disk.load_progress(last)
    disk.check_identity(last, progress, identity)
    return progress


def _refuse_others(base: Base) -> None:
    if base.labels or base.quantization != "none":
        raise UsageError(
            "PHI3-U069",
            "only a full base that answers is spread over devices",
            where=base.name,
            fix="leave quantization and labels out, or train it on one device",
        )


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
            for like in alike(model, part)
        ]
        for rank in range(group.size)
    ]
    mine = [(part, 1.0) for part in shares[group.rank]]
    most = max(len(share) for share in shares)
    return mine + [([batch[0]], 0.0)] * (most - len(mine))


def _clip(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale the gradients to norm ``limit``; 0 leaves them. Their norm before."""
    found = list(parameters)
    gradients = [each.grad for each in found if each.grad is not None]
    norm = gathered(nn.utils.get_total_norm(gradients))
    if limit:
        nn.utils.clip_grads_with_norm_(found, limit, norm)
    return float(norm)


@torch.no_grad()
def _evaluate(
    model: PeftModel,
    examples: Sequence[Example],
    group: Group,
    budget: int,
    after: StepReport,
    number: int,
) -> EvaluationReport:
    """What all processes together find on ``examples`` ``after`` a step, as if it were not best."""
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
    loss = nll / max(1.0, tokens)
    return EvaluationReport(
        trial=TRIAL,
        step=after.step,
        number=number,
        epoch=after.epoch,
        loss=loss,
        perplexity=perplexity(loss),
        token_accuracy=correct / max(1.0, tokens),
        supervised_tokens=int(tokens),
        best=False,
    )


def _save(
    spread: Spread, progress: disk.Progress, base: Base, folder: Path, *, best: bool = False
) -> None:
    """Gather the adapter; the first process writes it."""
    flat, optimizer = spread.gather()
    if distributed.get_rank() == 0:
        keep = partial(disk.save_checkpoint, layout=spread.layout, weights=flat)
        if best:  # first: what stops us here is gone through again
            keep(folder / "best", base_name=base.path)
        keep(folder / "last", base_name=base.path, optimizer=optimizer, progress=progress)


def main() -> None:
    """What ``torchrun`` starts in each process."""
    parser = argparse.ArgumentParser(prog="mlflow_phi3.training.sharded", description=__doc__)
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument("--model_revision", default=None)
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--prepared", type=Path, required=True, help="folder that prepare wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for best and last")
    parser.add_argument("--token_budget", type=int, help="tokens of one pass; else by device")
    parser.add_argument("--checkpoint_s", type=float, default=600.0, help="seconds between two")
    parser.add_argument("--learning_rate", type=float, required=True)
    for name in (
        "batch_size_multiplier",
        "epochs",
        "evaluations_per_epoch",
        "per_device_batch_size",
        "seed",
    ):
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
        base = load_base(
            asked.model,
            revision=asked.model_revision,
            precision=asked.precision,
            computes_on=group.device.type,
        )
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
            checkpoint_s=asked.checkpoint_s,
        ):
            if group.rank == 0:
                print(json.dumps(asdict(report), default=str), flush=True)  # noqa: T201 - a program
    except Phi3Error as error:
        if group.rank == 0:
            print(error, file=sys.stderr)  # noqa: T201 - a program
        sys.exit(error.exit_code)
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
