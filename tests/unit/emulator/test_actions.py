"""Requests in the words of Azure's roles."""

import pytest

from mlflow_phi3.emulator.authorization.actions import (
    is_granted,
    matches,
    needed_actions,
    scope_of,
)

GROUP = "/subscriptions/s/resourceGroups/g"
ML = "Microsoft.MachineLearningServices"
PROJECT = f"{GROUP}/providers/{ML}/workspaces/p"
MONITOR = "providers/Microsoft.Insights/metrics"


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", GROUP, "Microsoft.Resources/subscriptions/resourceGroups/read"),
        ("PUT", f"{GROUP}/", "Microsoft.Resources/subscriptions/resourceGroups/write"),
        ("GET", PROJECT, f"{ML}/workspaces/read"),
        ("GET", f"{PROJECT}/models", f"{ML}/workspaces/models/read"),
        ("PUT", f"{PROJECT}/models/m/versions/1", f"{ML}/workspaces/models/versions/write"),
        ("DELETE", f"{PROJECT}/jobs/j", f"{ML}/workspaces/jobs/delete"),
        (
            "POST",
            f"{PROJECT}/datastores/d/listSecrets",
            f"{ML}/workspaces/datastores/listSecrets/action",
        ),
        (
            "POST",
            f"{PROJECT}/onlineEndpoints/e/deployments/d/getLogs",
            f"{ML}/workspaces/onlineEndpoints/deployments/getLogs/action",
        ),
        ("GET", f"{PROJECT}/onlineEndpoints/e/{MONITOR}", "Microsoft.Insights/metrics/read"),
        (
            "GET",
            f"/subscriptions/s/providers/{ML}/locations/eastus2/usages",
            f"{ML}/locations/usages/read",
        ),
        (
            "GET",
            "/subscriptions/s/providers/Microsoft.Network",
            "Microsoft.Resources/subscriptions/providers/read",
        ),
        (
            "POST",
            "/subscriptions/s/providers/Microsoft.Network/register",
            "Microsoft.Network/register/action",
        ),
        (
            "GET",
            f"/mlflow/v2.0{PROJECT}/api/2.0/mlflow/runs/get",
            f"{ML}/workspaces/experiments/runs/read",
        ),
    ],
)
def test_a_request_needs_the_action_of_its_path(method, path, action):
    assert needed_actions(method, path) == (action,)


@pytest.mark.parametrize(
    "path",
    [
        "/subscriptions/s",
        "/tenant/oauth2/v2.0/token",
        f"/subscriptions/s/providers/{ML}/locations/l/mfeOperationsStatus/o",
        "/mferp/managementfrontend/subscriptions/a/resourceGroups/b/providers/x/registries/azureml",
    ],
)
def test_what_no_role_is_asked_for(path):
    assert needed_actions("GET", path) == ()


def test_a_template_needs_what_it_creates():
    options = {"storageAccountOption": {"value": "new"}, "keyVaultOption": {"value": "existing"}}
    path = f"{GROUP}/providers/Microsoft.Resources/deployments/d"
    assert needed_actions("PUT", path, {"properties": {"parameters": options}}) == (
        "Microsoft.Resources/deployments/write",
        f"{ML}/workspaces/write",
        "Microsoft.Storage/storageAccounts/write",
    )


def test_what_is_posted_is_no_part_of_the_scope():
    assert scope_of(f"{PROJECT}/jobs/j/cancel", "POST") == f"{PROJECT}/jobs/j"
    assert scope_of(PROJECT, "GET") == PROJECT
    assert scope_of(f"/history/v1.0{PROJECT}/runs/r/details", "GET") == f"{PROJECT}/runs/r/details"


@pytest.mark.parametrize(
    ("pattern", "granted"),
    [
        ("*", True),
        (f"{ML}/workspaces/*/write".lower(), True),
        (f"{ML}/workspaces/*/read", False),
        (f"{ML}/*", True),
        (f"{ML}/workspaces/write/", False),
        ("Microsoft.Storage/*", False),
    ],
)
def test_patterns(pattern, granted):
    assert matches(pattern, f"{ML}/workspaces/write") is granted


def test_what_one_role_takes_back_another_may_grant():
    action = f"{ML}/workspaces/write"
    developer = {"actions": [f"{ML}/workspaces/*/write"], "notActions": [action]}
    assert not is_granted([developer], action)
    assert is_granted([developer], f"{ML}/workspaces/jobs/write")
    assert is_granted([developer, {"actions": [action], "notActions": []}], action)
