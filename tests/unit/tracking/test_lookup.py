"""Runs that a person named."""

import errno
import os
import shutil
from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.tracking.deployment_registry import DeploymentRegistry
from mlflow_phi3.tracking.lookup import fetch, find_finished, find_run
from mlflow_phi3.tracking.model_files import opened_model, read_example
from mlflow_phi3.tracking.versions import Version, find_version


@pytest.mark.parametrize("run_id", ["abc", "0" * 32, "../x"])
def test_a_run_that_is_not_there_is_told_by_the_parameter_that_named_it(tracker, run_id):
    with pytest.raises(UsageError, match=r"PHI3-U021 continue_from: no run '.*'"):
        find_run(tracker, run_id, where="continue_from")


def test_a_finished_run_of_the_stage_is_found(tracker):
    with tracker.stage("sweep", stage="sweep", tags={"phi3.winner_run": "w"}) as run:
        pass

    found = find_finished(
        tracker, run.run_id, stage="sweep", tag="phi3.winner_run", where="sweep_run"
    )

    assert found.run_id == run.run_id


@pytest.mark.parametrize(
    ("stage", "tags", "status"),
    [
        ("train", {"phi3.winner_run": "w"}, "FINISHED"),
        ("sweep", {}, "FINISHED"),
        ("sweep", {"phi3.winner_run": "w"}, "KILLED"),
    ],
)
def test_another_run_than_was_meant_is_refused(tracker, stage, tags, status):
    run = tracker.start("other", stage=stage, tags=tags)
    run.end(status)

    with pytest.raises(UsageError, match=rf"PHI3-U022 sweep_run: .*\({stage}, {status}\)"):
        find_finished(tracker, run.run_id, stage="sweep", tag="phi3.winner_run", where="sweep_run")


def test_an_artifact_that_is_not_there_is_named(tracker, tmp_path):
    run = tracker.start("trial", stage="trial")

    with pytest.raises(
        UsageError, match=r"PHI3-U023 continue_from: .*no artifact checkpoints/best"
    ):
        fetch(run, "checkpoints/best", tmp_path, where="continue_from")


@pytest.fixture
def unreachable(tracker, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return replace(tracker, client=MlflowClient("http://127.0.0.1:9"))


def test_a_store_that_is_away_is_not_a_run_that_is_not_there(unreachable):
    with pytest.raises(MlflowException, match="API request to http"):
        find_run(unreachable, "0" * 32, where="continue_from")


def test_a_certificate_that_cannot_be_read_is_not_one_that_is_not_there(unreachable, monkeypatch):
    """Otherwise a deployment would go to its traffic unexamined."""
    registry = DeploymentRegistry(unreachable.client)
    with pytest.raises(PreflightError, match="PHI3-P086"):
        registry.read_json("0" * 32, "parity/certificate.json")
    with pytest.raises(PreflightError, match="PHI3-P086"):
        registry.write_json("0" * 32, {}, "parity/deployed.json")


def test_one_question_to_the_store_finds_a_finished_run(tracker, monkeypatch):
    with tracker.stage("sweep", stage="sweep", tags={"phi3.winner_run": "w"}) as run:
        pass
    asked, get_run = [], MlflowClient.get_run
    monkeypatch.setattr(
        MlflowClient,
        "get_run",
        lambda self, run_id: (asked.append(run_id), get_run(self, run_id))[1],
    )
    find_finished(tracker, run.run_id, stage="sweep", tag="phi3.winner_run", where="sweep_run")
    assert asked == [run.run_id]


def test_a_model_that_is_not_there_is_told_by_its_name(tmp_path):
    with (
        pytest.raises(UsageError, match=r"PHI3-U732 .*No such artifact.*check the name"),
        opened_model(str(tmp_path / "none")),
    ):
        pass


def test_the_example_of_a_version_is_read_from_the_store(tracker, tmp_path):
    (tmp_path / "MLmodel").write_text("saved_input_example_info: {artifact_path: example.json}")
    (tmp_path / "example.json").write_text('{"messages": []}')
    tracker.client.create_registered_model("exampled")
    tracker.client.create_model_version("exampled", tmp_path.as_uri())

    assert read_example(Version("exampled", "1")) == {"messages": []}
    assert read_example(Version()) is None


def test_a_versions_run_is_the_registrys_and_a_folders_that_of_its_file(tracker, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text("run_id: elsewhere")
    run = tracker.start("register", stage="register")
    tracker.client.create_registered_model("copied")
    tracker.client.create_model_version("copied", folder.as_uri(), run_id=run.run_id)

    for uri, run_id in (("models:/copied/1", run.run_id), (str(folder), "elsewhere")):
        with opened_model(uri) as model:
            assert model.run_id == run_id


def test_a_full_disk_is_not_a_wrong_name(tmp_path, monkeypatch):
    def refuse(*_arguments, **_named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "MLmodel").write_text("flavors: {}")
    monkeypatch.setattr(shutil, "copyfile", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)
    with (
        pytest.raises(PreflightError, match=r"PHI3-P089 .*No space left.*TMPDIR"),
        opened_model(str(tmp_path)),
    ):
        pass


@pytest.mark.parametrize(
    "ask",
    [
        lambda: find_version("models:/chat@champion"),
        lambda: opened_model("models:/chat/1").__enter__(),
        lambda: read_example(Version("chat", "1")),
        lambda: DeploymentRegistry().get_champion("chat"),
        lambda: DeploymentRegistry().set_champion("chat", "2", "1"),
        lambda: DeploymentRegistry().tag_version("chat", "1", {"azure.state": "deployed"}),
        lambda: DeploymentRegistry().note_deleted("chat", "1", {"azure.endpoint": "chat"}),
    ],
)
def test_a_registry_that_is_away_is_told_to_whoever_deploys(ask, unreachable):
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(PreflightError, match=r"PHI3-P086 http://127.0.0.1:9: MLflow's store"):
            ask()
    finally:
        mlflow.set_tracking_uri(unreachable.uri)


def test_a_registry_in_a_database_that_is_away_is_told_to_whoever_deploys(tracker, monkeypatch):
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    mlflow.set_tracking_uri("postgresql+psycopg2://me:secret@127.0.0.1:9/phi")
    try:
        with pytest.raises(PreflightError, match=r"PHI3-P086 postgresql\+psycopg2://me:\*\*\*@127"):
            DeploymentRegistry().get_champion("chat")
    finally:
        mlflow.set_tracking_uri(tracker.uri)


def test_a_run_of_another_server_has_no_certificate_here(tracker):
    registry = DeploymentRegistry(tracker.client)
    assert registry.read_json("0" * 32, "parity/certificate.json") is None
    registry.write_json("0" * 32, {}, "parity/deployed.json")


def test_a_version_is_noted_as_deleted_only_where_its_tags_say_that_it_is(tracker):
    client = tracker.client
    client.create_registered_model("noted")
    version = client.create_model_version("noted", "/nowhere").version
    registry = DeploymentRegistry(client)

    def state(endpoint):
        registry.tag_version("noted", version, {"azure.state": "deployed"})
        registry.note_deleted("noted", version, {"azure.endpoint": endpoint})
        return client.get_model_version("noted", version).tags["azure.state"]

    assert state("staging") == "deleted"  # deployed by a release that did not tell where
    registry.tag_version("noted", version, {"azure.endpoint": "production"})
    assert state("staging") == "deployed"
    assert state("production") == "deleted"
    registry.note_deleted("noted", "9", {"azure.endpoint": "production"})
