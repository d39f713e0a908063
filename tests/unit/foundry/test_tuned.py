from dataclasses import replace
from types import SimpleNamespace

import pytest

from mlflow_phi3.azure.finetuning import JobState, TunedModel
from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.azure.serverless import ServerlessEndpoint
from mlflow_phi3.errors import AzureError, UsageError
from mlflow_phi3.foundry.tuned import Deployed, Inventory, Removal, find_deployed, plan_removal

MODEL = TunedModel("phi3-chat", "2", "azureml://locations/x/workspaces/y/models/...", "job-1")
SERVERLESS = Deployed("chat")
ALONE = Deployed("big", "blue")
SHARED = Deployed("busy", "green", alone=False, traffic=0)


def test_a_served_model_is_not_deleted_and_its_places_are_named():
    with pytest.raises(UsageError) as refused:
        plan_removal(MODEL, [SERVERLESS, ALONE, SHARED], cascade=False)
    said = str(refused.value)
    assert "serverless endpoint chat, deployment blue of endpoint big" in said
    assert "deployments delete -t azure-foundry --name chat; " in said
    assert "deployments delete -t azure-foundry --name big; " in said
    assert "deployments delete -t azure-foundry --endpoint busy --name green; " in said
    assert "--cascade" in said


def test_what_serves_it_goes_first():
    removal = plan_removal(MODEL, [SERVERLESS, ALONE, SHARED], cascade=True)

    assert removal.lines() == [
        "1. delete serverless endpoint chat",
        "2. delete endpoint big with deployment blue",
        "3. delete deployment green of endpoint busy",
        "4. delete model phi3-chat:2",
    ]


def test_requests_that_others_could_answer_are_not_lost():
    busy = Deployed("busy", "green", alone=False, traffic=30)
    with pytest.raises(UsageError, match=r"30 % of the requests"):
        plan_removal(MODEL, [busy], cascade=True)


def test_a_job_goes_when_it_is_over():
    def job(status):
        return JobState("job-1", status, "phi3-chat", "", {}, {}, "", "")

    assert plan_removal(job("Completed"), [], cascade=False).lines() == ["1. delete job job-1"]
    with pytest.raises(UsageError, match="it is Running"):
        plan_removal(job("Running"), [], cascade=True)


def test_what_another_model_shares_is_not_taken_for_alone():
    path = "/subscriptions/s/models/Phi3-Chat/versions"
    running = {
        "big": [SimpleNamespace(name="blue", model=f"{path}/2")],
        "busy": [
            SimpleNamespace(name="blue", model=f"{path}/22"),
            SimpleNamespace(name="green", model=f"{path}/2"),
        ],
    }
    serverless = SimpleNamespace(
        list_endpoints=lambda: [ServerlessEndpoint("chat", f"azureml:/{path}/2")]
    )
    online = SimpleNamespace(
        list_endpoints=lambda: [Endpoint(name, traffic={"blue": 100}) for name in running],
        list_deployments=running.get,
    )
    alone = Deployed("big", "blue", traffic=100)
    assert find_deployed(MODEL, serverless, online) == [SERVERLESS, alone, SHARED]


def test_a_model_is_found_by_its_name_and_version_alone():
    others = [replace(MODEL, version="1"), replace(MODEL, name="other")]
    inventory = object.__new__(Inventory)
    inventory.service = SimpleNamespace(
        get=lambda _job: None, tuned_models=lambda: [*others, MODEL]
    )
    assert inventory.find("phi3-chat:2") == MODEL
    assert inventory.find("other") == others[1]
    with pytest.raises(UsageError, match=r"PHI3-U780 .*one of phi3-chat:1, phi3-chat:2"):
        inventory.find("phi3-chat")
    with pytest.raises(UsageError, match="PHI3-U781"):
        inventory.find("phi3-chat:3")


def test_removal_keeps_its_order_and_stops_at_the_first_failure():
    done = []

    class Service:
        def delete(self, name):
            done.append(name)
            if name == "stuck":
                raise RuntimeError

        delete_endpoint = delete

        def delete_deployment(self, endpoint, name):
            done.append((endpoint, name))

        def delete_model(self, model):
            done.append(model.name)

    there = [SERVERLESS, ALONE, SHARED, Deployed("stuck")]
    inventory = object.__new__(Inventory)
    inventory.deployed = lambda _model: there
    inventory.service = inventory._online = inventory._serverless = Service()
    inventory.remove(Removal((SERVERLESS, ALONE, SHARED), MODEL), lambda _line: None)
    assert done == ["chat", "big", ("busy", "green"), "phi3-chat"]
    there[2] = replace(SHARED, alone=True)  # what it shared its endpoint with has gone
    inventory.remove(Removal((SHARED,), MODEL), lambda _line: None)
    assert done[4:] == [("busy", "green"), "phi3-chat"]
    done.clear()
    with pytest.raises(RuntimeError):
        inventory.remove(Removal((Deployed("stuck"),), MODEL), lambda _line: None)
    assert done == ["stuck"]
    done.clear()
    there[1] = replace(ALONE, alone=False)  # another model came to live there: it has to stay
    with pytest.raises(AzureError, match="PHI3-A736 deployment blue of endpoint big: it was chang"):
        inventory.remove(Removal((SERVERLESS, ALONE, SHARED), MODEL), lambda _line: None)
    assert done == ["chat"]
