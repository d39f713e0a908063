from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.cli import cli
from mlflow.exceptions import ExecutionException, MlflowException
from mlflow.projects.backend.loader import load_backend
from mlflow.projects.submitted_run import SubmittedRun

from mlflow_phi3.errors import UsageError
from mlflow_phi3.plugins import project_backend
from mlflow_phi3.plugins.project_backend import FoundryBackend, to_values, wait_for


def test_mlflow_finds_it_by_name():
    assert [e.value for e in entry_points(group="mlflow.project_backend")]
    assert isinstance(load_backend("azure-foundry"), FoundryBackend)


def test_parameters_and_configuration_become_those_of_train():
    mlflows = {"ENV_MANAGER": "local", "SYNCHRONOUS": True, "STORAGE_DIR": None}
    values = to_values("main", {"epochs": 2, "train_data": ""}, {"detach": True, **mlflows})

    assert values == {"detach": "True", "epochs": "2", "backend": "foundry"}


@pytest.mark.parametrize(
    ("entry_point", "params", "config", "said"),
    [
        ("evaluate", {}, {}, "U782"),
        ("main", {"epoch": "2"}, {}, "did you mean 'epochs'"),
        ("main", {}, {"azure_targt": "x"}, "did you mean 'azure_target'"),
    ],
)
def test_what_has_no_meaning_is_refused_before_a_run_is_made(entry_point, params, config, said):
    with pytest.raises(UsageError, match=said):
        to_values(entry_point, params, config)
    with pytest.raises(MlflowException, match=said):
        FoundryBackend().run(".", entry_point, params, None, config, "sqlite://", "0")


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("ending", "exit_code"), [(0, 0), (5, 1)])
def test_mlflows_command_line_waits_for_the_end(ending, exit_code, tracker, monkeypatch, tmp_path):
    slow = f"import sys, time; time.sleep(1); open('ended', 'w'); sys.exit({ending})"
    monkeypatch.setattr(project_backend, "_PROGRAM", slow)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    command = ["run", str(ROOT), "-b", "azure-foundry", "--experiment-id", tracker.experiment_id]

    told = CliRunner().invoke(cli, command)

    assert (tmp_path / "ended").is_file()
    assert told.exit_code == exit_code


class Interrupted(SubmittedRun):
    """A run during which the person presses Ctrl-C."""

    run_id = "r"
    cancelled = False

    def wait(self):
        raise KeyboardInterrupt

    def get_status(self):
        return "RUNNING"

    def cancel(self):
        self.cancelled = True


def test_ctrl_c_ends_the_process_that_follows():
    run = Interrupted()

    with pytest.raises(KeyboardInterrupt):
        wait_for(run)

    assert run.cancelled


def test_a_failed_run_is_told_as_mlflow_tells_it():
    class Failed(Interrupted):
        def wait(self):
            return False

    with pytest.raises(ExecutionException, match=r"Run \(ID 'r'\) failed"):
        wait_for(Failed())
