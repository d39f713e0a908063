"""Orders to stop, as the commands that keep a run take them."""

import os
import signal

from typer.testing import CliRunner

from mlflow_phi3.cli.main import app


def test_a_monitor_that_is_told_to_stop_closes_its_run(tracker, monkeypatch):
    def look(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr("mlflow_phi3.workflows.monitor.open_tracker", lambda: tracker)
    monkeypatch.setattr("mlflow_phi3.workflows.monitor._look", look)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        told = CliRunner().invoke(app, ["monitor", "chat"])
    finally:
        signal.signal(signal.SIGTERM, before)

    assert told.exit_code == 130
    assert told.output.endswith("PHI3-T001: stopped by SIGTERM.\n")
    runs = tracker.client.search_runs([tracker.experiment_id])
    assert [run.info.status for run in runs] == ["KILLED"]
