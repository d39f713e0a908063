"""Runs written straight into MLflow's own SQLite tables, a transaction for what belongs together.

MLflow's client creates a run, logs a batch and ends it in seven database sessions of thirty
statements, many of which read what was just written: two fifths of what a study costs beside its
training. Here it is two sessions of a dozen statements. What is written is checked by MLflow's own
rules, and what lies in the tables afterwards is the same, row by row.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient, get_active_model_id
from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER
from sqlalchemy import Table, bindparam, select, tuple_, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

# ruff: noqa: SLF001 - MLflow has no public way to its store, and none to write all at once

# What MLflow's tables are known to hold: with another column the client writes instead.
_COLUMNS = {
    "SqlRun": "run_uuid name source_type source_name entry_point_name user_id status start_time"
    " end_time deleted_time source_version lifecycle_stage artifact_uri experiment_id",
    "SqlTag": "key value run_uuid",
    "SqlParam": "key value run_uuid",
    "SqlMetric": "key value timestamp step is_nan run_uuid",
    "SqlLatestMetric": "key value timestamp step is_nan run_uuid",
}
_ARTIFACTS = "artifacts"


class RowWriter:
    """Writes runs of one SQLite store.

    Args:
        store: MLflow's own, an ``SqlAlchemyStore`` on SQLite.

    Raises:
        ImportError: MLflow's tables are elsewhere.
        AttributeError: They have other names.
        LookupError: They have other columns.
    """

    def __init__(self, store: Any) -> None:
        from mlflow.store.tracking.dbmodels import models
        from mlflow.utils.uri import append_to_uri_path
        from mlflow.utils.validation import _validate_batch_log_data

        self._store = store
        self._session = store.ManagedSessionMaker
        self._validate = _validate_batch_log_data
        self._append = append_to_uri_path
        for name, columns in _COLUMNS.items():
            if set(getattr(models, name).__table__.columns.keys()) != set(columns.split()):
                raise LookupError(f"{name} has other columns than {columns}")
        self._runs: Table = models.SqlRun.__table__
        self._tags: Table = models.SqlTag.__table__
        experiments = models.SqlExperiment.__table__
        self._location = select(experiments.c.artifact_location).where(
            experiments.c.experiment_id == bindparam("of"),
            experiments.c.lifecycle_stage == LifecycleStage.ACTIVE,
        )
        active = self._runs.c.lifecycle_stage == LifecycleStage.ACTIVE
        self._is_active = select(self._runs.c.run_uuid).where(
            self._runs.c.run_uuid == bindparam("of"), active
        )
        self._end = update(self._runs).where(self._runs.c.run_uuid == bindparam("of"), active)
        self._upsert_tags = _upsert(self._tags, ("value",))
        params = models.SqlParam.__table__
        self._known_params = select(params.c.key, params.c.value).where(
            params.c.run_uuid == bindparam("of")
        )
        self._insert_params = insert(params)
        # A point that is there already is the same point: all of it is its key.
        self._insert_metrics = insert(models.SqlMetric.__table__).on_conflict_do_nothing()
        self._upsert_latest = _upsert_latest(models.SqlLatestMetric.__table__)

    def create(
        self, experiment_id: str, *, name: str, tags: Mapping[str, str], now_ms: int
    ) -> tuple[str, str] | None:
        """Create a run that is RUNNING.

        Returns:
            Its id and where its artifacts go; None, and nothing is written, where MLflow would
            refuse or knows better.
        """
        if MLFLOW_RUN_NAME in tags or not name:
            return None
        run_id = uuid.uuid4().hex
        with self._session(read_only=False) as session:
            connection = session.connection()
            location = connection.execute(self._location, {"of": int(experiment_id)}).scalar()
            if location is None:
                return None
            uri = self._append(location, run_id, _ARTIFACTS)
            connection.execute(
                insert(self._runs),
                {
                    "run_uuid": run_id,
                    "name": name,
                    "source_type": "UNKNOWN",
                    "source_name": "",
                    "entry_point_name": "",
                    "user_id": tags.get(MLFLOW_USER, "unknown"),
                    "status": "RUNNING",
                    "start_time": now_ms,
                    "source_version": "",
                    "lifecycle_stage": LifecycleStage.ACTIVE,
                    "artifact_uri": uri,
                    "experiment_id": int(experiment_id),
                },
            )
            rows = {**tags, MLFLOW_RUN_NAME: name}
            connection.execute(
                insert(self._tags),
                [{"run_uuid": run_id, "key": key, "value": rows[key]} for key in rows],
            )
        return run_id, uri

    def write(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric],
        params: Sequence[Param],
        tags: Sequence[RunTag],
        end: tuple[str, int] | None = None,
    ) -> bool:
        """Write a batch, and the run's end with it where one is given: its status and when.

        Returns:
            Whether it was; otherwise nothing is written, and MLflow's client is to say why.
        """
        # A name is kept in two places; an active model gets the metrics too.
        if any(tag.key == MLFLOW_RUN_NAME for tag in tags) or get_active_model_id():
            return False
        metrics, params, tags = self._validate(metrics, params, tags)
        with self._session(read_only=False) as session:
            connection = session.connection()
            if not self._found(connection, run_id, end):
                return False
            if not self._write_params(connection, run_id, params):
                session.rollback()
                return False
            if tags:
                connection.execute(
                    self._upsert_tags,
                    [{"run_uuid": run_id, "key": tag.key, "value": tag.value} for tag in tags],
                )
            if metrics:
                rows = [self._point(run_id, metric) for metric in metrics]
                connection.execute(self._insert_metrics, rows)
                connection.execute(self._upsert_latest, _latest(rows))
        return True

    # -- below -------------------------------------------------------------------------------

    def _found(self, connection: Connection, run_id: str, end: tuple[str, int] | None) -> bool:
        """Whether the run is there and not deleted; it is ended on the way."""
        if end is None:
            return connection.execute(self._is_active, {"of": run_id}).first() is not None
        status, end_time = end
        values = {"of": run_id, "status": status, "end_time": end_time}
        return connection.execute(self._end, values).rowcount == 1

    def _write_params(self, connection: Connection, run_id: str, params: Sequence[Param]) -> bool:
        """Write those that are new; False when one has another value than before."""
        if not params:
            return True
        found = connection.execute(self._known_params, {"of": run_id})
        known: dict[str, str] = dict(found.tuples().all())
        rows = {param.key: param.value for param in params}
        if len(rows) < len(params) or any(known.get(key, rows[key]) != rows[key] for key in rows):
            return False
        new = [
            {"run_uuid": run_id, "key": key, "value": rows[key]} for key in rows if key not in known
        ]
        if new:
            connection.execute(self._insert_params, new)
        return True

    def _point(self, run_id: str, metric: Metric) -> dict[str, Any]:
        is_nan, value = self._store.sanitize_metric_value(metric.value)
        return {
            "run_uuid": run_id,
            "key": metric.key,
            "value": value,
            "timestamp": metric.timestamp,
            "step": metric.step,
            "is_nan": is_nan,
        }


def build_writer(client: MlflowClient) -> RowWriter | None:
    """The writer for a client's store; None where that is not MLflow's on SQLite as we know it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = client._tracking_client.store
    # A subclass may write more: workspaces do.
    if type(store) is not SqlAlchemyStore or store.engine.dialect.name != "sqlite":
        return None
    try:
        return RowWriter(store)
    except (ImportError, AttributeError, LookupError):  # another MLflow
        return None


def _upsert(table: Table, content: Sequence[str]) -> Any:
    """A statement that inserts rows, and overwrites those that are there."""
    statement = insert(table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: statement.excluded[name] for name in content},
    )


def _upsert_latest(table: Table) -> Any:
    """As MLflow: what is latest goes by step, then time, then value."""
    statement = insert(table)
    order = ("step", "timestamp", "value")
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: statement.excluded[name] for name in (*order, "is_nan")},
        where=tuple_(*(statement.excluded[name] for name in order))
        > tuple_(*(table.c[name] for name in order)),
    )


def _latest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The latest point of each metric; of equals the first."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        before = found.get(row["key"])
        if before is None or _order(row) > _order(before):
            found[row["key"]] = row
    return list(found.values())


def _order(row: Mapping[str, Any]) -> tuple[int, int, float]:
    return row["step"], row["timestamp"], row["value"]
