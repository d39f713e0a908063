"""Trials train in this process, over the base that is loaded already."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_phi3.backends.base import Job
from mlflow_phi3.data.messages import Example
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training.checkpoint import STATE_FILE
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.reports import Report

# On a CPU fusing saves little, but trials that advance together can be judged together; on a GPU
# a group fills the machine at small batches.
_GROUP = {"cpu": 4, "cuda": 8}


class LocalBackend:
    """One group at a time on one base.

    Args:
        base: The frozen base.
        train: Training examples.
        validation: Validation examples.
        folder: Where trials keep their checkpoints, ``<folder>/<trial>``.
        concurrency: Trainings that go on together; 0 decides by the device.
    """

    def __init__(
        self,
        base: Base,
        train: Sequence[Example],
        validation: Sequence[Example],
        *,
        folder: Path,
        concurrency: int = 0,
    ) -> None:
        self._folder = folder
        self._session = Session(base, train, validation, folder=folder)
        self._concurrency = concurrency or _GROUP.get(base.model.device.type, 4)

    @property
    def slots(self) -> int:
        """Always one."""
        return 1

    @property
    def group_size(self) -> int:
        """Trainings that go on together."""
        return self._concurrency

    @contextmanager
    def train(self, groups: Sequence[Sequence[Job]]) -> Iterator["LocalTraining"]:
        """Train the groups one after the other; leaving early keeps each trial's latest step."""
        training = LocalTraining(self._session, [list(group) for group in groups], self._folder)
        with closing(training):
            yield training


def add_job(session: Session, job: Job, folder: Path) -> None:
    """Let a job join, from its last checkpoint where it asks for that and there is one."""
    resume = job.resume and (folder / job.trial / "last" / STATE_FILE).is_file()
    evaluated = job.evaluated if resume else None
    session.add(job.trial, job.spec, resume=resume, evaluated=evaluated)


@dataclass(slots=True)
class LocalTraining:
    """Groups under way in one session."""

    session: Session
    groups: list[list[Job]]
    folder: Path
    _running: Iterator[Report] | None = field(default=None)

    def reports(self) -> Iterator[Report]:
        """What the trials of one group after the other tell."""
        for group in self.groups:
            for job in group:
                add_job(self.session, job, self.folder)
            running = self.session.reports()
            self._running = running
            yield from running

    def drop(self, trial: str) -> None:
        """Stop a trial."""
        self.session.drop(trial)

    def close(self) -> None:
        """Leave each running trial's latest step on the disk."""
        close = getattr(self._running, "close", None)
        if close is not None:
            close()
