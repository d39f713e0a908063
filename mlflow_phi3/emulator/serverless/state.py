"""Serverless endpoints: the service's rules and states; knows no HTTP."""

import re
from collections.abc import Mapping
from typing import Any

from mlflow_phi3.emulator.arm import envelope
from mlflow_phi3.emulator.endpoints import rules
from mlflow_phi3.emulator.endpoints.fleet import Fleet
from mlflow_phi3.emulator.endpoints.keys import Keys
from mlflow_phi3.emulator.operation import FAILED, Operations
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Resource, Store

KIND = "serverless"
_FAILED = {**FAILED, "endpointState": "CreationFailed"}
_CUSTOM = re.compile(
    r"azureml://locations/(?P<location>[^/]+)/workspaces/(?P<workspace>[^/]+)"
    r"/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)",
    re.IGNORECASE,
)


class Serverless:
    """The state of all serverless endpoints.

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
        """After a restart: serve again what was being served."""
        for resource in self._store.of_kind(KIND):
            if resource["properties"]["provisioningState"] == "Succeeded":
                self._begin(resource)
            else:
                self._store.patch(resource["id"], **_FAILED)

    def put(self, endpoint_id: str, body: Mapping[str, Any]) -> tuple[Resource, bool, str]:
        """Create or change an endpoint; return it, whether it is new, and the operation.

        Raises:
            Refusal: A rule of the service is broken.
        """
        name = endpoint_id.rsplit("/", 1)[1]
        rules.check_name(name, "Endpoint")
        workspace = self._store.need(endpoint_id.rsplit("/", 2)[0])
        sent = dict(body.get("properties") or {})
        model_id = str((sent.get("modelSettings") or {}).get("modelId") or "")
        if sent.get("authMode", "Key") != "Key":
            raise rules.bad("authMode of a serverless endpoint must be Key.")
        known = self._store.get(endpoint_id)
        if known is not None:
            rules.check_idle(known)
        rules.check_free(endpoint_id, self._store.of_kind(KIND))
        self._check_model(model_id, workspace)
        self._check_alone(endpoint_id, model_id)
        properties = {
            "authMode": "Key",
            "modelSettings": {"modelId": model_id},
            "contentSafety": sent.get("contentSafety") or {"contentSafetyStatus": "Enabled"},
            "provisioningState": "Updating" if known else "Creating",
            "endpointState": "Online" if known else "Creating",
            "inferenceEndpoint": {"uri": f"{self._base}/{name.lower()}", "headers": {}},
        }
        resource = {
            **envelope(endpoint_id, properties, known),
            "location": body.get("location") or workspace["location"],
            "tags": body.get("tags") or {},
            "sku": {"name": "Consumption"},
        }
        self._store.put(endpoint_id, KIND, resource)
        if known is None:
            self._keys.create(endpoint_id)
        same = known is not None and known["properties"]["modelSettings"]["modelId"] == model_id
        return resource, known is None, self._begin(resource, serve=not same)

    def keys(self, endpoint_id: str) -> dict[str, str]:
        """Return an endpoint's keys.

        Raises:
            Refusal: 404.
        """
        self._store.need(endpoint_id)
        return self._keys.get(endpoint_id)

    def delete(self, endpoint_id: str) -> str | None:
        """Delete an endpoint; return the operation, None when it is gone."""
        known = self._store.get(endpoint_id)
        if known is None:
            return None
        rules.check_idle(known)
        self._store.patch(endpoint_id, provisioningState="Deleting", endpointState="Deleting")

        def finish() -> None:
            with self._store.transaction():
                self._store.delete(endpoint_id)
                self._keys.delete(endpoint_id)
            self._fleet.stop(endpoint_id)

        return self._operations.begin(endpoint_id, finish, _FAILED)

    def find(self, name: str, key: str) -> str:
        """Return the id of the endpoint that a call with this key is for.

        Raises:
            Refusal: 401 or 404.
        """
        return str(self._keys.open(KIND, name, key)["id"])

    def _check_model(self, model_id: str, workspace: Resource) -> Resource:
        """Return the tuned model's version; only a fine-tuning job's output can be served so."""
        match = _CUSTOM.fullmatch(model_id)
        if match is None:
            text = f"modelId '{model_id}' is not that of a fine-tuned model of this workspace."
            raise rules.bad(text)
        if match["workspace"].lower() != str(workspace["properties"]["workspaceId"]).lower():
            raise rules.bad("The model is of another workspace.")
        version_id = f"{workspace['id']}/models/{match['name']}/versions/{match['version']}"
        found = self._store.need(version_id, "ModelNotFound")
        if not found["properties"].get("jobName"):
            raise rules.bad("Only a model that a fine-tuning job made can be served serverless.")
        return found

    def _check_alone(self, endpoint_id: str, model_id: str) -> None:
        for other in self._store.of_kind(KIND):
            same = other["properties"]["modelSettings"]["modelId"].lower() == model_id.lower()
            if same and other["id"].lower() != endpoint_id.lower():
                text = f"The model is deployed as {other['name']}: one deployment per custom model."
                raise Refusal(409, "DeploymentLimitReached", text)

    def _begin(self, resource: Resource, *, serve: bool = True) -> str:
        def finish() -> None:
            if serve:
                self._serve(resource)
            self._store.patch(resource["id"], provisioningState="Succeeded", endpointState="Online")

        return self._operations.begin(resource["id"], finish, _FAILED)

    def _serve(self, resource: Resource) -> None:
        workspace = self._store.need(resource["id"].rsplit("/", 2)[0])
        model = self._check_model(resource["properties"]["modelSettings"]["modelId"], workspace)
        self._fleet.deploy(resource["id"], model, {})
        if self._store.get(resource["id"]) is None:
            self._fleet.stop(resource["id"])  # it was deleted meanwhile, before it was served
