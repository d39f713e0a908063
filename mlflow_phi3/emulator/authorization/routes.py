"""Requests about roles: the resource manager's, and our own that overrules them."""

from mlflow_phi3.emulator.authorization.roles import ROLES
from mlflow_phi3.emulator.authorization.state import Permissions
from mlflow_phi3.emulator.router import WORKSPACE, Call, Reply, Route

_SUBSCRIPTION = "/subscriptions/{subscription}"
_GROUP = _SUBSCRIPTION + "/resourceGroups/{group}"


def routes(permissions: Permissions) -> list[Route]:
    """Return the routes."""

    def tell(call: Call) -> Reply:
        permissions.tell(call.body or [])
        return Reply(status=204)

    def granted(call: Call) -> Reply:
        return Reply({"value": permissions.granted(_scope(call))})

    def definitions(call: Call) -> Reply:
        return Reply({"value": [role.to_resource(call.id, name) for name, role in ROLES.items()]})

    def assignments(call: Call) -> Reply:
        return Reply({"value": permissions.assignments(_scope(call))})

    def assign(call: Call) -> Reply:
        return Reply(permissions.assign(call.id, call.properties), 201)

    def withdraw(call: Call) -> Reply:
        gone = permissions.withdraw(call.id)
        return Reply(status=204) if gone is None else Reply(gone)

    found = [Route("PUT", "/emulator/permissions", tell, open=True)]
    for scope in (_SUBSCRIPTION, _GROUP, WORKSPACE):
        base = f"{scope}/providers/Microsoft.Authorization"
        one = f"{base}/roleAssignments/{{name}}"
        found += [
            Route("GET", f"{base}/permissions", granted),
            Route("GET", f"{base}/roleDefinitions", definitions),
            Route("GET", f"{base}/roleAssignments", assignments),
            Route("PUT", one, assign),
            Route("DELETE", one, withdraw),
        ]
    return found


def _scope(call: Call) -> str:
    return call.id.rpartition("/providers/")[0]
