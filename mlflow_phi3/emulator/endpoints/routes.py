"""Requests of the resource manager for online endpoints and deployments."""

from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.endpoints.state import Endpoints
from mlflow_phi3.emulator.operation import Operations
from mlflow_phi3.emulator.router import WORKSPACE, Call, Reply, Route

_ALL = WORKSPACE + "/onlineEndpoints"
_ONE = _ALL + "/{endpoint}"


def routes(endpoints: Endpoints, operations: Operations, assets: Assets) -> list[Route]:
    """Return the routes of endpoints and deployments.

    Args:
        endpoints: The state.
        operations: Tells pollers where to ask.
        assets: Knows the workspace.
    """

    def put(call: Call) -> Reply:
        assets.get_workspace(call.workspace_id)
        changed = endpoints.put_endpoint(_endpoint_id(call), call.body or {})
        return operations.begun(call, *changed, located=True)

    def get(call: Call) -> Reply:
        return Reply(endpoints.get_endpoint(_endpoint_id(call)))

    def every(call: Call) -> Reply:
        assets.get_workspace(call.workspace_id)
        return Reply({"value": endpoints.list_endpoints(call.workspace_id)})

    def delete(call: Call) -> Reply:
        return operations.accepted(call, endpoints.delete_endpoint(_endpoint_id(call)))

    def keys(call: Call) -> Reply:
        return Reply(endpoints.keys(_endpoint_id(call)))

    def regenerate(call: Call) -> Reply:
        body = call.body or {}
        which, value = str(body.get("keyType")), body.get("keyValue")
        begun = endpoints.regenerate_key(_endpoint_id(call), which, value)
        return operations.accepted(call, begun)

    return [
        Route("PUT", _ONE, put),
        Route("GET", _ONE, get),
        Route("DELETE", _ONE, delete),
        Route("GET", _ALL, every),
        Route("POST", _ONE + "/listKeys", keys),
        Route("POST", _ONE + "/regenerateKeys", regenerate),
        *_deployments(endpoints, operations, assets),
    ]


def _deployments(endpoints: Endpoints, operations: Operations, assets: Assets) -> list[Route]:
    def put(call: Call) -> Reply:
        assets.get_workspace(call.workspace_id)
        changed = endpoints.put_deployment(_deployment_id(call), call.body or {})
        return operations.begun(call, *changed, located=True)

    def get(call: Call) -> Reply:
        return Reply(endpoints.get_deployment(_deployment_id(call)))

    def every(call: Call) -> Reply:
        endpoints.get_endpoint(_endpoint_id(call))
        return Reply({"value": endpoints.list_deployments(_endpoint_id(call))})

    def delete(call: Call) -> Reply:
        return operations.accepted(call, endpoints.delete_deployment(_deployment_id(call)))

    def logs(call: Call) -> Reply:
        lines = int((call.body or {}).get("tail") or 100)
        return Reply({"content": endpoints.logs(_deployment_id(call), lines)})

    one = _ONE + "/deployments/{deployment}"
    return [
        Route("PUT", one, put),
        Route("GET", one, get),
        Route("DELETE", one, delete),
        Route("GET", _ONE + "/deployments", every),
        Route("POST", one + "/getLogs", logs),
    ]


def _endpoint_id(call: Call) -> str:
    return f"{call.workspace_id}/onlineEndpoints/{call.names['endpoint']}"


def _deployment_id(call: Call) -> str:
    return f"{_endpoint_id(call)}/deployments/{call.names['deployment']}"
