"""Fine-tuning jobs through the official SDK; what trains behind them is our own training."""

import json
import time

import pytest

from mlflow_phi3.azure.assets import upload_data
from mlflow_phi3.azure.client import open_workspace
from mlflow_phi3.azure.finetuning import FineTuning, JobService, JobState
from mlflow_phi3.azure.registry import look_up_offers
from mlflow_phi3.azure.target import find_target
from mlflow_phi3.data.sample import load_conversations
from mlflow_phi3.emulator.arm import PAGE
from mlflow_phi3.errors import AzureError


@pytest.fixture(scope="module")
def workspace(emulator, tmp_path_factory):
    environment = emulator.environment
    target = find_target("azure-foundry", environment, tmp_path_factory.mktemp("nowhere"))
    return open_workspace(target, environment)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Few rows: what is tested is the way, not the model."""
    folder = tmp_path_factory.mktemp("data")
    rows = [json.dumps({"messages": messages}) for messages in load_conversations()[:20]]
    paths = {"train": folder / "train.jsonl", "validation": folder / "validation.jsonl"}
    paths["train"].write_text("\n".join(rows[:16]) + "\n", encoding="utf-8")
    paths["validation"].write_text("\n".join(rows[16:]) + "\n", encoding="utf-8")
    return paths


@pytest.fixture
def order(workspace, files):
    service = JobService(workspace)
    addresses = {}
    for split, path in files.items():
        asset = upload_data(workspace, f"chats-{split}", path)
        addresses[split] = f"{service.place}/data/{asset.name}/versions/{asset.version}"

    def make(name, **changes):
        values = {
            "name": name,
            "base": "Phi-4-mini-instruct",
            "base_version": "1",
            **addresses,
            "hyperparameters": {
                "num_train_epochs": "1",
                "learning_rate": "0.0001",
                "per_device_train_batch_size": "8",
            },
            "output": "phi-chat",
            **changes,
        }
        return FineTuning(**values)

    return make


def follow(service, name, *, until, timeout_s=240):
    deadline, seen = time.monotonic() + timeout_s, []
    while True:
        status = service.get(name).status
        if not seen or seen[-1] != status:
            seen.append(status)
        if status in until:
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)


@pytest.mark.slow  # test_foundry_way trains in the default run
def test_a_job_trains_and_its_model_is_registered(workspace, order, emulator, check_published):
    service = JobService(workspace)

    first = service.submit(order("ft-once"))
    again = service.submit(order("ft-once"))

    assert first.status != "Failed"
    assert again.name == first.name
    puts = [e for e in emulator.changes() if e["path"].endswith("/jobs/ft-once")]
    assert len(puts) == 1
    seen = follow(service, "ft-once", until={"Completed", "Failed"})
    assert seen[-1] == "Completed", service.why_failed("ft-once")
    points = service.metrics("ft-once")
    assert {p.key for p in points} == {"loss", "learning_rate", "grad_norm", "epoch", "eval_loss"}
    assert [p.step for p in points if p.key == "loss"] == [1, 2]
    job = service.get("ft-once")
    model = service.tuned_model(job)
    assert (model.name, model.version, model.job) == ("phi-chat", "1", "ft-once")
    assert model.id == f"{service.place}/models/phi-chat/versions/1"
    assert "ft-once" in [j.name for j in service.list_jobs()]
    check_published(emulator.changes())
    service.delete("ft-once")
    service.delete("ft-once")
    assert service.get("ft-once") is None
    service.delete_model(model)
    assert [m for m in service.tuned_models() if m.name == "phi-chat"] == []


def test_the_same_data_is_sent_once(workspace, files, emulator):
    first = upload_data(workspace, "same-train", files["train"])
    emulator.http.delete("/emulator/journal")

    second = upload_data(workspace, "same-train", files["train"])

    assert (first.new, second.new) == (True, False)
    assert second.version == first.version
    assert [e for e in emulator.journal() if e["method"] == "PUT"] == []


def test_an_answer_that_is_lost_submits_nothing_twice(workspace, order, emulator):
    service = JobService(workspace)
    emulator.fault("drop_after", "/jobs/ft-lost", method="PUT")

    service.submit(order("ft-lost"))

    assert len([e for e in emulator.changes() if e["path"].endswith("/jobs/ft-lost")]) == 2
    assert [j.name for j in service.list_jobs()].count("ft-lost") == 1
    service.cancel("ft-lost")
    assert follow(service, "ft-lost", until={"Canceled", "Completed"})[-1] == "Canceled"


def test_a_job_is_cancelled_while_it_waits_or_runs(workspace, order):
    service = JobService(workspace)
    service.submit(order("ft-cancel", output="phi-cancel"))

    service.cancel("ft-cancel")

    assert follow(service, "ft-cancel", until={"Canceled", "Completed"})[-1] == "Canceled"
    service.cancel("ft-cancel")
    assert [m for m in service.tuned_models() if m.name == "phi-cancel"] == []


@pytest.mark.slow
def test_a_job_that_fails_says_why(workspace, order, files, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "no answer follows"}]}\n')
    service = JobService(workspace)
    asset = upload_data(workspace, "bad-train", bad)
    address = f"{service.place}/data/{asset.name}/versions/{asset.version}"
    service.submit(order("ft-bad", train=address))

    assert follow(service, "ft-bad", until={"Failed", "Completed"})[-1] == "Failed"

    assert "PHI3-D" in service.why_failed("ft-bad")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": "Phi-3-mini-4k-instruct"}, "retired on 2025-08-30. Use Phi-4-mini-instruct"),
        ({"base": "Phi-4-reasoning"}, "cannot be fine-tuned"),
        ({"base": "Phi-9"}, "was not found"),
        ({"hyperparameters": {"lora_r": "4"}}, "lora_r is not known"),
        ({"hyperparameters": {"num_train_epochs": "99"}}, "Epochs must be 1 to 10"),
        ({"hyperparameters": {"num_train_epochs": "many"}}, "not a number"),
    ],
)
def test_the_service_refuses(workspace, order, changes, said):
    with pytest.raises(AzureError, match=said):
        JobService(workspace).submit(order("ft-refused", **changes))
    assert JobService(workspace).get("ft-refused") is None


def test_the_registry_says_where_a_model_is_tuned(workspace):
    found = look_up_offers(workspace, ("Phi-4-mini-instruct", "Phi-4-reasoning", "Phi-9"))

    assert set(found) == {"Phi-4-mini-instruct", "Phi-4-reasoning"}
    assert "eastus2" in found["Phi-4-mini-instruct"].regions
    assert found["Phi-4-reasoning"].regions == ()


def test_the_model_of_a_job_is_found_behind_many_others(workspace, emulator):
    """A project lists its versions in pages; a job whose model is not found is submitted anew."""
    asked = {
        "headers": {"Authorization": f"Bearer {emulator.token()}"},
        "params": {"api-version": "2024-10-01-preview"},
    }
    place = f"{workspace.target.path}/models/phi-many/versions"
    for number in range(PAGE + 1):
        body = {"properties": {"modelUri": "azureml://a", "jobName": f"ft-{number}"}}
        made = emulator.http.put(f"{place}/{number}", json=body, **asked)
        assert made.status_code == 201
    service = JobService(workspace)
    job = JobState("ft-0", "Completed", "phi-many", "", {}, {}, "", "")
    assert service.tuned_model(job).version == "0"
    assert len([m for m in service.tuned_models() if m.name == "phi-many"]) == PAGE + 1
