"""Requests about jobs: the resource manager's, run history's and MLflow's.

A project's MLflow server answers beneath ``/mlflow/v2.0`` (azureml-mlflow 1.62 asks there); a
job's name is its run id.
"""

from typing import Any

from mlflow_phi3.emulator.arm import show_all
from mlflow_phi3.emulator.finetuning.state import KIND, Jobs
from mlflow_phi3.emulator.router import WORKSPACE, Call, Refusal, Reply, Route
from mlflow_phi3.emulator.store import Resource, Store

_ALL = WORKSPACE + "/jobs"
_MLFLOW = "/mlflow/v2.0" + WORKSPACE + "/api/2.0/mlflow"
_STATUS = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}


def routes(jobs: Jobs, store: Store) -> list[Route]:
    """Return the routes of jobs.

    Args:
        jobs: The state.
        store: Where it is kept.
    """

    def cancel(call: Call) -> Reply:
        jobs.cancel(call.id)
        return Reply()

    def delete(call: Call) -> Reply:
        return Reply(status=200 if jobs.delete(call.id) else 204)

    def details(call: Call) -> Reply:
        job = jobs.get(f"{call.workspace_id}/jobs/{call.names['job']}")
        told: dict[str, Any] = {"runId": job["name"], "status": job["properties"]["status"]}
        error = jobs.error(job["id"])
        if error is not None:
            told["error"] = {"error": error}
        return Reply({**told, "logFiles": {}, "warnings": []})

    one = _ALL + "/{job}"
    return [
        Route("PUT", one, lambda call: Reply.to_put(*jobs.put(call.id, call.properties))),
        Route("GET", one, lambda call: Reply(jobs.get(call.id))),
        Route("GET", _ALL, show_all(store, KIND, newest_first=True)),
        Route("POST", one + "/cancel", cancel),
        Route("DELETE", one, delete),
        Route("GET", "/discovery/{workspace}", _discovery, open=True),
        Route("GET", "/history/v1.0" + WORKSPACE + "/runs/{job}/details", details),
        *_mlflow(jobs),
    ]


def _mlflow(jobs: Jobs) -> list[Route]:
    def asked(call: Call) -> Resource:
        name = call.query.get("run_id") or call.query.get("run_uuid") or ""
        if not name:
            raise Refusal(400, "INVALID_PARAMETER_VALUE", "Missing value for 'run_id'.")
        return jobs.get(f"{call.workspace_id}/jobs/{name}")

    def run(call: Call) -> Reply:
        job = asked(call)
        latest = {point["key"]: point for point in jobs.metrics(job["id"])}
        status = _STATUS.get(job["properties"]["status"], "RUNNING")
        info = {"run_id": job["name"], "run_uuid": job["name"], "status": status}
        data = {"metrics": list(latest.values()), "params": [], "tags": []}
        return Reply({"run": {"info": info, "data": data}})

    def history(call: Call) -> Reply:
        job, key = asked(call), call.query.get("metric_key", "")
        points = [point for point in jobs.metrics(job["id"]) if point["key"] == key]
        return Reply({"metrics": points})

    return [
        Route("GET", _MLFLOW + "/runs/get", run),
        Route("GET", _MLFLOW + "/metrics/get-history", history),
    ]


def _discovery(call: Call) -> Reply:
    names = ("api", "experimentation", "history", "catalog", "gallery", "studio")
    return Reply(dict.fromkeys(names, call.origin))
