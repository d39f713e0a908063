"""Requests about roles: the resource manager's, and our own that overrules them."""

from mlflow_phi3.emulator.authorization.roles import ROLES
from mlflow_phi3.emulator.authorization.state import Permissions
from mlflow_phi3.emulator.router import WORKSPACE, Call, Reply, Route

_SUBSCRIPTION = "/subscriptions/{subscription}"
_GROUP = _SUBSCRIPTION + "/resourceGroups/{group}"
_AUTHORIZATION = "/providers/Microsoft.Authorization"


def routes(permissions: Permissions) -> list[Route]:
    """Return the routes."""

    def tell(call: Call) -> Reply:
        permissions.tell(call.body or [])
        return Reply(status=204)

    found = [Route("PUT", "/emulator/permissions", tell, open=True)]
    for scope in (_SUBSCRIPTION, _GROUP, WORKSPACE):
        found += _on(permissions, scope)
    return found


def _on(permissions: Permissions, template: str) -> list[Route]:
    def scope(call: Call) -> str:
        return template.format(**call.names)

    def one(call: Call) -> str:
        return f"{scope(call)}{_AUTHORIZATION}/roleAssignments/{call.names['name']}"

    def told(call: Call) -> Reply:
        return Reply({"value": permissions.granted(scope(call))})

    def definitions(call: Call) -> Reply:
        place = f"{scope(call)}{_AUTHORIZATION}/roleDefinitions"
        return Reply(
            {
                "value": [
                    {
                        "id": f"{place}/{name}",
                        "name": name,
                        "type": "Microsoft.Authorization/roleDefinitions",
                        "properties": {
                            "roleName": role.name,
                            "type": "BuiltInRole",
                            "assignableScopes": ["/"],
                            "permissions": [role.permission],
                        },
                    }
                    for name, role in ROLES.items()
                ]
            }
        )

    def assign(call: Call) -> Reply:
        return Reply(permissions.assign(one(call), (call.body or {}).get("properties") or {}), 201)

    def get(call: Call) -> Reply:
        return Reply(permissions.get(one(call)))

    def withdraw(call: Call) -> Reply:
        gone = permissions.withdraw(one(call))
        return Reply(status=204) if gone is None else Reply(gone)

    def assignments(call: Call) -> Reply:
        return Reply({"value": permissions.assignments(scope(call))})

    base = template + _AUTHORIZATION
    return [
        Route("GET", f"{base}/permissions", told),
        Route("GET", f"{base}/roleDefinitions", definitions),
        Route("GET", f"{base}/roleAssignments", assignments),
        Route("PUT", f"{base}/roleAssignments/{{name}}", assign),
        Route("GET", f"{base}/roleAssignments/{{name}}", get),
        Route("DELETE", f"{base}/roleAssignments/{{name}}", withdraw),
    ]
