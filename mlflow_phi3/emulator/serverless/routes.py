"""Requests of the resource manager for serverless endpoints."""

from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.operation import Operations
from mlflow_phi3.emulator.router import WORKSPACE, Call, Reply, Route
from mlflow_phi3.emulator.serverless.state import Serverless

_ALL = WORKSPACE + "/serverlessEndpoints"


def routes(serverless: Serverless, operations: Operations, assets: Assets) -> list[Route]:
    """Return the routes of serverless endpoints."""

    def put(call: Call) -> Reply:
        workspace = assets.get_workspace(call.workspace_id)
        changed = serverless.put(_id(call), workspace, call.body or {})
        return operations.begun(call, *changed)

    def get(call: Call) -> Reply:
        return Reply(serverless.get(_id(call)))

    def every(call: Call) -> Reply:
        assets.get_workspace(call.workspace_id)
        return Reply({"value": serverless.beneath(call.workspace_id)})

    def keys(call: Call) -> Reply:
        return Reply(serverless.keys(_id(call)))

    def delete(call: Call) -> Reply:
        return operations.accepted(call, serverless.delete(_id(call)))

    one = _ALL + "/{endpoint}"
    return [
        Route("PUT", one, put),
        Route("GET", one, get),
        Route("GET", _ALL, every),
        Route("DELETE", one, delete),
        Route("POST", one + "/listKeys", keys),
    ]


def _id(call: Call) -> str:
    return f"{call.workspace_id}/serverlessEndpoints/{call.names['endpoint']}"
