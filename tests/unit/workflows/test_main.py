"""What the whole way says at its end, and when it is stopped."""

import pytest

from mlflow_phi3.errors import Interrupted
from mlflow_phi3.workflows.main import how_to_look
from mlflow_phi3.workflows.sweep import _brief, _continuable


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ("sqlite:////a/mlflow.db", "mlflow ui --backend-store-uri sqlite:////a/mlflow.db"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("https://me:secret@mlflow/x", "https://me:***@mlflow/x"),
        ("postgresql://me:secret@db/m", "mlflow ui --backend-store-uri postgresql://me:***@db/m"),
    ],
)
def test_how_to_look_opens_that_store_and_tells_no_password(store, told):
    assert how_to_look(store) == told


def test_a_stopped_sweep_says_how_it_goes_on():
    with pytest.raises(Interrupted) as caught, _continuable("s1"):
        raise Interrupted("PHI3-T001", "stopped by SIGINT")

    assert "study=s1" in caught.value.__notes__[0]


def test_small_rates_are_shown_in_one_notation():
    assert [_brief(rate) for rate in (1.14e-4, 8.7e-5, 0.25, 32.0, 2, "linear")] == [
        "1.14e-04", "8.70e-05", "0.25", "32", "2", "linear",
    ]  # fmt: skip
