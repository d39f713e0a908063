"""What is refused before anything is read or sent to Foundry."""

import pytest

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.words import TrainWord
from mlflow_phi3.emulator.settings import SUBSCRIPTION
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.workflows.foundry import check

TUNED = "microsoft/Phi-4-mini-instruct"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch, tmp_path):
    """A process that nothing leads to a project."""
    monkeypatch.chdir(tmp_path)
    for name in ("SUBSCRIPTION_ID", "RESOURCE_GROUP"):
        monkeypatch.delenv(f"AZURE_{name}", raising=False)
    monkeypatch.delenv("AZUREML_WORKSPACE_NAME", raising=False)


def checked(model, target="azure-foundry"):
    values = {"backend": "foundry", "model": model, "azure_target": target}
    return check(parse_values(TrainWord, values))


def test_a_retired_model_is_told_before_a_project_that_is_not():
    with pytest.raises(PreflightError, match="retired in Foundry on 2025-08-30"):
        checked("microsoft/Phi-3-mini-4k-instruct")
    with pytest.raises(PreflightError, match="PHI3-P711"):
        checked(TUNED)


def test_the_demo_goes_to_the_emulator_however_that_is_named():
    with pytest.raises(PreflightError, match="PHI3-P771"):
        checked("demo", "azure-foundry:/a/b/c")
    for target in ("azure-foundry:/local", f"azure-foundry:/{SUBSCRIPTION}/local/phi3"):
        assert checked("demo", target).base.hub_id == TUNED
    assert not checked(TUNED, "azure-foundry:/a/b/c").place.emulated
