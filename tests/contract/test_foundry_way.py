"""The whole way in Foundry: data up, one job, into MLflow, into the registry, served, deleted."""

import json

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from mlflow_phi3.azure.permissions import SEE, STEPS
from mlflow_phi3.cli.jobs import app as jobs
from mlflow_phi3.cli.watch import app as watch
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.words import TrainWord
from mlflow_phi3.data.sample import load_conversations
from mlflow_phi3.errors import UsageError
from mlflow_phi3.foundry.project import open_project

LOCAL = "azure-foundry:/local"
CHAMPION_TAG = "azure.tuned_model"


@pytest.fixture
def settings(tmp_path, monkeypatch, emulator):
    """Parameters of a small training, in an experiment and a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"foundry-{tmp_path.name}")
    rows = [json.dumps({"messages": messages}) for messages in load_conversations()[:24]]
    (tmp_path / "chats.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return {
        "backend": "foundry",
        "azure_target": LOCAL,
        "train_data": str(tmp_path / "chats.jsonl"),
        "test_split": "0",
        "validation_split": "0.25",
        "epochs": "1",
        "workspace": str(tmp_path / "work"),
        "output": "plain",
    }


def train(settings, **more):
    from mlflow_phi3.workflows import train as word

    word.run(parse_values(TrainWord, {**settings, **more}))


def whole(settings, **more):
    from mlflow_phi3.config.words import MainWord
    from mlflow_phi3.workflows import main

    main.run(parse_values(MainWord, {**settings, **more}))


def ask(app, *arguments):
    told = CliRunner().invoke(app, [*arguments, "-t", LOCAL])
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    assert told.exit_code == 0, told.output
    return told.stdout


def listed():
    """Jobs and models of this test; others share the emulator."""
    found = json.loads(ask(jobs, "list", "--json"))
    ours = [job for job in found["jobs"] if job["output"] == "chat-way"]
    return {"jobs": ours, "models": [m for m in found["models"] if m["name"] == "chat-way"]}


def the_run(settings_folder):
    client = MlflowClient()
    experiment = client.get_experiment_by_name(f"foundry-{settings_folder.name}")
    found = client.search_runs([experiment.experiment_id], "tags.`phi3.stage` = 'train'")
    return client, found[0]


def job_puts(emulator):
    return [e for e in emulator.changes() if "/jobs/" in e["path"]]


def test_from_data_to_a_deleted_model(settings, tmp_path, emulator, check_published):
    emulator.allow(SEE, *STEPS["train"], *STEPS["delete"])  # the second to list what there is
    train(settings, detach="true", tuned_model="chat-way")
    client, run = the_run(tmp_path)
    job = run.data.tags["azure.job_name"]
    assert run.info.status == "RUNNING"
    train(settings, detach="true", tuned_model="chat-way")  # a retry: nothing is sent or submitted
    assert len(job_puts(emulator)) == 1
    assert [j["name"] for j in listed()["jobs"]] == [job]

    ask(watch, job)

    client, run = the_run(tmp_path)
    runs = client.search_runs([run.info.experiment_id], "tags.`phi3.stage` = 'train'")
    assert [r.info.status for r in runs] == ["FINISHED", "FINISHED"]
    assert {"train/loss", "eval/loss", "eval/perplexity"} <= set(run.data.metrics)
    assert run.data.params["resolved.epochs"] == "1"
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id, "azure")}
    names = ("job.yaml", "request.json", "events.jsonl", "model.json")
    assert artifacts == {f"azure/{name}" for name in names}
    (version,) = client.search_model_versions("name = 'chat-way'")
    challenger = client.get_model_version_by_alias("chat-way", "challenger")
    assert challenger.version == version.version
    (model,) = listed()["models"]
    assert version.tags[CHAMPION_TAG] == model["id"]
    shown = json.loads(ask(jobs, "show", "chat-way:1", "--json"))
    assert shown["in MLflow"] == ["models:/chat-way/1"]
    assert json.loads(ask(jobs, "show", job, "--json"))["status"] == "Completed"
    trained = emulator.needed()
    emulator.allow(SEE, *STEPS["deploy"], *STEPS["delete"], *STEPS["train"])
    serve_and_delete(emulator, job)
    # Of a job, its cancelling is proved below; of serving, managed endpoints are elsewhere.
    assert {one.lower() for one in STEPS["train"] if "cancel" not in one} <= trained
    later = {one.lower() for step in ("deploy", "delete") for one in STEPS[step]}
    assert {one for one in later if "serverless" in one or "jobs" in one} <= emulator.needed()
    assert client.get_model_version("chat-way", "1").tags["azure.state"] == "deleted"
    check_published(emulator.changes())


def serve_and_delete(emulator, job):
    from mlflow_phi3.plugins.deployments import AzureFoundryClient

    served = AzureFoundryClient(LOCAL)
    served.create_deployment("way", "models:/chat-way@challenger", config={"verify": "false"})
    question = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    assert served.predict("way", question)["choices"][0]["message"]["role"] == "assistant"
    with pytest.raises(UsageError, match=r"served by serverless endpoint way.*--cascade"):
        ask(jobs, "delete", "chat-way:1")
    planned = ask(jobs, "delete", "chat-way:1", "--cascade", "--dry-run")
    assert planned.split("\n")[0] == "1. delete serverless endpoint way"
    assert listed()["models"][0]["served_by"] == ["serverless endpoint way"]
    ask(jobs, "delete", "chat-way:1", "--cascade", "--yes")
    ask(jobs, "delete", job)
    assert listed() == {"jobs": [], "models": []}
    assert served.list_deployments() == []


def test_what_foundry_cannot_do_is_refused_before_anything_is_sent(settings, emulator):
    for more, said in (
        ({"lora_r": "4"}, "U772 lora_r"),
        ({"epochs": "11"}, "U771 epochs: 11 epochs"),
        ({"batch_size_multiplier": "9"}, "U771 batch_size_multiplier: 72 examples"),
        ({"task": "text-classification"}, "U774"),
        ({"overlength": "truncate"}, "U790 overlength=truncate"),
        ({"train_on": "last"}, "U790 train_on=last"),
        ({"tuned_model": "no/slash"}, "U776"),
    ):
        with pytest.raises(UsageError, match=said):
            train(settings, **more)
    with pytest.raises(UsageError, match=r"U005.*one objective"):
        whole(settings, objective="eval/loss,cost/seconds")
    with pytest.raises(UsageError, match=r"U785 promote, registered_model: .*tuned_model"):
        whole(settings, promote="always", registered_model="chat")
    assert emulator.changes() == []


@pytest.mark.slow
def test_ctrl_c_cancels_the_job_when_the_person_said_so(settings, tmp_path, monkeypatch):
    from mlflow_phi3.azure.finetuning import JobService
    from mlflow_phi3.errors import Interrupted
    from mlflow_phi3.workflows import following

    def interrupted(*_arguments, **_options):
        yield from ()
        raise Interrupted("PHI3-T001", "stopped by SIGINT")

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(following, "follow", interrupted)
        train(settings, tuned_model="chat-stop", on_interrupt="cancel")

    client, run = the_run(tmp_path)
    assert run.info.status == "KILLED"
    service = JobService(open_project(LOCAL))
    name = run.data.tags["azure.job_name"]
    for news in following.follow(service, name, timeout_s=120):
        last = news.job.status
    assert last == "Canceled"
    assert client.search_model_versions("name = 'chat-stop'") == []


@pytest.mark.slow
def test_a_sweep_is_one_job_a_trial_and_its_winner_is_registered(settings, tmp_path, emulator):
    from mlflow_phi3.config.words import SweepWord
    from mlflow_phi3.workflows import sweep

    values = {"learning_rate": "1e-4,2e-4", "batch_size_multiplier": "1", "sampler": "grid"}
    more = {"n_trials": "2", "study": "in-foundry", "tuned_model": "chat-swept", "pruner": "none"}
    sweep.run(parse_values(SweepWord, {**settings, **values, **more}))

    client = MlflowClient()
    experiment = client.get_experiment_by_name(f"foundry-{tmp_path.name}").experiment_id
    trials = client.search_runs([experiment], "tags.`phi3.stage` = 'trial'")
    assert [t.info.status for t in trials] == ["FINISHED", "FINISHED"]
    assert {t.data.tags["azure.job_status"] for t in trials} == {"Completed"}
    assert len({t.data.tags["azure.job_name"] for t in trials}) == 2
    best = min(trials, key=lambda t: t.data.metrics["eval/loss"])
    (version,) = client.search_model_versions("name = 'chat-swept'")
    assert version.tags["azure.job_name"] == best.data.tags["azure.job_name"]
    assert len(job_puts(emulator)) == 2
    (root,) = client.search_runs([experiment], "tags.`phi3.stage` = 'sweep'")
    told = {file.path for file in client.list_artifacts(root.info.run_id, "sweep")}
    assert told == {f"sweep/{name}" for name in ("report.html", "trials.csv", "importance.json")}
    assert root.data.metrics["eval/loss"] == best.data.metrics["eval/loss"]


@pytest.mark.slow
def test_main_searches_by_jobs_and_registers_the_winners_link(settings, tmp_path):
    more = {"n_trials": "1", "learning_rate": "2e-4", "batch_size_multiplier": "1"}
    whole(settings, **more, tuned_model="chat-main")

    client = MlflowClient()
    experiment = client.get_experiment_by_name(f"foundry-{tmp_path.name}").experiment_id
    stages = {r.data.tags["phi3.stage"]: r for r in client.search_runs([experiment])}
    assert set(stages) == {"main", "prepare", "sweep", "trial", "register"}
    main = stages["main"]
    assert main.data.tags["phi3.left_out"] == "evaluate"
    assert main.data.metrics["eval/loss"] == stages["trial"].data.metrics["eval/loss"]
    for stage in ("prepare", "sweep", "register"):
        assert stages[stage].data.tags["mlflow.parentRunId"] == main.info.run_id
    challenger = client.get_model_version_by_alias("chat-main", "challenger")
    assert challenger.run_id == stages["register"].info.run_id
    assert challenger.tags["azure.job_name"] == stages["trial"].data.tags["azure.job_name"]


@pytest.mark.slow
def test_mlflow_run_trains_in_foundry(settings, tmp_path):
    from pathlib import Path

    import mlflow

    own = {"azure_target", "backend"}
    done = mlflow.projects.run(
        str(Path(__file__).parents[2]),
        entry_point="train",
        backend="azure-foundry",
        backend_config={"azure_target": LOCAL, "tuned_model": "chat-run"},
        parameters={name: value for name, value in settings.items() if name not in own},
        experiment_name=f"foundry-{tmp_path.name}",
    )

    assert done.get_status() == "FINISHED"
    run = MlflowClient().get_run(done.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["azure.job_status"] == "Completed"
    assert run.data.tags["mlflow.project.backend"] == "azure-foundry"
    assert MlflowClient().search_model_versions("name = 'chat-run'")
