"""Trials as fine-tuning jobs of Foundry: so many at once, and no more than they may cost."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mlflow_phi3.azure.finetuning import NO_MODEL, FineTuning, JobService, JobState, TunedModel
from mlflow_phi3.backends.base import Job
from mlflow_phi3.errors import AzureError, UsageError
from mlflow_phi3.foundry.follower import Follower, News
from mlflow_phi3.foundry.submission import JobTemplate, model_of, plan_job, submit_once, why_failed
from mlflow_phi3.training.reports import (
    EndReport,
    EvaluationReport,
    Outcome,
    Report,
    StepReport,
    perplexity,
)
from mlflow_phi3.training.spec import TrialSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may go on, and cost.

    Args:
        jobs: Jobs at once, at least 1.
        budget_usd: Most that all jobs together may cost by estimate; 0 sets no limit.
        usd_per_million_tokens: Price of a million training tokens.
        train_tokens: Tokens of the training data.
        train_rows: Conversations of it.
        timeout_s: How long a job is followed.
    """

    jobs: int
    budget_usd: float
    usd_per_million_tokens: float
    train_tokens: int
    train_rows: int
    timeout_s: float

    def cost_usd(self, spec: TrialSpec) -> float:
        """What a trial is estimated to cost: tokens seen, times the price."""
        return self.train_tokens * spec.epochs * self.usd_per_million_tokens / 1e6

    def check_cost(self, cost_usd: float, *, spent_usd: float = 0.0) -> None:
        """Refuse what costs more than is left.

        Raises:
            UsageError: It does.
        """
        left_usd = self.budget_usd - spent_usd
        if self.budget_usd and cost_usd > left_usd:
            raise UsageError(
                "PHI3-U784",
                f"not submitted: {cost_usd:.2f} USD by estimate, {left_usd:.2f} left of budget_usd",
                where=f"budget_usd={self.budget_usd:g}",
                fix="fewer epochs or rows, or a larger budget",
            )


class FoundryBackend:
    """Every trial is a job of its own; trials never share one.

    Args:
        service: The remote calls.
        template: What all jobs share.
        limits: How much may go on.
        cancel: Whether leaving early cancels what runs; else it trains on.
        on_job: Told the trial and how its job stands, at each change.
        known: Trials whose jobs earlier commands have paid for.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        service: JobService,
        template: JobTemplate,
        limits: Limits,
        *,
        cancel: bool,
        on_job: Callable[[str, JobState], None],
        known: Iterable[TrialSpec] = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.service = service
        self.template = template
        self.limits = limits
        self.cancel = cancel
        self.on_job = on_job
        self.sleep = sleep
        self._spent_usd = {self.plan(spec).name: limits.cost_usd(spec) for spec in known}

    @property
    def slots(self) -> int:
        """Jobs at once."""
        return self.limits.jobs

    @property
    def group_size(self) -> int:
        """One: a job trains one trial."""
        return 1

    def close(self) -> None:
        """Nothing to let go of: jobs that still run are Azure's."""

    @contextmanager
    def train(self, groups: Sequence[Sequence[Job]]) -> Iterator["FoundryTraining"]:
        """Train the trials of all groups, ``slots`` at once; leaving early stops listening."""
        training = FoundryTraining(self, [job for group in groups for job in group])
        try:
            yield training
        finally:
            training.leave()

    def plan(self, spec: TrialSpec) -> FineTuning:
        """The job of a trial."""
        return plan_job(self.template, spec)

    def model(self, spec: TrialSpec) -> TunedModel:
        """What the job of a completed trial made; no other job is submitted for it.

        Raises:
            AzureError: It is not there any more.
        """
        wanted = self.plan(spec)

        def refuse() -> None:
            raise AzureError(
                NO_MODEL,
                f"the model that it made of {wanted.output} is not there any more",
                where=f"job {wanted.name}",
                fix="run the sweep again under another study, which trains it anew",
            )

        state, _ = submit_once(self.service, wanted, before=refuse)
        return model_of(self.service, state)

    def submit(self, spec: TrialSpec) -> JobState:
        """The job of a trial, taken up or submitted; either way it is paid for.

        Raises:
            AzureError: Refused, or no answer.
            UsageError: What it costs is not left.
        """
        cost_usd = self.limits.cost_usd(spec)

        def afford() -> None:
            self.limits.check_cost(cost_usd, spent_usd=sum(self._spent_usd.values()))

        state, _ = submit_once(self.service, self.plan(spec), before=afford)
        self._spent_usd[state.name] = cost_usd
        return state


@dataclass(slots=True)
class _LiveTrial:
    """A trial whose job is under way."""

    job: Job
    name: str
    follower: Follower
    began: float
    pause_s: float = 0.0
    status: str = ""
    values: dict[str, float] = field(default_factory=dict)
    evaluated: int = 0
    best: float = math.inf
    step: int = 0
    cancelled: bool = False


@dataclass(slots=True)
class FoundryTraining:
    """Jobs under way and those that wait for their turn."""

    backend: FoundryBackend
    waiting: list[Job]
    running: list[_LiveTrial] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)

    def reports(self) -> Iterator[Report]:
        """What the trials tell, until each has said its ``EndReport``."""
        while self.waiting or self.running:
            while self.waiting and len(self.running) < self.backend.slots:
                yield from self._submit(self.waiting.pop(0))
            for live in [live for live in self.running if live.pause_s <= 0]:
                yield from self._listen(live)
            self._rest()

    def drop(self, trial: str) -> None:
        """Cancel a trial's job; one that waits is not submitted."""
        self.dropped.add(trial)
        for live in self.running:
            if live.job.trial == trial:
                self._cancel(live)

    def leave(self) -> None:
        """Stop listening; cancel what runs where that is wanted."""
        if self.backend.cancel:
            self.dropped.update(live.job.trial for live in self.running)
            for live in self.running:
                self._cancel(live)
        self.running.clear()
        self.waiting.clear()

    def _rest(self) -> None:
        """Wait until the next look at a job is due."""
        pause_s = min((live.pause_s for live in self.running), default=0.0)
        if pause_s > 0:
            self.backend.sleep(pause_s)
        for live in self.running:
            live.pause_s -= pause_s

    def _cancel(self, live: _LiveTrial) -> None:
        """Cancel a job for which no other trial waits; what Azure refuses is told, and stays."""
        sharing = [other for other in self.running if other.name == live.name]
        if any(c.cancelled or c.job.trial not in self.dropped for c in sharing):
            return
        try:
            self.backend.service.cancel(live.name)
        except AzureError as error:
            told = "%s could not be cancelled: it trains on, and costs: %s"
            logger.warning(told, live.name, error)
        else:
            live.cancelled = True

    def _submit(self, job: Job) -> Iterator[Report]:
        backend = self.backend
        if job.trial in self.dropped and not job.evaluated:  # else it has a job, which goes on
            yield _end(job, "dropped", "")
            return
        try:
            state = backend.submit(job.spec)
        except (AzureError, UsageError) as error:
            yield _end(job, "failed", str(error))
            return
        follower = Follower(backend.service, state.name, timeout_s=backend.limits.timeout_s)
        self.running.append(_LiveTrial(job, state.name, follower, time.monotonic()))
        backend.on_job(job.trial, state)

    def _listen(self, live: _LiveTrial) -> Iterator[Report]:
        try:
            news = live.follower.look()
            if news is None or not news.job.ended:
                live.pause_s = live.follower.pause_s()
        except AzureError as error:  # the job may go on; its trial is over
            self.running.remove(live)
            yield _end(live.job, "failed", str(error), live)
            return
        if news is None:
            return
        if news.job.status != live.status:
            live.status = news.job.status
            self.backend.on_job(live.job.trial, news.job)
        yield from self._retell(live, news)
        if not news.job.ended:
            if live.job.trial in self.dropped:  # Azure may have refused it before
                self._cancel(live)
            return
        self.running.remove(live)
        if news.job.status == "Completed":
            if live.evaluated < live.job.spec.epochs and "eval_loss" in live.values:
                yield _evaluation(live, live.values["eval_loss"], live.job.spec.epochs)
            yield _end(live.job, "complete", news.untold, live)
        elif live.job.trial in self.dropped:
            yield _end(live.job, "dropped", "", live)
        else:
            why = why_failed(self.backend.service, live.name)
            yield _end(live.job, "failed", f"{live.name} {news.job.status}: {why}", live)

    def _retell(self, live: _LiveTrial, news: News) -> Iterator[Report]:
        """A job's metrics as reports, in the order of their steps."""
        for point in sorted(news.points, key=lambda p: (p.step, _ORDER.get(p.key, 9))):
            live.values[point.key] = point.value
            live.step = max(live.step, point.step)
            if point.key == "loss":
                yield self._step(live, point.value, point.step)
            elif point.key == "eval_loss":
                # One evaluation an epoch is what counts; further ones in between do not.
                epoch = round(live.values.get("epoch", live.evaluated + 1))
                if live.evaluated < epoch <= live.job.spec.epochs:
                    yield _evaluation(live, point.value, epoch)

    def _step(self, live: _LiveTrial, loss: float, step: int) -> StepReport:
        spec = live.job.spec
        total = math.ceil(self.backend.limits.train_rows / spec.batch_size) * spec.epochs
        return StepReport(
            trial=live.job.trial,
            step=step,
            total_steps=max(total, step),
            epoch=live.values.get("epoch", step * spec.epochs / max(total, step)),
            loss=loss,
            learning_rate=live.values.get("learning_rate"),
            grad_norm=live.values.get("grad_norm"),
            tokens=None,  # the service does not tell
            supervised_tokens=None,
            tokens_per_second=None,
            memory_bytes=None,
        )


# Of one step: what describes it first, then its loss, then its evaluation.
_ORDER: Mapping[str, int] = {"learning_rate": 0, "grad_norm": 0, "epoch": 0, "loss": 1}


def _evaluation(live: _LiveTrial, loss: float, epoch: int) -> EvaluationReport:
    live.evaluated = epoch
    best = loss < live.best
    live.best = min(live.best, loss)
    return EvaluationReport(
        trial=live.job.trial,
        step=live.step,
        number=epoch,
        epoch=float(epoch),
        loss=loss,
        perplexity=perplexity(loss),
        token_accuracy=None,
        supervised_tokens=None,
        best=best,
    )


def _end(job: Job, outcome: Outcome, reason: str, live: _LiveTrial | None = None) -> EndReport:
    return EndReport(
        trial=job.trial,
        outcome=outcome,
        reason=reason,
        steps=0 if live is None else live.step,
        best_loss=math.nan if live is None or math.isinf(live.best) else live.best,
        best_checkpoint=None,
        seconds=0.0 if live is None else time.monotonic() - live.began,
    )
