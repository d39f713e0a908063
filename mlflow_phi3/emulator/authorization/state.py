"""Role assignments, and what they let the emulator's application do; knows no HTTP."""

from collections.abc import Mapping
from typing import Any

from mlflow_phi3.emulator.arm import envelope
from mlflow_phi3.emulator.authorization.actions import is_granted
from mlflow_phi3.emulator.authorization.roles import OWNER, ROLES, Role
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Resource, Store

_KIND = "roleAssignment"
_TOLD = "/emulator/permissions"
_NONE: Resource = {"actions": [], "notActions": [], "dataActions": [], "notDataActions": []}


class Permissions:
    """Of one application, which owns the subscription at first.

    Args:
        store: Where assignments are kept.
        principal: Object id of the application.
        subscription: Path of the subscription.
    """

    def __init__(self, store: Store, principal: str, subscription: str) -> None:
        self._store = store
        self._principal = principal
        if not store.of_kind(_KIND):
            role = f"{subscription}/providers/Microsoft.Authorization/roleDefinitions/{OWNER}"
            first = f"{subscription}/providers/Microsoft.Authorization/roleAssignments/{OWNER}"
            self.assign(first, {"roleDefinitionId": role, "principalId": principal})

    def granted(self, scope: str) -> list[Resource]:
        """Return what the application may do on a resource: by its roles, unless told otherwise."""
        told = self._store.get(_TOLD)
        if told is not None:
            return list(told["value"])
        own = [a["properties"] for a in self._store.of_kind(_KIND)]
        return [
            _role_of(one).permission
            for one in own
            if one["principalId"] == self._principal and _covers(one["scope"], scope)
        ]

    def tell(self, value: list[Resource]) -> None:
        """Say what it may do everywhere, whatever its roles; nothing said gives them back."""
        if value:
            self._store.put(_TOLD, "permissions", {"value": [{**_NONE, **one} for one in value]})
        else:
            self._store.delete(_TOLD)

    def check(self, action: str, scope: str) -> None:
        """Let an action on a resource pass.

        Raises:
            Refusal: 403, with the resource manager's own words.
        """
        if not is_granted(self.granted(scope), action):
            text = (
                f"The client '{self._principal}' with object id '{self._principal}' does not have "
                f"authorization to perform action '{action}' over scope '{scope}' or the scope is "
                "invalid. If access was recently granted, please refresh your credentials."
            )
            raise Refusal(403, "AuthorizationFailed", text)

    def assign(self, assignment_id: str, properties: Mapping[str, Any]) -> Resource:
        """Give someone a role on what the assignment's id begins with.

        Raises:
            Refusal: No such role, nobody named, or the same assignment under another name.
        """
        scope = assignment_id.split("/providers/Microsoft.Authorization", maxsplit=1)[0]
        made = {**properties, "scope": scope}
        if not made.get("principalId"):
            raise Refusal(400, "InvalidPrincipalId", "A role assignment needs a principalId.")
        role = _role_of(made)
        for other in self._store.of_kind(_KIND):
            known = other["properties"]
            same = [known[name] == made[name] for name in ("principalId", "scope")]
            if all(same) and _role_of(known) is role and other["id"] != assignment_id:
                raise Refusal(409, "RoleAssignmentExists", "The role assignment already exists.")
        body = envelope(assignment_id, made)
        self._store.put(assignment_id, _KIND, body)
        return body

    def withdraw(self, assignment_id: str) -> Resource | None:
        """Take an assignment back and return it; None when there was none."""
        found = self._store.get(assignment_id)
        self._store.delete(assignment_id)
        return found

    def assignments(self, scope: str) -> list[Resource]:
        """Return the assignments that hold on a resource, and those beneath it."""
        return [
            one
            for one in self._store.of_kind(_KIND)
            if _covers(one["properties"]["scope"], scope)
            or _covers(scope, one["properties"]["scope"])
        ]


def _covers(scope: str, resource: str) -> bool:
    return f"{resource}/".lower().startswith(f"{scope}/".lower())


def _role_of(properties: Mapping[str, Any]) -> Role:
    role_id = str(properties.get("roleDefinitionId") or "")
    role = ROLES.get(role_id.rsplit("/", 1)[-1].lower())
    if role is None:
        text = f"The specified role definition with ID '{role_id}' does not exist."
        raise Refusal(400, "RoleDefinitionDoesNotExist", text)
    return role
