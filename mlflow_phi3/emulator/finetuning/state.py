"""Fine-tuning jobs: their states over time, and the model version that comes out; no HTTP."""

import datetime as dt
import json
import re
import threading
from collections.abc import Mapping
from typing import Any

from mlflow_phi3.emulator.arm import envelope
from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.faults import Faults
from mlflow_phi3.emulator.finetuning import rules
from mlflow_phi3.emulator.finetuning.trainer import METRICS, Canceled, Trainer
from mlflow_phi3.emulator.operation import OperationFailed
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Resource, Store

KIND = "job"
ENDED = frozenset({"Completed", "Failed", "Canceled"})
_TYPE = "Microsoft.MachineLearningServices/workspaces/jobs"
_DATA = re.compile(r"/data/(?P<name>[^/]+)/versions/(?P<version>[^/]+)$", re.IGNORECASE)


class Jobs:
    """The state of all fine-tuning jobs.

    Args:
        store: Where jobs are kept.
        assets: Data that jobs read, models that they make.
        faults: Asked whether a job shall fail or never end.
        trainer: Does the work.
    """

    def __init__(self, store: Store, assets: Assets, faults: Faults, trainer: Trainer) -> None:
        self._store = store
        self._assets = assets
        self._faults = faults
        self._trainer = trainer
        self._cancels: dict[str, threading.Event] = {}
        self._stopping = threading.Event()

    def resume(self) -> None:
        """After a restart: begin again what had not ended."""
        for job in self._store.of_kind(KIND):
            if job["properties"]["status"] == "CancelRequested":
                self._store.patch(job["id"], status="Canceled")
            elif job["properties"]["status"] not in ENDED:
                self._begin(job)

    def stop(self) -> None:
        """End all trainings; their jobs are begun again by :meth:`resume`."""
        self._stopping.set()
        self._faults.release()
        for cancel in list(self._cancels.values()):
            cancel.set()
        for thread in threading.enumerate():
            if thread.name.startswith(_THREAD):
                thread.join(30)

    def put(
        self, job_id: str, workspace: Resource, body: Mapping[str, Any]
    ) -> tuple[Resource, bool]:
        """Submit a job, or find it submitted; return it and whether it is new.

        Raises:
            Refusal: A rule of the service is broken, or another job has this name.
        """
        name = job_id.rsplit("/", 1)[1]
        sent = {k: v for k, v in (body.get("properties") or {}).items() if v is not None}
        with self._store.transaction():
            known = self._store.get(job_id)
            if known is not None:
                rules.check_same(known["properties"], sent)
                return known, False
            today = dt.datetime.now(dt.UTC).date()
            rules.check_job(name, sent, workspace["location"], today)
            studio = f"https://ml.azure.com/runs/{name}?wsid={workspace['id']}"
            properties = {
                "displayName": name,
                "experimentName": "Default",
                "tags": {},
                "properties": {},
                "isArchived": False,
                **sent,
                "services": {"Studio": {"jobServiceType": "Studio", "endpoint": studio}},
                "status": "NotStarted",
            }
            job = envelope(job_id, _TYPE, properties)
            self._store.put(job_id, KIND, job)
            self._begin(job)  # before another thread finds the job, and perhaps cancels it
        return job, True

    def get(self, job_id: str) -> Resource:
        """Return a job.

        Raises:
            Refusal: 404.
        """
        text = f"Job {job_id.rsplit('/', 1)[1]} was not found."
        return self._store.need(job_id, "UserError", text)

    def beneath(self, workspace_id: str) -> list[Resource]:
        """Return the jobs of a workspace, newest first."""
        return self._store.beneath(workspace_id, KIND)[::-1]

    def cancel(self, job_id: str) -> None:
        """Ask a job to stop; one that has ended is left as it is."""
        with self._store.transaction():
            job = self.get(job_id)
            if job["properties"]["status"] in ENDED:
                return
            self._store.patch(job_id, status="CancelRequested")
        self._cancels[job_id.lower()].set()

    def delete(self, job_id: str) -> bool:
        """Forget a job; tell whether there was one.

        Raises:
            Refusal: It still runs.
        """
        with self._store.transaction():
            job = self._store.get(job_id)
            if job is None:
                return False
            if job["properties"]["status"] not in ENDED:
                text = f"Job {job['name']} is {job['properties']['status']}: cancel it first."
                raise Refusal(409, "JobNotInTerminalState", text)
            self._store.delete(job_id)
            self._store.delete(_error_id(job_id))
            self._trainer.forget(job["name"])
        return True

    def error(self, job_id: str) -> dict[str, str] | None:
        """Return why a job failed, or None."""
        return self._store.get(_error_id(job_id))

    def metrics(self, job_id: str) -> list[dict[str, Any]]:
        """Return all points of all metrics of a job, oldest first."""
        path = self._trainer.folder_of(self.get(job_id)["name"]) / METRICS
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # one may be half done

    def _begin(self, job: Resource) -> None:
        cancel = threading.Event()
        self._cancels[job["id"].lower()] = cancel
        name = f"{_THREAD}{job['name']}"
        threading.Thread(target=self._run, args=(job, cancel), daemon=True, name=name).start()

    def _run(self, job: Resource, cancel: threading.Event) -> None:
        job_id = job["id"]
        try:
            self._faults.during_operation(job_id)
            uri = self._train(job, cancel)
            self._register(job, uri)
            status = "Completed"
        except Canceled:
            status = "Canceled"
        except OperationFailed as failed:
            status = self._failed(job_id, failed.code, failed.message, cancel)
        except Exception as bug:  # noqa: BLE001 - a thread's end must be told to whoever follows
            status = self._failed(job_id, "InternalServerError", str(bug), cancel)
        if not self._stopping.is_set():
            self._store.patch(job_id, status=status)

    def _train(self, job: Resource, cancel: threading.Event) -> str:
        workspace = self._assets.get_workspace(job["id"].rsplit("/", 2)[0])
        today = dt.datetime.now(dt.UTC).date()
        properties = job["properties"]
        training = rules.check_job(job["name"], properties, workspace["location"], today)
        details = properties["fineTuningDetails"]
        train, validation = (
            self._resolve(workspace["id"], str((details.get(key) or {}).get("uri") or ""))
            for key in ("trainingData", "validationData")
        )

        def told(status: str) -> None:
            with self._store.transaction():
                known = self._store.get(job["id"])
                if known and known["properties"]["status"] != "CancelRequested":
                    self._store.patch(job["id"], status=status)

        return self._trainer.train(
            job["name"], training, (train, validation), told=told, canceled=cancel
        )

    def _resolve(self, workspace_id: str, uri: str) -> str:
        """Return the address behind a data asset's id, or the address itself."""
        match = _DATA.search(uri)
        if match is None:
            return uri
        found = self._assets.get_version(workspace_id, "data", match["name"], match["version"])
        return str(found["properties"]["dataUri"])

    def _register(self, job: Resource, uri: str) -> None:
        workspace = self._assets.get_workspace(job["id"].rsplit("/", 2)[0])
        output = dict(job["properties"]["outputs"][rules.OUTPUT])
        name = output["assetName"]
        base = job["properties"]["fineTuningDetails"]["model"]["uri"]
        properties = {
            "modelUri": uri,
            "modelType": output.get("jobOutputType", "mlflow_model"),
            "jobName": job["name"],
            "flavors": {"python_function": {"data": {}}},
            "properties": {"baseModelId": base},
        }
        with self._store.transaction():
            version = self._assets.next_version(workspace["id"], "models", name)
            self._assets.put_version(workspace["id"], "models", name, version, properties)
        place = (
            f"locations/{workspace['location']}/workspaces/{workspace['properties']['workspaceId']}"
        )
        output |= {
            "assetVersion": version,
            "uri": f"azureml://{place}/models/{name}/versions/{version}",
        }
        outputs = {**job["properties"]["outputs"], rules.OUTPUT: output}
        self._store.patch(job["id"], outputs=outputs)

    def _failed(self, job_id: str, code: str, message: str, cancel: threading.Event) -> str:
        if cancel.is_set():  # what falls over while it is being stopped was stopped
            return "Canceled"
        self._store.put(_error_id(job_id), "job-error", {"code": code, "message": message})
        return "Failed"


_THREAD = "job:"


def _error_id(job_id: str) -> str:
    return f"/errors{job_id}"
