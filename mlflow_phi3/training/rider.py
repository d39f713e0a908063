"""A trial that rides on a trajectory: what it has heard, and what it is told as its own."""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlflow_phi3.training import checkpoint as disk
from mlflow_phi3.training.reports import EndReport, EvaluationReport, Outcome, StepReport
from mlflow_phi3.training.schedule import Schedule
from mlflow_phi3.training.spec import TrialSpec


@dataclass(slots=True)
class Rider:
    """A trial: where it gets off, where its files lie, and the best it has seen."""

    trial: str
    spec: TrialSpec
    folder: Path
    shared_with: str | None = None
    best_loss: float = float("inf")
    best_before: float = float("inf")  # the last evaluation
    steps: int = 0
    dropped: bool = False
    began: float = field(default_factory=time.perf_counter)

    def hear(self, loss: float | None) -> bool:
        """Take in an evaluation; whether it is the best so far, as all are that measure nothing."""
        self.best_before = self.best_loss
        if loss is None:
            return True
        self.best_loss = min(loss, self.best_loss)
        return loss < self.best_before

    def own_step(self, told: StepReport, examples: int) -> StepReport:
        """A step of its trajectory as one of its own; ``examples`` are trained on."""
        total = Schedule(self.spec, examples).total_steps
        return replace(told, trial=self.trial, total_steps=total)

    def own_evaluation(self, told: EvaluationReport, *, best: bool) -> EvaluationReport:
        """An evaluation of its trajectory as one of its own."""
        return replace(told, trial=self.trial, best=best)

    def take_up(self, progress: disk.Progress) -> None:
        """Stand where a checkpoint stood."""
        self.steps = progress.step
        self.best_loss, self.best_before = progress.best_loss, progress.best_before

    def report_end(self, outcome: Outcome, reason: str) -> EndReport:
        """Its last word."""
        best = self.folder / "best"
        return EndReport(
            trial=self.trial,
            outcome=outcome,
            reason=reason,
            steps=self.steps,
            best_loss=self.best_loss if math.isfinite(self.best_loss) else math.nan,
            best_checkpoint=best if best.is_dir() else None,
            seconds=time.perf_counter() - self.began,
            shared_with=self.shared_with,
        )
