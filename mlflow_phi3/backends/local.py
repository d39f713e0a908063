"""Trials train in this process, over the base that is loaded already."""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mlflow_phi3.backends.base import Job, Workload
from mlflow_phi3.errors import TrainingError
from mlflow_phi3.modeling.adapter import WEIGHTS_FILE
from mlflow_phi3.training.capacity import advise_size, choose_concurrency
from mlflow_phi3.training.checkpoint import OPTIMIZER_FILE, is_resumable, load_progress
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.memory import MEMORY_ERRORS, is_out_of_memory
from mlflow_phi3.training.passes import token_budget_of
from mlflow_phi3.training.reports import EndReport, EvaluationReport, Report

logger = logging.getLogger(__name__)


class LocalBackend:
    """One group at a time on one base.

    Args:
        work: What the trials have in common.
        folder: Where they keep their checkpoints, ``<folder>/<trial>``.
    """

    def __init__(self, work: Workload, *, folder: Path) -> None:
        self.work = work
        self.folder = folder
        self.token_budget = token_budget_of(work.base.model.device)
        # One for all rounds: a longer trial may go on where an earlier one has ended.
        self.session = self._open_session()
        self._concurrency = work.concurrency or self._measure()

    @property
    def slots(self) -> int:
        """Always one."""
        return 1

    @property
    def group_size(self) -> int:
        """Trainings that go on together."""
        return self._concurrency

    def _measure(self) -> int:
        work = self.work
        try:
            return choose_concurrency(
                work.base, work.train, work.largest, token_budget=self.token_budget
            )
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            return 1  # whoever it is will fail by itself

    @contextmanager
    def train(self, groups: Sequence[Sequence[Job]]) -> Iterator["LocalTraining"]:
        """Train the groups one after the other; leaving early keeps each trial's latest step."""
        training = LocalTraining(self, groups)
        with closing(training):
            yield training

    def close(self) -> None:
        """Nothing to let go of: the base is the caller's."""

    def renew_session(self) -> None:
        """Begin another session: one that ran out of memory is not used again."""
        self.session = self._open_session()

    def _open_session(self) -> Session:
        return Session(
            self.work.base,
            self.work.train,
            self.work.validation,
            folder=self.folder,
            token_budget=self.token_budget,
        )


def add_job(session: Session, job: Job, folder: Path) -> None:
    """Let a job join, from its last checkpoint where it asks for that and there is one."""
    resume = job.resume and _can_go_on(folder / job.trial / "last")
    evaluated = job.evaluated if resume else None
    session.add(job.trial, job.spec, resume=resume, evaluated=evaluated)


def _can_go_on(last: Path) -> bool:
    """Whether a checkpoint is there and whole; one that is broken is told, and begun anew."""
    if not is_resumable(last):
        return False
    try:
        load_progress(last)
        for name in (WEIGHTS_FILE, OPTIMIZER_FILE):
            with safe_open(last / name, framework="pt"):
                pass  # its header is held against its length
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        logger.warning("%s cannot be read, its trial begins anew: %s", last, error)
        return False
    return True


class LocalTraining:
    """Groups under way, one after the other.

    A group that does not fit the memory is taken apart: each half goes on from its last
    checkpoint, and a trial that does not fit by itself fails.

    Args:
        backend: Base, examples and folder.
        groups: What to train.
    """

    def __init__(self, backend: LocalBackend, groups: Sequence[Sequence[Job]]) -> None:
        self._backend = backend
        self._groups = [list(group) for group in groups]
        self._running: Generator[Report, None, None] | None = None
        self._dropped: set[str] = set()

    def reports(self) -> Iterator[Report]:
        """What the trials of one group after the other tell."""
        while self._groups:
            group = {job.trial: job for job in self._groups.pop(0)}
            try:
                for report in self._train(list(group.values())):
                    if isinstance(report, EndReport):
                        del group[report.trial]
                    elif isinstance(report, EvaluationReport):
                        job = group[report.trial]
                        group[report.trial] = replace(job, evaluated=report.number)
                    yield report
            except MEMORY_ERRORS as error:
                if not is_out_of_memory(error):
                    raise
                told = error.problem if isinstance(error, TrainingError) else str(error)
                problem = told.splitlines()[0] if told else "out of memory"
            else:
                self._running = None
                continue
            yield from self._take_apart(list(group.values()), problem)

    def drop(self, trial: str) -> None:
        """Stop a trial."""
        self._dropped.add(trial)
        self._backend.session.drop(trial)

    def close(self) -> None:
        """Leave each running trial's latest step on the disk."""
        if self._running is not None:
            self._running.close()
            self._running = None
            self._backend.renew_session()  # the old one would train on what was left here

    def _train(self, jobs: Sequence[Job]) -> Iterator[Report]:
        for job in jobs:
            add_job(self._backend.session, job, self._backend.folder)
            if job.trial in self._dropped:
                self._backend.session.drop(job.trial)
        self._running = self._backend.session.reports()
        return self._running

    def _take_apart(self, jobs: list[Job], problem: str) -> Iterator[Report]:
        """Put the halves of a group that did not fit in its place."""
        self._backend.renew_session()
        if len(jobs) == 1:
            yield self._refuse(jobs[0], problem)
            return
        logger.warning("%d trials do not fit the memory together: %s", len(jobs), problem)
        # Those that may share one training stay together as long as there are others.
        parts: dict[object, list[Job]] = {}
        for job in jobs:
            parts.setdefault(job.spec.trunk, []).append(replace(job, resume=True))
        halves = list(parts.values()) if len(parts) > 1 else [[job] for job in parts.popitem()[1]]
        middle = len(halves) // 2
        groups = [list(chain(*halves[:middle])), list(chain(*halves[middle:]))]
        self._groups = [*groups, *self._groups]

    def _refuse(self, job: Job, problem: str) -> EndReport:
        """A trial that does not fit by itself has failed."""
        work, token_budget = self._backend.work, self._backend.token_budget
        advice = advise_size(work.base, work.train, job.spec, token_budget=token_budget)
        reason = TrainingError("PHI3-T081", problem, where=job.trial, fix=advice)
        return EndReport(job.trial, "failed", str(reason), 0, float("nan"), None, 0.0)
