"""What a role does not grant is refused, and what `doctor` asks for is what the steps need."""

import shutil

import pytest
from mlflow.exceptions import MlflowException

from mlflow_phi3.azure.permissions import SEE, STEPS
from mlflow_phi3.emulator.router import WORKSPACE
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION
from mlflow_phi3.emulator.settings import WORKSPACE as NAME

ROLES = "/providers/Microsoft.Authorization"
PROJECT = WORKSPACE.format(subscription=SUBSCRIPTION, group=GROUP, workspace=NAME)
MANAGED = [action for action in STEPS["deploy"] if "serverlessEndpoints" not in action]
CREATING = [action for action in MANAGED if not action.endswith("/delete")]
MODEL = next(action for action in MANAGED if "models/versions/write" in action)


def salted(model, folder, salt="salt"):
    """The same model with content that was never sent, or its upload would be skipped."""
    copied = folder / "model"
    shutil.copytree(model, copied)
    (copied / "salt.txt").write_text(salt)
    return str(copied)


def test_a_deployment_over_its_life_needs_what_the_table_says(
    client, models, ask, emulator, tmp_path
):
    emulator.allow(SEE, *STEPS["deploy"])
    client.create_deployment("allowed", models["one"])
    client.predict("allowed", ask)
    client.update_deployment("allowed", models["two"])
    client.update_deployment("allowed", salted(models["one"], tmp_path))  # a slot is used again
    client.delete_deployment("allowed")
    assert {action.lower() for action in MANAGED} <= emulator.needed()
    assert client.list_deployments() == []


@pytest.mark.parametrize(
    "action",
    [
        SEE,
        MODEL,
        *(pytest.param(one, marks=pytest.mark.slow) for one in CREATING if one != MODEL),
    ],
)
def test_without_an_action_the_message_names_it(action, client, models, ask, emulator, tmp_path):
    model = salted(models["one"], tmp_path, action)
    emulator.allow("*", but=[action])
    with pytest.raises(MlflowException) as refused:
        client.create_deployment("forbidden", model)
    told = str(refused.value)
    assert action.lower() in told.lower()
    assert "status 403" in told
    assert "Fix: ask an owner of resource group local for a role that grants" in told
    emulator.allow("*")
    client.create_deployment("forbidden", model)  # the same command completes it
    assert client.predict("forbidden", ask)["choices"][0]["message"]["content"] == "one: hello"
    client.delete_deployment("forbidden")


def test_roles_hold_where_they_are_assigned(emulator):
    headers = {"Authorization": f"Bearer {emulator.token()}"}
    subscription = f"/subscriptions/{SUBSCRIPTION}"
    group = f"{subscription}/resourceGroups/{GROUP}"

    def ask(method, path, **body):
        query = {"api-version": "2022-04-01"}
        return emulator.http.request(method, path, headers=headers, params=query, json=body or None)

    listed = ask("GET", f"{subscription}{ROLES}/roleDefinitions").json()["value"]
    roles = {one["properties"]["roleName"]: one["id"] for one in listed}
    (owner,) = ask("GET", f"{subscription}{ROLES}/roleAssignments").json()["value"]
    assert owner["properties"]["roleDefinitionId"] == roles["Owner"]
    me = owner["properties"]["principalId"]
    role = {"roleDefinitionId": roles["Azure AI Developer"], "principalId": me}
    mine = f"{group}{ROLES}/roleAssignments/00000000-0000-4000-8000-00000000d00d"
    assert ask("PUT", mine, properties={"principalId": me}).status_code == 400
    assert ask("PUT", mine, properties=role).status_code == 201
    twin = mine.replace("d00d", "d00e")
    assert ask("PUT", twin, properties=role).json()["error"]["code"] == "RoleAssignmentExists"
    try:
        assert ask("DELETE", owner["id"]).status_code == 200
        assert ask("GET", PROJECT).status_code == 200
        assert ask("GET", f"{PROJECT}/jobs").status_code == 200
        assert ask("GET", group).status_code == 403
        elsewhere = (
            f"{subscription}/resourceGroups/other/providers/Microsoft.Resources/deployments/d"
        )
        refused = ask("GET", elsewhere).json()["error"]
        assert refused["code"] == "AuthorizationFailed"
        assert (
            f"'Microsoft.Resources/deployments/read' over scope '{elsewhere}'" in refused["message"]
        )
        assert ask("PUT", owner["id"], properties=owner["properties"]).status_code == 403
    finally:
        emulator.allow("*")
        ask("PUT", owner["id"], properties=owner["properties"])
        ask("DELETE", mine)
        emulator.clear()
    assert ask("GET", group).status_code == 200
    assert ask("DELETE", mine).status_code == 204
