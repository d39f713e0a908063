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

    def put(self, job_id: str, properties: Mapping[str, Any]) -> tuple[Resource, bool]:
        """Submit a job, or find it submitted; return it and whether it is new.

        Raises:
            Refusal: A rule of the service is broken, or another job has this name.
        """
        workspace_id, name = job_id.rsplit("/jobs/", 1)
        workspace, known = self._store.need(workspace_id), self._store.get(job_id)
        sent = {k: v for k, v in properties.items() if v is not None}
        if known is not None:
            rules.check_same(known["properties"], sent)
            return known, False
        rules.check_job(name, sent, workspace["location"], dt.datetime.now(dt.UTC).date())
        studio = f"https://ml.azure.com/runs/{name}?wsid={workspace_id}"
        job = envelope(
            job_id,
            {
                "displayName": name,
                "experimentName": "Default",
                "tags": {},
                "properties": {},
                "isArchived": False,
                **sent,
                "services": {"Studio": {"jobServiceType": "Studio", "endpoint": studio}},
                "status": "NotStarted",
            },
        )
        self._store.put(job_id, KIND, job)
        self._begin(job)
        return job, True

    def get(self, job_id: str) -> Resource:
        """Return a job.

        Raises:
            Refusal: 404.
        """
        return self._store.need(job_id, "UserError", "Job {name} was not found.")

    def cancel(self, job_id: str) -> None:
        """Ask a job to stop; one that has ended is left as it is."""
        if self.get(job_id)["properties"]["status"] not in ENDED:
            self._store.patch(job_id, status="CancelRequested")
            self._cancels[job_id.lower()].set()

    def delete(self, job_id: str) -> bool:
        """Forget a job; tell whether there was one.

        Raises:
            Refusal: It still runs.
        """
        job = self._store.get(job_id)
        if job is None:
            return False
        if job["properties"]["status"] not in ENDED:
            text = f"Job {job['name']} is {job['properties']['status']}: cancel it first."
            raise Refusal(409, "JobNotInTerminalState", text)
        self._store.delete(job_id)
        self._store.delete(_error_id(job_id))
        self._trainer.forget(self._place(job))
        return True

    def error(self, job_id: str) -> dict[str, str] | None:
        """Return why a job failed, or None."""
        return self._store.get(_error_id(job_id))

    def metrics(self, job_id: str) -> list[dict[str, Any]]:
        """Return all points of all metrics of a job, oldest first."""
        path = self._trainer.folder_of(self._place(self.get(job_id))) / METRICS
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
        try:
            self._faults.during_operation(job["id"])
            uri = self._train(job, cancel)
            with self._store.transaction():  # or a job cut off here would register it once more
                self._register(job, uri)
                self._store.patch(job["id"], status="Completed")
        except Canceled:
            self._end(job, "Canceled")
        except OperationFailed as failed:
            self._fail(job, failed.code, failed.message, cancel)
        except Exception as bug:  # noqa: BLE001 - a thread's end must be told to whoever follows
            self._fail(job, "InternalServerError", str(bug), cancel)

    def _train(self, job: Resource, cancel: threading.Event) -> str:
        workspace = self._store.need(job["id"].rsplit("/", 2)[0])
        today = dt.datetime.now(dt.UTC).date()
        properties = job["properties"]
        training = rules.check_job(job["name"], properties, workspace["location"], today)
        details = properties["fineTuningDetails"]
        train, validation = (
            self._address(workspace["id"], str((details.get(key) or {}).get("uri") or ""))
            for key in ("trainingData", "validationData")
        )

        def told(status: str) -> None:
            with self._store.transaction():
                known = self._store.get(job["id"])
                if known and known["properties"]["status"] != "CancelRequested":
                    self._store.patch(job["id"], status=status)

        return self._trainer.train(
            self._place(job), training, (train, validation), told=told, canceled=cancel
        )

    def _place(self, job: Resource) -> str:
        """Where a job's files lie: another project may have one of the same name."""
        workspace = self._store.need(job["id"].rsplit("/", 2)[0])
        return f"{workspace['properties']['workspaceId']}/{job['name']}"

    def _address(self, workspace_id: str, uri: str) -> str:
        """Return the address behind a data asset's id, or the address itself."""
        match = _DATA.search(uri)
        if match is None:
            return uri
        found = self._store.need(f"{workspace_id}{match.group()}", "UserError")
        return str(found["properties"]["dataUri"])

    def _register(self, job: Resource, uri: str) -> None:
        workspace = self._store.need(job["id"].rsplit("/", 2)[0])
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
        asset_id = f"{workspace['id']}/models/{name}"
        version = self._assets.next_version(asset_id)
        self._assets.put_version(f"{asset_id}/versions/{version}", properties)
        place = (
            f"locations/{workspace['location']}/workspaces/{workspace['properties']['workspaceId']}"
        )
        output |= {
            "assetVersion": version,
            "uri": f"azureml://{place}/models/{name}/versions/{version}",
        }
        outputs = {**job["properties"]["outputs"], rules.OUTPUT: output}
        self._store.patch(job["id"], outputs=outputs)

    def _fail(self, job: Resource, code: str, message: str, cancel: threading.Event) -> None:
        if cancel.is_set():  # what falls over while it is being stopped was stopped
            self._end(job, "Canceled")
            return
        with self._store.transaction():
            error = {"code": code, "message": message}
            self._store.put(_error_id(job["id"]), "job-error", error)
            self._end(job, "Failed")

    def _end(self, job: Resource, status: str) -> None:
        if not self._stopping.is_set():
            self._store.patch(job["id"], status=status)


_THREAD = "job:"


def _error_id(job_id: str) -> str:
    return f"/errors{job_id}"
