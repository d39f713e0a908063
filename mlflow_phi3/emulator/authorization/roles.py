"""Azure's built-in roles that a project of Foundry has to do with.

Source: "Azure built-in roles" (2026-02), by the ids that are the same in every tenant.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_phi3.emulator.store import Resource

_ML = "Microsoft.MachineLearningServices/workspaces"


@dataclass(frozen=True, slots=True)
class Role:
    """A role definition.

    Args:
        name: As people say it.
        actions: What it grants; ``*`` is any text.
        not_actions: What it takes back of that.
    """

    name: str
    actions: tuple[str, ...]
    not_actions: tuple[str, ...] = ()

    @property
    def permission(self) -> Resource:
        """As the service tells it."""
        return {
            "actions": [*self.actions],
            "notActions": [*self.not_actions],
            "dataActions": [],
            "notDataActions": [],
        }

    def to_resource(self, place: str, guid: str) -> Resource:
        """As the service lists it, under an id that is the same in every tenant."""
        return {
            "id": f"{place}/{guid}",
            "name": guid,
            "type": "Microsoft.Authorization/roleDefinitions",
            "properties": {
                "roleName": self.name,
                "type": "BuiltInRole",
                "assignableScopes": ["/"],
                "permissions": [self.permission],
            },
        }


OWNER = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
ROLES: Mapping[str, Role] = {
    OWNER: Role("Owner", ("*",)),
    "b24988ac-6180-42a0-ab88-20f7382dd24c": Role(
        "Contributor",
        ("*",),
        (
            "Microsoft.Authorization/*/Delete",
            "Microsoft.Authorization/*/Write",
            "Microsoft.Authorization/elevateAccess/Action",
        ),
    ),
    "acdd72a7-3385-48ef-bd42-f606fba81ae7": Role("Reader", ("*/read",)),
    "43d0d8ad-25c7-4714-9337-8ba259a9fe05": Role("Monitoring Reader", ("*/read",)),
    "64702f94-c441-49e6-a78b-ef80e0188fee": Role(
        "Azure AI Developer",
        (
            f"{_ML}/*/read",
            f"{_ML}/*/action",
            f"{_ML}/*/delete",
            f"{_ML}/*/write",
            "Microsoft.MachineLearningServices/locations/*/read",
            "Microsoft.Authorization/*/read",
            "Microsoft.Resources/deployments/*",
        ),
        (
            f"{_ML}/delete",
            f"{_ML}/write",
            f"{_ML}/listKeys/action",
            f"{_ML}/hubs/write",
            f"{_ML}/hubs/delete",
            f"{_ML}/featurestores/write",
            f"{_ML}/featurestores/delete",
        ),
    ),
}
