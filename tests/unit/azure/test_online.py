"""Deployments on their way to Azure's shapes and back."""

from dataclasses import replace

import pytest

from mlflow_phi3.azure.online import Deployment, _to_deployment, deployment_entity
from mlflow_phi3.azure.quiet import quiet

MODEL = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"
    "/workspaces/w/models/chat/versions/1"
)
PLAIN = Deployment("blue", MODEL, "Standard_DS3_v2", 2, tags={"team": "x"}, variables={"A": "1"})


def answered(wanted, mode):
    """What the SDK makes of the service's answer, where collections' modes are spelt so."""
    with quiet():  # as every call of ours is
        from azure.ai.ml.entities import ManagedOnlineDeployment

        rest = deployment_entity("chat", wanted)._to_rest_object(location="eastus2")
        body = {**rest.as_dict(), "name": wanted.name}
        place = MODEL.partition("/models")[0]
        body["id"] = f"{place}/onlineEndpoints/chat/deployments/{wanted.name}"
        body["properties"]["scaleSettings"] = {"scaleType": "Default"}
        collector = body["properties"].get("dataCollector") or {"collections": {}}
        for collection in collector["collections"].values():
            collection["dataCollectionMode"] = mode
        return ManagedOnlineDeployment._from_rest_object(type(rest)(body))


@pytest.mark.parametrize("wanted", [PLAIN, replace(PLAIN, collect_data=True)])
@pytest.mark.parametrize("mode", ["Enabled", "enabled"])
def test_a_deployment_comes_back_as_it_was_sent(wanted, mode):
    assert _to_deployment(answered(wanted, mode)) == wanted


def test_a_collector_that_somebody_else_asked_for_is_seen():
    found = answered(replace(PLAIN, collect_data=True), "Enabled")
    found.tags = {}
    assert _to_deployment(found).collect_data
    found.data_collector = None
    assert not _to_deployment(found).collect_data
