"""Trials train on a Ray cluster: one group a GPU, or a node where there are none.

The driver asks and tells; a worker is an actor that holds a copy of the base and is pulled, stretch
by stretch, as a local session is, so that the same reports come in the same order and a trial that
is dropped has trained no step too many. After each evaluation a worker hands its trials'
checkpoints to the driver. When it is lost, the group goes on from them on another worker: no shared
file system is needed, and what is lost is the time since the group's last evaluation.
"""

import logging
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from mlflow_phi3.backends.base import Job, Workload
from mlflow_phi3.backends.cluster import no_cluster
from mlflow_phi3.backends.worker import Stretch, Worker, read_folder, write_folder
from mlflow_phi3.errors import TrainingError
from mlflow_phi3.training.reports import EndReport, EvaluationReport, Report, StepReport

logger = logging.getLogger(__name__)

# A group that has lost so many workers is what they die of.
_MOST_LOSSES = 3
# Inside the ten seconds that a stopped sweep has.
_STOP_S = 6.0
# How long nothing may come from the cluster before that is said.
_SILENCE_S = 120.0


@dataclass(slots=True, eq=False)
class Lease:
    """A worker that was asked for something.

    Args:
        worker: Ray's handle.
        jobs: The unfinished trials of its group by name; empty while it starts.
        proven: Whether it has answered since this training began.
    """

    worker: Any
    jobs: dict[str, Job] = field(default_factory=dict)
    proven: bool = True


class RayBackend:
    """Groups on the GPUs, or the nodes, of a Ray cluster.

    Args:
        work: What the trials have in common; each node gets one copy through Ray's object store,
            examples that lie on the driver's disk included.
            A ``concurrency`` of 0 takes what fits the first worker.
        folder: Where trials keep their checkpoints on the driver's machine, ``<folder>/<trial>``.
        address: Of the cluster; empty starts one on this machine.

    Raises:
        PreflightError: No cluster answers at ``address``.
    """

    def __init__(self, work: Workload, *, folder: Path, address: str = "") -> None:
        _connect(address)
        self.folder = folder
        self.idle: list[Any] = []
        self._resource = "GPU" if work.base.model.device.type == "cuda" else "CPU"
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus and self._resource == "CPU":
            told = "the %d GPUs of the cluster stay unused: this machine's base is on the CPU"
            logger.warning(told, gpus)
        whole = replace(work, train=list(work.train), validation=list(work.validation))
        self._work = ray.put(whole)
        self._concurrency = work.concurrency
        if not self._concurrency:
            first = self.start_worker()
            self._concurrency = int(ray.get(first.size.remote()))
            self.idle.append(first)

    @property
    def slots(self) -> int:
        """GPUs of the cluster, or its nodes with processors."""
        amounts = self._amounts()
        return max(1, int(sum(amounts)) if self._resource == "GPU" else len(amounts))

    @property
    def group_size(self) -> int:
        """Trainings that go on together on a worker."""
        return self._concurrency

    @contextmanager
    def train(self, groups: Sequence[Sequence[Job]]) -> Iterator["RayTraining"]:
        """Train the groups side by side; leaving early brings each trial's latest step here."""
        with closing(RayTraining(self, groups)) as training:
            yield training

    def start_worker(self) -> Any:
        """A worker that comes up as soon as the cluster has room for it."""
        # Without GPUs a worker has all processors of the smallest node: it comes up on any.
        cpus = 1.0 if self._resource == "GPU" else min(self._amounts(), default=1.0)
        gpus = 1.0 if self._resource == "GPU" else 0.0
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        return ray.remote(Worker).options(**options).remote(self._work)

    def close(self) -> None:
        """Let the workers go."""
        for worker in self.idle:
            ray.kill(worker)
        self.idle.clear()

    def _amounts(self) -> list[float]:
        """What each living node has of what is trained on."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [float(node[self._resource]) for node in nodes if node.get(self._resource)]


class RayTraining:
    """Groups under way on a cluster.

    Args:
        backend: The cluster.
        groups: What to train.
    """

    def __init__(self, backend: RayBackend, groups: Sequence[Sequence[Job]]) -> None:
        self._backend = backend
        self._queue = [list(group) for group in groups]
        self._asked: dict[Any, Lease] = {}  # by Ray's reference to the answer
        self._active: list[Lease] = []  # those with a group
        self._dropped: set[str] = set()
        self._losses: dict[str, int] = {}
        self._stillborn = 0
        self._rested = set(backend.idle)  # since an earlier round, in which time they may have died

    def reports(self) -> Iterator[Report]:
        """What the trials tell, as it comes."""
        while self._queue or self._active:
            self._hand_out()
            ready, _ = ray.wait(list(self._asked), timeout=_SILENCE_S)
            if not ready:
                logger.warning("no worker has answered for %.0f s; see `ray status`", _SILENCE_S)
                continue
            lease = self._asked.pop(ready[0])
            try:
                answer = ray.get(ready[0])
            except RayTaskError:
                raise  # an error of the training itself
            except RayError as error:
                yield from self._lose(lease, error)
                continue
            if lease in self._active:
                yield from self._hear(lease, answer)
            else:
                self._backend.idle.append(lease.worker)

    def drop(self, trial: str) -> None:
        """Stop a trial."""
        self._dropped.add(trial)

    def close(self) -> None:
        """Bring every trial's latest step here, as far as its worker answers in time."""
        starting = [lease for lease in self._asked.values() if lease not in self._active]
        stops = [lease.worker.stop.remote() for lease in self._active]
        ready = ray.wait(stops, num_returns=len(stops), timeout=_STOP_S)[0] if stops else []
        for answer in ready:
            try:
                self._keep(ray.get(answer))
            except RayError as error:
                logger.warning("a worker was lost while it stopped: %s", error)
        for lease in (*self._active, *starting):
            ray.kill(lease.worker)
        self._asked.clear()
        self._active.clear()

    # -- below -------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give groups to idle workers; start others as far as there is room."""
        idle = self._backend.idle
        while self._queue and idle:
            jobs = self._queue.pop(0)
            kept = {job.trial: read_folder(self._backend.folder / job.trial) for job in jobs}
            files = {job.trial: kept[job.trial] for job in jobs if job.resume and kept[job.trial]}
            worker = idle.pop()
            by_name = {job.trial: job for job in jobs}
            lease = Lease(worker, by_name, proven=worker not in self._rested)
            self._active.append(lease)
            self._asked[worker.begin.remote(jobs, files)] = lease
        starting = len(self._asked) - len(self._active)
        missing = min(len(self._queue) - starting, self._backend.slots - len(self._asked))
        for _ in range(missing):
            worker = self._backend.start_worker()
            self._asked[worker.size.remote()] = Lease(worker)

    def _hear(self, lease: Lease, stretch: Stretch) -> Iterator[Report]:
        """Tell a stretch, then ask for the next with what was dropped meanwhile."""
        lease.proven = True
        mine = list(lease.jobs)
        steps = [report for report in stretch.reports if isinstance(report, StepReport)]
        # Who goes on from the files does not tell again what came before them.
        yield from steps
        self._keep(stretch.files)
        for report in stretch.reports[len(steps) :]:
            if isinstance(report, EndReport):
                del lease.jobs[report.trial]
            elif isinstance(report, EvaluationReport):
                job = lease.jobs[report.trial]
                lease.jobs[report.trial] = replace(job, evaluated=report.number, resume=True)
            yield self._here(report)
        if lease.jobs:
            dropped = [trial for trial in mine if trial in self._dropped]
            self._asked[lease.worker.go_on.remote(dropped)] = lease
        else:
            self._active.remove(lease)
            self._backend.idle.append(lease.worker)

    def _here(self, report: Report) -> Report:
        """A report with the paths of this machine."""
        if isinstance(report, EndReport) and report.best_checkpoint is not None:
            return replace(report, best_checkpoint=self._backend.folder / report.trial / "best")
        return report

    def _keep(self, files: Mapping[str, Mapping[str, bytes]]) -> None:
        for trial, content in files.items():
            write_folder(self._backend.folder / trial, content)

    def _lose(self, lease: Lease, error: RayError) -> Iterator[Report]:
        """A worker is gone: its group goes on elsewhere, unless workers keep dying of it."""
        jobs = list(lease.jobs.values())
        if lease not in self._active:
            logger.warning("a worker did not come up: %s", error)
            self._stillborn += 1
            if self._stillborn >= _MOST_LOSSES:
                raise error
            return
        self._active.remove(lease)
        self._rested.discard(lease.worker)
        for job in jobs:
            # One that had died before it got them did not die of them.
            self._losses[job.trial] = self._losses.get(job.trial, 0) + lease.proven
        logger.warning("lost the worker of %s: %s", ", ".join(lease.jobs), type(error).__name__)
        if max(self._losses[job.trial] for job in jobs) < _MOST_LOSSES:
            self._queue.insert(0, jobs)
            return
        for job in jobs:
            told = f"{_MOST_LOSSES} workers died of it, the last with {type(error).__name__}"
            fix = "give workers more memory"
            reason = TrainingError("PHI3-T082", told, where=job.trial, fix=fix)
            yield EndReport(job.trial, "failed", str(reason), 0, math.nan, None, 0.0)


def _connect(address: str) -> None:
    """Join the cluster, or start one here; one that was joined before is kept."""
    if ray.is_initialized():
        return
    ours = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.WARNING,
            **({} if address else {"include_dashboard": False}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise no_cluster(address, error) from None
    finally:
        # Ray's would exit as if the sweep had failed; it sets one in the main thread only.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)
