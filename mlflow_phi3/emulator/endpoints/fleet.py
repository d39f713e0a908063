"""The scoring processes: one per deployment, each a real server on a loopback port."""

import os
import shutil
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from mlflow_phi3.emulator.endpoints.forking import Forked, ForkServer
from mlflow_phi3.emulator.operation import OperationFailed
from mlflow_phi3.emulator.process import free_port, last_lines
from mlflow_phi3.emulator.storage.datastore import Datastore
from mlflow_phi3.emulator.store import Resource

_READY_S = 300.0
"""How long a process may take until its health probe answers."""
_DRAIN_S = 60.0
_APPLICATION = "mlflow.pyfunc.scoring_server.app:app"
"""What `mlflow models serve` ends in too.

Azure's own server cannot share an environment with it: its pins on pydantic and opentelemetry
(azureml-inference-server-http 1.5.1) exclude MLflow 3's.
"""
_OURS = ("AZURE_", "ARM_", "AZUREML_", "MLFLOW_TRACKING", "MLFLOW_RUN", "MLFLOW_EXPERIMENT")


@dataclass(slots=True)
class Server:
    """One scoring process and the requests that it is working on."""

    process: Forked
    port: int
    folder: Path
    busy: int = 0
    idle: threading.Condition = field(default_factory=threading.Condition)


class Fleet:
    """Starts, replaces and ends scoring processes.

    Args:
        folder: Where models are unpacked and logs are written.
        datastore: Holds the files of registered models.
    """

    def __init__(self, folder: Path, datastore: Datastore) -> None:
        self._folder = folder
        self._datastore = datastore
        self._lock = threading.Lock()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._servers: dict[str, Server] = {}
        self._starting: list[Server] = []
        self._logs: dict[str, Path] = {}
        self._closed = False
        shutil.rmtree(folder, ignore_errors=True)  # what a killed emulator left
        folder.mkdir(parents=True)
        self._fork_server = ForkServer(
            [_APPLICATION.rsplit(".", 1)[0], "uvicorn"],
            log=folder / "fork_server.log",
            # A thread of MLflow's telemetry would not survive the fork.
            environment={**_environment(), "MLFLOW_DISABLE_TELEMETRY": "true"},
            folder=folder,
        )

    def deploy(self, deployment_id: str, model: Resource, variables: dict[str, str]) -> None:
        """Start a process on a model's files, and let the one that it replaces finish and end.

        Args:
            deployment_id: Whose it is.
            model: The model version.
            variables: The deployment's environment variables.

        Raises:
            OperationFailed: No MLflow model, or the process ended or did not answer in time.
        """
        # One after the other: what a restart has begun must not replace what was asked for since.
        with self._turns[deployment_id.lower()]:
            self._replace(deployment_id, model, variables)

    def stop(self, deployment_id: str) -> None:
        """End a deployment's process once its requests are answered."""
        with self._lock:
            server = self._servers.pop(deployment_id.lower(), None)
        if server is not None:
            self._retire(server)

    def log(self, deployment_id: str, lines: int) -> str:
        """Return the end of what a deployment's latest process has printed."""
        path = self._logs.get(deployment_id.lower())
        return "" if path is None else last_lines(path, lines)

    @contextmanager
    def lease(self, deployment_id: str) -> Iterator[int | None]:
        """Hold a deployment's process for one request; yields its port, None without one."""
        with self._lock:
            server = self._servers.get(deployment_id.lower())
            if server is not None:
                server.busy += 1
        try:
            yield None if server is None else server.port
        finally:
            if server is not None:
                with server.idle, self._lock:
                    server.busy -= 1
                    server.idle.notify_all()

    def close(self) -> None:
        """End all processes at once."""
        with self._lock:
            self._closed = True
            servers = [*self._servers.values(), *self._starting]
            self._servers.clear()
        threads = [threading.Thread(target=self._end, args=(server,)) for server in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._fork_server.close()

    def _replace(self, deployment_id: str, model: Resource, variables: dict[str, str]) -> None:
        folder = self._folder / uuid.uuid4().hex
        folder.mkdir()
        try:
            path = self._fetch(str(model["properties"]["modelUri"]), folder)
            server = self._launch(deployment_id, folder, path, variables)
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            self._await_ready(server)
        except OperationFailed:
            self._end(server)
            raise
        finally:
            with self._lock:
                self._starting.remove(server)
        with self._lock:
            old = self._servers.get(deployment_id.lower())
            closed = self._closed
            if not closed:
                self._servers[deployment_id.lower()] = server
        if closed:
            self._end(server)
        elif old is not None:
            self._retire(old)

    def _fetch(self, address: str, folder: Path) -> Path:
        """Return where in the folder the MLflow model is, at whatever depth."""
        if not self._datastore.fetch(address, folder):
            raise OperationFailed("BadArgument", f"There is no model at {address}.")
        models = sorted(folder.rglob("MLmodel"), key=lambda path: len(path.parts))
        if not models:
            text = "The model holds no MLmodel file: no-code deployment needs an MLflow model."
            raise OperationFailed("BadArgument", text)
        return models[0].parent

    def _launch(
        self, deployment_id: str, folder: Path, model: Path, variables: dict[str, str]
    ) -> Server:
        port = free_port()
        log = self._folder / f"{folder.name}.log"
        pid = self._fork_server.start(
            log=str(log),
            folder=str(folder),
            port=port,
            application=_APPLICATION,
            environment={
                **_environment(),
                **variables,
                "__pyfunc_model_path__": model.as_uri(),
                "AZUREML_MODEL_DIR": str(folder),
            },
        )
        if pid is None:
            raise OperationFailed("InternalServerError", self._fork_server.tail())
        process = Forked(pid, log)
        server = Server(process, port, folder)
        with self._lock:
            self._logs[deployment_id.lower()] = log
            self._starting.append(server)
        return server

    def _await_ready(self, server: Server) -> None:
        deadline = time.monotonic() + _READY_S
        # Plain http: to read the certificates of the system takes longer than to be answered.
        with httpx.Client(trust_env=False, timeout=5.0, verify=False) as client:  # noqa: S501 - as above
            while server.process.is_running() and not self._closed:
                with suppress(httpx.TransportError):
                    if client.get(f"http://127.0.0.1:{server.port}/ping").is_success:
                        return
                time.sleep(0.1)
                if time.monotonic() > deadline:
                    text = f"No answer to the liveness probe in {_READY_S:.0f} s."
                    raise OperationFailed("ResourceNotReady", text)
        text = f"User container has crashed or terminated: {server.process.tail()}"
        raise OperationFailed("ResourceNotReady", text)

    def _retire(self, server: Server) -> None:
        """Let a server that gets no more requests finish those it has, then end it."""
        deadline = time.monotonic() + _DRAIN_S
        with server.idle:
            while server.busy and time.monotonic() < deadline:
                server.idle.wait(1.0)
        self._end(server)

    @staticmethod
    def _end(server: Server) -> None:
        server.process.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Return what a scoring process knows of this one's environment: nothing of MLflow or Azure."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
