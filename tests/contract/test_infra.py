"""Hub and project through the SDK's own templates."""

import json

import pytest
from typer.testing import CliRunner

from mlflow_phi3.azure.client import open_account, open_workspace
from mlflow_phi3.azure.infra import Builder, WantedInfra, find_location, plan_infra
from mlflow_phi3.azure.operation import Deadline
from mlflow_phi3.azure.permissions import SEE, STEPS
from mlflow_phi3.azure.target import Target
from mlflow_phi3.cli.doctor import app as doctor_app
from mlflow_phi3.cli.infra import app
from mlflow_phi3.cli.models import app as models_app
from mlflow_phi3.emulator.settings import SUBSCRIPTION
from mlflow_phi3.errors import PreflightError

TARGET = Target(SUBSCRIPTION, "tutorial", "phi-tutorial")


@pytest.fixture
def azure(emulator, monkeypatch):
    """As after `eval "$(mlflow-phi3 emulator env)"`, with a project that is not there."""
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", TARGET.group)
    monkeypatch.setenv("AZUREML_WORKSPACE_NAME", TARGET.project)


def test_from_nothing_and_again(azure, emulator, check_published):
    told = CliRunner().invoke(doctor_app, ["--json"])
    missing = {check["name"] for check in json.loads(told.output) if check["state"] == "failed"}
    assert told.exit_code == 4
    assert {"resource group", "project"} <= missing
    told = CliRunner().invoke(doctor_app, [])
    assert isinstance(told.exception, PreflightError)
    assert "Fix: mlflow-phi3 infra --location" in told.output
    told = CliRunner().invoke(app, ["--location", "eastus2", "--dry-run", "--json"])
    planned = json.loads(told.output.splitlines()[-1])["steps"]
    assert [step["kind"] for step in planned] == [
        "resource group",
        "AI Services account",
        "hub",
        "connection",
        "project",
    ]
    assert not [e for e in emulator.journal() if e["method"] == "PUT"]
    emulator.allow(SEE, *STEPS["infra"])
    told = CliRunner().invoke(app, ["--location", "eastus2"])
    assert told.exit_code == 0, told.exception
    made = emulator.needed()
    assert "export AZUREML_WORKSPACE_NAME=phi-tutorial" in told.output
    check_published(emulator.changes())
    workspace = open_workspace(TARGET, emulator.environment)
    assert workspace.location == "eastus2"
    with workspace.session("project") as ml:
        found = ml.workspaces.get("phi-tutorial")
        assert (found._kind, found._hub_id.rsplit("/", 1)[1]) == ("project", "phi-tutorial-hub")
    emulator.http.delete("/emulator/journal")
    told = CliRunner().invoke(app, [])
    assert "Nothing to do" in told.output
    asked = {action.lower() for action in STEPS["infra"]} - made - emulator.needed()
    # Templates are done at once here; in Azure, one that takes time is looked at again.
    assert asked == {"microsoft.resources/deployments/read"}
    emulator.allow("*")
    assert not [e for e in emulator.journal() if e["method"] == "PUT"]
    told = CliRunner().invoke(doctor_app, ["--fix", "--json"])
    assert told.exit_code == 0, [c for c in json.loads(told.output) if c["state"] == "failed"]
    _elsewhere(emulator)


def _elsewhere(emulator):
    """A name that is taken by something else is refused before anything is created."""
    account = open_account(TARGET, emulator.environment)
    builder = Builder(account, Deadline(30))
    for wanted, code in (
        (WantedInfra(TARGET, "phi-tutorial-hub", "westus"), "PHI3-P722"),
        (WantedInfra(TARGET, "phi-tutorial", "eastus2"), "PHI3-P721"),
        (
            WantedInfra(TARGET, "phi-tutorial-hub", "", ai_services="/subscriptions/x/y"),
            "PHI3-P723",
        ),
    ):
        current = builder.look(wanted)
        with pytest.raises(PreflightError, match=code):
            plan_infra(current, wanted)
    assert find_location(builder.look(WantedInfra(TARGET, "new", "")), wanted) == "eastus2"


def test_the_registry_is_asked_for_the_regions_of_today(azure):
    told = CliRunner().invoke(models_app, ["Phi-4-mini-instruct", "--live", "--json"])
    assert told.exit_code == 0, told.exception
    found = json.loads(told.output)
    assert found["live"] == "the registry azureml"
    (model,) = found["models"]
    assert (model["regions_as_of"], model["registry_version"]) == ("now", "1")
    assert "eastus2" in model["regions"]
