"""A workspace and what lies in it; knows the rules, not HTTP."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

from mlflow_phi3.emulator.arm import envelope
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.storage.datastore import CONTAINER, DATASTORE
from mlflow_phi3.emulator.store import Resource, Store

_PROVIDER = "Microsoft.MachineLearningServices"
_CREDENTIALS = "/emulator/datastore"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")


class Assets:
    """Workspaces, datastores, and versioned models and data.

    Args:
        store: Where they are kept.
        account: The storage account's name, at this emulator's address.
    """

    def __init__(self, store: Store, *, account: str) -> None:
        self._store = store
        self._account = account

    def create_workspace(
        self,
        workspace_id: str,
        *,
        location: str,
        kind: str,
        properties: Mapping[str, Any] | None = None,
    ) -> Resource:
        """Create a workspace with its default datastore; one that exists is returned as it is."""
        with self._store.transaction():
            known = self._store.get(workspace_id)
            if known is not None:
                return known
            name = workspace_id.rsplit("/", 1)[1]
            body = envelope(workspace_id, f"{_PROVIDER}/workspaces", {})
            group = workspace_id.split("/providers/", maxsplit=1)[0]
            body |= {"location": location, "kind": kind, "tags": {}}
            body["sku"] = {"name": "Basic", "tier": "Basic"}
            body["identity"] = {"type": "SystemAssigned", "principalId": str(uuid.uuid4())}
            body["properties"] = {
                "friendlyName": name,
                "description": "",
                "workspaceId": str(uuid.uuid4()),
                "provisioningState": "Succeeded",
                "storageAccount": f"{group}/providers/Microsoft.Storage/storageAccounts/{name}",
                "publicNetworkAccess": "Enabled",
                "hbiWorkspace": False,
                "v1LegacyMode": False,
                **(properties or {}),
            }
            self._store.put(workspace_id, "workspace", body)
            return body

    def get_workspace(self, workspace_id: str) -> Resource:
        """Return a workspace.

        Raises:
            Refusal: 404.
        """
        return self._store.need(workspace_id)

    def get_datastore(self, workspace_id: str, name: str) -> Resource:
        """Return the default datastore, the only one there is."""
        self.get_workspace(workspace_id)
        if name.lower() != DATASTORE:
            raise Refusal(404, "UserError", f"Error when getting datastore {name}: not found.")
        properties = {
            "datastoreType": "AzureBlob",
            "isDefault": True,
            "accountName": self._account,
            "containerName": CONTAINER,
            "endpoint": "localhost",
            "protocol": "https",
            "serviceDataAccessAuthIdentity": "None",
            "credentials": {"credentialsType": self.credentials},
        }
        resource_id = f"{workspace_id}/datastores/{DATASTORE}"
        return envelope(resource_id, f"{_PROVIDER}/workspaces/datastores", properties)

    @property
    def credentials(self) -> str:
        """How the datastore is opened: ``AccountKey``, or ``None``: as whoever asks."""
        return str((self._store.get(_CREDENTIALS) or {"type": "AccountKey"})["type"])

    @credentials.setter
    def credentials(self, kind: str) -> None:
        self._store.put(_CREDENTIALS, "credentials", {"type": kind})

    def put_version(
        self, workspace_id: str, kind: str, name: str, version: str, properties: dict[str, Any]
    ) -> tuple[Resource, bool]:
        """Create or change a version of an asset; tell whether it is new.

        Raises:
            Refusal: A name that the service refuses, a missing address, or another address for a
                version that exists: versions are immutable.
        """
        self.get_workspace(workspace_id)
        place = "modelUri" if kind == "models" else "dataUri"
        if not _NAME.fullmatch(name) or not _NAME.fullmatch(version):
            raise Refusal(400, "UserError", f"'{name}:{version}' is not a valid name and version.")
        if not properties.get(place):
            raise Refusal(400, "UserError", f"{place} is required.")
        asset_id = f"{workspace_id}/{kind}/{name}"
        with self._store.transaction():
            known = self._store.get(f"{asset_id}/versions/{version}")
            if known and known["properties"][place] != properties[place]:
                text = f"A {kind[:-1]} with this name and version already exists: {name}:{version}."
                raise Refusal(409, "ImmutableError", text)
            defaults = {"description": "", "tags": {}, "properties": {}, "isArchived": False}
            if kind == "models":
                defaults["flavors"] = {}  # the SDK fails on an answer without it
            if self._store.get(asset_id) is None:
                container = envelope(asset_id, f"{_PROVIDER}/workspaces/{kind}", {})
                self._store.put(asset_id, kind, container)
            body = envelope(
                f"{asset_id}/versions/{version}",
                f"{_PROVIDER}/workspaces/{kind}/versions",
                {**defaults, **{k: v for k, v in properties.items() if v is not None}},
            )
            if known:
                body["systemData"]["createdAt"] = known["systemData"]["createdAt"]
            self._store.put(body["id"], f"{kind}/versions", body)
        return body, known is None

    def get_version(self, workspace_id: str, kind: str, name: str, version: str) -> Resource:
        """Return one version of an asset.

        Raises:
            Refusal: 404.
        """
        text = f"{kind} {name}:{version} was not found."
        asset_id = f"{workspace_id}/{kind}/{name}"
        return self._store.need(f"{asset_id}/versions/{version}", "UserError", text)

    def list_versions(self, workspace_id: str, kind: str, name: str) -> list[Resource]:
        """Return the versions of an asset, newest first."""
        return self._store.beneath(f"{workspace_id}/{kind}/{name}", f"{kind}/versions")[::-1]

    def list_containers(self, workspace_id: str, kind: str) -> list[Resource]:
        """Return the assets of a kind.

        Raises:
            Refusal: 404, no such workspace.
        """
        self.get_workspace(workspace_id)
        return self._store.beneath(workspace_id, kind)

    def get_container(self, workspace_id: str, kind: str, name: str) -> Resource:
        """Return an asset over all its versions, with the number that the next one would have.

        Raises:
            Refusal: 404.
        """
        versions = self.list_versions(workspace_id, kind, name)
        text = f"{kind} {name} was not found."
        found = self._store.need(f"{workspace_id}/{kind}/{name}", "UserError", text)
        found["properties"] = {
            "isArchived": False,
            "latestVersion": versions[0]["name"] if versions else None,
            "nextVersion": self.next_version(workspace_id, kind, name),
        }
        return found

    def next_version(self, workspace_id: str, kind: str, name: str) -> str:
        """Return the number that the next version of an asset gets."""
        versions = self.list_versions(workspace_id, kind, name)
        numbers = [int(v["name"]) for v in versions if v["name"].isdigit()]
        return str(max(numbers, default=0) + 1)

    def delete_version(self, workspace_id: str, kind: str, name: str, version: str) -> bool:
        """Delete a version of an asset; tell whether there was one.

        Raises:
            Refusal: 409, a model that is deployed.
        """
        with self._store.transaction():
            version_id = f"{workspace_id}/{kind}/{name}/versions/{version}"
            if self._store.get(version_id) is None:
                return False
            users = self._users(f"/models/{name}/versions/{version}") if kind == "models" else []
            if users:
                text = f"The model is deployed ({', '.join(users)}): delete the deployment first."
                raise Refusal(409, "ModelInUse", text)
            self._store.delete(version_id)
            if not self.list_versions(workspace_id, kind, name):
                self._store.delete(f"{workspace_id}/{kind}/{name}")
        return True

    def _users(self, model: str) -> list[str]:
        """The endpoints and deployments of a model, by the end of its address."""
        found = []
        for kind, place in (("serverless", "modelSettings"), ("deployment", "model")):
            for resource in self._store.of_kind(kind):
                named = resource["properties"].get(place) or ""
                if isinstance(named, dict):
                    address = named.get("modelId") or named.get("assetId") or ""
                else:
                    address = named
                if str(address).lower().endswith(model.lower()):
                    found.append(str(resource["name"]))
        return found
