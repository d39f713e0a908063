"""Requests about resource groups, deployments, accounts and connections."""

from mlflow_phi3.emulator.resources.state import Resources
from mlflow_phi3.emulator.router import WORKSPACE, Call, Reply, Route

_GROUP = "/subscriptions/{subscription}/resourceGroups/{group}"
_DEPLOYMENT = _GROUP + "/providers/Microsoft.Resources/deployments/{deployment}"
_ACCOUNT = _GROUP + "/providers/Microsoft.CognitiveServices/accounts/{account}"
_CONNECTION = WORKSPACE + "/connections/{connection}"


def routes(resources: Resources) -> list[Route]:
    """Return the routes."""

    def put_group(call: Call) -> Reply:
        location = str((call.body or {}).get("location") or "")
        body, new = resources.put_group(_GROUP.format(**call.names), location)
        return Reply(body, 201 if new else 200)

    def get_group(call: Call) -> Reply:
        return Reply(resources.get_group(_GROUP.format(**call.names)))

    def deploy(call: Call) -> Reply:
        properties = (call.body or {}).get("properties") or {}
        group = _GROUP.format(**call.names)
        return Reply(resources.deploy(group, call.names["deployment"], properties), 201)

    def get_deployment(call: Call) -> Reply:
        return Reply(resources.get_deployment(_DEPLOYMENT.format(**call.names)))

    def operations(call: Call) -> Reply:
        resources.get_deployment(_DEPLOYMENT.format(**call.names))
        return Reply({"value": []})

    def put_account(call: Call) -> Reply:
        body, new = resources.put_account(_ACCOUNT.format(**call.names), call.body or {})
        return Reply(body, 201 if new else 200)

    def get_account(call: Call) -> Reply:
        return Reply(resources.get_account(_ACCOUNT.format(**call.names)))

    return [
        Route("PUT", _GROUP, put_group),
        Route("GET", _GROUP, get_group),
        Route("PUT", _DEPLOYMENT, deploy),
        Route("GET", _DEPLOYMENT, get_deployment),
        Route("GET", _DEPLOYMENT + "/operations", operations),
        Route("GET", _GROUP + "/deployments/{deployment}/operations", operations),  # the SDK's way
        Route("PUT", _ACCOUNT, put_account),
        Route("GET", _ACCOUNT, get_account),
        *_connections(resources),
    ]


def _connections(resources: Resources) -> list[Route]:
    def put_connection(call: Call) -> Reply:
        properties = (call.body or {}).get("properties") or {}
        name = call.names["connection"]
        return Reply(resources.put_connection(call.workspace_id, name, properties))

    def get_connection(call: Call) -> Reply:
        return Reply(resources.get_connection(call.workspace_id, call.names["connection"]))

    def connections(call: Call) -> Reply:
        return Reply({"value": resources.list_connections(call.workspace_id)})

    return [
        Route("PUT", _CONNECTION, put_connection),
        Route("GET", _CONNECTION, get_connection),
        Route("GET", WORKSPACE + "/connections", connections),
    ]
