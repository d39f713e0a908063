"""Requests of the resource manager for online endpoints and deployments."""

from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.endpoints.state import Endpoints
from mlflow_phi3.emulator.operation import Operations
from mlflow_phi3.emulator.router import WORKSPACE, Call, Reply, Route

_ONE = WORKSPACE + "/onlineEndpoints/{endpoint}"
_DEPLOYMENTS = _ONE + "/deployments"


class EndpointRoutes:
    """Maps requests onto the state of endpoints.

    Args:
        endpoints: The state.
        operations: Tells pollers where to ask.
        assets: Knows the workspace and its region.
    """

    def __init__(self, endpoints: Endpoints, operations: Operations, assets: Assets) -> None:
        self._endpoints = endpoints
        self._operations = operations
        self._assets = assets

    def routes(self) -> list[Route]:
        """Return the routes of endpoints and deployments."""
        return [
            Route("PUT", _ONE, self._put_endpoint),
            Route("GET", _ONE, self._get_endpoint),
            Route("DELETE", _ONE, self._delete_endpoint),
            Route("GET", WORKSPACE + "/onlineEndpoints", self._list_endpoints),
            Route("POST", _ONE + "/listKeys", self._keys),
            Route("POST", _ONE + "/regenerateKeys", self._regenerate),
            Route("PUT", _DEPLOYMENTS + "/{deployment}", self._put_deployment),
            Route("GET", _DEPLOYMENTS + "/{deployment}", self._get_deployment),
            Route("DELETE", _DEPLOYMENTS + "/{deployment}", self._delete_deployment),
            Route("GET", _DEPLOYMENTS, self._list_deployments),
            Route("POST", _DEPLOYMENTS + "/{deployment}/getLogs", self._logs),
        ]

    def _put_endpoint(self, call: Call) -> Reply:
        workspace = self._assets.get_workspace(call.workspace_id)
        body, new, name = self._endpoints.put_endpoint(_endpoint_id(call), call.body or {})
        told = self._operations.headers(call, name, workspace["location"])
        return Reply(body, 201 if new else 200, {**told, "Location": f"{call.origin}{call.path}"})

    def _get_endpoint(self, call: Call) -> Reply:
        return Reply(self._endpoints.get_endpoint(_endpoint_id(call)))

    def _list_endpoints(self, call: Call) -> Reply:
        self._assets.get_workspace(call.workspace_id)
        return Reply({"value": self._endpoints.list_endpoints(call.workspace_id)})

    def _delete_endpoint(self, call: Call) -> Reply:
        return self._deleted(call, self._endpoints.delete_endpoint(_endpoint_id(call)))

    def _keys(self, call: Call) -> Reply:
        return Reply(self._endpoints.keys(_endpoint_id(call)))

    def _regenerate(self, call: Call) -> Reply:
        body = call.body or {}
        name = self._endpoints.regenerate_key(
            _endpoint_id(call), str(body.get("keyType")), body.get("keyValue")
        )
        return self._deleted(call, name)

    def _put_deployment(self, call: Call) -> Reply:
        workspace = self._assets.get_workspace(call.workspace_id)
        body, new, name = self._endpoints.put_deployment(_deployment_id(call), call.body or {})
        told = self._operations.headers(call, name, workspace["location"])
        return Reply(body, 201 if new else 200, {**told, "Location": f"{call.origin}{call.path}"})

    def _get_deployment(self, call: Call) -> Reply:
        return Reply(self._endpoints.get_deployment(_deployment_id(call)))

    def _list_deployments(self, call: Call) -> Reply:
        self._endpoints.get_endpoint(_endpoint_id(call))
        return Reply({"value": self._endpoints.list_deployments(_endpoint_id(call))})

    def _delete_deployment(self, call: Call) -> Reply:
        return self._deleted(call, self._endpoints.delete_deployment(_deployment_id(call)))

    def _logs(self, call: Call) -> Reply:
        lines = int((call.body or {}).get("tail") or 100)
        return Reply({"content": self._endpoints.logs(_deployment_id(call), lines)})

    def _deleted(self, call: Call, operation: str | None) -> Reply:
        if operation is None:
            return Reply(status=204)
        location = self._assets.get_workspace(call.workspace_id)["location"]
        return Reply(
            status=202, headers=self._operations.headers(call, operation, location, deletion=True)
        )


def _endpoint_id(call: Call) -> str:
    return f"{call.workspace_id}/onlineEndpoints/{call.names['endpoint']}"


def _deployment_id(call: Call) -> str:
    return f"{_endpoint_id(call)}/deployments/{call.names['deployment']}"
