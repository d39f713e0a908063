"""Which of Azure's actions each of our steps needs, and whether someone may do them.

A role's name says little: the same role grants other actions next year, and custom roles have names
of their own. Source of the actions: the requests that each step sends (docs/deploy.md and the
emulator's journal), named as in "Azure permissions for AI + machine learning" (2026-02).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_ML = "Microsoft.MachineLearningServices/workspaces"

SEE = f"{_ML}/read"
"""To see the project, which every step needs: `doctor` asks for the project itself."""

STEPS: Mapping[str, tuple[str, ...]] = {
    "infra": (
        "Microsoft.Resources/subscriptions/resourceGroups/read",
        "Microsoft.Resources/subscriptions/resourceGroups/write",
        "Microsoft.Resources/deployments/read",
        "Microsoft.Resources/deployments/write",
        "Microsoft.Resources/subscriptions/resourceGroups/deployments/operations/read",
        "Microsoft.Storage/storageAccounts/write",
        "Microsoft.KeyVault/vaults/write",
        "Microsoft.CognitiveServices/accounts/read",
        "Microsoft.CognitiveServices/accounts/write",
        f"{_ML}/write",
        f"{_ML}/connections/read",
        f"{_ML}/connections/write",
    ),
    "train": (
        f"{_ML}/datastores/read",
        f"{_ML}/datastores/listsecrets/action",
        f"{_ML}/data/versions/read",
        f"{_ML}/data/versions/write",
        f"{_ML}/jobs/read",
        f"{_ML}/jobs/write",
        f"{_ML}/jobs/cancel/action",
        f"{_ML}/experiments/runs/read",
    ),
    "deploy": (
        f"{_ML}/datastores/read",
        f"{_ML}/datastores/listsecrets/action",
        f"{_ML}/models/versions/read",
        f"{_ML}/models/versions/write",
        f"{_ML}/onlineEndpoints/read",
        f"{_ML}/onlineEndpoints/write",
        f"{_ML}/onlineEndpoints/listkeys/action",
        f"{_ML}/onlineEndpoints/deployments/read",
        f"{_ML}/onlineEndpoints/deployments/write",
        f"{_ML}/serverlessEndpoints/read",
        f"{_ML}/serverlessEndpoints/write",
        f"{_ML}/serverlessEndpoints/listKeys/action",
        # A slot that is used again is emptied first, and what fails is taken back.
        f"{_ML}/onlineEndpoints/delete",
        f"{_ML}/onlineEndpoints/deployments/delete",
        f"{_ML}/serverlessEndpoints/delete",
    ),
    "monitor": (
        f"{_ML}/onlineEndpoints/read",
        f"{_ML}/onlineEndpoints/deployments/read",
        f"{_ML}/serverlessEndpoints/read",
        f"{_ML}/datastores/read",
        f"{_ML}/datastores/listsecrets/action",
        "Microsoft.Insights/metrics/read",
    ),
    "delete": (
        f"{_ML}/jobs/read",
        f"{_ML}/models/read",
        f"{_ML}/models/versions/read",
        f"{_ML}/onlineEndpoints/read",
        f"{_ML}/onlineEndpoints/deployments/read",
        f"{_ML}/serverlessEndpoints/read",
        f"{_ML}/jobs/delete",
        f"{_ML}/onlineEndpoints/delete",
        f"{_ML}/onlineEndpoints/deployments/delete",
        f"{_ML}/serverlessEndpoints/delete",
        f"{_ML}/models/versions/delete",
    ),
}
"""Actions by step, beside :data:`SEE`; the steps are the words of our command."""

REGISTER = "{namespace}/register/action"
"""What registering a resource provider needs."""


def missing_actions(granted: Sequence[Mapping[str, Any]], needed: Iterable[str]) -> tuple[str, ...]:
    """Return the needed actions that no permission grants.

    Args:
        granted: Permissions as Azure tells them: what any one of them grants (``actions`` less its
            own ``notActions``) may be done.
        needed: Names of actions; ``*`` in a permission stands for any text, and ``/*/`` for a
            single slash too: built-in roles that grant ``workspaces/*/write`` take
            ``workspaces/write`` back.

    Source: "Understand Azure role definitions": notActions is no denial, only not granted here.
    """
    return tuple(action for action in needed if not any(_grants(one, action) for one in granted))


def _grants(permission: Mapping[str, Any], action: str) -> bool:
    def matched(patterns: Iterable[str]) -> bool:
        return any(_matches(pattern, action) for pattern in patterns)

    return matched(permission.get("actions") or ()) and not matched(
        permission.get("notActions") or ()
    )


def _matches(pattern: str, action: str) -> bool:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    expression = expression.replace("/.*/", "/(.*/)?")
    return re.fullmatch(expression, action, re.IGNORECASE) is not None
