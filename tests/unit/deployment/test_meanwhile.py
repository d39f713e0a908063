"""Two commands at work on one name: neither undoes, overwrites or gives traffic to the other's."""

from dataclasses import replace

import pytest

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.azure.operation import Refused
from mlflow_phi3.deployment.ledger import read_ledger
from mlflow_phi3.deployment.meanwhile import Overtaken
from mlflow_phi3.deployment.plan import plan_deployment
from mlflow_phi3.deployment.rollout import get_current, roll_out
from mlflow_phi3.errors import AzureError, GateError
from tests.unit.deployment.fakes import make_deployment, make_wanted

MODEL = "/m/chat/versions/"


def planned(service, version, **changes):
    wanted = make_wanted(model=f"{MODEL}{version}", **changes)
    return plan_deployment(get_current(service, "chat"), wanted)


def done(service, plan, check=lambda _endpoint, _name: None):
    return roll_out(plan, service, check, told=lambda _line: None)


def deploy(service, version, **changes):
    return done(service, planned(service, version, **changes))


def fails(_endpoint, _name):
    raise GateError("PHI3-G701", "no text")


def running(service):
    endpoint = service.endpoints["chat"]
    models = {name: d.model.removeprefix(MODEL) for name, d in service.deployments["chat"].items()}
    return models, dict(endpoint.traffic)


def test_a_second_create_leaves_what_the_first_has_made(service):
    later = planned(service, 2)
    deploy(service, 1)
    calls = len(service.calls)
    with pytest.raises(Refused, match="PHI3-A713 endpoint chat: it was created meanwhile") as told:
        done(service, later, fails)
    assert "Taken back" not in str(told.value)
    assert running(service) == ({"blue": "1"}, {"blue": 100})
    assert len(service.calls) == calls


def test_an_endpoint_that_another_command_has_deployed_to_is_left(service):
    plan = planned(service, 2)
    real = service.put_endpoint

    def overtaken(endpoint):
        real(endpoint)
        service.put_endpoint = real
        deploy(service, 1)

    service.put_endpoint = overtaken
    with pytest.raises(Refused, match="chat/blue: it was created meanwhile, with chat/1") as told:
        done(service, plan, fails)
    assert "endpoint chat is left: another command has made blue in it" in str(told.value)
    assert running(service) == ({"blue": "1"}, {"blue": 100})


def test_an_endpoint_that_another_command_is_creating_is_left(service):
    plan = planned(service, 2)
    service.endpoints["chat"] = Endpoint("chat", "Creating")
    with pytest.raises(Overtaken, match="endpoint chat: it was created meanwhile"):
        done(service, plan)
    assert service.calls == []


def test_what_azure_writes_before_a_models_name_is_no_change(service):
    def rewritten(endpoint, name):
        there = service.deployments[endpoint]
        there[name] = replace(there[name], model=f"AzureML:{there[name].model}")

    done(service, planned(service, 1), rewritten)
    assert service.endpoints["chat"].traffic == {"blue": 100}


@pytest.mark.parametrize("step", ["put_endpoint", "put_deployment"])
def test_what_azure_refuses_at_its_start_is_not_taken_back(service, step):
    deploy(service, 1)
    service.faults[step] = [Refused("PHI3-A701", "another operation is in progress", status=409)]
    before = len(service.calls)
    with pytest.raises(Refused) as told:
        deploy(service, 2)
    names = [call[0] for call in service.calls[before:]]
    made = ["put_deployment"] if step == "put_deployment" else []
    assert names == (made or ["put_deployment", "put_endpoint", "delete_deployment"])
    assert "back to" not in str(told.value)
    assert running(service) == ({"blue": "1"}, {"blue": 100})


def test_a_second_update_does_not_overwrite_what_took_the_free_slot(service):
    deploy(service, 1)
    later = planned(service, 2)
    deploy(service, 3)
    with pytest.raises(Refused, match="chat/green: it was created meanwhile, with chat/3"):
        done(service, later, fails)
    assert running(service) == ({"blue": "1", "green": "3"}, {"green": 100})


@pytest.mark.parametrize("check", [None, fails], ids=["answers well", "answers badly"])
def test_what_was_replaced_during_its_check_gets_no_traffic_and_is_left(service, check):
    deploy(service, 1)

    def overtaken(endpoint, name):
        service.delete_deployment(endpoint, name)
        service.put_deployment(endpoint, make_deployment(name, f"{MODEL}3"))
        if check:
            check(endpoint, name)

    with pytest.raises((Overtaken, GateError)) as told:
        done(service, planned(service, 2), overtaken)
    assert "chat/green is left: another command has given it chat/3" in str(told.value)
    assert running(service) == ({"blue": "1", "green": "3"}, {"blue": 100})


def test_what_is_not_there_or_not_running_by_now_is_not_asked(service):
    deploy(service, 1)
    deploy(service, 2)
    back = planned(service, 1)
    blue = service.deployments["chat"]["blue"]
    for there in ({}, {"blue": replace(blue, state="Updating")}):
        service.deployments["chat"] = {**service.deployments["chat"], **there}
        if not there:
            del service.deployments["chat"]["blue"]
        told = r"chat/blue: it (was deleted|is in state Updating)"
        with pytest.raises(Overtaken, match=told) as raised:
            done(service, back)
        assert "stays" not in str(raised.value)  # it is not ours to delete, nor is its log
        assert "last words" not in str(raised.value)
    assert service.endpoints["chat"].traffic == {"green": 100}


def test_traffic_that_was_changed_meanwhile_is_not_moved(service):
    deploy(service, 1)
    service.deployments["chat"]["red"] = replace(service.deployments["chat"]["blue"], name="red")

    def overtaken(endpoint, _name):
        moved = {"blue": 50, "red": 50}
        service.endpoints[endpoint] = replace(service.endpoints[endpoint], traffic=moved)

    with pytest.raises(Overtaken, match=r"traffic was changed meanwhile to blue=50,red=50.*again"):
        done(service, planned(service, 2), overtaken)
    models, traffic = running(service)
    assert (set(models), traffic) == ({"blue", "red"}, {"blue": 50, "red": 50})


def test_traffic_that_another_command_has_moved_is_not_taken_back(service, refused):
    deploy(service, 1)
    real, bad = service.put_endpoint, refused()
    other = {"blue": 70, "green": 30}

    def overtaken(endpoint):
        real(replace(endpoint, traffic=other))
        raise bad

    service.put_endpoint = overtaken
    with pytest.raises(
        AzureError, match="traffic of chat is left: another command has changed it to"
    ):
        deploy(service, 2)
    assert running(service) == ({"blue": "1", "green": "2"}, other)


def test_the_same_command_twice_at_work_moves_traffic_once(service):
    deploy(service, 1)

    def overtaken(_endpoint, _name):
        deploy(service, 2)

    done(service, planned(service, 2), overtaken)
    assert running(service) == ({"blue": "1", "green": "2"}, {"green": 100})
    assert [e.after for e in read_ledger(service.endpoints["chat"].tags)][1:] == [{"green": 100}]


def test_what_somebody_gave_traffic_is_not_deleted(service):
    deploy(service, 1)

    def promoted(endpoint, name):
        there = service.endpoints[endpoint]
        service.endpoints[endpoint] = replace(there, traffic={name: 100})
        fails(endpoint, name)

    told = r"chat/green has 100 % of the traffic: mlflow-phi3 rollback chat"
    with pytest.raises(GateError, match=told) as failed:
        done(service, planned(service, 2), promoted)
    assert "deployments delete" not in str(failed.value)
    assert running(service) == ({"blue": "1", "green": "2"}, {"green": 100})


def test_a_first_one_that_somebody_gave_traffic_keeps_its_endpoint(service):
    def promoted(endpoint, name):
        there = service.endpoints[endpoint]
        service.endpoints[endpoint] = replace(there, traffic={name: 100})
        fails(endpoint, name)

    with pytest.raises(GateError, match="endpoint chat is left: it has traffic: blue=100"):
        done(service, planned(service, 1), promoted)
    assert running(service) == ({"blue": "1"}, {"blue": 100})


def test_settings_are_not_put_back_over_another_model(service):
    deploy(service, 1)

    def overtaken(endpoint, name):
        there = service.deployments[endpoint][name]
        service.deployments[endpoint][name] = replace(there, model=f"{MODEL}3")
        fails(endpoint, name)

    plan = planned(service, 1, instance_count=2)
    with pytest.raises(GateError, match="chat/blue is left: it was given chat/3 meanwhile"):
        done(service, plan, overtaken)
    assert running(service)[0] == {"blue": "3"}
    with pytest.raises(Overtaken, match="chat/blue: it was given chat/3 meanwhile"):
        done(service, plan)


def test_a_previous_one_that_has_traffic_by_now_is_not_removed(service):
    deploy(service, 1)
    plan = planned(service, 2, keep_previous=False)
    real = service.put_endpoint

    def shared(endpoint):
        real(replace(endpoint, traffic={"blue": 10, "green": 90}))

    service.put_endpoint = shared
    with pytest.raises(Overtaken, match="chat/blue: it has 10 % of the traffic by now"):
        done(service, plan)
    assert set(running(service)[0]) == {"blue", "green"}
