"""What a sweep tells while it runs, and what it leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlflow_phi3.training.spec import TrialSpec

State = Literal["complete", "pruned", "failed", "running", "waiting"]

Accuracy = Literal["token_accuracy", "accuracy"]
"""What a share of right answers is called: of tokens, or of a classifier's labels."""


def trial_name(number: int) -> str:
    """How a trial is called everywhere: ``trial-007``."""
    return f"trial-{number:03d}"


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """Where a sweep stands after an optimizer step.

    Args:
        finished: Trials that are complete, pruned or failed.
        n_trials: Trials that the study will have in all.
        done: Share of the sweep that is over, 0 to 1, by optimizer steps where they are known.
        trial: The trial that reported last: ``trial-007``.
        step: Its optimizer steps done.
        total_steps: Those it will do.
        loss: Its training loss at that step, in nats per token.
        tokens_per_second: Real tokens per second of that step; None where nobody tells.
        best_trial: The best complete trial so far, empty before there is one.
        best_loss: Its validation loss; NaN before there is one.
    """

    finished: int
    n_trials: int
    done: float
    trial: str
    step: int
    total_steps: int
    loss: float
    tokens_per_second: float | None
    best_trial: str
    best_loss: float


@dataclass(frozen=True, slots=True)
class TrialResult:
    """One trial of a study.

    Args:
        number: Optuna's number, from 0.
        run_id: Its MLflow run; empty when it never began.
        state: Optuna's state in small letters.
        params: The parameters that were searched.
        spec: All that it trained with.
        loss: Lowest validation loss, in nats per supervised token; NaN when there was none.
        perplexity: ``exp(loss)``.
        accuracy: Share of right most-likely tokens, or labels, at that evaluation.
        seconds: Wall-clock of its training.
        shared_with: The trial on whose training its result was read off; None for its own.
        reason: Why it failed or was pruned; else empty.
        adapter: Its best checkpoint on this machine, or None.
        costs: What it cost, by name, where the study has several objectives and it is complete.
    """

    number: int
    run_id: str
    state: State
    params: Mapping[str, int | float | str | bool]
    spec: TrialSpec
    loss: float
    perplexity: float
    accuracy: float
    seconds: float
    shared_with: int | None = None
    reason: str = ""
    adapter: Path | None = None
    costs: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``trial-007``."""
        return trial_name(self.number)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A finished sweep.

    Args:
        study: Optuna's study.
        trials: All its trials, by number.
        winner: The complete trial with the lowest validation loss; of equals, the shorter one. Its
            adapter lies on this machine, unless Foundry has trained it.
        stopped_because: ``n_trials``, ``search_space`` (nothing left to try), ``budget_hours``,
            ``budget_cost`` or ``min_gain``.
        accuracy: What the trials' accuracy is one of.
        costs: Names of what is made small beside the loss.
        front: Numbers of the trials on the Pareto front of loss and costs.
        reseeded: Validation losses of the winner's parameters with other seeds.
    """

    study: str
    trials: tuple[TrialResult, ...]
    winner: TrialResult
    stopped_because: str
    accuracy: Accuracy
    costs: tuple[str, ...]
    front: frozenset[int]
    reseeded: tuple[float, ...] = ()


def show_value(value: object) -> str:
    """Three digits; small rates all in one notation, so that they can be compared at a glance."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
