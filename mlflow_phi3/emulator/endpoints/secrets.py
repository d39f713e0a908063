"""References to connections in a deployment's environment variables, and what they stand for.

Source: "Access secrets from online deployment using secret injection": a value such as
``${{azureml://connections/<name>/credentials/<key>}}`` is replaced as the container starts, when
the endpoint was created with ``enforce_access_to_default_secret_stores``.
"""

import re
from collections.abc import Callable, Mapping

from mlflow_phi3.emulator.operation import OperationFailed
from mlflow_phi3.emulator.store import Resource

ENFORCED = "enforce_access_to_default_secret_stores"
_REFERENCE = re.compile(
    r"\$\{\{azureml://connections/(?P<name>[^/}]+)/(?P<part>target|credentials|metadata)"
    r"(?:/(?P<key>[^/}]+))?\}\}"
)


def inject(
    variables: Mapping[str, str],
    endpoint: Resource,
    find: Callable[[str], Mapping[str, object] | None],
) -> dict[str, str]:
    """Return environment variables with what their references stand for.

    Args:
        variables: As the deployment has them.
        endpoint: Whose identity reads the connections.
        find: Returns a connection's properties with its credentials, or None.

    Raises:
        OperationFailed: The endpoint may not read them, or there is no such thing.
    """
    found = dict(variables)
    for name, value in variables.items():
        reference = _REFERENCE.fullmatch(value)
        if reference is None:
            continue
        allowed = (endpoint["properties"].get("properties") or {}).get(ENFORCED)
        if str(allowed).lower() != "enabled":
            text = f"The endpoint's identity may not read connections: it lacks {ENFORCED}."
            raise OperationFailed("BadArgument", text)
        found[name] = _resolve(find(reference["name"]) or {}, reference)
    return found


def _resolve(connection: Mapping[str, object], reference: re.Match[str]) -> str:
    value: object = connection.get(reference["part"])
    if reference["key"] is not None:
        value = value.get(reference["key"]) if isinstance(value, Mapping) else None
    if not isinstance(value, str):
        raise OperationFailed("BadArgument", f"There is no secret at {reference.group()}.")
    return value
