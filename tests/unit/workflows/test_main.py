"""What the whole way says at its end."""

import pytest

from mlflow_phi3.tracking.run import Run
from mlflow_phi3.workflows.main import how_to_look


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ("sqlite:////a/mlflow.db", "mlflow ui --backend-store-uri sqlite:////a/mlflow.db"),
        ("http://mlflow:5000", "http://mlflow:5000/#/experiments/7/runs/abc"),
        ("https://me:secret@mlflow/x/", "https://me:***@mlflow/x/#/experiments/7/runs/abc"),
        ("postgresql://me:secret@db/m", "mlflow ui --backend-store-uri postgresql://me:***@db/m"),
    ],
)
def test_how_to_look_opens_that_store_and_tells_no_password(store, told):
    assert how_to_look(store, Run(None, "abc", "7", "main", "")) == told
