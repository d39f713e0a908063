import re
from dataclasses import replace

import pytest

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.azure.operation import DeadlinePassed
from mlflow_phi3.deployment.actions import in_words
from mlflow_phi3.deployment.plan import plan_deployment
from mlflow_phi3.deployment.rollout import get_current, roll_out
from mlflow_phi3.errors import AzureError, GateError
from tests.unit.deployment.fakes import make_wanted


def wanted(model="/m/chat/versions/1"):
    return make_wanted(model=model)


def passes(_endpoint, _name):
    pass


def fails(endpoint, name):
    raise GateError("PHI3-G701", "golden query 1 got no text")


def deploy(service, check=passes, model="/m/chat/versions/1", **options):
    plan = plan_deployment(get_current(service, "chat"), wanted(model))
    return roll_out(plan, service, check, told=lambda _line: None, **options)


def test_traffic_moves_only_after_the_check(service):
    seen = []
    deploy(service, lambda e, n: seen.append(dict(service.endpoints[e].traffic)))
    assert seen == [{}]
    assert service.endpoints["chat"].traffic == {"blue": 100}


def test_a_first_deployment_that_fails_its_check_leaves_nothing(service):
    with pytest.raises(GateError, match="Taken back") as raised:
        deploy(service, fails)
    assert service.endpoints == service.deployments == {}
    assert "last words of blue" in str(raised.value)


def test_a_second_one_that_fails_leaves_the_first_with_all_traffic(service):
    deploy(service)
    with pytest.raises(GateError) as raised:
        deploy(service, fails, "/m/chat/versions/2")
    assert "stays" not in str(raised.value)
    assert service.endpoints["chat"].traffic == {"blue": 100}
    assert set(service.deployments["chat"]) == {"blue"}


@pytest.mark.parametrize("step", ["put_endpoint", "put_deployment"])
def test_a_refused_call_leaves_nothing_and_a_second_run_succeeds(service, refused, step):
    service.faults[step] = [refused()]
    with pytest.raises(AzureError, match="a bad day"):
        deploy(service)
    assert service.endpoints == {}
    assert deploy(service) == ()
    assert service.endpoints["chat"].traffic == {"blue": 100}


def test_traffic_that_moved_before_its_call_failed_is_moved_back(service, refused):
    service.late_faults = [None, refused()]
    with pytest.raises(AzureError, match="done: traffic of chat back to nobody"):
        deploy(service)
    assert service.endpoints == service.deployments == {}

    deploy(service)
    before = service.endpoints["chat"]
    service.late_faults = [refused()]
    with pytest.raises(AzureError, match="done: delete deployment chat/green") as raised:
        deploy(service, model="/m/chat/versions/2")
    assert "stays" not in str(raised.value)
    assert service.endpoints["chat"] == before  # the ledger too
    assert set(service.deployments["chat"]) == {"blue"}


def test_what_cannot_be_taken_back_is_named(service, refused):
    service.faults = {"put_deployment": [refused()], "delete_deployment": [refused(403)]}
    with pytest.raises(AzureError, match="could not delete deployment chat/blue"):
        deploy(service)


def odd_answer(_endpoint, _name):
    raise ValueError("Expecting value")


def test_what_fails_in_a_way_that_nobody_expected_is_taken_back_too(service):
    deploy(service)
    with pytest.raises(ValueError, match="Expecting value") as raised:
        deploy(service, odd_answer, "/m/chat/versions/2")
    assert set(service.deployments["chat"]) == {"blue"}
    assert service.endpoints["chat"].traffic == {"blue": 100}
    (note,) = raised.value.__notes__
    assert "Taken back: done: delete deployment chat/green" in note
    assert "last words of green" in note


@pytest.mark.parametrize(
    ("stop", "traffic", "stays"),
    [
        (None, {"blue": 100}, "Deployment chat/green stays, and is billed: .*--name green removes"),
        (10, {"green": 10, "blue": 90}, "Deployment chat/green keeps its 10 % of the traffic\\.$"),
    ],
    ids=["idle", "canary"],
)
def test_a_check_that_fails_on_a_resumed_rollout_tells_what_stays(service, stop, traffic, stays):
    deploy(service)
    plan = plan_deployment(
        get_current(service, "chat"), replace(wanted("/m/chat/versions/2"), traffic=stop)
    )
    roll_out(plan, service, passes, told=lambda _line: None, wait=stop is not None)
    service.get_logs = lambda *_asked: ""
    for check, error in ((fails, GateError), (odd_answer, ValueError)):
        with pytest.raises(error) as raised:
            deploy(service, check, "/m/chat/versions/2")
        told = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
        assert re.search(stays, told)
        assert "Taken back" not in told
    assert set(service.deployments["chat"]) == {"blue", "green"}
    assert service.endpoints["chat"].traffic == traffic


@pytest.mark.parametrize("found", [None, AzureError("PHI3-A703", "no answer")])
def test_a_failure_is_shown_though_nothing_more_can_be_asked_of_it(service, found):
    deploy(service)
    deploy(service, model="/m/chat/versions/2", wait=False)

    def away(*_asked):
        if found is not None:
            raise found

    def check(endpoint, name):
        service.get_endpoint = service.get_logs = away
        fails(endpoint, name)

    with pytest.raises(GateError, match=r"got no text\.$"):
        deploy(service, check, "/m/chat/versions/2")


def test_traffic_that_cannot_move_on_a_resumed_rollout_leaves_what_stays_told(service, refused):
    deploy(service)
    deploy(service, model="/m/chat/versions/2", wait=False)
    before = service.endpoints["chat"]
    service.faults["put_endpoint"] = [refused()]
    with pytest.raises(AzureError, match=r"back to blue 100 %\. Deployment chat/green stays"):
        deploy(service, model="/m/chat/versions/2")
    assert service.endpoints["chat"] == before  # the ledger too
    assert service.calls[-1] == ("put_endpoint", "chat", {"green": 100})  # refused: none undoes it


def test_what_cannot_be_taken_back_keeps_nothing_else_from_it(service):
    service.faults["delete_deployment"] = [ValueError("odd")]
    with pytest.raises(GateError, match=r"could not delete deployment chat/blue \(ValueError"):
        deploy(service, fails)
    assert service.endpoints == {}


def test_after_a_deadline_nothing_is_removed_and_a_second_run_goes_on(service):
    late = DeadlinePassed("PHI3-A705", "not finished after 1 s")
    deploy(service)
    service.faults["put_deployment"] = [late]
    with pytest.raises(DeadlinePassed, match="Still to do: create deployment chat/green"):
        deploy(service, model="/m/chat/versions/2")
    assert not [call for call in service.calls if call[0].startswith("delete")]


def test_without_waiting_the_rest_is_left_and_the_next_run_does_it(service):
    left = deploy(service, wait=False)
    assert [in_words(step) for step in left] == [
        "check the answers of chat/blue",
        "traffic of chat to blue 100 %",
    ]
    assert service.endpoints["chat"].traffic == {}
    assert deploy(service) == ()
    assert service.endpoints["chat"].traffic == {"blue": 100}


def test_killed_after_any_step_a_second_run_completes(service):
    deploy(service)
    for step in ("put_deployment", "put_endpoint"):
        service.faults[step] = [KeyboardInterrupt()]
        with pytest.raises(KeyboardInterrupt):
            deploy(service, model="/m/chat/versions/2")
        assert service.endpoints["chat"].traffic == {"blue": 100}
    deploy(service, model="/m/chat/versions/2")
    assert service.endpoints["chat"].traffic == {"green": 100}


@pytest.mark.parametrize(
    ("step", "model", "told"),
    [
        (
            "put_deployment",
            1,
            "chat/blue stays, .*: mlflow deployments delete -t azure-foundry --name chat ",
        ),
        (
            "put_deployment",
            2,
            "chat/green stays, .* delete -t azure-foundry --endpoint chat --name green ",
        ),
        (
            "put_endpoint",
            2,
            "Still to do, by the same command: traffic of chat to green 100 %\n.*green",
        ),
        ("delete_deployment", 3, "Still to do, by the same command: delete deployment chat/blue$"),
    ],
)
def test_an_interrupted_command_tells_what_stays_and_is_billed(service, step, model, told):
    if model > 1:
        deploy(service)
    lines = []
    number = 1 if model == 1 else 2
    plan = plan_deployment(
        get_current(service, "chat"),
        replace(wanted(f"/m/chat/versions/{number}"), keep_previous=model < 3),
    )
    service.faults[step] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        roll_out(plan, service, passes, told=lines.append)
    assert re.search(told, lines[-1])
    assert not [call for call in service.calls if call[0] == "delete_endpoint"]


def test_what_was_made_is_taken_back_with_time_of_its_own(service):
    deploy(service)

    class Spent:
        """All of the command's time went into the check."""

        def __getattr__(self, name):
            return getattr(service, name)

        def delete_deployment(self, endpoint, name):
            raise DeadlinePassed("PHI3-A705", "not finished after 1 s")

    plan = plan_deployment(get_current(service, "chat"), wanted("/m/chat/versions/2"))
    with pytest.raises(GateError, match="done: delete deployment chat/green"):
        roll_out(plan, Spent(), fails, told=lambda _line: None)
    assert set(service.deployments["chat"]) == {"blue"}


def test_settings_with_which_the_live_one_does_not_answer_are_taken_back(service):
    deploy(service)
    before = service.deployments["chat"]["blue"]
    plan = plan_deployment(
        get_current(service, "chat"),
        make_wanted(deployment="blue", safety={"CONTENT_SAFETY_KEY": "bad"}),
    )
    with pytest.raises(GateError, match="done: update deployment chat/blue"):
        roll_out(plan, service, fails, told=lambda _line: None)
    assert service.deployments["chat"] == {"blue": before}

    service.faults["put_deployment"] = [KeyboardInterrupt()]
    lines = []
    with pytest.raises(KeyboardInterrupt):
        roll_out(plan, service, passes, told=lines.append)
    assert "Still to do" in lines[-1]
    assert "billed" not in lines[-1]  # it was there before

    service.faults["put_deployment"] = [None, ValueError("odd")]
    with pytest.raises(GateError, match=r"could not update .*: do it by mlflow deployments update"):
        roll_out(plan, service, fails, told=lambda _line: None)


def test_a_model_that_cannot_be_exchanged_in_place_is_put_back(service, refused):
    deploy(service)
    before = service.deployments["chat"]["blue"]
    plan = plan_deployment(
        get_current(service, "chat"), make_wanted(deployment="blue", model="/m/chat/versions/2")
    )
    service.faults["put_deployment"] = [refused()]
    with pytest.raises(AzureError, match="done: update deployment chat/blue"):
        roll_out(plan, service, passes, told=lambda _line: None)
    assert service.deployments["chat"] == {"blue": before}


def test_a_failure_after_a_canary_was_cleared_still_takes_the_new_one_back(service):
    deploy(service)
    plan = plan_deployment(
        get_current(service, "chat"),
        make_wanted(model="/m/chat/versions/2", traffic=10),
    )
    roll_out(plan, service, passes, told=lambda _line: None)
    assert service.endpoints["chat"].traffic == {"green": 10, "blue": 90}
    with pytest.raises(GateError, match="done: delete deployment chat/green") as raised:
        deploy(service, fails, "/m/chat/versions/3")
    assert "could not" not in str(raised.value)  # the canary's share goes back to nobody
    assert service.endpoints["chat"].traffic == {"blue": 100}
    assert set(service.deployments["chat"]) == {"blue"}


def test_when_the_old_one_cannot_be_removed_the_new_one_keeps_its_traffic(service, refused):
    deploy(service)
    wanted_next = make_wanted(model="/m/chat/versions/2", keep_previous=False)
    plan = plan_deployment(get_current(service, "chat"), wanted_next)
    service.faults["delete_deployment"] = [refused()]
    with pytest.raises(AzureError) as raised:
        roll_out(plan, service, passes, told=lambda _line: None)
    assert "Taken back" not in str(raised.value)
    assert service.endpoints["chat"].traffic == {"green": 100}
    assert set(service.deployments["chat"]) == {"blue", "green"}


def test_a_previous_one_that_cannot_be_removed_is_told_to_be_billed(service, refused):
    deploy(service)
    service.faults["delete_deployment"] = [refused()]
    changed = replace(wanted("/m/chat/versions/2"), keep_previous=False)
    told = r"bad day \(.*Deployment chat/blue stays, and is billed: .*--name blue removes it"
    with pytest.raises(AzureError, match=told):
        roll_out(
            plan_deployment(get_current(service, "chat"), changed),
            service,
            passes,
            told=lambda _line: None,
        )
    assert service.endpoints["chat"].traffic == {"green": 100}


def test_an_order_to_stop_while_it_takes_back_tells_what_stays_and_why(service):
    deploy(service)
    lines = []
    service.faults["delete_deployment"] = [KeyboardInterrupt()]
    plan = plan_deployment(get_current(service, "chat"), wanted("/m/chat/versions/2"))
    with pytest.raises(KeyboardInterrupt):
        roll_out(plan, service, fails, told=lines.append)
    assert re.search("(?s)PHI3-G.*deployment chat/green stays, and is billed", lines[-1])


def test_an_endpoint_whose_creation_failed_is_created_again(service):
    service.endpoints["chat"] = Endpoint("chat", "Failed")
    assert deploy(service) == ()
    assert service.endpoints["chat"].is_made
    assert service.endpoints["chat"].traffic == {"blue": 100}
