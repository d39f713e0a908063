import os
import sys
import threading
import warnings

import pytest
from azure.mgmt.core.polling.arm_polling import ARMPolling

from mlflow_phi3.azure.operation import Deadline, DeadlinePassed, finish
from mlflow_phi3.azure.quiet import applied, quiet


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
    times = iter([0.0, 0.0, 5.0, 11.0, 12.0])
    with pytest.raises(DeadlinePassed, match=r"endpoint chat: .*InProgress.*run the same command"):
        finish(Poller(99), Deadline(10, lambda: next(times)), where="endpoint chat")


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
