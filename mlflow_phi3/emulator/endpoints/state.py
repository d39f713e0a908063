"""Online endpoints and deployments: states over time, keys, routing; knows no HTTP."""

import random
import re
from functools import partial
from typing import Any

from mlflow_phi3.emulator.arm import envelope
from mlflow_phi3.emulator.endpoints import rules
from mlflow_phi3.emulator.endpoints.fleet import Fleet
from mlflow_phi3.emulator.endpoints.keys import Keys
from mlflow_phi3.emulator.endpoints.secrets import inject
from mlflow_phi3.emulator.operation import Operations
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Resource, Store

_MODEL = re.compile(
    r"(?:azureml:/?)?(/?subscriptions/.+/models/[^/]+/versions/[^/]+)", re.IGNORECASE
)
_NOT_KEPT = frozenset({"keys", "provisioningState", "scoringUri", "swaggerUri"})
"""What may be sent of an endpoint's properties, and is not theirs to say or to read again."""


class Endpoints:
    """The state of all online endpoints.

    Args:
        store: Where resources are kept.
        operations: Runs what takes time.
        fleet: The scoring processes.
        base: The address under which endpoints are called.
    """

    def __init__(self, store: Store, operations: Operations, fleet: Fleet, *, base: str) -> None:
        self._store = store
        self._operations = operations
        self._fleet = fleet
        self._base = base
        self._keys = Keys(store)

    def resume(self) -> None:
        """After a restart: end what was half done as failed, start what was being served."""
        for kind in ("endpoint", "deployment"):
            for resource in self._store.of_kind(kind):
                if resource["properties"]["provisioningState"] not in {"Succeeded", "Failed"}:
                    self._store.patch(resource["id"], provisioningState="Failed")
        for resource in self._store.of_kind("deployment"):
            if resource["properties"]["provisioningState"] == "Succeeded":
                self._operations.begin(resource["id"], partial(self._serve, resource))

    # endpoints -----------------------------------------------------------------------------

    def put_endpoint(self, endpoint_id: str, body: dict[str, Any]) -> tuple[Resource, bool, str]:
        """Create or change an endpoint; return it, whether it is new, and the operation.

        Raises:
            Refusal: A rule of the service is broken.
        """
        name = endpoint_id.rsplit("/", 1)[1]
        rules.check_name(name, "Endpoint")
        sent = {
            name: value
            for name, value in (body.get("properties") or {}).items()
            if value is not None and name not in _NOT_KEPT
        }
        uri = f"{self._base}/{name.lower()}/score"
        self._store.need(endpoint_id.rsplit("/", 2)[0])
        known = self._store.get(endpoint_id)
        if known is not None:
            rules.check_idle(known)
        rules.check_free(endpoint_id, self._store.of_kind("endpoint"))
        rules.check_endpoint(body, known, self._deployments(endpoint_id))
        properties = {
            "properties": {},  # the SDK cannot read an endpoint without them
            "traffic": {},
            "mirrorTraffic": {},
            "publicNetworkAccess": "Enabled",
            **sent,
            "provisioningState": "Updating" if known else "Creating",
            "scoringUri": uri if known else None,
        }
        resource = {
            **envelope(endpoint_id, properties, known),
            "location": body["location"],
            "tags": body.get("tags") or {},
            "kind": "Managed",
            "identity": {**rules.identity(body), "principalId": name},
        }
        self._store.put(endpoint_id, "endpoint", resource)
        if known is None:
            self._keys.create(endpoint_id)

        def finish() -> None:
            self._store.patch(endpoint_id, provisioningState="Succeeded", scoringUri=uri)

        return resource, known is None, self._operations.begin(endpoint_id, finish)

    def delete_endpoint(self, endpoint_id: str) -> str | None:
        """Delete an endpoint with its deployments; return the operation, None when it is gone."""
        known = self._store.get(endpoint_id)
        if known is None:
            return None
        deployments = self._deployments(endpoint_id)
        for resource in (known, *deployments):
            rules.check_idle(resource)
        self._store.patch(endpoint_id, provisioningState="Deleting")

        def finish() -> None:
            with self._store.transaction():
                self._store.delete(endpoint_id)
                self._keys.delete(endpoint_id)
            for deployment in deployments:
                self._fleet.stop(deployment["id"])

        return self._operations.begin(endpoint_id, finish)

    def keys(self, endpoint_id: str) -> dict[str, str]:
        """Return the keys of an endpoint that is called with keys.

        Raises:
            Refusal: 404, or 400 when it is called with tokens.
        """
        endpoint = self._store.need(endpoint_id)
        if endpoint["properties"]["authMode"] != "Key":
            raise rules.bad("The endpoint's authMode is not Key.")
        return self._keys.get(endpoint_id)

    def regenerate_key(self, endpoint_id: str, which: str, value: str | None) -> str:
        """Replace one key; return the operation.

        Raises:
            Refusal: No such key.
        """
        name = f"{which.lower()}Key"
        if name not in self.keys(endpoint_id):
            raise rules.bad(f"keyType must be Primary or Secondary, not {which}.")
        replace = partial(self._keys.replace, endpoint_id, name, value)
        return self._operations.begin(endpoint_id, replace, failed={})

    # deployments ---------------------------------------------------------------------------

    def put_deployment(
        self, deployment_id: str, body: dict[str, Any]
    ) -> tuple[Resource, bool, str]:
        """Create or change a deployment; return it, whether it is new, and the operation.

        Raises:
            Refusal: A rule of the service is broken.
        """
        endpoint_id, name = deployment_id.rsplit("/deployments/", 1)
        rules.check_name(name, "Deployment")
        rules.check_deployment(body)
        rules.check_idle(self._store.need(endpoint_id))
        self._need_model(body["properties"]["model"])
        known = self._store.get(deployment_id)
        if known is not None:
            rules.check_idle(known)
        others = [
            other
            for other in self._store.of_kind("deployment")
            if other["id"].lower() != deployment_id.lower()
        ]
        rules.check_quota(body, others)
        properties = {
            "scaleSettings": {"scaleType": "Default"},
            "properties": {},
            **{k: v for k, v in body["properties"].items() if v is not None},
            "provisioningState": "Updating" if known else "Creating",
        }
        resource = {
            **envelope(deployment_id, properties, known),
            "location": body.get("location"),
            "tags": body.get("tags") or {},
            "kind": "Managed",
            "sku": {"name": "Default", "capacity": rules.capacity(body)},
        }
        self._store.put(deployment_id, "deployment", resource)

        def finish() -> None:
            if known is None or _needs_restart(known, resource):
                self._serve(resource)
            self._store.patch(deployment_id, provisioningState="Succeeded")

        return resource, known is None, self._operations.begin(deployment_id, finish)

    def delete_deployment(self, deployment_id: str) -> str | None:
        """Delete a deployment without traffic; return the operation, None when it is gone.

        Raises:
            Refusal: It gets traffic, or is being changed.
        """
        endpoint_id, name = deployment_id.rsplit("/deployments/", 1)
        known = self._store.get(deployment_id)
        if known is None:
            return None
        rules.check_idle(known)
        shares = self._store.need(endpoint_id)["properties"]
        for kind in ("traffic", "mirrorTraffic"):
            told = {other.lower(): share for other, share in (shares.get(kind) or {}).items()}
            if share := told.get(name.lower()):
                raise rules.bad(f"Deployment {name} has {share} % of {kind}: set it to 0 % first.")
        self._store.patch(deployment_id, provisioningState="Deleting")

        def finish() -> None:
            self._store.delete(deployment_id)
            self._fleet.stop(deployment_id)

        return self._operations.begin(deployment_id, finish)

    def logs(self, deployment_id: str, lines: int) -> str:
        """Return the end of a deployment's container log."""
        self._store.need(deployment_id)
        return self._fleet.log(deployment_id, lines)

    # calls ---------------------------------------------------------------------------------

    def route(self, endpoint_name: str, key: str, wanted: str | None) -> tuple[str, str]:
        """Return id and name of the deployment that answers a call.

        Args:
            endpoint_name: Which endpoint is called; names are unique here.
            key: What the caller sent as bearer token.
            wanted: The deployment asked for by header, or None for traffic to decide.

        Raises:
            Refusal: 401 for a wrong key, 404 for an unknown name or no traffic.
        """
        endpoint = self._keys.open("endpoint", endpoint_name, key)
        traffic = endpoint["properties"].get("traffic") or {}
        if wanted is None:
            if not sum(traffic.values()):
                raise Refusal(404, "NoTraffic", f"Endpoint {endpoint_name} has no traffic set.")
            shares = list(traffic.values())
            wanted = random.choices(list(traffic), weights=shares)[0]  # noqa: S311 - not a secret
        deployment_id = f"{endpoint['id']}/deployments/{wanted}"
        if self._store.get(deployment_id) is None:
            raise Refusal(404, "NotFound", f"No deployment {wanted} in {endpoint_name}.")
        return deployment_id, wanted

    # inner ---------------------------------------------------------------------------------

    def _deployments(self, endpoint_id: str) -> list[Resource]:
        return self._store.beneath(endpoint_id, "deployment")

    def _serve(self, resource: Resource) -> None:
        model = self._need_model(resource["properties"]["model"])
        sent = resource["properties"].get("environmentVariables") or {}
        variables = {name: str(value) for name, value in sent.items()}
        endpoint = self._store.need(resource["id"].rsplit("/deployments/", 1)[0])
        variables = inject(variables, endpoint, partial(self._connection, endpoint))
        self._fleet.deploy(resource["id"], model, variables)
        if self._store.get(resource["id"]) is None:
            self._fleet.stop(resource["id"])  # it was deleted meanwhile, before it was served

    def _connection(self, endpoint: Resource, name: str) -> dict[str, Any] | None:
        """Return what a connection of an endpoint's workspace holds, with its credentials."""
        workspace_id = str(endpoint["id"]).rsplit("/onlineEndpoints/", 1)[0]
        found = self._store.get(f"{workspace_id}/connections/{name}")
        if found is None:
            return None
        credentials = self._store.get(f"/secrets{found['id']}")
        return {**found["properties"], "credentials": credentials}

    def _need_model(self, reference: Any) -> Resource:
        text = reference.get("assetId", "") if isinstance(reference, dict) else str(reference)
        match = _MODEL.fullmatch(text)
        if match is None:
            raise rules.bad(f"Model {text} is not the id of a registered model version.")
        return self._store.need("/" + match.group(1).lstrip("/"))


def _needs_restart(old: Resource, new: Resource) -> bool:
    return old["properties"]["provisioningState"] != "Succeeded" or any(
        old["properties"].get(name) != new["properties"].get(name)
        for name in ("model", "environmentVariables", "instanceType")
    )
