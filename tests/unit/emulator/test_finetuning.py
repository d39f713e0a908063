import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.faults import Faults
from mlflow_phi3.emulator.finetuning.rules import check_job, check_same
from mlflow_phi3.emulator.finetuning.state import Jobs
from mlflow_phi3.emulator.finetuning.trainer import Canceled, Trainer
from mlflow_phi3.emulator.operation import OperationFailed
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Store

TODAY = dt.date(2026, 11, 1)
WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/P/workspaces/w"


def body(**details):
    base = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"
    return {
        "jobType": "FineTuning",
        "fineTuningDetails": {
            "modelProvider": "Custom",
            "taskType": "ChatCompletion",
            "model": {"jobInputType": "mlflow_model", "uri": base},
            "trainingData": {"jobInputType": "uri_file", "uri": "azureml://x/paths/t.jsonl"},
            "hyperParameters": {"num_train_epochs": "2", "learning_rate": "0.001"},
            **details,
        },
        "outputs": {"registered_model": {"assetName": "phi", "jobOutputType": "mlflow_model"}},
    }


class Instant:
    """A trainer that does as it is told."""

    def __init__(self, folder):
        self.folder = folder
        self.gate = threading.Event()
        self.gate.set()
        self.outcome = None
        self.forgotten = []

    def forget(self, job):
        self.forgotten.append(job)

    def folder_of(self, job):
        return self.folder / job

    def train(self, job, _training, _data, *, told, canceled):
        told("Running")
        while not self.gate.wait(0.01):
            if canceled.is_set():
                raise Canceled
        if self.outcome is not None:
            raise self.outcome
        return f"azureml://datastores/workspaceblobstore/paths/{job}"


@pytest.fixture
def home(tmp_path):
    store = Store(tmp_path / "state.sqlite")
    assets = Assets(store, account="account")
    assets.create_workspace(WORKSPACE, location="eastus2", kind="Project")
    yield store, assets, Instant(tmp_path)
    store.close()


def open_jobs(home):
    store, assets, trainer = home
    return Jobs(store, assets, Faults(), trainer)


def await_end(jobs, job_id, timeout_s=20):
    for _ in range(timeout_s * 100):
        status = jobs.get(job_id)["properties"]["status"]
        if status in {"Completed", "Failed", "Canceled"}:
            return status
        threading.Event().wait(0.01)
    raise AssertionError(status)


def test_a_job_registers_its_model_under_the_next_version(home):
    jobs, (store, _, _) = open_jobs(home), home
    for number in ("1", "2"):
        job_id = f"{WORKSPACE}/jobs/j{number}"
        assert jobs.put(job_id, body())[1]
        assert await_end(jobs, job_id) == "Completed"
        output = jobs.get(job_id)["properties"]["outputs"]["registered_model"]
        assert output["assetVersion"] == number
        made = store.need(f"{WORKSPACE}/models/phi/versions/{number}")
        assert made["properties"]["jobName"] == f"j{number}"


def test_jobs_of_one_name_in_two_projects_leave_two_models(home):
    jobs, (store, assets, _) = open_jobs(home), home
    assets.create_workspace(f"{WORKSPACE}2", location="eastus2", kind="Project")
    for workspace in (WORKSPACE, f"{WORKSPACE}2"):
        jobs.put(f"{workspace}/jobs/j", body())
        assert await_end(jobs, f"{workspace}/jobs/j") == "Completed"
    places = [one["properties"]["modelUri"] for one in store.of_kind("models/versions")]
    assert len(set(places)) == 2


def test_a_name_is_given_once(home):
    jobs = open_jobs(home)
    job_id = f"{WORKSPACE}/jobs/j"
    jobs.put(job_id, body())
    await_end(jobs, job_id)

    found, new = jobs.put(job_id, body())

    assert (found["properties"]["status"], new) == ("Completed", False)
    with pytest.raises(Refusal, match="fineTuningDetails cannot be changed"):
        jobs.put(job_id, body(hyperParameters={}))


def test_what_runs_is_cancelled_and_not_deleted(home):
    jobs, trainer = open_jobs(home), home[2]
    trainer.gate.clear()
    job_id = f"{WORKSPACE}/jobs/j"
    jobs.put(job_id, body())
    with pytest.raises(Refusal, match="cancel it first"):
        jobs.delete(job_id)

    jobs.cancel(job_id)

    assert await_end(jobs, job_id) == "Canceled"
    assert jobs.delete(job_id)
    assert not jobs.delete(job_id)
    own = home[0].need(WORKSPACE)["properties"]["workspaceId"]
    assert trainer.forgotten == [f"{own}/j"]


def test_a_job_can_be_cancelled_as_soon_as_it_is_seen(home, monkeypatch):
    jobs, (store, _, trainer) = open_jobs(home), home
    trainer.gate.clear()
    job_id, begin = f"{WORKSPACE}/jobs/j", jobs._begin

    def change(work, *values):  # as the server makes each
        with store.transaction():
            work(*values)

    with ThreadPoolExecutor() as pool:
        cancelled = []

        def slowly(job):
            cancelled.append(pool.submit(change, jobs.cancel, job_id))
            wait(cancelled, timeout=0.2)
            begin(job)

        monkeypatch.setattr(jobs, "_begin", slowly)
        change(jobs.put, job_id, body())
        cancelled[0].result()
    assert await_end(jobs, job_id) == "Canceled"


def test_who_is_cancelled_may_fall_over_and_runs_no_more(home):
    jobs, trainer, seen = open_jobs(home), home[2], []
    job_id = f"{WORKSPACE}/jobs/j"

    def falls_over(_job, _training, _data, *, told, canceled):
        assert canceled.wait(20)
        told("Running")
        seen.append(jobs.get(job_id)["properties"]["status"])
        raise OperationFailed("UserError", "it was killed")

    trainer.train = falls_over
    jobs.put(job_id, body())
    jobs.cancel(job_id)

    assert await_end(jobs, job_id) == "Canceled"
    assert seen == ["CancelRequested"]
    assert jobs.error(job_id) is None


def test_a_failure_is_kept_with_its_reason(home):
    jobs, trainer = open_jobs(home), home[2]
    trainer.outcome = OperationFailed("UserError", "PHI3-D001 data.jsonl:1: not JSON.")
    job_id = f"{WORKSPACE}/jobs/j"
    jobs.put(job_id, body())

    assert await_end(jobs, job_id) == "Failed"

    assert jobs.error(job_id) == {"code": "UserError", "message": trainer.outcome.message}
    assert home[1].list_versions(f"{WORKSPACE}/models/phi") == []


def test_a_restart_begins_again_what_had_not_ended(home):
    before, trainer = open_jobs(home), home[2]
    trainer.gate.clear()
    job_id = f"{WORKSPACE}/jobs/j"
    before.put(job_id, body())
    before.stop()
    assert before.get(job_id)["properties"]["status"] in {"NotStarted", "Running"}
    trainer.gate.set()

    after = open_jobs(home)
    after.resume()

    assert await_end(after, job_id) == "Completed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modelProvider": "AzureOpenAI"}, "modelProvider"),
        ({"taskType": "ImageClassification"}, "taskType"),
        ({"trainingData": {}}, "trainingData.uri is required"),
        ({"model": {"uri": "azureml:phi:1"}}, "not a model of the registry"),
        ({"hyperParameters": {"num_train_epochs": 2}}, "must be a string"),
    ],
)
def test_bodies_that_the_service_refuses(changes, said):
    with pytest.raises(Refusal, match=said):
        check_job("j", body(**changes), "eastus2", TODAY)


def test_regions_names_and_outputs():
    with pytest.raises(Refusal, match="region westeurope, only in eastus2"):
        check_job("j", body(), "westeurope", TODAY)
    with pytest.raises(Refusal, match="not a valid job name"):
        check_job("no spaces", body(), "eastus2", TODAY)
    with pytest.raises(Refusal, match="assetName is required"):
        check_job("j", {**body(), "outputs": {}}, "eastus2", TODAY)
    with pytest.raises(Refusal, match="only FineTuning"):
        check_job("j", {"jobType": "Command"}, "eastus2", TODAY)


def test_what_the_service_adds_makes_no_other_job():
    known = body()
    known["outputs"]["registered_model"] |= {"assetVersion": "1", "uri": "azureml://..."}
    check_same(known, body())


def test_a_job_that_is_forgotten_leaves_nothing(tmp_path):
    trainer = Trainer(tmp_path, datastore=None)
    for name in ("Gone", "stays"):
        (trainer.folder_of(name) / "prepared").mkdir(parents=True)
    trainer.forget("Gone")
    trainer.forget("Gone")
    assert [path.name for path in tmp_path.iterdir()] == ["stays"]


def test_a_model_is_registered_only_with_the_end_of_its_job(home, monkeypatch):
    """Cut off between the two, the job would train again and register it a second time."""
    jobs, (store, assets, _) = open_jobs(home), home
    patch = store.patch

    def cut_off(resource_id, **properties):
        if properties.get("status") == "Completed":
            raise OSError("no space left on device")
        patch(resource_id, **properties)

    monkeypatch.setattr(store, "patch", cut_off)
    jobs.put(f"{WORKSPACE}/jobs/j", body())
    assert await_end(jobs, f"{WORKSPACE}/jobs/j") == "Failed"
    assert assets.list_versions(f"{WORKSPACE}/models/phi") == []
