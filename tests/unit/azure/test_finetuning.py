"""Jobs as Azure describes them, also those that others have submitted."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mlflow_phi3.azure.finetuning import (
    NO_MODEL,
    FineTuning,
    JobService,
    Point,
    base_name,
    to_yaml,
)
from mlflow_phi3.azure.quiet import quiet
from mlflow_phi3.errors import AzureError, UsageError
from tests.unit.azure.test_pipeline import GONE, MemoryClient


def described(**properties):
    details = {"modelProvider": "Custom", "hyperParameters": {"num_train_epochs": 2}}
    known = {"jobType": "FineTuning", "status": "Running", "fineTuningDetails": details}
    return 200, {"name": "j", "properties": {**known, **properties}}


def test_a_job_is_told_in_one_request_with_texts_for_hyperparameters():
    client = MemoryClient(described())
    found = JobService(client).get("j")
    assert (found.name, found.status, found.hyperparameters) == (
        "j",
        "Running",
        {"num_train_epochs": "2"},
    )
    assert client.urls == ["https://arm/project/jobs/j?api-version=2024-10-01-preview"]
    assert JobService(MemoryClient(GONE)).get("j") is None


def test_a_job_that_the_project_knows_is_not_sent_again():
    client = MemoryClient(described())
    wanted = FineTuning("j", "phi", "1", "train", "validation", {}, "tuned")
    assert JobService(client).submit(wanted).status == "Running"
    assert client.asked == ["GET"]


def listed(name, day, **properties):
    stamp = f"2025-03-{day:02}T00:00:00Z"
    return {"name": name, "properties": properties, "systemData": {"createdAt": stamp}}


def test_jobs_and_what_they_made_are_listed_newest_first():
    _, job = described()
    jobs = [listed(name, day, **job["properties"]) for name, day in (("b", 2), ("c", 3), ("a", 1))]
    found = JobService(MemoryClient((200, {"value": jobs}))).list_jobs()
    assert [job.name for job in found] == ["c", "b", "a"]

    client = MemoryClient(
        (200, {"value": [{"name": "chat"}, {"name": "other"}]}),
        (200, {"value": [listed("1", 1, jobName="a"), listed("2", 3, jobName="c")]}),
        (200, {"value": [listed("1", 2, jobName="b")]}),
    )
    service = JobService(client)
    service._place = "azureml://here"
    made = [f"{model.name}:{model.version}" for model in service.tuned_models()]
    assert made == ["chat:2", "other:1", "chat:1"]


def test_the_model_of_a_job_is_the_version_that_it_made():
    versions = [listed("2", 3, jobName="other"), listed("1", 1, jobName="j")]
    service = JobService(MemoryClient(described(), (200, {"value": versions})))
    service._place = "azureml://here"
    job = service.get("j")
    made = service.tuned_model(job)
    assert (made.job, made.id.rpartition("/")[2]) == ("j", "1")
    with pytest.raises(AzureError, match=f"{NO_MODEL} job k: the job is Running, but no version"):
        service.tuned_model(replace(job, name="k"))


def test_az_takes_what_is_written_as_yaml(tmp_path):
    wanted = FineTuning(
        "j", "phi", "1", "azureml://train", "azureml://validation", {"a": "1"}, "tuned", {"b": "é"}
    )
    file = tmp_path / "job.yaml"
    file.write_text(to_yaml(wanted), encoding="utf-8")
    with quiet():  # as every call of ours is
        from azure.ai.ml import load_job

        job = load_job(file)
    assert (job.name, job.experiment_name, job.tags) == ("j", "mlflow-phi3", {"b": "é"})
    assert (job.model.type, job.model.path) == ("mlflow_model", wanted.base_uri)
    data = (job.training_data, job.validation_data)
    assert [(one.type, one.path) for one in data] == [
        ("uri_file", "azureml://train"),
        ("uri_file", "azureml://validation"),
    ]
    assert (job.task.lower(), job.hyperparameters) == ("chatcompletion", {"a": "1"})
    made = job.outputs["registered_model"]
    assert (made.type, made.name) == ("mlflow_model", "tuned")
    assert base_name(wanted.base_uri) == base_name("phi") == "phi"


@pytest.mark.parametrize("name", ["", "..", "j/x", "j?x", "j:1"])
def test_what_no_job_is_called_is_not_asked_for(name):
    client = MemoryClient(described())
    assert JobService(client).get(name) is None
    assert client.urls == []


def test_a_metric_is_asked_for_by_its_whole_name_and_to_its_last_page():
    run = {"run": {"data": {"metrics": [{"key": "loss (a&b)"}]}}}
    first = {"metrics": [{"value": 1, "step": 2}], "next_page_token": "a=b"}
    client = MemoryClient((200, run), (200, first), (200, {"metrics": [{"value": 0.5}]}))
    client.jobs = SimpleNamespace(_api_url="https://api/")
    found = JobService(client).metrics("j")
    assert found == [Point("loss (a&b)", 1.0, 2), Point("loss (a&b)", 0.5, 0)]
    asked = "https://api/mlflow/v2.0/project/api/2.0/mlflow/metrics/get-history?run_id=j"
    assert client.urls[1] == f"{asked}&metric_key=loss%20%28a%26b%29"
    assert client.urls[2] == f"{client.urls[1]}&page_token=a%3Db"


@pytest.mark.parametrize(
    ("properties", "kind"),
    [
        ({"jobType": "Command", "fineTuningDetails": None}, "Command"),
        ({"fineTuningDetails": {"modelProvider": "AzureOpenAI"}}, "FineTuning AzureOpenAI"),
    ],
)
def test_a_job_of_another_kind_is_named_as_such(properties, kind):
    with pytest.raises(UsageError, match=rf"PHI3-U788 job j: .*another kind: {kind}\. Fix"):
        JobService(MemoryClient(described(**properties))).get("j")
