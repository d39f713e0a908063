import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import mlflow
import psutil
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from sqlalchemy.engine import make_url

from mlflow_phi3.errors import Interrupted, PreflightError, UsageError
from mlflow_phi3.processes import this_process
from mlflow_phi3.tracking.missing import briefly
from mlflow_phi3.tracking.run import Pace
from mlflow_phi3.tracking.signals import stoppable
from mlflow_phi3.tracking.tags import JOB_TAG
from mlflow_phi3.tracking.tracker import PROCESS, close_orphan, open_tracker
from mlflow_phi3.tracking.uris import absolute_uri


def status(tracker, run):
    return tracker.client.get_run(run.run_id).info.status


def test_a_stage_that_ends_is_finished_and_its_numbers_are_written(tracker):
    with tracker.stage("prepare", stage="prepare") as run:
        for step in range(1, 4):
            run.log_metrics({"train/loss": 1 / step}, step=step)

    history = tracker.client.get_metric_history(run.run_id, "train/loss")
    assert status(tracker, run) == "FINISHED"
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_who_may_not_write_is_told_so(tracker, monkeypatch):
    def refuse(*_, **__):
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(tracker.client, "create_run", refuse)
    with (
        pytest.raises(PreflightError, match=r"PHI3-P086 .*Permission denied.*ask for the right"),
        tracker.stage("sweep", stage="sweep"),
    ):
        pass


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_stage_whose_run_somebody_deletes_goes_on_without_it(tracker, caplog, when):
    with tracker.stage("sweep", stage="sweep") as run:
        if when == "within":
            run.log_metrics({"train/loss": 1.0}, step=1)
        tracker.client.delete_run(run.run_id)
        run.set_tags({"phi3.winner": "trial-000"})
        run.log_metrics({"train/loss": 0.5}, step=2)
    assert run.gone
    assert caplog.text.count("was deleted: no more is logged") == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Interrupted("PHI3-T001", "stopped"), "KILLED"),
        (SystemExit(1), "FAILED"),
    ],
)
def test_a_stage_that_breaks_says_so_and_keeps_its_numbers(tracker, error, expected):
    with (
        pytest.raises(type(error)),
        tracker.stage("outer", stage="main") as outer,
        tracker.stage("inner", stage="sweep", parent=outer) as inner,
    ):
        inner.log_metrics({"train/loss": 1.0}, step=1)
        raise error

    assert [status(tracker, run) for run in (outer, inner)] == [expected, expected]
    assert type(error).__name__ in inner.tags()["phi3.error"]
    assert tracker.client.get_metric_history(inner.run_id, "train/loss")


def test_an_order_that_a_library_raised_anew_is_told_with_its_code(tracker):
    with (
        pytest.raises(Interrupted),
        stoppable(None),
        tracker.stage("sweep", stage="sweep") as run,
    ):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        raise KeyboardInterrupt  # as Ray does

    assert run.tags()["phi3.error"].startswith("Interrupted: PHI3-T001: stopped by SIGTERM")


@pytest.mark.parametrize("breaks", [True, False])
def test_what_the_store_refuses_leaves_no_run_running(tracker, breaks):
    with (
        pytest.raises((ValueError, MlflowException)) as told,
        tracker.stage("evaluate", stage="evaluate") as run,
    ):
        run.log_metrics({"test/precision@1": 1.0})
        if breaks:
            raise ValueError("no")

    assert status(tracker, run) == "FAILED"
    assert isinstance(told.value, ValueError if breaks else MlflowException)
    assert type(told.value).__name__ in run.tags()["phi3.error"]
    assert any("still to write is lost" in note for note in told.value.__notes__)


def test_closing_outwards_leaves_what_has_ended(tracker):
    outer = tracker.start("main", stage="main")
    inner = tracker.start("sweep", stage="sweep", parent=outer)
    outer.end("FINISHED")
    assert tracker.close_outwards(inner.run_id, {}) == [inner.run_id]
    assert (status(tracker, inner), status(tracker, outer)) == ("KILLED", "FINISHED")


@pytest.fixture
def dead():
    """The tag of a run whose process was killed."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = replace(
        this_process(), pid=child.pid, started=psutil.Process(child.pid).create_time()
    )
    child.kill()
    child.communicate()
    return {PROCESS: process}


def test_what_a_killed_process_left_is_closed_with_what_is_around_it(tracker, dead):
    with tracker.stage("main", stage="main") as alive:
        outer = tracker.start("main", stage="main", tags=dead)
        inner = tracker.start("register", stage="register", parent=outer, tags=dead)
        assert tracker.close_abandoned() == [inner.run_id, outer.run_id]
        assert tracker.close_abandoned() == []
        assert status(tracker, alive) == "RUNNING"
    assert (status(tracker, inner), status(tracker, outer)) == ("KILLED", "KILLED")
    assert inner.tags()["phi3.error"] == "its process was killed"


def test_what_still_goes_on_elsewhere_is_left_alone(tracker, dead):
    job = tracker.start("train", stage="train", tags={**dead, JOB_TAG: "job-1"})
    sweep = tracker.start("sweep", stage="sweep", tags=dead)
    trial = tracker.start("trial-000", stage="trial", parent=sweep)
    far = replace(dead[PROCESS], host="another")
    remote = tracker.start("prepare", stage="prepare", tags={PROCESS: far})
    assert tracker.close_abandoned() == []
    assert {status(tracker, run) for run in (job, sweep, trial, remote)} == {"RUNNING"}


def test_a_long_parameter_is_cut_where_the_store_would_refuse_it(tracker, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    run = tracker.start("train", stage="train")
    run.log_params({"long": "x" * 7000})
    assert len(tracker.client.get_run(run.run_id).data.params["long"]) == 6000


def test_children_are_found_by_their_parent_oldest_first(tracker):
    parent = tracker.start("sweep", stage="sweep")
    names = [f"trial-{number:03}" for number in range(3)]
    for name in names:
        tracker.start(name, stage="trial", parent=parent).end("FINISHED")

    assert [run.info.run_name for run in tracker.children(parent.run_id)] == names


def test_the_latest_finished_run_of_a_stage_is_found_or_its_lack_explained(tracker):
    with pytest.raises(UsageError, match="no finished sweep run"):
        tracker.latest("sweep", where="sweep_run")
    with tracker.stage("sweep-a", stage="sweep") as first:
        pass
    with pytest.raises(ValueError, match="no"), tracker.stage("sweep-b", stage="sweep"):
        raise ValueError("no")

    assert tracker.latest("sweep", where="sweep_run").info.run_id == first.run_id


def test_a_run_given_by_mlflow_run_is_taken_up_and_named(tracker):
    given = tracker.client.create_run(tracker.experiment_id, run_name="bright-crane-123")
    with tracker.stage("main-now", stage="main", run_id=given.info.run_id):
        pass
    named = tracker.client.create_run(tracker.experiment_id, run_name="mine")
    with tracker.stage("main-now", stage="main", run_id=named.info.run_id):
        pass

    names = [tracker.client.get_run(r.info.run_id).info.run_name for r in (given, named)]
    assert names == ["main-now", "mine"]


def test_an_artifact_is_known_by_its_name_with_its_folder(tracker):
    run = tracker.start("train", stage="train")
    run.log_text("{}", "azure/model.json")
    asked = ("azure/model.json", "azure/events.jsonl", "model.json", "eval/model.json")
    assert [run.has_artifact(name) for name in asked] == [True, False, False, False]


def test_runs_are_found_by_a_tag_whatever_it_says_oldest_first(tracker):
    runs = [
        tracker.start("train", stage="train", tags={"colour": colour}) for colour in ("red", "blue")
    ]
    tracker.start("train", stage="train")
    found = [run.info.run_id for run in tracker.find_tagged("colour")]
    assert found == [run.run_id for run in runs]


def test_an_orphan_is_closed_and_an_ended_run_left_alone(tracker):
    orphan = tracker.start("main", stage="main")
    close_orphan(orphan.run_id, "KILLED")
    close_orphan(orphan.run_id, "FAILED")

    assert status(tracker, orphan) == "KILLED"


def test_more_than_a_batch_of_metrics_and_parameters_is_written_whole(tracker):
    run = tracker.start("big", stage="trial")
    run.log_params({f"p{number}": number for number in range(150)})
    run.log_metrics({f"m{number}": number for number in range(1500)})
    run.end("FINISHED")

    data = tracker.client.get_run(run.run_id).data
    assert (len(data.params), len(data.metrics)) == (150, 1500)


def test_uris_no_longer_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert absolute_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute_uri("sqlite:////x/mlflow.db") == "sqlite:////x/mlflow.db"
    assert absolute_uri("http://localhost:5000") == "http://localhost:5000"
    assert absolute_uri("mlruns") == (tmp_path / "mlruns").as_uri()
    assert absolute_uri("databricks") == "databricks"


def test_a_run_that_mlflow_itself_logs_to_goes_on(tracker):
    with tracker.stage("register", stage="register") as run:
        with run.current():
            mlflow.log_param("by", "mlflow")
        between = tracker.client.get_run(run.run_id)

    assert (between.data.params, between.info.status) == ({"by": "mlflow"}, "RUNNING")
    assert tracker.client.get_run(run.run_id).info.status == "FINISHED"


@pytest.fixture
def _unhurried(monkeypatch):
    """Metrics stay in memory, however slow the machine is."""
    monkeypatch.setattr("mlflow_phi3.tracking.run.FLUSH_AFTER_S", math.inf)


@pytest.mark.usefixtures("_unhurried")
def test_what_a_killed_process_had_spilled_is_there_up_to_its_last_whole_line(tracker, tmp_path):
    path = tmp_path / "points" / "trial-000.json"
    run = tracker.start("r", stage="trial")
    for step in (1, 2, 3):
        run.log_metrics({"train/loss": 1 / step}, step=step)
        run.spill(path)
    with path.open("a") as file:
        file.write('[["train/loss", 0.25, 1')  # killed in the midst of it
    again = tracker.get(run.run_id)
    again.recover(path, after={"train/loss": 1})
    assert [point.step for point in again._metrics] == [2, 3]
    again.log_metrics({"train/loss": 0.25}, step=4)
    again.spill(path)
    run = tracker.get(run.run_id)
    run.recover(path, after={})
    assert [point.step for point in run._metrics] == [2, 3, 4]


@pytest.mark.usefixtures("_unhurried")
def test_what_the_store_has_taken_is_not_spilled_again(tracker, tmp_path):
    path = tmp_path / "trial-000.json"
    run = tracker.start("r", stage="trial")
    run.log_metrics({"train/loss": 1.0}, step=1)
    run.spill(path)
    run.flush()
    run.log_metrics({"train/loss": 0.5}, step=2)
    run.spill(path)
    again = tracker.get(run.run_id)
    again.recover(path, after={})
    assert [point.step for point in again._metrics] == [2]


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg2"])
def test_a_store_that_is_away_is_told_at_once_and_without_its_password(scheme, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    before = mlflow.get_tracking_uri()
    try:
        with pytest.raises(
            PreflightError, match=rf"PHI3-P086 {re.escape(scheme)}://me:\*\*\*@127"
        ) as told:
            open_tracker(uri=f"{scheme}://me:secret@127.0.0.1:9/phi")
    finally:
        mlflow.set_tracking_uri(before)
    assert "secret" not in str(told.value)


# SQLAlchemy 2.0 takes another than 2.1.
_POSTGRES_DRIVER = make_url("postgresql://").get_driver_name()


@pytest.mark.parametrize(
    ("scheme", "module", "hint"),
    [("mysql", "MySQLdb", ""), ("postgresql", _POSTGRES_DRIVER, r".*postgresql\+psycopg2:")],
)
def test_a_database_without_its_driver_is_told_with_the_mend(scheme, module, hint, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    before = mlflow.get_tracking_uri()
    try:
        with pytest.raises(PreflightError, match=rf"(?s)PHI3-P086.*the module {module}{hint}"):
            open_tracker(uri=f"{scheme}://me:secret@127.0.0.1:9/phi")
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("deleted", [False, True])
def test_an_experiment_that_is_not_there_is_told_at_once(deleted, tracker, monkeypatch):
    named = "4711"
    if deleted:
        named = tracker.client.create_experiment("to be deleted")
        tracker.client.delete_experiment(named)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", named)

    with pytest.raises(PreflightError, match=rf"PHI3-P087 .*\b{named}\b.*MLFLOW_EXPERIMENT_NAME"):
        open_tracker(uri=tracker.uri)


def steps(tracker, run):
    return [point.step for point in tracker.client.get_metric_history(run.run_id, "train/loss")]


def test_all_runs_write_what_they_have_in_one_go(tracker, monkeypatch):
    one, other = (tracker.start(name, stage="trial") for name in ("one", "other"))
    one.log_metrics({"train/loss": 1.0}, step=1)
    other.log_metrics({"train/loss": 1.0}, step=1)
    assert (steps(tracker, one), steps(tracker, other)) == ([], [])
    monkeypatch.setattr("mlflow_phi3.tracking.run.FLUSH_AFTER_S", 0.0)
    one.log_metrics({"train/loss": 0.5}, step=2)
    assert (steps(tracker, one), steps(tracker, other)) == ([1, 2], [1])


@pytest.mark.parametrize(
    ("write_s", "pause_s", "written"),
    [(0.2, 9.0, []), (0.2, 11.0, [2]), (2.0, 29.0, []), (2.0, 31.0, [2])],
)
def test_a_slow_store_is_written_to_rarely(tracker, monkeypatch, write_s, pause_s, written):
    now, log_batch = 0.0, tracker.client.log_batch

    def take_long(*arguments, **named):
        nonlocal now
        now += write_s
        return log_batch(*arguments, **named)

    monkeypatch.setattr(tracker.client, "log_batch", take_long)
    run = tracker.start("slow", stage="trial")
    run.pace = Pace(lambda: now)
    now += 1.5
    run.log_metrics({"train/loss": 1.0}, step=1)
    assert steps(tracker, run) == [1]
    now += pause_s
    run.log_metrics({"train/loss": 0.5}, step=2)
    assert steps(tracker, run) == [1, *written]


def test_what_an_abandoned_run_had_to_write_is_not_written(tracker, monkeypatch):
    lost, other = (tracker.start(name, stage="trial") for name in ("lost", "other"))
    lost.log_metrics({"train/loss": 1.0}, step=1)
    lost.abandon()
    monkeypatch.setattr("mlflow_phi3.tracking.run.FLUSH_AFTER_S", 0.0)
    other.log_metrics({"train/loss": 1.0}, step=1)
    assert (steps(tracker, lost), steps(tracker, other)) == ([], [1])


@pytest.mark.parametrize(("given", "within"), [(None, "1"), ("7", "1"), ("0", "0")])
def test_a_server_that_is_away_is_not_waited_for_long(monkeypatch, given, within):
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    if given is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, given)
    with briefly():
        assert os.environ[name] == within
    assert os.environ.get(name) == given
