"""A study in PostgreSQL and runs on an MLflow server, both real."""

import threading
import time

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from mlflow_phi3.sweep.storage import open_storage
from mlflow_phi3.tracking.tracker import open_tracker
from tests.unit.sweep.servers import IMPATIENT, MlflowServer, Postgres


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_a_study_waits_for_a_postgresql_that_restarts(tmp_path):
    server = Postgres(tmp_path / "pg")
    try:
        study = optuna.create_study(storage=open_storage(server.url), study_name="s")
        trial = study.ask()
        server.stop()
        back = threading.Timer(1.0, server.start)
        back.start()
        study.tell(trial, 1.0)  # asked while nobody answers
        back.join()
        assert study.best_value == 1.0
    finally:
        server.server.cleanup()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_postgresql_that_stays_away_is_waited_for_once(tmp_path, caplog, monkeypatch, stopped):
    def stop(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlflow_phi3.sweep.storage._AWAY_S", 5.0 if stopped else 0.5)
    server = Postgres(tmp_path / "pg")
    study = optuna.create_study(storage=open_storage(server.url), study_name="s")
    trials = [study.ask(), study.ask()]
    server.stop()
    try:
        if stopped:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr("tenacity.nap.time.sleep", stop)
                study.tell(trials[0], 1.0)
        for trial in trials:
            with pytest.raises(StorageInternalError):
                study.tell(trial, 1.0)
        assert caplog.text.count("the study's database is away") == 1
        server.start()
        study.tell(trials[0], 1.0)
        assert study.best_value == 1.0
    finally:
        server.server.cleanup()


@pytest.mark.slow
def test_a_run_waits_for_a_tracking_server_that_restarts(tmp_path, monkeypatch):
    for name, value in IMPATIENT.items():
        monkeypatch.setenv(name, value)
    server = MlflowServer(tmp_path / "mlflow")
    over = threading.Event()

    def come_back():
        time.sleep(1.0)
        server.start()
        over.wait()  # the server dies with the thread that started it

    back = threading.Thread(target=come_back)
    try:
        tracker = open_tracker(uri=server.uri, experiment="e")
        run = tracker.start("r", stage="trial")
        server.stop()
        back.start()
        began = time.monotonic()
        run.log_metrics({"train/loss": 1.0}, step=1)
        run.end("FINISHED")
        assert time.monotonic() - began > 1.0
        found = tracker.client.get_run(run.run_id)
        assert (found.info.status, found.data.metrics) == ("FINISHED", {"train/loss": 1.0})
    finally:
        server.stop()
        over.set()
        back.join()
