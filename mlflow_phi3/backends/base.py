"""The contract of a place where trials train."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mlflow_phi3.data.messages import Example
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training.reports import Report
from mlflow_phi3.training.spec import TrialSpec


@dataclass(frozen=True, slots=True)
class Workload:
    """What all trials of a sweep have in common.

    Args:
        base: The frozen base.
        train: Training examples.
        validation: Validation examples.
        largest: The trial that needs the most memory.
        concurrency: Trainings that go on together; 0 takes what fits the free memory.
    """

    base: Base
    train: Sequence[Example]
    validation: Sequence[Example]
    largest: TrialSpec
    concurrency: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One trial to train.

    Args:
        trial: Its name, unique in the study: ``trial-007``.
        spec: What it trains with.
        resume: Whether to go on from its last checkpoint, if the backend finds one.
        evaluated: Evaluations that are known already; a later one is told again.
    """

    trial: str
    spec: TrialSpec
    resume: bool = False
    evaluated: int = 0


class Training(Protocol):
    """Trials under way."""

    def reports(self) -> Iterator[Report]:
        """What the trials tell, until each has said its ``EndReport``.

        The reports of one trial come in order; those of different trials of one group always
        interleave in the same way.
        """

    def drop(self, trial: str) -> None:
        """Stop a trial; its ``EndReport`` says ``dropped``."""


class Backend(Protocol):
    """A place where trials train."""

    @property
    def slots(self) -> int:
        """Groups that train at the same time, at least 1."""

    @property
    def group_size(self) -> int:
        """Trainings that go on together over one loaded base, at least 1."""

    def train(self, groups: Sequence[Sequence[Job]]) -> AbstractContextManager[Training]:
        """Train groups of jobs; leaving the context stops what still runs.

        Trials that differ only in ``epochs`` under a constant schedule share one training when
        they are in one group.
        """

    def close(self) -> None:
        """Let go of what trained; nothing is trained here afterwards."""
