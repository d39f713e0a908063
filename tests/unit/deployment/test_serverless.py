"""Serverless endpoints: what a caller's words mean, and what is left when a call fails."""

import datetime as dt
import re
from dataclasses import replace

import pytest

from mlflow_phi3.azure.operation import DeadlinePassed, Refused
from mlflow_phi3.azure.serverless import ServerlessEndpoint, serverless_body
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.safety import OFF_TAG
from mlflow_phi3.deployment.serverless import deploy_serverless, to_serverless
from mlflow_phi3.errors import AzureError, GateError, UsageError
from tests.unit.deployment.fakes import MemoryServerless

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
OLD, NEW = (ServerlessEndpoint("chat", f"azureml://m/{version}") for version in (1, 2))


def deploy(service, wanted=NEW, check=lambda: None, *, wait=True):
    return deploy_serverless(
        service, wanted, service.known, check, wait=wait, told=lambda _line: None
    )


def bad_answers():
    raise GateError("PHI3-G701", "no text")


@pytest.mark.parametrize("known", [None, OLD], ids=["new", "changed"])
@pytest.mark.parametrize("late", [False, True], ids=["refused", "done-then-failed"])
def test_a_failed_call_leaves_what_was_there_and_a_second_run_completes(known, late):
    service = MemoryServerless(known)
    before = service.known
    service.fault, service.late = AzureError("PHI3-A701", "a bad day"), late
    with pytest.raises(AzureError) as raised:
        deploy(service)
    assert "is left" not in str(raised.value)
    assert service.known == before
    assert deploy(service)["model"] == NEW.model_id


@pytest.mark.parametrize("known", [None, OLD], ids=["new", "changed"])
def test_what_was_refused_is_not_taken_back(known):
    service, lines = MemoryServerless(known), []
    service.fault = Refused("PHI3-A701", "one deployment per custom model", status=409)
    with pytest.raises(Refused):
        deploy_serverless(service, NEW, known, bad_answers, wait=True, told=lines.append)
    assert [line for line in lines if "take back" in line] == []
    assert service.puts == 1


@pytest.mark.parametrize("known", [None, OLD], ids=["new", "changed"])
def test_bad_answers_leave_what_was_there(known):
    service = MemoryServerless(known)
    before = service.known
    with pytest.raises(GateError):
        deploy(service, check=bad_answers)
    assert service.known == before


@pytest.mark.parametrize("known", [None, OLD], ids=["new", "changed"])
def test_what_another_command_has_given_another_model_is_left(known):
    service = MemoryServerless(known)
    other = replace(NEW, model_id="azureml://m/models/x/versions/3")

    def overtaken():
        service.put(other)
        bad_answers()

    with pytest.raises(GateError, match="serverless endpoint chat is left: another command has"):
        deploy(service, check=overtaken)
    assert service.known.model_id == other.model_id


def test_what_was_not_changed_is_not_taken_back():
    service = MemoryServerless(NEW)
    with pytest.raises(GateError) as raised:
        deploy(service, check=bad_answers)
    assert service.puts == 0
    assert "Taken back" not in str(raised.value)
    assert str(raised.value).endswith(
        "Serverless endpoint chat stays, and is billed: "
        "mlflow deployments delete -t azure-foundry --name chat removes it."
    )


def test_what_became_of_the_way_back_is_told_with_the_first_error():
    with pytest.raises(GateError, match="Taken back: done: delete serverless endpoint chat"):
        deploy(MemoryServerless(), check=bad_answers)
    service = MemoryServerless()
    service.stuck = DeadlinePassed("PHI3-A705", "not finished after 1 s")
    with pytest.raises(
        GateError, match=r"could not delete serverless endpoint chat \(not finished"
    ):
        deploy(service, check=bad_answers)


def test_the_way_back_has_time_of_its_own():
    service, spent = MemoryServerless(), MemoryServerless()
    spent.stuck, spent.renewed = DeadlinePassed("PHI3-A705", "not finished"), lambda: service
    service.known = NEW
    with pytest.raises(GateError, match="done: delete"):
        deploy(spent, check=bad_answers)
    assert service.known is None


@pytest.mark.parametrize("known", [None, OLD], ids=["new", "changed"])
def test_an_interrupted_command_tells_what_is_billed(known):
    service, lines = MemoryServerless(known), []
    service.fault, service.late = KeyboardInterrupt(), True
    with pytest.raises(KeyboardInterrupt):
        deploy_serverless(service, NEW, service.known, bad_answers, wait=True, told=lines.append)
    assert service.known.model_id == NEW.model_id
    assert ["is billed" in line for line in lines[1:]] == ([] if known else [True])


def test_an_order_to_stop_while_it_takes_back_tells_what_stays_and_why():
    service, lines = MemoryServerless(), []
    service.stuck = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        deploy_serverless(service, NEW, None, bad_answers, wait=True, told=lines.append)
    assert re.search("(?s)PHI3-G.*serverless endpoint chat stays, and is billed", lines[-1])


def test_after_a_deadline_nothing_is_taken_back():
    service = MemoryServerless()
    service.fault, service.late = DeadlinePassed("PHI3-A705", "not finished"), True
    with pytest.raises(DeadlinePassed):
        deploy(service)
    assert service.known is not None


def test_one_that_is_as_wanted_is_left_alone_but_checked():
    service = MemoryServerless(NEW)
    asked = []
    deploy(service, check=lambda: asked.append("it"))
    assert (service.puts, asked) == (0, ["it"])


def test_one_that_failed_is_put_again():
    service = MemoryServerless(NEW)
    service.known = replace(service.known, state="Failed")
    deploy(service)
    assert (service.puts, service.known.state) == (1, "Succeeded")


def test_without_waiting_the_check_is_left():
    service = MemoryServerless()
    found = deploy(service, check=bad_answers, wait=False)
    assert found["left"] == ["check the answers of chat"]


def test_what_a_callers_words_mean():
    config = DeployConfig(content_safety=False, content_safety_reason="red team", ttl_hours=1)
    wanted = to_serverless(NEW, config, None, now=NOW)
    assert wanted.tags == {OFF_TAG: "red team", "azure.expires_at": "2026-01-01T01:00:00+00:00"}
    properties = serverless_body(wanted, "eastus2")["properties"]
    assert properties["contentSafety"] == {"contentSafetyStatus": "Disabled"}
    assert properties["authMode"] == "Key"
    for odd in (
        {"instance_count": 2},
        {"content_safety_connection": "safety"},
        {"collect_data": True},
    ):
        with pytest.raises(UsageError, match="PHI3-U749"):
            to_serverless(NEW, DeployConfig(**odd), None, now=NOW)
    assert to_serverless(NEW, DeployConfig(), None, now=NOW).content_safety


def test_what_is_not_named_stays():
    ends = {"azure.expires_at": "2026-01-01T05:00:00+00:00"}
    known = replace(OLD, content_safety=False, tags={"team": "x", OFF_TAG: "own filter"})
    changed = to_serverless(OLD, DeployConfig(ttl_hours=5), known, now=NOW)
    assert not changed.content_safety
    assert changed.tags == {"team": "x", OFF_TAG: "own filter", **ends}
    on = to_serverless(NEW, DeployConfig(content_safety=True), changed, now=NOW)
    assert on.content_safety
    assert on.tags == {"team": "x", **ends}


def test_an_answer_that_is_no_fault_of_ours_is_taken_back_too():
    service = MemoryServerless()

    def odd():
        raise ValueError("Expecting value")

    with pytest.raises(ValueError, match="Expecting value"):
        deploy(service, check=odd)
    assert service.known is None
