"""A workspace and what lies in it; knows the rules, not HTTP."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

from mlflow_phi3.emulator.arm import envelope
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.storage.datastore import CONTAINER, DATASTORE
from mlflow_phi3.emulator.store import Resource, Store

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
        known = self._store.get(workspace_id)
        if known is not None:
            return known
        group, _, name = workspace_id.partition("/providers/")
        name = name.rsplit("/", 1)[1]
        body = envelope(
            workspace_id,
            {
                "friendlyName": name,
                "description": "",
                "workspaceId": str(uuid.uuid4()),
                "provisioningState": "Succeeded",
                "storageAccount": f"{group}/providers/Microsoft.Storage/storageAccounts/{name}",
                "publicNetworkAccess": "Enabled",
                "hbiWorkspace": False,
                "v1LegacyMode": False,
                **(properties or {}),
            },
        )
        body |= {"location": location, "kind": kind, "tags": {}}
        body["sku"] = {"name": "Basic", "tier": "Basic"}
        body["identity"] = {"type": "SystemAssigned", "principalId": str(uuid.uuid4())}
        self._store.put(workspace_id, "workspace", body)
        return body

    def get_datastore(self, datastore_id: str) -> Resource:
        """Return the default datastore, the only one there is.

        Raises:
            Refusal: 404, it is another one or in no workspace.
        """
        workspace_id, name = datastore_id.rsplit("/datastores/", 1)
        self._store.need(workspace_id)
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
        return envelope(f"{workspace_id}/datastores/{DATASTORE}", properties)

    @property
    def credentials(self) -> str:
        """How the datastore is opened: ``AccountKey``, or ``None``: as whoever asks."""
        return str((self._store.get(_CREDENTIALS) or {"type": "AccountKey"})["type"])

    @credentials.setter
    def credentials(self, kind: str) -> None:
        self._store.put(_CREDENTIALS, "credentials", {"type": kind})

    def put_version(self, version_id: str, properties: Mapping[str, Any]) -> tuple[Resource, bool]:
        """Create or change a version of an asset; tell whether it is new.

        Raises:
            Refusal: A name that the service refuses, a missing address, or another address for a
                version that exists: versions are immutable.
        """
        asset_id, version = version_id.rsplit("/versions/", 1)
        workspace_id, kind, name = asset_id.rsplit("/", 2)
        self._store.need(workspace_id)
        place = "modelUri" if kind == "models" else "dataUri"
        if not _NAME.fullmatch(name) or not _NAME.fullmatch(version):
            raise Refusal(400, "UserError", f"'{name}:{version}' is not a valid name and version.")
        if not properties.get(place):
            raise Refusal(400, "UserError", f"{place} is required.")
        known = self._store.get(version_id)
        if known and known["properties"][place] != properties[place]:
            text = f"A {kind[:-1]} with this name and version already exists: {name}:{version}."
            raise Refusal(409, "ImmutableError", text)
        defaults = {"description": "", "tags": {}, "properties": {}, "isArchived": False}
        if kind == "models":
            defaults["flavors"] = {}  # the SDK fails on an answer without it
        sent = {name: value for name, value in properties.items() if value is not None}
        body = envelope(version_id, {**defaults, **sent}, known)
        if self._store.get(asset_id) is None:
            self._store.put(asset_id, kind, envelope(asset_id, {}))
        self._store.put(version_id, f"{kind}/versions", body)
        return body, known is None

    def list_versions(self, asset_id: str) -> list[Resource]:
        """Return the versions of an asset, newest first."""
        kind = asset_id.rsplit("/", 2)[1]
        return self._store.beneath(asset_id, f"{kind}/versions")[::-1]

    def get_container(self, asset_id: str) -> Resource:
        """Return an asset over all its versions, with the number that the next one would have.

        Raises:
            Refusal: 404.
        """
        found, versions = self._store.need(asset_id, "UserError"), self.list_versions(asset_id)
        found["properties"] = {
            "isArchived": False,
            "latestVersion": versions[0]["name"] if versions else None,
            "nextVersion": self.next_version(asset_id),
        }
        return found

    def next_version(self, asset_id: str) -> str:
        """Return the number that the next version of an asset gets."""
        names = [version["name"] for version in self.list_versions(asset_id)]
        return str(max((int(name) for name in names if name.isdigit()), default=0) + 1)

    def delete_version(self, version_id: str) -> bool:
        """Delete a version of an asset; tell whether there was one.

        Raises:
            Refusal: 409, a model that is deployed.
        """
        if self._store.get(version_id) is None:
            return False
        if users := self._users(version_id):
            text = f"The model is deployed ({', '.join(users)}): delete the deployment first."
            raise Refusal(409, "ModelInUse", text)
        self._store.delete(version_id)
        asset_id = version_id.rsplit("/versions/", 1)[0]
        if not self.list_versions(asset_id):
            self._store.delete(asset_id)
        return True

    def _users(self, version_id: str) -> list[str]:
        """The endpoints and deployments of a model version, which name it in one of two ways."""
        workspace_id, _, model = version_id.rpartition("/models/")
        if not workspace_id:
            return []
        own = self._store.need(workspace_id)["properties"]["workspaceId"]
        ways = (version_id.lower(), f"/workspaces/{own}/models/{model}".lower())
        found = []
        for kind, place in (("serverless", "modelSettings"), ("deployment", "model")):
            for resource in self._store.of_kind(kind):
                named = resource["properties"].get(place) or ""
                if isinstance(named, dict):
                    named = named.get("modelId") or named.get("assetId") or ""
                if str(named).lower().endswith(ways):
                    found.append(str(resource["name"]))
        return found
