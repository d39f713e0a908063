import mlflow
import optuna
import pytest

from mlflow_phi3.cli.main import app
from mlflow_phi3.sweep.storage import open_storage


def call(*arguments):
    from typer.testing import CliRunner

    return CliRunner().invoke(app, arguments)


@pytest.fixture
def study(tmp_path):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(
        storage=open_storage(f"sqlite:///{tmp_path}/optuna.db"), study_name="night"
    )
    trial = made.ask()
    trial.set_user_attr("lease", {"driver": "dead", "round": 0})
    yield made
    mlflow.set_tracking_uri(before)


def test_sweep_repair_lets_the_trials_of_the_dead_wait(study):
    found = call("sweep", "repair", "night")
    assert found.exit_code == 0, found.output
    assert "1 trial released to wait again, 0 runs closed." in found.output
    assert [trial.state.name for trial in study.trials] == ["WAITING"]


def test_an_unknown_study_is_told(study):
    found = call("sweep", "repair", "nobody")
    assert "PHI3-U090" in str(found.exception)
    assert "--storage" in call("sweep", "repair", "--help").output


def test_a_fault_of_the_repair_is_not_taken_for_an_unknown_study(study, monkeypatch):
    def fail(*_arguments, **_named):
        raise KeyError("phi3.trial_number")

    monkeypatch.setattr("mlflow_phi3.sweep.repair.repair_study", fail)
    assert isinstance(call("sweep", "repair", "night").exception, KeyError)


def test_no_storage_is_made_where_none_is(study, tmp_path):
    for storage in (f"sqlite:///{tmp_path}/none.db", f"{tmp_path}/none.log"):
        found = call("sweep", "repair", "night", "--storage", storage)
        assert "PHI3-U090" in str(found.exception)
    assert list(tmp_path.glob("none*")) == []
