"""Requests of the resource manager for online endpoints and deployments."""

from mlflow_phi3.emulator.arm import show, show_all
from mlflow_phi3.emulator.endpoints.state import Endpoints
from mlflow_phi3.emulator.operation import Operations
from mlflow_phi3.emulator.router import WORKSPACE, Call, Reply, Route
from mlflow_phi3.emulator.store import Store

_ENDPOINTS = WORKSPACE + "/onlineEndpoints"
_ENDPOINT = _ENDPOINTS + "/{endpoint}"
_DEPLOYMENTS = _ENDPOINT + "/deployments"
_DEPLOYMENT = _DEPLOYMENTS + "/{deployment}"


def routes(endpoints: Endpoints, store: Store, operations: Operations) -> list[Route]:
    """Return the routes of endpoints and deployments.

    Args:
        endpoints: The state.
        store: Where it is kept.
        operations: Tells pollers where to ask.
    """

    def put(call: Call) -> Reply:
        return operations.begun(call, *endpoints.put_endpoint(call.id, call.body))

    def delete(call: Call) -> Reply:
        return operations.accepted(call, endpoints.delete_endpoint(call.id))

    def regenerate(call: Call) -> Reply:
        which, value = str(call.body.get("keyType")), call.body.get("keyValue")
        return operations.accepted(call, endpoints.regenerate_key(call.id, which, value))

    def put_deployment(call: Call) -> Reply:
        return operations.begun(call, *endpoints.put_deployment(call.id, call.body))

    def delete_deployment(call: Call) -> Reply:
        return operations.accepted(call, endpoints.delete_deployment(call.id))

    def logs(call: Call) -> Reply:
        return Reply({"content": endpoints.logs(call.id, int(call.body.get("tail") or 100))})

    return [
        Route("PUT", _ENDPOINT, put),
        Route("GET", _ENDPOINT, show(store)),
        Route("DELETE", _ENDPOINT, delete),
        Route("GET", _ENDPOINTS, show_all(store, "endpoint")),
        Route("POST", _ENDPOINT + "/listKeys", lambda call: Reply(endpoints.keys(call.id))),
        Route("POST", _ENDPOINT + "/regenerateKeys", regenerate),
        Route("PUT", _DEPLOYMENT, put_deployment),
        Route("GET", _DEPLOYMENT, show(store)),
        Route("DELETE", _DEPLOYMENT, delete_deployment),
        Route("GET", _DEPLOYMENTS, show_all(store, "deployment")),
        Route("POST", _DEPLOYMENT + "/getLogs", logs),
    ]
