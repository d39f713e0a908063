from dataclasses import replace
from functools import partial

import pytest

from mlflow_phi3.azure.finetuning import Point, TunedModel
from mlflow_phi3.backends.foundry import Limits
from mlflow_phi3.config.foundry import FoundryConfig
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.words import SweepWord
from mlflow_phi3.errors import AzureError, Interrupted, TrainingError, UsageError
from mlflow_phi3.foundry.follower import follow
from mlflow_phi3.foundry.submission import JobTemplate
from mlflow_phi3.tracking.deployment_registry import DeploymentRegistry
from mlflow_phi3.tracking.registry import CHALLENGER, set_challenger
from mlflow_phi3.tracking.tags import (
    JOB_TAG,
    STATE_TAG,
    TARGET_TAG,
    TUNED_STATE_TAG,
    TUNED_TAG,
)
from mlflow_phi3.tracking.tuned import find_tuned, mark_deleted
from mlflow_phi3.workflows import following, foundry_sweep
from mlflow_phi3.workflows.context import Context
from mlflow_phi3.workflows.screen import Screen
from mlflow_phi3.workflows.watch import _find
from tests.unit.foundry.project import Project, state

NAME = "phi3-chat-0123456789ab"
POINTS = [Point("loss", 3.0, 1), Point("loss", 2.0, 2), Point("eval_loss", 2.5, 2)]


@pytest.fixture
def context(tracker, tmp_path, monkeypatch):
    at_once = partial(follow, sleep=lambda _s: None)
    monkeypatch.setattr(following, "follow", at_once)
    return Context(tracker, Screen("plain"), tmp_path, None)


def project(*script):
    found = Project({NAME: state(NAME, "NotStarted")}, script=list(script))
    address = f"azureml://{id(found)}/models/phi3-chat/versions/1"  # the store is shared by tests
    found.models[NAME] = TunedModel("phi3-chat", "1", address, NAME)
    return found


def follow_in(context, service, config=None, run_id=None):
    tags = {JOB_TAG: NAME, TARGET_TAG: "azure-foundry"}
    with context.tracker.stage("train-1", stage="train", run_id=run_id, tags=tags) as run:
        following.follow_job(context, service, run, NAME, config or FoundryConfig(tuned_model="f"))
    return run


def history(run, key):
    return [(p.step, p.value) for p in run.client.get_metric_history(run.run_id, key)]


def test_status_metrics_and_model_go_to_the_run(context, capsys):
    service = project(("Running", POINTS[:1]), ("Finalizing", POINTS[1:]), ("Completed", []))

    run = follow_in(context, service)

    assert history(run, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert history(run, "eval/loss") == [(2, 2.5)]
    assert run.tags()["azure.job_status"] == "Completed"
    text = run.download(following.EVENTS, context.workspace).read_text()
    assert [line.split('"')[-2] for line in text.splitlines()] == [
        "Running",
        "Finalizing",
        "Completed",
    ]
    (version,) = find_tuned(context.tracker, service.models[NAME].id)
    assert version.run_id == run.run_id
    assert f"models:/f/{version.version}" in capsys.readouterr().out


def test_taking_it_up_again_writes_nothing_twice(context):
    service = project(("Running", POINTS[:2]), Interrupted("PHI3-T001", "stopped by SIGINT"))
    with pytest.raises(Interrupted, match="T001"):
        follow_in(context, service)
    (first,) = context.tracker.find({JOB_TAG: NAME})
    assert first.info.status == "KILLED"
    service.script = [("Running", []), ("Completed", POINTS[2:])]

    run = follow_in(context, service, run_id=first.info.run_id)
    again = follow_in(context, service, run_id=first.info.run_id)

    assert history(run, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert history(again, "eval/loss") == [(2, 2.5)]
    assert len(find_tuned(context.tracker, service.models[NAME].id)) == 1


@pytest.mark.parametrize(("what", "cancelled"), [("leave", []), ("cancel", [NAME])])
def test_an_order_to_stop_does_to_the_job_what_was_said(context, what, cancelled):
    service = project(("Running", []), Interrupted("PHI3-T001", "stopped by SIGINT"))
    service.cancelled = []
    service.cancel = service.cancelled.append

    with pytest.raises(Interrupted) as stopped:
        follow_in(context, service, FoundryConfig(on_interrupt=what))

    assert service.cancelled == cancelled
    assert NAME in stopped.value.__notes__[0]


LIMITS = Limits(2, 0.0, 2.0, train_tokens=500_000, train_rows=16, timeout_s=60)


@pytest.fixture
def search(context, tmp_path, monkeypatch):
    """Search with the jobs of a project; trials cost a dollar each."""

    def go(service, run, limits=LIMITS, **values):
        template = JobTemplate("Phi-4-mini-instruct", "1", "train@1", "validation@1", "phi3-chat")
        monkeypatch.setattr(foundry_sweep, "send", lambda *_: (service, template))
        monkeypatch.setattr(foundry_sweep, "limits_of", lambda *_: limits)
        told = {"backend": "foundry", "learning_rate": "1e-5..1e-4", "pruner": "none", **values}
        config = parse_values(SweepWord, {**told, "storage": f"sqlite:///{tmp_path}/study.db"})
        return foundry_sweep.search(context, config, None, run, None)

    return go


@pytest.fixture
def sweep_run(context):
    tags = {"phi3.base_model": "b", "phi3.dataset_sha256": "d", "azure.target": "t"}
    return context.tracker.start("sweep", stage="sweep", tags=tags)


def test_a_stopped_sweep_says_how_it_goes_on(search, sweep_run):
    service = Project(script=[Interrupted("PHI3-T001", "stopped by SIGINT")])

    with pytest.raises(Interrupted) as stopped:
        search(service, sweep_run)

    assert f"study={sweep_run.run_id[:12]} goes on" in " ".join(stopped.value.__notes__)


def test_jobs_that_outlasted_the_wait_for_them_count_in_the_budget(search, sweep_run):
    service = Project()
    patience = replace(LIMITS, timeout_s=0, budget_usd=2.5)
    study = {"study": "outlasting", "epochs": "1"}
    with pytest.raises(TrainingError):  # three trials: the third would have cost too much
        search(service, sweep_run, patience, n_trials="3", **study)
    assert len(service.submitted) == 2

    with pytest.raises(TrainingError):
        search(service, sweep_run, patience, n_trials="4", **study)
    assert len(service.submitted) == 2

    with pytest.raises(TrainingError):  # what was never submitted was not paid for
        search(service, sweep_run, replace(patience, budget_usd=3.5), n_trials="5", **study)
    assert len(service.submitted) == 3


class Terse(Project):
    def get(self, name):
        if name in self.jobs:
            self.jobs[name] = state(name, "Completed")
            self.models[name] = TunedModel("phi3-chat", "1", "azureml://...", name)
        return self.jobs.get(name)


def test_a_sweep_says_on_its_run_which_study_it_is_and_where_that_is_kept(
    search, sweep_run, tmp_path
):
    """A repair asks for both."""
    search(Terse(points=POINTS), sweep_run, n_trials="1", epochs="1", study="kept")

    tags = sweep_run.tags()
    kept = (tags["phi3.study"], tags["phi3.storage"])
    assert kept == ("kept", f"sqlite:///{tmp_path}/study.db")


def test_what_the_service_does_not_tell_is_not_logged(search, sweep_run, context):
    search(Terse(points=POINTS), sweep_run, n_trials="1", epochs="1", study="terse")

    (trial,) = context.tracker.children(sweep_run.run_id)
    known = {"train/loss", "train/epoch", "eval/loss", "eval/perplexity"}
    assert {name for name in trial.data.metrics if not name.startswith("system/")} == known


def test_cancelled_in_azure_is_killed_and_failed_says_why(context):
    with pytest.raises(Interrupted, match="cancelled in Azure"):
        follow_in(context, project(("Canceled", [])))
    with pytest.raises(AzureError, match="Failed: no more machines"):
        follow_in(context, project(("Failed", [])))

    statuses = [run.info.status for run in context.tracker.find({JOB_TAG: NAME})]
    assert statuses == ["KILLED", "FAILED"]


def test_a_model_that_is_deleted_is_registered_anew(context):
    service = project(("Completed", []))
    follow_in(context, service)
    mark_deleted(context.tracker, service.models[NAME].id)

    follow_in(context, service)

    found = find_tuned(context.tracker, service.models[NAME].id)
    for tag in (TUNED_STATE_TAG, STATE_TAG):
        assert sorted((v.tags.get(tag) for v in found), key=str) == [None, "deleted"]
    assert all(TUNED_TAG in v.tags for v in found)


def test_a_model_whose_deployment_is_gone_is_not_registered_anew(context):
    service, config = project(("Completed", [])), FoundryConfig(tuned_model="undeployed")
    client = follow_in(context, service, config).client
    (version,) = find_tuned(context.tracker, service.models[NAME].id)
    newer = client.create_model_version("undeployed", "/nowhere")
    set_challenger(client, newer)
    DeploymentRegistry(client).note_deleted("undeployed", version.version, {})

    follow_in(context, service, config)

    assert len(find_tuned(context.tracker, service.models[NAME].id)) == 1
    assert client.get_model_version_by_alias("undeployed", CHALLENGER).version == newer.version


def test_a_job_is_found_by_its_name_its_run_or_as_the_newest(context):
    with pytest.raises(UsageError, match="U775"):
        _find(context, "")
    first = follow_in(context, project(("Completed", [])))
    with pytest.raises(UsageError, match="U775"):
        _find(context, "")
    later = context.tracker.start("train-2", stage="trial", tags={JOB_TAG: NAME})

    for name in ("", NAME, later.run_id):
        found = _find(context, name)
        assert (found.name, found.runs) == (NAME, (first.run_id, later.run_id))
    assert _find(context, "").stage == "trial"
    assert _find(context, first.run_id).runs[-1] == first.run_id
    assert _find(context, first.run_id).target == "azure-foundry"
    elsewhere = _find(context, "made-in-the-portal")
    assert (elsewhere.name, elsewhere.runs) == ("made-in-the-portal", ())
