"""One training behind a job: data down, our own training as a process, the tuned model up."""

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mlflow_phi3.emulator.finetuning.rules import Training
from mlflow_phi3.emulator.operation import OperationFailed
from mlflow_phi3.emulator.process import Guarded
from mlflow_phi3.emulator.storage.datastore import Datastore

_PROGRAM = "mlflow_phi3.workflows.emulated_training"
"""What a job runs; it stands above the emulator, which knows it by name alone."""
_OURS = ("AZURE_", "ARM_", "AZUREML_", "MLFLOW_")
METRICS = "metrics.jsonl"
_CODED = re.compile(r"^PHI3-\w+ .*", re.MULTILINE)


class Canceled(Exception):  # noqa: N818 - an outcome
    """The job was told to stop."""


class Trainer:
    """Runs trainings, one after the other.

    Args:
        folder: Where each job has a folder of its own.
        datastore: Where data comes from and models go.
    """

    def __init__(self, folder: Path, datastore: Datastore) -> None:
        self._folder = folder
        self._datastore = datastore
        self._turn = threading.Lock()

    def folder_of(self, job: str) -> Path:
        """Return where a job works and leaves its metrics."""
        return self._folder / job.lower()

    def forget(self, job: str) -> None:
        """Remove what a job has left: prepared data, checkpoints, metrics and its log."""
        shutil.rmtree(self.folder_of(job), ignore_errors=True)

    def train(
        self,
        job: str,
        training: Training,
        data: tuple[str, str],
        *,
        told: Callable[[str], None],
        canceled: threading.Event,
    ) -> str:
        """Train, and return the address of the model that came out.

        Args:
            job: Its place among those of all projects.
            training: What it trains with.
            data: Addresses of the training and the validation data; the second may be empty.
            told: Gets each state that the job enters.
            canceled: Ends it early.

        Raises:
            OperationFailed: The data or the training is at fault.
            Canceled: It was told to stop.
        """
        folder = self.folder_of(job)
        self.forget(job)
        folder.mkdir(parents=True)
        told("Queued")
        self._await_turn(canceled)
        try:
            told("Preparing")
            files = [
                self._fetch(uri, folder / name) for uri, name in zip(data, _SPLITS, strict=True)
            ]
            order = {**asdict(training), **dict(zip(_SPLITS, files, strict=True))}
            (folder / "order.json").write_text(json.dumps(order))
            told("Running")
            self._run(folder, canceled)
            told("Finalizing")
            address = self._datastore.store(folder / "model", f"azureml/{job}/registered_model")
            shutil.rmtree(folder / "model")
            return address
        finally:
            self._turn.release()

    def _await_turn(self, canceled: threading.Event) -> None:
        while not self._turn.acquire(timeout=0.1):
            if canceled.is_set():
                raise Canceled

    def _fetch(self, uri: str, folder: Path) -> str:
        """Copy the one file at an address; return its path, or nothing for no address."""
        if not uri:
            return ""
        folder.mkdir()
        if not self._datastore.fetch(uri, folder / "data.jsonl"):
            raise OperationFailed("UserError", f"The data at {uri} was not found.")
        files = [path for path in folder.rglob("*") if path.is_file()]
        if len(files) != 1:
            raise OperationFailed("UserError", f"{uri} is not one file but {len(files)}.")
        return str(files[0])

    def _run(self, folder: Path, canceled: threading.Event) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
        process = Guarded(
            [sys.executable, "-m", _PROGRAM, str(folder)],
            log=folder / "training.log",
            environment=kept,
            folder=folder,
        )
        while process.is_running():
            if canceled.wait(0.1):
                process.stop()
                raise Canceled
        if not (folder / "model" / "MLmodel").is_file():
            said = process.tail(30)
            coded = _CODED.findall(said)
            text = coded[-1] if coded else f"User program failed: {said[-2000:]}"
            raise OperationFailed("UserError", text)


_SPLITS = ("train", "validation")
