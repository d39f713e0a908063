"""The MLflow run of one trial."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow_phi3.sweep.ledger import Ledger
from mlflow_phi3.sweep.results import Accuracy, SweepResult
from mlflow_phi3.sweep.space import flat_params
from mlflow_phi3.sweep.tickets import Ticket
from mlflow_phi3.tracking.missing import unless_missing
from mlflow_phi3.tracking.run import Run, Status
from mlflow_phi3.tracking.tracker import Tracker
from mlflow_phi3.training.reports import EvaluationReport, StepReport

STUDY = "phi3.study"
STORAGE = "phi3.storage"
DRIVER = "phi3.driver"
NUMBER = "phi3.trial_number"
STATE = "phi3.trial_state"
SHARED_WITH = "phi3.shared_with"
REASON = "phi3.reason"
FRONT = "phi3.pareto_front"
BEST = "checkpoints/best"
PER_EXAMPLE = "eval/per_example.json"

STEP_METRICS = (
    "train/loss",
    "train/learning_rate",
    "train/grad_norm",
    "train/epoch",
    "train/tokens_per_second",
    "train/supervised_tokens",
)
EVALUATION_METRICS = ("eval/loss", "eval/perplexity")

TrialState = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING"]
_STATUS: Mapping[TrialState, Status] = {
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
    "WAITING": "KILLED",
}


@dataclass(slots=True)
class TrialRun:
    """A trial as MLflow shows it.

    Args:
        run: The run, RUNNING.
        steps: Optimizer steps that are logged; who repeats them does not log them again.
        evaluations: The step up to which evaluations are logged.
        spill: Where points wait that the store does not have yet.
        accuracy: What the share of right tokens is logged as.
        resumed: Whether an earlier attempt began the run.
    """

    run: Run
    steps: int = 0
    evaluations: int = 0
    spill: Path | None = None
    accuracy: Accuracy = "token_accuracy"
    resumed: bool = False

    def log_step(self, report: StepReport) -> None:
        """Log one optimizer step."""
        if report.step <= self.steps:
            return
        self.steps = report.step
        values = (
            report.loss,
            report.learning_rate,
            report.grad_norm,
            report.epoch,
            report.tokens_per_second,
            report.supervised_tokens,
        )
        self.run.log_metrics(_told(STEP_METRICS, values), step=report.step)
        if report.evaluation_follows:
            # So does a checkpoint; a driver that dies after it does not see these steps again.
            self.keep()

    def log_evaluation(self, report: EvaluationReport) -> None:
        """Log one evaluation that the run does not have yet."""
        values = (report.loss, report.perplexity, report.token_accuracy)
        if report.step > self.evaluations:
            self.evaluations = report.step
            names = (*EVALUATION_METRICS, f"eval/{self.accuracy}")
            self.run.log_metrics(_told(names, values), step=report.step)
            # The study hears of it next, and then nobody tells it again.
            self.keep()
        if report.best:
            self.run.log_json(list(report.example_losses), PER_EXAMPLE)

    def best_accuracy(self) -> float:
        """Accuracy at the lowest validation loss, also where an earlier attempt saw it."""
        self.run.flush()
        losses = self.run.history("eval/loss")
        accuracies = self.run.history(f"eval/{self.accuracy}")
        best = min(losses, key=lambda step: (losses[step], step), default=-1)
        return accuracies.get(best, math.nan)

    def keep(self) -> None:
        """Make what was logged survive this process."""
        if self.spill is None:
            self.run.flush()
        else:
            self.run.spill(self.spill)

    def log_costs(self, costs: Mapping[str, float]) -> None:
        """Log what the trial cost; an attempt that ended in between has told it already."""
        if costs and not (self.resumed and self.run.history(next(iter(costs)))):
            self.run.log_metrics(costs, step=self.steps)

    def end(self, state: TrialState, *, reason: str = "", adapter: Path | None = None) -> None:
        """Log the best checkpoint, say how it ended, and close the run."""
        if adapter is not None:
            self.run.log_folder(adapter, BEST)
        tags = {STATE: state, **({REASON: reason[:5000]} if reason else {})}
        self.run.set_tags(tags, later=True)
        self.run.end(_STATUS[state])


def _told(names: Sequence[str], values: Sequence[float | None]) -> dict[str, float]:
    """The metrics that somebody measured."""
    pairs = zip(names, values, strict=True)
    return {name: value for name, value in pairs if value is not None}


def accuracy_of(labels: Sequence[str]) -> Accuracy:
    """What a share of right tokens is called: a model with labels gives one token, its label."""
    return "accuracy" if labels else "token_accuracy"


def mark_front(result: SweepResult, tracker: Tracker) -> None:
    """Tag the runs of the Pareto front, and those no longer that were on it."""
    marked = tracker.find({STUDY: result.study, FRONT: "true"})
    on_front = {trial.run_id for trial in result.trials if trial.number in result.front}
    for run_id in on_front ^ {run.info.run_id for run in marked}:
        with unless_missing():
            tracker.get(run_id).set_tags({FRONT: "true" if run_id in on_front else "false"})


def open_trial_run(
    ticket: Ticket,
    ledger: Ledger,
    *,
    tracker: Tracker,
    parent: Run,
    tags: Mapping[str, str],
    folder: Path | None = None,
    accuracy: Accuracy = "token_accuracy",
) -> TrialRun:
    """The trial's run: a new child of ``parent``, or the one that an earlier attempt began.

    Args:
        ticket: The trial.
        ledger: Its study.
        tracker: Where runs go.
        parent: The sweep's run.
        tags: Of every trial's run.
        folder: Keeps points that the store does not have yet; None writes them to it at once.
        accuracy: What the share of right tokens is logged as.
    """
    own = {STUDY: ledger.study.study_name, NUMBER: ticket.number}
    run_id = ticket.run_id
    if not run_id and ticket.taken_over:
        # The earlier driver may have died between creating the run and noting it.
        run_id = next((run.info.run_id for run in tracker.find(own)), "")
    spill = None if folder is None else folder / f"{ticket.name}.json"
    opened: TrialRun | None = None
    if run_id:
        with unless_missing():  # somebody may have deleted it
            run = tracker.resume(run_id)
            run.set_tags({STATE: "RUNNING", REASON: ""}, later=True)
            opened = _recover(run, spill, accuracy)
    if opened is None:
        all_tags = {**tags, **own, STATE: "RUNNING"}
        run = tracker.start(ticket.name, stage="trial", parent=parent, tags=all_tags)
        opened = TrialRun(run, spill=spill, accuracy=accuracy)
    opened.run.log_params(flat_params(ticket.spec), later=True)
    return opened


def _recover(run: Run, spill: Path | None, accuracy: Accuracy) -> TrialRun:
    """What an earlier attempt has logged, and what it had no time to."""
    stored = {"train/loss": run.last_step("train/loss"), "eval/loss": run.last_step("eval/loss")}
    if spill is not None:
        after = dict.fromkeys(STEP_METRICS, stored["train/loss"])
        names = (*EVALUATION_METRICS, f"eval/{accuracy}")
        after |= dict.fromkeys(names, stored["eval/loss"])
        run.recover(spill, after=after)
    return TrialRun(
        run,
        max(stored["train/loss"], run.buffered_step("train/loss")),
        max(stored["eval/loss"], run.buffered_step("eval/loss")),
        spill,
        accuracy,
        resumed=True,
    )
