"""A tracking store, a scripted backend that trains nothing, and a small real base."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_phi3.backends.base import Job
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.sweep.budget import Budget
from mlflow_phi3.sweep.conductor import Conductor
from mlflow_phi3.sweep.drivers import beating
from mlflow_phi3.sweep.opening import OpenStudy, open_ledger
from mlflow_phi3.sweep.run import run_sweep
from mlflow_phi3.sweep.space import build_space
from mlflow_phi3.sweep.storage import open_storage
from mlflow_phi3.training.reports import EndReport, EvaluationReport, Outcome, StepReport
from mlflow_phi3.training.spec import TrialSpec
from tests.unit.sweep import tiny

STEPS_PER_EPOCH = 2
BASIC = {"learning_rate": "1e-4..1e-1", "epochs": "3", "pruner": "none", "n_trials": "5"}


@pytest.fixture(scope="session")
def empty_study(tmp_path_factory):
    """Optuna's tables, made once: that takes a second."""
    path = tmp_path_factory.mktemp("study") / "optuna.db"
    open_storage(f"sqlite:///{path}").remove_session()
    return path


@pytest.fixture
def storage_url(tmp_path, empty_study):
    shutil.copy(empty_study, tmp_path / "optuna.db")
    return f"sqlite:///{tmp_path}/optuna.db"


@pytest.fixture
def parent(tracker):
    return tracker.start("sweep-test", stage="sweep")


def bowl(spec: TrialSpec, epoch: int) -> float:
    """A loss with its lowest point at a learning rate of 2e-3 that sinks with every epoch."""
    distance = math.log10(spec.learning_rate / 2e-3) ** 2
    return 1.0 + distance + 0.01 * spec.batch_size_multiplier + 0.5 / epoch


class ScriptedBackend:
    """Trials report a given function of their spec, in lock-step; nothing is computed."""

    slots = 1

    def __init__(
        self,
        folder: Path,
        *,
        group_size: int = 2,
        loss: Callable[[TrialSpec, int], float] = bowl,
        before_step: Callable[[str, int], None] = lambda trial, step: None,
    ):
        self.group_size = group_size
        self.folder = folder
        self.loss = loss
        self.before_step = before_step
        self.rounds: list[list[list[Job]]] = []
        self.epochs_trained = 0

    @contextmanager
    def train(self, groups: Sequence[Sequence[Job]]) -> Iterator["ScriptedTraining"]:
        self.rounds.append([list(group) for group in groups])
        yield ScriptedTraining(self, groups)

    def close(self) -> None:
        pass


class ScriptedTraining:
    def __init__(self, backend: ScriptedBackend, groups: Sequence[Sequence[Job]]):
        self.backend = backend
        self.groups = groups
        self.dropped: set[str] = set()

    def drop(self, trial: str) -> None:
        self.dropped.add(trial)

    def reports(self):
        for group in self.groups:
            yield from self._group(list(group))

    def _group(self, jobs: list[Job]):
        best = {job.trial: self._best_known(job) for job in jobs}
        epoch = 0
        while jobs:
            for job in [job for job in jobs if job.trial in self.dropped]:
                jobs.remove(job)
                yield self._end(job, epoch, "dropped")
            epoch += 1
            self.backend.epochs_trained += len({job.spec.trunk for job in jobs})
            for job in jobs:
                yield from self._epoch(job, epoch)
            for job in list(jobs):
                if math.isnan(self.backend.loss(job.spec, epoch)):
                    jobs.remove(job)
                    yield self._end(job, epoch, "failed")
                else:
                    yield self._evaluation(job, epoch, best)
            for job in [job for job in jobs if job.spec.epochs == epoch]:
                if job.trial not in self.dropped:
                    jobs.remove(job)
                    yield self._end(job, epoch, "complete")

    def _best_known(self, job: Job) -> float:
        epochs = range(1, job.evaluated + 1)
        return min((self.backend.loss(job.spec, epoch) for epoch in epochs), default=math.inf)

    def _epoch(self, job: Job, epoch: int):
        total = job.spec.epochs * STEPS_PER_EPOCH
        for step in range((epoch - 1) * STEPS_PER_EPOCH + 1, epoch * STEPS_PER_EPOCH + 1):
            self.backend.before_step(job.trial, step)
            loss = self.backend.loss(job.spec, epoch) + 0.1
            done, last = step / STEPS_PER_EPOCH, step % STEPS_PER_EPOCH == 0
            yield StepReport(job.trial, step, total, done, loss, 1e-3, 1.0, 90, 30, 900.0, 1, last)

    def _evaluation(self, job: Job, epoch: int, best: dict[str, float]):
        loss = self.backend.loss(job.spec, epoch)
        better = loss < best[job.trial]
        best[job.trial] = min(loss, best[job.trial])
        adapter = self.backend.folder / job.trial / "best"
        adapter.mkdir(parents=True, exist_ok=True)
        (adapter / "adapter_config.json").write_text("{}")
        losses = tuple(loss + 0.01 * index for index in (-2, -1, 0, 1, 2))
        step = epoch * STEPS_PER_EPOCH
        return EvaluationReport(
            job.trial, step, epoch, epoch, loss, math.exp(loss), 0.5, 30, better, losses
        )

    def _end(self, job: Job, epoch: int, outcome: Outcome):
        best = self.backend.folder / job.trial / "best"
        steps = epoch * STEPS_PER_EPOCH
        return EndReport(job.trial, outcome, "", steps, math.nan, best, 1.0)


@pytest.fixture
def scripted(tmp_path):
    return ScriptedBackend(tmp_path / "work")


@pytest.fixture
def conduct(tracker, parent, scripted, storage_url):
    """Run a study over the scripted backend; the ledger afterwards."""

    def go(
        study="study",
        *,
        backend=None,
        budget=None,
        clock=None,
        sleep=time.sleep,
        on_progress=None,
        folder=None,
        **values,
    ):
        config = parse_values(SweepConfig, {**BASIC, **values})
        space = build_space(config, model="demo", seed=config.seed)
        ledger = open_ledger(config, space, name=study, url=storage_url, tags={})
        conductor = Conductor(
            OpenStudy(ledger, storage_url, config, budget or Budget(), tracker, parent),
            backend or scripted,
            {"phi3.dataset_sha256": "d"},
            on_progress or (lambda progress: None),
            folder=folder,
            sleep=sleep,
            **({"clock": clock} if clock else {}),
        )
        with beating(ledger.study, ledger.driver):
            ledger.why = conductor.conduct()
        return ledger

    go.url = storage_url
    return go


@pytest.fixture(scope="session")
def tiny_base():
    return tiny.make_base()


@pytest.fixture(scope="session")
def counting():
    return tiny.count


@pytest.fixture
def sweep(tracker, parent, tiny_base, counting, tmp_path, storage_url):
    """Sweep with the real engine over a tiny random base."""

    def go(*, on_progress=lambda progress: None, rows=16, tracker=tracker, **values):
        values = {"n_trials": "4", "concurrency": "2", "study": "s", **tiny.SPACE, **values}
        return run_sweep(
            parse_values(SweepConfig, {"storage": storage_url, **values}),
            base=tiny_base,
            train=counting(rows, 0),
            validation=counting(8, 1),
            tracker=tracker,
            parent=parent,
            folder=tmp_path / "work",
            tags={"phi3.dataset_sha256": "d"},
            on_progress=on_progress,
        )

    return go
