from importlib.metadata import entry_points

import pytest
from mlflow.exceptions import MlflowException
from mlflow.projects.backend.loader import load_backend

from mlflow_phi3.errors import UsageError
from mlflow_phi3.plugins.project_backend import FoundryBackend, to_values


def test_mlflow_finds_it_by_name():
    assert [e.value for e in entry_points(group="mlflow.project_backend")]
    assert isinstance(load_backend("azure-foundry"), FoundryBackend)


def test_parameters_and_configuration_become_those_of_train():
    mlflows = {"ENV_MANAGER": "local", "SYNCHRONOUS": True, "STORAGE_DIR": None}
    values = to_values("main", {"epochs": 2, "train_data": ""}, {"detach": True, **mlflows})

    assert values == {"detach": "True", "epochs": "2", "backend": "foundry"}


@pytest.mark.parametrize(
    ("entry_point", "params", "config", "said"),
    [
        ("evaluate", {}, {}, "U782"),
        ("main", {"epoch": "2"}, {}, "did you mean 'epochs'"),
        ("main", {}, {"azure_targt": "x"}, "did you mean 'azure_target'"),
    ],
)
def test_what_has_no_meaning_is_refused_before_a_run_is_made(entry_point, params, config, said):
    with pytest.raises(UsageError, match=said):
        to_values(entry_point, params, config)
    with pytest.raises(MlflowException, match=said):
        FoundryBackend().run(".", entry_point, params, None, config, "sqlite://", "0")
