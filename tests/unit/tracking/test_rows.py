"""Runs written straight into the tables are those that MLflow's client would have written."""

import math

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy import Column, Integer, event, text

from mlflow_phi3.tracking.rows import RowWriter, build_writer
from mlflow_phi3.tracking.runs import Tracker

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")


@pytest.fixture
def writer(tracker):
    # Fails when another MLflow has other tables, so that the client does the work unseen.
    assert isinstance(tracker.writer, RowWriter)
    return tracker.writer


def engine(tracker):
    return tracker.client._tracking_client.store.engine


def rows_of(tracker, run_id):
    """The run's rows of every table, without its own id and hours."""
    with engine(tracker).connect() as connection:
        found = {}
        for table in TABLES:
            query = text(f"SELECT * FROM {table} WHERE run_uuid = :run")
            found[table] = sorted(
                [
                    (key, str(value).replace(run_id, "<id>"))
                    for key, value in row.items()
                    if key not in ("start_time", "end_time")
                ]
                for row in connection.execute(query, {"run": run_id}).mappings()
            )
        return found


def log(tracker, parent):
    run = tracker.start("trial-001", stage="trial", parent=parent, tags={"phi3.trial_number": 1})
    run.log_params({"rate": 1e-3, "long": "x" * 7000}, later=True)
    for step in (1, 2, 4, 3):
        run._metrics.append(Metric("train/loss", 1 / step, 1000 + step, step))
        run._metrics.append(Metric("train/loss", 1 / step, 1000 + step, step))  # the same again
    run._metrics.append(Metric("train/loss", 2.0, 1004, 4))
    for value in (math.nan, math.inf, -math.inf):
        run._metrics.append(Metric("eval/loss", value, 1000, 1))
    run.flush()
    run._metrics.append(Metric("train/loss", 0.5, 2000, 3))
    run._metrics.append(Metric("train/loss", 3.0, 2000, 5))
    run.log_params({"rate": 1e-3, "rank": 8}, later=True)
    run.set_tags({"phi3.trial_number": 2, "phi3.reason": "r"}, later=True)
    run.end("FINISHED")
    return run.run_id


def test_the_rows_are_those_of_mlflows_client(tracker, writer):
    parent = tracker.start("sweep", stage="sweep")
    plain = Tracker(tracker.client, tracker.uri, tracker.experiment_id)
    assert plain.writer is None
    ours, theirs = log(tracker, parent), log(plain, parent)
    assert rows_of(tracker, ours) == rows_of(tracker, theirs)
    first, second = (tracker.client.get_run(run_id) for run_id in (ours, theirs))
    assert first.data.to_dictionary().keys() == second.data.to_dictionary().keys()
    assert abs(first.info.start_time - second.info.start_time) < 60_000
    assert first.info.end_time >= first.info.start_time


def test_a_batch_and_the_end_are_one_transaction(tracker, writer):
    run = tracker.start("r", stage="trial")
    commits = []
    count = commits.append
    event.listen(engine(tracker), "commit", count)
    try:
        run.log_params({"a": 1}, later=True)
        run.log_metrics({"train/loss": 1.0}, step=1)
        run.set_tags({"phi3.trial_state": "COMPLETE"}, later=True)
        run.end("FINISHED")
    finally:
        event.remove(engine(tracker), "commit", count)
    assert len(commits) == 1


class Killed(BaseException):
    """Nothing that code would catch."""


def test_a_process_that_dies_in_a_write_has_written_nothing(tracker, writer):
    """It dies before each of the statements in turn."""
    run = tracker.start("r", stage="trial")
    before, left, survived = rows_of(tracker, run.run_id), [0], 0
    batch = {
        "metrics": [Metric("train/loss", 1.0, 1, 1)],
        "params": [Param("a", "1")],
        "tags": [RunTag("b", "2")],
        "end": ("FINISHED", 5),
    }

    def strike(*_):
        if left[0] == 0:
            raise Killed
        left[0] -= 1

    while rows_of(tracker, run.run_id) == before:
        left[0] = survived
        event.listen(engine(tracker), "before_cursor_execute", strike)
        try:
            writer.write(run.run_id, **batch)
        except Killed:
            survived += 1
        finally:
            event.remove(engine(tracker), "before_cursor_execute", strike)
    assert survived > 5
    assert tracker.client.get_run(run.run_id).info.status == "FINISHED"


def test_what_mlflow_refuses_is_refused_as_it_says_it(tracker, writer):
    run = tracker.start("r", stage="trial")
    run.log_params({"a": 1})
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        run.log_params({"a": 2, "b": 3})
    assert tracker.client.get_run(run.run_id).data.params == {"a": "1"}
    other = tracker.start("r", stage="trial")
    with pytest.raises(MlflowException, match="Invalid value"):
        other.log_metrics({"not: a name?": 1.0})
        other.flush()
    deleted = tracker.start("r", stage="trial")
    tracker.client.delete_run(deleted.run_id)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        deleted.end("FINISHED")
    assert tracker.client.get_run(deleted.run_id).info.status == "RUNNING"


def test_a_deleted_experiment_takes_no_run(tracker, store_uri, writer):
    client = MlflowClient(store_uri)
    experiment = client.create_experiment("deleted")
    client.delete_experiment(experiment)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        Tracker(client, store_uri, experiment, build_writer(client)).start("r", stage="trial")


def test_a_new_name_goes_to_both_places_where_mlflow_keeps_it(tracker, writer):
    run = tracker.start("r", stage="trial")
    run.set_tags({"mlflow.runName": "renamed"})
    assert tracker.client.get_run(run.run_id).info.run_name == "renamed"


def test_stores_that_are_not_known_are_left_to_the_client(tracker, tmp_path, monkeypatch):
    from mlflow.store.tracking.dbmodels import models

    assert build_writer(MlflowClient("http://127.0.0.1:1")) is None
    table = models.SqlMetric.__table__.to_metadata(type(models.SqlMetric.metadata)())
    table.append_column(Column("new", Integer))
    monkeypatch.setattr(models.SqlMetric, "__table__", table)
    assert build_writer(tracker.client) is None
    monkeypatch.undo()
    monkeypatch.delattr(models, "SqlMetric")
    assert build_writer(tracker.client) is None
