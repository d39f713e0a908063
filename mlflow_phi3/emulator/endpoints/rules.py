"""What the service refuses; pure functions of values."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlflow_phi3.emulator.endpoints.skus import CORES, QUOTA_CORES
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Resource

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")
_MOST_MIRRORED = 50
_BUSY = frozenset({"Creating", "Updating", "Deleting", "Scaling"})


def check_name(name: str, what: str) -> None:
    """Refuse a name that is not 3 to 32 letters, digits and dashes, beginning with a letter."""
    if not _NAME.fullmatch(name):
        text = (
            f"{what} name '{name}' must be 3-32 characters of letters, digits and '-', "
            "begin with a letter and end with a letter or digit."
        )
        raise bad(text)


def check_free(endpoint_id: str, endpoints: Iterable[Resource]) -> None:
    """Refuse the name of an endpoint that another project has.

    Azure wants it unique in a region; here all regions are called at one address.

    Args:
        endpoint_id: Which is to be created or changed.
        endpoints: All there are of its kind.
    """
    name = endpoint_id.rsplit("/", 1)[1].lower()
    for other in endpoints:
        if other["name"].lower() == name and other["id"].lower() != endpoint_id.lower():
            text = (
                "There is already an endpoint with this name, Endpoint name needs to be unique "
                "within a region. Try some other name."
            )
            raise Refusal(400, "BadRequest", text)


def check_idle(resource: Resource) -> None:
    """Refuse to change what is being changed."""
    state = resource["properties"].get("provisioningState")
    if state in _BUSY:
        text = f"{resource['name']} is in state {state}: another operation is in progress."
        raise Refusal(409, "ResourceOperationInProgress", text)


def check_endpoint(
    body: Mapping[str, Any], known: Resource | None, deployments: Sequence[Resource]
) -> None:
    """Refuse an endpoint that cannot be, or that is to become what it cannot become.

    Args:
        body: What is sent.
        known: What is there, or None.
        deployments: Its deployments.
    """
    sent = body.get("properties") or {}
    if not body.get("location"):
        raise bad("location is required.")
    if sent.get("authMode") not in {"Key", "AMLToken", "AADToken"}:
        raise bad("authMode must be Key, AMLToken or AADToken.")
    if (sent.get("publicNetworkAccess") or "Enabled") not in {"Enabled", "Disabled"}:
        raise bad("publicNetworkAccess must be Enabled or Disabled.")
    if known is not None:
        if known["properties"]["authMode"] != sent["authMode"]:
            raise bad("authMode of an endpoint cannot be changed.")
        if known["identity"]["type"] != identity(body)["type"]:
            raise bad("The identity of an endpoint cannot be changed.")
    traffic = sent.get("traffic") or {}
    check_traffic(traffic, deployments)
    check_mirror(sent.get("mirrorTraffic") or {}, traffic, deployments)


def identity(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity that a body asks for: one of the service's own where it does not."""
    sent = {name: value for name, value in (body.get("identity") or {}).items() if value}
    return {"type": "SystemAssigned", **sent}


def check_traffic(traffic: Mapping[str, Any], deployments: Iterable[Resource]) -> None:
    """Refuse traffic that is not whole, does not add up to 0 or 100, or goes nowhere."""
    states = {d["name"].lower(): d["properties"]["provisioningState"] for d in deployments}
    for name, share in traffic.items():
        if not _is_share(share, most=100):
            raise bad(f"Traffic of {name} must be a whole number from 0 to 100, not {share!r}.")
        if name.lower() not in states:
            raise bad(f"Traffic is set for deployment {name}, which does not exist.")
        if share and states[name.lower()] == "Failed":
            raise bad(f"Traffic is set for deployment {name}, which is in state Failed.")
    if sum(traffic.values()) not in {0, 100}:
        raise bad(f"Traffic percentages must add up to 0 or 100, not {sum(traffic.values())}.")


def check_mirror(
    mirror: Mapping[str, Any], traffic: Mapping[str, Any], deployments: Iterable[Resource]
) -> None:
    """Refuse copies of requests for more than one deployment, for none, or for one with traffic.

    Source: "Perform safe rollout of new deployments: test the deployment with mirrored traffic".
    """
    wanted = {name: share for name, share in mirror.items() if share}
    names = {deployment["name"].lower() for deployment in deployments}
    live = {name.lower() for name, share in traffic.items() if share}
    if len(wanted) > 1:
        raise bad("Traffic can be mirrored to only one deployment.")
    for name, share in wanted.items():
        if not _is_share(share, most=_MOST_MIRRORED):
            raise bad(f"Mirror traffic of {name} must be 0 to {_MOST_MIRRORED}, not {share!r}.")
        if name.lower() not in names:
            raise bad(f"Mirror traffic is set for deployment {name}, which does not exist.")
        if name.lower() in live:
            raise bad(f"Deployment {name} can get live traffic or mirrored traffic, not both.")


def check_deployment(body: Mapping[str, Any]) -> None:
    """Refuse a deployment without the fields that the service needs, or with an unknown machine."""
    properties = body.get("properties") or {}
    if properties.get("endpointComputeType") != "Managed":
        raise bad("endpointComputeType must be Managed.")
    if properties.get("instanceType") not in CORES:
        known = ", ".join(sorted(CORES))
        raise bad(f"The VM size {properties.get('instanceType')} is not supported; known: {known}.")
    if not properties.get("model"):
        raise bad("A deployment without a custom environment needs a model.")
    if capacity(body) < 1:
        raise bad("Instance count (sku.capacity) must be at least 1.")


def check_quota(body: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> None:
    """Refuse more cores than the subscription has, over all deployments."""
    wanted, used = _cores(body), sum(_cores(other) for other in others)
    if used + wanted > QUOTA_CORES:
        text = (
            f"Not enough quota available for {body['properties']['instanceType']}: "
            f"{wanted} cores wanted, {QUOTA_CORES - used} of {QUOTA_CORES} left."
        )
        raise Refusal(400, "OutOfQuota", text)


def capacity(body: Mapping[str, Any]) -> int:
    """Return the instance count of a deployment's body."""
    return int((body.get("sku") or {}).get("capacity") or 1)


def bad(message: str) -> Refusal:
    """Return a 400."""
    return Refusal(400, "BadArgument", message)


def _is_share(share: Any, *, most: int) -> bool:
    return isinstance(share, int) and not isinstance(share, bool) and 0 <= share <= most


def _cores(body: Mapping[str, Any]) -> int:
    return CORES[body["properties"]["instanceType"]] * capacity(body)
