"""Requests of the resource manager for serverless endpoints."""

from mlflow_phi3.emulator.arm import show, show_all
from mlflow_phi3.emulator.operation import Operations
from mlflow_phi3.emulator.router import WORKSPACE, Call, Reply, Route
from mlflow_phi3.emulator.serverless.state import KIND, Serverless
from mlflow_phi3.emulator.store import Store

_ALL = WORKSPACE + "/serverlessEndpoints"
_ONE = _ALL + "/{endpoint}"


def routes(serverless: Serverless, store: Store, operations: Operations) -> list[Route]:
    """Return the routes of serverless endpoints.

    Args:
        serverless: The state.
        store: Where it is kept.
        operations: Tells pollers where to ask.
    """

    def put(call: Call) -> Reply:
        return operations.begun(call, *serverless.put(call.id, call.body))

    def delete(call: Call) -> Reply:
        return operations.accepted(call, serverless.delete(call.id))

    return [
        Route("PUT", _ONE, put),
        Route("GET", _ONE, show(store)),
        Route("GET", _ALL, show_all(store, KIND)),
        Route("DELETE", _ONE, delete),
        Route("POST", _ONE + "/listKeys", lambda call: Reply(serverless.keys(call.id))),
    ]
