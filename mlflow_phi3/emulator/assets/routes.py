"""Requests for workspaces, datastores, models and data."""

from mlflow_phi3.emulator.arm import show, show_all
from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.router import WORKSPACE, Call, Refusal, Reply, Route
from mlflow_phi3.emulator.storage.datastore import DATASTORE, Datastore
from mlflow_phi3.emulator.store import Store


def routes(assets: Assets, store: Store, datastore: Datastore) -> list[Route]:
    """Return the routes of a workspace's assets.

    Args:
        assets: The state.
        store: Where it is kept.
        datastore: Gives signatures for what lies in it.
    """

    def workspace(call: Call) -> Reply:
        found = store.need(call.id)
        name = found["properties"]["workspaceId"]
        tracking = f"{call.origin.replace('https', 'azureml', 1)}/mlflow/v1.0{found['id']}"
        found["properties"] |= {
            "discoveryUrl": f"{call.origin}/discovery/{name}",
            "mlFlowTrackingUri": tracking,
        }
        return Reply(found)

    def secrets(call: Call) -> Reply:
        assets.get_datastore(call.id)
        if assets.credentials == "None":
            raise Refusal(400, "UserError", "The datastore has no credentials.")
        return Reply({"secretsType": "Sas", "sasToken": datastore.sas()})

    def set_credentials(call: Call) -> Reply:
        assets.credentials = str(call.body.get("credentialsType") or "AccountKey")
        return Reply(status=204)

    def datastores(call: Call) -> Reply:
        return Reply({"value": [assets.get_datastore(f"{call.id}/{DATASTORE}")]})

    one = WORKSPACE + "/datastores/{name}"
    return [
        Route("GET", WORKSPACE, workspace),
        Route("PUT", "/emulator/datastore", set_credentials, open=True),
        Route("GET", WORKSPACE + "/datastores", datastores),
        Route("GET", one, lambda call: Reply(assets.get_datastore(call.id))),
        Route("POST", one + "/listSecrets", secrets),
        *_versioned(assets, store, "models"),
        *_versioned(assets, store, "data"),
    ]


def _versioned(assets: Assets, store: Store, kind: str) -> list[Route]:
    def delete(call: Call) -> Reply:
        return Reply(status=200 if assets.delete_version(call.id) else 204)

    def versions(call: Call) -> Reply:
        return Reply({"value": assets.list_versions(call.id.removesuffix("/versions"))})

    one = f"{WORKSPACE}/{kind}/{{name}}"
    version = one + "/versions/{version}"
    return [
        Route("PUT", version, lambda c: Reply.to_put(*assets.put_version(c.id, c.properties))),
        Route("GET", version, show(store, "UserError")),
        Route("DELETE", version, delete),
        Route("GET", one + "/versions", versions),
        Route("GET", one, lambda call: Reply(assets.get_container(call.id))),
        Route("GET", f"{WORKSPACE}/{kind}", show_all(store, kind)),
    ]
