"""Requests about resource groups, deployments, accounts and connections."""

from mlflow_phi3.emulator.arm import show, show_all
from mlflow_phi3.emulator.resources.state import CONNECTION, NO_GROUP, Resources
from mlflow_phi3.emulator.router import WORKSPACE, Call, Reply, Route
from mlflow_phi3.emulator.store import Store

_GROUP = "/subscriptions/{subscription}/resourceGroups/{group}"
_DEPLOYMENT = _GROUP + "/providers/Microsoft.Resources/deployments/{deployment}"
_ACCOUNT = _GROUP + "/providers/Microsoft.CognitiveServices/accounts/{account}"
_CONNECTIONS = WORKSPACE + "/connections"
_CONNECTION = _CONNECTIONS + "/{connection}"


def routes(resources: Resources, store: Store) -> list[Route]:
    """Return the routes.

    Args:
        resources: The state.
        store: Where it is kept.
    """
    no_deployment = ("DeploymentNotFound", "Deployment '{name}' could not be found.")
    no_connection = ("UserError", "Connection {name} was not found.")

    def put_group(call: Call) -> Reply:
        location = str(call.body.get("location") or "")
        return Reply.to_put(*resources.put_group(call.id, location))

    def operations(call: Call) -> Reply:
        store.need(_DEPLOYMENT.format(**call.names), *no_deployment)
        return Reply({"value": []})

    return [
        Route("PUT", _GROUP, put_group),
        Route("GET", _GROUP, show(store, *NO_GROUP)),
        Route("PUT", _DEPLOYMENT, lambda c: Reply(resources.deploy(c.id, c.properties), 201)),
        Route("GET", _DEPLOYMENT, show(store, *no_deployment)),
        # The SDK asks without the provider.
        Route("GET", _GROUP + "/deployments/{deployment}/operations", operations),
        Route("PUT", _ACCOUNT, lambda c: Reply.to_put(*resources.put_account(c.id, c.body))),
        Route("GET", _ACCOUNT, show(store)),
        Route("PUT", _CONNECTION, lambda c: Reply(resources.put_connection(c.id, c.properties))),
        Route("GET", _CONNECTION, show(store, *no_connection)),
        Route("GET", _CONNECTIONS, show_all(store, CONNECTION)),
    ]
