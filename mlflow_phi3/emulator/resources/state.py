"""Resource groups and what is created in them by template; knows no HTTP."""

import re
from collections.abc import Mapping
from typing import Any

from mlflow_phi3.emulator.arm import envelope
from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Resource, Store
from mlflow_phi3.emulator.subscription.locations import check_location

CONNECTION = "connection"
NO_GROUP = ("ResourceGroupNotFound", "Resource group '{name}' could not be found.")
_WORKSPACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,32}")
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")


class Resources:
    """Resource groups of one subscription, hubs and projects, and their connections.

    Args:
        store: Where they are kept.
        assets: Keeps the workspaces.
    """

    def __init__(self, store: Store, assets: Assets) -> None:
        self._store = store
        self._assets = assets

    def put_group(self, group_id: str, location: str) -> tuple[Resource, bool]:
        """Create a resource group; tell whether it is new.

        Raises:
            Refusal: No location that there is, or another one than it has.
        """
        check_location(location, of="group")
        known = self._store.get(group_id)
        if known is not None and known["location"] != location:
            text = f"The resource group '{known['name']}' is in location {known['location']}."
            raise Refusal(409, "InvalidResourceGroupLocation", text)
        made = {
            "id": group_id,
            "name": group_id.rsplit("/", 1)[1],
            "type": "Microsoft.Resources/resourceGroups",
            "location": location,
            "tags": {},
            "properties": {"provisioningState": "Succeeded"},
        }
        self._store.put(group_id, "resourceGroup", made)
        return made, known is None

    def deploy(self, deployment_id: str, properties: Mapping[str, Any]) -> Resource:
        """Do what the SDK's template for a hub or a project says; return the deployment.

        Of the template's language only its parameters are read: the SDK sends two fixed templates.

        Raises:
            Refusal: A rule of the service is broken.
        """
        group_id = self._need_group(deployment_id)
        sent = properties.get("parameters") or {}
        values = {key: value.get("value") for key, value in sent.items()}
        workspace_id = self._create_workspace(group_id, values)
        made: Resource = {
            "id": deployment_id,
            "name": deployment_id.rsplit("/", 1)[1],
            "type": "Microsoft.Resources/deployments",
            "properties": {
                "mode": "Incremental",
                "provisioningState": "Succeeded",
                "duration": "PT1S",
                "parameters": dict(sent),
                "outputResources": [{"id": workspace_id}],
            },
        }
        self._store.put(deployment_id, "templateDeployment", made)
        return made

    def put_connection(self, connection_id: str, properties: Mapping[str, Any]) -> Resource:
        """Connect a workspace with another service; credentials are kept beside it.

        Raises:
            Refusal: No such workspace, or no category and target.
        """
        self._store.need(connection_id.rsplit("/", 2)[0])
        if not properties.get("category") or not properties.get("target"):
            raise Refusal(400, "UserError", "A connection needs a category and a target.")
        kept = {key: value for key, value in properties.items() if key != "credentials"}
        made = envelope(connection_id, kept, self._store.get(connection_id))
        self._store.put(connection_id, CONNECTION, made)
        secrets = dict(properties.get("credentials") or {})
        self._store.put(f"/secrets{connection_id}", "secrets", secrets)
        return made

    def put_account(self, account_id: str, body: Mapping[str, Any]) -> tuple[Resource, bool]:
        """Create an AI Services account; tell whether it is new.

        Raises:
            Refusal: Without kind, SKU or location, or with a name that no host can have.
        """
        self._need_group(account_id)
        check_location(str(body.get("location") or ""))
        if not body.get("kind") or not (body.get("sku") or {}).get("name"):
            raise Refusal(400, "InvalidRequest", "An account needs a kind and a sku.")
        host = str((body.get("properties") or {}).get("customSubDomainName") or "")
        if host and not _HOST_NAME.fullmatch(host):
            text = f"The custom subdomain name '{host}' is not valid: letters, digits and dashes."
            raise Refusal(400, "CustomSubDomainNameInvalid", text)
        known = self._store.get(account_id)
        name = account_id.rsplit("/", 1)[1]
        endpoint = f"https://{name}.cognitiveservices.azure.com/"
        properties = {"endpoint": endpoint, "provisioningState": "Succeeded"}
        made = envelope(account_id, properties, known)
        made |= {"kind": body["kind"], "sku": body["sku"], "location": body["location"]}
        self._store.put(account_id, "account", made)
        return made, known is None

    def _need_group(self, resource_id: str) -> str:
        """Return the id of the group that a resource is in.

        Raises:
            Refusal: 404.
        """
        group_id = resource_id.split("/providers/", maxsplit=1)[0]
        self._store.need(group_id, *NO_GROUP)
        return group_id

    def _create_workspace(self, group_id: str, values: Mapping[str, Any]) -> str:
        name, hub = str(values.get("workspaceName") or ""), str(values.get("workspace_hub") or "")
        kind = str(values.get("kind") or "").capitalize()
        if not _WORKSPACE_NAME.fullmatch(name):
            raise Refusal(400, "BadArgument", f"'{name}' is not a valid workspace name.")
        check_location(str(values.get("location") or ""))
        properties: dict[str, Any] = {
            "friendlyName": values.get("friendlyName") or name,
            "description": values.get("description") or "",
        }
        if kind == "Project":
            parent = self._store.need(hub)
            if parent["kind"] != "Hub" or parent["location"] != values["location"]:
                text = f"{hub} is no hub in {values['location']}."
                raise Refusal(400, "BadArgument", text)
            properties |= {
                "hubResourceId": hub,
                "storageAccount": parent["properties"]["storageAccount"],
            }
        workspace_id = f"{group_id}/providers/Microsoft.MachineLearningServices/workspaces/{name}"
        made = self._assets.create_workspace(
            workspace_id, location=values["location"], kind=kind, properties=properties
        )
        made["tags"] = values.get("tagValues") or {}
        self._store.put(workspace_id, "workspace", made)
        return workspace_id
