import json
from dataclasses import replace

import pytest

from mlflow_phi3.data.messages import Conversation, Message
from mlflow_phi3.errors import AzureError, PreflightError, UsageError
from mlflow_phi3.foundry.submission import (
    JobTemplate,
    check_demo,
    choose_base,
    model_of,
    plan_job,
    submit_once,
    was_submitted,
    write_split,
)
from mlflow_phi3.training.spec import TrialSpec
from tests.unit.foundry.project import Project, model, state

TEMPLATE = JobTemplate("Phi-4-mini-instruct", "1", "train@1", "validation@1", "phi3-chat")
SPEC = TrialSpec(learning_rate=2e-5, epochs=2, per_device_batch_size=4)


def test_the_same_training_has_the_same_name_and_another_has_another():
    name = plan_job(TEMPLATE, SPEC).name

    assert name == "phi3-chat-312ddf2139f6"  # by which jobs of versions before are found
    same = TrialSpec(learning_rate=2e-5, epochs=2, per_device_batch_size=2, batch_size_multiplier=2)
    assert plan_job(TEMPLATE, same).name == name  # the effective batch is what Foundry is told
    changes = [
        (TEMPLATE, replace(SPEC, epochs=3)),
        (TEMPLATE, replace(SPEC, learning_rate=3e-5)),
        (replace(TEMPLATE, train="train@2"), SPEC),
        (replace(TEMPLATE, output="other"), SPEC),
        (replace(TEMPLATE, base_version="2"), SPEC),
    ]
    names = {plan_job(template, spec).name for template, spec in changes}
    assert len(names) == len(changes)
    assert name not in names


def test_a_retry_submits_nothing():
    project, wanted = Project(), plan_job(TEMPLATE, SPEC)

    first, new = submit_once(project, wanted)
    again, submitted_again = submit_once(project, wanted)

    assert (new, submitted_again) == (True, False)
    assert first.name == again.name == wanted.name
    assert project.submitted == [wanted.name]


@pytest.mark.parametrize("status", ["Failed", "Canceled"])
def test_what_ended_badly_gets_a_successor(status):
    project, wanted = Project(), plan_job(TEMPLATE, SPEC)
    project.jobs[wanted.name] = state(wanted.name, status)

    found, new = submit_once(project, wanted)

    assert (found.name, new) == (f"{wanted.name}-2", True)
    assert submit_once(project, wanted) == (found, False)


def test_a_deleted_job_hides_none_of_its_successors():
    project, wanted = Project(), plan_job(TEMPLATE, SPEC)
    second, third = f"{wanted.name}-2", f"{wanted.name}-3"
    project.jobs = {
        second: state(second, "Completed"),
        f"{wanted.name}x": state(f"{wanted.name}x", "Running"),
    }
    project.models[second] = model(second)

    assert submit_once(project, wanted) == (project.jobs[second], False)
    assert was_submitted(project, TEMPLATE, SPEC)

    del project.models[second]  # its number is not given anew either
    assert submit_once(project, wanted)[0].name == third
    project.jobs = {third: state(third, "Failed")}
    assert submit_once(project, wanted)[0].name == f"{wanted.name}-4"


def test_a_job_that_is_not_listed_yet_is_taken_up():
    project, wanted = Project(), plan_job(TEMPLATE, SPEC)
    project.jobs[wanted.name] = state(wanted.name, "Failed")
    submit_once(project, wanted)
    for listed in ([], [project.jobs[wanted.name]]):
        project.list_jobs = lambda listed=listed: listed
        assert submit_once(project, wanted)[1] is False


def test_a_finished_job_counts_while_its_model_is_there():
    project, wanted = Project(), plan_job(TEMPLATE, SPEC)
    project.jobs[wanted.name] = state(wanted.name, "Completed")
    project.models[wanted.name] = model(wanted.name)
    assert submit_once(project, wanted)[1] is False

    del project.models[wanted.name]

    assert submit_once(project, wanted)[0].name == f"{wanted.name}-2"


def test_a_failed_successor_hides_no_job_that_has_its_model():
    project, wanted = Project(), plan_job(TEMPLATE, SPEC)
    for name, status in ((wanted.name, "Completed"), (f"{wanted.name}-2", "Failed")):
        project.jobs[name] = state(name, status)
    project.models[wanted.name] = model(wanted.name)
    assert submit_once(project, wanted) == (project.jobs[wanted.name], False)


def test_what_is_asked_before_a_job_can_prevent_it():
    project, wanted = Project(), plan_job(TEMPLATE, SPEC)

    def beyond():
        raise PreflightError("PHI3-P777", "beyond the budget")

    with pytest.raises(PreflightError):
        submit_once(project, wanted, before=beyond)
    assert project.submitted == []
    submit_once(project, wanted)
    assert submit_once(project, wanted, before=beyond)[1] is False  # nothing is paid for


def test_no_second_job_because_azure_did_not_answer():
    project, wanted = Project(), plan_job(TEMPLATE, SPEC)
    project.jobs[wanted.name] = state(wanted.name, "Completed")

    def away(_job):
        raise AzureError("PHI3-A703", "no answer", status=503)

    project.tuned_model = away
    with pytest.raises(AzureError, match="PHI3-A703"):
        submit_once(project, wanted)
    assert project.submitted == []


def test_a_job_without_a_model_says_why():
    project = Project()
    with pytest.raises(AzureError, match=r"A732 job j: Failed: no more machines\. Fix"):
        model_of(project, state("j", "Failed"))
    project.why_failed = lambda _job: ""
    with pytest.raises(AzureError, match="A732 job j: Failed: the service gives no reason"):
        model_of(project, state("j", "Failed"))


def test_a_job_was_submitted_when_the_project_has_it():
    project = Project()
    assert not was_submitted(project, TEMPLATE, SPEC)
    name = plan_job(TEMPLATE, SPEC).name
    project.jobs[name] = state(name, "Running")
    assert was_submitted(project, TEMPLATE, SPEC)
    assert not was_submitted(project, TEMPLATE, replace(SPEC, epochs=99))  # Foundry takes ten


def test_the_same_conversations_make_the_same_bytes(tmp_path):
    chat = [Message("user", "नमस्ते\n"), Message("assistant", 'say "hi"')]
    for name in ("a", "b"):
        assert write_split(tmp_path / name, [Conversation(tuple(chat), source=name)]) == 1

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    row = json.loads((tmp_path / "a").read_text(encoding="utf-8"))
    assert row == {"messages": [{"role": m.role, "content": m.content} for m in chat]}


def test_the_demo_is_tuned_by_the_emulator_alone():
    check_demo("demo", emulated=True)
    check_demo("microsoft/Phi-4-mini-instruct", emulated=False)
    with pytest.raises(PreflightError, match="P771"):
        check_demo("demo", emulated=False)


def test_what_foundry_does_not_tune_is_no_base():
    assert choose_base("demo").name == "Phi-4-mini-instruct"
    assert choose_base("microsoft/Phi-4-mini-instruct").name == "Phi-4-mini-instruct"
    with pytest.raises(PreflightError, match="retired in Foundry on 2025-08-30"):
        choose_base("microsoft/Phi-3-mini-4k-instruct")
    with pytest.raises(UsageError, match="U032"):
        choose_base("Phi-9")
