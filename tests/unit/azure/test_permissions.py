"""Whether permissions, as Azure tells them, grant actions."""

import pytest

from mlflow_phi3.azure.permissions import STEPS, missing_actions

_ML = "Microsoft.MachineLearningServices/workspaces"


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        ([{"actions": ["*"]}], False),
        ([{"actions": ["microsoft.machinelearningservices/WORKSPACES/*/write"]}], False),
        ([{"actions": [f"{_ML}/*"], "notActions": [f"{_ML}/jobs/*"]}], True),
        # What one role leaves out another may grant: notActions is no denial.
        ([{"actions": ["*"], "notActions": [f"{_ML}/jobs/write"]}, {"actions": ["*"]}], False),
        ([{"actions": [f"{_ML}/jobs/read"]}], True),
        ([{"actions": ["Microsoft.MachineLearningServices"]}], True),
        ([], True),
    ],
)
def test_wildcards_and_what_is_left_out(granted, missing):
    action = f"{_ML}/jobs/write"
    assert missing_actions(granted, [action]) == ((action,) if missing else ())


def test_actions_are_named_as_azure_names_them():
    for actions in STEPS.values():
        assert len(set(actions)) == len(actions)
        for action in actions:
            assert action.startswith("Microsoft.")
            assert action.rsplit("/", 1)[1] in {"read", "write", "delete", "action"}
