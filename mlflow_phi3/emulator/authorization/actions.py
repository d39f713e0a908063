"""What a request does, in the words of Azure's roles."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_VERBS = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}
_MANAGED = re.compile(r"/subscriptions/[^/]+(?P<below>/.+)", re.IGNORECASE)
_RUNS = re.compile(r"/(history|mlflow)/v\d", re.IGNORECASE)
_RUN_ACTION = "Microsoft.MachineLearningServices/workspaces/experiments/runs"
_CREATED = {
    "storageAccountOption": ("Microsoft.Storage/storageAccounts/write",),
    "keyVaultOption": ("Microsoft.KeyVault/vaults/write",),
    "applicationInsightsOption": (
        "Microsoft.Insights/components/write",
        "Microsoft.OperationalInsights/workspaces/write",
    ),
}
"""By parameter of the SDK's template for hubs: what it creates where that is ``new``."""
_FREE = re.compile(r"/mfeOperation(sStatus|Results)/", re.IGNORECASE)
"""Whoever may begin an operation may ask how it stands."""


def needed_actions(method: str, path: str, body: Any = None) -> tuple[str, ...]:
    """Return the actions that a request needs; none where no role is asked for.

    The resource manager's rule: the provider's namespace and the types of the path without their
    names, then ``read``, ``write``, ``delete``, or the word that is posted and ``action``. What a
    template creates has to be allowed one by one.

    Args:
        method: Upper case.
        path: Of the request.
        body: Of the request, parsed.

    Source: "Azure resource provider operations"; for jobs' metrics "Configure MLflow for Azure
    Machine Learning: authorization" (experiments/* of the workspace).
    """
    if _RUNS.match(path):
        return (f"{_RUN_ACTION}/{_VERBS.get(method, 'write')}",)
    managed = _MANAGED.fullmatch(path.rstrip("/"))
    if managed is None or _FREE.search(path):
        return ()
    action = _action(method, managed["below"])
    if action == "Microsoft.Resources/deployments/write":
        return (action, *_created_by(body))
    return (action,)


def scope_of(path: str, method: str) -> str:
    """Return the resource that a request is about: its path, without the word that is posted.

    What stands before the subscription is the service's own.
    """
    begin = path.lower().find("/subscriptions/")
    resource = path[max(begin, 0) :]
    return resource.rsplit("/", 1)[0] if method == "POST" else resource


def matches(pattern: str, action: str) -> bool:
    """Tell whether a role's pattern stands for an action; ``*`` is any text.

    ``workspaces/*/write`` stands for ``workspaces/write`` too: that is why the built-in roles that
    grant the one (Azure AI Developer) take the other back by their ``notActions``.
    """
    parts = [re.escape(part) for part in pattern.lower().split("*")]
    expression = ".*".join(parts).replace("/.*/", "/(.*/)?")
    return re.fullmatch(expression, action.lower()) is not None


def is_granted(granted: Iterable[Mapping[str, Any]], action: str) -> bool:
    """Tell whether any of someone's permissions grants an action and does not take it back."""

    def found(patterns: Iterable[str]) -> bool:
        return any(matches(pattern, action) for pattern in patterns)

    return any(found(one["actions"]) and not found(one["notActions"]) for one in granted)


def _action(method: str, below: str) -> str:
    _, *named = re.split(r"/providers/", below, flags=re.IGNORECASE)
    if not named:  # the subscription's own: /resourceGroups/{name}
        return _compose(method, "Microsoft.Resources/subscriptions", below.strip("/").split("/"))
    namespace, *words = named[-1].split("/")
    if not words:
        return _compose(method, "Microsoft.Resources/subscriptions/providers", [])
    if method == "POST" and len(words) == 1:  # /providers/{namespace}/register
        return f"{namespace}/{words[0]}/action"
    return _compose(method, namespace, words)


def _compose(method: str, start: str, words: list[str]) -> str:
    """Leave names out: types and names take turns."""
    types = "/".join([start, *words[::2]])
    return f"{types}/{'action' if method == 'POST' else _VERBS[method]}"


def _created_by(body: Any) -> list[str]:
    properties = (body or {}).get("properties") or {}
    found = ["Microsoft.MachineLearningServices/workspaces/write"]
    for name, one in (properties.get("parameters") or {}).items():
        if one.get("value") == "new":
            found += _CREATED.get(name, ())
    return found
