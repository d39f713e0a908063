import os
import sys
import threading
import warnings
from contextlib import nullcontext

import pytest
from azure.mgmt.core.polling.arm_polling import ARMPolling

from mlflow_phi3.azure import operation
from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.azure.operation import (
    Deadline,
    DeadlinePassed,
    Refused,
    await_idle,
    beginning,
    finish,
    followed,
    state_of_deletion,
)
from mlflow_phi3.azure.quiet import applied, quiet
from mlflow_phi3.errors import AzureError


class Poller:
    def __init__(self, polls):
        self.polls = polls

    def done(self):
        return self.polls <= 0

    def wait(self, _timeout):
        self.polls -= 1

    def status(self):
        return "InProgress"

    def result(self):
        return "made"


def test_an_operation_is_waited_for():
    assert finish(Poller(3), Deadline(60), where="x") == "made"


def test_a_deadline_says_where_and_how_to_go_on():
    times, poller = iter([0.0, 0.0, 9.5, 11.0]), Poller(99)
    with pytest.raises(DeadlinePassed, match=r"endpoint chat: .*InProgress.*run the same command"):
        finish(poller, Deadline(10, lambda: next(times)), where="endpoint chat")
    assert poller.polls == 97


def test_pauses_grow_up_to_a_bound_and_end_with_the_deadline(monkeypatch):
    slept = []
    monkeypatch.setattr(operation.time, "sleep", slept.append)
    deadline = Deadline(30, lambda: sum(slept))
    with pytest.raises(DeadlinePassed, match=r"chat \(Updating\) is still being .* after 30 s"):
        await_idle(lambda: "chat (Updating)", deadline, where="endpoint chat")
    assert (slept[:3], max(slept)) == (pytest.approx([0.2, 0.3, 0.45]), 5)
    assert sum(slept) == pytest.approx(30)


@pytest.mark.parametrize(
    ("status", "refused"), [(None, False), (399, False), (400, True), (499, True), (500, False)]
)
def test_what_the_service_refused_was_not_begun(status, refused):
    with pytest.raises(AzureError) as failed, beginning():
        raise AzureError("PHI3-A701", "no", status=status)
    assert isinstance(failed.value, Refused) is refused


def refusal(status):
    return Refused.of(AzureError("PHI3-A701", "no", status=status))


LOST = AzureError("PHI3-A703", "no answer")
FAILED = AzureError("PHI3-A701", "no", status=500)


@pytest.mark.parametrize(
    ("came", "states", "ends"),
    [
        (LOST, ["Updating", "Succeeded"], None),
        (FAILED, ["Succeeded", "Succeeded"], None),
        *((refusal(status), ["Updating", "Succeeded"], None) for status in (401, 408, 409, 429)),
        (refusal(409), ["Succeeded", "Succeeded"], None),
        (refusal(409), ["Failed"], r"A701: no \(status 409"),  # as it was before
        (refusal(409), [""], r"A701: no \(status 409"),
        (LOST, [""], "A703: no answer"),
        (LOST, ["Failed", "Failed"], r"A714 chat: .*state Failed\); .*no answer"),
        (LOST, ["Updating", ""], r"A714 chat: .*state unknown\); .*no answer"),
        (refusal(403), [], r"A701: no \(status 403"),
        (DeadlinePassed("PHI3-A705", "not finished"), [], "A705: not finished"),
    ],
)
def test_a_change_whose_answer_was_lost_is_looked_at(came, states, ends):
    told, settled = iter(states), []
    ending = pytest.raises(AzureError, match=ends) if ends else nullcontext()
    with ending, followed(lambda: next(told), lambda: settled.append(1), where="chat"):
        raise came
    assert list(told) == []
    assert len(settled) == (len(states) == 2)


@pytest.mark.parametrize(
    ("found", "state"), [(None, "Succeeded"), ("Deleting", "Deleting"), ("Failed", "")]
)
def test_how_a_deletion_stands(found, state):
    assert state_of_deletion(found and Endpoint("chat", found)) == state


def test_settings_hold_only_inside_and_the_sdks_own_are_put_back(monkeypatch):
    monkeypatch.setenv("AZURE_TENANT_ID", "mine")
    monkeypatch.delenv("AZUREML_CURRENT_CLOUD", raising=False)
    with applied({"AZURE_TENANT_ID": "other", "AZURE_CLIENT_ID": "c"}):
        assert os.environ["AZURE_TENANT_ID"] == "other"
        os.environ["AZUREML_CURRENT_CLOUD"] = "Emulator"
    assert os.environ["AZURE_TENANT_ID"] == "mine"
    assert "AZUREML_CURRENT_CLOUD" not in os.environ
    assert "AZURE_CLIENT_ID" not in os.environ


def overlapping(change):
    """Two threads inside a change at once, of which the first leaves first."""
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def second():
        with change():
            second_is_in.set()
            first_is_out.wait(5)

    thread = threading.Thread(target=second)
    with change():
        thread.start()
        second_is_in.wait(5)
    first_is_out.set()
    thread.join()


def test_threads_leave_the_process_as_they_found_it(monkeypatch):
    monkeypatch.setenv("AZURE_TENANT_ID", "mine")
    out, err, shown = sys.stdout, sys.stderr, warnings.showwarning

    overlapping(quiet)
    overlapping(lambda: applied({"AZURE_TENANT_ID": "other"}))

    assert (sys.stdout, sys.stderr, warnings.showwarning) == (out, err, shown)
    assert os.environ["AZURE_TENANT_ID"] == "mine"


def test_threads_of_two_clouds_take_turns(monkeypatch):
    monkeypatch.setenv("AZURE_TENANT_ID", "mine")
    seen = []

    def other_cloud():
        with applied({"AZURE_TENANT_ID": "other"}):
            seen.append(os.environ["AZURE_TENANT_ID"])

    thread = threading.Thread(target=other_cloud)
    with applied({}):
        thread.start()
        thread.join(0.05)
        seen.append(os.environ["AZURE_TENANT_ID"])
        with applied({"AZURE_TENANT_ID": "inner"}):  # who is inside never waits
            seen.append(os.environ["AZURE_TENANT_ID"])
    thread.join()

    assert seen == ["mine", "inner", "other"]
    assert os.environ["AZURE_TENANT_ID"] == "mine"


def test_what_the_sdk_prints_is_kept_in(capsys):
    with quiet():
        print("....")
    assert capsys.readouterr().out == ""


def test_a_poller_that_nobody_waits_for_prints_nothing(capsys, monkeypatch):
    monkeypatch.setattr(ARMPolling, "update_status", lambda _polling: None)
    with quiet():
        from azure.ai.ml._utils._azureml_polling import AzureMLPolling

        polling = AzureMLPolling()
    polling.update_status()
    assert capsys.readouterr().out == ""
    AzureMLPolling().update_status()  # somebody's own
    assert capsys.readouterr().out == "."
