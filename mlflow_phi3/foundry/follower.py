"""A job of Foundry while it runs: how it stands and its metrics, as they come."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlflow_phi3.azure.finetuning import JobService, JobState, Point
from mlflow_phi3.azure.operation import Deadline, DeadlinePassed
from mlflow_phi3.errors import AzureError

METRICS = {
    "loss": "train/loss",
    "train_loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "epoch": "train/epoch",
    "eval_loss": "eval/loss",
}
"""Names of a job's metrics (transformers' Trainer's) to ours; others keep theirs under azure/."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_PATIENCE = 20
"""Looks that may fail in a row before following is given up; the job does not mind."""
_HOPELESS = frozenset({401, 403, 404})
"""Answers after which no further look would help."""


@dataclass(frozen=True, slots=True)
class News:
    """What a look at a job brought.

    Args:
        job: As it stands.
        points: Metrics that are new since the last look.
        untold: Why its metrics could not be asked for; else empty.
    """

    job: JobState
    points: tuple[Point, ...]
    untold: str = ""


class Follower:
    """Looks at one job until it has ended: less often while nothing is new, and through failures.

    Args:
        service: The remote calls.
        name: The job.
        timeout_s: How long to follow it.
    """

    def __init__(self, service: JobService, name: str, *, timeout_s: float) -> None:
        self._service = service
        self._name = name
        self._deadline = Deadline(timeout_s)
        self._seen: dict[str, int] = {}
        self._failures = 0
        self._pause_s = _FIRST_PAUSE_S

    def look(self) -> News | None:
        """Look once; None where Azure does not answer and may do so later.

        Raises:
            AzureError: There is no such job, or Azure does not answer any more.
        """
        try:
            news = self._look()
        except AzureError as error:
            self._failures += 1
            if self._failures > _PATIENCE or error.status in _HOPELESS:
                raise
            return None
        self._failures = 0
        if news.points:
            self._pause_s = _FIRST_PAUSE_S * 4
        return news

    def pause_s(self) -> float:
        """Return how long to wait before the next look.

        Raises:
            DeadlinePassed: Time is over.
        """
        left_s = self._deadline.left_s()
        if left_s <= 0:
            raise DeadlinePassed(
                "PHI3-A733",
                f"not finished after {self._deadline.timeout_s / 3600:.1f} h; it goes on in Azure",
                where=f"job {self._name}",
                fix=f"mlflow-phi3 watch {self._name}",
            )
        pause_s = min(self._pause_s, left_s)
        self._pause_s = min(self._pause_s * 1.3, _LONGEST_PAUSE_S)
        return pause_s

    def _look(self) -> News:
        job = self._service.get(self._name)
        if job is None:
            raise AzureError(
                "PHI3-A734",
                "there is no such job",
                where=f"job {self._name}",
                fix="mlflow-phi3 list",
                status=404,
            )
        try:
            points = self._service.metrics(self._name)
        except AzureError as error:
            # How the job stands is what counts; not everyone may read a project's metrics.
            return News(job, (), str(error))
        count: dict[str, int] = {}
        new = []
        for point in points:
            count[point.key] = count.get(point.key, 0) + 1
            if count[point.key] > self._seen.get(point.key, 0):
                new.append(point)
        self._seen.update(count)
        return News(job, tuple(new))


def follow(
    service: JobService,
    name: str,
    *,
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[News]:
    """Yield what is new of a job until it has ended.

    Args:
        service: The remote calls.
        name: The job.
        timeout_s: How long to follow it.
        sleep: Waits between two looks.

    Raises:
        AzureError: There is no such job, or Azure does not answer any more.
        DeadlinePassed: Time is over.
    """
    follower = Follower(service, name, timeout_s=timeout_s)
    while True:
        news = follower.look()
        if news is not None:
            yield news
            if news.job.ended:
                return
        sleep(follower.pause_s())
