"""Real servers that can be killed: PostgreSQL and MLflow over HTTP."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[3]
# Tests wait for a server that comes back, so the client asks often instead of ever more rarely.
IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "9",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
ENVIRONMENT = {
    **os.environ,
    **IMPATIENT,
    "PYTHONPATH": str(REPOSITORY),
    "OMP_NUM_THREADS": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
_PR_SET_PDEATHSIG = 1


def die_with_parent():
    """A child that outlives a test that was killed would go on for ever."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def import_pgserver():
    """The package asks for its run-time folder, and platformdirs warns where none is set."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        import pgserver
    return pgserver


class Postgres:
    def __init__(self, folder):
        self.folder = folder
        self.start()

    def start(self):
        pgserver = import_pgserver()
        deadline = time.monotonic() + 120
        while True:
            # The package remembers a server by its folder and would not start it again.
            pgserver.PostgresServer._instances.clear()
            try:
                self.server = pgserver.get_server(self.folder, cleanup_mode="stop")
                break
            except (subprocess.TimeoutExpired, AssertionError):  # recovers for longer than 10 s
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self.url = self.server.get_uri()

    def stop(self):
        """Kill -9 of the postmaster and all its children, as a power cut would."""
        line = (self.folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0]
        postmaster = psutil.Process(int(line))
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended with the postmaster
                process.kill()
        psutil.wait_procs(family, timeout=10)

    def kill(self):
        self.stop()
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
        self.wait()

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - forked where no other thread runs
            )

    def wait(self):
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
        """Kill -9; it comes back while the others go on asking for it."""
        self.stop()
        self.start()

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
