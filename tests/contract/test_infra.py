"""Hub and project through the SDK's own templates."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from mlflow_phi3.azure.client import open_account, open_workspace
from mlflow_phi3.azure.infra import Builder
from mlflow_phi3.azure.infra_plan import CurrentInfra, find_location, plan_infra
from mlflow_phi3.azure.infra_wanted import WantedInfra
from mlflow_phi3.azure.online import Endpoint, OnlineService
from mlflow_phi3.azure.operation import Deadline
from mlflow_phi3.azure.permissions import SEE, STEPS
from mlflow_phi3.azure.resource_manager import ResourceManager
from mlflow_phi3.azure.target import Target
from mlflow_phi3.cli.doctor import app as doctor_app
from mlflow_phi3.cli.infra import app
from mlflow_phi3.cli.models import app as models_app
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION, WORKSPACE
from mlflow_phi3.errors import AzureError, PreflightError, UsageError

TARGET = Target(SUBSCRIPTION, "tutorial", "phi-tutorial")
ACCOUNT = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/tutorial"
    "/providers/Microsoft.CognitiveServices/accounts/nosuch"
)


@pytest.fixture
def azure(emulator, monkeypatch):
    """As after `eval "$(mlflow-phi3 emulator env)"`, with a project that is not there."""
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", "phi-others")
    monkeypatch.setenv("AZUREML_WORKSPACE_NAME", TARGET.project)


def test_from_nothing_and_again(azure, emulator, check_published, monkeypatch):
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", TARGET.group)  # here alone: it is not there yet
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
            WantedInfra(TARGET, "phi-tutorial-hub", "", ai_services=ACCOUNT),
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


@pytest.mark.parametrize(
    ("words", "code", "mend"),
    [
        (["--ai-services", "nosuch"], "PHI3-U786", "az cognitiveservices account list"),
        (["--ai-services", "/subscriptions/x/y"], "PHI3-U786", "resource id"),
        (["--search", "nosuch"], "PHI3-U787", "https://<name>.search.windows.net"),
        (["--search", "http://a.search.windows.net"], "PHI3-U787", "https://"),
        (["--project", "x"], "PHI3-U761", "choose another"),
    ],
)
@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_a_name_where_an_id_or_an_address_belongs(azure, emulator, words, code, mend, dry_run):
    told = CliRunner().invoke(app, ["--location", "eastus2", *words, *dry_run])
    assert isinstance(told.exception, UsageError)
    assert told.exception.code == code
    assert mend in str(told.exception)
    assert not emulator.journal()  # before anything is asked


def test_two_projects_do_not_have_an_endpoint_of_one_name(azure, emulator):
    words = ["--project", "phi-twin", "--ai-services", "skip", "--location", "eastus2"]
    assert CliRunner().invoke(app, words).exit_code == 0
    ours, theirs = (
        OnlineService(open_workspace(target, emulator.environment), Deadline(60))
        for target in (
            Target(SUBSCRIPTION, GROUP, WORKSPACE),
            Target(SUBSCRIPTION, "phi-others", "phi-twin"),
        )
    )
    wanted = Endpoint("twins")
    ours.put_endpoint(wanted)
    with pytest.raises(AzureError, match="There is already an endpoint with this name"):
        theirs.put_endpoint(wanted)
    ours.put_endpoint(replace(wanted, tags={"whose": "ours"}))
    ours.delete_endpoint("twins")
    theirs.put_endpoint(wanted)
    theirs.delete_endpoint("twins")


def test_a_project_stays_in_its_hub(azure, emulator):
    words = ["--project", "phi-own", "--ai-services", "skip"]
    made = CliRunner().invoke(app, [*words, "--hub", "phi-one", "--location", "eastus2"])
    assert made.exit_code == 0, made.exception
    emulator.http.delete("/emulator/journal")
    told = CliRunner().invoke(app, ["--project", "phi-own", "--hub", "other"])
    assert isinstance(told.exception, PreflightError)
    assert told.exception.code == "PHI3-P724"
    assert "project phi-own: it is in hub phi-one, not in other" in str(told.exception)
    told = CliRunner().invoke(app, words)
    assert "Nothing to do" in told.output, told.exception  # its own hub, not phi-own-hub
    assert not [e for e in emulator.journal() if e["method"] == "PUT"]


def test_a_hub_of_another_group_is_taken_as_it_is(emulator, monkeypatch):
    """What is made for it lies beside it."""
    hub = replace(TARGET, group="platform", project="phi-hub")
    project = {"kind": "Project", "location": "eastus2", "properties": {"hubResourceId": hub.path}}
    builder = Builder(open_account(TARGET, emulator.environment), Deadline(1))
    monkeypatch.setattr(builder, "_get", lambda _path, _version: project)
    wanted = builder.choose_hub(WantedInfra(TARGET, "", ""))
    assert wanted.hub_target == hub
    assert "/resourceGroups/platform/" in wanted.account_path
    there = {"kind": "Hub", "location": "eastus2"}
    current = CurrentInfra({"location": "eastus2"}, there, project, {}, {"ai-services": ""})
    assert plan_infra(current, wanted) == ()
    with pytest.raises(PreflightError, match=r"P724 .* in hub phi-hub of resource group platform"):
        plan_infra(current, replace(wanted, hub_group=""))


def test_the_project_that_is_there_from_the_beginning_is_in_a_hub(emulator, monkeypatch):
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    told = CliRunner().invoke(app, ["--ai-services", "skip"])
    assert "Nothing to do" in told.output, told.exception


def test_a_mistyped_region_makes_nothing(azure, emulator):
    words = ["--project", "phi-region", "--group", "phi-regions"]
    for dry_run in (["--dry-run"], []):
        told = CliRunner().invoke(app, [*words, "--location", "estus2", *dry_run])
        assert isinstance(told.exception, UsageError)
        assert "'estus2' is not a region" in str(told.exception)
        assert "did you mean 'eastus2'?" in str(told.exception)
    assert not [e for e in emulator.journal() if e["method"] == "PUT"]
    emulator.allow(SEE, *STEPS["infra"])  # the regions may not be read: Azure itself refuses
    told = CliRunner().invoke(app, [*words, "--location", "estus2"])
    assert isinstance(told.exception, AzureError)
    assert told.exception.azure_code == "LocationNotAvailableForResourceGroup"
    assert "eastus2" in str(told.exception)


def test_the_mends_of_a_wrong_region_lead_out(azure, emulator):
    """Each is followed to its word; the last one makes a project where it was wanted."""
    skip = ["--ai-services", "skip"]
    made = CliRunner().invoke(app, ["--project", "phi-away", "--location", "westus", *skip])
    assert made.exit_code == 0, made.exception
    told = CliRunner().invoke(app, ["--project", "phi-away", "--location", "eastus2", *skip])
    assert told.exception.code == "PHI3-P722"
    assert "another name by --project and another by --hub" in str(told.exception)
    told = CliRunner().invoke(app, ["--project", "phi-there", "--location", "eastus2", *skip])
    assert told.exit_code == 0, told.exception


def test_an_account_of_another_group_serves_a_group_that_is_new(azure, emulator):
    home = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/local"
    account = f"{home}/providers/Microsoft.CognitiveServices/accounts/shared"
    body = {"location": "eastus2", "kind": "AIServices", "sku": {"name": "S0"}}
    made = emulator.http.put(
        account,
        json=body,
        params={"api-version": "2024-10-01"},
        headers={"Authorization": f"Bearer {emulator.token()}"},
    )
    assert made.status_code == 201, made.text
    words = ["--group", "phi-fresh", "--location", "eastus2", "--ai-services"]
    told = CliRunner().invoke(app, [*words, account, "--dry-run", "--json"])
    assert told.exit_code == 0, told.exception
    kinds = [step["kind"] for step in json.loads(told.output)["steps"]]
    assert kinds == ["resource group", "hub", "connection", "project"]
    told = CliRunner().invoke(app, [*words, account.replace("shared", "nosuch")])
    assert told.exception.code == "PHI3-P723"


def test_a_connection_is_not_led_elsewhere(azure):
    words = ["--project", "phi_find", "--location", "eastus2", "--search"]
    made = CliRunner().invoke(app, [*words, "https://one.search.windows.net"])
    assert made.exit_code == 0, made.exception  # also a host's name is made of this project's
    again = CliRunner().invoke(app, [*words, "https://ONE.search.windows.net/"])
    assert "Nothing to do" in again.output, again.exception
    told = CliRunner().invoke(app, [*words, "https://two.search.windows.net"])
    assert isinstance(told.exception, PreflightError)
    assert told.exception.code == "PHI3-P726"
    assert "leads to https://one.search.windows.net, not to https://two" in str(told.exception)
    assert "--search skip" in str(told.exception)


@pytest.mark.parametrize("state", ["Failed", "Canceled"])
def test_what_azure_could_not_make_is_not_taken_for_made(state):
    lost = {"kind": "Hub", "location": "eastus2", "properties": {"provisioningState": state}}
    wanted = WantedInfra(TARGET, "phi-hub", "", ai_services="skip")
    with pytest.raises(PreflightError, match=rf"P725 hub phi-hub: .*{state}.*-n phi-hub -g tut"):
        plan_infra(CurrentInfra({"location": "eastus2"}, lost, None, None), wanted)


def test_what_an_earlier_command_left_under_way_is_waited_for(azure, monkeypatch):
    words = ["--project", "phi-slow", "--location", "eastus2", "--ai-services", "skip"]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.exception
    looked, get = [], ResourceManager.get

    def get_slowly(self, path, *args, **options):
        answer = get(self, path, *args, **options)
        if not path.endswith("/phi-slow"):
            return answer
        looked.append(path)
        state = "Creating" if len(looked) < 4 else "Failed"
        return replace(answer, body={**answer.body, "properties": {"provisioningState": state}})

    monkeypatch.setattr(ResourceManager, "get", get_slowly)
    told = CliRunner().invoke(app, [*words, "--hub", "phi-slow-hub"])
    assert "wait for phi-slow, which is being made" in told.output
    assert told.exception.code == "PHI3-P725"  # and what has become of it is seen


def test_what_is_printed_leads_to_what_was_made(azure, monkeypatch):
    words = ["-t", "azure-foundry:/local", "--project", "phi-shell", "--group", "a(b)"]
    told = CliRunner().invoke(app, [*words, "--location", "eastus2", "--ai-services", "skip"])
    assert told.exit_code == 0, told.exception
    assert told.output.splitlines()[-4:] == [
        'eval "$(mlflow-phi3 emulator env)"',
        f"export AZURE_SUBSCRIPTION_ID={SUBSCRIPTION}",
        "export AZURE_RESOURCE_GROUP='a(b)'",
        "export AZUREML_WORKSPACE_NAME=phi-shell",
    ]
