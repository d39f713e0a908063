"""Requests about jobs: the resource manager's, run history's and MLflow's.

A project's MLflow server answers beneath ``/mlflow/v2.0`` (azureml-mlflow 1.62 asks there); a
job's name is its run id.
"""

from typing import Any

from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.finetuning.state import Jobs
from mlflow_phi3.emulator.router import WORKSPACE, Call, Refusal, Reply, Route

_ALL = WORKSPACE + "/jobs"
_MLFLOW = "/mlflow/v2.0" + WORKSPACE + "/api/2.0/mlflow"
_STATUS = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}


class JobRoutes:
    """The routes of jobs.

    Args:
        jobs: The state.
        assets: Knows the workspace.
    """

    def __init__(self, jobs: Jobs, assets: Assets) -> None:
        self._jobs = jobs
        self._assets = assets

    def routes(self) -> list[Route]:
        """Return them."""
        one = _ALL + "/{job}"
        return [
            Route("PUT", one, self._put),
            Route("GET", one, self._get),
            Route("GET", _ALL, self._list),
            Route("POST", one + "/cancel", self._cancel),
            Route("DELETE", one, self._delete),
            Route("GET", "/discovery/{workspace}", _discovery, open=True),
            Route("GET", "/history/v1.0" + WORKSPACE + "/runs/{job}/details", self._details),
            Route("GET", _MLFLOW + "/runs/get", self._run),
            Route("GET", _MLFLOW + "/metrics/get-history", self._history),
        ]

    def _put(self, call: Call) -> Reply:
        workspace = self._assets.get_workspace(call.workspace_id)
        body, new = self._jobs.put(_id(call), workspace, call.body or {})
        return Reply(body, 201 if new else 200)

    def _get(self, call: Call) -> Reply:
        return Reply(self._jobs.get(_id(call)))

    def _list(self, call: Call) -> Reply:
        self._assets.get_workspace(call.workspace_id)
        return Reply({"value": self._jobs.beneath(call.workspace_id)})

    def _cancel(self, call: Call) -> Reply:
        self._jobs.cancel(_id(call))
        return Reply(status=200)

    def _delete(self, call: Call) -> Reply:
        return Reply(status=200 if self._jobs.delete(_id(call)) else 204)

    def _details(self, call: Call) -> Reply:
        job = self._jobs.get(_id(call))
        told: dict[str, Any] = {"runId": job["name"], "status": job["properties"]["status"]}
        error = self._jobs.error(job["id"])
        if error is not None:
            told["error"] = {"error": error}
        return Reply({**told, "logFiles": {}, "warnings": []})

    def _run(self, call: Call) -> Reply:
        job = self._asked(call)
        latest = {point["key"]: point for point in self._jobs.metrics(job["id"])}
        status = _STATUS.get(job["properties"]["status"], "RUNNING")
        info = {"run_id": job["name"], "run_uuid": job["name"], "status": status}
        data = {"metrics": list(latest.values()), "params": [], "tags": []}
        return Reply({"run": {"info": info, "data": data}})

    def _history(self, call: Call) -> Reply:
        job, key = self._asked(call), call.query.get("metric_key", "")
        points = [p for p in self._jobs.metrics(job["id"]) if p["key"] == key]
        return Reply({"metrics": points})

    def _asked(self, call: Call) -> dict[str, Any]:
        name = call.query.get("run_id") or call.query.get("run_uuid") or ""
        if not name:
            raise Refusal(400, "INVALID_PARAMETER_VALUE", "Missing value for 'run_id'.")
        return self._jobs.get(f"{call.workspace_id}/jobs/{name}")


def _discovery(call: Call) -> Reply:
    names = ("api", "experimentation", "history", "catalog", "gallery", "studio")
    return Reply(dict.fromkeys(names, call.origin))


def _id(call: Call) -> str:
    return f"{call.workspace_id}/jobs/{call.names['job']}"
