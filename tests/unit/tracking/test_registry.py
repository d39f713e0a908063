"""Names of registered models."""

import pytest
from mlflow.exceptions import MlflowException

from mlflow_phi3.tracking.registry import ensure_registered


def test_a_name_with_a_quote_is_found_again(tracker):
    for _ in range(2):
        ensure_registered(tracker.client, "it's mine")
    assert tracker.client.get_registered_model("it's mine").name == "it's mine"


def test_why_a_name_is_refused_is_told(tracker):
    with pytest.raises(MlflowException, match="Invalid model name 'a/b'"):
        ensure_registered(tracker.client, "a/b")
