"""What a training tells whoever pulls: the seam between the engine and the rest of the house.

A training is a generator of these. Logging, pruning and stopping belong to the listener;
to prune a trial is to drop it, to stop everything is to stop pulling. None is what a trainer
elsewhere does not tell.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow_phi3.errors import TrainingError

# Perplexities past e^700 do not fit a float64.
_LARGEST_LOSS = 700.0
Outcome = Literal["complete", "dropped", "failed"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step of one trial.

    Args:
        trial: Name under which the trial was added.
        step: Optimizer steps done, 1-based.
        total_steps: Steps this trial will do.
        epoch: Passes over the data done, fractional.
        loss: Mean negative log-likelihood per supervised token of this step's batch, in nats.
        learning_rate: Rate this step used.
        grad_norm: Global norm of the adapter's gradient before clipping.
        tokens: Real (unpadded) tokens of this step's batch.
        supervised_tokens: Tokens of them that carry loss.
        tokens_per_second: Real tokens of this step's batch a second of the passes that computed it,
            which trials of a group share.
        memory_bytes: Resident set (CPU) or allocated device memory (GPU) after the step.
        evaluation_follows: Whether the trial is evaluated, and its checkpoint renewed, after it.
    """

    trial: str
    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float | None
    grad_norm: float | None
    tokens: int | None
    supervised_tokens: int | None
    tokens_per_second: float | None
    memory_bytes: int | None
    evaluation_follows: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """One pass of one trial over the validation examples.

    Args:
        trial: Name of the trial.
        step: Optimizer steps done.
        number: Evaluations of the trial done, this one included.
        epoch: Passes over the training data done, fractional.
        loss: Total negative log-likelihood divided by supervised tokens, in nats.
        perplexity: ``exp(loss)``.
        token_accuracy: Share of supervised tokens whose most likely token is right.
        supervised_tokens: How many tokens that was.
        best: True when it is lower than each earlier one of this trial.
        example_losses: Per-example mean losses, in the order of the validation examples.
    """

    trial: str
    step: int
    number: int
    epoch: float
    loss: float
    perplexity: float
    token_accuracy: float | None
    supervised_tokens: int | None
    best: bool
    example_losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class EndReport:
    """The last word on a trial.

    Args:
        trial: Name of the trial.
        outcome: ``complete``, ``dropped`` (the listener's wish) or ``failed``.
        reason: For ``failed``: the message of the error; else empty.
        steps: Optimizer steps done.
        best_loss: Lowest validation loss seen, or NaN.
        best_checkpoint: Its adapter, or None.
        seconds: Wall-clock since the trial was added.
        shared_with: Trial whose trajectory this result was read off (the two differ in ``epochs``
            alone); None when it was trained for its own sake.
    """

    trial: str
    outcome: Outcome
    reason: str
    steps: int
    best_loss: float
    best_checkpoint: Path | None
    seconds: float
    shared_with: str | None = None


Report = StepReport | EvaluationReport | EndReport


def diverged(problem: str, *, step: int, where: str) -> TrainingError:
    """The error of a trial whose numbers are no longer finite.

    Args:
        problem: Which, and what they are.
        step: At which optimizer step, 1-based.
        where: The trial.
    """
    return TrainingError(
        "PHI3-T003",
        f"{problem} at step {step}",
        where=where,
        fix="lower learning_rate, raise warmup_ratio, or look at the rows of that batch",
    )


def perplexity(loss: float) -> float:
    """``exp(loss)``; inf past float64, NaN of a loss that is none."""
    return math.inf if loss > _LARGEST_LOSS else math.exp(loss)
