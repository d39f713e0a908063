"""Every check of `doctor` fails here once, and its message alone tells how to mend it."""

import datetime as dt
from dataclasses import replace

import pytest
from azure.core.pipeline.policies import RetryPolicy

from mlflow_phi3.azure.checks import Needs
from mlflow_phi3.azure.client import open_account
from mlflow_phi3.azure.preflight import Doctor
from mlflow_phi3.azure.target import Target
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION, WORKSPACE
from mlflow_phi3.modeling.catalog import describe, refusal
from mlflow_phi3.workflows.doctor import installed_versions, wanted_versions

NEEDS = Needs(
    model="Phi-4-mini-instruct",
    regions=describe("Phi-4-mini-instruct").finetuning_regions,
    refusal="",
    instead="",
    instance_type="Standard_NC24ads_A100_v4",
    instance_count=1,
)
HERE = Target(SUBSCRIPTION, GROUP, WORKSPACE)
DEVELOPER = {  # the built-in role Azure AI Developer, 2025-04-21
    "actions": [
        "Microsoft.MachineLearningServices/workspaces/*/read",
        "Microsoft.MachineLearningServices/workspaces/*/action",
        "Microsoft.MachineLearningServices/workspaces/*/delete",
        "Microsoft.MachineLearningServices/workspaces/*/write",
        "Microsoft.MachineLearningServices/locations/*/read",
        "Microsoft.Authorization/*/read",
        "Microsoft.Resources/deployments/*",
    ],
    "notActions": [
        "Microsoft.MachineLearningServices/workspaces/delete",
        "Microsoft.MachineLearningServices/workspaces/write",
        "Microsoft.MachineLearningServices/workspaces/listKeys/action",
        "Microsoft.MachineLearningServices/workspaces/hubs/write",
        "Microsoft.MachineLearningServices/workspaces/hubs/delete",
    ],
}


@pytest.fixture
def look(emulator):
    """Look at the emulator's project, or another; the checks by name."""

    def look(needs=NEEDS, target=HERE, ahead_s=0.0, fix=False, **environment):
        account = open_account(target, {**emulator.environment, **environment})
        skew = dt.timedelta(seconds=ahead_s)
        doctor = Doctor(account, needs, lambda: dt.datetime.now(dt.UTC) + skew, fix)
        return {check.name: check for check in doctor.checks()}

    return look


@pytest.fixture
def unregistered(emulator):
    """The subscription does not know the network's provider, as a new one."""
    place = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Network/unregister"
    asked = {
        "headers": {"Authorization": f"Bearer {emulator.token()}"},
        "params": {"api-version": "2021-04-01"},
    }
    assert emulator.http.post(place, **asked).status_code == 200


def failed(checks):
    return {name for name, check in checks.items() if check.state == "failed"}


def assert_mendable(check, *words):
    """What was found and what is needed, which step is blocked, and a command or place to mend."""
    assert check.state == "failed"
    assert check.found
    assert check.needed
    assert check.blocks
    for word in words:
        assert word in check.fix


def test_the_network_provider_is_registered_only_by_fix(look, unregistered):
    checks = look()
    assert failed(checks) == {"provider Microsoft.Network"}
    assert_mendable(checks["provider Microsoft.Network"], "doctor --fix", "register/action")
    assert checks["provider Microsoft.Network"].found == "NotRegistered"
    fixed = look(fix=True)
    assert (failed(fixed), fixed["provider Microsoft.Network"].state) == (set(), "fixed")
    assert failed(look()) == set()


def test_another_subscription(look):
    checks = look(target=replace(HERE, subscription="00000000-0000-4000-8000-00000000dead"))
    assert_mendable(checks["subscription"], "az account list", "AZURE_SUBSCRIPTION_ID")
    assert "dead" in checks["subscription"].found
    assert checks["project"].state == "skipped"


def test_a_subscription_that_is_over(look, emulator):
    emulator.http.put("/emulator/subscription", json={"state": "Disabled"})
    try:
        checks = look()
    finally:
        emulator.http.put("/emulator/subscription", json={"state": "Enabled"})
    assert_mendable(checks["subscription"], "Reactivate")
    assert checks["subscription"].found == "state Disabled"


def test_signed_out(look):
    checks = look(AZURE_CLIENT_SECRET="wrong")
    assert_mendable(checks["subscription"], "az login")


def test_no_group_and_no_project(look):
    checks = look(target=replace(HERE, group="nowhere", project="nothing"))
    assert_mendable(checks["resource group"], "mlflow-phi3 infra --location")
    assert_mendable(checks["project"], "mlflow-phi3 infra --location")
    checks = look(target=replace(HERE, project="nothing"))
    assert {"project"} <= failed(checks)
    assert checks["storage"].state == "skipped"


def test_a_hub_is_no_project(look, emulator):
    values = {"workspaceName": "only-a-hub", "kind": "hub", "location": "eastus2"}
    parameters = {name: {"value": value} for name, value in values.items()}
    made = emulator.http.put(
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
        "/providers/Microsoft.Resources/deployments/hub",
        json={"properties": {"parameters": parameters}},
        headers={"Authorization": f"Bearer {emulator.token()}"},
        params={"api-version": "2020-06-01"},
    )
    assert made.status_code == 201, made.text
    check = look(target=replace(HERE, project="only-a-hub"))["project"]
    assert_mendable(check, "mlflow-phi3 infra --hub")
    assert check.found == "it is a hub"


def test_a_model_of_other_regions_and_a_retired_one(look):
    checks = look(replace(NEEDS, regions=("swedencentral",)))
    assert_mendable(checks["model Phi-4-mini-instruct"], "--project <new name>")
    assert "eastus2" in checks["model Phi-4-mini-instruct"].found
    why, instead = refusal(describe("Phi-3-mini-4k-instruct"))
    check = look(replace(NEEDS, model="Phi-3-mini-4k-instruct", refusal=why, instead=instead))[
        "model Phi-3-mini-4k-instruct"
    ]
    assert_mendable(check, "Phi-4-mini-instruct")
    assert "2025-08-30" in check.found


def test_permissions_are_actions_not_roles(look, emulator):
    emulator.http.put("/emulator/permissions", json=[DEVELOPER])
    checks = look()
    assert {"permissions: infra", "permissions: monitor"} <= failed(checks)
    assert checks["permissions: train"].state == "ok"
    assert checks["permissions: deploy"].state == "ok"
    # What a developer may not look at, and no step of theirs needs, is no failure.
    assert checks["resource group"].state == "skipped"
    assert checks["provider Microsoft.Network"].state == "skipped"
    assert checks["project"].state == checks["quota"].state == checks["storage"].state == "ok"
    infra, monitor = checks["permissions: infra"], checks["permissions: monitor"]
    assert "Microsoft.MachineLearningServices/workspaces/write" in infra.found
    assert "Microsoft.Insights/metrics/read" in monitor.found
    assert_mendable(infra, GROUP, "Contributor")
    assert_mendable(monitor, "Monitoring Reader")
    emulator.http.put("/emulator/permissions", json=[{"actions": ["*/read"]}])
    checks = look()
    for step in ("train", "deploy", "delete"):
        assert_mendable(checks[f"permissions: {step}"], "Azure AI Developer")


def test_permissions_that_may_not_be_read(look, emulator):
    emulator.fault("status", "/Microsoft.Authorization/permissions", status=403, times=9)
    checks = look()
    assert_mendable(checks["permissions: infra"], "Reader on resource group")
    assert_mendable(checks["permissions: train"], "Reader on project")


@pytest.mark.parametrize(
    ("kind", "count", "words"),
    [
        ("Standard_NC24ads_A100_v4", 5, ("20 more cores of standardNCADSA100v4Family",)),
        ("Standard_DS4_v2", 11, ("12 more cores",)),  # a fifth is kept for upgrades
        ("Standard_Nonsense", 1, ("az ml compute list-sizes -l eastus2",)),
    ],
)
def test_quota(look, kind, count, words):
    check = look(replace(NEEDS, instance_type=kind, instance_count=count))["quota"]
    assert_mendable(check, *words)


def test_storage_that_refuses(look, emulator):
    emulator.fault("status", "/devstoreaccount1/", status=403, times=9)
    assert_mendable(look()["storage"], "Networking", "Storage Blob Data Contributor")


def test_a_clock_that_is_wrong(look):
    checks = look(ahead_s=-7200)
    assert_mendable(checks["clock"], "set-ntp true")
    assert checks["clock"].found in {f"{seconds} s behind" for seconds in range(7180, 7201)}


def test_packages(look):
    wanted = {"azure-ai-ml": ">=1.35", "azure-identity": ">=1.20", "mlflow": "<4,>=3.17"}
    found = {"azure-ai-ml": "1.9.1", "mlflow": "3.17.0rc1"}
    checks = look(replace(NEEDS, versions=found, wanted_versions=wanted))
    assert_mendable(checks["package azure-ai-ml"], "pip install --upgrade 'azure-ai-ml>=1.35'")
    assert checks["package azure-identity"].found == "not installed"
    assert checks["package mlflow"].state == "failed"
    assert wanted_versions().keys() == installed_versions().keys()
    assert wanted_versions()["azure-ai-ml"].startswith(">=")


def test_a_service_that_answers_nothing(look, emulator, monkeypatch):
    monkeypatch.setattr(RetryPolicy, "get_backoff_time", lambda *_: 0)
    emulator.fault("status", f"/workspaces/{WORKSPACE}$", status=500, times=9)
    checks = look()
    assert_mendable(checks["project"], "run the same command again")


def test_a_fix_that_is_refused_is_no_fix(look, emulator, unregistered):
    emulator.allow("*", but=["Microsoft.Network/register/action"])
    check = look(fix=True)["provider Microsoft.Network"]
    assert_mendable(check, "a role that grants", "Microsoft.Network/register/action")
    assert check.found.startswith("NotRegistered; ")


def test_a_role_on_the_project_alone_is_seen(look, emulator):
    headers = {"Authorization": f"Bearer {emulator.token()}"}
    roles = "/providers/Microsoft.Authorization/roleAssignments"

    def ask(method, path, **body):
        query = {"params": {"api-version": "2022-04-01"}, "headers": headers}
        return emulator.http.request(method, path, json=body or None, **query)

    (owner,) = ask("GET", f"/subscriptions/{SUBSCRIPTION}{roles}").json()["value"]
    role = "/providers/Microsoft.Authorization/roleDefinitions/64702f94-c441-49e6-a78b-ef80e0188fee"
    mine = f"{HERE.path}{roles}/00000000-0000-4000-8000-00000000d00d"
    who = {"principalId": owner["properties"]["principalId"], "roleDefinitionId": role}
    assert ask("PUT", mine, properties=who).status_code == 201
    assert ask("DELETE", owner["id"]).status_code == 200
    try:
        checks = look()
    finally:
        emulator.allow("*")
        ask("PUT", owner["id"], properties=owner["properties"])
        ask("DELETE", mine)
        emulator.clear()
    assert {checks[f"permissions: {step}"].state for step in ("train", "deploy", "delete")} == {
        "ok"
    }
    assert_mendable(checks["permissions: infra"], f"Reader on resource group {GROUP}")
    assert_mendable(checks["permissions: monitor"], f"an owner of project {WORKSPACE}")
