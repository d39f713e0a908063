"""A model that Foundry tuned, billed by token."""

import datetime as dt

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from mlflow_phi3.azure.assets import name_asset, upload_model
from mlflow_phi3.azure.client import open_workspace
from mlflow_phi3.azure.target import find_target
from mlflow_phi3.cli.deployment import app as deployment
from mlflow_phi3.cli.try_ import app as try_app
from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.emulator.router import WORKSPACE
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION
from mlflow_phi3.emulator.settings import WORKSPACE as PROJECT
from mlflow_phi3.tracking.tags import TUNED_TAG

HOME = WORKSPACE.format(subscription=SUBSCRIPTION, group=GROUP, workspace=PROJECT)
QUICK = {"verify": "false"}


@pytest.fixture(scope="module")
def tuned(emulator, models, tmp_path_factory):
    """Register what a fine-tuning job would: a version with the job's name."""
    from pathlib import Path

    environment = emulator.environment
    target = find_target("azure-foundry", environment, tmp_path_factory.mktemp("nowhere"))
    workspace = open_workspace(target, environment)
    asset = name_asset("tuned", "", Path(models["one"]))
    upload_model(workspace, asset, Path(models["one"]), {})
    headers = {"Authorization": f"Bearer {emulator.token()}"}
    arm = {"headers": headers, "params": {"api-version": "2023-08-01-preview"}}
    sent = emulator.http.get(asset.id_in(target), **arm).json()["properties"]
    body = {"properties": {"modelUri": sent["modelUri"], "jobName": "ft-1", "modelType": "x"}}
    made = emulator.http.put(f"{target.path}/models/phi-ft/versions/1", json=body, **arm)
    assert made.status_code == 201
    found = emulator.http.get(target.path, **arm).json()
    place = f"locations/{found['location']}/workspaces/{found['properties']['workspaceId']}"
    return f"azureml://{place}/models/phi-ft/versions/1"


@pytest.fixture
def version(tuned, models, _clean):
    registry = MlflowClient()
    registry.create_registered_model("phi-ft")
    made = registry.create_model_version("phi-ft", models["one"], tags={TUNED_TAG: tuned})
    yield f"models:/phi-ft/{made.version}"
    registry.delete_registered_model("phi-ft")


def test_a_tuned_model_goes_serverless_by_itself(
    client, version, ask, emulator, check_published, capsys
):
    made = client.create_deployment("token", version, config={"ttl_hours": "2"})
    assert (made["flavor"], made["state"], made["content_safety"]) == (
        "serverless",
        "Succeeded",
        True,
    )
    assert client.predict("token", ask)["choices"][0]["message"]["content"] == "one: hello"
    deltas = [part["choices"][0]["delta"] for part in client.predict_stream("token", ask)]
    assert "".join(delta.get("content", "") for delta in deltas) == "one: hello"
    assert len(deltas) == 3
    emulator.http.delete("/emulator/journal")
    client.create_deployment("token", version)
    assert not [e for e in emulator.journal() if e["method"] == "PUT"]
    with pytest.raises(MlflowException, match="one deployment per custom model") as limit:
        client.create_deployment("second", version)
    assert "Fix: delete the deployment that this model has" in str(limit.value)
    assert "take back" not in capsys.readouterr().err
    assert [e["name"] for e in client.list_deployments()] == ["token"]
    config = {"content_safety": "false", "content_safety_reason": "red team"}
    assert client.update_deployment("token", version, config=config)["content_safety"] is False
    tags = MlflowClient().get_model_version("phi-ft", version.rsplit("/", 1)[1]).tags
    assert (tags["azure.endpoint"], tags["azure.state"]) == ("token", "deployed")
    check_published(emulator.changes())
    client.delete_deployment("token")
    client.delete_deployment("token")
    assert client.list_deployments() == []


def test_what_serverless_has_not_is_refused(client, version, models):
    for model, config in (
        (version, {"instance_count": "2"}),
        (version, {"traffic": "10"}),
        (models["one"], {"mode": "serverless"}),
    ):
        with pytest.raises(MlflowException, match=r"PHI3-U74[79]"):
            client.create_deployment("token", model, config=config)
    with pytest.raises(MlflowException, match="PHI3-U750"):
        client.create_deployment("blue", version, endpoint="token")


def test_an_operation_that_fails_leaves_nothing(client, version, emulator):
    emulator.fault("fail_operation", "/serverlessEndpoints/fails")
    with pytest.raises(MlflowException, match=r"PHI3-A701 .*unexpected internal failure"):
        client.create_deployment("fails", version)
    assert client.list_deployments() == []


@pytest.mark.parametrize(
    ("kind", "method", "path", "values"),
    [
        ("drop_after", "PUT", "/serverlessEndpoints/lost", {}),
        ("status", "GET", "mfeOperationsStatus", {"status": 401}),
    ],
    ids=["the answer is lost", "the token is over"],
)
def test_a_change_that_goes_on_is_followed(client, version, emulator, kind, method, path, values):
    """What the SDK sends again meets its own first try, as one that is at work already."""
    emulator.fault(kind, path, method=method, **values)
    made = client.create_deployment("lost", version)
    assert (made["state"], made["left"], emulator.waiting_faults()) == ("Succeeded", [], [])
    emulator.fault("drop_after", "/serverlessEndpoints/lost", method="DELETE")
    client.delete_deployment("lost")
    assert client.list_deployments() == []


@pytest.fixture
def gone(version, tuned):
    """A version whose tuned model was deleted in Azure."""
    registry = MlflowClient()
    tag = tuned.replace("/phi-ft/", "/phi-gone/")
    made = registry.create_model_version("phi-ft", version, tags={TUNED_TAG: tag})
    return f"models:/phi-ft/{made.version}"


def test_a_model_that_is_gone_is_not_deployed(client, gone):
    with pytest.raises(MlflowException, match=r"PHI3-A701 .*status 404, code ModelNotFound"):
        client.create_deployment("again", gone, config=QUICK)
    assert client.list_deployments() == []
    tags = MlflowClient().get_model_version("phi-ft", gone.rsplit("/", 1)[1]).tags
    assert "azure.state" not in tags


def test_create_and_update_keep_their_purpose(client, version, gone, capsys):
    with pytest.raises(MlflowException, match="PHI3-U736"):
        client.update_deployment("token", version, config=QUICK)
    client.create_deployment("token", version, config=QUICK)
    with pytest.raises(MlflowException, match="PHI3-U738"):
        client.create_deployment("token", gone, config=QUICK)
    capsys.readouterr()
    client.delete_deployment("token", config={"dry_run": "true"})
    assert capsys.readouterr().err == (
        "would delete serverless endpoint token; nothing was deleted (dry run)\n"
    )
    assert [e["name"] for e in client.list_deployments()] == ["token"]
    client.delete_deployment("token")


def test_one_name_is_of_one_kind(client, version, models):
    client.create_deployment("token", version, config=QUICK)
    for make in (
        lambda: client.create_deployment("token", models["one"], config=QUICK),
        lambda: client.update_deployment("token", models["one"], config=QUICK),
        lambda: client.create_endpoint("token"),
    ):
        with pytest.raises(MlflowException, match=r"PHI3-U753 .*serverless"):
            make()
    for verb in ("promote", "rollback"):
        told = CliRunner().invoke(deployment, [verb, "token", "-t", "azure-foundry:/local"])
        assert "PHI3-U755 endpoint token: it is serverless" in str(told.exception)
    client.delete_deployment("token")
    client.create_endpoint("token")
    with pytest.raises(MlflowException, match=r"PHI3-U753 .*managed"):
        client.create_deployment("token", version, config=QUICK)
    assert [e["flavor"] for e in client.list_deployments()] == ["python_function"]
    client.delete_deployment("token")


def test_what_try_prints_asks_it_with_openais_client(client, version, run_printed):
    client.create_deployment("printed", version, config=QUICK)
    words = ["printed", "--question", "hello", "-t", "azure-foundry:/local"]
    told = CliRunner().invoke(try_app, words)
    assert told.exit_code == 0, told.exception
    assert "from openai import OpenAI" in told.output
    assert run_printed(told.output).count("one: hello") == 2
    client.delete_deployment("printed")


def test_try_tells_of_a_deployment_and_a_way_back_that_there_are_not(client, version, tmp_path):
    client.create_deployment("alone", version, config=QUICK)
    words = ["alone", "-t", "azure-foundry:/local"]
    told = CliRunner().invoke(try_app, [*words, "--deployment", "blue"])
    assert "PHI3-U735 blue" in str(told.exception)
    golden = tmp_path / "golden.jsonl"
    golden.write_text('{"messages": [{"role": "user", "content": "hello"}], "contains": ["blue"]}')
    told = CliRunner().invoke(try_app, [*words, "--golden", str(golden)])
    assert str(told.exception).endswith("Fix: change the file.")
    client.delete_deployment("alone")


def test_only_what_has_expired_is_reaped_whatever_its_name(client, version, emulator):
    client.create_deployment("twin", version, config={**QUICK, "ttl_hours": "1"})
    made = emulator.http.put(  # elsewhere than here one name may be of both kinds
        f"{HOME}/onlineEndpoints/twin",
        json={"location": "eastus2", "properties": {"authMode": "Key"}},
        params={"api-version": "2024-10-01-preview"},
        headers={"Authorization": f"Bearer {emulator.token()}"},
    )
    assert made.status_code == 201, made.text
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
    deployer = Deployer("azure-foundry:/local", told=print)
    assert deployer.reap(later, dry_run=False, timeout_s=60) == ["twin"]
    assert [e["flavor"] for e in client.list_deployments()] == ["python_function"]
    client.delete_endpoint("twin")
