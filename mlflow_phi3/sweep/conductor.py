"""The conductor: takes trials from the ledger, has them trained, and tells what becomes of them."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_phi3.backends.base import Backend, Job, Training
from mlflow_phi3.sweep.drivers import HEARTBEAT_S, heard_until
from mlflow_phi3.sweep.ledger import Ledger
from mlflow_phi3.sweep.objectives import measure_costs
from mlflow_phi3.sweep.opening import OpenStudy
from mlflow_phi3.sweep.repair import close_sweeps
from mlflow_phi3.sweep.results import Accuracy, SweepProgress, trial_name
from mlflow_phi3.sweep.tickets import OUTCOME, Ticket
from mlflow_phi3.sweep.trial_run import (
    DRIVER,
    SHARED_WITH,
    TrialRun,
    TrialState,
    open_trial_run,
)
from mlflow_phi3.tracking.missing import briefly
from mlflow_phi3.training.reports import EndReport, EvaluationReport, Report, StepReport
from mlflow_phi3.training.spec import TrialSpec

# How long to wait before looking again whether another driver has finished its trials.
POLL_S = 2.0
_LOST = "another driver has finished it"
_DELETED = "its MLflow run was deleted"


@dataclass(slots=True)
class LiveTrial:
    """A trial under way.

    Args:
        ticket: What to train.
        run: How MLflow sees it.
        group: Those it is judged together with.
        judged: Evaluations after which the pruner was asked.
        share: Part of its optimizer steps that is done.
        given_up: Why it was dropped; empty while it was not.
        accuracy: Share of right tokens, or labels, at its best evaluation.
    """

    ticket: Ticket
    run: TrialRun
    group: int
    judged: int = 0
    share: float = 0.0
    given_up: str = ""
    accuracy: float = math.nan


@dataclass(slots=True)
class Conductor:
    """Works on a study until nothing is left to do.

    Args:
        study: What is worked on, and for which sweep.
        backend: Where trials train.
        tags: Tags of every trial's run.
        on_progress: Told after each optimizer step.
        folder: Keeps points that the store does not have yet; None writes them to it at once.
        round_size: Trainings that are proposed at once; 0 takes what the backend does at once.
        accuracy: What the share of right tokens is logged as.
        clock: Seconds that only grow.
        sleep: Waits so many seconds.
    """

    study: OpenStudy
    backend: Backend
    tags: Mapping[str, str]
    on_progress: Callable[[SweepProgress], None]
    folder: Path | None = None
    round_size: int = 0
    accuracy: Accuracy = "token_accuracy"
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _began: float = 0.0
    _spent_before: float = 0.0
    _looked_at: float = 0.0
    _live: dict[str, LiveTrial] = field(default_factory=dict)
    _unresolved: dict[str, Ticket] = field(default_factory=dict)
    _sharing: Counter[TrialSpec] = field(default_factory=Counter)

    @property
    def ledger(self) -> Ledger:
        """All that is asked of the study and told to it."""
        return self.study.ledger

    def conduct(self) -> str:
        """Train until the study is complete.

        Returns:
            Why it ended: ``n_trials``, ``search_space``, ``min_gain`` or the budget's name.

        Raises:
            KeyboardInterrupt: As it came; trials under way then wait to be
                continued, and their runs are KILLED.
        """
        self.study.parent.set_tags({DRIVER: self.ledger.driver.name})
        self._close_dead()
        self._began = self.clock()
        why = self._search()
        self._close_dead()  # whose trials were taken over meanwhile
        return why

    def spent(self) -> float:
        """Seconds that all drivers have worked on the study, as far as this one knows."""
        return self._spent_before + self.clock() - self._began

    def _search(self) -> str:
        """Round after round; why it ended."""
        round_size = self.round_size or self.backend.group_size * self.backend.slots
        while True:
            self._look_at_others()
            if self.study.budget.is_spent(self.spent()):
                return self.study.budget.name
            enough = self.ledger.gain_is_below(self.study.config.min_gain)
            tickets = self.ledger.take(round_size, propose=not enough)
            if tickets:
                self._train(tickets)
            elif self.ledger.open_trials():
                self.sleep(POLL_S)  # another driver is still at work
            elif len(self.ledger.trials()) >= self.ledger.n_trials:
                return "n_trials"
            else:
                return "min_gain" if enough else "search_space"

    def _close_dead(self) -> None:
        """Close the runs of sweeps of the study in which nobody works any more."""
        ledger = self.ledger
        now = heard_until(ledger.driver.name, ledger.study.user_attrs)
        close_sweeps(ledger.study, tracker=self.study.tracker, now=now)

    def _look_at_others(self) -> None:
        self._spent_before, self._looked_at = self.ledger.spent_by_others(), self.clock()

    def _train(self, tickets: Sequence[Ticket]) -> None:
        """One round: every ticket is told its end, or released."""
        groups = group_tickets(tickets, self.backend.group_size)
        self._unresolved = {ticket.name: ticket for ticket in tickets}
        self._sharing = Counter(ticket.spec.trunk for ticket in tickets)
        try:
            for number, group in enumerate(groups):
                for ticket in group:
                    run = open_trial_run(
                        ticket,
                        self.ledger,
                        tracker=self.study.tracker,
                        parent=self.study.parent,
                        tags=self.tags,
                        folder=self.folder,
                        accuracy=self.accuracy,
                    )
                    # Of the last evaluation the pruner's answer may have died with who had asked.
                    judged = max(0, max(ticket.known, default=0) - 1)
                    self._live[ticket.name] = LiveTrial(ticket, run, number, judged)
            # Whoever continues after a death before this finds the runs by their tags.
            self.ledger.note_runs(
                [(live.ticket, live.run.run.run_id) for live in self._live.values()]
            )
            jobs = [[_job(ticket) for ticket in group] for group in groups]
            with self.backend.train(jobs) as training:
                for number in range(len(groups)):
                    self._judge(number, training)
                for report in training.reports():
                    self._hear(report, training)
        except KeyboardInterrupt as stop:
            self._leave("stopped; continue the study to go on", stop)
            raise
        except BaseException as error:
            self._leave(f"{type(error).__name__}: {error}", error)
            raise

    # -- listening ---------------------------------------------------------------------------

    def _hear(self, report: Report, training: Training) -> None:
        live = self._live[report.trial]
        if live.run.run.gone and not live.given_up:
            self._give_up(live, _DELETED, training)
        if isinstance(report, StepReport):
            live.share = report.step / report.total_steps
            live.run.log_step(report)
            self.tell_progress(report)
        elif isinstance(report, EvaluationReport):
            live.run.log_evaluation(report)
            if not self.ledger.report(live.ticket, report.number, report.loss):
                live.run.run.gone = True  # as its end, it is the other's
                self._give_up(live, _LOST, training)
            elif report.best and report.token_accuracy is not None:
                live.accuracy = report.token_accuracy
            self._judge(live.group, training)
        else:
            self._end(live, report)
            self._judge(live.group, training)
        self._obey_budget(training)

    def _judge(self, group: int, training: Training) -> None:
        """Ask the pruner about a group once all of it has reported an evaluation."""
        members = [live for live in self._live.values() if live.group == group]
        while True:
            ahead = [live for live in members if not live.given_up]
            due = [live for live in ahead if live.judged < live.ticket.spec.evaluations]
            if not due:
                return
            number = min(live.judged for live in due) + 1
            there = [live for live in due if live.judged == number - 1]
            if not all(number in live.ticket.known for live in there):
                return
            longer = [live.ticket for live in there if number < live.ticket.spec.evaluations]
            for live in there:
                live.judged = number
            for ticket in self.ledger.hopeless(longer):
                epoch = number / ticket.spec.evaluations_per_epoch
                reason = f"pruned after epoch {epoch:.3g} at loss {ticket.known[number]:.4f}"
                self._give_up(self._live[ticket.name], reason, training)

    def _give_up(self, live: LiveTrial, reason: str, training: Training) -> None:
        live.given_up = reason
        training.drop(live.ticket.name)

    def _end(self, live: LiveTrial, report: EndReport) -> None:
        """Close the trial's run, then tell the study; a stop before that lets both wait."""
        ticket, run, costs = live.ticket, live.run, dict[str, float]()
        if live.given_up == _LOST:
            del self._live[ticket.name], self._unresolved[ticket.name]
            return
        loss = min(ticket.known.values(), default=math.nan)
        end: TrialState
        if live.given_up == _DELETED:
            end, reason = "FAIL", _DELETED
        elif report.outcome == "complete" and not math.isnan(loss):
            end, reason = "COMPLETE", ""
            costs = measure_costs(self.study.config.costs, ticket.spec, report)
        elif report.outcome == "dropped":
            end, reason = "PRUNED", live.given_up
        else:
            end, reason = "FAIL", report.reason or "it was never evaluated"
        if report.shared_with is not None:
            run.run.set_tags({SHARED_WITH: report.shared_with}, later=True)
        if math.isnan(live.accuracy) and ticket.known and not run.run.gone:
            live.accuracy = run.best_accuracy()
        run.log_costs(costs)
        run.end(end, reason=reason, adapter=None if end == "FAIL" else report.best_checkpoint)
        del self._live[ticket.name]
        facts = _outcome(live, report, reason)
        if end == "COMPLETE":
            self.ledger.complete(ticket, loss, list(costs.values()), facts)
        elif end == "PRUNED":
            self.ledger.prune(ticket, facts)
        else:
            self.ledger.fail(ticket, facts)
        del self._unresolved[ticket.name]

    # -- stopping ----------------------------------------------------------------------------

    def _leave(self, reason: str, stop: BaseException) -> None:
        """Trials under way wait in the study; their runs end as KILLED.

        What cannot be told because the storage or the disk is what failed is noted on ``stop``: the
        study takes its trials back when it is continued, and their runs with them.
        """
        for live in self._live.values():
            with _noted(stop, live.ticket.name):
                live.run.keep()
        with briefly(), _noted(stop, "the runs of its trials"):  # what one is refused, all are
            for live in self._live.values():
                live.run.end("WAITING", reason=reason)
        for ticket in self._unresolved.values():
            with _noted(stop, ticket.name):
                self.ledger.release(ticket)
        self._live.clear()

    def _obey_budget(self, training: Training) -> None:
        """Past the budget, give up what runs, unless the study would end without any result."""
        if self.study.budget.seconds and self.clock() - self._looked_at > HEARTBEAT_S:
            self._look_at_others()  # they go on spending while a round is trained
        if not self.study.budget.is_spent(self.spent()) or self.ledger.best() is None:
            return
        for live in self._live.values():
            if not live.given_up:
                self._give_up(live, f"{self.study.budget.name} is spent", training)

    # -- telling -----------------------------------------------------------------------------

    def tell_progress(self, report: StepReport, *, reseeded: float = 0.0) -> None:
        """Tell how the sweep stands after a step of a training.

        Args:
            report: Of the step.
            reseeded: Of the winner's trainings with other seeds, how many are done.
        """
        stand, n_trials = self.ledger.standing(), self.ledger.untried.total
        # The winner's other trainings are work to be done too.
        work = n_trials + self.study.config.winner_seeds
        done = stand.finished + self._under_way() + reseeded
        self.on_progress(
            SweepProgress(
                finished=stand.finished,
                n_trials=n_trials,
                done=min(1.0, done / work),
                trial=report.trial,
                step=report.step,
                total_steps=report.total_steps,
                loss=report.loss,
                tokens_per_second=report.tokens_per_second,
                best_trial="" if stand.best is None else trial_name(stand.best),
                best_loss=stand.best_loss,
            )
        )

    def _under_way(self) -> float:
        """Trials' worth of what is trained now, beside those of it that are finished.

        Trials that share a training are done as far as the longest of them: of it all their epochs
        are.
        """
        longest: dict[TrialSpec, LiveTrial] = {}
        for live in sorted(self._live.values(), key=lambda live: live.ticket.spec.epochs):
            longest[live.ticket.spec.trunk] = live
        ended = sum(self._sharing[trunk] for trunk in longest) - len(self._live)
        return sum(self._sharing[trunk] * live.share for trunk, live in longest.items()) - ended


@contextmanager
def _noted(stop: BaseException, name: str) -> Iterator[None]:
    """Keep a second error from hiding the first."""
    try:
        yield
    except Exception as second:  # noqa: BLE001 - the first error is the one to show
        stop.add_note(f"and {name} could not be told: {second}")


def group_tickets(tickets: Sequence[Ticket], size: int) -> list[list[Ticket]]:
    """Groups of at most ``size`` trainings each; trials that share one stay together."""
    groups: list[list[Ticket]] = []
    place: dict[object, int] = {}
    for ticket in tickets:
        trunk = ticket.spec.trunk
        if trunk not in place:
            if len(place) % size == 0:
                groups.append([])
            place[trunk] = len(groups) - 1
        groups[place[trunk]].append(ticket)
    return groups


def _outcome(live: LiveTrial, report: EndReport, reason: str) -> dict[str, object]:
    """What the study keeps of a trial beside its losses."""
    adapter = report.best_checkpoint
    facts = {
        "accuracy": live.accuracy,
        "seconds": report.seconds,
        "shared_with": report.shared_with,
        "adapter": None if adapter is None else str(adapter),
        "reason": reason,
    }
    return {OUTCOME: facts}


def _job(ticket: Ticket) -> Job:
    evaluated = max(ticket.known, default=0)
    return Job(ticket.name, ticket.spec, resume=ticket.taken_over, evaluated=evaluated)
