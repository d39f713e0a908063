"""Requests for workspaces, datastores, models and data."""

from collections.abc import Callable

from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.router import WORKSPACE, Call, Refusal, Reply, Route


def routes(assets: Assets, *, sas: Callable[[], str]) -> list[Route]:
    """Return the routes of a workspace's assets.

    Args:
        assets: The state.
        sas: Makes a token for the datastore.
    """

    def workspace(call: Call) -> Reply:
        found = assets.get_workspace(call.workspace_id)
        name = found["properties"]["workspaceId"]
        tracking = f"{call.origin.replace('https', 'azureml', 1)}/mlflow/v1.0{found['id']}"
        found["properties"] |= {
            "discoveryUrl": f"{call.origin}/discovery/{name}",
            "mlFlowTrackingUri": tracking,
        }
        return Reply(found)

    def datastore(call: Call) -> Reply:
        return Reply(assets.get_datastore(call.workspace_id, call.names["name"]))

    def datastores(call: Call) -> Reply:
        return Reply({"value": [assets.get_datastore(call.workspace_id, "workspaceblobstore")]})

    def secrets(call: Call) -> Reply:
        assets.get_datastore(call.workspace_id, call.names["name"])
        if assets.credentials == "None":
            raise Refusal(400, "UserError", "The datastore has no credentials.")
        return Reply({"secretsType": "Sas", "sasToken": sas()})

    def set_credentials(call: Call) -> Reply:
        assets.credentials = str((call.body or {}).get("credentialsType") or "AccountKey")
        return Reply(status=204)

    one = WORKSPACE + "/datastores/{name}"
    found = [
        Route("GET", WORKSPACE, workspace),
        Route("PUT", "/emulator/datastore", set_credentials, open=True),
        Route("GET", WORKSPACE + "/datastores", datastores),
        Route("GET", one, datastore),
        Route("POST", one + "/listSecrets", secrets),
    ]
    for kind in ("models", "data"):
        found += _versioned(assets, kind)
    return found


def _versioned(assets: Assets, kind: str) -> list[Route]:
    def put(call: Call) -> Reply:
        properties = (call.body or {}).get("properties") or {}
        body, new = assets.put_version(
            call.workspace_id, kind, call.names["name"], call.names["version"], properties
        )
        return Reply(body, 201 if new else 200)

    def get(call: Call) -> Reply:
        names = call.names
        return Reply(assets.get_version(call.workspace_id, kind, names["name"], names["version"]))

    def delete(call: Call) -> Reply:
        names = call.names
        gone = assets.delete_version(call.workspace_id, kind, names["name"], names["version"])
        return Reply(status=200 if gone else 204)

    def versions(call: Call) -> Reply:
        return Reply({"value": assets.list_versions(call.workspace_id, kind, call.names["name"])})

    def container(call: Call) -> Reply:
        return Reply(assets.get_container(call.workspace_id, kind, call.names["name"]))

    def containers(call: Call) -> Reply:
        return Reply({"value": assets.list_containers(call.workspace_id, kind)})

    one = f"{WORKSPACE}/{kind}/{{name}}"
    return [
        Route("PUT", one + "/versions/{version}", put),
        Route("GET", one + "/versions/{version}", get),
        Route("DELETE", one + "/versions/{version}", delete),
        Route("GET", one + "/versions", versions),
        Route("GET", one, container),
        Route("GET", f"{WORKSPACE}/{kind}", containers),
    ]
