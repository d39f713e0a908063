import json

import pytest

from mlflow_phi3.azure.names import acceptable, check_name, endpoint_for, region_name
from mlflow_phi3.azure.target import Target, find_target, flag, is_local
from mlflow_phi3.errors import PreflightError, UsageError

FULL = {
    "AZURE_SUBSCRIPTION_ID": "s",
    "AZURE_RESOURCE_GROUP": "g",
    "AZUREML_WORKSPACE_NAME": "p",
}


def test_a_full_uri_needs_no_environment(tmp_path):
    assert find_target("azure-foundry:/a/b/c", FULL, tmp_path) == Target("a", "b", "c")


def test_resource_ids():
    target = Target("a", "b", "c")
    assert target.subscription_path == "/subscriptions/a"
    assert target.group_path == "/subscriptions/a/resourceGroups/b"
    machine_learning = f"{target.group_path}/providers/Microsoft.MachineLearningServices"
    assert target.path == f"{machine_learning}/workspaces/c"


def test_a_regions_name_is_written_as_interfaces_have_it():
    assert region_name("East US 2") == region_name(" eastus2") == "eastus2"


def test_what_the_uri_leaves_out_comes_from_the_environment_then_from_config_json(tmp_path):
    assert find_target("azure-foundry", FULL, tmp_path) == Target("s", "g", "p")
    config = {"subscription_id": "s2", "resource_group": "g2", "workspace_name": "p2"}
    below = tmp_path / "deep" / "down"
    (below / ".azureml").mkdir(parents=True)
    for place in (tmp_path, below / ".azureml"):
        (place / "config.json").write_text(json.dumps(config))
        for others in ('{"other": "program"}', '["subscription_id"]', "subscription_id"):
            (below / "config.json").write_text(others)
            assert find_target("azure-foundry", {}, below) == Target("s2", "g2", "p2")
        (tmp_path / "config.json").unlink(missing_ok=True)
    assert find_target("azure-foundry", {"AZURE_RESOURCE_GROUP": "g"}, below).group == "g"
    names = ("SUBSCRIPTION", "RESOURCEGROUP", "WORKSPACE_NAME")
    older = {f"AZUREML_ARM_{name}": name for name in names}
    assert find_target("azure-foundry", older, below) == Target(*names)


def test_what_is_told_nowhere_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"other": "program"}')
    untold = {**FULL, "AZURE_RESOURCE_GROUP": "", "AZUREML_WORKSPACE_NAME": ""}
    told = r"tell group, project\. Fix: set AZURE_RESOURCE_GROUP, AZUREML_WORKSPACE_NAME, "
    with pytest.raises(PreflightError, match=told) as raised:
        find_target("azure-foundry", untold, tmp_path)
    assert "azure-foundry:/local" in str(raised.value)


@pytest.mark.parametrize("uri", ["azure-foundry:/a", "azure-foundry:/a/b/c/d", "azureml", ""])
def test_other_uris_are_refused(uri, tmp_path):
    with pytest.raises(UsageError, match="PHI3-U711"):
        find_target(uri, FULL, tmp_path)


def test_another_command_is_led_to_the_same_project():
    assert flag("azure-foundry") == ""
    assert flag("azure-foundry:/local") == " -t azure-foundry:/local"
    assert flag("azure-foundry:/a/b(1)/c") == " -t 'azure-foundry:/a/b(1)/c'"


def test_local():
    assert is_local("azure-foundry:/local")
    assert not is_local("azure-foundry:/a/b/local")
    assert not is_local("azure-foundry")


@pytest.mark.parametrize("name", ["ab", "1chat", "chat-", "chat_1", "c" * 33, "", "chät"])
def test_names_that_azure_refuses_are_refused_with_one_that_it_takes(name):
    with pytest.raises(UsageError, match="PHI3-U717"):
        check_name(name, "--name")
    assert check_name(acceptable(name), "--name")


def test_an_endpoint_is_called_after_its_model():
    assert endpoint_for("phi3-chat") == "chat"
    assert endpoint_for("phi3-classifier") == "classifier"
    assert endpoint_for("my_bot 2") == "my-bot-2"
