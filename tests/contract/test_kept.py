"""What others have set on an endpoint or deployment stays, whatever is changed of it here."""

import pytest

from mlflow_phi3.emulator.router import WORKSPACE
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION
from mlflow_phi3.emulator.settings import WORKSPACE as PROJECT
from mlflow_phi3.foundry.tuned import Deployed, Inventory, Removal

HOME = WORKSPACE.format(subscription=SUBSCRIPTION, group=GROUP, workspace=PROJECT)
USER = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.ManagedIdentity"
IDENTITY = {
    "type": "UserAssigned",
    "userAssignedIdentities": {f"{USER}/userAssignedIdentities/ours": {}},
}


@pytest.fixture
def portal(emulator):
    """Look at a thing, or change it as the portal does: all of it is sent back, with the change."""
    asked = {
        "headers": {"Authorization": f"Bearer {emulator.token()}"},
        "params": {"api-version": "2024-10-01-preview"},
    }

    def see(path):
        return emulator.http.get(f"{HOME}/onlineEndpoints/{path}", **asked).json()

    def change(path, body=None, **properties):
        sent = body or see(path)
        sent["properties"] |= properties
        made = emulator.http.put(f"{HOME}/onlineEndpoints/{path}", json=sent, **asked)
        assert made.status_code < 300, made.text
        while see(path)["properties"]["provisioningState"] != "Succeeded":
            pass

    change.see = see
    return change


def test_an_endpoint_keeps_its_walls_and_its_copies_of_requests(
    client, models, portal, emulator, check_published
):
    client.create_deployment("kept", models["one"])
    client.create_deployment("green", models["two"], endpoint="kept")
    ours = {"publicNetworkAccess": "Disabled", "description": "ours", "mirrorTraffic": {"green": 9}}
    portal("kept", **ours)
    emulator.http.delete("/emulator/journal")
    client.update_endpoint("kept", {"ttl_hours": 9})
    check_published(emulator.changes())
    found = portal.see("kept")["properties"]
    assert {name: found[name] for name in ours} == ours
    client.update_endpoint("kept", {"traffic": "blue=90,green=10"})
    assert portal.see("kept")["properties"]["mirrorTraffic"] == {}  # it gets live requests now
    client.update_endpoint("kept", {"traffic": "blue=100"})
    inventory = Inventory(client._deployer._open())
    for delete in (
        lambda: client.delete_deployment("green", endpoint="kept"),
        lambda: inventory.remove(
            Removal((Deployed("kept", "green", alone=False, traffic=0),)), print
        ),
    ):
        client.create_deployment("green", models["two"], endpoint="kept", config={"traffic": "0"})
        portal("kept", **ours)
        delete()
    found = portal.see("kept")["properties"]
    assert (found["publicNetworkAccess"], found["mirrorTraffic"]) == ("Disabled", {})
    client.delete_deployment("kept")


def test_an_endpoint_keeps_the_identity_that_it_was_given(
    client, portal, emulator, check_published
):
    portal(
        "whose",
        {"location": "eastus2", "identity": IDENTITY, "properties": {"authMode": "Key"}},
    )
    emulator.http.delete("/emulator/journal")
    client.update_endpoint("whose", {"ttl_hours": 9})  # another identity would be refused
    check_published(emulator.changes())
    assert portal.see("whose")["identity"]["userAssignedIdentities"]
    client.delete_endpoint("whose")


def test_a_deployment_keeps_its_walls_its_insights_and_its_limits(
    client, models, portal, emulator, check_published
):
    client.create_deployment("walled", models["one"], config={"request_timeout_s": "60"})
    probe = {"initialDelay": "PT20S", "period": "PT5S", "timeout": "PT2S", "failureThreshold": 3}
    ours = {
        "appInsightsEnabled": True,
        "egressPublicNetworkAccess": "Disabled",
        "environmentId": f"{HOME}/environments/ours/versions/1",
        "codeConfiguration": {
            "codeId": f"{HOME}/codes/ours/versions/1",
            "scoringScript": "score.py",
        },
        "livenessProbe": probe,
        "readinessProbe": probe,
        "requestSettings": {
            "requestTimeout": "PT1M",
            "maxConcurrentRequestsPerInstance": 8,
            "maxQueueWait": "PT2S",
        },
    }
    portal("walled/deployments/blue", **ours)
    emulator.http.delete("/emulator/journal")
    client.update_deployment("walled", config={"instance_count": "2"})
    found = portal.see("walled/deployments/blue")["properties"]
    assert {name: found[name] for name in ours} == ours
    client.update_deployment("walled", models["two"])  # and so does the version that takes over
    found = portal.see("walled/deployments/green")["properties"]
    assert {name: found[name] for name in ours} == ours
    check_published(emulator.changes())
    client.delete_deployment("walled")


def test_a_deployment_keeps_the_collections_that_were_asked_for(client, models, portal):
    client.create_deployment("sampled", models["one"])
    one = {"dataCollectionMode": "Enabled", "samplingRate": 0.1}
    told = f"{HOME}/data/ours/versions/3"
    both = {"request": one, "model_outputs": {**one, "dataId": told}}
    portal("sampled/deployments/blue", dataCollector={"collections": both, "rollingRate": "Day"})

    def collected(name):
        found = portal.see(f"sampled/deployments/{name}")["properties"]["dataCollector"]
        assert found["rollingRate"] == "Day"
        return {collection: one["samplingRate"] for collection, one in found["collections"].items()}

    client.update_deployment("sampled", config={"instance_count": "2"})
    assert collected("blue") == {"request": 0.1, "model_outputs": 0.1}
    client.update_deployment("sampled", models["two"])
    assert collected("green") == {"request": 0.1, "model_outputs": 0.1}
    green = portal.see("sampled/deployments/green")["properties"]["dataCollector"]["collections"]
    assert green["model_outputs"]["dataId"] == told
    assert "/data/sampled-green-request/" in green["request"]["dataId"]  # not with the calls before
    client.delete_deployment("sampled")
