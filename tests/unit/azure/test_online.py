"""Deployments on their way to Azure's shapes and back."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from azure.core.exceptions import HttpResponseError

from mlflow_phi3.azure.failures import translated
from mlflow_phi3.azure.online import (
    Deployment,
    Endpoint,
    OnlineService,
    _to_deployment,
    deployment_entity,
)
from mlflow_phi3.azure.operation import Deadline, DeadlinePassed, Refused
from mlflow_phi3.azure.quiet import quiet

MODEL = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"
    "/workspaces/w/models/chat/versions/1"
)
PLAIN = Deployment(
    "blue",
    MODEL,
    "Standard_DS3_v2",
    2,
    tags={"team": "x"},
    variables={"A": "1"},
    request_timeout_s=90,
    collect_data=False,
    kept={},
)


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


def test_what_others_have_set_is_sent_back_as_it_came():
    """As the service answers it: probes, limits, code and collections that no option names."""
    probe = {"initial_delay": 20, "period": 5, "timeout": 2, "failure_threshold": 3}
    kept = {
        "app_insights_enabled": True,
        "environment": f"{MODEL.partition('/models')[0]}/environments/ours/versions/1",
        "code_configuration": {"code": "azureml:/codes/1", "scoring_script": "score.py"},
        "request_settings": {"max_concurrent_requests_per_instance": 0, "max_queue_wait_ms": 2000},
        "liveness_probe": probe,
        "readiness_probe": None,
        "data_collector": {
            "collections": {
                "request": {"enabled": "true", "data": "azureml:/data/1", "client_id": "c"},
                "model_outputs": {"enabled": "true"},
            },
            "rolling_rate": "day",
            "sampling_rate": 0.1,
            "request_logging": ["x-team"],
        },
    }
    wanted = replace(PLAIN, collect_data=True, kept=kept)
    assert _to_deployment(answered(wanted, "Enabled")) == wanted


def test_what_the_service_adds_by_itself_is_nobodys_wish():
    found = answered(PLAIN, "Enabled")
    found.egress_public_network_access = "Enabled"
    found.request_settings.max_concurrent_requests_per_instance = 1
    found.environment_variables["AZUREML_MODEL_DIR"] = "/var/azureml-app/azureml-models/chat/1"
    assert _to_deployment(found) == PLAIN


@pytest.mark.parametrize("state", ["Creating", "Updating", "Deleting", "Scaling"])
def test_an_endpoint_is_busy_while_a_deployment_of_it_is(state):
    service = OnlineService(SimpleNamespace(target=None), Deadline(0))
    service.get_endpoint = lambda name: Endpoint(name, "Succeeded")
    service.list_deployments = lambda _endpoint: [replace(PLAIN, state=state)]
    with pytest.raises(DeadlinePassed, match=rf"blue \({state}\) is still being changed"):
        service.await_idle("chat")


BUSY = HttpResponseError(response=SimpleNamespace(status_code=409, reason="Conflict", headers={}))


class Conflicting:
    """A project that answers each change of an endpoint as one whose answer was lost."""

    target = online_endpoints = property(lambda self: self)

    @contextmanager
    def session(self, where):
        with translated(where):
            yield self

    def begin_create_or_update(self, _endpoint):
        raise BUSY


@pytest.mark.parametrize(
    ("found", "done"),
    [
        ({}, True),
        ({"state": "Failed"}, False),
        ({"traffic": {"blue": 100}}, False),
        ({"mirror": {}}, False),
        ({"mirror": {"green": 9, "blue": 5}}, False),
        ({"tags": {}}, False),
    ],
)
def test_a_change_of_an_endpoint_is_recognised_by_all_that_it_changes(found, done):
    wanted = Endpoint(
        "chat", traffic={"red": 100}, mirror={"green": 9, "red": 5}, tags={"team": "x"}
    )
    there = replace(wanted, state="Succeeded", mirror={"green": 9})
    service = OnlineService(Conflicting(), Deadline(0))
    service.get_endpoint = lambda _name: replace(there, **found)
    service.list_deployments = lambda _endpoint: []
    with nullcontext() if done else pytest.raises(Refused, match="status 409"):
        service.put_endpoint(wanted)


def test_a_deployment_without_a_timeout_keeps_the_services_own():
    found = answered(PLAIN, "Enabled")
    found.request_settings = None
    assert _to_deployment(found).request_timeout_s == 5
