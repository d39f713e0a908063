"""One run: what is logged to it waits in memory for a moment, and is never lost by a kill."""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from mlflow_phi3.tracking.missing import is_missing, unless_missing

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

# Points of metrics wait in memory this long, so that a fast training is not held up by a write to
# the store a step; where the store is slow, until writing takes this share of the time, but not
# for longer than the last.
FLUSH_AFTER_S = 1.0
FLUSH_SHARE = 0.02
FLUSH_LATEST_S = 30.0
# MLflow refuses larger batches (mlflow.utils.validation); the first counts tags and parameters too.
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000


@dataclass(slots=True)
class Pace:
    """When the runs of one store write the metrics that they have buffered: all in one go.

    Args:
        clock: Seconds that only grow.
    """

    clock: Callable[[], float] = time.monotonic
    _waiting: list["Run"] = field(default_factory=list, repr=False)
    _wrote_at: float = 0.0
    _took_s: float = 0.0

    def __post_init__(self) -> None:
        """Begin to wait."""
        self._wrote_at = self.clock()

    def wait(self, run: "Run") -> None:
        """Let ``run`` write with the others, now if it is time."""
        if not any(run is each for each in self._waiting):
            self._waiting.append(run)
        now = self.clock()
        pause_s = max(FLUSH_AFTER_S, min(FLUSH_LATEST_S, self._took_s / FLUSH_SHARE))
        if now - self._wrote_at > pause_s:
            for each in list(self._waiting):
                each.flush()
            self._wrote_at = self.clock()
            self._took_s = self._wrote_at - now

    def leave(self, run: "Run") -> None:
        """``run`` has nothing to write."""
        self._waiting = [each for each in self._waiting if each is not run]


@dataclass(slots=True)
class Run:
    """A handle to one MLflow run; metrics are buffered, everything else is written at once.

    What is asked to be written ``later`` goes with the next metrics, in one call to the store.
    """

    client: MlflowClient
    run_id: str
    experiment_id: str
    name: str
    artifact_uri: str
    pace: Pace = field(default_factory=Pace, repr=False)
    gone: bool = False  # it was deleted, or is another's by now: nothing more is written
    _metrics: list[Metric] = field(default_factory=list, repr=False)
    _params: list[Param] = field(default_factory=list, repr=False)
    _tags: dict[str, RunTag] = field(default_factory=dict, repr=False)
    _spilled: int = field(default=0, repr=False)
    _repository: ArtifactRepository | None = field(default=None, repr=False)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log numbers at an optimizer step."""
        now_ms = int(time.time() * 1000)
        self._metrics += [
            Metric(key=key, value=float(value), timestamp=now_ms, step=step)
            for key, value in metrics.items()
        ]
        if len(self._metrics) >= METRICS_PER_BATCH:
            self.flush()
        else:
            self.pace.wait(self)

    def flush(self) -> None:
        """Write what is buffered; it stays buffered when the store refuses."""
        while (self._metrics or self._params or self._tags) and not self.gone:
            metrics = self._metrics[: METRICS_PER_BATCH - PARAMS_PER_BATCH - len(self._tags)]
            params = self._params[:PARAMS_PER_BATCH]
            tags = list(self._tags.values())
            with self._unless_gone():
                self.client.log_batch(self.run_id, metrics=metrics, params=params, tags=tags)
            del self._metrics[: len(metrics)], self._params[: len(params)]
            self._tags.clear()
            self._spilled = 0
        if self.gone:
            self.abandon()
        self.pace.leave(self)

    def abandon(self) -> None:
        """Forget what is buffered: the run is somebody else's now."""
        self._metrics.clear()
        self._params.clear()
        self._tags.clear()
        self.pace.leave(self)

    def spill(self, path: Path) -> None:
        """Keep the buffered metrics in a file: cheaper than the store, and as safe from a kill.

        A line is what one call found new; only a whole line counts.
        """
        new = [(p.key, p.value, p.timestamp, p.step) for p in self._metrics[self._spilled :]]
        text = json.dumps(new) + "\n"
        if self._spilled:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        else:  # the file may hold what the store has taken meanwhile
            _write_whole(path, text)
        self._spilled = len(self._metrics)

    def recover(self, path: Path, *, after: Mapping[str, int]) -> None:
        """Buffer again what a killed process had spilled to ``path``, if it did.

        Args:
            path: The file; it need not exist.
            after: By metric: the last step that the store holds; only later ones are taken.
        """
        if path.is_file():
            *lines, torn = path.read_text(encoding="utf-8").split("\n")
            del torn  # empty, or what a killed process did not get to the end of
            self._metrics += [
                Metric(key, value, timestamp, step)
                for line in lines
                for key, value, timestamp, step in json.loads(line)
                if step > after.get(key, 0)
            ]

    def log_params(self, params: Mapping[str, object], *, later: bool = False) -> None:
        """Log parameters as text, cut at MLflow's longest."""
        self._params += [Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items()]
        if not later:
            self.flush()

    def set_tags(self, tags: Mapping[str, object], *, later: bool = False) -> None:
        """Set or overwrite tags."""
        self._tags.update({key: RunTag(key, str(value)) for key, value in tags.items()})
        if not later:
            self.flush()

    def tags(self) -> dict[str, str]:
        """The run's tags as the store has them now."""
        return dict(self.client.get_run(self.run_id).data.tags)

    def last_step(self, key: str) -> int:
        """The highest step at which the store holds the metric ``key``; 0 when it has none."""
        return max(self.history(key), default=0)

    def history(self, key: str) -> dict[int, float]:
        """The values of the metric ``key`` that the store holds, by step."""
        points = self.client.get_metric_history(self.run_id, key)
        return {point.step: point.value for point in points}

    def buffered_step(self, key: str) -> int:
        """The highest step of the metric ``key`` that is not written yet; 0 when there is none."""
        return max((point.step for point in self._metrics if point.key == key), default=0)

    def log_json(self, value: object, name: str) -> None:
        """Log a value as an indented JSON artifact called ``name`` (with its folder)."""
        self.log_text(json.dumps(value, indent=2, ensure_ascii=False), name)

    def log_text(self, text: str, name: str) -> None:
        """Log text as an artifact called ``name`` (with its folder)."""
        repository = self._artifacts()
        if isinstance(repository, LocalArtifactRepository):  # a copy would cost more than the file
            _write_whole(Path(repository.artifact_dir, name), text)
            return
        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as beside:
            path = Path(beside) / file
            path.write_text(text, encoding="utf-8")
            self.log_file(path, folder)

    def log_file(self, path: Path, folder: str) -> None:
        """Log a file under ``folder``."""
        self._artifacts().log_artifact(str(path), folder or None)

    def log_folder(self, path: Path, folder: str) -> None:
        """Log a folder's content under ``folder``."""
        self._artifacts().log_artifacts(str(path), folder)

    def _artifacts(self) -> ArtifactRepository:
        """Where this run's artifacts go: the client would ask the store for the whole run first."""
        if self._repository is None:
            uri = self.client.tracking_uri
            self._repository = get_artifact_repository(self.artifact_uri, tracking_uri=uri)
        return self._repository

    def has_artifact(self, name: str) -> bool:
        """Whether there is an artifact called ``name`` (with its folder)."""
        there = self.client.list_artifacts(self.run_id, name.rpartition("/")[0])
        return name in {file.path for file in there}

    def download(self, name: str, into: Path) -> Path:
        """Copy the artifact ``name`` into the folder ``into``; where it lies then."""
        return Path(self.client.download_artifacts(self.run_id, name, str(into)))

    def log_table(self, columns: Mapping[str, list[object]], name: str) -> None:
        """Log a table that the MLflow UI can sort and compare across runs."""
        self.client.log_table(self.run_id, data=dict(columns), artifact_file=name)

    @contextmanager
    def current(self) -> Iterator[None]:
        """A block in which MLflow's own functions log here; they end the run, and it goes on."""
        with mlflow.start_run(run_id=self.run_id, nested=True):
            yield
        self.client.update_run(self.run_id, status="RUNNING")

    def end(self, status: Status) -> None:
        """Write what is buffered and close the run."""
        self.flush()
        if not self.gone:
            with self._unless_gone():
                self.client.set_terminated(self.run_id, status)

    @contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """A block that writes to the run, and that a deleted one does not stop."""
        try:
            yield
        except MlflowException as refused:
            if not is_missing(refused) or not self._was_deleted():
                raise
            self.gone = True
            logger.warning("%s (run %s) was deleted: no more is logged", self.name, self.run_id)

    def _was_deleted(self) -> bool:
        found = None
        with unless_missing():
            found = self.client.get_run(self.run_id)
        return found is None or found.info.lifecycle_stage != LifecycleStage.ACTIVE


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen in parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
