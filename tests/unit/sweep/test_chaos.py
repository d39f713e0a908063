"""Drivers, the tracking server and PostgreSQL are killed; the study ends as if nothing had been."""

import multiprocessing
import random
import time

import optuna
import pytest

from mlflow_phi3.sweep.storage import open_storage
from mlflow_phi3.tracking.tracker import open_tracker
from tests.unit.sweep.drive import drive
from tests.unit.sweep.servers import MlflowServer, Postgres


class DriverProcess:
    """Forked from a process that has imported everything, so that a new one begins at once."""

    def __init__(self, *arguments, **options):
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.unit.sweep.drive"])
        self.arguments, self.options = arguments, options
        self.start()

    def start(self):
        self.process = self.context.Process(
            target=drive, args=self.arguments, kwargs=self.options, daemon=True
        )
        self.process.start()

    def kill(self):
        self.process.kill()
        self.process.join()
        self.start()


@pytest.fixture
def postgres(tmp_path):
    server = Postgres(tmp_path / "pg")
    yield server
    server.server.cleanup()


@pytest.fixture
def mlflow_server(tmp_path):
    server = MlflowServer(tmp_path / "mlflow")
    yield server
    server.stop()


def outcome(tracking, storage):
    """What the study came to: state, parameters, value and every logged point, by trial."""
    tracker = open_tracker(uri=tracking, experiment="chaos")
    study = optuna.load_study(study_name="chaos", storage=open_storage(storage))
    found = {}
    for trial in study.trials:
        runs = tracker.find({"phi3.study": "chaos", "phi3.trial_number": trial.number})
        assert [run.info.status for run in runs] == ["FINISHED"], trial.number
        assert runs[0].info.run_id == trial.user_attrs["run_id"]
        points = [
            (key, point.step, point.value)
            for key in ("train/loss", "eval/loss")
            for point in tracker.client.get_metric_history(runs[0].info.run_id, key)
        ]
        found[trial.number] = (trial.state.name, trial.params, trial.value, sorted(points))
    return found


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for number, (state, params, value, points) in found.items():
        assert (state, params) == expected[number][:2], number
        assert value == pytest.approx(expected[number][2], rel=1e-6), number
        where = [point[:2] for point in points]
        assert where == [point[:2] for point in expected[number][3]], number
        wanted = [point[2] for point in expected[number][3]]
        assert [point[2] for point in points] == pytest.approx(wanted, rel=1e-6), number


def chaos(tmp_path, driver, victims, *, kills, dice):
    """Kill one of ``victims`` (thing, weight), again and again, until the study ends; the names."""
    killed = []
    begun = 0
    deadline = time.monotonic() + 900
    while driver.process.is_alive() or driver.process.exitcode != 0:
        assert time.monotonic() < deadline, (tmp_path / "driver.log").read_text()[-5000:]
        if not driver.process.is_alive():
            driver.start()  # it stopped because its database went away in the midst of a write
        time.sleep(0.05)
        steps = (tmp_path / "driver.log").read_text().count("/")
        if len(killed) < kills and steps > begun:  # it trains again since the last kill
            time.sleep(dice.uniform(0.0, 1.0))
            things, weights = zip(*victims, strict=True)
            victim = dice.choices(things, weights)[0]
            victim.kill()
            killed.append(type(victim).__name__)
            begun = (tmp_path / "driver.log").read_text().count("/")
        if len(killed) == kills:
            (tmp_path / "gate").touch()
    return killed


def undisturbed(tmp_path, n_trials):
    """The same study to its end, in files."""
    calm = (f"sqlite:///{tmp_path}/calm.db", f"sqlite:///{tmp_path}/calm-optuna.db")
    driver = DriverProcess(*calm, str(tmp_path / "calm"), n_trials, log=tmp_path / "calm.log")
    driver.process.join()
    assert driver.process.exitcode == 0, (tmp_path / "calm.log").read_text()[-5000:]
    return calm


def disturbed(tmp_path, tracking, storage, n_trials):
    """A driver whose study waits near its end until all kills were made."""
    (tmp_path / "driver.log").touch()
    return DriverProcess(
        tracking,
        storage,
        str(tmp_path / "work"),
        n_trials,
        step_s=0.05,
        gate=tmp_path / "gate",
        log=tmp_path / "driver.log",
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kills", "n_trials"), [(20, 16)])
def test_a_study_survives_whatever_is_killed(tmp_path, postgres, mlflow_server, kills, n_trials):
    calm = undisturbed(tmp_path, n_trials)
    driver = disturbed(tmp_path, mlflow_server.uri, postgres.url, n_trials)
    victims = [(driver, 10), (mlflow_server, 4), (postgres, 6)]
    killed = chaos(tmp_path, driver, victims, kills=kills, dice=random.Random(0))
    assert len(killed) == kills
    assert len(set(killed)) == len(victims)

    assert_same(outcome(mlflow_server.uri, postgres.url), outcome(*calm))
    tracker = open_tracker(uri=mlflow_server.uri, experiment="chaos")
    assert len(tracker.find({})) == n_trials + 1
    assert {run.info.status for run in tracker.find({})} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kills", "n_trials"), [(12, 12)])
def test_a_study_in_files_survives_kills_of_its_driver(tmp_path, kills, n_trials):
    calm = undisturbed(tmp_path, n_trials)
    files = (f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{tmp_path}/optuna.db")
    # MLflow makes its tables in many steps, and cannot go on where it was killed in them.
    open_tracker(uri=files[0], experiment="chaos")
    driver = disturbed(tmp_path, *files, n_trials)
    killed = chaos(tmp_path, driver, [(driver, 1)], kills=kills, dice=random.Random(1))
    assert len(killed) == kills

    assert_same(outcome(*files), outcome(*calm))
    tracker = open_tracker(uri=files[0], experiment="chaos")
    assert len(tracker.find({})) == n_trials + 1
    assert {run.info.status for run in tracker.find({})} == {"FINISHED"}
