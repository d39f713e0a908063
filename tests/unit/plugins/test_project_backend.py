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


def launch(tracker, monkeypatch, program):
    monkeypatch.setattr(project_backend, "_PROGRAM", program)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    command = ["run", str(ROOT), "-b", "azure-foundry", "--run-name", "mine"]
    return CliRunner().invoke(cli, [*command, "--experiment-id", tracker.experiment_id])


def the_run(tracker):
    (run,) = tracker.client.search_runs([tracker.experiment_id])
    return run


@pytest.mark.parametrize(("ending", "exit_code"), [(0, 0), (5, 1)])
def test_mlflows_command_line_waits_for_the_end(ending, exit_code, tracker, monkeypatch, tmp_path):
    slow = f"import sys, time; time.sleep(0.2); open('ended', 'w'); sys.exit({ending})"

    told = launch(tracker, monkeypatch, slow)

    assert (tmp_path / "ended").is_file()
    assert told.exit_code == exit_code


def test_a_run_that_nothing_took_up_is_closed_under_its_name(tracker, monkeypatch):
    launch(tracker, monkeypatch, "import sys; sys.exit(4)")

    run = the_run(tracker)
    assert (run.info.status, run.info.run_name) == ("FAILED", "mine")
    assert run.data.tags["mlflow.project.backend"] == "azure-foundry"


class Interrupted(SubmittedRun):
    """A run during which the person presses Ctrl-C."""

    cancelled = False

    def __init__(self, run_id):
        super().__init__()
        self._run_id = run_id

    @property
    def run_id(self):
        return self._run_id

    def wait(self):
        raise KeyboardInterrupt

    def get_status(self):
        return "RUNNING"

    def cancel(self):
        self.cancelled = True


def test_ctrl_c_ends_the_process_that_follows_and_the_run(tracker):
    run = Interrupted(tracker.start("r", stage="train").run_id)

    with pytest.raises(KeyboardInterrupt):
        wait_for(run)

    assert run.cancelled
    assert the_run(tracker).info.status == "KILLED"


def test_a_failed_run_is_told_as_mlflow_tells_it(tracker):
    class Failed(Interrupted):
        def wait(self):
            return False

    run_id = tracker.start("r", stage="train").run_id
    with pytest.raises(ExecutionException, match=rf"Run \(ID '{run_id}'\) failed"):
        wait_for(Failed(run_id))
