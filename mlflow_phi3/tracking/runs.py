"""Runs: one tracker a store and experiment, one handle a run, and a status that is always told."""

import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.tracking.missing import asking, is_missing
from mlflow_phi3.tracking.sqlite import SCHEME, write_ahead
from mlflow_phi3.tracking.transactions import observe_transactions
from mlflow_phi3.tracking.uris import absolute_uri

Status = Literal["FINISHED", "FAILED", "KILLED"]

STAGE = "phi3.stage"
ERROR = "phi3.error"
# Points of metrics wait in memory this long at most, so that a fast training is not held up by
# one write to the store a step.
FLUSH_AFTER_S = 1.0
# MLflow refuses larger batches (mlflow.utils.validation); the first counts tags and parameters too.
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
# What MLflow calls a run that nobody named: "bright-crane-123".
_RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")


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
    _metrics: list[Metric] = field(default_factory=list, repr=False)
    _params: list[Param] = field(default_factory=list, repr=False)
    _tags: dict[str, RunTag] = field(default_factory=dict, repr=False)
    _flushed_at: float = field(default_factory=time.monotonic, repr=False)
    _spilled: int = field(default=0, repr=False)
    _repository: ArtifactRepository | None = field(default=None, repr=False)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log numbers at an optimizer step."""
        now_ms = int(time.time() * 1000)
        self._metrics += [
            Metric(key=key, value=float(value), timestamp=now_ms, step=step)
            for key, value in metrics.items()
        ]
        overdue = time.monotonic() - self._flushed_at > FLUSH_AFTER_S
        if overdue or len(self._metrics) >= METRICS_PER_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered; it stays buffered when the store refuses."""
        while self._metrics or self._params or self._tags:
            metrics = self._metrics[: METRICS_PER_BATCH - PARAMS_PER_BATCH - len(self._tags)]
            params = self._params[:PARAMS_PER_BATCH]
            tags = list(self._tags.values())
            self.client.log_batch(self.run_id, metrics=metrics, params=params, tags=tags)
            del self._metrics[: len(metrics)], self._params[: len(params)]
            self._tags.clear()
            self._spilled = 0
        self._flushed_at = time.monotonic()

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
        return max(
            (point.step for point in self.client.get_metric_history(self.run_id, key)), default=0
        )

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

    def log_file(self, path: Path, folder: str = "") -> None:
        """Log a file under ``folder``."""
        self._artifacts().log_artifact(str(path), folder or None)

    def log_folder(self, path: Path, folder: str = "") -> None:
        """Log a folder's content under ``folder``."""
        self._artifacts().log_artifacts(str(path), folder or None)

    def _artifacts(self) -> ArtifactRepository:
        """Where this run's artifacts go: the client would ask the store for the whole run first."""
        if self._repository is None:
            uri = self.client.tracking_uri
            self._repository = get_artifact_repository(self.artifact_uri, tracking_uri=uri)
        return self._repository

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
        self.client.set_terminated(self.run_id, status)


@dataclass(frozen=True, slots=True)
class Tracker:
    """One tracking store and one experiment in it."""

    client: MlflowClient
    uri: str
    experiment_id: str

    def start(
        self,
        name: str,
        *,
        stage: str,
        parent: Run | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> Run:
        """Create a run that is RUNNING; a child of ``parent`` where one is given."""
        all_tags = {STAGE: stage, **{key: str(value) for key, value in (tags or {}).items()}}
        if parent is not None:
            all_tags[MLFLOW_PARENT_RUN_ID] = parent.run_id
        run = self.client.create_run(self.experiment_id, tags=all_tags, run_name=name)
        return self.handle(run)

    def resume(self, run_id: str, *, name: str | None = None) -> Run:
        """Take up an existing run and set it RUNNING; named ``name`` if nobody named it."""
        run = self.client.get_run(run_id)
        if name and _RANDOM_NAME.fullmatch(run.info.run_name or ""):
            self.client.set_tag(run_id, MLFLOW_RUN_NAME, name)
        self.client.update_run(run_id, status="RUNNING")
        return self.handle(self.client.get_run(run_id))

    def get(self, run_id: str) -> Run:
        """A handle to an existing run, its status untouched."""
        return self.handle(self.client.get_run(run_id))

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        stage: str,
        parent: Run | None = None,
        tags: Mapping[str, object] | None = None,
        run_id: str | None = None,
    ) -> Iterator[Run]:
        """A run around a block: FINISHED at its end, FAILED on an error, KILLED on a stop."""
        if run_id:
            run = self.resume(run_id, name=name)
            run.set_tags({STAGE: stage, **(tags or {})})
        else:
            run = self.start(name, stage=stage, parent=parent, tags=tags)
        try:
            yield run
            run.end("FINISHED")
        except BaseException as error:
            _end_badly(run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", error)
            raise

    def children(self, parent_id: str) -> list[MlflowRun]:
        """The child runs of a run, oldest first."""
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'"
        return self._search(query, order="attributes.start_time ASC")

    def close_outwards(self, run_id: str, tags: Mapping[str, object]) -> list[str]:
        """End a run, and those around it that are RUNNING, as KILLED with ``tags``; their ids."""
        closed: list[str] = []
        while run_id:
            found = self.client.get_run(run_id)
            if found.info.status == "RUNNING":
                run = self.handle(found)
                run.set_tags(tags)
                run.end("KILLED")
                closed.append(run_id)
            run_id = found.data.tags.get(MLFLOW_PARENT_RUN_ID, "")
        return closed

    def find(self, tags: Mapping[str, object]) -> list[MlflowRun]:
        """The runs that carry all of ``tags``, oldest first."""
        query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        return self._search(query, order="attributes.start_time ASC")

    def latest(self, stage: str, *, where: str, without: str = "") -> MlflowRun:
        """The newest FINISHED run of a stage.

        Args:
            stage: As the tag ``phi3.stage``.
            where: The parameter that could name another run, for messages.
            without: A tag that it must not carry.

        Raises:
            UsageError: There is none in this experiment.
        """
        query = f"tags.`{STAGE}` = '{stage}' AND attributes.status = 'FINISHED'"
        newest = self._search(
            query, order="attributes.start_time DESC", most=None if without else 1
        )
        found = next((run for run in newest if without not in run.data.tags), None)
        if found is None:
            raise UsageError(
                "PHI3-U020",
                f"no finished {stage} run in this experiment",
                where=where,
                fix=f"run the {stage} step first, or name its run",
            )
        return found

    def _search(self, query: str, *, order: str, most: int | None = None) -> list[MlflowRun]:
        runs: list[MlflowRun] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                query,
                max_results=most or 1000,
                order_by=[order],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token or (most is not None and len(runs) >= most):
                return runs

    def handle(self, run: MlflowRun) -> Run:
        """A handle to a run that was read."""
        info, name = run.info, run.info.run_name or ""
        return Run(self.client, info.run_id, info.experiment_id, name, info.artifact_uri)


def open_tracker(*, uri: str | None = None, experiment: str | None = None) -> Tracker:
    """Connect to the tracking store that MLflow itself would use, its URI made absolute.

    Args:
        uri: Tracking URI; None takes ``MLFLOW_TRACKING_URI``, else MLflow's default.
        experiment: Name; None takes the experiment of ``mlflow run``, else MLflow's default.

    Raises:
        PreflightError: The store does not answer, or refuses, or has no such experiment.
    """
    found = absolute_uri(uri or mlflow.get_tracking_uri())
    mlflow.set_tracking_uri(found)
    observe_transactions()
    with asking(found):
        client = MlflowClient(tracking_uri=found)
        if found.startswith(SCHEME):
            write_ahead(client._tracking_client.store.engine)  # noqa: SLF001 - MLflow takes no options of SQLAlchemy's
        return Tracker(client, found, _find_experiment(client, experiment))


def _find_experiment(client: MlflowClient, name: str | None) -> str:
    """The id of the experiment ``name``, which is made if need be; asked of the store itself."""
    if name is not None:
        known = client.get_experiment_by_name(name)
        return str(known.experiment_id if known else client.create_experiment(name))
    try:
        experiment_id = str(mlflow.tracking.fluent._get_experiment_id())  # noqa: SLF001 - how MLflow reads MLFLOW_EXPERIMENT_ID and _NAME
        stage = client.get_experiment(experiment_id).lifecycle_stage
    except MlflowException as missing:
        if not is_missing(missing):
            raise
        raise _no_experiment(str(missing).splitlines()[0]) from missing
    if stage != LifecycleStage.ACTIVE:
        raise _no_experiment(f"the experiment {experiment_id} is {stage}")
    return experiment_id


def _no_experiment(problem: str) -> PreflightError:
    return PreflightError(
        "PHI3-P087",
        problem,
        where="MLflow's experiment",
        fix="let MLFLOW_EXPERIMENT_NAME, or MLFLOW_EXPERIMENT_ID, name one that is there",
    )


def close_orphan(run_id: str, status: Status) -> None:
    """Close a run that is RUNNING though nobody will: whoever started it is gone."""
    client = MlflowClient()
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, status)


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen in parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _end_badly(run: Run, status: Status, error: BaseException) -> None:
    """Close a run whose block did not end, without hiding why it did not."""
    try:
        run.flush()
    except Exception as refused:  # noqa: BLE001 - the first error is the one to show
        error.add_note(f"and what run {run.run_id} had still to write is lost: {refused}")
    try:
        run.client.set_tag(run.run_id, ERROR, f"{type(error).__name__}: {error}"[:5000])
        run.client.set_terminated(run.run_id, status)
    except Exception as second:  # noqa: BLE001 - as above
        error.add_note(f"and run {run.run_id} could not be closed as {status}: {second}")
