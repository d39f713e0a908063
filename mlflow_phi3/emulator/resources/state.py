"""Resource groups and what is created in them by template; knows no HTTP."""

import re
from collections.abc import Mapping
from typing import Any

from mlflow_phi3.emulator.arm import envelope
from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Resource, Store
from mlflow_phi3.emulator.subscription.locations import check_location

_GROUP = "resourceGroup"
_CONNECTION = "connection"
_ACCOUNT = "account"
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
        self._store.put(group_id, _GROUP, made)
        return made, known is None

    def get_group(self, group_id: str) -> Resource:
        """Return a resource group.

        Raises:
            Refusal: 404.
        """
        text = f"Resource group '{group_id.rsplit('/', 1)[1]}' could not be found."
        return self._store.need(group_id, "ResourceGroupNotFound", text)

    def deploy(self, group_id: str, name: str, properties: Mapping[str, Any]) -> Resource:
        """Do what the SDK's template for a hub or a project says; return the deployment.

        Of the template's language only its parameters are read: the SDK sends two fixed templates.

        Raises:
            Refusal: A rule of the service is broken.
        """
        self.get_group(group_id)
        sent = properties.get("parameters") or {}
        values = {key: value.get("value") for key, value in sent.items()}
        workspace_id = self._create_workspace(group_id, values)
        return self._deployment(group_id, name, workspace_id, sent)

    def put_connection(
        self, workspace_id: str, name: str, properties: Mapping[str, Any]
    ) -> Resource:
        """Connect a workspace with another service; credentials are kept beside it.

        Raises:
            Refusal: No such workspace, or no category and target.
        """
        self._assets.get_workspace(workspace_id)
        if not properties.get("category") or not properties.get("target"):
            raise Refusal(400, "UserError", "A connection needs a category and a target.")
        kept = {key: value for key, value in properties.items() if key != "credentials"}
        connection_id = f"{workspace_id}/connections/{name}"
        kind = "Microsoft.MachineLearningServices/workspaces/connections"
        made = envelope(connection_id, kind, kept)
        self._store.put(connection_id, _CONNECTION, made)
        secrets = dict(properties.get("credentials") or {})
        self._store.put(f"/secrets{connection_id}", "secrets", secrets)
        return made

    def get_connection(self, workspace_id: str, name: str) -> Resource:
        """Return a connection.

        Raises:
            Refusal: 404.
        """
        text = f"Connection {name} was not found."
        return self._store.need(f"{workspace_id}/connections/{name}", "UserError", text)

    def list_connections(self, workspace_id: str) -> list[Resource]:
        """Return the connections of a workspace.

        Raises:
            Refusal: 404, no such workspace.
        """
        self._assets.get_workspace(workspace_id)
        return self._store.beneath(workspace_id, _CONNECTION)

    def put_account(self, account_id: str, body: Mapping[str, Any]) -> tuple[Resource, bool]:
        """Create an AI Services account; tell whether it is new.

        Raises:
            Refusal: Without kind, SKU or location, or with a name that no host can have.
        """
        self.get_group(account_id.split("/providers/", maxsplit=1)[0])
        check_location(str(body.get("location") or ""))
        if not body.get("kind") or not (body.get("sku") or {}).get("name"):
            raise Refusal(400, "InvalidRequest", "An account needs a kind and a sku.")
        host = str((body.get("properties") or {}).get("customSubDomainName") or "")
        if host and not _HOST_NAME.fullmatch(host):
            text = f"The custom subdomain name '{host}' is not valid: letters, digits and dashes."
            raise Refusal(400, "CustomSubDomainNameInvalid", text)
        known = self._store.get(account_id)
        name = account_id.rsplit("/", 1)[1]
        made = envelope(
            account_id,
            "Microsoft.CognitiveServices/accounts",
            {
                "endpoint": f"https://{name}.cognitiveservices.azure.com/",
                "provisioningState": "Succeeded",
            },
        )
        made |= {"kind": body["kind"], "sku": body["sku"], "location": body["location"]}
        self._store.put(account_id, _ACCOUNT, made)
        return made, known is None

    def get_account(self, account_id: str) -> Resource:
        """Return an AI Services account.

        Raises:
            Refusal: 404.
        """
        return self._store.need(account_id)

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
            parent = self._assets.get_workspace(hub)
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

    def _deployment(
        self, group_id: str, name: str, workspace_id: str, parameters: Mapping[str, Any]
    ) -> Resource:
        deployment_id = f"{group_id}/providers/Microsoft.Resources/deployments/{name}"
        made: Resource = {
            "id": deployment_id,
            "name": name,
            "type": "Microsoft.Resources/deployments",
            "properties": {
                "mode": "Incremental",
                "provisioningState": "Succeeded",
                "duration": "PT1S",
                "parameters": dict(parameters),
                "outputResources": [{"id": workspace_id}],
            },
        }
        self._store.put(deployment_id, "templateDeployment", made)
        return made

    def get_deployment(self, deployment_id: str) -> Resource:
        """Return a template's deployment.

        Raises:
            Refusal: 404.
        """
        text = f"Deployment '{deployment_id.rsplit('/', 1)[1]}' could not be found."
        return self._store.need(deployment_id, "DeploymentNotFound", text)
