"""Registered models: their names, and what is told of a version."""

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry import SEARCH_REGISTERED_MODEL_MAX_RESULTS_DEFAULT

from mlflow_phi3.errors import UsageError
from mlflow_phi3.tracking.deployment_registry import DeploymentRegistry
from mlflow_phi3.tracking.registry import create_version, crown, ensure_registered
from mlflow_phi3.tracking.versions import find_version


def test_a_versions_figures_stand_beside_its_model_too(tracker):
    run = tracker.start("register", stage="register")
    model = tracker.client.create_logged_model(tracker.experiment_id, source_run_id=run.run_id)

    version = create_version(
        run,
        name="figures",
        model_uri=model.model_uri,
        metrics={"test/loss": 1.5},
        tags={"phi3.trial_run": "t"},
        description="so",
    )

    assert version.tags == {"test/loss": "1.5", "phi3.trial_run": "t"}
    assert aliases(tracker, "figures") == {"challenger": "1"}
    (metric,) = tracker.client.get_logged_model(model.model_id).metrics
    assert (metric.key, metric.value) == ("test/loss", 1.5)
    assert tracker.client.get_run(run.run_id).data.metrics == {"test/loss": 1.5}


def aliases(tracker, name):
    known = tracker.client.get_registered_model(name).aliases
    return {alias: str(version) for alias, version in known.items()}


def test_who_takes_over_from_a_champion_leaves_it_the_alias_previous(tracker, tmp_path):
    ensure_registered(tracker.client, "reign")
    versions = [tracker.client.create_model_version("reign", tmp_path.as_uri()) for _ in range(2)]
    crown(tracker.client, versions[0])
    assert aliases(tracker, "reign") == {"champion": "1"}
    crown(tracker.client, versions[1])
    crown(tracker.client, versions[1])
    assert aliases(tracker, "reign") == {"champion": "2", "previous": "1"}

    registry = DeploymentRegistry(tracker.client)
    registry.set_champion("reign", "1", "")
    assert aliases(tracker, "reign") == {"champion": "1"}


def test_a_champion_moves_when_all_else_has(tracker, tmp_path, monkeypatch):
    ensure_registered(tracker.client, "half")
    versions = [tracker.client.create_model_version("half", tmp_path.as_uri()) for _ in range(2)]
    crown(tracker.client, versions[0])
    move, moved = tracker.client.set_registered_model_alias, []

    def dies_at_the_second(*told):
        if moved:
            raise MlflowException("away")
        moved.append(move(*told))

    monkeypatch.setattr(tracker.client, "set_registered_model_alias", dies_at_the_second)
    with pytest.raises(MlflowException, match="away"):
        crown(tracker.client, versions[1])
    assert aliases(tracker, "half")["champion"] == "1"


def test_a_version_is_deleted_only_where_it_runs_by_its_tags(tracker, tmp_path):
    ensure_registered(tracker.client, "placed")
    tracker.client.create_model_version("placed", tmp_path.as_uri())
    registry, here = (
        DeploymentRegistry(tracker.client),
        {"azure.target": "/p", "azure.endpoint": "a"},
    )
    registry.tag_version("placed", "1", {**here, "azure.state": "deployed"})
    assert registry.find_deployed(here) == [("placed", "1")]
    assert registry.find_deployed({**here, "azure.target": "/q"}) == []
    registry.note_deleted("placed", "1", {**here, "azure.endpoint": "b"})
    assert registry.find("placed", "1").tags["azure.state"] == "deployed"
    registry.note_deleted("placed", "1", here)
    assert registry.find("placed", "1").tags["azure.state"] == "deleted"
    assert registry.find_deployed(here) == []


def test_a_name_with_a_quote_is_found_again(tracker):
    for _ in range(2):
        ensure_registered(tracker.client, "it's mine")
    assert tracker.client.get_registered_model("it's mine").name == "it's mine"


def test_why_a_name_is_refused_is_told(tracker):
    with pytest.raises(MlflowException, match="Invalid model name 'a/b'"):
        ensure_registered(tracker.client, "a/b")


def test_the_latest_version_is_found_as_mlflow_finds_it(tracker, tmp_path):
    ensure_registered(tracker.client, "latest of three")
    for number in range(3):
        tracker.client.create_model_version(
            "latest of three", tmp_path.as_uri(), tags={"number": number}
        )
    found = find_version("models:/latest of three/latest")
    assert (found.name, found.version, found.tags) == ("latest of three", "3", {"number": "2"})
    assert find_version("models:/latest of three/2").tags == {"number": "1"}
    with pytest.raises(UsageError, match="PHI3-U733 models:/none of three/latest"):
        find_version("models:/none of three/latest")


def test_a_model_beyond_the_registrys_first_page_is_there(tracker):
    for number in range(SEARCH_REGISTERED_MODEL_MAX_RESULTS_DEFAULT):
        ensure_registered(tracker.client, f"a page of models {number}")
    ensure_registered(tracker.client, "zz is after them")
    with pytest.raises(UsageError, match="zz is after them has no such version or alias"):
        find_version("models:/zz is after them@champion")


def test_a_version_that_is_not_there_is_told_what_is(tracker, tmp_path):
    ensure_registered(tracker.client, "skylark")
    tracker.client.create_model_version("skylark", tmp_path.as_uri())
    tracker.client.set_registered_model_alias("skylark", "champion", "1")
    for uri, told in (
        ("models:/skylrak@champion", "no such registered model. Fix: did you mean 'skylark'?"),
        ("models:/skylark@champoin", "no such version or alias. Fix: one of @champion, /1"),
        ("models:/skylark/9", "no such version or alias. Fix: one of @champion, /1"),
    ):
        with pytest.raises(UsageError) as caught:
            find_version(uri)
        assert told in str(caught.value)
