"""The MLflow run of one trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow_phi3.sweep.ledger import RUN_ID, Ledger, Ticket
from mlflow_phi3.sweep.space import flat_params
from mlflow_phi3.tracking.runs import Run, Status, Tracker
from mlflow_phi3.training.reports import EvaluationReport, StepReport

STUDY = "phi3.study"
NUMBER = "phi3.trial_number"
STATE = "phi3.trial_state"
SHARED_WITH = "phi3.shared_with"
REASON = "phi3.reason"
BEST = "checkpoints/best"
PER_EXAMPLE = "eval/per_example.json"

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
        steps: Optimizer steps that an earlier attempt logged already; they are not logged again.
        evaluations: The step up to which it logged evaluations.
    """

    run: Run
    steps: int = 0
    evaluations: int = 0

    def log_step(self, report: StepReport) -> None:
        """Log one optimizer step."""
        if report.step <= self.steps:
            return
        values = {
            "train/loss": report.loss,
            "train/learning_rate": report.learning_rate,
            "train/grad_norm": report.grad_norm,
            "train/epoch": report.epoch,
            "train/tokens_per_second": report.tokens_per_second,
            "train/supervised_tokens": report.supervised_tokens,
        }
        self.run.log_metrics(values, step=report.step)

    def log_evaluation(self, report: EvaluationReport) -> None:
        """Log one evaluation that the run does not have yet."""
        values = {
            "eval/loss": report.loss,
            "eval/perplexity": report.perplexity,
            "eval/token_accuracy": report.token_accuracy,
        }
        if report.step > self.evaluations:
            self.run.log_metrics(values, step=report.step)
        if report.best:
            self.run.log_json(list(report.example_losses), PER_EXAMPLE)

    def end(self, state: TrialState, *, reason: str = "", adapter: Path | None = None) -> None:
        """Log the best checkpoint, say how it ended, and close the run."""
        if adapter is not None:
            self.run.log_folder(adapter, BEST)
        self.run.set_tags({STATE: state, **({REASON: reason[:5000]} if reason else {})})
        self.run.end(_STATUS[state])


def open_trial_run(
    ticket: Ticket, ledger: Ledger, *, tracker: Tracker, parent: Run, tags: Mapping[str, str]
) -> TrialRun:
    """The trial's run: a new child of ``parent``, or the one that an earlier attempt began."""
    study = ledger.study.study_name
    number = ticket.trial.number
    own = {STUDY: study, NUMBER: number}
    run_id = ticket.run_id
    if not run_id and ticket.taken_over:
        # The earlier driver may have died between creating the run and noting it.
        run_id = next((run.info.run_id for run in tracker.find(own)), "")
    if run_id:
        run = tracker.resume(run_id)
        run.set_tags({STATE: "RUNNING"})
        steps, evaluations = run.last_step("train/loss"), run.last_step("eval/loss")
    else:
        run = tracker.start(
            ticket.name, stage="trial", parent=parent, tags={**tags, **own, STATE: "RUNNING"}
        )
        steps = evaluations = 0
    if ticket.run_id != run.run_id:
        run.log_params(flat_params(ticket.spec))
        ledger.note(ticket, RUN_ID, run.run_id)
    return TrialRun(run, steps, evaluations)
