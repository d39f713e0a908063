"""Jobs as Azure describes them, also those that others have submitted."""

import pytest

from mlflow_phi3.azure.finetuning import JobService
from mlflow_phi3.errors import UsageError
from tests.unit.azure.test_pipeline import GONE, MemoryClient


def described(**properties):
    details = {"modelProvider": "Custom", "hyperParameters": {"num_train_epochs": 2}}
    known = {"jobType": "FineTuning", "status": "Running", "fineTuningDetails": details}
    return 200, {"name": "j", "properties": {**known, **properties}}


def test_a_job_is_told_in_one_request_with_texts_for_hyperparameters():
    client = MemoryClient(described())
    found = JobService(client).get("j/?x")
    assert (found.name, found.status, found.hyperparameters) == (
        "j",
        "Running",
        {"num_train_epochs": "2"},
    )
    assert client.urls == ["https://arm/project/jobs/j%2F%3Fx?api-version=2024-10-01-preview"]
    assert JobService(MemoryClient(GONE)).get("j") is None


@pytest.mark.parametrize(
    ("properties", "kind"),
    [
        ({"jobType": "Command", "fineTuningDetails": None}, "Command"),
        ({"fineTuningDetails": {"modelProvider": "AzureOpenAI"}}, "FineTuning AzureOpenAI"),
    ],
)
def test_a_job_of_another_kind_is_named_as_such(properties, kind):
    with pytest.raises(UsageError, match=rf"PHI3-U788 job j: .*another kind: {kind}\. Fix"):
        JobService(MemoryClient(described(**properties))).get("j")
