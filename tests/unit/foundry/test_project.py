import pytest

from mlflow_phi3.azure.target import Target
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION, WORKSPACE
from mlflow_phi3.foundry.project import find_place


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A process that no variable and no ``config.json`` leads to a project."""
    monkeypatch.chdir(tmp_path)
    for name in ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_whether_a_project_is_the_emulators_is_told_by_its_subscription(environment):
    spelled = f"azure-foundry:/{SUBSCRIPTION}/{GROUP}/{WORKSPACE}"
    assert find_place("azure-foundry:/local").emulated
    assert find_place(spelled).emulated
    assert not find_place("azure-foundry:/a/b/c").emulated

    environment.setenv("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION)
    environment.setenv("AZURE_RESOURCE_GROUP", "mine")
    environment.setenv("AZUREML_WORKSPACE_NAME", "phi")

    assert find_place("azure-foundry").emulated
    assert find_place("azure-foundry").target == Target(SUBSCRIPTION, "mine", "phi")
    assert not find_place("azure-foundry:/a/b/c").emulated  # whatever the environment says
    here = Target(SUBSCRIPTION, GROUP, WORKSPACE)
    assert find_place("azure-foundry:/local").target == here
