"""Drivers, the tracking server and PostgreSQL are killed; the study ends as if nothing had been."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import optuna
import pytest

from mlflow_phi3.sweep.storage import open_storage
from mlflow_phi3.tracking.runs import open_tracker

REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def import_pgserver():
    """The package asks for its run-time folder, and platformdirs warns where none is set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgserver
    return pgserver


class Postgres:
    def __init__(self, folder):
        self.folder = folder
        self.start()

    def start(self):
        pgserver = import_pgserver()
        self.server = pgserver.get_server(self.folder, cleanup_mode=None)
        self.url = self.server.get_uri()

    def kill(self):
        """Kill -9 of the postmaster; its children notice and leave."""
        os.kill(int((self.folder / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        import_pgserver().PostgresServer._instances.clear()
        time.sleep(2)
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        self.start()


class MlflowServer:
    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True
            )
        deadline = time.monotonic() + 180
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.2)

    def _answers(self):
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except OSError:
            return False
        return True

    def kill(self):
        self.stop()
        self.start()

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class DriverProcess:
    def __init__(self, *arguments, log):
        self.command = [sys.executable, str(Path(__file__).with_name("drive.py")), *arguments]
        self.log = log
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=ENVIRONMENT, cwd=REPOSITORY
            )

    def kill(self):
        self.process.kill()
        self.process.wait()
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


def outcome(tracking, storage, study="chaos"):
    """What a study came to: parameters, losses and every logged point, by trial."""
    tracker = open_tracker(uri=tracking, experiment="chaos")
    trials = optuna.load_study(study_name=study, storage=open_storage(storage)).trials
    found = {}
    for trial in trials:
        runs = tracker.find({"phi3.study": study, "phi3.trial_number": trial.number})
        assert len(runs) == 1, f"trial {trial.number} has {len(runs)} runs"
        assert runs[0].info.status == "FINISHED"
        points = {
            key: [
                (point.step, pytest.approx(point.value, rel=1e-6))
                for point in tracker.client.get_metric_history(runs[0].info.run_id, key)
            ]
            for key in ("train/loss", "eval/loss")
        }
        found[trial.number] = (trial.state.name, trial.params, pytest.approx(trial.value), points)
    return found


def chaos(tmp_path, postgres, mlflow_server, *, kills, n_trials, seed=0):
    """Kill at random while a study runs to its end."""
    arguments = (mlflow_server.uri, postgres.url, str(tmp_path / "work"), str(n_trials))
    driver = DriverProcess(*arguments, log=tmp_path / "driver.log")
    dice = random.Random(seed)
    done = 0
    deadline = time.monotonic() + 3000
    while driver.process.poll() != 0:
        assert time.monotonic() < deadline, (tmp_path / "driver.log").read_text()[-5000:]
        if driver.process.poll() is not None:
            driver.start()  # it stopped because its database was gone
        time.sleep(dice.uniform(0.2, 1.0) if done < kills else 0.5)
        if done < kills and _is_working(driver, tmp_path / "work"):
            time.sleep(dice.uniform(0.0, 3.0))
            dice.choices((driver, mlflow_server, postgres), weights=(6, 2, 2))[0].kill()
            done += 1
    return done


def _is_working(driver, folder):
    """Whether the driver of now has begun to train: a file younger than its process."""
    import psutil

    try:
        born = psutil.Process(driver.process.pid).create_time()
    except psutil.NoSuchProcess:
        return False
    files = [path for path in folder.rglob("*") if path.is_file()]
    return any(path.stat().st_mtime > born for path in files if path.exists())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kills", "n_trials"), [(20, 16)])
def test_a_study_survives_whatever_is_killed(tmp_path, postgres, mlflow_server, kills, n_trials):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    calm_tracking, calm_storage = f"sqlite:///{tmp_path}/calm.db", f"sqlite:///{tmp_path}/calm-o.db"
    calm = DriverProcess(
        calm_tracking,
        calm_storage,
        str(tmp_path / "calm"),
        str(n_trials),
        log=tmp_path / "calm.log",
    )
    assert calm.process.wait() == 0, (tmp_path / "calm.log").read_text()[-5000:]

    done = chaos(tmp_path, postgres, mlflow_server, kills=kills, n_trials=n_trials)
    assert done == kills
    found = outcome(mlflow_server.uri, postgres.url)
    assert len(found) == n_trials
    assert found == outcome(calm_tracking, calm_storage)
    tracker = open_tracker(uri=mlflow_server.uri, experiment="chaos")
    assert {run.info.status for run in tracker.find({})} == {"FINISHED"}
