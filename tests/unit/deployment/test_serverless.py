"""Serverless endpoints: what a caller's words mean, and what is left when a call fails."""

import datetime as dt
from dataclasses import replace

import pytest

from mlflow_phi3.azure.operation import DeadlinePassed
from mlflow_phi3.azure.serverless import ServerlessEndpoint, serverless_body
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.safety import OFF_TAG
from mlflow_phi3.deployment.serverless import deploy_serverless, to_serverless
from mlflow_phi3.errors import AzureError, GateError, UsageError

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
OLD, NEW = (ServerlessEndpoint("chat", f"azureml://m/{version}") for version in (1, 2))


class MemoryServerless:
    """Keeps one endpoint; ``fault`` is raised by the next put, before or after it is done."""

    def __init__(self, known=None):
        self.known = known and replace(known, state="Succeeded", uri="u")
        self.fault, self.late, self.puts = None, False, 0

    def get(self, _name):
        return self.known

    def await_idle(self, _name):
        return self.known

    def put(self, wanted, *, wait=True):
        self.puts += 1
        fault, self.fault = self.fault, None
        if fault is not None and not self.late:
            raise fault
        self.known = replace(wanted, state="Succeeded" if wait else "Creating", uri="u")
        if fault is not None:
            raise fault

    def delete(self, _name):
        self.known = None


def deploy(service, wanted=NEW, check=lambda: None, *, wait=True):
    return deploy_serverless(service, wanted, check, wait=wait, told=lambda _line: None)


def bad_answers():
    raise GateError("PHI3-G701", "no text")


@pytest.mark.parametrize("known", [None, OLD], ids=["new", "changed"])
@pytest.mark.parametrize("late", [False, True], ids=["refused", "done-then-failed"])
def test_a_failed_call_leaves_what_was_there_and_a_second_run_completes(known, late):
    service = MemoryServerless(known)
    before = service.known
    service.fault, service.late = AzureError("PHI3-A701", "a bad day"), late
    with pytest.raises(AzureError):
        deploy(service)
    assert service.known == before
    assert deploy(service)["model"] == NEW.model_id


@pytest.mark.parametrize("known", [None, OLD], ids=["new", "changed"])
def test_bad_answers_leave_what_was_there(known):
    service = MemoryServerless(known)
    before = service.known
    with pytest.raises(GateError):
        deploy(service, check=bad_answers)
    assert service.known == before


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


def test_without_waiting_the_check_is_left():
    service = MemoryServerless()
    found = deploy(service, check=bad_answers, wait=False)
    assert found["left"] == ["check the answers of chat"]


def test_what_a_callers_words_mean():
    config = DeployConfig(content_safety=False, content_safety_reason="red team", ttl_hours=1)
    wanted = to_serverless("chat", "azureml://m/1", config, now=NOW)
    assert wanted.tags == {OFF_TAG: "red team", "azure.expires_at": "2026-01-01T01:00:00+00:00"}
    properties = serverless_body(wanted, "eastus2")["properties"]
    assert properties["contentSafety"] == {"contentSafetyStatus": "Disabled"}
    assert properties["authMode"] == "Key"
    for odd in ({"instance_count": 2}, {"content_safety_connection": "safety"}):
        with pytest.raises(UsageError, match="PHI3-U749"):
            to_serverless("chat", "azureml://m/1", DeployConfig(**odd), now=NOW)


def test_a_change_keeps_the_end_of_life_and_forgets_why_safety_was_off():
    ends = {"azure.expires_at": "2026-01-01T01:00:00+00:00"}
    service = MemoryServerless(replace(OLD, content_safety=False, tags={**ends, OFF_TAG: "a test"}))
    deploy(service)
    assert service.known.tags == ends
